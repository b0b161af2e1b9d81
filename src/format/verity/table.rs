//! The table line of a dm-verity target, and what such a target says of its health.
//!
//! The words are those of Documentation/admin-guide/device-mapper/verity.rst. A line for the kernel is made from typed
//! values alone; a line that the kernel reports is read back into the same type, so that the two can be compared. An
//! option that would weaken the check (`ignore_corruption`) or that we never set cannot be expressed: a device that has
//! one is not taken for one of ours.

use std::fmt;
use std::str::FromStr;

use super::{Salt, VerityBlockSize, VeritySuperblock};
use crate::format::root_hash::{HashAlgorithm, RootHash};
use crate::format::units::ByteLength;

/// The version of the target's format where the salt comes first, the only one that is used.
const VERSION: &str = "1";
/// Bytes of a table line that are looked at: the longest one that we can make is less than half as long.
const MAXIMUM_LENGTH: usize = 4096;

/// Major and minor number of a block device, as a table names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MajorMinor {
    /// The driver's half.
    pub major: u32,
    /// The driver's own count.
    pub minor: u32,
}

impl fmt::Display for MajorMinor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What the kernel does when a block is not what the hash tree says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum OnCorruption {
    /// The read fails with an I/O error.
    #[default]
    Eio,
    /// The kernel panics.
    Panic,
    /// The machine restarts.
    Restart,
}

impl OnCorruption {
    /// All of them, the mildest first.
    pub const ALL: [Self; 3] = [Self::Eio, Self::Panic, Self::Restart];

    /// The word of our command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eio => "eio",
            Self::Panic => "panic",
            Self::Restart => "restart",
        }
    }

    /// The option of the table; none for what the kernel does by itself.
    const fn option(self) -> Option<&'static str> {
        match self {
            Self::Eio => None,
            Self::Panic => Some("panic_on_corruption"),
            Self::Restart => Some("restart_on_corruption"),
        }
    }
}

impl fmt::Display for OnCorruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names nothing that can be done on corruption.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 'eio', 'panic' or 'restart', found '{}'", .found.escape_debug())]
pub struct OnCorruptionError {
    /// The text.
    pub found: String,
}

impl FromStr for OnCorruption {
    type Err = OnCorruptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or_else(|| OnCorruptionError { found: text.to_owned() })
    }
}

/// The description of the key of type `user` that holds the root hash signature: one word of a table, 1 to 128 bytes
/// of printable ASCII without blanks and backslashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDescription(String);

impl KeyDescription {
    /// The longest description, in bytes.
    pub const MAX: usize = 128;

