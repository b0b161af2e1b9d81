//! Opening an encrypted partition: its header is judged, a key is had and tried, the data is mapped, and the policy is asked
//! again about what shows then. Whatever fails, nothing stays open.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::format::superblock::{FileSystem, LuksHeader, Superblock};
use crate::format::units::ByteLength;
use crate::image::finding::Finding;
use crate::image::luks::{self, OpenableVolume};
use crate::image::plan::Refusal;
use crate::image::policy::Protection;
use crate::image::presets::RequestedPolicy;
use crate::image::unlocked::{LockedPartition, decide_unlocked};
use crate::kernel;
use crate::kernel::luks::{LuksError, LuksVersion, OpenRequest, OpenVolume, VolumeKey};
use crate::kernel::memory::{MemoryFile, SealedFile};
use crate::kernel::secret::Secret;

use super::cancel::Cancel;
use super::contents::Contents;
use super::error::OperationError;
use super::fault;
use super::observer::Observer;

/// The most that a key file may hold: as much as cryptsetup takes.
const MAXIMUM_KEY_FILE: usize = 8 << 20;
/// How often somebody at a terminal is asked for a passphrase.
const TRIES: u32 = 3;
/// How much is read to know what header there is, in bytes.
const BINARY_HEADER: usize = 4096;
/// How long a volume that is taken back may take to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the user can do about there being no key.
const WAYS_TO_A_KEY: &str = "give one with --key-file=FILE or --passphrase-fd=N, as the credential 'dissect.passphrase', or at a terminal";

/// Asks somebody for a passphrase, with this question; `None` where nobody answers.
pub type Ask<'a> = dyn Fn(&str) -> io::Result<Option<Zeroizing<String>>> + 'a;

/// Where keys come from.
pub enum KeySource<'a> {
    /// Nowhere.
    None,
    /// All bytes of a file.
    File(PathBuf),
    /// What can be read from an open descriptor, without one newline at its end.
    Descriptor(u32),
    /// The credential `dissect.passphrase` in this directory, if it is there: all its bytes. Else whoever can be asked.
    Credential(PathBuf, Option<Box<Ask<'a>>>),
    /// Somebody at a terminal.
    Ask(Box<Ask<'a>>),
}

impl fmt::Debug for KeySource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Descriptor(number) => f.debug_tuple("Descriptor").field(number).finish(),
            Self::Credential(directory, _) => f.debug_tuple("Credential").field(directory).finish(),
            Self::Ask(_) => f.write_str("Ask"),
        }
    }
}

/// The keys of one command: what was read once is used for every partition.
#[derive(Debug)]
pub struct Keys<'a> {
    source: KeySource<'a>,
    /// What was read, or what opened a volume before.
    known: Option<Secret>,
}

impl<'a> Keys<'a> {
    /// Keys from this source. Nothing is read yet.
    #[must_use]
    pub const fn new(source: KeySource<'a>) -> Self {
        Self { source, known: None }
    }

    /// Reads what can be read once, if that has not been done.
    fn read(&mut self, observer: &dyn Observer, cancel: &Cancel) -> Result<(), OperationError> {
        if self.known.is_some() {
            return Ok(());
        }
        self.known = match &self.source {
            KeySource::None | KeySource::Ask(_) => None,
            KeySource::File(path) => Some(read_key_file(path, observer, cancel)?),
            KeySource::Descriptor(number) => Some(read_descriptor(*number, cancel)?),
            KeySource::Credential(directory, _) => {
                read_credential(&directory.join("dissect.passphrase"), cancel)?
            }
        };
        Ok(())
    }

    /// Whom to ask, where anybody can be asked.
    fn ask(&self) -> Option<&Ask<'a>> {
        match &self.source {
            KeySource::Ask(ask) | KeySource::Credential(_, Some(ask)) => Some(ask),
            _ => None,
        }
    }
}

