//! Compressed files: what the first bytes of a file, and of each member of a compressed one, say.
//!
//! A compressed file is a run of members that can be decompressed one by one: `cat` of two such files is one whose
//! content is that of both. A member is what gzip calls so, a stream of xz and bzip2, a frame of Zstandard and LZ4.
//! Only the outermost layer counts: a compressed file in a compressed file is what it is.

pub mod lz4;
pub mod xz;
pub mod zstd;

use std::fmt;

use super::qcow2;

/// How many bytes of a file, or what there is of it, tell its encoding and what a member of it needs.
pub const BEGINNING: usize = 32;

/// How the bytes of an image are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Compressed as a whole.
    Compressed(Compression),
    /// A copy-on-write image of QEMU, which has to be converted.
    Qcow2,
    /// As they are. So is everything that has none of the magics.
    Raw,
}

impl Encoding {
    /// What a file is that begins with these bytes, [`BEGINNING`] of them or the whole file.
    #[must_use]
    pub fn recognise(beginning: &[u8]) -> Self {
        if beginning.starts_with(&qcow2::MAGIC) {
            return Self::Qcow2;
        }
        Compression::recognise(beginning).map_or(Self::Raw, Self::Compressed)
    }

    /// The endings of file names that a file with this encoding has, beside the one for what is encoded.
    #[must_use]
    pub const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Compressed(Compression::Bzip2) => &[".bz2"],
            Self::Compressed(Compression::Gzip) => &[".gz"],
            Self::Compressed(Compression::Lz4) => &[".lz4"],
            Self::Compressed(Compression::Xz) => &[".xz"],
            Self::Compressed(Compression::Zstd) => &[".zst"],
            Self::Qcow2 => &[".qcow2"],
            Self::Raw => &[],
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed(compression) => compression.fmt(f),
            Self::Qcow2 => f.pad("qcow2"),
            Self::Raw => f.pad("raw"),
        }
    }
}

/// A format of compressed files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// bzip2.
    Bzip2,
    /// gzip (RFC 1952).
    Gzip,
    /// LZ4 frames (LZ4 Frame Format 1.6.4).
    Lz4,
    /// xz (The .xz File Format 1.2.1).
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Bzip2, Self::Gzip, Self::Lz4, Self::Xz, Self::Zstd];

    /// The format of a file that begins with these bytes, [`BEGINNING`] of them or the whole file.
    ///
    /// Frames to be skipped are common to LZ4 and Zstandard; what comes behind them decides. Where that is not seen it
    /// is Zstandard, whose parallel compressors begin with one.
    #[must_use]
    pub fn recognise(beginning: &[u8]) -> Option<Self> {
        let mut rest = beginning;
        while let Some(length) = skippable_length(rest) {
            let behind = usize::try_from(length).ok().and_then(|length| rest.get(length..));
            match behind {
                Some(behind) if !behind.is_empty() => rest = behind,
                _ => return Some(Self::Zstd),
            }
        }
        let skipped = rest.len() < beginning.len();
        let found = Self::ALL.into_iter().find(|compression| compression.begins_member(rest));
        match found {
            Some(Self::Lz4 | Self::Zstd) => found,
            _ if skipped => Some(Self::Zstd),
            _ => found,
        }
    }

    /// The name that people and its tool have for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// What may stand between the members of a file and behind the last one.
    #[must_use]
    pub const fn padding(self) -> Padding {
        match self {
            // gzip(1) takes zeros up to the end of the file for what a tape was filled with.
            Self::Gzip => Padding::ZerosAtEnd,
            // The .xz File Format, 2.2.
            Self::Xz => Padding::ZerosByFour,
            Self::Bzip2 | Self::Lz4 | Self::Zstd => Padding::None,
        }
    }

    /// What stands where a member can begin.
    ///
    /// # Errors
    /// [`MemberFault`] where it is a member that is not decompressed whatever its data.
    pub fn member(self, beginning: &[u8]) -> Result<Member, MemberFault> {
        if matches!(self, Self::Lz4 | Self::Zstd)
            && let Some(length) = skippable_length(beginning)
        {
            return Ok(Member::Skippable { length });
        }
        if !self.begins_member(beginning) {
            return Ok(Member::None);
        }
        match self {
            Self::Bzip2 | Self::Gzip => Ok(Member::Begins { content: None }),
            Self::Xz => xz::examine(beginning),
            Self::Zstd => zstd::FrameHeader::parse(beginning).map_or(
                // Cut short: whoever reads on sees the end of the file.
                Ok(Member::Begins { content: None }),
                |header| header.examine(),
            ),
            Self::Lz4 => lz4::examine(beginning),
        }
    }

    fn begins_member(self, beginning: &[u8]) -> bool {
        match self {
            Self::Bzip2 => beginning.starts_with(b"BZh") && matches!(beginning.get(3), Some(b'1'..=b'9')),
            // The one compression method that was ever defined (RFC 1952, 2.3.1).
            Self::Gzip => beginning.starts_with(b"\x1f\x8b\x08"),
            Self::Lz4 => beginning.starts_with(&lz4::MAGIC) || beginning.starts_with(&lz4::LEGACY_MAGIC),
            Self::Xz => beginning.starts_with(&xz::MAGIC),
            Self::Zstd => beginning.starts_with(&zstd::MAGIC),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What may stand between members and behind the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Nothing.
    None,
    /// Zeros up to the end of the file.
    ZerosAtEnd,
    /// Zeros, a multiple of four.
    ZerosByFour,
}

/// What stands where a member can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// A member.
    Begins {
        /// How many bytes it says it holds.
        content: Option<u64>,
    },
    /// Something else.
    None,
    /// A frame without content for us.
    Skippable {
        /// How long it is with its header, in bytes.
        length: u64,
    },
}

