//! The table itself: choosing between its copies, and its entries.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U64;

use super::attributes::Attributes;
use super::error::{CopyProblem, Difference, GptError};
use super::header::Header;
use super::headers::Headers;
use crate::format::guid::{DiskUuid, Guid, PartitionTypeUuid, PartitionUuid};
use crate::format::label::PartitionLabel;
use crate::format::sparse::SparseBytes;
use crate::format::units::{ByteLength, Extent, LogicalBlockAddress, PartitionNumber, SectorSize};

/// A valid partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptTable {
    /// The size of the sectors that the table counts in.
    pub sector_size: SectorSize,
    /// Which disk this is.
    pub disk_uuid: DiskUuid,
    /// Which copies of the table were valid.
    pub source: TableSource,
    /// The partitions by their numbers. They do not overlap, and no two have the same UUID.
    pub entries: Vec<GptEntry>,
}

/// Which copies of a table were valid, and so what it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableSource {
    /// Both copies, which are the same.
    Both,
    /// The primary copy; the backup copy has this problem.
    PrimaryOnly(CopyProblem),
    /// The backup copy; the primary copy has this problem.
    BackupOnly(CopyProblem),
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptEntry {
    /// Its number: the place of its entry, counted from one. Unused entries count as well.
    pub number: PartitionNumber,
    /// What kind of partition it is, never zero.
    pub type_uuid: PartitionTypeUuid,
    /// Which partition it is, never zero.
    pub uuid: PartitionUuid,
    /// Where it lies: at least one sector, inside the image.
    pub extent: Extent,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its label.
    pub label: PartitionLabel,
}

/// An entry as it lies on disk (UEFI 2.10, table 5.6).
#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    type_uuid: [u8; 16],
    uuid: [u8; 16],
    first: U64,
    last: U64,
    attributes: U64,
    label: [u8; 72],
}

const _: () = assert!(size_of::<RawEntry>() == 128);

impl Headers {
    /// Reads the table that these headers begin.
    ///
    /// `bytes` holds at least the [`Headers::table_extents`].
    ///
    /// # Errors
    /// A [`GptError`]: no valid copy, two that differ, or a partition that cannot be.
    pub fn table(&self, bytes: &SparseBytes) -> Result<GptTable, GptError> {
        let primary = read_entries(self.primary, bytes)?;
        let backup = read_entries(self.backup, bytes)?;
        let (source, (header, entries)) = match (primary, backup) {
            (Ok(primary), Ok(backup)) => match difference(primary, backup) {
                Some(difference) => return Err(GptError::CopiesDiffer { difference }),
                None => (TableSource::Both, primary),
            },
            (Ok(primary), Err(problem)) => (TableSource::PrimaryOnly(problem), primary),
            (Err(problem), Ok(backup)) => (TableSource::BackupOnly(problem), backup),
            (Err(primary), Err(backup)) => {
                return Err(GptError::NoValidCopy { sector_size: self.sector_size, primary, backup });
            }
        };
        let entries = parse_entries(&header, entries, self.sector_size)?;
        refuse_overlaps(&entries)?;
        refuse_duplicates(&entries)?;
        Ok(GptTable { sector_size: self.sector_size, disk_uuid: header.disk_uuid, source, entries })
    }
}

/// A valid header and the bytes of its entries.
type Copy<'a> = (Header, &'a [u8]);

/// The entries of a copy, their checksum compared; the inner error says why the copy cannot be used.
fn read_entries(
    header: Result<Header, CopyProblem>,
    bytes: &SparseBytes,
) -> Result<Result<Copy<'_>, CopyProblem>, GptError> {
    let header = match header {
        Ok(header) => header,
        Err(problem) => return Ok(Err(problem)),
    };
    let extent = header.entries;
    let entries = bytes.get(extent).ok_or(GptError::NotRead { extent })?;
    let (expected, found) = (crc32fast::hash(entries), header.entries_checksum);
    if expected != found {
        return Ok(Err(CopyProblem::EntriesChecksum { expected, found }));
    }
    Ok(Ok((header, entries)))
}

/// The first thing in which two valid copies differ.
fn difference(
    (primary, primary_entries): Copy<'_>,
    (backup, backup_entries): Copy<'_>,
) -> Option<Difference> {
    let usable = |header: Header| (header.first_usable, header.last_usable);
    // The backup's address of the primary was held against block 1 already.
    [
        (primary.alternate != backup.own, Difference::AlternateAddress),
        (primary.disk_uuid != backup.disk_uuid, Difference::DiskUuid),
        (usable(primary) != usable(backup), Difference::UsableRange),
        (primary.entry_size != backup.entry_size, Difference::EntrySize),
        (primary.entry_count != backup.entry_count, Difference::EntryCount),
        (primary_entries != backup_entries, Difference::Entries),
    ]
    .into_iter()
    .find_map(|(differs, difference)| differs.then_some(difference))
}

