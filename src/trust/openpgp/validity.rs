//! Whether a key counts at a time (RFC 9580, 5.2.3.10, 5.2.3.13, 5.2.3.29 and 10.1). The library knows whose signature
//! one is, and nothing of this.
//!
//! Where sources differ the stricter reading holds: a keyring is what the administrator put there, nobody else can take a
//! key away by it, and a key that is refused by mistake says so.

use pgp::packet::{Signature, SignatureConfig, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, KeyId, Tag};

use crate::trust::anchor::CertificateTime;

use super::certificate::{Certificate, Subkey, User, UserName};
use super::error::{KeyFault, KeyPart};
use super::strength::{check_key, weak_digest};

/// Checks the primary key, and the subkey where it is one that signed: strong, not revoked, bound, within its time,
/// and for signing.
pub(super) fn check(
    certificate: &Certificate,
    subkey: Option<&Subkey>,
    at: CertificateTime,
) -> Result<(), KeyFault> {
    let signs = check_primary(certificate, at)?;
    match subkey {
        None if signs => Ok(()),
        None => Err(KeyFault::NotForSigning { part: KeyPart::Primary }),
        Some(subkey) => check_subkey(certificate, subkey, at),
    }
}

/// Whether the primary key may sign.
fn check_primary(certificate: &Certificate, at: CertificateTime) -> Result<bool, KeyFault> {
    const PART: KeyPart = KeyPart::Primary;
    let primary = &certificate.primary;
    if let Some(detail) = &certificate.unreadable {
        return Err(KeyFault::Unreadable { part: PART, detail: detail.clone() });
    }
    check_key(primary, PART)?;
    not_revoked(certificate, &certificate.signatures, SignatureType::KeyRevocation, PART)?;
    let created = time(primary.created_at().as_secs());
    not_before(created, PART, at)?;

    let mut direct = Bindings::new(PART, at);
    for signature in own(&certificate.signatures, primary) {
        if signature.typ() == Some(SignatureType::Key) {
            direct.consider(signature, certificate.withdrawn(&certificate.signatures), || {
                signature.verify_key(primary).is_ok()
            });
        }
    }
    let mut named = Bindings::new(PART, at);
    for user in &certificate.users {
        for signature in own(&user.signatures, primary) {
            if is_certification(signature) {
                named.consider(signature, certificate.withdrawn(&user.signatures), || {
                    certifies(signature, certificate, user)
                });
            }
        }
    }
    let governing: Vec<&Signature> = [direct.best, named.best].into_iter().flatten().collect();
    if governing.is_empty() {
        let fault = named.fault.or(direct.fault);
        return Err(fault.unwrap_or(KeyFault::NotBound { part: PART }));
    }
    for signature in &governing {
        not_expired(created, signature, PART, at)?;
    }
    // Where both say something they must agree that it signs.
    let flags: Vec<bool> = governing.iter().filter_map(|signature| signs(signature)).collect();
    match (flags.is_empty(), named.fault) {
        // The flags may be in what does not count.
        (true, Some(fault)) => Err(fault),
        (empty, _) => Ok(!empty && flags.into_iter().all(|signs| signs)),
    }
}

fn check_subkey(certificate: &Certificate, subkey: &Subkey, at: CertificateTime) -> Result<(), KeyFault> {
    const PART: KeyPart = KeyPart::Subkey;
    if let Some(detail) = &subkey.unreadable {
        return Err(KeyFault::Unreadable { part: PART, detail: detail.clone() });
    }
    check_key(&subkey.key, PART)?;
    not_revoked(certificate, &subkey.signatures, SignatureType::SubkeyRevocation, PART)?;
    let created = time(subkey.key.created_at().as_secs());
    not_before(created, PART, at)?;

    let mut bindings = Bindings::new(PART, at);
    for signature in own(&subkey.signatures, &certificate.primary) {
        if signature.typ() == Some(SignatureType::SubkeyBinding) {
            bindings.consider(signature, None, || {
                signature.verify_subkey_binding(&certificate.primary, &subkey.key).is_ok()
            });
        }
    }
    let Some(binding) = bindings.best else {
        return Err(bindings.fault.unwrap_or(KeyFault::NotBound { part: PART }));
    };
    not_expired(created, binding, PART, at)?;
    if signs(binding) != Some(true) {
        return Err(KeyFault::NotForSigning { part: PART });
    }
    let mut back = Bindings::new(PART, at);
    if let Some(signature) = binding.embedded_signature() {
        back.consider(signature, None, || {
            signature.verify_primary_key_binding(&subkey.key, &certificate.primary).is_ok()
        });
    }
    match back.best {
        Some(_) => Ok(()),
        None => Err(back.fault.unwrap_or(KeyFault::NoBackSignature)),
    }
}

