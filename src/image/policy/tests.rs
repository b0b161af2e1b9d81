//! Policies as a whole: systemd's answers replayed, and where we must differ from it.

use std::collections::BTreeMap;

use super::flags::joined;
use super::*;

/// What systemd-analyze 262.1 said of these policies: see `record.py` beside the file.
const RECORDED: &str = include_str!("../../../tests/data/policy/systemd-262.tsv");

fn policy(text: &str) -> ImagePolicy {
    text.parse().unwrap()
}

/// The name of the error that systemd reports where we report ours.
fn systemd_error(error: &ParsePolicyError) -> &'static str {
    match error {
        ParsePolicyError::DuplicateDefault { .. } | ParsePolicyError::DuplicateDesignator { .. } => {
            "ENOTUNIQ"
        }
        ParsePolicyError::MissingEquals { .. } | ParsePolicyError::TooLong { .. } => "EINVAL",
        ParsePolicyError::UnknownDesignator { .. } => "EBADSLT",
        ParsePolicyError::UnknownFlag { .. } => "EBADRQC",
    }
}

/// A rule as systemd's table shows it: `mode/read-only/growfs/file systems`.
fn cell(flags: PolicyFlags) -> String {
    let yes_no = |on, off| match (flags.contains(on), flags.contains(off)) {
        (true, false) => "yes",
        (false, true) => "no",
        _ => "-",
    };
    format!(
        "{}/{}/{}/{}",
        joined(&(flags & PolicyFlags::USE).short_words()),
        yes_no(PolicyFlags::READ_ONLY_ON, PolicyFlags::READ_ONLY_OFF),
        yes_no(PolicyFlags::GROWFS_ON, PolicyFlags::GROWFS_OFF),
        flags & PolicyFlags::FILE_SYSTEMS
    )
}

#[test]
fn systemd_says_the_same_of_every_recorded_policy() {
    let mut refused = 0;
    let mut accepted = 0;
    for line in RECORDED.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let text = fields[0].replace("\\t", "\t").replace("\\n", "\n");
        if let [_, error] = fields[..] {
            let found = text.parse::<ImagePolicy>().unwrap_err();
            assert_eq!(systemd_error(&found), error.trim_start_matches('!'), "{text:?}: {found}");
            refused += 1;
            continue;
        }
        // The one difference: systemd undoes backslashes between the words, we know none.
        if text.contains('\\') {
            assert!(matches!(text.parse::<ImagePolicy>(), Err(ParsePolicyError::UnknownFlag { .. })));
            continue;
        }
        let [_, simplified, long, cells] = fields[..] else { panic!("{line:?} has other fields") };
        let policy = policy(&text);
        assert_eq!(policy.to_string(), simplified, "{text:?}");
        assert_eq!(policy.long_form(), long, "{text:?}");
        let cells: BTreeMap<_, _> = cells
            .split(' ')
            .filter_map(|group| group.split_once(':'))
            .flat_map(|(names, cell)| names.split(',').map(move |name| (name, cell)))
            .collect();
        assert_eq!(cell(policy.default_flags()), cells["default"], "{text:?}: default");
        for rule in policy.effective_rules() {
            let expected = cells.get(rule.designator().as_str()).unwrap_or(&cells["default"]);
            assert_eq!(&cell(rule.flags()), expected, "{text:?}: {}", rule.designator());
        }
        accepted += 1;
    }
    assert_eq!((accepted, refused), RECORDED_COUNTS);
}

/// How many recorded policies systemd accepts and refuses: all of them are replayed.
const RECORDED_COUNTS: (usize, usize) = (247, 51);

#[test]
fn the_manual_page_has_every_designator_word_and_preset() {
    let page = include_str!("../../../man/ddictl.policy.5");
    let words: Vec<_> = page.split([' ', '\n', '@']).collect();
    let designators = Designator::ALL.map(Designator::as_str);
    let flags = PolicyFlags::WORDS.map(|(word, _)| word);
    let presets = crate::image::presets::PRESETS.map(|preset| preset.name);
    for word in designators.iter().chain(&flags).chain(&presets).chain(&["open", "ignore"]) {
        assert!(words.contains(word), "'{word}' is not in the page");
    }
}

