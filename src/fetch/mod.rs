//! Fetching bytes over HTTP: whole bodies as a stream, and ranges.

pub mod certificates;
pub mod client;
pub mod error;
pub mod range;
pub mod url;
