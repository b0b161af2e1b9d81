//! What is attached, and how it fares.

use crate::format::verity::table::VerityHealth;
use crate::kernel::device_mapper;

use super::error::OperationError;
use super::record::{Record, RecordStore, RecordedDevice};

/// An attachment as it is recorded, with what the kernel says of its devices now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The record.
    pub record: Record,
    /// What dm-verity has found so far on each of its devices, in their order; `None` where no dm-verity device of this
    /// attachment is there.
    pub health: Vec<Option<VerityHealth>>,
}

impl Listed {
    /// An attachment that was just made. What the kernel does not tell of its devices is left out: they stand all the same.
    #[must_use]
    pub fn of_attached(record: Record) -> Self {
        let health = record.devices.iter().map(|device| health_of(device).unwrap_or(None)).collect();
        Self { record, health }
    }
}

/// Every attachment of this machine, by reference.
///
/// # Errors
/// [`OperationError::System`] where the records or the devices cannot be read.
pub fn list() -> Result<Vec<Listed>, OperationError> {
    let records = RecordStore::of_this_machine().all()?;
    records
        .into_iter()
        .map(|record| {
            let health = record.devices.iter().map(health_of).collect::<Result<_, _>>()?;
            Ok(Listed { record, health })
        })
        .collect()
}

fn health_of(device: &RecordedDevice) -> Result<Option<VerityHealth>, OperationError> {
    for recorded in &device.mappers {
        let status = device_mapper::find_by_name(&recorded.name)
            .map_err(|source| OperationError::system("examining", &recorded.name, source))?;
        if let Some(health) =
            status.filter(|status| recorded.describes(status)).and_then(|status| status.health)
        {
            return Ok(Some(health));
        }
    }
    Ok(None)
}
