//! FAT file systems: whether a boot sector is one that firmware, our kernel and everybody else reads alike.
//!
//! The fields and the way to tell FAT12, FAT16 and FAT32 apart are those of Microsoft's 'FAT: General Overview of
//! On-Disk Format' 1.03, as the kernel applies them (fs/fat/inode.c). An EFI system partition is used only if this
//! succeeds: the content of an ESP is not authenticated, so no other file system driver may see it.

use std::fmt;

use crate::format::sparse::Window;
use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::{Numbers, blocks};

/// The width of the entries of a file allocation table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FatType {
    /// 12 bits.
    Fat12,
    /// 16 bits.
    Fat16,
    /// 32 bits, of which 28 count.
    Fat32,
}

impl FatType {
    const fn bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }

    /// How many clusters there can be: the numbers behind these mark the end of a file and bad clusters
    /// (`MAX_FAT12`, `MAX_FAT16`, `MAX_FAT32` of fs/fat/fat.h).
    const fn max_clusters(self) -> u64 {
        match self {
            Self::Fat12 => 0xff4,
            Self::Fat16 => 0xfff4,
            Self::Fat32 => 0x0fff_fff6,
        }
    }
}

impl fmt::Display for FatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
        })
    }
}

/// A sane FAT file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vfat {
    fat_type: FatType,
    sector_size: u16,
    sectors: u32,
    clusters: u64,
    layout: VfatLayout,
}

/// Where the parts of a FAT file system lie, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfatLayout {
    /// The first file allocation table, as far as it has entries of clusters.
    pub table: Extent,
    /// The only table that counts, where a FAT32 says that they are not copies of each other. Linux does not look at that.
    pub active_table: Option<u8>,
    /// The root directory.
    pub root: VfatRoot,
    /// Where cluster 2 begins, which is the first.
    pub clusters: ByteOffset,
    /// The length of a cluster: a power of two, at most 512 KiB.
    pub cluster_length: ByteLength,
}

/// Where the root directory of a FAT file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VfatRoot {
    /// In an area of its own: FAT12 and FAT16.
    Area(Extent),
    /// In clusters, of which this is the first: FAT32.
    Cluster(u32),
}

/// The partition does not begin with the boot sector of a sane FAT file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VfatError {
    /// The boot sector does not end in 55 AA.
    #[error("expected a boot sector that ends in 55 aa, found {:02x} {:02x}", .found[0], .found[1])]
    BootSignature {
        /// The two bytes.
        found: [u8; 2],
    },
    /// A boot sector begins with a jump over the parameters.
    #[error("expected a jump at the beginning of the boot sector, found {:02x} {:02x} {:02x}", .found[0], .found[1], .found[2])]
    Jump {
        /// The first three bytes.
        found: [u8; 3],
    },
    /// Sectors of a size that nobody has.
    #[error("expected sectors of 512, 1024, 2048 or 4096 bytes, found {found}")]
    SectorSize {
        /// What the boot sector says.
        found: u16,
    },
    /// Clusters are not a power of two of sectors.
    #[error("expected a power of two of sectors in a cluster, found {found}")]
    SectorsPerCluster {
        /// What the boot sector says.
        found: u8,
    },
    /// The boot sector itself is not reserved.
    #[error("expected at least one reserved sector, found none")]
    ReservedSectors,
    /// Neither one nor two tables.
    #[error("expected one or two file allocation tables, found {found}")]
    Tables {
        /// What the boot sector says.
        found: u8,
    },
    /// The media byte is none.
    #[error("expected a media byte of f0 or f8 to ff, found {found:02x}")]
    Media {
        /// What the boot sector says.
        found: u8,
    },
    /// Both fields for the number of sectors are set, and to different numbers.
    #[error("expected one number of sectors, found both {short} and {long}")]
    TwoSizes {
        /// The field of 16 bits.
        short: u16,
        /// The field of 32 bits.
        long: u32,
    },
    /// The file system is longer than the partition, or has no sectors at all.
    #[error("expected a file system of 1 to {partition} bytes, found {found}")]
    Length {
        /// The length of the partition.
        partition: ByteLength,
        /// What the boot sector says.
        found: ByteLength,
    },
    /// Entries of the root directory do not fill sectors, are missing in FAT12 and FAT16, or there are any in FAT32.
    #[error("expected a root directory as {fat_type} has it, found one of {found} entries")]
    RootDirectory {
        /// The kind of table, as far as it is known here: FAT16 stands for FAT12, too.
        fat_type: FatType,
        /// What the boot sector says.
        found: u16,
    },
    /// A FAT32 of a version that does not exist.
    #[error("expected FAT32 version 0, found {found}")]
    Version {
        /// What the boot sector says.
        found: u16,
    },
    /// The tables and the root directory leave no room for a cluster, or there is no table.
    #[error(
        "expected tables that leave room for a cluster in {sectors} sectors, found {overhead} sectors before the first"
    )]
    NoRoom {
        /// How many sectors there are.
        sectors: u32,
        /// How many come before the first cluster.
        overhead: u64,
    },
    /// More clusters than numbers for them.
    #[error("expected at most {} clusters in {fat_type}, found {found}", .fat_type.max_clusters())]
    Clusters {
        /// The kind of table.
        fat_type: FatType,
        /// How many clusters there are.
        found: u64,
    },
    /// A table has fewer entries than there are clusters.
    #[error("expected a file allocation table for {expected} clusters, found one for {found}")]
    TableTooSmall {
        /// How many clusters there are.
        expected: u64,
        /// How many the table has entries for.
        found: u64,
    },
    /// The root directory of a FAT32 is not in a cluster of it.
    #[error("expected the root directory in one of {clusters} clusters, found it in cluster {found}")]
    RootCluster {
        /// How many clusters there are, counted from 2.
        clusters: u64,
        /// What the boot sector says.
        found: u32,
    },
    /// The partition is shorter than a boot sector, or it was not read.
    #[error("expected a boot sector of 512 bytes, found less")]
    Truncated,
}

