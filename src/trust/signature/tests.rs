use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use super::*;
use crate::trust::der::{encode, tag};
use crate::trust::root_hash::Authentication;
use crate::trust::sealing::sign_root_hash;
use crate::trust::test_keys::{CertificateOptions, KeyKind, Pair};

/// 2024-01-01: inside the validity of every certificate here that is not about validity.
const NOON: u64 = 1_704_067_200;

static RSA: LazyLock<Pair> =
    LazyLock::new(|| Pair::new(KeyKind::Rsa(2048), &CertificateOptions::named("rsa signer")));
static CURVE: LazyLock<Pair> =
    LazyLock::new(|| Pair::new(KeyKind::P256, &CertificateOptions::named("curve signer")));

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn root_hash() -> RootHash {
    RootHash::from_bytes(&[0xab; 32]).unwrap()
}

fn anchors(pairs: &[&Pair]) -> TrustAnchors {
    let anchor = |pair: &&Pair| TrustAnchor::from_pem("anchor.crt", &pair.certificate_pem()).unwrap();
    TrustAnchors::new(pairs.iter().map(anchor).collect())
}

fn sign(pair: &Pair) -> Vec<u8> {
    sign_root_hash(&root_hash(), &pair.key_pem(), &pair.certificate_pem()).unwrap()
}

/// As [`sign`], without refusing weak keys, and with any flags.
fn sign_anyhow(pair: &Pair, flags: Pkcs7Flags) -> Vec<u8> {
    let content = root_hash().to_string();
    let others = Stack::new().unwrap();
    let signature = Pkcs7::sign(&pair.certificate, &pair.key, &others, content.as_bytes(), flags).unwrap();
    signature.to_der().unwrap()
}

const DETACHED: Pkcs7Flags = Pkcs7Flags::DETACHED.union(Pkcs7Flags::NOATTR).union(Pkcs7Flags::BINARY);

fn verify(der: &[u8], pairs: &[&Pair]) -> Result<AuthenticatedRootHash, SignatureError> {
    verify_root_hash_signature(&root_hash(), der, None, &Signers::unlimited(&anchors(pairs), at(NOON)))
}

/// `der` with the one occurrence of `old` replaced, which must be as long as `new`.
fn replaced(der: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut positions = (0..der.len() - old.len()).filter(|start| der[*start..].starts_with(old));
    let start = positions.next().unwrap();
    assert_eq!(positions.next(), None, "more than one occurrence");
    let mut der = der.to_vec();
    der[start..start + new.len()].copy_from_slice(new);
    der
}

fn last_of(der: &[u8], needle: &[u8]) -> usize {
    (0..der.len() - needle.len()).rev().find(|start| der[*start..].starts_with(needle)).unwrap()
}

#[test]
fn a_signature_by_a_trust_anchor_authenticates_the_root_hash_and_names_the_signer() {
    let large = Pair::new(KeyKind::P521, &CertificateOptions::named("large curve"));
    for pair in [&*RSA, &*CURVE, &large] {
        let authenticated = verify(&sign(pair), &[&RSA, &CURVE, &large]).unwrap();
        assert_eq!(authenticated.root_hash(), &root_hash());
        let signer = authenticated.signer().unwrap();
        assert_eq!(signer.fingerprint().as_bytes(), &pair.fingerprint());
        assert_eq!(signer.name(), "anchor.crt");
        assert!(matches!(authenticated.by(), Authentication::Signature(same) if same == signer));
    }
    let long = RootHash::from_bytes(&[1; 64]).unwrap();
    let der = sign_root_hash(&long, &CURVE.key_pem(), &CURVE.certificate_pem()).unwrap();
    assert!(
        verify_root_hash_signature(&long, &der, None, &Signers::unlimited(&anchors(&[&CURVE]), at(NOON)))
            .is_ok()
    );
}

#[test]
fn signed_attributes_and_a_missing_certificate_are_fine() {
    let with_attributes = Pkcs7Flags::DETACHED | Pkcs7Flags::BINARY;
    for flags in [with_attributes, with_attributes | Pkcs7Flags::NOCERTS, DETACHED | Pkcs7Flags::NOCERTS] {
        assert!(verify(&sign_anyhow(&RSA, flags), &[&RSA]).is_ok(), "{flags:?}");
        assert!(verify(&sign_anyhow(&CURVE, flags), &[&CURVE]).is_ok(), "{flags:?}");
    }
}

