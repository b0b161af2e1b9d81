//! Image policies: which partitions an image may have, and in which state each of them may be used.
//!
//! Grammar, normal form, derived rules and what is printed are systemd 262's (systemd.image-policy(7)). The evaluation is
//! ours and strict: a partition has exactly one [`Protection`], and [`Rule::decide`] tests that one state, once, against one
//! rule. `unused` means that a partition is not exposed; it never means used without protection.

mod algebra;
mod check;
mod decide;
mod flags;
#[cfg(test)]
mod laws;
mod order;
mod parse;
mod print;
mod rule;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use algebra::{Disjoint, FlagGroup};
pub use check::{Check, Lint, Place, PolicyFinding, check};
pub use decide::{Found, FoundFileSystem, Objection, PolicyRefusal, Protection, Use};
pub use flags::PolicyFlags;
pub use order::Relation;
pub use parse::{MAX_POLICY_TEXT, ParsePolicyError};
pub use rule::{Rule, RuleOrigin};
pub use show::{ShownPolicy, ShownRule, show_json, show_text};

pub(in crate::image) use order::findings;
pub(in crate::image) use parse::RuleSet;

use crate::format::designator::Designator;

/// An image policy: rules for single designators, and one for all others.
///
/// Equality is that of the text, but for order and spelling; whether two policies decide alike is
/// [`is_equivalent`](Self::is_equivalent).
#[derive(Debug, Clone)]
pub struct ImagePolicy {
    /// As written, not in normal form: an empty set stands for `open`.
    rules: BTreeMap<Designator, PolicyFlags>,
    default: PolicyFlags,
    /// Whether the text has rules, and none for the rest. Makes no difference but to who reads it.
    omits_default: bool,
}

impl PartialEq for ImagePolicy {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules && self.default == other.default
    }
}

impl Eq for ImagePolicy {}

impl std::hash::Hash for ImagePolicy {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.rules.hash(state);
        self.default.hash(state);
    }
}

impl ImagePolicy {
    /// The policy with these rules, and one for what they do not name. A rule without any use word allows every use, as
    /// in policy text.
    #[must_use]
    pub fn new(default: PolicyFlags, rules: impl IntoIterator<Item = (Designator, PolicyFlags)>) -> Self {
        Self { rules: rules.into_iter().collect(), default, omits_default: false }
    }

    /// `*`: everything is allowed.
    #[must_use]
    pub fn allow() -> Self {
        Self::new(PolicyFlags::USE, [])
    }

    /// `-`: nothing is used.
    #[must_use]
    pub fn ignore() -> Self {
        Self::new(PolicyFlags::IGNORE, [])
    }

    /// `~`: nothing may be there.
    #[must_use]
    pub fn deny() -> Self {
        Self::new(PolicyFlags::ABSENT, [])
    }

    /// The rule that holds for a designator: the one written for it, the one derived from its data partition's, or the
    /// default, in normal form.
    #[must_use]
    pub fn rule(&self, designator: Designator) -> Rule {
        Rule::effective(self, designator)
    }

    /// The rules of all designators, in their order.
    pub fn effective_rules(&self) -> impl Iterator<Item = Rule> + '_ {
        Designator::ALL.into_iter().map(|designator| self.rule(designator))
    }

    /// The words written for a designator, if a rule names it. An empty set stands for `open`.
    #[must_use]
    pub fn written(&self, designator: Designator) -> Option<PolicyFlags> {
        self.rules.get(&designator).copied()
    }

    /// The words of the default rule as written; `unused+absent` where the text has none. An empty set stands for `open`.
    #[must_use]
    pub const fn default_flags(&self) -> PolicyFlags {
        self.default
    }

    /// Whether it was read from rules of which none is the default.
    #[must_use]
    pub const fn omits_default(&self) -> bool {
        self.omits_default
    }

    /// Whether both decide alike about every partition.
    #[must_use]
    pub fn is_equivalent(&self, other: &Self) -> bool {
        Designator::ALL
            .into_iter()
            .all(|designator| self.rule(designator).demands() == other.rule(designator).demands())
    }
}
