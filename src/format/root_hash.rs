//! The dm-verity root hash: what a signature covers and what the data is checked against.

use std::fmt;
use std::str::FromStr;

use super::guid::{Guid, PartitionUuid};

/// A digest that dm-verity hash trees are built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashAlgorithm {
    /// Both, smallest digest first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name the kernel's crypto API and the verity superblock use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a digest in bytes.
    #[must_use]
    pub const fn digest_size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The digest of the topmost block of a dm-verity hash tree: 32 bytes (SHA-256) or 64 bytes (SHA-512).
///
/// By itself it says nothing about who made it: see `trust::AuthenticatedRootHash` for one that may be relied on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash {
    algorithm: HashAlgorithm,
    bytes: Vec<u8>,
}

/// The text or bytes are not a root hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootHashError {
    /// The number of bytes is that of neither digest.
    #[error("expected 32 bytes (sha256) or 64 bytes (sha512), found {found}")]
    Length {
        /// How many bytes there were.
        found: usize,
    },
    /// The text is not hexadecimal.
    #[error("expected 64 or 128 hexadecimal digits, found another character or an odd number of digits")]
    NotHexadecimal,
    /// The text has capital letters where only lowercase is allowed, because the text itself is what is signed.
    #[error("expected lowercase hexadecimal digits, found capitals")]
    NotLowercase,
}

impl RootHash {
    /// The root hash with these bytes.
    ///
    /// # Errors
    /// [`RootHashError::Length`] where they are neither 32 nor 64.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RootHashError> {
        let algorithm = HashAlgorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.digest_size() == bytes.len())
            .ok_or(RootHashError::Length { found: bytes.len() })?;
        Ok(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// The root hash whose text this is, in the one spelling that is ever signed: lowercase, nothing around it.
    ///
    /// # Errors
    /// A [`RootHashError`]; [`RootHashError::NotLowercase`] where only the spelling is wrong.
    pub fn from_lowercase(text: &str) -> Result<Self, RootHashError> {
        let hash: Self = text.parse()?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(RootHashError::NotLowercase);
        }
        Ok(hash)
    }

    /// The digest it was made with, known from its length.
    #[must_use]
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The bytes, as many as the digest has.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The UUID that the data partition must have: the first 16 bytes (Discoverable Partitions Specification).
    #[must_use]
    pub fn data_partition_uuid(&self) -> PartitionUuid {
        let half = self.bytes.first_chunk::<16>().copied().unwrap_or_default();
        PartitionUuid::new(Guid::from_bytes(half))
    }

    /// The UUID that the hash partition must have: the last 16 bytes (Discoverable Partitions Specification).
    #[must_use]
    pub fn hash_partition_uuid(&self) -> PartitionUuid {
        let half = self.bytes.last_chunk::<16>().copied().unwrap_or_default();
        PartitionUuid::new(Guid::from_bytes(half))
    }
}

impl FromStr for RootHash {
    type Err = RootHashError;

    /// Reads hexadecimal text in either case, as people paste it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| RootHashError::NotHexadecimal)?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for RootHash {
    /// Lowercase hexadecimal: the very bytes that a signature covers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.bytes))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_uuids_of_a_sha256_root_hash_spell_it() {
        let text = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
        let hash = RootHash::from_lowercase(text).unwrap();
        assert_eq!(hash.to_string(), text);
        assert_eq!(hash.data_partition_uuid().to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(hash.hash_partition_uuid().to_string(), "01234567-89ab-cdef-0123-456789abcdef");
    }

    #[test]
    fn only_the_two_digest_lengths_exist_and_signed_text_is_lowercase() {
        assert_eq!("ab".repeat(16).parse::<RootHash>(), Err(RootHashError::Length { found: 16 }));
        assert_eq!("abc".parse::<RootHash>(), Err(RootHashError::NotHexadecimal));
        assert_eq!("ab".repeat(64).parse::<RootHash>().unwrap().algorithm(), HashAlgorithm::Sha512);
        assert_eq!(RootHash::from_lowercase(&"AB".repeat(32)), Err(RootHashError::NotLowercase));
        assert!("AB".repeat(32).parse::<RootHash>().is_ok());
    }
}
