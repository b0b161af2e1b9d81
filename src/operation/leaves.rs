//! Digests of data blocks that were computed while an image was written, for the verification that follows.
//!
//! Where the data lies and with what it is hashed was a hint then: from a server, or from bytes that had just come. It
//! counts only where the image that lies in memory says the same. Otherwise the digests are thrown away, and everything
//! is hashed again.

use crate::format::units::{ByteOffset, Extent};
use crate::image::dissection::VeritySet;
use crate::image::plan::ActivationPlan;
use crate::trust::hash_tree::{FeedError, HashTreeParameters, HashTreeVerifier};

use super::verify::hash_tree_parameters;

/// Where data lies that will be verified, and with what its hash tree is computed, as far as anybody knows yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafHint {
    data: Extent,
    parameters: HashTreeParameters,
}

impl LeafHint {
    /// Of everything that a plan has verified.
    pub(super) fn of_plan(plan: &ActivationPlan) -> Vec<Self> {
        let sets = plan.devices.iter().filter_map(|device| device.verity.as_ref());
        sets.map(|verity| Self::of_set(&verity.set)).collect()
    }

    fn of_set(set: &VeritySet) -> Self {
        Self { data: set.data_extent, parameters: hash_tree_parameters(&set.superblock) }
    }
}

/// The digests for each hint, while an image is written.
#[derive(Debug, Default)]
pub(super) struct EarlyLeaves(Vec<Early>);

#[derive(Debug)]
struct Early {
    hint: LeafHint,
    verifier: HashTreeVerifier,
}

impl EarlyLeaves {
    /// Nothing hashed yet. A hint that makes no sense, or for which memory is short, is left out.
    pub(super) fn new(hints: &[LeafHint]) -> Self {
        let early = hints.iter().filter_map(|hint| {
            let verifier = HashTreeVerifier::new(hint.parameters.clone()).ok()?;
            Some(Early { hint: hint.clone(), verifier })
        });
        Self(early.collect())
    }

    /// Takes the very bytes that are written at `offset`, whole blocks of them; those that lie in these bytes only in
    /// part are left for later. No byte of an image may come twice. Any thread may call it.
    ///
    /// # Errors
    /// A [`FeedError`] where one came twice.
    pub(super) fn feed(&self, offset: ByteOffset, bytes: &[u8]) -> Result<(), FeedError> {
        self.0.iter().try_for_each(|early| match early.hint.blocks_within(offset, bytes) {
            Some((first, blocks)) => early.verifier.feed(first, blocks),
            None => Ok(()),
        })
    }

    /// The digests of the data of `set`, where they were computed from the same place and in the same way.
    pub(super) fn take(&mut self, set: &VeritySet) -> Option<HashTreeVerifier> {
        let wanted = LeafHint::of_set(set);
        let index = self.0.iter().position(|early| early.hint == wanted)?;
        Some(self.0.swap_remove(index).verifier)
    }
}

impl LeafHint {
    /// The whole blocks of the data in `bytes`, which lie at `offset`: the number of the first, and their bytes.
    fn blocks_within<'a>(&self, offset: ByteOffset, bytes: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let block = u64::from(self.parameters.data_block_size);
        let (start, end) = (self.data.start().bytes(), self.data.end().bytes());
        let first_byte = offset.bytes().max(start);
        let last_byte = offset.bytes().checked_add(u64::try_from(bytes.len()).ok()?)?.min(end);
        let first = first_byte.checked_sub(start)?.div_ceil(block);
        let behind = last_byte.checked_sub(start)?.checked_div(block)?;
        let count = behind.checked_sub(first).filter(|count| *count > 0)?;
        let from = start.checked_add(first.checked_mul(block)?)?.checked_sub(offset.bytes())?;
        let from = usize::try_from(from).ok()?;
        let length = usize::try_from(count.checked_mul(block)?).ok()?;
        Some((first, bytes.get(from..from.checked_add(length)?)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::format::root_hash::HashAlgorithm;
    use crate::format::units::ByteLength;

    use super::*;

    fn hint(start: u64, blocks: u64) -> LeafHint {
        let parameters = HashTreeParameters {
            algorithm: HashAlgorithm::Sha256,
            data_block_size: 4096,
            hash_block_size: 4096,
            data_blocks: blocks,
            salt: b"salt".to_vec(),
        };
        let data = Extent::new(ByteOffset::new(start), ByteLength::new(blocks * 4096)).unwrap();
        LeafHint { data, parameters }
    }

    #[test]
    fn only_whole_blocks_of_the_data_are_hashed() {
        let hint = hint(10_000, 3);
        let bytes = vec![0; 40_000];
        let found = |offset: u64, length: usize| {
            hint.blocks_within(ByteOffset::new(offset), &bytes[..length])
                .map(|(first, blocks)| (first, blocks.as_ptr().addr() - bytes.as_ptr().addr(), blocks.len()))
        };
        assert_eq!(found(0, 40_000), Some((0, 10_000, 3 * 4096)));
        assert_eq!(found(10_000, 4096), Some((0, 0, 4096)));
        assert_eq!(found(10_001, 2 * 4096 - 1), Some((1, 4095, 4096)));
        assert_eq!(found(10_001, 2 * 4096 - 2), None);
        assert_eq!(found(14_096, 40_000), Some((1, 0, 2 * 4096)));
        assert_eq!(found(18_000, 40_000), Some((2, 192, 4096)));
        for (offset, length) in [(0, 10_000), (0, 14_095), (22_288, 4096), (u64::MAX, 1), (10_000, 0)] {
            assert_eq!(found(offset, length), None, "{offset} {length}");
        }
    }

    #[test]
    fn however_the_bytes_are_cut_what_was_not_hashed_is_known() {
        let bytes: Vec<u8> =
            (0..60_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let expected = {
            let verifier = HashTreeVerifier::new(hint(10_000, 9).parameters).unwrap();
            verifier.feed(0, &bytes[10_000..10_000 + 9 * 4096]).unwrap();
            verifier.into_tree().unwrap()
        };
        for size in [1, 4095, 4096, 4097, 10_000, 60_000] {
            let leaves = EarlyLeaves::new(&[hint(10_000, 9), hint(0, 0)]);
            for (index, piece) in bytes.chunks(size).enumerate() {
                leaves.feed(ByteOffset::new(u64::try_from(index * size).unwrap()), piece).unwrap();
            }
            let verifier = leaves.0.into_iter().next().unwrap().verifier;
            for run in verifier.missing(0..9) {
                let place = |block: u64| 10_000 + usize::try_from(block).unwrap() * 4096;
                verifier.feed(run.start, &bytes[place(run.start)..place(run.end)]).unwrap();
            }
            assert_eq!(verifier.into_tree().unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn what_comes_twice_is_refused() {
        let leaves = EarlyLeaves::new(&[hint(0, 2)]);
        leaves.feed(ByteOffset::ZERO, &[1; 8192]).unwrap();
        assert!(matches!(
            leaves.feed(ByteOffset::ZERO, &[1; 8192]),
            Err(FeedError::AlreadyGiven { block: 0 })
        ));
    }
}
