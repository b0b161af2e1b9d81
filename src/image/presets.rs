//! Policies by name: what policy files look like, those that are compiled in, and what two of the names ask on top.

use std::fmt;
use std::str::FromStr;

use super::policy::{Disjoint, ImagePolicy, MAX_POLICY_TEXT, ParsePolicyError, PolicyFlags, RuleSet};
use crate::format::designator::Designator;
use crate::format::units::PartitionNumber;

/// What ends the name of a policy file.
pub const POLICY_FILE_SUFFIX: &str = ".policy";

/// The longest policy name in bytes: with the suffix it is a file name on every file system.
pub const MAX_POLICY_NAME: usize = 200;

/// The name of a policy: letters, digits, `-`, `_` and `.` of ASCII, no `.` in front. It never leads out of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName(String);

/// The text is not a policy name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyNameError {
    /// A character that names do not have, `/` for one.
    #[error("expected a policy name of letters, digits, '-', '_' and '.', found '{found}'")]
    Character {
        /// The first one.
        found: char,
    },
    /// No name at all.
    #[error("expected a policy name, found nothing")]
    Empty,
    /// A dot in front.
    #[error("expected a policy name without a dot in front, found '{name}'")]
    LeadingDot {
        /// The text.
        name: String,
    },
    /// More than [`MAX_POLICY_NAME`] bytes.
    #[error("expected a policy name of at most {MAX_POLICY_NAME} bytes, found {found}")]
    TooLong {
        /// How many bytes there are.
        found: usize,
    },
}

impl PolicyName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the file that holds the policy, in every directory that is searched.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}{POLICY_FILE_SUFFIX}", self.0)
    }
}

