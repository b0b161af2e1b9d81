//! What is wrong with what lies in the partitions, and with the table that names them.

use crate::format::designator::{Designator, VerityRole};
use crate::format::gpt::{GptError, TableSource};
use crate::format::sparse::{SparseBytes, Window};
use crate::format::superblock::{FileSystem, ForeignKind, Superblock, SuperblockChecksum, SuperblockKind};
use crate::format::superblock::{LogExamination, Recovery, Vfat, XfsLog};
use crate::format::superblock::{Luks2Header, Luks2Metadata, LuksError, LuksHeader};
use crate::format::units::{ByteLength, Extent};

use super::dissection::{Dissection, Partition, PassedOver, Standing};
use super::finding::{Finding, Rule, printable};
use super::luks;
use super::survey::Malformed;

/// The finding that says what is wrong with a table.
pub(super) fn table_finding(error: &GptError) -> Finding {
    let (rule, number, expected) = match error {
        GptError::NotRead { .. } => (Rule::ImageTooShort, None, "the whole partition table"),
        GptError::MasterBootRecord => (Rule::MbrTable, None, "a GUID partition table"),
        GptError::NoProtectiveMbr | GptError::ProtectiveStart { .. } | GptError::NoValidCopy { .. } => {
            (Rule::TableInvalid, None, "a GUID partition table of which at least one copy is valid")
        }
        GptError::HybridMbr { .. } => (Rule::HybridMbr, None, "a protective MBR"),
        GptError::SectorSizeAmbiguous { .. } | GptError::OtherSectorSize { .. } => {
            (Rule::SeveralSectorSizes, None, "one table, for the sector size of the disk")
        }
        GptError::CopiesDiffer { .. } => (Rule::TableCopiesDiffer, None, "two copies that agree"),
        GptError::PartitionReversed { number, .. } => {
            (Rule::PartitionReversed, Some(*number), "a first block that is not behind the last")
        }
        GptError::PartitionOutOfRange { number, .. } => {
            (Rule::PartitionOutOfRange, Some(*number), "a partition within the usable blocks")
        }
        GptError::PartitionUuidZero { number } => (Rule::ZeroPartitionUuid, Some(*number), "a UUID"),
        GptError::PartitionsOverlap { second, .. } => {
            (Rule::PartitionsOverlap, Some(*second), "partitions apart from each other")
        }
        GptError::PartitionUuidDuplicate { second, .. } => {
            (Rule::DuplicatePartitionUuid, Some(*second), "a UUID of its own")
        }
    };
    Finding::of_partition(rule, number, expected, printable(&error.to_string()))
}

/// The finding for a table of which one copy is damaged or missing.
pub(super) fn source_finding(source: &TableSource) -> Option<Finding> {
    let found = match source {
        TableSource::Both => return None,
        TableSource::PrimaryOnly(reason) => format!("only the primary one; the backup: {reason}"),
        TableSource::BackupOnly(reason) => format!("only the backup; the primary one: {reason}"),
    };
    Some(Finding::of_image(Rule::TableCopyDamaged, "two valid copies that agree", printable(&found)))
}

/// What a scan of the whole disk would find beside the table.
///
/// Whatever other dissectors take for the contents of the whole image makes it ambiguous; what they do not, is only
/// worth a note, because nothing outside the planned partitions is ever exposed.
pub(super) fn findings_in_front(superblocks: &[Superblock]) -> Result<Vec<Finding>, Malformed> {
    let mut findings = Vec::new();
    for superblock in superblocks {
        let found = superblock.kind.to_string();
        match superblock.kind {
            SuperblockKind::Foreign(ForeignKind::Gpt) => {}
            SuperblockKind::FileSystem(_)
            | SuperblockKind::Luks(_)
            | SuperblockKind::MalformedLuks(_)
            | SuperblockKind::Swap => {
                return Err(Malformed::new(Rule::SuperblockBeforeTable, "a partition table alone", found));
            }
            SuperblockKind::VerityHash | SuperblockKind::Foreign(_) => {
                findings.push(Finding::of_image(
                    Rule::ForeignSuperblockInImage,
                    "a partition table alone",
                    found,
                ));
            }
        }
    }
    Ok(findings)
}

/// The LUKS metadata that has to be read to know how the volumes are encrypted that were chosen: up to 8 MiB each, which
/// no slot that is passed over is worth.
pub(super) fn luks_extents(partitions: &[Partition]) -> Vec<Extent> {
    let extents = |partition: &Partition| {
        let header = luks2_header(partition)?;
        let both = header.header_size.bytes().checked_mul(2)?;
        partition.extent.part(ByteLength::ZERO, ByteLength::new(both))
    };
    partitions.iter().filter_map(extents).collect()
}

