//! HTTP and HTTPS as images need it: one attempt, every byte accounted for. [`super::download`] tries again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::blocking::Client;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};

use crate::format::http_header::retry_after;
use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::certificates::CertificateAuthorities;
use super::error::{FetchError, RedirectFault};
use super::range::Validator;
use super::retry::RetryOptions;
pub use super::transfer::{Cancellation, LEAST_PROGRESS};
use super::transfer::{Deadline, Head, Pace, Patience, Transfer, library_timeout};
use super::url::{ImageUrl, without_credentials};

/// How we introduce ourselves.
pub const USER_AGENT: &str = concat!("ddictl/", env!("CARGO_PKG_VERSION"));

/// How many redirects are followed: mirror services need two or three.
pub const MAXIMUM_REDIRECTS: usize = 10;

/// How much of a header a message shows, in characters: servers may send hundreds of kilobytes.
const SHOWN_LENGTH: usize = 200;

/// How to fetch.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Which authorities https servers are judged by. They are read when the first https server is spoken to.
    pub certificate_authorities: CertificateAuthorities,
    /// Whether to go through proxies.
    pub proxies: Proxies,
    /// How long a connection may take to come about, TLS included.
    pub connect_timeout: Duration,
    /// How long the server may be silent, or send less than [`LEAST_PROGRESS`], before the answer and in it.
    pub stall_timeout: Duration,
    /// How long a transfer may take from the first connection to the last byte, with everything that is tried again.
    pub total_timeout: Option<Duration>,
    /// How often to try again.
    pub retry: RetryOptions,
    /// Whether the caller wants to stop.
    pub cancellation: Cancellation,
}

impl Default for HttpOptions {
    /// Authorities of the system, proxies of the environment, 30 s to connect, 60 s of silence, no limit in all.
    fn default() -> Self {
        Self {
            certificate_authorities: CertificateAuthorities::System,
            proxies: Proxies::Environment,
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            total_timeout: None,
            retry: RetryOptions::default(),
            cancellation: Cancellation::never(),
        }
    }
}

/// Whether to go through proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxies {
    /// As `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` say.
    Environment,
    /// Straight to the server.
    None,
}

/// Fetches. Clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: HttpOptions,
    plain: Mutex<Option<Client>>,
    secure: Mutex<Option<Client>>,
}

impl HttpClient {
    /// A client that has not spoken to anyone yet, nor read any file.
    #[must_use]
    pub fn new(options: HttpOptions) -> Self {
        Self(Arc::new(Shared { options, plain: Mutex::default(), secure: Mutex::default() }))
    }

    /// How to fetch.
    pub(super) fn options(&self) -> &HttpOptions {
        &self.0.options
    }

