//! What an audit says of `systemd-dissect --validate`, held against the program itself on images of every shape that its
//! answer depends on, under policies of every word. `tests/guest/systemd` does the same with the images that we refuse for
//! what is in them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use ddictl::format::designator::Designator;
use serde_json::Value;

use crate::ddi_builder::{
    Ddi, GROWFS, NO_AUTO, Protected, READ_ONLY, fixture, foreign, luks2, overlaid, squashfs, type_uuid_for,
    vfat,
};
use crate::harness;
use crate::harness::{HostTest, Need, ddictl};
use crate::keys::{CertificateOptions, KeyKind, Pair};
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[HostTest {
    name: "validates::an_audit_knows_what_systemd_dissect_makes_of_every_shape_of_image",
    needs: &[Need::Root, Need::LoopDevices, Need::UnstableTree],
    run: an_audit_knows_what_systemd_dissect_makes_of_every_shape_of_image,
}];

/// Any Linux file system (Discoverable Partitions Specification).
const GENERIC: u128 = 0x0fc63daf_8483_4772_8e79_3d69d8477de4;

fn ext4() -> Vec<u8> {
    fixture("ext4", 4 << 20)
}

/// A LUKS2 volume whose header says that it is too small for metadata.
fn small_luks() -> Vec<u8> {
    let mut luks = luks2(|_| ());
    luks[8..16].copy_from_slice(&4096_u64.to_be_bytes());
    luks
}

fn images(trusted: &Pair, stranger: &Pair) -> Vec<(&'static str, Ddi)> {
    let one =
        |designator: Designator, content: Vec<u8>| Ddi::new().with(designator, designator.as_str(), content);
    let plain = || one(Designator::Root, ext4());
    let root = || Protected::root(squashfs());
    let usr = || Protected::usr(fixture("erofs-lz4", 8192));
    let generic = |label: &str| Ddi::new().with_type(label, GENERIC, label, ext4());
    let signed = Ddi::signed(trusted);
    let part = |name: &str| signed.get(name).clone();
    vec![
        ("plain-root", plain()),
        ("plain-root-read-only", plain().edit("root", |part| part.attributes = READ_ONLY)),
        ("plain-root-growfs", plain().edit("root", |part| part.attributes = GROWFS)),
        ("root-squashfs", one(Designator::Root, squashfs())),
        ("root-zeros", one(Designator::Root, vec![0; 1 << 20])),
        ("signed", Ddi::new().protected(&root().signed_by(trusted))),
        ("signed-esp", signed.clone()),
        ("signed-by-a-stranger", Ddi::new().protected(&root().signed_by(stranger))),
        ("verity", Ddi::new().protected(&root())),
        ("verity-usr", Ddi::new().protected(&usr())),
        (
            "both-signed",
            Ddi::new().protected(&root().signed_by(trusted)).protected(&usr().signed_by(trusted)),
        ),
        (
            "root-signed-usr-plain",
            Ddi::new().protected(&root().signed_by(trusted)).with(Designator::Usr, "usr", ext4()),
        ),
        ("root-plain-usr-signed", plain().protected(&usr().signed_by(trusted))),
        (
            "two-slots-one-signature",
            Ddi::new()
                .protected(&root().label("root_1").signed_by(trusted))
                .protected(&Protected::root(fixture("erofs-lz4", 8192)).label("root_2")),
        ),
        ("generic", generic("x")),
        ("generic-read-only", generic("x").edit("x", |part| part.attributes = READ_ONLY)),
        ("generic-no-auto", generic("x").edit("x", |part| part.attributes = NO_AUTO)),
        ("generic-empty", generic("_empty")),
        ("generic-two", generic("x").with_type("y", GENERIC, "y", ext4())),
        ("generic-root", plain().with_type("x", GENERIC, "x", ext4())),
        ("generic-home", generic("x").with(Designator::Home, "home", ext4())),
        ("luks2-root", one(Designator::Root, luks2(|_| ()))),
        ("luks1-root", one(Designator::Root, fixture("luks1", 4 << 20))),
        ("luks2-root-too-small", one(Designator::Root, small_luks())),
        ("luks2-home", plain().with(Designator::Home, "home", luks2(|_| ()))),
        ("luks2-swap", plain().with(Designator::Swap, "swap", luks2(|_| ()))),
        ("luks2-xbootldr", plain().with(Designator::Xbootldr, "xbootldr", luks2(|_| ()))),
        ("luks2-under-verity", Ddi::new().protected(&Protected::root(luks2(|_| ())))),
        ("esp-ext4", plain().with(Designator::Esp, "esp", ext4())),
        ("esp-alone", one(Designator::Esp, vfat())),
        ("home-alone", one(Designator::Home, ext4())),
        ("home-zeros", plain().with(Designator::Home, "home", vec![0; 1 << 20])),
        ("hash-alone", one(Designator::Home, ext4()).part(part("root-verity"))),
        ("signature-alone", plain().part(part("root-verity-sig"))),
        (
            "hash-and-signature-alone",
            one(Designator::Home, ext4()).part(part("root-verity")).part(part("root-verity-sig")),
        ),
        ("two-file-systems", one(Designator::Root, overlaid(squashfs(), "ext4"))),
        ("file-system-and-swap", one(Designator::Root, overlaid(squashfs(), "swap"))),
        ("ext4-and-btrfs", one(Designator::Root, overlaid(ext4(), "btrfs"))),
        (
            "foreign-root",
            plain().edit("root", |part| part.type_uuid = type_uuid_for(Designator::Root, foreign())),
        ),
        (
            "foreign-usr",
            plain()
                .with(Designator::Usr, "usr", ext4())
                .edit("usr", |part| part.type_uuid = type_uuid_for(Designator::Usr, foreign())),
        ),
        ("foreign-usr-verity", plain().protected(&usr().architecture(foreign()))),
        (
            "no-auto-root",
            plain().with(Designator::Home, "home", ext4()).edit("root", |part| part.attributes = NO_AUTO),
        ),
        ("partial-root", Ddi::new().with(Designator::Root, "PRT#root", ext4())),
        ("pending-root", Ddi::new().with(Designator::Root, "PND#root", ext4())),
        (
            "empty-root",
            Ddi::new().with(Designator::Root, "_empty", ext4()).with(Designator::Home, "home", ext4()),
        ),
        ("swap", plain().with(Designator::Swap, "swap", fixture("swap", 1 << 20))),
        ("swap-ext4", plain().with(Designator::Swap, "swap", ext4())),
    ]
}

