//! Pulling an image from a server, verifying it, and attaching or placing it, in one process.

use std::path::{Path, PathBuf};
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
use super::image_directory::{self, ImageDirectory, Medium};
use super::keyring_store;
use super::leaves::LeafHint;
use super::observer::Observer;
use super::trust_store::TrustStore;
use super::verified_image::plan;

mod beside;
pub mod companions;
mod convert;
mod digest;
mod download;
mod file;
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
pub use file::{FileRequest, pull_file};
pub use name::{name_of, parse_origin, reference_of, tree_name_of};
pub use unpack::{TarRequest, pull_tar};

use beside::WithCompanions;
use convert::to_raw;
use download::{Download, tell};
use name::expect_plain_name;
use place::verify_and_link;
use remote::{client, fetching, look, look_at_raw};
use room::room_for;
use stream::{Arrived, Place, receive};
use verification::{FilesBeside, Verification};

/// What is to be pulled, and how.
#[derive(Debug)]
pub struct PullRequest {
    /// From where.
    pub url: Origin,
    /// The local name, without `.raw`.
    pub name: String,
    /// Where the file is placed.
    pub directory: ImageDirectory,
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
    expect_plain_name(&request.name)?;
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
    expect_plain_name(&request.name)?;
    let reference = reference_of(&request.name)?;
    // The record is read by later commands, in other working directories.
    let directory = request.directory.absolute()?;
    if directory.medium != Medium::Memory {
        let problem = "expected a place in memory: on a disk it could change after it was verified";
        return Err(OperationError::state("attaching what is pulled to", directory.path.display(), problem));
    }
    reap(observer)?;
    let target = directory.path.join(reference.as_str());
    if target.symlink_metadata().is_ok() {
        let problem = "it is there already: detach it, remove it, or choose another NAME";
        return Err(OperationError::state("placing the image as", target.display(), problem));
    }
    let destination = Destination { reference: &reference, directory: &directory, target: &target };
    let Fetched { mut reservation, verification, companions, image } = fetch(
        request,
        Wanted { policy: Some(&request.policy), companions: true },
        &destination,
        trust,
        observer,
        cancel,
    )?;
    let verified = image.and_then(|image| {
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

/// Where an image is to be.
#[derive(Debug, Clone, Copy)]
struct Destination<'a> {
    reference: &'a LoopReference,
    directory: &'a ImageDirectory,
    target: &'a Path,
}

/// What came of a download: whatever that is, the reservation must be ended.
#[derive(Debug)]
struct Fetched {
    reservation: Reservation,
    verification: Verification,
    companions: Companions,
    image: Result<Arrived, OperationError>,
}

/// What is wanted of an image beside its bytes.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    /// What it will be judged by, if it is judged at all.
    policy: Option<&'a RequestedPolicy>,
    /// The files beside it.
    companions: bool,
}

/// Downloads an image to its destination, as a raw image without a name. Where it is to be judged by a policy it is
/// looked at beforehand.
///
/// # Errors
/// What refuses it before anything of it came; nothing is left behind then.
fn fetch(
    request: &PullRequest,
    wanted: Wanted<'_>,
    destination: &Destination<'_>,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Fetched, OperationError> {
    let Destination { reference, directory, target } = *destination;
    let url = &request.url;
    let client = client(request, cancel);
    let verification = prepare(request, &client, trust, observer, cancel)?;
    let companions = match wanted.companions {
        true => beside::companions(request, &client, &verification, observer, cancel)?,
        false => Companions::none(),
    };
    let (size, mut hints) = match wanted.policy {
        Some(policy) => {
            preflight(&client, request, policy, &verification, &companions, trust, observer, cancel)?
        }
        None => (ByteLength::ZERO, Vec::new()),
    };
    let transfer = open(&client, request, observer, cancel)?;
    let with_digest = verification.expected().digest().is_some();
    // They are of this file or of none: the digests of a larger one would cost memory for nothing.
    if transfer.total() != Some(size.bytes()) {
        hints.clear();
    }
    // What is too large as it comes is so all the more when it is decompressed: not a byte of it is waited for.
    room_for(directory, transfer.total().map(ByteLength::new), url)?;
    let mut download = Download::new(transfer, with_digest, url, observer, cancel)?;
    let mut reservation = Reservation::make(reference, &url.without_secrets())?;
    let name = target.file_name().unwrap_or_default();
    let received = receive(&mut download, name, &hints, url, observer, |needed| {
        let room = room_for(directory, needed, url)?;
        let root = image_directory::prepare(directory, target, room, needed, &mut reservation)?;
        Ok(Place { root, room })
    });
    let image = received.and_then(|image| to_raw(image, &verification, url, observer, cancel));
    Ok(Fetched { reservation, verification, companions, image })
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

#[expect(clippy::too_many_arguments, reason = "all of them are parts of one request")]
/// What is to be hashed while the image comes, and how large it is, from what the server answers to requests for parts of
/// it. An image that cannot be looked at beforehand is hashed after it has come.
///
/// # Errors
/// What would refuse the image, if it is the one that the parts are of: it need not come at all. Where somebody vouches
/// for the download as a whole that cannot be known before.
fn preflight(
    client: &HttpClient,
    request: &PullRequest,
    policy: &RequestedPolicy,
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
    match plan(&WithCompanions { image: &*source, companions }, trust, policy, Access::ReadOnly, cancel) {
        Ok(plan) => Ok((size, LeafHint::of_plan(&plan))),
        Err(error) if error.is_about_the_image() && verification.expected().vouched_by().is_none() => {
            Err(error)
        }
        Err(_) => Ok(nothing()),
    }
}
