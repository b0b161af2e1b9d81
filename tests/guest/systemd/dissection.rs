//! The test corpus, shown to systemd-dissect of Debian unstable: what is in each image, held against what `ddictl dissect`
//! says; and whether `--validate` accepts what we refuse, held against what `ddictl audit` says of that.
//!
//! Both may differ, and do. `differences` beside this file lists every difference with its reason, and nothing else may
//! differ.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::process::Output;
use std::ptr;

use ddictl::image::finding::Rule;
use ddictl::image::presets::PolicyArgument;
use ddictl::image::presets::Preset;
use serde_json::Value;
use tempfile::TempDir;

use crate::corpus::rows;
use crate::corpus::sound_images;
use crate::corpus::trusted;
use crate::ddi_builder::Ddi;
use crate::harness;
use crate::harness::HostTest;
use crate::harness::Need;
use crate::systemd::peer::Peer;
use crate::systemd::peer::SharedMounts;
use crate::systemd::peer::TrustDirectory;
use crate::systemd::peer::last_line;

const NEEDS: &[Need] =
    &[Need::Root, Need::LoopDevices, Need::DeviceMapper, Need::FileSystem("squashfs"), Need::UnstableTree];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "systemd::dissection::every_difference_of_a_dissection_is_listed_with_its_reason",
        needs: NEEDS,
        run: every_difference_of_a_dissection_is_listed_with_its_reason,
    },
    HostTest {
        name: "systemd::dissection::an_audit_knows_what_systemd_dissect_validates",
        needs: NEEDS,
        run: an_audit_knows_what_systemd_dissect_validates,
    },
];

/// Around the list, for `tests/guest/systemd/table`.
const BEGIN: &str = "<!-- differences: begin -->\n";
const END: &str = "<!-- differences: end -->\n";

/// A place for one image after another, whose signer both trust.
struct Place {
    directory: TempDir,
    _trusted: TrustDirectory,
}

impl Place {
    fn new() -> Self {
        let trusted = TrustDirectory::with(&[trusted().certificate_pem()]);
        Self { directory: tempfile::tempdir().unwrap(), _trusted: trusted }
    }

