//! Testing one partition against the one rule that holds for it.

use std::fmt;

use super::{PolicyFlags, Rule, RuleOrigin};
use crate::format::designator::{Designator, VerityRole};

/// The one protection state of a partition that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// Neither dm-verity nor LUKS.
    Unprotected,
    /// dm-verity, and nothing that authenticates the root hash.
    Verity,
    /// dm-verity, with a root hash whose signature was verified.
    Signed,
    /// LUKS.
    Encrypted,
    /// LUKS with authenticated encryption.
    EncryptedWithIntegrity,
}

impl Protection {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Unprotected, Self::Verity, Self::Signed, Self::Encrypted, Self::EncryptedWithIntegrity];

    /// The word that policies and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unprotected => "unprotected",
            Self::Verity => "verity",
            Self::Signed => "signed",
            Self::Encrypted => "encrypted",
            Self::EncryptedWithIntegrity => "encryptedwithintegrity",
        }
    }

    /// The policy word for the state.
    #[must_use]
    pub const fn flag(self) -> PolicyFlags {
        match self {
            Self::Unprotected => PolicyFlags::UNPROTECTED,
            Self::Verity => PolicyFlags::VERITY,
            Self::Signed => PolicyFlags::SIGNED,
            Self::Encrypted => PolicyFlags::ENCRYPTED,
            Self::EncryptedWithIntegrity => PolicyFlags::ENCRYPTED_WITH_INTEGRITY,
        }
    }

    /// Whether what the partition holds shows only after it is unlocked.
    #[must_use]
    pub const fn hides_content(self) -> bool {
        matches!(self, Self::Encrypted | Self::EncryptedWithIntegrity)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What was found of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Found<'a> {
    /// Its one state, found from its content. That of a hash or signature partition is `Unprotected`.
    pub protection: Protection,
    /// Its read-only flag.
    pub read_only: bool,
    /// Its grow-file-system flag.
    pub growfs: bool,
    /// The file system in it.
    pub file_system: FoundFileSystem<'a>,
}

/// What was found of the file system in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FoundFileSystem<'a> {
    /// Its content is locked. Whoever unlocks it must ask again with what shows then. Believed of encrypted partitions only.
    Hidden,
    /// The file system of this name.
    Recognised(&'a str),
    /// None that is known.
    Unrecognised,
}

/// What a rule makes of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// It may be used in the state in which it was found, and in no other.
    Used,
    /// It is there and must not be exposed.
    Unused,
    /// It is not there, and need not be.
    Absent,
}

impl Use {
    /// The word for it: `used`, `unused` or `absent`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Unused => "unused",
            Self::Absent => "absent",
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A rule refuses what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refusing partition '{}' by rule '{}': {objection}", .rule.designator(), self.rule_text())]
pub struct PolicyRefusal {
    /// The rule.
    pub rule: Rule,
    /// What it refuses.
    pub objection: Objection,
}

/// What a rule has against a partition's being used, or against its being absent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// The file system is not one of those that the rule names.
    #[error("expected file system '{expected}', found '{found}'")]
    FileSystem {
        /// Those that the rule names.
        expected: PolicyFlags,
        /// That in the partition.
        found: String,
    },
    /// The rule names file systems, and there is none that is known.
    #[error("expected file system '{expected}', found none that is recognised")]
    FileSystemUnrecognised {
        /// Those that the rule names.
        expected: PolicyFlags,
    },
    /// The grow-file-system flag has the wrong value.
    #[error("expected the growfs flag {}, found it {}", on_off(*.expected), on_off(!.expected))]
    Growfs {
        /// The value that the rule demands; the other was found.
        expected: bool,
    },
    /// The partition is not there.
    #[error("expected '{expected}', found no such partition")]
    Missing {
        /// The uses that the rule allows.
        expected: PolicyFlags,
    },
    /// The partition is in a state that the rule does not allow.
    #[error("expected '{expected}', found '{found}'")]
    Protection {
        /// The uses that the rule allows.
        expected: PolicyFlags,
        /// The partition's one state.
        found: Protection,
    },
    /// The read-only flag has the wrong value.
    #[error("expected the read-only flag {}, found it {}", on_off(*.expected), on_off(!.expected))]
    ReadOnly {
        /// The value that the rule demands; the other was found.
        expected: bool,
    },
    /// No word of the rule has a meaning for the designator: it can be satisfied neither by a partition nor without one.
    #[error("expected what no image can have: none of the rule's words applies to this designator")]
    Unsatisfiable,
}

