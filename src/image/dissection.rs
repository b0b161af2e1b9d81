//! What an image contains, before anybody is asked whether that is allowed: plain data.

use crate::format::architecture::Architecture;
use crate::format::designator::Designator;
use crate::format::gpt::{Attributes, TableSource};
use crate::format::guid::{DiskUuid, PartitionTypeUuid, PartitionUuid};
use crate::format::label::PartitionLabel;
use crate::format::partition_type::PartitionType;
use crate::format::root_hash::RootHash;
use crate::format::superblock::Luks2Metadata;
use crate::format::superblock::{FileSystem, Superblock};
use crate::format::units::{ByteLength, Extent, PartitionNumber, SectorSize};
use crate::format::verity::{HashTreeGeometry, VeritySuperblock};
use crate::format::verity_signature::VeritySignature;

use super::beside::SignatureBeside;
use super::finding::Finding;

/// Everything that was found in an image. Made by [`super::survey::Survey`].
#[derive(Debug, Clone)]
pub struct Dissection {
    /// The size of the whole image.
    pub image_size: ByteLength,
    /// How the image is divided.
    pub layout: Layout,
    /// The partitions in the order of the table; the one extent of an image without a table.
    pub partitions: Vec<Partition>,
    /// What dm-verity protects, root before usr.
    pub verity: Vec<VeritySet>,
    /// What was remarkable.
    pub findings: Vec<Finding>,
}

impl Dissection {
    /// The size of the sectors that the table counts in, which devices for the partitions must have as well.
    #[must_use]
    pub fn sector_size(&self) -> SectorSize {
        match &self.layout {
            Layout::Table { sector_size, .. } => *sector_size,
            Layout::Bare => SectorSize::DEFAULT,
        }
    }

    /// Where the partition table lies; nowhere in an image without one.
    #[must_use]
    pub fn table_extents(&self) -> &[Extent] {
        match &self.layout {
            Layout::Table { extents, .. } => extents,
            Layout::Bare => &[],
        }
    }

    /// The partition that was chosen for `designator`.
    #[must_use]
    pub fn chosen(&self, designator: Designator) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.standing == Standing::Chosen(designator))
    }

    /// What protects the partition chosen for `designator` by dm-verity.
    #[must_use]
    pub fn verity_of(&self, designator: Designator) -> Option<&VeritySet> {
        self.verity.iter().find(|set| set.designator == designator)
    }
}

/// How an image is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// By a GUID partition table.
    Table {
        /// The disk's own UUID.
        disk_uuid: DiskUuid,
        /// The size of the sectors that the table counts in.
        sector_size: SectorSize,
        /// Which copies of the table were valid.
        source: TableSource,
        /// Where the table itself lies, MBR and both copies.
        extents: Vec<Extent>,
    },
    /// Not at all: one file system or volume from the first byte to the last.
    Bare,
}

/// One partition, or the one extent of an image without a table.
#[derive(Debug, Clone)]
pub struct Partition {
    /// Its number; `None` for an image without a table.
    pub number: Option<PartitionNumber>,
    /// What kind of partition it says it is.
    pub partition_type: PartitionType,
    /// The type as the table has it; `None` for an image without a table.
    pub type_uuid: Option<PartitionTypeUuid>,
    /// Its own UUID; `None` for an image without a table.
    pub uuid: Option<PartitionUuid>,
    /// Its label.
    pub label: PartitionLabel,
    /// Its attributes.
    pub attributes: Attributes,
    /// Where it lies.
    pub extent: Extent,
    /// Every superblock that was recognised in it: normally one.
    pub superblocks: Vec<Superblock>,
    /// The metadata of a LUKS volume of version 2, where it is intact.
    pub luks2: Option<Luks2Metadata>,
    /// Whether it is the one to be used for its designator.
    pub standing: Standing,
}

impl Partition {
    /// The designator that it was chosen for, or that its type has.
    #[must_use]
    pub fn designator(&self) -> Option<Designator> {
        match self.standing {
            Standing::Chosen(designator) => Some(designator),
            Standing::Passed(_) => self.partition_type.designator(),
        }
    }

    /// The architecture that its type is for.
    #[must_use]
    pub fn architecture(&self) -> Option<Architecture> {
        self.partition_type.architecture()
    }

