//! The holes of other dissectors in enforcing image policies, as real images: what is refused here, by its name.
//!
//! Each was reproduced with systemd 262. What it does is said in a comment; the documented right thing is what is asserted.

use ddictl::format::designator::Designator;
use ddictl::format::units::ByteLength;
use ddictl::image::finding::Rule;
use ddictl::image::policy::Protection;

use crate::corpus::{stranger, trusted};
use crate::ddi_builder::{
    Ddi, GROWFS, Part, Protected, READ_ONLY, fixture, foreign, luks2, overlaid, squashfs, type_uuid, vfat,
};
use crate::judge::{Judge, Outcome, policy};

/// The type of generic Linux data (Discoverable Partitions Specification).
const LINUX_GENERIC: u128 = 0x0fc63daf_8483_4772_8e79_3d69d8477de4;

fn ext4() -> Vec<u8> {
    fixture("ext4", 16 << 20)
}

fn judge() -> Judge {
    Judge::trusting(&[trusted()])
}

fn refused(image: &[u8], text: &str, rule: Rule) {
    let outcome = judge().plan(image, &policy(text));
    assert!(outcome.reason(rule).is_some(), "under '{text}': {outcome:?}");
}

fn device_count(image: &[u8], text: &str) -> usize {
    judge().plan(image, &policy(text)).accepted().devices.len()
}

/// Policies that a plain root does not satisfy, and that systemd-dissect lets it pass by.
const OPEN: [&str; 4] = [
    "root=verity+encrypted+absent",
    "root=signed+encrypted+absent",
    "root=signed+verity+encrypted+absent",
    "root=signed+encrypted:root-verity=absent+unused:root-verity-sig=absent+unused",
];

/// Those that systemd-dissect refuses it by, too.
const SHUT: [&str; 6] = [
    "root=verity",
    "root=signed",
    "root=encrypted",
    "root=signed+encrypted",
    "root=signed+absent",
    "root=encrypted+absent",
];

/// A plain ext4 root passes, and is mounted, under each of these: the presence of a partition is tested in one pass and
/// its protection in another, and neither tests the state it really has.
#[test]
fn a_plain_root_is_not_used_under_policies_that_ask_for_protection() {
    let image = Ddi::new().with(Designator::Root, "root", ext4()).bytes();
    for text in OPEN.into_iter().chain(SHUT) {
        refused(&image, text, Rule::PolicyState);
    }
    // With `unused` it is accepted, and nothing is exposed: `unused` never means used without protection.
    for text in ["root=signed+unused+absent", "root=encrypted+unused", "root=encrypted+unused+absent"] {
        assert_eq!(device_count(&image, text), 0, "{text}");
    }
    // Here the derived rules demand the companions, as they do there.
    refused(&image, "root=signed+unused", Rule::PolicyAbsent);
    assert_eq!(device_count(&image, "root=unprotected"), 1);
}

/// Where the gate of systemd-dissect would be open, the refusal says so, and nowhere else.
#[test]
fn a_refusal_says_where_systemd_dissect_would_validate_the_image() {
    let says = |image: &[u8], text: &str| {
        let outcome = judge().plan(image, &policy(text));
        let finding = outcome.reason(Rule::PolicyState).unwrap_or_else(|| panic!("{text}: {outcome:?}"));
        finding.advice().contains("systemd-dissect 262 --validate accepts this")
    };
    let plain = Ddi::new().with(Designator::Root, "root", ext4()).bytes();
    for text in OPEN {
        assert!(says(&plain, text), "{text}");
    }
    for text in SHUT {
        assert!(!says(&plain, text), "{text}");
    }
    let strangers = Ddi::signed(stranger()).bytes();
    assert!(says(&strangers, "root=signed:=unused+absent"));
    // A hash tree is left aside there, and the partition used without it.
    assert!(says(&strangers, "root=unprotected:=unused+absent"));
}

/// Hash and signature partitions of zeros are taken for a signature; with two environment variables the root is then
/// mounted unprotected under `root=signed`.
#[test]
fn companions_of_zeros_sign_nothing() {
    let zero = |part: &mut Part| part.content.fill(0);
    let image = Ddi::signed(trusted()).edit("root-verity", zero).edit("root-verity-sig", zero).bytes();
    for text in ["root=signed:=unused+absent", "@verified-boot", "root=verity+signed:=unused+absent", "*"] {
        refused(&image, text, Rule::SignaturePartitionInvalid);
        refused(&image, text, Rule::VeritySuperblockInvalid);
    }
}

