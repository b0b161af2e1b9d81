//! Reading policy text: systemd 262's grammar, every error with the place it stands at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::str::FromStr;

use super::{ImagePolicy, PolicyFlags};
use crate::format::designator::Designator;

/// The longest policy text that is read, in bytes: every designator with every word takes under 4000, so what is longer is
/// no policy, and whoever hands it over cannot make us hold more.
pub const MAX_POLICY_TEXT: usize = 64 * 1024;

/// What may stand around designators, words and rules.
const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The text is not an image policy. Spans are in bytes of the text that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePolicyError {
    /// Two rules for what no other rule names.
    #[error("expected one default rule, found a second one")]
    DuplicateDefault {
        /// Where the second stands.
        span: Range<usize>,
    },
    /// Two rules for one designator.
    #[error("expected one rule for '{designator}', found a second one")]
    DuplicateDesignator {
        /// The designator that both name.
        designator: Designator,
        /// Where the second one names it.
        span: Range<usize>,
    },
    /// A rule without `=`; an empty one too, as between two colons.
    #[error("expected a rule 'DESIGNATOR=WORD+WORD', found '{rule}'")]
    MissingEquals {
        /// What stands in its place.
        rule: String,
        /// Where.
        span: Range<usize>,
    },
    /// More text than any policy has.
    #[error("expected at most {MAX_POLICY_TEXT} bytes of policy text, found {found}")]
    TooLong {
        /// How many bytes there are.
        found: usize,
    },
    /// What stands before the `=` names no partition.
    #[error("expected a partition designator, found '{word}'")]
    UnknownDesignator {
        /// What stands there.
        word: String,
        /// Where.
        span: Range<usize>,
    },
    /// A word after the `=` that policies do not know. Never ignored: what is not understood must not allow anything.
    #[error("expected a policy word, found '{word}'")]
    UnknownFlag {
        /// What stands there; empty between two `+`.
        word: String,
        /// Where.
        span: Range<usize>,
    },
}

impl ParsePolicyError {
    /// The bytes of the text that are wrong, for pointing at; `None` where it is the text as a whole.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::DuplicateDefault { span }
            | Self::DuplicateDesignator { span, .. }
            | Self::MissingEquals { span, .. }
            | Self::UnknownDesignator { span, .. }
            | Self::UnknownFlag { span, .. } => Some(span.clone()),
            Self::TooLong { .. } => None,
        }
    }
}

impl FromStr for ImagePolicy {
    type Err = ParsePolicyError;

    /// Reads `*`, `-` or nothing, `~`, or rules `DESIGNATOR=WORD+WORD` parted by colons, one without designator for the rest.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "*" => return Ok(Self::allow()),
            "" | "-" => return Ok(Self::ignore()),
            "~" => return Ok(Self::deny()),
            _ => {}
        }
        let mut rules = RuleSet::default();
        rules.read(text)?;
        Ok(rules.into_policy())
    }
}

/// Rules as they are read, from one text or, in a policy file, from line after line.
#[derive(Debug, Default)]
pub(in crate::image) struct RuleSet {
    rules: BTreeMap<Designator, PolicyFlags>,
    default: Option<PolicyFlags>,
}

impl RuleSet {
    /// Adds the rules of a text.
    pub(in crate::image) fn read(&mut self, text: &str) -> Result<(), ParsePolicyError> {
        if text.len() > MAX_POLICY_TEXT {
            return Err(ParsePolicyError::TooLong { found: text.len() });
        }
        Token { text, start: 0 }.split(':').try_for_each(|rule| self.read_rule(rule))
    }

    /// The policy that they make; what no rule names is ignored.
    pub(in crate::image) fn into_policy(self) -> ImagePolicy {
        let omits_default = self.default.is_none();
        ImagePolicy { rules: self.rules, default: self.default.unwrap_or(PolicyFlags::IGNORE), omits_default }
    }

    fn read_rule(&mut self, rule: Token<'_>) -> Result<(), ParsePolicyError> {
        let rule = rule.trimmed();
        let Some((name, words)) = rule.split_once('=') else {
            return Err(ParsePolicyError::MissingEquals { rule: rule.text.to_owned(), span: rule.span() });
        };
        let name = name.trimmed();
        if name.text.is_empty() {
            if self.default.is_some() {
                return Err(ParsePolicyError::DuplicateDefault { span: rule.span() });
            }
            self.default = Some(flags(words)?);
            return Ok(());
        }
        let designator: Designator = name.text.parse().map_err(|_| ParsePolicyError::UnknownDesignator {
            word: name.text.to_owned(),
            span: name.span(),
        })?;
        match self.rules.entry(designator) {
            Entry::Occupied(_) => {
                Err(ParsePolicyError::DuplicateDesignator { designator, span: name.span() })
            }
            Entry::Vacant(entry) => {
                entry.insert(flags(words)?);
                Ok(())
            }
        }
    }
}

