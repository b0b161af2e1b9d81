//! Mounting an image: its devices are made and held, its file systems are mounted one after the other, and from then on
//! the mounts alone hold the devices: whoever unmounts them frees everything. Of an image that is attached already the
//! devices that are there are used, and stay.
//!
//! Right before each mount its device is looked at again: what is mounted is what was planned.

mod check;
mod overlap;
mod places;
mod share;
mod target;
mod tree;

use crate::format::loop_reference::LoopReference;
use crate::image::places::{MountPlan, MountSettings};
use crate::image::plan::ActivationPlan;
use crate::operation::activate::Activation;
use crate::operation::attach::{self, AttachRequest, default_reference, plan_attach};
use crate::operation::cancel::Cancel;
use crate::operation::detach::reap;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::observer::Observer;
use crate::operation::record::Record;
use crate::operation::trust_store::TrustStore;

use std::path::PathBuf;

use self::target::Target;
use self::tree::Tree;

/// How many mounts of one image have a name without `--loop-ref=`: `NAME`, `NAME.2`, and so on.
const MAXIMUM_NAMES: u32 = 64;
/// What a taken name is refused with, see [`super::activate`].
const NAMING: &str = "attaching as";

/// What is to be mounted, where, and how.
#[derive(Debug)]
pub struct MountRequest {
    /// The image and what is required of it.
    pub image: AttachRequest,
    /// Where.
    pub directory: PathBuf,
    /// Whether to make the directory where it is missing.
    pub make_directory: bool,
    /// What to do with writable file systems.
    pub settings: MountSettings,
}

/// What [`mount`] would do.
///
/// # Errors
/// As [`mount`], as far as it can be known.
pub fn plan_mount(
    request: &MountRequest,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Result<(LoopReference, ActivationPlan, MountPlan), OperationError> {
    let (reference, plan) = plan_attach(&request.image, trust, cancel)?;
    let mounts = MountPlan::new(&plan.devices, request.settings).map_err(|error| {
        OperationError::state("mounting", request.image.image.display(), error.to_string())
    })?;
    Ok((reference, plan, mounts))
}

/// Mounts an image.
///
/// # Errors
/// [`OperationError`]; nothing is left behind then.
pub fn mount(
    mut request: MountRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Record, OperationError> {
    // First of all: what a process that died has left may be mounted on this very directory.
    reap(observer)?;
    // What can be refused is refused before anything is made.
    let (_, plan, mounts) = plan_mount(&request, trust, cancel)?;
    fault::point("mount:before")?;
    let target = Target::find(&request.directory, request.make_directory)?;
    let mounted = fault::point("mount:target")
        .and_then(|()| share::find(&request.image, trust, observer, cancel))
        .and_then(|shared| match shared {
            Some(activation) => Ok(activation),
            None => activate_by_a_free_name(&mut request.image, trust, observer, cancel),
        })
        .and_then(|activation| {
            let work = Work { plan: &plan, mounts, settings: request.settings, observer, cancel };
            work.carry_out(activation, &target)
        });
    match mounted {
        Ok(record) => {
            target.keep();
            Ok(record)
        }
        Err(cause) => Err(target.undo(cause)),
    }
}

/// Makes the devices under the name that was given, or under the first of those that the file's name gives which is free.
fn activate_by_a_free_name(
    request: &mut AttachRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Activation, OperationError> {
    if request.reference.is_some() {
        return attach::activate(request, trust, observer, cancel);
    }
    let name = default_reference(&request.image)?;
    let mut count = 1;
    loop {
        let candidate = if count == 1 { Ok(name.clone()) } else { format!("{name}.{count}").parse() };
        request.reference = Some(candidate.map_err(|error| {
            OperationError::Usage(format!(
                "naming another mount of '{name}': {error}: give a name with --loop-ref="
            ))
        })?);
        match attach::activate(request, trust, observer, cancel) {
            Err(OperationError::State { doing: NAMING, .. }) if count < MAXIMUM_NAMES => count += 1,
            other => return other,
        }
    }
}

/// Everything that does not change while file systems are mounted.
struct Work<'a> {
    plan: &'a ActivationPlan,
    mounts: MountPlan,
    settings: MountSettings,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
}

impl Work<'_> {
    fn carry_out(self, mut activation: Activation, target: &Target) -> Result<Record, OperationError> {
        let mut tree = Tree::default();
        let built = self
            .agrees(activation.record())
            .and_then(|()| fault::point("mount:devices"))
            .and_then(|()| overlap::refuse(activation.devices()))
            .and_then(|()| tree.build(&self, &mut activation, target.place()))
            .and_then(|()| fault::point("mount:built"))
            .and_then(|()| Ok(self.cancel.check()?))
            .and_then(|()| activation.leave_to_mounts(self.observer, self.cancel));
        let cause = match built {
            Ok(record) => return Ok(record),
            Err(cause) => cause,
        };
        let failures = tree.undo();
        let cause = activation.undo(cause);
        if failures.is_empty() {
            return Err(cause);
        }
        let undoing = failures.iter().map(OperationError::with_causes).collect::<Vec<_>>().join("; ");
        Err(OperationError::Undo { cause: Box::new(cause), undoing })
    }

    /// Whether the devices that were made are those that were planned to be mounted: the image may have been replaced
    /// between the two.
    fn agrees(&self, record: &Record) -> Result<(), OperationError> {
        let same = record.devices.len() == self.plan.devices.len()
            && record.devices.iter().zip(&self.plan.devices).all(|(made, planned)| {
                let root_hash = planned.verity.as_ref().map(|verity| verity.set.root_hash.to_string());
                made.designator == planned.designator.as_str()
                    && (made.offset, made.size)
                        == (planned.extent.start().bytes(), planned.extent.length().bytes())
                    && made.protection == planned.protection.as_str()
                    && made.read_only == planned.read_only
                    && made.root_hash == root_hash
                    && made.signer == planned.signer
            });
        if same {
            return Ok(());
        }
        let problem = "expected the devices that were planned, found others: the image was changed meanwhile";
        Err(OperationError::state("mounting", &record.reference, problem))
    }
}
