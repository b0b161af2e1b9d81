//! Devices for an image: one loop device per planned extent, dm-verity on top where the kernel has it, recorded,
//! announced to udev, undone on failure.
//!
//! Until the attachment is complete, every device lives only as long as this process holds it: loop devices by their
//! AUTOCLEAR flag, those of the device mapper by deferred removal.

mod links;
mod making;
mod names;
mod placed;
mod sharing;
mod whole_disk;

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use crate::format::loop_reference::LoopReference;
use crate::format::units::{Extent, PartitionNumber};
use crate::format::verity::table::OnCorruption;
use crate::image::dissection::TreePlace;
use crate::image::finding::Level;
use crate::image::plan::PlannedDevice;
use crate::image::policy::Protection;
use crate::image::presets::RequestedPolicy;
use crate::kernel::device_mapper;
use crate::kernel::device_number::DeviceNumber;

use super::activatable::Activatable;
use super::cancel::Cancel;
use super::detach::remove_placed;
use super::devices::{BoundDevices, HeldDevice, UNBIND_DEADLINE};
use super::error::OperationError;
use super::fault;
use super::observer::Observer;
use super::record::{
    FileIdentity, ImageIdentity, MapperTarget, Placed, Record, RecordStore, RecordedDevice, RecordedLoop,
    RecordedMapper, RecordedMount, State,
};
use super::tree;
use super::unlock::Keys;
use super::whole_disk::release_partitions;

pub(super) use links::{
    INITRD_RELEASE, LINK_DIRECTORY, remove_runtime_rules, wait_for_udev, write_runtime_rules,
};
pub use names::device_references;
pub(super) use names::{bases_of, is_mapper_of, is_part_of};
pub(super) use sharing::shows;

/// What was attached.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The record as it was written.
    pub record: Record,
    /// The links that udev made; empty where there is no udev.
    pub links: Vec<PathBuf>,
}

/// How the kernel is to guard what is verified.
#[derive(Debug, Clone, Copy, Default)]
pub struct GuardOptions {
    /// What dm-verity does about a block that differs.
    pub on_corruption: OnCorruption,
}

/// How devices are to be made.
#[derive(Debug, Clone, Copy)]
pub struct ActivationOptions<'a> {
    /// How the kernel is to guard what is verified.
    pub guard: GuardOptions,
    /// What is required of the image, to be asked again of what shows in an encrypted partition.
    pub policy: &'a RequestedPolicy,
    /// What opens encrypted partitions; without, they stay locked.
    pub keys: Option<&'a RefCell<Keys<'static>>>,
}

/// A reference that is ours: a record in state `pending` says so, before anything else happens under that name.
///
/// Every way out ends in [`Self::activate`] or [`Self::undo`]; a process that dies in between leaves a record that tells
/// what to take down.
#[derive(Debug)]
#[must_use = "undo it, or activate"]
pub struct Reservation {
    reference: LoopReference,
    store: RecordStore,
    record: Record,
    devices: Vec<HeldDevice>,
    /// Whether the devices are those of an attachment that stays.
    is_borrowed: bool,
}

impl Reservation {
    /// Reserves a reference for an image that comes from `source`.
    ///
    /// # Errors
    /// [`OperationError::State`] where the name is taken.
    pub fn make(reference: &LoopReference, source: &str) -> Result<Self, OperationError> {
        let store = RecordStore::of_this_machine();
        let record = Record::new(reference, source)?;
        fault::point("attach:before-record")?;
        {
            let _lock = store.lock()?;
            names::refuse_taken_names(&store, reference)?;
            store.write(&record)?;
        }
        Ok(Self { reference: reference.clone(), store, record, devices: Vec::new(), is_borrowed: false })
    }

    /// Records a file before it is placed.
    ///
    /// # Errors
    /// [`OperationError::System`] where the record cannot be written.
    pub fn will_place(&mut self, placed: Placed) -> Result<(), OperationError> {
        self.record.placed = Some(placed);
        self.store.write(&self.record)
    }

