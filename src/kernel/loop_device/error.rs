//! Why a loop device cannot be had, and what of it was compared.

use std::fmt;
use std::io;

use super::MAXIMUM_REFERENCE_LENGTH;
use crate::format::units::{Extent, SectorSize};
use crate::kernel::raw::IoctlError;

/// Why a loop device could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The device is not as it was asked for; it was unbound again.
    #[error("checking loop device {number}: expected {attribute} {expected}, found {found}")]
    Differs {
        /// The N of `/dev/loopN`.
        number: u32,
        /// What differs.
        attribute: Attribute,
        /// What was asked for.
        expected: String,
        /// What the kernel shows.
        found: String,
    },
    /// There is no byte to show. To the kernel a length of zero means everything, so it never gets one.
    #[error("an extent without bytes cannot be a loop device")]
    EmptyExtent,
    /// Others were quicker every time.
    #[error("no loop device was left free in {attempts} attempts")]
    Exhausted {
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel refused a request.
    #[error("{operation} of loop device {number}")]
    Ioctl {
        /// The N of `/dev/loopN`.
        number: u32,
        /// What was asked of it.
        operation: &'static str,
        /// The kernel's answer.
        source: IoctlError,
    },
    /// The kernel gives no number for a new device.
    #[error("asking for a free loop device")]
    NoFreeNumber(#[source] IoctlError),
    /// Start or length is not a multiple of the block size.
    #[error("{extent} do not begin and end at a multiple of {block_size} bytes")]
    NotAligned {
        /// What was to be shown.
        extent: Extent,
        /// What it must be a multiple of.
        block_size: SectorSize,
    },
    /// The loop driver is not there: no `/dev/loop-control`.
    #[error("opening '/dev/loop-control'")]
    OpeningControl(#[source] io::Error),
    /// The device node cannot be opened, or is not that device.
    #[error("opening '/dev/loop{number}'")]
    OpeningNode {
        /// The N of `/dev/loopN`.
        number: u32,
        /// What went wrong.
        source: io::Error,
    },
    /// The backing file does not say what and how large it is.
    #[error("examining the backing file of a loop device")]
    ReadingBacking(#[source] io::Error),
    /// The reference is empty, too long or has a NUL in it.
    #[error(
        "expected a loop reference of 1 to {MAXIMUM_REFERENCE_LENGTH} bytes without NUL, found {length} bytes"
    )]
    Reference {
        /// Its length in bytes.
        length: usize,
    },
}

/// What of a device was compared with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// Device and inode of the backing file.
    BackingFile,
    /// Logical block size in bytes.
    BlockSize,
    /// The flags of `linux/loop.h`.
    Flags,
    /// First byte shown.
    Offset,
    /// The N of `/dev/loopN`.
    Number,
    /// Whether writes fail.
    ReadOnly,
    /// The name it carries.
    Reference,
    /// Number of bytes shown.
    Size,
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BackingFile => "backing file",
            Self::BlockSize => "block size",
            Self::Flags => "flags",
            Self::Offset => "offset",
            Self::Number => "number",
            Self::ReadOnly => "read-only state",
            Self::Reference => "reference",
            Self::Size => "size",
        })
    }
}
