//! What `ddictl audit` writes for other programs, held against the schemas that those have.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ddi_builder::Ddi;
use crate::harness::{HostTest, Need, ddictl, in_source_tree};
use crate::http_server::{Answer, HttpServer};
use crate::keys::{CertificateOptions, KeyKind, Pair};
use crate::pull::without_proxies;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "report_forms::sarif_is_as_its_schema_and_code_scanning_have_it",
        // The tool is of the package of the module.
        needs: &[Need::Tool("jsonschema")],
        run: sarif_is_as_its_schema_and_code_scanning_have_it,
    },
    HostTest {
        name: "report_forms::junit_is_as_jenkins_has_it",
        needs: &[Need::Tool("xmllint")],
        run: junit_is_as_jenkins_has_it,
    },
];

/// What is audited, each time in one document: something of every kind that a document may have in it.
const AUDITS: [(&str, i32); 6] = [
    ("good.raw", 0),
    ("stranger.raw", 3),
    ("--ignore-file=known --fail-on=warning damaged.raw", 0),
    ("none.raw", 1),
    ("URL/image.raw?token=secret URL/none.raw", 1),
    ("good.raw stranger.raw cut.raw none.raw odd:name%.raw URL/image.raw SECOND/a%7cb|c:d.raw", 3),
];

/// The documents of all audits in one form, each by the words it is of.
fn documents(form: &str) -> Vec<(String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    let pair = |name: &str| Pair::new(KeyKind::P256, &CertificateOptions::named(name));
    let trusted = pair("trusted signer");
    write("k.crt", &trusted.certificate_pem());
    let good = Ddi::signed(&trusted).bytes();
    write("good.raw", &good);
    write("odd:name%.raw", &good);
    write("stranger.raw", &Ddi::signed(&pair("<stranger> & 'co'")).bytes());
    write("cut.raw", &good[..good.len() / 2]);
    let mut damaged = good.clone();
    damaged[good.len() - 512..].fill(0);
    write("damaged.raw", &damaged);
    write("known", b"DDI0105 damaged.raw 2999-12-31 \"the next <release> has it\"\n");
    let good: Arc<[u8]> = good.into();
    let serve = || {
        let body = Arc::clone(&good);
        HttpServer::start(move |request| match request.path.as_str() {
            "/none.raw" => Answer::status(404),
            _ => Answer::ranged(request, Arc::clone(&body)),
        })
    };
    let (one, other) = (serve(), serve());
    let audit = |(words, status): (&str, i32)| {
        let words = words.replace("URL", one.url("").trim_end_matches('/'));
        let words = words.replace("SECOND", other.url("").trim_end_matches('/'));
        let output = without_proxies(&mut ddictl())
            .args(["audit", "--certificate=k.crt", "--image-policy=@verified-boot", form])
            .args(words.split(' '))
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{words}: {output:?}");
        (words, String::from_utf8(output.stdout).unwrap())
    };
    AUDITS.into_iter().map(audit).collect()
}

fn validate_json(directory: &TempDir, document: &Value) -> Output {
    let path = directory.path().join("document");
    fs::write(&path, document.to_string()).unwrap();
    let schema = in_source_tree("tests/data/report/sarif-schema-2.1.0.json");
    Command::new(in_source_tree("tests/support/validate-json")).arg(schema).arg(path).output().unwrap()
}

fn sarif_is_as_its_schema_and_code_scanning_have_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut suppressed = 0;
    let mut last = Value::Null;
    for (words, text) in documents("--format=sarif") {
        let document: Value = serde_json::from_str(&text).unwrap();
        let output = validate_json(&directory, &document);
        assert!(output.status.success(), "{words}: {output:?}");
        let run = &document["runs"][0];
        wanted_by_code_scanning(run);
        let results = run["results"].as_array().unwrap();
        suppressed += results.iter().filter(|result| result.get("suppressions").is_some()).count();
        assert!(!text.contains("secret"), "{words}");
        last = document;
    }
    assert_eq!(suppressed, 1);
    // The schema does refuse: a word that it does not know, a number that it does not have, a URI that is none.
    for (pointer, value) in [
        ("/runs/0/results/0/level", json!("fatal")),
        ("/runs/0/results/0/ruleIndex", json!(-2)),
        ("/runs/0/results/0/locations/0/physicalLocation/artifactLocation/uri", json!("a b.raw")),
        ("/runs/0/results/0/message", json!({})),
        ("/runs/0/tool/driver/rules/0/helpUri", json!("DDI0101.html")),
        ("/runs/0/invocations/0/executionSuccessful", json!("no")),
        ("/version", json!("2.2.0")),
    ] {
        let mut broken = last.clone();
        *broken.pointer_mut(pointer).unwrap() = value;
        let output = validate_json(&directory, &broken);
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{pointer}: {output:?}");
        assert!(told.contains(&format!("at '{}'", &pointer[1..])), "{pointer}: {told}");
    }
}

