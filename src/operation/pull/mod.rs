//! Pulling an image from a server, verifying it, and attaching or placing it, in one process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fetch::client::HttpClient;
use crate::fetch::download::Download as Transfer;
use crate::fetch::origin::Origin;
use crate::format::compression::Encoding;
use crate::format::image_class::ImageClass;
use crate::format::loop_reference::LoopReference;
use crate::format::units::ByteLength;
use crate::format::verification_mode::VerificationMode;
use crate::image::plan::{Access, ActivationPlan, PlannedDevice};
use crate::image::presets::RequestedPolicy;

use super::activatable::Activatable;
use super::activate::{ActivationOptions, Attached, GuardOptions, Reservation, device_references};
use super::cache::CacheSettings;
use super::cancel::Cancel;
use super::companions::Companions;
use super::detach::reap;
use super::error::OperationError;
use super::image_directory::{self, ImageDirectory, Medium};
use super::keyring_store;
use super::leaves::LeafHint;
use super::observer::Observer;
use super::source::ImageSource;
use super::trust_store::TrustStore;
use super::verified_image::plan;

mod beside;
mod cached;
pub mod companions;
mod convert;
mod digest;
pub(super) mod download;
mod file;
mod name;
mod place;
pub(super) mod remote;
mod room;
mod sparse;
mod spool;
mod stream;
mod unpack;
pub mod verification;
mod workers;

pub use beside::Sidecars;
pub use file::{FileRequest, pull_file};
pub use name::{name_of, parse_origin, reference_of, reference_of_file, reference_of_tree, tree_name_of};
pub use unpack::{TarRequest, plan_tar, pull_tar};

use beside::WithCompanions;
use cached::{Cached, holds, through_cache};
use companions::CompanionChoice;
use convert::to_raw;
use download::{Download, tell};
use name::expect_plain_name;
use place::verify_and_link;
use remote::{client, encoding, fetching, impatient_client, look, look_at_raw};
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
    /// What the image is for: with the name it decides who may sign it.
    pub class: ImageClass,
    /// Where the file is placed.
    pub directory: ImageDirectory,
    /// What is required of the image.
    pub policy: RequestedPolicy,
    /// How the download as a whole is verified.
    pub verify: VerificationMode,
    /// Which files beside the image count.
    pub sidecars: Sidecars,
    /// Where downloads are kept, so that they need not come again.
    pub cache: Option<CacheSettings>,
    /// OpenPGP keyrings for that; empty for those of this machine.
    pub keyrings: Vec<PathBuf>,
    /// Certificate authorities for https; empty for the system's.
    pub ca_certificates: Vec<PathBuf>,
    /// How long to wait for the server, and how often to try again.
    pub patience: Patience,
    /// How the kernel is to guard what is verified.
    pub guard: GuardOptions,
}

impl PullRequest {
    /// Whom to trust with this image.
    fn trust(&self, trust: &TrustStore) -> TrustStore {
        trust.for_image(Some(self.class), &self.name)
    }
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
    let trust = &request.trust(trust);
    let reference = reference_of(&request.name)?;
    let client = client(request, cancel);
    let verification = prepare(request, &client, trust, observer, cancel)?;
    let source = look(&client, &request.url, request.patience.retries, observer, cancel)?;
    let found = encoding(&*source)?;
    if found != Encoding::Raw {
        let problem = format!(
            "expected a raw image, found {found}: what is in it shows only when it has come: leave out --dry-run"
        );
        return Err(OperationError::state("planning the pull of", &request.url, problem));
    }
    let plan = match proven(request, &*source, trust, cancel) {
        Some(plan) => plan,
        None => {
            let choice = &request.sidecars.choice;
            let companions = beside::companions(request, choice, &client, &verification, observer, cancel);
            let companions = beside::explained(companions, choice, observer)?;
            let source = WithCompanions { image: &*source, companions: &companions };
            let plan = plan(&source, trust, &request.policy, Access::ReadOnly, cancel);
            let is_vouched_for = verification.expected().vouched_by().is_some();
            if matches!(plan, Err(OperationError::Refused { .. })) && is_vouched_for {
                observer.note(
                    "somebody vouches for the download as a whole; that does not count here, for the whole is not there",
                );
            }
            plan?
        }
    };
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
    let trust = &request.trust(trust);
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
    let attempt = |prepared: Prepared, cached: Option<&Cached>| {
        attach(request, prepared, cached, &destination, trust, observer, cancel)
    };
    let prepare = || Prepared::for_attachment(request, trust, observer, cancel);
    with_cache(prepare, attempt, observer)
}

