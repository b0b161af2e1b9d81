//! What can go wrong between a URL and its bytes.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::format::units::{ByteLength, Extent};

use super::range::Identity;
use super::url::ImageUrl;

/// Why bytes could not be fetched. No message shows the user name or the password of a URL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The caller asked to stop.
    #[error("fetching was interrupted")]
    Cancelled,

    /// A file of certificate authorities that the caller named cannot be used.
    #[error("reading certificate authorities from '{path}'")]
    CertificateFile {
        /// The file as it was named.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// No connection came about: the name is unknown, nobody listens, or it took longer than the connect timeout.
    #[error("connecting to '{host}'")]
    Connect {
        /// Host and port.
        host: String,
        /// What the network said.
        #[source]
        source: Cause,
    },

    /// The answer is encoded although the bytes as they are were asked for.
    #[error("answer of '{url}' has content encoding '{found}', expected none")]
    ContentEncoding {
        /// What was asked for.
        url: ImageUrl,
        /// The encoding the server names.
        found: String,
    },

    /// The whole transfer took longer than it may.
    #[error("transfer took longer than {} s: give it more time with --timeout=", .limit.as_secs_f64())]
    DeadlineExceeded {
        /// How long it may take.
        limit: Duration,
    },

    /// It failed time and again.
    #[error("gave up after {attempts} attempts")]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// What was wrong the last time.
        #[source]
        source: Box<FetchError>,
    },

    /// The text is not the URL of an image.
    #[error("URL '{url}' is not usable: {fault}")]
    InvalidUrl {
        /// The text, without user name and password.
        url: String,
        /// What is wrong with it.
        fault: UrlFault,
    },

    /// What came back is no HTTP answer, or the server hung up instead of giving one.
    #[error("receiving the answer of '{host}'")]
    InvalidAnswer {
        /// Host and port.
        host: String,
        /// What was wrong.
        #[source]
        source: Cause,
    },

    /// A file of this machine, or standard input, cannot be read.
    #[error("reading '{name}'")]
    Local {
        /// The path, or what it is.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The TLS or HTTP machinery could not be set up.
    #[error("preparing to fetch")]
    Setup {
        /// Why.
        #[source]
        source: Cause,
    },

    /// There is no certificate authority to judge an https server by.
    #[error(
        "no certificate authorities found, tried {}: install the package 'ca-certificates', or name a file with \
         --ca-certificate= or in SSL_CERT_FILE",
        Paths(.tried)
    )]
    NoCertificateAuthorities {
        /// Every file that was looked at.
        tried: Vec<PathBuf>,
    },

    /// The server has no such thing (404).
    #[error("'{url}' not found (HTTP 404): check the URL, upper and lower case included")]
    NotFound {
        /// What was asked for.
        url: ImageUrl,
    },

    /// A read lies outside of the source.
    #[error("{asked} are outside of a source of {total} bytes")]
    OutsideOfSource {
        /// What was asked for.
        asked: Extent,
        /// How large the source is.
        total: ByteLength,
    },

    /// The server answers a request for a part with the whole.
    #[error(
        "'{url}' is not to be had in parts: its server does not answer range requests, so only the whole can be pulled"
    )]
    RangeNotSupported {
        /// What was asked for.
        url: ImageUrl,
    },

    /// A redirect that must not be followed.
    #[error("redirect of '{from}' to '{to}' refused: {why}")]
    RedirectRefused {
        /// What was asked for.
        from: ImageUrl,
        /// Where the server points to, without user name and password.
        to: String,
        /// Why it is not followed.
        why: RedirectFault,
    },

    /// The server fails (5xx).
    #[error("server of '{url}' failed (HTTP {status}): try again later, or ask whoever runs it")]
    ServerError {
        /// What was asked for.
        url: ImageUrl,
        /// The status, 500 to 599.
        status: u16,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },

    /// The source is not the same as it was at the first request.
    #[error("'{url}' changed while it was read: it was {before}, and is {after}")]
    SourceChanged {
        /// What was asked for.
        url: ImageUrl,
        /// What it was at first.
        before: Box<Identity>,
        /// What it is now.
        after: Box<Identity>,
    },

    /// Nothing came for too long, or hardly anything.
    #[error("'{host}' sent {} in {} s", Little(*.received), .limit.as_secs_f64())]
    Stalled {
        /// Host and port.
        host: String,
        /// How many bytes came in that time, fewer than [`super::client::LEAST_PROGRESS`].
        received: u64,
        /// How long the silence may last.
        limit: Duration,
    },

    /// A thread for the transfer could not be started.
    #[error("starting the transfer")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The server is not who it should be, or cannot prove it.
    #[error("TLS handshake with '{host}' failed: {reason}{}", Remedy(.reason))]
    Tls {
        /// Host and port.
        host: String,
        /// What is wrong.
        reason: TlsFault,
    },

    /// More was asked for in one read than one read may bring into memory.
    #[error("reading {asked} bytes at once, at most {limit} are allowed")]
    TooMuchAtOnce {
        /// How many bytes were asked for, with the gaps between them that would be fetched too.
        asked: ByteLength,
        /// How many it may be.
        limit: ByteLength,
    },

    /// A small file is larger than it may be.
    #[error("'{url}' is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// How large it may be.
        limit: ByteLength,
    },

    /// The server wants fewer requests (429).
    #[error("server of '{url}' takes no more requests for now (HTTP 429): try again later")]
    TooManyRequests {
        /// What was asked for.
        url: ImageUrl,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },

    /// The server sends from one place to the next without end.
    #[error("more than {limit} redirects from '{url}'")]
    TooManyRedirects {
        /// Where it began.
        url: ImageUrl,
        /// How many it may be.
        limit: usize,
    },

    /// The body broke off before its end.
    #[error("transfer broke off after {found} bytes{}", Expected(.expected))]
    Truncated {
        /// How long the body should have been; `None` where the server sends it in chunks.
        expected: Option<u64>,
        /// How many bytes came.
        found: u64,
        /// What the network said, where it said something.
        #[source]
        source: Option<Cause>,
    },

    /// The server wants to know who asks, or does not like who does (401, 403).
    #[error("access to '{url}' denied (HTTP {status}): {}", Denied(*.status))]
    Unauthorized {
        /// What was asked for.
        url: ImageUrl,
        /// 401 or 403.
        status: u16,
    },

    /// The end of the body could not be told from a connection that broke: it has neither a length nor chunks.
    #[error("answer of '{url}' has neither a length nor chunks")]
    UnboundedBody {
        /// What was asked for.
        url: ImageUrl,
    },

    /// A status that is no answer to what was asked.
    #[error("unexpected answer of '{url}' (HTTP {status})")]
    UnexpectedStatus {
        /// What was asked for.
        url: ImageUrl,
        /// The status.
        status: u16,
    },

    /// The server sends another part than the one asked for.
    #[error("asked for {asked}, answered with '{answered}'")]
    WrongRange {
        /// What was asked for.
        asked: Extent,
        /// What the server says it sends.
        answered: String,
    },
}

