//! Whether the log of an XFS is clean: found as the kernel finds it (fs/xfs/xfs_log_recover.c, `xlog_find_tail`), from a
//! few KiB of a log that may have two GiB.
//!
//! The log is a ring of blocks of 512 bytes. Each begins with the number of the round in which it was written, its cycle;
//! a record's header begins with a magic number and has the cycle behind it. So the place where the last writing ended,
//! the head, is where the cycle falls by one. The log is clean if and only if the record that ends there is the one that
//! unmounting writes. All numbers are big-endian.

use crate::format::sparse::Window;
use crate::format::units::{ByteLength, ByteOffset, Extent};

use super::{Numbers, Recovery};

/// The kernel's basic block, in which the log counts.
const BLOCK: u64 = 512;
/// The largest log there is: 2 GiB (`XFS_MAX_LOG_BYTES`).
const MAXIMUM_BLOCKS: u64 = (2 << 30) / BLOCK;
/// The largest record, which is also the largest stripe unit: 256 KiB (`XLOG_MAX_RECORD_BSIZE`).
const MAXIMUM_RECORD: u64 = (256 << 10) / BLOCK;
/// How much of the beginning is read at once: the whole of a log that was never written to.
const BEGINNING: u64 = 16;
/// How much of a block says in which round it was written.
const CYCLE: ByteLength = ByteLength::new(8);
/// How many blocks are looked at in one round of the search for the head.
const SAMPLES: u64 = 64;
/// The first word of a record's header (`XLOG_HEADER_MAGIC_NUM`).
const RECORD_MAGIC: u32 = 0xfeed_babe;
/// The bytes that one block of a record's header is for (`XLOG_HEADER_CYCLE_SIZE`).
const HEADER_COVERS: u64 = 32 << 10;
/// The flag of an operation that says that the file system was unmounted (`XLOG_UNMOUNT_TRANS`).
const UNMOUNT: u8 = 0x20;

/// The internal log of an XFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfsLog {
    /// Its first byte, from the beginning of the file system.
    start: u64,
    /// How many blocks it has.
    blocks: u64,
    /// To a multiple of how many blocks records are padded.
    stripe: u64,
}

/// How far the examination of a log has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogExamination {
    /// These have to be read first, places counted from the beginning of the file system: at most 512 KiB in all rounds.
    Wants(Vec<Extent>),
    /// The result; unknown where the log is not like one that the kernel writes.
    Known(Recovery),
}

impl XfsLog {
    /// The log of the XFS in `window`, whose first 512 bytes must have been read; `None` where its log is elsewhere or
    /// lies outside of the window.
    #[must_use]
    pub fn find(window: &Window<'_>) -> Option<Self> {
        let block_size = u64::from(window.be32(4)?);
        let (first, count) = (window.be64(48)?, u64::from(window.be32(96)?));
        let (group_blocks, group_log) = (u64::from(window.be32(84)?), u32::from(window.u8(124)?));
        if first == 0 || group_log >= u64::BITS {
            return None;
        }
        let (group, within) =
            (first.checked_shr(group_log)?, first & 1_u64.checked_shl(group_log)?.checked_sub(1)?);
        let start = group.checked_mul(group_blocks)?.checked_add(within)?.checked_mul(block_size)?;
        let length = count.checked_mul(block_size)?;
        let blocks = length / BLOCK;
        let inside = start.checked_add(length)? <= window.length().bytes();
        let stripe = (u64::from(window.be32(196)?) / BLOCK).clamp(1, MAXIMUM_RECORD);
        (inside && (BEGINNING..=MAXIMUM_BLOCKS).contains(&blocks)).then_some(Self { start, blocks, stripe })
    }

    /// Its first byte, from the beginning of the file system.
    #[cfg(test)]
    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    /// Looks for the head of the log, and at the record before it, in what was read of the file system so far.
    ///
    /// A caller that reads what is wanted and asks again has the result after six rounds at most.
    #[must_use]
    pub fn examine(&self, window: &Window<'_>) -> LogExamination {
        let last = self.blocks.saturating_sub(1);
        if let Some(wants) = self.missing(window, &[(0, BEGINNING), (last, 1)]) {
            return wants;
        }
        let (Some(first_cycle), Some(last_cycle)) = (self.cycle(window, 0), self.cycle(window, last)) else {
            return LogExamination::Known(Recovery::Unknown);
        };
        let head = if first_cycle == last_cycle {
            // Nothing but zeros was never a log.
            if first_cycle == 0 { Err(LogExamination::Known(Recovery::Unknown)) } else { Ok(0) }
        } else if last_cycle.checked_add(1) == Some(first_cycle) {
            self.find_head(window, first_cycle)
        } else {
            Err(LogExamination::Known(Recovery::Unknown))
        };
        match head {
            Ok(head) => self.examine_last_record(window, head),
            Err(not_yet) => not_yet,
        }
    }

