//! `attach --whole-disk`: one loop device over a whole image, with partitions as in its table. Nothing is verified.

use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::format::loop_reference::LoopReference;
use crate::format::units::Extent;
use crate::image::plan::Access;
use crate::image::presets::RequestedPolicy;
use crate::image::survey::SurveyOptions;
use crate::image::whole_disk::{WholeDiskPlan, allows_whole_disk};
use crate::kernel::loop_device::{LoopDevice, LoopRequest, LoopStatus};
use crate::kernel::partition::{self, Partition, PartitionError};

use super::activate::{Attached, Reservation};
use super::attach::default_reference;
use super::cancel::Cancel;
use super::detach::reap;
use super::error::OperationError;
use super::examine::native_architecture;
use super::observer::Observer;
use super::source::{ImageFile, ImageSource as _, survey};
use super::trust_store::TrustStore;
use super::verified_image::refuse_revoked;

/// What is to be attached as a whole.
#[derive(Debug)]
pub struct WholeDiskRequest {
    /// The image: a file or a block device.
    pub image: PathBuf,
    /// The name of the links; `None` for the file's own name.
    pub reference: Option<LoopReference>,
    /// The policy that was given in words; `None` where none was, and the default would hold.
    pub policy: Option<RequestedPolicy>,
    /// Whether it is to be written to, where the image allows it.
    pub access: Access,
}

/// What [`attach_whole_disk`] would make.
///
/// # Errors
/// [`OperationError::Usage`] where the policy does not allow it or the name cannot be a reference,
/// [`OperationError::Malformed`] where no two readers would agree about the image, [`OperationError::Refused`] where a
/// partition of it was taken back.
pub fn plan_whole_disk(
    request: &WholeDiskRequest,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Result<(LoopReference, WholeDiskPlan), OperationError> {
    let (reference, _, plan) = open_and_plan(request, trust, cancel)?;
    Ok((reference, plan))
}

/// The name, the image, opened once and for all, and what is to be made of it.
fn open_and_plan(
    request: &WholeDiskRequest,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Result<(LoopReference, ImageFile, WholeDiskPlan), OperationError> {
    let refused =
        |refusal| OperationError::Usage(format!("attaching '{}': {refusal}", request.image.display()));
    // Before the image is read: what is wrong with the words is wrong with any image.
    allows_whole_disk(request.policy.as_ref()).map_err(refused)?;
    let reference = match &request.reference {
        Some(reference) => reference.clone(),
        None => default_reference(&request.image)?,
    };
    let image = ImageFile::open(&request.image)?;
    let dissection = survey(&image, SurveyOptions::new(native_architecture()?), cancel)?;
    refuse_revoked(image.name(), &dissection, trust.revocations())?;
    let plan = WholeDiskPlan::new(&dissection, request.policy.as_ref(), request.access).map_err(refused)?;
    for (number, _) in &plan.partitions {
        reference.partition(*number).map_err(|error| {
            OperationError::Usage(format!("naming the devices of '{reference}': {error}"))
        })?;
    }
    Ok((reference, image, plan))
}

/// An image that is to become a disk.
#[derive(Debug)]
pub struct PlannedWholeDisk {
    image: ImageFile,
    plan: WholeDiskPlan,
    policy: String,
}

impl PlannedWholeDisk {
    /// The image.
    #[must_use]
    pub const fn image(&self) -> &ImageFile {
        &self.image
    }

    /// What is to be made of it.
    #[must_use]
    pub const fn plan(&self) -> &WholeDiskPlan {
        &self.plan
    }

    /// The policy that allowed it.
    #[must_use]
    pub fn policy(&self) -> String {
        self.policy.clone()
    }

    /// Makes the disk, without partitions. It goes with its descriptor.
    pub(super) fn make_disk(&self, reference: &LoopReference) -> Result<LoopDevice, OperationError> {
        let writable = match self.plan.read_only {
            Some(_) => None,
            None => Some(self.image.reopen_for_writing()?),
        };
        let request = LoopRequest {
            backing: writable.as_ref().unwrap_or_else(|| self.image.file()).as_fd(),
            extent: Some(self.plan.extent),
            block_size: self.plan.sector_size,
            read_only: self.plan.read_only.is_some(),
            reference: reference.as_str(),
        };
        LoopDevice::configure(&request).map_err(|source| {
            OperationError::system("attaching a loop device for", reference.as_str(), source)
        })
    }
}

/// Makes the partitions of a plan.
pub(super) fn make_partitions(
    disk: &LoopDevice,
    plan: &WholeDiskPlan,
) -> Result<Vec<Partition>, OperationError> {
    let wanted: Vec<(u32, Extent)> =
        plan.partitions.iter().map(|(number, extent)| (number.get(), *extent)).collect();
    partition::replace_all(disk.fd(), disk.device_number(), &wanted)
        .map_err(|error| partition_error("partitioning", disk, error))
}

/// Attaches an image as one disk with the partitions of its table. Nothing of it is verified.
///
/// # Errors
/// As [`plan_whole_disk`]; [`OperationError::State`] where the name is taken or a partition of an earlier use is in use,
/// [`OperationError::System`] where the kernel refuses. Nothing is left behind then.
pub fn attach_whole_disk(
    request: &WholeDiskRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Attached, OperationError> {
    let (reference, image, plan) = open_and_plan(request, trust, cancel)?;
    reap(observer)?;
    let image_path = request.image.display();
    observer.warning(&format!("nothing of '{image_path}' is verified: every byte of it is shown as it is"));
    if let (Access::ReadWrite, Some(why)) = (request.access, &plan.read_only) {
        observer.note(&format!("the disk is read-only: {why}"));
    }
    let source = std::fs::canonicalize(&request.image)
        .map_err(|source| OperationError::system("resolving", &request.image, source))?
        .display()
        .to_string();
    let policy = request.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    let planned = PlannedWholeDisk { image, plan, policy };
    Reservation::make(&reference, &source)?
        .activate_whole_disk(&planned, &source, cancel)?
        .make_permanent(observer, cancel)
}

/// Deletes the partitions of a loop device that is about to be detached, if it is still the one that was looked at.
pub(super) fn release_partitions_of(status: &LoopStatus) -> Result<(), OperationError> {
    let path = format!("/dev/loop{}", status.number);
    let opened = LoopDevice::open_existing(status.number)
        .map_err(|source| OperationError::system("opening", &path, source))?;
    match opened.filter(|device| device.disk_sequence() == status.disk_sequence) {
        Some(device) => release_partitions(&device),
        None => Ok(()),
    }
}

/// Deletes the partitions of a loop device of ours, whoever made them, so that it can be unbound and leaves none behind.
///
/// # Errors
/// [`OperationError::State`] naming the one that is in use: those before it are gone then.
pub fn release_partitions(device: &LoopDevice) -> Result<(), OperationError> {
    partition::delete_all(device.fd(), device.device_number())
        .map_err(|error| partition_error("taking the partitions from", device, error))
}

fn partition_error(doing: &'static str, device: &LoopDevice, error: PartitionError) -> OperationError {
    match error {
        PartitionError::InUse { .. } => {
            OperationError::state(doing, device.path().display(), error.to_string())
        }
        other => OperationError::system(doing, device.path(), other),
    }
}
