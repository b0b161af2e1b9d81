//! What files beside an image make of it, and what is refused of them: in the library and by the program.

use std::path::PathBuf;
use std::process::{Command, Output};

use ddictl::format::designator::Designator;
use ddictl::format::root_hash::{HashAlgorithm, RootHash};
use ddictl::format::units::ByteLength;
use ddictl::image::beside::{Beside, TreeBeside};
use ddictl::image::finding::{Level, Rule};
use ddictl::image::plan::PlannedDevice;
use ddictl::image::policy::Protection;
use tempfile::TempDir;

use crate::corpus::{SIGNED, root, rooted, stranger, trusted};
use crate::ddi_builder::{Ddi, Protected, fixture, squashfs};
use crate::gpt_builder::put_u64;
use crate::judge::{Judge, Outcome, policy};

/// The files beside an image, by what their names end in; the option by which a hash tree is named instead.
type Files = Vec<(&'static str, Vec<u8>)>;

const NAMED_TREE: &str = "--verity-data";

/// An image without a table, and the files that protect it.
fn bare(protected: &Protected) -> (Vec<u8>, Files) {
    let files = vec![(".verity", protected.hash_partition()), (".roothash", text(&protected.root_hash()))];
    (protected.data.clone(), files)
}

fn text(root_hash: &RootHash) -> Vec<u8> {
    format!("{root_hash}\n").into_bytes()
}

fn plain() -> Protected {
    Protected::root(squashfs())
}

fn another() -> Protected {
    Protected::root(fixture("erofs-lz4", 8192))
}

fn beside(files: &Files) -> Beside {
    let mut beside = Beside::default();
    for (end, content) in files {
        let origin = format!("image{end}");
        match *end {
            ".roothash" => beside.add_root_hash(Designator::Root, &origin, content),
            ".usrhash" => beside.add_root_hash(Designator::Usr, &origin, content),
            ".roothash.p7s" => beside.add_signature(Designator::Root, &origin, content),
            ".usrhash.p7s" => beside.add_signature(Designator::Usr, &origin, content),
            ".verity" | NAMED_TREE => beside.set_tree(TreeBeside {
                origin,
                size: ByteLength::of(content),
                beginning: content.iter().copied().take(512).collect(),
                is_demanded: *end == NAMED_TREE,
            }),
            other => panic!("no such file: {other}"),
        }
    }
    beside
}

fn judge(files: &Files) -> Judge {
    Judge::trusting(&[trusted()]).beside(beside(files))
}

/// An image with its files on a disk, and the certificate that is trusted.
struct Place {
    directory: TempDir,
    arguments: Vec<String>,
}

impl Place {
    fn new(image: &[u8], files: &Files) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write =
            |name: &str, content: &[u8]| std::fs::write(directory.path().join(name), content).unwrap();
        write("image.raw", image);
        write("trusted.crt", &trusted().certificate_pem());
        let mut arguments = Vec::new();
        for (end, content) in files {
            if *end == NAMED_TREE {
                write("tree", content);
                arguments.push(format!("{NAMED_TREE}={}", directory.path().join("tree").display()));
            } else {
                write(&format!("image{end}"), content);
            }
        }
        Self { directory, arguments }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, verb: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddictl"));
        command.args(verb).args(&self.arguments).arg(self.path("image.raw"));
        command.arg(format!("--certificate={}", self.path("trusted.crt").display())).output().unwrap()
    }

    /// What `dissect` says of the first partition.
    fn partition(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[&["dissect", "--json=short"], arguments].concat());
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        told["partitions"][0].clone()
    }
}

/// One refusal under every policy: what is wrong, the image, the files beside it, the rule, and words of its message.
type Row = (&'static str, (Vec<u8>, Files), Rule, &'static str);

/// The files of a bare image after something was done to one of them.
fn edited(protected: &Protected, end: &str, edit: impl FnOnce(&mut Vec<u8>)) -> (Vec<u8>, Files) {
    let (image, mut files) = bare(protected);
    edit(&mut files.iter_mut().find(|(name, _)| *name == end).unwrap().1);
    (image, files)
}