/// What code scanning at GitHub asks of a run beyond the schema, as its page 'SARIF support for code scanning' lists it.
fn wanted_by_code_scanning(run: &Value) {
    let text = |value: &Value, most: usize| {
        let text = value.as_str().unwrap_or_else(|| panic!("{value} is no text"));
        assert!(!text.is_empty() && text.chars().count() <= most, "{text}");
    };
    let driver = &run["tool"]["driver"];
    text(&driver["name"], 255);
    text(&driver["semanticVersion"], 255);
    let rules = driver["rules"].as_array().unwrap();
    assert!(rules.len() > 50);
    for rule in rules {
        text(&rule["id"], 255);
        text(&rule["name"], 255);
        text(&rule["shortDescription"]["text"], 1024);
        text(&rule["fullDescription"]["text"], 1024);
        text(&rule["help"]["text"], usize::MAX);
        text(&rule["helpUri"], 255);
        let properties = &rule["properties"];
        assert_eq!(properties["precision"], "very-high");
        let severity = properties["security-severity"].as_str().map(|score| score.parse::<f32>().unwrap());
        match rule["defaultConfiguration"]["level"].as_str().unwrap() {
            "error" => assert!(severity.unwrap() >= 7.0, "{rule}"),
            "warning" => assert!((4.0..7.0).contains(&severity.unwrap()), "{rule}"),
            _ => assert_eq!((severity, &properties["problem.severity"]), (None, &json!("recommendation"))),
        }
        assert_eq!(properties["tags"].is_array(), severity.is_some());
    }
    let results = run["results"].as_array().unwrap();
    let mut hashes: Vec<&str> = Vec::new();
    for result in results {
        text(&result["message"]["text"], usize::MAX);
        let place = &result["locations"][0]["physicalLocation"];
        // Relative, so that no mixture of schemes can be refused.
        let uri = place["artifactLocation"]["uri"].as_str().unwrap();
        assert!(!uri.is_empty() && !uri.contains(':') && !uri.starts_with('/'), "{uri}");
        if let Some(base) = place["artifactLocation"]["uriBaseId"].as_str() {
            let server = run["originalUriBaseIds"][base]["uri"].as_str().unwrap();
            assert!(server.starts_with("http://127.0.0.1:") && server.ends_with('/'), "{server}");
        }
        for bound in ["startLine", "startColumn", "endLine", "endColumn"] {
            assert_eq!(place["region"][bound], 1);
        }
        hashes.push(result["partialFingerprints"]["primaryLocationLineHash"].as_str().unwrap());
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), results.len(), "a fingerprint is that of one result");
}

fn validate_xml(directory: &Path, document: &str) -> Output {
    let path = directory.join("document");
    fs::write(&path, document).unwrap();
    let schema = in_source_tree("tests/data/report/junit-10.xsd");
    Command::new("xmllint").args(["--noout", "--nonet", "--schema"]).arg(schema).arg(path).output().unwrap()
}

fn junit_is_as_jenkins_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut last = String::new();
    for (words, document) in documents("--format=junit") {
        let output = validate_xml(directory.path(), &document);
        assert!(output.status.success(), "{words}: {output:?}");
        last = document;
    }
    for (from, to) in
        [("<failure ", "<failed "), ("tests=", "test="), ("classname=", "class="), ("</testsuites>", "")]
    {
        let broken = last.replace(from, to);
        assert_ne!(broken, last, "{from}");
        let output = validate_xml(directory.path(), &broken);
        assert!(!output.status.success(), "{from}: {output:?}");
    }
}
