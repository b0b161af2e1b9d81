//! Where records are kept: one file each, replaced by rename.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::format::loop_reference::LoopReference;
use crate::kernel::process::process_start_time;
use crate::kernel::state_file::{self, FileLock, StateFileError};
use crate::operation::error::OperationError;

use super::{Record, VERSION};

/// Where records are kept: on a file system that a reboot empties.
pub const DIRECTORY: &str = "/run/ddictl/attachments";
/// Held while a record is made or taken away.
const LOCK: &str = "/run/ddictl/lock";
/// How long another ddictl may hold the lock.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);
/// More records than any machine has attachments; bounds what the udev helper reads.
const MAXIMUM_RECORDS: usize = 1024;
/// More bytes than any record has.
const MAXIMUM_RECORD_SIZE: u64 = 1 << 20;

/// The records of this machine.
#[derive(Debug, Clone)]
pub struct RecordStore {
    directory: PathBuf,
}

/// The right to make records and to take them away.
#[derive(Debug)]
#[must_use = "dropping it gives the lock up"]
pub struct StoreLock<'a> {
    store: &'a RecordStore,
    _lock: FileLock,
}

impl Drop for StoreLock<'_> {
    /// Takes away unfinished files of processes that died, and with the last record the directory and the lock itself:
    /// whoever waits for it finds out that it is another file by now. What cannot be removed stays for the next one.
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.store.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_str().and_then(writer).is_some_and(has_ended) {
                let _ = fs::remove_file(entry.path());
            }
        }
        if fs::remove_dir(&self.store.directory).is_ok() {
            let _ = fs::remove_file(LOCK);
            let _ = self.store.directory.parent().map(fs::remove_dir);
        }
    }
}

/// The thread that writes, or wrote, an unfinished file: see [`state_file::write_atomically`].
fn writer(name: &str) -> Option<u32> {
    let (_, thread) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('-')?.0.rsplit_once('.')?;
    thread.parse().ok()
}

fn has_ended(thread: u32) -> bool {
    matches!(process_start_time(thread), Ok(None))
}

