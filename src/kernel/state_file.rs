//! Files that hold our state: replaced as a whole or not at all, and one writer at a time.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::pause;
use super::placed_file::is_plain_name;

/// The pause between two attempts to get a lock: flock(2) waits without a deadline or not at all.
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// How many names for a temporary file are tried; one is taken only if a process of this number died while writing.
const TEMPORARY_NAMES: u32 = 16;

/// Why a state file could not be written or locked.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The lock is still held by somebody else at the deadline.
    #[error("locking '{}': another process holds it", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened or locked.
    #[error("locking '{}'", .path.display())]
    Locking {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The name leads out of the directory or is none.
    #[error("expected a plain file name, found '{}'", .name.escape_debug())]
    Name {
        /// The name.
        name: String,
    },
    /// The file cannot be removed.
    #[error("removing '{name}'")]
    Removing {
        /// The name in its directory.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The file cannot be written; what was there before still is.
    #[error("writing '{name}'")]
    Writing {
        /// The name in its directory.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// Writes a file so that every reader finds the old contents or the new ones, also after a loss of power. It has the
/// permissions `mode` whatever the process's mask is.
///
/// # Errors
/// [`StateFileError::Name`], [`StateFileError::Writing`].
pub fn write_atomically(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    bytes: &[u8],
    mode: u32,
) -> Result<(), StateFileError> {
    let writing = |source| StateFileError::Writing { name: name.to_string_lossy().into_owned(), source };
    check_name(name)?;
    let (mut file, temporary) = create_temporary(directory, name).map_err(writing)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(renameat(directory, temporary.as_os_str(), directory, name)?));
    if let Err(source) = written {
        // The cause is what matters; a leftover has a name that nobody reads.
        let _ = unlinkat(directory, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        return Err(writing(source));
    }
    sync_directory(directory).map_err(writing)
}

/// Removes a file for good. Whether it was there.
///
/// # Errors
/// [`StateFileError::Name`], [`StateFileError::Removing`].
pub fn remove(directory: BorrowedFd<'_>, name: &OsStr) -> Result<bool, StateFileError> {
    check_name(name)?;
    let removing = |source| StateFileError::Removing { name: name.to_string_lossy().into_owned(), source };
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => sync_directory(directory).map(|()| true).map_err(removing),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(removing(errno.into())),
    }
}

/// An exclusive lock on a file, given up when it is dropped or the process ends.
#[derive(Debug)]
#[must_use = "dropping it gives the lock up"]
pub struct FileLock {
    _file: Flock<File>,
}

/// Locks a file, which is made (0600) where it is absent, once nobody else has it locked.
///
/// # Errors
/// [`StateFileError::Locked`] at the deadline, [`StateFileError::Locking`].
pub fn lock_file(path: &Path, deadline: Instant) -> Result<FileLock, StateFileError> {
    let locking = |source| StateFileError::Locking { path: path.to_owned(), source };
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(locking)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Somebody may have removed the file between the two calls: then this lock keeps nobody out.
            Ok(lock) if is_at(&lock, path).map_err(locking)? => return Ok(FileLock { _file: lock }),
            Ok(_) | Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {}
            Err((_, errno)) => return Err(locking(errno.into())),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(StateFileError::Locked { path: path.to_owned() });
        }
        pause(LOCK_AGAIN.min(left));
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check_name(name: &OsStr) -> Result<(), StateFileError> {
    if is_plain_name(name) {
        return Ok(());
    }
    Err(StateFileError::Name { name: name.to_string_lossy().into_owned() })
}

/// A new file beside the one to be written, whose name begins with a dot and ends in `.tmp`.
fn create_temporary(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<(File, OsString)> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    for attempt in 0..TEMPORARY_NAMES {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        let thread = nix::unistd::gettid();
        temporary.push(format!(".{thread}-{attempt}.tmp"));
        match openat(directory, temporary.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => return Ok((File::from(file), temporary)),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn sync_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    File::from(directory.try_clone_to_owned()?).sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        for contents in [&b"a longer first version"[..], b"second"] {
            write_atomically(handle.as_fd(), OsStr::new("record.json"), contents, 0o644).unwrap();
            assert_eq!(fs::read(directory.path().join("record.json")).unwrap(), contents);
        }
        let metadata = fs::metadata(directory.path().join("record.json")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(remove(handle.as_fd(), OsStr::new("record.json")).unwrap());
        assert!(!remove(handle.as_fd(), OsStr::new("record.json")).unwrap());
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        fs::create_dir(directory.path().join("record.json")).unwrap();
        let error = write_atomically(handle.as_fd(), OsStr::new("record.json"), b"x", 0o600).unwrap_err();
        assert!(matches!(error, StateFileError::Writing { .. }), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        for name in ["", ".", "..", "../x", "a/b", "a\0b"] {
            let written = write_atomically(handle.as_fd(), OsStr::new(name), b"x", 0o600);
            assert!(matches!(written, Err(StateFileError::Name { .. })), "{name:?}");
            let removed = remove(handle.as_fd(), OsStr::new(name));
            assert!(matches!(removed, Err(StateFileError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_second_lock_waits_for_the_deadline_and_gets_it_once_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = lock_file(&path, Instant::now()).unwrap();
        let begun = Instant::now();
        let refused = lock_file(&path, begun + Duration::from_millis(30)).unwrap_err();
        assert!(matches!(refused, StateFileError::Locked { .. }), "{refused}");
        assert!(begun.elapsed() >= Duration::from_millis(30));
        drop(first);
        let _second = lock_file(&path, Instant::now()).unwrap();
    }

    #[test]
    fn a_lock_is_never_taken_through_a_symbolic_link() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("lock"), directory.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let error = lock_file(&path, Instant::now()).unwrap_err();
        assert!(matches!(error, StateFileError::Locking { .. }), "{error}");
        assert!(!target.try_exists().unwrap());
    }
}
