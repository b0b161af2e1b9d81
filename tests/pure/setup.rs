//! `make setup`: what it installs, and when it keeps its hands off.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A machine as `tests/support/setup` sees it: some packages, a user, and an apt that only says what it was asked.
struct Machine(TempDir);

impl Machine {
    fn new(user: u32, installed: &[&str]) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let here = machine.0.path().display();
        fs::write(machine.0.path().join("installed"), installed.join("\n") + "\n").unwrap();
        machine.program(
            "dpkg-query",
            &format!(
                "for last; do :; done\ngrep -qx \"$last\" '{here}/installed' && echo 'ii ' && exit\n\
                 [ $last = gone ] && echo 'rc '"
            ),
        );
        machine.program("id", &format!("echo {user}"));
        machine.program(
            "apt-get",
            &format!(
                "echo \"apt-get was run: $*\" >&2\ntest -x \"$SERVICE_GUARD\" || echo 'services may start' >&2\n\
                 test \"$DEBIAN_FRONTEND\" = noninteractive || echo 'apt may ask' >&2\n\
                 if [ -e '{here}/conflict' ]; then [ $1 = update ] || {{ : >'{here}/installed'; rm '{here}/conflict'; }}; fi\n\
                 printf '%s\\n' \"$@\" >>'{here}/installed'"
            ),
        );
        let list = "# a comment\n\nbuild one  # why\ndemo  two # why\ntest three\ntest gone\n";
        fs::write(machine.0.path().join("list"), list).unwrap();
        machine
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs setup, which must succeed, and gives what it says.
    fn setup(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/setup"))
            .args(arguments)
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .env("PACKAGES_LIST", self.0.path().join("list"))
            .env("SERVICE_GUARD", self.0.path().join("guard"))
            .env_remove("SETUP")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            !self.0.path().join("guard").try_exists().unwrap(),
            "the guard against services was left behind"
        );
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

#[test]
fn what_is_missing_is_installed_and_the_line_is_shown_first() {
    let machine = Machine::new(0, &["one"]);
    let expected = "+ apt-get update\napt-get was run: update\n\
                    + apt-get install --yes --no-install-recommends two three gone\n\
                    apt-get was run: install --yes --no-install-recommends two three gone\n";
    assert_eq!(machine.setup(&[], &[]), expected);
}

#[test]
fn what_had_to_go_for_another_package_is_installed_again() {
    let machine = Machine::new(0, &["one"]);
    // Nothing that was there before stays at the first attempt.
    fs::write(machine.0.path().join("conflict"), "").unwrap();
    let text = machine.setup(&[], &[]);
    let again = "+ apt-get install --yes --no-install-recommends one\n\
                 apt-get was run: install --yes --no-install-recommends one\n";
    assert!(text.ends_with(again), "{text}");
    assert_eq!(text.matches("apt-get was run: install").count(), 2, "{text}");
    assert_eq!(machine.setup(&[], &[]), "");
}

#[test]
fn where_all_is_there_nothing_happens() {
    assert_eq!(Machine::new(0, &["one", "two", "three", "gone"]).setup(&[], &[]), "");
}

#[test]
fn the_needs_named_alone_count() {
    assert_eq!(Machine::new(0, &["one", "two"]).setup(&["build", "demo"], &[]), "");
}

#[test]
fn setup_no_keeps_its_hands_off() {
    assert_eq!(Machine::new(0, &[]).setup(&[], &[("SETUP", "no")]), "");
}

#[test]
fn who_is_not_root_is_told_what_to_install() {
    let expected =
        "setup: not root; as root, run: apt-get install --yes --no-install-recommends two three gone\n";
    assert_eq!(Machine::new(1000, &["one"]).setup(&[], &[]), expected);
}

#[test]
fn a_guard_that_is_there_already_stays() {
    let machine = Machine::new(0, &["one"]);
    let own = machine.0.path().join("own-guard");
    fs::write(&own, "somebody's own").unwrap();
    let text = machine.setup(&[], &[("SERVICE_GUARD", own.to_str().unwrap())]);
    assert!(text.contains("apt-get was run: install"), "{text}");
    assert_eq!(fs::read_to_string(&own).unwrap(), "somebody's own");
}

#[test]
fn the_list_says_of_every_package_what_it_is_for() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packages.list")).unwrap();
    let mut packages = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words.len() > 3 && words[2] == "#", "no reason given: {line}");
        assert!(["build", "demo", "test", "bench", "machine"].contains(&words[0]), "unknown need: {line}");
        assert!(!packages.contains(&(words[0], words[1])), "there twice: {line}");
        packages.push((words[0], words[1]));
    }
    assert!(packages.len() > 10, "only {} packages", packages.len());
}
