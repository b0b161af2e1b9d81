//! Images reduced to their plan: what is left is what was planned, and nobody can find anything else in it.

use ddictl::format::designator::Designator;
use ddictl::format::units::{ByteLength, Extent};
use ddictl::image::plan::{Access, ActivationPlan};
use ddictl::image::reduction::{Reduction, ReductionError};

use crate::corpus::{stranger, trusted};
use crate::ddi_builder::{Ddi, NO_AUTO, Protected, fixture, foreign, squashfs, type_uuid_for, vfat};
use crate::judge::{Judge, policy};

fn judge() -> Judge {
    Judge::trusting(&[trusted()])
}

fn in_memory(extent: Extent) -> std::ops::Range<usize> {
    let place = |bytes: u64| usize::try_from(bytes).unwrap();
    place(extent.start().bytes())..place(extent.end().bytes())
}

/// The bytes of an image after its reduction.
fn apply(image: &[u8], reduction: &Reduction) -> Vec<u8> {
    let mut bytes = image.to_vec();
    for extent in reduction.cleared(ByteLength::of(image)) {
        bytes[in_memory(extent)].fill(0);
    }
    bytes.resize(reduction.image_size.in_memory().unwrap(), 0);
    for (offset, piece) in &reduction.table {
        bytes[usize::try_from(offset.bytes()).unwrap()..][..piece.len()].copy_from_slice(piece);
    }
    bytes
}

fn plan(image: &[u8], text: &str) -> ActivationPlan {
    judge().plan_for(image, &policy(text), Access::ReadOnly).accepted()
}

/// Reduces an image to the plan under a policy and holds the result against the plan.
fn reduced(image: &[u8], text: &str) -> (Reduction, Vec<u8>) {
    let (dissection, _) = judge().examine(image).unwrap();
    let plan = plan(image, text);
    let reduction = Reduction::new(&dissection, &plan).unwrap().unwrap();
    let bytes = apply(image, &reduction);
    let (found, assessment) = judge().examine(&bytes).unwrap();
    assert_eq!(reduction.check(&plan, &found, &assessment), Ok(()));
    // Again there is nothing to do.
    let again = Reduction::new(&found, &plan).unwrap().unwrap();
    assert_eq!(apply(&bytes, &again), bytes);
    (reduction, bytes)
}

/// The numbers of the partitions in an image.
fn numbers(image: &[u8]) -> Vec<u32> {
    let (dissection, _) = judge().examine(image).unwrap();
    dissection.partitions.iter().map(|partition| partition.number.unwrap().get()).collect()
}

fn signed(label: &str) -> Protected {
    Protected::root(squashfs()).label(label).signed_by(trusted())
}

/// Another tree than that of [`signed`], so with another root hash.
fn other_tree() -> Vec<u8> {
    let mut bytes = squashfs();
    *bytes.last_mut().unwrap() = 1;
    bytes
}

#[test]
fn what_another_dissector_might_choose_is_gone() {
    let ours = signed("os_2");
    let root =
        |label: &str| Ddi::new().with(Designator::Root, label, fixture("ext4", 1 << 20)).protected(&ours);
    let partial = root("PRT#os_9");
    let pending = root("PND#os_9");
    let hidden = root("os_9").edit("root", |part| part.attributes = NO_AUTO);
    let foreign_root = Ddi::new()
        .with_type("x", type_uuid_for(Designator::Root, foreign()), "os_9", squashfs())
        .protected(&ours);
    let older = Ddi::new()
        .protected(&Protected::root(other_tree()).label("os_1").signed_by(trusted()))
        .protected(&ours);
    let unknown = Ddi::new().with_type("x", 0xabcd, "data", vec![7; 8192]).protected(&ours);
    let esp = Ddi::new().with(Designator::Esp, "esp", vfat()).protected(&ours);
    for (what, ddi, text, expected) in [
        ("PRT#", partial, "@verified-extension", &[2, 3, 4][..]),
        ("PND#", pending, "@verified-extension", &[2, 3, 4]),
        ("no-auto", hidden, "@verified-extension", &[2, 3, 4]),
        ("foreign architecture", foreign_root, "@verified-extension", &[2, 3, 4]),
        ("second version", older, "@verified-extension", &[4, 5, 6]),
        ("unknown type", unknown.clone(), "*", &[2, 3, 4]),
        ("ESP that is used", esp.clone(), "*", &[1, 2, 3, 4]),
        ("ESP that is not", esp, "@verified-extension", &[2, 3, 4]),
    ] {
        let image = ddi.bytes();
        let (reduction, bytes) = reduced(&image, text);
        assert_eq!(numbers(&bytes), expected, "{what}");
        // What is kept is as it was.
        for extent in &reduction.kept {
            assert_eq!(bytes[in_memory(*extent)], image[in_memory(*extent)], "{what}");
        }
        let length: u64 = reduction.kept.iter().map(|extent| extent.length().bytes()).sum();
        let table: usize = reduction.table.iter().map(|(_, piece)| piece.len()).sum();
        let nonzero = bytes.iter().filter(|byte| **byte != 0).count();
        assert!(nonzero <= usize::try_from(length).unwrap() + table, "{what}");
    }
    assert!(
        apply(&unknown.bytes(), &reduced(&unknown.bytes(), "*").0).iter().filter(|b| **b == 7).count() < 8192
    );
}

