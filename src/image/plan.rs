//! What is done with an image: the policy applied to the state of every partition, and the plan or the refusal that
//! follows. Everything that can refuse is decided here, before the first device exists.

use std::fmt;

use crate::format::architecture::Architecture;
use crate::format::designator::{Designator, VerityRole};
use crate::format::gpt::Attributes;
use crate::format::superblock::{FileSystem, ForeignKind, Recovery, SuperblockKind};
use crate::format::units::{ByteLength, Extent, PartitionNumber, SectorSize};
use crate::trust::root_hash::AuthenticatedRootHash;

use super::assessment::{Assessed, Assessment};
use super::dissection::{Dissection, Layout, Partition, Standing, TreePlace, VeritySet};
use super::finding::{Finding, Level, Rule};
use super::policy::{
    Found, FoundFileSystem, ImagePolicy, Objection, PolicyRefusal, Protection, RuleOrigin, Use,
};
use super::presets::{RequestedPolicy, RoleDemand, Strictness};
use super::systemd;

/// What a policy says of every partition of an image.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Whether each partition is used, in the order of [`Dissection::partitions`].
    pub uses: Vec<Use>,
    /// Why the image is refused; empty where it is accepted.
    pub refusals: Vec<Finding>,
}

/// Applies a policy.
#[must_use]
pub fn evaluate(dissection: &Dissection, assessment: &Assessment, requested: &RequestedPolicy) -> Evaluation {
    let mut evaluation =
        Evaluation { uses: vec![Use::Unused; dissection.partitions.len()], refusals: Vec::new() };
    // What the policy refuses is reported with whatever else is wrong with it: that is often why it is refused.
    let mut refused = Vec::new();
    let each = || dissection.partitions.iter().zip(&assessment.partitions).enumerate();
    for designator in Designator::ALL {
        let chosen = each().find(|(_, (partition, _))| partition.standing == Standing::Chosen(designator));
        let found = chosen
            .map(|(_, (partition, assessed))| found(partition, assessed, assessment, requested.strictness()));
        match (decide(requested.policy(), designator, found), chosen) {
            (Ok(decision), Some((index, _))) => {
                if let Some(place) = evaluation.uses.get_mut(index) {
                    *place = decision;
                }
            }
            (Ok(_), None) => {}
            (Err(refusal), chosen) => {
                if chosen.is_none() && lies_beside(dissection, designator, &refusal) {
                    continue;
                }
                let number = chosen.and_then(|(_, (partition, _))| partition.number);
                refused.extend(chosen.map(|(index, _)| index));
                let about_its_state = matches!(refusal.objection, Objection::Protection { .. });
                let reasons = chosen
                    .filter(|_| about_its_state)
                    .map(|(_, (partition, _))| why_not_signed(partition, dissection, assessment));
                evaluation.refusals.push(policy_finding(number, &refusal, reasons.unwrap_or_default()));
            }
        }
    }
    leave_companions_of_unused_data(dissection, &mut evaluation.uses);
    refuse_unused_hash_trees(dissection, &mut evaluation);
    let in_question: Vec<bool> = (0..)
        .zip(&evaluation.uses)
        .map(|(index, decision)| *decision == Use::Used || refused.contains(&index))
        .collect();
    let grave = dissection
        .findings
        .iter()
        .chain(&assessment.findings)
        .filter(|finding| finding.level == Level::Error);
    for finding in grave {
        if concerns_any(finding, dissection, &in_question) {
            evaluation.refusals.push(finding.clone());
        }
    }
    if requested.strictness().demands_authentication() {
        demand_verification(dissection, assessment, &mut evaluation);
    }
    if evaluation.refusals.is_empty() {
        evaluation.refusals = roles_not_kept(dissection, &evaluation.uses, requested);
    }
    if systemd::validates(dissection, &assessment.partitions, requested.policy()) {
        evaluation.refusals.iter_mut().for_each(|finding| finding.validates_elsewhere = true);
    }
    evaluation
}

