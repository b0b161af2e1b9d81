//! Whole Discoverable Disk Images, built in memory in a few lines; and, part by part, what one may do to them.
//!
//! A [`Ddi`] is a list of named parts (`esp`, `root`, `root-verity`, `root-verity-sig`, ...). [`Ddi::edit`] changes one of
//! them before the table is written, so the table always agrees with it; damage to the table itself is done to the
//! [`BuiltImage`]. File systems are real ones, kept in `tests/data/superblocks` with the script that made them; trees and
//! signatures are made by the code that `ddictl seal` uses, which other tests compare with veritysetup and openssl.
//!
//! Needs `gpt_builder` and `keys` beside it at the root of the test program.

#![allow(dead_code, reason = "every test binary uses another part of this")]
#![allow(clippy::unwrap_used, reason = "a test image that cannot be built is a failed test")]

use ddictl::format::architecture::Architecture;
use ddictl::format::designator::Designator;
use ddictl::format::guid::Guid;
use ddictl::format::partition_type::PartitionType;
use ddictl::format::root_hash::{HashAlgorithm, RootHash};
use ddictl::format::verity::{HashTreeGeometry, Salt, VerityBlockSize, VeritySuperblock};
use ddictl::format::verity_signature::VeritySignature;
use ddictl::trust::hash_tree::{HashTreeParameters, HashTreeVerifier};
use ddictl::trust::sealing::sign_root_hash;

use crate::gpt_builder::{BuiltImage, BuiltPartition, GptBuilder};
use crate::keys::Pair;

/// The read-only attribute (Discoverable Partitions Specification, 'Partition Attribute Flags').
pub(crate) const READ_ONLY: u64 = 1 << 60;
/// The grow-file-system attribute.
pub(crate) const GROWFS: u64 = 1 << 59;
/// The no-auto attribute.
pub(crate) const NO_AUTO: u64 = 1 << 63;

/// The salt of every tree, unless a test wants another.
const SALT: [u8; 32] = [0x5a; 32];

macro_rules! fixtures {
    ($($name:literal)*) => {
        fn fixture_text(name: &str) -> &'static str {
            match name {
                $($name => include_str!(concat!("../data/superblocks/", $name, ".sparse")),)*
                _ => panic!("no such file system: {name}"),
            }
        }
    };
}

fixtures! { "btrfs" "erofs" "erofs-lz4" "ext4" "fat12" "iso9660" "luks1" "luks2" "lvm2" "md-1.2" "squashfs" "swap" "xfs" }

/// The first bytes of a real file system or volume, by the name of its file in `tests/data/superblocks`, where `make.py`
/// says how it was made: at most `length`, without the zeros behind the last byte that is kept.
///
/// `squashfs` and `erofs-lz4` are whole, of 4096 and 8192 bytes; `fat12` is whole at 2 MiB.
pub(crate) fn fixture(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for line in fixture_text(name).lines().skip(2) {
        let (offset, hex) = line.split_once(' ').unwrap();
        let row = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        let offset: usize = offset.parse().unwrap();
        for (place, byte) in bytes.iter_mut().skip(offset).zip(row) {
            *place = byte;
        }
    }
    bytes
}

/// A whole squashfs by mksquashfs in eight blocks of 4096 bytes: of the file system the first, of zeros the others.
pub(crate) fn squashfs() -> Vec<u8> {
    fixture("squashfs", 8 * 4096)
}

/// A whole, empty FAT12 by mkfs.vfat: a sane EFI system partition.
pub(crate) fn vfat() -> Vec<u8> {
    fixture("fat12", 2 << 20)
}

/// The bytes of another file system or volume on top of `bytes`, where both have one.
pub(crate) fn overlaid(mut bytes: Vec<u8>, name: &str) -> Vec<u8> {
    let over = fixture(name, bytes.len());
    for (place, byte) in bytes.iter_mut().zip(over).filter(|(_, byte)| *byte != 0) {
        *place = byte;
    }
    bytes
}

