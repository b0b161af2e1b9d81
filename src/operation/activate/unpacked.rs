//! A reserved name for a tree of files, which has no devices.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::kernel::device_number::DeviceNumber;
use crate::operation::error::OperationError;
use crate::operation::record::{FileIdentity, ImageIdentity, Record, RecordedTree, State};

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

    /// Whether the tree is in a tmpfs of ours.
    pub(in crate::operation) fn has_own_tmpfs(&self) -> bool {
        self.record.placed.as_ref().is_some_and(|placed| placed.tmpfs.is_some())
    }

    /// Lets the tree stay until somebody detaches it.
    ///
    /// # Errors
    /// [`OperationError`]; nothing is left behind then.
    pub(in crate::operation) fn keep_tree(mut self) -> Result<Record, OperationError> {
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
