//! Passphrases and keys: bytes that nobody is to see.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zeroize::Zeroizing;

use super::raw::memory;
use super::signal::SignalWatch;

/// A passphrase or a key. It is kept out of swap space where that is allowed, overwritten when it is dropped, and never
/// shown.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; they are not copied. Whoever filled the vector must not have let it grow: what it left
    /// behind then is out of our hands.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let bytes = Zeroizing::new(bytes);
        // Where it is not allowed (RLIMIT_MEMLOCK), the secret is one all the same.
        let _ = memory::lock(&bytes);
        Self(bytes)
    }

    /// Zeros, to be filled by whoever makes the secret.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        Self::new(vec![0; length])
    }

    /// Reads a file, a pipe or a device to its end, or up to `limit` bytes. Whoever writes to a pipe may take time: the
    /// wait ends with a signal. A named pipe is opened without waiting for a writer, see
    /// [`open_foreign`](super::open_foreign): an open that waits could not be ended.
    ///
    /// # Errors
    /// The error of read(2); [`io::ErrorKind::FileTooLarge`] where there is more; [`io::ErrorKind::Interrupted`] where
    /// a signal came.
    pub fn read(mut file: &File, limit: usize, signals: Option<&SignalWatch>) -> io::Result<Self> {
        // One byte more tells whether there is more. The vector never grows, so no copy is left behind.
        let mut bytes = Self::new(vec![0; limit.saturating_add(1)]);
        let mut length = 0_usize;
        loop {
            wait_readable(file, signals)?;
            let Some(room) = bytes.0.get_mut(length..).filter(|room| !room.is_empty()) else {
                return Err(io::ErrorKind::FileTooLarge.into());
            };
            match file.read(room) {
                Ok(0) => break,
                Ok(count) => length = length.saturating_add(count),
                // Nothing there yet, or somebody else was quicker: back to waiting.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        if length > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be filled.
    #[must_use]
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Cuts off what is behind the first `length` bytes, and overwrites it.
    pub fn truncate(&mut self, length: usize) {
        if let Some(behind) = self.0.get_mut(length..) {
            zeroize::Zeroize::zeroize(behind);
        }
        self.0.truncate(length);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Waits until there is something to read, or the end.
fn wait_readable(file: &File, signals: Option<&SignalWatch>) -> io::Result<()> {
    loop {
        if let Some(signals) = signals {
            signals.check().map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
        }
        let mut waited = vec![PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        waited.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) if waited.first().is_some_and(|file| file.any() != Some(false)) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new(b"sesame".to_vec());
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret Some(\n    Secret,\n)");
        assert_eq!(secret.expose(), b"sesame");
    }

    #[test]
    fn a_file_is_read_up_to_a_limit() {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"sesame").unwrap();
        let open = || File::open(file.path()).unwrap();
        assert_eq!(Secret::read(&open(), 6, None).unwrap().expose(), b"sesame");
        let error = Secret::read(&open(), 5, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(Secret::read(&File::open("/dev/null").unwrap(), 5, None).unwrap().expose(), b"");
        let error = Secret::read(&File::open("/dev/zero").unwrap(), 5, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn the_wait_for_a_pipe_ends_with_a_signal() {
        // In a thread of its own: the signal stays blocked there.
        std::thread::spawn(|| {
            let watch = SignalWatch::new().unwrap();
            let (reader, writer) = io::pipe().unwrap();
            let file = File::from(std::os::fd::OwnedFd::from(reader));
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
            let error = Secret::read(&file, 5, Some(&watch)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
            drop(writer);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_is_cut_off_is_overwritten() {
        let mut secret = Secret::new(b"sesame\n".to_vec());
        let capacity = secret.0.capacity();
        secret.truncate(6);
        assert_eq!((secret.expose(), secret.0.capacity()), (&b"sesame"[..], capacity));
        // The vector still owns the byte behind its end.
        secret.0.resize(capacity, 1);
        assert_eq!(secret.0.len(), capacity);
    }
}