/// The parts of the image that somebody will use by a name and that are not what they must be. Which number a partition
/// has, its maker chooses, and nothing signs it.
fn roles_not_kept(dissection: &Dissection, uses: &[Use], requested: &RequestedPolicy) -> Vec<Finding> {
    let used = |designator: Designator| {
        let mut each = dissection.partitions.iter().zip(uses);
        each.find(|(partition, decision)| {
            partition.standing == Standing::Chosen(designator) && **decision == Use::Used
        })
    };
    let mut findings = Vec::new();
    for demand in requested.demands() {
        let found = used(demand.designator()).map(|(partition, _)| partition);
        let (kept, named) = match demand {
            RoleDemand::Used(_) => (found.is_some(), None),
            RoleDemand::Whole(_) => (found.is_some_and(|partition| partition.number.is_none()), None),
            RoleDemand::Partition(number, _) => {
                (found.is_some_and(|partition| partition.number == Some(*number)), Some(*number))
            }
        };
        if !kept {
            let designator = demand.designator();
            let found = match found.map(|partition| partition.number) {
                None => format!("no {designator} partition to use"),
                Some(None) => "an image without a table".to_owned(),
                Some(Some(number)) => format!("partition {number} as the {designator} partition"),
            };
            findings.push(Finding::of_partition(Rule::PartitionRole, named, demand.to_string(), found));
        }
    }
    findings
}

/// The one state of a partition in the words of the policy.
pub(super) fn found(
    partition: &Partition,
    assessed: &Assessed,
    assessment: &Assessment,
    strictness: Strictness,
) -> Found<'static> {
    // A root hash that is known to be right counts as signed where verification is all that is demanded, and so does
    // what lies in a download that was verified as a whole (design: image policy).
    let authentic =
        assessed.authenticated.is_some() || (partition.number.is_none() && assessment.download_verified);
    let is_companion = partition.designator().is_some_and(|designator| designator.verity_data().is_some());
    let protection = if is_companion {
        // What a hash or signature partition holds is judged as such, and nothing of it is ever exposed.
        Protection::Unprotected
    } else if strictness.demands_authentication() && authentic {
        Protection::Signed
    } else {
        assessed.protection
    };
    Found {
        protection,
        read_only: partition.attributes.read_only(),
        growfs: partition.attributes.growfs(),
        file_system: match partition.superblock().map(|superblock| &superblock.kind) {
            Some(SuperblockKind::FileSystem(file_system)) => {
                FoundFileSystem::Recognised(file_system.as_str())
            }
            Some(SuperblockKind::Luks(_)) if assessed.protection.hides_content() => FoundFileSystem::Hidden,
            _ => FoundFileSystem::Unrecognised,
        },
    }
}

fn decide(
    policy: &ImagePolicy,
    designator: Designator,
    found: Option<Found<'_>>,
) -> Result<Use, PolicyRefusal> {
    policy.rule(designator).decide(found)
}

/// Whether a partition is missing that only follows from the rule for its data, and what would be in it lies in a file
/// beside the image. A rule that names the partition itself wants it.
fn lies_beside(dissection: &Dissection, designator: Designator, refusal: &PolicyRefusal) -> bool {
    let set = designator.verity_data().and_then(|data| dissection.verity_of(data));
    let beside = set.is_some_and(|set| match designator.verity_role() {
        Some(VerityRole::Hash) => set.hash == TreePlace::Beside,
        Some(VerityRole::Signature) => set.signature_beside.is_some(),
        Some(VerityRole::Data) | None => false,
    });
    beside
        && matches!(refusal.objection, Objection::Missing { .. })
        && matches!(refusal.rule.origin(), RuleOrigin::Derived { .. })
}

/// Hash trees and signatures of data that is not used are not used either.
fn leave_companions_of_unused_data(dissection: &Dissection, uses: &mut [Use]) {
    for data in [Designator::Root, Designator::Usr] {
        let position = dissection.partitions.iter().position(|p| p.standing == Standing::Chosen(data));
        let Some(Use::Unused | Use::Absent) = position.and_then(|index| uses.get(index)) else {
            continue;
        };
        for (partition, place) in dissection.partitions.iter().zip(uses.iter_mut()) {
            if partition.designator().and_then(Designator::verity_data) == Some(data) {
                *place = Use::Unused;
            }
        }
    }
}

