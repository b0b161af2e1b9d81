use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::format::designator::Designator;
use crate::format::guid::Guid;
use crate::operation::error::OperationError;
use crate::operation::seal::{SealFormat, SealKey, SealRequest, Seed, seal};

use super::options::JsonOption;
use super::{Context, Failure, Status};

/// Make a signed image of a directory tree or a file system
///
/// The image has the file system, its hash tree and the signature of the root hash, after an ESP where one is given.
/// Needs the private key and its certificate, or --unsigned. Prints the root hash. With SOURCE_DATE_EPOCH in the
/// environment the same input gives the same image. Needs no privilege.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A directory tree, or a file with a file system in it
    source: PathBuf,

    /// The image to make
    output: PathBuf,

    /// What the file system is for
    #[arg(long, value_enum, default_value = "root")]
    designator: SealedDesignator,

    /// The file system for a directory tree, made by mksquashfs or mkfs.erofs
    #[arg(long, value_enum, default_value = "squashfs")]
    format: FormatOption,

    /// Put a vfat ESP with the contents of this directory in front
    #[arg(long, value_name = "DIRECTORY")]
    esp: Option<PathBuf>,

    /// Sign with this private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate", required_unless_present = "unsigned")]
    private_key: Option<PathBuf>,

    /// The certificate of the private key (PEM)
    #[arg(long, value_name = "FILE", requires = "private_key")]
    certificate: Option<PathBuf>,

    /// Make an image without a signature
    #[arg(long, conflicts_with = "private_key")]
    unsigned: bool,

    /// Derive UUIDs and salt from this UUID [default: chance, or zero with SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "UUID")]
    seed: Option<Guid>,

    /// The label of the partitions, for instance NAME_VERSION [default: their types, as root-x86-64]
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,

    /// Replace an image that is there
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    json: JsonOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SealedDesignator {
    Root,
    Usr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatOption {
    Squashfs,
    Erofs,
}

/// The time stamp that reproducible-builds.org has tools take from the environment.
fn source_date_epoch() -> Result<Option<u64>, Failure> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let found = text.to_string_lossy();
        OperationError::Usage(format!(
            "reading SOURCE_DATE_EPOCH: expected seconds since 1970, found '{found}'"
        ))
        .into()
    })
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let request = SealRequest {
            source: self.source,
            output: self.output,
            designator: match self.designator {
                SealedDesignator::Root => Designator::Root,
                SealedDesignator::Usr => Designator::Usr,
            },
            format: match self.format {
                FormatOption::Squashfs => SealFormat::Squashfs,
                FormatOption::Erofs => SealFormat::Erofs,
            },
            esp: self.esp,
            key: self
                .private_key
                .zip(self.certificate)
                .map(|(private_key, certificate)| SealKey { private_key, certificate }),
            seed: self.seed.map(Seed::new),
            source_date_epoch: source_date_epoch()?,
            label: self.label,
            force: self.force,
        };
        let sealed = seal(&request, &context.observer, &context.cancel)?;
        let value = json!({
            "image": request.output.display().to_string(),
            "root_hash": sealed.root_hash.to_string(),
            "size": sealed.size.bytes(),
            "partition": sealed.partition,
        });
        let text = self.json.json.render(&value).unwrap_or_else(|| format!("{}\n", sealed.root_hash));
        io::stdout().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}
