//! What the library makes of an image in memory: the same steps as the verbs, without a file.

#![allow(dead_code, reason = "every test binary uses another part of this")]
#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ddictl::format::image_class::ImageClass;
use ddictl::format::root_hash::RootHash;
use ddictl::format::trust_rules;
use ddictl::format::units::{ByteLength, ByteOffset, Extent};
use ddictl::image::assessment::{Assessment, Trust, assess};
use ddictl::image::beside::Beside;
use ddictl::image::dissection::Dissection;
use ddictl::image::finding::{Finding, Rule};
use ddictl::image::plan::{Access, ActivationPlan};
use ddictl::image::policy::Protection;
use ddictl::image::presets::{PolicyArgument, Preset, RequestedPolicy};
use ddictl::image::survey::{Malformed, Survey, SurveyOptions};
use ddictl::trust::anchor::{TrustAnchor, TrustAnchors};
use ddictl::trust::revocation::{ImagePurpose, Revocations};

use crate::ddi_builder::native;
use crate::keys::Pair;

/// Rounds of reading that a survey may ask for.
const MAXIMUM_ROUNDS: usize = 12;

/// Whom a test trusts, and for which root hash it asks.
#[derive(Debug)]
pub(crate) struct Judge {
    anchors: TrustAnchors,
    root_hash: Option<RootHash>,
    revocations: Revocations,
    purpose: ImagePurpose,
    beside: Beside,
}

/// What became of an image.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Not acceptable under any policy.
    Malformed(Finding),
    /// Refused, with every reason.
    Refused(Vec<Finding>),
    /// Accepted.
    Planned(ActivationPlan),
}

impl Judge {
    /// Trusts these signers.
    pub(crate) fn trusting(pairs: &[&Pair]) -> Self {
        let anchor = |pair: &&Pair| TrustAnchor::from_pem("test", &pair.certificate_pem()).unwrap();
        let anchors = TrustAnchors::new(pairs.iter().map(anchor).collect());
        Self {
            anchors,
            root_hash: None,
            revocations: Revocations::default(),
            purpose: ImagePurpose::default(),
            beside: Beside::default(),
        }
    }

    /// Knows the root hash of the root partition.
    pub(crate) fn root_hash(mut self, root_hash: Option<RootHash>) -> Self {
        self.root_hash = root_hash;
        self
    }

    /// Holds to what a file of trust.d says.
    pub(crate) fn under(mut self, rules: &str) -> Self {
        self.revocations.add("test.conf", trust_rules::parse(rules).unwrap());
        self
    }

    /// Uses images as this.
    pub(crate) fn using_as(mut self, class: Option<ImageClass>, name: &str) -> Self {
        self.purpose = ImagePurpose { class, name: Some(name.to_owned()) };
        self
    }

    /// Sees these files beside the image.
    pub(crate) fn beside(mut self, beside: Beside) -> Self {
        self.beside = beside;
        self
    }

    fn trust(&self) -> Trust<'_> {
        Trust {
            anchors: &self.anchors,
            root_hash: self.root_hash.as_ref(),
            usr_hash: None,
            revocations: &self.revocations,
            purpose: &self.purpose,
            download: None,
            at: now(),
        }
    }

    /// Surveys and assesses an image.
    pub(crate) fn examine(&self, image: &[u8]) -> Result<(Dissection, Assessment), Malformed> {
        let options = SurveyOptions {
            root_hash: self.root_hash.clone(),
            beside: self.beside.clone(),
            ..SurveyOptions::new(native())
        };
        let dissection = survey(image, options)?;
        let assessment = assess(&dissection, &self.trust());
        Ok((dissection, assessment))
    }

    /// Plans the devices of an image under a policy.
    pub(crate) fn plan(&self, image: &[u8], requested: &RequestedPolicy) -> Outcome {
        self.plan_for(image, requested, Access::ReadOnly)
    }

    /// Plans the devices of an image under a policy for somebody who wants that access.
    pub(crate) fn plan_for(&self, image: &[u8], requested: &RequestedPolicy, access: Access) -> Outcome {
        let (dissection, assessment) = match self.examine(image) {
            Ok(examined) => examined,
            Err(Malformed { finding }) => return Outcome::Malformed(finding),
        };
        match ActivationPlan::new(&dissection, assessment, requested, native(), access) {
            Ok(plan) => Outcome::Planned(plan),
            Err(refusal) => Outcome::Refused(refusal.findings),
        }
    }

    /// What is found of an image beside its contents, each by its rule.
    pub(crate) fn findings(&self, image: &[u8]) -> Vec<Finding> {
        let (dissection, assessment) = self.examine(image).unwrap();
        [dissection.findings, assessment.findings].concat()
    }

    /// The state of the partition of that number.
    pub(crate) fn protection(&self, image: &[u8], number: u32) -> Protection {
        let (dissection, assessment) = self.examine(image).unwrap();
        let each = dissection.partitions.iter().zip(&assessment.partitions);
        each.filter(|(partition, _)| partition.number.is_some_and(|found| found.get() == number))
            .map(|(_, assessed)| assessed.protection)
            .next()
            .unwrap()
    }
}

impl Outcome {
    /// The finding of that rule, where it is a reason for not accepting the image.
    pub(crate) fn reason(&self, rule: Rule) -> Option<&Finding> {
        self.reasons().iter().find(|finding| finding.rule == rule)
    }

    /// Every reason for not accepting the image.
    pub(crate) fn reasons(&self) -> &[Finding] {
        match self {
            Self::Malformed(finding) => std::slice::from_ref(finding),
            Self::Refused(findings) => findings,
            Self::Planned(_) => &[],
        }
    }

    /// The plan of an image that must be accepted.
    pub(crate) fn accepted(self) -> ActivationPlan {
        match self {
            Self::Planned(plan) => plan,
            other => panic!("expected a plan, found {other:?}"),
        }
    }
}

/// Dissects an image in memory.
pub(crate) fn survey(image: &[u8], options: SurveyOptions) -> Result<Dissection, Malformed> {
    let mut survey = Survey::new(ByteLength::of(image), options);
    for _ in 0..MAXIMUM_ROUNDS {
        let wanted = survey.wanted();
        if wanted.is_empty() {
            break;
        }
        for extent in wanted {
            survey.feed(extent.start(), bytes(image, extent));
        }
    }
    survey.finish()
}

fn bytes(image: &[u8], extent: Extent) -> &[u8] {
    let position = |offset: ByteOffset| usize::try_from(offset.bytes()).unwrap();
    &image[position(extent.start())..position(extent.end())]
}

/// A policy by its text, or a preset by its name behind an `@`.
pub(crate) fn policy(text: &str) -> RequestedPolicy {
    match text.parse().unwrap() {
        PolicyArgument::Text(policy) => RequestedPolicy::as_written(policy),
        PolicyArgument::Named(name) => {
            let file = Preset::find(&name).unwrap().file().unwrap();
            RequestedPolicy::named(name, file.policy)
        }
    }
}

/// The time of all tests: 2026-06-01, within the validity of the certificates that the tests make.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}
