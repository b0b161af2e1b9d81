//! A file from its first byte to its last, whatever happens on the way.
//!
//! A transfer that breaks off is taken up again: where it broke off if the server still has the same version and sends
//! just the rest (`resume.rs`), else from the beginning, which whoever takes the bytes is told. What another attempt
//! would not change is not tried again.

use std::io::{self, Read};
use std::time::Duration;

use crate::format::units::ByteLength;

use super::client::{Asked, HttpClient};
use super::error::FetchError;
use super::origin::{Origin, Stream, open_local};
use super::range::Validator;
use super::resume::Resumable;
use super::retry::Attempts;
pub use super::retry::Setback;
pub use super::transfer::Chunk;
use super::transfer::{Deadline, Transfer};
use super::url::ImageUrl;

/// What comes next.
#[derive(Debug)]
#[must_use]
pub enum Arrival {
    /// Bytes that follow those that came before, at least one.
    Bytes(Chunk),
    /// The file begins anew: nothing that came before counts any more, and the next bytes are its first.
    /// [`Download::total`] and [`Download::validator`] may be others than before.
    Restarted,
    /// Every byte since the beginning, or since the last restart, has come.
    Ended,
}

/// A file while it comes.
#[derive(Debug)]
pub struct Download {
    client: HttpClient,
    origin: Origin,
    deadline: Option<Deadline>,
    attempts: Attempts,
    state: State,
    version: Version,
    /// How many bytes have come since the beginning, or since the last restart.
    offset: u64,
    /// Whether the server can be asked for the rest: not after it once sent something else.
    resumes: bool,
}

#[derive(Debug)]
enum State {
    Flowing(Transfer),
    Broken,
    Ended,
    Failed,
}

/// Which version of the file is coming.
#[derive(Debug, Default)]
struct Version {
    place: Option<ImageUrl>,
    total: Option<u64>,
    validator: Option<Validator>,
    resumable: Option<Resumable>,
}

