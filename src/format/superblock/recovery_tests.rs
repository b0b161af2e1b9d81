//! Whether file systems need recovery, held against what the kernel did with each of them: see `tests/data/recovery`.

use super::*;

use super::used_images::{FIXTURES, UsedImage};

/// What a probe and, for an XFS, the examination of its log find; and how many rounds and bytes the log took.
fn recovery(image: &UsedImage) -> (Recovery, usize, u64) {
    let mut bytes = SparseBytes::new();
    let whole = Extent::from_beginning(ByteLength::new(image.length));
    for extent in probe_extents(whole.length()) {
        bytes.insert(extent.start(), &read_of(image, extent));
    }
    let superblock = probe(&Window::new(&bytes, whole)).remove(0);
    if superblock.kind.file_system() != Some(FileSystem::Xfs) {
        return (superblock.recovery, 0, 0);
    }
    assert_eq!(superblock.recovery, Recovery::Unknown);
    let log = XfsLog::find(&Window::new(&bytes, whole)).unwrap();
    let (mut rounds, mut read) = (0, 0);
    loop {
        match log.examine(&Window::new(&bytes, whole)) {
            LogExamination::Known(recovery) => return (recovery, rounds, read),
            LogExamination::Wants(extents) => {
                rounds += 1;
                for extent in extents {
                    assert!(whole.contains(extent) && !extent.is_empty(), "{extent}");
                    bytes.insert(extent.start(), &read_of(image, extent));
                    read += extent.length().bytes();
                }
                assert!(rounds <= 6 && read <= 512 << 10, "{rounds} rounds, {read} bytes");
            }
        }
    }
}

fn read_of(image: &UsedImage, extent: Extent) -> Vec<u8> {
    image.read(extent.start().bytes(), extent.length().in_memory().unwrap())
}

#[test]
fn recovery_is_needed_where_the_kernel_refuses_a_device_that_it_may_not_write_to() {
    for (name, _) in FIXTURES {
        let image = UsedImage::load(name);
        let (found, rounds, read) = recovery(&image);
        let expected = if image.mounts { Recovery::NotNeeded } else { Recovery::Needed };
        // The kernel leaves the orphans alone where it may not write, and deletes them in a read-only mount where it may.
        let expected = if name == "ext4-orphan" { Recovery::Needed } else { expected };
        assert_eq!(found, expected, "{name}, {rounds} rounds, {read} bytes");
    }
}

#[test]
fn a_log_that_was_never_written_to_takes_one_round() {
    let (found, rounds, read) = recovery(&UsedImage::load("xfs-fresh"));
    assert_eq!((found, rounds), (Recovery::NotNeeded, 1));
    assert!(read <= 16 << 10, "{read} bytes");
}

/// Where the log of a fixture lies: all of them have four groups.
fn log_of(image: &UsedImage) -> XfsLog {
    let mut bytes = SparseBytes::new();
    let beginning = Extent::from_beginning(ByteLength::new(512));
    bytes.insert(ByteOffset::ZERO, &read_of(image, beginning));
    XfsLog::find(&Window::new(&bytes, Extent::from_beginning(ByteLength::new(image.length)))).unwrap()
}

#[test]
fn a_record_that_is_not_quite_that_of_unmounting_is_none() {
    let start = log_of(&UsedImage::load("xfs-fresh")).start();
    assert_eq!(recovery(&UsedImage::load("xfs-fresh")).0, Recovery::NotNeeded);
    for (what, offset, patch) in [
        ("two operations", 40, &[0, 0, 0, 2][..]),
        ("a longer record", 12, &[0, 0, 4, 0]),
        ("another operation", 512 + 9, &[1]),
        ("no record", 0, &[0, 0, 0, 1]),
        ("something written behind it", 1024, &[0, 0, 0, 1]),
    ] {
        let image = UsedImage::load("xfs-fresh").patched(start + offset, patch);
        assert_eq!(recovery(&image).0, Recovery::Needed, "{what}");
    }
}

#[test]
fn a_log_that_the_kernel_would_not_write_is_unknown() {
    let start = log_of(&UsedImage::load("xfs-fresh")).start();
    let zeros = UsedImage::load("xfs-fresh").patched(start, &[0; 1024]);
    assert_eq!(recovery(&zeros).0, Recovery::Unknown, "nothing but zeros");
    let jump = UsedImage::load("xfs-fresh").patched(start + 4, &[0, 0, 0, 9]);
    assert_eq!(recovery(&jump).0, Recovery::Unknown, "from round 9 to round 0");
}

#[test]
fn a_log_elsewhere_or_out_of_reach_is_not_looked_for() {
    let find = |offset, patch: &[u8]| {
        let image = UsedImage::load("xfs-fresh").patched(offset, patch);
        let mut bytes = SparseBytes::new();
        bytes.insert(ByteOffset::ZERO, &image.read(0, 512));
        XfsLog::find(&Window::new(&bytes, Extent::from_beginning(ByteLength::new(image.length))))
    };
    assert!(find(0, b"XFSB").is_some());
    for (what, offset, patch) in [
        ("an external log", 48, &[0; 8][..]),
        ("a log behind the end", 48, &[0, 0, 0, 0, 0, 0xff, 0, 0]),
        ("a place beyond all numbers", 48, &[0xff; 8]),
        ("a log larger than the file system", 96, &[0x0f, 0xff, 0xff, 0xff]),
        ("no log at all", 96, &[0; 4]),
        ("groups of impossible size", 124, &[64]),
    ] {
        assert_eq!(find(offset, patch), None, "{what}");
    }
}