    fn image(&self, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.directory.path().join("image.raw");
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// What there is to say of a partition, each under its name.
type Partition = BTreeMap<&'static str, String>;

/// The partitions by their numbers; zero is an image without a table. Or why there are none.
type Answer = Result<BTreeMap<u64, Partition>, String>;

/// What is told of a partition: our name of it, ours in JSON, systemd's in JSON.
const FACTS: [(&str, &str, &str); 8] = [
    ("designator", "designator", "designator"),
    ("UUID", "uuid", "partition_uuid"),
    ("label", "label", "partition_label"),
    ("architecture", "architecture", "architecture"),
    ("content", "file_system", "fstype"),
    ("protection", "protection", "verity"),
    ("read-only", "read_only", "rw"),
    ("growfs", "growfs", "growfs"),
];

/// The answer in a JSON document.
fn answer(output: &Output, list: &str, number: &str, partition: impl Fn(&Value) -> Partition) -> Answer {
    if !output.status.success() {
        return Err(last_line(output));
    }
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let each = told[list].as_array().unwrap().iter().filter(|found| !found["designator"].is_null());
    Ok(each.map(|found| (found[number].as_u64().unwrap_or_default(), partition(found))).collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

fn ours(image: &Path) -> Answer {
    let output = harness::ddictl().args(["dissect", "--json=short"]).arg(image).output().unwrap();
    let told = answer(&output, "partitions", "number", |found| {
        let mut facts: Partition = FACTS.iter().map(|(name, key, _)| (*name, text(&found[key]))).collect();
        // systemd has one word for what is no dm-verity, and says what a mount would be, where we say what the table has.
        let is_verified = ["verity", "signed"].contains(&facts["protection"].as_str());
        if !is_verified {
            facts.insert("protection", "none".to_owned());
        }
        if is_verified || ["squashfs", "erofs"].contains(&facts["content"].as_str()) {
            facts.insert("read-only", "true".to_owned());
        }
        if facts["read-only"] == "true" {
            facts.insert("growfs", "false".to_owned());
        }
        facts
    });
    // 'examining IMAGE: DDI0104: TITLE: expected ...'
    told.map_err(|_| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let at = text.find(": DDI").unwrap_or_else(|| panic!("{output:?}"));
        text[at + 2..].split(": expected").next().unwrap().to_owned()
    })
}

fn theirs(peer: &Peer<'_>, image: &Path) -> Answer {
    let output = peer.command_apart("systemd-dissect").arg("--json=short").arg(image).output().unwrap();
    answer(&output, "mounts", "partno", |found| {
        let said = |key| match text(&found[key]).as_str() {
            "no" => "none".to_owned(),
            "yes" => "verity".to_owned(),
            "ro" => "true".to_owned(),
            "rw" => "false".to_owned(),
            other => other.to_owned(),
        };
        FACTS.iter().map(|(name, _, key)| (*name, said(*key))).collect()
    })
}

/// Why they differ in one fact about a partition.
fn reason_for_fact(fact: &str, designator: &str, ours: &str, theirs: &str) -> Option<&'static str> {
    Some(match (fact, ours, theirs) {
        ("content", _, "vfat") if ["esp", "xbootldr"].contains(&designator) => {
            "systemd takes what is in an ESP or XBOOTLDR for vfat without a look"
        }
        ("content", several, _) if several.contains('+') => {
            "systemd names one of several superblocks, and ddictl all"
        }
        ("content", "crypto_LUKS", "none") => {
            "systemd looks for the first copy of a LUKS2 header alone, and cryptsetup opens by either"
        }
        ("content", _, "none") => "systemd skips a superblock whose checksum is wrong, and ddictl refuses it",
        ("content", "none", "verity_hash_signature" | "DM_verity_hash") => {
            "systemd goes by the type of the partition, and ddictl names what was found to belong there"
        }
        ("protection", "verity" | "none", "signed") => {
            "systemd says signed where the three partitions are there, and ddictl where the signature is by a trusted signer"
        }
        ("protection", "none", "verity") => {
            "systemd says verity where both partitions are there, and ddictl where they fit each other"
        }
        ("read-only", "false", "true") => {
            "to systemd a root with dm-verity is read-only whatever is wrong with that"
        }
        _ => return None,
    })
}

/// Why systemd has no answer where ddictl has one.
fn reason_for_silence(said: &str) -> Option<&'static str> {
    const SILENT: [(&str, &str); 5] = [
        (
            "Failed to load verity signature partition",
            "systemd wants a signature that it can read before it shows anything",
        ),
        ("Failed to acquire image metadata", "systemd mounts an image to show what is in it, and cannot"),
        ("No root partition discovered", "systemd wants a root or usr before it shows anything"),
        (
            "No root/usr partition for specified",
            "systemd wants all parts of dm-verity before it shows anything",
        ),
        (
            "Multiple suitable root partitions",
            "systemd takes the root hash from one signature, and there are two",
        ),
    ];
    SILENT.into_iter().find(|(words, _)| said.contains(words)).map(|(_, reason)| reason)
}

const NO_REASON: &str = "(why?)";

/// The differences of two answers, a line each; none where they agree.
fn differences(ours: &Answer, theirs: &Answer) -> Vec<String> {
    let reasoned = |what: String, reason: Option<&str>| format!("{what}: {}", reason.unwrap_or(NO_REASON));
    match (ours, theirs) {
        (Err(_), Err(_)) => Vec::new(),
        (Err(rule), Ok(partitions)) => {
            let code = rule.split(':').next().unwrap();
            let reason = Rule::of_code(code).and_then(Rule::systemd);
            vec![reasoned(
                format!("ddictl says {rule}, systemd shows {} partition(s)", partitions.len()),
                reason,
            )]
        }
        (Ok(partitions), Err(said)) => {
            let what = format!("ddictl shows {} partition(s), systemd says '{said}'", partitions.len());
            vec![reasoned(what, reason_for_silence(said))]
        }
        (Ok(ours), Ok(theirs)) => {
            let numbers: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            let mut lines = Vec::new();
            for number in numbers {
                let (Some(ours), Some(theirs)) = (ours.get(number), theirs.get(number)) else {
                    let whose = if ours.contains_key(number) { "ddictl" } else { "systemd" };
                    lines.push(reasoned(format!("partition {number} is there to {whose} alone"), None));
                    continue;
                };
                for (fact, ..) in FACTS {
                    let (our, their) = (&ours[fact], &theirs[fact]);
                    if our != their {
                        let what =
                            format!("{fact} of partition {number} is {our} to ddictl, {their} to systemd");
                        lines.push(reasoned(what, reason_for_fact(fact, &ours["designator"], our, their)));
                    }
                }
            }
            lines
        }
    }
}

/// Every image of the corpus once, by what it is.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let sound = sound_images().into_iter().map(|(what, bytes)| (what.to_owned(), bytes));
    let mut bases: Vec<fn() -> Ddi> = Vec::new();
    let refused = rows().into_iter().flat_map(|row| {
        let known = bases.iter().any(|base| ptr::fn_addr_eq(*base, row.base));
        bases.push(row.base);
        let base = (!known).then(|| (format!("before: {}", row.what), (row.base)().bytes()));
        base.into_iter().chain([(format!("{}: {}", row.rule, row.what), row.refused())]).collect::<Vec<_>>()
    });
    sound.chain(refused).collect()
}

