//! A tree of files beneath a directory: written member by member, and removed.
//!
//! Every path is resolved by openat2(2) beneath the directory and through directories alone: no symbolic link is ever
//! followed, whether the archive made it or anybody else, and no mount is entered. Nothing is opened that was there: a
//! later member of the same name takes the place of the one before. Owners, permissions and times of directories come
//! last, so that until then root alone can enter.

mod attributes;
mod error;
mod remove;
mod users;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::format::tar::{Attributes, Kind, LinkTarget, Member, MemberPath};
use crate::kernel::mount::proc_path;

use attributes::{Target, Unsupported, apply};

pub use attributes::Unkept;
pub use error::TreeError;
pub use remove::remove_tree;
pub use users::refuse_in_use;

/// The most bytes that are kept in memory of directories until the end: names, attributes, and something for each.
pub const MAXIMUM_DEFERRED: usize = 64 << 20;
/// What a directory takes there beside its name and attributes.
const DEFERRED_COST: usize = 128;
/// Permissions of directories that are not in the archive themselves.
const IMPLICIT_MODE: u32 = 0o755;

/// What is taken from an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeOptions {
    /// Device nodes are made.
    pub device_nodes: bool,
    /// Files with the rights of another user or group, with capabilities, and device nodes are taken: no other user can
    /// get at the tree.
    pub privileged: bool,
}

/// A tree that is being written.
#[derive(Debug)]
pub struct TreeWriter {
    root: File,
    options: TreeOptions,
    /// The directory of the last member.
    parent: Option<(MemberPath, File)>,
    /// What is to be done to directories at the end.
    directories: BTreeMap<MemberPath, Option<Attributes>>,
    deferred: usize,
    unsupported: Unsupported,
}

/// A file that is being written.
#[derive(Debug)]
#[must_use = "complete it"]
pub struct NewFile {
    file: File,
    path: MemberPath,
    attributes: Attributes,
    size: u64,
}

impl TreeWriter {
    /// A writer of a tree whose root is this directory: empty, and for root alone.
    #[must_use]
    pub fn new(root: File, options: TreeOptions) -> Self {
        let directories = BTreeMap::from([(MemberPath::ROOT, None)]);
        let unsupported = Unsupported::default();
        Self { root, options, parent: None, directories, deferred: 0, unsupported }
    }

    /// Makes a member. Of a file the contents are still missing then.
    ///
    /// # Errors
    /// A [`TreeError`].
    pub fn make(&mut self, member: Member) -> Result<Option<NewFile>, TreeError> {
        let Member { path, kind, attributes, .. } = member;
        self.refuse_privileges(&path, &kind, &attributes)?;
        let Some((above, name)) = path.split() else {
            self.defer(path, Some(attributes))?;
            return Ok(None);
        };
        let name = OsStr::from_bytes(name);
        let making = TreeError::system("making", &path);
        match kind {
            Kind::Directory => {
                let parent = self.parent_of(&path, above)?;
                match mkdirat(&parent, name, Mode::S_IRWXU) {
                    Err(Errno::EEXIST) if is_directory(&parent, name) => {}
                    Err(Errno::EEXIST) => {
                        self.clear(&parent, name, &path)?;
                        mkdirat(&parent, name, Mode::S_IRWXU).map_err(making)?;
                    }
                    other => other.map_err(making)?,
                }
                self.defer(path, Some(attributes))?;
                return Ok(None);
            }
            Kind::File { size } => {
                let parent = self.parent_of(&path, above)?;
                let flags =
                    OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let create = |parent: &File| openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
                let file = File::from(self.replacing(&parent, name, &path, create)?);
                return Ok(Some(NewFile { file, path, attributes, size }));
            }
            Kind::HardLink { target } => {
                self.link(&path, above, name, &target)?;
                return Ok(None);
            }
            Kind::SymbolicLink { target } => {
                let parent = self.parent_of(&path, above)?;
                let create = |parent: &File| symlinkat(link_text(&target), parent, name);
                self.replacing(&parent, name, &path, create)?;
                self.finish_node(&parent, name, &path, &attributes, false)?;
            }
            Kind::Fifo => self.node(&path, above, name, (SFlag::S_IFIFO, 0), &attributes)?,
            Kind::CharacterDevice { major, minor } => {
                let device = makedev(major.into(), minor.into());
                self.node(&path, above, name, (SFlag::S_IFCHR, device), &attributes)?;
            }
            Kind::BlockDevice { major, minor } => {
                let device = makedev(major.into(), minor.into());
                self.node(&path, above, name, (SFlag::S_IFBLK, device), &attributes)?;
            }
        }
        Ok(None)
    }

