//! What libcryptsetup and libdevmapper must be told once in a process and that no crate offers.
#![expect(unsafe_code, reason = "functions of C libraries")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, Once, PoisonError};

use libcryptsetup_rs::set_log_callback;

/// The most that is kept of what the library says, in bytes.
const MAXIMUM_MESSAGES: usize = 4096;

/// What the library has said since it was last asked.
static MESSAGES: Mutex<String> = Mutex::new(String::new());

#[link(name = "devmapper")]
unsafe extern "C" {
    fn dm_udev_set_sync_support(sync_with_udev: c_int);
}

#[link(name = "cryptsetup")]
unsafe extern "C" {
    fn crypt_token_external_disable();
}

/// To be called before anything else of libcryptsetup, from wherever; what counts is the first time. From then on
///
/// - nothing waits for udev (`dm_udev_set_sync_support`): where no rule of dmsetup answers, that would be for ever;
/// - no plug-in for a token is loaded, whatever a header names (`crypt_token_external_disable`);
/// - what the library says goes to [`take_messages`], not to standard output.
#[doc(alias = "dm_udev_set_sync_support")]
#[doc(alias = "crypt_token_external_disable")]
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function sets a variable of the library, which nobody reads meanwhile: every use of the library
        // in this program is behind this `Once`.
        unsafe { dm_udev_set_sync_support(0) };
        // SAFETY: as above.
        unsafe { crypt_token_external_disable() };
        set_log_callback::<()>(Some(keep_message), None);
    });
}

/// What the library has said since the last time, a line each.
pub fn take_messages() -> String {
    std::mem::take(&mut *MESSAGES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Called by the library for every message of level normal and above.
extern "C" fn keep_message(_level: c_int, message: *const c_char, _user: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: the library gives a string that ends in NUL and lives until this function returns.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    let mut messages = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let text = text.trim();
    if messages.len().saturating_add(text.len()) < MAXIMUM_MESSAGES {
        if !messages.is_empty() {
            messages.push_str("; ");
        }
        messages.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use libcryptsetup_rs::consts::vals::CryptLogLevel;

    use super::*;

    #[test]
    fn what_the_library_says_is_kept_and_bounded() {
        prepare();
        prepare();
        libcryptsetup_rs::log(CryptLogLevel::Error, "first\n").unwrap();
        libcryptsetup_rs::log(CryptLogLevel::Normal, "second\n").unwrap();
        assert_eq!(take_messages(), "first; second");
        for _ in 0..1000 {
            libcryptsetup_rs::log(CryptLogLevel::Error, &"x".repeat(100)).unwrap();
        }
        assert!((3000..=MAXIMUM_MESSAGES).contains(&take_messages().len()));
        assert_eq!(take_messages(), "");
    }
}
