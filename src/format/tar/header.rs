//! The header of a member: one block.

use super::number::{signed, unsigned};
use super::sparse::{Segment, read_old_segments};
use super::{BLOCK, SparseFault, TarError};

/// How many bytes a block is that continues the map of a sparse file in the old form of GNU tar.
pub const SPARSE_EXTENSION_LENGTH: usize = BLOCK;

/// What kind of member a header is of (POSIX.1-2024, pax(1), `typeflag`; GNU tar, `tar.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeFlag {
    /// `0`, NUL or `7`: a file. In archives older than POSIX a directory is one with a slash behind its name.
    File,
    /// `1`: another name for a member before.
    HardLink,
    /// `2`: a symbolic link.
    SymbolicLink,
    /// `3`: a character device.
    CharacterDevice,
    /// `4`: a block device.
    BlockDevice,
    /// `5`: a directory.
    Directory,
    /// `6`: a named pipe.
    Fifo,
    /// `x`: records about the next member.
    PaxRecords,
    /// `g`: records about all members that follow.
    GlobalPaxRecords,
    /// `K`: the target of the next member, a link.
    LongLink,
    /// `L`: the name of the next member.
    LongName,
    /// `S`: a file with holes, in the old form of GNU tar.
    SparseFile,
    /// `V`: the name of the archive.
    VolumeLabel,
}

impl TypeFlag {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            b'0' | 0 | b'7' => Self::File,
            b'1' => Self::HardLink,
            b'2' => Self::SymbolicLink,
            b'3' => Self::CharacterDevice,
            b'4' => Self::BlockDevice,
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            b'x' => Self::PaxRecords,
            b'g' => Self::GlobalPaxRecords,
            b'K' => Self::LongLink,
            b'L' => Self::LongName,
            b'S' => Self::SparseFile,
            b'V' => Self::VolumeLabel,
            _ => return None,
        })
    }
}

/// A header as it is written, its checksum checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name, with that of its directory where that has a field of its own.
    pub name: Vec<u8>,
    /// What a link points to.
    pub link_name: Vec<u8>,
    /// The kind of member.
    pub type_flag: TypeFlag,
    /// Permissions: twelve bits.
    pub mode: u32,
    /// The number of the owner.
    pub user: u64,
    /// The number of the group.
    pub group: u64,
    /// How many bytes of contents follow.
    pub size: u64,
    /// When the contents were changed last, in seconds since 1970.
    pub modified: i64,
    /// The driver of a device.
    pub device_major: u64,
    /// Which of its devices.
    pub device_minor: u64,
    /// For a sparse file in the old form: its pieces as far as they are in the header.
    pub segments: Vec<Segment>,
    /// For a sparse file in the old form: its size with the holes.
    pub real_size: u64,
    /// For a sparse file in the old form: whether a block with more pieces follows.
    pub is_extended: bool,
}

impl Header {
    /// Reads a block. One of zeros is `None`: two of them are the end of the archive.
    ///
    /// # Errors
    /// [`TarError::Checksum`], [`TarError::UnknownType`], [`TarError::Number`], [`TarError::Negative`],
    /// [`TarError::Overflow`], [`TarError::Sparse`].
    pub fn parse(block: &[u8; BLOCK]) -> Result<Option<Self>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        check_sum(block)?;
        let field = |offset: usize, length: usize| {
            block.get(offset..).and_then(|rest| rest.get(..length)).unwrap_or_default()
        };
        let flag = block.get(156).copied().unwrap_or_default();
        let type_flag = TypeFlag::of(flag).ok_or(TarError::UnknownType { found: flag })?;
        let is_gnu = field(257, 8) == b"ustar  \0";
        // Archives older than POSIX have no magic, and nothing behind it.
        let is_posix = field(257, 6) == b"ustar\0";
        let prefix = if is_posix { text(field(345, 155)) } else { &[] };
        let (device_major, device_minor) = if is_gnu || is_posix {
            (unsigned("device major", field(329, 8))?, unsigned("device minor", field(337, 8))?)
        } else {
            (0, 0)
        };
        let mut name = prefix.to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(text(field(0, 100)));
        let mut header = Self {
            name,
            link_name: text(field(157, 100)).to_vec(),
            type_flag,
            // Some writers put the type of the file into the bits above.
            mode: u32::try_from(unsigned("mode", field(100, 8))? & 0o7777).unwrap_or_default(),
            user: unsigned("user", field(108, 8))?,
            group: unsigned("group", field(116, 8))?,
            size: unsigned("size", field(124, 12))?,
            modified: i64::try_from(signed("modification time", field(136, 12))?)
                .map_err(|_| TarError::Overflow { field: "modification time" })?,
            device_major,
            device_minor,
            segments: Vec::new(),
            real_size: 0,
            is_extended: false,
        };
        if type_flag == TypeFlag::SparseFile {
            if !is_gnu {
                return Err(
                    SparseFault::Version { found: "an old one that is not of GNU tar".to_owned() }.into()
                );
            }
            header.segments = read_old_segments(field(386, 96))?;
            header.is_extended = block.get(482).is_some_and(|flag| *flag != 0);
            header.real_size = unsigned("size with holes", field(483, 12))?;
        }
        Ok(Some(header))
    }

    /// Reads a block that continues the map of a sparse file in the old form: its pieces, and whether another one
    /// follows.
    ///
    /// # Errors
    /// [`TarError::Number`], [`TarError::Negative`], [`TarError::Overflow`].
    pub fn parse_sparse_extension(
        block: &[u8; SPARSE_EXTENSION_LENGTH],
    ) -> Result<(Vec<Segment>, bool), TarError> {
        let segments = read_old_segments(block.get(..504).unwrap_or_default())?;
        Ok((segments, block.get(504).is_some_and(|flag| *flag != 0)))
    }
}

