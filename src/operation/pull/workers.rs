//! The threads that write an image and hash it on the way.
//!
//! The caller's thread fills buffers; every worker takes the next full one, writes it where it belongs, and hashes the
//! blocks in that very buffer, so that what was hashed is what was written. Two channels join them: full buffers go one
//! way, emptied ones and errors the other. There is a fixed number of buffers, which bounds the memory, and makes the
//! caller wait where the workers are slower.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::format::units::{ByteLength, ByteOffset};
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::leaves::EarlyLeaves;

use super::sparse::write_sparse;
use super::stream::Fault;

/// The size of a buffer in bytes, and of what is written and hashed at once: a multiple of every block size, and small
/// enough that it stays in the second-level cache from the one to the other.
const PIECE: usize = 256 * 1024;

/// How many buffers there are for each worker: one to work on, one to wait, and one to be filled.
const BUFFERS_OF_WORKER: usize = 3;

/// Where the bytes go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sink<'a> {
    /// The fresh file that they are written to. Nobody else writes to it.
    pub(super) file: &'a File,
    /// The most bytes it may have.
    pub(super) room: ByteLength,
    /// What is hashed of them.
    pub(super) leaves: &'a EarlyLeaves,
    /// What is written, for messages.
    pub(super) name: &'a str,
}

/// A full buffer, and where it belongs.
#[derive(Debug)]
struct Piece {
    offset: u64,
    bytes: Vec<u8>,
}

impl Sink<'_> {
    /// Writes all that `fill` gives: it fills the buffer that it is given, and says how far; less than all of it only at
    /// the end. The length of the image.
    ///
    /// # Errors
    /// What `fill` said; [`OperationError::State`] where there is no room, [`OperationError::System`] where writing fails.
    pub(super) fn write_all(
        &self,
        fill: impl FnMut(&mut [u8]) -> Result<usize, Fault>,
    ) -> Result<ByteLength, Fault> {
        let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let buffers = workers.saturating_mul(BUFFERS_OF_WORKER);
        // There is room for every buffer there is: nobody ever waits to send.
        let (full, pieces) = sync_channel(buffers);
        let (done, emptied) = channel();
        let pieces = Mutex::new(pieces);
        let length = thread::scope(|scope| {
            for _ in 0..workers {
                let done = done.clone();
                scope.spawn(|| self.work(&pieces, done));
            }
            drop(done);
            self.cut(buffers, fill, |piece| full.send(piece).is_ok(), &emptied).and_then(|length| {
                // No more pieces: the workers end, and every one has said by then how it went.
                drop(full);
                emptied
                    .iter()
                    .try_for_each(|result| result.map(drop))
                    .map(|()| length)
                    .map_err(Fault::Writing)
            })
        })?;
        // What is zero at the end was not written.
        self.file.set_len(length.bytes()).map_err(|source| self.writing(source))?;
        Ok(length)
    }

    /// Cuts what comes into pieces and hands them out, until the end or the first error of anybody.
    fn cut(
        &self,
        buffers: usize,
        mut fill: impl FnMut(&mut [u8]) -> Result<usize, Fault>,
        hand_out: impl Fn(Piece) -> bool,
        emptied: &Receiver<Result<Vec<u8>, OperationError>>,
    ) -> Result<ByteLength, Fault> {
        let mut made = 0;
        let mut offset = 0_u64;
        loop {
            let mut bytes = if made < buffers {
                made += 1;
                Vec::new()
            } else {
                match emptied.recv() {
                    Ok(emptied) => emptied?,
                    // All workers are gone without a word: they panicked, and the scope says so.
                    Err(_) => break,
                }
            };
            bytes.resize(PIECE, 0);
            let filled = fill(&mut bytes)?;
            if filled == 0 {
                break;
            }
            bytes.truncate(filled);
            let end = offset.saturating_add(ByteLength::of(&bytes).bytes());
            // A tmpfs that was there already may have no limit of its own, and zeros take no room at all.
            if end > self.room.bytes() {
                return Err(self.full(offset).into());
            }
            if offset == 0 {
                fault::point("pull:receiving")?;
            }
            if !hand_out(Piece { offset, bytes }) {
                break;
            }
            offset = end;
        }
        Ok(ByteLength::new(offset))
    }

    /// What a worker does: pieces, until there are no more or one fails.
    fn work(&self, pieces: &Mutex<Receiver<Piece>>, done: Sender<Result<Vec<u8>, OperationError>>) {
        loop {
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Piece { offset, bytes }) = next else {
                return;
            };
            let result = self.write_and_hash(offset, &bytes).map(|()| bytes);
            let failed = result.is_err();
            // Where the caller is gone, it has an error of its own.
            if done.send(result).is_err() || failed {
                return;
            }
        }
    }

    fn write_and_hash(&self, offset: u64, bytes: &[u8]) -> Result<(), OperationError> {
        write_sparse(self.file, bytes, offset).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull => self.full(offset),
            _ => self.writing(source),
        })?;
        if offset == 0 {
            fault::point("pull:writing")?;
        }
        self.leaves
            .feed(ByteOffset::new(offset), bytes)
            .map_err(|error| OperationError::state("hashing the image of", self.name, error.to_string()))
    }

    fn writing(&self, source: io::Error) -> OperationError {
        OperationError::system("writing the image of", self.name, source)
    }

    fn full(&self, offset: u64) -> OperationError {
        let problem = format!("no room is left after {offset} bytes: the image does not fit");
        OperationError::state("writing the image of", self.name, problem)
    }
}
