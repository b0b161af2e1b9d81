//! The file systems with a superblock of their own: btrfs, EROFS, ext2 to ext4, F2FS, Squashfs and XFS.

use crate::format::sparse::Window;
use crate::format::units::ByteLength;

use super::{
    FileSystem, ForeignKind, Numbers, Recovery, Superblock, SuperblockChecksum, SuperblockKind, blocks,
    crc32c,
};

/// All of these file systems that are there.
pub(super) fn probe(window: &Window<'_>) -> impl Iterator<Item = Superblock> {
    [squashfs(window), xfs(window), ext(window), erofs(window), f2fs(window), btrfs(window)]
        .into_iter()
        .flatten()
}

fn file_system(file_system: FileSystem, size: ByteLength, checksum: SuperblockChecksum) -> Superblock {
    Superblock { checksum, ..Superblock::unchecked(SuperblockKind::FileSystem(file_system), Some(size)) }
}

fn verdict(valid: bool) -> SuperblockChecksum {
    if valid { SuperblockChecksum::Valid } else { SuperblockChecksum::Invalid }
}

/// Squashfs 4.0 (Documentation/filesystems/squashfs.rst, fs/squashfs/squashfs_fs.h): at the beginning.
fn squashfs(window: &Window<'_>) -> Option<Superblock> {
    if window.array(0)? != *b"hsqs" || window.le16(28)? != 4 || window.le16(30)? != 0 {
        return None;
    }
    let block_log = u32::from(window.le16(22)?);
    let bytes_used = window.le64(40)?;
    let (inode_table, directory_table) = (window.le64(64)?, window.le64(72)?);
    let sane = (12..=20).contains(&block_log)
        && 1_u32.checked_shl(block_log) == Some(window.le32(12)?)
        && bytes_used >= 96
        && inode_table < directory_table
        && directory_table < bytes_used;
    sane.then(|| {
        file_system(FileSystem::Squashfs, ByteLength::new(bytes_used), SuperblockChecksum::Unchecked)
    })
}

/// XFS (XFS Algorithms and Data Structures, 'Superblocks'; fs/xfs/libxfs/xfs_format.h): at the beginning, big-endian.
fn xfs(window: &Window<'_>) -> Option<Superblock> {
    if window.array(0)? != *b"XFSB" {
        return None;
    }
    let (block_size, sector_size) = (window.be32(4)?, u32::from(window.be16(102)?));
    let data_blocks = window.be64(8)?;
    let (group_blocks, groups) = (u64::from(window.be32(84)?), u64::from(window.be32(88)?));
    let (block_log, sector_log) = (u32::from(window.u8(120)?), u32::from(window.u8(121)?));
    let sane = (512..=65536).contains(&block_size)
        && 1_u32.checked_shl(block_log) == Some(block_size)
        && (512..=32768).contains(&sector_size)
        && 1_u32.checked_shl(sector_log) == Some(sector_size)
        && (256..=2048).contains(&window.be16(104)?)
        && groups > 0
        && data_blocks > groups.saturating_sub(1).saturating_mul(group_blocks)
        && data_blocks <= groups.saturating_mul(group_blocks);
    if !sane {
        return None;
    }
    let version = window.be16(100)? & 0xf;
    // Version 5 has a checksum over the whole sector, which stands little-endian in place of zeros.
    let sector = usize::try_from(sector_size).ok().and_then(|length| window.get(0, length));
    let checksum = match (version, sector) {
        (5, Some(sector)) => {
            let (before, rest) = sector.split_at_checked(XFS_CHECKSUM)?;
            let (stored, behind) = rest.split_first_chunk()?;
            let register = crc32c::update(crc32c::update(crc32c::update(!0, before), &[0; 4]), behind);
            verdict(!register == u32::from_le_bytes(*stored))
        }
        _ => SuperblockChecksum::Unchecked,
    };
    Some(file_system(FileSystem::Xfs, blocks(data_blocks, u64::from(block_size)), checksum))
}

/// Where the checksum of an XFS superblock stands (`sb_crc`).
const XFS_CHECKSUM: usize = 224;

