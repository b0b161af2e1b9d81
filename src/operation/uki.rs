//! Unified kernel images as they lie in a file or on a server: their command lines, and what those enforce.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::format::pe::{self, PeError, PeSection};
use crate::format::units::{ByteLength, Extent};
use crate::image::finding::{Finding, Rule};
use crate::image::presets::{PolicyArgument, PolicyArgumentError, RequestedPolicy};
use crate::image::uki::{
    MAXIMUM_COMMAND_LINES, lint, profiles, too_many_command_lines, without_command_line,
};
use crate::image::verdict::Verdict;

use super::error::OperationError;
use super::examine::Audited;
use super::policy_store;
use super::source::ImageSource;

/// How much of a program holds its headers, in bytes, unless it says otherwise.
const USUAL_HEADERS: usize = 4096;

/// The policies that have names on this machine. An initrd may have others of the same names.
#[derive(Debug)]
pub(super) struct KnownPolicies(Result<BTreeMap<String, RequestedPolicy>, String>);

impl KnownPolicies {
    /// Reads all of them, so that none has to be read later.
    pub(super) fn load() -> Self {
        let named = |listed: policy_store::ListedPolicy| {
            let name = listed.name.parse().ok()?;
            Some((listed.name, RequestedPolicy::named(name, listed.policy)))
        };
        let listed = policy_store::list().map(|all| all.into_iter().filter_map(named).collect());
        Self(listed.map_err(|error| error.with_causes()))
    }

    fn find(&self, text: &str) -> Result<RequestedPolicy, String> {
        match text.parse() {
            Ok(PolicyArgument::Text(policy)) => Ok(RequestedPolicy::as_written(policy)),
            Ok(PolicyArgument::Named(name)) => {
                let known = self.0.as_ref().map_err(Clone::clone)?;
                let found = known.get(name.as_str()).cloned();
                found.ok_or_else(|| format!("no policy '@{name}' is known on this machine"))
            }
            Err(PolicyArgumentError::Name(error)) => Err(error.to_string()),
            Err(PolicyArgumentError::Text(error)) => Err(error.to_string()),
        }
    }

    /// What is to be said of a file: as of an image, or where it is a PE file and no disk, as of a unified kernel image.
    ///
    /// # Errors
    /// What reading said.
    pub(super) fn look_again(
        &self,
        source: &dyn ImageSource,
        audited: Audited,
    ) -> Result<Audited, OperationError> {
        let is_no_disk = |finding: &Finding| matches!(finding.rule, Rule::NothingRecognised | Rule::MbrTable);
        if audited.verdict != Verdict::Malformed || !audited.findings.iter().any(is_no_disk) {
            return Ok(audited);
        }
        let Some(findings) = self.audit(source)? else { return Ok(audited) };
        let malformed = findings.iter().any(|finding| finding.rule == Rule::UkiMalformed);
        let verdict = if malformed { Verdict::Malformed } else { Verdict::NotJudged };
        Ok(Audited { verdict, examined: None, evaluation: None, findings })
    }

    /// The findings about a unified kernel image, gravest first; `None` where it is no PE file at all.
    fn audit(&self, source: &dyn ImageSource) -> Result<Option<Vec<Finding>>, OperationError> {
        let Some(sections) = sections(source)? else { return Ok(None) };
        let findings = match sections {
            Ok(sections) => self.lint_profiles(source, &sections, &[], &Room::default(), &|_| Vec::new())?,
            Err(error) => vec![no_sane_program(&error)],
        };
        Ok(Some(findings))
    }

    /// The findings about the profiles of a unified kernel image with these sections, gravest first. `addons` are command
    /// lines that are added to its own, `room` says for how many there is room; `further` says what else is remarkable about a
    /// whole one.
    ///
    /// # Errors
    /// What reading said.
    pub(super) fn lint_profiles(
        &self,
        source: &dyn ImageSource,
        sections: &[PeSection],
        addons: &[&[u8]],
        room: &Room,
        further: &dyn Fn(&[u8]) -> Vec<Finding>,
    ) -> Result<Vec<Finding>, OperationError> {
        let profiles = match profiles(sections) {
            Ok(profiles) => profiles,
            Err(finding) => return Ok(vec![finding]),
        };
        let mut findings = Vec::new();
        for profile in profiles {
            let of_profile = match profile.command_line {
                Some(extent) => {
                    if !room.take(addons.iter().fold(extent.length(), longer)) {
                        findings.push(profile.finding(too_many_command_lines()));
                        break;
                    }
                    let mut line = text_of(&read(source, extent)?);
                    for addon in addons {
                        line.push(b' ');
                        line.extend(text_of(addon));
                    }
                    let mut findings = self.lint(&line);
                    findings.extend(further(&line));
                    findings
                }
                None => vec![without_command_line()],
            };
            findings.extend(of_profile.into_iter().map(|finding| profile.finding(finding)));
        }
        findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.rule));
        Ok(findings)
    }

    /// The findings about a kernel command line.
    pub(super) fn lint(&self, line: &[u8]) -> Vec<Finding> {
        lint(line, &|text| self.find(text))
    }
}

/// The finding about a PE file that nobody can start.
pub(super) fn no_sane_program(error: &PeError) -> Finding {
    Finding::of_image(Rule::UkiMalformed, "a sane PE file", error.to_string())
}

/// The sections of a PE file, or why it has none; `None` where it is no PE file at all.
///
/// # Errors
/// What reading said.
pub(super) fn sections(
    source: &dyn ImageSource,
) -> Result<Option<Result<Vec<PeSection>, PeError>>, OperationError> {
    let up_to = |most: usize| {
        let most = ByteLength::new(u64::try_from(most).unwrap_or(u64::MAX));
        read(source, Extent::from_beginning(most.min(source.size())))
    };
    let mut beginning = up_to(USUAL_HEADERS)?;
    let mut sections = pe::sections(&beginning, source.size());
    if beginning.starts_with(b"MZ") && matches!(sections, Err(PeError::Headers | PeError::Signature)) {
        beginning = up_to(pe::MAXIMUM_HEADERS)?;
        sections = pe::sections(&beginning, source.size());
    }
    Ok(pe::is_pe(&beginning).then_some(sections))
}

/// For how many bytes of command lines there is room.
#[derive(Debug)]
pub(super) struct Room(Cell<u64>);

impl Default for Room {
    fn default() -> Self {
        Self(Cell::new(MAXIMUM_COMMAND_LINES))
    }
}

impl Room {
    /// Takes room for one; whether there was enough.
    pub(super) fn take(&self, length: ByteLength) -> bool {
        let left = self.0.get().checked_sub(length.bytes());
        self.0.set(left.unwrap_or_default());
        left.is_some()
    }
}

fn longer(length: ByteLength, addon: &&[u8]) -> ByteLength {
    ByteLength::new(length.bytes().saturating_add(ByteLength::of(addon).bytes()))
}

/// A command line up to its end, which the section that holds it may go beyond.
fn text_of(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// Some bytes of an image or file, of which there may be none.
///
/// # Errors
/// What reading said.
pub(super) fn read(source: &dyn ImageSource, extent: Extent) -> Result<Vec<u8>, OperationError> {
    if extent.is_empty() {
        return Ok(Vec::new());
    }
    Ok(source.read(&[extent])?.into_iter().next().unwrap_or_default())
}
