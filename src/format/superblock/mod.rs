//! What a partition really holds, told from its content: file systems, encryption, swap, hash trees, and everything
//! that another program could take the partition for.
//!
//! A probe needs a few KiB of a partition: [`probe_extents`]. It is our own, because a partition with two superblocks
//! is a refusal here and not a matter of precedence, and because an image that is not here yet has no device that
//! somebody else's probe could open.

use std::fmt;
use std::str::FromStr;

use super::sparse::{SparseBytes, Window};
use super::units::{ByteLength, ByteOffset, Extent};

mod crc32c;
mod file_systems;
mod foreign;
mod luks;
mod vfat;
mod xfs_log;

pub use luks::{
    CryptKey, CryptTable, CryptTableDiffers, CryptTableError, IntegrityError, IntegritySuperblock,
    KeyDerivation, Luks1Header, Luks1KeySlot, Luks2Digest, Luks2Header, Luks2KeySlot, Luks2Metadata,
    Luks2Segment, LuksError, LuksHeader, Mapping, MappingError,
};
pub use vfat::{FatType, Vfat, VfatError, VfatLayout, VfatRoot};
pub use xfs_log::{LogExamination, XfsLog};

/// A file system that image policies know (systemd.image-policy(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileSystem {
    /// btrfs.
    Btrfs,
    /// EROFS, always read-only.
    Erofs,
    /// ext4, but neither ext2 nor ext3.
    Ext4,
    /// F2FS.
    F2fs,
    /// Squashfs 4.0, always read-only.
    Squashfs,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    /// XFS.
    Xfs,
}

impl FileSystem {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 7] =
        [Self::Btrfs, Self::Erofs, Self::Ext4, Self::F2fs, Self::Squashfs, Self::Vfat, Self::Xfs];

    /// The name that policies, mount(2) and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::F2fs => "f2fs",
            Self::Squashfs => "squashfs",
            Self::Vfat => "vfat",
            Self::Xfs => "xfs",
        }
    }

    /// Whether nobody can write to such a file system.
    #[must_use]
    pub const fn is_read_only(self) -> bool {
        matches!(self, Self::Erofs | Self::Squashfs)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The word names no file system that policies know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a file system that policies know")]
pub struct UnknownFileSystem(String);

impl FromStr for FileSystem {
    type Err = UnknownFileSystem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|file_system| file_system.as_str() == text)
            .ok_or_else(|| UnknownFileSystem(text.to_owned()))
    }
}

/// Something that no image policy has a place for, but that some program would act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForeignKind {
    /// A bcache device.
    Bcache,
    /// A bcachefs file system.
    Bcachefs,
    /// A BitLocker volume.
    BitLocker,
    /// A cramfs file system.
    Cramfs,
    /// exFAT.
    Exfat,
    /// An ext2 file system: no journal, and no feature that only ext4 has.
    Ext2,
    /// An ext3 file system: a journal, and no feature that only ext4 has.
    Ext3,
    /// A partition table within the partition.
    Gpt,
    /// A suspended system, which a kernel would resume from instead of booting.
    HibernationImage,
    /// ISO 9660 or its predecessor High Sierra.
    Iso9660,
    /// The external journal of an ext3 or ext4 file system.
    Journal,
    /// A physical volume of LVM2.
    Lvm2,
    /// A member of a Linux software RAID.
    MdRaid(MdVersion),
    /// NTFS.
    Ntfs,
    /// UDF.
    Udf,
}

/// The metadata version of a Linux software RAID, which is also its place in the partition (md(4)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MdVersion {
    /// 0.90, in the last 64 to 128 KiB.
    V0_90,
    /// 1.0, in the last 8 to 12 KiB.
    V1_0,
    /// 1.1, at the beginning.
    V1_1,
    /// 1.2, 4 KiB from the beginning.
    V1_2,
}

