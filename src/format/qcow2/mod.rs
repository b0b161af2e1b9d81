//! Copy-on-write images of QEMU, versions 2 and 3: where each part of the disk lies in the file (QEMU,
//! `docs/interop/qcow2.rst`).
//!
//! [`Header::parse`] takes the first bytes of the file, [`Header::map`] the first table, and [`Map::pieces`] one second
//! table after the other. Reference counts are for who writes, and are not looked at; snapshots in the file are other
//! disks, and nobody asks for them.

mod map;

pub use map::{Map, Piece, Pieces, Source};

use super::units::{ByteLength, ByteOffset, Extent};

/// The first bytes of an image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// How much of the file [`Header::parse`] looks at, in bytes.
pub const HEADER_LENGTH: usize = 112;

/// The largest cluster, as a power of two: 2 MiB, as QEMU has it.
pub const CLUSTER_BITS_MAXIMUM: u32 = 21;

/// The longest first table in bytes, as QEMU has it.
const FIRST_TABLE_MAXIMUM: u64 = 32 << 20;

/// The length of an entry of the first table.
const ENTRY: u64 = 8;

/// The parts of a cluster that an extended entry counts.
const SUBCLUSTERS: u32 = 32;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterCompression {
    /// Deflate without a header.
    Deflate,
    /// A frame of Zstandard.
    Zstd,
}

/// What an image says of itself, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    cluster_bits: u32,
    disk: ByteLength,
    file: ByteLength,
    first_table: Extent,
    compression: ClusterCompression,
    extended: bool,
    zero_flag: bool,
}

/// Why an image is not converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Qcow2Error {
    /// What is not in the file itself is needed.
    #[error("it needs a backing file: flatten it first, with 'qemu-img convert -O qcow2'")]
    BackingFile,
    /// It is marked as damaged.
    #[error("it is marked as corrupt: get it again, or repair it with 'qemu-img check -r all'")]
    Corrupt,
    /// Its clusters are encrypted.
    #[error(
        "it is encrypted (method {method}): serve it decrypted, with encrypted partitions in it where needed"
    )]
    Encrypted {
        /// The method: 1 AES, 2 LUKS.
        method: u32,
    },
    /// Its clusters are in another file.
    #[error("its data is in an external file: make one file of it, with 'qemu-img convert -O qcow2'")]
    ExternalData,
    /// A number in it that no image has.
    #[error("{what}: expected {expected}, found {found}: it is damaged, make it again")]
    Field {
        /// Which number.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: u64,
    },
    /// It was made by a later version.
    #[error(
        "it has features that are not known (bits {bits:#x}): convert it with 'qemu-img convert -O qcow2'"
    )]
    Feature {
        /// The bits.
        bits: u64,
    },
    /// It is not an image at all.
    #[error("it does not begin as a qcow2 image does")]
    Magic,
    /// Two things in the file share bytes.
    #[error("{what} at byte {offset} overlaps {other}: it is damaged, make it again")]
    Overlap {
        /// What lies there.
        what: &'static str,
        /// Where.
        offset: u64,
        /// What else.
        other: &'static str,
    },
    /// Something lies outside of the file.
    #[error("{what}: expected within the file of {file} bytes, found {found}: get the whole file")]
    Outside {
        /// What.
        what: &'static str,
        /// Where it lies.
        found: Extent,
        /// How long the file is.
        file: ByteLength,
    },
}

impl Qcow2Error {
    fn field(what: &'static str, expected: impl Into<String>, found: impl Into<u64>) -> Self {
        Self::Field { what, expected: expected.into(), found: found.into() }
    }
}

impl Header {
    /// Reads the header: `beginning` are the first [`HEADER_LENGTH`] bytes of a file of `file` bytes, or all of them.
    ///
    /// # Errors
    /// [`Qcow2Error`].
    pub fn parse(beginning: &[u8], file: ByteLength) -> Result<Self, Qcow2Error> {
        if !beginning.starts_with(&MAGIC) {
            return Err(Qcow2Error::Magic);
        }
        let fields = Fields { bytes: beginning, file };
        let version = fields.word(4)?;
        if !matches!(version, 2 | 3) {
            return Err(Qcow2Error::field("version", "2 or 3", version));
        }
        let features = if version == 3 { Features::parse(&fields)? } else { Features::VERSION_2 };
        if fields.long(8)? != 0 {
            return Err(Qcow2Error::BackingFile);
        }
        let method = fields.word(32)?;
        if method != 0 {
            return Err(Qcow2Error::Encrypted { method });
        }
        let cluster_bits = fields.word(20)?;
        let least = if features.extended { 14 } else { 9 };
        if !(least..=CLUSTER_BITS_MAXIMUM).contains(&cluster_bits) {
            let expected = format!("{least} to {CLUSTER_BITS_MAXIMUM}");
            return Err(Qcow2Error::field("cluster bits", expected, cluster_bits));
        }
        let mut header = Self {
            cluster_bits,
            disk: ByteLength::new(fields.long(24)?),
            file,
            first_table: Extent::from_beginning(ByteLength::ZERO),
            compression: features.compression,
            extended: features.extended,
            zero_flag: version == 3 && !features.extended,
        };
        header.first_table = header.locate_first_table(u64::from(fields.word(36)?), fields.long(40)?)?;
        Ok(header)
    }

