//! An image in memory that cannot change any more, and of which everything that is planned was verified.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use crate::format::units::ByteLength;
use crate::image::assessment::{Assessment, assess, revoked_partitions};
use crate::image::dissection::Dissection;
use crate::image::plan::{Access, ActivationPlan, Refusal};
use crate::image::presets::RequestedPolicy;
use crate::trust::download::{CheckedDownload, VerifiedDownload};
use crate::trust::hash_tree::VerifiedData;
use crate::trust::revocation::Revocations;

use super::cancel::Cancel;
use super::companions::Companions;
use super::error::OperationError;
use super::examine::{native_architecture, survey_options};
use super::leaves::EarlyLeaves;
use super::observer::Observer;
use super::source::{ImageFile, ImageSource, survey};
use super::trust_store::TrustStore;
use super::verify::{check_top, verify_data, verify_rest};

/// An image whose bytes lie in memory where nobody can write them: a sealed memory file, or a file in a tmpfs of ours
/// to which only read-only descriptors are left.
#[derive(Debug)]
pub struct ImmutableImage {
    image: ImageFile,
    source: String,
    download: Option<CheckedDownload>,
}

impl ImmutableImage {
    /// An image in `file`, which nobody can write. `source` is where it came from, `download` what its bytes came in and
    /// were compared with, where that was a download.
    pub(super) fn new(file: File, source: &str, size: ByteLength, download: Option<CheckedDownload>) -> Self {
        Self { image: ImageFile::from_file(file, source, size), source: source.to_owned(), download }
    }

    /// The same image with these files beside it. What of them is used after verification must lie where nobody can write
    /// it, too.
    pub(super) fn with_companions(self, companions: Companions) -> Self {
        Self { image: self.image.with_companions(companions), ..self }
    }
}

/// The proof that everything planned was verified, from the bytes that will be used.
#[derive(Debug)]
#[must_use]
pub struct VerifiedImage {
    image: ImmutableImage,
    plan: ActivationPlan,
    verified: Vec<VerifiedData>,
}

impl VerifiedImage {
    /// Dissects the bytes in memory, applies the policy and verifies every block that is planned.
    ///
    /// Whatever was found earlier, on a disk or a server, was a hint: nothing of it counts here. `leaves` are digests of
    /// bytes that were written to this very file, and count where they were computed as the bytes in it say.
    ///
    /// # Errors
    /// [`OperationError::Malformed`], [`OperationError::Refused`], [`OperationError::Integrity`], or what reading
    /// said.
    pub(super) fn verify(
        image: ImmutableImage,
        mut leaves: EarlyLeaves,
        trust: &TrustStore,
        policy: &RequestedPolicy,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Self, OperationError> {
        let download = image.download.as_ref().and_then(CheckedDownload::verified);
        let plan = plan_in(&image.image, trust, download, policy, Access::ReadOnly, cancel)?;
        let mut verified = Vec::new();
        for device in &plan.devices {
            if let Some(verity) = &device.verity {
                verified.push(match leaves.take(&verity.set) {
                    Some(early) => verify_rest(&image.image, &verity.set, early, observer, cancel)?,
                    None => verify_data(&image.image, &verity.set, observer, cancel)?,
                });
            }
        }
        Ok(Self { image, plan, verified })
    }

    /// The same image by another descriptor of the very file that was verified.
    ///
    /// # Errors
    /// [`OperationError::State`] where it is another file, [`OperationError::System`] where that cannot be told.
    pub(super) fn through(mut self, file: File) -> Result<Self, OperationError> {
        let examining = |source| OperationError::system("examining", &self.image.source, source);
        let verified = self.file().metadata().map_err(examining)?;
        let found = file.metadata().map_err(examining)?;
        if (found.dev(), found.ino()) != (verified.dev(), verified.ino()) {
            let problem = "expected the file that was verified, found another one under its name";
            return Err(OperationError::state("reopening", &self.image.source, problem));
        }
        self.image.image = self.image.image.through(file);
        Ok(self)
    }

    /// What the bytes came in, and were compared with, where that was a download.
    pub(super) const fn download(&self) -> Option<&CheckedDownload> {
        self.image.download.as_ref()
    }

    /// What lies beside it, and was verified with it as far as it counts.
    pub(super) fn into_companions(self) -> Companions {
        self.image.image.into_companions()
    }

    /// The image, to be read once more.
    pub(super) const fn image(&self) -> &ImageFile {
        &self.image.image
    }

    /// What is planned.
    #[must_use]
    pub const fn plan(&self) -> &ActivationPlan {
        &self.plan
    }

    /// What was verified: one for each planned device that has a hash tree, in their order.
    pub fn verified(&self) -> &[VerifiedData] {
        &self.verified
    }

    /// The bytes.
    #[must_use]
    pub const fn file(&self) -> &File {
        self.image.image.file()
    }

    /// The file beside it that has the hash tree.
    #[must_use]
    pub fn tree(&self) -> Option<&File> {
        self.image.image.companions().tree()
    }

    /// Where it came from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.image.source
    }