impl FromStr for PolicyName {
    type Err = PolicyNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(PolicyNameError::Empty);
        }
        if text.len() > MAX_POLICY_NAME {
            return Err(PolicyNameError::TooLong { found: text.len() });
        }
        if let Some(found) =
            text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'))
        {
            return Err(PolicyNameError::Character { found });
        }
        if text.starts_with('.') {
            return Err(PolicyNameError::LeadingDot { name: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What `--image-policy=` takes: policy text, or `@NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyArgument {
    /// The policy of this name, to be looked up.
    Named(PolicyName),
    /// A policy as written.
    Text(ImagePolicy),
}

/// The text is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyArgumentError {
    /// What follows the `@` is no name.
    #[error("parsing the policy name")]
    Name(#[source] PolicyNameError),
    /// The text is no policy.
    #[error("parsing the image policy")]
    Text(#[source] ParsePolicyError),
}

impl FromStr for PolicyArgument {
    type Err = PolicyArgumentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('@') {
            Some(name) => name.parse().map(Self::Named).map_err(PolicyArgumentError::Name),
            None => text.parse().map(Self::Text).map_err(PolicyArgumentError::Text),
        }
    }
}

/// A policy file: comments, of which the first describes it, then rules, one a line or parted by colons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// The first comment; empty where there is none.
    pub description: String,
    /// The policy.
    pub policy: ImagePolicy,
}

/// The text is not a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFileError {
    /// A line is no rule.
    #[error("parsing line {line}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it. Its spans are in bytes of that line, without the whitespace around it.
        #[source]
        source: ParsePolicyError,
    },
    /// No rule at all. The text of an empty policy is valid elsewhere; an empty file is more likely a truncated one.
    #[error("expected at least one rule, found none")]
    NoRules,
    /// More text than any policy has.
    #[error("expected at most {MAX_POLICY_TEXT} bytes of policy text, found {found}")]
    TooLong {
        /// How many bytes there are.
        found: usize,
    },
}

impl PolicyFile {
    /// Reads the text of a policy file.
    ///
    /// # Errors
    /// A [`PolicyFileError`], with the line that is wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyFileError> {
        if text.len() > MAX_POLICY_TEXT {
            return Err(PolicyFileError::TooLong { found: text.len() });
        }
        let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
        let (comments, rules): (Vec<_>, Vec<_>) = lines.partition(|(_, line)| line.starts_with('#'));
        let description = comments.first().map_or("", |(_, line)| line.trim_start_matches('#').trim());
        let at_line = |line| move |source| PolicyFileError::Line { line, source };
        let policy = match rules.as_slice() {
            [] => return Err(PolicyFileError::NoRules),
            [(line, rule)] => rule.parse().map_err(at_line(*line))?,
            rules => {
                let mut set = RuleSet::default();
                for (line, rule) in rules {
                    set.read(rule).map_err(at_line(*line))?;
                }
                set.into_policy()
            }
        };
        Ok(Self { description: description.to_owned(), policy })
    }
}

/// What is asked of an image beyond the text of the policy. It goes with the policy's name, whatever a file of that name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strictness {
    /// Nothing.
    AsWritten,
    /// Root or usr must be there and used, and no partition that is unprotected, merely encrypted, or under dm-verity
    /// without an authenticated root hash may be exposed, whatever its designator.
    VerifiedBoot,
    /// The same, and no partition but root, usr and what verifies them may be exposed.
    VerifiedExtension,
}

impl Strictness {
    /// The name that asks for [`VerifiedBoot`](Self::VerifiedBoot).
    pub const VERIFIED_BOOT: &str = "verified-boot";
    /// The name that asks for [`VerifiedExtension`](Self::VerifiedExtension).
    pub const VERIFIED_EXTENSION: &str = "verified-extension";

    /// What goes with a name.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        match name {
            Self::VERIFIED_BOOT => Self::VerifiedBoot,
            Self::VERIFIED_EXTENSION => Self::VerifiedExtension,
            _ => Self::AsWritten,
        }
    }

    /// Whether whatever is exposed must be authenticated, and root or usr be used.
    #[must_use]
    pub const fn demands_authentication(self) -> bool {
        matches!(self, Self::VerifiedBoot | Self::VerifiedExtension)
    }
}

/// A policy as somebody asked for it, with what its name adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedPolicy {
    name: Option<PolicyName>,
    policy: ImagePolicy,
    strictness: Strictness,
    demands: Vec<RoleDemand>,
}

/// What a part of the image must be, because somebody will use it by this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleDemand {
    /// The image has no table, and is the file system for this designator as a whole.
    Whole(Designator),
    /// The partition with this number is the one that is used for this designator.
    Partition(PartitionNumber, Designator),
    /// Some partition is used for this designator.
    Used(Designator),
}

impl RoleDemand {
    /// The designator.
    #[must_use]
    pub const fn designator(self) -> Designator {
        match self {
            Self::Whole(designator) | Self::Partition(_, designator) | Self::Used(designator) => designator,
        }
    }
}

impl fmt::Display for RoleDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(designator) => write!(f, "an image without a table as the {designator} file system"),
            Self::Partition(number, designator) => {
                write!(f, "partition {number} to be the {designator} partition")
            }
            Self::Used(designator) => write!(f, "a {designator} partition to use"),
        }
    }
}

impl RequestedPolicy {
    /// A policy that has no name.
    #[must_use]
    pub const fn as_written(policy: ImagePolicy) -> Self {
        Self { name: None, policy, strictness: Strictness::AsWritten, demands: Vec::new() }
    }

    /// The policy of this name, read from a file or compiled in.
    #[must_use]
    pub fn named(name: PolicyName, policy: ImagePolicy) -> Self {
        let strictness = Strictness::of_name(name.as_str());
        Self { name: Some(name), policy, strictness, demands: Vec::new() }
    }

    /// `@verified-boot` as compiled in: the default wherever block devices or mounts come of an image.
    #[must_use]
    pub fn verified_boot() -> Self {
        Self::named(PolicyName(Strictness::VERIFIED_BOOT.to_owned()), signed_or_absent())
    }

    /// `@verified-extension` as compiled in: the default for system and configuration extensions.
    #[must_use]
    pub fn verified_extension() -> Self {
        Self::named(PolicyName(Strictness::VERIFIED_EXTENSION.to_owned()), signed_or_absent())
    }

    /// The same, and what another policy asks as well. What the name adds stays.
    ///
    /// # Errors
    /// [`Disjoint`] where no image could satisfy both.
    pub fn tightened_by(&self, other: &ImagePolicy) -> Result<Self, Disjoint> {
        Ok(Self { policy: self.policy.intersect(other)?, ..self.clone() })
    }

    /// The same, and all that another one asks as well: its rules, what its name adds, and its demands. The name is that
    /// of the one whose name adds more.
    ///
    /// # Errors
    /// [`Disjoint`] where no image could satisfy both.
    pub fn and(&self, other: &Self) -> Result<Self, Disjoint> {
        let stricter = if other.strictness > self.strictness { other } else { self };
        Ok(Self {
            policy: self.policy.intersect(&other.policy)?,
            demands: self.demands.iter().chain(&other.demands).copied().collect(),
            ..stricter.clone()
        })
    }

    /// The same, and these roles for parts of the image.
    #[must_use]
    pub fn demanding(self, demands: Vec<RoleDemand>) -> Self {
        Self { demands, ..self }
    }

    /// The roles that parts of the image must have.
    #[must_use]
    pub fn demands(&self) -> &[RoleDemand] {
        &self.demands
    }

    /// The name that it was asked for by.
    #[must_use]
    pub const fn name(&self) -> Option<&PolicyName> {
        self.name.as_ref()
    }

    /// Its rules.
    #[must_use]
    pub const fn policy(&self) -> &ImagePolicy {
        &self.policy
    }

    /// What is asked beyond its rules.
    #[must_use]
    pub const fn strictness(&self) -> Strictness {
        self.strictness
    }
}

impl fmt::Display for RequestedPolicy {
    /// `@NAME`, or the policy text where it has no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.pad(&format!("@{name}")),
            None => fmt::Display::fmt(&self.policy, f),
        }
    }
}

/// A policy file that is compiled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The name.
    pub name: &'static str,
    /// The text of the file.
    pub text: &'static str,
}

impl Preset {
    /// The preset of a name.
    #[must_use]
    pub fn find(name: &PolicyName) -> Option<Self> {
        PRESETS.into_iter().find(|preset| preset.name == name.as_str())
    }

    /// What the file says.
    ///
    /// # Errors
    /// As [`PolicyFile::parse`]; of the files that are compiled in, the tests know that there is none.
    pub fn file(self) -> Result<PolicyFile, PolicyFileError> {
        PolicyFile::parse(self.text)
    }
}

macro_rules! presets {
    ($($name:literal),+ $(,)?) => {
        [$(Preset { name: $name, text: include_str!(concat!("../../policy/", $name, ".policy")) }),+]
    };
}

/// All that are compiled in: ours, then systemd's built-in ones by their names.
pub const PRESETS: [Preset; 12] = presets![
    "verified-boot",
    "verified-extension",
    "allow",
    "deny",
    "ignore",
    "sysext",
    "sysext-strict",
    "confext",
    "confext-strict",
    "service",
    "container",
    "host",
];

/// A line of `policy list`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PresetRow {
    /// The name, to be written as `@NAME`.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The policy as systemd shortens it.
    pub policy: String,
}

impl PresetRow {
    /// The line for a policy file of this name.
    #[must_use]
    pub fn new(name: &str, file: &PolicyFile) -> Self {
        Self { name: name.to_owned(), description: file.description.clone(), policy: file.policy.to_string() }
    }
}

/// The lines of `policy list` for all that are compiled in.
///
/// # Errors
/// As [`Preset::file`].
pub fn preset_rows() -> Result<Vec<PresetRow>, PolicyFileError> {
    PRESETS.into_iter().map(|preset| Ok(PresetRow::new(preset.name, &preset.file()?))).collect()
}

fn signed_or_absent() -> ImagePolicy {
    let signed = PolicyFlags::SIGNED | PolicyFlags::ABSENT;
    ImagePolicy::new(PolicyFlags::IGNORE, [(Designator::Root, signed), (Designator::Usr, signed)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(name: &str) -> PolicyFile {
        Preset::find(&name.parse().unwrap()).unwrap().file().unwrap()
    }

    #[test]
    fn every_preset_parses_describes_itself_and_has_a_valid_name() {
        for row in preset_rows().unwrap() {
            assert!(!row.description.is_empty(), "{}", row.name);
            assert_eq!(row.policy.parse::<ImagePolicy>().unwrap(), preset(&row.name).policy, "{}", row.name);
        }
    }

    #[test]
    fn presets_are_what_systemd_builds_in() {
        let protected = "verity+signed+encrypted+encryptedwithintegrity+unprotected+absent";
        let encrypted = "encrypted+encryptedwithintegrity+unprotected+absent";
        let roots = format!("root={protected}:usr={protected}");
        let service = format!("{roots}:home={encrypted}:srv={encrypted}");
        let temporary = format!("tmp={encrypted}:var={encrypted}");
        let boot = "esp=unprotected+absent:xbootldr=unprotected+absent";
        for (name, text) in [
            ("allow", "*".to_owned()),
            ("deny", "~".to_owned()),
            ("ignore", "-".to_owned()),
            ("sysext", roots.clone()),
            ("sysext-strict", "root=signed+absent:usr=signed+absent".to_owned()),
            ("confext", format!("root={protected}")),
            ("confext-strict", "root=signed+absent".to_owned()),
            ("service", format!("{service}:{temporary}")),
            ("container", format!("{service}:{boot}:{temporary}")),
            ("host", format!("{service}:{boot}:swap={encrypted}:{temporary}")),
        ] {
            assert_eq!(preset(name).policy.to_string(), text, "{name}");
        }
    }

    #[test]
    fn the_verified_presets_are_the_defaults_and_keep_their_strictness() {
        for (requested, strictness) in [
            (RequestedPolicy::verified_boot(), Strictness::VerifiedBoot),
            (RequestedPolicy::verified_extension(), Strictness::VerifiedExtension),
        ] {
            let name = requested.name().unwrap();
            assert_eq!(requested.policy(), &preset(name.as_str()).policy);
            assert_eq!(requested.strictness(), strictness);
            let loosened = RequestedPolicy::named(name.clone(), ImagePolicy::allow());
            assert_eq!(loosened.strictness(), strictness, "whatever the file says");
            let tightened = requested.tightened_by(&"root=signed".parse().unwrap()).unwrap();
            assert_eq!(tightened.strictness(), strictness);
            assert_eq!(tightened.policy().to_string(), "root=signed:usr=absent");
        }
        let sysext = RequestedPolicy::named("sysext-strict".parse().unwrap(), ImagePolicy::deny());
        assert_eq!(
            (sysext.strictness(), sysext.to_string().as_str()),
            (Strictness::AsWritten, "@sysext-strict")
        );
        assert!(!RequestedPolicy::as_written(ImagePolicy::deny()).strictness().demands_authentication());
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for (name, error) in [
            ("", PolicyNameError::Empty),
            ("a/b", PolicyNameError::Character { found: '/' }),
            ("../etc", PolicyNameError::Character { found: '/' }),
            ("..", PolicyNameError::LeadingDot { name: "..".to_owned() }),
            (".hidden", PolicyNameError::LeadingDot { name: ".hidden".to_owned() }),
            ("a b", PolicyNameError::Character { found: ' ' }),
            ("a\0", PolicyNameError::Character { found: '\0' }),
            ("\u{e4}", PolicyNameError::Character { found: '\u{e4}' }),
        ] {
            assert_eq!(name.parse::<PolicyName>(), Err(error), "{name:?}");
        }
        let long = "a".repeat(MAX_POLICY_NAME + 1);
        assert_eq!(long.parse::<PolicyName>(), Err(PolicyNameError::TooLong { found: MAX_POLICY_NAME + 1 }));
        assert_eq!("my-site_2.1".parse::<PolicyName>().unwrap().file_name(), "my-site_2.1.policy");
    }

    #[test]
    fn an_argument_is_a_name_or_a_policy() {
        let argument = |text: &str| text.parse::<PolicyArgument>();
        assert_eq!(argument("@host"), Ok(PolicyArgument::Named("host".parse().unwrap())));
        assert_eq!(argument("~"), Ok(PolicyArgument::Text(ImagePolicy::deny())));
        assert_eq!(argument("@"), Err(PolicyArgumentError::Name(PolicyNameError::Empty)));
        assert!(matches!(
            argument("host"),
            Err(PolicyArgumentError::Text(ParsePolicyError::MissingEquals { .. }))
        ));
    }

    #[test]
    fn files_hold_comments_and_rules_by_lines_or_colons() {
        let text = "\n  # What it is for \n# more\n\nroot=signed : usr=verity\n\t=absent\r\n# end";
        let file = PolicyFile::parse(text).unwrap();
        assert_eq!(file.description, "What it is for");
        assert_eq!(file.policy, "root=signed:usr=verity:=absent".parse().unwrap());
        assert_eq!(PolicyFile::parse(" ~ ").unwrap().policy, ImagePolicy::deny());
        assert_eq!(PolicyFile::parse("root=open").unwrap().description, "");
    }

    #[test]
    fn malformed_files_are_refused_with_their_line() {
        let line = |line, source| PolicyFileError::Line { line, source };
        let missing = |rule: &str, span| ParsePolicyError::MissingEquals { rule: rule.to_owned(), span };
        for (text, error) in [
            ("", PolicyFileError::NoRules),
            ("# only words\n\n", PolicyFileError::NoRules),
            ("# a\nroot=signed\nusr", line(3, missing("usr", 0..3))),
            ("root=signed:\nusr=open", line(1, missing("", 12..12))),
            ("root=signed\n*\n", line(2, missing("*", 0..1))),
            ("root=signed\n-\n", line(2, missing("-", 0..1))),
            (
                "root=signed # why",
                line(1, ParsePolicyError::UnknownFlag { word: "signed # why".to_owned(), span: 5..17 }),
            ),
            (
                "root=signed\nusr=open\nroot=open\n",
                line(3, ParsePolicyError::DuplicateDesignator { designator: Designator::Root, span: 0..4 }),
            ),
            ("=open\n=absent", line(2, ParsePolicyError::DuplicateDefault { span: 0..7 })),
        ] {
            assert_eq!(PolicyFile::parse(text), Err(error), "{text:?}");
        }
        let long = " ".repeat(MAX_POLICY_TEXT + 1);
        assert_eq!(PolicyFile::parse(&long), Err(PolicyFileError::TooLong { found: MAX_POLICY_TEXT + 1 }));
    }
}
