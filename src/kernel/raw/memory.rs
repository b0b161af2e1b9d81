//! Memory that is not written to swap space (mlock(2)).
#![expect(unsafe_code, reason = "mlock(2) takes an address")]

use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman;

/// Keeps the pages of these bytes in memory for as long as the process lives: another secret may share them.
///
/// # Errors
/// `ENOMEM` or `EPERM` where that is more than the process may lock.
#[doc(alias = "mlock")]
pub fn lock(bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: the address and the length are those of a live slice; the kernel reads and writes none of it.
    unsafe { mman::mlock(NonNull::from(bytes).cast(), bytes.len()) }
}

/// The first page of a file, mapped for writing, as somebody else might have it: for tests of what the kernel says then.
#[cfg(test)]
#[derive(Debug)]
pub struct WritableMapping(NonNull<std::ffi::c_void>);

/// The size that is mapped, in bytes: what the kernel rounds up to a page.
#[cfg(test)]
const MAPPED: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN;

// SAFETY: the mapping belongs to the process and is never read or written; any thread may unmap it.
#[cfg(test)]
unsafe impl Send for WritableMapping {}

#[cfg(test)]
impl WritableMapping {
    /// Maps the beginning of `file`.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn of(file: std::os::fd::BorrowedFd<'_>) -> Result<Self, Errno> {
        let protection = mman::ProtFlags::PROT_READ | mman::ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the address; nothing that exists is replaced, and nobody touches the memory.
        unsafe { mman::mmap(None, MAPPED, protection, mman::MapFlags::MAP_SHARED, file, 0) }.map(Self)
    }
}

#[cfg(test)]
impl Drop for WritableMapping {
    fn drop(&mut self) {
        // SAFETY: the address and the length are those of the mapping, which nobody uses any more.
        let _ = unsafe { mman::munmap(self.0, MAPPED.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_can_be_locked_or_the_kernel_says_why_not() {
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        match lock(&[7; 64]) {
            Ok(()) => assert!(locked() > 0),
            Err(errno) => assert!(matches!(errno, Errno::ENOMEM | Errno::EPERM), "{errno}"),
        }
        assert_eq!(lock(&[]), Ok(()));
    }
}
