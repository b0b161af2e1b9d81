//! The survey of whole images, and the plans that follow from it.
//!
//! An input describes an image rather than being one: which partitions, what in each of them, what is then changed,
//! and whether checksums are repaired afterwards. So a fuzzer gets behind the checksums, and an input stays small.

use std::sync::LazyLock;

use ddictl::format::architecture::Architecture;
use ddictl::format::checksum_manifest::ListedDigest;
use ddictl::format::designator::{Designator, VerityRole};
use ddictl::format::guid::Guid;
use ddictl::format::partition_type::PartitionType;
use ddictl::format::root_hash::{HashAlgorithm, RootHash};
use ddictl::format::superblock::FileSystem;
use ddictl::format::units::{ByteLength, ByteOffset, Extent, SectorSize};
use ddictl::format::verity::{Salt, VerityBlockSize, VeritySuperblock};
use ddictl::format::verity_signature::VeritySignature;
use ddictl::image::assessment::{Assessment, Trust, assess};
use ddictl::image::beside::{Beside, TreeBeside};
use ddictl::image::derivation::derive;
use ddictl::image::dissection::{Dissection, Layout, Standing, TreePlace};
use ddictl::image::finding::Level;
use ddictl::image::plan::{Access, ActivationPlan, PlannedDevice};
use ddictl::image::policy::{ImagePolicy, Protection};
use ddictl::image::presets::RequestedPolicy;
use ddictl::image::survey::{MAXIMUM_READ, Malformed, Survey, SurveyOptions};
use ddictl::image::verdict::{Verdict, judge};
use ddictl::trust::anchor::TrustAnchors;
use ddictl::trust::download::{DownloadHasher, ExpectedDownload, VerifiedDownload};
use ddictl::trust::revocation::{ImagePurpose, Revocations};
use sha2::Digest;

use super::gpt_builder::{GptBuilder, repair_checksums};
use super::input::{Input, SparseImage};
use super::{NAMESAKES, SIGNED_HASHES, SIGNERS, is_one_line, valid_time};

/// Headers, tables, superblocks and signatures, LUKS metadata, superblocks of the hashed areas; six for logs of XFS.
const ROUNDS: usize = 12;

const ARCHITECTURES: [Architecture; 4] =
    [Architecture::X86_64, Architecture::Arm64, Architecture::X86, Architecture::S390x];

/// What the first byte of an input says.
mod flag {
    pub(super) const REPAIR: u8 = 1;
    pub(super) const GAP: u8 = 1 << 1;
    pub(super) const BARE: u8 = 1 << 2;
    pub(super) const ROOT_HASH: u8 = 1 << 3;
    pub(super) const USR_HASH: u8 = 1 << 4;
    pub(super) const WITHHOLD: u8 = 1 << 5;
    pub(super) const SECTOR_SIZE: u8 = 1 << 6;
    pub(super) const DOWNLOAD: u8 = 1 << 7;
}

/// What the second byte says of files beside the image, in its upper half.
mod beside_flag {
    pub(super) const ROOT_HASH: u8 = 1 << 4;
    pub(super) const SIGNATURE: u8 = 1 << 5;
    pub(super) const TREE: u8 = 1 << 6;
    /// The changes of the image are made to the hash tree, too.
    pub(super) const CHANGED: u8 = 1 << 7;
}

/// An image, surveyed and judged: flags, sizes, partitions of five bytes each, then changes.
pub fn survey(input: &[u8]) {
    plans(input);
}

