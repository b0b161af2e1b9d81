//! A whole image as one recorded disk with its partitions.

use std::os::unix::fs::MetadataExt;

use crate::kernel::device_number::DeviceNumber;
use crate::operation::cancel::Cancel;
use crate::operation::devices::HeldDevice;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::record::{ImageIdentity, RecordedDevice, RecordedLoop, RecordedPartition, WholeDisk};
use crate::operation::whole_disk::{PlannedWholeDisk, make_partitions};

use super::{Activation, Reservation};

impl Reservation {
    /// Makes the disk and its partitions and announces them. They last as long as the [`Activation`].
    ///
    /// # Errors
    /// [`OperationError`]; nothing is left behind then. Where undoing fails as well, the error says so.
    pub(in crate::operation) fn activate_whole_disk(
        mut self,
        planned: &PlannedWholeDisk,
        source: &str,
        cancel: &Cancel,
    ) -> Result<Activation, OperationError> {
        match self.run_whole_disk(planned, source, cancel) {
            Ok(()) => Ok(Activation { reservation: self }),
            Err(cause) => Err(self.undo(cause)),
        }
    }

    fn run_whole_disk(
        &mut self,
        planned: &PlannedWholeDisk,
        source: &str,
        cancel: &Cancel,
    ) -> Result<(), OperationError> {
        let metadata = planned
            .image()
            .file()
            .metadata()
            .map_err(|error| OperationError::system("examining the image of", source, error))?;
        let (reference, plan) = (self.reference.to_string(), planned.plan());
        self.record.image = ImageIdentity {
            source: source.to_owned(),
            device: DeviceNumber::of_file_system(&metadata).to_string(),
            inode: metadata.ino(),
            digest: None,
        };
        self.record.policy = planned.policy();
        self.record.whole_disk = Some(WholeDisk { partitions: Vec::new() });
        let (offset, size) = (plan.extent.start().bytes(), plan.extent.length().bytes());
        let mut device = RecordedDevice {
            reference: reference.clone(),
            designator: "disk".to_owned(),
            partition: None,
            path: None,
            device: None,
            disk_sequence: None,
            offset,
            size,
            read_only: plan.read_only.is_some(),
            protection: "unprotected".to_owned(),
            file_system: None,
            root_hash: None,
            signer: None,
            loops: Vec::new(),
            mappers: Vec::new(),
        };
        let mut below = RecordedLoop {
            file: None,
            reference,
            path: None,
            device: None,
            disk_sequence: None,
            offset,
            size,
            read_only: device.read_only,
        };
        device.loops = vec![below.clone()];
        self.record.devices = vec![device.clone()];
        self.store.write(&self.record)?;
        fault::point("whole-disk:record")?;
        cancel.check()?;
        let disk = planned.make_disk(&self.reference)?;
        below.note(&disk);
        device.path.clone_from(&below.path);
        device.device.clone_from(&below.device);
        device.disk_sequence = below.disk_sequence;
        device.loops = vec![below];
        self.record.devices = vec![device];
        let partitions = make_partitions(&disk, plan);
        self.devices.push(HeldDevice::on(vec![disk]));
        self.store.write(&self.record)?;
        fault::point("whole-disk:device-recorded")?;
        let recorded = partitions?.into_iter().map(|made| RecordedPartition {
            number: made.number,
            path: made.path,
            device: made.device.to_string(),
            offset: made.extent.start().bytes(),
            size: made.extent.length().bytes(),
        });
        self.record.whole_disk = Some(WholeDisk { partitions: recorded.collect() });
        Ok(cancel.check()?)
    }
}
