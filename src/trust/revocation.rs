//! What is refused whoever vouches for it, and what certificates may sign (invariant I8): `trust.d`, as values.
//!
//! A signature covers a bare root hash, and holds for ever. What must no longer be used is taken back here, without a
//! clock. Everything here takes trust away: nothing becomes trusted by it.

use std::collections::BTreeMap;
use std::fmt;

use crate::format::image_class::ImageClass;
use crate::format::root_hash::RootHash;
use crate::format::trust_rules::{Purpose, TrustRule, TrustSubject};

use super::anchor::Fingerprint;

/// What an image is to be used for, as whoever uses it says; never what the image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagePurpose {
    /// Its class; `None` where nobody said.
    pub class: Option<ImageClass>,
    /// Its name without the suffixes of its file; `None` where it has none.
    pub name: Option<String>,
}

impl ImagePurpose {
    /// Nobody said anything.
    pub const UNKNOWN: &'static Self = &Self { class: None, name: None };
}

impl fmt::Display for ImagePurpose {
    /// What a certificate would have to be for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            Some(class) => write!(f, "class {class}")?,
            None => f.write_str("no known class")?,
        }
        match &self.name {
            Some(name) => write!(f, ", name '{}'", name.escape_debug()),
            None => f.write_str(", no name"),
        }
    }
}

/// Why something was taken back: the words of the administrator, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    reason: Option<String>,
    file: String,
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "by '{}': {reason}", self.file),
            None => write!(f, "by '{}'", self.file),
        }
    }
}

/// The purposes of one certificate, by one line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    purposes: Vec<Purpose>,
    file: String,
}

/// A certificate may not sign this image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerRefusal {
    /// Trust in it was taken back.
    #[error("revoked {0}")]
    Revoked(Revocation),
    /// It is for other images.
    #[error("not for {found}, but for {allowed} by '{file}'")]
    Purpose {
        /// What it is for.
        allowed: String,
        /// Where that stands.
        file: String,
        /// What the image is to be used for.
        found: ImagePurpose,
    },
}

/// A download that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the download with SHA-256 '{digest}' was revoked {revocation}")]
pub struct RevokedImage {
    /// The SHA-256 in hexadecimal.
    pub digest: String,
    /// Why.
    pub revocation: Revocation,
}

/// Everything that `trust.d` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    root_hashes: BTreeMap<RootHash, Revocation>,
    certificates: BTreeMap<Fingerprint, Revocation>,
    images: BTreeMap<[u8; 32], Revocation>,
    limits: BTreeMap<Fingerprint, Vec<Limit>>,
}

