//! The kernel's table of the mounts of this mount namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::{MountError, mount_number, proc_path};
use crate::kernel::device_number::DeviceNumber;

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The number of the mount.
    pub number: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// The device number of the file system.
    pub device: DeviceNumber,
    /// Which directory of the file system is mounted.
    pub root: PathBuf,
    /// Where it is, for this process.
    pub mount_point: PathBuf,
    /// The number of its peer group: whatever is mounted on one of its peers or unmounted there is so on all of them.
    pub peers: Option<u64>,
    /// The number of the peer group that it follows without being one of it.
    pub follows: Option<u64>,
    /// The flags of the mount itself: `ro`, `nodev`, ….
    pub flags: Vec<String>,
    /// The driver, for instance `ext4`.
    pub file_system: String,
    /// What it was mounted from: by convention a device node.
    pub source: OsString,
    /// The flags and options of the file system, which all its mounts have in common.
    pub options: Vec<String>,
}

impl MountEntry {
    /// Whether nothing can be written through this mount.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.flags.iter().chain(&self.options).any(|flag| flag == "ro")
    }

    /// The block device that it comes from: that of the file system, or for one that has a number of its own (btrfs) the
    /// node it was mounted from. `None` where it is on none.
    #[must_use]
    pub fn block_device(&self) -> Option<DeviceNumber> {
        // Numbers without a driver are those of file systems without a device, and of btrfs.
        if self.device.major() != 0 {
            return Some(self.device);
        }
        let is_node = self.source.as_bytes().starts_with(b"/dev/");
        fs::metadata(&self.source)
            .ok()
            .filter(|_| is_node)
            .and_then(|node| DeviceNumber::of_block_node(&node))
    }
}

/// All mounts, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountTable {
    entries: Vec<MountEntry>,
}