/// Policies that show a hole each, and some of all words by chance, the same at every run.
fn policies() -> BTreeSet<String> {
    let mut policies: BTreeSet<String> = [
        "*",
        "=encrypted+absent",
        "=signed+unused+absent",
        "=unprotected+absent",
        "=unused+absent",
        "=verity+absent",
        "root=absent",
        "root=encrypted",
        "root=encrypted+ext4",
        "root=encrypted+unused",
        "root=encrypted+unused+absent",
        "root=signed",
        "root=signed+encrypted",
        "root=unprotected+ext4",
        "root=unprotected+ext4+xfs",
        "root=unprotected:usr=unprotected:=unprotected+absent",
        "root=verity+encrypted+absent:root-verity-sig=unprotected",
        "root=verity+encrypted+absent:usr=unused",
        "root=verity+encrypted+absent:usr=verity+encrypted+absent",
        "root=signed+unprotected",
        "root=signed+unused+absent",
        "root=signed+encrypted:root-verity=unused+absent:root-verity-sig=unused+absent",
        "root=signed:root-verity=unused+absent:root-verity-sig=unused+absent",
        "root=unprotected",
        "root=unprotected+growfs-off",
        "root=unprotected+read-only-off",
        "root=unprotected+read-only-on",
        "root=unprotected+squashfs",
        "root=unprotected:esp=unprotected",
        "root=unprotected:home=encrypted",
        "root=unprotected:home=unprotected",
        "root=unprotected:swap=encrypted",
        "root=unprotected:swap=unprotected",
        "root=unprotected:xbootldr=encrypted",
        "root=unprotected:xbootldr=unprotected",
        "root=unused+absent:=unprotected+unused+absent",
        "root=verity",
        "root=verity+encrypted+absent",
        "root=verity+signed:usr=verity+signed",
        "usr=signed+absent:root=encrypted+unused+absent",
    ]
    .map(str::to_owned)
    .into();
    let uses = ["verity", "signed", "encrypted", "encryptedwithintegrity", "unprotected", "unused", "absent"];
    let other = [
        "read-only-on",
        "read-only-off",
        "growfs-on",
        "growfs-off",
        "ext4",
        "squashfs",
        "btrfs",
        "erofs+ext4",
    ];
    let designators = [
        "usr",
        "home",
        "esp",
        "xbootldr",
        "swap",
        "root-verity",
        "root-verity-sig",
        "usr-verity",
        "usr-verity-sig",
    ];
    let mut state = 1_u64;
    // Numerical Recipes' generator; its upper bits are good enough for this.
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    while policies.len() < 60 {
        let mut rule = |designator: &str| {
            let mut words: BTreeSet<&str> = (0..=below(3)).map(|_| uses[below(uses.len())]).collect();
            if below(5) == 0 {
                words.insert(other[below(other.len())]);
            }
            format!("{designator}={}", words.into_iter().collect::<Vec<_>>().join("+"))
        };
        let mut rules = vec![rule("root")];
        let more: Vec<String> = designators.iter().map(|designator| rule(designator)).collect();
        rules.extend(more.into_iter().filter(|_| below(5) == 0));
        rules.extend(match below(4) {
            0 => Some("=unprotected+unused+absent".to_owned()),
            1 => Some("=unprotected+absent".to_owned()),
            _ => None,
        });
        policies.insert(rules.join(":"));
    }
    policies
}

