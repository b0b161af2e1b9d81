//! Making one device of a plan: loop devices, dm-verity on top, and a last look at what it shows.

use std::fs::File;
use std::os::fd::AsFd;

use crate::format::superblock::FileSystem;
use crate::format::units::{ByteLength, ByteOffset, Extent, SectorSize};
use crate::format::verity::table::{VerityHealth, VerityTable};
use crate::image::dissection::VeritySet;
use crate::image::finding::{Finding, Rule};
use crate::image::plan::{PlannedDevice, PlannedVerity, Refusal};
use crate::image::unlocked::LockedPartition;
use crate::kernel::device_mapper::{
    DeviceMapperError, KernelSignature, MappedDevice, SignatureRefusal, VerityRequest,
};
use crate::kernel::loop_device::{LoopDevice, LoopRequest};
use crate::operation::activatable::Activatable;
use crate::operation::cancel::Cancel;
use crate::operation::contents::Contents;
use crate::operation::devices::HeldDevice;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::observer::Observer;
use crate::operation::unlock::{self, Keys, UnlockRequest};

use super::{ActivationOptions, GuardOptions, Reservation};

/// The bytes that the device of the hash tree shows of the image, or of the file beside it: the beginning of the hash
/// partition with the superblock, which is where tools look for it, and the tree, and nothing behind.
pub(super) fn hash_extent(set: &VeritySet) -> Option<Extent> {
    let within = set.geometry.tree_extent();
    let start = set.tree_extent.start().bytes().checked_sub(within.start().bytes())?;
    Extent::new(ByteOffset::new(start), ByteLength::new(within.end().bytes()))
}

/// The table of the dm-verity device on top of these loop devices.
pub(super) fn verity_table(
    verity: &PlannedVerity,
    data: &LoopDevice,
    hash: &LoopDevice,
    options: GuardOptions,
) -> VerityTable {
    let root_hash = verity.authenticated.as_ref().map_or(&verity.set.root_hash, |known| known.root_hash());
    let mut table = VerityTable::of(
        &verity.set.superblock,
        root_hash.clone(),
        data.device_number().into(),
        hash.device_number().into(),
    );
    table.on_corruption = options.on_corruption;
    table
}

impl Reservation {
    /// Makes the device of the plan with this index. The record names it already; after each step it is written again.
    pub(super) fn make_device(
        &mut self,
        index: usize,
        planned: &PlannedDevice,
        image: Activatable<'_>,
        options: ActivationOptions<'_>,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(), OperationError> {
        let sector_size = image.plan().sector_size;
        self.devices.push(HeldDevice::on(Vec::new()));
        let loops = self.record.devices.get(index).map_or(0, |device| device.loops.len());
        for below in 0..loops {
            let step = match (below, loops) {
                (_, 1) => "loop",
                (0, _) => "data",
                _ => "hash",
            };
            self.make_loop(index, below, image, sector_size)?;
            fault::point(&format!("attach:{step}-{index}"))?;
            self.store.write(&self.record)?;
            fault::point(&format!("attach:{step}-{index}-recorded"))?;
        }
        let guarded = self.record.devices.get(index).is_some_and(|device| !device.mappers.is_empty());
        if let Some(verity) = planned.verity.as_ref().filter(|_| guarded) {
            self.make_verity(index, planned, verity, image, options.guard, observer)?;
            fault::point(&format!("attach:verity-{index}"))?;
            self.store.write(&self.record)?;
            fault::point(&format!("attach:verity-{index}-recorded"))?;
        }
        if let Some(keys) = options.keys.filter(|_| planned.protection.hides_content()) {
            self.unlock(index, planned, image, options, &mut keys.borrow_mut(), observer, cancel)?;
            fault::point(&format!("attach:crypt-{index}"))?;
            self.store.write(&self.record)?;
            return fault::point(&format!("attach:crypt-{index}-recorded"));
        }
        self.check_contents(index, planned, image)
    }

