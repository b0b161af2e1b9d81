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
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::thread;

use crate::fetch::decompress::{DecoderLimits, DecompressError, Opened};
use crate::fetch::origin::Origin;
use crate::format::compression::{BEGINNING, Encoding};
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
    /// Whether it is a copy-on-write image, from which the raw one is still to be made.
    pub(super) is_qcow2: bool,
    /// How many bytes all that is made of it may have.
    pub(super) room: ByteLength,
}

/// Where an image is written, once its first bytes tell how much room it takes.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory.
    pub(super) root: fs::File,
    /// How many bytes the image may have.
    pub(super) room: ByteLength,
}

/// Writes what is downloaded to a file without a name, in the place that `place` gives for an image of so many bytes,
/// where that is known. The file is called `name` later.
///
/// A download that begins anew is written anew, to another file: nothing of what came before is kept, hashes included.
///
/// # Errors
/// [`OperationError`]; the file is gone then.
pub(super) fn receive(
    download: &mut Download<'_>,
    name: &OsStr,
    hints: &[LeafHint],
    url: &Origin,
    observer: &dyn Observer,
    mut place: impl FnMut(Option<ByteLength>) -> Result<Place, OperationError>,
) -> Result<Arrived, OperationError> {
    let mut made = None;
    download.receive(|download| {
        receive_once(download, name, hints, url, observer, |needed| match made.take() {
            Some(place) => Ok(made.insert(place)),
            None => Ok(made.insert(place(needed)?)),
        })
    })
}

/// One attempt at [`receive`].
fn receive_once<'a>(
    download: &mut Download<'_>,
    name: &OsStr,
    hints: &[LeafHint],
    url: &Origin,
    observer: &dyn Observer,
    place: impl FnOnce(Option<ByteLength>) -> Result<&'a mut Place, OperationError>,
) -> Result<Arrived, OperationError> {
    let total = download.total();
    let limits = DecoderLimits {
        threads: thread::available_parallelism()
            .map_or(NonZeroU32::MIN, |count| NonZeroU32::try_from(count).unwrap_or(NonZeroU32::MIN)),
        // How much room there is bounds the content: whoever writes it sees to that.
        ..DecoderLimits::new(ByteLength::new(u64::MAX))
    };
    let opened = match Opened::open(&mut *download, limits) {
        Ok(opened) => opened,
        Err(error) => return Err(download.explain(error)),
    };
    let needed = match &opened {
        Opened::Plain(Encoding::Raw, _) => total,
        // What comes out of it is larger.
        Opened::Plain(..) | Opened::Compressed(_) => None,
    };
    let Place { root, room } = place(needed)?;
    let file = AnonymousFile::create_in(root.as_fd())
        .map_err(|source| OperationError::system("making a file for", name, source))?;
    let leaves = EarlyLeaves::new(hints);
    let shown = url.to_string();
    let sink = Sink { file: file.file(), room: *room, leaves: &leaves, name: &shown };
    observer.started("downloading", total);
    let size = match opened {
        Opened::Plain(_, mut input) => {
            let size = sink.write_all(|buffer| fill(&mut input, buffer).map_err(Fault::Reading));
            drop(input);
            size
        }
        Opened::Compressed(mut decoder) => sink
            .write_all(|buffer| decoder.fill(buffer).map_err(Fault::Decoding))
            .and_then(|size| decoder.finish().map(|_| size).map_err(Fault::Decoding)),
    };
    observer.finished();
    let size = size.map_err(|fault| match fault {
        Fault::Reading(error) | Fault::Decoding(DecompressError::Input(error)) => download.explain(error),
        Fault::Decoding(source) => OperationError::Compressed { url: shown.clone(), source },
        Fault::Writing(error) => error,
    })?;
    let digest = download.finish()?;
    fault::point("pull:received")?;
    let is_qcow2 =
        is_qcow2(file.file(), size).map_err(|source| OperationError::system("reading", name, source))?;
    Ok(Arrived { file, name: name.to_owned(), size, digest, leaves, is_qcow2, room: *room })
}

/// Whether this is a copy-on-write image, which may have been in a compressed file.
fn is_qcow2(file: &fs::File, size: ByteLength) -> io::Result<bool> {
    let mut beginning = [0; BEGINNING];
    let length = size.in_memory().unwrap_or(BEGINNING).min(BEGINNING);
    let beginning = beginning.get_mut(..length).unwrap_or_default();
    file.read_exact_at(beginning, 0)?;
    Ok(Encoding::recognise(beginning) == Encoding::Qcow2)
}

/// What kept the image from arriving.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes could not be had.
    Reading(io::Error),
    /// They are not what a compressor wrote.
    Decoding(DecompressError),
    /// The content could not be written.
    Writing(OperationError),
}

impl From<OperationError> for Fault {
    fn from(error: OperationError) -> Self {
        Self::Writing(error)
    }
}

/// Fills the buffer; less than all of it only at the end of the download.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
