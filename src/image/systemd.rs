//! What `systemd-dissect --validate` of systemd 262 makes of a policy that refuses an image here: so that a report can say
//! where another gate would be open.
//!
//! It tests a policy twice, each time against other flags than the state that a partition really has, and any flag in
//! common is enough. Once the table is read, every partition counts as perhaps encrypted and perhaps unused, and as verity or signed
//! where the partitions for that are there; once the file system is known, one without LUKS counts as perhaps verity and perhaps signed.
//! What is wrong inside of a partition it does not see, but for a hash tree or a signature that nothing belongs to.
//! `tests/guest/systemd/dissection.rs` holds this to the real program.

use crate::format::designator::{Designator, VerityRole};
use crate::format::superblock::SuperblockKind;

use super::assessment::Assessed;
use super::dissection::{Dissection, Layout, Partition, Standing};
use super::policy::{ImagePolicy, PolicyFlags, Protection};

/// Whether it accepts the image, as far as the policy goes. Only of images with a table that is known.
pub(super) fn validates(dissection: &Dissection, assessed: &[Assessed], policy: &ImagePolicy) -> bool {
    let uses_it = |designator| {
        let uses = policy.rule(designator).uses();
        chosen(dissection, designator).is_some() && !uses.without(PolicyFlags::IGNORE).is_empty()
    };
    matches!(dissection.layout, Layout::Table { .. })
        && Designator::ALL.into_iter().any(uses_it)
        && Designator::ALL.into_iter().all(|designator| {
            passes(dissection, assessed, policy, designator) && has_what_it_needs(dissection, designator)
        })
}

/// The place of a designator's partition in the dissection.
fn chosen(dissection: &Dissection, designator: Designator) -> Option<usize> {
    let is_chosen = |partition: &Partition| partition.standing == Standing::Chosen(designator);
    dissection.partitions.iter().position(is_chosen)
}

/// Whether a hash tree has its data, and a signature its hash tree.
fn has_what_it_needs(dissection: &Dissection, designator: Designator) -> bool {
    let needed = match designator.verity_role() {
        Some(VerityRole::Hash) => designator.verity_data(),
        Some(VerityRole::Signature) => designator.verity_data().and_then(Designator::verity_hash),
        Some(VerityRole::Data) | None => None,
    };
    chosen(dissection, designator).is_none()
        || needed.is_none_or(|needed| chosen(dissection, needed).is_some())
}

fn passes(
    dissection: &Dissection,
    assessed: &[Assessed],
    policy: &ImagePolicy,
    designator: Designator,
) -> bool {
    let rule = policy.rule(designator);
    let uses = rule.uses();
    let overlaps = |flags: PolicyFlags| !(uses & flags).is_empty();
    let chosen = |designator| chosen(dissection, designator);
    let found = chosen(designator)
        .and_then(|index| Some((dissection.partitions.get(index)?, assessed.get(index)?.protection)));
    let Some((partition, protection)) = found else {
        return overlaps(PolicyFlags::ABSENT);
    };
    if uses.without(PolicyFlags::IGNORE).is_empty() {
        return overlaps(PolicyFlags::UNUSED);
    }
    let there = |companion: Option<Designator>| companion.and_then(chosen).is_some();
    let mut by_table = PolicyFlags::ENCRYPTED
        | PolicyFlags::ENCRYPTED_WITH_INTEGRITY
        | PolicyFlags::UNPROTECTED
        | PolicyFlags::UNUSED;
    if there(designator.verity_hash()) {
        by_table |= PolicyFlags::VERITY;
        if there(designator.verity_signature()) {
            by_table |= PolicyFlags::SIGNED;
        }
    }
    let is_companion = matches!(designator.verity_role(), Some(VerityRole::Hash | VerityRole::Signature));
    let is_luks = partition.superblock().is_some_and(|s| matches!(s.kind, SuperblockKind::Luks(_)));
    let by_content = match protection {
        Protection::EncryptedWithIntegrity if is_luks => {
            PolicyFlags::ENCRYPTED_WITH_INTEGRITY | PolicyFlags::UNUSED
        }
        _ if is_luks && !is_companion => PolicyFlags::ENCRYPTED | PolicyFlags::UNUSED,
        _ => PolicyFlags::UNPROTECTED | PolicyFlags::VERITY | PolicyFlags::SIGNED | PolicyFlags::UNUSED,
    };
    overlaps(by_table)
        && overlaps(by_content)
        && rule.read_only().is_none_or(|wanted| wanted == partition.attributes.read_only())
        && rule.growfs().is_none_or(|wanted| wanted == partition.attributes.growfs())
}
