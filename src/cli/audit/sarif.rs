//! Results for code scanning: SARIF 2.1.0 (OASIS), one run with every rule and a result for each finding.

use std::collections::BTreeMap;
use std::io::{self, Write};

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::image::finding::{Finding, Level, Rule};
use crate::operation::audit::Coverage;
use crate::operation::error::OperationError;

use super::{Judgement, Report};
use crate::cli::options::Json;

/// Where a reader finds more about a rule, beside what the rule says itself: by a URI, and ours is the manual.
const HELP: &str = "man:ddictl.findings(7)";

/// The document; it is one JSON value, and so comes as a whole.
#[derive(Default)]
pub(super) struct Document {
    artifacts: Vec<Value>,
    results: Vec<Value>,
    notifications: Vec<Value>,
    servers: Servers,
}

impl Report for Document {
    fn judged(&mut self, judgement: &Judgement<'_>) -> io::Result<()> {
        let Judgement { image, policy, audited, .. } = judgement;
        let location = self.servers.location(image);
        let index = self.artifacts.len();
        self.artifacts.push(json!({
            "location": location,
            "roles": ["analysisTarget"],
            "properties": { "verdict": audited.verdict.as_str(), "policy": policy },
        }));
        let mut seen = BTreeMap::new();
        for finding in &audited.findings {
            let known_by = format!("{}:{image}:{}", finding.rule, place(finding));
            let times: &mut usize = seen.entry(known_by.clone()).or_default();
            *times = times.saturating_add(1);
            self.results.push(result(image, &location, index, finding, &known_by, *times));
        }
        Ok(())
    }

    fn unreadable(&mut self, image: &str, error: &OperationError) -> io::Result<()> {
        let location = self.servers.location(image);
        self.notifications.push(json!({
            "level": "error",
            "message": { "text": error.with_causes() },
            "locations": [{ "physicalLocation": { "artifactLocation": location } }],
        }));
        Ok(())
    }

    fn end(&mut self, _: &Coverage) -> io::Result<()> {
        let mut run = Map::new();
        let mut put = |name: &str, value: Value| run.insert(name.to_owned(), value);
        put(
            "tool",
            json!({ "driver": {
                "name": "ddictl",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": Rule::ALL.iter().map(|rule| rule_json(*rule)).collect::<Vec<_>>(),
            } }),
        );
        put(
            "invocations",
            json!([{
                "executionSuccessful": self.notifications.is_empty(),
                "toolExecutionNotifications": self.notifications,
            }]),
        );
        if let Some(servers) = self.servers.to_json() {
            put("originalUriBaseIds", servers);
        }
        put("artifacts", json!(self.artifacts));
        put("results", json!(self.results));
        let document = json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [run],
        });
        let text = Json::Pretty.render(&document).unwrap_or_default();
        io::stdout().write_all(text.as_bytes())
    }
}

fn rule_json(rule: Rule) -> Value {
    let systemd = rule.systemd().map(|text| format!(" {text}.")).unwrap_or_default();
    let help = format!("{}{systemd} What to do: {}.", rule.explanation(), rule.remedy());
    json!({
        "id": rule.code(),
        "name": format!("{rule:?}"),
        "shortDescription": { "text": rule.title() },
        "fullDescription": { "text": rule.explanation() },
        "helpUri": HELP,
        "help": { "text": help },
        "defaultConfiguration": { "level": rule.level().as_str() },
        "properties": properties(rule.level()),
    })
}

/// How code scanning sorts what a rule finds: as a matter of security, of a score out of ten, or as a recommendation.
fn properties(level: Level) -> Value {
    // What is found is there: nothing is guessed.
    let precision = "very-high";
    match level {
        Level::Error => json!({ "tags": ["security"], "precision": precision, "security-severity": "8.0" }),
        Level::Warning => json!({ "tags": ["security"], "precision": precision, "security-severity": "5.0" }),
        Level::Note => json!({ "precision": precision, "problem.severity": "recommendation" }),
    }
}

/// Where in its image a finding lies.
fn place(finding: &Finding) -> String {
    finding.whereabouts().unwrap_or_else(|| "image".to_owned())
}

