//! Extended headers of pax: records about the next member, or about all that follow.

use std::collections::{BTreeMap, BTreeSet};

use super::acl::{self, ACCESS_ACL, DEFAULT_ACL};
use super::member::Timestamp;
use super::path::shown;
use super::sparse::{Segment, decimal, read_list};
use super::{MAXIMUM_SEGMENTS, NAME_MAX, PaxFault, SparseFault, TarError};

/// The most bytes of an extended attribute (`XATTR_SIZE_MAX` of linux/limits.h).
const MAXIMUM_ATTRIBUTE: usize = 65_536;
/// Keywords that say nothing which a tree could hold: names of owners are those of another machine.
const MEANINGLESS: [&str; 15] = [
    "LIBARCHIVE.creationtime",
    "LIBARCHIVE.symlinktype",
    "SCHILY.dev",
    "SCHILY.filetype",
    "SCHILY.ino",
    "SCHILY.nlink",
    "SCHILY.offset",
    "atime",
    "charset",
    "comment",
    "ctime",
    "gname",
    "hdrcharset",
    "uname",
    "SCHILY.tarfiletype",
];
/// How many keywords that are not known are remembered, to be told of.
const MOST_IGNORED: usize = 8;

/// What an extended header says of the member behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PaxRecords {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) user: Option<u64>,
    pub(super) group: Option<u64>,
    pub(super) modified: Option<Timestamp>,
    pub(super) device_major: Option<u64>,
    pub(super) device_minor: Option<u64>,
    pub(super) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: PaxSparse,
    pub(super) ignored: BTreeSet<String>,
}

/// What an extended header says of the holes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// The size with the holes: `GNU.sparse.size` in the forms 0.0 and 0.1, `GNU.sparse.realsize` in 1.0.
    pub(super) size: Option<u64>,
    pub(super) count: Option<u64>,
    pub(super) list: Option<Vec<Segment>>,
    /// Form 0.0: a record for each number.
    pub(super) segments: Vec<Segment>,
    offset: Option<u64>,
}

impl PaxSparse {
    pub(super) fn is_some(&self) -> bool {
        *self != Self::default()
    }
}

/// What was said of all members that follow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GlobalRecords {
    pub(super) user: Option<u64>,
    pub(super) group: Option<u64>,
    pub(super) modified: Option<Timestamp>,
}

impl GlobalRecords {
    /// Takes the records of a further header: what they say counts from here on.
    ///
    /// # Errors
    /// As [`PaxRecords::parse`]; [`PaxFault::Global`] for what can be said of one member alone.
    pub fn add(&mut self, text: &[u8]) -> Result<(), TarError> {
        for record in (Records { rest: text }) {
            let (keyword, value) = record?;
            match keyword {
                "uid" => self.user = number(keyword, value)?,
                "gid" => self.group = number(keyword, value)?,
                "mtime" => self.modified = time(keyword, value)?,
                _ if MEANINGLESS.contains(&keyword) => {}
                _ => return Err(PaxFault::Global { keyword: shown(keyword.as_bytes()) }.into()),
            }
        }
        Ok(())
    }
}

impl PaxRecords {
    /// Reads the contents of an extended header. Of several records with the same keyword the last one counts.
    ///
    /// # Errors
    /// [`TarError::Pax`], [`TarError::Sparse`], [`TarError::AclEntry`].
    pub fn parse(text: &[u8]) -> Result<Self, TarError> {
        let mut records = Self::default();
        for record in (Records { rest: text }) {
            let (keyword, value) = record?;
            records.take(keyword, value)?;
        }
        if records.sparse.offset.is_some() {
            return Err(SparseFault::Form { found: "an offset without a length".to_owned() }.into());
        }
        Ok(records)
    }

    fn take(&mut self, keyword: &str, value: &[u8]) -> Result<(), TarError> {
        let odd = |expected| PaxFault::Value { keyword: keyword.to_owned(), expected, found: shown(value) };
        match keyword {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link_path = Some(value.to_vec()),
            "size" => self.size = number(keyword, value)?,
            "uid" => self.user = number(keyword, value)?,
            "gid" => self.group = number(keyword, value)?,
            "mtime" => self.modified = time(keyword, value)?,
            "SCHILY.devmajor" => self.device_major = number(keyword, value)?,
            "SCHILY.devminor" => self.device_minor = number(keyword, value)?,
            "SCHILY.acl.access" => self.set(ACCESS_ACL.to_vec(), acl::to_attribute(value)?, keyword)?,
            "SCHILY.acl.default" => self.set(DEFAULT_ACL.to_vec(), acl::to_attribute(value)?, keyword)?,
            "RHT.security.selinux" => self.set(b"security.selinux".to_vec(), value.to_vec(), keyword)?,
            "SCHILY.realsize" => return Err(odd("the holes of a file in a form of GNU tar").into()),
            _ => {
                if let Some(name) = keyword.strip_prefix("SCHILY.xattr.") {
                    self.set(name.as_bytes().to_vec(), value.to_vec(), keyword)?;
                } else if let Some(name) = keyword.strip_prefix("LIBARCHIVE.xattr.") {
                    let name = decode_name(name).ok_or_else(|| odd("a name in the form of URLs"))?;
                    let text = value.trim_ascii_end();
                    let unpadded =
                        text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
                    let value =
                        data_encoding::BASE64_NOPAD.decode(unpadded).map_err(|_| odd("a value in base64"))?;
                    self.set(name, value, keyword)?;
                } else if let Some(word) = keyword.strip_prefix("GNU.sparse.") {
                    self.sparse.take(word, value)?;
                } else if !MEANINGLESS.contains(&keyword) && self.ignored.len() < MOST_IGNORED {
                    self.ignored.insert(shown(keyword.as_bytes()));
                }
            }
        }
        Ok(())
    }

