//! An image reduced to its plan: a table of the planned partitions alone, and nothing but zeros beside them.
//!
//! A system extension, a portable service or a container is looked at again by those who use it, and they choose among
//! partitions by rules of their own. Where nothing is left to choose from, they can choose nothing else.

use crate::format::designator::Designator;
use crate::format::gpt::{GptEntry, TableSource, WriteError, WrittenTable};
use crate::format::units::{ByteLength, ByteOffset, Extent, PartitionNumber};
use crate::format::verity::VeritySuperblock;

use super::assessment::Assessment;
use super::dissection::{Dissection, Layout, Partition, Standing, TreePlace, VeritySet};
use super::plan::{ActivationPlan, PlannedDevice};

/// Why an image is not reduced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReductionError {
    /// The policy leaves nothing to be used.
    #[error(
        "expected a partition that the policy lets be used, found none: choose a policy that uses one with --image-policy="
    )]
    NothingPlanned,
    /// The plan is one for another image.
    #[error("expected partition {number} of the plan in the image, found none")]
    OtherImage {
        /// The number of a partition that the plan has and the image has not.
        number: PartitionNumber,
    },
    /// The table cannot be written.
    #[error("writing a table of the planned partitions alone")]
    Table(#[from] WriteError),
    /// What was reduced is not what was planned.
    #[error("the reduced image is not what was planned: its {what} differs")]
    Differs {
        /// In what.
        what: &'static str,
    },
}

/// What is to be done to the bytes of an image so that it holds what is planned and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduction {
    /// The size that the image has then.
    pub image_size: ByteLength,
    /// The bytes that stay as they are, in order; every other byte becomes zero.
    pub kept: Vec<Extent>,
    /// What is written then: the new table.
    pub table: Vec<(ByteOffset, Vec<u8>)>,
    /// The partitions that are left, each with the bytes that count in it.
    entries: Vec<GptEntry>,
}

/// Which partitions stay, and which of their bytes.
struct Kept {
    number: PartitionNumber,
    extents: Vec<Extent>,
}

impl Reduction {
    /// The reduction of an image to its plan; `None` for an image without a table, which holds one thing only.
    ///
    /// # Errors
    /// [`ReductionError::NothingPlanned`], [`ReductionError::OtherImage`], [`ReductionError::Table`].
    pub fn new(dissection: &Dissection, plan: &ActivationPlan) -> Result<Option<Self>, ReductionError> {
        if plan.devices.is_empty() {
            return Err(ReductionError::NothingPlanned);
        }
        let Layout::Table { disk_uuid, sector_size, .. } = &dissection.layout else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        for device in &plan.devices {
            keep_device(dissection, device, &mut kept)?;
        }
        kept.sort_by_key(|kept| kept.number);
        let mut entries = Vec::new();
        for Kept { number, .. } in &kept {
            let entry = dissection.partitions.iter().find_map(|found| entry(found, *number));
            entries.push(entry.ok_or(ReductionError::OtherImage { number: *number })?);
        }
        let table = WrittenTable::new(dissection.image_size, *sector_size, *disk_uuid, &entries)?;
        let mut extents: Vec<Extent> = kept.into_iter().flat_map(|kept| kept.extents).collect();
        extents.sort_unstable();
        Ok(Some(Self { image_size: table.image_size, kept: extents, table: table.pieces, entries }))
    }

    /// What becomes zero of an image of `size` bytes: everything between what is kept, in order.
    #[must_use]
    pub fn cleared(&self, size: ByteLength) -> Vec<Extent> {
        let mut cleared = Vec::new();
        let mut position = ByteOffset::ZERO;
        let image_end = Extent::from_beginning(size).end();
        let ends = self.kept.iter().map(|kept| (kept.start(), kept.end()));
        for (start, next) in ends.chain([(image_end, image_end)]) {
            if let Some(length) = start.checked_distance_from(position).filter(|length| !length.is_zero()) {
                cleared.extend(Extent::new(position, length));
            }
            position = position.max(next);
        }
        cleared
    }

