//! The dm-verity superblock and the geometry of the hash tree behind it.
//!
//! The superblock is cryptsetup's on-disk format, version 1 (cryptsetup wiki, 'DMVerity', 'Verity superblock format').
//! The tree is the kernel's (Documentation/admin-guide/device-mapper/verity.rst, drivers/md/dm-verity-target.c): the
//! topmost level comes first on the disk, each digest takes a slot of a power of two, and what is left of a block is
//! zero.

use std::fmt;

use crate::format::guid::Guid;
use crate::format::root_hash::HashAlgorithm;
use crate::format::units::ByteLength;

mod geometry;
pub mod table;

pub use geometry::{HashTreeGeometry, HashTreeGeometryError, HashTreeLevel};

/// A block size of a hash tree: 512, 1024, 2048 or 4096 bytes, what a dm-verity target takes on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerityBlockSize(u32);

impl VerityBlockSize {
    /// 4096 bytes, what every tool writes unless told otherwise.
    pub const DEFAULT: Self = Self(4096);

    /// The block size of `bytes` bytes; `None` where it is not a power of two from 512 to 4096.
    #[must_use]
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (512..=4096).contains(&bytes)).then_some(Self(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The size as a length.
    #[must_use]
    pub fn length(self) -> ByteLength {
        ByteLength::new(u64::from(self.0))
    }
}

impl fmt::Display for VerityBlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is put before each block when it is hashed: at most 256 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// The longest salt that the superblock has room for, in bytes.
    pub const MAX: usize = 256;

    /// The salt of these bytes; `None` where they are more than [`Self::MAX`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= Self::MAX).then(|| Self(bytes.to_vec()))
    }

    /// The bytes, possibly none.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Salt {
    /// Lowercase hexadecimal, or `-` for no salt: the word of a dm-verity table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("-"),
            salt => f.write_str(&data_encoding::HEXLOWER.encode(salt)),
        }
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the first 512 bytes of a hash partition say about the tree behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VeritySuperblock {
    /// The UUID of the tree; by convention, not by check, it is random.
    pub uuid: Guid,
    /// The digest.
    pub algorithm: HashAlgorithm,
    /// The size of the blocks that are hashed.
    pub data_block_size: VerityBlockSize,
    /// The size of the blocks of the tree.
    pub hash_block_size: VerityBlockSize,
    /// How many data blocks there are; at least one.
    pub data_blocks: u64,
    /// What is put before each block.
    pub salt: Salt,
}

/// The bytes are not a verity superblock that we accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VeritySuperblockError {
    /// The name of the digest is not one of ours, letter for letter. It would become a word of the kernel's table.
    #[error("expected hash algorithm 'sha256' or 'sha512', found '{found}'")]
    Algorithm {
        /// The field up to its last byte that is not NUL, with everything but printable ASCII escaped.
        found: String,
    },
    /// A block size is not a power of two from 512 to 4096.
    #[error("expected a {field} block size of 512, 1024, 2048 or 4096 bytes, found {found}")]
    BlockSize {
        /// `data` or `hash`.
        field: &'static str,
        /// What the superblock says.
        found: u32,
    },
    /// Another type than 1: type 0 is Chrome OS's, where the salt comes last.
    #[error("expected hash type 1, found {found}")]
    HashType {
        /// What the superblock says.
        found: u32,
    },
    /// The magic is missing.
    #[error("expected the magic of a verity superblock, found something else")]
    Magic,
    /// There is nothing to protect.
    #[error("expected at least one data block, found none")]
    NoDataBlocks,
    /// Bytes that must be zero are not: something may be hidden there, or the format is a later one.
    #[error("expected zeros behind the {field}, found other bytes")]
    Padding {
        /// The field before them: `salt size`, `salt` or `superblock`.
        field: &'static str,
    },
    /// The salt is longer than its field.
    #[error("expected a salt of at most 256 bytes, found {found}")]
    SaltSize {
        /// What the superblock says.
        found: u16,
    },
    /// There are fewer than 512 bytes.
    #[error("expected 512 bytes, found {found}")]
    Truncated {
        /// How many there are.
        found: usize,
    },
    /// Another version than 1.
    #[error("expected version 1, found {found}")]
    Version {
        /// What the superblock says.
        found: u32,
    },
}

