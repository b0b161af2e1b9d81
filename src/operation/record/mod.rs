//! Attachment records: what was attached, from which image, as which devices, and whether it may be used.
//!
//! A record is written before each effect that it names, and replaced by rename, so that whoever finds it knows at
//! least what may be there. Only devices of a record in state `ready` get links, and only as long as device number,
//! backing inode and disk sequence number agree with it.

mod store;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::format::loop_reference::LoopReference;
use crate::kernel::device_mapper::{MappedDevice, MappedStatus};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::loop_device::{LoopDevice, LoopStatus};
use crate::kernel::process::process_start_time;

use super::error::OperationError;

pub use store::{DIRECTORY, RecordStore, StoreLock};

/// The form of the records below.
const VERSION: u32 = 1;

/// What is attached under one reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this record.
    pub version: u32,
    /// The name that the links begin with.
    pub reference: String,
    /// Whether the devices may be used.
    pub state: State,
    /// Which process is at work on it. `None` once everything stands: until then the attachment is as good as its
    /// owner, and goes with it.
    pub owner: Option<Owner>,
    /// Where the bytes are.
    pub image: ImageIdentity,
    /// The policy that was applied.
    pub policy: String,
    /// The file that was placed for this attachment, and goes with it.
    pub placed: Option<Placed>,
    /// The devices.
    pub devices: Vec<RecordedDevice>,
    /// Where they are mounted, in the order of mounting, for an attachment that was made to be mounted: then the mounts
    /// alone hold the devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<RecordedMount>,
    /// For an image that is attached as one disk, of which nothing is verified: its partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_disk: Option<WholeDisk>,
    /// For an archive that was unpacked: the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<RecordedTree>,
}

/// A tree of files that was unpacked, and goes with everything in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedTree {
    /// Where it is once it is complete.
    pub path: PathBuf,
    /// Where it is while it is unpacked or removed: a name of our own, which root alone can enter.
    pub hidden: PathBuf,
    /// Which directory it is; absent until it is about to get its name. Whatever else has the name is not ours to remove.
    pub directory: Option<FileIdentity>,
    /// Who vouches for what was downloaded; absent where nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<String>,
}

/// What an image that is attached as one disk has beside the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeDisk {
    /// The partitions as they were made; empty until then.
    pub partitions: Vec<RecordedPartition>,
}

/// A partition of an image that is attached as one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPartition {
    /// Its number in the table.
    pub number: u32,
    /// The device node.
    pub path: PathBuf,
    /// The device number as `MAJOR:MINOR`.
    pub device: String,
    /// Where on the disk it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
}

/// Whether the devices of a record may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being made: not yet.
    Pending,
    /// Complete and checked.
    Ready,
    /// Being taken down: no longer.
    Stopping,
}

impl State {
    /// The word in records and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        }
    }
}

/// A process, told apart from another one that gets its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process number.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
}

/// The file that all devices show parts of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageIdentity {
    /// Where it came from: a path or a URL.
    pub source: String,
    /// The number of the file system's device, as `MAJOR:MINOR`.
    pub device: String,
    /// The inode.
    pub inode: u64,
    /// SHA-256 of the whole image as it was downloaded, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A file that was placed for an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The file.
    pub path: PathBuf,
    /// Which file that is; absent until it is about to get this name. Whatever else has the name is not ours to remove.
    pub file: Option<FileIdentity>,
    /// The directory on which a tmpfs was mounted for it.
    pub tmpfs: Option<PathBuf>,
    /// What that tmpfs has room for on account of this file, in bytes.
    pub room: u64,
    /// Whether that directory was made for it.
    pub directory_created: bool,
    /// What was placed beside it, and goes with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<PlacedBeside>,
}

/// A file beside one that was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedBeside {
    /// The file.
    pub path: PathBuf,
    /// Which file that is. Whatever else has the name is not ours to remove.
    pub file: FileIdentity,
}

/// One file among all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// The number of the file system's device, as `MAJOR:MINOR`.
    pub device: String,
    /// The inode.
    pub inode: u64,
}

impl FileIdentity {
    /// The identity of the file with this metadata.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        let device = DeviceNumber::of_file_system(metadata).to_string();
        Self { device, inode: std::os::unix::fs::MetadataExt::ino(metadata) }
    }
}

