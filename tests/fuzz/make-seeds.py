#!/usr/bin/env python3
"""Makes the data of the fuzz targets, and adds seeds to their corpora.

    make-seeds.py keys     new keys, certificates and signatures in data/, and signatures as seeds for 'pkcs7';
                           the private keys are thrown away, so that nothing else is ever signed by them
    make-seeds.py seeds    seeds from what real tools wrote (tests/data), for every other target
    make-seeds.py fats     those for 'boot_entry' and 'fat' alone

What a fuzzer finds afterwards is kept beside them: see 'run'.
"""
import hashlib
import os
import re
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
ROOT = os.path.dirname(TESTS)
HASHES = {"root": hashlib.sha256(b"root").hexdigest(), "usr": hashlib.sha512(b"usr").hexdigest()}


def seed(target, name, content):
    directory = os.path.join(HERE, "corpus", target)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "seed-" + name), "wb") as file:
        file.write(content)


def openssl(*arguments, directory):
    subprocess.run(["openssl", *arguments], check=True, cwd=directory, stderr=subprocess.DEVNULL)


def read(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def keys():
    kinds = {"rsa": ["-newkey", "rsa:2048"], "curve": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, options in kinds.items():
            for who in "signer", "namesake", "stranger":
                openssl("req", "-x509", *options, "-nodes", "-subj", f"/CN={kind} signer", "-set_serial", "4711",
                        "-days", "9000", "-keyout", f"{kind}-{who}.key", "-out", f"{kind}-{who}.crt",
                        directory=scratch)
        for name, text in HASHES.items():
            with open(os.path.join(scratch, name + ".hash"), "w") as file:
                file.write(text)

        def sign(name, content, *options, tool="smime"):
            openssl(tool, "-sign", "-binary", "-outform", "DER", "-in", content + ".hash", *options,
                    "-out", name + ".der", directory=scratch)
            return read(scratch, name + ".der")

        def by(key, who="signer"):
            return ["-signer", f"{key}-{who}.crt", "-inkey", f"{key}-{who}.key"]

        for name in HASHES:
            signature = sign(name, name, *by("rsa"), "-noattr")
            seed("pkcs7", "plain-" + name, signature)
            with open(os.path.join(HERE, "data", name + ".der"), "wb") as file:
                file.write(signature)
            with open(os.path.join(HERE, "data", name + ".hash"), "w") as file:
                file.write(HASHES[name])
        seed("pkcs7", "curve", sign("x", "root", *by("curve"), "-noattr"))
        seed("pkcs7", "attributes", sign("x", "root", *by("curve")))
        seed("pkcs7", "attributes-rsa-sha512", sign("x", "usr", *by("rsa"), "-md", "sha512", "-nocerts"))
        seed("pkcs7", "no-certificates", sign("x", "root", *by("curve"), "-noattr", "-nocerts"))
        seed("pkcs7", "embedded-content", sign("x", "root", *by("curve"), "-noattr", "-nodetach"))
        seed("pkcs7", "stranger", sign("x", "root", *by("curve", "stranger"), "-noattr"))
        seed("pkcs7", "stranger-rsa", sign("x", "root", *by("rsa", "stranger"), "-noattr", "-nocerts"))
        seed("pkcs7", "two-signers", sign("x", "root", *by("curve"), *by("rsa"), "-noattr", "-nocerts"))
        seed("pkcs7", "right-and-wrong", sign("x", "root", *by("curve"), *by("rsa", "stranger"), "-nocerts"))
        seed("pkcs7", "weak-digest", sign("x", "root", *by("curve"), "-md", "sha1", "-noattr", "-nocerts"))
        seed("pkcs7", "cms-key-identifier", sign("x", "root", *by("curve"), "-keyid", "-nocerts", tool="cms"))
        for kind in kinds:
            for who in "signer", "namesake":
                with open(os.path.join(HERE, "data", f"{kind}-{who}.crt"), "wb") as file:
                    file.write(read(scratch, f"{kind}-{who}.crt"))


def number(value, size):
    return value.to_bytes(size, "little")


def fixtures(directory):
    """Name, length, and (offset, bytes) of every fixture in a directory of tests/data, neighbouring rows joined."""
    directory = os.path.join(TESTS, "data", directory)
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".sparse"):
            continue
        lines = read(directory, name).decode().splitlines()
        rows = []
        for line in lines[2:]:
            words = line.split()
            count = int(words.pop(2)) if words[0] == "each" else 1
            if words[0] == "each":
                del words[0]
                if count > 64:
                    continue
                rows.extend((int(words[0]) + block * 512, bytearray.fromhex(words[1])) for block in range(count))
                continue
            offset, data = int(words[0]), bytes.fromhex(words[1])
            if rows and rows[-1][0] + len(rows[-1][1]) == offset and len(rows[-1][1]) < 4096:
                rows[-1][1].extend(data)
            else:
                rows.append((offset, bytearray(data)))
        yield name.removesuffix(".sparse"), int(lines[0].split()[1]), rows


def gpt_image(sector):
    """A table with two partitions, as the GPT of a small disk has it."""
    import zlib

    entries = bytearray(4 * 128)
    kind = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
    for index, (first, last, label) in enumerate([(4, 4, "esp"), (5, 6, "root_1.2")]):
        entry = kind + bytes([index + 1]) * 16 + struct.pack("<QQQ", first, last, index << 60)
        entries[index * 128:index * 128 + 128] = (entry + label.encode("utf-16-le")).ljust(128, b"\0")
    image = bytearray(12 * sector)
    last = 11
    for own, other, table in (1, last, 2), (last, 1, last - 1):
        header = bytearray(struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, own, other, 3, 9,
                                       b"disk" * 4, table, 4, 128, zlib.crc32(entries)))
        header[16:20] = number(zlib.crc32(header), 4)
        image[own * sector:own * sector + 92] = header
        image[table * sector:table * sector + len(entries)] = entries
    image[446:462] = bytes([0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]) + number(last, 4)
    image[510:512] = b"\x55\xaa"
    return bytes(image)


