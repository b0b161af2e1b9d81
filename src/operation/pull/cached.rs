//! An image that comes through a cache on a local disk: from the disk where it has the version that is wanted, else from
//! the server to the disk first.
//!
//! What is on the disk does not count by itself. Either the image is read from there into memory and verified like any
//! download, its SHA-256 compared in addition; or, where the kernel has dm-verity and everything that is planned has an
//! authenticated hash tree, its blocks are verified and dm-verity stands guard over them where they lie, so that memory
//! need not hold the image. An entry that turns out damaged is dropped, and the image fetched again.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::fetch::origin::Origin;
use crate::format::compression::{BEGINNING, Encoding};
use crate::format::units::{ByteLength, ByteOffset};
use crate::image::plan::{Access, PlannedDevice};
use crate::image::presets::RequestedPolicy;
use crate::kernel::device_mapper;
use crate::kernel::placed_file::AnonymousFile;
use crate::operation::activatable::{Activatable, ImageOnDisk};
use crate::operation::cache::{Cache, CacheSettings, Description, Entry};
use crate::operation::cancel::Cancel;
use crate::operation::companions::Companions;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::source::ImageFile;
use crate::operation::trust_store::TrustStore;
use crate::operation::verify::verify_data;
use crate::trust::download::{DownloadDigest, DownloadHasher};

use super::download::Download;
use super::spool::spool;
use super::verification::Verification;
use super::{Prepared, PullRequest, open, preflight};

/// An image in a cache.
#[derive(Debug)]
pub(super) struct Cached {
    cache: Cache,
    /// The entry.
    pub(super) entry: Entry,
    /// Where it is read from.
    pub(super) origin: Origin,
    /// Whether it was there already.
    was_there: bool,
}

