//! What a new process inherits.
#![expect(unsafe_code, reason = "what runs between fork and exec may do almost nothing")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Lets a program begin with no signal blocked, whatever is blocked here: one that inherits a block cannot be stopped by
/// SIGTERM or from a terminal.
pub fn unblock_signals(command: &mut Command) {
    // SAFETY: the closure runs in the child between fork and exec. It allocates nothing and takes no lock: it fills a
    // set on its stack and calls pthread_sigmask, which is async-signal-safe (signal-safety(7)).
    unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(Into::into)) };
}
