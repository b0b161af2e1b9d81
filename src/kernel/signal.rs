//! Signals as something to look at between two steps, so that an interrupted command can undo what it did.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use super::raw::spawn::unblock_signals;

/// The signals by which people and service managers ask a command to stop.
const WATCHED: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// A signal asked the command to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by signal {signal}")]
pub struct Interrupted {
    /// The signal's number, 1 to 64.
    pub signal: i32,
}

/// Why signals cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The signals cannot be kept from ending the process.
    #[error("blocking the signals that stop a command")]
    Blocking(#[source] io::Error),
    /// The kernel gives no descriptor for them.
    #[error("opening a descriptor for signals")]
    Opening(#[source] io::Error),
}

/// Watches SIGINT, SIGTERM, SIGHUP and SIGQUIT. They stay blocked when it is dropped: a signal that came in the last
/// moment must not undo the order of an exit.
#[derive(Debug)]
pub struct SignalWatch {
    descriptor: SignalFd,
    /// The first signal that came; 0 for none. It stays, for all threads.
    first: AtomicI32,
}

impl SignalWatch {
    /// Blocks the signals in this thread and in all that it starts from now on. To be called before any other thread
    /// runs: one that does not block them would be ended by them, and the process with it. Programs that are started
    /// inherit the block, unless [`unblock_signals`] prevents it.
    ///
    /// # Errors
    /// A [`SignalError`].
    pub fn new() -> Result<Self, SignalError> {
        let signals: SigSet = WATCHED.into_iter().collect();
        signals.thread_block().map_err(|errno| SignalError::Blocking(errno.into()))?;
        let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|errno| SignalError::Opening(errno.into()))?;
        Ok(Self { descriptor, first: AtomicI32::new(0) })
    }

    /// Whether a signal has come, without waiting. From the first one on, every thread is told.
    ///
    /// # Errors
    /// [`Interrupted`] with the first signal.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.first.load(Ordering::Acquire) == 0 {
            self.collect();
        }
        match self.first.load(Ordering::Acquire) {
            0 => Ok(()),
            signal => Err(Interrupted { signal }),
        }
    }

    fn collect(&self) {
        let found = loop {
            match self.descriptor.read_signal() {
                Ok(Some(found)) => break found,
                Err(Errno::EINTR) => {}
                // Nothing there. Nothing else can go wrong with a signal descriptor that is open.
                Ok(None) | Err(_) => return,
            }
        };
        let signal = i32::try_from(found.ssi_signo).unwrap_or(i32::MAX);
        // Another thread may have been first; either tells the truth.
        let _ = self.first.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl AsFd for SignalWatch {
    /// The descriptor, readable when a signal came: for poll(2). Reading from it is up to [`SignalWatch::check`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Sends a signal to this process, for tests of what it does then. A number that is no signal does nothing.
#[cfg(feature = "fault-points")]
pub fn raise(signal: i32) {
    // A thread that blocks the signal must not keep it to itself: it is for the process.
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), signal);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sys::signal::raise;

    use super::*;

    fn number(signal: Signal) -> i32 {
        WATCHED.into_iter().zip([2, 15, 1, 3]).find(|(watched, _)| *watched == signal).unwrap().1
    }

    #[test]
    fn a_signal_is_told_to_every_thread_from_then_on() {
        let watch = SignalWatch::new().unwrap();
        assert_eq!(watch.check(), Ok(()));
        raise(Signal::SIGHUP).unwrap();
        let expected = Err(Interrupted { signal: 1 });
        assert_eq!(watch.check(), expected);
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(watch.check(), expected);
        thread::scope(|scope| {
            let others: Vec<_> = (0..4).map(|_| scope.spawn(|| watch.check())).collect();
            for other in others {
                assert_eq!(other.join().unwrap(), expected);
            }
        });
    }

    #[test]
    fn each_of_the_four_signals_interrupts() {
        for signal in WATCHED {
            thread::scope(|scope| {
                scope.spawn(|| {
                    let watch = SignalWatch::new().unwrap();
                    raise(signal).unwrap();
                    assert_eq!(watch.check(), Err(Interrupted { signal: number(signal) }));
                });
            });
        }
    }
}
