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
    /// What came first.
    pub(super) fn new(pieces: Vec<Piece>) -> Self {
        Self(pieces)
    }

    /// Another piece; one that goes on where another ends becomes part of it.
    pub(super) fn add(&mut self, start: ByteOffset, bytes: Vec<u8>) {
        let before = self.0.iter_mut().find(|(first, before)| {
            start.checked_distance_from(*first).is_some_and(|distance| distance == ByteLength::of(before))
        });
        match before {
            Some((_, before)) => before.extend(bytes),
            None => self.0.push((start, bytes)),
        }
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

/// Stretches in order, of which the nearest are made one until there are at most `most`, as long as no more than `between`
/// bytes are added that way in all.
pub(super) fn joined(mut stretches: Vec<Extent>, most: usize, between: ByteLength) -> Vec<Extent> {
    let mut left = between;
    while stretches.len() > most {
        let gap = |(one, next): (&Extent, &Extent)| next.start().checked_distance_from(one.end());
        let gaps = stretches.iter().zip(stretches.iter().skip(1)).map(gap).enumerate();
        let nearest = gaps.filter_map(|(index, gap)| Some((gap?, index))).min();
        let Some((gap, index)) = nearest else { break };
        let Some(rest) = left.bytes().checked_sub(gap.bytes()) else { break };
        left = ByteLength::new(rest);
        let next = stretches.remove(index.saturating_add(1));
        let Some(one) = stretches.get_mut(index) else { break };
        let length = next.end().checked_distance_from(one.start()).unwrap_or_default();
        *one = Extent::new(one.start(), length).unwrap_or(*one);
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, length: u64) -> Extent {
        Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
    }

    #[test]
    fn an_extent_is_found_where_one_piece_has_all_of_it() {
        let mut pieces = Pieces::new(vec![(ByteOffset::ZERO, vec![1; 10])]);
        pieces.add(ByteOffset::new(10), vec![2; 10]);
        assert_eq!(pieces.get(extent(8, 2)), Some(vec![1; 2]));
        assert_eq!(pieces.get(extent(10, 10)), Some(vec![2; 10]));
        assert_eq!(pieces.get(extent(9, 2)), Some(vec![1, 2]));
        assert_eq!(pieces.get(extent(1000, 0)), Some(Vec::new()));
        pieces.add(ByteOffset::new(21), vec![3; 4 << 20]);
        assert_eq!(pieces.get(extent(19, 3)), None);
        pieces.forget();
        assert_eq!(pieces.get(extent(21, 1)), None);
        assert_eq!(pieces.get(extent(19, 1)), Some(vec![2]));
    }

    #[test]
    fn the_nearest_are_joined_first_and_only_as_far_as_they_must_be() {
        let apart = || vec![extent(0, 10), extent(100, 10), extent(115, 5), extent(1000, 1)];
        assert_eq!(joined(apart(), 4, ByteLength::new(5000)), apart());
        assert_eq!(
            joined(apart(), 3, ByteLength::new(5000)),
            [extent(0, 10), extent(100, 20), extent(1000, 1)]
        );
        assert_eq!(joined(apart(), 2, ByteLength::new(5000)), [extent(0, 120), extent(1000, 1)]);
        // 5 bytes and 90 make 95 in all.
        assert_eq!(joined(apart(), 1, ByteLength::new(95)), [extent(0, 120), extent(1000, 1)]);
        assert_eq!(joined(apart(), 1, ByteLength::new(94)).len(), 3);
        assert_eq!(joined(apart(), 0, ByteLength::new(5000)), [extent(0, 1001)]);
        assert_eq!(joined(Vec::new(), 0, ByteLength::new(5000)), []);
    }
}
