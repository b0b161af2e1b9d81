//! Questions to a block device (`linux/fs.h`).
#![expect(unsafe_code, reason = "ioctl(2) takes an untyped argument")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::c_int;

use super::IoctlError;
use crate::format::units::ByteLength;

/// `BLKGETDISKSEQ`: the number that the kernel gives to every new medium in a block device, never twice in one boot
/// (Linux 5.15 and later).
///
/// # Errors
/// [`IoctlError::Unsupported`] where the descriptor is no block device or the kernel is older.
#[doc(alias = "BLKGETDISKSEQ")]
pub fn disk_sequence(device: BorrowedFd<'_>) -> Result<u64, IoctlError> {
    let mut sequence: u64 = 0;
    // SAFETY: the kernel writes one `__u64` to the address, which is that of a live, exclusively borrowed `u64`.
    unsafe { request::blkgetdiskseq(device.as_raw_fd(), &raw mut sequence) }?;
    Ok(sequence)
}

/// `BLKGETSIZE64`: the size of the device.
///
/// # Errors
/// [`IoctlError::Unsupported`] where the descriptor is no block device.
#[doc(alias = "BLKGETSIZE64")]
pub fn size(device: BorrowedFd<'_>) -> Result<ByteLength, IoctlError> {
    let mut bytes: u64 = 0;
    // SAFETY: although the request is coded with `size_t`, the kernel writes one `u64` on every architecture, to the
    // address of a live, exclusively borrowed `u64`.
    unsafe { request::blkgetsize64(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(ByteLength::new(bytes))
}

/// `BLKROGET`: whether the kernel refuses writes to the device.
///
/// # Errors
/// [`IoctlError::Unsupported`] where the descriptor is no block device.
#[doc(alias = "BLKROGET")]
pub fn is_read_only(device: BorrowedFd<'_>) -> Result<bool, IoctlError> {
    let mut read_only: c_int = 0;
    // SAFETY: the kernel writes one `int` to the address, which is that of a live, exclusively borrowed `c_int`.
    unsafe { request::blkroget(device.as_raw_fd(), &raw mut read_only) }?;
    Ok(read_only != 0)
}

/// `BLKSSZGET`: the logical block size of the device, in bytes.
///
/// # Errors
/// [`IoctlError::Unsupported`] where the descriptor is no block device.
#[doc(alias = "BLKSSZGET")]
pub fn logical_block_size(device: BorrowedFd<'_>) -> Result<u32, IoctlError> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes one `int` to the address, which is that of a live, exclusively borrowed `c_int`.
    unsafe { request::blksszget(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| IoctlError::Kernel(nix::errno::Errno::ERANGE))
}

/// The bare calls, with the request numbers of `linux/fs.h`.
mod request {
    use nix::libc::{c_int, size_t};

    nix::ioctl_read!(blkgetdiskseq, 0x12, 128, u64);
    nix::ioctl_read_bad!(blkgetsize64, nix::request_code_read!(0x12, 114, size_of::<size_t>()), u64);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), c_int);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), c_int);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_that_is_no_block_device_is_named_as_such() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(disk_sequence(null.as_fd()), Err(IoctlError::Unsupported));
        assert_eq!(size(null.as_fd()), Err(IoctlError::Unsupported));
        assert_eq!(is_read_only(null.as_fd()), Err(IoctlError::Unsupported));
        assert_eq!(logical_block_size(null.as_fd()), Err(IoctlError::Unsupported));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_request_numbers_are_those_of_the_header() {
        assert_eq!(nix::request_code_read!(0x12, 128, size_of::<u64>()), 0x8008_1280);
        assert_eq!(nix::request_code_read!(0x12, 114, size_of::<usize>()), 0x8008_1272);
        assert_eq!(nix::request_code_none!(0x12, 94), 0x125E);
        assert_eq!(nix::request_code_none!(0x12, 104), 0x1268);
    }
}
