//! Placing a file: it has no name until it is complete.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::linkat;

use crate::format::units::{ByteLength, Extent};

use super::memory::reopen_read_only;
use super::raw::IoctlError;
use super::raw::inode_flags::{IMMUTABLE, inode_flags, set_inode_flags};

/// Why a file was not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// The name is taken; what is there was not touched.
    #[error("placing '{name}': the name is taken")]
    AlreadyExists {
        /// The name in the directory.
        name: String,
    },
    /// The file system does not know files without a name.
    #[error("the file system has no files without a name")]
    AnonymousUnsupported,
    /// The file cannot be made.
    #[error("creating a file without a name")]
    Creating(#[source] io::Error),
    /// The immutable flag cannot be read or changed.
    #[error("changing the immutable flag")]
    Immutable(#[source] IoctlError),
    /// The file cannot be given its name.
    #[error("placing '{name}'")]
    Linking {
        /// The name in the directory.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The name leads out of the directory or is none.
    #[error("expected a plain file name, found '{}'", .name.escape_debug())]
    Name {
        /// The name.
        name: String,
    },
    /// The file cannot be opened again for reading alone: `/proc` may not be mounted.
    #[error("reopening a placed file read-only")]
    Reopening(#[source] io::Error),
    /// Contents or name did not reach the disk.
    #[error("writing a placed file to the disk")]
    Syncing(#[source] io::Error),
}

/// A file without a name in a directory's file system. It vanishes with its descriptor unless it is linked.
#[derive(Debug)]
pub struct AnonymousFile {
    file: File,
    directory: File,
}

impl AnonymousFile {
    /// An empty file, for the owner alone.
    ///
    /// # Errors
    /// [`PlacementError::AnonymousUnsupported`], [`PlacementError::Creating`].
    pub fn create_in(directory: BorrowedFd<'_>) -> Result<Self, PlacementError> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let file = match openat(directory, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => File::from(file),
            // A kernel or file system that does not know O_TMPFILE sees a directory opened for writing.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR) => return Err(PlacementError::AnonymousUnsupported),
            Err(errno) => return Err(PlacementError::Creating(errno.into())),
        };
        let directory = directory.try_clone_to_owned().map_err(PlacementError::Creating)?;
        Ok(Self { file, directory: File::from(directory) })
    }

    /// Another empty file in the same directory.
    ///
    /// # Errors
    /// As [`Self::create_in`].
    pub fn create_beside(other: &Self) -> Result<Self, PlacementError> {
        Self::create_in(other.directory.as_fd())
    }

    /// The descriptor, open for reading and writing.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The file without a place where it could get a name.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// Ends the writing: these permissions, everything on the disk, our writable descriptor closed.
    ///
    /// # Errors
    /// Any [`PlacementError`]. The file is gone then.
    pub fn complete(self, permissions: u32) -> Result<CompleteFile, PlacementError> {
        self.file.set_permissions(Permissions::from_mode(permissions)).map_err(PlacementError::Creating)?;
        self.file.sync_all().map_err(PlacementError::Syncing)?;
        let file = reopen_read_only(self.file.as_fd()).map_err(PlacementError::Reopening)?;
        Ok(CompleteFile { file, directory: self.directory })
    }
}

/// A file that nobody writes any more and that has no name yet. It vanishes with its descriptor unless it is linked.
#[derive(Debug)]
pub struct CompleteFile {
    file: File,
    directory: File,
}

impl CompleteFile {
    /// The descriptor, open for reading alone.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// An empty file for the same directory.
    ///
    /// # Errors
    /// As [`AnonymousFile::create_in`].
    pub fn create_beside(&self) -> Result<AnonymousFile, PlacementError> {
        AnonymousFile::create_in(self.directory.as_fd())
    }

    /// Gives the file its name in the directory, and opens what has that name now for reading alone: the kernel knows
    /// the descriptor before as that of a deleted file.
    ///
    /// # Errors
    /// [`PlacementError::AlreadyExists`] where the name is taken; any other [`PlacementError`].
    pub fn link_as(&self, name: &OsStr) -> Result<File, PlacementError> {
        let shown = || name.to_string_lossy().into_owned();
        if !is_plain_name(name) {
            return Err(PlacementError::Name { name: shown() });
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match linkat(AT_FDCWD, path.as_str(), &self.directory, name, AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(PlacementError::AlreadyExists { name: shown() }),
            Err(errno) => return Err(PlacementError::Linking { name: shown(), source: errno.into() }),
        }
        self.reopen(name)
    }

    /// Gives the file, which [`Self::link_as`] has given the name `from`, the name `to` in one step, whatever other
    /// file had it: at no time has nothing that name.
    ///
    /// # Errors
    /// [`PlacementError::Linking`], also where `to` is a directory; any other [`PlacementError`].
    pub fn take_over(&self, from: &OsStr, to: &OsStr) -> Result<File, PlacementError> {
        let shown = || to.to_string_lossy().into_owned();
        if !is_plain_name(from) || !is_plain_name(to) {
            return Err(PlacementError::Name { name: shown() });
        }
        renameat(&self.directory, from, &self.directory, to)
            .map_err(|errno| PlacementError::Linking { name: shown(), source: errno.into() })?;
        self.reopen(to)
    }

    /// What has this name in the directory now, with the name on the disk.
    fn reopen(&self, name: &OsStr) -> Result<File, PlacementError> {
        self.directory.sync_all().map_err(PlacementError::Syncing)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let named = openat(&self.directory, name, flags, Mode::empty())
            .map_err(|errno| PlacementError::Reopening(errno.into()))?;
        Ok(File::from(named))
    }
}

/// Forbids everybody, root included, to open the file for writing, to rename or to remove it, until
/// [`clear_immutable`]. Descriptors that are open for writing already may go on. Whether the file system can do that.
///
/// # Errors
/// [`PlacementError::Immutable`] where it can but refuses, for instance without `CAP_LINUX_IMMUTABLE`.
pub fn set_immutable(file: BorrowedFd<'_>) -> Result<bool, PlacementError> {
    change_immutable(file, |flags| flags | IMMUTABLE)
}

/// Takes back [`set_immutable`]. Whether the file system knows the flag at all.
///
/// # Errors
/// [`PlacementError::Immutable`].
pub fn clear_immutable(file: BorrowedFd<'_>) -> Result<bool, PlacementError> {
    change_immutable(file, |flags| flags & !IMMUTABLE)
}

fn change_immutable(file: BorrowedFd<'_>, change: fn(u32) -> u32) -> Result<bool, PlacementError> {
    let flags = match inode_flags(file) {
        Ok(flags) => flags,
        Err(IoctlError::Unsupported) => return Ok(false),
        Err(error) => return Err(PlacementError::Immutable(error)),
    };
    if change(flags) == flags {
        return Ok(true);
    }
    match set_inode_flags(file, change(flags)) {
        Ok(()) => Ok(true),
        Err(IoctlError::Unsupported) => Ok(false),
        Err(error) => Err(PlacementError::Immutable(error)),
    }
}

/// Gives back the room of the beginning of a file, which reads as zeros from then on. A file system that cannot do that
/// keeps it.
pub fn give_back_beginning(file: &File, length: ByteLength) {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    if let Ok(length) = i64::try_from(length.bytes())
        && length > 0
    {
        let _ = fallocate(file, flags, 0, length);
    }
}

/// Makes an extent of a file read as zeros. Where the file system can do that, it takes no room from then on.
///
/// # Errors
/// The error of fallocate(2) or write(2).
pub fn clear_extent(file: &File, extent: Extent) -> io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (start, length) = (extent.start().bytes(), extent.length().bytes());
    if let (Ok(offset), Ok(length)) = (i64::try_from(start), i64::try_from(length)) {
        match fallocate(file, flags, offset, length) {
            // It knows no holes, or the kernel does not.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {}
            done => return Ok(done?),
        }
    }
    let mut offset = start;
    while let Some(left) = extent.end().bytes().checked_sub(offset).filter(|left| *left > 0) {
        let piece = usize::try_from(left).ok().and_then(|left| ZEROS.get(..left)).unwrap_or(&ZEROS);
        file.write_all_at(piece, offset)?;
        offset = offset.saturating_add(ByteLength::of(piece).bytes());
    }
    Ok(())
}

/// Whether the name stays in its directory.
pub(super) fn is_plain_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::format::units::ByteOffset;

    use super::*;

    #[test]
    fn a_linked_file_is_complete_read_only_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        let file = AnonymousFile::create_in(handle.as_fd()).unwrap();
        file.file().write_all_at(b"image", 0).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let complete = file.complete(0o400).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        complete.link_as(OsStr::new("image.raw")).unwrap();
        let path = directory.path().join("image.raw");
        assert_eq!(fs::read(&path).unwrap(), b"image");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
        assert_eq!(complete.file().write_at(b"x", 0).unwrap_err().raw_os_error(), Some(nix::libc::EBADF));
    }

    #[test]
    fn a_name_that_is_taken_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("image.raw"), "mine").unwrap();
        let handle = File::open(directory.path()).unwrap();
        let file = AnonymousFile::create_in(handle.as_fd()).unwrap();
        let error = file.complete(0o400).unwrap().link_as(OsStr::new("image.raw")).unwrap_err();
        assert!(matches!(error, PlacementError::AlreadyExists { name } if name == "image.raw"));
        assert_eq!(fs::read(directory.path().join("image.raw")).unwrap(), b"mine");
    }

    #[test]
    fn a_name_is_taken_over_in_one_step_and_a_directory_is_not() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("image.raw"), "the one before").unwrap();
        fs::create_dir(directory.path().join("directory")).unwrap();
        let handle = File::open(directory.path()).unwrap();
        let file = AnonymousFile::create_in(handle.as_fd()).unwrap();
        file.file().write_all_at(b"image", 0).unwrap();
        let complete = file.complete(0o600).unwrap();
        complete.link_as(OsStr::new(".image")).unwrap();
        let taken = complete.take_over(OsStr::new(".image"), OsStr::new("directory")).unwrap_err();
        assert!(matches!(taken, PlacementError::Linking { name, .. } if name == "directory"));
        for (from, to) in [(".image", "../image.raw"), ("../.image", "image.raw")] {
            let error = complete.take_over(OsStr::new(from), OsStr::new(to)).unwrap_err();
            assert!(matches!(error, PlacementError::Name { .. }), "{error}");
        }
        complete.take_over(OsStr::new(".image"), OsStr::new("image.raw")).unwrap();
        assert_eq!(fs::read(directory.path().join("image.raw")).unwrap(), b"image");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_cleared_reads_as_zeros_and_the_rest_stays() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        let (start, length) = (5000_u64, 300_001_u64);
        clear_extent(&file, Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()).unwrap();
        let mut bytes = vec![9; 1 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let zeros: Vec<u64> = (0..).zip(&bytes).filter(|(_, byte)| **byte == 0).map(|(at, _)| at).collect();
        assert_eq!(zeros, (start..start + length).collect::<Vec<_>>());
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        for name in ["", ".", "..", "../image", "a/b", "a\0b"] {
            let file = AnonymousFile::create_in(handle.as_fd()).unwrap();
            let error = file.complete(0o400).unwrap().link_as(OsStr::new(name)).unwrap_err();
            assert!(matches!(error, PlacementError::Name { .. }), "{name:?}: {error}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_room_of_a_beginning_is_given_back_and_the_rest_stays() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 3 << 20], 0).unwrap();
        give_back_beginning(&file, ByteLength::ZERO);
        give_back_beginning(&file, ByteLength::new(2 << 20));
        let mut rest = vec![0; 3 << 20];
        file.read_exact_at(&mut rest, 0).unwrap();
        assert!(rest[2 << 20..].iter().all(|byte| *byte == 1));
    }

    #[test]
    fn a_file_system_without_the_immutable_flag_says_so() {
        let file = File::open("/proc/self/stat").unwrap();
        assert!(!set_immutable(file.as_fd()).unwrap());
        assert!(!clear_immutable(file.as_fd()).unwrap());
    }
}
