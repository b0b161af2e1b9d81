//! What a block device is, for the udev rules: one of ours that is ready, one of ours that is not, or somebody else's.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::format::designator::Designator;
use crate::format::loop_reference::{LoopReference, LoopReferenceError};
use crate::format::units::ByteLength;
use crate::kernel::device_mapper;
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::loop_device::{self, LoopStatus};
use crate::kernel::open_foreign;
use crate::kernel::udev::{EventToken, trigger_change};

use super::activate::{bases_of, is_mapper_of, is_part_of};
use super::contents::Contents;
use super::detach::is_standing;
use super::devices::BoundDevices;
use super::error::OperationError;
use super::record::{Record, RecordStore, RecordedDevice, State};

/// The references of which systemd makes the root of the machine (systemd.image-policy and gpt-auto in the initrd).
const ROOT_REFERENCES: [&str; 2] = ["rootdisk", "rootdisk.raw"];

/// How many links of either sort a device has at most.
pub const MAXIMUM_LINKS: usize = 2;

/// What a block device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Description {
    /// Nothing is attached to it.
    Unbound,
    /// It belongs to a record, and must not be used: not ready, going away, not the recorded one, or not what it
    /// should be.
    NotReady {
        /// Why, for the log.
        why: String,
    },
    /// It belongs to a record, and another device stands on it: nobody else is to look into it.
    Below,
    /// It belongs to a record in state `ready`, and is the recorded device.
    Ready(Ready),
    /// Nobody recorded it.
    Foreign {
        /// The link name of its reference, encoded; `None` where it has none.
        reference: Option<String>,
        /// `MAJOR:MINOR-INODE` of the file behind it; `None` where no file is.
        inode: Option<String>,
    },
}

/// A device that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// What it is for.
    pub designator: String,
    /// Whether it is a whole disk, whose partitions have links as well.
    pub whole_disk: bool,
    /// How it is protected.
    pub protection: String,
    /// The file system on it, where that is known.
    pub file_system: Option<String>,
    /// The links to it.
    pub links: Links,
}

/// The links to a device: names below /dev, encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links {
    /// Those that it always has.
    pub everywhere: Vec<String>,
    /// Those that it has in an initrd alone.
    pub in_initrd: Vec<String>,
}

/// Describes the loop device with this number.
///
/// # Errors
/// [`OperationError::System`] where the device or the records cannot be read: then nothing may be exposed.
pub fn describe_loop(number: u32) -> Result<Description, OperationError> {
    let device = format!("/dev/loop{number}");
    let status =
        loop_device::status(number).map_err(|source| OperationError::system("reading", &device, source))?;
    let store = RecordStore::of_this_machine();
    let Some(status) = status else {
        revisit_abandoned(&store, number)?;
        return Ok(Description::Unbound);
    };
    let reference = status.reference().unwrap_or_default();
    // By name, each in one step: who lists a directory may miss a record that is being replaced.
    let named: Vec<(&str, Option<Record>)> = bases_of(reference)
        .into_iter()
        .filter_map(|base| Some((base, LoopReference::observed(base.as_bytes()).ok()?)))
        .filter(|(_, base)| store.exists(base))
        .map(|(name, base)| (name, store.find(&base)))
        .collect();
    if let Some((name, _)) = named.iter().find(|(_, record)| record.is_none()) {
        return Ok(not_ready(format!("the record '{name}' cannot be read")));
    }
    for record in named.into_iter().filter_map(|(_, record)| record) {
        if let Some((device, recorded)) = record.loop_device(reference) {
            if !record.describes(recorded, &status) {
                return Ok(not_recorded(&record));
            }
            if !device.mappers.is_empty() {
                return Ok(Description::Below);
            }
            return describe_recorded(&record, device, &PathBuf::from(format!("/dev/loop{number}")));
        }
        // A record that is still being written may not name the device yet, only the attachment as a whole.
        if reference == record.reference || is_part_of(reference, &record.reference) {
            return Ok(not_ready(format!("record '{}' has no device '{reference}'", record.reference)));
        }
    }
    Ok(foreign_loop(&status))
}

fn foreign_loop(status: &LoopStatus) -> Description {
    let reference = status.reference().and_then(|reference| reference.parse::<LoopReference>().ok());
    Description::Foreign {
        // Nobody but an attachment has a link that looks like a part of one.
        reference: reference.map(|reference| reference.encode()),
        inode: Some(format!("{}-{}", status.backing_device, status.backing_inode)),
    }
}

