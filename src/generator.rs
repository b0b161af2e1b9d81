//! The systemd generator: `ddictl-generator NORMAL EARLY LATE` writes the units of a boot (systemd.generator(7)).
//!
//! It touches neither network nor devices. What is wrong with the kernel command line it does not complain about: a unit
//! that fails does, where everybody can see it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::boot_sources;
use crate::operation::boot::{GeneratorDirectories, generate};

/// The name under which the program is installed for systemd.
pub const NAME: &str = "ddictl-generator";

/// Runs the generator with these arguments, the three directories.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let directories: Vec<PathBuf> = arguments.into_iter().map(PathBuf::from).collect();
    let result = match directories.as_slice() {
        [normal, early, _] => program().and_then(|program| {
            let directories = GeneratorDirectories { normal: normal.clone(), early: early.clone() };
            generate(&directories, &program, &boot_sources()).map_err(|error| error.with_causes())
        }),
        other => {
            Err(format!("expected three directories (systemd.generator(7)), found {} arguments", other.len()))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(io::stderr(), "{NAME}: error: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The path of this program, by which the units call it.
fn program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("finding this program: {error}"))
}
