//! What every fuzz target does with its input: parse it, and hold the result to what the rest of the program relies on.
//!
//! The targets in `targets/` call these functions, and `tests/pure/fuzz_corpora.rs` has this file as a module and
//! replays the corpora with them, so that `make test` needs no fuzzer. A broken promise is a panic.

#![allow(unreachable_pub, reason = "a library for the fuzzers, a private module for the tests")]

use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ddictl::format::designator::{Designator, VerityRole};
use ddictl::format::gpt::{Headers, MAXIMUM_ENTRIES_LENGTH, probe_extents};
use ddictl::format::ignore_list;
use ddictl::format::label::{PartitionLabel, compare_versions};
use ddictl::format::loop_reference::LoopReference;
use ddictl::format::pe;
use ddictl::format::root_hash::RootHash;
use ddictl::format::sparse::{SparseBytes, Window};
use ddictl::format::superblock::{
    self, FileSystem, LogExamination, Luks2Metadata, LuksHeader, SuperblockKind, Vfat, XfsLog,
};
use ddictl::format::trust_rules::{self, TrustSubject};
use ddictl::format::units::{ByteLength, ByteOffset, Extent, PartitionNumber, SectorSize};
use ddictl::format::verity::table::{VerityHealth, VerityTable};
use ddictl::format::verity::{HashTreeGeometry, VeritySuperblock};
use ddictl::format::verity_signature::VeritySignature;
use ddictl::image::finding::{Finding, Level, Rule, is_deceptive};
use ddictl::image::ignored::IgnoreList;
use ddictl::image::policy::{
    Found, FoundFileSystem, ImagePolicy, Protection, Relation, Use, check, show_json, show_text,
};
use ddictl::image::presets::{PolicyArgument, PolicyFile, RequestedPolicy};
use ddictl::image::uki;
use ddictl::trust::anchor::{TrustAnchor, TrustAnchors};
use ddictl::trust::revocation::Revocations;
use ddictl::trust::signature::{Signers, verify_root_hash_signature};

mod arrivals;
mod boot;
mod downloads;
mod files;
#[path = "../support/gpt_builder.rs"]
pub mod gpt_builder;
mod input;
mod survey;

use input::{Input, SparseImage, copy_overlap, extent};

pub use arrivals::{decoders, disk_of, http_headers, qcow2, tar};
pub use boot::command_line;
pub use downloads::{
    checksum_manifest, is_valid_openpgp_signature, openpgp_keyring, openpgp_signature, valid_openpgp_signers,
};
pub use files::{boot_entry, fat, fat_files};
pub use survey::{plans, survey};

/// What a target does with an input.
pub type Body = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Body); 22] = [
    ("boot_entry", boot_entry),
    ("checksum_manifest", checksum_manifest),
    ("command_line", command_line),
    ("decoders", decoders),
    ("fat", fat),
    ("gpt", gpt),
    ("http_headers", http_headers),
    ("ignore_list", ignore_list),
    ("names", names),
    ("openpgp_keyring", openpgp_keyring),
    ("openpgp_signature", openpgp_signature),
    ("pkcs7", pkcs7),
    ("policy", policy),
    ("qcow2", qcow2),
    ("superblocks", superblocks),
    ("survey", survey),
    ("tar", tar),
    ("trust_rules", trust_rules),
    ("uki", uki),
    ("verity_signature", verity_signature),
    ("verity_superblock", verity_superblock),
    ("verity_table", verity_table),
];

