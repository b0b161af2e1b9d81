//! Every refusal of the design's policy chapter, each by its name: an image that is accepted, what is done to it, and the
//! rule that then refuses it, in the library and by the program, whose exit status is 3.

mod beside;
mod revoked;

use std::collections::BTreeSet;
use std::process::Command;

use ddictl::format::designator::Designator;
use ddictl::format::root_hash::RootHash;
use ddictl::format::units::{ByteLength, PartitionNumber};
use ddictl::image::assessment::{Trust, assess};
use ddictl::image::finding::{Level, Rule};
use ddictl::image::plan::evaluate;
use ddictl::image::policy::Protection;
use ddictl::image::presets::{RequestedPolicy, RoleDemand};
use ddictl::image::survey::{Survey, SurveyOptions};
use ddictl::trust::anchor::TrustAnchors;
use ddictl::trust::revocation::{ImagePurpose, Revocations};
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::stack::Stack;

use crate::ddi_builder::{
    Ddi, GROWFS, Part, Protected, READ_ONLY, fixture, foreign, native, overlaid, signature_partition,
    squashfs, type_uuid, type_uuid_for,
};
use crate::gpt_builder::Which;
use crate::judge::{Judge, Outcome, policy, survey};
use crate::keys::{CertificateOptions, KeyKind, Pair};

use crate::corpus::{
    SIGNED, home_luks2, home_squashfs, homely, root, rooted, rows, sealed, stranger, trusted,
};

/// Rules of level error that no image alone can break, and where they are tested.
const ELSEWHERE: &[(Rule, &str)] = &[
    (Rule::TooMuchToRead, "needs 64 MiB of metadata: the unit tests of image::survey"),
    (
        Rule::WritableOverlap,
        "no table gets that far: a_writable_device_over_foreign_bytes_is_refused_by_name",
    ),
    (Rule::VerifiedNeedsRecovery, "needs one that was in use: pure::recovery"),
    (Rule::ImageTooShort, "bytes that are wanted and never come: bytes_that_never_come_are_a_refusal"),
    (Rule::ForeignArchitecture, "depends on the machine: a_root_for_another_machine_is_refused"),
    (Rule::ExposedUnauthenticated, "needs a loosened preset: a_looser_text_does_not_loosen_verified_boot"),
    (Rule::RootHashMismatch, "needs a root hash: a_given_root_hash_decides"),
    (Rule::SignatureRefusedByKernel, "needs a kernel that checks signatures: tests/machine"),
    (Rule::UkiMalformed, "no disk image: pure::uki"),
    (Rule::BootMistake, "a command line: pure::uki"),
    (Rule::BootUnauthenticated, "a command line: pure::uki"),
    (Rule::BootRootNotPulled, "a command line: pure::uki"),
    (Rule::RootHashRevoked, "needs rules of the administrator: refusals::revoked"),
    (Rule::PartitionRole, "needs a caller who names parts: a_named_part_has_its_role"),
    (Rule::NothingToProve, "needs files beside the image: refusals::beside"),
    (Rule::RootHashFileInvalid, "needs a file beside the image: refusals::beside"),
    (Rule::RootHashFileMismatch, "needs a file beside the image: refusals::beside"),
    (Rule::DataCorrupt, "needs the data to be read: command_line"),
    (Rule::HashTreeCorrupt, "needs the data to be read: command_line"),
    (Rule::NoHashTree, "only where verification is asked for: command_line"),
];

#[test]
fn every_error_is_refused_by_a_row_or_has_a_test_of_its_own() {
    let rows: BTreeSet<Rule> = rows().iter().map(|row| row.rule).collect();
    for rule in Rule::ALL {
        let elsewhere = ELSEWHERE.iter().any(|(listed, _)| listed == rule);
        match rule.level() {
            Level::Error => assert!(rows.contains(rule) != elsewhere, "{rule} ({rule:?})"),
            Level::Warning | Level::Note => assert!(!rows.contains(rule) && !elsewhere, "{rule} ({rule:?})"),
        }
    }
}

