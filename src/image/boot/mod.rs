//! What the kernel command line, and beside it a credential, ask to be done at boot, and what is required of it.
//!
//! The command line is trusted; the credential is not: it can ask for images, and can neither loosen what is required
//! nor take a name that the command line uses.

mod action;
mod root_device;

use std::fmt;

use crate::format::designator::Designator;
use crate::format::image_class::ImageClass;
use crate::format::kernel_command_line::KernelCommandLine;
use crate::format::pull_expression::{PullExpression, PullExpressionError, PullKind};
use crate::format::root_hash::{RootHash, RootHashError};

use super::policy::Disjoint;
use super::presets::{RequestedPolicy, RoleDemand};

pub use action::{Action, ActionError};
pub use root_device::{NamedPart, RootDevice};

/// The local name whose root partition is the root file system by itself, as systemd has it.
pub const ROOT_DISK: &str = "rootdisk";

/// The most pulls that one boot does.
pub const MAX_PULLS: usize = 64;

/// Where the boot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In the initrd, before there is a root file system: `rd.systemd.pull=` counts.
    Initrd,
    /// In the system: `systemd.pull=` counts.
    Host,
}

impl Stage {
    /// The option of the kernel command line that asks for a pull in this stage.
    #[must_use]
    pub const fn pull_option(self) -> &'static str {
        match self {
            Self::Initrd => "rd.systemd.pull",
            Self::Host => "systemd.pull",
        }
    }
}

/// Everything that a boot is asked for.
#[derive(Debug, Clone)]
pub struct BootRequest {
    /// Where the boot stands.
    pub stage: Stage,
    /// What is pulled, in this order: by the command line, then by the credential.
    pub pulls: Vec<BootPull>,
    /// What `root=` names.
    pub root: Option<RootDevice>,
    /// What `mount.usr=` names.
    pub usr: Option<RootDevice>,
    /// Whether the root file system is to be writable: `rw`, unless `ro` stands behind it.
    pub root_writable: bool,
    /// What `rootfstype=` says.
    pub root_type: Option<String>,
    /// What `rootflags=` says.
    pub root_flags: Option<String>,
    /// What `rd.systemd.image_policy=` says instead of the usual policy, in an initrd.
    pub base_policy: Option<String>,
    /// What `systemd.image_policy=` asks on top.
    pub further_policy: Option<String>,
    /// What is done when a pull succeeds.
    pub success_action: Option<Action>,
    /// What is done when one fails.
    pub failure_action: Option<Action>,
    root_hash: Option<RootHash>,
    usr_hash: Option<RootHash>,
    mistake: Option<BootMistake>,
}

/// One pull that is asked for.
#[derive(Debug, Clone)]
pub struct BootPull {
    /// Who asks.
    pub source: PullSource,
    /// What is asked, or why that is not understood.
    pub expression: Result<PullExpression, BootMistake>,
}

/// Who asks for a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullSource {
    /// The kernel command line, by this option.
    CommandLine(&'static str),
    /// A line of the credential `import.pull`, from 1.
    Credential(usize),
}

impl fmt::Display for PullSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(option) => write!(f, "{option}= on the kernel command line"),
            Self::Credential(line) => write!(f, "line {line} of the credential import.pull"),
        }
    }
}

/// Something on the command line or in the credential is not understood, or contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootMistake {
    /// No pull expression.
    #[error("reading {place}, '{}'", .text.escape_debug())]
    Expression {
        /// Where it stands.
        place: PullSource,
        /// What it says.
        text: String,
        /// What is wrong with it.
        #[source]
        source: PullExpressionError,
    },
    /// Two pulls for one place.
    #[error("reading {place}: '{target}' is taken by an earlier pull: give another NAME")]
    Duplicate {
        /// Where the second stands.
        place: PullSource,
        /// The path that both would have.
        target: String,
    },
    /// More pulls than [`MAX_PULLS`].
    #[error("reading {place}: expected at most {MAX_PULLS} pulls")]
    TooMany {
        /// Where the first that is too much stands.
        place: PullSource,
    },
    /// The credential asks for what the command line alone may say.
    #[error(
        "reading {place}: the image '{name}' is the root file system by its name, which a credential cannot decide: put the pull on the kernel command line"
    )]
    NotForCredential {
        /// Where it stands.
        place: PullSource,
        /// The name.
        name: String,
    },
    /// No root hash.
    #[error("reading {option}= on the kernel command line")]
    RootHash {
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        #[source]
        source: RootHashError,
    },
    /// No action.
    #[error("reading {option}= on the kernel command line")]
    Action {
        /// Which option.
        option: String,
        /// What is wrong with it.
        #[source]
        source: ActionError,
    },
    /// A part of an image that cannot be the file system it is to be.
    #[error(
        "reading {option}= on the kernel command line: expected the {wanted} partition of '{name}', found its {found} partition"
    )]
    Role {
        /// Which option.
        option: &'static str,
        /// The image.
        name: String,
        /// What it is to be.
        wanted: Designator,
        /// What is named.
        found: Designator,
    },
}