/// `verity+signed` is read as 'and' and means 'or': a bad signature goes unnoticed. Here the state that was reached is
/// told, and why it is not `signed`.
#[test]
fn a_bad_signature_under_verity_or_signed_is_told() {
    let image = Ddi::signed(stranger()).bytes();
    let plan = judge().plan(&image, &policy("root=verity+signed:=unused+absent")).accepted();
    assert_eq!((plan.devices[0].protection, &plan.devices[0].signer), (Protection::Verity, &None));
    assert!(plan.findings.iter().any(|finding| finding.rule == Rule::SignerUntrusted));
}

/// One file system word pins what is mounted and checks nothing, so `root=ext4` takes a squashfs; several have no effect.
#[test]
fn words_for_file_systems_restrict_to_exactly_those() {
    let ddi = |content| Ddi::new().with(Designator::Root, "root", content).bytes();
    for (content, found, others) in [
        (squashfs(), "squashfs", ["ext4", "btrfs+xfs", "erofs+ext4"]),
        (ext4(), "ext4", ["squashfs", "erofs+squashfs", "btrfs+xfs"]),
        (fixture("erofs-lz4", 8192), "erofs", ["squashfs", "ext4+squashfs", "vfat"]),
    ] {
        let image = ddi(content);
        for other in others {
            refused(&image, &format!("root=unprotected+{other}"), Rule::PolicyFileSystem);
            assert_eq!(device_count(&image, &format!("root=unprotected+unused+{other}")), 0);
            assert_eq!(device_count(&image, &format!("root=unprotected+{other}+{found}")), 1);
        }
    }
    // Unknown content is none of the words.
    refused(&ddi(vec![0; 4096]), "root=unprotected+ext4", Rule::PolicyFileSystem);
}

/// File system words are forgotten once dm-verity is active: whatever is in the device is mounted. Here the hashed area
/// itself was looked at.
#[test]
fn words_for_file_systems_hold_under_verity_too() {
    let image = Ddi::signed(trusted()).bytes();
    refused(&image, "root=signed+erofs:=unused+absent", Rule::PolicyFileSystem);
    assert_eq!(device_count(&image, "root=signed+squashfs:=unused+absent"), 1);
}

/// The content of an ESP is never checked: one with ext4 in it is mounted, even on top of the root.
#[test]
fn an_esp_that_is_no_vfat_is_not_used() {
    let image = Ddi::signed(trusted()).edit("esp", |part| part.content = ext4()).bytes();
    for text in ["*", "root=signed:esp=unprotected:=unused+absent", "esp=unprotected:=unused+absent"] {
        refused(&image, text, Rule::EspNotVfat);
    }
    assert_eq!(device_count(&image, "root=signed:=unused+absent"), 1);
    assert_eq!(
        device_count(&Ddi::signed(trusted()).bytes(), "root=signed:esp=unprotected:=unused+absent"),
        2
    );
}

/// A lone generic Linux partition becomes the root, without its attributes and without the words for file systems.
/// Here it has no designator, so no policy exposes it.
#[test]
fn a_generic_partition_is_never_the_root() {
    let ddi = Ddi::new().with_type("generic", LINUX_GENERIC, "root", ext4());
    let image = ddi.edit("generic", |part| part.attributes = READ_ONLY | GROWFS).bytes();
    for text in ["*", "root=unprotected+absent", "root=unprotected+read-only-off+absent"] {
        assert_eq!(device_count(&image, text), 0, "{text}");
    }
    refused(&image, "root=unprotected", Rule::PolicyAbsent);
    refused(&image, "@verified-boot", Rule::NoRootOrUsr);
}

/// `=-` and `root=-` mean open while `-` alone means ignore. The grammar is theirs; no preset says so, and the strict
/// presets do not depend on it.
#[test]
fn a_dash_as_a_rule_opens_what_a_dash_as_a_policy_closes() {
    let image = Ddi::new().with(Designator::Root, "root", ext4()).bytes();
    assert_eq!(device_count(&image, "-"), 0);
    assert_eq!(device_count(&image, "root=-"), 1);
    assert_eq!(device_count(&image, "=-"), 1);
}

