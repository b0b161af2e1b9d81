//! Removing a tree with everything in it: without following a link or entering a mount, whatever its depth.
//!
//! Directories with contents are moved up to the root of the tree before they are emptied, so that one directory at a
//! time is open and no path grows. A process that dies in between leaves a tree that can be removed in the same way.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::TreeError;
use crate::kernel::mount::proc_path;

/// How often a directory is listed again because something new is in it: by then somebody fills it as we empty it.
const MOST_ROUNDS: usize = 1 << 16;

/// Removes the directory `name` of `parent`. One that is gone already is gone; what is no directory stays.
///
/// # Errors
/// [`TreeError::System`]: for one thing where something is mounted in it. What is left can be removed later.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), TreeError> {
    let shown = name.to_string_lossy();
    let root = match open(parent, name) {
        Ok(root) => root,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(TreeError::system("opening", &shown)(errno)),
    };
    let mut lifted = 0;
    for _ in 0..MOST_ROUNDS {
        let entries = list(&root).map_err(TreeError::system("listing", &shown))?;
        if entries.is_empty() {
            return match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => Ok(()),
                Err(errno) => Err(TreeError::system("removing", &shown)(errno)),
            };
        }
        for entry in entries {
            let path = format!("{shown}/{}", entry.to_string_lossy());
            remove_entry(&root, &entry, &mut lifted).map_err(TreeError::system("removing", &path))?;
        }
    }
    Err(TreeError::system("removing", &shown)(Errno::ENOTEMPTY))
}

/// Removes an entry of the root; what is deeper in it becomes an entry of the root.
fn remove_entry(root: &File, name: &OsStr, lifted: &mut u64) -> Result<(), Errno> {
    if unlink(root, name)? {
        return Ok(());
    }
    let directory = open(root.as_fd(), name)?;
    for _ in 0..MOST_ROUNDS {
        let entries = list(&directory)?;
        if entries.is_empty() {
            return unlink(root, name).map(drop);
        }
        for entry in entries {
            if !unlink(&directory, &entry)? {
                lift(&directory, &entry, root, lifted)?;
            }
        }
    }
    Err(Errno::ENOTEMPTY)
}

/// Moves a directory up under a name that is free.
fn lift(directory: &File, entry: &OsStr, root: &File, lifted: &mut u64) -> Result<(), Errno> {
    loop {
        *lifted = lifted.saturating_add(1);
        let name = format!(".removed-{lifted}");
        match renameat2(directory, entry, root, name.as_str(), RenameFlags::RENAME_NOREPLACE) {
            // A tree that somebody else removed a part of has such names, fewer than it has entries.
            Err(Errno::EEXIST) => {}
            other => return other,
        }
    }
}

/// Removes an entry, if it is no directory with contents.
fn unlink(directory: &File, name: &OsStr) -> Result<bool, Errno> {
    let removed = match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unlinkat(directory, name, UnlinkatFlags::RemoveDir),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> Result<File, Errno> {
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    openat2(parent, name, how).map(File::from)
}

fn list(directory: &File) -> Result<Vec<OsString>, Errno> {
    /// How many names are taken at once.
    const BATCH: usize = 4096;
    let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let entries = fs::read_dir(proc_path(directory.as_fd())).map_err(errno)?;
    entries.take(BATCH).map(|entry| Ok(entry.map_err(errno)?.file_name())).collect()
}
