#!/bin/sh
# Sourced by dracut when the root is to be mounted: a directory that a tar was unpacked into, root=bind:/DIRECTORY.
case ${root:-} in
bind:/*)
    # A bind mount takes 'ro' only when it is mounted once more.
    if mount --bind "${root#bind:}" "$NEWROOT" && ! getargbool 0 rw; then
        mount -o remount,bind,ro "$NEWROOT"
    fi
    ;;
esac
