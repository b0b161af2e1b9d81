//! The partitions of a disk: made by request, as somebody else read them from a table, and read back.
//!
//! The kernel's own scan has no part in it. What an earlier use of the disk left behind goes first: a partition outlives
//! the binding of a loop device, and would show bytes of the next one.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::device_number::DeviceNumber;
use super::raw::{IoctlError, partition};
use crate::format::units::{ByteLength, ByteOffset, Extent};

/// The unit of sysfs, whatever the sectors of the disk (Documentation/ABI/stable/sysfs-block).
const SYSFS_SECTOR: u64 = 512;
/// More entries than sysfs has in the directory of a disk with all partitions that the kernel can have.
const MAXIMUM_ENTRIES: usize = 65_536;

/// A partition as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// Its number on the disk.
    pub number: u32,
    /// Its bytes of the disk.
    pub extent: Extent,
    /// Its device number.
    pub device: DeviceNumber,
    /// Its node, as the kernel names it.
    pub path: PathBuf,
}

/// The nodes of the partitions of this machine's disks whose name in the partition table is `label`, as the kernel has
/// them (`PARTNAME` in a device's `uevent`). Bounded by what sysfs has.
///
/// # Errors
/// The error of reading sysfs.
pub fn partitions_with_label(label: &str) -> io::Result<Vec<PathBuf>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir("/sys/class/block")?.take(MAXIMUM_ENTRIES) {
        // A device that goes away meanwhile is not one that is looked for.
        let Ok(uevent) = fs::read_to_string(entry?.path().join("uevent")) else { continue };
        let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        if value("PARTNAME") == Some(label)
            && let Some(name) = value("DEVNAME")
        {
            nodes.push(Path::new("/dev").join(name));
        }
    }
    nodes.sort();
    Ok(nodes)
}

/// Why partitions could not be made or deleted.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The kernel refused to add one.
    #[error("adding partition {number} at {extent}")]
    Adding {
        /// Which.
        number: u32,
        /// Where it was to be.
        extent: Extent,
        /// The kernel's answer.
        source: IoctlError,
    },
    /// The kernel refused to delete one.
    #[error("deleting partition {number}")]
    Deleting {
        /// Which.
        number: u32,
        /// The kernel's answer.
        source: IoctlError,
    },
    /// One that was to be deleted is in use.
    #[error("partition {number} ('{}') is in use: unmount or close it first", .path.display())]
    InUse {
        /// Which.
        number: u32,
        /// Its node.
        path: PathBuf,
    },
    /// What the kernel shows in the end is not what was asked for.
    #[error("expected the partitions [{expected}], the kernel shows [{found}]")]
    Differ {
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The directory of the disk cannot be read.
    #[error("reading '{}'", .path.display())]
    Reading {
        /// Which file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The partitions of a disk by their numbers.
///
/// # Errors
/// [`PartitionError::Reading`] where sysfs does not show them.
pub fn list(disk: DeviceNumber) -> Result<Vec<Partition>, PartitionError> {
    let directory = disk.sysfs_path();
    let reading = |path: &Path| {
        let path = path.to_owned();
        move |source| PartitionError::Reading { path, source }
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(reading(&directory))?.take(MAXIMUM_ENTRIES) {
        let entry = entry.map_err(reading(&directory))?;
        let path = entry.path();
        // Of the directories in that of a disk, only those of partitions have such a file.
        let number: u32 = match fs::read_to_string(path.join("partition")) {
            Ok(text) => parse(&text).map_err(reading(&path))?,
            Err(_) => continue,
        };
        let read = |name: &str| {
            let path = path.join(name);
            fs::read_to_string(&path).map_err(reading(&path))
        };
        let sectors = |text: String| {
            let bytes = parse::<u64>(&text).ok().and_then(|sectors| sectors.checked_mul(SYSFS_SECTOR));
            bytes.ok_or_else(|| reading(&path)(unexpected(&text)))
        };
        let (start, length) = (sectors(read("start")?)?, sectors(read("size")?)?);
        let extent = Extent::new(ByteOffset::new(start), ByteLength::new(length))
            .ok_or_else(|| reading(&path)(unexpected("an extent beyond all numbers")))?;
        let device = read("dev")?;
        let device = device.trim_ascii().parse().map_err(|error| reading(&path)(io::Error::other(error)))?;
        found.push(Partition { number, extent, device, path: Path::new("/dev").join(entry.file_name()) });
    }
    found.sort();
    Ok(found)
}

/// Deletes every partition of a disk.
///
/// # Errors
/// [`PartitionError::InUse`] for the first that is in use: those before it are gone then.
pub fn delete_all(disk: BorrowedFd<'_>, device: DeviceNumber) -> Result<(), PartitionError> {
    for Partition { number, path, .. } in list(device)? {
        match partition::delete(disk, number) {
            // Somebody else was quicker.
            Ok(()) | Err(IoctlError::NotBound) => {}
            Err(IoctlError::Busy) => return Err(PartitionError::InUse { number, path }),
            Err(source) => return Err(PartitionError::Deleting { number, source }),
        }
    }
    Ok(())
}

/// Gives a disk exactly these partitions, by number, and none besides.
///
/// # Errors
/// A [`PartitionError`]; then the disk has no partitions, unless one of an earlier use is in use, or one was taken into
/// use meanwhile.
pub fn replace_all(
    disk: BorrowedFd<'_>,
    device: DeviceNumber,
    wanted: &[(u32, Extent)],
) -> Result<Vec<Partition>, PartitionError> {
    delete_all(disk, device)?;
    let made = add_all(disk, device, wanted);
    if made.is_err() {
        // What went wrong first is what is told.
        let _ = delete_all(disk, device);
    }
    made
}

fn add_all(
    disk: BorrowedFd<'_>,
    device: DeviceNumber,
    wanted: &[(u32, Extent)],
) -> Result<Vec<Partition>, PartitionError> {
    for (number, extent) in wanted {
        partition::add(disk, *number, *extent).map_err(|source| PartitionError::Adding {
            number: *number,
            extent: *extent,
            source,
        })?;
    }
    let found = list(device)?;
    let mut expected = wanted.to_vec();
    expected.sort_unstable();
    let shown: Vec<(u32, Extent)> = found.iter().map(|part| (part.number, part.extent)).collect();
    if shown == expected {
        return Ok(found);
    }
    let words = |parts: &[(u32, Extent)]| {
        parts.iter().map(|(number, extent)| format!("{number}: {extent}")).collect::<Vec<_>>().join(", ")
    };
    Err(PartitionError::Differ { expected: words(&expected), found: words(&shown) })
}

fn parse<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.trim_ascii().parse().map_err(|_| unexpected(text))
}

fn unexpected(text: &str) -> io::Error {
    io::Error::other(format!("expected a number, found '{}'", text.trim_ascii()))
}
