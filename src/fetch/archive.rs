//! Members of a tar archive while its bytes come.
//!
//! The end is two blocks of zeros and nothing but zeros behind them: an archive that is cut short, wherever, is an error,
//! and so is anything that another reader might find behind the end.

use std::io::{self, BufRead, BufReader, Read};

use crate::format::tar::{
    BLOCK, BLOCK_LENGTH, Extensions, GlobalRecords, Header, Layout, MAXIMUM_EXTENSION, MAXIMUM_SEGMENTS,
    Member, PaxRecords, Segment, SparseFault, SparseMap, SparseMapText, TarError, TypeFlag, shown,
};
use crate::format::units::ByteLength;

/// The most headers of an archive, extended ones included: more than any system has files, and few enough to be read in
/// seconds.
pub const MAXIMUM_HEADERS: u64 = 1 << 22;
/// What a member takes of a file system beside its contents: about what an inode of a tmpfs takes, with its name.
const MEMBER_COST: u64 = 1024;
/// The unit in which file systems give out room.
const PAGE: u64 = 4096;
/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// How much of an archive is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// The most headers.
    pub headers: u64,
    /// What the members may take up: contents in whole pages, and something for each member.
    pub room: ByteLength,
}

impl ArchiveLimits {
    /// At most [`MAXIMUM_HEADERS`] headers, and members that fit into `room`.
    #[must_use]
    pub const fn within(room: ByteLength) -> Self {
        Self { headers: MAXIMUM_HEADERS, room }
    }
}

/// Why an archive is not read further.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A member that is not taken.
    #[error("header {number} of the archive, of '{name}'")]
    Header {
        /// Which header, counted from 1, extended ones included.
        number: u64,
        /// The name in it, its beginning.
        name: String,
        /// Why.
        #[source]
        source: TarError,
    },
    /// What was there instead of a header.
    #[error("header {number} of the archive")]
    NoHeader {
        /// Which one, counted from 1.
        number: u64,
        /// Why.
        #[source]
        source: TarError,
    },
    /// The bytes do not come.
    #[error("reading the archive")]
    Reading(#[source] io::Error),
    /// More headers than are taken.
    #[error("expected at most {limit} headers in the archive, found more")]
    TooManyHeaders {
        /// How many are taken.
        limit: u64,
    },
    /// More than there is room for.
    #[error("expected members that fit into {limit} bytes, found more")]
    TooLarge {
        /// How much room there is.
        limit: u64,
    },
    /// Something is behind the end.
    #[error(
        "expected nothing but zeros behind the end of the archive, found something else after {offset} bytes"
    )]
    TrailingBytes {
        /// Where the first of it is.
        offset: u64,
    },
    /// The archive ends too early.
    #[error("expected {expected}, found the end of the archive after {offset} bytes: it is cut short")]
    Truncated {
        /// What should have come.
        expected: &'static str,
        /// Where it ends.
        offset: u64,
    },
}

impl ArchiveError {
    /// Whether the archive is at fault, and not those who brought it.
    #[must_use]
    pub const fn is_about_the_archive(&self) -> bool {
        !matches!(self, Self::Reading(_) | Self::TooLarge { .. })
    }
}

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Where in the file it begins.
    pub offset: u64,
    /// What is there.
    pub bytes: &'a [u8],
}

/// Reads an archive, a member at a time.
#[derive(Debug)]
pub struct ArchiveReader<R> {
    input: BufReader<R>,
    limits: ArchiveLimits,
    /// How many bytes were read.
    offset: u64,
    /// How many headers were read.
    headers: u64,
    /// What the members take up so far.
    taken: u64,
    global: GlobalRecords,
    /// The pieces of the present member, the next one last.
    pieces: Vec<Segment>,
    /// The map of the pieces is still in front of them.
    map: Option<(u64, u64)>,
    /// What is left behind the pieces up to the next block.
    padding: u64,
    /// How much of the buffer was lent out.
    lent: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flowing,
    Ended,
}

