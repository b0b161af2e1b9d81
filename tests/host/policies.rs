//! What the program says of policies, held against the newest systemd-analyze in the tree of Debian unstable.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::harness;
use crate::harness::{HostTest, Need};
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[HostTest {
    name: "policies::systemd_analyze_shows_the_same_of_random_policies",
    needs: &[Need::Root, Need::UnstableTree, Need::Tool("python3")],
    run: systemd_analyze_shows_the_same_of_random_policies,
}];

/// Others at every run: what differs is a failure to look at, and its seed is said.
fn systemd_analyze_shows_the_same_of_random_policies() {
    let seed = std::process::id();
    let recorded = succeed(
        Command::new("python3")
            .arg(harness::in_source_tree("tests/data/policy/record.py"))
            .arg(format!("--seed={seed}"))
            .arg(harness::in_source_tree("tests/support/in-tree"))
            .arg(harness::unstable_tree().unwrap())
            .args(["/tmp", "systemd-analyze"])
            .envs([("SYSTEMD_COLORS", "0"), ("SYSTEMD_LOG_TARGET", "console")]),
    );
    let (mut accepted, mut refused) = (0, 0);
    for line in recorded.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let output =
            harness::ddictl().args(["policy", "show", "--json=short", "--", fields[0]]).output().unwrap();
        if fields.len() == 2 {
            assert_eq!(output.status.code(), Some(2), "seed {seed}: {line}: {output:?}");
            refused += 1;
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "seed {seed}: {line}: {output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&shown["simplified"], &shown["long"]),
            (&fields[1].into(), &fields[2].into()),
            "seed {seed}: {line}"
        );
        let cells: BTreeMap<&str, &str> = fields[3]
            .split(' ')
            .filter_map(|group| group.split_once(':'))
            .flat_map(|(names, cell)| names.split(',').map(move |name| (name, cell)))
            .collect();
        for (name, rule) in shown["partitions"].as_object().unwrap() {
            let expected = cells.get(name.as_str()).unwrap_or(&cells["default"]);
            // The row of the default shows what is written there.
            if name != "default" {
                assert_eq!(&cell(rule), expected, "seed {seed}: {line}: {name}");
            }
        }
        accepted += 1;
    }
    assert!(accepted > 100 && refused > 0, "seed {seed}: {accepted} accepted, {refused} refused");
}

/// A rule as systemd's table shows it: `mode/read-only/growfs/file systems`.
fn cell(rule: &Value) -> String {
    let words = |key: &str| -> Vec<&str> {
        rule[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
    };
    let mode = match &words("use")[..] {
        [] => "-".to_owned(),
        ["unused", "absent"] => "ignore".to_owned(),
        uses if uses.len() == 7 => "open".to_owned(),
        uses => uses.join("+"),
    };
    let flag = |key: &str| match rule[key].as_str() {
        None => "-",
        Some("on") => "yes",
        Some(_) => "no",
    };
    let file_systems = words("file_systems");
    let file_systems = if file_systems.is_empty() { "-".to_owned() } else { file_systems.join("+") };
    format!("{mode}/{}/{}/{file_systems}", flag("read_only"), flag("growfs"))
}
