//! Unmounting what `mount` mounted, or systemd-dissect: everything on a directory in reverse order, until its devices
//! are gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::kernel::mount::{MountEntry, MountError, MountTable, unmount_unused, users_of};
use crate::kernel::stack::Stack;

use super::activate::wait_for_udev;
use super::detach;
use super::devices::{BoundDevices, UNBIND_DEADLINE};
use super::error::OperationError;
use super::fault;
use super::observer::Observer;
use super::record::{Owner, Record, RecordStore, RecordedMount, State};

/// How long the devices may take to go after the last mount: udev may be looking at them.
const GONE_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked: no event tells when the last descriptor of a device is closed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What an unmounting came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmounting {
    /// These directories have nothing mounted on them any more, in this order.
    Unmounted(Vec<PathBuf>),
    /// There was nothing.
    NotMounted,
}

/// What is to be unmounted.
enum Found {
    /// What a record of ours names.
    Ours(Box<Record>),
    /// A tree that somebody else mounted from loop devices, topmost directory last.
    Foreign(Vec<MountEntry>),
    Nothing,
}

/// The source that a root in memory of the attachment `reference` has in the mount table: by it, it is known again.
pub(super) fn memory_name(reference: &str) -> String {
    format!("ddictl:{reference}")
}

/// Unmounts what `what` names: a directory, or an image file, a reference or a device that is mounted. With
/// `remove_directory` the directory goes as well.
///
/// # Errors
/// [`OperationError::State`] naming who uses it: nothing has changed then.
pub fn umount(
    what: &str,
    remove_directory: bool,
    observer: &dyn Observer,
) -> Result<Unmounting, OperationError> {
    let store = RecordStore::of_this_machine();
    let _lock = match store.is_absent() {
        true => None,
        false => Some(store.lock()?),
    };
    let unmounted = match find(&store, what)? {
        Found::Nothing => Unmounting::NotMounted,
        Found::Ours(record) => match unmount_record(&store, *record)? {
            // Somebody has unmounted it: only the record was left.
            directories if directories.is_empty() => Unmounting::NotMounted,
            directories => Unmounting::Unmounted(directories),
        },
        Found::Foreign(mounts) => Unmounting::Unmounted(unmount_foreign(&mounts, observer)?),
    };
    if remove_directory {
        let top = match &unmounted {
            Unmounting::Unmounted(directories) => directories.last().cloned(),
            Unmounting::NotMounted => Path::new(what).is_dir().then(|| PathBuf::from(what)),
        };
        if let Some(directory) = top {
            match fs::remove_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(OperationError::system("removing the directory", directory, error));
                }
                _ => {}
            }
        }
    }
    Ok(unmounted)
}

/// What [`umount`] would unmount, in its order.
///
/// # Errors
/// As [`umount`], as far as it can be known.
pub fn plan_umount(what: &str) -> Result<Vec<PathBuf>, OperationError> {
    let mounts = match find(&RecordStore::of_this_machine(), what)? {
        Found::Nothing => Vec::new(),
        Found::Ours(record) => mounts_of(&read_table()?, &record)?,
        Found::Foreign(mounts) => mounts,
    };
    Ok(mounts.into_iter().map(|mount| mount.mount_point).collect())
}

fn read_table() -> Result<MountTable, OperationError> {
    MountTable::read().map_err(|source| OperationError::system("reading", "/proc/self/mountinfo", source))
}

