//! What dm-crypt must be told for a volume, from its header, and the line in which the kernel shows what it was told
//! (the kernel's `Documentation/admin-guide/device-mapper/dm-crypt.rst`).

use std::fmt;

use super::{IntegritySuperblock, Luks2Metadata, LuksHeader};

/// How long a sector of the device mapper is, in bytes.
const SECTOR: u64 = 512;

/// How the data of a volume is mapped, as its header has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The cipher in the spelling of dm-crypt.
    pub cipher: String,
    /// Where the data begins in the partition, in sectors of 512 bytes.
    pub offset: u64,
    /// What is added to the number of a sector for its initialisation vector.
    pub iv_offset: u64,
    /// The unit of encryption in bytes.
    pub sector_size: u32,
    /// The length in bytes of the tag of every sector, which dm-integrity keeps between dm-crypt and the partition;
    /// `None` where there is none.
    pub tag_size: Option<u32>,
    /// The length of the data in sectors of 512 bytes; `None` for all that the partition has.
    pub sectors: Option<u64>,
}

/// A header does not say how its data is to be mapped, in words that are known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The cipher has bytes that no cipher has; the device mapper would take some of them for the end of the word.
    #[error("expected a cipher of letters, digits and '-:(),_.', found '{}'", .found.escape_debug())]
    Cipher {
        /// What the header says.
        found: String,
    },
    /// The authentication is none that is known.
    #[error(
        "expected integrity 'hmac(sha1|sha256|sha512)', 'cmac(aes)', 'poly1305' or 'aead', found '{}' with cipher '{}'",
        .found.escape_debug(), .cipher.escape_debug()
    )]
    Integrity {
        /// What the header says.
        found: String,
        /// The cipher that it goes with.
        cipher: String,
    },
    /// The journal of the authentication is protected by keys of its own.
    #[error("expected an integrity journal that is neither encrypted nor authenticated, found '{}'", .found.escape_debug())]
    Journal {
        /// What the header says.
        found: String,
    },
    /// A number is not one, or not one that a mapping can have.
    #[error("expected {expected} in the segment of a LUKS2 header, found '{}'", .found.escape_debug())]
    Number {
        /// What it should have been.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Not one encrypted segment alone.
    #[error("expected one segment of type 'crypt', without flags, in a LUKS2 header, found {found}")]
    Segments {
        /// What is there.
        found: String,
    },
}

impl Mapping {
    /// How the data of the volume with this header, and this metadata if it is of version 2, is to be mapped.
    ///
    /// # Errors
    /// A [`MappingError`] for what only a volume has that is being encrypted anew, or that this program does not know.
    pub fn of(header: &LuksHeader, metadata: Option<&Luks2Metadata>) -> Result<Self, MappingError> {
        match header {
            LuksHeader::Luks1(header) => Ok(Self {
                cipher: spelled(format!("{}-{}", header.cipher_name, header.cipher_mode))?,
                offset: header.payload.bytes() / SECTOR,
                iv_offset: 0,
                sector_size: 512,
                tag_size: None,
                sectors: None,
            }),
            LuksHeader::Luks2(_) => {
                let segments = metadata.map_or(&[][..], |metadata| &metadata.segments);
                Self::of_segments(segments)
            }
        }
    }

    fn of_segments(segments: &[super::Luks2Segment]) -> Result<Self, MappingError> {
        let [segment] = segments else {
            return Err(MappingError::Segments { found: format!("{} segments", segments.len()) });
        };
        let (true, true, Some(encryption)) =
            (segment.kind == "crypt", segment.flags.is_empty(), &segment.encryption)
        else {
            let flags = segment.flags.join(", ");
            return Err(MappingError::Segments {
                found: format!("type '{}' and flags '{flags}'", segment.kind),
            });
        };
        let sectors = |text: &str, expected| {
            let bytes = text.parse::<u64>().ok().filter(|bytes| bytes.is_multiple_of(SECTOR));
            let wrong = || MappingError::Number { expected, found: text.to_owned() };
            bytes.map(|bytes| bytes / SECTOR).ok_or_else(wrong)
        };
        let iv_tweak = segment.iv_tweak.as_deref().unwrap_or("0");
        let sector_size = segment.sector_size.unwrap_or(SECTOR);
        let valid = sector_size.is_power_of_two() && (SECTOR..=4096).contains(&sector_size);
        let wrong_size = || MappingError::Number {
            expected: "a power of two from 512 to 4096 as the sector size",
            found: sector_size.to_string(),
        };
        if let Some(found) = &segment.journal_protection {
            return Err(MappingError::Journal { found: found.clone() });
        }
        let (cipher, tag_size) = match segment.integrity.as_deref().filter(|_| segment.has_integrity()) {
            None => (encryption.clone(), None),
            Some(integrity) => {
                let (cipher, tag_size) = authenticated(encryption, integrity)?;
                (cipher, Some(tag_size))
            }
        };
        Ok(Self {
            cipher: spelled(cipher)?,
            tag_size,
            offset: sectors(&segment.offset, "whole sectors as the offset")?,
            iv_offset: iv_tweak.parse().map_err(|_| MappingError::Number {
                expected: "a number as the IV tweak",
                found: iv_tweak.to_owned(),
            })?,
            sector_size: u32::try_from(sector_size).ok().filter(|_| valid).ok_or_else(wrong_size)?,
            sectors: match segment.size.as_str() {
                "dynamic" => None,
                size => Some(sectors(size, "whole sectors, or 'dynamic', as the size")?),
            },
        })
    }
}