impl Revocations {
    /// Nothing was taken back.
    pub const NONE: &'static Self = &Self {
        root_hashes: BTreeMap::new(),
        certificates: BTreeMap::new(),
        images: BTreeMap::new(),
        limits: BTreeMap::new(),
    };

    /// Adds what a file says; `file` is its name, for messages. The first reason for a thing stays.
    pub fn add(&mut self, file: &str, rules: Vec<TrustRule>) {
        for TrustRule { subject, reason } in rules {
            let revocation = Revocation { reason, file: file.to_owned() };
            match subject {
                TrustSubject::RevokedRootHash(hash) => {
                    self.root_hashes.entry(hash).or_insert(revocation);
                }
                TrustSubject::RevokedCertificate(digest) => {
                    let fingerprint = Fingerprint::from_bytes(*digest.as_bytes());
                    self.certificates.entry(fingerprint).or_insert(revocation);
                }
                TrustSubject::RevokedImage(digest) => {
                    self.images.entry(*digest.as_bytes()).or_insert(revocation);
                }
                TrustSubject::LimitedCertificate(digest, purposes) => {
                    let fingerprint = Fingerprint::from_bytes(*digest.as_bytes());
                    let limit = Limit { purposes, file: file.to_owned() };
                    self.limits.entry(fingerprint).or_default().push(limit);
                }
            }
        }
    }

    /// Why data with this root hash must not be used; `None` where nothing is known against it.
    #[must_use]
    pub fn of_root_hash(&self, hash: &RootHash) -> Option<&Revocation> {
        self.root_hashes.get(hash)
    }

    /// The root hashes that were taken back.
    pub fn root_hashes(&self) -> impl Iterator<Item = (&RootHash, &Revocation)> {
        self.root_hashes.iter()
    }

    /// Whether there is a download that was taken back, so that the digest of each has to be known.
    #[must_use]
    pub fn has_images(&self) -> bool {
        !self.images.is_empty()
    }

    /// Refuses a download with this SHA-256 if it was taken back.
    ///
    /// # Errors
    /// [`RevokedImage`].
    pub fn check_image(&self, digest: &[u8; 32]) -> Result<(), RevokedImage> {
        match self.images.get(digest) {
            None => Ok(()),
            Some(revocation) => Err(RevokedImage {
                digest: data_encoding::HEXLOWER.encode(digest),
                revocation: revocation.clone(),
            }),
        }
    }

    /// Refuses a certificate that was taken back, or that is for other images: every limit has to let it pass.
    ///
    /// # Errors
    /// [`SignerRefusal`].
    pub fn check_signer(
        &self,
        fingerprint: &Fingerprint,
        purpose: &ImagePurpose,
    ) -> Result<(), SignerRefusal> {
        if let Some(revocation) = self.certificates.get(fingerprint) {
            return Err(SignerRefusal::Revoked(revocation.clone()));
        }
        let covers = |limit: &&Limit| {
            limit.purposes.iter().any(|allowed| allowed.covers(purpose.class, purpose.name.as_deref()))
        };
        match self.limits.get(fingerprint).into_iter().flatten().find(|limit| !covers(limit)) {
            None => Ok(()),
            Some(limit) => Err(SignerRefusal::Purpose {
                allowed: limit.purposes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
                file: limit.file.clone(),
                found: purpose.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::trust_rules::parse;

    fn revocations(files: &[(&str, String)]) -> Revocations {
        let mut revocations = Revocations::default();
        for (file, text) in files {
            revocations.add(file, parse(text).unwrap());
        }
        revocations
    }

    fn purpose(class: ImageClass, name: &str) -> ImagePurpose {
        ImagePurpose { class: Some(class), name: Some(name.to_owned()) }
    }

    #[test]
    fn the_first_reason_stays_and_nothing_gives_trust_back() {
        let hash = "ab".repeat(32);
        let revoked = revocations(&[
            ("a.conf", format!("revoke-root-hash = {hash} \"first\"\nrevoke-certificate = {hash}")),
            ("b.conf", format!("revoke-root-hash = {hash}\nlimit-certificate = {hash} sysext")),
        ]);
        let found = revoked.of_root_hash(&hash.parse().unwrap()).unwrap();
        assert_eq!(found.to_string(), "by 'a.conf': first");
        assert_eq!(revoked.of_root_hash(&"ac".repeat(32).parse().unwrap()), None);
        let fingerprint = Fingerprint::from_bytes([0xab; 32]);
        let refusal = revoked.check_signer(&fingerprint, &purpose(ImageClass::Sysext, "web")).unwrap_err();
        assert_eq!(refusal.to_string(), "revoked by 'a.conf'");
        assert_eq!(revoked.check_image(&[0xab; 32]), Ok(()));
        assert!(!revoked.has_images());
    }

    #[test]
    fn every_limit_has_to_let_a_certificate_pass() {
        let hash = "ab".repeat(32);
        let limited = revocations(&[
            ("a.conf", format!("limit-certificate = {hash} sysext confext:site-*")),
            ("b.conf", format!("limit-certificate = {hash} *:*-1")),
        ]);
        let fingerprint = Fingerprint::from_bytes([0xab; 32]);
        let check = |purpose: ImagePurpose| limited.check_signer(&fingerprint, &purpose);
        assert_eq!(check(purpose(ImageClass::Sysext, "web-1")), Ok(()));
        assert_eq!(check(purpose(ImageClass::Confext, "site-1")), Ok(()));
        for other in [
            purpose(ImageClass::Sysext, "web-2"),
            purpose(ImageClass::Confext, "web-1"),
            purpose(ImageClass::Machine, "site-1"),
            ImagePurpose { class: None, name: Some("web-1".to_owned()) },
            ImagePurpose { class: Some(ImageClass::Sysext), name: None },
            ImagePurpose::default(),
        ] {
            assert!(matches!(check(other.clone()), Err(SignerRefusal::Purpose { .. })), "{other}");
        }
        let stranger = Fingerprint::from_bytes([1; 32]);
        assert_eq!(limited.check_signer(&stranger, ImagePurpose::UNKNOWN), Ok(()));
        assert_eq!(
            check(purpose(ImageClass::Machine, "a\n")).unwrap_err().to_string(),
            "not for class machine, name 'a\\n', but for sysext or confext:site-* by 'a.conf'"
        );
    }

    #[test]
    fn a_download_is_refused_by_its_digest() {
        let revoked =
            revocations(&[("a.conf", format!("revoke-image = {} \"old kernel\"", "cd".repeat(32)))]);
        assert!(revoked.has_images());
        assert_eq!(revoked.check_image(&[0xab; 32]), Ok(()));
        let error = revoked.check_image(&[0xcd; 32]).unwrap_err().to_string();
        assert!(error.ends_with("was revoked by 'a.conf': old kernel"), "{error}");
    }
}