#[test]
fn every_refusal_says_which_rule_what_was_expected_and_what_to_do() {
    let judge = Judge::trusting(&[trusted()]);
    for row in rows() {
        let (before, after) = ((row.base)().bytes(), (row.done)((row.base)()));
        assert!(before != after, "{}: nothing was done", row.what);
        for text in row.under {
            let what = format!("{} under '{text}'", row.what);
            let requested = policy(text);
            let untouched = judge.plan(&before, &requested);
            assert!(matches!(untouched, Outcome::Planned(_)), "before {what}: {untouched:?}");
            let outcome = judge.plan(&after, &requested);
            let finding = outcome.reason(row.rule).unwrap_or_else(|| panic!("{what}: {outcome:?}"));
            assert_eq!(finding.level, Level::Error, "{what}");
            assert!(finding.message().contains(row.words), "{what}: {}", finding.message());
            assert!(!finding.expected.is_empty() && !finding.found.is_empty(), "{what}: {finding:?}");
            assert_eq!(matches!(outcome, Outcome::Malformed(_)), row.fine_under.is_empty(), "{what}");
        }
        for text in row.fine_under {
            for image in [&before, &after] {
                let outcome = judge.plan(image, &policy(text));
                assert!(matches!(outcome, Outcome::Planned(_)), "{} under '{text}': {outcome:?}", row.what);
            }
        }
    }
}

#[test]
fn the_program_says_the_same_and_exits_with_3() {
    let directory = tempfile::tempdir().unwrap();
    let (image, certificate) = (directory.path().join("image.raw"), directory.path().join("trusted.crt"));
    std::fs::write(&certificate, trusted().certificate_pem()).unwrap();
    let run = |verb: &[&str], policy: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddictl"));
        command.args(verb).arg(format!("--image-policy={policy}"));
        command.arg(format!("--certificate={}", certificate.display())).arg(&image).output().unwrap()
    };
    for row in rows() {
        let text = row.under[0];
        std::fs::write(&image, (row.done)((row.base)())).unwrap();
        let output = run(&["audit", "--format=json"], text);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(3), "{}: {told}", row.what);
        let verdict = if row.fine_under.is_empty() { "malformed" } else { "refuse" };
        assert_eq!(told["verdict"], verdict, "{}: {told}", row.what);
        let of_rule = |finding: &&serde_json::Value| finding["rule"] == row.rule.code();
        let finding = told["findings"].as_array().unwrap().iter().find(of_rule).unwrap();
        let message = finding["message"].as_str().unwrap();
        assert!(message.contains(row.words) && message.contains(row.rule.remedy()), "{message}");

        let output = run(&["attach", "--dry-run"], text);
        let talk = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{}: {talk}", row.what);
        assert!(output.stdout.is_empty(), "{}", row.what);
        for part in [row.rule.code(), row.words, row.rule.remedy(), &*image.display().to_string()] {
            assert!(talk.contains(part), "{}: expected '{part}' in: {talk}", row.what);
        }
    }
}

#[test]
fn bytes_that_never_come_are_a_refusal() {
    let image = rooted().bytes();
    let survey = Survey::new(ByteLength::of(&image), SurveyOptions::new(native()));
    assert_eq!(survey.finish().unwrap_err().finding.rule, Rule::ImageTooShort);
}

#[test]
fn an_image_cut_off_anywhere_is_refused() {
    let image = rooted().bytes();
    let judge = Judge::trusting(&[trusted()]);
    let end = rooted().build().partitions[2];
    let end = usize::try_from(end.offset + end.length).unwrap();
    for length in [0, 1, 511, 512, 1024, 4096, 17408, image.len() / 2, end - 1] {
        let outcome = judge.plan(&image[..length], &policy("@verified-boot"));
        assert!(!outcome.reasons().is_empty(), "{length}: {outcome:?}");
    }
    // All that is signed is there, and the backup table is not.
    let plan = judge.plan(&image[..image.len() - 4096], &policy("@verified-boot")).accepted();
    assert_eq!(plan.findings[0].rule, Rule::TableCopyDamaged);
}

#[test]
fn a_root_for_another_machine_is_refused() {
    let ddi = Ddi::new().protected(&root().architecture(foreign()));
    let judge = Judge::trusting(&[trusted()]);
    for text in ["*", "@verified-boot"] {
        let outcome = judge.plan(&ddi.bytes(), &policy(text));
        let finding = outcome.reason(Rule::ForeignArchitecture).unwrap();
        assert_eq!(
            (finding.expected.as_str(), finding.found.as_str()),
            (native().as_str(), foreign().as_str())
        );
        // Beside one for this machine it is merely the other one.
        let both = Ddi::new().protected(&root()).protected(&root_elsewhere());
        let plan = judge.plan(&both.bytes(), &policy(text)).accepted();
        assert_eq!(plan.devices.len(), 1);
        assert_eq!(plan.devices[0].number.unwrap().get(), 1);
    }
    assert!(judge.plan(&ddi.bytes(), &policy("-")).accepted().devices.is_empty());
}

