//! A download that is kept as it comes, to be read again.

use std::io::{self, BufRead, Write};

use crate::fetch::origin::Origin;
use crate::format::units::ByteLength;
use crate::kernel::placed_file::{AnonymousFile, PlacementError};
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::observer::Observer;
use crate::trust::download::DownloadDigest;

use super::download::Download;

/// A download that has arrived, without a name.
#[derive(Debug)]
pub(super) struct Spool {
    /// Its bytes.
    pub(super) file: AnonymousFile,
    /// Their digest, where one was wanted.
    pub(super) digest: Option<DownloadDigest>,
    /// How many there are.
    pub(super) size: ByteLength,
}

/// Keeps a download of at most `room` bytes as it comes, in a file that `make` makes; in another one where it begins anew.
///
/// # Errors
/// [`OperationError::State`] where there is no room, and what making the file, reading and writing said.
pub(super) fn spool(
    download: &mut Download<'_>,
    make: impl Fn() -> Result<AnonymousFile, PlacementError>,
    room: ByteLength,
    url: &Origin,
    observer: &dyn Observer,
) -> Result<Spool, OperationError> {
    download.receive(|download| {
        let file =
            make().map_err(|source| OperationError::system("making a file for", url.to_string(), source))?;
        observer.started("downloading", download.total());
        let received = copy(download, &file, room, url);
        observer.finished();
        let size = received?;
        let digest = download.finish()?;
        fault::point("pull:received")?;
        Ok(Spool { file, digest, size })
    })
}

fn copy(
    download: &mut Download<'_>,
    file: &AnonymousFile,
    room: ByteLength,
    url: &Origin,
) -> Result<ByteLength, OperationError> {
    let mut length = 0_u64;
    loop {
        let chunk = match download.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(download.explain(error)),
        };
        let count = chunk.len();
        if count == 0 {
            return Ok(ByteLength::new(length));
        }
        length = length.saturating_add(ByteLength::of(chunk).bytes());
        let written = file.file().write_all(chunk);
        if length > room.bytes()
            || written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
        {
            let problem = format!("no room is left after {length} bytes: it does not fit");
            return Err(OperationError::state("keeping the download of", url, problem));
        }
        written
            .map_err(|source| OperationError::system("keeping the download of", url.to_string(), source))?;
        download.consume(count);
    }
}
