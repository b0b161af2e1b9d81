//! A download that was compared as a whole with what somebody said of it, and who that was.

use std::fmt;

use sha2::Digest as _;

use crate::format::checksum_manifest::{ChecksumManifest, Contradiction, ListedDigest};

use super::manifest::VerifiedManifest;
use super::openpgp::OpenPgpSigner;

/// Computes the digest of a download while it streams.
#[derive(Debug, Clone, Default)]
pub struct DownloadHasher(sha2::Sha256);

impl DownloadHasher {
    /// A hasher that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, in the order in which they were received.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything it was given. Whoever calls this knows that the download is complete.
    pub fn finish(self) -> DownloadDigest {
        DownloadDigest(self.0.finalize().into())
    }
}

/// The SHA-256 that bytes really have: made by a [`DownloadHasher`] and by nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a digest that nobody compares verifies nothing"]
pub struct DownloadDigest([u8; 32]);

impl DownloadDigest {
    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest is this one, or nothing is.
    fn compare(self, expected: &ListedDigest) -> Result<(), DownloadMismatch> {
        if self.0 == *expected.as_bytes() {
            Ok(())
        } else {
            Err(DownloadMismatch { expected: *expected, found: ListedDigest::from_bytes(self.0) })
        }
    }
}

/// What a download is compared with when it is complete, and how far that can be relied on.
///
/// The digest alone says nothing about who it is from: sums from the same server as the image are as good as the server.
/// So only a pinned digest and one of a [`VerifiedManifest`] can give a [`VerifiedDownload`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ExpectedDownload(Expected);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Anything,
    Listed(ListedDigest),
    Vouched(ListedDigest, DownloadAuthentication),
}

/// Who vouches for a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownloadAuthentication {
    /// The user gave its digest.
    Pinned,
    /// Its digest is in sums that were signed.
    Signed(Box<OpenPgpSigner>),
}

impl fmt::Display for DownloadAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("digest given by the user"),
            Self::Signed(signer) => write!(f, "sums signed by {signer}"),
        }
    }
}

impl ExpectedDownload {
    /// Nothing is known of the download, and whatever comes is taken.
    pub const fn anything() -> Self {
        Self(Expected::Anything)
    }

    /// The user gave the digest.
    pub const fn pinned(digest: ListedDigest) -> Self {
        Self(Expected::Vouched(digest, DownloadAuthentication::Pinned))
    }

    /// The file `name` of a manifest that nobody signed: it finds damage, and no adversary.
    ///
    /// # Errors
    /// [`NotListed`].
    pub fn listed(manifest: &ChecksumManifest, name: &str) -> Result<Self, NotListed> {
        Ok(Self(Expected::Listed(lookup(manifest, name)?)))
    }

    /// The file `name` of a manifest that was signed.
    ///
    /// # Errors
    /// [`NotListed`].
    pub fn signed(manifest: &VerifiedManifest, name: &str) -> Result<Self, NotListed> {
        let digest = lookup(manifest.manifest(), name)?;
        let signer = Box::new(manifest.signer().clone());
        Ok(Self(Expected::Vouched(digest, DownloadAuthentication::Signed(signer))))
    }

    /// The digest, where one is known. For messages and for finding the download in a cache: comparing with it is the
    /// business of [`Self::check`].
    #[must_use]
    pub const fn digest(&self) -> Option<ListedDigest> {
        match &self.0 {
            Expected::Anything => None,
            Expected::Listed(digest) | Expected::Vouched(digest, _) => Some(*digest),
        }
    }

    /// Who vouches for the digest; `None` where nobody does.
    #[must_use]
    pub const fn vouched_by(&self) -> Option<&DownloadAuthentication> {
        match &self.0 {
            Expected::Anything | Expected::Listed(_) => None,
            Expected::Vouched(_, by) => Some(by),
        }
    }

    /// Compares a complete download.
    ///
    /// # Errors
    /// [`DownloadMismatch`] where it is another one.
    pub fn check(&self, found: DownloadDigest) -> Result<CheckedDownload, DownloadMismatch> {
        let digest = found.0;
        match &self.0 {
            Expected::Anything => Ok(CheckedDownload { digest, compared: false, verified: None }),
            Expected::Listed(expected) => {
                found.compare(expected)?;
                Ok(CheckedDownload { digest, compared: true, verified: None })
            }
            Expected::Vouched(expected, by) => {
                found.compare(expected)?;
                let verified = Some(VerifiedDownload { digest, by: by.clone() });
                Ok(CheckedDownload { digest, compared: true, verified })
            }
        }
    }
}

fn lookup(manifest: &ChecksumManifest, name: &str) -> Result<ListedDigest, NotListed> {
    manifest.digest_of(name)?.ok_or_else(|| NotListed::Missing {
        name: name.to_owned(),
        listed: manifest.examples(),
        not_understood: manifest.not_understood().to_string(),
    })
}

