//! What is remarkable about an image: every rule by a stable number, with its level and the way out.

use std::fmt;

use crate::format::designator::Designator;
use crate::format::units::PartitionNumber;

mod explanation;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Probably not what was meant.
    Warning,
    /// The partition, or the image, is not acceptable for use.
    Error,
}

impl Level {
    /// The word that reports use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $level:ident, $title:literal, $remedy:literal;)+) => {
        /// What was looked for. The codes are stable: a rule that goes is never numbered again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Rule {
            /// Every rule, by code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The level that a finding of this rule has.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)+ }
            }

            /// What is wrong, in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// What the reader can do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }
        }
    };
}

rules! {
    /// There is neither a partition table nor a file system.
    NothingRecognised = "DDI0101", Error, "neither a partition table nor a file system",
        "check that this is a disk image, and that it is not compressed or cut off";
    /// The image has only an MBR partition table.
    MbrTable = "DDI0102", Error, "an MBR partition table",
        "build the image with a GUID partition table: an MBR has no types that a policy could hold on to";
    /// No copy of the partition table is valid.
    TableInvalid = "DDI0103", Error, "no valid partition table",
        "download or build the image again: its table is damaged";
    /// Both copies of the table are valid, and they differ.
    TableCopiesDiffer = "DDI0104", Error, "two valid but different partition tables",
        "do not use this image: which table counts depends on who reads it; build it again";
    /// One copy of the table is damaged or missing.
    TableCopyDamaged = "DDI0105", Warning, "only one valid copy of the partition table",
        "build the image again, or repair the other copy (sgdisk --verify shows it)";
    /// Tables for several sector sizes.
    SeveralSectorSizes = "DDI0106", Error, "partition tables for several sector sizes",
        "do not use this image: what it contains depends on who reads it; build it again with one sector size";
    /// A partition that ends before it begins.
    PartitionReversed = "DDI0107", Error, "a partition that ends before it begins",
        "build the image again: its table is damaged or hostile";
    /// A partition outside the usable area of the disk.
    PartitionOutOfRange = "DDI0108", Error, "a partition outside the image or its usable area",
        "the image may be cut off: download it again; or build it again";
    /// Two partitions that share bytes.
    PartitionsOverlap = "DDI0109", Error, "overlapping partitions",
        "do not use this image: build it again with partitions apart from each other";
    /// Two partitions of one name.
    DuplicatePartitionUuid = "DDI0110", Error, "two partitions with the same UUID",
        "build the image again: links by UUID would point to either";
    /// A partition without a name.
    ZeroPartitionUuid = "DDI0111", Error, "a partition whose UUID is zero",
        "build the image again with a UUID for every partition";
    /// A file system or encrypted volume in front of the table.
    SuperblockBeforeTable = "DDI0112", Error, "a superblock in front of the partition table",
        "do not use this image: some tools read it as one file system and others as a partitioned disk";
    /// Something foreign that a scan of the whole disk would find.
    ForeignSuperblockInImage = "DDI0113", Note, "a foreign superblock outside the partitions",
        "nothing outside the planned partitions is ever exposed; zero it when the image is built";
    /// More partitions than anybody needs.
    TooManyPartitions = "DDI0114", Error, "too many partitions",
        "build the image with at most 128 partitions";
    /// Bytes outside of what may be read.
    ImageTooShort = "DDI0115", Error, "an image shorter than its contents",
        "the image may be cut off: download or copy it again";
    /// A hybrid MBR.
    HybridMbr = "DDI0116", Error, "an MBR with partitions of its own beside the protective one",
        "build the image with a plain protective MBR: the kernel and firmware may read either table";
    /// Signature partitions and LUKS headers that take more than may be read.
    TooMuchToRead = "DDI0117", Error, "more metadata than any image needs",
        "build the image with signature partitions and LUKS headers of the usual sizes";
    /// A device that may be written to, over bytes that are not its own.
    WritableOverlap = "DDI0118", Error, "a writable partition over bytes that are not its own",
        "do not use this image: build it again with partitions apart from each other, or attach it read-only";

    /// Several superblocks in one partition.
    SeveralSuperblocks = "DDI0201", Error, "several superblocks in one partition",
        "do not use this image: what the partition holds depends on who reads it; build it again on a zeroed file";
    /// Nothing known in a partition.
    ContentUnknown = "DDI0202", Warning, "no known file system in a partition",
        "use one of btrfs, erofs, ext4, f2fs, squashfs, vfat, xfs";
    /// A boot partition that is not a sane vfat.
    EspNotVfat = "DDI0203", Error, "a boot partition that is not a sane vfat",
        "format the ESP and XBOOTLDR partitions as vfat, or leave them unused in the policy (esp=unused+absent)";
    /// A file system that claims more bytes than its partition has.
    FileSystemLargerThanPartition = "DDI0204", Error, "a file system larger than its partition",
        "the image may be cut off: download or build it again";
    /// A LUKS header that makes no sense.
    LuksInvalid = "DDI0205", Error, "a damaged or hostile LUKS header",
        "build the image again; 'cryptsetup luksDump' shows what the header says";
    /// Encryption that does not encrypt.
    LuksNullCipher = "DDI0206", Error, "a LUKS volume with a null cipher",
        "do not use this image: it only looks encrypted (CVE-2025-59054); encrypt it again with a real cipher";
    /// A root or usr partition for another machine.
    ForeignArchitecture = "DDI0207", Error, "a partition for another architecture",
        "use the image that was built for this machine's architecture";
    /// Several partitions for one purpose.
    SeveralCandidates = "DDI0208", Warning, "several partitions for one designator",
        "another dissector might choose differently: keep one, or mark the others with the no-auto attribute";
    /// A partition that is set aside by its label or attributes.
    SetAside = "DDI0209", Note, "a partition that is set aside",
        "nothing: it is marked as empty, partially written, pending or no-auto, and is not used";
    /// Attribute bits that mean nothing.
    UnknownAttributes = "DDI0210", Note, "unknown partition attributes",
        "clear the bits that the Discoverable Partitions Specification does not define";
    /// A LUKS volume that wants code of its own to be loaded.
    LuksExternalToken = "DDI0211", Error, "a LUKS token that loads a plug-in",
        "remove the token with 'cryptsetup token remove': a plug-in would run on behalf of the image";
    /// A LUKS volume that wants more memory or time than it can need.
    LuksMemory = "DDI0212", Error, "a LUKS key slot with an absurd cost",
        "do not use this image: trying a key would exhaust memory or never end; make the key slot again with 'cryptsetup luksConvertKey'";
    /// A superblock that contradicts its own checksum.
    SuperblockChecksum = "DDI0213", Error, "a superblock with a wrong checksum",
        "the image is damaged: download or build it again";
    /// A verified file system that only writing could make right.
    VerifiedNeedsRecovery = "DDI0214", Error, "a verified file system that needs recovery",
        "unmount the file system (or run its fsck) before the hash tree is built: nobody can write to it afterwards";
    /// A file system that was in use when it was copied.
    NeedsRecovery = "DDI0215", Note, "a file system that needs recovery",
        "unmount the file system before it is copied: read-only it is used without its log, as of some time before";
    /// A LUKS volume of a kind that is not opened here.
    LuksUnsupported = "DDI0216", Error, "a LUKS volume in a state or of a kind that is not opened",
        "finish with 'cryptsetup reencrypt --resume-only', or encrypt again without special requirements";
    /// Much more room than what is in it takes.
    SpaceWasted = "DDI0217", Note, "a partition much larger than its contents",
        "make the partition as large as its contents (systemd-repart's Minimize=best), or let the file system grow (growfs)";
    /// A verified partition that is not marked read-only.
    VerifiedWritable = "DDI0218", Note, "a verified partition without the read-only attribute",
        "set the read-only attribute when the image is built (ddictl seal and systemd-repart do)";

    /// A hash partition whose superblock is not acceptable.
    VeritySuperblockInvalid = "DDI0301", Error, "an unacceptable dm-verity superblock",
        "build the hash tree again: version 1, type 1, sha256 or sha512, blocks of 512 to 4096 bytes";
    /// A hash tree that does not fill its partition's beginning exactly.
    HashTreeOutside = "DDI0302", Error, "a hash tree that does not fit its partition",
        "the image may be cut off: download or build it again";
    /// More hashed blocks than the data partition has.
    DataBlocksOutside = "DDI0303", Error, "more data blocks than the data partition has",
        "the image may be cut off: download or build it again";
    /// A data partition that is not named after its root hash.
    DataUuidMismatch = "DDI0304", Error, "a data partition whose UUID is not the first half of the root hash",
        "use the root hash that belongs to this image, or build it again";
    /// A hash partition that is not named after its root hash.
    HashUuidMismatch = "DDI0305", Error, "a hash partition whose UUID is not the second half of the root hash",
        "use the root hash that belongs to this image, or build it again";
    /// A hash partition without data.
    HashWithoutData = "DDI0306", Error, "a hash or signature partition without its data partition",
        "build the image again with the data partition, or without its companions";
    /// A signature without a hash tree.
    SignatureWithoutHash = "DDI0307", Error, "a signature partition without a hash partition",
        "build the image again with its hash tree";
    /// Digest lengths that do not agree.
    DigestLengthMismatch = "DDI0308", Error, "a root hash that is not as long as the digest of the hash tree",
        "use the root hash that belongs to this image, or build it again";
    /// Blocks that the device cannot address.
    BlockSmallerThanSector = "DDI0309", Error, "dm-verity blocks smaller than the disk's sectors",
        "build the hash tree with blocks at least as large as the sectors";
    /// A file system of which a part is not protected.
    FileSystemLargerThanHashedArea = "DDI0310", Error, "a file system larger than the hashed area",
        "build the hash tree over the whole file system";
    /// A protected area without a file system.
    HashedAreaWithoutFileSystem = "DDI0311", Error, "no file system in the hashed area",
        "build the hash tree over a file system";
    /// A root hash that nobody knows.
    RootHashUnknown = "DDI0312", Error, "an unknown root hash",
        "give it with --root-hash= (or --usr-hash=), or sign the image";
    /// Data that differs from its hash tree.
    DataCorrupt = "DDI0313", Error, "data blocks that differ from the hash tree",
        "the image is damaged or was tampered with: get it again from a source you trust";
    /// A hash tree that differs from its root hash.
    HashTreeCorrupt = "DDI0314", Error, "a hash tree that differs from the root hash",
        "the image is damaged or was tampered with: get it again from a source you trust";
    /// Full verification was asked for and there is nothing to verify with.
    NoHashTree = "DDI0315", Error, "no hash tree to verify the data with",
        "build the image with dm-verity (ddictl seal does)";
    /// A root hash or signature beside an image that has no hash tree.
    NothingToProve = "DDI0316", Error, "a root hash or signature beside an image without a hash tree",
        "put the hash tree beside the image as NAME.verity or give it with --verity-data=, or leave the files beside it aside with --sidecars=no";
    /// A hash tree beside an image that has a table.
    HashTreeFileUnused = "DDI0317", Warning, "a hash tree beside an image with a partition table",
        "build the image with a partition for its hash tree: a file is for an image that is one file system";

    /// Signature JSON that is not acceptable.
    SignaturePartitionInvalid = "DDI0401", Error, "an unacceptable verity signature partition",
        "build the image again: one JSON object with rootHash and signature, then NUL bytes";
    /// A signature for another image.
    SignatureOfAnother = "DDI0402", Error, "a signature of another root hash",
        "do not use this image: the signature was made for another one";
    /// A fingerprint of another certificate.
    FingerprintMismatch = "DDI0403", Error, "a certificate fingerprint that is not the signer's",
        "build the image again: its signature partition contradicts itself";
    /// A signer that nobody trusts.
    SignerUntrusted = "DDI0404", Warning, "a signature by an untrusted signer",
        "if you trust the signer, put the certificate into /etc/verity.d/NAME.crt or give it with --certificate=";
    /// A signature that does not hold.
    SignatureInvalid = "DDI0405", Warning, "an invalid signature",
        "do not use this image: its signature does not fit; get it again from a source you trust";
    /// A signature that proves too little.
    SignatureWeak = "DDI0406", Warning, "a signature with a weak digest or key",
        "sign with SHA-256 or better and an RSA key of 2048 bits or more, or an elliptic curve";
    /// A signer whose certificate has expired.
    SignerExpired = "DDI0407", Warning, "a signature by an expired certificate",
        "sign again with a current certificate, and check this machine's clock";
    /// A signer whose certificate is not valid yet.
    SignerNotYetValid = "DDI0408", Warning, "a signature by a certificate that is not valid yet",
        "check this machine's clock";
    /// No certificate to compare with.
    NoTrustAnchors = "DDI0409", Warning, "a signature, and no trust anchors to check it with",
        "put the signer's certificate into /etc/verity.d/NAME.crt or give it with --certificate=";
    /// Another root hash than the given one.
    RootHashMismatch = "DDI0410", Error, "another root hash than the given one",
        "use the image that the root hash was given for";

    /// A signature that the kernel does not accept.
    SignatureRefusedByKernel = "DDI0411", Error, "a signature that the kernel refuses",
        "sign with a key of the kernel's keyrings (built in, Secure Boot db or MOK), or ask the kernel why in its log";
    /// A file beside the image that should hold a root hash.
    RootHashFileInvalid = "DDI0412", Error, "a file beside the image that is no root hash",
        "write the root hash in hexadecimal into it and nothing else, or leave the files beside the image aside with --sidecars=no";
    /// A file beside the image that proposes a root hash of another one.
    RootHashFileMismatch = "DDI0413", Error, "a root hash beside the image that belongs to another one",
        "put the files of this very image beside it, or leave them aside with --sidecars=no";

    /// A root hash that was taken back.
    RootHashRevoked = "DDI0414", Error, "a root hash that is revoked",
        "use a newer image: this one must not be used any more, however well it is signed (see ddictl.trust(5))";
    /// A signer that was taken back.
    SignerRevoked = "DDI0415", Warning, "a signature by a revoked certificate",
        "use an image that another certificate signed: this one is not trusted any more (see ddictl.trust(5))";
    /// A signer that signs other images.
    SignerPurpose = "DDI0416", Warning, "a signature by a certificate that is not for this class or name",
        "use the image for what its signer may sign, say what it is with --class= and its name, or sign it by another one (see ddictl.trust(5))";

    /// A partition in a state that the policy does not allow.
    PolicyState = "DDI0501", Error, "a partition in a state that the policy does not allow",
        "use an image that is protected as demanded (where 'signed' is: 'ddictl seal' signs, --root-hash= pins), or another policy";
    /// A partition that the policy demands is not there.
    PolicyAbsent = "DDI0502", Error, "a partition that the policy demands is missing",
        "use an image that satisfies the policy, or add 'absent' to the rule";
    /// Neither root nor usr.
    NoRootOrUsr = "DDI0503", Error, "neither a root nor a usr partition to use",
        "use an image with a signed root or usr partition";
    /// Something exposed that nothing authenticates.
    ExposedUnauthenticated = "DDI0504", Error, "a partition that would be exposed without authentication",
        "sign the image (ddictl seal), pin its root hash (--root-hash=), or state a looser policy with --image-policy=";
    /// An attribute that the policy does not allow.
    PolicyAttribute = "DDI0505", Error, "a partition whose attributes the policy does not allow",
        "set the read-only and growfs attributes as the policy has them, or use another policy";
    /// A file system that the policy does not allow.
    PolicyFileSystem = "DDI0506", Error, "a file system that the policy does not allow",
        "use a file system that the policy names, or another policy";
    /// A partition that the caller names has another role than it must have.
    PartitionRole = "DDI0507", Error, "another partition than the one that is to be used",
        "name it by its designator (root=/dev/disk/by-loop-ref/NAME.raw-root), or find out who moved the partitions";

    /// A PE file that is no unified kernel image that anybody reads alike.
    UkiMalformed = "DDI0601", Error, "a PE file that is no sane unified kernel image",
        "build the unified kernel image again (ukify does), or audit the file that holds one";
    /// A unified kernel image that is told what to boot.
    UkiWithoutCommandLine = "DDI0602", Warning, "a unified kernel image without a command line of its own",
        "build the command line in, so that its signature covers what is booted";
    /// A command line that stops the boot.
    BootMistake = "DDI0603", Error, "a kernel command line that stops the boot",
        "mend it: ddictl stops the boot with this reason, where others warn and go on without it";
    /// A boot from whoever answers.
    BootUnauthenticated = "DDI0604", Error, "a boot of whatever the network sends",
        "leave rd.systemd.image_policy= out or let it demand signatures, or pin the download with verify=SHA256";
    /// A boot from anything that was ever signed.
    BootReplayable = "DDI0605", Note, "a boot of any version that was ever signed",
        "somebody on the network can present an old one or hold it back, and nothing else: pin it with roothash= or verify=SHA256, and revoke old ones in trust.d";
    /// A boot from one image alone.
    BootPinned = "DDI0606", Note, "a boot of one version alone",
        "nothing needs to be done: somebody on the network can hold it back, and nothing else";
    /// A root file system that is nobody's.
    BootRootUnverified = "DDI0607", Warning, "a root file system that the command line does not verify",
        "pull it, give its root hash with roothash=, or find it with root=gpt-auto under systemd.image_policy=";
    /// A root that does not come.
    BootRootNotPulled = "DDI0608", Error, "a root device that no pull provides",
        "give the pull the option blockdev and the name in root=, or root= the name of the pull";
    /// A policy that does not ask what it seems to.
    BootPolicyHole = "DDI0609", Warning, "an image policy with a hole on the kernel command line",
        "see 'ddictl policy check', which names the stricter text";
    /// A download that everybody sees.
    BootInClear = "DDI0610", Note, "a download over plain HTTP",
        "what is verified stays verified; use https so that nobody sees what is booted, or tells it from other traffic";
    /// A boot partition that not everybody reads alike.
    BootPartitionDamaged = "DDI0611", Warning, "a boot partition whose files cannot all be found",
        "build the file system again ('fsck.vfat -n' shows what is wrong with it)";
    /// A command line for another image than the one that it is in.
    BootOtherRootHash = "DDI0612", Warning, "a kernel command line with the root hash of another image",
        "build the unified kernel image again with the root hash of this image, or put the image that it is for beside it";
    /// A boot entry that anybody can change who can write to the partition.
    BootEntryUnsigned = "DDI0613", Warning, "a boot entry that no signature covers",
        "build kernel, initrd and command line into a unified kernel image (ukify does), and sign it for Secure Boot";
    /// A boot partition on a server.
    BootPartitionUnread = "DDI0614", Note, "a boot partition that was not looked into",
        "look into it with --boot-partitions=yes, or audit the image as a file";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// A file or directory in the file system of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What the partition is for; `None` in an image without a table.
    pub designator: Option<Designator>,
    /// The path from the root of the file system on, fit for one line.
    pub path: String,
}

