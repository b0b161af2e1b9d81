//! What shows in an encrypted partition once it is unlocked, and what the policy says of that.

use crate::format::designator::Designator;
use crate::format::superblock::{FileSystem, Superblock, SuperblockChecksum, SuperblockKind};
use crate::format::units::{ByteLength, PartitionNumber};

use super::finding::{Finding, Rule, printable};
use super::plan::{Refusal, policy_finding};
use super::policy::{Found, FoundFileSystem, Protection, Use};
use super::presets::RequestedPolicy;

/// A partition that was planned while its content was hidden.
#[derive(Debug, Clone, Copy)]
pub struct LockedPartition {
    /// The table entry; `None` for an image without a table.
    pub number: Option<PartitionNumber>,
    /// What it is for.
    pub designator: Designator,
    /// How it is protected, as the policy was asked about it: with `Signed` or `Verity` for LUKS on top of dm-verity.
    pub protection: Protection,
    /// Its read-only flag.
    pub read_only: bool,
    /// Its grow-file-system flag.
    pub growfs: bool,
}

/// Asks the policy again, now that the content shows: `superblocks` are all that were recognised in it, and `length`
/// is how long it is. `None` for swap space, which has no file system.
///
/// # Errors
/// [`Refusal`], in the policy's own words: the rule names other file systems; or the content is not acceptable under
/// any policy.
pub fn decide_unlocked(
    requested: &RequestedPolicy,
    partition: &LockedPartition,
    superblocks: &[Superblock],
    length: ByteLength,
) -> Result<Option<FileSystem>, Refusal> {
    let refuse = |findings| Err(Refusal { policy: requested.to_string(), findings });
    let finding = |rule, expected: String, found: String| {
        Finding::of_partition(rule, partition.number, expected, printable(&found))
    };
    let mut findings = Vec::new();
    let names: Vec<String> = superblocks.iter().map(|superblock| superblock.kind.to_string()).collect();
    let found = if names.is_empty() { "nothing that is known".to_owned() } else { names.join(" and ") };
    let superblock = match superblocks {
        [one] => Some(one),
        [] => None,
        _ => {
            findings.push(finding(Rule::SeveralSuperblocks, "one superblock".to_owned(), found.clone()));
            None
        }
    };
    let file_system = superblock.and_then(|superblock| superblock.kind.file_system());
    let swap = partition.designator == Designator::Swap
        && superblock.is_some_and(|superblock| superblock.kind == SuperblockKind::Swap);
    let rule = requested.policy().rule(partition.designator);
    let decision = rule.decide(Some(Found {
        protection: partition.protection,
        read_only: partition.read_only,
        growfs: partition.growfs,
        file_system: file_system
            .map_or(FoundFileSystem::Unrecognised, |known| FoundFileSystem::Recognised(known.as_str())),
    }));
    match decision {
        Ok(Use::Used) => {}
        // The policy would rather not use it than use this: it has been planned, so this is a refusal.
        Ok(Use::Unused | Use::Absent) => findings.push(finding(
            Rule::PolicyFileSystem,
            format!("a file system that may be used (rule '{rule}')"),
            format!("{}: {found}", partition.designator),
        )),
        Err(refusal) => findings.push(policy_finding(partition.number, &refusal, String::new())),
    }
    // Nobody is to look for more in it than this program did: LUKS in LUKS, LVM and the like end here.
    if findings.is_empty() && file_system.is_none() && !swap {
        let expected = "a file system in the unlocked partition".to_owned();
        findings.push(finding(Rule::ContentUnknown, expected, found.clone()));
    }
    if superblock.is_some_and(|superblock| superblock.checksum == SuperblockChecksum::Invalid) {
        let expected = "a superblock that fits its checksum".to_owned();
        findings.push(finding(Rule::SuperblockChecksum, expected, found.clone()));
    }
    if let Some(size) = superblock.and_then(|superblock| superblock.size).filter(|size| *size > length) {
        let expected = format!("at most {length} bytes, as the unlocked partition has");
        findings.push(finding(
            Rule::FileSystemLargerThanPartition,
            expected,
            format!("{found} of {size} bytes"),
        ));
    }
    if findings.is_empty() { Ok(file_system) } else { refuse(findings) }
}

#[cfg(test)]
mod tests {
    use crate::format::superblock::Recovery;

    use super::*;

    fn requested(text: &str) -> RequestedPolicy {
        RequestedPolicy::as_written(text.parse().unwrap())
    }

    const HOME: LockedPartition = LockedPartition {
        number: None,
        designator: Designator::Home,
        protection: Protection::Encrypted,
        read_only: false,
        growfs: false,
    };

    fn superblock(kind: SuperblockKind) -> Superblock {
        Superblock {
            kind,
            size: Some(ByteLength::new(4096)),
            checksum: SuperblockChecksum::Valid,
            recovery: Recovery::NotNeeded,
        }
    }

    fn ext4() -> Superblock {
        superblock(SuperblockKind::FileSystem(FileSystem::Ext4))
    }

    fn rules(policy: &str, partition: &LockedPartition, superblocks: &[Superblock]) -> Vec<Rule> {
        let length = ByteLength::new(1 << 20);
        let refusal = decide_unlocked(&requested(policy), partition, superblocks, length).unwrap_err();
        refusal.findings.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_file_system_that_the_policy_names_is_accepted() {
        let length = ByteLength::new(4096);
        for policy in ["home=encrypted", "home=encrypted+ext4", "*"] {
            let decided = decide_unlocked(&requested(policy), &HOME, &[ext4()], length);
            assert_eq!(decided.ok(), Some(Some(FileSystem::Ext4)), "{policy}");
        }
        let swap = LockedPartition { designator: Designator::Swap, ..HOME };
        let decided = decide_unlocked(&requested("*"), &swap, &[superblock(SuperblockKind::Swap)], length);
        assert_eq!(decided.ok(), Some(None));
    }

    #[test]
    fn a_file_system_that_the_policy_does_not_name_is_refused_once_it_shows() {
        assert_eq!(rules("home=encrypted+xfs", &HOME, &[ext4()]), [Rule::PolicyFileSystem]);
        assert_eq!(rules("home=encrypted+xfs+unused", &HOME, &[ext4()]), [Rule::PolicyFileSystem]);
        assert_eq!(rules("home=encrypted+xfs", &HOME, &[]), [Rule::PolicyFileSystem]);
        assert_eq!(rules("home=signed", &HOME, &[ext4()]), [Rule::PolicyState]);
        let verity = LockedPartition { designator: Designator::Root, protection: Protection::Signed, ..HOME };
        assert_eq!(rules("root=signed+xfs", &verity, &[ext4()]), [Rule::PolicyFileSystem]);
    }

    #[test]
    fn what_is_no_file_system_is_refused_under_every_policy() {
        for (superblocks, expected) in [
            (vec![], Rule::ContentUnknown),
            (vec![superblock(SuperblockKind::Swap)], Rule::ContentUnknown),
            (vec![superblock(SuperblockKind::VerityHash)], Rule::ContentUnknown),
            (vec![ext4(), superblock(SuperblockKind::Swap)], Rule::SeveralSuperblocks),
            (vec![Superblock { checksum: SuperblockChecksum::Invalid, ..ext4() }], Rule::SuperblockChecksum),
            (
                vec![Superblock { size: Some(ByteLength::new(2 << 20)), ..ext4() }],
                Rule::FileSystemLargerThanPartition,
            ),
        ] {
            assert_eq!(rules("*", &HOME, &superblocks), [expected]);
        }
    }
}
