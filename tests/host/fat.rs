//! Files in FAT file systems that mkfs.vfat and mtools made: found, and as mtools itself reads them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ddictl::format::fat::{FatContents, FatFile, FatLimits, FatPattern, FatWalk};
use ddictl::format::units::{ByteLength, ByteOffset, Extent};
use tempfile::TempDir;

use crate::harness::{self, HostTest, Need};
use crate::repart::succeed;

const NEEDS: &[Need] = &[Need::Tool("mkfs.vfat"), Need::Tool("mcopy"), Need::Tool("mdir")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest { name: "fat::fat12", needs: NEEDS, run: || agrees_with_mtools(12, 4 << 20, &["-s", "2"]) },
    HostTest { name: "fat::fat16", needs: NEEDS, run: || agrees_with_mtools(16, 20 << 20, &["-s", "4"]) },
    HostTest { name: "fat::fat32", needs: NEEDS, run: || agrees_with_mtools(32, 40 << 20, &["-s", "1"]) },
    HostTest {
        name: "fat::fat32_of_4096_byte_sectors",
        needs: NEEDS,
        run: || agrees_with_mtools(32, 300 << 20, &["-S", "4096", "-s", "1"]),
    },
    HostTest {
        name: "fat::damage_is_what_fsck_finds",
        needs: &[
            Need::Tool("mkfs.vfat"),
            Need::Tool("fsck.vfat"),
            Need::Tool("mcopy"),
            Need::Tool("mshowfat"),
        ],
        run: damage_is_what_fsck_finds,
    },
];

/// Runs a program of mtools on the file system.
fn mtools(directory: &Path, program: &str, arguments: &[&str]) -> String {
    succeed(harness::program(program).arg("-i").arg("image").args(arguments).current_dir(directory))
}

/// Bytes that differ from place to place, and from file to file.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at / 7 + at * seed) % 251).unwrap()).collect()
}

/// Every file below two directories, where nothing is wrong.
fn walk(directory: &Path) -> Vec<FatFile> {
    let found = contents(directory);
    assert_eq!(found.problems, []);
    found.files
}

fn contents(directory: &Path) -> FatContents {
    let file = fs::File::open(directory.join("image")).unwrap();
    let whole = Extent::from_beginning(ByteLength::new(file.metadata().unwrap().len()));
    let patterns = ["/*", "/*/*", "/*/*/*"].map(FatPattern::new).to_vec();
    let mut walk = FatWalk::new(whole, patterns, FatLimits { bytes: ByteLength::new(4 << 20), files: 1000 });
    for _ in 0..1000 {
        let wanted = walk.advance();
        if wanted.is_empty() {
            return walk.finish();
        }
        for extent in wanted {
            let mut piece = vec![0; extent.length().in_memory().unwrap()];
            file.read_exact_at(&mut piece, extent.start().bytes()).unwrap();
            walk.feed(extent.start(), &piece);
        }
    }
    panic!("no end");
}

fn content(directory: &Path, file: &FatFile) -> (usize, Vec<u8>) {
    let image = fs::File::open(directory.join("image")).unwrap();
    let places = file.places(Extent::new(ByteOffset::ZERO, file.size).unwrap()).unwrap();
    let mut bytes = Vec::new();
    for place in &places {
        let mut piece = vec![0; place.length().in_memory().unwrap()];
        image.read_exact_at(&mut piece, place.start().bytes()).unwrap();
        bytes.extend(piece);
    }
    (places.len(), bytes)
}

