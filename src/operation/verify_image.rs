//! Verifying an image where it lies: policy, signatures, and every block that a hash tree protects.

use crate::image::finding::{Finding, Level, Rule};
use crate::image::plan::{Refusal, evaluate};
use crate::image::policy::Use;
use crate::image::presets::RequestedPolicy;
use crate::trust::hash_tree::VerifiedData;
use crate::trust::root_hash::AuthenticatedRootHash;

use crate::format::designator::Designator;

use super::cancel::Cancel;
use super::error::OperationError;
use super::examine::examine;
use super::observer::Observer;
use super::source::{ImageFile, ImageSource};
use super::trust_store::TrustStore;
use super::verify::verify_data;

/// A partition of which every protected block agrees with its root hash.
#[derive(Debug)]
pub struct VerifiedPartition {
    /// Root or usr.
    pub designator: Designator,
    /// The proof.
    pub data: VerifiedData,
    /// Who vouches for the root hash; `None` for an image that is not signed and of which no root hash was given: then
    /// the data is only known to be undamaged.
    pub authenticated: Option<AuthenticatedRootHash>,
}

/// Verifies every partition that has a hash tree and that the policy uses.
///
/// A signature that is there and does not hold refuses the image whatever the policy, unless the root hash was given:
/// whoever asks for verification asks for this.
///
/// # Errors
/// [`OperationError::Malformed`], [`OperationError::Refused`], [`OperationError::Integrity`] (also where there is no
/// hash tree at all), or what reading said.
pub fn verify_image(
    image: &ImageFile,
    trust: &TrustStore,
    policy: &RequestedPolicy,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Vec<VerifiedPartition>, OperationError> {
    let examined = examine(image, trust, cancel)?;
    let (dissection, assessment) = (examined.dissection, examined.assessment);
    let evaluation = evaluate(&dissection, &assessment, policy);
    let refused = |findings| OperationError::Refused {
        image: image.name().to_owned(),
        refusal: Box::new(Refusal { policy: policy.to_string(), findings }),
    };
    if !evaluation.refusals.is_empty() {
        return Err(refused(evaluation.refusals));
    }
    let each = dissection.partitions.iter().zip(assessment.partitions).zip(evaluation.uses);
    let mut verified = Vec::new();
    for ((partition, assessed), _) in each.filter(|(_, decision)| *decision == Use::Used) {
        let Some(set) = partition.designator().and_then(|designator| dissection.verity_of(designator)) else {
            continue;
        };
        if partition.number != set.data {
            continue;
        }
        if assessed.authenticated.is_none() && set.is_signed() {
            // One that lies beside the image is spoken of with the data that it would be for.
            let about = |finding: &&Finding| {
                let beside = set.signature_beside.is_some() && finding.partition == set.data;
                beside || set.signatures.iter().any(|(n, _)| finding.partition == Some(*n))
            };
            let findings = assessment.findings.iter().filter(about).cloned();
            return Err(refused(findings.map(|finding| finding.at_least(Level::Error)).collect()));
        }
        let data = verify_data(image, set, observer, cancel)?;
        verified.push(VerifiedPartition {
            designator: set.designator,
            data,
            authenticated: assessed.authenticated,
        });
    }
    if verified.is_empty() {
        let finding = Finding::of_image(Rule::NoHashTree, "a hash tree for root or usr", "none");
        return Err(OperationError::Integrity { image: image.name().to_owned(), finding: Box::new(finding) });
    }
    for finding in dissection.findings.iter().chain(&assessment.findings) {
        observer.warning(&finding.to_string());
    }
    Ok(verified)
}
