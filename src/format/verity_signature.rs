//! The content of a verity signature partition: one JSON object with a root hash and a signature, then NULs
//! (Discoverable Partitions Specification, 'Verity signature partitions').

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::root_hash::{RootHash, RootHashError};
use super::units::ByteLength;

/// What a verity signature partition says. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VeritySignature {
    /// The root hash that was signed: the signature covers its lowercase hexadecimal text.
    pub root_hash: RootHash,
    /// A PKCS#7 `SignedData` in DER, not looked at here; at least one byte.
    pub signature: Vec<u8>,
    /// The SHA-256 of the signer's certificate in DER, where the partition says it.
    pub certificate_fingerprint: Option<[u8; 32]>,
    /// Keys of the object that nobody reads, in the order of the text.
    pub unknown_keys: Vec<String>,
}

/// The bytes are not the content of a verity signature partition.
#[derive(Debug, thiserror::Error)]
pub enum VeritySignatureError {
    /// Something stands behind the NULs.
    #[error("expected NUL bytes to the end, found another one at byte {offset}")]
    BytesBehindNul {
        /// Where the first such byte is.
        offset: usize,
    },
    /// One key stands in the object twice, so that two readers may take different values.
    #[error("expected each key once, found '{}' again", .key.escape_debug())]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// There is nothing but NULs.
    #[error("expected a JSON object, found nothing")]
    Empty,
    /// The signature is an empty string.
    #[error("expected a signature, found an empty one")]
    EmptySignature,
    /// The fingerprint is not 64 lowercase hexadecimal digits.
    #[error("expected 'certificateFingerprint' as 64 lowercase hexadecimal digits, found something else")]
    Fingerprint,
    /// A key is missing.
    #[error("expected the key '{key}', found none")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// The text does not begin with `{` and end with the `}` that belongs to it: not one object, or more than one.
    #[error("expected exactly one JSON object and nothing around it, found something else")]
    NotOneObject,
    /// The value of a key is not a string.
    #[error("expected a string for the key '{key}', found something else")]
    NotString {
        /// The key.
        key: &'static str,
    },
    /// The root hash is none, or is not in the spelling that is signed.
    #[error("reading 'rootHash'")]
    RootHash(#[source] RootHashError),
    /// The signature is not base64 of the standard alphabet with padding and without whitespace.
    #[error("reading 'signature' as base64")]
    Signature(#[source] data_encoding::DecodeError),
    /// Padding stands within the base64 of the signature, where one reader stops and another goes on.
    #[error("expected 'signature' with padding at its end alone, found some within")]
    SignaturePadding,
    /// The object is not JSON.
    #[error("reading the JSON object")]
    Syntax(#[source] serde_json::Error),
    /// There are more bytes than any signature partition has.
    #[error("expected at most {} bytes, found {found}", VeritySignature::MAX)]
    TooLarge {
        /// How many there are.
        found: ByteLength,
    },
    /// There are more values and keys than any signature needs: in memory each takes a hundred times its text.
    #[error("expected at most {MAXIMUM_VALUES} values, found {found}")]
    TooManyValues {
        /// How many there can be.
        found: usize,
    },
}

/// The most values and keys in the object: the three that it has, and those that a later version may add.
const MAXIMUM_VALUES: usize = 1024;

/// The signature cannot be written into a partition of that size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignaturePartitionError {
    /// The size is none that a signature partition may have.
    #[error("expected a multiple of 4096 bytes, at most {}, found {found}", VeritySignature::MAX)]
    Size {
        /// The size asked for.
        found: ByteLength,
    },
    /// The text is longer than the partition.
    #[error("expected a signature partition of at least {expected} bytes, found {found}")]
    TooSmall {
        /// How long the text is.
        expected: ByteLength,
        /// The size asked for.
        found: ByteLength,
    },
}

impl VeritySignature {
    /// The largest partition that is read, in bytes: 4 MiB, systemd's limit, a thousand times what a signature needs.
    pub const MAX: u64 = 4 << 20;

    /// The size that tools make a signature partition: 16 KiB.
    pub const DEFAULT_PARTITION_SIZE: ByteLength = ByteLength::new(16 << 10);

    /// The signature that all the bytes of a partition hold.
    ///
    /// # Errors
    /// A [`VeritySignatureError`], for anything that another reader could take for something else.
    pub fn parse(partition: &[u8]) -> Result<Self, VeritySignatureError> {
        let found = ByteLength::of(partition);
        if found.bytes() > Self::MAX {
            return Err(VeritySignatureError::TooLarge { found });
        }
        let length = partition.iter().position(|byte| *byte == 0).unwrap_or(partition.len());
        let (text, behind) = partition.split_at(length);
        if let Some(distance) = behind.iter().position(|byte| *byte != 0) {
            return Err(VeritySignatureError::BytesBehindNul { offset: length.saturating_add(distance) });
        }
        if text.is_empty() {
            return Err(VeritySignatureError::Empty);
        }
        if !text.starts_with(b"{") || !text.ends_with(b"}") {
            return Err(VeritySignatureError::NotOneObject);
        }
        // Every value but the first stands behind one of these.
        let found = text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
        if found > MAXIMUM_VALUES {
            return Err(VeritySignatureError::TooManyValues { found });
        }
        let mut reader = serde_json::Deserializer::from_slice(text);
        let object = Object::deserialize(&mut reader).map_err(VeritySignatureError::Syntax)?;
        reader.end().map_err(|_| VeritySignatureError::NotOneObject)?;
        object.interpret()
    }

    /// The content of a signature partition of `size` bytes, field by field in the order that tools write.
    ///
    /// # Errors
    /// A [`SignaturePartitionError`].
    pub fn to_partition(&self, size: ByteLength) -> Result<Vec<u8>, SignaturePartitionError> {
        let wrong = SignaturePartitionError::Size { found: size };
        if size.is_zero() || size.bytes() > Self::MAX || !size.bytes().is_multiple_of(4096) {
            return Err(wrong);
        }
        let length = size.in_memory().ok_or(wrong)?;
        let fingerprint = self.certificate_fingerprint.map_or_else(String::new, |fingerprint| {
            format!(r#""certificateFingerprint":"{}","#, data_encoding::HEXLOWER.encode(&fingerprint))
        });
        // Hexadecimal and base64 have nothing that JSON escapes.
        let mut bytes = format!(
            r#"{{"rootHash":"{}",{fingerprint}"signature":"{}"}}"#,
            self.root_hash,
            data_encoding::BASE64.encode(&self.signature)
        )
        .into_bytes();
        if bytes.len() > length {
            return Err(SignaturePartitionError::TooSmall { expected: ByteLength::of(&bytes), found: size });
        }
        bytes.resize(length, 0);
        Ok(bytes)
    }
}

/// The object as it stands in the text, duplicates and all.
#[derive(Default)]
struct Object {
    root_hash: Option<serde_json::Value>,
    signature: Option<serde_json::Value>,
    fingerprint: Option<serde_json::Value>,
    unknown_keys: Vec<String>,
    duplicate: Option<String>,
}

const ROOT_HASH: &str = "rootHash";
const SIGNATURE: &str = "signature";
const FINGERPRINT: &str = "certificateFingerprint";

impl Object {
    fn interpret(self) -> Result<VeritySignature, VeritySignatureError> {
        if let Some(key) = self.duplicate {
            return Err(VeritySignatureError::DuplicateKey { key });
        }
        let root_hash = required(ROOT_HASH, self.root_hash.as_ref())?;
        let root_hash = RootHash::from_lowercase(root_hash).map_err(VeritySignatureError::RootHash)?;
        let signature = required(SIGNATURE, self.signature.as_ref())?;
        // The decoder takes several padded texts in a row for one.
        if signature.find('=').is_some_and(|first| signature.len().saturating_sub(first) > 2) {
            return Err(VeritySignatureError::SignaturePadding);
        }
        let signature =
            data_encoding::BASE64.decode(signature.as_bytes()).map_err(VeritySignatureError::Signature)?;
        if signature.is_empty() {
            return Err(VeritySignatureError::EmptySignature);
        }
        let certificate_fingerprint = match self.fingerprint.as_ref() {
            None => None,
            Some(value) => {
                let text = required(FINGERPRINT, Some(value))?;
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
                let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                Some(bytes.ok_or(VeritySignatureError::Fingerprint)?)
            }
        };
        Ok(VeritySignature { root_hash, signature, certificate_fingerprint, unknown_keys: self.unknown_keys })
    }
}

/// The string under `key`.
fn required<'a>(
    key: &'static str,
    value: Option<&'a serde_json::Value>,
) -> Result<&'a str, VeritySignatureError> {
    value
        .ok_or(VeritySignatureError::MissingKey { key })?
        .as_str()
        .ok_or(VeritySignatureError::NotString { key })
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                ROOT_HASH => object.root_hash = Some(map.next_value()?),
                SIGNATURE => object.signature = Some(map.next_value()?),
                FINGERPRINT => object.fingerprint = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    object.unknown_keys.push(key.clone());
                }
            }
            if !seen.insert(key.clone()) {
                object.duplicate.get_or_insert(key);
            }
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemd-repart 252 wrote before the NULs.
    const REAL: &str = include_str!("../../tests/data/verity_signature/systemd-repart-252.json");
    const HASH: &str = "52d286ecbba8df4f6999b12335034431c07590da4316fac610dbd821b74c30d7";

    fn padded(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(16 << 10, 0);
        bytes
    }

    fn refusal(text: &str) -> VeritySignatureError {
        VeritySignature::parse(&padded(text)).expect_err(text)
    }

    #[test]
    fn what_systemd_repart_writes_is_read_and_written_alike() {
        let parsed = VeritySignature::parse(&padded(REAL)).unwrap();
        assert_eq!(parsed.root_hash.to_string(), HASH);
        assert_eq!(parsed.signature.first_chunk(), Some(&[0x30, 0x82]));
        assert_eq!(parsed.certificate_fingerprint.unwrap()[..2], [0x2a, 0x1a]);
        assert!(parsed.unknown_keys.is_empty());
        assert_eq!(parsed.to_partition(VeritySignature::DEFAULT_PARTITION_SIZE).unwrap(), padded(REAL));
    }

    #[test]
    fn the_fingerprint_may_be_missing_and_unknown_keys_are_listed() {
        let text = format!(r#"{{ "later": {{"a": [1]}}, "signature": "MAA=", "rootHash": "{HASH}" }}"#);
        let parsed = VeritySignature::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.signature, [0x30, 0]);
        assert_eq!(parsed.certificate_fingerprint, None);
        assert_eq!(parsed.unknown_keys, ["later"]);
        let written = parsed.to_partition(ByteLength::new(4096)).unwrap();
        assert_eq!(written.len(), 4096);
        assert_eq!(VeritySignature::parse(&written).unwrap().signature, [0x30, 0]);
    }

    #[test]
    fn whatever_is_not_one_object_and_nuls_is_refused_by_name() {
        use VeritySignatureError as E;
        for bytes in [&[][..], &[0; 4096]] {
            assert!(matches!(VeritySignature::parse(bytes), Err(E::Empty)));
        }
        let mut hidden = padded(REAL);
        *hidden.last_mut().unwrap() = b'x';
        assert!(matches!(VeritySignature::parse(&hidden), Err(E::BytesBehindNul { offset: 16383 })));
        let second = padded(&format!("{REAL}\0{REAL}"));
        let offset = REAL.len() + 1;
        assert!(
            matches!(VeritySignature::parse(&second), Err(E::BytesBehindNul { offset: found }) if found == offset)
        );
        for text in [
            format!("{REAL}\n"),
            format!(" {REAL}"),
            format!("{REAL}{REAL}"),
            format!("{REAL} {{}}"),
            format!("{REAL}}}"),
            format!("[{REAL}]"),
            "null".to_owned(),
            format!("\u{feff}{REAL}"),
        ] {
            assert!(matches!(refusal(&text), E::NotOneObject), "{text}");
        }
        for text in ["{}}", "{]}", "{\"a\":}", "{'a':1}", "{\"a\":1,}"] {
            assert!(matches!(refusal(text), E::Syntax(_) | E::NotOneObject), "{text}");
        }
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let parse = |text: String| VeritySignature::parse(text.as_bytes());
        assert!(matches!(parse(format!("{{\"signature\":{}}}", deep(1000))), Err(E::Syntax(_))));
        assert!(matches!(
            parse(format!("{{\"unknown\":{}}}", deep(1000))),
            Err(E::MissingKey { key: "rootHash" })
        ));
        for many in [deep(100_000), format!("[0{}]", ",0".repeat(1 << 20)), "[[]".repeat(1 << 20)] {
            assert!(matches!(
                parse(format!("{{\"signature\":{many}}}")),
                Err(E::TooManyValues { found }) if found > 100_000
            ));
        }
        let large = vec![0; (4 << 20) + 1];
        assert!(matches!(VeritySignature::parse(&large), Err(E::TooLarge { .. })));
        assert!(matches!(VeritySignature::parse(&large[1..]), Err(E::Empty)));
    }

    #[test]
    fn keys_that_stand_twice_are_refused_by_name() {
        for twice in [
            format!(r#""rootHash":"{}""#, "00".repeat(32)),
            format!(r#""root\u0048ash":"{HASH}""#),
            r#""signature":"MAA=""#.to_owned(),
            r#""x":1,"x":2"#.to_owned(),
        ] {
            let text = REAL.replacen('{', &format!("{{{twice},"), 1);
            assert!(matches!(refusal(&text), VeritySignatureError::DuplicateKey { .. }), "{text}");
        }
    }

    #[test]
    fn values_that_are_not_what_they_should_be_are_refused_by_name() {
        use VeritySignatureError as E;
        let object = |hash: &str, signature: &str, fingerprint: &str| {
            refusal(&format!(
                r#"{{"rootHash":{hash},"signature":{signature},"certificateFingerprint":{fingerprint}}}"#
            ))
        };
        let hash = format!(r#""{HASH}""#);
        let upper = hash.to_uppercase();
        assert!(matches!(object("1", r#""MAA=""#, &hash), E::NotString { key: "rootHash" }));
        assert!(matches!(object(&hash, "null", &hash), E::NotString { key: "signature" }));
        assert!(matches!(object(&hash, r#""MAA=""#, "null"), E::NotString { key: "certificateFingerprint" }));
        assert!(matches!(object(&upper, r#""MAA=""#, &hash), E::RootHash(RootHashError::NotLowercase)));
        assert!(matches!(
            object(r#""00""#, r#""MAA=""#, &hash),
            E::RootHash(RootHashError::Length { found: 1 })
        ));
        for signature in [r#""MAA""#, r#""MAB=""#, r#""MA A=""#, r#""MA=A""#, r#""\nMAA=""#, r#""-_A=""#] {
            assert!(matches!(object(&hash, signature, &hash), E::Signature(_)), "{signature}");
        }
        for signature in [r#""MAA=MAA=""#, r#""MAA=\n\n""#] {
            assert!(matches!(object(&hash, signature, &hash), E::SignaturePadding), "{signature}");
        }
        assert!(matches!(object(&hash, r#""""#, &hash), E::EmptySignature));
        for fingerprint in [&upper, r#""00""#, r#""""#] {
            assert!(matches!(object(&hash, r#""MAA=""#, fingerprint), E::Fingerprint), "{fingerprint}");
        }
        assert!(matches!(refusal(r#"{"signature":"MAA="}"#), E::MissingKey { key: "rootHash" }));
        assert!(matches!(refusal(&format!(r#"{{"rootHash":{hash}}}"#)), E::MissingKey { key: "signature" }));
    }

    #[test]
    fn partitions_of_a_wrong_size_are_not_written() {
        let signature = VeritySignature::parse(REAL.as_bytes()).unwrap();
        for found in [0, 4095, 4097, 512, (4 << 20) + 4096, u64::MAX].map(ByteLength::new) {
            assert_eq!(signature.to_partition(found), Err(SignaturePartitionError::Size { found }));
        }
        let large = VeritySignature { signature: vec![0; 12 << 10], ..signature };
        let found = VeritySignature::DEFAULT_PARTITION_SIZE;
        assert!(matches!(
            large.to_partition(found),
            Err(SignaturePartitionError::TooSmall { found: size, .. }) if size == found
        ));
    }
}
