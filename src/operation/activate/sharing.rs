//! Using the devices of an attachment that is there already.
//!
//! They are used only where each of them is what would be made now, as the kernel shows it and not only as its record
//! says: the same bytes of the same file, under the same table, and nothing that dm-verity has found wrong.

use std::os::unix::fs::MetadataExt;

use crate::format::verity::table::VerityHealth;
use crate::image::plan::{ActivationPlan, PlannedDevice};
use crate::kernel::device_mapper::{self, MappedDevice};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::loop_device::LoopDevice;
use crate::operation::devices::{BoundDevices, HeldDevice};
use crate::operation::error::OperationError;
use crate::operation::record::{
    Owner, Record, RecordStore, RecordedDevice, RecordedLoop, RecordedMapper, State,
};
use crate::operation::source::{ImageFile, ImageSource};
use crate::operation::umount::still_mounted;

use super::{Activation, ActivationOptions, Reservation, device_references, file_of_tree, making, recorded};

/// Whether the devices of an attachment show an image that lies in a file: in that very file.
///
/// # Errors
/// [`OperationError::System`] where the file cannot be examined.
pub(in crate::operation) fn shows(record: &Record, image: &ImageFile) -> Result<bool, OperationError> {
    let metadata = image
        .file()
        .metadata()
        .map_err(|source| OperationError::system("examining", image.path(), source))?;
    let device = DeviceNumber::of_file_system(&metadata).to_string();
    Ok(record.image.device == device && record.image.inode == metadata.ino())
}

impl Activation {
    /// Takes over the devices of an attachment for the time of a mount, if they are exactly what `plan` asks for; else
    /// the reason why not. The record names this process as the one at work until the mounts stand or are undone; the
    /// attachment stays in both cases. The caller holds the lock of the records.
    ///
    /// # Errors
    /// [`OperationError`] where devices or records cannot be read or written.
    pub(in crate::operation) fn of_attachment(
        store: &RecordStore,
        mut record: Record,
        image: &ImageFile,
        plan: &ActivationPlan,
        options: ActivationOptions<'_>,
    ) -> Result<Result<Self, String>, OperationError> {
        if let Some(why) = unusable(&record, image, plan, options)? {
            return Ok(Err(why));
        }
        let bound = BoundDevices::of(&record)?;
        // A file system that is written is checked and mounted once.
        let written = plan.devices.iter().any(|device| !device.read_only);
        if let Some((path, holders)) = bound.users().filter(|_| written) {
            return Ok(Err(format!("{path} is in use ({holders})")));
        }
        let mut devices = Vec::new();
        for (recorded, planned) in record.devices.iter().zip(&plan.devices) {
            match open(&record, recorded, planned, &bound, options)? {
                Ok(device) => devices.push(device),
                Err(why) => return Ok(Err(why)),
            }
        }
        let Ok(reference) = record.reference.parse() else {
            return Ok(Err("its name is none that is given today".to_owned()));
        };
        record.mounts.clear();
        record.owner = Some(Owner::this_process()?);
        store.write(&record)?;
        let reservation = Reservation { reference, store: store.clone(), record, devices, is_borrowed: true };
        Ok(Ok(Self { reservation }))
    }
}

impl Reservation {
    /// Gives an attachment back as it was. What could not be unmounted stays in its record.
    pub(super) fn give_back(mut self, cause: OperationError) -> OperationError {
        self.devices.clear();
        self.record.owner = None;
        if let Ok(mounts) = still_mounted(&self.record) {
            self.record.mounts = mounts;
        }
        match self.store.write(&self.record) {
            Ok(()) => cause,
            Err(error) => OperationError::Undo { cause: Box::new(cause), undoing: error.with_causes() },
        }
    }
}

