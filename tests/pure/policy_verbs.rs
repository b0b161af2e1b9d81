//! The verbs that reason about policies, by the program; and what they say held against what is done with images.

use ddictl::format::designator::Designator;
use ddictl::image::comparison::compare;
use ddictl::image::derivation::derive;
use ddictl::image::plan::evaluate;
use ddictl::image::policy::{ImagePolicy, PolicyFlags, Relation, Use};
use ddictl::image::presets::RequestedPolicy;
use serde_json::json;

use crate::command_line::{Workshop, keys};
use crate::corpus::{sound_images, trusted};
use crate::ddi_builder::{Ddi, Protected, fixture, squashfs};
use crate::judge::{Judge, Outcome, policy};

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
        let images: Vec<_> = sound_images().into_iter().filter(|(_, image)| is_faultless(image)).collect();
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

#[test]
fn a_derived_policy_accepts_its_image_and_nothing_stricter_does() {
    let judge = Judge::trusting(&[trusted()]);
    let (mut tried, mut stricter) = (0, 0);
    for (name, image) in sound_images() {
        let (dissection, assessment) = judge.examine(&image).unwrap();
        let derivation = derive(&dissection, &assessment).unwrap();
        let policy = &derivation.policy;
        let accepts = |policy: &ImagePolicy| {
            let evaluation = evaluate(&dissection, &assessment, &RequestedPolicy::as_written(policy.clone()));
            evaluation.refusals.is_empty().then_some(evaluation.uses)
        };
        let uses = accepts(policy).unwrap_or_else(|| panic!("{name}: {policy}"));
        assert!(uses.iter().all(|decision| *decision == Use::Used), "{name}: {policy}: {uses:?}");
        assert_eq!(policy.to_string().parse::<ImagePolicy>().unwrap(), *policy);
        for designator in Designator::ALL {
            let is_locked = !(policy.rule(designator).uses() & PolicyFlags::ENCRYPTED).is_empty();
            for flags in rules() {
                // What a locked partition holds is asked when it is open.
                if is_locked && !(flags & PolicyFlags::FILE_SYSTEMS).is_empty() {
                    continue;
                }
                let others = Designator::ALL
                    .into_iter()
                    .filter_map(|designator| Some((designator, policy.written(designator)?)))
                    .filter(|(other, _)| *other != designator);
                let candidate = ImagePolicy::new(policy.default_flags(), others.chain([(designator, flags)]));
                tried += 1;
                if candidate.compare(policy) == Relation::Stricter {
                    stricter += 1;
                    assert!(accepts(&candidate).is_none(), "{name}: {candidate} is within {policy}");
                }
            }
        }
    }
    assert!(tried > 10_000 && stricter > 100, "{tried}, {stricter}");
}

/// Rules with up to two uses, with and without words on flags and file systems; and what nothing satisfies.
fn rules() -> Vec<PolicyFlags> {
    let uses: Vec<_> = PolicyFlags::USE.words().filter_map(PolicyFlags::of_word).collect();
    let pairs = (0..uses.len())
        .flat_map(|one| uses[one..].iter().map(|other| uses[one] | *other).collect::<Vec<_>>());
    let all = |flags: &[PolicyFlags]| flags.to_vec();
    let read_only = all(&[PolicyFlags::NONE, PolicyFlags::READ_ONLY_ON, PolicyFlags::READ_ONLY_OFF]);
    let growfs = all(&[PolicyFlags::NONE, PolicyFlags::GROWFS_ON, PolicyFlags::GROWFS_OFF]);
    let file_systems =
        all(&[PolicyFlags::NONE, PolicyFlags::EXT4, PolicyFlags::SQUASHFS | PolicyFlags::EROFS]);
    let mut rules = Vec::new();
    for uses in pairs {
        for read_only in &read_only {
            for growfs in &growfs {
                rules.extend(
                    file_systems.iter().map(|file_system| uses | *read_only | *growfs | *file_system),
                );
            }
        }
    }
    rules
}

