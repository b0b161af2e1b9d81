//! What can be wrong with an archive.

use super::{MAXIMUM_DEPTH, MAXIMUM_EXTENSION, MAXIMUM_FILE_SIZE, MAXIMUM_SEGMENTS, NAME_MAX, PATH_MAX};

/// Why a member of an archive is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The name begins at the root of whatever machine unpacks it.
    #[error("expected a name within the archive, found the absolute path '{path}'")]
    AbsolutePath {
        /// The name.
        path: String,
    },
    /// An access control list names somebody without saying by which number.
    #[error(
        "expected an access control list with numbers, found '{entry}': make the archive with --numeric-owner or without \
         access control lists"
    )]
    AclEntry {
        /// The entry.
        entry: String,
    },
    /// The sum over the header is another one.
    #[error("expected the header checksum {expected}, found {found}: the archive is damaged, or none")]
    Checksum {
        /// The sum that the header has.
        expected: u64,
        /// The one that it says.
        found: u64,
    },
    /// A name has a part that no file system takes.
    #[error(
        "expected names of at most {NAME_MAX} bytes between slashes, found one of {length} bytes in '{path}'"
    )]
    ComponentTooLong {
        /// The name, its beginning.
        path: String,
        /// How long the part is.
        length: usize,
    },
    /// An extended header does not describe anything.
    #[error("expected a member behind an extended header, found the end of the archive")]
    DanglingExtension,
    /// A device number that Linux does not have.
    #[error("expected a device number of at most 12 and 20 bits, found {major}:{minor}")]
    DeviceNumber {
        /// The driver's part.
        major: u64,
        /// The rest.
        minor: u64,
    },
    /// There is no name.
    #[error("expected a name, found none")]
    EmptyName,
    /// An extended header or a long name takes more memory than it is worth.
    #[error("expected at most {MAXIMUM_EXTENSION} bytes of {what}, found {size}")]
    ExtensionTooLarge {
        /// What it is.
        what: &'static str,
        /// How large it says it is.
        size: u64,
    },
    /// A file that no file system takes.
    #[error("expected files of at most {MAXIMUM_FILE_SIZE} bytes, found one of {size}")]
    FileTooLarge {
        /// How large it says it is.
        size: u64,
    },
    /// The number of an owner that does not exist.
    #[error("expected a number below 4294967295 as {field}, found {value}")]
    Identifier {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// One block of zeros where two are the end.
    #[error("expected two blocks of zeros at the end of the archive, found one with more behind it")]
    LoneZeroBlock,
    /// More than one value for the same thing, in the manners of GNU tar and of pax.
    #[error("expected one name, found one of GNU tar and one of pax")]
    NamedTwice,
    /// A number below zero.
    #[error("expected a number of at least 0 as {field}, found a negative one")]
    Negative {
        /// Which field.
        field: &'static str,
    },
    /// A name is longer than any path of Linux.
    #[error("expected a {what} of at most {PATH_MAX} bytes, found {length}: '{beginning}…'")]
    NameTooLong {
        /// What it is.
        what: &'static str,
        /// How long it is.
        length: usize,
        /// Its beginning.
        beginning: String,
    },
    /// A name that would end earlier for the kernel than it does here.
    #[error("expected a {what} without NUL bytes, found '{found}'")]
    NulByte {
        /// What it is.
        what: &'static str,
        /// The name.
        found: String,
    },
    /// A field is no number.
    #[error("expected an octal number as {field}, found '{found}'")]
    Number {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: String,
    },
    /// A number that does not fit 64 bits.
    #[error("expected a number of at most 64 bits as {field}, found a larger one")]
    Overflow {
        /// Which field.
        field: &'static str,
    },
    /// The name leads out of the directory that it is in.
    #[error("expected a name within the archive, found '..' in '{path}'")]
    ParentReference {
        /// The name.
        path: String,
    },
    /// A record of an extended header.
    #[error("reading an extended header: {0}")]
    Pax(PaxFault),
    /// Two extended headers of the same kind in a row.
    #[error("expected a member behind {what}, found another one")]
    RepeatedExtension {
        /// What they are.
        what: &'static str,
    },
    /// The size in an extended header is not that of the header, which could have held it.
    #[error(
        "expected one size, found {header} in the header and {extended} in an extended one: readers would disagree"
    )]
    SizesDiffer {
        /// That of the header.
        header: u64,
        /// That of the extended header.
        extended: u64,
    },
    /// The root of the tree is something else.
    #[error("expected a directory as the root of the tree, found a {kind}")]
    RootKind {
        /// What it is.
        kind: &'static str,
    },
    /// The map of a sparse file.
    #[error("reading the map of a sparse file: {0}")]
    Sparse(SparseFault),
    /// The name leads through more directories than any tree has.
    #[error("expected at most {MAXIMUM_DEPTH} names between slashes, found {depth} in '{path}'")]
    TooDeep {
        /// The name, its beginning.
        path: String,
        /// How many there are.
        depth: usize,
    },
    /// A kind of member that has no contents has some.
    #[error("expected no contents of a {kind}, found {size} bytes: readers would disagree")]
    UnexpectedContents {
        /// What it is.
        kind: &'static str,
        /// How large it says it is.
        size: u64,
    },
    /// A kind of member that is not known.
    #[error("expected a file, a directory, a link, a named pipe or a device, found a member of type '{}'", .found.escape_ascii())]
    UnknownType {
        /// The type flag.
        found: u8,
    },
}

