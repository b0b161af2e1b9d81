//! LZ4 frames (LZ4 Frame Format 1.6.4) around the blocks that the library decodes.
//!
//! The library has a decoder of frames as well, which takes the end of its input between two blocks, and an empty block,
//! for the end of the frame.

use std::hash::Hasher;

use lz4_flex::block::decompress_into_with_dict;
use twox_hash::XxHash32;

use crate::format::compression::lz4::{FrameHeader, HEADER_MAXIMUM, WINDOW};

use super::engine::{Fault, Step};

/// A decoder of one frame.
#[derive(Debug)]
pub(super) struct UnLz4 {
    state: State,
    /// Bytes of the part that is being gathered.
    gathered: Vec<u8>,
    /// [`WINDOW`] bytes for what came before, then one block.
    content: Vec<u8>,
    /// How much of the window is filled, at its end.
    history: usize,
    /// What of the block was not written yet: from here to there in `content`.
    pending: (usize, usize),
    length: u64,
    hash: XxHash32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    BlockSize(FrameHeader),
    Block { header: FrameHeader, compressed: bool, length: usize },
    ContentChecksum,
    Ended,
}

impl Default for UnLz4 {
    fn default() -> Self {
        Self {
            state: State::Header,
            gathered: Vec::new(),
            content: Vec::new(),
            history: 0,
            pending: (0, 0),
            length: 0,
            hash: XxHash32::with_seed(0),
        }
    }
}