/// The beginning of a LUKS2 volume by cryptsetup, with other metadata in both copies and checksums that fit.
pub(crate) fn luks2(edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    const COPY: usize = 16384;
    let mut bytes = fixture("luks2", 4 * COPY);
    let area = &bytes[4096..COPY];
    let end = area.iter().position(|byte| *byte == 0).unwrap();
    let mut metadata = serde_json::from_slice(&area[..end]).unwrap();
    edit(&mut metadata);
    let text = metadata.to_string();
    bytes[4096..COPY].fill(0);
    bytes[4096..][..text.len()].copy_from_slice(text.as_bytes());
    bytes.copy_within(..COPY, COPY);
    bytes[COPY..][..6].copy_from_slice(b"SKUL\xba\xbe");
    bytes[COPY + 256..][..8].copy_from_slice(&number(COPY).to_be_bytes());
    for copy in [0, COPY] {
        bytes[copy + 448..][..64].fill(0);
        let checksum = openssl::sha::sha256(&bytes[copy..][..COPY]);
        bytes[copy + 448..][..32].copy_from_slice(&checksum);
    }
    bytes
}

/// The architecture of this machine.
pub(crate) fn native() -> Architecture {
    Architecture::from_machine(std::env::consts::ARCH).unwrap()
}

/// An architecture that this machine does not run.
pub(crate) fn foreign() -> Architecture {
    if native() == Architecture::Riscv64 { Architecture::X86_64 } else { Architecture::Riscv64 }
}

/// The type GUID of a designator, for this machine where it is bound to an architecture.
pub(crate) fn type_uuid(designator: Designator) -> u128 {
    type_uuid_for(designator, native())
}

/// The type GUID of a designator for that architecture.
pub(crate) fn type_uuid_for(designator: Designator, architecture: Architecture) -> u128 {
    [Some(architecture), None]
        .into_iter()
        .find_map(|architecture| PartitionType::Designated { designator, architecture }.uuid())
        .map(|uuid| u128::from_be_bytes(*uuid.guid().as_bytes()))
        .unwrap()
}

/// A file system protected by dm-verity: its hash tree, its root hash and, where somebody signs, its signature.
#[derive(Debug, Clone)]
pub(crate) struct Protected {
    pub(crate) designator: Designator,
    pub(crate) architecture: Architecture,
    pub(crate) label: String,
    pub(crate) algorithm: HashAlgorithm,
    pub(crate) data_block_size: u32,
    pub(crate) hash_block_size: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) signer: Option<Pair>,
}

impl Protected {
    /// An unsigned root file system for this machine.
    pub(crate) fn root(data: Vec<u8>) -> Self {
        Self {
            designator: Designator::Root,
            architecture: native(),
            label: "root_1".to_owned(),
            algorithm: HashAlgorithm::Sha256,
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: SALT.to_vec(),
            data,
            signer: None,
        }
    }

    /// An unsigned usr file system for this machine.
    pub(crate) fn usr(data: Vec<u8>) -> Self {
        Self { designator: Designator::Usr, label: "usr_1".to_owned(), ..Self::root(data) }
    }

    /// The same, signed.
    pub(crate) fn signed_by(mut self, pair: &Pair) -> Self {
        self.signer = Some(pair.clone());
        self
    }

