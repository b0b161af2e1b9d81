use proptest::prelude::*;

use super::builder::{CLUSTER, Fat};
use super::*;

const LIMITS: FatLimits = FatLimits { bytes: ByteLength::new(16 << 20), files: 64 };

/// Where the file system lies in what is fed: the bytes around it are nobody's.
const BASE: u64 = 1 << 20;

fn patterns(texts: &[&str]) -> Vec<FatPattern> {
    texts.iter().map(|text| FatPattern::new(text)).collect()
}

/// Answers everything that is asked for; says how many rounds that took.
fn answer(walk: &mut FatWalk, bytes: &[u8]) -> usize {
    let whole = Extent::new(ByteOffset::new(BASE), ByteLength::of(bytes)).unwrap();
    for round in 0..2000 {
        let wanted = walk.advance();
        if wanted.is_empty() {
            return round;
        }
        for extent in wanted {
            assert!(whole.contains(extent) && !extent.is_empty(), "{extent}");
            let at = |offset: ByteOffset| usize::try_from(offset.bytes() - BASE).unwrap();
            walk.feed(extent.start(), &bytes[at(extent.start())..at(extent.end())]);
        }
    }
    panic!("no end: {walk:?}");
}

fn walk_with(bytes: &[u8], texts: &[&str], limits: FatLimits) -> FatContents {
    let extent = Extent::new(ByteOffset::new(BASE), ByteLength::of(bytes)).unwrap();
    let mut walk = FatWalk::new(extent, patterns(texts), limits);
    answer(&mut walk, bytes);
    walk.finish()
}

fn walk(bytes: &[u8], texts: &[&str]) -> FatContents {
    walk_with(bytes, texts, LIMITS)
}

fn content(bytes: &[u8], file: &FatFile) -> Vec<u8> {
    let places = file.places(Extent::from_beginning(file.size)).unwrap();
    let at = |offset: ByteOffset| usize::try_from(offset.bytes() - BASE).unwrap();
    places.into_iter().flat_map(|place| bytes[at(place.start())..at(place.end())].to_vec()).collect()
}

/// The paths of all files that were found, where nothing is wrong.
fn paths(bytes: &[u8], texts: &[&str]) -> Vec<String> {
    let found = walk(bytes, texts);
    assert_eq!(found.problems, []);
    found.files.iter().map(|file| file.path.to_string()).collect()
}

/// The one problem that there is.
fn problem(bytes: &[u8]) -> (String, FatError) {
    let mut found = walk(bytes, &["/*", "/*/*", "/*/*/*"]);
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    let FatProblem { path, error } = found.problems.remove(0);
    (path.to_string(), error)
}

#[test]
fn files_are_found_by_patterns_whatever_the_width_of_entries() {
    let large: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    for bits in [12, 16, 32] {
        for fragmented in [false, true] {
            let fat = Fat::new(bits);
            let fat = if fragmented { fat.fragmented() } else { fat };
            let fat = fat
                .with("/EFI/Linux/Größe einer langen Datei-1.2.efi", &large)
                .with("/EFI/Linux/EMPTY.EFI", b"")
                .with("/EFI/Linux/notes.txt", b"no")
                .with("/EFI/BOOT/BOOTX64.EFI", &large[..CLUSTER])
                .with("/loader/entries/a.conf", b"title x");
            let found = walk(&fat.bytes, &["/efi/linux/*.efi", "\\EFI\\BOOT\\BOOT*.EFI"]);
            assert_eq!(found.problems, [], "{bits}");
            let files: Vec<(String, u64)> =
                found.files.iter().map(|file| (file.path.to_string(), file.size.bytes())).collect();
            assert_eq!(
                files,
                [
                    ("/EFI/BOOT/BOOTX64.EFI".to_owned(), 512),
                    ("/EFI/Linux/EMPTY.EFI".to_owned(), 0),
                    ("/EFI/Linux/Größe einer langen Datei-1.2.efi".to_owned(), 40_000),
                ]
            );
            assert_eq!(content(&fat.bytes, &found.files[2]), large, "{bits}");
            assert_eq!(content(&fat.bytes, &found.files[1]), b"");
            let runs = found.files[2].runs.len();
            assert_eq!(runs, if fragmented { 40_000_usize.div_ceil(CLUSTER) } else { 1 });
        }
    }
}

