//! Writing a table: both copies of it, for partitions that lie in an image already.

use super::header::HeaderFields;
use super::mbr;
use super::table::GptEntry;
use crate::format::guid::DiskUuid;
use crate::format::units::{ByteLength, ByteOffset, LogicalBlockAddress, PartitionNumber, SectorSize};

/// The size of an entry, what everybody writes.
const ENTRY_SIZE: u32 = 128;
/// How many entries a table has that has room for them: 16 KiB, the least that the specification asks to reserve
/// (UEFI 2.10, 5.3.2).
const USUAL_COUNT: u32 = 128;
/// The most entries that our own reader takes: [`MAXIMUM_ENTRIES_LENGTH`](super::MAXIMUM_ENTRIES_LENGTH) of them.
const MAXIMUM_COUNT: u32 = 8192;

/// Why no table can be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A partition does not lie on block boundaries, or has no block at all.
    #[error("partition {number} at {start}, {length} bytes long: not whole blocks of {sector_size} bytes")]
    NotWholeBlocks {
        /// Which.
        number: PartitionNumber,
        /// Where it begins.
        start: ByteOffset,
        /// How long it is.
        length: ByteLength,
        /// The size of a block.
        sector_size: SectorSize,
    },
    /// A partition begins where the primary copy of the table has to be.
    #[error("partition {number} begins in block {first}, where the table needs the blocks before {needed}")]
    NoRoom {
        /// Which.
        number: PartitionNumber,
        /// Its first block.
        first: LogicalBlockAddress,
        /// The first block behind the smallest table that has this partition's number.
        needed: LogicalBlockAddress,
    },
    /// A partition has a number that no table goes up to.
    #[error("partition {number}: expected a number of at most {MAXIMUM_COUNT}")]
    NumberTooLarge {
        /// Which.
        number: PartitionNumber,
    },
    /// The end of the image does not fit 64 bits.
    #[error("expected partitions that end before byte 2^64")]
    TooLarge,
}

/// A table as it is to be written: a few pieces of an image, and the size that the image then has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenTable {
    /// The size of the image: the one it had, in whole blocks, or larger where the backup copy needs it.
    pub image_size: ByteLength,
    /// Where each piece goes: the MBR, then header and entries of either copy. The rest of their blocks is zero.
    pub pieces: Vec<(ByteOffset, Vec<u8>)>,
}

impl WrittenTable {
    /// The table for these partitions of an image of `image_size` bytes. They stay where they are, with the numbers, UUIDs,
    /// labels and attributes that they have; they do not overlap.
    ///
    /// # Errors
    /// A [`WriteError`]. Partitions of a table that was read fit, unless only its backup copy was valid.
    pub fn new(
        image_size: ByteLength,
        sector_size: SectorSize,
        disk_uuid: DiskUuid,
        entries: &[GptEntry],
    ) -> Result<Self, WriteError> {
        let blocks = entries
            .iter()
            .map(|entry| Ok((Blocks::of(entry, sector_size)?, entry.number)))
            .collect::<Result<Vec<_>, WriteError>>()?;
        let highest = entries.iter().map(|entry| entry.number).max();
        let least = match highest {
            Some(number) if number.get() > MAXIMUM_COUNT => {
                return Err(WriteError::NumberTooLarge { number });
            }
            highest => highest.map_or(1, PartitionNumber::get),
        };
        let first = blocks.iter().min_by_key(|(blocks, _)| blocks.first);
        let end = blocks.iter().map(|(blocks, _)| blocks.end).max().unwrap_or_default();
        let fits = |count| first.is_none_or(|(blocks, _)| entries_end(count, sector_size) <= blocks.first);
        let count = Some(least.max(USUAL_COUNT)).filter(|count| fits(*count)).unwrap_or(least);
        if let Some((blocks, number)) = first.filter(|_| !fits(count)) {
            return Err(WriteError::NoRoom {
                number: *number,
                first: LogicalBlockAddress::new(blocks.first),
                needed: LogicalBlockAddress::new(entries_end(count, sector_size)),
            });
        }
        Self::laid_out(Layout::new(image_size, sector_size, count, end)?, disk_uuid, entries)
    }

