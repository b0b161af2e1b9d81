//! The kernel's side: loop devices, memory files, mounts, signals, udev. It carries out, it does not judge.

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

/// Waits before the kernel is asked again: the one place where this layer sleeps. Every caller says why no event tells
/// it, and has a deadline or a bounded count.
#[expect(clippy::disallowed_methods, reason = "for what the kernel tells nobody")]
fn pause(duration: std::time::Duration) {
    std::thread::sleep(duration);
}
