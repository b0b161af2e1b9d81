//! The directory that pulled images lie in: on a disk as it is there, in memory a tmpfs of ours where nothing is in the
//! way; and how that goes again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::format::image_class::ImageClass;
use crate::format::units::ByteLength;
use crate::kernel::mount::{self, OwnTmpfs};

use super::activate::{INITRD_RELEASE, Reservation};
use super::error::OperationError;
use super::fault;
use super::record::{Placed, RecordStore};

/// Permissions of a directory for images in memory: everybody may see what there is.
const DIRECTORY_MODE: u32 = 0o755;

/// The directory that an image is placed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// What it is on.
    pub medium: Medium,
    /// Its permissions where it has to be made on a disk.
    pub permissions: u32,
    /// Whether what is in it will be a root file system: in memory it then lets programs run and devices work, and root
    /// alone can enter.
    pub for_root: bool,
}

/// What pulled images lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// Memory: gone when the machine goes down.
    Memory,
    /// Whatever the directory is on, a disk for one.
    Disk,
}

impl Medium {
    /// Where images go that nobody said more of: in an initrd into memory, else to a disk.
    ///
    /// # Errors
    /// [`OperationError::System`] where it cannot be told whether this is an initrd.
    pub fn of_this_system() -> Result<Self, OperationError> {
        let initrd = fs::exists(INITRD_RELEASE)
            .map_err(|source| OperationError::system("examining", INITRD_RELEASE, source))?;
        Ok(if initrd { Self::Memory } else { Self::Disk })
    }
}

impl ImageDirectory {
    /// The directory for images of a class.
    #[must_use]
    pub fn of_class(class: ImageClass, medium: Medium) -> Self {
        let path = match medium {
            Medium::Memory => class.runtime_directory(),
            Medium::Disk => class.persistent_directory(),
        };
        Self {
            path: PathBuf::from(path),
            medium,
            permissions: if class.is_private() { 0o700 } else { 0o755 },
            for_root: false,
        }
    }

    /// The same, to be found from every working directory.
    ///
    /// # Errors
    /// [`OperationError::System`] where there is no working directory.
    pub(super) fn absolute(&self) -> Result<Self, OperationError> {
        let path = std::path::absolute(&self.path)
            .map_err(|source| OperationError::system("resolving", &self.path, source))?;
        Ok(Self { path, ..self.clone() })
    }
}

/// Makes `directory` ready for an image that will be `target` in it, and gives its descriptor. `room` is what the image
/// may take, `needed` what it will take, where that is known.
///
/// # Errors
/// [`OperationError`]; the reservation's record names everything that has to be undone.
pub(super) fn prepare(
    directory: &ImageDirectory,
    target: &Path,
    room: ByteLength,
    needed: Option<ByteLength>,
    reservation: &mut Reservation,
) -> Result<File, OperationError> {
    match directory.medium {
        Medium::Memory => prepare_in_memory(directory, target, room, needed, reservation),
        Medium::Disk => prepare_on_disk(directory, target, needed, reservation),
    }
}

/// [`prepare`] for an image that block devices may be made of: the system that follows an initrd can unmount the directory
/// when it goes down, although its root is on the image.
///
/// # Errors
/// As [`prepare`].
pub(super) fn prepare_for_image(
    directory: &ImageDirectory,
    target: &Path,
    room: ByteLength,
    needed: Option<ByteLength>,
    reservation: &mut Reservation,
) -> Result<File, OperationError> {
    let root = prepare(directory, target, room, needed, reservation)?;
    let of_initrd = directory.medium == Medium::Memory && fs::exists(INITRD_RELEASE).unwrap_or(false);
    // Without it the system goes down all the same, and complains.
    Ok(if of_initrd { mount::unseen(&root).unwrap_or(root) } else { root })
}

/// [`prepare`] for a directory as it is there; one that is absent is made.
fn prepare_on_disk(
    directory: &ImageDirectory,
    target: &Path,
    needed: Option<ByteLength>,
    reservation: &mut Reservation,
) -> Result<File, OperationError> {
    let path = directory.path.as_path();
    let absent = !path.try_exists().map_err(|source| OperationError::system("examining", path, source))?;
    let placed = |directory_created| Placed {
        path: target.to_owned(),
        file: None,
        tmpfs: None,
        room: 0,
        directory_created,
        beside: Vec::new(),
    };
    reservation.will_place(placed(absent))?;
    fault::point("pull:recorded")?;
    if absent && let Err(source) = DirBuilder::new().mode(directory.permissions).create(path) {
        // What has the name now, if anything, is somebody else's: undoing must leave it alone.
        reservation.will_place(placed(false))?;
        if source.kind() != io::ErrorKind::AlreadyExists {
            return Err(OperationError::system("making the directory", path, source));
        }
    }
    fault::point("pull:mounted")?;
    let root = File::open(path).map_err(|source| OperationError::system("opening", path, source))?;
    expect_room(path, &root, needed)?;
    Ok(root)
}

/// Refuses an image that does not fit into what is free.
fn expect_room(directory: &Path, root: &File, needed: Option<ByteLength>) -> Result<(), OperationError> {
    let space = mount::free_space(root.as_fd())
        .map_err(|source| OperationError::system("examining", directory, source))?;
    match needed {
        Some(needed) if needed > space => {
            let problem = format!(
                "the image needs {needed} bytes, and {space} are free there: choose another directory with --image-root="
            );
            Err(OperationError::state("placing an image in", directory.display(), problem))
        }
        _ => Ok(()),
    }
}

