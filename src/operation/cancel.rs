//! Stopping in time: a token that every long loop asks.

use std::sync::Arc;

use crate::kernel::signal::SignalWatch;

use super::error::OperationError;

pub use crate::kernel::signal::Interrupted;

/// Tells whether to stop. Once it says so it stays so, for every thread.
#[derive(Debug, Clone)]
pub struct Cancel(Option<Arc<SignalWatch>>);

impl Cancel {
    /// Never to be stopped.
    #[must_use]
    pub const fn never() -> Self {
        Self(None)
    }

    /// To be stopped by SIGINT, SIGTERM, SIGHUP and SIGQUIT, which do not end the process from now on. To be called
    /// before any thread is started.
    ///
    /// # Errors
    /// [`OperationError::System`] where signals cannot be watched.
    pub fn on_signals() -> Result<Self, OperationError> {
        let watch =
            SignalWatch::new().map_err(|source| OperationError::system("watching", "signals", source))?;
        Ok(Self(Some(Arc::new(watch))))
    }

    /// Goes on, or not.
    ///
    /// # Errors
    /// [`Interrupted`] from the first signal on.
    pub fn check(&self) -> Result<(), Interrupted> {
        self.0.as_ref().map_or(Ok(()), |watch| watch.check())
    }

    /// Whether to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.check().is_err()
    }

    /// The watch itself, for waits that end with a signal.
    #[must_use]
    pub fn signals(&self) -> Option<&SignalWatch> {
        self.0.as_deref()
    }
}
