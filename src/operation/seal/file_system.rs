//! File systems by their own tools.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::format::sparse::{SparseBytes, Window};
use crate::format::superblock::{self, SuperblockKind};
use crate::format::units::Extent;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::source::{ImageFile, ImageSource};
use crate::operation::tool;

use super::{SealFormat, SealRequest, Seed, copy_sparse};

/// The smallest ESP that is made, in bytes: room for a boot loader, and few enough clusters for FAT16.
const SMALLEST_ESP: u64 = 4 << 20;

/// Writes the file system of the request to `target`, which is there and empty.
pub(super) fn make(
    request: &SealRequest,
    seed: Seed,
    target: &Path,
    cancel: &Cancel,
) -> Result<(), OperationError> {
    let metadata = fs::metadata(&request.source)
        .map_err(|source| OperationError::system("opening", &request.source, source))?;
    if !metadata.is_dir() {
        return copy_file_system(&request.source, target);
    }
    // A name that begins with '-' is a name and no option.
    let here = Path::new(".");
    let (source, target) = (here.join(&request.source), here.join(target));
    // A seed without a time stamp fixes what the tools would take from the clock; files keep their times.
    let without_clock = request.seed.is_some() && request.source_date_epoch.is_none();
    match request.format {
        SealFormat::Squashfs => {
            let mut command = Command::new("mksquashfs");
            command.args([&source, &target]);
            command.args(["-noappend", "-no-progress", "-quiet", "-comp", "zstd", "-no-exports"]);
            if without_clock {
                command.args(["-mkfs-time", "0"]);
            }
            run(command, "squashfs-tools", cancel)
        }
        SealFormat::Erofs => {
            let mut command = Command::new("mkfs.erofs");
            command.arg("--quiet").arg("-U").arg(seed.guid("file-system").to_string());
            if let Some(epoch) = request.source_date_epoch {
                command.arg("-T").arg(epoch.to_string());
            }
            if without_clock {
                command.args(["-T", "0", "--preserve-mtime"]);
            }
            command.args([&target, &source]);
            run(command, "erofs-utils", cancel)
        }
    }
}

/// Takes a file system that is there already, if it is one that a policy can name.
fn copy_file_system(source: &Path, target: &Path) -> Result<(), OperationError> {
    let image = ImageFile::open(source)?;
    let whole = Extent::from_beginning(image.size());
    let extents = superblock::probe_extents(image.size());
    let mut bytes = SparseBytes::new();
    for (extent, piece) in extents.iter().zip(image.read(&extents)?) {
        bytes.insert(extent.start(), &piece);
    }
    let found = superblock::probe(&Window::new(&bytes, whole));
    if !matches!(found.as_slice(), [only] if matches!(only.kind, SuperblockKind::FileSystem(_))) {
        let problem = "expected a directory, or a file with one file system (btrfs, erofs, ext4, f2fs, squashfs, vfat, xfs)";
        return Err(OperationError::state("sealing", source.display(), problem));
    }
    let mut file = File::options()
        .write(true)
        .open(target)
        .map_err(|error| OperationError::system("opening", target, error))?;
    copy_sparse(image.file(), &mut file, whole)
        .and_then(|()| file.set_len(image.size().bytes()))
        .map_err(|error| OperationError::system("copying", source, error))
}

/// Makes a vfat with the contents of `tree`.
pub(super) fn make_esp(
    tree: &Path,
    seed: Seed,
    target: &Path,
    cancel: &Cancel,
) -> Result<(), OperationError> {
    let reading = |source| OperationError::system("reading", tree, source);
    let contents = tree_size(tree, 0).map_err(reading)?;
    let size = (contents.saturating_mul(5) / 4).next_multiple_of(1 << 20).saturating_add(SMALLEST_ESP);
    File::options()
        .write(true)
        .open(target)
        .and_then(|file| file.set_len(size))
        .map_err(|source| OperationError::system("writing", target, source))?;
    let mut format = Command::new("mkfs.vfat");
    format.args(["-n", "ESP", "--invariant", "-i"]).arg(format!("{:08x}", seed.number("esp"))).arg(target);
    run(format, "dosfstools", cancel)?;
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(tree).map_err(reading)? {
        names.push(entry.map_err(reading)?.path().into_os_string());
    }
    names.sort();
    if names.is_empty() {
        return Ok(());
    }
    let mut copy = Command::new("mcopy");
    copy.args(["-s", "-p", "-m", "-Q", "-i"]).arg(target).args(&names).arg("::");
    copy.env("MTOOLS_SKIP_CHECK", "1").env("TZ", "UTC");
    run(copy, "mtools", cancel)
}

/// The bytes that the files of a tree take in clusters of 4 KiB.
fn tree_size(directory: &Path, depth: usize) -> io::Result<u64> {
    const DEEPEST: usize = 64;
    const CLUSTER: u64 = 4096;
    if depth > DEEPEST {
        return Err(io::Error::other(format!("expected directories at most {DEEPEST} deep")));
    }
    let mut size = CLUSTER;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size = size.saturating_add(if metadata.is_dir() {
            tree_size(&entry.path(), depth.saturating_add(1))?
        } else {
            metadata.len().next_multiple_of(CLUSTER).saturating_add(CLUSTER)
        });
    }
    Ok(size)
}

/// Makes the file as long as whole blocks.
pub(super) fn pad(file: &mut File, block: u64) -> io::Result<()> {
    let length = file.metadata()?.len();
    file.set_len(length.next_multiple_of(block).max(block))
}

/// Temporary files are for their owner alone; images are for everybody to read.
pub(super) fn make_readable(file: &File) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// Runs a tool, which must be there and succeed.
fn run(command: Command, package: &str, cancel: &Cancel) -> Result<(), OperationError> {
    let program = Path::new(command.get_program()).to_owned();
    let failing = |problem: String| OperationError::state("running", program.display(), problem);
    // mkfs tools live in sbin, which is not on everybody's path.
    let found = program.to_str().and_then(tool::find);
    let mut absolute = Command::new(found.as_ref().unwrap_or(&program));
    absolute.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            absolute.env(name, value);
        }
    }
    let ended = tool::run(absolute, cancel).map_err(|error| match &error {
        OperationError::System { source, .. }
            if source.downcast_ref().map(io::Error::kind) == Some(io::ErrorKind::NotFound) =>
        {
            failing(format!("there is no such program: install the package '{package}'"))
        }
        _ => error,
    })?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(failing(format!("it failed ({}): {}", ended.status, ended.text.trim()))),
    }
}