fn without_tables() -> Vec<Row> {
    let only = |files: Files| (squashfs(), files);
    let signature = || plain().signature(trusted());
    let tree = || plain().hash_partition();
    let hash = || text(&plain().root_hash());
    let with = |more| {
        let (image, mut files) = bare(&plain());
        files.push(more);
        (image, files)
    };
    let half = Protected::root(fixture("erofs-lz4", 4096));
    vec![
        (
            "a root hash without a tree",
            only(vec![(".roothash", hash())]),
            Rule::NothingToProve,
            "image.roothash",
        ),
        (
            "a signature without a tree",
            only(vec![(".roothash.p7s", signature())]),
            Rule::NothingToProve,
            "image.roothash.p7s",
        ),
        ("a tree without a root hash", only(vec![(".verity", tree())]), Rule::RootHashUnknown, "32 bytes"),
        (
            "a tree without a root hash, signed",
            only(vec![(".verity", tree()), (".roothash.p7s", signature())]),
            Rule::RootHashUnknown,
            "32 bytes",
        ),
        (
            "a root hash for usr",
            with((".usrhash", hash())),
            Rule::RootHashFileMismatch,
            "a usr partition with root hash",
        ),
        (
            "a signature for usr",
            with((".usrhash.p7s", signature())),
            Rule::NothingToProve,
            "a usr partition that",
        ),
        (
            "an empty file",
            edited(&plain(), ".roothash", Vec::clear),
            Rule::RootHashFileInvalid,
            "image.roothash",
        ),
        (
            "a root hash cut off",
            edited(&plain(), ".roothash", |text| text.truncate(62)),
            Rule::RootHashFileInvalid,
            "found 31",
        ),
        (
            "a root hash with more behind it",
            edited(&plain(), ".roothash", |text| text.extend_from_slice(b"and more")),
            Rule::RootHashFileInvalid,
            "hexadecimal digits",
        ),
        (
            "a tree of another magic",
            edited(&plain(), ".verity", |tree| tree[0] ^= 1),
            Rule::VeritySuperblockInvalid,
            "magic",
        ),
        (
            "a tree of another version",
            edited(&plain(), ".verity", |tree| tree[8] = 2),
            Rule::VeritySuperblockInvalid,
            "found 2",
        ),
        (
            "an empty tree",
            edited(&plain(), ".verity", Vec::clear),
            Rule::VeritySuperblockInvalid,
            "a hash tree of 0 bytes",
        ),
        (
            "a tree cut off",
            edited(&plain(), ".verity", |tree| tree.truncate(8191)),
            Rule::HashTreeOutside,
            "within 8191 bytes",
        ),
        (
            "a tree over more than the image",
            edited(&plain(), ".verity", |tree| put_u64(tree, 72, 9)),
            Rule::DataBlocksOutside,
            "36864 hashed bytes",
        ),
        (
            "a tree of blocks without end",
            edited(&plain(), ".verity", |tree| put_u64(tree, 72, u64::MAX)),
            Rule::HashTreeOutside,
            "possible size",
        ),
        (
            "a tree of another digest",
            edited(&plain().algorithm(HashAlgorithm::Sha512), ".roothash", |found| *found = hash()),
            Rule::DigestLengthMismatch,
            "32 bytes",
        ),
        (
            "a tree over half of a file system",
            (fixture("erofs-lz4", 8192), bare(&half).1),
            Rule::FileSystemLargerThanHashedArea,
            "4096 bytes",
        ),
    ]
}

fn with_tables() -> Vec<Row> {
    let unsigned = || rooted().without("root-verity-sig");
    let proposing = |ddi: Ddi, root_hash: &[u8]| {
        let root_hash = RootHash::from_bytes(root_hash).unwrap();
        (ddi.bytes(), vec![(".roothash", text(&root_hash))])
    };
    let mut other_half = root().root_hash().as_bytes().to_vec();
    other_half[31] ^= 1;
    let other = another().root_hash();
    let treeless = || unsigned().without("root-verity").bytes();
    vec![
        ("another's root hash", proposing(unsigned(), other.as_bytes()), Rule::RootHashFileMismatch, "as in"),
        (
            "another's root hash beside a signed image",
            proposing(rooted(), other.as_bytes()),
            Rule::RootHashFileMismatch,
            "as in",
        ),
        (
            "half of a root hash",
            proposing(unsigned(), &other_half),
            Rule::RootHashFileMismatch,
            "expected UUID",
        ),
        (
            "half of a root hash beside a signed image",
            proposing(rooted(), &other_half),
            Rule::RootHashFileMismatch,
            "a signature of root hash",
        ),
        (
            "a root hash for a partition without a tree",
            (treeless(), vec![(".roothash", text(&root().root_hash()))]),
            Rule::NothingToProve,
            "root-verity partition",
        ),
        (
            "a signature for a partition without a tree",
            (treeless(), vec![(".roothash.p7s", root().signature(trusted()))]),
            Rule::NothingToProve,
            "image.roothash.p7s",
        ),
        (
            "a root hash for a partition that is not there",
            (rooted().bytes(), vec![(".usrhash", text(&other))]),
            Rule::RootHashFileMismatch,
            "a usr partition",
        ),
        (
            "no digits",
            (rooted().bytes(), vec![(".roothash", b"none".to_vec())]),
            Rule::RootHashFileInvalid,
            "image.roothash",
        ),
        (
            "a tree that was named",
            (rooted().bytes(), vec![(NAMED_TREE, root().hash_partition())]),
            Rule::HashTreeFileUnused,
            "the partition that the table has",
        ),
    ]
}

