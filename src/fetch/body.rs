//! The bytes of an answer, to its last one or to an error.

use std::io::{self, BufRead, Read};

use super::error::FetchError;
use super::range::Validator;
use super::transfer::{Chunk, Transfer};
use super::url::ImageUrl;

/// The bytes of an answer while they come.
///
/// Read it with [`Self::chunk`] and [`Self::consume`], or through [`Read`] and [`BufRead`], whose errors carry a
/// [`FetchError`] ([`FetchError::from_io`]). It ends where the whole body was read, and only there: a body that is cut
/// short is an error, and stays one.
#[derive(Debug)]
pub struct Body {
    url: ImageUrl,
    validator: Option<Validator>,
    total: Option<u64>,
    received: u64,
    transfer: Transfer,
    current: Chunk,
    position: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flowing,
    Ended,
    Failed,
}

impl Body {
    /// The body of an answer of which nothing was read yet.
    pub(super) fn new(
        url: ImageUrl,
        validator: Option<Validator>,
        total: Option<u64>,
        transfer: Transfer,
    ) -> Self {
        let (current, position, state) = (Chunk::default(), 0, State::Flowing);
        Self { url, validator, total, received: 0, transfer, current, position, state }
    }

    /// Where the bytes come from, after redirects.
    #[must_use]
    pub const fn url(&self) -> &ImageUrl {
        &self.url
    }

    /// The length of the body in bytes, where the server said it beforehand.
    #[must_use]
    pub const fn total(&self) -> Option<u64> {
        self.total
    }

    /// What tells this version of the file from another, where the server said it.
    #[must_use]
    pub const fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    /// The bytes that have come and were not consumed; waits for some where there are none. None at all is the end of
    /// the body.
    ///
    /// # Errors
    ///
    /// [`FetchError::Truncated`], [`FetchError::Stalled`], [`FetchError::DeadlineExceeded`] or
    /// [`FetchError::Cancelled`]. A further call fails as well.
    pub fn chunk(&mut self) -> Result<&[u8], FetchError> {
        if self.position >= self.current.bytes().len() {
            self.advance()?;
        }
        Ok(self.received())
    }

