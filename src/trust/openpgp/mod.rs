//! Detached OpenPGP signatures (RFC 9580), verified by the keys of keyrings alone.
//!
//! The library `pgp` does the arithmetic and reads packets; whether a key counts is decided here, because neither the
//! library nor the exit status of gpg says it: both take a good signature of a key that was revoked for good. A
//! signature counts where it is over exactly these bytes, by a key in a keyring that is strong, bound, for signing,
//! within its time and not revoked, and says nothing that has to be understood and is not.
//!
//! No web of trust, no key servers, and no keys inside of signatures: whoever is in the keyring may sign.

mod certificate;
mod error;
mod strength;
#[cfg(test)]
mod tests;
mod validity;

use std::fmt;
use std::time::SystemTime;

use pgp::packet::{Signature, SignatureType};
use pgp::types::KeyDetails;

use crate::format::openpgp::{BlockKind, packet_type, packets, without_armour};

use super::anchor::CertificateTime;
use certificate::{Certificate, Subkey};
pub use error::{KeyFault, KeyName, KeyPart, KeyringError, OpenPgpError, SignatureRefusal, SkippedKey};

/// The largest keyring that is read, in bytes: those of distributions have up to a few hundred KiB.
pub const MAXIMUM_KEYRING: usize = 8 << 20;

/// The largest file of detached signatures that is read, in bytes. A signature has about half a KiB.
pub const MAXIMUM_SIGNATURE: usize = 64 << 10;

/// How many signatures one file may have: Ubuntu has had two, by an old and a new key.
pub const MAXIMUM_SIGNATURES: usize = 16;

/// The fingerprint of a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyFingerprint(Vec<u8>);

impl KeyFingerprint {
    fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Display for KeyFingerprint {
    /// As gpg prints it, without blanks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXUPPER.encode(&self.0))
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys of a file.
#[derive(Debug, Clone)]
pub struct Keyring {
    name: String,
    certificates: Vec<Certificate>,
    skipped: Vec<SkippedKey>,
}

impl Keyring {
    /// Reads a keyring, armoured or binary, with one key or several. `name` is for messages: the file's name.
    ///
    /// # Errors
    /// A [`KeyringError`]. A key that cannot be read is left out, see [`Self::skipped`]; one of which a part cannot be
    /// read that might revoke it is refused when it is to count.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, KeyringError> {
        const KIND: BlockKind = BlockKind::PublicKeys;
        if bytes.len() > MAXIMUM_KEYRING {
            return Err(KeyringError::TooLarge { limit: MAXIMUM_KEYRING, found: bytes.len() });
        }
        let binary = without_armour(bytes, KIND).map_err(|error| private_or(bytes, error))?;
        let (certificates, skipped) = certificate::certificates(&packets(&binary, KIND)?)?;
        if certificates.is_empty() {
            return Err(KeyringError::NoKeys { skipped: skipped.into_iter().next() });
        }
        Ok(Self { name: name.to_owned(), certificates, skipped })
    }

    /// The name that it was read under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keys that were left out, because they are of a kind that is not known or are damaged.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }
}

/// An armoured private key is named as what it is, like a binary one.
fn private_or(bytes: &[u8], error: crate::format::openpgp::OpenPgpFormatError) -> KeyringError {
    const PRIVATE: &[u8] = b"-----BEGIN PGP PRIVATE KEY BLOCK-----";
    if bytes.windows(PRIVATE.len()).any(|window| window == PRIVATE) {
        KeyringError::PrivateKey
    } else {
        error.into()
    }
}

/// Every key that counts, of all keyrings.
#[derive(Debug, Clone, Default)]
pub struct Keyrings(Vec<KnownKey>);

/// A certificate, and the first keyring that has it.
#[derive(Debug, Clone)]
struct KnownKey {
    keyring: String,
    certificate: Certificate,
}

impl Keyrings {
    /// The keys of these keyrings. What several say of one key is put together, so that a revocation in one of them
    /// counts for all.
    #[must_use]
    pub fn new(keyrings: Vec<Keyring>) -> Self {
        let mut known: Vec<KnownKey> = Vec::new();
        for keyring in keyrings {
            for certificate in keyring.certificates {
                let same = |known: &&mut KnownKey| known.certificate.fingerprint == certificate.fingerprint;
                match known.iter_mut().find(same) {
                    Some(known) => known.certificate.merge(certificate),
                    None => known.push(KnownKey { keyring: keyring.name.clone(), certificate }),
                }
            }
        }
        let strays: Vec<Signature> = known.iter().flat_map(|known| known.strays()).cloned().collect();
        for stray in strays {
            for known in &mut known {
                let primary = &known.certificate.primary;
                if validity::is_of(&stray, primary) && stray.verify_key(primary).is_ok() {
                    known.certificate.signatures.push(stray.clone());
                }
            }
        }
        Self(known)
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many keys there are, subkeys not counted.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }
}

impl KnownKey {
    /// Revocations that stand on this key and are of another one: as a rule one of a designated revoker, or a
    /// revocation certificate that was appended to a keyring.
    fn strays(&self) -> impl Iterator<Item = &Signature> {
        self.certificate.signatures.iter().filter(|signature| {
            signature.typ() == Some(SignatureType::KeyRevocation)
                && !validity::is_of(signature, &self.certificate.primary)
        })
    }
}

/// Who signed: a key of a keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPgpSigner {
    key: KeyName,
    user: Option<String>,
    made: CertificateTime,
}

