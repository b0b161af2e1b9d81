//! What each rule means: why it matters, and what systemd makes of such an image where that was measured. The manual page
//! `ddictl.findings(7)`, `ddictl audit --explain` and reports are made from this and from the table of the rules.

use super::{Finding, Rule};

impl Rule {
    /// The rule with this code, in upper or lower case.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.code().eq_ignore_ascii_case(code))
    }

    /// What is behind the rule, in whole sentences.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::NothingRecognised => {
                "Neither end of the image holds a GUID partition table, and no known file system begins at its first byte. Compressed images look like this, and files that are no images."
            }
            Self::MbrTable => {
                "An MBR has numbers for types that say nothing about the purpose of a partition, and no names or UUIDs. Which partition is the root would be a guess."
            }
            Self::TableInvalid => {
                "Neither the table at the beginning nor its copy in the last block is valid in every field and checksum, or there is no protective MBR in front. Images that were cut off and images that were tampered with look like this."
            }
            Self::TableCopiesDiffer => {
                "Both copies have a correct checksum, and they describe different partitions. Whoever reads the first copy and whoever reads the second see different images, so that one may be checked and the other used."
            }
            Self::TableCopyDamaged => {
                "The table is usable, but one of its two copies is not: the image was cut off, grown or damaged. Nobody can compare the copies with each other any more."
            }
            Self::SeveralSectorSizes => {
                "The image holds valid tables for different sizes of sectors. Which of them counts depends on the device that it is copied to, or on the options of a loop device."
            }
            Self::PartitionReversed => {
                "The last block of the partition lies before its first. No tool makes this; some compute an enormous size from it."
            }
            Self::PartitionOutOfRange => {
                "The partition reaches beyond the image, or into the blocks that the table keeps for itself. What would be read there is not part of the image."
            }
            Self::PartitionsOverlap => {
                "Bytes belong to two partitions at once. What is written to one changes the other, even after the other was checked, and a signed partition can be given a second, unsigned meaning."
            }
            Self::DuplicatePartitionUuid => {
                "Links such as /dev/disk/by-partuuid would lead to one of them, and nobody can say to which. Images with two slots that hold the same version look like this: the second slot needs UUIDs of its own until it is filled."
            }
            Self::ZeroPartitionUuid => {
                "A UUID of zeros names nothing, and every tool treats it in its own way."
            }
            Self::SuperblockBeforeTable => {
                "The image is two things at once: a file system or encrypted volume from its first byte on, and a disk with partitions. A policy may be checked on the one and the other be used."
            }
            Self::ForeignSuperblockInImage => {
                "Outside the partitions lies something that a scan of the whole disk would recognise: a RAID or LVM member, or an old file system. Attached as one disk, the image could be claimed for it."
            }
            Self::TooManyPartitions => {
                "A table may have thousands of entries, each of which would cost memory and a device. Images need a few."
            }
            Self::ImageTooShort => {
                "Something that the image describes lies behind its end. It was cut off, or its size was changed while it was read."
            }
            Self::HybridMbr => {
                "Beside the entry that protects the GUID table, the MBR has partitions of its own. Firmware and old systems read those, and so see other partitions than were checked."
            }
            Self::TooMuchToRead => {
                "Signatures and encryption headers are read before anything is decided, and they claim to be larger than any tool makes them. Reading them would cost memory that the image's author chooses."
            }
            Self::WritableOverlap => {
                "A partition that may be written to reaches over a file system, hash tree or table that belongs to something else. Writing would change bytes that were checked as that."
            }
            Self::SeveralSuperblocks => {
                "The partition holds the signs of several file systems. Which of them is mounted depends on the order in which a tool looks. Remains of an earlier file system look the same as an attack."
            }
            Self::ContentUnknown => {
                "Nothing that a policy can name was recognised. The partition may be empty, or hold a file system that images do not use."
            }
            Self::EspNotVfat => {
                "Nobody authenticates an EFI system partition or extended boot loader partition, and the kernel parses it. So nothing but a vfat with a consistent boot sector may pass for one: any other file system would give whoever altered the image a choice of kernel drivers."
            }
            Self::FileSystemLargerThanPartition => {
                "The file system says that it is larger than the place where it lies. It was cut off, and mounting it fails now or when a file is read."
            }
            Self::LuksInvalid => {
                "The header contradicts itself, its copies differ, or its areas lie outside the volume. Programs that open such volumes have been attacked through it."
            }
            Self::LuksNullCipher => {
                "The volume is marked as encrypted, and its cipher is none: everything in it can be read and altered. A policy that demands encryption would be satisfied by its name alone."
            }
            Self::ForeignArchitecture => {
                "The type of the partition names another processor architecture than this machine's. Used as the root it does not start; its presence shows that this is not the image that was meant."
            }
            Self::SeveralCandidates => {
                "Several partitions would do for one purpose, as in images with an A and a B slot. The one for this architecture with the newest label is used; a dissector with another order would use another one, which may be signed differently or not at all."
            }
            Self::SetAside => {
                "The label or an attribute says that the partition is not to be used: an empty slot (_empty), an update that is not complete (PRT#) or not yet released (PND#), or one that is hidden from discovery."
            }
            Self::UnknownAttributes => {
                "The entry has attribute bits that neither UEFI nor the specification of discoverable partitions defines for its type. They have no effect here; a later tool may give them one."
            }
            Self::LuksExternalToken => {
                "The header names a token that a plug-in of libcryptsetup would handle. The image would choose which code is loaded, with the rights of whoever opens it."
            }
            Self::LuksMemory => {
                "The key derivation asks for more memory or time than any real volume, and trying a passphrase would bring the machine to a standstill before anything is verified."
            }
            Self::SuperblockChecksum => {
                "The superblock has a checksum that does not fit. The image was damaged, or was edited by something that does not know the file system."
            }
            Self::VerifiedNeedsRecovery => {
                "The file system was copied while it was mounted, and has a log to replay. The hash tree covers it as it is, so that nobody can replay the log: it would be mounted in an inconsistent state for ever."
            }
            Self::NeedsRecovery => {
                "The file system was copied while it was mounted. Writable it is repaired at its first mount, by a part of the kernel that then works on data which nobody checked; read-only it is used as of some time before."
            }
            Self::LuksUnsupported => {
                "The volume is in the middle of being encrypted again, or demands something that is not supported. Opening it would fail, or change it."
            }
            Self::SpaceWasted => {
                "More than half of the partition, and at least 64 MiB, lies behind the end of its contents. It costs memory and bandwidth, and bytes there belong to nothing that anybody checks."
            }
            Self::VerifiedWritable => {
                "A hash tree holds for data that never changes. Whoever uses the partition without the tree may mount it writable, and after the first write it verifies no more."
            }
            Self::VeritySuperblockInvalid => {
                "The hash partition does not begin with a dm-verity superblock of the one version, type and kind of digest that are accepted, with sane sizes. Without it nobody can say what is covered, and the data partition protects nothing."
            }
            Self::HashTreeOutside => {
                "The tree that the superblock describes does not lie within its partition. Some blocks could not be verified."
            }
            Self::DataBlocksOutside => {
                "The superblock covers more blocks than the data partition has. The rest would be taken from somewhere else, or reading fails."
            }
            Self::DataUuidMismatch => {
                "A data partition carries the first half of its root hash as its UUID, by which it is found. Here they differ: the partition belongs to another hash tree."
            }
            Self::HashUuidMismatch => {
                "A hash partition carries the second half of its root hash as its UUID, by which it is found. Here they differ: the tree belongs to other data."
            }
            Self::HashWithoutData => {
                "There is a hash tree or a signature, and nothing that it belongs to. The data partition was removed, renamed or given another type, which would take its protection away."
            }
            Self::SignatureWithoutHash => {
                "The signature signs the root hash of a tree that is not there. Nothing could be verified with it."
            }
            Self::DigestLengthMismatch => {
                "A root hash is one digest of the tree's kind, and this one has another length. It was made for another tree."
            }
            Self::BlockSmallerThanSector => {
                "The device would have to read parts of sectors. The kernel refuses such a tree."
            }
            Self::FileSystemLargerThanHashedArea => {
                "A part of the file system lies behind the last block that the hash tree covers. What is there can be altered without any sign."
            }
            Self::HashedAreaWithoutFileSystem => {
                "What the hash tree covers holds no file system that a policy can name. It would be verified and then not be usable, or be taken for something unexpected."
            }
            Self::RootHashUnknown => {
                "Neither a signature nor the partition UUIDs, nor anything that was given, tells which root hash the tree must have. It could be anybody's tree."
            }
            Self::DataCorrupt => {
                "Blocks of the data partition do not have the digests that the authenticated hash tree has for them. A bit flipped somewhere, or somebody altered the data after it was hashed."
            }
            Self::HashTreeCorrupt => {
                "The digests in the tree do not add up to the root hash. The tree was damaged or altered, and verifies nothing."
            }
            Self::NoHashTree => {
                "Verification of all data was asked for, and the image has nothing to verify it with."
            }
            Self::NothingToProve => {
                "A root hash or signature lies beside the image or was given, which shows that the image is meant to be verified, and there is no hash tree. It was lost or taken away."
            }
            Self::HashTreeFileUnused => {
                "A file with a hash tree belongs to an image that is a single file system. This image has a partition table, and so the file protects nothing in it."
            }
            Self::SignaturePartitionInvalid => {
                "A signature partition holds one JSON object with the root hash and its signature, and NUL bytes behind it. Whatever differs could be read in one way here and in another one elsewhere."
            }
            Self::SignatureOfAnother => {
                "The signature partition names another root hash than that of the image. It was copied from another image; a signature of something says nothing about this."
            }
            Self::FingerprintMismatch => {
                "The signature partition says by its fingerprint which certificate signed, and the signature is by another one. Somebody put them together."
            }
            Self::SignerUntrusted => {
                "The signature may be good, but none of the trusted certificates made it. For those who do not know the signer it is worth as much as none."
            }
            Self::SignatureInvalid => {
                "The signature is damaged, or it was made for something else, or the image was altered."
            }
            Self::SignatureWeak => {
                "With digests such as SHA-1 and MD5, or short RSA keys, a second image with the same signature can be made. The signature does not count."
            }
            Self::SignerExpired => {
                "The certificate was to be used until a day that has passed. Whoever holds its key may no longer guard it."
            }
            Self::SignerNotYetValid => {
                "The certificate is to be used from a day on that has not come. Most often the clock of this machine is wrong."
            }
            Self::NoTrustAnchors => {
                "The image is signed, and this machine knows no certificate to check that with. The image counts as not signed."
            }
            Self::RootHashMismatch => {
                "The caller knows the root hash that the image must have, and it has another one. It is another image, however well it may be signed."
            }
            Self::SignatureRefusedByKernel => {
                "The kernel checks signatures by its own keyrings, and refused this one. Nothing is tried again without the signature."
            }
            Self::RootHashFileInvalid => {
                "A file that has the image's name and ends in .roothash or .usrhash must hold one root hash. This one holds something else, and leaving it aside could take protection away."
            }
            Self::RootHashFileMismatch => {
                "The root hash in the file beside the image does not belong to any partition of it. Image and file are of different versions, or one of them was replaced."
            }
            Self::RootHashRevoked => {
                "A rule in trust.d takes trust back from this root hash. A signature holds for ever, so that an image with a known hole could be presented again; this is what prevents it."
            }
            Self::SignerRevoked => {
                "A rule in trust.d takes trust back from the certificate, because its key was lost or its owner is not trusted any more. What it signed counts as not signed."
            }
            Self::SignerPurpose => {
                "A rule in trust.d says which classes and names of images the certificate may sign, and this image is none of them. A signature covers neither class nor name, so that without such a rule an extension could be presented as a root."
            }
            Self::PolicyState => {
                "Each partition has exactly one state, found from its content: unprotected, verity, signed, encrypted, or encrypted with integrity. The policy does not list the one that this partition has. Of several states in a rule the weakest is enough."
            }
            Self::PolicyAbsent => {
                "The rule has neither 'absent' nor 'unused', so the partition must be there. A policy that demands a hash tree or signature refuses an image from which it was removed."
            }
            Self::NoRootOrUsr => {
                "An image for booting or extending a system has a root or a usr partition that is verified and used. This one has neither, or the policy leaves both unused."
            }
            Self::ExposedUnauthenticated => {
                "Under policies for verified use nothing appears whose content nobody vouches for: neither a partition without a hash tree, nor one whose root hash is neither signed nor given."
            }
            Self::PolicyAttribute => {
                "The policy says whether a partition must be read-only, or grow, and the partition's attributes say otherwise."
            }
            Self::PolicyFileSystem => {
                "A policy that names file systems allows just those, because each is a parser in the kernel that the image's content reaches. The partition holds another one."
            }
            Self::PartitionRole => {
                "The kernel command line names a partition as the root or usr file system, by its number or designator, and another partition has that role here, or none. Nothing signs the numbers of partitions: whoever moves them could have a partition used as root that was never meant to be one."
            }
            Self::UkiMalformed => {
                "The file begins as a PE file, and its headers lead outside of it, or it has no section .linux, or two command lines where one counts. What would be booted depends on who reads it."
            }
            Self::UkiWithoutCommandLine => {
                "A unified kernel image without a section .cmdline takes its command line from whoever starts it: a boot menu, the firmware, or the server that it was booted from. Its signature then says nothing about what is booted."
            }
            Self::BootMistake => {
                "A pull expression, a root hash or a policy on the command line is not understood, or no image could satisfy what is asked. An initrd with ddictl stops with the reason; systemd's own tools warn, and go on without what was meant."
            }
            Self::BootUnauthenticated => {
                "An image is pulled at boot under a policy that takes it without a signature, and nobody vouches for the download. Whoever answers for the server, or sits between, decides which programs run on the machine. A certificate of https only says who that is."
            }
            Self::BootReplayable => {
                "The image must be signed, but a signature covers neither version nor name, and holds as long as its certificate is trusted. Somebody on the network can answer with any image that was ever signed by a trusted certificate, an old one with known holes as well, unless trust.d revokes or limits it."
            }
            Self::BootPinned => {
                "The command line names the digest of the download or the root hash of the file system. No other image is booted, whoever answers and whoever signs."
            }
            Self::BootRootUnverified => {
                "The root file system is on a device of the machine, and neither a root hash nor a policy says what must be on it. Nothing on the network decides what is booted, but whoever can write to the device does."
            }
            Self::BootRootNotPulled => {
                "root= names a device below /dev/disk/by-loop-ref that would come of an image with this name, and no pull makes devices of such an image. The boot waits for it in vain, or takes the device of somebody else who gives a loop device this name."
            }
            Self::BootPolicyHole => {
                "The policy lists alternatives of which the weakest holds, or words that silently allow everything, or nothing can satisfy it. Whoever makes the image chooses among the alternatives."
            }
            Self::BootInClear => {
                "Everybody on the way sees which image is booted, and can hold it back or slow it down. What is verified does not depend on how it came."
            }
            Self::BootPartitionDamaged => {
                "Files of an EFI system partition or XBOOTLDR are chained in a way that makes no sense: a chain that comes back to itself, that two files share, that leads out of the file system or ends too early; or there are more of them than are looked at. Firmware, boot menu and kernel may each read something else there, and what the image boots is not known in full."
            }
            Self::BootOtherRootHash => {
                "The command line of a unified kernel image in the image, or of a boot entry, names a root hash that belongs to none of the hash trees in the same image. Booted from this image it finds no root file system, or one on another disk."
            }
            Self::BootEntryUnsigned => {
                "A boot entry of type 1 names kernel, initrd and command line as files and text of the partition. Secure Boot looks at the kernel alone, so that whoever can write to the partition decides what is verified after it. With uki-url the unified kernel image comes from a server, and nothing but Secure Boot says which one is started."
            }
            Self::BootPartitionUnread => {
                "An image on a server has an EFI system partition or XBOOTLDR, in which there may be unified kernel images. Finding and reading them takes some requests for each, which an audit does only when it is asked to."
            }
        }
    }

    /// What systemd makes of an image with such a finding, where it was measured (`tests/guest/systemd`) that it goes on
    /// where we do not.
    #[must_use]
    pub const fn systemd(self) -> Option<&'static str> {
        match self {
            Self::MbrTable => Some(
                "systemd 262 accepts this where the policy allows an unprotected root and one partition of type 0x83 is \
                 active: it takes that for the root",
            ),
            Self::TableCopyDamaged => Some(
                "systemd 262 accepts this without a word where the sectors have 512 bytes or the first copy still has the \
                 signature of one",
            ),
            Self::SeveralSectorSizes => Some(
                "systemd 262 accepts this where no more than one of the tables stands at the beginning of the image",
            ),
            Self::TableCopiesDiffer
            | Self::DuplicatePartitionUuid
            | Self::ZeroPartitionUuid
            | Self::TooManyPartitions
            | Self::HybridMbr => Some(VALIDATES),
            Self::PartitionOutOfRange => {
                Some("systemd 262 accepts this where the policy can do without the partition: it is left out")
            }
            Self::SuperblockBeforeTable => Some(
                "systemd 262 accepts this where the policy allows an unprotected root: it takes the image for one file \
                 system, where the kernel sees partitions",
            ),
            Self::PartitionsOverlap => Some("systemd 262 accepts this, and mounts both"),
            Self::EspNotVfat => Some("systemd 262 accepts this: it does not look into the partition"),
            Self::ForeignArchitecture => Some("systemd 262 accepts this where there is no other"),
            Self::SetAside => {
                Some("systemd 262 knows only the label _empty, and uses partitions labelled PRT# or PND#")
            }
            Self::SignaturePartitionInvalid | Self::VeritySuperblockInvalid => Some(
                "systemd-dissect 262 --validate accepts this as signed: it looks only whether the partitions are there",
            ),
            Self::FingerprintMismatch => {
                Some("systemd 262 accepts this: it does not look at the fingerprint")
            }
            Self::SignerUntrusted => {
                Some("systemd 262 accepts this where the policy allows verity beside signed, without a word")
            }
            Self::SignerExpired => {
                Some("systemd 262 accepts this: it does not look at the dates of certificates")
            }
            Self::RootHashRevoked | Self::SignerRevoked | Self::SignerPurpose => {
                Some("systemd 262 accepts this: it knows neither revocation nor purposes")
            }
            Self::PartitionRole => Some(
                "systemd 262 accepts this: it mounts whichever partition has the number that root= names",
            ),
            Self::BootReplayable => Some(
                "systemd's own import generator asks no policy of what becomes root, and boots an image by any signer: mask it",
            ),
            Self::BootMistake => {
                Some("systemd 262 warns of a pull that it does not understand, and boots without it")
            }
            Self::PolicyFileSystem => Some(
                "systemd 262 accepts this: one file system in a policy replaces the look into the partition, and several \
                 restrict nothing",
            ),
            _ => None,
        }
    }
}

