//! File systems on block devices: opened by a driver that is named, compared with what was asked for, put in their place.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::fstatfs;

use super::table::{MountEntry, MountTable};
use super::{MountError, mount_number, proc_path};
use crate::format::mounting::{MountFlags, MountOption};
use crate::format::superblock::FileSystem;
use crate::format::units::ByteLength;
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::raw::{IoctlError, block, grow as raw_grow, mount as raw};

/// The driver of a tmpfs.
const TMPFS: &str = "tmpfs";
/// btrfs is not resized to less than this, in bytes.
const SMALLEST_BTRFS: u64 = 256 << 20;
/// How many messages of a driver are taken over, and how long each may be.
const MAXIMUM_MESSAGES: usize = 8;
const MAXIMUM_MESSAGE_LENGTH: usize = 512;

/// Which file system is to be mounted, and how.
#[derive(Debug, Clone, Copy)]
pub struct MountRequest<'a> {
    /// The block device, open: as long as it is, its number belongs to no other.
    pub device: BorrowedFd<'a>,
    /// Its node, by which the mount table shall show it.
    pub node: &'a Path,
    /// The driver. No other one gets to see the device.
    pub file_system: FileSystem,
    /// What the mount does not allow.
    pub flags: MountFlags,
    /// The options of the driver.
    pub options: &'a [MountOption],
}

/// A mount that is nowhere yet. Dropping it takes it away.
#[derive(Debug)]
#[must_use = "dropping it takes the mount away"]
pub struct PreparedMount {
    root: File,
    number: u64,
    /// The block device; `None` for a tmpfs.
    device: Option<DeviceNumber>,
    driver: &'static str,
    flags: MountFlags,
}

/// A mount of ours in its place. Dropping it leaves it there.
#[derive(Debug)]
#[must_use = "undo it, or drop it to leave it"]
pub struct Mounted {
    root: File,
    /// The line of the mount table, as it was right after mounting.
    pub entry: MountEntry,
}

impl PreparedMount {
    /// Lets the driver open the file system.
    ///
    /// # Errors
    /// [`MountError::FileSystem`] with what the driver has to say; [`MountError::Differs`] where it opened another
    /// device.
    pub fn of_device(request: &MountRequest<'_>) -> Result<Self, MountError> {
        let MountRequest { device, node, file_system, flags, options } = *request;
        let failing = |source| MountError::FileSystem {
            file_system: file_system.as_str(),
            node: node.to_owned(),
            source,
            messages: String::new(),
        };
        let wanted =
            block_number(&File::from(device.try_clone_to_owned().map_err(failing)?)).map_err(failing)?;
        // The driver opens the node by its name, which is root's to change; the device is compared before and after.
        let named = std::fs::metadata(node).map_err(failing)?;
        let found = DeviceNumber::of_block_node(&named);
        if found != Some(wanted) {
            return Err(differs(node, "device", wanted, found.map_or("none".to_owned(), |n| n.to_string())));
        }
        let source = CString::new(node.as_os_str().as_bytes()).map_err(|error| failing(error.into()))?;
        let mut settings = vec![Setting::Value(c"source".to_owned(), source)];
        if flags.read_only {
            settings.push(Setting::Flag(c"ro".to_owned()));
        }
        for option in options {
            let key = CString::new(option.key()).map_err(|error| failing(error.into()))?;
            settings.push(match option.value() {
                None => Setting::Flag(key),
                Some(value) => {
                    Setting::Value(key, CString::new(value).map_err(|error| failing(error.into()))?)
                }
            });
        }
        let root = prepare(file_system.as_str(), &settings, flags).map_err(|(errno, messages)| {
            MountError::FileSystem {
                file_system: file_system.as_str(),
                node: node.to_owned(),
                source: errno.into(),
                messages,
            }
        })?;
        let number = mount_number(root.as_fd()).map_err(failing)?;
        let mounted = DeviceNumber::of_file_system(&root.metadata().map_err(failing)?);
        // btrfs has a number of its own; the mount table tells its device.
        if file_system != FileSystem::Btrfs && mounted != wanted {
            return Err(differs(node, "device", wanted, mounted));
        }
        Ok(Self { root, number, device: Some(wanted), driver: file_system.as_str(), flags })
    }

