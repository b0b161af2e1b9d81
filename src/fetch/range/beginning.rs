//! The first request: for both ends of a file at once, so that the answer tells how the server takes several parts.
//!
//! Of a server that sends the whole instead, no byte more is taken than is wanted of its beginning: that spares a request,
//! where every further part costs one.

use reqwest::header::{ACCEPT_RANGES, HeaderValue};

use super::pieces::Piece;
use super::{
    Amount, FIRST_READ, Identity, LAST_READ, MAXIMUM_BOUNDARY_LINE, Part, Validator, body, fetch,
    header_range, multipart_type,
};
use crate::fetch::client::{Answer, Asked, HttpClient};
use crate::fetch::error::FetchError;
use crate::fetch::transfer::Deadline;
use crate::fetch::url::ImageUrl;
use crate::format::multipart::{self, MAXIMUM_HEADERS, parts};
use crate::format::units::{ByteLength, ByteOffset, Extent};

/// A file of at most this size is taken as a whole where it comes as a whole.
const SMALL: ByteLength = ByteLength::new(128 * 1024);

/// How much is taken of a whole that cannot be read on later: what tools leave in front of the first partition, and what a
/// look at its beginning reads.
const UP_TO_FIRST_PARTITION: ByteLength = ByteLength::new((1024 + 65) * 1024);

/// What the first request brought.
pub(super) struct Begun {
    /// Where it came from, after redirects.
    pub(super) url: ImageUrl,
    /// Of which file.
    pub(super) identity: Identity,
    /// Bytes of its beginning, and perhaps of its end.
    pub(super) pieces: Vec<Piece>,
    /// Whether the server sends several parts at once.
    pub(super) takes_several: bool,
    /// The rest of the file, where it comes whether it is wanted or not.
    pub(super) stream: Option<Stream>,
    /// How many requests it took, redirects not counted.
    pub(super) requests: usize,
}

impl Amount for Begun {
    fn amount(&self) -> ByteLength {
        let lengths = self.pieces.iter().map(|(_, bytes)| ByteLength::of(bytes).bytes());
        ByteLength::new(lengths.fold(0, u64::saturating_add))
    }
}

impl Begun {
    fn alone(part: Part, requests: usize) -> Self {
        let Part { url, identity, bytes } = part;
        let pieces = vec![(ByteOffset::ZERO, bytes)];
        Self { url, identity, pieces, takes_several: false, stream: None, requests }
    }
}

