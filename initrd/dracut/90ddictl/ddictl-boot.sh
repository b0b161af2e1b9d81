#!/bin/sh
# Sourced by dracut, again and again, while it waits for the root and udev has nothing to do.

# shellcheck source=initrd/functions
. /usr/lib/ddictl/initrd-functions

if [ ! -e /tmp/ddictl.done ]; then
    ddictl_read_command_line
    if [ -n "$ddictl_asked" ] && [ ! -e /tmp/ddictl.checked ]; then
        ddictl_load_modules
        # What is wrong already shall not wait for the network.
        ddictl_boot --check || die "ddictl: the boot stops here: $(ddictl_reason)"
        : >/tmp/ddictl.checked
    fi
    if [ -z "$ddictl_asked" ]; then
        : >/tmp/ddictl.done
    elif [ -z "$ddictl_network" ] || [ -e /tmp/ddictl.online ]; then
        ddictl_boot || die "ddictl: the boot stops here: $(ddictl_reason)"
        : >/tmp/ddictl.done
    fi
fi