    /// A tmpfs of at most `size` bytes whose root has permissions 0755, for images that have no root of their own. The
    /// mount table shows `name` as its source.
    ///
    /// # Errors
    /// [`MountError::FileSystem`].
    pub fn of_memory(name: &str, size: ByteLength, flags: MountFlags) -> Result<Self, MountError> {
        let failing = |source, messages| MountError::FileSystem {
            file_system: TMPFS,
            node: PathBuf::from(TMPFS),
            source,
            messages,
        };
        let text = |text: String| CString::new(text).map_err(|error| failing(error.into(), String::new()));
        let (size, name) = (text(size.to_string())?, text(name.to_owned())?);
        let settings = [
            Setting::Value(c"source".to_owned(), name),
            Setting::Value(c"size".to_owned(), size),
            Setting::Value(c"mode".to_owned(), c"0755".to_owned()),
        ];
        let root =
            prepare(TMPFS, &settings, flags).map_err(|(errno, messages)| failing(errno.into(), messages))?;
        let number = mount_number(root.as_fd()).map_err(|error| failing(error, String::new()))?;
        Ok(Self { root, number, device: None, driver: TMPFS, flags })
    }

    /// Puts the mount on a directory that is open, shown as `place`, and looks at it again as the kernel shows it.
    ///
    /// # Errors
    /// [`MountError::Placing`], [`MountError::Differs`]; nothing is mounted there then.
    pub fn attach(self, directory: BorrowedFd<'_>, place: &Path) -> Result<Mounted, MountError> {
        raw::attach(self.root.as_fd(), directory)
            .map_err(|errno| MountError::Placing { directory: place.to_owned(), source: errno.into() })?;
        let checked = self.look_again(place);
        if checked.is_err() {
            // By descriptor it is this mount, as long as nothing is on it.
            let _ = detach(&self.root);
        }
        Ok(Mounted { entry: checked?, root: self.root })
    }

    fn look_again(&self, place: &Path) -> Result<MountEntry, MountError> {
        let table = MountTable::read()?;
        let entry = table
            .get(self.number)
            .ok_or_else(|| differs(place, "mount", format!("mount {}", self.number), "none"))?;
        if entry.file_system != self.driver {
            return Err(differs(place, "file system", self.driver, &entry.file_system));
        }
        if entry.block_device() != self.device {
            let text = |device: Option<DeviceNumber>| device.map_or("none".to_owned(), |d| d.to_string());
            return Err(differs(place, "device", text(self.device), text(entry.block_device())));
        }
        let mut missing = self.flags.words().into_iter().filter(|word| {
            let there = entry.flags.iter().any(|flag| flag == word);
            !there && *word != "rw"
        });
        if let Some(word) = missing.next() {
            return Err(differs(place, "flags", word, entry.flags.join(",")));
        }
        // A mount that is read-only on a file system that is not: its driver could write.
        if self.flags.read_only && self.device.is_some() && !entry.options.iter().any(|option| option == "ro")
        {
            return Err(differs(place, "state of the file system", "ro", entry.options.join(",")));
        }
        Ok(entry.clone())
    }
}

impl Mounted {
    /// The root directory of the mount, for paths alone. While it is open the mount is in use.
    #[must_use]
    pub const fn root(&self) -> &File {
        &self.root
    }

    /// Unmounts it, even if it is in use by now, unless somebody has mounted something on top of it.
    ///
    /// # Errors
    /// [`MountError::Displaced`], [`MountError::Unmounting`].
    pub fn undo(self) -> Result<(), MountError> {
        let directory = self.entry.mount_point.clone();
        let table = MountTable::read()?;
        let Some(entry) = table.get(self.entry.number) else {
            return Ok(());
        };
        // umount(2) takes the topmost mount, also by descriptor: one that somebody has put over ours is not ours to
        // take down.
        let on_top = table.tree(entry.number).into_iter().any(|other| {
            other.parent == entry.number
                && other.number != entry.number
                && other.mount_point == entry.mount_point
        });
        if on_top {
            return Err(MountError::Displaced { directory });
        }
        detach(&self.root).map_err(|errno| MountError::Unmounting { directory, source: errno.into() })
    }
}

fn detach(root: &File) -> Result<(), Errno> {
    umount2(&proc_path(root.as_fd()), MntFlags::MNT_DETACH)
}

enum Setting {
    Flag(CString),
    Value(CString, CString),
}