#[test]
fn what_contradicts_the_image_is_refused_by_name() {
    for (what, (image, files), rule, words) in [without_tables(), with_tables()].concat() {
        let alone = Judge::trusting(&[trusted()]).plan(&image, &policy("*"));
        assert!(matches!(alone, Outcome::Planned(_)), "{what}, without the files: {alone:?}");
        for text in ["*", "@verified-boot", "root=verity+signed:=unused+absent"] {
            let outcome = judge(&files).plan(&image, &policy(text));
            let finding =
                outcome.reason(rule).unwrap_or_else(|| panic!("{what} under '{text}': {outcome:?}"));
            assert_eq!(finding.level, Level::Error, "{what}");
            assert!(finding.message().contains(words), "{what}: {}", finding.message());
        }
    }
}

#[test]
fn the_program_refuses_the_same_unless_it_is_told_to_leave_the_files_aside() {
    for (what, (image, files), rule, words) in [without_tables(), with_tables()].concat() {
        let place = Place::new(&image, &files);
        let audited = place.run(&["audit", "--format=json", "--image-policy=*"]);
        let told: serde_json::Value = serde_json::from_slice(&audited.stdout).unwrap();
        assert_eq!((audited.status.code(), &told["verdict"]), (Some(3), &"refuse".into()), "{what}: {told}");
        let of_rule = |finding: &&serde_json::Value| finding["rule"] == rule.code();
        let finding = told["findings"].as_array().unwrap().iter().find(of_rule).unwrap();
        assert_eq!(finding["level"], "error", "{what}");
        assert!(finding["message"].as_str().unwrap().contains(words), "{what}: {finding}");

        let attached = place.run(&["attach", "--dry-run", "--image-policy=*"]);
        let talk = String::from_utf8(attached.stderr).unwrap();
        assert_eq!((attached.status.code(), attached.stdout.is_empty()), (Some(3), true), "{what}: {talk}");
        assert!(talk.contains(rule.code()) && talk.contains(rule.remedy()), "{what}: {talk}");

        let aside = place.run(&["attach", "--dry-run", "--image-policy=*", "--sidecars=no"]);
        let named = !place.arguments.is_empty();
        assert_eq!(aside.status.code(), Some(if named { 3 } else { 0 }), "{what}: {aside:?}");
    }
}

#[test]
fn a_pinned_root_hash_is_not_moved_by_a_file() {
    let pinned = |judge: Judge| judge.root_hash(Some(root().root_hash()));
    let (other, own) = (another().root_hash(), root().root_hash());
    let (image, mut files) = bare(&plain());
    for (image, proposals) in [
        (rooted().bytes(), vec![(".roothash", text(&other))]),
        (image.clone(), vec![files[0].clone(), (".roothash", text(&other))]),
    ] {
        for policy_text in ["*", "@verified-boot"] {
            let outcome = pinned(judge(&proposals)).plan(&image, &policy(policy_text));
            assert!(outcome.reason(Rule::RootHashFileMismatch).is_some(), "{outcome:?}");
        }
        let place = Place::new(&image, &proposals);
        let run = |more: &[&str]| {
            let pin = format!("--root-hash={own}");
            place.run(&[&["attach", "--dry-run", &pin], more].concat())
        };
        assert_eq!(run(&[]).status.code(), Some(3));
        assert!(String::from_utf8(run(&[]).stderr).unwrap().contains("DDI0413"));
    }
    // And it authenticates the tree beside an image as it does one in it: not 'signed', and enough for verified boot.
    let plan = pinned(judge(&files)).plan(&image, &policy("@verified-boot")).accepted();
    assert_eq!((plan.devices[0].protection, plan.devices[0].signer.as_deref()), (Protection::Verity, None));
    files.truncate(1);
    pinned(judge(&files)).plan(&image, &policy("@verified-boot")).accepted();
    let outcome = pinned(judge(&files)).plan(&image, &policy("root=signed:=unused+absent"));
    assert!(outcome.reason(Rule::PolicyState).is_some(), "{outcome:?}");
    // Without a tree nothing can be held against it.
    let outcome = pinned(judge(&Vec::new())).plan(&image, &policy("*"));
    assert!(outcome.reason(Rule::RootHashMismatch).is_some(), "{outcome:?}");
}

