//! LUKS headers of both versions (LUKS1 On-Disk Format Specification 1.2.3; LUKS2 On-Disk Format Specification 1.1.3).
//!
//! Everything here is as the image has it, for others to judge. LUKS2 keeps a second copy of its header, and
//! cryptsetup turns to it where the first is damaged or older, and writes it over the first: whoever opens a volume must
//! have seen both copies intact and the same, see [`Luks2Header::metadata`].

use sha2::Digest;

use crate::format::sparse::Window;
use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::{Numbers, Superblock, SuperblockKind};

mod integrity;
mod mapping;
mod metadata;

pub use integrity::{IntegrityError, IntegritySuperblock};
pub use mapping::{CryptKey, CryptTable, CryptTableDiffers, CryptTableError, Mapping, MappingError};
pub use metadata::{KeyDerivation, Luks2Digest, Luks2KeySlot, Luks2Metadata, Luks2Segment};

/// The header of an encrypted volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LuksHeader {
    /// Version 1.
    Luks1(Luks1Header),
    /// Version 2, of which the metadata is yet to be read.
    Luks2(Luks2Header),
}

/// What a header of version 1 says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks1Header {
    /// The cipher, such as `aes`.
    pub cipher_name: String,
    /// How the cipher is used, such as `xts-plain64`.
    pub cipher_mode: String,
    /// The digest for keys, such as `sha256`.
    pub hash: String,
    /// The length of the volume key in bytes.
    pub key_bytes: u32,
    /// Where the encrypted data begins, relative to the partition; within it.
    pub payload: ByteOffset,
    /// The UUID as text.
    pub uuid: String,
    /// How often the digest of the key is iterated.
    pub digest_iterations: u32,
    /// The key slots in use.
    pub key_slots: Vec<Luks1KeySlot>,
}

/// A key slot in use of a header of version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Luks1KeySlot {
    /// Its number.
    pub number: u32,
    /// How often the passphrase is hashed.
    pub iterations: u32,
    /// Where the key is, encrypted and split into stripes; relative to the partition.
    pub material: Extent,
}

/// What the binary part of a header of version 2 says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks2Header {
    /// How long one copy of the header is, binary part and JSON area: one of the nine sizes of the specification.
    pub header_size: ByteLength,
    /// Counts the changes; the copy with the larger number is the newer.
    pub sequence_id: u64,
    /// The label, possibly empty.
    pub label: String,
    /// The digest of the checksum, such as `sha256`.
    pub checksum_algorithm: String,
    /// The UUID as text.
    pub uuid: String,
    /// The subsystem, possibly empty.
    pub subsystem: String,
}

/// The header or its metadata are not what the specifications allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LuksError {
    /// Something stands behind the NUL that ends the metadata.
    #[error("expected zeros behind the metadata of a LUKS2 header, found other bytes")]
    BytesBehindMetadata,
    /// The header is not the one its checksum was made for.
    #[error("expected a LUKS2 header with a matching checksum, found another")]
    Checksum,
    /// The checksum is made with a digest that we do not have.
    #[error("expected checksum algorithm 'sha256' or 'sha512' in a LUKS2 header, found '{}'", .found.escape_debug())]
    ChecksumAlgorithm {
        /// What the header says.
        found: String,
    },
    /// The header says that it is somewhere else.
    #[error("expected a LUKS2 header for byte 0, found one for byte {found}")]
    HeaderOffset {
        /// What the header says.
        found: u64,
    },
    /// A header of version 2 has a size that the specification does not list, or two copies do not fit the partition.
    #[error(
        "expected a LUKS2 header of 16 KiB to 4 MiB, a power of two and twice in {partition} bytes, found {found} bytes"
    )]
    HeaderSize {
        /// The length of the partition.
        partition: ByteLength,
        /// What the header says.
        found: u64,
    },
    /// The metadata is longer than any header.
    #[error("expected at most {} bytes of LUKS2 metadata, found {found}", Luks2Metadata::MAX)]
    MetadataTooLarge {
        /// How long it is.
        found: ByteLength,
    },
    /// A string in the metadata contains a NUL. For libcryptsetup it ends there: the two of us would not read the same.
    #[error("expected LUKS2 metadata without NULs in its strings, found one")]
    NulInMetadata,
    /// The data would begin behind the partition.
    #[error("expected LUKS1 data within {partition} bytes, found it at {found}")]
    Payload {
        /// The length of the partition.
        partition: ByteLength,
        /// What the header says.
        found: ByteOffset,
    },
    /// The second copy of the header is not the same as the first.
    #[error("expected a second LUKS2 header that is intact and the same as the first, found {found}")]
    SecondCopy {
        /// In which field it differs, or what is wrong with it.
        found: String,
    },
    /// There is a second copy of a header and no first: cryptsetup would restore the first from it.
    #[error("expected a LUKS2 header at byte 0, found only its second copy at byte {found}")]
    SecondCopyAlone {
        /// Where the second copy is.
        found: u64,
    },
    /// A member of the metadata is missing or not of its kind.
    #[error("expected {expected} at '{path}' in LUKS2 metadata, found something else or nothing")]
    Structure {
        /// The member, with its parents, separated by dots.
        path: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// The metadata is not JSON.
    #[error("expected LUKS2 metadata as JSON, found an error: {message}")]
    Syntax {
        /// What the JSON parser says.
        message: String,
    },
    /// The metadata has more values than any volume needs: in memory each takes a hundred times its text.
    #[error("expected at most {} values in LUKS2 metadata, found {found}", Luks2Metadata::MAXIMUM_VALUES)]
    TooManyValues {
        /// How many there can be.
        found: usize,
    },
    /// The partition ends within the header, or it was not read.
    #[error("expected a whole LUKS header, found less")]
    Truncated,
    /// Neither version 1 nor 2.
    #[error("expected LUKS version 1 or 2, found {found}")]
    Version {
        /// What the header says.
        found: u16,
    },
}