def seeds():
    for name, length, rows in fixtures("recovery"):
        if len(rows) < 200:
            pieces = b"".join(number(at, 6) + number(len(data), 2) + data for at, data in rows)
            seed("superblocks", f"used-{name}", number(2 * length, 8) + pieces)
    for name, length, rows in fixtures("superblocks"):
        pieces = b"".join(number(at, 6) + number(len(data), 2) + data for at, data in rows if at < 69700 or at > length - 8192)
        if len(pieces) < 9000:
            seed("superblocks", name, number(2 * length, 8) + pieces)
    for sector in 512, 1024, 4096:
        image = gpt_image(sector)
        seed("gpt", f"{sector}-strict", bytes([0]) + image)
        seed("gpt", f"{sector}-repaired", bytes([1]) + image)
    seed("gpt", "cut-off", bytes([0x1D]) + gpt_image(512)[:-512])
    seed("gpt", "far-apart", bytes([2]) + number(1 << 40, 6) + gpt_image(512))

    verity = next(rows for name, _, rows in fixtures("superblocks") if name == "verity")
    superblock = bytearray(512)
    for at, data in verity:
        if at < 512:
            superblock[at:at + len(data)] = data[:512 - at]
    seed("verity_superblock", "veritysetup", bytes(superblock))
    for name, change in {"sha512": (32, b"sha512\0"), "blocks": (64, struct.pack("<IIQ", 512, 1024, 1 << 40)),
                         "many": (72, number(2**64 - 1, 8)), "no-salt": (80, bytes(260))}.items():
        at, data = change
        changed = bytearray(superblock)
        changed[at:at + len(data)] = data
        seed("verity_superblock", name, bytes(changed[:512]))

    # As 'dmsetup table' shows it on Linux 7.2.7.
    words = "1 7:0 7:1 4096 4096 1024 1 sha256 {} {}".format(HASHES["root"], "0f" * 32)
    for name, line in {"plain": words, "restart": words + " 1 restart_on_corruption",
                       "panic-signed": words + " 3 panic_on_corruption root_hash_sig_key_desc ddictl:1-0",
                       "no-salt-sha512": "1 259:1 259:1048575 512 1024 18446744073709551615 0 sha512 {} -".format(HASHES["usr"]),
                       "foreign-option": words + " 1 ignore_corruption", "verified": "V -", "corrupted": "C"}.items():
        seed("verity_table", name, line.encode())

    real = read(TESTS, "data", "verity_signature", "systemd-repart-252.json")
    seed("verity_signature", "systemd-repart", real + bytes(64))
    seed("verity_signature", "small", b'{"rootHash":"%s","signature":"MAA="}' % (b"0f" * 32))
    seed("verity_signature", "unknown-keys", b'{ "a": [1, {"b": null}], "rootHash":"%s", "signature":"MA\\u0041=" }' % (b"00" * 64))
    import base64, json
    seed("pkcs7", "systemd-repart", base64.b64decode(json.loads(real)["signature"]))

    for name in sorted(os.listdir(os.path.join(ROOT, "policy"))):
        seed("policy", name.replace(".", "-"), read(ROOT, "policy", name))
    table = read(TESTS, "data", "policy", "systemd-262.tsv").decode().splitlines()
    texts = [line.split("\t")[0] for line in table if "\t" in line and not line.startswith("#")]
    for index in range(0, len(texts), 12):
        seed("policy", f"pair-{index:04}", "\n".join(texts[index:index + 2]).encode())

    root, usr, esp, home, swap = 0, 1, 4, 2, 6
    hash_of, signature_of = {root: 7, usr: 8}, {root: 9, usr: 10}

    def image(*partitions, flags=1, sizes=0, gap=b"", changes=b""):
        """What survey.rs reads: each partition is designator, architecture, content, label and attributes, UUID."""
        places = b"".join(bytes((list(p) + [0] * 4)[:5]) for p in partitions)
        return bytes([flags, sizes]) + gap + bytes([len(partitions)]) + places + changes

    def sealed(data, architecture=0):
        return [(data, architecture), (hash_of[data], architecture), (signature_of[data], architecture)]

    def change(place, at, data):
        return bytes([place]) + number(at, 2) + bytes([len(data)]) + data

    survey = {
        "root": image(*sealed(root)),
        "root-4096": image(*sealed(root), sizes=3),
        "usr": image(*sealed(usr)),
        "all": image((esp,), (swap,), (home,), *sealed(root), *sealed(usr)),
        "foreign": image(*sealed(root, 1), *sealed(root), sizes=4),
        "unsigned": image((root,), (7,)),
        "unsigned-given": image((root,), (7,), flags=9),
        "given-both": image(*sealed(root), *sealed(usr), flags=0x19),
        "download": image((root,), (7,), flags=0x81),
        "unprotected": image((root,), (esp,), (3,), (11,), (12,)),
        "bare-squashfs": image((root,), flags=4),
        "bare-luks": image((home,), flags=5),
        "bare-download": image((root,), flags=0x85),
        "bare-beside": image((root,), flags=4, sizes=0x50),
        "bare-beside-signed": image((root,), flags=4, sizes=0x70),
        "bare-beside-given": image((root,), flags=0xc, sizes=0x70),
        "bare-beside-download": image((root,), flags=0x85, sizes=0x50),
        "bare-beside-changed": image((root,), flags=4, sizes=0xf0, changes=change(8, 8, number(2, 4))),
        "beside": image(*sealed(root), sizes=0x70),
        "unsigned-beside": image((root,), (7,), sizes=0x30),
        "two-versions": image((root, 0, 0, 1), (root, 0, 0, 2, 9), (root, 0, 0, 3, 8)),
        "attributes": image((root, 0, 0, 8), (esp, 0, 0, 32), (home, 0, 0, 56), (swap, 0, 0, 48)),
        "labels": image((root, 0, 0, 6), (usr, 0, 0, 7), (7, 0, 0, 4), (9, 0, 0, 5)),
        "fixtures": image(*[(13, 0, 2 + index) for index in range(15)]),
        "fixtures-root": image(*[(0, 0, 2 + index, 1) for index in range(5, 20)]),
        "withheld": image(*sealed(root), flags=0x21),
        "gap": image(*sealed(root), flags=3, gap=number(1 << 40, 6)),
        "sector-size": image(*sealed(root), flags=0x41, sizes=1),
        "no-backup": image(*sealed(root), changes=change(2, 0, bytes(8))),
        "no-primary": image(*sealed(root), changes=change(1, 0, bytes(8)), flags=0),
        "iso-in-front": image(*sealed(root), changes=change(7, 512, b"\1CD001\1")),
        "verity-block-size": image(*sealed(root), changes=change(9, 64, number(512, 4) * 2 + number(8, 8))),
        "more-data-blocks": image(*sealed(root), changes=change(9, 72, number(100, 8))),
        "other-signature": image((root,), (7,), (9, 0, 0, 0, 5), changes=change(10, 20, b"00")),
        "large-luks": image((home,), flags=3, gap=number(1 << 30, 6),
                            changes=change(8, 8, (1 << 22).to_bytes(8, "big")) + change(3, 40, number(1 << 20, 8))),
        "luks-json": image((home,), (3, 0, 12), changes=change(8, 4096, b'{"tokens":{"0":{"type":"x"}},"')),
    }
    for name, content in survey.items():
        seed("survey", name, content)

    for index, text in enumerate(["root_1.2", "PRT#x", "_empty", "a~b^c.1-2", "\U0001f600\ud800"]):
        units = text.encode("utf-16-le", "surrogatepass")
        seed("names", f"label-{index}", units.ljust(72, b"\0") + "root_01.20".encode("utf-16-le"))
    for index, text in enumerate(["image.raw", "a b\\c%", "grün", "x-part2", "x-root.data", "x" * 62, "..", "a/b"]):
        seed("names", f"reference-{index}", text.encode())

    openpgp = os.path.join(TESTS, "data", "openpgp")
    for file in sorted(os.listdir(openpgp)):
        name, kind = os.path.splitext(file)
        if kind in (".pgp", ".sig"):
            seed("openpgp_keyring" if kind == ".pgp" else "openpgp_signature", name, read(openpgp, file))
    checksums()
    arrivals()
    fats()


