//! What is on a device that was made: looked at again on the device itself, right before it may be used.

use std::fs::File;

use crate::format::sparse::{SparseBytes, Window};
use crate::format::superblock::{self, FileSystem, Superblock, SuperblockKind, Vfat};
use crate::format::units::{ByteLength, Extent};

use super::error::OperationError;
use super::source::{ImageFile, ImageSource};

/// The beginning of a vfat: its boot sector with the BIOS parameter block, in bytes.
const BOOT_SECTOR: u64 = 512;

/// What a device shows where file systems, and what is mistaken for them, have their superblocks.
#[derive(Debug)]
pub(super) struct Contents {
    bytes: SparseBytes,
    whole: Extent,
}

impl Contents {
    /// Reads an open block device.
    ///
    /// # Errors
    /// [`OperationError::System`] where it cannot be read.
    pub(super) fn of(device: File, name: &str, size: ByteLength) -> Result<Self, OperationError> {
        let image = ImageFile::from_file(device, name, size);
        let whole = Extent::from_beginning(image.size());
        let mut extents = superblock::probe_extents(image.size());
        extents.push(whole.truncated(ByteLength::new(BOOT_SECTOR)));
        let mut bytes = SparseBytes::new();
        for (extent, piece) in extents.iter().zip(image.read(&extents)?) {
            bytes.insert(extent.start(), &piece);
        }
        Ok(Self { bytes, whole })
    }

    /// Everything that is recognised there.
    pub(super) fn superblocks(&self) -> Vec<Superblock> {
        superblock::probe(&Window::new(&self.bytes, self.whole))
    }

    /// Everything that has a superblock there.
    pub(super) fn kinds(&self) -> Vec<SuperblockKind> {
        self.superblocks().into_iter().map(|found| found.kind).collect()
    }

    /// The file system, where there is one that policies know, and nothing else.
    pub(super) fn file_system(&self) -> Option<FileSystem> {
        match self.kinds().as_slice() {
            [one] => one.file_system(),
            _ => None,
        }
    }

    /// Whether it is a vfat that a driver can be given, and nothing else.
    ///
    /// # Errors
    /// What it is instead, in words.
    pub(super) fn check_vfat(&self) -> Result<(), String> {
        let window = Window::new(&self.bytes, self.whole);
        Vfat::parse(&window).map_err(|error| format!("not a sane vfat: {error}"))?;
        let vfat = SuperblockKind::FileSystem(FileSystem::Vfat);
        match self.kinds().into_iter().find(|found| *found != vfat) {
            None => Ok(()),
            Some(other) => Err(format!("vfat and {}", other.as_str())),
        }
    }
}