#[test]
fn what_is_not_one_der_object_is_refused_by_name() {
    let good = sign(&CURVE);
    let malformed = |offset, expected| SignatureError::Malformed { offset, expected };
    let mut indefinite = good.clone();
    // 30 82 xx xx becomes 30 80, and two zero bytes end it.
    indefinite.splice(0..4, [0x30, 0x80]);
    indefinite.extend_from_slice(&[0, 0]);
    let mut long_length = good.clone();
    long_length.splice(1..2, [0x83, 0]);
    let trailing = |count: usize| [&good[..], &vec![0; count]].concat();
    let rows = [
        (Vec::new(), SignatureError::Empty),
        (vec![0; 16], malformed(0, "a ContentInfo")),
        (b"-----BEGIN PKCS7-----\n".to_vec(), malformed(0, "a ContentInfo")),
        (
            vec![0x30; MAXIMUM_SIGNATURE + 1],
            SignatureError::TooLarge { limit: MAXIMUM_SIGNATURE, found: MAXIMUM_SIGNATURE + 1 },
        ),
        (indefinite, malformed(0, "a definite length")),
        (long_length, malformed(0, "a length no longer than it needs to be")),
        (good[..good.len() - 1].to_vec(), malformed(0, "an element that ends inside the one around it")),
        (trailing(1), SignatureError::TrailingBytes { count: 1 }),
        (trailing(100), SignatureError::TrailingBytes { count: 100 }),
        (good.repeat(2), SignatureError::TrailingBytes { count: good.len() }),
    ];
    for (der, error) in rows {
        assert_eq!(verify(&der, &[&CURVE]).unwrap_err(), error);
    }
}

#[test]
fn versions_that_name_signers_in_another_way_are_refused_by_name() {
    let good = sign(&CURVE);
    let versions: Vec<usize> =
        (0..good.len()).filter(|start| good[*start..].starts_with(&[2, 1, 1, 0x30])).collect();
    let mut signer = good.clone();
    // The last of them is the signer's serial number, in front of the digest algorithm.
    signer[versions[versions.len() - 2] + 2] = 3;
    let mut signed_data = good.clone();
    let position = last_of(&good[..40], &[2, 1, 1, 0x31]);
    signed_data[position + 2] = 3;
    for (der, version) in [(signer, "version 1 of a signer"), (signed_data, "version 1 of signed data")] {
        let error = verify(&der, &[&CURVE]).unwrap_err();
        assert!(
            matches!(error, SignatureError::Malformed { expected, .. } if expected == version),
            "{error}"
        );
    }
}

#[test]
fn revocation_lists_are_refused_by_name() {
    let mut der = sign(&CURVE);
    let certificates = embedded_certificates(&der, &CURVE).start;
    let header = (certificates - 4..certificates).find(|position| der[*position] == tag::CONTEXT_0).unwrap();
    der[header] = tag::CONTEXT_1;
    let expected = "the set of signers";
    assert_eq!(verify(&der, &[&CURVE]).unwrap_err(), SignatureError::Malformed { offset: header, expected });
}

#[test]
fn another_kind_of_object_is_refused_by_name() {
    let good = sign(&CURVE);
    let data = &encode(tag::OBJECT_IDENTIFIER, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1]);
    let signed = &encode(tag::OBJECT_IDENTIFIER, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2]);
    let enveloped = &encode(tag::OBJECT_IDENTIFIER, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 3]);
    let enveloped_text = "1.2.840.113549.1.7.3".to_owned();
    assert_eq!(
        verify(&replaced(&good, signed, enveloped), &[&CURVE]).unwrap_err(),
        SignatureError::NotSignedData { found: enveloped_text.clone() }
    );
    assert_eq!(
        verify(&replaced(&good, data, enveloped), &[&CURVE]).unwrap_err(),
        SignatureError::WrongContentType { found: enveloped_text }
    );
    assert_eq!(
        verify(&sign_anyhow(&CURVE, Pkcs7Flags::NOATTR | Pkcs7Flags::BINARY), &[&CURVE]).unwrap_err(),
        SignatureError::NotDetached
    );
    assert_eq!(verify(&CURVE.certificate_der(), &[&CURVE]).unwrap_err(), {
        SignatureError::Malformed { offset: 4, expected: "a content type" }
    });
}

