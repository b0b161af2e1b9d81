//! Two policies as somebody asked for them side by side, with what their names add: which allows no more, and which
//! partitions and words make the difference.

use crate::format::designator::{Designator, VerityRole};

use super::policy::{
    Found, FoundFileSystem, PolicyFlags, Protection, Relation, Rule, RuleOrigin, Use, findings,
};
use super::presets::RequestedPolicy;

/// What a policy allows in states that only somebody else's knowledge makes acceptable.
const AUTHENTICATED: &str = "authenticated";
/// What a rule allows that names no file system.
const ANY_FILE_SYSTEM: &str = "any file system";
/// What a rule for a signature partition allows that does not demand that there is none.
const PRESENT: &str = "present";
/// What a rule allows that only follows from another one.
const BESIDE: &str = "beside the image";
/// What no single word says.
const COMBINATIONS: &str = "other combinations";

/// How two policies stand to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What is to be said of the first: `Stricter` if it never does more than the second.
    pub relation: Relation,
    /// The same of what the names of the policies ask of an image as a whole.
    pub demands: Relation,
    /// Whether the name of the first and that of the second demand that whatever is exposed is authenticated.
    pub demand_authentication: [bool; 2],
    /// The designators about which they differ, in order.
    pub partitions: Vec<PartitionComparison>,
}

/// What two policies say of a designator about which they differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionComparison {
    /// The designator.
    pub designator: Designator,
    /// How the first stands to the second.
    pub relation: Relation,
    /// Both rules.
    pub rules: [Rule; 2],
    /// What the first allows and the second does not, and the other way round: policy words, and a few that policies do
    /// not have.
    pub only: [Vec<&'static str>; 2],
}

/// Compares policies by what comes of them for everything that can be found of a partition.
#[must_use]
pub fn compare(first: &RequestedPolicy, second: &RequestedPolicy) -> Comparison {
    let partitions: Vec<_> =
        Designator::ALL.into_iter().filter_map(|designator| compare_for(first, second, designator)).collect();
    let demand_authentication = [first, second].map(|policy| policy.strictness().demands_authentication());
    // Who demands that root or usr be used is within one who does not, and not the other way round.
    let [first_uses, second_uses] = [first, second]
        .map(|policy| policy.strictness().demands_authentication() || always_uses_a_root(policy));
    let [first_demands, second_demands] = demand_authentication;
    let demands = Relation::of(!second_demands || first_uses, !first_demands || second_uses);
    let relation = partitions.iter().map(|partition| partition.relation).fold(demands, Relation::and);
    Comparison { relation, demands, demand_authentication, partitions }
}

impl Comparison {
    /// What is to be known of policies whose names ask more than their text.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let whose = match self.demand_authentication {
            [false, false] => return None,
            [true, false] => "The name of the first policy demands",
            [false, true] => "The name of the second policy demands",
            [true, true] => "The names of both policies demand",
        };
        Some(format!(
            "{whose} more than the rules: root or usr must be there and used, and nothing is exposed whose root hash is \
             not authenticated. A root hash that was given, or that lies in a verified download, counts as signed there \
             ('{AUTHENTICATED}')."
        ))
    }
}

/// Something that can be found of a partition, and what is known of it from elsewhere.
#[derive(Clone, Copy)]
struct Case {
    found: Option<Found<'static>>,
    /// Whether somebody vouches for its content.
    is_authentic: bool,
    /// Whether it is not in the table, and a file beside the image has what would be in it.
    is_beside: bool,
}

fn cases(designator: Designator) -> Vec<Case> {
    let mut cases = Vec::new();
    for found in findings(designator) {
        let is_data = designator.verity_role() == Some(VerityRole::Data);
        let is_signed = found.is_some_and(|found| found.protection == Protection::Signed);
        if is_signed || (is_data && found.is_some()) {
            cases.push(Case { found, is_authentic: true, is_beside: false });
        }
        if !is_signed {
            cases.push(Case { found, is_authentic: false, is_beside: false });
        }
    }
    if designator.verity_data().is_some() {
        cases.push(Case { found: None, is_authentic: false, is_beside: true });
    }
    cases
}

/// What comes of a case; `None` for a refusal. The same as in [`super::plan::evaluate`], but that a signature partition,
/// which is never exposed, is as good as unused.
fn outcome(policy: &RequestedPolicy, rule: Rule, case: &Case) -> Option<Use> {
    let strict = policy.strictness().demands_authentication();
    let Some(found) = case.found else {
        let is_derived = matches!(rule.origin(), RuleOrigin::Derived { .. });
        return if case.is_beside && is_derived { Some(Use::Absent) } else { rule.decide(None).ok() };
    };
    let counts_as_signed = strict && case.is_authentic;
    let protection = if counts_as_signed { Protection::Signed } else { found.protection };
    match rule.decide(Some(Found { protection, ..found })).ok()? {
        Use::Used if rule.designator().verity_role() == Some(VerityRole::Signature) => Some(Use::Unused),
        Use::Used if strict && !case.is_authentic && rule.designator().verity_data().is_none() => None,
        decision => Some(decision),
    }
}

