//! The names of the devices of an attachment, and whether they are free.

use std::fs;

use crate::format::designator::Designator;
use crate::format::loop_reference::LoopReference;
use crate::format::mapper_name::MapperName;
use crate::image::plan::{ActivationPlan, PlannedDevice};
use crate::kernel::device_mapper;
use crate::kernel::loop_device;
use crate::operation::error::OperationError;
use crate::operation::record::RecordStore;

use super::links::LINK_DIRECTORY;

/// More links than any machine has loop devices; bounds what is read.
const MAXIMUM_LINKS: usize = 65_536;

/// The names of the devices of a plan, all of which must fit.
///
/// # Errors
/// [`OperationError::Usage`] where a name is too long with its suffix, [`OperationError::State`] where there is no device
/// to name, or one cannot be made.
pub fn device_references(
    reference: &LoopReference,
    plan: &ActivationPlan,
) -> Result<Vec<LoopReference>, OperationError> {
    if plan.devices.is_empty() {
        let problem = format!("the policy '{}' uses no partition of this image", plan.policy);
        return Err(OperationError::state("attaching", reference, problem));
    }
    let block = u64::from(plan.sector_size.bytes());
    if let Some(device) =
        plan.devices.iter().find(|device| !device.extent.length().bytes().is_multiple_of(block))
    {
        let length = device.extent.length();
        let problem =
            format!("{length} bytes are no multiple of {block}: no device would show the last ones");
        return Err(OperationError::state("attaching", reference, problem));
    }
    plan.devices.iter().map(|device| device_reference(reference, device)).collect()
}

/// The name of one device; those of everything that may stand below or beside it must fit, too.
fn device_reference(
    reference: &LoopReference,
    device: &PlannedDevice,
) -> Result<LoopReference, OperationError> {
    let naming = |error| OperationError::Usage(format!("naming the devices of '{reference}': {error}"));
    let own = match device.number {
        None => reference.clone(),
        Some(number) => {
            reference.designator(device.designator).map_err(naming)?;
            reference.partition(number).map_err(naming)?
        }
    };
    if device.verity.is_some() || device.protection.hides_content() {
        own.data().map_err(naming)?;
        own.hash().map_err(naming)?;
    }
    mapper_name(reference, device.designator)?;
    Ok(own)
}

/// The name of the device-mapper device for a designator: that of the link `NAME-DESIGNATOR`.
///
/// # Errors
/// [`OperationError::Usage`] where it is too long for the device mapper.
pub(in crate::operation) fn mapper_name(
    reference: &LoopReference,
    designator: Designator,
) -> Result<MapperName, OperationError> {
    let naming = |error: String| {
        let problem =
            format!("naming the devices of '{reference}': {error}: choose a shorter name with --loop-ref=");
        OperationError::Usage(problem)
    };
    let name = reference.designator(designator).map_err(|error| naming(error.to_string()))?;
    MapperName::of(&name).map_err(|error| naming(error.to_string()))
}

/// What the name of the device with the tags has behind it, below one that decrypts: as libcryptsetup has it.
pub(super) const TAGS: &str = "_dif";

/// Whether a device of the device mapper has a name that belongs to the attachment `base`.
pub(in crate::operation) fn is_mapper_of(name: &str, base: &LoopReference) -> bool {
    Designator::ALL
        .into_iter()
        .filter_map(|designator| MapperName::of(&base.designator(designator).ok()?).ok())
        .any(|of_base| of_base.as_str() == name || name.strip_suffix(TAGS) == Some(of_base.as_str()))
}

/// A name that is taken would make a link that leads elsewhere.
pub(super) fn refuse_taken_names(
    store: &RecordStore,
    reference: &LoopReference,
) -> Result<(), OperationError> {
    let taken = |by: String| {
        Err(OperationError::state(
            "attaching as",
            reference,
            format!(
                "the name is taken by {by}: choose another one with --loop-ref=, or detach that one first"
            ),
        ))
    };
    if store.exists(reference) {
        return taken(format!("the attachment '{reference}' ('ddictl list' shows it)"));
    }
    let devices =
        loop_device::list().map_err(|source| OperationError::system("listing", "/sys/block", source))?;
    for device in devices {
        if let Some(name) = device.reference()
            && (name == reference.as_str() || is_part_of(name, reference.as_str()))
        {
            return taken(format!("/dev/loop{}, which carries the reference '{name}'", device.number));
        }
    }
    let encoded = reference.encode();
    let mapped = device_mapper::list()
        .map_err(|source| OperationError::system("listing the devices of", "/dev/mapper", source))?;
    if let Some(device) = mapped.into_iter().find(|device| is_mapper_of(&device.name, reference)) {
        return taken(format!("the device '/dev/mapper/{}'", device.name));
    }
    let entries = fs::read_dir(LINK_DIRECTORY).into_iter().flatten().take(MAXIMUM_LINKS).flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name == encoded || is_part_of(&name, &encoded) {
            return taken(format!("the link '{LINK_DIRECTORY}/{name}'"));
        }
    }
    Ok(())
}