/// One device of an attachment: the one to use, and what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDevice {
    /// Its own reference: `NAME-partN`, or `NAME` for an image without a table.
    pub reference: String,
    /// What it is for.
    pub designator: String,
    /// The table entry; absent for an image without a table.
    pub partition: Option<u32>,
    /// The device node; absent while it is not made.
    pub path: Option<PathBuf>,
    /// The device number as `MAJOR:MINOR`.
    pub device: Option<String>,
    /// The number that the kernel gave this use of the device (BLKGETDISKSEQ).
    pub disk_sequence: Option<u64>,
    /// Where in the image it begins, in bytes.
    pub offset: u64,
    /// How long it is in the image, in bytes.
    pub size: u64,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// How it is protected.
    pub protection: String,
    /// What is in it, where that is known.
    pub file_system: Option<String>,
    /// The root hash that its contents were verified against.
    pub root_hash: Option<String>,
    /// Who signed it.
    pub signer: Option<String>,
    /// The loop devices that it stands on: its own bytes first, those of the hash tree then. Without a mapper the first
    /// one is the device itself.
    pub loops: Vec<RecordedLoop>,
    /// What the device mapper makes of them, from below: the last is the device itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mappers: Vec<RecordedMapper>,
}

/// A loop device of an attachment: exactly one extent of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedLoop {
    /// The reference that it carries.
    pub reference: String,
    /// The file that it shows, where that is not the image: one beside it, with the hash tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileIdentity>,
    /// The device node; absent while it is not made.
    pub path: Option<PathBuf>,
    /// The device number as `MAJOR:MINOR`.
    pub device: Option<String>,
    /// The number that the kernel gave this use of the device.
    pub disk_sequence: Option<u64>,
    /// Where in the image it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// A device of the device mapper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMapper {
    /// Its name, as `/dev/mapper` has it.
    pub name: String,
    /// Its UUID, in the form of libcryptsetup; empty before it is made where it depends on a header that is not read yet.
    pub uuid: String,
    /// What it does.
    pub target: MapperTarget,
    /// The device node; absent while it is not made.
    pub path: Option<PathBuf>,
    /// The device number as `MAJOR:MINOR`.
    pub device: Option<String>,
    /// The number that the kernel gave this use of the device.
    pub disk_sequence: Option<u64>,
    /// Whether the kernel checked the signature of the root hash, too; absent where there is none, or not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_checked_signature: Option<bool>,
}

/// What a device of the device mapper does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MapperTarget {
    /// Compares what is read with a hash tree.
    Verity,
    /// Keeps tags beside the data, for dm-crypt to authenticate it by.
    Integrity,
    /// Decrypts and encrypts.
    Crypt,
}

/// A place where a device of an attachment is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMount {
    /// What is mounted there; absent for the tmpfs that takes the place of a root.
    pub designator: Option<String>,
    /// The directory, without symbolic links.
    pub directory: PathBuf,
}

impl Record {
    /// A record in state `pending` without devices, owned by this process, of an image that comes from `source`.
    ///
    /// # Errors
    /// [`OperationError::System`] where `/proc` does not tell about this process.
    pub fn new(reference: &LoopReference, source: &str) -> Result<Self, OperationError> {
        Ok(Self {
            version: VERSION,
            reference: reference.to_string(),
            state: State::Pending,
            owner: Some(Owner::this_process()?),
            image: ImageIdentity {
                source: source.to_owned(),
                device: "0:0".to_owned(),
                inode: 0,
                digest: None,
            },
            policy: String::new(),
            placed: None,
            devices: Vec::new(),
            mounts: Vec::new(),
            whole_disk: None,
            tree: None,
        })
    }

    /// The loop device that another one claims to be by its reference, and the device that stands on it.
    #[must_use]
    pub fn loop_device(&self, reference: &str) -> Option<(&RecordedDevice, &RecordedLoop)> {
        self.devices
            .iter()
            .flat_map(|device| device.loops.iter().map(move |below| (device, below)))
            .find(|(_, below)| below.reference == reference)
    }

    /// The device of the device mapper that another one claims to be by its name, and the device that it belongs to.
    #[must_use]
    pub fn mapper(&self, name: &str) -> Option<(&RecordedDevice, &RecordedMapper)> {
        self.devices
            .iter()
            .flat_map(|device| device.mappers.iter().map(move |mapper| (device, mapper)))
            .find(|(_, mapper)| mapper.name == name)
    }

    /// Whether a loop device shows bytes of the file that a recorded one shows: the image, or a file beside it.
    fn is_behind(&self, recorded: &RecordedLoop, status: &LoopStatus) -> bool {
        let (device, inode) = match &recorded.file {
            Some(file) => (&file.device, file.inode),
            None => (&self.image.device, self.image.inode),
        };
        *device == status.backing_device.to_string() && inode == status.backing_inode
    }

    /// Whether a loop device is one that this record speaks of: by its number in this boot, where that is recorded, and
    /// else by what it shows and its reference.
    #[must_use]
    pub fn may_own(&self, status: &LoopStatus) -> bool {
        let recorded = self.loop_device(status.reference().unwrap_or_default());
        recorded.is_some_and(|(_, recorded)| {
            self.is_behind(recorded, status)
                && recorded.disk_sequence.is_none_or(|sequence| sequence == status.disk_sequence)
        })
    }