    /// The same with this label, `-verity` and `-verity-sig` behind it for the companions.
    pub(crate) fn label(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// The same for another architecture.
    pub(crate) fn architecture(mut self, architecture: Architecture) -> Self {
        self.architecture = architecture;
        self
    }

    /// The same with blocks of this size, data and hash.
    pub(crate) fn block_size(mut self, block_size: u32) -> Self {
        (self.data_block_size, self.hash_block_size) = (block_size, block_size);
        self
    }

    /// The same with this digest.
    pub(crate) fn algorithm(mut self, algorithm: HashAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    fn superblock(&self) -> VeritySuperblock {
        VeritySuperblock {
            uuid: Guid::from_bytes([0x77; 16]),
            algorithm: self.algorithm,
            data_block_size: VerityBlockSize::new(self.data_block_size).unwrap(),
            hash_block_size: VerityBlockSize::new(self.hash_block_size).unwrap(),
            data_blocks: number(self.data.len()) / u64::from(self.data_block_size),
            salt: Salt::new(&self.salt).unwrap(),
        }
    }

    fn tree(&self) -> (Vec<u8>, RootHash) {
        let superblock = self.superblock();
        let verifier = HashTreeVerifier::new(HashTreeParameters {
            algorithm: self.algorithm,
            data_block_size: self.data_block_size,
            hash_block_size: self.hash_block_size,
            data_blocks: superblock.data_blocks,
            salt: self.salt.clone(),
        })
        .unwrap();
        verifier.feed(0, &self.data).unwrap();
        verifier.into_tree().unwrap()
    }

    /// The root hash of the data.
    pub(crate) fn root_hash(&self) -> RootHash {
        self.tree().1
    }

    /// The content of the hash partition.
    pub(crate) fn hash_partition(&self) -> Vec<u8> {
        let superblock = self.superblock();
        let start = HashTreeGeometry::new(&superblock).unwrap().tree_extent().start().bytes();
        let mut bytes = superblock.to_bytes().to_vec();
        bytes.resize(usize::try_from(start).unwrap(), 0);
        bytes.extend_from_slice(&self.tree().0);
        bytes
    }

    /// The detached PKCS#7 signature of the root hash, in DER.
    pub(crate) fn signature(&self, pair: &Pair) -> Vec<u8> {
        sign_root_hash(&self.root_hash(), &pair.key_pem(), &pair.certificate_pem()).unwrap()
    }

    /// The content of a signature partition by `pair`.
    pub(crate) fn signature_partition(&self, pair: &Pair) -> Vec<u8> {
        signature_partition(&self.root_hash(), &self.signature(pair), Some(pair.fingerprint()))
    }

    fn parts(&self) -> Vec<Part> {
        let hash = self.root_hash();
        let hash_designator = self.designator.verity_hash().unwrap();
        let part = |designator: Designator, uuid, suffix: &str, content| Part {
            name: designator.as_str().to_owned(),
            type_uuid: type_uuid_for(designator, self.architecture),
            uuid,
            label: format!("{}{suffix}", self.label),
            attributes: READ_ONLY,
            content,
        };
        let uuid = |guid: Guid| u128::from_be_bytes(*guid.as_bytes());
        let data_uuid = uuid(hash.data_partition_uuid().guid());
        let mut parts = vec![
            part(self.designator, data_uuid, "", self.data.clone()),
            part(hash_designator, uuid(hash.hash_partition_uuid().guid()), "-verity", self.hash_partition()),
        ];
        if let Some(pair) = &self.signer {
            let designator = self.designator.verity_signature().unwrap();
            // Not data_uuid itself, and another for every tree.
            parts.push(part(designator, !data_uuid, "-verity-sig", self.signature_partition(pair)));
        }
        parts
    }
}

/// The content of a signature partition: the JSON that systemd-repart writes, then NULs.
pub(crate) fn signature_partition(
    root_hash: &RootHash,
    signature: &[u8],
    fingerprint: Option<[u8; 32]>,
) -> Vec<u8> {
    let signature = VeritySignature {
        root_hash: root_hash.clone(),
        signature: signature.to_vec(),
        certificate_fingerprint: fingerprint,
        unknown_keys: Vec::new(),
    };
    signature.to_partition(VeritySignature::DEFAULT_PARTITION_SIZE).unwrap()
}

/// Another text in a signature partition, in a partition as large as before.
pub(crate) fn edit_json(content: &mut Vec<u8>, edit: impl FnOnce(String) -> String) {
    let (size, end) = (content.len(), content.iter().position(|byte| *byte == 0).unwrap());
    let text = edit(String::from_utf8(content[..end].to_vec()).unwrap());
    *content = text.into_bytes();
    content.resize(size, 0);
}

/// One partition to be.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) type_uuid: u128,
    pub(crate) uuid: u128,
    pub(crate) label: String,
    pub(crate) attributes: u64,
    pub(crate) content: Vec<u8>,
}

/// An image to be. The same calls give the same table and contents, but for the signatures of elliptic curves.
#[derive(Debug, Clone)]
pub(crate) struct Ddi {
    sector_size: usize,
    entry_count: usize,
    parts: Vec<Part>,
}

impl Ddi {
    /// An image without partitions and with sectors of 512 bytes.
    pub(crate) fn new() -> Self {
        Self { sector_size: 512, entry_count: 128, parts: Vec::new() }
    }