impl Download {
    /// Asks for the file, time and again where that helps, until its first byte can come. `hear` is told of every
    /// failure after which it is tried again, before the wait.
    ///
    /// # Errors
    ///
    /// Whatever keeps the answer from being the file as it lies there: every variant of [`FetchError`] that does not
    /// speak of ranges; [`FetchError::GaveUp`] where it was tried several times.
    pub fn open(
        client: &HttpClient,
        origin: &Origin,
        hear: &dyn Fn(&Setback<'_>),
    ) -> Result<Self, FetchError> {
        let mut download = Self {
            client: client.clone(),
            origin: origin.clone(),
            deadline: client.deadline(),
            attempts: Attempts::new(client.options().retry),
            state: State::Broken,
            version: Version::default(),
            offset: 0,
            resumes: true,
        };
        while matches!(download.state, State::Broken) {
            if let Err(error) = download.connect() {
                download.recover(error, hear)?;
            }
        }
        Ok(download)
    }

    /// Where the bytes come from, after redirects; `None` where that is no server.
    #[must_use]
    pub const fn place(&self) -> Option<&ImageUrl> {
        self.version.place.as_ref()
    }

    /// The size of the file in bytes, where it is known beforehand.
    #[must_use]
    pub const fn total(&self) -> Option<u64> {
        self.version.total
    }

    /// What tells this version of the file from another, where the server said it.
    #[must_use]
    pub const fn validator(&self) -> Option<&Validator> {
        self.version.validator.as_ref()
    }

    /// Waits for what comes next. `hear` is told of every failure after which it is tried again, before the wait.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]. A further call fails as well.
    pub fn next(&mut self, hear: &dyn Fn(&Setback<'_>)) -> Result<Arrival, FetchError> {
        loop {
            let outcome = match &mut self.state {
                State::Ended => return Ok(Arrival::Ended),
                State::Failed => {
                    let (expected, found) = (self.version.total, self.offset);
                    return Err(FetchError::Truncated { expected, found, source: None });
                }
                State::Broken => match self.connect() {
                    Ok(Begun::Anew) => return Ok(Arrival::Restarted),
                    Ok(Begun::Continued) => Ok(()),
                    Err(error) => Err(error),
                },
                State::Flowing(transfer) => match transfer.next(self.version.total, self.offset) {
                    Ok(Some(chunk)) => {
                        self.offset = self.offset.saturating_add(chunk.length());
                        return Ok(Arrival::Bytes(chunk));
                    }
                    Ok(None) => {
                        self.state = State::Ended;
                        Ok(())
                    }
                    Err(error) => Err(self.explain(error)),
                },
            };
            if let Err(error) = outcome {
                self.recover(error, hear)?;
            }
        }
    }

    /// The whole file, if it has at most `limit` bytes: for the small files that belong to an image.
    ///
    /// # Errors
    ///
    /// [`FetchError::TooLarge`] as soon as there are more, and as [`Self::next`].
    pub fn read_all(mut self, limit: ByteLength, hear: &dyn Fn(&Setback<'_>)) -> Result<Vec<u8>, FetchError> {
        let too_large = |origin: &Origin| FetchError::TooLarge { url: origin.to_string(), limit };
        let mut bytes = Vec::new();
        loop {
            if self.total().is_some_and(|total| total > limit.bytes()) {
                return Err(too_large(&self.origin));
            }
            match self.next(hear)? {
                Arrival::Bytes(chunk) => bytes.extend_from_slice(chunk.bytes()),
                Arrival::Restarted => bytes.clear(),
                Arrival::Ended => return Ok(bytes),
            }
            if ByteLength::of(&bytes) > limit {
                return Err(too_large(&self.origin));
            }
        }
    }

    /// Asks for what is missing.
    fn connect(&mut self) -> Result<Begun, FetchError> {
        match self.origin.clone() {
            Origin::Http(url) => self.connect_to(&url),
            Origin::File(path) => {
                let name = path.display().to_string();
                let local = |source| FetchError::Local { name: name.clone(), source };
                let (file, length) = open_local(&path).map_err(local)?;
                self.begin_reading(file.take(length), &name, Some(length))
            }
            Origin::Stream(stream) => self.read_stream(&stream),
        }
    }

    fn connect_to(&mut self, url: &ImageUrl) -> Result<Begun, FetchError> {
        let resumable = self.version.resumable.clone().filter(|_| self.resumes && self.offset > 0);
        let asked = resumable.as_ref().map_or(Asked::Whole, |resumable| resumable.ask_from(self.offset));
        let answer = self.client.request(url, &asked, self.deadline)?;
        let continues = match (resumable, answer.head.status) {
            (_, 200) => false,
            (Some(resumable), _) => {
                resumable.check(&answer, self.offset).inspect_err(|_| self.resumes = false)?;
                true
            }
            (None, status) => return Err(FetchError::UnexpectedStatus { url: answer.url, status }),
        };
        answer.check_framing()?;
        if continues {
            self.state = State::Flowing(answer.transfer);
            return Ok(Begun::Continued);
        }
        self.version = Version {
            total: answer.head.length,
            validator: Validator::of(&answer.head.headers),
            resumable: Resumable::of(&answer),
            place: Some(answer.url),
        };
        self.state = State::Flowing(answer.transfer);
        self.offset = 0;
        Ok(Begun::Anew)
    }

    fn read_stream(&mut self, stream: &Stream) -> Result<Begun, FetchError> {
        let name = self.origin.to_string();
        let reader = stream.take().map_err(|source| FetchError::Local { name: name.clone(), source })?;
        self.begin_reading(reader, &name, None)
    }

    fn begin_reading(
        &mut self,
        reader: impl Read + Send + 'static,
        name: &str,
        total: Option<u64>,
    ) -> Result<Begun, FetchError> {
        let mut patience = self.client.patience(name.to_owned(), self.deadline);
        // Whoever writes into a pipe may take its time.
        patience.stall = Duration::MAX;
        self.state = State::Flowing(Transfer::of_reader(reader, patience)?);
        self.version = Version { total, ..Version::default() };
        Ok(Begun::Anew)
    }

    /// An error of a transfer, which speaks of the network, in the words of where the bytes come from.
    fn explain(&self, error: FetchError) -> FetchError {
        match (&self.origin, error) {
            (Origin::Http(_), error) => error,
            (origin, FetchError::Truncated { source: Some(source), .. }) => {
                FetchError::Local { name: origin.to_string(), source: io::Error::other(source) }
            }
            (_, error) => error,
        }
    }

    /// After a failure: waits, so that the next attempt can be made, or says that there is none.
    fn recover(&mut self, error: FetchError, hear: &dyn Fn(&Setback<'_>)) -> Result<(), FetchError> {
        // Until it is known better, so that no transfer outlives its failure.
        self.state = State::Failed;
        // What a server sends instead of the rest is no reason not to ask for the whole.
        let not_resumed = matches!(error, FetchError::WrongRange { .. } | FetchError::SourceChanged { .. });
        let on_a_server = matches!(self.origin, Origin::Http(_));
        if !on_a_server || !(error.is_transient() || not_resumed) {
            return Err(error);
        }
        if self.offset > 0 && self.version.total == Some(self.offset) {
            self.state = State::Ended;
            return Ok(());
        }
        let patience = self.client.patience(String::new(), self.deadline);
        self.attempts.wait(error, self.offset, &patience, hear)?;
        self.state = State::Broken;
        Ok(())
    }
}

/// How a transfer begins.
enum Begun {
    /// With the first byte of the file.
    Anew,
    /// With the next byte.
    Continued,
}

#[cfg(test)]
mod one_attempt;
#[cfg(test)]
mod tests;
