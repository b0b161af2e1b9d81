//! Mounts: a file system of our own in memory, and who has what mounted.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;

use super::device_number::DeviceNumber;
use crate::format::units::ByteLength;

/// How many files the tmpfs takes: an image, its companions and what is being placed. Inodes are memory too.
const MAXIMUM_INODES: u32 = 64;

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
    /// Another file system than ours is found there: somebody has mounted something over it.
    #[error("another file system was mounted over the tmpfs on '{}'", .directory.display())]
    Displaced {
        /// Where.
        directory: PathBuf,
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

/// A tmpfs that this process has mounted. Dropping it unmounts it and removes the directory if that was made for it.
#[derive(Debug)]
#[must_use = "dropping it unmounts the file system"]
pub struct OwnTmpfs {
    directory: PathBuf,
    created: bool,
    /// The root of our mount; `None` before it is mounted and after it is kept or undone.
    root: Option<File>,
}

impl OwnTmpfs {
    /// Mounts a tmpfs that takes `size` bytes, without device nodes, set-user-id or executable files, its root having
    /// permissions `mode`. The directory is made where it is absent; else it must be empty and no mount point.
    ///
    /// # Errors
    /// A [`MountError`]; everything is as before then.
    pub fn mount_on(directory: &Path, size: ByteLength, mode: u32) -> Result<Self, MountError> {
        let at = || directory.to_owned();
        let created = match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => return Err(MountError::Creating { directory: at(), source }),
        };
        let mut own = Self { directory: at(), created, root: None };
        let opening = |source| MountError::Opening { directory: at(), source };
        let below = open_directory(directory).map_err(opening)?;
        if !created {
            if is_mount_point(directory)? {
                return Err(MountError::AlreadyMounted { directory: at() });
            }
            if fs::read_dir(proc_path(below.as_fd())).map_err(opening)?.next().is_some() {
                return Err(MountError::NotEmpty { directory: at() });
            }
        }
        let options = format!("size={size},nr_inodes={MAXIMUM_INODES},mode={mode:o}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // By descriptor: what was found empty above is what is mounted on.
        mount(Some("tmpfs"), &proc_path(below.as_fd()), Some("tmpfs"), flags, Some(options.as_str()))
            .map_err(|errno| MountError::Mounting { directory: at(), source: errno.into() })?;
        match open_tmpfs(directory) {
            Ok(Some(root)) => own.root = Some(root),
            other => {
                // The mount is somewhere under this name; if it is not what the name leads to, it is not ours to touch.
                let _ = umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
                return Err(other.err().map_or_else(|| MountError::Displaced { directory: at() }, opening));
            }
        }
        Ok(own)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A descriptor of the root directory of the mount: what is made beneath it is in this file system, whatever is
    /// mounted over it.
    ///
    /// # Errors
    /// [`MountError::Opening`] where the descriptor cannot be duplicated.
    pub fn root(&self) -> Result<File, MountError> {
        let opening = |source| MountError::Opening { directory: self.directory.clone(), source };
        let root = self.root.as_ref().ok_or_else(|| opening(io::ErrorKind::NotFound.into()))?;
        root.try_clone().map_err(opening)
    }

    /// Leaves it mounted.
    pub fn keep(mut self) {
        self.root = None;
        self.created = false;
    }

    /// Unmounts it now and removes the directory if it was made for it.
    ///
    /// # Errors
    /// [`MountError::Displaced`] where somebody has mounted something over it, and then both stay;
    /// [`MountError::Unmounting`], [`MountError::Removing`].
    pub fn undo(mut self) -> Result<(), MountError> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), MountError> {
        let directory = || self.directory.clone();
        if let Some(root) = self.root.take() {
            // umount(2) takes the topmost mount, also by descriptor: one that somebody has put over ours is not ours
            // to take down.
            let opening = |source| MountError::Opening { directory: directory(), source };
            let ours = root.metadata().map_err(opening)?.dev();
            if fs::symlink_metadata(&self.directory).map_err(opening)?.dev() != ours {
                return Err(MountError::Displaced { directory: directory() });
            }
            umount2(&proc_path(root.as_fd()), MntFlags::MNT_DETACH)
                .map_err(|errno| MountError::Unmounting { directory: directory(), source: errno.into() })?;
        }
        if self.created {
            fs::remove_dir(&self.directory)
                .map_err(|source| MountError::Removing { directory: directory(), source })?;
            self.created = false;
        }
        Ok(())
    }
}

impl Drop for OwnTmpfs {
    fn drop(&mut self) {
        // Nobody can be told; `undo` tells.
        let _ = self.take_down();
    }
}

/// Unmounts what is mounted on `directory`, even if it is still in use: it goes away when it is not any more.
///
/// # Errors
/// [`MountError::Unmounting`].
pub fn unmount(directory: &Path) -> Result<(), MountError> {
    umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|errno| MountError::Unmounting { directory: directory.to_owned(), source: errno.into() })
}

/// Lets the tmpfs with the root directory `root`, mounted on `directory` by [`OwnTmpfs::mount_on`], take `size` bytes
/// from now on.
///
/// # Errors
/// [`MountError::Resizing`], also where it holds more than that already.
pub fn resize_tmpfs(directory: &Path, root: BorrowedFd<'_>, size: ByteLength) -> Result<(), MountError> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("size={size}");
    mount(None::<&str>, &proc_path(root), None::<&str>, flags, Some(options.as_str()))
        .map_err(|errno| MountError::Resizing { directory: directory.to_owned(), source: errno.into() })
}

