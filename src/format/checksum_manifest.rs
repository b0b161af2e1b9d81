//! Checksum manifests: files with SHA-256 sums and the names they belong to, as `sha256sum -c` takes them.
//!
//! Source: `sha256sum --check` of GNU coreutils, whose reader takes the sums of `sha256sum` (text and binary marks),
//! of `sha256sum --tag` and `openssl dgst` (BSD style), and of `md5 -r` of BSD (one space).

use std::fmt;

/// The largest manifest that is read, in bytes: the sums of more than 40 000 files.
pub const MAXIMUM_MANIFEST: usize = 4 << 20;

/// The letters of a SHA-256 in hexadecimal.
const DIGEST_LETTERS: usize = 64;

/// How much of a name a message shows, in characters.
const SHOWN_LENGTH: usize = 200;

/// A SHA-256, as it is written down somewhere. Nothing was compared with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListedDigest([u8; 32]);

impl ListedDigest {
    /// The digest with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits, small or capital; `None` for anything else.
    #[must_use]
    pub fn from_hexadecimal(text: &[u8]) -> Option<Self> {
        if text.len() != DIGEST_LETTERS {
            return None;
        }
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ListedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ListedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a manifest says: which file has which SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChecksumManifest {
    entries: Vec<Entry>,
    not_understood: NotUnderstood,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Without `./` in front.
    name: Vec<u8>,
    digest: ListedDigest,
    line: usize,
}

/// Lines that are neither sums nor comments. `sha256sum -c` passes over them as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NotUnderstood {
    count: usize,
    first: usize,
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => Ok(()),
            1 => write!(f, " (line {} is no SHA-256 sum)", self.first),
            count => write!(f, " ({count} lines are no SHA-256 sums, the first of them line {})", self.first),
        }
    }
}

/// The bytes are not a checksum manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// There is nothing in it.
    #[error("expected SHA-256 sums, found an empty file")]
    Empty,
    /// There is something in it, and no sum.
    #[error("expected SHA-256 sums as sha256sum writes them, found none{lines}")]
    NoSums {
        /// What there is instead.
        lines: NotUnderstood,
    },
    /// It is larger than any manifest.
    #[error("expected SHA-256 sums of at most {limit} bytes, found {found}")]
    TooLarge {
        /// The limit, [`MAXIMUM_MANIFEST`].
        limit: usize,
        /// The number of bytes.
        found: usize,
    },
}

/// A manifest says two things about one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the sums contradict themselves about '{name}': line {} says {}, line {} says {}",
    .first.0, .first.1, .second.0, .second.1
)]
pub struct Contradiction {
    /// The name.
    pub name: String,
    /// The number of the first line and what it says.
    pub first: (usize, ListedDigest),
    /// The number of the first line that says something else, and what.
    pub second: (usize, ListedDigest),
}

impl ChecksumManifest {
    /// Reads a manifest.
    ///
    /// A line counts where `sha256sum -c` would take it: hexadecimal digits, small or capital; a space and the name
    /// behind a space (text) or `*` (binary), or behind nothing (BSD); `SHA256 (name) = sum`; a backslash in front where
    /// the name has escapes; blanks in front; a carriage return at the end; the last line with a line feed or without.
    /// Empty lines and those that begin with `#` are no sums. Other lines are counted and passed over: a name that they
    /// were to list is not listed.
    ///
    /// # Errors
    /// A [`ManifestError`] where there is no sum in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.is_empty() {
            return Err(ManifestError::Empty);
        }
        if bytes.len() > MAXIMUM_MANIFEST {
            return Err(ManifestError::TooLarge { limit: MAXIMUM_MANIFEST, found: bytes.len() });
        }
        let mut entries = Vec::new();
        let mut not_understood = NotUnderstood::default();
        let mut separator = Separator::Unknown;
        for (position, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = position.saturating_add(1);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            match parse_line(line, &mut separator) {
                Some((name, digest)) => entries.push(Entry { name, digest, line: number }),
                None => {
                    if not_understood.count == 0 {
                        not_understood.first = number;
                    }
                    not_understood.count = not_understood.count.saturating_add(1);
                }
            }
        }
        if entries.is_empty() {
            return Err(ManifestError::NoSums { lines: not_understood });
        }
        Ok(Self { entries, not_understood })
    }

    /// The sum of the file `name`; `None` where none is listed. A name counts with or without `./` in front, and never
    /// without its directory.
    ///
    /// # Errors
    /// [`Contradiction`] where lines about the name do not agree.
    pub fn digest_of(&self, name: &str) -> Result<Option<ListedDigest>, Contradiction> {
        let mut lines = self.entries.iter().filter(|entry| entry.name == name.as_bytes());
        let Some(first) = lines.next() else { return Ok(None) };
        match lines.find(|entry| entry.digest != first.digest) {
            None => Ok(Some(first.digest)),
            Some(second) => Err(Contradiction {
                name: shown(name.as_bytes()),
                first: (first.line, first.digest),
                second: (second.line, second.digest),
            }),
        }
    }

    /// How many sums are listed.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Never: a manifest without sums is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The lines that say nothing that was understood.
    #[must_use]
    pub const fn not_understood(&self) -> NotUnderstood {
        self.not_understood
    }

    /// Some of the names that are listed, for a message: at most three.
    #[must_use]
    pub fn examples(&self) -> String {
        const EXAMPLES: usize = 3;
        let names = self.entries.iter().take(EXAMPLES).map(|entry| format!("'{}'", shown(&entry.name)));
        let more = if self.entries.len() > EXAMPLES { ", …" } else { "" };
        format!("{}{more}", names.collect::<Vec<_>>().join(", "))
    }
}

