#!/usr/bin/env python3
"""Makes the *.sparse files beside it: what the superblock probe reads of real file systems.

Needs root for LVM alone (a loop device); everything else is made in plain files. What no tool of the machine makes
(md without a kernel that has it, ISO 9660, UDF, NTFS, exFAT, bcache) is written here from the format's description,
and libblkid must recognise it before it counts. A file says

    length BYTES            of the partition
    blkid TYPE [VERSION]    what libblkid says it is
    OFFSET HEX              bytes; what is not listed is zero

Usage: make.py [NAME...]
"""
import os
import struct
import subprocess
import sys
import tempfile
import uuid


HERE = os.path.dirname(os.path.abspath(__file__))
KIB, MIB = 1 << 10, 1 << 20
UUID = "6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c"
PASSWORD = b"a passphrase of no worth"


def run(*arguments, **keywords):
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **keywords)


def ranges(length):
    """Everything that any probe may ask for, and some more."""
    yield 0, 8 * KIB
    for page in (16384, 32768, 65536):
        yield page - 10, 10
    yield 32 * KIB, 64
    yield 64 * KIB, 4 * KIB
    yield (length & ~0xFFFF) - 64 * KIB, 64
    yield (length - 8 * KIB) & ~0xFFF, 256
    yield length - 4 * KIB, 4 * KIB


def tool(*arguments, size=None):
    """A file system made by a tool that is given the file's name."""

    def make(path, sources):
        if size is not None:
            with open(path, "wb") as file:
                file.truncate(size)
        run(*[{"FILE": path, "TREE": sources}.get(word, word) for word in arguments])

    return make


def luks(*arguments):
    def make(path, _sources):
        with open(path, "wb") as file:
            file.truncate(32 * MIB)
        run("cryptsetup", "luksFormat", "--batch-mode", "--uuid", UUID, *arguments, path, "-", input=PASSWORD)

    return make


def lvm(path, _sources):
    with open(path, "wb") as file:
        file.truncate(16 * MIB)
    loop = subprocess.check_output(["losetup", "--find", "--show", path], text=True).strip()
    try:
        run("pvcreate", "--yes", "--config", f'devices {{ filter = ["a|^{loop}$|", "r|.*|"] }}', loop)
    finally:
        run("losetup", "--detach", loop)


def bytes_at(size, pieces):
    """A file with these (offset, bytes)."""

    def make(path, _sources):
        with open(path, "wb") as file:
            file.truncate(size)
            for offset, data in pieces:
                file.seek(offset)
                file.write(data)

    return make


