//! What `systemd-dissect --validate` of systemd 262 makes of a policy that refuses an image here: so that a report can say
//! where another gate would be open.
//!
//! It tests a policy twice, each time against other flags than the state that a partition really has, and any flag in
//! common is enough. Once the table is read, every partition counts as perhaps encrypted and perhaps unused, and as verity or signed
//! where the partitions for that are there; once the file system is known, one without LUKS counts as perhaps verity and perhaps signed.
//! A partition that the policy ignores is not there for anything else. Where neither root nor usr is, the one partition of the
//! type 'Linux generic' is the root, without attributes, and nobody looks into it.
//! What is wrong inside of a partition it does not see, but for a hash tree or a signature that nothing belongs to, and a LUKS
//! header of a size that cannot be.
//! `tests/guest/systemd/dissection.rs` holds this to the real program.

use crate::format::designator::{Designator, VerityRole};
use crate::format::gpt::Attributes;
use crate::format::partition_type::PartitionType;
use crate::format::superblock::{LuksError, SuperblockKind};

use super::assessment::Assessed;
use super::dissection::{Dissection, Layout, Partition, PassedOver, Standing};
use super::policy::{ImagePolicy, PolicyFlags, Protection, Rule};

/// Whether it accepts the image, as far as the policy goes. Only of images with a table that is known.
pub(super) fn validates(dissection: &Dissection, assessed: &[Assessed], policy: &ImagePolicy) -> bool {
    let Some(view) = View::new(dissection, assessed, policy) else { return false };
    Designator::ALL.into_iter().any(|designator| view.found(designator).is_some())
        && view.fits_together()
        && Designator::ALL.into_iter().all(|designator| view.passes(designator))
}

/// What it takes for a designator's partition.
#[derive(Clone, Copy)]
struct Found<'a> {
    partition: &'a Partition,
    protection: Protection,
    /// A root by the type of any Linux file system.
    generic: bool,
}

/// An image and a policy as it sees them.
struct View<'a> {
    dissection: &'a Dissection,
    assessed: &'a [Assessed],
    policy: &'a ImagePolicy,
    generic: Option<&'a Partition>,
}

impl<'a> View<'a> {
    /// `None` where it knows no single root.
    fn new(dissection: &'a Dissection, assessed: &'a [Assessed], policy: &'a ImagePolicy) -> Option<Self> {
        if !matches!(dissection.layout, Layout::Table { .. }) {
            return None;
        }
        let view = Self { dissection, assessed, policy, generic: None };
        if [Designator::Root, Designator::Usr].into_iter().any(|designator| view.found(designator).is_some())
        {
            return Some(view);
        }
        let is_generic = |partition: &&Partition| {
            partition.partition_type == PartitionType::LinuxGeneric
                && !partition.label.is_empty_slot()
                && !partition.attributes.no_auto()
        };
        let mut generic = dissection.partitions.iter().filter(is_generic);
        match (generic.next(), generic.next()) {
            (_, Some(_)) => None,
            (generic, None) => Some(Self { generic, ..view }),
        }
    }

    fn rule(&self, designator: Designator) -> Rule {
        self.policy.rule(designator)
    }