    /// Holds what was found in the reduced image against what was planned of the whole one.
    ///
    /// # Errors
    /// [`ReductionError::Differs`].
    pub fn check(
        &self,
        plan: &ActivationPlan,
        dissection: &Dissection,
        assessment: &Assessment,
    ) -> Result<(), ReductionError> {
        let differs = |what| Err(ReductionError::Differs { what });
        match &dissection.layout {
            Layout::Table { source: TableSource::Both, .. } => {}
            _ => return differs("partition table"),
        }
        let found: Vec<Option<GptEntry>> = dissection
            .partitions
            .iter()
            .map(|partition| partition.number.and_then(|number| entry(partition, number)))
            .collect();
        if !found.iter().map(Option::as_ref).eq(self.entries.iter().map(Some)) {
            return differs("list of partitions");
        }
        if dissection.partitions.iter().any(|partition| matches!(partition.standing, Standing::Passed(_))) {
            return differs("choice of partitions");
        }
        let protected = plan.devices.iter().filter(|device| device.verity.is_some()).count();
        if dissection.verity.len() != protected {
            return differs("dm-verity protection");
        }
        for device in &plan.devices {
            let each = dissection.partitions.iter().zip(&assessment.partitions);
            let mut chosen = each.filter(|(found, _)| found.standing == Standing::Chosen(device.designator));
            let Some((partition, assessed)) = chosen.next() else {
                return differs("choice of partitions");
            };
            let planned = device.verity.as_ref().map(|verity| &verity.set);
            if partition.number != device.number
                || partition.file_system() != device.file_system
                || assessed.protection != device.protection
                || assessed.signer() != device.signer.as_deref()
                || !same_verity(planned, dissection.verity_of(device.designator))
            {
                return differs(device.designator.as_str());
            }
        }
        Ok(())
    }
}

/// Adds the partitions of a device: its own, and those that verify it.
fn keep_device(
    dissection: &Dissection,
    device: &PlannedDevice,
    kept: &mut Vec<Kept>,
) -> Result<(), ReductionError> {
    let Some(number) = device.number else {
        return Ok(());
    };
    kept.push(Kept { number, extents: vec![device.extent] });
    let Some(verity) = &device.verity else {
        return Ok(());
    };
    let set = &verity.set;
    let whole = |number| {
        let found = dissection.partitions.iter().find(|partition| partition.number == Some(number));
        found.map(|partition| partition.extent).ok_or(ReductionError::OtherImage { number })
    };
    if let TreePlace::Partition(number) = set.hash {
        // What lies between superblock and tree, and behind the tree, is nobody's.
        let superblock = whole(number)?.truncated(ByteLength::of(&[0; VeritySuperblock::SIZE]));
        kept.push(Kept { number, extents: vec![superblock, set.tree_extent] });
    }
    // The one that holds; where none does, the policy is content without, and the first may count for somebody else.
    let first = set.signatures.first().map(|(number, _)| *number);
    if let Some(signature) = verity.signature.or(first) {
        kept.push(Kept { number: signature, extents: vec![whole(signature)?] });
    }
    Ok(())
}

/// The table entry of a partition, if it has this number.
fn entry(partition: &Partition, number: PartitionNumber) -> Option<GptEntry> {
    (partition.number == Some(number)).then_some(())?;
    Some(GptEntry {
        number,
        type_uuid: partition.type_uuid?,
        uuid: partition.uuid?,
        extent: partition.extent,
        attributes: partition.attributes,
        label: partition.label.clone(),
    })
}

/// Whether the same tree verifies the same data by the same root hash.
fn same_verity(planned: Option<&VeritySet>, found: Option<&VeritySet>) -> bool {
    let essence =
        |set: &VeritySet| -> (Designator, [Option<PartitionNumber>; 2], [Extent; 2], VeritySuperblock, _) {
            (
                set.designator,
                [set.data, set.hash.partition()],
                [set.data_extent, set.tree_extent],
                set.superblock.clone(),
                set.root_hash.clone(),
            )
        };
    planned.map(essence) == found.map(essence)
}