fn only_device(outcome: Outcome) -> PlannedDevice {
    let mut devices = outcome.accepted().devices;
    assert_eq!(devices.len(), 1);
    devices.remove(0)
}

#[test]
fn a_proposal_authenticates_nothing_and_a_signature_that_holds_does() {
    let (image, files) = bare(&plain());
    let device = only_device(judge(&files).plan(&image, &policy("root=verity:=unused+absent")));
    assert_eq!((device.protection, device.signer.as_deref()), (Protection::Verity, None));
    assert!(device.read_only && device.verity.unwrap().authenticated.is_none());
    for text in SIGNED {
        let outcome = judge(&files).plan(&image, &policy(text));
        let finding = outcome.reason(Rule::PolicyState).unwrap();
        assert!(finding.found.contains("nobody signed it"), "{}", finding.found);
    }

    let signed_with = |signature: Vec<u8>| [files.clone(), vec![(".roothash.p7s", signature)]].concat();
    let der = plain().signature(trusted());
    let pem = format!("-----BEGIN PKCS7-----\n{}\n-----END PKCS7-----\n", data_encoding::BASE64.encode(&der));
    for signature in [der, pem.into_bytes()] {
        let files = signed_with(signature);
        // A rule that demands the partitions that only follow from it is content with the files.
        for text in [SIGNED, &["root=signed", "root=signed+squashfs"]].concat() {
            let device = only_device(judge(&files).plan(&image, &policy(text)));
            let found = (device.protection, device.signer.as_deref());
            assert_eq!(found, (Protection::Signed, Some("CN=trusted")), "{text}");
        }
        // One that names them is not.
        for text in ["root=signed:root-verity=unprotected", "root=signed:root-verity-sig=unprotected"] {
            let outcome = judge(&files).plan(&image, &policy(text));
            assert!(outcome.reason(Rule::PolicyAbsent).is_some(), "{text}: {outcome:?}");
        }
        let place = Place::new(&image, &files);
        let told = place.partition(&[]);
        let found = (&told["protection"], &told["signer"], &told["number"]);
        assert_eq!(found, (&"signed".into(), &"CN=trusted".into(), &serde_json::Value::Null));
        assert_eq!(place.partition(&["--sidecars=no"])["protection"], "unprotected");
    }

    for (what, signature, rule) in [
        ("a stranger's", plain().signature(stranger()), Rule::SignerUntrusted),
        ("of another root hash", another().signature(trusted()), Rule::SignatureInvalid),
        ("of no bytes", Vec::new(), Rule::SignatureInvalid),
        ("of text", b"-----BEGIN PKCS7-----\n".to_vec(), Rule::SignatureInvalid),
        ("cut off", plain().signature(trusted())[..100].to_vec(), Rule::SignatureInvalid),
    ] {
        let files = signed_with(signature);
        let findings = judge(&files).findings(&image);
        let finding = findings.iter().find(|finding| finding.rule == rule);
        let finding = finding.unwrap_or_else(|| panic!("{what}: {findings:?}"));
        assert_eq!(finding.level, Level::Warning, "{what}");
        assert!(finding.message().contains("image.roothash.p7s"), "{what}: {}", finding.message());
        assert_eq!(
            only_device(judge(&files).plan(&image, &policy("*"))).protection,
            Protection::Verity,
            "{what}"
        );
        for text in SIGNED {
            let outcome = judge(&files).plan(&image, &policy(text));
            let finding = outcome.reason(Rule::PolicyState).unwrap();
            assert!(finding.found.contains(rule.title()), "{what}: {}", finding.found);
        }
        // Whoever asks for verification is not content with a signature that does not hold.
        let verified = Place::new(&image, &files).run(&["verify"]);
        let talk = String::from_utf8(verified.stderr).unwrap();
        assert_eq!(verified.status.code(), Some(3), "{what}: {talk}");
        assert!(talk.contains(rule.code()), "{what}: {talk}");
    }
}

