//! The tree of an image: one mount after the other, each recorded before it is made, all undone in reverse order.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use crate::format::mounting::MountFlags;
use crate::format::superblock::FileSystem;
use crate::format::units::ByteLength;
use crate::image::places::{Places, PlannedMount};
use crate::image::plan::PlannedDevice;
use crate::kernel::block_device_size;
use crate::kernel::mount::{CreatedDirectory, ImageRoot, MountRequest, Mounted, Place, PreparedMount};
use crate::operation::activate::Activation;
use crate::operation::contents::Contents;
use crate::operation::devices::{BoundDevices, HeldDevice};
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::record::RecordedMount;
use crate::operation::umount::memory_name;

use super::{Work, check, places};

/// What the root in memory of an image without a root takes: room for mount points and a few files.
const ROOT_SIZE: ByteLength = ByteLength::new(64 << 20);

/// What was done, in its order.
#[derive(Debug, Default)]
pub(super) struct Tree {
    steps: Vec<Step>,
    /// The root of the image, once it is mounted.
    root: Option<ImageRoot>,
}

#[derive(Debug)]
enum Step {
    Made(CreatedDirectory),
    Mounted(Mounted),
}

impl Tree {
    /// Mounts everything that is planned.
    pub(super) fn build(
        &mut self,
        work: &Work<'_>,
        activation: &mut Activation,
        target: &Place,
    ) -> Result<(), OperationError> {
        if work.mounts.root_in_memory {
            self.mount_memory(activation, target)?;
        }
        for planned in &work.mounts.mounts {
            work.cancel.check()?;
            self.mount(work, activation, planned, target)?;
        }
        work.cancel.check()?;
        Ok(())
    }

    fn mount_memory(&mut self, activation: &mut Activation, target: &Place) -> Result<(), OperationError> {
        let mounting =
            |source| OperationError::system("mounting a root in memory on", &target.directory, source);
        let name = memory_name(&activation.record().reference);
        let prepared = PreparedMount::of_memory(&name, ROOT_SIZE, MountFlags::default()).map_err(mounting)?;
        fault::point("mount:memory-prepared")?;
        activation.will_mount(RecordedMount { designator: None, directory: target.directory.clone() })?;
        fault::point("mount:memory-recorded")?;
        let mounted = prepared.attach(target.handle().as_fd(), &target.directory).map_err(mounting)?;
        self.push(mounted)?;
        fault::point("mount:memory-mounted")
    }

    fn mount(
        &mut self,
        work: &Work<'_>,
        activation: &mut Activation,
        planned: &PlannedMount,
        target: &Place,
    ) -> Result<(), OperationError> {
        let designator = planned.designator;
        // The place first: a partition that has none is not even checked.
        let place = match (planned.places, &self.root) {
            (Places::Top, _) | (_, None) => None,
            (Places::Required(path), Some(root)) => {
                let mut made = Vec::new();
                let place = places::required(root, designator, path, &mut made);
                self.steps.extend(made.into_iter().map(Step::Made));
                Some(place?)
            }
            (Places::FirstOf(candidates), Some(root)) => {
                let mut made = Vec::new();
                let place = places::first_of(root, candidates, &mut made);
                self.steps.extend(made.into_iter().map(Step::Made));
                match place? {
                    Ok(place) => Some(place),
                    Err(reasons) => {
                        work.observer.warning(&format!(
                            "the {designator} partition is not mounted, it has no place: {reasons}"
                        ));
                        return Ok(());
                    }
                }
            }
        };
        let place = place.as_ref().unwrap_or(target);
        fault::point(&format!("mount:{designator}-place"))?;
        let mut planned = planned.clone();
        let device = Device::of(work, activation, &planned)?;
        let file_system = device.assert_as_planned(work, &mut planned)?;
        if planned.fsck {
            check::check(file_system, &device.path, work.observer, work.cancel)?;
            fault::point(&format!("mount:{designator}-checked"))?;
            // A check may repair, but what is there must be what was planned as much as before.
            device.assert_as_planned(work, &mut planned)?;
        }
        work.cancel.check()?;
        let request = MountRequest {
            device: device.node,
            node: &device.path,
            file_system,
            flags: planned.flags,
            options: &planned.options,
        };
        let mounting = |source| OperationError::system("mounting", &place.directory, source);
        let prepared = PreparedMount::of_device(&request).map_err(mounting)?;
        fault::point(&format!("mount:{designator}-prepared"))?;
        let recorded =
            RecordedMount { designator: Some(designator.to_string()), directory: place.directory.clone() };
        activation.will_mount(recorded)?;
        fault::point(&format!("mount:{designator}-recorded"))?;
        let mounted = prepared.attach(place.handle().as_fd(), &place.directory).map_err(mounting)?;
        work.observer.note(&format!(
            "mounted {designator} on '{}' ({file_system}, {}, {})",
            place.directory.display(),
            planned.flags,
            Device::of(work, activation, &planned)?.planned.protection
        ));
        self.push(mounted)?;
        fault::point(&format!("mount:{designator}-mounted"))?;
        if planned.growfs
            && let Some(Step::Mounted(mounted)) = self.steps.last()
        {
            let device = Device::of(work, activation, &planned)?;
            check::fill_device(mounted, file_system, device.node, work.observer);
            fault::point(&format!("mount:{designator}-grown"))?;
        }
        Ok(())
    }