/// Asks for both ends of a file of which nothing is known yet, and in another request for its beginning alone where the
/// server does not like that.
pub(super) fn begin(
    client: &HttpClient,
    url: &ImageUrl,
    deadline: Option<Deadline>,
) -> Result<Begun, FetchError> {
    let ends = Asked::Ends { first: FIRST_READ, last: LAST_READ };
    let begun = match client.request(url, &ends, deadline) {
        Ok(answer) => both_ends(client, answer, deadline)?,
        // Some say that they do not take several, and some gateways that nobody may ask so.
        Err(FetchError::UnexpectedStatus { .. } | FetchError::Unauthorized { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(begun) = begun {
        return Ok(begun);
    }
    let part = fetch(client, url, Extent::from_beginning(FIRST_READ), None, deadline)?;
    Ok(Begun::alone(part, 2))
}

/// What an answer to the request for both ends brings; `None` where it is none.
fn both_ends(
    client: &HttpClient,
    answer: Answer,
    deadline: Option<Deadline>,
) -> Result<Option<Begun>, FetchError> {
    match answer.head.status {
        200 => whole(client, answer, deadline),
        206 => match multipart_type(&answer) {
            Some(kind) => several(answer, &kind),
            None => one(answer),
        },
        status => Err(FetchError::UnexpectedStatus { url: answer.url, status }),
    }
}

/// Both parts at once.
fn several(answer: Answer, kind: &str) -> Result<Option<Begun>, FetchError> {
    answer.check_framing()?;
    let around = MAXIMUM_HEADERS.saturating_add(MAXIMUM_BOUNDARY_LINE).saturating_mul(3);
    let around = u64::try_from(around).unwrap_or(u64::MAX);
    let limit = FIRST_READ.bytes().saturating_add(LAST_READ.bytes()).saturating_add(around);
    let (url, validator) = (answer.url.clone(), Validator::of(&answer.head.headers));
    let Some(bytes) = body(answer, ByteLength::new(limit))? else { return Ok(None) };
    let Ok(found) = parts(kind, &bytes) else { return Ok(None) };
    let Some(total) = found.first().map(|part| part.range.total()) else { return Ok(None) };
    let begins = |first: u64, end: u64| first == 0 && end >= total.min(FIRST_READ.bytes());
    let of_one = found.iter().all(|part| part.range.total() == total);
    if !of_one || !found.iter().any(|part| begins(part.range.first(), part.range.end())) {
        return Ok(None);
    }
    let piece = |part: &multipart::Part<'_>| (ByteOffset::new(part.range.first()), part.bytes.to_vec());
    let pieces = found.iter().map(piece).collect();
    let identity = Identity { total: ByteLength::new(total), validator };
    Ok(Some(Begun { url, identity, pieces, takes_several: true, stream: None, requests: 1 }))
}

/// One part: of the beginning, or of the whole where that is small.
fn one(answer: Answer) -> Result<Option<Begun>, FetchError> {
    let Some(range) = header_range(&answer) else { return Ok(None) };
    let asked = [FIRST_READ.bytes(), FIRST_READ.bytes().saturating_add(LAST_READ.bytes())];
    let is_asked = asked.into_iter().any(|asked| range.end() == asked.min(range.total()));
    if range.first() != 0 || !is_asked {
        return Ok(None);
    }
    answer.check_framing()?;
    let identity =
        Identity { total: ByteLength::new(range.total()), validator: Validator::of(&answer.head.headers) };
    let url = answer.url.clone();
    let Some(bytes) = body(answer, ByteLength::new(range.length()))? else { return Ok(None) };
    let complete = ByteLength::of(&bytes).bytes() == range.length();
    Ok(complete.then(|| Begun::alone(Part { url, identity, bytes }, 1)))
}

/// The whole, of which only the beginning is taken for now. A server that does not say that it answers requests for parts
/// is asked for the end.
fn whole(
    client: &HttpClient,
    answer: Answer,
    deadline: Option<Deadline>,
) -> Result<Option<Begun>, FetchError> {
    let Some(total) = answer.head.length.filter(|length| *length > 0) else { return Ok(None) };
    if answer.check_framing().is_err() {
        return Ok(None);
    }
    let accepts = |unit| answer.head.headers.get(ACCEPT_RANGES).is_some_and(|value| is(value, unit));
    if total > SMALL.bytes() && accepts("none") {
        return Err(FetchError::RangeNotSupported { url: answer.url });
    }
    let says_so = accepts("bytes");
    let total = ByteLength::new(total);
    let identity = Identity { total, validator: Validator::of(&answer.head.headers) };
    let url = answer.url.clone();
    let wanted = match total {
        total if total <= SMALL => total,
        total if !says_so && total > UP_TO_FIRST_PARTITION => UP_TO_FIRST_PARTITION,
        _ => FIRST_READ,
    };
    let mut stream = Stream::new(answer, total);
    let beginning = (ByteOffset::ZERO, stream.read_on(wanted)?);
    let mut begun =
        Begun { url, identity, pieces: vec![beginning], takes_several: false, stream: None, requests: 1 };
    if total <= SMALL {
        return Ok(Some(begun));
    }
    if says_so {
        return Ok(Some(Begun { stream: Some(stream), ..begun }));
    }
    // One that does one thing at a time answers nothing else while it sends the whole.
    drop(stream);
    let last = ByteOffset::new(total.bytes().saturating_sub(LAST_READ.bytes()));
    let Some(end) = Extent::new(last, LAST_READ) else { return Ok(None) };
    let part = fetch(client, &begun.url, end, Some(&begun.identity), deadline)?;
    begun.pieces.push((last, part.bytes));
    begun.requests = 2;
    Ok(Some(begun))
}

fn is(value: &HeaderValue, unit: &str) -> bool {
    value.as_bytes().trim_ascii().eq_ignore_ascii_case(unit.as_bytes())
}

/// A whole file on its way, of which as much comes as is taken.
pub(super) struct Stream {
    answer: Answer,
    total: ByteLength,
    /// How much of the file has come.
    came: u64,
    /// What has come and was not taken.
    ahead: Vec<u8>,
}

impl Stream {
    fn new(answer: Answer, total: ByteLength) -> Self {
        Self { answer, total, came: 0, ahead: Vec::new() }
    }

    /// How much of the file was taken.
    pub(super) fn position(&self) -> ByteLength {
        ByteLength::new(self.came.saturating_sub(ByteLength::of(&self.ahead).bytes()))
    }

    /// The next `length` bytes.
    pub(super) fn read_on(&mut self, length: ByteLength) -> Result<Vec<u8>, FetchError> {
        let found =
            |came| FetchError::Truncated { expected: Some(self.total.bytes()), found: came, source: None };
        let Some(length) = length.in_memory() else { return Err(found(self.came)) };
        while self.ahead.len() < length {
            let chunk = self.answer.transfer.next(Some(self.total.bytes()), self.came)?;
            let Some(chunk) = chunk else { return Err(found(self.came)) };
            self.ahead.extend_from_slice(chunk.bytes());
            self.came = self.came.saturating_add(chunk.length());
        }
        let rest = self.ahead.split_off(length);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }
}