    fn laid_out(layout: Layout, disk_uuid: DiskUuid, entries: &[GptEntry]) -> Result<Self, WriteError> {
        let table = layout.entries(entries);
        let address = LogicalBlockAddress::new;
        let offset = |block| address(block).offset(layout.sector_size).ok_or(WriteError::TooLarge);
        let first_usable = entries_end(layout.count, layout.sector_size);
        let mut pieces = vec![(ByteOffset::ZERO, mbr::protective(layout.blocks).to_vec())];
        for (own, alternate, place) in [(1, layout.last, 2), (layout.last, 1, layout.backup_entries)] {
            let header = HeaderFields {
                own: address(own),
                alternate: address(alternate),
                first_usable: address(first_usable),
                last_usable: address(layout.backup_entries.saturating_sub(1)),
                disk_uuid,
                entries: address(place),
                entry_count: layout.count,
                entry_size: ENTRY_SIZE,
                entries_checksum: crc32fast::hash(&table),
            };
            pieces.push((offset(own)?, header.to_bytes()));
            pieces.push((offset(place)?, table.clone()));
        }
        Ok(Self { image_size: ByteLength::new(offset(layout.blocks)?.bytes()), pieces })
    }
}

/// The blocks of a partition: the first, and the one behind the last.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    first: u64,
    end: u64,
}

impl Blocks {
    fn of(entry: &GptEntry, sector_size: SectorSize) -> Result<Self, WriteError> {
        let (start, end) = (entry.extent.start().bytes(), entry.extent.end().bytes());
        let whole = |bytes: u64| {
            let sector = u64::from(sector_size.bytes());
            bytes.checked_div(sector).filter(|blocks| blocks.checked_mul(sector) == Some(bytes))
        };
        match (whole(start), whole(end)) {
            (Some(first), Some(end)) if first < end => Ok(Self { first, end }),
            _ => Err(WriteError::NotWholeBlocks {
                number: entry.number,
                start: entry.extent.start(),
                length: entry.extent.length(),
                sector_size,
            }),
        }
    }
}

/// How many blocks this many entries take.
fn entry_blocks(count: u32, sector_size: SectorSize) -> u64 {
    u64::from(count).saturating_mul(ENTRY_SIZE.into()).div_ceil(sector_size.bytes().into())
}

/// The block behind the entries of the primary copy, which follow its header.
fn entries_end(count: u32, sector_size: SectorSize) -> u64 {
    entry_blocks(count, sector_size).saturating_add(2)
}

/// Where the parts of a table go, in blocks.
#[derive(Debug, Clone, Copy)]
struct Layout {
    sector_size: SectorSize,
    count: u32,
    blocks: u64,
    last: u64,
    backup_entries: u64,
}

impl Layout {
    /// The layout for an image whose partitions end before block `end`: the backup copy takes its last blocks, which are
    /// added where they are not free.
    fn new(
        image_size: ByteLength,
        sector_size: SectorSize,
        count: u32,
        end: u64,
    ) -> Result<Self, WriteError> {
        let backup = entry_blocks(count, sector_size).saturating_add(1);
        let usable = end.max(entries_end(count, sector_size).saturating_add(1));
        let least = usable.checked_add(backup).ok_or(WriteError::TooLarge)?;
        let there = image_size.bytes().checked_div(sector_size.bytes().into()).unwrap_or_default();
        let blocks = there.max(least);
        let last = blocks.saturating_sub(1);
        Ok(Self { sector_size, count, blocks, last, backup_entries: blocks.saturating_sub(backup) })
    }

