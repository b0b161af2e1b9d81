use super::*;
use crate::format::sparse::SparseBytes;

/// What a probe reads of a real file system: see `tests/data/superblocks/make.py`.
pub(super) struct Fixture {
    length: u64,
    blkid: String,
    rows: Vec<(u64, Vec<u8>)>,
    bytes: SparseBytes,
}

macro_rules! fixtures {
    ($($name:literal)*) => {
        /// All fixtures by name.
        const FIXTURES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../tests/data/superblocks/", $name, ".sparse")))),*];
    };
}

fixtures! {
    "bcache" "btrfs" "cramfs" "erofs" "erofs-lz4" "exfat" "ext2" "ext3" "ext4" "ext4-1k" "ext4-15t" "ext4-32bit" "ext4-bigalloc"
    "ext4-no-journal" "f2fs" "fat12" "fat16" "fat32" "fat32-4k" "gpt" "iso9660" "jbd" "luks1" "luks2" "luks2-pbkdf2"
    "lvm2" "md-0.90" "md-1.0" "md-1.1" "md-1.2" "ntfs" "squashfs" "squashfs-zstd-1m" "swap" "swap-64k" "udf" "verity"
    "xfs" "xfs-4k" "xfs-v4"
}

impl Fixture {
    pub(super) fn load(name: &str) -> Self {
        let (_, text) = FIXTURES.iter().find(|(known, _)| *known == name).unwrap();
        let mut lines = text.lines();
        let length = lines.next().unwrap().strip_prefix("length ").unwrap().parse().unwrap();
        let blkid = lines.next().unwrap().strip_prefix("blkid ").unwrap().to_owned();
        let rows = lines
            .map(|line| {
                let (offset, hex) = line.split_once(' ').unwrap();
                (offset.parse().unwrap(), data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap())
            })
            .collect();
        Self { length, blkid, rows, bytes: SparseBytes::new() }.reread()
    }

    /// With other bytes at `offset`.
    pub(super) fn patched(mut self, offset: usize, patch: &[u8]) -> Self {
        self.rows.push((u64::try_from(offset).unwrap(), patch.to_vec()));
        self.reread()
    }

    /// In a partition of another length.
    pub(super) fn resized(mut self, length: u64) -> Self {
        self.length = length;
        self.reread()
    }

    /// Another fixture's bytes on top.
    fn with(mut self, other: &Self) -> Self {
        self.rows.extend(other.rows.iter().cloned());
        self.reread()
    }

    /// Reads what a probe asks for, and nothing else.
    fn reread(mut self) -> Self {
        self.bytes = SparseBytes::new();
        for extent in probe_extents(ByteLength::new(self.length)) {
            self.bytes.insert(extent.start(), &self.all(extent));
        }
        self
    }

    /// The bytes of an extent, whether a probe asks for them or not.
    pub(super) fn all(&self, extent: Extent) -> Vec<u8> {
        let mut bytes = vec![0; extent.length().in_memory().unwrap()];
        let start = extent.start().bytes();
        for (offset, row) in &self.rows {
            for (index, byte) in (*offset..).zip(row) {
                if let Some(place) =
                    index.checked_sub(start).and_then(|at| bytes.get_mut(usize::try_from(at).unwrap()))
                {
                    *place = *byte;
                }
            }
        }
        bytes
    }

    pub(super) fn window(&self) -> Window<'_> {
        Window::new(&self.bytes, Extent::from_beginning(ByteLength::new(self.length)))
    }

    fn probe(&self) -> Vec<Superblock> {
        probe(&self.window())
    }

    fn only(&self) -> Superblock {
        let mut found = self.probe();
        assert_eq!(found.len(), 1, "{} and {found:?}", self.blkid);
        found.remove(0)
    }
}