impl Vfat {
    /// The FAT file system at the beginning of a partition, of which the first 512 bytes must have been read.
    ///
    /// Whether something else is in the partition as well is not asked here.
    ///
    /// # Errors
    /// A [`VfatError`], for the first thing that is not as it should be.
    pub fn parse(window: &Window<'_>) -> Result<Self, VfatError> {
        let boot = Boot::read(window).ok_or(VfatError::Truncated)?;
        boot.check_fixed_fields()?;
        let sectors = boot.sectors(window.length())?;
        let sector_size = u64::from(boot.sector_size);

        // The kernel's rule: a FAT32 is what has no table size of 16 bits.
        let is_fat32 = boot.short_table_sectors == 0;
        let table_sectors = if is_fat32 { boot.long_table_sectors } else { boot.short_table_sectors.into() };
        let root_bytes = u64::from(boot.root_entries).saturating_mul(32);
        let fat_type = if is_fat32 { FatType::Fat32 } else { FatType::Fat16 };
        if is_fat32 != (boot.root_entries == 0) || !root_bytes.is_multiple_of(sector_size) {
            return Err(VfatError::RootDirectory { fat_type, found: boot.root_entries });
        }
        if is_fat32 && boot.version != 0 {
            return Err(VfatError::Version { found: boot.version });
        }

        let overhead = u64::from(table_sectors)
            .saturating_mul(u64::from(boot.tables))
            .saturating_add(u64::from(boot.reserved_sectors))
            .saturating_add(root_bytes / sector_size);
        let clusters = u64::from(sectors).saturating_sub(overhead) / u64::from(boot.sectors_per_cluster);
        if clusters == 0 || table_sectors == 0 {
            return Err(VfatError::NoRoom { sectors, overhead });
        }
        let fat_type = match fat_type {
            FatType::Fat16 if clusters <= FatType::Fat12.max_clusters() => FatType::Fat12,
            other => other,
        };
        if clusters > fat_type.max_clusters() {
            return Err(VfatError::Clusters { fat_type, found: clusters });
        }
        // The first two entries of a table belong to no cluster.
        let entries =
            u64::from(table_sectors).saturating_mul(sector_size).saturating_mul(8) / fat_type.bits();
        let found = entries.saturating_sub(2);
        if found < clusters {
            return Err(VfatError::TableTooSmall { expected: clusters, found });
        }
        if is_fat32 && !(2..clusters.saturating_add(2)).contains(&u64::from(boot.root_cluster)) {
            return Err(VfatError::RootCluster { clusters, found: boot.root_cluster });
        }
        let layout = boot.layout(fat_type, clusters, root_bytes, overhead).ok_or(VfatError::Truncated)?;
        Ok(Self { fat_type, sector_size: boot.sector_size, sectors, clusters, layout })
    }

    /// Which of the three it is.
    #[must_use]
    pub const fn fat_type(&self) -> FatType {
        self.fat_type
    }

    /// The size of its sectors in bytes: 512, 1024, 2048 or 4096. The kernel does not mount it on a device whose own
    /// sectors are larger.
    #[must_use]
    pub const fn sector_size(&self) -> u16 {
        self.sector_size
    }

    /// How many clusters it has; at least one.
    #[must_use]
    pub const fn clusters(&self) -> u64 {
        self.clusters
    }

    /// Where its parts lie; all within [`Self::length`].
    #[must_use]
    pub const fn layout(&self) -> &VfatLayout {
        &self.layout
    }