fn agrees_with_mtools(bits: u32, size: u64, options: &[&str]) {
    let scratch = TempDir::new().unwrap();
    let directory = scratch.path();
    fs::File::create(directory.join("image")).unwrap().set_len(size).unwrap();
    let bits = bits.to_string();
    succeed(
        harness::program("mkfs.vfat").args(["-F", &bits]).args(options).arg("image").current_dir(directory),
    );
    mtools(directory, "mmd", &["::EFI", "::EFI/Linux", "::EFI/BOOT", "::A directory with a long name"]);
    let put = |path: &str, content: &[u8]| {
        fs::write(directory.join("file"), content).unwrap();
        mtools(directory, "mcopy", &["file", &format!("::{path}")]);
    };
    // Every second of many small files goes, and a large one takes what they leave.
    let small = bytes(1, 3000);
    for number in 0..60 {
        put(&format!("EFI/small file {number}.bin"), &small);
    }
    for number in (0..60).step_by(2) {
        mtools(directory, "mdel", &[&format!("::EFI/small file {number}.bin")]);
    }
    if bits == "32" {
        // The hint where a free cluster may be found: none, so that what was freed is looked for from the beginning.
        let image = fs::File::options().write(true).open(directory.join("image")).unwrap();
        let sector = options
            .iter()
            .skip_while(|option| **option != "-S")
            .nth(1)
            .map_or(512, |text| text.parse().unwrap());
        image.write_all_at(&[0xff; 4], sector + 492).unwrap();
    }
    let fragmented = bytes(3, usize::try_from(size).unwrap().min(4 << 20) / 5);
    put("EFI/Linux/systemd with a really long name, and another 26 letters_1.2+3-0.efi", &fragmented);
    put("EFI/BOOT/BOOTX64.EFI", &bytes(4, 70_000));
    put("EFI/BOOT/lower.efi", &bytes(5, 513));
    put("A directory with a long name/Größe 漢字.txt", &bytes(6, 4096));
    put("EFI/Linux/empty.efi", b"");

    let files = walk(directory);
    let listed = mtools(directory, "mdir", &["-/", "-b", "::"]);
    let mut listed: Vec<String> = listed
        .lines()
        .filter(|line| !line.ends_with('/'))
        .map(|line| line.trim_start_matches("::").to_owned())
        .collect();
    listed.sort();
    let mut found: Vec<String> = files.iter().map(|file| file.path.to_string()).collect();
    found.sort();
    assert_eq!(found, listed);
    let mut most_fragments = 0;
    for file in &files {
        let (fragments, ours) = content(directory, file);
        most_fragments = most_fragments.max(fragments);
        let _ = fs::remove_file(directory.join("out"));
        mtools(directory, "mcopy", &[&format!("::{}", file.path), "out"]);
        assert_eq!(ours, fs::read(directory.join("out")).unwrap(), "{}", file.path);
    }
    assert!(most_fragments > 5, "nothing is in fragments: {most_fragments}");
}

fn damage_is_what_fsck_finds() {
    let scratch = TempDir::new().unwrap();
    let directory = scratch.path();
    let path = directory.join("image");
    fs::File::create(&path).unwrap().set_len(20 << 20).unwrap();
    succeed(harness::program("mkfs.vfat").args(["-F", "16", "-s", "4", "image"]).current_dir(directory));
    mtools(directory, "mmd", &["::EFI"]);
    fs::write(directory.join("file"), bytes(1, 10 * 2048)).unwrap();
    for name in ["::EFI/a", "::EFI/b"] {
        mtools(directory, "mcopy", &["file", name]);
    }
    // As in '::EFI/a <3-12>'.
    let first = |name: &str| -> u16 {
        let shown = mtools(directory, "mshowfat", &[name]);
        let (_, clusters) = shown.rsplit_once('<').unwrap();
        clusters.split(['-', '>']).next().unwrap().trim().parse().unwrap()
    };
    let (a, b, efi) = (first("::EFI/a"), first("::EFI/b"), first("::EFI"));
    let whole = fs::read(&path).unwrap();
    let sectors = |at: usize| usize::from(u16::from_le_bytes([whole[at], whole[at + 1]]));
    let (table, length) = (512 * sectors(14), 512 * sectors(22));
    // Whether each of the two finds anything: fsck.vfat with what is written by nobody.
    let found = |changes: &[(u16, u16)]| {
        let mut bytes = whole.clone();
        for (cluster, next) in changes {
            for copy in [table, table + length] {
                let at = copy + 2 * usize::from(*cluster);
                bytes[at..at + 2].copy_from_slice(&next.to_le_bytes());
            }
        }
        fs::write(&path, bytes).unwrap();
        let fsck =
            harness::program("fsck.vfat").args(["-n", "image"]).current_dir(directory).output().unwrap();
        let theirs = match fsck.status.code() {
            Some(0) => false,
            Some(1) => true,
            _ => panic!("{fsck:?}"),
        };
        let ours = contents(directory).problems;
        assert_eq!(!ours.is_empty(), theirs, "{changes:?}: {ours:?}, {fsck:?}");
        ours.iter()
            .map(|problem| format!("{}: {}", problem.path, problem.error))
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert_eq!(found(&[]), "");
    for (changes, words) in [
        (vec![(a + 2, a)], "/EFI/a: expected a chain of clusters that ends"),
        (vec![(a, b + 5)], "expected clusters of its own"),
        (vec![(a, 0)], "/EFI/a: expected each of its clusters"),
        (vec![(a, 0xfff7)], "/EFI/a: expected each of its clusters"),
        (vec![(a, 0xfff0)], "/EFI/a: expected each of its clusters"),
        (vec![(a + 3, 0xffff)], "/EFI/a: expected 10 clusters for its size, found 4"),
        (vec![(efi, efi)], "/EFI: expected a chain of clusters that ends"),
        (vec![(efi, a)], "expected clusters of its own"),
    ] {
        let said = found(&changes);
        assert!(said.contains(words), "{changes:?}: {said}");
    }
}
