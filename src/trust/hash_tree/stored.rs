//! The stored hash tree, compared piece by piece with the digests of the data.

use crate::format::root_hash::RootHash;
use crate::format::units::ByteLength;

use super::{
    HashTreeLayout, HashTreeMismatch, HashTreeParameters, MAXIMUM_NAMED_BLOCKS, VerifiedData, count,
};
use crate::trust::block_digest::BlockHasher;

/// Compares a stored tree with the digests of all data blocks, while it is read from its beginning to its end: first the
/// root's block, then level by level downwards. Of the tree it holds no more than the level above the one that comes.
///
/// [`HashTreeVerifier::compare_with`](super::HashTreeVerifier::compare_with) makes one.
#[derive(Debug)]
pub struct StoredTreeCheck {
    parameters: HashTreeParameters,
    layout: HashTreeLayout,
    hasher: BlockHasher,
    root_hash: RootHash,
    /// The digests of the data blocks, one behind the other.
    leaves: Vec<u8>,
    /// How many bytes of the tree came.
    taken: usize,
    /// How many levels came in full.
    levels_done: usize,
    /// What the level above says of the blocks of the one that comes; above the top there is the root hash alone.
    above: Vec<u8>,
    /// What came of the level, where there is one below it.
    current: Vec<u8>,
    /// The first data blocks that differ, and how many do.
    bad: (Vec<u64>, u64),
}

impl StoredTreeCheck {
    pub(super) fn new(
        parameters: HashTreeParameters,
        layout: HashTreeLayout,
        hasher: BlockHasher,
        leaves: Vec<u8>,
        root_hash: &RootHash,
    ) -> Self {
        let (root_hash, above) = (root_hash.clone(), root_hash.as_bytes().to_vec());
        let (taken, levels_done, current, bad) = (0, 0, Vec::new(), (Vec::new(), 0));
        Self { parameters, layout, hasher, root_hash, leaves, taken, levels_done, above, current, bad }
    }

    /// Takes the next blocks of the tree: any number of whole ones.
    ///
    /// # Errors
    /// [`HashTreeMismatch::RootHash`] or [`HashTreeMismatch::HashBlock`] for a block that is not what the one above it
    /// says; [`HashTreeMismatch::TreeLength`] for more bytes than the tree has, or for part of a block.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), HashTreeMismatch> {
        let size = self.layout.hash_block_size;
        let end = self.taken.saturating_add(bytes.len());
        if end > self.layout.tree_size() || !bytes.len().is_multiple_of(size) {
            return Err(self.wrong_length(end));
        }
        bytes.chunks_exact(size).try_for_each(|block| self.take_block(block))
    }

    fn take_block(&mut self, block: &[u8]) -> Result<(), HashTreeMismatch> {
        // Levels are counted from the data, and come from the top.
        let level = self.layout.levels.len().saturating_sub(self.levels_done + 1);
        let blocks = self.layout.levels.get(level).cloned().unwrap_or_default();
        let index = (self.taken / self.layout.hash_block_size).saturating_sub(blocks.start);
        let digest_size = self.layout.digest_size;
        let found = self.hasher.digest(block);
        if self.above.chunks_exact(digest_size).nth(index) != Some(found.as_slice()) {
            return Err(match RootHash::from_bytes(&found) {
                Ok(found) if self.levels_done == 0 => {
                    HashTreeMismatch::RootHash { expected: self.root_hash.clone(), found }
                }
                _ => HashTreeMismatch::HashBlock { level, index: count(index) },
            });
        }
        if level == 0 {
            self.compare_leaves(block, index);
        } else {
            self.current.extend_from_slice(block);
        }
        self.taken += block.len();
        if self.taken == blocks.end * self.layout.hash_block_size {
            self.levels_done += 1;
            self.above = std::mem::take(&mut self.current);
        }
        Ok(())
    }

    /// Compares what block `index` of the lowest level says with the digests of the data blocks.
    fn compare_leaves(&mut self, block: &[u8], index: usize) {
        let digest_size = self.layout.digest_size;
        let first = index * (block.len() / digest_size);
        let computed = self.leaves.get(first * digest_size..).unwrap_or_default();
        let pairs = computed.chunks_exact(digest_size).zip(block.chunks_exact(digest_size));
        for (place, _) in pairs.enumerate().filter(|(_, (computed, stored))| computed != stored) {
            let (named, total) = &mut self.bad;
            *total = total.saturating_add(1);
            if named.len() < MAXIMUM_NAMED_BLOCKS {
                named.push(count(first + place));
            }
        }
    }

    fn wrong_length(&self, found: usize) -> HashTreeMismatch {
        let found = ByteLength::new(count(found));
        HashTreeMismatch::TreeLength { expected: self.layout.tree_length(), found }
    }

    /// The verified data, where the whole tree came and everything agreed.
    ///
    /// # Errors
    /// [`HashTreeMismatch::DataBlocks`], [`HashTreeMismatch::TreeLength`], or [`HashTreeMismatch::RootHash`] where a
    /// single block of data has no tree.
    pub fn finish(self) -> Result<VerifiedData, HashTreeMismatch> {
        if self.taken != self.layout.tree_size() {
            return Err(self.wrong_length(self.taken));
        }
        if self.layout.levels.is_empty() {
            match RootHash::from_bytes(&self.leaves) {
                Ok(found) if found == self.root_hash => {}
                Ok(found) => return Err(HashTreeMismatch::RootHash { expected: self.root_hash, found }),
                Err(_) => return Err(HashTreeMismatch::DataBlocks { first: vec![0], count: 1 }),
            }
        }
        let (first, total) = self.bad;
        if total > 0 {
            return Err(HashTreeMismatch::DataBlocks { first, count: total });
        }
        Ok(VerifiedData { root_hash: self.root_hash, parameters: self.parameters })
    }
}
