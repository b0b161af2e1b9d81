#!/usr/bin/env python3
"""Makes the *.sparse files beside it from the images that make.sh made. A file says

    length BYTES                     of the file system
    kernel mounts|refused            when it may not write to the device
    OFFSET HEX                       bytes; what is not listed is zero
    each OFFSET COUNT HEX            so many blocks of 512 bytes that begin with these

Of the log of an XFS that is the cycle of every block, and what a reader of the last records looks at.

Usage: make.py DIR
"""
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
RECORD = 0xFEEDBABE
NEAR = 600  # blocks before the head whose records are kept in full: more than the longest padded record


def rows(image, ranges):
    for start, length in ranges:
        for at in range(start, start + length, 32):
            data = image[at : at + min(32, start + length - at)].rstrip(b"\0")
            if data:
                yield f"{at} {data.hex()}"


def xfs_log(image):
    (block_size,) = struct.unpack_from(">I", image, 4)
    (first,) = struct.unpack_from(">Q", image, 48)
    (group_blocks,) = struct.unpack_from(">I", image, 84)
    (count,) = struct.unpack_from(">I", image, 96)
    group_log = image[124]
    start = ((first >> group_log) * group_blocks + (first & ((1 << group_log) - 1))) * block_size
    blocks = count * block_size // 512
    words = [struct.unpack_from(">II", image, start + block * 512) for block in range(blocks)]
    cycles = [second if word == RECORD else word for word, second in words]
    head = next((block for block in range(blocks) if cycles[block] != cycles[0]), 0)
    first_words = [(word, second) if word == RECORD else (word,) for word, second in words]
    runs = []
    for block, these in enumerate(first_words):
        if runs and runs[-1][2] == these:
            runs[-1][1] += 1
        else:
            runs.append([block, 1, these])
    for block, length, these in runs:
        if any(these):
            yield f"each {start + block * 512} {length} {''.join(f'{word:08x}' for word in these)}"
    for block, (word, _) in enumerate(words):
        at = start + block * 512
        is_record = word == RECORD and image[at + 40 : at + 44] != bytes(4)
        if is_record and (head - block) % blocks <= NEAR:
            (size,) = struct.unpack_from(">I", image, at + 320)
            body = at + max(1, -(-size // 32768)) * 512
            yield from rows(image, [(at + 8, 8), (at + 40, 4), (at + 320, 4), (body + 4, 8)])


def main():
    directory = sys.argv[1]
    for line in open(os.path.join(directory, "truth")):
        name, verdict = line.split()
        image = open(os.path.join(directory, f"{name}.img"), "rb").read()
        ranges = [(65536, 4096)] if name.startswith("btrfs") else [(0, 512)] if name.startswith("xfs") else [(1024, 1024)]
        lines = list(rows(image, ranges))
        if name.startswith("xfs"):
            lines += xfs_log(image)
        with open(os.path.join(HERE, f"{name}.sparse"), "w") as file:
            file.write("\n".join([f"length {len(image)}", f"kernel {verdict}", *lines]) + "\n")


main()