def checksums():
    """Sums as programs write them: of names that need no care, and of some that do."""
    with tempfile.TemporaryDirectory() as scratch:
        names = ["image.raw", "image.roothash", "back\\slash", "two\nlines", " blank", "a) = b"]
        for name in names:
            with open(os.path.join(scratch, name), "w") as file:
                file.write(name)

        def sums(name, *command, of=tuple(names)):
            run = subprocess.run([*command, *of], check=True, cwd=scratch, stdout=subprocess.PIPE)
            seed("checksum_manifest", name, run.stdout)
            return run.stdout

        text = sums("text", "sha256sum")
        sums("binary", "sha256sum", "--binary")
        sums("tag", "sha256sum", "--tag")
        sums("zero", "sha256sum", "--zero")
        sums("openssl", "openssl", "dgst", "-sha256", of=names[:2])
        sums("coreutils", "openssl", "dgst", "-sha256", "-r", of=names[:2])
        sums("sha512-tag", "sha512sum", "--tag", of=names[:2])
        sums("directories", "sha256sum", of=["./image.raw", ".//image.raw", "./././image.roothash"])
        seed("checksum_manifest", "crlf", text.replace(b"\n", b"\r\n").rstrip())
        seed("checksum_manifest", "capitals", b"# sums\n\n" + text[:64].upper() + text[64:])
        seed("checksum_manifest", "one-space", text.replace(b"  ", b" ", 1) + text)
        seed("checksum_manifest", "twice", text + b"0" * 64 + b"  ./image.raw\n")


