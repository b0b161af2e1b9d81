//! Findings that somebody decided not to count: they stay in every report, marked with the reason, until a day. What
//! refuses an image is never among them.

use std::time::{Duration, SystemTime};

use crate::format::ignore_list::IgnoreLine;

use super::finding::{Finding, Rule, printable};

/// What is to be ignored, and what came of it so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreList(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    rule: Rule,
    line: IgnoreLine,
    file: String,
    used: bool,
}

/// A line is about a rule that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: expected the code of a rule ('ddictl audit' shows them with its findings), found '{code}'"
)]
pub struct UnknownRule {
    /// The number of the line, from 1.
    pub line: usize,
    /// The code.
    pub code: String,
}

impl IgnoreList {
    /// Adds what a file says; `file` is its name, for messages.
    ///
    /// # Errors
    /// [`UnknownRule`].
    pub fn add(&mut self, file: &str, lines: Vec<IgnoreLine>) -> Result<(), UnknownRule> {
        for line in lines {
            let rule = Rule::ALL.iter().copied().find(|rule| rule.code() == line.rule);
            let Some(rule) = rule else {
                return Err(UnknownRule { line: line.line, code: line.rule });
            };
            self.0.push(Entry { rule, line, file: file.to_owned(), used: false });
        }
        Ok(())
    }

    /// Marks the findings of the image `image`, as reports call it, that are ignored at the time `at`. `refuses` says
    /// which of them refuse the image. Returns what whoever wrote the list should hear.
    pub fn apply(
        &mut self,
        image: &str,
        findings: &mut [Finding],
        refuses: impl Fn(&Finding) -> bool,
        at: SystemTime,
    ) -> Vec<String> {
        let now = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let mut warnings = Vec::new();
        for finding in findings {
            for entry in self.0.iter_mut().filter(|entry| entry.is_about(image, finding)) {
                entry.used = true;
                let IgnoreLine { line, until, reason, .. } = &entry.line;
                let place = format!("'{}', line {line}", entry.file);
                let what = format!("{} of '{}'", finding.rule, printable(image));
                if refuses(finding) {
                    warnings.push(format!("{place}: {what} is not ignored: it refuses the image"));
                } else if until.is_over_at(now) {
                    warnings
                        .push(format!("{place}: {what} is not ignored any more, since {until}: {reason}"));
                } else {
                    finding.ignored = Some(format!("{reason} (until {until})"));
                    break;
                }
            }
        }
        warnings
    }

    /// The lines that no finding was about, each with its place: they can go.
    pub fn unused(&self) -> impl Iterator<Item = String> {
        let unused = self.0.iter().filter(|entry| !entry.used);
        unused.map(|entry| {
            format!("'{}', line {}: no such finding: {}", entry.file, entry.line.line, entry.line)
        })
    }
}

impl Entry {
    /// A pattern with a '/' is for the whole of a path or URL, another one for its last part.
    fn is_about(&self, image: &str, finding: &Finding) -> bool {
        if self.rule != finding.rule {
            return false;
        }
        if self.line.image.as_str().contains('/') {
            return self.line.image.matches(image);
        }
        let path = match image.split_once("://") {
            Some((_, rest)) => rest.split(['?', '#']).next().unwrap_or_default(),
            None => image,
        };
        self.line.image.matches(path.rsplit('/').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ignore_list::parse;

    /// 2026-06-01.
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn now() -> SystemTime {
        NOW + Duration::from_secs(1_780_272_000)
    }

    fn list(text: &str) -> IgnoreList {
        let mut list = IgnoreList::default();
        list.add("known", parse(text).unwrap()).unwrap();
        list
    }

    fn finding(rule: Rule) -> Finding {
        Finding::of_image(rule, "one", "another")
    }

    #[test]
    fn what_is_ignored_is_marked_until_its_last_day() {
        let mut findings = [finding(Rule::TableCopyDamaged), finding(Rule::SignerUntrusted)];
        let mut known = list("DDI0105 os-*.raw 2026-06-01 \"later\"");
        assert_eq!(known.apply("/srv/os-1.raw", &mut findings, |_| false, now()), Vec::<String>::new());
        assert_eq!(findings[0].ignored.as_deref(), Some("later (until 2026-06-01)"));
        assert_eq!(findings[1].ignored, None);
        assert_eq!(known.unused().count(), 0);

        let mut findings = [finding(Rule::TableCopyDamaged)];
        let mut known = list("DDI0105 os-*.raw 2026-05-31 \"later\"");
        let warnings = known.apply("os-1.raw", &mut findings, |_| false, now());
        assert_eq!(findings[0].ignored, None);
        assert!(warnings[0].contains("'known', line 1") && warnings[0].contains("not ignored any more"));
    }

    #[test]
    fn a_refusal_is_never_ignored() {
        let mut findings = [finding(Rule::PolicyState)];
        let mut known = list("DDI0501 * 2999-01-01 \"please\"");
        let warnings = known.apply("os.raw", &mut findings, |_| true, now());
        assert_eq!(findings[0].ignored, None);
        assert!(
            warnings[0].ends_with("DDI0501 of 'os.raw' is not ignored: it refuses the image"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_pattern_with_a_slash_is_for_the_whole_name() {
        let is_ignored = |pattern: &str, image: &str| {
            let mut findings = [finding(Rule::TableCopyDamaged)];
            let mut known = list(&format!("DDI0105 {pattern} 2999-01-01 \"x\""));
            known.apply(image, &mut findings, |_| false, now());
            findings[0].ignored.is_some()
        };
        assert!(is_ignored("os.raw", "/srv/os.raw") && is_ignored("os.raw", "https://h/a/os.raw?x=/y.raw"));
        assert!(is_ignored("/srv/*", "/srv/a/os.raw") && is_ignored("https://h/*", "https://h/a/os.raw"));
        assert!(!is_ignored("y.raw", "https://h/a/os.raw?x=/y.raw"));
        assert!(!is_ignored("srv", "/srv/os.raw") && !is_ignored("srv/*", "/srv/os.raw"));
    }

    #[test]
    fn a_line_for_nothing_is_told_and_one_for_no_rule_is_refused() {
        let known = list("DDI0105 * 2999-01-01 \"x\"");
        let unused: Vec<String> = known.unused().collect();
        assert_eq!(unused, ["'known', line 1: no such finding: DDI0105 * 2999-01-01 \"x\""]);
        let error =
            IgnoreList::default().add("known", parse("\nDDI9999 * 2999-01-01 \"x\"").unwrap()).unwrap_err();
        assert_eq!(error, UnknownRule { line: 2, code: "DDI9999".to_owned() });
    }
}
