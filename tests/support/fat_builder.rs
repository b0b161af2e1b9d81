//! FAT file systems in memory, with files in them, and what one may do to them that no tool does. What real tools make is
//! read by the tests of the tier `host`.

use std::collections::BTreeMap;

/// The size of sectors, and of clusters, in bytes.
pub const CLUSTER: usize = 512;

/// Where the file allocation table begins.
const TABLE: usize = CLUSTER;

/// A file system with 12, 16 or 32 bits an entry.
#[derive(Debug, Clone)]
pub struct Fat {
    pub bytes: Vec<u8>,
    bits: usize,
    /// Where cluster 2 lies.
    area: usize,
    clusters: usize,
    next: usize,
    step: usize,
    /// The first cluster of each directory; 0 for a root directory with an area of its own.
    directories: BTreeMap<String, usize>,
}

fn le(bytes: &mut [u8], at: usize, length: usize, value: usize) {
    bytes[at..at + length].copy_from_slice(&u64::try_from(value).unwrap().to_le_bytes()[..length]);
}

impl Fat {
    /// An empty one of the smallest number of clusters that makes one of these bits, and some room.
    pub fn new(bits: usize) -> Self {
        let clusters = match bits {
            12 => 1000,
            16 => 5000,
            _ => 300,
        };
        let table_sectors = ((clusters + 2) * bits).div_ceil(8).div_ceil(CLUSTER);
        let root_entries = if bits == 32 { 0 } else { 64 };
        let area = TABLE + table_sectors * CLUSTER + root_entries * 32;
        let mut bytes = vec![0; area + clusters * CLUSTER];
        bytes[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
        let sectors = bytes.len() / CLUSTER;
        for (at, length, value) in [
            (11, 2, CLUSTER),
            (13, 1, 1),
            (14, 2, 1),
            (16, 1, 1),
            (17, 2, root_entries),
            (21, 1, 0xf8),
            (22, 2, if bits == 32 { 0 } else { table_sectors }),
            (32, 4, sectors),
            (510, 2, 0xaa55),
        ] {
            le(&mut bytes, at, length, value);
        }
        if bits == 32 {
            le(&mut bytes, 36, 4, table_sectors);
            le(&mut bytes, 44, 4, 2);
        }
        let mut fat = Self { bytes, bits, area, clusters, next: 2, step: 1, directories: BTreeMap::new() };
        let root = if bits == 32 { fat.allocate(&[0; CLUSTER]) } else { 0 };
        fat.directories.insert(String::new(), root);
        fat
    }

    /// From here on, files take every second cluster alone.
    pub fn fragmented(mut self) -> Self {
        self.step = 2;
        self
    }

    /// With a file, and the directories that it lies in.
    pub fn with(mut self, path: &str, content: &[u8]) -> Self {
        let first = if content.is_empty() { 0 } else { self.allocate(content) };
        self.entry(path, 0x20, first, content.len());
        self
    }

    /// An entry for a file or directory that begins at some cluster, whatever lies there.
    pub fn entry(&mut self, path: &str, attributes: u8, first: usize, size: usize) {
        let (directory, name) = path.rsplit_once('/').unwrap();
        let number = self.directory(directory);
        let mut entries = long_name(name, number, self.next);
        let short = entries.last_mut().unwrap();
        short[11] = attributes;
        le(short, 20, 2, first >> 16);
        le(short, 26, 2, first & 0xffff);
        le(short, 28, 4, size);
        self.append(number, &entries.concat());
    }

    /// The first cluster of a directory, which is made where it is not there.
    pub fn directory(&mut self, path: &str) -> usize {
        if let Some(first) = self.directories.get(path) {
            return *first;
        }
        let first = self.allocate(&[0; CLUSTER]);
        self.directories.insert(path.to_owned(), first);
        for name in [&b".          "[..], b"..         "] {
            let mut dot = [0; 32];
            dot[..11].copy_from_slice(name);
            dot[11] = 0x10;
            self.append(first, &dot);
        }
        self.entry(path, 0x10, first, 0);
        first
    }

    /// The entry of a cluster in the table.
    pub fn set(&mut self, cluster: usize, value: usize) {
        match self.bits {
            12 => {
                let at = TABLE + cluster + cluster / 2;
                let old = usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]));
                let new = if cluster.is_multiple_of(2) {
                    old & 0xf000 | value & 0xfff
                } else {
                    old & 0xf | (value & 0xfff) << 4
                };
                le(&mut self.bytes, at, 2, new);
            }
            bits => {
                le(&mut self.bytes, TABLE + cluster * bits / 8, bits / 8, value & (usize::MAX >> (64 - bits)))
            }
        }
    }

    /// The clusters that follow a first one, it among them.
    pub fn chain(&self, first: usize) -> Vec<usize> {
        let mut chain = vec![first];
        loop {
            let cluster = *chain.last().unwrap();
            let at = TABLE + cluster * self.bits / 8;
            let mut entry = [0; 8];
            let length = self.bits.div_ceil(8);
            entry[..length].copy_from_slice(&self.bytes[at..at + length]);
            let entry = usize::try_from(u64::from_le_bytes(entry)).unwrap();
            let next = match self.bits {
                12 if cluster.is_multiple_of(2) => entry & 0xfff,
                12 => entry >> 4,
                _ => entry,
            };
            if !(2..self.clusters + 2).contains(&next) {
                return chain;
            }
            chain.push(next);
        }
    }

    /// The cluster that the next file begins with.
    pub fn next_cluster(&self) -> usize {
        self.next
    }

    fn place(&self, cluster: usize) -> usize {
        self.area + (cluster - 2) * CLUSTER
    }

    fn allocate(&mut self, content: &[u8]) -> usize {
        let first = self.next;
        let pieces = content.chunks(CLUSTER).collect::<Vec<_>>();
        for (index, piece) in pieces.iter().enumerate() {
            let cluster = self.next;
            assert!(cluster < self.clusters + 2, "the file system is full");
            let place = self.place(cluster);
            self.bytes[place..place + piece.len()].copy_from_slice(piece);
            self.next += self.step;
            let is_last = index + 1 == pieces.len();
            self.set(cluster, if is_last { usize::MAX >> 36 } else { self.next });
        }
        first
    }

    /// Entries behind those of a directory, which grows by clusters.
    fn append(&mut self, directory: usize, entries: &[u8]) {
        for entry in entries.chunks(32) {
            let areas: Vec<(usize, usize)> = match directory {
                0 => vec![(self.area - 64 * 32, 64 * 32)],
                first => {
                    self.chain(first).into_iter().map(|cluster| (self.place(cluster), CLUSTER)).collect()
                }
            };
            let free = areas
                .iter()
                .flat_map(|(start, length)| (*start..start + length).step_by(32))
                .find(|at| self.bytes[*at] == 0);
            let at = free.unwrap_or_else(|| {
                let last = *self.chain(directory).last().unwrap();
                let more = self.allocate(&[0; CLUSTER]);
                self.set(last, more);
                self.place(more)
            });
            self.bytes[at..at + 32].copy_from_slice(entry);
        }
    }
}

