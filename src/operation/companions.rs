//! The files beside an image, each opened or fetched once: from then on they are values and descriptors, never names.

use std::fs::File;

use crate::format::companion::CompanionKind;
use crate::format::units::ByteLength;

/// What is beside an image. Of each kind there is at most one.
#[derive(Debug, Default)]
pub struct Companions {
    files: Vec<Companion>,
}

/// One file beside an image.
#[derive(Debug)]
pub struct Companion {
    /// What it is.
    pub kind: CompanionKind,
    /// Where it came from, for messages: a path, or a URL without credentials.
    pub origin: String,
    /// What is in it.
    pub content: CompanionContent,
}

/// What is in a file beside an image.
#[derive(Debug)]
pub enum CompanionContent {
    /// All of it. What is small is held like this.
    Bytes(Vec<u8>),
    /// A file to read it from by position. Hash trees are held like this.
    File {
        /// Open for reading.
        file: File,
        /// How many bytes it has.
        size: ByteLength,
    },
}

impl Companions {
    /// Nothing beside the image.
    #[must_use]
    pub const fn none() -> Self {
        Self { files: Vec::new() }
    }

    /// Adds a file; it replaces one of the same kind.
    pub fn insert(&mut self, companion: Companion) {
        self.files.retain(|other| other.kind != companion.kind);
        self.files.push(companion);
    }

    /// The file of this kind.
    #[must_use]
    pub fn get(&self, kind: CompanionKind) -> Option<&Companion> {
        self.files.iter().find(|companion| companion.kind == kind)
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Companion> {
        self.files.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_kind_there_is_one() {
        let companion = |kind, text: &str| Companion {
            kind,
            origin: text.to_owned(),
            content: CompanionContent::Bytes(text.as_bytes().to_vec()),
        };
        let mut companions = Companions::none();
        for text in ["first", "second"] {
            companions.insert(companion(CompanionKind::RootHash, text));
        }
        companions.insert(companion(CompanionKind::UsrHash, "other"));
        assert_eq!(companions.iter().count(), 2);
        assert_eq!(companions.get(CompanionKind::RootHash).unwrap().origin, "second");
        assert!(companions.get(CompanionKind::Verity).is_none());
    }
}