    /// An ESP and a signed root: what `ddictl seal --esp=` makes.
    pub(crate) fn signed(pair: &Pair) -> Self {
        Self::new()
            .with(Designator::Esp, "esp", vfat())
            .protected(&Protected::root(squashfs()).signed_by(pair))
    }

    /// The same with sectors of another size.
    pub(crate) fn sector_size(mut self, sector_size: usize) -> Self {
        self.sector_size = sector_size;
        self
    }

    /// The same with room for so many partitions in the table.
    pub(crate) fn entry_count(mut self, entry_count: usize) -> Self {
        self.entry_count = entry_count;
        self
    }

    /// A partition that nothing protects but what is in `content`, behind the others.
    pub(crate) fn with(self, designator: Designator, label: &str, content: Vec<u8>) -> Self {
        self.with_type(designator.as_str(), type_uuid(designator), label, content)
    }

    /// A partition of any type, behind the others. Its UUID is made of its place.
    pub(crate) fn with_type(mut self, name: &str, type_uuid: u128, label: &str, content: Vec<u8>) -> Self {
        let uuid = 0xd1d1_0000_0000_4000_8000_0000_0000_0000 + u128::try_from(self.parts.len()).unwrap();
        let (name, label) = (name.to_owned(), label.to_owned());
        self.parts.push(Part { name, type_uuid, uuid, label, attributes: 0, content });
        self
    }

    /// A data partition with its hash partition and its signature partition, behind the others.
    pub(crate) fn protected(mut self, protected: &Protected) -> Self {
        self.parts.append(&mut protected.parts());
        self
    }

    /// A part as it is, behind the others.
    pub(crate) fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// The part of that name; the first of several.
    pub(crate) fn get(&self, name: &str) -> &Part {
        self.parts.iter().find(|part| part.name == name).unwrap()
    }

    /// Changes the part of that name; the first of several.
    pub(crate) fn edit(mut self, name: &str, edit: impl FnOnce(&mut Part)) -> Self {
        edit(self.parts.iter_mut().find(|part| part.name == name).unwrap());
        self
    }

    /// The same without the part of that name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        let before = self.parts.len();
        self.parts.retain(|part| part.name != name);
        assert!(self.parts.len() < before, "no part '{name}'");
        self
    }

    /// Where a part lies in the image.
    pub(crate) fn place(&self, image: &BuiltImage, name: &str) -> BuiltPartition {
        let index = self.parts.iter().position(|part| part.name == name).unwrap();
        image.partitions[index]
    }

    /// Builds the image.
    pub(crate) fn build(&self) -> BuiltImage {
        let table = GptBuilder::new(self.sector_size).entries(self.entry_count, 128);
        let table = self.parts.iter().fold(table, |table, part| {
            table.partition(part.type_uuid, part.uuid, &part.label, part.attributes, part.content.clone())
        });
        table.build()
    }

    /// The bytes of the image.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.build().bytes
    }
}

fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap()
}