    fn make_loop(
        &mut self,
        index: usize,
        below: usize,
        image: Activatable<'_>,
        block_size: SectorSize,
    ) -> Result<(), OperationError> {
        let Some(recorded) =
            self.record.devices.get_mut(index).and_then(|device| device.loops.get_mut(below))
        else {
            return Err(not_as_recorded(image));
        };
        let backing = match (&recorded.file, recorded.read_only, image.tree(), image.writable()) {
            (None, true, ..) => image.file(),
            (None, false, _, Some(writable)) => writable,
            (Some(_), true, Some(tree), _) => tree,
            (Some(_), ..) => return Err(not_as_recorded(image)),
            (None, false, _, None) => {
                let problem = "the plan has a writable device, and the image was not opened for writing";
                return Err(OperationError::state("attaching", &recorded.reference, problem));
            }
        };
        let extent = Extent::new(ByteOffset::new(recorded.offset), ByteLength::new(recorded.size));
        let request = LoopRequest {
            backing: backing.as_fd(),
            extent,
            block_size,
            read_only: recorded.read_only,
            reference: &recorded.reference,
        };
        let device = LoopDevice::configure(&request).map_err(|source| {
            OperationError::system("attaching a loop device for", &recorded.reference, source)
        })?;
        recorded.note(&device);
        let (path, number, sequence) =
            (recorded.path.clone(), recorded.device.clone(), recorded.disk_sequence);
        if let Some(device) = self.record.devices.get_mut(index).filter(|device| device.mappers.is_empty()) {
            (device.path, device.device, device.disk_sequence) = (path, number, sequence);
        }
        if let Some(held) = self.devices.get_mut(index) {
            held.push_loop(device);
        }
        Ok(())
    }

    fn make_verity(
        &mut self,
        index: usize,
        planned: &PlannedDevice,
        verity: &PlannedVerity,
        image: Activatable<'_>,
        options: GuardOptions,
        observer: &dyn Observer,
    ) -> Result<(), OperationError> {
        let (Some(held), Some(device)) = (self.devices.get_mut(index), self.record.devices.get_mut(index))
        else {
            return Err(not_as_recorded(image));
        };
        let ([data, hash], [recorded]) = (held.loops(), device.mappers.as_mut_slice()) else {
            return Err(not_as_recorded(image));
        };
        let table = verity_table(verity, data, hash, options);
        let request = VerityRequest { name: &recorded.name, uuid: &recorded.uuid, table };
        let signature = verity.authenticated.as_ref().and_then(|known| known.signature());
        let (mapped, checked) =
            MappedDevice::create_verity(&request, signature).map_err(|error| match error {
                DeviceMapperError::Signature { refusal, .. } => refused_by_kernel(image, planned, refusal),
                other => OperationError::system("making the dm-verity device for", &device.reference, other),
            })?;
        recorded.note(&mapped);
        recorded.kernel_checked_signature = match checked {
            KernelSignature::None => None,
            KernelSignature::Checked => Some(true),
            KernelSignature::NotChecked { why } => {
                observer.note(&format!(
                    "the signature of '{}' was verified by ddictl; the kernel did not check it: {why}",
                    planned.designator
                ));
                Some(false)
            }
        };
        device.path.clone_from(&recorded.path);
        device.device.clone_from(&recorded.device);
        device.disk_sequence = recorded.disk_sequence;
        held.push(mapped);
        Ok(())
    }

