use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::options::{ClassOption, JsonOption, SidecarOptions, TrustOptions};
use crate::cli::{Context, Failure, Status};
use crate::image::derivation::{Derivation, derive};
use crate::image::plan::Refusal;
use crate::image::policy::Use;
use crate::operation::error::OperationError;
use crate::operation::examine::examine;
use crate::operation::observer::Observer;
use crate::operation::source::{ImageFile, ImageSource};

/// Print the tightest policy that an image satisfies
///
/// Every partition in the state, with the flags and the file system that it has, and nothing besides. A signature counts
/// where it is by somebody who is trusted. Needs no privilege.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The disk image: a file or a block device
    image: PathBuf,

    #[command(flatten)]
    class: ClassOption,
    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    sidecars: SidecarOptions,
    #[command(flatten)]
    json: JsonOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load_for(self.class.given(), context)?;
        let image = ImageFile::open_with_companions(&self.image, &self.sidecars.settings()?)?;
        let examined = examine(&image, &trust, &context.cancel)?;
        let derivation = derive(&examined.dissection, &examined.assessment).map_err(|findings| {
            let refusal = Box::new(Refusal { policy: "*".to_owned(), findings });
            OperationError::Refused { image: image.name().to_owned(), refusal }
        })?;
        let value = to_json(image.name(), &derivation);
        let text = self.json.json.render(&value).unwrap_or_else(|| format!("{}\n", derivation.policy));
        io::stdout().write_all(text.as_bytes())?;
        for note in &derivation.notes {
            context.observer.warning(note);
        }
        Ok(Status::Done)
    }
}

fn to_json(image: &str, derivation: &Derivation) -> Value {
    let partitions: Value = derivation
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "number": partition.number.map(|number| number.get()),
                "designator": partition.rule.designator().as_str(),
                "rule": partition.rule.to_string(),
                "use": if partition.decision == Use::Used { "used" } else { "unused" },
            })
        })
        .collect();
    json!({
        "image": image,
        "policy": derivation.policy.to_string(),
        "partitions": partitions,
        "notes": derivation.notes,
    })
}