/// The same; says how many plans came of it, of all policies and trust anchors.
pub fn plans(input: &[u8]) -> usize {
    let mut input = Input::new(input);
    let (flags, sizes) = (input.byte(), input.byte());
    let says = |flag| flags & flag != 0;
    let sector_size = SectorSize::ALL[usize::from(sizes & 3)];
    let native = ARCHITECTURES[usize::from(sizes >> 2 & 3)];
    let gap = if says(flag::GAP) { input.number(6) } else { 0 };
    let bytes = build(&mut input, sector_size, says(flag::BARE), says(flag::REPAIR));
    let image = SparseImage::new(bytes, gap);
    let [root_hash, usr_hash] = [(flag::ROOT_HASH, 0), (flag::USR_HASH, 1)]
        .map(|(flag, index)| says(flag).then(|| SIGNED_HASHES[index].clone()));
    let options = SurveyOptions {
        root_hash: root_hash.clone(),
        usr_hash: usr_hash.clone(),
        sector_size: says(flag::SECTOR_SIZE).then_some(sector_size),
        beside: beside(sizes, sector_size, input),
        ..SurveyOptions::new(native)
    };

    if says(flag::WITHHOLD) {
        withhold(&image, options);
        return 0;
    }
    let result = dissect(&image, options.clone());
    if gap == 0 {
        // Who has all bytes from the beginning, such as a reader of a stream, must come to the same result.
        let mut at_once = Survey::new(image.size(), options);
        at_once.feed(ByteOffset::ZERO, &image.read(Extent::from_beginning(image.size())));
        assert_eq!(at_once.wanted(), []);
        assert_same(&at_once.finish(), &result);
    }
    let dissection = match result {
        Ok(dissection) => dissection,
        Err(Malformed { finding }) => {
            assert!(is_one_line(&finding.message()), "{finding}");
            return 0;
        }
    };
    check_dissection(&dissection);
    let given = [root_hash.as_ref(), usr_hash.as_ref()];
    let download = says(flag::DOWNLOAD).then(verified_download);
    [&*SIGNERS, &*NAMESAKES, &TrustAnchors::default()]
        .map(|anchors| check_plans(&dissection, anchors, given, download.as_ref(), native))
        .iter()
        .sum()
}

/// What lies beside the image.
fn beside(flags: u8, sector_size: SectorSize, input: Input<'_>) -> Beside {
    let says = |flag| flags & flag != 0;
    let mut beside = Beside::default();
    if says(beside_flag::ROOT_HASH) {
        beside.add_root_hash(Designator::Root, "roothash", SIGNED_HASHES[0].to_string().as_bytes());
    }
    if says(beside_flag::SIGNATURE) {
        beside.add_signature(Designator::Root, "p7s", include_bytes!("data/root.der"));
    }
    if says(beside_flag::TREE) {
        let mut tree = hash_partition(HashAlgorithm::Sha256, 1);
        if says(beside_flag::CHANGED) {
            change(&mut tree, &[], usize::try_from(sector_size.bytes()).unwrap(), input);
        }
        let (size, beginning) = (ByteLength::of(&tree), tree[..512].to_vec());
        let origin = "verity".to_owned();
        beside.set_tree(TreeBeside { origin, size, beginning, is_demanded: says(beside_flag::SIGNATURE) });
    }
    beside
}

/// Answers whatever is asked for, in a bounded number of rounds, with a bounded number of bytes.
fn dissect(image: &SparseImage, options: SurveyOptions) -> Result<Dissection, Malformed> {
    let mut survey = Survey::new(image.size(), options);
    let mut read = 0;
    for _ in 0..ROUNDS {
        let wanted = survey.wanted();
        if wanted.is_empty() {
            return survey.finish();
        }
        for extent in wanted {
            assert!(!extent.is_empty());
            read += extent.length().bytes();
            // And half a MiB for each log of an XFS.
            assert!(read <= MAXIMUM_READ.bytes() + (8 << 20), "{read} bytes of an image of {}", image.size());
            survey.feed(extent.start(), &image.read(extent));
        }
    }
    assert_eq!(survey.wanted(), [], "after {ROUNDS} rounds");
    survey.finish()
}

/// Whether two dissections are the same, told by their text, for they have no other equality.
fn assert_same(left: &Result<Dissection, Malformed>, right: &Result<Dissection, Malformed>) {
    let (left, right) = match (left, right) {
        (Ok(left), Ok(right)) => (left, right),
        (left, right) => return assert_eq!(left.as_ref().err(), right.as_ref().err()),
    };
    assert_eq!((&left.layout, &left.findings), (&right.layout, &right.findings));
    assert_eq!(format!("{:?}", left.verity), format!("{:?}", right.verity));
    assert_eq!(left.partitions.len(), right.partitions.len());
    for (left, right) in left.partitions.iter().zip(&right.partitions) {
        assert_eq!(left.superblocks, right.superblocks, "{left:?}");
        assert_eq!((&left.luks2, left.standing), (&right.luks2, right.standing), "{left:?}");
    }
}

