use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::operation::observer::Observer;
use crate::operation::source::{ImageFile, ImageSource};
use crate::operation::verify_image::verify_image;

use super::options::{ClassOption, PolicyOption, SidecarOptions, TrustOptions};
use super::{Context, Failure, Status};

/// Check the signature, and every data block against the hash tree
///
/// Works on all cores and names the first bad blocks. A signature that is there and does not hold, and an image without
/// a hash tree, are not acceptable. An image without a signature is, unless --image-policy=@verified-boot demands one.
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
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let trust = self.trust.load_for(self.class.given(), context)?;
        let policy = self.policy.given_or("*")?;
        let image = ImageFile::open_with_companions(&self.image, &self.sidecars.settings()?)?;
        let verified = verify_image(&image, &trust, &policy, &context.observer, &context.cancel)?;
        let mut text = String::new();
        for partition in &verified {
            let by = match &partition.authenticated {
                Some(authenticated) => authenticated.by().to_string(),
                None => {
                    context.observer.warning(&format!(
                        "'{}' is not signed and no root hash was given: its {} is undamaged, and may be anybody's",
                        image.name(),
                        partition.designator
                    ));
                    "nobody vouches for it".to_owned()
                }
            };
            text.push_str(&format!(
                "{}: {} bytes agree with root hash {}: {by}\n",
                partition.designator,
                partition.data.data_length(),
                partition.data.root_hash(),
            ));
        }
        io::stdout().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}
