//! Looking at an image without touching it: dissection, assessment, audit.

use std::time::SystemTime;

use crate::format::architecture::Architecture;
use crate::image::assessment::{Assessment, assess};
use crate::image::dissection::Dissection;
use crate::image::finding::{Finding, Level};
use crate::image::ignored::IgnoreList;
use crate::image::plan::Evaluation;
use crate::image::presets::RequestedPolicy;
use crate::image::survey::{Malformed, SurveyOptions};
use crate::image::verdict::{Judged, Verdict, judge};

use super::cancel::Cancel;
use super::error::OperationError;
use super::observer::Observer;
use super::source::{ImageFile, ImageSource, survey};
use super::trust_store::TrustStore;
use super::verify::verify_data;

/// An image as it is: what is in it and how that is protected.
#[derive(Debug)]
pub struct Examined {
    /// What is in it.
    pub dissection: Dissection,
    /// How it is protected.
    pub assessment: Assessment,
}

/// The architecture of this machine, whose partitions are preferred.
///
/// # Errors
/// [`OperationError::State`] on an architecture that the Discoverable Partitions Specification does not know.
pub fn native_architecture() -> Result<Architecture, OperationError> {
    Architecture::native().ok_or_else(|| {
        let problem = "the Discoverable Partitions Specification has no partition types for it";
        OperationError::state("choosing partitions for", "this architecture", problem)
    })
}

/// What a survey is told of the caller's trust, and of what lies beside the image.
///
/// # Errors
/// As [`native_architecture`]; [`OperationError::System`] where what lies beside the image cannot be read.
pub fn survey_options(trust: &TrustStore, source: &dyn ImageSource) -> Result<SurveyOptions, OperationError> {
    Ok(SurveyOptions {
        beside: source.companions().beside()?,
        root_hash: trust.settings().root_hash.clone(),
        usr_hash: trust.settings().usr_hash.clone(),
        ..SurveyOptions::new(native_architecture()?)
    })
}

/// Looks at an image.
///
/// # Errors
/// [`OperationError::Malformed`], or what reading said.
pub fn examine(
    source: &dyn ImageSource,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Result<Examined, OperationError> {
    let dissection = survey(source, survey_options(trust, source)?, cancel)?;
    let trust = trust.for_file(None, source.name());
    let assessment = assess(&dissection, &trust.trust());
    Ok(Examined { dissection, assessment })
}

/// What an audit found.
#[derive(Debug)]
pub struct Audited {
    /// The verdict.
    pub verdict: Verdict,
    /// The image; `None` where it is malformed.
    pub examined: Option<Examined>,
    /// What the policy says; `None` where there is no policy, or where the image is malformed.
    pub evaluation: Option<Evaluation>,
    /// Everything remarkable, gravest first.
    pub findings: Vec<Finding>,
}

/// Judges an image by a policy, if there is one, and checks every data block of it in `deep`, where that is given: the
/// same image as a file.
///
/// # Errors
/// What reading said. What is wrong with the image itself is part of the result.
pub fn audit(
    image: &dyn ImageSource,
    trust: &TrustStore,
    policy: Option<&RequestedPolicy>,
    deep: Option<&ImageFile>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Audited, OperationError> {
    let examined = match examine(image, trust, cancel) {
        Ok(examined) => examined,
        Err(OperationError::Malformed { source: Malformed { finding }, .. }) => {
            let verdict = Verdict::Malformed;
            return Ok(Audited { verdict, examined: None, evaluation: None, findings: vec![finding] });
        }
        Err(error) => return Err(error),
    };
    let mut corrupt = Vec::new();
    if let Some(file) = deep {
        for set in &examined.dissection.verity {
            match verify_data(file, set, observer, cancel) {
                Ok(_) => {}
                Err(OperationError::Integrity { finding, .. }) => corrupt.push(*finding),
                Err(error) => return Err(error),
            }
        }
    }
    let Judged { verdict, evaluation, findings } =
        judge(&examined.dissection, &examined.assessment, policy, corrupt);
    Ok(Audited { verdict, examined: Some(examined), evaluation, findings })
}

impl Audited {
    /// Marks the findings that are to be ignored at this time, but for those that refuse the image. `image` is what the
    /// report calls it. Returns what whoever wrote the list should hear.
    pub fn ignore(&mut self, image: &str, list: &mut IgnoreList, at: SystemTime) -> Vec<String> {
        let refused = self.verdict.is_refusal();
        // Of a refused image, what does not refuse it is a warning at most.
        let refuses = |finding: &Finding| refused && finding.level == Level::Error;
        list.apply(image, &mut self.findings, refuses, at)
    }

    /// Whether something at least as grave as `level` was found that counts.
    #[must_use]
    pub fn has(&self, level: Level) -> bool {
        self.findings.iter().any(|finding| finding.level >= level && finding.ignored.is_none())
    }
}
