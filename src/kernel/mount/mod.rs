//! Mounts: file systems on block devices and in memory, and who has what mounted.
//!
//! A mount of ours is made in three steps: the driver opens the file system, the mount is compared with what was asked
//! for while it is nowhere yet, and then it gets its place in one step. A mount is known by its number, so that what
//! somebody else puts over it or beside it is never taken for ours.

mod beneath;
mod file_system;
mod table;
mod tmpfs;
mod users;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

pub use beneath::{CreatedDirectory, ImageRoot, Place};
pub use file_system::{GrowError, Grown, MountRequest, Mounted, PreparedMount, grow};
pub use table::{MountEntry, MountTable, is_mount_point, mounts_beneath, mounts_of};
pub use tmpfs::{
    OwnTmpfs, allow_tree, free_space, is_tmpfs, lends_no_rights, resize_tmpfs, total_space, unmount, unseen,
};
pub use users::{MountUser, unmount_unused, users_of};

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A mount is there already; what it shows is not ours to cover.
    #[error("mounting a tmpfs: '{}' is a mount point already", .directory.display())]
    AlreadyMounted {
        /// Where.
        directory: PathBuf,
    },
    /// The directory cannot be made.
    #[error("creating '{}'", .directory.display())]
    Creating {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// What the kernel shows is not what was asked for.
    #[error("mounting '{}': {what}: expected '{expected}', found '{found}'", .place.display())]
    Differs {
        /// Where, or of what.
        place: PathBuf,
        /// Which property.
        what: &'static str,
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Another file system than ours is found there: somebody has mounted something over it.
    #[error("another file system was mounted over what is mounted on '{}'", .directory.display())]
    Displaced {
        /// Where.
        directory: PathBuf,
    },
    /// The driver refused the file system, its options or its device.
    #[error("opening the {file_system} on '{}'{}", .node.display(), said(.messages))]
    FileSystem {
        /// The driver.
        file_system: &'static str,
        /// The device.
        node: PathBuf,
        /// What the kernel answered.
        source: io::Error,
        /// What the driver had to say; often nothing.
        messages: String,
    },
    /// Somebody uses what is mounted there.
    #[error("unmounting '{}': it is in use: {}", .directory.display(), named(.users))]
    InUse {
        /// Where.
        directory: PathBuf,
        /// Who, as far as it can be told.
        users: Vec<MountUser>,
    },
    /// The kernel refused the mount.
    #[error("mounting a tmpfs on '{}'", .directory.display())]
    Mounting {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The directory has contents, which a mount would hide.
    #[error("mounting a tmpfs: '{}' is not empty", .directory.display())]
    NotEmpty {
        /// Where.
        directory: PathBuf,
    },
    /// The directory cannot be opened or listed: for instance, it is a symbolic link or a file.
    #[error("opening '{}' as a directory", .directory.display())]
    Opening {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel does not take the mount on this directory.
    #[error("mounting on '{}'", .directory.display())]
    Placing {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel's table of mounts cannot be read.
    #[error("reading '/proc/self/mountinfo'")]
    ReadingMounts(#[source] io::Error),
    /// The directory that was made for the mount cannot be removed.
    #[error("removing '{}'", .directory.display())]
    Removing {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel refused another size for the tmpfs.
    #[error("changing the size of the tmpfs on '{}'", .directory.display())]
    Resizing {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file system does not say how much room it has.
    #[error("asking a file system for its free space")]
    Statistics(#[source] io::Error),
    /// The kernel refused to unmount.
    #[error("unmounting '{}'", .directory.display())]
    Unmounting {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

fn said(messages: &str) -> String {
    if messages.is_empty() { String::new() } else { format!(" ({messages})") }
}

fn named(users: &[MountUser]) -> String {
    if users.is_empty() {
        return "by whom cannot be told; it may be mounted in another mount namespace".to_owned();
    }
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A path by which the kernel comes to what a descriptor stands for.
pub(super) fn proc_path(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The number of the mount that what is open lies in: until it is unmounted, no other one has it.
fn mount_number(file: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    number_in(&text).ok_or_else(|| io::Error::other("expected a line 'mnt_id:' in /proc/self/fdinfo"))
}

/// The line `mnt_id:` of proc_pid_fdinfo(5).
fn number_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim_ascii().parse().ok())
}

/// Opens a directory for paths alone; a symbolic link is not followed.
///
/// # Errors
/// The error of open(2): `ENOTDIR` for a link or a file.
pub fn open_place(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let flags = nix::libc::O_CLOEXEC | nix::libc::O_PATH | nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Whether two descriptors stand for the same directory in the same mount.
fn is_same(one: &File, other: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let (a, b) = (one.metadata()?, other.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()) && mount_number(one.as_fd())? == mount_number(other.as_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_mount_is_read_from_its_line() {
        assert_eq!(number_in("pos:\t0\nflags:\t012\nmnt_id:\t29\nino:\t1\n"), Some(29));
        assert_eq!(number_in("pos:\t0\nmnt_id:\tx\n"), None);
        assert_eq!(number_in(""), None);
    }

    #[test]
    fn a_link_is_no_place_and_a_directory_is() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(open_place(&link).is_err());
        let place = open_place(directory.path()).unwrap();
        assert!(is_same(&place, &File::open(directory.path()).unwrap()).unwrap());
        assert!(!is_same(&place, &File::open("/").unwrap()).unwrap());
    }
}
