//! File systems that were really in use, with what the kernel did with each: `tests/data/recovery`, made by the scripts
//! there.

macro_rules! fixtures {
    ($($name:literal)*) => {
        /// All of them, by name.
        pub(crate) const FIXTURES: [(&str, &str); 15] =
            [$(($name, include_str!(concat!("../data/recovery/", $name, ".sparse")))),*];
    };
}

fixtures! {
    "btrfs-dirty" "btrfs-used" "ext4-dirty" "ext4-orphan" "ext4-used" "xfs-dirty" "xfs-fresh" "xfs-frozen" "xfs-stripe-dirty"
    "xfs-stripe-used" "xfs-used" "xfs-v4-dirty" "xfs-v4-used" "xfs-wrapped-dirty" "xfs-wrapped-used"
}

/// What of a file system a reader of superblocks and logs looks at, by its place.
pub(crate) struct UsedImage {
    pub(crate) length: u64,
    /// Whether the kernel mounts it from a device that it may not write to.
    pub(crate) mounts: bool,
    rows: Vec<(u64, Vec<u8>)>,
}

impl UsedImage {
    pub(crate) fn load(name: &str) -> Self {
        let (_, text) = FIXTURES.iter().find(|(known, _)| *known == name).unwrap();
        let mut lines = text.lines();
        let length = lines.next().unwrap().strip_prefix("length ").unwrap().parse().unwrap();
        let mounts = lines.next().unwrap() == "kernel mounts";
        let mut rows = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let decode = |hex: &str| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            match words[..] {
                ["each", offset, count, hex] => {
                    let offset: u64 = offset.parse().unwrap();
                    let blocks = 0..count.parse().unwrap();
                    rows.extend(blocks.map(|block: u64| (offset + block * 512, decode(hex))));
                }
                [offset, hex] => rows.push((offset.parse().unwrap(), decode(hex))),
                _ => panic!("{line}"),
            }
        }
        Self { length, mounts, rows }
    }

    /// With other bytes at `offset`.
    pub(crate) fn patched(mut self, offset: u64, patch: &[u8]) -> Self {
        self.rows.push((offset, patch.to_vec()));
        self
    }

    /// The bytes from `start` on.
    pub(crate) fn read(&self, start: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let end = start + u64::try_from(length).unwrap();
        for (offset, row) in self.rows.iter().filter(|(offset, _)| *offset < end && offset + 512 > start) {
            for (at, byte) in (*offset..).zip(row).filter(|(at, _)| (start..end).contains(at)) {
                bytes[usize::try_from(at - start).unwrap()] = *byte;
            }
        }
        bytes
    }
}
