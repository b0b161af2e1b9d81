use super::super::sparse::SparseBytes;
use super::super::superblock::{FatType, Vfat};
use super::super::units::{ByteLength, Extent};

/// How much of a table of FAT32 is asked for at once: those of FAT12 and FAT16 have at most 128 KiB, and are read as a
/// whole.
const PAGE: u64 = 32 << 10;

/// Where the clusters of a file system lie, and the entries that chain them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Volume {
    fat_type: FatType,
    table: Extent,
    /// All clusters, the first of which has the number 2.
    area: Extent,
    cluster_length: u64,
    /// How many clusters there are.
    clusters: u32,
}

/// What an entry of a table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The number of the next cluster.
    Cluster(u32),
    /// There is no next one.
    End,
    /// Something that is no cluster: a free one, a bad one, or a number beyond all.
    Outside(u32),
}

impl Volume {
    /// The file system that fills `extent` of an image.
    pub(super) fn new(extent: Extent, vfat: &Vfat) -> Option<Self> {
        let layout = vfat.layout();
        let cluster_length = layout.cluster_length.bytes();
        let table = extent.part(ByteLength::new(layout.table.start().bytes()), layout.table.length())?;
        let length = ByteLength::new(vfat.clusters().checked_mul(cluster_length)?);
        let area = extent.part(ByteLength::new(layout.clusters.bytes()), length)?;
        let clusters = u32::try_from(vfat.clusters()).ok()?;
        Some(Self { fat_type: vfat.fat_type(), table, area, cluster_length, clusters })
    }

    pub(super) const fn clusters(&self) -> u32 {
        self.clusters
    }

    pub(super) const fn cluster_length(&self) -> u64 {
        self.cluster_length
    }

    /// The first cluster of what an entry of a directory says it of: only FAT32 has the upper half of the number.
    pub(super) const fn first(&self, said: u32) -> u32 {
        match self.fat_type {
            FatType::Fat12 | FatType::Fat16 => said & 0xffff,
            FatType::Fat32 => said,
        }
    }

    /// Whether there is a cluster of this number.
    pub(super) const fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && cluster.saturating_sub(2) < self.clusters
    }

    /// Where clusters from `first` to before `end` lie.
    pub(super) fn run(&self, first: u32, end: u32) -> Option<Extent> {
        let bytes = |clusters: u32| ByteLength::new(u64::from(clusters).saturating_mul(self.cluster_length));
        self.area.part(bytes(first.checked_sub(2)?), bytes(end.checked_sub(first)?))
    }

    /// What follows a cluster, which must be one; or the part of the table that says it.
    pub(super) fn next(&self, bytes: &SparseBytes, cluster: u32) -> Result<Next, Extent> {
        let number = u64::from(cluster);
        let (offset, length) = match self.fat_type {
            FatType::Fat12 => (number.saturating_add(number / 2), 2),
            FatType::Fat16 => (number.saturating_mul(2), 2),
            FatType::Fat32 => (number.saturating_mul(4), 4),
        };
        let page = self.page(offset);
        let place = self.table.part(ByteLength::new(offset), ByteLength::new(length)).ok_or(page)?;
        let entry = bytes.get(place).ok_or(page)?;
        let entry = entry.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        let (entry, end) = match self.fat_type {
            FatType::Fat12 if number.is_multiple_of(2) => (entry & 0xfff, 0xff8),
            FatType::Fat12 => (entry >> 4, 0xff8),
            FatType::Fat16 => (entry, 0xfff8),
            FatType::Fat32 => (entry & 0x0fff_ffff, 0x0fff_fff8),
        };
        Ok(match entry {
            entry if self.has(entry) => Next::Cluster(entry),
            entry if entry >= end => Next::End,
            entry => Next::Outside(entry),
        })
    }

    /// What is read of the table for the sake of the byte at `offset`.
    fn page(&self, offset: u64) -> Extent {
        if self.fat_type != FatType::Fat32 {
            return self.table;
        }
        let start = (offset / PAGE).saturating_mul(PAGE);
        let length = self.table.length().bytes().saturating_sub(start).min(PAGE);
        self.table.part(ByteLength::new(start), ByteLength::new(length)).unwrap_or(self.table)
    }
}