/// One attempt at [`pull`].
fn attach(
    request: &PullRequest,
    prepared: Prepared,
    cached: Option<&Cached>,
    destination: &Destination<'_>,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Attached, OperationError> {
    let policy = &request.policy;
    let options = ActivationOptions { guard: request.guard, policy, keys: None };
    if let Some(cached) = cached
        && let Some(image) = cached.on_disk(request, &prepared.companions, trust, observer, cancel)?
    {
        return Reservation::make(destination.reference, &request.url.without_secrets())?
            .activate(Activatable::OnDisk(&image), options, observer, cancel)?
            .make_permanent(observer, cancel);
    }
    let Fetched { mut reservation, image } =
        fetch(request, Some(policy), &prepared, cached, destination, trust, observer, cancel)?;
    let Prepared { verification, companions, .. } = prepared;
    let verified = image.and_then(|image| {
        verify_and_link(image, companions, &verification, request, trust, &mut reservation, observer, cancel)
    });
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
    image: Result<Arrived, OperationError>,
}

/// What a look at an image tells: its size, and what is to be hashed while it comes. Nothing where it cannot be looked at.
type Preflight = (ByteLength, Vec<LeafHint>);

/// What is known, and what is there, before an image comes.
struct Prepared {
    client: HttpClient,
    verification: Verification,
    companions: Companions,
    /// What a look at the image told, where there was one already.
    preflight: Option<Preflight>,
}

