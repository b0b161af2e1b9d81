//! The root hash that may be relied on, and why.

use std::fmt;

use crate::format::root_hash::RootHash;

use super::anchor::{Fingerprint, TrustAnchor};
use super::download::VerifiedDownload;

/// A root hash that somebody vouched for whom the user trusts.
///
/// It exists only where a check ran: [`verify_root_hash_signature`](super::signature::verify_root_hash_signature),
/// [`Self::authenticate_given`] or [`Self::authenticate_by_download`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct AuthenticatedRootHash {
    root_hash: RootHash,
    by: Authentication,
    /// The PKCS#7 in DER that was verified; empty where another check ran.
    signature: Vec<u8>,
}

/// What makes a root hash trustworthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// A signature over it was verified against a trust anchor.
    Signature(Signer),
    /// The user gave it, and it is the one that was found.
    Given,
    /// It lies inside a download that was verified as a whole.
    VerifiedDownload,
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(signer) => write!(f, "signed by {signer}"),
            Self::Given => f.write_str("given by the user"),
            Self::VerifiedDownload => f.write_str("inside a verified download"),
        }
    }
}

/// Whose signature it was: the trust anchor that it was verified against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    name: String,
    subject: String,
    fingerprint: Fingerprint,
}

impl Signer {
    pub(super) fn of(anchor: &TrustAnchor) -> Self {
        Self {
            name: anchor.name().to_owned(),
            subject: anchor.subject().to_owned(),
            fingerprint: anchor.fingerprint(),
        }
    }

    /// The name that the trust anchor was loaded under, as a rule a file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subject of the certificate.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The SHA-256 of the certificate in DER.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' ({})", self.subject, self.fingerprint)
    }
}

impl AuthenticatedRootHash {
    /// For the signature check alone, which lies in another file of this directory.
    pub(super) fn signed(root_hash: RootHash, signer: Signer, signature: &[u8]) -> Self {
        Self { root_hash, by: Authentication::Signature(signer), signature: signature.to_vec() }
    }

    /// The root hash that was found in the image, where it is the one that the user gave.
    ///
    /// # Errors
    /// [`RootHashMismatch`] where it is another.
    pub fn authenticate_given(given: &RootHash, found: &RootHash) -> Result<Self, RootHashMismatch> {
        if given == found {
            Ok(Self { root_hash: found.clone(), by: Authentication::Given, signature: Vec::new() })
        } else {
            Err(RootHashMismatch { expected: given.clone(), found: found.clone() })
        }
    }

    /// The root hash that was found inside a download which was verified as a whole.
    pub const fn authenticate_by_download(_: &VerifiedDownload, found: RootHash) -> Self {
        Self { root_hash: found, by: Authentication::VerifiedDownload, signature: Vec::new() }
    }

    /// The root hash.
    #[must_use]
    pub const fn root_hash(&self) -> &RootHash {
        &self.root_hash
    }

    /// What makes it trustworthy.
    #[must_use]
    pub const fn by(&self) -> &Authentication {
        &self.by
    }

    /// The very signature that was verified, a PKCS#7 in DER, for the kernel to verify again; `None` where the root hash
    /// is trusted for another reason.
    #[must_use]
    pub fn signature(&self) -> Option<&[u8]> {
        (!self.signature.is_empty()).then_some(self.signature.as_slice())
    }

    /// Whose signature was verified; `None` where it is trusted for another reason.
    #[must_use]
    pub const fn signer(&self) -> Option<&Signer> {
        match &self.by {
            Authentication::Signature(signer) => Some(signer),
            Authentication::Given | Authentication::VerifiedDownload => None,
        }
    }
}

/// The image has another root hash than the one that was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another root hash than the one given: expected '{expected}', found '{found}'")]
pub struct RootHashMismatch {
    /// The root hash that the user gave.
    pub expected: RootHash,
    /// The root hash of the image.
    pub found: RootHash,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::checksum_manifest::ListedDigest;
    use crate::trust::download::{DownloadHasher, ExpectedDownload};

    fn root_hash(byte: u8, length: usize) -> RootHash {
        RootHash::from_bytes(&vec![byte; length]).unwrap()
    }

    #[test]
    fn a_given_root_hash_authenticates_only_itself() {
        let given = root_hash(1, 32);
        let authenticated = AuthenticatedRootHash::authenticate_given(&given, &root_hash(1, 32)).unwrap();
        assert_eq!((authenticated.root_hash(), authenticated.by()), (&given, &Authentication::Given));
        assert_eq!(authenticated.signer(), None);
        for found in [root_hash(2, 32), root_hash(1, 64)] {
            let mismatch = AuthenticatedRootHash::authenticate_given(&given, &found).unwrap_err();
            assert_eq!(mismatch, RootHashMismatch { expected: given.clone(), found });
        }
    }

    #[test]
    fn a_root_hash_inside_a_verified_download_says_so() {
        let digest = DownloadHasher::new().finish();
        let expected = ExpectedDownload::pinned(ListedDigest::from_bytes(*digest.as_bytes()));
        let checked = expected.check(digest).unwrap();
        let download = checked.verified().unwrap();
        let authenticated = AuthenticatedRootHash::authenticate_by_download(download, root_hash(3, 64));
        assert_eq!(authenticated.by(), &Authentication::VerifiedDownload);
        assert_eq!(authenticated.root_hash(), &root_hash(3, 64));
    }
}
