//! The parser against images that are right, wrong in one thing, or random.

mod peer;

use proptest::prelude::*;

use super::gpt_builder::{BuiltImage, ESP, GptBuilder, Which, put_u32, put_u64, repair_checksums};
use super::*;
use crate::format::guid::Guid;
use crate::format::sparse::SparseBytes;
use crate::format::units::{ByteLength, Extent, LogicalBlockAddress, PartitionNumber, SectorSize};

const ROOT: u128 = 0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709;
const FIRST_UUID: u128 = 0x11111111_2222_4333_8444_555555555555;
const SECOND_UUID: u128 = 0x66666666_7777_4888_9999_aaaaaaaaaaaa;

/// Reads the table as a caller does: only what is asked for is handed over.
fn read(image: &[u8], sector_size: Option<SectorSize>) -> Result<Option<GptTable>, GptError> {
    let image_size = ByteLength::of(image);
    let mut bytes = SparseBytes::new();
    feed(&mut bytes, image, probe_extents(image_size));
    let Some(headers) = Headers::find(&bytes, image_size, sector_size)? else {
        return Ok(None);
    };
    feed(&mut bytes, image, headers.table_extents());
    headers.table(&bytes).map(Some)
}

fn feed(bytes: &mut SparseBytes, image: &[u8], extents: Vec<Extent>) {
    for extent in extents {
        let start = usize::try_from(extent.start().bytes()).unwrap();
        let end = usize::try_from(extent.end().bytes()).unwrap();
        bytes.insert(extent.start(), &image[start..end]);
    }
}

fn table(image: &BuiltImage) -> GptTable {
    read(&image.bytes, None).unwrap().unwrap()
}

fn refusal(image: &BuiltImage) -> GptError {
    read(&image.bytes, None).unwrap_err()
}

/// An ESP and a root file system in sectors of 512 bytes: the table takes blocks 2 to 33, the partitions block 40 and
/// blocks 48 to 50.
fn two_partitions() -> BuiltImage {
    GptBuilder::new(512)
        .partition(ESP, FIRST_UUID, "esp", 0, vec![1; 512])
        .partition(ROOT, SECOND_UUID, "root_1", 1 << 60, vec![2; 1500])
        .build()
}

fn lba(block: u64) -> LogicalBlockAddress {
    LogicalBlockAddress::new(block)
}

fn number(number: u32) -> PartitionNumber {
    PartitionNumber::new(number).unwrap()
}

fn last_block(image: &BuiltImage) -> u64 {
    u64::try_from(image.bytes.len() / image.sector_size - 1).unwrap()
}

#[test]
fn every_field_of_a_valid_table_is_read() {
    for sector_size in SectorSize::ALL {
        let image = GptBuilder::new(sector_size.length().in_memory().unwrap())
            .disk_uuid(FIRST_UUID)
            .partition(ESP, FIRST_UUID, "esp", 0, vec![1; 512])
            .unused()
            .partition(ROOT, SECOND_UUID, "root_ä", 1 << 60 | 1 << 7, vec![2; 9000])
            .build();
        let table = table(&image);
        assert_eq!(table.sector_size, sector_size);
        assert_eq!(table.source, TableSource::Both);
        assert_eq!(table.disk_uuid.guid(), Guid::from_bytes(FIRST_UUID.to_be_bytes()));
        assert_eq!(table.entries.len(), 2);
        for (entry, built) in table.entries.iter().zip(&image.partitions) {
            assert_eq!(entry.number.get(), built.number);
            assert_eq!(entry.extent.start().bytes(), built.offset);
            assert_eq!(entry.extent.length().bytes(), built.length);
        }
        let root = &table.entries[1];
        assert_eq!(root.number, number(3));
        assert_eq!(root.type_uuid.guid(), Guid::from_bytes(ROOT.to_be_bytes()));
        assert_eq!(root.uuid.guid(), Guid::from_bytes(SECOND_UUID.to_be_bytes()));
        assert_eq!(root.label.to_text(), "root_ä");
        assert!(root.attributes.read_only() && !root.attributes.growfs());
        assert_eq!(root.attributes.unknown_bits(), 1 << 7);
        assert_eq!(read(&image.bytes, Some(sector_size)), Ok(Some(table)));
    }
}