def md_1(offset):
    # include/uapi/linux/raid/md_p.h, struct mdp_superblock_1; the checksum folds the sum of 32-bit words.
    block = bytearray(256 + 2 * 1)
    struct.pack_into("<III", block, 0, 0xA92B4EFC, 1, 0)
    block[16:32] = uuid.UUID(UUID).bytes
    block[32:36] = b"demo"
    struct.pack_into("<iiQII", block, 72, 1, 0, 1024, 0, 2)
    struct.pack_into("<QQQ", block, 128, 2048, 1024, offset // 512)
    struct.pack_into("<I", block, 220, 1)
    total = sum(struct.unpack_from("<64I", block)) + struct.unpack_from("<H", block, 256)[0]
    struct.pack_into("<I", block, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
    return offset, bytes(block)


def md_0_90(size):
    block = bytearray(4096)
    struct.pack_into("<IIIII", block, 0, 0xA92B4EFC, 0, 90, 0, 0)
    struct.pack_into("<I", block, 152, sum(struct.unpack("<1024I", block)) & 0xFFFFFFFF)
    return (size & ~0xFFFF) - 64 * KIB, bytes(block)


def iso():
    primary = bytearray(2048)
    primary[0:7] = b"\x01CD001\x01"
    primary[40:72] = b"LABEL".ljust(32)
    primary[80:88] = struct.pack("<I", 256) + struct.pack(">I", 256)
    primary[128:132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    return [(32768, bytes(primary)), (32768 + 2048, b"\xffCD001\x01")]


def udf():
    def tag(identifier, location, block):
        struct.pack_into("<HHBBHHHI", block, 0, identifier, 2, 0, 0, 0, 0, 0, location)
        block[4] = (sum(block[:4]) + sum(block[5:16])) & 0xFF
        return bytes(block)

    anchor = bytearray(512)
    struct.pack_into("<II", anchor, 16, 16 * 2048, 257)
    primary = bytearray(512)
    primary[24:33] = b"\x08ABCDEFGH"
    primary[55] = 9
    return [
        (32768, b"\x00BEA01\x01"),
        (32768 + 2048, b"\x00NSR02\x01"),
        (32768 + 4096, b"\x00TEA01\x01"),
        (256 * 2048, tag(2, 256, anchor)),
        (257 * 2048, tag(1, 257, primary)),
        (258 * 2048, tag(8, 258, bytearray(512))),
    ]


def ntfs():
    boot = bytearray(512)
    boot[0:11] = b"\xeb\x52\x90NTFS    "
    struct.pack_into("<HB", boot, 11, 512, 8)
    boot[21] = 0xF8
    struct.pack_into("<QQQ", boot, 40, 32767, 4, 8)
    boot[64], boot[68] = 0xF6, 1
    boot[510:512] = b"\x55\xaa"
    record = bytearray(1024)
    record[0:4] = b"FILE"
    return [(0, bytes(boot)), (4 * 4096, bytes(record)), (7 * 4096, bytes(record)), (4 * 4096 + 3072, bytes(record))]


def exfat():
    boot = bytearray(512)
    boot[0:11] = b"\xeb\x76\x90EXFAT   "
    struct.pack_into("<QQ", boot, 64, 0, 32768)
    struct.pack_into("<IIIIII", boot, 80, 128, 64, 256, 4000, 4, 0x12345678)
    struct.pack_into("<H", boot, 104, 0x0100)
    boot[108:111] = bytes((9, 3, 1))
    boot[510:512] = b"\x55\xaa"
    region = bytearray(12 * 512)
    region[0:512] = boot
    for sector in range(1, 9):
        region[sector * 512 + 508 : sector * 512 + 512] = b"\x00\x00\x55\xaa"
    total = 0
    for index in range(11 * 512):
        if index not in (106, 107, 112):
            total = (((total << 31) & 0xFFFFFFFF) + (total >> 1) + region[index]) & 0xFFFFFFFF
    region[11 * 512 :] = struct.pack("<I", total) * 128
    return [(0, bytes(region))]


def crc64_be(data):
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc ^= byte << 56
        for _ in range(8):
            crc = ((crc << 1) ^ 0x42F0E1EBA9EA3693) & (2**64 - 1) if crc >> 63 else crc << 1
    return crc ^ 0xFFFFFFFFFFFFFFFF


def bcache():
    block = bytearray(208)
    struct.pack_into("<QQ", block, 8, 8, 1)
    block[24:40] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    block[40:56] = uuid.UUID(UUID).bytes
    struct.pack_into("<Q", block, 0, crc64_be(bytes(block[8:])))
    return [(4096, bytes(block))]


def nested_gpt(path, _sources):
    with open(path, "wb") as file:
        file.truncate(4 * MIB)
    run("sfdisk", path, input=f"label: gpt\nlabel-id: {UUID}\nstart=2048, size=2048\n".encode())


FIXTURES = {
    "ext2": tool("mkfs.ext2", "-q", "-U", UUID, "-L", "label", "FILE", size=4 * MIB),
    "ext3": tool("mkfs.ext3", "-q", "-U", UUID, "FILE", size=16 * MIB),
    "ext4": tool("mkfs.ext4", "-q", "-U", UUID, "FILE", size=16 * MIB),
    "ext4-1k": tool("mkfs.ext4", "-q", "-b", "1024", "-U", UUID, "FILE", size=4 * MIB),
    "ext4-32bit": tool("mkfs.ext4", "-q", "-O", "^64bit,^metadata_csum", "-U", UUID, "FILE", size=16 * MIB),
    "ext4-bigalloc": tool("mkfs.ext4", "-q", "-O", "bigalloc", "-C", "262144", "-U", UUID, "FILE", size=16 * MIB),
    "ext4-no-journal": tool("mkfs.ext4", "-q", "-O", "^has_journal", "-U", UUID, "FILE", size=16 * MIB),
    "ext4-15t": tool("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1", "-N", "64", "-G", "1048576",
                     "-O", "^has_journal,^resize_inode", "-m", "0", "-U", UUID, "FILE", size=15 << 40),
    "jbd": tool("mkfs.ext4", "-q", "-O", "journal_dev", "-U", UUID, "FILE", size=16 * MIB),
    "btrfs": tool("mkfs.btrfs", "-q", "-U", UUID, "FILE", size=128 * MIB),
    "xfs": tool("mkfs.xfs", "-q", "-m", f"uuid={UUID}", "FILE", size=320 * MIB),
    "xfs-4k": tool("mkfs.xfs", "-q", "-s", "size=4096", "-m", f"uuid={UUID}", "FILE", size=320 * MIB),
    "xfs-v4": tool("mkfs.xfs", "-q", "-m", f"crc=0,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0,uuid={UUID}",
                   "FILE", size=320 * MIB),
    "f2fs": tool("mkfs.f2fs", "-q", "FILE", size=64 * MIB),
    "squashfs": tool("mksquashfs", "TREE", "FILE", "-noappend", "-all-root", "-mkfs-time", "0"),
    "squashfs-zstd-1m": tool("mksquashfs", "TREE", "FILE", "-noappend", "-all-root", "-mkfs-time", "0", "-comp", "zstd", "-b", "1M"),
    "erofs": tool("mkfs.erofs", "-T0", "-U", UUID, "FILE", "TREE"),
    "erofs-lz4": tool("mkfs.erofs", "-T0", "-zlz4", "-U", UUID, "FILE", "TREE"),
    "fat12": tool("mkfs.vfat", "-i", "12345678", "FILE", size=2 * MIB),
    "fat16": tool("mkfs.vfat", "-F", "16", "-i", "12345678", "FILE", size=32 * MIB),
    "fat32": tool("mkfs.vfat", "-F", "32", "-i", "12345678", "-n", "ESP", "FILE", size=64 * MIB),
    "fat32-4k": tool("mkfs.vfat", "-F", "32", "-S", "4096", "-i", "12345678", "FILE", size=512 * MIB),
    "swap": tool("mkswap", "-q", "-U", UUID, "FILE", size=MIB),
    "swap-64k": tool("mkswap", "-q", "-p", "65536", "-U", UUID, "FILE", size=4 * MIB),
    "luks1": luks("--type", "luks1", "--pbkdf-force-iterations", "1000"),

    "luks2": luks("--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "1024",
                  "--pbkdf-parallel", "1"),
    "luks2-pbkdf2": luks("--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--label", "name"),
    "verity": tool("sh", "-c", f'head -c 65536 /dev/zero >"$0.data"; veritysetup format --uuid={UUID} --salt=abcdef "$0.data" "$0"', "FILE"),
    "cramfs": tool("mkfs.cramfs", "TREE", "FILE"),
    "lvm2": lvm,
    "md-0.90": bytes_at(2 * MIB + 12345 * 512, [md_0_90(2 * MIB + 12345 * 512)]),
    "md-1.0": bytes_at(2 * MIB + 512, [md_1((2 * MIB + 512 - 8 * KIB) & ~0xFFF)]),
    "md-1.1": bytes_at(2 * MIB, [md_1(0)]),
    "md-1.2": bytes_at(2 * MIB, [md_1(4096)]),
    "iso9660": bytes_at(MIB, iso()),
    "udf": bytes_at(2 * MIB, udf()),
    "ntfs": bytes_at(16 * MIB, ntfs()),
    "exfat": bytes_at(16 * MIB, exfat()),
    "bcache": bytes_at(2 * MIB, bcache()),
    "gpt": nested_gpt,
}


def blkid(path):
    answer = subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=False).stdout
    found = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    kind = found.get("TYPE") or found.get("PTTYPE") or "nothing"
    return kind + (" " + found["VERSION"] if "VERSION" in found else "")


def main():
    with tempfile.TemporaryDirectory() as work:
        tree = os.path.join(work, "tree")
        os.makedirs(os.path.join(tree, "etc"))
        with open(os.path.join(tree, "etc", "os-release"), "w") as file:
            file.write("ID=demo\n" * 4000)
        for name, make in FIXTURES.items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            path = os.path.join(work, name)
            try:
                make(path, tree)
            except (subprocess.CalledProcessError, FileNotFoundError, OSError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            length = os.path.getsize(path)
            rows = {}
            with open(path, "rb") as file:
                for start, count in ranges(length):
                    for offset in range(max(start, 0), min(start + count, length), 32):
                        file.seek(offset)
                        data = file.read(min(32, start + count - offset, length - offset))
                        if any(data):
                            stripped = data.rstrip(b"\0")
                            rows[offset] = stripped
            with open(os.path.join(HERE, name + ".sparse"), "w") as out:
                out.write(f"length {length}\nblkid {blkid(path)}\n")
                for offset, data in sorted(rows.items()):
                    out.write(f"{offset} {data.hex()}\n")
            print(name, length, blkid(path), len(rows))
            os.unlink(path)


if __name__ == "__main__":
    main()
