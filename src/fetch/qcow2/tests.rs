use std::path::{Path, PathBuf};

use super::*;

/// The images that QEMU's tools made, and what they find in them (tests/data/qcow2/make).
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/qcow2").join(name)
}

fn stored(name: &str) -> Vec<u8> {
    zstd::decode_all(File::open(data(name)).unwrap()).unwrap()
}

fn disk_of(image: &[u8], limit: u64) -> Result<Vec<u8>, ConvertError> {
    let disk = Disk::open(image, ByteLength::of(image), ByteLength::new(limit))?;
    let mut found = vec![0; disk.size().in_memory().unwrap()];
    let mut end = 0;
    disk.read(|offset, bytes| {
        let offset = usize::try_from(offset.bytes()).unwrap();
        assert!(offset >= end && !bytes.is_empty(), "{offset} comes behind {end}");
        end = offset + bytes.len();
        found[offset..end].copy_from_slice(bytes);
        Ok::<_, ConvertError>(())
    })?;
    Ok(found)
}

const ROOM: u64 = 16 << 20;

#[test]
fn the_disk_is_what_qemu_finds() {
    let mut images = 0;
    for entry in std::fs::read_dir(data(".")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".qcow2.zst") else { continue };
        let own = format!("{name}.raw.zst");
        let expected = if data(&own).try_exists().unwrap() { stored(&own) } else { stored("disk.raw.zst") };
        let found = disk_of(&stored(&format!("{name}.qcow2.zst")), ROOM)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == expected, "{name}");
        images += 1;
    }
    assert_eq!(images, 16);
}

/// The image with some bytes changed.
fn changed(name: &str, position: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = stored(&format!("{name}.qcow2.zst"));
    image[position..position + bytes.len()].copy_from_slice(bytes);
    image
}

