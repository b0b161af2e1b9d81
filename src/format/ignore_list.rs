//! Lists of findings that somebody decided not to count for some time, a line each:
//!
//! ```text
//! RULE IMAGE-PATTERN UNTIL "REASON"
//! DDI0105 os-*.raw 2026-12-31 "the second copy comes back with the next release"
//! ```
//!
//! All four are required, `#` begins a comment, and a line that is not understood is an error.

use std::fmt;

use super::civil_date::{CivilDate, CivilDateError};
use super::name_pattern::{NamePattern, NamePatternError};
use super::written_line::{BLANK, WrittenLineError, content, reason, shown};

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreLine {
    /// Its number, from 1.
    pub line: usize,
    /// The code of the rule: `DDI` and four digits. Whether there is such a rule is another question.
    pub rule: String,
    /// Of which images.
    pub image: NamePattern,
    /// The last day on which it is ignored, in UTC.
    pub until: CivilDate,
    /// Why: one line without control characters.
    pub reason: String,
}

/// A line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct IgnoreListError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    #[source]
    pub problem: IgnoreLineError,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreLineError {
    /// It is no line that anybody reads.
    #[error(transparent)]
    Line(#[from] WrittenLineError),
    /// There is no day at which somebody has to look again.
    #[error(transparent)]
    Until(#[from] CivilDateError),
    /// The pattern is none.
    #[error("image pattern: {0}")]
    Image(#[from] NamePatternError),
    /// It begins with something else than the code of a rule.
    #[error("expected the code of a rule ('DDI' and four digits), found '{0}'")]
    Rule(String),
}

/// Reads all of a list.
///
/// # Errors
/// [`IgnoreListError`] for the first line that is not understood.
pub fn parse(text: &str) -> Result<Vec<IgnoreLine>, IgnoreListError> {
    let mut lines = Vec::new();
    for (line, content) in (1..).zip(text.split('\n')) {
        let parsed = parse_line(line, content).map_err(|problem| IgnoreListError { line, problem })?;
        lines.extend(parsed);
    }
    Ok(lines)
}

fn parse_line(line: usize, text: &str) -> Result<Option<IgnoreLine>, IgnoreLineError> {
    let Some(content) = content(text)? else { return Ok(None) };
    let (rule, rest) = word(content);
    let is_code = rule
        .strip_prefix("DDI")
        .is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_code {
        return Err(IgnoreLineError::Rule(shown(rule)));
    }
    let (image, rest) = word(rest);
    let image = image.parse()?;
    let (until, rest) = word(rest);
    let until = until.parse()?;
    let reason = reason(rest)?;
    Ok(Some(IgnoreLine { line, rule: rule.to_owned(), image, until, reason }))
}

/// The first word, and what follows it and the blanks behind it.
fn word(text: &str) -> (&str, &str) {
    match text.split_once(BLANK) {
        Some((word, rest)) => (word, rest.trim_start_matches(BLANK)),
        None => (text, ""),
    }
}

impl fmt::Display for IgnoreLine {
    /// The line that says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, image, until, reason, .. } = self;
        write!(f, "{rule} {image} {until} \"{reason}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::written_line::MAXIMUM_LINE;

    #[test]
    fn a_line_has_a_rule_a_pattern_a_day_and_a_reason() {
        let text =
            "# known\n\nDDI0105\tos-*.raw  2026-12-31 \"a #\tin it\" # comment\n DDI0616 * 2030-01-01 \"b\"";
        let lines = parse(text).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].to_string(), "DDI0105 os-*.raw 2026-12-31 \"a # in it\"");
        assert_eq!((lines[0].line, lines[1].line), (3, 4));
        assert!(lines[1].image.matches_everything());
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (line, words) in [
            ("DDI105 * 2026-12-31 \"a\"", "code of a rule"),
            ("ddi0105 * 2026-12-31 \"a\"", "code of a rule"),
            ("* * 2026-12-31 \"a\"", "code of a rule"),
            ("DDI0105", "image pattern"),
            ("DDI0105 [ab] 2026-12-31 \"a\"", "image pattern"),
            ("DDI0105 * \"a\"", "YYYY-MM-DD"),
            ("DDI0105 * never \"a\"", "YYYY-MM-DD"),
            ("DDI0105 * 2026-02-30 \"a\"", "YYYY-MM-DD"),
            ("DDI0105 * 2026-12-31", "a reason"),
            ("DDI0105 * 2026-12-31 a", "a reason"),
            ("DDI0105 * 2026-12-31 \"\"", "a reason"),
            ("DDI0105 * 2026-12-31 \"a", "a reason"),
            ("DDI0105 * 2026-12-31 \"a\" b", "a reason"),
            ("DDI0105 * 2026-12-31 \"a\"\r", "printable text"),
        ] {
            let error = parse(&format!("\n{line}")).unwrap_err();
            assert_eq!(error.line, 2, "{line}");
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
        let long = format!("#{}", "x".repeat(MAXIMUM_LINE));
        assert_eq!(parse(&long).unwrap_err().problem, WrittenLineError::TooLong(MAXIMUM_LINE + 1).into());
    }

    proptest! {
        #[test]
        fn any_text_gives_lines_or_an_error(text in "(?s).{0,200}") {
            if let Ok(lines) = parse(&text) {
                let printed: Vec<String> = lines.iter().map(ToString::to_string).collect();
                let again: Vec<String> =
                    parse(&printed.join("\n")).unwrap().iter().map(ToString::to_string).collect();
                prop_assert_eq!(printed, again);
            }
        }

        #[test]
        fn printing_and_parsing_are_inverse(
            rule in "DDI[0-9]{4}", image in "[a-z*?./]{1,9}", day in "20[0-9]{2}-(0[1-9]|1[0-2])-[012][1-8]", reason in "[ -!#-~]{0,9}x",
        ) {
            let line = format!("{rule} {image} {day} \"{reason}\"");
            prop_assert_eq!(parse(&line).unwrap()[0].to_string(), line);
        }
    }
}