/// A ContentInfo of these signers, without certificates.
fn content_info(signers: &[Vec<u8>]) -> Vec<u8> {
    let sha256 =
        encode(tag::SEQUENCE, &encode(tag::OBJECT_IDENTIFIER, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]));
    let data = encode(tag::OBJECT_IDENTIFIER, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1]);
    let fields = [
        vec![tag::INTEGER, 1, 1],
        encode(tag::SET, &sha256),
        encode(tag::SEQUENCE, &data),
        encode(tag::SET, &signers.concat()),
    ];
    let content = encode(tag::CONTEXT_0, &encode(tag::SEQUENCE, &fields.concat()));
    let signed_data = encode(tag::OBJECT_IDENTIFIER, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2]);
    encode(tag::SEQUENCE, &[signed_data, content].concat())
}

/// The SignerInfo of a signature with one signer.
fn signer_info(der: &[u8]) -> Vec<u8> {
    let mut content = super::super::der::Reader::new(der).next().unwrap().inside();
    content.next().unwrap();
    let mut fields = content.next().unwrap().inside().next().unwrap().inside();
    let mut last = fields.next().unwrap();
    while !fields.is_empty() {
        last = fields.next().unwrap();
    }
    last.content().to_vec()
}

#[test]
fn all_signers_must_be_trusted_and_right() {
    let (rsa, curve) = (signer_info(&sign(&RSA)), signer_info(&sign(&CURVE)));
    let both = content_info(&[rsa.clone(), curve.clone()]);
    assert_eq!(verify(&content_info(&[]), &[&RSA]).unwrap_err(), SignatureError::NoSigner);
    assert!(verify(&both, &[&RSA, &CURVE]).is_ok());
    for trusted in [&RSA, &CURVE] {
        let error = verify(&both, &[trusted]).unwrap_err();
        assert!(matches!(error, SignatureError::UntrustedSigner { .. }), "{error}");
    }
    let mut zeroed = curve.clone();
    let half = zeroed.len() - 20;
    zeroed[half..].fill(0);
    for signers in [[rsa.clone(), zeroed.clone()], [zeroed, rsa]] {
        let error = verify(&content_info(&signers), &[&RSA, &CURVE]).unwrap_err();
        assert!(matches!(error, SignatureError::WrongSignature { .. }), "{error}");
    }
    assert_eq!(
        verify(&content_info(&vec![curve; 9]), &[&CURVE]).unwrap_err(),
        SignatureError::TooManySigners { limit: 8 }
    );
    // With several signers the claimed fingerprint may be anyone's of them, and names the one that is reported.
    let claim = |claimed: [u8; 32]| {
        verify_root_hash_signature(
            &root_hash(),
            &both,
            Some(&claimed),
            &Signers::unlimited(&anchors(&[&RSA, &CURVE]), at(NOON)),
        )
    };
    let signer = claim(CURVE.fingerprint()).unwrap().signer().unwrap().fingerprint();
    assert_eq!(signer.as_bytes(), &CURVE.fingerprint());
    assert!(matches!(claim([0; 32]).unwrap_err(), SignatureError::FingerprintMismatch { .. }));
}

#[test]
fn a_signer_who_is_no_trust_anchor_is_refused_although_its_certificate_comes_along() {
    let error = verify(&sign(&CURVE), &[&RSA]).unwrap_err();
    assert_eq!(
        error,
        SignatureError::UntrustedSigner { issuer: "CN=curve signer".to_owned(), serial: "01".to_owned() }
    );
    assert_eq!(verify(&sign(&CURVE), &[]).unwrap_err(), SignatureError::NoTrustAnchors);
}

#[test]
fn another_key_with_the_same_issuer_and_serial_number_is_no_help_and_no_harm() {
    let options = CertificateOptions::named("twin");
    let (left, right) = (Pair::new(KeyKind::P256, &options), Pair::new(KeyKind::P256, &options));
    let rsa = Pair::new(KeyKind::Rsa(2048), &options);
    let der = sign(&left);
    for other in [&right, &rsa] {
        assert_eq!(
            verify(&der, &[other]).unwrap_err(),
            SignatureError::WrongSignature { root_hash: root_hash(), subject: "CN=twin".to_owned() }
        );
        for trusted in [[&left, other], [other, &left]] {
            let authenticated = verify(&der, &trusted).unwrap();
            assert_eq!(authenticated.signer().unwrap().fingerprint().as_bytes(), &left.fingerprint());
        }
    }
}