fn an_audit_knows_what_systemd_dissect_makes_of_every_shape_of_image() {
    let directory = tempfile::tempdir().unwrap();
    let pair = |name: &str| Pair::new(KeyKind::P256, &CertificateOptions::named(name));
    let (trusted, stranger) = (pair("trusted"), pair("stranger"));
    let images = images(&trusted, &stranger);
    for (name, ddi) in &images {
        fs::write(directory.path().join(format!("{name}.raw")), ddi.bytes()).unwrap();
    }
    fs::write(directory.path().join("k.crt"), trusted.certificate_pem()).unwrap();
    let policies = policies();
    fs::write(
        directory.path().join("policies"),
        policies.iter().map(|policy| format!("{policy}\n")).collect::<String>(),
    )
    .unwrap();
    // All in one tree, because to make one takes longer than to ask.
    let script = "while read -r policy; do for image in *.raw; do\n\
        timeout 20 systemd-dissect --validate --image-policy=\"$policy\" \"$image\" >/dev/null 2>&1 &&\n\
        printf '%s %s\\n' \"$image\" \"$policy\"; done; done <policies; true";
    let validated = succeed(harness::in_unstable_tree(directory.path(), "bash").args(["-c", script]));
    let validated: BTreeSet<&str> = validated.lines().collect();
    let (mut accepted, mut refused, mut wrong) = (0, 0, Vec::new());
    for policy in &policies {
        let told = audit(directory.path().join("."), policy, &images);
        for line in told.lines() {
            let told: Value = serde_json::from_str(line).unwrap();
            if told["verdict"] != "refuse" {
                continue;
            }
            let image = told["image"].as_str().unwrap();
            let findings = told["findings"].as_array().unwrap();
            let messages = findings.iter().map(|finding| finding["message"].as_str().unwrap());
            let says_so = messages.clone().any(|message| message.contains("262 --validate accepts this"));
            // What is said of a rule in general, too.
            let in_general = messages.clone().any(|message| message.contains("systemd 262 accepts this"));
            let as_signed = messages.clone().any(|message| message.contains("accepts this as signed"));
            let validates = validated.contains(format!("{image} {policy}").as_str());
            if validates && !says_so && !in_general || !validates && says_so && !as_signed {
                wrong.push(format!(
                    "{image} under {policy}: {}",
                    if validates { "accepted" } else { "refused" }
                ));
            }
            *(if validates { &mut accepted } else { &mut refused }) += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused");
}

fn audit(directory: std::path::PathBuf, policy: &str, images: &[(&str, Ddi)]) -> String {
    let mut command: Command = ddictl();
    command.args(["audit", "--certificate=k.crt", "--format=json", "--boot-partitions=no"]);
    command
        .arg(format!("--image-policy={policy}"))
        .args(images.iter().map(|(name, _)| format!("{name}.raw")));
    let output = command.current_dir(directory).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