/// Compares the sum of all bytes, with blanks in place of the sum itself, with what the header says it is.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), TarError> {
    const FIELD: std::ops::Range<usize> = 148..156;
    let stated = block.get(FIELD).unwrap_or_default();
    let all: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = stated.iter().map(|byte| u64::from(*byte)).sum();
    let expected = all.saturating_sub(own).saturating_add(8 * u64::from(b' '));
    match unsigned("checksum", stated)? {
        found if found == expected => Ok(()),
        found => Err(TarError::Checksum { expected, found }),
    }
}

/// A text field, which ends at its first NUL or where it is full.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    field.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of GNU tar for a file `a`, with something written over it, and the sum put right.
    fn block(changes: &[(usize, &[u8])]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put =
            |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, b"a");
        put(100, b"0000644\0");
        put(108, b"0001750\0");
        put(116, b"0001751\0");
        put(124, b"00000000005\0");
        put(136, b"14721735000\0");
        put(156, b"0");
        put(257, b"ustar  \0");
        for (offset, bytes) in changes {
            put(*offset, bytes);
        }
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn the_fields_of_a_header_are_read() {
        let header = Header::parse(&block(&[])).unwrap().unwrap();
        assert_eq!(header.name, b"a");
        assert_eq!((header.mode, header.user, header.group, header.size), (0o644, 1000, 1001, 5));
        assert_eq!((header.modified, header.type_flag), (0o14_721_735_000, TypeFlag::File));
    }

    #[test]
    fn only_posix_has_a_field_for_the_directory() {
        let changes: [(usize, &[u8]); 2] = [(257, b"ustar\x0000"), (345, b"usr/lib")];
        assert_eq!(Header::parse(&block(&changes)).unwrap().unwrap().name, b"usr/lib/a");
        assert_eq!(Header::parse(&block(&changes[1..])).unwrap().unwrap().name, b"a");
        let full = [b'n'; 100];
        assert_eq!(Header::parse(&block(&[(0, &full)])).unwrap().unwrap().name, full);
    }

    #[test]
    fn any_other_byte_breaks_the_sum() {
        let good = block(&[]);
        for index in 0..BLOCK {
            let mut bad = good;
            bad[index] ^= 1;
            // The NUL and the blank behind the sum say nothing.
            if !matches!(index, 154 | 155) {
                let error = Header::parse(&bad).unwrap_err();
                assert!(
                    matches!(error, TarError::Checksum { .. } | TarError::Number { .. }),
                    "{index}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_block_of_zeros_is_no_header_and_a_foreign_one_is_refused() {
        assert_eq!(Header::parse(&[0; BLOCK]), Ok(None));
        assert!(Header::parse(&[b'x'; BLOCK]).is_err());
        for flag in [b'D', b'M', b'N', b'A', b's', 0xff] {
            let error = Header::parse(&block(&[(156, &[flag])])).unwrap_err();
            assert_eq!(error, TarError::UnknownType { found: flag });
        }
    }

    #[test]
    fn sizes_that_are_none_are_refused_by_name() {
        assert_eq!(Header::parse(&block(&[(124, &[0xff; 12])])), Err(TarError::Negative { field: "size" }));
        let error = Header::parse(&block(&[(124, b"0000000000x\0")])).unwrap_err();
        assert!(matches!(error, TarError::Number { field: "size", .. }), "{error}");
        let error = Header::parse(&block(&[(124, b"\x80\x01\0\0\0\0\0\0\0\0\0\0")])).unwrap_err();
        assert_eq!(error, TarError::Overflow { field: "size" });
    }

    #[test]
    fn the_map_of_a_sparse_file_is_read_in_the_old_form_of_gnu_alone() {
        let piece = b"00000002000\x0000000000005\0";
        let changes: [(usize, &[u8]); 4] =
            [(156, b"S"), (386, piece), (482, b"\x01"), (483, b"00000004000\0")];
        let header = Header::parse(&block(&changes)).unwrap().unwrap();
        assert_eq!(header.segments, [Segment { offset: 0o2000, length: 5 }]);
        assert!(header.is_extended && header.real_size == 0o4000);
        let posix: Vec<(usize, &[u8])> = changes.into_iter().chain([(257, &b"ustar\x0000"[..])]).collect();
        assert!(matches!(Header::parse(&block(&posix)), Err(TarError::Sparse(SparseFault::Version { .. }))));
    }
}
