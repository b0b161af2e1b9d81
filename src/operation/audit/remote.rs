//! Images on servers, of which only what is needed is asked for.

use std::path::{Path, PathBuf};

use crate::fetch::certificates::CertificateAuthorities;
use crate::fetch::client::{Cancellation, HttpClient, HttpOptions};
use crate::fetch::download::{Arrival, Download};
use crate::fetch::error::FetchError;
use crate::fetch::origin::Origin;
use crate::fetch::range::RangeReader;
use crate::fetch::retry::{RetryOptions, Setback};
use crate::fetch::url::ImageUrl;
use crate::format::units::{ByteLength, Extent};

use crate::operation::cancel::Cancel;
use crate::operation::companions::{CompanionSettings, Companions};
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::pull::download::tell;
use crate::operation::pull::remote::{RemoteImage, fetching};
use crate::operation::source::ImageSource;

/// A client that waits as `ddictl pull` does by default.
pub(super) fn client(ca_certificates: Vec<PathBuf>, cancel: &Cancel) -> HttpClient {
    let cancel = cancel.clone();
    let certificate_authorities = if ca_certificates.is_empty() {
        CertificateAuthorities::System
    } else {
        CertificateAuthorities::Files(ca_certificates)
    };
    HttpClient::new(HttpOptions {
        certificate_authorities,
        cancellation: Cancellation::when(move || cancel.is_cancelled()),
        ..HttpOptions::default()
    })
}

/// How much of an image comes into memory where the server cannot send parts, in bytes.
const MOST_OF_WHOLE: ByteLength = ByteLength::new(16 * 1024 * 1024);

/// An image on a server. Beside it nothing is looked for: that would be as many requests as the image itself takes. What
/// was named counts.
///
/// # Errors
/// What the server said, and that it neither answers requests for parts nor has a small image.
pub(super) fn open<'a>(
    client: &HttpClient,
    url: &ImageUrl,
    companions: &CompanionSettings,
    observer: &'a dyn Observer,
    cancel: &Cancel,
) -> Result<Box<dyn ImageSource + 'a>, OperationError> {
    let named = CompanionSettings { automatic: false, named: companions.named.clone() };
    let companions = Companions::open(Path::new(""), &named)?;
    let hear = move |setback: &Setback<'_>| tell(observer, setback);
    match RangeReader::open(client, url, RetryOptions::default(), Box::new(hear)) {
        Ok(reader) => Ok(Box::new(RemoteImage::new(url, reader, companions, cancel))),
        Err(FetchError::RangeNotSupported { .. }) => Ok(Box::new(WholeImage {
            name: url.to_string(),
            bytes: whole(client, url, &hear, cancel)?,
            companions,
        })),
        Err(error) => Err(fetching(url.without_secrets(), cancel, error)),
    }
}

/// All of a small image, from its first byte to its last: the other copy of the partition table lies at its end.
fn whole(
    client: &HttpClient,
    url: &ImageUrl,
    hear: &dyn Fn(&Setback<'_>),
    cancel: &Cancel,
) -> Result<Vec<u8>, OperationError> {
    let failed = |error| fetching(url.without_secrets(), cancel, error);
    let too_large = || {
        let problem = format!(
            "expected a server that answers range requests, or an image of at most {MOST_OF_WHOLE} bytes, found one that \
             sends the whole of a larger one: fetch it (ddictl pull raw), and audit the file"
        );
        OperationError::state("auditing", url.without_secrets(), problem)
    };
    let mut download = Download::open(client, &Origin::Http(url.clone()), hear).map_err(failed)?;
    let mut bytes = Vec::new();
    loop {
        if download.total().is_some_and(|total| total > MOST_OF_WHOLE.bytes()) {
            return Err(too_large());
        }
        match download.next(hear).map_err(failed)? {
            Arrival::Bytes(chunk) => bytes.extend_from_slice(chunk.bytes()),
            Arrival::Restarted => bytes.clear(),
            Arrival::Ended => return Ok(bytes),
        }
        if ByteLength::of(&bytes) > MOST_OF_WHOLE {
            return Err(too_large());
        }
    }
}

/// An image of which all is there.
struct WholeImage {
    name: String,
    bytes: Vec<u8>,
    companions: Companions,
}

impl ImageSource for WholeImage {
    fn size(&self) -> ByteLength {
        ByteLength::of(&self.bytes)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn companions(&self) -> &Companions {
        &self.companions
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        let outside =
            |extent: &Extent| OperationError::state("reading", &self.name, format!("nothing at {extent}"));
        let part = |extent: &Extent| {
            let (start, length) =
                (usize::try_from(extent.start().bytes()).ok()?, extent.length().in_memory()?);
            self.bytes.get(start..start.checked_add(length)?)
        };
        extents.iter().map(|extent| part(extent).map(<[u8]>::to_vec).ok_or_else(|| outside(extent))).collect()
    }
}
