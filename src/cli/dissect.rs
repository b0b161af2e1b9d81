use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::image::plan::evaluate;
use crate::operation::examine::examine;
use crate::operation::observer::Observer;
use crate::operation::source::{ImageFile, ImageSource};

use super::options::{ClassOption, JsonOption, LegendOption, PolicyOption, SidecarOptions, TrustOptions};
use super::report::{layout_text, partitions_json, partitions_text};
use super::{Context, Failure, Status};

/// Show what is in an image, and how each partition is really protected
///
/// Every partition with its designator, file system, protection state, signer and root hash, and whether the policy (*,
/// unless --image-policy= gives another one) would use it. Nothing is refused but an image that no policy could accept.
/// Needs no privilege.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The disk image: a file or a block device
    image: PathBuf,

    #[command(flatten)]
    class: ClassOption,
    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    sidecars: SidecarOptions,
    #[command(flatten)]
    policy: PolicyOption,
    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    legend: LegendOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load_for(self.class.given(), context)?;
        let policy = self.policy.given_or("*")?;
        let image = ImageFile::open_with_companions(&self.image, &self.sidecars.settings()?)?;
        let examined = examine(&image, &trust, &context.cancel)?;
        let evaluation = evaluate(&examined.dissection, &examined.assessment, &policy);
        let (dissection, assessment) = (&examined.dissection, &examined.assessment);
        let value = json!({
            "image": image.name(),
            "policy": policy.to_string(),
            "partitions": partitions_json(dissection, assessment, &evaluation.uses),
        });
        let text = self.json.json.render(&value).unwrap_or_else(|| {
            let legend = !self.legend.no_legend;
            let partitions = partitions_text(dissection, assessment, &evaluation.uses, legend);
            if legend {
                format!("{}: {}\n{partitions}", image.name(), layout_text(dissection))
            } else {
                partitions
            }
        });
        io::stdout().write_all(text.as_bytes())?;
        for finding in dissection.findings.iter().chain(&assessment.findings) {
            context.observer.warning(&format!("{finding}"));
        }
        Ok(Status::Done)
    }
}