/// The policies that count for an image, looked up.
#[derive(Debug, Clone)]
pub struct BootPolicies {
    /// That of `rd.systemd.image_policy=`, in place of the usual one.
    pub base: Option<RequestedPolicy>,
    /// That of `image-policy=` in the pull.
    pub own: Option<RequestedPolicy>,
    /// That of `systemd.image_policy=`.
    pub further: Option<RequestedPolicy>,
}

impl BootPolicies {
    /// What an image of this class must satisfy: the usual policy, or for other classes than extensions the one that the
    /// kernel command line has instead, and every further one as well.
    ///
    /// # Errors
    /// [`Disjoint`] where no image could satisfy all of them.
    pub fn effective(&self, class: ImageClass) -> Result<RequestedPolicy, Disjoint> {
        let base = if class.is_extension() {
            RequestedPolicy::verified_extension()
        } else {
            self.base.clone().unwrap_or_else(RequestedPolicy::verified_boot)
        };
        [&self.own, &self.further].into_iter().flatten().try_fold(base, |policy, other| policy.and(other))
    }
}

impl BootRequest {
    /// Reads a command line and, where there is one, the text of the credential `import.pull`: an expression a line, `#`
    /// in front of comments.
    #[must_use]
    pub fn read(line: &KernelCommandLine, credential: Option<&str>, stage: Stage) -> Self {
        let option = stage.pull_option();
        let on_line = line.values(option).map(|text| (PullSource::CommandLine(option), text));
        let in_credential = (1..)
            .zip(credential.unwrap_or_default().lines())
            .map(|(number, text)| (PullSource::Credential(number), text.trim()))
            .filter(|(_, text)| !text.is_empty() && !text.starts_with('#'));
        let mut mistake = None;
        let mut note = |found: BootMistake| {
            mistake.get_or_insert(found);
        };
        let in_initrd = stage == Stage::Initrd;
        let prefix = if in_initrd { "rd." } else { "" };
        let mut action = |what: &str| {
            let option = format!("{prefix}systemd.pull.{what}_action");
            let read = line.last(&option)?.parse().map_err(|source| BootMistake::Action { option, source });
            read.map_err(&mut note).ok()
        };
        let (success_action, failure_action) = (action("success"), action("failure"));
        let mut hash = |option: &'static str| {
            let text = line.last(option).filter(|text| !text.is_empty())?;
            text.parse().map_err(|source| note(BootMistake::RootHash { option, source })).ok()
        };
        let (root_hash, usr_hash) =
            if in_initrd { (hash("roothash"), hash("usrhash")) } else { (None, None) };
        let device = |option| line.last(option).filter(|_| in_initrd).map(RootDevice::read);
        let mut request = Self {
            stage,
            pulls: Vec::new(),
            root: device("root"),
            usr: device("mount.usr"),
            root_writable: line.last_of(&["ro", "rw"]) == Some("rw"),
            root_type: line.last("rootfstype").map(str::to_owned),
            root_flags: line.last("rootflags").map(str::to_owned),
            base_policy: line.last("rd.systemd.image_policy").filter(|_| in_initrd).map(str::to_owned),
            further_policy: line.last("systemd.image_policy").map(str::to_owned),
            success_action,
            failure_action,
            root_hash,
            usr_hash,
            mistake,
        };
        for (source, text) in on_line.chain(in_credential) {
            if request.pulls.len() == MAX_PULLS {
                request.mistake.get_or_insert(BootMistake::TooMany { place: source });
                break;
            }
            let expression = request.expression(source, text);
            request.pulls.push(BootPull { source, expression });
        }
        request
    }

    /// A boot that is asked for nothing, in an initrd unless it is known to be none.
    #[must_use]
    pub fn of_nothing(in_initrd: Option<bool>) -> Self {
        let stage = if in_initrd == Some(false) { Stage::Host } else { Stage::Initrd };
        Self::read(&KernelCommandLine::default(), None, stage)
    }

    fn expression(&self, place: PullSource, text: &str) -> Result<PullExpression, BootMistake> {
        let expression: PullExpression = text.parse().map_err(|source| BootMistake::Expression {
            place,
            text: text.to_owned(),
            source,
        })?;
        let target = target(&expression, self.stage);
        let taken = |other: &PullExpression| self::target(other, self.stage) == target;
        if self.pulls.iter().any(|pull| pull.expression.as_ref().is_ok_and(taken)) {
            return Err(BootMistake::Duplicate { place, target });
        }
        if matches!(place, PullSource::Credential(_))
            && self.stage == Stage::Initrd
            && self.is_root_disk(&expression)
        {
            return Err(BootMistake::NotForCredential { place, name: expression.name });
        }
        Ok(expression)
    }

    /// What is wrong with the command line as a whole: no pull is done then.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self) -> Result<(), &BootMistake> {
        self.mistake.as_ref().map_or(Ok(()), Err)
    }

    /// The roles that the parts of this image must have, because the command line names them as root or usr.
    ///
    /// # Errors
    /// [`BootMistake::Role`] where it names a part that can have no such role.
    pub fn demands(&self, pull: &PullExpression) -> Result<Vec<RoleDemand>, BootMistake> {
        let mut demands = Vec::new();
        if !pull.block_device || pull.class != ImageClass::Machine {
            return Ok(demands);
        }
        if self.is_root_disk(pull) {
            demands.push(RoleDemand::Used(Designator::Root));
        }
        let reference = format!("{}.raw", pull.name);
        for (option, device, wanted) in
            [("root", &self.root, Designator::Root), ("mount.usr", &self.usr, Designator::Usr)]
        {
            let Some(part) = device.as_ref().and_then(|device| device.part_of(&reference)) else { continue };
            demands.push(match part {
                NamedPart::Whole => RoleDemand::Whole(wanted),
                NamedPart::Number(number) => RoleDemand::Partition(number, wanted),
                NamedPart::Designator(found) if found == wanted => RoleDemand::Used(wanted),
                NamedPart::Designator(found) => {
                    let name = pull.name.clone();
                    return Err(BootMistake::Role { option, name, wanted, found });
                }
            });
        }
        Ok(demands)
    }

    /// The root hashes that the root and usr partitions of this image must have. They hold for the image that the command
    /// line names as root or usr; where it names none of those that are pulled, for every one that becomes block devices.
    #[must_use]
    pub fn hashes(&self, pull: &PullExpression) -> (Option<RootHash>, Option<RootHash>) {
        let of = |hash: &Option<RootHash>, designator| {
            let is_it = |pull: &PullExpression| self.is_for(pull, designator);
            let any = self.pulls.iter().filter_map(|pull| pull.expression.as_ref().ok()).any(is_it);
            let counts =
                if any { is_it(pull) } else { pull.block_device && pull.class == ImageClass::Machine };
            hash.clone().filter(|_| counts)
        };
        (of(&self.root_hash, Designator::Root), of(&self.usr_hash, Designator::Usr))
    }

    fn is_for(&self, pull: &PullExpression, designator: Designator) -> bool {
        let has = |demand: &RoleDemand| demand.designator() == designator;
        self.demands(pull).is_ok_and(|demands| demands.iter().any(has))
    }

    /// Whether this image is the root disk by its name: `root=gpt-auto` and `root=dissect` find it, and so does a command
    /// line without `root=`.
    #[must_use]
    pub fn is_root_disk(&self, pull: &PullExpression) -> bool {
        let automatic = matches!(self.root, None | Some(RootDevice::GptAuto | RootDevice::Dissect));
        self.stage == Stage::Initrd && automatic && pull.block_device && pull.name == ROOT_DISK
    }

    /// Whether the tree of this pull is what `root=bind:` names.
    #[must_use]
    pub fn is_bound_as_root(&self, pull: &PullExpression) -> bool {
        let path = target(pull, self.stage);
        pull.kind == PullKind::Tar
            && matches!(&self.root, Some(RootDevice::Bind(bound)) if bound.trim_end_matches('/') == path)
    }
}

/// Whether what is pulled lies in memory.
#[must_use]
pub fn is_in_memory(pull: &PullExpression, stage: Stage) -> bool {
    pull.block_device || pull.runtime.unwrap_or(stage == Stage::Initrd)
}

/// The path that the image or tree will have.
#[must_use]
pub fn target(pull: &PullExpression, stage: Stage) -> String {
    let directory = if is_in_memory(pull, stage) {
        pull.class.runtime_directory()
    } else {
        pull.class.persistent_directory()
    };
    match pull.kind {
        PullKind::Raw => format!("{directory}/{}.raw", pull.name),
        PullKind::Tar => format!("{directory}/{}", pull.name),
    }
}

#[cfg(test)]
mod tests;