/// The partitions of one copy by itself; `None` where they were not read, or something is wrong with them.
pub(super) fn entries_of(
    header: &Header,
    bytes: &SparseBytes,
    sector_size: SectorSize,
) -> Option<Vec<GptEntry>> {
    let (header, entries) = read_entries(Ok(*header), bytes).ok()?.ok()?;
    parse_entries(&header, entries, sector_size).ok()
}

/// Every used entry, each valid by itself.
fn parse_entries(header: &Header, bytes: &[u8], sector_size: SectorSize) -> Result<Vec<GptEntry>, GptError> {
    let entry_size = ByteLength::new(header.entry_size.into()).in_memory().unwrap_or(usize::MAX);
    let numbers = (1..=header.entry_count).filter_map(PartitionNumber::new);
    let mut entries = Vec::new();
    for (number, bytes) in numbers.zip(bytes.chunks_exact(entry_size)) {
        let used = RawEntry::ref_from_prefix(bytes).ok().filter(|(raw, _)| raw.type_uuid != [0; 16]);
        if let Some((raw, _)) = used {
            entries.push(raw.parse(number, header, sector_size)?);
        }
    }
    Ok(entries)
}

impl GptEntry {
    /// The entry as it lies on disk, in 128 bytes. What stood behind the end of the label is not kept.
    pub(super) fn to_bytes(&self, sector_size: SectorSize) -> Vec<u8> {
        let block = |bytes: u64| bytes.checked_div(sector_size.bytes().into()).unwrap_or_default();
        let mut label = [0; 72];
        for (place, unit) in label.as_chunks_mut::<2>().0.iter_mut().zip(self.label.units()) {
            *place = unit.to_le_bytes();
        }
        let raw = RawEntry {
            type_uuid: self.type_uuid.guid().to_disk(),
            uuid: self.uuid.guid().to_disk(),
            first: block(self.extent.start().bytes()).into(),
            last: block(self.extent.end().bytes()).saturating_sub(1).into(),
            attributes: self.attributes.bits().into(),
            label,
        };
        raw.as_bytes().to_vec()
    }
}

impl RawEntry {
    fn parse(
        &self,
        number: PartitionNumber,
        header: &Header,
        sector_size: SectorSize,
    ) -> Result<GptEntry, GptError> {
        let first = LogicalBlockAddress::new(self.first.get());
        let last = LogicalBlockAddress::new(self.last.get());
        let (usable_first, usable_last) = (header.first_usable, header.last_usable);
        if first > last {
            return Err(GptError::PartitionReversed { number, first, last });
        }
        let extent = Some(())
            .filter(|()| first >= usable_first && last <= usable_last)
            .and_then(|()| blocks_extent(first, last, sector_size))
            .ok_or(GptError::PartitionOutOfRange { number, first, last, usable_first, usable_last })?;
        let uuid = Guid::from_disk(self.uuid);
        if uuid.is_zero() {
            return Err(GptError::PartitionUuidZero { number });
        }
        Ok(GptEntry {
            number,
            type_uuid: PartitionTypeUuid::new(Guid::from_disk(self.type_uuid)),
            uuid: PartitionUuid::new(uuid),
            extent,
            attributes: Attributes::from_bits(self.attributes.get()),
            label: PartitionLabel::from_disk(&self.label),
        })
    }
}

/// The bytes of the blocks `first` to `last`, both included.
fn blocks_extent(
    first: LogicalBlockAddress,
    last: LogicalBlockAddress,
    sector_size: SectorSize,
) -> Option<Extent> {
    let blocks = last.block().checked_sub(first.block())?.checked_add(1)?;
    let length = blocks.checked_mul(sector_size.bytes().into())?;
    Extent::new(first.offset(sector_size)?, ByteLength::new(length))
}

fn refuse_overlaps(entries: &[GptEntry]) -> Result<(), GptError> {
    let mut by_start: Vec<_> = entries.iter().map(|entry| (entry.extent, entry.number)).collect();
    by_start.sort_unstable();
    // None is empty: if any two overlap, so do two neighbours.
    for (earlier, later) in by_start.iter().zip(by_start.iter().skip(1)) {
        if earlier.0.overlaps(later.0) {
            return Err(GptError::PartitionsOverlap { first: earlier.1, second: later.1 });
        }
    }
    Ok(())
}

fn refuse_duplicates(entries: &[GptEntry]) -> Result<(), GptError> {
    let mut by_uuid: Vec<_> = entries.iter().map(|entry| (entry.uuid, entry.number)).collect();
    by_uuid.sort_unstable();
    for ((uuid, first), (other, second)) in by_uuid.iter().zip(by_uuid.iter().skip(1)) {
        if uuid == other {
            return Err(GptError::PartitionUuidDuplicate { first: *first, second: *second, uuid: *uuid });
        }
    }
    Ok(())
}
