//! The parser and the builder against another implementation: the `gpt` crate.

use std::io::Cursor;

use super::*;

/// A table of two partitions as the `gpt` crate writes it.
fn image_by_another_implementation(
    sector_size: gpt::disk::LogicalBlockSize,
) -> (Vec<u8>, gpt::GptDisk<Cursor<Vec<u8>>>) {
    let sector = u32::try_from(sector_size.as_u64()).unwrap();
    let mut device = Cursor::new(vec![0; 256 * usize::try_from(sector).unwrap()]);
    gpt::mbr::ProtectiveMBR::with_lb_size(255).overwrite_lba0(&mut device).unwrap();
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(sector_size)
        .create_from_device(device, None)
        .unwrap();
    let size = u64::from(sector) * 3;
    disk.add_partition("esp", size, gpt::partition_types::EFI, 1 << 63, None).unwrap();
    disk.add_partition(
        "a label of thirty-six characters ..x",
        size * 2,
        gpt::partition_types::LINUX_FS,
        0,
        None,
    )
    .unwrap();
    disk.write_inplace().unwrap();
    (disk.device_ref().get_ref().clone(), disk)
}

#[test]
fn an_image_by_another_implementation_reads_as_that_reads_it() {
    for sector_size in [gpt::disk::LogicalBlockSize::Lb512, gpt::disk::LogicalBlockSize::Lb4096] {
        let (bytes, disk) = image_by_another_implementation(sector_size);
        let table = read(&bytes, None).unwrap().unwrap();
        assert_eq!(table.source, TableSource::Both);
        assert_eq!(u64::from(table.sector_size.bytes()), sector_size.as_u64());
        assert_eq!(table.disk_uuid.to_string(), disk.guid().to_string());
        let theirs: Vec<_> = disk.partitions().iter().filter(|(_, partition)| partition.is_used()).collect();
        assert_eq!(theirs.len(), 2);
        assert_eq!(table.entries.len(), 2);
        for (ours, (number, partition)) in table.entries.iter().zip(theirs) {
            assert_eq!(ours.number.get(), *number);
            assert_eq!(ours.type_uuid.to_string(), partition.part_type_guid.guid.to_string());
            assert_eq!(ours.uuid.to_string(), partition.part_guid.to_string());
            assert_eq!(ours.extent.start().bytes(), partition.bytes_start(sector_size).unwrap());
            assert_eq!(ours.extent.length().bytes(), partition.bytes_len(sector_size).unwrap());
            assert_eq!(ours.attributes.bits(), partition.flags);
            assert_eq!(ours.label.to_text(), partition.name);
        }
    }
}

#[test]
fn the_other_implementation_reads_a_built_image() {
    for (sector, sector_size) in
        [(512, gpt::disk::LogicalBlockSize::Lb512), (4096, gpt::disk::LogicalBlockSize::Lb4096)]
    {
        let image = GptBuilder::new(sector).partition(ROOT, FIRST_UUID, "root", 4, vec![1; 5000]).build();
        let disk = gpt::GptConfig::new()
            .only_valid_headers(true)
            .logical_block_size(sector_size)
            .open_from_device(Cursor::new(image.bytes))
            .unwrap();
        let theirs = &disk.partitions()[&1];
        assert_eq!(theirs.bytes_start(sector_size).unwrap(), image.partitions[0].offset);
        assert_eq!(theirs.bytes_len(sector_size).unwrap(), image.partitions[0].length);
        assert_eq!(theirs.part_guid.as_u128(), FIRST_UUID);
        assert_eq!((theirs.name.as_str(), theirs.flags), ("root", 4));
    }
}
