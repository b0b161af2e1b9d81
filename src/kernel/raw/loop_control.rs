//! Loop devices (`linux/loop.h`): the requests to a device and to `/dev/loop-control`, and their structures.
#![expect(unsafe_code, reason = "ioctl(2) takes an untyped argument")]

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::{c_int, c_ulong};

use super::IoctlError;

/// `LO_NAME_SIZE`: bytes of a name field, the closing NUL included.
pub const NAME_SIZE: usize = 64;
/// `LO_FLAGS_READ_ONLY`: writes to the device fail.
pub const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`: the device is unbound when its last descriptor is closed.
pub const AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_PARTSCAN`: the kernel looks for partitions in the device.
pub const PARTITION_SCAN: u32 = 8;

/// `struct loop_info64`: what a loop device shows of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct LoopInfo64 {
    /// `lo_device`: device number of the file system that the backing file is on. Set by the kernel.
    pub backing_device: u64,
    /// `lo_inode`: inode number of the backing file. Set by the kernel.
    pub backing_inode: u64,
    /// `lo_rdevice`: device number of the backing file where it is a device itself. Set by the kernel.
    pub backing_special_device: u64,
    /// `lo_offset`: first byte of the backing file that is shown.
    pub offset: u64,
    /// `lo_sizelimit`: how many bytes are shown; 0 means all there are.
    pub size_limit: u64,
    /// `lo_number`: the N of `/dev/loopN`. Set by the kernel.
    pub number: u32,
    /// `lo_encrypt_type`: obsolete, ignored.
    pub encryption_type: u32,
    /// `lo_encrypt_key_size`: obsolete, ignored.
    pub encryption_key_size: u32,
    /// `lo_flags`: [`READ_ONLY`], [`AUTOCLEAR`], [`PARTITION_SCAN`] and others.
    pub flags: u32,
    /// `lo_file_name`: free text, closed by a NUL; the reference of the device.
    pub file_name: [u8; NAME_SIZE],
    /// `lo_crypt_name`: obsolete, ignored.
    pub encryption_name: [u8; NAME_SIZE],
    /// `lo_encrypt_key`: obsolete, ignored.
    pub encryption_key: [u8; 32],
    /// `lo_init`: obsolete, ignored.
    pub initial: [u64; 2],
}

impl LoopInfo64 {
    /// Everything zero: the whole file, writable, without a name.
    pub const ZERO: Self = Self {
        backing_device: 0,
        backing_inode: 0,
        backing_special_device: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encryption_type: 0,
        encryption_key_size: 0,
        flags: 0,
        file_name: [0; NAME_SIZE],
        encryption_name: [0; NAME_SIZE],
        encryption_key: [0; 32],
        initial: [0; 2],
    };
}

/// `struct loop_config`: all that LOOP_CONFIGURE sets in one step.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct LoopConfig {
    backing: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const _: () = {
    assert!(size_of::<LoopInfo64>() == 232);
    assert!(offset_of!(LoopInfo64, number) == 40);
    assert!(offset_of!(LoopInfo64, file_name) == 56);
    assert!(offset_of!(LoopInfo64, initial) == 216);
    assert!(size_of::<LoopConfig>() == 304);
    assert!(offset_of!(LoopConfig, info) == 8);
    assert!(offset_of!(LoopConfig, reserved) == 240);
};

/// `LOOP_CTL_GET_FREE`: the number of a device that nothing is bound to, made for the purpose where there is none.
///
/// The number is not reserved: another process may take it first, and then [`configure`] says [`IoctlError::Busy`].
///
/// # Errors
/// [`IoctlError::Unsupported`] where the descriptor is not `/dev/loop-control`.
#[doc(alias = "LOOP_CTL_GET_FREE")]
pub fn free_number(control: BorrowedFd<'_>) -> Result<u32, IoctlError> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let number = unsafe { request::ctl_get_free(control.as_raw_fd()) }?;
    u32::try_from(number).map_err(|_| IoctlError::Kernel(nix::errno::Errno::ERANGE))
}

/// `LOOP_CTL_ADD`: makes device `number`.
///
/// # Errors
/// [`IoctlError::Kernel`] with `EEXIST` where it is there already.
#[doc(alias = "LOOP_CTL_ADD")]
pub fn add(control: BorrowedFd<'_>, number: u32) -> Result<(), IoctlError> {
    // SAFETY: the request takes a number by value and touches no memory of ours.
    unsafe { request::ctl_add(control.as_raw_fd(), by_value(number)?) }?;
    Ok(())
}

/// `LOOP_CTL_REMOVE`: removes device `number`, its leftover partitions with it.
///
/// # Errors
/// [`IoctlError::Busy`] where it is bound or open; [`IoctlError::Kernel`] with `ENODEV` where it does not exist.
#[doc(alias = "LOOP_CTL_REMOVE")]
pub fn remove(control: BorrowedFd<'_>, number: u32) -> Result<(), IoctlError> {
    // SAFETY: the request takes a number by value and touches no memory of ours.
    unsafe { request::ctl_remove(control.as_raw_fd(), by_value(number)?) }?;
    Ok(())
}

