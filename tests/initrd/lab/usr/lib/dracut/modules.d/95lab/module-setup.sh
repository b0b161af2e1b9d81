#!/bin/bash
# shellcheck disable=SC2154 # they are dracut's
# The web server of the tests.

# called by dracut
check() {
    return 255
}

# called by dracut
installkernel() {
    hostonly='' instmods dummy
}

# called by dracut
install() {
    inst_multiple busybox ip
    inst_hook pre-trigger 10 "$moddir/lab.sh"
}
