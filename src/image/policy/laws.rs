//! The laws that policies keep, on random ones.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::order::findings;
use super::*;
use crate::format::designator::VerityRole;

/// What is decided about everything that can be found; `None` for a refusal.
fn decisions(policy: &ImagePolicy) -> Vec<Option<Use>> {
    let mut decisions: Vec<_> = policy
        .effective_rules()
        .flat_map(|rule| findings(rule.designator()).into_iter().map(move |found| rule.decide(found).ok()))
        .collect();
    // What is not in the table may lie beside the image, where the rule follows from another one (see image::plan).
    let companions = Designator::ALL.into_iter().filter(|designator| designator.verity_data().is_some());
    decisions.extend(companions.map(|designator| {
        let rule = policy.rule(designator);
        let is_derived = matches!(rule.origin(), RuleOrigin::Derived { .. });
        if is_derived { Some(Use::Absent) } else { rule.decide(None).ok() }
    }));
    decisions
}

/// The same, where that a signature partition is used says no more than that it may be there.
fn outcomes(policy: &ImagePolicy) -> Vec<Option<Use>> {
    let places = policy
        .effective_rules()
        .flat_map(|rule| {
            findings(rule.designator()).into_iter().map(move |_| rule.designator().verity_role())
        })
        .chain(std::iter::repeat(None));
    let outcome = |(decision, role): (Option<Use>, Option<VerityRole>)| match decision {
        Some(Use::Used) if role == Some(VerityRole::Signature) => Some(Use::Unused),
        decision => decision,
    };
    decisions(policy).into_iter().zip(places).map(outcome).collect()
}

/// Whether a policy that decides `tight` never does more than one that decides `wide`.
fn is_within(tight: &[Option<Use>], wide: &[Option<Use>]) -> bool {
    tight.iter().zip(wide).all(|decisions| match decisions {
        (None, _) | (Some(Use::Used | Use::Unused), Some(Use::Used)) => true,
        (tight, wide) => tight == wide,
    })
}

/// Whether the decisions of `left` and `right` are what `relation` says.
fn is_relation_of(relation: Relation, left: &ImagePolicy, right: &ImagePolicy) -> bool {
    let (left, right) = (outcomes(left), outcomes(right));
    relation == Relation::of(is_within(&left, &right), is_within(&right, &left))
}

fn any_flags() -> impl Strategy<Value = PolicyFlags> {
    let words = |group: PolicyFlags, most: usize| {
        let words: Vec<_> = group.words().collect();
        subsequence(words, 0..=most)
    };
    (
        words(PolicyFlags::USE, 7),
        words(PolicyFlags::READ_ONLY, 2),
        words(PolicyFlags::GROWFS, 2),
        any::<bool>(),
        words(PolicyFlags::FILE_SYSTEMS, 7),
    )
        .prop_map(|(uses, read_only, growfs, restricted, file_systems)| {
            let file_systems = if restricted { file_systems } else { Vec::new() };
            [uses, read_only, growfs, file_systems]
                .concat()
                .into_iter()
                .filter_map(PolicyFlags::of_word)
                .fold(PolicyFlags::NONE, |flags, flag| flags | flag)
        })
}

fn any_policy() -> impl Strategy<Value = ImagePolicy> {
    let default = prop_oneof![Just(PolicyFlags::IGNORE), Just(PolicyFlags::USE), any_flags()];
    (default, proptest::collection::btree_map(select(Designator::ALL.to_vec()), any_flags(), 0..6))
        .prop_map(|(default, rules)| ImagePolicy::new(default, rules))
}

fn any_designator() -> impl Strategy<Value = Designator> {
    select(Designator::ALL.to_vec())
}

