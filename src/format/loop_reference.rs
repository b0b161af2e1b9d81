//! Loop references: the name that a loop device carries in `lo_file_name`, and the link below
//! `/dev/disk/by-loop-ref/` that udev makes of it.

use std::fmt;
use std::str::FromStr;

use super::designator::Designator;
use super::units::PartitionNumber;

/// A name for a loop device: 1 to 62 bytes of UTF-8 without control characters and `/`, neither `.` nor `..`.
///
/// A name that a user gives is read with [`FromStr`] and never looks like the name of a part of another image; the
/// names of the parts are made from it. A name that a loop device already carries is read with [`Self::observed`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoopReference(String);

/// The text cannot be a loop reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoopReferenceError {
    /// udev's property and link would be suppressed.
    #[error("expected a loop reference without control characters, found '{}'", .found.escape_debug())]
    ControlCharacter {
        /// The text.
        found: String,
    },
    /// It would be the link of the file system with that designator in the image of a shorter name.
    #[error("expected a loop reference that does not end in '-{designator}', found '{found}'")]
    DesignatorSuffix {
        /// The text.
        found: String,
        /// What it ends in.
        designator: Designator,
    },
    /// `.` and `..` are directories.
    #[error("expected a loop reference that can be a file name, found '{found}'")]
    Dots {
        /// The text.
        found: String,
    },
    /// There is no name at all.
    #[error("expected a loop reference, found nothing")]
    Empty,
    /// The bytes are not text.
    #[error("expected a loop reference in UTF-8, found '{}'", .found.escape_ascii())]
    NotUtf8 {
        /// The bytes.
        found: Vec<u8>,
    },
    /// It would be the link of a partition in the image of a shorter name.
    #[error("expected a loop reference that does not end in '-part' and a number, found '{found}'")]
    PartitionSuffix {
        /// The text.
        found: String,
    },
    /// It names the attachment's record, too, and a record is one file in one directory.
    #[error("expected a loop reference without '/', found '{found}'")]
    Slash {
        /// The text.
        found: String,
    },
    /// The kernel keeps 63 bytes, and udev makes no link for one of 63, which may be a longer one cut off.
    #[error("expected a loop reference of at most 62 bytes, found {length}: '{found}'")]
    TooLong {
        /// The text, with the suffix that makes it too long.
        found: String,
        /// How long it is, in bytes.
        length: usize,
    },
}

impl LoopReference {
    /// The longest reference that udev makes a link for, in bytes: `LO_NAME_SIZE` (include/uapi/linux/loop.h) is 64
    /// with the NUL, and a name of 63 bytes may have been cut off.
    pub const MAX: usize = 62;

    /// The reference that a loop device was found to carry, suffix or not.
    ///
    /// # Errors
    /// Every [`LoopReferenceError`] but the two about suffixes.
    pub fn observed(name: &[u8]) -> Result<Self, LoopReferenceError> {
        let text =
            std::str::from_utf8(name).map_err(|_| LoopReferenceError::NotUtf8 { found: name.to_vec() })?;
        Self::checked(text.to_owned())
    }

    /// The name as it is set in `lo_file_name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the link below `/dev/disk/by-loop-ref/`: what is neither a letter, a digit, one of `#+-.:=@_` nor
    /// outside ASCII becomes `\x` and two digits, as `blkid_encode_string(3)` has it.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut link = String::with_capacity(self.0.len());
        for character in self.0.chars() {
            if character.is_ascii_alphanumeric() || "#+-.:=@_".contains(character) || !character.is_ascii() {
                link.push(character);
            } else {
                link.push_str(&format!("\\x{:02x}", u32::from(character)));
            }
        }
        link
    }

    /// `NAME-partN`: table entry `number` of this image.
    ///
    /// # Errors
    /// [`LoopReferenceError::TooLong`].
    pub fn partition(&self, number: PartitionNumber) -> Result<Self, LoopReferenceError> {
        self.with(&format!("-part{number}"))
    }

    /// `NAME-DESIGNATOR`: what this image has for `designator`.
    ///
    /// # Errors
    /// [`LoopReferenceError::TooLong`].
    pub fn designator(&self, designator: Designator) -> Result<Self, LoopReferenceError> {
        self.with(&format!("-{designator}"))
    }

    /// `NAME.data`: the data device beneath a dm-verity device, never to be mounted itself.
    ///
    /// # Errors
    /// [`LoopReferenceError::TooLong`].
    pub fn data(&self) -> Result<Self, LoopReferenceError> {
        self.with(".data")
    }

    /// `NAME.hash`: the hash device beneath a dm-verity device, never to be mounted itself.
    ///
    /// # Errors
    /// [`LoopReferenceError::TooLong`].
    pub fn hash(&self) -> Result<Self, LoopReferenceError> {
        self.with(".hash")
    }

    fn with(&self, suffix: &str) -> Result<Self, LoopReferenceError> {
        Self::checked(format!("{}{suffix}", self.0))
    }

    fn checked(found: String) -> Result<Self, LoopReferenceError> {
        if found.is_empty() {
            return Err(LoopReferenceError::Empty);
        }
        if found.len() > Self::MAX {
            return Err(LoopReferenceError::TooLong { length: found.len(), found });
        }
        if found.chars().any(char::is_control) {
            return Err(LoopReferenceError::ControlCharacter { found });
        }
        if found.contains('/') {
            return Err(LoopReferenceError::Slash { found });
        }
        if found == "." || found == ".." {
            return Err(LoopReferenceError::Dots { found });
        }
        Ok(Self(found))
    }
}