#[test]
fn derive_prints_the_policy_and_says_what_it_cannot_promise() {
    let workshop = Workshop::new();
    workshop.write("signed.raw", &Ddi::signed(trusted()).bytes());
    workshop
        .write("plain.raw", &Ddi::new().with(Designator::Root, "root", fixture("ext4", 16 << 20)).bytes());
    workshop.write("none.raw", &[0; 1 << 16]);
    let told = workshop.run("policy derive --certificate=k.crt signed.raw").exits(0);
    let derived = told.data.trim_end().to_owned();
    for words in ["root=signed+", "squashfs", "esp=unprotected+", "vfat", ":=absent"] {
        assert!(derived.contains(words), "{told:?}");
    }
    assert_eq!((told.data.lines().count(), told.talk.as_str()), (1, ""));
    workshop.run(&format!("audit --certificate=k.crt --image-policy={derived} signed.raw")).exits(0);
    workshop.run(&format!("audit --certificate=k.crt --image-policy={derived} plain.raw")).exits(3);
    workshop.run(&format!("policy check {derived}")).exits(0);
    // Without anybody who is trusted it is no more than what it is.
    let told = workshop.run("policy derive --sidecars=no signed.raw").exits(0);
    assert!(told.data.starts_with("root=verity+"), "{told:?}");
    assert!(told.talk.contains("nobody vouches"), "{told:?}");
    let root_hash = Protected::root(squashfs()).root_hash().to_string();
    let told = workshop.run(&format!("policy derive --root-hash={root_hash} signed.raw")).exits(0);
    assert!(
        told.data.starts_with("root=verity+") && told.talk.contains("no word of a policy says"),
        "{told:?}"
    );

    let value = workshop.run("policy derive --json=short plain.raw").exits(0).json();
    assert_eq!(keys(&value), ["image", "policy", "partitions", "notes"]);
    let root = json!({
        "number": 1, "designator": "root", "rule": "root=unprotected+read-only-off+growfs-off+ext4", "use": "used",
    });
    assert_eq!(value["partitions"], json!([root]));
    assert_eq!(value["policy"], "root=unprotected+read-only-off+growfs-off+ext4:=absent");
    assert!(value["notes"][0].as_str().unwrap().contains("nothing protects root"));
    workshop.run("policy derive none.raw").fails(3, &["none.raw"]);
    workshop.run("policy derive missing.raw").fails(1, &["missing.raw"]);
}

#[test]
fn derive_leaves_unused_what_no_policy_accepts() {
    let workshop = Workshop::new();
    let image = Ddi::signed(trusted()).edit("esp", |part| part.content = fixture("ext4", 16 << 20)).bytes();
    workshop.write("image.raw", &image);
    let told = workshop.run("policy derive --certificate=k.crt image.raw").exits(0);
    assert!(told.data.contains("esp=unused") && told.data.starts_with("root=signed+"), "{told:?}");
    assert!(told.talk.contains("esp is left unused"), "{told:?}");
    let derived = told.data.trim_end();
    workshop.run(&format!("audit --certificate=k.crt --image-policy={derived} image.raw")).exits(0);
}

#[test]
fn derive_leaves_an_image_without_a_table_unused_where_no_policy_accepts_it() {
    let workshop = Workshop::new();
    let root = Protected::root(squashfs());
    let mut tree = root.hash_partition();
    tree[8] = 2;
    workshop.write("image.raw", &root.data);
    workshop.write("image.verity", &tree);
    workshop.write("image.roothash", root.root_hash().to_string().as_bytes());
    workshop.run("audit --image-policy=root=verity image.raw").exits(3);
    let told = workshop.run("policy derive image.raw").exits(0);
    assert!(told.data.starts_with("root=unused"), "{told:?}");
    assert!(told.talk.contains("root is left unused"), "{told:?}");
    workshop.run(&format!("audit --image-policy={} image.raw", told.data.trim_end())).exits(0);
}

