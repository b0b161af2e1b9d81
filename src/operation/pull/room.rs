//! The memory for an image: how much there is, and how much of it an image may have.

use crate::fetch::origin::Origin;
use crate::format::units::ByteLength;
use crate::kernel::memory::available_memory;

use crate::operation::error::OperationError;

/// What a tmpfs needs beside the pages of its one file.
const TMPFS_SLACK: u64 = 1 << 20;
/// What is left to the rest of the system where the server does not tell the size, in parts of what is available.
const RESERVED_PART: u64 = 8;

/// The size of the tmpfs for an image, if there is memory for it.
pub(super) fn room_for(total: Option<ByteLength>, url: &Origin) -> Result<ByteLength, OperationError> {
    let available = available_memory()
        .map_err(|source| OperationError::system("finding the free memory for", url.to_string(), source))?
        .bytes();
    let reserve = available / RESERVED_PART;
    let needed = total.map(|total| total.bytes().saturating_add(TMPFS_SLACK));
    match needed {
        Some(needed) if needed > available => {
            let problem = format!("the image needs {needed} bytes of memory, and {available} can be had");
            Err(OperationError::state("making room for", url, problem))
        }
        Some(needed) => Ok(ByteLength::new(needed)),
        None => Ok(ByteLength::new(available.saturating_sub(reserve))),
    }
}