fn root_elsewhere() -> Protected {
    Protected::root(fixture("erofs-lz4", 8192)).architecture(foreign()).signed_by(trusted())
}

#[test]
fn a_looser_text_does_not_loosen_verified_boot() {
    // As a file of that name in /etc would have it.
    let loose = RequestedPolicy::named("verified-boot".parse().unwrap(), "*".parse().unwrap());
    let judge = Judge::trusting(&[trusted()]);
    judge.plan(&rooted().bytes(), &loose).accepted();
    for (image, number, state) in [
        (sealed(), 1, "unprotected"),
        (rooted().without("root-verity-sig"), 1, "verity"),
        (home_luks2(), 4, "encrypted"),
    ] {
        let outcome = judge.plan(&image.bytes(), &loose);
        let finding = outcome.reason(Rule::ExposedUnauthenticated).unwrap();
        assert_eq!((finding.partition.unwrap().get(), finding.found.as_str()), (number, state));
    }
}

#[test]
fn a_given_root_hash_decides() {
    let other = RootHash::from_bytes(&[9; 32]).unwrap();
    let image = rooted().bytes();
    // It counts even where a signature holds, and where there is none it authenticates.
    let judge = Judge::trusting(&[trusted()]).root_hash(Some(other.clone()));
    for text in ["*", "@verified-boot"] {
        let outcome = judge.plan(&image, &policy(text));
        assert!(outcome.reason(Rule::DataUuidMismatch).is_some(), "{outcome:?}");
    }
    let unsigned = rooted().without("root-verity-sig").bytes();
    let judge = Judge::trusting(&[]).root_hash(Some(root().root_hash()));
    let plan = judge.plan(&unsigned, &policy("@verified-boot")).accepted();
    assert_eq!((plan.devices[0].protection, plan.devices[0].signer.as_deref()), (Protection::Verity, None));
    let outcome = judge.plan(&unsigned, &policy("root=signed:=unused+absent"));
    assert!(outcome.reason(Rule::PolicyState).is_some(), "{outcome:?}");
    // Nothing to hold it against: no hash tree.
    let outcome =
        judge.plan(&rooted().without("root-verity-sig").without("root-verity").bytes(), &policy("*"));
    assert!(outcome.reason(Rule::HashUuidMismatch).is_some(), "{outcome:?}");

    // Also where only the one who judges knew it, and not the one who dissected.
    let dissection = survey(&unsigned, SurveyOptions::new(native())).unwrap();
    let anchors = TrustAnchors::default();
    let at = std::time::UNIX_EPOCH;
    let trust = Trust {
        anchors: &anchors,
        revocations: Revocations::NONE,
        purpose: ImagePurpose::UNKNOWN,
        root_hash: Some(&other),
        usr_hash: None,
        download: None,
        at,
    };
    let assessment = assess(&dissection, &trust);
    let evaluation = evaluate(&dissection, &assessment, &policy("*"));
    assert_eq!(evaluation.refusals[0].rule, Rule::RootHashMismatch);
}