#[test]
fn a_part_of_a_file_lies_in_parts_of_its_runs() {
    let content: Vec<u8> = (0..=255).cycle().take(5 * CLUSTER).collect();
    let fat = Fat::new(16).fragmented().with("/A", &content);
    let file = walk(&fat.bytes, &["/a"]).files.remove(0);
    let part = |start, length| Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap();
    let places = file.places(part(500, 600)).unwrap();
    let lengths: Vec<u64> = places.iter().map(|place| place.length().bytes()).collect();
    assert_eq!(lengths, [12, 512, 76]);
    let bytes: Vec<u8> = places
        .iter()
        .flat_map(|place| {
            let at = |offset: ByteOffset| usize::try_from(offset.bytes() - BASE).unwrap();
            fat.bytes[at(place.start())..at(place.end())].to_vec()
        })
        .collect();
    assert_eq!(bytes, content[500..1100]);
    assert_eq!(file.places(part(2500, 61)), None);
    assert_eq!(file.places(part(2560, 0)), Some(Vec::new()));
}

#[test]
fn only_what_is_looked_for_is_gone_into() {
    let mut fat = Fat::new(12).with("/EFI/Linux/a.efi", b"a");
    // Nobody asks for what is in there.
    fat.entry("/broken", 0x10, 999, 0);
    fat.entry("/EFI/broken.txt", 0x20, 999, 7);
    assert_eq!(paths(&fat.bytes, &["/EFI/*/*.efi"]), ["/EFI/Linux/a.efi"]);
    assert!(paths(&fat.bytes, &["/EFI/*.efi", "/EFI/Linux", "/EFI/Linux/a.efi/b"]).is_empty());
}

#[test]
fn another_search_reads_only_what_is_new() {
    let fat = Fat::new(32).with("/EFI/Linux/a.efi", b"a").with("/other/b.efi", b"b");
    let extent = Extent::new(ByteOffset::new(BASE), ByteLength::of(&fat.bytes)).unwrap();
    let mut first = FatWalk::new(extent, patterns(&["/EFI/Linux/*"]), LIMITS);
    assert!(answer(&mut first, &fat.bytes) > 2);
    assert_eq!(first.finish().files.len(), 1);
    let mut second = first.again(patterns(&["/other/b.efi", "/EFI/Linux/a.efi"]));
    assert_eq!(answer(&mut second, &fat.bytes), 1, "the directory alone is new");
    assert_eq!(second.finish().files.len(), 2);
}

#[test]
fn a_long_name_counts_where_it_is_whole_and_belongs_to_its_entry() {
    let fat = Fat::new(12).with("/a long name.efi", b"x");
    let root = fat.bytes.windows(2).position(|pair| pair == [0x42, b'f']).unwrap();
    let names = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fat.bytes.clone();
        edit(&mut bytes);
        paths(&bytes, &["/*"])
    };
    assert_eq!(names(&|_| {}), ["/a long name.efi"]);
    let short = ["/00000003"];
    assert_eq!(names(&|bytes| bytes[root + 13] ^= 1), short, "the checksum of a part");
    assert_eq!(names(&|bytes| bytes[root + 64] = b'Z'), ["/Z0000003"], "another short name");
    assert_eq!(names(&|bytes| bytes[root] = 0x43), short, "a part is missing");
    assert_eq!(names(&|bytes| bytes[root] = 0x42 + 32), short, "more parts than there can be");
    assert_eq!(names(&|bytes| bytes[root + 32] = 2), short, "a part twice");
    assert_eq!(names(&|bytes| bytes[root + 32] = 0xe5), short, "a part is free");
    assert!(names(&|bytes| bytes[root + 64] = 0xe5).is_empty(), "the entry is free");
    assert!(names(&|bytes| bytes[root + 64 + 11] = 8).is_empty(), "a volume label");
    assert_eq!(names(&|bytes| bytes[root + 3] = b'/'), short, "a separator in the name");
    assert_eq!(names(&|bytes| bytes[root + 64 + 12] = 0x18), ["/a long name.efi"]);
    assert!(names(&|bytes| bytes[root] = 0).is_empty(), "the end of the directory");
}