#[test]
fn an_entry_may_be_larger_and_a_table_smaller_than_usual() {
    for (count, size) in [(1, 128), (4, 256), (3, 4096), (8192, 128), (256, 4096)] {
        let image =
            GptBuilder::new(512).entries(count, size).partition(ESP, FIRST_UUID, "a", 0, vec![1]).build();
        assert_eq!(table(&image).entries.len(), 1, "{count} entries of {size} bytes");
    }
}

#[test]
fn an_image_without_a_trace_of_a_table_has_none() {
    for length in [0, 1, 511, 512, 513, 1024, 1536, 8192, 8193, 12288, 20000] {
        assert_eq!(read(&vec![0; length], None), Ok(None), "{length} bytes of zero");
        assert_eq!(read(&vec![0xaa; length], Some(SectorSize::DEFAULT)), Ok(None), "{length} bytes");
    }
}

#[test]
fn an_image_cut_off_behind_its_partitions_has_a_primary_copy_only() {
    let mut image = two_partitions();
    // The entries of the backup copy begin 33 blocks before the end.
    image.bytes.truncate(image.bytes.len() - 33 * 512);
    assert_eq!(table(&image).source, TableSource::PrimaryOnly(CopyProblem::Signature));
    // Also where the end is not at a whole sector.
    image.bytes.truncate(two_partitions().bytes.len() - 33 * 512 + 100);
    assert_eq!(table(&image).entries.len(), 2);
}

#[test]
fn an_image_cut_off_within_the_usable_blocks_has_no_table() {
    let mut image = two_partitions();
    let last = last_block(&image) - 33;
    image.bytes.truncate(image.bytes.len() - 34 * 512);
    assert_eq!(
        refusal(&image),
        GptError::NoValidCopy {
            sector_size: SectorSize::DEFAULT,
            primary: CopyProblem::UsableRangeOutsideImage { last: lba(last), image_last: lba(last - 1) },
            backup: CopyProblem::Signature,
        }
    );
}

#[test]
fn a_padded_image_has_a_primary_copy_only() {
    let mut image = two_partitions();
    image.bytes.extend_from_slice(&[0; 4096]);
    assert_eq!(table(&image).source, TableSource::PrimaryOnly(CopyProblem::Signature));
}

#[test]
fn one_damaged_copy_is_named_and_the_other_is_used() {
    for sector_size in [512, 4096] {
        let image =
            GptBuilder::new(sector_size).partition(ROOT, FIRST_UUID, "root", 0, vec![1; 4096]).build();
        let entries = table(&image).entries;

        let no_primary = table(&image.clone().edit_header(Which::Primary, |header| header[0] = 0));
        assert_eq!(no_primary.source, TableSource::BackupOnly(CopyProblem::Signature));
        assert_eq!(no_primary.entries, entries);

        let damaged = table(&image.clone().edit_entry(Which::Primary, 2, |entry| entry[127] = 1));
        assert!(matches!(damaged.source, TableSource::BackupOnly(CopyProblem::EntriesChecksum { .. })));
        assert_eq!(damaged.entries, entries);

        let damaged = table(&image.clone().edit_entry(Which::Backup, 1, |entry| entry[56] = 0));
        assert!(matches!(damaged.source, TableSource::PrimaryOnly(CopyProblem::EntriesChecksum { .. })));
        assert_eq!(damaged.entries, entries);
    }
}