/// A source that never gives the last of what it is asked for: the survey must end, and say so.
fn withhold(image: &SparseImage, options: SurveyOptions) {
    let mut survey = Survey::new(image.size(), options);
    for _ in 0..ROUNDS {
        let mut wanted = survey.wanted();
        let Some(last) = wanted.pop() else { break };
        for extent in wanted {
            survey.feed(extent.start(), &image.read(extent));
        }
        if survey.wanted() == [last] {
            break;
        }
    }
    if !survey.wanted().is_empty() {
        survey.finish().expect_err("bytes that were wanted did not come");
    }
}

// --- What everything else relies on ---

fn check_dissection(dissection: &Dissection) {
    let whole = Extent::from_beginning(dissection.image_size);
    assert!(dissection.partitions.len() <= 128 && dissection.verity.len() <= 2);
    let bare = matches!(dissection.layout, Layout::Bare);
    assert!(!bare || (dissection.partitions.len() == 1 && dissection.verity.len() <= 1));
    for (index, partition) in dissection.partitions.iter().enumerate() {
        assert!(whole.contains(partition.extent) && !partition.extent.is_empty(), "{partition:?}");
        assert_eq!(partition.number.is_none(), bare);
        for other in dissection.partitions.iter().skip(index + 1) {
            assert!(!partition.extent.overlaps(other.extent), "{partition:?} {other:?}");
            assert!(partition.number != other.number && partition.uuid != other.uuid);
            // Several partitions may have signatures of one root hash, which all count.
            let may_be_several = match partition.standing {
                Standing::Chosen(designator) => designator.verity_role() == Some(VerityRole::Signature),
                Standing::Passed(_) => true,
            };
            assert!(
                partition.standing != other.standing || may_be_several,
                "two are chosen: {partition:?} {other:?}"
            );
        }
    }
    for set in &dissection.verity {
        let numbered = |number| dissection.partitions.iter().find(|partition| partition.number == number);
        let data = numbered(set.data).unwrap();
        assert_eq!(data.standing, Standing::Chosen(set.designator));
        assert!(data.extent.contains(set.data_extent) && data.extent.start() == set.data_extent.start());
        assert!(!set.data_extent.is_empty());
        assert_eq!(set.root_hash.algorithm(), set.superblock.algorithm);
        let TreePlace::Partition(hash) = set.hash else {
            assert!(bare && set.data.is_none() && set.tree_in_image().is_none(), "{set:?}");
            assert!(set.tree_extent.end().bytes() <= 8192 && set.signatures.is_empty(), "{set:?}");
            continue;
        };
        let hash = numbered(Some(hash)).unwrap();
        assert!(!bare && set.data.is_some() && hash.extent.contains(set.tree_extent), "{set:?}");
        assert_eq!(hash.standing, Standing::Chosen(set.designator.verity_hash().unwrap()));
        assert_eq!(data.uuid, Some(set.root_hash.data_partition_uuid()));
        assert_eq!(hash.uuid, Some(set.root_hash.hash_partition_uuid()));
        assert!(set.signatures.iter().all(|(_, signature)| signature.root_hash == set.root_hash), "{set:?}");
    }
    for finding in &dissection.findings {
        assert!(is_one_line(&finding.message()), "{finding}");
    }
}

