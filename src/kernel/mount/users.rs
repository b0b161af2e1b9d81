//! Who keeps mounts in use, and unmounting what nobody does.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};

use super::table::{MountEntry, MountTable};
use super::{MountError, mount_number};

/// How many users are named; more do not help anybody.
const MAXIMUM_USERS: usize = 8;
/// How many processes, and descriptors of each, are looked at.
const MAXIMUM_PROCESSES: usize = 65_536;
const MAXIMUM_DESCRIPTORS: usize = 65_536;

/// A process that keeps a mount in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountUser {
    /// Its number.
    pub pid: u32,
    /// The name of its program, as far as the kernel keeps it: 15 bytes.
    pub command: String,
    /// The mount.
    pub directory: PathBuf,
}

impl fmt::Display for MountUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, command, directory } = self;
        write!(f, "process {pid} ({command}) uses '{}'", directory.display())
    }
}

/// The processes that have their working or root directory, their program or an open or mapped file in one of these
/// mounts: a few of them. Processes that look at another copy of a mount, in another mount namespace, are not found.
#[must_use]
pub fn users_of(mounts: &[MountEntry]) -> Vec<MountUser> {
    let mut users = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.take(MAXIMUM_PROCESSES) {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        if let Some(mount) = used_by(&process.path(), mounts) {
            let command = fs::read(process.path().join("comm")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).trim_end().to_owned();
            users.push(MountUser { pid, command, directory: mount.mount_point.clone() });
            if users.len() == MAXIMUM_USERS {
                break;
            }
        }
    }
    users
}

/// The first of these mounts that a process uses. One that ends meanwhile uses nothing.
fn used_by<'a>(process: &Path, mounts: &'a [MountEntry]) -> Option<&'a MountEntry> {
    let mount_of = |number: u64| mounts.iter().find(|mount| mount.number == number);
    for link in ["cwd", "root", "exe"] {
        if let Some(mount) = number_behind(&process.join(link)).and_then(mount_of) {
            return Some(mount);
        }
    }
    let entries = |directory: &str| {
        fs::read_dir(process.join(directory)).into_iter().flatten().flatten().take(MAXIMUM_DESCRIPTORS)
    };
    let open = entries("fdinfo")
        .find_map(|descriptor| mount_of(super::number_in(&fs::read_to_string(descriptor.path()).ok()?)?));
    open.or_else(|| {
        entries("map_files").find_map(|mapping| number_behind(&mapping.path()).and_then(mount_of))
    })
}

/// The mount that a link of proc(5) leads into. The file itself is not opened: a pipe or a device notices nothing.
fn number_behind(link: &Path) -> Option<u64> {
    let flags = libc::O_CLOEXEC | libc::O_PATH;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(link).ok()?;
    mount_number(file.as_fd()).ok()
}

/// Unmounts this very mount, if nobody uses it. One that is gone already is gone.
///
/// # Errors
/// [`MountError::InUse`] with who uses it, as far as that can be told; [`MountError::Displaced`] where something was
/// mounted over it; [`MountError::Unmounting`].
pub fn unmount_unused(mount: &MountEntry) -> Result<(), MountError> {
    let directory = || mount.mount_point.clone();
    let table = MountTable::read()?;
    if table.get(mount.number).is_none() {
        return Ok(());
    }
    // umount(2) takes what is on top at this path; only a path says what to unmount, as a descriptor would keep it in
    // use.
    let on_top = match table.at(&mount.mount_point) {
        Ok(on_top) => on_top.map(|entry| entry.number),
        Err(MountError::Opening { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if on_top != Some(mount.number) {
        return Err(MountError::Displaced { directory: directory() });
    }
    match umount2(&mount.mount_point, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => {
            Err(MountError::InUse { directory: directory(), users: users_of(std::slice::from_ref(mount)) })
        }
        Err(errno) => Err(MountError::Unmounting { directory: directory(), source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_in_a_mount_is_named() {
        let table = MountTable::read().unwrap();
        let proc = table.at(Path::new("/proc")).unwrap().unwrap().clone();
        let mut child = std::process::Command::new("sleep").arg("60").current_dir("/proc").spawn().unwrap();
        let users = users_of(std::slice::from_ref(&proc));
        let found = used_by(&PathBuf::from(format!("/proc/{}", child.id())), std::slice::from_ref(&proc));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Some(&proc));
        assert!(users.len() == MAXIMUM_USERS || users.iter().any(|user| user.pid == child.id()), "{users:?}");
        assert!(users_of(&[]).is_empty());
    }
}