    fn push(&mut self, mounted: Mounted) -> Result<(), OperationError> {
        let directory = mounted.entry.mount_point.clone();
        let root = mounted.root().try_clone();
        self.steps.push(Step::Mounted(mounted));
        if self.root.is_none() {
            let root = root.map_err(|source| OperationError::system("opening", &directory, source))?;
            self.root = Some(ImageRoot::new(root, directory));
        }
        Ok(())
    }

    /// Takes everything back; what could not be, with its reason.
    pub(super) fn undo(self) -> Vec<OperationError> {
        // A descriptor of the root would keep its mount in use.
        drop(self.root);
        let mut failures = Vec::new();
        for step in self.steps.into_iter().rev() {
            let undone = match step {
                Step::Made(directory) => {
                    let path = directory.path().to_owned();
                    directory.undo().map_err(|error| OperationError::system("removing", path, error))
                }
                Step::Mounted(mounted) => {
                    let path = mounted.entry.mount_point.clone();
                    mounted.undo().map_err(|error| OperationError::system("unmounting", path, error))
                }
            };
            failures.extend(undone.err());
        }
        failures
    }
}

/// The device of a planned mount, as it is held open.
struct Device<'a> {
    held: &'a HeldDevice,
    node: BorrowedFd<'a>,
    path: PathBuf,
    planned: &'a PlannedDevice,
    activation: &'a Activation,
}

impl<'a> Device<'a> {
    fn of(work: &Work<'a>, activation: &'a Activation, mount: &PlannedMount) -> Result<Self, OperationError> {
        let held = activation.devices().get(mount.device);
        let found = held.and_then(|held| {
            let planned = work.plan.devices.get(mount.device)?;
            Some(Self { held, node: held.fd()?, path: held.path()?, planned, activation })
        });
        found.ok_or_else(|| {
            OperationError::state("mounting", mount.designator, "expected a device for it, found none")
        })
    }

    /// Asserts that the device is the recorded one, on what was recorded below it, and shows the file system that was
    /// planned; of one that was locked then, the file system that shows now.
    fn assert_as_planned(
        &self,
        work: &Work<'_>,
        mount: &mut PlannedMount,
    ) -> Result<FileSystem, OperationError> {
        let record = self.activation.record();
        let bound = BoundDevices::held(std::slice::from_ref(self.held))?;
        let recorded = record.devices.get(mount.device);
        let number = self.held.device_number().map(|number| number.to_string());
        let is_recorded =
            recorded.is_some_and(|recorded| recorded.device == number && bound.has(record, recorded));
        if !is_recorded {
            let problem =
                "expected the device that was recorded, on what was recorded below it, found another one";
            return Err(OperationError::state("mounting", self.path.display(), problem));
        }
        let examining = |source| OperationError::system("examining", &self.path, source);
        let device = self.node.try_clone_to_owned().map(File::from).map_err(examining)?;
        let name = self.path.display().to_string();
        let size = block_device_size(self.node)
            .map_err(|source| OperationError::system("finding the size of", &self.path, source))?;
        let contents = Contents::of(device, &name, size)?;
        let Some(found) = contents.file_system() else {
            let problem = match self.planned.protection.hides_content() {
                true => "expected a file system once it is unlocked, found none",
                false => "expected the one file system that was planned, found none or several",
            };
            return Err(OperationError::state("mounting", name, problem));
        };
        match mount.file_system {
            Some(expected) if expected == found => {}
            Some(expected) => {
                let problem = format!("expected {expected} as planned, found {found}");
                return Err(OperationError::state("mounting", name, problem));
            }
            None => mount.with_file_system(found, self.planned.protection, work.settings.discard),
        }
        if mount.designator.is_vfat_alone() {
            contents.check_vfat().map_err(|found| {
                OperationError::state("mounting", name, format!("expected a sane vfat, found {found}"))
            })?;
        }
        Ok(found)
    }
}
