use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::format::loop_reference::LoopReference;
use crate::image::plan::Access;
use crate::operation::attach::{AttachRequest, attach, plan_attach};
use crate::operation::list::Listed;

use super::options::{GuardOption, JsonOption, PolicyOption, TrustOptions};
use super::report::{attached, planned};
use super::{Context, Failure, Status};

/// Attach an image file: one device per planned partition
///
/// What is verified is guarded by dm-verity from then on, block by block, and read-only. On a kernel without dm-verity,
/// --in-memory attaches a copy that was verified in full. What the policy lets pass unverified, and neither the image nor
/// the policy nor --read-only wants read-only, can be written. Prints the paths of the devices, one a line. Without
/// --image-policy= the policy is @verified-boot.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The disk image: a file or a block device
    image: PathBuf,

    /// The name that the links begin with [default: the file's name]
    #[arg(long, value_name = "NAME")]
    loop_ref: Option<LoopReference>,

    /// Attach a copy in memory that nobody can change, verified there in full
    #[arg(long)]
    in_memory: bool,

    /// Write to nothing, whatever the image and the policy would allow
    #[arg(long, short)]
    read_only: bool,

    /// Show what would be attached, from the headers and signatures; attach nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    policy: PolicyOption,
    #[command(flatten)]
    guard: GuardOption,
    #[command(flatten)]
    json: JsonOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load(context)?;
        let policy = self.policy.given_or("@verified-boot")?;
        let request = AttachRequest {
            image: self.image,
            reference: self.loop_ref,
            policy,
            access: if self.read_only { Access::ReadOnly } else { Access::ReadWrite },
            in_memory: self.in_memory,
            guard: self.guard.options(),
        };
        let output = if self.dry_run {
            let (reference, plan) = plan_attach(&request, &trust, &context.cancel)?;
            planned(self.json.json, &reference, &plan)
        } else {
            let made = attach(&request, &trust, &context.observer, &context.cancel)?;
            attached(self.json.json, &Listed::of_attached(made.record))
        };
        io::stdout().write_all(output.as_bytes())?;
        Ok(Status::Done)
    }
}