/// A finding, which is the one of its kind, image and place that comes as number `times`.
fn result(
    image: &str,
    location: &Value,
    artifact: usize,
    finding: &Finding,
    known_by: &str,
    times: usize,
) -> Value {
    let rule = Rule::ALL.iter().position(|rule| *rule == finding.rule);
    let place = place(finding);
    let mut at = location.clone();
    if let Some(at) = at.as_object_mut() {
        at.insert("index".to_owned(), json!(artifact));
    }
    let hash = HEXLOWER.encode(&Sha256::digest(known_by));
    let hash = hash.get(..16).unwrap_or_default();
    let mut result = json!({
        "ruleId": finding.rule.code(),
        "ruleIndex": rule,
        "level": finding.level.as_str(),
        "message": { "text": format!("{}; {}", finding.message(), finding.advice()) },
        "locations": [{
            // A disk image has no lines, but viewers of code show nothing without one.
            "physicalLocation": {
                "artifactLocation": at,
                "region": { "startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1 },
            },
            "logicalLocations": [{ "name": place, "fullyQualifiedName": format!("{image}/{place}"), "kind": "resource" }],
        }],
        // The same finding of the same image in the next run, whatever else is found; in our words, and in the form that
        // code scanning at GitHub compares, which otherwise is a digest of the line.
        "partialFingerprints": {
            "primaryLocationLineHash": format!("{hash}:{times}"),
            "ddictl/v1": format!("{known_by}:{times}"),
        },
        "properties": {
            "partition": finding.partition.map(|number| number.get()),
            "file": finding.place.as_ref().map(|place| &place.path),
            "expected": finding.expected,
            "found": finding.found,
        },
    });
    if let (Some(reason), Some(object)) = (&finding.ignored, result.as_object_mut()) {
        let suppressions = json!([{ "kind": "external", "status": "accepted", "justification": reason }]);
        object.insert("suppressions".to_owned(), suppressions);
    }
    result
}

/// The servers that images were asked of. What is on them is named relative to them, because code scanning refuses a
/// document that mixes absolute URIs of several schemes.
#[derive(Debug, Default)]
struct Servers(Vec<String>);

impl Servers {
    /// An image's name as an `artifactLocation`: a path is a URI reference of its own, a URL one below its server's.
    fn location(&mut self, image: &str) -> Value {
        let Some((server, path)) = split_url(image) else { return json!({ "uri": path_uri(image) }) };
        let known = self.0.iter().position(|known| known == server);
        let index = known.unwrap_or_else(|| {
            self.0.push(server.to_owned());
            self.0.len().saturating_sub(1)
        });
        json!({ "uri": url_path(path), "uriBaseId": base_id(index) })
    }

    /// The value of `originalUriBaseIds`, where there is one.
    fn to_json(&self) -> Option<Value> {
        let entry =
            |(index, server): (usize, &String)| (base_id(index), json!({ "uri": format!("{server}/") }));
        let entries: Map<String, Value> = self.0.iter().enumerate().map(entry).collect();
        (!entries.is_empty()).then_some(Value::Object(entries))
    }
}

fn base_id(server: usize) -> String {
    format!("SERVER{}", server.saturating_add(1))
}

/// Server and path of a URL, without the slash between them.
fn split_url(image: &str) -> Option<(&str, &str)> {
    let authority = image.strip_prefix("http://").or_else(|| image.strip_prefix("https://"))?;
    let length = image.len().saturating_sub(authority.len());
    let end = authority.find(['/', '?']).unwrap_or(authority.len()).saturating_add(length);
    let (server, path) = image.split_at_checked(end)?;
    Some((server, path.strip_prefix('/').unwrap_or(path)))
}

/// Path and query of a URL as a relative URI reference (RFC 3986, 4.2): URLs may have characters that this has not, and
/// its first segment no colon.
fn url_path(path: &str) -> String {
    if path.is_empty() {
        return "./".to_owned();
    }
    let first = path.find(['/', '?']).unwrap_or(path.len());
    let is_escape = |at: usize| {
        path.as_bytes().get(at..).is_some_and(|rest| matches!(rest, [_, one, other, ..] if one.is_ascii_hexdigit() && other.is_ascii_hexdigit()))
    };
    escaped(path, |at, byte| match byte {
        b'%' => is_escape(at),
        b':' => at >= first,
        _ => b"!$&'()*+,;=@/?".contains(&byte),
    })
}

/// A path as a URI reference (RFC 3986): an absolute one as a file URL, another one relative.
fn path_uri(path: &str) -> String {
    let prefix = if path.starts_with('/') { "file://" } else { "" };
    format!("{prefix}{}", escaped(path, |_, byte| byte == b'/'))
}

/// Text with an escape for every byte that is neither unreserved (RFC 3986, 2.3) nor one of those that `stays` says.
fn escaped(text: &str, stays: impl Fn(usize, u8) -> bool) -> String {
    let mut uri = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match unreserved || (byte.is_ascii() && stays(at, byte)) {
            true => uri.push(char::from(byte)),
            false => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_uri_references_and_those_of_servers_are_relative() {
        let mut servers = Servers::default();
        for (name, uri, base) in [
            ("os.raw", "os.raw", None),
            ("a b/ü%.raw", "a%20b/%C3%BC%25.raw", None),
            ("c:d.raw", "c%3Ad.raw", None),
            ("/srv/os.raw", "file:///srv/os.raw", None),
            ("https://localhost/os.raw?***", "os.raw?***", Some("SERVER1")),
            ("https://localhost:8443/a:b/c:d|%25%zz", "a%3Ab/c:d%7C%25%25zz", Some("SERVER2")),
            ("https://localhost/", "./", Some("SERVER1")),
            ("http://localhost", "./", Some("SERVER3")),
        ] {
            let location = servers.location(name);
            assert_eq!(location["uri"], uri, "{name}");
            assert_eq!(location["uriBaseId"].as_str(), base, "{name}");
        }
        let bases = servers.to_json().unwrap();
        assert_eq!(bases["SERVER2"]["uri"], "https://localhost:8443/");
        assert_eq!(bases.as_object().unwrap().len(), 3);
        assert_eq!(Servers::default().to_json(), None);
    }

    #[test]
    fn an_ignored_finding_is_a_suppressed_result() {
        let mut finding = Finding::of_image(Rule::SetAside, "one", "another");
        let result = |finding: &Finding| result("os.raw", &json!({ "uri": "os.raw" }), 0, finding, "x", 1);
        assert_eq!(result(&finding).get("suppressions"), None);
        finding.ignored = Some("known".to_owned());
        let result = result(&finding);
        assert_eq!(result["suppressions"][0]["justification"], "known");
        assert_eq!(result["ruleIndex"], Rule::ALL.iter().position(|rule| *rule == Rule::SetAside).unwrap());
    }
}
