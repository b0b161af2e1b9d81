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

/// Lets the library for public keys load whatever it loads, which it would do at its first use: before a process gives up
/// opening files.
pub fn load_cryptography() {
    openssl::init();
    // Its digests come from a provider that is loaded at the first use, too. Where that fails, so do later uses.
    let _ = openssl::hash::hash(openssl::hash::MessageDigest::sha256(), &[]);
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the file is shared with test programs that see it from outside")]
#[path = "../../tests/support/keys.rs"]
mod test_keys;
