//! The kernel's side: loop devices, memory files, mounts, signals, udev. It carries out, it does not judge.

use std::os::fd::BorrowedFd;

use crate::format::units::ByteLength;

pub mod device_number;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod placed_file;
pub mod process;
pub mod raw;
pub mod signal;
pub mod state_file;
pub mod udev;

/// The size of a block device.
///
/// # Errors
/// The kernel's answer, [`raw::IoctlError::Unsupported`] for what is no block device.
pub fn block_device_size(device: BorrowedFd<'_>) -> Result<ByteLength, raw::IoctlError> {
    raw::block::size(device)
}

/// Waits before the kernel is asked again: the one place where this layer sleeps. Every caller says why no event tells
/// it, and has a deadline or a bounded count.
#[expect(clippy::disallowed_methods, reason = "for what the kernel tells nobody")]
fn pause(duration: std::time::Duration) {
    std::thread::sleep(duration);
}
