//! From the copy-on-write image that came to the raw image that is used.
//!
//! Its clusters lie in any order, so all of it is kept, without a name, until the raw image is written; both need room
//! for that long. Whoever vouches for the download vouches for the form in which it came, which is why its digest is
//! compared before the first byte of it is read as an image.

use std::fs::File;
use std::io;

use crate::fetch::origin::Origin;
use crate::fetch::qcow2::{ConvertError, Disk};
use crate::format::units::{ByteLength, ByteOffset};
use crate::kernel::placed_file::AnonymousFile;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::leaves::EarlyLeaves;
use crate::operation::observer::Observer;

use super::sparse::write_sparse;
use super::stream::Arrived;
use super::verification::Verification;

/// The image as it is used: what came, or the disk that is in it, with holes where it has no data.
///
/// # Errors
/// [`OperationError::Unverified`] where it is another download than the one that was expected;
/// [`OperationError::CopyOnWrite`] where there is no disk in it that can be read by itself, or too large a one;
/// [`OperationError::State`] where there is no room. Both files are gone then.
pub(super) fn to_raw(
    arrived: Arrived,
    verification: &Verification,
    url: &Origin,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Arrived, OperationError> {
    if !arrived.is_qcow2 {
        return Ok(arrived);
    }
    verification.check(arrived.digest)?;
    let wrong = |source| OperationError::CopyOnWrite { url: url.to_string(), source };
    let disk = Disk::open(arrived.file.file(), arrived.size, arrived.room).map_err(wrong)?;
    let size = disk.size();
    let raw = AnonymousFile::create_beside(&arrived.file)
        .map_err(|source| OperationError::system("making a file for", &arrived.name, source))?;
    fault::point("pull:converting")?;
    let mut writer = Writer { file: raw.file(), room: arrived.room, taken: arrived.size, url };
    observer.started("converting", Some(size));
    let mut end = ByteOffset::ZERO;
    let written = disk.read(|offset, bytes| {
        cancel.check().map_err(OperationError::from)?;
        writer.write(offset, bytes)?;
        let behind = ByteOffset::new(offset.bytes().saturating_add(ByteLength::of(bytes).bytes()));
        observer.advanced(behind.checked_distance_from(end).unwrap_or(ByteLength::ZERO));
        end = behind;
        Ok(())
    });
    observer.finished();
    written.map_err(|fault: Fault| match fault {
        Fault::Reading(source) => wrong(source),
        Fault::Writing(error) => error,
    })?;
    raw.file().set_len(size.bytes()).map_err(|source| writing(url, source))?;
    fault::point("pull:converted")?;
    // What was hashed on the way are not the blocks of the disk.
    Ok(Arrived { file: raw, size, leaves: EarlyLeaves::default(), is_qcow2: false, ..arrived })
}

/// What kept the disk from being written.
enum Fault {
    Reading(ConvertError),
    Writing(OperationError),
}

impl From<ConvertError> for Fault {
    fn from(error: ConvertError) -> Self {
        Self::Reading(error)
    }
}

impl From<OperationError> for Fault {
    fn from(error: OperationError) -> Self {
        Self::Writing(error)
    }
}

/// Writes the raw image into the room that the other one leaves.
struct Writer<'a> {
    file: &'a File,
    room: ByteLength,
    /// What both files take.
    taken: ByteLength,
    url: &'a Origin,
}

impl Writer<'_> {
    fn write(&mut self, offset: ByteOffset, bytes: &[u8]) -> Result<(), OperationError> {
        let written =
            write_sparse(self.file, bytes, offset.bytes()).map_err(|source| match source.kind() {
                io::ErrorKind::StorageFull => self.full(offset),
                _ => writing(self.url, source),
            })?;
        self.taken = ByteLength::new(self.taken.bytes().saturating_add(written.bytes()));
        // A file system that was there already may have more room than the image may take.
        if self.taken > self.room {
            return Err(self.full(offset));
        }
        Ok(())
    }

    fn full(&self, offset: ByteOffset) -> OperationError {
        let problem = format!(
            "no room is left after {offset} bytes: image and raw image do not fit in together: make more room, or \
             convert it before with 'qemu-img convert -O raw'"
        );
        OperationError::state("converting", self.url, problem)
    }
}

fn writing(url: &Origin, source: io::Error) -> OperationError {
    OperationError::system("converting", url.to_string(), source)
}