#[test]
fn everything_is_what_libblkid_says_it_is_and_nothing_else() {
    for (name, _) in FIXTURES {
        let fixture = Fixture::load(name);
        let found = fixture.only();
        let blkid = fixture.blkid.split(' ').next().unwrap();
        assert_eq!(found.kind.as_str(), blkid, "{name}");
        assert_ne!(found.checksum, SuperblockChecksum::Invalid, "{name}");
    }
}

#[test]
fn what_was_read_besides_makes_no_difference() {
    // An EROFS of 16 KiB blocks with a checksum, and an XFS of 32 KiB sectors: both cover more than a probe reads.
    let erofs = Fixture::load("erofs").patched(1024 + 8, &[1, 0, 0, 0, 14]);
    let xfs = Fixture::load("xfs-4k").patched(102, &[0x80, 0]).patched(121, &[15]);
    for mut fixture in FIXTURES.iter().map(|(name, _)| Fixture::load(name)).chain([erofs, xfs]) {
        let found = fixture.probe();
        assert!(!found.is_empty(), "{}", fixture.blkid);
        let beginning = Extent::from_beginning(ByteLength::new(fixture.length.min(128 << 10)));
        fixture.bytes.insert(ByteOffset::ZERO, &fixture.all(beginning));
        assert_eq!(fixture.probe(), found, "{}", fixture.blkid);
    }
}

#[test]
fn sizes_are_what_was_made() {
    for (name, size) in [
        ("btrfs", 128 << 20),
        ("cramfs", 4096),
        ("erofs", 36864),
        ("erofs-lz4", 8192),
        ("ext2", 4 << 20),
        ("ext3", 16 << 20),
        ("ext4", 16 << 20),
        ("ext4-1k", 4 << 20),
        ("ext4-15t", 15 << 40),
        ("ext4-32bit", 16 << 20),
        ("ext4-bigalloc", 16 << 20),
        ("f2fs", 64 << 20),
        ("fat12", 2 << 20),
        ("fat32", 64 << 20),
        ("swap", 1 << 20),
        ("swap-64k", 4 << 20),
        ("xfs", 320 << 20),
        ("xfs-4k", 320 << 20),
        ("xfs-v4", 320 << 20),
    ] {
        assert_eq!(Fixture::load(name).only().size, Some(ByteLength::new(size)), "{name}");
    }
    let squashfs = Fixture::load("squashfs").only().size.unwrap();
    assert!((96..=4096).contains(&squashfs.bytes()), "{squashfs}");
    for name in ["luks1", "luks2", "md-1.2", "verity", "lvm2"] {
        assert_eq!(Fixture::load(name).only().size, None, "{name}");
    }
}

#[test]
fn checksums_are_checked_where_a_probe_can() {
    for (name, offset) in
        [("ext4", 1024 + 120), ("ext4-15t", 1024 + 120), ("xfs", 108), ("xfs-4k", 108), ("erofs", 1024 + 64)]
    {
        let fixture = Fixture::load(name);
        let kind = fixture.only().kind;
        assert_eq!(fixture.only().checksum, SuperblockChecksum::Valid, "{name}");
        let damaged = fixture.patched(offset, b"\xaa\x55").only();
        assert_eq!(damaged.kind, kind, "{name}");
        assert_eq!(damaged.checksum, SuperblockChecksum::Invalid, "{name}");
    }
}

#[test]
fn a_probe_reads_little_in_order_and_within_the_partition() {
    for length in
        [0, 1, 511, 512, 4096, 4607, 4608, 8192, 65536, 70000, 131_072, 1 << 20, (1 << 40) + 12345, u64::MAX]
    {
        let extents = probe_extents(ByteLength::new(length));
        assert!(extents.iter().map(|extent| extent.length().bytes()).sum::<u64>() <= 8192, "{length}");
        assert!(
            extents.iter().all(|extent| !extent.is_empty() && extent.end().bytes() <= length),
            "{length}"
        );
        assert!(extents.windows(2).all(|pair| pair[0].end() <= pair[1].start()), "{length}");
    }
    assert!(probe_extents(ByteLength::ZERO).is_empty());
}

