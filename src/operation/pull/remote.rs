//! What a server is asked with, and an image on it that is read in parts.

use std::sync::Mutex;

use crate::fetch::certificates::CertificateAuthorities;
use crate::fetch::client::{Cancellation, HttpClient, HttpOptions};
use crate::fetch::error::FetchError;
use crate::fetch::range::RangeReader;
use crate::fetch::retry::RetryOptions;
use crate::fetch::url::ImageUrl;
use crate::format::units::{ByteLength, Extent};

use super::PullRequest;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::source::ImageSource;

/// A client that does as the request and the user say.
pub(super) fn client(request: &PullRequest, cancel: &Cancel) -> HttpClient {
    let cancel = cancel.clone();
    let certificate_authorities = if request.ca_certificates.is_empty() {
        CertificateAuthorities::System
    } else {
        CertificateAuthorities::Files(request.ca_certificates.clone())
    };
    HttpClient::new(HttpOptions {
        certificate_authorities,
        connect_timeout: request.patience.connect,
        stall_timeout: request.patience.stall,
        total_timeout: request.patience.total,
        retry: RetryOptions { retries: request.patience.retries, ..RetryOptions::default() },
        cancellation: Cancellation::when(move || cancel.is_cancelled()),
        ..HttpOptions::default()
    })
}

/// Whoever asked us to stop is told of that, and not of the request that it ended.
pub(super) fn fetching(url: impl ToString, cancel: &Cancel, source: FetchError) -> OperationError {
    match (source, cancel.check()) {
        (FetchError::Cancelled, Err(interrupted)) => interrupted.into(),
        (source, _) => OperationError::Fetch { url: url.to_string(), source },
    }
}

/// An image on a server that answers requests for parts.
pub(super) struct RemoteImage {
    name: String,
    size: ByteLength,
    reader: Mutex<RangeReader>,
    cancel: Cancel,
}

impl RemoteImage {
    pub(super) fn new(url: &ImageUrl, reader: RangeReader, cancel: &Cancel) -> Self {
        let (name, size) = (url.to_string(), reader.total());
        Self { name, size, reader: Mutex::new(reader), cancel: cancel.clone() }
    }
}

impl ImageSource for RemoteImage {
    fn size(&self) -> ByteLength {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        let mut reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reader.read(extents).map_err(|error| fetching(&self.name, &self.cancel, error))
    }
}
