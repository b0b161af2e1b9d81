//! Keys and certificates made on the spot, for tests.

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// Which key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with this many bits.
    Rsa(u32),
    /// Elliptic curve P-224: too weak.
    P224,
    /// Elliptic curve P-256.
    P256,
    /// Elliptic curve P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct CertificateOptions {
    /// The common name of subject and issuer.
    pub common_name: String,
    /// The serial number.
    pub serial: u32,
    /// The first valid second, in seconds since 1970.
    pub not_before: i64,
    /// The last valid second, in seconds since 1970.
    pub not_after: i64,
}

impl CertificateOptions {
    /// A certificate that is valid from 2020 to 2039.
    pub fn named(common_name: &str) -> Self {
        Self {
            common_name: common_name.to_owned(),
            serial: 1,
            not_before: 1_577_836_800,
            not_after: 2_208_988_799,
        }
    }
}

/// A key and the certificate that it signed for itself.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The private key.
    pub key: PKey<Private>,
    /// The certificate.
    pub certificate: X509,
}

impl Pair {
    /// A new key with its certificate.
    pub fn new(kind: KeyKind, options: &CertificateOptions) -> Self {
        Self::with_key(make_key(kind), options)
    }

    /// Another certificate for a key that is already there.
    pub fn with_key(key: PKey<Private>, options: &CertificateOptions) -> Self {
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, &options.common_name).unwrap();
        let name = name.build();
        let serial = BigNum::from_u32(options.serial).unwrap();
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&Asn1Integer::from_bn(&serial).unwrap()).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(options.not_before).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(options.not_after).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        let digest = match key.id() {
            openssl::pkey::Id::ED25519 => MessageDigest::null(),
            _ => MessageDigest::sha256(),
        };
        builder.sign(&key, digest).unwrap();
        Self { key, certificate: builder.build() }
    }

    /// The private key in PEM (PKCS#8).
    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }

    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// The certificate in DER.
    pub fn certificate_der(&self) -> Vec<u8> {
        self.certificate.to_der().unwrap()
    }

    /// The SHA-256 of the certificate in DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        openssl::sha::sha256(&self.certificate_der())
    }
}

fn make_key(kind: KeyKind) -> PKey<Private> {
    let curve = match kind {
        KeyKind::Rsa(bits) => return PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap(),
        KeyKind::Ed25519 => return PKey::generate_ed25519().unwrap(),
        KeyKind::P224 => Nid::SECP224R1,
        KeyKind::P256 => Nid::X9_62_PRIME256V1,
        KeyKind::P521 => Nid::SECP521R1,
    };
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}