    /// When a transfer that begins now must be over.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.0.options.total_timeout.and_then(Deadline::after)
    }

    /// How to wait for `host`.
    pub(super) fn patience(&self, host: String, deadline: Option<Deadline>) -> Patience {
        let options = &self.0.options;
        Patience { host, stall: options.stall_timeout, deadline, cancellation: options.cancellation.clone() }
    }

    /// Asks for `url`, or a part of it, and follows redirects. The answer has a status of 200 to 299, or is the 416 that
    /// [`Asked::From`] may get.
    pub(super) fn request(
        &self,
        url: &ImageUrl,
        asked: &Asked,
        deadline: Option<Deadline>,
    ) -> Result<Answer, FetchError> {
        let mut current = url.clone();
        for _ in 0..=MAXIMUM_REDIRECTS {
            let request =
                self.library(&current)?.get(current.as_url().clone()).header(ACCEPT_ENCODING, "identity");
            let request = match asked {
                Asked::Whole => request,
                Asked::Parts(parts) => request.header(RANGE, range_header(parts)),
                Asked::Ends { first, last } => {
                    request.header(RANGE, format!("bytes=0-{},-{last}", first.bytes().saturating_sub(1)))
                }
                Asked::From(start, version) => {
                    request.header(RANGE, format!("bytes={start}-")).header(IF_RANGE, version.as_str())
                }
            };
            let patience = self.patience(current.host(), deadline);
            let pace = match asked {
                Asked::Whole | Asked::From(..) => Pace::Ahead,
                Asked::Parts(_) | Asked::Ends { .. } => Pace::AsTaken,
            };
            let (head, transfer) = Transfer::start(request, patience, pace)?;
            match head.status {
                200..=299 => return Ok(Answer { url: current, head, transfer }),
                416 if matches!(asked, Asked::From(..)) => {
                    return Ok(Answer { url: current, head, transfer });
                }
                301 | 302 | 303 | 307 | 308 => current = redirected(&current, head.headers.get(LOCATION))?,
                404 => return Err(FetchError::NotFound { url: current }),
                status @ (401 | 403) => return Err(FetchError::Unauthorized { url: current, status }),
                429 => {
                    let retry_after = wait_asked_for(&head.headers);
                    return Err(FetchError::TooManyRequests { url: current, retry_after });
                }
                status @ 500..=599 => {
                    let retry_after = wait_asked_for(&head.headers);
                    return Err(FetchError::ServerError { url: current, status, retry_after });
                }
                status => return Err(FetchError::UnexpectedStatus { url: current, status }),
            }
        }
        Err(FetchError::TooManyRedirects { url: url.clone(), limit: MAXIMUM_REDIRECTS })
    }

    /// The HTTP library, set up for the scheme of `url`. The authorities are read for https alone, so that http works
    /// where there are none.
    fn library(&self, url: &ImageUrl) -> Result<Client, FetchError> {
        let slot = if url.is_https() { &self.0.secure } else { &self.0.plain };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let options = &self.0.options;
        let authorities =
            if url.is_https() { options.certificate_authorities.load()? } else { RootCertStore::empty() };
        let client = build(options, authorities)?;
        *slot = Some(client.clone());
        Ok(client)
    }
}

/// What to ask a server for.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    /// The whole file.
    Whole,
    /// Parts of it, none of them empty.
    Parts(Vec<Extent>),
    /// So much from its beginning, and so much from its end, whatever its size; neither is nothing.
    Ends {
        /// From the beginning.
        first: ByteLength,
        /// From the end.
        last: ByteLength,
    },
    /// Everything from an offset on if the file is still this version, else the whole (RFC 9110, 13.1.5).
    From(ByteOffset, Validator),
}

/// How long the server asks to wait.
#[expect(clippy::disallowed_methods, reason = "a server may name the time when to come back")]
fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// Sets up the HTTP library. Redirects are ours: it would follow from https to http.
fn build(options: &HttpOptions, authorities: RootCertStore) -> Result<Client, FetchError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Setup { source: error.into() })?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(options.connect_timeout)
        .timeout(library_timeout(options.stall_timeout));
    let builder = match options.proxies {
        Proxies::Environment => builder,
        Proxies::None => builder.no_proxy(),
    };
    builder.build().map_err(|error| FetchError::Setup { source: error.into() })
}

/// The value of a `Range` header (RFC 9110, 14.1.2); both ends are inclusive.
fn range_header(parts: &[Extent]) -> String {
    let part = |part: &Extent| format!("{}-{}", part.start(), part.end().bytes().saturating_sub(1));
    format!("bytes={}", parts.iter().map(part).collect::<Vec<_>>().join(","))
}

/// Where a redirect leads, if one may go there.
fn redirected(from: &ImageUrl, location: Option<&HeaderValue>) -> Result<ImageUrl, FetchError> {
    let to = location.map(|location| without_credentials(&shown(location))).unwrap_or_default();
    let refused = |why| FetchError::RedirectRefused { from: from.clone(), to: to.clone(), why };
    let target = location
        .and_then(|location| location.to_str().ok())
        .and_then(|location| from.resolve(location))
        .ok_or_else(|| refused(RedirectFault::NoLocation))?;
    match target.scheme() {
        "https" => (),
        "http" if from.is_https() => return Err(refused(RedirectFault::Downgrade)),
        "http" => (),
        _ => return Err(refused(RedirectFault::UnsupportedScheme)),
    }
    ImageUrl::parse(target.as_str()).map_err(|_| refused(RedirectFault::NoLocation))
}

