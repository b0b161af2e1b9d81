use std::time::{Duration, SystemTime};

use super::*;
use crate::trust::manifest::{SignedManifestError, VerifiedManifest};

/// A file of `tests/data/openpgp`, which GnuPG made.
fn data(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/openpgp/");
    std::fs::read(format!("{directory}{name}")).unwrap()
}

fn keyring(name: &str) -> Keyring {
    let name = format!("{name}.pgp");
    Keyring::read(&name, &data(&name)).unwrap()
}

fn keyrings(names: &[&str]) -> Keyrings {
    Keyrings::new(names.iter().map(|name| keyring(name)).collect())
}

/// So many days after 2024-01-01, when the keys were made; the signatures are of day 60, revocations of day 244.
fn day(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200 + days * 86_400)
}

/// Two years later.
fn now() -> SystemTime {
    day(800)
}

/// Whose signature it is, or why it does not count.
fn verify_at(keyrings: &Keyrings, signature: &str, at: SystemTime) -> Result<String, OpenPgpError> {
    let signature = data(&format!("{signature}.sig"));
    let signer = verify_detached(&data("sums"), &signature, keyrings, at)?;
    Ok(signer.user().unwrap().to_owned())
}

/// Why the signature over the sums does not count, where there is one signature.
fn refusal_at(names: &[&str], signature: &str, at: SystemTime) -> SignatureRefusal {
    match verify_at(&keyrings(names), signature, at) {
        Err(OpenPgpError::NoGoodSignature { refusals }) => {
            let [refusal] = refusals.try_into().unwrap();
            refusal
        }
        other => panic!("{signature}: {other:?}"),
    }
}

fn fault_at(names: &[&str], signature: &str, at: SystemTime) -> KeyFault {
    match refusal_at(names, signature, at) {
        SignatureRefusal::Key { key, fault } => {
            assert_eq!(key.keyring, format!("{}.pgp", names[0]));
            *fault
        }
        other => panic!("{signature}: {other:?}"),
    }
}

#[test]
fn signatures_of_good_keys_are_good() {
    for (ring, signature) in [
        ("rsa", "rsa"),
        ("ed25519", "ed25519"),
        ("p256", "p256"),
        ("subkey", "subkey"),
        ("ed25519-armoured", "ed25519"),
        ("ed25519", "ed25519-armoured"),
        ("several", "rsa"),
        ("several", "ed25519"),
        ("several", "subkey"),
        ("extended", "extended"),
        ("rsa", "notation"),
        ("rsa", "two"),
    ] {
        let user = verify_at(&keyrings(&[ring]), signature, now());
        let name = if ring == "rsa" { "rsa" } else { signature.trim_end_matches("-armoured") };
        assert_eq!(user, Ok(format!("{name} <{name}@example.org>")), "{ring} {signature}");
    }
}

#[test]
fn the_signer_is_named_with_his_keys_and_the_keyring() {
    let rings = keyrings(&["subkey"]);
    let signer = verify_detached(&data("sums"), &data("subkey.sig"), &rings, now()).unwrap();
    assert_ne!(signer.key().key, signer.key().primary);
    assert_eq!(signer.made().to_string(), "2024-03-01T00:00:00Z");
    let text = signer.to_string();
    assert!(text.starts_with("'subkey <subkey@example.org>', subkey "), "{text}");
    assert!(text.ends_with(" of keyring 'subkey.pgp'"), "{text}");
    assert_eq!(signer.key().primary.to_string().len(), 40);
}