impl ForeignKind {
    /// The name that libblkid has for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bcache => "bcache",
            Self::Bcachefs => "bcachefs",
            Self::BitLocker => "BitLocker",
            Self::Cramfs => "cramfs",
            Self::Exfat => "exfat",
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Gpt => "gpt",
            Self::HibernationImage => "swsuspend",
            Self::Iso9660 => "iso9660",
            Self::Journal => "jbd",
            Self::Lvm2 => "LVM2_member",
            Self::MdRaid(_) => "linux_raid_member",
            Self::Ntfs => "ntfs",
            Self::Udf => "udf",
        }
    }
}

impl fmt::Display for ForeignKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a superblock is the superblock of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuperblockKind {
    /// A file system that policies know.
    FileSystem(FileSystem),
    /// Something that policies have no place for.
    Foreign(ForeignKind),
    /// An encrypted volume.
    Luks(LuksHeader),
    /// The magic of an encrypted volume in front of a header that is none.
    MalformedLuks(LuksError),
    /// Swap space.
    Swap,
    /// A dm-verity hash tree, by its magic alone: see [`super::verity::VeritySuperblock`].
    VerityHash,
}

impl SuperblockKind {
    /// The name that libblkid has for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::FileSystem(file_system) => file_system.as_str(),
            Self::Foreign(kind) => kind.as_str(),
            Self::Luks(_) | Self::MalformedLuks(_) => "crypto_LUKS",
            Self::Swap => "swap",
            Self::VerityHash => "DM_verity_hash",
        }
    }

    /// The file system, where it is one that policies know.
    #[must_use]
    pub const fn file_system(&self) -> Option<FileSystem> {
        match self {
            Self::FileSystem(file_system) => Some(*file_system),
            _ => None,
        }
    }
}

impl fmt::Display for SuperblockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the checksum within a superblock says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SuperblockChecksum {
    /// It is not the checksum of these bytes: the kernel will not mount this.
    Invalid,
    /// The format has none, or it covers more than a probe reads.
    Unchecked,
    /// It is right.
    Valid,
}

/// Whether a file system must be repaired from its own log before its contents are right. The kernel does that at every
/// mount, a read-only one as well, and refuses to mount where it may not write to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recovery {
    /// It was unmounted, or has no log.
    NotNeeded,
    /// It was in use when it was copied, or the machine crashed.
    Needed,
    /// The superblock does not say.
    Unknown,
}

impl Recovery {
    /// The word that JSON has for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotNeeded => "not-needed",
            Self::Needed => "needed",
            Self::Unknown => "unknown",
        }
    }
}

/// A superblock that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// What it is the superblock of.
    pub kind: SuperblockKind,
    /// How many bytes from the beginning of the partition it claims, where the format says so. A size that does not
    /// fit 64 bits is reported as the largest that does, so that it never passes for a small one.
    pub size: Option<ByteLength>,
    /// Whether it is intact.
    pub checksum: SuperblockChecksum,
    /// Whether the file system needs recovery, as far as a probe can tell: of XFS it cannot, see [`XfsLog`].
    pub recovery: Recovery,
}

impl Superblock {
    /// A superblock without checksum, of something that has no log or does not say whether it is clean.
    const fn unchecked(kind: SuperblockKind, size: Option<ByteLength>) -> Self {
        let recovery = match kind {
            SuperblockKind::FileSystem(FileSystem::Erofs | FileSystem::Squashfs | FileSystem::Vfat)
            | SuperblockKind::Swap
            | SuperblockKind::VerityHash => Recovery::NotNeeded,
            SuperblockKind::FileSystem(_)
            | SuperblockKind::Foreign(_)
            | SuperblockKind::Luks(_)
            | SuperblockKind::MalformedLuks(_) => Recovery::Unknown,
        };
        Self { kind, size, checksum: SuperblockChecksum::Unchecked, recovery }
    }
}

