//! The JSON metadata of LUKS2: segments, key slots and tokens (specification, chapter 3).

use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::{LuksError, is_null_cipher};

/// What the metadata of a header of version 2 says about how the data is protected, as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks2Metadata {
    /// The parts of the data, in the order of their names.
    pub segments: Vec<Luks2Segment>,
    /// The key slots, in the order of their names.
    pub key_slots: Vec<Luks2KeySlot>,
    /// The types of the tokens, such as `systemd-tpm2`: each names a plug-in that would be loaded to open the volume.
    pub token_types: Vec<String>,
    /// What keys are checked with, in the order of their names.
    pub digests: Vec<Luks2Digest>,
    /// What a reader must support to open the volume, such as `online-reencrypt`.
    pub requirements: Vec<String>,
}

/// What a key is checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks2Digest {
    /// The name.
    pub name: String,
    /// `pbkdf2`.
    pub kind: String,
    /// The number of iterations.
    pub iterations: Option<u64>,
    /// The names of the key slots whose key it checks.
    pub key_slots: Vec<String>,
    /// The names of the segments that the key is for.
    pub segments: Vec<String>,
}

/// A part of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks2Segment {
    /// The name.
    pub name: String,
    /// `crypt`, or `linear` for what is not encrypted.
    pub kind: String,
    /// The cipher in the spelling of dm-crypt, such as `aes-xts-plain64`; `None` where there is none.
    pub encryption: Option<String>,
    /// The authentication, such as `hmac(sha256)`; `None` where there is none.
    pub integrity: Option<String>,
    /// How the journal of the authentication is itself encrypted or authenticated, such as `hmac(sha256)`; `None` where
    /// it is not.
    pub journal_protection: Option<String>,
    /// Where it begins, relative to the partition, as decimal text.
    pub offset: String,
    /// How long it is: decimal text, or `dynamic` for the rest of the partition.
    pub size: String,
    /// What is added to the number of a sector for its initialisation vector, as decimal text.
    pub iv_tweak: Option<String>,
    /// The unit of encryption in bytes.
    pub sector_size: Option<u64>,
    /// What is special about it, such as `in-reencryption` or `backup-final`.
    pub flags: Vec<String>,
}

impl Luks2Segment {
    /// Whether the data is not encrypted at all.
    #[must_use]
    pub fn is_null_cipher(&self) -> bool {
        self.kind != "crypt" || self.encryption.as_deref().is_none_or(is_null_cipher)
    }

    /// Whether a change of the data is noticed.
    #[must_use]
    pub fn has_integrity(&self) -> bool {
        self.integrity.as_deref().is_some_and(|integrity| integrity != "none")
    }
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks2KeySlot {
    /// The name.
    pub name: String,
    /// `luks2`, or `reencrypt`.
    pub kind: String,
    /// The cipher of the key's own area; `None` where there is none.
    pub encryption: Option<String>,
    /// How a key is made of a passphrase; `None` where it is not.
    pub key_derivation: Option<KeyDerivation>,
    /// Whether it is tried at all: its priority is not 0, 'ignore'.
    pub is_tried: bool,
    /// Where the key's own area lies, relative to the partition; `None` where that is not said in numbers that fit.
    pub area: Option<Extent>,
}

impl Luks2KeySlot {
    /// Whether the key itself is not encrypted (CVE-2025-58356).
    #[must_use]
    pub fn is_null_cipher(&self) -> bool {
        self.encryption.as_deref().is_none_or(is_null_cipher)
    }
}

/// How a key is made of a passphrase, and what that costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDerivation {
    /// `argon2id`, `argon2i` or `pbkdf2`.
    pub kind: String,
    /// The memory that is needed, in KiB; for Argon2.
    pub memory_kib: Option<u64>,
    /// The number of passes; for Argon2.
    pub time: Option<u64>,
    /// The number of threads; for Argon2.
    pub cpus: Option<u64>,
    /// The number of iterations; for PBKDF2.
    pub iterations: Option<u64>,
}

/// A NUL inside a JSON string. There is no other spelling of it.
const ESCAPED_NUL: &[u8] = br"\u0000";

impl Luks2Metadata {
    /// The most that is read: systemd's limit, four times what the largest header has.
    pub const MAX: u64 = 16 << 20;
    /// The most values that are read: 32 key slots and 32 tokens, the most there can be, take a tenth of it.
    pub const MAXIMUM_VALUES: usize = 16 << 10;

