//! What every new device needs, whatever it does: a name and a UUID that the kernel takes whole, a node, the mark by which
//! it goes with us, a look at what came of it, and its removal where it does not come to be.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use devicemapper::{DmFlags, DmName, DmOptions, DmUuid};
use nix::errno::Errno;

use super::error::{errno, of_crate};
use super::status::{self, MappedStatus};
use super::{
    Attribute, Control, DeviceMapperError, MAXIMUM_NAME_LENGTH, MAXIMUM_UUID_LENGTH, compare, node_path,
    open_node,
};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::pause;
use crate::kernel::raw::device_mapper::{self as raw, Key};
use crate::kernel::raw::{IoctlError, block};

/// How long the node of a new device may take to appear, and a failed one to go. The kernel makes and removes nodes
/// while it answers; only a machine without devtmpfs, or a udev that looks at the device, takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two looks: nobody tells that a node is there or a name free.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A device that is to be made, as the kernel will take it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) uuid: &'a str,
    /// Its length in sectors of 512 bytes.
    pub(super) sectors: u64,
    pub(super) read_only: bool,
}

impl<'a> Wanted<'a> {
    /// The name as the crate wants it.
    pub(super) fn dm_name(&self) -> Result<&'a DmName, DeviceMapperError> {
        let name = self.name;
        let valid = name.len() <= MAXIMUM_NAME_LENGTH
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
            && !matches!(name, "." | ".." | "control");
        let wrong = || DeviceMapperError::Name { found: name.to_owned() };
        DmName::new(name).ok().filter(|_| valid).ok_or_else(wrong)
    }

    /// The UUID as the crate wants it.
    pub(super) fn dm_uuid(&self) -> Result<&'a DmUuid, DeviceMapperError> {
        let uuid = self.uuid;
        let valid = uuid.len() <= MAXIMUM_UUID_LENGTH && uuid.bytes().all(|byte| byte.is_ascii_graphic());
        let wrong = || DeviceMapperError::Uuid { found: uuid.to_owned() };
        DmUuid::new(uuid).ok().filter(|_| valid).ok_or_else(wrong)
    }

    /// The flags of every request that says what the device is to be.
    pub(super) fn options(&self) -> DmOptions {
        let flags = if self.read_only { DmFlags::DM_READONLY } else { DmFlags::empty() };
        DmOptions::default().set_flags(flags)
    }

    /// Makes the device, without a table. It is removed again with the answer, unless that is told to keep it.
    pub(super) fn create<'c>(&self, control: &'c Control) -> Result<Unfinished<'a, 'c>, DeviceMapperError> {
        match control.dm.device_create(self.dm_name()?, Some(self.dm_uuid()?), self.options()) {
            Ok(info) => {
                let device = DeviceNumber::new(info.device().major, info.device().minor);
                Ok(Unfinished { wanted: *self, control, device, kept: false })
            }
            Err(error) if errno(&error) == Some(Errno::EBUSY) => Err(self.taken(control)?),
            Err(error) => Err(of_crate(self.name, "creation", &error)),
        }
    }

    /// Who has the name or the UUID.
    fn taken(&self, control: &Control) -> Result<DeviceMapperError, DeviceMapperError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (name, uuid) = (self.name.to_owned(), self.uuid.to_owned());
        if let Some(found) = control.describe(Key::Name(&name))? {
            let device = DeviceNumber::from_packed(found.device);
            return Ok(DeviceMapperError::NameTaken { name, device, uuid: text(&found.uuid) });
        }
        if let Some(found) = control.describe(Key::Uuid(&uuid))? {
            let device = DeviceNumber::from_packed(found.device);
            return Ok(DeviceMapperError::UuidTaken { name, uuid, device, other: text(&found.name) });
        }
        Ok(DeviceMapperError::Ioctl { device: name, operation: "creation", source: IoctlError::Busy })
    }

    /// An error of the kernel about this device.
    pub(super) fn failing(&self, operation: &'static str) -> impl Fn(IoctlError) -> DeviceMapperError {
        let device = self.name.to_owned();
        move |source| DeviceMapperError::Ioctl { device: device.clone(), operation, source }
    }
}

/// A device that is being made. Dropping it removes the device, unless it was kept: close its node before.
pub(super) struct Unfinished<'a, 'c> {
    wanted: Wanted<'a>,
    control: &'c Control,
    device: DeviceNumber,
    kept: bool,
}

