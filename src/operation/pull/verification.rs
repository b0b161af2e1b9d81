//! What is known of a download before it comes: the sums beside it, and who signed them.
//!
//! Sums and signature are small, and are fetched and judged first: what is wrong with them is known before the image is
//! asked for. The image is compared when its last byte has come.

use std::fmt;
use std::time::SystemTime;

use crate::fetch::client::HttpClient;
use crate::fetch::download::{Arrival, Download, Setback};
use crate::fetch::error::FetchError;
use crate::fetch::origin::Origin;
use crate::format::checksum_manifest::{ChecksumManifest, MAXIMUM_MANIFEST};
use crate::format::units::ByteLength;
use crate::format::verification_mode::VerificationMode;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::trust::download::{CheckedDownload, DownloadDigest, ExpectedDownload, NotListed};
use crate::trust::manifest::VerifiedManifest;
use crate::trust::openpgp::{Keyrings, MAXIMUM_SIGNATURE};
use crate::trust::revocation::Revocations;

use super::remote::fetching;

/// The sums of a whole directory.
const DIRECTORY_SUMS: &str = "SHA256SUMS";
/// What the name of the sums of one file ends in, behind the name of the file.
const FILE_SUMS: &str = ".sha256";
/// What the name of a signature ends in, behind the name of what it signs: armoured and binary, though either may be in
/// either.
const SIGNATURES: [&str; 2] = [".asc", ".gpg"];

/// Fetches the files beside an image, time and again where that helps.
#[derive(Clone, Copy)]
pub struct FilesBeside<'a> {
    /// Asks the server.
    pub client: &'a HttpClient,
    /// Beside which image.
    pub image: &'a Origin,
    /// Hears of attempts that failed.
    pub observer: &'a dyn Observer,
    /// Whether to stop.
    pub cancel: &'a Cancel,
}

impl fmt::Debug for FilesBeside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesBeside").field("image", &self.image).finish_non_exhaustive()
    }
}

/// A part of a file that comes.
#[derive(Debug)]
pub enum Piece<'a> {
    /// These bytes follow those that came before.
    Bytes(&'a [u8]),
    /// The file begins anew: nothing that came before counts any more.
    Restart,
}

impl FilesBeside<'_> {
    /// All of the file `name` in the image's directory, if it has at most `limit` bytes; `None` where there is none.
    ///
    /// # Errors
    /// [`OperationError::Fetch`] for every other failure: what cannot be had is not taken for what is not there.
    pub fn get(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, OperationError> {
        let limit = ByteLength::new(u64::try_from(limit).unwrap_or(u64::MAX));
        let Some((origin, download)) = self.open(name)? else { return Ok(None) };
        let bytes = download.read_all(limit, &|setback| self.hear(&origin, setback));
        bytes.map(Some).map_err(|error| fetching(&origin, self.cancel, error))
    }

    /// Gives all of the file to `take`, piece by piece; whether there is one.
    ///
    /// # Errors
    /// As [`Self::get`], and what `take` says.
    pub fn get_into(
        &self,
        name: &str,
        limit: ByteLength,
        take: &mut dyn FnMut(Piece<'_>) -> Result<(), OperationError>,
    ) -> Result<bool, OperationError> {
        let Some((origin, mut download)) = self.open(name)? else { return Ok(false) };
        let mut received = 0_u64;
        loop {
            let arrival = download.next(&|setback| self.hear(&origin, setback));
            match arrival.map_err(|error| fetching(&origin, self.cancel, error))? {
                Arrival::Ended => return Ok(true),
                Arrival::Restarted => {
                    received = 0;
                    take(Piece::Restart)?;
                }
                Arrival::Bytes(chunk) => {
                    received = received.saturating_add(ByteLength::of(chunk.bytes()).bytes());
                    if received > limit.bytes() {
                        let error = FetchError::TooLarge { url: origin.to_string(), limit };
                        return Err(fetching(&origin, self.cancel, error));
                    }
                    take(Piece::Bytes(chunk.bytes()))?;
                }
            }
        }
    }

    /// Whether there is a file `name`, of which nothing is read.
    ///
    /// # Errors
    /// [`OperationError::Fetch`] where that cannot be told.
    pub fn has(&self, name: &str) -> Result<bool, OperationError> {
        Ok(self.open(name)?.is_some())
    }

    fn open(&self, name: &str) -> Result<Option<(Origin, Download)>, OperationError> {
        let Some(origin) = self.image.sibling(name) else { return Ok(None) };
        match Download::open(self.client, &origin, &|setback| self.hear(&origin, setback)) {
            Ok(download) => Ok(Some((origin, download))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(fetching(&origin, self.cancel, error)),
        }
    }

    fn hear(&self, origin: &Origin, setback: &Setback<'_>) {
        let (error, seconds) = (setback.error, setback.delay.as_secs_f32());
        self.observer.note(&format!("fetching '{origin}': {error}: trying again in {seconds:.1} s"));
    }

    /// Where the file `name` is, in ticks, for messages.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        self.image.sibling(name).map_or_else(|| format!("'{name}'"), |origin| format!("'{origin}'"))
    }
}

/// What the download is to be compared with, and what is known of the files beside it.
#[derive(Debug)]
pub struct Verification {
    url: String,
    expected: ExpectedDownload,
    sums: Sums,
    revocations: Revocations,
}

/// The sums, where the mode has any.
#[derive(Debug)]
enum Sums {
    None,
    Unsigned(ChecksumManifest),
    Signed(VerifiedManifest),
}

/// What the sums say of a file beside the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// Nobody knows anything of it: there are no sums.
    Unknown,
    /// It has to be this one.
    Listed(ExpectedDownload),
    /// There are sums, and it is not in them: nobody says that it belongs to the image.
    NotListed,
}

