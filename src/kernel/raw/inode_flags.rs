//! Inode flags (`linux/fs.h`), as chattr(1) sets them.
#![expect(unsafe_code, reason = "ioctl(2) takes an untyped argument")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::c_int;

use super::IoctlError;

/// `FS_IMMUTABLE_FL`: nobody, root included, may open the file for writing, rename, link or remove it.
pub const IMMUTABLE: u32 = 0x10;

/// `FS_IOC_GETFLAGS`: the flags of the inode.
///
/// # Errors
/// [`IoctlError::Unsupported`] where the file system has no inode flags.
#[doc(alias = "FS_IOC_GETFLAGS")]
pub fn inode_flags(file: BorrowedFd<'_>) -> Result<u32, IoctlError> {
    let mut flags: c_int = 0;
    // SAFETY: although the request is coded with `long`, the kernel writes one `int` on every architecture, to the
    // address of a live, exclusively borrowed `c_int`.
    unsafe { request::getflags(file.as_raw_fd(), &raw mut flags) }?;
    Ok(flags.cast_unsigned())
}

/// `FS_IOC_SETFLAGS`: replaces the flags of the inode.
///
/// # Errors
/// [`IoctlError::Unsupported`] where the file system has no inode flags or not these; [`IoctlError::NotPermitted`]
/// without `CAP_LINUX_IMMUTABLE`.
#[doc(alias = "FS_IOC_SETFLAGS")]
pub fn set_inode_flags(file: BorrowedFd<'_>, flags: u32) -> Result<(), IoctlError> {
    let flags: c_int = flags.cast_signed();
    // SAFETY: although the request is coded with `long`, the kernel reads one `int` on every architecture, from the
    // address of a live `c_int`.
    unsafe { request::setflags(file.as_raw_fd(), &raw const flags) }?;
    Ok(())
}

/// The bare calls, with the request numbers of `linux/fs.h`.
mod request {
    use nix::libc::{c_int, c_long};

    nix::ioctl_read_bad!(getflags, nix::request_code_read!(b'f', 1, size_of::<c_long>()), c_int);
    nix::ioctl_write_ptr_bad!(setflags, nix::request_code_write!(b'f', 2, size_of::<c_long>()), c_int);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_system_without_inode_flags_is_named_as_such() {
        let file = File::open("/proc/self/stat").unwrap();
        assert_eq!(inode_flags(file.as_fd()), Err(IoctlError::Unsupported));
        assert_eq!(set_inode_flags(file.as_fd(), 0), Err(IoctlError::Unsupported));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_request_numbers_are_those_of_the_header() {
        assert_eq!(nix::request_code_read!(b'f', 1, size_of::<nix::libc::c_long>()), 0x8008_6601);
        assert_eq!(nix::request_code_write!(b'f', 2, size_of::<nix::libc::c_long>()), 0x4008_6602);
    }
}
