//! Trust anchors: the certificates whose signatures over root hashes count.
//!
//! As in systemd's `verity.d` one certificate a file, and the certificate itself is trusted: no chain, no authority.

use std::fmt;
use std::time::{Duration, SystemTime};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::pkey::{Id, PKey, Public};
use openssl::x509::{X509, X509NameRef};
use sha2::Digest as _;

use super::der::{Reader, tag};

/// The largest certificate file that is read: certificates are about 2 KiB, text around them included.
pub const MAXIMUM_CERTIFICATE_FILE: usize = 64 * 1024;

/// The fewest bits of an RSA modulus that count (NIST SP 800-131A).
pub const MINIMUM_RSA_BITS: u32 = 2048;

/// The fewest bits of an elliptic curve that count: those of P-256.
pub const MINIMUM_CURVE_BITS: u32 = 256;

/// The SHA-256 of a certificate in DER: what `certificateFingerprint` of a signature partition names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A certificate that the user trusts.
#[derive(Debug, Clone)]
pub struct TrustAnchor {
    name: String,
    certificate: X509,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    subject: String,
    fingerprint: Fingerprint,
    not_before: CertificateTime,
    not_after: CertificateTime,
}

impl TrustAnchor {
    /// Reads the one certificate that a file holds, in PEM or in DER. `name` is for messages: the file's name.
    ///
    /// # Errors
    /// An [`AnchorError`]; also where there are several certificates, of which others would silently take the first.
    pub fn from_pem(name: &str, bytes: &[u8]) -> Result<Self, AnchorError> {
        if bytes.is_empty() {
            return Err(AnchorError::Empty);
        }
        if bytes.len() > MAXIMUM_CERTIFICATE_FILE {
            return Err(AnchorError::TooLarge { limit: MAXIMUM_CERTIFICATE_FILE, found: bytes.len() });
        }
        if bytes.first() == Some(&tag::SEQUENCE) {
            return Self::from_der(name, bytes);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| AnchorError::NotACertificate)?;
        Self::from_der(name, &certificate_in(text)?)
    }

    fn from_der(name: &str, der: &[u8]) -> Result<Self, AnchorError> {
        let (issuer, serial) = issuer_and_serial(der).ok_or(AnchorError::Malformed)?;
        let certificate = X509::from_der(der).map_err(|_| AnchorError::Malformed)?;
        let time = |time: &Asn1TimeRef| CertificateTime::from_asn1(time).ok_or(AnchorError::Malformed);
        Ok(Self {
            name: name.to_owned(),
            issuer: issuer.to_vec(),
            serial: serial.to_vec(),
            subject: name_text(certificate.subject_name()),
            fingerprint: Fingerprint(sha2::Sha256::digest(der).into()),
            not_before: time(certificate.not_before())?,
            not_after: time(certificate.not_after())?,
            certificate,
        })
    }

    /// The name that it was loaded under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subject, as `CN=Name, O=Organisation`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The SHA-256 of the certificate.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The first second at which it is valid.
    #[must_use]
    pub const fn not_before(&self) -> CertificateTime {
        self.not_before
    }

    /// The last second at which it is valid.
    #[must_use]
    pub const fn not_after(&self) -> CertificateTime {
        self.not_after
    }

    pub(super) const fn certificate(&self) -> &X509 {
        &self.certificate
    }

    /// Whether a signature that names this issuer (a name in DER) and serial number (the content of its INTEGER)
    /// means this certificate.
    pub(super) fn is_named(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.issuer == issuer && self.serial == serial
    }

    /// The key, where it is of a kind and size that counts.
    pub(super) fn key(&self) -> Result<PKey<Public>, KeyRefusal> {
        let key =
            self.certificate.public_key().map_err(|_| KeyRefusal::Unsupported { kind: "unreadable" })?;
        check_key(&key)?;
        Ok(key)
    }
}

