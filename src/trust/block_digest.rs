//! The digest of one block of a dm-verity device: salt in front of the block (hash type 1).

use std::fmt;

use sha2::Digest as _;

use crate::format::root_hash::HashAlgorithm;

mod pairs;

use pairs::SaltedPairs;

/// Computes salted digests of blocks. One can be used by many threads at a time.
///
/// Millions of blocks have the same salt: it is hashed once, and every block goes on from a copy of that state. Many
/// blocks are hashed two at a time where that is faster.
#[derive(Clone)]
pub struct BlockHasher(Salted);

#[derive(Clone)]
enum Salted {
    Sha256(sha2::Sha256, SaltedPairs),
    Sha512(sha2::Sha512),
}

impl BlockHasher {
    /// A hasher for blocks with this salt in front.
    #[must_use]
    pub fn new(algorithm: HashAlgorithm, salt: &[u8]) -> Self {
        Self(match algorithm {
            HashAlgorithm::Sha256 => {
                Salted::Sha256(sha2::Sha256::new_with_prefix(salt), SaltedPairs::new(salt))
            }
            HashAlgorithm::Sha512 => Salted::Sha512(sha2::Sha512::new_with_prefix(salt)),
        })
    }

    /// Appends the digest of the salt and `block` to `digests`.
    pub fn append_digest(&self, block: &[u8], digests: &mut Vec<u8>) {
        match &self.0 {
            Salted::Sha256(salted, _) => {
                digests.extend_from_slice(&salted.clone().chain_update(block).finalize())
            }
            Salted::Sha512(salted) => {
                digests.extend_from_slice(&salted.clone().chain_update(block).finalize())
            }
        }
    }

    /// Appends the digests of all blocks of `block_size` bytes that `bytes` are, each with the salt in front. What is less
    /// than a block at the end is left out.
    pub fn append_digests(&self, bytes: &[u8], block_size: usize, digests: &mut Vec<u8>) {
        let mut blocks = bytes.chunks_exact(block_size);
        if let Salted::Sha256(_, pairs) = &self.0
            && block_size >= pairs::CHUNK
        {
            let mut two = bytes.chunks_exact(block_size.saturating_mul(2));
            for two in two.by_ref() {
                let (one, other) = two.split_at(block_size);
                pairs.append_digests(one, other, digests);
            }
            blocks = two.remainder().chunks_exact(block_size);
        }
        blocks.for_each(|block| self.append_digest(block, digests));
    }

    /// The digest of the salt and `block`.
    #[must_use]
    pub fn digest(&self, block: &[u8]) -> Vec<u8> {
        let mut digest = Vec::new();
        self.append_digest(block, &mut digest);
        digest
    }
}

impl fmt::Debug for BlockHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockHasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_blocks_have_the_digests_that_they_have_alone() {
        let bytes: Vec<u8> =
            (0..5 * 4096_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        for salt in (0..=64).chain([127, 128, 129, 255, 256]).map(|length| &bytes[7..7 + length]) {
            for block_size in [32, 64, 100, 512, 1024, 2048, 4096] {
                for count in [0, 1, 2, 5] {
                    let blocks = &bytes[..count * block_size];
                    let salted = |block: &[u8]| [salt, block].concat();
                    for algorithm in [HashAlgorithm::Sha256, HashAlgorithm::Sha512] {
                        let mut found = b"before".to_vec();
                        BlockHasher::new(algorithm, salt).append_digests(blocks, block_size, &mut found);
                        let mut expected = b"before".to_vec();
                        for block in blocks.chunks(block_size) {
                            match algorithm {
                                HashAlgorithm::Sha256 => expected.extend(sha2::Sha256::digest(salted(block))),
                                HashAlgorithm::Sha512 => expected.extend(sha2::Sha512::digest(salted(block))),
                            }
                        }
                        assert_eq!(found, expected, "{algorithm} {} {block_size} {count}", salt.len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_digest_is_that_of_salt_and_block_and_the_next_one_begins_afresh() {
        let bytes = [0x5a; 4096];
        for salt in [&bytes[..0], &bytes[..32], &bytes[..64], &bytes[..256]] {
            let salted = [salt, &bytes].concat();
            let hasher = BlockHasher::new(HashAlgorithm::Sha256, salt);
            for _ in 0..2 {
                assert_eq!(hasher.digest(&bytes), sha2::Sha256::digest(&salted).to_vec());
            }
            let hasher = BlockHasher::new(HashAlgorithm::Sha512, salt);
            assert_eq!(hasher.digest(&bytes), sha2::Sha512::digest(&salted).to_vec());
        }
    }
}
