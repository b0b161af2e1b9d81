//! A reserved name for a file or a tree of files, which has no devices.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::kernel::device_number::DeviceNumber;
use crate::operation::error::OperationError;
use crate::operation::record::{FileIdentity, ImageIdentity, PlacedBeside, Record, RecordedTree, State};

use super::Reservation;

impl Reservation {
    /// Records where a tree is about to be unpacked, or for `None` that it is not.
    ///
    /// # Errors
    /// [`OperationError::System`] where the record cannot be written.
    pub(in crate::operation) fn will_unpack(
        &mut self,
        places: Option<(PathBuf, PathBuf)>,
    ) -> Result<(), OperationError> {
        self.record.tree =
            places.map(|(path, hidden)| RecordedTree { path, hidden, directory: None, authenticated: None });
        self.store.write(&self.record)
    }

    /// Records which directory is about to get the name of the tree, and what came of its download.
    ///
    /// # Errors
    /// [`OperationError::System`] where the record cannot be written.
    pub(in crate::operation) fn will_name(
        &mut self,
        directory: &std::fs::Metadata,
        digest: Option<String>,
        policy: String,
        authenticated: Option<String>,
    ) -> Result<(), OperationError> {
        self.record.image = ImageIdentity {
            source: self.record.image.source.clone(),
            device: DeviceNumber::of_file_system(directory).to_string(),
            inode: directory.ino(),
            digest,
        };
        self.record.policy = policy;
        if let Some(tree) = &mut self.record.tree {
            tree.directory = Some(FileIdentity::of(directory));
            tree.authenticated = authenticated;
        }
        self.store.write(&self.record)
    }

    /// Records what came of a download that is placed as a file: the digest of the download, the policy that was
    /// applied, which file that is, and which lie beside it. Its first name is `first`.
    ///
    /// # Errors
    /// [`OperationError::System`] where the record cannot be written.
    pub(in crate::operation) fn will_name_file(
        &mut self,
        file: &std::fs::Metadata,
        first: PathBuf,
        beside: Vec<PlacedBeside>,
        digest: Option<String>,
        policy: String,
    ) -> Result<(), OperationError> {
        self.record.image = ImageIdentity {
            source: self.record.image.source.clone(),
            device: DeviceNumber::of_file_system(file).to_string(),
            inode: file.ino(),
            digest,
        };
        self.record.policy = policy;
        if let Some(placed) = &mut self.record.placed {
            placed.path = first;
            placed.file = Some(FileIdentity::of(file));
            placed.beside = beside;
        }
        self.store.write(&self.record)
    }

    /// Records that the file has its last name.
    ///
    /// # Errors
    /// [`OperationError::System`] where the record cannot be written.
    pub(in crate::operation) fn has_named_file(&mut self, path: PathBuf) -> Result<(), OperationError> {
        if let Some(placed) = &mut self.record.placed {
            placed.path = path;
        }
        self.store.write(&self.record)
    }

    /// Lets what is placed stay for good: nobody detaches it, and the name is free again.
    ///
    /// # Errors
    /// [`OperationError`]; nothing is left behind then.
    pub(in crate::operation) fn leave_placed(self) -> Result<Record, OperationError> {
        let removed = self.store.lock().and_then(|_lock| self.store.remove(&self.record.reference));
        match removed {
            Ok(()) => Ok(Record { state: State::Ready, owner: None, ..self.record }),
            Err(cause) => Err(self.undo(cause)),
        }
    }

    /// Whether the tree is in a tmpfs of ours.
    pub(in crate::operation) fn has_own_tmpfs(&self) -> bool {
        self.record.placed.as_ref().is_some_and(|placed| placed.tmpfs.is_some())
    }

    /// Lets the tree or the file stay until somebody detaches it.
    ///
    /// # Errors
    /// [`OperationError`]; nothing is left behind then.
    pub(in crate::operation) fn keep_placed(mut self) -> Result<Record, OperationError> {
        self.record.state = State::Ready;
        let owner = self.record.owner.take();
        match self.store.write(&self.record) {
            Ok(()) => Ok(self.record),
            Err(cause) => {
                self.record.owner = owner;
                Err(self.undo(cause))
            }
        }
    }
}