    /// The metadata that a JSON area holds: one object, then NULs.
    ///
    /// # Errors
    /// A [`LuksError`].
    pub fn parse_json(area: &[u8]) -> Result<Self, LuksError> {
        let found = ByteLength::of(area);
        if found.bytes() > Self::MAX {
            return Err(LuksError::MetadataTooLarge { found });
        }
        let end = area.iter().position(|byte| *byte == 0).unwrap_or(area.len());
        let (text, behind) = area.split_at(end);
        if behind.iter().any(|byte| *byte != 0) {
            return Err(LuksError::BytesBehindMetadata);
        }
        // The name of a member would end there for libcryptsetup, and be that of another one, which was judged already.
        if text.windows(ESCAPED_NUL.len()).any(|window| window == ESCAPED_NUL) {
            return Err(LuksError::NulInMetadata);
        }
        // Every value but the first stands behind one of these.
        let found = text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
        if found > Self::MAXIMUM_VALUES {
            return Err(LuksError::TooManyValues { found });
        }
        let value: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| LuksError::Syntax { message: error.to_string() })?;
        let root = Member { value: &value, path: "metadata".to_owned() };
        let requirements = match root.get("config").and_then(|config| config.get("requirements")) {
            None => Vec::new(),
            Some(requirements) => requirements.required("mandatory")?.strings()?,
        };
        let digests = match root.get("digests") {
            None => Vec::new(),
            Some(digests) => digests.members()?.iter().map(Luks2Digest::read).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            digests,
            segments: root
                .required("segments")?
                .members()?
                .iter()
                .map(Luks2Segment::read)
                .collect::<Result<_, _>>()?,
            key_slots: root
                .required("keyslots")?
                .members()?
                .iter()
                .map(Luks2KeySlot::read)
                .collect::<Result<_, _>>()?,
            token_types: root
                .required("tokens")?
                .members()?
                .iter()
                .map(|token| token.required("type")?.string())
                .collect::<Result<_, _>>()?,
            requirements,
        })
    }

    /// The key slots that are tried for the data: bound to a segment by a digest, and not to be ignored.
    pub fn usable_key_slots(&self) -> impl Iterator<Item = &Luks2KeySlot> {
        let bound = |slot: &&Luks2KeySlot| {
            self.digests
                .iter()
                .any(|digest| !digest.segments.is_empty() && digest.key_slots.contains(&slot.name))
        };
        self.key_slots.iter().filter(|slot| slot.is_tried).filter(bound)
    }

    /// Whether a change of any of the data is noticed.
    #[must_use]
    pub fn has_integrity(&self) -> bool {
        !self.segments.is_empty() && self.segments.iter().all(Luks2Segment::has_integrity)
    }

    /// Whether some of the data is not encrypted at all.
    #[must_use]
    pub fn has_null_cipher(&self) -> bool {
        self.segments.iter().any(Luks2Segment::is_null_cipher)
    }
}

impl Luks2Segment {
    fn read(member: &Member<'_>) -> Result<Self, LuksError> {
        let integrity = member.get("integrity");
        let mut journal_protection = None;
        for key in ["journal_encryption", "journal_integrity"] {
            let value = integrity.as_ref().and_then(|integrity| integrity.get(key));
            let value = value.map(|value| value.string()).transpose()?;
            journal_protection = journal_protection.or(value.filter(|value| value != "none"));
        }
        Ok(Self {
            journal_protection,
            name: member.name(),
            kind: member.required("type")?.string()?,
            encryption: member.get("encryption").map(|cipher| cipher.string()).transpose()?,
            integrity: match integrity {
                None => None,
                Some(integrity) => Some(integrity.required("type")?.string()?),
            },
            offset: member.required("offset")?.string()?,
            size: member.required("size")?.string()?,
            iv_tweak: member.get("iv_tweak").map(|tweak| tweak.string()).transpose()?,
            sector_size: member.number("sector_size")?,
            flags: member.get("flags").map(|flags| flags.strings()).transpose()?.unwrap_or_default(),
        })
    }
}

impl Luks2Digest {
    fn read(member: &Member<'_>) -> Result<Self, LuksError> {
        Ok(Self {
            name: member.name(),
            kind: member.required("type")?.string()?,
            iterations: member.number("iterations")?,
            key_slots: member.get("keyslots").map(|names| names.strings()).transpose()?.unwrap_or_default(),
            segments: member.get("segments").map(|names| names.strings()).transpose()?.unwrap_or_default(),
        })
    }
}