fn check_plans(
    dissection: &Dissection,
    anchors: &TrustAnchors,
    given: [Option<&RootHash>; 2],
    download: Option<&VerifiedDownload>,
    native: Architecture,
) -> usize {
    let mut plans = 0;
    let [root_hash, usr_hash] = given;
    let (revocations, purpose) = (Revocations::NONE, ImagePurpose::UNKNOWN);
    let trust = Trust { anchors, revocations, purpose, root_hash, usr_hash, download, at: valid_time() };
    let signers_are_trusted = anchors == &*SIGNERS;
    check_derivation(dissection, &assess(dissection, &trust));
    let policies = [
        RequestedPolicy::as_written(ImagePolicy::allow()),
        RequestedPolicy::verified_boot(),
        RequestedPolicy::verified_extension(),
    ];
    for policy in policies {
        let assessment = assess(dissection, &trust);
        for (partition, assessed) in dissection.partitions.iter().zip(&assessment.partitions) {
            let Some(authenticated) = &assessed.authenticated else {
                assert_ne!(assessed.protection, Protection::Signed, "{partition:?}");
                continue;
            };
            assert_eq!(Some(authenticated.root_hash()), assessed.root_hash.as_ref());
            let signed = authenticated.signer().is_some();
            assert_eq!(signed, assessed.protection == Protection::Signed);
            assert!(!signed || (signers_are_trusted && SIGNED_HASHES.contains(authenticated.root_hash())));
            assert!(signed || given.contains(&Some(authenticated.root_hash())) || download.is_some());
        }
        let accepted = check_verdict(dissection, &assessment, Some(&policy)) == Verdict::Accept;
        let plan = match ActivationPlan::new(dissection, assessment, &policy, native, Access::ReadWrite) {
            Ok(plan) => plan,
            Err(refusal) => {
                assert!(!refusal.findings.is_empty());
                assert!(refusal.findings.iter().all(|finding| is_one_line(&finding.message())), "{refusal}");
                continue;
            }
        };
        assert!(accepted, "a plan for an image that the policy refuses");
        check_plan(dissection, &plan);
        plans += 1;
        if policy.strictness().demands_authentication() {
            assert!(
                signers_are_trusted || given != [None; 2] || download.is_some(),
                "{policy}: nobody and nothing is trusted, and yet there is a plan: {plan:?}"
            );
            let of_root_or_usr = |designator| matches!(designator, Designator::Root | Designator::Usr);
            assert!(plan.devices.iter().any(|device| of_root_or_usr(device.designator)), "{plan:?}");
            for device in &plan.devices {
                let verity = device.verity.as_ref();
                let authenticated = verity.is_some_and(|verity| verity.authenticated.is_some());
                assert!(
                    authenticated || (device.number.is_none() && download.is_some()),
                    "{policy}: {device:?}"
                );
                assert!(of_root_or_usr(device.designator), "{policy}: {device:?}");
            }
        }
    }
    plans
}

/// What an audit says agrees with what the policy says, and with how grave its findings are.
fn check_verdict(
    dissection: &Dissection,
    assessment: &Assessment,
    policy: Option<&RequestedPolicy>,
) -> Verdict {
    let judged = judge(dissection, assessment, policy, Vec::new());
    let refusals = judged.evaluation.as_ref().map(|evaluation| evaluation.refusals.as_slice());
    let accepted = refusals.map(<[_]>::is_empty);
    match judged.verdict {
        Verdict::Accept => assert_eq!(accepted, Some(true)),
        Verdict::Refuse => assert_eq!(accepted, Some(false)),
        Verdict::NotJudged => assert_eq!(accepted, None),
        Verdict::Malformed => panic!("a verdict on what cannot be dissected: {:?}", judged.findings),
    }
    let grave = judged.findings.iter().filter(|finding| finding.level == Level::Error);
    if let Some(refusals) = refusals {
        assert!(refusals.iter().all(|refusal| judged.findings.contains(refusal)), "{refusals:?}");
        assert!(grave.clone().all(|finding| refusals.contains(finding)), "{:?}", judged.findings);
        assert_eq!(accepted, Some(grave.count() == 0), "{:?}", judged.findings);
    }
    assert!(judged.findings.is_sorted_by(|left, right| left.level >= right.level));
    for finding in &judged.findings {
        assert!(is_one_line(&finding.message()), "{finding}");
        assert!(finding.partition.is_none_or(|number| {
            dissection.partitions.iter().any(|partition| partition.number == Some(number))
        }));
    }
    judged.verdict
}

/// The tightest policy of an image accepts it, and its text means the same.
fn check_derivation(dissection: &Dissection, assessment: &Assessment) {
    check_verdict(dissection, assessment, None);
    match derive(dissection, assessment) {
        Ok(derivation) => {
            let text = derivation.policy.to_string();
            let read: ImagePolicy = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(read.is_equivalent(&derivation.policy), "{text}");
            let policy = RequestedPolicy::as_written(read);
            assert_eq!(check_verdict(dissection, assessment, Some(&policy)), Verdict::Accept, "{text}");
            assert!(derivation.notes.iter().all(|note| is_one_line(note)), "{:?}", derivation.notes);
        }
        Err(reasons) => {
            let open = RequestedPolicy::as_written(ImagePolicy::allow());
            let ignoring = RequestedPolicy::as_written(ImagePolicy::ignore());
            for policy in [open, ignoring] {
                let verdict = check_verdict(dissection, assessment, Some(&policy));
                assert_eq!(verdict, Verdict::Refuse, "{policy}: {reasons:?}");
            }
        }
    }
}

