use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::image::finding::{Finding, Rule};
use crate::operation::error::OperationError;
use crate::operation::examine::examine;
use crate::operation::source::{ImageFile, ImageSource};
use crate::operation::verified_image;
use crate::operation::verify::verify_data;

use super::options::{PolicyOption, TrustOptions};
use super::{Context, Failure, Status};

/// Check the signature, and every data block against the hash tree
///
/// Works on all cores and names the first bad blocks. An image without a hash tree is not acceptable.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The disk image: a file or a block device
    image: PathBuf,

    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    policy: PolicyOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load(context)?;
        let policy = self.policy.given_or("*")?;
        let image = ImageFile::open(&self.image)?;
        // Refuses what the policy refuses; the devices of the plan are those that it would expose.
        let plan = verified_image::plan(&image, &trust, &policy, &context.cancel)?;
        let examined = examine(&image, &trust, &context.cancel)?;
        if examined.dissection.verity.is_empty() {
            let finding = Finding::of_image(Rule::NoHashTree, "a hash tree for root or usr", "none");
            return Err(OperationError::Integrity {
                image: image.name().to_owned(),
                finding: Box::new(finding),
            }
            .into());
        }
        let mut text = String::new();
        for device in &plan.devices {
            let Some(verity) = &device.verity else { continue };
            let verified = verify_data(&image, &verity.set, &context.observer, &context.cancel)?;
            let by = match &verity.authenticated {
                Some(authenticated) => authenticated.by().to_string(),
                None => "nobody vouches for this root hash".to_owned(),
            };
            text.push_str(&format!(
                "{}: {} bytes agree with root hash {}, {by}\n",
                device.designator,
                verified.data_length(),
                verified.root_hash(),
            ));
        }
        for finding in &plan.findings {
            crate::operation::observer::Observer::warning(&context.observer, &finding.to_string());
        }
        io::stdout().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}
