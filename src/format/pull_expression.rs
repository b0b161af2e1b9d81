//! What `rd.systemd.pull=` says: `OPTIONS:NAME:URL` (systemd-import-generator(8), with options of ours).
//!
//! systemd warns of what it does not understand and goes on without it. Here every mistake is an error: what was meant by
//! `verify=sginature` nobody knows.

use std::fmt;
use std::str::FromStr;

use super::image_class::{ImageClass, ImageClassError};
use super::image_name::{is_plain_name, without_image_suffixes, without_tree_suffixes};
use super::verification_mode::{VerificationMode, VerificationModeError};

/// The longest expression, in bytes: more than any kernel command line has room for.
pub const MAX_PULL_EXPRESSION: usize = 16 << 10;

/// What is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullKind {
    /// A disk image.
    Raw,
    /// A tar, which is unpacked.
    Tar,
}

impl PullKind {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Tar => "tar",
        }
    }
}

/// One pull at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullExpression {
    /// What is pulled.
    pub kind: PullKind,
    /// What it is for.
    pub class: ImageClass,
    /// Whether the file that is placed is to be read-only; the devices of an image always are.
    pub read_only: bool,
    /// How the download is verified as a whole.
    pub verify: VerificationMode,
    /// Whether block devices are made of it.
    pub block_device: bool,
    /// Whether it lies where the machine was booted from.
    pub boot_origin: bool,
    /// In memory, or on a disk; `None` for what is usual: in memory in an initrd.
    pub runtime: Option<bool>,
    /// The name of a policy that the image must satisfy as well, without `@`.
    pub image_policy: Option<String>,
    /// The GPT label of the partition where downloads are kept.
    pub cache: Option<String>,
    /// The local name, without a suffix.
    pub name: String,
    /// From where: a URL, or with [`Self::boot_origin`] a path relative to where the machine was booted from.
    pub remote: String,
}

/// The text is no pull expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullExpressionError {
    /// Fewer than two colons.
    #[error("expected OPTIONS:NAME:URL, found '{}'", .found.escape_debug())]
    Parts {
        /// The text.
        found: String,
    },
    /// More text than any command line has.
    #[error("expected at most {MAX_PULL_EXPRESSION} bytes, found {found}")]
    TooLong {
        /// How many there are.
        found: usize,
    },
    /// A word that is no option.
    #[error(
        "expected the options raw, tar, machine, portable, sysext, confext, ro, rw, blockdev, bootorigin, verify=, \
         runtime=, image-policy=, cache=, found '{}'",
        .found.escape_debug()
    )]
    Option {
        /// The word.
        found: String,
    },
    /// No `raw` or `tar`.
    #[error("expected one of the options 'raw' and 'tar', found neither")]
    NoKind,
    /// No class.
    #[error("expected one of the options 'machine', 'portable', 'sysext' and 'confext', found none")]
    NoClass,
    /// Two options that contradict each other.
    #[error("expected one of '{first}' and '{second}', found both")]
    Contradiction {
        /// One of them.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Options that do not go together.
    #[error("expected '{option}' {why}")]
    Misplaced {
        /// The option.
        option: &'static str,
        /// With what it goes.
        why: &'static str,
    },
    /// No way to verify.
    #[error("reading 'verify='")]
    Verify(#[source] VerificationModeError),
    /// Neither yes nor no.
    #[error("reading 'runtime=': expected 'yes' or 'no', found '{}'", .found.escape_debug())]
    Runtime {
        /// The value.
        found: String,
    },
    /// No name of a policy.
    #[error("reading 'image-policy=': expected the name of a policy, of letters, digits, '-', '_' and '.', found '{}'", .found.escape_debug())]
    Policy {
        /// The value.
        found: String,
    },
    /// No label of a partition.
    #[error(
        "reading 'cache=': expected the label of a partition, of 1 to 36 letters, digits, '-', '_', '.' and '+', found '{}'",
        .found.escape_debug()
    )]
    Cache {
        /// The value.
        found: String,
    },
    /// No name, or none that can be a file.
    #[error("expected a name without '/', control characters, and a dot in front, found '{}'", .found.escape_debug())]
    Name {
        /// The name.
        found: String,
    },
    /// The URL has no last component that could be a name.
    #[error("expected a NAME, because '{}' has no file name", .remote.escape_debug())]
    NoName {
        /// The URL.
        remote: String,
    },
    /// Not a URL of a kind that is taken.
    #[error("expected an http:, https: or file: URL in ASCII without blanks, found '{}'", .found.escape_debug())]
    Url {
        /// The text.
        found: String,
    },
    /// Not a plain relative path.
    #[error(
        "expected a relative path of letters, digits, '-', '_', '.', '+', '~', '@' and '/', without '..' and '//', as \
         bootorigin says, found '{}'",
        .found.escape_debug()
    )]
    RelativePath {
        /// The text.
        found: String,
    },
}

