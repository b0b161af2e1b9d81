#!/bin/sh
# Sourced by dracut while it reads the kernel command line.

# shellcheck source=initrd/functions
. /usr/lib/ddictl/initrd-functions

ddictl_read_command_line
if [ -n "$ddictl_network" ]; then
    # As if it were on the kernel command line: brings up the network although the root is not on it.
    mkdir -p /etc/cmdline.d
    echo rd.neednet=1 >/etc/cmdline.d/40-ddictl.conf
    unset CMDLINE
fi
# systemd's own generators know these.
# shellcheck disable=SC2034 # they are dracut's
if [ -n "$ddictl_asked" ] && [ -z "${DRACUT_SYSTEMD:-}" ]; then
    case ${root:-} in
    gpt-auto) root=/dev/gpt-auto-root ;;
    bind:/*) rootok=1 ;;
    esac
fi