#[test]
fn keys_that_ended_are_refused_by_name() {
    for (name, part, until) in [
        ("expired", KeyPart::Primary, "2024-06-01T12:00:00Z"),
        ("expired-subkey", KeyPart::Subkey, "2024-06-01T12:00:00Z"),
    ] {
        assert!(verify_at(&keyrings(&[name]), name, day(61)).is_ok(), "{name}");
        match fault_at(&[name], name, now()) {
            KeyFault::Expired { part: found, until: found_until, .. } => {
                assert_eq!((found, found_until.to_string()), (part, until.to_owned()), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let text = refusal_at(&["expired"], "expired", now()).to_string();
    assert!(text.contains("of keyring 'expired.pgp': the key has expired: valid until 2024-06-01"), "{text}");
}

#[test]
fn keys_that_were_taken_back_are_refused_whatever_the_reason_and_the_time() {
    for (name, part, words) in [
        ("revoked", KeyPart::Primary, "compromised"),
        ("retired", KeyPart::Primary, "retired"),
        ("revoked-subkey", KeyPart::Subkey, "no reason given"),
        ("designated", KeyPart::Primary, "compromised"),
    ] {
        // Also before the revocation was made: whoever has the key can date signatures back.
        for at in [now(), day(61)] {
            match fault_at(&[name], name, at) {
                KeyFault::Revoked { part: found, reason } => {
                    assert_eq!(found, part, "{name}");
                    assert!(reason.contains(words) && reason.ends_with("2024-09-01T00:00:00Z"), "{reason}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    // With its revoker's key at hand it is no different, and before the revocation it is good.
    assert!(matches!(fault_at(&["designated", "revoker"], "designated", now()), KeyFault::Revoked { .. }));
    assert!(verify_at(&keyrings(&["designated-before"]), "designated", now()).is_ok());
}

#[test]
fn a_revocation_in_one_keyring_counts_for_all() {
    let revoked = data("revoked.pgp");
    let packets = packets(&revoked, BlockKind::PublicKeys).unwrap();
    let revocation = packets.iter().position(|packet| packet.kind() == packet_type::SIGNATURE).unwrap();
    let bytes = |chosen: &[usize]| -> Vec<u8> {
        let old_header = |kind: u8, length: usize| vec![0x80 | kind << 2, u8::try_from(length).unwrap()];
        chosen
            .iter()
            .flat_map(|index| {
                let packet = packets[*index];
                [old_header(packet.kind(), packet.body().len()), packet.body().to_vec()].concat()
            })
            .collect()
    };
    let others: Vec<usize> = (0..packets.len()).filter(|index| *index != revocation).collect();
    let before = Keyring::read("before.pgp", &bytes(&others)).unwrap();
    assert!(verify_at(&Keyrings::new(vec![before.clone()]), "revoked", now()).is_ok());

    let refused = |rings: Vec<Keyring>| match verify_at(&Keyrings::new(rings), "revoked", now()) {
        Err(OpenPgpError::NoGoodSignature { refusals }) => {
            matches!(&refusals[0], SignatureRefusal::Key { fault, .. } if matches!(**fault, KeyFault::Revoked { .. }))
        }
        other => panic!("{other:?}"),
    };
    assert!(refused(vec![before.clone(), keyring("revoked")]));
    assert!(refused(vec![keyring("rsa"), keyring("revoked"), before.clone()]));
    // A revocation certificate, appended to its key or to another one.
    let last = [&others[..], &[revocation]].concat();
    assert!(refused(vec![Keyring::read("last.pgp", &bytes(&last)).unwrap()]));
    let stray = [data("ed25519.pgp"), bytes(&[revocation])].concat();
    let rings = Keyrings::new(vec![before, Keyring::read("stray.pgp", &stray).unwrap()]);
    assert!(matches!(verify_at(&rings, "revoked", now()), Err(OpenPgpError::NoGoodSignature { .. })));
    // It is not that key's.
    assert!(verify_at(&rings, "ed25519", now()).is_ok());
}

#[test]
fn a_newer_signature_of_the_key_decides_when_it_ends() {
    // The old one would have ended before.
    assert!(verify_at(&keyrings(&["extended"]), "extended", day(7000)).is_ok());
    assert!(matches!(fault_at(&["extended"], "extended", day(8000)), KeyFault::Expired { .. }));
    // Before the new one was made, the old one holds.
    assert!(matches!(fault_at(&["extended"], "extended", day(200)), KeyFault::Expired { .. }));
}

#[test]
fn nothing_counts_before_it_was_made() {
    let early = SystemTime::UNIX_EPOCH;
    assert!(matches!(refusal_at(&["rsa"], "rsa", early), SignatureRefusal::NotYetValid { .. }));
    assert!(matches!(refusal_at(&["rsa"], "rsa", day(59)), SignatureRefusal::NotYetValid { .. }));
    assert!(refusal_at(&["rsa"], "rsa", day(59)).to_string().contains("is the clock right?"));
    assert!(verify_at(&keyrings(&["rsa"]), "rsa", day(61)).is_ok());
    // The flags of this key were changed later; at the time there was no other binding.
    let fault = fault_at(&["not-signing"], "not-signing", day(61));
    assert!(matches!(fault, KeyFault::NotYetValid { part: KeyPart::Primary, .. }), "{fault:?}");
}

#[test]
fn keys_that_are_not_for_signing_do_not_sign() {
    let fault = fault_at(&["not-signing"], "not-signing", now());
    assert_eq!(fault, KeyFault::NotForSigning { part: KeyPart::Primary });
    let fault = fault_at(&["no-back-signature"], "subkey", now());
    assert_eq!(fault, KeyFault::NoBackSignature);
}

#[test]
fn what_is_too_weak_is_refused_by_name() {
    match fault_at(&["weak-rsa"], "weak-rsa", now()) {
        KeyFault::WeakKey { part: KeyPart::Primary, expected, found } => {
            assert_eq!((expected, found.as_str()), ("RSA of at least 2048 bits", "1024"));
        }
        other => panic!("{other:?}"),
    }
    match fault_at(&["weak-dsa"], "weak-dsa", now()) {
        KeyFault::WeakKey { found, .. } => assert_eq!(found, "DSA"),
        other => panic!("{other:?}"),
    }
    let fault = fault_at(&["weak-self"], "weak-self", now());
    assert_eq!(fault, KeyFault::WeakBinding { part: KeyPart::Primary, found: "SHA-1".to_owned() });
    for (name, digest) in [("weak-sha1", "SHA-1"), ("weak-ripemd160", "RIPEMD-160")] {
        let refusal = refusal_at(&["rsa"], name, now());
        assert_eq!(refusal, SignatureRefusal::WeakDigest { found: digest.to_owned() });
    }
}

#[test]
fn signatures_that_say_something_else_are_refused() {
    let refusal = refusal_at(&["rsa"], "critical-notation", now());
    let found = "notation 'unheard-of@example.org'".to_owned();
    assert_eq!(refusal, SignatureRefusal::CriticalSubpacket { found });
    assert_eq!(refusal_at(&["rsa"], "text", now()), SignatureRefusal::UnsupportedType { found: 1 });
    assert!(verify_at(&keyrings(&["rsa"]), "ends", day(61)).is_ok());
    match refusal_at(&["rsa"], "ends", now()) {
        SignatureRefusal::Expired { until, .. } => assert_eq!(until.to_string(), "2024-03-11T00:00:00Z"),
        other => panic!("{other:?}"),
    }
    let refusal = refusal_at(&["rsa"], "other-bytes", now());
    assert!(matches!(refusal, SignatureRefusal::WrongSignature { .. }), "{refusal:?}");
}

#[test]
fn nobody_else_signs() {
    match refusal_at(&["rsa", "expired"], "stranger", now()) {
        SignatureRefusal::UnknownKey { issuer } => assert_eq!(issuer.len(), 40),
        other => panic!("{other:?}"),
    }
    match verify_at(&keyrings(&["rsa", "expired"]), "two-bad", now()) {
        Err(error @ OpenPgpError::NoGoodSignature { .. }) => {
            let text = error.to_string();
            assert!(text.contains("which is in no keyring; key ") && text.contains("has expired"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(verify_at(&Keyrings::default(), "rsa", now()), Err(OpenPgpError::NoKeys));
}

#[test]
fn any_other_byte_makes_a_signature_wrong() {
    let (rings, sums, signature) = (keyrings(&["ed25519"]), data("sums"), data("ed25519.sig"));
    let good = |sums: &[u8], signature: &[u8]| verify_detached(sums, signature, &rings, now()).is_ok();
    assert!(good(&sums, &signature));
    assert!(!good(&sums[1..], &signature) && !good(&[&sums[..], b"\n"].concat(), &signature));
    assert!(!good(&[], &signature));
    for position in 0..sums.len() {
        let mut changed = sums.clone();
        changed[position] ^= 0x20;
        assert!(!good(&changed, &signature), "{position}");
    }
    let mut accepted = Vec::new();
    for position in 0..signature.len() {
        let mut changed = signature.clone();
        changed[position] ^= 1;
        if good(&sums, &changed) {
            accepted.push(position);
        }
    }
    // What is not hashed is a hint alone: the key ID, beside the fingerprint; and how many bits a number has, which is
    // known from the number.
    let hashed = 8 + usize::from(signature[7]);
    assert!(accepted.len() <= 12 && accepted.iter().all(|position| *position >= hashed), "{accepted:?}");
    for end in 0..signature.len() {
        assert!(!good(&sums, &signature[..end]), "{end}");
    }
}

#[test]
fn what_is_no_signature_is_named() {
    let rings = keyrings(&["rsa"]);
    let verify = |signature: &[u8]| verify_detached(&data("sums"), signature, &rings, now()).unwrap_err();
    let clear = verify(&data("clear.sig")).to_string();
    assert_eq!(clear, "expected a detached OpenPGP signature, found 'PGP SIGNED MESSAGE'");
    assert_eq!(verify(&data("rsa.pgp")), OpenPgpError::UnexpectedPacket { found: 6 });
    assert!(matches!(verify(b""), OpenPgpError::Format(_)));
    assert!(matches!(verify(b"404 Not Found\n"), OpenPgpError::Format(_)));
    let found = MAXIMUM_SIGNATURE + 1;
    assert_eq!(verify(&vec![0x88; found]), OpenPgpError::TooLarge { limit: MAXIMUM_SIGNATURE, found });
    let many = data("stranger.sig").repeat(MAXIMUM_SIGNATURES + 1);
    assert_eq!(verify(&many), OpenPgpError::TooManySignatures { limit: MAXIMUM_SIGNATURES });
    // Versions 3 and 5, and none that anybody has heard of.
    for version in [3, 5, 77] {
        let body =
            [&[version][..], &[5, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 1, 8, 0, 0, 0, 1, 1]].concat();
        let packet = [&[0xc2, u8::try_from(body.len()).unwrap()], &body[..]].concat();
        match verify(&packet) {
            OpenPgpError::NoGoodSignature { refusals } => assert!(
                matches!(
                    refusals[0],
                    SignatureRefusal::UnsupportedVersion { .. } | SignatureRefusal::Unreadable { .. }
                ),
                "{refusals:?}"
            ),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_no_keyring_is_named() {
    let read = |bytes: &[u8]| Keyring::read("x.pgp", bytes).unwrap_err();
    assert_eq!(read(&data("secret.pgp")), KeyringError::PrivateKey);
    let keybox = read(&data("keybox.pgp")).to_string();
    assert!(keybox.contains("gpg --export"), "{keybox}");
    assert_eq!(read(&data("rsa.sig")), KeyringError::UnexpectedPacket { found: 2 });
    assert!(matches!(read(b""), KeyringError::Format(_)));
    assert!(matches!(read(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n"), KeyringError::PrivateKey));
    let found = MAXIMUM_KEYRING + 1;
    assert_eq!(read(&vec![0x99; found]), KeyringError::TooLarge { limit: MAXIMUM_KEYRING, found });
    // A key of version 5, and the same behind a good one.
    let unknown = [0xc6, 6, 5, 0, 0, 0, 0, 1];
    assert!(matches!(read(&unknown), KeyringError::NoKeys { skipped: Some(_) }));
    let both = [&unknown[..], &data("rsa.pgp")].concat();
    let ring = Keyring::read("x.pgp", &both).unwrap();
    assert_eq!((ring.skipped().len(), ring.skipped()[0].position), (1, 1));
    assert!(verify_at(&Keyrings::new(vec![ring]), "rsa", now()).is_ok());
}

#[test]
fn what_cannot_be_read_on_a_key_might_revoke_it() {
    // A signature of an unknown version, right behind the primary key.
    let ed25519 = data("ed25519.pgp");
    let primary = 2 + usize::from(ed25519[1]);
    let unknown = [0xc2, 3, 99, 0x20, 0];
    let damaged = [&ed25519[..primary], &unknown, &ed25519[primary..]].concat();
    let rings = Keyrings::new(vec![Keyring::read("damaged.pgp", &damaged).unwrap()]);
    let error = verify_at(&rings, "ed25519", now()).unwrap_err().to_string();
    assert!(error.contains("might revoke it"), "{error}");
}

#[test]
fn a_manifest_is_verified_from_the_bytes_that_are_read() {
    let rings = keyrings(&["ed25519"]);
    let sums = data("sums");
    let verified = VerifiedManifest::verify(&sums, &data("ed25519.sig"), &rings, now()).unwrap();
    assert_eq!(verified.manifest().len(), 3);
    assert!(verified.manifest().digest_of("image.raw").unwrap().is_some());
    assert_eq!(verified.signer().user(), Some("ed25519 <ed25519@example.org>"));
    let wrong = VerifiedManifest::verify(&sums[1..], &data("ed25519.sig"), &rings, now());
    assert!(matches!(wrong, Err(SignedManifestError::Signature(_))), "{wrong:?}");
}
