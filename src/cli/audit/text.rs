//! Results for people: a screen an image, the gravest first.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::image::finding::{Finding, Level, Rule};
use crate::image::verdict::Verdict;
use crate::operation::audit::Coverage;
use crate::operation::error::OperationError;

use super::{Judgement, Report};
use crate::cli::report::{escaped, partitions_summary};

/// How many findings of an image are shown in full: with the partitions they fill a screen.
const MOST_FINDINGS: usize = 8;

/// Prints each image as it comes, and a sum at the end of several.
pub(super) struct Text {
    /// Whether there is a sum.
    several: bool,
    /// Whether images that are as they should be are left out, and the sum.
    quiet: bool,
    colours: Colours,
    verdicts: BTreeMap<&'static str, usize>,
    failing: usize,
    unreadable: usize,
}

impl Text {
    pub(super) fn new(several: bool, quiet: bool, terminal: bool) -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        let colours = Colours(terminal && !plain);
        Self { several, quiet, colours, verdicts: BTreeMap::new(), failing: 0, unreadable: 0 }
    }
}

impl Report for Text {
    fn judged(&mut self, judgement: &Judgement<'_>) -> io::Result<()> {
        let count = self.verdicts.entry(judgement.audited.verdict.as_str()).or_default();
        *count = count.saturating_add(1);
        let fails = judgement.fails();
        self.failing = self.failing.saturating_add(usize::from(fails));
        if self.quiet && !fails {
            return Ok(());
        }
        io::stdout().write_all(image_text(judgement, self.colours).as_bytes())
    }

    fn unreadable(&mut self, _: &str, _: &OperationError) -> io::Result<()> {
        self.unreadable = self.unreadable.saturating_add(1);
        Ok(())
    }

    fn end(&mut self, coverage: &Coverage) -> io::Result<()> {
        // One image by its own name needs no sum.
        if self.quiet || (!self.several && coverage.images <= 1 && coverage.other_files == 0) {
            return Ok(());
        }
        let judged: usize = self.verdicts.values().sum();
        let worst_first = [Verdict::Malformed, Verdict::Refuse, Verdict::NotJudged, Verdict::Accept];
        let counts: Vec<String> = worst_first
            .into_iter()
            .filter_map(|verdict| {
                let count = self.verdicts.get(verdict.as_str())?;
                Some(format!("{count} {}", self.colours.paint(colour_of(verdict), verdict.as_str())))
            })
            .collect();
        let mut text = format!(
            "{judged} image(s): {}",
            if counts.is_empty() { "none judged".to_owned() } else { counts.join(", ") }
        );
        write_some(&mut text, self.failing, "not acceptable");
        write_some(&mut text, self.unreadable, "could not be read");
        write_some(&mut text, coverage.other_files, "other file(s) in the directories");
        text.push('\n');
        io::stdout().write_all(text.as_bytes())
    }
}

fn write_some(text: &mut String, count: usize, what: &str) {
    if count > 0 {
        text.push_str(&format!("; {count} {what}"));
    }
}

/// Whether to colour.
#[derive(Debug, Clone, Copy)]
struct Colours(bool);

/// The colours of a terminal (ECMA-48, SGR).
#[derive(Debug, Clone, Copy)]
enum Colour {
    Red,
    Yellow,
    Green,
    Faint,
}

impl Colours {
    fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Red => "1;31",
            Colour::Yellow => "33",
            Colour::Green => "32",
            Colour::Faint => "2",
        };
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

const fn colour_of(verdict: Verdict) -> Colour {
    match verdict {
        Verdict::Accept => Colour::Green,
        Verdict::NotJudged => Colour::Yellow,
        Verdict::Refuse | Verdict::Malformed => Colour::Red,
    }
}

const fn colour_of_level(level: Level) -> Colour {
    match level {
        Level::Error => Colour::Red,
        Level::Warning => Colour::Yellow,
        Level::Note => Colour::Faint,
    }
}

