//! From the bytes in memory to a verified image under its name.

use std::os::fd::AsFd;

use crate::kernel::placed_file;

use super::PullRequest;
use super::stream::Arrived;
use super::verification::Verification;
use crate::operation::activate::Reservation;
use crate::operation::cancel::Cancel;
use crate::operation::companions::Companions;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::observer::Observer;
use crate::operation::record::FileIdentity;
use crate::operation::trust_store::TrustStore;
use crate::operation::verified_image::{ImmutableImage, VerifiedImage};

#[expect(clippy::too_many_arguments, reason = "all of them are parts of one request")]
/// Verifies the bytes in memory and only then gives them their name.
pub(super) fn verify_and_link(
    arrived: Arrived,
    companions: Companions,
    verification: &Verification,
    request: &PullRequest,
    trust: &TrustStore,
    reservation: &mut Reservation,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<VerifiedImage, OperationError> {
    let placing = |source: placed_file::PlacementError| {
        OperationError::system("placing the image as", &arrived.name, source)
    };
    let complete = arrived.file.complete(0o400).map_err(placing)?;
    let file = complete
        .file()
        .try_clone()
        .map_err(|source| OperationError::system("placing the image as", &arrived.name, source))?;
    // It goes into the record, which everybody may read.
    let url = request.url.without_secrets();
    let download = verification.check(arrived.digest)?;
    let image = ImmutableImage::new(file, &url, arrived.size, download).with_companions(companions);
    let verified = VerifiedImage::verify(image, arrived.leaves, trust, &request.policy, observer, cancel)?;
    fault::point("pull:verified")?;
    let metadata = complete
        .file()
        .metadata()
        .map_err(|source| OperationError::system("placing the image as", &arrived.name, source))?;
    reservation.will_link(FileIdentity::of(&metadata))?;
    let named = complete.link_as(&arrived.name).map_err(placing)?;
    fault::point("pull:linked")?;
    // Not every kernel has the flag on tmpfs; the permissions and the missing writers hold without it.
    placed_file::set_immutable(complete.file().as_fd()).map_err(placing)?;
    fault::point("pull:immutable")?;
    // So that the kernel says of the devices which file is behind them: the first descriptor's never had a name.
    verified.through(named)
}