fn read_key_file(path: &Path, observer: &dyn Observer, cancel: &Cancel) -> Result<Secret, OperationError> {
    let file = kernel::open_foreign(path)
        .map_err(|error| OperationError::system("opening key file", path, error))?;
    let metadata =
        file.metadata().map_err(|error| OperationError::system("opening key file", path, error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o004 != 0 {
        observer.warning(&format!(
            "the key file '{}' can be read by everybody (mode {mode:04o})",
            path.display()
        ));
    }
    read_secret(&file, "reading key file", path, cancel)
}

fn read_descriptor(number: u32, cancel: &Cancel) -> Result<Secret, OperationError> {
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    let file = kernel::open_foreign(&path)
        .map_err(|error| OperationError::system("opening the passphrase descriptor", &path, error))?;
    let mut secret = read_secret(&file, "reading the passphrase from", &path, cancel)?;
    if let Some((b'\n', before)) = secret.expose().split_last() {
        let length = before.len();
        secret.truncate(length);
    }
    Ok(secret)
}

fn read_credential(path: &Path, cancel: &Cancel) -> Result<Option<Secret>, OperationError> {
    match kernel::open_foreign(path) {
        Ok(file) => read_secret(&file, "reading credential", path, cancel).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OperationError::system("opening credential", path, error)),
    }
}

fn read_secret(
    file: &File,
    doing: &'static str,
    path: &Path,
    cancel: &Cancel,
) -> Result<Secret, OperationError> {
    let secret = Secret::read(file, MAXIMUM_KEY_FILE, cancel.signals()).map_err(|error| {
        if let Err(interrupted) = cancel.check() {
            return interrupted.into();
        }
        if error.kind() == io::ErrorKind::FileTooLarge {
            let problem = format!("expected at most {MAXIMUM_KEY_FILE} bytes, found more");
            return OperationError::state(doing, path.display(), problem);
        }
        OperationError::system(doing, path, error)
    })?;
    if secret.expose().is_empty() {
        return Err(OperationError::state(doing, path.display(), "expected a key, found nothing"));
    }
    Ok(secret)
}

/// A partition that is to be unlocked.
#[derive(Debug, Clone, Copy)]
pub struct UnlockRequest<'a> {
    /// The name of the image, for messages.
    pub image: &'a str,
    /// The partition as it was planned.
    pub partition: LockedPartition,
    /// The block device that shows the partition, and nothing besides: a loop device, or dm-verity.
    pub device: &'a Path,
    /// The device-mapper name of the device that shows the data.
    pub name: &'a str,
    /// Whether writes fail.
    pub read_only: bool,
    /// Whether discards are passed on.
    pub allow_discards: bool,
    /// What to require of the data.
    pub policy: &'a RequestedPolicy,
}

/// An unlocked partition. It is locked again when this is dropped, unless its volume was made permanent or is in use.
#[derive(Debug)]
pub struct Unlocked {
    /// The open volume.
    pub volume: OpenVolume,
    /// The UUID in its header.
    pub uuid: String,
    /// What shows in it; `None` for swap space.
    pub file_system: Option<FileSystem>,
}

/// Opens an encrypted partition.
///
/// # Errors
/// [`OperationError::Refused`] where the header must not reach the library that opens it, or where the policy refuses what
/// shows; [`OperationError::State`] where there is no key, or a wrong one; [`OperationError::System`]. Nothing stays open.
pub fn unlock(
    request: &UnlockRequest<'_>,
    keys: &mut Keys<'_>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Unlocked, OperationError> {
    if !kernel::luks::IS_BUILT {
        return Err(failed(request, LuksError::NotBuilt));
    }
    let (device, length) = open_device(request.device)?;
    let (volume, header) = read_header(request, &device, length)?;
    let key = find_key(request, &volume, &header, keys, observer, cancel)?;
    cancel.check()?;
    fault::point("unlock:key")?;
    let opened = OpenVolume::open(
        &OpenRequest {
            device: &device,
            path: request.device,
            name: request.name,
            uuid: volume.header.uuid(),
            version: version(&volume.header),
            mapping: &volume.mapping,
            read_only: request.read_only,
            allow_discards: request.allow_discards,
        },
        &key,
    )
    .map_err(|error| failed(request, error))?;
    drop(key);
    match fault::point("unlock:open").and_then(|()| judge_contents(request, &opened)) {
        Ok(file_system) => {
            Ok(Unlocked { volume: opened, uuid: volume.header.uuid().to_owned(), file_system })
        }
        Err(cause) => match opened.close(Instant::now() + PATIENCE) {
            Ok(()) => Err(cause),
            Err(error) => Err(OperationError::Undo { cause: Box::new(cause), undoing: error.to_string() }),
        },
    }
}

