//! Pulling an image from a server into memory, verifying it there, and attaching it, in one process.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use crate::fetch::client::HttpClient;
use crate::fetch::download::Download as Transfer;
use crate::fetch::origin::Origin;
use crate::format::loop_reference::LoopReference;
use crate::format::units::ByteLength;
use crate::format::verification_mode::VerificationMode;
use crate::image::plan::{Access, ActivationPlan};
use crate::image::presets::RequestedPolicy;

use super::activatable::Activatable;
use super::activate::{ActivationOptions, Attached, GuardOptions, Reservation, device_references};
use super::cancel::Cancel;
use super::companions::Companions;
use super::detach::reap;
use super::error::OperationError;
use super::image_directory;
use super::keyring_store;
use super::leaves::LeafHint;
use super::observer::Observer;
use super::trust_store::TrustStore;
use super::verified_image::plan;

mod beside;
pub mod companions;
mod convert;
mod download;
mod name;
mod place;
mod remote;
mod room;
mod sparse;
mod stream;
mod unpack;
pub mod verification;
mod workers;

pub use beside::Sidecars;
pub use name::{name_of, parse_origin, reference_of, tree_name_of};
pub use unpack::{TarRequest, pull_tar};

use beside::WithCompanions;
use convert::to_raw;
use download::{Download, tell};
use place::verify_and_link;
use remote::{client, fetching, look, look_at_raw};
use room::room_for;
use stream::{Place, receive};
use verification::{FilesBeside, Verification};

/// Where images of the class `machine` are placed that do not outlive the boot.
pub const DEFAULT_DIRECTORY: &str = "/run/machines";

/// What is to be pulled, and how.
#[derive(Debug)]
pub struct PullRequest {
    /// From where.
    pub url: Origin,
    /// The local name, without `.raw`.
    pub name: String,
    /// Where the file is placed.
    pub directory: PathBuf,
    /// What is required of the image.
    pub policy: RequestedPolicy,
    /// How the download as a whole is verified.
    pub verify: VerificationMode,
    /// Which files beside the image count.
    pub sidecars: Sidecars,
    /// OpenPGP keyrings for that; empty for those of this machine.
    pub keyrings: Vec<PathBuf>,
    /// Certificate authorities for https; empty for the system's.
    pub ca_certificates: Vec<PathBuf>,
    /// How long to wait for the server, and how often to try again.
    pub patience: Patience,
    /// How the kernel is to guard what is verified.
    pub guard: GuardOptions,
}

/// How long to wait for a server, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often in a row to try again what failed for a reason that may pass.
    pub retries: u32,
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// How long the server may be silent.
    pub stall: Duration,
    /// How long each file may take in all; `None` for as long as it takes.
    pub total: Option<Duration>,
}

