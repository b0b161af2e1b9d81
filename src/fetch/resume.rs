//! Whether an answer goes on where a transfer broke off.
//!
//! Only the very next byte of the very same version is taken. Everything else means that the file begins anew, which
//! costs time and never a wrong byte: a version is told by its size and by what the server says of it, and the last word
//! on the bytes is that of whoever verifies them.

use reqwest::header::CONTENT_RANGE;

use crate::format::http_header::ContentRange;
use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::client::{Answer, Asked, shown};
use super::error::FetchError;
use super::range::{Identity, Validator};

/// The version of a file that a transfer can go on with after it broke off.
#[derive(Debug, Clone)]
pub(super) struct Resumable {
    total: u64,
    validator: Validator,
}

impl Resumable {
    /// The version in an answer to a request for the whole, where it can be told: the size is known beforehand, and
    /// there is a validator that counts.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        let validator = Validator::resuming(&answer.head.headers)?;
        Some(Self { total: answer.head.length?, validator })
    }

    /// What to ask for when the bytes before `offset` are there.
    pub(super) fn ask_from(&self, offset: u64) -> Asked {
        Asked::From(ByteOffset::new(offset), self.validator.clone())
    }

    /// Checks that an answer with another status than 200 holds everything from `offset` on, of this version.
    ///
    /// # Errors
    ///
    /// [`FetchError::WrongRange`] for any other part, [`FetchError::SourceChanged`] for another version, and
    /// [`FetchError::UnexpectedStatus`].
    pub(super) fn check(&self, answer: &Answer, offset: u64) -> Result<(), FetchError> {
        let start = ByteOffset::new(offset);
        let rest = ByteLength::new(self.total.saturating_sub(offset));
        let wrong = |answered: String| {
            let asked = Extent::new(start, rest).unwrap_or_else(|| Extent::from_beginning(ByteLength::ZERO));
            FetchError::WrongRange { asked, answered }
        };
        let header = answer.head.headers.get(CONTENT_RANGE);
        match answer.head.status {
            206 => (),
            416 => return Err(wrong("HTTP 416".to_owned())),
            status => return Err(FetchError::UnexpectedStatus { url: answer.url.clone(), status }),
        }
        let Some(range) = header.and_then(|value| value.to_str().ok()).and_then(ContentRange::parse) else {
            return Err(wrong(header.map_or_else(|| "no Content-Range".to_owned(), shown)));
        };
        let found = Validator::of(&answer.head.headers);
        if range.total() != self.total || found.as_ref() != Some(&self.validator) {
            let identity = |total, validator| Box::new(Identity { total: ByteLength::new(total), validator });
            return Err(FetchError::SourceChanged {
                url: answer.url.clone(),
                before: identity(self.total, Some(self.validator.clone())),
                after: identity(range.total(), found),
            });
        }
        if range.first() != offset || range.end() != self.total {
            return Err(wrong(header.map(shown).unwrap_or_default()));
        }
        match answer.head.length {
            Some(length) if length == range.length() => Ok(()),
            Some(length) => Err(wrong(format!("{length} bytes for the last {}", range.length()))),
            None => Err(wrong("no length".to_owned())),
        }
    }
}
