//! Partition labels, and the version order that decides between labels.

use std::cmp::Ordering;
use std::fmt;
use std::fmt::Write;

/// How many UTF-16 code units a table entry has for the label (UEFI 2.10, table 5.6: 72 bytes).
pub const LABEL_CAPACITY: usize = 36;

/// The label of a partition: at most 36 UTF-16 code units, none of them zero, kept as they stand in the table.
///
/// Nothing says that they are valid UTF-16. To print the label use `Display`, which escapes what a terminal could take
/// for a command; to compare or store it use [`PartitionLabel::to_text`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartitionLabel {
    units: Vec<u16>,
}

/// The text does not fit the label of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// More code units than an entry has room for.
    #[error("expected a label of at most {LABEL_CAPACITY} UTF-16 code units, found {found}")]
    TooLong {
        /// How many there are.
        found: usize,
    },
    /// A zero, which ends the label.
    #[error("expected a label without zero characters")]
    Zero,
}

impl PartitionLabel {
    /// The label that an entry's 72 bytes hold: little-endian code units up to the first zero.
    #[must_use]
    pub fn from_disk(field: &[u8; 72]) -> Self {
        let (pairs, _) = field.as_chunks::<2>();
        Self {
            units: pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0).collect(),
        }
    }

    /// The label that reads `text`.
    ///
    /// # Errors
    /// A [`LabelError`] where the text does not fit.
    pub fn new(text: &str) -> Result<Self, LabelError> {
        let units: Vec<u16> = text.encode_utf16().collect();
        if units.len() > LABEL_CAPACITY {
            return Err(LabelError::TooLong { found: units.len() });
        }
        if units.contains(&0) {
            return Err(LabelError::Zero);
        }
        Ok(Self { units })
    }

    /// The code units, at most 36, none of them zero.
    #[must_use]
    pub fn units(&self) -> &[u16] {
        &self.units
    }

    /// Whether there is no label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The label as text, unescaped; what is not valid UTF-16 becomes U+FFFD.
    #[must_use]
    pub fn to_text(&self) -> String {
        String::from_utf16_lossy(&self.units)
    }

    /// Whether the label says `_empty`: a slot that holds no version now (Discoverable Partitions Specification).
    #[must_use]
    pub fn is_empty_slot(&self) -> bool {
        self.units.iter().copied().eq("_empty".encode_utf16())
    }

    /// Whether the label begins with `PRT#`: a slot that is only partially written (Discoverable Partitions
    /// Specification).
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.starts_with("PRT#")
    }

    /// Whether the label begins with `PND#`: a slot that is written but pending (Discoverable Partitions
    /// Specification).
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.starts_with("PND#")
    }

    /// Whether the label says that nobody is to use the partition: `_empty`, `PRT#…` or `PND#…`.
    #[must_use]
    pub fn is_out_of_use(&self) -> bool {
        self.is_empty_slot() || self.is_partial() || self.is_pending()
    }

    /// Which of two labels has the newer version, by [`compare_versions`].
    #[must_use]
    pub fn compare_version(&self, other: &Self) -> Ordering {
        compare_versions(&self.to_text(), &other.to_text())
    }

    fn starts_with(&self, prefix: &str) -> bool {
        let mut units = self.units.iter().copied();
        prefix.encode_utf16().all(|expected| units.next() == Some(expected))
    }
}

impl fmt::Display for PartitionLabel {
    /// The label on one line: control and invisible characters and backslashes are escaped as in a string literal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.to_text().chars() {
            match character {
                '\'' | '"' => f.write_char(character)?,
                _ => write!(f, "{}", character.escape_debug())?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PartitionLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Which of two versions is newer (UAPI.10, Version Format Specification).
///
/// The order is that of the sequences of components that the texts consist of, so it is total; texts that differ only in
/// separators or leading zeros compare equal.
#[must_use]
pub fn compare_versions(left: &str, right: &str) -> Ordering {
    components(left).cmp(components(right))
}

/// A component of a version, lowest kind first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Component<'a> {
    /// `~`, which sorts even before the end.
    Tilde,
    /// The end of the text.
    End,
    /// `-`.
    Minus,
    /// `^`.
    Caret,
    /// `.`.
    Dot,
    /// A run of ASCII letters, capitals before small letters.
    Letters(&'a str),
    /// A run of ASCII digits: first how many there are without leading zeros, then the digits.
    Number(usize, &'a str),
}

/// The components of `text` one after the other, [`Component::End`] last.
fn components(text: &str) -> impl Iterator<Item = Component<'_>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (component, remaining) = split_component(rest?);
        rest = remaining;
        Some(component)
    })
}

