//! The kernel's keyrings (add_key(2), keyctl(2)): a key for the time of one request.
#![expect(unsafe_code, reason = "the C library has no function for these system calls")]

use std::ffi::CStr;

use nix::errno::Errno;
use nix::libc::{self, c_long};

/// `KEY_SPEC_PROCESS_KEYRING`: the keyring of the calling process, made when first needed.
const PROCESS_KEYRING: c_long = -2;
/// `KEYCTL_UNLINK`.
const UNLINK: c_long = 9;

/// The serial number of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySerial(c_long);

/// Puts a key of type `user` with this payload into the keyring of the process; one of the same description is
/// overwritten.
///
/// # Errors
/// The kernel's answer: `ENOSYS` without keyrings, `EDQUOT` where the quota of the user is used up, `EPERM` or `EACCES`
/// where a security module forbids it.
#[doc(alias = "add_key")]
pub fn add_user_key(description: &CStr, payload: &[u8]) -> Result<KeySerial, Errno> {
    // SAFETY: the kernel reads two strings that end in NUL, and as many bytes of the payload as the slice has; all of
    // them live until it returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            description.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            PROCESS_KEYRING,
        )
    };
    Errno::result(answer).map(KeySerial)
}

/// Takes a key out of the keyring of the process. It is gone with its last link.
///
/// # Errors
/// The kernel's answer: `ENOENT` where it is not linked there.
#[doc(alias = "keyctl")]
pub fn unlink_from_process(key: KeySerial) -> Result<(), Errno> {
    // SAFETY: the request takes numbers and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, UNLINK, key.0, PROCESS_KEYRING) };
    Errno::result(answer).map(drop)
}