impl FetchError {
    /// This error as readers carry it; [`Self::from_io`] gets it back.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// How long the server asks to wait before the next request.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ServerError { retry_after, .. } | Self::TooManyRequests { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether what was asked for is not there, as far as the other side says: an answer, unlike a failure.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Local { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Whether the server could not be spoken with at all, whatever it was asked for.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::GaveUp { source, .. } => source.is_unreachable(),
            Self::Connect { .. } | Self::Stalled { .. } => true,
            _ => false,
        }
    }

    /// The error that [`Self::into_io`] hid in an [`io::Error`].
    ///
    /// # Errors
    ///
    /// The error unchanged where it came from somewhere else.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }

    /// Whether the same request may succeed a moment later: the network or the server failed, not the answer.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::InvalidAnswer { .. }
                | Self::ServerError { .. }
                | Self::Stalled { .. }
                | Self::TooManyRequests { .. }
                | Self::Truncated { .. }
        )
    }
}

/// The cause of an error as a library below reports it.
pub type Cause = Box<dyn Error + Send + Sync>;

/// What is wrong with a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// A `file:` URL that does not name a file of this machine by its whole path.
    #[error("expected 'file:' and the whole path of a file of this machine")]
    NoLocalPath,
    /// It does not follow the grammar.
    #[error("{0}")]
    Malformed(String),
    /// It names no host.
    #[error("no host")]
    NoHost,
    /// Longer than a URL may be.
    #[error("{found} bytes long, at most {limit} are allowed")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A character that a URL does not have.
    #[error("character {0:?} is not allowed")]
    UnexpectedCharacter(char),
    /// A scheme other than http and https.
    #[error("scheme '{0}' is not supported")]
    UnsupportedScheme(String),
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedirectFault {
    /// From https to http: whoever listens could then change the bytes.
    #[error("it leaves https for http")]
    Downgrade,
    /// The place to go on to is missing or not a URL.
    #[error("no usable location")]
    NoLocation,
    /// To a scheme other than http and https.
    #[error("its scheme is not supported")]
    UnsupportedScheme,
}