/// What of a record keeps its devices from being used for this plan.
fn unusable(
    record: &Record,
    image: &ImageFile,
    plan: &ActivationPlan,
    options: ActivationOptions<'_>,
) -> Result<Option<String>, OperationError> {
    if record.whole_disk.is_some() {
        return Ok(Some("it is a whole disk, of which nothing is verified".to_owned()));
    }
    if !shows(record, image)? {
        return Ok(Some(format!("it shows another file, that of '{}'", record.image.source)));
    }
    if let Some(owner) = record.living_owner() {
        return Ok(Some(format!("process {} is still at work on it", owner.pid)));
    }
    if record.state != State::Ready || record.owner.is_some() {
        return Ok(Some("it is not ready".to_owned()));
    }
    if let Some(mount) = still_mounted(record)?.first() {
        return Ok(Some(format!("it is mounted on '{}'", mount.directory.display())));
    }
    if record.devices.len() != plan.devices.len() {
        let (expected, found) = (plan.devices.len(), record.devices.len());
        return Ok(Some(format!("expected {expected} devices as planned, found {found}")));
    }
    let Ok(reference) = record.reference.parse() else {
        return Ok(Some("its name is none that is given today".to_owned()));
    };
    let names = device_references(&reference, plan)?;
    let tree = file_of_tree(image.companions().tree())?;
    for ((made, planned), name) in record.devices.iter().zip(&plan.devices).zip(&names) {
        if planned.protection.hides_content() {
            return Ok(Some(format!("the {} partition is encrypted", planned.designator)));
        }
        let wanted = recorded(&reference, planned, name, tree.as_ref(), true, options.keys.is_some())?;
        if let Some(why) = difference(made, &wanted) {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

/// The first thing in which a recorded device differs from the one that would be made.
fn difference(made: &RecordedDevice, wanted: &RecordedDevice) -> Option<String> {
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "none".to_owned());
    let place = |device: &RecordedDevice| {
        let number = device.partition.map_or_else(|| "no number".to_owned(), |number| number.to_string());
        format!("{number} at {} with {} bytes", device.offset, device.size)
    };
    let access = |device: &RecordedDevice| if device.read_only { "read-only" } else { "writable" }.to_owned();
    let all = [
        ("designator", made.designator.clone(), wanted.designator.clone()),
        ("partition", place(made), place(wanted)),
        ("protection", made.protection.clone(), wanted.protection.clone()),
        ("root hash", word(&made.root_hash), word(&wanted.root_hash)),
        ("signer", word(&made.signer), word(&wanted.signer)),
        ("access", access(made), access(wanted)),
        ("file system", word(&made.file_system), word(&wanted.file_system)),
    ];
    let named =
        all.into_iter().find(|(_, found, expected)| found != expected).map(|(what, found, expected)| {
            format!("{what} of '{}': expected {expected} as planned, found {found}", made.reference)
        });
    named.or_else(|| {
        let same = made.is_consistent() && unmade(made.clone()) == *wanted;
        (!same).then(|| format!("'{}' does not stand on the devices that would be made", made.reference))
    })
}

/// A recorded device as it was before it was made.
fn unmade(device: RecordedDevice) -> RecordedDevice {
    let loops = device
        .loops
        .into_iter()
        .map(|below| RecordedLoop { path: None, device: None, disk_sequence: None, ..below })
        .collect();
    let mappers = device
        .mappers
        .into_iter()
        .map(|mapper| RecordedMapper::planned(mapper.name, mapper.uuid, mapper.target))
        .collect();
    RecordedDevice { path: None, device: None, disk_sequence: None, loops, mappers, ..device }
}

/// Opens a recorded device with everything below it, and looks at what the kernel shows of it; else the reason why it is
/// not used.
fn open(
    record: &Record,
    recorded: &RecordedDevice,
    planned: &PlannedDevice,
    bound: &BoundDevices,
    options: ActivationOptions<'_>,
) -> Result<Result<HeldDevice, String>, OperationError> {
    let changed = |what: &str| format!("'{what}' is not what was attached any more");
    let mut loops = Vec::new();
    for below in &recorded.loops {
        let opening = |error| OperationError::System {
            doing: "opening",
            object: below.reference.clone(),
            source: error,
        };
        let number = bound.loops.iter().find(|status| record.describes(below, status)).map(|s| s.number);
        let device =
            number.map(LoopDevice::open_existing).transpose().map_err(|error| opening(error.into()))?;
        let Some(device) = device.flatten() else { return Ok(Err(changed(&below.reference))) };
        // Asked while it is open: from now on it stays what it is.
        let status = device.status().map_err(|error| opening(error.into()))?;
        if !record.describes(below, &status) || status.read_only != below.read_only {
            return Ok(Err(changed(&below.reference)));
        }
        if recorded.mappers.is_empty() && status.autoclear {
            return Ok(Err(format!("'{}' goes with its last user", below.reference)));
        }
        loops.push(device);
    }
    let mut held = HeldDevice::on(loops);
    for mapper in &recorded.mappers {
        match open_mapper(mapper, planned, held.loops(), bound, options)? {
            Ok(device) => held.push(device),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(held))
}

/// Opens the dm-verity device of a recorded device, if its live table is the one that would be loaded.
fn open_mapper(
    recorded: &RecordedMapper,
    planned: &PlannedDevice,
    loops: &[LoopDevice],
    bound: &BoundDevices,
    options: ActivationOptions<'_>,
) -> Result<Result<MappedDevice, String>, OperationError> {
    let name = &recorded.name;
    let examining = |source| OperationError::system("examining", name, source);
    let number = bound.mapped.iter().find(|status| recorded.describes(status)).map(|status| status.device);
    let device = number.map(MappedDevice::open_existing).transpose().map_err(examining)?.flatten();
    let status = device.as_ref().map(MappedDevice::status).transpose().map_err(examining)?.flatten();
    let (Some(device), Some(status), Some(verity), [data, hash]) = (device, status, &planned.verity, loops)
    else {
        return Ok(Err(format!("'{name}' is not what was attached any more")));
    };
    if !recorded.describes(&status) || !status.live || status.suspended || !status.read_only {
        return Ok(Err(format!("'{name}' is not what was attached any more")));
    }
    if status.deferred_removal {
        return Ok(Err(format!("'{name}' goes with its last user")));
    }
    let Some(live) = status.verity() else {
        return Ok(Err(format!("'{name}' has another table than that of dm-verity")));
    };
    let mut wanted = making::verity_table(verity, data, hash, options.guard);
    // The key that held the signature is another one each time. Whether there was one is what counts.
    wanted.signature_key.clone_from(&live.signature_key);
    if *live != wanted {
        return Ok(Err(format!("table of '{name}': expected '{wanted}', found '{live}'")));
    }
    let checked = live.signature_key.is_some();
    let signed = verity.authenticated.as_ref().is_some_and(|known| known.signature().is_some());
    let agrees = recorded.kernel_checked_signature == signed.then_some(checked);
    if !agrees || (signed && !checked && device_mapper::requires_signatures()) {
        return Ok(Err(format!("the kernel did not check the signature of '{name}' as it would now")));
    }
    match status.health {
        Some(VerityHealth::Verified) => Ok(Ok(device)),
        _ => Ok(Err(format!("dm-verity has found damage in '{name}'"))),
    }
}
