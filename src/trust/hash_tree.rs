//! The dm-verity hash tree: every data block checked against the root hash, and trees built for sealing.
//!
//! Blocks come in any order from any thread; the value that says 'verified' comes only when every block came, exactly
//! once, and the tree agrees from the root hash down to the data.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::format::root_hash::{HashAlgorithm, RootHash};
use crate::format::units::ByteLength;

use super::block_digest::BlockHasher;

mod stored;

pub use stored::StoredTreeCheck;

/// The smallest block: what the kernel's dm-verity takes (`drivers/md/dm-verity-target.c`).
pub const MINIMUM_BLOCK_SIZE: u32 = 512;

/// The largest block: the kernel takes none above its page size, which is at least this everywhere.
pub const MAXIMUM_BLOCK_SIZE: u32 = 4096;

/// The longest salt: what the verity superblock has room for.
pub const MAXIMUM_SALT: usize = 256;

/// The most memory for the digests of data blocks: enough for 128 GiB of data in blocks of 4096 bytes with SHA-256.
pub const MAXIMUM_LEAVES: u64 = 1 << 30;

/// The most data blocks that a mismatch names one by one.
pub const MAXIMUM_NAMED_BLOCKS: usize = 16;

/// What a hash tree is computed with, as a verity superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTreeParameters {
    /// The digest.
    pub algorithm: HashAlgorithm,
    /// Bytes of a data block: a power of two from [`MINIMUM_BLOCK_SIZE`] to [`MAXIMUM_BLOCK_SIZE`].
    pub data_block_size: u32,
    /// Bytes of a hash block: a power of two from [`MINIMUM_BLOCK_SIZE`] to [`MAXIMUM_BLOCK_SIZE`].
    pub hash_block_size: u32,
    /// The number of data blocks, at least one.
    pub data_blocks: u64,
    /// What is hashed in front of every block: at most [`MAXIMUM_SALT`] bytes.
    pub salt: Vec<u8>,
}

/// A hash tree with these parameters cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashTreeError {
    /// A block size is not one that dm-verity has.
    #[error("hash tree block size: expected a power of two from 512 to 4096, found {found}")]
    BlockSize {
        /// The size in bytes.
        found: u32,
    },
    /// There is no memory for the digests.
    #[error("allocating {bytes} bytes for a hash tree")]
    NoMemory {
        /// How many bytes were asked for.
        bytes: u64,
    },
    /// There is nothing to verify.
    #[error("hash tree over no data blocks")]
    NoDataBlocks,
    /// The salt is longer than a superblock can say.
    #[error("hash tree salt: expected at most {limit} bytes, found {found}")]
    Salt {
        /// The limit, [`MAXIMUM_SALT`].
        limit: usize,
        /// The number of bytes.
        found: usize,
    },
    /// There are more data blocks than can be held as digests.
    #[error("hash tree too large: expected at most {limit} data blocks, found {found}")]
    TooManyDataBlocks {
        /// The limit with these parameters, from [`MAXIMUM_LEAVES`].
        limit: u64,
        /// The number of data blocks.
        found: u64,
    },
}

/// Where the levels of a hash tree lie, counted from the beginning of the tree: the root's block first, then level by
/// level down to the one with the digests of the data. One data block has a tree without any level: its digest is the
/// root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTreeLayout {
    digest_size: usize,
    data_block_size: usize,
    hash_block_size: usize,
    data_blocks: usize,
    /// Level 0 is the one right above the data; each as a range of hash blocks of the tree.
    levels: Vec<Range<usize>>,
}

impl HashTreeLayout {
    /// The layout of a tree with these parameters.
    ///
    /// # Errors
    /// A [`HashTreeError`] where a parameter lies outside what dm-verity has or what can be held in memory.
    pub fn new(parameters: &HashTreeParameters) -> Result<Self, HashTreeError> {
        let digest_size = parameters.algorithm.digest_size();
        let found = parameters.data_blocks;
        if found == 0 {
            return Err(HashTreeError::NoDataBlocks);
        }
        let limit = MAXIMUM_LEAVES / u64::try_from(digest_size).unwrap_or(u64::MAX);
        let too_many = HashTreeError::TooManyDataBlocks { limit, found };
        if found > limit {
            return Err(too_many);
        }
        if parameters.salt.len() > MAXIMUM_SALT {
            return Err(HashTreeError::Salt { limit: MAXIMUM_SALT, found: parameters.salt.len() });
        }
        let data_block_size = block_size(parameters.data_block_size)?;
        let hash_block_size = block_size(parameters.hash_block_size)?;
        let data_blocks = usize::try_from(found).map_err(|_| too_many)?;

        // A digest is at most 64 bytes and a power of two, a hash block at least 512: at least 8 digests in a block.
        let digests_per_block = hash_block_size / digest_size;
        let mut sizes = Vec::new();
        let mut blocks = data_blocks;
        while blocks > 1 {
            blocks = blocks.div_ceil(digests_per_block);
            sizes.push(blocks);
        }
        let mut levels = Vec::new();
        let mut start = 0;
        for size in sizes.into_iter().rev() {
            levels.push(start..start + size);
            start += size;
        }
        levels.reverse();
        Ok(Self { digest_size, data_block_size, hash_block_size, data_blocks, levels })
    }

