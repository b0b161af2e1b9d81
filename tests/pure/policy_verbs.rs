//! The verbs that reason about policies, by the program; and what they say held against what is done with images.

use ddictl::format::designator::Designator;
use ddictl::image::comparison::compare;
use serde_json::json;

use crate::command_line::{Workshop, keys};
use crate::ddi_builder::{Ddi, GROWFS, Protected, fixture, luks2, squashfs, vfat};
use crate::judge::{Judge, Outcome, policy};
use crate::refusals::{stranger, trusted};

/// Images without a fault, of every kind.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    let root = || Protected::root(squashfs());
    let ext4 = || fixture("ext4", 16 << 20);
    let growing = |part: &mut crate::ddi_builder::Part| part.attributes |= GROWFS;
    vec![
        ("signed root and ESP", Ddi::signed(trusted()).bytes()),
        ("signed by a stranger", Ddi::signed(stranger()).bytes()),
        ("signed root", Ddi::new().protected(&root().signed_by(trusted())).bytes()),
        ("root under verity", Ddi::new().protected(&root()).bytes()),
        (
            "signed root and usr",
            Ddi::new()
                .protected(&root().signed_by(trusted()))
                .protected(&Protected::usr(fixture("erofs-lz4", 8192)).signed_by(trusted()))
                .bytes(),
        ),
        (
            "signed root and encrypted home",
            Ddi::new()
                .protected(&root().signed_by(trusted()))
                .with(Designator::Home, "home", luks2(|_| {}))
                .bytes(),
        ),
        ("plain root", Ddi::new().with(Designator::Root, "root", ext4()).bytes()),
        (
            "plain root that grows",
            Ddi::new().with(Designator::Root, "root", ext4()).edit("root", growing).bytes(),
        ),
        ("ESP alone", Ddi::new().with(Designator::Esp, "esp", vfat()).bytes()),
        (
            "plain home and swap",
            Ddi::new()
                .with(Designator::Home, "home", ext4())
                .with(Designator::Swap, "swap", fixture("swap", 1 << 20))
                .bytes(),
        ),
        ("no table", squashfs()),
    ]
}

#[test]
fn what_a_policy_accepts_a_looser_one_accepts_and_exposes_no_less_of() {
    let texts = [
        "*",
        "-",
        "~",
        "@verified-boot",
        "@sysext",
        "@host",
        "root=signed:=ignore",
        "root=verity:=ignore",
        "root=signed+absent:usr=signed+absent",
        "root=verity+absent:=ignore",
        "root=unprotected+ext4:=ignore",
        "root=unprotected+growfs-off:=ignore",
        "root=unprotected+verity+absent:=open",
        "root=signed:=open",
        "root=signed:root-verity=unprotected:=open",
        "root=signed:root-verity-sig=ignore:=open",
    ];
    let (mut compared, mut accepted) = (0, 0);
    for knows in [false, true] {
        let root_hash = Protected::root(squashfs()).root_hash();
        let judge = Judge::trusting(&[trusted()]).root_hash(knows.then_some(root_hash));
        // What is wrong with an image by itself, here that it has not the root hash, refuses it under the looser policy.
        let is_faultless = |image: &[u8]| matches!(judge.plan(image, &policy("*")), Outcome::Planned(_));
        let images: Vec<_> = images().into_iter().filter(|(_, image)| is_faultless(image)).collect();
        assert!(images.len() >= 4);
        for tight in texts {
            for wide in texts {
                if !compare(&policy(tight), &policy(wide)).relation.is_within() {
                    continue;
                }
                compared += 1;
                for (name, image) in &images {
                    let numbers = |outcome: Outcome| match outcome {
                        Outcome::Planned(plan) => {
                            Some(plan.devices.iter().map(|device| device.number).collect::<Vec<_>>())
                        }
                        _ => None,
                    };
                    let Some(exposed) = numbers(judge.plan(image, &policy(tight))) else { continue };
                    accepted += 1;
                    let under_wide = numbers(judge.plan(image, &policy(wide)));
                    assert!(
                        under_wide.as_ref().is_some_and(|all| exposed.iter().all(|one| all.contains(one))),
                        "{name}: {exposed:?} under {tight}, {under_wide:?} under {wide}"
                    );
                }
            }
        }
    }
    assert!(compared > 2 * texts.len() + 40 && accepted > 200, "{compared}, {accepted}");
}

#[test]
fn compare_says_how_the_first_stands_to_the_second() {
    let workshop = Workshop::new();
    for (first, second, relation, status) in [
        ("root=signed", "root=signed:=unused+absent", "equal", 0),
        ("root=signed", "root=verity+signed", "stricter", 0),
        ("@sysext-strict", "@sysext", "stricter", 0),
        ("@verified-boot", "*", "stricter", 0),
        ("-", "*", "stricter", 0),
        ("root=verity+signed", "root=signed", "looser", 3),
        ("root=verity+signed+absent", "root=signed+absent", "looser", 3),
        ("@host", "@verified-boot", "incomparable", 3),
        ("*", "~", "looser", 3),
    ] {
        let told = workshop.run(&format!("policy compare {first} {second}")).exits(status);
        assert!(told.data.starts_with(&format!("{relation}: ")), "{first} {second}: {told:?}");
        let told = workshop.run(&format!("policy compare --json=short {first} {second}")).exits(status);
        assert_eq!(told.data.lines().count(), 1);
        let value = told.json();
        assert_eq!(keys(&value), ["first", "second", "relation", "partitions", "demands", "note"]);
        assert_eq!((&value["first"], &value["second"]), (&first.into(), &second.into()));
        assert_eq!(value["relation"], relation, "{first} {second}");
    }
    let line = "policy compare --json=short root=signed+absent root=verity+absent:home=unprotected";
    let value = workshop.run(line).exits(3).json();
    let root = json!({
        "designator": "root", "relation": "stricter", "first": "root=signed+absent", "second": "root=verity+absent",
        "first_only": [], "second_only": ["verity"],
    });
    assert_eq!(value["partitions"][0], root);
    assert_eq!(value["partitions"][1]["first_only"], json!(["unused", "absent"]));
    assert_eq!(value["demands"], json!({"relation": "equal", "first": false, "second": false}));
    assert_eq!(value["note"], json!(null));
}

#[test]
fn compare_says_what_a_name_demands_beyond_its_text() {
    let workshop = Workshop::new();
    let told = workshop.run("policy compare @verified-boot root=signed+absent:usr=signed+absent").exits(3);
    for words in ["The name of the first policy demands more", "authenticated"] {
        assert!(told.data.contains(words), "{told:?}");
    }
    let value = workshop.run("policy compare --json=short @verified-boot *").exits(0).json();
    assert_eq!(value["demands"], json!({"relation": "stricter", "first": true, "second": false}));
    assert!(value["note"].as_str().unwrap().contains("root or usr must be there"));
}

#[test]
fn compare_refuses_what_is_no_policy() {
    let workshop = Workshop::new();
    workshop.run("policy compare *").fails(2, &["SECOND"]);
    for line in ["policy compare * root=nonsense", "policy compare @nonsense *", "policy compare root *"] {
        workshop.run(line).fails(2, &["image policy"]);
    }
}
