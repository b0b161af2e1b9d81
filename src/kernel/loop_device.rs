//! Loop devices: a range of a file as a block device, exactly that range and nothing else.
//!
//! A device is bound in one step, looked at again as the kernel sees it, and refused when anything is not as it was
//! asked for. Until [`LoopDevice::make_permanent`] it lives only as long as a descriptor to it: a process that dies
//! leaves no device.

mod detach;
mod error;
mod status;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::device_number::DeviceNumber;
use super::pause;
use super::raw::loop_control::{self, LoopInfo64};
use super::raw::{IoctlError, block};
use crate::format::units::{ByteLength, ByteOffset, Extent, SectorSize};

pub use detach::{DetachError, Detached, Identity, detach, wait_until_gone};
pub use error::{Attribute, LoopError};
pub use status::{LoopStatus, StatusError, list, status};

/// The longest reference that can be told from a longer one cut off: the field has 64 bytes, the last is NUL, and udev
/// takes 63 bytes for a sign of truncation.
pub const MAXIMUM_REFERENCE_LENGTH: usize = 62;

/// How often another process may be quicker to take the free number. It says nothing about the device; each time
/// somebody got one.
const ATTEMPTS: u32 = 64;

/// The pause before the next attempt, times the number of attempts so far up to [`LONGEST_BACK_OFF`]: the kernel
/// reserves no number and tells nobody that one became free.
const BACK_OFF: Duration = Duration::from_millis(1);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(20);

/// What is to be shown as a block device, and how.
#[derive(Debug, Clone, Copy)]
pub struct LoopRequest<'a> {
    /// The file, memory file or block device whose bytes are shown.
    pub backing: BorrowedFd<'a>,
    /// Which of its bytes; `None` for all of them. Start and length are multiples of the block size.
    pub extent: Option<Extent>,
    /// The logical block size of the device.
    pub block_size: SectorSize,
    /// Whether writes fail, whatever the backing descriptor would allow.
    pub read_only: bool,
    /// The name that the device carries, 1 to [`MAXIMUM_REFERENCE_LENGTH`] bytes without NUL.
    pub reference: &'a str,
}

/// A bound loop device, held open.
///
/// Dropping it closes the descriptor; unless the device was made permanent, it is unbound with the last descriptor.
#[derive(Debug)]
pub struct LoopDevice {
    number: u32,
    node: File,
    device: DeviceNumber,
    disk_sequence: u64,
}

impl LoopDevice {
    /// Shows the requested bytes as a block device: unbound with its last descriptor, without partition scan.
    ///
    /// # Errors
    /// A [`LoopError`]; no device is left behind then.
    pub fn configure(request: &LoopRequest<'_>) -> Result<Self, LoopError> {
        let wanted = Wanted::of(request)?;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open("/dev/loop-control")
            .map_err(LoopError::OpeningControl)?;
        for attempt in 1..=ATTEMPTS {
            if let Some(device) = wanted.attempt(request, control.as_fd())? {
                return Ok(device);
            }
            pause((BACK_OFF * attempt).min(LONGEST_BACK_OFF));
        }
        Err(LoopError::Exhausted { attempts: ATTEMPTS })
    }

    /// The device of this number, read-only, where it is there and bound.
    ///
    /// # Errors
    /// A [`LoopError`] where the device cannot be opened or asked.
    pub fn open_existing(number: u32) -> Result<Option<Self>, LoopError> {
        let opening = |source| LoopError::OpeningNode { number, source };
        let Some((node, device)) = open_node(number, libc::O_RDONLY).map_err(opening)? else {
            return Ok(None);
        };
        match loop_control::status(node.as_fd()) {
            Ok(_) => {}
            Err(IoctlError::NotBound) => return Ok(None),
            Err(source) => return Err(LoopError::Ioctl { number, operation: "reading the status", source }),
        }
        Self::adopt(number, node, device).map(Some)
    }

    /// The N of `/dev/loopN`.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The device node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node_path(self.number)
    }

    /// Major and minor number.
    #[must_use]
    pub const fn device_number(&self) -> DeviceNumber {
        self.device
    }

    /// The number that this binding of the device has and no other, in this boot.
    #[must_use]
    pub const fn disk_sequence(&self) -> u64 {
        self.disk_sequence
    }

    /// The descriptor that keeps the device bound, of the mode that was asked for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }

    /// What the device shows of what.
    ///
    /// # Errors
    /// A [`StatusError`] where it was unbound in the meantime.
    pub fn status(&self) -> Result<LoopStatus, StatusError> {
        LoopStatus::read(self.number, self.fd())
    }

    /// By what [`detach`] knows this device again, and no other.
    ///
    /// # Errors
    /// A [`StatusError`] where it was unbound in the meantime.
    pub fn identity(&self) -> Result<Identity, StatusError> {
        self.status().map(|status| status.identity())
    }

    /// Lets the device outlive its descriptors, until somebody detaches it.
    ///
    /// # Errors
    /// [`LoopError::Ioctl`], or [`LoopError::Differs`] where the flag did not go away.
    pub fn make_permanent(&self) -> Result<(), LoopError> {
        let failing = |operation| move |source| LoopError::Ioctl { number: self.number, operation, source };
        let mut info = loop_control::status(self.fd()).map_err(failing("reading the status"))?;
        info.flags &= !loop_control::AUTOCLEAR;
        loop_control::set_status(self.fd(), &info).map_err(failing("making permanent"))?;
        let found = loop_control::status(self.fd()).map_err(failing("reading the status"))?;
        compare(self.number, Attribute::Flags, &info.flags, &found.flags)
    }

    fn adopt(number: u32, node: File, device: DeviceNumber) -> Result<Self, LoopError> {
        let disk_sequence = block::disk_sequence(node.as_fd()).map_err(|source| LoopError::Ioctl {
            number,
            operation: "reading the disk sequence number",
            source,
        })?;
        Ok(Self { number, node, device, disk_sequence })
    }
}

