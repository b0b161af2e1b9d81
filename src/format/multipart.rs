//! The body of an answer that holds several parts of a file: `multipart/byteranges` (RFC 9110, 14.6; RFC 2046, 5.1).
//!
//! Where a part ends is told by its `Content-Range` alone, never by looking for a boundary in bytes that anybody may have
//! chosen. What is legal and no server sends, text before the first part or behind the last one, is refused.

use super::http_header::{ContentRange, MAXIMUM_LENGTH};

/// How long the boundary may be (RFC 2046, 5.1.1).
const MAXIMUM_BOUNDARY: usize = 70;
/// How many bytes the headers of one part may have, blank line included.
pub const MAXIMUM_HEADERS: usize = 1024;
/// How many parts are read.
pub const MAXIMUM_PARTS: usize = 64;

/// Why a body is not the parts of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// The type is another one, or has no boundary that could be one.
    #[error("expected the type multipart/byteranges with a boundary, found '{found}'")]
    Type {
        /// What the header says, its beginning, in ASCII.
        found: String,
    },
    /// There is no boundary where one has to be.
    #[error("expected a boundary at byte {offset} of the answer")]
    Boundary {
        /// Where, in bytes.
        offset: usize,
    },
    /// The headers of a part do not say which part it is, or more than that.
    #[error("expected one Content-Range among the headers of the part at byte {offset} of the answer")]
    Headers {
        /// Where, in bytes.
        offset: usize,
    },
    /// The body ends within a part.
    #[error("the part at byte {offset} of the answer is cut short")]
    Truncated {
        /// Where, in bytes.
        offset: usize,
    },
    /// There are more parts than anybody asked for.
    #[error("expected at most {MAXIMUM_PARTS} parts")]
    TooMany,
    /// Bytes follow the last part.
    #[error("expected nothing behind byte {offset} of the answer")]
    Trailing {
        /// Where, in bytes.
        offset: usize,
    },
}

/// One part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Where it lies in the file.
    pub range: ContentRange,
    /// Its bytes, as many as the range has.
    pub bytes: &'a [u8],
}

/// Whether the value of `Content-Type` says that parts follow.
#[must_use]
pub fn is_multipart(content_type: &str) -> bool {
    boundary(content_type).is_some()
}

/// Reads all of a body whose `Content-Type` is this one.
///
/// # Errors
/// [`MultipartError`].
pub fn parts<'a>(content_type: &str, body: &'a [u8]) -> Result<Vec<Part<'a>>, MultipartError> {
    let Some(boundary) = boundary(content_type) else {
        let shown = content_type.chars().take(MAXIMUM_BOUNDARY).flat_map(char::escape_default);
        return Err(MultipartError::Type { found: shown.collect() });
    };
    let mut reader = Reader { body, rest: body };
    // The line feed before a boundary belongs to it; before the first one it may be missing.
    let _ = reader.skip(b"\r\n");
    if !(reader.skip(b"--") && reader.skip(boundary.as_bytes()) && reader.skip(b"\r\n")) {
        return Err(MultipartError::Boundary { offset: reader.offset() });
    }
    let mut parts = Vec::new();
    loop {
        if parts.len() >= MAXIMUM_PARTS {
            return Err(MultipartError::TooMany);
        }
        let offset = reader.offset();
        let range = reader.headers().ok_or(MultipartError::Headers { offset })?;
        let length = usize::try_from(range.length()).ok();
        let bytes =
            length.and_then(|length| reader.take(length)).ok_or(MultipartError::Truncated { offset })?;
        parts.push(Part { range, bytes });
        let offset = reader.offset();
        if !(reader.skip(b"\r\n--") && reader.skip(boundary.as_bytes())) {
            return Err(MultipartError::Boundary { offset });
        }
        if reader.skip(b"--") {
            let _ = reader.skip(b"\r\n");
            let end = reader.offset();
            return if reader.rest.is_empty() {
                Ok(parts)
            } else {
                Err(MultipartError::Trailing { offset: end })
            };
        }
        if !reader.skip(b"\r\n") {
            return Err(MultipartError::Boundary { offset });
        }
    }
}

/// The boundary that a `Content-Type` names, in quotes or not.
fn boundary(content_type: &str) -> Option<&str> {
    if content_type.len() > MAXIMUM_LENGTH {
        return None;
    }
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/byteranges") {
        return None;
    }
    let mut found = parameters.split(';').filter_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value)
    });
    let (value, None) = (found.next()?, found.next()) else { return None };
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => value,
    };
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    let fits = (1..=MAXIMUM_BOUNDARY).contains(&value.len());
    (fits && value.bytes().all(usable)).then_some(value)
}