    /// What has come and was not consumed, without waiting for more: what [`Self::chunk`] gave.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        self.current.bytes().get(self.position..).unwrap_or_default()
    }

    /// Marks the first `count` bytes of [`Self::chunk`] as used; at most all of them.
    pub fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count).min(self.current.bytes().len());
    }

    /// Takes the next chunk.
    fn advance(&mut self) -> Result<(), FetchError> {
        (self.current, self.position) = (Chunk::default(), 0);
        match self.state {
            State::Ended => return Ok(()),
            State::Failed => {
                return Err(FetchError::Truncated {
                    expected: self.total,
                    found: self.received,
                    source: None,
                });
            }
            State::Flowing => (),
        }
        match self.transfer.next(self.total, self.received) {
            Ok(Some(chunk)) => {
                self.received = self.received.saturating_add(chunk.length());
                self.current = chunk;
                Ok(())
            }
            Ok(None) => {
                self.state = State::Ended;
                Ok(())
            }
            Err(error) => {
                self.state = State::Failed;
                Err(error)
            }
        }
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.chunk().map_err(FetchError::into_io)
    }

    fn consume(&mut self, count: usize) {
        Self::consume(self, count);
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.fill_buf()?.read(buffer)?;
        Self::consume(self, count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::super::certificates::CertificateAuthorities;
    use super::super::client::{Cancellation, HttpClient, HttpOptions, Proxies};
    use super::super::http_server::{Answer, HttpServer, TestAuthority};
    use super::*;

    /// More than any buffer on the way holds.
    const LARGE: usize = 9_000_001;

    fn pattern(length: usize) -> Vec<u8> {
        (0..=250_u8).cycle().take(length).collect()
    }

    fn options() -> HttpOptions {
        HttpOptions { proxies: Proxies::None, ..HttpOptions::default() }
    }

    /// Everything up to the first error, and the error.
    fn read_all(options: HttpOptions, server: &HttpServer) -> (Vec<u8>, Option<FetchError>) {
        let mut body = HttpClient::new(options).get(&ImageUrl::parse(&server.url("/")).unwrap()).unwrap();
        let mut bytes = Vec::new();
        let error = body.read_to_end(&mut bytes).err().map(|error| FetchError::from_io(error).unwrap());
        // However it ended, it stays so.
        assert_eq!(body.chunk().is_err(), error.is_some());
        (bytes, error)
    }

    #[test]
    fn every_byte_comes_whatever_the_framing() {
        for answer in [
            Answer::bytes(pattern(LARGE)),
            Answer::bytes(pattern(LARGE)).chunked(70_001),
            Answer::bytes([]),
            Answer::bytes([]).chunked(1),
        ] {
            let expected = answer.clone();
            let server = HttpServer::start(move |_| answer.clone());
            let (bytes, error) = read_all(options(), &server);
            assert!(error.is_none(), "{error:?}");
            assert!(bytes == expected.body(), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn a_body_that_is_cut_short_is_never_a_silent_end() {
        let length = u64::try_from(LARGE).unwrap();
        for count in [0, 1, LARGE / 2, LARGE - 1] {
            let cut = Answer::bytes(pattern(LARGE)).cut_after(count);
            for (answer, total) in [(cut.clone(), Some(length)), (cut.chunked(70_001), None)] {
                let server = HttpServer::start(move |_| answer.clone());
                match read_all(options(), &server) {
                    (bytes, Some(error @ FetchError::Truncated { expected, found, .. })) => {
                        assert_eq!(expected, total);
                        assert_eq!(found, u64::try_from(bytes.len()).unwrap());
                        assert!(bytes == pattern(LARGE)[..bytes.len()] && bytes.len() <= count);
                        assert!(error.is_transient());
                    }
                    (bytes, other) => panic!("cut after {count}: {} bytes, {other:?}", bytes.len()),
                }
            }
        }
    }

    #[test]
    fn chunks_that_miss_only_the_last_one_are_cut_short() {
        let server = HttpServer::start(|_| Answer::bytes(*b"image").chunked(5).cut_after(5));
        let (bytes, error) = read_all(options(), &server);
        assert_eq!(bytes, b"image");
        assert!(matches!(error, Some(FetchError::Truncated { expected: None, found: 5, .. })), "{error:?}");
    }

    #[test]
    fn a_length_that_is_too_large_is_noticed_and_more_than_it_never_read() {
        let server = HttpServer::start(|_| Answer::bytes(*b"image").claim_length(6));
        let (bytes, error) = read_all(options(), &server);
        assert_eq!(bytes, b"image");
        assert!(
            matches!(error, Some(FetchError::Truncated { expected: Some(6), found: 5, .. })),
            "{error:?}"
        );

        let server = HttpServer::start(|_| Answer::bytes(*b"image and more").claim_length(5));
        let (bytes, error) = read_all(options(), &server);
        assert_eq!(bytes, b"image");
        assert!(error.is_none(), "{error:?}");
    }

    #[test]
    fn a_cut_inside_tls_is_noticed() {
        let authority = TestAuthority::new("ours");
        let server = HttpServer::start_tls(&authority.issue("127.0.0.1"), |_| {
            Answer::bytes(pattern(LARGE)).cut_after(LARGE / 2)
        });
        let bundle = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(bundle.path(), authority.pem()).unwrap();
        let certificate_authorities = CertificateAuthorities::Files(vec![bundle.path().to_owned()]);
        let (_, error) = read_all(HttpOptions { certificate_authorities, ..options() }, &server);
        assert!(matches!(error, Some(FetchError::Truncated { expected: Some(_), .. })), "{error:?}");
    }

    #[test]
    fn silence_in_the_body_ends_the_wait() {
        let server = HttpServer::start(|_| Answer::bytes(pattern(1000)).stall_after(400));
        let stall_timeout = Duration::from_millis(300);
        let begin = Instant::now();
        let (bytes, error) = read_all(HttpOptions { stall_timeout, ..options() }, &server);
        assert_eq!(bytes.len(), 400);
        assert!(
            matches!(error, Some(FetchError::Stalled { limit, .. }) if limit == stall_timeout),
            "{error:?}"
        );
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    #[test]
    fn the_deadline_counts_from_the_request_on() {
        let server = HttpServer::start(|_| Answer::bytes(pattern(1000)).stall_after(400));
        let total_timeout = Some(Duration::from_millis(400));
        let (bytes, error) = read_all(HttpOptions { total_timeout, ..options() }, &server);
        assert_eq!(bytes.len(), 400);
        assert!(matches!(error, Some(FetchError::DeadlineExceeded { .. })), "{error:?}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the transfer is to be cancelled while nothing happens")]
    fn a_stalled_transfer_can_be_cancelled_quickly() {
        let server = HttpServer::start(|_| Answer::bytes(pattern(1000)).stall_after(400));
        let wanted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&wanted);
        let cancellation = Cancellation::when(move || seen.load(Ordering::SeqCst));
        let client = HttpClient::new(HttpOptions { cancellation, ..options() });
        let mut body = client.get(&ImageUrl::parse(&server.url("/")).unwrap()).unwrap();
        let mut first = [0; 400];
        body.read_exact(&mut first).unwrap();
        let begin = Instant::now();
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            wanted.store(true, Ordering::SeqCst);
        });
        assert!(matches!(body.chunk(), Err(FetchError::Cancelled)));
        drop((body, client));
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        canceller.join().unwrap();
    }

    #[test]
    fn chunks_can_be_used_in_part() {
        let server = HttpServer::start(|_| Answer::bytes(*b"image"));
        let mut body = HttpClient::new(options()).get(&ImageUrl::parse(&server.url("/")).unwrap()).unwrap();
        assert_eq!(body.chunk().unwrap(), b"image");
        body.consume(2);
        assert_eq!(body.chunk().unwrap(), b"age");
        body.consume(usize::MAX);
        assert_eq!(body.chunk().unwrap(), b"");
        assert_eq!(body.read(&mut [0; 4]).unwrap(), 0);
    }
}
