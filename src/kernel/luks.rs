//! Opening LUKS volumes: libcryptsetup finds the volume key, and the device mapper maps what the header says.
//!
//! libcryptsetup sees a sealed copy of the header and nothing else: what was judged is what it reads, it has nothing to
//! repair, and it makes no device, takes no lock and asks no udev. The table of dm-crypt is made of the values that our own
//! parser read. The key goes to the kernel through the keyring of this process, never in the text of a table.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::format::superblock::{
    CryptKey, CryptTable, CryptTableDiffers, CryptTableError, IntegrityError, IntegritySuperblock, Mapping,
};

use super::device_mapper::{self, DeviceMapperError, Identity, MappedDevice, MappingRequest, RemoveError};
use super::device_number::DeviceNumber;
use super::keyring::{KeyringError, UserKey};
use super::memory::SealedFile;
use super::secret::Secret;
use super::{block_device_size, raw};

#[cfg(feature = "luks")]
mod library;
#[cfg(not(feature = "luks"))]
mod library {
    //! What stands in for libcryptsetup where it is not built in.

    use super::{LuksError, LuksVersion, SealedFile, Secret};

    pub(super) fn volume_key(
        _header: &SealedFile,
        _version: LuksVersion,
        _passphrase: &Secret,
        _key_slots: usize,
    ) -> Result<Secret, LuksError> {
        Err(LuksError::NotBuilt)
    }
}

/// Whether this program can open LUKS volumes at all: the cargo feature `luks`.
pub const IS_BUILT: bool = cfg!(feature = "luks");

/// The version of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LuksVersion {
    /// LUKS1.
    One,
    /// LUKS2.
    Two,
}

/// Why a volume was not opened.
#[derive(Debug, thiserror::Error)]
pub enum LuksError {
    /// The device mapper.
    #[error(transparent)]
    DeviceMapper(#[from] DeviceMapperError),
    /// The kernel shows another mapping than the one that was asked for; the device was removed again.
    #[error("checking the mapping of '{name}': {differs}")]
    Differs {
        /// The name of the device.
        name: String,
        /// What differs.
        differs: CryptTableDiffers,
    },
    /// The volume keeps tags for its data, and what holds them is not as the header says.
    #[error("reading the dm-integrity superblock of '{name}'")]
    Integrity {
        /// The name of the device that was to be.
        name: String,
        /// What is wrong.
        source: IntegrityError,
    },
    /// The key cannot be handed to the kernel.
    #[error("handing the volume key to the kernel")]
    Keyring(#[from] KeyringError),
    /// libcryptsetup does not do it.
    #[error("{doing}: {said}")]
    Library {
        /// What it was to do.
        doing: &'static str,
        /// What it says itself, if anything.
        said: String,
        /// The error number it gave.
        source: io::Error,
    },
    /// No key slot is one that a key is tried in.
    #[error(
        "expected a key slot that is bound to the data and not marked 'ignore', found none: 'cryptsetup luksDump' shows them"
    )]
    NoKeySlot,
    /// The program was built without libcryptsetup.
    #[error("this ddictl was built without LUKS (cargo feature 'luks')")]
    NotBuilt,
    /// The device is too short for what the header says.
    #[error(
        "mapping '{name}': expected room for data behind sector {offset}, found a device of {size} bytes"
    )]
    NoRoom {
        /// The name of the device that was to be.
        name: String,
        /// Where the data begins.
        offset: u64,
        /// How long the device is.
        size: u64,
    },
    /// The device cannot be read.
    #[error("reading '{}'", .path.display())]
    Reading {
        /// Its node.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel shows a line that is not understood; the device was removed again.
    #[error("reading the mapping of '{name}' back")]
    Table {
        /// The name of the device.
        name: String,
        /// What is wrong with it.
        source: CryptTableError,
    },
    /// The key opens none of the key slots.
    #[error("the key opens none of the {key_slots} key slots that were tried")]
    WrongKey {
        /// How many were tried.
        key_slots: usize,
    },
}

/// The key that the data is encrypted with.
#[derive(Debug)]
pub struct VolumeKey(Secret);

