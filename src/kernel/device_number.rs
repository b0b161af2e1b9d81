//! The number of a block device, major and minor.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::libc::{self, dev_t};
use nix::sys::stat;

use crate::format::verity::table::MajorMinor;

/// A device number: what a device node stands for, and what names a file system in `/proc/self/mountinfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    major: u32,
    minor: u32,
}

impl DeviceNumber {
    /// Device `major`:`minor`.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The device number that stat(2) and LOOP_GET_STATUS64 pack into 64 bits.
    #[must_use]
    pub fn from_packed(packed: u64) -> Self {
        let part = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        Self { major: part(stat::major(packed)), minor: part(stat::minor(packed)) }
    }

    /// The number of the block device that the kernel calls `name`, such as `dm-0`; `None` where there is none.
    ///
    /// # Errors
    /// The error of reading sysfs.
    pub fn of_kernel_name(name: &str) -> io::Result<Option<Self>> {
        match fs::read_to_string(Path::new("/sys/block").join(name).join("dev")) {
            Ok(text) => text.trim_ascii().parse().map(Some).map_err(io::Error::other),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The block device that a node stands for; `None` where it is not the node of a block device.
    #[must_use]
    pub fn of_block_node(metadata: &Metadata) -> Option<Self> {
        metadata.file_type().is_block_device().then(|| Self::from_packed(metadata.rdev()))
    }

    /// The device of the file system that a file is on.
    #[must_use]
    pub fn of_file_system(metadata: &Metadata) -> Self {
        Self::from_packed(metadata.dev())
    }

    /// As stat(2) packs it.
    #[must_use]
    pub fn packed(self) -> dev_t {
        stat::makedev(u64::from(self.major), u64::from(self.minor))
    }

    /// The driver's half.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.major
    }

    /// The driver's own count.
    #[must_use]
    pub const fn minor(self) -> u32 {
        self.minor
    }

    /// Where sysfs shows the block device of this number.
    #[must_use]
    pub fn sysfs_path(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{self}"))
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl From<DeviceNumber> for MajorMinor {
    fn from(device: DeviceNumber) -> Self {
        Self { major: device.major, minor: device.minor }
    }
}

/// The text is not `major:minor` in decimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a device number 'major:minor', found '{found}'")]
pub struct DeviceNumberError {
    /// What was there instead.
    pub found: String,
}

impl FromStr for DeviceNumber {
    type Err = DeviceNumberError;

    /// Reads the form of sysfs and of `/proc/self/mountinfo`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        text.split_once(':')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| DeviceNumberError { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_packed_form_return_what_went_in() {
        for device in [DeviceNumber::new(7, 3), DeviceNumber::new(254, 0), DeviceNumber::new(259, 70_000)] {
            assert_eq!(device.to_string().parse(), Ok(device));
            assert_eq!(DeviceNumber::from_packed(device.packed()), device);
        }
    }

    #[test]
    fn text_that_is_not_two_numbers_is_refused() {
        for text in ["", ":", "7", "7:", ":3", "+7:3", "7: 3", "7:3:1", "7:4294967296", "a:b"] {
            assert_eq!(
                text.parse::<DeviceNumber>(),
                Err(DeviceNumberError { found: text.to_owned() }),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_character_device_is_not_a_block_device() {
        assert_eq!(DeviceNumber::of_block_node(&fs::metadata("/dev/null").unwrap()), None);
    }
}
