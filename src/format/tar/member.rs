//! A member of an archive: what its header and the extended headers in front of it say together.

use std::collections::BTreeMap;

use super::pax::{GlobalRecords, PaxRecords, PaxSparse};
use super::sparse::{Segment, SparseMap};
use super::{Header, LinkTarget, MAXIMUM_FILE_SIZE, MemberPath, SparseFault, TarError, TypeFlag};

/// The largest size that the octal digits of a header hold.
const LARGEST_OCTAL: u64 = (1 << 33) - 1;

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it lies.
    pub path: MemberPath,
    /// What it is.
    pub kind: Kind,
    /// What is said about it.
    pub attributes: Attributes,
    /// Keywords of extended headers that are not known: a few of them.
    pub ignored: Vec<String>,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    BlockDevice {
        /// Its driver: twelve bits.
        major: u32,
        /// Which one: twenty bits.
        minor: u32,
    },
    /// A character device.
    CharacterDevice {
        /// Its driver: twelve bits.
        major: u32,
        /// Which one: twenty bits.
        minor: u32,
    },
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A file.
    File {
        /// Its size in bytes, holes included.
        size: u64,
    },
    /// Another name of a member before.
    HardLink {
        /// That member.
        target: MemberPath,
    },
    /// A symbolic link.
    SymbolicLink {
        /// What it says.
        target: LinkTarget,
    },
}

/// Everything about a member but its name and contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permissions: twelve bits, those for set-user-ID and the like among them.
    pub mode: u32,
    /// The number of the owner.
    pub user: u32,
    /// The number of the group.
    pub group: u32,
    /// When the contents were changed last.
    pub modified: Timestamp,
    /// Extended attributes by name, access control lists among them.
    pub extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970, the last full ones.
    pub seconds: i64,
    /// Nanoseconds since then, less than 10⁹.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Reads seconds with a fraction. What is finer than a nanosecond is cut off.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let seconds: i64 = whole.parse().ok()?;
        let nanoseconds: u32 = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction)).parse().ok()?;
        Some(match (negative, nanoseconds) {
            (false, _) => Self { seconds, nanoseconds },
            (true, 0) => Self { seconds: seconds.checked_neg()?, nanoseconds },
            (true, _) => Self {
                seconds: seconds.checked_neg()?.checked_sub(1)?,
                nanoseconds: 1_000_000_000_u32.checked_sub(nanoseconds)?,
            },
        })
    }
}

/// What was in front of a header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// Records of pax.
    pub records: Option<PaxRecords>,
    /// A name in the manner of GNU tar.
    pub long_name: Option<Vec<u8>>,
    /// The target of a link in the manner of GNU tar.
    pub long_link: Option<Vec<u8>>,
}

impl Extensions {
    /// Whether there was nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How the contents of a member lie in the archive, and how many bytes they are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One after the other: this many bytes.
    Dense(u64),
    /// In pieces that are known.
    Sparse(SparseMap),
    /// In pieces whose map is in front of them ([`super::SparseMapText`]).
    MapInFront {
        /// How many bytes map and pieces are in the archive.
        stored: u64,
        /// The size of the file, holes included.
        size: u64,
    },
}