/// A policy that allows LUKS with integrity alone cannot be unlocked, and one that allows `encrypted` alone refuses it, the
/// stronger one. Here the state is one, and the word for the weaker takes the stronger.
#[test]
fn luks_with_integrity_is_its_own_state() {
    let integrity = |value: &mut serde_json::Value| {
        value["segments"]["0"]["integrity"] = serde_json::json!({ "type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none" });
    };
    let ddi = |content| Ddi::new().with(Designator::Root, "root", content).bytes();
    let (plain, strong) = (ddi(luks2(|_| {})), ddi(luks2(integrity)));
    assert_eq!(device_count(&strong, "root=encryptedwithintegrity"), 1);
    assert_eq!(device_count(&plain, "root=encrypted"), 1);
    refused(&plain, "root=encryptedwithintegrity", Rule::PolicyState);
    let plan = judge().plan(&strong, &policy("root=encrypted")).accepted();
    assert_eq!(plan.devices[0].protection, Protection::EncryptedWithIntegrity);
    // An image without a table that a policy merely believes to be encrypted is what it really is.
    let outcome = judge().plan(&squashfs(), &policy("root=encrypted+squashfs"));
    assert!(outcome.reason(Rule::PolicyState).is_some(), "{outcome:?}");
}

/// The rule derived for the hash partition inherits `growfs-on` from the data, and the hash partition never has it: the
/// policy can never be satisfied.
#[test]
fn flags_of_the_data_are_not_asked_of_its_companions() {
    let image = Ddi::new()
        .protected(&Protected::root(squashfs()).signed_by(trusted()))
        .edit("root", |part| part.attributes |= GROWFS)
        .bytes();
    let outcome = judge().plan(&image, &policy("root=signed+growfs-on:=unused+absent"));
    assert!(matches!(outcome, Outcome::Planned(_)), "{outcome:?}");
}

/// An unsigned image without a table is displayed as signed because it has a hash. Here it has no protection of its own.
#[test]
fn a_bare_file_system_is_unprotected() {
    for text in ["@verified-boot", "@verified-extension", "root=signed", "root=verity", "root=signed+verity"]
    {
        refused(&squashfs(), text, Rule::PolicyState);
    }
    assert_eq!(device_count(&squashfs(), "root=unprotected"), 1);
}

/// An empty partition that is only partly written beats the good one, because `PRT#` and `PND#` are not looked at.
#[test]
fn unfinished_and_empty_slots_are_passed_over() {
    let good = || Ddi::new().protected(&Protected::root(squashfs()).signed_by(trusted()));
    for label in ["PRT#root_2", "PND#root_2", "_empty"] {
        let slot = Part {
            name: "slot".to_owned(),
            type_uuid: type_uuid(Designator::Root),
            uuid: 0x99,
            label: label.to_owned(),
            attributes: 0,
            content: vec![0; 4096],
        };
        let plan = judge().plan(&good().part(slot.clone()).bytes(), &policy("@verified-boot")).accepted();
        assert_eq!(plan.devices[0].number.unwrap().get(), 1, "{label}");
        assert!(plan.findings.iter().any(|finding| finding.rule == Rule::SetAside), "{label}");
        // Alone it is nothing at all.
        refused(&Ddi::new().part(slot).bytes(), "root=unprotected", Rule::PolicyAbsent);
    }
}

/// Of two versions the newer is used, with the tree and the signature that belong to it, whatever their order.
#[test]
fn the_newest_of_two_versions_is_used_with_its_own_companions() {
    let version = |number: u32| {
        let data = if number == 1 { squashfs() } else { fixture("erofs-lz4", 8192) };
        Protected::root(data).label(&format!("os_{number}")).signed_by(trusted())
    };
    for (order, expected) in [([1, 2], 4), ([2, 1], 1)] {
        let ddi = order.iter().fold(Ddi::new(), |ddi, number| ddi.protected(&version(*number)));
        let plan = judge().plan(&ddi.bytes(), &policy("@verified-boot")).accepted();
        let device = &plan.devices[0];
        assert_eq!((plan.devices.len(), device.number.unwrap().get()), (1, expected));
        assert_eq!(device.verity.as_ref().unwrap().set.root_hash, version(2).root_hash());
        assert_eq!(device.protection, Protection::Signed);
        assert!(plan.findings.iter().any(|finding| finding.rule == Rule::SeveralCandidates));
    }
    // The newer one decides even if it is not signed: an attacker's older slot is no way around it, nor is a newer one.
    let ddi = Ddi::new().protected(&version(1)).protected(&Protected { signer: None, ..version(2) });
    refused(&ddi.bytes(), "@verified-boot", Rule::PolicyState);
    // It is what it is, with its own tree: the other slot's signature is no contradiction.
    let plan = judge().plan(&ddi.bytes(), &policy("root=verity:=unused+absent")).accepted();
    assert_eq!(plan.devices[0].number.unwrap().get(), 4);
    assert_eq!(plan.devices[0].verity.as_ref().unwrap().set.root_hash, version(2).root_hash());
}

