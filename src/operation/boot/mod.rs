//! What the kernel command line asks for at boot: pull, verify and attach, each image in one process, or say why not.

mod cache_partition;
mod generator;
mod origin;
mod rehearsal;
mod request;
mod units;

use std::borrow::Borrow;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::format::image_class::ImageClass;
use crate::format::loop_reference::LoopReference;
use crate::format::pull_expression::{PullExpression, PullKind};
use crate::image::boot::{BootMistake, BootPolicies, BootRequest, PullSource, Stage, is_in_memory};
use crate::image::finding::with_causes;
use crate::image::presets::RequestedPolicy;

use super::activate::GuardOptions;
use super::cancel::Cancel;
use super::error::OperationError;
use super::image_directory::{ImageDirectory, Medium};
use super::observer::Observer;
use super::policy_store;
use super::pull::companions::CompanionChoice;
use super::pull::{
    FileRequest, Patience, PullRequest, Sidecars, TarRequest, parse_origin, pull, pull_file, pull_tar,
    reference_of_file, reference_of_tree,
};
use super::record::{Record, RecordStore, State};
use super::trust_store::{TrustSettings, TrustStore};

pub use generator::{GeneratorDirectories, generate};
pub use rehearsal::{Rehearsed, rehearse};
pub use request::{BootSources, expect_one_actor, is_asked_for, read_request};

/// How long a server may take at boot. Nobody is there to wait or to interrupt: what does not come is given up.
const PATIENCE: Patience =
    Patience { retries: 5, connect: Duration::from_secs(15), stall: Duration::from_secs(30), total: None };

/// What can be done at boot about an image that is not acceptable.
const WAYS_OUT: &str = "what can be done on the kernel command line: pin the image, by roothash= or by verify=SHA256 in the \
                        pull; or rd.systemd.image_policy=, which says what is enough instead of @verified-boot ('*': anything)";

/// What came of a pull.
#[derive(Debug, Clone)]
pub enum BootOutcome {
    /// Devices were made.
    Attached(Record),
    /// A file or a tree was placed.
    Placed(Record),
    /// The same was done before, in this boot or an earlier one.
    Already(PathBuf),
    /// The machine was not booted from a server, and the pull is for one that was.
    NotBootedFromServer,
}