/// A manifest says nothing that can be used of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotListed {
    /// It says two things.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// It says nothing.
    #[error("the sums do not list '{name}': they list {listed}{not_understood}")]
    Missing {
        /// The name that was looked for.
        name: String,
        /// Some of the names that are there.
        listed: String,
        /// How many lines were not understood.
        not_understood: String,
    },
}

/// A complete download that is what was expected, be that anything at all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct CheckedDownload {
    digest: [u8; 32],
    compared: bool,
    verified: Option<VerifiedDownload>,
}

impl CheckedDownload {
    /// The SHA-256 of the download.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether it was compared with anything. That alone authenticates nothing.
    #[must_use]
    pub const fn was_compared(&self) -> bool {
        self.compared
    }

    /// The proof that somebody vouches for it; `None` where nobody does, however it was compared.
    #[must_use]
    pub const fn verified(&self) -> Option<&VerifiedDownload> {
        self.verified.as_ref()
    }
}

/// A download for whose bytes somebody vouches whom the user trusts. Only [`ExpectedDownload::check`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct VerifiedDownload {
    digest: [u8; 32],
    by: DownloadAuthentication,
}

impl VerifiedDownload {
    /// The SHA-256 of the download, vouched for and computed.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Who vouches for it.
    #[must_use]
    pub const fn by(&self) -> &DownloadAuthentication {
        &self.by
    }
}

/// The download is not the one that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another download than expected: expected sha256 '{expected}', found '{found}'")]
pub struct DownloadMismatch {
    /// The digest that was pinned or listed.
    pub expected: ListedDigest,
    /// The digest that the bytes have.
    pub found: ListedDigest,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc` (FIPS 180-4, example).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn listed(text: &str) -> ListedDigest {
        ListedDigest::from_hexadecimal(text.as_bytes()).unwrap()
    }

    fn digest_of(parts: &[&[u8]]) -> DownloadDigest {
        let mut hasher = DownloadHasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finish()
    }

    #[test]
    fn the_pinned_download_is_verified_however_it_was_cut() {
        let expected = ExpectedDownload::pinned(listed(ABC));
        for parts in [&[&b"abc"[..]][..], &[b"a", b"", b"bc"]] {
            let checked = expected.check(digest_of(parts)).unwrap();
            let verified = checked.verified().unwrap();
            assert_eq!(verified.digest(), listed(ABC).as_bytes());
            assert_eq!(verified.by(), &DownloadAuthentication::Pinned);
            assert_eq!((checked.digest(), checked.was_compared()), (verified.digest(), true));
        }
    }

    #[test]
    fn any_other_download_is_refused_with_both_digests() {
        let manifest = ChecksumManifest::parse(format!("{ABC}  image.raw\n").as_bytes()).unwrap();
        for expected in
            [ExpectedDownload::pinned(listed(ABC)), ExpectedDownload::listed(&manifest, "image.raw").unwrap()]
        {
            for parts in [&[][..], &[&b"ab"[..]], &[b"abc", b"\0"]] {
                let mismatch = expected.check(digest_of(parts)).unwrap_err();
                assert_eq!(mismatch.expected, listed(ABC));
                assert_ne!(mismatch.found, mismatch.expected);
                assert!(mismatch.to_string().contains(ABC));
            }
        }
    }

    #[test]
    fn sums_that_nobody_signed_verify_nothing() {
        let manifest = ChecksumManifest::parse(format!("{ABC}  image.raw\n").as_bytes()).unwrap();
        let expected = ExpectedDownload::listed(&manifest, "image.raw").unwrap();
        assert_eq!((expected.digest(), expected.vouched_by()), (Some(listed(ABC)), None));
        let checked = expected.check(digest_of(&[b"abc"])).unwrap();
        assert_eq!((checked.was_compared(), checked.verified()), (true, None));

        let anything = ExpectedDownload::anything().check(digest_of(&[b"abc"])).unwrap();
        assert_eq!((anything.was_compared(), anything.verified()), (false, None));
    }

    #[test]
    fn what_is_not_listed_once_is_an_error() {
        let other = "0".repeat(64);
        let text = format!("{ABC}  a\n{other}  b\n{ABC}  b\nnothing\n");
        let manifest = ChecksumManifest::parse(text.as_bytes()).unwrap();
        let missing = ExpectedDownload::listed(&manifest, "image.raw").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "the sums do not list 'image.raw': they list 'a', 'b', 'b' (line 4 is no SHA-256 sum)"
        );
        assert!(matches!(ExpectedDownload::listed(&manifest, "b"), Err(NotListed::Contradiction(_))));
    }
}