impl Luks2KeySlot {
    fn read(member: &Member<'_>) -> Result<Self, LuksError> {
        let key_derivation = match member.get("kdf") {
            None => None,
            Some(kdf) => Some(KeyDerivation {
                kind: kdf.required("type")?.string()?,
                memory_kib: kdf.number("memory")?,
                time: kdf.number("time")?,
                cpus: kdf.number("cpus")?,
                iterations: kdf.number("iterations")?,
            }),
        };
        let area = member.required("area")?;
        Ok(Self {
            name: member.name(),
            kind: member.required("type")?.string()?,
            encryption: area.get("encryption").map(|cipher| cipher.string()).transpose()?,
            key_derivation,
            is_tried: member.number("priority")? != Some(0),
            area: decimal(&area, "offset")?
                .zip(decimal(&area, "size")?)
                .and_then(|(offset, size)| Extent::new(ByteOffset::new(offset), ByteLength::new(size))),
        })
    }
}

/// A number that stands there as decimal text (specification, section 3.1: 64-bit numbers are strings); `None` where
/// there is none, or no such text.
fn decimal(parent: &Member<'_>, key: &str) -> Result<Option<u64>, LuksError> {
    Ok(parent.get(key).map(|member| member.string()).transpose()?.and_then(|text| text.parse().ok()))
}

/// A value of the metadata and where it stands.
struct Member<'a> {
    value: &'a serde_json::Value,
    path: String,
}

impl<'a> Member<'a> {
    fn wrong(&self, expected: &'static str) -> LuksError {
        LuksError::Structure { path: self.path.clone(), expected }
    }

    fn name(&self) -> String {
        self.path.rsplit('.').next().unwrap_or_default().to_owned()
    }

    fn get(&self, key: &str) -> Option<Self> {
        Some(Self { value: self.value.get(key)?, path: format!("{}.{key}", self.path) })
    }

    fn required(&self, key: &str) -> Result<Self, LuksError> {
        self.get(key).ok_or_else(|| LuksError::Structure {
            path: format!("{}.{key}", self.path),
            expected: "a member",
        })
    }

    fn members(&self) -> Result<Vec<Self>, LuksError> {
        let object = self.value.as_object().ok_or_else(|| self.wrong("an object"))?;
        Ok(object.iter().map(|(key, value)| Self { value, path: format!("{}.{key}", self.path) }).collect())
    }