/// No device of a plan shows a byte outside of its partition, or of another device.
fn check_plan(dissection: &Dissection, plan: &ActivationPlan) {
    for (index, device) in plan.devices.iter().enumerate() {
        let partition =
            dissection.partitions.iter().find(|partition| partition.number == device.number).unwrap();
        assert_eq!(partition.standing, Standing::Chosen(device.designator));
        assert!(!matches!(device.designator.verity_role(), Some(VerityRole::Hash | VerityRole::Signature)));
        let hashed = dissection.verity_of(device.designator).map(|set| set.data_extent);
        assert_eq!(device.extent, hashed.unwrap_or(partition.extent));
        assert_eq!(device.verity.is_some(), hashed.is_some());
        check_writability(dissection, device);
        for other in plan.devices.iter().skip(index + 1) {
            assert!(!device.extent.overlaps(other.extent) && device.designator != other.designator);
        }
    }
}

/// What is verified, marked read-only or read-only by its format is not written to, and the rest of the image never is.
fn check_writability(dissection: &Dissection, device: &PlannedDevice) {
    if device.read_only {
        assert!(!device.growfs);
        return;
    }
    let partition = dissection.partitions.iter().find(|partition| partition.number == device.number).unwrap();
    assert!(device.verity.is_none() && !partition.attributes.read_only(), "{device:?}");
    assert!(!matches!(device.protection, Protection::Verity | Protection::Signed), "{device:?}");
    assert!(!device.file_system.is_some_and(FileSystem::is_read_only), "{device:?}");
    assert!(!device.growfs || partition.attributes.growfs(), "{device:?}");
    let others = dissection.partitions.iter().filter(|other| other.number != device.number);
    let taken = others.map(|other| other.extent).chain(dissection.table_extents().iter().copied());
    let verified =
        dissection.verity.iter().flat_map(|set| [Some(set.data_extent), set.tree_in_image()]).flatten();
    for extent in taken.chain(verified) {
        assert!(!device.extent.overlaps(extent), "{device:?}");
    }
}

fn verified_download() -> VerifiedDownload {
    let digest = DownloadHasher::new().finish();
    let expected = ExpectedDownload::pinned(ListedDigest::from_bytes(*digest.as_bytes()));
    expected.check(digest).unwrap().verified().unwrap().clone()
}

// --- Images ---

/// What partitions can hold, beside what belongs into them: the beginnings of the fixtures of `tests/data/superblocks`.
macro_rules! fixtures {
    ($($name:literal)*) => {
        [$(include_str!(concat!("../data/superblocks/", $name, ".sparse"))),*]
    };
}

const FIXTURES: [&str; 20] = fixtures! {
    "squashfs" "erofs-lz4" "ext4" "btrfs" "f2fs" "xfs" "fat12" "fat32" "luks1" "luks2" "luks2-pbkdf2" "swap" "verity"
    "lvm2" "md-1.1" "md-1.2" "gpt" "iso9660" "ext2" "ntfs"
};
const SQUASHFS: usize = 0;
const EROFS: usize = 1;
const FAT12: usize = 6;
const LUKS2: usize = 9;
const LUKS2_MAGIC: &[u8] = b"LUKS\xba\xbe\0\x02";
const SWAP: usize = 11;
/// How much of a fixture is in a partition: what a probe reads at its beginning, and more.
const FIXTURE_LENGTH: usize = 72 << 10;
/// Where a file system says how large it is, and what it says here, so that the ESP and the swap space are sane: 144
/// sectors of 512 bytes, and page 17 as the last.
const SHRUNK: [(usize, usize, &[u8]); 2] = [(FAT12, 19, &[144, 0]), (SWAP, 1024 + 4, &[17, 0, 0, 0])];

const LABELS: [&str; 8] =
    ["", "root_1", "root_2.0~rc1", "_empty", "PRT#root_3", "PND#root_3", "x\u{1b}[2J", "\u{202e}evil"];
/// None, no-auto, read-only, growfs, ESP no-block-I/O, required, undefined ones, all.
const ATTRIBUTES: [u64; 8] = [0, 1 << 63, 1 << 60, 1 << 59, 1 << 1, 1, 1 << 47, u64::MAX];

