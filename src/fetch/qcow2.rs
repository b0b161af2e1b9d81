//! The disk in a copy-on-write image of QEMU, read from the image as a file that is all there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use flate2::{Decompress, FlushDecompress};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use crate::format::qcow2::{
    CLUSTER_BITS_MAXIMUM, ClusterCompression, HEADER_LENGTH, Header, Map, Qcow2Error, Source,
};
use crate::format::units::{ByteLength, ByteOffset, Extent};

/// How much is handed on at once where it lies together, in bytes.
const RUN: u64 = 1 << 20;

/// Bytes that can be read in any order, and do not change.
pub trait ReadAt {
    /// Fills `buffer` with what lies at `offset`.
    ///
    /// # Errors
    /// Where it cannot be read, or not all of it is there.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let found = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why the disk in an image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A compressed cluster is not one.
    #[error(
        "decompressing the cluster in {extent} of the image: {what}: get the image again from a source you trust"
    )]
    Cluster {
        /// Where it is.
        extent: Extent,
        /// What is wrong.
        what: String,
    },
    /// The image is not one, or not one that can be converted.
    #[error(transparent)]
    Format(#[from] Qcow2Error),
    /// The file could not be read.
    #[error("reading {extent} of the image")]
    Read {
        /// What of it.
        extent: Extent,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk is larger than it may be.
    #[error(
        "expected a disk of at most {limit} bytes, found one of {found}: use a smaller image, or make more room"
    )]
    TooLarge {
        /// How large it is, in bytes.
        found: ByteLength,
        /// How large it may be, in bytes.
        limit: ByteLength,
    },
}

/// The disk in an image.
#[derive(Debug)]
pub struct Disk<'a, S: ?Sized> {
    image: &'a S,
    map: Map,
}

impl<'a, S: ReadAt + ?Sized> Disk<'a, S> {
    /// Reads header and first table of an image that is a file of `length` bytes, with a disk of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn open(image: &'a S, length: ByteLength, limit: ByteLength) -> Result<Self, ConvertError> {
        let whole = Extent::from_beginning(length);
        let mut buffer = Vec::new();
        read(image, whole.truncated(ByteLength::of(&[0; HEADER_LENGTH])), &mut buffer)?;
        let header = Header::parse(&buffer, length)?;
        if header.disk() > limit {
            return Err(ConvertError::TooLarge { found: header.disk(), limit });
        }
        read(image, header.first_table(), &mut buffer)?;
        Ok(Self { image, map: header.map(&buffer)? })
    }

    /// The size of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> ByteLength {
        self.map.header().disk()
    }

    /// Gives `take` every part of the disk that the image has, in order. The rest is zeros.
    ///
    /// # Errors
    /// [`ConvertError`], and what `take` returns.
    pub fn read<E: From<ConvertError>>(
        &self,
        mut take: impl FnMut(ByteOffset, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut table, mut buffer, mut cluster) = (Vec::new(), Vec::new(), Vec::new());
        cluster.resize(self.map.header().cluster().in_memory().unwrap_or_default(), 0);
        let mut run: Option<Run> = None;
        for index in 0..self.map.second_tables() {
            let Some(extent) = self.map.second_table(index) else { continue };
            read(self.image, extent, &mut table)?;
            for piece in self.map.pieces(index, &table) {
                let piece = piece.map_err(ConvertError::Format)?;
                match piece.source {
                    Source::Stored(start) => {
                        if run.as_mut().is_some_and(|run| run.append(start, piece.disk)) {
                            continue;
                        }
                        self.hand_on(run.take(), &mut buffer, &mut take)?;
                        run = Some(Run { file: start, disk: piece.disk });
                    }
                    Source::Compressed(extent) => {
                        self.hand_on(run.take(), &mut buffer, &mut take)?;
                        read(self.image, extent, &mut buffer)?;
                        decompress(self.map.header().compression(), &buffer, &mut cluster)
                            .map_err(|what| ConvertError::Cluster { extent, what })?;
                        let length = piece.disk.length().in_memory().unwrap_or(usize::MAX);
                        take(piece.disk.start(), cluster.get(..length).unwrap_or(&cluster))?;
                    }
                }
            }
        }
        self.hand_on(run, &mut buffer, &mut take)
    }

    fn hand_on<E: From<ConvertError>>(
        &self,
        run: Option<Run>,
        buffer: &mut Vec<u8>,
        take: &mut impl FnMut(ByteOffset, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(run) = run else { return Ok(()) };
        if let Some(extent) = Extent::new(run.file, run.disk.length()) {
            read(self.image, extent, buffer)?;
        }
        take(run.disk.start(), buffer)
    }
}