/// A cipher that is one word of a table, whoever reads it.
fn spelled(cipher: String) -> Result<String, MappingError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-:(),_.".contains(&byte);
    if !cipher.is_empty() && cipher.len() <= 128 && cipher.bytes().all(known) {
        return Ok(cipher);
    }
    Err(MappingError::Cipher { found: cipher })
}

/// The cipher in the spelling of the kernel's crypto API, in which alone dm-crypt takes an authentication, and how long
/// its tag is: the full length, and 16 bytes more where the initialisation vector is random and kept beside it.
fn authenticated(encryption: &str, integrity: &str) -> Result<(String, u32), MappingError> {
    let unknown = || MappingError::Integrity { found: integrity.to_owned(), cipher: encryption.to_owned() };
    let mut parts = encryption.splitn(3, '-');
    let (cipher, second, third) = (parts.next(), parts.next(), parts.next());
    let (Some(cipher), Some(second)) = (cipher, second) else { return Err(unknown()) };
    let (name, tag, iv) = match (integrity, third) {
        ("poly1305", None) => (format!("capi:rfc7539({cipher},poly1305)-{second}"), 16, second),
        ("aead", Some(iv)) => (format!("capi:{second}({cipher})-{iv}"), 16, iv),
        (_, Some(iv)) => {
            let tag = match integrity {
                "cmac(aes)" => 16,
                "hmac(sha1)" => 20,
                "hmac(sha256)" => 32,
                "hmac(sha512)" => 64,
                _ => return Err(unknown()),
            };
            (format!("capi:authenc({integrity},{second}({cipher}))-{iv}"), tag, iv)
        }
        _ => return Err(unknown()),
    };
    Ok((name, if iv == "random" { tag + 16 } else { tag }))
}

impl Mapping {
    /// The length of the device that shows the data, in sectors of 512 bytes, if the partition has `available` bytes:
    /// whole units of encryption. `None` where there is not room for one, or not for what the header says.
    #[must_use]
    pub fn length(&self, available: u64) -> Option<u64> {
        let behind = (available / SECTOR).checked_sub(self.offset)?;
        let unit = u64::from(self.sector_size) / SECTOR;
        let whole = behind.checked_div(unit)?.checked_mul(unit)?;
        match self.sectors {
            Some(sectors) => (sectors > 0 && sectors <= whole).then_some(sectors),
            None => (whole > 0).then_some(whole),
        }
    }

    /// The parameters of dm-crypt. `key` is how it finds the key, as one word; `device` is the device below, as
    /// `major:minor`: that of dm-integrity where there is a tag.
    #[must_use]
    pub fn crypt_parameters(&self, key: &CryptKey, device: &str, allow_discards: bool) -> String {
        let mut options = Vec::new();
        if allow_discards {
            options.push("allow_discards".to_owned());
        }
        if let Some(tag_size) = self.tag_size {
            options.push(format!("integrity:{tag_size}:aead"));
        }
        if self.sector_size != 512 {
            options.push(format!("sector_size:{}", self.sector_size));
        }
        let mut line =
            format!("{} {key} {} {device} {}", self.cipher, self.iv_offset, self.offset_in_device());
        if !options.is_empty() {
            line.push_str(&format!(" {} {}", options.len(), options.join(" ")));
        }
        line
    }

