//! Fetching bytes over HTTP: whole bodies as a stream, and ranges; and what is compressed, decompressed as it comes.

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
mod http_server;
