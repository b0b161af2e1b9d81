use clap::Args;

use crate::operation::observer::Observer;
use crate::operation::umount::{Unmounting, plan_umount, umount};

use super::{Context, Failure, Status};

/// Unmount an image
///
/// Everything that is mounted with it, in reverse order, and waits until its devices are gone. What is in use stays as it
/// is, and the error names the user. What systemd-dissect --mount mounted is unmounted, too. What is not mounted needs no
/// unmounting: that is said, and is no failure.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The directory it is mounted on, or the image file, its reference or one of its devices
    what: String,

    /// Remove the directory as well
    #[arg(long)]
    rmdir: bool,

    /// Show what would be unmounted
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        if self.dry_run {
            for directory in plan_umount(&self.what)? {
                context.observer.note(&format!("would unmount '{}'", directory.display()));
            }
            return Ok(Status::Done);
        }
        match umount(&self.what, self.rmdir, &context.observer)? {
            Unmounting::Unmounted(directories) => {
                for directory in directories {
                    context.observer.note(&format!("unmounted '{}'", directory.display()));
                }
            }
            Unmounting::NotMounted => context.observer.note(&format!("'{}' is not mounted", self.what)),
        }
        Ok(Status::Done)
    }
}
