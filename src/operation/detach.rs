//! Taking attachments down, and reaping what processes that died left behind.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::format::loop_reference::LoopReference;
use crate::kernel::loop_device::{self, LoopStatus};
use crate::kernel::open_foreign;
use crate::kernel::placed_file;

use super::activate::{
    LINK_DIRECTORY, remove_runtime_rules, wait_for_udev, write_runtime_rules as restore_runtime_rules,
};
use super::devices::{BoundDevices, UNBIND_DEADLINE};
use super::error::OperationError;
use super::fault;
use super::image_directory::leave;
use super::observer::Observer;
use super::record::{FileIdentity, Owner, Placed, Record, RecordStore, State};
use super::tree;
use super::umount::unmount_leftovers;

/// What a detach came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detachment {
    /// The attachment of this reference is gone.
    Detached(String),
    /// There was none.
    NotAttached,
}

/// Takes down the attachment that `what` names: a reference, one of its links or devices, or the image file.
///
/// # Errors
/// [`OperationError::State`] naming who holds a device: nothing has changed then.
pub fn detach(what: &str) -> Result<Detachment, OperationError> {
    let store = RecordStore::of_this_machine();
    if store.is_absent() {
        return Ok(Detachment::NotAttached);
    }
    let _lock = store.lock()?;
    let Some(record) = find(&store, what)? else {
        return Ok(Detachment::NotAttached);
    };
    if let Some(owner) = record.living_owner() {
        let problem = format!("process {} is still at work on it: stop that one", owner.pid);
        return Err(OperationError::state("detaching", &record.reference, problem));
    }
    let reference = record.reference.clone();
    take_down(&store, record)?;
    Ok(Detachment::Detached(reference))
}

/// What [`detach`], or for `None` [`detach_stale`], would take down, a line each.
///
/// # Errors
/// [`OperationError::System`] where the records or devices cannot be read.
pub fn plan_detach(what: Option<&str>) -> Result<Vec<String>, OperationError> {
    let store = RecordStore::of_this_machine();
    let records = match what {
        Some(what) => find(&store, what)?.into_iter().collect(),
        None => {
            let mut stale = Vec::new();
            for record in store.all()? {
                if is_stale(&record)? {
                    stale.push(record);
                }
            }
            stale
        }
    };
    let mut lines = Vec::new();
    for record in records {
        let devices = BoundDevices::of(&record)?.paths();
        let placed = record.placed.map(|placed| placed.path.display().to_string());
        let objects: Vec<String> = devices.into_iter().chain(placed).collect();
        lines.push(format!("'{}': {}", record.reference, objects.join(", ")));
    }
    Ok(lines)
}

/// What became of attachments that were left behind.
#[derive(Debug, Default)]
pub struct Reaped {
    /// The references of those that were taken down.
    pub references: Vec<String>,
    /// Why the others were not.
    pub failures: Vec<OperationError>,
}

/// Takes down what was left behind by processes that died, and records whose devices are gone: every one that can be.
///
/// # Errors
/// [`OperationError::System`] where the records or devices cannot be read.
pub fn detach_stale() -> Result<Reaped, OperationError> {
    let store = RecordStore::of_this_machine();
    let mut reaped = Reaped::default();
    if store.is_absent() {
        return Ok(reaped);
    }
    let _lock = store.lock()?;
    for record in store.all()? {
        if is_stale(&record)? {
            let reference = record.reference.clone();
            match take_down(&store, record) {
                Ok(()) => reaped.references.push(reference),
                Err(error) => reaped.failures.push(error),
            }
        } else if record.owner.is_some() && record.living_owner().is_none() {
            reaped.failures.extend(free(&store, record).err());
        }
    }
    Ok(reaped)
}

/// [`detach_stale`] for those who are about to attach: what cannot be taken down is not in their way, unless it has the
/// name that they want, which they find out.
///
/// # Errors
/// As [`detach_stale`].
pub(super) fn reap(observer: &dyn Observer) -> Result<(), OperationError> {
    for failure in detach_stale()?.failures {
        observer.warning(&failure.with_causes());
    }
    Ok(())
}

/// Frees an attachment that stays from a process that died: what it was mounting from it is unmounted.
fn free(store: &RecordStore, mut record: Record) -> Result<(), OperationError> {
    unmount_leftovers(&record)?;
    record.mounts.clear();
    record.owner = None;
    store.write(&record)
}

fn is_stale(record: &Record) -> Result<bool, OperationError> {
    if record.living_owner().is_some() {
        return Ok(false);
    }
    let is_gone = match (&record.tree, record.placed_alone()) {
        (Some(tree), _) => !tree::is_there(tree)?,
        (None, Some(placed)) => !is_there(placed)?,
        (None, None) => BoundDevices::of(record)?.is_empty(),
    };
    Ok(is_gone || !is_standing(record)?)
}