    /// Takes an extended attribute.
    fn set(&mut self, name: Vec<u8>, value: Vec<u8>, keyword: &str) -> Result<(), PaxFault> {
        let odd =
            |expected, found| Err(PaxFault::Value { keyword: shown(keyword.as_bytes()), expected, found });
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
            return odd("the name of an extended attribute of at most 255 bytes", shown(&name));
        }
        if value.len() > MAXIMUM_ATTRIBUTE {
            return odd("an extended attribute of at most 65536 bytes", format!("{} bytes", value.len()));
        }
        self.attributes.insert(name, value);
        Ok(())
    }
}

impl PaxSparse {
    fn take(&mut self, word: &str, value: &[u8]) -> Result<(), TarError> {
        match word {
            "major" => self.major = Some(decimal(value)?),
            "minor" => self.minor = Some(decimal(value)?),
            "name" => self.name = Some(value.to_vec()),
            "size" | "realsize" => self.size = Some(decimal(value)?),
            "numblocks" => self.count = Some(decimal(value)?),
            "map" => self.list = Some(read_list(value)?),
            "offset" => {
                if self.offset.replace(decimal(value)?).is_some() {
                    return Err(SparseFault::Form { found: "two offsets in a row".to_owned() }.into());
                }
            }
            "numbytes" => {
                let none = || SparseFault::Form { found: "a length without an offset".to_owned() };
                let offset = self.offset.take().ok_or_else(none)?;
                if self.segments.len() == MAXIMUM_SEGMENTS {
                    let found = u64::try_from(MAXIMUM_SEGMENTS).unwrap_or(u64::MAX).saturating_add(1);
                    return Err(SparseFault::TooMany { found }.into());
                }
                self.segments.push(Segment { offset, length: decimal(value)? });
            }
            _ => return Err(SparseFault::Form { found: shown(word.as_bytes()) }.into()),
        }
        Ok(())
    }
}

/// The records of a text, one after the other.
struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a str, &'a [u8]), PaxFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = split_record(self.rest);
        let rest = record.as_ref().map_or(&[][..], |(_, _, rest)| *rest);
        let found = std::mem::replace(&mut self.rest, rest);
        let record = record.map(|(keyword, value, _)| (keyword, value));
        Some(record.ok_or_else(|| PaxFault::Form { found: shown(found) }))
    }
}

