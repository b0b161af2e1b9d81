//! Which devices of a plan may be written to: none, unless everybody who has a say allows it.

use ddictl::format::designator::Designator;
use ddictl::format::units::{ByteLength, Extent, PartitionNumber};
use ddictl::image::dissection::Dissection;
use ddictl::image::finding::Rule;
use ddictl::image::plan::{Access, ActivationPlan, PlannedDevice, Refusal};

use crate::corpus::trusted;
use crate::ddi_builder::{Ddi, GROWFS, Protected, READ_ONLY, fixture, luks2, native, squashfs, vfat};
use crate::judge::{Judge, policy};

fn ext4() -> Vec<u8> {
    fixture("ext4", 16 << 20)
}

fn judge() -> Judge {
    Judge::trusting(&[trusted()])
}

/// The first device of a plan under a policy.
fn first_device(image: &[u8], text: &str, access: Access) -> PlannedDevice {
    judge().plan_for(image, &policy(text), access).accepted().devices.remove(0)
}

/// A root partition with these attributes.
fn root(content: Vec<u8>, attributes: u64) -> Vec<u8> {
    Ddi::new()
        .with(Designator::Root, "root", content)
        .edit("root", |part| part.attributes = attributes)
        .bytes()
}

#[test]
fn a_partition_is_writable_only_where_everybody_allows_it() {
    let integrity = |value: &mut serde_json::Value| {
        value["segments"]["0"]["integrity"] =
            serde_json::json!({ "type": "aead", "journal_encryption": "none", "journal_integrity": "none" });
    };
    for (image, text, what) in [
        (root(ext4(), 0), "*", "ext4"),
        (root(ext4(), 0), "root=unprotected+read-only-off", "a policy that wants it writable"),
        (root(luks2(|_| {}), 0), "root=encrypted", "LUKS"),
        (root(luks2(integrity), 0), "root=encryptedwithintegrity", "LUKS with integrity"),
        (ext4(), "*", "no table"),
        (Ddi::new().with(Designator::Esp, "esp", vfat()).bytes(), "*", "an ESP"),
        (Ddi::new().with(Designator::Var, "var", vec![0; 1 << 20]).bytes(), "*", "nothing yet"),
    ] {
        assert!(!first_device(&image, text, Access::ReadWrite).read_only, "{what}");
        assert!(first_device(&image, text, Access::ReadOnly).read_only, "{what}, nobody wants to write");
    }
    for (image, text, what) in [
        (root(ext4(), READ_ONLY), "*", "the attribute"),
        (root(ext4(), READ_ONLY), "root=unprotected+read-only-on", "a policy that wants it read-only"),
        (root(luks2(|_| {}), READ_ONLY), "root=encrypted", "the attribute of an encrypted one"),
        (root(squashfs(), 0), "*", "squashfs"),
        (root(fixture("erofs-lz4", 8192), 0), "*", "erofs"),
        (squashfs(), "*", "squashfs without a table"),
    ] {
        assert!(first_device(&image, text, Access::ReadWrite).read_only, "{what}");
    }
}

/// The table is the attacker's: neither a missing read-only attribute nor one that asks for growing makes us write to
/// what is verified.
#[test]
fn what_is_verified_is_never_writable() {
    let attributes = [0, GROWFS, GROWFS | READ_ONLY, u64::MAX ^ (READ_ONLY | 1 << 63)];
    for attributes in attributes {
        let signed = Ddi::new()
            .protected(&Protected::root(squashfs()).signed_by(trusted()))
            .edit("root", |part| part.attributes = attributes);
        let unsigned =
            Ddi::new().protected(&Protected::root(ext4())).edit("root", |part| part.attributes = attributes);
        for (image, text) in [(signed.bytes(), "@verified-boot"), (unsigned.bytes(), "root=verity")] {
            let device = first_device(&image, text, Access::ReadWrite);
            assert!(device.read_only && !device.growfs, "{attributes:#x} under {text}: {device:?}");
        }
    }
}