impl VeritySuperblock {
    /// How long a superblock is, in bytes.
    pub const SIZE: usize = 512;

    /// The superblock at the beginning of `bytes`; whatever stands behind the first 512 is not looked at.
    ///
    /// # Errors
    /// A [`VeritySuperblockError`] for everything but the one form that [`Self::to_bytes`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, VeritySuperblockError> {
        let raw: &[u8; Self::SIZE] =
            bytes.first_chunk().ok_or(VeritySuperblockError::Truncated { found: bytes.len() })?;
        let raw: Raw = zerocopy::transmute!(*raw);
        if raw.magic != MAGIC {
            return Err(VeritySuperblockError::Magic);
        }
        if raw.version.get() != VERSION {
            return Err(VeritySuperblockError::Version { found: raw.version.get() });
        }
        if raw.hash_type.get() != HASH_TYPE {
            return Err(VeritySuperblockError::HashType { found: raw.hash_type.get() });
        }
        let algorithm = algorithm(&raw.algorithm)?;
        let block_size = |field, size: u32| {
            VerityBlockSize::new(size).ok_or(VeritySuperblockError::BlockSize { field, found: size })
        };
        let data_block_size = block_size("data", raw.data_block_size.get())?;
        let hash_block_size = block_size("hash", raw.hash_block_size.get())?;
        if raw.data_blocks.get() == 0 {
            return Err(VeritySuperblockError::NoDataBlocks);
        }
        let (salt, behind) = raw
            .salt
            .split_at_checked(usize::from(raw.salt_size.get()))
            .ok_or(VeritySuperblockError::SaltSize { found: raw.salt_size.get() })?;
        for (field, zeros) in
            [("salt size", &raw.padding_1[..]), ("salt", behind), ("superblock", &raw.padding_2[..])]
        {
            if zeros.iter().any(|byte| *byte != 0) {
                return Err(VeritySuperblockError::Padding { field });
            }
        }
        Ok(Self {
            uuid: Guid::from_bytes(raw.uuid),
            algorithm,
            data_block_size,
            hash_block_size,
            data_blocks: raw.data_blocks.get(),
            salt: Salt(salt.to_vec()),
        })
    }

    /// The superblock as it stands on a disk.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut raw = Raw {
            magic: MAGIC,
            version: VERSION.into(),
            hash_type: HASH_TYPE.into(),
            uuid: *self.uuid.as_bytes(),
            algorithm: [0; 32],
            data_block_size: self.data_block_size.bytes().into(),
            hash_block_size: self.hash_block_size.bytes().into(),
            data_blocks: self.data_blocks.into(),
            salt_size: u16::try_from(self.salt.0.len()).unwrap_or_default().into(),
            padding_1: [0; 6],
            salt: [0; Salt::MAX],
            padding_2: [0; 168],
        };
        for (to, from) in raw.algorithm.iter_mut().zip(self.algorithm.as_str().bytes()) {
            *to = from;
        }
        for (to, from) in raw.salt.iter_mut().zip(&self.salt.0) {
            *to = *from;
        }
        zerocopy::transmute!(raw)
    }
}

/// The digest of that name, which must fill the field with nothing but NULs behind it.
fn algorithm(field: &[u8; 32]) -> Result<HashAlgorithm, VeritySuperblockError> {
    let end = field.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    let name = field.get(..end).unwrap_or_default();
    HashAlgorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm.as_str().as_bytes() == name)
        .ok_or_else(|| VeritySuperblockError::Algorithm { found: name.escape_ascii().to_string() })
}

// --- On the disk ---

/// What a superblock begins with.
const MAGIC: [u8; 8] = *b"verity\0\0";
/// The only version there is.
const VERSION: u32 = 1;
/// The usual tree, with the salt first.
const HASH_TYPE: u32 = 1;