    /// Opens an encrypted partition on top of its loop device. What shows in it is probed, and the policy is asked again.
    #[expect(clippy::too_many_arguments, reason = "all of them are parts of one request")]
    fn unlock(
        &mut self,
        index: usize,
        planned: &PlannedDevice,
        image: Activatable<'_>,
        options: ActivationOptions<'_>,
        keys: &mut Keys<'_>,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(), OperationError> {
        let (Some(held), Some(device)) = (self.devices.get_mut(index), self.record.devices.get_mut(index))
        else {
            return Err(not_as_recorded(image));
        };
        let (Some(below), Some(top)) = (held.path(), device.mappers.last()) else {
            return Err(not_as_recorded(image));
        };
        let unlocked = unlock::unlock(
            &UnlockRequest {
                image: image.source(),
                partition: LockedPartition {
                    number: planned.number,
                    designator: planned.designator,
                    protection: planned.protection,
                    read_only: planned.attributes.read_only(),
                    growfs: planned.attributes.growfs(),
                },
                device: &below,
                name: &top.name,
                read_only: planned.read_only,
                allow_discards: false,
                policy: options.policy,
            },
            keys,
            observer,
            cancel,
        )?;
        device.file_system = unlocked.file_system.map(|file_system| file_system.as_str().to_owned());
        let made = unlocked.volume.into_devices();
        for recorded in &mut device.mappers {
            if let Some(made) = made.iter().find(|made| made.name() == recorded.name) {
                recorded.note(made);
            }
        }
        if let Some(top) = device.mappers.last() {
            device.path.clone_from(&top.path);
            device.device.clone_from(&top.device);
            device.disk_sequence = top.disk_sequence;
        }
        made.into_iter().for_each(|made| held.push(made));
        Ok(())
    }

    /// Looks at the finished device: it must show what was planned, whatever happened to the image in between.
    fn check_contents(
        &self,
        index: usize,
        planned: &PlannedDevice,
        image: Activatable<'_>,
    ) -> Result<(), OperationError> {
        let Some((held, path)) =
            self.devices.get(index).and_then(|held| Some((held, held.path()?.display().to_string())))
        else {
            return Err(not_as_recorded(image));
        };
        let Some(fd) = held.fd() else { return Err(not_as_recorded(image)) };
        let device = fd
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|source| OperationError::system("examining", &path, source))?;
        let found = Contents::of(device, &path, planned.extent.length())
            .map_err(|error| if_corrupted(held, planned, image).unwrap_or(error))?;
        let expected = planned.file_system;
        if found.file_system() != expected {
            let word =
                |file_system: Option<_>| file_system.map_or("no file system of its own", FileSystem::as_str);
            let problem = format!(
                "expected {} as in the plan, found {}: the image was changed meanwhile, or is damaged",
                word(expected),
                word(found.file_system())
            );
            return Err(OperationError::state("examining", path, problem));
        }
        if planned.designator.is_vfat_alone() {
            found.check_vfat().map_err(|found| {
                OperationError::state("examining", path, format!("expected a sane vfat, found {found}"))
            })?;
        }
        Ok(())
    }
}

/// The program contradicts itself: what is about to be made has no place in the record that was written for it. Whatever
/// would come of going on, nobody planned it.
fn not_as_recorded(image: Activatable<'_>) -> OperationError {
    let problem = "expected a device as its record describes it, found another: this is an error in ddictl, please report it";
    OperationError::state("attaching", image.source(), problem)
}

/// What to say of a device that cannot be read, where dm-verity is the reason.
fn if_corrupted(
    held: &HeldDevice,
    planned: &PlannedDevice,
    image: Activatable<'_>,
) -> Option<OperationError> {
    let status = held.mappers().last()?.status().ok().flatten()?;
    (status.health == Some(VerityHealth::Corrupted)).then(|| OperationError::Integrity {
        image: image.source().to_owned(),
        finding: Box::new(Finding::of_partition(
            Rule::DataCorrupt,
            planned.number,
            "blocks as the hash tree has them",
            "others, according to dm-verity: 'ddictl verify' names them",
        )),
    })
}

/// What the kernel refuses is refused, whatever we made of the signature.
fn refused_by_kernel(
    image: Activatable<'_>,
    planned: &PlannedDevice,
    refusal: SignatureRefusal,
) -> OperationError {
    let finding = Finding::of_partition(
        Rule::SignatureRefusedByKernel,
        planned.number,
        "a root hash whose signature the kernel verifies, too",
        format!("its refusal: {refusal}"),
    );
    let refusal = Refusal { policy: image.plan().policy.clone(), findings: vec![finding] };
    OperationError::Refused { image: image.source().to_owned(), refusal: Box::new(refusal) }
}