impl PartialEq for TrustAnchor {
    /// Whether it is the same certificate, whatever its file is called.
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for TrustAnchor {}

/// All trust anchors that count, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustAnchors(Vec<TrustAnchor>);

impl TrustAnchors {
    /// These, each certificate once.
    #[must_use]
    pub fn new(anchors: Vec<TrustAnchor>) -> Self {
        let mut distinct: Vec<TrustAnchor> = Vec::new();
        for anchor in anchors {
            if !distinct.contains(&anchor) {
                distinct.push(anchor);
            }
        }
        Self(distinct)
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, TrustAnchor> {
        self.0.iter()
    }

    /// The one with this fingerprint.
    #[must_use]
    pub fn by_fingerprint(&self, fingerprint: &Fingerprint) -> Option<&TrustAnchor> {
        self.iter().find(|anchor| anchor.fingerprint == *fingerprint)
    }
}

impl<'a> IntoIterator for &'a TrustAnchors {
    type Item = &'a TrustAnchor;
    type IntoIter = std::slice::Iter<'a, TrustAnchor>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A file does not hold one certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// There is nothing in it (systemd uses that to mask a file of the same name in a later directory).
    #[error("certificate file of no bytes")]
    Empty,
    /// The PEM text or the certificate in it cannot be read.
    #[error("malformed certificate")]
    Malformed,
    /// It holds neither PEM nor DER.
    #[error("no certificate: expected '-----BEGIN CERTIFICATE-----' or DER")]
    NotACertificate,
    /// It holds several; which one would be trusted must not depend on their order.
    #[error("several certificates: expected 1, found {found}")]
    SeveralCertificates {
        /// How many there are.
        found: usize,
    },
    /// It is larger than any certificate.
    #[error("certificate file too large: expected at most {limit} bytes, found {found}")]
    TooLarge {
        /// The limit, [`MAXIMUM_CERTIFICATE_FILE`].
        limit: usize,
        /// The number of bytes.
        found: usize,
    },
}

/// A key does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyRefusal {
    Weak { kind: &'static str, expected: u32, found: u32 },
    Unsupported { kind: &'static str },
}

/// Whether signatures by this key count: RSA of at least 2048 bits, or a named curve of at least 256.
///
/// Ed25519 does not: OpenSSL 3.0 has no PKCS#7 with it, and neither has systemd.
pub(super) fn check_key<T: openssl::pkey::HasPublic>(key: &PKey<T>) -> Result<(), KeyRefusal> {
    let (kind, expected) = match key.id() {
        Id::RSA => ("RSA", MINIMUM_RSA_BITS),
        Id::EC => ("elliptic curve", MINIMUM_CURVE_BITS),
        Id::ED25519 => return Err(KeyRefusal::Unsupported { kind: "Ed25519" }),
        Id::ED448 => return Err(KeyRefusal::Unsupported { kind: "Ed448" }),
        Id::DSA => return Err(KeyRefusal::Unsupported { kind: "DSA" }),
        Id::RSA_PSS => return Err(KeyRefusal::Unsupported { kind: "RSA-PSS" }),
        _ => return Err(KeyRefusal::Unsupported { kind: "unknown" }),
    };
    if key.id() == Id::EC && key.ec_key().is_ok_and(|key| key.group().curve_name().is_none()) {
        return Err(KeyRefusal::Unsupported { kind: "elliptic curve without a name" });
    }
    let found = key.bits();
    if found < expected { Err(KeyRefusal::Weak { kind, expected, found }) } else { Ok(()) }
}

/// A second of the time scale of certificates; prints as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateTime(i64);

impl CertificateTime {
    fn from_asn1(time: &Asn1TimeRef) -> Option<Self> {
        let difference = Asn1Time::from_unix(0).ok()?.diff(time).ok()?;
        Some(Self(i64::from(difference.days) * SECONDS_PER_DAY + i64::from(difference.secs)))
    }

    /// The time so many seconds after 1970-01-01 in UTC.
    pub(super) const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970-01-01 in UTC.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0
    }
}

impl From<SystemTime> for CertificateTime {
    /// The second in which `time` lies; times that do not fit are as far away as can be said.
    fn from(time: SystemTime) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => seconds(since),
            Err(before) => -seconds(before.duration()),
        })
    }
}

impl fmt::Display for CertificateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Civil date from a day count: years of the proleptic Gregorian calendar that begin in March, 400 at a time.
        let (days, second) = (self.0.div_euclid(SECONDS_PER_DAY), self.0.rem_euclid(SECONDS_PER_DAY));
        let from_march_year_0 = days.saturating_add(719_468);
        let (era, day) = (from_march_year_0.div_euclid(146_097), from_march_year_0.rem_euclid(146_097));
        let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

const SECONDS_PER_DAY: i64 = 86_400;

/// A distinguished name as `CN=Name, O=Organisation`: nothing in it can move a terminal's cursor, and it ends
/// somewhere, because the name may be an attacker's.
pub(super) fn name_text(name: &X509NameRef) -> String {
    /// Longer than any name that means something to a reader.
    const LONGEST: usize = 256;
    let mut words = String::new();
    for entry in name.entries() {
        if !words.is_empty() {
            words.push_str(", ");
        }
        words.push_str(entry.object().nid().short_name().unwrap_or("?"));
        words.push('=');
        match entry.data().to_string() {
            Ok(value) => words.extend(value.escape_default()),
            Err(_) => words.push('?'),
        }
        if words.len() > LONGEST {
            break;
        }
    }
    // ASCII only, after the escapes above: any position is a boundary of characters.
    words.truncate(LONGEST);
    words
}

/// The DER of the one certificate in a PEM text (RFC 7468). Read here, because OpenSSL's reader would ask the
/// terminal for a passphrase where the text says that it is encrypted.
fn certificate_in(text: &str) -> Result<Vec<u8>, AnchorError> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim_end) {
        match line {
            "-----BEGIN CERTIFICATE-----" if inside => return Err(AnchorError::Malformed),
            "-----BEGIN CERTIFICATE-----" => {
                inside = true;
                blocks.push(String::new());
            }
            "-----END CERTIFICATE-----" if inside => inside = false,
            _ if inside => blocks.iter_mut().next_back().into_iter().for_each(|block| block.push_str(line)),
            _ => (),
        }
    }
    if inside {
        return Err(AnchorError::Malformed);
    }
    match blocks.as_slice() {
        [] => Err(AnchorError::NotACertificate),
        [block] => data_encoding::BASE64.decode(block.as_bytes()).map_err(|_| AnchorError::Malformed),
        several => Err(AnchorError::SeveralCertificates { found: several.len() }),
    }
}

