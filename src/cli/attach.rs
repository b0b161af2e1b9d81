use std::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::format::loop_reference::LoopReference;
use crate::image::plan::Access;
use crate::operation::attach::{AttachRequest, attach, plan_attach};
use crate::operation::list::Listed;
use crate::operation::unlock::Keys;
use crate::operation::whole_disk::{WholeDiskRequest, attach_whole_disk, plan_whole_disk};

use super::options::{
    GuardOption, JsonOption, KeyOptions, PolicyOption, SidecarOptions, TrustOptions, UsedClassOption,
};
use super::report::{attached, planned, planned_disk};
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

    /// Attach encrypted partitions as they are, without opening them
    #[arg(long, conflicts_with_all = ["key_file", "passphrase_fd"])]
    locked: bool,

    /// Attach the whole image as one disk with its partitions, as losetup does: nothing of it is verified, and nothing is
    /// left out. Only with --image-policy='*'
    #[arg(long, conflicts_with_all = [
        "in_memory", "locked", "key_file", "passphrase_fd", "on_corruption", "root_hash_sig", "usr_hash_sig", "verity_data",
    ])]
    whole_disk: bool,

    /// Show what would be attached, from the headers and signatures; attach nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    class: UsedClassOption,
    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    sidecars: SidecarOptions,
    #[command(flatten)]
    policy: PolicyOption,
    #[command(flatten)]
    keys: KeyOptions,
    #[command(flatten)]
    guard: GuardOption,
    #[command(flatten)]
    json: JsonOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let output = match self.whole_disk {
            true => self.attach_whole_disk(context)?,
            false => self.attach(context)?,
        };
        io::stdout().write_all(output.as_bytes())?;
        Ok(Status::Done)
    }

    const fn access(&self) -> Access {
        if self.read_only { Access::ReadOnly } else { Access::ReadWrite }
    }

    fn attach(self, context: &Context) -> Result<String, Failure> {
        let trust = self.trust.load(context)?;
        let policy = self.policy.given_or("@verified-boot")?;
        let access = self.access();
        let request = AttachRequest {
            class: self.class.class(),
            companions: self.sidecars.settings()?,
            image: self.image,
            reference: self.loop_ref,
            policy,
            access,
            in_memory: self.in_memory,
            guard: self.guard.options(),
            keys: (!self.locked).then(|| RefCell::new(Keys::new(self.keys.source()))),
        };
        Ok(if self.dry_run {
            let (reference, plan) = plan_attach(&request, &trust, &context.cancel)?;
            planned(self.json.json, &reference, &plan)
        } else {
            let made = attach(&request, &trust, &context.observer, &context.cancel)?;
            attached(self.json.json, &Listed::of_attached(made.record))
        })
    }

    fn attach_whole_disk(self, context: &Context) -> Result<String, Failure> {
        let trust = self.trust.load(context)?;
        let request = WholeDiskRequest {
            policy: self.policy.given()?,
            access: self.access(),
            image: self.image,
            reference: self.loop_ref,
        };
        Ok(if self.dry_run {
            let (reference, plan) = plan_whole_disk(&request, &trust, &context.cancel)?;
            planned_disk(self.json.json, &reference, &plan)
        } else {
            let made = attach_whole_disk(&request, &trust, &context.observer, &context.cancel)?;
            attached(self.json.json, &Listed::of_attached(made.record))
        })
    }
}
