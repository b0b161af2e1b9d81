//! What loop devices there are and what they show.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;

use super::{Identity, MAXIMUM_REFERENCE_LENGTH, open_node};
use crate::format::units::{ByteLength, ByteOffset};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::raw::loop_control::{self, LoopInfo64};
use crate::kernel::raw::{IoctlError, block};

/// How many loop devices are looked at: the kernel's minor numbers have 20 bits.
const MAXIMUM_DEVICES: usize = 1 << 20;

/// A bound loop device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopStatus {
    /// The N of `/dev/loopN`.
    pub number: u32,
    /// Its own device number.
    pub device: DeviceNumber,
    /// The file system that the backing file is on.
    pub backing_device: DeviceNumber,
    /// The inode number of the backing file.
    pub backing_inode: u64,
    /// The first byte of the backing file that it shows.
    pub offset: ByteOffset,
    /// How many bytes it shows at most; zero for all there are.
    pub size_limit: ByteLength,
    /// The name it carries, as the kernel keeps it: up to 63 bytes of anything, often none.
    pub file_name: Vec<u8>,
    /// Whether writes fail.
    pub read_only: bool,
    /// Whether it is unbound with its last descriptor.
    pub autoclear: bool,
    /// The number that this binding has and no other, in this boot.
    pub disk_sequence: u64,
}

/// Why a loop device could not be described.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The kernel refused a question.
    #[error("reading the status of loop device {number}")]
    Ioctl {
        /// The N of `/dev/loopN`.
        number: u32,
        /// The kernel's answer; [`IoctlError::NotBound`] where it is not bound any more.
        source: IoctlError,
    },
    /// The directory of block devices cannot be read.
    #[error("listing '/sys/block'")]
    Listing(#[source] io::Error),
    /// The device node cannot be opened, or is not that device.
    #[error("opening '/dev/loop{number}'")]
    OpeningNode {
        /// The N of `/dev/loopN`.
        number: u32,
        /// What went wrong.
        source: io::Error,
    },
}

impl LoopStatus {
    /// The name it carries where that is text which cannot have been cut off: 1 to 62 bytes of UTF-8.
    #[must_use]
    pub fn reference(&self) -> Option<&str> {
        let length = self.file_name.len();
        (1..=MAXIMUM_REFERENCE_LENGTH)
            .contains(&length)
            .then(|| str::from_utf8(&self.file_name).ok())
            .flatten()
    }

    /// By what this binding is known again.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity {
            backing_device: self.backing_device,
            backing_inode: self.backing_inode,
            disk_sequence: self.disk_sequence,
        }
    }

    /// Asks an open device.
    pub(super) fn read(number: u32, node: BorrowedFd<'_>) -> Result<Self, StatusError> {
        let failing = |source| StatusError::Ioctl { number, source };
        let info = loop_control::status(node).map_err(failing)?;
        let disk_sequence = block::disk_sequence(node).map_err(failing)?;
        let stat = nix::sys::stat::fstat(node).map_err(|errno| failing(errno.into()))?;
        Ok(Self {
            number,
            device: DeviceNumber::from_packed(stat.st_rdev),
            backing_device: DeviceNumber::from_packed(info.backing_device),
            backing_inode: info.backing_inode,
            offset: ByteOffset::new(info.offset),
            size_limit: ByteLength::new(info.size_limit),
            file_name: file_name(&info).to_vec(),
            read_only: info.flags & loop_control::READ_ONLY != 0,
            autoclear: info.flags & loop_control::AUTOCLEAR != 0,
            disk_sequence,
        })
    }
}

/// What loop device `number` shows; `None` where it is not there or not bound.
///
/// # Errors
/// A [`StatusError`].
pub fn status(number: u32) -> Result<Option<LoopStatus>, StatusError> {
    let node = match open_node(number, libc::O_RDONLY) {
        Ok(Some((node, _))) => node,
        Ok(None) => return Ok(None),
        Err(source) => return Err(StatusError::OpeningNode { number, source }),
    };
    match LoopStatus::read(number, node.as_fd()) {
        Ok(status) => Ok(Some(status)),
        Err(StatusError::Ioctl { source: IoctlError::NotBound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every bound loop device, in the order of their numbers. One that comes or goes meanwhile may be missing.
///
/// # Errors
/// A [`StatusError`].
pub fn list() -> Result<Vec<LoopStatus>, StatusError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/sys/block").map_err(StatusError::Listing)?.take(MAXIMUM_DEVICES) {
        let name = entry.map_err(StatusError::Listing)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")).and_then(|n| n.parse().ok());
        numbers.extend(number.filter(|number| is_bound(*number)));
    }
    numbers.sort_unstable();
    let mut found = Vec::new();
    for number in numbers {
        found.extend(status(number)?);
    }
    Ok(found)
}

/// Whether sysfs shows a backing file. Unlike opening the device, this cannot keep it from being unbound.
pub(super) fn is_bound(number: u32) -> bool {
    fs::exists(format!("/sys/block/loop{number}/loop/backing_file")).unwrap_or(false)
}

/// The disk sequence number that sysfs shows; `None` where the device is gone or the kernel tells none.
pub(super) fn disk_sequence(number: u32) -> Option<u64> {
    fs::read_to_string(format!("/sys/block/loop{number}/diskseq")).ok()?.trim_ascii().parse().ok()
}

/// The device number that sysfs shows; `None` where there is no such device.
pub(super) fn device_number(number: u32) -> io::Result<Option<DeviceNumber>> {
    DeviceNumber::of_kernel_name(&format!("loop{number}"))
}

/// Whether the device has partitions, bound or not.
pub(super) fn has_partitions(number: u32) -> bool {
    let prefix = format!("loop{number}p");
    fs::read_dir(format!("/sys/block/loop{number}")).is_ok_and(|entries| {
        entries
            .take(MAXIMUM_DEVICES)
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
    })
}

/// The name field up to its NUL.
pub(super) fn file_name(info: &LoopInfo64) -> &[u8] {
    info.file_name.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(file_name: &[u8]) -> LoopStatus {
        LoopStatus {
            number: 0,
            device: DeviceNumber::new(7, 0),
            backing_device: DeviceNumber::new(8, 1),
            backing_inode: 2,
            offset: ByteOffset::ZERO,
            size_limit: ByteLength::ZERO,
            file_name: file_name.to_vec(),
            read_only: true,
            autoclear: false,
            disk_sequence: 1,
        }
    }

    #[test]
    fn a_name_that_may_have_been_cut_off_is_no_reference() {
        assert_eq!(named(b"image.raw").reference(), Some("image.raw"));
        assert_eq!(named(&[b'x'; 62]).reference().map(str::len), Some(62));
        assert_eq!(named(&[b'x'; 63]).reference(), None);
        assert_eq!(named(b"").reference(), None);
        assert_eq!(named(b"a\xff").reference(), None);
    }

    #[test]
    fn the_name_field_ends_at_its_first_nul_or_at_its_end() {
        let mut info = LoopInfo64::ZERO;
        assert_eq!(file_name(&info), b"");
        info.file_name = [b'x'; 64];
        assert_eq!(file_name(&info).len(), 64);
        info.file_name[3] = 0;
        assert_eq!(file_name(&info), b"xxx");
    }

    #[test]
    fn a_device_beyond_every_number_is_not_there() {
        assert!(matches!(status(u32::MAX), Ok(None)));
        assert!(!is_bound(u32::MAX));
        assert!(!has_partitions(u32::MAX));
        assert_eq!(disk_sequence(u32::MAX), None);
    }
}
