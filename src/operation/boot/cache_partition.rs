//! The partition where downloads are kept from one boot to the next, by its name in the partition table.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::format::mounting::MountFlags;
use crate::format::superblock::FileSystem;
use crate::format::units::ByteLength;
use crate::kernel;
use crate::kernel::mount::{
    MountEntry, MountRequest, MountTable, PreparedMount, total_space, unmount_unused,
};
use crate::kernel::partition::partitions_with_label;
use crate::operation::cache::CacheSettings;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::examine::examine;
use crate::operation::observer::Observer;
use crate::operation::source::ImageFile;
use crate::operation::trust_store::TrustStore;

/// Below this directory each is mounted by its label.
const DIRECTORY: &str = "/run/ddictl/cache";
/// How long a disk may take to appear. A boot does without the cache, so it does not wait long.
const DEADLINE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);

/// A mounted cache. When it is dropped it is unmounted, unless something of it is in use.
#[derive(Debug)]
pub(super) struct MountedCache {
    directory: PathBuf,
    entry: MountEntry,
}

impl MountedCache {
    /// How it is used: nearly all of it may be taken.
    pub(super) fn settings(&self) -> Result<CacheSettings, OperationError> {
        let examining = |source| OperationError::system("examining", &self.directory, source);
        let root = File::open(&self.directory).map_err(examining)?;
        let size = total_space(root.as_fd())
            .map_err(|source| OperationError::system("examining", &self.directory, source))?;
        // Some room is left to the file system itself.
        let size = ByteLength::new(size.bytes() / 10 * 9);
        Ok(CacheSettings { directory: self.directory.join("ddictl"), size })
    }
}

impl Drop for MountedCache {
    fn drop(&mut self) {
        // What is attached from it keeps it mounted.
        let _ = unmount_unused(&self.entry);
    }
}

/// Mounts the partition of this label. `None` where there is none, or none that can be used: the boot goes on without,
/// and it is said why.
///
/// # Errors
/// [`OperationError::Interrupted`].
pub(super) fn mount(
    label: &str,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Option<MountedCache>, OperationError> {
    match try_mount(label, trust, cancel) {
        Ok(mounted) => Ok(Some(mounted)),
        Err(error @ OperationError::Interrupted(_)) => Err(error),
        Err(error) => {
            observer.warning(&format!("going on without the cache '{label}': {}", error.with_causes()));
            Ok(None)
        }
    }
}

fn try_mount(label: &str, trust: &TrustStore, cancel: &Cancel) -> Result<MountedCache, OperationError> {
    let directory = Path::new(DIRECTORY).join(label);
    fs::create_dir_all(&directory)
        .map_err(|source| OperationError::system("making the directory", &directory, source))?;
    let examining = |source| OperationError::system("examining", &directory, source);
    let table = MountTable::read().map_err(examining)?;
    if let Some(entry) =
        table.at(&directory).map_err(examining)?.filter(|entry| entry.mount_point == directory)
    {
        return Ok(MountedCache { entry: entry.clone(), directory });
    }
    let node = find(label, cancel)?;
    let file_system = file_system_of(&node, trust, cancel)?;
    let device =
        kernel::open_foreign(&node).map_err(|source| OperationError::system("opening", &node, source))?;
    let mounting = |source| OperationError::system("mounting", &node, source);
    let flags = MountFlags { read_only: false, no_suid: true, no_exec: true, no_symlinks: true };
    let request = MountRequest { device: device.as_fd(), node: &node, file_system, flags, options: &[] };
    let place =
        File::open(&directory).map_err(|source| OperationError::system("opening", &directory, source))?;
    let mounted = PreparedMount::of_device(&request)
        .and_then(|prepared| prepared.attach(place.as_fd(), &directory))
        .map_err(mounting)?;
    Ok(MountedCache { entry: mounted.entry.clone(), directory })
}

/// The one partition of this label.
fn find(label: &str, cancel: &Cancel) -> Result<PathBuf, OperationError> {
    let begin = Instant::now();
    loop {
        let found = partitions_with_label(label)
            .map_err(|source| OperationError::system("looking for the partition", label, source))?;
        match found.as_slice() {
            [node] => return Ok(node.clone()),
            [] if begin.elapsed() < DEADLINE => {
                cancel.check()?;
                // No event tells of what is there already.
                kernel::pause(AGAIN);
            }
            [] => {
                let problem = format!("no partition appeared in {} s", DEADLINE.as_secs());
                return Err(OperationError::state("looking for the partition", label, problem));
            }
            several => {
                let problem = format!("expected one, found {}", several.len());
                return Err(OperationError::state("looking for the partition", label, problem));
            }
        }
    }
}

/// Which driver is to mount it: no other one gets to see the disk.
fn file_system_of(node: &Path, trust: &TrustStore, cancel: &Cancel) -> Result<FileSystem, OperationError> {
    let image = ImageFile::open(node)?;
    let examined = examine(&image, trust, cancel)?;
    let found = examined.dissection.partitions.iter().find_map(|partition| partition.file_system());
    found.filter(|file_system| !file_system.is_read_only()).ok_or_else(|| {
        let problem = "expected a file system that can be written to (btrfs, ext4, f2fs, xfs)";
        OperationError::state("mounting", node.display(), problem)
    })
}