/// What is left of a body.
struct Reader<'a> {
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn offset(&self) -> usize {
        self.body.len().saturating_sub(self.rest.len())
    }

    /// Passes over these bytes, if they come next.
    fn skip(&mut self, bytes: &[u8]) -> bool {
        self.rest.strip_prefix(bytes).map(|rest| self.rest = rest).is_some()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The headers of a part, to the blank line; which part it is. It comes as it lies in the file.
    fn headers(&mut self) -> Option<ContentRange> {
        let window = self.rest.get(..MAXIMUM_HEADERS).unwrap_or(self.rest);
        let length = window.windows(4).position(|four| four == b"\r\n\r\n")?;
        let text = str::from_utf8(self.take(length)?).ok()?;
        self.skip(b"\r\n\r\n");
        let mut range = None;
        for line in text.split("\r\n") {
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-range") {
                let before = range.replace(ContentRange::parse(value.trim())?);
                before.is_none().then_some(())?;
            } else if !name.eq_ignore_ascii_case("content-type") {
                return None;
            }
        }
        range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/byteranges; boundary=xyz";

    fn found(body: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let parts = parts(TYPE, body).unwrap();
        parts.iter().map(|part| (part.range.first(), part.bytes.to_vec())).collect()
    }

    #[test]
    fn parts_are_as_long_as_they_say_whatever_is_in_them() {
        let body = b"\r\n--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes 3-11/40\r\n\r\n\r\n--xyz--\
            \r\n--xyz\r\ncontent-range:bytes 39-39/40\r\n\r\nb\r\n--xyz--\r\n";
        let expected = [(3, b"\r\n--xyz--".to_vec()), (39, b"b".to_vec())];
        assert_eq!(found(body), expected);
        // Neither the first nor the last line feed has to be there.
        assert_eq!(found(&body[2..body.len() - 2]), expected);
    }

    #[test]
    fn the_boundary_is_the_one_that_the_type_names() {
        for (text, expected) in [
            ("multipart/byteranges; boundary=a", Some("a")),
            ("Multipart/ByteRanges;boundary=\"a=b/c\"", Some("a=b/c")),
            ("multipart/byteranges; charset=x; BOUNDARY=00000000000000000001", Some("00000000000000000001")),
            ("multipart/byteranges; boundary=a; boundary=b", None),
            ("multipart/byteranges; boundary=", None),
            ("multipart/byteranges; boundary=\"a", None),
            ("multipart/byteranges; boundary=a b", None),
            ("multipart/byteranges", None),
            ("multipart/mixed; boundary=a", None),
            ("application/octet-stream", None),
        ] {
            assert_eq!(boundary(text), expected, "{text}");
            assert_eq!(is_multipart(text), expected.is_some());
        }
        let long = format!("multipart/byteranges; boundary={}", "a".repeat(MAXIMUM_BOUNDARY + 1));
        assert!(matches!(parts(&long, b""), Err(MultipartError::Type { .. })));
        let error = parts("a/b\u{202e}\n", b"").unwrap_err().to_string();
        assert!(error.ends_with("found 'a/b\\u{202e}\\n'"), "{error}");
    }

    #[test]
    fn what_is_no_list_of_parts_is_refused_by_name() {
        use MultipartError as Fault;
        let part = "Content-Range: bytes 0-0/9\r\n\r\na\r\n--xyz";
        for (body, expected) in [
            ("", Fault::Boundary { offset: 0 }),
            ("--xyz--\r\n", Fault::Boundary { offset: 5 }),
            ("text\r\n--xyz\r\n", Fault::Boundary { offset: 0 }),
            ("--xyz\r\n\r\n", Fault::Headers { offset: 7 }),
            ("--xyz\r\nContent-Type: a/b\r\n\r\na\r\n--xyz--", Fault::Headers { offset: 7 }),
            ("--xyz\r\nContent-Range: bytes 0-0/*\r\n\r\na\r\n--xyz--", Fault::Headers { offset: 7 }),
            (
                "--xyz\r\nContent-Range: bytes 0-0/9\r\nContent-Range: bytes 0-0/9\r\n\r\na",
                Fault::Headers { offset: 7 },
            ),
            (
                "--xyz\r\nContent-Encoding: gzip\r\nContent-Range: bytes 0-0/9\r\n\r\na",
                Fault::Headers { offset: 7 },
            ),
            ("--xyz\r\nContent-Range: bytes 0-4/9\r\n\r\na\r\n", Fault::Truncated { offset: 7 }),
            ("--xyz\r\nContent-Range: bytes 0-0/9\r\n\r\nab\r\n--xyz--", Fault::Boundary { offset: 38 }),
        ] {
            assert_eq!(parts(TYPE, body.as_bytes()), Err(expected), "{body:?}");
        }
        let whole = format!("--xyz\r\n{part}");
        assert!(matches!(parts(TYPE, whole.as_bytes()), Err(Fault::Boundary { .. })));
        let more = format!("{whole}--\r\nmore");
        assert!(matches!(parts(TYPE, more.as_bytes()), Err(Fault::Trailing { .. })));
        let many = format!("{whole}{}", format!("\r\n{part}").repeat(MAXIMUM_PARTS));
        assert_eq!(parts(TYPE, many.as_bytes()), Err(Fault::TooMany));
        let long = format!("--xyz\r\nContent-Type: {}\r\n{part}--", "a".repeat(MAXIMUM_HEADERS));
        assert_eq!(parts(TYPE, long.as_bytes()), Err(Fault::Headers { offset: 7 }));
    }
}
