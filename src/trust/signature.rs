//! The signature over a root hash: detached PKCS#7, verified against trust anchors alone.
//!
//! The content is the root hash as lowercase hexadecimal, without a newline (Discoverable Partitions Specification,
//! 'Verity signature partition'). Stricter than systemd and than the kernel: one DER object and nothing behind it,
//! digests and keys of today's strength, validity at a time that the caller gives, and all signers must be trusted.

use std::time::SystemTime;

use openssl::error::ErrorStack;
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::pkey::Id;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509Name};

use crate::format::root_hash::RootHash;

use super::anchor::{CertificateTime, Fingerprint, KeyRefusal, TrustAnchor, TrustAnchors, name_text};
use super::der::DerError;
use super::revocation::{ImagePurpose, Revocations, SignerRefusal};
use super::root_hash::{AuthenticatedRootHash, Signer};
use super::signed_data::{KeyType, SignedData, SignerInfo};

/// The largest signature that is read. Real ones are 1 to 3 KiB; systemd's own limit for the partition's JSON is 4 MiB.
pub const MAXIMUM_SIGNATURE: usize = 1024 * 1024;

/// Why a signature over a root hash does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There are no bytes.
    #[error("signature of no bytes")]
    Empty,
    /// The certificate was valid once.
    #[error("expired certificate '{subject}': valid until {not_after}, verified at {at}")]
    Expired {
        /// The subject of the certificate.
        subject: String,
        /// The last second at which it was valid.
        not_after: CertificateTime,
        /// The time of verification.
        at: CertificateTime,
    },
    /// The image names the fingerprint of a certificate that did not make this signature.
    #[error(
        "signature by another certificate than claimed: expected fingerprint '{claimed}', found '{found}'"
    )]
    FingerprintMismatch {
        /// The fingerprint that the image names.
        claimed: Fingerprint,
        /// The fingerprint of the certificate whose signature it is.
        found: Fingerprint,
    },
    /// The certificate was taken back, or is for other images.
    #[error("certificate '{subject}' {refusal} (SHA-256 {fingerprint})")]
    Forbidden {
        /// The subject of the certificate.
        subject: String,
        /// Its SHA-256.
        fingerprint: Fingerprint,
        /// Why.
        refusal: Box<SignerRefusal>,
    },
    /// OpenSSL failed for a reason that has nothing to do with the signature.
    #[error("cryptographic library failure: {detail}")]
    Library {
        /// What OpenSSL says.
        detail: String,
    },
    /// The bytes are not the DER of a PKCS#7 object.
    #[error("malformed signature: expected {expected} at byte {offset}")]
    Malformed {
        /// Where, in bytes from the beginning.
        offset: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// Nobody signed it.
    #[error("signature without a signer")]
    NoSigner,
    /// No certificate is trusted, so no signature can be.
    #[error("no trust anchors to verify the signature against")]
    NoTrustAnchors,
    /// The signed content lies inside the signature.
    #[error("signature with embedded content: expected a detached one")]
    NotDetached,
    /// It is another kind of PKCS#7 object.
    #[error("not a PKCS#7 signature: expected content type '1.2.840.113549.1.7.2', found '{found}'")]
    NotSignedData {
        /// The content type.
        found: String,
    },
    /// The certificate will be valid some day, or the clock is wrong.
    #[error(
        "certificate '{subject}' not yet valid: valid from {not_before}, verified at {at}; is the clock right?"
    )]
    NotYetValid {
        /// The subject of the certificate.
        subject: String,
        /// The first second at which it will be valid.
        not_before: CertificateTime,
        /// The time of verification.
        at: CertificateTime,
    },
    /// There are more bytes than any signature has.
    #[error("signature too large: expected at most {limit} bytes, found {found}")]
    TooLarge {
        /// The limit, [`MAXIMUM_SIGNATURE`].
        limit: usize,
        /// The number of bytes.
        found: usize,
    },
    /// There are more signers than anyone needs.
    #[error("too many signers: expected at most {limit}")]
    TooManySigners {
        /// The limit.
        limit: usize,
    },
    /// There is something behind the signature.
    #[error("signature with {count} bytes behind it")]
    TrailingBytes {
        /// How many bytes.
        count: usize,
    },
    /// The algorithm is not one that signatures of root hashes are made with.
    #[error("unsupported algorithm '{found}'")]
    UnsupportedAlgorithm {
        /// The object identifier of the algorithm.
        found: String,
    },
    /// The trusted certificate has a key that PKCS#7 signatures are not verified with.
    #[error(
        "unsupported key of certificate '{subject}': expected RSA or a named elliptic curve, found {found}"
    )]
    UnsupportedKey {
        /// The subject of the certificate.
        subject: String,
        /// The kind of key.
        found: &'static str,
    },
    /// No trust anchor is the signer's certificate.
    #[error("untrusted signer: no trust anchor with issuer '{issuer}' and serial number '{serial}'")]
    UntrustedSigner {
        /// The issuer of the signer's certificate.
        issuer: String,
        /// The serial number of the signer's certificate, in hexadecimal.
        serial: String,
    },
    /// The digest is too weak.
    #[error("weak digest: expected sha256, sha384 or sha512, found {found}")]
    WeakDigest {
        /// The digest.
        found: &'static str,
    },
    /// The key is too short.
    #[error(
        "weak key of certificate '{subject}': expected {kind} of at least {expected} bits, found {found}"
    )]
    WeakKey {
        /// The subject of the certificate.
        subject: String,
        /// The kind of key.
        kind: &'static str,
        /// The fewest bits that count.
        expected: u32,
        /// The number of bits.
        found: u32,
    },
    /// It signs another type of content.
    #[error("signature over another type of content: expected data '1.2.840.113549.1.7.1', found '{found}'")]
    WrongContentType {
        /// The content type.
        found: String,
    },
    /// It is not a signature of this root hash by the certificate that it names.
    #[error("wrong signature: not over root hash '{root_hash}' by '{subject}'")]
    WrongSignature {
        /// The root hash.
        root_hash: RootHash,
        /// The subject of the trusted certificate.
        subject: String,
    },
}

