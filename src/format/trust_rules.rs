//! The files of `trust.d`: what is refused whoever vouches for it, and what certificates may sign.
//!
//! A line each, `#` comments, and nothing that is not understood:
//!
//! ```text
//! revoke-root-hash = HEX ["REASON"]
//! revoke-certificate = FINGERPRINT ["REASON"]
//! revoke-image = SHA256 ["REASON"]
//! limit-certificate = FINGERPRINT PURPOSE... ["REASON"]
//! ```
//!
//! A purpose is `CLASS`, `CLASS:NAME-PATTERN` or `*:NAME-PATTERN`. Every line takes something away and none gives anything,
//! so that the order of lines and files means nothing.

use std::fmt;
use std::str::FromStr;

use super::checksum_manifest::ListedDigest;
use super::image_class::{ImageClass, ImageClassError};
use super::name_pattern::{NamePattern, NamePatternError};
use super::root_hash::{RootHash, RootHashError};
use super::written_line::{BLANK, WrittenLineError, content, reason, shown};

/// The directives, for the message about one that is none.
const DIRECTIVES: &str =
    "'revoke-root-hash', 'revoke-certificate', 'revoke-image' or 'limit-certificate' and a '='";

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRule {
    /// What it is about.
    pub subject: TrustSubject,
    /// Why, in the words of whoever wrote it: one line without control characters.
    pub reason: Option<String>,
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustSubject {
    /// Data with this root hash is refused.
    RevokedRootHash(RootHash),
    /// Signatures by the certificate with this SHA-256 do not count.
    RevokedCertificate(ListedDigest),
    /// A download with this SHA-256 is refused.
    RevokedImage(ListedDigest),
    /// Signatures by the certificate with this SHA-256 count for one of these purposes alone; at least one.
    LimitedCertificate(ListedDigest, Vec<Purpose>),
}

/// What a certificate may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// Images of this class; `None` for any.
    pub class: Option<ImageClass>,
    /// Images whose name matches; `None` for any.
    pub name: Option<NamePattern>,
}

impl Purpose {
    /// Whether an image of this class and name is one. What is not known is no match.
    #[must_use]
    pub fn covers(&self, class: Option<ImageClass>, name: Option<&str>) -> bool {
        let class_fits = self.class.is_none_or(|wanted| class == Some(wanted));
        class_fits && self.name.as_ref().is_none_or(|pattern| name.is_some_and(|name| pattern.matches(name)))
    }
}

/// The text is no purpose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurposeError {
    /// What stands in front of the colon is no class.
    #[error("{0}; '*' stands for every class")]
    Class(#[source] ImageClassError),
    /// What stands behind the colon is no pattern.
    #[error(transparent)]
    Name(#[from] NamePatternError),
    /// Every image has it.
    #[error("expected a class, or a name pattern that not every name matches: this limits nothing")]
    LimitsNothing,
}

impl FromStr for Purpose {
    type Err = PurposeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (class, name) = text.split_once(':').map_or((text, None), |(class, name)| (class, Some(name)));
        let class = match class {
            "*" => None,
            word => Some(word.parse().map_err(PurposeError::Class)?),
        };
        let name: Option<NamePattern> = name.map(str::parse).transpose()?;
        let name = name.filter(|pattern| !pattern.matches_everything());
        if class.is_none() && name.is_none() {
            return Err(PurposeError::LimitsNothing);
        }
        Ok(Self { class, name })
    }
}

impl fmt::Display for Purpose {
    /// As it is written in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.map_or("*", ImageClass::as_str))?;
        match &self.name {
            Some(name) => write!(f, ":{name}"),
            None => Ok(()),
        }
    }
}

/// A line that is not understood. None is passed over: what it was to refuse would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TrustRulesError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    #[source]
    pub problem: TrustLineError,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustLineError {
    /// It is no line that anybody reads.
    #[error(transparent)]
    Line(#[from] WrittenLineError),
    /// It is none of the directives.
    #[error("expected {DIRECTIVES}, found '{0}'")]
    Directive(String),
    /// What should be the SHA-256 of something is not.
    #[error("expected the SHA-256 of {what} in 64 hexadecimal digits, found '{found}'")]
    Digest {
        /// Of what.
        what: &'static str,
        /// What there is.
        found: String,
    },
    /// What should be a root hash is not.
    #[error("{problem}: '{found}'")]
    RootHash {
        /// Why.
        #[source]
        problem: RootHashError,
        /// What there is.
        found: String,
    },
    /// A certificate is limited to nothing.
    #[error(
        "expected a purpose behind the fingerprint (to take all trust away there is 'revoke-certificate')"
    )]
    NoPurpose,
    /// A purpose is none.
    #[error("purpose '{found}': {problem}")]
    Purpose {
        /// Why.
        #[source]
        problem: PurposeError,
        /// What there is.
        found: String,
    },
    /// There is a word too many.
    #[error("expected the end of the line or a reason in quotation marks, found '{0}'")]
    Word(String),
}