    /// The first block that does not have the cycle of block 0.
    fn find_head(&self, window: &Window<'_>, first_cycle: u32) -> Result<u64, LogExamination> {
        let written = |block: u64| self.cycle(window, block) == Some(first_cycle);
        if let Some(head) = (1..BEGINNING).find(|block| !written(*block)) {
            return Ok(head);
        }
        // Block `low` was written in this round and block `high` was not.
        let (mut low, mut high) = (BEGINNING.saturating_sub(1), self.blocks.saturating_sub(1));
        while high.saturating_sub(low) > SAMPLES {
            let distance = high.saturating_sub(low);
            let sample =
                |index: u64| low.saturating_add(distance.saturating_mul(index) / SAMPLES.saturating_add(1));
            let samples: Vec<u64> = (1..=SAMPLES).map(sample).collect();
            if let Some(wants) = self.missing_cycles(window, &samples) {
                return Err(wants);
            }
            for block in samples {
                if written(block) {
                    low = block;
                } else {
                    high = block;
                    break;
                }
            }
        }
        // Together with what is looked at next, behind which one of these blocks is the head.
        let from = low.saturating_sub(self.reach());
        if let Some(wants) = self.missing(window, &[(from, high.saturating_sub(from))]) {
            return Err(wants);
        }
        Ok((low..high).find(|block| !written(*block)).unwrap_or(high))
    }

    /// Whether the record that ends at `head` is the one that unmounting writes.
    fn examine_last_record(&self, window: &Window<'_>, head: u64) -> LogExamination {
        let reach = self.reach();
        let (of_this_round, of_last_round) = (reach.min(head), reach.saturating_sub(head));
        if let Some(wants) = self.missing(window, &[(head.saturating_sub(of_this_round), of_this_round)]) {
            return wants;
        }
        let back = |distance: u64| {
            let beyond_the_beginning = || self.blocks.saturating_sub(distance.saturating_sub(head));
            head.checked_sub(distance).unwrap_or_else(beyond_the_beginning)
        };
        let is_header = |distance: &u64| self.word(window, back(*distance), 0) == Some(RECORD_MAGIC);
        let mut header = (1..=of_this_round).find(is_header);
        if header.is_none() {
            let end = (self.blocks.saturating_sub(of_last_round), of_last_round);
            if let Some(wants) = self.missing(window, &[end]) {
                return wants;
            }
            header = (of_this_round..=reach).skip(1).find(is_header);
        }
        let clean = header.is_some_and(|distance| self.is_unmount_record(window, back(distance), distance));
        LogExamination::Known(if clean { Recovery::NotNeeded } else { Recovery::Needed })
    }

    /// How many blocks before the head the record of an unmount begins at most: it has one operation of a few bytes, padded
    /// to the stripe, and at most eight blocks of header.
    fn reach(&self) -> u64 {
        self.stripe.saturating_add(BEGINNING).min(self.blocks)
    }

    /// Whether the record in `block` has so many blocks and says that the file system was unmounted (`struct
    /// xlog_rec_header`, `struct xlog_op_header`).
    fn is_unmount_record(&self, window: &Window<'_>, block: u64, blocks: u64) -> bool {
        let word = |at| self.word(window, block, at).map(u64::from);
        let (Some(version), Some(length), Some(operations), Some(size)) =
            (word(8), word(12), word(40), word(320))
        else {
            return false;
        };
        let header = if version & 2 != 0 { size.div_ceil(HEADER_COVERS).max(1) } else { 1 };
        let body = block.saturating_add(header) % self.blocks;
        let flags = self.place(body).and_then(|at| window.u8(at.saturating_add(9)));
        header.saturating_add(length.div_ceil(BLOCK)) == blocks
            && operations == 1
            && flags.is_some_and(|flags| flags & UNMOUNT != 0)
    }

    /// The round in which a block was written.
    fn cycle(&self, window: &Window<'_>, block: u64) -> Option<u32> {
        match self.word(window, block, 0)? {
            RECORD_MAGIC => self.word(window, block, 4),
            cycle => Some(cycle),
        }
    }

    fn word(&self, window: &Window<'_>, block: u64, at: u64) -> Option<u32> {
        window.be32(self.place(block)?.checked_add(at)?)
    }

    /// Where a block lies in the file system.
    fn place(&self, block: u64) -> Option<u64> {
        self.start.checked_add(block.checked_mul(BLOCK)?)
    }

    /// What of these runs of blocks (first, count) has not been read.
    fn missing(&self, window: &Window<'_>, runs: &[(u64, u64)]) -> Option<LogExamination> {
        let run = |(first, count): &(u64, u64)| {
            Extent::new(ByteOffset::new(self.place(*first)?), ByteLength::new(count.checked_mul(BLOCK)?))
        };
        unread(window, runs.iter().filter_map(run))
    }

    /// What of these blocks has not been read as far as [`Self::cycle`] looks at them.
    fn missing_cycles(&self, window: &Window<'_>, blocks: &[u64]) -> Option<LogExamination> {
        let words = |block: &u64| Extent::new(ByteOffset::new(self.place(*block)?), CYCLE);
        unread(window, blocks.iter().filter_map(words))
    }
}

/// Those of these parts of the file system that have not been read.
fn unread(window: &Window<'_>, parts: impl Iterator<Item = Extent>) -> Option<LogExamination> {
    let is_unread = |part: &Extent| {
        let length = part.length().in_memory().unwrap_or(usize::MAX);
        !part.is_empty() && window.get(part.start().bytes(), length).is_none()
    };
    let wanted: Vec<Extent> = parts.filter(is_unread).collect();
    (!wanted.is_empty()).then_some(LogExamination::Wants(wanted))
}
