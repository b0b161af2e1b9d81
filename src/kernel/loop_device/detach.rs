//! Taking a loop device down: only the one that was meant, and only when nobody uses it.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::libc;

use super::status::{self, LoopStatus, StatusError};
use super::{node_path, open_node};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::holders::Holders;
use crate::kernel::pause;
use crate::kernel::raw::{IoctlError, block, loop_control};

/// The pause between two looks at sysfs: the kernel unbinds with the last descriptor (udev may be looking at the
/// device) and the event that it sends then comes before the device is free.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// One binding of a loop device. Numbers are reused, files can be bound twice; this is never the same again in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The file system that the backing file is on.
    pub backing_device: DeviceNumber,
    /// The inode number of the backing file.
    pub backing_inode: u64,
    /// The number that the kernel gave to this binding.
    pub disk_sequence: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backing_device, backing_inode, disk_sequence } = self;
        write!(f, "inode {backing_inode} on {backing_device}, disk sequence number {disk_sequence}")
    }
}

/// How a detach that did not fail went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The device was not there, or not bound.
    AlreadyGone,
    /// It was unbound now.
    Unbound,
}

/// Why a loop device was not taken down.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The number belongs to another binding now: the device that was meant is gone, and this one is somebody else's.
    #[error("detaching '/dev/loop{number}': expected {expected}, found {found}")]
    AnotherDevice {
        /// The N of `/dev/loopN`.
        number: u32,
        /// What was to be detached.
        expected: Identity,
        /// What is there.
        found: Identity,
    },
    /// Somebody uses the device; nothing was changed.
    #[error("detaching '/dev/loop{number}': the device is in use: {holders}")]
    InUse {
        /// The N of `/dev/loopN`.
        number: u32,
        /// Who.
        holders: Holders,
    },
    /// The kernel refused to unbind it.
    #[error("detaching '/dev/loop{number}'")]
    Ioctl {
        /// The N of `/dev/loopN`.
        number: u32,
        /// The kernel's answer.
        source: IoctlError,
    },
    /// The device node cannot be opened, or is not that device.
    #[error("opening '/dev/loop{number}'")]
    OpeningNode {
        /// The N of `/dev/loopN`.
        number: u32,
        /// What went wrong.
        source: io::Error,
    },
    /// Somebody still has it open at the deadline. It is unbound when they close it.
    #[error(
        "detaching '/dev/loop{number}': the device is still open elsewhere and goes away when it is closed"
    )]
    StillOpen {
        /// The N of `/dev/loopN`.
        number: u32,
    },
    /// The device cannot be described.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// What was written to it may not have arrived in the backing file; nothing was changed.
    #[error("writing what is left to '/dev/loop{number}'")]
    Syncing {
        /// The N of `/dev/loopN`.
        number: u32,
        /// What went wrong.
        source: io::Error,
    },
}

/// Takes down loop device `number` if it is still the binding `expected` and nobody uses it, and waits until it is
/// unbound or the deadline has come.
///
/// # Errors
/// A [`DetachError`]; except for [`DetachError::StillOpen`] nothing has changed then.
pub fn detach(number: u32, expected: &Identity, deadline: Instant) -> Result<Detached, DetachError> {
    let opening = |source| DetachError::OpeningNode { number, source };
    let Some((node, device)) = open_node(number, libc::O_RDONLY).map_err(opening)? else {
        return Ok(Detached::AlreadyGone);
    };
    let found = match LoopStatus::read(number, node.as_fd()) {
        Ok(status) => status,
        Err(StatusError::Ioctl { source: IoctlError::NotBound, .. }) => return Ok(Detached::AlreadyGone),
        Err(error) => return Err(error.into()),
    };
    if found.identity() != *expected {
        return Err(DetachError::AnotherDevice { number, expected: *expected, found: found.identity() });
    }
    // As long as `node` is open the device cannot be unbound and bound to something else behind our back.
    let exclusive = match open_node(number, libc::O_RDONLY | libc::O_EXCL) {
        Ok(Some((exclusive, same))) if same == device => exclusive,
        Ok(_) => {
            return Err(opening(io::Error::other(format!("'{}' was replaced", node_path(number).display()))));
        }
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            return Err(DetachError::InUse { number, holders: Holders::of(device) });
        }
        Err(error) => return Err(opening(error)),
    };
    let sequence =
        block::disk_sequence(exclusive.as_fd()).map_err(|source| DetachError::Ioctl { number, source })?;
    if sequence != expected.disk_sequence {
        let found = Identity { disk_sequence: sequence, ..found.identity() };
        return Err(DetachError::AnotherDevice { number, expected: *expected, found });
    }
    if !found.read_only {
        exclusive.sync_all().map_err(|source| DetachError::Syncing { number, source })?;
    }
    match loop_control::unbind(exclusive.as_fd()) {
        Ok(()) => {}
        Err(IoctlError::NotBound) => return Ok(Detached::AlreadyGone),
        Err(source) => return Err(DetachError::Ioctl { number, source }),
    }
    drop(exclusive);
    drop(node);
    wait_until_unbound(number, expected.disk_sequence, deadline)
}

/// Waits until the binding `expected` of loop device `number` is gone: what stood on it was its last user, and the kernel
/// unbinds it some time after that one has gone.
///
/// # Errors
/// [`DetachError::InUse`] where somebody uses it at the deadline.
pub fn wait_until_gone(number: u32, expected: &Identity, deadline: Instant) -> Result<Detached, DetachError> {
    match wait_until_unbound(number, expected.disk_sequence, deadline) {
        Err(DetachError::StillOpen { .. }) => {
            let device = status::device_number(number).ok().flatten();
            let holders = device.map(Holders::of).unwrap_or_default();
            Err(DetachError::InUse { number, holders })
        }
        other => other,
    }
}

/// Looks at sysfs, not at the device: an open descriptor would keep it bound.
fn wait_until_unbound(number: u32, disk_sequence: u64, deadline: Instant) -> Result<Detached, DetachError> {
    loop {
        if !status::is_bound(number) || status::disk_sequence(number) != Some(disk_sequence) {
            return Ok(Detached::Unbound);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DetachError::StillOpen { number });
        }
        pause(LOOK_AGAIN.min(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_already_gone() {
        let identity =
            Identity { backing_device: DeviceNumber::new(0, 1), backing_inode: 1, disk_sequence: 1 };
        assert_eq!(detach(u32::MAX, &identity, Instant::now()).unwrap(), Detached::AlreadyGone);
    }
}
