//! Where the levels of a hash tree lie.

use crate::format::root_hash::HashAlgorithm;
use crate::format::units::{ByteLength, ByteOffset, Extent, SectorSize};

use super::{VerityBlockSize, VeritySuperblock};

/// One level of a hash tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashTreeLevel {
    /// Where it begins, in bytes from the beginning of the hash partition.
    pub offset: ByteOffset,
    /// How many hash blocks it has; at least one.
    pub blocks: u64,
    /// How many digests it holds: that of every block of the level below, or of every data block.
    pub digests: u64,
}

/// Where everything of a hash tree lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTreeGeometry {
    algorithm: HashAlgorithm,
    data_block_size: VerityBlockSize,
    hash_block_size: VerityBlockSize,
    data_blocks: u64,
    data_length: ByteLength,
    levels: Vec<HashTreeLevel>,
    tree: Extent,
}

/// The tree does not fit where it has to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashTreeGeometryError {
    /// A block is smaller than a sector, so the device cannot be read block by block.
    #[error("expected a {field} block size of at least the sector size {sector_size}, found {found}")]
    BlockBelowSector {
        /// `data` or `hash`.
        field: &'static str,
        /// The sector size of the device.
        sector_size: SectorSize,
        /// The block size.
        found: VerityBlockSize,
    },
    /// The hashed data is longer than the data partition.
    #[error("expected {expected} bytes of hashed data, found a data partition of {found} bytes")]
    DataTooShort {
        /// What the superblock speaks of.
        expected: ByteLength,
        /// How long the data partition is.
        found: ByteLength,
    },
    /// The tree ends behind the hash partition.
    #[error("expected a hash tree that ends at byte {expected}, found a hash partition of {found} bytes")]
    TreeTooShort {
        /// Where the tree ends.
        expected: ByteOffset,
        /// How long the hash partition is.
        found: ByteLength,
    },
    /// The sizes do not fit 64 bits.
    #[error("expected sizes that fit 64 bits, found {data_blocks} data blocks")]
    TooLarge {
        /// How many data blocks the superblock speaks of.
        data_blocks: u64,
    },
}

impl HashTreeGeometry {
    /// The geometry of the tree that `superblock` describes.
    ///
    /// # Errors
    /// [`HashTreeGeometryError::TooLarge`] where a position does not fit 64 bits.
    pub fn new(superblock: &VeritySuperblock) -> Result<Self, HashTreeGeometryError> {
        Self::compute(superblock)
            .ok_or(HashTreeGeometryError::TooLarge { data_blocks: superblock.data_blocks })
    }

    fn compute(superblock: &VeritySuperblock) -> Option<Self> {
        let block = superblock.hash_block_size.length().bytes();
        let data_length = superblock.data_blocks.checked_mul(superblock.data_block_size.length().bytes())?;
        let hashes_per_block = hashes_per_block(superblock.algorithm, superblock.hash_block_size);

        // From the leaves up, until one block holds everything. A single data block needs no tree: the root hash is
        // the digest of that block, as the kernel and cryptsetup have it.
        let mut upwards = Vec::new();
        let mut digests = superblock.data_blocks;
        while digests > 1 {
            let blocks = digests.div_ceil(hashes_per_block);
            upwards.push((blocks, digests));
            digests = blocks;
        }

        // The superblock takes the first hash block, or the first several where they are smaller than it.
        let start = ByteLength::of(&[0; VeritySuperblock::SIZE]).bytes().checked_next_multiple_of(block)?;
        let mut offset = ByteOffset::new(start);
        let mut levels = Vec::with_capacity(upwards.len());
        for (blocks, digests) in upwards.into_iter().rev() {
            levels.push(HashTreeLevel { offset, blocks, digests });
            offset = offset.checked_add(ByteLength::new(blocks.checked_mul(block)?))?;
        }
        let start = ByteOffset::new(start);
        Some(Self {
            algorithm: superblock.algorithm,
            data_block_size: superblock.data_block_size,
            hash_block_size: superblock.hash_block_size,
            data_blocks: superblock.data_blocks,
            data_length: ByteLength::new(data_length),
            levels,
            tree: Extent::new(start, offset.checked_distance_from(start)?)?,
        })
    }