/// What the kernel must show once the device is bound.
struct Wanted {
    info: LoopInfo64,
    size: ByteLength,
}

impl Wanted {
    fn of(request: &LoopRequest<'_>) -> Result<Self, LoopError> {
        let mut info = LoopInfo64 { flags: loop_control::AUTOCLEAR, ..LoopInfo64::ZERO };
        if request.read_only {
            info.flags |= loop_control::READ_ONLY;
        }
        let name = request.reference.as_bytes();
        if !(1..=MAXIMUM_REFERENCE_LENGTH).contains(&name.len()) || name.contains(&0) {
            return Err(LoopError::Reference { length: name.len() });
        }
        for (byte, source) in info.file_name.iter_mut().zip(name) {
            *byte = *source;
        }
        let backing =
            request.backing.try_clone_to_owned().map(File::from).map_err(LoopError::ReadingBacking)?;
        let metadata = backing.metadata().map_err(LoopError::ReadingBacking)?;
        info.backing_device = metadata_device(&metadata);
        info.backing_inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        let extent = match request.extent {
            Some(extent) => extent,
            None if DeviceNumber::of_block_node(&metadata).is_some() => {
                let size = block::size(request.backing)
                    .map_err(|error| LoopError::ReadingBacking(io::Error::other(error)))?;
                Extent::from_beginning(size)
            }
            None => Extent::from_beginning(ByteLength::new(metadata.len())),
        };
        let block = u64::from(request.block_size.bytes());
        if extent.is_empty() {
            return Err(LoopError::EmptyExtent);
        }
        if !extent.start().bytes().is_multiple_of(block) || !extent.length().bytes().is_multiple_of(block) {
            return Err(LoopError::NotAligned { extent, block_size: request.block_size });
        }
        info.offset = extent.start().bytes();
        info.size_limit = extent.length().bytes();
        Ok(Self { info, size: extent.length() })
    }

    /// Takes the number that is free now; `None` where somebody else was quicker.
    fn attempt(
        &self,
        request: &LoopRequest<'_>,
        control: BorrowedFd<'_>,
    ) -> Result<Option<LoopDevice>, LoopError> {
        let number = match loop_control::free_number(control) {
            Ok(number) => number,
            Err(IoctlError::Busy) => return Ok(None),
            Err(source) => return Err(LoopError::NoFreeNumber(source)),
        };
        if status::has_partitions(number) {
            return renew(control, number).map(|()| None);
        }
        let mode = if request.read_only { libc::O_RDONLY } else { libc::O_RDWR };
        let (node, device) = match open_node(number, mode) {
            Ok(Some(opened)) => opened,
            // Removed by another process since it was found free.
            Ok(None) => return Ok(None),
            Err(source) => return Err(LoopError::OpeningNode { number, source }),
        };
        match loop_control::configure(node.as_fd(), request.backing, request.block_size.bytes(), &self.info) {
            Ok(()) => {}
            Err(IoctlError::Busy | IoctlError::NotBound) => return Ok(None),
            Err(source) => return Err(LoopError::Ioctl { number, operation: "configuration", source }),
        }
        // Where this fails, closing the descriptor undoes the rest: the device was bound with AUTOCLEAR.
        let device = LoopDevice::adopt(number, node, device)?;
        self.check(request, &device).map(|()| Some(device))
    }

    /// Compares what the kernel shows with what was asked for, and unbinds the device where they differ.
    fn check(&self, request: &LoopRequest<'_>, device: &LoopDevice) -> Result<(), LoopError> {
        let checked = self.compare_all(request, device);
        if checked.is_err() {
            // The outcome is secondary: AUTOCLEAR does the same when the descriptor is closed.
            let _ = loop_control::unbind(device.fd());
        }
        checked
    }

