//! What a policy says that its author may not have meant.

use std::fmt;

use super::flags::joined;
use super::{ImagePolicy, PolicyFlags, Protection, Rule, RuleOrigin};
use crate::format::designator::{Designator, VerityRole};
use crate::format::image_class::ImageClass;

/// What can be wrong with a policy. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lint {
    /// Nothing satisfies a rule, neither a partition nor that there is none.
    Unsatisfiable,
    /// A rule names no use, which allows every one.
    SilentlyOpen,
    /// Several states of protection are allowed, and whoever makes the image chooses the weakest.
    WeakestAlternative,
    /// One of root and usr must be authentic, and the other may be anybody's.
    UnsignedBeside,
    /// Words that no partition can satisfy, or that mean nothing where they stand.
    NeverMatches,
    /// The image class never has such a partition.
    NotInClass,
    /// No rule for what is not named, which is then allowed to lie there unused.
    OmittedDefault,
    /// A rule that says what holds without it.
    RedundantRule,
    /// Words that ask nothing.
    RedundantWords,
}

impl Lint {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsatisfiable => "unsatisfiable",
            Self::SilentlyOpen => "silently-open",
            Self::WeakestAlternative => "weakest-alternative",
            Self::UnsignedBeside => "unsigned-beside",
            Self::NeverMatches => "never-matches",
            Self::NotInClass => "not-in-class",
            Self::OmittedDefault => "omitted-default",
            Self::RedundantRule => "redundant-rule",
            Self::RedundantWords => "redundant-words",
        }
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a rule stands: for a designator, or for all that are not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The rule for a designator.
    Designator(Designator),
    /// The default rule.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Designator(designator) => designator.as_str(),
            Self::Default => "default",
        })
    }
}

/// Something that the author of a policy may not have meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFinding {
    /// What it is.
    pub lint: Lint,
    /// About which rule.
    pub place: Place,
    /// About which of its words; none where it is the rule as a whole.
    pub words: PolicyFlags,
    /// The state of protection that the rule really demands, where it is about that.
    pub holds: Option<Protection>,
    /// The whole, in a sentence.
    pub message: String,
    /// The rule, or the rules, to write instead; `None` where only the author can know.
    pub suggestion: Option<String>,
}

/// What came of checking a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was found, gravest first.
    pub findings: Vec<PolicyFinding>,
    /// The policy without alternatives that are weaker than the strongest; `None` where it has none.
    pub stricter: Option<ImagePolicy>,
}

/// Checks a policy. `authenticated` is that nothing is exposed under it without an authenticated root hash, whatever it says
/// (see [`Strictness`](crate::image::presets::Strictness)); `class` is what the images are for.
#[must_use]
pub fn check(policy: &ImagePolicy, authenticated: bool, class: Option<ImageClass>) -> Check {
    let mut checked = Checked { policy, authenticated, stricter: policy.clone(), findings: Vec::new() };
    let places = policy.rules.iter().map(|(designator, flags)| (Place::Designator(*designator), *flags));
    for (place, flags) in places.chain([(Place::Default, policy.default)]) {
        let rules: Vec<Rule> = match place {
            Place::Designator(designator) => vec![policy.rule(designator)],
            Place::Default => {
                policy.effective_rules().filter(|rule| rule.origin() == RuleOrigin::Default).collect()
            }
        };
        if rules.is_empty() {
            continue;
        }
        let written = Written { place, flags, rules };
        checked.satisfiability(&written);
        checked.openness(&written);
        checked.alternatives(&written);
        checked.impossible_words(&written);
        checked.redundant_words(&written);
        if let (Some(class), Place::Designator(designator)) = (class, place) {
            checked.class(&written, designator, class);
        }
    }
    checked.unsigned_beside();
    checked.hash_trees();
    checked.omitted_default();
    checked.redundant_rules();
    let mut findings = checked.findings;
    findings.sort_by_key(|finding| finding.lint);
    let stricter = (checked.stricter != *policy).then_some(checked.stricter);
    Check { findings, stricter }
}

/// A rule as it is written, and what holds by it in the end: for one designator, or for all that are not named.
struct Written {
    place: Place,
    flags: PolicyFlags,
    rules: Vec<Rule>,
}

