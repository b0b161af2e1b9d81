//! Why keys and signatures of OpenPGP do not count.

use std::fmt;

use crate::format::openpgp::OpenPgpFormatError;
use crate::trust::anchor::CertificateTime;

use super::KeyFingerprint;

/// A file is not a keyring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The bytes are not OpenPGP keys.
    #[error(transparent)]
    Format(#[from] OpenPgpFormatError),
    /// There is no key in it that can be used.
    #[error("expected OpenPGP public keys, found none that can be read{}", Reason(.skipped))]
    NoKeys {
        /// Why the first one was left out, where there is one.
        skipped: Option<SkippedKey>,
    },
    /// Private keys do not belong where everybody can read them.
    #[error("expected OpenPGP public keys, found a private key: write them with 'gpg --export'")]
    PrivateKey,
    /// It is larger than any keyring.
    #[error("expected OpenPGP public keys of at most {limit} bytes, found {found}")]
    TooLarge {
        /// The limit, [`MAXIMUM_KEYRING`](super::MAXIMUM_KEYRING).
        limit: usize,
        /// The number of bytes.
        found: usize,
    },
    /// A packet stands where none of its kind does.
    #[error("expected OpenPGP public keys, found a packet of type {found} among them")]
    UnexpectedPacket {
        /// The type of the packet.
        found: u8,
    },
}

/// A key of a keyring that was left out: it can sign nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {position} cannot be read: {detail}")]
pub struct SkippedKey {
    /// Its position in the keyring, counted from 1.
    pub position: usize,
    /// Why.
    pub detail: String,
}

/// Why, in a sentence.
struct Reason<'a>(&'a Option<SkippedKey>);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |skipped| write!(f, ": {skipped}"))
    }
}

/// A detached signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenPgpError {
    /// The bytes are no signature.
    #[error(transparent)]
    Format(#[from] OpenPgpFormatError),
    /// No key is trusted, so no signature can be.
    #[error("no OpenPGP keys to verify the signature with")]
    NoKeys,
    /// None of the signatures counts.
    #[error("no good signature: {}", Refusals(.refusals))]
    NoGoodSignature {
        /// Of each signature the reason.
        refusals: Vec<SignatureRefusal>,
    },
    /// It is larger than any signature.
    #[error("signature too large: expected at most {limit} bytes, found {found}")]
    TooLarge {
        /// The limit, [`MAXIMUM_SIGNATURE`](super::MAXIMUM_SIGNATURE).
        limit: usize,
        /// The number of bytes.
        found: usize,
    },
    /// There are more signatures than anyone makes.
    #[error("too many signatures: expected at most {limit}")]
    TooManySignatures {
        /// The limit, [`MAXIMUM_SIGNATURES`](super::MAXIMUM_SIGNATURES).
        limit: usize,
    },
    /// It is a message or a key.
    #[error("expected a detached OpenPGP signature, found a packet of type {found}")]
    UnexpectedPacket {
        /// The type of the packet.
        found: u8,
    },
}

/// Refusals in a sentence.
struct Refusals<'a>(&'a [SignatureRefusal]);

impl fmt::Display for Refusals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, refusal) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{refusal}")?;
        }
        Ok(())
    }
}

/// Why one signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefusal {
    /// It says something that has to be understood, and is not (RFC 9580, 5.2.3.7).
    #[error("signature with a critical {found} that is not known")]
    CriticalSubpacket {
        /// What it is.
        found: String,
    },
    /// It was good until some day.
    #[error("expired signature: good until {until}, verified at {at}")]
    Expired {
        /// The first second at which it was not good any more.
        until: CertificateTime,
        /// The time of verification.
        at: CertificateTime,
    },
    /// The key does not count.
    #[error("{key}: {fault}")]
    Key {
        /// Which key.
        key: Box<KeyName>,
        /// What is wrong with it.
        fault: Box<KeyFault>,
    },
    /// It is older than the key that made it.
    #[error("{key}: signature of {made}, when the key was not there yet: it was made at {created}")]
    MadeBeforeKey {
        /// Which key.
        key: Box<KeyName>,
        /// When the signature says that it was made.
        made: CertificateTime,
        /// When the key was made.
        created: CertificateTime,
    },
    /// It does not say when it was made.
    #[error("signature without a time")]
    NoTime,
    /// It does not say who made it.
    #[error("signature without an issuer")]
    NoIssuer,
    /// It is from the future, or the clock is wrong.
    #[error("signature not yet valid: made at {made}, verified at {at}; is the clock right?")]
    NotYetValid {
        /// When it says that it was made.
        made: CertificateTime,
        /// The time of verification.
        at: CertificateTime,
    },
    /// No keyring has the key.
    #[error("signed by key {issuer}, which is in no keyring")]
    UnknownKey {
        /// Fingerprint or key ID, as the signature has it.
        issuer: String,
    },
    /// The packet cannot be read.
    #[error("signature that cannot be read: {detail}")]
    Unreadable {
        /// What the library says.
        detail: String,
    },
    /// It is a signature of something else than a file of bytes.
    #[error("signature of type {found:#04x}: expected one over bytes as they are (0x00)")]
    UnsupportedType {
        /// The type (RFC 9580, 5.2.1).
        found: u8,
    },
    /// It is of a version that nobody should make any more, or that is not known.
    #[error("signature of version {found}: expected 4 or 6")]
    UnsupportedVersion {
        /// The version.
        found: u8,
    },
    /// The digest is too weak.
    #[error("signature with weak digest {found}: expected SHA-256 or better")]
    WeakDigest {
        /// The digest.
        found: String,
    },
    /// It is not a signature over these bytes by the key that it names.
    #[error("{key}: wrong signature: it is not over these bytes, or not by this key")]
    WrongSignature {
        /// Which key.
        key: Box<KeyName>,
    },
}

