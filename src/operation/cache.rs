//! Downloads that are kept on a local disk, so that they need not come again.
//!
//! A cache saves time and never trust: whoever changes the disk can change what is kept there. So nothing of it counts by
//! itself. What is taken from it is verified like what comes from a server, and its SHA-256 is compared in addition, which
//! tells a damaged entry.
//!
//! An entry is two files, named by the SHA-256 of the download as it came: `HEX.download`, and `HEX.json`, which says where
//! it came from. The oldest entries go where there is no room for a new one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, FileTimes};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::format::units::ByteLength;
use crate::kernel::mount::free_space;
use crate::kernel::open_foreign;
use crate::kernel::placed_file::{AnonymousFile, PlacementError};
use crate::kernel::state_file::{self, FileLock};

use super::error::OperationError;
use super::fault;

/// The version of the files that are written here; others are not read.
const VERSION: u32 = 1;
/// What ends the name of a download that is kept.
const CONTENT: &str = ".download";
/// What ends the name of what is known of it.
const DESCRIPTION: &str = ".json";
/// The most bytes of a description: a URL, and a few words.
const MAXIMUM_DESCRIPTION: u64 = 16 << 10;
/// The most entries that are looked at.
const MAXIMUM_ENTRIES: usize = 1024;
/// How long another process may work on the cache.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);

/// Where downloads are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// The directory. It is made where it is absent.
    pub directory: PathBuf,
    /// How much room all entries together may take.
    pub size: ByteLength,
}

/// A directory with downloads.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    root: File,
    size: ByteLength,
    now: SystemTime,
}

/// What is known of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    version: u32,
    /// Where it came from, without credentials.
    pub(super) url: String,
    /// Its length in bytes.
    pub(super) size: u64,
    /// What told this version of the file from others, where the server said it.
    pub(super) validator: Option<String>,
}

/// A download that is kept.
#[derive(Debug)]
pub(super) struct Entry {
    /// The SHA-256 that it has to have, in hexadecimal.
    pub(super) sha256: String,
    /// The file.
    pub(super) path: PathBuf,
    /// The same, open for reading.
    pub(super) file: File,
    /// Its length.
    pub(super) size: ByteLength,
}

impl Description {
    pub(super) const fn new(url: String, size: u64, validator: Option<String>) -> Self {
        Self { version: VERSION, url, size, validator }
    }
}