/// A hash tree that the policy leaves unused protects nothing: data under it must not be used as if it did.
fn refuse_unused_hash_trees(dissection: &Dissection, evaluation: &mut Evaluation) {
    for set in &dissection.verity {
        let use_of = |number: Option<PartitionNumber>| {
            let position = dissection.partitions.iter().position(|p| p.number == number)?;
            evaluation.uses.get(position).copied()
        };
        let Some(hash) = set.hash.partition() else { continue };
        if use_of(set.data) == Some(Use::Used) && use_of(Some(hash)) == Some(Use::Unused) {
            evaluation.refusals.push(Finding::of_partition(
                Rule::PolicyState,
                Some(hash),
                format!("a hash tree that may be used, because the {} partition needs it", set.designator),
                "a rule that leaves it unused",
            ));
        }
    }
}

/// Whether an error is about the image as a whole, about a partition in question, or about a companion of one.
fn concerns_any(finding: &Finding, dissection: &Dissection, in_question: &[bool]) -> bool {
    if matches!(dissection.layout, Layout::Bare) {
        return in_question.contains(&true);
    }
    let Some(number) = finding.partition else {
        return true;
    };
    let group = |partition: &Partition| partition.designator().map(|d| d.verity_data().unwrap_or(d));
    let Some(about) = dissection.partitions.iter().find(|partition| partition.number == Some(number)) else {
        return true;
    };
    dissection.partitions.iter().zip(in_question).any(|(partition, in_question)| {
        *in_question
            && (partition.number == Some(number)
                || (group(about).is_some() && group(partition) == group(about)))
    })
}

/// The demands of `@verified-boot` and `@verified-extension` beyond their text.
fn demand_verification(dissection: &Dissection, assessment: &Assessment, evaluation: &mut Evaluation) {
    let mut anything = false;
    let each = dissection.partitions.iter().zip(&assessment.partitions).zip(&evaluation.uses);
    for ((partition, assessed), _) in each.filter(|(_, decision)| **decision == Use::Used) {
        if !is_exposed(partition) {
            continue;
        }
        let designator = partition.designator();
        anything |= matches!(designator, Some(Designator::Root | Designator::Usr));
        let authentic =
            assessed.authenticated.is_some() || (partition.number.is_none() && assessment.download_verified);
        if !authentic {
            evaluation.refusals.push(Finding::of_partition(
                Rule::ExposedUnauthenticated,
                partition.number,
                "an authenticated root hash",
                assessed.protection.as_str(),
            ));
        }
    }
    if !anything && evaluation.refusals.is_empty() {
        evaluation.refusals.push(Finding::of_image(
            Rule::NoRootOrUsr,
            "a signed root or usr partition",
            "neither",
        ));
    }
}

/// Whether the device for this partition is one that anybody is to mount.
fn is_exposed(partition: &Partition) -> bool {
    let role = partition.designator().and_then(Designator::verity_role);
    partition.designator().is_some() && !matches!(role, Some(VerityRole::Hash | VerityRole::Signature))
}

pub(super) fn policy_finding(
    number: Option<PartitionNumber>,
    refusal: &PolicyRefusal,
    reasons: String,
) -> Finding {
    let rule = match refusal.objection {
        Objection::FileSystem { .. } | Objection::FileSystemUnrecognised { .. } => Rule::PolicyFileSystem,
        Objection::Growfs { .. } | Objection::ReadOnly { .. } => Rule::PolicyAttribute,
        Objection::Missing { .. } => Rule::PolicyAbsent,
        Objection::Protection { .. } | Objection::Unsatisfiable => Rule::PolicyState,
    };
    let expected = format!("{} (rule '{}')", refusal.expected(), refusal.rule_text());
    let found = refusal.found().unwrap_or_else(|| "a rule that nothing can satisfy".to_owned());
    Finding::of_partition(rule, number, expected, format!("{}: {found}{reasons}", refusal.designator()))
}

/// The findings that explain why a partition with a signature is not in state `signed`.
fn why_not_signed(partition: &Partition, dissection: &Dissection, assessment: &Assessment) -> String {
    let Some(set) = partition.designator().and_then(|designator| dissection.verity_of(designator)) else {
        return String::new();
    };
    let about = |finding: &&Finding| {
        finding.partition == set.data
            || set.signatures.iter().any(|(number, _)| finding.partition == Some(*number))
    };
    let reasons: Vec<String> = assessment
        .findings
        .iter()
        .filter(about)
        .map(|f| format!("{} ({})", f.rule.title(), f.found))
        .collect();
    match reasons.is_empty() {
        false => format!(": {}", reasons.join(", ")),
        true if !set.is_signed() => ": nobody signed it".to_owned(),
        true => String::new(),
    }
}