#[test]
fn md_versions_are_told_apart() {
    for (name, version) in [
        ("md-0.90", MdVersion::V0_90),
        ("md-1.0", MdVersion::V1_0),
        ("md-1.1", MdVersion::V1_1),
        ("md-1.2", MdVersion::V1_2),
    ] {
        assert_eq!(Fixture::load(name).only().kind, SuperblockKind::Foreign(ForeignKind::MdRaid(version)));
    }
}

#[test]
fn two_superblocks_in_one_partition_are_both_found() {
    for (below, above, kinds) in [
        ("fat32", "ext4", ["ext4", "vfat"]),
        ("squashfs", "ext4", ["squashfs", "ext4"]),
        ("squashfs", "btrfs", ["squashfs", "btrfs"]),
        ("luks2", "btrfs", ["crypto_LUKS", "btrfs"]),
        ("fat32", "iso9660", ["vfat", "iso9660"]),
        ("ext4", "lvm2", ["ext4", "LVM2_member"]),
        ("fat16", "gpt", ["vfat", "gpt"]),
        ("verity", "swap", ["DM_verity_hash", "swap"]),
    ] {
        let below = Fixture::load(below);
        // The backup of a table and a RAID's end depend on the length, which is that of the one below.
        let found: Vec<_> = below.resized(512 << 20).with(&Fixture::load(above)).probe();
        let found: Vec<_> = found.iter().map(|superblock| superblock.kind.as_str()).collect();
        assert_eq!(found, kinds);
    }
}

#[test]
fn a_suspended_system_is_not_swap() {
    for magic in [&b"S1SUSPEND\0"[..], b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"] {
        let suspended = Fixture::load("swap").patched(4086, magic);
        assert_eq!(suspended.only().kind, SuperblockKind::Foreign(ForeignKind::HibernationImage));
    }
    let old = Fixture::load("swap").patched(4086, b"SWAP-SPACE").only();
    assert_eq!((old.kind, old.size), (SuperblockKind::Swap, None));
}

#[test]
fn other_names_for_foreign_things_are_known() {
    let magic =
        [0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef];
    for (name, offset, patch, kind) in [
        ("bcache", 4096 + 24, &magic[..], ForeignKind::Bcachefs),
        ("ntfs", 3, b"-FVE-FS-", ForeignKind::BitLocker),
        ("iso9660", 32768, b"\0\0\0\0\0\0\0\0\x01CDROM", ForeignKind::Iso9660),
        ("udf", 32769, b"NSR03", ForeignKind::Udf),
        // The same table with nothing but its backup header, in the last sector.
        ("gpt", 512, &[0; 8], ForeignKind::Gpt),
    ] {
        assert_eq!(
            Fixture::load(name).patched(offset, patch).only().kind,
            SuperblockKind::Foreign(kind),
            "{name}"
        );
    }
}