fn open_device(path: &Path) -> Result<(File, ByteLength), OperationError> {
    let opening = |error| OperationError::system("opening", path, error);
    let device = kernel::open_foreign(path).map_err(opening)?;
    if !device.metadata().map_err(opening)?.file_type().is_block_device() {
        return Err(OperationError::state(
            "unlocking",
            path.display(),
            "expected a block device, found something else",
        ));
    }
    let length = kernel::block_device_size(device.as_fd())
        .map_err(|error| OperationError::system("finding the size of", path, error))?;
    Ok((device, length))
}

/// Reads what is in front of the data, judges it, and seals what was judged.
fn read_header(
    request: &UnlockRequest<'_>,
    device: &File,
    length: ByteLength,
) -> Result<(OpenableVolume, SealedFile), OperationError> {
    let number = request.partition.number;
    let read = |start: u64, count: ByteLength| {
        let mut bytes = vec![0; count.in_memory().unwrap_or(0)];
        device
            .read_exact_at(&mut bytes, start)
            .map(|()| bytes)
            .map_err(|error| OperationError::system("reading the LUKS header of", request.device, error))
    };
    let beginning = ByteLength::new(length.bytes().min(u64::try_from(BINARY_HEADER).unwrap_or(0)));
    let binary = read(0, beginning)?;
    let head_length =
        luks::header_length(number, &binary, length).map_err(|finding| refused(request, vec![finding]))?;
    let head = if head_length == beginning { binary } else { read(0, head_length)? };
    let volume = luks::judge(number, &head, length).map_err(|findings| refused(request, findings))?;
    check_protection(request, &volume)?;

    let sealing = |error| OperationError::system("copying the LUKS header of", request.device, error);
    let data = ByteLength::new(volume.mapping.offset.saturating_mul(512));
    let copy = MemoryFile::create("luks-header", data).map_err(sealing)?;
    copy.write_at(head.get(..data.in_memory().unwrap_or(0).min(head.len())).unwrap_or(&head), 0)
        .map_err(sealing)?;
    for area in &volume.key_areas {
        let start = area.start().bytes();
        copy.write_at(&read(start, area.length())?, start).map_err(sealing)?;
    }
    Ok((volume, copy.seal().map_err(sealing)?))
}

/// The policy was asked about one state; an image on disk may have got another since.
fn check_protection(request: &UnlockRequest<'_>, volume: &OpenableVolume) -> Result<(), OperationError> {
    let found = if volume.integrity { Protection::EncryptedWithIntegrity } else { Protection::Encrypted };
    let planned = request.partition.protection;
    if !planned.hides_content() || planned == found {
        return Ok(());
    }
    let problem = format!(
        "expected a partition that is '{planned}', as it was when the policy was asked, found '{found}': somebody changed it meanwhile"
    );
    Err(OperationError::state("unlocking", describe(request), problem))
}

fn version(header: &LuksHeader) -> LuksVersion {
    match header {
        LuksHeader::Luks1(_) => LuksVersion::One,
        LuksHeader::Luks2(_) => LuksVersion::Two,
    }
}