impl Verification {
    /// Fetches and checks whatever the mode needs. `keyrings` is called where a signature is to be verified, at the time
    /// `at`.
    ///
    /// # Errors
    /// [`OperationError::Unverified`] where sums or signature are missing, malformed, or do not count;
    /// [`OperationError::Fetch`] where they cannot be had; what `keyrings` says.
    pub fn prepare(
        mode: VerificationMode,
        files: &FilesBeside<'_>,
        keyrings: impl FnOnce() -> Result<Keyrings, OperationError>,
        at: SystemTime,
    ) -> Result<Self, OperationError> {
        let url = files.image.to_string();
        let (expected, sums) = match mode {
            VerificationMode::No => (ExpectedDownload::anything(), Sums::None),
            VerificationMode::Digest(digest) => (ExpectedDownload::pinned(digest), Sums::None),
            VerificationMode::Checksum => {
                let name = name_of(files.image)?;
                let (sums, bytes) = find_sums(files, &name)?;
                let manifest = ChecksumManifest::parse(&bytes)
                    .map_err(|source| unverified(&files.shown(&sums), source))?;
                let expected = ExpectedDownload::listed(&manifest, &name)
                    .map_err(|source| unverified(&files.shown(&sums), source))?;
                (expected, Sums::Unsigned(manifest))
            }
            VerificationMode::Signature => {
                let name = name_of(files.image)?;
                // An error of this machine before any of the server's.
                let keyrings = keyrings()?;
                let signed = find_signed_sums(files, &name)?;
                let (sums, signature) = (files.shown(&signed.sums_name), files.shown(&signed.signature_name));
                let manifest = VerifiedManifest::verify(&signed.sums, &signed.signature, &keyrings, at)
                    .map_err(|source| unverified(&format!("{sums} by {signature}"), source))?;
                let expected =
                    ExpectedDownload::signed(&manifest, &name).map_err(|source| unverified(&sums, source))?;
                (expected, Sums::Signed(manifest))
            }
        };
        Ok(Self { url, expected, sums, revocations: Revocations::default() })
    }

    /// The same, where some downloads are refused whoever vouches for them.
    ///
    /// # Errors
    /// [`OperationError::Unverified`] where that is so of the very one that is expected: it need not come.
    pub fn refusing(self, revocations: &Revocations) -> Result<Self, OperationError> {
        let refusing = Self { revocations: revocations.clone(), ..self };
        if let Some(digest) = refusing.expected.digest() {
            refusing.check_revoked(digest.as_bytes())?;
        }
        Ok(refusing)
    }

    /// Whether the digest of what comes must be known.
    pub fn needs_digest(&self) -> bool {
        self.expected.digest().is_some() || self.revocations.has_images()
    }

    fn check_revoked(&self, digest: &[u8; 32]) -> Result<(), OperationError> {
        self.revocations.check_image(digest).map_err(|source| unverified(&self.shown(), source))
    }

    /// What the image is to be.
    pub const fn expected(&self) -> &ExpectedDownload {
        &self.expected
    }