#[test]
fn a_short_name_has_its_case_and_no_code_page() {
    let names = |name: &[u8; 11], lower: u8| {
        let mut fat = Fat::new(12).with("/X", b"");
        let root = fat.bytes.windows(11).position(|name| name == b"X          ").unwrap();
        fat.bytes[root..root + 11].copy_from_slice(name);
        fat.bytes[root + 12] = lower;
        paths(&fat.bytes, &["/*"])
    };
    assert_eq!(names(b"BOOTX64 EFI", 0), ["/BOOTX64.EFI"]);
    assert_eq!(names(b"BOOTX64 EFI", 0x08), ["/bootx64.EFI"]);
    assert_eq!(names(b"BOOTX64 EFI", 0x10), ["/BOOTX64.efi"]);
    assert_eq!(names(b"A B C      ", 0), ["/A B C"]);
    assert_eq!(names(b"GR\x99SSE  TXT", 0), ["/GR\u{fffd}SSE.TXT"]);
    assert!(names(b"..         ", 0).is_empty());
    assert!(names(b"           ", 0).is_empty());
}

#[test]
fn the_high_half_of_a_cluster_number_counts_in_fat32_alone() {
    for bits in [12, 16] {
        let mut fat = Fat::new(bits);
        fat.entry("/A", 0x20, 0x1_0002, 1);
        fat.set(2, 0xffff);
        assert_eq!(paths(&fat.bytes, &["/*"]), ["/A"]);
    }
    let mut fat = Fat::new(32);
    fat.entry("/A", 0x20, 0x1_0003, 1);
    assert!(matches!(problem(&fat.bytes).1, FatError::Outside { found: 0x1_0003, after: None, .. }));
}

#[test]
fn a_damaged_chain_is_told_and_the_rest_is_found() {
    let content = [1; 5 * CLUSTER];
    for bits in [12, 16, 32] {
        let whole = Fat::new(bits).with("/GOOD", &content);
        let first = whole.next_cluster();
        let whole = whole.with("/BAD", &content).with("/LAST", &content);
        let clusters = match bits {
            12 => 1000,
            16 => 5000,
            _ => 300,
        };
        let bad = |cluster: usize, value: usize| {
            let mut fat = whole.clone();
            fat.set(cluster, value);
            let found = walk(&fat.bytes, &["/*"]);
            let good: Vec<&str> = found.files.iter().map(|file| file.path.name()).collect();
            assert!(good.contains(&"GOOD"), "{found:?}");
            assert_eq!(found.problems.len(), 1, "{found:?}");
            (found.problems[0].path.to_string(), found.problems[0].error.clone())
        };
        let of_bad = |error| ("/BAD".to_owned(), error);
        let number = |cluster: usize| u32::try_from(cluster).unwrap();
        let outside = |found| of_bad(FatError::Outside { after: Some(number(first)), found, clusters });
        assert_eq!(bad(first + 2, first), of_bad(FatError::Loop { cluster: number(first) }));
        assert_eq!(bad(first, first), of_bad(FatError::Loop { cluster: number(first) }));
        assert_eq!(bad(first, 0), outside(0));
        assert_eq!(bad(first, 1), outside(1));
        let beyond = clusters + 2;
        assert_eq!(bad(first, usize::try_from(beyond).unwrap()), outside(beyond));
        let damaged = (1_u32 << bits.min(28)) - 9;
        assert_eq!(bad(first, usize::try_from(damaged).unwrap()), outside(damaged));
        assert_eq!(bad(first + 3, usize::MAX), of_bad(FatError::Short { expected: 5, found: 4 }));
        // Whichever of the two is followed later is told.
        let (path, error) = bad(first, first + 5);
        let FatError::CrossLinked { other, .. } = error else { panic!("{error:?}") };
        let mut both = [path, other.to_string()];
        both.sort();
        assert_eq!(both, ["/BAD", "/LAST"]);
        // What comes behind the size is not looked at.
        let mut longer = whole.clone();
        longer.set(first + 4, first);
        assert_eq!(walk(&longer.bytes, &["/*"]).problems, []);
    }
}

