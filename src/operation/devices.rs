//! The devices of an attachment as the kernel has them: held open while they are made, found again from their record,
//! and taken down in the right order.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::kernel::device_mapper::{self, MappedDevice, MappedStatus, RemoveError};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::holders::Holders;
use crate::kernel::loop_device::{self, DetachError, LoopDevice, LoopStatus};
use crate::kernel::stack::Stack;

use super::error::OperationError;
use super::fault;
use super::record::{Record, RecordedDevice};
use super::whole_disk::release_partitions_of;

/// How long the kernel may take to let a device go that udev is looking at.
pub(super) const UNBIND_DEADLINE: Duration = Duration::from_secs(10);

/// A device that this process holds open, with everything that it stands on. Unless it was made permanent, the kernel
/// takes it back when the last descriptor is closed: that of whoever mounted it, or else ours.
#[derive(Debug)]
pub struct HeldDevice {
    // In this order: what stands on the loop devices is let go before them.
    mappers: Vec<MappedDevice>,
    loops: Vec<LoopDevice>,
}

impl HeldDevice {
    /// A device of these loop devices, with nothing on them yet.
    pub(super) const fn on(loops: Vec<LoopDevice>) -> Self {
        Self { mappers: Vec::new(), loops }
    }

    /// Adds a loop device to those below.
    pub(super) fn push_loop(&mut self, device: LoopDevice) {
        self.loops.push(device);
    }

    /// Puts a device of the device mapper on top.
    pub(super) fn push(&mut self, mapper: MappedDevice) {
        self.mappers.push(mapper);
    }

    /// The loop devices below.
    pub(super) fn loops(&self) -> &[LoopDevice] {
        &self.loops
    }

    /// The devices of the device mapper, from below.
    pub(super) fn mappers(&self) -> &[MappedDevice] {
        &self.mappers
    }

    fn bottom(&self) -> Option<&LoopDevice> {
        self.loops.first()
    }

    /// The descriptor of the device to use; `None` where nothing was made yet.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.mappers.last().map(MappedDevice::fd).or_else(|| self.bottom().map(LoopDevice::fd))
    }

    /// The node of the device to use.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.mappers.last().map(MappedDevice::path).or_else(|| self.bottom().map(LoopDevice::path))
    }

    /// The number of the device to use.
    #[must_use]
    pub fn device_number(&self) -> Option<DeviceNumber> {
        let mapped = self.mappers.last().map(MappedDevice::device_number);
        mapped.or_else(|| self.bottom().map(LoopDevice::device_number))
    }

    /// The numbers of this device and of all that it stands on.
    pub(super) fn numbers(&self) -> impl Iterator<Item = DeviceNumber> + '_ {
        let mapped = self.mappers.iter().map(MappedDevice::device_number);
        mapped.chain(self.loops.iter().map(LoopDevice::device_number))
    }

    /// Lets it outlive its descriptors. What has something standing on it stays as it is: that holds it, and it goes with
    /// that.
    pub(super) fn make_permanent(&self) -> Result<(), OperationError> {
        if let Some(mapper) = self.mappers.last() {
            return mapper
                .make_permanent()
                .map_err(|source| OperationError::system("making permanent", mapper.path(), source));
        }
        for device in &self.loops {
            device
                .make_permanent()
                .map_err(|source| OperationError::system("making permanent", device.path(), source))?;
        }
        Ok(())
    }
}

/// Devices of a record that are there: the recorded ones, not others that got their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct BoundDevices {
    /// Those of the device mapper, each after what it stands on.
    pub mapped: Vec<MappedStatus>,
    /// The loop devices.
    pub loops: Vec<LoopStatus>,
}

