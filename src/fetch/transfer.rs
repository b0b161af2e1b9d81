//! One request on a thread of its own, so that whoever waits for its bytes can stop waiting at any time.
//!
//! The HTTP library blocks for as long as its timeouts allow. The thread blocks in it; the owner of a [`Transfer`] waits
//! on a bounded channel in short steps, and drops it to be rid of the thread: the thread ends with its next message, or
//! with the timeout of the library where the server is silent.

use std::error::Error;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::{RequestBuilder, Response};
use reqwest::header::HeaderMap;

use super::error::{FetchError, TlsFault};

/// The size of a buffer, in bytes: what one read can bring at most. The HTTP library reads at most 400 KiB at once.
const BUFFER_LENGTH: usize = 512 * 1024;

/// How many filled buffers may wait for the reader. With the one in either hand this bounds the memory of a transfer.
const WAITING_BUFFERS: usize = 4;

/// How long a wait may last before the caller is asked again whether it still wants the bytes.
const PATIENCE: Duration = Duration::from_millis(100);

/// How much longer than the reader the thread waits for a silent server: the reader reports the silence.
const GRACE: Duration = Duration::from_secs(10);

/// Whether the caller wants to stop: asked at least every 100 ms while fetching waits, and for every chunk.
#[derive(Clone)]
pub struct Cancellation(Arc<dyn Fn() -> bool + Send + Sync>);

impl Cancellation {
    /// Stop as soon as `wanted` returns true. It must return quickly.
    pub fn when(wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(wanted))
    }

    /// Never stop.
    #[must_use]
    pub fn never() -> Self {
        Self::when(|| false)
    }
}

impl Default for Cancellation {
    fn default() -> Self {
        Self::never()
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cancellation")
    }
}

/// How long to wait for the bytes of one transfer.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// Host and port, for messages.
    pub(super) host: String,
    /// How long the server may be silent.
    pub(super) stall: Duration,
    /// When everything must be over, and how long that is from the beginning.
    pub(super) deadline: Option<(Instant, Duration)>,
    /// Whether the caller wants to stop.
    pub(super) cancellation: Cancellation,
}

/// Status and headers of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// The length of the body where it is known beforehand.
    pub(super) length: Option<u64>,
}

/// A buffer with the bytes of one read at its beginning.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
}

impl Chunk {
    /// The bytes of the read.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }
}

/// What the thread has to say, in this order: the head, chunks, the end; or a failure at any point.
enum Message {
    Head(Box<Head>),
    NoAnswer(reqwest::Error),
    Chunk(Chunk),
    End,
    Broken(io::Error),
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Transfer {
    messages: Receiver<Message>,
    used: Sender<Vec<u8>>,
    patience: Patience,
}

impl Transfer {
    /// Sends `request` and waits for the head of the answer.
    pub(super) fn start(request: RequestBuilder, patience: Patience) -> Result<(Head, Self), FetchError> {
        let (sender, messages) = sync_channel(WAITING_BUFFERS);
        let (used, free) = channel();
        thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || run(request, &sender, &free))
            .map_err(|source| FetchError::Thread { source })?;
        let transfer = Self { messages, used, patience };
        match transfer.wait()? {
            Some(Message::Head(head)) => Ok((*head, transfer)),
            Some(Message::NoAnswer(error)) => Err(transfer.no_answer(error)),
            _ => Err(FetchError::InvalidAnswer {
                host: transfer.patience.host,
                source: "the transfer ended without a word".into(),
            }),
        }
    }

    /// The next bytes, at least one; `None` at the end of the body. `expected` and `found` are the length of the body
    /// and the bytes of it that came so far, for the error.
    pub(super) fn next(&mut self, expected: Option<u64>, found: u64) -> Result<Option<Chunk>, FetchError> {
        let truncated = |source| FetchError::Truncated { expected, found, source };
        match self.wait()? {
            Some(Message::Chunk(chunk)) => Ok(Some(chunk)),
            Some(Message::End) if expected.is_none_or(|expected| expected == found) => Ok(None),
            Some(Message::Broken(error)) if is_timeout(&error) => Err(self.stalled()),
            Some(Message::Broken(error)) => Err(truncated(Some(error.into()))),
            _ => Err(truncated(None)),
        }
    }

