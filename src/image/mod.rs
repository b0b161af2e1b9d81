//! What an image is, what a policy asks of it, and what is planned with it: decisions, without effects.
#![forbid(unsafe_code)]

pub mod assessment;
pub mod beside;
pub mod boot;
mod candidates;
pub mod comparison;
mod contents;
pub mod derivation;
pub mod dissection;
pub mod finding;
pub mod ignored;
pub mod luks;
mod pairing;
pub mod places;
pub mod plan;
pub mod policy;
pub mod presets;
pub mod reduction;
pub mod survey;
mod systemd;
pub mod tree;
pub mod uki;
pub mod unlocked;
pub mod verdict;
pub mod whole_disk;

#[cfg(test)]
mod tests;
