//! Operations: the order of effects and their undoing.

pub mod activatable;
pub mod activate;
pub mod attach;
pub mod audit;
pub mod boot;
mod boot_partitions;
pub mod cache;
pub mod cancel;
pub mod companions;
mod contents;
pub mod describe;
pub mod detach;
pub mod devices;
pub mod error;
pub mod examine;
#[cfg(not(feature = "fault-points"))]
mod fault;
#[cfg(feature = "fault-points")]
pub mod fault;
pub mod ignore_store;
pub mod image_directory;
pub mod keyring_store;
mod leaves;
pub mod list;
pub mod mount;
pub mod observer;
pub mod policy_store;
pub mod pull;
pub mod record;
pub mod seal;
mod search_path;
pub mod source;
mod tool;
mod tree;
pub mod trust_store;
mod uki;
pub mod umount;
pub mod unlock;
pub mod verified_image;
pub mod verify;
pub mod verify_image;
pub mod whole_disk;