/// Whether a cipher encrypts nothing, in the spelling of dm-crypt or of the kernel's crypto API: `null`, `cipher_null`,
/// `ecb(cipher_null)`, `digest_null` for an authentication. No cipher that encrypts has the word in its name; the `null`
/// initialisation vector, which makes equal sectors look equal, is refused with it.
fn is_null_cipher(cipher: &str) -> bool {
    cipher.to_ascii_lowercase().contains("null")
}

impl LuksHeader {
    /// What every header begins with.
    const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
    /// The most that lies in front of the data and that a reader needs: two copies of the largest header, and the most
    /// space that cryptsetup gives to key slots, 128 MiB.
    pub const MAXIMUM_HEAD: ByteLength = ByteLength::new((8 << 20) + (128 << 20));

    /// The header at the beginning of a partition, of which the first 592 bytes must have been read; `None` where there
    /// is no LUKS magic.
    ///
    /// # Errors
    /// A [`LuksError`] for a header that cannot be one.
    pub fn parse(window: &Window<'_>) -> Option<Result<Self, LuksError>> {
        if window.array(0)? != Self::MAGIC {
            return None;
        }
        Some(match window.be16(6) {
            Some(1) => Luks1Header::parse(window).map(Self::Luks1),
            Some(2) => Luks2Header::parse(window).map(Self::Luks2),
            Some(found) => Err(LuksError::Version { found }),
            None => Err(LuksError::Truncated),
        })
    }

    /// The UUID as text.
    #[must_use]
    pub fn uuid(&self) -> &str {
        match self {
            Self::Luks1(header) => &header.uuid,
            Self::Luks2(header) => &header.uuid,
        }
    }

    /// How many key slots there are to try.
    #[must_use]
    pub fn key_slot_count(&self, metadata: Option<&Luks2Metadata>) -> usize {
        match self {
            Self::Luks1(header) => header.key_slots.len(),
            Self::Luks2(_) => metadata.map_or(0, |metadata| metadata.usable_key_slots().count()),
        }
    }

    /// All that a reader needs to get at the key, relative to the partition: the copies of the header and the areas of
    /// the key slots. They may overlap and lie anywhere: that is for others to judge.
    #[must_use]
    pub fn head_extents(&self, metadata: Option<&Luks2Metadata>) -> Vec<Extent> {
        match self {
            Self::Luks1(header) => {
                let binary = Extent::from_beginning(ByteLength::new(Luks1Header::SIZE));
                std::iter::once(binary).chain(header.key_slots.iter().map(|slot| slot.material)).collect()
            }
            Self::Luks2(header) => {
                let both = ByteLength::new(header.header_size.bytes().saturating_mul(2));
                let areas = metadata.map_or(&[][..], |metadata| &metadata.key_slots);
                std::iter::once(Extent::from_beginning(both))
                    .chain(areas.iter().filter_map(|slot| slot.area))
                    .collect()
            }
        }
    }
}

