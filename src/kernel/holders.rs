//! Who keeps a block device in use, as far as the kernel tells.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use super::device_number::DeviceNumber;
use super::mount::mounts_of;

/// Who keeps a block device in use, as far as the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holders {
    /// Where it is mounted in this mount namespace.
    pub mount_points: Vec<PathBuf>,
    /// Kernel names of the devices built on it, for instance `dm-0`.
    pub devices: Vec<String>,
}

impl Holders {
    /// Who uses this block device now; nobody where the kernel tells nothing.
    #[must_use]
    pub fn of(device: DeviceNumber) -> Self {
        let mut devices: Vec<String> = fs::read_dir(device.sysfs_path().join("holders"))
            .map(|entries| {
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
            })
            .unwrap_or_default();
        devices.sort_unstable();
        Self { mount_points: mounts_of(device).unwrap_or_default(), devices }
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mounts = self.mount_points.iter().map(|path| format!("mounted on '{}'", path.display()));
        let devices = self.devices.iter().map(|name| format!("used by '/dev/{name}'"));
        let all: Vec<String> = mounts.chain(devices).collect();
        if all.is_empty() { f.write_str("held by another process") } else { f.write_str(&all.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_named_each_in_its_own_way() {
        let holders =
            Holders { mount_points: vec![PathBuf::from("/sysroot")], devices: vec!["dm-0".to_owned()] };
        assert_eq!(holders.to_string(), "mounted on '/sysroot', used by '/dev/dm-0'");
        assert_eq!(Holders::default().to_string(), "held by another process");
    }
}
