//! Images in memory: files without a name that nobody can change once they are sealed.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::format::units::{ByteLength, Extent};

use super::pause;

/// `MFD_NOEXEC_SEAL` (`linux/memfd.h`, Linux 6.3): not executable, ever. Some systems refuse memory files without it.
const NEVER_EXECUTABLE: MFdFlags = MFdFlags::from_bits_retain(8);

/// What must hold of a sealed file: no writing, no change of length, no further seal.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_SEAL);

/// How long a file may be in use before it is said to be. The kernel refuses to seal also while one of its pages is held
/// by somebody who holds any page for a moment, such as compaction or reclaim, and waits a sixth of a second for that
/// (`mm/memfd.c`, `memfd_wait_for_pins`), which is too short on a machine with much to do.
const SEALING_DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait before sealing is tried again: no event tells that the last page was let go.
const SEALING_PAUSE: Duration = Duration::from_millis(20);

/// Why a memory file failed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel does not say how much memory is available.
    #[error("expected a line 'MemAvailable: N kB' in '/proc/meminfo'")]
    AvailableUnknown,
    /// The file cannot be made.
    #[error("creating a memory file '{name}'")]
    Creating {
        /// The name it was to have in `/proc/PID/fd`.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The name cannot be given: it has a NUL in it.
    #[error("expected a name without NUL for a memory file, found '{}'", .name.escape_debug())]
    Name {
        /// The name.
        name: String,
    },
    /// The seals do not hold: the kernel reports fewer than were set.
    #[error("sealing a memory file: expected seals {expected:#x}, found {found:#x}")]
    NotSealed {
        /// The seals that were set, as in `linux/fcntl.h`.
        expected: i32,
        /// The seals that hold.
        found: i32,
    },
    /// The write or hole would lie behind the end.
    #[error("{extent} lie outside a memory file of {length} bytes")]
    OutOfBounds {
        /// The bytes that were meant.
        extent: Extent,
        /// The length of the file.
        length: ByteLength,
    },
    /// Punching a hole failed.
    #[error("giving back memory of a memory file")]
    Punching(#[source] io::Error),
    /// Reading failed.
    #[error("reading a memory file")]
    Reading(#[source] io::Error),
    /// `/proc/meminfo` cannot be read.
    #[error("reading '/proc/meminfo'")]
    ReadingAvailable(#[source] io::Error),
    /// The file cannot be opened again for reading alone: `/proc` may not be mounted.
    #[error("reopening a memory file read-only")]
    Reopening(#[source] io::Error),
    /// The length cannot be set.
    #[error("setting the length of a memory file to {length} bytes")]
    Resizing {
        /// The length it was to have.
        length: ByteLength,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel refused the seals.
    #[error("sealing a memory file")]
    Sealing(#[source] io::Error),
    /// Somebody has the file mapped for writing, or holds its pages.
    #[error(
        "sealing a memory file: expected that nobody else uses it, found it mapped for writing or its pages held for \
         more than {} s",
        .limit.as_secs()
    )]
    StillUsed {
        /// How long it was waited for.
        limit: Duration,
    },
    /// Writing failed: most likely there is no memory left.
    #[error("writing {extent} of a memory file")]
    Writing {
        /// The bytes that were written.
        extent: Extent,
        /// What went wrong.
        source: io::Error,
    },
}

/// A file in memory that can still be written. It reads as zeros where nothing was written, and costs nothing there.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    length: ByteLength,
}

impl MemoryFile {
    /// An empty file of `length` bytes; `name` is what `/proc/PID/fd` shows.
    ///
    /// # Errors
    /// A [`MemoryError`].
    pub fn create(name: &str, length: ByteLength) -> Result<Self, MemoryError> {
        let text = CString::new(name).map_err(|_| MemoryError::Name { name: name.to_owned() })?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file: OwnedFd = match memfd_create(text.as_c_str(), flags | NEVER_EXECUTABLE) {
            // Linux before 6.3 does not know the flag.
            Err(Errno::EINVAL) => memfd_create(text.as_c_str(), flags),
            other => other,
        }
        .map_err(|errno| MemoryError::Creating { name: name.to_owned(), source: errno.into() })?;
        let file = File::from(file);
        file.set_permissions(fs::Permissions::from_mode(0o400))
            .map_err(|source| MemoryError::Creating { name: name.to_owned(), source })?;
        let mut created = Self { file, length: ByteLength::ZERO };
        created.set_length(length)?;
        Ok(created)
    }

    /// The length in bytes.
    #[must_use]
    pub const fn length(&self) -> ByteLength {
        self.length
    }

    /// The descriptor, open for reading and writing.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Cuts the file off or makes it longer, with zeros.
    ///
    /// # Errors
    /// [`MemoryError::Resizing`].
    pub fn set_length(&mut self, length: ByteLength) -> Result<(), MemoryError> {
        self.file.set_len(length.bytes()).map_err(|source| MemoryError::Resizing { length, source })?;
        self.length = length;
        Ok(())
    }

    /// Writes all of `bytes` from byte `offset` on. Several threads may write at once.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] where that would make the file longer; [`MemoryError::Writing`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), MemoryError> {
        let extent = self.inside(offset, ByteLength::of(bytes))?;
        self.file.write_all_at(bytes, offset).map_err(|source| MemoryError::Writing { extent, source })
    }

    /// Fills `buffer` with the bytes from byte `offset` on.
    ///
    /// # Errors
    /// [`MemoryError::Reading`], also where the file ends before.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), MemoryError> {
        self.file.read_exact_at(buffer, offset).map_err(MemoryError::Reading)
    }

    /// Makes the bytes of `extent` zero and gives their memory back.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], [`MemoryError::Punching`].
    pub fn punch_hole(&self, extent: Extent) -> Result<(), MemoryError> {
        let extent = self.inside(extent.start().bytes(), extent.length())?;
        if extent.is_empty() {
            return Ok(());
        }
        let number = |bytes| i64::try_from(bytes).map_err(|_| self.out_of_bounds(extent));
        let (start, length) = (number(extent.start().bytes())?, number(extent.length().bytes())?);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, start, length).map_err(|errno| MemoryError::Punching(errno.into()))
    }

    /// Makes the contents final: nobody can write, cut off or lengthen the file any more, not even through a
    /// descriptor that was open before. Only a read-only descriptor is left of ours.
    ///
    /// # Errors
    /// A [`MemoryError`]; the contents are given up then.
    pub fn seal(self) -> Result<SealedFile, MemoryError> {
        self.seal_within(SEALING_DEADLINE)
    }

    fn seal_within(self, limit: Duration) -> Result<SealedFile, MemoryError> {
        let begin = Instant::now();
        loop {
            match fcntl(&self.file, FcntlArg::F_ADD_SEALS(SEALS)) {
                Ok(_) => break,
                Err(Errno::EBUSY) if begin.elapsed() < limit => pause(SEALING_PAUSE),
                Err(Errno::EBUSY) => return Err(MemoryError::StillUsed { limit }),
                Err(errno) => return Err(MemoryError::Sealing(errno.into())),
            }
        }
        let file = reopen_read_only(self.file.as_fd()).map_err(MemoryError::Reopening)?;
        let found =
            fcntl(&file, FcntlArg::F_GET_SEALS).map_err(|errno| MemoryError::Sealing(errno.into()))?;
        let expected = SEALS.bits();
        if found & expected != expected {
            return Err(MemoryError::NotSealed { expected, found });
        }
        Ok(SealedFile { file, length: self.length })
    }

    fn inside(&self, offset: u64, length: ByteLength) -> Result<Extent, MemoryError> {
        let whole = Extent::from_beginning(self.length);
        whole.part(ByteLength::new(offset), length).ok_or_else(|| {
            let start = crate::format::units::ByteOffset::new(offset);
            self.out_of_bounds(Extent::new(start, length).unwrap_or(whole))
        })
    }

    const fn out_of_bounds(&self, extent: Extent) -> MemoryError {
        MemoryError::OutOfBounds { extent, length: self.length }
    }
}