const PLAIN: Found<'_> = Found {
    protection: Protection::Unprotected,
    read_only: false,
    growfs: false,
    file_system: FoundFileSystem::Recognised("ext4"),
};

const METADATA: Found<'_> = Found { file_system: FoundFileSystem::Unrecognised, ..PLAIN };

fn decide(text: &str, designator: Designator, found: Found<'_>) -> Result<Use, PolicyRefusal> {
    policy(text).rule(designator).decide(Some(found))
}

/// What is decided about an image with this root and nothing else: the first refusal, or what becomes of the root.
fn decide_image(text: &str, root: Found<'_>) -> Result<Use, PolicyRefusal> {
    let policy = policy(text);
    let root = policy.rule(Designator::Root).decide(Some(root))?;
    for designator in Designator::ALL.into_iter().skip(1) {
        policy.rule(designator).decide(None)?;
    }
    Ok(root)
}

/// systemd 262.1 was seen to mount a plain ext4 root under each of these.
#[test]
fn a_plain_root_is_refused_where_systemd_takes_it_for_protected() {
    for (text, expected) in [
        ("root=verity+encrypted+absent", "verity+encrypted+absent"),
        ("root=signed+encrypted+absent", "signed+encrypted+absent"),
        ("root=signed+verity+encrypted+absent", "verity+signed+encrypted+absent"),
        ("root=signed+encrypted:root-verity=absent+unused:root-verity-sig=absent+unused", "signed+encrypted"),
    ] {
        let refusal = decide_image(text, PLAIN).unwrap_err();
        let PolicyRefusal { rule, objection: Objection::Protection { expected: uses, found } } = refusal
        else {
            panic!("{text}: {refusal}")
        };
        assert_eq!((rule.designator(), found), (Designator::Root, Protection::Unprotected), "{text}");
        assert_eq!(uses.to_string(), expected, "{text}");
    }
}

/// systemd 262.1 was seen to mount it under each of these; it may be there, but is not exposed.
#[test]
fn unused_never_means_used_unprotected() {
    for text in [
        "root=signed+unused+absent",
        "root=encrypted+unused",
        "root=encrypted+unused+absent",
        "root=encryptedwithintegrity+unused",
    ] {
        assert_eq!(decide_image(text, PLAIN), Ok(Use::Unused), "{text}");
        assert!(matches!(
            policy(text).rule(Designator::Root).objection(PLAIN),
            Some(Objection::Protection { found: Protection::Unprotected, .. })
        ));
    }
}

#[test]
fn a_plain_root_is_refused_where_systemd_refuses_it() {
    for text in [
        "root=verity",
        "root=signed",
        "root=encrypted",
        "root=signed+encrypted",
        "root=signed+absent",
        "root=encrypted+absent",
    ] {
        assert!(
            matches!(
                decide_image(text, PLAIN).unwrap_err().objection,
                Objection::Protection { found: Protection::Unprotected, .. }
            ),
            "{text}"
        );
    }
    // The root may stay unused, but its hash and signature partitions may not be absent.
    let refusal = decide_image("root=signed+unused", PLAIN).unwrap_err();
    assert_eq!(refusal.designator(), Designator::RootVerity);
    assert!(matches!(refusal.objection, Objection::Missing { .. }));
}

/// `root=verity+unprotected` needs a hash partition even of a plain image, as in systemd.
#[test]
fn derived_hash_partitions_may_not_be_absent_unless_the_file_system_may() {
    let refusal = decide_image("root=verity+unprotected", PLAIN).unwrap_err();
    assert_eq!(refusal.designator(), Designator::RootVerity);
    assert_eq!(refusal.rule.origin(), RuleOrigin::Derived { from: Designator::Root });
    assert!(matches!(refusal.objection, Objection::Missing { .. }));
    assert_eq!(decide_image("root=verity+unprotected+absent", PLAIN), Ok(Use::Used));
}