    /// Records which file is about to get the name of the placed one.
    ///
    /// # Errors
    /// [`OperationError::System`] where the record cannot be written.
    pub fn will_link(&mut self, file: FileIdentity) -> Result<(), OperationError> {
        if let Some(placed) = &mut self.record.placed {
            placed.file = Some(file);
        }
        self.store.write(&self.record)
    }

    /// The name that is reserved.
    #[must_use]
    pub fn reference(&self) -> &str {
        self.reference.as_str()
    }

    /// Makes the devices. They last as long as the [`Activation`].
    ///
    /// # Errors
    /// [`OperationError`]; nothing is left behind then. Where undoing fails as well, the error says so.
    pub fn activate(
        mut self,
        image: Activatable<'_>,
        options: ActivationOptions<'_>,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Activation, OperationError> {
        match self.run(image, options, observer, cancel) {
            Ok(()) => Ok(Activation { reservation: self }),
            Err(cause) => Err(self.undo(cause)),
        }
    }

    fn run(
        &mut self,
        image: Activatable<'_>,
        options: ActivationOptions<'_>,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(), OperationError> {
        for finding in image.plan().findings.iter().filter(|finding| finding.level == Level::Warning) {
            observer.warning(&finding.to_string());
        }
        let guarded = has_dm_verity(image)?;
        if !guarded && image.plan().devices.iter().any(|device| device.verity.is_some()) {
            observer.note("this kernel has no dm-verity: what was verified in memory is used without it");
        }
        self.fill_record(image, guarded, options.keys.is_some())?;
        self.store.write(&self.record)?;
        fault::point("attach:record")?;
        for (index, planned) in image.plan().devices.iter().enumerate() {
            cancel.check()?;
            self.make_device(index, planned, image, options, observer, cancel)?;
        }
        Ok(cancel.check()?)
    }

    /// Says that the devices may be used: from here on they have links.
    fn announce(&mut self, observer: &dyn Observer, cancel: &Cancel) -> Result<Vec<PathBuf>, OperationError> {
        self.record.state = State::Ready;
        self.store.write(&self.record)?;
        fault::point("attach:ready")?;
        write_runtime_rules(&self.record)?;
        fault::point("attach:rules")?;
        let numbers: Vec<DeviceNumber> = self.devices.iter().filter_map(HeldDevice::device_number).collect();
        let mut links = links::announce(&self.record, &numbers, observer, cancel)?;
        if self.record.whole_disk.is_some() {
            links.extend(links::announce_partitions(&self.record, cancel)?);
        }
        fault::point("attach:announced")?;
        Ok(links)
    }

    /// Records everything that will be made, by name, before any of it is.
    fn fill_record(
        &mut self,
        image: Activatable<'_>,
        guarded: bool,
        unlocked: bool,
    ) -> Result<(), OperationError> {
        let references = device_references(&self.reference, image.plan())?;
        let metadata = image
            .file()
            .metadata()
            .map_err(|source| OperationError::system("examining the image of", image.source(), source))?;
        self.record.image = ImageIdentity {
            source: image.source().to_owned(),
            device: DeviceNumber::of_file_system(&metadata).to_string(),
            inode: metadata.ino(),
            digest: image.digest(),
        };
        self.record.policy.clone_from(&image.plan().policy);
        let tree = file_of_tree(image.tree())?;
        self.record.devices = image
            .plan()
            .devices
            .iter()
            .zip(&references)
            .map(|(planned, name)| recorded(&self.reference, planned, name, tree.as_ref(), guarded, unlocked))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Takes back everything; the error tells what went wrong first and, if so, what then.
    pub fn undo(mut self, cause: OperationError) -> OperationError {
        if self.is_borrowed {
            return self.give_back(cause);
        }
        let mut failures = Vec::new();
        if self.record.state == State::Ready {
            self.record.state = State::Stopping;
            failures.extend(self.store.write(&self.record).err());
        }
        failures.extend(remove_runtime_rules(&self.record.reference).err());
        let numbers: Vec<DeviceNumber> = self.devices.iter().flat_map(HeldDevice::numbers).collect();
        // A partition would outlive the binding of its loop device.
        let loops = self.devices.iter().flat_map(HeldDevice::loops);
        failures.extend(loops.filter_map(|device| release_partitions(device).err()));
        let bound = BoundDevices::held(&self.devices);
        // Our descriptors would keep the devices, so they go first; with the tether that is all.
        self.devices.clear();
        match bound {
            Ok(bound) => {
                let deadline = Instant::now() + UNBIND_DEADLINE;
                let down = bound.take_down(&self.record.reference, deadline, None);
                failures.extend(down.err().map(|(_, error)| error));
            }
            // Then the record stays, and tells the next one what to look for.
            Err(error) => failures.push(error),
        }
        wait_for_udev(&numbers);
        if let Some(tree) = &self.record.tree {
            failures.extend(tree::remove(tree).err());
        }
        if let Some(placed) = &self.record.placed {
            let removed = self
                .store
                .lock()
                .and_then(|_lock| remove_placed(&self.store, &self.record.reference, placed));
            failures.extend(removed.err());
        }
        if failures.is_empty() {
            let removed = self.store.lock().and_then(|_lock| self.store.remove(&self.record.reference));
            failures.extend(removed.err());
        }
        if failures.is_empty() {
            return cause;
        }
        let undoing = failures.iter().map(OperationError::with_causes).collect::<Vec<_>>().join("; ");
        OperationError::Undo { cause: Box::new(cause), undoing }
    }
}

/// Devices that are complete and have no links yet, and that go with this value unless they are kept.
#[derive(Debug)]
#[must_use = "undo it, or keep the devices"]
pub struct Activation {
    reservation: Reservation,
}

impl Activation {
    /// The record as it was written.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.reservation.record
    }