impl From<ImageClassError> for PullExpressionError {
    fn from(error: ImageClassError) -> Self {
        Self::Option { found: error.found }
    }
}

/// The options as they are read.
#[derive(Debug, Default)]
struct Options {
    kind: Option<PullKind>,
    class: Option<ImageClass>,
    read_only: Option<bool>,
    verify: VerificationMode,
    block_device: bool,
    boot_origin: bool,
    runtime: Option<bool>,
    image_policy: Option<String>,
    cache: Option<String>,
}

impl Options {
    fn read(text: &str) -> Result<Self, PullExpressionError> {
        let mut options = Self::default();
        // As systemd has it, empty words do no harm.
        for word in text.split(',').filter(|word| !word.is_empty()) {
            options.take(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Result<(), PullExpressionError> {
        let kind = match word {
            "raw" => Some(PullKind::Raw),
            "tar" => Some(PullKind::Tar),
            _ => None,
        };
        if let Some(kind) = kind {
            return set(&mut self.kind, kind, PullKind::as_str);
        }
        match word.split_once('=') {
            None => match word {
                "ro" => set(&mut self.read_only, true, access_word)?,
                "rw" => set(&mut self.read_only, false, access_word)?,
                "blockdev" => self.block_device = true,
                "bootorigin" => self.boot_origin = true,
                class => set(&mut self.class, class.parse()?, ImageClass::as_str)?,
            },
            Some(("verify", value)) => self.verify = value.parse().map_err(PullExpressionError::Verify)?,
            Some(("runtime", value)) => {
                let found = || PullExpressionError::Runtime { found: value.to_owned() };
                self.runtime = Some(boolean(value).ok_or_else(found)?);
            }
            Some(("image-policy", value)) => {
                let name = value.strip_prefix('@').unwrap_or(value);
                let is_name = !name.is_empty() && !name.starts_with('.') && is_made_of(name, "-_.");
                if !is_name {
                    return Err(PullExpressionError::Policy { found: value.to_owned() });
                }
                self.image_policy = Some(name.to_owned());
            }
            Some(("cache", value)) => {
                // A name in the table has 36 code units of UTF-16 (UEFI 2.10, 5.3.3).
                if !(1..=36).contains(&value.len()) || value.starts_with('.') || !is_made_of(value, "-_.+") {
                    return Err(PullExpressionError::Cache { found: value.to_owned() });
                }
                self.cache = Some(value.to_owned());
            }
            Some(_) => return Err(PullExpressionError::Option { found: word.to_owned() }),
        }
        Ok(())
    }

    /// Refuses what does not go together.
    fn check(&self, kind: PullKind) -> Result<(), PullExpressionError> {
        let misplaced = |option, why| Err(PullExpressionError::Misplaced { option, why });
        if self.block_device && kind == PullKind::Tar {
            return misplaced("blockdev", "with 'raw': a tar becomes a directory");
        }
        if self.cache.is_some() && kind == PullKind::Tar {
            return misplaced("cache=", "with 'raw': a tar is unpacked, and not kept as it came");
        }
        if self.block_device && self.runtime == Some(false) {
            return misplaced(
                "blockdev",
                "without 'runtime=no': on a disk the image could change after it was verified",
            );
        }
        if self.block_device && self.read_only == Some(false) {
            return misplaced("blockdev", "without 'rw': what was verified cannot be written to");
        }
        if self.read_only == Some(true) && kind == PullKind::Tar {
            return misplaced("ro", "with 'raw': a directory is not made read-only (mount it read-only)");
        }
        Ok(())
    }
}

/// Sets what was not set, or to the same.
fn set<T: Copy + PartialEq>(
    place: &mut Option<T>,
    value: T,
    word: impl Fn(T) -> &'static str,
) -> Result<(), PullExpressionError> {
    match place.replace(value) {
        Some(other) if other != value => {
            Err(PullExpressionError::Contradiction { first: word(other), second: word(value) })
        }
        _ => Ok(()),
    }
}

const fn access_word(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

/// As systemd reads booleans.
fn boolean(text: &str) -> Option<bool> {
    let is = |words: [&str; 5]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if text == "1" || is(["yes", "y", "true", "t", "on"]) {
        Some(true)
    } else if text == "0" || is(["no", "n", "false", "f", "off"]) {
        Some(false)
    } else {
        None
    }
}

fn is_made_of(text: &str, punctuation: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || punctuation.contains(c))
}

/// Whether a text is a path that stays on the server, and below the directory that it is relative to.
#[must_use]
pub fn is_plain_relative_path(path: &str) -> bool {
    is_made_of(path, "-_.+~@/") && path.split('/').all(|component| !matches!(component, "" | "." | ".."))
}

fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let starts = match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => rest.starts_with("//") && rest.len() > 2,
        "file" => rest.starts_with('/'),
        _ => false,
    };
    starts && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl FromStr for PullExpression {
    type Err = PullExpressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_PULL_EXPRESSION {
            return Err(PullExpressionError::TooLong { found: text.len() });
        }
        let mut parts = text.splitn(3, ':');
        let (Some(words), Some(name), Some(remote)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(PullExpressionError::Parts { found: text.to_owned() });
        };
        let options = Options::read(words)?;
        let kind = options.kind.ok_or(PullExpressionError::NoKind)?;
        let class = options.class.ok_or(PullExpressionError::NoClass)?;
        options.check(kind)?;
        if options.boot_origin {
            if !is_plain_relative_path(remote) {
                return Err(PullExpressionError::RelativePath { found: remote.to_owned() });
            }
        } else if !is_url(remote) {
            return Err(PullExpressionError::Url { found: remote.to_owned() });
        }
        let name = if name.is_empty() { name_of(remote, kind)? } else { name };
        if !is_plain_name(name) {
            return Err(PullExpressionError::Name { found: name.to_owned() });
        }
        Ok(Self {
            kind,
            class,
            read_only: options.read_only.unwrap_or(false),
            verify: options.verify,
            block_device: options.block_device,
            boot_origin: options.boot_origin,
            runtime: options.runtime,
            image_policy: options.image_policy,
            cache: options.cache,
            name: name.to_owned(),
            remote: remote.to_owned(),
        })
    }
}

/// The name that follows from a URL or path: its last component without suffixes. One with escapes or a colon gives none: what it
/// stands for is better said.
fn name_of(remote: &str, kind: PullKind) -> Result<&str, PullExpressionError> {
    let path = remote.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest.split_once('/').map_or("", |(_, p)| p));
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = match kind {
        PullKind::Raw => without_image_suffixes(file),
        PullKind::Tar => without_tree_suffixes(file),
    };
    if name.is_empty() || name.contains(['%', ':']) {
        return Err(PullExpressionError::NoName { remote: remote.to_owned() });
    }
    Ok(name)
}