/// Opens a driver, configures it and makes a mount that is nowhere yet. The error comes with what the driver said.
fn prepare(driver: &str, settings: &[Setting], flags: MountFlags) -> Result<File, (Errno, String)> {
    let plain = |errno| (errno, String::new());
    let driver = CString::new(driver).map_err(|_| plain(Errno::EINVAL))?;
    let context = File::from(raw::open(&driver).map_err(plain)?);
    let mut failing = |errno| (errno, messages(&context));
    for setting in settings {
        match setting {
            Setting::Flag(key) => raw::set_flag(context.as_fd(), key),
            Setting::Value(key, value) => raw::set_string(context.as_fd(), key, value),
        }
        .map_err(&mut failing)?;
    }
    raw::create(context.as_fd()).map_err(&mut failing)?;
    let mut attributes = raw::NO_DEVICES;
    for (holds, attribute) in [
        (flags.read_only, raw::READ_ONLY),
        (flags.no_suid, raw::NO_SUID),
        (flags.no_exec, raw::NO_EXEC),
        (flags.no_symlinks, raw::NO_SYMLINKS),
    ] {
        if holds {
            attributes |= attribute;
        }
    }
    raw::mount(context.as_fd(), attributes).map(File::from).map_err(&mut failing)
}

/// What a driver has to say, as fsopen(2) describes it: each read gives one message, after a letter for its kind.
fn messages(context: &File) -> String {
    let mut texts = Vec::new();
    let mut buffer = [0; MAXIMUM_MESSAGE_LENGTH];
    for _ in 0..MAXIMUM_MESSAGES {
        let Some(message) = (&mut &*context).read(&mut buffer).ok().and_then(|length| buffer.get(..length))
        else {
            break;
        };
        let text = String::from_utf8_lossy(message);
        let text = text.trim();
        texts.push(text.strip_prefix(['e', 'w', 'i']).unwrap_or(text).trim().to_owned());
    }
    texts.retain(|text| !text.is_empty());
    texts.join("; ")
}

fn block_number(device: &File) -> io::Result<DeviceNumber> {
    DeviceNumber::of_block_node(&device.metadata()?)
        .ok_or_else(|| io::Error::other("expected the descriptor of a block device"))
}

fn differs(place: &Path, what: &'static str, expected: impl ToString, found: impl ToString) -> MountError {
    MountError::Differs {
        place: place.to_owned(),
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

/// What growing a file system came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grown {
    /// The file system was asked to fill its device.
    Filled,
    /// Its driver has no way of growing it while it is mounted, or not to this size.
    CannotGrow,
}

/// Why a file system was not grown.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// Its root directory cannot be opened or asked.
    #[error("opening the root directory")]
    Opening(#[source] io::Error),
    /// The driver refused.
    #[error("growing the file system")]
    Growing(#[source] IoctlError),
}

/// Lets the file system of a mount fill its device, which is open.
///
/// # Errors
/// A [`GrowError`]; the file system is as it was then.
pub fn grow(mounted: &Mounted, file_system: FileSystem, device: BorrowedFd<'_>) -> Result<Grown, GrowError> {
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_DIRECTORY)
        .open(proc_path(mounted.root.as_fd()))
        .map_err(GrowError::Opening)?;
    let size = block::size(device).map_err(GrowError::Growing)?.bytes();
    let done = match file_system {
        FileSystem::Ext4 => {
            let statistics = fstatfs(&root).map_err(|errno| GrowError::Opening(errno.into()))?;
            let block = u64::try_from(statistics.block_size()).unwrap_or_default().max(1);
            raw_grow::grow_ext4(root.as_fd(), size / block)
        }
        FileSystem::Btrfs if size < SMALLEST_BTRFS => return Ok(Grown::CannotGrow),
        FileSystem::Btrfs => raw_grow::grow_btrfs(root.as_fd()),
        FileSystem::Xfs => raw_grow::xfs_shape(root.as_fd()).and_then(|shape| {
            let blocks = size / u64::from(shape.block_size.max(1));
            // xfs takes a size that it has already for an error.
            if blocks <= shape.blocks {
                return Ok(());
            }
            raw_grow::grow_xfs(root.as_fd(), blocks, shape.inode_percentage)
        }),
        _ => return Ok(Grown::CannotGrow),
    };
    done.map(|()| Grown::Filled).map_err(GrowError::Growing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_not_mounted() {
        let null = File::open("/dev/null").unwrap();
        let request = MountRequest {
            device: null.as_fd(),
            node: Path::new("/dev/null"),
            file_system: FileSystem::Ext4,
            flags: MountFlags::default(),
            options: &[],
        };
        let error = PreparedMount::of_device(&request).unwrap_err();
        assert!(matches!(error, MountError::FileSystem { .. }), "{error}");
    }
}
