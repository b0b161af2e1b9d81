//! The rule that holds for one designator: normal form, and what follows for hash and signature partitions.

use std::fmt;

use super::flags::joined;
use super::{ImagePolicy, PolicyFlags};
use crate::format::designator::{Designator, VerityRole};

/// The rule that holds for a designator, in normal form:
///
/// - without a use word every use is allowed, without a word about a flag either value;
/// - `verity` and `signed` stand only where dm-verity is defined, no protection on hash and signature partitions;
/// - a rule that leaves only `absent` asks nothing of flags;
/// - no use word left: nothing satisfies the rule, not even absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    designator: Designator,
    flags: PolicyFlags,
    origin: RuleOrigin,
}

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleOrigin {
    /// The policy names the designator.
    Explicit,
    /// A hash or signature partition follows from the rule for the file system that it protects.
    Derived {
        /// The designator of that file system.
        from: Designator,
    },
    /// The policy's rule for what it does not name.
    Default,
}

impl RuleOrigin {
    /// The word for it: `explicit`, `derived` or `default`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::Derived { .. } => "derived",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Rule {
    /// The rule of a policy that holds for a designator.
    pub(super) fn effective(policy: &ImagePolicy, designator: Designator) -> Self {
        let (flags, origin) = match (policy.written(designator), derived(policy, designator)) {
            (Some(flags), _) => (flags, RuleOrigin::Explicit),
            (None, Some((from, flags))) => (flags, RuleOrigin::Derived { from }),
            (None, None) => (policy.default_flags(), RuleOrigin::Default),
        };
        Self { designator, flags: normal_form(designator, flags), origin }
    }

    /// The designator that the rule is for.
    #[must_use]
    pub const fn designator(self) -> Designator {
        self.designator
    }

    /// All words of the normal form.
    #[must_use]
    pub const fn flags(self) -> PolicyFlags {
        self.flags
    }

    /// Where the rule comes from.
    #[must_use]
    pub const fn origin(self) -> RuleOrigin {
        self.origin
    }

    /// The words that say how the partition may be used, `unused` and `absent` included.
    #[must_use]
    pub fn uses(self) -> PolicyFlags {
        self.flags & PolicyFlags::USE
    }

    /// The one value that the partition's read-only flag must have; `None` where either will do.
    #[must_use]
    pub fn read_only(self) -> Option<bool> {
        demanded(self.flags, PolicyFlags::READ_ONLY_ON, PolicyFlags::READ_ONLY_OFF)
    }

    /// The one value that the partition's grow-file-system flag must have; `None` where either will do.
    #[must_use]
    pub fn growfs(self) -> Option<bool> {
        demanded(self.flags, PolicyFlags::GROWFS_ON, PolicyFlags::GROWFS_OFF)
    }

