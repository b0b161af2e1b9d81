//! What an attacker who owns every byte of an image would try: the whole way from bytes to a plan or a refusal.

use std::time::SystemTime;

use super::assessment::{Trust, assess};
use super::dissection::Dissection;
use super::finding::Rule;
use super::plan::{Access, ActivationPlan, Refusal};
use super::policy::Protection;
use super::presets::RequestedPolicy;
use super::survey::{Malformed, Survey, SurveyOptions};
use crate::format::architecture::Architecture;
use crate::format::designator::Designator;
use crate::format::gpt::gpt_builder::GptBuilder;
use crate::format::guid::Guid;
use crate::format::partition_type::PartitionType;
use crate::format::root_hash::{HashAlgorithm, RootHash};
use crate::format::units::ByteLength;
use crate::format::verity::{HashTreeGeometry, Salt, VerityBlockSize, VeritySuperblock};
use crate::trust::anchor::TrustAnchors;
use crate::trust::hash_tree::{HashTreeParameters, HashTreeVerifier};
use crate::trust::revocation::{ImagePurpose, Revocations};

const NATIVE: Architecture = Architecture::X86_64;

/// A type GUID as the builder takes it.
fn type_of(designator: Designator) -> u128 {
    let bound = |architecture| PartitionType::Designated { designator, architecture }.uuid();
    number(bound(Some(NATIVE)).or_else(|| bound(None)).unwrap().guid())
}

fn number(guid: Guid) -> u128 {
    u128::from_be_bytes(*guid.as_bytes())
}

/// 64 KiB with the superblock of an empty squashfs that claims `size` bytes.
fn squashfs(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    bytes[..4].copy_from_slice(b"hsqs");
    bytes[12..16].copy_from_slice(&4096_u32.to_le_bytes());
    bytes[20..22].copy_from_slice(&1_u16.to_le_bytes());
    bytes[22..24].copy_from_slice(&12_u16.to_le_bytes());
    bytes[28..30].copy_from_slice(&4_u16.to_le_bytes());
    bytes[40..48].copy_from_slice(&size.to_le_bytes());
    bytes[64..72].copy_from_slice(&96_u64.to_le_bytes());
    bytes[72..80].copy_from_slice(&128_u64.to_le_bytes());
    bytes
}

/// The contents of a hash partition for this data, and its root hash.
fn hash_partition(data: &[u8]) -> (Vec<u8>, RootHash) {
    let superblock = VeritySuperblock {
        uuid: Guid::from_bytes([7; 16]),
        algorithm: HashAlgorithm::Sha256,
        data_block_size: VerityBlockSize::DEFAULT,
        hash_block_size: VerityBlockSize::DEFAULT,
        data_blocks: u64::try_from(data.len() / 4096).unwrap(),
        salt: Salt::default(),
    };
    let verifier = HashTreeVerifier::new(HashTreeParameters {
        algorithm: superblock.algorithm,
        data_block_size: 4096,
        hash_block_size: 4096,
        data_blocks: superblock.data_blocks,
        salt: Vec::new(),
    })
    .unwrap();
    verifier.feed(0, data).unwrap();
    let (tree, root_hash) = verifier.into_tree().unwrap();
    let start = HashTreeGeometry::new(&superblock).unwrap().tree_extent().start().bytes();
    let mut bytes = superblock.to_bytes().to_vec();
    bytes.resize(usize::try_from(start).unwrap(), 0);
    bytes.extend(tree);
    (bytes, root_hash)
}

/// A partition with its hash tree, named after the root hash; and that hash.
fn protected(builder: GptBuilder, data: Designator, content: Vec<u8>) -> (GptBuilder, RootHash) {
    let (tree, root_hash) = hash_partition(&content);
    let uuid = number(root_hash.data_partition_uuid().guid());
    let tree_uuid = number(root_hash.hash_partition_uuid().guid());
    let builder = builder.partition(type_of(data), uuid, "data", 0, content).partition(
        type_of(data.verity_hash().unwrap()),
        tree_uuid,
        "hash",
        0,
        tree,
    );
    (builder, root_hash)
}

fn survey(image: &[u8], options: SurveyOptions) -> Result<Dissection, Malformed> {
    let mut survey = Survey::new(ByteLength::of(image), options);
    for _ in 0..8 {
        for extent in survey.wanted() {
            let start = usize::try_from(extent.start().bytes()).unwrap();
            let bytes = &image[start..][..extent.length().in_memory().unwrap()];
            survey.feed(extent.start(), bytes);
        }
    }
    survey.finish()
}

