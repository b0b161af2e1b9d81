//! The command line: words in, words out, exit status.

mod attach;
mod audit;
mod boot;
mod completion;
mod detach;
mod dissect;
mod list;
mod mount;
mod options;
mod policy;
mod progress;
mod pull;
mod report;
mod seal;
mod table;
mod umount;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::image::finding::is_deceptive;
use crate::operation::cancel::{Cancel, Interrupted};
use crate::operation::error::OperationError;

use self::progress::Terminal;

pub(crate) use self::boot::boot_sources;

/// Everything was done.
const DONE: u8 = 0;
/// The system, the network or a file failed.
const FAILED: u8 = 1;
/// The words make no sense.
const USAGE: u8 = 2;
/// The image is not acceptable.
const NOT_ACCEPTABLE: u8 = 3;

/// Provision Linux block devices from Discoverable Disk Images that nobody has to trust yet
#[derive(Debug, Parser)]
#[command(name = "ddictl", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Exit status: 0 done; 1 failed (system, network, file); 2 usage; 3 the image is not \
acceptable (malformed, refused by policy, signature or integrity); 128 + signal when interrupted.\n\
See ddictl(1), ddictl.policy(5) and ddictl.findings(7).")]
struct Arguments {
    /// Do not report progress and notes; warnings and errors stay
    #[arg(long, short, global = true, display_order = 900)]
    quiet: bool,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Dissect(dissect::Arguments),
    Audit(audit::Arguments),
    Verify(verify::Arguments),
    #[command(subcommand)]
    Policy(policy::Arguments),
    Pull(pull::Arguments),
    Attach(attach::Arguments),
    Detach(detach::Arguments),
    List(list::Arguments),
    Mount(mount::Arguments),
    Umount(umount::Arguments),
    Seal(seal::Arguments),
    Boot(boot::Arguments),
    Completion(completion::Arguments),
}

/// The whole grammar, for completions and for the checks that keep the manual in step.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program with these arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    #[cfg(feature = "fault-points")]
    crate::operation::fault::arrange(
        std::env::var("DDICTL_FAULT").ok().as_deref(),
        std::env::var_os("DDICTL_FAULT_LOG").map(Into::into),
    );
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are data; everything else is talk.
            let printed = error.print();
            return match (error.kind(), printed) {
                (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, Ok(())) => ExitCode::from(DONE),
                (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, Err(error)) => {
                    report_failure(&error.into())
                }
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let context = match Context::new(arguments.quiet) {
        Ok(context) => context,
        Err(error) => return report_failure(&Failure::Operation(error)),
    };
    let result = match arguments.verb {
        Verb::Dissect(arguments) => arguments.run(&context),
        Verb::Audit(arguments) => arguments.run(&context),
        Verb::Verify(arguments) => arguments.run(&context),
        Verb::Policy(arguments) => arguments.run(&context),
        Verb::Pull(arguments) => arguments.run(&context),
        Verb::Attach(arguments) => arguments.run(&context),
        Verb::Detach(arguments) => arguments.run(&context),
        Verb::List(arguments) => arguments.run(),
        Verb::Mount(arguments) => arguments.run(&context),
        Verb::Umount(arguments) => arguments.run(&context),
        Verb::Seal(arguments) => arguments.run(&context),
        Verb::Boot(arguments) => arguments.run(&context),
        Verb::Completion(arguments) => arguments.run(),
    };
    match result {
        Ok(status) => status.into(),
        Err(failure) => report_failure(&failure),
    }
}

/// Says that the words of another front end make no sense, and gives the exit status for that.
pub(crate) fn report_usage(problem: &str) -> ExitCode {
    report_failure(&Failure::Operation(OperationError::Usage(problem.to_owned())))
}

/// What every verb gets.
struct Context {
    observer: Terminal,
    cancel: Cancel,
}

impl Context {
    fn new(quiet: bool) -> Result<Self, OperationError> {
        Ok(Self { observer: Terminal::new(quiet), cancel: Cancel::on_signals()? })
    }
}

/// How a verb ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Done,
    /// Some image could not be read; what was wrong has been said.
    SomeFailed,
    /// Some image is not acceptable; what is wrong has been said.
    NotAcceptable,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Done => DONE,
            Status::SomeFailed => FAILED,
            Status::NotAcceptable => NOT_ACCEPTABLE,
        })
    }
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Operation(#[from] OperationError),
    #[error("writing to standard output")]
    Output(#[from] io::Error),
}

impl From<Interrupted> for Failure {
    fn from(interrupted: Interrupted) -> Self {
        Self::Operation(interrupted.into())
    }
}

/// Says what went wrong, once, with everything that caused it, and gives the exit status.
fn report_failure(failure: &Failure) -> ExitCode {
    match failure {
        // Whoever read our output has had enough: not a failure of ours.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(FAILED),
        Failure::Output(error) => {
            say("error", &format!("{failure}: {error}"));
            ExitCode::from(FAILED)
        }
        Failure::Operation(error) => {
            say("error", &error.with_causes());
            ExitCode::from(exit_status(error))
        }
    }
}

fn exit_status(error: &OperationError) -> u8 {
    match error {
        OperationError::Usage(_) => USAGE,
        OperationError::Interrupted(interrupted) => {
            u8::try_from(interrupted.signal.saturating_add(128)).unwrap_or(FAILED)
        }
        OperationError::Undo { cause, .. } => exit_status(cause),
        _ if error.is_about_the_image() => NOT_ACCEPTABLE,
        _ => FAILED,
    }
}

/// A line for people, on standard error. Text from images cannot move the cursor or colour the terminal.
fn say(kind: &str, text: &str) {
    let mut line = format!("ddictl: {kind}: ");
    for character in text.chars() {
        if is_deceptive(character) && character != '\n' {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    // Nobody is left to tell when standard error is gone.
    let _ = io::stderr().write_all(line.as_bytes());
}