#[test]
fn a_size_of_4_gib_takes_no_more_clusters_than_there_are() {
    let mut fat = Fat::new(32).with("/GOOD", b"good");
    let first = fat.next_cluster();
    fat.entry("/LARGE", 0x20, first, 0xffff_ffff);
    for cluster in first..302 {
        fat.set(cluster, cluster + 1);
    }
    let (path, error) = problem(&fat.bytes);
    assert_eq!(
        (path.as_str(), &error),
        ("/LARGE", &FatError::Outside { after: Some(301), found: 302, clusters: 300 })
    );
    fat.set(301, first);
    assert_eq!(problem(&fat.bytes).1, FatError::Loop { cluster: u32::try_from(first).unwrap() });
    fat.set(301, usize::MAX);
    assert!(matches!(problem(&fat.bytes).1, FatError::Short { expected: 0x80_0000, .. }));
}

#[test]
fn directories_do_not_lead_in_circles() {
    for bits in [12, 32] {
        let mut fat = Fat::new(bits);
        let first = fat.directory("/EFI");
        fat.entry("/EFI/EFI", 0x10, first, 0);
        let (path, error) = problem(&fat.bytes);
        assert_eq!(path, "/EFI/EFI");
        assert!(matches!(error, FatError::CrossLinked { .. }), "{error:?}");
        let mut fat = Fat::new(bits);
        let first = fat.directory("/EFI");
        fat.set(first, first);
        assert!(matches!(problem(&fat.bytes), (path, FatError::Loop { .. }) if path == "/EFI"));
        let mut fat = Fat::new(bits);
        fat.entry("/EFI", 0x10, 0, 0);
        assert!(matches!(problem(&fat.bytes).1, FatError::Outside { after: None, found: 0, .. }));
    }
}

/// A FAT16 of 5000 clusters, all of which are one directory of as many entries as fit, and each of them is `entry`.
fn full_directory(entry: &[u8; 32]) -> Vec<u8> {
    let mut fat = Fat::new(16);
    fat.entry("/EFI", 0x10, 2, 0);
    for cluster in 2..5001 {
        fat.set(cluster, cluster + 1);
    }
    fat.set(5001, usize::MAX);
    let area = fat.bytes.len() - 5000 * CLUSTER;
    for place in fat.bytes[area..].chunks_mut(32) {
        place.copy_from_slice(entry);
    }
    fat.bytes
}

#[test]
fn a_directory_has_at_most_65536_entries() {
    let mut entry = [b'A'; 32];
    entry[11] = 0x20;
    let (path, error) = problem(&full_directory(&entry));
    assert_eq!((path.as_str(), error), ("/EFI", FatError::DirectoryTooLarge));
    // The most that there may be, of which more fit than are looked at.
    let mut most = full_directory(&entry);
    let end = 4096 + 2;
    most[CLUSTER + 2 * (end - 1)..CLUSTER + 2 * end].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(problem(&most), ("/EFI".to_owned(), FatError::TooManyFiles { limit: LIMITS.files }));
    assert!(paths(&most, &["/EFI/B*"]).is_empty());
}

#[test]
fn reading_has_its_limits() {
    let limits = FatLimits { bytes: ByteLength::new(4096), files: 64 };
    let fat = Fat::new(16).with("/A", &[1; 2 * CLUSTER]);
    let found = walk_with(&fat.bytes, &["/*"], limits);
    assert_eq!(found.problems[0].error, FatError::TooMuch { limit: limits.bytes });
    assert!(found.files.is_empty());
    // Nothing comes of what was asked for.
    let extent = Extent::new(ByteOffset::new(BASE), ByteLength::of(&fat.bytes)).unwrap();
    let mut walk = FatWalk::new(extent, patterns(&["/*"]), limits);
    let rounds = (0..1000).take_while(|_| !walk.advance().is_empty()).count();
    assert_eq!(rounds, 8);
    let mut walk = FatWalk::new(extent, patterns(&["/*"]), LIMITS);
    assert_eq!(walk.advance().len(), 1);
    assert_eq!(walk.finish().problems[0].error, FatError::Unread);
}

