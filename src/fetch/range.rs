//! Parts of a file on a server, by HTTP range requests (RFC 9110, section 14).

use std::fmt;

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap, LAST_MODIFIED};

use crate::format::http_header::{ContentRange, is_settled, is_strong_entity_tag};
use crate::format::multipart::{MAXIMUM_HEADERS, is_multipart, parts};
use crate::format::units::{ByteLength, ByteOffset, Extent, merged};

use super::client::{Answer, Asked, HttpClient, shown};
use super::error::FetchError;
use super::retry::{Attempts, RetryOptions, Setback};
use super::transfer::Deadline;
use super::url::ImageUrl;

mod beginning;
mod pieces;

use beginning::{Begun, Stream, begin};
use pieces::{Piece, Pieces, joined, total_length};

/// How much the first request asks for: a partition table with its usual 128 entries, for whatever size of sectors.
pub const FIRST_READ: ByteLength = crate::format::gpt::USUAL_LENGTH;

/// How much comes of the end of the file: the other copy of the table.
pub const LAST_READ: ByteLength = ByteLength::new(20 * 1024);

/// How many bytes nobody asked for are fetched rather than sending another request.
pub const MAXIMUM_GAP: ByteLength = ByteLength::new(16 * 1024);

/// The same, rather than asking for another part in one request.
const GAP_OF_PARTS: ByteLength = ByteLength::new(512);

/// How many requests a server is spared to exceed that sends one part at a time, see [`BETWEEN`].
const REQUESTS: usize = 6;

/// How many bytes nobody asked for are fetched in all rather than exceeding [`REQUESTS`]: what tools leave between
/// partitions, to have one request left for what only the contents tell; and a hash tree of usual size.
const BETWEEN: [(usize, ByteLength); 2] =
    [(REQUESTS - 1, ByteLength::new(4 * 1024 * 1024)), (REQUESTS, ByteLength::new(8 * 1024 * 1024))];

/// How many parts one request asks for: servers that take several take far more, and more look like an attack to some.
const PARTS_OF_REQUEST: usize = 64;

/// How many bytes one call of [`RangeReader::read`] may bring into memory. The survey of an image reads kilobytes; the
/// largest thing in it, a partition table, is limited to a few megabytes.
pub const MAXIMUM_READ: ByteLength = ByteLength::new(64 * 1024 * 1024);

/// What tells one version of a file from another: the strong entity tag, else the time of the last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Validator {
    /// A strong `ETag`, with its quotes.
    EntityTag(String),
    /// `Last-Modified`, as the server writes it.
    LastModified(String),
}

impl Validator {
    /// The validator in the headers of an answer. A weak entity tag says nothing about bytes and does not count.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let tag = text(ETAG).filter(|tag| is_strong_entity_tag(tag)).map(Self::EntityTag);
        tag.or_else(|| text(LAST_MODIFIED).map(Self::LastModified))
    }

    /// The validator in the headers of an answer if a transfer may be resumed by it: a strong entity tag, or, where
    /// there is no tag at all, a time of change that lies well before the answer (RFC 9110, 13.1.5).
    pub(super) fn resuming(headers: &HeaderMap) -> Option<Self> {
        match Self::of(headers)? {
            Self::LastModified(changed) => {
                let date = headers.get(DATE)?.to_str().ok()?;
                let counts = !headers.contains_key(ETAG) && is_settled(&changed, date);
                counts.then_some(Self::LastModified(changed))
            }
            tag => Some(tag),
        }
    }

    /// The value as the server wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::EntityTag(text) | Self::LastModified(text) => text,
        }
    }
}

impl fmt::Display for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EntityTag(tag) => write!(f, "entity tag {tag:.100}"),
            Self::LastModified(time) => write!(f, "last changed '{time:.100}'"),
        }
    }
}

/// Which file, in which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The size of the whole file.
    pub total: ByteLength,
    /// What tells the version, where the server says it.
    pub validator: Option<Validator>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.validator {
            Some(validator) => write!(f, "{} bytes with {validator}", self.total),
            None => write!(f, "{} bytes without a validator", self.total),
        }
    }
}

/// What hears of requests that are tried again.
pub type Hear<'a> = Box<dyn Fn(&Setback<'_>) + Send + Sync + 'a>;

