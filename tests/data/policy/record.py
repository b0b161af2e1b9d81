#!/usr/bin/env python3
"""Records what systemd-analyze says of image policies, for the tests of src/image/policy.

usage: record.py COMMAND [ARGUMENT...] > systemd-262.tsv
       record.py --seed=NUMBER COMMAND [ARGUMENT...]

With a seed, of other random policies and of these alone: what tests/host/policies.rs holds the program against.

COMMAND is a systemd-analyze of version 262 (through chroot, for example). One line a policy, fields parted by tabs:

    policy  simplified  long  cells     or     policy  !error

with `\\t` and `\\n` in the policy spelled so. The cells are those of the table that systemd-analyze prints, as
`designators:mode/read-only/growfs/file systems`, joined by spaces: the default's first, then those that differ from it.
"""

import random
import subprocess
import sys

DESIGNATORS = ["root", "usr", "home", "srv", "esp", "xbootldr", "swap", "root-verity", "usr-verity",
               "root-verity-sig", "usr-verity-sig", "tmp", "var"]
USE = ["verity", "signed", "encrypted", "encryptedwithintegrity", "unprotected", "unused", "absent", "open", "ignore"]
FLAGS = ["read-only-off", "read-only-on", "growfs-off", "growfs-on"]
FILE_SYSTEMS = ["btrfs", "erofs", "ext4", "f2fs", "squashfs", "vfat", "xfs"]
BY_HAND = [
    "", "*", "-", "~", "=", "=-", "=open", "=ignore", "=absent", "=unused", "=verity", "=signed", "=verity+absent",
    "=signed+read-only-on+erofs", "=encrypted+growfs-on", "=growfs-on", "=absent+growfs-on", "=absent+ext4",
    "root=", "root=-", "root= ", "root=open", "root=ignore", "root=absent", "root=absent+read-only-on",
    "root=absent+ext4", "root=unused+absent+read-only-on", "root=signed+unused+growfs-on", "root=read-only-on",
    "root=ext4", "root=growfs-on+growfs-off", "root=read-only-off+read-only-on", "root=signed+signed",
    " root = signed + absent : = absent ", "\troot=signed\n:\nusr=\tverity ", "root=signed:usr=verity:",
    ":root=signed", "root=signed::usr=verity", ":", "root", "root=signed:*", "**", " * ", "-:-", "~:~", "root=~",
    "root=signed+", "root=+signed", "root=signed+-", "root=signed=absent", "Root=signed", "root=Signed",
    "root=signed:root=absent", "=absent:=absent", "root=absent: root=absent", "foo=absent", "root=foo", "root=closed",
    "home=verity", "esp=signed", "home=signed+absent", "home=verity+encrypted", "root-verity=verity",
    "root-verity=signed+absent", "root-verity-sig=encrypted", "root-verity=unprotected+erofs+growfs-on",
    "root=verity:root-verity=absent", "root=signed:root-verity-sig=absent", "root=unused:usr=absent:=unused+absent",
    "root=absent:usr=absent:=absent", "root=open:=open", "root=open:usr=absent:=open", "root=signed:=ignore", "root=signed:=ignore+growfs-on",
    "root=signed:=ignore+growfs-on+growfs-off", "root=signed:=ignore+ext4", "=ignore+ext4", "=open+ext4", "=ext4",
    "=absent+growfs-on+growfs-off", "=growfs-on+growfs-off", "root=absent+growfs-on:=absent", "root=absent+ext4:=absent",
    "home=signed+absent:=absent", "root=verity+absent:=absent", "=btrfs+erofs+ext4+f2fs+squashfs+vfat+xfs",
    "root=unused+absent+read-only-on+read-only-off", "root=signed:=verity+unused+absent", " ", "\t", "root =signed",
    "home=encrypted+encryptedwithintegrity+unprotected+unused+absent:=open", "root=open+growfs-on:=open",
    "root=verity+unprotected", "root=signed+absent:usr=signed+absent:=unused+absent", "root=\\signed",
]


def random_policy(dice):
    rules = []
    for designator in dice.sample(DESIGNATORS + [""] * 2, dice.randint(0, 5)):
        words = dice.sample(USE, dice.choice([0, 1, 1, 2, 2, 3, 4]))
        words += dice.sample(FLAGS, dice.choice([0, 0, 0, 1, 2]))
        words += dice.sample(FILE_SYSTEMS, dice.choice([0, 0, 0, 1, 2, 3]))
        dice.shuffle(words)
        if dice.random() < 0.03:
            words.insert(0, dice.choice(["ext2", "Verity", "", "-"]))
        rules.append(f"{designator}={'+'.join(words) or dice.choice(['', '-'])}")
    return ":".join(rules) or "-"


ERRORS = {"Invalid argument": "EINVAL", "Invalid request code": "EBADRQC", "Invalid slot": "EBADSLT",
          "Name not unique on network": "ENOTUNIQ"}


def ask(command, policy):
    run = subprocess.run([*command, "image-policy", "--", policy], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return ["!" + ERRORS[run.stderr.strip().rsplit(": ", 1)[1]]]
    head, table = run.stdout.split("\n\n", 1)
    lines = head.split("\n")
    simplified = lines[0].removeprefix("Analyzing policy: ")
    long = lines[1].strip().removeprefix("Long form: ") if len(lines) > 1 else simplified
    cells = {}
    for row in table.strip().split("\n")[1:]:
        name, mode, read_only, growfs, file_systems = row.split()
        cells.setdefault(f"{mode}/{read_only}/{growfs}/{file_systems}", []).append(name)
    default = next(cell for cell, names in cells.items() if "default" in names)
    del cells[default]
    groups = [f"default:{default}"] + [f"{','.join(names)}:{cell}" for cell, names in cells.items()]
    return [simplified, long, " ".join(groups)]


def main():
    command = sys.argv[1:]
    if command[0].startswith("--seed="):
        dice = random.Random(int(command.pop(0).removeprefix("--seed=")))
        policies = [random_policy(dice) for _ in range(150)]
    else:
        dice = random.Random(262)
        policies = BY_HAND + [random_policy(dice) for _ in range(230)]
    for policy in dict.fromkeys(policies):
        shown = policy.replace("\t", "\\t").replace("\n", "\\n")
        print("\t".join([shown, *ask(command, policy)]))


main()