#[test]
fn every_problem_of_a_header_is_named() {
    type Edit = fn(&mut [u8]);
    type Expected = fn(&CopyProblem) -> bool;
    let cases: [(&str, Edit, Expected); 18] = [
        ("signature", |h| h[7] = b't', |p| *p == CopyProblem::Signature),
        ("revision", |h| put_u32(h, 8, 0x0001_0001), |p| *p == CopyProblem::Revision { found: 0x0001_0001 }),
        (
            "small header",
            |h| put_u32(h, 12, 91),
            |p| *p == CopyProblem::HeaderSize { found: 91, sector_size: SectorSize::DEFAULT },
        ),
        (
            "large header",
            |h| put_u32(h, 12, 513),
            |p| *p == CopyProblem::HeaderSize { found: 513, sector_size: SectorSize::DEFAULT },
        ),
        (
            "huge header",
            |h| put_u32(h, 12, u32::MAX),
            |p| *p == CopyProblem::HeaderSize { found: u32::MAX, sector_size: SectorSize::DEFAULT },
        ),
        ("reserved", |h| put_u32(h, 20, 7), |p| *p == CopyProblem::Reserved { found: 7 }),
        (
            "own address",
            |h| put_u64(h, 24, 5),
            |p| matches!(p, CopyProblem::OwnAddress { found, .. } if *found == lba(5)),
        ),
        (
            "reversed usable range",
            |h| put_u64(h, 48, 33),
            |p| *p == CopyProblem::UsableRangeReversed { first: lba(34), last: lba(33) },
        ),
        (
            "usable range outside the image",
            |h| put_u64(h, 48, u64::MAX),
            |p| matches!(p, CopyProblem::UsableRangeOutsideImage { last, .. } if last.block() == u64::MAX),
        ),
        (
            "usable range over the primary header",
            |h| put_u64(h, 40, 1),
            |p| matches!(p, CopyProblem::UsableRangeOverHeader { header, .. } if *header == lba(1)),
        ),
        (
            "address of the other copy inside the usable range",
            |h| put_u64(h, 32, 34),
            |p| *p == CopyProblem::AlternateAddress { found: lba(34) },
        ),
        ("odd entry size", |h| put_u32(h, 84, 192), |p| *p == CopyProblem::EntrySize { found: 192 }),
        ("zero entry size", |h| put_u32(h, 84, 0), |p| *p == CopyProblem::EntrySize { found: 0 }),
        ("large entry size", |h| put_u32(h, 84, 8192), |p| *p == CopyProblem::EntrySize { found: 8192 }),
        ("no entries", |h| put_u32(h, 80, 0), |p| *p == CopyProblem::NoEntries),
        (
            "one entry too many",
            |h| put_u32(h, 80, 8193),
            |p| *p == CopyProblem::TooManyEntries { count: 8193, size: 128 },
        ),
        (
            "entries over the usable range",
            |h| put_u64(h, 72, 34),
            |p| *p == CopyProblem::EntriesPosition { found: lba(34), blocks: 32 },
        ),
        (
            "entries at the end of all addresses",
            |h| put_u64(h, 72, u64::MAX),
            |p| *p == CopyProblem::EntriesPosition { found: lba(u64::MAX), blocks: 32 },
        ),
    ];
    for (name, edit, expected) in cases {
        let primary = table(&two_partitions().edit_header(Which::Primary, edit).repaired());
        let backup = table(&two_partitions().edit_header(Which::Backup, edit).repaired());
        match (primary.source, backup.source) {
            (TableSource::BackupOnly(primary), TableSource::PrimaryOnly(backup)) => {
                assert!(expected(&primary), "{name}: {primary:?}");
                assert!(expected(&backup), "{name}: {backup:?}");
            }
            sources => panic!("{name}: {sources:?}"),
        }
    }
}

#[test]
fn a_usable_range_over_the_backup_copy_is_named() {
    let image = two_partitions();
    let last = last_block(&image);
    let over_header = table(&image.clone().edit_header(Which::Backup, |h| put_u64(h, 48, last)).repaired());
    assert_eq!(
        over_header.source,
        TableSource::PrimaryOnly(CopyProblem::UsableRangeOverHeader {
            first: lba(34),
            last: lba(last),
            header: lba(last)
        })
    );
    let over_entries = table(&image.edit_header(Which::Backup, |h| put_u64(h, 48, last - 1)).repaired());
    assert_eq!(
        over_entries.source,
        TableSource::PrimaryOnly(CopyProblem::EntriesPosition { found: lba(last - 32), blocks: 32 })
    );
}

#[test]
fn a_header_is_checked_over_all_of_its_size() {
    let image = two_partitions().edit_header(Which::Primary, |header| put_u32(header, 12, 512)).repaired();
    assert_eq!(table(&image).source, TableSource::Both);
    let damaged = image.edit_header(Which::Primary, |header| header[511] = 1);
    assert!(matches!(
        table(&damaged).source,
        TableSource::BackupOnly(CopyProblem::HeaderChecksum { expected, found }) if expected != found
    ));
}

