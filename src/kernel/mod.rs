//! The kernel's side: loop devices, the device mapper, memory files, mounts, signals, udev. It carries out, it does not judge.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::format::units::ByteLength;

pub mod confinement;
pub mod device_mapper;
pub mod device_number;
pub mod efi_variable;
pub mod holders;
pub mod keyring;
pub mod loop_device;
pub mod luks;
pub mod memory;
pub mod mount;
pub mod partition;
pub mod placed_file;
pub mod process;
pub mod raw;
pub mod secret;
pub mod signal;
pub mod stack;
pub mod state_file;
pub mod tree;
pub mod udev;

/// Opens for reading whatever has this name: a FIFO without a writer does not block, and a terminal does not become ours.
///
/// # Errors
/// The error of open(2).
pub fn open_foreign(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// As [`open_foreign`], of something that was found and not named: a symbolic link in its place is an error.
///
/// # Errors
/// As [`open_foreign`].
pub fn open_found(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Lets this process have as many files open as it may allow itself. Where that fails it stays as it was.
pub fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The file of a descriptor through another one that can write, too.
///
/// # Errors
/// The error of open(2): among others where its permissions or its file system do not allow it.
pub fn reopen_for_writing(file: BorrowedFd<'_>) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY).open(path)
}

/// The size of a block device.
///
/// # Errors
/// The kernel's answer, [`raw::IoctlError::Unsupported`] for what is no block device.
pub fn block_device_size(device: BorrowedFd<'_>) -> Result<ByteLength, raw::IoctlError> {
    raw::block::size(device)
}

/// Waits before the kernel is asked again: the one place where anything sleeps. Every caller says why no event tells
/// it, and has a deadline or a bounded count.
#[expect(clippy::disallowed_methods, reason = "for what the kernel tells nobody")]
pub fn pause(duration: std::time::Duration) {
    std::thread::sleep(duration);
}
