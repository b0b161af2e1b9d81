//! The directory that an image is mounted on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::mount::Place;
use crate::operation::error::OperationError;

/// The directory, open, and what was made of the path to it.
#[derive(Debug)]
#[must_use = "undo it, or keep it"]
pub(super) struct Target {
    place: Place,
    /// The directories that were made, the deepest last.
    made: Vec<PathBuf>,
}

impl Target {
    /// Opens the directory; with `make` it and those above it are made where they are missing.
    pub(super) fn find(directory: &Path, make: bool) -> Result<Self, OperationError> {
        let mut made = Vec::new();
        let found = (|| {
            if make {
                make_all(directory, &mut made)?;
            }
            open(directory, make)
        })();
        match found {
            Ok(place) => Ok(Self { place, made }),
            Err(cause) => Err(remove_all(&made, cause)),
        }
    }

    /// Where to mount.
    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Leaves what was made.
    pub(super) fn keep(self) {
        drop(self);
    }

    /// Removes what was made.
    pub(super) fn undo(self, cause: OperationError) -> OperationError {
        let Self { place, made } = self;
        drop(place);
        remove_all(&made, cause)
    }
}

fn open(directory: &Path, make: bool) -> Result<Place, OperationError> {
    let resolved = match fs::canonicalize(directory) {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !make => {
            let problem = "there is no such directory: make it, or let --mkdir do so";
            return Err(OperationError::state("mounting on", directory.display(), problem));
        }
        Err(source) => return Err(OperationError::system("resolving", directory, source)),
    };
    if !resolved.is_dir() {
        return Err(OperationError::state("mounting on", directory.display(), "expected a directory"));
    }
    if resolved == Path::new("/") {
        let problem = "the root of the running system is no place for an image";
        return Err(OperationError::state("mounting on", directory.display(), problem));
    }
    Place::of_path(&resolved).map_err(|source| OperationError::system("opening", &resolved, source))
}

fn make_all(directory: &Path, made: &mut Vec<PathBuf>) -> Result<(), OperationError> {
    let mut missing = Vec::new();
    for above in directory.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        match fs::symlink_metadata(above) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(above),
            Err(source) => return Err(OperationError::system("examining", above, source)),
        }
    }
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Ok(()) => made.push(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(OperationError::system("making the directory", path, source)),
        }
    }
    Ok(())
}

fn remove_all(made: &[PathBuf], cause: OperationError) -> OperationError {
    for path in made.iter().rev() {
        match fs::remove_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let undoing = OperationError::system("removing", path, source).with_causes();
                return OperationError::Undo { cause: Box::new(cause), undoing };
            }
        }
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(directory: &Path, make: bool) -> String {
        Target::find(directory, make).unwrap_err().with_causes()
    }

    #[test]
    fn what_is_no_directory_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let (absent, file) = (directory.path().join("absent"), directory.path().join("file"));
        fs::write(&file, "").unwrap();
        assert!(refusal(&absent, false).contains("let --mkdir do so"));
        assert!(refusal(&file, true).contains("expected a directory"));
        assert!(refusal(&file.join("below"), true).contains("below"));
        assert!(refusal(Path::new("/"), false).contains("no place for an image"));
        assert!(refusal(&directory.path().join("../../../../../../.."), false).contains("no place"));
        assert!(!absent.try_exists().unwrap());
    }

    #[test]
    fn what_was_made_is_taken_away_again_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        let deep = directory.path().join("a/b/c");
        let target = Target::find(&deep, true).unwrap();
        assert_eq!(target.place().directory, fs::canonicalize(&deep).unwrap());
        let cause = target.undo(OperationError::Usage("the cause".to_owned()));
        assert!(matches!(cause, OperationError::Usage(_)), "{cause}");
        assert!(directory.path().join("a").try_exists().unwrap());
        assert!(!directory.path().join("a/b").try_exists().unwrap());
        Target::find(&deep, true).unwrap().keep();
        assert!(deep.try_exists().unwrap());
    }

    #[test]
    fn a_link_to_a_directory_is_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let target = Target::find(&link, false).unwrap();
        assert_eq!(target.place().directory, fs::canonicalize(&real).unwrap());
    }
}