def arrivals():
    """What servers send: headers, and small files as the tools of each format write them."""
    for name, text in {
        "range": "bytes 5-9/20",
        "range-largest": "bytes 0-18446744073709551614/18446744073709551615",
        "range-unknown": "bytes 5-9/*",
        "tag": '"abc-1"',
        "tag-weak": 'W/"abc-1"',
        "seconds": "120",
        "time": "Sun, 06 Nov 1994 08:49:37 GMT",
        "times": "Sun, 06 Nov 1994 08:49:37 GMT;Sun, 06 Nov 1994 08:50:37 GMT",
        "time-850": "Sunday, 06-Nov-94 08:49:37 GMT",
        "time-asctime": "Sun Nov  6 08:49:37 1994",
        "parts": "multipart/byteranges; boundary=xyz\n\r\n--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes 3-6/40"
                 "\r\n\r\nabcd\r\n--xyz\r\nContent-Range: bytes 39-39/40\r\n\r\n-\r\n--xyz--\r\n",
        "parts-quoted": 'multipart/byteranges;boundary="a=b"\n--a=b\r\nContent-Range: bytes 0-0/1\r\n\r\nx\r\n--a=b--',
    }.items():
        seed("http_headers", name, text.encode())

    text = "".join(f"{number}\n" for number in range(1, 300)).encode()

    def run(*command, content=text):
        return subprocess.run(command, check=True, input=content, stdout=subprocess.PIPE).stdout

    for name, command in {
        "gzip": ["gzip", "-nc"],
        "bzip2": ["bzip2", "-c"],
        "xz": ["xz", "-c"],
        "xz-crc32": ["xz", "-c", "--check=crc32"],
        "xz-blocks": ["xz", "-c", "--block-size=256"],
        "zstd": ["zstd", "-qc"],
        "zstd-no-checksum": ["zstd", "-qc", "--no-check"],
        "lz4": ["lz4", "-qc", "--content-size"],
        "lz4-linked": ["lz4", "-qc", "-BD"],
    }.items():
        content = run(*command)
        seed("decoders", name, content)
        if "-" not in name:
            seed("decoders", name + "-twice", content + content)
            seed("decoders", name + "-empty", run(*command, content=b""))
    seed("decoders", "zstd-skipped", b"\x50\x2a\x4d\x18\4\0\0\0skip" + run("zstd", "-qc"))

    with tempfile.TemporaryDirectory() as scratch:
        def within(name):
            return os.path.join(scratch, name)

        long = "d/" + "e" * 60
        os.makedirs(within(long))
        os.mkdir(within("s"))
        with open(within("d/file"), "wb") as file:
            file.write(text[:700])
        with open(within("s/sparse"), "wb") as file:
            file.seek(65536)
            file.write(b"x")
            file.truncate(131072)
        os.symlink("file", within("d/link"))
        os.link(within("d/file"), within("d/hard"))
        os.mkfifo(within("d/fifo"))
        with open(within(long + "/" + "n" * 80), "wb"):
            pass
        options = ["--sort=name", "--mtime=@1700000000", "--owner=0", "--group=0", "--numeric-owner", "-C", scratch]
        for form in "gnu", "pax", "ustar":
            tar = run("tar", "-c", "--format=" + form, "--blocking-factor=1", *options, "d", content=b"")
            seed("tar", form, b"\0" + tar)
            seed("tar", form + "-mended", b"\1" + tar)
        for form in "gnu", "pax":
            versions = ["0.0", "0.1", "1.0"] if form == "pax" else ["1.0"]
            for version in versions:
                tar = run("tar", "-cS", "--format=" + form, "--sparse-version=" + version, "--blocking-factor=1",
                          *options, "s/sparse", content=b"")
                seed("tar", f"sparse-{form}-{version}", b"\1" + tar)
        seed("tar", "unfinished", b"\2" + tar[:1024])

        with open(within("disk"), "wb") as file:
            file.write(text[:600])
            file.seek(4096)
            file.write(text[:512])
            file.truncate(6144)
        for name, arguments in {
            "plain": ["-o", "cluster_size=512"],
            "version-2": ["-o", "cluster_size=512,compat=0.10"],
            "deflate": ["-c", "-o", "cluster_size=512"],
            "zstd": ["-c", "-o", "cluster_size=512,compression_type=zstd"],
            "extended": ["-o", "cluster_size=16k,extended_l2=on"],
            "preallocated": ["-o", "cluster_size=512,preallocation=metadata"],
        }.items():
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *arguments, within("disk"), within("q"), content=b"")
            seed("qcow2", name, read(within("q")))