/// [`prepare`] for images in memory.
fn prepare_in_memory(
    place: &ImageDirectory,
    target: &Path,
    room: ByteLength,
    needed: Option<ByteLength>,
    reservation: &mut Reservation,
) -> Result<File, OperationError> {
    let directory = place.path.as_path();
    let at = |doing| move |source| OperationError::system(doing, directory, source);
    // Of two pulls into one directory, one makes the tmpfs and the other finds it.
    let store = RecordStore::of_this_machine();
    let _lock = store.lock()?;
    let absent = !directory.try_exists().map_err(at("examining"))?;
    let free = absent || is_free(directory)?;
    let sharing = sharing(&store, reservation.reference(), directory)?;
    let ours = !free && !sharing.is_empty();
    let foreign = Placed {
        path: target.to_owned(),
        file: None,
        tmpfs: None,
        room: 0,
        directory_created: false,
        beside: Vec::new(),
    };
    let own = Placed {
        tmpfs: Some(directory.to_owned()),
        room: room.bytes(),
        directory_created: absent || ours && sharing.iter().any(|placed| placed.directory_created),
        ..foreign.clone()
    };
    reservation.will_place(if free || ours { own } else { foreign.clone() })?;
    fault::point("pull:recorded")?;
    let mounting = |source| OperationError::system("mounting a tmpfs on", directory, source);
    let root = if free {
        let made = if place.for_root {
            OwnTmpfs::mount_private_on(directory, room)
        } else {
            OwnTmpfs::mount_on(directory, room, DIRECTORY_MODE)
        };
        let tmpfs = match made {
            Ok(tmpfs) => tmpfs,
            Err(source) => {
                // What is mounted there now, if anything, is somebody else's: undoing must leave it alone.
                reservation.will_place(foreign)?;
                return Err(mounting(source));
            }
        };
        let root = tmpfs.root().map_err(mounting)?;
        // The record names it: undoing takes it down, also after this process died.
        tmpfs.keep();
        root
    } else {
        File::open(directory).map_err(at("opening"))?
    };
    fault::point("pull:mounted")?;
    if !mount::is_tmpfs(root.as_fd()).map_err(at("examining"))? {
        let problem = "expected a tmpfs, because what is attached must not change after it was verified: \
                       choose an empty directory or one in a tmpfs with --image-root=";
        return Err(OperationError::state("placing an image in", directory.display(), problem));
    }
    if ours {
        let size = ByteLength::new(total_room(&sharing).bytes().saturating_add(room.bytes()));
        mount::resize_tmpfs(directory, root.as_fd(), size).map_err(mounting)?;
    } else if !free {
        expect_room(directory, &root, needed)?;
    }
    Ok(root)
}

/// Whether a directory is empty and nothing is mounted on it.
fn is_free(directory: &Path) -> Result<bool, OperationError> {
    let mut entries =
        fs::read_dir(directory).map_err(|source| OperationError::system("reading", directory, source))?;
    let mounted = mount::is_mount_point(directory)
        .map_err(|source| OperationError::system("examining", directory, source))?;
    Ok(entries.next().is_none() && !mounted)
}

/// What the records other than that of `reference` say of a tmpfs that was mounted on `directory` for images.
fn sharing(store: &RecordStore, reference: &str, directory: &Path) -> Result<Vec<Placed>, OperationError> {
    let others = store.all()?.into_iter().filter(|other| other.reference != reference);
    let placed = others.filter_map(|other| other.placed);
    Ok(placed.filter(|placed| placed.tmpfs.as_deref() == Some(directory)).collect())
}

fn total_room(placed: &[Placed]) -> ByteLength {
    ByteLength::new(placed.iter().fold(0, |total, placed| total.saturating_add(placed.room)))
}

/// Takes down the tmpfs that was mounted on a directory for the attachment `reference` and others, and the directory if
/// it was made for them; as long as there are others, it only gets smaller. The caller holds the lock of the records.
///
/// # Errors
/// [`OperationError::System`] where something cannot be removed.
pub(super) fn leave(
    store: &RecordStore,
    reference: &str,
    directory: &Path,
    created: bool,
) -> Result<(), OperationError> {
    let at = |doing| move |source| OperationError::system(doing, directory, source);
    let mounted = mount::is_mount_point(directory)
        .map_err(|source| OperationError::system("examining", directory, source))?;
    let others = sharing(store, reference, directory)?;
    if !others.is_empty() {
        if mounted && let Ok(root) = File::open(directory) {
            // It is a limit and no more: where it cannot be changed, it stays as it is.
            let _ = mount::resize_tmpfs(directory, root.as_fd(), total_room(&others));
        }
        return Ok(());
    }
    // Somebody else may have put files there since; then the tmpfs stays, for them.
    let is_empty = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if mounted && is_empty {
        mount::unmount(directory)
            .map_err(|source| OperationError::system("unmounting", directory, source))?;
    }
    if created && is_empty {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("removing")(error)),
            _ => {}
        }
    }
    Ok(())
}
