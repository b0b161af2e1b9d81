//! What devices may be made of: an image in memory of which every planned block was verified, or an image on a disk that
//! the kernel guards block by block. Nothing else can be activated.

use std::fs::File;

use crate::image::plan::{Access, ActivationPlan};
use crate::image::presets::RequestedPolicy;
use crate::kernel::device_mapper;

use super::activate::no_dm_verity;
use super::cancel::Cancel;
use super::error::OperationError;
use super::source::{ImageFile, ImageSource};
use super::trust_store::TrustStore;
use super::verified_image::{VerifiedImage, plan};

/// An image that can be activated.
#[derive(Debug, Clone, Copy)]
pub enum Activatable<'a> {
    /// In memory that nobody can write, verified in full.
    Verified(&'a VerifiedImage),
    /// On a disk: what is verified must be guarded by dm-verity.
    OnDisk(&'a ImageOnDisk),
}

impl<'a> Activatable<'a> {
    /// The bytes, through a descriptor that cannot write.
    #[must_use]
    pub const fn file(self) -> &'a File {
        match self {
            Self::Verified(image) => image.file(),
            Self::OnDisk(image) => image.image.file(),
        }
    }

    /// The file beside it that has the hash tree.
    #[must_use]
    pub fn tree(self) -> Option<&'a File> {
        match self {
            Self::Verified(image) => image.tree(),
            Self::OnDisk(image) => image.image.companions().tree(),
        }
    }

    /// The same file through a descriptor that can write, where the plan has something writable.
    #[must_use]
    pub const fn writable(self) -> Option<&'a File> {
        match self {
            Self::Verified(_) => None,
            Self::OnDisk(image) => image.writable.as_ref(),
        }
    }

    /// What is planned.
    #[must_use]
    pub const fn plan(self) -> &'a ActivationPlan {
        match self {
            Self::Verified(image) => image.plan(),
            Self::OnDisk(image) => &image.plan,
        }
    }

    /// Where it came from.
    #[must_use]
    pub fn source(self) -> &'a str {
        match self {
            Self::Verified(image) => image.source(),
            Self::OnDisk(image) => &image.source,
        }
    }

    /// The SHA-256 of the download in hexadecimal, where there was one.
    #[must_use]
    pub fn digest(self) -> Option<String> {
        match self {
            Self::Verified(image) => image.digest(),
            Self::OnDisk(_) => None,
        }
    }

    /// Whether every planned block was verified and cannot change any more.
    #[must_use]
    pub const fn is_verified_in_memory(self) -> bool {
        matches!(self, Self::Verified(_))
    }
}

/// An image in a file or on a block device that others may write, with the plan for it.
#[derive(Debug)]
pub struct ImageOnDisk {
    image: ImageFile,
    writable: Option<File>,
    plan: ActivationPlan,
    source: String,
}

impl ImageOnDisk {
    /// Plans what is to be activated of an image as it lies there. `source` is its name in the record.
    ///
    /// # Errors
    /// [`OperationError::Malformed`], [`OperationError::Refused`], what reading said; [`OperationError::State`] where
    /// something is to be verified and the kernel has no dm-verity.
    pub fn plan(
        image: ImageFile,
        source: &str,
        trust: &TrustStore,
        policy: &RequestedPolicy,
        access: Access,
        cancel: &Cancel,
    ) -> Result<Self, OperationError> {
        let plan = plan(&image, trust, policy, access, cancel)?;
        if plan.devices.iter().any(|device| device.verity.is_some())
            && matches!(device_mapper::supports_verity(), Ok(None))
        {
            return Err(no_dm_verity(source));
        }
        let writable = match plan.devices.iter().any(|device| !device.read_only) {
            true => Some(image.reopen_for_writing()?),
            false => None,
        };
        Ok(Self { image, writable, plan, source: source.to_owned() })
    }
}
