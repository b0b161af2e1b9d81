//! What can go wrong between compressed bytes and their content.

use std::fmt;
use std::io;

use crate::format::compression::{Compression, MemberFault};

/// Why a file could not be decompressed. Offsets are of compressed bytes, from the beginning of the file.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// It was read on after it had failed or, for a proof, before its end.
    #[error("decompressing {format}: the end was not reached")]
    Unfinished {
        /// The format.
        format: Compression,
    },

    /// The compressed bytes could not be had.
    #[error("reading compressed bytes")]
    Input(#[source] io::Error),

    /// The bytes are not what a compressor wrote, or not all of them.
    #[error(
        "decompressing {format}: damaged before byte {offset}: {what}: get the file again from a source you trust"
    )]
    Damaged {
        /// The format.
        format: Compression,
        /// How far it was read.
        offset: u64,
        /// What the decoder says.
        what: String,
    },

    /// The file ends inside of a member.
    #[error(
        "decompressing {format}: cut short: expected more than {found} bytes, but the file ends there: get the whole \
         file"
    )]
    Truncated {
        /// The format.
        format: Compression,
        /// How long the file is.
        found: u64,
    },

    /// Behind the last member stands something else.
    #[error(
        "decompressing {format}: trailing bytes: expected the end of the file or another {format} member at byte \
         {offset}, found something else: get the file again, or compress it anew"
    )]
    TrailingBytes {
        /// The format.
        format: Compression,
        /// Where the last member ends.
        offset: u64,
    },

    /// The member at this offset is not decompressed.
    #[error("decompressing {format}: the member at byte {offset} cannot be used: {fault}")]
    Member {
        /// The format.
        format: Compression,
        /// Where it begins.
        offset: u64,
        /// Why.
        #[source]
        fault: MemberFault,
    },

    /// The decoder would need more memory than it may have.
    #[error(
        "decompressing {format}: its decoder needs more than the {limit} bytes of memory that are allowed: compress it \
         with a smaller dictionary"
    )]
    Memory {
        /// The format.
        format: Compression,
        /// How much it may have, in bytes.
        limit: u64,
    },

    /// The content is larger than it may be.
    #[error(
        "decompressing {format}: too large: expected at most {limit} bytes, found {} after {consumed} compressed \
         bytes: use a smaller image, or make more room",
        Found(.announced, .limit)
    )]
    TooLarge {
        /// The format.
        format: Compression,
        /// How much the content may be, in bytes.
        limit: u64,
        /// How many compressed bytes were read until that was known.
        consumed: u64,
        /// How large the content says that it is, where it does.
        announced: Option<u64>,
    },

    /// Members follow each other that hold nothing.
    #[error(
        "decompressing {format}: expected content, found {limit} members without any before byte {offset}: compress it \
         anew"
    )]
    Empty {
        /// The format.
        format: Compression,
        /// How far it was read.
        offset: u64,
        /// How many empty members may follow each other.
        limit: u32,
    },
}

impl DecompressError {
    /// This error as readers carry it; [`Self::from_io`] gets it back. What the source of the bytes said stays as it
    /// was.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Input(error) => error,
            other => io::Error::other(other),
        }
    }

    /// The error that a [`super::Decoder`] hid in an [`io::Error`] because it was read through [`io::Read`].
    ///
    /// # Errors
    ///
    /// The error unchanged where it came from the source of the bytes.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}

/// How large the content was found to be: what it says, or more than the limit.
struct Found<'a>(&'a Option<u64>, &'a u64);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(announced) => announced.fmt(f),
            None => write!(f, "more than {}", self.1),
        }
    }
}