impl<R: Read> ArchiveReader<R> {
    /// A reader that has read nothing yet.
    pub fn new(input: R, limits: ArchiveLimits) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, input),
            limits,
            offset: 0,
            headers: 0,
            taken: 0,
            global: GlobalRecords::default(),
            pieces: Vec::new(),
            map: None,
            padding: 0,
            lent: 0,
            state: State::Flowing,
        }
    }

    /// How many bytes of the archive were read.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next member. What was not read of the one before is passed over. `None` is the end, with everything behind it
    /// read and found to be zeros.
    ///
    /// # Errors
    /// An [`ArchiveError`]. What comes then is not to be relied on.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        if self.state == State::Ended {
            return Ok(None);
        }
        while self.piece()?.is_some() {}
        self.pass(self.padding)?;
        self.padding = 0;
        let mut extensions = Extensions::default();
        loop {
            let block = self.block("a header or two blocks of zeros")?;
            let number = self.headers.saturating_add(1);
            let Some(header) =
                Header::parse(&block).map_err(|source| ArchiveError::NoHeader { number, source })?
            else {
                self.finish(&extensions)?;
                self.state = State::Ended;
                return Ok(None);
            };
            self.headers = number;
            if number > self.limits.headers {
                return Err(ArchiveError::TooManyHeaders { limit: self.limits.headers });
            }
            let name = shown(&header.name);
            let wrong = |source| ArchiveError::Header { number, name: name.clone(), source };
            match header.type_flag {
                TypeFlag::PaxRecords => {
                    let text = self.extension(&header, "extended headers", &wrong)?;
                    let records = PaxRecords::parse(&text).map_err(wrong)?;
                    put(&mut extensions.records, records, "an extended header").map_err(wrong)?;
                }
                TypeFlag::GlobalPaxRecords => {
                    let text = self.extension(&header, "extended headers", &wrong)?;
                    self.global.add(&text).map_err(wrong)?;
                }
                TypeFlag::LongName => {
                    let name = self.long_name(&header, "a long name", &wrong)?;
                    put(&mut extensions.long_name, name, "a long name").map_err(wrong)?;
                }
                TypeFlag::LongLink => {
                    let name = self.long_name(&header, "a long target of a link", &wrong)?;
                    put(&mut extensions.long_link, name, "a long target of a link").map_err(wrong)?;
                }
                TypeFlag::VolumeLabel => {
                    if header.size > 0 {
                        let (kind, size) = ("volume label", header.size);
                        return Err(wrong(TarError::UnexpectedContents { kind, size }));
                    }
                }
                _ => return self.member(header, extensions, &wrong).map(Some),
            }
        }
    }

    /// Puts a member together, and notes where its contents are.
    fn member(
        &mut self,
        header: Header,
        extensions: Extensions,
        wrong: &dyn Fn(TarError) -> ArchiveError,
    ) -> Result<Member, ArchiveError> {
        let mut further = Vec::new();
        let mut extended = header.is_extended;
        while extended {
            let block = self.block("the map of a sparse file")?;
            let (segments, more) = Header::parse_sparse_extension(&block).map_err(wrong)?;
            further.extend(segments);
            extended = more;
            if further.len() > MAXIMUM_SEGMENTS {
                let found = u64::try_from(further.len()).unwrap_or(u64::MAX);
                return Err(wrong(SparseFault::TooMany { found }.into()));
            }
        }
        let (member, layout) = Member::new(header, further, extensions, &self.global).map_err(wrong)?;
        let attributes = member.attributes.extended.values().map(|value| ByteLength::of(value).bytes()).sum();
        self.charge(MEMBER_COST)?;
        self.charge(attributes)?;
        let stored = match layout {
            Layout::Dense(size) => {
                self.set_pieces(vec![Segment { offset: 0, length: size }])?;
                size
            }
            Layout::Sparse(map) => {
                self.set_pieces(map.segments().to_vec())?;
                map.segments().iter().map(|segment| segment.length).sum()
            }
            Layout::MapInFront { stored, size } => {
                self.map = Some((stored, size));
                stored
            }
        };
        self.padding = padding(stored);
        Ok(member)
    }

    /// The next piece of the present member, a file; `None` behind the last one.
    ///
    /// # Errors
    /// [`ArchiveError::Truncated`], [`ArchiveError::Reading`]; [`ArchiveError::Header`] and [`ArchiveError::TooLarge`]
    /// where the map of the pieces is in front of them.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, ArchiveError> {
        self.input.consume(std::mem::take(&mut self.lent));
        if let Some((stored, size)) = self.map.take() {
            self.read_map(stored, size)?;
        }
        while self.pieces.last().is_some_and(|piece| piece.length == 0) {
            self.pieces.pop();
        }
        let Some(piece) = self.pieces.last_mut() else {
            return Ok(None);
        };
        let available = fill_buffer(&mut self.input)?;
        if available.is_empty() {
            let expected = "the rest of a member";
            return Err(ArchiveError::Truncated { expected, offset: self.offset });
        }
        let most = usize::try_from(piece.length).unwrap_or(usize::MAX);
        let bytes = available.get(..most).unwrap_or(available);
        let (offset, length) = (piece.offset, ByteLength::of(bytes).bytes());
        piece.offset = piece.offset.saturating_add(length);
        piece.length = piece.length.saturating_sub(length);
        self.offset = self.offset.saturating_add(length);
        self.lent = bytes.len();
        Ok(Some(Piece { offset, bytes }))
    }

    /// Reads the map in front of the pieces of a sparse file (form 1.0 of GNU tar).
    fn read_map(&mut self, stored: u64, size: u64) -> Result<(), ArchiveError> {
        let number = self.headers;
        let wrong =
            |source| ArchiveError::Header { number, name: "the map of a sparse file".to_owned(), source };
        let mut text = SparseMapText::new();
        let mut left = stored;
        let segments = loop {
            left = left.checked_sub(BLOCK_LENGTH).ok_or_else(|| {
                let fault = SparseFault::Missing { what: "end" };
                wrong(fault.into())
            })?;
            let block = self.block("the map of a sparse file")?;
            if let Some(segments) = text.feed(&block).map_err(|fault| wrong(fault.into()))? {
                break segments;
            }
        };
        let map = SparseMap::new(segments, size, left).map_err(wrong)?;
        self.set_pieces(map.segments().to_vec())
    }

    /// Takes pieces as those of the present member.
    fn set_pieces(&mut self, mut pieces: Vec<Segment>) -> Result<(), ArchiveError> {
        for Segment { offset, length } in &pieces {
            let end = offset.saturating_add(*length).div_ceil(PAGE).saturating_mul(PAGE);
            if *length > 0 {
                self.charge(end.saturating_sub(offset / PAGE * PAGE))?;
            }
        }
        pieces.reverse();
        self.pieces = pieces;
        Ok(())
    }

    /// Counts what a member takes up.
    fn charge(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.taken = self.taken.saturating_add(bytes);
        let limit = self.limits.room.bytes();
        if self.taken > limit { Err(ArchiveError::TooLarge { limit }) } else { Ok(()) }
    }

    /// The contents of an extended header or a long name.
    fn extension(
        &mut self,
        header: &Header,
        what: &'static str,
        wrong: &dyn Fn(TarError) -> ArchiveError,
    ) -> Result<Vec<u8>, ArchiveError> {
        let size = header.size;
        let length = usize::try_from(size)
            .ok()
            .filter(|_| size <= MAXIMUM_EXTENSION)
            .ok_or_else(|| wrong(TarError::ExtensionTooLarge { what, size }))?;
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, "the rest of an extended header")?;
        self.pass(padding(size))?;
        Ok(bytes)
    }

    /// A long name, which ends with a NUL.
    fn long_name(
        &mut self,
        header: &Header,
        what: &'static str,
        wrong: &dyn Fn(TarError) -> ArchiveError,
    ) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.extension(header, what, wrong)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        if name.get(end..).unwrap_or_default().iter().any(|byte| *byte != 0) {
            return Err(wrong(TarError::NulByte { what, found: shown(&name) }));
        }
        name.truncate(end);
        Ok(name)
    }

    /// The end: a second block of zeros, and nothing but zeros behind it.
    fn finish(&mut self, extensions: &Extensions) -> Result<(), ArchiveError> {
        let number = self.headers.saturating_add(1);
        if !extensions.is_empty() {
            return Err(ArchiveError::NoHeader { number, source: TarError::DanglingExtension });
        }
        let second = self.block("a second block of zeros")?;
        if second.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::NoHeader { number, source: TarError::LoneZeroBlock });
        }
        loop {
            let rest = fill_buffer(&mut self.input)?;
            let length = rest.len();
            if length == 0 {
                return Ok(());
            }
            if let Some(position) = rest.iter().position(|byte| *byte != 0) {
                let offset = self.offset.saturating_add(u64::try_from(position).unwrap_or(u64::MAX));
                return Err(ArchiveError::TrailingBytes { offset });
            }
            self.offset = self.offset.saturating_add(ByteLength::of(rest).bytes());
            self.input.consume(length);
        }
    }

    fn block(&mut self, expected: &'static str) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block, expected)?;
        Ok(block)
    }

    /// Reads exactly as much as there is room for.
    fn fill(&mut self, bytes: &mut [u8], expected: &'static str) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => return Err(ArchiveError::Truncated { expected, offset: self.offset }),
                Ok(count) => {
                    filled = filled.saturating_add(count);
                    self.offset = self.offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Reading(error)),
            }
        }
        Ok(())
    }

    /// Passes over what fills a block up: less than one.
    fn pass(&mut self, count: u64) -> Result<(), ArchiveError> {
        let mut block = [0; BLOCK];
        let rest = usize::try_from(count).ok().and_then(|count| block.get_mut(..count)).unwrap_or_default();
        self.fill(rest, "the rest of a block")
    }
}

/// What is in the buffer, read anew where that is nothing.
fn fill_buffer<R: Read>(input: &mut BufReader<R>) -> Result<&[u8], ArchiveError> {
    while let Err(error) = input.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(ArchiveError::Reading(error));
        }
    }
    Ok(input.buffer())
}

/// How many bytes are missing to a whole block.
const fn padding(size: u64) -> u64 {
    (BLOCK_LENGTH - size % BLOCK_LENGTH) % BLOCK_LENGTH
}

/// Keeps what must not be said twice.
fn put<T>(place: &mut Option<T>, value: T, what: &'static str) -> Result<(), TarError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(TarError::RepeatedExtension { what }),
    }
}

#[cfg(test)]
#[path = "../../tests/support/tar_builder.rs"]
mod tar_builder;
#[cfg(test)]
mod tests;