    fn compare_all(&self, request: &LoopRequest<'_>, device: &LoopDevice) -> Result<(), LoopError> {
        let number = device.number;
        let failing = |operation| move |source| LoopError::Ioctl { number, operation, source };
        let found = loop_control::status(device.fd()).map_err(failing("reading the status"))?;
        compare(number, Attribute::Number, &number, &found.number)?;
        compare(number, Attribute::Flags, &self.info.flags, &found.flags)?;
        compare(
            number,
            Attribute::Offset,
            &ByteOffset::new(self.info.offset),
            &ByteOffset::new(found.offset),
        )?;
        compare(number, Attribute::Size, &self.info.size_limit, &found.size_limit)?;
        let file = |info: &LoopInfo64| {
            format!("{} inode {}", DeviceNumber::from_packed(info.backing_device), info.backing_inode)
        };
        compare(number, Attribute::BackingFile, &file(&self.info), &file(&found))?;
        let name = |info: &LoopInfo64| String::from_utf8_lossy(status::file_name(info)).into_owned();
        compare(number, Attribute::Reference, &name(&self.info), &name(&found))?;
        let size = block::size(device.fd()).map_err(failing("reading the size"))?;
        compare(number, Attribute::Size, &self.size, &size)?;
        let block_size = block::logical_block_size(device.fd()).map_err(failing("reading the block size"))?;
        compare(number, Attribute::BlockSize, &request.block_size.bytes(), &block_size)?;
        let read_only = block::is_read_only(device.fd()).map_err(failing("reading the read-only state"))?;
        compare(number, Attribute::ReadOnly, &request.read_only, &read_only)
    }
}

/// Replaces a free device by a new one of its number. Partitions of an earlier binding would show bytes of the next
/// one under names that nobody planned; they go with the device.
fn renew(control: BorrowedFd<'_>, number: u32) -> Result<(), LoopError> {
    let failing = |source| LoopError::Ioctl { number, operation: "removing leftover partitions", source };
    match loop_control::remove(control, number) {
        Ok(()) => {}
        // In use or gone: somebody was quicker.
        Err(IoctlError::Busy | IoctlError::Kernel(Errno::ENODEV)) => return Ok(()),
        Err(source) => return Err(failing(source)),
    }
    match loop_control::add(control, number) {
        Ok(()) | Err(IoctlError::Kernel(Errno::EEXIST)) => Ok(()),
        Err(source) => Err(failing(source)),
    }
}

fn compare<T: PartialEq + ToString>(
    number: u32,
    attribute: Attribute,
    expected: &T,
    found: &T,
) -> Result<(), LoopError> {
    if expected == found {
        return Ok(());
    }
    Err(LoopError::Differs { number, attribute, expected: expected.to_string(), found: found.to_string() })
}

/// The backing device as LOOP_GET_STATUS64 packs it, which is how stat(2) does.
fn metadata_device(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::dev(metadata)
}

fn node_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Opens the node of a loop device and makes sure that it is that device's; `None` where the device is not there.
fn open_node(number: u32, mode: i32) -> io::Result<Option<(File, DeviceNumber)>> {
    let mut options = OpenOptions::new();
    options.read(true).write(mode & libc::O_ACCMODE == libc::O_RDWR);
    options.custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW | (mode & libc::O_EXCL));
    let node = match options.open(node_path(number)) {
        Ok(node) => node,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let found = DeviceNumber::of_block_node(&node.metadata()?);
    let expected = status::device_number(number)?;
    match (expected, found) {
        (None, _) => Ok(None),
        (Some(expected), Some(found)) if expected == found => Ok(Some((node, found))),
        (Some(expected), found) => {
            let found = found.map_or_else(|| "no block device".to_owned(), |found| found.to_string());
            Err(io::Error::other(format!("expected block device {expected}, found {found}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, length: u64) -> Option<Extent> {
        Extent::new(ByteOffset::new(start), ByteLength::new(length))
    }

    fn refusal(extent: Option<Extent>, block_size: u32, reference: &str) -> LoopError {
        let file = tempfile::tempfile().unwrap();
        let request = LoopRequest {
            backing: file.as_fd(),
            extent,
            block_size: SectorSize::new(block_size).unwrap(),
            read_only: true,
            reference,
        };
        LoopDevice::configure(&request).unwrap_err()
    }

    #[test]
    fn nothing_to_show_is_refused_before_the_kernel_takes_it_for_everything() {
        assert!(matches!(refusal(extent(0, 0), 512, "x"), LoopError::EmptyExtent));
        assert!(matches!(refusal(extent(4096, 0), 512, "x"), LoopError::EmptyExtent));
        assert!(matches!(refusal(None, 512, "x"), LoopError::EmptyExtent));
    }

    #[test]
    fn an_extent_off_the_sectors_is_refused() {
        for (start, length, block_size) in
            [(1, 512, 512), (512, 511, 512), (512, 4096, 4096), (4096, 512, 4096)]
        {
            let error = refusal(extent(start, length), block_size, "x");
            assert!(matches!(error, LoopError::NotAligned { .. }), "{start} {length}: {error}");
        }
    }

    #[test]
    fn a_reference_that_udev_would_not_link_is_refused() {
        for reference in ["", "a\0b", &"x".repeat(63), &"x".repeat(64), &"ü".repeat(32)] {
            let error = refusal(extent(0, 512), 512, reference);
            assert!(
                matches!(error, LoopError::Reference { length } if length == reference.len()),
                "{reference:?}: {error}"
            );
        }
    }
}