/// A partition table: one byte of flags, how long a gap is in the middle where they say so, and the image.
pub fn gpt(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let sector_size = SectorSize::ALL.get(usize::from(flags >> 2 & 7)).copied();
    let gap = if flags & 2 == 0 { 0 } else { input.number(6) };
    let mut bytes = input.rest().to_vec();
    if flags & 1 != 0 {
        gpt_builder::repair_checksums(&mut bytes);
    }
    let image = SparseImage::new(bytes, gap);
    let whole = Extent::from_beginning(image.size());

    let mut known = SparseBytes::new();
    let probed = probe_extents(image.size());
    image.feed(&mut known, &probed);
    assert!(known.held().bytes() <= 16384, "{probed:?}");
    let Ok(Some(headers)) = Headers::find(&known, image.size(), sector_size) else { return };
    assert!(sector_size.is_none_or(|expected| expected == headers.sector_size()));
    let tables = headers.table_extents();
    assert!(matches!(tables.len(), 1 | 2));
    assert!(tables.iter().all(|table| whole.contains(*table) && table.length() <= MAXIMUM_ENTRIES_LENGTH));
    image.feed(&mut known, &tables);
    let Ok(table) = headers.table(&known) else { return };

    let sector = u64::from(table.sector_size.bytes());
    let front = Extent::from_beginning(ByteLength::new(2 * sector));
    for (index, entry) in table.entries.iter().enumerate() {
        assert!(whole.contains(entry.extent) && !entry.extent.is_empty(), "{entry:?}");
        assert!(!front.overlaps(entry.extent), "{entry:?}");
        assert!(entry.extent.start().bytes().is_multiple_of(sector), "{entry:?}");
        assert!(entry.extent.length().bytes().is_multiple_of(sector), "{entry:?}");
        assert!(!entry.type_uuid.guid().is_zero() && !entry.uuid.guid().is_zero(), "{entry:?}");
        assert!(is_one_line(&entry.label.to_string()), "{entry:?}");
        for other in table.entries.iter().skip(index + 1) {
            assert!(entry.number < other.number, "{entry:?} {other:?}");
            assert!(!entry.extent.overlaps(other.extent), "{entry:?} {other:?}");
            assert!(entry.uuid != other.uuid, "{entry:?} {other:?}");
        }
    }
}

/// A list of findings to ignore: lines that print as they are read, or an error of one line.
pub fn ignore_list(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match ignore_list::parse(text) {
        Ok(lines) => {
            let printed: Vec<String> = lines.iter().map(ToString::to_string).collect();
            let again = ignore_list::parse(&printed.join("\n")).unwrap();
            assert!(again.iter().map(ToString::to_string).eq(printed), "{lines:?}");
            let mut list = IgnoreList::default();
            if list.add("fuzz", lines).is_ok() {
                let mut findings: Vec<Finding> =
                    Rule::ALL.iter().map(|rule| Finding::of_image(*rule, "one", "another")).collect();
                let refuses = |finding: &Finding| finding.level == Level::Error;
                list.apply("/srv/os.raw", &mut findings, refuses, valid_time());
                assert!(!findings.iter().any(|f| refuses(f) && f.ignored.is_some()), "{text}");
            }
        }
        Err(error) => assert!(is_one_line(&error.to_string()), "{error}"),
    }
}

/// A unified kernel image; what is no PE file is taken for the command line of one.
pub fn uki(input: &[u8]) {
    let lookup = |text: &str| match text.parse() {
        Ok(PolicyArgument::Text(policy)) => Ok(RequestedPolicy::as_written(policy)),
        Ok(PolicyArgument::Named(name)) => Err(format!("no policy {name}")),
        Err(error) => Err(error.to_string()),
    };
    let judge = |line: &[u8]| {
        for finding in uki::lint(line, &lookup) {
            assert!(is_one_line(&finding.message()), "{finding}");
            assert!(finding.rule.code().starts_with("DDI06"), "{finding}");
        }
    };
    if !pe::is_pe(input) {
        return judge(input);
    }
    let whole = Extent::from_beginning(ByteLength::of(input));
    let sections = match pe::sections(input, ByteLength::of(input)) {
        Ok(sections) => sections,
        Err(error) => return assert!(is_one_line(&error.to_string()), "{error}"),
    };
    assert!(sections.len() <= pe::MAXIMUM_SECTIONS);
    for section in &sections {
        assert!(section.content.is_empty() || whole.contains(section.content), "{section:?}");
        assert!(section.name.len() <= 8 && is_one_line(&section.name), "{section:?}");
    }
    match uki::profiles(&sections) {
        Ok(profiles) => {
            assert!(!profiles.is_empty());
            for extent in profiles.iter().filter_map(|profile| profile.command_line) {
                let at = |offset: ByteOffset| usize::try_from(offset.bytes()).unwrap();
                judge(&input[at(extent.start())..at(extent.end())]);
            }
        }
        Err(finding) => assert!(is_one_line(&finding.message()), "{finding}"),
    }
}

