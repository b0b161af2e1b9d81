//! Device-mapper devices: dm-verity on top of loop devices, exactly the table that was asked for and nothing else.
//!
//! A device is made, looked at again as the kernel sees it, and taken down where anything is not as it was asked for.
//! Until [`MappedDevice::make_permanent`] it lives only as long as it is open: as soon as we have it open it is marked
//! for removal with its last user, so a process that dies leaves no device.
//!
//! Nothing here waits for udev. Whoever sends a udev cookie with a request waits, without a deadline, for rules that may
//! not be there; so the requests that would carry one are made without (`raw/device_mapper.rs`).

mod error;
mod mapping;
mod remove;
mod signature;
mod status;
mod unfinished;
mod verity;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use devicemapper::{DM, DevId, DmName, DmUuid};
use nix::libc;

use super::device_number::DeviceNumber;
use super::raw::device_mapper::{self as raw, Description, Key};
use super::raw::{IoctlError, block};

pub use error::{Attribute, DeviceMapperError};
pub use mapping::MappingRequest;
pub use remove::{Identity, RemoveError, Removed, remove, remove_unfinished};
pub use signature::{KernelSignature, NotChecked, SignatureRefusal, requires_signatures};
pub use status::{MappedStatus, MappedTarget, find_by_name, find_by_uuid, list, status};
pub use verity::VerityRequest;

/// The longest name that the kernel takes, in bytes (`DM_NAME_LEN` without the NUL).
pub const MAXIMUM_NAME_LENGTH: usize = raw::NAME_SIZE - 1;
/// The longest UUID that the kernel takes, in bytes (`DM_UUID_LEN` without the NUL).
pub const MAXIMUM_UUID_LENGTH: usize = raw::UUID_SIZE - 1;

/// Where the device mapper takes its requests.
const CONTROL: &str = "/dev/mapper/control";

/// The version of a device-mapper target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetVersion {
    /// Other major versions have other tables.
    pub major: u32,
    /// Later ones can do more.
    pub minor: u32,
    /// Later ones do it better.
    pub patch: u32,
}

impl std::fmt::Display for TargetVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Which dm-verity the kernel has, after loading its module; `None` where it has none, or no device mapper.
///
/// # Errors
/// A [`DeviceMapperError`] where the kernel does not say, for instance for lack of privilege.
pub fn supports_verity() -> Result<Option<TargetVersion>, DeviceMapperError> {
    match Control::open()? {
        Some(control) => control.target_version("verity"),
        None => Ok(None),
    }
}

/// The open device mapper.
struct Control {
    file: File,
    dm: DM,
}

