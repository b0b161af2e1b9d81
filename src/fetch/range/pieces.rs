//! What came of a file, and what is to be asked for together.

use crate::format::units::{ByteLength, ByteOffset, Extent};

/// How much is kept for later.
const KEPT: ByteLength = ByteLength::new(4 << 20);

/// Bytes of a file, and where they lie in it.
pub(super) type Piece = (ByteOffset, Vec<u8>);

/// Pieces of a file, each as it came.
#[derive(Debug)]
pub(super) struct Pieces(Vec<Piece>);

impl Pieces {
    /// The beginning of the file.
    pub(super) fn beginning_with(bytes: Vec<u8>) -> Self {
        Self(vec![(ByteOffset::ZERO, bytes)])
    }

    /// Another piece.
    pub(super) fn add(&mut self, start: ByteOffset, bytes: Vec<u8>) {
        self.0.push((start, bytes));
    }

    /// The bytes of an extent that lies in one piece.
    pub(super) fn get(&self, extent: Extent) -> Option<Vec<u8>> {
        if extent.is_empty() {
            return Some(Vec::new());
        }
        let found = self.0.iter().find_map(|(start, bytes)| {
            let from = extent.start().checked_distance_from(*start)?.in_memory()?;
            bytes.get(from..from.checked_add(extent.length().in_memory()?)?)
        });
        found.map(<[u8]>::to_vec)
    }

    /// Forgets what is too much to be kept; what came first stays.
    pub(super) fn forget(&mut self) {
        let mut kept = 0_u64;
        self.0.retain(|(_, bytes)| {
            let with = kept.saturating_add(ByteLength::of(bytes).bytes());
            let stays = with <= KEPT.bytes();
            if stays {
                kept = with;
            }
            stays
        });
    }
}

/// How many bytes extents have in all, counted as often as they occur.
pub(super) fn total_length(extents: &[Extent]) -> ByteLength {
    ByteLength::new(extents.iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.length().bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, length: u64) -> Extent {
        Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
    }

    #[test]
    fn an_extent_is_found_where_one_piece_has_all_of_it() {
        let mut pieces = Pieces::beginning_with(vec![1; 10]);
        pieces.add(ByteOffset::new(10), vec![2; 10]);
        assert_eq!(pieces.get(extent(8, 2)), Some(vec![1; 2]));
        assert_eq!(pieces.get(extent(10, 10)), Some(vec![2; 10]));
        assert_eq!(pieces.get(extent(9, 2)), None);
        assert_eq!(pieces.get(extent(1000, 0)), Some(Vec::new()));
        pieces.add(ByteOffset::new(20), vec![3; 4 << 20]);
        pieces.forget();
        assert_eq!(pieces.get(extent(20, 1)), None);
        assert_eq!(pieces.get(extent(19, 1)), Some(vec![2]));
    }
}
