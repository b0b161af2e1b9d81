//! Results for CI servers: the form that JUnit's Ant task writes, a suite an image and a case for its verdict and for each
//! finding.

use std::io::{self, Write};

use crate::image::finding::{Finding, is_deceptive};
use crate::operation::audit::Coverage;
use crate::operation::error::OperationError;

use super::{Judgement, Report};

/// The document; it has its sums in front, and so comes as a whole.
#[derive(Default)]
pub(super) struct Document {
    suites: String,
    sum: Counts,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Counts {
    /// Those of one image.
    fn attributes(self) -> String {
        format!(r#"{} skipped="{}""#, self.sums(), self.skipped)
    }

    /// Those of all images: what was skipped, Jenkins has no place for there.
    fn sums(self) -> String {
        let Self { tests, failures, errors, .. } = self;
        format!(r#"tests="{tests}" failures="{failures}" errors="{errors}""#)
    }

    const fn add(&mut self, other: Self) {
        self.tests = self.tests.saturating_add(other.tests);
        self.failures = self.failures.saturating_add(other.failures);
        self.errors = self.errors.saturating_add(other.errors);
        self.skipped = self.skipped.saturating_add(other.skipped);
    }
}

impl Document {
    fn suite(&mut self, image: &str, counts: Counts, cases: &str) {
        let attributes = counts.attributes();
        let name = attribute(image);
        self.suites.push_str(&format!("  <testsuite name=\"{name}\" {attributes}>\n{cases}  </testsuite>\n"));
        self.sum.add(counts);
    }
}

impl Report for Document {
    fn judged(&mut self, judgement: &Judgement<'_>) -> io::Result<()> {
        let Judgement { image, policy, audited, fail_on } = judgement;
        let mut counts = Counts::default();
        let mut cases = String::new();
        let verdict = audited.verdict.as_str();
        let refused = audited.verdict.is_refusal();
        let wanted = policy.map_or_else(|| "no policy".to_owned(), |policy| format!("policy {policy}"));
        let body = refused.then(|| element("failure", verdict, verdict, &wanted));
        cases.push_str(&case(image, &wanted, body));
        counts.tests = 1;
        counts.failures = usize::from(refused);
        for finding in &audited.findings {
            counts.tests = counts.tests.saturating_add(1);
            let body = match &finding.ignored {
                Some(reason) => {
                    counts.skipped = counts.skipped.saturating_add(1);
                    format!("<skipped message=\"{}\"/>", attribute(reason))
                }
                None if finding.level >= *fail_on => {
                    counts.failures = counts.failures.saturating_add(1);
                    element("failure", &finding.message(), finding.rule.code(), &finding.advice())
                }
                None => format!("<system-out>{}</system-out>", attribute(&finding.to_string())),
            };
            cases.push_str(&case(image, &name_of(finding), Some(body)));
        }
        self.suite(image, counts, &cases);
        Ok(())
    }

    fn unreadable(&mut self, image: &str, error: &OperationError) -> io::Result<()> {
        let body = element("error", &error.with_causes(), "unreadable", "");
        let counts = Counts { tests: 1, errors: 1, ..Counts::default() };
        self.suite(image, counts, &case(image, "reading", Some(body)));
        Ok(())
    }

    fn end(&mut self, _: &Coverage) -> io::Result<()> {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"ddictl audit\" {}>\n{}</testsuites>\n",
            self.sum.sums(),
            self.suites
        );
        io::stdout().write_all(text.as_bytes())
    }
}

/// What a finding is called: its rule, in words too, and where it is.
fn name_of(finding: &Finding) -> String {
    let place = finding.whereabouts().map(|place| format!(", {place}")).unwrap_or_default();
    format!("{} {}{place}", finding.rule, finding.rule.title())
}

fn case(image: &str, name: &str, body: Option<String>) -> String {
    let (class, name) = (attribute(image), attribute(name));
    match body {
        Some(body) => {
            format!("    <testcase classname=\"{class}\" name=\"{name}\">{body}</testcase>\n")
        }
        None => format!("    <testcase classname=\"{class}\" name=\"{name}\"/>\n"),
    }
}

fn element(name: &str, message: &str, kind: &str, body: &str) -> String {
    let (message, kind, body) = (attribute(message), attribute(kind), attribute(body));
    format!("<{name} message=\"{message}\" type=\"{kind}\">{body}</{name}>")
}

/// Text for an attribute or an element: nothing in it is markup, no character is one that XML 1.0 does not have, and none
/// deceives.
fn attribute(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => escaped.extend(character.escape_default()),
            _ if is_deceptive(character) => escaped.extend(character.escape_default()),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_image_is_markup() {
        assert_eq!(
            attribute("<a b=\"c\">&'\u{1b}\u{ffff}é"),
            "&lt;a b=&quot;c&quot;&gt;&amp;&apos;\\u{1b}\\u{ffff}é"
        );
    }
}