/// A file in memory that nobody can change.
#[derive(Debug)]
pub struct SealedFile {
    file: File,
    length: ByteLength,
}

impl SealedFile {
    /// The length in bytes.
    #[must_use]
    pub const fn length(&self) -> ByteLength {
        self.length
    }

    /// The descriptor, open for reading alone.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` with the bytes from byte `offset` on.
    ///
    /// # Errors
    /// [`MemoryError::Reading`], also where the file ends before.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), MemoryError> {
        self.file.read_exact_at(buffer, offset).map_err(MemoryError::Reading)
    }
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How much memory can be had without pushing anything out: `MemAvailable` of `/proc/meminfo`.
///
/// # Errors
/// [`MemoryError::ReadingAvailable`], [`MemoryError::AvailableUnknown`].
pub fn available_memory() -> Result<ByteLength, MemoryError> {
    let text = fs::read_to_string("/proc/meminfo").map_err(MemoryError::ReadingAvailable)?;
    available_in(&text).ok_or(MemoryError::AvailableUnknown)
}

/// The value of the line `MemAvailable:`, which proc(5) gives in KiB.
fn available_in(text: &str) -> Option<ByteLength> {
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = value.strip_suffix("kB")?.trim_ascii().parse().ok()?;
    kibibytes.checked_mul(1024).map(ByteLength::new)
}