/// Whether every image that the rules accept has a root or usr that is used.
fn always_uses_a_root(policy: &RequestedPolicy) -> bool {
    [Designator::Root, Designator::Usr].into_iter().any(|designator| {
        let rule = policy.policy().rule(designator);
        let mut outcomes = cases(designator).into_iter().map(|case| outcome(policy, rule, &case));
        outcomes.all(|outcome| matches!(outcome, None | Some(Use::Used)))
    })
}

fn compare_for(
    first: &RequestedPolicy,
    second: &RequestedPolicy,
    designator: Designator,
) -> Option<PartitionComparison> {
    let rules = [first, second].map(|policy| policy.policy().rule(designator));
    let [first_rule, second_rule] = rules;
    let cases: Vec<_> = cases(designator)
        .into_iter()
        .map(|case| Judged {
            first: outcome(first, first_rule, &case),
            second: outcome(second, second_rule, &case),
            case,
        })
        .collect();
    let turned: Vec<_> = cases.iter().map(Judged::turned).collect();
    let relation = Relation::of(cases.iter().all(Judged::is_within), turned.iter().all(Judged::is_within));
    let only = [only_first(&cases, designator), only_first(&turned, designator)];
    (relation != Relation::Equal).then_some(PartitionComparison { designator, relation, rules, only })
}

/// What comes of a case under both policies.
struct Judged {
    case: Case,
    first: Option<Use>,
    second: Option<Use>,
}

impl Judged {
    const fn turned(&self) -> Self {
        Self { case: self.case, first: self.second, second: self.first }
    }

    fn is_within(&self) -> bool {
        matches!((self.first, self.second), (None, _) | (Some(Use::Used | Use::Unused), Some(Use::Used)))
            || self.first == self.second
    }
}

