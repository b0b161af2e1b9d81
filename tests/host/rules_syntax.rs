//! The udev rules, read by the newest udev: `udevadm verify` came with 254 and knows more than a syntax check.

use std::fs;

use crate::harness;
use crate::harness::HostTest;
use crate::harness::Need;
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[HostTest {
    name: "rules_syntax::the_newest_udev_accepts_every_rule",
    needs: &[Need::Root, Need::UnstableTree],
    run: the_newest_udev_accepts_every_rule,
}];

fn the_newest_udev_accepts_every_rule() {
    let directory = harness::in_source_tree("udev-rules");
    let names =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let rules: Vec<String> = names.filter(|name| name.ends_with(".rules")).collect();
    assert!(rules.len() >= 2, "the rules for recorded and for foreign devices: {rules:?}");
    succeed(harness::in_unstable_tree(&directory, "udevadm").arg("verify").args(rules));
}
