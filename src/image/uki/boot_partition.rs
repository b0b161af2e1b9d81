//! Which files of a boot partition say what is booted, and what is to be said of them beside their command lines.

use crate::format::boot_entry::BootEntry;
use crate::format::designator::Designator;
use crate::format::fat::{FatLimits, FatPath, FatPattern, FatProblem};
use crate::format::guid::PartitionUuid;
use crate::format::root_hash::RootHash;
use crate::format::superblock::FileSystem;
use crate::format::units::ByteLength;
use crate::image::dissection::{Dissection, Layout, Partition};
use crate::image::finding::{Finding, Place, Rule, printable};

use super::command_line::root_hashes;

/// How many boot partitions of an image are looked into: nobody has more than an EFI system partition and an XBOOTLDR.
const MAXIMUM_PARTITIONS: usize = 4;

/// What a boot partition that lies in a file may cost.
pub const LIMITS: FatLimits = FatLimits { bytes: ByteLength::new(8 << 20), files: 256 };

/// What one on a server may cost, where each of its files is a request or two.
pub const REMOTE_LIMITS: FatLimits = FatLimits { bytes: ByteLength::new(2 << 20), files: 32 };

/// What a file of a boot partition is by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootFile {
    /// A unified kernel image (UAPI.1, type 2).
    UnifiedKernel,
    /// An EFI program, which may be one.
    Program,
    /// What a unified kernel image is started with as well (systemd-stub(7)).
    Addon,
    /// A boot entry (UAPI.1, type 1).
    Entry,
}

/// What is looked for; where several fit, the first counts.
const FILES: [(&str, BootFile); 5] = [
    ("/EFI/Linux/*.efi.extra.d/*.addon.efi", BootFile::Addon),
    ("/loader/addons/*.addon.efi", BootFile::Addon),
    ("/EFI/Linux/*.efi", BootFile::UnifiedKernel),
    ("/EFI/*/*.efi", BootFile::Program),
    ("/loader/entries/*.conf", BootFile::Entry),
];

/// The files that are looked for in every boot partition.
#[must_use]
pub fn patterns() -> Vec<FatPattern> {
    FILES.iter().map(|(pattern, _)| FatPattern::new(pattern)).collect()
}

impl BootFile {
    /// What a file is; `None` for one that is not looked for.
    #[must_use]
    pub fn of(path: &FatPath) -> Option<Self> {
        FILES.iter().find(|(pattern, _)| FatPattern::new(pattern).matches(path)).map(|(_, file)| *file)
    }
}

/// Whether an add-on is for the unified kernel image at `kernel`: for all of them, or for this one.
#[must_use]
pub fn addon_is_for(addon: &FatPath, kernel: &FatPath) -> bool {
    let directory = addon.parent().to_string();
    directory.eq_ignore_ascii_case("/loader/addons")
        || directory.eq_ignore_ascii_case(&format!("{kernel}.extra.d"))
}

/// Where firmware and boot menus look for what they start: the vfat partitions that are EFI system partitions or XBOOTLDR
/// by their type, whether anything here would use them or not; and an image that is a vfat and nothing else.
pub fn boot_partitions(dissection: &Dissection) -> impl Iterator<Item = &Partition> {
    let bare = dissection.layout == Layout::Bare;
    let is_boot = move |partition: &&Partition| {
        let designator = partition.partition_type.designator();
        (bare || matches!(designator, Some(Designator::Esp | Designator::Xbootldr)))
            && partition.file_system() == Some(FileSystem::Vfat)
    };
    dissection.partitions.iter().filter(is_boot).take(MAXIMUM_PARTITIONS)
}

/// Something about a file or directory in a partition.
#[must_use]
pub fn in_file(mut finding: Finding, partition: &Partition, path: &FatPath) -> Finding {
    finding.partition = partition.number;
    let path = printable(&path.to_string());
    finding.place = Some(Box::new(Place { designator: partition.partition_type.designator(), path }));
    finding
}

/// The finding about what is wrong with the file system of a boot partition.
#[must_use]
pub fn damaged(partition: &Partition, problem: &FatProblem) -> Finding {
    let found = printable(&problem.error.to_string());
    let finding = Finding::of_image(Rule::BootPartitionDamaged, "files that everybody reads alike", found);
    in_file(finding, partition, &problem.path)
}

/// The finding about a boot partition that is on a server.
#[must_use]
pub fn not_looked_into(partition: &Partition) -> Finding {
    let expected = "a look at what the image boots";
    let found = "none: it takes more requests than an audit of an image on a server sends by itself";
    Finding::of_partition(Rule::BootPartitionUnread, partition.number, expected, found)
}

/// What is to be said of a boot entry whatever its command line.
#[must_use]
pub fn lint_entry(entry: &BootEntry) -> Option<Finding> {
    let unsigned = |found: String| {
        let expected = "a unified kernel image, whose signature covers what is booted";
        Some(Finding::of_image(Rule::BootEntryUnsigned, expected, printable(&found)))
    };
    match entry {
        BootEntry { uki_url: Some(url), .. } => unsigned(format!("'uki-url' {url}")),
        BootEntry { linux: Some(path), .. } => unsigned(format!(
            "'linux' {path}: its initrd and its command line are whatever lies in the partition"
        )),
        BootEntry { efi: Some(path), options: Some(_), .. } => {
            unsigned(format!("'efi' {path} with 'options'"))
        }
        _ => None,
    }
}

/// The command line of a boot entry, where it is one that counts: a signed unified kernel image has its own.
#[must_use]
pub fn entry_command_line(entry: &BootEntry) -> Option<&str> {
    match (&entry.linux, &entry.options) {
        (_, Some(options)) => Some(options),
        (Some(_), None) => Some(""),
        (None, None) => None,
    }
}

/// Whether the root hashes on a kernel command line are those of the image that carries it, as far as it has hash trees.
#[must_use]
pub fn lint_root_hashes(command_line: &[u8], dissection: &Dissection) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (designator, hash) in root_hashes(command_line) {
        let trees: Vec<&RootHash> = dissection
            .verity
            .iter()
            .filter(|set| set.designator == designator)
            .map(|set| &set.root_hash)
            .collect();
        let Some(tree) = trees.first() else { continue };
        // Another version of the system may be in another pair of partitions.
        let has = |designator: Option<Designator>, uuid: PartitionUuid| {
            let is_it = |partition: &Partition| {
                designator.is_some()
                    && partition.partition_type.designator() == designator
                    && partition.uuid == Some(uuid)
            };
            dissection.partitions.iter().any(is_it)
        };
        let is_named = has(Some(designator), hash.data_partition_uuid())
            && has(designator.verity_hash(), hash.hash_partition_uuid());
        if trees.contains(&&hash) || is_named {
            continue;
        }
        let expected = format!("{designator} with root hash {tree}, which is in the image");
        let found = format!("{designator} with root hash {hash}");
        findings.push(Finding::of_image(Rule::BootOtherRootHash, expected, found));
    }
    findings
}
