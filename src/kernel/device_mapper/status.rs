//! What device-mapper devices there are and what they do.

use std::fs;
use std::io;

use devicemapper::{DevId, DmFlags, DmName, DmOptions, DmUuid};

use super::error::{errno, of_crate};
use super::remove::Identity;
use super::{Control, DeviceMapperError};
use crate::format::verity::table::{VerityHealth, VerityTable};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::raw::device_mapper::{self as raw, Description, Key};

/// How many devices are looked at: the kernel's minor numbers have 20 bits.
const MAXIMUM_DEVICES: usize = 1 << 20;

/// A device-mapper device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedStatus {
    /// Its name; of a foreign one that is not text, what can be shown of it.
    pub name: String,
    /// Its UUID, empty where a foreign one has none.
    pub uuid: String,
    /// Major and minor number.
    pub device: DeviceNumber,
    /// The number that this device has and no other, in this boot; none before its first table was loaded.
    pub disk_sequence: Option<u64>,
    /// How often it is open: descriptors, mounts, devices on top.
    pub open_count: u32,
    /// Whether writes fail.
    pub read_only: bool,
    /// Whether reads wait.
    pub suspended: bool,
    /// Whether it goes with its last user.
    pub deferred_removal: bool,
    /// Whether it has a live table: one that has not was never resumed.
    pub live: bool,
    /// The live table, line by line; not read where name or UUID are not ASCII, as ours always are.
    pub targets: Vec<MappedTarget>,
    /// What dm-verity says of the blocks that were read; `None` where the live table is not one dm-verity target.
    pub health: Option<VerityHealth>,
}

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappedTarget {
    /// A dm-verity target over the whole device, as we could have made it.
    Verity(VerityTable),
    /// Anything else. Its parameters are not read: those of dm-crypt may be a key.
    Other {
        /// The name of the target, for instance `crypt`.
        target: String,
    },
}

impl MappedStatus {
    /// By what this device is known again; `None` where it never had a table.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        let disk_sequence = self.disk_sequence?;
        Some(Identity { device: self.device, uuid: self.uuid.clone(), disk_sequence })
    }

    /// The table where it is that of one dm-verity target.
    #[must_use]
    pub fn verity(&self) -> Option<&VerityTable> {
        match self.targets.as_slice() {
            [MappedTarget::Verity(table)] => Some(table),
            _ => None,
        }
    }
}

/// What the device-mapper device of this number is; `None` where there is none.
///
/// # Errors
/// A [`DeviceMapperError`].
pub fn status(device: DeviceNumber) -> Result<Option<MappedStatus>, DeviceMapperError> {
    match Control::open()? {
        Some(control) => read(&control, device),
        None => Ok(None),
    }
}

/// The device-mapper device of this name; `None` where there is none.
///
/// # Errors
/// A [`DeviceMapperError`].
pub fn find_by_name(name: &str) -> Result<Option<MappedStatus>, DeviceMapperError> {
    find(Key::Name(name))
}

/// The device-mapper device of this UUID; `None` where there is none.
///
/// # Errors
/// A [`DeviceMapperError`].
pub fn find_by_uuid(uuid: &str) -> Result<Option<MappedStatus>, DeviceMapperError> {
    find(Key::Uuid(uuid))
}

/// Every device-mapper device, in the order of their numbers. One that comes or goes meanwhile may be missing.
///
/// # Errors
/// A [`DeviceMapperError`].
pub fn list() -> Result<Vec<MappedStatus>, DeviceMapperError> {
    let Some(control) = Control::open()? else { return Ok(Vec::new()) };
    let mut numbers: Vec<DeviceNumber> = match control.dm.list_devices() {
        Ok(devices) => devices
            .into_iter()
            .take(MAXIMUM_DEVICES)
            .map(|(_, device, _)| DeviceNumber::new(device.major, device.minor))
            .collect(),
        Err(error) if errno(&error).is_some() => return Err(of_crate("*", "listing", &error)),
        // One name that is not ASCII, and the crate gives none. Ours are ASCII; sysfs shows what has a table.
        Err(_) => in_sysfs().map_err(DeviceMapperError::Listing)?,
    };
    numbers.sort_unstable();
    let mut found = Vec::new();
    for number in numbers {
        found.extend(read(&control, number)?);
    }
    Ok(found)
}

/// The numbers of the devices that have a node.
fn in_sysfs() -> io::Result<Vec<DeviceNumber>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/sys/block")?.take(MAXIMUM_DEVICES) {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"dm-") {
            let number = fs::read_to_string(entry.path().join("dev")).ok();
            numbers.extend(number.and_then(|text| text.trim_ascii().parse::<DeviceNumber>().ok()));
        }
    }
    Ok(numbers)
}

