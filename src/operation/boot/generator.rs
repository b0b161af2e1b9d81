//! Writing the units of a boot into the directories that systemd gives to generators.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::image::boot::BootRequest;
use crate::operation::error::OperationError;

use super::check;
use super::request::{BootSources, is_asked_for, read_request};
use super::units::{Entry, System, UnitTree, units};

/// A unit that systemd has from version 258 on, and with it all that goes with imports.
const IMPORTS_TARGETS: [&str; 2] =
    ["/usr/lib/systemd/system/imports-pre.target", "/lib/systemd/system/imports-pre.target"];

/// The directories of a generator (systemd.generator(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratorDirectories {
    /// For units that count less than those of the administrator.
    pub normal: PathBuf,
    /// For units that count more than all others.
    pub early: PathBuf,
}

/// Writes the units for what the kernel command line asks. `program` is the path of this program. Where something is
/// wrong with the command line as a whole, or with the system, a unit is written that says so and fails.
///
/// # Errors
/// [`OperationError::System`] where a unit cannot be written.
pub fn generate(
    directories: &GeneratorDirectories,
    program: &Path,
    sources: &BootSources,
) -> Result<(), OperationError> {
    let knows_imports = IMPORTS_TARGETS.into_iter().any(|path| fs::exists(path).unwrap_or(false));
    let system = System { program: program.to_owned(), knows_imports };
    let tree = match read_request(sources) {
        Ok(request) => {
            let is_wrong = is_asked_for(&request) && check(&request).is_err();
            units(&request, &system, is_wrong)
        }
        // The unit reads it again, and says what is wrong.
        Err(_) => units(&BootRequest::of_nothing(sources.in_initrd), &system, true),
    };
    write(directories, &tree)
}

fn write(directories: &GeneratorDirectories, tree: &UnitTree) -> Result<(), OperationError> {
    for (directory, entries) in [(&directories.normal, &tree.normal), (&directories.early, &tree.early)] {
        for (name, entry) in entries {
            let path = directory.join(name);
            put(&path, entry).map_err(|source| OperationError::system("writing the unit", &path, source))?;
        }
    }
    Ok(())
}

/// Writes a file or link in place of what a run before may have left.
fn put(path: &Path, entry: &Entry) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match entry {
        Entry::File(text) => fs::write(path, text),
        Entry::Link(to) => symlink(to, path),
    }
}