impl UnLz4 {
    /// See [`super::engine::Engine::step`].
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        let mut consumed = 0_usize;
        let mut produced = 0_usize;
        loop {
            produced = produced.saturating_add(self.hand_out(output.get_mut(produced..).unwrap_or_default()));
            if self.pending.0 < self.pending.1 || matches!(self.state, State::Ended) {
                break;
            }
            let rest = input.get(consumed..).unwrap_or_default();
            let (taken, complete) = self.advance(rest)?;
            consumed = consumed.saturating_add(taken);
            if !complete {
                break;
            }
        }
        let ended = matches!(self.state, State::Ended) && self.pending.0 >= self.pending.1;
        Ok(Step { consumed, produced, ended })
    }

    /// Writes what is left of the block.
    fn hand_out(&mut self, output: &mut [u8]) -> usize {
        let (from, to) = self.pending;
        let pending = self.content.get(from..to).unwrap_or_default();
        let count = pending.len().min(output.len());
        if let (Some(source), Some(target)) = (pending.get(..count), output.get_mut(..count)) {
            target.copy_from_slice(source);
        }
        self.pending.0 = from.saturating_add(count);
        count
    }

    /// Goes on by one part of the frame if `input` completes it; returns how much was taken, and whether it did.
    fn advance(&mut self, input: &[u8]) -> Result<(usize, bool), Fault> {
        match self.state {
            State::Header => self.header(input),
            State::BlockSize(header) => {
                let (taken, field) = self.gather(input, 4);
                let Some(field) = field else { return Ok((taken, false)) };
                self.block_size(header, little_endian(&field))?;
                Ok((taken, true))
            }
            State::Block { header, compressed, length } => {
                let checksum = if header.block_checksums { 4 } else { 0 };
                let wanted = length.saturating_add(checksum);
                // A block that is there as a whole is decoded where it lies.
                if self.gathered.is_empty()
                    && let Some(block) = input.get(..wanted)
                {
                    self.block(header, compressed, block, length)?;
                    return Ok((wanted, true));
                }
                let (taken, block) = self.gather(input, wanted);
                let Some(block) = block else { return Ok((taken, false)) };
                self.block(header, compressed, &block, length)?;
                self.gathered = block;
                self.gathered.clear();
                Ok((taken, true))
            }
            State::ContentChecksum => {
                let (taken, field) = self.gather(input, 4);
                let Some(field) = field else { return Ok((taken, false)) };
                compare("content checksum", little_endian(&field), self.hash.finish())?;
                self.state = State::Ended;
                Ok((taken, true))
            }
            State::Ended => Ok((0, false)),
        }
    }

    /// Gathers `wanted` bytes over several calls.
    fn gather(&mut self, input: &[u8], wanted: usize) -> (usize, Option<Vec<u8>>) {
        let missing = wanted.saturating_sub(self.gathered.len());
        let taken = input.get(..missing).unwrap_or(input);
        self.gathered.extend_from_slice(taken);
        let complete = self.gathered.len() >= wanted;
        (taken.len(), complete.then(|| std::mem::take(&mut self.gathered)))
    }

    fn header(&mut self, input: &[u8]) -> Result<(usize, bool), Fault> {
        let before = self.gathered.len();
        let missing = HEADER_MAXIMUM.saturating_sub(before);
        self.gathered.extend_from_slice(input.get(..missing).unwrap_or(input));
        let damaged = |error: crate::format::compression::MemberFault| Fault::Damaged(error.to_string());
        let Some(header) = FrameHeader::parse(&self.gathered).map_err(damaged)? else {
            return Ok((self.gathered.len().saturating_sub(before), false));
        };
        let found = hash(header.checked(&self.gathered)) >> 8 & 0xff;
        compare("header checksum", u64::from(header.checksum), found)?;
        let window = if header.linked { WINDOW } else { 0 };
        self.content.resize(window.saturating_add(header.block_maximum), 0);
        self.gathered.clear();
        self.state = State::BlockSize(header);
        Ok((header.length.saturating_sub(before), true))
    }

    fn block_size(&mut self, header: FrameHeader, field: u64) -> Result<(), Fault> {
        if field == 0 {
            if let Some(expected) = header.content {
                compare("content size", expected, self.length)?;
            }
            self.state = if header.content_checksum { State::ContentChecksum } else { State::Ended };
            return Ok(());
        }
        let compressed = field & UNCOMPRESSED == 0;
        let length = usize::try_from(field & !UNCOMPRESSED).unwrap_or(usize::MAX);
        if length > header.block_maximum {
            let limit = header.block_maximum;
            return Err(Fault::Damaged(format!("a block of {length} bytes, expected at most {limit}")));
        }
        self.state = State::Block { header, compressed, length };
        Ok(())
    }

    /// Decodes one block, `length` bytes and a checksum if it has one.
    fn block(
        &mut self,
        header: FrameHeader,
        compressed: bool,
        block: &[u8],
        length: usize,
    ) -> Result<(), Fault> {
        let (data, checksum) = block.split_at_checked(length).unwrap_or((block, &[]));
        if header.block_checksums {
            compare("block checksum", little_endian(checksum), hash(data))?;
        }
        let window = if header.linked { WINDOW } else { 0 };
        self.remember(window);
        let (past, space) = self.content.split_at_mut_checked(window).unwrap_or_default();
        let produced = if compressed {
            let past = past.get(window.saturating_sub(self.history)..).unwrap_or_default();
            decompress_into_with_dict(data, space, past)
                .map_err(|error| Fault::Damaged(format!("a block: {error}")))?
        } else {
            space.get_mut(..length).unwrap_or_default().copy_from_slice(data);
            length
        };
        let content = space.get(..produced).unwrap_or_default();
        if header.content_checksum {
            self.hash.write(content);
        }
        self.length = self.length.saturating_add(u64::try_from(produced).unwrap_or(u64::MAX));
        self.pending = (window, window.saturating_add(produced));
        self.state = State::BlockSize(header);
        Ok(())
    }

    /// Moves the end of what came so far, window and last block, to the end of the window.
    fn remember(&mut self, window: usize) {
        let end = self.pending.1.max(window);
        let from = end.saturating_sub(window);
        self.content.copy_within(from..end, 0);
        self.history = self.history.saturating_add(end.saturating_sub(window)).min(window);
        self.pending = (window, window);
    }
}

/// The bit of a block's size that says that the block is not compressed.
const UNCOMPRESSED: u64 = 0x8000_0000;

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn hash(bytes: &[u8]) -> u64 {
    u64::from(XxHash32::oneshot(0, bytes))
}

fn compare(what: &str, expected: u64, found: u64) -> Result<(), Fault> {
    if expected == found {
        return Ok(());
    }
    Err(Fault::Damaged(format!("{what}: expected {expected}, found {found}")))
}