def fats():
    """Boot entries; and FAT file systems by mkfs.vfat and mtools: long names, directories, a file in fragments, and two
    damaged ones."""
    def pieces(image):
        """The sectors that are not zero, neighbours together."""
        rows = []
        for at in range(0, len(image), 512):
            sector = image[at:at + 512]
            if any(sector):
                if rows and rows[-1][0] + len(rows[-1][1]) == at and len(rows[-1][1]) < 16384:
                    rows[-1][1].extend(sector)
                else:
                    rows.append((at, bytearray(sector)))
        rows = [(at, bytes(data).rstrip(b"\0")) for at, data in rows]
        return number(4 * len(image), 8) + b"".join(number(at, 6) + number(len(data), 2) + data for at, data in rows)

    for name, text in {
        # As the examples of the specification and kernel-install have them.
        "linux": "title Fedora 19 (Rawhide)\nsort-key fedora\nmachine-id 6a9857a393724b7a981ebb5b8495b9ea\nversion 3.8.0\n"
                 "options root=UUID=6d3376e4-fc93-4509-95ec-a21d68011da2 quiet\narchitecture x64\n"
                 "linux /6a9857a393724b7a981ebb5b8495b9ea/3.8.0/linux\ninitrd /6a9857a393724b7a981ebb5b8495b9ea/3.8.0/initrd\n",
        "uki": "# Boot Loader Specification type#1 entry\ntitle      Debian\nuki        /debian/6.1.efi\noptions    quiet\n"
               "options    splash\n",
        "url": "title x\r\nuki-url https://localhost/a.efi\r\nefi \"/EFI/a b.efi\"\r\n",
    }.items():
        seed("boot_entry", name, text.encode())
    with tempfile.TemporaryDirectory() as scratch:
        image, small, large = (os.path.join(scratch, name) for name in ("image", "small", "large"))

        def tool(*command):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "MTOOLS_SKIP_CHECK": "1", "SOURCE_DATE_EPOCH": "1700000000"})

        for path, size in (small, 100), (large, 2500):
            with open(path, "wb") as file:
                file.write(bytes([7]) * size)

        def make(kind, size, *options):
            with open(image, "wb") as file:
                file.truncate(size)
            tool("mkfs.vfat", "-F", str(kind), "-i", "01020304", "--invariant", *options, image)
            tool("mmd", "-i", image, "::EFI", "::EFI/Linux", "::EFI/BOOT", "::loader", "::loader/entries")

        for kind, size in (12, 1 << 20), (16, 4 << 20), (32, 34 << 20):
            make(kind, size, "-s", "1")
            for name in "one", "two", "three":
                tool("mcopy", "-i", image, small, "::" + name)
            tool("mdel", "-i", image, "::two")
            tool("mcopy", "-i", image, large, "::EFI/Linux/in fragments and with a long name-1.2.efi")
            tool("mcopy", "-i", image, large, "::EFI/BOOT/BOOTX64.EFI")
            tool("mcopy", "-i", image, small, "::EFI/Linux/gr\u00fcn.efi")
            tool("mcopy", "-i", image, small, "::loader/loader.conf")
            tool("mcopy", "-i", image, small, "::loader/entries/a.conf")
            seed("fat", f"fat{kind}", pieces(read(image)))
        make(32, 260 << 20, "-S", "4096", "-s", "1")
        for name in "EFI/Linux/a.efi", "EFI/Linux/b.efi", "EFI/BOOT/BOOTX64.EFI":
            tool("mcopy", "-i", image, large, "::" + name)
        seed("fat", "fat32-4096", pieces(read(image)))

        # Each file of five clusters comes back to its first one, or to those of another one.
        make(12, 1 << 20, "-s", "1")
        for name in "EFI/a", "EFI/b", "EFI/c":
            tool("mcopy", "-i", image, large, "::" + name)
        whole = bytearray(read(image))
        table = 512 * int.from_bytes(whole[14:16], "little")

        def entry(cluster, value=None):
            at, shift = table + cluster * 3 // 2, cluster % 2 * 4
            old = int.from_bytes(whole[at:at + 2], "little")
            if value is not None:
                whole[at:at + 2] = number(old & ~(0xfff << shift) | value << shift, 2)
            return old >> shift & 0xfff

        first = next(cluster for cluster in range(2, 100) if entry(cluster) == cluster + 1)
        for name, value in ("loop", first), ("cross-linked", first + 6):
            entry(first + 1, value)
            seed("fat", name, pieces(whole))


if __name__ == "__main__":
    {"keys": keys, "seeds": seeds, "fats": fats}[sys.argv[1]]()
