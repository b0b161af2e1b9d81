//! The parts of an image that have been read so far.

use std::collections::BTreeMap;

use super::units::{ByteLength, ByteOffset, Extent};

/// Pieces of an image by their position. What was not read is not there, and never reads as zero.
#[derive(Debug, Clone, Default)]
pub struct SparseBytes {
    /// Pieces by their first byte; they neither overlap nor touch.
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl SparseBytes {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers `bytes` at `start`. Bytes that were there already stay as they were: the first reading counts, so that
    /// a source that changes under our hands cannot show two faces.
    pub fn insert(&mut self, start: ByteOffset, bytes: &[u8]) {
        let mut position = start.bytes();
        let mut rest = bytes;
        while !rest.is_empty() {
            let covered = self
                .pieces
                .range(..=position)
                .next_back()
                .map(|(first, piece)| first.saturating_add(ByteLength::of(piece).bytes()))
                .filter(|end| *end > position);
            if let Some(end) = covered {
                let skip = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
                rest = rest.get(skip..).unwrap_or_default();
                position = end;
                continue;
            }
            let free = self
                .pieces
                .range(position..)
                .next()
                .and_then(|(next, _)| usize::try_from(next.saturating_sub(position)).ok())
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (fresh, remaining) = rest.split_at(free);
            self.add_fresh(position, fresh);
            position = position.saturating_add(ByteLength::of(fresh).bytes());
            rest = remaining;
        }
    }

    /// Adds bytes of which none is known yet, joining them with the pieces they touch.
    fn add_fresh(&mut self, position: u64, fresh: &[u8]) {
        let end = position.saturating_add(ByteLength::of(fresh).bytes());
        let behind = self.pieces.remove(&end).unwrap_or_default();
        let before = self
            .pieces
            .range_mut(..position)
            .next_back()
            .filter(|(first, piece)| first.saturating_add(ByteLength::of(piece).bytes()) == position);
        let piece = match before {
            Some((_, piece)) => piece,
            None => self.pieces.entry(position).or_default(),
        };
        piece.extend_from_slice(fresh);
        piece.extend_from_slice(&behind);
    }

    /// The bytes of `extent`; `None` where one of them was not read.
    #[must_use]
    pub fn get(&self, extent: Extent) -> Option<&[u8]> {
        let start = extent.start().bytes();
        let (first, piece) = self.pieces.range(..=start).next_back()?;
        let from = usize::try_from(start.checked_sub(*first)?).ok()?;
        let to = from.checked_add(extent.length().in_memory()?)?;
        piece.get(from..to)
    }

    /// How many bytes were read in all.
    #[must_use]
    pub fn held(&self) -> ByteLength {
        ByteLength::new(self.pieces.values().map(|piece| ByteLength::of(piece).bytes()).sum())
    }
}

/// A view of one extent of an image, with positions counted from the beginning of the extent.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    bytes: &'a SparseBytes,
    extent: Extent,
}

impl<'a> Window<'a> {
    /// The view of `extent` through what was read.
    #[must_use]
    pub const fn new(bytes: &'a SparseBytes, extent: Extent) -> Self {
        Self { bytes, extent }
    }

    /// The length of the extent, read or not.
    #[must_use]
    pub const fn length(&self) -> ByteLength {
        self.extent.length()
    }

    /// `length` bytes from `offset` within the extent; `None` where they leave it or were not read.
    #[must_use]
    pub fn get(&self, offset: u64, length: usize) -> Option<&'a [u8]> {
        let length = ByteLength::new(u64::try_from(length).ok()?);
        self.bytes.get(self.extent.part(ByteLength::new(offset), length)?)
    }

    /// `N` bytes from `offset` within the extent; `None` where they leave it or were not read.
    #[must_use]
    pub fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.get(offset, N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, length: u64) -> Extent {
        Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
    }

    #[test]
    fn pieces_join_and_gaps_stay_unknown() {
        let mut bytes = SparseBytes::new();
        bytes.insert(ByteOffset::new(10), b"cd");
        bytes.insert(ByteOffset::new(20), b"xy");
        assert_eq!(bytes.get(extent(10, 3)), None);
        bytes.insert(ByteOffset::new(8), b"ab");
        bytes.insert(ByteOffset::new(12), b"efghijkl");
        assert_eq!(bytes.get(extent(8, 14)), Some(&b"abcdefghijklxy"[..]));
        assert_eq!(bytes.get(extent(7, 2)), None);
        assert_eq!(bytes.held(), ByteLength::new(14));
    }

    #[test]
    fn the_first_reading_counts() {
        let mut bytes = SparseBytes::new();
        bytes.insert(ByteOffset::new(2), b"good");
        bytes.insert(ByteOffset::new(0), b"..evil..");
        assert_eq!(bytes.get(extent(0, 8)), Some(&b"..good.."[..]));
    }

    #[test]
    fn a_window_never_shows_bytes_outside_its_extent() {
        let mut bytes = SparseBytes::new();
        bytes.insert(ByteOffset::ZERO, b"0123456789");
        let window = Window::new(&bytes, extent(2, 4));
        assert_eq!(window.get(0, 4), Some(&b"2345"[..]));
        assert_eq!(window.get(1, 4), None);
        assert_eq!(window.array::<2>(2), Some(*b"45"));
    }
}
