//! Tests on a kernel that has all that ddictl uses: in a guest, see `tests/guest/run`. Elsewhere they are skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows that of functions marked #[test] only"
)]

use std::process::ExitCode;

mod device_mapper;
#[path = "../support/harness.rs"]
mod harness;
mod kernel;
mod self_test;

fn main() -> ExitCode {
    harness::run_in_guest(
        [
            self_test::TESTS, //
            kernel::TESTS,
            device_mapper::TESTS,
        ]
        .concat(),
    )
}