impl Written {
    fn text(&self) -> String {
        rule_text(self.place, self.flags)
    }

    /// The states in which anything is used by the rule.
    fn states(&self) -> PolicyFlags {
        self.rules.iter().fold(PolicyFlags::NONE, |states, rule| states | rule.flags())
            & PolicyFlags::PROTECTIONS
    }
}

fn rule_text(place: Place, flags: PolicyFlags) -> String {
    let words = joined(&flags.short_words());
    match place {
        Place::Designator(designator) => format!("{designator}={words}"),
        Place::Default => format!("={words}"),
    }
}

struct Checked<'a> {
    policy: &'a ImagePolicy,
    authenticated: bool,
    stricter: ImagePolicy,
    findings: Vec<PolicyFinding>,
}

impl Checked<'_> {
    fn find(
        &mut self,
        lint: Lint,
        place: Place,
        words: PolicyFlags,
        message: String,
        suggestion: Option<String>,
    ) {
        self.findings.push(PolicyFinding { lint, place, words, holds: None, message, suggestion });
    }

    fn satisfiability(&mut self, written: &Written) {
        let empty: Vec<_> = written.rules.iter().filter(|rule| rule.uses().is_empty()).collect();
        if empty.is_empty() {
            return;
        }
        let names: Vec<_> = empty.iter().map(|rule| rule.designator().as_str()).collect();
        let message = format!(
            "'{}' is satisfied by no image, with or without {}: '{}' means nothing there, and no other use is left",
            written.text(),
            names.join(", "),
            written.flags & PolicyFlags::PROTECTIONS,
        );
        self.find(
            Lint::Unsatisfiable,
            written.place,
            written.flags & PolicyFlags::PROTECTIONS,
            message,
            None,
        );
    }

    fn openness(&mut self, written: &Written) {
        if !(written.flags & PolicyFlags::USE).is_empty() {
            return;
        }
        let message = format!(
            "'{}' names no use and so allows every one, unprotected too: it is the same as '{}'",
            written.text(),
            rule_text(written.place, written.flags | PolicyFlags::USE),
        );
        let suggestion = written.flags.is_empty().then(|| rule_text(written.place, PolicyFlags::IGNORE));
        self.find(Lint::SilentlyOpen, written.place, PolicyFlags::NONE, message, suggestion);
    }

    fn alternatives(&mut self, written: &Written) {
        let states = written.states() & written.flags;
        let is_open = written.flags.contains(PolicyFlags::USE);
        let weaker = states.without(strongest(states));
        let Some(holds) = weakest(states).filter(|_| !weaker.is_empty() && !is_open && !self.authenticated)
        else {
            return;
        };
        let flags = written.flags.without(weaker);
        match written.place {
            Place::Designator(designator) => {
                self.stricter.rules.insert(designator, flags);
            }
            Place::Default => self.stricter.default = flags,
        }
        let who = match holds {
            Protection::Unprotected => "one that nothing protects",
            Protection::Verity => "one whose hash tree nobody signed, which anybody can make",
            Protection::Encrypted => "one whose content can be changed unnoticed",
            Protection::EncryptedWithIntegrity | Protection::Signed => "the weakest",
        };
        let message = format!(
            "'{}' accepts {who}: of alternatives the weakest holds, and that is '{holds}'",
            written.text()
        );
        self.findings.push(PolicyFinding {
            lint: Lint::WeakestAlternative,
            place: written.place,
            words: weaker,
            holds: Some(holds),
            message,
            suggestion: Some(rule_text(written.place, flags)),
        });
    }

    fn impossible_words(&mut self, written: &Written) {
        if written.rules.iter().any(|rule| rule.uses().is_empty()) {
            return;
        }
        let uses = written.flags & PolicyFlags::USE;
        let dropped =
            uses.without(written.rules.iter().fold(PolicyFlags::NONE, |all, rule| all | rule.flags()));
        if !dropped.is_empty() && !uses.contains(PolicyFlags::USE) {
            let names: Vec<_> = written.rules.iter().map(|rule| rule.designator().as_str()).collect();
            let message =
                format!("'{dropped}' in '{}' means nothing for {}", written.text(), names.join(", "));
            let suggestion = rule_text(written.place, written.flags.without(dropped));
            self.find(Lint::NeverMatches, written.place, dropped, message, Some(suggestion));
        }
        let Place::Designator(designator) = written.place else { return };
        let file_systems = written.flags & PolicyFlags::FILE_SYSTEMS;
        let states = written.states();
        let words = uses & states;
        if designator.is_vfat_alone() {
            let other = file_systems.without(PolicyFlags::VFAT);
            let impossible = other | (words.without(PolicyFlags::UNPROTECTED));
            if !impossible.is_empty() && !uses.contains(PolicyFlags::USE) {
                let message = format!(
                    "'{impossible}' in '{}' never matches: {designator} is an unprotected vfat, or refused",
                    written.text()
                );
                self.find(Lint::NeverMatches, written.place, impossible, message, None);
            }
        } else if !file_systems.is_empty()
            && !states.is_empty()
            && (designator == Designator::Swap || designator.verity_data().is_some())
        {
            let message =
                format!("'{}' never lets {designator} be used: it holds no file system", written.text());
            let suggestion = rule_text(written.place, written.flags.without(PolicyFlags::FILE_SYSTEMS));
            self.find(Lint::NeverMatches, written.place, file_systems, message, Some(suggestion));
        }
        let is_exposed = designator.verity_role().is_none();
        if self.authenticated && is_exposed && !words.is_empty() {
            let message = format!(
                "'{}' never lets {designator} be used: under this name nothing is exposed whose root hash is not \
                 authenticated",
                written.text()
            );
            self.find(Lint::NeverMatches, written.place, words, message, None);
        }
    }

    fn redundant_words(&mut self, written: &Written) {
        let mut words = PolicyFlags::NONE;
        for group in [PolicyFlags::READ_ONLY, PolicyFlags::GROWFS] {
            if written.flags.contains(group) {
                words |= group;
            }
        }
        if written.states().is_empty() {
            words |= written.flags.without(PolicyFlags::USE);
        }
        if !words.is_empty() {
            let message = format!("'{words}' in '{}' asks nothing", written.text());
            let suggestion = rule_text(written.place, written.flags.without(words));
            self.find(Lint::RedundantWords, written.place, words, message, Some(suggestion));
        }
    }

    fn class(&mut self, written: &Written, designator: Designator, class: ImageClass) {
        let uses = written.rules.iter().fold(PolicyFlags::NONE, |uses, rule| uses | rule.uses());
        if has(class, designator) || PolicyFlags::IGNORE.contains(uses) && uses.contains(PolicyFlags::ABSENT)
        {
            return;
        }
        let message = if uses.contains(PolicyFlags::ABSENT) {
            format!("'{}': an image of class '{class}' never has {designator}", written.text())
        } else {
            format!(
                "'{}' refuses every image of class '{class}', which never has {designator}",
                written.text()
            )
        };
        self.find(Lint::NotInClass, written.place, PolicyFlags::NONE, message, None);
    }

    /// A root that must be authentic, beside a usr that need not be, from which the same programs run; or the other way.
    fn unsigned_beside(&mut self) {
        if self.authenticated {
            return;
        }
        let states = |designator| self.policy.rule(designator).flags() & PolicyFlags::PROTECTIONS;
        let authentic = PolicyFlags::SIGNED | PolicyFlags::ENCRYPTED_WITH_INTEGRITY;
        let anybodys = PolicyFlags::UNPROTECTED | PolicyFlags::VERITY;
        let [root, usr] = [Designator::Root, Designator::Usr];
        for (strict, loose) in [(root, usr), (usr, root)] {
            let loose_states = states(loose) & anybodys;
            if states(strict).is_empty() || !authentic.contains(states(strict)) || loose_states.is_empty() {
                continue;
            }
            let rule = self.policy.rule(loose);
            let place = match rule.origin() {
                RuleOrigin::Default => Place::Default,
                RuleOrigin::Explicit | RuleOrigin::Derived { .. } => Place::Designator(loose),
            };
            let message = format!(
                "{strict} must be authentic, and {loose} need not be ('{rule}'): whoever adds a {loose} to the image \
                 decides what runs"
            );
            let suggestion = format!("{loose}={}", PolicyFlags::SIGNED | PolicyFlags::ABSENT);
            self.find(Lint::UnsignedBeside, place, loose_states, message, Some(suggestion));
        }
    }

    /// A file system under dm-verity is not used unless its hash tree is.
    fn hash_trees(&mut self) {
        for designator in [Designator::Root, Designator::Usr] {
            let (rule, Some(hash)) = (self.policy.rule(designator), designator.verity_hash()) else {
                continue;
            };
            let protected = rule.flags() & (PolicyFlags::VERITY | PolicyFlags::SIGNED);
            let hash = self.policy.rule(hash);
            let has_file_systems = !(hash.flags() & PolicyFlags::FILE_SYSTEMS).is_empty();
            let is_usable = hash.uses().contains(PolicyFlags::UNPROTECTED) && !has_file_systems;
            let by_default = rule.origin() == RuleOrigin::Default;
            let is_open = by_default && rule.uses().contains(PolicyFlags::USE);
            if protected.is_empty() || is_usable || hash.uses().is_empty() || is_open {
                continue;
            }
            let place = if by_default { Place::Default } else { Place::Designator(designator) };
            let because = if by_default { "; from a default no rule for it follows" } else { "" };
            let message = format!(
                "'{protected}' never holds for {designator} in a partition table: by '{hash}' its hash tree cannot be \
                 used{because}"
            );
            let suggestion = by_default
                .then(|| rule_text(Place::Designator(designator), rule.flags().without_full_groups()));
            self.find(Lint::NeverMatches, place, protected, message, suggestion);
        }
    }

    fn omitted_default(&mut self) {
        if self.policy.omits_default() {
            let message = "there is no rule for what is not named, which may be there, unused: it means \
                           ':=unused+absent'; write that, or ':=absent' to refuse such images"
                .to_owned();
            self.find(
                Lint::OmittedDefault,
                Place::Default,
                PolicyFlags::NONE,
                message,
                Some("=absent".to_owned()),
            );
        }
    }

    fn redundant_rules(&mut self) {
        let simplified = self.policy.simplified();
        let redundant =
            self.policy.rules.iter().filter(|(designator, _)| !simplified.rules.contains_key(designator));
        for (designator, flags) in
            redundant.map(|(designator, flags)| (*designator, *flags)).collect::<Vec<_>>()
        {
            let place = Place::Designator(designator);
            let message = format!("'{}' says what holds without it", rule_text(place, flags));
            self.find(Lint::RedundantRule, place, PolicyFlags::NONE, message, None);
        }
    }
}

