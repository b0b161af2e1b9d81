//! The first block: a protective MBR, an MBR partition table, or neither.

use super::error::GptError;

/// How many bytes of the image the MBR takes, whatever the sector size.
pub(super) const MBR_LENGTH: u64 = 512;

/// Where the four entries begin (UEFI 2.10, table 5.1).
const ENTRIES: usize = 446;
/// How long each of them is.
const ENTRY_LENGTH: usize = 16;
/// The type of the protective partition (UEFI 2.10, table 5.4).
const PROTECTIVE: u8 = 0xee;

/// What the first 512 bytes of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mbr {
    /// No partition table of the older kind: no boot signature, no partition, or boot code where entries would be.
    None,
    /// A partition table of the older kind, without a protective partition.
    Partitions,
    /// A protective partition, and whatever is wrong about it.
    Protective(Result<(), GptError>),
}

/// An entry, as far as it matters: the old geometry fields are nobody's concern.
#[derive(Debug, Clone, Copy)]
struct Entry {
    boot_indicator: u8,
    kind: u8,
    start: u32,
    size: u32,
}

impl Mbr {
    /// What `block`, the first 512 bytes of an image, is.
    pub(super) fn read(block: &[u8; 512]) -> Self {
        if !block.ends_with(&[0x55, 0xaa]) {
            return Self::None;
        }
        let entries = || {
            (1..=4).zip(
                block
                    .get(ENTRIES..)
                    .unwrap_or_default()
                    .as_chunks::<ENTRY_LENGTH>()
                    .0
                    .iter()
                    .map(Entry::read),
            )
        };
        let Some((protective, entry)) = entries().find(|(_, entry)| entry.kind == PROTECTIVE) else {
            // A boot sector of a file system ends like an MBR, with code in the place of the entries.
            let plausible = entries().all(|(_, entry)| matches!(entry.boot_indicator, 0 | 0x80));
            let partition =
                entries().any(|(_, entry)| entry.kind != 0 && entry.start != 0 && entry.size != 0);
            return if plausible && partition { Self::Partitions } else { Self::None };
        };
        if let Some((entry, other)) = entries().find(|(entry, other)| *entry != protective && other.kind != 0)
        {
            return Self::Protective(Err(GptError::HybridMbr { entry, kind: other.kind }));
        }
        if entry.start != 1 {
            return Self::Protective(Err(GptError::ProtectiveStart { found: entry.start }));
        }
        Self::Protective(Ok(()))
    }
}

/// A protective MBR for a disk of `blocks` blocks (UEFI 2.10, tables 5.3 and 5.4): the first 512 bytes of it.
pub(super) fn protective(blocks: u64) -> [u8; 512] {
    let size = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    // Not bootable, from cylinder 0, head 0, sector 2 to as far as such an address goes; from block 1 on.
    let partition: [u8; 12] = [0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff, 1, 0, 0, 0];
    let parts: [&[u8]; 5] =
        [&[0; ENTRIES], &partition, &size.to_le_bytes(), &[0; 3 * ENTRY_LENGTH], &[0x55, 0xaa]];
    let mut block = [0; 512];
    for (place, byte) in block.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    block
}

impl Entry {
    fn read(bytes: &[u8; 16]) -> Self {
        let [boot_indicator, _, _, _, kind, _, _, _, rest @ ..] = *bytes;
        let [s0, s1, s2, s3, n0, n1, n2, n3] = rest;
        Self {
            boot_indicator,
            kind,
            start: u32::from_le_bytes([s0, s1, s2, s3]),
            size: u32::from_le_bytes([n0, n1, n2, n3]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An MBR with entries of these boot indicators, types, starts and sizes.
    fn mbr(entries: &[(u8, u8, u32, u32)]) -> [u8; 512] {
        let mut block = [0; 512];
        for (entry, (boot_indicator, kind, start, size)) in block[446..].chunks_exact_mut(16).zip(entries) {
            entry[0] = *boot_indicator;
            entry[4] = *kind;
            entry[8..12].copy_from_slice(&start.to_le_bytes());
            entry[12..].copy_from_slice(&size.to_le_bytes());
        }
        block[510..].copy_from_slice(&[0x55, 0xaa]);
        block
    }

    #[test]
    fn a_block_without_entries_or_signature_is_no_table() {
        let mut unsigned = mbr(&[(0, 0xee, 1, 100)]);
        unsigned[511] = 0;
        assert_eq!(Mbr::read(&unsigned), Mbr::None);
        assert_eq!(Mbr::read(&mbr(&[])), Mbr::None);
        assert_eq!(Mbr::read(&[0; 512]), Mbr::None);
    }

    #[test]
    fn boot_code_in_the_place_of_entries_is_no_table() {
        assert_eq!(Mbr::read(&mbr(&[(0x80, 0x83, 2048, 100), (b'M', b'i', 7, 7)])), Mbr::None);
        assert_eq!(Mbr::read(&mbr(&[(0, 0x83, 0, 100), (0, 0x83, 1, 0)])), Mbr::None);
    }

    #[test]
    fn an_older_table_is_told_from_a_protective_one() {
        assert_eq!(Mbr::read(&mbr(&[(0x80, 0x83, 2048, 100)])), Mbr::Partitions);
        assert_eq!(Mbr::read(&mbr(&[(0, 0xee, 1, u32::MAX)])), Mbr::Protective(Ok(())));
        // In any entry; the size is often wrong and means nothing.
        assert_eq!(Mbr::read(&mbr(&[(0, 0, 0, 0), (0, 0xee, 1, 0)])), Mbr::Protective(Ok(())));
    }

    #[test]
    fn what_is_written_is_protective_whatever_the_size_of_the_disk() {
        for (blocks, size) in [(100, 99), (1 << 33, u32::MAX)] {
            assert_eq!(protective(blocks)[458..462], u32::to_le_bytes(size));
            assert_eq!(Mbr::read(&protective(blocks)), Mbr::Protective(Ok(())));
        }
    }

    #[test]
    fn a_protective_partition_is_alone_and_begins_at_block_1() {
        let hybrid = GptError::HybridMbr { entry: 2, kind: 0x0c };
        assert_eq!(Mbr::read(&mbr(&[(0, 0xee, 1, 9), (0, 0x0c, 34, 9)])), Mbr::Protective(Err(hybrid)));
        let hybrid = GptError::HybridMbr { entry: 4, kind: 0xee };
        let twice = mbr(&[(0, 0xee, 1, 9), (0, 0, 0, 0), (0, 0, 0, 0), (0, 0xee, 1, 9)]);
        assert_eq!(Mbr::read(&twice), Mbr::Protective(Err(hybrid)));
        let start = GptError::ProtectiveStart { found: 63 };
        assert_eq!(Mbr::read(&mbr(&[(0, 0xee, 63, 9)])), Mbr::Protective(Err(start)));
    }
}
