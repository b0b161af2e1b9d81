//! What a loop device is, for the udev rules: one of ours that is ready, one of ours that is not, or somebody else's.

use std::path::{Path, PathBuf};

use crate::format::designator::Designator;
use crate::format::loop_reference::LoopReference;
use crate::format::sparse::{SparseBytes, Window};
use crate::format::superblock;
use crate::format::superblock::{FileSystem, SuperblockKind, Vfat};
use crate::format::units::{ByteLength, Extent};
use crate::kernel::loop_device::{self, LoopStatus};
use crate::kernel::udev::{EventToken, trigger_change};

use super::activate::is_part_of;
use super::detach::{bound, is_standing};
use super::error::OperationError;
use super::record::{Record, RecordStore, RecordedDevice, State};
use super::source::{ImageFile, ImageSource};

/// The references of which systemd makes the root of the machine (systemd.image-policy and gpt-auto in the initrd).
const ROOT_REFERENCES: [&str; 2] = ["rootdisk", "rootdisk.raw"];

/// How many links of either sort a device has at most.
pub const MAXIMUM_LINKS: usize = 2;

/// What a loop device is.
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
    /// It belongs to a record in state `ready`, and is the recorded device.
    Ready {
        /// What it is for.
        designator: String,
        /// How it is protected.
        protection: String,
        /// Link names below /dev, encoded.
        links: Vec<String>,
        /// Link names below /dev to make in an initrd only.
        initrd_links: Vec<String>,
    },
    /// Nobody recorded it.
    Foreign {
        /// The link name of its reference, encoded; `None` where it has none.
        reference: Option<String>,
        /// `MAJOR:MINOR-INODE` of the file behind it.
        inode: String,
    },
}

/// Describes the loop device with this number.
///
/// # Errors
/// [`OperationError::System`] where the device or the records cannot be read: then nothing may be exposed.
pub fn describe(number: u32) -> Result<Description, OperationError> {
    let device = format!("/dev/loop{number}");
    let status =
        loop_device::status(number).map_err(|source| OperationError::system("reading", &device, source))?;
    let store = RecordStore::of_this_machine();
    let Some(status) = status else {
        revisit_abandoned(&store, number)?;
        return Ok(Description::Unbound);
    };
    let reference = status.reference().unwrap_or_default();
    if let Some(name) =
        store.unreadable()?.iter().find(|name| reference == *name || is_part_of(reference, name))
    {
        return Ok(not_ready(format!("the record '{name}' cannot be read")));
    }
    for record in store.all()? {
        if let Some(recorded) = record.device(reference) {
            return describe_recorded(&record, recorded, &status);
        }
        // A record that is still being written may not name the device yet, only the attachment as a whole.
        if reference == record.reference || is_part_of(reference, &record.reference) {
            return Ok(not_ready(format!("record '{}' has no device '{reference}'", record.reference)));
        }
    }
    Ok(Description::Foreign {
        // Nobody but an attachment has a link that looks like a part of one.
        reference: reference.parse::<LoopReference>().ok().map(|reference| reference.encode()),
        inode: format!("{}-{}", status.backing_device, status.backing_inode),
    })
}

fn not_ready(why: impl Into<String>) -> Description {
    Description::NotReady { why: why.into() }
}

/// A device of an attachment that was not complete is gone: its maker died while the links were there already. The
/// others are looked at again, and lose theirs.
fn revisit_abandoned(store: &RecordStore, number: u32) -> Result<(), OperationError> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    for record in store.all()? {
        let concerned = record.devices.iter().any(|device| device.path.as_ref() == Some(&path));
        if record.owner.is_some() && record.state == State::Ready && concerned {
            let token = EventToken::new().map_err(|source| {
                OperationError::system("triggering events for", &record.reference, source)
            })?;
            for other in bound(&record)? {
                // One that is gone by now has no links either.
                let _ = trigger_change(other.device, &token);
            }
        }
    }
    Ok(())
}

fn describe_recorded(
    record: &Record,
    recorded: &RecordedDevice,
    status: &LoopStatus,
) -> Result<Description, OperationError> {
    if !record.describes(recorded, status) {
        return Ok(not_ready(format!("it is not the device that record '{}' describes", record.reference)));
    }
    if !is_standing(record)? {
        return Ok(not_ready(format!("record '{}' is not ready", record.reference)));
    }
    Ok(describe_standing(record, recorded, status))
}

fn describe_standing(record: &Record, recorded: &RecordedDevice, status: &LoopStatus) -> Description {
    let Ok(designator) = recorded.designator.parse::<Designator>() else {
        return not_ready(format!("'{}' is not a designator", recorded.designator));
    };
    if matches!(designator, Designator::Esp | Designator::Xbootldr)
        && let Err(why) = check_vfat(status)
    {
        return not_ready(why);
    }
    let mut initrd_links = Vec::new();
    if recorded.partition.is_some() && ROOT_REFERENCES.contains(&record.reference.as_str()) {
        match designator {
            Designator::Root => {
                initrd_links.extend(["gpt-auto-root".to_owned(), "disk/by-designator/root".to_owned()]);
            }
            Designator::Usr => initrd_links.push("disk/by-designator/usr".to_owned()),
            _ => {}
        }
    }
    let names = recorded.names(&record.reference);
    let links: Result<Vec<_>, _> =
        names.iter().map(|name| LoopReference::observed(name.as_bytes())).collect();
    match links {
        Err(error) => not_ready(error.to_string()),
        Ok(links) => Description::Ready {
            designator: designator.to_string(),
            protection: recorded.protection.clone(),
            links: links.iter().map(|link| format!("disk/by-loop-ref/{}", link.encode())).collect(),
            initrd_links,
        },
    }
}

/// The second half of the ESP pin: the device itself must be a vfat, and nothing else.
fn check_vfat(status: &LoopStatus) -> Result<(), String> {
    let image = ImageFile::open(Path::new(&format!("/dev/loop{}", status.number)))
        .map_err(|error| error.to_string())?;
    let whole = Extent::from_beginning(image.size());
    let mut bytes = SparseBytes::new();
    let mut extents = superblock::probe_extents(image.size());
    extents.push(whole.truncated(ByteLength::new(512)));
    let pieces = image.read(&extents).map_err(|error| error.to_string())?;
    for (extent, piece) in extents.iter().zip(pieces) {
        bytes.insert(extent.start(), &piece);
    }
    let window = Window::new(&bytes, whole);
    Vfat::parse(&window).map_err(|error| format!("not a sane vfat: {error}"))?;
    let vfat = SuperblockKind::FileSystem(FileSystem::Vfat);
    match superblock::probe(&window).iter().find(|found| found.kind != vfat) {
        None => Ok(()),
        Some(other) => Err(format!("vfat and {}", other.kind.as_str())),
    }
}
