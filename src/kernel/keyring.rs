//! The kernel's keyrings: how a signature is handed to the device mapper.

use std::ffi::CString;

use nix::errno::Errno;

use super::raw::keyring::{self, KeySerial};

/// A key of type `user` in the keyring of this process. Dropping it takes it out again.
#[derive(Debug)]
pub struct UserKey {
    serial: KeySerial,
}

/// Why the kernel did not take a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The kernel refused it.
    #[error("adding the key '{description}' to the keyring of the process")]
    Adding {
        /// Its description.
        description: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The description has a NUL in it.
    #[error("expected the description of a key without NUL, found '{}'", .description.escape_debug())]
    Description {
        /// The text.
        description: String,
    },
    /// The kernel was built without keyrings (`CONFIG_KEYS`).
    #[error("this kernel has no keyrings")]
    NotSupported,
}

impl UserKey {
    /// Puts a key with this payload into the keyring of the process. Who adds a second one of the same description
    /// overwrites the first.
    ///
    /// # Errors
    /// A [`KeyringError`].
    pub fn add(description: &str, payload: &[u8]) -> Result<Self, KeyringError> {
        let owned = || description.to_owned();
        let text =
            CString::new(description).map_err(|_| KeyringError::Description { description: owned() })?;
        match keyring::add_user_key(&text, payload) {
            Ok(serial) => Ok(Self { serial }),
            Err(Errno::ENOSYS) => Err(KeyringError::NotSupported),
            Err(source) => Err(KeyringError::Adding { description: owned(), source }),
        }
    }
}

impl Drop for UserKey {
    fn drop(&mut self) {
        // What can fail is that it is not there any more. The keyring goes with the process at the latest.
        let _ = keyring::unlink_from_process(self.serial);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kernel::pause;

    fn is_listed(description: &str) -> bool {
        std::fs::read_to_string("/proc/keys").unwrap().lines().any(|line| line.contains(description))
    }

    #[test]
    fn a_description_with_a_nul_never_reaches_the_kernel() {
        let error = UserKey::add("a\0b", b"x").unwrap_err();
        assert_eq!(error.to_string(), "expected the description of a key without NUL, found 'a\\0b'");
    }

    #[test]
    fn a_key_is_there_until_it_is_dropped() {
        let description = format!("ddictl-test-{}", std::process::id());
        match UserKey::add(&description, b"payload") {
            Ok(key) => {
                assert!(is_listed(&description));
                drop(key);
                // The kernel frees it in a worker of its own, and tells nobody.
                let deadline = Instant::now() + Duration::from_secs(5);
                while is_listed(&description) {
                    assert!(Instant::now() < deadline, "{description} is still there");
                    pause(Duration::from_millis(1));
                }
            }
            Err(error) => assert_eq!(error, KeyringError::NotSupported),
        }
    }
}
