//! The one pass over the bytes of an image: from the network into a file in memory, hashed on the way.
//!
//! Which thread does what:
//!
//! - a thread of [`fetch`](crate::fetch) receives from the server and hands over what it received;
//! - the caller's thread takes that ([`Download`]: the digest of the download, the progress), decompresses it, and
//!   fills buffers;
//! - the [`workers`](super::workers), one for each core, write the buffers to the file and hash the blocks of the hash
//!   trees in them.
//!
//! Each waits for the other by a bounded channel, and nothing else is shared. What was hashed with parameters that turn
//! out wrong, or not at all, is hashed from the file afterwards, when nobody can write to it any more.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::path::Path;

use crate::fetch::url::ImageUrl;
use crate::format::units::ByteLength;
use crate::kernel::placed_file::AnonymousFile;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::leaves::{EarlyLeaves, LeafHint};
use crate::operation::observer::Observer;
use crate::trust::download::DownloadDigest;

use super::download::Download;
use super::workers::Sink;

/// An image that has arrived and has no name yet.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Its bytes.
    pub(super) file: AnonymousFile,
    /// The name it is to have.
    pub(super) name: OsString,
    /// Its length.
    pub(super) size: ByteLength,
    /// The digest of the file as the server sent it, where one was wanted.
    pub(super) digest: Option<DownloadDigest>,
    /// Digests of the bytes in the file.
    pub(super) leaves: EarlyLeaves,
}

/// Writes what is downloaded to a file without a name in the directory `root`, with room for `room` bytes.
///
/// # Errors
/// [`OperationError`]; the file is gone then.
pub(super) fn receive(
    mut download: Download<'_>,
    root: &fs::File,
    target: &Path,
    room: ByteLength,
    hints: &[LeafHint],
    url: &ImageUrl,
    observer: &dyn Observer,
) -> Result<Arrived, OperationError> {
    let file = AnonymousFile::create_in(root.as_fd())
        .map_err(|source| OperationError::system("making a file for", target, source))?;
    let leaves = EarlyLeaves::new(hints);
    let name = url.to_string();
    let sink = Sink { file: file.file(), room, leaves: &leaves, name: &name };
    observer.started("downloading", download.total());
    let size = decode(&mut download, url).and_then(|()| sink.write_all(|buffer| fill(&mut download, buffer)));
    observer.finished();
    let (size, digest) = (size?, download.finish()?);
    fault::point("pull:received")?;
    Ok(Arrived {
        file,
        name: target.file_name().map(OsStr::to_owned).unwrap_or_default(),
        size,
        digest,
        leaves,
    })
}

/// Looks at the first bytes.
fn decode(download: &mut Download<'_>, url: &ImageUrl) -> Result<(), OperationError> {
    let refused = match download.fill_buf() {
        Ok(beginning) => return refuse_other_formats(beginning, url),
        Err(error) => error,
    };
    Err(download.explain(refused))
}

/// Fills the buffer; less than all of it only at the end of the download.
fn fill(download: &mut Download<'_>, buffer: &mut [u8]) -> Result<usize, OperationError> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match download.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(download.explain(error)),
        }
    }
    Ok(filled)
}

/// Says of a compressed or converted image what it is, instead of that it has no partition table.
fn refuse_other_formats(beginning: &[u8], url: &ImageUrl) -> Result<(), OperationError> {
    const MAGICS: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"QFI\xfb", "qcow2"),
    ];
    match MAGICS.iter().find(|(magic, _)| beginning.starts_with(magic)) {
        None => Ok(()),
        Some((_, format)) => {
            let problem =
                format!("expected a raw disk image, found {format}: serve it uncompressed and unconverted");
            Err(OperationError::state("pulling", url, problem))
        }
    }
}