#[test]
fn with_both_copies_damaged_there_is_no_table() {
    let image = two_partitions();
    let headers = image
        .clone()
        .edit_header(Which::Primary, |header| put_u32(header, 20, 1))
        .edit_header(Which::Backup, |header| header[0] = 0)
        .repaired();
    assert_eq!(
        refusal(&headers),
        GptError::NoValidCopy {
            sector_size: SectorSize::DEFAULT,
            primary: CopyProblem::Reserved { found: 1 },
            backup: CopyProblem::Signature,
        }
    );
    let entries =
        image
            .edit_entry(Which::Primary, 1, |entry| entry[56] = b'x')
            .edit_entry(Which::Backup, 1, |entry| entry[56] = b'y');
    assert!(matches!(
        refusal(&entries),
        GptError::NoValidCopy {
            primary: CopyProblem::EntriesChecksum { .. },
            backup: CopyProblem::EntriesChecksum { .. },
            ..
        }
    ));
}

#[test]
fn traces_are_reported_for_the_sector_size_they_are_of() {
    let mut image = GptBuilder::new(4096).partition(ESP, FIRST_UUID, "esp", 0, vec![1]).build();
    for which in Which::BOTH {
        image = image.edit_header(which, |header| header[16] ^= 1);
    }
    assert!(matches!(
        refusal(&image),
        GptError::NoValidCopy { sector_size, primary: CopyProblem::HeaderChecksum { .. }, .. }
            if sector_size.bytes() == 4096
    ));
    // A protective MBR promises a table, too.
    for which in Which::BOTH {
        image = image.edit_header(which, |header| header.fill(0));
    }
    assert_eq!(
        refusal(&image),
        GptError::NoValidCopy {
            sector_size: SectorSize::DEFAULT,
            primary: CopyProblem::Signature,
            backup: CopyProblem::Signature,
        }
    );
    assert_eq!(
        read(&image.bytes[..512], None),
        Err(GptError::NoValidCopy {
            sector_size: SectorSize::DEFAULT,
            primary: CopyProblem::OutsideImage,
            backup: CopyProblem::OutsideImage,
        })
    );
}

#[test]
fn two_valid_copies_must_be_the_same() {
    type Edit = fn(&mut [u8]);
    let cases: [(Edit, Difference); 6] = [
        (|header| put_u64(header, 32, u64::MAX), Difference::AlternateAddress),
        (|header| header[56] ^= 1, Difference::DiskUuid),
        (|header| put_u64(header, 40, 35), Difference::UsableRange),
        (|header| (put_u32(header, 80, 32), put_u32(header, 84, 512)).0, Difference::EntrySize),
        (|header| put_u32(header, 80, 127), Difference::EntryCount),
        (|_| {}, Difference::Entries),
    ];
    for (edit, difference) in cases {
        let image = two_partitions()
            .edit_header(Which::Primary, edit)
            .edit_entry(Which::Primary, 1, |entry| entry[56] = b'x')
            .repaired();
        assert_eq!(refusal(&image), GptError::CopiesDiffer { difference });
    }
}

#[test]
fn tables_for_two_sector_sizes_are_refused() {
    let small = two_partitions();
    let large = GptBuilder::new(4096).partition(ESP, FIRST_UUID, "esp", 0, vec![1]).build();
    // The backup copy of the one, and the primary copy of the other.
    let mut both = large.clone();
    both.bytes.extend_from_slice(&small.bytes);
    let last = both.bytes.len() / 512 - 1;
    let both = BuiltImage { sector_size: 512, ..both }
        .edit_header(Which::Backup, |header| {
            put_u64(header, 24, u64::try_from(last).unwrap());
            put_u64(header, 72, u64::try_from(last - 32).unwrap());
            put_u64(header, 48, u64::try_from(last - 33).unwrap());
        })
        .repaired();
    assert_eq!(
        refusal(&both),
        GptError::SectorSizeAmbiguous { first: SectorSize::DEFAULT, second: SectorSize::new(4096).unwrap() }
    );
    assert_eq!(
        read(&large.bytes, Some(SectorSize::DEFAULT)),
        Err(GptError::OtherSectorSize {
            expected: SectorSize::DEFAULT,
            found: SectorSize::new(4096).unwrap()
        })
    );
}

