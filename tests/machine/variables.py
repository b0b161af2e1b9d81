#!/usr/bin/env python3
"""Makes the Secure Boot keys of a virtual machine: one certificate as PK, KEK and the only entry of db (what is trusted),
and the digest of another one as the only entry of dbx (what is revoked).

    variables.py EMPTY-STORE TRUSTED.der REVOKED.der OUTPUT

EMPTY-STORE is the variable store that comes with OVMF. The variables are written into it as the firmware itself keeps
them (the authenticated variable store of EDK II, MdeModulePkg/Include/Guid/VariableFormat.h), so nothing has to be signed.
"""

import hashlib
import struct
import sys
import uuid

GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")  # EFI_GLOBAL_VARIABLE (UEFI 2.10, 3.3)
SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")  # EFI_IMAGE_SECURITY_DATABASE (32.4.1)
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")  # EFI_CERT_X509_GUID (32.4.1)
X509_SHA256 = uuid.UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed")  # EFI_CERT_X509_SHA256_GUID (32.4.1)
STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")  # EFI_AUTHENTICATED_VARIABLE_GUID
OWNER = uuid.UUID("4f2f5e3a-52b8-4c0e-9f0a-7d1d5f3c9b60")  # whoever put the certificate there: these tests

# Non-volatile, for boot services and at run time, changed by signed and dated writes only.
ATTRIBUTES = 0x01 | 0x02 | 0x04 | 0x20
VARIABLE_START = 0x55AA
VARIABLE_ADDED = 0x3F
# UEFI's EFI_TIME: 2026-01-01 00:00:00.
TIME = struct.pack("<HBBBBBBIhBB", 2026, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)


def signature_list(kind, entry):
    """An EFI_SIGNATURE_LIST with one entry (UEFI 2.10, 32.4.1)."""
    entry = OWNER.bytes_le + entry
    return kind.bytes_le + struct.pack("<III", 28 + len(entry), 0, len(entry)) + entry


def to_be_signed(certificate):
    """The part of a certificate that is signed (RFC 5280, 4.1): the first thing in the sequence that it is."""

    def header(at):
        length, after = certificate[at + 1], at + 2
        if length < 0x80:
            return length, after
        after += length & 0x7F
        return int.from_bytes(certificate[at + 2 : after], "big"), after

    _, begin = header(0)
    length, content = header(begin)
    return certificate[begin : content + length]


def variable(vendor, name, data):
    """One variable behind its AUTHENTICATED_VARIABLE_HEADER, up to where the next one begins."""
    text = name.encode("utf-16-le") + b"\0\0"
    header = struct.pack("<HBBIQ", VARIABLE_START, VARIABLE_ADDED, 0, ATTRIBUTES, 0)
    header += TIME + struct.pack("<III", 0, len(text), len(data)) + vendor.bytes_le
    record = header + text + data
    return record + b"\xff" * (-len(record) % 4)


def main():
    template, trusted, revoked, output = sys.argv[1:]
    with open(template, "rb") as file:
        store = bytearray(file.read())
    with open(trusted, "rb") as file:
        trusted = signature_list(X509, file.read())
    with open(revoked, "rb") as file:
        # The digest alone, without a time of revocation: Linux takes all of an entry for the digest.
        revoked = signature_list(X509_SHA256, hashlib.sha256(to_be_signed(file.read())).digest())

    # The firmware volume's header says how long it is; the header of the variable store comes next.
    (begin,) = struct.unpack_from("<H", store, 48)
    if bytes(store[begin : begin + 16]) != STORE.bytes_le:
        sys.exit(f"{template}: no authenticated variable store at byte {begin}")
    (size,) = struct.unpack_from("<I", store, begin + 16)
    first = begin + 28
    variables = b"".join(
        variable(vendor, name, data)
        for vendor, name, data in [
            (GLOBAL, "PK", trusted),
            (GLOBAL, "KEK", trusted),
            (SECURITY_DATABASE, "db", trusted),
            (SECURITY_DATABASE, "dbx", revoked),
        ]
    )
    room = bytes(store[first : first + len(variables)])
    if room != b"\xff" * len(variables) or first + len(variables) > begin + size:
        sys.exit(f"{template}: not an empty variable store")
    store[first : first + len(variables)] = variables
    with open(output, "wb") as file:
        file.write(store)


if __name__ == "__main__":
    main()
