//! Quantities of a disk image as types: byte offsets, byte lengths, extents, sectors and block addresses.
//!
//! A bare `u64` that may be bytes or blocks is the classic mistake of partition code. Here every conversion has a
//! name and is checked.

use std::fmt;
use std::num::NonZeroU32;

/// A position in an image, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteOffset(u64);

impl ByteOffset {
    /// The beginning of the image.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` bytes from the beginning.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes before this position.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The position `length` further on; `None` where it does not fit 64 bits.
    #[must_use]
    pub fn checked_add(self, length: ByteLength) -> Option<Self> {
        self.0.checked_add(length.0).map(Self)
    }

    /// The distance from `earlier` to here; `None` where `earlier` is later.
    #[must_use]
    pub fn checked_distance_from(self, earlier: Self) -> Option<ByteLength> {
        self.0.checked_sub(earlier.0).map(ByteLength)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteLength(u64);

impl ByteLength {
    /// No bytes at all.
    pub const ZERO: Self = Self(0);

    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The length of something that lies in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as an index into memory; `None` where the address space is smaller.
    #[must_use]
    pub fn in_memory(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    /// Whether this is no bytes at all.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ByteLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of bytes of an image whose end is known to fit 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    start: ByteOffset,
    length: ByteLength,
}

impl Extent {
    /// `length` bytes from `start`; `None` where the end does not fit 64 bits.
    #[must_use]
    pub fn new(start: ByteOffset, length: ByteLength) -> Option<Self> {
        start.checked_add(length)?;
        Some(Self { start, length })
    }

    /// The first `length` bytes of an image.
    #[must_use]
    pub const fn from_beginning(length: ByteLength) -> Self {
        Self { start: ByteOffset::ZERO, length }
    }

    /// Where it begins.
    #[must_use]
    pub const fn start(self) -> ByteOffset {
        self.start
    }

    /// How long it is.
    #[must_use]
    pub const fn length(self) -> ByteLength {
        self.length
    }

    /// The position right behind it.
    #[must_use]
    pub fn end(self) -> ByteOffset {
        ByteOffset(self.start.0.saturating_add(self.length.0))
    }

    /// Whether no byte lies in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.length.is_zero()
    }

    /// Whether every byte of `other` lies in this extent.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end() && other.start < self.end()
    }

    /// The part that begins `offset` bytes into this extent and is `length` bytes long; `None` where it leaves it.
    #[must_use]
    pub fn part(self, offset: ByteLength, length: ByteLength) -> Option<Self> {
        let part = Self::new(self.start.checked_add(offset)?, length)?;
        self.contains(part).then_some(part)
    }

    /// The first `length` bytes of this extent, or all of it where it is shorter.
    #[must_use]
    pub fn truncated(self, length: ByteLength) -> Self {
        Self { start: self.start, length: self.length.min(length) }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end())
    }
}

/// The logical block size of a disk: 512, 1024, 2048 or 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorSize(u32);

impl SectorSize {
    /// 512 bytes, what a disk has when nothing says otherwise.
    pub const DEFAULT: Self = Self(512);
    /// Every size a table is looked for with, smallest first.
    pub const ALL: [Self; 4] = [Self(512), Self(1024), Self(2048), Self(4096)];

    /// The sector size of `bytes` bytes; `None` where it is not one of [`Self::ALL`].
    #[must_use]
    pub fn new(bytes: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.0 == bytes)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The size as a length.
    #[must_use]
    pub fn length(self) -> ByteLength {
        ByteLength(u64::from(self.0))
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A block address as the partition table counts: in sectors of the table's own size (UEFI 2.10, 5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogicalBlockAddress(u64);

impl LogicalBlockAddress {
    /// Block number `block`, counted from zero.
    #[must_use]
    pub const fn new(block: u64) -> Self {
        Self(block)
    }

    /// The block number, counted from zero.
    #[must_use]
    pub const fn block(self) -> u64 {
        self.0
    }

    /// Where the block begins; `None` where that does not fit 64 bits.
    #[must_use]
    pub fn offset(self, sector_size: SectorSize) -> Option<ByteOffset> {
        self.0.checked_mul(u64::from(sector_size.0)).map(ByteOffset)
    }
}

impl fmt::Display for LogicalBlockAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a partition: its table entry counted from one, as the kernel and every tool counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionNumber(NonZeroU32);

impl PartitionNumber {
    /// Partition `number`; `None` for zero.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number, at least one.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for PartitionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `extents` in order, those that overlap or are at most `most` apart made one.
#[must_use]
pub fn merged(mut extents: Vec<Extent>, most: ByteLength) -> Vec<Extent> {
    extents.sort_unstable();
    let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        if let Some(last) = merged.last_mut() {
            let gap = extent.start().bytes().saturating_sub(last.end().bytes());
            let end = last.end().max(extent.end());
            let length = end.checked_distance_from(last.start());
            if gap <= most.bytes()
                && let Some(joined) = length.and_then(|length| Extent::new(last.start(), length))
            {
                *last = joined;
                continue;
            }
        }
        merged.push(extent);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, length: u64) -> Extent {
        Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
    }

    #[test]
    fn an_extent_whose_end_does_not_fit_is_none() {
        assert_eq!(Extent::new(ByteOffset::new(u64::MAX), ByteLength::new(1)), None);
        assert!(Extent::new(ByteOffset::new(u64::MAX), ByteLength::ZERO).is_some());
    }

    #[test]
    fn touching_extents_do_not_overlap() {
        assert!(!extent(0, 10).overlaps(extent(10, 10)));
        assert!(extent(0, 11).overlaps(extent(10, 10)));
        assert!(!extent(5, 0).overlaps(extent(0, 10)));
    }

    #[test]
    fn a_part_never_leaves_its_extent() {
        assert_eq!(extent(100, 10).part(ByteLength::new(4), ByteLength::new(6)), Some(extent(104, 6)));
        assert_eq!(extent(100, 10).part(ByteLength::new(4), ByteLength::new(7)), None);
        assert_eq!(extent(100, 10).part(ByteLength::new(u64::MAX), ByteLength::new(1)), None);
    }

    #[test]
    fn only_the_four_probed_sector_sizes_exist() {
        assert_eq!(SectorSize::new(4096).map(SectorSize::bytes), Some(4096));
        for bytes in [0, 256, 513, 8192, u32::MAX] {
            assert_eq!(SectorSize::new(bytes), None);
        }
    }

    #[test]
    fn near_extents_become_one_and_far_ones_do_not() {
        let extents = vec![extent(100, 10), extent(0, 50), extent(115, 1), extent(40, 5), extent(121, 1)];
        let most = ByteLength::new(5);
        assert_eq!(merged(extents, most), [extent(0, 50), extent(100, 22)]);
        assert_eq!(merged(vec![extent(0, 1), extent(7, 1)], most), [extent(0, 1), extent(7, 1)]);
    }

    #[test]
    fn overlapping_and_touching_extents_become_one() {
        let extents = vec![extent(10, 5), extent(0, 4), extent(15, 1), extent(12, 1), extent(2, 3)];
        assert_eq!(merged(extents, ByteLength::ZERO), [extent(0, 5), extent(10, 6)]);
    }
}
