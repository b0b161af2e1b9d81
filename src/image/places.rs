//! Where the file systems of an image are mounted, in which order, and with which flags and options: as
//! systemd-dissect --mount does, except that no partition is ever put over the root of the image.
//!
//! Whether a place is there, and empty where it has to be, shows only once the file systems above it are mounted: a plan
//! says what to look for.

use crate::format::designator::Designator;
use crate::format::mounting::{MountFlags, MountOption};
use crate::format::superblock::FileSystem;

use super::plan::PlannedDevice;
use super::policy::Protection;

/// The order of mounting: whatever lies beneath another one comes after it. The ESP comes last, because where it goes
/// depends on where the XBOOTLDR partition went.
const ORDER: [Designator; 8] = [
    Designator::Root,
    Designator::Usr,
    Designator::Home,
    Designator::Srv,
    Designator::Var,
    Designator::Tmp,
    Designator::Xbootldr,
    Designator::Esp,
];

/// Permission bits that no file of a boot partition has: it is for root alone.
const FILE_MASK: u16 = 0o177;
/// The same for directories.
const DIRECTORY_MASK: u16 = 0o077;

/// Which writable file systems tell their device what they no longer use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Discard {
    /// None.
    Disabled,
    /// Those on loop devices.
    #[default]
    Loop,
    /// All that are not encrypted.
    All,
    /// Also encrypted ones, which shows whoever reads the image how much of it is in use.
    Crypto,
}

/// What the caller wants done with writable file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountSettings {
    /// Whether they are checked, and repaired where that is safe, before they are mounted.
    pub fsck: bool,
    /// Whether those that the plan wants grown are.
    pub growfs: bool,
    /// Which of them discard.
    pub discard: Discard,
}

impl Default for MountSettings {
    fn default() -> Self {
        Self { fsck: true, growfs: true, discard: Discard::default() }
    }
}

/// All mounts of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Whether the image has no root: then a file system in memory takes its place.
    pub root_in_memory: bool,
    /// The mounts, in their order.
    pub mounts: Vec<PlannedMount>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMount {
    /// Which device of the activation plan is mounted.
    pub device: usize,
    /// What it is for.
    pub designator: Designator,
    /// Where it goes.
    pub places: Places,
    /// Its file system; `None` for an encrypted one that is not unlocked yet.
    pub file_system: Option<FileSystem>,
    /// What the mount does not allow.
    pub flags: MountFlags,
    /// The options of the driver.
    pub options: Vec<MountOption>,
    /// Whether it is checked before.
    pub fsck: bool,
    /// Whether it is grown to the size of its device.
    pub growfs: bool,
}

/// Where a file system goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Places {
    /// On the directory that the user names.
    Top,
    /// On this directory of the image. It is made where it is missing; where it cannot be made, nothing is mounted at
    /// all.
    Required(&'static str),
    /// On the first of these that will do; where none does, this one is left out with a warning.
    FirstOf(&'static [BootPlace]),
}

/// A directory of the image that a boot partition may go on, if it is empty and nothing is mounted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootPlace {
    /// The directory, without a slash in front.
    pub path: &'static str,
    /// Whether it may be made.
    pub may_be_made: bool,
}

/// Where an XBOOTLDR partition goes.
const XBOOTLDR: &[BootPlace] = &[BootPlace { path: "boot", may_be_made: true }];
/// Where an EFI system partition goes: to an image without `/boot` its `/efi` is the better place.
const ESP: &[BootPlace] =
    &[BootPlace { path: "boot", may_be_made: false }, BootPlace { path: "efi", may_be_made: true }];

/// Why an image cannot be mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmountable {
    /// Nothing in it is a system's tree.
    #[error(
        "expected a root or usr partition that the policy uses, found neither: other partitions have no place without one of them"
    )]
    NoRootOrUsr,
    /// A partition has no file system that we mount.
    #[error(
        "the {designator} partition: expected one of the file systems btrfs, erofs, ext4, f2fs, squashfs, vfat or xfs, found none: use an image with one of these, or leave the partition out by '{designator}=unused+absent' in the policy"
    )]
    NoFileSystem {
        /// Which partition.
        designator: Designator,
    },
}

