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

/// How much of a stored hash tree is read at once: a multiple of every block size.
const TREE_PIECE: u64 = 256 * 1024;

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
    let parameters = hash_tree_parameters(&set.superblock);
    let verifier = HashTreeVerifier::new(parameters).map_err(|error| {
        let expected = "a hash tree of possible size".to_owned();
        refuse(image, set, Rule::HashTreeOutside, expected, error.to_string())
    })?;
    verify_rest(image, set, verifier, observer, cancel)
}

/// As [`verify_data`], with a verifier that was given blocks of `image` already: only the others are read.
///
/// # Errors
/// As [`verify_data`].
pub(super) fn verify_rest(
    image: &ImageFile,
    set: &VeritySet,
    verifier: HashTreeVerifier,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<VerifiedData, OperationError> {
    observer.started(&format!("verifying {}", set.designator), Some(set.data_extent.length()));
    let fed = feed_all(image, set, &verifier, observer, cancel);
    observer.finished();
    fed?;
    let wrong = |mismatch: HashTreeMismatch| {
        let rule = match mismatch {
            HashTreeMismatch::DataBlocks { .. } => Rule::DataCorrupt,
            _ => Rule::HashTreeCorrupt,
        };
        refuse(image, set, rule, format!("data with root hash {}", set.root_hash), mismatch.to_string())
    };
    let mut check = verifier.compare_with(&set.root_hash).map_err(wrong)?;
    let mut offset = 0;
    while let Some(part) = piece(set.tree_extent, offset, TREE_PIECE) {
        cancel.check()?;
        for stored in image.read_tree(set, &[part])? {
            check.take(&stored).map_err(wrong)?;
        }
        offset = offset.saturating_add(TREE_PIECE);
    }
    check.finish().map_err(wrong)
}

fn refuse(image: &ImageFile, set: &VeritySet, rule: Rule, expected: String, found: String) -> OperationError {
    OperationError::Integrity {
        image: image.name().to_owned(),
        finding: Box::new(Finding::of_partition(rule, set.data, expected, found)),
    }
}

/// Looks at the top of a hash tree alone: whether it is the one of the root hash. It says nothing about the data, and spares
/// making devices that could not be read.
///
/// # Errors
/// [`OperationError::Integrity`], or what reading said.
pub(super) fn check_top(image: &dyn ImageSource, set: &VeritySet) -> Result<(), OperationError> {
    let top = match set.geometry.levels() {
        // A single data block is its own tree.
        [] => image.read(&[set.data_extent.truncated(set.superblock.data_block_size.length())])?,
        _ => image.read_tree(set, &[set.tree_extent.truncated(set.superblock.hash_block_size.length())])?,
    };
    let top = top.first().map(Vec::as_slice).unwrap_or_default();
    let digest = BlockHasher::new(set.superblock.algorithm, set.superblock.salt.as_bytes()).digest(top);
    if digest == set.root_hash.as_bytes() {
        return Ok(());
    }
    let expected = format!("a hash tree with root hash {}", set.root_hash);
    let found = RootHash::from_bytes(&digest).map_or_else(|error| error.to_string(), |hash| hash.to_string());
    Err(OperationError::Integrity {
        image: image.name().to_owned(),
        finding: Box::new(Finding::of_partition(
            Rule::HashTreeCorrupt,
            set.hash.partition(),
            expected,
            found,
        )),
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

/// Lets every core take the next piece until there is none. Of a piece only what is missing is read.
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
        let Some(part) = piece(set.data_extent, offset, PIECE) else {
            return Ok(());
        };
        let first_block = offset.checked_div(block).unwrap_or_default();
        let blocks = part.length().bytes().checked_div(block).unwrap_or_default();
        for run in verifier.missing(first_block..first_block.saturating_add(blocks)) {
            let start = run.start.saturating_mul(block);
            let length = run.end.saturating_sub(run.start).saturating_mul(block);
            let Some(missing) = piece(set.data_extent, start, length) else {
                break;
            };
            buffer.resize(missing.length().in_memory().unwrap_or_default(), 0);
            image.read_at(missing.start(), &mut buffer)?;
            verifier
                .feed(run.start, &buffer)
                .map_err(|error| OperationError::state("hashing", image.name(), error.to_string()))?;
        }
        observer.advanced(part.length());
    }
}

/// The piece of `extent` that begins `offset` bytes into it and has at most `length` bytes; `None` behind its end.
fn piece(extent: Extent, offset: u64, length: u64) -> Option<Extent> {
    let rest = extent.length().bytes().checked_sub(offset).filter(|rest| *rest > 0)?;
    Extent::new(
        ByteOffset::new(extent.start().bytes().checked_add(offset)?),
        ByteLength::new(rest.min(length)),
    )
}
