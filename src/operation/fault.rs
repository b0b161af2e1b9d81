//! Named places where tests make an operation fail, get a signal or die: one before and after every effect.
//!
//! Without the feature `fault-points` a place costs nothing and does nothing.

use super::error::OperationError;

/// A place where a test may strike. Names are `verb:effect`.
///
/// # Errors
/// The fault that the test asked for.
#[cfg(not(feature = "fault-points"))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it does fail")]
pub(super) fn point(_name: &str) -> Result<(), OperationError> {
    Ok(())
}

#[cfg(feature = "fault-points")]
pub use arranged::arrange;
#[cfg(feature = "fault-points")]
pub(super) use arranged::point;

#[cfg(feature = "fault-points")]
mod arranged {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use crate::kernel::signal::raise;

    use super::OperationError;

    /// What a test wants: the place, the fault, and where to log the places that are passed.
    #[derive(Debug)]
    struct Arrangement {
        fault: Option<(String, Fault)>,
        log: Option<PathBuf>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Fault {
        Error,
        Signal(i32),
    }

    static ARRANGEMENT: OnceLock<Arrangement> = OnceLock::new();

    /// Takes over what a test wants: `fault` is `NAME=error`, `NAME=sigterm` or `NAME=sigkill`; `log` is a file that
    /// collects the names of all places that were passed, a line each. What is not understood does nothing.
    pub fn arrange(fault: Option<&str>, log: Option<PathBuf>) {
        let fault = fault.and_then(|fault| fault.rsplit_once('=')).and_then(|(name, kind)| {
            let kind = match kind {
                "error" => Fault::Error,
                "sigterm" => Fault::Signal(15),
                "sigkill" => Fault::Signal(9),
                _ => return None,
            };
            Some((name.to_owned(), kind))
        });
        let _ = ARRANGEMENT.set(Arrangement { fault, log });
    }

    /// A place where a test may strike. Names are `verb:effect`.
    ///
    /// # Errors
    /// The fault that the test asked for.
    pub(in super::super) fn point(name: &str) -> Result<(), OperationError> {
        let Some(arrangement) = ARRANGEMENT.get() else {
            return Ok(());
        };
        if let Some(path) = &arrangement.log
            && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
        {
            // A log that cannot be written makes the test fail that reads it.
            let _ = writeln!(file, "{name}");
        }
        match &arrangement.fault {
            Some((place, Fault::Error)) if place == name => {
                Err(OperationError::state("reaching", name, "a fault that a test asked for"))
            }
            Some((place, Fault::Signal(signal))) if place == name => {
                raise(*signal);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
