use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::image::finding::{Level, Rule};
use crate::image::policy::Use;
use crate::operation::audit::{AuditRequest, BootPartitions, Coverage, Judged, Target, audit_all};
use crate::operation::error::OperationError;
use crate::operation::examine::Audited;
use crate::operation::ignore_store;
use crate::operation::observer::Observer as _;

use super::options::{ClassOption, Json, PolicyOption, SidecarOptions, TrustOptions};
use super::report::{findings_json, partitions_json};
use super::{Context, Failure, Status, say};

mod junit;
mod sarif;
mod text;

/// Judge images by a policy, and say what is remarkable about them
///
/// Checks table, contents, geometry and signatures of each image against the policy, and with --deep every data block.
/// Without --image-policy= nothing is required, and the verdict says so. Of an image on a server only the parts that are
/// needed are asked for. Needs no privilege.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The disk images: files, block devices, http or https URLs, or directories, in which all images are found
    #[arg(required_unless_present = "explain", value_name = "IMAGE")]
    images: Vec<OsString>,

    /// Explain a finding by its code instead (DDI0101), or with 'all' every one
    #[arg(long, value_name = "CODE", exclusive = true, value_parser = explained)]
    explain: Option<Explained>,

    /// How to print the results: for people; one JSON object a line; or one document for code scanning (SARIF 2.1.0) or
    /// for a CI server (JUnit)
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    /// Print JSON instead of text: the same as --format=json
    #[arg(long, value_name = "FORM", value_enum)]
    json: Option<Json>,

    /// Also check every data block against the hash tree
    #[arg(long)]
    deep: bool,

    /// Look at what the EFI system partition and the XBOOTLDR partition of an image boot: auto does so unless the image is
    /// on a server
    #[arg(long, value_enum, value_name = "WHICH", default_value = "auto")]
    boot_partitions: LookInto,

    /// Fail when something at least this grave is found; a refused image always fails
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "error")]
    fail_on: FailOn,

    /// Trust this certificate authority (PEM) for https instead of the system's; may be repeated
    #[arg(long, value_name = "FILE")]
    ca_certificate: Vec<PathBuf>,

    /// Ignore the findings that this file lists, until the day that it says: they stay in the report, marked. What refuses
    /// an image is never ignored. May be repeated
    #[arg(long, value_name = "FILE")]
    ignore_file: Vec<PathBuf>,

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
    Sarif,
    Junit,
}

/// Whether boot partitions are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LookInto {
    Auto,
    Yes,
    No,
}

impl From<LookInto> for BootPartitions {
    fn from(which: LookInto) -> Self {
        match which {
            LookInto::Auto => Self::InFiles,
            LookInto::Yes => Self::Everywhere,
            LookInto::No => Self::Nowhere,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Note,
}

/// Which rules are explained.
#[derive(Debug, Clone)]
struct Explained(Vec<Rule>);

fn explained(code: &str) -> Result<Explained, String> {
    if code == "all" {
        return Ok(Explained(Rule::ALL.to_vec()));
    }
    let unknown =
        || "expected 'all', or the code of a finding, such as DDI0101 ('all' shows them)".to_owned();
    Rule::of_code(code).map(|rule| Explained(vec![rule])).ok_or_else(unknown)
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

/// How one image is judged, for whatever prints it.
struct Judgement<'a> {
    image: &'a str,
    policy: Option<&'a str>,
    audited: &'a Audited,
    /// The least grave finding that fails.
    fail_on: Level,
}

impl Judgement<'_> {
    /// Whether the image as a whole fails.
    fn fails(&self) -> bool {
        self.audited.verdict.is_refusal() || self.audited.has(self.fail_on)
    }
}

/// What prints the results.
trait Report {
    /// An image that was judged.
    fn judged(&mut self, judgement: &Judgement<'_>) -> io::Result<()>;

    /// An image that could not be read, which has been said on standard error.
    fn unreadable(&mut self, image: &str, error: &OperationError) -> io::Result<()> {
        let _ = (image, error);
        Ok(())
    }

    /// Nothing more comes.
    fn end(&mut self, coverage: &Coverage) -> io::Result<()> {
        let _ = coverage;
        Ok(())
    }
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        if let Some(Explained(rules)) = &self.explain {
            io::stdout().write_all(text::explanations(rules).as_bytes())?;
            return Ok(Status::Done);
        }
        let trust = self.trust.load_for(self.class.given(), context)?;
        let policy = self.policy.given()?;
        let mut ignored = ignore_store::load(&self.ignore_file)?;
        let companions = self.sidecars.settings()?;
        let targets = self.images.into_iter().map(Target::parse).collect::<Result<Vec<_>, _>>()?;
        let several = !matches!(targets.as_slice(), [Target::Url(_)] | [Target::Path(_)]);
        let mut report: Box<dyn Report> = match (self.json, self.format) {
            (Some(form @ (Json::Short | Json::Pretty)), _) => Box::new(Lines(form)),
            (_, Format::Json) => Box::new(Lines(Json::Short)),
            (_, Format::Text) => {
                let quiet = context.observer.is_quiet();
                Box::new(text::Text::new(several, quiet, io::stdout().is_terminal()))
            }
            (_, Format::Sarif) => Box::new(sarif::Document::default()),
            (_, Format::Junit) => Box::new(junit::Document::default()),
        };
        let mut status = Status::Done;
        let fail_on = self.fail_on.into();
        let policy_text = policy.as_ref().map(ToString::to_string);
        let request = AuditRequest {
            targets,
            trust: &trust,
            policy: policy.as_ref(),
            companions,
            deep: self.deep,
            boot_partitions: self.boot_partitions.into(),
            ca_certificates: self.ca_certificate,
            confine: true,
        };
        let hear = |Judged { image, outcome }: Judged| -> Result<(), Failure> {
            match outcome {
                Ok(mut audited) => {
                    for warning in audited.ignore(&image, &mut ignored, trust.time()) {
                        context.observer.warning(&warning);
                    }
                    let (image, policy) = (image.as_str(), policy_text.as_deref());
                    let judgement = Judgement { image, policy, audited: &audited, fail_on };
                    if judgement.fails() {
                        status = Status::NotAcceptable;
                    }
                    report.judged(&judgement)?;
                }
                Err(error) => {
                    say("error", &error.with_causes());
                    status = status.max(Status::SomeFailed);
                    report.unreadable(&image, &error)?;
                }
            }
            Ok(())
        };
        let coverage = audit_all(request, &context.observer, &context.cancel, hear)?;
        report.end(&coverage)?;
        for line in ignored.unused() {
            context.observer.note(&line);
        }
        Ok(status)
    }
}

/// One JSON object an image.
struct Lines(Json);

impl Report for Lines {
    fn judged(&mut self, judgement: &Judgement<'_>) -> io::Result<()> {
        let text = self.0.render(&to_json(judgement)).unwrap_or_default();
        io::stdout().write_all(text.as_bytes())
    }
}

fn to_json(judgement: &Judgement<'_>) -> Value {
    let Judgement { image, policy, audited, .. } = judgement;
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
        "policy": policy,
        "verdict": audited.verdict.as_str(),
        "partitions": partitions,
        "findings": findings_json(&audited.findings),
    })
}
