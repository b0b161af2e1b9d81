//! The ioctls that no safe crate offers: one request, one function, one shape.
//!
//! All `unsafe` of this program is below here. Every function borrows the descriptor and takes and returns typed
//! values; what an error number means for these requests is said once, by [`IoctlError`].

pub mod block;
pub mod device_mapper;
pub mod extended_attribute;
pub mod grow;
pub mod inode_flags;
pub mod keyring;
#[cfg(feature = "luks")]
pub mod libcryptsetup;
pub mod loop_control;
pub mod memory;
pub mod mount;
pub mod partition;
pub mod spawn;

use nix::errno::Errno;

/// Why the kernel refused an ioctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoctlError {
    /// `EBUSY`: somebody else holds the device, or was quicker to take the number.
    #[error("the device is in use")]
    Busy,
    /// Any other error number, as the kernel gave it.
    #[error("{0}")]
    Kernel(Errno),
    /// `ENXIO`: the loop device has no backing file.
    #[error("the device is not bound to a backing file")]
    NotBound,
    /// `EPERM` or `EACCES`: a privilege or an open mode is missing.
    #[error("the privilege for this request is missing")]
    NotPermitted,
    /// `ENOTTY` or `EOPNOTSUPP`: the descriptor is not of the kind the request is for, or the kernel or the file
    /// system does not know the request.
    #[error("the request is not known to this kind of descriptor, file system or kernel")]
    Unsupported,
}

impl From<Errno> for IoctlError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EBUSY => Self::Busy,
            Errno::ENXIO => Self::NotBound,
            Errno::EPERM | Errno::EACCES => Self::NotPermitted,
            Errno::ENOTTY | Errno::EOPNOTSUPP => Self::Unsupported,
            other => Self::Kernel(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_number_with_a_known_meaning_has_its_name() {
        for (errno, expected) in [
            (Errno::EBUSY, IoctlError::Busy),
            (Errno::ENXIO, IoctlError::NotBound),
            (Errno::EPERM, IoctlError::NotPermitted),
            (Errno::EACCES, IoctlError::NotPermitted),
            (Errno::ENOTTY, IoctlError::Unsupported),
            (Errno::EOPNOTSUPP, IoctlError::Unsupported),
            (Errno::EINVAL, IoctlError::Kernel(Errno::EINVAL)),
        ] {
            assert_eq!(IoctlError::from(errno), expected);
        }
    }
}
