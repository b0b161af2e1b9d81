//! Making a device of one target whose line is read back as it was meant by whoever made it: dm-crypt, dm-integrity.

use std::time::{Duration, Instant};

use devicemapper::{DevId, DmFlags, DmName, DmOptions, DmUuid};
use nix::errno::Errno;

use super::error::of_crate;
use super::{
    Attribute, Control, DeviceMapperError, MAXIMUM_NAME_LENGTH, MAXIMUM_UUID_LENGTH, MappedDevice, compare,
    open_node,
};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::pause;
use crate::kernel::raw::device_mapper::{self as raw, Key};
use crate::kernel::raw::{IoctlError, block};

/// How long the node of a new device may take to appear, and a failed one to go.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two looks: nobody tells that a node is there or a name free.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A device of one target that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct MappingRequest<'a> {
    /// Its name: 1 to 127 bytes of printable ASCII without `/` and blanks.
    pub name: &'a str,
    /// Its UUID: 1 to 128 bytes of printable ASCII without blanks.
    pub uuid: &'a str,
    /// The target, such as `crypt`.
    pub target: &'static str,
    /// Its length in sectors of 512 bytes.
    pub sectors: u64,
    /// Its parameters. There is no key in them: whoever may read a table may read this one.
    pub parameters: &'a str,
    /// Whether writes fail.
    pub read_only: bool,
}

impl MappedDevice {
    /// Makes a device that is removed with its last user, and gives the parameters as the kernel shows them.
    ///
    /// # Errors
    /// A [`DeviceMapperError`]; no device is left behind then.
    pub fn create_mapping(request: &MappingRequest<'_>) -> Result<(Self, String), DeviceMapperError> {
        let name = check_name(request.name)?;
        let uuid = check_uuid(request.uuid)?;
        let control = Control::required()?;
        if control.target_version(request.target)?.is_none() {
            return Err(DeviceMapperError::NoTarget { target: request.target });
        }
        let made = create(&control, request, name, uuid)?;
        let mut undo = Undo { control: &control, uuid: request.uuid, armed: true };
        let node = bring_up(&control, request, uuid, made)?;
        let shown = check(&control, request, uuid, &node)?;
        undo.armed = false;
        drop(undo);
        // Where this fails, closing the descriptor undoes the rest: the device is marked for removal.
        let device = Self::adopt(control, request.name.to_owned(), request.uuid.to_owned(), made, node)?;
        Ok((device, shown))
    }
}

fn check_name(name: &str) -> Result<&DmName, DeviceMapperError> {
    let valid =
        name.len() <= MAXIMUM_NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    let wrong = || DeviceMapperError::Name { found: name.to_owned() };
    DmName::new(name).ok().filter(|_| valid).ok_or_else(wrong)
}

fn check_uuid(uuid: &str) -> Result<&DmUuid, DeviceMapperError> {
    let valid = uuid.len() <= MAXIMUM_UUID_LENGTH && uuid.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = || DeviceMapperError::Uuid { found: uuid.to_owned() };
    DmUuid::new(uuid).ok().filter(|_| valid && !uuid.is_empty()).ok_or_else(wrong)
}

fn create(
    control: &Control,
    request: &MappingRequest<'_>,
    name: &DmName,
    uuid: &DmUuid,
) -> Result<DeviceNumber, DeviceMapperError> {
    for key in [Key::Name(request.name), Key::Uuid(request.uuid)] {
        if let Some(found) = control.describe(key)? {
            return Err(DeviceMapperError::NameTaken {
                name: request.name.to_owned(),
                device: DeviceNumber::from_packed(found.device),
                uuid: String::from_utf8_lossy(&found.uuid).into_owned(),
            });
        }
    }
    let flags = if request.read_only { DmFlags::DM_READONLY } else { DmFlags::empty() };
    let info = control
        .dm
        .device_create(name, Some(uuid), DmOptions::default().set_flags(flags))
        .map_err(|error| of_crate(request.name, "creation", &error))?;
    let device = info.device();
    Ok(DeviceNumber::new(device.major, device.minor))
}