/// One thing that was found, with what would have been expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How grave: the rule's own level, unless the circumstances made it graver.
    pub level: Level,
    /// Which partition; `None` where it is about the image as a whole.
    pub partition: Option<PartitionNumber>,
    /// Where in the partition; `None` where it is about the partition as a whole.
    pub place: Option<Box<Place>>,
    /// What the rule demands.
    pub expected: String,
    /// What there is.
    pub found: String,
    /// Whether systemd-dissect 262 --validate accepts the image in spite of it, where the rule alone does not say so.
    pub validates_elsewhere: bool,
    /// Why somebody decided that it does not count; `None` for one that does.
    pub ignored: Option<String>,
}

impl Finding {
    /// A finding about the image as a whole.
    #[must_use]
    pub fn of_image(rule: Rule, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let (expected, found) = (expected.into(), found.into());
        Self {
            rule,
            level: rule.level(),
            partition: None,
            place: None,
            expected,
            found,
            validates_elsewhere: false,
            ignored: None,
        }
    }

    /// A finding about one partition, or about an image without a table where that has no number.
    #[must_use]
    pub fn of_partition(
        rule: Rule,
        partition: Option<PartitionNumber>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { partition, ..Self::of_image(rule, expected, found) }
    }

    /// The same finding, at least as grave as `level`.
    #[must_use]
    pub fn at_least(mut self, level: Level) -> Self {
        self.level = self.level.max(level);
        self
    }