impl OpenPgpSigner {
    /// The key that made the signature.
    #[must_use]
    pub const fn key(&self) -> &KeyName {
        &self.key
    }

    /// The first user ID of the key, fit for a message; a claim of whoever made the key.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// When the signature says that it was made.
    #[must_use]
    pub const fn made(&self) -> CertificateTime {
        self.made
    }
}

impl fmt::Display for OpenPgpSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "'{user}', ")?;
        }
        fmt::Display::fmt(&self.key, f)
    }
}

/// Verifies that one of the detached signatures in `signature`, armoured or binary, is over `bytes` by a key that counts
/// at the time `at`. Others may be by keys that are not known, or not any more.
pub(super) fn verify_detached(
    bytes: &[u8],
    signature: &[u8],
    keyrings: &Keyrings,
    at: SystemTime,
) -> Result<OpenPgpSigner, OpenPgpError> {
    const KIND: BlockKind = BlockKind::Signature;
    if signature.len() > MAXIMUM_SIGNATURE {
        return Err(OpenPgpError::TooLarge { limit: MAXIMUM_SIGNATURE, found: signature.len() });
    }
    let binary = without_armour(signature, KIND)?;
    let mut signatures = Vec::new();
    for packet in packets(&binary, KIND)? {
        match packet.kind() {
            packet_type::SIGNATURE => signatures.push(packet),
            packet_type::MARKER | packet_type::PADDING => (),
            found => return Err(OpenPgpError::UnexpectedPacket { found }),
        }
    }
    if signatures.len() > MAXIMUM_SIGNATURES {
        return Err(OpenPgpError::TooManySignatures { limit: MAXIMUM_SIGNATURES });
    }
    if keyrings.is_empty() {
        return Err(OpenPgpError::NoKeys);
    }
    let mut refusals = Vec::new();
    for packet in signatures {
        let parsed =
            certificate::signature(&packet).map_err(|detail| SignatureRefusal::Unreadable { detail });
        match parsed.and_then(|signature| verify(bytes, &signature, keyrings, at.into())) {
            Ok(signer) => return Ok(signer),
            Err(refusal) => refusals.push(refusal),
        }
    }
    Err(OpenPgpError::NoGoodSignature { refusals })
}

/// Verifies one signature.
fn verify(
    bytes: &[u8],
    signature: &Signature,
    keyrings: &Keyrings,
    at: CertificateTime,
) -> Result<OpenPgpSigner, SignatureRefusal> {
    let made = check_statement(signature, at)?;
    let mut refusal = None;
    for (known, subkey) in candidates(signature, keyrings) {
        match verify_by(bytes, signature, made, known, subkey, at) {
            Ok(signer) => return Ok(signer),
            // What is wrong with the key of a right signature says more than that another did not make it.
            Err(error) if matches!(refusal, None | Some(SignatureRefusal::WrongSignature { .. })) => {
                refusal = Some(error);
            }
            Err(_) => (),
        }
    }
    Err(refusal.unwrap_or_else(|| SignatureRefusal::UnknownKey { issuer: issuer(signature) }))
}

