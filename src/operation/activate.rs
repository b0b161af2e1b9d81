//! Devices for what was verified: one loop device per planned extent, recorded, announced to udev, undone on failure.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::format::designator::Designator;
use crate::format::loop_reference::LoopReference;
use crate::format::units::PartitionNumber;
use crate::image::plan::{ActivationPlan, PlannedDevice};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::loop_device::{self, LoopDevice, LoopRequest};
use crate::kernel::udev::{self, UdevError};

use super::cancel::Cancel;
use super::detach::{UNBIND_DEADLINE, detach_device, remove_placed};
use super::error::OperationError;
use super::fault;
use super::observer::Observer;
use super::record::{FileIdentity, ImageIdentity, Placed, Record, RecordStore, RecordedDevice, State};
use super::verified_image::VerifiedImage;

/// How long udev may take to make the links. A coldplug with hundreds of devices takes some seconds.
const UDEV_DEADLINE: Duration = Duration::from_secs(60);
/// How long udev may take to remove them. Less than others wait for the lock that is held meanwhile.
const LINKS_GONE_DEADLINE: Duration = Duration::from_secs(10);
/// More links than any machine has loop devices; bounds what is read.
const MAXIMUM_LINKS: usize = 65_536;
/// Where udev makes its links.
pub(super) const LINK_DIRECTORY: &str = "/dev/disk/by-loop-ref";

/// What was attached.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The record as it was written.
    pub record: Record,
    /// The links that udev made; empty where there is no udev.
    pub links: Vec<PathBuf>,
}