/// systemd 262.1 accepts each of these: one name is believed unseen, several have no effect.
#[test]
fn named_file_systems_restrict_to_exactly_those() {
    for (text, found, expected) in [
        ("root=unprotected+ext4", "squashfs", "ext4"),
        ("root=unprotected+squashfs", "ext4", "squashfs"),
        ("root=unprotected+erofs+squashfs", "ext4", "erofs+squashfs"),
        ("root=unprotected+btrfs+xfs", "ext4", "btrfs+xfs"),
        ("root=ext4+absent+unprotected", "ext2", "ext4"),
        ("=unprotected+erofs", "vfat", "erofs"),
    ] {
        let found_it = Found { file_system: FoundFileSystem::Recognised(found), ..PLAIN };
        let refusal = decide(text, Designator::Root, found_it).unwrap_err();
        let Objection::FileSystem { expected: named, found: name } = refusal.objection else {
            panic!("{text}")
        };
        assert_eq!((named.to_string().as_str(), name.as_str()), (expected, found), "{text}");
    }
    assert_eq!(decide("root=unprotected+ext4+xfs", Designator::Root, PLAIN), Ok(Use::Used));
}

#[test]
fn what_is_not_recognised_is_none_of_the_named_file_systems() {
    for file_system in [FoundFileSystem::Unrecognised, FoundFileSystem::Hidden] {
        let found = Found { file_system, ..PLAIN };
        assert!(matches!(
            decide("root=unprotected+ext4", Designator::Root, found).unwrap_err().objection,
            Objection::FileSystemUnrecognised { expected: PolicyFlags::EXT4 }
        ));
        assert_eq!(decide("root=unprotected", Designator::Root, found), Ok(Use::Used));
    }
}

#[test]
fn a_locked_file_system_is_asked_for_again_when_it_is_open() {
    let locked = Found { protection: Protection::Encrypted, file_system: FoundFileSystem::Hidden, ..PLAIN };
    assert_eq!(decide("root=encrypted+ext4", Designator::Root, locked), Ok(Use::Used));
    let open = Found { file_system: FoundFileSystem::Recognised("btrfs"), ..locked };
    assert!(matches!(
        decide("root=encrypted+ext4", Designator::Root, open).unwrap_err().objection,
        Objection::FileSystem { .. }
    ));
}

#[test]
fn flags_are_tested_where_a_partition_is_used() {
    for (text, read_only, growfs, objection) in [
        ("root=unprotected+read-only-on", false, false, Objection::ReadOnly { expected: true }),
        ("root=unprotected+read-only-off", true, false, Objection::ReadOnly { expected: false }),
        ("root=unprotected+growfs-on", false, false, Objection::Growfs { expected: true }),
        ("root=unprotected+growfs-off", false, true, Objection::Growfs { expected: false }),
    ] {
        let found = Found { read_only, growfs, ..PLAIN };
        assert_eq!(decide(text, Designator::Root, found).unwrap_err().objection, objection, "{text}");
        assert_eq!(decide(&format!("{text}+unused"), Designator::Root, found), Ok(Use::Unused), "{text}");
    }
}

/// In systemd a hash partition inherits `growfs-on` from its file system, never has the flag, and fails.
#[test]
fn flags_of_a_file_system_are_not_asked_of_its_hash_and_signature_partitions() {
    for designator in [Designator::RootVerity, Designator::RootVeritySig] {
        for text in ["root=signed+growfs-on+read-only-on+erofs", "root=growfs-on+ext4", "=open+growfs-on"] {
            assert_eq!(decide(text, designator, METADATA), Ok(Use::Used), "{text}");
        }
    }
    assert!(matches!(
        decide("root-verity=unprotected+growfs-on", Designator::RootVerity, METADATA).unwrap_err().objection,
        Objection::Growfs { expected: true }
    ));
}

