#!/usr/bin/env python3
"""Makes geometry.txt: hash trees by `veritysetup format`, measured without any knowledge of their layout.

The root hash of the tool is looked for among the salted digests of all blocks of the hash file; the block that has it
is the topmost one. Its first digest is looked for in the same way, and so on down to the first data block. So a line
says: digest, block size, data blocks, size of the hash file, where each level begins.
"""
import hashlib
import os
import re
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SALT = b"salt"


def main():
    with tempfile.TemporaryDirectory() as work, open(os.path.join(HERE, "geometry.txt"), "w") as out:
        data, hashes = os.path.join(work, "data"), os.path.join(work, "hash")
        out.write("# digest, block size, data blocks, size of the hash file, where each level begins; by make.py\n")
        for name in ("sha256", "sha512"):
            for size in (512, 1024, 4096):
                for count in (1, 2, 128, 129, 16384, 16385):
                    with open(data, "wb") as file:
                        for block in range(count):
                            file.write(block.to_bytes(size, "little"))
                    if os.path.exists(hashes):
                        os.unlink(hashes)
                    answer = subprocess.check_output(
                        ["veritysetup", "format", f"--hash={name}", f"--data-block-size={size}", f"--hash-block-size={size}",
                         f"--salt={SALT.hex()}", data, hashes], text=True)
                    wanted = bytes.fromhex(re.search(r"Root hash:\s*([0-9a-f]+)", answer)[1])
                    with open(hashes, "rb") as file:
                        tree = file.read()
                    blocks = {hashlib.new(name, SALT + tree[at : at + size]).digest(): at for at in range(0, len(tree), size)}
                    first = hashlib.new(name, SALT + bytes(size)).digest()
                    levels = []
                    while wanted != first:
                        levels.append(blocks[wanted])
                        wanted = tree[levels[-1] : levels[-1] + len(wanted)]
                    out.write(" ".join(map(str, [name, size, count, len(tree), *levels])) + "\n")


if __name__ == "__main__":
    main()