/// The number at this place of the image.
fn number(image: &[u8], position: usize) -> u64 {
    u64::from_be_bytes(image[position..position + 8].try_into().unwrap())
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let v3 = "version-3";
    for (image, expected) in [
        (changed(v3, 0, b"QFI\xfa"), "does not begin as a qcow2 image"),
        (changed(v3, 4, &[0, 0, 0, 1]), "version: expected 2 or 3, found 1"),
        (changed(v3, 8, &[0, 0, 0, 0, 0, 0, 1, 0]), "backing file"),
        (changed(v3, 20, &[0, 0, 0, 8]), "cluster bits: expected 9 to 21, found 8"),
        (changed(v3, 20, &[0, 0, 0, 22]), "cluster bits: expected 9 to 21, found 22"),
        (changed("extended", 20, &[0, 0, 0, 13]), "cluster bits: expected 14 to 21, found 13"),
        (
            changed(v3, 24, &[0, 0, 0, 0, 4, 0, 0, 0]),
            "expected a disk of at most 16777216 bytes, found one of 67108864",
        ),
        (changed(v3, 24, &[0xff; 8]), "size of the disk: expected a first table of at most 33554432 bytes"),
        (changed(v3, 32, &[0, 0, 0, 1]), "encrypted (method 1)"),
        (changed(v3, 32, &[0, 0, 0, 2]), "encrypted (method 2)"),
        (changed(v3, 36, &[0, 0, 0, 0]), "entries of the first table: expected at least 1, found 0"),
        (changed(v3, 40, &[0; 8]), "offset of the first table"),
        (
            changed(v3, 40, &[0, 0, 0, 0, 0, 3, 0, 1]),
            "offset of the first table: expected a multiple of 65536",
        ),
        (changed(v3, 40, &[0, 0, 0, 1, 0, 0, 0, 0]), "first table: expected within the file"),
        (changed(v3, 79, &[2]), "marked as corrupt"),
        (changed(v3, 79, &[4]), "external file"),
        (changed(v3, 79, &[8]), "compression type: expected 1, found 0"),
        (changed("zstd", 79, &[0]), "compression type: expected 0, found 1"),
        (changed("zstd", 104, &[2]), "compression type: expected 1, found 2"),
        (changed(v3, 79, &[0x20]), "features that are not known (bits 0x20)"),
        (changed(v3, 72, &[0x80]), "features that are not known (bits 0x8000000000000000)"),
        (changed(v3, 103, &[105]), "header length: expected a multiple of 8, at least 104, found 105"),
        (changed(v3, 103, &[96]), "header length"),
        (b"QFI\xfb\0\0\0\x03".to_vec(), "header: expected within the file of 8 bytes"),
    ] {
        let error = disk_of(&image, ROOM).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    // Reference counts that may be wrong are nothing to a reader.
    assert!(disk_of(&changed(v3, 79, &[1]), ROOM).unwrap() == stored("disk.raw.zst"));
}

#[test]
fn tables_and_clusters_lie_in_the_file_and_apart_from_each_other() {
    let image = stored("version-3.qcow2.zst");
    let first = usize::try_from(number(&image, 40)).unwrap();
    let second = usize::try_from(number(&image, first) & !(1 << 63)).unwrap();
    let entry = |value: u64| value.to_be_bytes();
    let (first_table, second_table) = (u64::try_from(first).unwrap(), u64::try_from(second).unwrap());
    let used = 1_u64 << 63;
    for (position, value, expected) in [
        (first, used | 1 << 40, "second table: expected within the file"),
        (first, used | 0x200, "offset of a second table: expected a multiple of 65536, found 512"),
        (first, used | 1, "reserved bits of the first table"),
        (first, used | 1 << 60, "reserved bits of the first table"),
        (first, used | first_table, "a second table at byte 196608 overlaps the first table"),
        (second, used | 1 << 40, "a cluster: expected within the file"),
        (second, used | 0x200, "offset of a cluster: expected a multiple of 65536, found 512"),
        (second, used | 0x50002, "reserved bits of a second table"),
        (second, used | first_table, "a cluster at byte 196608 overlaps the first table"),
        (second, used | second_table, "overlaps a second table"),
        (second, 1 << 62 | first_table, "a compressed cluster at byte 196608 overlaps the first table"),
        (second, 1 << 62 | 7, "a compressed cluster at byte 7 overlaps the header"),
        (second, (1 << 62) | (second_table + 65536 - 1), "overlaps a second table"),
        (second, (1 << 62) | (1 << 40), "a compressed cluster: expected within the file"),
        (second, 1 << 62 | used, "entry of a compressed cluster: expected an offset of 56 bits"),
    ] {
        let error = disk_of(&changed("version-3", position, &entry(value)), ROOM).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
    // Version 2 has no clusters of zeros.
    let old = stored("version-2.qcow2.zst");
    let first = usize::try_from(number(&old, 40)).unwrap();
    let second = usize::try_from(number(&old, first) & !(1 << 63)).unwrap();
    let error = disk_of(&changed("version-2", second + 7, &[1]), ROOM).unwrap_err().to_string();
    assert!(error.contains("reserved bits of a second table"), "{error}");

    // Two entries of the first table for one second table.
    let small = stored("small.qcow2.zst");
    let first = usize::try_from(number(&small, 40)).unwrap();
    let error =
        disk_of(&changed("small", first + 8, &small[first..first + 8]), ROOM).unwrap_err().to_string();
    assert!(error.contains("a second table at byte") && error.contains("overlaps another one"), "{error}");

    // Data and zeros in the same part of a cluster.
    let extended = stored("extended.qcow2.zst");
    let first = usize::try_from(number(&extended, 40)).unwrap();
    let second = usize::try_from(number(&extended, first) & !(1 << 63)).unwrap();
    let error = disk_of(&changed("extended", second + 8, &[0xff; 8]), ROOM).unwrap_err().to_string();
    assert!(error.contains("data or zeros, not both"), "{error}");
    let error = disk_of(&changed("extended", second, &[0; 8]), ROOM).unwrap_err().to_string();
    assert!(error.contains("offset of a cluster with data: expected not 0"), "{error}");
}

#[test]
fn an_image_that_is_cut_or_changed_anywhere_is_read_or_refused() {
    for name in ["version-3", "deflate", "zstd", "extended-deflate"] {
        let image = stored(&format!("{name}.qcow2.zst"));
        let (whole, mut spare) = (disk_of(&image, ROOM).unwrap(), 0);
        for cut in (0..image.len()).step_by(image.len() / 50) {
            // Behind the data of the last cluster nothing is missed.
            if let Ok(found) = disk_of(&image[..cut], ROOM) {
                assert!(found == whole, "{name}, {cut} of {} bytes", image.len());
                spare += 1;
            }
        }
        assert!(spare < 25, "{name}: {spare}");
        let mut state = 7_usize;
        for _ in 0..100 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let position = (state >> 20) % image.len();
            let mut changed = image.clone();
            changed[position] ^= 1 << (state >> 61);
            let _ = disk_of(&changed, ROOM);
        }
    }
}

#[test]
fn a_cluster_that_is_no_compressed_one_is_named() {
    for name in ["deflate", "zstd"] {
        let what = "decompressing the cluster in bytes";
        let image = stored(&format!("{name}.qcow2.zst"));
        let first = usize::try_from(number(&image, 40)).unwrap();
        let second = usize::try_from(number(&image, first) & !(1 << 63)).unwrap();
        let data = usize::try_from(number(&image, second) & ((1 << 54) - 1)).unwrap();
        let error = disk_of(&changed(name, data, &[0xff; 16]), ROOM).unwrap_err().to_string();
        assert!(error.contains(what), "{name}: {error}");
    }
}