/// A file of trust.d: rules that print as they are read, or an error of one line.
pub fn trust_rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match trust_rules::parse(text) {
        Ok(rules) => {
            let printed: Vec<String> = rules.iter().map(ToString::to_string).collect();
            assert_eq!(trust_rules::parse(&printed.join("\n")).as_ref(), Ok(&rules));
            assert!(printed.iter().all(|line| is_one_line(line)), "{printed:?}");
            // What is not known of an image gives no signer a right that it would not have with any knowledge of it.
            for rule in &rules {
                if let TrustSubject::LimitedCertificate(_, purposes) = &rule.subject {
                    for purpose in purposes {
                        assert!(!purpose.covers(None, None), "{purpose}");
                    }
                }
            }
            let mut revocations = Revocations::default();
            revocations.add("fuzz.conf", rules);
        }
        Err(error) => assert!(is_one_line(&error.to_string()), "{error}"),
    }
}

/// The log of an XFS: read as it asks for, in a bounded number of rounds and bytes, within the partition.
fn xfs_log(length: ByteLength, bytes: &mut SparseBytes, read: impl Fn(Extent) -> Vec<u8>) {
    let whole = Extent::from_beginning(length);
    let Some(log) = XfsLog::find(&Window::new(bytes, whole)) else { return };
    for _ in 0..7 {
        let LogExamination::Wants(wanted) = log.examine(&Window::new(bytes, whole)) else { return };
        assert!(!wanted.is_empty());
        for part in wanted {
            assert!(whole.contains(part) && bytes.get(part).is_none(), "{part}");
            bytes.insert(part.start(), &read(part));
        }
        assert!(bytes.held().bytes() <= (512 << 10) + 8192, "{log:?}");
    }
    panic!("no end: {log:?}");
}

/// A partition: twice its length, then pieces of it, each with its place and length. What no piece has is zero.
pub fn superblocks(input: &[u8]) {
    let mut input = Input::new(input);
    // The kernel's largest file or device: 63 bits.
    let length = ByteLength::new(input.number(8) >> 1);
    let mut pieces: Vec<(u64, &[u8])> = Vec::new();
    while !input.is_empty() {
        let (at, count) = (input.number(6), input.number(2));
        pieces.push((at, input.bytes(usize::try_from(count).unwrap())));
    }
    let read = |part: Extent| {
        let mut bytes = vec![0; part.length().in_memory().unwrap()];
        for (at, piece) in &pieces {
            copy_overlap(&mut bytes, part.start().bytes(), *at, piece);
        }
        bytes
    };

    let wanted = superblock::probe_extents(length);
    assert!(wanted.iter().map(|part| part.length().bytes()).sum::<u64>() <= 8192, "{wanted:?}");
    assert!(wanted.iter().all(|part| Extent::from_beginning(length).contains(*part)), "{wanted:?}");
    assert!(wanted.windows(2).all(|pair| pair[0].end() <= pair[1].start()), "{wanted:?}");
    let mut alone = SparseBytes::new();
    let mut among_others = SparseBytes::new();
    let base = 1 << 20;
    for part in wanted {
        let bytes = read(part);
        alone.insert(part.start(), &bytes);
        among_others.insert(ByteOffset::new(base + part.start().bytes()), &bytes);
    }
    let window = Window::new(&alone, Extent::from_beginning(length));
    let found = superblock::probe(&window);

    // The same partition within an image that has more of the same right before and behind it.
    let head = read(Extent::from_beginning(ByteLength::new(4096)));
    among_others.insert(ByteOffset::new(base - 4096), &head);
    among_others.insert(ByteOffset::new(base + length.bytes()), &head);
    let placed = extent(base, length.bytes());
    assert_eq!(superblock::probe(&Window::new(&among_others, placed)), found, "it looks outside");

    let _ = Vfat::parse(&window).map(|vfat| (vfat.fat_type(), vfat.clusters(), vfat.length()));
    for superblock in &found {
        let name = superblock.kind.to_string();
        if superblock.kind.file_system() == Some(FileSystem::Xfs) {
            xfs_log(length, &mut alone.clone(), read);
        }
        assert!(is_one_line(&name) && !name.is_empty());
        let SuperblockKind::Luks(LuksHeader::Luks2(header)) = &superblock.kind else { continue };
        assert!(header.header_size.bytes().checked_mul(2).is_some_and(|both| both <= length.bytes()));
        assert!(header.header_extent().contains(header.json_extent()));
        let _ = header.verify_checksum(&read(header.header_extent().truncated(ByteLength::new(65536))));
        if let Ok(metadata) =
            Luks2Metadata::parse_json(&read(header.json_extent().truncated(ByteLength::new(65536))))
        {
            assert!(!metadata.has_integrity() || !metadata.segments.is_empty());
        }
    }
}