/// What stands after the `=`: nothing or `-` for no word, or words parted by `+`.
fn flags(words: Token<'_>) -> Result<PolicyFlags, ParsePolicyError> {
    let words = words.trimmed();
    if matches!(words.text, "" | "-") {
        return Ok(PolicyFlags::NONE);
    }
    words.split('+').try_fold(PolicyFlags::NONE, |flags, word| {
        let word = word.trimmed();
        let flag = PolicyFlags::of_word(word.text)
            .ok_or_else(|| ParsePolicyError::UnknownFlag { word: word.text.to_owned(), span: word.span() })?;
        Ok(flags | flag)
    })
}

/// A piece of the text and where it starts in the whole.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Token<'a> {
    fn span(self) -> Range<usize> {
        self.start..self.start.saturating_add(self.text.len())
    }

    fn trimmed(self) -> Self {
        let text = self.text.trim_start_matches(WHITESPACE);
        let skipped = self.text.len().saturating_sub(text.len());
        Token { text: text.trim_end_matches(WHITESPACE), start: self.start.saturating_add(skipped) }
    }

    /// The pieces between a separator that takes one byte.
    fn split(self, separator: char) -> impl Iterator<Item = Self> {
        self.text.split(separator).scan(self.start, |next, text| {
            let start = *next;
            *next = start.saturating_add(text.len()).saturating_add(1);
            Some(Token { text, start })
        })
    }

    /// What stands before and after the first of a separator that takes one byte.
    fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let (before, after) = self.text.split_once(separator)?;
        let start = self.start.saturating_add(before.len()).saturating_add(1);
        Some((Token { text: before, start: self.start }, Token { text: after, start }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> ParsePolicyError {
        text.parse::<ImagePolicy>().unwrap_err()
    }

    #[test]
    fn a_second_rule_for_a_designator_is_refused() {
        for (text, span) in [("root=signed:root=absent", 12..16), (" root=open :\t root = open", 14..18)] {
            assert_eq!(
                refused(text),
                ParsePolicyError::DuplicateDesignator { designator: Designator::Root, span },
                "{text}"
            );
        }
    }

    #[test]
    fn a_second_default_is_refused() {
        for (text, span) in [("=absent:=absent", 8..15), ("root=signed:=: = open", 15..21)] {
            assert_eq!(refused(text), ParsePolicyError::DuplicateDefault { span }, "{text}");
        }
    }

    #[test]
    fn rules_without_equals_are_refused() {
        for (text, rule, span) in [
            ("root", "root", 0..4),
            ("root=signed:", "", 12..12),
            (":root=signed", "", 0..0),
            ("root=signed::usr=open", "", 12..12),
            ("root=signed: usr ", "usr", 13..16),
            ("root=signed:*", "*", 12..13),
            ("-:-", "-", 0..1),
            (" * ", "*", 1..2),
            (" ", "", 1..1),
            ("**", "**", 0..2),
            ("@verified-boot", "@verified-boot", 0..14),
        ] {
            assert_eq!(
                refused(text),
                ParsePolicyError::MissingEquals { rule: rule.to_owned(), span },
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_designators_are_refused() {
        for (text, word, span) in [
            ("foo=absent", "foo", 0..3),
            ("root=signed: Root =absent", "Root", 13..17),
            ("root-x86-64=signed", "root-x86-64", 0..11),
            ("r\u{f6}\u{f6}t=signed", "r\u{f6}\u{f6}t", 0..6),
        ] {
            assert_eq!(
                refused(text),
                ParsePolicyError::UnknownDesignator { word: word.to_owned(), span },
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_words_are_refused_and_never_dropped() {
        for (text, word, span) in [
            ("root=foo", "foo", 5..8),
            ("root=signed+ signedonly ", "signedonly", 13..23),
            ("root=Signed", "Signed", 5..11),
            ("root=signed+", "", 12..12),
            ("root=+signed", "", 5..5),
            ("root=signed+-", "-", 12..13),
            ("root=-+signed", "-", 5..6),
            ("root=signed=absent", "signed=absent", 5..18),
            ("usr=open:=ext2", "ext2", 10..14),
            ("root=~", "~", 5..6),
            ("root=sig\\ned", "sig\\ned", 5..12),
        ] {
            assert_eq!(
                refused(text),
                ParsePolicyError::UnknownFlag { word: word.to_owned(), span },
                "{text}"
            );
        }
    }

    #[test]
    fn text_longer_than_any_policy_is_refused() {
        let text = format!("root=signed{}", " ".repeat(MAX_POLICY_TEXT));
        assert_eq!(refused(&text), ParsePolicyError::TooLong { found: MAX_POLICY_TEXT + 11 });
        assert_eq!(refused(&text).span(), None);
    }

    #[test]
    fn spans_point_at_the_words_that_are_named() {
        let text = "root=signed : usr = verity + nonsense";
        let span = refused(text).span().unwrap();
        assert_eq!(text.get(span), Some("nonsense"));
    }

    #[test]
    fn whitespace_around_tokens_means_nothing() {
        let spread: ImagePolicy = "\troot = signed +\nabsent : = absent\r".parse().unwrap();
        assert_eq!(spread, "root=signed+absent:=absent".parse().unwrap());
    }
}
