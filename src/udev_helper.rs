//! The udev helper: `ddictl-udev-helper KERNEL_NAME` prints properties for the rules.
//!
//! It decides nothing but what a device is; the rules carry out. Whatever it cannot find out counts as 'ours and not
//! ready', so that a failure never makes a link.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::operation::describe::{Description, MAXIMUM_LINKS, describe};

/// The name under which the program is installed for the rules.
pub const NAME: &str = "ddictl-udev-helper";

/// The links of a device, one a property: as many as any device has.
const LINK_PROPERTIES: [&str; MAXIMUM_LINKS] = ["DDICTL_LINK_1", "DDICTL_LINK_2"];
/// The links that are made in an initrd alone.
const INITRD_LINK_PROPERTIES: [&str; MAXIMUM_LINKS] = ["DDICTL_INITRD_LINK_1", "DDICTL_INITRD_LINK_2"];

/// Runs the helper for the device that the first argument names.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let properties =
        match arguments.into_iter().next().as_deref().and_then(|name| loop_number(name.to_str()?)) {
            Some(number) => properties(number),
            None => vec![("DDICTL_STATE", "not-a-loop-device".to_owned())],
        };
    let mut output = String::new();
    for (key, value) in properties {
        output.push_str(&format!("{key}={value}\n"));
    }
    match io::stdout().write_all(output.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The number in `loopN`.
fn loop_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("loop")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn properties(number: u32) -> Vec<(&'static str, String)> {
    match describe(number) {
        Err(error) => not_ready(&error.to_string()),
        Ok(Description::NotReady { why }) => not_ready(&why),
        Ok(Description::Unbound) => vec![("DDICTL_STATE", "unbound".to_owned())],
        Ok(Description::Ready { designator, protection, links, initrd_links }) => {
            let mut properties = vec![
                ("DDICTL_STATE", "ready".to_owned()),
                ("DDICTL_DESIGNATOR", designator),
                ("DDICTL_PROTECTION", protection),
            ];
            // udev makes one link of one property: what separates words in a rule is replaced in what it substitutes.
            properties.extend(LINK_PROPERTIES.into_iter().zip(links));
            properties.extend(INITRD_LINK_PROPERTIES.into_iter().zip(initrd_links));
            properties
        }
        Ok(Description::Foreign { reference, inode }) => {
            let mut properties =
                vec![("DDICTL_STATE", "foreign".to_owned()), ("DDICTL_FOREIGN_INODE", inode)];
            properties.extend(reference.map(|reference| ("DDICTL_FOREIGN_REFERENCE", reference)));
            properties
        }
    }
}

fn not_ready(why: &str) -> Vec<(&'static str, String)> {
    let why: String = why.chars().map(|c| if c.is_control() || c == '"' { ' ' } else { c }).collect();
    vec![("DDICTL_STATE", "not-ready".to_owned()), ("DDICTL_WHY", why)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_loop_devices_are_described() {
        assert_eq!(loop_number("loop17"), Some(17));
        for name in ["loop", "loop1p2", "loop-1", "loop+1", "sda", "", "loop99999999999"] {
            assert_eq!(loop_number(name), None, "{name}");
        }
    }
}
