//! Which partition is the one for its designator: labels, attributes, architecture, version.

use std::cmp::Ordering;

use crate::format::architecture::Architecture;
use crate::format::designator::{Designator, VerityRole};
use crate::format::root_hash::RootHash;

use super::dissection::{Dissection, Partition, PassedOver, Standing};
use super::finding::{Finding, Rule};
use super::survey::SurveyOptions;

/// Sets the standing of every partition but the hash and signature ones, which follow the data partition (see
/// [`super::pairing`]): those are only set aside here where their label or attributes say so.
pub(super) fn choose(dissection: &mut Dissection, options: &SurveyOptions) {
    for partition in &mut dissection.partitions {
        if let Some(reason) = set_aside(partition) {
            partition.standing = Standing::Passed(reason);
        } else if let Some(designator) = partition.partition_type.designator() {
            partition.standing = Standing::Chosen(designator);
        }
    }
    for designator in Designator::ALL {
        if matches!(designator.verity_role(), Some(VerityRole::Hash | VerityRole::Signature)) {
            continue;
        }
        if let Some(wanted) = options.wanted(designator) {
            pass_over_other_root_hashes(dissection, designator, wanted.root_hash);
        }
        keep_the_best(dissection, designator, options.architecture);
    }
}

/// Why a partition takes no part at all; `None` where it does.
fn set_aside(partition: &Partition) -> Option<PassedOver> {
    let Some(designator) = partition.partition_type.designator() else {
        return Some(PassedOver::NoDesignator);
    };
    if partition.label.is_empty_slot() {
        return Some(PassedOver::Empty);
    }
    if partition.label.is_partial() {
        return Some(PassedOver::PartiallyWritten);
    }
    if partition.label.is_pending() {
        return Some(PassedOver::Pending);
    }
    let hidden = match designator {
        Designator::Esp => partition.attributes.no_block_io(),
        _ => partition.attributes.no_auto(),
    };
    hidden.then_some(PassedOver::NoAuto)
}

/// A root hash that was given or proposed decides which data partition is meant, before version and architecture do.
fn pass_over_other_root_hashes(dissection: &mut Dissection, designator: Designator, wanted: &RootHash) {
    let expected = wanted.data_partition_uuid();
    let candidates: Vec<usize> = indices(dissection, designator);
    let belongs = |partition: &Partition| partition.uuid == Some(expected);
    if candidates.iter().filter_map(|index| dissection.partitions.get(*index)).any(belongs) {
        for partition in &mut dissection.partitions {
            if partition.standing == Standing::Chosen(designator) && !belongs(partition) {
                partition.standing = Standing::Passed(PassedOver::OtherRootHash);
            }
        }
    }
}

/// Leaves one partition chosen for `designator` and says by which one the others were beaten.
pub(super) fn keep_the_best(dissection: &mut Dissection, designator: Designator, native: Architecture) {
    let candidates = indices(dissection, designator);
    let partitions = &dissection.partitions;
    let best = candidates.iter().copied().filter_map(|index| Some((index, partitions.get(index)?))).reduce(
        |best, next| {
            if compare(next.1, best.1, designator, native) == Ordering::Greater { next } else { best }
        },
    );
    let Some((best, Some(number), rank)) =
        best.map(|(index, partition)| (index, partition.number, architecture_rank(partition, native)))
    else {
        return;
    };
    let mut beaten = Vec::new();
    for index in candidates.into_iter().filter(|index| *index != best) {
        let Some(partition) = dissection.partitions.get_mut(index) else { continue };
        let reason = if architecture_rank(partition, native) == rank {
            PassedOver::Version(number)
        } else {
            PassedOver::Architecture(number)
        };
        partition.standing = Standing::Passed(reason);
        beaten.extend(partition.number);
    }
    if let Some(first) = beaten.first() {
        let others = beaten.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        dissection.findings.push(Finding::of_partition(
            Rule::SeveralCandidates,
            Some(*first),
            format!("one {designator} partition"),
            format!("partition {number} is used, and {others} could be taken for it"),
        ));
    }
}

/// The places of the partitions that are still candidates for `designator`, in the order of the table.
pub(super) fn indices(dissection: &Dissection, designator: Designator) -> Vec<usize> {
    let chosen = |(index, partition): (usize, &Partition)| {
        (partition.standing == Standing::Chosen(designator)).then_some(index)
    };
    dissection.partitions.iter().enumerate().filter_map(chosen).collect()
}

/// Which of two candidates is better; equal ones are decided by their order in the table.
fn compare(a: &Partition, b: &Partition, designator: Designator, native: Architecture) -> Ordering {
    let architecture = architecture_rank(b, native).cmp(&architecture_rank(a, native));
    architecture.then_with(|| {
        if designator.is_versioned() { a.label.compare_version(&b.label) } else { Ordering::Equal }
    })
}

/// 0 for this machine's architecture or for none at all, 1 for one that this machine runs as well, 2 for any other.
fn architecture_rank(partition: &Partition, native: Architecture) -> u8 {
    match partition.architecture() {
        None => 0,
        Some(architecture) if architecture == native => 0,
        Some(architecture) if native.secondary() == Some(architecture) => 1,
        Some(_) => 2,
    }
}
