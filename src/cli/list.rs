use std::io::{self, Write};

use clap::Args;
use serde_json::Value;

use crate::operation::list::list;

use super::options::{JsonOption, LegendOption};
use super::report::record_json;
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
        let records = list()?;
        let value: Value = records.iter().map(record_json).collect();
        let text = self.json.json.render(&value).unwrap_or_else(|| {
            let headings =
                ["REFERENCE", "STATE", "DEVICE", "DESIGNATOR", "PROTECTION", "FILE SYSTEM", "SIZE", "SOURCE"];
            let mut table = Table::new(headings, !self.legend.no_legend);
            for record in &records {
                for device in &record.devices {
                    table.push([
                        device.reference.clone(),
                        record.state.as_str().to_owned(),
                        device.path.as_ref().map_or_else(String::new, |path| path.display().to_string()),
                        device.designator.clone(),
                        device.protection.clone(),
                        device.file_system.clone().unwrap_or_default(),
                        human_size(device.size),
                        record.image.source.clone(),
                    ]);
                }
                if record.devices.is_empty() {
                    let mut row = [const { String::new() }; 8];
                    row[0].clone_from(&record.reference);
                    row[1] = record.state.as_str().to_owned();
                    row[7].clone_from(&record.image.source);
                    table.push(row);
                }
            }
            table.render()
        });
        io::stdout().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}
