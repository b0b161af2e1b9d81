//! Maps of sparse files: which pieces are in the archive; the rest of the file is holes.

use super::number::unsigned;
use super::path::shown;
use super::{MAXIMUM_FILE_SIZE, MAXIMUM_SEGMENTS, SparseFault, TarError};

/// How long a line of a map is at most: 20 digits, and some.
const LONGEST_LINE: usize = 24;

/// A piece of a file that is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// The pieces of a file, in order, none of them over another or behind its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    segments: Vec<Segment>,
    size: u64,
}

impl SparseMap {
    /// The map of a file of `size` bytes whose pieces are `stored` bytes in all. Pieces without bytes, with which writers
    /// mark the end, are left out.
    ///
    /// # Errors
    /// [`TarError::FileTooLarge`]; [`TarError::Sparse`] with [`SparseFault::TooMany`], [`SparseFault::Order`] or
    /// [`SparseFault::Contents`].
    pub fn new(mut segments: Vec<Segment>, size: u64, stored: u64) -> Result<Self, TarError> {
        if size > MAXIMUM_FILE_SIZE {
            return Err(TarError::FileTooLarge { size });
        }
        if segments.len() > MAXIMUM_SEGMENTS {
            return Err(too_many(segments.len()).into());
        }
        let (mut end, mut total) = (0_u64, 0_u64);
        for Segment { offset, length } in &segments {
            let (offset, length) = (*offset, *length);
            let behind = offset.checked_add(length).filter(|behind| offset >= end && *behind <= size);
            end = behind.ok_or(SparseFault::Order { offset, length, size })?;
            total = total.saturating_add(length);
        }
        if total != stored {
            return Err(SparseFault::Contents { expected: stored, found: total }.into());
        }
        segments.retain(|segment| segment.length > 0);
        Ok(Self { segments, size })
    }

    /// The pieces.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The size of the file, holes included.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// How many pieces there are, for a refusal.
fn too_many(found: usize) -> SparseFault {
    SparseFault::TooMany { found: u64::try_from(found).unwrap_or(u64::MAX) }
}

/// Reads pieces in the old form of GNU tar: two fields of twelve bytes each; an empty one is the last.
pub(super) fn read_old_segments(bytes: &[u8]) -> Result<Vec<Segment>, TarError> {
    let mut segments = Vec::new();
    for piece in bytes.chunks_exact(24) {
        let Some((offset, length)) = piece.split_at_checked(12) else {
            break;
        };
        if offset.first() == Some(&0) {
            break;
        }
        segments.push(Segment {
            offset: unsigned("offset of a piece", offset)?,
            length: unsigned("length of a piece", length)?,
        });
    }
    Ok(segments)
}

/// Reads the list of form 0.1: offsets and lengths in turn, with commas between them.
pub(super) fn read_list(text: &[u8]) -> Result<Vec<Segment>, SparseFault> {
    let mut numbers = Vec::new();
    for number in text.split(|byte| *byte == b',') {
        if numbers.len() > MAXIMUM_SEGMENTS.saturating_mul(2) {
            return Err(too_many(numbers.len() / 2));
        }
        numbers.push(decimal(number)?);
    }
    pairs(&numbers, text)
}

fn pairs(numbers: &[u64], text: &[u8]) -> Result<Vec<Segment>, SparseFault> {
    let pairs = numbers.chunks(2).map(|pair| match pair {
        [offset, length] => Ok(Segment { offset: *offset, length: *length }),
        _ => Err(SparseFault::Form { found: shown(text) }),
    });
    pairs.collect()
}

/// A decimal number, of digits alone.
pub(super) fn decimal(text: &[u8]) -> Result<u64, SparseFault> {
    let odd = || SparseFault::Form { found: shown(text) };
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(odd());
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(odd)
}

/// Reads the map of form 1.0, which is in front of the contents: how many pieces, then offset and length of each, a line
/// for every number, filled up with zeros to a whole block.
#[derive(Debug, Default)]
pub struct SparseMapText {
    line: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    segments: Vec<Segment>,
}

impl SparseMapText {
    /// A reader that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next block. The pieces, once all of them are there.
    ///
    /// # Errors
    /// [`SparseFault::Form`], [`SparseFault::TooMany`].
    pub fn feed(&mut self, block: &[u8]) -> Result<Option<Vec<Segment>>, SparseFault> {
        for (index, byte) in block.iter().enumerate() {
            if *byte != b'\n' {
                if self.line.len() == LONGEST_LINE {
                    return Err(SparseFault::Form { found: shown(&self.line) });
                }
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line)?;
            self.line.clear();
            if self.take(number)? {
                let rest = block.get(index.saturating_add(1)..).unwrap_or_default();
                if rest.iter().any(|byte| *byte != 0) {
                    return Err(SparseFault::Form { found: shown(rest) });
                }
                return Ok(Some(std::mem::take(&mut self.segments)));
            }
        }
        Ok(None)
    }