    /// How long it is; never longer than the partition.
    #[must_use]
    pub fn length(&self) -> ByteLength {
        blocks(u64::from(self.sectors), u64::from(self.sector_size))
    }
}

/// The fields of a boot sector that are looked at.
struct Boot {
    jump: [u8; 3],
    sector_size: u16,
    sectors_per_cluster: u8,
    reserved_sectors: u16,
    tables: u8,
    root_entries: u16,
    short_sectors: u16,
    media: u8,
    short_table_sectors: u16,
    long_sectors: u32,
    long_table_sectors: u32,
    flags: u16,
    version: u16,
    root_cluster: u32,
    signature: [u8; 2],
}

impl Boot {
    fn read(window: &Window<'_>) -> Option<Self> {
        Some(Self {
            jump: window.array(0)?,
            sector_size: window.le16(11)?,
            sectors_per_cluster: window.u8(13)?,
            reserved_sectors: window.le16(14)?,
            tables: window.u8(16)?,
            root_entries: window.le16(17)?,
            short_sectors: window.le16(19)?,
            media: window.u8(21)?,
            short_table_sectors: window.le16(22)?,
            long_sectors: window.le32(32)?,
            long_table_sectors: window.le32(36)?,
            flags: window.le16(40)?,
            version: window.le16(42)?,
            root_cluster: window.le32(44)?,
            signature: window.array(510)?,
        })
    }

    /// The fields that are right or wrong by themselves.
    fn check_fixed_fields(&self) -> Result<(), VfatError> {
        if self.signature != [0x55, 0xaa] {
            return Err(VfatError::BootSignature { found: self.signature });
        }
        if !matches!(self.jump, [0xeb, _, 0x90] | [0xe9, _, _]) {
            return Err(VfatError::Jump { found: self.jump });
        }
        if !matches!(self.sector_size, 512 | 1024 | 2048 | 4096) {
            return Err(VfatError::SectorSize { found: self.sector_size });
        }
        if !self.sectors_per_cluster.is_power_of_two() {
            return Err(VfatError::SectorsPerCluster { found: self.sectors_per_cluster });
        }
        if self.reserved_sectors == 0 {
            return Err(VfatError::ReservedSectors);
        }
        if !matches!(self.tables, 1 | 2) {
            return Err(VfatError::Tables { found: self.tables });
        }
        if !matches!(self.media, 0xf0 | 0xf8..=0xff) {
            return Err(VfatError::Media { found: self.media });
        }
        Ok(())
    }

    /// Where the parts lie; `None` where that does not fit 64 bits, which numbers of sectors of 32 bits never exceed.
    fn layout(&self, fat_type: FatType, clusters: u64, root_bytes: u64, overhead: u64) -> Option<VfatLayout> {
        /// Set where the tables are no copies of each other; the lower four bits are then the number of the one that counts.
        const NOT_MIRRORED: u16 = 1 << 7;
        let sectors = |count: u64| ByteOffset::new(count.saturating_mul(u64::from(self.sector_size)));
        let entries = clusters.saturating_add(2).saturating_mul(fat_type.bits()).div_ceil(8);
        let clusters_start = sectors(overhead);
        let is_fat32 = fat_type == FatType::Fat32;
        let root = if is_fat32 {
            VfatRoot::Cluster(self.root_cluster)
        } else {
            let start = clusters_start.bytes().checked_sub(root_bytes)?;
            VfatRoot::Area(Extent::new(ByteOffset::new(start), ByteLength::new(root_bytes))?)
        };
        let active = u8::try_from(self.flags & 0xf).ok();
        Some(VfatLayout {
            table: Extent::new(sectors(self.reserved_sectors.into()), ByteLength::new(entries))?,
            active_table: active.filter(|_| is_fat32 && self.flags & NOT_MIRRORED != 0),
            root,
            clusters: clusters_start,
            cluster_length: blocks(self.sectors_per_cluster.into(), self.sector_size.into()),
        })
    }

