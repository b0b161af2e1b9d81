mod check;
mod derive;

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::image::comparison::{Comparison, compare};
use crate::image::finding::printable;
use crate::image::policy::{Relation, show_json, show_text};
use crate::operation::observer::Observer;
use crate::operation::policy_store::{list, resolve};

use super::options::{JsonOption, LegendOption};
use super::table::Table;
use super::{Context, Failure, Status};

/// Explain, check, compare and derive image policies
#[derive(Debug, Subcommand)]
pub(super) enum Arguments {
    Show(Show),
    Check(check::Arguments),
    Compare(Compare),
    Derive(derive::Arguments),
    List(List),
}

/// Show what a policy means for every partition
#[derive(Debug, Args)]
pub(super) struct Show {
    /// An image policy, @NAME for a policy file or preset, or the path of a policy file
    #[arg(allow_hyphen_values = true)]
    policy: String,

    /// Print it as a word for the kernel command line, which systemd obeys as well
    #[arg(long, conflicts_with = "json")]
    command_line: bool,

    #[command(flatten)]
    json: JsonOption,
}

/// Say which of two policies allows no more than the other
///
/// The first is equal to the second, stricter, looser, or incomparable; then come the partitions about which they differ,
/// and what each of the two allows there that the other does not. Exit status 0 for equal and stricter, 3 for looser and
/// incomparable.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// An image policy, or @NAME for a policy file or preset
    #[arg(allow_hyphen_values = true)]
    first: String,

    /// The image policy to compare it with, or @NAME
    #[arg(allow_hyphen_values = true)]
    second: String,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    legend: LegendOption,
}

/// Show the policies that can be named
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    legend: LegendOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        match self {
            Self::Show(arguments) => arguments.run(context),
            Self::Check(arguments) => arguments.run(),
            Self::Compare(arguments) => arguments.run(),
            Self::Derive(arguments) => arguments.run(context),
            Self::List(arguments) => arguments.run(),
        }
    }
}

impl Show {
    fn run(self, context: &Context) -> Result<Status, Failure> {
        let requested = resolve(&self.policy)?;
        if self.command_line {
            if requested.strictness().demands_authentication() {
                context.observer.warning(&format!(
                    "the text of '{requested}' does not say all that its name demands: on the kernel command line of a \
                     machine that boots by ddictl leave it out, where it counts anyway"
                ));
            }
            io::stdout().write_all(format!("systemd.image_policy={}\n", requested.policy()).as_bytes())?;
            return Ok(Status::Done);
        }
        let shown = show_json(requested.policy()).written_as(&self.policy);
        let value = serde_json::to_value(shown).map_err(io::Error::from)?;
        let text = self.json.json.render(&value).unwrap_or_else(|| {
            let mut text = show_text(requested.policy());
            if requested.strictness().demands_authentication() {
                text.push_str(
                    "\nThe name demands more: root or usr must be there and used, and nothing is exposed whose root \
                     hash is not authenticated.\n",
                );
            }
            text
        });
        io::stdout().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}

impl Compare {
    fn run(self) -> Result<Status, Failure> {
        let [first, second] = [resolve(&self.first)?, resolve(&self.second)?];
        let comparison = compare(&first, &second);
        let text =
            self.json.json.render(&self.to_json(&comparison)).unwrap_or_else(|| self.text(&comparison));
        io::stdout().write_all(text.as_bytes())?;
        Ok(if comparison.relation.is_within() { Status::Done } else { Status::NotAcceptable })
    }

    fn to_json(&self, comparison: &Comparison) -> Value {
        let [first_demands, second_demands] = comparison.demand_authentication;
        let partitions: Value = comparison
            .partitions
            .iter()
            .map(|partition| {
                let [first, second] = partition.rules.map(|rule| rule.to_string());
                let [first_only, second_only] = &partition.only;
                json!({
                    "designator": partition.designator.as_str(),
                    "relation": partition.relation.as_str(),
                    "first": first,
                    "second": second,
                    "first_only": first_only,
                    "second_only": second_only,
                })
            })
            .collect();
        json!({
            "first": self.first,
            "second": self.second,
            "relation": comparison.relation.as_str(),
            "partitions": partitions,
            "demands": {
                "relation": comparison.demands.as_str(),
                "first": first_demands,
                "second": second_demands,
            },
            "note": comparison.note(),
        })
    }

    fn text(&self, comparison: &Comparison) -> String {
        let (first, second) = (printable(&self.first), printable(&self.second));
        let mut text = match comparison.relation {
            Relation::Equal => format!("equal: '{first}' and '{second}' do the same with every partition\n"),
            Relation::Stricter => {
                format!("stricter: '{first}' never allows more than '{second}', and sometimes less\n")
            }
            Relation::Looser => {
                format!("looser: '{first}' never allows less than '{second}', and sometimes more\n")
            }
            Relation::Incomparable => {
                format!("incomparable: '{first}' and '{second}' each allow what the other does not\n")
            }
        };
        if !comparison.partitions.is_empty() {
            let headings = ["PARTITION", "FIRST IS", "FIRST ALSO ALLOWS", "SECOND ALSO ALLOWS"];
            let mut table = Table::new(headings, !self.legend.no_legend);
            for partition in &comparison.partitions {
                let [first_only, second_only] = &partition.only;
                table.push([
                    partition.designator.to_string(),
                    partition.relation.to_string(),
                    first_only.join(", "),
                    second_only.join(", "),
                ]);
            }
            text.push_str(&format!("\n{}", table.render()));
        }
        if let Some(note) = comparison.note() {
            text.push_str(&format!("\n{note}\n"));
        }
        text
    }
}

impl List {
    fn run(self) -> Result<Status, Failure> {
        let policies = list()?;
        let value: Value = policies
            .iter()
            .map(|listed| {
                json!({
                    "name": listed.name,
                    "description": listed.description,
                    "policy": listed.policy.to_string(),
                    "path": listed.path.as_ref().map(|path| path.display().to_string()),
                })
            })
            .collect();
        let text = self.json.json.render(&value).unwrap_or_else(|| {
            let mut table = Table::new(["NAME", "FROM", "DESCRIPTION"], !self.legend.no_legend);
            for listed in &policies {
                let path = listed
                    .path
                    .as_ref()
                    .map_or_else(|| "built in".to_owned(), |path| path.display().to_string());
                table.push([format!("@{}", listed.name), path, listed.description.clone()]);
            }
            table.render()
        });
        io::stdout().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}
