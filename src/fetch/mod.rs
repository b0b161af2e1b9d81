//! Fetching bytes: whole files as a stream that survives faults, and ranges; what is compressed, decompressed as it
//! comes, and what is in archives.

pub mod archive;
pub mod certificates;
pub mod client;
pub mod decompress;
pub mod download;
pub mod error;
pub mod origin;
pub mod qcow2;
pub mod range;
mod resume;
pub mod retry;
mod transfer;
pub mod url;

#[cfg(test)]
#[path = "../../tests/support/http_server.rs"]
pub(crate) mod http_server;