    /// The parameters of dm-integrity, if its superblock fits the header; `None` where the header has no tags.
    ///
    /// # Errors
    /// The field in which the superblock does not fit.
    pub fn integrity_parameters(
        &self,
        superblock: &IntegritySuperblock,
        device: &str,
    ) -> Result<Option<String>, CryptTableDiffers> {
        let Some(tag_size) = self.tag_size else { return Ok(None) };
        compare("tag size", &tag_size, &superblock.tag_size)?;
        compare("block size", &self.sector_size, &superblock.block_size)?;
        Ok(Some(format!("{device} {} {tag_size} J 1 block_size:{}", self.offset, self.sector_size)))
    }

    /// Under integrity the data lies in the device of dm-integrity from its beginning on.
    const fn offset_in_device(&self) -> u64 {
        if self.tag_size.is_some() { 0 } else { self.offset }
    }
}

/// How dm-crypt finds the key: in a keyring of whoever loads the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptKey {
    length: usize,
    description: String,
}

impl CryptKey {
    /// A key of type `user` and `length` bytes; `None` where the description is not one word.
    #[must_use]
    pub fn user(description: &str, length: usize) -> Option<Self> {
        let valid = !description.is_empty() && description.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| Self { length, description: description.to_owned() })
    }
}

impl fmt::Display for CryptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ":{}:user:{}", self.length, self.description)
    }
}

/// A line of dm-crypt as the kernel shows it, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptTable {
    /// The cipher.
    pub cipher: String,
    /// What is added to the number of a sector for its initialisation vector.
    pub iv_offset: u64,
    /// The device below, as `major:minor`.
    pub device: String,
    /// Where the data begins in it, in sectors of 512 bytes.
    pub offset: u64,
    /// The unit of encryption in bytes.
    pub sector_size: u32,
    /// The length in bytes of the tag that the device below keeps for every sector; 0 for none.
    pub tag_size: u32,
    /// Whether discards are passed on: that shows which sectors are in use.
    pub allow_discards: bool,
}

/// The kernel shows a line that no volume of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a dm-crypt table of cipher, key, IV offset, device, offset and options, found another")]
pub struct CryptTableError;

impl CryptTable {
    /// Reads the parameters of a `crypt` target. The key, which may stand there in full, is passed over.
    ///
    /// # Errors
    /// [`CryptTableError`].
    pub fn parse(parameters: &str) -> Result<Self, CryptTableError> {
        let mut words = parameters.split_ascii_whitespace();
        let mut word = || words.next().ok_or(CryptTableError);
        let (cipher, _key) = (word()?, word()?);
        let iv_offset = word()?.parse().map_err(|_| CryptTableError)?;
        let device = word()?;
        let offset = word()?.parse().map_err(|_| CryptTableError)?;
        let mut table = Self {
            cipher: cipher.to_owned(),
            iv_offset,
            device: device.to_owned(),
            offset,
            sector_size: 512,
            tag_size: 0,
            allow_discards: false,
        };
        let count: usize = words.next().map_or(Ok(0), str::parse).map_err(|_| CryptTableError)?;
        let options: Vec<&str> = words.collect();
        if options.len() != count {
            return Err(CryptTableError);
        }
        for option in options {
            match option.split_once(':') {
                Some(("sector_size", size)) => {
                    table.sector_size = size.parse().map_err(|_| CryptTableError)?;
                }
                Some(("integrity", tag)) => {
                    let size = tag.strip_suffix(":aead").ok_or(CryptTableError)?;
                    table.tag_size = size.parse().map_err(|_| CryptTableError)?;
                }
                None if option == "allow_discards" => table.allow_discards = true,
                _ => return Err(CryptTableError),
            }
        }
        Ok(table)
    }

    /// Whether the line maps what the header says; else what it should be, and what it is.
    ///
    /// # Errors
    /// The first field that differs, what was expected and what was found.
    pub fn compare(
        &self,
        mapping: &Mapping,
        device: &str,
        allow_discards: bool,
    ) -> Result<(), CryptTableDiffers> {
        compare("cipher", &mapping.cipher, &self.cipher)?;
        compare("IV offset", &mapping.iv_offset, &self.iv_offset)?;
        compare("device", &device, &self.device.as_str())?;
        compare("offset", &mapping.offset_in_device(), &self.offset)?;
        compare("sector size", &mapping.sector_size, &self.sector_size)?;
        compare("tag size", &mapping.tag_size.unwrap_or(0), &self.tag_size)?;
        compare("discards", &allow_discards, &self.allow_discards)
    }
}