    /// Takes the next number; whether it was the last.
    fn take(&mut self, number: u64) -> Result<bool, SparseFault> {
        let most = u64::try_from(MAXIMUM_SEGMENTS).unwrap_or(u64::MAX);
        let Some(count) = self.count else {
            if number > most {
                return Err(SparseFault::TooMany { found: number });
            }
            self.count = Some(number);
            return Ok(number == 0);
        };
        match self.offset.take() {
            None => self.offset = Some(number),
            Some(offset) => self.segments.push(Segment { offset, length: number }),
        }
        Ok(self.offset.is_none() && u64::try_from(self.segments.len()) == Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(pairs: &[(u64, u64)]) -> Vec<Segment> {
        pairs.iter().map(|(offset, length)| Segment { offset: *offset, length: *length }).collect()
    }

    #[test]
    fn pieces_in_order_are_a_map_without_the_empty_ones() {
        let map = SparseMap::new(segments(&[(0, 5), (10, 5), (100, 0)]), 100, 10).unwrap();
        assert_eq!(map.segments(), segments(&[(0, 5), (10, 5)]));
        assert_eq!(map.size(), 100);
        assert!(SparseMap::new(Vec::new(), 0, 0).unwrap().segments().is_empty());
    }

    #[test]
    fn pieces_over_each_other_or_behind_the_end_are_none() {
        for pairs in [&[(0, 5), (4, 1)][..], &[(10, 1), (0, 1)], &[(96, 5)], &[(u64::MAX, 2)], &[(101, 0)]] {
            let stored = pairs.iter().map(|(_, length)| length).sum();
            let error = SparseMap::new(segments(pairs), 100, stored).unwrap_err();
            assert!(matches!(error, TarError::Sparse(SparseFault::Order { .. })), "{pairs:?}: {error}");
        }
    }

    #[test]
    fn a_map_has_to_agree_with_what_is_stored() {
        for stored in [0, 9, 11] {
            let error = SparseMap::new(segments(&[(0, 10)]), 100, stored).unwrap_err();
            assert_eq!(error, SparseFault::Contents { expected: stored, found: 10 }.into());
        }
    }

    #[test]
    fn huge_maps_and_huge_files_are_refused() {
        let many = vec![Segment { offset: 0, length: 0 }; MAXIMUM_SEGMENTS + 1];
        let error = SparseMap::new(many, 100, 0).unwrap_err();
        assert!(matches!(error, TarError::Sparse(SparseFault::TooMany { .. })), "{error}");
        let size = MAXIMUM_FILE_SIZE + 1;
        assert_eq!(SparseMap::new(Vec::new(), size, 0), Err(TarError::FileTooLarge { size }));
        let error = SparseMapText::new().feed(b"262145\n").unwrap_err();
        assert_eq!(error, SparseFault::TooMany { found: 262_145 });
        let list = "0,".repeat(2 * MAXIMUM_SEGMENTS + 4);
        assert!(matches!(read_list(list.as_bytes()), Err(SparseFault::TooMany { .. })));
    }

    #[test]
    fn a_list_is_read_in_pairs() {
        assert_eq!(read_list(b"0,5,10,5").unwrap(), segments(&[(0, 5), (10, 5)]));
        for text in [&b"0"[..], b"0,5,", b"0,-5", b"0,5,10", b"", b"0, 5", b"99999999999999999999,1"] {
            assert!(matches!(read_list(text), Err(SparseFault::Form { .. })), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn the_map_in_front_of_the_contents_is_read_however_it_is_cut() {
        let text = b"2\n0\n5\n10\n5\n\0\0\0";
        for cut in 0..11 {
            let mut map = SparseMapText::new();
            assert_eq!(map.feed(&text[..cut]).unwrap(), None, "{cut}");
            assert_eq!(map.feed(&text[cut..]).unwrap(), Some(segments(&[(0, 5), (10, 5)])), "{cut}");
        }
        assert_eq!(SparseMapText::new().feed(b"0\n").unwrap(), Some(Vec::new()));
    }

    #[test]
    fn a_map_that_is_none_is_refused() {
        for text in [&b"x\n"[..], b"\n", b"1\n0\n5\nrest", b"111111111111111111111111111", b"1\n-1\n"] {
            let error = SparseMapText::new().feed(text).unwrap_err();
            assert!(matches!(error, SparseFault::Form { .. }), "{}: {error}", text.escape_ascii());
        }
    }
}