/// Two policies that have nothing to do with each other, or of which one is the other with another rule: the first are
/// hardly ever comparable, the second often.
fn two_policies() -> impl Strategy<Value = (ImagePolicy, ImagePolicy)> {
    prop_oneof![
        (any_policy(), any_policy()),
        (any_policy(), any_designator(), any_flags()).prop_map(|(left, designator, flags)| {
            let mut right = left.clone();
            right.rules.insert(designator, flags);
            (left, right)
        }),
        // The rule for root, from which others follow, and nothing else.
        (any_flags(), any_flags()).prop_map(|(left, right)| {
            let [left, right] =
                [left, right].map(|flags| ImagePolicy::new(PolicyFlags::IGNORE, [(Designator::Root, flags)]));
            (left, right)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_long_form_reads_back_as_the_same_policy(policy in any_policy()) {
        prop_assert_eq!(policy.long_form().parse::<ImagePolicy>().unwrap(), policy);
    }

    #[test]
    fn the_short_form_reads_back_as_one_that_decides_alike(policy in any_policy()) {
        let again: ImagePolicy = policy.to_string().parse().unwrap();
        prop_assert_eq!(again.to_string(), policy.to_string());
        prop_assert_eq!(decisions(&again), decisions(&policy));
    }

    #[test]
    fn no_text_makes_the_parser_fail_without_a_named_error(text in "[a-z~*=+: \t\u{e4}-]{0,40}") {
        if let Err(error) = text.parse::<ImagePolicy>() {
            prop_assert!(text.get(error.span().unwrap()).is_some());
        }
    }

    #[test]
    fn simplifying_keeps_every_decision(policy in any_policy()) {
        let simplified = policy.simplified();
        prop_assert_eq!(decisions(&simplified), decisions(&policy));
        prop_assert_eq!(simplified.simplified(), simplified);
    }

    #[test]
    fn policies_are_equivalent_exactly_if_they_decide_alike(
        left in any_policy(),
        designator in select(Designator::ALL.to_vec()),
        flags in any_flags(),
    ) {
        let mut right = left.clone();
        right.rules.insert(designator, flags);
        prop_assert_eq!(left.is_equivalent(&right), decisions(&left) == decisions(&right));
    }

    #[test]
    fn comparing_is_deciding((left, right) in two_policies()) {
        let relation = left.compare(&right);
        prop_assert!(is_relation_of(relation, &left, &right), "{} and {} are not {}", left, right, relation);
        prop_assert_eq!(right.compare(&left), Relation::of(relation.is_around(), relation.is_within()));
        prop_assert_eq!(left.compare(&left), Relation::Equal);
    }

    #[test]
    fn comparing_is_transitive((left, middle) in two_policies(), designator in any_designator(), flags in any_flags()) {
        let mut right = middle.clone();
        right.rules.insert(designator, flags);
        for [one, two, three] in [[&left, &middle, &right], [&right, &left, &middle], [&middle, &right, &left]] {
            if one.compare(two).is_within() && two.compare(three).is_within() {
                prop_assert!(one.compare(three).is_within());
            }
        }
    }

    #[test]
    fn the_intersection_is_the_greatest_lower_bound((left, right) in two_policies(), below in any_policy()) {
        let both = left.intersect(&right);
        prop_assert_eq!(both.is_ok(), right.intersect(&left).is_ok());
        if let Ok(both) = &both {
            prop_assert!(both.compare(&left).is_within() && both.compare(&right).is_within());
            prop_assert_eq!(both.compare(&right.intersect(&left).unwrap()), Relation::Equal);
            let reread: ImagePolicy = both.to_string().parse().unwrap();
            prop_assert_eq!(reread.compare(both), Relation::Equal);
        }
        // Whatever is below both is below it; there is none where it is not.
        for below in [Ok(below.clone()), below.intersect(&left), left.intersect(&below).and_then(|it| it.intersect(&right))] {
            let Ok(below) = below else { continue };
            let is_satisfiable = below.effective_rules().all(|rule| !rule.uses().is_empty());
            if is_satisfiable && below.compare(&left).is_within() && below.compare(&right).is_within() {
                prop_assert!(both.as_ref().is_ok_and(|both| below.compare(both).is_within()), "{} {:?}", below, both);
            }
        }
    }

    #[test]
    fn the_union_is_the_least_upper_bound((left, right) in two_policies(), above in any_policy()) {
        let either = left.union(&right);
        prop_assert_eq!(either.is_ok(), right.union(&left).is_ok());
        let Ok(either) = either else {
            let nobody = |policy: &ImagePolicy| policy.effective_rules().any(|rule| rule.uses().is_empty());
            prop_assert!(nobody(&left) && nobody(&right));
            return Ok(());
        };
        prop_assert!(left.compare(&either).is_within() && right.compare(&either).is_within());
        prop_assert_eq!(either.compare(&right.union(&left).unwrap()), Relation::Equal);
        for above in [Ok(above.clone()), above.union(&left), left.union(&above).and_then(|it| it.union(&right))] {
            let Ok(above) = above else { continue };
            if left.compare(&above).is_within() && right.compare(&above).is_within() {
                prop_assert!(either.compare(&above).is_within(), "{} above {}", either, above);
            }
        }
    }

    #[test]
    fn a_policy_intersected_or_united_with_itself_stays_as_it_is(policy in any_policy()) {
        let satisfiable = policy.effective_rules().all(|rule| !rule.uses().is_empty());
        for combined in [policy.intersect(&policy), policy.union(&policy)] {
            prop_assert_eq!(combined.is_ok(), satisfiable);
            if let Ok(combined) = combined {
                prop_assert_eq!(combined.compare(&policy), Relation::Equal);
            }
        }
    }

    #[test]
    fn intersection_and_union_absorb_each_other((left, right) in two_policies()) {
        if let Ok(either) = left.union(&right) {
            let absorbed = left.intersect(&either);
            prop_assert!(absorbed.map_or(true, |absorbed| absorbed.compare(&left) == Relation::Equal));
        }
        if let Ok(both) = left.intersect(&right) {
            let absorbed = left.union(&both);
            prop_assert!(absorbed.map_or(true, |absorbed| absorbed.compare(&left) == Relation::Equal));
        }
    }

    #[test]
    fn what_both_allow_to_use_the_intersection_allows((left, right) in two_policies()) {
        if let Ok(both) = left.intersect(&right) {
            let decisions = outcomes(&both).into_iter().zip(outcomes(&left).into_iter().zip(outcomes(&right)));
            for (decision, of_both) in decisions {
                prop_assert_eq!(decision == Some(Use::Used), of_both == (Some(Use::Used), Some(Use::Used)));
            }
        }
    }
}
