//! Tests on a kernel that has all that ddictl uses: in a guest, see `tests/guest/run`. Elsewhere they are skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows that of functions marked #[test] only"
)]

use std::process::ExitCode;

#[path = "../host/attach.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod attach;
mod device_mapper;
mod dm_attach;
mod encrypted_attach;
#[path = "../host/faults.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod faults;
#[path = "../support/gpt_builder.rs"]
mod gpt_builder;
#[path = "../support/harness.rs"]
mod harness;
mod kernel;
mod luks;
#[path = "../host/repart.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod repart;
mod self_test;
#[path = "../host/udev_links.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod udev_links;

fn main() -> ExitCode {
    harness::run_in_guest(
        [
            self_test::TESTS, //
            kernel::TESTS,
            device_mapper::TESTS,
            dm_attach::TESTS,
            encrypted_attach::TESTS,
            luks::TESTS,
        ]
        .concat(),
    )
}