impl BoundDevices {
    /// What is there of a record: by number where that is recorded, and else by name, as far as a device was recorded
    /// before it was made. A device that somebody else made under such a name is none of ours: it does not stand on
    /// loop devices of ours.
    ///
    /// # Errors
    /// [`OperationError::System`] where the devices cannot be listed.
    pub(super) fn of(record: &Record) -> Result<Self, OperationError> {
        let listed =
            loop_device::list().map_err(|source| OperationError::system("listing", "/sys/block", source))?;
        let loops: Vec<LoopStatus> = listed.into_iter().filter(|status| record.may_own(status)).collect();
        let mut own: Vec<String> = loops.iter().map(|status| format!("loop{}", status.number)).collect();
        let mut mapped = Vec::new();
        for recorded in record.devices.iter().flat_map(|device| &device.mappers) {
            let found = device_mapper::find_by_name(&recorded.name)
                .map_err(|source| OperationError::system("examining", &recorded.name, source))?;
            let Some(status) = found.filter(|status| recorded.may_be(status)) else { continue };
            own.push(format!("dm-{}", status.device.minor()));
            let is_ours = match recorded.disk_sequence {
                Some(_) => recorded.describes(&status),
                None if !status.live => true,
                None => match Stack::of(status.device) {
                    Ok(stack) => stack.names.iter().all(|name| own.contains(name)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                    Err(error) => return Err(OperationError::system("examining", &recorded.name, error)),
                },
            };
            if is_ours {
                mapped.push(status);
            } else {
                own.pop();
            }
        }
        Ok(Self { mapped, loops })
    }

    /// What these held devices consist of.
    ///
    /// # Errors
    /// [`OperationError::System`] where one cannot be examined: then nothing may be let go.
    pub(super) fn held(devices: &[HeldDevice]) -> Result<Self, OperationError> {
        let mut bound = Self::default();
        for device in devices {
            for mapper in device.mappers() {
                let status = device_mapper::status(mapper.device_number())
                    .map_err(|source| OperationError::system("examining", mapper.path(), source))?;
                bound.mapped.extend(status);
            }
            for below in device.loops() {
                let status = below
                    .status()
                    .map_err(|source| OperationError::system("examining", below.path(), source))?;
                bound.loops.push(status);
            }
        }
        Ok(bound)
    }

    /// Whether nothing is there.
    pub(super) fn is_empty(&self) -> bool {
        self.mapped.is_empty() && self.loops.is_empty()
    }

    /// Whether all of a recorded device is there, and as it was recorded.
    pub(super) fn has(&self, record: &Record, device: &RecordedDevice) -> bool {
        let loops = device
            .loops
            .iter()
            .all(|recorded| self.loops.iter().any(|status| record.describes(recorded, status)));
        let mapped =
            device.mappers.iter().all(|recorded| self.mapped.iter().any(|status| recorded.describes(status)));
        loops && mapped
    }

    /// Whether something of a device goes as soon as nobody has it open any more.
    pub(super) fn is_tethered(&self, device: &RecordedDevice) -> bool {
        if device.mappers.is_empty() {
            return self.loops.iter().any(|status| {
                let reference = status.reference().unwrap_or_default();
                status.autoclear && device.loops.iter().any(|recorded| recorded.reference == reference)
            });
        }
        device.mappers.last().is_some_and(|top| {
            self.mapped.iter().any(|status| status.deferred_removal && status.name == top.name)
        })
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> Vec<DeviceNumber> {
        let mapped = self.mapped.iter().map(|status| status.device);
        mapped.chain(self.loops.iter().map(|status| status.device)).collect()
    }

    /// Their nodes, what stands on others first.
    pub(super) fn paths(&self) -> Vec<String> {
        let mapped = self.mapped.iter().rev().map(|status| format!("/dev/mapper/{}", status.name));
        mapped.chain(self.loops.iter().map(|status| format!("/dev/loop{}", status.number))).collect()
    }

    /// Who uses one of them: mounts, and devices that are not ours.
    pub(super) fn users(&self) -> Option<(String, Holders)> {
        let ours: Vec<String> =
            self.mapped.iter().map(|status| format!("dm-{}", status.device.minor())).collect();
        let paths = self.paths();
        let numbers = self.mapped.iter().rev().map(|status| status.device);
        let numbers = numbers.chain(self.loops.iter().map(|status| status.device));
        paths.into_iter().zip(numbers).find_map(|(path, number)| {
            let mut holders = Holders::of(number);
            holders.devices.retain(|name| !ours.contains(name));
            (holders != Holders::default()).then_some((path, holders))
        })
    }

    /// Unbinds a loop device unless it is gone already, which it also is when its number belongs to another one by now.
    fn detach_loop(
        &self,
        reference: &str,
        status: &LoopStatus,
        deadline: Instant,
    ) -> Result<(), OperationError> {
        let number = status.number;
        release_partitions_of(status)?;
        // What is unbound with its last user and is still in use may only be about to go: what stood on it was removed a
        // moment ago, and the kernel lets go of it some time after that.
        let detached = match loop_device::detach(number, &status.identity(), deadline) {
            Err(DetachError::InUse { .. }) if status.autoclear => {
                loop_device::wait_until_gone(number, &status.identity(), deadline)
            }
            other => other,
        };
        match detached {
            Ok(_) | Err(DetachError::AnotherDevice { .. }) => Ok(()),
            Err(error @ DetachError::InUse { .. }) => {
                Err(OperationError::state("detaching", reference, format!("{error}: release it first")))
            }
            Err(source) => Err(OperationError::system("detaching", format!("/dev/loop{number}"), source)),
        }
    }

    /// Takes all of them down, what stands on others first, and waits until they are gone. The first that is in use ends
    /// it: what stands below that one is in use, too. `point` is the fault point after each device.
    ///
    /// # Errors
    /// [`OperationError::State`] where one is in use, with the number of devices that are gone already.
    pub(super) fn take_down(
        &self,
        reference: &str,
        deadline: Instant,
        point: Option<&str>,
    ) -> Result<(), (usize, OperationError)> {
        let mut gone = 0_usize;
        let mut step = |taken_down: Result<(), OperationError>| {
            taken_down.map_err(|error| (gone, error))?;
            gone = gone.saturating_add(1);
            point.map_or(Ok(()), fault::point).map_err(|error| (gone, error))
        };
        for status in self.mapped.iter().rev() {
            step(remove_mapped(reference, status, deadline))?;
        }
        for status in &self.loops {
            step(self.detach_loop(reference, status, deadline))?;
        }
        Ok(())
    }
}

/// Removes a device of the device mapper unless it is gone already, which it also is when its number belongs to another
/// one by now.
fn remove_mapped(reference: &str, status: &MappedStatus, deadline: Instant) -> Result<(), OperationError> {
    let removed = match status.identity().filter(|_| status.live) {
        Some(identity) => device_mapper::remove(&identity, deadline),
        // A process died between making it and activating it.
        None => device_mapper::remove_unfinished(&status.uuid, deadline),
    };
    match removed {
        Ok(_) | Err(RemoveError::AnotherDevice { .. }) => Ok(()),
        Err(error @ RemoveError::InUse { .. }) => {
            Err(OperationError::state("detaching", reference, format!("{error}: release it first")))
        }
        Err(source) => {
            Err(OperationError::system("removing", format!("/dev/mapper/{}", status.name), source))
        }
    }
}
