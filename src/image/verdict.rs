//! What an audit says of an image: one verdict, and all findings with the weight that they have under its policy.

use super::assessment::Assessment;
use super::dissection::Dissection;
use super::finding::{Finding, Level, Rule};
use super::plan::{Evaluation, evaluate};
use super::presets::RequestedPolicy;

/// What an audit comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The policy accepts the image.
    Accept,
    /// The policy, a signature or the contents refuse it.
    Refuse,
    /// The image is not acceptable under any policy.
    Malformed,
    /// No policy was given, and nothing was required of the image.
    NotJudged,
}

impl Verdict {
    /// The word that reports use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Refuse => "refuse",
            Self::Malformed => "malformed",
            Self::NotJudged => "not-judged",
        }
    }

    /// Whether the image must not be used.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Refuse | Self::Malformed)
    }
}

/// An image that was judged.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The verdict: [`Verdict::Malformed`] is none of an image that could be dissected.
    pub verdict: Verdict,
    /// What the policy says; `None` where there is no policy.
    pub evaluation: Option<Evaluation>,
    /// Everything remarkable, gravest first. What refuses an image is of level error; of an image that a policy accepts,
    /// nothing is.
    pub findings: Vec<Finding>,
}

/// Judges an image by a policy, if there is one. `corrupt` is what reading all of its data has found wrong.
#[must_use]
pub fn judge(
    dissection: &Dissection,
    assessment: &Assessment,
    policy: Option<&RequestedPolicy>,
    mut corrupt: Vec<Finding>,
) -> Judged {
    let evaluation = policy.map(|policy| evaluate(dissection, assessment, policy));
    let revoked = assessment.findings.iter().any(|finding| finding.rule == Rule::RootHashRevoked);
    let verdict = match &evaluation {
        _ if !corrupt.is_empty() => Verdict::Refuse,
        // No policy, and so none that would leave it unused.
        None if revoked => Verdict::Refuse,
        None => Verdict::NotJudged,
        Some(evaluation) if evaluation.refusals.is_empty() => Verdict::Accept,
        Some(_) => Verdict::Refuse,
    };
    let mut findings = [dissection.findings.as_slice(), &assessment.findings].concat();
    if let Some(evaluation) = &evaluation {
        findings
            .retain(|finding| !evaluation.refusals.iter().any(|refusal| refusal.says_the_same_as(finding)));
        // What is wrong with a partition that the policy leaves unused does no harm.
        findings.iter_mut().for_each(|finding| finding.level = finding.level.min(Level::Warning));
        findings.extend(evaluation.refusals.iter().cloned());
    }
    findings.append(&mut corrupt);
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.rule, finding.partition));
    Judged { verdict, evaluation, findings }
}