/// Whether names begin right behind the one space after the sum (`md5 -r` of BSD). The first line that tells decides
/// for all: were both taken, whoever names a file with a blank in front could rename another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Separator {
    Unknown,
    Standard,
    OneSpace,
}

/// Name and sum of a line.
fn parse_line(line: &[u8], separator: &mut Separator) -> Option<(Vec<u8>, ListedDigest)> {
    let line = trim_blanks(line);
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(line) => (true, line),
        None => (false, line),
    };
    let (name, digest) = match line.strip_prefix(b"SHA256") {
        Some(rest) => parse_tagged(rest)?,
        None => parse_plain(line, separator)?,
    };
    if name.contains(&0) {
        return None;
    }
    let name = if escaped { unescape(name)? } else { name.to_vec() };
    let name = without_dots(&name);
    (!name.is_empty()).then(|| (name.to_vec(), digest))
}

/// `SUM  NAME`, `SUM *NAME`, `SUM NAME`.
fn parse_plain<'a>(line: &'a [u8], separator: &mut Separator) -> Option<(&'a [u8], ListedDigest)> {
    let (digits, rest) = line.split_at_checked(DIGEST_LETTERS)?;
    let digest = ListedDigest::from_hexadecimal(digits)?;
    let rest = rest.strip_prefix(b" ").or_else(|| rest.strip_prefix(b"\t"))?;
    let marked = rest.strip_prefix(b" ").or_else(|| rest.strip_prefix(b"*")).filter(|name| !name.is_empty());
    match (marked, *separator) {
        (Some(name), Separator::Unknown | Separator::Standard) => {
            *separator = Separator::Standard;
            Some((name, digest))
        }
        (_, Separator::OneSpace) => Some((rest, digest)),
        (None, Separator::Unknown) => {
            *separator = Separator::OneSpace;
            Some((rest, digest))
        }
        (None, Separator::Standard) => None,
    }
}

/// What follows `SHA256` in `SHA256 (NAME) = SUM`.
fn parse_tagged(rest: &[u8]) -> Option<(&[u8], ListedDigest)> {
    let rest = rest.strip_prefix(b" ").unwrap_or(rest).strip_prefix(b"(")?;
    // A name may have brackets of its own; a sum has none.
    let end = rest.iter().rposition(|byte| *byte == b')')?;
    let (name, rest) = rest.split_at_checked(end)?;
    let digits = trim_blanks(trim_blanks(rest.strip_prefix(b")")?).strip_prefix(b"=")?);
    Some((name, ListedDigest::from_hexadecimal(digits)?))
}

fn trim_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    bytes.get(blanks..).unwrap_or_default()
}

/// `\n`, `\r` and `\\` are what they stand for; another escape is none.
fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut unescaped = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        unescaped.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(unescaped)
}

