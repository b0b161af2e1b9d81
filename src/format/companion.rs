//! Companions: the files that lie beside an image and say something about it, by their names.
//!
//! Nothing in one of them counts by itself: a root hash beside an image is a proposal, whoever put it there.

use std::fmt;
use std::str::FromStr;

/// What is taken off the end of a file name to name an image.
const SUFFIXES: [&str; 11] =
    [".xz", ".gz", ".bz2", ".zst", ".lz4", ".sysext.raw", ".confext.raw", ".raw", ".qcow2", ".img", ".bin"];

/// The name of an image without the suffixes of its file, of which there may be several: `os` for `os.raw.xz`. Empty
/// where it has nothing else.
#[must_use]
pub fn image_stem(file_name: &str) -> &str {
    let mut name = file_name;
    while let Some(shorter) = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = shorter;
    }
    name
}

/// What a file beside an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompanionKind {
    /// The root hash of the root partition, in hexadecimal.
    RootHash,
    /// A PKCS#7 signature over it.
    RootHashSignature,
    /// The root hash of the usr partition.
    UsrHash,
    /// A PKCS#7 signature over it.
    UsrHashSignature,
    /// A dm-verity superblock and hash tree for an image without a partition table.
    Verity,
    /// Settings for systemd-nspawn.
    Settings,
}

impl CompanionKind {
    /// All of them; what others are checked with goes first.
    pub const ALL: [Self; 6] = [
        Self::RootHash,
        Self::RootHashSignature,
        Self::UsrHash,
        Self::UsrHashSignature,
        Self::Settings,
        Self::Verity,
    ];

    /// Those that protect an image, the small ones first: all but the settings for systemd-nspawn.
    pub const PROTECTING: [Self; 5] =
        [Self::RootHash, Self::RootHashSignature, Self::UsrHash, Self::UsrHashSignature, Self::Verity];

    /// What its name ends in, behind the name of the image, with the dot.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::RootHash => ".roothash",
            Self::RootHashSignature => ".roothash.p7s",
            Self::UsrHash => ".usrhash",
            Self::UsrHashSignature => ".usrhash.p7s",
            Self::Verity => ".verity",
            Self::Settings => ".nspawn",
        }
    }

    /// The name of the companion of the image in the file `file_name`; `None` where nothing is left to name it by.
    #[must_use]
    pub fn beside(self, file_name: &str) -> Option<String> {
        let stem = image_stem(file_name);
        (!stem.is_empty()).then(|| format!("{stem}{}", self.suffix()))
    }
}

impl fmt::Display for CompanionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suffix().trim_start_matches('.'))
    }
}

/// The text is no kind of companion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected 'roothash', 'roothash.p7s', 'usrhash', 'usrhash.p7s', 'verity' or 'nspawn', found '{}'",
    .found.escape_debug()
)]
pub struct CompanionKindError {
    /// The text.
    pub found: String,
}

impl FromStr for CompanionKind {
    type Err = CompanionKindError;

    /// The suffix without its dot.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.suffix().strip_prefix('.') == Some(text))
            .ok_or_else(|| CompanionKindError { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions_are_named_after_the_image_without_its_suffixes() {
        for (file, stem) in [
            ("os.raw", "os"),
            ("os.raw.xz", "os"),
            ("os_1.2.sysext.raw.zst", "os_1.2"),
            ("os.tar", "os.tar"),
            ("os", "os"),
            (".raw", ""),
        ] {
            assert_eq!(image_stem(file), stem, "{file}");
        }
        assert_eq!(CompanionKind::RootHashSignature.beside("os.raw.gz").as_deref(), Some("os.roothash.p7s"));
        assert_eq!(CompanionKind::Verity.beside(".raw"), None);
    }

    #[test]
    fn a_kind_is_written_as_its_suffix() {
        for kind in CompanionKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for text in ["", ".roothash", "p7s", "Verity"] {
            let found = text.to_owned();
            assert_eq!(text.parse::<CompanionKind>(), Err(CompanionKindError { found }));
        }
    }
}