/// Protections by how much it takes to make an image that satisfies them, least first.
const BY_STRENGTH: [Protection; 5] = [
    Protection::Unprotected,
    Protection::Verity,
    Protection::Encrypted,
    Protection::EncryptedWithIntegrity,
    Protection::Signed,
];

fn weakest(states: PolicyFlags) -> Option<Protection> {
    BY_STRENGTH.into_iter().find(|state| states.contains(state.flag()))
}

/// Of these states those to which none of the others is inferior: what is signed, or encrypted with integrity, is somebody's
/// in its own way.
fn strongest(states: PolicyFlags) -> PolicyFlags {
    let authentic = states & (PolicyFlags::SIGNED | PolicyFlags::ENCRYPTED_WITH_INTEGRITY);
    if !authentic.is_empty() {
        return authentic;
    }
    BY_STRENGTH
        .into_iter()
        .rev()
        .map(Protection::flag)
        .find(|flag| states.contains(*flag))
        .unwrap_or(PolicyFlags::NONE)
}

/// Whether an image of the class can have a partition of the designator that anybody uses: what systemd's own policies for
/// the class name (`sysext`, `confext`, `service`, `host`).
fn has(class: ImageClass, designator: Designator) -> bool {
    let data = designator.verity_data().unwrap_or(designator);
    match class {
        ImageClass::Machine => true,
        ImageClass::Portable => !matches!(data, Designator::Esp | Designator::Xbootldr | Designator::Swap),
        ImageClass::Sysext => data.verity_role() == Some(VerityRole::Data),
        ImageClass::Confext => data == Designator::Root,
    }
}

#[cfg(test)]
mod tests;
