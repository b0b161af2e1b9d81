use std::io::{self, Write};

use clap::Args;
use clap_complete::Shell;

use super::{Failure, Status, command};

/// Print the completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> Result<Status, Failure> {
        // Into memory first: clap_complete panics where its output cannot be written.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), "ddictl", &mut script);
        io::stdout().write_all(&script)?;
        Ok(Status::Done)
    }
}
