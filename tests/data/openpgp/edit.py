#!/usr/bin/env python3
"""Writes a certificate as no tool does: of the signatures that bind its subkeys, without the back signature.

    edit.py FROM TO

GnuPG has it among the subpackets that are not hashed (RFC 9580, 5.2.3.34), so that the rest stays valid.
"""
import sys

EMBEDDED_SIGNATURE = 32


def packets(data):
    """Type and body of packets with old headers, as GnuPG writes them."""
    while data:
        kind, size = data[0] >> 2 & 15, 1 << (data[0] & 3)
        length = int.from_bytes(data[1:1 + size], "big")
        yield kind, data[1 + size:1 + size + length]
        data = data[1 + size + length:]


def subpackets(area):
    while area:
        if area[0] < 192:
            head, length = 1, area[0]
        else:
            head, length = 2, (area[0] - 192 << 8) + area[1] + 192
        yield area[head] & 127, area[:head + length]
        area = area[head + length:]


def without_back_signature(body):
    hashed = 6 + int.from_bytes(body[4:6], "big")
    end = hashed + 2 + int.from_bytes(body[hashed:hashed + 2], "big")
    kept = b"".join(whole for kind, whole in subpackets(body[hashed + 2:end]) if kind != EMBEDDED_SIGNATURE)
    assert len(kept) < end - hashed - 2
    return body[:hashed] + len(kept).to_bytes(2, "big") + kept + body[end:]


written = b""
with open(sys.argv[1], "rb") as file:
    for kind, body in packets(file.read()):
        if kind == 2 and body[:2] == b"\x04\x18":
            body = without_back_signature(body)
        written += bytes([0x80 | kind << 2 | 1]) + len(body).to_bytes(2, "big") + body
with open(sys.argv[2], "wb") as file:
    file.write(written)
