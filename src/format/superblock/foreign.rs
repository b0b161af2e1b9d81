//! Swap, hash trees, and what policies have no place for: RAID and volume managers, discs, other systems' file systems
//! and partition tables within a partition.

use crate::format::sparse::Window;
use crate::format::units::{ByteLength, SectorSize};

use super::{ForeignKind, MdVersion, Numbers, Superblock, SuperblockKind, blocks};

/// The sizes of a page that a kernel which made swap space may have had. The magic is the end of the first page.
pub(super) const SWAP_PAGE_SIZES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];
/// Where the descriptors of a disc begin: sector 16 (ECMA-119, 6.2; ECMA-167, 2/8.3.1).
pub(super) const DISC_DESCRIPTORS: u64 = 32768;

/// Everything of these kinds that is there.
pub(super) fn probe(window: &Window<'_>) -> Vec<Superblock> {
    let mut found = Vec::new();
    if window.array(0) == Some(*b"verity\0\0") {
        found.push(Superblock::unchecked(SuperblockKind::VerityHash, None));
    }
    found.extend(SWAP_PAGE_SIZES.into_iter().filter_map(|page| swap(window, page)));
    let kinds = [
        (boot_sector(window), None),
        (lvm2(window), None),
        (bcache(window), None),
        (disc(window), None),
        (table(window), None),
    ];
    let sized = [cramfs(window, 0), cramfs(window, 512)].into_iter().flatten();
    let foreign = kinds.into_iter().filter_map(|(kind, size)| Some((kind?, size))).chain(sized);
    found.extend(foreign.map(|(kind, size)| Superblock::unchecked(SuperblockKind::Foreign(kind), size)));
    found.extend(
        md(window).map(|version| {
            Superblock::unchecked(SuperblockKind::Foreign(ForeignKind::MdRaid(version)), None)
        }),
    );
    found
}

/// Swap space of pages of that size, or a system that was suspended to it (include/linux/swap.h, kernel/power/swap.c).
fn swap(window: &Window<'_>, page: u64) -> Option<Superblock> {
    let magic: [u8; 10] = window.array(page.checked_sub(10)?)?;
    match &magic {
        b"SWAPSPACE2" => {
            // Behind the boot block: version and last page, in the order of bytes of the machine that made it.
            let last_page = match window.array(1024)? {
                [1, 0, 0, 0] => window.le32(1028)?,
                [0, 0, 0, 1] => window.be32(1028)?,
                _ => return None,
            };
            let size = blocks(u64::from(last_page).saturating_add(1), page);
            Some(Superblock::unchecked(SuperblockKind::Swap, Some(size)))
        }
        b"SWAP-SPACE" => Some(Superblock::unchecked(SuperblockKind::Swap, None)),
        b"S1SUSPEND\0" | b"S2SUSPEND\0" | b"ULSUSPEND\0" | b"LINHIB0001" => {
            Some(Superblock::unchecked(SuperblockKind::Foreign(ForeignKind::HibernationImage), None))
        }
        _ => None,
    }
}

/// A boot sector with another system's name in it.
fn boot_sector(window: &Window<'_>) -> Option<ForeignKind> {
    match &window.array(3)? {
        b"NTFS    " => Some(ForeignKind::Ntfs),
        b"EXFAT   " => Some(ForeignKind::Exfat),
        b"-FVE-FS-" => Some(ForeignKind::BitLocker),
        _ => None,
    }
}

/// A physical volume of LVM2: its label is in one of the first four sectors (lib/format_text/layout.h of LVM2).
fn lvm2(window: &Window<'_>) -> Option<ForeignKind> {
    (0..4_u64)
        .map(|sector| sector.saturating_mul(512))
        .any(|at| {
            window.array(at) == Some(*b"LABELONE")
                && window.array(at.saturating_add(24)) == Some(*b"LVM2 001")
        })
        .then_some(ForeignKind::Lvm2)
}

/// bcache and bcachefs: a UUID at 4096 says which (drivers/md/bcache/bcache_ondisk.h, fs/bcachefs/bcachefs_format.h).
fn bcache(window: &Window<'_>) -> Option<ForeignKind> {
    match window.array(4096 + 24)? {
        [0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81] => {
            Some(ForeignKind::Bcache)
        }
        [0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef] => {
            Some(ForeignKind::Bcachefs)
        }
        _ => None,
    }
}

