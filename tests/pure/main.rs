//! Tests that need nothing but the source tree: no root, no device, no network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows that of functions marked #[test] only"
)]

mod audit;
mod boot_partitions;
mod command_line;
#[path = "../support/corpus.rs"]
mod corpus;
#[path = "../support/ddi_builder.rs"]
mod ddi_builder;
mod drift;
mod elsewhere;
#[path = "../support/fat_builder.rs"]
#[allow(dead_code, unreachable_pub, reason = "the file is shared with unit tests, which see it from inside")]
mod fat_builder;
mod findings_page;
mod fuzz_corpora;
#[path = "../support/http_server.rs"]
mod http_server;
mod ignored;
mod initrd_contents;
mod install;
#[path = "../support/judge.rs"]
mod judge;
#[allow(dead_code, unreachable_pub, reason = "the file is shared with unit tests, which use all of it")]
#[path = "../support/keys.rs"]
mod keys;
mod layering;
mod manual;
#[path = "../support/pe_builder.rs"]
#[allow(unreachable_pub, reason = "the file is shared with unit tests, which see it from inside")]
mod pe_builder;
mod policy_holes;
mod policy_verbs;
mod recovery;
mod reduction;
mod refusals;
mod remote;
mod runner;
mod setup;
mod udev_rules;
mod uki;
#[allow(dead_code, reason = "the unit tests use the rest")]
#[path = "../support/used_images.rs"]
mod used_images;
mod whole_disk;
mod writability;

use fuzz_corpora::bodies::gpt_builder;