/// The value of a header as a message shows it.
pub(super) fn shown(value: &HeaderValue) -> String {
    value.to_str().unwrap_or("(not text)").chars().take(SHOWN_LENGTH).collect()
}

/// An answer with a status of 200 to 299, its body still to come.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where it came from in the end.
    pub(super) url: ImageUrl,
    pub(super) head: Head,
    pub(super) transfer: Transfer,
}

impl Answer {
    /// Whether the body is the bytes of the file, and its end can be told.
    ///
    /// # Errors
    ///
    /// [`FetchError::ContentEncoding`] or [`FetchError::UnboundedBody`].
    pub(super) fn check_framing(&self) -> Result<(), FetchError> {
        if let Some(found) = content_encoding(&self.head.headers) {
            return Err(FetchError::ContentEncoding { url: self.url.clone(), found });
        }
        if self.head.length.is_none() && !is_chunked(&self.head.headers) {
            return Err(FetchError::UnboundedBody { url: self.url.clone() });
        }
        Ok(())
    }
}

/// The first content encoding that is one.
fn content_encoding(headers: &HeaderMap) -> Option<String> {
    let is_identity = |token: &str| token.is_empty() || token.eq_ignore_ascii_case("identity");
    let is_plain = |value: &HeaderValue| {
        value.to_str().is_ok_and(|tokens| tokens.split(',').map(str::trim).all(is_identity))
    };
    headers.get_all(CONTENT_ENCODING).iter().find(|value| !is_plain(value)).map(shown)
}