    /// The digest.
    #[must_use]
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The size of the blocks that are hashed.
    #[must_use]
    pub const fn data_block_size(&self) -> VerityBlockSize {
        self.data_block_size
    }

    /// The size of the blocks of the tree.
    #[must_use]
    pub const fn hash_block_size(&self) -> VerityBlockSize {
        self.hash_block_size
    }

    /// How many data blocks there are; at least one.
    #[must_use]
    pub const fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// How many bytes are hashed, from the beginning of the data partition.
    #[must_use]
    pub const fn data_length(&self) -> ByteLength {
        self.data_length
    }

    /// The levels as they stand on the disk: the topmost, which is one block, first; the leaf level, with the digests
    /// of the data blocks, last. None at all where there is a single data block: then the root hash is its digest.
    #[must_use]
    pub fn levels(&self) -> &[HashTreeLevel] {
        &self.levels
    }

    /// All levels together, in bytes from the beginning of the hash partition; empty where there are no levels.
    #[must_use]
    pub const fn tree_extent(&self) -> Extent {
        self.tree
    }

    /// The first hash block of the tree, in hash blocks from the beginning of the hash partition: the word
    /// `hash_start_block` of a dm-verity table.
    #[must_use]
    pub fn first_hash_block(&self) -> u64 {
        self.tree.start().bytes() / self.hash_block_size.length().bytes()
    }

    /// How many digests a hash block has room for: a power of two.
    #[must_use]
    pub fn hashes_per_block(&self) -> u64 {
        hashes_per_block(self.algorithm, self.hash_block_size)
    }

    /// Whether the tree lies inside a hash partition and the data inside a data partition of these lengths.
    ///
    /// # Errors
    /// [`HashTreeGeometryError::TreeTooShort`], [`HashTreeGeometryError::DataTooShort`].
    pub fn fits(&self, hash: ByteLength, data: ByteLength) -> Result<(), HashTreeGeometryError> {
        if self.tree.end().bytes() > hash.bytes() {
            return Err(HashTreeGeometryError::TreeTooShort { expected: self.tree.end(), found: hash });
        }
        if self.data_length > data {
            return Err(HashTreeGeometryError::DataTooShort { expected: self.data_length, found: data });
        }
        Ok(())
    }

    /// Whether devices with sectors of this size can be read in the tree's blocks.
    ///
    /// # Errors
    /// [`HashTreeGeometryError::BlockBelowSector`].
    pub fn suits(&self, sector_size: SectorSize) -> Result<(), HashTreeGeometryError> {
        for (field, found) in [("data", self.data_block_size), ("hash", self.hash_block_size)] {
            if found.bytes() < sector_size.bytes() {
                return Err(HashTreeGeometryError::BlockBelowSector { field, sector_size, found });
            }
        }
        Ok(())
    }
}