/// Finds an image in the cache, or brings it there. `None` where it cannot be kept there, which is said, and where it is
/// on this machine anyway.
///
/// # Errors
/// What the server said; what would refuse the image, as far as a look at it tells; [`OperationError::Unverified`] where
/// another file came than the one that was expected.
pub(super) fn through_cache(
    settings: &CacheSettings,
    request: &PullRequest,
    policy: Option<&RequestedPolicy>,
    prepared: &Prepared,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Option<Cached>, OperationError> {
    let Prepared { client, verification, .. } = prepared;
    if request.url.as_http().is_none() {
        observer.note("the cache is not used: the image is on this machine");
        return Ok(None);
    }
    let cache = Cache::open(settings, trust.time())?;
    let expected = verification.expected().digest().map(|digest| digest.to_string());
    if let Some(entry) = expected.as_deref().and_then(|digest| cache.find(digest)) {
        observer.note(&format!("the image is in the cache, as '{}'", entry.path.display()));
        return Ok(Some(Cached::new(cache, entry, true)));
    }
    let transfer = open(client, &request.url, observer, cancel)?;
    let validator = transfer.validator().map(|validator| validator.as_str().to_owned());
    let total = transfer.total();
    let url = request.url.without_secrets();
    if let (None, Some(total)) = (&expected, total)
        && let Some(entry) = cache.find_version(&Description::new(url.clone(), total, validator.clone()))
    {
        observer
            .note(&format!("the server has the version that is in the cache, as '{}'", entry.path.display()));
        return Ok(Some(Cached::new(cache, entry, true)));
    }
    if let Some(policy) = policy {
        preflight(prepared, &request.url, policy, trust, observer, cancel)?;
    }
    let Some((file, room)) = cache.begin(total.map(ByteLength::new))? else {
        let directory = cache.directory().display();
        observer.warning(&format!("the image is not kept in the cache '{directory}': it does not fit"));
        return Ok(None);
    };
    let mut download = Download::new(transfer, true, &request.url, observer, cancel)?;
    let beside = || AnonymousFile::create_beside(&file);
    let spooled = spool(&mut download, beside, room, &request.url, observer)?;
    drop(file);
    let checked = verification.check(spooled.digest)?;
    let Some(checked) = checked else { return Ok(None) };
    let digest = data_encoding::HEXLOWER.encode(checked.digest());
    let description = Description::new(url, spooled.size.bytes(), validator);
    let entry = cache.keep(spooled.file, &digest, &description)?;
    Ok(Some(Cached::new(cache, entry, false)))
}

/// Whether the cache has the very download that is expected, by its SHA-256.
///
/// # Errors
/// What opening the cache said.
pub(super) fn holds(
    settings: &CacheSettings,
    verification: &Verification,
    trust: &TrustStore,
) -> Result<bool, OperationError> {
    let Some(digest) = verification.expected().digest() else { return Ok(false) };
    Ok(Cache::open(settings, trust.time())?.find(&digest.to_string()).is_some())
}

impl Cached {
    fn new(cache: Cache, entry: Entry, was_there: bool) -> Self {
        let origin = Origin::File(entry.path.clone());
        Self { cache, entry, origin, was_there }
    }

    /// Whether a failure is the cache's fault, because what is kept there is not what it was: then it is dropped, and
    /// worth fetching again. What is refused as it is is not kept either.
    pub(super) fn is_to_blame(&self, error: &OperationError, observer: &dyn Observer) -> bool {
        let damaged =
            self.was_there && !matches!(error, OperationError::Interrupted(_)) && self.has_changed();
        if (damaged || error.is_about_the_image())
            && let Err(error) = self.cache.drop_entry(&self.entry.sha256)
        {
            observer.warning(&error.with_causes());
        }
        if damaged {
            observer.warning(&format!("{}: it is fetched again", self.damaged()));
        }
        damaged
    }

    /// Whether the bytes are others than those that were kept.
    fn has_changed(&self) -> bool {
        let mut hasher = DownloadHasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0_u64;
        loop {
            match self.entry.file.read_at(&mut buffer, offset) {
                Ok(0) => break,
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    hasher.update(bytes);
                    offset = offset.saturating_add(ByteLength::of(bytes).bytes());
                }
                // What cannot be read is not there any more.
                Err(_) => return true,
            }
        }
        !self.is(&hasher.finish())
    }

    /// Whether this is the digest of the entry.
    pub(super) fn is(&self, digest: &DownloadDigest) -> bool {
        data_encoding::HEXLOWER.encode(digest.as_bytes()) == self.entry.sha256
    }

    /// The image where it lies, to be used from there: `None` where it is not raw, the kernel has no dm-verity, or
    /// something of it would be used without. What is wrong with it otherwise shows when it is verified in memory.
    ///
    /// # Errors
    /// [`OperationError::Interrupted`], and what reading said.
    pub(super) fn on_disk(
        &self,
        request: &PullRequest,
        companions: &Companions,
        trust: &TrustStore,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Option<ImageOnDisk>, OperationError> {
        // What is refused by its digest must be hashed again: what lies here may be something else by now.
        if trust.revocations().has_images() {
            return Ok(None);
        }
        if companions.iter().next().is_some() || !matches!(device_mapper::supports_verity(), Ok(Some(_))) {
            return Ok(None);
        }
        let open = || {
            let file = self.entry.file.as_fd().try_clone_to_owned().ok()?;
            Some(ImageFile::from_file(file.into(), &self.entry.path.display().to_string(), self.entry.size))
        };
        let (Some(image), Some(again)) = (open(), open()) else { return Ok(None) };
        let mut beginning = [0; BEGINNING];
        let is_read = image.read_at(ByteOffset::ZERO, &mut beginning).is_ok();
        if !is_read || Encoding::recognise(&beginning) != Encoding::Raw {
            return Ok(None);
        }
        let source = request.url.without_secrets();
        let planned =
            match ImageOnDisk::plan(image, &source, trust, &request.policy, Access::ReadOnly, cancel) {
                Ok(planned) => planned,
                Err(error @ OperationError::Interrupted(_)) => return Err(error),
                Err(_) => return Ok(None),
            };
        let devices = &Activatable::OnDisk(&planned).plan().devices;
        let is_guarded = |device: &PlannedDevice| {
            device.verity.as_ref().is_some_and(|verity| verity.authenticated.is_some())
        };
        if devices.is_empty() || !devices.iter().all(is_guarded) {
            return Ok(None);
        }
        for verity in devices.iter().filter_map(|device| device.verity.as_ref()) {
            match verify_data(&again, &verity.set, observer, cancel) {
                Ok(_) => {}
                Err(OperationError::Integrity { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        observer.note("the image is used from the cache, under the guard of dm-verity");
        Ok(Some(planned))
    }

    /// The error for an entry that is not what it was.
    pub(super) fn damaged(&self) -> OperationError {
        OperationError::DamagedCache { path: self.entry.path.display().to_string() }
    }
}
