//! What is said of `systemd-dissect --validate` of systemd 262, for what its answer depends on. Each answer is its own, as
//! `tests/host/validates.rs` asks for it on many more images and policies.

use ddictl::format::designator::Designator;

use crate::corpus::trusted;
use crate::ddi_builder::{
    Ddi, NO_AUTO, Protected, READ_ONLY, fixture, foreign, luks2, squashfs, type_uuid_for,
};
use crate::judge::{Judge, Outcome, policy};

/// Any Linux file system (Discoverable Partitions Specification).
const GENERIC: u128 = 0x0fc63daf_8483_4772_8e79_3d69d8477de4;

fn ext4() -> Vec<u8> {
    fixture("ext4", 4 << 20)
}

fn plain() -> Ddi {
    Ddi::new().with(Designator::Root, "root", ext4())
}

fn generic() -> Ddi {
    Ddi::new().with_type("x", GENERIC, "x", ext4())
}

fn signed() -> Ddi {
    Ddi::new().protected(&Protected::root(squashfs()).signed_by(trusted()))
}

/// Whether a refusal by this policy is said to be none elsewhere.
fn accepted_elsewhere(image: &Ddi, text: &str) -> bool {
    match Judge::trusting(&[trusted()]).plan(&image.bytes(), &policy(text)) {
        Outcome::Refused(findings) => findings.iter().any(|finding| finding.validates_elsewhere),
        other => panic!("'{text}' does not refuse: {other:?}"),
    }
}

fn table(rows: &[(&str, Ddi, &str, bool)]) {
    for (what, image, text, expected) in rows {
        assert_eq!(accepted_elsewhere(image, text), *expected, "{what} under {text}");
    }
}

#[test]
fn a_partition_that_is_ignored_is_not_there_for_another() {
    let ignoring = "root=signed:root-verity=unused+absent:root-verity-sig=unused+absent";
    let with_signature = plain().part(signed().get("root-verity-sig").clone());
    table(&[
        ("a signed root", signed(), ignoring, false),
        (
            "a signed root",
            signed(),
            "root=signed+encrypted:root-verity=unused+absent:root-verity-sig=unused+absent",
            true,
        ),
        ("a signature alone", with_signature.clone(), "root=verity+encrypted+absent", true),
        (
            "a signature alone",
            with_signature,
            "root=verity+encrypted+absent:root-verity-sig=unprotected",
            false,
        ),
    ]);
}

#[test]
fn there_is_one_hash_tree_and_one_architecture() {
    let usr = || Protected::usr(fixture("erofs-lz4", 8192)).signed_by(trusted());
    let foreign_usr = || {
        let image = plain().with(Designator::Usr, "usr", ext4());
        image.edit("usr", |part| part.type_uuid = type_uuid_for(Designator::Usr, foreign()))
    };
    let bare = "root=unprotected:usr=unprotected:=unprotected+absent";
    let hole = "root=verity+encrypted+absent:usr=verity+encrypted+absent";
    table(&[
        ("two trees", signed().protected(&usr()), bare, false),
        ("a tree of the root beside a usr", signed().with(Designator::Usr, "usr", ext4()), bare, false),
        ("a tree of the usr beside a root", plain().protected(&usr()), bare, true),
        ("root and usr", plain().with(Designator::Usr, "usr", ext4()), hole, true),
        ("usr of another architecture", foreign_usr(), hole, false),
        ("usr of another architecture", foreign_usr(), "root=verity+encrypted+absent:usr=unused", true),
    ]);
}

#[test]
fn any_linux_file_system_is_a_root_where_there_is_no_other() {
    let read_only = generic().edit("x", |part| part.attributes = READ_ONLY);
    let hidden = generic().edit("x", |part| part.attributes = NO_AUTO);
    let two = generic().with_type("y", GENERIC, "y", ext4());
    table(&[
        ("one", generic(), "root=unprotected", true),
        ("one", generic(), "root=encrypted", false),
        ("one that is read-only", read_only.clone(), "root=unprotected+read-only-off", true),
        ("one that is read-only", read_only, "root=unprotected+read-only-on", false),
        ("one that is hidden", hidden, "root=unprotected", false),
        ("two", two, "root=unprotected", false),
        (
            "one beside a usr",
            generic().with(Designator::Usr, "usr", ext4()),
            "root=unprotected:usr=unprotected",
            false,
        ),
    ]);
}

#[test]
fn labels_and_root_hashes_decide_less_than_here() {
    let slots = Ddi::new()
        .protected(&Protected::root(squashfs()).label("root_1").signed_by(trusted()))
        .protected(&Protected::root(fixture("erofs-lz4", 8192)).label("root_2"));
    let labelled = |label: &str| Ddi::new().with(Designator::Root, label, ext4());
    table(&[
        ("a slot that is half written", labelled("PRT#root"), "root=unprotected", true),
        ("a slot that is pending", labelled("PND#root"), "root=unprotected", true),
        ("an empty slot", labelled("_empty"), "root=unprotected", false),
        ("the signature of another slot", slots, "root=signed", true),
    ]);
}

#[test]
fn it_looks_only_into_what_it_does_not_know_beforehand() {
    let luks = || luks2(|_| ());
    let root = |content| Ddi::new().with(Designator::Root, "root", content);
    let mut small = luks();
    small[8..16].copy_from_slice(&4096_u64.to_be_bytes());
    let boot = || plain().with(Designator::Xbootldr, "xbootldr", luks());
    table(&[
        ("LUKS", root(luks()), "root=unprotected", false),
        ("LUKS", root(luks()), "root=unprotected+ext4", true),
        ("LUKS", root(luks()), "root=unprotected+ext4+xfs", false),
        ("a LUKS header without room", root(small.clone()), "root=encrypted", false),
        ("a LUKS header without room", root(small), "root=signed+encrypted", false),
        ("LUKS as XBOOTLDR", boot(), "root=unprotected:xbootldr=unprotected", true),
        ("LUKS as XBOOTLDR", boot(), "root=unprotected:xbootldr=encrypted", false),
    ]);
}