/// Under a policy as written, and what the caller knows of root and usr.
fn plan(image: &[u8], policy: &str, [root, usr]: [Option<&RootHash>; 2]) -> Result<ActivationPlan, Refusal> {
    let mut options = SurveyOptions::new(NATIVE);
    (options.root_hash, options.usr_hash) = (root.cloned(), usr.cloned());
    let dissection = survey(image, options).unwrap();
    let anchors = TrustAnchors::new(Vec::new());
    let trust = Trust {
        anchors: &anchors,
        root_hash: root,
        usr_hash: usr,
        revocations: Revocations::NONE,
        purpose: ImagePurpose::UNKNOWN,
        download: None,
        at: SystemTime::UNIX_EPOCH,
    };
    let assessment = assess(&dissection, &trust);
    let policy = RequestedPolicy::as_written(policy.parse().unwrap());
    ActivationPlan::new(&dissection, assessment, &policy, NATIVE, Access::ReadWrite)
}

fn rules(planned: Result<ActivationPlan, Refusal>) -> Vec<Rule> {
    planned.unwrap_err().findings.into_iter().map(|finding| finding.rule).collect()
}

#[test]
fn a_root_hash_that_was_given_is_not_forgotten_where_the_image_has_no_such_partition() {
    let bare = squashfs(65536);
    let (builder, usr) = protected(GptBuilder::new(512), Designator::Usr, squashfs(65536));
    let usr_only = builder.build().bytes;
    let other = RootHash::from_bytes(&[0xab; 32]).unwrap();

    assert!(plan(&bare, "*", [None, None]).is_ok());
    assert!(plan(&usr_only, "*", [None, Some(&usr)]).is_ok());
    for (image, given) in
        [(&bare, [Some(&other), None]), (&bare, [None, Some(&other)]), (&usr_only, [Some(&other), None])]
    {
        assert_eq!(rules(plan(image, "*", given)), [Rule::RootHashMismatch]);
    }
}

#[test]
fn the_same_root_hash_is_accepted_and_another_is_not() {
    let (builder, root) = protected(GptBuilder::new(512), Designator::Root, squashfs(65536));
    let image = builder.build().bytes;
    let planned = plan(&image, "root=verity", [Some(&root), None]).unwrap();
    assert_eq!(planned.devices[0].protection, Protection::Verity);
    let other = RootHash::from_bytes(&[0xab; 32]).unwrap();
    assert_eq!(rules(plan(&image, "*", [Some(&other), None])), [Rule::DataUuidMismatch]);
}

#[test]
fn a_hash_tree_that_the_policy_leaves_unused_protects_nothing() {
    let (builder, _) = protected(GptBuilder::new(512), Designator::Root, squashfs(65536));
    let image = builder.build().bytes;
    assert!(plan(&image, "root=verity", [None, None]).is_ok());
    for policy in ["root=verity:root-verity=unused+absent", "=verity+unused+absent"] {
        assert_eq!(rules(plan(&image, policy, [None, None])), [Rule::PolicyState], "{policy}");
    }
    assert!(plan(&image, "root=unused:root-verity=unused", [None, None]).unwrap().devices.is_empty());
}

#[test]
fn an_encrypted_slot_that_is_passed_over_is_neither_read_nor_held_against_the_image() {
    let mut damaged = vec![0; 8 << 20];
    damaged[..6].copy_from_slice(b"LUKS\xba\xbe");
    damaged[6..8].copy_from_slice(&2_u16.to_be_bytes());
    damaged[8..16].copy_from_slice(&(4_u64 << 20).to_be_bytes());
    damaged[72..78].copy_from_slice(b"sha256");
    let image = |label: &str| {
        GptBuilder::new(512)
            .partition(type_of(Designator::Root), 1, "slot_2", 0, squashfs(65536))
            .partition(type_of(Designator::Root), 2, label, 0, damaged.clone())
            .build()
            .bytes
    };
    assert!(plan(&image("slot_1"), "*", [None, None]).is_ok());
    assert_eq!(rules(plan(&image("slot_3"), "*", [None, None])), [Rule::LuksInvalid]);
}
