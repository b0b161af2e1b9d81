//! Policies as sets: what both allow, and the least that allows what either does.

use super::rule::{STRONGER, extended, with_stronger};
use super::{ImagePolicy, PolicyFlags, Rule, RuleOrigin};
use crate::format::designator::Designator;

/// The two policies leave nothing that satisfies both, or either.
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
    /// The policy that allows what both allow: the greatest of those that [`compare`](Self::compare) finds within both.
    /// Restrictions to file systems are kept. Where both cannot agree on a use, what both leave unused stays unused.
    ///
    /// # Errors
    /// [`Disjoint`] where no rule is within both.
    pub fn intersect(&self, other: &Self) -> Result<Self, Disjoint> {
        self.combine(other, meet, |target| target)
    }

    /// The tightest policy that allows what either allows. Rules are no products: where one policy allows `verity` with one
    /// flag and the other `encrypted` with another, the union allows each state with each flag.
    ///
    /// # Errors
    /// [`Disjoint`] where nothing satisfies either of the two.
    pub fn union(&self, other: &Self) -> Result<Self, Disjoint> {
        self.combine(other, join, |target| {
            // No rule that names a partition takes a file in its place, unless it does without both.
            if target.contains(PolicyFlags::BESIDE) { target | PolicyFlags::ABSENT } else { target }
        })
    }

    /// The same decisions with as few rules as can be.
    #[must_use]
    pub fn simplified(&self) -> Self {
        self.simplified_while(Self::is_equivalent)
    }

    fn simplified_while(&self, same: fn(&Self, &Self) -> bool) -> Self {
        let mut simplified = self.clone();
        // Whether hash and signature partitions need rules depends on those of the file systems, and the other way round.
        let (dependent, rest): (Vec<_>, Vec<_>) =
            Designator::ALL.into_iter().partition(|designator| designator.verity_data().is_some());
        for designator in dependent.iter().chain(&rest).chain(&dependent) {
            let mut shorter = simplified.clone();
            if shorter.rules.remove(designator).is_some() && same(&shorter, &simplified) {
                simplified = shorter;
            }
        }
        simplified
    }

    /// Applies the operation to what comes of the rules for each designator, and writes down the result. `named` says what
    /// a rule must have that names a hash or signature partition.
    fn combine(
        &self,
        other: &Self,
        operation: Operation,
        named: fn(PolicyFlags) -> PolicyFlags,
    ) -> Result<Self, Disjoint> {
        let mut targets = Vec::new();
        for designator in Designator::ALL {
            let (left, right) = (self.rule(designator), other.rule(designator));
            let by_default = left.origin() == RuleOrigin::Default && right.origin() == RuleOrigin::Default;
            let effects = operation(left.effects(), right.effects())
                .map_err(|group| Disjoint { designator: (!by_default).then_some(designator), group })?;
            targets.push(Target { designator, effects, written: left.flags() | right.flags() });
        }
        // It shortens the text and decides nothing: there is a rule for every designator that it does not fit.
        let [left, right] = [self.default, other.default].map(|flags| with_stronger(extended(flags)));
        let default = operation(left, right).map_or(PolicyFlags::ABSENT, PolicyFlags::without_full_groups);
        // A weaker word stands for the stronger one too; which of the two texts is the shorter depends on what follows for
        // hash and signature partitions.
        let [kept, dropped] = [true, false].map(|keep| written_down(default, &targets, keep, named));
        let is_shorter = dropped.rules.len() < kept.rules.len() && dropped.has_same_effects(&kept);
        Ok(if is_shorter { dropped } else { kept })
    }
}

type Operation = fn(PolicyFlags, PolicyFlags) -> Result<PolicyFlags, FlagGroup>;

/// What a combined policy is to do with a designator.
struct Target {
    designator: Designator,
    effects: PolicyFlags,
    /// The words of both policies.
    written: PolicyFlags,
}

/// A policy with these effects; `keep` the words for states that satisfy weaker ones of the same rule anyway.
fn written_down(
    default: PolicyFlags,
    targets: &[Target],
    keep: bool,
    named: fn(PolicyFlags) -> PolicyFlags,
) -> ImagePolicy {
    let (dependent, rest): (Vec<_>, Vec<_>) =
        targets.iter().partition(|target| target.designator.verity_data().is_some());
    let rules = rest.into_iter().map(|target| (target.designator, shortest(target, target.effects, keep)));
    let mut policy = ImagePolicy::new(default, rules);
    for target in dependent {
        if policy.rule(target.designator).effects() != target.effects {
            let flags = shortest(target, named(target.effects), keep);
            policy.rules.insert(target.designator, flags);
        }
    }
    policy.simplified_while(ImagePolicy::has_same_effects)
}

const FLAG_GROUPS: [(FlagGroup, PolicyFlags); 2] =
    [(FlagGroup::ReadOnly, PolicyFlags::READ_ONLY), (FlagGroup::Growfs, PolicyFlags::GROWFS)];

/// What is no use of a partition.
const REST: PolicyFlags = PolicyFlags::IGNORE.with(PolicyFlags::BESIDE);

/// What both allow.
fn meet(left: PolicyFlags, right: PolicyFlags) -> Result<PolicyFlags, FlagGroup> {
    let rest = left & right & REST;
    match meet_of_uses(left, right) {
        Ok(used) => Ok(used | rest),
        Err(group) if (rest & PolicyFlags::IGNORE).is_empty() => Err(group),
        Err(_) => Ok(rest),
    }
}

/// The uses that both allow, with flags and file systems; at least one.
fn meet_of_uses(left: PolicyFlags, right: PolicyFlags) -> Result<PolicyFlags, FlagGroup> {
    let mut both = left & right & PolicyFlags::PROTECTIONS;
    if both.is_empty() {
        return Err(FlagGroup::Use);
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

/// The least that allows what either allows.
fn join(left: PolicyFlags, right: PolicyFlags) -> Result<PolicyFlags, FlagGroup> {
    let uses = (left | right) & (PolicyFlags::USE | PolicyFlags::BESIDE);
    if (uses & PolicyFlags::USE).is_empty() {
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

/// Effects as a rule: without what other words of it stand for anyway, unless one of the policies has it.
fn shortest(target: &Target, effects: PolicyFlags, keep: bool) -> PolicyFlags {
    let mut flags = effects.without(PolicyFlags::BESIDE).without_full_groups();
    for (weaker, stronger) in STRONGER {
        if flags.contains(weaker) && !(keep && target.written.contains(stronger)) {
            flags = flags.without(stronger);
        }
    }
    let comes_of = |flags| Rule::explicit(target.designator, flags).effects();
    for (word, is_wanted) in [
        (PolicyFlags::UNUSED, target.written.contains(PolicyFlags::UNUSED)),
        (PolicyFlags::UNPROTECTED, false),
    ] {
        let shorter = flags.without(word);
        let is_a_rule = !(shorter & PolicyFlags::USE).is_empty();
        if !is_wanted && is_a_rule && comes_of(shorter) == comes_of(flags) {
            flags = shorter;
        }
    }
    flags
}
