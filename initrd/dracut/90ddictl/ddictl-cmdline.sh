#!/bin/sh
# Sourced by dracut while it reads the kernel command line. What is written into cmdline.d counts as if it were on it.

# shellcheck source=initrd/functions
. /usr/lib/ddictl/initrd-functions

ddictl_read_command_line
if [ -n "$ddictl_asked" ]; then
    mkdir -p /etc/cmdline.d
    # The root is not on the network, and yet it is needed.
    [ -z "$ddictl_network" ] || echo rd.neednet=1 >/etc/cmdline.d/40-ddictl.conf
fi
# shellcheck disable=SC2034 # they are dracut's
if [ -n "$ddictl_asked" ]; then
    # Of this one dracut does not know that somebody else, with systemd a generator, mounts it.
    case ${root:-} in
    bind:/*) rootok=1 ;;
    esac
fi
if [ -n "$ddictl_asked" ] && [ -z "${DRACUT_SYSTEMD:-}" ]; then
    # shellcheck disable=SC2034 # it is dracut's
    case ${root:-} in
    gpt-auto) root=/dev/gpt-auto-root ;;
    esac
    # What lies below dm-verity or in memory is not to be repaired.
    case ${root:-} in
    /dev/disk/by-loop-ref/* | block:/dev/disk/by-loop-ref/* | /dev/gpt-auto-root)
        echo rd.skipfsck=1 >>/etc/cmdline.d/40-ddictl.conf
        ;;
    esac
fi
