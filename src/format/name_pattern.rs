//! Patterns for the names of images: `*` for any number of characters, `?` for exactly one, everything else for itself.

use std::fmt;
use std::str::FromStr;

/// The longest pattern, in bytes: as long as the longest file name.
pub const MAXIMUM_PATTERN: usize = 255;

/// A pattern that a name either matches from its first to its last character or does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern(String);

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamePatternError {
    /// There is nothing to match.
    #[error("expected a pattern, found nothing")]
    Empty,
    /// The character means something in other patterns, and nothing here: whoever writes it expects that.
    #[error("expected a pattern of letters, '*' and '?', found '{}' in it", .0.escape_debug())]
    Reserved(char),
    /// It is longer than any name.
    #[error("expected a pattern of at most {MAXIMUM_PATTERN} bytes, found {0}")]
    TooLong(usize),
}

impl NamePattern {
    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every name matches.
    #[must_use]
    pub fn matches_everything(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether all of `name` matches, capitals and small letters apart. Takes time in proportion to the product of both
    /// lengths at most.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), name.chars());
        // What is left of both behind the last '*', if its share of the name is as short as it may be now.
        let mut again: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
        loop {
            let rest_before = rest.clone();
            match (pattern.next(), rest.next()) {
                (Some('*'), _) => {
                    rest = rest_before;
                    again = Some((pattern.clone(), rest.clone()));
                }
                (None, None) => return true,
                (Some(expected), Some(found)) if expected == '?' || expected == found => {}
                _ => {
                    let Some((behind, share)) = &mut again else { return false };
                    if share.next().is_none() {
                        return false;
                    }
                    (pattern, rest) = (behind.clone(), share.clone());
                }
            }
        }
    }
}

impl FromStr for NamePattern {
    type Err = NamePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(NamePatternError::Empty);
        }
        if text.len() > MAXIMUM_PATTERN {
            return Err(NamePatternError::TooLong(text.len()));
        }
        let is_reserved = |c: &char| {
            c.is_control()
                || c.is_whitespace()
                || matches!(c, '[' | ']' | '{' | '}' | '\\' | '"' | '\'' | '#')
        };
        match text.chars().find(is_reserved) {
            Some(found) => Err(NamePatternError::Reserved(found)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> NamePattern {
        text.parse().unwrap()
    }

    /// The meaning, written down as it is read.
    fn means(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|taken| means(rest, &name[taken..])),
            Some(('?', rest)) => !name.is_empty() && means(rest, &name[1..]),
            Some((letter, rest)) => name.first() == Some(letter) && means(rest, &name[1..]),
        }
    }

    #[test]
    fn a_name_matches_as_a_whole_or_not_at_all() {
        for (text, names, others) in [
            ("web", &["web"][..], &["", "we", "webb", "Web", "a-web"][..]),
            ("web-*", &["web-", "web-1", "web-*"], &["web", "aweb-1"]),
            ("*", &["", "a", "ä/b"], &[]),
            ("?", &["a", "ä"], &["", "ab"]),
            ("a*b*c", &["abc", "aXbYc", "abbcbc"], &["ab", "acb", "abcd"]),
            ("**a", &["a", "bba"], &["", "ab"]),
        ] {
            assert!(names.iter().all(|name| pattern(text).matches(name)), "{text}");
            assert!(!others.iter().any(|name| pattern(text).matches(name)), "{text}");
        }
    }

    #[test]
    fn what_other_patterns_give_a_meaning_to_is_refused() {
        assert_eq!("".parse::<NamePattern>(), Err(NamePatternError::Empty));
        assert_eq!("a".repeat(256).parse::<NamePattern>(), Err(NamePatternError::TooLong(256)));
        for reserved in ['[', ']', '{', '}', '\\', '"', '\'', '#', ' ', '\n', '\u{1b}', '\u{2028}'] {
            let parsed = format!("a{reserved}").parse::<NamePattern>();
            assert_eq!(parsed, Err(NamePatternError::Reserved(reserved)));
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_the_definition_says(text in "[ab*?]{1,8}", name in "[abc]{0,10}") {
            let letters: Vec<char> = text.chars().collect();
            let name_letters: Vec<char> = name.chars().collect();
            prop_assert_eq!(pattern(&text).matches(&name), means(&letters, &name_letters));
        }
    }

    #[test]
    fn the_worst_pattern_ends_soon() {
        let stars = "*a".repeat(127);
        assert!(!pattern(&stars).matches(&"a".repeat(5_000).replace('a', "ab")));
    }
}