fn find(key: Key<'_>) -> Result<Option<MappedStatus>, DeviceMapperError> {
    let Some(control) = Control::open()? else { return Ok(None) };
    match control.describe(key)? {
        Some(found) => of_description(&control, &found),
        None => Ok(None),
    }
}

/// Asks the kernel for the device of this number.
pub(super) fn read(
    control: &Control,
    device: DeviceNumber,
) -> Result<Option<MappedStatus>, DeviceMapperError> {
    match control.describe(Key::Device(device.packed()))? {
        Some(found) => of_description(control, &found),
        None => Ok(None),
    }
}

/// The rest of what is to be known of a device that was found; `None` where it went away meanwhile.
fn of_description(control: &Control, found: &Description) -> Result<Option<MappedStatus>, DeviceMapperError> {
    let device = DeviceNumber::from_packed(found.device);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let live = found.flags & raw::ACTIVE_PRESENT != 0;
    let mut status = MappedStatus {
        name: text(&found.name),
        uuid: text(&found.uuid),
        device,
        disk_sequence: disk_sequence(device),
        open_count: u32::try_from(found.open_count).unwrap_or_default(),
        read_only: found.flags & raw::READ_ONLY != 0,
        suspended: found.flags & raw::SUSPENDED != 0,
        deferred_removal: found.flags & raw::DEFERRED_REMOVE != 0,
        live,
        targets: Vec::new(),
        health: None,
    };
    let can_be_asked = status.name.is_ascii() && status.uuid.is_ascii();
    let still_there = !live || !can_be_asked || read_table(control, &mut status)?;
    Ok(still_there.then_some(status))
}

/// Fills in the live table and what dm-verity says of it; `false` where the device went away.
fn read_table(control: &Control, status: &mut MappedStatus) -> Result<bool, DeviceMapperError> {
    let Some(lines) = lines(control, status, DmFlags::empty())? else { return Ok(false) };
    match lines.as_slice() {
        [line] if line.target == VerityTable::TARGET => {
            status.health = line.parameters.parse().ok();
            let Some(table) = self::lines(control, status, DmFlags::DM_STATUS_TABLE)? else {
                return Ok(false);
            };
            status.targets = table.into_iter().map(Line::into_target).collect();
        }
        _ => status.targets = lines.into_iter().map(Line::into_other).collect(),
    }
    Ok(true)
}

/// A line of the kernel's answer about a table.
struct Line {
    start: u64,
    sectors: u64,
    target: String,
    parameters: String,
}

impl Line {
    /// The line as a dm-verity target over the whole device, where it is one.
    fn into_target(self) -> MappedTarget {
        let table: Option<VerityTable> = self.parameters.parse().ok();
        let whole = |table: &VerityTable| self.start == 0 && table.sectors() == Some(self.sectors);
        match table.filter(|table| self.target == VerityTable::TARGET && whole(table)) {
            Some(table) => MappedTarget::Verity(table),
            None => self.into_other(),
        }
    }

    fn into_other(self) -> MappedTarget {
        MappedTarget::Other { target: self.target }
    }
}

/// Status or table of a device, without asking a target to write anything; `None` where the device went away.
fn lines(
    control: &Control,
    status: &MappedStatus,
    flags: DmFlags,
) -> Result<Option<Vec<Line>>, DeviceMapperError> {
    let operation = "reading the table";
    let failing = |error: &_| of_crate(&status.name, operation, error);
    let options = DmOptions::default().set_flags(flags | DmFlags::DM_NOFLUSH);
    let answer = if status.uuid.is_empty() {
        let name = DmName::new(&status.name).map_err(|error| failing(&error))?;
        control.dm.table_status(&DevId::Name(name), options)
    } else {
        let uuid = DmUuid::new(&status.uuid).map_err(|error| failing(&error))?;
        control.dm.table_status(&DevId::Uuid(uuid), options)
    };
    let (info, lines) = match answer {
        Ok(answer) => answer,
        Err(error) if errno(&error) == Some(nix::errno::Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(failing(&error)),
    };
    let found = DeviceNumber::new(info.device().major, info.device().minor);
    if found != status.device {
        return Ok(None);
    }
    Ok(Some(
        lines
            .into_iter()
            .map(|(start, sectors, target, parameters)| Line { start, sectors, target, parameters })
            .collect(),
    ))
}

/// The disk sequence number that sysfs shows; `None` where the device is gone or has no table yet.
pub(super) fn disk_sequence(device: DeviceNumber) -> Option<u64> {
    fs::read_to_string(device.sysfs_path().join("diskseq")).ok()?.trim_ascii().parse().ok()
}
