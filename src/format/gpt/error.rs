//! What can be wrong with a partition table.

use crate::format::guid::PartitionUuid;
use crate::format::units::{Extent, LogicalBlockAddress, PartitionNumber, SectorSize};

/// Why one copy of the table, primary or backup, cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyProblem {
    /// The image ends before the place where the header has to be.
    #[error("the image ends before the header")]
    OutsideImage,
    /// The block does not begin with `EFI PART`.
    #[error("no signature 'EFI PART'")]
    Signature,
    /// The header is of a revision other than 1.0.
    #[error("expected revision 0x00010000, found {found:#010x}")]
    Revision {
        /// The revision.
        found: u32,
    },
    /// The header is smaller than its fields or larger than its block.
    #[error("expected a header of 92 to {sector_size} bytes, found {found}")]
    HeaderSize {
        /// The size in bytes.
        found: u32,
        /// The size of the block.
        sector_size: SectorSize,
    },
    /// The header's checksum is not that of its bytes.
    #[error("expected header checksum {expected:#010x}, found {found:#010x}")]
    HeaderChecksum {
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum that is written there.
        found: u32,
    },
    /// The header says that it lies elsewhere.
    #[error("expected a header of block {expected}, found one of block {found}")]
    OwnAddress {
        /// Where it lies.
        expected: LogicalBlockAddress,
        /// Where it says that it lies.
        found: LogicalBlockAddress,
    },
    /// The reserved field is not zero.
    #[error("expected zero in the reserved field, found {found:#010x}")]
    Reserved {
        /// What is there.
        found: u32,
    },
    /// The first block for partitions lies behind the last.
    #[error("usable blocks end before they begin: first {first}, last {last}")]
    UsableRangeReversed {
        /// The first usable block.
        first: LogicalBlockAddress,
        /// The last usable block.
        last: LogicalBlockAddress,
    },
    /// The blocks for partitions go on behind the end of the image.
    #[error("usable blocks end at {last}, the image at block {image_last}")]
    UsableRangeOutsideImage {
        /// The last usable block.
        last: LogicalBlockAddress,
        /// The last block of the image.
        image_last: LogicalBlockAddress,
    },
    /// The address of the other copy is not where that copy may be: block 1, or behind all usable blocks.
    #[error("the other copy of the table cannot be at block {found}")]
    AlternateAddress {
        /// The address.
        found: LogicalBlockAddress,
    },
    /// The blocks for partitions reach over a header.
    #[error("usable blocks {first} to {last} contain a header at block {header}")]
    UsableRangeOverHeader {
        /// The first usable block.
        first: LogicalBlockAddress,
        /// The last usable block.
        last: LogicalBlockAddress,
        /// The block of the header.
        header: LogicalBlockAddress,
    },
    /// An entry's size is not 128 bytes times a power of two, or larger than 4096 bytes.
    #[error("expected an entry size of 128 to 4096 bytes, a power of two, found {found}")]
    EntrySize {
        /// The size in bytes.
        found: u32,
    },
    /// The table has no entries.
    #[error("expected at least one entry, found none")]
    NoEntries,
    /// The entries take more memory than a table is given.
    #[error("expected entries of at most 1048576 bytes in all, found {count} of {size} bytes")]
    TooManyEntries {
        /// How many entries there are.
        count: u32,
        /// The size of each in bytes.
        size: u32,
    },
    /// The entries do not lie between their header and the usable blocks.
    #[error(
        "expected {blocks} blocks of entries between the header and the usable blocks, found them at block {found}"
    )]
    EntriesPosition {
        /// The first block of the entries.
        found: LogicalBlockAddress,
        /// How many blocks they take.
        blocks: u64,
    },
    /// The entries' checksum is not that of their bytes.
    #[error("expected checksum {expected:#010x} of the entries, found {found:#010x}")]
    EntriesChecksum {
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum that the header has.
        found: u32,
    },
}

/// In what two valid copies of a table differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Difference {
    /// The primary header's address of the backup header.
    AlternateAddress,
    /// The GUID of the disk.
    DiskUuid,
    /// The bytes of the entries.
    Entries,
    /// How many entries there are.
    EntryCount,
    /// The size of an entry.
    EntrySize,
    /// The blocks for partitions.
    UsableRange,
}