impl VolumeKey {
    /// Gets the key out of the first of `key_slots` slots that the passphrase opens. `header` is everything in front of
    /// the data, as it was judged; no token is asked, and nothing is written.
    ///
    /// # Errors
    /// A [`LuksError`], [`LuksError::WrongKey`] where the passphrase opens none.
    pub fn unlock(
        header: &SealedFile,
        version: LuksVersion,
        passphrase: &Secret,
        key_slots: usize,
    ) -> Result<Self, LuksError> {
        if key_slots == 0 {
            return Err(LuksError::NoKeySlot);
        }
        library::volume_key(header, version, passphrase, key_slots).map(Self)
    }
}

/// A volume that is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenRequest<'a> {
    /// The block device that the volume is on, from its first byte on.
    pub device: &'a File,
    /// Its node, for messages.
    pub path: &'a std::path::Path,
    /// The name of the device that shows the data: 1 to 80 bytes of printable ASCII without `/` and blanks.
    pub name: &'a str,
    /// The UUID of the volume as its header has it.
    pub uuid: &'a str,
    /// The version of its header.
    pub version: LuksVersion,
    /// How the data is mapped, as the header says.
    pub mapping: &'a Mapping,
    /// Whether writes fail.
    pub read_only: bool,
    /// Whether discards are passed on, which shows which sectors are in use. Not together with authentication.
    pub allow_discards: bool,
}

/// An opened volume. It lives as long as it is open, by this value or by a mount, until it is made permanent.
#[derive(Debug)]
pub struct OpenVolume {
    device: MappedDevice,
    /// The device with the tags, below. It stays marked for removal for ever: the device above holds it.
    integrity: Option<MappedDevice>,
}

impl OpenVolume {
    /// Maps the data of a volume.
    ///
    /// # Errors
    /// A [`LuksError`]; nothing is left behind then.
    pub fn open(request: &OpenRequest<'_>, key: &VolumeKey) -> Result<Self, LuksError> {
        let reading = |source| LuksError::Reading { path: request.path.to_owned(), source };
        let number = request.device.metadata().map(|metadata| DeviceNumber::of_block_node(&metadata));
        let number = number
            .map_err(reading)?
            .ok_or_else(|| reading(io::Error::other("expected a block device, found something else")))?;
        let integrity = Self::open_integrity(request, number)?;
        let below = integrity.as_ref().map_or(number, MappedDevice::device_number);
        let sectors = match &integrity {
            // What dm-integrity shows is as long as the data.
            Some(device) => size(device.fd(), request.path)? / 512,
            None => {
                let size = size(std::os::fd::AsFd::as_fd(request.device), request.path)?;
                let (name, offset) = (request.name.to_owned(), request.mapping.offset);
                request.mapping.length(size).ok_or(LuksError::NoRoom { name, offset, size })?
            }
        };
        let device = Self::open_crypt(request, key, below, sectors)?;
        Ok(Self { device, integrity })
    }

    fn open_crypt(
        request: &OpenRequest<'_>,
        key: &VolumeKey,
        below: DeviceNumber,
        sectors: u64,
    ) -> Result<MappedDevice, LuksError> {
        let allow_discards = request.allow_discards && request.mapping.tag_size.is_none();
        let description = key_description();
        let in_keyring = UserKey::add(&description, key.0.expose())?;
        let crypt_key = CryptKey::user(&description, key.0.expose().len())
            .unwrap_or_else(|| unreachable!("'{description}' is one word"));
        let below = below.to_string();
        let parameters = request.mapping.crypt_parameters(&crypt_key, &below, allow_discards);
        let (device, shown) = MappedDevice::create_mapping(&MappingRequest {
            name: request.name,
            uuid: &uuid(request),
            target: "crypt",
            sectors,
            parameters: &parameters,
            read_only: request.read_only,
        })?;
        // dm-crypt has its own copy now.
        drop(in_keyring);
        let name = || request.name.to_owned();
        CryptTable::parse(&shown)
            .map_err(|source| LuksError::Table { name: name(), source })?
            .compare(request.mapping, &below, allow_discards)
            .map_err(|differs| LuksError::Differs { name: name(), differs })?;
        Ok(device)
    }

