use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::image::policy::{show_json, show_text};
use crate::operation::policy_store::{list, resolve};

use super::options::{JsonOption, LegendOption};
use super::table::Table;
use super::{Failure, Status};

/// Explain image policies
#[derive(Debug, Subcommand)]
pub(super) enum Arguments {
    Show(Show),
    List(List),
}

/// Show what a policy means for every partition
#[derive(Debug, Args)]
pub(super) struct Show {
    /// An image policy, or @NAME for a policy file or preset
    #[arg(allow_hyphen_values = true)]
    policy: String,

    #[command(flatten)]
    json: JsonOption,
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
    pub(super) fn run(self) -> Result<Status, Failure> {
        match self {
            Self::Show(arguments) => arguments.run(),
            Self::List(arguments) => arguments.run(),
        }
    }
}

impl Show {
    fn run(self) -> Result<Status, Failure> {
        let requested = resolve(&self.policy)?;
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
