//! Extended attributes (xattr(7)).
#![expect(unsafe_code, reason = "setxattr(2) takes addresses")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// `fsetxattr`: gives a file that is open an attribute, or another value for it.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no such attributes; any other error of setxattr(2).
#[doc(alias = "fsetxattr")]
pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the name ends with its NUL, and the address and length of the value are those of a live slice; the kernel
    // reads them and keeps neither.
    let result =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// `lsetxattr`: the same for what has this path; a symbolic link at its end is not followed.
///
/// # Errors
/// As [`set`].
#[doc(alias = "lsetxattr")]
pub fn set_by_path(path: &CStr, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: path and name end with their NULs, and the address and length of the value are those of a live slice; the
    // kernel reads them and keeps none of them.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_system_without_attributes_says_so() {
        let file = File::open("/proc/self/stat").unwrap();
        assert_eq!(set(file.as_fd(), c"user.x", b"value"), Err(Errno::EOPNOTSUPP));
        assert_eq!(set_by_path(c"/proc/self/stat", c"user.x", b"value"), Err(Errno::EOPNOTSUPP));
        assert_eq!(set_by_path(c"/proc/absent", c"user.x", b""), Err(Errno::ENOENT));
    }
}