/// The superblock, field by field (cryptsetup lib/verity/verity.c describes the same layout).
#[derive(
    zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout, Clone, Copy,
)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: zerocopy::little_endian::U32,
    hash_type: zerocopy::little_endian::U32,
    uuid: [u8; 16],
    algorithm: [u8; 32],
    data_block_size: zerocopy::little_endian::U32,
    hash_block_size: zerocopy::little_endian::U32,
    data_blocks: zerocopy::little_endian::U64,
    salt_size: zerocopy::little_endian::U16,
    padding_1: [u8; 6],
    salt: [u8; Salt::MAX],
    padding_2: [u8; 168],
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `veritysetup format --uuid=… --salt=abcdef` of cryptsetup 2.6.1 wrote for 16 blocks.
    fn real() -> [u8; 512] {
        let text = include_str!("../../../tests/data/superblocks/verity.sparse");
        let mut bytes = [0; 512];
        for line in text.lines().skip(2) {
            let (offset, hex) = line.split_once(' ').unwrap();
            let offset: usize = offset.parse().unwrap();
            let data = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            if offset < 512 {
                bytes[offset..offset + data.len()].copy_from_slice(&data);
            }
        }
        bytes
    }

    #[test]
    fn what_veritysetup_writes_is_read_and_written_alike() {
        let parsed = VeritySuperblock::parse(&real()).unwrap();
        assert_eq!(parsed.uuid.to_string(), "6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c");
        assert_eq!(parsed.algorithm, HashAlgorithm::Sha256);
        assert_eq!((parsed.data_block_size.bytes(), parsed.hash_block_size.bytes()), (4096, 4096));
        assert_eq!(parsed.data_blocks, 16);
        assert_eq!(parsed.salt.to_string(), "abcdef");
        assert_eq!(parsed.to_bytes(), real());
    }

    #[test]
    fn a_missing_salt_is_a_dash_in_a_table() {
        assert_eq!(Salt::default().to_string(), "-");
        assert_eq!(Salt::new(&[0; 257]), None);
    }

    #[test]
    fn every_field_that_is_not_ours_is_refused_by_name() {
        use VeritySuperblockError as E;
        let algorithm = |found: &str| E::Algorithm { found: found.to_owned() };
        let cases: [(usize, &[u8], E); 20] = [
            (0, b"V", E::Magic),
            (7, b"1", E::Magic),
            (8, &[2], E::Version { found: 2 }),
            (8, &[0], E::Version { found: 0 }),
            (12, &[0], E::HashType { found: 0 }),
            (32, b"sha1\0\0", algorithm("sha1")),
            (32, b"SHA256", algorithm("SHA256")),
            (32, b"sha256 ", algorithm("sha256 ")),
            (32, b"crc32 00000000 - 0", algorithm("crc32 00000000 - 0")),
            (32, b"sha256\0x", algorithm("sha256\\x00x")),
            (32, &[0; 32], algorithm("")),
            (64, &256_u32.to_le_bytes(), E::BlockSize { field: "data", found: 256 }),
            (64, &8192_u32.to_le_bytes(), E::BlockSize { field: "data", found: 8192 }),
            (68, &3072_u32.to_le_bytes(), E::BlockSize { field: "hash", found: 3072 }),
            (68, &0_u32.to_le_bytes(), E::BlockSize { field: "hash", found: 0 }),
            (72, &[0; 8], E::NoDataBlocks),
            (80, &257_u16.to_le_bytes(), E::SaltSize { found: 257 }),
            (82, &[1], E::Padding { field: "salt size" }),
            (88 + 3, &[1], E::Padding { field: "salt" }),
            (511, &[1], E::Padding { field: "superblock" }),
        ];
        for (offset, patch, expected) in cases {
            let mut bytes = real();
            bytes[offset..offset + patch.len()].copy_from_slice(patch);
            assert_eq!(VeritySuperblock::parse(&bytes), Err(expected.clone()), "{expected}");
        }
        assert_eq!(VeritySuperblock::parse(&real()[..511]), Err(E::Truncated { found: 511 }));
        assert_eq!(VeritySuperblock::parse(&[]), Err(E::Truncated { found: 0 }));
    }
}
