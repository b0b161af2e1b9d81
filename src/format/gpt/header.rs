//! One header, and everything that can be said about it without its entries.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::{U32, U64};

use super::error::CopyProblem;
use crate::format::guid::{DiskUuid, Guid};
use crate::format::units::{ByteLength, Extent, LogicalBlockAddress, SectorSize};

/// How many bytes the entries of one copy may take: 8192 entries of the usual size, 64 times what tools write. It
/// bounds the memory and time that a table can cost.
pub const MAXIMUM_ENTRIES_LENGTH: ByteLength = ByteLength::new(1 << 20);

pub(super) const SIGNATURE: [u8; 8] = *b"EFI PART";
const REVISION: u32 = 0x0001_0000;
/// The sizes of an entry: 128 times a power of two (UEFI 2.10, table 5.5), up to the largest block.
const ENTRY_SIZES: [u32; 6] = [128, 256, 512, 1024, 2048, 4096];

/// A header as it lies on disk (UEFI 2.10, table 5.5).
#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    size: U32,
    checksum: U32,
    reserved: U32,
    own: U64,
    alternate: U64,
    first_usable: U64,
    last_usable: U64,
    disk_uuid: [u8; 16],
    entries: U64,
    entry_count: U32,
    entry_size: U32,
    entries_checksum: U32,
}

/// The size of [`RawHeader`], as a header that we write says it.
const HEADER_SIZE: u32 = 92;
const _: () = assert!(size_of::<RawHeader>() == 92);

/// Which copy of the table a header begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyRole {
    /// The one in block 1, its entries behind it.
    Primary,
    /// The one in the last block, its entries before it.
    Backup,
}

/// Where a header is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    role: CopyRole,
    sector_size: SectorSize,
    own: LogicalBlockAddress,
    image_last: LogicalBlockAddress,
}

impl Place {
    /// The block of one copy's header; `None` where an image of `image_size` bytes has no room for that copy.
    pub(super) fn new(role: CopyRole, image_size: ByteLength, sector_size: SectorSize) -> Option<Self> {
        let last = image_size.bytes().checked_div(u64::from(sector_size.bytes()))?.checked_sub(1)?;
        let (own, has_room) = match role {
            CopyRole::Primary => (1, last >= 1),
            CopyRole::Backup => (last, last >= 2),
        };
        has_room.then_some(Self {
            role,
            sector_size,
            own: LogicalBlockAddress::new(own),
            image_last: LogicalBlockAddress::new(last),
        })
    }

    /// The bytes of the block.
    pub(super) fn extent(self) -> Option<Extent> {
        Extent::new(self.own.offset(self.sector_size)?, self.sector_size.length())
    }
}

/// A header whose every field is valid for where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) own: LogicalBlockAddress,
    pub(super) alternate: LogicalBlockAddress,
    pub(super) first_usable: LogicalBlockAddress,
    pub(super) last_usable: LogicalBlockAddress,
    pub(super) disk_uuid: DiskUuid,
    /// Where the entries lie: at most [`MAXIMUM_ENTRIES_LENGTH`], inside the image.
    pub(super) entries: Extent,
    pub(super) entry_count: u32,
    pub(super) entry_size: u32,
    pub(super) entries_checksum: u32,
}

impl Header {
    /// Reads the header in `block`, the block at `place`.
    pub(super) fn read(block: &[u8], place: Place) -> Result<Self, CopyProblem> {
        let (raw, _) = RawHeader::ref_from_prefix(block).map_err(|_| CopyProblem::OutsideImage)?;
        raw.check_integrity(block, place)?;
        raw.check_addresses(place)?;
        Ok(Self {
            own: place.own,
            alternate: block_address(raw.alternate),
            first_usable: block_address(raw.first_usable),
            last_usable: block_address(raw.last_usable),
            disk_uuid: DiskUuid::new(Guid::from_disk(raw.disk_uuid)),
            entries: raw.entries_extent(place)?,
            entry_count: raw.entry_count.get(),
            entry_size: raw.entry_size.get(),
            entries_checksum: raw.entries_checksum.get(),
        })
    }
}

/// What a header that is written says, beside its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderFields {
    pub(super) own: LogicalBlockAddress,
    pub(super) alternate: LogicalBlockAddress,
    pub(super) first_usable: LogicalBlockAddress,
    pub(super) last_usable: LogicalBlockAddress,
    pub(super) disk_uuid: DiskUuid,
    pub(super) entries: LogicalBlockAddress,
    pub(super) entry_count: u32,
    pub(super) entry_size: u32,
    pub(super) entries_checksum: u32,
}

