//! Verification: the only place where a value that says 'verified' can be made.
//!
//! Such a value has private fields and no other way in than the check that it stands for. Nothing here reads files,
//! asks the clock or starts a thread: bytes, trust anchors and the time come in as arguments.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod block_digest;
mod der;
pub mod download;
pub mod hash_tree;
pub mod manifest;
pub mod openpgp;
pub mod revocation;
pub mod root_hash;
pub mod sealing;
pub mod signature;
mod signed_data;

#[cfg(test)]
#[expect(unreachable_pub, reason = "the file is shared with test programs that see it from outside")]
#[path = "../../tests/support/keys.rs"]
mod test_keys;
