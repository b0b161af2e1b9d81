//! What udev is to know of an attachment: its links now, and after a switch of the root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::format::loop_reference::LoopReference;
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::udev::{self, UdevError};
use crate::operation::cancel::Cancel;
use crate::operation::describe::{Links, links_of};
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::record::{Record, RecordedDevice};

/// How long udev may take to make the links. A coldplug with hundreds of devices takes some seconds.
const UDEV_DEADLINE: Duration = Duration::from_secs(60);
/// How long udev may take to remove them. Less than others wait for the lock that is held meanwhile.
const LINKS_GONE_DEADLINE: Duration = Duration::from_secs(10);
/// Where udev makes its links.
pub(in crate::operation) const LINK_DIRECTORY: &str = "/dev/disk/by-loop-ref";
/// What is there in an initrd alone (systemd, INITRD_INTERFACE).
pub(in crate::operation) const INITRD_RELEASE: &str = "/etc/initrd-release";
/// Where udev looks for rules that last until the machine is switched off, also after a switch of the root.
const RUNTIME_RULES: &str = "/run/udev/rules.d";

/// Tells udev that the devices are ready and waits until it has made the links.
pub(super) fn announce(
    record: &Record,
    devices: &[DeviceNumber],
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Vec<PathBuf>, OperationError> {
    if !udev::is_running() {
        observer.warning("no udevd is running: there are no links below /dev/disk, use the device paths");
        return Ok(Vec::new());
    }
    let links = links_of_processed(record, devices, cancel)?;
    for name in record.devices.iter().flat_map(|device| device.names(&record.reference)) {
        let expected = LoopReference::observed(name.as_bytes()).map(|name| name.encode());
        if let Ok(name) = expected
            && !links.iter().any(|link| link.file_name().is_some_and(|n| n.to_str() == Some(&name)))
        {
            observer.warning(&format!(
                "udev made no link {LINK_DIRECTORY}/{name}: are the rules 59-ddictl.rules and their helper installed?"
            ));
        }
    }
    Ok(links)
}

/// Tells udev of the partitions of a whole disk, which have the links of the disk with a suffix: it looks at the disk's
/// properties for them, so that one is announced before.
pub(super) fn announce_partitions(record: &Record, cancel: &Cancel) -> Result<Vec<PathBuf>, OperationError> {
    let partitions = record.whole_disk.iter().flat_map(|disk| &disk.partitions);
    let numbers: Vec<DeviceNumber> =
        partitions.filter_map(|partition| partition.device.parse().ok()).collect();
    match udev::is_running() {
        true => links_of_processed(record, &numbers, cancel),
        false => Ok(Vec::new()),
    }
}

/// The links by reference that devices have once udev has looked at them again.
fn links_of_processed(
    record: &Record,
    devices: &[DeviceNumber],
    cancel: &Cancel,
) -> Result<Vec<PathBuf>, OperationError> {
    match udev::change_and_wait(devices, cancel.signals(), Instant::now() + UDEV_DEADLINE) {
        Ok(processed) => Ok(processed
            .into_iter()
            .flat_map(|device| device.links)
            .filter(|link| link.starts_with(LINK_DIRECTORY))
            .collect()),
        Err(UdevError::Interrupted(interrupted)) => Err(interrupted.into()),
        Err(source) => Err(OperationError::system("waiting for the links of", &record.reference, source)),
    }
}

/// Gives udev the time to see that devices are going or gone. Nothing depends on it but the links, which a device loses
/// without this as well, only later.
pub(in crate::operation) fn wait_for_udev(devices: &[DeviceNumber]) {
    if udev::is_running() {
        // A device that cannot be asked about any more has no links either.
        let _ = udev::change_and_wait(devices, None, Instant::now() + LINKS_GONE_DEADLINE);
    }
}

/// In an initrd: leaves rules behind that make the same links of the same devices in the system that comes next, which
/// may have neither our rules nor our helper. They match the kernel's name and disk sequence number of each device, which
/// no other device ever has, so that they mean nothing once these devices are gone.
pub(in crate::operation) fn write_runtime_rules(record: &Record) -> Result<(), OperationError> {
    if !fs::exists(INITRD_RELEASE).unwrap_or(false) {
        return Ok(());
    }
    let path = runtime_rules(&record.reference);
    fs::create_dir_all(RUNTIME_RULES)
        .and_then(|()| fs::write(&path, rules_text(record)))
        .map_err(|source| OperationError::system("writing the rules", &path, source))
}

/// Takes the rules of [`write_runtime_rules`] away; those that are gone are gone.
pub(in crate::operation) fn remove_runtime_rules(reference: &str) -> Result<(), OperationError> {
    let path = runtime_rules(reference);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(OperationError::system("removing the rules", &path, source))
        }
        _ => Ok(()),
    }
}

/// Named by the reference as it is, like the record: encoded, it may be longer than a file name.
fn runtime_rules(reference: &str) -> PathBuf {
    Path::new(RUNTIME_RULES).join(format!("59-ddictl-attachment-{reference}.rules"))
}

fn rules_text(record: &Record) -> String {
    let mut text = format!(
        "# Made by ddictl for the attachment '{}': removed when it is detached.\n",
        LoopReference::observed(record.reference.as_bytes()).map(|name| name.encode()).unwrap_or_default()
    );
    for device in &record.devices {
        text.push_str(&device_rules(record, device));
    }
    text
}

/// The rules for one device and what it stands on. No word in them comes from the image but through types that admit no
/// quotation mark, no blank and nothing that udev would substitute.
fn device_rules(record: &Record, device: &RecordedDevice) -> String {
    let mut text = String::new();
    let nodes = device.loops.iter().map(|below| (&below.path, below.disk_sequence));
    let nodes = nodes.chain(device.mappers.iter().map(|mapper| (&mapper.path, mapper.disk_sequence)));
    let top = (&device.path, device.disk_sequence);
    for (path, sequence) in nodes {
        let kernel_name = path.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        let (Some(kernel_name), Some(disk_sequence)) = (kernel_name, sequence) else {
            continue;
        };
        let matching = format!(
            "ACTION!=\"remove\", SUBSYSTEM==\"block\", KERNEL==\"{kernel_name}\", ATTR{{diskseq}}==\"{disk_sequence}\""
        );
        let ours = "ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}=\"1\", ENV{DM_UDEV_DISABLE_DISK_RULES_FLAG}=\"1\"";
        if (path, sequence) != top {
            text.push_str(&format!(
                "{matching}, {ours}, ENV{{SYSTEMD_READY}}=\"0\", OPTIONS+=\"db_persist\"\n"
            ));
            continue;
        }
        let usage = device.file_system.as_ref().map_or("other", |_| "filesystem");
        text.push_str(&format!(
            "{matching}, {ours}, ENV{{SYSTEMD_READY}}=\"1\", ENV{{ID_FS_USAGE}}=\"{usage}\", \
             ENV{{DM_UDEV_PRIMARY_SOURCE_FLAG}}=\"1\", ENV{{DM_UDEV_DISABLE_OTHER_RULES_FLAG}}=\"\", \
             OPTIONS+=\"link_priority=100\", OPTIONS+=\"db_persist\"\n"
        ));
        let Links { everywhere, in_initrd } = links_of(record, device).unwrap_or_default();
        let mapper = device.mappers.last().map(|mapper| format!("mapper/{}", mapper.name));
        for link in everywhere.iter().chain(&in_initrd).chain(&mapper) {
            text.push_str(&format!("{matching}, SYMLINK+=\"{link}\"\n"));
        }
    }
    text
}