impl RecordStore {
    /// The records below [`DIRECTORY`], whether there are any or not.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self { directory: PathBuf::from(DIRECTORY) }
    }

    /// Whether nothing was recorded since the last record was taken away.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.directory.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Keeps every other ddictl from making or taking away records, and makes the directory for them. With the lock
    /// goes what nobody needs any more.
    ///
    /// # Errors
    /// [`OperationError::System`], also where another one holds the lock for too long.
    pub fn lock(&self) -> Result<StoreLock<'_>, OperationError> {
        let locking = |source| OperationError::system("locking", LOCK, source);
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            self.make_directory()?;
            match state_file::lock_file(Path::new(LOCK), deadline) {
                Ok(lock) => {
                    let lock = StoreLock { store: self, _lock: lock };
                    // Whoever had the lock before may have taken the directory away.
                    self.make_directory()?;
                    return Ok(lock);
                }
                Err(StateFileError::Locking { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {}
                Err(source) => return Err(locking(Box::new(source))),
            }
        }
    }

    fn make_directory(&self) -> Result<(), OperationError> {
        fs::create_dir_all(&self.directory)
            .map_err(|source| OperationError::system("making the directory", &self.directory, source))
    }

    /// All records that can be read.
    ///
    /// # Errors
    /// [`OperationError::System`] where the directory cannot be read, or holds more than 1024 records.
    pub fn all(&self) -> Result<Vec<Record>, OperationError> {
        Ok(self.files()?.iter().filter_map(|path| read(path)).collect())
    }

    /// The references of the records that cannot be read. Nobody knows what is attached under them: nothing gets a link.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn unreadable(&self) -> Result<Vec<String>, OperationError> {
        let files = self.files()?;
        let unreadable =
            files.iter().filter(|path| path.try_exists().unwrap_or(true) && read(path).is_none());
        Ok(unreadable.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect())
    }

    /// The files that are records or should be, in the order of their names. One that is replaced while the directory is
    /// read can be missed, so it is read twice.
    fn files(&self) -> Result<Vec<PathBuf>, OperationError> {
        let mut paths = self.listed()?;
        paths.extend(self.listed()?);
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    fn listed(&self) -> Result<Vec<PathBuf>, OperationError> {
        let reading = |source| OperationError::system("reading", &self.directory, source);
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(reading(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(reading)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                if paths.len() == MAXIMUM_RECORDS {
                    return Err(reading(io::Error::other(format!("more than {MAXIMUM_RECORDS} records"))));
                }
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// The record of `reference`; `None` where there is none that can be read.
    #[must_use]
    pub fn find(&self, reference: &LoopReference) -> Option<Record> {
        read(&self.path(&reference.to_string()))
    }

    /// Whether a file stands where the record of `reference` would, readable or not.
    #[must_use]
    pub fn exists(&self, reference: &LoopReference) -> bool {
        self.path(&reference.to_string()).symlink_metadata().is_ok()
    }

    /// Writes a record, replacing the one before.
    ///
    /// # Errors
    /// [`OperationError::System`] where it cannot be written.
    pub fn write(&self, record: &Record) -> Result<(), OperationError> {
        let name = file_name(&record.reference);
        let writing = |source: Box<dyn std::error::Error + Send + Sync>| {
            OperationError::system("writing the record", self.directory.join(&name), source)
        };
        let mut text = serde_json::to_vec_pretty(record).map_err(|error| writing(error.into()))?;
        text.push(b'\n');
        let directory = File::open(&self.directory).map_err(|error| writing(error.into()))?;
        state_file::write_atomically(directory.as_fd(), OsStr::new(&name), &text, 0o644)
            .map_err(|error| writing(error.into()))
    }

    /// Takes a record away; one that is gone already is gone.
    ///
    /// # Errors
    /// [`OperationError::System`] where it cannot be removed.
    pub fn remove(&self, reference: &str) -> Result<(), OperationError> {
        let path = self.path(reference);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(OperationError::system("removing the record", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, reference: &str) -> PathBuf {
        self.directory.join(file_name(reference))
    }
}

fn file_name(reference: &str) -> String {
    format!("{reference}.json")
}

/// Reads a record whose name is its reference; anything else is not one.
fn read(path: &Path) -> Option<Record> {
    let size = path.symlink_metadata().ok().filter(fs::Metadata::is_file)?.len();
    if size > MAXIMUM_RECORD_SIZE {
        return None;
    }
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let name = path.file_stem()?.to_str()?;
    (record.version == VERSION && record.reference == name).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unfinished_file_tells_who_wrote_it() {
        assert_eq!(writer(".image-2.raw.json.4711-0.tmp"), Some(4711));
        for other in [
            "image.json",
            ".image.json",
            "image.json.4711-0.tmp",
            ".image.json.x-0.tmp",
            ".4711-0.tmp",
            ".tmp",
        ] {
            assert_eq!(writer(other), None, "{other}");
        }
    }

    #[test]
    fn a_store_of_too_many_records_is_no_store() {
        let directory = tempfile::tempdir().unwrap();
        let store = RecordStore { directory: directory.path().to_owned() };
        for number in 0..MAXIMUM_RECORDS {
            fs::write(directory.path().join(format!("{number}.json")), "{}").unwrap();
        }
        assert_eq!(store.all().unwrap(), []);
        assert_eq!(store.unreadable().unwrap().len(), MAXIMUM_RECORDS);
        fs::write(directory.path().join("one-more.json"), "{}").unwrap();
        assert!(matches!(store.all(), Err(OperationError::System { doing: "reading", .. })));
        assert!(matches!(store.unreadable(), Err(OperationError::System { doing: "reading", .. })));
    }

    #[test]
    fn a_record_under_another_name_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = RecordStore { directory: directory.path().to_owned() };
        let record = Record::new(&"image".parse().unwrap(), "/image").unwrap();
        store.write(&record).unwrap();
        fs::copy(directory.path().join("image.json"), directory.path().join("other.json")).unwrap();
        assert_eq!(store.all().unwrap(), [record]);
        assert_eq!(store.unreadable().unwrap(), ["other"]);
    }
}
