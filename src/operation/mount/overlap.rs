//! File systems that are written: through one device, and no other one at the same time.

use crate::kernel::holders::Holders;
use crate::kernel::loop_device::{self, LoopStatus};
use crate::operation::devices::{BoundDevices, HeldDevice};
use crate::operation::error::OperationError;

/// Refuses devices of which another loop device in use shows some of the same bytes, if one of the two can be written:
/// two mounts that know nothing of each other destroy a file system.
///
/// # Errors
/// [`OperationError::State`] naming the other device and who uses it.
pub(super) fn refuse(devices: &[HeldDevice]) -> Result<(), OperationError> {
    let ours = BoundDevices::held(devices)?.loops;
    let listed =
        loop_device::list().map_err(|source| OperationError::system("listing", "/sys/block", source))?;
    for other in listed.iter().filter(|other| !ours.iter().any(|own| own.number == other.number)) {
        let Some(own) = ours.iter().find(|own| overlap(own, other) && !(own.read_only && other.read_only))
        else {
            continue;
        };
        let holders = Holders::of(other.device);
        // What goes with its last user has one.
        if other.autoclear || holders != Holders::default() {
            let problem = format!(
                "'/dev/loop{}' shows the same bytes of the image and is in use ({holders}): what can be written is mounted \
                 once: unmount that first, or mount both with --read-only",
                other.number
            );
            return Err(OperationError::state("mounting", format!("/dev/loop{}", own.number), problem));
        }
    }
    Ok(())
}

/// Whether two loop devices show bytes of one file that they have in common.
fn overlap(one: &LoopStatus, other: &LoopStatus) -> bool {
    let end = |status: &LoopStatus| match status.size_limit.bytes() {
        0 => u64::MAX,
        size => status.offset.bytes().saturating_add(size),
    };
    (one.backing_device, one.backing_inode) == (other.backing_device, other.backing_inode)
        && one.offset.bytes() < end(other)
        && other.offset.bytes() < end(one)
}
