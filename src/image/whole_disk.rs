//! An image as one disk with all its partitions, as losetup shows it: nothing is verified, nothing is left out.

use crate::format::designator::VerityRole;
use crate::format::units::{ByteLength, Extent, PartitionNumber, SectorSize};

use super::dissection::Dissection;
use super::plan::Access;
use super::policy::ImagePolicy;
use super::presets::RequestedPolicy;

/// What is made of an image that is attached as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeDiskPlan {
    /// The bytes of the image that the disk shows: all of them, but for what does not fill a sector.
    pub extent: Extent,
    /// The size of its sectors.
    pub sector_size: SectorSize,
    /// Its partitions as in the table, used or not.
    pub partitions: Vec<(PartitionNumber, Extent)>,
    /// Why nobody may write to it; `None` where it is writable.
    pub read_only: Option<String>,
}

/// Why an image is not attached as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WholeDiskRefusal {
    /// Nobody said that nothing needs to be verified.
    #[error(
        "a whole disk is shown without any verification, and the policy without --image-policy= is @verified-boot: say that \
         this is meant with --image-policy='*', or leave out --whole-disk"
    )]
    NotSaid,
    /// The policy wants everything authenticated.
    #[error(
        "policy '{policy}' demands that all that is exposed is authenticated, and of a whole disk nothing is verified: leave \
         out --whole-disk, or say with --image-policy='*' that nothing is required"
    )]
    DemandsAuthentication {
        /// The policy by its name.
        policy: String,
    },
    /// The policy wants something of partitions.
    #[error(
        "policy '{policy}' requires something of partitions, and a whole disk shows every byte whatever it is: leave out \
         --whole-disk, or say with --image-policy='*' that nothing is required"
    )]
    Restricts {
        /// The policy by its name or in its own words.
        policy: String,
    },
}

/// Whether a policy was given that lets a whole disk be shown: only one that requires nothing of anything does.
///
/// # Errors
/// A [`WholeDiskRefusal`].
pub fn allows_whole_disk(given: Option<&RequestedPolicy>) -> Result<(), WholeDiskRefusal> {
    let Some(given) = given else {
        return Err(WholeDiskRefusal::NotSaid);
    };
    let policy = given.to_string();
    if given.strictness().demands_authentication() {
        return Err(WholeDiskRefusal::DemandsAuthentication { policy });
    }
    if !given.policy().is_equivalent(&ImagePolicy::allow()) {
        return Err(WholeDiskRefusal::Restricts { policy });
    }
    Ok(())
}

impl WholeDiskPlan {
    /// Plans the disk of an image for somebody who wants `access` to it, under the policy that was `given` in words.
    ///
    /// # Errors
    /// A [`WholeDiskRefusal`].
    pub fn new(
        dissection: &Dissection,
        given: Option<&RequestedPolicy>,
        access: Access,
    ) -> Result<Self, WholeDiskRefusal> {
        allows_whole_disk(given)?;
        let sector_size = dissection.sector_size();
        let size = dissection.image_size.bytes();
        let odd = size.checked_rem(u64::from(sector_size.bytes())).unwrap_or_default();
        Ok(Self {
            extent: Extent::from_beginning(ByteLength::new(size.saturating_sub(odd))),
            sector_size,
            partitions: dissection
                .partitions
                .iter()
                .filter_map(|partition| Some((partition.number?, partition.extent)))
                .collect(),
            read_only: why_read_only(dissection, access),
        })
    }
}

/// A disk is writable as a whole or not at all: where one partition must not be written to, nothing is.
fn why_read_only(dissection: &Dissection, access: Access) -> Option<String> {
    if access == Access::ReadOnly {
        return Some("nobody asked to write".to_owned());
    }
    dissection.partitions.iter().find_map(|partition| {
        let place = partition.number.map_or_else(|| "the image".to_owned(), |n| format!("partition {n}"));
        let role = partition.partition_type.designator().and_then(|designator| designator.verity_role());
        if matches!(role, Some(VerityRole::Hash | VerityRole::Signature)) {
            return Some(format!("{place} belongs to dm-verity, and writing would make it wrong"));
        }
        if partition.attributes.read_only() {
            return Some(format!("{place} has the read-only attribute"));
        }
        let file_system = partition.file_system().filter(|file_system| file_system.is_read_only());
        file_system.map(|file_system| format!("{place} holds {file_system}, which nobody can write to"))
    })
}
