//! From an image on a server to a file under its name, for those who look at it again themselves: systemd-sysext,
//! systemd-nspawn, portable services.
//!
//! They choose among the partitions of an image by rules of their own. So where there is a policy, what lies there in
//! the end holds the planned partitions and nothing else, and has no name before every byte of them was verified.
//! What lies beside an image counts as it does where an image is attached, and is placed beside the file.
//! Without a policy it is the download as it came, decompressed, and somebody may vouch for that as a whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::format::companion::CompanionKind;
use crate::format::units::ByteLength;
use crate::image::finding::Rule;
use crate::image::plan::{Access, ActivationPlan};
use crate::image::presets::RequestedPolicy;
use crate::image::reduction::Reduction;
use crate::image::survey::Malformed;
use crate::kernel::placed_file::{CompleteFile, clear_extent};
use crate::operation::activate::Reservation;
use crate::operation::cancel::Cancel;
use crate::operation::companions::{CompanionContent, Companions};
use crate::operation::detach::reap;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::image_directory::Medium;
use crate::operation::observer::Observer;
use crate::operation::record::{FileIdentity, Owner, PlacedBeside, Record, RecordStore};
use crate::operation::source::ImageFile;
use crate::operation::tree::file_name;
use crate::operation::trust_store::TrustStore;
use crate::operation::verified_image::{
    ImmutableImage, VerifiedImage, dissect_and_plan, look, refuse_revoked,
};
use crate::trust::download::CheckedDownload;

use super::beside::WithCompanions;
use super::cached::Cached;
use super::name::{expect_plain_name, reference_of_file};
use super::stream::Arrived;
use super::{Destination, Fetched, Prepared, PullRequest, fetch, with_cache};

/// An image that is to be placed as a file.
#[derive(Debug)]
pub struct FileRequest {
    /// What is to be pulled, and how. Its policy is not asked.
    pub pull: PullRequest,
    /// What is required of it; without, the verification of the download is all there is.
    pub policy: Option<RequestedPolicy>,
    /// Nobody shall write to it, its owner included.
    pub read_only: bool,
    /// A file that has the name already is replaced.
    pub replace: bool,
}

/// Pulls and verifies an image, and places it as a file. In memory it stays until somebody detaches it, else for good.
///
/// # Errors
/// [`OperationError`]; nothing is left behind then, and a file that was to be replaced is as it was.
pub fn pull_file(
    request: &FileRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Record, OperationError> {
    let FileRequest { pull, policy, .. } = request;
    let trust = &pull.trust(trust);
    expect_plain_name(&pull.name)?;
    let reference = reference_of_file(&pull.name, pull.class)?;
    let directory = pull.directory.absolute()?;
    reap(observer)?;
    let target = directory.path.join(format!("{}.raw", pull.name));
    refuse_taken(&target, request.replace)?;
    for kind in CompanionKind::ALL {
        let path = beside(&target, &pull.name, kind);
        if path.symlink_metadata().is_ok() {
            let problem =
                "it would count for the image that is placed beside it: remove it, or choose another NAME";
            return Err(OperationError::state("placing an image beside", path.display(), problem));
        }
    }
    let destination = Destination { reference: &reference, directory: &directory, target: &target };
    let attempt = |prepared: Prepared, cached: Option<&Cached>| {
        if request.replace && prepared.companions.iter().next().is_some() {
            let problem = "files lie beside the new one, and several cannot be replaced in one step: remove the old one, \
                           or leave them aside with --sidecars=no";
            return Err(OperationError::state("replacing", target.display(), problem));
        }
        let Fetched { mut reservation, image } =
            fetch(pull, policy.as_ref(), &prepared, cached, &destination, trust, observer, cancel)?;
        let work = Placing { request, target: &target, trust, observer, cancel };
        let placed = image.and_then(|arrived| work.place(arrived, prepared, &mut reservation));
        match (placed, directory.medium) {
            (Ok(()), Medium::Memory) => reservation.keep_placed(),
            (Ok(()), Medium::Disk) => reservation.leave_placed(),
            (Err(cause), _) => Err(reservation.undo(cause)),
        }
    };
    let prepare = || Prepared::new(pull, policy.as_ref(), trust, observer, cancel);
    with_cache(prepare, attempt, observer)
}

/// Refuses a name that something has, unless that is a file that may be replaced.
fn refuse_taken(target: &Path, replace: bool) -> Result<(), OperationError> {
    let placing =
        |problem: &str| Err(OperationError::state("placing the image as", target.display(), problem));
    let metadata = match target.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OperationError::system("examining", target, error)),
    };
    if !replace {
        return placing(
            "it is there already: detach it, remove it, choose another NAME, or replace it with --force",
        );
    }
    if !metadata.is_file() {
        return placing(
            "expected a file to replace, found something else: remove it, or choose another NAME",
        );
    }
    let records = RecordStore::of_this_machine().all()?;
    if records.iter().any(|record| record.placed.as_ref().is_some_and(|placed| placed.path == target)) {
        return placing("it was pulled into memory and is kept there: detach it first");
    }
    Ok(())
}

