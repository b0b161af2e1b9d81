//! `ddictl` provisions Linux block devices from Discoverable Disk Images that nobody has to trust yet.

pub mod cli;
pub mod fetch;
pub mod format;
pub mod image;
pub mod kernel;
pub mod operation;
pub mod trust;