    /// Whether both are about the same thing, whatever else was found out about it since.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let facts = |finding: &Self| (finding.rule, finding.partition);
        let words = |finding: &Self| (finding.place.clone(), finding.expected.clone(), finding.found.clone());
        facts(self) == facts(other) && words(self) == words(other)
    }

    /// Where it is: the partition, and the file in it; `None` where it is about the image as a whole.
    #[must_use]
    pub fn whereabouts(&self) -> Option<String> {
        let partition = self.partition.map(|number| format!("partition {number}"));
        let Some(Place { designator, path }) = self.place.as_deref() else { return partition };
        let designator = designator.map(|designator| format!(" ({designator})")).unwrap_or_default();
        Some(partition.map_or_else(|| path.clone(), |partition| format!("{partition}{designator}: {path}")))
    }

    /// The whole sentence: where, what, expected, found. What was found may begin with what exactly was expected there,
    /// and then goes on from the general to the particular.
    #[must_use]
    pub fn message(&self) -> String {
        let place = self.whereabouts().map(|place| format!("{place}: ")).unwrap_or_default();
        let title = self.rule.title();
        if self.found.starts_with("expected ") {
            return format!("{place}{title}: expected {}: {}", self.expected, self.found);
        }
        format!("{place}{title}: expected {}, found {}", self.expected, self.found)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.rule, self.level, self.message())
    }
}