/// What [`pull`] would do, from what the server answers to requests for parts of the image.
///
/// # Errors
/// As [`pull`], as far as it can be known without the whole image: one that would count only because the download as a
/// whole was verified is refused, because the whole is not there.
pub fn plan_pull(
    request: &PullRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(LoopReference, ActivationPlan), OperationError> {
    let reference = reference_of(&request.name)?;
    let client = client(request, cancel);
    let verification = prepare(request, &client, trust, observer, cancel)?;
    let companions = beside::companions(request, &client, &verification, observer, cancel)?;
    let source = look(&client, &request.url, request.patience.retries, observer, cancel)?;
    let source = WithCompanions { image: &*source, companions: &companions };
    let plan = plan(&source, trust, &request.policy, Access::ReadOnly, cancel);
    if matches!(plan, Err(OperationError::Refused { .. })) && verification.expected().vouched_by().is_some() {
        observer.note(
            "somebody vouches for the download as a whole; that does not count here, for the whole is not there",
        );
    }
    let plan = plan?;
    device_references(&reference, &plan)?;
    Ok((reference, plan))
}

/// Pulls, verifies and attaches an image.
///
/// # Errors
/// [`OperationError`]; nothing is left behind then.
pub fn pull(
    request: &PullRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Attached, OperationError> {
    let reference = reference_of(&request.name)?;
    // The record is read by later commands, in other working directories.
    let directory = std::path::absolute(&request.directory)
        .map_err(|source| OperationError::system("resolving", &request.directory, source))?;
    reap(observer)?;
    let target = directory.join(reference.as_str());
    if target.symlink_metadata().is_ok() {
        let problem = "it is there already: detach it, remove it, or choose another NAME";
        return Err(OperationError::state("placing the image as", target.display(), problem));
    }
    let client = client(request, cancel);
    let verification = prepare(request, &client, trust, observer, cancel)?;
    let companions = beside::companions(request, &client, &verification, observer, cancel)?;
    let (size, mut hints) = preflight(&client, request, &verification, &companions, trust, observer, cancel)?;
    let transfer = open(&client, request, observer, cancel)?;
    let with_digest = verification.expected().digest().is_some();
    // They are of this file or of none: the digests of a larger one would cost memory for nothing.
    if transfer.total() != Some(size.bytes()) {
        hints.clear();
    }
    // What is too large as it comes is so all the more when it is decompressed: not a byte of it is waited for.
    room_for(transfer.total().map(ByteLength::new), &request.url)?;
    let mut download = Download::new(transfer, with_digest, &request.url, observer, cancel);
    let mut reservation = Reservation::make(&reference, &request.url.without_secrets())?;
    let name = OsStr::new(reference.as_str());
    let received = receive(&mut download, name, &hints, &request.url, observer, |needed| {
        let room = room_for(needed, &request.url)?;
        let root = image_directory::prepare(&directory, &target, room, needed, &mut reservation)?;
        Ok(Place { root, room })
    });
    let raw = received.and_then(|image| to_raw(image, &verification, &request.url, observer, cancel));
    let verified = raw.and_then(|image| {
        verify_and_link(image, companions, &verification, request, trust, &mut reservation, observer, cancel)
    });
    let options = ActivationOptions { guard: request.guard, policy: &request.policy, keys: None };
    match verified {
        Ok(verified) => reservation
            .activate(Activatable::Verified(&verified), options, observer, cancel)?
            .make_permanent(observer, cancel),
        Err(cause) => Err(reservation.undo(cause)),
    }
}

/// Asks for the file, time and again where that helps.
fn open(
    client: &HttpClient,
    request: &PullRequest,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Transfer, OperationError> {
    Transfer::open(client, &request.url, &|setback| tell(observer, setback))
        .map_err(|error| fetching(&request.url, cancel, error))
}

/// What the download is to be compared with. Says who vouches for it.
fn prepare(
    request: &PullRequest,
    client: &HttpClient,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Verification, OperationError> {
    let files = FilesBeside { client, image: &request.url, observer, cancel };
    let keyrings = || keyring_store::load(&request.keyrings, observer);
    let verification = Verification::prepare(request.verify, &files, keyrings, trust.time())?;
    if let Some(by) = verification.expected().vouched_by() {
        observer.note(&format!("the download is to be the one of: {by}"));
    }
    Ok(verification)
}

/// What is to be hashed while the image comes, and how large it is, from what the server answers to requests for parts of
/// it. An image that cannot be looked at beforehand is hashed after it has come.
///
/// # Errors
/// What would refuse the image, if it is the one that the parts are of: it need not come at all. Where somebody vouches
/// for the download as a whole that cannot be known before.
fn preflight(
    client: &HttpClient,
    request: &PullRequest,
    verification: &Verification,
    companions: &Companions,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(ByteLength, Vec<LeafHint>), OperationError> {
    let nothing = || (ByteLength::ZERO, Vec::new());
    let Some(source) = look_at_raw(client, &request.url, observer, cancel) else {
        return Ok(nothing());
    };
    let size = source.size();
    match plan(
        &WithCompanions { image: &*source, companions },
        trust,
        &request.policy,
        Access::ReadOnly,
        cancel,
    ) {
        Ok(plan) => Ok((size, LeafHint::of_plan(&plan))),
        Err(error) if error.is_about_the_image() && verification.expected().vouched_by().is_none() => {
            Err(error)
        }
        Err(_) => Ok(nothing()),
    }
}