impl Rule {
    /// What the rule makes of the partition that was found, or of there being none.
    ///
    /// A partition is used if its one state is allowed and nothing else speaks against it; else it is unused if that is
    /// allowed; else it is refused. A missing one needs `absent`.
    ///
    /// # Errors
    /// A [`PolicyRefusal`] that says what was expected and what was found.
    pub fn decide(self, found: Option<Found<'_>>) -> Result<Use, PolicyRefusal> {
        let (objection, otherwise) = match found {
            Some(found) => match self.objection(found) {
                None => return Ok(Use::Used),
                Some(objection) => (objection, (PolicyFlags::UNUSED, Use::Unused)),
            },
            None => (self.objection_to_absence(), (PolicyFlags::ABSENT, Use::Absent)),
        };
        let (flag, instead) = otherwise;
        if self.uses().contains(flag) { Ok(instead) } else { Err(PolicyRefusal { rule: self, objection }) }
    }

    /// What speaks against using the partition that was found; `None` if it may be used. Tells of one that is unused why.
    #[must_use]
    pub fn objection(self, found: Found<'_>) -> Option<Objection> {
        let demands = self.demands();
        if self.uses().is_empty() {
            return Some(Objection::Unsatisfiable);
        }
        if !demands.contains(found.protection.flag()) {
            return Some(Objection::Protection { expected: self.uses(), found: found.protection });
        }
        let read_only = if found.read_only { PolicyFlags::READ_ONLY_ON } else { PolicyFlags::READ_ONLY_OFF };
        if !demands.contains(read_only) {
            return Some(Objection::ReadOnly { expected: !found.read_only });
        }
        let growfs = if found.growfs { PolicyFlags::GROWFS_ON } else { PolicyFlags::GROWFS_OFF };
        if !demands.contains(growfs) {
            return Some(Objection::Growfs { expected: !found.growfs });
        }
        let expected = demands & PolicyFlags::FILE_SYSTEMS;
        if expected.is_empty() {
            return None;
        }
        match found.file_system {
            FoundFileSystem::Hidden if found.protection.hides_content() => None,
            FoundFileSystem::Hidden | FoundFileSystem::Unrecognised => {
                Some(Objection::FileSystemUnrecognised { expected })
            }
            FoundFileSystem::Recognised(name) => (!expected.words().any(|word| word == name))
                .then(|| Objection::FileSystem { expected, found: name.to_owned() }),
        }
    }

    fn objection_to_absence(self) -> Objection {
        if self.uses().is_empty() {
            Objection::Unsatisfiable
        } else {
            Objection::Missing { expected: self.uses() }
        }
    }
}

impl PolicyRefusal {
    /// The designator of the partition that is refused.
    #[must_use]
    pub const fn designator(&self) -> Designator {
        self.rule.designator()
    }

    /// The rule as policy text, with where it comes from unless the policy writes it.
    #[must_use]
    pub fn rule_text(&self) -> String {
        match self.rule.origin() {
            RuleOrigin::Explicit => self.rule.to_string(),
            RuleOrigin::Derived { from } => format!("{} (derived from '{from}')", self.rule),
            RuleOrigin::Default => format!("{} (default)", self.rule),
        }
    }

    /// What the rule asks for, in policy words.
    #[must_use]
    pub fn expected(&self) -> String {
        match &self.objection {
            Objection::FileSystem { expected, .. }
            | Objection::FileSystemUnrecognised { expected }
            | Objection::Missing { expected }
            | Objection::Protection { expected, .. } => expected.to_string(),
            Objection::Growfs { expected } => format!("growfs-{}", on_off(*expected)),
            Objection::ReadOnly { expected } => format!("read-only-{}", on_off(*expected)),
            Objection::Unsatisfiable => PolicyFlags::NONE.to_string(),
        }
    }