    /// The only file systems that the partition may hold; `None` where the rule names none and so asks nothing.
    #[must_use]
    pub fn file_systems(self) -> Option<Vec<&'static str>> {
        let named = self.flags & PolicyFlags::FILE_SYSTEMS;
        (!named.is_empty()).then(|| named.words().collect())
    }

    /// What is asked in the end; two rules with the same demands decide alike.
    ///
    /// - the stronger state satisfies the word for the weaker one: `signed` that for `verity`, `encryptedwithintegrity` that
    ///   for `encrypted`;
    /// - read-only and growfs are flags of file systems. Hash and signature partitions hold none and never have them, so
    ///   only a rule that names such a partition itself asks them of it;
    /// - a hash tree or a signature may lie in a file beside the image where the rule only follows from that for its data;
    ///   a rule that names the partition wants the partition;
    /// - where nothing may be used, flags and file systems do not matter;
    /// - where everything that the designator can be is used, nothing is left that could be unused or refused.
    pub(super) fn demands(self) -> PolicyFlags {
        let mut demands = with_stronger(self.flags);
        if is_verity_metadata(self.designator) {
            if self.origin != RuleOrigin::Explicit {
                demands |= PolicyFlags::READ_ONLY | PolicyFlags::GROWFS;
            }
            if matches!(self.origin, RuleOrigin::Derived { .. }) || demands.contains(PolicyFlags::ABSENT) {
                demands |= PolicyFlags::BESIDE;
            }
        }
        if (demands & PolicyFlags::PROTECTIONS).is_empty() {
            return demands & (PolicyFlags::USE | PolicyFlags::BESIDE);
        }
        let everything = possible(self.designator) | PolicyFlags::READ_ONLY | PolicyFlags::GROWFS;
        if demands.contains(everything) && (demands & PolicyFlags::FILE_SYSTEMS).is_empty() {
            demands |= PolicyFlags::UNUSED;
        }
        demands
    }

    /// What comes of the rule: its demands, where one thing more makes no difference. A signature partition is read and
    /// verified whether or not the policy uses it, and never exposed: if it may be unused, it may be whatever it is.
    pub(super) fn effects(self) -> PolicyFlags {
        let demands = self.demands();
        let signature = self.designator.verity_role() == Some(VerityRole::Signature);
        if signature && demands.contains(PolicyFlags::UNUSED) {
            let anything = PolicyFlags::UNPROTECTED | PolicyFlags::READ_ONLY | PolicyFlags::GROWFS;
            return demands.without(PolicyFlags::FILE_SYSTEMS) | anything;
        }
        demands
    }

    /// The rule with these words that a policy would write for the designator.
    pub(super) fn explicit(designator: Designator, flags: PolicyFlags) -> Self {
        Self { designator, flags: normal_form(designator, flags), origin: RuleOrigin::Explicit }
    }
}

impl fmt::Display for Rule {
    /// As in policy text: `root=signed+absent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.flags.without_full_groups().words().collect();
        write!(f, "{}={}", self.designator, joined(&words))
    }
}

/// The words with what empty groups stand for.
pub(super) fn extended(mut flags: PolicyFlags) -> PolicyFlags {
    for group in [PolicyFlags::USE, PolicyFlags::READ_ONLY, PolicyFlags::GROWFS] {
        if (flags & group).is_empty() {
            flags |= group;
        }
    }
    flags
}

/// For each state and the stronger one that satisfies its word as well.
pub(super) const STRONGER: [(PolicyFlags, PolicyFlags); 2] = [
    (PolicyFlags::VERITY, PolicyFlags::SIGNED),
    (PolicyFlags::ENCRYPTED, PolicyFlags::ENCRYPTED_WITH_INTEGRITY),
];

/// The words with those for the states that satisfy them as well.
pub(super) fn with_stronger(flags: PolicyFlags) -> PolicyFlags {
    STRONGER.into_iter().fold(
        flags,
        |flags, (weaker, stronger)| {
            if flags.contains(weaker) { flags | stronger } else { flags }
        },
    )
}

/// The states that a partition of the designator can be found in.
pub(super) fn possible(designator: Designator) -> PolicyFlags {
    match designator.verity_role() {
        Some(VerityRole::Data) => PolicyFlags::PROTECTIONS,
        Some(VerityRole::Hash | VerityRole::Signature) => PolicyFlags::UNPROTECTED,
        None => PolicyFlags::PROTECTIONS.without(PolicyFlags::VERITY | PolicyFlags::SIGNED),
    }
}

fn normal_form(designator: Designator, flags: PolicyFlags) -> PolicyFlags {
    let undefined = PolicyFlags::PROTECTIONS.without(possible(designator));
    let flags = extended(flags).without(undefined);
    if flags & PolicyFlags::USE == PolicyFlags::ABSENT {
        flags.without(PolicyFlags::READ_ONLY | PolicyFlags::GROWFS)
    } else {
        flags
    }
}