/// The image is refused: every reason, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The policy that was applied, by its name or in its own words.
    pub policy: String,
    /// Why.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused by policy '{}'", self.policy)?;
        for finding in &self.findings {
            write!(f, "\n  {}: {}\n    {}", finding.rule.code(), finding.message(), finding.rule.remedy())?;
        }
        Ok(())
    }
}

/// Which devices will appear, and nothing else will.
#[derive(Debug)]
pub struct ActivationPlan {
    /// The size of the image.
    pub image_size: ByteLength,
    /// The block size that every device has.
    pub sector_size: SectorSize,
    /// The devices, in the order of the table.
    pub devices: Vec<PlannedDevice>,
    /// The policy that was applied, by its name or in its own words.
    pub policy: String,
    /// What is remarkable and does not refuse.
    pub findings: Vec<Finding>,
}

/// What the caller wants to do with the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing is written, whatever the image and the policy would allow.
    ReadOnly,
    /// What the image, the policy and the kind of protection all allow to be written may be written.
    ReadWrite,
}

/// One device to be made.
#[derive(Debug)]
pub struct PlannedDevice {
    /// The table entry; `None` for an image without a table.
    pub number: Option<PartitionNumber>,
    /// What it is for.
    pub designator: Designator,
    /// The bytes of the image that it shows: all of them, and none besides.
    pub extent: Extent,
    /// How it is protected.
    pub protection: Protection,
    /// The file system in it; `None` for an encrypted or unknown one.
    pub file_system: Option<FileSystem>,
    /// The flags of its table entry.
    pub attributes: Attributes,
    /// Whether nobody may write to it. False only where the caller asks for it, nothing is verified, and neither the
    /// partition's attributes nor the policy nor its file system forbid it.
    pub read_only: bool,
    /// Whether its file system is to be grown to the size of the partition before use. Never where it is read-only.
    pub growfs: bool,
    /// Whether the file system needs recovery. Unknown of what is encrypted, too.
    pub recovery: Recovery,
    /// How its contents are verified; `None` where nothing protects them.
    pub verity: Option<PlannedVerity>,
    /// Who signed it.
    pub signer: Option<String>,
}

/// What a device's contents are verified against.
#[derive(Debug)]
pub struct PlannedVerity {
    /// Superblock, shape of the tree, extents and root hash.
    pub set: VeritySet,
    /// The root hash as something to rely on; `None` under a policy that is content with `verity`.
    pub authenticated: Option<AuthenticatedRootHash>,
    /// The partition with the signature that authenticates it, where it lies in one.
    pub signature: Option<PartitionNumber>,
}

impl ActivationPlan {
    /// Plans the devices for an image under a policy on a machine of the `native` architecture, for somebody who wants
    /// `access` to them.
    ///
    /// # Errors
    /// [`Refusal`] with every reason.
    pub fn new(
        dissection: &Dissection,
        assessment: Assessment,
        requested: &RequestedPolicy,
        native: Architecture,
        access: Access,
    ) -> Result<Self, Refusal> {
        let mut evaluation = evaluate(dissection, &assessment, requested);
        for (partition, decision) in dissection.partitions.iter().zip(&evaluation.uses) {
            let runs_here =
                partition.architecture().is_none_or(|a| a == native || native.secondary() == Some(a));
            if *decision == Use::Used && is_exposed(partition) && !runs_here {
                evaluation.refusals.push(Finding::of_partition(
                    Rule::ForeignArchitecture,
                    partition.number,
                    native.as_str(),
                    partition.architecture().map_or("none", Architecture::as_str),
                ));
            }
        }
        let policy = requested.to_string();
        if !evaluation.refusals.is_empty() {
            return Err(Refusal { policy, findings: evaluation.refusals });
        }
        let findings = dissection.findings.iter().chain(&assessment.findings).cloned().collect();
        let each = dissection.partitions.iter().zip(assessment.partitions).zip(&evaluation.uses);
        let devices: Vec<PlannedDevice> = each
            .filter(|((partition, _), decision)| **decision == Use::Used && is_exposed(partition))
            .filter_map(|((partition, assessed), _)| {
                plan_device(dissection, partition, assessed, requested.policy(), access)
            })
            .collect();
        let refusals = refuse_writing_elsewhere(dissection, &devices);
        if !refusals.is_empty() {
            return Err(Refusal { policy, findings: refusals });
        }
        Ok(Self {
            image_size: dissection.image_size,
            sector_size: dissection.sector_size(),
            devices,
            policy,
            findings,
        })
    }
}

