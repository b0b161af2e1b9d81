//! Taking a device-mapper device down: only the one that was meant, and only when nobody uses it.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::libc;

use super::{Control, DeviceMapperError, open_node, status};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::holders::Holders;
use crate::kernel::pause;
use crate::kernel::raw::device_mapper::{self as raw, Key};
use crate::kernel::raw::{IoctlError, block};

/// The pause between two looks: the kernel removes a device after its last user closed it, in a worker of its own.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// One device-mapper device. Numbers, names and UUIDs are reused; this is never the same again in one boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Major and minor number.
    pub device: DeviceNumber,
    /// Its UUID.
    pub uuid: String,
    /// The number that the kernel gave to this device and no other.
    pub disk_sequence: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UUID '{}', disk sequence number {}", self.uuid, self.disk_sequence)
    }
}

/// How a removal that did not fail went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The device was not there.
    AlreadyGone,
    /// It was removed now.
    Removed,
}

/// Why a device-mapper device was not taken down.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The number belongs to another device now: the one that was meant is gone, and this one is somebody else's.
    #[error("removing device-mapper device {}: expected {expected}, found {found}", .expected.device)]
    AnotherDevice {
        /// What was to be removed.
        expected: Identity,
        /// What is there.
        found: Identity,
    },
    /// The device cannot be opened or asked.
    #[error(transparent)]
    DeviceMapper(#[from] DeviceMapperError),
    /// Somebody uses the device; nothing was changed.
    #[error("removing device-mapper device '{device}': the device is in use: {holders}")]
    InUse {
        /// Its name or number.
        device: String,
        /// Who.
        holders: Holders,
    },
    /// The device has a live table: it is no leftover.
    #[error("removing device-mapper device '{uuid}' as a leftover: it was activated by somebody")]
    Live {
        /// Its UUID.
        uuid: String,
    },
    /// Somebody still has it open at the deadline. It is removed when they close it.
    #[error(
        "removing device-mapper device '{device}': the device is still open elsewhere and goes away when it is closed"
    )]
    StillOpen {
        /// Its UUID.
        device: String,
    },
}

/// Removes the device `expected` if nobody uses it, and waits until it is gone or the deadline has come.
///
/// A device whose removal is already deferred is on its way: it is only waited for.
///
/// # Errors
/// A [`RemoveError`]; except for [`RemoveError::StillOpen`] nothing has changed then.
pub fn remove(expected: &Identity, deadline: Instant) -> Result<Removed, RemoveError> {
    let Some(control) = Control::open()? else { return Ok(Removed::AlreadyGone) };
    let device = expected.device;
    let Some(node) = open_node(device, 0)? else { return Ok(Removed::AlreadyGone) };
    // As long as `node` is open the device cannot be removed and its number given to another behind our back.
    let Some(found) = control.describe(Key::Device(device.packed()))? else {
        return Ok(Removed::AlreadyGone);
    };
    let name = String::from_utf8_lossy(&found.name).into_owned();
    let failing = |operation| {
        let device = name.clone();
        move |source| DeviceMapperError::Ioctl { device, operation, source }
    };
    let identity = Identity {
        device,
        uuid: String::from_utf8_lossy(&found.uuid).into_owned(),
        disk_sequence: block::disk_sequence(node.as_fd())
            .map_err(failing("reading the disk sequence number"))?,
    };
    if identity != *expected {
        return Err(RemoveError::AnotherDevice { expected: expected.clone(), found: identity });
    }
    let exclusive = match open_node(device, libc::O_EXCL) {
        Ok(Some(exclusive)) => Some(exclusive),
        Ok(None) => return Ok(Removed::AlreadyGone),
        Err(error) if is_busy(&error) => None,
        Err(error) => return Err(error.into()),
    };
    let going = found.flags & raw::DEFERRED_REMOVE != 0;
    if exclusive.is_none() && !going {
        return Err(RemoveError::InUse { device: name, holders: Holders::of(device) });
    }
    if !going {
        raw::remove_deferred(control.fd(), Key::Device(device.packed()))
            .map_err(failing("removal"))?
            .ok_or_else(|| failing("removal")(IoctlError::Kernel(nix::errno::Errno::ENXIO)))?;
    }
    let in_use = exclusive.is_none();
    drop(exclusive);
    drop(node);
    match wait_until_gone(&control, expected, deadline)? {
        true => Ok(Removed::Removed),
        false if in_use => Err(RemoveError::InUse { device: name, holders: Holders::of(device) }),
        false => Err(RemoveError::StillOpen { device: name }),
    }
}

/// Removes the device of this UUID where it was never activated: what a process leaves that is killed while it makes
/// one. Only whoever may make a device of this UUID may ask for it.
///
/// # Errors
/// [`RemoveError::Live`] where it was activated; [`RemoveError::StillOpen`] where somebody has it open at the deadline.
pub fn remove_unfinished(uuid: &str, deadline: Instant) -> Result<Removed, RemoveError> {
    let Some(control) = Control::open()? else { return Ok(Removed::AlreadyGone) };
    let key = Key::Uuid(uuid);
    let mut outcome = Removed::AlreadyGone;
    loop {
        let Some(found) = control.describe(key)? else { return Ok(outcome) };
        if found.flags & raw::ACTIVE_PRESENT != 0 {
            return Err(RemoveError::Live { uuid: uuid.to_owned() });
        }
        match raw::remove(control.fd(), key) {
            Ok(Some(())) => return Ok(Removed::Removed),
            Ok(None) => return Ok(outcome),
            Err(IoctlError::Busy) => outcome = Removed::Removed,
            Err(source) => {
                let device = uuid.to_owned();
                return Err(DeviceMapperError::Ioctl { device, operation: "removal", source }.into());
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RemoveError::StillOpen { device: uuid.to_owned() });
        }
        pause(LOOK_AGAIN.min(left));
    }
}

/// Whether an exclusive open failed because somebody has the device.
fn is_busy(error: &DeviceMapperError) -> bool {
    matches!(error, DeviceMapperError::OpeningNode { source, .. } if busy(source))
}

fn busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Looks without opening the device: an open descriptor would keep it.
fn wait_until_gone(
    control: &Control,
    expected: &Identity,
    deadline: Instant,
) -> Result<bool, DeviceMapperError> {
    loop {
        let found = control.describe(Key::Device(expected.device.packed()))?;
        let same = found.is_some_and(|found| found.uuid == expected.uuid.as_bytes())
            && status::disk_sequence(expected.device).is_none_or(|found| found == expected.disk_sequence);
        if !same {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        pause(LOOK_AGAIN.min(left));
    }
}
