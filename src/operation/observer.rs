//! How an operation tells its caller what it is doing. Nothing below the front ends prints.

use crate::format::units::ByteLength;

/// Hears what goes on. Every method has a default that does nothing.
pub trait Observer: Sync {
    /// Long work begins: what, and how many bytes it has to go through where that is known.
    fn started(&self, what: &str, total: Option<ByteLength>) {
        let _ = (what, total);
    }

    /// So many more bytes of the work are done. Called from any thread.
    fn advanced(&self, bytes: ByteLength) {
        let _ = bytes;
    }

    /// The work that was started has ended, well or not.
    fn finished(&self) {}

    /// Something that the user should know and that does not stop the work.
    fn warning(&self, text: &str) {
        let _ = text;
    }

    /// What was done, for a user who wants to follow.
    fn note(&self, text: &str) {
        let _ = text;
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
