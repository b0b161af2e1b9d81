//! The libraries that decompress one member, behind one function.

use std::num::NonZeroU32;

use bzip2::{Decompress as Bunzip2, Status as Bunzip2Status};
use flate2::{Decompress as Inflate, FlushDecompress, Status as InflateStatus};
use liblzma::stream::{Action, Error as XzError, MtStreamBuilder, Status as XzStatus, Stream as UnXz};
use zstd::stream::raw::{DParameter, Decoder as UnZstd, Operation};

use crate::format::compression::{Compression, zstd as zstd_format};

use super::lz4::UnLz4;

/// What one step of a decoder did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// How many bytes of the input it used.
    pub(super) consumed: usize,
    /// How many bytes of the output it wrote.
    pub(super) produced: usize,
    /// Whether the member has ended, its checksums agreed, and all of it was written.
    pub(super) ended: bool,
}

/// Why a decoder cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The data is wrong.
    Damaged(String),
    /// It would need more memory than it may have.
    Memory,
}

/// What an engine may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EngineLimits {
    /// How much memory, in bytes, where it depends on the data.
    pub(super) memory: u64,
    /// How many threads, where the format lets more than one help.
    pub(super) threads: NonZeroU32,
}

/// A decoder in the middle of a member.
pub(super) enum Engine {
    Bzip2(Bunzip2),
    Gzip(Inflate),
    Lz4(UnLz4),
    Xz(UnXz),
    Zstd(UnZstd<'static>),
}

impl Engine {
    /// A decoder for one member.
    pub(super) fn new(compression: Compression, limits: EngineLimits) -> Result<Self, Fault> {
        match compression {
            Compression::Bzip2 => Ok(Self::Bzip2(Bunzip2::new(false))),
            Compression::Gzip => Ok(Self::Gzip(Inflate::new_gzip(GZIP_WINDOW_BITS))),
            Compression::Lz4 => Ok(Self::Lz4(UnLz4::default())),
            Compression::Xz => MtStreamBuilder::new()
                .threads(limits.threads.get())
                .memlimit_threading(limits.memory)
                .memlimit_stop(limits.memory)
                .decoder()
                .map(Self::Xz)
                .map_err(xz_fault),
            Compression::Zstd => {
                let mut decoder = UnZstd::new().map_err(|error| Fault::Damaged(error.to_string()))?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(zstd_format::WINDOW_LOG_MAXIMUM))
                    .map_err(|error| Fault::Damaged(error.to_string()))?;
                Ok(Self::Zstd(decoder))
            }
        }
    }

    /// Decompresses some of `input` into `output`, which is not empty. No input means that there will be none.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        let (consumed, produced, ended) = match self {
            Self::Bzip2(decoder) => {
                let before = (decoder.total_in(), decoder.total_out());
                let status =
                    decoder.decompress(input, output).map_err(|error| Fault::Damaged(error.to_string()))?;
                if status == Bunzip2Status::MemNeeded {
                    return Err(Fault::Memory);
                }
                let ended = status == Bunzip2Status::StreamEnd;
                (decoder.total_in().wrapping_sub(before.0), decoder.total_out().wrapping_sub(before.1), ended)
            }
            Self::Gzip(decoder) => {
                let before = (decoder.total_in(), decoder.total_out());
                let status = decoder
                    .decompress(input, output, FlushDecompress::None)
                    .map_err(|error| Fault::Damaged(error.to_string()))?;
                let ended = status == InflateStatus::StreamEnd;
                (decoder.total_in().wrapping_sub(before.0), decoder.total_out().wrapping_sub(before.1), ended)
            }
            Self::Lz4(decoder) => return decoder.step(input, output),
            Self::Xz(decoder) => {
                let before = (decoder.total_in(), decoder.total_out());
                // Only this waits for what the threads still have.
                let action = if input.is_empty() { Action::Finish } else { Action::Run };
                let status = decoder.process(input, output, action).map_err(xz_fault)?;
                let ended = status == XzStatus::StreamEnd;
                (decoder.total_in().wrapping_sub(before.0), decoder.total_out().wrapping_sub(before.1), ended)
            }
            Self::Zstd(decoder) => {
                let status = decoder
                    .run_on_buffers(input, output)
                    .map_err(|error| Fault::Damaged(error.to_string()))?;
                let ended = status.remaining == 0;
                return Ok(Step { consumed: status.bytes_read, produced: status.bytes_written, ended });
            }
        };
        let fits = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Step { consumed: fits(consumed), produced: fits(produced), ended })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

/// The largest window of deflate, which every decoder must have (RFC 1951).
const GZIP_WINDOW_BITS: u8 = 15;

fn xz_fault(error: XzError) -> Fault {
    match error {
        XzError::Mem | XzError::MemLimit => Fault::Memory,
        XzError::Data => Fault::Damaged("the data is corrupt".to_owned()),
        XzError::Options => Fault::Damaged("it uses a filter or an option that is not known".to_owned()),
        other => Fault::Damaged(other.to_string()),
    }
}