/// The same file, without `./` in front.
fn without_dots(name: &[u8]) -> &[u8] {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./") {
        let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
        name = rest.get(slashes..).unwrap_or_default();
    }
    name
}

/// A name as a message shows it: nothing in it can be taken for something else.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().flat_map(char::escape_default).take(SHOWN_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const TWO: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn digest(text: &str) -> ListedDigest {
        ListedDigest::from_hexadecimal(text.as_bytes()).unwrap()
    }

    /// What is listed for `name`.
    fn listed(manifest: &str, name: &str) -> Option<String> {
        let manifest = ChecksumManifest::parse(manifest.as_bytes()).ok()?;
        manifest.digest_of(name).unwrap().map(|digest| digest.to_string())
    }

    #[test]
    fn every_form_that_sha256sum_takes_is_taken() {
        let capitals = ONE.to_uppercase();
        let table = [
            format!("{ONE}  image.raw\n"),
            format!("{ONE} *image.raw\n"),
            format!("{ONE}\t image.raw\n"),
            format!("{ONE} image.raw\n"),
            format!("{ONE}  image.raw"),
            format!("{ONE}  image.raw\r\n"),
            format!("{ONE}  image.raw\r"),
            format!("{capitals}  image.raw\n"),
            format!("{ONE}  ./image.raw\n"),
            format!("{ONE} *.//./image.raw\n"),
            format!("  \t{ONE}  image.raw\n"),
            format!("SHA256 (image.raw) = {ONE}\n"),
            format!("SHA256(image.raw)= {ONE}\n"),
            format!("SHA256 (./image.raw) = {capitals}\r\n"),
            format!("\\{ONE}  image.raw\n"),
            format!("# {TWO}  image.raw\n\n\r\n{TWO}  other.raw\n{ONE}  image.raw\n"),
            format!("#\n{TWO}  dir/image.raw\n{TWO}  image.raw.xz\nnonsense\n{ONE}  image.raw\n"),
            format!("SHA512 (image.raw) = {TWO}{TWO}\n{ONE}  image.raw\n"),
            format!("{TWO} first\n{ONE} image.raw\n"),
        ];
        for manifest in table {
            assert_eq!(listed(&manifest, "image.raw").as_deref(), Some(ONE), "{manifest:?}");
        }
        for name in ["two\nlines", "back\\slash", "return\r"] {
            let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
            for manifest in [format!("\\{ONE}  {escaped}\n"), format!("\\SHA256 ({escaped}) = {ONE}\n")] {
                assert_eq!(listed(&manifest, name).as_deref(), Some(ONE), "{manifest:?}");
            }
        }
        assert_eq!(listed(&format!("{ONE}  a) = b\n"), "a) = b").as_deref(), Some(ONE));
        assert_eq!(listed(&format!("SHA256 (a) = b) = {ONE}\n"), "a) = b").as_deref(), Some(ONE));
    }

    #[test]
    fn whatever_else_a_line_says_lists_nothing() {
        let short = &ONE[1..];
        let table = [
            format!("{short}  image.raw\n"),
            format!("{short}g  image.raw\n"),
            format!("{ONE}0  image.raw\n"),
            format!("{ONE}image.raw\n"),
            format!("{ONE}\n"),
            format!("{ONE}  \n"),
            format!("{ONE}  ./\n"),
            format!("SHA256 (image.raw) = {ONE} \n"),
            format!("SHA256 (image.raw) {ONE}\n"),
            format!("SHA256 image.raw = {ONE}\n"),
            format!("SHA256  (image.raw) = {ONE}\n"),
            format!("SHA1 (image.raw) = {ONE}\n"),
            format!("sha256 (image.raw) = {ONE}\n"),
            format!("\\{ONE}  image.raw\\x\n"),
            format!("\\{ONE}  image.raw\\\n"),
            format!("#{ONE}  image.raw\n"),
            format!("{ONE}  image.raw\0\n"),
            // The first line decides that names begin behind a mark.
            format!("{TWO}  other\n{ONE} image.raw\n"),
            // And this one that they do not: the name has a blank in front.
            format!("{TWO} other\n{ONE}  image.raw\n"),
        ];
        for manifest in table {
            assert_eq!(listed(&manifest, "image.raw"), None, "{manifest:?}");
        }
    }

    #[test]
    fn what_has_no_sums_is_no_manifest() {
        assert_eq!(ChecksumManifest::parse(b""), Err(ManifestError::Empty));
        let error = ChecksumManifest::parse(b"# nothing\n\n<html>\n</html>\n").unwrap_err();
        assert_eq!(error, ManifestError::NoSums { lines: NotUnderstood { count: 2, first: 3 } });
        assert!(error.to_string().ends_with("none (2 lines are no SHA-256 sums, the first of them line 3)"));
        let found = MAXIMUM_MANIFEST + 1;
        assert_eq!(
            ChecksumManifest::parse(&vec![b'#'; found]),
            Err(ManifestError::TooLarge { limit: MAXIMUM_MANIFEST, found })
        );
    }

    #[test]
    fn lines_about_one_name_agree_or_are_an_error() {
        let agreeing = format!("{ONE}  a\n{TWO}  b\n{}  ./a\nSHA256 (a) = {ONE}\n", ONE.to_uppercase());
        let manifest = ChecksumManifest::parse(agreeing.as_bytes()).unwrap();
        assert_eq!(manifest.len(), 4);
        assert_eq!(manifest.digest_of("a"), Ok(Some(digest(ONE))));
        assert_eq!(manifest.digest_of("c"), Ok(None));
        assert_eq!(manifest.examples(), "'a', 'b', 'a', …");

        let contradiction = format!("{ONE}  a\n{ONE}  a\n{TWO} *./a\n");
        let manifest = ChecksumManifest::parse(contradiction.as_bytes()).unwrap();
        let expected =
            Contradiction { name: "a".to_owned(), first: (1, digest(ONE)), second: (3, digest(TWO)) };
        assert_eq!(manifest.digest_of("a"), Err(expected));
    }

    #[test]
    fn names_that_are_no_text_are_names() {
        let manifest = [ONE.as_bytes(), b"  a\xff\x1b[2J\n"].concat();
        let manifest = ChecksumManifest::parse(&manifest).unwrap();
        assert_eq!(manifest.examples(), "'a\\u{fffd}\\u{1b}[2J'");
    }

    /// The peer: what it says of files that are there is what we say of their names.
    #[test]
    fn sha256sum_takes_what_we_take() {
        use std::process::{Command, Stdio};
        let directory = tempfile::tempdir().unwrap();
        for name in ["image.raw", "a b", "back\\slash", " blank", "*star"] {
            std::fs::write(directory.path().join(name), "abc").unwrap();
        }
        let table = [
            (format!("{ONE}  image.raw\n"), "image.raw"),
            (format!("{ONE} *image.raw\r\n"), "image.raw"),
            (format!("{ONE} image.raw"), "image.raw"),
            (format!(" {}\t*./image.raw", ONE.to_uppercase()), "image.raw"),
            (format!("SHA256(image.raw)= {ONE}\n"), "image.raw"),
            (format!("SHA256 (image.raw)\t=\t{ONE}\n"), "image.raw"),
            (format!("SHA256 (image.raw) = {ONE} \n"), "image.raw"),
            (format!("SHA256  (image.raw) = {ONE}\n"), "image.raw"),
            (format!("SHA256 (image.raw) = {TWO}\n"), "image.raw"),
            (format!("\\{ONE}  back\\\\slash\n"), "back\\slash"),
            (format!("\\{ONE}  back\\slash\n"), "back\\slash"),
            (format!("{ONE}  back\\slash\n"), "back\\slash"),
            (format!("{ONE}   blank\n"), " blank"),
            (format!("{ONE} **star\n"), "*star"),
            (format!("{ONE}  a b\n"), "a b"),
            (format!("{ONE} a b\n{ONE}  blank\n"), " blank"),
            (format!("{ONE}  a b\n{ONE} image.raw\n"), "image.raw"),
            (format!("# {ONE}  image.raw\n"), "image.raw"),
            (format!("{}  image.raw\n", &ONE[1..]), "image.raw"),
        ];
        for (manifest, name) in table {
            let mut child = Command::new("sha256sum")
                .args(["--check", "--status", "--strict"])
                .current_dir(directory.path())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), manifest.as_bytes()).unwrap();
            let taken = child.wait().unwrap().success();
            assert_eq!(listed(&manifest, name).as_deref() == Some(ONE), taken, "{manifest:?}");
        }
    }
}
