//! `attach --whole-disk`: one loop device over a whole image, with partitions as in its table. Nothing is verified.

use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::format::loop_reference::LoopReference;
use crate::format::units::{Extent, PartitionNumber};
use crate::image::plan::Access;
use crate::image::presets::RequestedPolicy;
use crate::image::survey::SurveyOptions;
use crate::image::whole_disk::{WholeDiskPlan, allows_whole_disk};
use crate::kernel::loop_device::{LoopDevice, LoopRequest};
use crate::kernel::partition::{self, Partition, PartitionError};

use super::attach::default_reference;
use super::cancel::Cancel;
use super::error::OperationError;
use super::examine::native_architecture;
use super::fault;
use super::observer::Observer;
use super::source::{ImageFile, survey};

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

/// What [`hold_whole_disk`] would make.
///
/// # Errors
/// [`OperationError::Usage`] where the policy does not allow it or the name cannot be a reference,
/// [`OperationError::Malformed`] where no two readers would agree about the image.
pub fn plan_whole_disk(
    request: &WholeDiskRequest,
    cancel: &Cancel,
) -> Result<(LoopReference, WholeDiskPlan), OperationError> {
    let (reference, _, plan) = open_and_plan(request, cancel)?;
    Ok((reference, plan))
}

/// The name, the image, opened once and for all, and what is to be made of it.
fn open_and_plan(
    request: &WholeDiskRequest,
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
    let plan = WholeDiskPlan::new(&dissection, request.policy.as_ref(), request.access).map_err(refused)?;
    for (number, _) in &plan.partitions {
        reference.partition(*number).map_err(|error| {
            OperationError::Usage(format!("naming the devices of '{reference}': {error}"))
        })?;
    }
    Ok((reference, image, plan))
}

/// Makes a disk of an image, with its partitions.
///
/// # Errors
/// As [`plan_whole_disk`] and [`HeldWholeDisk::make`].
pub fn hold_whole_disk(
    request: &WholeDiskRequest,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<HeldWholeDisk, OperationError> {
    let (reference, image, plan) = open_and_plan(request, cancel)?;
    HeldWholeDisk::make(request, &image, &reference, &plan, observer, cancel)
}

/// A whole disk that this process holds: without its partitions when this is dropped, and gone with the last descriptor,
/// unless it was made permanent.
#[derive(Debug)]
#[must_use = "undo it, or make it permanent"]
pub struct HeldWholeDisk {
    device: LoopDevice,
    partitions: Vec<Partition>,
    kept: bool,
}

impl HeldWholeDisk {
    /// Makes the disk and its partitions.
    ///
    /// # Errors
    /// [`OperationError::State`] where a partition of an earlier use is in use, [`OperationError::System`] where the kernel
    /// refuses; nothing is left behind then.
    pub fn make(
        request: &WholeDiskRequest,
        image: &ImageFile,
        reference: &LoopReference,
        plan: &WholeDiskPlan,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Self, OperationError> {
        observer.warning(&format!(
            "nothing of '{}' is verified: every byte of it is shown as it is",
            request.image.display()
        ));
        if let (Access::ReadWrite, Some(why)) = (request.access, &plan.read_only) {
            observer.note(&format!("the disk is read-only: {why}"));
        }
        let writable = match plan.read_only {
            Some(_) => None,
            None => Some(image.reopen_for_writing()?),
        };
        let loop_request = LoopRequest {
            backing: writable.as_ref().unwrap_or_else(|| image.file()).as_fd(),
            extent: Some(plan.extent),
            block_size: plan.sector_size,
            read_only: plan.read_only.is_some(),
            reference: reference.as_str(),
        };
        let device = LoopDevice::configure(&loop_request).map_err(|source| {
            OperationError::system("attaching a loop device for", reference.as_str(), source)
        })?;
        // From here on, dropping takes back what there is.
        let mut held = Self { device, partitions: Vec::new(), kept: false };
        fault::point("whole-disk:device")?;
        cancel.check()?;
        let wanted: Vec<(u32, Extent)> =
            plan.partitions.iter().map(|(number, extent)| (PartitionNumber::get(*number), *extent)).collect();
        held.partitions = partition::replace_all(held.device.fd(), held.device.device_number(), &wanted)
            .map_err(|error| partition_error("partitioning", &held.device, error))?;
        fault::point("whole-disk:partitions")?;
        Ok(held)
    }

    /// The disk.
    #[must_use]
    pub const fn device(&self) -> &LoopDevice {
        &self.device
    }

    /// Its partitions, by number, as the kernel shows them.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Lets disk and partitions outlive this process.
    ///
    /// # Errors
    /// [`OperationError::System`] where the kernel refuses; nothing is left behind then.
    pub fn make_permanent(mut self) -> Result<(), OperationError> {
        self.device
            .make_permanent()
            .map_err(|source| OperationError::system("making permanent", self.device.path(), source))?;
        self.kept = true;
        Ok(())
    }

    /// Takes the partitions back; the disk goes with its last descriptor.
    ///
    /// # Errors
    /// [`OperationError::State`] where one is in use.
    pub fn undo(mut self) -> Result<(), OperationError> {
        self.kept = true;
        release_partitions(&self.device)
    }
}

impl Drop for HeldWholeDisk {
    /// A partition would outlive the binding of the loop device, and show bytes of the next one.
    fn drop(&mut self) {
        if !self.kept {
            // Whoever can tell of a failure calls `undo`.
            let _ = release_partitions(&self.device);
        }
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