    fn string(&self) -> Result<String, LuksError> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.wrong("a string"))
    }

    fn strings(&self) -> Result<Vec<String>, LuksError> {
        let array = self.value.as_array().ok_or_else(|| self.wrong("an array"))?;
        array.iter().map(|value| Self { value, path: self.path.clone() }.string()).collect()
    }

    fn number(&self, key: &str) -> Result<Option<u64>, LuksError> {
        self.get(key).map(|member| member.value.as_u64().ok_or_else(|| member.wrong("a number"))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::header;
    use super::*;
    use crate::format::superblock::tests::Fixture;

    /// The JSON area of a fixture as text.
    fn json(fixture: &Fixture) -> String {
        let area = fixture.all(header(fixture).json_extent());
        String::from_utf8(area).unwrap().trim_end_matches('\0').to_owned()
    }

    fn refusal(text: &str) -> LuksError {
        Luks2Metadata::parse_json(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn ciphers_and_key_derivation_are_told() {
        let fixture = Fixture::load("luks2");
        let metadata = Luks2Metadata::parse_json(json(&fixture).as_bytes()).unwrap();
        let [segment] = metadata.segments.as_slice() else { panic!("{metadata:?}") };
        assert_eq!(segment.encryption.as_deref(), Some("aes-xts-plain64"));
        assert_eq!((segment.name.as_str(), segment.size.as_str()), ("0", "dynamic"));
        assert!(!metadata.has_integrity() && !metadata.has_null_cipher());
        let [slot] = metadata.key_slots.as_slice() else { panic!("{metadata:?}") };
        let kdf = slot.key_derivation.as_ref().unwrap();
        assert_eq!((kdf.kind.as_str(), kdf.memory_kib, kdf.time), ("argon2id", Some(1024), Some(4)));
        assert_eq!(slot.encryption.as_deref(), Some("aes-xts-plain64"));
        assert!(metadata.token_types.is_empty() && metadata.requirements.is_empty());
    }

    #[test]
    fn a_member_whose_name_ends_early_for_c_is_refused() {
        let text = json(&Fixture::load("luks2"));
        let cipher = r#""encryption":"aes-xts-plain64""#;
        assert!(text.contains(cipher), "{text}");
        // cryptsetup 2.6 shows the cipher of this key slot as 'cipher_null-ecb'.
        let hidden = text.replacen(cipher, &format!(r#"{cipher},"encryption\u0000":"cipher_null-ecb""#), 1);
        assert_eq!(refusal(&hidden), LuksError::NulInMetadata);
        assert_eq!(refusal(&text.replacen("aes-xts", "aes-xts\\u0000", 1)), LuksError::NulInMetadata);
    }

    #[test]
    fn pbkdf2_has_iterations_and_no_memory() {
        let fixture = Fixture::load("luks2-pbkdf2");
        assert_eq!(header(&fixture).label, "name");
        let metadata = Luks2Metadata::parse_json(json(&fixture).as_bytes()).unwrap();
        let kdf = metadata.key_slots[0].key_derivation.as_ref().unwrap();
        assert_eq!((kdf.kind.as_str(), kdf.memory_kib, kdf.iterations), ("pbkdf2", None, Some(1000)));
    }

    #[test]
    fn integrity_must_be_in_every_segment_and_no_cipher_may_be_null() {
        let plain = r#""type":"crypt","offset":"0","size":"dynamic","encryption":"aes-xts-plain64""#;
        let metadata = |segments: &str, tokens: &str| {
            let text = format!(r#"{{"segments":{{{segments}}},"keyslots":{{}},"tokens":{{{tokens}}}}}"#);
            Luks2Metadata::parse_json(text.as_bytes()).unwrap()
        };
        let good = format!(r#""0":{{{plain},"integrity":{{"type":"hmac(sha256)"}}}}"#);
        assert!(metadata(&good, "").has_integrity());
        assert!(!metadata(&format!(r#"{good},"1":{{{plain}}}"#), "").has_integrity());
        assert!(!metadata(&good.replace("hmac(sha256)", "none"), "").has_integrity());
        assert!(!metadata("", "").has_integrity());
        for cipher in ["cipher_null-ecb", "cipher_null", "capi:ecb(cipher_null)", "null"] {
            assert!(metadata(&good.replace("aes-xts-plain64", cipher), "").has_null_cipher(), "{cipher}");
        }
        assert!(metadata(&good.replace("crypt", "linear"), "").has_null_cipher());
        assert!(metadata(r#""0":{"type":"crypt","offset":"0","size":"1"}"#, "").has_null_cipher());
        let tokens =
            metadata(&good, r#""0":{"type":"systemd-tpm2","keyslots":[]},"1":{"type":"x"}"#).token_types;
        assert_eq!(tokens, ["systemd-tpm2", "x"]);
    }

    #[test]
    fn metadata_that_is_not_as_specified_is_refused_by_name() {
        let structure = |path: &str, expected| LuksError::Structure { path: path.to_owned(), expected };
        assert!(matches!(refusal(""), LuksError::Syntax { .. }));
        assert!(matches!(refusal("{} {}"), LuksError::Syntax { .. }));
        assert!(matches!(refusal(&"[".repeat(10_000)), LuksError::Syntax { .. }));
        let found = 1 << 20;
        for many in ["[", "{", ",0"] {
            assert_eq!(refusal(&many.repeat(found)), LuksError::TooManyValues { found });
        }
        assert_eq!(refusal("{}\0x"), LuksError::BytesBehindMetadata);
        assert_eq!(refusal("[]"), structure("metadata.segments", "a member"));
        assert_eq!(refusal(r#"{"segments":[]}"#), structure("metadata.segments", "an object"));
        assert_eq!(
            refusal(r#"{"segments":{"0":{"type":"crypt","integrity":{}}}}"#),
            structure("metadata.segments.0.integrity.type", "a member")
        );
        assert_eq!(
            refusal(r#"{"segments":{"0":{"type":"crypt","encryption":7}}}"#),
            structure("metadata.segments.0.encryption", "a string")
        );
        assert_eq!(
            refusal(
                r#"{"segments":{},"keyslots":{"0":{"type":"luks2","kdf":{"type":"argon2i","memory":-1}}}}"#
            ),
            structure("metadata.keyslots.0.kdf.memory", "a number")
        );
        assert_eq!(
            refusal(r#"{"config":{"requirements":{"mandatory":[1]}}}"#),
            structure("metadata.config.requirements.mandatory", "a string")
        );
        let large = vec![0; (16 << 20) + 1];
        let found = ByteLength::of(&large);
        assert_eq!(Luks2Metadata::parse_json(&large), Err(LuksError::MetadataTooLarge { found }));
    }
}
