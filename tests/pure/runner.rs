//! `tests/run`: nothing that failed, was skipped or never ran is lost on the way to its last lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs the tiers named, with a cargo that says `script` instead of testing; whether it succeeded, and its summary.
fn run(script: &str, tiers: &[&str]) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let cargo = directory.path().join("cargo");
    fs::write(&cargo, format!("#!/bin/bash\n{script}\n")).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run"))
        .args(tiers)
        .env("PATH", format!("{}:/usr/bin:/bin", directory.path().display()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let summary = text.split_once("== summary ==\n").map(|(_, summary)| summary.to_owned()).unwrap_or(text);
    (output.status.success(), summary.lines().map(|line| format!("{}\n", without_time(line))).collect())
}

/// A line of a tier without how many seconds it took, which it must say.
fn without_time(line: &str) -> &str {
    let is_tier = line.contains(" ran, ");
    match line.strip_suffix(" s").and_then(|line| line.rsplit_once(", ")) {
        Some((rest, seconds)) if is_tier => {
            seconds.trim_start().parse::<u32>().unwrap();
            rest
        }
        _ => {
            assert!(!is_tier, "{line}");
            line
        }
    }
}

#[test]
fn passed_and_skipped_tests_are_counted_and_skipped_ones_named() {
    let script = "
        echo 'test a::b ... ok'
        echo 'test a::c ... ignored, needs the moon'
        echo 'test a::long    ... ignored (needs a (second) moon)'
        echo 'test a::d ... ignored'
        echo 'test result: ok. 1 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.1s'
        echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s'";
    let expected = "pure:             3 ran, 0 failed, 3 skipped
    SKIPPED a::c: needs the moon
    SKIPPED a::long: needs a (second) moon
    SKIPPED a::d: no reason given

3 passed, 0 failed, 3 skipped
";
    assert_eq!(run(script, &["pure"]), (true, expected.to_owned()));
}

#[test]
fn a_failed_test_fails_the_run_and_is_named_and_the_next_tier_runs_still() {
    let script = "
        case \"$*\" in *'--test pure'*)
            printf 'test a::b ... what it prints\\nFAILED\\n\\nfailures:\\n\\n---- a::b ----\\n    a detail\\n\\n'
            printf 'failures:\\n    a::b\\n\\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\\n'
            exit 101
        esac
        echo 'test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'";
    let expected = "pure:             1 ran, 1 failed, 0 skipped
    FAILED a::b
host:             5 ran, 0 failed, 0 skipped

5 passed, 1 failed, 0 skipped
";
    assert_eq!(run(script, &["pure", "host"]), (false, expected.to_owned()));
}

#[test]
fn a_tier_that_cannot_be_built_fails_the_run() {
    let expected = "pure:             1 ran, 1 failed, 0 skipped
    FAILED the tier did not come to its end (exit status 101)

0 passed, 1 failed, 0 skipped
";
    assert_eq!(run("echo 'error: could not compile'; exit 101", &["pure"]), (false, expected.to_owned()));
}

#[test]
fn a_tier_without_tests_fails_the_run() {
    let script = "echo 'test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out'";
    let expected = "host:             1 ran, 1 failed, 0 skipped
    FAILED the tier has no tests

0 passed, 1 failed, 0 skipped
";
    assert_eq!(run(script, &["host"]), (false, expected.to_owned()));
}

#[test]
fn an_unknown_tier_is_an_error_of_usage() {
    let (succeeded, text) = run("exit 0", &["moon"]);
    assert!(!succeeded && !text.contains("passed"), "{text}");
}
