//! How often to try again, and when.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::client::LEAST_PROGRESS;
use super::error::FetchError;
use super::transfer::Patience;

/// How often a transfer may be taken up again in all, whatever it gains each time.
pub const MAXIMUM_ATTEMPTS: u32 = 100;

/// How long a server may make us wait by `Retry-After`; where it asks for more, it is asked again after this time.
pub const MAXIMUM_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How often to try again, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryOptions {
    /// How often in a row to try again without [`LEAST_PROGRESS`] in between; 0 for never.
    pub retries: u32,
    /// How long to wait before the first time. Each further time in a row takes twice as long as the one before. The
    /// wait is between half and all of this, so that many machines that lost one server do not come back at once.
    pub first_delay: Duration,
    /// How long to wait at most.
    pub longest_delay: Duration,
}

impl Default for RetryOptions {
    /// Five times, after half a second and up to 30 s: a quarter of a minute in all.
    fn default() -> Self {
        Self { retries: 5, first_delay: Duration::from_millis(500), longest_delay: Duration::from_secs(30) }
    }
}

impl RetryOptions {
    /// Not at all.
    #[must_use]
    pub fn never() -> Self {
        Self { retries: 0, ..Self::default() }
    }
}

/// A failure after which the transfer goes on.
#[derive(Debug)]
pub struct Setback<'a> {
    /// What happened.
    pub error: &'a FetchError,
    /// How long until the next attempt.
    pub delay: Duration,
    /// How many attempts are left after the next one if nothing comes.
    pub left: u32,
}

/// The attempts of one transfer so far.
#[derive(Debug)]
pub(super) struct Attempts {
    options: RetryOptions,
    failed: u32,
    in_row: u32,
    /// How far the transfer had come when the present row began.
    mark: u64,
}

impl Attempts {
    pub(super) const fn new(options: RetryOptions) -> Self {
        Self { options, failed: 0, in_row: 0, mark: 0 }
    }

    /// After an attempt that ended with `error` when `offset` bytes of the file were there: waits until the next one can
    /// be made.
    ///
    /// # Errors
    ///
    /// The error, where there is no further attempt; [`FetchError::Cancelled`] or [`FetchError::DeadlineExceeded`].
    pub(super) fn wait(
        &mut self,
        error: FetchError,
        offset: u64,
        patience: &Patience,
        hear: &dyn Fn(&Setback<'_>),
    ) -> Result<(), FetchError> {
        let Some((delay, left)) = self.failed(&error, offset) else {
            return Err(self.give_up(error));
        };
        // To wait for a deadline would only hide what went wrong.
        if patience.deadline.is_some_and(|deadline| deadline.remaining().is_ok_and(|left| left <= delay)) {
            return Err(self.give_up(error));
        }
        hear(&Setback { error: &error, delay, left });
        patience.pause(delay)
    }

    /// Takes note that an attempt ended with `error` when `offset` bytes of the file were there. How long to wait until
    /// the next one, and how many are left then; `None` where there is no further one.
    fn failed(&mut self, error: &FetchError, offset: u64) -> Option<(Duration, u32)> {
        self.failed = self.failed.saturating_add(1);
        if offset >= self.mark.saturating_add(LEAST_PROGRESS) {
            (self.in_row, self.mark) = (0, offset);
        }
        if self.in_row >= self.options.retries || self.failed >= MAXIMUM_ATTEMPTS {
            return None;
        }
        let factor = 1_u32.checked_shl(self.in_row).unwrap_or(u32::MAX);
        let delay = self.options.first_delay.saturating_mul(factor).min(self.options.longest_delay);
        self.in_row = self.in_row.saturating_add(1);
        let asked = error.retry_after().unwrap_or_default().min(MAXIMUM_RETRY_AFTER);
        Some((jittered(delay).max(asked), self.options.retries.saturating_sub(self.in_row)))
    }

    /// The error of a transfer that is not taken up again.
    fn give_up(&self, error: FetchError) -> FetchError {
        match self.failed {
            0 | 1 => error,
            attempts => FetchError::GaveUp { attempts, source: error.into() },
        }
    }
}

/// Between half and all of `delay`. It need not be hard to guess, only different from machine to machine, which the keys
/// of the standard library's hash tables are.
fn jittered(delay: Duration) -> Duration {
    let half = delay / 2;
    let random = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
    half.saturating_add(half.mul_f64(f64::from(random) / f64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(retry_after: Option<u64>) -> FetchError {
        let url = super::super::url::ImageUrl::parse("http://a.example/").unwrap();
        FetchError::TooManyRequests { url, retry_after: retry_after.map(Duration::from_secs) }
    }

    fn options(retries: u32) -> RetryOptions {
        RetryOptions { retries, first_delay: Duration::from_secs(1), longest_delay: Duration::from_secs(5) }
    }

    #[test]
    fn each_wait_is_twice_the_one_before_up_to_a_limit() {
        let mut attempts = Attempts::new(options(40));
        for (round, longest) in [1, 2, 4].into_iter().chain([5; 37]).enumerate() {
            let (delay, left) = attempts.failed(&error(None), 0).unwrap();
            let longest = Duration::from_secs(longest);
            assert!(longest / 2 <= delay && delay <= longest, "{round}: {delay:?}");
            assert_eq!(usize::try_from(left).unwrap(), 39 - round);
        }
        assert!(attempts.failed(&error(None), 0).is_none());
        assert!(matches!(attempts.give_up(error(None)), FetchError::GaveUp { attempts: 41, .. }));
    }

    #[test]
    fn waits_differ() {
        let waits: std::collections::BTreeSet<_> =
            (0..20).map(|_| jittered(Duration::from_secs(1000))).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }

    #[test]
    fn progress_begins_a_new_row_and_all_rows_end() {
        let mut attempts = Attempts::new(options(2));
        let (mut offset, mut rounds) = (0, 0);
        while attempts.failed(&error(None), offset).is_some() {
            offset += LEAST_PROGRESS;
            rounds += 1;
            assert!(rounds <= MAXIMUM_ATTEMPTS);
        }
        assert_eq!(rounds, MAXIMUM_ATTEMPTS - 1);

        // Drop by drop is no progress, nor is what came before once more.
        let mut attempts = Attempts::new(options(2));
        assert!(attempts.failed(&error(None), 50_000).is_some());
        assert!(attempts.failed(&error(None), 50_001).is_some());
        assert!(attempts.failed(&error(None), 10_000).is_none());
    }

    #[test]
    fn a_server_may_ask_for_more_time_but_not_for_any() {
        let mut attempts = Attempts::new(options(3));
        assert_eq!(attempts.failed(&error(Some(20)), 0).unwrap().0, Duration::from_secs(20));
        assert_eq!(attempts.failed(&error(Some(100_000)), 0).unwrap().0, MAXIMUM_RETRY_AFTER);
        assert!(attempts.failed(&error(Some(0)), 0).unwrap().0 >= Duration::from_secs(2));
    }

    #[test]
    fn without_retries_an_error_is_what_it_is() {
        let mut attempts = Attempts::new(RetryOptions::never());
        assert!(attempts.failed(&error(None), 0).is_none());
        assert!(matches!(attempts.give_up(error(None)), FetchError::TooManyRequests { .. }));
    }
}
