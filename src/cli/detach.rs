use clap::{ArgGroup, Args};

use crate::operation::detach::{Detachment, detach, detach_stale, plan_detach};
use crate::operation::observer::Observer;

use super::{Context, Failure, Status};

/// Take down what was attached
///
/// What is in use stays as it is, and the error names the user. What is not attached needs no taking down: that is said,
/// and is no failure.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("object").required(true).multiple(false))]
pub(super) struct Arguments {
    /// The reference that the links begin with, or a link, a device, the image file or its URL
    #[arg(group = "object")]
    what: Option<String>,

    /// Take down what processes that died have left behind, and records whose devices are gone
    #[arg(long, group = "object")]
    stale: bool,

    /// Show what would be taken down
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        if self.dry_run {
            for line in plan_detach(self.what.as_deref())? {
                context.observer.note(&format!("would take down {line}"));
            }
            return Ok(Status::Done);
        }
        match &self.what {
            None => {
                let reaped = detach_stale()?;
                for reference in reaped.references {
                    context.observer.note(&format!("took down what was left of '{reference}'"));
                }
                let mut failures = reaped.failures.into_iter();
                if let Some(first) = failures.next() {
                    for other in failures {
                        context.observer.warning(&other.with_causes());
                    }
                    return Err(first.into());
                }
            }
            Some(what) => match detach(what)? {
                Detachment::Detached(_) => {}
                Detachment::NotAttached => context.observer.note(&format!("'{what}' is not attached")),
            },
        }
        Ok(Status::Done)
    }
}