/// The kernel maps something else than the header says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {field} {expected}, found {found}")]
pub struct CryptTableDiffers {
    /// What differs.
    pub field: &'static str,
    /// What the header says.
    pub expected: String,
    /// What the kernel has.
    pub found: String,
}

fn compare<T: PartialEq + fmt::Display>(
    field: &'static str,
    expected: &T,
    found: &T,
) -> Result<(), CryptTableDiffers> {
    if expected == found {
        return Ok(());
    }
    Err(CryptTableDiffers { field, expected: expected.to_string(), found: found.to_string() })
}

#[cfg(test)]
mod tests {
    use super::super::Luks2Segment;
    use super::*;

    fn segment() -> Luks2Segment {
        Luks2Segment {
            name: "0".to_owned(),
            kind: "crypt".to_owned(),
            encryption: Some("aes-xts-plain64".to_owned()),
            integrity: None,
            journal_protection: None,
            offset: "16777216".to_owned(),
            size: "dynamic".to_owned(),
            iv_tweak: Some("0".to_owned()),
            sector_size: Some(4096),
            flags: Vec::new(),
        }
    }

    fn refusal(edit: impl FnOnce(&mut Luks2Segment)) -> MappingError {
        let mut segment = segment();
        edit(&mut segment);
        Mapping::of_segments(&[segment]).unwrap_err()
    }

    const LINE: &str = "aes-xts-plain64 :64:logon:cryptsetup:67bd3334-588f-4034-bbc1-49a550b3967f-d0 0 7:0 32768 1 \
        sector_size:4096";

    #[test]
    fn what_the_kernel_shows_of_a_volume_is_what_its_header_says() {
        let mapping = Mapping::of_segments(&[segment()]).unwrap();
        let table = CryptTable::parse(LINE).unwrap();
        assert_eq!(table.compare(&mapping, "7:0", false), Ok(()));
        let plain = CryptTable::parse("aes-xts-plain64 00ff 0 7:0 32768").unwrap();
        assert_eq!((plain.sector_size, plain.tag_size, plain.allow_discards), (512, 0, false));
    }