#[test]
fn a_table_without_a_proper_protective_mbr_is_refused() {
    type Edit = fn(&mut [u8]);
    let cases: [(Edit, GptError); 5] = [
        (|mbr| mbr[511] = 0, GptError::NoProtectiveMbr),
        (|mbr| mbr[450] = 0, GptError::NoProtectiveMbr),
        (|mbr| mbr[450] = 0x83, GptError::NoProtectiveMbr),
        (|mbr| mbr[466] = 0x0c, GptError::HybridMbr { entry: 2, kind: 0x0c }),
        (|mbr| put_u32(mbr, 454, 63), GptError::ProtectiveStart { found: 63 }),
    ];
    for (edit, expected) in cases {
        let mut image = two_partitions();
        edit(&mut image.bytes[..512]);
        assert_eq!(refusal(&image), expected);
    }
}

#[test]
fn an_older_table_alone_is_named() {
    let mut image = two_partitions();
    for which in Which::BOTH {
        image = image.edit_header(which, |header| header.fill(0));
    }
    image.bytes[450] = 0x83;
    assert_eq!(refusal(&image), GptError::MasterBootRecord);
}

#[test]
fn every_impossible_partition_is_named() {
    let image = two_partitions();
    let (usable_first, usable_last) = (lba(34), lba(last_block(&image) - 33));
    let first_uuid = table(&image).entries[0].uuid;
    let out_of_range = |first: u64, last: u64| GptError::PartitionOutOfRange {
        number: number(2),
        first: lba(first),
        last: lba(last),
        usable_first,
        usable_last,
    };
    let behind = usable_last.block() + 1;
    let cases = [
        (50, 49, GptError::PartitionReversed { number: number(2), first: lba(50), last: lba(49) }),
        (u64::MAX, 0, GptError::PartitionReversed { number: number(2), first: lba(u64::MAX), last: lba(0) }),
        (33, 50, out_of_range(33, 50)),
        (0, 0, out_of_range(0, 0)),
        (48, behind, out_of_range(48, behind)),
        (0, u64::MAX, out_of_range(0, u64::MAX)),
        (u64::MAX, u64::MAX, out_of_range(u64::MAX, u64::MAX)),
        (40, 40, GptError::PartitionsOverlap { first: number(1), second: number(2) }),
        (34, 45, GptError::PartitionsOverlap { first: number(2), second: number(1) }),
    ];
    for (first, last, expected) in cases {
        let edited = image.clone().edit_both(2, |entry| {
            put_u64(entry, 32, first);
            put_u64(entry, 40, last);
        });
        assert_eq!(refusal(&edited), expected, "blocks {first} to {last}");
    }
    assert_eq!(
        refusal(&image.clone().edit_both(2, |entry| entry[16..32].fill(0))),
        GptError::PartitionUuidZero { number: number(2) }
    );
    let twin = image.bytes[1024 + 16..1024 + 32].to_vec();
    assert_eq!(
        refusal(&image.edit_both(2, |entry| entry[16..32].copy_from_slice(&twin))),
        GptError::PartitionUuidDuplicate { first: number(1), second: number(2), uuid: first_uuid }
    );
}

#[test]
fn a_partition_may_fill_the_usable_blocks_exactly() {
    let image = GptBuilder::new(512).partition(ESP, FIRST_UUID, "esp", 0, vec![1]).build();
    let last = last_block(&image) - 33;
    let image = image.edit_both(1, |entry| {
        put_u64(entry, 32, 34);
        put_u64(entry, 40, last);
    });
    assert_eq!(table(&image).entries[0].extent.length().bytes(), (last - 33) * 512);
}

