//! Trees of files that archives were unpacked to: whether they are there, and how they go.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::kernel::mount::open_place;
use crate::kernel::tree::{TreeError, open_directory, refuse_in_use, remove_tree, rename_tree};

use super::error::OperationError;
use super::fault;
use super::record::{FileIdentity, RecordedTree};

/// Whether a tree is where the record says.
pub(super) fn is_there(tree: &RecordedTree) -> Result<bool, OperationError> {
    Ok(open_recorded(tree)?.is_some())
}

/// Refuses to go on where somebody uses a tree.
///
/// # Errors
/// [`OperationError::State`] with who does.
pub(super) fn refuse_used(tree: &RecordedTree) -> Result<(), OperationError> {
    let Some(directory) = open_recorded(tree)? else {
        return Ok(());
    };
    refuse_in_use(&directory).map_err(|error| match error {
        TreeError::InUse { user, .. } => {
            OperationError::state("detaching", tree.path.display(), format!("{user}: release it first"))
        }
        error => OperationError::system("examining", &tree.path, error),
    })
}

/// Removes a tree: what is left of it under its hidden name, and what has its name if that is the one that is recorded.
/// It vanishes at once, whatever time it takes to remove what is in it.
///
/// # Errors
/// [`OperationError::System`]; what is left can be removed later.
pub(super) fn remove(tree: &RecordedTree) -> Result<(), OperationError> {
    let removing = |error: TreeError| OperationError::system("removing", &tree.path, error);
    let Some(parent) = parent_of(&tree.path)? else {
        return Ok(());
    };
    let hidden = file_name(&tree.hidden);
    remove_tree(parent.as_fd(), hidden).map_err(removing)?;
    if is_there(tree)? {
        let from = (parent.as_fd(), file_name(&tree.path));
        rename_tree(from, (parent.as_fd(), hidden)).map_err(removing)?;
        fault::point("detach:tree-hidden")?;
        remove_tree(parent.as_fd(), hidden).map_err(removing)?;
    }
    Ok(())
}

/// The directory that the record means, opened; `None` where that is gone or another one has its name.
fn open_recorded(tree: &RecordedTree) -> Result<Option<File>, OperationError> {
    let examining = |source: io::Error| OperationError::system("examining", &tree.path, source);
    let Some(parent) = parent_of(&tree.path)? else {
        return Ok(None);
    };
    match open_directory(parent.as_fd(), file_name(&tree.path)) {
        Ok(directory) => {
            let identity = FileIdentity::of(&directory.metadata().map_err(examining)?);
            Ok((tree.directory == Some(identity)).then_some(directory))
        }
        // A file or a link is not what was unpacked.
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(examining(error)),
    }
}

/// The directory that a tree is in; `None` where it is gone.
fn parent_of(path: &Path) -> Result<Option<File>, OperationError> {
    let directory = path.parent().unwrap_or(path);
    match open_place(directory) {
        Ok(parent) => Ok(Some(parent)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(OperationError::system("opening", directory, error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    // Opened without following it, a link is no directory either.
    matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound)
}

pub(super) fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree(directory: &Path) -> RecordedTree {
        let (path, hidden) = (directory.join("tree"), directory.join(".tree"));
        RecordedTree { path, hidden, directory: None, authenticated: None }
    }

    #[test]
    fn a_tree_goes_under_both_its_names_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let mut recorded = tree(directory.path());
        fs::create_dir_all(recorded.hidden.join("a/b")).unwrap();
        fs::create_dir_all(recorded.path.join("a/b")).unwrap();
        remove(&recorded).unwrap();
        assert!(recorded.path.is_dir() && fs::symlink_metadata(&recorded.hidden).is_err());
        recorded.directory = Some(FileIdentity::of(&fs::metadata(&recorded.path).unwrap()));
        assert!(is_there(&recorded).unwrap());
        remove(&recorded).unwrap();
        assert!(!is_there(&recorded).unwrap() && fs::symlink_metadata(&recorded.path).is_err());
        remove(&recorded).unwrap();

        let precious = directory.path().join("precious");
        fs::create_dir_all(precious.join("a")).unwrap();
        recorded.directory = Some(FileIdentity::of(&fs::metadata(&precious).unwrap()));
        symlink(&precious, &recorded.path).unwrap();
        remove(&recorded).unwrap();
        assert!(recorded.path.symlink_metadata().unwrap().is_symlink() && precious.join("a").is_dir());
        recorded.path = directory.path().join("gone/tree");
        remove(&recorded).unwrap();
        assert!(!is_there(&recorded).unwrap());
    }
}