/// The work from the bytes that arrived to the file under its name.
struct Placing<'a> {
    request: &'a FileRequest,
    target: &'a Path,
    trust: &'a TrustStore,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
}

/// What was decided from the bytes that came, before the last look at them.
struct Judged<'a> {
    policy: &'a RequestedPolicy,
    plan: ActivationPlan,
    reduction: Option<Reduction>,
}

impl Placing<'_> {
    fn place(
        &self,
        arrived: Arrived,
        prepared: Prepared,
        reservation: &mut Reservation,
    ) -> Result<(), OperationError> {
        let Prepared { verification, mut companions, .. } = prepared;
        let Arrived { file, size, digest, leaves, .. } = arrived;
        let download = verification.check(digest)?;
        self.tell(download.as_ref());
        let judged = match &self.request.policy {
            Some(policy) => Some(self.judge(file.file(), size, &companions, download.as_ref(), policy)?),
            None => {
                self.refuse_revoked(file.file(), size)?;
                None
            }
        };
        let size =
            judged.as_ref().and_then(|judged| judged.reduction.as_ref()).map_or(size, |r| r.image_size);
        let permissions = if self.request.read_only { 0o400 } else { 0o600 };
        let complete = file.complete(permissions).map_err(|source| self.placing(source))?;
        let source = self.request.pull.url.without_secrets();
        let digest = download.as_ref().map(|download| data_encoding::HEXLOWER.encode(download.digest()));
        let mut applied = "*".to_owned();
        if let Some(judged) = judged {
            let bytes = complete.file().try_clone().map_err(|source| self.placing(source))?;
            let image = ImmutableImage::new(bytes, &source, size, download).with_companions(companions);
            let Self { trust, observer, cancel, .. } = *self;
            let verified = VerifiedImage::verify(image, leaves, trust, judged.policy, observer, cancel)?;
            self.compare(&judged, &verified)?;
            applied.clone_from(&verified.plan().policy);
            companions = verified.into_companions();
        }
        fault::point("pull:verified")?;
        let beside = self.write_beside(&complete, &companions, permissions)?;
        self.name(&complete, &beside, digest, applied, reservation)
    }

    /// Says what the download as a whole is worth.
    fn tell(&self, download: Option<&CheckedDownload>) {
        let vouched = download.and_then(CheckedDownload::verified);
        match (vouched, &self.request.policy) {
            (Some(verified), _) => {
                self.observer.note(&format!("the download is authentic: {}", verified.by()));
            }
            (None, Some(_)) => {}
            (None, None) => self.observer.warning(
                "nobody vouches for this image: neither is its download verified nor was a policy asked; \
                 --verify= and --image-policy= do that",
            ),
        }
        if self.request.policy.is_none() {
            self.observer.note("no policy was asked: the image is placed as it came, with everything in it");
        }
    }

    /// Refuses an image that is placed as it came and has a partition that was taken back, whoever chooses among them.
    fn refuse_revoked(&self, file: &File, size: ByteLength) -> Result<(), OperationError> {
        let revocations = self.trust.revocations();
        if revocations.root_hashes().next().is_none() {
            return Ok(());
        }
        let name = self.request.pull.url.to_string();
        let clone = file.try_clone().map_err(|source| self.placing(source))?;
        let image = ImageFile::from_file(clone, &name, size);
        let dissection = match look(&image, self.trust, None, self.cancel) {
            Ok((dissection, _)) => dissection,
            // Without a GUID partition table there are no root hashes.
            Err(OperationError::Malformed { source: Malformed { finding }, .. })
                if matches!(finding.rule, Rule::NothingRecognised | Rule::MbrTable) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        refuse_revoked(&name, &dissection, revocations)
    }

    /// Plans what is to stay of the image, and clears the rest.
    fn judge<'p>(
        &self,
        file: &File,
        size: ByteLength,
        companions: &Companions,
        download: Option<&CheckedDownload>,
        policy: &'p RequestedPolicy,
    ) -> Result<Judged<'p>, OperationError> {
        let name = self.request.pull.url.to_string();
        let clone = file.try_clone().map_err(|source| self.placing(source))?;
        let image = ImageFile::from_file(clone, &name, size);
        let image = WithCompanions { image: &image, companions };
        let download = download.and_then(CheckedDownload::verified);
        let (dissection, plan) =
            dissect_and_plan(&image, self.trust, download, policy, Access::ReadOnly, self.cancel)?;
        let reduction = Reduction::new(&dissection, &plan)
            .map_err(|source| OperationError::Reduced { image: name.clone(), source })?;
        if let Some(reduction) = &reduction {
            reduce(file, size, reduction)
                .map_err(|source| OperationError::system("reducing to its plan", &name, source))?;
            fault::point("pull:reduced")?;
        }
        Ok(Judged { policy, plan, reduction })
    }

    /// Holds what lies there now, verified, against what was planned of what came.
    fn compare(&self, judged: &Judged<'_>, verified: &VerifiedImage) -> Result<(), OperationError> {
        let Some(reduction) = &judged.reduction else {
            return Ok(());
        };
        let download = verified.download().and_then(CheckedDownload::verified);
        let (dissection, assessment) = look(verified.image(), self.trust, download, self.cancel)?;
        reduction
            .check(&judged.plan, &dissection, &assessment)
            .map_err(|source| OperationError::Reduced { image: verified.source().to_owned(), source })?;
        let numbers: Vec<String> =
            dissection.partitions.iter().filter_map(|p| p.number).map(|number| number.to_string()).collect();
        self.observer.note(&format!(
            "the image is reduced to partition{} {}, planned by the policy '{}'",
            if numbers.len() == 1 { "" } else { "s" },
            numbers.join(", "),
            verified.plan().policy
        ));
        Ok(())
    }

    /// Writes what lies beside the image to files without names.
    fn write_beside(
        &self,
        complete: &CompleteFile,
        companions: &Companions,
        permissions: u32,
    ) -> Result<Vec<(PathBuf, CompleteFile)>, OperationError> {
        let mut written = Vec::new();
        for companion in companions.iter() {
            let path = beside(self.target, &self.request.pull.name, companion.kind);
            let writing = |source: Box<dyn std::error::Error + Send + Sync>| {
                OperationError::system("writing", &path, source)
            };
            let file = complete.create_beside().map_err(|source| writing(source.into()))?;
            copy(&companion.content, file.file()).map_err(|source| writing(source.into()))?;
            let file = file.complete(permissions).map_err(|source| writing(source.into()))?;
            written.push((path, file));
        }
        Ok(written)
    }

    /// Gives the file its name, in the place of another one if that is wanted.
    fn name(
        &self,
        complete: &CompleteFile,
        beside: &[(PathBuf, CompleteFile)],
        digest: Option<String>,
        policy: String,
        reservation: &mut Reservation,
    ) -> Result<(), OperationError> {
        let metadata = complete.file().metadata().map_err(|source| self.placing(source))?;
        let first = if self.request.replace { self.hidden()? } else { self.target.to_owned() };
        let mut recorded = Vec::new();
        for (path, file) in beside {
            let file = file.file().metadata().map_err(|source| self.placing(source))?;
            recorded.push(PlacedBeside { path: path.clone(), file: FileIdentity::of(&file) });
        }
        reservation.will_name_file(&metadata, first.clone(), recorded, digest, policy)?;
        // The image last: whoever sees it sees what lies beside it.
        for (path, file) in beside {
            file.link_as(file_name(path)).map_err(|source| self.placing(source))?;
            fault::point("pull:beside-linked")?;
        }
        self.cancel.check()?;
        complete.link_as(file_name(&first)).map_err(|source| self.placing(source))?;
        fault::point("pull:linked")?;
        self.cancel.check()?;
        if self.request.replace {
            complete
                .take_over(file_name(&first), file_name(self.target))
                .map_err(|source| self.placing(source))?;
            fault::point("pull:replaced")?;
            // From here on there is no way back: what was there before is gone.
            return reservation.has_named_file(self.target.to_owned());
        }
        Ok(())
    }

    /// A name beside the last one, of this process and no other.
    fn hidden(&self) -> Result<PathBuf, OperationError> {
        let Owner { pid, start_time } = Owner::this_process()?;
        let mut name = OsString::from(".");
        name.push(file_name(self.target));
        name.push(OsStr::new(&format!(".ddictl-{pid}-{start_time}")));
        Ok(self.target.with_file_name(name))
    }

    fn placing(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OperationError {
        OperationError::system("placing the image as", self.target, source)
    }
}