/// Reads parts of one version of a file on a server.
///
/// Far apart as they may lie, parts come in one request where the server knows that (`multipart/byteranges`), which is
/// found out by asking; else in one request for each stretch, of which there are few because what lies between is taken
/// along. What came once is not asked for again.
pub struct RangeReader<'a> {
    client: HttpClient,
    url: ImageUrl,
    identity: Identity,
    pieces: Pieces,
    /// Whether the server may know requests for several parts.
    takes_several: bool,
    /// The whole file, where it is on its way.
    stream: Option<Stream>,
    /// How many requests were answered.
    requests: usize,
    persistence: Persistence<'a>,
}

/// How to go on after failures.
struct Persistence<'a> {
    attempts: Attempts,
    deadline: Option<Deadline>,
    /// How many bytes came so far.
    received: u64,
    hear: Hear<'a>,
}

impl fmt::Debug for RangeReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeReader").field("url", &self.url).finish_non_exhaustive()
    }
}

impl<'a> RangeReader<'a> {
    /// Asks for the first [`FIRST_READ`] and the last [`LAST_READ`] of `url`, and learns from the answer how large the file
    /// is, which version, and whether the server sends several parts at once.
    /// Here and later, what fails for a reason that may pass is tried again as `retry` says, of which `hear` is told; all
    /// of it has the time that the client gives a file.
    ///
    /// # Errors
    ///
    /// [`FetchError::RangeNotSupported`] where the server answers with the whole, [`FetchError::WrongRange`] where it
    /// answers with something else, and whatever [`Download::open`](super::download::Download::open) may report.
    pub fn open(
        client: &HttpClient,
        url: &ImageUrl,
        retry: RetryOptions,
        hear: Hear<'a>,
    ) -> Result<Self, FetchError> {
        let mut persistence =
            Persistence { attempts: Attempts::new(retry), deadline: client.deadline(), received: 0, hear };
        let begun = persistence.persist(client, |deadline| begin(client, url, deadline))?;
        // Later requests go where the first one was sent to: another mirror may have another version.
        let Begun { url, identity, pieces, takes_several, stream, requests } = begun;
        let (client, pieces) = (client.clone(), Pieces::new(pieces));
        Ok(Self { client, url, identity, pieces, takes_several, stream, requests, persistence })
    }

    /// Where the parts come from, after redirects.
    #[must_use]
    pub const fn url(&self) -> &ImageUrl {
        &self.url
    }

    /// The size of the file.
    #[must_use]
    pub const fn total(&self) -> ByteLength {
        self.identity.total
    }

