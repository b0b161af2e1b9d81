//! The digest of a download, on a thread of its own: it takes about as long as all that is done with the bytes beside it.

use std::io;
use std::panic;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::fetch::download::Chunk;
use crate::trust::download::{DownloadDigest, DownloadHasher};

/// How many chunks may wait to be hashed: they are memory, and whoever brings more of them waits.
const WAITING_CHUNKS: usize = 2;

/// A digest under way. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct BackgroundDigest {
    messages: SyncSender<Message>,
    thread: JoinHandle<DownloadDigest>,
}

enum Message {
    /// The next bytes, all of them.
    Next(Chunk),
    /// Nothing that came before counts.
    Anew,
}

impl BackgroundDigest {
    /// Of nothing yet.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub(super) fn begin() -> io::Result<Self> {
        let (messages, received) = sync_channel(WAITING_CHUNKS);
        let thread = Builder::new().name("digest".to_owned()).spawn(move || {
            let mut hasher = DownloadHasher::new();
            for message in received {
                match message {
                    Message::Next(chunk) => hasher.update(chunk.bytes()),
                    Message::Anew => hasher = DownloadHasher::new(),
                }
            }
            hasher.finish()
        })?;
        Ok(Self { messages, thread })
    }

    /// Takes the next chunk, in the order in which they were received.
    pub(super) fn update(&self, chunk: Chunk) {
        self.send(Message::Next(chunk));
    }

    /// The next chunk is the first one again.
    pub(super) fn begin_anew(&self) {
        self.send(Message::Anew);
    }

    /// The digest of all chunks since the beginning.
    pub(super) fn finish(self) -> DownloadDigest {
        drop(self.messages);
        self.thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    fn send(&self, message: Message) {
        // Nobody takes it only where the thread panicked, and `finish` goes on with that.
        let _ = self.messages.send(message);
    }
}
