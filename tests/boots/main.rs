//! Boots of whole systems: from an initrd of Debian 12, 13 or unstable, with the systemd of that release as the first
//! process and ddictl's generator, into an image that the guest fetches from itself. `tests/boots/run` runs them.
//!
//! Each test is a guest of its own, started from here; so they need neither root nor anything of this machine's kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows that of functions marked #[test] only"
)]

use std::io;
use std::io::Write;
use std::panic;
use std::process::ExitCode;
use std::thread;

use libtest_mimic::Arguments;
use libtest_mimic::Completion;
use libtest_mimic::Failed;
use libtest_mimic::Trial;

#[path = "../support/harness.rs"]
mod harness;
mod images;
#[path = "../support/keys.rs"]
#[allow(dead_code, unreachable_pub, reason = "the file is shared with unit tests, which use all of it")]
mod keys;
mod laboratory;
mod outcome;
mod peer;
mod refusals;
mod roots;
mod times;

use laboratory::Guest;

/// One boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boot {
    /// What it shows, as a path of words.
    pub name: &'static str,
    /// The Debian release of its initrd.
    pub suite: &'static str,
    /// The test: it panics where it fails.
    pub run: fn(Guest),
}

/// The environment variable that asks for a table for people in place of the tests: `refusals` or `times`.
const TABLE: &str = "DDICTL_BOOTS_TABLE";

/// How many boots run at the same time, at most.
const AT_ONCE: usize = 2;

fn perform(suite: &'static str, run: impl FnOnce(Guest)) -> Result<Completion, Failed> {
    for part in [&["initrd", suite][..], &["root"]] {
        if let Err(reason) = laboratory::part(part) {
            return harness::skip(reason);
        }
    }
    panic::catch_unwind(panic::AssertUnwindSafe(|| run(Guest::new(suite)))).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        Failed::from(text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panicked"))
    })?;
    Ok(Completion::Completed)
}

fn print(table: fn(&mut dyn Write) -> io::Result<()>) -> ExitCode {
    table(&mut io::stdout()).unwrap();
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(processors.min(AT_ONCE));
    let _work = laboratory::open();
    match std::env::var(TABLE).as_deref() {
        Ok("refusals") => return print(peer::print_table),
        Ok("times") => return print(times::print_table),
        _ => {}
    }
    // The message of a failed test is enough, and several run at once.
    panic::set_hook(Box::new(|_| {}));
    let boots = roots::TESTS.iter().map(|test| {
        let Boot { name, suite, run } = *test;
        Trial::ignorable_test(name, move || perform(suite, run))
    });
    let refused = refusals::REFUSALS.iter().map(|refusal| {
        let refusal = *refusal;
        Trial::ignorable_test(format!("refusals::{}", refusal.name), move || {
            perform(refusals::SUITE, |guest| {
                let outcome = (refusal.prepare)(guest).boot();
                outcome.expect_refused(refusal.reasons);
            })
        })
    });
    libtest_mimic::run(&arguments, boots.chain(refused).collect()).exit_code()
}