impl fmt::Display for PullExpression {
    /// As it would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.kind.as_str(), self.class)?;
        if self.read_only {
            f.write_str(",ro")?;
        }
        match self.verify {
            VerificationMode::Digest(digest) => write!(f, ",verify={digest}")?,
            mode => write!(f, ",verify={mode}")?,
        }
        for (is, word) in [(self.block_device, "blockdev"), (self.boot_origin, "bootorigin")] {
            if is {
                write!(f, ",{word}")?;
            }
        }
        if let Some(runtime) = self.runtime {
            write!(f, ",runtime={}", if runtime { "yes" } else { "no" })?;
        }
        if let Some(policy) = &self.image_policy {
            write!(f, ",image-policy={policy}")?;
        }
        if let Some(cache) = &self.cache {
            write!(f, ",cache={cache}")?;
        }
        write!(f, ":{}:{}", self.name, self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> PullExpression {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    const SEED: &str = "raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw";

    #[test]
    fn the_seeds_expression_is_read() {
        let expression = read(SEED);
        assert_eq!((expression.kind, expression.class), (PullKind::Raw, ImageClass::Machine));
        assert_eq!(expression.verify, VerificationMode::No);
        assert!(expression.block_device && !expression.boot_origin && !expression.read_only);
        assert_eq!(expression.runtime, None);
        assert_eq!(
            (expression.name.as_str(), expression.remote.as_str()),
            ("image", "https://192.168.100.1:8081/image.raw")
        );
        assert_eq!(expression.to_string(), SEED);
    }

    #[test]
    fn every_option_is_read_and_written() {
        let digest = "a".repeat(64);
        for text in [
            format!(
                "raw,sysext,ro,verify={digest},runtime=no,image-policy=verified-boot,cache=CACHE:a:http://h/x"
            ),
            "tar,machine,verify=signature,bootorigin,runtime=yes:tree:sub/tree.tar.zst".to_owned(),
            "raw,confext,verify=checksum:c:file:///srv/c.raw".to_owned(),
        ] {
            let expression = read(&text);
            assert_eq!(expression.to_string(), text);
            assert_eq!(read(&expression.to_string()), expression);
        }
        assert_eq!(read("machine,raw:x:HTTPS://h/x").verify, VerificationMode::Signature, "the default");
        assert_eq!(read("raw,,machine,raw:x:http://h/x:y").remote, "http://h/x:y");
        assert_eq!(read("raw,machine,image-policy=@x:x:http://h/x").image_policy.as_deref(), Some("x"));
    }

    #[test]
    fn a_name_follows_from_the_url() {
        for (text, name) in [
            ("raw,machine::http://h/a/root.raw.xz?x=/y.raw", "root"),
            ("tar,machine::http://h/debian-12.tar.gz", "debian-12"),
            ("raw,machine,bootorigin::a/b.raw", "b"),
            ("raw,machine::file:/srv/c.img", "c"),
        ] {
            assert_eq!(read(text).name, name, "{text}");
        }
        for text in [
            "raw,machine::http://h",
            "raw,machine::http://h/",
            "raw,machine::http://h/.raw",
            "raw,machine::http://h/a%2f.raw",
            "raw,machine::http://h/a:b.raw",
        ] {
            assert!(
                matches!(text.parse::<PullExpression>(), Err(PullExpressionError::NoName { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn every_mistake_is_an_error_by_name() {
        use PullExpressionError as E;
        type Check = fn(&E) -> bool;
        let url = "http://h/x.raw";
        let long = "x".repeat(MAX_PULL_EXPRESSION + 1);
        let cases: &[(&str, Check)] = &[
            ("", |e| matches!(e, E::Parts { .. })),
            ("raw,machine:image", |e| matches!(e, E::Parts { .. })),
            (&long, |e| matches!(e, E::TooLong { .. })),
            ("raw,machine,verify=sginature:x:", |e| matches!(e, E::Verify(_))),
            ("raw,machine,verify=:x:", |e| matches!(e, E::Verify(_))),
            ("raw,machine,foo:x:", |e| matches!(e, E::Option { .. })),
            ("raw,machine,foo=bar:x:", |e| matches!(e, E::Option { .. })),
            ("Raw,machine:x:", |e| matches!(e, E::Option { .. })),
            ("raw,machine,blockdev=yes:x:", |e| matches!(e, E::Option { .. })),
            ("oci,machine:x:", |e| matches!(e, E::Option { .. })),
            ("machine:x:", |e| matches!(e, E::NoKind)),
            ("raw:x:", |e| matches!(e, E::NoClass)),
            ("raw,tar,machine:x:", |e| matches!(e, E::Contradiction { .. })),
            ("raw,machine,sysext:x:", |e| matches!(e, E::Contradiction { .. })),
            ("raw,machine,ro,rw:x:", |e| matches!(e, E::Contradiction { .. })),
            ("tar,machine,blockdev:x:", |e| matches!(e, E::Misplaced { .. })),
            ("tar,machine,cache=C:x:", |e| matches!(e, E::Misplaced { .. })),
            ("tar,machine,ro:x:", |e| matches!(e, E::Misplaced { .. })),
            ("raw,machine,blockdev,runtime=no:x:", |e| matches!(e, E::Misplaced { .. })),
            ("raw,machine,blockdev,rw:x:", |e| matches!(e, E::Misplaced { .. })),
            ("raw,machine,runtime=maybe:x:", |e| matches!(e, E::Runtime { .. })),
            ("raw,machine,image-policy=root=signed:x:", |e| matches!(e, E::Policy { .. })),
            ("raw,machine,image-policy=:x:", |e| matches!(e, E::Policy { .. })),
            ("raw,machine,cache=../x:x:", |e| matches!(e, E::Cache { .. })),
            ("raw,machine,cache=:x:", |e| matches!(e, E::Cache { .. })),
            ("raw,machine:../x:", |e| matches!(e, E::Name { .. })),
            ("raw,machine:.x:", |e| matches!(e, E::Name { .. })),
        ];
        for (text, check) in cases {
            let text = if text.ends_with("x:") { format!("{text}{url}") } else { (*text).to_owned() };
            let error = text.parse::<PullExpression>().unwrap_err();
            assert!(check(&error), "{text:.60}: {error:?}");
        }
    }

    #[test]
    fn a_remote_is_a_url_or_a_plain_relative_path() {
        for remote in [
            "",
            "x.raw",
            "ftp://h/x",
            "http:/h/x",
            "http://",
            "https:",
            "file:x",
            "http://h/a b",
            "http://h/\u{e9}",
            "-",
        ] {
            let text = format!("raw,machine:x:{remote}");
            assert!(matches!(text.parse::<PullExpression>(), Err(PullExpressionError::Url { .. })), "{text}");
        }
        for remote in [
            "",
            "/x",
            "../x",
            "a/../x",
            "a//b",
            "a/",
            "./a",
            "http://h/x",
            "//h/x",
            "a?b",
            "a#b",
            "a%2e",
            "a\\b",
            "a b",
            "a:b",
        ] {
            let text = format!("raw,machine,bootorigin:x:{remote}");
            assert!(
                matches!(text.parse::<PullExpression>(), Err(PullExpressionError::RelativePath { .. })),
                "{text}"
            );
        }
    }
}