    /// The description with this text; `None` where it would not be one word of a table.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        ((1..=Self::MAX).contains(&text.len()) && plain).then(|| Self(text.to_owned()))
    }

    /// The description of the key that a process makes as its `count`th: no other process of that number has it.
    #[must_use]
    pub fn of_process(process: u32, count: u64) -> Self {
        Self(format!("ddictl:{process}-{count}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A dm-verity target over a whole device, without its place in the mapped device.
///
/// [`Display`](fmt::Display) gives the parameters of the kernel's table line, [`FromStr`] reads them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VerityTable {
    /// The device whose blocks are checked.
    pub data_device: MajorMinor,
    /// The device with the hash tree.
    pub hash_device: MajorMinor,
    /// The size of the blocks that are hashed.
    pub data_block_size: VerityBlockSize,
    /// The size of the blocks of the tree.
    pub hash_block_size: VerityBlockSize,
    /// How many data blocks there are; the device ends behind them.
    pub data_blocks: u64,
    /// Where the tree begins on the hash device, in hash blocks.
    pub hash_start: u64,
    /// The digest of the topmost block, and by which digest.
    pub root_hash: RootHash,
    /// What is put before each block.
    pub salt: Salt,
    /// What happens when a block does not match.
    pub on_corruption: OnCorruption,
    /// The key whose payload is a signature of the root hash, for the kernel to check.
    pub signature_key: Option<KeyDescription>,
}

/// The text is not the table line of a dm-verity target that we could have made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerityTableError {
    /// A word is not what stands in its place.
    #[error("expected {expected} as the {field}, found '{}'", .found.escape_debug())]
    Field {
        /// Which word.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The line ends too early.
    #[error("expected the {field}, found the end of the table")]
    Missing {
        /// What should have come next.
        field: &'static str,
    },
    /// An option that we never set, or one that stands there twice.
    #[error("expected no further option, found '{}'", .found.escape_debug())]
    Option {
        /// Its first word.
        found: String,
    },
    /// The number of option words is not the one that was announced.
    #[error("expected {expected} words of options, found {found}")]
    OptionCount {
        /// The number before them.
        expected: u64,
        /// How many there are.
        found: usize,
    },
    /// No kernel reports so much.
    #[error("expected a table of at most {MAXIMUM_LENGTH} bytes, found {found}")]
    TooLong {
        /// How long it is, in bytes.
        found: usize,
    },
}

impl VerityTable {
    /// The name of the target, the type of the table line.
    pub const TARGET: &'static str = "verity";

    /// The table of a tree as its superblock describes it, with the superblock in the first block of the hash device.
    #[must_use]
    pub fn of(
        superblock: &VeritySuperblock,
        root_hash: RootHash,
        data_device: MajorMinor,
        hash_device: MajorMinor,
    ) -> Self {
        Self {
            data_device,
            hash_device,
            data_block_size: superblock.data_block_size,
            hash_block_size: superblock.hash_block_size,
            data_blocks: superblock.data_blocks,
            // The superblock has 512 bytes, which is the smallest block.
            hash_start: 1,
            root_hash,
            salt: superblock.salt.clone(),
            on_corruption: OnCorruption::default(),
            signature_key: None,
        }
    }

    /// The size of the device; `None` where there is none of that size.
    #[must_use]
    pub fn size(&self) -> Option<ByteLength> {
        self.data_blocks
            .checked_mul(u64::from(self.data_block_size.bytes()))
            .filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok())
            .map(ByteLength::new)
    }

    /// The size of the device in sectors of 512 bytes, the unit of the device mapper.
    #[must_use]
    pub fn sectors(&self) -> Option<u64> {
        self.size().map(|size| size.bytes() >> 9)
    }
}

impl fmt::Display for VerityTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{VERSION} {} {} {} {} {} {} {} {} {}",
            self.data_device,
            self.hash_device,
            self.data_block_size,
            self.hash_block_size,
            self.data_blocks,
            self.hash_start,
            self.root_hash.algorithm(),
            self.root_hash,
            self.salt,
        )?;
        let option = self.on_corruption.option();
        let words = usize::from(option.is_some()) + if self.signature_key.is_some() { 2 } else { 0 };
        if words > 0 {
            write!(f, " {words}")?;
        }
        if let Some(option) = option {
            write!(f, " {option}")?;
        }
        if let Some(key) = &self.signature_key {
            write!(f, " {SIGNATURE_KEY} {key}")?;
        }
        Ok(())
    }
}

/// The option that names the key with the signature.
const SIGNATURE_KEY: &str = "root_hash_sig_key_desc";

impl FromStr for VerityTable {
    type Err = VerityTableError;

    /// Reads the parameters as the kernel reports them, options in any order.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAXIMUM_LENGTH {
            return Err(VerityTableError::TooLong { found: text.len() });
        }
        let mut words = Words(text.split_ascii_whitespace());
        words.read("version", "1", |word| (word == VERSION).then_some(()))?;
        let data_device = words.read("data device", DEVICE, device)?;
        let hash_device = words.read("hash device", DEVICE, device)?;
        let data_block_size = words.read("data block size", BLOCK_SIZE, block_size)?;
        let hash_block_size = words.read("hash block size", BLOCK_SIZE, block_size)?;
        let data_blocks = words.read("number of data blocks", "a number", number)?;
        let hash_start = words.read("first hash block", "a number", number)?;
        let algorithm = words.read("hash algorithm", "'sha256' or 'sha512'", |word| {
            HashAlgorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == word)
        })?;
        let root_hash = words.read("root hash", "as many lowercase digits as the digest has", |word| {
            RootHash::from_lowercase(word).ok().filter(|hash| hash.algorithm() == algorithm)
        })?;
        let salt = words.read("salt", "'-' or up to 256 bytes in lowercase hexadecimal", salt)?;
        let (on_corruption, signature_key) = options(words)?;
        Ok(Self {
            data_device,
            hash_device,
            data_block_size,
            hash_block_size,
            data_blocks,
            hash_start,
            root_hash,
            salt,
            on_corruption,
            signature_key,
        })
    }
}