#[test]
fn a_signature_over_another_root_hash_is_wrong() {
    let der = sign(&RSA);
    for other in [RootHash::from_bytes(&[0xac; 32]).unwrap(), RootHash::from_bytes(&[0xab; 64]).unwrap()] {
        assert_eq!(
            verify_root_hash_signature(&other, &der, None, &Signers::unlimited(&anchors(&[&RSA]), at(NOON)))
                .unwrap_err(),
            SignatureError::WrongSignature { root_hash: other, subject: "CN=rsa signer".to_owned() }
        );
    }
}

#[test]
fn a_zeroed_signature_is_wrong() {
    for pair in [&*RSA, &*CURVE] {
        let mut der = sign(pair);
        let length = if pair.key.id() == Id::RSA { 256 } else { 60 };
        let start = der.len() - length;
        der[start..].fill(0);
        let error = verify(&der, &[pair]).unwrap_err();
        assert!(matches!(error, SignatureError::WrongSignature { .. }), "{error}");
    }
}

#[test]
fn weak_and_unknown_digests_are_refused_by_name() {
    let good = sign(&RSA);
    let sha256 = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
    // The signer's digest is the last occurrence; the first is in the set of all digests. The certificate has none.
    let positions = [last_of(&good[..60], &sha256), last_of(&good, &sha256)];
    assert_ne!(positions[0], positions[1]);
    for position in positions {
        let mut sha224 = good.clone();
        sha224[position + 8] = 4;
        assert_eq!(verify(&sha224, &[&RSA]).unwrap_err(), SignatureError::WeakDigest { found: "sha224" });
        let mut sha3_256 = good.clone();
        sha3_256[position + 8] = 8;
        let found = "2.16.840.1.101.3.4.2.8".to_owned();
        assert_eq!(verify(&sha3_256, &[&RSA]).unwrap_err(), SignatureError::UnsupportedAlgorithm { found });
    }
    // rsaEncryption of the signer: the last one, 1.2.840.113549.1.1.1.
    let rsa = last_of(&good, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]);
    let with_algorithm = |arc| {
        let mut der = good.clone();
        der[rsa + 8] = arc;
        verify(&der, &[&RSA])
    };
    assert_eq!(with_algorithm(5).unwrap_err(), SignatureError::WeakDigest { found: "sha1" });
    assert_eq!(with_algorithm(4).unwrap_err(), SignatureError::WeakDigest { found: "md5" });
    let found = "1.2.840.113549.1.1.10".to_owned();
    assert_eq!(with_algorithm(10).unwrap_err(), SignatureError::UnsupportedAlgorithm { found });
    let expected = "a signature algorithm with the signer's digest";
    assert!(
        matches!(with_algorithm(13).unwrap_err(), SignatureError::Malformed { expected: e, .. } if e == expected)
    );
    // RSA with SHA-256 is what the signature is anyway.
    assert!(with_algorithm(11).is_ok());
}

#[test]
fn weak_and_unsupported_keys_are_refused_by_name() {
    let weak = Pair::new(KeyKind::Rsa(1024), &CertificateOptions::named("weak"));
    assert_eq!(
        verify(&sign_anyhow(&weak, DETACHED), &[&weak]).unwrap_err(),
        SignatureError::WeakKey { subject: "CN=weak".to_owned(), kind: "RSA", expected: 2048, found: 1024 }
    );
    let curve = Pair::new(KeyKind::P224, &CertificateOptions::named("weak"));
    let (kind, expected, found) = ("elliptic curve", 256, 224);
    assert_eq!(
        verify(&sign_anyhow(&curve, DETACHED), &[&curve]).unwrap_err(),
        SignatureError::WeakKey { subject: "CN=weak".to_owned(), kind, expected, found }
    );
    // A trust anchor with such a key, whoever claims to have signed with it.
    let options = CertificateOptions::named("edwards");
    let (edwards, twin) = (Pair::new(KeyKind::Ed25519, &options), Pair::new(KeyKind::P256, &options));
    assert_eq!(
        verify(&sign(&twin), &[&edwards]).unwrap_err(),
        SignatureError::UnsupportedKey { subject: "CN=edwards".to_owned(), found: "Ed25519" }
    );
}