/// Tries what is known, then asks for a passphrase three times, where anybody can be asked.
fn find_key(
    request: &UnlockRequest<'_>,
    volume: &OpenableVolume,
    header: &SealedFile,
    keys: &mut Keys<'_>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<VolumeKey, OperationError> {
    keys.read(observer, cancel)?;
    let attempt =
        |secret: &Secret| VolumeKey::unlock(header, version(&volume.header), secret, volume.key_slots);
    let mut wrong = None;
    if let Some(secret) = &keys.known {
        match attempt(secret) {
            Err(error @ LuksError::WrongKey { .. }) => wrong = Some(error),
            other => return other.map_err(|error| failed(request, error)),
        }
    }
    let Some(ask) = keys.ask() else {
        return Err(match wrong {
            Some(error) => failed(request, error),
            None => no_key(request),
        });
    };
    for try_number in 1..=TRIES {
        cancel.check()?;
        let question = match try_number {
            1 => format!("Passphrase for {}: ", describe(request)),
            _ => {
                format!("Wrong passphrase. Passphrase for {} ({try_number} of {TRIES}): ", describe(request))
            }
        };
        let answer = ask(&question);
        cancel.check()?;
        let answer = answer
            .map_err(|error| OperationError::system("asking for a passphrase at", "/dev/tty", error))?;
        let Some(mut answer) = answer.filter(|answer| !answer.is_empty()) else {
            return Err(no_key(request));
        };
        let secret = Secret::new(std::mem::take(&mut *answer).into_bytes());
        match attempt(&secret) {
            Ok(key) => {
                keys.known = Some(secret);
                return Ok(key);
            }
            Err(error @ LuksError::WrongKey { .. }) => wrong = Some(error),
            Err(error) => return Err(failed(request, error)),
        }
    }
    Err(wrong.map_or_else(|| no_key(request), |error| failed(request, error)))
}

fn no_key(request: &UnlockRequest<'_>) -> OperationError {
    let problem =
        format!("it is encrypted, and there is no key: {WAYS_TO_A_KEY}; or attach it as it is with --locked");
    OperationError::state("unlocking", describe(request), problem)
}

/// The partition in words: `home (partition 4 of image.raw)`.
fn describe(request: &UnlockRequest<'_>) -> String {
    let designator = request.partition.designator;
    match request.partition.number {
        Some(number) => format!("{designator} (partition {number} of {})", request.image),
        None => request.image.to_owned(),
    }
}

fn failed(request: &UnlockRequest<'_>, error: LuksError) -> OperationError {
    match error {
        LuksError::WrongKey { .. } => {
            let problem = format!("{error}: check the key, or {WAYS_TO_A_KEY}");
            OperationError::state("unlocking", describe(request), problem)
        }
        LuksError::NoKeySlot | LuksError::NotBuilt => {
            OperationError::state("unlocking", describe(request), error.to_string())
        }
        other => {
            OperationError::System { doing: "unlocking", object: describe(request), source: Box::new(other) }
        }
    }
}

fn refused(request: &UnlockRequest<'_>, findings: Vec<Finding>) -> OperationError {
    let refusal = Refusal { policy: request.policy.to_string(), findings };
    OperationError::Refused { image: request.image.to_owned(), refusal: Box::new(refusal) }
}

/// Asks the policy about what shows now.
fn judge_contents(
    request: &UnlockRequest<'_>,
    opened: &OpenVolume,
) -> Result<Option<FileSystem>, OperationError> {
    let (superblocks, length) = probe(opened)?;
    decide_unlocked(request.policy, &request.partition, &superblocks, length).map_err(|refusal| {
        OperationError::Refused { image: request.image.to_owned(), refusal: Box::new(refusal) }
    })
}

/// Everything that is recognised in the data.
fn probe(opened: &OpenVolume) -> Result<(Vec<Superblock>, ByteLength), OperationError> {
    let path = opened.path();
    let reading = |error: io::Error| OperationError::system("reading", &path, error);
    let length = kernel::block_device_size(opened.fd())
        .map_err(|error| OperationError::system("finding the size of", &path, error))?;
    let device = File::from(opened.fd().try_clone_to_owned().map_err(reading)?);
    Ok((Contents::of(device, &path.display().to_string(), length)?.superblocks(), length))
}