/// What a device is in a table.
const DEVICE: &str = "'major:minor'";
/// What a block size is in a table.
const BLOCK_SIZE: &str = "512, 1024, 2048 or 4096";

/// The words that are left of a line.
struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

impl Words<'_> {
    fn read<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, VerityTableError> {
        let word = self.0.next().ok_or(VerityTableError::Missing { field })?;
        read(word).ok_or_else(|| VerityTableError::Field { field, expected, found: word.to_owned() })
    }
}

/// What follows the salt: nothing, or the number of words that follow, and those.
fn options(mut words: Words<'_>) -> Result<(OnCorruption, Option<KeyDescription>), VerityTableError> {
    let mut on_corruption = OnCorruption::default();
    let mut signature_key = None;
    let found = words.0.clone().count();
    if found == 0 {
        return Ok((on_corruption, signature_key));
    }
    let expected: u64 = words.read("number of option words", "a number", number)?;
    let found = found.saturating_sub(1);
    if usize::try_from(expected) != Ok(found) {
        return Err(VerityTableError::OptionCount { expected, found });
    }
    while let Some(word) = words.0.next() {
        let surplus = || VerityTableError::Option { found: word.to_owned() };
        if word == SIGNATURE_KEY && signature_key.is_none() {
            let expected = "up to 128 bytes of printable ASCII without backslash";
            signature_key = Some(words.read("key description", expected, KeyDescription::new)?);
        } else {
            let action = OnCorruption::ALL.into_iter().find(|action| action.option() == Some(word));
            let first = on_corruption == OnCorruption::default();
            on_corruption = action.filter(|_| first).ok_or_else(surplus)?;
        }
    }
    Ok((on_corruption, signature_key))
}

/// A decimal number without a sign.
fn number<T: FromStr>(word: &str) -> Option<T> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

fn device(word: &str) -> Option<MajorMinor> {
    let (major, minor) = word.split_once(':')?;
    Some(MajorMinor { major: number(major)?, minor: number(minor)? })
}

fn block_size(word: &str) -> Option<VerityBlockSize> {
    VerityBlockSize::new(number(word)?)
}

fn salt(word: &str) -> Option<Salt> {
    if word == "-" {
        return Some(Salt::default());
    }
    Salt::new(&data_encoding::HEXLOWER.decode(word.as_bytes()).ok()?)
}

/// What a dm-verity target says of the blocks that were read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerityHealth {
    /// Every block that was read matched the tree.
    Verified,
    /// A block did not match, or the tree could not be read.
    Corrupted,
}

impl VerityHealth {
    /// The word for people and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Corrupted => "corrupted",
        }
    }
}

impl fmt::Display for VerityHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the status of a dm-verity target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the status 'V' or 'C' of a dm-verity target, found '{}'", .found.escape_debug())]
pub struct VerityHealthError {
    /// The first word, or as much of it as is worth showing.
    pub found: String,
}

impl FromStr for VerityHealth {
    type Err = VerityHealthError;

    /// Reads the status line of the target. Its first word is the letter; later kernels add words about error
    /// correction.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = text.split_ascii_whitespace().next().unwrap_or_default();
        match word {
            "V" => Ok(Self::Verified),
            "C" => Ok(Self::Corrupted),
            other => Err(VerityHealthError { found: other.chars().take(32).collect() }),
        }
    }
}

#[cfg(test)]
mod tests;
