//! Decompression while the bytes come: what goes in is pulled, what comes out is bounded, and the end is proved.
//!
//! [`Opened::open`] looks at the first bytes and gives the content of the file: its bytes as they are, or
//! decompressed. Members that follow each other are one content; whatever else stands behind the last member is an error.
//! A digest of the file as it came is made below, by whoever reads the bytes that the decoder consumes.

mod engine;
mod error;
mod input;
mod lz4;
#[cfg(test)]
mod tests;

pub use error::DecompressError;
pub use input::Input;

use std::io::{self, BufRead};
use std::num::NonZeroU32;

use crate::format::compression::{Compression, Encoding, Member, Padding};
use crate::format::units::ByteLength;

use engine::{Engine, EngineLimits, Fault};

/// How much memory a decoder may have by default, in bytes: the largest window of [`crate::format::compression::zstd`],
/// and what `xz -9` needs twice.
pub const MEMORY: ByteLength = ByteLength::new(160 << 20);

/// How many members without content may follow each other. Making a decoder costs much more time than such a member is
/// long.
pub const EMPTY_MEMBERS_MAXIMUM: u32 = 1024;

/// How many members get a decoder with threads of its own. A file whose compressor meant it for several threads has few
/// members with many blocks, or members that are too small to gain anything.
const PARALLEL_MEMBERS: u64 = 16;

/// How many steps in a row may do nothing at all before the decoder is taken to be stuck.
const IDLE_STEPS: u32 = 4;

/// What a decoder may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// How large the content may be, in bytes.
    pub content: ByteLength,
    /// How much memory the decoder may have for what the format lets the file choose: windows and dictionaries.
    pub memory: ByteLength,
    /// How many threads may help where the format allows it, which is xz with several blocks.
    pub threads: NonZeroU32,
}

impl DecoderLimits {
    /// Content of at most `content` bytes, [`MEMORY`], and one thread.
    #[must_use]
    pub const fn new(content: ByteLength) -> Self {
        Self { content, memory: MEMORY, threads: NonZeroU32::MIN }
    }
}

/// The content of a file, after its first bytes were looked at.
#[derive(Debug)]
pub enum Opened<R> {
    /// The file is its content: nothing was consumed. It may be a qcow2 image, which can only be converted as a whole.
    Plain(Encoding, Input<R>),
    /// The file is compressed.
    Compressed(Box<Decoder<R>>),
}

impl<R: BufRead> Opened<R> {
    /// Looks at the first bytes of a file. It may end after any of them.
    ///
    /// # Errors
    /// What reading them said.
    pub fn open(file: R, limits: DecoderLimits) -> io::Result<Self> {
        let mut input = Input::new(file);
        match Encoding::recognise(input.peek()?) {
            Encoding::Compressed(compression) => {
                Ok(Self::Compressed(Box::new(Decoder::new(compression, input, limits))))
            }
            plain => Ok(Self::Plain(plain, input)),
        }
    }
}

/// A compressed file while it is decompressed.
#[derive(Debug)]
pub struct Decoder<R> {
    compression: Compression,
    input: Input<R>,
    limits: DecoderLimits,
    state: State,
    members: u64,
    empty_members: u32,
    produced: u64,
}

/// What stands at the beginning of the input.
#[derive(Debug)]
enum State {
    /// A member, or what may stand between members or behind the last one.
    Between,
    /// The rest of a frame that is skipped.
    Skipping(u64),
    /// The rest of a member.
    Inside { engine: Box<Engine>, produced: u64, idle: u32 },
    /// Nothing: the file ended where it may.
    Ended,
    /// It does not matter any more.
    Failed,
}

/// The proof that a file was decompressed to its end, and that every checksum in it was seen and agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Complete {
    compression: Compression,
    consumed: u64,
    produced: u64,
    members: u64,
}

impl Complete {
    /// How the file was compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// The length of the file in bytes.
    #[must_use]
    pub const fn compressed(&self) -> ByteLength {
        ByteLength::new(self.consumed)
    }