impl From<DerError> for SignatureError {
    fn from(error: DerError) -> Self {
        Self::Malformed { offset: error.offset, expected: error.expected }
    }
}

impl From<ErrorStack> for SignatureError {
    fn from(errors: ErrorStack) -> Self {
        Self::Library { detail: errors.to_string() }
    }
}

/// Whose signatures count, for which image, and when.
#[derive(Debug, Clone, Copy)]
pub struct Signers<'a> {
    /// The certificates that may sign.
    pub anchors: &'a TrustAnchors,
    /// What was taken back, and what certificates are limited to.
    pub revocations: &'a Revocations,
    /// What the image is to be used for.
    pub purpose: &'a ImagePurpose,
    /// The time at which certificates must be valid.
    pub at: SystemTime,
}

impl<'a> Signers<'a> {
    /// Those with these certificates at this time, without limits: for an image that `trust.d` does not concern.
    #[must_use]
    pub const fn unlimited(anchors: &'a TrustAnchors, at: SystemTime) -> Self {
        Self { anchors, revocations: Revocations::NONE, purpose: ImagePurpose::UNKNOWN, at }
    }
}

/// Verifies that `der` is a signature over `root_hash` by trust anchors, every signer of it by one of them that may sign
/// this image. `claimed_fingerprint` is the one that the signature partition names, if it names one.
///
/// Certificates inside the signature are not looked at.
///
/// # Errors
/// A [`SignatureError`] for the first check that fails.
pub fn verify_root_hash_signature(
    root_hash: &RootHash,
    der: &[u8],
    claimed_fingerprint: Option<&[u8; 32]>,
    trusted: &Signers<'_>,
) -> Result<AuthenticatedRootHash, SignatureError> {
    if der.is_empty() {
        return Err(SignatureError::Empty);
    }
    if der.len() > MAXIMUM_SIGNATURE {
        return Err(SignatureError::TooLarge { limit: MAXIMUM_SIGNATURE, found: der.len() });
    }
    let signed_data = SignedData::parse(der)?;
    if trusted.anchors.is_empty() {
        return Err(SignatureError::NoTrustAnchors);
    }
    let claimed = claimed_fingerprint.copied().map(Fingerprint::from_bytes);
    let mut signers = Vec::new();
    for signer in &signed_data.signers {
        signers.push(verify_signer(signer, root_hash, claimed, trusted)?);
    }
    // With several signers the claim may mean any of them.
    let named = signers.iter().find(|anchor| claimed.is_none_or(|claimed| claimed == anchor.fingerprint()));
    match (named, signers.first(), claimed) {
        (Some(anchor), _, _) => Ok(AuthenticatedRootHash::signed(root_hash.clone(), Signer::of(anchor), der)),
        (None, Some(anchor), Some(claimed)) => {
            Err(SignatureError::FingerprintMismatch { claimed, found: anchor.fingerprint() })
        }
        (None, _, _) => Err(SignatureError::NoSigner),
    }
}

