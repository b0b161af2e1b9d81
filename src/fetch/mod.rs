//! Fetching bytes over HTTP: whole bodies as a stream, and ranges; what is compressed, decompressed as it comes, and what
//! is in archives.

pub mod archive;
pub mod body;
pub mod certificates;
pub mod client;
pub mod decompress;
pub mod error;
pub mod range;
mod transfer;
pub mod url;

#[cfg(test)]
#[path = "../../tests/support/http_server.rs"]
pub(crate) mod http_server;