    /// Gives a file its size and its attributes.
    ///
    /// # Errors
    /// A [`TreeError`].
    pub fn complete(&mut self, file: NewFile) -> Result<(), TreeError> {
        let writing = |source| TreeError::System { doing: "writing", path: file.path.to_string(), source };
        // A hole at the end is not written.
        file.file.set_len(file.size).map_err(writing)?;
        apply(&Target::Open(&file.file), &file.path, &file.attributes, &mut self.unsupported)
    }

    /// Gives the directories their attributes: from here on the tree is complete. What was not kept is told.
    ///
    /// # Errors
    /// A [`TreeError`].
    pub fn finish(mut self) -> Result<Vec<Unkept>, TreeError> {
        self.parent = None;
        // What lies in a directory comes behind it.
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let directory =
                open_beneath(self.root.as_fd(), &path, flags).map_err(TreeError::system("opening", &path))?;
            match attributes {
                Some(attributes) => {
                    apply(&Target::Open(&directory), &path, &attributes, &mut self.unsupported)?;
                }
                None => attributes::set_mode(&directory, IMPLICIT_MODE).map_err(|source| {
                    TreeError::System { doing: "making", path: path.to_string(), source }
                })?,
            }
        }
        Ok(self.unsupported.into_list())
    }

    fn refuse_privileges(
        &self,
        path: &MemberPath,
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<(), TreeError> {
        let device = matches!(kind, Kind::BlockDevice { .. } | Kind::CharacterDevice { .. });
        if device && !self.options.device_nodes {
            return Err(TreeError::DeviceNode { path: path.to_string() });
        }
        let is_file = matches!(kind, Kind::File { .. });
        let what = if device {
            "is a device node"
        } else if is_file && attributes.mode & 0o6000 != 0 {
            "runs as another user or group (mode with set-user-ID or set-group-ID)"
        } else if is_file && attributes.extended.contains_key(&b"security.capability"[..]) {
            "runs with capabilities"
        } else {
            return Ok(());
        };
        if self.options.privileged {
            Ok(())
        } else {
            Err(TreeError::Privileged { path: path.to_string(), what })
        }
    }

    /// Makes a pipe or a device.
    fn node(
        &mut self,
        path: &MemberPath,
        above: MemberPath,
        name: &OsStr,
        (kind, device): (SFlag, libc::dev_t),
        attributes: &Attributes,
    ) -> Result<(), TreeError> {
        let parent = self.parent_of(path, above)?;
        let create = |parent: &File| mknodat(parent, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device);
        self.replacing(&parent, name, path, create)?;
        self.finish_node(&parent, name, path, attributes, true)
    }

    fn finish_node(
        &mut self,
        parent: &File,
        name: &OsStr,
        path: &MemberPath,
        attributes: &Attributes,
        has_mode: bool,
    ) -> Result<(), TreeError> {
        apply(&Target::Named { parent, name, has_mode }, path, attributes, &mut self.unsupported)
    }

    /// Gives a member another name. A symbolic link is linked itself.
    fn link(
        &mut self,
        path: &MemberPath,
        above: MemberPath,
        name: &OsStr,
        target: &MemberPath,
    ) -> Result<(), TreeError> {
        let nothing = || TreeError::LinkToNothing { path: path.to_string(), target: target.to_string() };
        let (target_above, target_name) = target.split().ok_or_else(|| TreeError::LinkToDirectory {
            path: path.to_string(),
            target: target.to_string(),
        })?;
        let target_name = OsStr::from_bytes(target_name);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let from = match open_beneath(self.root.as_fd(), &target_above, flags) {
            Ok(from) => from,
            Err(Errno::ENOENT) => return Err(nothing()),
            Err(errno) => return Err(self.obstacle(path, &target_above, errno)),
        };
        match status(&from, target_name) {
            Ok(status) if is_kind(&status, SFlag::S_IFDIR) => {
                return Err(TreeError::LinkToDirectory {
                    path: path.to_string(),
                    target: target.to_string(),
                });
            }
            Ok(_) => {}
            Err(Errno::ENOENT) => return Err(nothing()),
            Err(errno) => return Err(TreeError::system("examining", target)(errno)),
        }
        if path == target {
            return Err(nothing());
        }
        let parent = self.parent_of(path, above)?;
        let create = |parent: &File| linkat(&from, target_name, parent, name, AtFlags::empty());
        self.replacing(&parent, name, path, create)
    }

    /// Makes something; what has its name goes first.
    fn replacing<T>(
        &mut self,
        parent: &File,
        name: &OsStr,
        path: &MemberPath,
        create: impl Fn(&File) -> Result<T, Errno>,
    ) -> Result<T, TreeError> {
        match create(parent) {
            Err(Errno::EEXIST) => {
                self.clear(parent, name, path)?;
                create(parent)
            }
            other => other,
        }
        .map_err(TreeError::system("making", path))
    }

    /// Removes what an earlier member made: a directory only if nothing is in it.
    fn clear(&mut self, parent: &File, name: &OsStr, path: &MemberPath) -> Result<(), TreeError> {
        let removed = match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => {
                self.directories.remove(path);
                self.parent = None;
                unlinkat(parent, name, UnlinkatFlags::RemoveDir)
            }
            other => other,
        };
        match removed {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Err(TreeError::Occupied { path: path.to_string() }),
            other => other.map_err(TreeError::system("removing", path)),
        }
    }

    /// The directory that a member is in, made where it is missing.
    fn parent_of(&mut self, path: &MemberPath, above: MemberPath) -> Result<File, TreeError> {
        let copy = |file: &File| {
            file.try_clone().map_err(|source| TreeError::System {
                doing: "opening",
                path: path.to_string(),
                source,
            })
        };
        if let Some((of, parent)) = &self.parent
            && *of == above
        {
            return copy(parent);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parent = match open_beneath(self.root.as_fd(), &above, flags) {
            Ok(parent) => parent,
            Err(Errno::ENOENT) => self.make_directories(path, &above)?,
            Err(errno) => return Err(self.obstacle(path, &above, errno)),
        };
        let copied = copy(&parent)?;
        self.parent = Some((above, parent));
        Ok(copied)
    }

    /// Makes the directories that a member is in and that are no members themselves.
    fn make_directories(&mut self, path: &MemberPath, above: &MemberPath) -> Result<File, TreeError> {
        let opening = |errno: Errno| TreeError::system("opening", path)(errno);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut parent = open_beneath(self.root.as_fd(), &MemberPath::ROOT, flags).map_err(opening)?;
        for directory in above.ancestors_and_self() {
            let Some((_, name)) = directory.split() else {
                continue;
            };
            match mkdirat(&parent, OsStr::from_bytes(name), Mode::S_IRWXU) {
                Ok(()) => self.defer(directory.clone(), None)?,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(TreeError::system("making", &directory)(errno)),
            }
            parent = open_beneath(self.root.as_fd(), &directory, flags)
                .map_err(|errno| self.obstacle(path, &directory, errno))?;
        }
        Ok(parent)
    }

    /// Why the directory that a member is in cannot be opened: what is in the way, by name.
    fn obstacle(&self, path: &MemberPath, above: &MemberPath, errno: Errno) -> TreeError {
        for directory in above.ancestors_and_self() {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let Ok(found) = open_beneath(self.root.as_fd(), &directory, flags) else {
                break;
            };
            match found.metadata() {
                Ok(metadata) if metadata.is_symlink() => {
                    return TreeError::ThroughLink { path: path.to_string(), link: directory.to_string() };
                }
                Ok(metadata) if !metadata.is_dir() => {
                    return TreeError::NoDirectory { path: path.to_string(), above: directory.to_string() };
                }
                _ => {}
            }
        }
        TreeError::system("opening the directory of", path)(errno)
    }

    /// Notes what is to be done to a directory at the end; the last word counts.
    fn defer(&mut self, path: MemberPath, attributes: Option<Attributes>) -> Result<(), TreeError> {
        let extended = attributes.iter().flat_map(|attributes| &attributes.extended);
        let cost = extended.map(|(name, value)| name.len().saturating_add(value.len())).sum::<usize>();
        let cost = cost.saturating_add(path.as_bytes().len()).saturating_add(DEFERRED_COST);
        self.deferred = self.deferred.saturating_add(cost);
        if self.deferred > MAXIMUM_DEFERRED {
            return Err(TreeError::TooManyDirectories);
        }
        self.directories.insert(path, attributes);
        Ok(())
    }
}

