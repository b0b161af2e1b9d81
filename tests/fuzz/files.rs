//! Files in file systems.

use ddictl::format::boot_entry::BootEntry;
use ddictl::format::fat::{FatContents, FatLimits, FatPattern, FatWalk};
use ddictl::format::units::{ByteLength, Extent};

use ddictl::image::uki::boot_partition::{entry_command_line, lint_entry};

use super::input::{Input, copy_overlap, extent};
use super::is_one_line;

/// What a walk may read here: more is more of the same.
const LIMITS: FatLimits = FatLimits { bytes: ByteLength::new(1 << 20), files: 32 };

/// Where the partition lies in its image.
const BASE: u64 = 1 << 20;

/// A boot entry: values of one line, none of which is longer than all of it, and a finding that can be shown.
pub fn boot_entry(input: &[u8]) {
    let entry = BootEntry::parse(input);
    // A byte that is no text takes three as a replacement character.
    let most = 3 * input.len();
    for value in [&entry.linux, &entry.efi, &entry.uki, &entry.uki_url, &entry.options].into_iter().flatten()
    {
        assert!(value.len() <= most && !value.contains(['\n', '\r']), "{value:?}");
    }
    assert_eq!(entry_command_line(&entry).is_some(), entry.linux.is_some() || entry.options.is_some());
    let finding = lint_entry(&entry);
    assert_eq!(finding.is_some(), is_unsigned(&entry), "{entry:?}");
    assert!(finding.is_none_or(|finding| is_one_line(&finding.message())), "{entry:?}");
}

fn is_unsigned(entry: &BootEntry) -> bool {
    entry.linux.is_some() || entry.uki_url.is_some() || (entry.efi.is_some() && entry.options.is_some())
}

/// A FAT file system: the length of its partition, then pieces of it, each with its place and length. What no piece has
/// is zero.
pub fn fat(input: &[u8]) {
    fat_files(input);
}

/// The same; says how many files are in it.
pub fn fat_files(input: &[u8]) -> usize {
    let mut input = Input::new(input);
    let length = input.number(8) >> 2;
    let mut pieces: Vec<(u64, &[u8])> = Vec::new();
    while !input.is_empty() {
        let (at, count) = (input.number(6), input.number(2));
        pieces.push((BASE + at, input.bytes(usize::try_from(count).unwrap())));
    }
    let whole = extent(BASE, length);
    let read = |part: Extent| {
        assert!(whole.contains(part) && !part.is_empty(), "{part} of {whole}");
        let mut bytes = vec![0; part.length().in_memory().unwrap()];
        for (at, piece) in &pieces {
            copy_overlap(&mut bytes, part.start().bytes(), *at, piece);
        }
        bytes
    };
    let patterns = |texts: &[&str]| texts.iter().map(|text| FatPattern::new(text)).collect::<Vec<_>>();
    let mut walk = FatWalk::new(whole, patterns(&["/*", "/*/*", "/*/*/*"]), LIMITS);
    let read_first = go(&mut walk, read);
    let found = walk.finish();
    check(&found, whole);

    let mut again = walk.again(patterns(&["/EFI/*/*.efi"]));
    let read_again = go(&mut again, read);
    assert!(read_first + read_again <= LIMITS.bytes.bytes());
    let some = again.finish();
    check(&some, whole);
    if found.problems.is_empty() {
        // Nothing new has to be read for what has been seen, and it is as it was.
        assert!(read_again == 0 && some.problems.is_empty(), "{some:?}");
        assert!(some.files.iter().all(|file| found.files.contains(file)), "{some:?}");
    }
    found.files.len()
}

/// Answers what is asked for, in a bounded number of rounds; says how many bytes that were.
fn go(walk: &mut FatWalk, read: impl Fn(Extent) -> Vec<u8>) -> u64 {
    let mut sum = 0;
    for _ in 0..2100 {
        let wanted = walk.advance();
        if wanted.is_empty() {
            assert!(walk.advance().is_empty());
            return sum;
        }
        for part in wanted {
            sum += part.length().bytes();
            walk.feed(part.start(), &read(part));
        }
        assert!(sum <= LIMITS.bytes.bytes());
    }
    panic!("no end: {walk:?}");
}

/// No byte of a file lies outside, or belongs to another one.
fn check(found: &FatContents, whole: Extent) {
    assert!(found.files.len() <= LIMITS.files);
    for file in &found.files {
        assert!(file.path.to_string().starts_with('/') && !file.path.name().contains(['/', '\\', '\0']));
        let places = file.places(Extent::from_beginning(file.size)).unwrap();
        assert!(places.iter().all(|place| whole.contains(*place) && !place.is_empty()), "{file:?}");
        let sum: u64 = places.iter().map(|place| place.length().bytes()).sum();
        assert_eq!(sum, file.size.bytes(), "{file:?}");
        assert_eq!(file.places(extent(0, file.size.bytes() + 1)), None);
    }
    let mut runs: Vec<Extent> =
        found.files.iter().flat_map(|file| file.places(Extent::from_beginning(file.size)).unwrap()).collect();
    runs.sort();
    assert!(runs.windows(2).all(|pair| !pair[0].overlaps(pair[1])), "{runs:?}");
    for problem in &found.problems {
        let text = problem.error.to_string();
        // Names are as the image has them, and escaped where they are shown.
        assert!(!text.is_empty() && (text.contains(" as well") || is_one_line(&text)), "{text}");
    }
}