    /// The entries of either copy, each in the place of its number.
    fn entries(&self, entries: &[GptEntry]) -> Vec<u8> {
        let mut table = Vec::new();
        for number in 1..=self.count {
            match entries.iter().find(|entry| entry.number.get() == number) {
                Some(entry) => table.extend(entry.to_bytes(self.sector_size)),
                None => table.extend([0; 128]),
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpt_builder::GptBuilder;
    use super::super::{GptTable, Headers, TableSource, probe_extents};
    use super::*;
    use crate::format::sparse::SparseBytes;
    use crate::format::units::Extent;

    const TYPES: [u128; 3] = [0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709, super::super::gpt_builder::ESP, 7];

    fn read(bytes: &[u8]) -> GptTable {
        let size = ByteLength::of(bytes);
        let mut sparse = SparseBytes::new();
        let take = |sparse: &mut SparseBytes, extents: Vec<Extent>| {
            for extent in extents {
                let start = usize::try_from(extent.start().bytes()).unwrap();
                sparse.insert(extent.start(), &bytes[start..][..extent.length().in_memory().unwrap()]);
            }
        };
        take(&mut sparse, probe_extents(size));
        let headers = Headers::find(&sparse, size, None).unwrap().unwrap();
        take(&mut sparse, headers.table_extents());
        headers.table(&sparse).unwrap()
    }

    /// An image of zeros with this table and nothing else.
    fn written(table: &WrittenTable) -> Vec<u8> {
        let mut bytes = vec![0; table.image_size.in_memory().unwrap()];
        for (offset, piece) in &table.pieces {
            bytes[usize::try_from(offset.bytes()).unwrap()..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    }

    fn rewritten(bytes: &[u8], keep: impl Fn(&GptEntry) -> bool) -> (GptTable, WrittenTable, Vec<GptEntry>) {
        let table = read(bytes);
        let kept: Vec<GptEntry> = table.entries.iter().filter(|entry| keep(entry)).cloned().collect();
        let size = ByteLength::of(bytes);
        let new = WrittenTable::new(size, table.sector_size, table.disk_uuid, &kept).unwrap();
        (table, new, kept)
    }

    #[test]
    fn the_entries_that_are_kept_are_read_back_as_they_were() {
        for sector_size in [512, 1024, 2048, 4096] {
            for (count, size) in [(128, 128), (4, 128), (1024, 256), (256, sector_size)] {
                let image = GptBuilder::new(sector_size)
                    .entries(count, size)
                    .partition(TYPES[0], 1, "root_\u{1F980}", 1 << 60, vec![1; 5000])
                    .unused()
                    .partition(TYPES[1], 2, "", u64::MAX, vec![2; 100])
                    .partition(TYPES[2], 3, &"x".repeat(36), 0, vec![3; 9000])
                    .build();
                for dropped in 1..=4 {
                    let (old, new, kept) = rewritten(&image.bytes, |entry| entry.number.get() != dropped);
                    let table = read(&written(&new));
                    assert_eq!(table.entries, kept, "{sector_size} {count} {size}");
                    assert_eq!((table.source, table.disk_uuid), (TableSource::Both, old.disk_uuid));
                    assert_eq!(new.image_size, ByteLength::of(&image.bytes));
                }
            }
        }
    }

    #[test]
    fn pieces_lie_outside_the_partitions() {
        let image = GptBuilder::new(512)
            .alignment(512)
            .entries(4, 128)
            .partition(TYPES[0], 1, "a", 0, vec![1; 512])
            .partition(TYPES[1], 2, "b", 0, vec![2; 512])
            .build();
        // Behind the last partition there is no room for a backup copy: the image grows.
        let end = image.partitions[1].offset + 512;
        let table = read(&image.bytes);
        let kept = table.entries;
        let new = WrittenTable::new(ByteLength::new(end), table.sector_size, table.disk_uuid, &kept).unwrap();
        assert_eq!(new.image_size, ByteLength::new(end + 512 + 512));
        for (offset, piece) in &new.pieces {
            let piece = Extent::new(*offset, ByteLength::of(piece)).unwrap();
            assert!(kept.iter().all(|entry| !entry.extent.overlaps(piece)), "{piece}");
        }
        assert_eq!(read(&written(&new)).entries, kept);
    }

    #[test]
    fn an_image_that_ends_within_a_block_ends_with_the_last_whole_one() {
        let mut image = GptBuilder::new(512).partition(TYPES[0], 1, "a", 0, vec![1; 512]).build();
        image.bytes.resize(image.bytes.len() + 100, 7);
        let (_, new, _) = rewritten(&image.bytes, |_| true);
        assert_eq!(new.image_size.bytes() % 512, 0);
        assert_eq!(read(&written(&new)).source, TableSource::Both);
    }

    #[test]
    fn what_has_no_room_is_refused() {
        let image = GptBuilder::new(512).partition(TYPES[0], 1, "a", 0, vec![1; 512]).build();
        let table = read(&image.bytes);
        let new = |number: u32, start: u64, length: u64| {
            let extent = Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap();
            let number = PartitionNumber::new(number).unwrap();
            let entry = GptEntry { number, extent, ..table.entries[0].clone() };
            WrittenTable::new(ByteLength::of(&image.bytes), table.sector_size, table.disk_uuid, &[entry])
        };
        assert!(matches!(new(1, 1024, 512), Err(WriteError::NoRoom { .. })));
        assert!(new(1, 1536, 512).is_ok() && new(4, 1536, 512).is_ok());
        assert!(matches!(new(5, 1536, 512), Err(WriteError::NoRoom { .. })));
        assert!(matches!(new(9000, 1 << 30, 512), Err(WriteError::NumberTooLarge { .. })));
        assert!(matches!(new(1, 1 << 20, 100), Err(WriteError::NotWholeBlocks { .. })));
        assert!(matches!(new(1, 1 << 20, 0), Err(WriteError::NotWholeBlocks { .. })));
        assert!(matches!(new(1, u64::MAX - 1023, 512), Err(WriteError::TooLarge)));
    }
}