/// The trust anchor whose signature this is. There can be several with the signer's issuer and serial number; the
/// claimed one goes first.
fn verify_signer<'a>(
    signer: &SignerInfo<'_>,
    root_hash: &RootHash,
    claimed: Option<Fingerprint>,
    trusted: &Signers<'a>,
) -> Result<&'a TrustAnchor, SignatureError> {
    let mut candidates: Vec<&TrustAnchor> =
        trusted.anchors.iter().filter(|anchor| anchor.is_named(signer.issuer, signer.serial)).collect();
    candidates.sort_by_key(|anchor| Some(anchor.fingerprint()) != claimed);
    let mut refusal = None;
    for anchor in candidates {
        match verify_by(signer, root_hash, anchor, trusted) {
            Ok(()) => return Ok(anchor),
            // What is wrong with the certificate of a right signature says more than that another did not make it.
            Err(error) if matches!(refusal, None | Some(SignatureError::WrongSignature { .. })) => {
                refusal = Some(error);
            }
            Err(_) => (),
        }
    }
    Err(refusal.unwrap_or_else(|| untrusted(signer)))
}

fn verify_by(
    signer: &SignerInfo<'_>,
    root_hash: &RootHash,
    anchor: &TrustAnchor,
    trusted: &Signers<'_>,
) -> Result<(), SignatureError> {
    let at = trusted.at.into();
    let subject = || anchor.subject().to_owned();
    let wrong = || SignatureError::WrongSignature { root_hash: root_hash.clone(), subject: subject() };
    let key = anchor.key().map_err(|refusal| match refusal {
        KeyRefusal::Unsupported { kind } => {
            SignatureError::UnsupportedKey { subject: subject(), found: kind }
        }
        KeyRefusal::Weak { kind, expected, found } => {
            SignatureError::WeakKey { subject: subject(), kind, expected, found }
        }
    })?;
    let expected = match signer.key_type {
        KeyType::Rsa => Id::RSA,
        KeyType::EllipticCurve => Id::EC,
    };
    if key.id() != expected || !is_signature_by(signer, root_hash, anchor)? {
        return Err(wrong());
    }
    let fingerprint = anchor.fingerprint();
    trusted.revocations.check_signer(&fingerprint, trusted.purpose).map_err(|refusal| {
        SignatureError::Forbidden { subject: subject(), fingerprint, refusal: Box::new(refusal) }
    })?;
    let (not_before, not_after) = (anchor.not_before(), anchor.not_after());
    if at < not_before {
        return Err(SignatureError::NotYetValid { subject: subject(), not_before, at });
    }
    if at > not_after {
        return Err(SignatureError::Expired { subject: subject(), not_after, at });
    }
    Ok(())
}

/// The cryptography, and nothing else: whether `anchor`'s key made this signature over `root_hash`.
fn is_signature_by(
    signer: &SignerInfo<'_>,
    root_hash: &RootHash,
    anchor: &TrustAnchor,
) -> Result<bool, SignatureError> {
    // OpenSSL keeps errors in a queue of the thread; what earlier calls left there is not ours.
    drop(ErrorStack::get());
    let mut certificates = Stack::<X509>::new()?;
    certificates.push(anchor.certificate().clone())?;
    let no_authorities = X509StoreBuilder::new()?.build();
    let Ok(signature) = Pkcs7::from_der(&signer.alone()) else {
        return Ok(false);
    };
    // Only the certificate given here, no chain, and the content exactly as it stands.
    let flags = Pkcs7Flags::NOINTERN | Pkcs7Flags::NOVERIFY | Pkcs7Flags::BINARY;
    let content = root_hash.to_string();
    let verified =
        signature.verify(&certificates, &no_authorities, Some(content.as_bytes()), None, flags).is_ok();
    drop(ErrorStack::get());
    Ok(verified)
}

fn untrusted(signer: &SignerInfo<'_>) -> SignatureError {
    /// Twice what RFC 5280, 4.1.2.2 allows; the rest of a hostile number is not worth a line.
    const LONGEST_SERIAL: usize = 40;
    let serial = signer.serial.get(..LONGEST_SERIAL).unwrap_or(signer.serial);
    SignatureError::UntrustedSigner {
        issuer: X509Name::from_der(signer.issuer).map_or_else(|_| "?".to_owned(), |name| name_text(&name)),
        serial: data_encoding::HEXLOWER.encode(serial),
    }
}

#[cfg(test)]
mod tests;
