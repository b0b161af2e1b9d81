//! Pulling an image from a server into memory, verifying it there, and attaching it, in one process.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use crate::fetch::body::Body;
use crate::fetch::certificates::CertificateAuthorities;
use crate::fetch::client::{Cancellation, HttpClient, HttpOptions};
use crate::fetch::error::FetchError;
use crate::fetch::range::RangeReader;
use crate::fetch::url::ImageUrl;
use crate::format::loop_reference::LoopReference;
use crate::format::units::{ByteLength, Extent};
use crate::image::plan::{Access, ActivationPlan};
use crate::image::presets::RequestedPolicy;
use crate::kernel::memory::available_memory;
use crate::kernel::placed_file::{self, AnonymousFile};

use super::activatable::Activatable;
use super::activate::{ActivationOptions, Attached, GuardOptions, Reservation, device_references};
use super::cancel::Cancel;
use super::detach::reap;
use super::error::OperationError;
use super::fault;
use super::image_directory;
use super::observer::Observer;
use super::record::FileIdentity;
use super::source::ImageSource;
use super::trust_store::TrustStore;
use super::verified_image::{ImmutableImage, VerifiedImage, plan};

/// Where images of the class `machine` are placed that do not outlive the boot.
pub const DEFAULT_DIRECTORY: &str = "/run/machines";
/// What is taken off the end of a URL to name an image.
const SUFFIXES: [&str; 10] =
    [".xz", ".gz", ".bz2", ".zst", ".sysext.raw", ".confext.raw", ".raw", ".qcow2", ".img", ".bin"];
/// What a tmpfs needs beside the pages of its one file.
const TMPFS_SLACK: u64 = 1 << 20;
/// What is left to the rest of the system where the server does not tell the size, in parts of what is available.
const RESERVED_PART: u64 = 8;
/// Runs of zeros shorter than this are written as they are.
const HOLE: usize = 4096;

/// What is to be pulled, and how.
#[derive(Debug)]
pub struct PullRequest {
    /// From where.
    pub url: ImageUrl,
    /// The local name, without `.raw`.
    pub name: String,
    /// Where the file is placed.
    pub directory: PathBuf,
    /// What is required of the image.
    pub policy: RequestedPolicy,
    /// Certificate authorities for https; empty for the system's.
    pub ca_certificates: Vec<PathBuf>,
    /// How the kernel is to guard what is verified.
    pub guard: GuardOptions,
}

/// Reads a URL as the user gives it.
///
/// # Errors
/// [`OperationError::Usage`] where it is not one, or not of http or https.
pub fn parse_url(text: &str) -> Result<ImageUrl, OperationError> {
    ImageUrl::parse(text).map_err(|error| OperationError::Usage(error.to_string()))
}

/// The local name that a URL gives: its last component without the suffixes of images.
///
/// # Errors
/// [`OperationError::Usage`] where nothing is left.
pub fn name_of_url(url: &ImageUrl) -> Result<String, OperationError> {
    let file = url.file_name().unwrap_or_default();
    let mut name = file.as_str();
    while let Some(shorter) = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = shorter;
    }
    if name.is_empty() {
        return Err(OperationError::Usage(format!(
            "naming the image of '{url}': the URL has no file name: give a NAME"
        )));
    }
    Ok(name.to_owned())
}

/// The reference of a pulled image: its file name, as systemd has it.
///
/// # Errors
/// [`OperationError::Usage`] where it cannot be one.
pub fn reference_of(name: &str) -> Result<LoopReference, OperationError> {
    format!("{name}.raw").parse().map_err(|error| {
        OperationError::Usage(format!("naming the devices of '{name}': {error}: give another NAME"))
    })
}