/// What the first of two policies allows beyond the second, in words.
fn only_first(cases: &[Judged], designator: Designator) -> Vec<&'static str> {
    if cases.iter().all(Judged::is_within) {
        return Vec::new();
    }
    let only = |value: &dyn Fn(&Case, Found<'static>) -> bool| {
        let is_used = |outcome: fn(&Judged) -> Option<Use>| {
            cases.iter().any(|judged| {
                judged.case.found.is_some_and(|found| value(&judged.case, found))
                    && outcome(judged) == Some(Use::Used)
            })
        };
        is_used(|judged| judged.first) && !is_used(|judged| judged.second)
    };
    let mut words = Vec::new();
    for state in Protection::ALL {
        let vouched_for = state == Protection::Signed;
        if only(&|case, found| found.protection == state && case.is_authentic == vouched_for) {
            words.push(state.as_str());
        } else if !vouched_for && only(&|case, found| found.protection == state && case.is_authentic) {
            words.push(AUTHENTICATED);
        }
    }
    words.dedup();
    // Where the second uses nothing at all, flags and file systems say nothing.
    if cases.iter().any(|judged| judged.second == Some(Use::Used)) {
        for (word, read_only) in [("read-only-on", true), ("read-only-off", false)] {
            words.extend(only(&|_, found| found.read_only == read_only).then_some(word));
        }
        for (word, growfs) in [("growfs-off", false), ("growfs-on", true)] {
            words.extend(only(&|_, found| found.growfs == growfs).then_some(word));
        }
        if only(&|_, found| found.file_system == FoundFileSystem::Unrecognised) {
            words.push(ANY_FILE_SYSTEM);
        } else {
            words.extend(
                PolicyFlags::FILE_SYSTEMS
                    .words()
                    .filter(|word| only(&|_, found| found.file_system == FoundFileSystem::Recognised(word))),
            );
        }
    }
    let only_by = |what: fn(&Case) -> bool, outcome: Use| {
        cases
            .iter()
            .any(|judged| what(&judged.case) && judged.first == Some(outcome) && judged.second.is_none())
    };
    if only_by(|case| case.found.is_some(), Use::Unused) {
        let signature = designator.verity_role() == Some(VerityRole::Signature);
        words.push(if signature { PRESENT } else { Use::Unused.as_str() });
    }
    if only_by(|case| case.found.is_none() && !case.is_beside, Use::Absent) {
        words.push(Use::Absent.as_str());
    } else if only_by(|case| case.is_beside, Use::Absent) {
        words.push(BESIDE);
    }
    if words.is_empty() {
        words.push(COMBINATIONS);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::policy::ImagePolicy;

    fn requested(text: &str) -> RequestedPolicy {
        match text.split_once(' ') {
            Some((name, text)) => RequestedPolicy::named(name[1..].parse().unwrap(), text.parse().unwrap()),
            None if text == "@verified-boot" => RequestedPolicy::verified_boot(),
            None if text == "@verified-extension" => RequestedPolicy::verified_extension(),
            None => RequestedPolicy::as_written(text.parse().unwrap()),
        }
    }

    /// `designator relation first|second` of every partition that differs.
    fn differences(first: &str, second: &str) -> (Relation, Vec<String>) {
        let comparison = compare(&requested(first), &requested(second));
        let line = |partition: &PartitionComparison| {
            let [first, second] = [&partition.only[0], &partition.only[1]].map(|words| words.join("+"));
            format!("{} {} {first}|{second}", partition.designator, partition.relation)
        };
        (comparison.relation, comparison.partitions.iter().map(line).collect())
    }

    #[test]
    fn the_words_that_make_the_difference_are_named() {
        for (first, second, relation, partitions) in [
            ("root=signed", "root=signed", Relation::Equal, vec![]),
            (
                "root=signed+absent",
                "root=verity+signed+absent",
                Relation::Stricter,
                vec!["root stricter |verity"],
            ),
            (
                "root=signed:usr=absent",
                "root=encrypted+ext4:=absent",
                Relation::Incomparable,
                vec![
                    "root incomparable signed+any file system|encrypted+encryptedwithintegrity",
                    "home looser unused|",
                    "srv looser unused|",
                ],
            ),
            (
                "home=open",
                "home=unprotected+ext4+growfs-on+absent",
                Relation::Looser,
                vec!["home looser encrypted+encryptedwithintegrity+growfs-off+any file system|"],
            ),
            ("var=encrypted+ext4", "var=encrypted+ext4+xfs", Relation::Stricter, vec!["var stricter |xfs"]),
            (
                "root=signed:root-verity=unprotected:root-verity-sig=absent",
                "root=signed",
                Relation::Incomparable,
                vec!["root-verity stricter |beside the image", "root-verity-sig incomparable absent|present"],
            ),
        ] {
            let (found, lines) = differences(first, second);
            assert_eq!(found, relation, "{first} and {second}");
            for line in &partitions {
                assert!(lines.iter().any(|found| found == line), "{first} and {second}: {line} in {lines:?}");
            }
            assert!(!partitions.is_empty() || lines.is_empty(), "{lines:?}");
        }
    }

    #[test]
    fn what_a_name_demands_beyond_its_text_counts() {
        let text = "root=signed+absent:usr=signed+absent";
        for (first, second, relation, line) in [
            ("@verified-boot", "@verified-extension", Relation::Equal, None),
            (
                "@verified-boot",
                "*",
                Relation::Stricter,
                Some("home stricter |unprotected+encrypted+encryptedwithintegrity"),
            ),
            (
                "@verified-boot",
                "root=verity+absent:usr=verity+absent",
                Relation::Incomparable,
                Some("root incomparable authenticated|verity"),
            ),
            // Each accepts images that the other refuses: one without root and usr, or one whose root hash was given.
            ("@verified-boot", text, Relation::Incomparable, Some("root looser authenticated|")),
            // Here the rules demand the root anyway.
            ("root=signed:usr=absent", "@verified-boot", Relation::Stricter, None),
            ("root=signed+absent", "@verified-boot", Relation::Incomparable, None),
            (
                "root=verity",
                "@verified-boot",
                Relation::Incomparable,
                Some("root incomparable verity|authenticated+absent"),
            ),
            // Whatever a file of that name says, nothing is exposed without authentication.
            (
                "@verified-boot *",
                "*",
                Relation::Stricter,
                Some("home stricter |unprotected+encrypted+encryptedwithintegrity"),
            ),
        ] {
            let (found, lines) = differences(first, second);
            assert_eq!(found, relation, "{first} and {second}: {lines:?}");
            if let Some(line) = line {
                assert!(lines.iter().any(|found| found == line), "{first} and {second}: {line} in {lines:?}");
            }
        }
    }

    #[test]
    fn policies_as_written_stand_as_their_rules_do() {
        let texts = [
            "*",
            "-",
            "~",
            "root=signed",
            "root=verity",
            "root=signed+absent",
            "root=encrypted:=open",
            "home=ext4",
            "root=signed:root-verity=unprotected",
            "home=unprotected+absent+growfs-on",
            "=unprotected+absent",
            "home=signed",
        ];
        for first in texts {
            for second in texts {
                let rules = |text: &str| text.parse::<ImagePolicy>().unwrap();
                let by_rules = rules(first).compare(&rules(second));
                assert_eq!(
                    compare(&requested(first), &requested(second)).relation,
                    by_rules,
                    "{first} and {second}"
                );
            }
        }
    }
}
