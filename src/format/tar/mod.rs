//! Tar archives: blocks and records in, members out.
//!
//! The formats are those of POSIX.1-2024 (pax(1): ustar and pax) and of GNU tar (its manual, 'Tar Internals': long
//! names and links, sparse files in the old form and in the forms 0.0, 0.1 and 1.0 of pax records). What is read is what
//! is written in archives of today; where two readers might take a header for different things, it is refused.

mod acl;
mod error;
mod header;
mod member;
mod number;
mod path;
mod pax;
mod sparse;

pub use acl::{ACCESS_ACL, DEFAULT_ACL};
pub use error::{PaxFault, SparseFault, TarError};
pub use header::{Header, SPARSE_EXTENSION_LENGTH, TypeFlag};
pub use member::{Attributes, Extensions, Kind, Layout, Member, Timestamp};
pub use path::{LinkTarget, MemberPath, NAME_MAX, PATH_MAX, shown};
pub use pax::{GlobalRecords, PaxRecords};
pub use sparse::{Segment, SparseMap, SparseMapText};

/// The unit of an archive: headers and contents begin at multiples of it (POSIX.1-2024, pax(1), 'ustar Interchange
/// Format').
pub const BLOCK: usize = 512;
/// The same as a length.
pub const BLOCK_LENGTH: u64 = 512;
/// The most bytes of extended headers, and of a long name of GNU tar, that are taken: an extended attribute has up to
/// 64 KiB, and few members have more than three.
pub const MAXIMUM_EXTENSION: u64 = 1 << 20;
/// The most pieces that a sparse file may come in. Each takes 16 bytes of memory.
pub const MAXIMUM_SEGMENTS: usize = 1 << 18;
/// The most bytes that a file may have, holes included: the limit of ext4 with blocks of 4 KiB.
pub const MAXIMUM_FILE_SIZE: u64 = 16 << 40;
/// How deep a member may lie: more than any system's tree has.
pub const MAXIMUM_DEPTH: usize = 256;