/// Whether the body is in chunks, of which the last one says so, and in no other transfer coding.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (Some(coding), None) = (codings.next(), codings.next()) else { return false };
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::super::download::Download;
    use super::super::error::TlsFault;
    use super::super::http_server::{Answer as Served, HttpServer, TestAuthority, TestCertificate};
    use super::super::origin::Origin;
    use super::*;

    fn options() -> HttpOptions {
        HttpOptions { proxies: Proxies::None, retry: RetryOptions::never(), ..HttpOptions::default() }
    }

    fn get(url: &str) -> Result<Download, FetchError> {
        get_by(&HttpClient::new(options()), url)
    }

    fn get_by(client: &HttpClient, url: &str) -> Result<Download, FetchError> {
        Download::open(client, &Origin::Http(ImageUrl::parse(url).unwrap()), &|_| ())
    }

    fn all(download: Download) -> Vec<u8> {
        download.read_all(ByteLength::new(1000), &|_| ()).unwrap()
    }

    /// What a client that trusts `authority` gets from a server with `certificate`.
    fn get_secure(authority: &TestAuthority, certificate: &TestCertificate) -> Result<Vec<u8>, FetchError> {
        let server = HttpServer::start_tls(certificate, |_| Served::bytes(*b"image"));
        let bundle = tempfile::NamedTempFile::new().unwrap();
        fs::write(bundle.path(), authority.pem()).unwrap();
        let certificate_authorities = CertificateAuthorities::Files(vec![bundle.path().to_owned()]);
        let client = HttpClient::new(HttpOptions { certificate_authorities, ..options() });
        Ok(all(get_by(&client, &server.url("/"))?))
    }

    #[test]
    fn the_request_says_who_we_are_and_that_bytes_are_wanted_as_they_are() {
        let server = HttpServer::start(|_| Served::bytes(*b"image").header("ETag", "\"1\""));
        let body = get(&server.url("/dir/image.raw?x=1")).unwrap();
        assert_eq!(body.total(), Some(5));
        assert_eq!(body.validator(), Some(&Validator::EntityTag("\"1\"".into())));
        let requests = server.requests();
        let [request] = requests.as_slice() else { panic!("{requests:?}") };
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/dir/image.raw?x=1"));
        assert_eq!(request.header("User-Agent"), Some(USER_AGENT));
        assert_eq!(request.header("Accept-Encoding"), Some("identity"));
        assert_eq!(request.header("Range"), None);
    }

    #[test]
    fn every_status_but_200_is_an_error_of_its_own() {
        let server = HttpServer::start(|request| Served::status(request.path[1..].parse().unwrap()));
        let message = |status: u16| get(&server.url(&format!("/{status}"))).unwrap_err();
        assert!(matches!(message(404), FetchError::NotFound { .. }));
        for expected in [401, 403] {
            assert!(
                matches!(message(expected), FetchError::Unauthorized { status, .. } if status == expected)
            );
        }
        for expected in [500, 503, 599] {
            assert!(
                matches!(message(expected), FetchError::ServerError { status, .. } if status == expected)
            );
        }
        assert!(matches!(message(429), FetchError::TooManyRequests { retry_after: None, .. }));
        for expected in [204, 206, 300, 304, 400, 410, 416, 600] {
            let error = message(expected);
            assert!(
                matches!(error, FetchError::UnexpectedStatus { status, .. } if status == expected),
                "{error:?}"
            );
        }
    }

    #[test]
    fn an_encoded_answer_is_refused() {
        for encoding in ["gzip", "identity, br", "made-up"] {
            let server =
                HttpServer::start(move |_| Served::bytes(*b"image").header("Content-Encoding", encoding));
            match get(&server.url("/")) {
                Err(FetchError::ContentEncoding { found, .. }) => assert_eq!(found, encoding),
                other => panic!("{other:?}"),
            }
        }
        let server = HttpServer::start(|_| Served::bytes(*b"image").header("Content-Encoding", "Identity"));
        assert!(get(&server.url("/")).is_ok());
    }

    #[test]
    fn an_answer_whose_end_cannot_be_told_is_refused() {
        let bare = Served::bytes(*b"image").without_length();
        for served in [bare.clone(), bare.header("Transfer-Encoding", "gzip, chunked")] {
            let server = HttpServer::start(move |_| served.clone());
            assert!(matches!(get(&server.url("/")), Err(FetchError::UnboundedBody { .. })));
        }
    }

    #[test]
    fn what_is_no_http_is_no_answer() {
        for served in [Served::garbage(), Served::hang_up()] {
            let server = HttpServer::start(move |_| served.clone());
            let error = get(&server.url("/")).unwrap_err();
            assert!(matches!(error, FetchError::InvalidAnswer { .. }) && error.is_transient(), "{error:?}");
        }
    }

    #[test]
    fn where_nobody_listens_connecting_fails() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        match get(&format!("http://user:secret@{address}/")) {
            Err(FetchError::Connect { host, source }) => {
                assert_eq!(host, address.to_string());
                assert!(!format!("{source:?}").contains("secret"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn redirects_are_followed_and_the_last_place_is_known() {
        let server = HttpServer::start(|request| match request.path.as_str() {
            "/a/1" => Served::redirect("../b/2").with_status(301),
            "/b/2" => Served::redirect("/3?x").with_status(308),
            "/3?x" => Served::bytes(*b"image"),
            _ => Served::status(404),
        });
        let body = get(&server.url("/a/1")).unwrap();
        assert_eq!(body.place().unwrap().to_string(), server.url("/3?x"));
        assert_eq!(all(body), b"image");
    }

    #[test]
    fn redirects_without_end_are_refused() {
        let server = HttpServer::start(|request| Served::redirect(&format!("{}x", request.path)));
        match get(&server.url("/")) {
            Err(FetchError::TooManyRedirects { url, limit: 10 }) => {
                assert_eq!(url.to_string(), server.url("/"))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.requests().len(), 11);
    }

    #[test]
    fn redirects_to_other_schemes_or_nowhere_are_refused() {
        let table = [
            ("ftp://a.example/x", RedirectFault::UnsupportedScheme),
            ("file:///etc/passwd", RedirectFault::UnsupportedScheme),
            ("http://", RedirectFault::NoLocation),
            ("https://user:secret@a.example:70000/", RedirectFault::NoLocation),
        ];
        for (target, expected) in table {
            let server = HttpServer::start(move |_| Served::redirect(target));
            match get(&server.url("/")) {
                Err(error @ FetchError::RedirectRefused { why, .. }) => {
                    assert_eq!(why, expected, "{target}");
                    assert!(!error.to_string().contains("secret"), "{error}");
                }
                other => panic!("{target}: {other:?}"),
            }
        }
        let server = HttpServer::start(|_| Served::status(302));
        assert!(matches!(
            get(&server.url("/")),
            Err(FetchError::RedirectRefused { why: RedirectFault::NoLocation, .. })
        ));
    }

    #[test]
    fn a_redirect_from_https_to_http_is_refused() {
        let from = ImageUrl::parse("https://a.example/dir/x").unwrap();
        let to = |location| redirected(&from, Some(&HeaderValue::from_static(location)));
        match to("http://a.example/dir/x") {
            Err(FetchError::RedirectRefused { why: RedirectFault::Downgrade, .. }) => (),
            other => panic!("{other:?}"),
        }
        assert_eq!(to("y").unwrap().to_string(), "https://a.example/dir/y");
        assert_eq!(to("//b.example/y").unwrap().to_string(), "https://b.example/y");

        // The same over the wire: the first hop is https, and nobody ever asks the second.
        let plain = HttpServer::start(|_| Served::bytes(*b"evil"));
        let authority = TestAuthority::new("one");
        let target = plain.url("/");
        let secure = HttpServer::start_tls(&authority.issue("127.0.0.1"), move |_| Served::redirect(&target));
        let bundle = tempfile::NamedTempFile::new().unwrap();
        fs::write(bundle.path(), authority.pem()).unwrap();
        let certificate_authorities = CertificateAuthorities::Files(vec![bundle.path().to_owned()]);
        let client = HttpClient::new(HttpOptions { certificate_authorities, ..options() });
        assert!(matches!(
            get_by(&client, &secure.url("/")),
            Err(FetchError::RedirectRefused { why: RedirectFault::Downgrade, .. })
        ));
        assert!(plain.requests().is_empty());
    }

    #[test]
    fn a_server_must_prove_who_it_is() {
        let (ours, foreign) = (TestAuthority::new("ours"), TestAuthority::new("foreign"));
        assert_eq!(get_secure(&ours, &ours.issue("127.0.0.1")).unwrap(), b"image");
        let table = [
            (foreign.issue("127.0.0.1"), TlsFault::UnknownIssuer),
            (ours.issue("other.example"), TlsFault::WrongName),
            (ours.issue_expired("127.0.0.1"), TlsFault::Expired),
        ];
        for (certificate, expected) in table {
            match get_secure(&ours, &certificate) {
                Err(FetchError::Tls { reason, host }) => {
                    assert_eq!(reason, expected);
                    assert!(host.starts_with("127.0.0.1:"));
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn authorities_are_read_for_https_alone() {
        let server = HttpServer::start(|request| match request.path.as_str() {
            "/secure" => Served::redirect("https://127.0.0.1:1/"),
            _ => Served::bytes(*b"image"),
        });
        let certificate_authorities = CertificateAuthorities::Files(Vec::new());
        let client = HttpClient::new(HttpOptions { certificate_authorities, ..options() });
        assert!(get_by(&client, &server.url("/")).is_ok());
        assert!(matches!(
            get_by(&client, &server.url("/secure")),
            Err(FetchError::NoCertificateAuthorities { .. })
        ));
    }

    #[test]
    fn a_server_that_never_answers_ends_the_wait() {
        let server = HttpServer::start(|_| Served::hang());
        let url = server.url("/");
        let stall_timeout = Duration::from_millis(300);
        let client = HttpClient::new(HttpOptions { stall_timeout, ..options() });
        assert!(
            matches!(get_by(&client, &url), Err(FetchError::Stalled { limit, .. }) if limit == stall_timeout)
        );

        let cancellation = Cancellation::when(|| true);
        let client = HttpClient::new(HttpOptions { cancellation, ..options() });
        assert!(matches!(get_by(&client, &url), Err(FetchError::Cancelled)));
    }
}
