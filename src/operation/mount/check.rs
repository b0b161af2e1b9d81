//! What is done to a writable file system around its mounting: checking it before, growing it after.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;

use crate::format::superblock::FileSystem;
use crate::kernel::mount::{Grown, Mounted, grow};
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::tool;

/// fsck(8): errors were corrected.
const CORRECTED: i32 = 1;
/// fsck(8): the system should be rebooted.
const REBOOT_NEEDED: i32 = 2;
/// fsck(8): errors were left uncorrected.
const LEFT_UNCORRECTED: i32 = 4;

/// The tool that checks a file system, and its word for repairing what is safe to repair. `None` for those that check
/// themselves when they are mounted, and those that nobody can write to.
const fn checker(file_system: FileSystem) -> Option<(&'static str, &'static str)> {
    match file_system {
        FileSystem::Ext4 => Some(("fsck.ext4", "-p")),
        FileSystem::Vfat => Some(("fsck.vfat", "-a")),
        FileSystem::F2fs => Some(("fsck.f2fs", "-a")),
        FileSystem::Btrfs | FileSystem::Erofs | FileSystem::Squashfs | FileSystem::Xfs => None,
    }
}

/// What the exit status of a checker means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Clean,
    Repaired,
    /// It could not do its work.
    Failed,
    /// It says that the file system must not be used like this.
    Unusable(&'static str),
}

fn verdict(status: Option<i32>) -> Verdict {
    match status {
        Some(0) => Verdict::Clean,
        Some(bits) if bits & LEFT_UNCORRECTED != 0 => Verdict::Unusable("errors that it did not correct"),
        Some(bits) if bits & REBOOT_NEEDED != 0 => Verdict::Unusable("a state that needs a reboot"),
        Some(CORRECTED) => Verdict::Repaired,
        Some(_) | None => Verdict::Failed,
    }
}

/// Checks a file system and repairs what is safe to repair, where there is a tool for it.
///
/// # Errors
/// [`OperationError::State`] where the tool leaves errors.
pub(super) fn check(
    file_system: FileSystem,
    node: &Path,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(), OperationError> {
    let Some((program, repair)) = checker(file_system) else {
        return Ok(());
    };
    let Some(path) = tool::find(program) else {
        observer.warning(&format!(
            "'{}' is not checked before it is mounted: there is no program '{program}'",
            node.display()
        ));
        return Ok(());
    };
    let mut command = Command::new(path);
    command.arg(repair).arg(node);
    let ended = tool::run(command, cancel)?;
    let text = ended.text.split_whitespace().collect::<Vec<_>>().join(" ");
    match verdict(ended.status.code()) {
        Verdict::Clean => Ok(()),
        Verdict::Repaired => {
            observer.note(&format!("{program} repaired '{}': {text}", node.display()));
            Ok(())
        }
        Verdict::Failed => {
            observer.warning(&format!("{program} on '{}' failed ({}): {text}", node.display(), ended.status));
            Ok(())
        }
        Verdict::Unusable(what) => {
            let problem = format!(
                "{program} reports {what}: {text}: repair the image by hand, or mount it with --read-only or --fsck=no"
            );
            Err(OperationError::state("checking", node.display(), problem))
        }
    }
}

/// Lets a file system fill its device. One that does not is used as it is, with a warning.
pub(super) fn fill_device(
    mounted: &Mounted,
    file_system: FileSystem,
    device: BorrowedFd<'_>,
    observer: &dyn Observer,
) {
    let place = mounted.entry.mount_point.display();
    match grow(mounted, file_system, device) {
        Ok(Grown::Filled) => observer.note(&format!("the file system on '{place}' fills its partition")),
        Ok(Grown::CannotGrow) => {
            observer
                .warning(&format!("'{place}' is not grown: {file_system} cannot grow while it is mounted"));
        }
        Err(error) => {
            let error = OperationError::system("growing", &mounted.entry.mount_point, error);
            observer.warning(&error.with_causes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_are_left_and_a_needed_reboot_keep_a_file_system_from_use() {
        for bits in 0..=255 {
            let unusable = matches!(verdict(Some(bits)), Verdict::Unusable(_));
            assert_eq!(unusable, bits & 6 != 0, "{bits}");
        }
        assert_eq!(verdict(Some(0)), Verdict::Clean);
        assert_eq!(verdict(Some(1)), Verdict::Repaired);
        for failed in [Some(8), Some(9), Some(16), Some(32), Some(128), None] {
            assert_eq!(verdict(failed), Verdict::Failed, "{failed:?}");
        }
    }
}
