//! Checksum manifests that somebody signed whom the user trusts.

use std::time::SystemTime;

use crate::format::checksum_manifest::{ChecksumManifest, ManifestError};

use super::openpgp::{Keyrings, OpenPgpError, OpenPgpSigner, verify_detached};

/// A manifest whose very bytes were signed by a key that counts. Only [`Self::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct VerifiedManifest {
    manifest: ChecksumManifest,
    signer: OpenPgpSigner,
}

impl VerifiedManifest {
    /// Verifies that `signature` is a detached signature over `bytes` by a key of the keyrings, at the time `at`, and
    /// reads the manifest from these bytes.
    ///
    /// # Errors
    /// [`SignedManifestError`]. The manifest is read only where the signature is good.
    pub fn verify(
        bytes: &[u8],
        signature: &[u8],
        keyrings: &Keyrings,
        at: SystemTime,
    ) -> Result<Self, SignedManifestError> {
        let signer = verify_detached(bytes, signature, keyrings, at)?;
        Ok(Self { manifest: ChecksumManifest::parse(bytes)?, signer })
    }

    /// What the manifest says.
    pub const fn manifest(&self) -> &ChecksumManifest {
        &self.manifest
    }

    /// Who signed it.
    #[must_use]
    pub const fn signer(&self) -> &OpenPgpSigner {
        &self.signer
    }
}

/// A manifest is not one, or is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedManifestError {
    /// The bytes are signed and are no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The signature does not count.
    #[error(transparent)]
    Signature(#[from] OpenPgpError),
}