#[test]
fn directories_have_their_number_and_depth() {
    let deep = "/d".repeat(15);
    let fat = Fat::new(16).with(&format!("{deep}/file"), b"a").with(&format!("{deep}/d/file"), b"a");
    let pattern = "/*".repeat(16);
    assert_eq!(paths(&fat.bytes, &[&pattern, &format!("{pattern}/*")]), [format!("{deep}/file")]);

    let mut many = Fat::new(16);
    for number in 0..=MAXIMUM_DIRECTORIES {
        many.entry(&format!("/EFI/{number}"), 0x10, 4000, 0);
    }
    let found = walk(&many.bytes, &["/EFI/*/*"]);
    let last = found.problems.iter().find(|problem| problem.error == FatError::TooManyDirectories);
    assert_eq!(last.map(|problem| problem.path.to_string()), Some("/EFI".to_owned()));
}

#[test]
fn problems_are_told_up_to_a_number() {
    let mut fat = Fat::new(16).with("/EFI/x", b"");
    for number in 0..100 {
        fat.entry(&format!("/EFI/{number}"), 0x20, 0, 1);
    }
    assert_eq!(walk_with(&fat.bytes, &["/EFI/*"], FatLimits { files: 1000, ..LIMITS }).problems.len(), 16);
}

#[test]
fn an_insane_boot_sector_is_named() {
    let fat = Fat::new(32).with("/A", b"a");
    for (at, value) in [(11, 0), (12, 0), (13, 0), (14, 0), (16, 0), (22, 1), (36, 0), (44, 0), (510, 0)] {
        let mut bytes = fat.bytes.clone();
        bytes[at] = value;
        if bytes == fat.bytes {
            continue;
        }
        let (path, error) = problem(&bytes);
        assert!(path == "/" && matches!(error, FatError::Boot(_)), "{at}: {error:?}");
    }
    assert!(matches!(problem(&[0; 4096]).1, FatError::Boot(VfatError::BootSignature { .. })));
    for length in [0, 1, 511] {
        assert!(matches!(problem(&fat.bytes[..length]).1, FatError::Boot(VfatError::Truncated)));
    }
    let mut other_table = fat.bytes.clone();
    other_table[40] = 0x81;
    assert_eq!(problem(&other_table).1, FatError::ActiveTable { table: 1 });
}

proptest! {
    #[test]
    fn damage_gives_files_within_the_file_system_or_a_problem(
        bits in 0_usize..3,
        damage in prop::collection::vec((0_usize..8192, any::<u8>()), 1..8),
    ) {
        let mut fat = Fat::new([12, 16, 32][bits])
            .with("/EFI/Linux/a long name.efi", &[7; 3 * CLUSTER])
            .with("/EFI/BOOT/BOOTX64.EFI", &[7; 2 * CLUSTER]);
        for (at, value) in damage {
            let at = at % fat.bytes.len();
            fat.bytes[at] = value;
        }
        let whole = Extent::new(ByteOffset::new(BASE), ByteLength::of(&fat.bytes)).unwrap();
        let found = walk(&fat.bytes, &["/*", "/*/*", "/*/*/*"]);
        prop_assert!(found.problems.len() <= MAXIMUM_PROBLEMS);
        let mut all: Vec<Extent> = found.files.iter().flat_map(|file| file.runs.iter().copied()).collect();
        prop_assert!(all.iter().all(|run| whole.contains(*run) && !run.is_empty()));
        all.sort();
        prop_assert!(all.windows(2).all(|pair| !pair[0].overlaps(pair[1])));
        for file in found.files {
            let length: u64 = file.runs.iter().map(|run| run.length().bytes()).sum();
            prop_assert_eq!(length, file.size.bytes());
        }
    }
}