/// Checks what the signature says about itself; gives the time at which it says that it was made.
fn check_statement(signature: &Signature, at: CertificateTime) -> Result<CertificateTime, SignatureRefusal> {
    let version = u8::from(signature.version());
    let Some(config) = signature.config().filter(|_| matches!(version, 4 | 6)) else {
        return Err(SignatureRefusal::UnsupportedVersion { found: version });
    };
    if config.typ() != SignatureType::Binary {
        return Err(SignatureRefusal::UnsupportedType { found: config.typ().into() });
    }
    if let Some(found) = strength::weak_digest(config.hash_alg) {
        return Err(SignatureRefusal::WeakDigest { found });
    }
    if let Some(found) = validity::unknown_critical(config) {
        return Err(SignatureRefusal::CriticalSubpacket { found });
    }
    let made = validity::time(config.created().ok_or(SignatureRefusal::NoTime)?.as_secs());
    if made > at {
        return Err(SignatureRefusal::NotYetValid { made, at });
    }
    if let Some(until) = validity::expiry(config, made)
        && at >= until
    {
        return Err(SignatureRefusal::Expired { until, at });
    }
    if config.issuer_fingerprint().is_empty() && config.issuer_key_id().is_empty() {
        return Err(SignatureRefusal::NoIssuer);
    }
    Ok(made)
}

/// The keys that the signature can mean. A key ID is short: there may be several.
fn candidates<'a>(signature: &Signature, keyrings: &'a Keyrings) -> Vec<(&'a KnownKey, Option<&'a Subkey>)> {
    let mut candidates = Vec::new();
    for known in &keyrings.0 {
        if validity::is_of(signature, &known.certificate.primary) {
            candidates.push((known, None));
        }
        for subkey in &known.certificate.subkeys {
            if validity::is_of(signature, &subkey.key) {
                candidates.push((known, Some(subkey)));
            }
        }
    }
    candidates
}

fn verify_by(
    bytes: &[u8],
    signature: &Signature,
    made: CertificateTime,
    known: &KnownKey,
    subkey: Option<&Subkey>,
    at: CertificateTime,
) -> Result<OpenPgpSigner, SignatureRefusal> {
    let certificate = &known.certificate;
    let key = KeyName {
        key: subkey.map_or(&certificate.fingerprint, |subkey| &subkey.fingerprint).clone(),
        primary: certificate.fingerprint.clone(),
        keyring: known.keyring.clone(),
    };
    let verified = match subkey {
        None => signature.verify(&certificate.primary, bytes),
        Some(subkey) => signature.verify(&subkey.key, bytes),
    };
    let fault = |fault| SignatureRefusal::Key { key: Box::new(key.clone()), fault: Box::new(fault) };
    if verified.is_err() {
        // A key that the library has no arithmetic for is not a wrong signature.
        let part = if subkey.is_some() { KeyPart::Subkey } else { KeyPart::Primary };
        match subkey {
            None => strength::check_key(&certificate.primary, part).map_err(fault)?,
            Some(subkey) => strength::check_key(&subkey.key, part).map_err(fault)?,
        }
        return Err(SignatureRefusal::WrongSignature { key: Box::new(key) });
    }
    validity::check(certificate, subkey, at).map_err(fault)?;
    let created = subkey.map_or_else(
        || certificate.primary.created_at().as_secs(),
        |subkey| subkey.key.created_at().as_secs(),
    );
    let created = validity::time(created);
    if made < created {
        return Err(SignatureRefusal::MadeBeforeKey { key: Box::new(key), made, created });
    }
    Ok(OpenPgpSigner { key, user: certificate.user(), made })
}

/// Who the signature says made it.
fn issuer(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint().first().map(|found| found.as_bytes().to_vec());
    let key_id = || signature.issuer_key_id().first().map(|found| found.as_ref().to_vec());
    data_encoding::HEXUPPER.encode(&fingerprint.or_else(key_id).unwrap_or_default())
}