    /// The SHA-256 of the download in hexadecimal, where there was one.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        self.image.download.as_ref().map(|download| data_encoding::HEXLOWER.encode(download.digest()))
    }
}

/// Plans what would be activated of an image as it lies there, for `access` to it.
///
/// # Errors
/// [`OperationError::Malformed`], [`OperationError::Refused`], [`OperationError::Integrity`] for a hash tree that is not
/// the one of its root hash, or what reading said.
pub fn plan(
    image: &dyn ImageSource,
    trust: &TrustStore,
    policy: &RequestedPolicy,
    access: Access,
    cancel: &Cancel,
) -> Result<ActivationPlan, OperationError> {
    plan_in(image, trust, None, policy, access, cancel)
}

/// Dissects an image inside a download for which somebody may vouch, and finds how everything in it is protected.
///
/// # Errors
/// [`OperationError::Malformed`], or what reading said.
pub(super) fn look(
    image: &dyn ImageSource,
    trust: &TrustStore,
    download: Option<&VerifiedDownload>,
    cancel: &Cancel,
) -> Result<(Dissection, Assessment), OperationError> {
    let dissection = survey(image, survey_options(trust, image)?, cancel)?;
    let assessment = assess(&dissection, &trust.trust_in(download));
    Ok((dissection, assessment))
}

/// Refuses an image that is used as a whole and has a partition that was taken back.
///
/// # Errors
/// [`OperationError::Refused`].
pub(super) fn refuse_revoked(
    image: &str,
    dissection: &Dissection,
    revocations: &Revocations,
) -> Result<(), OperationError> {
    let findings = revoked_partitions(dissection, revocations);
    if findings.is_empty() {
        return Ok(());
    }
    let refusal = Box::new(Refusal { policy: "*".to_owned(), findings });
    Err(OperationError::Refused { image: image.to_owned(), refusal })
}

/// As [`plan`], for an image inside a download for which somebody may vouch.
///
/// # Errors
/// As [`plan`].
fn plan_in(
    image: &dyn ImageSource,
    trust: &TrustStore,
    download: Option<&VerifiedDownload>,
    policy: &RequestedPolicy,
    access: Access,
    cancel: &Cancel,
) -> Result<ActivationPlan, OperationError> {
    Ok(dissect_and_plan(image, trust, download, policy, access, cancel)?.1)
}

/// As [`plan_in`], with what was found in the image.
///
/// # Errors
/// As [`plan`].
pub(super) fn dissect_and_plan(
    image: &dyn ImageSource,
    trust: &TrustStore,
    download: Option<&VerifiedDownload>,
    policy: &RequestedPolicy,
    access: Access,
    cancel: &Cancel,
) -> Result<(Dissection, ActivationPlan), OperationError> {
    let (dissection, assessment) = look(image, trust, download, cancel)?;
    let plan = ActivationPlan::new(&dissection, assessment, policy, native_architecture()?, access).map_err(
        |refusal| OperationError::Refused { image: image.name().to_owned(), refusal: Box::new(refusal) },
    )?;
    for verity in plan.devices.iter().filter_map(|device| device.verity.as_ref()) {
        check_top(image, &verity.set)?;
    }
    Ok((dissection, plan))
}