/// Where what is of this kind lies beside the image `name` that is placed as `target`.
fn beside(target: &Path, name: &str, kind: CompanionKind) -> PathBuf {
    target.with_file_name(format!("{name}{}", kind.suffix()))
}

/// Writes all of it to a fresh file.
fn copy(content: &CompanionContent, to: &File) -> io::Result<()> {
    let (file, size) = match content {
        CompanionContent::Bytes(bytes) => return to.write_all_at(bytes, 0),
        CompanionContent::File { file, size } => (file, size.bytes()),
    };
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0_u64;
    while let Some(left) = size.checked_sub(offset).filter(|left| *left > 0) {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..length).unwrap_or_default();
        file.read_exact_at(piece, offset)?;
        to.write_all_at(piece, offset)?;
        offset = offset.saturating_add(ByteLength::of(piece).bytes());
    }
    Ok(())
}

/// Clears what does not stay of an image of `size` bytes, and writes the new table.
fn reduce(file: &File, size: ByteLength, reduction: &Reduction) -> io::Result<()> {
    for extent in reduction.cleared(size) {
        clear_extent(file, extent)?;
    }
    file.set_len(reduction.image_size.bytes())?;
    for (offset, bytes) in &reduction.table {
        file.write_all_at(bytes, offset.bytes())?;
    }
    Ok(())
}
