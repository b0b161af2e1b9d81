//! `ddictl audit --ignore-file=`: what is ignored stays in every report, marked; what refuses an image is never ignored.

use serde_json::Value;

use crate::command_line::Workshop;
use crate::corpus::{stranger, trusted};
use crate::ddi_builder::Ddi;

const AUDIT: &str = "audit --certificate=k.crt --fail-on=warning --ignore-file=known os.raw";

/// An image of which one copy of the table is damaged, which is a warning.
fn workshop(known: &str) -> Workshop {
    let workshop = Workshop::new();
    let mut image = Ddi::signed(trusted()).bytes();
    let end = image.len();
    image[end - 512..].fill(0);
    workshop.write("os.raw", &image);
    workshop.write("known", known.as_bytes());
    workshop
}

#[test]
fn what_is_ignored_stays_in_every_form_and_does_not_fail() {
    let workshop = workshop("# known\nDDI0105 os.raw 2999-12-31 \"the next <release> has it\"\n");
    let without = AUDIT.replace("--ignore-file=known", "");
    for policy in ["", "--image-policy=@verified-boot"] {
        workshop.run(&format!("{without} {policy}")).exits(3);
        let told = workshop.run(&format!("{AUDIT} {policy}")).exits(0);
        let marked = "(ignored: the next <release> has it (until 2999-12-31))";
        assert!(told.data.contains("DDI0105") && told.data.contains(marked), "{told:?}");
        assert!(told.talk.is_empty(), "{told:?}");
    }
    let report = workshop.run(&format!("{AUDIT} --format=json")).exits(0).json();
    let finding = &report["findings"][0];
    assert_eq!((&finding["rule"], &finding["level"]), (&"DDI0105".into(), &"warning".into()));
    assert_eq!(finding["ignored"], "the next <release> has it (until 2999-12-31)");
    let sarif: Value = workshop.run(&format!("{AUDIT} --format=sarif")).exits(0).json();
    let suppression = &sarif["runs"][0]["results"][0]["suppressions"][0];
    assert_eq!(suppression["justification"], finding["ignored"]);
    let junit = workshop.run(&format!("{AUDIT} --format=junit")).exits(0).data;
    assert!(junit.contains("<skipped message=\"the next &lt;release&gt; has it"), "{junit}");
}

#[test]
fn a_day_that_is_over_and_another_image_leave_it_a_finding() {
    let expired = workshop("DDI0105 os.raw 2020-12-31 \"the next release has it\"\n");
    let told = expired.run(AUDIT).exits(3);
    assert!(told.talk.contains("'known', line 1: DDI0105 of 'os.raw' is not ignored any more"), "{told:?}");
    assert!(!told.data.contains("(ignored"), "{told:?}");
    let other = workshop("DDI0105 other-* 2999-12-31 \"x\"\nDDI0404 * 2999-12-31 \"x\"\n");
    let told = other.run(AUDIT).exits(3);
    assert_eq!(told.talk.matches("no such finding").count(), 2, "{told:?}");
}

#[test]
fn what_refuses_an_image_is_never_ignored() {
    let all = ["DDI0501", "DDI0404", "DDI0101", "DDI0414", "DDI0313", "DDI0314"];
    let known: String = all.iter().map(|rule| format!("{rule} * 2999-12-31 \"please\"\n")).collect();
    let workshop = workshop(&known);
    let words = "is not ignored: it refuses the image";
    workshop.write("stranger.raw", &Ddi::signed(stranger()).bytes());
    workshop.write("nothing.raw", &[0; 1 << 16]);
    let audit = "audit --certificate=k.crt --ignore-file=known --format=json";
    let told = workshop.run(&format!("{audit} --image-policy=@verified-boot stranger.raw")).exits(3);
    assert!(told.talk.contains(words), "{told:?}");
    for finding in told.json()["findings"].as_array().unwrap() {
        assert_eq!(finding.get("ignored").is_some(), finding["level"] != "error", "{finding}");
    }
    let told = workshop.run(&format!("{audit} nothing.raw")).exits(3);
    assert!(told.talk.contains(words) && told.json()["findings"][0].get("ignored").is_none(), "{told:?}");
    // What a full look at the blocks finds refuses as well, and so does what was taken back.
    let mut image = Ddi::signed(trusted()).bytes();
    let at = image.windows(4).position(|bytes| bytes == b"hsqs").unwrap();
    image[at + 3000] ^= 1;
    workshop.write("flipped.raw", &image);
    let told = workshop.run(&format!("{audit} --deep flipped.raw")).exits(3);
    assert!(told.talk.contains(&format!("DDI0313 of 'flipped.raw' {words}")), "{told:?}");
    let good = crate::ddi_builder::Protected::root(crate::ddi_builder::squashfs()).root_hash();
    workshop.write("rules", format!("revoke-root-hash = {good}\n").as_bytes());
    let told = workshop.run(&format!("{audit} --trust-rules=rules os.raw")).exits(3);
    assert!(told.talk.contains(&format!("DDI0414 of 'os.raw' {words}")), "{told:?}");
}

#[test]
fn a_list_that_is_not_understood_is_an_error() {
    let workshop = workshop("\nDDI0105 os.raw \"no day\"\n");
    workshop.run(AUDIT).fails(1, &["reading the findings to ignore 'known'", "line 2", "YYYY-MM-DD"]);
    workshop.write("known", b"DDI9999 * 2999-12-31 \"no such rule\"\n");
    workshop.run(AUDIT).fails(1, &["line 1", "'DDI9999'"]);
    workshop.run(&AUDIT.replace("=known", "=missing")).fails(1, &["reading the findings to ignore"]);
}