/// ext2, ext3, ext4 and their external journals (Documentation/filesystems/ext4/super.rst): at 1024.
fn ext(window: &Window<'_>) -> Option<Superblock> {
    const COMPATIBLE_JOURNAL: u32 = 0x4;
    const INCOMPATIBLE_RECOVER: u32 = 0x4;
    const INCOMPATIBLE_JOURNAL_DEVICE: u32 = 0x8;
    const INCOMPATIBLE_64BIT: u32 = 0x80;
    /// File types in directories, a journal to replay, metablock groups: all that ext3 knows.
    const INCOMPATIBLE_EXT3: u32 = 0x2 | 0x4 | 0x10;
    const READ_ONLY_CLUSTERS: u32 = 0x200;
    const READ_ONLY_METADATA_CHECKSUM: u32 = 0x400;
    /// Sparse superblocks, large files, directory trees: all that ext3 knows.
    const READ_ONLY_EXT3: u32 = 0x1 | 0x2 | 0x4;
    const READ_ONLY_ORPHANS_PRESENT: u32 = 0x1_0000;
    const AT: u64 = 1024;

    if window.array(AT.saturating_add(56))? != [0x53, 0xef] {
        return None;
    }
    let le32 = |at: u64| window.le32(AT.saturating_add(at));
    let (inodes, low_blocks, log_block_size) = (le32(0)?, le32(4)?, le32(24)?);
    let (compatible, incompatible, read_only) = (le32(92)?, le32(96)?, le32(100)?);
    if log_block_size > 6 || le32(76)? > 1 {
        return None;
    }
    let block_size = 1024_u64.checked_shl(log_block_size)?;
    let high_blocks = if incompatible & INCOMPATIBLE_64BIT == 0 { 0 } else { le32(0x150)? };
    let count = (u64::from(high_blocks) << 32) | u64::from(low_blocks);
    let size = blocks(count, block_size);

    let checksum = if read_only & READ_ONLY_METADATA_CHECKSUM == 0 {
        SuperblockChecksum::Unchecked
    } else {
        verdict(crc32c::update(!0, window.get(AT, 0x3fc)?) == le32(0x3fc)?)
    };
    if incompatible & INCOMPATIBLE_JOURNAL_DEVICE != 0 {
        let kind = SuperblockKind::Foreign(ForeignKind::Journal);
        return Some(Superblock { checksum, ..Superblock::unchecked(kind, Some(size)) });
    }
    // A file system has inodes and groups, and each bitmap of a group is one block; with clusters, of one bit each.
    let bits = block_size.saturating_mul(8);
    let per_group = if read_only & READ_ONLY_CLUSTERS == 0 { le32(32)? } else { le32(36)? };
    let sane = count > 0
        && inodes > 0
        && (1..=bits).contains(&u64::from(per_group))
        && (1..=bits).contains(&u64::from(le32(40)?));
    if !sane {
        return None;
    }
    let kind = if incompatible & !INCOMPATIBLE_EXT3 != 0 || read_only & !READ_ONLY_EXT3 != 0 {
        SuperblockKind::FileSystem(FileSystem::Ext4)
    } else if compatible & COMPATIBLE_JOURNAL != 0 {
        SuperblockKind::Foreign(ForeignKind::Ext3)
    } else {
        SuperblockKind::Foreign(ForeignKind::Ext2)
    };
    // A read-only mount replays the journal and deletes the files that were open when they were deleted, where it may
    // write; where it may not, it fails or leaves them (fs/ext4/super.c, fs/ext4/orphan.c).
    let orphans = le32(0xe8)? != 0 || read_only & READ_ONLY_ORPHANS_PRESENT != 0;
    let recovery = if incompatible & INCOMPATIBLE_RECOVER != 0 || orphans {
        Recovery::Needed
    } else {
        Recovery::NotNeeded
    };
    Some(Superblock { kind, size: Some(size), checksum, recovery })
}

