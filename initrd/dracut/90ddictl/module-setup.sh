#!/bin/bash
# shellcheck disable=SC2154 # initdir, moddir and more are dracut's
# ddictl in an initrd that dracut makes, for 'rd.systemd.pull=' on the kernel command line. With systemd its generator
# makes units of what is asked for; without, hooks run 'ddictl boot'. It is put in where it is asked for:
# add_dracutmodules+=" ddictl ". Without a trust anchor the initrd is not made: see initrd-contents.

# called by dracut
check() {
    # What is named but cannot be had is an error to dracut.
    require_binaries /usr/bin/ddictl || return 1
    [[ -x ${dracutsysrootdir-}/usr/lib/ddictl/initrd-contents ]] || return 1
    # Only where it is asked for.
    return 255
}

# called by dracut
depends() {
    # Without systemd the network is that of NetworkManager or dracut's own: its module network does not look.
    if ! dracut_module_included "systemd" && ! [[ -e ${dracutsysrootdir-}/usr/sbin/NetworkManager ]]; then
        echo -n "network-legacy "
    fi
    # A module of its own in newer versions.
    ! compgen -G "${dracutbasedir:-/usr/lib/dracut}/modules.d/[0-9][0-9]initqueue" >/dev/null || echo -n "initqueue "
    echo "network udev-rules rootfs-block"
    return 0
}

# called by dracut
installkernel() {
    # Drivers of network devices come with the module network; in a host-only initrd those of this machine.
    hostonly='' instmods loop dm_mod dm_verity sha256_generic sha512_generic sha256_ssse3 sha512_ssse3 \
        squashfs erofs ext4 btrfs vfat nls_cp437 nls_ascii nls_iso8859_1 overlay
}

# What makes the whole initrd fail: dracut goes on where a module's functions return an error.
ddictl_fail() {
    dfatal "ddictl: $1"
    exit 1
}

# called by dracut
install() {
    local _contents _file _name _line

    inst_binary /usr/bin/ddictl || ddictl_fail "cannot install /usr/bin/ddictl"
    # What looks up the names of servers, where the C library has it in files of its own.
    inst_libdir_file 'libnss_dns.so.*' 'libnss_files.so.*'

    mkdir -p "$initdir/usr/lib/udev"
    ln -sfn ../../bin/ddictl "$initdir/usr/lib/udev/ddictl-udev-helper"
    for _name in 59-ddictl.rules 61-ddictl.rules; do
        inst_rules "$_name"
        compgen -G "$initdir/*/udev/rules.d/$_name" >/dev/null || compgen -G "$initdir/usr/lib/udev/rules.d/$_name" >/dev/null \
            || ddictl_fail "there are no udev rules '$_name'"
    done

    if ! _contents=$("${dracutsysrootdir-}/usr/lib/ddictl/initrd-contents" --root="${dracutsysrootdir-}" 2>&1 >"$DRACUT_TMPDIR/ddictl-contents"); then
        while IFS= read -r _line; do
            dfatal "$_line"
        done <<<"$_contents"
        ddictl_fail "the initrd is not made"
    fi
    [[ -z $_contents ]] || dwarn "$_contents"
    while IFS= read -r _file; do
        inst_simple "$_file" || ddictl_fail "cannot install $_file"
    done <"$DRACUT_TMPDIR/ddictl-contents"

    # Nobody else may act on the same words of the kernel command line.
    mkdir -p "$initdir/etc/systemd/system-generators"
    ln -sfn /dev/null "$initdir/etc/systemd/system-generators/systemd-import-generator"
    # By this file ddictl and its udev rules know that they are in an initrd; dracut itself makes it for systemd.
    [[ -e $initdir/etc/initrd-release ]] \
        || printf 'ID=dracut\nNAME="dracut"\nPRETTY_NAME="initrd made by dracut"\n' >"$initdir/etc/initrd-release"

    inst_simple /usr/lib/ddictl/initrd-functions
    inst_hook cmdline 20 "$moddir/ddictl-cmdline.sh"
    if dracut_module_included "systemd"; then
        mkdir -p "$initdir/usr/lib/systemd/system-generators"
        ln -sfn ../../../bin/ddictl "$initdir/usr/lib/systemd/system-generators/ddictl-generator"
        # Where nothing says how the network is to be set up, and a pull is asked for, it is by DHCP.
        inst_simple "$moddir/zz-ddictl.network" /usr/lib/systemd/network/zz-ddictl.network
    else
        inst_hook initqueue/online 50 "$moddir/ddictl-online.sh"
        inst_hook initqueue/settled 50 "$moddir/ddictl-boot.sh"
        inst_hook initqueue/finished 50 "$moddir/ddictl-finished.sh"
        inst_hook mount 98 "$moddir/ddictl-mount.sh"
        dracut_need_initqueue
    fi
}