#[test]
fn a_magic_with_insane_fields_behind_it_is_not_a_superblock() {
    for (name, offset, patch) in [
        ("squashfs", 28, &[3, 0][..]),
        ("squashfs", 22, &[40, 0]),
        ("squashfs", 12, &[1, 0, 2, 0]),
        ("squashfs", 40, &[0; 8]),
        ("xfs", 4, &[0; 4]),
        ("xfs", 8, &[0; 8]),
        ("xfs", 8, &[0xff; 8]),
        ("xfs", 88, &[0; 4]),
        ("xfs", 120, &[255]),
        ("xfs", 102, &[0, 0]),
        ("ext4", 1024 + 4, &[0; 4]),
        ("ext4", 1024, &[0; 4]),
        ("ext4", 1024 + 24, &[7, 0, 0, 0]),
        ("ext4", 1024 + 40, &[0; 4]),
        ("ext4", 1024 + 40, &[0xff; 4]),
        ("ext4", 1024 + 32, &[0; 4]),
        ("ext4", 1024 + 32, &[0xff; 4]),
        ("ext4-bigalloc", 1024 + 36, &[0; 4]),
        ("ext4", 1024 + 76, &[2, 0, 0, 0]),
        ("erofs", 1024 + 12, &[8]),
        ("erofs", 1024 + 12, &[17]),
        ("erofs", 1024 + 36, &[0; 4]),
        ("f2fs", 1024 + 16, &[31, 0, 0, 0]),
        ("f2fs", 1024 + 12, &[0; 4]),
        ("f2fs", 1024 + 36, &[0; 8]),
        ("btrfs", 65536 + 48, &[0; 8]),
        ("btrfs", 65536 + 112, &[0; 8]),
        ("btrfs", 65536 + 144, &[1, 16, 0, 0]),
        ("btrfs", 65536 + 148, &[0, 0, 2, 0]),
        ("swap", 1024, &[2, 0, 0, 0]),
        ("lvm2", 512 + 24, b"LVM1"),
        ("cramfs", 16, b"x"),
        ("md-1.2", 4096 + 144, &[9]),
        ("md-1.2", 4096 + 4, &[2]),
    ] {
        assert_eq!(Fixture::load(name).patched(offset, patch).probe(), [], "{name} {offset}");
    }
}

#[test]
fn a_size_beyond_64_bits_never_looks_small() {
    for (name, offset, patch) in [
        ("f2fs", 1024 + 36, &[0xff; 8][..]),
        ("squashfs", 40, &[0xff; 8]),
        ("btrfs", 65536 + 112, &[0xff; 8]),
        ("ext4", 1024 + 0x150, &[0xff; 4]),
    ] {
        let size = Fixture::load(name).patched(offset, patch).only().size;
        assert_eq!(size, Some(ByteLength::new(u64::MAX)), "{name}");
    }
    // 48-bit addresses of EROFS: the upper half counts only with the feature.
    let erofs = Fixture::load("erofs").patched(1024 + 14, &[1, 0]);
    assert_eq!(erofs.only().size, Some(ByteLength::new(36864)));
    let erofs = erofs.patched(1024 + 80, &[0x80, 0, 0, 0]);
    assert_eq!(erofs.only().size, Some(ByteLength::new((1 << 44) + 36864)));
}

#[test]
fn what_was_not_read_or_is_not_there_is_not_found() {
    let nothing = SparseBytes::new();
    let window = Window::new(&nothing, Extent::from_beginning(ByteLength::new(1 << 30)));
    assert_eq!(probe(&window), []);
    for (name, _) in FIXTURES {
        for length in [0, 1, 5] {
            assert_eq!(Fixture::load(name).resized(length).probe(), [], "{name}");
        }
    }
}

#[test]
fn names_of_file_systems_are_exact() {
    for file_system in FileSystem::ALL {
        assert_eq!(file_system.as_str().parse(), Ok(file_system));
    }
    for text in ["", "ext3", "Ext4", "vfat ", "fat", "msdos"] {
        assert_eq!(text.parse::<FileSystem>(), Err(UnknownFileSystem(text.to_owned())));
    }
    assert!(FileSystem::Squashfs.is_read_only() && FileSystem::Erofs.is_read_only());
    assert!(!FileSystem::Ext4.is_read_only());
}

proptest::proptest! {
    #[test]
    fn random_bytes_are_probed_in_peace(
        seed in proptest::collection::vec(proptest::prelude::any::<u8>(), 4608),
        choice in 0..FIXTURES.len(),
        at in 0..4500_usize,
    ) {
        // A real superblock with random bytes over a random part of it: any answer is good, a panic is not.
        let (name, _) = FIXTURES[choice];
        let fixture = Fixture::load(name).patched(at, &seed[..at.min(64)]);
        fixture.probe();
        let _ = Vfat::parse(&fixture.window());
        let _ = Luks2Metadata::parse_json(&seed);
    }
}