impl Control {
    /// Opens the device mapper; `None` where the kernel has none.
    fn open() -> Result<Option<Self>, DeviceMapperError> {
        let absent = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTDIR))
        };
        // Opened by ourselves first: of the crate's error only a text is left.
        let file = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(CONTROL)
        {
            Ok(file) => file,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(DeviceMapperError::OpeningControl(error)),
        };
        let dm = DM::new()
            .map_err(|error| DeviceMapperError::OpeningControl(io::Error::other(error.to_string())))?;
        Ok(Some(Self { file, dm }))
    }

    /// The device mapper of a device that is there.
    fn required() -> Result<Self, DeviceMapperError> {
        Self::open()?.ok_or(DeviceMapperError::NotAvailable)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn target_version(&self, target: &'static str) -> Result<Option<TargetVersion>, DeviceMapperError> {
        let version = raw::target_version(self.fd(), target)
            .map_err(|source| DeviceMapperError::AskingTarget { target, source })?;
        Ok(version.map(|[major, minor, patch]| TargetVersion { major, minor, patch }))
    }

    /// What device this is; `None` where there is none.
    fn describe(&self, key: Key<'_>) -> Result<Option<Description>, DeviceMapperError> {
        raw::describe(self.fd(), key).map_err(|source| DeviceMapperError::Ioctl {
            device: spelled(key),
            operation: "reading the status",
            source,
        })
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A key as a message names the device.
fn spelled(key: Key<'_>) -> String {
    match key {
        Key::Name(text) | Key::Uuid(text) => text.to_owned(),
        Key::Device(device) => DeviceNumber::from_packed(device).to_string(),
    }
}

/// A device-mapper device, held open.
///
/// Dropping it closes the descriptor; unless the device was made permanent, the kernel removes it with the last one.
#[derive(Debug)]
pub struct MappedDevice {
    control: Control,
    name: String,
    uuid: String,
    device: DeviceNumber,
    disk_sequence: u64,
    node: File,
}

impl MappedDevice {
    /// The device of this number, where there is one; open for reading, and neither marked for removal nor unmarked.
    ///
    /// # Errors
    /// A [`DeviceMapperError`] where the device cannot be opened or asked.
    pub fn open_existing(device: DeviceNumber) -> Result<Option<Self>, DeviceMapperError> {
        let Some(control) = Control::open()? else { return Ok(None) };
        let Some(node) = open_node(device, 0)? else { return Ok(None) };
        // Asked while it is open: no other device can have the number now.
        let Some(found) = control.describe(Key::Device(device.packed()))? else { return Ok(None) };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self::adopt(control, text(&found.name), text(&found.uuid), device, node).map(Some)
    }

    /// The name, which `dmsetup` shows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The UUID; empty where a foreign device has none.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Major and minor number.
    #[must_use]
    pub const fn device_number(&self) -> DeviceNumber {
        self.device
    }

    /// The device node, `/dev/dm-N`: the kernel's own, not a link that somebody else makes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node_path(self.device)
    }

    /// The number that this device has and no other, in this boot.
    #[must_use]
    pub const fn disk_sequence(&self) -> u64 {
        self.disk_sequence
    }

    /// The descriptor that keeps the device, open for reading.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }

    /// By what [`remove`] knows this device again, and no other.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { device: self.device, uuid: self.uuid.clone(), disk_sequence: self.disk_sequence }
    }

    /// What the kernel shows of the device.
    ///
    /// # Errors
    /// A [`DeviceMapperError`].
    pub fn status(&self) -> Result<Option<MappedStatus>, DeviceMapperError> {
        status::read(&self.control, self.device)
    }

    /// Marks the device for removal with its last user: it lives only as long as somebody has it open.
    ///
    /// # Errors
    /// [`DeviceMapperError::Ioctl`], or [`DeviceMapperError::Differs`] where the mark is not there.
    pub fn tether(&self) -> Result<(), DeviceMapperError> {
        raw::remove_deferred(self.control.fd(), self.key())
            .map_err(self.failing("marking for removal"))?
            .ok_or_else(|| {
                self.failing("marking for removal")(IoctlError::Kernel(nix::errno::Errno::ENXIO))
            })?;
        self.compare_mark(true)
    }

    /// Lets the device outlive its users, until somebody removes it.
    ///
    /// # Errors
    /// [`DeviceMapperError::Ioctl`], or [`DeviceMapperError::Differs`] where the mark did not go away.
    pub fn make_permanent(&self) -> Result<(), DeviceMapperError> {
        let operation = "making permanent";
        let by_uuid;
        let by_name;
        let id = if self.uuid.is_empty() {
            by_name =
                DmName::new(&self.name).map_err(|error| error::of_crate(&self.name, operation, &error))?;
            DevId::Name(by_name)
        } else {
            by_uuid =
                DmUuid::new(&self.uuid).map_err(|error| error::of_crate(&self.name, operation, &error))?;
            DevId::Uuid(by_uuid)
        };
        self.control
            .dm
            .target_msg(&id, None, "@cancel_deferred_remove")
            .map_err(|error| error::of_crate(&self.name, operation, &error))?;
        self.compare_mark(false)
    }

    fn compare_mark(&self, expected: bool) -> Result<(), DeviceMapperError> {
        let found = self.control.describe(self.key())?;
        let marked = found.is_some_and(|found| found.flags & raw::DEFERRED_REMOVE != 0);
        compare(&self.name, Attribute::DeferredRemoval, &expected, &marked)
    }

    /// By number: the device is open, so no other can have it.
    fn key(&self) -> Key<'static> {
        Key::Device(self.device.packed())
    }

    fn failing(&self, operation: &'static str) -> impl Fn(IoctlError) -> DeviceMapperError {
        let device = self.name.clone();
        move |source| DeviceMapperError::Ioctl { device: device.clone(), operation, source }
    }

    fn adopt(
        control: Control,
        name: String,
        uuid: String,
        device: DeviceNumber,
        node: File,
    ) -> Result<Self, DeviceMapperError> {
        let disk_sequence =
            block::disk_sequence(node.as_fd()).map_err(|source| DeviceMapperError::Ioctl {
                device: name.clone(),
                operation: "reading the disk sequence number",
                source,
            })?;
        Ok(Self { control, name, uuid, device, disk_sequence, node })
    }
}

fn compare<T: PartialEq + ToString>(
    device: &str,
    attribute: Attribute,
    expected: &T,
    found: &T,
) -> Result<(), DeviceMapperError> {
    if expected == found {
        return Ok(());
    }
    Err(DeviceMapperError::Differs {
        device: device.to_owned(),
        attribute,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

/// The node of a device-mapper device: the driver names it by its minor number.
fn node_path(device: DeviceNumber) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{}", device.minor()))
}

/// Opens the node of a device for reading and makes sure that it is that device's; `None` where it is not there.
fn open_node(device: DeviceNumber, flags: i32) -> Result<Option<File>, DeviceMapperError> {
    let path = node_path(device);
    let opening = |source| DeviceMapperError::OpeningNode { path: path.clone(), source };
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW | flags;
    let node = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(node) => node,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) => {
            return Ok(None);
        }
        Err(error) => return Err(opening(error)),
    };
    let found = node.metadata().map(|metadata| DeviceNumber::of_block_node(&metadata)).map_err(opening)?;
    if found == Some(device) {
        return Ok(Some(node));
    }
    let found = found.map_or_else(|| "no block device".to_owned(), |found| found.to_string());
    Err(opening(io::Error::other(format!("expected block device {device}, found {found}"))))
}