/// Describes the device `dm-MINOR` of the device mapper.
///
/// # Errors
/// As [`describe_loop`].
pub fn describe_mapped(minor: u32) -> Result<Description, OperationError> {
    let path = PathBuf::from(format!("/dev/dm-{minor}"));
    let Some(device) = DeviceNumber::of_kernel_name(&format!("dm-{minor}"))
        .map_err(|source| OperationError::system("examining", &path, source))?
    else {
        return Ok(Description::Unbound);
    };
    let status =
        device_mapper::status(device).map_err(|source| OperationError::system("examining", &path, source))?;
    let Some(status) = status else {
        return Ok(Description::Unbound);
    };
    let store = RecordStore::of_this_machine();
    let belongs_to = |reference: &str| {
        LoopReference::observed(reference.as_bytes()).is_ok_and(|base| is_mapper_of(&status.name, &base))
    };
    for name in store.unreadable()? {
        if belongs_to(&name) {
            return Ok(not_ready(format!("the record '{name}' cannot be read")));
        }
    }
    for record in store.all()? {
        if let Some((device, recorded)) = record.mapper(&status.name) {
            if !recorded.describes(&status) {
                return Ok(not_recorded(&record));
            }
            if device.mappers.last() != Some(recorded) {
                return Ok(Description::Below);
            }
            return describe_recorded(&record, device, &path);
        }
        if belongs_to(&record.reference) {
            return Ok(not_ready(format!("record '{}' has no device '{}'", record.reference, status.name)));
        }
    }
    Ok(Description::Foreign { reference: None, inode: None })
}

fn not_ready(why: impl Into<String>) -> Description {
    Description::NotReady { why: why.into() }
}

fn not_recorded(record: &Record) -> Description {
    not_ready(format!("it is not the device that record '{}' describes", record.reference))
}

/// A device of an attachment that was not complete is gone: its maker died while the links were there already. The
/// others are looked at again, and lose theirs.
fn revisit_abandoned(store: &RecordStore, number: u32) -> Result<(), OperationError> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    for record in store.all()? {
        let concerned = record.devices.iter().any(|device| device.nodes().any(|node| node == path));
        if record.owner.is_some() && record.state == State::Ready && concerned {
            let token = EventToken::new().map_err(|source| {
                OperationError::system("triggering events for", &record.reference, source)
            })?;
            for other in BoundDevices::of(&record)?.numbers() {
                // One that is gone by now has no links either.
                let _ = trigger_change(other, &token);
            }
        }
    }
    Ok(())
}

/// Describes a device that is the recorded one.
fn describe_recorded(
    record: &Record,
    recorded: &RecordedDevice,
    path: &Path,
) -> Result<Description, OperationError> {
    if !recorded.is_consistent() || !stands_on_what_is_recorded(record, recorded)? {
        return Ok(not_recorded(record));
    }
    if !is_standing(record)? {
        return Ok(not_ready(format!("record '{}' is not ready", record.reference)));
    }
    match recorded.designator.parse::<Designator>() {
        // A whole disk is for nothing in particular.
        Err(_) if record.whole_disk.is_some() => {}
        Err(_) => return Ok(not_ready(format!("'{}' is not a designator", recorded.designator))),
        // The second half of the ESP pin: the device itself must be a vfat, and nothing else.
        Ok(designator) if designator.is_vfat_alone() => {
            if let Err(why) = check_vfat(path, recorded) {
                return Ok(not_ready(why));
            }
        }
        Ok(_) => {}
    }
    Ok(match links_of(record, recorded) {
        Err(error) => not_ready(error.to_string()),
        Ok(links) => Description::Ready(Ready {
            designator: recorded.designator.clone(),
            whole_disk: record.whole_disk.is_some(),
            protection: recorded.protection.clone(),
            file_system: recorded.file_system.clone(),
            links,
        }),
    })
}

/// Whether the loop devices below a device of the device mapper are the recorded ones. Of a loop device that stands for
/// itself this is known already.
fn stands_on_what_is_recorded(record: &Record, device: &RecordedDevice) -> Result<bool, OperationError> {
    if device.mappers.is_empty() {
        return Ok(true);
    }
    for recorded in &device.loops {
        let Some(number) = recorded.number() else {
            return Ok(false);
        };
        let status = loop_device::status(number)
            .map_err(|source| OperationError::system("reading", format!("/dev/loop{number}"), source))?;
        if !status.is_some_and(|status| record.describes(recorded, &status)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_vfat(path: &Path, recorded: &RecordedDevice) -> Result<(), String> {
    let device: File = open_foreign(path).map_err(|error| error.to_string())?;
    let name = path.display().to_string();
    let contents =
        Contents::of(device, &name, ByteLength::new(recorded.size)).map_err(|error| error.to_string())?;
    contents.check_vfat()
}

/// The links to a device of a record.
///
/// # Errors
/// [`LoopReferenceError`] where its names can be no links.
pub(super) fn links_of(record: &Record, device: &RecordedDevice) -> Result<Links, LoopReferenceError> {
    let mut links = Links::default();
    for name in device.names(&record.reference) {
        let encoded = LoopReference::observed(name.as_bytes())?.encode();
        links.everywhere.push(format!("disk/by-loop-ref/{encoded}"));
    }
    if device.partition.is_some() && ROOT_REFERENCES.contains(&record.reference.as_str()) {
        match device.designator.parse() {
            Ok(Designator::Root) => {
                links.in_initrd.extend(["gpt-auto-root".to_owned(), "disk/by-designator/root".to_owned()]);
            }
            Ok(Designator::Usr) => links.in_initrd.push("disk/by-designator/usr".to_owned()),
            _ => {}
        }
    }
    Ok(links)
}
