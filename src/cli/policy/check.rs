use std::io::{self, Write};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};

use crate::cli::options::JsonOption;
use crate::cli::{Failure, Status};
use crate::format::image_class::ImageClass;
use crate::image::finding::printable;
use crate::image::policy::{Check, PolicyFinding, check};
use crate::operation::policy_store::resolve;

/// Find in a policy what its author may not have meant
///
/// Alternatives of which the weakest holds, with the stricter text; words and rules that nothing can satisfy, that allow
/// more than they seem to, or that say nothing. Exit status 3 with findings, 0 without.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// An image policy, or @NAME for a policy file or preset
    #[arg(allow_hyphen_values = true)]
    policy: String,

    /// What the images are for: also find rules for partitions that such an image never has
    #[arg(long, value_name = "CLASS", value_parser = class())]
    class: Option<ImageClass>,

    #[command(flatten)]
    json: JsonOption,
}

fn class() -> impl TypedValueParser<Value = ImageClass> {
    PossibleValuesParser::new(ImageClass::ALL.map(ImageClass::as_str)).try_map(|word| word.parse())
}

impl Arguments {
    pub(super) fn run(self) -> Result<Status, Failure> {
        let requested = resolve(&self.policy)?;
        let authenticated = requested.strictness().demands_authentication();
        let checked = check(requested.policy(), authenticated, self.class);
        let text = self.json.json.render(&self.to_json(&checked)).unwrap_or_else(|| self.text(&checked));
        io::stdout().write_all(text.as_bytes())?;
        Ok(if checked.findings.is_empty() { Status::Done } else { Status::NotAcceptable })
    }

    fn to_json(&self, checked: &Check) -> Value {
        let finding = |finding: &PolicyFinding| {
            json!({
                "code": finding.lint.as_str(),
                "rule": finding.place.to_string(),
                "words": finding.words.words().collect::<Vec<_>>(),
                "holds": finding.holds.map(|protection| protection.as_str()),
                "message": finding.message,
                "suggestion": finding.suggestion,
            })
        };
        json!({
            "policy": self.policy,
            "class": self.class.map(ImageClass::as_str),
            "findings": checked.findings.iter().map(finding).collect::<Value>(),
            "stricter": checked.stricter.as_ref().map(ToString::to_string),
        })
    }

    fn text(&self, checked: &Check) -> String {
        let policy = printable(&self.policy);
        let mut text = match checked.findings.len() {
            0 => return format!("'{policy}': nothing found\n"),
            1 => format!("'{policy}': 1 finding\n"),
            number => format!("'{policy}': {number} findings\n"),
        };
        for finding in &checked.findings {
            text.push_str(&format!("  {}: {}\n", finding.lint, finding.message));
            if let Some(suggestion) = &finding.suggestion {
                text.push_str(&format!("    write '{suggestion}'\n"));
            }
        }
        if let Some(stricter) = &checked.stricter {
            text.push_str(&format!("without weaker alternatives: {stricter}\n"));
        }
        text
    }
}