/// What can be wrong with a record of an extended header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaxFault {
    /// It is not a length, a blank, a keyword, `=`, a value and a line feed.
    #[error("expected 'LENGTH KEYWORD=VALUE' and a line feed, found '{found}'")]
    Form {
        /// The bytes, their beginning.
        found: String,
    },
    /// A keyword that says something of one member stands where it would be said of all.
    #[error("expected no '{keyword}' for all members at once")]
    Global {
        /// The keyword.
        keyword: String,
    },
    /// The value is not what the keyword takes.
    #[error("expected {expected} as '{keyword}', found '{found}'")]
    Value {
        /// The keyword.
        keyword: String,
        /// What it takes.
        expected: &'static str,
        /// The value, its beginning.
        found: String,
    },
}

/// What can be wrong with the map of a sparse file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SparseFault {
    /// The pieces do not take up the bytes that are there.
    #[error("expected pieces of {expected} bytes in all, as are in the archive, found {found}")]
    Contents {
        /// What is in the archive.
        expected: u64,
        /// What the map has.
        found: u64,
    },
    /// The number of pieces is not the one that was said.
    #[error("expected {expected} pieces, found {found}")]
    Count {
        /// What was said.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// The map is not a list of numbers in the form that it has to have.
    #[error("expected numbers, found '{found}'")]
    Form {
        /// The bytes, their beginning.
        found: String,
    },
    /// A piece lies in front of the end of the one before, or behind the end of the file.
    #[error("expected pieces in order within {size} bytes, found {length} bytes at {offset}")]
    Order {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
        /// How large the file is.
        size: u64,
    },
    /// A record that there has to be.
    #[error("expected its {what}, found none")]
    Missing {
        /// What it says.
        what: &'static str,
    },
    /// The member is no file.
    #[error("expected a file, found a member of another kind")]
    NoFile,
    /// More pieces than any file has.
    #[error("expected at most {MAXIMUM_SEGMENTS} pieces, found {found}")]
    TooMany {
        /// How many there are, as far as they were counted.
        found: u64,
    },
    /// A form that is not known.
    #[error("expected form 0.0, 0.1 or 1.0, found {found}")]
    Version {
        /// What was found.
        found: String,
    },
}

impl From<PaxFault> for TarError {
    fn from(fault: PaxFault) -> Self {
        Self::Pax(fault)
    }
}

impl From<SparseFault> for TarError {
    fn from(fault: SparseFault) -> Self {
        Self::Sparse(fault)
    }
}
