//! Tests that need nothing but the source tree: no root, no device, no network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows that of functions marked #[test] only"
)]

mod drift;
mod fuzz_corpora;
mod install;
mod layering;
mod runner;
mod setup;
mod udev_rules;
