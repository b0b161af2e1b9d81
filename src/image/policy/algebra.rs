//! Policies as sets: what both allow, and the least that allows what either does.

use super::rule::{STRONGER, extended, with_stronger};
use super::{ImagePolicy, PolicyFlags};
use crate::format::designator::Designator;

/// The two policies leave nothing that satisfies both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("combining policies: no {group} is left for {}", self.place())]
pub struct Disjoint {
    /// The designator for which nothing is left; `None` for the default rule.
    pub designator: Option<Designator>,
    /// The words of which none is left.
    pub group: FlagGroup,
}

/// The groups that the words of a rule fall into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlagGroup {
    /// How a partition may be used.
    Use,
    /// The read-only flag.
    ReadOnly,
    /// The grow-file-system flag.
    Growfs,
    /// The file systems.
    FileSystems,
}

impl Disjoint {
    fn place(&self) -> String {
        self.designator.map_or_else(|| "the default rule".to_owned(), |designator| format!("'{designator}'"))
    }
}

impl std::fmt::Display for FlagGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Use => "use",
            Self::ReadOnly => "read-only flag",
            Self::Growfs => "growfs flag",
            Self::FileSystems => "file system",
        })
    }
}

impl ImagePolicy {
    /// The policy that allows what both allow. Never wider than either; restrictions to file systems are kept.
    ///
    /// # Errors
    /// [`Disjoint`] where no image could satisfy both.
    pub fn intersect(&self, other: &Self) -> Result<Self, Disjoint> {
        self.combine(other, meet)
    }

    /// The tightest policy that allows what either allows. Rules are no products: where one policy allows `verity` with one
    /// flag and the other `encrypted` with another, the union allows each state with each flag.
    ///
    /// # Errors
    /// [`Disjoint`] where nothing satisfies either of the two.
    pub fn union(&self, other: &Self) -> Result<Self, Disjoint> {
        self.combine(other, join)
    }

    /// The same decisions with as few rules as can be.
    #[must_use]
    pub fn simplified(&self) -> Self {
        let mut simplified = self.clone();
        // Hash and signature partitions first: whether theirs are needed depends on those of the file systems.
        let (dependent, rest): (Vec<_>, Vec<_>) =
            Designator::ALL.into_iter().partition(|designator| designator.verity_data().is_some());
        for designator in dependent.into_iter().chain(rest) {
            let mut shorter = simplified.clone();
            if shorter.rules.remove(&designator).is_some() && shorter.is_equivalent(&simplified) {
                simplified = shorter;
            }
        }
        simplified
    }

    fn combine(&self, other: &Self, operation: Operation) -> Result<Self, Disjoint> {
        let [left, right] = [self.default, other.default].map(|flags| with_stronger(extended(flags)));
        let default = operation(left, right).map_err(|group| Disjoint { designator: None, group })?;
        let mut rules = Vec::new();
        for designator in Designator::ALL {
            let (left, right) = (self.rule(designator), other.rule(designator));
            let flags = operation(left.demands(), right.demands())
                .map_err(|group| Disjoint { designator: Some(designator), group })?;
            rules.push((designator, shortest(flags, left.flags() | right.flags())));
        }
        Ok(Self::new(shortest(default, extended(self.default) | extended(other.default)), rules).simplified())
    }
}

type Operation = fn(PolicyFlags, PolicyFlags) -> Result<PolicyFlags, FlagGroup>;

const FLAG_GROUPS: [(FlagGroup, PolicyFlags); 2] =
    [(FlagGroup::ReadOnly, PolicyFlags::READ_ONLY), (FlagGroup::Growfs, PolicyFlags::GROWFS)];

/// What both sets of demands allow.
fn meet(left: PolicyFlags, right: PolicyFlags) -> Result<PolicyFlags, FlagGroup> {
    let mut both = left & right & PolicyFlags::USE;
    if both.is_empty() {
        return Err(FlagGroup::Use);
    }
    if (both & PolicyFlags::PROTECTIONS).is_empty() {
        return Ok(both);
    }
    for (group, flags) in FLAG_GROUPS {
        let common = left & right & flags;
        if common.is_empty() {
            return Err(group);
        }
        both |= common;
    }
    match (left & PolicyFlags::FILE_SYSTEMS, right & PolicyFlags::FILE_SYSTEMS) {
        (PolicyFlags::NONE, named) | (named, PolicyFlags::NONE) => Ok(both | named),
        (left, right) if (left & right).is_empty() => Err(FlagGroup::FileSystems),
        (left, right) => Ok(both | (left & right)),
    }
}

/// The least that allows what either set of demands allows.
fn join(left: PolicyFlags, right: PolicyFlags) -> Result<PolicyFlags, FlagGroup> {
    let uses = (left | right) & PolicyFlags::USE;
    if uses.is_empty() {
        return Err(FlagGroup::Use);
    }
    // Where nothing may be used, nothing is asked of flags and file systems: the other side's demands hold.
    if (left & PolicyFlags::PROTECTIONS).is_empty() {
        return Ok(uses | right);
    }
    if (right & PolicyFlags::PROTECTIONS).is_empty() {
        return Ok(uses | left);
    }
    let (left_named, right_named) = (left & PolicyFlags::FILE_SYSTEMS, right & PolicyFlags::FILE_SYSTEMS);
    let either = (left | right).without(PolicyFlags::FILE_SYSTEMS);
    if left_named.is_empty() || right_named.is_empty() {
        Ok(either)
    } else {
        Ok(either | left_named | right_named)
    }
}

/// The demands as a rule: without what the weaker word stands for anyway, unless one of the policies has it.
fn shortest(demands: PolicyFlags, written: PolicyFlags) -> PolicyFlags {
    STRONGER.into_iter().fold(demands.without_full_groups(), |flags, (weaker, stronger)| {
        if flags.contains(weaker) && !written.contains(stronger) { flags.without(stronger) } else { flags }
    })
}