impl MountTable {
    /// Reads the table.
    ///
    /// # Errors
    /// [`MountError::ReadingMounts`].
    pub fn read() -> Result<Self, MountError> {
        let table = fs::read("/proc/self/mountinfo").map_err(MountError::ReadingMounts)?;
        let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let entries = lines
            .map(|line| {
                let odd = || io::Error::other(format!("unexpected line '{}'", line.escape_ascii()));
                entry_of(line).ok_or_else(|| MountError::ReadingMounts(odd()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// All of them, in the kernel's order.
    pub fn entries(&self) -> impl Iterator<Item = &MountEntry> {
        self.entries.iter()
    }

    /// The mount of this number.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&MountEntry> {
        self.entries.iter().find(|entry| entry.number == number)
    }

    /// The mount that a path leads to, where the path is exactly its mount point: the topmost one.
    ///
    /// # Errors
    /// [`MountError::Opening`] where the path cannot be resolved.
    pub fn at(&self, path: &Path) -> Result<Option<&MountEntry>, MountError> {
        let opening = |source| MountError::Opening { directory: path.to_owned(), source };
        let flags = libc::O_CLOEXEC | libc::O_PATH;
        let handle = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(opening)?;
        let number = mount_number(handle.as_fd()).map_err(opening)?;
        let resolved = fs::read_link(proc_path(handle.as_fd())).map_err(opening)?;
        Ok(self.get(number).filter(|entry| entry.mount_point == resolved))
    }

    /// The mount that what is open lies in.
    ///
    /// # Errors
    /// [`MountError::ReadingMounts`] where the kernel does not tell its number.
    pub fn of(&self, file: BorrowedFd<'_>) -> Result<Option<&MountEntry>, MountError> {
        Ok(self.get(mount_number(file).map_err(MountError::ReadingMounts)?))
    }

    /// A mount and all that are on it, in an order in which they can be unmounted: itself last.
    #[must_use]
    pub fn tree(&self, number: u64) -> Vec<&MountEntry> {
        let mut children: BTreeMap<u64, Vec<&MountEntry>> = BTreeMap::new();
        for entry in &self.entries {
            children.entry(entry.parent).or_default().push(entry);
        }
        let mut order: Vec<&MountEntry> = self.get(number).into_iter().collect();
        let mut seen: BTreeSet<u64> = order.iter().map(|entry| entry.number).collect();
        let mut next = 0;
        while let Some(entry) = order.get(next) {
            let below = children.get(&entry.number).into_iter().flatten();
            let new: Vec<&MountEntry> = below.filter(|child| seen.insert(child.number)).copied().collect();
            order.extend(new);
            next += 1;
        }
        order.reverse();
        order
    }

    /// Whether `copy` goes when `mount` is unmounted: the kernel keeps what is on a shared mount the same on its peers.
    #[must_use]
    pub fn goes_with(&self, copy: &MountEntry, mount: &MountEntry) -> bool {
        let (Some(of_copy), Some(of_mount)) = (self.get(copy.parent), self.get(mount.parent)) else {
            return false;
        };
        // Two on one mount are in two places of it, of which the kernel keeps each for itself.
        of_copy.number != of_mount.number
            && of_mount.peers.is_some()
            && [of_copy.peers, of_copy.follows].contains(&of_mount.peers)
            && copy.device == mount.device
    }

    /// Where a block device is mounted.
    pub fn mounts_of(&self, device: DeviceNumber) -> impl Iterator<Item = &MountEntry> {
        self.entries.iter().filter(move |entry| entry.block_device() == Some(device))
    }
}

/// Whether something is mounted on exactly this directory. A path that does not exist is no mount point.
///
/// # Errors
/// [`MountError::ReadingMounts`], [`MountError::Opening`] where the path cannot be resolved.
pub fn is_mount_point(path: &Path) -> Result<bool, MountError> {
    match MountTable::read()?.at(path) {
        Ok(entry) => Ok(entry.is_some()),
        Err(MountError::Opening { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is mounted on exactly this directory and beneath it, in an order in which it can be unmounted; nothing where the
/// directory is no mount point.
///
/// # Errors
/// [`MountError::ReadingMounts`], [`MountError::Opening`] where the path cannot be resolved.
pub fn mounts_beneath(directory: &Path) -> Result<Vec<MountEntry>, MountError> {
    let table = MountTable::read()?;
    let top = table.at(directory)?;
    Ok(top.map(|top| table.tree(top.number).into_iter().cloned().collect()).unwrap_or_default())
}

/// Where a block device is mounted in this mount namespace, in the order of mounting.
///
/// File systems over several devices (btrfs) have a number of their own: they are known by the node they were mounted
/// from.
///
/// # Errors
/// [`MountError::ReadingMounts`].
pub fn mounts_of(device: DeviceNumber) -> Result<Vec<PathBuf>, MountError> {
    Ok(MountTable::read()?.mounts_of(device).map(|entry| entry.mount_point.clone()).collect())
}

/// Reads a line as proc_pid_mountinfo(5) says: number, parent, major:minor, root, mount point, flags, any number of
/// optional fields, a hyphen, type, source, options.
fn entry_of(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| str::from_utf8(field).ok().map(str::to_owned);
    let words = |field: &[u8]| {
        field.split(|byte| *byte == b',').map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    };
    let number = text(fields.next()?)?.parse().ok()?;
    let parent = text(fields.next()?)?.parse().ok()?;
    let device = text(fields.next()?)?.parse().ok()?;
    let root = OsString::from_vec(unescaped(fields.next()?)).into();
    let mount_point = OsString::from_vec(unescaped(fields.next()?)).into();
    let flags = words(fields.next()?);
    let (mut peers, mut follows) = (None, None);
    loop {
        let field = fields.next()?;
        if field == b"-" {
            break;
        }
        let number = |tag: &[u8]| text(field.strip_prefix(tag)?)?.parse().ok();
        peers = peers.or_else(|| number(b"shared:"));
        follows = follows.or_else(|| number(b"master:"));
    }
    let file_system = OsStr::from_bytes(&unescaped(fields.next()?)).to_string_lossy().into_owned();
    let source = OsString::from_vec(unescaped(fields.next()?));
    let options = words(fields.next()?);
    Some(MountEntry {
        number,
        parent,
        device,
        root,
        mount_point,
        peers,
        follows,
        flags,
        file_system,
        source,
        options,
    })
}

/// Undoes the kernel's escapes: a backslash and three octal digits for blank, tab, newline, backslash and number sign.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| byte == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> MountTable {
        MountTable { entries: lines.iter().map(|line| entry_of(line.as_bytes()).unwrap()).collect() }
    }

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:2 - ext3 /dev/a\\011b ro,errors=x";
        let entry = entry_of(line).unwrap();
        assert_eq!((entry.number, entry.parent), (36, 35));
        assert_eq!(entry.device, DeviceNumber::new(98, 0));
        assert_eq!(entry.root, Path::new("/mnt1"));
        assert_eq!(entry.mount_point, Path::new("/mnt 2\\x"));
        assert_eq!(entry.flags, ["rw", "noatime"]);
        assert_eq!((entry.peers, entry.follows), (Some(2), Some(1)));
        assert_eq!(entry.file_system, "ext3");
        assert_eq!(entry.source, OsStr::new("/dev/a\tb"));
        assert_eq!(entry.options, ["ro", "errors=x"]);
        assert!(entry.is_read_only());
        assert_eq!(entry.block_device(), Some(DeviceNumber::new(98, 0)));
    }

    #[test]
    fn a_line_that_lacks_a_field_is_not_read() {
        for line in [
            "",
            "36",
            "36 35 98:0 /",
            "36 35 x / /mnt rw - ext3 a rw",
            "x 35 98:0 / /mnt rw - ext3 a rw",
            "36 35 98:0 / /mnt rw - ext3",
            "36 35 98:0 / /mnt rw - ext3 a",
            "36 35 98:0 / /mnt rw ext3 a rw",
        ] {
            assert_eq!(entry_of(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_backslash_without_three_octal_digits_stays() {
        for (escaped, plain) in
            [("\\04", "\\04"), ("\\", "\\"), ("\\999", "\\999"), ("\\777", "\\777"), ("\\043", "#")]
        {
            assert_eq!(unescaped(escaped.as_bytes()), plain.as_bytes(), "{escaped}");
        }
    }

    #[test]
    fn a_tree_of_mounts_is_unmounted_from_its_leaves() {
        let table = table(&[
            "1 1 0:1 / / rw - rootfs none rw",
            "40 30 7:2 / /mnt/var rw - ext4 /dev/loop2 rw",
            "30 1 7:1 / /mnt rw - ext4 /dev/loop1 rw",
            "50 40 7:3 / /mnt/var/tmp rw - ext4 /dev/loop3 rw",
            "45 30 7:5 / /mnt/srv rw - ext4 /dev/loop5 rw",
            "20 1 7:4 / /mnt2 rw - ext4 /dev/loop4 rw",
        ]);
        let order: Vec<u64> = table.tree(30).iter().map(|entry| entry.number).collect();
        assert_eq!(order, [50, 45, 40, 30]);
        assert!(table.tree(99).is_empty());
        // The root of everything is its own parent.
        assert_eq!(table.tree(1).len(), 6);
    }

    #[test]
    fn what_is_on_the_peer_of_a_shared_mount_goes_with_it_and_a_bound_copy_does_not() {
        let table = table(&[
            "1 0 0:1 / / rw shared:1 - tmpfs none rw",
            "2 1 0:2 / /srv rw shared:7 - tmpfs none rw",
            "3 1 0:2 / /peer rw shared:7 - tmpfs none rw",
            "4 1 0:2 / /follower rw master:7 - tmpfs none rw",
            "5 1 0:3 / /private rw - tmpfs none rw",
            "10 2 7:1 / /srv/x rw shared:9 - ext4 /dev/loop1 rw",
            "11 3 7:1 / /peer/x rw shared:9 - ext4 /dev/loop1 rw",
            "12 4 7:1 / /follower/x rw - ext4 /dev/loop1 rw",
            "13 1 7:1 / /copy rw shared:9 - ext4 /dev/loop1 rw",
            "14 5 7:1 / /private/x rw shared:9 - ext4 /dev/loop1 rw",
            "15 2 7:1 / /srv/y rw shared:9 - ext4 /dev/loop1 rw",
        ]);
        let of = |number: u64| table.get(number).unwrap();
        for (copy, expected) in [(11, true), (12, true), (13, false), (14, false), (15, false)] {
            assert_eq!(table.goes_with(of(copy), of(10)), expected, "{copy}");
        }
        // Nothing that happens on a private mount happens elsewhere.
        assert!(!table.goes_with(of(10), of(14)));
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_new_directory_is_not() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(directory.path()).unwrap());
        assert!(!is_mount_point(&directory.path().join("absent")).unwrap());
        assert!(mounts_beneath(directory.path()).unwrap().is_empty());
        assert_eq!(
            mounts_beneath(Path::new("/proc")).unwrap().last().unwrap().mount_point,
            Path::new("/proc")
        );
    }
}
