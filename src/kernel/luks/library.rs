//! The calls of libcryptsetup.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use libcryptsetup_rs::consts::vals::EncryptionFormat;
use libcryptsetup_rs::{CryptInit, LibcryptErr};
use nix::libc;

use super::{LuksError, LuksVersion, SealedFile, Secret};
use crate::kernel::raw::libcryptsetup::{prepare, take_messages};

/// The longest key that dm-crypt takes: two of 256 bits, and one of 1024 for the authentication.
const MAXIMUM_KEY: usize = 512;

pub(super) fn volume_key(
    header: &SealedFile,
    version: LuksVersion,
    passphrase: &Secret,
    key_slots: usize,
) -> Result<Secret, LuksError> {
    prepare();
    take_messages();
    // The descriptor stays open for as long as the library uses the path.
    let path = PathBuf::from(format!("/proc/self/fd/{}", header.file().as_raw_fd()));
    let mut device = CryptInit::init(&path).map_err(failed("opening the LUKS header"))?;
    // Nobody else can have the sealed file: there is nothing to lock, and nothing to leave behind in /run/cryptsetup.
    device.settings_handle().metadata_locking(false).map_err(failed("reading the LUKS header"))?;
    let format = match version {
        LuksVersion::One => EncryptionFormat::Luks1,
        LuksVersion::Two => EncryptionFormat::Luks2,
    };
    device.context_handle().load::<()>(Some(format), None).map_err(failed("reading the LUKS header"))?;
    let length = usize::try_from(device.status_handle().get_volume_key_size()).unwrap_or(0);
    if !(1..=MAXIMUM_KEY).contains(&length) {
        return Err(LuksError::Library {
            doing: "reading the LUKS header",
            said: format!("a volume key of {length} bytes"),
            source: io::ErrorKind::InvalidData.into(),
        });
    }
    let mut key = Secret::zeroed(length);
    match device.volume_key_handle().get(None, key.expose_mut(), Some(passphrase.expose())) {
        Ok((_, length)) => {
            key.truncate(length);
            Ok(key)
        }
        Err(LibcryptErr::IOError(error)) if error.raw_os_error() == Some(libc::EPERM) => {
            take_messages();
            Err(LuksError::WrongKey { key_slots })
        }
        Err(error) => Err(failed("trying the key")(error)),
    }
}

/// The library's error, with what it said.
fn failed(doing: &'static str) -> impl FnOnce(LibcryptErr) -> LuksError {
    move |error| {
        let said = take_messages();
        let source = match error {
            LibcryptErr::IOError(error) => error,
            other => io::Error::other(other.to_string()),
        };
        let said = if said.is_empty() { "libcryptsetup refused".to_owned() } else { said };
        LuksError::Library { doing, said, source }
    }
}
