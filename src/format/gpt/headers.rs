//! Finding the headers of both copies, whatever the sector size.

use super::error::{CopyProblem, GptError};
use super::header::{CopyRole, Header, Place, SIGNATURE};
use super::mbr::{MBR_LENGTH, Mbr};
use super::table::{GptEntry, entries_of};
use crate::format::sparse::SparseBytes;
use crate::format::units::{ByteLength, ByteOffset, Extent, SectorSize};

/// How much of the beginning of an image is read: block 1 of the largest sector size, and all before it.
const PROBE_LENGTH: ByteLength = ByteLength::new(8192);

/// How many bytes of either end of an image hold a copy of a table with the usual 128 entries, whatever the size of its
/// sectors.
pub const USUAL_LENGTH: ByteLength = ByteLength::new(24 * 1024);

/// The extents to read before [`Headers::find`]: the first 8192 bytes and the last block for every sector size; at most
/// 16384 bytes in all.
#[must_use]
pub fn probe_extents(image_size: ByteLength) -> Vec<Extent> {
    let image = Extent::from_beginning(image_size);
    let beginning = image.truncated(PROBE_LENGTH);
    let last_blocks = SectorSize::ALL
        .into_iter()
        .filter_map(|sector_size| Place::new(CopyRole::Backup, image_size, sector_size)?.extent())
        .map(Extent::start)
        .min()
        .filter(|start| *start > beginning.end());
    let end = last_blocks.and_then(|start| Extent::new(start, image.end().checked_distance_from(start)?));
    match end {
        Some(end) => vec![beginning, end],
        // Too small for two separate extents, and so at most twice the probe's length.
        None => vec![image],
    }
}

/// What the first copy of a table says by itself, as far as the beginning of the image has all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// The partitions.
    pub entries: Vec<GptEntry>,
    /// Where the entries of the other copy would usually lie: in front of the last block.
    pub backup_entries: Option<Extent>,
}

/// A hint of what will have to be read, from one copy of a table that nothing was compared with; `None` where anything is
/// wrong with it.
#[must_use]
pub fn foreseen(
    bytes: &SparseBytes,
    image_size: ByteLength,
    sector_size: Option<SectorSize>,
) -> Option<Foreseen> {
    let candidates = SectorSize::ALL.into_iter().filter(|size| sector_size.is_none_or(|only| only == *size));
    let of = |size| {
        let place = Place::new(CopyRole::Primary, image_size, size)?;
        let header = Header::read(bytes.get(place.extent()?)?, place).ok()?;
        let length = header.entries.length();
        let backup = Place::new(CopyRole::Backup, image_size, size).and_then(Place::extent);
        let start = backup.and_then(|header| header.start().bytes().checked_sub(length.bytes()));
        let backup_entries = start.and_then(|start| Extent::new(ByteOffset::new(start), length));
        Some(Foreseen { entries: entries_of(&header, bytes, size)?, backup_entries })
    };
    candidates.into_iter().find_map(of)
}

/// Whether the signature of a table stands where the first copy of one can: a hint, before anything is read that counts.
#[must_use]
pub fn begins_with_table(beginning: &[u8]) -> bool {
    SectorSize::ALL.into_iter().any(|sector_size| {
        let place = sector_size.length().in_memory().and_then(|start| beginning.get(start..));
        place.is_some_and(|header| header.starts_with(&SIGNATURE))
    })
}

/// The headers of a partition table, at least one of them valid.
#[derive(Debug, Clone)]
pub struct Headers {
    pub(super) sector_size: SectorSize,
    pub(super) primary: Result<Header, CopyProblem>,
    pub(super) backup: Result<Header, CopyProblem>,
}

impl Headers {
    /// Finds the partition table of an image of `image_size` bytes; `None` where there is no trace of one.
    ///
    /// `bytes` holds at least the [`probe_extents`]. With `sector_size` only a table for sectors of that size will do.
    ///
    /// # Errors
    /// A [`GptError`]: an older partition table, a protective MBR that is none, several tables, or traces of a table
    /// without a valid header.
    pub fn find(
        bytes: &SparseBytes,
        image_size: ByteLength,
        sector_size: Option<SectorSize>,
    ) -> Result<Option<Self>, GptError> {
        let mbr = read_mbr(bytes, image_size)?;
        let mut candidates = Vec::with_capacity(SectorSize::ALL.len());
        for sector_size in SectorSize::ALL {
            candidates.push(Self::at(bytes, image_size, sector_size)?);
        }
        let mut valid = candidates.iter().filter(|candidate| candidate.is_valid());
        match (valid.next(), valid.next()) {
            (Some(first), Some(second)) => {
                Err(GptError::SectorSizeAmbiguous { first: first.sector_size, second: second.sector_size })
            }
            (Some(found), None) => {
                if let Some(expected) = sector_size.filter(|expected| *expected != found.sector_size) {
                    return Err(GptError::OtherSectorSize { expected, found: found.sector_size });
                }
                match mbr {
                    Mbr::Protective(flaw) => flaw.map(|()| Some(found.clone())),
                    Mbr::Partitions | Mbr::None => Err(GptError::NoProtectiveMbr),
                }
            }
            (None, _) => Self::explain_absence(&candidates, mbr, sector_size),
        }
    }