    /// The one superblock in it; `None` where there is none, or where there are several.
    #[must_use]
    pub fn superblock(&self) -> Option<&Superblock> {
        match self.superblocks.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The file system in it, where it is one of the seven that policies know.
    #[must_use]
    pub fn file_system(&self) -> Option<FileSystem> {
        self.superblock()?.kind.file_system()
    }
}

/// Whether a partition is the one to be used for its designator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is the one.
    Chosen(Designator),
    /// It is not a candidate, or another one is better.
    Passed(PassedOver),
}

/// Why a partition is not the one to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedOver {
    /// Its type has no designator.
    NoDesignator,
    /// Its label is `_empty`: an unused slot.
    Empty,
    /// Its label begins with `PRT#`: only a part of it was written.
    PartiallyWritten,
    /// Its label begins with `PND#`: complete, not yet released for use.
    Pending,
    /// Its no-auto attribute is set, or the no-block-I/O attribute of an ESP.
    NoAuto,
    /// The root hash that was given belongs to another one.
    OtherRootHash,
    /// A signature of another root hash than the chosen partition's.
    OtherSignature,
    /// Another one is for this machine's architecture.
    Architecture(PartitionNumber),
    /// Another one has a newer version in its label, or the same and a lower number.
    Version(PartitionNumber),
}

impl PassedOver {
    /// The reason in words.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::NoDesignator => "its type has no designator".to_owned(),
            Self::Empty => "its label marks it as an empty slot".to_owned(),
            Self::PartiallyWritten => "its label marks it as partially written".to_owned(),
            Self::Pending => "its label marks it as pending".to_owned(),
            Self::NoAuto => "its attributes exclude it from discovery".to_owned(),
            Self::OtherRootHash => "it does not belong to the given root hash".to_owned(),
            Self::OtherSignature => "it holds the signature of another root hash".to_owned(),
            Self::Architecture(number) => format!("partition {number} is for a better architecture"),
            Self::Version(number) => format!("partition {number} is as new or newer"),
        }
    }
}

/// A data partition with its hash tree and signatures.
#[derive(Debug, Clone)]
pub struct VeritySet {
    /// Root or usr.
    pub designator: Designator,
    /// The number of the data partition; `None` in an image without a table.
    pub data: Option<PartitionNumber>,
    /// Where the hash tree lies.
    pub hash: TreePlace,
    /// The dm-verity superblock.
    pub superblock: VeritySuperblock,
    /// The shape of the hash tree, which lies inside the hash partition or file.
    pub geometry: HashTreeGeometry,
    /// The bytes that the tree covers: the beginning of the data partition.
    pub data_extent: Extent,
    /// The bytes of the tree itself, without the superblock: of the image, or of the file beside it.
    pub tree_extent: Extent,
    /// The root hash that the image claims, or that was given.
    pub root_hash: RootHash,
    /// Where that root hash comes from.
    pub claim: RootHashClaim,
    /// Every signature of this very root hash in the image, with its partition.
    pub signatures: Vec<(PartitionNumber, VeritySignature)>,
    /// The signature beside the image, of whatever root hash.
    pub signature_beside: Option<SignatureBeside>,
}

impl VeritySet {
    /// The bytes of the tree in the image; `None` where it lies beside.
    #[must_use]
    pub const fn tree_in_image(&self) -> Option<Extent> {
        match self.hash {
            TreePlace::Partition(_) => Some(self.tree_extent),
            TreePlace::Beside => None,
        }
    }

    /// Whether there is a signature, which may hold or not.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        !self.signatures.is_empty() || self.signature_beside.is_some()
    }
}

/// Where a hash tree lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreePlace {
    /// In the partition of this number.
    Partition(PartitionNumber),
    /// In a file beside an image without a table.
    Beside,
}

impl TreePlace {
    /// The number of the hash partition, where it is one.
    #[must_use]
    pub const fn partition(self) -> Option<PartitionNumber> {
        match self {
            Self::Partition(number) => Some(number),
            Self::Beside => None,
        }
    }
}

/// Where a root hash comes from. None of these authenticates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootHashClaim {
    /// The caller named it.
    Given,
    /// A file beside the image proposes it.
    Beside,
    /// A signature partition has it.
    SignaturePartition,
    /// The UUIDs of the data and hash partitions spell it.
    PartitionUuids,
}