impl Difference {
    /// The thing in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlternateAddress => "the address of the backup header",
            Self::DiskUuid => "the disk GUID",
            Self::Entries => "the entries",
            Self::EntryCount => "the number of entries",
            Self::EntrySize => "the size of an entry",
            Self::UsableRange => "the usable blocks",
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The image has no partition table that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// The caller has not handed over bytes that were asked for: see `probe_extents` and `Headers::table_extents`.
    #[error("reading the partition table: {extent} are not there yet")]
    NotRead {
        /// What is missing.
        extent: Extent,
    },
    /// There is a table of the older kind alone.
    #[error("expected a GUID partition table, found an MBR partition table")]
    MasterBootRecord,
    /// There are tables, but no protective MBR in front of them.
    #[error("expected a protective MBR in front of the partition table, found none")]
    NoProtectiveMbr,
    /// The protective MBR has further partitions, which other software would see instead of those of the table.
    #[error(
        "expected a protective MBR, found a hybrid one with a partition of type {kind:#04x} in its entry {entry}"
    )]
    HybridMbr {
        /// The entry, counted from one.
        entry: u8,
        /// The type of the partition.
        kind: u8,
    },
    /// The entry of the protective MBR does not begin at the header.
    #[error("expected the protective partition to begin at block 1, found {found}")]
    ProtectiveStart {
        /// Where it begins, in blocks.
        found: u32,
    },
    /// There are valid headers for two sector sizes, so that there are two tables to choose from.
    #[error("found partition tables for sectors of {first} and of {second} bytes")]
    SectorSizeAmbiguous {
        /// The smaller size.
        first: SectorSize,
        /// The larger size.
        second: SectorSize,
    },
    /// The table is for a sector size other than the one that was asked for.
    #[error("expected a partition table for sectors of {expected} bytes, found one for {found}")]
    OtherSectorSize {
        /// The size asked for.
        expected: SectorSize,
        /// The size of the table.
        found: SectorSize,
    },
    /// There are traces of a table, but neither copy is valid.
    #[error(
        "neither copy of the partition table is valid (sectors of {sector_size} bytes): primary: {primary}; backup: {backup}"
    )]
    NoValidCopy {
        /// The sector size that the table seems to be for.
        sector_size: SectorSize,
        /// What is wrong with the primary copy.
        primary: CopyProblem,
        /// What is wrong with the backup copy.
        backup: CopyProblem,
    },
    /// Both copies are valid, and not the same.
    #[error("both copies of the partition table are valid but differ in {difference}")]
    CopiesDiffer {
        /// In what.
        difference: Difference,
    },
    /// A partition ends before it begins.
    #[error("partition {number} ends before it begins: first block {first}, last block {last}")]
    PartitionReversed {
        /// The partition.
        number: PartitionNumber,
        /// Its first block.
        first: LogicalBlockAddress,
        /// Its last block.
        last: LogicalBlockAddress,
    },
    /// A partition leaves the usable blocks.
    #[error(
        "partition {number} with blocks {first} to {last} leaves the usable blocks {usable_first} to {usable_last}"
    )]
    PartitionOutOfRange {
        /// The partition.
        number: PartitionNumber,
        /// Its first block.
        first: LogicalBlockAddress,
        /// Its last block.
        last: LogicalBlockAddress,
        /// The first block for partitions.
        usable_first: LogicalBlockAddress,
        /// The last block for partitions.
        usable_last: LogicalBlockAddress,
    },
    /// A partition has no UUID.
    #[error("partition {number} has the zero UUID")]
    PartitionUuidZero {
        /// The partition.
        number: PartitionNumber,
    },
    /// Two partitions have blocks in common.
    #[error("partitions {first} and {second} overlap")]
    PartitionsOverlap {
        /// The one that begins earlier.
        first: PartitionNumber,
        /// The other.
        second: PartitionNumber,
    },
    /// Two partitions have the same UUID.
    #[error("partitions {first} and {second} have the same UUID '{uuid}'")]
    PartitionUuidDuplicate {
        /// The one with the lower number.
        first: PartitionNumber,
        /// The other.
        second: PartitionNumber,
        /// The UUID.
        uuid: PartitionUuid,
    },
}