    /// The partition of a designator, whatever the policy makes of it: ours; or one that is left aside here for what it does
    /// not look at, its label or the root hash in a signature.
    fn candidate(&self, designator: Designator) -> Option<Found<'a>> {
        let is_chosen = |partition: &Partition| partition.standing == Standing::Chosen(designator);
        let is_left = |partition: &Partition| {
            let left = Standing::Passed;
            partition.partition_type.designator() == Some(designator)
                && [PassedOver::PartiallyWritten, PassedOver::Pending, PassedOver::OtherSignature]
                    .map(left)
                    .contains(&partition.standing)
        };
        let partitions = &self.dissection.partitions;
        let index = partitions.iter().position(is_chosen).or_else(|| partitions.iter().position(is_left));
        let of = |index: usize| {
            let (partition, protection) = (partitions.get(index)?, self.assessed.get(index)?.protection);
            Some(Found { partition, protection, generic: false })
        };
        let generic = self.generic.filter(|_| designator == Designator::Root);
        let as_root = |partition| Found { partition, protection: Protection::Unprotected, generic: true };
        index.and_then(of).or_else(|| generic.map(as_root))
    }

    /// The same, unless the policy ignores it.
    fn found(&self, designator: Designator) -> Option<Found<'a>> {
        let ignored = self.rule(designator).uses().without(PolicyFlags::IGNORE).is_empty();
        self.candidate(designator).filter(|_| !ignored)
    }

    /// Whether a hash tree has its data, and a signature its hash tree; there is one hash tree, and none of a root beside a
    /// usr; and both are for one architecture.
    fn fits_together(&self) -> bool {
        let has_what_it_needs = |designator: Designator| {
            let needed = match designator.verity_role() {
                Some(VerityRole::Hash) => designator.verity_data(),
                Some(VerityRole::Signature) => designator.verity_data().and_then(Designator::verity_hash),
                Some(VerityRole::Data) | None => None,
            };
            self.found(designator).is_none() || needed.is_none_or(|needed| self.found(needed).is_some())
        };
        let root_tree = self.found(Designator::RootVerity).is_some();
        let usr = self.found(Designator::Usr);
        let architecture = |found: Found<'_>| found.partition.architecture().filter(|_| !found.generic);
        let architectures = (self.found(Designator::Root).and_then(architecture), usr.and_then(architecture));
        let one_architecture = match architectures {
            (Some(root), Some(usr)) => root == usr,
            _ => true,
        };
        Designator::ALL.into_iter().all(has_what_it_needs)
            && !(root_tree && (usr.is_some() || self.found(Designator::UsrVerity).is_some()))
            && one_architecture
    }

    fn passes(&self, designator: Designator) -> bool {
        let rule = self.rule(designator);
        let overlaps = |flags: PolicyFlags| !(rule.uses() & flags).is_empty();
        let Some(found) = self.found(designator) else {
            let flags =
                if self.candidate(designator).is_some() { PolicyFlags::UNUSED } else { PolicyFlags::ABSENT };
            return overlaps(flags);
        };
        let there = |companion: Option<Designator>| companion.and_then(|one| self.found(one)).is_some();
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
        let plain =
            PolicyFlags::UNPROTECTED | PolicyFlags::VERITY | PolicyFlags::SIGNED | PolicyFlags::UNUSED;
        let by_content = match content(found, designator, rule) {
            Content::Unreadable => return false,
            Content::Plain => plain,
            Content::Luks if found.protection == Protection::EncryptedWithIntegrity => {
                PolicyFlags::ENCRYPTED_WITH_INTEGRITY | PolicyFlags::UNUSED
            }
            Content::Luks => PolicyFlags::ENCRYPTED | PolicyFlags::UNUSED,
        };
        let attributes = if found.generic { Attributes::default() } else { found.partition.attributes };
        overlaps(by_table)
            && overlaps(by_content)
            && rule.read_only().is_none_or(|wanted| wanted == attributes.read_only())
            && rule.growfs().is_none_or(|wanted| wanted == attributes.growfs())
    }
}

/// What it finds when it looks into a partition.
enum Content {
    Luks,
    Plain,
    /// It gives up.
    Unreadable,
}

/// It does not look where it knows beforehand what there has to be: by the type of the partition, or by the one file system
/// that the policy names.
fn content(found: Found<'_>, designator: Designator, rule: Rule) -> Content {
    let by_type = matches!(designator, Designator::Esp | Designator::Xbootldr)
        || matches!(designator.verity_role(), Some(VerityRole::Hash | VerityRole::Signature));
    let by_policy = rule.file_systems().is_some_and(|named| named.len() == 1);
    if found.generic || by_type || by_policy {
        return Content::Plain;
    }
    match found.partition.superblock().map(|superblock| &superblock.kind) {
        Some(SuperblockKind::Luks(_)) => Content::Luks,
        Some(SuperblockKind::MalformedLuks(LuksError::HeaderSize { partition, found }))
            if *found <= SMALLEST_LUKS || *found > partition.bytes() =>
        {
            Content::Unreadable
        }
        _ => Content::Plain,
    }
}

/// A LUKS2 header that is no larger than this has no metadata.
const SMALLEST_LUKS: u64 = 4096;
