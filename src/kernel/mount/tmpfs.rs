//! A file system of our own in memory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::{MountError, is_mount_point, proc_path};
use crate::format::units::ByteLength;
use crate::kernel::raw::mount as raw;

/// How many files the tmpfs takes: an image, its companions and what is being placed. Inodes are memory too.
const MAXIMUM_INODES: u32 = 64;

/// Memory in pieces as large as what is written at once, as far as they are to be had and lie inside the file: writing takes a
/// fifth of the time, and reading half of it. Linux before 6.14 has them of 2 MiB alone, for what lies in front of the end
/// of the file, which is never so here. A hole of a page remains one.
const LARGE_FOLIOS: &str = "huge=within_size";

/// Where a kernel says that it has such pieces.
const LARGE_FOLIO_SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// What a mount for images does not allow.
const NO_RIGHTS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

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
        Self::mount_with(directory, size, mode, NO_RIGHTS)
    }

    /// As [`Self::mount_on`], for a tree that will be a root file system: its programs run, with the rights of their
    /// owners, and its device nodes work. Root alone can enter.
    ///
    /// # Errors
    /// As [`Self::mount_on`].
    pub fn mount_private_on(directory: &Path, size: ByteLength) -> Result<Self, MountError> {
        Self::mount_with(directory, size, 0o700, MsFlags::empty())
    }

    fn mount_with(directory: &Path, size: ByteLength, mode: u32, flags: MsFlags) -> Result<Self, MountError> {
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
        let mounting = |options: &str| {
            // By descriptor: what was found empty above is what is mounted on.
            mount(Some("tmpfs"), &proc_path(below.as_fd()), Some("tmpfs"), flags, Some(options))
        };
        // A kernel without transparent huge pages does not know the option, and complains of it on the console.
        let with_folios = fs::exists(LARGE_FOLIO_SETTINGS).unwrap_or(false);
        match with_folios.then(|| mounting(&format!("{options},{LARGE_FOLIOS}"))) {
            None | Some(Err(Errno::EINVAL)) => mounting(&options),
            Some(other) => other,
        }
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
    remount(directory, root, &format!("size={size}"))
}

/// Lets our own tmpfs take as many files as a tree may have for each byte of room, instead of a few images.
///
/// # Errors
/// [`MountError::Resizing`].
pub fn allow_tree(directory: &Path, root: BorrowedFd<'_>, files: u64) -> Result<(), MountError> {
    remount(directory, root, &format!("nr_inodes={files}"))
}

/// Changes an option of a tmpfs. What its mount allows stays: a remount without the flags would take them away.
fn remount(directory: &Path, root: BorrowedFd<'_>, options: &str) -> Result<(), MountError> {
    let failing =
        |errno: Errno| MountError::Resizing { directory: directory.to_owned(), source: errno.into() };
    let present = fstatvfs(root).map_err(failing)?.flags();
    let kept = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let flags = kept
        .into_iter()
        .filter(|(flag, _)| present.contains(*flag))
        .fold(MsFlags::MS_REMOUNT, |flags, (_, flag)| flags | flag);
    mount(None::<&str>, &proc_path(root), None::<&str>, flags, Some(options)).map_err(failing)
}

/// Whether programs and device nodes on the mount of a file or directory lend nobody any rights.
///
/// # Errors
/// [`MountError::Statistics`].
pub fn lends_no_rights(file: BorrowedFd<'_>) -> Result<bool, MountError> {
    let statistics = fstatvfs(file).map_err(|errno| MountError::Statistics(errno.into()))?;
    Ok(statistics.flags().contains(FsFlags::ST_NOSUID | FsFlags::ST_NODEV))
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

/// How much the file system of a file or directory holds in all.
///
/// # Errors
/// [`MountError::Statistics`].
pub fn total_space(file: BorrowedFd<'_>) -> Result<ByteLength, MountError> {
    let statistics = fstatvfs(file).map_err(|errno| MountError::Statistics(errno.into()))?;
    let (fragments, size) = (statistics.blocks(), statistics.fragment_size());
    Ok(ByteLength::new(fragments.saturating_mul(size)))
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

/// The same directory by a mount of its own, which nobody else sees: what is open in it does not keep the mount that
/// everybody sees from being unmounted.
///
/// # Errors
/// What the kernel said.
pub fn unseen(directory: &File) -> io::Result<File> {
    let clone = raw::clone(directory.as_fd())?;
    // The descriptor is good for paths alone.
    File::open(proc_path(clone.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
