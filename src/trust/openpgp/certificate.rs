//! Certificates: a primary key, its users and subkeys, and the signatures on each, as they stand in a keyring. Nothing
//! of it is checked here.

use pgp::packet::{
    Packet as Parsed, PacketHeader, PublicKey, PublicSubkey, Signature, SignatureType, UserAttribute, UserId,
};
use pgp::types::{KeyDetails, KeyVersion, Tag};

use crate::format::openpgp::{Packet, packet_type};

use super::KeyFingerprint;
use super::error::{KeyringError, SkippedKey};

/// A primary key with everything that belongs to it.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) primary: PublicKey,
    pub(super) fingerprint: KeyFingerprint,
    /// On the primary key itself.
    pub(super) signatures: Vec<Signature>,
    pub(super) users: Vec<User>,
    pub(super) subkeys: Vec<Subkey>,
    /// Why a signature on the primary key or on a user could not be read. It might be a revocation.
    pub(super) unreadable: Option<String>,
}

/// Who the key belongs to, with the signatures that say so or take it back.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) name: UserName,
    pub(super) signatures: Vec<Signature>,
}

/// A name or a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UserName {
    Id(UserId),
    Attribute(Box<UserAttribute>),
}

/// A subkey, with the signatures that bind or revoke it.
#[derive(Debug, Clone)]
pub(super) struct Subkey {
    pub(super) key: PublicSubkey,
    pub(super) fingerprint: KeyFingerprint,
    pub(super) signatures: Vec<Signature>,
    /// Why a signature on it could not be read. It might be a revocation.
    pub(super) unreadable: Option<String>,
}

impl Certificate {
    /// Takes over everything that another copy of the same certificate has: one may know of a revocation or of another
    /// time of expiry, and the other may not.
    pub(super) fn merge(&mut self, other: Self) {
        self.signatures.extend(other.signatures);
        self.unreadable = self.unreadable.take().or(other.unreadable);
        for user in other.users {
            match self.users.iter_mut().find(|own| own.name == user.name) {
                Some(own) => own.signatures.extend(user.signatures),
                None => self.users.push(user),
            }
        }
        for subkey in other.subkeys {
            match self.subkeys.iter_mut().find(|own| own.fingerprint == subkey.fingerprint) {
                Some(own) => {
                    own.signatures.extend(subkey.signatures);
                    own.unreadable = own.unreadable.take().or(subkey.unreadable);
                }
                None => self.subkeys.push(subkey),
            }
        }
    }

    /// The first user ID, fit for a message.
    pub(super) fn user(&self) -> Option<String> {
        /// Longer than any name that means something to a reader.
        const LONGEST: usize = 200;
        self.users.iter().find_map(|user| match &user.name {
            UserName::Id(id) => {
                let text = String::from_utf8_lossy(id.id());
                Some(text.chars().flat_map(char::escape_debug).take(LONGEST).collect())
            }
            UserName::Attribute(_) => None,
        })
    }
}

/// What the signatures that follow belong to.
enum Place {
    /// Nothing yet.
    Start,
    Primary,
    User,
    Subkey,
    /// A user or subkey that cannot be read: nothing can be signed by it, and what is said of it does not matter.
    Ignored,
    /// A primary key that cannot be read, with everything up to the next one.
    Skipped,
}

/// The certificates among the packets of a keyring, and the keys that were left out.
pub(super) fn certificates(
    packets: &[Packet<'_>],
) -> Result<(Vec<Certificate>, Vec<SkippedKey>), KeyringError> {
    let mut certificates: Vec<Certificate> = Vec::new();
    let mut skipped = Vec::new();
    let mut place = Place::Start;
    for packet in packets {
        match packet.kind() {
            packet_type::MARKER | packet_type::TRUST | packet_type::PADDING => continue,
            packet_type::SECRET_KEY | packet_type::SECRET_SUBKEY => return Err(KeyringError::PrivateKey),
            packet_type::PUBLIC_KEY => {
                match primary(packet) {
                    Ok(certificate) => {
                        certificates.push(certificate);
                        place = Place::Primary;
                    }
                    Err(detail) => {
                        let position = certificates.len().saturating_add(skipped.len()).saturating_add(1);
                        skipped.push(SkippedKey { position, detail });
                        place = Place::Skipped;
                    }
                }
                continue;
            }
            _ => (),
        }
        let unexpected = KeyringError::UnexpectedPacket { found: packet.kind() };
        let certificate = match (&place, certificates.last_mut()) {
            (Place::Skipped, _) => continue,
            (Place::Start, _) | (_, None) => return Err(unexpected),
            (_, Some(certificate)) => certificate,
        };
        match packet.kind() {
            packet_type::USER_ID | packet_type::USER_ATTRIBUTE => place = certificate.add_user(packet),
            packet_type::PUBLIC_SUBKEY => place = certificate.add_subkey(packet),
            packet_type::SIGNATURE => certificate.add_signature(packet, &place),
            packet_type::FIRST_NOT_CRITICAL.. => place = Place::Ignored,
            _ => return Err(unexpected),
        }
    }
    Ok((certificates, skipped))
}

fn primary(packet: &Packet<'_>) -> Result<Certificate, String> {
    let Parsed::PublicKey(primary) = parse(packet, Tag::PublicKey)? else {
        return Err("not a public key".to_owned());
    };
    let fingerprint = fingerprint(&primary)?;
    let (signatures, users, subkeys) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Certificate { primary, fingerprint, signatures, users, subkeys, unreadable: None })
}

