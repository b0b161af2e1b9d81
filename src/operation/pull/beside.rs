//! What lies beside an image that is pulled: fetched before the image is looked at, so that nothing is refused for lack of
//! a signature that is there.

use std::path::Path;

use crate::fetch::client::HttpClient;
use crate::fetch::origin::Origin;
use crate::format::companion::CompanionKind;
use crate::format::units::{ByteLength, Extent};
use crate::kernel::memory::available_memory;
use crate::operation::cancel::Cancel;
use crate::operation::companions::{CompanionSettings, Companions, NamedCompanion};
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::source::ImageSource;

use super::PullRequest;
use super::companions::{CompanionChoice, fetch};
use super::verification::{FilesBeside, Verification};

/// How much of the room for an image its hash tree may take. Of the smallest blocks and the longest digests, 512 and 64
/// bytes, a tree has a seventh of its data, and so an eighth of both.
const SHARE_OF_TREE: u64 = 8;

/// What of the files beside an image is wanted.
#[derive(Debug, Default)]
pub struct Sidecars {
    /// Which files of the server.
    pub choice: CompanionChoice,
    /// Files of this machine, each in place of the server's.
    pub named: Vec<(CompanionKind, NamedCompanion)>,
    /// Whether settings for systemd-nspawn are taken, too: where they are demanded, or somebody vouches for them.
    pub settings: bool,
}

impl Sidecars {
    /// Whether nobody said anything about them: what is there counts, and nothing has to be there.
    pub(super) fn are_automatic(&self) -> bool {
        self.choice == CompanionChoice::Automatic && self.named.is_empty()
    }
}

/// Fetches or opens what lies beside the image, of the files of the server those of `choice`. None of it can change after that.
///
/// # Errors
/// As [`fetch`]; [`OperationError`] where a file that was named cannot be read.
pub(super) fn companions(
    request: &PullRequest,
    choice: &CompanionChoice,
    client: &HttpClient,
    verification: &Verification,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Companions, OperationError> {
    let Sidecars { named, settings, .. } = &request.sidecars;
    if let (Origin::Stream(_), CompanionChoice::Required(demanded)) = (&request.url, choice)
        && !demanded.is_empty()
    {
        let problem = format!("looking beside {}: it has no directory: leave out --sidecars=", request.url);
        return Err(OperationError::Usage(problem));
    }
    let files = FilesBeside { client, image: &request.url, observer, cancel };
    let is_named = |kind: &CompanionKind| named.iter().any(|(of, _)| of == kind);
    let mut kinds: Vec<CompanionKind> =
        CompanionKind::PROTECTING.into_iter().filter(|kind| !is_named(kind)).collect();
    let are_vouched_for = verification.expected().vouched_by().is_some();
    if *settings && (are_vouched_for || *choice != CompanionChoice::Automatic) {
        kinds.push(CompanionKind::Settings);
    }
    let room = available_memory().map_err(|source| {
        OperationError::system("making room for the files beside", request.url.to_string(), source)
    })?;
    let largest_tree = ByteLength::new(room.bytes() / SHARE_OF_TREE);
    let mut companions = fetch(choice, &kinds, &files, verification, largest_tree, observer)?;
    let settings = CompanionSettings { automatic: false, named: named.clone() };
    for companion in Companions::open(Path::new(""), &settings)?.into_files() {
        companions.insert(companion);
    }
    Ok(companions)
}

/// Says of a file that nobody demanded, and that the server neither gave nor denied, how to do without.
pub(super) fn explained<T>(
    fetched: Result<T, OperationError>,
    choice: &CompanionChoice,
    observer: &dyn Observer,
) -> Result<T, OperationError> {
    if let (Err(OperationError::Fetch { .. }), CompanionChoice::Automatic) = (&fetched, choice) {
        observer.note("a file beside the image could neither be had nor be known not to be there: --sidecars=no leaves them aside");
    }
    fetched
}

/// An image that is looked at before it comes, with what lies beside it.
pub(super) struct WithCompanions<'a> {
    /// The image.
    pub(super) image: &'a dyn ImageSource,
    /// What lies beside it.
    pub(super) companions: &'a Companions,
}

impl ImageSource for WithCompanions<'_> {
    fn size(&self) -> ByteLength {
        self.image.size()
    }

    fn name(&self) -> &str {
        self.image.name()
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        self.image.read(extents)
    }

    fn companions(&self) -> &Companions {
        self.companions
    }
}
