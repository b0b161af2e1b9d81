//! Which process in which boot: so that a record can tell whether its maker still lives.

use std::fs;
use std::io;

use nix::libc;

/// When process `pid` was started, in clock ticks since boot: together with the number, a process that is never
/// another one in the same boot. `None` where there is no such process, or where it has ended and only its parent has
/// not taken notice yet.
///
/// # Errors
/// The error of reading `/proc`; [`io::ErrorKind::InvalidData`] where it does not read as proc(5) says.
pub fn process_start_time(pid: u32) -> io::Result<Option<u64>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(line) if has_ended(&line) => Ok(None),
        Ok(line) => start_time_of(&line).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The identifier of this boot, a UUID in text form: what is in memory does not outlive it.
///
/// # Errors
/// The error of reading `/proc`.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim_ascii().to_owned())
}

/// Field 22 of `/proc/PID/stat` (proc(5)). Field 2 is the command's name in parentheses and may hold blanks and
/// parentheses itself: the fields are counted from the last one that closes.
fn start_time_of(line: &[u8]) -> Option<u64> {
    fields_behind_name(line)?.nth(22 - 3)?.parse().ok()
}

/// Field 3: a zombie, or dead.
fn has_ended(line: &[u8]) -> bool {
    fields_behind_name(line)
        .and_then(|mut fields| fields.next())
        .is_some_and(|state| matches!(state, "Z" | "X" | "x"))
}

fn fields_behind_name(line: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let behind = str::from_utf8(line.get(close.checked_add(1)?..)?).ok()?;
    Some(behind.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let line = b"7 (a) R 1 (b) S 1 7 7 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 4711 1 1\n";
        assert_eq!(start_time_of(line), Some(4711));
    }

    #[test]
    fn a_line_that_is_cut_off_has_no_start_time() {
        for line in
            [&b""[..], b"7 (a", b"7 (a)", b"7 (a) S 1 7", b"7 (a) S 1 7 7 0 -1 4 1 0 0 0 1 1 0 0 20 0 1 0 x"]
        {
            assert_eq!(start_time_of(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_process_that_ended_unnoticed_does_not_live() {
        assert!(has_ended(b"7 (a) Z 1 7 7 0"));
        assert!(!has_ended(b"7 (Z) S 1 7 7 0"));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while process_start_time(ended.id()).unwrap().is_some() {
            assert!(std::time::Instant::now() < deadline);
            crate::kernel::pause(std::time::Duration::from_millis(1));
        }
        assert!(ended.wait().unwrap().success());
    }

    #[test]
    fn this_process_lives_and_one_without_a_number_does_not() {
        assert!(process_start_time(std::process::id()).unwrap().unwrap() > 0);
        assert_eq!(process_start_time(u32::MAX).unwrap(), None);
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
