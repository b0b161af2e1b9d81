use super::super::superblock::VfatError;
use super::super::units::ByteLength;
use super::path::FatPath;
use super::{MAXIMUM_DIRECTORIES, MAXIMUM_DIRECTORY, MAXIMUM_ENTRIES, MAXIMUM_RUNS};

/// Something is wrong with a file, a directory, or the whole of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatProblem {
    /// What it is wrong with; the root directory where it is the whole.
    pub path: FatPath,
    /// What is wrong.
    pub error: FatError,
}

/// Why files of a FAT file system could not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatError {
    /// The boot sector is not sane.
    #[error(transparent)]
    Boot(#[from] VfatError),
    /// The tables are no copies of each other: who looks at that, as firmware does, sees other files than Linux does.
    #[error(
        "expected file allocation tables that are copies of each other, found number {table} alone to count"
    )]
    ActiveTable {
        /// The number of the table that counts.
        table: u8,
    },
    /// A chain of clusters that comes back to itself.
    #[error("expected a chain of clusters that ends, found it to come back to cluster {cluster}")]
    Loop {
        /// Where it comes back to.
        cluster: u32,
    },
    /// A cluster that belongs to two.
    #[error("expected clusters of its own, found cluster {cluster} to belong to '{other}' as well")]
    CrossLinked {
        /// The cluster.
        cluster: u32,
        /// What it belongs to already.
        other: FatPath,
    },
    /// A chain that leaves the file system, or leads to a cluster that is free or bad.
    #[error(
        "expected each of its clusters to be one of {clusters}, found number {found} {}",
        .after.map_or_else(|| "as the first".to_owned(), |after| format!("after number {after}"))
    )]
    Outside {
        /// The cluster that leads there; `None` where it is the first.
        after: Option<u32>,
        /// Where it leads to.
        found: u32,
        /// How many clusters there are, counted from 2.
        clusters: u32,
    },
    /// A file with fewer clusters than its size needs.
    #[error("expected {expected} clusters for its size, found {found}")]
    Short {
        /// How many its size needs.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A directory that no system can have made.
    #[error("expected a directory of at most {MAXIMUM_DIRECTORY} bytes, found a larger one")]
    DirectoryTooLarge,
    /// More fragments than real files have.
    #[error("expected at most {MAXIMUM_RUNS} fragments of files and directories, found more")]
    TooManyRuns,
    /// More entries than a boot partition has.
    #[error("expected at most {MAXIMUM_ENTRIES} entries in directories, found more")]
    TooManyEntries,
    /// More directories that fit than a boot partition has.
    #[error("expected at most {MAXIMUM_DIRECTORIES} directories to go into, found more")]
    TooManyDirectories,
    /// More files that fit than a boot partition has.
    #[error("expected at most {limit} files to look at, found more")]
    TooManyFiles {
        /// How many are looked at.
        limit: usize,
    },
    /// Directories and tables that take more reading than those of a boot partition.
    #[error("expected at most {limit} bytes of tables and directories to be read, found more")]
    TooMuch {
        /// How many are read.
        limit: ByteLength,
    },
    /// Bytes that were asked for did not come.
    #[error("expected the bytes of tables and directories, found some of them not to be read")]
    Unread,
}
