//! Each lint on a policy that has it, and policies that have none.

use super::*;

const NOTHING: [&str; 0] = [];

/// `code place words` of each finding.
fn found(text: &str) -> Vec<String> {
    found_for(text, false, None)
}

fn found_for(text: &str, authenticated: bool, class: Option<ImageClass>) -> Vec<String> {
    let checked = check(&text.parse().unwrap(), authenticated, class);
    let line = |finding: &PolicyFinding| format!("{} {} {}", finding.lint, finding.place, finding.words);
    checked.findings.iter().map(line).collect()
}

#[test]
fn policies_that_say_what_they_do_have_no_findings() {
    for text in [
        "*",
        "-",
        "~",
        "root=signed:=absent",
        "root=signed+absent:usr=signed+absent:=unused+absent",
        "root=open:=absent",
        "root=signed+encryptedwithintegrity:=absent",
        "root=encrypted:usr=signed+squashfs+erofs:=absent",
        "esp=unprotected+vfat+absent:root=signed:=absent",
        "home=encrypted+absent+ext4+growfs-on:=absent",
        "root=verity:=ignore",
        "root=signed:root-verity=unprotected+read-only-on:=absent",
    ] {
        assert_eq!(found(text), NOTHING, "{text}");
    }
}

#[test]
fn the_weakest_alternative_is_named_with_the_stricter_text() {
    for (text, words, holds, suggestion, stricter) in [
        (
            "root=verity+signed+absent:=absent",
            "verity",
            Protection::Verity,
            "root=signed+absent",
            "root=signed+absent:=absent",
        ),
        (
            "root=signed+encrypted:=absent",
            "encrypted",
            Protection::Encrypted,
            "root=signed",
            "root=signed:=absent",
        ),
        (
            "root=unprotected+verity:=absent",
            "unprotected",
            Protection::Unprotected,
            "root=verity",
            "root=verity:=absent",
        ),
        (
            "home=encrypted+encryptedwithintegrity+erofs:=absent",
            "encrypted",
            Protection::Encrypted,
            "home=encryptedwithintegrity+erofs",
            "home=encryptedwithintegrity+erofs:=absent",
        ),
        (
            "root=verity+signed+encrypted+encryptedwithintegrity+unprotected+absent:=absent",
            "verity+encrypted+unprotected",
            Protection::Unprotected,
            "root=signed+encryptedwithintegrity+absent",
            "root=signed+encryptedwithintegrity+absent:=absent",
        ),
    ] {
        let policy: ImagePolicy = text.parse().unwrap();
        let checked = check(&policy, false, None);
        let [finding] = &checked.findings[..] else { panic!("{text}: {checked:?}") };
        assert_eq!((finding.lint, finding.holds), (Lint::WeakestAlternative, Some(holds)), "{text}");
        assert_eq!(
            (finding.words.to_string().as_str(), finding.suggestion.as_deref()),
            (words, Some(suggestion))
        );
        let tighter = checked.stricter.unwrap();
        assert_eq!(tighter.to_string(), stricter);
        assert_eq!(tighter.compare(&policy), crate::image::policy::Relation::Stricter);
        assert_eq!(found(stricter), NOTHING);
    }
    // What must be authenticated anyway has no weak alternative.
    assert_eq!(found_for("root=verity+signed:=absent", true, None), NOTHING);
}

#[test]
fn each_lint_finds_what_it_is_for() {
    for (text, expected) in [
        ("home=signed:=absent", vec!["unsatisfiable home signed"]),
        ("=verity", vec!["unsatisfiable default verity"]),
        ("root=-:=absent", vec!["silently-open root -"]),
        ("root=signed:=-", vec!["silently-open default -", "unsigned-beside default verity+unprotected"]),
        ("root=ext4:=absent", vec!["silently-open root -"]),
        ("root=signed:=open", vec!["unsigned-beside default verity+unprotected"]),
        ("root=signed:usr=unprotected:=absent", vec!["unsigned-beside usr unprotected"]),
        ("root=signed", vec!["omitted-default default -"]),
        ("home=signed+absent:=ignore", vec!["never-matches home signed"]),
        ("esp=encrypted+absent:=absent", vec!["never-matches esp encrypted"]),
        ("esp=unprotected+ext4+vfat:=absent", vec!["never-matches esp ext4"]),
        ("swap=unprotected+ext4:=absent", vec!["never-matches swap ext4"]),
        ("root=verity:root-verity=ignore:=absent", vec!["never-matches root verity"]),
        ("root=signed+absent:root-verity=unprotected+absent:=ignore", vec!["redundant-rule root-verity -"]),
        ("usr=ignore:=ignore", vec!["redundant-rule usr -"]),
        ("home=unprotected+growfs-on+growfs-off:=absent", vec!["redundant-words home growfs-off+growfs-on"]),
        ("home=ignore+ext4:=absent", vec!["redundant-words home ext4"]),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
    assert_eq!(found_for("home=encrypted+absent:=ignore", true, None), ["never-matches home encrypted"]);
}

#[test]
fn a_class_has_only_some_designators() {
    use ImageClass::{Confext, Machine, Portable, Sysext};
    for (text, class, expected) in [
        ("esp=unprotected+absent:=absent", Machine, vec![]),
        ("esp=unprotected+absent:=absent", Portable, vec!["not-in-class esp -"]),
        ("home=unprotected+absent:=absent", Portable, vec![]),
        ("home=unprotected+absent:=absent", Sysext, vec!["not-in-class home -"]),
        ("usr=signed+absent:=ignore", Sysext, vec![]),
        ("usr=signed+absent:=ignore", Confext, vec!["not-in-class usr -"]),
        ("usr=signed:=ignore", Confext, vec!["not-in-class usr -"]),
        ("home=absent:=ignore", Sysext, vec![]),
    ] {
        assert_eq!(found_for(text, false, Some(class)), expected, "{text} {class}");
    }
}

#[test]
fn the_manual_page_has_every_lint() {
    let page = include_str!("../../../../man/ddictl.policy.5");
    for lint in [
        Lint::Unsatisfiable,
        Lint::SilentlyOpen,
        Lint::WeakestAlternative,
        Lint::UnsignedBeside,
        Lint::NeverMatches,
        Lint::NotInClass,
        Lint::OmittedDefault,
        Lint::RedundantRule,
        Lint::RedundantWords,
    ] {
        assert!(page.contains(&format!(".It Cm {lint}\n")), "{lint}");
    }
}