    /// Whether a loop device is the very one that this record describes.
    #[must_use]
    pub fn describes(&self, recorded: &RecordedLoop, status: &LoopStatus) -> bool {
        self.is_behind(recorded, status)
            && status.reference() == Some(recorded.reference.as_str())
            && recorded.disk_sequence == Some(status.disk_sequence)
            && recorded.device.as_deref() == Some(status.device.to_string().as_str())
            && recorded.offset == status.offset.bytes()
            && recorded.size == status.size_limit.bytes()
    }

    /// The file that was placed, where it was placed for nothing but to lie there.
    #[must_use]
    pub fn placed_alone(&self) -> Option<&Placed> {
        let alone = self.devices.is_empty() && self.whole_disk.is_none() && self.tree.is_none();
        self.placed.as_ref().filter(|placed| alone && placed.file.is_some())
    }

    /// The process that is at work on it, where it still runs.
    #[must_use]
    pub fn living_owner(&self) -> Option<Owner> {
        // Where it cannot be told, the record is left alone.
        self.owner.filter(|owner| {
            process_start_time(owner.pid).map_or(true, |start| start == Some(owner.start_time))
        })
    }
}

impl RecordedLoop {
    /// The N of `/dev/loopN`; `None` where it is not made, or the path is no such node.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.path.as_deref()?.to_str()?.strip_prefix("/dev/loop")?.parse().ok()
    }
}

impl RecordedLoop {
    /// Takes over what was made.
    pub fn note(&mut self, device: &LoopDevice) {
        self.path = Some(device.path());
        self.device = Some(device.device_number().to_string());
        self.disk_sequence = Some(device.disk_sequence());
    }
}

impl RecordedMapper {
    /// One that is to be made.
    #[must_use]
    pub const fn planned(name: String, uuid: String, target: MapperTarget) -> Self {
        Self {
            name,
            uuid,
            target,
            path: None,
            device: None,
            disk_sequence: None,
            kernel_checked_signature: None,
        }
    }

    /// Takes over what was made.
    pub fn note(&mut self, device: &MappedDevice) {
        device.uuid().clone_into(&mut self.uuid);
        self.path = Some(device.path());
        self.device = Some(device.device_number().to_string());
        self.disk_sequence = Some(device.disk_sequence());
    }

    /// Whether a device of the device mapper is what was recorded before it was made. Its name was free then.
    #[must_use]
    pub fn may_be(&self, status: &MappedStatus) -> bool {
        let uuid = match self.uuid.is_empty() {
            true => status.uuid.starts_with("CRYPT-"),
            false => status.uuid == self.uuid,
        };
        uuid && status.name == self.name
    }

    /// Whether a device of the device mapper is the very one that is recorded.
    #[must_use]
    pub fn describes(&self, status: &MappedStatus) -> bool {
        self.name == status.name
            && self.uuid == status.uuid
            && self.disk_sequence.is_some()
            && self.disk_sequence == status.disk_sequence
            && self.device.as_deref() == Some(status.device.to_string().as_str())
    }
}

impl RecordedDevice {
    /// Whether what it says of itself is what it says of the device mapper's last device, or else of its first loop
    /// device: a record that was tampered with describes nothing.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let Some(bottom) = self.loops.first() else {
            return false;
        };
        let top = match self.mappers.last() {
            Some(mapper) => (&mapper.path, &mapper.device, mapper.disk_sequence),
            None => (&bottom.path, &bottom.device, bottom.disk_sequence),
        };
        top == (&self.path, &self.device, self.disk_sequence)
            && (bottom.offset, bottom.size) == (self.offset, self.size)
            && (!self.mappers.is_empty() || bottom.reference == self.reference)
    }

    /// The nodes of everything that it consists of.
    pub fn nodes(&self) -> impl Iterator<Item = &Path> {
        let mapped = self.mappers.iter().filter_map(|mapper| mapper.path.as_deref());
        mapped.chain(self.loops.iter().filter_map(|below| below.path.as_deref()))
    }

    /// The names that it has, each of which becomes a link: its own, and `NAME-DESIGNATOR` for a partition of the
    /// attachment `NAME`.
    #[must_use]
    pub fn names(&self, attachment: &str) -> Vec<String> {
        let by_designator = self.partition.map(|_| format!("{attachment}-{}", self.designator));
        std::iter::once(self.reference.clone()).chain(by_designator).collect()
    }
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// [`OperationError::System`] where `/proc` does not tell about it.
    pub(super) fn this_process() -> Result<Self, OperationError> {
        let pid = std::process::id();
        let path = format!("/proc/{pid}/stat");
        let start_time = process_start_time(pid)
            .map_err(|source| OperationError::system("reading", &path, source))?
            .ok_or_else(|| {
                OperationError::state("reading", &path, "expected the start time of this process")
            })?;
        Ok(Self { pid, start_time })
    }
}