/// Why a member is not decompressed, whatever its data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberFault {
    /// It can only be read with a dictionary that is not in the file.
    #[error("it needs dictionary {identifier}, which is not in the file: compress it without a dictionary")]
    Dictionary {
        /// The number of the dictionary.
        identifier: u32,
    },
    /// The frame format of LZ4 before 2012, whose end cannot be told from a file that was cut.
    #[error("it is a legacy lz4 frame, which does not say where it ends: compress it without 'lz4 -l'")]
    Legacy,
    /// A version or a feature that is not defined.
    #[error("{what}: expected {expected}, found {found}")]
    Undefined {
        /// Where that shows.
        what: &'static str,
        /// What is defined.
        expected: &'static str,
        /// What stands there.
        found: u8,
    },
    /// The decoder would have to hold more of the past than it may.
    #[error(
        "its decoder needs a window of {found} bytes, at most {limit} are allowed: compress it without '--long' and \
         '--ultra'"
    )]
    Window {
        /// The window that it wants, in bytes.
        found: u64,
        /// The largest that is allowed.
        limit: u64,
    },
}

/// The length of a skippable frame with its header of eight bytes, if one begins here (RFC 8878, 3.1.2; the same in the
/// LZ4 Frame Format).
fn skippable_length(beginning: &[u8]) -> Option<u64> {
    let (magic, rest) = beginning.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let is_skippable = u32::from_le_bytes(*magic) & !0xf == 0x184d_2a50;
    is_skippable.then(|| u64::from(u32::from_le_bytes(*length)).saturating_add(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_their_first_bytes() {
        for (beginning, expected) in [
            (&b"BZh91AY&SY"[..], Encoding::Compressed(Compression::Bzip2)),
            (b"BZh0", Encoding::Raw),
            (b"BZh", Encoding::Raw),
            (b"\x1f\x8b\x08\0", Encoding::Compressed(Compression::Gzip)),
            (b"\x1f\x8b", Encoding::Raw),
            (b"\x04\x22\x4d\x18", Encoding::Compressed(Compression::Lz4)),
            (b"\x02\x21\x4c\x18", Encoding::Compressed(Compression::Lz4)),
            (b"\xfd7zXZ\0", Encoding::Compressed(Compression::Xz)),
            (b"\xfd7zXZ", Encoding::Raw),
            (b"\x28\xb5\x2f\xfd", Encoding::Compressed(Compression::Zstd)),
            (b"\x50\x2a\x4d\x18\x04\0\0\0sizeMORE", Encoding::Compressed(Compression::Zstd)),
            (b"\x5f\x2a\x4d\x18\0\0\0\0\x04\x22\x4d\x18", Encoding::Compressed(Compression::Lz4)),
            (b"\x5f\x2a\x4d\x18\xff\xff\xff\xff", Encoding::Compressed(Compression::Zstd)),
            (b"\x50\x2a\x4d\x18\0\0\0\0\x1f\x8b\x08\0", Encoding::Compressed(Compression::Zstd)),
            (b"QFI\xfb\0\0\0\x03", Encoding::Qcow2),
            (b"", Encoding::Raw),
            (&[0; 64], Encoding::Raw),
        ] {
            assert_eq!(Encoding::recognise(beginning), expected, "{beginning:x?}");
        }
    }

    #[test]
    fn what_no_decoder_can_read_is_refused_by_name() {
        let fault = |compression: Compression, beginning: &[u8]| {
            compression.member(beginning).expect_err("it is refused").to_string()
        };
        for (compression, beginning, expected) in [
            (Compression::Lz4, &b"\x02\x21\x4c\x18\0\0\0\0"[..], "legacy lz4 frame"),
            (Compression::Lz4, b"\x04\x22\x4d\x18\x61\x40\x07\0\0\0\0", "needs dictionary 7"),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd\x01\x00\x09", "needs dictionary 9"),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd\x00\xa8", "window of 2147483648 bytes, at most 134217728"),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd\x08\x00", "a reserved bit"),
            (
                Compression::Xz,
                b"\xfd7zXZ\0\x00\x02\0\0\0\0",
                "integrity check: expected 0, 1, 4 or 10, found 2",
            ),
            (Compression::Xz, b"\xfd7zXZ\0\x01\x04\0\0\0\0", "stream flags: expected 0, found 1"),
        ] {
            let found = fault(compression, beginning);
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn members_say_what_they_hold() {
        for (compression, beginning, content) in [
            (Compression::Zstd, &b"\x28\xb5\x2f\xfd\x20\x05"[..], Some(5)),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd\x40\x00\x00\x01", Some(512)),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd\x00\x58", None),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd", None),
            (Compression::Lz4, b"\x04\x22\x4d\x18\x68\x40\x01\0\0\0\0\0\0\0\0", Some(1)),
            (Compression::Lz4, b"\x04\x22\x4d\x18\x60\x40\0", None),
            (Compression::Lz4, b"\x04\x22\x4d\x18", None),
            (Compression::Gzip, b"\x1f\x8b\x08\0", None),
            (Compression::Bzip2, b"BZh9", None),
            (Compression::Xz, b"\xfd7zXZ\0\x00\x04\0\0\0\0", None),
        ] {
            assert_eq!(compression.member(beginning), Ok(Member::Begins { content }), "{beginning:x?}");
        }
        assert_eq!(
            Compression::Zstd.member(b"\x50\x2a\x4d\x18\x04\0\0\0"),
            Ok(Member::Skippable { length: 12 })
        );
        assert_eq!(Compression::Gzip.member(b"\x50\x2a\x4d\x18\x04\0\0\0"), Ok(Member::None));
        assert_eq!(Compression::Gzip.member(b""), Ok(Member::None));
    }
}
