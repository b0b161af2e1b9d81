//! What a server is asked with, and an image that is looked at before it comes.

use std::sync::Mutex;

use crate::fetch::certificates::CertificateAuthorities;
use crate::fetch::client::{Cancellation, HttpClient, HttpOptions};
use crate::fetch::error::FetchError;
use crate::fetch::origin::Origin;
use crate::fetch::range::RangeReader;
use crate::fetch::retry::RetryOptions;
use crate::fetch::url::ImageUrl;
use crate::format::compression::{BEGINNING, Encoding};
use crate::format::units::{ByteLength, Extent};

use super::PullRequest;
use super::download::tell;
use crate::operation::cancel::Cancel;
use crate::operation::companions::Companions;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::source::{ImageFile, ImageSource};

/// A client that does as the request and the user say.
pub(super) fn client(request: &PullRequest, cancel: &Cancel) -> HttpClient {
    client_with(request, request.patience.retries, cancel)
}

/// The same for what can be done without: it is not tried again.
pub(super) fn impatient_client(request: &PullRequest, cancel: &Cancel) -> HttpClient {
    client_with(request, 0, cancel)
}

fn client_with(request: &PullRequest, retries: u32, cancel: &Cancel) -> HttpClient {
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
        retry: RetryOptions { retries, ..RetryOptions::default() },
        cancellation: Cancellation::when(move || cancel.is_cancelled()),
        ..HttpOptions::default()
    })
}

/// Whoever asked us to stop is told of that, and not of the request that it ended.
pub(in crate::operation) fn fetching(
    url: impl ToString,
    cancel: &Cancel,
    source: FetchError,
) -> OperationError {
    match (source, cancel.check()) {
        (FetchError::Cancelled, Err(interrupted)) => interrupted.into(),
        (source, _) => OperationError::Fetch { url: url.to_string(), source },
    }
}

/// An image that parts can be read from before it comes: on a server that answers requests for parts, or in a file.
///
/// # Errors
/// [`OperationError::Usage`] for a stream, which can be read only once; what the server or the system says.
pub(super) fn look<'a>(
    client: &HttpClient,
    origin: &Origin,
    retries: u32,
    observer: &'a dyn Observer,
    cancel: &Cancel,
) -> Result<Box<dyn ImageSource + 'a>, OperationError> {
    match origin {
        Origin::Http(url) => {
            let retry = RetryOptions { retries, ..RetryOptions::default() };
            let reader = RangeReader::open(client, url, retry, Box::new(|setback| tell(observer, setback)))
                .map_err(|error| fetching(origin, cancel, error))?;
            Ok(Box::new(RemoteImage::new(url, reader, Companions::none(), cancel)))
        }
        Origin::File(path) => Ok(Box::new(ImageFile::open(path)?)),
        Origin::Stream(_) => Err(OperationError::Usage(format!(
            "planning the pull of {origin}: it can be read only once: leave out --dry-run"
        ))),
    }
}

/// As [`look`], where that is possible and the image lies there as it is: neither compressed nor to be converted.
///
/// # Errors
/// That the server cannot be reached, for then nothing can be had of it.
pub(super) fn look_at_raw<'a>(
    client: &HttpClient,
    origin: &Origin,
    retries: u32,
    observer: &'a dyn Observer,
    cancel: &Cancel,
) -> Result<Option<Box<dyn ImageSource + 'a>>, OperationError> {
    match look(client, origin, retries, observer, cancel) {
        Ok(source) => {
            let is_raw = encoding(&*source).is_ok_and(|encoding| encoding == Encoding::Raw);
            Ok(is_raw.then_some(source))
        }
        Err(OperationError::Fetch { source, url }) if source.is_unreachable() => {
            Err(OperationError::Fetch { url, source })
        }
        Err(error @ OperationError::Interrupted(_)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// What an image that can be looked at is, by its first bytes.
pub(super) fn encoding(source: &dyn ImageSource) -> Result<Encoding, OperationError> {
    let beginning = ByteLength::new(u64::try_from(BEGINNING).unwrap_or_default().min(source.size().bytes()));
    let bytes = source.read(&[Extent::from_beginning(beginning)])?;
    Ok(Encoding::recognise(bytes.first().map(Vec::as_slice).unwrap_or_default()))
}

/// An image on a server that answers requests for parts.
pub(in crate::operation) struct RemoteImage<'a> {
    name: String,
    size: ByteLength,
    reader: Mutex<RangeReader<'a>>,
    companions: Companions,
    cancel: Cancel,
}

impl<'a> RemoteImage<'a> {
    /// The image at `url` that `reader` has opened.
    pub(in crate::operation) fn new(
        url: &ImageUrl,
        reader: RangeReader<'a>,
        companions: Companions,
        cancel: &Cancel,
    ) -> Self {
        let (name, size) = (url.to_string(), reader.total());
        Self { name, size, reader: Mutex::new(reader), companions, cancel: cancel.clone() }
    }
}

impl ImageSource for RemoteImage<'_> {
    fn size(&self) -> ByteLength {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn companions(&self) -> &Companions {
        &self.companions
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        let mut reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reader.read(extents).map_err(|error| fetching(&self.name, &self.cancel, error))
    }
}