impl HeaderFields {
    /// The header as it lies on disk, checksum included; the rest of its block is zero.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut raw = RawHeader {
            signature: SIGNATURE,
            revision: REVISION.into(),
            size: HEADER_SIZE.into(),
            checksum: 0.into(),
            reserved: 0.into(),
            own: self.own.block().into(),
            alternate: self.alternate.block().into(),
            first_usable: self.first_usable.block().into(),
            last_usable: self.last_usable.block().into(),
            disk_uuid: self.disk_uuid.guid().to_disk(),
            entries: self.entries.block().into(),
            entry_count: self.entry_count.into(),
            entry_size: self.entry_size.into(),
            entries_checksum: self.entries_checksum.into(),
        };
        raw.checksum = header_checksum(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }
}

impl RawHeader {
    /// Whether `block` is a header at all, undamaged, and made for this place.
    fn check_integrity(&self, block: &[u8], place: Place) -> Result<(), CopyProblem> {
        if self.signature != SIGNATURE {
            return Err(CopyProblem::Signature);
        }
        if self.revision.get() != REVISION {
            return Err(CopyProblem::Revision { found: self.revision.get() });
        }
        let size = self.size.get();
        let covered = usize::try_from(size)
            .ok()
            .filter(|size| *size >= size_of::<Self>())
            .and_then(|size| block.get(..size))
            .ok_or(CopyProblem::HeaderSize { found: size, sector_size: place.sector_size })?;
        let expected = header_checksum(covered);
        if self.checksum.get() != expected {
            return Err(CopyProblem::HeaderChecksum { expected, found: self.checksum.get() });
        }
        if self.reserved.get() != 0 {
            return Err(CopyProblem::Reserved { found: self.reserved.get() });
        }
        let own = block_address(self.own);
        if own != place.own {
            return Err(CopyProblem::OwnAddress { expected: place.own, found: own });
        }
        Ok(())
    }

    /// Whether the blocks for partitions lie inside the image and between both copies.
    fn check_addresses(&self, place: Place) -> Result<(), CopyProblem> {
        let (first, last) = (block_address(self.first_usable), block_address(self.last_usable));
        if first > last {
            return Err(CopyProblem::UsableRangeReversed { first, last });
        }
        if last > place.image_last {
            return Err(CopyProblem::UsableRangeOutsideImage { last, image_last: place.image_last });
        }
        let primary = LogicalBlockAddress::new(1);
        if let Some(header) =
            [primary, place.own].into_iter().find(|header| *header >= first && *header <= last)
        {
            return Err(CopyProblem::UsableRangeOverHeader { first, last, header });
        }
        let alternate = block_address(self.alternate);
        let plausible = match place.role {
            CopyRole::Primary => alternate > last,
            CopyRole::Backup => alternate == primary,
        };
        if !plausible {
            return Err(CopyProblem::AlternateAddress { found: alternate });
        }
        Ok(())
    }

    /// Where the entries lie, which is between the header and the blocks for partitions (UEFI 2.10, 5.3.2).
    fn entries_extent(&self, place: Place) -> Result<Extent, CopyProblem> {
        let (count, size) = (self.entry_count.get(), self.entry_size.get());
        if !ENTRY_SIZES.contains(&size) {
            return Err(CopyProblem::EntrySize { found: size });
        }
        if count == 0 {
            return Err(CopyProblem::NoEntries);
        }
        let length = u64::from(count)
            .checked_mul(u64::from(size))
            .map(ByteLength::new)
            .filter(|length| *length <= MAXIMUM_ENTRIES_LENGTH)
            .ok_or(CopyProblem::TooManyEntries { count, size })?;

        let start = self.entries.get();
        let blocks = length.bytes().div_ceil(u64::from(place.sector_size.bytes()));
        let position = CopyProblem::EntriesPosition { found: LogicalBlockAddress::new(start), blocks };
        let end = start.checked_add(blocks).ok_or(position)?;
        let between = match place.role {
            CopyRole::Primary => start > place.own.block() && end <= self.first_usable.get(),
            CopyRole::Backup => start > self.last_usable.get() && end <= place.own.block(),
        };
        LogicalBlockAddress::new(start)
            .offset(place.sector_size)
            .filter(|_| between)
            .and_then(|offset| Extent::new(offset, length))
            .ok_or(position)
    }
}

fn block_address(field: U64) -> LogicalBlockAddress {
    LogicalBlockAddress::new(field.get())
}

/// The checksum of a header, for which its own field counts as zero.
fn header_checksum(header: &[u8]) -> u32 {
    const FIELD: std::ops::Range<usize> = 16..20;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(..FIELD.start).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(header.get(FIELD.end..).unwrap_or_default());
    hasher.finalize()
}
