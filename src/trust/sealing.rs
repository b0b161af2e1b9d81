//! Signing a root hash, as systemd-repart does: detached, no attributes, the certificate embedded.

use openssl::error::ErrorStack;
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::pkey::PKey;
use openssl::stack::Stack;

use crate::format::root_hash::RootHash;

use super::anchor::{AnchorError, KeyRefusal, TrustAnchor, check_key};

/// Why a root hash cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The certificate file cannot be used.
    #[error("reading the certificate to sign with")]
    Certificate(#[source] AnchorError),
    /// The key file holds no private key in PEM, or one that needs a passphrase.
    #[error("unreadable private key: expected PEM without a passphrase")]
    Key,
    /// The certificate is for another key.
    #[error("certificate '{subject}' is for another private key")]
    KeyMismatch {
        /// The subject of the certificate.
        subject: String,
    },
    /// OpenSSL failed.
    #[error("cryptographic library failure: {detail}")]
    Library {
        /// What OpenSSL says.
        detail: String,
    },
    /// Signatures by such a key cannot be verified.
    #[error("unsupported private key: expected RSA or a named elliptic curve, found {found}")]
    UnsupportedKey {
        /// The kind of key.
        found: &'static str,
    },
    /// Nobody should trust a signature by such a key.
    #[error("weak private key: expected {kind} of at least {expected} bits, found {found}")]
    WeakKey {
        /// The kind of key.
        kind: &'static str,
        /// The fewest bits that count.
        expected: u32,
        /// The number of bits.
        found: u32,
    },
}

impl From<ErrorStack> for SealError {
    fn from(errors: ErrorStack) -> Self {
        Self::Library { detail: errors.to_string() }
    }
}

/// Signs `root_hash` with a private key in PEM whose certificate is in PEM or DER: the DER of a detached PKCS#7
/// signature with SHA-256.
///
/// # Errors
/// A [`SealError`]; nothing is signed that
/// [`verify_root_hash_signature`](super::signature::verify_root_hash_signature) would refuse for its key.
pub fn sign_root_hash(
    root_hash: &RootHash,
    key_pem: &[u8],
    certificate_pem: &[u8],
) -> Result<Vec<u8>, SealError> {
    let anchor =
        TrustAnchor::from_pem("signing certificate", certificate_pem).map_err(SealError::Certificate)?;
    // Without a callback OpenSSL would ask the terminal for the passphrase of an encrypted key.
    let key = PKey::private_key_from_pem_callback(key_pem, |_| Err(ErrorStack::get()))
        .map_err(|_| SealError::Key)?;
    check_key(&key).map_err(|refusal| match refusal {
        KeyRefusal::Unsupported { kind } => SealError::UnsupportedKey { found: kind },
        KeyRefusal::Weak { kind, expected, found } => SealError::WeakKey { kind, expected, found },
    })?;
    let certified = anchor.certificate().public_key()?;
    if !certified.public_eq(&key) {
        return Err(SealError::KeyMismatch { subject: anchor.subject().to_owned() });
    }
    let flags = Pkcs7Flags::DETACHED | Pkcs7Flags::NOATTR | Pkcs7Flags::BINARY;
    let others = Stack::new()?;
    let signature =
        Pkcs7::sign(anchor.certificate(), &key, &others, root_hash.to_string().as_bytes(), flags)?;
    Ok(signature.to_der()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_keys::{CertificateOptions, KeyKind, Pair};

    fn sign(key_pem: &[u8], certificate_pem: &[u8]) -> Result<Vec<u8>, SealError> {
        sign_root_hash(&RootHash::from_bytes(&[7; 32]).unwrap(), key_pem, certificate_pem)
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused_by_name() {
        let options = CertificateOptions::named("sealer");
        let pair = Pair::new(KeyKind::P256, &options);
        let other = Pair::new(KeyKind::P256, &options);
        let weak = Pair::new(KeyKind::Rsa(1024), &options);
        let curve = Pair::new(KeyKind::P224, &options);
        let edwards = Pair::new(KeyKind::Ed25519, &options);
        let cipher = openssl::symm::Cipher::aes_256_cbc();
        let encrypted = pair.key.private_key_to_pem_pkcs8_passphrase(cipher, b"secret").unwrap();
        let rows = [
            (Vec::new(), pair.certificate_pem(), SealError::Key),
            (encrypted, pair.certificate_pem(), SealError::Key),
            (pair.certificate_pem(), pair.certificate_pem(), SealError::Key),
            (pair.key_pem(), pair.key_pem(), SealError::Certificate(AnchorError::NotACertificate)),
            (
                pair.key_pem(),
                other.certificate_pem(),
                SealError::KeyMismatch { subject: "CN=sealer".to_owned() },
            ),
            (
                weak.key_pem(),
                weak.certificate_pem(),
                SealError::WeakKey { kind: "RSA", expected: 2048, found: 1024 },
            ),
            (
                curve.key_pem(),
                curve.certificate_pem(),
                SealError::WeakKey { kind: "elliptic curve", expected: 256, found: 224 },
            ),
            (edwards.key_pem(), edwards.certificate_pem(), SealError::UnsupportedKey { found: "Ed25519" }),
        ];
        for (key, certificate, error) in rows {
            assert_eq!(sign(&key, &certificate).unwrap_err(), error);
        }
        assert!(sign(&pair.key_pem(), &pair.certificate_pem()).is_ok());
    }
}