/// Clusters that follow each other on the disk and in the file.
struct Run {
    file: ByteOffset,
    disk: Extent,
}

impl Run {
    /// Makes one of both, if they follow each other.
    fn append(&mut self, file: ByteOffset, disk: Extent) -> bool {
        let follows =
            self.file.checked_add(self.disk.length()) == Some(file) && self.disk.end() == disk.start();
        let length = self.disk.length().bytes().saturating_add(disk.length().bytes());
        let both =
            Extent::new(self.disk.start(), ByteLength::new(length)).filter(|_| follows && length <= RUN);
        both.inspect(|both| self.disk = *both).is_some()
    }
}

/// Reads an extent that lies in the file, so that the file bounds the memory.
fn read<S: ReadAt + ?Sized>(image: &S, extent: Extent, buffer: &mut Vec<u8>) -> Result<(), ConvertError> {
    let failed = |source| ConvertError::Read { extent, source };
    let length = extent.length().in_memory().ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
    buffer.resize(length, 0);
    image.read_exact_at(buffer, extent.start().bytes()).map_err(failed)
}

/// Decompresses until the cluster is full; behind that there may be anything.
fn decompress(compression: ClusterCompression, data: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    let mut decoder = ClusterDecoder::new(compression)?;
    let (mut consumed, mut produced) = (0_usize, 0_usize);
    while let Some(space) = cluster.get_mut(produced..).filter(|space| !space.is_empty()) {
        let (taken, given) = decoder.step(data.get(consumed..).unwrap_or_default(), space)?;
        if taken == 0 && given == 0 {
            let size = cluster.len();
            return Err(format!("expected a cluster of {size} bytes, found {produced}"));
        }
        consumed = consumed.saturating_add(taken);
        produced = produced.saturating_add(given);
    }
    Ok(())
}

enum ClusterDecoder {
    Deflate(Decompress),
    Zstd(Decoder<'static>),
}

impl ClusterDecoder {
    fn new(compression: ClusterCompression) -> Result<Self, String> {
        match compression {
            ClusterCompression::Deflate => Ok(Self::Deflate(Decompress::new(false))),
            ClusterCompression::Zstd => {
                let mut decoder = Decoder::new().map_err(|error| error.to_string())?;
                // A cluster is all that there is to refer to.
                let window = DParameter::WindowLogMax(CLUSTER_BITS_MAXIMUM);
                decoder.set_parameter(window).map_err(|error| error.to_string())?;
                Ok(Self::Zstd(decoder))
            }
        }
    }

    /// Decompresses some of `input`: how much of it, and into how much of `output`.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), String> {
        match self {
            Self::Deflate(decoder) => {
                let before = (decoder.total_in(), decoder.total_out());
                decoder
                    .decompress(input, output, FlushDecompress::None)
                    .map_err(|error| error.to_string())?;
                let fits = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
                let taken = decoder.total_in().wrapping_sub(before.0);
                Ok((fits(taken), fits(decoder.total_out().wrapping_sub(before.1))))
            }
            Self::Zstd(decoder) => {
                let status = decoder.run_on_buffers(input, output).map_err(|error| error.to_string())?;
                Ok((status.bytes_read, status.bytes_written))
            }
        }
    }
}

#[cfg(test)]
mod tests;