    /// The length of the whole tree: zero for one data block.
    #[must_use]
    pub fn tree_length(&self) -> ByteLength {
        ByteLength::new(u64::try_from(self.tree_size()).unwrap_or(u64::MAX))
    }

    /// The number of levels of hash blocks.
    #[must_use]
    pub const fn level_count(&self) -> usize {
        self.levels.len()
    }

    fn tree_size(&self) -> usize {
        // Less than the leaves: an eighth of them and an eighth of that at the most, and padding.
        self.levels.first().map_or(0, |leaves| leaves.end) * self.hash_block_size
    }

    fn level_bytes(&self, level: &Range<usize>) -> Range<usize> {
        level.start * self.hash_block_size..level.end * self.hash_block_size
    }
}

fn block_size(found: u32) -> Result<usize, HashTreeError> {
    if found.is_power_of_two() && (MINIMUM_BLOCK_SIZE..=MAXIMUM_BLOCK_SIZE).contains(&found) {
        usize::try_from(found).map_err(|_| HashTreeError::BlockSize { found })
    } else {
        Err(HashTreeError::BlockSize { found })
    }
}

/// Hashes the blocks of a data partition and compares them with a hash tree, or makes the tree.
///
/// [`Self::feed`] takes `&self`: several threads may feed different blocks of the same verifier at a time.
#[derive(Debug)]
pub struct HashTreeVerifier {
    parameters: HashTreeParameters,
    layout: HashTreeLayout,
    hasher: BlockHasher,
    leaves: Mutex<Leaves>,
}

/// The digests of data blocks, and which of them have come.
#[derive(Debug)]
struct Leaves {
    digests: Vec<u8>,
    given: Vec<bool>,
    missing: usize,
    /// Some feed was refused: whatever its bytes were, nobody may say that all is well.
    refused: bool,
}

/// Bytes were not taken. A verifier that refused once never says 'verified'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A block was given twice; which of the two is used later nobody could tell.
    #[error("data block {block} given twice")]
    AlreadyGiven {
        /// The first such block.
        block: u64,
    },
    /// The bytes do not lie inside the data.
    #[error(
        "data blocks outside the hash tree: expected at most {data_blocks}, found {count} from block {first_block}"
    )]
    OutOfRange {
        /// The block where the bytes begin.
        first_block: u64,
        /// How many blocks they are.
        count: u64,
        /// How many blocks there are.
        data_blocks: u64,
    },
    /// The bytes do not end where a block ends.
    #[error("part of a data block: expected a multiple of {block_size} bytes, found {found}")]
    PartialBlock {
        /// The size of a data block.
        block_size: u32,
        /// The number of bytes.
        found: usize,
    },
}

/// The data is not what the root hash stands for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashTreeMismatch {
    /// The root hash is of another digest than the tree.
    #[error("root hash of another digest: expected {expected}, found {found}")]
    Algorithm {
        /// The digest of the tree.
        expected: HashAlgorithm,
        /// The digest of the root hash.
        found: HashAlgorithm,
    },
    /// Data blocks are not what the tree says.
    #[error("corrupt data blocks: {count}, the first of them {first:?}")]
    DataBlocks {
        /// The first of them, at most [`MAXIMUM_NAMED_BLOCKS`].
        first: Vec<u64>,
        /// How many there are.
        count: u64,
    },
    /// Bytes were refused by [`HashTreeVerifier::feed`].
    #[error("data blocks that were refused while they came in")]
    FeedRefused,
    /// A block of the tree is not what the block above it says.
    #[error("corrupt hash block {index} of level {level}, counted from the data")]
    HashBlock {
        /// The level; the one right above the data is 0.
        level: usize,
        /// The block's number in its level.
        index: u64,
    },
    /// Data blocks never came.
    #[error("{count} data blocks missing, the first of them {first}")]
    MissingBlocks {
        /// The first missing block.
        first: u64,
        /// How many are missing.
        count: u64,
    },
    /// There is no memory for the tree.
    #[error("allocating {bytes} bytes for a hash tree")]
    NoMemory {
        /// How many bytes were asked for.
        bytes: u64,
    },
    /// The top of the tree has another digest than the root hash.
    #[error("wrong root hash: expected '{expected}', found '{found}'")]
    RootHash {
        /// The root hash that should be.
        expected: RootHash,
        /// The digest of the tree's first block, or of the only data block.
        found: RootHash,
    },
    /// The stored tree is not as long as the parameters say.
    #[error("hash tree of another length: expected {expected} bytes, found {found}")]
    TreeLength {
        /// The length that [`HashTreeLayout::tree_length`] says.
        expected: ByteLength,
        /// The number of bytes that were given.
        found: ByteLength,
    },
}