impl NewFile {
    /// Writes a piece of the contents.
    ///
    /// # Errors
    /// [`TreeError::System`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), TreeError> {
        self.file.write_all_at(bytes, offset).map_err(|source| TreeError::System {
            doing: "writing",
            path: self.path.to_string(),
            source,
        })
    }
}

/// Opens what has this path beneath a directory, through directories alone.
fn open_beneath(root: BorrowedFd<'_>, path: &MemberPath, flags: OFlag) -> Result<File, Errno> {
    let path = if path.is_root() { OsStr::new(".") } else { OsStr::from_bytes(path.as_bytes()) };
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    // With O_PATH and O_NOFOLLOW a link at the end is opened itself, which RESOLVE_NO_SYMLINKS lets pass.
    openat2(root, path, OpenHow::new().flags(flags).resolve(resolve)).map(File::from)
}

fn status(parent: &File, name: &OsStr) -> Result<FileStat, Errno> {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn is_kind(status: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == kind
}

fn is_directory(parent: &File, name: &OsStr) -> bool {
    status(parent, name).is_ok_and(|status| is_kind(&status, SFlag::S_IFDIR))
}

fn link_text(target: &LinkTarget) -> &OsStr {
    OsStr::from_bytes(target.as_bytes())
}

/// Makes the directory in which a tree is written: for root alone.
///
/// # Errors
/// [`TreeError::System`], with `EEXIST` where the name is taken.
pub fn make_root(parent: BorrowedFd<'_>, name: &OsStr) -> Result<File, TreeError> {
    let shown = name.to_string_lossy();
    mkdirat(parent, name, Mode::S_IRWXU).map_err(TreeError::system("making", &shown))?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(File::from).map_err(TreeError::system("opening", &shown))
}

/// Opens a directory in another one; what is no directory, a link for one, is not followed.
///
/// # Errors
/// The error of open(2).
pub fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty()).map(File::from)?)
}

