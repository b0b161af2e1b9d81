//! Reading what a boot is asked for, from the kernel and from system credentials.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use crate::format::kernel_command_line::KernelCommandLine;
use crate::image::boot::{BootRequest, Stage};
use crate::operation::activate::INITRD_RELEASE;
use crate::operation::error::OperationError;
use crate::operation::search_path::read_small_file;

const COMMAND_LINE: &str = "/proc/cmdline";
/// System credentials, as systemd hands them on; those that are encrypted lie elsewhere.
const CREDENTIAL: &str = "/run/credentials/@system/import.pull";
const ENCRYPTED_CREDENTIAL: &str = "/run/credentials/@encrypted/import.pull";
/// Says to the system that follows an initrd that the credential was obeyed there.
const CREDENTIAL_DONE: &str = "/run/ddictl/import.pull";
/// Where systemd looks for generators; the first of a name counts.
const GENERATORS: [&str; 4] = [
    "/run/systemd/system-generators",
    "/etc/systemd/system-generators",
    "/usr/local/lib/systemd/system-generators",
    "/usr/lib/systemd/system-generators",
];
/// systemd's own, which pulls without a policy.
const OTHER_ACTOR: &str = "systemd-import-generator";

/// What the environment says in place of the system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootSources {
    /// The kernel command line, instead of the kernel's.
    pub command_line: Option<String>,
    /// Whether this is an initrd, instead of by its release file.
    pub in_initrd: Option<bool>,
}

/// Reads what this boot is asked for.
///
/// # Errors
/// [`OperationError::System`] where it cannot be read, [`OperationError::State`] for a credential that is encrypted.
pub fn read_request(sources: &BootSources) -> Result<BootRequest, OperationError> {
    let line = match &sources.command_line {
        Some(text) => text.clone().into_bytes(),
        None => fs::read(COMMAND_LINE)
            .map_err(|source| OperationError::system("reading", COMMAND_LINE, source))?,
    };
    let in_initrd = match sources.in_initrd {
        Some(in_initrd) => in_initrd,
        None => fs::exists(INITRD_RELEASE)
            .map_err(|source| OperationError::system("examining", INITRD_RELEASE, source))?,
    };
    let stage = if in_initrd { Stage::Initrd } else { Stage::Host };
    // Whoever gives a command line asks for that one alone. What an initrd has pulled is not pulled once more.
    let is_done = stage == Stage::Host && fs::exists(CREDENTIAL_DONE).unwrap_or(false);
    let credential = if sources.command_line.is_some() || is_done { None } else { read_credential()? };
    Ok(BootRequest::read(&KernelCommandLine::parse(&line), credential.as_deref(), stage))
}

fn read_credential() -> Result<Option<String>, OperationError> {
    let encrypted = Path::new(ENCRYPTED_CREDENTIAL);
    if encrypted.try_exists().unwrap_or(false) {
        let problem = "encrypted credentials are not read: pass import.pull in the clear (it is not trusted anyway), or use \
                       the kernel command line";
        return Err(OperationError::state("reading the credential", encrypted.display(), problem));
    }
    let content = read_small_file("reading the credential", Path::new(CREDENTIAL))?;
    Ok(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
}

/// Notes that an initrd has done what the credential asks.
///
/// # Errors
/// [`OperationError::System`].
pub(super) fn note_credential() -> Result<(), OperationError> {
    fs::write(CREDENTIAL_DONE, "")
        .map_err(|source| OperationError::system("writing", CREDENTIAL_DONE, source))
}

/// Whether anything is asked for at all: an expression, right or wrong.
#[must_use]
pub fn is_asked_for(request: &BootRequest) -> bool {
    !request.pulls.is_empty()
}

/// Refuses a system where systemd's own generator would do the same pulls.
///
/// # Errors
/// [`OperationError::State`] with the way out.
pub fn expect_one_actor() -> Result<(), OperationError> {
    for directory in GENERATORS {
        let path = Path::new(directory).join(OTHER_ACTOR);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(OperationError::system("examining", &path, source)),
            Ok(_) if !can_run(&path) => return Ok(()),
            Ok(_) => {
                let problem = format!(
                    "systemd's own generator would pull the same without a policy: mask it \
                     (ln -s /dev/null {}/{OTHER_ACTOR}, in the initrd too)",
                    GENERATORS[1]
                );
                return Err(OperationError::state("booting beside", path.display(), problem));
            }
        }
    }
    Ok(())
}

/// Whether systemd would run it: neither a link to nowhere or to `/dev/null`, nor empty, nor without permission.
fn can_run(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        !metadata.file_type().is_char_device()
            && metadata.len() > 0
            && metadata.permissions().mode() & 0o111 != 0
    })
}