fn build(input: &mut Input<'_>, sector_size: SectorSize, bare: bool, repair: bool) -> Vec<u8> {
    let sector = usize::try_from(sector_size.bytes()).unwrap();
    let mut builder = GptBuilder::new(sector).entries(32, 128);
    let mut contents = Vec::new();
    for number in 1..=input.byte() % 16 {
        let [kind, architecture, content, name, uuid] = [(); 5].map(|()| input.byte());
        let designator = Designator::ALL.get(usize::from(kind % 16)).copied();
        let architecture = ARCHITECTURES[usize::from(architecture % 4)];
        let types = [Some(architecture), None]
            .map(|architecture| PartitionType::Designated { designator: designator?, architecture }.uuid());
        let type_uuid =
            types.into_iter().flatten().next().map_or(Guid::from_bytes([kind; 16]), |uuid| uuid.guid());
        let content = content_of(designator, content);
        if bare {
            contents.push(content.clone());
        }
        builder = builder.partition(
            as_number(type_uuid),
            as_number(uuid_of(designator, number, uuid)),
            LABELS[usize::from(name % 8)],
            ATTRIBUTES[usize::from(name / 8 % 8)],
            content,
        );
    }
    if bare {
        let mut bytes = contents.into_iter().next().unwrap_or_default();
        change(&mut bytes, &[], sector, *input);
        if repair {
            repair_luks(&mut bytes, &[0]);
        }
        return bytes;
    }
    let built = builder.build();
    let starts: Vec<usize> =
        built.partitions.iter().map(|place| usize::try_from(place.offset).unwrap()).collect();
    let mut bytes = built.bytes;
    change(&mut bytes, &starts, sector, *input);
    if repair {
        repair_luks(&mut bytes, &starts);
        repair_checksums(&mut bytes);
    }
    bytes
}

fn content_of(designator: Option<Designator>, choice: u8) -> Vec<u8> {
    if let Some(index) = usize::from(choice).checked_sub(2) {
        return fixture(index % FIXTURES.len());
    }
    if choice == 1 {
        return vec![0; 4096];
    }
    let index = match designator {
        Some(Designator::Root | Designator::Srv | Designator::Tmp) => SQUASHFS,
        Some(Designator::Usr) => EROFS,
        Some(Designator::Esp | Designator::Xbootldr) => FAT12,
        Some(Designator::Home | Designator::Var) => LUKS2,
        Some(Designator::Swap) => SWAP,
        Some(Designator::RootVerity) => return hash_partition(HashAlgorithm::Sha256, 1),
        Some(Designator::UsrVerity) => return hash_partition(HashAlgorithm::Sha512, 2),
        Some(Designator::RootVeritySig) => return signature_partition(0, include_bytes!("data/root.der")),
        Some(Designator::UsrVeritySig) => return signature_partition(1, include_bytes!("data/usr.der")),
        None => return b"nothing known".repeat(100),
    };
    fixture(index)
}

fn fixture(index: usize) -> Vec<u8> {
    static DECODED: LazyLock<[Vec<u8>; FIXTURES.len()]> = LazyLock::new(|| {
        let mut decoded = FIXTURES.map(decode);
        for (index, at, size) in SHRUNK {
            decoded[index][at..][..size.len()].copy_from_slice(size);
        }
        decoded
    });
    DECODED[index].clone()
}

fn decode(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length: usize = lines.next().unwrap().strip_prefix("length ").unwrap().parse().unwrap();
    let mut bytes = vec![0; length.min(FIXTURE_LENGTH)];
    for line in lines.skip(1) {
        let (offset, row) = line.split_once(' ').unwrap();
        let row = data_encoding::HEXLOWER.decode(row.as_bytes()).unwrap();
        let start: usize = offset.parse().unwrap();
        if let Some(place) = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..row.len())) {
            place.copy_from_slice(&row);
        }
    }
    if bytes.starts_with(LUKS2_MAGIC) {
        copy_luks_metadata(&mut bytes);
    }
    bytes
}

