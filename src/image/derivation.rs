//! The tightest policy that an image satisfies.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::designator::{Designator, VerityRole};
use crate::format::units::PartitionNumber;

use super::assessment::Assessment;
use super::dissection::{Dissection, Standing};
use super::finding::Finding;
use super::plan::{evaluate, found};
use super::policy::{Found, FoundFileSystem, ImagePolicy, PolicyFlags, Protection, Rule, Use};
use super::presets::{RequestedPolicy, Strictness};

/// A policy that was derived from an image, and what is to be known of it.
#[derive(Debug, Clone)]
pub struct Derivation {
    /// The policy.
    pub policy: ImagePolicy,
    /// The partitions that it names, in order.
    pub partitions: Vec<DerivedPartition>,
    /// What the policy cannot say, or says and better would not.
    pub notes: Vec<String>,
}

/// What a derived policy says of a partition that the image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DerivedPartition {
    /// Its number; `None` in an image without a table.
    pub number: Option<PartitionNumber>,
    /// The rule that holds for it.
    pub rule: Rule,
    /// Whether the policy uses it.
    pub decision: Use,
}

/// The tightest policy that the image satisfies: each partition is used in the state, with the flags and the file system
/// that it has, and nothing else may be there. Nothing that is [stricter](ImagePolicy::compare) accepts the image.
///
/// Partitions with errors, which no policy accepts in use, are left unused. What is locked has no file system to be named
/// yet.
///
/// # Errors
/// Why no policy accepts the image.
pub fn derive(dissection: &Dissection, assessment: &Assessment) -> Result<Derivation, Vec<Finding>> {
    let mut left_unused = BTreeSet::new();
    let mut reasons = Vec::new();
    loop {
        let policy = exact(dissection, assessment, &left_unused);
        let evaluation = evaluate(dissection, assessment, &RequestedPolicy::as_written(policy.clone()));
        if evaluation.refusals.is_empty() {
            let each = dissection.partitions.iter().zip(&evaluation.uses);
            let partitions = each
                .filter_map(|(partition, decision)| match partition.standing {
                    Standing::Chosen(designator) => Some(DerivedPartition {
                        number: partition.number,
                        rule: policy.rule(designator),
                        decision: *decision,
                    }),
                    Standing::Passed(_) => None,
                })
                .collect();
            return Ok(Derivation {
                policy,
                partitions,
                notes: notes(dissection, assessment, &left_unused, &reasons),
            });
        }
        let faulty: BTreeSet<_> = evaluation
            .refusals
            .iter()
            .filter_map(|finding| group_of(dissection, finding.partition))
            .filter(|group| !left_unused.contains(group))
            .collect();
        if faulty.is_empty() {
            return Err(evaluation.refusals);
        }
        left_unused.extend(faulty);
        reasons.extend(evaluation.refusals);
    }
}

/// What a partition belongs to: the designator of its data. In an image without a table its one partition has no number.
fn group_of(dissection: &Dissection, number: Option<PartitionNumber>) -> Option<Designator> {
    let partition = dissection.partitions.iter().find(|partition| partition.number == number)?;
    partition.designator().map(|designator| designator.verity_data().unwrap_or(designator))
}

/// The policy that uses every chosen partition as it is, but for those of some groups.
fn exact(
    dissection: &Dissection,
    assessment: &Assessment,
    left_unused: &BTreeSet<Designator>,
) -> ImagePolicy {
    let mut rules: BTreeMap<_, _> = BTreeMap::new();
    for (partition, assessed) in dissection.partitions.iter().zip(&assessment.partitions) {
        let Standing::Chosen(designator) = partition.standing else { continue };
        let group = designator.verity_data().unwrap_or(designator);
        let flags = if left_unused.contains(&group) {
            PolicyFlags::UNUSED
        } else {
            words(&found(partition, assessed, assessment, Strictness::AsWritten))
        };
        rules.insert(designator, flags);
    }
    // What follows from the rule for the data must not ask for what is not there.
    let companions = Designator::ALL.into_iter().filter(|designator| designator.verity_data().is_some());
    for designator in companions {
        rules.entry(designator).or_insert(PolicyFlags::ABSENT);
    }
    ImagePolicy::new(PolicyFlags::ABSENT, rules).simplified()
}

/// The words that a partition satisfies and as little else as can be.
fn words(found: &Found<'_>) -> PolicyFlags {
    let read_only = if found.read_only { PolicyFlags::READ_ONLY_ON } else { PolicyFlags::READ_ONLY_OFF };
    let growfs = if found.growfs { PolicyFlags::GROWFS_ON } else { PolicyFlags::GROWFS_OFF };
    let file_system = match found.file_system {
        FoundFileSystem::Recognised(name) => PolicyFlags::of_word(name).unwrap_or(PolicyFlags::NONE),
        FoundFileSystem::Hidden | FoundFileSystem::Unrecognised => PolicyFlags::NONE,
    };
    found.protection.flag() | read_only | growfs | file_system
}

fn notes(
    dissection: &Dissection,
    assessment: &Assessment,
    left_unused: &BTreeSet<Designator>,
    reasons: &[Finding],
) -> Vec<String> {
    let mut notes = Vec::new();
    for (partition, assessed) in dissection.partitions.iter().zip(&assessment.partitions) {
        let Standing::Chosen(designator) = partition.standing else { continue };
        let is_data = designator.verity_role() == Some(VerityRole::Data);
        if left_unused.contains(&designator) {
            let of_group = |finding: &&Finding| group_of(dissection, finding.partition) == Some(designator);
            let why: Vec<_> = reasons.iter().filter(of_group).map(Finding::message).collect();
            notes.push(format!("{designator} is left unused, as no policy accepts it: {}", why.join("; ")));
        } else if assessed.protection == Protection::Verity && assessed.authenticated.is_some() {
            notes.push(format!(
                "the root hash of {designator} is authenticated by what the caller knows, which no word of a policy says: \
                 the policy accepts any image with a hash tree; '@verified-boot' with the root hash accepts this one alone"
            ));
        } else if assessed.protection == Protection::Verity {
            notes.push(format!(
                "nobody vouches for the root hash of {designator}: the policy accepts any image with a hash tree"
            ));
        } else if assessed.protection == Protection::Unprotected && is_data {
            notes.push(format!("nothing protects {designator}: the policy accepts any content"));
        } else if assessed.protection.hides_content() {
            notes.push(format!("{designator} is locked: the policy cannot name its file system"));
        }
    }
    notes
}