/// `LOOP_CONFIGURE`: binds the device to a backing file, with everything that is to hold of it, in one step (Linux 5.8).
///
/// # Errors
/// [`IoctlError::Busy`] where the device is bound already; [`IoctlError::Unsupported`] where the descriptor is no
/// loop device; [`IoctlError::Kernel`] with `EINVAL` where the backing file, the block size or a flag will not do.
#[doc(alias = "LOOP_CONFIGURE")]
pub fn configure(
    device: BorrowedFd<'_>,
    backing: BorrowedFd<'_>,
    block_size: u32,
    info: &LoopInfo64,
) -> Result<(), IoctlError> {
    let backing =
        u32::try_from(backing.as_raw_fd()).map_err(|_| IoctlError::Kernel(nix::errno::Errno::EBADF))?;
    let config = LoopConfig { backing, block_size, info: *info, reserved: [0; 8] };
    // SAFETY: the kernel reads one `struct loop_config` from the address of a live value of the same layout (asserted
    // above); the backing descriptor inside is borrowed for the call, and the kernel takes its own reference.
    unsafe { request::configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}

/// `LOOP_GET_STATUS64`: what the device shows.
///
/// # Errors
/// [`IoctlError::NotBound`] where it shows nothing; [`IoctlError::Unsupported`] where it is no loop device.
#[doc(alias = "LOOP_GET_STATUS64")]
pub fn status(device: BorrowedFd<'_>) -> Result<LoopInfo64, IoctlError> {
    let mut info = LoopInfo64::ZERO;
    // SAFETY: the kernel writes one `struct loop_info64` to the address of a live, exclusively borrowed value of the
    // same layout (asserted above), for which every bit pattern is valid.
    unsafe { request::get_status64(device.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}

/// `LOOP_SET_STATUS64`: changes what the device shows; of the flags, the kernel changes [`AUTOCLEAR`] and sets
/// [`PARTITION_SCAN`], and ignores the others.
///
/// # Errors
/// [`IoctlError::NotBound`] where the device is bound to nothing.
#[doc(alias = "LOOP_SET_STATUS64")]
pub fn set_status(device: BorrowedFd<'_>, info: &LoopInfo64) -> Result<(), IoctlError> {
    // SAFETY: the kernel reads one `struct loop_info64` from the address of a live value of the same layout (asserted
    // above).
    unsafe { request::set_status64(device.as_raw_fd(), &raw const *info) }?;
    Ok(())
}

/// `LOOP_CLR_FD`: unbinds the device, at once or when the last descriptor to it is closed.
///
/// # Errors
/// [`IoctlError::NotBound`] where it is bound to nothing; [`IoctlError::Unsupported`] where it is no loop device.
#[doc(alias = "LOOP_CLR_FD")]
pub fn unbind(device: BorrowedFd<'_>) -> Result<(), IoctlError> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    unsafe { request::clr_fd(device.as_raw_fd()) }?;
    Ok(())
}

/// A device number as the control requests take it. Numbers above `INT_MAX` do not exist (`EINVAL`, as the kernel says).
fn by_value(number: u32) -> Result<c_ulong, IoctlError> {
    let number = c_int::try_from(number).map_err(|_| IoctlError::Kernel(nix::errno::Errno::EINVAL))?;
    c_ulong::try_from(number).map_err(|_| IoctlError::Kernel(nix::errno::Errno::EINVAL))
}

/// The bare calls, with the request numbers of `linux/loop.h`.
mod request {
    use nix::libc::{self, c_int, c_ulong};

    nix::ioctl_none_bad!(clr_fd, 0x4C01);
    nix::ioctl_write_ptr_bad!(set_status64, 0x4C04, super::LoopInfo64);
    nix::ioctl_read_bad!(get_status64, 0x4C05, super::LoopInfo64);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, super::LoopConfig);
    nix::ioctl_none_bad!(ctl_get_free, 0x4C82);

    /// `LOOP_CTL_ADD`; the crate's macros know no by-value request that takes a whole register.
    pub(super) unsafe fn ctl_add(control: c_int, number: c_ulong) -> nix::Result<c_int> {
        // SAFETY: as the caller promises; the argument is a number.
        nix::errno::Errno::result(unsafe { libc::ioctl(control, 0x4C80, number) })
    }

    /// `LOOP_CTL_REMOVE`, likewise.
    pub(super) unsafe fn ctl_remove(control: c_int, number: c_ulong) -> nix::Result<c_int> {
        // SAFETY: as the caller promises; the argument is a number.
        nix::errno::Errno::result(unsafe { libc::ioctl(control, 0x4C81, number) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_descriptor_that_is_no_loop_device_is_named_as_such() {
        let null = File::open("/dev/null").unwrap();
        let null = null.as_fd();
        assert_eq!(free_number(null), Err(IoctlError::Unsupported));
        assert_eq!(add(null, 0), Err(IoctlError::Unsupported));
        assert_eq!(remove(null, 0), Err(IoctlError::Unsupported));
        assert_eq!(configure(null, null, 512, &LoopInfo64::ZERO), Err(IoctlError::Unsupported));
        assert_eq!(status(null), Err(IoctlError::Unsupported));
        assert_eq!(set_status(null, &LoopInfo64::ZERO), Err(IoctlError::Unsupported));
        assert_eq!(unbind(null), Err(IoctlError::Unsupported));
    }

    #[test]
    fn a_number_beyond_every_device_never_reaches_the_kernel() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(add(null.as_fd(), u32::MAX), Err(IoctlError::Kernel(Errno::EINVAL)));
        assert_eq!(remove(null.as_fd(), u32::MAX), Err(IoctlError::Kernel(Errno::EINVAL)));
    }
}
