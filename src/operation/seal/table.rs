//! The partition table of a sealed image, written by the `gpt` crate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};

use crate::format::guid::Guid;
use crate::format::partition_type::PartitionType;
use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::copy_sparse;

/// Partitions begin at multiples of this, as everybody's do.
const ALIGNMENT: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The read-only attribute (Discoverable Partitions Specification).
const READ_ONLY: u64 = 1 << 60;

/// One partition to be.
pub(super) struct Content {
    pub(super) partition_type: PartitionType,
    pub(super) uuid: Guid,
    pub(super) label: String,
    pub(super) read_only: bool,
    pub(super) source: Bytes,
}

/// Where the bytes of a partition come from.
pub(super) enum Bytes {
    File(PathBuf),
    Memory(Vec<u8>),
}

impl Bytes {
    fn length(&self) -> io::Result<u64> {
        match self {
            Self::File(path) => Ok(path.metadata()?.len()),
            Self::Memory(bytes) => Ok(ByteLength::of(bytes).bytes()),
        }
    }
}

/// Writes table and contents to an empty file and gives its size.
pub(super) fn write(file: &mut File, disk: Guid, contents: &[Content]) -> io::Result<ByteLength> {
    let mut offset = ALIGNMENT;
    let mut entries = BTreeMap::new();
    let mut places = Vec::new();
    for (number, content) in (1_u32..).zip(contents) {
        let length = content.source.length()?.next_multiple_of(4096);
        let extent = Extent::new(ByteOffset::new(offset), ByteLength::new(length))
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let type_guid = content.partition_type.uuid().map(|uuid| uuid.guid()).unwrap_or_default();
        let entry = Partition {
            part_type_guid: Type { guid: crate_guid(type_guid), os: OperatingSystem::Linux },
            part_guid: crate_guid(content.uuid),
            first_lba: offset / SECTOR,
            last_lba: (extent.end().bytes() / SECTOR).saturating_sub(1),
            flags: if content.read_only { READ_ONLY } else { 0 },
            name: content.label.clone(),
        };
        entries.insert(number, entry);
        places.push(extent);
        offset = extent.end().bytes().next_multiple_of(ALIGNMENT);
    }
    // The backup table needs 33 sectors; a whole step keeps the size a multiple of every block size.
    let size = offset.saturating_add(ALIGNMENT);
    file.set_len(size)?;
    for (content, extent) in contents.iter().zip(places) {
        match &content.source {
            Bytes::File(path) => {
                let length = ByteLength::new(content.source.length()?);
                copy_sparse(&File::open(path)?, file, extent.truncated(length))?;
            }
            Bytes::Memory(bytes) => {
                file.seek(SeekFrom::Start(extent.start().bytes()))?;
                file.write_all(bytes)?;
            }
        }
    }
    let last_sector = u32::try_from((size / SECTOR).saturating_sub(1)).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(last_sector).overwrite_lba0(file).map_err(io::Error::other)?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(crate_guid(disk)))
        .map_err(io::Error::other)?;
    table.update_partitions(entries).map_err(io::Error::other)?;
    table.write().map_err(io::Error::other)?;
    Ok(ByteLength::new(size))
}

fn crate_guid(guid: Guid) -> uuid::Uuid {
    uuid::Uuid::from_bytes(*guid.as_bytes())
}