/// Whether a name is that of a device of the attachment `base`: `BASE-partN`, `BASE-DESIGNATOR`, or of what stands below
/// one, with `.data` or `.hash` behind it.
pub(in crate::operation) fn is_part_of(name: &str, base: &str) -> bool {
    let below = |name: &str, end: &str| {
        name.strip_suffix(end).is_some_and(|name| name == base || is_device(name, base))
    };
    is_device(name, base) || below(name, ".data") || below(name, ".hash")
}

fn is_device(name: &str, base: &str) -> bool {
    name.strip_prefix(base).and_then(|rest| rest.strip_prefix('-')).is_some_and(is_suffix)
}

/// What the name of a device has behind that of its attachment and a `-`.
fn is_suffix(suffix: &str) -> bool {
    let number = suffix.strip_prefix("part");
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
        || suffix.parse::<Designator>().is_ok()
}

/// The names of all attachments that a device of this name can belong to: those of which it [`is_part_of`], and its own.
pub(in crate::operation) fn bases_of(name: &str) -> Vec<&str> {
    let below = [".data", ".hash"].into_iter().filter_map(|end| name.strip_suffix(end));
    let devices: Vec<&str> = std::iter::once(name).chain(below).collect();
    let mut shorter = Vec::new();
    for device in &devices {
        // A designator has a `-` itself, so there can be several places to cut.
        for (at, _) in device.match_indices('-') {
            let (base, rest) = device.split_at_checked(at).unwrap_or_default();
            if rest.strip_prefix('-').is_some_and(is_suffix) {
                shorter.push(base);
            }
        }
    }
    [devices, shorter].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_what_stands_below_them_are_parts() {
        for name in [
            "a.raw-part1",
            "a.raw-part12",
            "a.raw-root",
            "a.raw-part1.data",
            "a.raw-part2.hash",
            "a.raw.data",
        ] {
            assert!(is_part_of(name, "a.raw"), "{name}");
        }
        for name in [
            "a.raw",
            "a.raw-",
            "a.raw-part",
            "a.raw-partx",
            "a.raw-2",
            "a.raw-part1.x",
            "b.raw-root",
            "a.rawx",
        ] {
            assert!(!is_part_of(name, "a.raw"), "{name}");
        }
    }

    #[test]
    fn the_attachments_that_a_name_can_belong_to_are_known() {
        for (name, bases) in [
            ("a.raw", &["a.raw"][..]),
            ("a.raw.data", &["a.raw.data", "a.raw"]),
            ("a-b.raw-part12", &["a-b.raw-part12", "a-b.raw"]),
            ("a.raw-part1.hash", &["a.raw-part1.hash", "a.raw-part1", "a.raw"]),
            ("a.raw-root-verity", &["a.raw-root-verity", "a.raw"]),
            ("a-root-part1", &["a-root-part1", "a-root"]),
            ("a-x", &["a-x"]),
        ] {
            assert_eq!(bases_of(name), bases, "{name}");
            assert!(bases.iter().all(|base| name == *base || is_part_of(name, base)), "{name}");
        }
    }

    #[test]
    fn a_mapper_name_is_encoded_and_has_its_limits() {
        let name = |reference: &str| mapper_name(&reference.parse().unwrap(), Designator::Root);
        assert_eq!(name("os 1.raw").unwrap().as_str(), "os\\x201.raw-root");
        assert!(
            matches!(name(&" ".repeat(40)), Err(OperationError::Usage(text)) if text.contains("--loop-ref="))
        );
        let base = "os 1.raw".parse().unwrap();
        assert!(is_mapper_of("os\\x201.raw-usr", &base) && !is_mapper_of("os\\x201.raw", &base));
    }
}