/// Data of which every block agrees with a root hash. Only [`StoredTreeCheck::finish`] makes one.
///
/// It says nothing about who made the root hash: see [`AuthenticatedRootHash`](super::root_hash::AuthenticatedRootHash).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct VerifiedData {
    root_hash: RootHash,
    parameters: HashTreeParameters,
}

impl VerifiedData {
    /// The root hash that the data agrees with.
    #[must_use]
    pub const fn root_hash(&self) -> &RootHash {
        &self.root_hash
    }

    /// What the tree was computed with.
    #[must_use]
    pub const fn parameters(&self) -> &HashTreeParameters {
        &self.parameters
    }

    /// How many bytes were verified, from the beginning of the data partition.
    #[must_use]
    pub fn data_length(&self) -> ByteLength {
        let block_size = u64::from(self.parameters.data_block_size);
        ByteLength::new(self.parameters.data_blocks.saturating_mul(block_size))
    }
}

impl HashTreeVerifier {
    /// A verifier that has seen no block yet. It needs memory for one digest and one byte a data block.
    ///
    /// # Errors
    /// A [`HashTreeError`] where a parameter is not possible or memory is short.
    pub fn new(parameters: HashTreeParameters) -> Result<Self, HashTreeError> {
        let layout = HashTreeLayout::new(&parameters)?;
        let size = layout.data_blocks * layout.digest_size;
        let (Some(digests), Some(given)) = (filled(size, 0), filled(layout.data_blocks, false)) else {
            return Err(HashTreeError::NoMemory {
                bytes: parameters.data_blocks.saturating_add(count(size)),
            });
        };
        let leaves = Mutex::new(Leaves { digests, given, missing: layout.data_blocks, refused: false });
        let hasher = BlockHasher::new(parameters.algorithm, &parameters.salt);
        Ok(Self { parameters, layout, hasher, leaves })
    }

    /// Where the tree's levels lie, and how long the tree is.
    #[must_use]
    pub const fn layout(&self) -> &HashTreeLayout {
        &self.layout
    }

    /// Takes whole data blocks, the first of which is number `first_block`.
    ///
    /// # Errors
    /// A [`FeedError`]; the verifier is of no more use then.
    pub fn feed(&self, first_block: u64, bytes: &[u8]) -> Result<(), FeedError> {
        let fed = self.blocks_of(first_block, bytes).and_then(|blocks| {
            let mut digests = Vec::with_capacity(blocks.len() * self.layout.digest_size);
            self.hasher.append_digests(bytes, self.layout.data_block_size, &mut digests);
            lock(&self.leaves).take(blocks, &digests)
        });
        if fed.is_err() {
            lock(&self.leaves).refused = true;
        }
        fed
    }

    /// The numbers of the blocks that `bytes` are.
    fn blocks_of(&self, first_block: u64, bytes: &[u8]) -> Result<Range<usize>, FeedError> {
        let block_size = self.layout.data_block_size;
        if !bytes.len().is_multiple_of(block_size) {
            let block_size = self.parameters.data_block_size;
            return Err(FeedError::PartialBlock { block_size, found: bytes.len() });
        }
        let blocks = bytes.len() / block_size;
        let data_blocks = self.parameters.data_blocks;
        let out_of_range = FeedError::OutOfRange { first_block, count: count(blocks), data_blocks };
        let start = usize::try_from(first_block).map_err(|_| out_of_range.clone())?;
        match start.checked_add(blocks) {
            Some(end) if end <= self.layout.data_blocks => Ok(start..end),
            _ => Err(out_of_range),
        }
    }

    /// The blocks among `blocks` that have not come yet, as runs in their order.
    #[must_use]
    pub fn missing(&self, blocks: Range<u64>) -> Vec<Range<u64>> {
        let limit = |block: u64| usize::try_from(block).unwrap_or(usize::MAX).min(self.layout.data_blocks);
        let start = limit(blocks.start);
        let leaves = lock(&self.leaves);
        let asked = leaves.given.get(start..limit(blocks.end)).unwrap_or_default();
        let mut position = start;
        let mut missing = Vec::new();
        for run in asked.chunk_by(|one, next| one == next) {
            let end = position + run.len();
            if run.first() == Some(&false) {
                missing.push(count(position)..count(end));
            }
            position = end;
        }
        missing
    }

