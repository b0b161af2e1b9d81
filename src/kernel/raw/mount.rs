//! The calls that make a mount in steps (`linux/mount.h`): a file system is opened and configured, becomes a mount that
//! is nowhere yet, and only then gets its place. What is not in its place goes with its descriptor.
#![expect(unsafe_code, reason = "syscall(2) takes untyped arguments")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, c_uint};

/// `MOUNT_ATTR_RDONLY`.
pub const READ_ONLY: c_uint = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const NO_SUID: c_uint = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NO_DEVICES: c_uint = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NO_EXEC: c_uint = 0x8;
/// `MOUNT_ATTR_NOSYMFOLLOW` (Linux 5.14 and later).
pub const NO_SYMLINKS: c_uint = 0x0020_0000;

const FSOPEN_CLOEXEC: c_uint = 0x1;
const FSMOUNT_CLOEXEC: c_uint = 0x1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const OPEN_TREE_CLONE: c_uint = 0x1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;

/// fsopen(2): the driver of this name, to be configured. Reading the descriptor gives the driver's messages.
///
/// # Errors
/// `ENODEV` where the kernel has no such driver.
#[doc(alias = "fsopen")]
pub fn open(driver: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the call reads a string that ends with NUL and is alive, and an integer.
    let result = unsafe { libc::syscall(libc::SYS_fsopen, driver.as_ptr(), FSOPEN_CLOEXEC) };
    owned(result)
}

/// fsconfig(2): an option with a value, or `source`, where the file system lies.
///
/// # Errors
/// What the driver has against it.
#[doc(alias = "fsconfig")]
pub fn set_string(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<(), Errno> {
    configure(context, FSCONFIG_SET_STRING, Some(key), Some(value))
}

/// fsconfig(2): an option without a value.
///
/// # Errors
/// What the driver has against it.
#[doc(alias = "fsconfig")]
pub fn set_flag(context: BorrowedFd<'_>, key: &CStr) -> Result<(), Errno> {
    configure(context, FSCONFIG_SET_FLAG, Some(key), None)
}

/// fsconfig(2): makes the driver look at the source, and be ready for mounts.
///
/// # Errors
/// What the driver has against it.
#[doc(alias = "fsconfig")]
pub fn create(context: BorrowedFd<'_>) -> Result<(), Errno> {
    configure(context, FSCONFIG_CMD_CREATE, None, None)
}

/// fsmount(2): a mount that is nowhere yet, with these attributes, by a descriptor of its root that is good for paths
/// alone.
///
/// # Errors
/// The kernel's answer.
#[doc(alias = "fsmount")]
pub fn mount(context: BorrowedFd<'_>, attributes: c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes a descriptor and two integers.
    let result =
        unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
    owned(result)
}

/// move_mount(2): puts a mount that is nowhere yet on the very directory that is open.
///
/// # Errors
/// The kernel's answer.
#[doc(alias = "move_mount")]
pub fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: the call takes two descriptors with a string each, which end with NUL and are alive, and an integer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            directory.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// open_tree(2) with `OPEN_TREE_CLONE`: another mount of the directory that is open, which is nowhere, by a descriptor that
/// is good for paths alone.
///
/// # Errors
/// The kernel's answer.
#[doc(alias = "open_tree")]
pub fn clone(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.unsigned_abs() | libc::AT_EMPTY_PATH.unsigned_abs();
    // SAFETY: the call takes a descriptor with a string, which ends with NUL and is alive, and an integer.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), c"".as_ptr(), flags) };
    owned(result)
}

fn configure(
    context: BorrowedFd<'_>,
    command: c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    let auxiliary: c_int = 0;
    // SAFETY: the call takes a descriptor, integers, and two strings that end with NUL and are alive, or null pointers
    // where the command has no use for them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(key),
            pointer(value),
            auxiliary,
        )
    };
    Errno::result(result).map(drop)
}

fn owned(result: c_long) -> Result<OwnedFd, Errno> {
    let descriptor = c_int::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_no_driver_and_no_context_is_refused() {
        // Without the privilege the kernel does not even look.
        assert!(matches!(open(c"no-such-driver"), Err(Errno::ENODEV | Errno::EPERM)));
        let null = File::open("/dev/null").unwrap();
        assert_eq!(set_flag(null.as_fd(), c"ro"), Err(Errno::EINVAL));
        assert_eq!(set_string(null.as_fd(), c"source", c"/dev/null"), Err(Errno::EINVAL));
        assert_eq!(create(null.as_fd()), Err(Errno::EINVAL));
        assert!(matches!(mount(null.as_fd(), NO_DEVICES), Err(Errno::EINVAL | Errno::EPERM)));
        assert!(attach(null.as_fd(), null.as_fd()).is_err());
    }
}
