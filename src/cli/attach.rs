use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::format::loop_reference::LoopReference;
use crate::operation::attach::{AttachRequest, attach, plan_attach};
use crate::operation::observer::Observer;

use super::options::{JsonOption, PolicyOption, TrustOptions};
use super::report::{attached, planned};
use super::{Context, Failure, Status};

/// Attach an image file: one read-only device per planned partition
///
/// Copies what is planned into memory that nobody can change, verifies it there, and only then makes devices. Prints
/// their paths, one a line. Without --image-policy= the policy is @verified-boot.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The disk image: a file or a block device
    image: PathBuf,

    /// The name that the links begin with [default: the file's name]
    #[arg(long, value_name = "NAME")]
    loop_ref: Option<LoopReference>,

    /// Attach a copy in memory. This is done without the option, too, with a note: dm-verity is not used yet
    #[arg(long)]
    in_memory: bool,

    /// Show what would be attached, from the headers and signatures; attach nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    policy: PolicyOption,
    #[command(flatten)]
    json: JsonOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load(context)?;
        let policy = self.policy.given_or("@verified-boot")?;
        let request = AttachRequest { image: self.image, reference: self.loop_ref, policy };
        let output = if self.dry_run {
            let (reference, plan) = plan_attach(&request, &trust, &context.cancel)?;
            planned(self.json.json, &reference, &plan)
        } else {
            if !self.in_memory {
                context.observer.note("attaching a copy in memory, because dm-verity is not used yet");
            }
            let made = attach(&request, &trust, &context.observer, &context.cancel)?;
            attached(self.json.json, &made.record)
        };
        io::stdout().write_all(output.as_bytes())?;
        Ok(Status::Done)
    }
}