    /// What there is instead, in policy words; `None` where it does not matter.
    #[must_use]
    pub fn found(&self) -> Option<String> {
        match &self.objection {
            Objection::FileSystem { found, .. } => Some(found.clone()),
            Objection::FileSystemUnrecognised { .. } => Some("no recognised file system".to_owned()),
            Objection::Growfs { expected } => Some(format!("growfs-{}", on_off(!expected))),
            Objection::Missing { .. } => Some(Use::Absent.to_string()),
            Objection::Protection { found, .. } => Some(found.to_string()),
            Objection::ReadOnly { expected } => Some(format!("read-only-{}", on_off(!expected))),
            Objection::Unsatisfiable => None,
        }
    }

    /// What the user can do about it: to the image, or to the policy.
    #[must_use]
    pub fn remedy(&self) -> String {
        let designator = self.designator();
        let rule_of = self.rule_to_change();
        match &self.objection {
            Objection::FileSystem { found, .. } if PolicyFlags::of_word(found).is_none() => {
                format!(
                    "use an image with '{}' in '{designator}'; no policy can name '{found}'",
                    self.expected()
                )
            }
            Objection::FileSystem { found, .. } => {
                format!(
                    "use an image with '{}' in '{designator}', or add '{found}' to {rule_of}",
                    self.expected()
                )
            }
            Objection::FileSystemUnrecognised { .. } => format!(
                "use an image with '{}' in '{designator}', or name no file system in {rule_of}",
                self.expected()
            ),
            Objection::Growfs { .. } | Objection::ReadOnly { .. } => format!(
                "set the flag of partition '{designator}' as demanded, or leave '{}' out of {rule_of}",
                self.expected()
            ),
            Objection::Missing { .. } => match self.rule.origin() {
                RuleOrigin::Derived { from } => format!(
                    "seal the image so that '{from}' has its '{designator}', or add 'absent' to {rule_of}"
                ),
                _ => format!("use an image with a partition '{designator}', or add 'absent' to {rule_of}"),
            },
            Objection::Protection { found, .. } => self.remedy_for_protection(*found),
            Objection::Unsatisfiable => format!(
                "write a rule for '{designator}' with a word that applies to it; '{}' is {}",
                PolicyFlags::VERITY | PolicyFlags::SIGNED,
                "for 'root' and 'usr' alone, and hash and signature partitions are 'unprotected'"
            ),
        }
    }

    fn remedy_for_protection(&self, found: Protection) -> String {
        let designator = self.designator();
        let wanted = self.rule.uses() & PolicyFlags::PROTECTIONS;
        let allow = format!("add '{found}' to {}", self.rule_to_change());
        if wanted.is_empty() {
            return format!("use an image without a partition '{designator}', or {allow}");
        }
        let data = designator.verity_role() == Some(VerityRole::Data);
        let sealed = PolicyFlags::VERITY | PolicyFlags::SIGNED;
        if data && found == Protection::Verity && wanted.contains(PolicyFlags::SIGNED) {
            return format!(
                "sign the root hash of '{designator}' with a key that is trusted here, or {allow}"
            );
        }
        if data && !(wanted & sealed).is_empty() {
            return format!("seal '{designator}' with a hash tree and a signature, or {allow}");
        }
        format!("use an image whose '{designator}' is '{wanted}', or {allow}")
    }

    /// Which rule of the policy decides, in words that follow a preposition.
    fn rule_to_change(&self) -> String {
        match self.rule.origin() {
            RuleOrigin::Explicit => format!("the rule for '{}'", self.designator()),
            RuleOrigin::Derived { from } => format!("the rule for '{from}'"),
            RuleOrigin::Default => format!("the policy by a rule for '{}'", self.designator()),
        }
    }
}

const fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}