/// The line of a dm-verity table: what is read is written as one line of as many words as the kernel counts, and read
/// again as the same.
pub fn verity_table(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(health) = text.parse::<VerityHealth>() {
        assert!(text.trim_ascii_start().starts_with(if health == VerityHealth::Verified {
            'V'
        } else {
            'C'
        }));
    }
    let Ok(table) = text.parse::<VerityTable>() else { return };
    let written = table.to_string();
    assert!(is_one_line(&written) && !written.contains('\\'), "{written:?}");
    assert_eq!(written.parse().as_ref(), Ok(&table));
    let words: Vec<&str> = written.split(' ').collect();
    assert!(words.iter().all(|word| !word.is_empty()), "{written:?}");
    let (fixed, options) = words.split_at(10);
    assert_eq!(fixed[0], "1");
    if let Some((count, options)) = options.split_first() {
        assert_eq!(count.parse(), Ok(options.len()), "{written:?}");
    }
    if let Some(size) = table.size() {
        assert_eq!(table.sectors().map(|sectors| sectors * 512), Some(size.bytes()));
        assert_eq!(size.bytes(), table.data_blocks * u64::from(table.data_block_size.bytes()));
    }
}

/// A verity superblock and the shape of the tree behind it.
pub fn verity_superblock(input: &[u8]) {
    let Ok(superblock) = VeritySuperblock::parse(input) else { return };
    let written = superblock.to_bytes();
    assert_eq!(Some(&written[..]), input.get(..VeritySuperblock::SIZE), "{superblock:?}");
    assert_eq!(VeritySuperblock::parse(&written).as_ref(), Ok(&superblock));
    let Ok(geometry) = HashTreeGeometry::new(&superblock) else { return };

    let (block, tree) = (geometry.hash_block_size().length().bytes(), geometry.tree_extent());
    assert_eq!(
        geometry.data_length().bytes(),
        superblock.data_blocks * superblock.data_block_size.length().bytes()
    );
    assert!(tree.start().bytes() >= 512 && tree.start().bytes().is_multiple_of(block));
    assert_eq!(geometry.first_hash_block() * block, tree.start().bytes());
    let mut end = tree.start();
    for (index, level) in geometry.levels().iter().enumerate() {
        assert_eq!(level.offset, end, "{level:?}");
        assert_eq!(level.blocks, level.digests.div_ceil(geometry.hashes_per_block()), "{level:?}");
        assert!(index > 0 || level.blocks == 1, "{level:?}");
        let below = geometry.levels().get(index + 1).map_or(superblock.data_blocks, |below| below.blocks);
        assert!(
            level.digests
                == if index + 1 == geometry.levels().len() { superblock.data_blocks } else { below }
        );
        end = end.checked_add(ByteLength::new(level.blocks * block)).unwrap();
    }
    assert_eq!(end, tree.end());
    let (hash, data) = (ByteLength::new(tree.end().bytes()), geometry.data_length());
    assert_eq!(geometry.fits(hash, data), Ok(()));
    assert!(geometry.fits(hash, ByteLength::new(data.bytes() - 1)).is_err());
    assert!(geometry.levels().is_empty() || geometry.fits(ByteLength::new(hash.bytes() - 1), data).is_err());
}

/// The content of a signature partition.
pub fn verity_signature(input: &[u8]) {
    let signature = match VeritySignature::parse(input) {
        Ok(signature) => signature,
        Err(error) => return assert!(is_one_line(&error.to_string()), "{error}"),
    };
    assert!(!signature.signature.is_empty());
    let mut padded = input.to_vec();
    padded.resize(input.len() + 1, 0);
    assert_eq!(VeritySignature::parse(&padded).unwrap(), signature);
    let size = ByteLength::new(ByteLength::of(input).bytes().next_multiple_of(4096));
    let Ok(written) = signature.to_partition(size) else {
        // What escapes make longer in the text is shorter as we write it, but every text here fits somewhere.
        panic!("{signature:?} does not fit {size} bytes");
    };
    let read = VeritySignature::parse(&written).unwrap();
    assert_eq!(read, VeritySignature { unknown_keys: Vec::new(), ..signature });
}

