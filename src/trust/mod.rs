//! Verification: the only place where a value that says 'verified' can be made.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod hash_tree;
pub mod root_hash;
pub mod signature;