impl Unfinished<'_, '_> {
    /// Opens the node, as soon as it is there, marks the device for removal with its last user, and makes the loaded table
    /// the live one. From here on the device goes with our descriptor, however we end.
    pub(super) fn bring_up(&self) -> Result<File, DeviceMapperError> {
        let node = wait_for_node(self.device)?;
        let gone = || IoctlError::Kernel(Errno::ENXIO);
        raw::remove_deferred(self.control.fd(), Key::Device(self.device.packed()))
            .and_then(|found| found.ok_or_else(gone))
            .map_err(self.wanted.failing("marking for removal"))?;
        raw::resume(self.control.fd(), Key::Uuid(self.wanted.uuid))
            .and_then(|found| found.ok_or_else(gone))
            .map_err(self.wanted.failing("activation"))?;
        Ok(node)
    }

    /// Compares what the kernel shows of the device, but for its table, with what was asked for.
    pub(super) fn check(&self, node: &File) -> Result<MappedStatus, DeviceMapperError> {
        let Wanted { name, uuid, sectors, read_only } = self.wanted;
        let failing = |operation| self.wanted.failing(operation);
        let found = status::read(self.control, self.device)?
            .ok_or_else(|| failing("reading the status")(IoctlError::Kernel(Errno::ENXIO)))?;
        compare(name, Attribute::Name, &name, &found.name.as_str())?;
        compare(name, Attribute::Uuid, &uuid, &found.uuid.as_str())?;
        compare(name, Attribute::Device, &self.device, &found.device)?;
        compare(name, Attribute::ReadOnly, &read_only, &found.read_only)?;
        compare(name, Attribute::Suspended, &false, &found.suspended)?;
        compare(name, Attribute::DeferredRemoval, &true, &found.deferred_removal)?;
        let size = block::size(node.as_fd()).map_err(failing("reading the size"))?;
        compare(name, Attribute::Size, &sectors.saturating_mul(512), &size.bytes())?;
        let node_read_only =
            block::is_read_only(node.as_fd()).map_err(failing("reading the read-only state"))?;
        compare(name, Attribute::ReadOnly, &read_only, &node_read_only)?;
        Ok(found)
    }

    /// Leaves the device to whoever has its node open, and gives its number.
    pub(super) fn keep(mut self) -> DeviceNumber {
        self.kept = true;
        self.device
    }
}

/// Opens the node of a new device, as soon as it is there.
fn wait_for_node(device: DeviceNumber) -> Result<File, DeviceMapperError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(node) = open_node(device, 0)? {
            return Ok(node);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DeviceMapperError::NoNode { path: node_path(device) });
        }
        pause(LOOK_AGAIN.min(left));
    }
}

impl Drop for Unfinished<'_, '_> {
    /// Asks for the removal, now or with the last user, and waits until it has happened. The error that brought us here
    /// is the one to report.
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let key = Key::Uuid(self.wanted.uuid);
        let mut there = raw::remove_deferred(self.control.fd(), key).map(|found| found.is_some());
        while matches!(there, Ok(true)) && Instant::now() < deadline {
            there = raw::describe(self.control.fd(), key).map(|found| found.is_some());
            if matches!(there, Ok(true)) {
                pause(LOOK_AGAIN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(name: &'a str, uuid: &'a str) -> Wanted<'a> {
        Wanted { name, uuid, sectors: 8, read_only: true }
    }

    #[test]
    fn a_name_that_the_kernel_would_change_is_refused() {
        for name in ["", "a b", "a/b", "gr\u{fc}n", ".", "..", "control", "a\0b", "a\nb", &"x".repeat(128)] {
            let error = wanted(name, "u").dm_name().err();
            assert!(matches!(error, Some(DeviceMapperError::Name { .. })), "{name:?}");
        }
        for name in ["a", "a\\x20b", "...", &"x".repeat(127)] {
            assert!(wanted(name, "u").dm_name().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_uuid_that_the_kernel_would_change_is_refused() {
        for uuid in ["", "a b", "gr\u{fc}n", "a\0b", &"x".repeat(129)] {
            let error = wanted("n", uuid).dm_uuid().err();
            assert!(matches!(error, Some(DeviceMapperError::Uuid { .. })), "{uuid:?}");
        }
        assert!(wanted("n", &"x".repeat(128)).dm_uuid().is_ok());
    }
}