#[test]
fn certificates_count_from_their_first_to_their_last_second() {
    let options = CertificateOptions {
        not_before: 1_000_000_000,
        not_after: 1_100_000_000,
        ..CertificateOptions::named("then")
    };
    let pair = Pair::new(KeyKind::P256, &options);
    let der = sign(&pair);
    let verify = |seconds| {
        verify_root_hash_signature(
            &root_hash(),
            &der,
            None,
            &Signers::unlimited(&anchors(&[&pair]), at(seconds)),
        )
    };
    assert!(verify(1_000_000_000).is_ok());
    assert!(verify(1_100_000_000).is_ok());
    let early = verify(999_999_999).unwrap_err();
    assert_eq!(
        early.to_string(),
        "certificate 'CN=then' not yet valid: valid from 2001-09-09T01:46:40Z, verified at 2001-09-09T01:46:39Z; \
         is the clock right?"
    );
    assert!(matches!(early, SignatureError::NotYetValid { .. }));
    let late = verify(1_100_000_001).unwrap_err();
    assert_eq!(
        late.to_string(),
        "expired certificate 'CN=then': valid until 2004-11-09T11:33:20Z, verified at 2004-11-09T11:33:21Z"
    );
    assert!(matches!(late, SignatureError::Expired { .. }));
}

#[test]
fn a_renewed_certificate_of_the_same_key_is_preferred_to_an_expired_one() {
    let renewed = Pair::new(KeyKind::P256, &CertificateOptions::named("renewed"));
    let options = CertificateOptions {
        not_before: 1_000_000_000,
        not_after: 1_100_000_000,
        ..CertificateOptions::named("renewed")
    };
    let expired = Pair::with_key(renewed.key.clone(), &options);
    let authenticated = verify(&sign(&renewed), &[&expired, &renewed]).unwrap();
    assert_eq!(authenticated.signer().unwrap().fingerprint().as_bytes(), &renewed.fingerprint());
    let error = verify(&sign(&renewed), &[&expired]).unwrap_err();
    assert!(matches!(error, SignatureError::Expired { .. }), "{error}");
}

#[test]
fn a_claimed_fingerprint_must_be_the_signers() {
    let der = sign(&CURVE);
    let verify = |claimed: [u8; 32]| {
        verify_root_hash_signature(
            &root_hash(),
            &der,
            Some(&claimed),
            &Signers::unlimited(&anchors(&[&RSA, &CURVE]), at(NOON)),
        )
    };
    assert!(verify(CURVE.fingerprint()).is_ok());
    for claimed in [RSA.fingerprint(), [0; 32]] {
        assert_eq!(
            verify(claimed).unwrap_err(),
            SignatureError::FingerprintMismatch {
                claimed: Fingerprint::from_bytes(claimed),
                found: Fingerprint::from_bytes(CURVE.fingerprint()),
            }
        );
    }
}

#[test]
fn signed_attributes_must_name_content_type_and_digest_once() {
    let good = sign_anyhow(&CURVE, Pkcs7Flags::DETACHED | Pkcs7Flags::BINARY | Pkcs7Flags::NOCERTS);
    assert!(verify(&good, &[&CURVE]).is_ok());
    let attribute = |arc| encode(tag::OBJECT_IDENTIFIER, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, arc]);
    let expected = "content type and message digest, each once, as signed attributes";
    // As signing time, 1.2.840.113549.1.9.5, or as each other, they are not there.
    for arc in [3, 4] {
        let error = verify(&replaced(&good, &attribute(arc), &attribute(9)), &[&CURVE]).unwrap_err();
        assert!(matches!(error, SignatureError::Malformed { expected: e, .. } if e == expected), "{error}");
    }
    let data = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
    let mut other_type = good.clone();
    let position = last_of(&good, &data);
    other_type[position + 8] = 3;
    let found = "1.2.840.113549.1.7.3".to_owned();
    assert_eq!(verify(&other_type, &[&CURVE]).unwrap_err(), SignatureError::WrongContentType { found });
    // What is not checked by shape is signed.
    let signing_time = last_of(&good, &attribute(5)) + attribute(5).len() + 4;
    let mut other_time = good.clone();
    other_time[signing_time] ^= 1;
    let error = verify(&other_time, &[&CURVE]).unwrap_err();
    assert!(matches!(error, SignatureError::WrongSignature { .. }), "{error}");
}

