//! The device mapper (`linux/dm-ioctl.h`): the requests that are asked without a udev cookie, and by device number.
//!
//! Whoever sends a cookie waits for udev to answer it, without a deadline. None is sent here.
#![expect(unsafe_code, reason = "ioctl(2) takes an untyped argument")]

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::IoctlError;

/// `DM_NAME_LEN`: bytes of a name field, the closing NUL included.
pub const NAME_SIZE: usize = 128;
/// `DM_UUID_LEN`: bytes of a UUID field, the closing NUL included.
pub const UUID_SIZE: usize = 129;

/// `DM_READONLY_FLAG`: the live table takes no writes.
pub const READ_ONLY: u32 = 1 << 0;
/// `DM_SUSPEND_FLAG`: the device holds back what it is asked.
pub const SUSPENDED: u32 = 1 << 1;
/// `DM_ACTIVE_PRESENT_FLAG`: the device has a live table.
pub const ACTIVE_PRESENT: u32 = 1 << 5;
/// `DM_INACTIVE_PRESENT_FLAG`: a table is loaded that becomes the live one when the device is resumed.
pub const INACTIVE_PRESENT: u32 = 1 << 6;
/// `DM_DEFERRED_REMOVE`: the device is removed when its last user closes it.
pub const DEFERRED_REMOVE: u32 = 1 << 17;

/// `DM_VERSION_MAJOR`, and the earliest minor version with what is used: target versions, Linux 5.5.
const VERSION: [u32; 3] = [4, 41, 0];

/// By what the kernel shall find a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// By its name, at most 127 bytes without NUL.
    Name(&'a str),
    /// By its UUID, at most 128 bytes without NUL.
    Uuid(&'a str),
    /// By its number, as stat(2) packs it.
    Device(u64),
}

/// What the kernel says of a device with each answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The number, as stat(2) packs it.
    pub device: u64,
    /// The name, as the kernel keeps it.
    pub name: Vec<u8>,
    /// The UUID, as the kernel keeps it; empty where it has none.
    pub uuid: Vec<u8>,
    /// [`READ_ONLY`] and the others.
    pub flags: u32,
    /// How often it is open: descriptors, mounts, devices on top.
    pub open_count: i32,
}

/// `DM_DEV_STATUS`: what device this is; `None` where there is none.
///
/// # Errors
/// [`IoctlError::Unsupported`] where the descriptor is not `/dev/mapper/control`.
#[doc(alias = "DM_DEV_STATUS")]
pub fn describe(control: BorrowedFd<'_>, key: Key<'_>) -> Result<Option<Description>, IoctlError> {
    found(Packet::about(key)?.send(control, request::dev_status))
}

/// `DM_DEV_SUSPEND` without `DM_SUSPEND_FLAG`: makes the loaded table the live one; `None` where there is no such device.
///
/// # Errors
/// An [`IoctlError`].
#[doc(alias = "DM_DEV_SUSPEND")]
pub fn resume(control: BorrowedFd<'_>, key: Key<'_>) -> Result<Option<Description>, IoctlError> {
    found(Packet::about(key)?.send(control, request::dev_suspend))
}

/// `DM_DEV_REMOVE`: removes a device that nobody has open; `None` where there is no such device.
///
/// # Errors
/// [`IoctlError::Busy`] where it is open.
#[doc(alias = "DM_DEV_REMOVE")]
pub fn remove(control: BorrowedFd<'_>, key: Key<'_>) -> Result<Option<()>, IoctlError> {
    found(Packet::about(key)?.send(control, request::dev_remove)).map(|found| found.map(drop))
}

/// `DM_DEV_REMOVE` with `DM_DEFERRED_REMOVE`: removes a device now, or when its last user closes it; `None` where there
/// is no such device.
///
/// # Errors
/// An [`IoctlError`].
#[doc(alias = "DM_DEFERRED_REMOVE")]
pub fn remove_deferred(control: BorrowedFd<'_>, key: Key<'_>) -> Result<Option<()>, IoctlError> {
    let mut packet = Packet::about(key)?;
    packet.header.flags |= DEFERRED_REMOVE;
    found(packet.send(control, request::dev_remove)).map(|found| found.map(drop))
}

