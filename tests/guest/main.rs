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
#[path = "../host/beside.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod beside;
#[path = "../support/corpus.rs"]
mod corpus;
#[path = "../support/ddi_builder.rs"]
mod ddi_builder;
#[path = "../support/decoys.rs"]
mod decoys;
mod device_mapper;
mod dm_attach;
mod dm_beside;
mod encrypted_attach;
#[path = "../host/faults.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod faults;
#[path = "../support/gpt_builder.rs"]
mod gpt_builder;
#[path = "../support/harness.rs"]
mod harness;
mod kernel;
#[allow(dead_code, unreachable_pub, reason = "the file is shared with unit tests, which use all of it")]
#[path = "../support/keys.rs"]
mod keys;
mod luks;
mod mount;
mod mount_attached;
mod mount_encrypted;
#[path = "../host/repart.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod repart;
mod self_test;
mod strangers;
mod systemd;
#[path = "../host/udev_links.rs"]
#[allow(dead_code, reason = "its tests run with those of the host")]
mod udev_links;
mod workshop;

fn main() -> ExitCode {
    harness::run_in_guest(
        [
            self_test::TESTS, //
            kernel::TESTS,
            device_mapper::TESTS,
            dm_attach::TESTS,
            dm_beside::TESTS,
            encrypted_attach::TESTS,
            luks::TESTS,
            systemd::policy_table::TESTS,
            systemd::dissection::TESTS,
            mount::TESTS,
            strangers::TESTS,
            mount_attached::TESTS,
            mount_encrypted::TESTS,
            systemd::interop::TESTS,
            systemd::reduced::TESTS,
        ]
        .concat(),
    )
}
