//! Inputs of a fuzzer as numbers and bytes, and as images.

use ddictl::format::sparse::SparseBytes;
use ddictl::format::units::{ByteLength, ByteOffset, Extent};

/// What is left of an input. What is not there reads as zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or as many as there are.
    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// A little-endian number of `count` bytes, at most eight.
    pub(super) fn number(&mut self, count: usize) -> u64 {
        let mut all = [0; 8];
        let taken = self.bytes(count);
        all[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(all)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// An image with a gap of zeros in its middle, so that it can be larger than memory.
#[derive(Debug, Clone)]
pub(super) struct SparseImage {
    front: Vec<u8>,
    gap: u64,
    back: Vec<u8>,
}

impl SparseImage {
    pub(super) fn new(mut front: Vec<u8>, gap: u64) -> Self {
        let back = front.split_off(front.len() / 2);
        Self { front, gap, back }
    }

    pub(super) fn size(&self) -> ByteLength {
        ByteLength::new(length(&self.front) + self.gap + length(&self.back))
    }

    /// The bytes of an extent, which lies within the image.
    pub(super) fn read(&self, wanted: Extent) -> Vec<u8> {
        let whole = Extent::from_beginning(self.size());
        assert!(whole.contains(wanted), "{wanted} is asked of an image of {} bytes", self.size());
        let mut bytes = vec![0; wanted.length().in_memory().unwrap()];
        copy_overlap(&mut bytes, wanted.start().bytes(), 0, &self.front);
        copy_overlap(&mut bytes, wanted.start().bytes(), length(&self.front) + self.gap, &self.back);
        bytes
    }

    pub(super) fn feed(&self, known: &mut SparseBytes, wanted: &[Extent]) {
        for part in wanted {
            known.insert(part.start(), &self.read(*part));
        }
    }
}

/// Copies into `target`, which begins at the position `at`, what it shares with a piece that begins at `start`.
pub(super) fn copy_overlap(target: &mut [u8], at: u64, start: u64, piece: &[u8]) {
    let index = |distance: u64| usize::try_from(distance).unwrap_or(usize::MAX);
    let target = target.get_mut(index(start.saturating_sub(at))..).unwrap_or_default();
    let piece = piece.get(index(at.saturating_sub(start))..).unwrap_or_default();
    for (old, new) in target.iter_mut().zip(piece) {
        *old = *new;
    }
}

pub(super) fn extent(start: u64, length: u64) -> Extent {
    Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
}

fn length(bytes: &[u8]) -> u64 {
    ByteLength::of(bytes).bytes()
}