/// What is wrong with a TLS server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// The certificate has ended.
    #[error("certificate has expired")]
    Expired,
    /// The certificate begins later: one of the two clocks is wrong.
    #[error("certificate is not valid yet")]
    NotYetValid,
    /// Anything else, in the words of the TLS library.
    #[error("{0}")]
    Other(String),
    /// The certificate has been revoked.
    #[error("certificate has been revoked")]
    Revoked,
    /// None of our authorities issued the certificate.
    #[error("certificate is issued by an unknown authority")]
    UnknownIssuer,
    /// The certificate belongs to somebody else.
    #[error("certificate is not valid for this host name")]
    WrongName,
}

/// How little came, in a sentence.
struct Little(u64);

impl fmt::Display for Little {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("nothing"),
            received => write!(f, "only {received} bytes"),
        }
    }
}

/// What can be done about a denial, in a sentence.
struct Denied(u16);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            401 => "it wants to know who asks: write user name and password into the URL, as in https://USER:PASSWORD@HOST/",
            _ => "the server does not give it to you: ask whoever runs it",
        })
    }
}

/// What can be done about a server that cannot prove who it is, in a sentence.
struct Remedy<'a>(&'a TlsFault);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            TlsFault::Expired => ": is the clock right? If it is, whoever runs the server has to renew it",
            TlsFault::NotYetValid => ": is the clock right?",
            TlsFault::UnknownIssuer => ": if you trust it, name its certificate with --ca-certificate=",
            TlsFault::WrongName => ": use the name that stands in the certificate",
            TlsFault::Revoked | TlsFault::Other(_) => "",
        })
    }
}

/// Paths in a sentence.
struct Paths<'a>(&'a [PathBuf]);

impl fmt::Display for Paths<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, path) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}'{}'", path.display())?;
        }
        Ok(())
    }
}

/// The length a body should have had, in a sentence.
struct Expected<'a>(&'a Option<u64>);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(length) => write!(f, ", expected {length}"),
            None => f.write_str(", before its last chunk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_survives_the_way_through_a_reader() {
        let carried = FetchError::Truncated { expected: Some(10), found: 3, source: None }.into_io();
        assert!(matches!(
            FetchError::from_io(carried),
            Ok(FetchError::Truncated { expected: Some(10), found: 3, source: None })
        ));
        assert!(FetchError::from_io(io::Error::other("something else")).is_err());
    }

    #[test]
    fn messages_say_what_was_expected_and_what_was_found() {
        let tried = vec![PathBuf::from("/a.pem"), PathBuf::from("/b.pem")];
        let table: [(FetchError, &str); 6] = [
            (
                FetchError::NoCertificateAuthorities { tried },
                "no certificate authorities found, tried '/a.pem', '/b.pem': install the package 'ca-certificates', or name a \
                 file with --ca-certificate= or in SSL_CERT_FILE",
            ),
            (
                FetchError::Truncated { expected: Some(10), found: 3, source: None },
                "transfer broke off after 3 bytes, expected 10",
            ),
            (
                FetchError::Truncated { expected: None, found: 3, source: None },
                "transfer broke off after 3 bytes, before its last chunk",
            ),
            (
                FetchError::Stalled {
                    host: "a.example:80".into(),
                    received: 0,
                    limit: Duration::from_secs(60),
                },
                "'a.example:80' sent nothing in 60 s",
            ),
            (
                FetchError::Stalled {
                    host: "a.example:80".into(),
                    received: 60,
                    limit: Duration::from_millis(1500),
                },
                "'a.example:80' sent only 60 bytes in 1.5 s",
            ),
            (
                FetchError::Tls { host: "a.example:443".into(), reason: TlsFault::UnknownIssuer },
                "TLS handshake with 'a.example:443' failed: certificate is issued by an unknown \
                 authority: if you trust it, name its certificate with --ca-certificate=",
            ),
        ];
        for (error, message) in table {
            assert_eq!(error.to_string(), message);
        }
    }
}