    /// Goes on to compare the blocks that came with the tree that is stored beside them, and the tree with `root_hash`.
    ///
    /// # Errors
    /// [`HashTreeMismatch::MissingBlocks`], [`HashTreeMismatch::FeedRefused`] or [`HashTreeMismatch::Algorithm`].
    pub fn compare_with(self, root_hash: &RootHash) -> Result<StoredTreeCheck, HashTreeMismatch> {
        let Self { parameters, layout, hasher, leaves } = self;
        let digests = complete(leaves)?;
        if root_hash.algorithm() != parameters.algorithm {
            let (expected, found) = (parameters.algorithm, root_hash.algorithm());
            return Err(HashTreeMismatch::Algorithm { expected, found });
        }
        Ok(StoredTreeCheck::new(parameters, layout, hasher, digests, root_hash))
    }

    /// [`Self::compare_with`] with the whole stored tree at once: from the root's block on exactly
    /// [`HashTreeLayout::tree_length`] bytes.
    ///
    /// # Errors
    /// A [`HashTreeMismatch`]: from the top of the tree downwards, the first level that is wrong.
    pub fn finish(self, stored_tree: &[u8], root_hash: &RootHash) -> Result<VerifiedData, HashTreeMismatch> {
        let mut check = self.compare_with(root_hash)?;
        check.take(stored_tree)?;
        check.finish()
    }

    /// The tree over the blocks that came, as it is stored from the root's block on, and its root hash: for sealing.
    ///
    /// # Errors
    /// [`HashTreeMismatch::MissingBlocks`], [`HashTreeMismatch::FeedRefused`] or [`HashTreeMismatch::NoMemory`].
    pub fn into_tree(self) -> Result<(Vec<u8>, RootHash), HashTreeMismatch> {
        let Self { layout, hasher, leaves, .. } = self;
        let mut below = complete(leaves)?;
        let size = layout.tree_size();
        let mut tree: Vec<u8> = filled(size, 0).ok_or(HashTreeMismatch::NoMemory { bytes: count(size) })?;
        let digests_per_block = layout.hash_block_size / layout.digest_size;
        for blocks in &layout.levels {
            let level = tree.get_mut(layout.level_bytes(blocks)).unwrap_or_default();
            let stored = level.chunks_exact_mut(layout.hash_block_size);
            let mut above = Vec::new();
            for (block, digests) in stored.zip(below.chunks(digests_per_block * layout.digest_size)) {
                block.iter_mut().zip(digests).for_each(|(to, from)| *to = *from);
                hasher.append_digest(block, &mut above);
            }
            below = above;
        }
        match RootHash::from_bytes(&below) {
            Ok(root_hash) => Ok((tree, root_hash)),
            // What is left after the last level is one digest, unless no block ever came.
            Err(_) => Err(HashTreeMismatch::MissingBlocks { first: 0, count: 1 }),
        }
    }
}

impl Leaves {
    fn take(&mut self, blocks: Range<usize>, digests: &[u8]) -> Result<(), FeedError> {
        let digest_size = digests.len().checked_div(blocks.len()).unwrap_or(0);
        let given = self.given.get_mut(blocks.clone()).unwrap_or_default();
        if let Some(twice) = given.iter().position(|given| *given) {
            return Err(FeedError::AlreadyGiven { block: count(blocks.start + twice) });
        }
        let places =
            self.digests.get_mut(blocks.start * digest_size..blocks.end * digest_size).unwrap_or_default();
        places.iter_mut().zip(digests).for_each(|(to, from)| *to = *from);
        given.fill(true);
        self.missing -= given.len();
        Ok(())
    }
}

/// The digests of all data blocks, where all came.
fn complete(leaves: Mutex<Leaves>) -> Result<Vec<u8>, HashTreeMismatch> {
    let leaves = leaves.into_inner().unwrap_or_else(PoisonError::into_inner);
    if leaves.refused {
        return Err(HashTreeMismatch::FeedRefused);
    }
    match leaves.given.iter().position(|given| !given) {
        Some(first) => {
            Err(HashTreeMismatch::MissingBlocks { first: count(first), count: count(leaves.missing) })
        }
        None => Ok(leaves.digests),
    }
}

/// `length` times `value`; `None` where memory is short.
fn filled<T: Clone>(length: usize, value: T) -> Option<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(length).ok()?;
    values.resize(length, value);
    Some(values)
}

/// A thread that panicked while it held the lock has marked its blocks as given only after they were copied.
fn lock(leaves: &Mutex<Leaves>) -> MutexGuard<'_, Leaves> {
    leaves.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