/// Where the embedded certificates lie: the only part of a signature that nobody looks into.
fn embedded_certificates(der: &[u8], pair: &Pair) -> std::ops::Range<usize> {
    let certificate = pair.certificate_der();
    let start = last_of(der, &certificate);
    start..start + certificate.len()
}

#[test]
fn every_changed_byte_outside_the_embedded_certificate_is_noticed() {
    let der = sign(&CURVE);
    let anchors = anchors(&[&CURVE]);
    let ignored = embedded_certificates(&der, &CURVE);
    let mut unnoticed = BTreeSet::new();
    for position in 0..der.len() {
        for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
            let mut changed = der.clone();
            changed[position] ^= flip;
            if verify_root_hash_signature(
                &root_hash(),
                &changed,
                None,
                &Signers::unlimited(&anchors, at(NOON)),
            )
            .is_ok()
            {
                unnoticed.insert(position);
            }
        }
    }
    // SHA-384 and SHA-512 in the set of all digests are as good as SHA-256 there: the signer names its own.
    let set_of_digests = last_of(&der[..60], &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]) + 8;
    for position in &unnoticed {
        assert!(
            ignored.contains(position) || *position == set_of_digests,
            "byte {position} of {}",
            der.len()
        );
    }
    assert!(unnoticed.len() > ignored.len() / 2, "the certificate should not have been looked at");
    for length in 0..der.len() {
        assert!(
            verify_root_hash_signature(
                &root_hash(),
                &der[..length],
                None,
                &Signers::unlimited(&anchors, at(NOON))
            )
            .is_err()
        );
    }
}

/// What the command `openssl` makes of `arguments`, in a directory with the root hash's text, keys and certificates;
/// `None` where it is not installed.
fn openssl_command(arguments: &[&str]) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    write("content", root_hash().to_string().as_bytes());
    for (name, pair) in [("rsa", &*RSA), ("curve", &*CURVE)] {
        write(&format!("{name}.key"), &pair.key_pem());
        write(&format!("{name}.crt"), &pair.certificate_pem());
    }
    let output =
        std::process::Command::new("openssl").args(arguments).current_dir(directory.path()).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn signatures_by_the_openssl_command_are_judged_the_same_where_it_is_installed() {
    let weak = || SignatureError::WeakDigest { found: "sha1" };
    let rows: [(&str, Result<(), SignatureError>); 8] = [
        ("smime -sign -signer rsa.crt -inkey rsa.key -noattr", Ok(())),
        ("smime -sign -signer rsa.crt -inkey rsa.key -md sha512", Ok(())),
        ("smime -sign -signer rsa.crt -inkey rsa.key -signer curve.crt -inkey curve.key", Ok(())),
        ("cms -sign -signer curve.crt -inkey curve.key -noattr", Ok(())),
        ("cms -sign -signer curve.crt -inkey curve.key -md sha384", Ok(())),
        ("smime -sign -signer rsa.crt -inkey rsa.key -md sha1", Err(weak())),
        ("cms -sign -signer curve.crt -inkey curve.key -md sha1 -noattr", Err(weak())),
        ("smime -sign -signer rsa.crt -inkey rsa.key -nodetach", Err(SignatureError::NotDetached)),
    ];
    for (command, expected) in rows {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["-binary", "-outform", "DER", "-in", "content"]);
        let Some(der) = openssl_command(&arguments) else {
            eprintln!("skipped: openssl is not installed");
            return;
        };
        let found = verify(&der, &[&RSA, &CURVE]).map(|_| ());
        assert_eq!(found, expected, "{command}");
    }
}

#[test]
fn what_others_left_in_the_error_queue_does_not_matter() {
    let der = sign(&CURVE);
    assert!(X509::from_der(&[0x30, 0]).is_err());
    assert!(verify(&der, &[&CURVE]).is_ok());
    assert!(verify(&der[..der.len() - 1], &[&CURVE]).is_err());
    assert!(ErrorStack::get().errors().is_empty());
}