#[test]
fn signatures_that_do_not_count_are_warnings_and_never_make_signed() {
    let dated = |not_before, not_after| {
        let options = CertificateOptions { not_before, not_after, ..CertificateOptions::named("dated") };
        Pair::new(KeyKind::P256, &options)
    };
    let expired = dated(1_577_836_800, 1_600_000_000);
    let early = dated(2_000_000_000, 2_100_000_000);
    let weak = Pair::new(KeyKind::Rsa(1024), &CertificateOptions::named("weak"));
    let by_weak = sign_without_asking(&root().root_hash(), &weak);
    let signed_with = |content: Vec<u8>| rooted().edit("root-verity-sig", |part| part.content = content);
    let hash = root().root_hash();
    let rows: [(&str, Ddi, &[&Pair], Rule); 7] = [
        ("a stranger's", rooted(), &[stranger()], Rule::SignerUntrusted),
        ("nobody to trust", rooted(), &[], Rule::NoTrustAnchors),
        ("expired", signed_with(root().signature_partition(&expired)), &[&expired], Rule::SignerExpired),
        ("too early", signed_with(root().signature_partition(&early)), &[&early], Rule::SignerNotYetValid),
        ("weak", signed_with(signature_partition(&hash, &by_weak, None)), &[&weak], Rule::SignatureWeak),
        (
            "zeros",
            signed_with(signature_partition(&hash, &[0; 300], None)),
            &[trusted()],
            Rule::SignatureInvalid,
        ),
        (
            "a truncated one",
            signed_with(signature_partition(&hash, &root().signature(trusted())[..100], None)),
            &[trusted()],
            Rule::SignatureInvalid,
        ),
    ];
    for (what, ddi, anchors, rule) in rows {
        let (judge, image) = (Judge::trusting(anchors), ddi.bytes());
        let findings = judge.findings(&image);
        let finding = findings.iter().find(|finding| finding.rule == rule);
        let finding = finding.unwrap_or_else(|| panic!("{what}: {findings:?}"));
        assert_eq!((finding.level, finding.partition.unwrap().get()), (Level::Warning, 3), "{what}");
        assert_eq!(judge.protection(&image, 1), Protection::Verity, "{what}");
        for text in ["*", "root=verity+signed:=unused+absent"] {
            let plan = judge.plan(&image, &policy(text)).accepted();
            assert_eq!(plan.devices[0].protection, Protection::Verity, "{what}");
            assert_eq!(plan.devices[0].signer, None, "{what}");
            assert!(plan.findings.iter().any(|finding| finding.rule == rule), "{what}");
        }
        for text in SIGNED {
            let outcome = judge.plan(&image, &policy(text));
            let finding = outcome.reason(Rule::PolicyState).unwrap();
            assert!(finding.found.contains(rule.title()), "{what}: {}", finding.found);
        }
    }
}

/// A signature as openssl makes it with any key.
fn sign_without_asking(root_hash: &RootHash, pair: &Pair) -> Vec<u8> {
    let flags = Pkcs7Flags::DETACHED | Pkcs7Flags::NOATTR | Pkcs7Flags::BINARY;
    let (text, others) = (root_hash.to_string(), Stack::new().unwrap());
    let signature = Pkcs7::sign(&pair.certificate, &pair.key, &others, text.as_bytes(), flags).unwrap();
    signature.to_der().unwrap()
}

#[test]
fn what_is_merely_remarkable_is_told_and_accepted() {
    let rows: [(&str, Vec<u8>, Rule); 6] = [
        (
            "a damaged backup",
            rooted().build().edit_header(Which::Backup, |header| header[16] ^= 1).bytes,
            Rule::TableCopyDamaged,
        ),
        ("nothing in home", homely(vec![0; 4096]).bytes(), Rule::ContentUnknown),
        (
            "two homes",
            home_squashfs().with(Designator::Home, "home2", squashfs()).bytes(),
            Rule::SeveralCandidates,
        ),
        (
            "an empty slot",
            homely(vec![0; 4096]).edit("home", |part| part.label = "_empty".to_owned()).bytes(),
            Rule::SetAside,
        ),
        (
            "a bit that nobody knows",
            home_squashfs().edit("home", |part| part.attributes = 1 << 40).bytes(),
            Rule::UnknownAttributes,
        ),
        ("an ISO 9660 label", iso_in_a_gap(), Rule::ForeignSuperblockInImage),
    ];
    let judge = Judge::trusting(&[trusted()]);
    for (what, image, rule) in rows {
        let plan = judge.plan(&image, &policy("@verified-boot")).accepted();
        assert!(plan.findings.iter().any(|finding| finding.rule == rule), "{what}: {:?}", plan.findings);
        assert_eq!(plan.devices.len(), 1, "{what}");
    }
}

/// The label stands where no partition is.
fn iso_in_a_gap() -> Vec<u8> {
    let gap =
        Ddi::new().with_type("other", type_uuid_for(Designator::Tmp, native()), "_empty", vec![0; 64 << 10]);
    let image = gap.protected(&root()).bytes();
    overlaid(image, "iso9660")
}