/// Keyword and value of the first record, and what follows it.
fn split_record(text: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let blank = text.iter().take(21).position(|byte| *byte == b' ')?;
    let (digits, _) = text.split_at_checked(blank)?;
    let length = usize::try_from(decimal(digits).ok()?).ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let body = record.get(blank.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (keyword, value) = body.split_at_checked(equals)?;
    let keyword = std::str::from_utf8(keyword).ok().filter(|keyword| !keyword.is_empty())?;
    Some((keyword, value.get(1..)?, rest))
}

/// A number; nothing at all takes back what was said before.
fn number(keyword: &str, value: &[u8]) -> Result<Option<u64>, PaxFault> {
    if value.is_empty() {
        return Ok(None);
    }
    let odd = || PaxFault::Value {
        keyword: keyword.to_owned(),
        expected: "a decimal number of at most 64 bits",
        found: shown(value),
    };
    decimal(value).map(Some).map_err(|_| odd())
}

/// Seconds since 1970, with a fraction.
fn time(keyword: &str, value: &[u8]) -> Result<Option<Timestamp>, PaxFault> {
    if value.is_empty() {
        return Ok(None);
    }
    let odd = || PaxFault::Value {
        keyword: keyword.to_owned(),
        expected: "a time in seconds",
        found: shown(value),
    };
    Timestamp::parse(value).map(Some).ok_or_else(odd)
}

/// `%XX` is a byte.
fn decode_name(text: &str) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            name.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        name.extend(data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok()?);
        rest = behind;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with the right length in front.
    fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
        let bare = keyword.len() + value.len() + 3;
        let length =
            (1..).map(|digits| bare + digits).find(|all| all.to_string().len() + bare == *all).unwrap();
        [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
    }

    fn parse(records: &[(&str, &[u8])]) -> Result<PaxRecords, TarError> {
        let text: Vec<u8> = records.iter().flat_map(|(keyword, value)| record(keyword, value)).collect();
        PaxRecords::parse(&text)
    }

    #[test]
    fn records_are_read_whatever_bytes_they_hold() {
        let value = b"line\nfeed=\0\xff";
        let records = parse(&[
            ("path", b"a\nb"),
            ("SCHILY.xattr.user.x", value),
            ("uid", b"70000"),
            ("mtime", b"-1.25"),
            ("comment", b"nothing"),
        ])
        .unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(records.attributes.get(&b"user.x"[..]).unwrap(), value);
        assert_eq!(records.user, Some(70_000));
        assert_eq!(records.modified, Some(Timestamp { seconds: -2, nanoseconds: 750_000_000 }));
        assert!(records.ignored.is_empty());
        let long = "x".repeat(1000);
        assert_eq!(parse(&[("path", long.as_bytes())]).unwrap().path.unwrap(), long.as_bytes());
    }

    #[test]
    fn the_last_of_several_counts_and_an_empty_one_takes_back() {
        assert_eq!(parse(&[("uid", b"1"), ("uid", b"2")]).unwrap().user, Some(2));
        assert_eq!(parse(&[("uid", b"1"), ("uid", b"")]).unwrap().user, None);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in [
            &b"x"[..],
            b"11 path=abc",
            b"13 path=abc\n",
            b"0 path=abc\n",
            b"3 \n",
            b"5 =a\n",
            b"7 path\n",
            b" 12 path=ab\n",
            b"-12 path=ab\n",
            b"99999999999999999999999 path=a\n",
            b"12 path=abc\n\0",
        ] {
            let error = PaxRecords::parse(text).unwrap_err();
            assert!(
                matches!(error, TarError::Pax(PaxFault::Form { .. })),
                "{}: {error}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (keyword, value) in [
            ("size", &b"-1"[..]),
            ("size", b"0x10"),
            ("uid", b"root"),
            ("mtime", b"yesterday"),
            ("mtime", b"1.x"),
            ("LIBARCHIVE.xattr.user.x", b"!"),
            ("LIBARCHIVE.xattr.user%2", b"QQ"),
            ("SCHILY.xattr.", b"x"),
            ("SCHILY.xattr.user.large", &[0; 65_537]),
            ("SCHILY.realsize", b"10"),
        ] {
            let error = parse(&[(keyword, value)]).unwrap_err();
            assert!(matches!(error, TarError::Pax(PaxFault::Value { .. })), "{keyword}: {error}");
        }
    }

    #[test]
    fn attributes_of_libarchive_and_of_star_are_the_same() {
        let records = parse(&[
            ("LIBARCHIVE.xattr.user.a%3Db", b"dmFsdWU"),
            ("LIBARCHIVE.xattr.user.c", b"dmFsdWU="),
            ("RHT.security.selinux", b"system_u:object_r:etc_t:s0"),
            ("SCHILY.acl.access", b"user::rw-,group::r--,other::r--"),
        ])
        .unwrap();
        let names: Vec<_> = records.attributes.keys().map(|name| name.escape_ascii().to_string()).collect();
        assert_eq!(names, ["security.selinux", "system.posix_acl_access", "user.a=b", "user.c"]);
        assert_eq!(records.attributes[&b"user.a=b"[..]], b"value");
    }

    #[test]
    fn unknown_keywords_are_told_of_and_not_more_than_a_few() {
        let names: Vec<String> = (0..100).map(|number| format!("X.{number}")).collect();
        let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        assert_eq!(parse(&records).unwrap().ignored.len(), MOST_IGNORED);
    }

    #[test]
    fn of_all_members_only_owner_and_time_can_be_said() {
        let mut global = GlobalRecords::default();
        global.add(&[record("comment", b"0123"), record("gid", b"5")].concat()).unwrap();
        assert_eq!(global.group, Some(5));
        for keyword in ["path", "size", "linkpath", "SCHILY.xattr.user.x", "GNU.sparse.size"] {
            let error = global.add(&record(keyword, b"1")).unwrap_err();
            assert!(matches!(error, TarError::Pax(PaxFault::Global { .. })), "{keyword}: {error}");
        }
    }

    #[test]
    fn pieces_of_form_0_0_come_in_pairs() {
        let records = parse(&[
            ("GNU.sparse.offset", b"1"),
            ("GNU.sparse.numbytes", b"2"),
            ("GNU.sparse.numblocks", b"1"),
        ])
        .unwrap();
        assert_eq!(records.sparse.segments, [Segment { offset: 1, length: 2 }]);
        for records in [
            &[("GNU.sparse.offset", &b"1"[..])][..],
            &[("GNU.sparse.numbytes", b"1")],
            &[("GNU.sparse.offset", b"1"), ("GNU.sparse.offset", b"1")],
            &[("GNU.sparse.unknown", b"1")],
        ] {
            assert!(matches!(parse(records), Err(TarError::Sparse(SparseFault::Form { .. }))), "{records:?}");
        }
    }
}
