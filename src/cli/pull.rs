use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::format::verification_mode::VerificationMode;
use crate::operation::error::OperationError;
use crate::operation::list::Listed;
use crate::operation::pull::{
    DEFAULT_DIRECTORY, Patience, PullRequest, name_of_url, parse_url, plan_pull, pull,
};

use super::options::{GuardOption, JsonOption, PolicyOption, TrustOptions};
use super::report::{attached, planned};
use super::{Context, Failure, Status};

/// Download an image into memory, verify it there, and attach it
///
/// One process downloads, dissects, applies the policy, checks the signature and every data block, and only then makes
/// devices. Prints their paths, one a line. Without --image-policy= the policy is @verified-boot.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to download: a raw disk image ('tar' is not there yet)
    #[arg(value_enum)]
    kind: Kind,

    /// From where: http or https
    url: String,

    /// The local name; the links begin with NAME.raw [default: the file name in the URL without its suffixes]
    name: Option<String>,

    /// How to verify the download as a whole: by sums that are signed (signature), by sums alone (checksum, against
    /// damage), by its SHA-256 in hexadecimal, or not at all (no), which leaves it to the policy
    #[arg(long, value_name = "MODE", default_value = "signature")]
    verify: VerificationMode,

    /// Take the OpenPGP keys in this file instead of the keyrings of the machine; may be repeated
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,

    /// Go on to block devices; pulling without it is not there yet
    #[arg(long)]
    attach: bool,

    /// Show what would be attached, from parts of the image that the server is asked for; attach nothing
    #[arg(long)]
    dry_run: bool,

    /// Place the image in this directory, which must be absent, empty or in a tmpfs
    #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_DIRECTORY)]
    image_root: PathBuf,

    /// Trust this certificate authority (PEM) for https instead of the system's; may be repeated
    #[arg(long, value_name = "FILE")]
    ca_certificate: Vec<PathBuf>,

    /// Try again so many times in a row what failed for a reason that may pass; 0 for never
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    retries: u32,

    /// Give a connection to the server so many seconds to come about
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    connect_timeout: u32,

    /// Give up a transfer in which nothing came for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    stall_timeout: u32,

    /// Give each file so many seconds in all [default: as long as something comes]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,

    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    policy: PolicyOption,
    #[command(flatten)]
    guard: GuardOption,
    #[command(flatten)]
    json: JsonOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Raw,
    Tar,
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let usage = |text: &str| Err(Failure::Operation(OperationError::Usage(text.to_owned())));
        if self.kind == Kind::Tar {
            return usage("pulling a tar: not there yet: expected 'raw'");
        }
        if !self.attach {
            return usage("pulling without attaching: not there yet: expected --attach");
        }
        let url = parse_url(&self.url)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name_of_url(&url)?,
        };
        let trust = self.trust.load(context)?;
        let policy = self.policy.given_or("@verified-boot")?;
        let request = PullRequest {
            url,
            name,
            directory: self.image_root,
            policy,
            verify: self.verify,
            keyrings: self.keyring,
            ca_certificates: self.ca_certificate,
            patience: Patience {
                retries: self.retries,
                connect: seconds(self.connect_timeout),
                stall: seconds(self.stall_timeout),
                total: self.timeout.map(seconds),
            },
            guard: self.guard.options(),
        };
        let output = if self.dry_run {
            let (reference, plan) = plan_pull(&request, &trust, &context.observer, &context.cancel)?;
            planned(self.json.json, &reference, &plan)
        } else {
            let made = pull(&request, &trust, &context.observer, &context.cancel)?;
            attached(self.json.json, &Listed::of_attached(made.record))
        };
        io::stdout().write_all(output.as_bytes())?;
        Ok(Status::Done)
    }
}