/// Policy text, and a second one behind the first line feed.
pub fn policy(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let _ = PolicyFile::parse(text).map(|file| assert_same_policy(&file.policy));
    let _ = PolicyArgument::from_str(text).map_err(|error| error.to_string());
    let policies: Vec<ImagePolicy> = text.splitn(2, '\n').filter_map(read_policy).collect();
    let [left, right] = policies.as_slice() else { return };
    let (both, either) = (left.intersect(right), left.union(right));
    assert_eq!(both, right.intersect(left), "intersection is not symmetric");
    for one in [left, right] {
        assert!(
            both.as_ref().map_or(true, |both| both.compare(one).is_within()),
            "{both:?} is not within '{one}'"
        );
        assert!(
            either.as_ref().map_or(true, |either| one.compare(either).is_within()),
            "'{one}' is not within {either:?}"
        );
    }
    for designator in Designator::ALL {
        for found in
            every_state().filter(|found| found.is_none_or(|found| can_be(designator, found.protection)))
        {
            // A signature partition is verified whether it is used or not.
            let is_signature = designator.verity_role() == Some(VerityRole::Signature);
            let uses = |policy: &ImagePolicy| match policy.rule(designator).decide(found) {
                Ok(Use::Used) => true,
                Ok(Use::Unused) => is_signature,
                Ok(Use::Absent) | Err(_) => false,
            };
            let [by_left, by_right] = [left, right].map(uses);
            assert!(
                !both.as_ref().is_ok_and(uses) || (by_left && by_right),
                "'{left}' and '{right}': {found:?}"
            );
            if let Ok(either) = &either {
                assert!(uses(either) || !(by_left || by_right), "'{left}' or '{right}': {found:?}");
            }
        }
    }
}

/// Whether a partition of the designator can be found in the state.
fn can_be(designator: Designator, protection: Protection) -> bool {
    match designator.verity_role() {
        Some(VerityRole::Data) => true,
        Some(VerityRole::Hash | VerityRole::Signature) => protection == Protection::Unprotected,
        None => !matches!(protection, Protection::Verity | Protection::Signed),
    }
}

fn read_policy(text: &str) -> Option<ImagePolicy> {
    match text.parse::<ImagePolicy>() {
        Ok(policy) => {
            assert_same_policy(&policy);
            Some(policy)
        }
        Err(error) => {
            if let Some(span) = error.span() {
                assert!(text.get(span).is_some(), "{error} points outside '{text}'");
            }
            None
        }
    }
}

/// However a policy is written down, the text means the same.
fn assert_same_policy(policy: &ImagePolicy) {
    let short = policy.to_string();
    for text in [short.clone(), policy.long_form(), policy.simplified().to_string()] {
        let read: ImagePolicy = text.parse().unwrap_or_else(|error| panic!("'{text}': {error}"));
        assert!(read.is_equivalent(policy), "'{text}' is not '{short}'");
    }
    assert_eq!(short.parse::<ImagePolicy>().unwrap().to_string(), short);
    assert_eq!(show_json(policy).simplified, short);
    assert!(show_text(policy).contains(&short));
    if let Ok(with_itself) = policy.intersect(policy) {
        assert_eq!(with_itself.compare(policy), Relation::Equal, "'{short}' and itself is '{with_itself}'");
    }
    for finding in check(policy, false, None).findings {
        // What is to be written instead is a policy.
        assert!(
            finding.suggestion.is_none_or(|text| text.parse::<ImagePolicy>().is_ok()),
            "{}",
            finding.message
        );
    }
}

fn every_state() -> impl Iterator<Item = Option<Found<'static>>> {
    let file_systems =
        [FoundFileSystem::Hidden, FoundFileSystem::Unrecognised, FoundFileSystem::Recognised("erofs")];
    let states = Protection::ALL.into_iter().flat_map(move |protection| {
        file_systems.into_iter().flat_map(move |file_system| {
            [false, true].map(|flag| Some(Found { protection, read_only: flag, growfs: !flag, file_system }))
        })
    });
    states.chain([None])
}

/// What the keys of [`SIGNERS`] once signed, and nothing else: root hashes with SHA-256 and with SHA-512.
const SIGNED: [&str; 2] = [include_str!("data/root.hash"), include_str!("data/usr.hash")];

/// The certificates of the two keys that signed, one of RSA and one of an elliptic curve.
static SIGNERS: LazyLock<TrustAnchors> = LazyLock::new(|| {
    anchors([include_bytes!("data/rsa-signer.crt"), include_bytes!("data/curve-signer.crt")])
});