impl Cache {
    /// Opens a cache, or makes an empty one. `now` tells how young is what is used now.
    ///
    /// # Errors
    /// [`OperationError::System`] where the directory cannot be made or opened.
    pub(super) fn open(settings: &CacheSettings, now: SystemTime) -> Result<Self, OperationError> {
        let directory = std::path::absolute(&settings.directory)
            .map_err(|source| OperationError::system("resolving", &settings.directory, source))?;
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(OperationError::system("making the directory of the cache", &directory, error));
            }
            _ => {}
        }
        let root = File::open(&directory)
            .map_err(|source| OperationError::system("opening the cache", &directory, source))?;
        Ok(Self { directory, root, size: settings.size, now })
    }

    /// The entry with this SHA-256.
    pub(super) fn find(&self, sha256: &str) -> Option<Entry> {
        if !is_digest(sha256) {
            return None;
        }
        let description = self.description(sha256)?;
        let path = self.path(sha256, CONTENT);
        fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let file = open_foreign(&path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() != description.size {
            return None;
        }
        // The oldest go first: this one is young again. Where that cannot be written, it is as old as it was.
        let _ = file.set_times(FileTimes::new().set_modified(self.now));
        Some(Entry { sha256: sha256.to_owned(), path, file, size: ByteLength::new(metadata.len()) })
    }

    /// The entry that came from this URL in the version that the server has now.
    pub(super) fn find_version(&self, wanted: &Description) -> Option<Entry> {
        wanted.validator.as_ref()?;
        let digests = self.entries().into_iter().map(|(sha256, ..)| sha256);
        digests
            .filter(|sha256| self.description(sha256).as_ref() == Some(wanted))
            .find_map(|sha256| self.find(&sha256))
    }

    /// A file for a download of `size` bytes, in room that was made for it; `None` where it does not fit.
    ///
    /// # Errors
    /// [`OperationError`] where it cannot be made.
    pub(super) fn begin(
        &self,
        size: Option<ByteLength>,
    ) -> Result<Option<(AnonymousFile, ByteLength)>, OperationError> {
        let _lock = self.lock()?;
        let needed = size.unwrap_or(ByteLength::ZERO);
        if needed > self.size {
            return Ok(None);
        }
        self.evict(needed, None)?;
        let free = free_space(self.root.as_fd())
            .map_err(|source| OperationError::system("examining the cache", &self.directory, source))?;
        if needed > free {
            return Ok(None);
        }
        let file = AnonymousFile::create_in(self.root.as_fd()).map_err(|source| self.failed(source))?;
        Ok(Some((file, self.size.min(free))))
    }

    /// Keeps a complete download under its digest.
    ///
    /// # Errors
    /// [`OperationError`]; it is not kept then.
    pub(super) fn keep(
        &self,
        file: AnonymousFile,
        sha256: &str,
        description: &Description,
    ) -> Result<Entry, OperationError> {
        let _lock = self.lock()?;
        let complete = file.complete(0o400).map_err(|source| self.failed(source))?;
        let mut text = serde_json::to_vec_pretty(description)
            .map_err(|source| OperationError::system("writing to the cache", &self.directory, source))?;
        text.push(b'\n');
        // What is there under this name is not known to be good.
        self.remove(sha256)?;
        fault::point("cache:keeping")?;
        complete.link_as(&name(sha256, CONTENT)).map_err(|source| self.failed(source))?;
        fault::point("cache:linked")?;
        // Without its description a file is no entry: it is swept away by whoever makes room next.
        state_file::write_atomically(self.root.as_fd(), &name(sha256, DESCRIPTION), &text, 0o600)
            .map_err(|source| OperationError::system("writing to the cache", &self.directory, source))?;
        self.evict(ByteLength::ZERO, Some(sha256))?;
        self.find(sha256).ok_or_else(|| {
            OperationError::state(
                "keeping in the cache",
                self.directory.display(),
                "expected the download, found none",
            )
        })
    }

    /// Drops an entry.
    ///
    /// # Errors
    /// [`OperationError::System`] where it cannot be removed.
    pub(super) fn drop_entry(&self, sha256: &str) -> Result<(), OperationError> {
        let _lock = self.lock()?;
        self.remove(sha256)
    }

    /// Drops the oldest entries until those that are left and `more` bytes fit, but never `kept`; and what is no entry
    /// any more.
    fn evict(&self, more: ByteLength, kept: Option<&str>) -> Result<(), OperationError> {
        let mut entries = self.entries();
        entries.sort_by_key(|(_, _, modified)| *modified);
        let mut total = entries.iter().fold(more.bytes(), |sum, (_, size, _)| sum.saturating_add(*size));
        for (sha256, size, _) in entries {
            let is_whole = self.description(&sha256).is_some();
            if kept != Some(sha256.as_str()) && (!is_whole || total > self.size.bytes()) {
                self.remove(&sha256)?;
                total = total.saturating_sub(size);
            }
        }
        Ok(())
    }

    /// Digest, length and age of every download that is kept.
    fn entries(&self) -> Vec<(String, u64, SystemTime)> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten().take(2 * MAXIMUM_ENTRIES) {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.strip_suffix(CONTENT)).filter(|d| is_digest(d));
            if let (Some(digest), Ok(metadata)) = (digest, entry.metadata())
                && metadata.is_file()
            {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                entries.push((digest.to_owned(), metadata.len(), modified));
            }
        }
        entries.truncate(MAXIMUM_ENTRIES);
        entries
    }

    fn description(&self, sha256: &str) -> Option<Description> {
        let file = open_foreign(&self.path(sha256, DESCRIPTION)).ok()?;
        file.metadata().ok().filter(fs::Metadata::is_file)?;
        let mut text = Vec::new();
        file.take(MAXIMUM_DESCRIPTION).read_to_end(&mut text).ok()?;
        let description: Description = serde_json::from_slice(&text).ok()?;
        (description.version == VERSION).then_some(description)
    }

    fn remove(&self, sha256: &str) -> Result<(), OperationError> {
        for suffix in [DESCRIPTION, CONTENT] {
            state_file::remove(self.root.as_fd(), &name(sha256, suffix)).map_err(|source| {
                OperationError::system("removing from the cache", self.path(sha256, suffix), source)
            })?;
        }
        Ok(())
    }

    fn lock(&self) -> Result<FileLock, OperationError> {
        let path = self.directory.join(".lock");
        state_file::lock_file(&path, Instant::now() + LOCK_DEADLINE)
            .map_err(|source| OperationError::system("locking the cache", &path, source))
    }

    fn path(&self, sha256: &str, suffix: &str) -> PathBuf {
        self.directory.join(name(sha256, suffix))
    }

    fn failed(&self, source: PlacementError) -> OperationError {
        OperationError::system("writing to the cache", &self.directory, source)
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

fn name(sha256: &str, suffix: &str) -> OsString {
    let mut name = OsString::from(sha256);
    name.push(OsStr::new(suffix));
    name
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, symlink};

    use super::*;

    fn cache(directory: &Path, size: u64) -> Cache {
        let settings = CacheSettings { directory: directory.join("cache"), size: ByteLength::new(size) };
        Cache::open(&settings, now()).unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    }

    fn digest(letter: char) -> String {
        letter.to_string().repeat(64)
    }

    fn description(size: u64) -> Description {
        Description::new("http://server/image.raw".to_owned(), size, Some("\"1\"".to_owned()))
    }

    fn keep(cache: &Cache, letter: char, size: u64, age: u64) {
        let (file, _) = cache.begin(Some(ByteLength::new(size))).unwrap().unwrap();
        file.file().write_all_at(&vec![1; usize::try_from(size).unwrap()], 0).unwrap();
        let entry = cache.keep(file, &digest(letter), &description(size)).unwrap();
        let modified = now() - Duration::from_secs(age);
        entry.file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    }

    /// The first letters of the digests that are kept.
    fn kept(cache: &Cache) -> String {
        let mut letters: Vec<String> =
            cache.entries().into_iter().map(|(sha256, ..)| sha256[..1].to_owned()).collect();
        letters.sort();
        letters.concat()
    }

    #[test]
    fn the_oldest_go_where_there_is_no_room_for_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path(), 100);
        keep(&cache, 'a', 40, 300);
        keep(&cache, 'b', 40, 400);
        keep(&cache, 'c', 20, 0);
        assert_eq!(kept(&cache), "abc");
        // What is used is young again.
        assert!(cache.find(&digest('b')).is_some());
        keep(&cache, 'd', 30, 0);
        assert_eq!(kept(&cache), "bcd");
        assert!(cache.begin(Some(ByteLength::new(101))).unwrap().is_none());
        assert_eq!(kept(&cache), "bcd");
    }

    #[test]
    fn only_the_same_version_of_the_same_file_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path(), 100);
        keep(&cache, 'a', 40, 0);
        assert!(cache.find_version(&description(40)).is_some());
        for other in [
            Description { url: "http://server/other.raw".to_owned(), ..description(40) },
            Description { validator: Some("\"2\"".to_owned()), ..description(40) },
            Description { validator: None, ..description(40) },
            description(41),
        ] {
            assert!(cache.find_version(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn what_is_no_entry_is_not_taken_and_swept_away() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path(), 100);
        keep(&cache, 'a', 40, 0);
        let file = |letter, suffix| cache.path(&digest(letter), suffix);
        // Cut short; without a description, with another one, with a link for a file; and names that are none.
        fs::write(file('b', CONTENT), "half of it").unwrap();
        keep(&cache, 'c', 10, 0);
        fs::write(file('c', DESCRIPTION), "{}").unwrap();
        symlink(file('a', CONTENT), file('d', CONTENT)).unwrap();
        fs::copy(file('a', DESCRIPTION), file('d', DESCRIPTION)).unwrap();
        for letter in ['b', 'c', 'd', 'e'] {
            assert!(cache.find(&digest(letter)).is_none(), "{letter}");
        }
        for text in ["", "../../etc/passwd", &digest('A'), &digest('g')] {
            assert!(cache.find(text).is_none(), "{text}");
        }
        fs::write(cache.directory().join("somebody's"), "file").unwrap();
        drop(cache.begin(None).unwrap());
        assert_eq!(kept(&cache), "a");
        assert!(cache.directory().join("somebody's").try_exists().unwrap());
        cache.drop_entry(&digest('a')).unwrap();
        assert!(cache.find(&digest('a')).is_none());
    }
}