#[test]
fn the_second_of_several_signatures_may_be_the_one_that_counts() {
    let by = |pair: &Pair, uuid| {
        let name = Designator::RootVeritySig;
        Part {
            name: name.as_str().to_owned(),
            type_uuid: type_uuid(name),
            uuid,
            label: "signature".to_owned(),
            attributes: READ_ONLY,
            content: root().signature_partition(pair),
        }
    };
    let judge = Judge::trusting(&[trusted()]);
    for pairs in [[stranger(), trusted()], [trusted(), stranger()]] {
        let unsigned = rooted().without("root-verity-sig");
        let image = unsigned.part(by(pairs[0], 0x11)).part(by(pairs[1], 0x22)).bytes();
        let plan = judge.plan(&image, &policy("@verified-boot")).accepted();
        assert_eq!(plan.devices[0].signer.as_deref(), Some("CN=trusted"));
        assert!(plan.findings.is_empty(), "{:?}", plan.findings);
    }
}

#[test]
fn every_sector_size_and_both_designators_are_accepted() {
    let judge = Judge::trusting(&[trusted()]);
    for sector_size in [512, 1024, 2048, 4096] {
        let usr = Protected::usr(fixture("erofs-lz4", 8192)).signed_by(trusted());
        let image = Ddi::new().sector_size(sector_size).protected(&root()).protected(&usr).bytes();
        let plan = judge.plan(&image, &policy("@verified-boot")).accepted();
        let devices: Vec<_> =
            plan.devices.iter().map(|device| (device.designator, device.protection)).collect();
        assert_eq!(
            devices,
            [(Designator::Root, Protection::Signed), (Designator::Usr, Protection::Signed)],
            "{sector_size}"
        );
    }
}

/// The number of a partition is its maker's to choose: what is named as the root must be the one that is planned.
#[test]
fn a_named_part_has_its_role() {
    let judge = Judge::trusting(&[trusted()]);
    let number = |number| PartitionNumber::new(number).unwrap();
    let image = homely(squashfs()).bytes();
    let root = judge.plan(&image, &policy("*")).accepted().devices[0].number.unwrap();
    let home = judge.plan(&image, &policy("*")).accepted().devices[1].number.unwrap();
    let demanding = |demand| policy("*").demanding(vec![demand]);
    for kept in [RoleDemand::Partition(root, Designator::Root), RoleDemand::Used(Designator::Root)] {
        judge.plan(&image, &demanding(kept)).accepted();
    }
    for (demand, words) in [
        (RoleDemand::Partition(home, Designator::Root), "as the root partition"),
        (RoleDemand::Partition(number(99), Designator::Root), "as the root partition"),
        (RoleDemand::Used(Designator::Usr), "no usr partition to use"),
        (RoleDemand::Whole(Designator::Root), "as the root partition"),
    ] {
        let outcome = judge.plan(&image, &demanding(demand));
        let finding =
            outcome.reason(Rule::PartitionRole).unwrap_or_else(|| panic!("{demand:?}: {outcome:?}"));
        assert!(finding.message().contains(words), "{demand:?}: {}", finding.message());
    }
    let bare = judge.plan(&squashfs(), &demanding(RoleDemand::Whole(Designator::Root)));
    bare.accepted();
}

#[test]
fn what_is_wasted_or_not_marked_is_noted_and_refuses_nothing() {
    let judge = Judge::trusting(&[trusted()]);
    let found = |image: &[u8], rule| judge.findings(image).into_iter().find(|finding| finding.rule == rule);
    let mut large = fixture("ext4", 16 << 20);
    large.resize(96 << 20, 0);
    let wasteful = rooted().with(Designator::Home, "home", large.clone());
    for (what, image, rule) in [
        ("a home of 96 MiB with 16 in it", wasteful, Rule::SpaceWasted),
        (
            "a root that may be written to",
            rooted().edit("root", |part| part.attributes = 0),
            Rule::VerifiedWritable,
        ),
    ] {
        let image = image.bytes();
        let finding = found(&image, rule).unwrap_or_else(|| panic!("{what}: {:?}", judge.findings(&image)));
        assert_eq!(finding.level, Level::Note, "{what}");
        judge.plan(&image, &policy("root=signed:=unused+absent")).accepted();
        assert!(found(&rooted().bytes(), rule).is_none(), "{what}");
    }
    // What grows when it is mounted wastes nothing.
    let growing =
        rooted().with(Designator::Home, "home", large).edit("home", |part| part.attributes |= GROWFS);
    assert!(found(&growing.bytes(), Rule::SpaceWasted).is_none());
}