#[test]
fn gaps_and_what_no_hash_covers_become_zero() {
    let ddi = Ddi::new().protected(&signed("os_2"));
    let built = ddi.build();
    let mut image = built.bytes.clone();
    // Boot code, the gaps around the table, and the end of the image.
    for at in [0, 440, 92 + 512, 512 * 33 + 511, image.len() - 33 * 512 - 1] {
        image[at] = 0xaa;
    }
    let (_, bytes) = reduced(&image, "@verified-extension");
    assert!(
        !bytes.contains(&0xaa)
            || bytes.iter().filter(|b| **b == 0xaa).count()
                < built.bytes.iter().filter(|b| **b == 0xaa).count() + 5
    );
    for at in [0, 440, 92 + 512, 512 * 33 + 511, image.len() - 33 * 512 - 1] {
        assert_eq!(bytes[at], 0, "{at}");
    }

    // A data partition that is larger than what the tree covers: the rest may be anything.
    let larger = ddi.edit("root", |part| part.content.resize(part.content.len() + 8192, 0x55));
    let image = larger.bytes();
    if let Ok((dissection, _)) = judge().examine(&image) {
        let partition = dissection.chosen(Designator::Root).unwrap().extent;
        let (reduction, bytes) = reduced(&image, "@verified-extension");
        assert_eq!(bytes.len(), reduction.image_size.in_memory().unwrap());
        let range = in_memory(partition);
        assert!(bytes[range.end - 8192..range.end].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn of_several_signatures_the_one_that_holds_is_kept() {
    let ours = signed("os_2");
    let of_stranger = ours.signature_partition(stranger());
    let ddi = Ddi::new().with(Designator::RootVeritySig, "os_3", of_stranger).protected(&ours);
    let (_, bytes) = reduced(&ddi.bytes(), "@verified-extension");
    assert_eq!(numbers(&bytes), [2, 3, 4]);
}

#[test]
fn every_sector_size_and_both_architecture_bound_designators() {
    for sector_size in [512, 1024, 2048, 4096] {
        let usr = Protected::usr(squashfs()).signed_by(trusted());
        let ddi =
            Ddi::new().sector_size(sector_size).with(Designator::Home, "home", vec![1; 4096]).protected(&usr);
        let (_, bytes) = reduced(&ddi.bytes(), "@verified-extension");
        assert_eq!(numbers(&bytes), [2, 3, 4], "{sector_size}");
    }
}

#[test]
fn nothing_planned_is_refused_and_an_image_without_a_table_stays() {
    let image = Ddi::new().with(Designator::Root, "os", squashfs()).bytes();
    let (dissection, _) = judge().examine(&image).unwrap();
    let nothing = plan(&image, "-");
    assert_eq!(Reduction::new(&dissection, &nothing), Err(ReductionError::NothingPlanned));
    let bare = squashfs();
    let (dissection, _) = judge().examine(&bare).unwrap();
    assert_eq!(Reduction::new(&dissection, &plan(&bare, "*")), Ok(None));
}

#[test]
fn a_plan_of_another_image_is_noticed() {
    let image = Ddi::new().with(Designator::Esp, "esp", vfat()).protected(&signed("os_2")).bytes();
    let other = Ddi::new().protected(&signed("os_2")).bytes();
    let (dissection, assessment) = judge().examine(&other).unwrap();
    let planned = plan(&image, "@verified-extension");
    assert!(matches!(Reduction::new(&dissection, &planned), Err(ReductionError::OtherImage { .. })));
    let (whole, _) = judge().examine(&image).unwrap();
    let reduction = Reduction::new(&whole, &planned).unwrap().unwrap();
    assert!(matches!(
        reduction.check(&planned, &dissection, &assessment),
        Err(ReductionError::Differs { .. })
    ));
    // Not reduced at all.
    let (whole, assessment) = judge().examine(&image).unwrap();
    assert_eq!(
        reduction.check(&planned, &whole, &assessment),
        Err(ReductionError::Differs { what: "list of partitions" })
    );
}