#[test]
fn a_file_system_is_grown_only_where_it_is_marked_and_writable() {
    for (designator, attributes, text, access, expected) in [
        (Designator::Var, GROWFS, "*", Access::ReadWrite, true),
        (Designator::Var, GROWFS, "var=unprotected+growfs-on", Access::ReadWrite, true),
        (Designator::Var, GROWFS, "*", Access::ReadOnly, false),
        (Designator::Var, 0, "*", Access::ReadWrite, false),
        (Designator::Var, 0, "var=unprotected+growfs-off", Access::ReadWrite, false),
        (Designator::Var, GROWFS | READ_ONLY, "*", Access::ReadWrite, false),
        (Designator::Esp, GROWFS, "*", Access::ReadWrite, false),
        (Designator::Xbootldr, GROWFS, "*", Access::ReadWrite, true),
    ] {
        let content = if designator == Designator::Var { ext4() } else { vfat() };
        let image = Ddi::new()
            .with(designator, "", content)
            .edit(designator.as_str(), |part| part.attributes = attributes)
            .bytes();
        let device = first_device(&image, text, access);
        assert_eq!(device.growfs, expected, "{designator} {attributes:#x} {text} {access:?}");
    }
}

/// A plan for a dissection that was made of an image and changed afterwards: what a mistake in dissection would look like.
fn replanned(
    image: &[u8],
    text: &str,
    access: Access,
    change: impl FnOnce(&mut Dissection),
) -> Result<ActivationPlan, Refusal> {
    let (mut dissection, assessment) = judge().examine(image).unwrap();
    change(&mut dissection);
    ActivationPlan::new(&dissection, assessment, &policy(text), native(), access)
}

/// Overlapping partitions are refused as such when the table is read. Where that failed, a writable device would still
/// not reach what belongs to somebody else.
#[test]
fn a_writable_device_over_foreign_bytes_is_refused_by_name() {
    const POLICY: &str = "root=verity:=unprotected+unused+absent";
    let image = Ddi::new()
        .protected(&Protected::root(squashfs()))
        .with(Designator::Var, "var", ext4())
        .with(Designator::Home, "home", ext4())
        .bytes();
    let var = |dissection: &Dissection| {
        dissection.partitions.iter().position(|p| p.designator() == Some(Designator::Var)).unwrap()
    };
    let planned = replanned(&image, POLICY, Access::ReadWrite, |_| {}).unwrap();
    assert_eq!(planned.devices.iter().filter(|device| !device.read_only).count(), 2);

    type Place = fn(&Dissection) -> Extent;
    let places: [(&str, Place); 6] = [
        ("the verified data of root", |d| d.verity[0].data_extent),
        ("the hash tree of root", |d| d.verity[0].tree_extent),
        ("partition 4 at", |d| d.chosen(Designator::Home).unwrap().extent),
        ("the device for home", |d| d.chosen(Designator::Home).unwrap().extent),
        ("the partition table", |d| d.table_extents()[0]),
        ("the partition table", |d| *d.table_extents().last().unwrap()),
    ];
    for (whose, place) in places {
        let moved = |dissection: &mut Dissection| {
            let (index, taken) = (var(dissection), place(dissection));
            // One sector of it is enough.
            dissection.partitions[index].extent = taken.truncated(ByteLength::new(512));
        };
        let refusal = replanned(&image, POLICY, Access::ReadWrite, moved).unwrap_err();
        let of_var = PartitionNumber::new(3);
        let named = |found: &str| {
            let mut findings = refusal.findings.iter().filter(|f| f.rule == Rule::WritableOverlap);
            findings.any(|f| f.partition == of_var && f.found.contains(found))
        };
        assert!(named(whose), "{whose}: {refusal}");
        assert!(refusal.findings.iter().all(|finding| finding.rule == Rule::WritableOverlap), "{refusal}");
    }
}

/// Where the table lies is known for both copies, also where one is damaged.
#[test]
fn both_copies_of_the_table_are_known_places() {
    for sector in [512, 4096] {
        let image = Ddi::new().sector_size(sector).with(Designator::Var, "var", ext4()).bytes();
        let mut damaged = image.clone();
        let last = damaged.len() - 1;
        damaged[last - sector + 1..].fill(0);
        let entries = 128_u64 * 128;
        let (size, sector) = (ByteLength::of(&image).bytes(), u64::try_from(sector).unwrap());
        for (bytes, extents) in [(&image, 5), (&damaged, 4)] {
            let (dissection, _) = judge().examine(bytes).unwrap();
            let found = dissection.table_extents();
            assert_eq!(found.len(), extents, "{found:?}");
            let has = |start: u64, length: u64| {
                found.iter().any(|e| (e.start().bytes(), e.length().bytes()) == (start, length))
            };
            assert!(has(0, sector) && has(sector, sector) && has(size - sector, sector), "{found:?}");
            assert!(has(2 * sector, entries), "{found:?}");
            assert_eq!(has(size - sector - entries, entries), extents == 5, "{found:?}");
        }
    }
}