#[test]
fn check_names_the_level_that_holds_and_the_stricter_text() {
    let workshop = Workshop::new();
    let told = workshop.run("policy check root=verity+signed+absent:=absent").exits(3);
    for words in [
        "weakest-alternative",
        "that is 'verity'",
        "write 'root=signed+absent'",
        "root=signed+absent:=absent",
    ] {
        assert!(told.data.contains(words), "{words}: {told:?}");
    }
    let value = workshop.run("policy check --json=short root=verity+signed+absent:=absent").exits(3).json();
    assert_eq!(keys(&value), ["policy", "class", "findings", "stricter"]);
    let finding = &value["findings"][0];
    assert_eq!(keys(finding), ["code", "rule", "words", "holds", "message", "suggestion"]);
    assert_eq!((&finding["code"], &finding["rule"]), (&"weakest-alternative".into(), &"root".into()));
    assert_eq!((&finding["words"], &finding["holds"]), (&json!(["verity"]), &"verity".into()));
    assert_eq!(value["stricter"], "root=signed+absent:=absent");
    let value = workshop.run("policy check --json=short root=signed:=absent").exits(0).json();
    assert_eq!(
        (&value["findings"], &value["stricter"], &value["class"]),
        (&json!([]), &json!(null), &json!(null))
    );
}

#[test]
fn check_knows_the_presets_the_classes_and_what_is_no_policy() {
    let workshop = Workshop::new();
    for (line, status, code) in [
        ("@verified-boot", 0, "nothing found"),
        ("@verified-extension", 0, "nothing found"),
        ("@sysext-strict", 0, "nothing found"),
        ("*", 0, "nothing found"),
        ("-", 0, "nothing found"),
        ("@sysext", 3, "weakest-alternative"),
        ("home=signed", 3, "unsatisfiable"),
        ("root=-:=absent", 3, "silently-open"),
        ("root=signed", 3, "omitted-default"),
        ("--class=sysext @sysext-strict", 0, "nothing found"),
        ("--class=confext @sysext-strict", 3, "not-in-class"),
    ] {
        let told = workshop.run(&format!("policy check {line}")).exits(status);
        assert!(told.data.contains(code), "{line}: {told:?}");
    }
    workshop.run("policy check --class=nonsense *").fails(2, &["machine", "confext"]);
    workshop.run("policy check root=nonsense").fails(2, &["nonsense"]);
}

#[test]
fn a_policy_is_read_from_a_path_and_written_for_the_kernel() {
    let workshop = Workshop::new();
    workshop.write("ours.policy", b"# ours\nroot=signed\nusr=signed+absent\n");
    workshop.write("broken.policy", b"root=sgined\n");
    workshop.write("signed.raw", &Ddi::signed(trusted()).bytes());
    let told = workshop.run("policy show --command-line ./ours.policy").exits(0);
    assert_eq!(told.data, "systemd.image_policy=root=signed:usr=signed+absent\n");
    assert_eq!(told.talk, "");
    workshop.run("policy compare ./ours.policy root=signed:usr=signed+absent").exits(0);
    workshop.run("audit --certificate=k.crt --image-policy=./ours.policy signed.raw").exits(0);
    workshop.run("policy show ./absent.policy").fails(2, &["./absent.policy", "there is no such file"]);
    workshop.run("policy show ./broken.policy").fails(1, &["./broken.policy", "line 1", "sgined"]);
    let told = workshop.run("policy show --command-line @verified-boot").exits(0);
    assert!(told.data.starts_with("systemd.image_policy=root=signed+absent"), "{told:?}");
    assert!(told.talk.contains("does not say all that its name demands"), "{told:?}");
    workshop.run("policy show --command-line --json=short root=signed").fails(2, &["cannot be used with"]);
}