/// A second descriptor to the same open file that cannot write, through `/proc/self/fd`.
pub(super) fn reopen_read_only(file: BorrowedFd<'_>) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reopened = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(path)?;
    let (before, after) = (File::from(file.try_clone_to_owned()?).metadata()?, reopened.metadata()?);
    if (before.dev(), before.ino()) != (after.dev(), after.ino()) {
        return Err(io::Error::other("'/proc/self/fd' leads to another file"));
    }
    Ok(reopened)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::raw::memory::WritableMapping;
    use super::*;
    use crate::format::units::ByteOffset;

    const LENGTH: ByteLength = ByteLength::new(1 << 20);

    #[test]
    fn a_sealed_file_cannot_be_changed_through_any_descriptor() {
        let memory = MemoryFile::create("image", LENGTH).unwrap();
        memory.write_at(b"verified", 4096).unwrap();
        let before = memory.file().try_clone().unwrap();
        let sealed = memory.seal().unwrap();
        assert_eq!(before.write_at(b"x", 4096).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(before.set_len(1).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(before.set_len(2 << 20).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        assert_eq!(fallocate(&before, hole, 0, 8192), Err(Errno::EPERM));
        assert_eq!(fcntl(&before, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
        assert_eq!(sealed.file().write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
        let path = format!("/proc/self/fd/{}", sealed.file().as_raw_fd());
        if let Ok(mut again) = OpenOptions::new().write(true).open(path) {
            assert_eq!(again.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
        let mut bytes = [0; 8];
        sealed.read_at(&mut bytes, 4096).unwrap();
        assert_eq!(&bytes, b"verified");
        assert_eq!(sealed.length(), LENGTH);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file is to be in use while it is sealed")]
    fn sealing_waits_for_whoever_uses_the_file_for_a_moment() {
        let memory = MemoryFile::create("image", LENGTH).unwrap();
        let mapping = WritableMapping::of(memory.file().as_fd()).unwrap();
        let begin = Instant::now();
        let user = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(mapping);
        });
        memory.seal().unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(300));
        user.join().unwrap();
    }

    #[test]
    fn a_file_that_stays_mapped_for_writing_is_not_sealed() {
        let memory = MemoryFile::create("image", LENGTH).unwrap();
        let _mapping = WritableMapping::of(memory.file().as_fd()).unwrap();
        let limit = Duration::from_millis(100);
        assert!(
            matches!(memory.seal_within(limit), Err(MemoryError::StillUsed { limit: found }) if found == limit)
        );
    }

    #[test]
    fn nothing_is_written_or_punched_behind_the_end() {
        let memory = MemoryFile::create("image", LENGTH).unwrap();
        for offset in [LENGTH.bytes(), LENGTH.bytes() - 1, u64::MAX] {
            assert!(
                matches!(memory.write_at(b"ab", offset), Err(MemoryError::OutOfBounds { .. })),
                "{offset}"
            );
            let extent = Extent::new(ByteOffset::new(offset & (u64::MAX >> 1)), ByteLength::new(2)).unwrap();
            assert!(matches!(memory.punch_hole(extent), Err(MemoryError::OutOfBounds { .. })), "{offset}");
        }
        assert_eq!(memory.file().metadata().unwrap().len(), LENGTH.bytes());
    }

    #[test]
    fn a_hole_reads_as_zeros_and_costs_nothing() {
        let memory = MemoryFile::create("image", LENGTH).unwrap();
        memory.write_at(&[7; 8192], 0).unwrap();
        let full = memory.file().metadata().unwrap().blocks();
        memory.punch_hole(Extent::new(ByteOffset::new(4096), ByteLength::new(4096)).unwrap()).unwrap();
        assert!(memory.file().metadata().unwrap().blocks() < full);
        let mut bytes = [1; 8192];
        memory.read_at(&mut bytes, 0).unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == 7) && bytes[4096..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_name_with_a_nul_is_refused() {
        assert!(
            matches!(MemoryFile::create("a\0b", LENGTH), Err(MemoryError::Name { name }) if name == "a\0b")
        );
    }

    #[test]
    fn only_a_plain_line_says_how_much_memory_there_is() {
        let text = "MemTotal: 8 kB\nMemAvailable:   123 kB\nSwapTotal: 0 kB\n";
        assert_eq!(available_in(text), Some(ByteLength::new(123 * 1024)));
        for odd in [
            "",
            "MemFree: 1 kB",
            "MemAvailable: kB",
            "MemAvailable: 1",
            "MemAvailable: -1 kB",
            "MemAvailable: 18446744073709551615 kB",
        ] {
            assert_eq!(available_in(odd), None, "{odd:?}");
        }
        assert!(available_memory().unwrap().bytes() > 0);
    }
}
