//! File systems by their own tools.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::format::sparse::{SparseBytes, Window};
use crate::format::superblock::{self, SuperblockKind};
use crate::format::units::Extent;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::source::{ImageFile, ImageSource};

use super::{SealFormat, SealRequest, Seed, copy_sparse};

/// The smallest ESP that is made, in bytes: room for a boot loader, and few enough clusters for FAT16.
const SMALLEST_ESP: u64 = 4 << 20;
/// How often a running tool is asked whether it has finished; it cannot be waited for together with a signal.
const POLL: Duration = Duration::from_millis(20);

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

/// Runs a tool to its end, or stops it with us.
fn run(command: Command, package: &str, cancel: &Cancel) -> Result<(), OperationError> {
    let program = command.get_program().to_owned();
    let mut command = in_system_directories(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => OperationError::state(
            "running",
            program.display(),
            format!("there is no such program: install the package '{package}'"),
        ),
        _ => OperationError::system("running", &program, source),
    })?;
    let stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stderr) = stderr {
            // Text of a tool is for people; what is not UTF-8 there is no loss.
            let _ = io::Read::read_to_string(&mut stderr, &mut text);
        }
        text
    });
    let status = wait(&mut child, cancel).map_err(|error| match error {
        Waiting::Cancelled(interrupted) => interrupted,
        Waiting::System(source) => OperationError::system("waiting for", &program, source),
    })?;
    let text = reader.join().unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    Err(OperationError::state("running", program.display(), format!("it failed ({status}): {}", text.trim())))
}

/// mkfs tools live in sbin, which is not on everybody's path: a tool is taken from where the system has it.
fn in_system_directories(command: Command) -> Command {
    const DIRECTORIES: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
    let program = Path::new(command.get_program());
    let found =
        DIRECTORIES.iter().map(|directory| Path::new(directory).join(program)).find(|path| path.is_file());
    let Some(found) = found else {
        return command;
    };
    let mut absolute = Command::new(found);
    absolute.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            absolute.env(name, value);
        }
    }
    absolute
}

enum Waiting {
    Cancelled(OperationError),
    System(io::Error),
}

#[expect(
    clippy::disallowed_methods,
    reason = "a child's end cannot be waited for together with a signal of ours"
)]
fn wait(child: &mut Child, cancel: &Cancel) -> Result<std::process::ExitStatus, Waiting> {
    loop {
        if let Some(status) = child.try_wait().map_err(Waiting::System)? {
            return Ok(status);
        }
        if let Err(interrupted) = cancel.check() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Waiting::Cancelled(interrupted.into()));
        }
        std::thread::sleep(POLL);
    }
}
