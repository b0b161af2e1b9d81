use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::format::companion::CompanionKind;
use crate::format::verification_mode::VerificationMode;
use crate::image::presets::RequestedPolicy;
use crate::operation::error::OperationError;
use crate::operation::list::Listed;
use crate::operation::pull::companions::CompanionChoice;
use crate::operation::pull::{
    DEFAULT_DIRECTORY, Patience, PullRequest, Sidecars, TarRequest, name_of, parse_origin, plan_pull, pull,
    pull_tar, tree_name_of,
};

use super::options::{GuardOption, JsonOption, PolicyOption, SignatureOptions, TrustOptions};
use super::report::{attached, planned, unpacked};
use super::{Context, Failure, Status};

/// Download an image into memory, verify it there, and attach it; or unpack an archive
///
/// One process downloads, dissects, applies the policy, checks the signature and every data block, and only then makes
/// devices. Prints their paths, one a line. Without --image-policy= the policy is @verified-boot.
///
/// A tar is verified as a whole by --verify= before anything is unpacked, and appears as a directory under its name only
/// when it is complete; its path is printed. It has no protection of its own: a policy @verified-* takes it only where
/// somebody vouches for the download.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to download: a raw disk image, or a tar that is unpacked into a directory
    #[arg(value_enum)]
    kind: Kind,

    /// From where: an http or https URL, a file (file:///PATH), or - for standard input
    url: String,

    /// The local name: links begin with NAME.raw, a tar becomes the directory NAME [default: the file name in the URL
    /// without its suffixes; standard input has none]
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

    /// Make the device nodes that are in a tar, instead of refusing it
    #[arg(long)]
    device_nodes: bool,

    /// Show what would be attached, from parts of the image that the server is asked for; attach nothing
    #[arg(long)]
    dry_run: bool,

    /// Which files beside an image count: those that are there (auto), none (no), or these, which must be there, by commas
    /// (roothash, roothash.p7s, usrhash, usrhash.p7s, verity)
    #[arg(long, value_name = "WHICH", default_value = "auto", value_parser = sidecars)]
    sidecars: CompanionChoice,

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
    signatures: SignatureOptions,
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

/// A choice among the files beside an image.
fn sidecars(text: &str) -> Result<CompanionChoice, String> {
    match text {
        "auto" => Ok(CompanionChoice::Automatic),
        "no" => Ok(CompanionChoice::None),
        list => {
            let kinds = list.split(',').map(|word| match word.parse() {
                Ok(CompanionKind::Settings) => Err("settings for systemd-nspawn protect nothing".to_owned()),
                Ok(kind) => Ok(kind),
                Err(error) => Err(format!("expected 'auto', 'no' or a list: {error}")),
            });
            kinds.collect::<Result<_, _>>().map(CompanionChoice::Required)
        }
    }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let usage = |text: &str| Err(Failure::Operation(OperationError::Usage(text.to_owned())));
        if self.kind == Kind::Tar {
            if self.attach {
                return usage("pulling a tar: it becomes a directory and no devices: leave out --attach");
            }
            if self.dry_run {
                return usage(
                    "pulling a tar: what is in it shows only when it is unpacked: leave out --dry-run",
                );
            }
            let named = !self.signatures.named()?.is_empty();
            if named || matches!(self.sidecars, CompanionChoice::Required(_)) {
                return usage(
                    "pulling a tar: nothing beside it protects it: leave out --sidecars= and signatures",
                );
            }
            return self.run_tar(context);
        }
        if self.device_nodes {
            return usage(
                "pulling a raw image: device nodes are made from a tar alone: leave out --device-nodes",
            );
        }
        if !self.attach {
            return usage("pulling without attaching: not there yet: expected --attach");
        }
        let trust = self.trust.load(context)?;
        let request = self.request(self.policy.given_or("@verified-boot")?)?;
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

    fn request(&self, policy: RequestedPolicy) -> Result<PullRequest, Failure> {
        let standard_input = io::stdin();
        if self.url == "-" && standard_input.is_terminal() {
            let problem =
                "pulling standard input: expected an image, found a terminal: redirect it, or give a URL";
            return Err(Failure::Operation(OperationError::Usage(problem.to_owned())));
        }
        let url = parse_origin(&self.url, standard_input)?;
        let name = match (&self.name, self.kind) {
            (Some(name), _) => name.clone(),
            (None, Kind::Raw) => name_of(&url)?,
            (None, Kind::Tar) => tree_name_of(&url)?,
        };
        Ok(PullRequest {
            url,
            name,
            directory: self.image_root.clone(),
            policy,
            verify: self.verify,
            sidecars: Sidecars { choice: self.sidecars.clone(), named: self.signatures.named()? },
            keyrings: self.keyring.clone(),
            ca_certificates: self.ca_certificate.clone(),
            patience: Patience {
                retries: self.retries,
                connect: seconds(self.connect_timeout),
                stall: seconds(self.stall_timeout),
                total: self.timeout.map(seconds),
            },
            guard: self.guard.options(),
        })
    }

    fn run_tar(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load(context)?;
        let policy = self.policy.given()?;
        let pull = self.request(self.policy.given_or("*")?)?;
        let request = TarRequest { pull, policy, device_nodes: self.device_nodes };
        let record = pull_tar(&request, &trust, &context.observer, &context.cancel)?;
        io::stdout().write_all(unpacked(self.json.json, &record).as_bytes())?;
        Ok(Status::Done)
    }
}