/// Certificates with the same names and serial numbers, for keys that never signed anything.
static NAMESAKES: LazyLock<TrustAnchors> = LazyLock::new(|| {
    anchors([include_bytes!("data/rsa-namesake.crt"), include_bytes!("data/curve-namesake.crt")])
});

static SIGNED_HASHES: LazyLock<[RootHash; 2]> =
    LazyLock::new(|| SIGNED.map(|text| RootHash::from_lowercase(text.trim_end()).unwrap()));

fn anchors(certificates: [&[u8]; 2]) -> TrustAnchors {
    TrustAnchors::new(certificates.map(|pem| TrustAnchor::from_pem("test", pem).unwrap()).to_vec())
}

/// A time at which all those certificates are valid.
fn valid_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

/// A signature over a root hash.
pub fn pkcs7(input: &[u8]) {
    valid_signatures(input);
}

/// The same; says how many of the root hashes that were ever signed the input is a signature of.
pub fn valid_signatures(input: &[u8]) -> usize {
    let mut valid = 0;
    let verify = |hash: &RootHash, claimed: Option<&[u8; 32]>, anchors: &TrustAnchors, at| {
        verify_root_hash_signature(hash, input, claimed, &Signers::unlimited(anchors, at))
    };
    for hash in SIGNED_HASHES.iter() {
        for nobody in [&TrustAnchors::default(), &*NAMESAKES] {
            let verified = verify(hash, None, nobody, valid_time());
            assert!(is_one_line(&verified.expect_err("nobody who is trusted signed this").to_string()));
        }
        let mut other = hash.as_bytes().to_vec();
        other[0] ^= 1;
        let other = RootHash::from_bytes(&other).unwrap();
        verify(&other, None, &SIGNERS, valid_time()).expect_err("nobody signed this root hash");

        let Ok(authenticated) = verify(hash, None, &SIGNERS, valid_time()) else { continue };
        assert_eq!(authenticated.root_hash(), hash);
        let signer = authenticated.signer().expect("a signature has a signer");
        assert!(SIGNERS.by_fingerprint(&signer.fingerprint()).is_some());
        assert!(verify(hash, Some(signer.fingerprint().as_bytes()), &SIGNERS, valid_time()).is_ok());
        assert!(verify(hash, Some(&[0; 32]), &SIGNERS, valid_time()).is_err());
        assert!(verify(hash, None, &SIGNERS, SystemTime::UNIX_EPOCH).is_err());
        valid += 1;
    }
    valid
}

/// Names: the label of a partition, and a loop reference.
pub fn names(input: &[u8]) {
    let mut labels = Vec::new();
    for field in input.chunks(72) {
        let mut whole = [0; 72];
        whole[..field.len()].copy_from_slice(field);
        let label = PartitionLabel::from_disk(&whole);
        assert!(label.units().len() <= 36 && is_one_line(&label.to_string()), "{label}");
        if !label.to_text().contains('\u{fffd}') {
            assert_eq!(PartitionLabel::new(&label.to_text()).as_ref(), Ok(&label));
        }
        labels.push(label.to_text());
    }
    for (left, right) in labels.iter().zip(labels.iter().skip(1)) {
        assert_eq!(compare_versions(left, right), compare_versions(right, left).reverse());
        assert!(compare_versions(left, left).is_eq());
    }
    for three in labels.windows(3) {
        let [a, b, c] = three else { continue };
        if compare_versions(a, b).is_le() && compare_versions(b, c).is_le() {
            assert!(compare_versions(a, c).is_le(), "{a:?} {b:?} {c:?}");
        }
    }

    let Ok(observed) = LoopReference::observed(input) else { return };
    let link = observed.encode();
    assert!(is_one_line(&link) && !link.contains('/') && !link.contains(' ') && link != "." && link != "..");
    let Ok(image) = observed.as_str().parse::<LoopReference>() else { return };
    let number = PartitionNumber::new(2).unwrap();
    let partition = image.partition(number);
    let parts = Designator::ALL.into_iter().map(|designator| image.designator(designator));
    for part in parts.chain([partition.clone(), partition.and_then(|partition| partition.data())]) {
        let Ok(part) = part else { continue };
        assert!(part.as_str().starts_with(image.as_str()) && part.as_str().len() <= LoopReference::MAX);
        assert!(part.as_str().parse::<LoopReference>().is_err(), "'{part}' could be another image");
    }
}

/// Whether a terminal shows it on one line, as it stands.
fn is_one_line(text: &str) -> bool {
    !text.contains(is_deceptive)
}