    /// The size of the sectors that the table counts in.
    #[must_use]
    pub const fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    /// The extents to read before [`Headers::table`]: the entries of every copy with a valid header, one or two extents
    /// of at most [`MAXIMUM_ENTRIES_LENGTH`](super::MAXIMUM_ENTRIES_LENGTH) each.
    #[must_use]
    pub fn table_extents(&self) -> Vec<Extent> {
        [&self.primary, &self.backup].into_iter().flatten().map(|header| header.entries).collect()
    }

    /// Where the table itself lies in an image of this size: the MBR, the headers' blocks, and the entries of every copy
    /// with a valid header. No partition has any of it.
    #[must_use]
    pub fn metadata_extents(&self, image_size: ByteLength) -> Vec<Extent> {
        let header = |role| Place::new(role, image_size, self.sector_size)?.extent();
        let boot_record =
            Extent::from_beginning(image_size).part(ByteLength::ZERO, self.sector_size.length());
        let headers = [CopyRole::Primary, CopyRole::Backup].into_iter().filter_map(header);
        boot_record.into_iter().chain(headers).chain(self.table_extents()).collect()
    }

    /// The headers of a table for one sector size, valid or not.
    fn at(bytes: &SparseBytes, image_size: ByteLength, sector_size: SectorSize) -> Result<Self, GptError> {
        let read = |role| {
            let place = Place::new(role, image_size, sector_size);
            let Some((place, extent)) = place.and_then(|place| Some((place, place.extent()?))) else {
                return Ok(Err(CopyProblem::OutsideImage));
            };
            let block = bytes.get(extent).ok_or(GptError::NotRead { extent })?;
            Ok(Header::read(block, place))
        };
        Ok(Self { sector_size, primary: read(CopyRole::Primary)?, backup: read(CopyRole::Backup)? })
    }

    fn is_valid(&self) -> bool {
        self.primary.is_ok() || self.backup.is_ok()
    }

    /// Whether one of the blocks has at least the signature of a header.
    fn is_trace(&self) -> bool {
        let without_signature = |header: &Result<Header, CopyProblem>| {
            matches!(header, Err(CopyProblem::OutsideImage | CopyProblem::Signature))
        };
        !without_signature(&self.primary) || !without_signature(&self.backup)
    }

    /// What it means that no candidate has a valid header.
    fn explain_absence(
        candidates: &[Self],
        mbr: Mbr,
        sector_size: Option<SectorSize>,
    ) -> Result<Option<Self>, GptError> {
        let likely = sector_size.unwrap_or(SectorSize::DEFAULT);
        let traces = || candidates.iter().filter(|candidate| candidate.is_trace());
        let trace = traces()
            .find(|candidate| candidate.sector_size == likely)
            .or_else(|| traces().next())
            .or_else(|| candidates.iter().find(|candidate| candidate.sector_size == likely))
            .filter(|candidate| candidate.is_trace() || matches!(mbr, Mbr::Protective(_)));
        if let Some(Self { sector_size, primary: Err(primary), backup: Err(backup) }) = trace {
            return Err(GptError::NoValidCopy {
                sector_size: *sector_size,
                primary: *primary,
                backup: *backup,
            });
        }
        match mbr {
            Mbr::Partitions => Err(GptError::MasterBootRecord),
            Mbr::Protective(_) | Mbr::None => Ok(None),
        }
    }
}

/// The MBR of an image; one that is too small for it has none.
fn read_mbr(bytes: &SparseBytes, image_size: ByteLength) -> Result<Mbr, GptError> {
    let Some(extent) = Extent::from_beginning(image_size).part(ByteLength::ZERO, ByteLength::new(MBR_LENGTH))
    else {
        return Ok(Mbr::None);
    };
    let block =
        bytes.get(extent).and_then(|block| block.try_into().ok()).ok_or(GptError::NotRead { extent })?;
    Ok(Mbr::read(block))
}
