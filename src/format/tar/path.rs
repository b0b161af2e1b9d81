//! Names of members, and what links in an archive point to.

use std::fmt;

use super::{MAXIMUM_DEPTH, TarError};

/// The most bytes that a path may have, without the NUL behind it (`PATH_MAX` of linux/limits.h).
pub const PATH_MAX: usize = 4095;
/// The most bytes between two slashes (`NAME_MAX` of linux/limits.h).
pub const NAME_MAX: usize = 255;
/// How much of a name is shown in messages.
const SHOWN: usize = 80;

/// Where a member lies below the root of the archive's tree: never above it, without `.`, `..` and superfluous slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MemberPath(Vec<u8>);

impl MemberPath {
    /// The root of the tree, which archives call `./`.
    pub const ROOT: Self = Self(Vec::new());

    /// Takes a name as it is in an archive.
    ///
    /// # Errors
    /// [`TarError::AbsolutePath`], [`TarError::ParentReference`], [`TarError::NameTooLong`],
    /// [`TarError::ComponentTooLong`], [`TarError::TooDeep`], [`TarError::NulByte`], [`TarError::EmptyName`].
    pub fn new(name: &[u8]) -> Result<Self, TarError> {
        let path = || shown(name);
        if name.len() > PATH_MAX {
            return Err(TarError::NameTooLong { what: "name", length: name.len(), beginning: path() });
        }
        if name.is_empty() {
            return Err(TarError::EmptyName);
        }
        if name.contains(&0) {
            return Err(TarError::NulByte { what: "name", found: path() });
        }
        if name.starts_with(b"/") {
            return Err(TarError::AbsolutePath { path: path() });
        }
        let mut normal = Vec::with_capacity(name.len());
        let mut depth = 0_usize;
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(TarError::ParentReference { path: path() }),
                _ if component.len() > NAME_MAX => {
                    return Err(TarError::ComponentTooLong { path: path(), length: component.len() });
                }
                _ => {}
            }
            if depth > 0 {
                normal.push(b'/');
            }
            normal.extend_from_slice(component);
            depth = depth.saturating_add(1);
        }
        if depth > MAXIMUM_DEPTH {
            return Err(TarError::TooDeep { path: path(), depth });
        }
        Ok(Self(normal))
    }

    /// The path, relative to the root of the tree; empty for the root itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the root of the tree.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that it is in, and its name there; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => {
                let name = self.0.get(slash.saturating_add(1)..).unwrap_or_default();
                (Self(self.0.get(..slash).unwrap_or_default().to_vec()), name)
            }
            None => (Self::ROOT, &self.0),
        })
    }

    /// The directories that it is in, from the top, and itself.
    pub fn ancestors_and_self(&self) -> impl Iterator<Item = Self> {
        let ends = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        let own = (!self.is_root()).then_some(self.0.len());
        ends.chain(own).map(|end| Self(self.0.get(..end).unwrap_or_default().to_vec()))
    }
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.pad("./") } else { f.pad(&shown(&self.0)) }
    }
}

/// What a symbolic link says. It may lead anywhere once the tree is in use, and is never followed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkTarget(Vec<u8>);

impl LinkTarget {
    /// Takes a target as it is in an archive.
    ///
    /// # Errors
    /// [`TarError::EmptyName`], [`TarError::NameTooLong`], [`TarError::NulByte`].
    pub fn new(target: &[u8]) -> Result<Self, TarError> {
        const WHAT: &str = "target of a link";
        if target.is_empty() {
            return Err(TarError::EmptyName);
        }
        if target.len() > PATH_MAX {
            let (length, beginning) = (target.len(), shown(target));
            return Err(TarError::NameTooLong { what: WHAT, length, beginning });
        }
        if target.contains(&0) {
            return Err(TarError::NulByte { what: WHAT, found: shown(target) });
        }
        Ok(Self(target.to_vec()))
    }

    /// The target as it is written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of an archive for a message: their beginning, with everything escaped that is not printable.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes)).chars() {
        if character.is_ascii_graphic() || character == ' ' || character.is_alphanumeric() {
            text.push(character);
        } else {
            text.extend(character.escape_default());
        }
    }
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_without_what_means_nothing() {
        for (name, expected) in [
            ("etc/passwd", "etc/passwd"),
            ("./etc//./passwd/", "etc/passwd"),
            ("./", ""),
            (".", ""),
            ("..a/...", "..a/..."),
            ("a/", "a"),
        ] {
            assert_eq!(MemberPath::new(name.as_bytes()).unwrap().as_bytes(), expected.as_bytes(), "{name}");
        }
    }

    #[test]
    fn a_name_that_leads_out_is_refused() {
        for name in ["/etc/passwd", "/", "//a"] {
            assert!(
                matches!(MemberPath::new(name.as_bytes()), Err(TarError::AbsolutePath { path }) if path == name)
            );
        }
        for name in ["..", "../a", "a/../../b", "a/..", "./.."] {
            let error = MemberPath::new(name.as_bytes()).unwrap_err();
            assert!(matches!(error, TarError::ParentReference { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_name_that_no_file_system_takes_is_refused() {
        let long = MemberPath::new(&[b'a'; 100_000]).unwrap_err();
        assert!(matches!(long, TarError::NameTooLong { length: 100_000, .. }), "{long}");
        assert!(long.to_string().len() < 250, "{long}");
        let component = MemberPath::new(&[b'a'; 256]).unwrap_err();
        assert!(matches!(component, TarError::ComponentTooLong { length: 256, .. }));
        assert!(MemberPath::new(&[b'a'; 255]).is_ok());
        let deep = "a/".repeat(MAXIMUM_DEPTH + 1);
        assert!(matches!(MemberPath::new(deep.as_bytes()), Err(TarError::TooDeep { depth: 257, .. })));
        assert!(MemberPath::new(&deep.as_bytes()[2..]).is_ok());
        assert!(matches!(MemberPath::new(b"a\0b"), Err(TarError::NulByte { .. })));
        assert_eq!(MemberPath::new(b""), Err(TarError::EmptyName));
    }

    #[test]
    fn a_path_is_split_into_its_directory_and_its_name() {
        let path = MemberPath::new(b"usr/lib/os-release").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.as_bytes(), name), (&b"usr/lib"[..], &b"os-release"[..]));
        let above: Vec<_> = path.ancestors_and_self().map(|path| path.to_string()).collect();
        assert_eq!(above, ["usr", "usr/lib", "usr/lib/os-release"]);
        let top = MemberPath::new(b"usr").unwrap();
        assert_eq!(top.split().unwrap(), (MemberPath::ROOT, &b"usr"[..]));
        assert!(MemberPath::ROOT.split().is_none() && MemberPath::ROOT.ancestors_and_self().next().is_none());
    }

    #[test]
    fn a_name_cannot_forge_a_message() {
        assert_eq!(shown(b"a\n\x1b[1m\xff"), "a\\n\\u{1b}[1m\\u{fffd}");
        assert_eq!(shown("a\u{202e}b ä".as_bytes()), "a\\u{202e}b ä");
    }

    #[test]
    fn targets_of_links_are_text_and_may_lead_anywhere() {
        for target in ["/etc/passwd", "../../..", "."] {
            assert_eq!(LinkTarget::new(target.as_bytes()).unwrap().as_bytes(), target.as_bytes());
        }
        assert_eq!(LinkTarget::new(b""), Err(TarError::EmptyName));
        assert!(matches!(LinkTarget::new(&[b'a'; 4096]), Err(TarError::NameTooLong { .. })));
        assert!(matches!(LinkTarget::new(b"a\0"), Err(TarError::NulByte { .. })));
    }
}