/// Both digests are powers of two long, and so is every block: no slot needs rounding, and no block is left over.
fn hashes_per_block(algorithm: HashAlgorithm, hash_block_size: VerityBlockSize) -> u64 {
    match algorithm {
        HashAlgorithm::Sha256 => hash_block_size.length().bytes() / 32,
        HashAlgorithm::Sha512 => hash_block_size.length().bytes() / 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::guid::Guid;
    use crate::format::verity::Salt;

    fn superblock(algorithm: HashAlgorithm, block_size: u32, data_blocks: u64) -> VeritySuperblock {
        VeritySuperblock {
            uuid: Guid::ZERO,
            algorithm,
            data_block_size: VerityBlockSize::new(block_size).unwrap(),
            hash_block_size: VerityBlockSize::new(block_size).unwrap(),
            data_blocks,
            salt: Salt::new(b"salt").unwrap(),
        }
    }

    #[test]
    fn levels_stand_root_first_behind_the_superblock() {
        let geometry = HashTreeGeometry::new(&superblock(HashAlgorithm::Sha256, 4096, 16385)).unwrap();
        let levels: Vec<_> = geometry
            .levels()
            .iter()
            .map(|level| (level.offset.bytes(), level.blocks, level.digests))
            .collect();
        assert_eq!(levels, [(4096, 1, 2), (8192, 2, 129), (16384, 129, 16385)]);
        assert_eq!(geometry.tree_extent().end().bytes(), 16384 + 129 * 4096);
        assert_eq!(geometry.data_length().bytes(), 16385 * 4096);
        assert_eq!(geometry.first_hash_block(), 1);
    }

    #[test]
    fn a_single_data_block_has_no_tree() {
        let geometry = HashTreeGeometry::new(&superblock(HashAlgorithm::Sha512, 512, 1)).unwrap();
        assert_eq!(geometry.levels(), []);
        assert!(geometry.tree_extent().is_empty());
        assert_eq!(geometry.fits(ByteLength::new(512), ByteLength::new(512)), Ok(()));
    }

    #[test]
    fn a_tree_or_data_that_sticks_out_is_refused_by_name() {
        let geometry = HashTreeGeometry::new(&superblock(HashAlgorithm::Sha256, 4096, 129)).unwrap();
        let (hash, data) = (ByteLength::new(4096 * 4), ByteLength::new(4096 * 129));
        assert_eq!(geometry.fits(hash, data), Ok(()));
        let short = ByteLength::new(hash.bytes() - 1);
        assert_eq!(
            geometry.fits(short, data),
            Err(HashTreeGeometryError::TreeTooShort {
                expected: ByteOffset::new(hash.bytes()),
                found: short
            })
        );
        let short = ByteLength::new(data.bytes() - 1);
        assert_eq!(
            geometry.fits(hash, short),
            Err(HashTreeGeometryError::DataTooShort { expected: data, found: short })
        );
    }

    #[test]
    fn sizes_beyond_64_bits_are_refused_by_name() {
        for data_blocks in [u64::MAX, u64::MAX / 512] {
            let large = superblock(HashAlgorithm::Sha256, 4096, data_blocks);
            assert_eq!(HashTreeGeometry::new(&large), Err(HashTreeGeometryError::TooLarge { data_blocks }));
        }
        let mut crowded = superblock(HashAlgorithm::Sha512, 512, u64::MAX / 512);
        crowded.hash_block_size = VerityBlockSize::DEFAULT;
        assert_eq!(HashTreeGeometry::new(&crowded).map(|geometry| geometry.levels().len()), Ok(10));
    }

    #[test]
    fn blocks_below_a_sector_are_refused_by_name() {
        let mut small = superblock(HashAlgorithm::Sha256, 4096, 10);
        small.hash_block_size = VerityBlockSize::new(512).unwrap();
        let geometry = HashTreeGeometry::new(&small).unwrap();
        let sector_size = SectorSize::new(4096).unwrap();
        assert_eq!(geometry.suits(SectorSize::DEFAULT), Ok(()));
        assert_eq!(
            geometry.suits(sector_size),
            Err(HashTreeGeometryError::BlockBelowSector {
                field: "hash",
                sector_size,
                found: VerityBlockSize::new(512).unwrap(),
            })
        );
    }

    /// Sizes of the hash files that `veritysetup format` of cryptsetup 2.6.1 wrote, by `tests/data/verity/make.py`.
    #[test]
    fn the_geometry_is_that_of_veritysetup() {
        let vectors = include_str!("../../../tests/data/verity/geometry.txt");
        let mut checked = 0;
        for line in vectors.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [algorithm, block_size, data_blocks, hash_file, levels @ ..] = fields.as_slice() else {
                panic!("{line}");
            };
            let algorithm =
                HashAlgorithm::ALL.into_iter().find(|known| known.as_str() == *algorithm).unwrap();
            let superblock = superblock(algorithm, block_size.parse().unwrap(), data_blocks.parse().unwrap());
            let geometry = HashTreeGeometry::new(&superblock).unwrap();
            assert_eq!(geometry.tree_extent().end().to_string(), *hash_file, "{line}");
            // Where each level begins on the disk was found by following the digests down from the root hash.
            let found: Vec<String> = geometry.levels().iter().map(|level| level.offset.to_string()).collect();
            assert_eq!(found, levels, "{line}");
            checked += 1;
        }
        assert_eq!(checked, 36);
    }
}
