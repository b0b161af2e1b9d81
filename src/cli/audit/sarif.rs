//! Results for code scanning: SARIF 2.1.0 (OASIS), one run with every rule and a result for each finding.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::image::finding::{Finding, Rule};
use crate::operation::audit::Coverage;
use crate::operation::error::OperationError;

use super::{Judgement, Report};
use crate::cli::options::Json;

/// The document; it is one JSON value, and so comes as a whole.
#[derive(Default)]
pub(super) struct Document {
    artifacts: Vec<Value>,
    results: Vec<Value>,
    notifications: Vec<Value>,
}

impl Report for Document {
    fn judged(&mut self, judgement: &Judgement<'_>) -> io::Result<()> {
        let Judgement { image, policy, audited, .. } = judgement;
        let index = self.artifacts.len();
        self.artifacts.push(json!({
            "location": { "uri": uri(image) },
            "properties": { "verdict": audited.verdict.as_str(), "policy": policy },
        }));
        self.results.extend(audited.findings.iter().map(|finding| result(image, index, finding)));
        Ok(())
    }

    fn unreadable(&mut self, image: &str, error: &OperationError) -> io::Result<()> {
        self.notifications.push(json!({
            "level": "error",
            "message": { "text": error.with_causes() },
            "locations": [{ "physicalLocation": { "artifactLocation": { "uri": uri(image) } } }],
        }));
        Ok(())
    }

    fn end(&mut self, _: &Coverage) -> io::Result<()> {
        let document = json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "ddictl",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": Rule::ALL.iter().map(|rule| rule_json(*rule)).collect::<Vec<_>>(),
                } },
                "invocations": [{
                    "executionSuccessful": self.notifications.is_empty(),
                    "toolExecutionNotifications": self.notifications,
                }],
                "artifacts": self.artifacts,
                "results": self.results,
            }],
        });
        let text = Json::Pretty.render(&document).unwrap_or_default();
        io::stdout().write_all(text.as_bytes())
    }
}

fn rule_json(rule: Rule) -> Value {
    json!({
        "id": rule.code(),
        "name": format!("{rule:?}"),
        "shortDescription": { "text": rule.title() },
        "fullDescription": { "text": rule.explanation() },
        "help": { "text": rule.remedy() },
        "defaultConfiguration": { "level": rule.level().as_str() },
    })
}

fn result(image: &str, artifact: usize, finding: &Finding) -> Value {
    let rule = Rule::ALL.iter().position(|rule| *rule == finding.rule);
    let partition = finding.partition.map(|number| number.get());
    let place = partition.map_or_else(|| "image".to_owned(), |number| format!("partition {number}"));
    let mut result = json!({
        "ruleId": finding.rule.code(),
        "ruleIndex": rule,
        "level": finding.level.as_str(),
        "message": { "text": format!("{}; {}", finding.message(), finding.advice()) },
        "locations": [{
            // A disk image has no lines, but viewers of code show nothing without one.
            "physicalLocation": {
                "artifactLocation": { "uri": uri(image), "index": artifact },
                "region": { "startLine": 1 },
            },
            "logicalLocations": [{ "name": place, "fullyQualifiedName": format!("{image}/{place}"), "kind": "resource" }],
        }],
        // The same finding of the same image in the next run, whatever else is found.
        "partialFingerprints": { "ddictl/v1": format!("{}:{image}:{place}", finding.rule) },
        "properties": { "partition": partition, "expected": finding.expected, "found": finding.found },
    });
    if let (Some(reason), Some(object)) = (&finding.ignored, result.as_object_mut()) {
        let suppressions = json!([{ "kind": "external", "status": "accepted", "justification": reason }]);
        object.insert("suppressions".to_owned(), suppressions);
    }
    result
}

/// An image's name as a URI reference (RFC 3986): a URL as it is, an absolute path as a file URL, another one relative.
fn uri(image: &str) -> String {
    if image.starts_with("http://") || image.starts_with("https://") {
        return image.to_owned();
    }
    let mut uri = String::with_capacity(image.len());
    if image.starts_with('/') {
        uri.push_str("file://");
    }
    for byte in image.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_uri_references() {
        for (name, expected) in [
            ("os.raw", "os.raw"),
            ("a b/ü%.raw", "a%20b/%C3%BC%25.raw"),
            ("c:d.raw", "c%3Ad.raw"),
            ("/srv/os.raw", "file:///srv/os.raw"),
            ("https://localhost/os.raw?***", "https://localhost/os.raw?***"),
        ] {
            assert_eq!(uri(name), expected);
        }
    }

    #[test]
    fn an_ignored_finding_is_a_suppressed_result() {
        let mut finding = Finding::of_image(Rule::SetAside, "one", "another");
        assert_eq!(result("os.raw", 0, &finding).get("suppressions"), None);
        finding.ignored = Some("known".to_owned());
        let result = result("os.raw", 0, &finding);
        assert_eq!(result["suppressions"][0]["justification"], "known");
        assert_eq!(result["ruleIndex"], Rule::ALL.iter().position(|rule| *rule == Rule::SetAside).unwrap());
    }
}
