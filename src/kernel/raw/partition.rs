//! Partitions by request (`linux/blkpg.h`): no scan, no format, only numbers and extents.
#![expect(unsafe_code, reason = "ioctl(2) takes an untyped argument")]

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc::{c_char, c_int, c_void};

use super::IoctlError;
use crate::format::units::Extent;

/// `BLKPG_ADD_PARTITION`.
const ADD: c_int = 1;
/// `BLKPG_DEL_PARTITION`.
const DELETE: c_int = 2;

/// `struct blkpg_partition`: what a request is about. Start and length in bytes.
#[repr(C)]
struct RawPartition {
    start: i64,
    length: i64,
    number: c_int,
    device_name: [c_char; 64],
    volume_name: [c_char; 64],
}

/// `struct blkpg_ioctl_arg`: the request itself.
#[repr(C)]
struct Argument {
    operation: c_int,
    flags: c_int,
    data_length: c_int,
    data: *mut c_void,
}

const _: () = {
    assert!(size_of::<RawPartition>() == 152);
    assert!(offset_of!(RawPartition, number) == 16);
    assert!(offset_of!(RawPartition, volume_name) == 84);
    assert!(offset_of!(Argument, data_length) == 8);
    assert!(offset_of!(Argument, data) == 16 || size_of::<usize>() == 4);
};

/// `BLKPG_ADD_PARTITION`: adds partition `number` with these bytes of the disk.
///
/// # Errors
/// [`IoctlError::Busy`] where the number is taken or the bytes belong to another partition; [`IoctlError::Kernel`] with
/// `EINVAL` where the extent is off the sectors or behind the end, or the number beyond what the kernel has.
#[doc(alias = "BLKPG")]
pub fn add(disk: BorrowedFd<'_>, number: u32, extent: Extent) -> Result<(), IoctlError> {
    let bytes = |bytes: u64| i64::try_from(bytes).map_err(|_| IoctlError::Kernel(Errno::EINVAL));
    let (start, length) = (bytes(extent.start().bytes())?, bytes(extent.length().bytes())?);
    call(disk, ADD, number, start, length)
}

/// `BLKPG_DEL_PARTITION`: deletes partition `number`.
///
/// # Errors
/// [`IoctlError::Busy`] where it is in use; [`IoctlError::NotBound`] (`ENXIO`) where it is not there.
#[doc(alias = "BLKPG")]
pub fn delete(disk: BorrowedFd<'_>, number: u32) -> Result<(), IoctlError> {
    call(disk, DELETE, number, 0, 0)
}

fn call(
    disk: BorrowedFd<'_>,
    operation: c_int,
    number: u32,
    start: i64,
    length: i64,
) -> Result<(), IoctlError> {
    let number = c_int::try_from(number).map_err(|_| IoctlError::Kernel(Errno::EINVAL))?;
    let mut partition = RawPartition { start, length, number, device_name: [0; 64], volume_name: [0; 64] };
    let data_length =
        c_int::try_from(size_of::<RawPartition>()).map_err(|_| IoctlError::Kernel(Errno::EINVAL))?;
    let argument = Argument { operation, flags: 0, data_length, data: (&raw mut partition).cast() };
    // SAFETY: the kernel reads one `struct blkpg_ioctl_arg` from the address of a live value of the same layout, and from
    // the address inside it one `struct blkpg_partition`, also live for the call; both layouts are asserted above. It
    // writes to neither.
    unsafe { request::blkpg(disk.as_raw_fd(), ptr::from_ref(&argument)) }?;
    Ok(())
}

/// The bare call, with the request number of `linux/fs.h`.
mod request {
    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), super::Argument);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::format::units::{ByteLength, ByteOffset};

    #[test]
    fn a_descriptor_that_is_no_block_device_is_named_as_such() {
        let null = File::open("/dev/null").unwrap();
        let extent = Extent::new(ByteOffset::ZERO, ByteLength::new(512)).unwrap();
        assert_eq!(add(null.as_fd(), 1, extent), Err(IoctlError::Unsupported));
        assert_eq!(delete(null.as_fd(), 1), Err(IoctlError::Unsupported));
    }

    #[test]
    fn numbers_that_do_not_fit_never_reach_the_kernel() {
        let null = File::open("/dev/null").unwrap();
        let beyond = Extent::new(ByteOffset::new(u64::MAX), ByteLength::ZERO).unwrap();
        assert_eq!(add(null.as_fd(), 1, beyond), Err(IoctlError::Kernel(Errno::EINVAL)));
        assert_eq!(delete(null.as_fd(), u32::MAX), Err(IoctlError::Kernel(Errno::EINVAL)));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_request_number_is_that_of_the_header() {
        assert_eq!(nix::request_code_none!(0x12, 105), 0x1269);
    }
}