/// The newest binding that counts, and why others do not.
struct Bindings<'a> {
    part: KeyPart,
    at: CertificateTime,
    best: Option<&'a Signature>,
    fault: Option<KeyFault>,
}

impl<'a> Bindings<'a> {
    const fn new(part: KeyPart, at: CertificateTime) -> Self {
        Self { part, at, best: None, fault: None }
    }

    /// Takes a signature that is newer than what was taken before. What it revokes or is not verified does not count.
    fn consider(
        &mut self,
        signature: &'a Signature,
        withdrawn: Option<CertificateTime>,
        verify: impl FnOnce() -> bool,
    ) {
        let Some((config, made)) = config_and_time(signature) else { return };
        if withdrawn.is_some_and(|withdrawn| made <= withdrawn) {
            return;
        }
        match self.usable(config, made) {
            Err(fault) => self.fault = Some(fault),
            Ok(()) => {
                let newest = self.best.and_then(config_and_time).is_none_or(|(_, best)| made > best);
                if newest && verify() {
                    self.best = Some(signature);
                }
            }
        }
    }

    fn usable(&self, config: &SignatureConfig, made: CertificateTime) -> Result<(), KeyFault> {
        let (part, at) = (self.part, self.at);
        if let Some(found) = weak_digest(config.hash_alg) {
            return Err(KeyFault::WeakBinding { part, found });
        }
        if let Some(found) = unknown_critical(config) {
            return Err(KeyFault::CriticalSubpacket { part, found });
        }
        not_before(made, part, at)?;
        match expiry(config, made) {
            Some(until) if at >= until => Err(KeyFault::Expired { part, until, at }),
            _ => Ok(()),
        }
    }
}

impl Certificate {
    /// When the newest of these signatures was made that takes back a certification.
    fn withdrawn(&self, signatures: &[Signature]) -> Option<CertificateTime> {
        own(signatures, &self.primary)
            .filter(|signature| signature.typ() == Some(SignatureType::CertRevocation))
            .filter_map(|signature| signature.created())
            .map(|made| time(made.as_secs()))
            .max()
    }
}

/// Refuses where there is a revocation of this type by the primary key, or by a key that it names as its revoker. It
/// need not be verified, nor be older than the signature that is to count, nor have a certain reason: who wrote the
/// keyring put it there, and nothing but a revocation has this type.
fn not_revoked(
    certificate: &Certificate,
    signatures: &[Signature],
    kind: SignatureType,
    part: KeyPart,
) -> Result<(), KeyFault> {
    for signature in signatures.iter().filter(|signature| signature.typ() == Some(kind)) {
        if is_of(signature, &certificate.primary) || is_of_a_revoker(signature, certificate) {
            return Err(KeyFault::Revoked { part, reason: reason(signature) });
        }
    }
    Ok(())
}

/// Whether the signature claims to be of a key that this certificate names as one that may revoke it (RFC 9580,
/// 5.2.3.23). GnuPG has these names in direct key signatures, and others may stand wherever the key speaks of itself.
fn is_of_a_revoker(signature: &Signature, certificate: &Certificate) -> bool {
    let users = certificate.users.iter().flat_map(|user| &user.signatures);
    own(certificate.signatures.iter().chain(users), &certificate.primary)
        .filter_map(Signature::config)
        .flat_map(SignatureConfig::hashed_subpackets)
        .any(|subpacket| match &subpacket.data {
            SubpacketData::RevocationKey(revoker) => {
                let named = revoker.fingerprint.as_slice();
                let key_id = named.last_chunk::<8>().copied().map(KeyId::new);
                signature.issuer_fingerprint().iter().any(|found| found.as_bytes() == named)
                    || signature.issuer_key_id().into_iter().any(|found| Some(*found) == key_id)
            }
            _ => false,
        })
}

/// The reason that a revocation gives.
fn reason(revocation: &Signature) -> String {
    let mut reason = match revocation.revocation_reason_code().map(|code| u8::from(*code)) {
        Some(1) => "superseded".to_owned(),
        Some(2) => "compromised".to_owned(),
        Some(3) => "retired".to_owned(),
        None | Some(0) => "no reason given".to_owned(),
        Some(other) => format!("reason {other}"),
    };
    if let Some(made) = revocation.created() {
        reason.push_str(&format!(", {}", time(made.as_secs())));
    }
    reason
}