/// Does one pull, the one with this number, from 0.
///
/// # Errors
/// [`OperationError::Usage`] where the command line is wrong or has no such pull; what refused or failed otherwise. Nothing
/// is left behind then.
pub fn run_pull(
    request: &BootRequest,
    number: usize,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<BootOutcome, OperationError> {
    check(request)?;
    let asked = request.pulls.get(number).ok_or_else(|| {
        let found = request.pulls.len();
        OperationError::Usage(format!(
            "doing pull {number} of the kernel command line: expected a number below {found}, which is how many there are"
        ))
    })?;
    let expression = asked.expression.as_ref().map_err(mistaken)?;
    let prepared = PreparedPull::new(request, expression)?;
    if let Some(path) = prepared.is_done()? {
        observer.note(&format!("'{}' is there already", path.display()));
        return Ok(BootOutcome::Already(path));
    }
    let Some(url) = origin::url_of(expression, observer)? else {
        return Ok(BootOutcome::NotBootedFromServer);
    };
    let outcome = prepared.run(&url, observer, cancel);
    if matches!(outcome, Err(OperationError::Refused { .. } | OperationError::Archive { .. })) {
        observer.note(WAYS_OUT);
    }
    let by_credential = matches!(asked.source, PullSource::Credential(_)) && request.stage == Stage::Initrd;
    if outcome.is_ok() && by_credential {
        request::note_credential()?;
    }
    outcome
}

/// Does every pull, in order. The first that fails ends it: what was done before stays.
///
/// # Errors
/// As [`run_pull`].
pub fn run_all(
    request: &BootRequest,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Vec<BootOutcome>, OperationError> {
    // A mistake in the last expression is said before the first is downloaded.
    check_all(request)?;
    (0..request.pulls.len()).map(|number| run_pull(request, number, observer, cancel)).collect()
}

/// Refuses a request that is wrong as a whole, and a system where another generator does the same pulls without a
/// policy.
///
/// # Errors
/// [`OperationError::Usage`] for what the command line says, [`OperationError::State`] for the other actor.
pub fn check(request: &BootRequest) -> Result<(), OperationError> {
    // What stands on the command line for others is not ours to judge.
    if request.pulls.is_empty() {
        return Ok(());
    }
    request.check().map_err(mistaken)?;
    expect_one_actor()
}

/// As [`check`], and refuses an expression that is wrong.
///
/// # Errors
/// As [`check`].
pub fn check_all(request: &BootRequest) -> Result<(), OperationError> {
    check(request)?;
    request.pulls.iter().try_for_each(|pull| pull.expression.as_ref().map(drop).map_err(mistaken))
}

fn mistaken(mistake: impl Borrow<BootMistake>) -> OperationError {
    OperationError::Usage(with_causes(mistake.borrow()))
}

/// A pull with all that counts for it looked up.
struct PreparedPull<'a> {
    request: &'a BootRequest,
    expression: &'a PullExpression,
    policy: RequestedPolicy,
    trust: TrustStore,
}

impl<'a> PreparedPull<'a> {
    fn new(request: &'a BootRequest, expression: &'a PullExpression) -> Result<Self, OperationError> {
        let resolve = |text: &Option<String>| text.as_deref().map(policy_store::resolve).transpose();
        let own = expression.image_policy.as_ref().map(|name| format!("@{name}"));
        let policies = BootPolicies {
            base: resolve(&request.base_policy)?,
            own: resolve(&own)?,
            further: resolve(&request.further_policy)?,
        };
        let policy = policies.effective(expression.class).map_err(|disjoint| {
            OperationError::Usage(format!(
                "combining the image policies for '{}': {disjoint}: no image can satisfy all of them",
                expression.name
            ))
        })?;
        let policy = policy.demanding(request.demands(expression).map_err(mistaken)?);
        let (root_hash, usr_hash) = request.hashes(expression);
        let trust = TrustStore::load(TrustSettings {
            root_hash,
            usr_hash,
            class: Some(expression.class),
            ..TrustSettings::default()
        })?;
        Ok(Self { request, expression, policy, trust })
    }

    /// Where the image or tree is, if it is there already by our doing in this boot, or on a disk by that of an earlier
    /// one where it is a tree, which is not replaced.
    fn is_done(&self) -> Result<Option<PathBuf>, OperationError> {
        let target = PathBuf::from(crate::image::boot::target(self.expression, self.request.stage));
        if is_in_memory(self.expression, self.request.stage) {
            let ready = RecordStore::of_this_machine().find(&self.reference()?).filter(|record| {
                record.state == State::Ready
                    && record.placed.as_ref().is_some_and(|placed| placed.path == target)
            });
            return Ok(ready.map(|_| target));
        }
        let there =
            target.try_exists().map_err(|source| OperationError::system("examining", &target, source))?;
        Ok((there && self.expression.kind == PullKind::Tar).then_some(target))
    }

    fn reference(&self) -> Result<LoopReference, OperationError> {
        let PullExpression { kind, class, name, .. } = self.expression;
        match kind {
            PullKind::Raw => reference_of_file(name, *class),
            PullKind::Tar => reference_of_tree(name),
        }
    }

    fn directory(&self) -> ImageDirectory {
        let expression = self.expression;
        let medium = if is_in_memory(expression, self.request.stage) { Medium::Memory } else { Medium::Disk };
        let directory = ImageDirectory::of_class(expression.class, medium);
        // Whichever comes first mounts it, for all of them.
        let for_root = self.request.stage == Stage::Initrd && expression.class == ImageClass::Machine;
        ImageDirectory { for_root, ..directory }
    }

    fn pull_request(&self, url: &str) -> Result<PullRequest, OperationError> {
        Ok(PullRequest {
            url: parse_origin(url, io::empty())?,
            name: self.expression.name.clone(),
            class: self.expression.class,
            directory: self.directory(),
            policy: self.policy.clone(),
            verify: self.expression.verify,
            sidecars: Sidecars { choice: CompanionChoice::Automatic, named: Vec::new(), settings: false },
            cache: None,
            keyrings: Vec::new(),
            ca_certificates: Vec::new(),
            patience: PATIENCE,
            guard: GuardOptions::default(),
        })
    }

    fn run(
        &self,
        url: &str,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<BootOutcome, OperationError> {
        for warning in self.trust.warnings() {
            observer.warning(warning);
        }
        if !self.policy.strictness().demands_authentication() {
            observer.warning(&format!(
                "'{}' is held to '{}' alone, as the kernel command line says: nobody needs to vouch for it",
                self.expression.name, self.policy
            ));
        }
        let mut pulled = self.pull_request(url)?;
        let expression = self.expression;
        if expression.kind == PullKind::Tar {
            let request = TarRequest { pull: pulled, policy: Some(self.policy.clone()), device_nodes: true };
            return pull_tar(&request, &self.trust, observer, cancel).map(BootOutcome::Placed);
        }
        let cache = match &expression.cache {
            Some(label) => cache_partition::mount(label, &self.trust, observer, cancel)?,
            None => None,
        };
        pulled.cache = cache.as_ref().map(cache_partition::MountedCache::settings).transpose()?;
        let outcome = if expression.block_device {
            pull(&pulled, &self.trust, observer, cancel).map(|made| BootOutcome::Attached(made.record))
        } else {
            let request = FileRequest {
                policy: Some(self.policy.clone()),
                read_only: expression.read_only,
                // On a disk the one of the last boot is replaced by what the server has now.
                replace: pulled.directory.medium == Medium::Disk,
                pull: pulled,
            };
            pull_file(&request, &self.trust, observer, cancel).map(BootOutcome::Placed)
        };
        drop(cache);
        outcome
    }
}