impl MountPlan {
    /// Plans the mounts of these devices.
    ///
    /// # Errors
    /// [`Unmountable`].
    pub fn new(devices: &[PlannedDevice], settings: MountSettings) -> Result<Self, Unmountable> {
        let found = |designator| devices.iter().position(|device| device.designator == designator);
        if found(Designator::Root).is_none() && found(Designator::Usr).is_none() {
            return Err(Unmountable::NoRootOrUsr);
        }
        let mut mounts = Vec::new();
        for designator in ORDER {
            let planned = found(designator).and_then(|index| Some((index, devices.get(index)?)));
            if let Some((index, device)) = planned {
                mounts.push(PlannedMount::new(index, device, settings)?);
            }
        }
        Ok(Self { root_in_memory: found(Designator::Root).is_none(), mounts })
    }
}

impl PlannedMount {
    fn new(index: usize, device: &PlannedDevice, settings: MountSettings) -> Result<Self, Unmountable> {
        let designator = device.designator;
        if device.file_system.is_none() && !device.protection.hides_content() {
            return Err(Unmountable::NoFileSystem { designator });
        }
        let boot = matches!(designator, Designator::Esp | Designator::Xbootldr);
        let flags = MountFlags {
            read_only: device.read_only,
            no_suid: boot || designator == Designator::Tmp,
            no_exec: boot,
            no_symlinks: boot,
        };
        let mut mount = Self {
            device: index,
            designator,
            places: places_of(designator),
            file_system: None,
            flags,
            options: Vec::new(),
            fsck: settings.fsck && !device.read_only,
            growfs: settings.growfs && device.growfs && !device.read_only,
        };
        if let Some(file_system) = device.file_system {
            mount.with_file_system(file_system, device.protection, settings.discard);
        }
        Ok(mount)
    }

    /// Fills in what depends on the file system: what was planned, or what shows once the device is unlocked.
    pub fn with_file_system(&mut self, file_system: FileSystem, protection: Protection, discard: Discard) {
        self.file_system = Some(file_system);
        if file_system.is_read_only() {
            self.flags.read_only = true;
            self.fsck = false;
            self.growfs = false;
        }
        self.options = options_of(self.designator, file_system, self.flags.read_only, protection, discard);
    }
}

const fn places_of(designator: Designator) -> Places {
    match designator {
        Designator::Usr => Places::Required("usr"),
        Designator::Home => Places::Required("home"),
        Designator::Srv => Places::Required("srv"),
        Designator::Var => Places::Required("var"),
        Designator::Tmp => Places::Required("var/tmp"),
        Designator::Xbootldr => Places::FirstOf(XBOOTLDR),
        Designator::Esp => Places::FirstOf(ESP),
        _ => Places::Top,
    }
}

