//! Unified kernel images as they lie in a file or on a server: their command lines, and what those enforce.

use std::collections::BTreeMap;

use crate::format::pe;
use crate::format::units::{ByteLength, Extent};
use crate::image::finding::{Finding, Rule};
use crate::image::presets::{PolicyArgument, PolicyArgumentError, RequestedPolicy};
use crate::image::uki::{lint, profiles, without_command_line};
use crate::image::verdict::Verdict;

use super::error::OperationError;
use super::examine::Audited;
use super::policy_store;
use super::source::ImageSource;

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
        let most = ByteLength::new(u64::try_from(pe::MAXIMUM_HEADERS).unwrap_or(u64::MAX));
        let beginning = read(source, Extent::from_beginning(most.min(source.size())))?;
        if !pe::is_pe(&beginning) {
            return Ok(None);
        }
        let profiles = match pe::sections(&beginning, source.size()) {
            Ok(sections) => profiles(&sections),
            Err(error) => Err(Finding::of_image(Rule::UkiMalformed, "a sane PE file", error.to_string())),
        };
        let profiles = match profiles {
            Ok(profiles) => profiles,
            Err(finding) => return Ok(Some(vec![finding])),
        };
        let mut findings = Vec::new();
        for profile in profiles {
            let of_profile = match profile.command_line {
                Some(extent) => lint(&read(source, extent)?, &|text| self.find(text)),
                None => vec![without_command_line()],
            };
            findings.extend(of_profile.into_iter().map(|finding| profile.finding(finding)));
        }
        findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.rule));
        Ok(Some(findings))
    }
}

fn read(source: &dyn ImageSource, extent: Extent) -> Result<Vec<u8>, OperationError> {
    if extent.is_empty() {
        return Ok(Vec::new());
    }
    Ok(source.read(&[extent])?.into_iter().next().unwrap_or_default())
}
