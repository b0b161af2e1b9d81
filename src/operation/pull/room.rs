//! The room for an image: how much there is, and how much of it an image may have.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use crate::fetch::origin::Origin;
use crate::format::units::ByteLength;
use crate::kernel::memory::available_memory;
use crate::kernel::mount::free_space;

use crate::operation::error::OperationError;
use crate::operation::image_directory::{ImageDirectory, Medium};

/// What a tmpfs needs beside the pages of its one file.
const TMPFS_SLACK: u64 = 1 << 20;
/// What is left to the rest of the system where the server does not tell the size, in parts of what is available.
const RESERVED_PART: u64 = 8;

/// What an image of `total` bytes may take in a directory, in memory the size of its tmpfs.
///
/// # Errors
/// [`OperationError::State`] where there is too little room for it.
pub(super) fn room_for(
    directory: &ImageDirectory,
    total: Option<ByteLength>,
    url: &Origin,
) -> Result<ByteLength, OperationError> {
    let (available, slack, what) = match directory.medium {
        Medium::Memory => {
            let available = available_memory().map_err(|source| {
                OperationError::system("finding the free memory for", url.to_string(), source)
            })?;
            (available.bytes(), TMPFS_SLACK, "of memory".to_owned())
        }
        Medium::Disk => {
            let available = free_in(&directory.path)?.bytes();
            (available, 0, format!("in '{}'", directory.path.display()))
        }
    };
    let reserve = available / RESERVED_PART;
    let needed = total.map(|total| total.bytes().saturating_add(slack));
    match needed {
        Some(needed) if needed > available => {
            let problem = format!("the image needs {needed} bytes {what}, and {available} can be had");
            Err(OperationError::state("making room for", url, problem))
        }
        Some(needed) => Ok(ByteLength::new(needed)),
        None => Ok(ByteLength::new(available.saturating_sub(reserve))),
    }
}

/// What is free where a directory is, or will be.
fn free_in(directory: &Path) -> Result<ByteLength, OperationError> {
    let examining = |source: Box<dyn std::error::Error + Send + Sync>| {
        OperationError::system("finding the free room in", directory, source)
    };
    let there = directory.ancestors().find_map(|above| File::open(above).ok());
    let there = there.ok_or_else(|| examining("expected a directory, found none".into()))?;
    free_space(there.as_fd()).map_err(|source| examining(source.into()))
}