impl Certificate {
    fn add_user(&mut self, packet: &Packet<'_>) -> Place {
        let tag = if packet.kind() == packet_type::USER_ID { Tag::UserId } else { Tag::UserAttribute };
        let name = match parse(packet, tag) {
            Ok(Parsed::UserId(id)) => UserName::Id(id),
            Ok(Parsed::UserAttribute(attribute)) => UserName::Attribute(Box::new(attribute)),
            _ => return Place::Ignored,
        };
        self.users.push(User { name, signatures: Vec::new() });
        Place::User
    }

    fn add_subkey(&mut self, packet: &Packet<'_>) -> Place {
        let Ok(Parsed::PublicSubkey(key)) = parse(packet, Tag::PublicSubkey) else { return Place::Ignored };
        let Ok(fingerprint) = fingerprint(&key) else { return Place::Ignored };
        self.subkeys.push(Subkey { key, fingerprint, signatures: Vec::new(), unreadable: None });
        Place::Subkey
    }

    fn add_signature(&mut self, packet: &Packet<'_>, place: &Place) {
        let parsed = signature(packet);
        // A revocation certificate that was appended to a keyring stands where it happened to end up.
        let parsed = match parsed {
            Ok(signature) if signature.typ() == Some(SignatureType::KeyRevocation) => {
                self.signatures.push(signature);
                return;
            }
            parsed => parsed,
        };
        let (signatures, unreadable) = match place {
            Place::Start | Place::Skipped | Place::Ignored => return,
            Place::Primary => (Some(&mut self.signatures), &mut self.unreadable),
            Place::User => {
                let user = self.users.last_mut();
                (user.map(|user| &mut user.signatures), &mut self.unreadable)
            }
            Place::Subkey => match self.subkeys.last_mut() {
                Some(subkey) => (Some(&mut subkey.signatures), &mut subkey.unreadable),
                None => return,
            },
        };
        match (parsed, signatures) {
            (Ok(signature), Some(signatures)) => signatures.push(signature),
            (Ok(_), None) => (),
            (Err(detail), _) => *unreadable = Some(detail),
        }
    }
}

/// A signature of a version that is known, whatever it says.
pub(super) fn signature(packet: &Packet<'_>) -> Result<Signature, String> {
    match parse(packet, Tag::Signature)? {
        Parsed::Signature(signature) if signature.config().is_some() => Ok(signature),
        Parsed::Signature(signature) => Err(format!("version {}", u8::from(signature.version()))),
        _ => Err("not a signature".to_owned()),
    }
}

/// Only a key of a known version has a fingerprint; the library would panic at another.
fn fingerprint(key: &impl KeyDetails) -> Result<KeyFingerprint, String> {
    match key.version() {
        KeyVersion::V2 | KeyVersion::V3 | KeyVersion::V4 | KeyVersion::V6 => {
            Ok(KeyFingerprint::new(key.fingerprint().as_bytes()))
        }
        other => Err(format!("version {}", u8::from(other))),
    }
}

/// The content of a packet, if the library can read it to its last byte.
fn parse(packet: &Packet<'_>, tag: Tag) -> Result<Parsed, String> {
    let length = u32::try_from(packet.body().len()).map_err(|_| "too long".to_owned())?;
    let header = PacketHeader::new_fixed(tag, length);
    Parsed::from_reader(header, packet.body()).map_err(|error| described(&error))
}

/// What the library says, on one line: causes included, for the outermost error often says nothing.
fn described(error: &pgp::errors::Error) -> String {
    /// Longer than any of its messages that make sense.
    const LONGEST: usize = 200;
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text.chars().flat_map(char::escape_debug).take(LONGEST).collect()
}