/// Whether an attachment may be used: it is ready, and either complete or, while its owner is still at work or died at
/// the very end, whole.
pub(super) fn is_standing(record: &Record) -> Result<bool, OperationError> {
    if record.state != State::Ready {
        return Ok(false);
    }
    if record.owner.is_none() {
        return Ok(true);
    }
    let abandoned = record.living_owner().is_none();
    let bound = BoundDevices::of(record)?;
    // What goes with the descriptors of a process that died is going.
    Ok(record
        .devices
        .iter()
        .all(|device| bound.has(record, device) && !(abandoned && bound.is_tethered(device))))
}

/// The record that a word of the user's means.
pub(super) fn find(store: &RecordStore, what: &str) -> Result<Option<Record>, OperationError> {
    if let Ok(reference) = LoopReference::observed(what.as_bytes())
        && let Some(record) = store.find(&reference)
    {
        return Ok(Some(record));
    }
    if let Some(unreadable) = store.unreadable()?.into_iter().find(|name| name == what) {
        let problem =
            "its record cannot be read: detach its devices with 'losetup --detach' and remove the record";
        return Err(OperationError::state("detaching", unreadable, problem));
    }
    let resolved = fs::canonicalize(what).unwrap_or_else(|_| PathBuf::from(what));
    let below = Path::new(LINK_DIRECTORY);
    let matches = |record: &Record| {
        let placed = record.placed.as_ref().is_some_and(|placed| placed.path == resolved);
        let source = Path::new(&record.image.source) == resolved;
        placed
            || source
            || record.mounts.iter().any(|mount| mount.directory == resolved)
            || record.devices.iter().any(|device| {
                device.nodes().any(|node| node == resolved)
                    || device.mappers.iter().any(|mapper| mapper.name == what)
                    || device.names(&record.reference).iter().any(|name| {
                        let link =
                            LoopReference::observed(name.as_bytes()).map(|name| below.join(name.encode()));
                        name == what || link.is_ok_and(|link| link == resolved)
                    })
            })
    };
    let mut found: Vec<Record> = store.all()?.into_iter().filter(matches).collect();
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|record| record.reference.as_str()).collect();
        let problem = format!("it is attached several times, as {}: name one of them", names.join(", "));
        return Err(OperationError::state("detaching", what, problem));
    }
    Ok(found.pop())
}

fn take_down(store: &RecordStore, mut record: Record) -> Result<(), OperationError> {
    let bound = BoundDevices::of(&record)?;
    if record.owner.is_some() {
        // It was being mounted or unmounted by a process that died.
        unmount_leftovers(&record)?;
    }
    if let Some((path, holders)) = bound.users() {
        let problem = format!("{path} is in use ({holders}): release it first");
        return Err(OperationError::state("detaching", &record.reference, problem));
    }
    if let Some(tree) = &record.tree {
        tree::refuse_used(tree)?;
    }
    if let Some(placed) = record.placed_alone() {
        refuse_shown(placed)?;
    }
    fault::point("detach:before")?;
    let before = record.clone();
    record.state = State::Stopping;
    record.owner = Some(Owner::this_process()?);
    store.write(&record)?;
    remove_runtime_rules(&record.reference)?;
    let numbers = bound.numbers();
    wait_for_udev(&numbers);
    fault::point("detach:stopping")?;
    let deadline = Instant::now() + UNBIND_DEADLINE;
    if let Err((gone, error)) = bound.take_down(&record.reference, deadline, Some("detach:device")) {
        // In use, if only by somebody in another mount namespace: where nothing is gone yet, nothing shall be.
        if gone == 0 && matches!(error, OperationError::State { .. }) {
            store.write(&before)?;
            restore_runtime_rules(&before)?;
            wait_for_udev(&numbers);
        }
        return Err(error);
    }
    finish(store, &record, &bound)
}

/// What is left to do once the devices are gone.
pub(super) fn finish(
    store: &RecordStore,
    record: &Record,
    gone: &BoundDevices,
) -> Result<(), OperationError> {
    remove_runtime_rules(&record.reference)?;
    wait_for_udev(&gone.numbers());
    if let Some(tree) = &record.tree {
        tree::remove(tree)?;
    }
    if let Some(placed) = &record.placed {
        remove_placed(store, &record.reference, placed)?;
        fault::point("detach:placed")?;
    }
    store.remove(&record.reference)
}