/// How much is read from the beginning of a partition: up to the magics at 4 KiB and what follows them.
const HEAD: u64 = 4096 + 512;
/// How much of a superblock that is looked for elsewhere is read, where it is more than a magic.
const ELSEWHERE: u64 = 512;

/// The parts of a partition of this length that [`probe`] looks at, relative to its beginning: at most 8 KiB in all,
/// in the order of their places, not overlapping.
#[must_use]
pub fn probe_extents(length: ByteLength) -> Vec<Extent> {
    let mut wanted = vec![(0, HEAD)];
    wanted.extend(foreign::SWAP_PAGE_SIZES.into_iter().map(|page| (page.saturating_sub(10), 10)));
    wanted.push((foreign::DISC_DESCRIPTORS, 64));
    wanted.extend(luks::SECOND_COPIES.into_iter().map(|at| (at, luks::SECOND_COPY_MAGIC)));
    wanted.push((file_systems::BTRFS, ELSEWHERE));
    wanted.extend(
        [foreign::md_0_90(length), foreign::md_1_0(length)].into_iter().flatten().map(|at| (at, 256)),
    );
    wanted.extend(foreign::backup_table_headers(length).map(|(at, _)| (at, 64)));
    wanted.sort_unstable();

    let whole = Extent::from_beginning(length);
    let mut extents: Vec<Extent> = Vec::with_capacity(wanted.len());
    for (start, count) in wanted {
        // Behind what the extent before has, and within the partition.
        let from = extents.last().map_or(start, |before| start.max(before.end().bytes()));
        let to = start.saturating_add(count).min(whole.end().bytes());
        let Some(left) = to.checked_sub(from).filter(|left| *left > 0) else { continue };
        extents.extend(Extent::new(ByteOffset::new(from), ByteLength::new(left)));
    }
    extents
}

/// All superblocks in a partition, of which the [`probe_extents`] must have been read: what was not read is not found.
/// What was read besides makes no difference, so that all readers of an image, however much they read, see the same.
///
/// A magic alone is not a superblock where the format says more: the fields that everything else hangs on must be
/// sane, so that random bytes are not mistaken for one.
#[must_use]
pub fn probe(window: &Window<'_>) -> Vec<Superblock> {
    let mut looked_at = SparseBytes::new();
    for part in probe_extents(window.length()) {
        let read = part.length().in_memory().and_then(|length| window.get(part.start().bytes(), length));
        looked_at.insert(part.start(), read.unwrap_or_default());
    }
    let window = &Window::new(&looked_at, Extent::from_beginning(window.length()));
    let mut found = Vec::new();
    found.extend(luks::probe(window));
    found.extend(file_systems::probe(window));
    if let Ok(vfat) = Vfat::parse(window) {
        found.push(Superblock::unchecked(SuperblockKind::FileSystem(FileSystem::Vfat), Some(vfat.length())));
    }
    found.extend(foreign::probe(window));
    found
}

/// `count` blocks of `block` bytes; the largest size there is where that does not fit.
fn blocks(count: u64, block: u64) -> ByteLength {
    ByteLength::new(count.saturating_mul(block))
}

/// Little-endian and big-endian numbers of a window, by their place.
trait Numbers {
    fn u8(&self, at: u64) -> Option<u8>;
    fn le16(&self, at: u64) -> Option<u16>;
    fn le32(&self, at: u64) -> Option<u32>;
    fn le64(&self, at: u64) -> Option<u64>;
    fn be16(&self, at: u64) -> Option<u16>;
    fn be32(&self, at: u64) -> Option<u32>;
    fn be64(&self, at: u64) -> Option<u64>;
}

impl Numbers for Window<'_> {
    fn u8(&self, at: u64) -> Option<u8> {
        self.array::<1>(at).map(u8::from_le_bytes)
    }

    fn le16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn le32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn le64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn be16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn be32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn be64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "../../../tests/support/used_images.rs"]
mod used_images;