/// A verdict with its findings.
fn image_text(judgement: &Judgement<'_>, colours: Colours) -> String {
    let Judgement { image, policy, audited, .. } = judgement;
    let verdict = colours.paint(colour_of(audited.verdict), audited.verdict.as_str());
    let mut text = format!("{image}: {verdict}\n");
    match policy {
        Some(policy) => text.push_str(&format!("  policy: {}\n", escaped(policy))),
        None => text.push_str("  no policy: nothing was required of this image\n"),
    }
    if let Some(examined) = &audited.examined {
        let uses = audited.evaluation.as_ref().map(|evaluation| evaluation.uses.as_slice());
        for line in partitions_summary(&examined.dissection, &examined.assessment, uses).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    for finding in audited.findings.iter().take(MOST_FINDINGS) {
        finding_text(&mut text, finding, colours);
    }
    let rest = audited.findings.get(MOST_FINDINGS..).unwrap_or_default();
    if !rest.is_empty() {
        let counts: Vec<String> = [Level::Error, Level::Warning, Level::Note]
            .into_iter()
            .map(|level| (rest.iter().filter(|finding| finding.level == level).count(), level))
            .filter(|(count, _)| *count > 0)
            .map(|(count, level)| format!("{count} {level}(s)"))
            .collect();
        let _ = writeln!(text, "  and {}: --format=json shows all", counts.join(", "));
    }
    text
}

/// What rules are about, a paragraph each.
pub(super) fn explanations(rules: &[Rule]) -> String {
    let one = |rule: &Rule| {
        let mut text = format!("{rule} {}: {}\n", rule.level(), rule.title());
        let systemd = rule.systemd().map(|text| format!("{text}."));
        let remedy = format!("What to do: {}.", rule.remedy());
        for part in [Some(rule.explanation()), systemd.as_deref(), Some(&remedy)].into_iter().flatten() {
            for line in wrapped(part, 76) {
                text.push_str(&format!("    {line}\n"));
            }
        }
        text
    };
    rules.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Text in lines of at most `width` characters, as far as its words allow.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len().saturating_add(word.len()) < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn finding_text(text: &mut String, finding: &Finding, colours: Colours) {
    let level = colours.paint(colour_of_level(finding.level), finding.level.as_str());
    let padding = " ".repeat("warning".len().saturating_sub(finding.level.as_str().len()));
    let ignored = finding.ignored.as_ref().map(|reason| format!(" (ignored: {})", escaped(reason)));
    let _ = writeln!(
        text,
        "  {} {level}:{padding} {}{}",
        finding.rule,
        escaped(&finding.message()),
        ignored.unwrap_or_default()
    );
    for advice in [Some(finding.rule.remedy()), finding.systemd()].into_iter().flatten() {
        let _ = writeln!(text, "                   {}", colours.paint(Colour::Faint, advice));
    }
}

#[cfg(test)]
mod tests {
    use crate::operation::examine::Audited;

    use super::*;

    fn text_of(findings: Vec<Finding>, colours: bool) -> String {
        let audited = Audited { verdict: Verdict::Refuse, examined: None, evaluation: None, findings };
        let judgement = Judgement {
            image: "os.raw",
            policy: Some("root=signed"),
            audited: &audited,
            fail_on: Level::Error,
        };
        image_text(&judgement, Colours(colours))
    }

    #[test]
    fn a_verdict_shows_the_whole_of_what_was_found_on_one_line() {
        let found = format!("\u{1b}[31m{}the end", "x".repeat(300));
        let text = text_of(vec![Finding::of_image(Rule::PolicyState, "signed", found)], false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["os.raw: refuse", "  policy: root=signed"]);
        assert!(lines[2].starts_with("  DDI0501 error:   "), "{text}");
        assert!(lines[2].contains("found \\u{1b}[31mx") && lines[2].ends_with("xthe end"), "{text}");
        assert_eq!(lines.len(), 4, "the remedy is the last line: {text}");
    }

    #[test]
    fn an_image_fills_one_screen_and_what_is_left_out_is_counted() {
        let finding = |rule: Rule| Finding::of_image(rule, "one", "another");
        let mut findings = vec![finding(Rule::PolicyState); 9];
        findings.push(finding(Rule::SetAside));
        let text = text_of(findings, false);
        assert!(text.ends_with("  and 1 error(s), 1 note(s): --format=json shows all\n"), "{text}");
        assert!(text.lines().count() <= 24, "{text}");
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let findings = || vec![Finding::of_image(Rule::PolicyState, "signed", "verity")];
        let coloured = text_of(findings(), true);
        let plain: String = coloured
            .split('\u{1b}')
            .enumerate()
            .map(|(index, part)| if index == 0 { part } else { part.split_once('m').unwrap().1 })
            .collect();
        assert!(coloured.contains("\u{1b}[1;31mrefuse\u{1b}[0m"), "{coloured:?}");
        assert_eq!(plain, text_of(findings(), false));
    }

    #[test]
    fn an_ignored_finding_stays_and_is_marked() {
        let mut finding = Finding::of_image(Rule::SetAside, "one", "another");
        finding.ignored = Some("known\u{202e}".to_owned());
        assert!(text_of(vec![finding], false).contains("(ignored: known\\u{202e})\n"));
    }
}