#[test]
fn the_stronger_state_satisfies_the_weaker_word_and_no_other() {
    for (word, satisfied) in [
        ("unprotected", vec!["unprotected"]),
        ("verity", vec!["verity", "signed"]),
        ("signed", vec!["signed"]),
        ("encrypted", vec!["encrypted", "encryptedwithintegrity"]),
        ("encryptedwithintegrity", vec!["encryptedwithintegrity"]),
    ] {
        let used: Vec<_> = Protection::ALL
            .into_iter()
            .filter(|&protection| {
                decide(&format!("root={word}"), Designator::Root, Found { protection, ..PLAIN })
                    == Ok(Use::Used)
            })
            .map(Protection::as_str)
            .collect();
        assert_eq!(used, satisfied, "{word}");
    }
}

#[test]
fn only_absent_admits_absence() {
    for text in ["root=unused", "root=signed+unused", "root=unprotected"] {
        let refusal = policy(text).rule(Designator::Root).decide(None).unwrap_err();
        assert!(matches!(refusal.objection, Objection::Missing { .. }), "{text}");
    }
    assert_eq!(policy("root=absent").rule(Designator::Root).decide(None), Ok(Use::Absent));
    assert!(matches!(
        decide("root=absent", Designator::Root, PLAIN).unwrap_err().objection,
        Objection::Protection { expected: PolicyFlags::ABSENT, found: Protection::Unprotected }
    ));
}

#[test]
fn a_rule_that_nothing_satisfies_refuses_partition_and_absence() {
    for (text, designator) in [
        ("home=verity", Designator::Home),
        ("esp=signed", Designator::Esp),
        ("root-verity=signed", Designator::RootVerity),
        ("=verity", Designator::RootVerity),
    ] {
        let rule = policy(text).rule(designator);
        for found in [None, Some(PLAIN), Some(Found { protection: Protection::Signed, ..PLAIN })] {
            assert_eq!(rule.decide(found).unwrap_err().objection, Objection::Unsatisfiable, "{text}");
        }
    }
}

#[test]
fn a_refusal_names_rule_partition_expectation_finding_and_remedy() {
    for (text, designator, found, expected) in [
        (
            "root=signed+absent",
            Designator::Root,
            Some(PLAIN),
            "refusing partition 'root' by rule 'root=signed+absent': expected 'signed+absent', found 'unprotected'; \
             seal 'root' with a hash tree and a signature, or add 'unprotected' to the rule for 'root'",
        ),
        (
            "root=signed",
            Designator::Root,
            Some(Found { protection: Protection::Verity, ..PLAIN }),
            "refusing partition 'root' by rule 'root=signed': expected 'signed', found 'verity'; \
             sign the root hash of 'root' with a key that is trusted here, or add 'verity' to the rule for 'root'",
        ),
        (
            "root=signed:=absent",
            Designator::RootVeritySig,
            None,
            "refusing partition 'root-verity-sig' by rule 'root-verity-sig=unprotected (derived from 'root')': \
             expected 'unprotected', found no such partition; \
             seal the image so that 'root' has its 'root-verity-sig', or add 'absent' to the rule for 'root'",
        ),
        (
            "root=signed:=absent",
            Designator::Esp,
            Some(PLAIN),
            "refusing partition 'esp' by rule 'esp=absent (default)': expected 'absent', found 'unprotected'; \
             use an image without a partition 'esp', or add 'unprotected' to the policy by a rule for 'esp'",
        ),
        (
            "home=encrypted",
            Designator::Home,
            Some(PLAIN),
            "refusing partition 'home' by rule 'home=encrypted': expected 'encrypted', found 'unprotected'; \
             use an image whose 'home' is 'encrypted', or add 'unprotected' to the rule for 'home'",
        ),
        (
            "usr=unprotected+erofs",
            Designator::Usr,
            Some(PLAIN),
            "refusing partition 'usr' by rule 'usr=unprotected+erofs': expected file system 'erofs', found 'ext4'; \
             use an image with 'erofs' in 'usr', or add 'ext4' to the rule for 'usr'",
        ),
        (
            "usr=unprotected+read-only-on",
            Designator::Usr,
            Some(PLAIN),
            "refusing partition 'usr' by rule 'usr=unprotected+read-only-on': \
             expected the read-only flag on, found it off; \
             set the flag of partition 'usr' as demanded, or leave 'read-only-on' out of the rule for 'usr'",
        ),
    ] {
        let refusal = policy(text).rule(designator).decide(found).unwrap_err();
        assert_eq!(format!("{refusal}; {}", refusal.remedy()), expected);
    }
}