    /// Compares the complete download. `digest` may be missing only where [none is needed](Self::needs_digest).
    ///
    /// # Errors
    /// [`OperationError::Unverified`] where it is another one, or is refused whoever vouches for it.
    pub fn check(&self, digest: Option<DownloadDigest>) -> Result<Option<CheckedDownload>, OperationError> {
        match digest {
            Some(digest) => {
                self.check_revoked(digest.as_bytes())?;
                self.expected.check(digest).map(Some).map_err(|source| unverified(&self.shown(), source))
            }
            None if !self.needs_digest() => Ok(None),
            None => {
                let problem = "expected the digest of what came, found none";
                Err(OperationError::state("verifying", &self.url, problem))
            }
        }
    }

    /// What the sums say of the file `name` beside the image.
    ///
    /// # Errors
    /// [`OperationError::Unverified`] where they contradict themselves.
    pub fn listing(&self, name: &str) -> Result<Listing, OperationError> {
        let listing = match &self.sums {
            Sums::None => return Ok(Listing::Unknown),
            Sums::Unsigned(manifest) => ExpectedDownload::listed(manifest, name),
            Sums::Signed(manifest) => ExpectedDownload::signed(manifest, name),
        };
        match listing {
            Ok(expected) => Ok(Listing::Listed(expected)),
            Err(NotListed::Missing { .. }) => Ok(Listing::NotListed),
            Err(source) => Err(unverified(&format!("'{name}' beside {}", self.shown()), source)),
        }
    }

    fn shown(&self) -> String {
        format!("'{}'", self.url)
    }
}

pub(super) fn unverified(
    object: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> OperationError {
    OperationError::Unverified { object: object.to_owned(), source: source.into() }
}

/// The name that sums list the image under: the last component of the URL that was asked for, decoded; a redirect does
/// not change it.
fn name_of(url: &Origin) -> Result<String, OperationError> {
    url.file_name().ok_or_else(|| {
        OperationError::Usage(format!(
            "verifying the download of '{url}': it has no file name that sums could list: verify it by its SHA-256, \
             --verify=HEX, or leave it to the policy with --verify=no"
        ))
    })
}

/// Sums without a signature: those of the file, or else of the directory.
fn find_sums(files: &FilesBeside<'_>, name: &str) -> Result<(String, Vec<u8>), OperationError> {
    let candidates = [format!("{name}{FILE_SUMS}"), DIRECTORY_SUMS.to_owned()];
    for candidate in &candidates {
        if let Some(bytes) = files.get(candidate, MAXIMUM_MANIFEST)? {
            return Ok((candidate.clone(), bytes));
        }
    }
    Err(missing(files, "sums", &candidates))
}

/// Sums and their signature, which belongs to these very bytes.
struct SignedSums {
    sums_name: String,
    sums: Vec<u8>,
    signature_name: String,
    signature: Vec<u8>,
}

/// Those of the file, or else of the directory. Sums that have no signature are none.
fn find_signed_sums(files: &FilesBeside<'_>, name: &str) -> Result<SignedSums, OperationError> {
    let mut tried = Vec::new();
    for sums_name in [format!("{name}{FILE_SUMS}"), DIRECTORY_SUMS.to_owned()] {
        let Some(sums) = files.get(&sums_name, MAXIMUM_MANIFEST)? else {
            tried.push(sums_name);
            continue;
        };
        for signature_name in SIGNATURES.map(|ending| format!("{sums_name}{ending}")) {
            if let Some(signature) = files.get(&signature_name, MAXIMUM_SIGNATURE)? {
                return Ok(SignedSums { sums_name, sums, signature_name, signature });
            }
            tried.push(signature_name);
        }
    }
    Err(missing(files, "signed sums", &tried))
}

fn missing(files: &FilesBeside<'_>, what: &'static str, tried: &[String]) -> OperationError {
    let tried = tried.iter().map(|name| files.shown(name)).collect::<Vec<_>>().join(", ");
    unverified(&format!("'{}'", files.image), MissingSums { what, tried })
}

/// There is nothing beside the image that it could be verified by.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected {what} beside it, not found: {tried}; have whoever offers it sign its sums, pin the image with \
     --verify=SHA256, or leave it to the policy with --verify=no"
)]
struct MissingSums {
    what: &'static str,
    tried: String,
}

#[cfg(test)]
mod tests;