/// Whether a file is where it was placed.
fn is_there(placed: &Placed) -> Result<bool, OperationError> {
    match fs::symlink_metadata(&placed.path) {
        Ok(metadata) => Ok(metadata.is_file() && placed.file == Some(FileIdentity::of(&metadata))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(OperationError::system("examining", &placed.path, error)),
    }
}

/// Refuses to take away a file that somebody has on a loop device: what is used would stay in memory, without a name.
fn refuse_shown(placed: &Placed) -> Result<(), OperationError> {
    let loops =
        loop_device::list().map_err(|source| OperationError::system("listing", "/sys/block", source))?;
    let shows = |status: &LoopStatus| FileIdentity {
        device: status.backing_device.to_string(),
        inode: status.backing_inode,
    };
    match loops.iter().find(|status| placed.file == Some(shows(status))) {
        Some(status) => {
            let problem = format!("it is in use by /dev/loop{}: release it first", status.number);
            Err(OperationError::state("detaching", placed.path.display(), problem))
        }
        None => Ok(()),
    }
}

/// Removes a file that was placed for an attachment, and the tmpfs that was made for it. What is gone is gone; what has
/// the name and is another file stays, and is not even opened: it may be a link to anywhere or a pipe that blocks.
///
/// The tmpfs stays as long as a record other than that of `reference` names it. The caller holds the lock of the records.
pub(super) fn remove_placed(
    store: &RecordStore,
    reference: &str,
    placed: &Placed,
) -> Result<(), OperationError> {
    remove_file(&placed.path, placed.file.as_ref())?;
    for beside in &placed.beside {
        remove_file(&beside.path, Some(&beside.file))?;
    }
    match (&placed.tmpfs, placed.path.parent()) {
        (Some(directory), _) => leave(store, reference, directory, placed.directory_created),
        (None, Some(directory)) if placed.directory_created => {
            match fs::remove_dir(directory) {
                // What somebody else has put there since keeps it.
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    Err(OperationError::system("removing", directory, error))
                }
                _ => Ok(()),
            }
        }
        (None, _) => Ok(()),
    }
}

/// Removes the file that was recorded, if it still has its name.
fn remove_file(path: &Path, recorded: Option<&FileIdentity>) -> Result<(), OperationError> {
    let removing =
        |source: Box<dyn std::error::Error + Send + Sync>| OperationError::system("removing", path, source);
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && recorded == Some(&FileIdentity::of(&metadata)) => {
            let file = open_foreign(path).map_err(|error| removing(error.into()))?;
            let opened = file.metadata().map_err(|error| removing(error.into()))?;
            if recorded == Some(&FileIdentity::of(&opened)) {
                placed_file::clear_immutable(file.as_fd()).map_err(|error| removing(error.into()))?;
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(removing(error.into()));
                    }
                    _ => {}
                }
            }
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(removing(error.into())),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(path: &Path, file: Option<&Path>) -> Placed {
        let file = file.map(|file| FileIdentity::of(&fs::metadata(file).unwrap()));
        Placed {
            path: path.to_owned(),
            file,
            tmpfs: None,
            room: 0,
            directory_created: false,
            beside: Vec::new(),
        }
    }

    #[test]
    fn the_file_that_was_placed_goes_and_one_that_is_gone_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image.raw");
        fs::write(&image, "ours").unwrap();
        let placed = placed(&image, Some(&image));
        remove_placed(&RecordStore::of_this_machine(), "test", &placed).unwrap();
        assert!(!image.try_exists().unwrap());
        remove_placed(&RecordStore::of_this_machine(), "test", &placed).unwrap();
    }

    #[test]
    fn whatever_else_has_the_name_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (image, precious) = (directory.path().join("image.raw"), directory.path().join("precious"));
        fs::write(&image, "somebody else was quicker").unwrap();
        fs::write(&precious, "precious").unwrap();
        remove_placed(&RecordStore::of_this_machine(), "test", &placed(&image, None)).unwrap();
        remove_placed(&RecordStore::of_this_machine(), "test", &placed(&image, Some(&precious))).unwrap();
        assert!(image.try_exists().unwrap());

        fs::remove_file(&image).unwrap();
        std::os::unix::fs::symlink(&precious, &image).unwrap();
        remove_placed(&RecordStore::of_this_machine(), "test", &placed(&image, Some(&precious))).unwrap();
        assert!(image.symlink_metadata().unwrap().is_symlink() && precious.try_exists().unwrap());
    }

    #[test]
    fn a_pipe_that_has_the_name_blocks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("image.raw");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        remove_placed(&RecordStore::of_this_machine(), "test", &placed(&pipe, None)).unwrap();
        assert!(pipe.symlink_metadata().is_ok());
    }
}
