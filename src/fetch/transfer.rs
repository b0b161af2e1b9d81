//! One request on a thread of its own, so that whoever waits for its bytes can stop waiting at any time.
//!
//! The HTTP library blocks for as long as its timeouts allow, and a pipe as long as nobody writes. The thread blocks in
//! them; the owner of a [`Transfer`] waits on a bounded channel in short steps, and drops it to be rid of the thread: the
//! thread ends with its next message, or with the timeout of the library where the server is silent.

use std::error::Error;
use std::fmt;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::RequestBuilder;
use reqwest::header::HeaderMap;

use super::error::{FetchError, TlsFault};

/// The size of a buffer, in bytes: what one read can bring at most. The HTTP library reads at most 400 KiB at once.
const BUFFER_LENGTH: usize = 512 * 1024;

/// The same for a body that may be left where it is, see [`Pace::AsTaken`].
const SMALL_BUFFER_LENGTH: usize = 32 * 1024;

/// How many filled buffers may wait for the reader. With the one in either hand this bounds the memory of a transfer.
const WAITING_BUFFERS: usize = 4;

/// How many bytes have to come within the time that a server may be silent: with fewer it counts as silent. At the usual
/// 60 s that is a speed that nobody would wait for.
pub const LEAST_PROGRESS: u64 = 16 * 1024;

/// How many buffers are kept for further use.
const KEPT_BUFFERS: usize = 16;

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

impl Cancellation {
    /// Whether to stop.
    pub(super) fn is_wanted(&self) -> bool {
        (self.0)()
    }
}

/// When everything must be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// From now on in `limit`; none where that is beyond all clocks.
    pub(super) fn after(limit: Duration) -> Option<Self> {
        Instant::now().checked_add(limit).map(|at| Self { at, limit })
    }

    /// What is left.
    ///
    /// # Errors
    ///
    /// [`FetchError::DeadlineExceeded`] where nothing is.
    pub(super) fn remaining(&self) -> Result<Duration, FetchError> {
        let remaining = self.at.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(FetchError::DeadlineExceeded { limit: self.limit });
        }
        Ok(remaining)
    }
}

/// How long to wait for the bytes of one transfer.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// Host and port, for messages.
    pub(super) host: String,
    /// How long the server may be silent, or send less than [`LEAST_PROGRESS`].
    pub(super) stall: Duration,
    /// When everything must be over.
    pub(super) deadline: Option<Deadline>,
    /// Whether the caller wants to stop.
    pub(super) cancellation: Cancellation,
}

impl Patience {
    /// Goes on, or not.
    fn check(&self) -> Result<(), FetchError> {
        if self.cancellation.is_wanted() {
            return Err(FetchError::Cancelled);
        }
        self.deadline.map_or(Ok(()), |deadline| deadline.remaining().map(|_| ()))
    }

    /// Lets `time` pass, unless the caller wants to stop or the deadline comes.
    ///
    /// # Errors
    ///
    /// [`FetchError::Cancelled`] or [`FetchError::DeadlineExceeded`].
    pub(super) fn pause(&self, time: Duration) -> Result<(), FetchError> {
        let begin = Instant::now();
        loop {
            self.check()?;
            let Some(left) = time.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else {
                return Ok(());
            };
            thread::park_timeout(left.min(PATIENCE));
        }
    }
}

/// Status and headers of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// The length of the body where it is known beforehand.
    pub(super) length: Option<u64>,
}

/// The bytes of one read. Its memory is used again after it was dropped, on whatever thread.
#[derive(Debug, Default)]
pub struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
    pool: Pool,
}