/// The signatures that claim to be by this key, or do not say whose they are.
fn own<'a, K: KeyDetails>(
    signatures: impl IntoIterator<Item = &'a Signature>,
    key: &K,
) -> impl Iterator<Item = &'a Signature> {
    signatures.into_iter().filter(move |signature| is_of(signature, key))
}

/// Whether a signature claims to be by this key, or does not say whose it is.
pub(super) fn is_of(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (fingerprints, key_ids) = (signature.issuer_fingerprint(), signature.issuer_key_id());
    (fingerprints.is_empty() && key_ids.is_empty())
        || fingerprints.into_iter().any(|found| *found == key.fingerprint())
        || key_ids.into_iter().any(|found| *found == key.legacy_key_id())
}

fn is_certification(signature: &Signature) -> bool {
    signature.is_certification() && signature.typ() != Some(SignatureType::CertRevocation)
}

fn certifies(signature: &Signature, certificate: &Certificate, user: &User) -> bool {
    let key = &certificate.primary;
    match &user.name {
        UserName::Id(id) => signature.verify_certification(key, Tag::UserId, id).is_ok(),
        UserName::Attribute(attribute) => {
            signature.verify_certification(key, Tag::UserAttribute, attribute.as_ref()).is_ok()
        }
    }
}

/// What the flags say about signing; `None` where there are none.
fn signs(signature: &Signature) -> Option<bool> {
    signature.config()?.hashed_subpackets().find_map(|subpacket| match &subpacket.data {
        SubpacketData::KeyFlags(flags) => Some(flags.sign()),
        _ => None,
    })
}

fn not_before(from: CertificateTime, part: KeyPart, at: CertificateTime) -> Result<(), KeyFault> {
    if from > at { Err(KeyFault::NotYetValid { part, from, at }) } else { Ok(()) }
}

/// Refuses where the key's time, which this signature gives, is over.
fn not_expired(
    created: CertificateTime,
    signature: &Signature,
    part: KeyPart,
    at: CertificateTime,
) -> Result<(), KeyFault> {
    match signature.key_expiration_time().map(|duration| duration.as_secs()) {
        None | Some(0) => Ok(()),
        Some(seconds) => {
            let until = later(created, seconds);
            if at >= until { Err(KeyFault::Expired { part, until, at }) } else { Ok(()) }
        }
    }
}

/// What is said, and when. Signatures of versions 2 and 3 cannot say how long a key is valid, and bind nothing.
fn config_and_time(signature: &Signature) -> Option<(&SignatureConfig, CertificateTime)> {
    let config = signature.config().filter(|_| matches!(u8::from(signature.version()), 4 | 6))?;
    Some((config, time(config.created()?.as_secs())))
}

/// The first second at which a signature is not good any more.
pub(super) fn expiry(config: &SignatureConfig, made: CertificateTime) -> Option<CertificateTime> {
    let duration = config.hashed_subpackets().find_map(|subpacket| match subpacket.data {
        SubpacketData::SignatureExpirationTime(duration) => Some(duration.as_secs()),
        _ => None,
    })?;
    (duration != 0).then(|| later(made, duration))
}

/// What a signature says that has to be understood and is not: a subpacket of a type that has no meaning here, or any
/// notation.
pub(super) fn unknown_critical(config: &SignatureConfig) -> Option<String> {
    let subpackets = config.hashed_subpackets().chain(config.unhashed_subpackets());
    subpackets.filter(|subpacket| subpacket.is_critical).find_map(|subpacket| match &subpacket.data {
        SubpacketData::Notation(notation) => {
            let name = String::from_utf8_lossy(&notation.name);
            Some(format!("notation '{}'", name.chars().take(80).collect::<String>().escape_debug()))
        }
        SubpacketData::Experimental(number, _) | SubpacketData::Other(number, _) => {
            Some(format!("subpacket of type {number}"))
        }
        SubpacketData::IntendedRecipientFingerprint(_) => Some("intended recipient".to_owned()),
        SubpacketData::RegularExpression(_) => Some("regular expression".to_owned()),
        SubpacketData::SignatureTarget(..) => Some("signature target".to_owned()),
        SubpacketData::TrustSignature(..) => Some("trust signature".to_owned()),
        _ => None,
    })
}

/// A time of OpenPGP: seconds since 1970 (RFC 9580, 3.5).
pub(super) fn time(seconds: u32) -> CertificateTime {
    CertificateTime::from_unix_seconds(i64::from(seconds))
}

fn later(time: CertificateTime, seconds: u32) -> CertificateTime {
    CertificateTime::from_unix_seconds(time.unix_seconds().saturating_add(i64::from(seconds)))
}
