//! The digest of one block of a dm-verity device: salt in front of the block (hash type 1).

use std::fmt;

use sha2::Digest as _;

use crate::format::root_hash::HashAlgorithm;

/// Computes salted digests of blocks. One can be used by many threads at a time.
///
/// Millions of blocks have the same salt: it is hashed once, and every block goes on from a copy of that state.
#[derive(Clone)]
pub struct BlockHasher(Salted);

#[derive(Clone)]
enum Salted {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl BlockHasher {
    /// A hasher for blocks with this salt in front.
    #[must_use]
    pub fn new(algorithm: HashAlgorithm, salt: &[u8]) -> Self {
        Self(match algorithm {
            HashAlgorithm::Sha256 => Salted::Sha256(sha2::Sha256::new_with_prefix(salt)),
            HashAlgorithm::Sha512 => Salted::Sha512(sha2::Sha512::new_with_prefix(salt)),
        })
    }

    /// Appends the digest of the salt and `block` to `digests`.
    pub fn append_digest(&self, block: &[u8], digests: &mut Vec<u8>) {
        match &self.0 {
            Salted::Sha256(salted) => {
                digests.extend_from_slice(&salted.clone().chain_update(block).finalize())
            }
            Salted::Sha512(salted) => {
                digests.extend_from_slice(&salted.clone().chain_update(block).finalize())
            }
        }
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