impl Chunk {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// How many bytes there are.
    pub(super) fn length(&self) -> u64 {
        u64::try_from(self.filled).unwrap_or(u64::MAX)
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

/// Buffers that can be used again.
#[derive(Debug, Clone, Default)]
struct Pool(Option<Arc<Mutex<Vec<Vec<u8>>>>>);

impl Pool {
    fn new() -> Self {
        Self(Some(Arc::default()))
    }

    fn take(&self) -> Vec<u8> {
        let kept = self.0.as_ref().and_then(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner).pop());
        kept.unwrap_or_default()
    }

    fn put(&self, buffer: Vec<u8>) {
        let Some(kept) = &self.0 else { return };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_BUFFERS && buffer.capacity() > 0 {
            kept.push(buffer);
        }
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

/// How the bytes of a body are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Ahead of whoever takes them: all will be wanted.
    Ahead,
    /// Little more than was taken: the rest may not be wanted.
    AsTaken,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Transfer {
    messages: Receiver<Message>,
    patience: Patience,
    /// How long was waited, and how many bytes came, since the server was last seen to make progress.
    waited: Duration,
    came: u64,
}

impl Transfer {
    /// Sends `request` and waits for the head of the answer.
    pub(super) fn start(
        request: RequestBuilder,
        patience: Patience,
        pace: Pace,
    ) -> Result<(Head, Self), FetchError> {
        let mut transfer = Self::begin(patience, pace, move |messages| run(request, pace, messages))?;
        match transfer.wait()? {
            Some(Message::Head(head)) => Ok((*head, transfer)),
            Some(Message::NoAnswer(error)) => Err(transfer.no_answer(error)),
            _ => Err(FetchError::InvalidAnswer {
                host: transfer.patience.host,
                source: "the transfer ended without a word".into(),
            }),
        }
    }

    /// Reads what is not on a server: a file, or a stream.
    pub(super) fn of_reader(
        reader: impl Read + Send + 'static,
        patience: Patience,
    ) -> Result<Self, FetchError> {
        Self::begin(patience, Pace::Ahead, move |messages| pass_on(reader, Pace::Ahead, messages))
    }

    fn begin(
        patience: Patience,
        pace: Pace,
        work: impl FnOnce(&SyncSender<Message>) + Send + 'static,
    ) -> Result<Self, FetchError> {
        let waiting = match pace {
            Pace::Ahead => WAITING_BUFFERS,
            Pace::AsTaken => 0,
        };
        let (sender, messages) = sync_channel(waiting);
        thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || work(&sender))
            .map_err(|source| FetchError::Thread { source })?;
        Ok(Self { messages, patience, waited: Duration::ZERO, came: 0 })
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

    /// The next message; `None` where the thread ended without one.
    fn wait(&mut self) -> Result<Option<Message>, FetchError> {
        loop {
            self.patience.check()?;
            let begin = Instant::now();
            let received = self.messages.recv_timeout(PATIENCE);
            // Only waiting counts: a caller who takes long for what came is no fault of the server.
            self.waited = self.waited.saturating_add(begin.elapsed());
            match received {
                Ok(Message::Chunk(chunk)) => {
                    self.came = self.came.saturating_add(chunk.length());
                    if self.came >= LEAST_PROGRESS {
                        (self.waited, self.came) = (Duration::ZERO, 0);
                    } else if self.waited >= self.patience.stall {
                        return Err(self.stalled());
                    }
                    return Ok(Some(Message::Chunk(chunk)));
                }
                Ok(message) => {
                    (self.waited, self.came) = (Duration::ZERO, 0);
                    return Ok(Some(message));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if self.waited >= self.patience.stall => {
                    return Err(self.stalled());
                }
                Err(RecvTimeoutError::Timeout) => (),
            }
        }
    }

    fn stalled(&self) -> FetchError {
        FetchError::Stalled {
            host: self.patience.host.clone(),
            received: self.came,
            limit: self.patience.stall,
        }
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
fn run(request: RequestBuilder, pace: Pace, messages: &SyncSender<Message>) {
    let response = match request.send() {
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
    if messages.send(Message::Head(Box::new(head))).is_ok() {
        pass_on(response, pace, messages);
    }
}

/// Passes on what `reader` gives, to its end.
fn pass_on(mut reader: impl Read, pace: Pace, messages: &SyncSender<Message>) {
    let pool = Pool::new();
    let length = match pace {
        Pace::Ahead => BUFFER_LENGTH,
        Pace::AsTaken => SMALL_BUFFER_LENGTH,
    };
    loop {
        let message = match read(&mut reader, &pool, length) {
            Ok(chunk) if chunk.filled == 0 => Message::End,
            Ok(chunk) => Message::Chunk(chunk),
            Err(error) => Message::Broken(error),
        };
        let is_last = matches!(message, Message::End | Message::Broken(_));
        if messages.send(message).is_err() || is_last {
            return;
        }
    }
}

/// One read into a buffer that was used before, or into a new one.
fn read(reader: &mut impl Read, pool: &Pool, length: usize) -> io::Result<Chunk> {
    let mut buffer = pool.take();
    buffer.resize(length, 0);
    loop {
        match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            result => {
                let filled = result?;
                return Ok(Chunk { buffer, filled, pool: pool.clone() });
            }
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