    /// The device that keeps the tags; `None` where the volume has none.
    fn open_integrity(
        request: &OpenRequest<'_>,
        number: DeviceNumber,
    ) -> Result<Option<MappedDevice>, LuksError> {
        if request.mapping.tag_size.is_none() {
            return Ok(None);
        }
        let mut bytes = [0; IntegritySuperblock::SIZE];
        request
            .device
            .read_exact_at(&mut bytes, request.mapping.offset.saturating_mul(512))
            .map_err(|source| LuksError::Reading { path: request.path.to_owned(), source })?;
        let name = || request.name.to_owned();
        let superblock = IntegritySuperblock::parse(&bytes)
            .map_err(|source| LuksError::Integrity { name: name(), source })?;
        let parameters = request
            .mapping
            .integrity_parameters(&superblock, &number.to_string())
            .map_err(|differs| LuksError::Differs { name: name(), differs })?;
        let Some(parameters) = parameters else { return Ok(None) };
        let integrity_name = format!("{}_dif", request.name);
        let (device, shown) = MappedDevice::create_mapping(&MappingRequest {
            name: &integrity_name,
            uuid: &format!("CRYPT-SUBDEV-{}-{integrity_name}", request.uuid.replace('-', "")),
            target: "integrity",
            sectors: superblock.sectors,
            parameters: &parameters,
            read_only: request.read_only,
        })?;
        // The kernel adds what stands in the superblock; device, offset, tag size and mode stand in front of it.
        let words = |line: &str| line.split_ascii_whitespace().take(4).collect::<Vec<_>>().join(" ");
        if words(&shown) != words(&parameters) {
            let differs = CryptTableDiffers {
                field: "dm-integrity device, offset, tag size and mode",
                expected: words(&parameters),
                found: words(&shown),
            };
            return Err(LuksError::Differs { name: name(), differs });
        }
        Ok(Some(device))
    }

    /// The device that shows the data.
    #[must_use]
    pub const fn device(&self) -> &MappedDevice {
        &self.device
    }

    /// The name of the device with the tags of an authenticated volume, which lies below.
    #[must_use]
    pub fn integrity_name(&self) -> Option<&str> {
        self.integrity.as_ref().map(MappedDevice::name)
    }

    /// The device node, `/dev/dm-N`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.device.path()
    }

    /// A descriptor of the data, for reading.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.device.fd()
    }

    /// The devices that it consists of, from below: the one with the tags, where there is one, and the one to use. All of
    /// them go with their last user; who makes the last one permanent keeps them all.
    #[must_use]
    pub fn into_devices(self) -> Vec<MappedDevice> {
        self.integrity.into_iter().chain([self.device]).collect()
    }

    /// Lets the volume stay open without this process. What lies below it goes with it all the same.
    ///
    /// # Errors
    /// [`LuksError::DeviceMapper`].
    pub fn make_permanent(&self) -> Result<(), LuksError> {
        Ok(self.device.make_permanent()?)
    }

    /// Takes the volume down, and waits until it is gone.
    ///
    /// # Errors
    /// [`RemoveError`], also where somebody else has it open at the deadline.
    pub fn close(self, deadline: Instant) -> Result<(), RemoveError> {
        let Self { device, integrity } = self;
        let identities: Vec<Identity> =
            [Some(&device), integrity.as_ref()].into_iter().flatten().map(MappedDevice::identity).collect();
        drop(device);
        drop(integrity);
        identities.iter().try_for_each(|identity| device_mapper::remove(identity, deadline).map(drop))
    }
}

/// The UUID that libcryptsetup would give to the device: cryptsetup knows it by that.
fn uuid(request: &OpenRequest<'_>) -> String {
    let version = match request.version {
        LuksVersion::One => 1,
        LuksVersion::Two => 2,
    };
    format!("CRYPT-LUKS{version}-{}-{}", request.uuid.replace('-', ""), request.name)
}

fn size(device: BorrowedFd<'_>, path: &std::path::Path) -> Result<u64, LuksError> {
    block_device_size(device).map(crate::format::units::ByteLength::bytes).map_err(
        |error: raw::IoctlError| LuksError::Reading {
            path: path.to_owned(),
            source: io::Error::other(error),
        },
    )
}

/// A description that no other key of this process has.
fn key_description() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("ddictl:luks-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
