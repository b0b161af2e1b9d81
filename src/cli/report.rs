//! What is said of an image: the same values as JSON and as text.

use serde_json::{Value, json};

use crate::format::loop_reference::LoopReference;
use crate::format::superblock::Recovery;
use crate::format::verity::table::VerityHealth;
use crate::image::assessment::{Assessed, Assessment};
use crate::image::dissection::{Dissection, Layout, Partition, Standing, TreePlace, VeritySet};
use crate::image::finding::{Finding, Level, is_deceptive, printable};
use crate::image::plan::{ActivationPlan, PlannedDevice};
use crate::image::policy::Use;
use crate::image::whole_disk::WholeDiskPlan;
use crate::operation::list::Listed;
use crate::operation::record::Record;

use super::options::Json;
use super::table::{Table, human_size};

/// The partitions as `audit` and `dissect` print them.
pub(super) fn partitions_json(dissection: &Dissection, assessment: &Assessment, uses: &[Use]) -> Value {
    let each = dissection.partitions.iter().zip(&assessment.partitions).zip(uses);
    each.map(|((partition, assessed), decision)| partition_json(dissection, partition, assessed, *decision))
        .collect()
}

fn partition_json(
    dissection: &Dissection,
    partition: &Partition,
    assessed: &Assessed,
    decision: Use,
) -> Value {
    json!({
        "number": partition.number.map(|number| number.get()),
        "designator": partition.designator().map(|designator| designator.as_str()),
        "type_uuid": partition.type_uuid.map(|uuid| uuid.to_string()),
        "uuid": partition.uuid.map(|uuid| uuid.to_string()),
        "label": partition.type_uuid.map(|_| partition.label.to_text()),
        "architecture": partition.architecture().map(|architecture| architecture.as_str()),
        "offset": partition.extent.start().bytes(),
        "size": partition.extent.length().bytes(),
        "read_only": partition.attributes.read_only(),
        "growfs": partition.attributes.growfs(),
        "file_system": content_word(dissection, partition),
        "protection": assessed.protection.as_str(),
        "use": use_word(decision),
        "root_hash": assessed.root_hash.as_ref().map(ToString::to_string),
        "signer": assessed.signer(),
    })
}

/// What is in a partition, in the words of blkid and systemd.
fn content_word(dissection: &Dissection, partition: &Partition) -> Option<String> {
    let signs = |set: &VeritySet| set.signatures.iter().any(|(number, _)| partition.number == Some(*number));
    match partition.superblocks.as_slice() {
        [] if dissection.verity.iter().any(signs) => Some("verity_hash_signature".to_owned()),
        [] => None,
        several => Some(several.iter().map(|s| s.kind.as_str().to_owned()).collect::<Vec<_>>().join("+")),
    }
}

const fn use_word(decision: Use) -> &'static str {
    match decision {
        Use::Used => "used",
        Use::Unused | Use::Absent => "unused",
    }
}

/// The findings as `audit` prints them.
pub(super) fn findings_json(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let mut value = json!({
            "rule": finding.rule.code(),
            "level": finding.level.as_str(),
            "partition": finding.partition.map(|number| number.get()),
            "expected": finding.expected,
            "found": finding.found,
            "message": format!("{}; {}", finding.message(), finding.advice()),
        });
        if let (Some(place), Some(object)) = (&finding.place, value.as_object_mut()) {
            object.insert("file".to_owned(), json!(place.path));
        }
        if let (Some(reason), Some(object)) = (&finding.ignored, value.as_object_mut()) {
            object.insert("ignored".to_owned(), json!(reason));
        }
        value
    };
    findings.iter().map(one).collect()
}

/// The partitions as a table for people.
pub(super) fn partitions_text(
    dissection: &Dissection,
    assessment: &Assessment,
    uses: &[Use],
    legend: bool,
) -> String {
    let mut table = Table::new(
        ["NO", "DESIGNATOR", "ARCHITECTURE", "SIZE", "CONTENT", "PROTECTION", "USE", "LABEL", "UUID"],
        legend,
    );
    let mut details = String::new();
    for ((partition, assessed), decision) in
        dissection.partitions.iter().zip(&assessment.partitions).zip(uses)
    {
        let number = partition.number.map_or_else(String::new, |number| number.to_string());
        table.push([
            number.clone(),
            partition
                .designator()
                .map_or_else(|| partition.partition_type.name().unwrap_or_default(), |d| d.to_string()),
            partition.architecture().map_or_else(String::new, |architecture| architecture.to_string()),
            human_size(partition.extent.length().bytes()),
            content_word(dissection, partition).unwrap_or_default(),
            assessed.protection.as_str().to_owned(),
            use_word(*decision).to_owned(),
            printable(&partition.label.to_string()),
            partition.uuid.map_or_else(String::new, |uuid| uuid.to_string()),
        ]);
        let place = partition.number.map_or("image".to_owned(), |number| format!("partition {number}"));
        if let Some(root_hash) = &assessed.root_hash {
            details.push_str(&format!("{place}: root hash {root_hash}\n"));
            details.push_str(&format!("{place}: {}\n", authentication_text(assessed)));
        }
        if let Standing::Passed(reason) = partition.standing {
            details.push_str(&format!("{place}: not used: {}\n", reason.reason()));
        }
    }
    format!("{}{details}", table.render())
}

