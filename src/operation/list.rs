//! What is attached.

use super::error::OperationError;
use super::record::{Record, RecordStore};

/// Every attachment of this machine, by reference.
///
/// # Errors
/// [`OperationError::System`] where the records cannot be read.
pub fn list() -> Result<Vec<Record>, OperationError> {
    RecordStore::of_this_machine().all()
}
