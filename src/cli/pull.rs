use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::format::companion::CompanionKind;
use crate::format::image_class::ImageClass;
use crate::format::units::ByteLength;
use crate::format::verification_mode::VerificationMode;
use crate::image::presets::RequestedPolicy;
use crate::operation::cache::CacheSettings;
use crate::operation::error::OperationError;
use crate::operation::image_directory::{ImageDirectory, Medium};
use crate::operation::list::Listed;
use crate::operation::pull::companions::CompanionChoice;
use crate::operation::pull::{
    FileRequest, Patience, PullRequest, Sidecars, TarRequest, name_of, parse_origin, plan_pull, pull,
    pull_file, pull_tar, tree_name_of,
};

use super::options::{Class, GuardOption, JsonOption, PolicyOption, SignatureOptions, TrustOptions};
use super::report::{attached, placed, planned, unpacked};
use super::{Context, Failure, Status};

/// Download an image, verify it, and attach it or place it as a file; or unpack an archive
///
/// With --attach one process downloads into memory, dissects, applies the policy, checks the signature and every data
/// block, and only then makes devices. Prints their paths, one a line. Without --image-policy= the policy is
/// @verified-boot, for extensions @verified-extension.
///
/// Without --attach the image becomes a file for others to use, whose path is printed. Under a policy that file holds the
/// planned partitions, verified, and zeros beside them: nobody who looks at it can choose others. Extensions have the
/// policy @verified-extension unless another one is given; for other classes without --image-policy= there is none, and
/// only the download as a whole is verified.
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

    /// Go on to block devices, from an image in memory
    #[arg(long)]
    attach: bool,

    /// What the image is for: that tells the directory and the policy
    #[arg(long, value_name = "CLASS", value_enum, default_value = "machine")]
    class: Class,

    /// Keep the image in memory, below /run (yes), or for good, below /var/lib (no) [default: yes with --attach and in an
    /// initrd, else no]
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        hide_possible_values = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes"
    )]
    runtime: Option<bool>,

    /// Let nobody write to the file, its owner included
    #[arg(long, short)]
    read_only: bool,

    /// Replace a file that has the name already, once the new one is complete and verified
    #[arg(long)]
    force: bool,

    /// Make the device nodes that are in a tar, instead of refusing it
    #[arg(long)]
    device_nodes: bool,

    /// Show what would be attached, from parts of the image that the server is asked for; attach nothing
    #[arg(long)]
    dry_run: bool,

    /// Which files beside an image count: those that are there (auto), none (no), or these, which must be there, by commas
    /// (roothash, roothash.p7s, usrhash, usrhash.p7s, verity; and nspawn for a file)
    #[arg(long, value_name = "WHICH", default_value = "auto", value_parser = sidecars)]
    sidecars: CompanionChoice,

    /// Place the image in this directory instead of the one of its class; in memory that must be absent, empty or in a
    /// tmpfs
    #[arg(long, value_name = "DIRECTORY")]
    image_root: Option<PathBuf>,

    /// Keep the download in this directory, and take it from there where it is the one that is wanted: the image is
    /// verified again, and with --attach used from there where dm-verity guards all of it
    #[arg(long, value_name = "DIRECTORY")]
    cache: Option<PathBuf>,

    /// How much room the cache may take, in bytes or with K, M, G or T behind; the oldest downloads go
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "cache", default_value = "4G")]
    cache_size: ByteLength,

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
            let kinds = list.split(',').map(|word| {
                word.parse().map_err(|error| format!("expected 'auto', 'no' or a list: {error}"))
            });
            kinds.collect::<Result<_, _>>().map(CompanionChoice::Required)
        }
    }
}

/// A size in bytes, or with a binary prefix.
fn size(text: &str) -> Result<ByteLength, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        Some((at, 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let wrong = || format!("expected a number of bytes, or one with K, M, G or T behind, found '{text}'");
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).map(ByteLength::new).ok_or_else(wrong)
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
            if self.cache.is_some() {
                return usage("pulling a tar: it is unpacked, and not kept as it came: leave out --cache=");
            }
            if self.read_only || self.force {
                return usage(
                    "pulling a tar: a directory is neither replaced nor made read-only: leave out --force and --read-only",
                );
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
        let demands_settings = matches!(&self.sidecars, CompanionChoice::Required(kinds) if kinds.contains(&CompanionKind::Settings));
        if demands_settings && (self.attach || self.class != Class::Machine) {
            return usage(
                "pulling settings for systemd-nspawn: they are for a file of the class 'machine': leave 'nspawn' out of --sidecars=",
            );
        }
        if self.attach && self.runtime == Some(false) {
            return usage(
                "attaching what is pulled: on a disk it could change after it was verified: leave out --runtime=no",
            );
        }
        if self.attach && self.force {
            return usage("attaching what is pulled: an attached image is not replaced: leave out --force");
        }
        let trust = self.trust.load(context)?;
        let output = if self.dry_run {
            let without = if self.attach { "@verified-boot" } else { "*" };
            let request = self.request(self.policy.given_or(self.default_policy().unwrap_or(without))?)?;
            let (reference, plan) = plan_pull(&request, &trust, &context.observer, &context.cancel)?;
            planned(self.json.json, &reference, &plan)
        } else if self.attach {
            let policy = self.policy.given_or(self.default_policy().unwrap_or("@verified-boot"))?;
            let made = pull(&self.request(policy)?, &trust, &context.observer, &context.cancel)?;
            attached(self.json.json, &Listed::of_attached(made.record))
        } else {
            let policy = match self.default_policy() {
                Some(default) => Some(self.policy.given_or(default)?),
                None => self.policy.given()?,
            };
            let request = FileRequest {
                pull: self.request(self.policy.given_or("*")?)?,
                policy,
                read_only: self.read_only,
                replace: self.force,
            };
            let record = pull_file(&request, &trust, &context.observer, &context.cancel)?;
            placed(self.json.json, &record)
        };
        io::stdout().write_all(output.as_bytes())?;
        Ok(Status::Done)
    }

    /// The policy that images of this class are held to unless another one is given.
    fn default_policy(&self) -> Option<&'static str> {
        ImageClass::from(self.class).is_extension().then_some("@verified-extension")
    }

    fn directory(&self) -> Result<ImageDirectory, OperationError> {
        let medium = match self.runtime {
            Some(true) => Medium::Memory,
            None if self.attach => Medium::Memory,
            Some(false) => Medium::Disk,
            None => Medium::of_this_system()?,
        };
        let of_class = ImageDirectory::of_class(self.class.into(), medium);
        Ok(match &self.image_root {
            Some(path) => ImageDirectory { path: path.clone(), ..of_class },
            None => of_class,
        })
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
            class: self.class.into(),
            directory: self.directory()?,
            policy,
            verify: self.verify,
            sidecars: Sidecars {
                choice: self.sidecars.clone(),
                named: self.signatures.named()?,
                settings: self.kind == Kind::Raw && self.class == Class::Machine && !self.attach,
            },
            cache: self.cache.clone().map(|directory| CacheSettings { directory, size: self.cache_size }),
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