/// Superblock and as much room as the tree over so few blocks takes. What the tree says is not the survey's business.
fn hash_partition(algorithm: HashAlgorithm, data_blocks: u64) -> Vec<u8> {
    let superblock = VeritySuperblock {
        uuid: Guid::from_bytes([7; 16]),
        algorithm,
        data_block_size: VerityBlockSize::DEFAULT,
        hash_block_size: VerityBlockSize::DEFAULT,
        data_blocks,
        salt: Salt::new(b"salt").unwrap(),
    };
    let mut bytes = superblock.to_bytes().to_vec();
    bytes.resize(8192, 0);
    bytes
}

fn signature_partition(index: usize, der: &[u8]) -> Vec<u8> {
    let signature = VeritySignature {
        root_hash: SIGNED_HASHES[index].clone(),
        signature: der.to_vec(),
        certificate_fingerprint: SIGNERS.iter().next().map(|anchor| *anchor.fingerprint().as_bytes()),
        unknown_keys: Vec::new(),
    };
    signature.to_partition(ByteLength::new(4096)).unwrap()
}

/// The UUID that a partition with dm-verity must have, or another.
fn uuid_of(designator: Option<Designator>, number: u8, choice: u8) -> Guid {
    let [root, usr] = &*SIGNED_HASHES;
    let choice = match (choice, designator) {
        (0, Some(Designator::Root)) => 1,
        (0, Some(Designator::RootVerity)) => 2,
        (0, Some(Designator::Usr)) => 3,
        (0, Some(Designator::UsrVerity)) => 4,
        (choice, _) => choice,
    };
    match choice {
        0 => Guid::from_bytes([number; 16]),
        1 => root.data_partition_uuid().guid(),
        2 => root.hash_partition_uuid().guid(),
        3 => usr.data_partition_uuid().guid(),
        4 => usr.hash_partition_uuid().guid(),
        other => Guid::from_bytes([other; 16]),
    }
}

/// Writes bytes where an image is interesting: a place, a position there, how many, and the bytes, until none are left.
fn change(bytes: &mut [u8], starts: &[usize], sector: usize, mut input: Input<'_>) {
    let last = bytes.len().saturating_sub(sector);
    let backup_table = last.saturating_sub((32 * 128_usize).next_multiple_of(sector));
    while !input.is_empty() {
        let (place, at) = (input.byte(), usize::try_from(input.number(2)).unwrap());
        let count = input.byte();
        let new = input.bytes(usize::from(count));
        let targets: &[usize] = match place {
            0 => &[sector + at, last + at],
            1 => &[sector + at],
            2 => &[last + at],
            3 => &[2 * sector + at, backup_table + at],
            4 => &[2 * sector + at],
            5 => &[backup_table + at],
            6 => &[446 + at],
            7 => &[64 * at],
            _ => {
                let index = usize::from(place & 0x7f) % starts.len().max(1);
                let (start, end) = (
                    starts.get(index).copied().unwrap_or(0),
                    starts.get(index + 1).copied().unwrap_or(backup_table),
                );
                if place < 128 { &[start + at] } else { &[end.saturating_sub(at)] }
            }
        };
        for target in targets {
            if let Some(old) = bytes.get_mut(*target..).and_then(|rest| rest.get_mut(..new.len())) {
                old.copy_from_slice(new);
            }
        }
    }
}

/// Makes both copies of the metadata the same, and the checksum right, of every LUKS2 volume that begins in `starts`.
fn repair_luks(bytes: &mut [u8], starts: &[usize]) {
    for start in starts {
        let Some(volume) = bytes.get_mut(*start..) else { continue };
        if volume.starts_with(LUKS2_MAGIC) {
            copy_luks_metadata(volume);
        }
    }
}

/// Makes the second copy what the first is, and both checksums fit. For headers of 16 KiB, which is what every tool makes.
fn copy_luks_metadata(volume: &mut [u8]) {
    const COPY: usize = 16 << 10;
    let Some(both) = volume.get_mut(..2 * COPY) else { return };
    both.copy_within(..COPY, COPY);
    both[COPY..][..4].copy_from_slice(b"SKUL");
    both[COPY + 256..][..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0x40, 0]);
    for copy in both.chunks_mut(COPY) {
        copy[448..512].fill(0);
        let checksum = sha2::Sha256::digest(&*copy);
        copy[448..480].copy_from_slice(&checksum);
    }
}

fn as_number(guid: Guid) -> u128 {
    u128::from_be_bytes(*guid.as_bytes())
}