fn every_difference_of_a_dissection_is_listed_with_its_reason() {
    let place = Place::new();
    let shared = SharedMounts::new();
    let peer = Peer::new("sid", &shared).unwrap();
    let mut list = format!("systemd-dissect {}\n", peer.version);
    let mut alike = 0;
    for (what, bytes) in corpus() {
        let image = place.image(&bytes);
        let lines = differences(&ours(&image), &theirs(&peer, &image));
        alike += usize::from(lines.is_empty());
        if !lines.is_empty() {
            writeln!(list, "\n{what}").unwrap();
            lines.iter().for_each(|line| writeln!(list, "    {line}").unwrap());
        }
    }
    drop(peer);
    assert!(alike > 40, "{alike} images are the same to both");
    io::stdout().write_all(format!("\n{BEGIN}{list}{END}").as_bytes()).unwrap();
    assert!(!list.contains(NO_REASON), "a difference without a reason:\n{list}");
    let known = fs::read_to_string(harness::in_source_tree("tests/guest/systemd/differences")).unwrap();
    // What another version does is for the next one who writes the list; that it has reasons was tested above.
    if known.lines().next() == list.lines().next() {
        assert!(known == list, "'tests/guest/systemd/table --update' writes this list:\n{list}");
    }
}

/// The text of a policy as systemd reads it.
fn as_text(policy: &str) -> String {
    match policy.parse().unwrap() {
        PolicyArgument::Text(policy) => policy.to_string(),
        PolicyArgument::Named(name) => Preset::find(&name).unwrap().file().unwrap().policy.to_string(),
    }
}

fn an_audit_knows_what_systemd_dissect_validates() {
    let place = Place::new();
    let shared = SharedMounts::new();
    let peer = Peer::new("sid", &shared).unwrap();
    let mut wrong = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    for row in rows() {
        let image = place.image(&row.refused());
        let texts = row.under.iter().filter(|text| !text.starts_with('@'));
        let texts: Vec<_> = if row.under.len() == 1 { row.under.iter().collect() } else { texts.collect() };
        for policy in texts {
            let theirs = peer
                .command("systemd-dissect")
                .arg("--validate")
                .arg(format!("--image-policy={}", as_text(policy)))
                .arg(&image)
                .output()
                .unwrap();
            let output = harness::ddictl()
                .args(["audit", "--json=short"])
                .arg(format!("--image-policy={policy}"))
                .arg(&image)
                .output()
                .unwrap();
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            let findings = told["findings"].as_array().unwrap();
            let finding = findings.iter().find(|finding| finding["rule"] == row.rule.code()).unwrap();
            let message = finding["message"].as_str().unwrap();
            let (validates, says_so) = (theirs.status.success(), message.contains("accepts this"));
            // Some is accepted under some policies, and what is said says so.
            let with_conditions = message.contains("accepts this where");
            if validates != says_so && (validates || !with_conditions) {
                wrong.push(format!("{} under {policy}: {} but {message}", row.what, last_line(&theirs)));
            }
            if validates {
                accepted += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), accepted + refused, wrong.join("\n"));
    // Both were seen, so neither word is said of everything.
    assert!(accepted > 50 && refused > 10, "{accepted} accepted, {refused} refused");
    let program = format!("`systemd-dissect --validate` of systemd {}", peer.version);
    let readme = fs::read_to_string(harness::in_source_tree("README.md")).unwrap();
    if readme.contains(&program) {
        let said = format!("{program} accepts {accepted} of {}", accepted + refused);
        assert!(readme.contains(&said), "the README does not say '{said}'");
    }
}