    /// The number of sectors, which must fit the partition.
    fn sectors(&self, partition: ByteLength) -> Result<u32, VfatError> {
        let (short, long) = (self.short_sectors, self.long_sectors);
        let sectors = match (u32::from(short), long) {
            (0, long) => long,
            (short, 0) => short,
            (short, long) if short == long => long,
            _ => return Err(VfatError::TwoSizes { short, long }),
        };
        let found = blocks(u64::from(sectors), u64::from(self.sector_size));
        if found.is_zero() || found > partition {
            return Err(VfatError::Length { partition, found });
        }
        Ok(sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::*;

    #[test]
    fn what_mkfs_makes_is_sane() {
        for (name, fat_type, sector_size, length) in [
            ("fat12", FatType::Fat12, 512, 2 << 20),
            ("fat16", FatType::Fat16, 512, 32 << 20),
            ("fat32", FatType::Fat32, 512, 64 << 20),
            ("fat32-4k", FatType::Fat32, 4096, 512 << 20),
        ] {
            let fixture = Fixture::load(name);
            let vfat = Vfat::parse(&fixture.window()).unwrap();
            assert_eq!((vfat.fat_type(), vfat.sector_size()), (fat_type, sector_size), "{name}");
            assert_eq!(vfat.length().bytes(), length, "{name}");
        }
    }

    #[test]
    fn every_insane_field_is_refused_by_name() {
        use VfatError as E;
        let partition = ByteLength::new(64 << 20);
        let cases: [(usize, &[u8], E); 26] = [
            (510, &[0, 0], E::BootSignature { found: [0, 0] }),
            (0, b"\0\0\0", E::Jump { found: [0; 3] }),
            (0, b"hsq", E::Jump { found: *b"hsq" }),
            (2, &[0], E::Jump { found: [0xeb, 0x58, 0] }),
            (11, &[0, 1], E::SectorSize { found: 256 }),
            (11, &[0, 0x20], E::SectorSize { found: 8192 }),
            (11, &[0, 3], E::SectorSize { found: 768 }),
            (13, &[0], E::SectorsPerCluster { found: 0 }),
            (13, &[3], E::SectorsPerCluster { found: 3 }),
            (14, &[0, 0], E::ReservedSectors),
            (16, &[0], E::Tables { found: 0 }),
            (16, &[3], E::Tables { found: 3 }),
            (17, &[16, 0], E::RootDirectory { fat_type: FatType::Fat32, found: 16 }),
            (19, &[1, 0], E::TwoSizes { short: 1, long: 131_072 }),
            (21, &[0], E::Media { found: 0 }),
            (21, &[0xf7], E::Media { found: 0xf7 }),
            (22, &[1, 0], E::RootDirectory { fat_type: FatType::Fat16, found: 0 }),
            (32, &[0; 4], E::Length { partition, found: ByteLength::ZERO }),
            (
                32,
                &131_073_u32.to_le_bytes(),
                E::Length { partition, found: ByteLength::new((64 << 20) + 512) },
            ),
            (32, &[0xff; 4], E::Length { partition, found: ByteLength::new(0xffff_ffff * 512) }),
            (32, &[33, 0, 0, 0], E::NoRoom { sectors: 33, overhead: 32 + 2 * 1009 }),
            (36, &[0; 4], E::NoRoom { sectors: 131_072, overhead: 32 }),
            (36, &[0xff; 4], E::NoRoom { sectors: 131_072, overhead: 32 + 2 * 0xffff_ffff }),
            (36, &[1, 0, 0, 0], E::TableTooSmall { expected: 131_038, found: 126 }),
            (42, &[1, 0], E::Version { found: 1 }),
            (44, &[1, 0, 0, 0], E::RootCluster { clusters: 129_022, found: 1 }),
        ];
        for (offset, patch, expected) in cases {
            let fixture = Fixture::load("fat32").patched(offset, patch);
            assert_eq!(Vfat::parse(&fixture.window()), Err(expected), "{expected}");
        }
        let beyond = Fixture::load("fat32").patched(44, &129_024_u32.to_le_bytes());
        assert!(matches!(Vfat::parse(&beyond.window()), Err(E::RootCluster { found: 129_024, .. })));
    }

    #[test]
    fn the_limits_of_the_smaller_types_hold() {
        // A root directory of 17 entries does not fill sectors.
        let odd = Fixture::load("fat16").patched(17, &[17, 0]);
        let expected = VfatError::RootDirectory { fat_type: FatType::Fat16, found: 17 };
        assert_eq!(Vfat::parse(&odd.window()), Err(expected));
        // Clusters of one sector where there were four: more of them than 16 bits can number, or than the table has.
        let crowded = Fixture::load("fat16").patched(13, &[1]).patched(22, &[64, 0]);
        assert!(matches!(Vfat::parse(&crowded.window()), Err(VfatError::TableTooSmall { .. })));
        let crowded =
            Fixture::load("fat16").patched(19, &[0, 0]).patched(13, &[1]).patched(32, &[0xff, 0xff, 1, 0]);
        let crowded = crowded.resized(128 << 20);
        assert!(matches!(
            Vfat::parse(&crowded.window()),
            Err(VfatError::Clusters { fat_type: FatType::Fat16, .. })
        ));
    }

    #[test]
    fn a_partition_without_boot_sector_is_refused_by_name() {
        let short = Fixture::load("fat12").resized(511);
        assert_eq!(Vfat::parse(&short.window()), Err(VfatError::Truncated));
        for name in ["ext4", "squashfs", "ntfs", "exfat", "btrfs"] {
            let fixture = Fixture::load(name);
            assert!(Vfat::parse(&fixture.window()).is_err(), "{name}");
        }
    }
}
