//! Parts of a file on a server, by HTTP range requests (RFC 9110, section 14).

use std::fmt;
use std::io::{self, Read};

use reqwest::header::{CONTENT_RANGE, DATE, ETAG, HeaderMap, LAST_MODIFIED};

use crate::format::http_header::{ContentRange, is_settled, is_strong_entity_tag};
use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::client::{Answer, Asked, HttpClient, shown};
use super::error::FetchError;
use super::url::ImageUrl;

/// How much the first request asks for: both a partition table with its usual 128 entries and the first superblocks.
pub const FIRST_READ: ByteLength = ByteLength::new(64 * 1024);

/// How many bytes nobody asked for are fetched rather than sending another request.
pub const MAXIMUM_GAP: ByteLength = ByteLength::new(16 * 1024);

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
    pub(super) fn as_str(&self) -> &str {
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

/// Reads parts of one version of a file on a server.
#[derive(Debug)]
pub struct RangeReader {
    client: HttpClient,
    url: ImageUrl,
    identity: Identity,
    /// What the first request brought: the beginning of the file.
    beginning: Vec<u8>,
}

impl RangeReader {
    /// Asks for the first [`FIRST_READ`] of `url`, and learns from the answer how large the file is and which version.
    ///
    /// # Errors
    ///
    /// [`FetchError::RangeNotSupported`] where the server answers with the whole, [`FetchError::WrongRange`] where it
    /// answers with something else, and whatever [`HttpClient::get`] may report.
    pub fn open(client: &HttpClient, url: &ImageUrl) -> Result<Self, FetchError> {
        let asked = Extent::from_beginning(FIRST_READ);
        let part = fetch(client, url, asked, None)?;
        // Later requests go where the first one was sent to: another mirror may have another version.
        Ok(Self { client: client.clone(), url: part.url, identity: part.identity, beginning: part.bytes })
    }

    /// Where the parts come from, after redirects.
    #[must_use]
    pub const fn url(&self) -> &ImageUrl {
        &self.url
    }

    /// The first [`FIRST_READ`] of the file, or all of it.
    #[must_use]
    pub fn beginning(&self) -> &[u8] {
        &self.beginning
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

    /// The bytes of each of `extents`, in their order. Extents that lie near each other come with one request; what lies
    /// in the first [`FIRST_READ`] of the file comes without any.
    ///
    /// # Errors
    ///
    /// [`FetchError::OutsideOfSource`] and [`FetchError::TooMuchAtOnce`] before anything is asked for;
    /// [`FetchError::SourceChanged`] where the file is no longer the one that [`Self::open`] saw;
    /// [`FetchError::WrongRange`]; and whatever [`HttpClient::get`] may report.
    pub fn read(&mut self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, FetchError> {
        let source = Extent::from_beginning(self.identity.total);
        if let Some(asked) = extents.iter().copied().find(|extent| !source.contains(*extent)) {
            return Err(FetchError::OutsideOfSource { asked, total: self.identity.total });
        }
        let held = Extent::from_beginning(ByteLength::of(&self.beginning));
        let missing = extents.iter().copied().filter(|extent| !extent.is_empty() && !held.contains(*extent));
        let requests = merged(missing.collect());
        let amount = |extents: &[Extent]| {
            extents.iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.length().bytes()))
        };
        // Overlapping extents are returned several times, and gaps are fetched too: the larger amount counts.
        let asked = ByteLength::new(amount(extents).max(amount(&requests)));
        if asked > MAXIMUM_READ {
            return Err(FetchError::TooMuchAtOnce { asked, limit: MAXIMUM_READ });
        }
        let mut fetched = vec![(held.start(), std::mem::take(&mut self.beginning))];
        let mut outcome = Ok(());
        for request in requests {
            match fetch(&self.client, &self.url, request, Some(&self.identity)) {
                Ok(part) => fetched.push((request.start(), part.bytes)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        let parts = outcome.map(|()| extents.iter().map(|extent| slice(&fetched, *extent)).collect());
        self.beginning = fetched.swap_remove(0).1;
        parts
    }
}

/// `extents` in order, those that overlap or are at most [`MAXIMUM_GAP`] apart made one.
fn merged(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_unstable();
    let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        if let Some(last) = merged.last_mut() {
            let gap = extent.start().bytes().saturating_sub(last.end().bytes());
            let end = last.end().max(extent.end());
            let length = end.checked_distance_from(last.start());
            if gap <= MAXIMUM_GAP.bytes()
                && let Some(joined) = length.and_then(|length| Extent::new(last.start(), length))
            {
                *last = joined;
                continue;
            }
        }
        merged.push(extent);
    }
    merged
}

/// The bytes of `extent` from the piece that holds it. Every non-empty extent lies in one piece by the way the requests
/// were made.
fn slice(pieces: &[(ByteOffset, Vec<u8>)], extent: Extent) -> Vec<u8> {
    pieces
        .iter()
        .find_map(|(start, bytes)| {
            let from = extent.start().checked_distance_from(*start)?.in_memory()?;
            bytes.get(from..from.checked_add(extent.length().in_memory()?)?)
        })
        .unwrap_or_default()
        .to_vec()
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
) -> Result<Part, FetchError> {
    let answer = client.request(url, &Asked::Part(asked), client.deadline())?;
    match answer.head.status {
        206 => (),
        200 => return Err(FetchError::RangeNotSupported { url: answer.url }),
        status => return Err(FetchError::UnexpectedStatus { url: answer.url, status }),
    }
    let (sent, total) = content_range(&answer, asked)?;
    let identity = Identity { total, validator: Validator::of(&answer.head.headers) };
    if let Some(known) = known
        && *known != identity
    {
        return Err(FetchError::SourceChanged {
            url: answer.url,
            before: known.clone().into(),
            after: identity.into(),
        });
    }
    let url = answer.url.clone();
    let body = answer.into_body()?;
    let wrong = |answered: String| FetchError::WrongRange { asked, answered };
    if let Some(length) = body.total().filter(|length| *length != sent.length().bytes()) {
        return Err(wrong(format!("{length} bytes for {sent}")));
    }
    let mut bytes = Vec::new();
    // One byte more, so that too long a body shows, and that the end of the body is seen.
    let limit = sent.length().bytes().saturating_add(1);
    body.take(limit).read_to_end(&mut bytes).map_err(unwrapped)?;
    let found = ByteLength::of(&bytes);
    if found > sent.length() {
        return Err(wrong(format!("more than {sent}")));
    }
    if found < sent.length() {
        let expected = Some(sent.length().bytes());
        return Err(FetchError::Truncated { expected, found: found.bytes(), source: None });
    }
    Ok(Part { url, identity, bytes })
}

/// The error that a body's reader carries; it carries no other.
fn unwrapped(error: io::Error) -> FetchError {
    FetchError::from_io(error).unwrap_or_else(|source| FetchError::Setup { source: source.into() })
}

/// The part that the server says it sends, which is the part that was asked for as far as the file reaches, and the size
/// of the whole file.
fn content_range(answer: &Answer, asked: Extent) -> Result<(Extent, ByteLength), FetchError> {
    let header = answer.head.headers.get(CONTENT_RANGE);
    let wrong = || {
        let answered = header.map_or_else(|| "no Content-Range".to_owned(), shown);
        FetchError::WrongRange { asked, answered }
    };
    let range =
        header.and_then(|value| value.to_str().ok()).and_then(ContentRange::parse).ok_or_else(wrong)?;
    if range.first() != asked.start().bytes() || range.end() != asked.end().bytes().min(range.total()) {
        return Err(wrong());
    }
    Ok((asked.truncated(ByteLength::new(range.length())), ByteLength::new(range.total())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::client::{HttpOptions, Proxies};
    use super::super::http_server::{Answer as Served, HttpServer, Request};
    use super::*;

    const LENGTH: usize = 1_000_000;

    fn pattern() -> Vec<u8> {
        (0..=250_u8).cycle().take(LENGTH).collect()
    }

    fn extent(start: u64, length: u64) -> Extent {
        Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
    }

    fn open(server: &HttpServer) -> Result<RangeReader, FetchError> {
        let client = HttpClient::new(HttpOptions { proxies: Proxies::None, ..HttpOptions::default() });
        RangeReader::open(&client, &ImageUrl::parse(&server.url("/image.raw")).unwrap())
    }

    fn serve(request: &Request) -> Served {
        Served::ranged(request, pattern()).header("ETag", "\"one\"")
    }

    /// A server that answers the first request well and every later one with `later`.
    fn turning(later: impl Fn(&Request) -> Served + Send + Sync + 'static) -> HttpServer {
        let count = AtomicUsize::new(0);
        HttpServer::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
            0 => serve(request),
            _ => later(request),
        })
    }

    #[test]
    fn extents_come_back_in_their_order_and_near_ones_in_one_request() {
        let server = HttpServer::start(serve);
        let mut reader = open(&server).unwrap();
        assert_eq!(reader.total(), ByteLength::new(1_000_000));
        assert_eq!(reader.identity().validator, Some(Validator::EntityTag("\"one\"".into())));
        let asked = [
            extent(999_999, 1),
            extent(10, 5),
            extent(500_000, 100),
            extent(500_050, 20_000),
            extent(520_050 + 16 * 1024, 10),
            extent(700_000, 0),
            extent(800_000, 7),
            extent(65_530, 10),
        ];
        let parts = reader.read(&asked).unwrap();
        assert_eq!(parts.len(), asked.len());
        for (asked, part) in asked.iter().zip(&parts) {
            let start = usize::try_from(asked.start().bytes()).unwrap();
            assert!(*part == pattern()[start..start + asked.length().in_memory().unwrap()], "{asked}");
        }
        let ranges: Vec<_> = server.requests().iter().filter_map(Request::range).collect();
        let merged = (500_000, 520_050 + 16 * 1024 + 9);
        assert_eq!(ranges, [(0, 65_535), (65_530, 65_539), merged, (800_000, 800_006), (999_999, 999_999)]);
    }

    #[test]
    fn what_the_first_request_brought_is_not_asked_for_again() {
        let server = HttpServer::start(serve);
        let mut reader = open(&server).unwrap();
        for _ in 0..2 {
            assert_eq!(reader.read(&[extent(1, 3), extent(0, 65_536)]).unwrap()[0], [1, 2, 3]);
        }
        assert_eq!(server.requests().len(), 1);
    }

    #[test]
    fn a_file_shorter_than_the_first_request_is_read_whole() {
        let server = HttpServer::start(|request| Served::ranged(request, *b"image"));
        let mut reader = open(&server).unwrap();
        assert_eq!(reader.identity(), &Identity { total: ByteLength::new(5), validator: None });
        assert_eq!(reader.read(&[extent(0, 5)]).unwrap(), [b"image"]);
        assert!(matches!(
            reader.read(&[extent(4, 2)]),
            Err(FetchError::OutsideOfSource { total, .. }) if total == ByteLength::new(5)
        ));
    }

    #[test]
    fn a_server_without_ranges_is_said_to_be_one() {
        let server = HttpServer::start(|_| Served::bytes(pattern()));
        assert!(matches!(open(&server), Err(FetchError::RangeNotSupported { .. })));
        let server = turning(|_| Served::bytes(pattern()));
        assert!(matches!(
            open(&server).unwrap().read(&[extent(900_000, 1)]),
            Err(FetchError::RangeNotSupported { .. })
        ));
    }

    #[test]
    fn another_part_than_the_one_asked_for_is_refused() {
        let answer = |range: &str| Served::bytes(vec![0; 10]).with_status(206).header("Content-Range", range);
        let table = [
            answer("bytes 900001-900010/1000000"),
            answer("bytes 900000-900008/1000000"),
            answer("bytes 900000-900010/1000000"),
            answer("bytes 0-9/1000000"),
            answer("bytes 900000-900009/*"),
            answer("bytes 900000-900009/5"),
            answer("bytes +900000-900009/1000000"),
            answer("bytes -/"),
            answer("bytes 900000-900009/99999999999999999999"),
            answer("900000-900009/1000000"),
            Served::bytes(vec![0; 9]).with_status(206).header("Content-Range", "bytes 900001-900009/1000000"),
            Served::bytes(vec![0; 10]).with_status(206),
        ];
        for answer in table {
            let shown = format!("{answer:?}");
            let server = turning(move |_| answer.clone().header("ETag", "\"one\""));
            match open(&server).unwrap().read(&[extent(900_000, 10)]) {
                Err(FetchError::WrongRange { asked, .. }) => assert_eq!(asked, extent(900_000, 10)),
                other => panic!("{shown}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_body_that_is_not_as_long_as_the_part_is_refused() {
        let answer = |length| {
            let range = "bytes 900000-900009/1000000";
            Served::bytes(vec![0; length])
                .with_status(206)
                .header("Content-Range", range)
                .header("ETag", "\"one\"")
        };
        let read = |answer: Served| {
            let server = turning(move |_| answer.clone());
            open(&server).unwrap().read(&[extent(900_000, 10)]).unwrap_err()
        };
        assert!(matches!(read(answer(9)), FetchError::WrongRange { .. }));
        assert!(matches!(read(answer(11)), FetchError::WrongRange { .. }));
        assert!(matches!(read(answer(11).chunked(11)), FetchError::WrongRange { .. }));
        for short in [answer(9).chunked(3), answer(10).cut_after(9)] {
            let error = read(short);
            assert!(matches!(error, FetchError::Truncated { found: 9, .. }), "{error:?}");
        }
    }

    #[test]
    fn a_file_that_changes_is_noticed_by_size_and_by_validator() {
        let mut larger = pattern();
        larger.push(0);
        let servers = [
            turning(|request| serve(request).header("ETag", "\"two\"")),
            turning(|request| Served::ranged(request, pattern())),
            turning(move |request| Served::ranged(request, larger.clone()).header("ETag", "\"one\"")),
        ];
        for server in servers {
            match open(&server).unwrap().read(&[extent(900_000, 10)]) {
                Err(FetchError::SourceChanged { before, after, .. }) => assert_ne!(before, after),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_error_costs_nothing_of_what_was_read_before() {
        let server = turning(|_| Served::status(503));
        let mut reader = open(&server).unwrap();
        assert!(matches!(
            reader.read(&[extent(900_000, 1)]),
            Err(FetchError::ServerError { status: 503, .. })
        ));
        assert_eq!(reader.read(&[extent(1, 3)]).unwrap(), [[1, 2, 3]]);
    }

    #[test]
    fn only_so_much_is_read_at_once() {
        let server = HttpServer::start(|_| {
            let range = "bytes 0-65535/1000000000";
            Served::bytes(vec![0; 65_536]).with_status(206).header("Content-Range", range)
        });
        let mut reader = open(&server).unwrap();
        let large = extent(0, 40 * 1024 * 1024);
        for asked in
            [vec![extent(0, MAXIMUM_READ.bytes() + 1)], vec![large, large], vec![extent(0, 60_000); 1200]]
        {
            assert!(matches!(reader.read(&asked), Err(FetchError::TooMuchAtOnce { .. })));
        }
        assert_eq!(server.requests().len(), 1);
    }

    #[test]
    fn later_requests_go_where_the_first_was_sent_to() {
        let server = HttpServer::start(|request| match request.path.as_str() {
            "/image.raw" => Served::redirect("/mirror"),
            _ => serve(request),
        });
        let mut reader = open(&server).unwrap();
        reader.read(&[extent(900_000, 1)]).unwrap();
        assert_eq!(reader.url().to_string(), server.url("/mirror"));
        assert_eq!(server.requests().len(), 3);
    }

    #[test]
    fn only_a_strong_entity_tag_tells_versions_apart() {
        let table = [
            (Some("\"x\""), Some("then"), Some(Validator::EntityTag("\"x\"".into()))),
            (Some("W/\"x\""), Some("then"), Some(Validator::LastModified("then".into()))),
            (Some("x"), None, None),
            (Some("\""), None, None),
            (None, None, None),
        ];
        for (tag, time, expected) in table {
            let mut headers = HeaderMap::new();
            tag.map(|tag| headers.insert(ETAG, tag.parse().unwrap()));
            time.map(|time| headers.insert(LAST_MODIFIED, time.parse().unwrap()));
            assert_eq!(Validator::of(&headers), expected);
        }
    }
}