/// ISO 9660, High Sierra and UDF, by the first descriptor of the disc.
fn disc(window: &Window<'_>) -> Option<ForeignKind> {
    let high_sierra: Option<[u8; 5]> = window.array(DISC_DESCRIPTORS.saturating_add(9));
    match &window.array(DISC_DESCRIPTORS.saturating_add(1))? {
        b"CD001" => Some(ForeignKind::Iso9660),
        b"BEA01" | b"BOOT2" | b"CDW02" | b"NSR02" | b"NSR03" | b"TEA01" => Some(ForeignKind::Udf),
        _ => (high_sierra == Some(*b"CDROM")).then_some(ForeignKind::Iso9660),
    }
}

/// cramfs, in either order of bytes, behind a boot sector or not (include/uapi/linux/cramfs_fs.h).
fn cramfs(window: &Window<'_>, at: u64) -> Option<(ForeignKind, Option<ByteLength>)> {
    let size_at = at.saturating_add(4);
    let size = match window.array(at)? {
        [0x45, 0x3d, 0xcd, 0x28] => window.le32(size_at)?,
        [0x28, 0xcd, 0x3d, 0x45] => window.be32(size_at)?,
        _ => return None,
    };
    let signature: [u8; 16] = window.array(at.saturating_add(16))?;
    (signature == *b"Compressed ROMFS")
        .then_some((ForeignKind::Cramfs, Some(ByteLength::new(u64::from(size)))))
}

/// A partition table within the partition, at its beginning or its end, for any size of sectors (UEFI 2.10, 5.3.2).
fn table(window: &Window<'_>) -> Option<ForeignKind> {
    let primary = SectorSize::ALL.into_iter().map(|size| (size.length().bytes(), 1));
    primary
        .chain(backup_table_headers(window.length()))
        .any(|(at, address)| {
            window.array(at) == Some(*b"EFI PART")
                && window.le32(at.saturating_add(12)).is_some_and(|size| (92..=4096).contains(&size))
                && window.le64(at.saturating_add(24)) == Some(address)
        })
        .then_some(ForeignKind::Gpt)
}

/// Where the backup header of a table would be, and the block address it would name, for each size of sectors.
pub(super) fn backup_table_headers(length: ByteLength) -> impl Iterator<Item = (u64, u64)> {
    SectorSize::ALL.into_iter().filter_map(move |size| {
        let address = (length.bytes() / size.length().bytes()).checked_sub(1)?;
        Some((address.checked_mul(size.length().bytes())?, address))
    })
}

/// Members of a Linux software RAID (include/uapi/linux/raid/md_p.h).
fn md(window: &Window<'_>) -> impl Iterator<Item = MdVersion> {
    const MAGIC: u32 = 0xa92b_4efc;
    let old = md_0_90(window.length()).is_some_and(|at| {
        let magic = window.array(at);
        // In the order of bytes of the machine that made it.
        (magic == Some(MAGIC.to_le_bytes()) || magic == Some(MAGIC.to_be_bytes()))
            && window.array(at.saturating_add(4)) == Some([0; 4])
    });
    let new = [
        (md_1_0(window.length()), MdVersion::V1_0),
        (Some(0), MdVersion::V1_1),
        (Some(4096), MdVersion::V1_2),
    ];
    let new = new.map(|(at, version)| {
        let at = at?;
        let there = window.array(at) == Some(MAGIC.to_le_bytes())
            && window.le32(at.saturating_add(4)) == Some(1)
            && window.le64(at.saturating_add(144)) == Some(at / 512);
        there.then_some(version)
    });
    old.then_some(MdVersion::V0_90).into_iter().chain(new.into_iter().flatten())
}

/// Where RAID metadata 0.90 is: the last 64 KiB block that is wholly there but for at most one behind it.
pub(super) fn md_0_90(length: ByteLength) -> Option<u64> {
    (length.bytes() & !0xffff).checked_sub(0x10000)
}

/// Where RAID metadata 1.0 is: at least 8 KiB from the end, at a multiple of 4 KiB.
pub(super) fn md_1_0(length: ByteLength) -> Option<u64> {
    Some((length.bytes() & !511).checked_sub(8192)? & !4095)
}
