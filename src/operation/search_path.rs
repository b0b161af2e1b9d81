//! Configuration in several directories, where a file in an earlier one hides those of the same name in later ones.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::OperationError;

/// Certificates and policies are at most some KiB long; this bounds what a mistake costs, in bytes.
const MAXIMUM_SIZE: u64 = 1 << 20;

/// The files that end in `.EXTENSION`, by name, each from the first directory that has it. A directory that is not there
/// has none.
///
/// # Errors
/// [`OperationError::System`] where a directory cannot be read.
pub(super) fn files(
    directories: &[&str],
    extension: &str,
) -> Result<BTreeMap<OsString, PathBuf>, OperationError> {
    let mut by_name = BTreeMap::new();
    for directory in directories {
        let reading = |source| OperationError::system("reading", directory, source);
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(reading(source)),
        };
        for entry in entries {
            let path = entry.map_err(reading)?.path();
            if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|e| e == extension))
            {
                by_name.entry(name.to_owned()).or_insert_with(|| path.clone());
            }
        }
    }
    Ok(by_name)
}

/// What is in a file of some KiB; `None` where there is no such file.
///
/// # Errors
/// [`OperationError::State`] for something larger or something else, [`OperationError::System`] where it cannot be read.
pub(super) fn read_small_file(doing: &'static str, path: &Path) -> Result<Option<Vec<u8>>, OperationError> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OperationError::system(doing, path, source)),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() || metadata.len() > MAXIMUM_SIZE {
        let problem = format!("expected a regular file of at most {MAXIMUM_SIZE} bytes");
        return Err(OperationError::state(doing, path.display(), problem));
    }
    fs::read(path).map(Some).map_err(|source| OperationError::system(doing, path, source))
}

/// As [`read_small_file`], of a file that has to be there.
///
/// # Errors
/// As [`read_small_file`], and [`OperationError::System`] where there is none.
pub(super) fn read_required_file(doing: &'static str, path: &Path) -> Result<Vec<u8>, OperationError> {
    read_small_file(doing, path)?
        .ok_or_else(|| OperationError::system(doing, path, io::Error::from(io::ErrorKind::NotFound)))
}