/// Loads the table, opens the node, marks the device for removal with its last user, and activates it.
fn bring_up(
    control: &Control,
    request: &MappingRequest<'_>,
    uuid: &DmUuid,
    device: DeviceNumber,
) -> Result<std::fs::File, DeviceMapperError> {
    let gone = || IoctlError::Kernel(Errno::ENXIO);
    let line = (0, request.sectors, request.target.to_owned(), request.parameters.to_owned());
    let flags = if request.read_only { DmFlags::DM_READONLY } else { DmFlags::empty() };
    control
        .dm
        .table_load(&DevId::Uuid(uuid), &[line], DmOptions::default().set_flags(flags))
        .map_err(|error| of_crate(request.name, "loading the table", &error))?;
    let node = wait_for_node(device)?;
    raw::remove_deferred(control.fd(), Key::Device(device.packed()))
        .and_then(|found| found.ok_or_else(gone))
        .map_err(failing(request, "marking for removal"))?;
    raw::resume(control.fd(), Key::Uuid(request.uuid))
        .and_then(|found| found.ok_or_else(gone))
        .map_err(failing(request, "activation"))?;
    Ok(node)
}

fn failing(
    request: &MappingRequest<'_>,
    operation: &'static str,
) -> impl FnOnce(IoctlError) -> DeviceMapperError {
    let device = request.name.to_owned();
    move |source| DeviceMapperError::Ioctl { device, operation, source }
}

/// Compares what the kernel shows with what was asked for; the parameters are for the caller to compare.
fn check(
    control: &Control,
    request: &MappingRequest<'_>,
    uuid: &DmUuid,
    node: &std::fs::File,
) -> Result<String, DeviceMapperError> {
    use std::os::fd::AsFd as _;
    let name = request.name;
    let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH);
    let (_, table) = control
        .dm
        .table_status(&DevId::Uuid(uuid), options)
        .map_err(|error| of_crate(name, "reading the table", &error))?;
    let [(start, sectors, target, parameters)] = table.as_slice() else {
        return compare(name, Attribute::Table, &"one line", &format!("{} lines", table.len()).as_str())
            .map(|()| String::new());
    };
    compare(
        name,
        Attribute::Table,
        &format!("0 {} {}", request.sectors, request.target),
        &format!("{start} {sectors} {target}"),
    )?;
    let size = block::size(node.as_fd()).map_err(failing(request, "reading the size"))?;
    compare(name, Attribute::Size, &request.sectors.saturating_mul(512), &size.bytes())?;
    let read_only =
        block::is_read_only(node.as_fd()).map_err(failing(request, "reading the read-only state"))?;
    compare(name, Attribute::ReadOnly, &request.read_only, &read_only)?;
    Ok(parameters.clone())
}

/// Opens the node of a new device, as soon as it is there.
fn wait_for_node(device: DeviceNumber) -> Result<std::fs::File, DeviceMapperError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(node) = open_node(device, 0)? {
            return Ok(node);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DeviceMapperError::NoNode { path: super::node_path(device) });
        }
        pause(LOOK_AGAIN.min(left));
    }
}

/// Removes a device that did not come to be.
struct Undo<'a> {
    control: &'a Control,
    uuid: &'a str,
    armed: bool,
}

impl Drop for Undo<'_> {
    /// Asks for the removal, now or with the last user, and waits until it has happened. The error that brought us here
    /// is the one to report.
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let key = Key::Uuid(self.uuid);
        let mut there = raw::remove_deferred(self.control.fd(), key).map(|found| found.is_some());
        while matches!(there, Ok(true)) && Instant::now() < deadline {
            there = raw::describe(self.control.fd(), key).map(|found| found.is_some());
            if matches!(there, Ok(true)) {
                pause(LOOK_AGAIN);
            }
        }
    }
}