#[test]
fn a_signature_beside_a_table_signs_what_is_in_it() {
    let unsigned = rooted().without("root-verity-sig").bytes();
    let signed_by_stranger = Ddi::new().protected(&Protected::root(squashfs()).signed_by(stranger())).bytes();
    let files = vec![(".roothash.p7s", root().signature(trusted()))];
    let with_hash = [files.clone(), vec![(".roothash", text(&root().root_hash()))]].concat();
    for image in [&unsigned, &signed_by_stranger] {
        for files in [&files, &with_hash] {
            for text in [SIGNED, &["root=signed"]].concat() {
                let device = only_device(judge(files).plan(image, &policy(text)));
                let found = (device.protection, device.signer.as_deref());
                assert_eq!(found, (Protection::Signed, Some("CN=trusted")), "{text}");
            }
        }
    }
    // One in the image goes first, and then nothing is said of the other.
    let files = vec![(".roothash.p7s", b"nothing".to_vec())];
    let plan = judge(&files).plan(&rooted().bytes(), &policy("@verified-boot")).accepted();
    assert!(plan.findings.is_empty(), "{:?}", plan.findings);
    // A digest that the UUIDs do not spell is known from the file.
    let long = root().algorithm(HashAlgorithm::Sha512);
    let image = Ddi::new().protected(&long).without("root-verity-sig").bytes();
    let files = vec![(".roothash", text(&long.root_hash())), (".roothash.p7s", long.signature(trusted()))];
    let device = only_device(judge(&files).plan(&image, &policy("@verified-boot")));
    assert_eq!(device.protection, Protection::Signed);
}

#[test]
fn a_proposal_chooses_among_slots_as_a_given_root_hash_does() {
    let (old, new) = (root().label("root_1"), another().label("root_2").signed_by(trusted()));
    let image = Ddi::new().protected(&old).protected(&new).bytes();
    let chosen = |files: &Files| {
        let device = only_device(judge(files).plan(&image, &policy("@verified-boot")));
        device.verity.unwrap().set.root_hash
    };
    assert_eq!(chosen(&Vec::new()), new.root_hash());
    assert_eq!(chosen(&vec![(".roothash", text(&old.root_hash()))]), old.root_hash());
}

#[test]
fn a_tree_that_merely_lies_beside_a_table_is_told_and_not_used() {
    let files = vec![(".verity", another().hash_partition())];
    let plan = judge(&files).plan(&rooted().bytes(), &policy("@verified-boot")).accepted();
    let rules: Vec<Rule> = plan.findings.iter().map(|finding| finding.rule).collect();
    assert_eq!((rules, plan.devices[0].protection), (vec![Rule::HashTreeFileUnused], Protection::Signed));
}

#[test]
fn verification_reads_the_tree_beside_the_image() {
    let signature = (".roothash.p7s", plain().signature(trusted()));
    let (image, files) = bare(&plain());
    let files = [files, vec![signature]].concat();
    let verified = Place::new(&image, &files).run(&["verify", "--image-policy=@verified-boot"]);
    let told = String::from_utf8(verified.stdout).unwrap();
    assert!(verified.status.success() && told.contains("signed by 'CN=trusted'"), "{told}");

    let flipped = |bytes: &[u8], position: usize| {
        let mut bytes = bytes.to_vec();
        bytes[position] ^= 1;
        bytes
    };
    // In data that only the tree covers, and in a stored digest.
    let data = flipped(&image, image.len() - 1);
    let tree: Files = files
        .iter()
        .map(|(end, content)| {
            (*end, if *end == ".verity" { flipped(content, 4096 + 40) } else { content.clone() })
        })
        .collect();
    for (what, image, files, rule) in
        [("data", &data, &files, Rule::DataCorrupt), ("tree", &image, &tree, Rule::HashTreeCorrupt)]
    {
        let place = Place::new(image, files);
        for verb in [&["verify"][..], &["audit", "--deep"]] {
            let output = place.run(verb);
            let talk = [output.stdout, output.stderr].concat();
            let talk = String::from_utf8(talk).unwrap();
            assert_eq!(output.status.code(), Some(3), "{what} {verb:?}: {talk}");
            assert!(talk.contains(rule.code()), "{what} {verb:?}: {talk}");
        }
    }
}

#[test]
fn a_signature_may_be_a_word_of_the_command_line() {
    let (image, files) = bare(&plain());
    let place = Place::new(&image, &files);
    let option = |bytes: &[u8]| format!("--root-hash-sig=base64:{}", data_encoding::BASE64.encode(bytes));
    let signature = plain().signature(trusted());
    assert_eq!(place.partition(&[&option(&signature)])["protection"], "signed");
    std::fs::write(place.path("elsewhere.p7s"), &signature).unwrap();
    let named = format!("--root-hash-sig={}", place.path("elsewhere.p7s").display());
    assert_eq!(place.partition(&[&named])["protection"], "signed");
    assert_eq!(place.partition(&[&option(b"nothing")])["protection"], "verity");
    let refused = place.run(&["dissect", "--root-hash-sig=base64:%%"]);
    assert_eq!(refused.status.code(), Some(2));
    let missing = place.run(&["dissect", "--root-hash-sig=/nowhere.p7s"]);
    assert_eq!(missing.status.code(), Some(1));
}
