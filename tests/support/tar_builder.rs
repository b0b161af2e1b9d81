//! Tar archives, made in memory byte by byte: sound ones, and what no tar writes.

#![allow(dead_code, reason = "no file that uses this one uses all of it")]

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct TarBuilder {
    bytes: Vec<u8>,
}

/// The header of a member. What is not said is as of an empty file of root's.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) modified: u64,
    /// The twelve bytes of the size, where they are not those of the contents.
    pub(crate) size: Option<&'a [u8]>,
    pub(crate) link: &'a [u8],
    pub(crate) device: (u32, u32),
    pub(crate) contents: &'a [u8],
    pub(crate) magic: &'a [u8; 8],
    /// Further fields: where they begin, and what is there.
    pub(crate) fields: &'a [(usize, &'a [u8])],
}

pub(crate) const POSIX: &[u8; 8] = b"ustar\x0000";
pub(crate) const GNU: &[u8; 8] = b"ustar  \0";

impl<'a> Entry<'a> {
    pub(crate) fn new(name: &'a str, flag: u8) -> Self {
        Self {
            name: name.as_bytes(),
            flag,
            mode: 0o644,
            user: 0,
            group: 0,
            modified: 1_700_000_000,
            size: None,
            link: b"",
            device: (0, 0),
            contents: b"",
            magic: POSIX,
            fields: &[],
        }
    }

    /// The header block.
    pub(crate) fn header(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put =
            |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, self.name.get(..100).unwrap_or(self.name));
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.user).as_bytes());
        put(116, format!("{:07o}\0", self.group).as_bytes());
        put(124, format!("{:011o}\0", self.contents.len()).as_bytes());
        put(136, format!("{:011o}\0", self.modified).as_bytes());
        put(156, &[self.flag]);
        put(157, self.link.get(..100).unwrap_or(self.link));
        put(257, self.magic);
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        if let Some(size) = self.size {
            put(124, size);
        }
        for (offset, bytes) in self.fields {
            put(*offset, bytes);
        }
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl TarBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A member of any kind.
    pub(crate) fn entry(mut self, entry: &Entry<'_>) -> Self {
        self.bytes.extend(entry.header());
        self.contents(entry.contents)
    }

    /// A file.
    pub(crate) fn file(self, name: &str, contents: &[u8]) -> Self {
        self.entry(&Entry { contents, ..Entry::new(name, b'0') })
    }

    /// A directory.
    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(&Entry { mode: 0o755, ..Entry::new(name, b'5') })
    }

    /// A symbolic link.
    pub(crate) fn symbolic_link(self, name: &str, target: &str) -> Self {
        self.entry(&Entry { mode: 0o777, link: target.as_bytes(), ..Entry::new(name, b'2') })
    }

    /// A hard link.
    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(&Entry { link: target.as_bytes(), ..Entry::new(name, b'1') })
    }

    /// Records about the next member.
    pub(crate) fn records(self, records: &[(&str, &[u8])]) -> Self {
        let contents: Vec<u8> = records.iter().flat_map(|(keyword, value)| record(keyword, value)).collect();
        self.entry(&Entry { contents: &contents, ..Entry::new("PaxHeaders/x", b'x') })
    }

    /// Records about all members that follow.
    pub(crate) fn global(self, records: &[(&str, &[u8])]) -> Self {
        let contents: Vec<u8> = records.iter().flat_map(|(keyword, value)| record(keyword, value)).collect();
        self.entry(&Entry { contents: &contents, ..Entry::new("pax_global_header", b'g') })
    }

    /// A long name (`L`) or a long target of a link (`K`) in the manner of GNU tar.
    pub(crate) fn long(self, flag: u8, name: &[u8]) -> Self {
        let contents = [name, b"\0"].concat();
        self.entry(&Entry { contents: &contents, magic: GNU, ..Entry::new("././@LongLink", flag) })
    }

    /// Bytes as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Contents, filled up to a whole block.
    pub(crate) fn contents(mut self, contents: &[u8]) -> Self {
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// What there is so far, without an end.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    /// The archive with its end.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }
}

/// A record of pax with the right length in front.
pub(crate) fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let bare = keyword.len() + value.len() + 3;
    let length = (1..).map(|digits| bare + digits).find(|all| all.to_string().len() + bare == *all).unwrap();
    [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
}