#[test]
fn intersections_and_unions_are_what_they_should_be() {
    for (left, right, both, either) in [
        ("*", "~", Some("~"), Some("*")),
        ("*", "root=signed+absent", Some("root=signed+absent"), Some("*")),
        ("root=verity", "root=signed", Some("root=signed"), Some("root=verity")),
        ("root=verity+absent:=open", "root=signed+absent:=open", Some("root=signed+absent:=open"), None),
        ("home=encrypted", "home=encryptedwithintegrity", Some("home=encryptedwithintegrity"), None),
        ("root=unprotected+ext4", "*", Some("root=unprotected+ext4"), Some("*")),
        ("home=unprotected+ext4+xfs", "home=unprotected+xfs+vfat", Some("home=unprotected+xfs"), None),
        ("home=unprotected+ext4", "home=absent", None, Some("home=unprotected+absent+ext4")),
        ("home=unprotected+read-only-on", "home=unprotected", Some("home=unprotected+read-only-on"), None),
        // What one leaves unused is not exposed by the other's leave, and no reason to refuse.
        (
            "root=verity+encrypted+unprotected+absent",
            "-",
            Some("-"),
            Some("root=verity+encrypted+unprotected+unused+absent"),
        ),
        ("home=unprotected+growfs-on+unused", "home=open+growfs-off", Some("home=unused"), None),
        (
            "root=signed",
            "root=signed:root-verity=unprotected",
            Some("root=signed:root-verity=unprotected"),
            Some("root=signed"),
        ),
        (
            "root=signed+encrypted",
            "root=encrypted",
            Some("root=encrypted:root-verity=unused:root-verity-sig=unused"),
            None,
        ),
    ] {
        for (left, right) in [(left, right), (right, left)] {
            if let Some(both) = both {
                assert_eq!(
                    policy(left).intersect(&policy(right)).unwrap().to_string(),
                    both,
                    "{left} and {right}"
                );
            }
            if let Some(either) = either {
                assert_eq!(
                    policy(left).union(&policy(right)).unwrap().to_string(),
                    either,
                    "{left} or {right}"
                );
            }
        }
    }
}

#[test]
fn policies_without_common_ground_do_not_intersect() {
    use FlagGroup::{FileSystems, Growfs, ReadOnly, Use};
    for (left, right, designator, group) in [
        ("=absent", "=unused", None, Use),
        ("root=signed", "root=encrypted", Some(Designator::Root), Use),
        ("root=unprotected", "root=absent", Some(Designator::Root), Use),
        ("home=verity", "home=verity", Some(Designator::Home), Use),
        ("var=unprotected+ext4", "var=unprotected+xfs", Some(Designator::Var), FileSystems),
        ("var=unprotected+growfs-on", "var=unprotected+growfs-off", Some(Designator::Var), Growfs),
        ("var=unprotected+read-only-on", "var=unprotected+read-only-off", Some(Designator::Var), ReadOnly),
    ] {
        assert_eq!(
            policy(left).intersect(&policy(right)),
            Err(Disjoint { designator, group }),
            "{left} and {right}"
        );
    }
    assert_eq!(
        policy("home=verity").union(&policy("home=signed")),
        Err(Disjoint { designator: Some(Designator::Home), group: Use }),
        "what nothing satisfies must not come out as a rule without words, which is open"
    );
}

#[test]
fn simplified_drops_rules_that_say_what_holds_anyway() {
    for (text, expected) in [
        ("root=signed+absent:root-verity=unprotected+absent:usr=ignore", "root=signed+absent"),
        // One that names the partition wants it; one that follows is content with a file beside the image.
        ("root=signed:root-verity=unprotected", "root=signed:root-verity=unprotected"),
        ("home=open:=open", "*"),
        ("root=verity:root-verity-sig=absent", "root=verity:root-verity-sig=absent"),
    ] {
        assert_eq!(policy(text).simplified().to_string(), expected);
    }
}
