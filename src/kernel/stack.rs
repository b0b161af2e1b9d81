//! What a block device stands on: loop devices below partitions and below the device mapper, as sysfs shows them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::device_number::DeviceNumber;

/// How many devices may stand on each other; LUKS on dm-verity on partitions of a loop device are four.
const DEEPEST: usize = 8;
/// How many devices one may stand on.
const MAXIMUM_DEVICES: usize = 64;

/// Everything that a block device consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stack {
    /// The kernel names of the devices, what stands on others first: `dm-0`, `loop3`. Partitions go with their disks.
    pub names: Vec<String>,
}

impl Stack {
    /// The stack of the device with this number.
    ///
    /// # Errors
    /// The error of reading sysfs; [`io::ErrorKind::InvalidData`] where it is deeper or wider than any that we know.
    pub fn of(device: DeviceNumber) -> io::Result<Self> {
        let odd =
            || io::Error::new(io::ErrorKind::InvalidData, "more block devices on each other than expected");
        let mut names = Vec::new();
        let mut seen = BTreeSet::new();
        let mut layer = vec![disk_name(&device.sysfs_path())?];
        for _ in 0..DEEPEST {
            let mut below = Vec::new();
            for name in layer {
                if !seen.insert(name.clone()) {
                    continue;
                }
                if seen.len() > MAXIMUM_DEVICES {
                    return Err(odd());
                }
                for slave in
                    fs::read_dir(Path::new("/sys/block").join(&name).join("slaves")).into_iter().flatten()
                {
                    below.push(disk_name(&slave?.path())?);
                }
                names.push(name);
            }
            if below.is_empty() {
                return Ok(Self { names });
            }
            layer = below;
        }
        Err(odd())
    }

    /// Whether all of it ends in loop devices: nothing else is left when these go.
    #[must_use]
    pub fn is_on_loops(&self) -> bool {
        let is_loop = |name: &String| name.starts_with("loop");
        self.names.iter().any(is_loop)
            && self.names.iter().all(|name| is_loop(name) || name.starts_with("dm-"))
    }

    /// Those of its devices that are still there, and in the case of loop devices bound.
    #[must_use]
    pub fn remaining(&self) -> Vec<String> {
        let is_there = |name: &&String| {
            let device = Path::new("/sys/block").join(name);
            let sign = if name.starts_with("loop") { device.join("loop/backing_file") } else { device };
            fs::exists(sign).unwrap_or(false)
        };
        self.names.iter().filter(is_there).cloned().collect()
    }
}

/// The kernel name of a device in sysfs, or of the disk that it is a partition of.
fn disk_name(path: &Path) -> io::Result<String> {
    let resolved = fs::canonicalize(path)?;
    let is_partition = fs::exists(resolved.join("partition"))?;
    let disk = if is_partition { resolved.parent() } else { Some(resolved.as_path()) };
    disk.and_then(|disk| disk.file_name()?.to_str())
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("expected a block device at '{}'", resolved.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Stack {
        Stack { names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn only_what_ends_in_loop_devices_alone_is_on_loops() {
        assert!(stack(&["loop0"]).is_on_loops());
        assert!(stack(&["dm-1", "dm-0", "loop0", "loop1"]).is_on_loops());
        for names in [&[][..], &["sda"], &["dm-0"], &["dm-0", "sda"], &["dm-0", "loop0", "sdb"]] {
            assert!(!stack(names).is_on_loops(), "{names:?}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_has_no_stack_and_leaves_nothing() {
        assert!(Stack::of(DeviceNumber::new(4095, 1_048_575)).is_err());
        assert!(stack(&["loop999999", "dm-999999"]).remaining().is_empty());
    }
}