fn authentication_text(assessed: &Assessed) -> String {
    match &assessed.authenticated {
        Some(authenticated) => authenticated.by().to_string(),
        None => "nobody vouches for this root hash".to_owned(),
    }
}

/// How an image is divided, in one line.
pub(super) fn layout_text(dissection: &Dissection) -> String {
    let size = human_size(dissection.image_size.bytes());
    match &dissection.layout {
        Layout::Bare => format!("{size}, no partition table"),
        Layout::Table { disk_uuid, sector_size, .. } => {
            format!("{size}, GPT, sectors of {sector_size} bytes, disk {disk_uuid}")
        }
    }
}

/// The partitions for people, in what fits beside a verdict: a line each, and not too many.
pub(super) fn partitions_summary(
    dissection: &Dissection,
    assessment: &Assessment,
    uses: Option<&[Use]>,
) -> String {
    const MOST: usize = 12;
    let mut table = Table::default();
    let each = dissection.partitions.iter().zip(&assessment.partitions).enumerate();
    for (index, (partition, assessed)) in each.take(MOST) {
        let decision = uses.and_then(|uses| uses.get(index)).copied();
        let signer = assessed.signer().map(|signer| format!("by {signer}"));
        table.push([
            partition.number.map_or_else(|| "image".to_owned(), |number| number.to_string()),
            partition
                .designator()
                .map_or_else(|| partition.partition_type.name().unwrap_or_default(), |d| d.to_string()),
            human_size(partition.extent.length().bytes()),
            content_word(dissection, partition).unwrap_or_default(),
            decision.map_or("", use_word).to_owned(),
            [Some(assessed.protection.as_str().to_owned()), signer]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" "),
        ]);
    }
    let more = dissection.partitions.len().saturating_sub(MOST);
    let rest = if more == 0 { String::new() } else { format!("and {more} partition(s) more\n") };
    format!("{}{rest}", table.render())
}

/// A sentence of ours with words of an image in it, on one line. Each of those words has its limit already; to cut the
/// sentence would cut what was found.
pub(super) fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if is_deceptive(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// A plan, for people.
fn plan_text(reference: &str, plan: &ActivationPlan) -> String {
    let mut text = format!(
        "plan for '{reference}' under policy '{}': {} device(s) of an image of {}\n",
        plan.policy,
        plan.devices.len(),
        human_size(plan.image_size.bytes())
    );
    for device in &plan.devices {
        let links = match device.number {
            Some(number) => format!("{reference}-part{number}, {reference}-{}", device.designator),
            None => reference.to_owned(),
        };
        let file_system =
            device.file_system.map_or("no known file system", |file_system| file_system.as_str());
        text.push_str(&format!(
            "  {}: {} of {}, {}, {file_system}, {}{}\n    links below /dev/disk/by-loop-ref: {links}\n",
            device.designator,
            device.extent,
            human_size(plan.image_size.bytes()),
            device.protection.as_str(),
            access_text(device),
            recovery_text(device),
        ));
        if let Some(verity) = &device.verity {
            let tree = match verity.set.hash {
                TreePlace::Partition(_) => "",
                TreePlace::Beside => ", by the hash tree beside the image",
            };
            text.push_str(&format!("    root hash {}{tree}\n", verity.set.root_hash));
            let by = verity
                .authenticated
                .as_ref()
                .map_or("nobody vouches for it".to_owned(), |a| a.by().to_string());
            text.push_str(&format!("    {by}\n"));
        }
    }
    for finding in plan.findings.iter().filter(|finding| finding.level != Level::Note) {
        text.push_str(&format!("  {} {}: {}\n", finding.rule, finding.level, escaped(&finding.message())));
    }
    text.push_str("  everything else in the image stays invisible\n");
    text
}

/// Whether a device may be written to, in words.
const fn access_text(device: &PlannedDevice) -> &'static str {
    match (device.read_only, device.growfs) {
        (true, _) => "read-only",
        (false, false) => "writable",
        (false, true) => "writable and to be grown",
    }
}

