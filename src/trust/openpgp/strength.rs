//! Which algorithms count. What lies below is refused by name, whoever signed by it.

use pgp::crypto::hash::HashAlgorithm;
use pgp::ser::Serialize as _;
use pgp::types::{EcdsaPublicParams, EddsaLegacyPublicParams, KeyDetails, KeyVersion, PublicParams};

use crate::trust::anchor::MINIMUM_RSA_BITS;

use super::error::{KeyFault, KeyPart};

/// The name of the digest where it is too weak: collisions of MD5, SHA-1 and RIPEMD-160 are within reach, and SHA-224
/// is not worth an exception.
pub(super) fn weak_digest(algorithm: HashAlgorithm) -> Option<String> {
    match algorithm {
        HashAlgorithm::Sha256
        | HashAlgorithm::Sha384
        | HashAlgorithm::Sha512
        | HashAlgorithm::Sha3_256
        | HashAlgorithm::Sha3_512 => None,
        HashAlgorithm::Md5 => Some("MD5".to_owned()),
        HashAlgorithm::Sha1 => Some("SHA-1".to_owned()),
        HashAlgorithm::Ripemd160 => Some("RIPEMD-160".to_owned()),
        HashAlgorithm::Sha224 => Some("SHA-224".to_owned()),
        other => Some(format!("number {}", u8::from(other))),
    }
}

/// Whether signatures by this key count: RSA of at least 2048 bits, ECDSA and EdDSA.
pub(super) fn check_key(key: &impl KeyDetails, part: KeyPart) -> Result<(), KeyFault> {
    let unsupported = |found: &str| Err(KeyFault::Unsupported { part, found: found.to_owned() });
    match key.version() {
        KeyVersion::V4 | KeyVersion::V6 => (),
        other => return unsupported(&format!("version {} (expected 4 or 6)", u8::from(other))),
    }
    match key.public_params() {
        PublicParams::RSA(parameters) => {
            let found = parameters.to_bytes().ok().and_then(|bytes| bytes.first_chunk::<2>().copied());
            let bits = found.map(u16::from_be_bytes).unwrap_or_default();
            if u32::from(bits) < MINIMUM_RSA_BITS {
                let (expected, found) = ("RSA of at least 2048 bits", format!("{bits}"));
                return Err(KeyFault::WeakKey { part, expected, found });
            }
            Ok(())
        }
        PublicParams::DSA(_) => {
            let (expected, found) = ("RSA, ECDSA or EdDSA", "DSA".to_owned());
            Err(KeyFault::WeakKey { part, expected, found })
        }
        PublicParams::ECDSA(EcdsaPublicParams::Unsupported { curve, .. })
        | PublicParams::EdDSALegacy(EddsaLegacyPublicParams::Unsupported { curve, .. }) => {
            unsupported(&format!("curve {curve}"))
        }
        PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => Ok(()),
        _ => unsupported(&format!("algorithm {}", u8::from(key.algorithm()))),
    }
}