fn options_of(
    designator: Designator,
    file_system: FileSystem,
    read_only: bool,
    protection: Protection,
    discard: Discard,
) -> Vec<MountOption> {
    let mut options = Vec::new();
    if matches!(designator, Designator::Esp | Designator::Xbootldr) && file_system == FileSystem::Vfat {
        options.extend([MountOption::FileMask(FILE_MASK), MountOption::DirectoryMask(DIRECTORY_MASK)]);
    }
    // What is verified needs no recovery: an image that does was refused. Anything else must not be written to by its
    // own driver.
    let verified = matches!(protection, Protection::Verity | Protection::Signed);
    if read_only && !verified {
        match file_system {
            FileSystem::Ext4 | FileSystem::F2fs | FileSystem::Xfs => options.push(MountOption::NoRecovery),
            FileSystem::Btrfs => options.push(MountOption::NoLogReplay),
            _ => {}
        }
    }
    let wanted = match discard {
        Discard::Disabled => false,
        Discard::Loop | Discard::All => !protection.hides_content(),
        Discard::Crypto => true,
    };
    match file_system {
        _ if read_only || file_system.is_read_only() => {}
        _ if wanted => options.push(MountOption::Discard),
        // These do so by themselves where the device takes it.
        FileSystem::Btrfs | FileSystem::F2fs => options.push(MountOption::NoDiscard),
        _ => {}
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gpt::Attributes;
    use crate::format::superblock::Recovery;
    use crate::format::units::{ByteLength, Extent};

    fn device(designator: Designator, file_system: FileSystem) -> PlannedDevice {
        PlannedDevice {
            number: None,
            designator,
            extent: Extent::from_beginning(ByteLength::new(4096)),
            protection: Protection::Unprotected,
            file_system: Some(file_system),
            attributes: Attributes::default(),
            read_only: false,
            recovery: Recovery::Unknown,
            growfs: false,
            verity: None,
            signer: None,
        }
    }

    fn plan(devices: &[PlannedDevice]) -> MountPlan {
        MountPlan::new(devices, MountSettings::default()).unwrap()
    }

    fn only(device: PlannedDevice) -> PlannedMount {
        let designator = device.designator;
        let root = self::device(Designator::Root, FileSystem::Squashfs);
        let devices = if designator == Designator::Root { vec![device] } else { vec![root, device] };
        let plan = plan(&devices);
        plan.mounts.into_iter().find(|mount| mount.designator == designator).unwrap()
    }

    #[test]
    fn what_lies_beneath_comes_after_and_the_esp_last() {
        let mut devices: Vec<PlannedDevice> =
            Designator::ALL.into_iter().map(|designator| device(designator, FileSystem::Ext4)).collect();
        devices.reverse();
        let plan = plan(&devices);
        assert!(!plan.root_in_memory);
        let order: Vec<(Designator, Places)> =
            plan.mounts.iter().map(|mount| (mount.designator, mount.places)).collect();
        let expected = [
            (Designator::Root, Places::Top),
            (Designator::Usr, Places::Required("usr")),
            (Designator::Home, Places::Required("home")),
            (Designator::Srv, Places::Required("srv")),
            (Designator::Var, Places::Required("var")),
            (Designator::Tmp, Places::Required("var/tmp")),
            (Designator::Xbootldr, Places::FirstOf(XBOOTLDR)),
            (Designator::Esp, Places::FirstOf(ESP)),
        ];
        assert_eq!(order, expected);
        for mount in &plan.mounts {
            assert_eq!(devices[mount.device].designator, mount.designator);
        }
    }

    #[test]
    fn a_root_alone_is_the_top_and_a_usr_alone_lies_in_memory() {
        let root = plan(&[device(Designator::Root, FileSystem::Ext4)]);
        assert!(!root.root_in_memory && root.mounts.len() == 1);
        let usr = plan(&[device(Designator::Usr, FileSystem::Erofs)]);
        assert!(usr.root_in_memory && usr.mounts.len() == 1);
    }

    #[test]
    fn without_root_and_usr_nothing_has_a_place() {
        for designator in [Designator::Home, Designator::Esp, Designator::Swap] {
            let devices = [device(designator, FileSystem::Ext4)];
            let refused = MountPlan::new(&devices, MountSettings::default());
            assert_eq!(refused, Err(Unmountable::NoRootOrUsr), "{designator}");
        }
        assert_eq!(MountPlan::new(&[], MountSettings::default()), Err(Unmountable::NoRootOrUsr));
    }

    #[test]
    fn swap_is_not_mounted() {
        let plan =
            plan(&[device(Designator::Swap, FileSystem::Ext4), device(Designator::Root, FileSystem::Ext4)]);
        assert_eq!(plan.mounts.len(), 1);
    }

    #[test]
    fn a_partition_without_a_file_system_is_refused_unless_it_is_locked() {
        let mut home = device(Designator::Home, FileSystem::Ext4);
        home.file_system = None;
        let devices = [device(Designator::Root, FileSystem::Ext4), home];
        let refused = MountPlan::new(&devices, MountSettings::default());
        assert_eq!(refused, Err(Unmountable::NoFileSystem { designator: Designator::Home }));
        let [root, mut home] = devices;
        home.protection = Protection::Encrypted;
        let plan = plan(&[root, home]);
        assert_eq!(plan.mounts[1].file_system, None);
    }

    #[test]
    fn flags_are_those_of_the_designator() {
        let flags = |designator| only(device(designator, FileSystem::Ext4)).flags.to_string();
        for designator in
            [Designator::Root, Designator::Usr, Designator::Home, Designator::Srv, Designator::Var]
        {
            assert_eq!(flags(designator), "rw,nodev", "{designator}");
        }
        assert_eq!(flags(Designator::Tmp), "rw,nosuid,nodev");
        for designator in [Designator::Esp, Designator::Xbootldr] {
            assert_eq!(flags(designator), "rw,nosuid,nodev,noexec,nosymfollow", "{designator}");
        }
        let mut root = device(Designator::Root, FileSystem::Ext4);
        root.read_only = true;
        assert_eq!(only(root).flags.to_string(), "ro,nodev");
    }

    #[test]
    fn a_read_only_driver_does_not_write_either() {
        let options = |file_system, protection| {
            let mut root = device(Designator::Root, file_system);
            (root.read_only, root.protection) = (true, protection);
            only(root).options
        };
        for protection in [Protection::Unprotected, Protection::Encrypted, Protection::EncryptedWithIntegrity]
        {
            assert_eq!(options(FileSystem::Ext4, protection), [MountOption::NoRecovery]);
            assert_eq!(options(FileSystem::Xfs, protection), [MountOption::NoRecovery]);
            assert_eq!(options(FileSystem::Btrfs, protection), [MountOption::NoLogReplay]);
            assert_eq!(options(FileSystem::Squashfs, protection), []);
        }
        for protection in [Protection::Verity, Protection::Signed] {
            for file_system in FileSystem::ALL {
                assert_eq!(options(file_system, protection), [], "{file_system} {protection}");
            }
        }
    }

    #[test]
    fn boot_partitions_are_for_root_alone() {
        let masks = [MountOption::FileMask(0o177), MountOption::DirectoryMask(0o77)];
        for designator in [Designator::Esp, Designator::Xbootldr] {
            let options = only(device(designator, FileSystem::Vfat)).options;
            assert_eq!(options[..2], masks, "{designator}");
        }
        // Only vfat has no permissions of its own, and a home is not for root alone.
        assert!(!only(device(Designator::Xbootldr, FileSystem::Ext4)).options.contains(&masks[0]));
        assert!(!only(device(Designator::Home, FileSystem::Vfat)).options.contains(&masks[0]));
    }

    #[test]
    fn only_what_is_writable_discards_and_what_is_encrypted_only_on_demand() {
        let discards = |protection, read_only, file_system, discard| {
            let mut root = device(Designator::Root, file_system);
            (root.protection, root.read_only) = (protection, read_only);
            let settings = MountSettings { discard, ..MountSettings::default() };
            let plan = MountPlan::new(&[root], settings).unwrap();
            let options = &plan.mounts[0].options;
            let discards = options.contains(&MountOption::Discard);
            let by_itself = matches!(file_system, FileSystem::Btrfs | FileSystem::F2fs);
            let silenced = by_itself && !read_only && !discards;
            assert_eq!(options.contains(&MountOption::NoDiscard), silenced, "{file_system} {discard:?}");
            discards
        };
        let (plain, locked) = (Protection::Unprotected, Protection::Encrypted);
        for (discard, expected) in [
            (Discard::Disabled, [false, false]),
            (Discard::Loop, [true, false]),
            (Discard::All, [true, false]),
            (Discard::Crypto, [true, true]),
        ] {
            for file_system in
                [FileSystem::Btrfs, FileSystem::F2fs, FileSystem::Ext4, FileSystem::Vfat, FileSystem::Xfs]
            {
                let found = [plain, locked].map(|state| discards(state, false, file_system, discard));
                assert_eq!(found, expected, "{file_system} {discard:?}");
                assert!(!discards(plain, true, file_system, discard));
            }
            assert!(!discards(plain, false, FileSystem::Squashfs, discard));
        }
    }

    #[test]
    fn only_what_is_writable_is_checked_and_grown() {
        let mount = |read_only, growfs, settings| {
            let mut root = device(Designator::Root, FileSystem::Ext4);
            (root.read_only, root.growfs) = (read_only, growfs);
            let plan = MountPlan::new(&[root], settings).unwrap();
            (plan.mounts[0].fsck, plan.mounts[0].growfs)
        };
        let wanted = MountSettings::default();
        let neither = MountSettings { fsck: false, growfs: false, ..wanted };
        assert_eq!(mount(false, true, wanted), (true, true));
        assert_eq!(mount(false, false, wanted), (true, false));
        assert_eq!(mount(true, true, wanted), (false, false));
        assert_eq!(mount(false, true, neither), (false, false));
    }

    #[test]
    fn what_shows_after_unlocking_decides_then() {
        let mut root = device(Designator::Root, FileSystem::Ext4);
        (root.file_system, root.protection) = (None, Protection::Encrypted);
        let mut mount = only(root);
        assert!(mount.fsck && mount.options.is_empty());
        mount.with_file_system(FileSystem::Squashfs, Protection::Encrypted, Discard::Crypto);
        assert!(mount.flags.read_only && !mount.fsck && mount.options.is_empty());
    }
}
