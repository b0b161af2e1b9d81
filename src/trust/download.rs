//! A download that was verified as a whole, against a digest that the user pinned.

use sha2::Digest as _;

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

    /// Compares it with the one that was pinned.
    ///
    /// # Errors
    /// [`DownloadMismatch`] where they differ.
    pub fn check(self, expected: &[u8; 32]) -> Result<VerifiedDownload, DownloadMismatch> {
        if self.0 == *expected {
            Ok(VerifiedDownload { digest: self.0 })
        } else {
            Err(DownloadMismatch { expected: *expected, found: self.0 })
        }
    }
}

/// A download whose bytes have the digest that was pinned. Only [`DownloadDigest::check`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct VerifiedDownload {
    digest: [u8; 32],
}

impl VerifiedDownload {
    /// The SHA-256 of the download, pinned and computed.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// The download is not the one that was pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "download with another digest: expected sha256 '{}', found '{}'",
    data_encoding::HEXLOWER.encode(expected),
    data_encoding::HEXLOWER.encode(found)
)]
pub struct DownloadMismatch {
    /// The digest that was pinned.
    pub expected: [u8; 32],
    /// The digest that the bytes have.
    pub found: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc` (FIPS 180-4, example).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn pinned(text: &str) -> [u8; 32] {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    fn digest_of(parts: &[&[u8]]) -> DownloadDigest {
        let mut hasher = DownloadHasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finish()
    }

    #[test]
    fn the_pinned_download_is_verified_however_it_was_cut() {
        for parts in [&[&b"abc"[..]][..], &[b"a", b"", b"bc"]] {
            assert_eq!(digest_of(parts).check(&pinned(ABC)).unwrap().digest(), &pinned(ABC));
        }
    }

    #[test]
    fn any_other_download_is_refused_with_both_digests() {
        for parts in [&[][..], &[&b"ab"[..]], &[b"abc", b"\0"]] {
            let mismatch = digest_of(parts).check(&pinned(ABC)).unwrap_err();
            assert_eq!(mismatch.expected, pinned(ABC));
            assert_ne!(mismatch.found, mismatch.expected);
            assert!(mismatch.to_string().contains(ABC));
        }
    }
}
