//! The bytes of a file as they come from the server, seen by everybody who has to see them all.

use std::fmt;
use std::io::{self, BufRead, Read};

use crate::fetch::body::Body;
use crate::fetch::error::FetchError;
use crate::fetch::url::ImageUrl;
use crate::format::units::ByteLength;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::trust::download::{DownloadDigest, DownloadHasher};

use super::remote::fetching;

/// A download under way. Whoever consumes its bytes, a decoder or the writer of the image, makes them count: for the
/// progress, and for the digest where one is wanted.
pub(super) struct Download<'a> {
    body: Body,
    hasher: Option<DownloadHasher>,
    url: &'a ImageUrl,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
}

impl fmt::Debug for Download<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("body", &self.body).finish_non_exhaustive()
    }
}

impl<'a> Download<'a> {
    /// Nothing was consumed yet. A digest costs about 0.6 s of processor time for a GiB, so it is computed only where
    /// something will be compared with it.
    pub(super) fn new(
        body: Body,
        with_digest: bool,
        url: &'a ImageUrl,
        observer: &'a dyn Observer,
        cancel: &'a Cancel,
    ) -> Self {
        Self { body, hasher: with_digest.then(DownloadHasher::new), url, observer, cancel }
    }

    /// The length in bytes where the server said it.
    pub(super) fn total(&self) -> Option<ByteLength> {
        self.body.total().map(ByteLength::new)
    }

    /// What reading said, in the words of the operation.
    pub(super) fn explain(&self, error: io::Error) -> OperationError {
        match FetchError::from_io(error) {
            Ok(error) => fetching(self.url, self.cancel, error),
            Err(error) => OperationError::system("downloading", self.url.to_string(), error),
        }
    }

    /// The digest of the whole file, where one was wanted. Bytes that nobody consumed are an error: a digest of less
    /// than the file would say nothing.
    ///
    /// # Errors
    /// [`OperationError::State`] where the file goes on; what reading said.
    pub(super) fn finish(mut self) -> Result<Option<DownloadDigest>, OperationError> {
        match self.body.chunk() {
            Ok([]) => Ok(self.hasher.map(DownloadHasher::finish)),
            Ok(_) => {
                let problem = "expected the end of the file, found more bytes behind the image";
                Err(OperationError::state("downloading", self.url, problem))
            }
            Err(error) => Err(fetching(self.url, self.cancel, error)),
        }
    }
}

impl BufRead for Download<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.body.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // What was received is at hand: this waits for nothing, and cannot fail where there is anything to consume.
        let consumed = self.body.received().get(..count).unwrap_or_default();
        if let Some(hasher) = &mut self.hasher {
            hasher.update(consumed);
        }
        self.observer.advanced(ByteLength::of(consumed));
        self.body.consume(count);
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