    /// Where the first table lies: as many of its entries as the disk needs.
    fn locate_first_table(&self, entries: u64, offset: u64) -> Result<Extent, Qcow2Error> {
        let needed = self.disk.bytes().div_ceil(self.second_table_reach());
        let length = needed.saturating_mul(ENTRY);
        if length > FIRST_TABLE_MAXIMUM {
            let expected = format!("a first table of at most {FIRST_TABLE_MAXIMUM} bytes");
            return Err(Qcow2Error::field("size of the disk", expected, self.disk.bytes()));
        }
        if entries < needed {
            return Err(Qcow2Error::field(
                "entries of the first table",
                format!("at least {needed}"),
                entries,
            ));
        }
        let what = "first table";
        if needed > 0 && (offset == 0 || !self.is_aligned(offset)) {
            let expected = format!("a multiple of {}", self.cluster().bytes());
            return Err(Qcow2Error::field("offset of the first table", expected, offset));
        }
        let (start, length) = (ByteOffset::new(offset), ByteLength::new(length));
        let found = Extent::new(start, length)
            .ok_or_else(|| Qcow2Error::field(what, "an end that fits 64 bits", offset))?;
        self.inside(what, found)?;
        Ok(found)
    }

    /// The size of the disk in bytes.
    #[must_use]
    pub const fn disk(&self) -> ByteLength {
        self.disk
    }

    /// The size of a cluster in bytes: a power of two, from 512 bytes to 2 MiB.
    #[must_use]
    pub const fn cluster(&self) -> ByteLength {
        ByteLength::new(1 << self.cluster_bits)
    }

    /// How clusters are compressed, those that are.
    #[must_use]
    pub const fn compression(&self) -> ClusterCompression {
        self.compression
    }

    /// Where the first table lies.
    #[must_use]
    pub const fn first_table(&self) -> Extent {
        self.first_table
    }

    /// How many clusters a second table has entries for.
    const fn second_table_entries(&self) -> u64 {
        let entry = if self.extended { 2 * ENTRY } else { ENTRY };
        self.cluster().bytes() / entry
    }

    /// How much of the disk a second table describes, in bytes: at most 2^39.
    const fn second_table_reach(&self) -> u64 {
        self.second_table_entries() << self.cluster_bits
    }

    const fn is_aligned(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster().bytes())
    }

    fn inside(&self, what: &'static str, found: Extent) -> Result<(), Qcow2Error> {
        if Extent::from_beginning(self.file).contains(found) {
            return Ok(());
        }
        Err(Qcow2Error::Outside { what, found, file: self.file })
    }
}

/// What version 3 added to the header.
struct Features {
    compression: ClusterCompression,
    extended: bool,
}

impl Features {
    const VERSION_2: Self = Self { compression: ClusterCompression::Deflate, extended: false };
    /// Reference counts may be wrong, which only writers need.
    const DIRTY: u64 = 1;
    const CORRUPT: u64 = 1 << 1;
    const EXTERNAL_DATA: u64 = 1 << 2;
    const COMPRESSION_TYPE: u64 = 1 << 3;
    const EXTENDED_ENTRIES: u64 = 1 << 4;
    const KNOWN: u64 =
        Self::DIRTY | Self::CORRUPT | Self::EXTERNAL_DATA | Self::COMPRESSION_TYPE | Self::EXTENDED_ENTRIES;

    fn parse(fields: &Fields<'_>) -> Result<Self, Qcow2Error> {
        let incompatible = fields.long(72)?;
        if incompatible & !Self::KNOWN != 0 {
            return Err(Qcow2Error::Feature { bits: incompatible & !Self::KNOWN });
        }
        if incompatible & Self::CORRUPT != 0 {
            return Err(Qcow2Error::Corrupt);
        }
        if incompatible & Self::EXTERNAL_DATA != 0 {
            return Err(Qcow2Error::ExternalData);
        }
        let length = fields.word(100)?;
        if length < 104 || !length.is_multiple_of(8) {
            return Err(Qcow2Error::field("header length", "a multiple of 8, at least 104", length));
        }
        let kind = if length > 104 { fields.byte(104)? } else { 0 };
        let compression = match (incompatible & Self::COMPRESSION_TYPE != 0, kind) {
            (false, 0) => ClusterCompression::Deflate,
            (true, 1) => ClusterCompression::Zstd,
            (false, _) => return Err(Qcow2Error::field("compression type", "0", kind)),
            (true, _) => return Err(Qcow2Error::field("compression type", "1", kind)),
        };
        Ok(Self { compression, extended: incompatible & Self::EXTENDED_ENTRIES != 0 })
    }
}

/// Numbers in the header, most significant byte first.
struct Fields<'a> {
    bytes: &'a [u8],
    file: ByteLength,
}

impl Fields<'_> {
    fn at<const N: usize>(&self, position: usize) -> Result<[u8; N], Qcow2Error> {
        self.bytes.get(position..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or_else(|| {
            let found = Extent::from_beginning(ByteLength::of(&[0; HEADER_LENGTH]));
            Qcow2Error::Outside { what: "header", found, file: self.file }
        })
    }

    fn byte(&self, position: usize) -> Result<u8, Qcow2Error> {
        self.at(position).map(u8::from_be_bytes)
    }

    fn word(&self, position: usize) -> Result<u32, Qcow2Error> {
        self.at(position).map(u32::from_be_bytes)
    }

    fn long(&self, position: usize) -> Result<u64, Qcow2Error> {
        self.at(position).map(u64::from_be_bytes)
    }
}
