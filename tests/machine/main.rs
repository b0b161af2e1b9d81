//! Tests on a kernel that checks root hash signatures itself: a virtual machine whose firmware trusts one certificate.
//!
//! `boot` starts the machine, with this program in it. See there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows that of functions marked #[test] only"
)]

use std::process::ExitCode;

mod attach;
#[path = "../support/ddi_builder.rs"]
mod ddi_builder;
#[path = "../support/gpt_builder.rs"]
mod gpt_builder;
#[path = "../support/harness.rs"]
mod harness;
mod kernel_signature;
#[path = "../support/keys.rs"]
#[allow(dead_code, unreachable_pub, reason = "the file is shared with unit tests, which use all of it")]
mod keys;

fn main() -> ExitCode {
    harness::run([kernel_signature::TESTS, attach::TESTS].concat())
}