/// A key in a sentence: its fingerprint, that of the primary key where it is a subkey, and the keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName {
    /// The fingerprint of the key that made the signature.
    pub key: KeyFingerprint,
    /// The fingerprint of the primary key.
    pub primary: KeyFingerprint,
    /// The keyring's file name.
    pub keyring: String,
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key == self.primary {
            write!(f, "key {} of keyring '{}'", self.key, self.keyring)
        } else {
            write!(f, "subkey {} of key {} of keyring '{}'", self.key, self.primary, self.keyring)
        }
    }
}

/// Which of two keys something is wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPart {
    /// The primary key; it is good, or no subkey is.
    Primary,
    /// The subkey that made the signature.
    Subkey,
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "the key",
            Self::Subkey => "the subkey",
        })
    }
}

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// What binds the key says something that has to be understood, and is not.
    #[error("{part} is bound by a signature with a critical {found} that is not known")]
    CriticalSubpacket {
        /// Which key.
        part: KeyPart,
        /// What it is.
        found: String,
    },
    /// It was valid once.
    #[error("{part} has expired: valid until {until}, verified at {at}")]
    Expired {
        /// Which key.
        part: KeyPart,
        /// The first second at which it was not valid any more.
        until: CertificateTime,
        /// The time of verification.
        at: CertificateTime,
    },
    /// The subkey does not confirm that it belongs to the key: anybody can claim a subkey as his own.
    #[error("the subkey has no valid back signature")]
    NoBackSignature,
    /// No signature of the key itself binds it to a user or, a subkey, to it.
    #[error("{part} is bound by no valid signature of the key itself")]
    NotBound {
        /// Which key.
        part: KeyPart,
    },
    /// Its flags do not say that it is for signing.
    #[error("{part} is not for signing")]
    NotForSigning {
        /// Which key.
        part: KeyPart,
    },
    /// It will be valid some day, or the clock is wrong.
    #[error("{part} is not yet valid: valid from {from}, verified at {at}; is the clock right?")]
    NotYetValid {
        /// Which key.
        part: KeyPart,
        /// The first second at which it will be valid.
        from: CertificateTime,
        /// The time of verification.
        at: CertificateTime,
    },
    /// It was taken back.
    #[error("{part} has been revoked ({reason})")]
    Revoked {
        /// Which key.
        part: KeyPart,
        /// Why, as the revocation has it.
        reason: String,
    },
    /// Something on it cannot be read, which might be a revocation.
    #[error("{part} has a signature on it that cannot be read, and that might revoke it: {detail}")]
    Unreadable {
        /// Which key.
        part: KeyPart,
        /// What the library says.
        detail: String,
    },
    /// It is of a kind that is not for signatures, or that is not known.
    #[error("{part} is of an unsupported kind: {found}")]
    Unsupported {
        /// Which key.
        part: KeyPart,
        /// The kind.
        found: String,
    },
    /// What binds it has too weak a digest.
    #[error("{part} is bound by a signature with weak digest {found}: expected SHA-256 or better")]
    WeakBinding {
        /// Which key.
        part: KeyPart,
        /// The digest.
        found: String,
    },
    /// It is too weak.
    #[error("{part} is too weak: expected {expected}, found {found}")]
    WeakKey {
        /// Which key.
        part: KeyPart,
        /// What counts.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}