    #[test]
    fn a_line_that_differs_in_anything_is_told_by_name() {
        let mapping = Mapping::of_segments(&[segment()]).unwrap();
        for (from, to, field) in [
            ("aes-xts-plain64 ", "cipher_null-ecb ", "cipher"),
            ("d0 0 ", "d0 8 ", "IV offset"),
            ("7:0", "7:1", "device"),
            (" 32768 ", " 32760 ", "offset"),
            ("sector_size:4096", "sector_size:512", "sector size"),
            ("1 sector_size:4096", "2 sector_size:4096 integrity:32:aead", "tag size"),
            ("1 sector_size:4096", "2 sector_size:4096 allow_discards", "discards"),
        ] {
            let line = LINE.replace(from, to);
            let differs = CryptTable::parse(&line).unwrap().compare(&mapping, "7:0", false).unwrap_err();
            assert_eq!(differs.field, field, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused() {
        for line in [
            "",
            "aes-xts-plain64 00 0 7:0",
            "aes-xts-plain64 00 x 7:0 1",
            "aes-xts-plain64 00 0 7:0 1 1",
            "aes-xts-plain64 00 0 7:0 1 1 a b",
            "aes-xts-plain64 00 0 7:0 1 1 unknown_option",
        ] {
            assert_eq!(CryptTable::parse(line), Err(CryptTableError), "{line:?}");
        }
    }

    #[test]
    fn authenticated_ciphers_have_the_spelling_of_the_crypto_interface() {
        for (encryption, integrity, expected) in [
            ("aes-xts-plain64", "hmac(sha256)", ("capi:authenc(hmac(sha256),xts(aes))-plain64", 32)),
            ("aes-gcm-random", "aead", ("capi:gcm(aes)-random", 32)),
            ("chacha20-random", "poly1305", ("capi:rfc7539(chacha20,poly1305)-random", 32)),
            ("aes-ctr-random", "cmac(aes)", ("capi:authenc(cmac(aes),ctr(aes))-random", 32)),
        ] {
            let (cipher, tag_size) = authenticated(encryption, integrity).unwrap();
            assert_eq!((cipher.as_str(), tag_size), expected);
        }
        for (encryption, integrity) in
            [("aes-xts-plain64", "hmac(digest_null)"), ("aes", "aead"), ("aes-xts-plain64", "crc32c")]
        {
            assert!(authenticated(encryption, integrity).is_err(), "{encryption} {integrity}");
        }
    }

    #[test]
    fn what_is_loaded_reads_back_as_what_was_meant() {
        let key = CryptKey::user("ddictl:1-0", 96).unwrap();
        assert_eq!(CryptKey::user("a b", 64), None);
        let mut segment = segment();
        for (integrity, discards, line) in [
            (None, true, "aes-xts-plain64 :96:user:ddictl:1-0 0 7:0 32768 2 allow_discards sector_size:4096"),
            (
                Some("hmac(sha256)"),
                false,
                "capi:authenc(hmac(sha256),xts(aes))-plain64 :96:user:ddictl:1-0 0 7:0 0 2 integrity:32:aead \
                 sector_size:4096",
            ),
        ] {
            segment.integrity = integrity.map(str::to_owned);
            let mapping = Mapping::of_segments(std::slice::from_ref(&segment)).unwrap();
            let parameters = mapping.crypt_parameters(&key, "7:0", discards);
            assert_eq!(parameters, line);
            let read_back = CryptTable::parse(&parameters).unwrap();
            assert_eq!(read_back.compare(&mapping, "7:0", discards), Ok(()));
            assert_eq!(mapping.length((32768 + 9) * 512), Some(8));
            assert_eq!(mapping.length((32768 + 7) * 512), None);
        }
    }

    #[test]
    fn a_superblock_of_another_integrity_is_not_mapped() {
        let with = |integrity: Option<&str>| {
            let integrity = integrity.map(str::to_owned);
            Mapping::of_segments(&[Luks2Segment { integrity, ..segment() }]).unwrap()
        };
        let superblock = IntegritySuperblock { tag_size: 32, block_size: 4096, sectors: 8 };
        assert_eq!(with(None).integrity_parameters(&superblock, "7:0"), Ok(None));
        let mapping = with(Some("hmac(sha256)"));
        let parameters = mapping.integrity_parameters(&superblock, "7:0").unwrap().unwrap();
        assert_eq!(parameters, "7:0 32768 32 J 1 block_size:4096");
        // A tag that is cut off is a tag that is easier to guess.
        let short = IntegritySuperblock { tag_size: 4, ..superblock };
        assert_eq!(mapping.integrity_parameters(&short, "7:0").unwrap_err().field, "tag size");
        let other = IntegritySuperblock { block_size: 512, ..superblock };
        assert_eq!(mapping.integrity_parameters(&other, "7:0").unwrap_err().field, "block size");
    }

    #[test]
    fn a_segment_that_is_not_plainly_encrypted_is_refused() {
        assert_eq!(
            Mapping::of_segments(&[segment(), segment()]),
            Err(MappingError::Segments { found: "2 segments".to_owned() })
        );
        assert!(matches!(Mapping::of_segments(&[]), Err(MappingError::Segments { .. })));
        assert!(matches!(refusal(|s| s.kind = "linear".to_owned()), MappingError::Segments { .. }));
        assert!(matches!(refusal(|s| s.encryption = None), MappingError::Segments { .. }));
        assert!(matches!(
            refusal(|s| s.flags = vec!["backup-final".to_owned()]),
            MappingError::Segments { .. }
        ));
        for cipher in ["aes-xts-plain64 0 0", "aes\\ ", "", &"x".repeat(129), "aes\n"] {
            let refused = refusal(|s| s.encryption = Some(cipher.to_owned()));
            assert_eq!(refused, MappingError::Cipher { found: cipher.to_owned() });
        }
        let journal = refusal(|s| s.journal_protection = Some("hmac(sha256)".to_owned()));
        assert!(matches!(journal, MappingError::Journal { .. }));
        assert!(matches!(refusal(|s| s.sector_size = Some(8192)), MappingError::Number { .. }));
        assert!(matches!(refusal(|s| s.offset = "1".to_owned()), MappingError::Number { .. }));
        assert!(matches!(refusal(|s| s.size = "-1".to_owned()), MappingError::Number { .. }));
        assert!(matches!(refusal(|s| s.iv_tweak = Some("x".to_owned())), MappingError::Number { .. }));
        assert!(matches!(
            refusal(|s| s.integrity = Some("hmac(digest_null)".to_owned())),
            MappingError::Integrity { .. }
        ));
    }
}
