//! Places in the tree of an image: found beneath its root whatever its symbolic links say, made where they are missing.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{MountError, is_same, mount_number, proc_path};

/// Permissions of the directories that are made.
const MODE: u32 = 0o755;
/// How deep a place may lie; `var/tmp` is the deepest.
const DEEPEST: usize = 8;

/// The root directory of an image that is mounted.
#[derive(Debug)]
pub struct ImageRoot {
    root: File,
    /// Where it is, for messages.
    directory: PathBuf,
}

/// A directory in an image, open for paths alone.
#[derive(Debug)]
pub struct Place {
    handle: File,
    /// Where it is, without symbolic links.
    pub directory: PathBuf,
}

/// A directory that was made in an image.
#[derive(Debug)]
#[must_use = "undo it, or keep it by dropping it"]
pub struct CreatedDirectory {
    parent: File,
    name: PathBuf,
    path: PathBuf,
}

impl ImageRoot {
    /// The root of the mount that `root` is a descriptor of, shown as `directory`.
    #[must_use]
    pub const fn new(root: File, directory: PathBuf) -> Self {
        Self { root, directory }
    }

    /// Finds a directory. Symbolic links are followed as within the image: an absolute one begins at its root, and `..`
    /// does not lead out of it.
    ///
    /// # Errors
    /// [`MountError::Opening`] for what is no directory; a missing one is `None`.
    pub fn find(&self, path: &Path) -> Result<Option<Place>, MountError> {
        let opening = |source| MountError::Opening { directory: self.directory.join(path), source };
        match self.open(path) {
            Ok(handle) => {
                // Where it really is, without links: as the mount table will have it.
                let directory = fs::read_link(proc_path(handle.as_fd())).map_err(opening)?;
                Ok(Some(Place { handle, directory }))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(opening(errno.into())),
        }
    }

    /// Finds a directory, and makes it and those above it where they are missing.
    ///
    /// # Errors
    /// [`MountError::Creating`]; what was made stays until it is undone, and is in `made` also then.
    pub fn find_or_create(&self, path: &Path, made: &mut Vec<CreatedDirectory>) -> Result<Place, MountError> {
        if let Some(place) = self.find(path)? {
            return Ok(place);
        }
        let mut above = PathBuf::new();
        for component in path.components().take(DEEPEST) {
            let Component::Normal(name) = component else {
                continue;
            };
            let below = above.join(name);
            if self.find(&below)?.is_none() {
                let creating = |errno: Errno| MountError::Creating {
                    directory: self.directory.join(&below),
                    source: errno.into(),
                };
                let parent = self.open(&above).map_err(creating)?;
                // A link that leads nowhere is in the way here: nothing is made behind it.
                mkdirat(&parent, name, Mode::from_bits_truncate(MODE)).map_err(creating)?;
                made.push(CreatedDirectory { parent, name: name.into(), path: self.directory.join(&below) });
                let made = self.open(&below).map_err(creating)?;
                // Whatever the mask of this process takes away.
                fs::set_permissions(proc_path(made.as_fd()), Permissions::from_mode(MODE)).map_err(
                    |source| MountError::Creating { directory: self.directory.join(&below), source },
                )?;
            }
            above = below;
        }
        self.find(path)?.ok_or_else(|| MountError::Creating {
            directory: self.directory.join(path),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Whether a place is the root of the image itself.
    ///
    /// # Errors
    /// [`MountError::Opening`] where that cannot be told.
    pub fn is(&self, place: &Place) -> Result<bool, MountError> {
        is_same(&self.root, &place.handle)
            .map_err(|source| MountError::Opening { directory: place.directory.clone(), source })
    }

    fn open(&self, path: &Path) -> Result<File, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how).map(File::from)
    }
}

impl Place {
    /// The directory at this path itself, without following a symbolic link.
    ///
    /// # Errors
    /// [`MountError::Opening`].
    pub fn of_path(path: &Path) -> Result<Self, MountError> {
        let opening = |source| MountError::Opening { directory: path.to_owned(), source };
        let handle = super::open_place(path).map_err(opening)?;
        let directory = fs::read_link(proc_path(handle.as_fd())).map_err(opening)?;
        Ok(Self { handle, directory })
    }

    /// The descriptor, good for paths alone.
    #[must_use]
    pub const fn handle(&self) -> &File {
        &self.handle
    }

    /// Whether nothing is in it.
    ///
    /// # Errors
    /// [`MountError::Opening`] where it cannot be listed.
    pub fn is_empty(&self) -> Result<bool, MountError> {
        let opening = |source| MountError::Opening { directory: self.directory.clone(), source };
        Ok(fs::read_dir(proc_path(self.handle.as_fd())).map_err(opening)?.next().is_none())
    }

    /// Whether it is the root directory of a file system that is mounted there.
    ///
    /// # Errors
    /// [`MountError::Opening`] where that cannot be told.
    pub fn is_mount_point(&self) -> Result<bool, MountError> {
        let opening = |source| MountError::Opening { directory: self.directory.clone(), source };
        let parent = openat2(
            &self.handle,
            "..",
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC),
        )
        .map_err(|errno| opening(errno.into()))?;
        let parent = File::from(parent);
        let numbers = (mount_number(parent.as_fd()), mount_number(self.handle.as_fd()));
        let (above, here) = (numbers.0.map_err(opening)?, numbers.1.map_err(opening)?);
        let same_inode = {
            let (a, b) = (parent.metadata().map_err(opening)?, self.handle.metadata().map_err(opening)?);
            (a.dev(), a.ino()) == (b.dev(), b.ino())
        };
        // The root of everything is its own parent.
        Ok(above != here || same_inode)
    }
}

impl CreatedDirectory {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`MountError::Removing`], also where something is in it by now.
    pub fn undo(self) -> Result<(), MountError> {
        match unlinkat(&self.parent, &self.name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(MountError::Removing { directory: self.path, source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory `outside` with a directory `image` in it.
    fn image() -> (tempfile::TempDir, ImageRoot) {
        let outside = tempfile::tempdir().unwrap();
        let image = outside.path().join("image");
        fs::create_dir(&image).unwrap();
        let root = ImageRoot::new(File::open(&image).unwrap(), image);
        (outside, root)
    }

    #[test]
    fn links_stay_beneath_the_root() {
        let (outside, root) = image();
        let image = outside.path().join("image");
        fs::create_dir_all(image.join("etc")).unwrap();
        fs::create_dir(image.join("var")).unwrap();
        for (name, target) in
            [("var/tmp", "/etc"), ("up", "../../.."), ("top", "/"), ("magic", "/proc/self/root")]
        {
            symlink(target, image.join(name)).unwrap();
        }
        let found = |path: &str| root.find(Path::new(path)).unwrap();
        let etc = found("etc").unwrap();
        let tmp = found("var/tmp").unwrap();
        assert!(is_same(etc.handle(), tmp.handle()).unwrap());
        assert!(!root.is(&etc).unwrap());
        for escape in ["up", "top", "up/..", "../.."] {
            assert!(root.is(&found(escape).unwrap()).unwrap(), "{escape}");
        }
        assert!(found("magic").is_none());
        assert!(found("home").is_none());
    }

    #[test]
    fn what_is_missing_is_made_and_taken_away_again() {
        let (outside, root) = image();
        let mut made = Vec::new();
        let place = root.find_or_create(Path::new("var/tmp"), &mut made).unwrap();
        assert!(place.is_empty().unwrap() && !place.is_mount_point().unwrap());
        assert_eq!(place.directory, fs::canonicalize(outside.path()).unwrap().join("image/var/tmp"));
        assert_eq!(made.len(), 2);
        assert_eq!(fs::metadata(&place.directory).unwrap().mode() & 0o7777, MODE);
        let again = root.find_or_create(Path::new("var/tmp"), &mut made).unwrap();
        assert!(is_same(place.handle(), again.handle()).unwrap());
        assert_eq!(made.len(), 2);
        while let Some(directory) = made.pop() {
            directory.undo().unwrap();
        }
        assert!(!outside.path().join("image/var").try_exists().unwrap());
    }

    #[test]
    fn nothing_is_made_behind_a_link_that_leads_nowhere_or_in_place_of_a_file() {
        let (outside, root) = image();
        let image = outside.path().join("image");
        symlink("/nowhere", image.join("home")).unwrap();
        symlink("../../escaped", image.join("srv")).unwrap();
        fs::write(image.join("var"), "a file").unwrap();
        let mut made = Vec::new();
        for name in ["home", "srv"] {
            let error = root.find_or_create(Path::new(name), &mut made).unwrap_err();
            assert!(matches!(error, MountError::Creating { .. }), "{name}: {error}");
        }
        assert!(matches!(
            root.find_or_create(Path::new("var/tmp"), &mut made),
            Err(MountError::Opening { .. })
        ));
        assert!(made.is_empty() && !outside.path().join("escaped").try_exists().unwrap());
    }

    #[test]
    fn a_place_with_contents_is_not_empty_and_the_root_is_a_mount_point() {
        let (outside, root) = image();
        fs::create_dir_all(outside.path().join("image/efi/EFI")).unwrap();
        assert!(!root.find(Path::new("efi")).unwrap().unwrap().is_empty().unwrap());
        assert!(Place::of_path(Path::new("/")).unwrap().is_mount_point().unwrap());
        assert!(Place::of_path(Path::new("/proc")).unwrap().is_mount_point().unwrap());
        assert!(!Place::of_path(outside.path()).unwrap().is_mount_point().unwrap());
    }
}