/// What a word of the user's means.
fn find(store: &RecordStore, what: &str) -> Result<Found, OperationError> {
    let table = read_table()?;
    let path = Path::new(what);
    let top = match table.at(path) {
        Ok(top) => top,
        Err(MountError::Opening { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            None
        }
        Err(source) => return Err(OperationError::system("examining", path, source)),
    };
    if let Some(top) = top {
        let mounted = |record: &Record| record.mounts.iter().any(|mount| is_recorded(record, mount, top));
        return match store.all()?.into_iter().find(mounted) {
            Some(record) => whole(record, top),
            None => foreign(&table, top),
        };
    }
    match detach::find(store, what)? {
        Some(record) if !record.mounts.is_empty() => Ok(Found::Ours(Box::new(record))),
        _ => Ok(Found::Nothing),
    }
}

/// A record whose first mount this is: what lies beneath is unmounted with it, never alone.
fn whole(record: Record, top: &MountEntry) -> Result<Found, OperationError> {
    match record.mounts.first() {
        Some(first) if first.directory != top.mount_point => {
            let problem = format!(
                "it is a part of what '{}' is mounted as on '{}': unmount that",
                record.reference,
                first.directory.display()
            );
            Err(OperationError::state("unmounting", top.mount_point.display(), problem))
        }
        _ => Ok(Found::Ours(Box::new(record))),
    }
}

/// A tree that nobody recorded, if all of it comes from loop devices.
fn foreign(table: &MountTable, top: &MountEntry) -> Result<Found, OperationError> {
    let refused =
        |problem: &str| Err(OperationError::state("unmounting", top.mount_point.display(), problem));
    if top.mount_point == Path::new("/") {
        return refused("it is the root of the running system");
    }
    let mounts: Vec<MountEntry> = table.tree(top.number).into_iter().cloned().collect();
    let mut on_loops = false;
    for mount in &mounts {
        match mount.block_device() {
            Some(device) => {
                let stack = Stack::of(device)
                    .map_err(|source| OperationError::system("examining", &mount.source, source))?;
                if !stack.is_on_loops() {
                    return refused(&format!(
                        "'{}' ({}) is not from an image: neither ddictl nor systemd-dissect mounted it, use umount(8)",
                        mount.mount_point.display(),
                        mount.source.display()
                    ));
                }
                on_loops = true;
            }
            // An image without a root has one in memory.
            None if mount.number == top.number && mount.file_system == "tmpfs" => {}
            None if mount.number == top.number => {
                return refused(&format!("{} is not from an image: use umount(8)", mount.file_system));
            }
            None => {
                return refused(&format!(
                    "'{}' ({}) is not from an image: unmount it first",
                    mount.mount_point.display(),
                    mount.file_system
                ));
            }
        }
    }
    if on_loops {
        Ok(Found::Foreign(mounts))
    } else {
        refused("nothing of it comes from an image: use umount(8)")
    }
}

/// Whether a line of the mount table is this mount of a record.
fn is_recorded(record: &Record, mount: &RecordedMount, entry: &MountEntry) -> bool {
    if entry.mount_point != mount.directory {
        return false;
    }
    match &mount.designator {
        None => entry.file_system == "tmpfs" && entry.source == *memory_name(&record.reference),
        Some(designator) => record.devices.iter().any(|device| {
            let number = entry.block_device().map(|number| number.to_string());
            device.designator == *designator && device.device.is_some() && device.device == number
        }),
    }
}

/// The recorded mounts that are there.
///
/// # Errors
/// [`OperationError::System`] where the mount table cannot be read.
pub(super) fn still_mounted(record: &Record) -> Result<Vec<RecordedMount>, OperationError> {
    let table = read_table()?;
    let is_there = |mount: &RecordedMount| table.entries().any(|entry| is_recorded(record, mount, entry));
    Ok(record.mounts.iter().filter(|mount| is_there(mount)).cloned().collect())
}

/// The mounts of a record that are there, in an order in which they can be unmounted.
///
/// # Errors
/// [`OperationError::State`] where somebody has mounted something on one of them.
fn mounts_of(table: &MountTable, record: &Record) -> Result<Vec<MountEntry>, OperationError> {
    let ours = |entry: &MountEntry| record.mounts.iter().any(|mount| is_recorded(record, mount, entry));
    let mut found: Vec<MountEntry> = Vec::new();
    // Those that were mounted first lie below the others: their trees hold these, too.
    for recorded in &record.mounts {
        let tops = table.entries().filter(|entry| is_recorded(record, recorded, entry));
        for top in tops {
            if found.iter().any(|known| known.number == top.number) {
                continue;
            }
            let tree = table.tree(top.number);
            let others: Vec<String> = tree
                .iter()
                .filter(|entry| !ours(entry))
                .map(|entry| format!("'{}' ({})", entry.mount_point.display(), entry.file_system))
                .collect();
            if !others.is_empty() {
                let problem =
                    format!("others mounted something on it: {}: unmount that first", others.join(", "));
                return Err(OperationError::state("unmounting", top.mount_point.display(), problem));
            }
            found.extend(tree.into_iter().cloned());
        }
    }
    Ok(found)
}

/// Unmounts what a process that died while it was mounting has left of this record. What is in use stays, and is named.
///
/// # Errors
/// [`OperationError::State`].
pub(super) fn unmount_leftovers(record: &Record) -> Result<(), OperationError> {
    for mount in mounts_of(&read_table()?, record)? {
        unmount(&mount)?;
    }
    Ok(())
}

fn unmount_record(store: &RecordStore, mut record: Record) -> Result<Vec<PathBuf>, OperationError> {
    if let Some(owner) = record.living_owner() {
        let problem = format!("process {} is still at work on it: stop that one", owner.pid);
        return Err(OperationError::state("unmounting", &record.reference, problem));
    }
    let table = read_table()?;
    let mounts = mounts_of(&table, &record)?;
    refuse_used(&mounts)?;
    fault::point("umount:before")?;
    let bound = BoundDevices::of(&record)?;
    let stays = record.devices.iter().any(|device| bound.has(&record, device) && !bound.is_tethered(device));
    let before = record.clone();
    if !stays {
        refuse_copies(&table, &mounts, &bound)?;
        record.state = State::Stopping;
        record.owner = Some(Owner::this_process()?);
        store.write(&record)?;
        wait_for_udev(&bound.numbers());
    }
    fault::point("umount:stopping")?;
    let mut done = Vec::new();
    for mount in &mounts {
        if let Err(error) = unmount(mount) {
            // In use, although nobody was found: where nothing is gone yet, nothing shall be.
            if done.is_empty() {
                store.write(&before)?;
                wait_for_udev(&bound.numbers());
            }
            return Err(error);
        }
        done.push(mount.mount_point.clone());
        fault::point("umount:unmounted")?;
    }
    if stays {
        // The devices were attached before: they belong to nobody's mount.
        record.mounts.clear();
        record.owner = None;
        store.write(&record)?;
        return Ok(done);
    }
    let deadline = Instant::now() + UNBIND_DEADLINE;
    bound.take_down(&record.reference, deadline, None).map_err(|(_, error)| error)?;
    fault::point("umount:gone")?;
    detach::finish(store, &record, &bound)?;
    Ok(done)
}

fn unmount(mount: &MountEntry) -> Result<(), OperationError> {
    unmount_unused(mount).map_err(|error| match error {
        error @ (MountError::InUse { .. } | MountError::Displaced { .. }) => OperationError::state(
            "unmounting",
            mount.mount_point.display(),
            format!("{error}: release it first"),
        ),
        error => OperationError::system("unmounting", &mount.mount_point, error),
    })
}

/// Refuses before anything has changed, where somebody who uses one of the mounts can be found.
fn refuse_used(mounts: &[MountEntry]) -> Result<(), OperationError> {
    let users = users_of(mounts);
    let (Some(top), false) = (mounts.last(), users.is_empty()) else {
        return Ok(());
    };
    let users: Vec<String> = users.iter().map(ToString::to_string).collect();
    let problem = format!("it is in use: {}: release it first", users.join(", "));
    Err(OperationError::state("unmounting", top.mount_point.display(), problem))
}

/// Refuses where somebody has mounted one of the devices elsewhere, too, as `mount --bind` does: it would stay in use.
fn refuse_copies(
    table: &MountTable,
    mounts: &[MountEntry],
    bound: &BoundDevices,
) -> Result<(), OperationError> {
    let devices = bound.numbers();
    let is_copy = |entry: &&MountEntry| {
        entry.block_device().is_some_and(|device| devices.contains(&device))
            && !mounts.iter().any(|mount| mount.number == entry.number || table.goes_with(entry, mount))
    };
    let copies: Vec<String> =
        table.entries().filter(is_copy).map(|copy| format!("'{}'", copy.mount_point.display())).collect();
    let (Some(top), false) = (mounts.last(), copies.is_empty()) else {
        return Ok(());
    };
    let problem = format!("it is also mounted on {}: unmount that first", copies.join(", "));
    Err(OperationError::state("unmounting", top.mount_point.display(), problem))
}

fn unmount_foreign(mounts: &[MountEntry], observer: &dyn Observer) -> Result<Vec<PathBuf>, OperationError> {
    refuse_used(mounts)?;
    let mut stacks = Vec::new();
    for device in mounts.iter().filter_map(MountEntry::block_device) {
        let stack = Stack::of(device)
            .map_err(|source| OperationError::system("examining", device.to_string(), source))?;
        stacks.push((device, stack));
    }
    let mut done = Vec::new();
    for mount in mounts {
        unmount(mount)?;
        done.push(mount.mount_point.clone());
    }
    // What is mounted elsewhere as well, as 'mount --bind' does, stays for that.
    let table = read_table()?;
    let stacks: Vec<Stack> = stacks
        .into_iter()
        .filter(|(device, _)| table.mounts_of(*device).next().is_none())
        .map(|(_, stack)| stack)
        .collect();
    // Whoever mounted them has left the devices to the mounts, or wants to keep them.
    let remaining = || stacks.iter().flat_map(Stack::remaining).collect::<Vec<_>>();
    let deadline = Instant::now() + GONE_DEADLINE;
    while !remaining().is_empty() && Instant::now() < deadline {
        look_again();
    }
    let left = remaining();
    if !left.is_empty() {
        observer.warning(&format!(
            "still there are {}: they were attached to stay, or another process has them open",
            left.iter().map(|name| format!("/dev/{name}")).collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(done)
}

#[expect(
    clippy::disallowed_methods,
    reason = "no event tells when the last descriptor of a device is closed"
)]
fn look_again() {
    std::thread::sleep(LOOK_AGAIN);
}