/// Moves a directory to another name; nothing may have that one.
///
/// # Errors
/// [`TreeError::System`], with `EEXIST` where the name is taken.
pub fn rename_tree(
    (from, name): (BorrowedFd<'_>, &OsStr),
    (to, new): (BorrowedFd<'_>, &OsStr),
) -> Result<(), TreeError> {
    renameat2(from, name, to, new, RenameFlags::RENAME_NOREPLACE)
        .map_err(TreeError::system("giving a tree the name", &new.to_string_lossy()))
}

/// The name of the only entry of a directory, where that is a directory.
///
/// # Errors
/// [`TreeError::System`].
pub fn only_directory(root: BorrowedFd<'_>) -> Result<Option<OsString>, TreeError> {
    let listing = |source| TreeError::System { doing: "listing", path: "./".to_owned(), source };
    let mut entries = fs::read_dir(proc_path(root)).map_err(listing)?;
    let (Some(first), None) = (entries.next(), entries.next()) else {
        return Ok(None);
    };
    let first = first.map_err(listing)?;
    Ok(first.file_type().map_err(listing)?.is_dir().then(|| first.file_name()))
}

/// Whether a file lies in a tree, found as a system that has it as its root would find it.
#[must_use]
pub fn has_file(root: BorrowedFd<'_>, path: &str) -> bool {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let found = openat2(root, path, how).map(File::from);
    found.is_ok_and(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))
}

#[cfg(test)]
mod tests;