fn luks2_header(partition: &Partition) -> Option<&Luks2Header> {
    let Standing::Chosen(designator) = partition.standing else {
        return None;
    };
    if matches!(designator.verity_role(), Some(VerityRole::Hash | VerityRole::Signature)) {
        return None;
    }
    partition.superblocks.iter().find_map(|superblock| match &superblock.kind {
        SuperblockKind::Luks(LuksHeader::Luks2(header)) => Some(header),
        _ => None,
    })
}

/// Reads the metadata of every chosen LUKS volume of version 2, if both copies of it are intact and the same: whoever opens
/// the volume later may read either.
pub(super) fn read_luks(partitions: &mut [Partition], bytes: &SparseBytes) -> Vec<Finding> {
    let mut findings = Vec::new();
    for partition in partitions {
        match luks2_header(partition)
            .map(|header| luks2_metadata(header, &Window::new(bytes, partition.extent)))
        {
            None => {}
            Some(Ok(metadata)) => partition.luks2 = Some(metadata),
            Some(Err(found)) => findings.push(Finding::of_partition(
                Rule::LuksInvalid,
                partition.number,
                "two intact copies of the LUKS metadata that agree",
                printable(&found.to_string()),
            )),
        }
    }
    findings
}

fn luks2_metadata(header: &Luks2Header, window: &Window<'_>) -> Result<Luks2Metadata, LuksError> {
    let length = header.header_size.bytes().checked_mul(2).and_then(|both| ByteLength::new(both).in_memory());
    let head = length.and_then(|length| window.get(0, length)).ok_or(LuksError::Truncated)?;
    header.metadata(head)
}

/// Looks into the log of every XFS that was chosen: only there stands whether it was unmounted. What has to be read first
/// is the result.
pub(super) fn examine_logs(dissection: &mut Dissection, bytes: &SparseBytes) -> Vec<Extent> {
    let mut wanted = Vec::new();
    let hashed: Vec<(Designator, Extent)> =
        dissection.verity.iter().map(|set| (set.designator, set.data_extent)).collect();
    for partition in &mut dissection.partitions {
        let Standing::Chosen(designator) = partition.standing else {
            continue;
        };
        let protected = hashed.iter().find(|(of, _)| *of == designator).map(|(_, extent)| *extent);
        let area = protected.unwrap_or(partition.extent);
        let window = Window::new(bytes, area);
        let is_xfs = |superblock: &&mut Superblock| superblock.kind.file_system() == Some(FileSystem::Xfs);
        for superblock in partition.superblocks.iter_mut().filter(is_xfs) {
            match XfsLog::find(&window).map(|log| log.examine(&window)) {
                None => {}
                Some(LogExamination::Known(recovery)) => superblock.recovery = recovery,
                Some(LogExamination::Wants(parts)) => wanted.extend(
                    parts
                        .into_iter()
                        .filter_map(|part| area.part(ByteLength::new(part.start().bytes()), part.length())),
                ),
            }
        }
    }
    wanted
}

/// Adds the findings about what lies in the partitions that were chosen, and notes about the others.
pub(super) fn check(dissection: &mut Dissection, bytes: &SparseBytes) {
    let mut findings = Vec::new();
    for partition in &dissection.partitions {
        findings.extend(check_attributes(partition));
        let Standing::Chosen(designator) = partition.standing else {
            continue;
        };
        if matches!(designator.verity_role(), Some(VerityRole::Hash | VerityRole::Signature)) {
            continue;
        }
        findings.extend(check_contents(dissection, partition, designator, bytes));
    }
    dissection.findings.append(&mut findings);
}

fn check_attributes(partition: &Partition) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Standing::Passed(
        reason
        @ (PassedOver::Empty | PassedOver::PartiallyWritten | PassedOver::Pending | PassedOver::NoAuto),
    ) = partition.standing
    {
        findings.push(Finding::of_partition(
            Rule::SetAside,
            partition.number,
            "a partition in use",
            reason.reason(),
        ));
    }
    let unknown = partition.attributes.unknown_bits();
    if unknown != 0 {
        findings.push(Finding::of_partition(
            Rule::UnknownAttributes,
            partition.number,
            "only attributes that are defined",
            format!("{unknown:#018x}"),
        ));
    }
    findings
}

/// How much room nobody speaks of.
const LEAST_WASTE: ByteLength = ByteLength::new(64 * 1024 * 1024);