impl Member {
    /// Puts together what is said of a member. `segments` are the further pieces of a sparse file in the old form, from
    /// the blocks behind the header.
    ///
    /// # Errors
    /// A [`TarError`]: for one thing where names or sizes contradict each other.
    pub fn new(
        header: Header,
        segments: Vec<Segment>,
        extensions: Extensions,
        global: &GlobalRecords,
    ) -> Result<(Self, Layout), TarError> {
        let records = extensions.records.unwrap_or_default();
        let stored = stored_size(header.size, records.size)?;
        let long = |long: Option<Vec<u8>>, pax: Option<Vec<u8>>, short: Vec<u8>| match (long, pax) {
            (Some(_), Some(_)) => Err(TarError::NamedTwice),
            (Some(name), None) | (None, Some(name)) => Ok(name),
            (None, None) => Ok(short),
        };
        let mut name = long(extensions.long_name, records.path, header.name)?;
        let link_name = long(extensions.long_link, records.link_path, header.link_name)?;
        let is_sparse = records.sparse.is_some();
        if is_sparse && header.type_flag != TypeFlag::File {
            return Err(SparseFault::NoFile.into());
        }
        if let Some(real) = &records.sparse.name {
            name.clone_from(real);
        }
        let path = MemberPath::new(&name)?;
        let device = || {
            let major = records.device_major.unwrap_or(header.device_major);
            let minor = records.device_minor.unwrap_or(header.device_minor);
            match (u32::try_from(major), u32::try_from(minor)) {
                (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
                _ => Err(TarError::DeviceNumber { major, minor }),
            }
        };
        let mut layout = Layout::Dense(stored);
        let (kind, word) = match header.type_flag {
            TypeFlag::File if is_sparse => {
                layout = sparse_layout(records.sparse, stored)?;
                (Kind::File { size: layout.size() }, "file")
            }
            TypeFlag::SparseFile => {
                let all = header.segments.into_iter().chain(segments).collect();
                layout = Layout::Sparse(SparseMap::new(all, header.real_size, stored)?);
                (Kind::File { size: layout.size() }, "file")
            }
            TypeFlag::File if name.ends_with(b"/") => (Kind::Directory, "directory"),
            TypeFlag::File => (Kind::File { size: stored }, "file"),
            TypeFlag::HardLink => (Kind::HardLink { target: MemberPath::new(&link_name)? }, "hard link"),
            TypeFlag::SymbolicLink => {
                (Kind::SymbolicLink { target: LinkTarget::new(&link_name)? }, "symbolic link")
            }
            TypeFlag::CharacterDevice => {
                let (major, minor) = device()?;
                (Kind::CharacterDevice { major, minor }, "device")
            }
            TypeFlag::BlockDevice => {
                let (major, minor) = device()?;
                (Kind::BlockDevice { major, minor }, "device")
            }
            TypeFlag::Directory => (Kind::Directory, "directory"),
            TypeFlag::Fifo => (Kind::Fifo, "named pipe"),
            TypeFlag::PaxRecords
            | TypeFlag::GlobalPaxRecords
            | TypeFlag::LongLink
            | TypeFlag::LongName
            | TypeFlag::VolumeLabel => {
                return Err(TarError::RepeatedExtension { what: "an extended header" });
            }
        };
        if let Kind::File { size } = kind {
            if size > MAXIMUM_FILE_SIZE {
                return Err(TarError::FileTooLarge { size });
            }
        } else if stored > 0 {
            return Err(TarError::UnexpectedContents { kind: word, size: stored });
        }
        if path.is_root() && kind != Kind::Directory {
            return Err(TarError::RootKind { kind: word });
        }
        let modified = records
            .modified
            .or(global.modified)
            .unwrap_or(Timestamp { seconds: header.modified, nanoseconds: 0 });
        let attributes = Attributes {
            mode: header.mode,
            user: identifier("owner", records.user.or(global.user).unwrap_or(header.user))?,
            group: identifier("group", records.group.or(global.group).unwrap_or(header.group))?,
            modified,
            extended: records.attributes,
        };
        Ok((Self { path, kind, attributes, ignored: records.ignored.into_iter().collect() }, layout))
    }
}

impl Layout {
    /// The size of the file, holes included.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::Dense(size) | Self::MapInFront { size, .. } => *size,
            Self::Sparse(map) => map.size(),
        }
    }
}

/// How many bytes follow a header. An extended header says so where the digits of the header do not suffice; where they
/// do, and say something else, one reader would take for headers what another one takes for contents.
fn stored_size(header: u64, extended: Option<u64>) -> Result<u64, TarError> {
    match extended {
        Some(extended) if extended <= LARGEST_OCTAL && extended != header => {
            Err(TarError::SizesDiffer { header, extended })
        }
        Some(extended) => Ok(extended),
        None => Ok(header),
    }
}

/// The pieces of a file as records of pax describe them.
fn sparse_layout(sparse: PaxSparse, stored: u64) -> Result<Layout, TarError> {
    let size = sparse.size.ok_or(SparseFault::Missing { what: "size" })?;
    let segments = match (sparse.major, sparse.minor) {
        (Some(1), Some(0)) => return Ok(Layout::MapInFront { stored, size }),
        (None, None) | (Some(0), Some(0 | 1)) => sparse.list.unwrap_or(sparse.segments),
        (major, minor) => {
            let number =
                |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
            let found = format!("{}.{}", number(major), number(minor));
            return Err(SparseFault::Version { found }.into());
        }
    };
    let found = u64::try_from(segments.len()).unwrap_or(u64::MAX);
    match sparse.count {
        Some(expected) if expected != found => Err(SparseFault::Count { expected, found }.into()),
        _ => Ok(Layout::Sparse(SparseMap::new(segments, size, stored)?)),
    }
}

/// The number of a user or group. The last one means 'nobody' to the kernel, and 'as it is' to chown(2).
fn identifier(field: &'static str, value: u64) -> Result<u32, TarError> {
    let number = u32::try_from(value).ok().filter(|number| *number != u32::MAX);
    number.ok_or(TarError::Identifier { field, value })
}
