use std::io;

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
        clap_complete::generate(self.shell, &mut command(), "ddictl", &mut io::stdout());
        Ok(Status::Done)
    }
}
