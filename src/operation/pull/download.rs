//! The bytes of a file as they come from the server, seen by everybody who has to see them all.

use std::fmt;
use std::io::{self, BufRead, Read};

use crate::fetch::download::{Arrival, Chunk, Download as Transfer, Setback};
use crate::fetch::error::FetchError;
use crate::fetch::origin::Origin;
use crate::format::units::ByteLength;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::trust::download::DownloadDigest;

use super::digest::BackgroundDigest;
use super::remote::fetching;

/// A download under way. Whoever consumes its bytes, a decoder or the writer of the image, makes them count: for the
/// progress, and for the digest where one is wanted.
///
/// Where the transfer had to begin anew, reading fails once: whoever took bytes before must drop all that was made of them,
/// which [`Self::receive`] sees to.
pub(super) struct Download<'a> {
    transfer: Transfer,
    chunk: Option<Chunk>,
    /// How many bytes of the chunk were consumed.
    position: usize,
    digest: Option<BackgroundDigest>,
    is_broken: bool,
    url: &'a Origin,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
}

impl fmt::Debug for Download<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("transfer", &self.transfer).finish_non_exhaustive()
    }
}

impl<'a> Download<'a> {
    /// Nothing was consumed yet. A digest costs about 0.6 s of processor time for a GiB, so it is computed only where
    /// something will be compared with it.
    ///
    /// # Errors
    /// [`OperationError::System`] where there can be no thread for it.
    pub(super) fn new(
        transfer: Transfer,
        with_digest: bool,
        url: &'a Origin,
        observer: &'a dyn Observer,
        cancel: &'a Cancel,
    ) -> Result<Self, OperationError> {
        let digest = with_digest
            .then(BackgroundDigest::begin)
            .transpose()
            .map_err(|source| OperationError::system("starting a thread to hash", url.to_string(), source))?;
        Ok(Self { transfer, chunk: None, position: 0, digest, is_broken: false, url, observer, cancel })
    }

    /// The length in bytes where the server said it.
    pub(super) fn total(&self) -> Option<ByteLength> {
        self.transfer.total().map(ByteLength::new)
    }

    /// What reading said, in the words of the operation.
    pub(super) fn explain(&self, error: io::Error) -> OperationError {
        match FetchError::from_io(error) {
            Ok(error) => fetching(self.url, self.cancel, error),
            Err(error) => OperationError::system("downloading", self.url.to_string(), error),
        }
    }

    /// Does what `attempt` does with all of the file, and does it again from nothing each time that the file begins anew.
    ///
    /// # Errors
    /// What `attempt` says, where the file did not begin anew.
    pub(super) fn receive<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        loop {
            let result = attempt(self);
            if result.is_ok() || !self.begins_anew() {
                return result;
            }
            self.observer.note("the server could not go on where it broke off: the download begins anew");
        }
    }

    /// Whether the next byte is the first one again, after reading failed. Nothing that came before counts then, also
    /// not for the digest.
    fn begins_anew(&mut self) -> bool {
        if !std::mem::take(&mut self.is_broken) {
            return false;
        }
        if let Some(digest) = &self.digest {
            digest.begin_anew();
        }
        true
    }

    /// The digest of the whole file, where one was wanted. Bytes that nobody consumed are an error: a digest of less
    /// than the file would say nothing.
    ///
    /// # Errors
    /// [`OperationError::State`] where the file goes on; what reading said.
    pub(super) fn finish(&mut self) -> Result<Option<DownloadDigest>, OperationError> {
        match self.fill_buf() {
            Ok([]) => Ok(self.digest.take().map(BackgroundDigest::finish)),
            Ok(_) => {
                let problem = "expected the end of the file, found more bytes behind the image";
                Err(OperationError::state("downloading", self.url, problem))
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    /// The bytes that came and were not consumed yet.
    fn received(&self) -> &[u8] {
        let bytes = self.chunk.as_ref().map(Chunk::bytes).unwrap_or_default();
        bytes.get(self.position..).unwrap_or_default()
    }
}

/// What is said of a failure after which the transfer goes on.
pub(in crate::operation) fn tell(observer: &dyn Observer, setback: &Setback<'_>) {
    let Setback { error, delay, left } = setback;
    let seconds = delay.as_secs_f32();
    observer.warning(&format!("{error}: trying again in {seconds:.1} s, and {left} times after that"));
}

impl BufRead for Download<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.received().is_empty() {
            // All of it was consumed.
            if let (Some(chunk), Some(digest)) = (self.chunk.take(), &self.digest) {
                digest.update(chunk);
            }
            let observer = self.observer;
            let hear = move |setback: &Setback<'_>| tell(observer, setback);
            match self.transfer.next(&hear).map_err(FetchError::into_io)? {
                Arrival::Bytes(chunk) => (self.chunk, self.position) = (Some(chunk), 0),
                Arrival::Restarted => {
                    self.is_broken = true;
                    return Err(io::Error::other("the file begins anew"));
                }
                Arrival::Ended => break,
            }
        }
        Ok(self.received())
    }

    fn consume(&mut self, count: usize) {
        let bytes = self.chunk.as_ref().map(Chunk::bytes).unwrap_or_default();
        let rest = bytes.get(self.position..).unwrap_or_default();
        let consumed = rest.get(..count).unwrap_or(rest);
        self.observer.advanced(ByteLength::of(consumed));
        self.position = self.position.saturating_add(consumed.len());
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