fn check_contents(
    dissection: &Dissection,
    partition: &Partition,
    designator: Designator,
    bytes: &SparseBytes,
) -> Vec<Finding> {
    let number = partition.number;
    let hashed = dissection.verity_of(designator).map(|set| set.data_extent);
    let finding = |rule, expected: &str, found: String| Finding::of_partition(rule, number, expected, found);
    let mut findings = Vec::new();
    let found = list(&partition.superblocks);

    if matches!(designator, Designator::Esp | Designator::Xbootldr) {
        let others =
            partition.superblocks.iter().any(|s| s.kind != SuperblockKind::FileSystem(FileSystem::Vfat));
        match Vfat::parse(&Window::new(bytes, partition.extent)) {
            Ok(_) if others => findings.push(finding(Rule::EspNotVfat, "vfat and nothing else", found)),
            Ok(_) => {}
            Err(error) if partition.superblocks.is_empty() => {
                findings.push(finding(Rule::EspNotVfat, "vfat", printable(&error.to_string())));
            }
            Err(error) => {
                findings.push(finding(Rule::EspNotVfat, "vfat", printable(&format!("{found} ({error})"))));
            }
        }
        return findings;
    }
    let [superblock] = partition.superblocks.as_slice() else {
        if partition.superblocks.len() > 1 {
            findings.push(finding(Rule::SeveralSuperblocks, "one superblock", found));
        } else if hashed.is_some() {
            findings.push(finding(
                Rule::HashedAreaWithoutFileSystem,
                "a file system in the hashed area",
                "nothing that is known".to_owned(),
            ));
        } else if designator != Designator::Swap {
            findings.push(finding(Rule::ContentUnknown, "a file system", "nothing that is known".to_owned()));
        }
        return findings;
    };
    match &superblock.kind {
        SuperblockKind::FileSystem(_) => {}
        SuperblockKind::Luks(header) => {
            findings.extend(luks::findings(partition.number, header, partition.luks2.as_ref()))
        }
        SuperblockKind::MalformedLuks(error) => {
            findings.push(finding(
                Rule::LuksInvalid,
                "a LUKS header as the specification has it",
                error.to_string(),
            ));
        }
        SuperblockKind::Swap if designator == Designator::Swap => {}
        SuperblockKind::Swap | SuperblockKind::VerityHash | SuperblockKind::Foreign(_) => {
            let rule =
                if hashed.is_some() { Rule::HashedAreaWithoutFileSystem } else { Rule::ContentUnknown };
            findings.push(finding(rule, "a file system that policies know", found.clone()));
        }
    }
    if superblock.checksum == SuperblockChecksum::Invalid {
        findings.push(finding(
            Rule::SuperblockChecksum,
            "a superblock that fits its checksum",
            found.clone(),
        ));
    }
    if superblock.recovery == Recovery::Needed {
        let rule = if hashed.is_some() { Rule::VerifiedNeedsRecovery } else { Rule::NeedsRecovery };
        findings.push(finding(
            rule,
            "a file system that was unmounted",
            format!("{found} with a log to replay"),
        ));
    }
    if hashed.is_some() && partition.type_uuid.is_some() && !partition.attributes.read_only() {
        findings.push(finding(
            Rule::VerifiedWritable,
            "the read-only attribute",
            "a partition that may be written to".to_owned(),
        ));
    }
    let available = hashed.unwrap_or(partition.extent).length();
    let whole = partition.extent.length();
    let used = if hashed.is_some() { Some(available) } else { superblock.size };
    let wasted = used.and_then(|used| whole.bytes().checked_sub(used.bytes())).unwrap_or_default();
    let grows = partition.attributes.growfs() && hashed.is_none();
    if wasted >= LEAST_WASTE.bytes() && wasted > whole.bytes() / 2 && !grows {
        findings.push(finding(
            Rule::SpaceWasted,
            "a partition that its contents fill",
            format!("{wasted} of {whole} bytes behind their end"),
        ));
    }
    if let Some(size) = superblock.size.filter(|size| *size > available) {
        let (rule, place) = match hashed {
            Some(_) => (Rule::FileSystemLargerThanHashedArea, "the hashed area"),
            None => (Rule::FileSystemLargerThanPartition, "the partition"),
        };
        findings.push(finding(
            rule,
            &format!("at most {available} bytes, as {place} has"),
            format!("{found} of {size} bytes"),
        ));
    }
    findings
}

/// What was recognised, for a message.
fn list(superblocks: &[Superblock]) -> String {
    superblocks.iter().map(|superblock| superblock.kind.to_string()).collect::<Vec<_>>().join(" and ")
}