    /// The devices, one for each of the plan, in its order.
    #[must_use]
    pub fn devices(&self) -> &[HeldDevice] {
        &self.reservation.devices
    }

    /// Announces the devices, and lets them stay until somebody detaches them.
    ///
    /// # Errors
    /// [`OperationError`]; nothing is left behind then.
    pub fn make_permanent(
        self,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Attached, OperationError> {
        let Self { mut reservation } = self;
        let links = match reservation.announce(observer, cancel) {
            Ok(links) => links,
            Err(cause) => return Err(reservation.undo(cause)),
        };
        // Until here the kernel takes the devices back when this process dies, and udev their links. The last of these
        // calls completes the attachment: where there are several devices, the first ones lose their links as soon as
        // one of the others goes, see `describe`.
        for (index, device) in reservation.devices.iter().enumerate() {
            let kept = fault::point(&format!("attach:device-{index}-stands"))
                .and_then(|()| Ok(cancel.check()?))
                .and_then(|()| device.make_permanent());
            if let Err(cause) = kept {
                return Err(reservation.undo(cause));
            }
        }
        reservation.record.owner = None;
        match reservation.store.write(&reservation.record) {
            Ok(()) => Ok(Attached { record: reservation.record, links }),
            Err(cause) => Err(reservation.undo(cause)),
        }
    }

    /// Records where a device is about to be mounted.
    ///
    /// # Errors
    /// [`OperationError::System`] where the record cannot be written.
    pub fn will_mount(&mut self, mount: RecordedMount) -> Result<(), OperationError> {
        self.reservation.record.mounts.push(mount);
        self.reservation.store.write(&self.reservation.record)
    }

    /// Leaves the devices to the mounts, which hold them once this value is dropped: with the last mount they go, unless
    /// they are those of an attachment. Only now they get links: those of a mount that was never completed have none.
    ///
    /// # Errors
    /// [`OperationError`]. Then everything has to be unmounted and undone.
    pub fn leave_to_mounts(
        &mut self,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Record, OperationError> {
        let Self { reservation } = self;
        let owner = reservation.record.owner.take();
        let left = match reservation.is_borrowed {
            true => reservation.store.write(&reservation.record),
            false => reservation.announce(observer, cancel).map(drop),
        };
        match left {
            Ok(()) => Ok(reservation.record.clone()),
            Err(error) => {
                reservation.record.owner = owner;
                Err(error)
            }
        }
    }

    /// Takes back everything. What is mounted has to be unmounted before.
    pub fn undo(self, cause: OperationError) -> OperationError {
        self.reservation.undo(cause)
    }
}

/// Whether dm-verity is to guard what is verified: always where the kernel has it.
fn has_dm_verity(image: Activatable<'_>) -> Result<bool, OperationError> {
    if image.plan().devices.iter().all(|device| device.verity.is_none()) {
        return Ok(false);
    }
    let version = device_mapper::supports_verity()
        .map_err(|source| OperationError::system("asking for dm-verity at", "/dev/mapper/control", source))?;
    match version {
        Some(_) => Ok(true),
        None if image.is_verified_in_memory() => Ok(false),
        None => Err(no_dm_verity(image.source())),
    }
}

/// Why an image on a disk cannot be attached as it lies there.
pub(super) fn no_dm_verity(source: &str) -> OperationError {
    let problem = "this kernel has no dm-verity, which alone guards an image that lies on a disk: attach a copy in memory \
                   with --in-memory, or load the kernel module dm-verity";
    OperationError::state("attaching", source, problem)
}

/// Which file a hash tree beside the image lies in.
fn file_of_tree(tree: Option<&File>) -> Result<Option<FileIdentity>, OperationError> {
    let metadata = tree.map(File::metadata).transpose();
    let examining = |source| OperationError::system("examining", "the hash tree beside the image", source);
    Ok(metadata.map_err(examining)?.as_ref().map(FileIdentity::of))
}

/// What a planned device will consist of. `tree` is the file beside the image that has a hash tree.
fn recorded(
    attachment: &LoopReference,
    planned: &PlannedDevice,
    reference: &LoopReference,
    tree: Option<&FileIdentity>,
    guarded: bool,
    unlocked: bool,
) -> Result<RecordedDevice, OperationError> {
    let naming = |error| OperationError::Usage(format!("naming the devices of '{attachment}': {error}"));
    let mut mappers = Vec::new();
    let own_loop = |name: &LoopReference, extent: Extent, read_only: bool| RecordedLoop {
        reference: name.to_string(),
        file: None,
        path: None,
        device: None,
        disk_sequence: None,
        offset: extent.start().bytes(),
        size: extent.length().bytes(),
        read_only,
    };
    let loops = match &planned.verity {
        Some(verity) if guarded => {
            let name = names::mapper_name(attachment, planned.designator)?;
            let uuid = name.verity_uuid(verity.set.superblock.uuid);
            mappers.push(RecordedMapper::planned(name.as_str().to_owned(), uuid, MapperTarget::Verity));
            let hash = making::hash_extent(&verity.set).ok_or_else(|| {
                OperationError::state("attaching", attachment, "a hash tree beyond the image")
            })?;
            vec![
                own_loop(&reference.data().map_err(naming)?, planned.extent, true),
                RecordedLoop {
                    file: tree.filter(|_| verity.set.hash == TreePlace::Beside).cloned(),
                    ..own_loop(&reference.hash().map_err(naming)?, hash, true)
                },
            ]
        }
        None if unlocked && planned.protection.hides_content() => {
            let name = names::mapper_name(attachment, planned.designator)?;
            if planned.protection == Protection::EncryptedWithIntegrity {
                let tags = format!("{}{}", name.as_str(), names::TAGS);
                mappers.push(RecordedMapper::planned(tags, String::new(), MapperTarget::Integrity));
            }
            let top = RecordedMapper::planned(name.as_str().to_owned(), String::new(), MapperTarget::Crypt);
            mappers.push(top);
            vec![own_loop(&reference.data().map_err(naming)?, planned.extent, planned.read_only)]
        }
        _ => vec![own_loop(reference, planned.extent, planned.read_only)],
    };
    Ok(RecordedDevice {
        reference: reference.to_string(),
        designator: planned.designator.to_string(),
        partition: planned.number.map(PartitionNumber::get),
        path: None,
        device: None,
        disk_sequence: None,
        offset: planned.extent.start().bytes(),
        size: planned.extent.length().bytes(),
        read_only: planned.read_only,
        protection: planned.protection.as_str().to_owned(),
        file_system: planned.file_system.map(|file_system| file_system.as_str().to_owned()),
        root_hash: planned.verity.as_ref().map(|verity| verity.set.root_hash.to_string()),
        signer: planned.signer.clone(),
        loops,
        mappers,
    })
}