/// The entries of a name: its parts, last first, then a short one that nobody else in the directory has.
fn long_name(name: &str, directory: usize, number: usize) -> Vec<[u8; 32]> {
    let mut short = [b' '; 11];
    let is_short = |part: &str, most| {
        part.len() <= most && part.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let mut entries = Vec::new();
    if is_short(base, 8) && is_short(extension, 3) {
        short[..base.len()].copy_from_slice(base.as_bytes());
        short[8..8 + extension.len()].copy_from_slice(extension.as_bytes());
    } else {
        short[..8].copy_from_slice(format!("{directory:04}{number:04}").as_bytes());
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let mut units: Vec<u16> = name.encode_utf16().collect();
        if !units.len().is_multiple_of(13) {
            units.push(0);
        }
        units.resize(units.len().next_multiple_of(13), 0xffff);
        for (index, part) in units.chunks(13).enumerate().rev() {
            let last = if (index + 1) * 13 == units.len() { 0x40 } else { 0 };
            let mut entry = [0; 32];
            entry[0] = u8::try_from(index + 1).unwrap() | last;
            (entry[11], entry[13]) = (0x0f, sum);
            let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
            for (unit, at) in part.iter().zip(places) {
                entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            entries.push(entry);
        }
    }
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(&short);
    entries.push(entry);
    entries
}