fn plan_device(
    dissection: &Dissection,
    partition: &Partition,
    assessed: Assessed,
    policy: &ImagePolicy,
    access: Access,
) -> Option<PlannedDevice> {
    let designator = partition.designator()?;
    let set = dissection.verity_of(designator);
    let read_only = set.is_some() || !may_be_written(partition, &assessed, policy, designator, access);
    Some(PlannedDevice {
        number: partition.number,
        designator,
        extent: set.map_or(partition.extent, |set| set.data_extent),
        protection: assessed.protection,
        file_system: partition.file_system(),
        attributes: partition.attributes,
        read_only,
        recovery: partition.superblock().map_or(Recovery::Unknown, |superblock| superblock.recovery),
        growfs: !read_only && may_grow(partition, policy, designator),
        signer: assessed.signer().map(str::to_owned),
        verity: set.map(|set| PlannedVerity {
            set: set.clone(),
            authenticated: assessed.authenticated,
            signature: assessed.signature,
        }),
    })
}

/// Whether a device may be written to: only where everybody who has a say allows it.
fn may_be_written(
    partition: &Partition,
    assessed: &Assessed,
    policy: &ImagePolicy,
    designator: Designator,
    access: Access,
) -> bool {
    let verified = match assessed.protection {
        Protection::Verity | Protection::Signed => true,
        Protection::Unprotected | Protection::Encrypted | Protection::EncryptedWithIntegrity => false,
    };
    let content_is_read_only = partition.superblocks.iter().any(|superblock| match &superblock.kind {
        SuperblockKind::FileSystem(file_system) => file_system.is_read_only(),
        SuperblockKind::Foreign(kind) => matches!(kind, ForeignKind::Cramfs | ForeignKind::Iso9660),
        _ => false,
    });
    access == Access::ReadWrite
        && !verified
        && assessed.root_hash.is_none()
        && !partition.attributes.read_only()
        && policy.rule(designator).read_only() != Some(true)
        && !content_is_read_only
}

/// Whether the file system of a writable partition is to be grown. An ESP and swap space have nothing that grows
/// (Discoverable Partitions Specification, 'Partition Attribute Flags').
fn may_grow(partition: &Partition, policy: &ImagePolicy, designator: Designator) -> bool {
    partition.attributes.growfs()
        && policy.rule(designator).growfs() != Some(false)
        && !matches!(designator, Designator::Esp | Designator::Swap)
}

/// What a device that may be written to shows must be nobody else's: not the table's, not another partition's, not data
/// or hash tree of a verity set. A table with such partitions is refused long before; a writable device is the one place
/// where a mistake there would reach what was verified, so it is asked again of the very extents that are planned.
fn refuse_writing_elsewhere(dissection: &Dissection, devices: &[PlannedDevice]) -> Vec<Finding> {
    let mut refusals = Vec::new();
    for (index, device) in devices.iter().enumerate().filter(|(_, device)| !device.read_only) {
        let table =
            dissection.table_extents().iter().map(|extent| (*extent, "the partition table".to_owned()));
        let partitions = dissection
            .partitions
            .iter()
            .filter(|partition| partition.number != device.number)
            .map(|partition| (partition.extent, named("partition", partition.number)));
        let verified = dissection.verity.iter().flat_map(|set| {
            let tree =
                set.tree_in_image().map(|extent| (extent, format!("the hash tree of {}", set.designator)));
            let data = (set.data_extent, format!("the verified data of {}", set.designator));
            std::iter::once(data).chain(tree)
        });
        let others = devices
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .map(|(_, other)| (other.extent, format!("the device for {}", other.designator)));
        for (extent, whose) in table.chain(partitions).chain(verified).chain(others) {
            if device.extent.overlaps(extent) {
                refusals.push(Finding::of_partition(
                    Rule::WritableOverlap,
                    device.number,
                    format!("{} for {} alone", device.extent, device.designator),
                    format!("{whose} at {extent}"),
                ));
            }
        }
    }
    refusals
}

fn named(what: &str, number: Option<PartitionNumber>) -> String {
    number.map_or_else(|| what.to_owned(), |number| format!("{what} {number}"))
}
