//! Every data block against the hash tree, on all cores.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::format::root_hash::RootHash;
use crate::format::units::{ByteLength, ByteOffset, Extent};
use crate::format::verity::VeritySuperblock;
use crate::image::dissection::VeritySet;
use crate::image::finding::{Finding, Rule};
use crate::trust::block_digest::BlockHasher;
use crate::trust::hash_tree::{HashTreeMismatch, HashTreeParameters, HashTreeVerifier, VerifiedData};

use super::cancel::Cancel;
use super::error::OperationError;
use super::observer::Observer;
use super::source::{ImageFile, ImageSource};

/// How much a worker reads at once: a multiple of every block size, and small enough that what was copied out of the page
/// cache is still in the second-level cache when it is hashed, also on machines that have 256 KiB of it for a core.
/// Four times as much costs three times the system time.
const PIECE: u64 = 64 * 1024;

/// Checks all data that `set` protects, as it lies in `image`, against the root hash.
///
/// # Errors
/// [`OperationError::Integrity`] naming the first bad blocks, or what reading said.
pub fn verify_data(
    image: &ImageFile,
    set: &VeritySet,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<VerifiedData, OperationError> {
    let refuse = |rule, expected: String, found: String| OperationError::Integrity {
        image: image.name().to_owned(),
        finding: Box::new(Finding::of_partition(rule, Some(set.data), expected, found)),
    };
    let parameters = hash_tree_parameters(&set.superblock);
    let verifier = HashTreeVerifier::new(parameters).map_err(|error| {
        refuse(Rule::HashTreeOutside, "a hash tree of possible size".to_owned(), error.to_string())
    })?;
    observer.started(&format!("verifying {}", set.designator), Some(set.data_extent.length()));
    let fed = feed_all(image, set, &verifier, observer, cancel);
    observer.finished();
    fed?;
    let tree = image.read(&[set.tree_extent])?.pop().unwrap_or_default();
    verifier.finish(&tree, &set.root_hash).map_err(|mismatch| {
        let rule = match mismatch {
            HashTreeMismatch::DataBlocks { .. } => Rule::DataCorrupt,
            _ => Rule::HashTreeCorrupt,
        };
        refuse(rule, format!("data with root hash {}", set.root_hash), mismatch.to_string())
    })
}

/// Looks at the top of a hash tree alone: whether it is the one of the root hash. It says nothing about the data, and spares
/// making devices that could not be read.
///
/// # Errors
/// [`OperationError::Integrity`], or what reading said.
pub(super) fn check_top(image: &dyn ImageSource, set: &VeritySet) -> Result<(), OperationError> {
    let (whole, block) = match set.geometry.levels() {
        // A single data block is its own tree.
        [] => (set.data_extent, set.superblock.data_block_size),
        _ => (set.tree_extent, set.superblock.hash_block_size),
    };
    let top = image.read(&[whole.truncated(block.length())])?.pop().unwrap_or_default();
    let digest = BlockHasher::new(set.superblock.algorithm, set.superblock.salt.as_bytes()).digest(&top);
    if digest == set.root_hash.as_bytes() {
        return Ok(());
    }
    let expected = format!("a hash tree with root hash {}", set.root_hash);
    let found = RootHash::from_bytes(&digest).map_or_else(|error| error.to_string(), |hash| hash.to_string());
    Err(OperationError::Integrity {
        image: image.name().to_owned(),
        finding: Box::new(Finding::of_partition(Rule::HashTreeCorrupt, Some(set.hash), expected, found)),
    })
}

/// What the verifier needs to know of a superblock.
pub(super) fn hash_tree_parameters(superblock: &VeritySuperblock) -> HashTreeParameters {
    HashTreeParameters {
        algorithm: superblock.algorithm,
        data_block_size: superblock.data_block_size.bytes(),
        hash_block_size: superblock.hash_block_size.bytes(),
        data_blocks: superblock.data_blocks,
        salt: superblock.salt.as_bytes().to_vec(),
    }
}

/// Lets every core take the next piece until there is none.
fn feed_all(
    image: &ImageFile,
    set: &VeritySet,
    verifier: &HashTreeVerifier,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(), OperationError> {
    let next = AtomicU64::new(0);
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|_| scope.spawn(|| feed_pieces(image, set, verifier, observer, cancel, &next)))
            .collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn feed_pieces(
    image: &ImageFile,
    set: &VeritySet,
    verifier: &HashTreeVerifier,
    observer: &dyn Observer,
    cancel: &Cancel,
    next: &AtomicU64,
) -> Result<(), OperationError> {
    let mut buffer = Vec::new();
    let block = set.superblock.data_block_size.length().bytes();
    loop {
        cancel.check()?;
        let offset = next.fetch_add(PIECE, Ordering::Relaxed);
        let Some(piece) = piece(set.data_extent, offset) else {
            return Ok(());
        };
        buffer.resize(piece.length().in_memory().unwrap_or_default(), 0);
        image.read_at(piece.start(), &mut buffer)?;
        let first_block = offset.checked_div(block).unwrap_or_default();
        verifier
            .feed(first_block, &buffer)
            .map_err(|error| OperationError::state("hashing", image.name(), error.to_string()))?;
        observer.advanced(piece.length());
    }
}

/// The piece of `extent` that begins `offset` bytes into it; `None` behind its end.
fn piece(extent: Extent, offset: u64) -> Option<Extent> {
    let rest = extent.length().bytes().checked_sub(offset).filter(|rest| *rest > 0)?;
    Extent::new(
        ByteOffset::new(extent.start().bytes().checked_add(offset)?),
        ByteLength::new(rest.min(PIECE)),
    )
}
