//! What a unified kernel image makes a machine boot: whether its command line enforces anything, and what somebody on the
//! network can still do.

pub mod boot_partition;
mod command_line;

use crate::format::pe::PeSection;
use crate::format::units::Extent;

use super::finding::{Finding, Rule, printable};

pub use command_line::{PolicyLookup, lint};

/// The longest command line that is read; a longer one is no kernel's.
pub const MAXIMUM_COMMAND_LINE: u64 = 1 << 20;

/// How many bytes of command lines are judged of a file, or of a boot partition, together: each judgement may be longer than
/// what is judged, and real command lines have some hundred bytes.
pub const MAXIMUM_COMMAND_LINES: u64 = 1 << 20;

/// The finding about more of them.
#[must_use]
pub fn too_many_command_lines() -> Finding {
    let expected = format!("at most {MAXIMUM_COMMAND_LINES} bytes of command lines to judge");
    Finding::of_image(Rule::UkiMalformed, expected, "more")
}

/// One way in which a unified kernel image can be started: it has several where it has profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its number, where there are several.
    pub number: Option<usize>,
    /// Where its command line lies; `None` where it has none.
    pub command_line: Option<Extent>,
}

/// The profiles of a file with these sections (UAPI.5): each begins with a section `.profile`, and has what stands before
/// the first of those as well, unless it has its own.
///
/// # Errors
/// The finding that says why there are none: no kernel and no command line, or two where one counts.
pub fn profiles(sections: &[PeSection]) -> Result<Vec<Profile>, Finding> {
    let malformed = |expected: &str, found: String| Finding::of_image(Rule::UkiMalformed, expected, found);
    let mut base = None;
    let mut profiles: Vec<Option<Extent>> = Vec::new();
    let has = |name: &str| sections.iter().any(|section| section.name == name);
    if !has(".linux") && !has(".cmdline") {
        let names: Vec<&str> = sections.iter().map(|section| section.name.as_str()).collect();
        let found = format!("the sections {}", printable(&names.join(", ")));
        return Err(malformed("a unified kernel image, with a section '.linux'", found));
    }
    for section in sections {
        let place = match section.name.as_str() {
            ".profile" => {
                profiles.push(None);
                continue;
            }
            ".cmdline" => profiles.last_mut().unwrap_or(&mut base),
            _ => continue,
        };
        if place.replace(section.content).is_some() {
            let found = "two: which of them counts depends on who reads it".to_owned();
            return Err(malformed("one section '.cmdline' a profile", found));
        }
        if section.content.length().bytes() > MAXIMUM_COMMAND_LINE {
            let found = format!("{} bytes", section.content.length());
            return Err(malformed("a command line of at most 1 MiB", found));
        }
    }
    if profiles.is_empty() {
        return Ok(vec![Profile { number: None, command_line: base }]);
    }
    let each = profiles.into_iter().enumerate();
    Ok(each.map(|(number, own)| Profile { number: Some(number), command_line: own.or(base) }).collect())
}

/// The finding about a profile without a command line.
#[must_use]
pub fn without_command_line() -> Finding {
    Finding::of_image(
        Rule::UkiWithoutCommandLine,
        "a section '.cmdline'",
        "none: whoever starts it says what is booted, and from where",
    )
}

impl Profile {
    /// A finding about this profile, which says so where there are several.
    #[must_use]
    pub fn finding(&self, mut finding: Finding) -> Finding {
        if let Some(number) = self.number {
            finding.found.push_str(&format!(" (profile {number})"));
        }
        finding
    }
}

#[cfg(test)]
mod tests;
