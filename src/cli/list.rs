use std::io::{self, Write};

use clap::Args;
use serde_json::Value;

use crate::format::verity::table::VerityHealth;
use crate::operation::list::{Listed, list};

use super::options::{JsonOption, LegendOption};
use super::report::listed_json;
use super::table::{Table, human_size};
use super::{Failure, Status};

/// Show what is attached: each device with its state, protection and source
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    legend: LegendOption,
}

impl Arguments {
    pub(super) fn run(self) -> Result<Status, Failure> {
        let listed = list()?;
        let value: Value = listed.iter().map(listed_json).collect();
        let text = self.json.json.render(&value).unwrap_or_else(|| {
            let headings = [
                "REFERENCE",
                "STATE",
                "DEVICE",
                "DESIGNATOR",
                "PROTECTION",
                "VERITY",
                "FILE SYSTEM",
                "SIZE",
                "SOURCE",
            ];
            let mut table = Table::new(headings, !self.legend.no_legend);
            for Listed { record, health } in &listed {
                for (device, health) in record.devices.iter().zip(health) {
                    table.push([
                        device.reference.clone(),
                        record.state.as_str().to_owned(),
                        device.path.as_ref().map_or_else(String::new, |path| path.display().to_string()),
                        device.designator.clone(),
                        device.protection.clone(),
                        health.map_or("-", VerityHealth::as_str).to_owned(),
                        device.file_system.clone().unwrap_or_default(),
                        human_size(device.size),
                        record.image.source.clone(),
                    ]);
                }
                if record.devices.is_empty() {
                    let mut row = [const { String::new() }; 9];
                    row[0].clone_from(&record.reference);
                    row[1] = record.state.as_str().to_owned();
                    if let Some(placed) = record.placed_alone() {
                        row[2] = placed.path.display().to_string();
                        row[3] = "file".to_owned();
                    }
                    if let Some(tree) = &record.tree {
                        row[2] = tree.path.display().to_string();
                        row[3] = "directory".to_owned();
                        row[4] = tree.authenticated.as_ref().map_or("unprotected", |_| "download").to_owned();
                    }
                    row[8].clone_from(&record.image.source);
                    table.push(row);
                }
            }
            table.render()
        });
        io::stdout().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}
