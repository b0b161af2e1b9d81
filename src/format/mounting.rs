//! How a file system is mounted: flags and options as values, so that no text of an image ever becomes one.

use std::fmt;

/// What a mount does not allow. That device nodes do not work there is not a choice: it holds for every mount of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MountFlags {
    /// Nothing can be written, neither through the mount nor by the file system itself.
    pub read_only: bool,
    /// Set-user-id and set-group-id bits and file capabilities have no effect.
    pub no_suid: bool,
    /// No program can be run.
    pub no_exec: bool,
    /// Symbolic links are not followed.
    pub no_symlinks: bool,
}

impl MountFlags {
    /// The words that mount(8) and `/proc/self/mountinfo` have for what is in force, `nodev` among them.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        [
            (self.read_only, "ro"),
            (!self.read_only, "rw"),
            (self.no_suid, "nosuid"),
            (true, "nodev"),
            (self.no_exec, "noexec"),
            (self.no_symlinks, "nosymfollow"),
        ]
        .into_iter()
        .filter_map(|(holds, word)| holds.then_some(word))
        .collect()
    }
}

impl fmt::Display for MountFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words().join(","))
    }
}

/// An option of a file system driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountOption {
    /// `norecovery` of ext4, f2fs and xfs: the journal is not replayed, so that a read-only mount does not write.
    NoRecovery,
    /// `rescue=nologreplay` of btrfs: the same for its log tree.
    NoLogReplay,
    /// `discard`: what is freed is told to the device.
    Discard,
    /// `nodiscard`: it is not, for drivers that do so by themselves.
    NoDiscard,
    /// `fmask` of vfat: the permission bits that no file has.
    FileMask(u16),
    /// `dmask` of vfat: the permission bits that no directory has.
    DirectoryMask(u16),
}

impl MountOption {
    /// The name that the driver knows it by.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::NoRecovery => "norecovery",
            Self::NoLogReplay => "rescue",
            Self::Discard => "discard",
            Self::NoDiscard => "nodiscard",
            Self::FileMask(_) => "fmask",
            Self::DirectoryMask(_) => "dmask",
        }
    }

    /// Its value; `None` for one that is only there or not.
    #[must_use]
    pub fn value(self) -> Option<String> {
        match self {
            Self::NoRecovery | Self::Discard | Self::NoDiscard => None,
            Self::NoLogReplay => Some("nologreplay".to_owned()),
            Self::FileMask(mask) | Self::DirectoryMask(mask) => Some(format!("{mask:04o}")),
        }
    }
}

impl fmt::Display for MountOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value() {
            Some(value) => write!(f, "{}={value}", self.key()),
            None => f.write_str(self.key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_the_mount_table_has_them() {
        assert_eq!(MountFlags::default().to_string(), "rw,nodev");
        let all = MountFlags { read_only: true, no_suid: true, no_exec: true, no_symlinks: true };
        assert_eq!(all.to_string(), "ro,nosuid,nodev,noexec,nosymfollow");
    }

    #[test]
    fn options_are_written_as_the_drivers_read_them() {
        let options = [
            MountOption::NoRecovery,
            MountOption::NoLogReplay,
            MountOption::Discard,
            MountOption::NoDiscard,
            MountOption::FileMask(0o177),
            MountOption::DirectoryMask(0o77),
        ];
        let text: Vec<String> = options.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            ["norecovery", "rescue=nologreplay", "discard", "nodiscard", "fmask=0177", "dmask=0077"]
        );
    }
}
