use std::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::format::loop_reference::LoopReference;
use crate::image::places::{Discard, MountPlan, MountSettings, Places, PlannedMount};
use crate::image::plan::Access;
use crate::operation::attach::AttachRequest;
use crate::operation::mount::{MountRequest, mount, plan_mount};
use crate::operation::unlock::Keys;

use super::options::{
    GuardOption, JsonOption, KeyOptions, PolicyOption, SidecarOptions, TrustOptions, UsedClassOption,
};
use super::report::{planned, planned_json, record_json};
use super::{Context, Failure, Status};

/// Mount an image on a directory
///
/// The file systems go where systemd-dissect --mount puts them: root on the directory, the others beneath, and an image
/// that has only usr on a root in memory. What is verified is guarded by dm-verity and read-only. The devices go with the
/// mounts: 'ddictl umount' and any other umount free everything. Of an image that is attached already, the devices that are
/// there are mounted if they are exactly those that would be made, and stay. Without --image-policy= the policy is
/// @verified-boot.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The disk image: a file or a block device
    image: PathBuf,

    /// Where to mount it
    directory: PathBuf,

    /// The name of the attachment and its links [default: the file's name; NAME.2, NAME.3 and so on if that is taken]
    #[arg(long, value_name = "NAME")]
    loop_ref: Option<LoopReference>,

    /// Make the directory if it is missing
    #[arg(long)]
    mkdir: bool,

    /// Mount a copy in memory that nobody can change, verified there in full
    #[arg(long)]
    in_memory: bool,

    /// Write to nothing, whatever the image and the policy would allow
    #[arg(long, short)]
    read_only: bool,

    /// Which writable file systems tell their device what they no longer use
    #[arg(long, value_name = "WHICH", value_enum, default_value = "loop")]
    discard: DiscardWord,

    /// Check writable file systems before they are mounted
    #[arg(long, value_name = "BOOL", value_enum, default_value = "yes")]
    fsck: YesNo,

    /// Grow writable file systems whose partition asks for it to its size
    #[arg(long, value_name = "BOOL", value_enum, default_value = "yes")]
    growfs: YesNo,

    /// Show what would be mounted where; mount nothing
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DiscardWord {
    /// None
    Disabled,
    /// Those on loop devices that are not encrypted
    Loop,
    /// All that are not encrypted
    All,
    /// Also encrypted ones, which shows how much of them is in use
    Crypto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum YesNo {
    Yes,
    No,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load(context)?;
        let policy = self.policy.given_or("@verified-boot")?;
        let request = MountRequest {
            image: AttachRequest {
                class: self.class.class(),
                companions: self.sidecars.settings()?,
                image: self.image,
                reference: self.loop_ref,
                policy,
                access: if self.read_only { Access::ReadOnly } else { Access::ReadWrite },
                in_memory: self.in_memory,
                guard: self.guard.options(),
                keys: Some(RefCell::new(Keys::new(self.keys.source()))),
            },
            directory: self.directory,
            make_directory: self.mkdir,
            settings: MountSettings {
                fsck: self.fsck == YesNo::Yes,
                growfs: self.growfs == YesNo::Yes,
                discard: match self.discard {
                    DiscardWord::Disabled => Discard::Disabled,
                    DiscardWord::Loop => Discard::Loop,
                    DiscardWord::All => Discard::All,
                    DiscardWord::Crypto => Discard::Crypto,
                },
            },
        };
        let json = self.json.json;
        let output = if self.dry_run {
            let (reference, plan, mounts) = plan_mount(&request, &trust, &context.cancel)?;
            let directory = request.directory.display().to_string();
            let mut value = planned_json(&reference, &plan);
            if let Some(object) = value.as_object_mut() {
                object.insert("mounts".to_owned(), mounts_json(&directory, &mounts));
            }
            json.render(&value).unwrap_or_else(|| {
                format!("{}{}", planned(json, &reference, &plan), mounts_text(&directory, &mounts))
            })
        } else {
            let record = mount(request, &trust, &context.observer, &context.cancel)?;
            json.render(&record_json(&record)).unwrap_or_default()
        };
        io::stdout().write_all(output.as_bytes())?;
        Ok(Status::Done)
    }
}

/// The directories that a file system may go on, the first that will do.
fn places(directory: &str, mount: &PlannedMount) -> Vec<String> {
    let beneath = |path: &str| format!("{}/{path}", directory.trim_end_matches('/'));
    match mount.places {
        Places::Top => vec![directory.to_owned()],
        Places::Required(path) => vec![beneath(path)],
        Places::FirstOf(candidates) => candidates.iter().map(|place| beneath(place.path)).collect(),
    }
}

fn mounts_text(directory: &str, plan: &MountPlan) -> String {
    let mut text = String::new();
    if plan.root_in_memory {
        text.push_str(&format!("  a root in memory on {directory}\n"));
    }
    for mount in &plan.mounts {
        let file_system = mount.file_system.map_or("what is in it", |file_system| file_system.as_str());
        let options: String = mount.options.iter().map(|option| format!(",{option}")).collect();
        text.push_str(&format!(
            "  {} on {} ({file_system}, {}{options})\n",
            mount.designator,
            places(directory, mount).join(" or else "),
            mount.flags,
        ));
    }
    text
}

fn mounts_json(directory: &str, plan: &MountPlan) -> Value {
    plan.mounts
        .iter()
        .map(|mount| {
            let options = mount.options.iter().map(ToString::to_string);
            let options: Vec<String> =
                mount.flags.words().into_iter().map(str::to_owned).chain(options).collect();
            json!({
                "designator": mount.designator.as_str(),
                "directories": places(directory, mount),
                "file_system": mount.file_system.map(|file_system| file_system.as_str()),
                "options": options,
                "fsck": mount.fsck,
                "growfs": mount.growfs,
            })
        })
        .collect()
}