/// EROFS (Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h): at 1024.
fn erofs(window: &Window<'_>) -> Option<Superblock> {
    const COMPATIBLE_CHECKSUM: u32 = 0x1;
    const INCOMPATIBLE_48BIT: u32 = 0x80;
    const AT: u64 = 1024;

    if window.array(AT)? != 0xe0f5_e1e2_u32.to_le_bytes() {
        return None;
    }
    let block_log = window.u8(AT.saturating_add(12))?;
    if !(9..=16).contains(&block_log) {
        return None;
    }
    let block_size = 1_u64.checked_shl(u32::from(block_log))?;
    let low_blocks = window.le32(AT.saturating_add(36))?;
    let incompatible = window.le32(AT.saturating_add(80))?;
    // With 48-bit addresses the field of the old root node number holds the upper half.
    let high_blocks =
        if incompatible & INCOMPATIBLE_48BIT == 0 { 0 } else { window.le16(AT.saturating_add(14))? };
    let count = (u64::from(high_blocks) << 32) | u64::from(low_blocks);
    if count == 0 {
        return None;
    }
    // The checksum covers the rest of the first block, with zeros in its own place and without the final inversion.
    let covered = usize::try_from(block_size.saturating_sub(AT)).ok().filter(|length| *length > 0);
    let has_checksum = window.le32(AT.saturating_add(8))? & COMPATIBLE_CHECKSUM != 0;
    let checksum = match covered.filter(|_| has_checksum).and_then(|length| window.get(AT, length)) {
        Some(covered) => {
            let (magic, rest) = covered.split_first_chunk::<4>()?;
            let (stored, behind) = rest.split_first_chunk()?;
            let register = crc32c::update(crc32c::update(crc32c::update(!0, magic), &[0; 4]), behind);
            verdict(register == u32::from_le_bytes(*stored))
        }
        None => SuperblockChecksum::Unchecked,
    };
    Some(file_system(FileSystem::Erofs, blocks(count, block_size), checksum))
}

/// F2FS (Documentation/filesystems/f2fs.rst, include/linux/f2fs_fs.h): at 1024.
fn f2fs(window: &Window<'_>) -> Option<Superblock> {
    const AT: u64 = 1024;

    if window.array(AT)? != 0xf2f5_2010_u32.to_le_bytes() {
        return None;
    }
    let le32 = |at: u64| window.le32(AT.saturating_add(at));
    let (sector_log, sectors_log, block_log, segment_log) = (le32(8)?, le32(12)?, le32(16)?, le32(20)?);
    let count = window.le64(AT.saturating_add(36))?;
    let sane = (12..=16).contains(&block_log)
        && (9..=block_log).contains(&sector_log)
        && sector_log.checked_add(sectors_log) == Some(block_log)
        && segment_log == 9
        && count > 0;
    let size = blocks(count, 1_u64.checked_shl(block_log)?);
    sane.then(|| file_system(FileSystem::F2fs, size, SuperblockChecksum::Unchecked))
}

/// Where btrfs has its first superblock.
pub(super) const BTRFS: u64 = 65536;

/// btrfs (fs/btrfs, 'On-disk format'): at 64 KiB. Its checksum covers 4 KiB, more than a probe is willing to read.
fn btrfs(window: &Window<'_>) -> Option<Superblock> {
    let at = |offset: u64| BTRFS.saturating_add(offset);
    if window.array(at(64))? != *b"_BHRfS_M" {
        return None;
    }
    let (sector_size, node_size) = (window.le32(at(144))?, window.le32(at(148))?);
    let (total_bytes, devices) = (window.le64(at(112))?, window.le64(at(136))?);
    let sane = window.le64(at(48))? == BTRFS
        && sector_size.is_power_of_two()
        && (512..=65536).contains(&sector_size)
        && node_size.is_power_of_two()
        && (sector_size..=65536).contains(&node_size)
        && total_bytes > 0
        && devices > 0;
    // A tree of what was synced since the last commit, which every mount replays (fs/btrfs/disk-io.c, `open_ctree`).
    let log_root = window.le64(at(96))?;
    let recovery = if log_root == 0 { Recovery::NotNeeded } else { Recovery::Needed };
    let kind = SuperblockKind::FileSystem(FileSystem::Btrfs);
    sane.then(|| Superblock { recovery, ..Superblock::unchecked(kind, Some(ByteLength::new(total_bytes))) })
}
