use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::image::finding::Level;
use crate::image::policy::Use;
use crate::image::presets::RequestedPolicy;
use crate::operation::examine::{Audited, Verdict, audit};
use crate::operation::source::{ImageFile, ImageSource};

use super::options::{ClassOption, Json, PolicyOption, SidecarOptions, TrustOptions};
use super::report::{audit_text, findings_json, partitions_json};
use super::{Context, Failure, Status, say};

/// Judge images by a policy, and say what is remarkable about them
///
/// Checks table, contents, geometry and signatures of each image against the policy, and with --deep every data block.
/// Without --image-policy= nothing is required, and the verdict says so. Needs no privilege.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The disk images: files or block devices (directories and URLs are not there yet)
    #[arg(required = true)]
    images: Vec<PathBuf>,

    /// How to print the results: for people, or one JSON object a line (SARIF and JUnit are not there yet)
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    /// Print JSON instead of text: the same as --format=json
    #[arg(long, value_name = "FORM", value_enum)]
    json: Option<Json>,

    /// Also check every data block against the hash tree
    #[arg(long)]
    deep: bool,

    /// Fail when something at least this grave is found; a refused image always fails
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "error")]
    fail_on: FailOn,

    #[command(flatten)]
    class: ClassOption,
    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    sidecars: SidecarOptions,
    #[command(flatten)]
    policy: PolicyOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Note,
}

impl From<FailOn> for Level {
    fn from(fail_on: FailOn) -> Self {
        match fail_on {
            FailOn::Error => Self::Error,
            FailOn::Warning => Self::Warning,
            FailOn::Note => Self::Note,
        }
    }
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let json = match (self.json, self.format) {
            (Some(json), _) => json,
            (None, Format::Json) => Json::Short,
            (None, Format::Text) => Json::Off,
        };
        let trust = self.trust.load_for(self.class.given(), context)?;
        let policy = self.policy.given()?;
        let sidecars = self.sidecars.settings()?;
        let mut status = Status::Done;
        for path in &self.images {
            context.cancel.check()?;
            let audited = ImageFile::open_with_companions(path, &sidecars).and_then(|image| {
                let audited =
                    audit(&image, &trust, policy.as_ref(), self.deep, &context.observer, &context.cancel)?;
                Ok((image.name().to_owned(), audited))
            });
            let (image, audited) = match audited {
                Ok(audited) => audited,
                Err(error @ crate::operation::error::OperationError::Interrupted(_)) => {
                    return Err(error.into());
                }
                Err(error) => {
                    say("error", &error.with_causes());
                    status = status.max(Status::SomeFailed);
                    continue;
                }
            };
            let text = json.render(&to_json(&image, policy.as_ref(), &audited)).unwrap_or_else(|| {
                audit_text(&image, policy.as_ref().map(ToString::to_string).as_deref(), &audited)
            });
            io::stdout().write_all(text.as_bytes())?;
            let judged = matches!(audited.verdict, Verdict::Refuse | Verdict::Malformed);
            if judged || audited.has(self.fail_on.into()) {
                status = Status::NotAcceptable;
            }
        }
        Ok(status)
    }
}

fn to_json(image: &str, policy: Option<&RequestedPolicy>, audited: &Audited) -> Value {
    let partitions = audited.examined.as_ref().map_or_else(
        || json!([]),
        |examined| {
            let everything = vec![Use::Used; examined.dissection.partitions.len()];
            let uses = audited.evaluation.as_ref().map_or(&everything, |evaluation| &evaluation.uses);
            partitions_json(&examined.dissection, &examined.assessment, uses)
        },
    );
    json!({
        "image": image,
        "policy": policy.map(ToString::to_string),
        "verdict": audited.verdict.as_str(),
        "partitions": partitions,
        "findings": findings_json(&audited.findings),
    })
}
