//! The kernel's side: loop devices, memory files, mounts, signals, udev. It carries out, it does not judge.

pub mod device_number;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod placed_file;
pub mod raw;
pub mod signal;
pub mod udev;