/// Whether a character must not reach a terminal or a log as it is: control characters move the cursor, line separators
/// forge lines, and characters that turn the direction of text or show nothing (Unicode Standard Annex 9, section 2)
/// make one name look like another.
#[must_use]
pub fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// An error with all that caused it, on one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Text from an image made fit for one line of output: deceptive characters escaped, length limited.
#[must_use]
pub fn printable(text: &str) -> String {
    const LIMIT: usize = 200;
    let mut line: String = text
        .chars()
        .take(LIMIT)
        .flat_map(|c| {
            let escaped = is_deceptive(c);
            escaped.then(|| c.escape_default()).into_iter().flatten().chain((!escaped).then_some(c))
        })
        .collect();
    if text.chars().nth(LIMIT).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_ordered_and_well_formed() {
        let codes: Vec<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
        assert!(codes.is_sorted());
        for code in codes {
            assert!(
                code.strip_prefix("DDI")
                    .is_some_and(|n| n.len() == 4 && n.bytes().all(|b| b.is_ascii_digit())),
                "{code}"
            );
        }
    }

    #[test]
    fn every_rule_says_what_to_do() {
        for rule in Rule::ALL {
            assert!(
                !rule.remedy().is_empty() && !rule.title().ends_with('.') && !rule.remedy().ends_with('.'),
                "{rule}"
            );
        }
    }

    #[test]
    fn a_sentence_goes_from_the_general_to_the_particular() {
        let number = PartitionNumber::new(2);
        let general = Finding::of_partition(Rule::EspNotVfat, number, "vfat", "ext4");
        assert_eq!(
            general.message(),
            "partition 2: a boot partition that is not a sane vfat: expected vfat, found ext4"
        );
        let exact = Finding::of_partition(Rule::EspNotVfat, number, "vfat", "expected two FATs, found 1");
        assert_eq!(
            exact.message(),
            "partition 2: a boot partition that is not a sane vfat: expected vfat: expected two FATs, found 1"
        );
    }

    #[test]
    fn text_of_an_image_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("a\u{9b}31m\u{2028}b"), "a\\u{9b}31m\\u{2028}b");
        for character in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{61c}', '\u{feff}', '\u{e0041}'] {
            assert!(printable(&character.to_string()).is_ascii(), "{}", character.escape_unicode());
        }
        assert_eq!(printable("Größe 漢字"), "Größe 漢字");
        assert!(printable(&"x".repeat(500)).chars().count() <= 201);
    }
}