    /// The length of its content in bytes.
    #[must_use]
    pub const fn content(&self) -> ByteLength {
        ByteLength::new(self.produced)
    }

    /// How many members it has.
    #[must_use]
    pub const fn members(&self) -> u64 {
        self.members
    }
}

impl<R: BufRead> Decoder<R> {
    fn new(compression: Compression, input: Input<R>, limits: DecoderLimits) -> Self {
        let state = State::Between;
        Self { compression, input, limits, state, members: 0, empty_members: 0, produced: 0 }
    }

    /// How the file is compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// How many bytes of the file were used so far.
    #[must_use]
    pub const fn consumed(&self) -> ByteLength {
        ByteLength::new(self.input.consumed())
    }

    /// Fills `buffer` with content; less than that, at last nothing, only at the end. [`Self::finish`] proves the end.
    ///
    /// # Errors
    /// [`DecompressError`]. What is in the buffer then is of no use, and a further call fails as well.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, DecompressError> {
        let mut filled = 0;
        while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
            // Whatever fails below leaves this behind.
            match std::mem::replace(&mut self.state, State::Failed) {
                State::Between => self.state = self.next_member()?,
                State::Skipping(length) => self.state = self.skip(length)?,
                State::Inside { engine, produced, idle } => {
                    let (state, count) = self.step(engine, produced, idle, space)?;
                    self.state = state;
                    filled = filled.saturating_add(count);
                }
                State::Ended => {
                    self.state = State::Ended;
                    break;
                }
                State::Failed => return Err(DecompressError::Unfinished { format: self.compression }),
            }
        }
        Ok(filled)
    }

    /// The proof that everything was read.
    ///
    /// # Errors
    /// [`DecompressError::Unfinished`] unless [`Self::fill`] has come to the end.
    pub fn finish(self) -> Result<Complete, DecompressError> {
        match self.state {
            State::Ended => Ok(Complete {
                compression: self.compression,
                consumed: self.input.consumed(),
                produced: self.produced,
                members: self.members,
            }),
            _ => Err(DecompressError::Unfinished { format: self.compression }),
        }
    }

    /// Finds out what follows where a member can begin.
    fn next_member(&mut self) -> Result<State, DecompressError> {
        let (format, offset) = (self.compression, self.input.consumed());
        let beginning = self.input.peek().map_err(DecompressError::Input)?;
        if beginning.is_empty() {
            return Ok(State::Ended);
        }
        match format.member(beginning) {
            Err(fault) => Err(DecompressError::Member { format, offset, fault }),
            Ok(Member::None) if beginning.first() == Some(&0) => self.skip_padding(offset),
            Ok(Member::None) => Err(DecompressError::TrailingBytes { format, offset }),
            Ok(Member::Skippable { length }) => {
                self.count_empty_member()?;
                Ok(State::Skipping(length))
            }
            Ok(Member::Begins { content }) => {
                let room = self.limits.content.bytes().saturating_sub(self.produced);
                if let Some(announced) = content.filter(|content| *content > room) {
                    let announced = Some(self.produced.saturating_add(announced));
                    return Err(self.too_large(announced));
                }
                let threads =
                    if self.members < PARALLEL_MEMBERS { self.limits.threads } else { NonZeroU32::MIN };
                let limits = EngineLimits { memory: self.limits.memory.bytes(), threads };
                let engine = Box::new(Engine::new(format, limits).map_err(|fault| self.fault(fault))?);
                Ok(State::Inside { engine, produced: 0, idle: 0 })
            }
        }
    }

    /// Goes over zeros between members.
    fn skip_padding(&mut self, begin: u64) -> Result<State, DecompressError> {
        let (format, padding) = (self.compression, self.compression.padding());
        let trailing = DecompressError::TrailingBytes { format, offset: begin };
        if padding == Padding::None || self.members == 0 {
            return Err(trailing);
        }
        loop {
            let bytes = self.input.fill_buf().map_err(DecompressError::Input)?;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let (at_end, at_other) = (bytes.is_empty(), zeros < bytes.len());
            self.input.consume(zeros);
            if !(at_end || at_other) {
                continue;
            }
            let length = self.input.consumed().saturating_sub(begin);
            return match padding {
                Padding::ZerosByFour if length.is_multiple_of(4) => Ok(State::Between),
                Padding::ZerosAtEnd if at_end => Ok(State::Between),
                _ => Err(trailing),
            };
        }
    }

    /// Goes over some of a frame that is skipped.
    fn skip(&mut self, length: u64) -> Result<State, DecompressError> {
        let bytes = self.input.fill_buf().map_err(DecompressError::Input)?;
        if bytes.is_empty() {
            return Err(self.truncated());
        }
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        self.input.consume(count);
        match length.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)) {
            0 => Ok(State::Between),
            rest => Ok(State::Skipping(rest)),
        }
    }

    /// Decompresses some of a member.
    fn step(
        &mut self,
        mut engine: Box<Engine>,
        produced: u64,
        idle: u32,
        space: &mut [u8],
    ) -> Result<(State, usize), DecompressError> {
        // One byte more than there is room for, to tell what fits exactly from what does not.
        let room = self.limits.content.bytes().saturating_sub(self.produced).saturating_add(1);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(space.len());
        let output = space.get_mut(..room).unwrap_or_default();
        let input = self.input.fill_buf().map_err(DecompressError::Input)?;
        let at_end = input.is_empty();
        let step = match engine.step(input, output) {
            Ok(step) => step,
            Err(fault) => return Err(self.fault(fault)),
        };
        self.input.consume(step.consumed);
        let count = u64::try_from(step.produced).unwrap_or(u64::MAX);
        self.produced = self.produced.saturating_add(count);
        if self.produced > self.limits.content.bytes() {
            return Err(self.too_large(None));
        }
        let produced = produced.saturating_add(count);
        if step.ended {
            self.members = self.members.saturating_add(1);
            if produced == 0 {
                self.count_empty_member()?;
            } else {
                self.empty_members = 0;
            }
            return Ok((State::Between, step.produced));
        }
        let is_idle = step.consumed == 0 && step.produced == 0;
        let idle = if is_idle { idle.saturating_add(1) } else { 0 };
        if idle >= IDLE_STEPS {
            let stuck = || self.fault(Fault::Damaged("the decoder makes no progress".to_owned()));
            return Err(if at_end { self.truncated() } else { stuck() });
        }
        Ok((State::Inside { engine, produced, idle }, step.produced))
    }

    fn count_empty_member(&mut self) -> Result<(), DecompressError> {
        self.empty_members = self.empty_members.saturating_add(1);
        if self.empty_members <= EMPTY_MEMBERS_MAXIMUM {
            return Ok(());
        }
        let (format, offset) = (self.compression, self.input.consumed());
        Err(DecompressError::Empty { format, offset, limit: EMPTY_MEMBERS_MAXIMUM })
    }

    fn fault(&self, fault: Fault) -> DecompressError {
        let format = self.compression;
        match fault {
            Fault::Damaged(what) => DecompressError::Damaged { format, offset: self.input.consumed(), what },
            Fault::Memory => DecompressError::Memory { format, limit: self.limits.memory.bytes() },
        }
    }

    fn truncated(&self) -> DecompressError {
        DecompressError::Truncated { format: self.compression, found: self.input.consumed() }
    }

    fn too_large(&self, announced: Option<u64>) -> DecompressError {
        let (format, consumed) = (self.compression, self.input.consumed());
        DecompressError::TooLarge { format, limit: self.limits.content.bytes(), consumed, announced }
    }
}

impl<R: BufRead> io::Read for Decoder<R> {
    /// As [`Decoder::fill`]; errors carry a [`DecompressError`], or are those of the file.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill(buffer).map_err(DecompressError::into_io)
    }
}
