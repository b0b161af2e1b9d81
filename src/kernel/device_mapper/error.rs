//! Why a device-mapper device cannot be had, and what of it was compared.

use std::fmt;
use std::io;
use std::path::PathBuf;

use devicemapper::DmError;
use devicemapper::errors::Error as CoreError;
use nix::errno::Errno;

use super::signature::SignatureRefusal;
use super::{MAXIMUM_NAME_LENGTH, MAXIMUM_UUID_LENGTH};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::keyring::KeyringError;
use crate::kernel::raw::IoctlError;

/// Why a device-mapper device could not be had or described.
#[derive(Debug, thiserror::Error)]
pub enum DeviceMapperError {
    /// The kernel's answer makes no sense to us.
    #[error("{operation} of device-mapper device '{device}': {answer}")]
    Answer {
        /// Its name, UUID or number.
        device: String,
        /// What was asked of it.
        operation: &'static str,
        /// What is wrong with the answer.
        answer: String,
    },
    /// The kernel does not say whether it has a target.
    #[error("asking the device mapper for the target '{target}'")]
    AskingTarget {
        /// The name of the target.
        target: &'static str,
        /// The kernel's answer.
        source: IoctlError,
    },
    /// The device is not as it was asked for; where it was made just now, it was removed again.
    #[error("checking device-mapper device '{device}': expected {attribute} {expected}, found {found}")]
    Differs {
        /// Its name.
        device: String,
        /// What differs.
        attribute: Attribute,
        /// What was asked for.
        expected: String,
        /// What the kernel shows.
        found: String,
    },
    /// The kernel refused a request.
    #[error("{operation} of device-mapper device '{device}'")]
    Ioctl {
        /// Its name, UUID or number.
        device: String,
        /// What was asked of it.
        operation: &'static str,
        /// The kernel's answer.
        source: IoctlError,
    },
    /// The signature could not be handed to the kernel.
    #[error("handing the root hash signature of '{device}' to the kernel")]
    Keyring {
        /// The name of the device.
        device: String,
        /// What went wrong.
        source: KeyringError,
    },
    /// The directory of block devices cannot be read.
    #[error("listing '/sys/block'")]
    Listing(#[source] io::Error),
    /// The kernel would take another name, or none.
    #[error(
        "expected a device-mapper name of 1 to {MAXIMUM_NAME_LENGTH} bytes of printable ASCII without '/' and blanks, found '{}'",
        .found.escape_debug()
    )]
    Name {
        /// The text.
        found: String,
    },
    /// There is a device of this name, made by somebody else.
    #[error(
        "creating device-mapper device '{name}': the name is taken by device {device} with UUID '{uuid}'; remove that one, or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        device: DeviceNumber,
        /// The UUID of that device, possibly empty.
        uuid: String,
    },
    /// The kernel shows no node of the device in time.
    #[error("waiting for '{}': the node did not appear", .path.display())]
    NoNode {
        /// The node.
        path: PathBuf,
    },
    /// The kernel has no such target.
    #[error("this kernel has no dm-{target}: it needs CONFIG_DM_{}, and its module where it is one", .target.to_ascii_uppercase())]
    NoTarget {
        /// Its name.
        target: &'static str,
    },
    /// The kernel has no dm-verity.
    #[error("this kernel has no dm-verity: it needs CONFIG_DM_VERITY, and its module where it is one")]
    NoVerity,
    /// The kernel has no device mapper.
    #[error("this kernel has no device mapper: there is no '{}'", super::CONTROL)]
    NotAvailable,
    /// The device mapper cannot be opened.
    #[error("opening '{}'", super::CONTROL)]
    OpeningControl(#[source] io::Error),
    /// The device node cannot be opened, or is not that device.
    #[error("opening '{}'", .path.display())]
    OpeningNode {
        /// The node.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel checked the signature of the root hash, or demands one, and refused.
    #[error("the kernel refuses the root hash of '{device}': {refusal}")]
    Signature {
        /// The name of the device.
        device: String,
        /// Why.
        refusal: SignatureRefusal,
    },
    /// No block device has that size.
    #[error(
        "creating device-mapper device '{device}': {blocks} data blocks of {block_size} bytes are no device"
    )]
    Size {
        /// The name of the device.
        device: String,
        /// How many data blocks.
        blocks: u64,
        /// Of how many bytes each.
        block_size: u32,
    },
    /// The kernel would take another UUID, or none.
    #[error(
        "expected a device-mapper UUID of 1 to {MAXIMUM_UUID_LENGTH} bytes of printable ASCII without blanks, found '{}'",
        .found.escape_debug()
    )]
    Uuid {
        /// The text.
        found: String,
    },
    /// There is a device of this UUID under another name.
    #[error(
        "creating device-mapper device '{name}': its UUID '{uuid}' is that of device {device}, '{other}'; remove that one first"
    )]
    UuidTaken {
        /// The name of the device that was to be made.
        name: String,
        /// The UUID.
        uuid: String,
        /// Whose it is.
        device: DeviceNumber,
        /// The name of that device.
        other: String,
    },
}

/// What of a device was compared with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// Whether it goes with its last user.
    DeferredRemoval,
    /// Major and minor number.
    Device,
    /// Its name.
    Name,
    /// Whether writes fail.
    ReadOnly,
    /// Number of bytes shown.
    Size,
    /// Whether it answers reads.
    Suspended,
    /// The live table.
    Table,
    /// Its UUID.
    Uuid,
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeferredRemoval => "deferred removal",
            Self::Device => "device number",
            Self::Name => "name",
            Self::ReadOnly => "read-only state",
            Self::Size => "size",
            Self::Suspended => "suspended state",
            Self::Table => "table",
            Self::Uuid => "UUID",
        })
    }
}

/// The error number inside an error of the crate, where there is one.
pub(super) fn errno(error: &DmError) -> Option<Errno> {
    match error {
        DmError::Core(CoreError::Ioctl(_, _, _, errno)) => Some(**errno),
        _ => None,
    }
}

/// An error of the crate as one of ours. Its own text names structures that say nothing to a user.
pub(super) fn of_crate(device: &str, operation: &'static str, error: &DmError) -> DeviceMapperError {
    let device = device.to_owned();
    match errno(error) {
        Some(errno) => DeviceMapperError::Ioctl { device, operation, source: errno.into() },
        None => DeviceMapperError::Answer { device, operation, answer: error.to_string() },
    }
}