/// The issuer's name in DER and the content of the serial number (RFC 5280, 4.1); `None` where `der` is not exactly
/// one certificate.
fn issuer_and_serial(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut outer = Reader::new(der);
    let certificate = outer.expect(tag::SEQUENCE, "a certificate").ok()?;
    outer.end("the end of the certificate").ok()?;
    let mut fields =
        certificate.inside().expect(tag::SEQUENCE, "what is signed of a certificate").ok()?.inside();
    fields.optional(tag::CONTEXT_0).ok()?;
    let serial = fields.expect(tag::INTEGER, "a serial number").ok()?;
    fields.expect(tag::SEQUENCE, "a signature algorithm").ok()?;
    let issuer = fields.expect(tag::SEQUENCE, "an issuer").ok()?;
    Some((issuer.whole(), serial.content()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_keys::{CertificateOptions, KeyKind, Pair};

    fn pair() -> Pair {
        Pair::new(KeyKind::P256, &CertificateOptions::named("anchor \u{1b}[2J"))
    }

    #[test]
    fn a_certificate_is_read_from_pem_der_and_pem_with_text_around_it() {
        let pair = pair();
        let mut text = b"made by a test\r\n".to_vec();
        text.extend_from_slice(&pair.certificate_pem());
        text.extend_from_slice(b"\n\n");
        for bytes in [pair.certificate_pem(), pair.certificate_der(), text] {
            let anchor = TrustAnchor::from_pem("a.crt", &bytes).unwrap();
            assert_eq!(anchor.fingerprint().as_bytes(), &pair.fingerprint());
            assert_eq!(anchor.subject(), "CN=anchor \\u{1b}[2J");
            assert_eq!(anchor.name(), "a.crt");
            assert_eq!(anchor.not_before().to_string(), "2020-01-01T00:00:00Z");
            assert_eq!(anchor.not_after().to_string(), "2039-12-31T23:59:59Z");
        }
    }

    #[test]
    fn what_is_not_one_certificate_is_refused_by_name() {
        let pair = pair();
        let pem = String::from_utf8(pair.certificate_pem()).unwrap();
        let mut trailing = pair.certificate_der();
        trailing.push(0);
        let mut cut = pair.certificate_der();
        cut.pop();
        let encrypted = pem.replacen("-----\n", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-CBC,00\n\n", 1);
        let rows: [(Vec<u8>, AnchorError); 11] = [
            (Vec::new(), AnchorError::Empty),
            (vec![0; 10], AnchorError::NotACertificate),
            (vec![0xff; 10], AnchorError::NotACertificate),
            (pair.key_pem(), AnchorError::NotACertificate),
            (pem.repeat(2).into_bytes(), AnchorError::SeveralCertificates { found: 2 }),
            (pem.replace("END", "END OF").into_bytes(), AnchorError::Malformed),
            (pem.replacen('M', "!", 1).into_bytes(), AnchorError::Malformed),
            (encrypted.into_bytes(), AnchorError::Malformed),
            (trailing, AnchorError::Malformed),
            (cut, AnchorError::Malformed),
            (
                vec![b' '; MAXIMUM_CERTIFICATE_FILE + 1],
                AnchorError::TooLarge {
                    limit: MAXIMUM_CERTIFICATE_FILE,
                    found: MAXIMUM_CERTIFICATE_FILE + 1,
                },
            ),
        ];
        for (bytes, error) in rows {
            let found = TrustAnchor::from_pem("a.crt", &bytes).unwrap_err();
            assert_eq!(found, error, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn the_same_certificate_counts_once_and_is_found_by_its_fingerprint() {
        let pair = pair();
        let anchor = TrustAnchor::from_pem("a.crt", &pair.certificate_pem()).unwrap();
        let again = TrustAnchor::from_pem("b.crt", &pair.certificate_der()).unwrap();
        let anchors = TrustAnchors::new(vec![anchor, again]);
        assert_eq!(anchors.iter().map(TrustAnchor::name).collect::<Vec<_>>(), ["a.crt"]);
        assert!(anchors.by_fingerprint(&Fingerprint::from_bytes(pair.fingerprint())).is_some());
        assert!(anchors.by_fingerprint(&Fingerprint::from_bytes([0; 32])).is_none());
        assert!(TrustAnchors::default().is_empty() && !anchors.is_empty());
    }

    #[test]
    fn times_print_as_dates() {
        let rows = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ];
        for (seconds, text) in rows {
            assert_eq!(CertificateTime(seconds).to_string(), text);
        }
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(7);
        assert_eq!(CertificateTime::from(before).unix_seconds(), -7);
    }
}
