//! Policies in an order: which of two allows no more than the other.

use std::fmt;

use super::rule::possible;
use super::{Found, FoundFileSystem, ImagePolicy, PolicyFlags, Protection};
use crate::format::designator::Designator;

/// How one policy, or what it says of one designator, stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// Both do the same with every partition.
    Equal,
    /// The first never does more than the second, and sometimes less.
    Stricter,
    /// The second never does more than the first, and sometimes less.
    Looser,
    /// Each does more than the other somewhere.
    Incomparable,
}

impl Relation {
    /// The relation of something of which the first is within the second, or the second within the first, or both.
    #[must_use]
    pub const fn of(within: bool, around: bool) -> Self {
        match (within, around) {
            (true, true) => Self::Equal,
            (true, false) => Self::Stricter,
            (false, true) => Self::Looser,
            (false, false) => Self::Incomparable,
        }
    }

    /// Whether the first never does more than the second.
    #[must_use]
    pub const fn is_within(self) -> bool {
        matches!(self, Self::Equal | Self::Stricter)
    }

    /// Whether the second never does more than the first.
    #[must_use]
    pub const fn is_around(self) -> bool {
        matches!(self, Self::Equal | Self::Looser)
    }

    /// The relation of the whole, of which this and `other` are parts.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self::of(self.is_within() && other.is_within(), self.is_around() && other.is_around())
    }

    /// The word for it: `equal`, `stricter`, `looser` or `incomparable`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Stricter => "stricter",
            Self::Looser => "looser",
            Self::Incomparable => "incomparable",
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl ImagePolicy {
    /// How this policy stands to another one.
    ///
    /// A partition that is used is more than one that is there and unused, which is more than a refusal; that something
    /// may be absent is more than that it may not. A policy is stricter if it does more nowhere and less somewhere. Whether
    /// a signature partition counts as used makes no difference: it is never exposed, and verified in any case.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Relation {
        Designator::ALL
            .into_iter()
            .map(|designator| self.compare_for(other, designator))
            .fold(Relation::Equal, Relation::and)
    }

    /// How what this policy says of a designator stands to what another one says of it.
    #[must_use]
    pub fn compare_for(&self, other: &Self, designator: Designator) -> Relation {
        let [left, right] = [self, other].map(|policy| policy.rule(designator).effects());
        Relation::of(is_within(left, right), is_within(right, left))
    }

    pub(super) fn has_same_effects(&self, other: &Self) -> bool {
        self.compare(other) == Relation::Equal
    }
}

/// Whether a rule with the effects `tight` never does more than one with the effects `wide`.
fn is_within(tight: PolicyFlags, wide: PolicyFlags) -> bool {
    let [tight_named, wide_named] = [tight, wide].map(|effects| effects & PolicyFlags::FILE_SYSTEMS);
    let file_systems = wide_named.is_empty() || (!tight_named.is_empty() && wide_named.contains(tight_named));
    let uses_nothing = (tight & PolicyFlags::PROTECTIONS).is_empty();
    wide.contains(tight.without(PolicyFlags::FILE_SYSTEMS)) && (file_systems || uses_nothing)
}

/// Everything that rules can tell apart and that can be found of a designator, nothing first. What is locked is left out:
/// it is asked about again when it shows.
pub(in crate::image) fn findings(designator: Designator) -> Vec<Option<Found<'static>>> {
    let file_systems = || {
        let named = PolicyFlags::FILE_SYSTEMS.words().map(FoundFileSystem::Recognised);
        named.chain([FoundFileSystem::Unrecognised])
    };
    let states = Protection::ALL.into_iter().filter(|state| possible(designator).contains(state.flag()));
    let attributes = [(false, false), (false, true), (true, false), (true, true)];
    let found = states.flat_map(|protection| {
        file_systems().flat_map(move |file_system| {
            attributes.map(|(read_only, growfs)| Some(Found { protection, read_only, growfs, file_system }))
        })
    });
    std::iter::once(None).chain(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(left: &str, right: &str) -> Relation {
        let [left, right] = [left, right].map(|text| text.parse::<ImagePolicy>().unwrap());
        left.compare(&right)
    }

    #[test]
    fn policies_are_ordered_by_what_they_allow() {
        for (left, right, expected) in [
            ("root=signed", "root=signed:=unused+absent", Relation::Equal),
            ("root=signed", "root=verity", Relation::Stricter),
            ("root=verity", "root=verity+signed", Relation::Looser),
            ("root=signed", "root=signed+absent", Relation::Stricter),
            ("root=encryptedwithintegrity", "root=encrypted", Relation::Stricter),
            ("-", "*", Relation::Stricter),
            ("~", "-", Relation::Stricter),
            ("~", "root=signed+absent", Relation::Stricter),
            ("root=signed", "-", Relation::Incomparable),
            ("root=signed", "root=encrypted", Relation::Incomparable),
            ("root=unprotected+ext4", "root=unprotected", Relation::Stricter),
            ("root=unprotected+ext4", "root=unprotected+ext4+xfs", Relation::Stricter),
            ("root=unprotected+ext4", "root=unprotected+xfs", Relation::Incomparable),
            ("home=unprotected+growfs-on", "home=unprotected", Relation::Stricter),
            ("home=unprotected+growfs-on", "home=unprotected+growfs-off", Relation::Incomparable),
            ("home=signed", "home=absent", Relation::Stricter),
            // A plain image needs no hash tree under the first and one under the second.
            ("root=unprotected", "root=unprotected+verity", Relation::Incomparable),
            ("root=unprotected+absent", "root=unprotected+verity+absent", Relation::Stricter),
            // Nothing is left that could be unused.
            ("home=encrypted+unprotected+absent", "home=open", Relation::Equal),
            // A rule that names the partition wants it in the table.
            ("root=signed:root-verity=unprotected", "root=signed", Relation::Stricter),
        ] {
            assert_eq!(compare(left, right), expected, "{left} and {right}");
        }
    }
}