    /// The size and the version of the file.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The bytes of each of `extents`, in their order. Extents that lie near each other come together.
    ///
    /// # Errors
    ///
    /// [`FetchError::OutsideOfSource`] and [`FetchError::TooMuchAtOnce`] before anything is asked for;
    /// [`FetchError::SourceChanged`] where the file is no longer the one that [`Self::open`] saw;
    /// [`FetchError::WrongRange`]; and whatever [`Self::open`] may report.
    pub fn read(&mut self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, FetchError> {
        let source = Extent::from_beginning(self.identity.total);
        if let Some(asked) = extents.iter().copied().find(|extent| !source.contains(*extent)) {
            return Err(FetchError::OutsideOfSource { asked, total: self.identity.total });
        }
        let requests = merged(self.missing(extents), MAXIMUM_GAP);
        // Overlapping extents are returned several times, and gaps are fetched too: the larger amount counts.
        let asked = total_length(extents).max(total_length(&requests));
        if asked > MAXIMUM_READ {
            return Err(FetchError::TooMuchAtOnce { asked, limit: MAXIMUM_READ });
        }
        if self.takes_several {
            self.read_several(extents)?;
        }
        self.read_singly(extents)?;
        let nothing = |asked| FetchError::WrongRange { asked, answered: "nothing of it".to_owned() };
        let found = extents.iter().map(|extent| self.pieces.get(*extent).ok_or_else(|| nothing(*extent)));
        let found = found.collect();
        self.pieces.forget();
        found
    }

    /// What of these extents is not there yet; at the end of the file rather more.
    fn missing(&self, extents: &[Extent]) -> Vec<Extent> {
        let total = self.identity.total;
        let last = ByteOffset::new(total.bytes().saturating_sub(LAST_READ.bytes()));
        let at_end = |extent: Extent| match extent.start() >= last {
            true => total
                .bytes()
                .checked_sub(last.bytes())
                .and_then(|rest| Extent::new(last, ByteLength::new(rest))),
            false => None,
        };
        let wanted = extents.iter().copied().filter(|extent| self.pieces.get(*extent).is_none());
        wanted.map(|extent| at_end(extent).unwrap_or(extent)).collect()
    }

    /// Asks for what is missing one stretch after the other, and takes as much as that spares of a file that is on its way.
    fn read_singly(&mut self, extents: &[Extent]) -> Result<(), FetchError> {
        let missing = self.missing(extents);
        if missing.is_empty() {
            return Ok(());
        }
        // What has come of the stream is a stretch that costs no request.
        let mut stream = self.stream.take();
        let came = stream.as_ref().map(|stream| Extent::from_beginning(stream.position()));
        let free = usize::from(came.is_some());
        let mut stretches = merged(missing.into_iter().chain(came).collect(), MAXIMUM_GAP);
        for (requests, between) in BETWEEN {
            let left = requests.saturating_sub(self.requests).max(1);
            stretches = joined(stretches, left.saturating_add(free), between);
        }
        for stretch in stretches {
            if let Some((mut stream, came)) = stream.take().zip(came)
                && stretch.start() == ByteOffset::ZERO
            {
                let on = stretch.end().checked_distance_from(came.end()).unwrap_or_default();
                // What breaks off is asked for instead.
                if let Ok(bytes) = stream.read_on(on) {
                    self.pieces.add(came.end(), bytes);
                    continue;
                }
            }
            let (client, url, known) = (&self.client, &self.url, &self.identity);
            let part = self
                .persistence
                .persist(client, |deadline| fetch(client, url, stretch, Some(known), deadline))?;
            self.pieces.add(stretch.start(), part.bytes);
            self.requests = self.requests.saturating_add(1);
        }
        Ok(())
    }

    /// Asks for all that is missing at once, as far as the server takes that.
    fn read_several(&mut self, extents: &[Extent]) -> Result<(), FetchError> {
        let requests = merged(self.missing(extents), GAP_OF_PARTS);
        for several in requests.chunks(PARTS_OF_REQUEST).filter(|several| several.len() > 1) {
            let (client, url, known) = (&self.client, &self.url, &self.identity);
            let found = self
                .persistence
                .persist(client, |deadline| fetch_several(client, url, several, known, deadline))?;
            self.requests = self.requests.saturating_add(1);
            let Some(found) = found else {
                self.takes_several = false;
                return Ok(());
            };
            for (start, bytes) in found {
                self.pieces.add(start, bytes);
            }
        }
        Ok(())
    }
}

impl Persistence<'_> {
    /// Does what `attempt` does until it succeeds, as long as that helps.
    fn persist<T: Amount>(
        &mut self,
        client: &HttpClient,
        attempt: impl Fn(Option<Deadline>) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        loop {
            match attempt(self.deadline) {
                Ok(found) => {
                    self.received = self.received.saturating_add(found.amount().bytes());
                    return Ok(found);
                }
                Err(error) if error.is_transient() => {
                    let patience = client.patience(String::new(), self.deadline);
                    self.attempts.wait(error, self.received, &patience, &*self.hear)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// How much came with an answer.
trait Amount {
    fn amount(&self) -> ByteLength;
}

impl Amount for Part {
    fn amount(&self) -> ByteLength {
        ByteLength::of(&self.bytes)
    }
}

impl Amount for Option<Vec<Piece>> {
    fn amount(&self) -> ByteLength {
        let lengths = self.iter().flatten().map(|(_, bytes)| ByteLength::of(bytes).bytes());
        ByteLength::new(lengths.fold(0, u64::saturating_add))
    }
}

/// What a range request brought.
struct Part {
    url: ImageUrl,
    identity: Identity,
    bytes: Vec<u8>,
}

/// Fetches `asked` from the file that `known` describes. As long as nothing is known of it, `asked` may reach beyond its
/// end.
fn fetch(
    client: &HttpClient,
    url: &ImageUrl,
    asked: Extent,
    known: Option<&Identity>,
    deadline: Option<Deadline>,
) -> Result<Part, FetchError> {
    let answer = client.request(url, &Asked::Parts(vec![asked]), deadline)?;
    match answer.head.status {
        206 => (),
        200 => return Err(FetchError::RangeNotSupported { url: answer.url }),
        status => return Err(FetchError::UnexpectedStatus { url: answer.url, status }),
    }
    let (sent, total) = content_range(&answer, asked)?;
    let identity = Identity { total, validator: Validator::of(&answer.head.headers) };
    if let Some(known) = known {
        same_version(&answer, known, &identity)?;
    }
    answer.check_framing()?;
    let url = answer.url.clone();
    let wrong = |answered: String| FetchError::WrongRange { asked, answered };
    if let Some(length) = answer.head.length.filter(|length| *length != sent.length().bytes()) {
        return Err(wrong(format!("{length} bytes for {sent}")));
    }
    let bytes = body(answer, sent.length())?.ok_or_else(|| wrong(format!("more than {sent}")))?;
    let found = ByteLength::of(&bytes);
    if found < sent.length() {
        let expected = Some(sent.length().bytes());
        return Err(FetchError::Truncated { expected, found: found.bytes(), source: None });
    }
    Ok(Part { url, identity, bytes })
}

/// Fetches several parts of the file that `known` describes; `None` where the server does not take such requests, or
/// does not answer with just these parts.
fn fetch_several(
    client: &HttpClient,
    url: &ImageUrl,
    asked: &[Extent],
    known: &Identity,
    deadline: Option<Deadline>,
) -> Result<Option<Vec<Piece>>, FetchError> {
    let answer = match client.request(url, &Asked::Parts(asked.to_vec()), deadline) {
        Ok(answer) => answer,
        // Some say that they do not take them.
        Err(FetchError::UnexpectedStatus { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(kind) = multipart_type(&answer).filter(|_| answer.head.status == 206) else { return Ok(None) };
    answer.check_framing()?;
    let found = Identity { total: known.total, validator: Validator::of(&answer.head.headers) };
    same_version(&answer, known, &found)?;
    // Every part has headers and a boundary, and there is one more boundary.
    let around = MAXIMUM_HEADERS.saturating_add(MAXIMUM_BOUNDARY_LINE);
    let around = u64::try_from(asked.len().saturating_add(1).saturating_mul(around)).unwrap_or(u64::MAX);
    let limit = ByteLength::new(total_length(asked).bytes().saturating_add(around));
    let url = answer.url.clone();
    let Some(bytes) = body(answer, limit)? else { return Ok(None) };
    let Ok(parts) = parts(&kind, &bytes) else { return Ok(None) };
    let mut pieces = Vec::with_capacity(parts.len());
    for part in parts {
        let total = ByteLength::new(part.range.total());
        if total != known.total {
            let after = Identity { total, ..found };
            return Err(FetchError::SourceChanged { url, before: known.clone().into(), after: after.into() });
        }
        pieces.push((ByteOffset::new(part.range.first()), part.bytes.to_vec()));
    }
    let lies_in = |asked: Extent, (start, bytes): &Piece| {
        Extent::new(*start, ByteLength::of(bytes)).is_some_and(|part| part.contains(asked))
    };
    let all = asked.iter().all(|asked| pieces.iter().any(|piece| lies_in(*asked, piece)));
    Ok(all.then_some(pieces))
}

/// The value of `Content-Type` where it says that several parts follow.
fn multipart_type(answer: &Answer) -> Option<String> {
    let kind = answer.head.headers.get(CONTENT_TYPE)?.to_str().ok()?;
    is_multipart(kind).then(|| kind.to_owned())
}

/// The longest line that ends a part, in bytes.
const MAXIMUM_BOUNDARY_LINE: usize = 80;

/// The answer is of the version that is known.
fn same_version(answer: &Answer, known: &Identity, found: &Identity) -> Result<(), FetchError> {
    if known == found {
        return Ok(());
    }
    Err(FetchError::SourceChanged {
        url: answer.url.clone(),
        before: known.clone().into(),
        after: found.clone().into(),
    })
}

/// All of a body that has at most `limit` bytes; `None` where it has more.
fn body(mut answer: Answer, limit: ByteLength) -> Result<Option<Vec<u8>>, FetchError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.transfer.next(answer.head.length, ByteLength::of(&bytes).bytes())? {
        bytes.extend_from_slice(chunk.bytes());
        if ByteLength::of(&bytes) > limit {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// The part that the server says it sends, which is the part that was asked for as far as the file reaches, and the size
/// of the whole file.
fn content_range(answer: &Answer, asked: Extent) -> Result<(Extent, ByteLength), FetchError> {
    let wrong = || {
        let header = answer.head.headers.get(CONTENT_RANGE);
        let answered = header.map_or_else(|| "no Content-Range".to_owned(), shown);
        FetchError::WrongRange { asked, answered }
    };
    let range = header_range(answer).ok_or_else(wrong)?;
    if range.first() != asked.start().bytes() || range.end() != asked.end().bytes().min(range.total()) {
        return Err(wrong());
    }
    Ok((asked.truncated(ByteLength::new(range.length())), ByteLength::new(range.total())))
}

/// The part that the server says it sends.
fn header_range(answer: &Answer) -> Option<ContentRange> {
    ContentRange::parse(answer.head.headers.get(CONTENT_RANGE)?.to_str().ok()?)
}

#[cfg(test)]
mod tests;