/// The names of the devices of a plan, all of which must fit.
///
/// # Errors
/// [`OperationError::Usage`] where a name is too long with its suffix, [`OperationError::State`] where there is no device
/// to name, or one cannot be made.
pub fn device_references(
    reference: &LoopReference,
    plan: &ActivationPlan,
) -> Result<Vec<LoopReference>, OperationError> {
    if plan.devices.is_empty() {
        let problem = format!("the policy '{}' uses no partition of this image", plan.policy);
        return Err(OperationError::state("attaching", reference, problem));
    }
    let block = u64::from(plan.sector_size.bytes());
    if let Some(device) =
        plan.devices.iter().find(|device| !device.extent.length().bytes().is_multiple_of(block))
    {
        let length = device.extent.length();
        let problem =
            format!("{length} bytes are no multiple of {block}: no device would show the last ones");
        return Err(OperationError::state("attaching", reference, problem));
    }
    let naming = |error| OperationError::Usage(format!("naming the devices of '{reference}': {error}"));
    plan.devices
        .iter()
        .map(|device| match device.number {
            None => Ok(reference.clone()),
            Some(number) => {
                reference.designator(device.designator).map_err(naming)?;
                reference.partition(number).map_err(naming)
            }
        })
        .collect()
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
    devices: Vec<LoopDevice>,
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
            refuse_taken_names(&store, reference)?;
            store.write(&record)?;
        }
        Ok(Self { reference: reference.clone(), store, record, devices: Vec::new() })
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

    /// Makes the devices.
    ///
    /// # Errors
    /// [`OperationError`]; nothing is left behind then. Where undoing fails as well, the error says so.
    pub fn activate(
        mut self,
        image: &VerifiedImage,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Attached, OperationError> {
        match self.run(image, observer, cancel) {
            Ok(links) => Ok(Attached { record: self.record, links }),
            Err(cause) => Err(self.undo(cause)),
        }
    }

    fn run(
        &mut self,
        image: &VerifiedImage,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Vec<PathBuf>, OperationError> {
        let references = device_references(&self.reference, image.plan())?;
        let metadata = image
            .file()
            .metadata()
            .map_err(|source| OperationError::system("examining the memory of", image.source(), source))?;
        self.record.image = ImageIdentity {
            source: image.source().to_owned(),
            device: DeviceNumber::of_file_system(&metadata).to_string(),
            inode: metadata.ino(),
            digest: image.digest().map(str::to_owned),
        };
        self.record.policy.clone_from(&image.plan().policy);
        self.record.devices = image
            .plan()
            .devices
            .iter()
            .zip(&references)
            .map(|(planned, name)| recorded(planned, name))
            .collect();
        self.store.write(&self.record)?;
        fault::point("attach:record")?;
        for index in 0..self.record.devices.len() {
            cancel.check()?;
            self.configure(index, image)?;
            fault::point(&format!("attach:device-{index}"))?;
            self.store.write(&self.record)?;
            fault::point(&format!("attach:device-{index}-recorded"))?;
        }
        cancel.check()?;
        self.record.state = State::Ready;
        self.store.write(&self.record)?;
        fault::point("attach:ready")?;
        let links = announce(&self.record, &self.numbers(), observer, cancel)?;
        fault::point("attach:announced")?;
        // Until here the kernel takes the devices back when this process dies, and udev their links. The last of these
        // calls completes the attachment: where there are several devices, the first ones lose their links as soon as
        // one of the others goes, see `describe`.
        for (index, device) in self.devices.iter().enumerate() {
            fault::point(&format!("attach:device-{index}-stands"))?;
            cancel.check()?;
            device
                .make_permanent()
                .map_err(|source| OperationError::system("making permanent", device.path(), source))?;
        }
        self.record.owner = None;
        self.store.write(&self.record)?;
        Ok(links)
    }

    fn configure(&mut self, index: usize, image: &VerifiedImage) -> Result<(), OperationError> {
        let (Some(planned), Some(recorded)) =
            (image.plan().devices.get(index), self.record.devices.get_mut(index))
        else {
            return Ok(());
        };
        let request = LoopRequest {
            backing: image.file().as_fd(),
            extent: Some(planned.extent),
            block_size: image.plan().sector_size,
            read_only: true,
            reference: &recorded.reference,
        };
        let device = LoopDevice::configure(&request).map_err(|source| {
            OperationError::system("attaching a loop device for", &recorded.reference, source)
        })?;
        recorded.path = Some(device.path());
        recorded.device = Some(device.device_number().to_string());
        recorded.disk_sequence = Some(device.disk_sequence());
        self.devices.push(device);
        Ok(())
    }

    fn numbers(&self) -> Vec<DeviceNumber> {
        self.devices.iter().map(LoopDevice::device_number).collect()
    }

    /// Takes back everything; the error tells what went wrong first and, if so, what then.
    pub fn undo(mut self, cause: OperationError) -> OperationError {
        let mut failures = Vec::new();
        let numbers = self.numbers();
        if self.record.state == State::Ready {
            self.record.state = State::Stopping;
            failures.extend(self.store.write(&self.record).err());
        }
        let deadline = Instant::now() + UNBIND_DEADLINE;
        for device in std::mem::take(&mut self.devices) {
            let number = device.number();
            let identity = device.identity();
            // Our descriptor would keep the device bound, so it goes first; with AUTOCLEAR that is all.
            drop(device);
            match identity {
                Ok(identity) => {
                    failures.extend(detach_device(&self.record.reference, number, &identity, deadline).err());
                }
                // Then the record stays, and tells the next one what to look for.
                Err(source) => {
                    failures.push(OperationError::system("examining", format!("/dev/loop{number}"), source));
                }
            }
        }
        wait_for_udev(&numbers);
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

fn recorded(planned: &PlannedDevice, reference: &LoopReference) -> RecordedDevice {
    RecordedDevice {
        reference: reference.to_string(),
        designator: planned.designator.to_string(),
        partition: planned.number.map(PartitionNumber::get),
        path: None,
        device: None,
        disk_sequence: None,
        offset: planned.extent.start().bytes(),
        size: planned.extent.length().bytes(),
        read_only: true,
        protection: planned.protection.as_str().to_owned(),
        file_system: planned.file_system.map(|file_system| file_system.as_str().to_owned()),
        root_hash: planned.verity.as_ref().map(|verity| verity.set.root_hash.to_string()),
        signer: planned.signer.clone(),
    }
}

/// A name that is taken would make a link that leads elsewhere.
fn refuse_taken_names(store: &RecordStore, reference: &LoopReference) -> Result<(), OperationError> {
    let taken = |by: String| {
        Err(OperationError::state(
            "attaching as",
            reference,
            format!(
                "the name is taken by {by}: choose another one with --loop-ref=, or detach that one first"
            ),
        ))
    };
    if store.exists(reference) {
        return taken(format!("the attachment '{reference}' ('ddictl list' shows it)"));
    }
    let devices =
        loop_device::list().map_err(|source| OperationError::system("listing", "/sys/block", source))?;
    for device in devices {
        if let Some(name) = device.reference()
            && (name == reference.as_str() || is_part_of(name, reference.as_str()))
        {
            return taken(format!("/dev/loop{}, which carries the reference '{name}'", device.number));
        }
    }
    let entries = fs::read_dir(LINK_DIRECTORY).into_iter().flatten().take(MAXIMUM_LINKS).flatten();
    let encoded = reference.encode();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name == encoded || is_part_of(&name, &encoded) {
            return taken(format!("the link '{LINK_DIRECTORY}/{name}'"));
        }
    }
    Ok(())
}

/// Whether a name is that of a device of the attachment `base`: `BASE-partN`, `BASE-DESIGNATOR`.
pub(super) fn is_part_of(name: &str, base: &str) -> bool {
    name.strip_prefix(base).and_then(|rest| rest.strip_prefix('-')).is_some_and(|suffix| {
        let number = suffix.strip_prefix("part");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
            || suffix.parse::<Designator>().is_ok()
    })
}

/// Tells udev that the devices are ready and waits until it has made the links.
fn announce(
    record: &Record,
    devices: &[DeviceNumber],
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Vec<PathBuf>, OperationError> {
    if !udev::is_running() {
        observer.warning("no udevd is running: there are no links below /dev/disk, use the device paths");
        return Ok(Vec::new());
    }
    let processed = match udev::change_and_wait(devices, cancel.signals(), Instant::now() + UDEV_DEADLINE) {
        Ok(processed) => processed,
        Err(UdevError::Interrupted(interrupted)) => return Err(interrupted.into()),
        Err(source) => {
            return Err(OperationError::system("waiting for the links of", &record.reference, source));
        }
    };
    let links: Vec<PathBuf> = processed
        .into_iter()
        .flat_map(|device| device.links)
        .filter(|link| link.starts_with(LINK_DIRECTORY))
        .collect();
    for name in record.devices.iter().flat_map(|device| device.names(&record.reference)) {
        let expected = LoopReference::observed(name.as_bytes()).map(|name| name.encode());
        if let Ok(name) = expected
            && !links.iter().any(|link| link.file_name().is_some_and(|n| n.to_str() == Some(&name)))
        {
            observer.warning(&format!(
                "udev made no link {LINK_DIRECTORY}/{name}: are the rules 59-ddictl.rules and their helper installed?"
            ));
        }
    }
    Ok(links)
}

/// Gives udev the time to see that devices are going or gone. Nothing depends on it but the links, which a device loses
/// without this as well, only later.
pub(super) fn wait_for_udev(devices: &[DeviceNumber]) {
    if udev::is_running() {
        // A device that cannot be asked about any more has no links either.
        let _ = udev::change_and_wait(devices, None, Instant::now() + LINKS_GONE_DEADLINE);
    }
}