/// How much can be written to the file system of a file or directory.
///
/// # Errors
/// [`MountError::Statistics`].
pub fn free_space(file: BorrowedFd<'_>) -> Result<ByteLength, MountError> {
    let statistics = fstatvfs(file).map_err(|errno| MountError::Statistics(errno.into()))?;
    let (fragments, size) = (statistics.blocks_available(), statistics.fragment_size());
    Ok(ByteLength::new(fragments.saturating_mul(size)))
}

/// Whether something is mounted on exactly this directory. A path that does not exist is no mount point.
///
/// # Errors
/// [`MountError::ReadingMounts`], [`MountError::Opening`] where the path cannot be resolved.
pub fn is_mount_point(path: &Path) -> Result<bool, MountError> {
    let opening = |source| MountError::Opening { directory: path.to_owned(), source };
    let handle = match OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_PATH).open(path) {
        Ok(handle) => handle,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(opening(source)),
    };
    // The kernel's own name for it, without links, as the table has it.
    let resolved = fs::read_link(proc_path(handle.as_fd())).map_err(opening)?;
    Ok(mounts()?.iter().any(|entry| entry.mount_point == resolved))
}

/// Where a block device is mounted in this mount namespace, in the order of mounting.
///
/// File systems over several devices (btrfs) have a number of their own: they are known by the node they were mounted
/// from.
///
/// # Errors
/// [`MountError::ReadingMounts`].
pub fn mounts_of(device: DeviceNumber) -> Result<Vec<PathBuf>, MountError> {
    let comes_from = |source: &OsStr| {
        let is_node = source.as_bytes().starts_with(b"/dev/");
        is_node && fs::metadata(source).is_ok_and(|node| DeviceNumber::of_block_node(&node) == Some(device))
    };
    let mine = mounts()?.into_iter().filter(|entry| entry.device == device || comes_from(&entry.source));
    Ok(mine.map(|entry| entry.mount_point).collect())
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct MountEntry {
    device: DeviceNumber,
    mount_point: PathBuf,
    source: OsString,
}

fn mounts() -> Result<Vec<MountEntry>, MountError> {
    let table = fs::read("/proc/self/mountinfo").map_err(MountError::ReadingMounts)?;
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let odd = || io::Error::other(format!("unexpected line '{}'", line.escape_ascii()));
            entry_of(line).ok_or_else(|| MountError::ReadingMounts(odd()))
        })
        .collect()
}

/// Reads a line as proc_pid_mountinfo(5) says: number, parent, major:minor, root, mount point, options, any number of
/// optional fields, a hyphen, type, source, options.
fn entry_of(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
    let mount_point = OsString::from_vec(unescaped(fields.nth(1)?)).into();
    fields.next()?;
    fields.find(|field| *field == b"-")?;
    let source = OsString::from_vec(unescaped(fields.nth(1)?));
    Some(MountEntry { device, mount_point, source })
}

/// Undoes the kernel's escapes: a backslash and three octal digits for blank, tab, newline, backslash and number sign.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| byte == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = behind;
            }
        }
    }
    plain
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The root of the file system mounted on `path`; `None` where that is not a tmpfs.
fn open_tmpfs(path: &Path) -> io::Result<Option<File>> {
    let root = open_directory(path)?;
    Ok(is_tmpfs(root.as_fd())?.then_some(root))
}

/// Whether a file or directory lies in a tmpfs: in memory.
///
/// # Errors
/// The error of statfs(2).
pub fn is_tmpfs(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == TMPFS_MAGIC)
}

fn proc_path(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:2 - ext3 /dev/a\\011b rw,errors=x";
        let entry = entry_of(line).unwrap();
        assert_eq!(entry.device, DeviceNumber::new(98, 0));
        assert_eq!(entry.mount_point, Path::new("/mnt 2\\x"));
        assert_eq!(entry.source, OsStr::new("/dev/a\tb"));
    }

    #[test]
    fn a_line_that_lacks_a_field_is_not_read() {
        for line in [
            "",
            "36",
            "36 35 98:0 /",
            "36 35 x / /mnt rw - ext3 a rw",
            "36 35 98:0 / /mnt rw - ext3",
            "36 35 98:0 / /mnt rw ext3 a rw",
        ] {
            assert_eq!(entry_of(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_backslash_without_three_octal_digits_stays() {
        for (escaped, plain) in
            [("\\04", "\\04"), ("\\", "\\"), ("\\999", "\\999"), ("\\777", "\\777"), ("\\043", "#")]
        {
            assert_eq!(unescaped(escaped.as_bytes()), plain.as_bytes(), "{escaped}");
        }
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_new_directory_is_not() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(directory.path()).unwrap());
        assert!(!is_mount_point(&directory.path().join("absent")).unwrap());
    }

    #[test]
    fn a_directory_with_contents_a_mount_point_a_link_and_a_file_are_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let (full, link, file) = (
            directory.path().join("full"),
            directory.path().join("link"),
            directory.path().join("full/file"),
        );
        fs::create_dir(&full).unwrap();
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&full, &link).unwrap();
        let size = ByteLength::new(1 << 20);
        let refusal = |path: &Path| OwnTmpfs::mount_on(path, size, 0o700).unwrap_err();
        assert!(matches!(refusal(&full), MountError::NotEmpty { .. }));
        assert!(matches!(refusal(Path::new("/proc")), MountError::AlreadyMounted { .. }));
        assert!(matches!(refusal(&link), MountError::Opening { .. }));
        assert!(matches!(refusal(&file), MountError::Opening { .. }));
        assert!(matches!(refusal(&file.join("x")), MountError::Creating { .. }));
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }
}