/// `DM_GET_TARGET_VERSION`: the version of a target, whose module the kernel loads for the answer; `None` where it has
/// no such target.
///
/// # Errors
/// [`IoctlError::Unsupported`] where the descriptor is not `/dev/mapper/control` or the kernel is older than 5.5.
#[doc(alias = "DM_GET_TARGET_VERSION")]
pub fn target_version(control: BorrowedFd<'_>, target: &str) -> Result<Option<[u32; 3]>, IoctlError> {
    match Packet::about(Key::Name(target))?.send(control, request::get_target_version) {
        Ok(packet) => packet.target_version().map(Some),
        Err(Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// `ENXIO` says that there is no such device.
fn found(answer: Result<Packet, Errno>) -> Result<Option<Description>, IoctlError> {
    match answer {
        Ok(packet) => Ok(Some(packet.description())),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// `struct dm_ioctl`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME_SIZE],
    uuid: [u8; UUID_SIZE],
    data: [u8; 7],
}

const _: () = assert!(size_of::<Header>() == 312);
const _: () = assert!(offset_of!(Header, dev) == 40 && offset_of!(Header, name) == 48);
const _: () = assert!(offset_of!(Header, uuid) == 176 && offset_of!(Header, data) == 305);

/// A request with room for a short answer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Packet {
    header: Header,
    answer: [u8; 712],
}

const _: () = assert!(size_of::<Packet>() == 1024);

/// One of the bare calls.
type Request = unsafe fn(nix::libc::c_int, *mut Packet) -> nix::Result<nix::libc::c_int>;

impl Packet {
    fn about(key: Key<'_>) -> Result<Self, IoctlError> {
        let mut packet = Self { header: Header::new_zeroed(), answer: [0; 712] };
        packet.header.version = VERSION;
        packet.header.data_size = 1024;
        packet.header.data_start = 312;
        match key {
            Key::Name(name) => fill(&mut packet.header.name, name)?,
            Key::Uuid(uuid) => fill(&mut packet.header.uuid, uuid)?,
            Key::Device(device) => packet.header.dev = device,
        }
        Ok(packet)
    }

    fn send(mut self, control: BorrowedFd<'_>, request: Request) -> Result<Self, Errno> {
        // SAFETY: the kernel reads and writes at most `data_size` bytes, which is the size of this live, exclusively
        // borrowed packet, whose first part has the layout of `struct dm_ioctl` (asserted above) and for which every
        // bit pattern is valid.
        unsafe { request(control.as_raw_fd(), &raw mut self) }?;
        Ok(self)
    }

    fn description(&self) -> Description {
        Description {
            device: self.header.dev,
            name: text(&self.header.name).to_vec(),
            uuid: text(&self.header.uuid).to_vec(),
            flags: self.header.flags,
            open_count: self.header.open_count,
        }
    }

    /// `struct dm_target_versions` at `data_start`: where the next one is, then the version.
    fn target_version(&self) -> Result<[u32; 3], IoctlError> {
        let answer = usize::try_from(self.header.data_start).ok().and_then(|at| self.as_bytes().get(at..));
        let words = answer.and_then(|answer| <[u32; 4]>::read_from_prefix(answer).ok());
        let ([_, major, minor, patch], _) = words.ok_or(IoctlError::Kernel(Errno::EPROTO))?;
        Ok([major, minor, patch])
    }
}

/// Writes a name into its field, closed by a NUL.
fn fill(field: &mut [u8], text: &str) -> Result<(), IoctlError> {
    if text.is_empty() || text.len() >= field.len() || text.contains('\0') {
        return Err(IoctlError::Kernel(Errno::EINVAL));
    }
    for (byte, source) in field.iter_mut().zip(text.bytes()) {
        *byte = source;
    }
    Ok(())
}

/// A field up to its NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The bare calls, with the request numbers of `linux/dm-ioctl.h`.
mod request {
    use super::{Header, Packet};

    /// `_IOWR(DM_IOCTL, command, struct dm_ioctl)`; the packet behind the header is not part of the number.
    macro_rules! request {
        ($name:ident, $command:literal) => {
            nix::ioctl_readwrite_bad!(
                $name,
                nix::request_code_readwrite!(0xfd, $command, size_of::<Header>()),
                Packet
            );
        };
    }

    request!(dev_remove, 4);
    request!(dev_suspend, 6);
    request!(dev_status, 7);
    request!(get_target_version, 17);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_that_is_not_the_device_mapper_is_named_as_such() {
        let null = File::open("/dev/null").unwrap();
        let null = null.as_fd();
        assert_eq!(describe(null, Key::Name("x")), Err(IoctlError::Unsupported));
        assert_eq!(resume(null, Key::Uuid("x")), Err(IoctlError::Unsupported));
        assert_eq!(remove(null, Key::Device(1)), Err(IoctlError::Unsupported));
        assert_eq!(remove_deferred(null, Key::Device(1)), Err(IoctlError::Unsupported));
        assert_eq!(target_version(null, "verity"), Err(IoctlError::Unsupported));
    }

    #[test]
    fn a_name_that_would_be_cut_off_never_reaches_the_kernel() {
        let null = File::open("/dev/null").unwrap();
        let refused = Err(IoctlError::Kernel(Errno::EINVAL));
        for name in ["", "a\0b", &"x".repeat(NAME_SIZE)] {
            assert_eq!(remove(null.as_fd(), Key::Name(name)), refused, "{name:?}");
        }
        assert_eq!(remove(null.as_fd(), Key::Uuid(&"x".repeat(UUID_SIZE))), refused);
        let longest = "x".repeat(UUID_SIZE - 1);
        assert_eq!(remove(null.as_fd(), Key::Uuid(&longest)), Err(IoctlError::Unsupported));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_request_numbers_are_those_of_the_header() {
        assert_eq!(nix::request_code_readwrite!(0xfd, 4, size_of::<Header>()), 0xC138_FD04);
        assert_eq!(nix::request_code_readwrite!(0xfd, 17, size_of::<Header>()), 0xC138_FD11);
    }
}