impl FromStr for LoopReference {
    type Err = LoopReferenceError;

    /// Reads the name of a whole image.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reference = Self::checked(text.to_owned())?;
        // A part may itself have a part: `image-part2.data` is as taken as `image-part2`.
        let name = text.strip_suffix(".data").or_else(|| text.strip_suffix(".hash")).unwrap_or(text);
        let without_digits = name.trim_end_matches(|character: char| character.is_ascii_digit());
        if without_digits.len() < name.len() && without_digits.ends_with("-part") {
            return Err(LoopReferenceError::PartitionSuffix { found: text.to_owned() });
        }
        let suffix = Designator::ALL.into_iter().find(|designator| {
            name.strip_suffix(designator.as_str()).is_some_and(|base| base.ends_with('-'))
        });
        match suffix {
            Some(designator) => {
                Err(LoopReferenceError::DesignatorSuffix { found: text.to_owned(), designator })
            }
            None => Ok(reference),
        }
    }
}

impl fmt::Display for LoopReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> LoopReference {
        text.parse().unwrap()
    }

    #[test]
    fn the_parts_of_an_image_have_their_names() {
        let image = reference("image.raw");
        let part = image.partition(PartitionNumber::new(2).unwrap()).unwrap();
        assert_eq!(part.as_str(), "image.raw-part2");
        assert_eq!(part.data().unwrap().as_str(), "image.raw-part2.data");
        assert_eq!(part.hash().unwrap().as_str(), "image.raw-part2.hash");
        assert_eq!(
            image.designator(Designator::RootVeritySig).unwrap().as_str(),
            "image.raw-root-verity-sig"
        );
        assert_eq!(LoopReference::observed(b"image.raw-part2.data").unwrap(), part.data().unwrap());
    }

    #[test]
    fn links_are_encoded_as_udev_does() {
        for (name, link) in [
            ("image.raw", "image.raw"),
            ("a b", "a\\x20b"),
            ("a\\b", "a\\x5cb"),
            ("#+-.:=@_", "#+-.:=@_"),
            ("gr\u{fc}n\u{1f600}", "gr\u{fc}n\u{1f600}"),
            ("a%b~c'", "a\\x25b\\x7ec\\x27"),
        ] {
            assert_eq!(reference(name).encode(), link);
        }
    }

    #[test]
    fn names_that_nobody_could_use_are_refused_by_name() {
        use LoopReferenceError as E;
        let found = |text: &str| text.to_owned();
        let long = "x".repeat(63);
        let cases = [
            ("", E::Empty),
            (".", E::Dots { found: found(".") }),
            ("..", E::Dots { found: found("..") }),
            ("a/b", E::Slash { found: found("a/b") }),
            ("/", E::Slash { found: found("/") }),
            ("a\nb", E::ControlCharacter { found: found("a\nb") }),
            ("a\0", E::ControlCharacter { found: found("a\0") }),
            ("a\u{85}", E::ControlCharacter { found: found("a\u{85}") }),
            (&long, E::TooLong { found: long.clone(), length: 63 }),
            ("x-part1", E::PartitionSuffix { found: found("x-part1") }),
            ("x-part007", E::PartitionSuffix { found: found("x-part007") }),
            ("-part1", E::PartitionSuffix { found: found("-part1") }),
            ("x-part1.data", E::PartitionSuffix { found: found("x-part1.data") }),
            ("x-part1.hash", E::PartitionSuffix { found: found("x-part1.hash") }),
            ("x-root", E::DesignatorSuffix { found: found("x-root"), designator: Designator::Root }),
            ("x-usr.hash", E::DesignatorSuffix { found: found("x-usr.hash"), designator: Designator::Usr }),
            (
                "x-usr-verity-sig",
                E::DesignatorSuffix {
                    found: found("x-usr-verity-sig"),
                    designator: Designator::UsrVeritySig,
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<LoopReference>(), Err(expected), "{text:?}");
        }
        assert_eq!(LoopReference::observed(b"a\xff"), Err(E::NotUtf8 { found: b"a\xff".to_vec() }));
        assert_eq!(LoopReference::observed(b""), Err(E::Empty));
    }

    #[test]
    fn names_that_only_resemble_parts_are_taken() {
        for text in
            ["part1", "x-part", "x-part1a", "root", "xroot", "rootdisk.raw", "x-rooted", "x.data", "...", "-"]
        {
            assert_eq!(reference(text).as_str(), text);
        }
        assert_eq!(reference(&"x".repeat(62)).as_str().len(), 62);
    }

    #[test]
    fn a_part_whose_name_would_get_no_link_is_refused_by_name() {
        let image = reference(&"x".repeat(56));
        let part = image.partition(PartitionNumber::new(1).unwrap()).unwrap();
        assert_eq!(part.as_str().len(), 62);
        for (result, suffix) in [
            (image.partition(PartitionNumber::new(10).unwrap()), "-part10"),
            (image.designator(Designator::Xbootldr), "-xbootldr"),
            (part.data(), "-part1.data"),
            (part.hash(), "-part1.hash"),
        ] {
            let found = format!("{image}{suffix}");
            assert_eq!(result, Err(LoopReferenceError::TooLong { length: found.len(), found }));
        }
    }
}
