//! Tools of others: found where the system has them, run to their end or stopped with us.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::kernel::signal::unblock_signals;

use super::cancel::Cancel;
use super::error::OperationError;

/// Tools for file systems live in sbin, which is not on everybody's path: they are taken from where the system has them.
const DIRECTORIES: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
/// How often a running tool is asked whether it has finished; it cannot be waited for together with a signal.
const POLL: Duration = Duration::from_millis(20);

/// Where a tool lies; `None` where it is not installed.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

/// How a tool ended, and what it had to say on both of its streams.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it said, for people.
    pub text: String,
}

/// Runs a tool to its end, without input, or stops it with us.
///
/// # Errors
/// [`OperationError::System`] where it cannot be run, [`OperationError::Interrupted`].
pub(super) fn run(mut command: Command, cancel: &Cancel) -> Result<Ended, OperationError> {
    let program = PathBuf::from(command.get_program());
    let running = |source: io::Error| OperationError::system("running", &program, source);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    unblock_signals(&mut command);
    let mut child = command.spawn().map_err(running)?;
    let streams: (Option<_>, Option<_>) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(|| streams.0.map(read_all).unwrap_or_default());
    let err = std::thread::spawn(|| streams.1.map(read_all).unwrap_or_default());
    let status = wait(&mut child, cancel, &program)?;
    let text = [out.join().unwrap_or_default(), err.join().unwrap_or_default()].concat();
    Ok(Ended { status, text })
}

fn read_all(mut stream: impl Read) -> String {
    /// More than any tool has to say that anybody reads.
    const MAXIMUM_TEXT: u64 = 64 << 10;
    let mut bytes = Vec::new();
    // Text of a tool is for people; what cannot be read is no loss. The rest is read, so that the tool does not stall.
    let _ = stream.by_ref().take(MAXIMUM_TEXT).read_to_end(&mut bytes);
    let _ = io::copy(&mut stream, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a child's end cannot be waited for together with a signal of ours"
)]
fn wait(child: &mut Child, cancel: &Cancel, program: &Path) -> Result<ExitStatus, OperationError> {
    loop {
        let ended =
            child.try_wait().map_err(|source| OperationError::system("waiting for", program, source))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        if let Err(interrupted) = cancel.check() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(interrupted.into());
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::signal::SignalWatch;

    use super::*;

    #[test]
    fn a_tool_has_no_signal_blocked_and_both_of_its_streams_are_heard() {
        // In a thread of its own: the others keep their mask.
        let ended = std::thread::spawn(|| {
            let _watch = SignalWatch::new().unwrap();
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "echo heard >&2; grep SigBlk: /proc/self/status; exit 3"]);
            run(command, &Cancel::never()).unwrap()
        });
        let ended = ended.join().unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(
            ended.text.contains("heard") && ended.text.contains("SigBlk:\t0000000000000000"),
            "{}",
            ended.text
        );
    }
}