impl Prepared {
    /// Asks for what lies beside the image, and brings the image into the cache, if there is one, unless
    /// a look at it tells that the policy would refuse it.
    fn new(
        request: &PullRequest,
        policy: Option<&RequestedPolicy>,
        trust: &TrustStore,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(Self, Option<Cached>), OperationError> {
        let client = client(request, cancel);
        let verification = prepare(request, &client, trust, observer, cancel)?;
        let companions = Self::companions(request, &client, &verification, trust, observer, cancel)?;
        Self { client, verification, companions, preflight: None }
            .through_cache(request, policy, trust, observer, cancel)
    }

    /// The same for an image that is used and not placed: it is looked at first, and what lies beside it is asked for where
    /// the policy needs it.
    fn for_attachment(
        request: &PullRequest,
        trust: &TrustStore,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(Self, Option<Cached>), OperationError> {
        let policy = &request.policy;
        // What is in the cache, perhaps without a server, needs no look.
        if request.cache.is_some() || !request.sidecars.are_automatic() {
            return Self::new(request, Some(policy), trust, observer, cancel);
        }
        let client = client(request, cancel);
        let verification = prepare(request, &client, trust, observer, cancel)?;
        let image = look_at_raw(&client, &request.url, request.patience.retries, observer, cancel)?;
        let proven =
            image.as_ref().and_then(|image| Some((image.size(), proven(request, &**image, trust, cancel)?)));
        let (companions, preflight) = match (proven, image) {
            (Some((size, plan)), _) => (Companions::none(), (size, LeafHint::of_plan(&plan))),
            (None, image) => {
                let companions = Self::companions(request, &client, &verification, trust, observer, cancel)?;
                let preflight = match image {
                    Some(image) => judge(&verification, &companions, &*image, policy, trust, cancel)?,
                    None => Preflight::default(),
                };
                (companions, preflight)
            }
        };
        Ok((Self { client, verification, companions, preflight: Some(preflight) }, None))
    }

    fn through_cache(
        self,
        request: &PullRequest,
        policy: Option<&RequestedPolicy>,
        trust: &TrustStore,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(Self, Option<Cached>), OperationError> {
        let cached = match &request.cache {
            Some(cache) => through_cache(cache, request, policy, &self, trust, observer, cancel)?,
            None => None,
        };
        Ok((self, cached))
    }

    /// What lies beside the image. An image that is in the cache, and was named by its digest, does without a server that
    /// does not answer: what lies beside it would add to what is known of it, and never lessen what is demanded.
    fn companions(
        request: &PullRequest,
        client: &HttpClient,
        verification: &Verification,
        trust: &TrustStore,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Companions, OperationError> {
        let of_server = |client: &HttpClient, choice: &CompanionChoice| {
            beside::companions(request, choice, client, verification, observer, cancel)
        };
        let choice = &request.sidecars.choice;
        let is_there = match &request.cache {
            Some(cache) if *choice == CompanionChoice::Automatic => holds(cache, verification, trust)?,
            _ => false,
        };
        if !is_there {
            return beside::explained(of_server(client, choice), choice, observer);
        }
        match of_server(&impatient_client(request, cancel), choice) {
            Err(error @ OperationError::Fetch { .. }) => {
                observer.note(&format!(
                    "doing without the server, because the image is in the cache: {}",
                    error.with_causes()
                ));
                of_server(client, &CompanionChoice::None)
            }
            other => other,
        }
    }
}

/// The plan of an image that proves all that the policy shows of it by what is in it. What lies beside it could then only
/// contradict it, and whoever could change that could change the image.
fn proven(
    request: &PullRequest,
    image: &dyn ImageSource,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Option<ActivationPlan> {
    let is_authentic =
        |device: &PlannedDevice| device.verity.as_ref().is_some_and(|verity| verity.authenticated.is_some());
    if !request.sidecars.are_automatic() {
        return None;
    }
    plan(image, trust, &request.policy, Access::ReadOnly, cancel)
        .ok()
        .filter(|plan| !plan.devices.is_empty() && plan.devices.iter().all(is_authentic))
}

/// Does something with an image, and again with a new one where the one in the cache was damaged.
fn with_cache<T>(
    prepare: impl Fn() -> Result<(Prepared, Option<Cached>), OperationError>,
    run: impl Fn(Prepared, Option<&Cached>) -> Result<T, OperationError>,
    observer: &dyn Observer,
) -> Result<T, OperationError> {
    let (prepared, cached) = prepare()?;
    let result = run(prepared, cached.as_ref());
    match (&result, cached) {
        (Err(error), Some(cached)) if cached.is_to_blame(error, observer) => {
            let (prepared, cached) = prepare()?;
            run(prepared, cached.as_ref())
        }
        _ => result,
    }
}

/// Downloads an image to its destination, as a raw image without a name. Where it is to be judged by a policy it is
/// looked at beforehand.
///
/// # Errors
/// What refuses it before anything of it came; nothing is left behind then.
#[expect(clippy::too_many_arguments, reason = "all of them are parts of one request")]
fn fetch(
    request: &PullRequest,
    policy: Option<&RequestedPolicy>,
    prepared: &Prepared,
    cached: Option<&Cached>,
    destination: &Destination<'_>,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Fetched, OperationError> {
    let Destination { reference, directory, target } = *destination;
    let Prepared { client, verification, companions, .. } = prepared;
    let url = &request.url;
    // What lies beside the image needs room, too, be it beside the file or in memory of its own.
    let with_companions =
        |size: ByteLength| ByteLength::new(size.bytes().saturating_add(companions.size().bytes()));
    let origin = cached.map_or(url, |cached| &cached.origin);
    let (size, mut hints) = match (policy, &prepared.preflight) {
        (_, Some(preflight)) => preflight.clone(),
        (Some(policy), None) => preflight(prepared, origin, policy, trust, observer, cancel)?,
        (None, None) => Preflight::default(),
    };
    let transfer = open(client, origin, observer, cancel)?;
    let with_digest = cached.is_some() || verification.needs_digest();
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
        let needed = needed.map(with_companions);
        let room = room_for(directory, needed, url)?;
        let root = image_directory::prepare_for_image(directory, target, room, needed, &mut reservation)?;
        Ok(Place { root, room })
    });
    let same = received.and_then(|image| match (cached, &image.digest) {
        (Some(cached), Some(digest)) if !cached.is(digest) => Err(cached.damaged()),
        _ => Ok(image),
    });
    let image = same.and_then(|image| to_raw(image, verification, url, observer, cancel));
    Ok(Fetched { reservation, image })
}

/// Asks for the file, time and again where that helps.
fn open(
    client: &HttpClient,
    origin: &Origin,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Transfer, OperationError> {
    Transfer::open(client, origin, &|setback| tell(observer, setback))
        .map_err(|error| fetching(origin, cancel, error))
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
    let verification = Verification::prepare(request.verify, &files, keyrings, trust.time())?
        .refusing(trust.revocations())?;
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
    prepared: &Prepared,
    origin: &Origin,
    policy: &RequestedPolicy,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Preflight, OperationError> {
    let Prepared { client, verification, companions, .. } = prepared;
    // It is tried once: what fails then fails again when the whole is asked for, with all patience.
    match look_at_raw(client, origin, 0, observer, cancel) {
        Ok(Some(image)) => judge(verification, companions, &*image, policy, trust, cancel),
        Ok(None) | Err(_) => Ok(Preflight::default()),
    }
}

/// The same of an image that was looked at.
///
/// # Errors
/// As [`preflight`].
fn judge(
    verification: &Verification,
    companions: &Companions,
    image: &dyn ImageSource,
    policy: &RequestedPolicy,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Result<Preflight, OperationError> {
    let size = image.size();
    match plan(&WithCompanions { image, companions }, trust, policy, Access::ReadOnly, cancel) {
        Ok(plan) => Ok((size, LeafHint::of_plan(&plan))),
        Err(error) if error.is_revocation() => Err(error),
        Err(error) if error.is_about_the_image() && verification.expected().vouched_by().is_none() => {
            Err(error)
        }
        Err(_) => Ok(Preflight::default()),
    }
}