/// What is said of a refused image that passes there, where nothing more precise is known.
const VALIDATES: &str = "systemd-dissect 262 --validate accepts this";

impl Finding {
    /// What systemd would make of the image, where it was measured that it goes on.
    #[must_use]
    pub fn systemd(&self) -> Option<&'static str> {
        self.rule.systemd().or(self.validates_elsewhere.then_some(VALIDATES))
    }

    /// What can be done, and what systemd would make of it where that differs.
    #[must_use]
    pub fn advice(&self) -> String {
        match self.systemd() {
            Some(systemd) => format!("{}; {systemd}", self.rule.remedy()),
            None => self.rule.remedy().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_explained_in_whole_sentences() {
        for rule in Rule::ALL {
            let text = rule.explanation();
            assert!(text.ends_with('.') && text.len() > 60, "{rule}: {text}");
            assert!(text.is_ascii() && !text.contains("  ") && !text.contains('\\'), "{rule}: {text}");
            assert!(
                rule.systemd().is_none_or(|text| text.starts_with("systemd") && !text.ends_with('.')),
                "{rule}"
            );
        }
    }

    #[test]
    fn codes_lead_to_their_rules() {
        for rule in Rule::ALL {
            assert_eq!(Rule::of_code(rule.code()), Some(*rule));
        }
        assert_eq!(Rule::of_code("ddi0101"), Some(Rule::NothingRecognised));
        for code in ["", "DDI", "DDI9999", "0101"] {
            assert_eq!(Rule::of_code(code), None, "{code}");
        }
    }
}
