//! What is known of a download before it comes: the sums beside it, and who signed them.
//!
//! Sums and signature are small, and are fetched and judged first: what is wrong with them is known before the image is
//! asked for. The image is compared when its last byte has come.

use std::time::SystemTime;

use crate::fetch::client::HttpClient;
use crate::fetch::error::FetchError;
use crate::fetch::url::ImageUrl;
use crate::format::checksum_manifest::{ChecksumManifest, MAXIMUM_MANIFEST};
use crate::format::verification_mode::VerificationMode;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::trust::download::{CheckedDownload, DownloadDigest, ExpectedDownload};
use crate::trust::manifest::VerifiedManifest;
use crate::trust::openpgp::{Keyrings, MAXIMUM_SIGNATURE};

use super::remote::fetching;

/// The sums of a whole directory.
const DIRECTORY_SUMS: &str = "SHA256SUMS";
/// What the name of the sums of one file ends in, behind the name of the file.
const FILE_SUMS: &str = ".sha256";
/// What the name of a signature ends in, behind the name of what it signs: armoured and binary, though either may be in
/// either.
const SIGNATURES: [&str; 2] = [".asc", ".gpg"];

/// Fetches the small files beside an image.
pub(super) struct SmallFiles<'a> {
    pub(super) client: &'a HttpClient,
    pub(super) image: &'a ImageUrl,
    pub(super) cancel: &'a Cancel,
}

impl SmallFiles<'_> {
    /// All of the file `name` in the image's directory, if it has at most `limit` bytes; `None` where there is none.
    ///
    /// # Errors
    /// [`OperationError::Fetch`] for every other failure: what cannot be had is not taken for what is not there.
    pub(super) fn get(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, OperationError> {
        let Some(url) = self.image.sibling(name) else { return Ok(None) };
        let failing = |error| fetching(&url, self.cancel, error);
        let mut body = match self.client.get(&url) {
            Err(FetchError::NotFound { .. }) => return Ok(None),
            other => other.map_err(failing)?,
        };
        let mut bytes = Vec::new();
        loop {
            let chunk = body.chunk().map_err(failing)?;
            if chunk.is_empty() {
                return Ok(Some(bytes));
            }
            bytes.extend_from_slice(chunk);
            let length = chunk.len();
            body.consume(length);
            if bytes.len() > limit {
                let problem = format!("expected at most {limit} bytes, found more");
                return Err(OperationError::state("fetching", &url, problem));
            }
        }
    }

    /// The URL of the file `name`, for messages.
    fn shown(&self, name: &str) -> String {
        self.image.sibling(name).map_or_else(|| name.to_owned(), |url| format!("'{url}'"))
    }
}

/// What the download is to be compared with, and what is known of the files beside it.
#[derive(Debug)]
pub(super) struct Verification {
    url: String,
    expected: ExpectedDownload,
}

impl Verification {
    /// Fetches and checks whatever the mode needs. `keyrings` is called where a signature is to be verified, at the time
    /// `at`.
    ///
    /// # Errors
    /// [`OperationError::Unverified`] where sums or signature are missing, malformed, or do not count;
    /// [`OperationError::Fetch`] where they cannot be had; what `keyrings` says.
    pub(super) fn prepare(
        mode: VerificationMode,
        files: &SmallFiles<'_>,
        keyrings: impl FnOnce() -> Result<Keyrings, OperationError>,
        at: SystemTime,
    ) -> Result<Self, OperationError> {
        let url = files.image.to_string();
        let expected = match mode {
            VerificationMode::No => ExpectedDownload::anything(),
            VerificationMode::Digest(digest) => ExpectedDownload::pinned(digest),
            VerificationMode::Checksum => {
                let name = name_of(files.image)?;
                let (sums, bytes) = find_sums(files, &name)?;
                let manifest = ChecksumManifest::parse(&bytes)
                    .map_err(|source| unverified(&files.shown(&sums), source))?;
                ExpectedDownload::listed(&manifest, &name)
                    .map_err(|source| unverified(&files.shown(&sums), source))?
            }
            VerificationMode::Signature => {
                // An error of this machine before any of the server's.
                let keyrings = keyrings()?;
                let name = name_of(files.image)?;
                let signed = find_signed_sums(files, &name)?;
                let (sums, signature) = (files.shown(&signed.sums_name), files.shown(&signed.signature_name));
                let manifest = VerifiedManifest::verify(&signed.sums, &signed.signature, &keyrings, at)
                    .map_err(|source| unverified(&format!("{sums} by {signature}"), source))?;
                ExpectedDownload::signed(&manifest, &name).map_err(|source| unverified(&sums, source))?
            }
        };
        Ok(Self { url, expected })
    }

    /// What the image is to be.
    pub(super) const fn expected(&self) -> &ExpectedDownload {
        &self.expected
    }

    /// Compares the complete download. `digest` may be missing only where nothing is compared.
    ///
    /// # Errors
    /// [`OperationError::Unverified`] where it is another one.
    pub(super) fn check(
        &self,
        digest: Option<DownloadDigest>,
    ) -> Result<Option<CheckedDownload>, OperationError> {
        match (digest, self.expected.digest()) {
            (Some(digest), _) => {
                self.expected.check(digest).map(Some).map_err(|source| unverified(&self.shown(), source))
            }
            (None, None) => Ok(None),
            (None, Some(_)) => {
                let problem = "expected the digest of what came, found none";
                Err(OperationError::state("verifying", &self.url, problem))
            }
        }
    }

    fn shown(&self) -> String {
        format!("'{}'", self.url)
    }
}

fn unverified(object: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OperationError {
    OperationError::Unverified { object: object.to_owned(), source: source.into() }
}

/// The name that sums list the image under: the last component of the URL that was asked for, decoded; a redirect does
/// not change it.
fn name_of(url: &ImageUrl) -> Result<String, OperationError> {
    url.file_name().ok_or_else(|| {
        OperationError::Usage(format!(
            "verifying the download of '{url}': the URL has no file name that sums could list: verify it by its SHA-256, \
             --verify=HEX"
        ))
    })
}

/// Sums without a signature: those of the file, or else of the directory.
fn find_sums(files: &SmallFiles<'_>, name: &str) -> Result<(String, Vec<u8>), OperationError> {
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
fn find_signed_sums(files: &SmallFiles<'_>, name: &str) -> Result<SignedSums, OperationError> {
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

fn missing(files: &SmallFiles<'_>, what: &'static str, tried: &[String]) -> OperationError {
    let tried = tried.iter().map(|name| files.shown(name)).collect::<Vec<_>>().join(", ");
    unverified(&format!("'{}'", files.image), MissingSums { what, tried })
}

/// There is nothing beside the image that it could be verified by.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected {what} beside it, not found (HTTP 404): {tried}; have the server sign its sums, pin the image with \
     --verify=SHA256, or leave it to the policy with --verify=no"
)]
struct MissingSums {
    what: &'static str,
    tried: String,
}

#[cfg(test)]
mod tests;
