//! Tests on the kernel of this machine: loop devices, mounts, udev. What a machine lacks is named, and its tests skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows that of functions marked #[test] only"
)]

use std::process::ExitCode;

mod attach;
mod beside;
mod boot;
mod completions;
#[path = "../support/ddi_builder.rs"]
mod ddi_builder;
#[path = "../support/decoys.rs"]
mod decoys;
mod fat;
mod faults;
mod gaps;
#[path = "../support/gpt_builder.rs"]
mod gpt_builder;
#[path = "../support/harness.rs"]
mod harness;
#[path = "../support/http_server.rs"]
mod http_server;
mod kernel_files;
#[path = "../support/keys.rs"]
#[allow(dead_code, unreachable_pub, reason = "it belongs to other tests, too")]
mod keys;
mod loop_devices;
mod mount;
mod policies;
mod pull;
mod pull_beside;
mod pull_cache;
mod pull_directory;
mod pull_faults;
mod pull_file;
mod pull_memory;
mod pull_qcow2;
mod pull_sources;
mod pull_tar;
mod pull_tar_peers;
mod pull_verification;
mod repart;
mod repart_images;
mod report_forms;
mod rules_syntax;
mod seal;
mod self_test;
#[path = "../support/tar_builder.rs"]
mod tar_builder;
mod trust_rules;
mod udev_links;
mod uki;
mod validates;
mod whole_disk;

fn main() -> ExitCode {
    harness::run(
        [
            self_test::TESTS,
            loop_devices::TESTS,
            kernel_files::TESTS,
            rules_syntax::TESTS,
            policies::TESTS,
            report_forms::TESTS,
            completions::TESTS,
            validates::TESTS,
            repart::TESTS,
            fat::TESTS,
            uki::TESTS,
            repart_images::TESTS,
            seal::TESTS,
            attach::TESTS,
            beside::TESTS,
            boot::TESTS,
            udev_links::TESTS,
            gaps::TESTS,
            faults::TESTS,
            pull::TESTS,
            pull_beside::TESTS,
            pull_cache::TESTS,
            pull_directory::TESTS,
            pull_faults::TESTS,
            pull_file::TESTS,
            pull_memory::TESTS,
            pull_qcow2::TESTS,
            pull_sources::TESTS,
            pull_tar::TESTS,
            pull_tar_peers::TESTS,
            pull_verification::TESTS,
            trust_rules::TESTS,
            whole_disk::TESTS,
            mount::TESTS,
        ]
        .concat(),
    )
}
