#!/bin/bash
# Makes file systems that were in use when they were copied, and some that were not, and says of each what the kernel does
# when it has to mount it read-only from a device that it may not write to: DIR/NAME.img and DIR/truth ('NAME mounts' or
# 'NAME refused'). Needs root, loop devices, and a kernel with ext4, btrfs and XFS: a virtual machine.
#
# Usage: make.sh DIR
set -eu
out=$1
uuid=6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c
work=$(mktemp -d) && cd "$work" && mkdir m
# mkfs.xfs makes file systems of less than 300 MiB for its own tests alone.
export TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1

keep() { cp --sparse=always "$1" "$out/$2.img"; }
files() { for i in $(seq 1 "$1"); do dd if=/dev/urandom of=m/f$i bs=4k count=1 status=none; done; sync; }

truncate -s 16M e && mkfs.ext4 -q -U $uuid e
mount -o loop e m && echo hello >m/a && sync && keep e ext4-dirty
umount m && keep e ext4-used
debugfs -w -R 'set_super_value last_orphan 13' e && keep e ext4-orphan

truncate -s 128M b && mkfs.btrfs -q -U $uuid b
mount -o loop b m && echo hello >m/a && sync && echo more >m/b && sync m/b && keep b btrfs-dirty
umount m && keep b btrfs-used

truncate -s 320M x && mkfs.xfs -q -m uuid=$uuid x && keep x xfs-fresh
mount -o loop x m && files 5 && keep x xfs-dirty
umount m && keep x xfs-used
mount -o loop x m && touch m/frozen && xfs_freeze -f m && keep x xfs-frozen
xfs_freeze -u m && umount m

truncate -s 320M s && mkfs.xfs -q -m uuid=$uuid -s size=4096 -l su=256k s
mount -o loop s m && files 3 && keep s xfs-stripe-dirty
umount m && keep s xfs-stripe-used

truncate -s 320M v && mkfs.xfs -q -m uuid=$uuid,crc=0 v
mount -o loop v m && files 3 && keep v xfs-v4-dirty
umount m && keep v xfs-v4-used

# The log has 5.4 MiB: written round and round.
truncate -s 64M w && mkfs.xfs -q -m uuid=$uuid w && mount -o loop w m && files 1500
for round in $(seq 1 14); do touch -d @$((1700000000 + round * 1000)) m/f* && sync; done
keep w xfs-wrapped-dirty
umount m && keep w xfs-wrapped-used

rm -f "$out/truth"
for image in "$out"/*.img; do
    device=$(losetup -r -f --show "$image")
    verdict=refused
    if mount -t "$(blkid -p -o value -s TYPE "$device")" -o ro "$device" m 2>/dev/null; then umount m; verdict=mounts; fi
    losetup -d "$device"
    echo "$(basename "$image" .img) $verdict" >>"$out/truth"
done
