//! The classes of images: what an image is for, and where those who use it look for it.

use std::fmt;
use std::str::FromStr;

/// What an image is for (systemd's image classes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageClass {
    /// A machine: a container, a virtual machine, or this one.
    Machine,
    /// A portable service.
    Portable,
    /// A system extension: it adds to `/usr` and `/opt`.
    Sysext,
    /// A configuration extension: it adds to `/etc`.
    Confext,
}

/// The text names no class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an image class ('machine', 'portable', 'sysext' or 'confext'), found '{}'", .found.escape_debug())]
pub struct ImageClassError {
    /// The text.
    pub found: String,
}

impl ImageClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Machine, Self::Portable, Self::Sysext, Self::Confext];

    /// The word for it in options and on the kernel command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Portable => "portable",
            Self::Sysext => "sysext",
            Self::Confext => "confext",
        }
    }

    /// The directory below `/run` that holds its images until the machine goes down.
    #[must_use]
    pub const fn runtime_directory(self) -> &'static str {
        match self {
            Self::Machine => "/run/machines",
            Self::Portable => "/run/portables",
            Self::Sysext => "/run/extensions",
            Self::Confext => "/run/confexts",
        }
    }

    /// The directory below `/var/lib` that holds those that stay.
    #[must_use]
    pub const fn persistent_directory(self) -> &'static str {
        match self {
            Self::Machine => "/var/lib/machines",
            Self::Portable => "/var/lib/portables",
            Self::Sysext => "/var/lib/extensions",
            Self::Confext => "/var/lib/confexts",
        }
    }

    /// Whether its images hold what not every user may see or run: accounts with their passwords, programs with the
    /// rights of their owner.
    #[must_use]
    pub const fn is_private(self) -> bool {
        matches!(self, Self::Machine | Self::Portable)
    }

    /// Whether it extends a running system, which is itself made of nothing else than what was verified.
    #[must_use]
    pub const fn is_extension(self) -> bool {
        matches!(self, Self::Sysext | Self::Confext)
    }
}

impl FromStr for ImageClass {
    type Err = ImageClassError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|class| class.as_str() == text);
        found.ok_or_else(|| ImageClassError { found: text.to_owned() })
    }
}

impl fmt::Display for ImageClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_read_as_it_is_written_and_nothing_else_is() {
        for class in ImageClass::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        for text in ["", "machines", "Machine", " sysext", "sysext ", "con\u{1b}fext"] {
            let error = text.parse::<ImageClass>().unwrap_err();
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn no_two_classes_share_a_directory() {
        let directories =
            ImageClass::ALL.map(|class| [class.runtime_directory(), class.persistent_directory()]);
        let mut all: Vec<&str> = directories.into_iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
    }
}