    /// Gives a chunk back so that its memory can be used again.
    pub(super) fn give_back(&self, chunk: Chunk) {
        // The thread may have ended: then nobody needs the memory.
        let _ = self.used.send(chunk.buffer);
    }

    /// The next message; `None` where the thread ended without one.
    fn wait(&self) -> Result<Option<Message>, FetchError> {
        let silent_since = Instant::now();
        loop {
            if (self.patience.cancellation.0)() {
                return Err(FetchError::Cancelled);
            }
            if let Some((deadline, limit)) = self.patience.deadline
                && Instant::now() >= deadline
            {
                return Err(FetchError::DeadlineExceeded { limit });
            }
            match self.messages.recv_timeout(PATIENCE) {
                Ok(message) => return Ok(Some(message)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if silent_since.elapsed() >= self.patience.stall => {
                    return Err(self.stalled());
                }
                Err(RecvTimeoutError::Timeout) => (),
            }
        }
    }

    fn stalled(&self) -> FetchError {
        FetchError::Stalled { host: self.patience.host.clone(), limit: self.patience.stall }
    }

    /// The meaning of the HTTP library's failure to get an answer.
    fn no_answer(&self, error: reqwest::Error) -> FetchError {
        let host = self.patience.host.clone();
        let error = error.without_url();
        if let Some(reason) = tls_fault(&error) {
            FetchError::Tls { host, reason }
        } else if error.is_connect() {
            FetchError::Connect { host, source: error.into() }
        } else if error.is_timeout() {
            self.stalled()
        } else {
            FetchError::InvalidAnswer { host, source: error.into() }
        }
    }
}

/// How long the HTTP library may wait for a server that may be silent for `stall`.
pub(super) fn library_timeout(stall: Duration) -> Duration {
    stall.saturating_add(GRACE)
}

/// What the thread does. A message that nobody takes ends it.
fn run(request: RequestBuilder, messages: &SyncSender<Message>, free: &Receiver<Vec<u8>>) {
    let mut response = match request.send() {
        Ok(response) => response,
        Err(error) => {
            let _ = messages.send(Message::NoAnswer(error));
            return;
        }
    };
    let head = Head {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        length: response.content_length(),
    };
    let mut message = Message::Head(Box::new(head));
    while messages.send(message).is_ok() {
        message = match read(&mut response, free) {
            Ok(chunk) if chunk.filled == 0 => Message::End,
            Ok(chunk) => Message::Chunk(chunk),
            Err(error) => Message::Broken(error),
        };
        if matches!(message, Message::End | Message::Broken(_)) {
            let _ = messages.send(message);
            return;
        }
    }
}

/// One read into a buffer that was used before, or into a new one.
fn read(response: &mut Response, free: &Receiver<Vec<u8>>) -> io::Result<Chunk> {
    let mut buffer = free.try_recv().unwrap_or_default();
    buffer.resize(BUFFER_LENGTH, 0);
    loop {
        match response.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            result => return result.map(|filled| Chunk { buffer, filled }),
        }
    }
}

/// Whether the HTTP library gave up waiting.
fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
    error.kind() == io::ErrorKind::TimedOut || inner.is_some_and(reqwest::Error::is_timeout)
}

/// The error of the TLS library among the causes of `error`.
fn tls_fault(error: &(dyn Error + 'static)) -> Option<TlsFault> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(meaning(error));
        }
        // An I/O error passes over the error in it when it is asked for its source.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn meaning(error: &rustls::Error) -> TlsFault {
    use rustls::CertificateError as Flaw;

    let rustls::Error::InvalidCertificate(flaw) = error else {
        return TlsFault::Other(error.to_string());
    };
    match flaw {
        Flaw::Expired | Flaw::ExpiredContext { .. } => TlsFault::Expired,
        Flaw::NotValidYet | Flaw::NotValidYetContext { .. } => TlsFault::NotYetValid,
        Flaw::NotValidForName | Flaw::NotValidForNameContext { .. } => TlsFault::WrongName,
        Flaw::Revoked => TlsFault::Revoked,
        Flaw::UnknownIssuer => TlsFault::UnknownIssuer,
        _ => TlsFault::Other(error.to_string()),
    }
}