#[test]
fn what_was_not_handed_over_is_named() {
    let image = two_partitions();
    let image_size = ByteLength::of(&image.bytes);
    let [beginning, end] = probe_extents(image_size)[..] else { panic!("expected two extents") };
    let mut bytes = SparseBytes::new();
    assert_eq!(
        Headers::find(&bytes, image_size, None).unwrap_err(),
        GptError::NotRead { extent: Extent::from_beginning(ByteLength::new(512)) }
    );
    feed(&mut bytes, &image.bytes, vec![beginning]);
    assert!(matches!(Headers::find(&bytes, image_size, None), Err(GptError::NotRead { .. })));
    feed(&mut bytes, &image.bytes, vec![end]);
    let headers = Headers::find(&bytes, image_size, None).unwrap().unwrap();
    let [primary, _] = headers.table_extents()[..] else { panic!("expected two extents") };
    assert_eq!(headers.table(&bytes), Err(GptError::NotRead { extent: primary }));
}

#[test]
fn the_probe_reads_little_and_covers_every_header() {
    for size in (0..40_000).step_by(77).chain([8192, 12288, 16384, u64::MAX, u64::MAX - 4095]) {
        let image = Extent::from_beginning(ByteLength::new(size));
        let extents = probe_extents(image.length());
        assert!(extents.iter().map(|extent| extent.length().bytes()).sum::<u64>() <= 16384, "{size}");
        assert!(extents.iter().all(|extent| image.contains(*extent)), "{size}");
        for sector in SectorSize::ALL {
            let Some(last) = (size / u64::from(sector.bytes())).checked_sub(1).filter(|last| *last > 0)
            else {
                continue;
            };
            for block in [1, last] {
                let header = Extent::new(lba(block).offset(sector).unwrap(), sector.length()).unwrap();
                assert!(extents.iter().any(|extent| extent.contains(header)), "{size}: {header}");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_built_reads_back(
        sector in prop::sample::select(vec![512_usize, 1024, 2048, 4096]),
        partitions in prop::collection::vec(("[a-z_#0-9]{0,36}", any::<u64>(), 0..9000_usize), 0..8),
    ) {
        let mut builder = GptBuilder::new(sector).entries(8, 128);
        for (index, (label, attributes, length)) in (1..).zip(&partitions) {
            builder = builder.partition(ROOT, index, label, *attributes, vec![1; *length]);
        }
        let image = builder.build();
        let table = table(&image);
        prop_assert_eq!(table.entries.len(), partitions.len());
        for ((entry, built), (label, attributes, _)) in table.entries.iter().zip(&image.partitions).zip(&partitions) {
            prop_assert_eq!(entry.extent.start().bytes(), built.offset);
            prop_assert_eq!(entry.extent.length().bytes(), built.length);
            prop_assert_eq!(&entry.label.to_text(), label);
            prop_assert_eq!(entry.attributes.bits(), *attributes);
        }
    }

    /// Whatever a damaged image is read as, its partitions lie inside it, in order and apart from each other.
    #[test]
    fn no_damage_gets_a_partition_out_of_its_bounds(
        damage in prop::collection::vec((prop::sample::select(vec![0_usize, 512, 1024]), 0..256_usize, any::<u8>()), 1..6),
        cut in 0..2000_usize,
        mirrored in any::<bool>(),
    ) {
        let mut bytes = two_partitions().bytes;
        let length = bytes.len();
        for (start, offset, value) in damage {
            bytes[start + offset] = value;
            // The same place of the backup copy: its header is in the last block, its entries 32 blocks before.
            match start {
                512 if mirrored => bytes[length - 512 + offset] = value,
                1024 if mirrored => bytes[length - 33 * 512 + offset] = value,
                _ => {}
            }
        }
        bytes.truncate(length - cut / 2);
        repair_checksums(&mut bytes);
        if let Ok(Some(table)) = read(&bytes, None) {
            let image = Extent::from_beginning(ByteLength::of(&bytes));
            for (index, entry) in table.entries.iter().enumerate() {
                prop_assert!(image.contains(entry.extent) && !entry.extent.is_empty());
                for other in &table.entries[..index] {
                    prop_assert!(other.number < entry.number);
                    prop_assert!(other.uuid != entry.uuid);
                    prop_assert!(!other.extent.overlaps(entry.extent));
                }
            }
        }
    }
}