/// The first component of `text`, and what stands behind it.
fn split_component(text: &str) -> (Component<'_>, Option<&str>) {
    let is_separator = |character: char| !character.is_ascii_alphanumeric() && !"-.~^".contains(character);
    let text = text.trim_start_matches(is_separator);
    let Some(first) = text.chars().next() else {
        return (Component::End, None);
    };
    let in_run = |character: char| match first {
        '0'..='9' => character.is_ascii_digit(),
        _ => character.is_ascii_alphabetic(),
    };
    // A special character is a run of its own: it is ASCII, so it is one byte long.
    let end = text.find(|character| !in_run(character)).unwrap_or(text.len()).max(1);
    let (run, rest) = text.split_at(end);
    let component = match first {
        '~' => Component::Tilde,
        '-' => Component::Minus,
        '^' => Component::Caret,
        '.' => Component::Dot,
        '0'..='9' => {
            let digits = run.trim_start_matches('0');
            Component::Number(digits.len(), digits)
        }
        _ => Component::Letters(run),
    };
    (component, Some(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(units: &[u16]) -> [u8; 72] {
        let mut field = [0; 72];
        for (pair, unit) in field.chunks_exact_mut(2).zip(units) {
            pair.copy_from_slice(&unit.to_le_bytes());
        }
        field
    }

    fn label(text: &str) -> PartitionLabel {
        PartitionLabel::new(text).unwrap()
    }

    #[test]
    fn a_label_ends_at_the_first_zero_or_at_the_end_of_its_field() {
        let units: Vec<u16> = "root\0junk".encode_utf16().collect();
        assert_eq!(PartitionLabel::from_disk(&field(&units)), label("root"));
        assert_eq!(PartitionLabel::from_disk(&field(&[0x61; 36])), label(&"a".repeat(36)));
        assert!(PartitionLabel::from_disk(&field(&[])).is_empty());
    }

    #[test]
    fn code_units_that_are_no_text_are_kept() {
        let label = PartitionLabel::from_disk(&field(&[0xd800, 0x41]));
        assert_eq!(label.units(), [0xd800, 0x41]);
        assert_eq!(label.to_string(), "\u{fffd}A");
    }

    #[test]
    fn text_that_does_not_fit_is_refused() {
        assert_eq!(PartitionLabel::new(&"a".repeat(37)), Err(LabelError::TooLong { found: 37 }));
        // Nineteen characters outside the basic plane take two code units each.
        assert_eq!(PartitionLabel::new(&"😀".repeat(19)), Err(LabelError::TooLong { found: 38 }));
        assert_eq!(PartitionLabel::new("a\0b"), Err(LabelError::Zero));
    }

    #[test]
    fn nothing_a_terminal_would_obey_is_printed() {
        assert_eq!(label("a\u{1b}[2J\n\u{202e}\\b").to_string(), r"a\u{1b}[2J\n\u{202e}\\b");
        assert_eq!(label("it's \"fine\" ä").to_string(), "it's \"fine\" ä");
    }

    #[test]
    fn labels_that_put_a_partition_out_of_use() {
        assert!(label("_empty").is_empty_slot() && label("_empty").is_out_of_use());
        assert!(label("PRT#root_1").is_partial() && label("PRT#").is_out_of_use());
        assert!(label("PND#root_1").is_pending() && label("PND#").is_out_of_use());
        for text in ["", "_empty1", "_Empty", "empty", "prt#a", "PRT", "xPND#", "PND-"] {
            assert!(!label(text).is_out_of_use(), "{text}");
        }
    }

    #[test]
    fn the_examples_of_the_specification_hold() {
        use Ordering::{Equal, Greater, Less};
        for (left, order, right) in [
            ("11", Equal, "11"),
            ("systemd-123", Equal, "systemd-123"),
            ("bar-123", Less, "foo-123"),
            ("123a", Greater, "123"),
            ("123.a", Greater, "123"),
            ("123.a", Less, "123.b"),
            ("123a", Greater, "123.a"),
            ("11α", Equal, "11β"),
            ("B", Less, "a"),
            ("", Less, "0"),
            ("0.", Greater, "0"),
            ("0.0", Greater, "0"),
            ("0", Greater, "~"),
            ("", Greater, "~"),
            ("1_", Equal, "1"),
            ("_1", Equal, "1"),
            ("1_", Less, "1.2"),
            ("1_2_3", Greater, "1.3.3"),
            ("1+", Equal, "1"),
            ("+1", Equal, "1"),
            ("1+", Less, "1.2"),
            ("1+2+3", Greater, "1.3.3"),
            ("007", Equal, "7"),
            ("10", Greater, "9"),
            ("18446744073709551616", Greater, "18446744073709551615"),
            ("root_2", Greater, "root_1.9"),
        ] {
            assert_eq!(compare_versions(left, right), order, "'{left}' against '{right}'");
            assert_eq!(compare_versions(right, left), order.reverse(), "'{right}' against '{left}'");
        }
    }

    #[test]
    fn the_chain_of_the_specification_is_in_order() {
        let chain = [
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123^post1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124-1",
        ];
        for (index, left) in chain.iter().enumerate() {
            for (other, right) in chain.iter().enumerate() {
                assert_eq!(compare_versions(left, right), index.cmp(&other), "'{left}' against '{right}'");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_is_antisymmetric_and_transitive(mut texts in prop::array::uniform3("[0-2a-bAB~^._\\-]{0,6}")) {
            prop_assert_eq!(
                compare_versions(&texts[0], &texts[1]),
                compare_versions(&texts[1], &texts[0]).reverse()
            );
            texts.sort_by(|left, right| compare_versions(left, right));
            prop_assert_ne!(compare_versions(&texts[0], &texts[1]), Ordering::Greater);
            prop_assert_ne!(compare_versions(&texts[1], &texts[2]), Ordering::Greater);
            prop_assert_ne!(compare_versions(&texts[0], &texts[2]), Ordering::Greater);
        }

        #[test]
        fn any_text_has_a_place_in_the_order(text in ".{0,36}") {
            prop_assert_eq!(compare_versions(&text, &text), Ordering::Equal);
            prop_assert_eq!(compare_versions(&format!("{text}~"), &text), Ordering::Less);
        }

        #[test]
        fn any_field_reads_back(field in prop::array::uniform32(any::<u16>())) {
            let mut bytes = [0; 72];
            for (pair, unit) in bytes.chunks_exact_mut(2).zip(field) {
                pair.copy_from_slice(&unit.to_le_bytes());
            }
            let label = PartitionLabel::from_disk(&bytes);
            prop_assert!(label.units().len() <= LABEL_CAPACITY);
            prop_assert!(field.starts_with(label.units()));
        }
    }
}