/// Whether a device's file system needs recovery, where that is known, and what follows.
fn recovery_text(device: &PlannedDevice) -> &'static str {
    match (device.recovery, device.read_only) {
        (Recovery::Needed, true) => ", needs recovery: to be mounted without its log",
        (Recovery::Needed, false) => ", needs recovery at its first mount",
        (Recovery::NotNeeded | Recovery::Unknown, _) => "",
    }
}

/// A plan, for programs.
fn plan_json(reference: &str, plan: &ActivationPlan) -> Value {
    let devices: Vec<Value> = plan
        .devices
        .iter()
        .map(|device| {
            json!({
                "partition": device.number.map(|number| number.get()),
                "designator": device.designator.as_str(),
                "offset": device.extent.start().bytes(),
                "size": device.extent.length().bytes(),
                "read_only": device.read_only,
                "growfs": device.growfs,
                "recovery": device.recovery.as_str(),
                "protection": device.protection.as_str(),
                "file_system": device.file_system.map(|file_system| file_system.as_str()),
                "root_hash": device.verity.as_ref().map(|verity| verity.set.root_hash.to_string()),
                "signer": device.signer,
            })
        })
        .collect();
    json!({
        "reference": reference,
        "policy": plan.policy,
        "image_size": plan.image_size.bytes(),
        "sector_size": plan.sector_size.bytes(),
        "devices": devices,
        "findings": findings_json(&plan.findings),
    })
}

/// What was attached: the record, or the device paths alone.
pub(super) fn attached(json: Json, listed: &Listed) -> String {
    json.render(&listed_json(listed)).unwrap_or_else(|| paths_text(&listed.record))
}

/// What was unpacked: the record, or the path of the directory alone.
pub(super) fn unpacked(json: Json, record: &Record) -> String {
    let path = record.tree.as_ref().map(|tree| format!("{}\n", tree.path.display()));
    json.render(&record_json(record)).unwrap_or_else(|| path.unwrap_or_default())
}

/// What was placed as a file: the record, or the path of the file alone.
pub(super) fn placed(json: Json, record: &Record) -> String {
    let path = record.placed.as_ref().map(|placed| format!("{}\n", placed.path.display()));
    json.render(&record_json(record)).unwrap_or_else(|| path.unwrap_or_default())
}

/// What would be attached.
pub(super) fn planned(json: Json, reference: &LoopReference, plan: &ActivationPlan) -> String {
    let reference = reference.as_str();
    json.render(&plan_json(reference, plan)).unwrap_or_else(|| plan_text(reference, plan))
}

/// What would be attached of an image as a whole.
pub(super) fn planned_disk(json: Json, reference: &LoopReference, plan: &WholeDiskPlan) -> String {
    let partitions = plan.partitions.iter().map(|(number, extent)| {
        json!({ "partition": number.get(), "offset": extent.start().bytes(), "size": extent.length().bytes() })
    });
    let value = json!({
        "reference": reference.as_str(),
        "whole_disk": true,
        "offset": plan.extent.start().bytes(),
        "size": plan.extent.length().bytes(),
        "sector_size": plan.sector_size.bytes(),
        "read_only": plan.read_only.is_some(),
        "partitions": partitions.collect::<Vec<_>>(),
    });
    json.render(&value).unwrap_or_else(|| {
        let size = human_size(plan.extent.length().bytes());
        let access =
            plan.read_only.as_ref().map_or_else(|| "writable".to_owned(), |why| format!("read-only: {why}"));
        let mut text =
            format!("plan for '{reference}': one disk of {size}, nothing of it verified, {access}\n");
        for (number, extent) in &plan.partitions {
            text.push_str(&format!("  partition {number}: {extent}\n"));
        }
        text
    })
}

/// What would be attached, for programs.
pub(super) fn planned_json(reference: &LoopReference, plan: &ActivationPlan) -> Value {
    plan_json(reference.as_str(), plan)
}

/// The device paths of a record, one a line.
fn paths_text(record: &Record) -> String {
    let paths = record.devices.iter().filter_map(|device| device.path.as_ref());
    paths.map(|path| format!("{}\n", path.display())).collect()
}

/// A record, for programs.
pub(super) fn record_json(record: &Record) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

/// A record with what the kernel says of its devices now: `verity_status` of each.
pub(super) fn listed_json(listed: &Listed) -> Value {
    let mut value = record_json(&listed.record);
    let devices = value.get_mut("devices").and_then(Value::as_array_mut);
    for (device, health) in devices.into_iter().flatten().zip(&listed.health) {
        if let Some(device) = device.as_object_mut() {
            device.insert("verity_status".to_owned(), json!(health.map(VerityHealth::as_str)));
        }
    }
    value
}
