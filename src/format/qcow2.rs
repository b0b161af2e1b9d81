//! Copy-on-write images of QEMU, versions 2 and 3 (QEMU, `docs/interop/qcow2.rst`).

/// The first bytes of an image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
