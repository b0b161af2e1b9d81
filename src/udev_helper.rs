//! The udev helper: `ddictl-udev-helper KERNEL_NAME` prints properties for the rules.
//!
//! It decides nothing but what a device is; the rules carry out. Whatever it cannot find out counts as 'ours and not
//! ready', so that a failure never makes a link.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::operation::describe::{Description, MAXIMUM_LINKS, Ready, describe_loop, describe_mapped};
use crate::operation::error::OperationError;

/// The name under which the program is installed for the rules.
pub const NAME: &str = "ddictl-udev-helper";

/// The links of a device, one a property: as many as any device has.
const LINK_PROPERTIES: [&str; MAXIMUM_LINKS] = ["DDICTL_LINK_1", "DDICTL_LINK_2"];
/// The links that are made in an initrd alone.
const INITRD_LINK_PROPERTIES: [&str; MAXIMUM_LINKS] = ["DDICTL_INITRD_LINK_1", "DDICTL_INITRD_LINK_2"];

/// Runs the helper for the device that the first argument names.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let properties = match arguments.into_iter().next().as_deref().and_then(|name| described(name.to_str()?))
    {
        Some(description) => properties(description),
        None => vec![("DDICTL_STATE", "not-of-interest".to_owned())],
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

/// What the device of this kernel name is; `None` for a name that is neither that of a whole loop device nor that of a
/// device of the device mapper.
fn described(name: &str) -> Option<Result<Description, OperationError>> {
    match number(name, "dm-") {
        Some(minor) => Some(describe_mapped(minor)),
        None => number(name, "loop").map(describe_loop),
    }
}

/// The number in `PREFIXn`.
fn number(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn properties(description: Result<Description, OperationError>) -> Vec<(&'static str, String)> {
    match description {
        Err(error) => not_ready(&error.to_string()),
        Ok(Description::NotReady { why }) => not_ready(&why),
        Ok(Description::Unbound) => vec![("DDICTL_STATE", "unbound".to_owned())],
        Ok(Description::Below) => vec![("DDICTL_STATE", "below".to_owned())],
        Ok(Description::Ready(Ready { designator, whole_disk, protection, file_system, links })) => {
            let mut properties = vec![
                ("DDICTL_STATE", "ready".to_owned()),
                ("DDICTL_DESIGNATOR", designator),
                ("DDICTL_PROTECTION", protection),
            ];
            properties.extend(whole_disk.then(|| ("DDICTL_WHOLE_DISK", "1".to_owned())));
            properties.extend(file_system.map(|file_system| ("DDICTL_FILE_SYSTEM", file_system)));
            // udev makes one link of one property: what separates words in a rule is replaced in what it substitutes.
            properties.extend(LINK_PROPERTIES.into_iter().zip(links.everywhere));
            properties.extend(INITRD_LINK_PROPERTIES.into_iter().zip(links.in_initrd));
            properties
        }
        Ok(Description::Foreign { reference, inode }) => {
            let mut properties = vec![("DDICTL_STATE", "foreign".to_owned())];
            properties.extend(inode.map(|inode| ("DDICTL_FOREIGN_INODE", inode)));
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
    fn only_whole_loop_devices_and_mapped_ones_are_described() {
        assert_eq!(number("loop17", "loop"), Some(17));
        assert_eq!(number("dm-3", "dm-"), Some(3));
        for name in
            ["loop", "loop1p2", "loop-1", "loop+1", "sda", "", "loop99999999999", "dm-", "dm-x", "dm--1"]
        {
            assert!(described(name).is_none(), "{name}");
        }
    }
}
