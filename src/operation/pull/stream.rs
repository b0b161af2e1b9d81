//! The one pass over the bytes of an image: from the network into a file in memory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::fetch::body::Body;
use crate::fetch::url::ImageUrl;
use crate::format::units::ByteLength;
use crate::kernel::placed_file::AnonymousFile;

use super::remote::fetching;
use super::sparse::write_sparse;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::observer::Observer;

/// An image that has arrived and has no name yet.
pub(super) struct Arrived {
    pub(super) file: AnonymousFile,
    pub(super) name: OsString,
    pub(super) size: ByteLength,
    pub(super) digest: String,
}

/// Writes the body to a file without a name in the directory `root`.
pub(super) fn download(
    mut body: Body,
    root: &fs::File,
    target: &Path,
    room: ByteLength,
    url: &ImageUrl,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Arrived, OperationError> {
    let file = AnonymousFile::create_in(root.as_fd())
        .map_err(|source| OperationError::system("making a file for", target, source))?;
    observer.started("downloading", body.total().map(ByteLength::new));
    let received = receive(&mut body, file.file(), room, url, observer, cancel);
    observer.finished();
    let (size, digest) = received?;
    fault::point("pull:received")?;
    Ok(Arrived { file, name: target.file_name().map(OsStr::to_owned).unwrap_or_default(), size, digest })
}

fn receive(
    body: &mut Body,
    file: &fs::File,
    room: ByteLength,
    url: &ImageUrl,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(ByteLength, String), OperationError> {
    let mut digest = Sha256::new();
    let mut offset = 0_u64;
    loop {
        cancel.check()?;
        let chunk = body.chunk().map_err(|error| fetching(url, cancel, error))?;
        if chunk.is_empty() {
            break;
        }
        if offset == 0 {
            refuse_other_formats(chunk, url)?;
        }
        let full = || {
            let problem = format!("no room is left after {offset} bytes: the image does not fit into memory");
            OperationError::state("writing the image of", url, problem)
        };
        // A tmpfs that was there already may have no limit of its own, and zeros take no room at all.
        if offset.saturating_add(ByteLength::of(chunk).bytes()) > room.bytes() {
            return Err(full());
        }
        digest.update(chunk);
        write_sparse(file, chunk, offset).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull => full(),
            _ => OperationError::system("writing the image of", url.to_string(), source),
        })?;
        let length = chunk.len();
        offset = offset.saturating_add(ByteLength::of(chunk).bytes());
        observer.advanced(ByteLength::of(chunk));
        body.consume(length);
    }
    file.set_len(offset)
        .map_err(|source| OperationError::system("writing the image of", url.to_string(), source))?;
    let digest = data_encoding::HEXLOWER.encode(&digest.finalize());
    Ok((ByteLength::new(offset), digest))
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