/// Reads all of a file.
///
/// # Errors
/// [`TrustRulesError`] for the first line that is not understood.
pub fn parse(text: &str) -> Result<Vec<TrustRule>, TrustRulesError> {
    let mut rules = Vec::new();
    for (number, line) in (1..).zip(text.split('\n')) {
        let rule = parse_line(line).map_err(|problem| TrustRulesError { line: number, problem })?;
        rules.extend(rule);
    }
    Ok(rules)
}

fn parse_line(line: &str) -> Result<Option<TrustRule>, TrustLineError> {
    let Some(line) = content(line)? else { return Ok(None) };
    let Some((directive, value)) = line.split_once('=') else {
        return Err(TrustLineError::Directive(shown(line)));
    };
    let directive = directive.trim_end_matches(BLANK);
    let (words, reason) = words_and_reason(value)?;
    let (first, others) = match words.split_first() {
        Some((first, others)) => (*first, others),
        None => ("", &[][..]),
    };
    let subject = match directive {
        "revoke-root-hash" => TrustSubject::RevokedRootHash(
            first.parse().map_err(|problem| TrustLineError::RootHash { problem, found: shown(first) })?,
        ),
        "revoke-certificate" => TrustSubject::RevokedCertificate(fingerprint(first)?),
        "revoke-image" => TrustSubject::RevokedImage(digest(first, "a download")?),
        "limit-certificate" => {
            let fingerprint = fingerprint(first)?;
            let purpose = |word: &&str| {
                word.parse().map_err(|problem| TrustLineError::Purpose { problem, found: shown(word) })
            };
            let purposes: Vec<Purpose> = others.iter().map(purpose).collect::<Result<_, _>>()?;
            if purposes.is_empty() {
                return Err(TrustLineError::NoPurpose);
            }
            let subject = TrustSubject::LimitedCertificate(fingerprint, purposes);
            return Ok(Some(TrustRule { subject, reason }));
        }
        other => return Err(TrustLineError::Directive(shown(other))),
    };
    match others.first() {
        Some(word) => Err(TrustLineError::Word(shown(word))),
        None => Ok(Some(TrustRule { subject, reason })),
    }
}

/// The words behind the '=', and the reason behind them. A word that begins with '#' begins a comment.
fn words_and_reason(value: &str) -> Result<(Vec<&str>, Option<String>), TrustLineError> {
    let mut words = Vec::new();
    let mut rest = value.trim_start_matches(BLANK);
    loop {
        if rest.is_empty() || rest.starts_with('#') {
            return Ok((words, None));
        }
        if rest.starts_with('"') {
            return Ok((words, Some(reason(rest)?)));
        }
        let end = rest.find(BLANK).unwrap_or(rest.len());
        let (word, behind) = rest.split_at_checked(end).unwrap_or((rest, ""));
        words.push(word);
        rest = behind.trim_start_matches(BLANK);
    }
}

/// The fingerprint of a certificate, also with a colon between each two digits, as `openssl x509 -fingerprint` prints it.
fn fingerprint(text: &str) -> Result<ListedDigest, TrustLineError> {
    let is_colon_form =
        text.len() == 95 && text.bytes().enumerate().all(|(at, byte)| (at % 3 == 2) == (byte == b':'));
    let plain = if is_colon_form { text.replace(':', "") } else { text.to_owned() };
    digest(&plain, "a certificate")
        .map_err(|_| TrustLineError::Digest { what: "a certificate", found: shown(text) })
}

fn digest(text: &str, what: &'static str) -> Result<ListedDigest, TrustLineError> {
    ListedDigest::from_hexadecimal(text.as_bytes())
        .ok_or_else(|| TrustLineError::Digest { what, found: shown(text) })
}

impl fmt::Display for TrustRule {
    /// The line that says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            TrustSubject::RevokedRootHash(hash) => write!(f, "revoke-root-hash = {hash}")?,
            TrustSubject::RevokedCertificate(fingerprint) => write!(f, "revoke-certificate = {fingerprint}")?,
            TrustSubject::RevokedImage(digest) => write!(f, "revoke-image = {digest}")?,
            TrustSubject::LimitedCertificate(fingerprint, purposes) => {
                write!(f, "limit-certificate = {fingerprint}")?;
                for purpose in purposes {
                    write!(f, " {purpose}")?;
                }
            }
        }
        match &self.reason {
            Some(reason) => write!(f, " \"{reason}\""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