/// What [`pull`] would do, from what the server answers to requests for parts of the image.
///
/// # Errors
/// As [`pull`], as far as it can be known without the whole image.
pub fn plan_pull(
    request: &PullRequest,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Result<(LoopReference, ActivationPlan), OperationError> {
    let reference = reference_of(&request.name)?;
    let client = client(request, cancel);
    let reader =
        RangeReader::open(&client, &request.url).map_err(|error| fetching(&request.url, cancel, error))?;
    let source = RemoteImage {
        name: request.url.to_string(),
        size: reader.total(),
        reader: Mutex::new(reader),
        cancel: cancel.clone(),
    };
    let plan = plan(&source, trust, &request.policy, Access::ReadOnly, cancel)?;
    device_references(&reference, &plan)?;
    Ok((reference, plan))
}

/// Pulls, verifies and attaches an image.
///
/// # Errors
/// [`OperationError`]; nothing is left behind then.
pub fn pull(
    request: &PullRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Attached, OperationError> {
    let reference = reference_of(&request.name)?;
    // The record is read by later commands, in other working directories.
    let directory = std::path::absolute(&request.directory)
        .map_err(|source| OperationError::system("resolving", &request.directory, source))?;
    reap(observer)?;
    let target = directory.join(reference.as_str());
    if target.symlink_metadata().is_ok() {
        let problem = "it is there already: detach it, remove it, or choose another NAME";
        return Err(OperationError::state("placing the image as", target.display(), problem));
    }
    let body =
        client(request, cancel).get(&request.url).map_err(|error| fetching(&request.url, cancel, error))?;
    let needed = body.total().map(ByteLength::new);
    let room = room_for(body.total(), &request.url)?;
    let mut reservation = Reservation::make(&reference, &request.url.without_secrets())?;
    let verified = image_directory::prepare(&directory, &target, room, needed, &mut reservation)
        .and_then(|root| download(body, &root, &target, room, &request.url, observer, cancel))
        .and_then(|image| verify_and_link(image, request, trust, &mut reservation, observer, cancel));
    let options = ActivationOptions { guard: request.guard, policy: &request.policy, keys: None };
    match verified {
        Ok(verified) => reservation
            .activate(Activatable::Verified(&verified), options, observer, cancel)?
            .make_permanent(observer, cancel),
        Err(cause) => Err(reservation.undo(cause)),
    }
}

/// The size of the tmpfs for an image, if there is memory for it.
fn room_for(total: Option<u64>, url: &ImageUrl) -> Result<ByteLength, OperationError> {
    let available = available_memory()
        .map_err(|source| OperationError::system("finding the free memory for", url.to_string(), source))?
        .bytes();
    let reserve = available / RESERVED_PART;
    let needed = total.map(|total| total.saturating_add(TMPFS_SLACK));
    match needed {
        Some(needed) if needed > available => {
            let problem = format!("the image needs {needed} bytes of memory, and {available} can be had");
            Err(OperationError::state("making room for", url, problem))
        }
        Some(needed) => Ok(ByteLength::new(needed)),
        None => Ok(ByteLength::new(available.saturating_sub(reserve))),
    }
}

/// An image that has arrived and has no name yet.
struct Arrived {
    file: AnonymousFile,
    name: OsString,
    size: ByteLength,
    digest: String,
}

/// Writes the body to a file without a name in the directory `root`.
fn download(
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

/// Writes what is not zero; the rest of a fresh file reads as zeros anyway.
fn write_sparse(file: &fs::File, chunk: &[u8], offset: u64) -> io::Result<()> {
    let mut position = offset;
    let mut rest = chunk;
    while let Some((run, behind)) = split_run(rest) {
        if !is_zero(run) {
            file.write_all_at(run, position)?;
        }
        position = position.saturating_add(ByteLength::of(run).bytes());
        rest = behind;
    }
    Ok(())
}

/// The longest beginning of `bytes` in which all pieces are zero, or none of them is, and what follows it.
fn split_run(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut pieces = bytes.chunks(HOLE);
    let first = pieces.next()?;
    let zero = is_zero(first);
    let length = pieces
        .take_while(|piece| is_zero(piece) == zero)
        .fold(first.len(), |length, piece| length.saturating_add(piece.len()));
    bytes.split_at_checked(length)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
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

/// Verifies the bytes in memory and only then gives them their name.
fn verify_and_link(
    arrived: Arrived,
    request: &PullRequest,
    trust: &TrustStore,
    reservation: &mut Reservation,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<VerifiedImage, OperationError> {
    let placing = |source: placed_file::PlacementError| {
        OperationError::system("placing the image as", &arrived.name, source)
    };
    let complete = arrived.file.complete().map_err(placing)?;
    let file = complete
        .file()
        .try_clone()
        .map_err(|source| OperationError::system("placing the image as", &arrived.name, source))?;
    // It goes into the record, which everybody may read.
    let url = request.url.without_secrets();
    let image = ImmutableImage::new(file, &url, arrived.size, Some(arrived.digest.clone()));
    let verified = VerifiedImage::verify(image, trust, &request.policy, observer, cancel)?;
    fault::point("pull:verified")?;
    let metadata = complete
        .file()
        .metadata()
        .map_err(|source| OperationError::system("placing the image as", &arrived.name, source))?;
    reservation.will_link(FileIdentity::of(&metadata))?;
    let named = complete.link_as(&arrived.name).map_err(placing)?;
    fault::point("pull:linked")?;
    // Not every kernel has the flag on tmpfs; the permissions and the missing writers hold without it.
    placed_file::set_immutable(complete.file().as_fd()).map_err(placing)?;
    fault::point("pull:immutable")?;
    // So that the kernel says of the devices which file is behind them: the first descriptor's never had a name.
    verified.through(named)
}

fn client(request: &PullRequest, cancel: &Cancel) -> HttpClient {
    let cancel = cancel.clone();
    let certificate_authorities = if request.ca_certificates.is_empty() {
        CertificateAuthorities::System
    } else {
        CertificateAuthorities::Files(request.ca_certificates.clone())
    };
    HttpClient::new(HttpOptions {
        certificate_authorities,
        cancellation: Cancellation::when(move || cancel.is_cancelled()),
        ..HttpOptions::default()
    })
}

/// Whoever asked us to stop is told of that, and not of the request that it ended.
fn fetching(url: impl ToString, cancel: &Cancel, source: FetchError) -> OperationError {
    match (source, cancel.check()) {
        (FetchError::Cancelled, Err(interrupted)) => interrupted.into(),
        (source, _) => OperationError::Fetch { url: url.to_string(), source },
    }
}

/// An image on a server that answers requests for parts.
struct RemoteImage {
    name: String,
    size: ByteLength,
    reader: Mutex<RangeReader>,
    cancel: Cancel,
}

impl ImageSource for RemoteImage {
    fn size(&self) -> ByteLength {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        let mut reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reader.read(extents).map_err(|error| fetching(&self.name, &self.cancel, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_is_not_written_and_the_rest_in_long_runs() {
        let mut bytes = vec![0; 10 * HOLE + 17];
        bytes[2 * HOLE..3 * HOLE].fill(1);
        bytes[4 * HOLE - 1] = 2;
        bytes[9 * HOLE] = 3;
        bytes[10 * HOLE + 16] = 4;
        let mut lengths = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((run, behind)) = split_run(rest) {
            lengths.push((run.len(), is_zero(run)));
            rest = behind;
        }
        let expected = [(2 * HOLE, true), (2 * HOLE, false), (5 * HOLE, true), (HOLE + 17, false)];
        assert_eq!(lengths, expected);

        let file = tempfile::tempfile().unwrap();
        write_sparse(&file, &bytes, 100).unwrap();
        let mut found = vec![9; bytes.len() + 100];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[..100], [0; 100]);
        assert_eq!(found[100..], bytes);
    }
}