/// The header as a superblock.
pub(super) fn probe(window: &Window<'_>) -> Option<Superblock> {
    let kind = match LuksHeader::parse(window) {
        Some(Ok(header)) => SuperblockKind::Luks(header),
        Some(Err(error)) => SuperblockKind::MalformedLuks(error),
        None => SuperblockKind::MalformedLuks(LuksError::SecondCopyAlone { found: second_copy(window)? }),
    };
    Some(Superblock::unchecked(kind, None))
}

/// Where a second copy may lie that is looked for without a first: behind the three smallest headers, of which
/// cryptsetup makes the smallest. What is larger would cost a read of its own for every partition.
pub(super) const SECOND_COPIES: [u64; 3] = [16 << 10, 32 << 10, 64 << 10];
/// How much of it is read.
pub(super) const SECOND_COPY_MAGIC: u64 = 8;

fn second_copy(window: &Window<'_>) -> Option<u64> {
    SECOND_COPIES
        .into_iter()
        .find(|at| window.array(*at) == Some(Luks2Header::SECOND_MAGIC) && window.be16(at + 6) == Some(2))
}

/// The text of a field that is filled with NULs.
fn text(window: &Window<'_>, at: u64, length: usize) -> Result<String, LuksError> {
    let field = window.get(at, length).ok_or(LuksError::Truncated)?;
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

impl Luks1Header {
    /// How long the header is without the keys, in bytes.
    const SIZE: u64 = 592;
    /// What a key slot in use begins with.
    const KEY_ENABLED: u32 = 0x00ac_71f3;

    /// Key slot `number`, if it is in use.
    fn key_slot(window: &Window<'_>, number: u32, key_bytes: u32) -> Result<Option<Luks1KeySlot>, LuksError> {
        let at = u64::from(number).saturating_mul(48).saturating_add(208);
        let field = |offset| window.be32(at.saturating_add(offset)).ok_or(LuksError::Truncated);
        if field(0)? != Self::KEY_ENABLED {
            return Ok(None);
        }
        let start = u64::from(field(40)?).saturating_mul(512);
        let length = u64::from(key_bytes).saturating_mul(u64::from(field(44)?));
        let length = length.checked_next_multiple_of(512).unwrap_or(u64::MAX);
        let found = ByteOffset::new(start);
        let material = Extent::new(found, ByteLength::new(length))
            .filter(|material| Extent::from_beginning(window.length()).contains(*material))
            .ok_or(LuksError::Payload { partition: window.length(), found })?;
        Ok(Some(Luks1KeySlot { number, iterations: field(4)?, material }))
    }

    fn parse(window: &Window<'_>) -> Result<Self, LuksError> {
        let number = |at| window.be32(at).ok_or(LuksError::Truncated);
        let payload = ByteOffset::new(u64::from(number(104)?).saturating_mul(512));
        if payload.bytes() > window.length().bytes() {
            return Err(LuksError::Payload { partition: window.length(), found: payload });
        }
        let key_bytes = number(108)?;
        let mut key_slots = Vec::new();
        for slot in 0..8 {
            key_slots.extend(Self::key_slot(window, slot, key_bytes)?);
        }
        Ok(Self {
            cipher_name: text(window, 8, 32)?,
            cipher_mode: text(window, 40, 32)?,
            hash: text(window, 72, 32)?,
            key_bytes,
            payload,
            uuid: text(window, 168, 40)?,
            digest_iterations: number(164)?,
            key_slots,
        })
    }

    /// Whether the data is not encrypted at all.
    #[must_use]
    pub fn is_null_cipher(&self) -> bool {
        is_null_cipher(&self.cipher_name) || is_null_cipher(&self.cipher_mode)
    }
}

impl Luks2Header {
    /// How long the binary part is, in bytes.
    pub const BINARY_SIZE: u64 = 4096;
    /// The sizes that one copy may have: 16 KiB to 4 MiB (specification, table 1).
    const SIZES: std::ops::RangeInclusive<u64> = 16 << 10..=4 << 20;
    /// Where the checksum stands.
    const CHECKSUM: usize = 448;
    /// What the second copy begins with.
    const SECOND_MAGIC: [u8; 6] = *b"SKUL\xba\xbe";

    fn parse(window: &Window<'_>) -> Result<Self, LuksError> {
        let number = |at| window.be64(at).ok_or(LuksError::Truncated);
        let (found, partition) = (number(8)?, window.length());
        if !found.is_power_of_two() || !Self::SIZES.contains(&found) || found > partition.bytes() / 2 {
            return Err(LuksError::HeaderSize { partition, found });
        }
        match number(256)? {
            0 => {}
            found => return Err(LuksError::HeaderOffset { found }),
        }
        Ok(Self {
            header_size: ByteLength::new(found),
            sequence_id: number(16)?,
            label: text(window, 24, 48)?,
            checksum_algorithm: text(window, 72, 32)?,
            uuid: text(window, 168, 40)?,
            subsystem: text(window, 208, 48)?,
        })
    }

    /// The first copy of the header, relative to the partition.
    #[must_use]
    pub fn header_extent(&self) -> Extent {
        Extent::from_beginning(self.header_size)
    }

    /// The JSON area of the first copy, relative to the partition: for [`Luks2Metadata::parse_json`].
    #[must_use]
    pub fn json_extent(&self) -> Extent {
        let binary = ByteLength::new(Self::BINARY_SIZE);
        let length = ByteLength::new(self.header_size.bytes().saturating_sub(Self::BINARY_SIZE));
        self.header_extent().part(binary, length).unwrap_or(Extent::from_beginning(ByteLength::ZERO))
    }

    /// Whether `header`, all bytes of [`Self::header_extent`], is what its checksum was made for.
    ///
    /// # Errors
    /// [`LuksError::Checksum`], [`LuksError::ChecksumAlgorithm`], and [`LuksError::Truncated`] where the bytes are not
    /// as many as the header has.
    pub fn verify_checksum(&self, header: &[u8]) -> Result<(), LuksError> {
        if ByteLength::of(header) != self.header_size {
            return Err(LuksError::Truncated);
        }
        let (before, rest) = header.split_at_checked(Self::CHECKSUM).ok_or(LuksError::Truncated)?;
        let (stored, behind) = rest.split_first_chunk::<64>().ok_or(LuksError::Truncated)?;
        let parts = [before, &[0; 64], behind];
        let matches = match self.checksum_algorithm.as_str() {
            "sha256" => stored.starts_with(&digest::<sha2::Sha256>(parts)),
            "sha512" => stored.starts_with(&digest::<sha2::Sha512>(parts)),
            found => return Err(LuksError::ChecksumAlgorithm { found: found.to_owned() }),
        };
        if matches { Ok(()) } else { Err(LuksError::Checksum) }
    }
}

impl Luks2Header {
    /// The metadata, if both copies are intact and the same: `head` is the first twice [`Self::header_size`] bytes of the
    /// partition. Only then does cryptsetup read it and repair nothing.
    ///
    /// # Errors
    /// A [`LuksError`]; [`LuksError::SecondCopy`] where the second copy differs.
    pub fn metadata(&self, head: &[u8]) -> Result<Luks2Metadata, LuksError> {
        let length = self.header_size.in_memory().ok_or(LuksError::Truncated)?;
        let (first, second) = head.split_at_checked(length).ok_or(LuksError::Truncated)?;
        let second = second.get(..length).ok_or(LuksError::Truncated)?;
        self.verify_checksum(first)?;
        self.verify_second(first, second)?;
        let binary = usize::try_from(Self::BINARY_SIZE).map_err(|_| LuksError::Truncated)?;
        Luks2Metadata::parse_json(first.get(binary..).ok_or(LuksError::Truncated)?)
    }

    /// Whether the second copy is intact and differs from the first only where it must: magic, salt, own place,
    /// checksum.
    fn verify_second(&self, first: &[u8], second: &[u8]) -> Result<(), LuksError> {
        let differs = |found: &str| LuksError::SecondCopy { found: found.to_owned() };
        if !second.starts_with(&Self::SECOND_MAGIC) {
            return Err(differs("another magic"));
        }
        let place = second.get(256..264).ok_or(LuksError::Truncated)?;
        if place != self.header_size.bytes().to_be_bytes() {
            return Err(differs("one for another place"));
        }
        // Fields of the binary header (specification, section 2.1): name, first byte, byte behind.
        for (field, from, to) in [
            ("another version", 6, 8),
            ("another size", 8, 16),
            ("another sequence number", 16, 24),
            ("another label", 24, 72),
            ("another checksum algorithm", 72, 104),
            ("another UUID", 168, 208),
            ("another subsystem", 208, 256),
            ("other metadata", 4096, first.len()),
        ] {
            if first.get(from..to) != second.get(from..to) {
                return Err(differs(field));
            }
        }
        self.verify_checksum(second).map_err(|error| match error {
            LuksError::Checksum => differs("another checksum than its bytes have"),
            other => other,
        })
    }
}

fn digest<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::*;

    pub(super) fn header(fixture: &Fixture) -> Luks2Header {
        match LuksHeader::parse(&fixture.window()).unwrap().unwrap() {
            LuksHeader::Luks2(header) => header,
            LuksHeader::Luks1(_) => panic!("version 1"),
        }
    }

    #[test]
    fn version_1_names_its_cipher() {
        let fixture = Fixture::load("luks1");
        let Some(Ok(LuksHeader::Luks1(header))) = LuksHeader::parse(&fixture.window()) else { panic!() };
        assert_eq!((header.cipher_name.as_str(), header.cipher_mode.as_str()), ("aes", "xts-plain64"));
        assert_eq!(header.uuid, "6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c");
        assert_eq!(header.key_bytes, 64);
        assert!(!header.is_null_cipher());
        let fixture = fixture.patched(8, b"cipher_null\0");
        let Some(Ok(LuksHeader::Luks1(header))) = LuksHeader::parse(&fixture.window()) else { panic!() };
        assert!(header.is_null_cipher());
    }

    #[test]
    fn headers_that_cannot_be_ones_are_refused_by_name() {
        let partition = ByteLength::new(32 << 20);
        let size = |found: u64| LuksError::HeaderSize { partition, found };
        let payload = ByteOffset::new(0xffff_ffff * 512);
        for (name, offset, patch, expected) in [
            ("luks2", 6, &3_u16.to_be_bytes()[..], LuksError::Version { found: 3 }),
            ("luks2", 6, &[0, 0], LuksError::Version { found: 0 }),
            ("luks2", 8, &4096_u64.to_be_bytes(), size(4096)),
            ("luks2", 8, &16385_u64.to_be_bytes(), size(16385)),
            ("luks2", 8, &(8_u64 << 20).to_be_bytes(), size(8 << 20)),
            ("luks2", 8, &[0xff; 8], size(u64::MAX)),
            ("luks2", 8, &[0; 8], size(0)),
            ("luks2", 256, &[0, 0, 0, 0, 0, 0, 0x40, 0], LuksError::HeaderOffset { found: 16384 }),
            ("luks1", 104, &[0xff; 4], LuksError::Payload { partition, found: payload }),
        ] {
            let fixture = Fixture::load(name).patched(offset, patch);
            assert_eq!(LuksHeader::parse(&fixture.window()), Some(Err(expected.clone())), "{expected}");
            assert_eq!(probe(&fixture.window()).unwrap().kind, SuperblockKind::MalformedLuks(expected));
        }
        let short = Fixture::load("luks2").resized(16384);
        assert!(matches!(LuksHeader::parse(&short.window()), Some(Err(LuksError::HeaderSize { .. }))));
        let short = Fixture::load("luks1").resized(100);
        assert_eq!(LuksHeader::parse(&short.window()), Some(Err(LuksError::Truncated)));
        assert_eq!(LuksHeader::parse(&Fixture::load("ext4").window()), None);
    }

    #[test]
    fn version_2_has_a_checksum() {
        let fixture = Fixture::load("luks2");
        let header = header(&fixture);
        assert_eq!(header.header_size, ByteLength::new(16384));
        let mut bytes = fixture.all(header.header_extent());
        assert_eq!(header.verify_checksum(&bytes), Ok(()));
        bytes[5000] ^= 1;
        assert_eq!(header.verify_checksum(&bytes), Err(LuksError::Checksum));
        assert_eq!(header.verify_checksum(&bytes[1..]), Err(LuksError::Truncated));
        let other = Luks2Header { checksum_algorithm: "crc32".to_owned(), ..header };
        let found = "crc32".to_owned();
        assert_eq!(other.verify_checksum(&bytes), Err(LuksError::ChecksumAlgorithm { found }));
    }
}