/// What a rule that is written for a file system means for its hash or signature partition, and whose rule that was;
/// `None` where nothing is written or the rule does not allow the protection.
fn derived(policy: &ImagePolicy, designator: Designator) -> Option<(Designator, PolicyFlags)> {
    let data = designator.verity_data()?;
    let needed_by = match designator.verity_role()? {
        VerityRole::Hash => PolicyFlags::VERITY | PolicyFlags::SIGNED,
        VerityRole::Signature => PolicyFlags::SIGNED,
        VerityRole::Data => return None,
    };
    let rule = extended(policy.written(data)?);
    let kept = PolicyFlags::IGNORE | PolicyFlags::READ_ONLY | PolicyFlags::GROWFS;
    (!(rule & needed_by).is_empty()).then_some((data, PolicyFlags::UNPROTECTED | (rule & kept)))
}

fn demanded(flags: PolicyFlags, on: PolicyFlags, off: PolicyFlags) -> Option<bool> {
    match (flags.contains(on), flags.contains(off)) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

const fn is_verity_metadata(designator: Designator) -> bool {
    designator.verity_data().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(policy: &str, designator: Designator) -> Rule {
        policy.parse::<ImagePolicy>().unwrap().rule(designator)
    }

    #[test]
    fn hash_and_signature_partitions_follow_from_their_file_system() {
        for (policy, designator, expected) in [
            ("root=signed+absent", Designator::RootVerity, "root-verity=unprotected+absent derived"),
            ("root=signed+absent", Designator::RootVeritySig, "root-verity-sig=unprotected+absent derived"),
            ("root=verity", Designator::RootVerity, "root-verity=unprotected derived"),
            ("root=verity", Designator::RootVeritySig, "root-verity-sig=unused+absent default"),
            ("root=encrypted:=absent", Designator::RootVerity, "root-verity=absent default"),
            ("root=", Designator::RootVerity, "root-verity=unprotected+unused+absent derived"),
            ("root=signed:root-verity=absent", Designator::RootVerity, "root-verity=absent explicit"),
            ("root=signed+growfs-on", Designator::RootVerity, "root-verity=unprotected+growfs-on derived"),
            ("root=signed+erofs", Designator::RootVerity, "root-verity=unprotected derived"),
            ("usr=signed", Designator::RootVerity, "root-verity=unused+absent default"),
        ] {
            let rule = rule(policy, designator);
            assert_eq!(format!("{rule} {}", rule.origin()), expected, "{policy}");
        }
    }

    #[test]
    fn a_default_derives_nothing() {
        assert_eq!(rule("=verity+absent", Designator::RootVerity).uses(), PolicyFlags::ABSENT);
        assert_eq!(rule("=verity+absent", Designator::RootVerity).origin(), RuleOrigin::Default);
    }

    #[test]
    fn words_that_a_designator_has_no_meaning_for_leave_nothing() {
        for (policy, designator) in [
            ("home=verity", Designator::Home),
            ("esp=signed", Designator::Esp),
            ("root-verity=verity+encrypted", Designator::RootVerity),
            ("=signed", Designator::Var),
        ] {
            assert!(rule(policy, designator).uses().is_empty(), "{policy}");
        }
    }

    #[test]
    fn only_absent_asks_nothing_of_flags() {
        let rule = rule("root=absent+read-only-on+growfs-off", Designator::Root);
        assert_eq!((rule.read_only(), rule.growfs()), (None, None));
        assert_eq!(rule.flags(), PolicyFlags::ABSENT);
    }

    #[test]
    fn both_words_of_a_flag_ask_as_little_as_none() {
        assert_eq!(rule("root=open+read-only-on+read-only-off", Designator::Root).read_only(), None);
        assert_eq!(rule("root=open+read-only-on", Designator::Root).read_only(), Some(true));
        assert_eq!(rule("root=open+growfs-off", Designator::Root).growfs(), Some(false));
    }

    #[test]
    fn file_systems_are_listed_as_named() {
        assert_eq!(rule("root=open+xfs+erofs", Designator::Root).file_systems(), Some(vec!["erofs", "xfs"]));
        assert_eq!(rule("root=open", Designator::Root).file_systems(), None);
    }
}