/// A root for another architecture alone is accepted, and mounted.
#[test]
fn a_root_for_another_machine_is_not_activated() {
    let ddi = Ddi::new().protected(&Protected::root(squashfs()).architecture(foreign()).signed_by(trusted()));
    refused(&ddi.bytes(), "@verified-boot", Rule::ForeignArchitecture);
}

/// A squashfs in sector 0 of an image with a table: the kernel sees partitions, the dissector one file system.
#[test]
fn an_image_that_is_two_things_at_once_is_malformed() {
    let mut image = Ddi::signed(trusted()).bytes();
    image[..96].copy_from_slice(&squashfs()[..96]);
    let outcome = judge().plan(&image, &policy("*"));
    assert!(
        matches!(&outcome, Outcome::Malformed(finding) if finding.rule == Rule::SuperblockBeforeTable),
        "{outcome:?}"
    );
}

/// Overlapping partitions go unnoticed: the kernel's EBUSY is taken for 'somebody was quicker'.
#[test]
fn partitions_that_overlap_are_malformed() {
    let image = Ddi::signed(trusted()).build();
    let esp = image.partitions[0].offset / 512;
    let image = image.edit_both(2, |entry| entry[32..40].copy_from_slice(&esp.to_le_bytes())).bytes;
    let outcome = judge().plan(&image, &policy("*"));
    assert!(
        matches!(&outcome, Outcome::Malformed(finding) if finding.rule == Rule::PartitionsOverlap),
        "{outcome:?}"
    );
}

/// A signature partition that cannot be read is fatal if a root hash is given, even where another would do; the
/// fingerprint is never looked at.
#[test]
fn every_signature_partition_is_read_and_judged() {
    let root = Protected::root(squashfs()).signed_by(trusted());
    let ddi = Ddi::new().protected(&root);
    let broken = Part { uuid: 0x55, content: vec![b'x'; 4096], ..ddi.get("root-verity-sig").clone() };
    // It contradicts the image whatever the other says: refused, and named.
    refused(&ddi.part(broken).bytes(), "@verified-boot", Rule::SignaturePartitionInvalid);
}

/// Root and usr with dm-verity in one image are refused as ambiguous.
#[test]
fn root_and_usr_may_both_be_protected() {
    let usr = Protected::usr(fixture("erofs-lz4", 8192)).signed_by(trusted());
    let ddi = Ddi::new().protected(&Protected::root(squashfs()).signed_by(trusted())).protected(&usr);
    assert_eq!(device_count(&ddi.bytes(), "@verified-boot"), 2);
    // And then each is held to its own signature.
    let transplanted = Protected::root(squashfs()).signature_partition(trusted());
    let swapped = ddi.edit("usr-verity-sig", |part| part.content = transplanted);
    refused(&swapped.bytes(), "@verified-boot", Rule::SignatureOfAnother);
}

/// Everything behind the hashed area of a protected partition, in gaps, and in partitions that are not planned stays
/// invisible: `_empty` and no-auto partitions are registered with the kernel and probed elsewhere.
#[test]
fn the_plan_has_exactly_the_hashed_bytes() {
    let root = Protected::root(squashfs()).signed_by(trusted());
    let ddi = Ddi::new().with(Designator::Home, "_empty", overlaid(ext4(), "lvm2")).protected(&root);
    let ddi = ddi.edit("root", |part| part.content.extend_from_slice(&fixture("btrfs", 70_000)));
    let image = ddi.build();
    let plan = judge().plan(&image.bytes, &policy("*")).accepted();
    let place = ddi.place(&image, "root");
    let extents: Vec<_> =
        plan.devices.iter().map(|device| (device.extent.start().bytes(), device.extent.length())).collect();
    let hashed = u64::try_from(squashfs().len()).unwrap();
    assert_eq!(extents, [(place.offset, ByteLength::new(hashed))]);
    assert!(hashed < place.length);
}

/// A vfat ESP passes under a policy that uses it; a sane one beside an unsigned root does not make the root acceptable.
#[test]
fn no_partition_is_a_reason_to_use_another() {
    let ddi = Ddi::new().with(Designator::Esp, "esp", vfat()).with(Designator::Root, "root", ext4());
    refused(&ddi.bytes(), "@verified-boot", Rule::PolicyState);
    assert_eq!(device_count(&ddi.bytes(), "esp=unprotected:=unused+absent"), 1);
}
