//! Who uses a tree: whatever is mounted in it or from it, and processes that have it as their root or work in it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::TreeError;
use crate::kernel::mount::{MountError, MountTable, proc_path};

/// How many processes are looked at.
const MAXIMUM_PROCESSES: usize = 65_536;

/// Refuses to go on where something is mounted in a tree, a part of it is mounted elsewhere in this mount namespace, or
/// a process, in whatever namespace, has it as its root or works in it.
///
/// # Errors
/// [`TreeError::InUse`] with the first that was found; [`TreeError::System`].
pub fn refuse_in_use(tree: &File) -> Result<(), TreeError> {
    let examining = |source| TreeError::System { doing: "examining", path: "a tree".to_owned(), source };
    let path = fs::read_link(proc_path(tree.as_fd())).map_err(examining)?;
    let in_use = |user| Err(TreeError::InUse { path: path.clone(), user });
    let mounts = |error: MountError| examining(std::io::Error::other(error));
    let table = MountTable::read().map_err(mounts)?;
    let inside = table.entries().find(|entry| entry.mount_point.starts_with(&path));
    if let Some(entry) = inside {
        return in_use(format!("something is mounted on '{}'", entry.mount_point.display()));
    }
    if let Some(own) = table.of(tree.as_fd()).map_err(mounts)?
        && let Ok(below) = path.strip_prefix(&own.mount_point)
    {
        let in_file_system = own.root.join(below);
        let shows = |root: &Path| root.starts_with(&in_file_system);
        let elsewhere = table.entries().find(|entry| entry.device == own.device && shows(&entry.root));
        if let Some(entry) = elsewhere {
            return in_use(format!("it is mounted on '{}'", entry.mount_point.display()));
        }
    }
    let metadata = tree.metadata().map_err(examining)?;
    match process_in(&path, (metadata.dev(), metadata.ino())) {
        Some(user) => in_use(user),
        None => Ok(()),
    }
}

/// The first process that has the tree as its root, or works in it.
fn process_in(path: &Path, identity: (u64, u64)) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten().take(MAXIMUM_PROCESSES);
    for process in processes {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let is_tree = |link: &PathBuf| {
            fs::metadata(link).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == identity)
        };
        let is_inside = |link: &PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(path));
        let links = ["root", "cwd", "exe"].map(|link| process.path().join(link));
        if links.iter().any(|link| is_tree(link) || is_inside(link)) {
            let command = fs::read(process.path().join("comm")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).trim_end().escape_debug().to_string();
            return Some(format!("process {pid} ({command}) works in it"));
        }
    }
    None
}
