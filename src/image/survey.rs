//! Dissection as a state machine without I/O: says which bytes it needs, is fed with them, ends with a [`Dissection`].
//!
//! The same code so dissects a file, a body on its way through the network, and an image on a server that answers
//! ranges. Each round asks for all that is known to be needed, and the second for what the beginning lets foresee; three
//! rounds are enough for most images: the beginning; headers, tables, superblocks and signatures; superblocks of the areas
//! that a hash tree covers. Where the beginning says nothing of use, headers, tables and contents are a round each, and LUKS
//! metadata is one. With an XFS there are up to six more, until the end of its log is found.

use crate::format::architecture::Architecture;
use crate::format::designator::{Designator, VerityRole};
use crate::format::gpt::{self, Attributes, GptEntry, GptTable, Headers};
use crate::format::label::PartitionLabel;
use crate::format::partition_type::PartitionType;
use crate::format::root_hash::RootHash;
use crate::format::sparse::{SparseBytes, Window};
use crate::format::superblock::{self, Superblock, SuperblockKind};
use crate::format::units::{ByteLength, ByteOffset, Extent, SectorSize};
use crate::format::verity_signature::VeritySignature;

use super::beside::{Beside, WantedRootHash};
use super::candidates;
use super::contents;
use super::dissection::{Dissection, Layout, Partition, PassedOver, Standing};
use super::finding::{Finding, Rule, printable};
use super::pairing;

/// More partitions than this nobody needs, and each costs reading: the size of a usual table.
const MAXIMUM_PARTITIONS: usize = 128;

/// The most that is read of an image. Signature partitions and LUKS headers of the sizes that tools make take a few KiB
/// each; of the largest that their formats have, eight are room for one of every designator, and a hundred would be half
/// a gigabyte that an attacker makes us hold.
pub const MAXIMUM_READ: ByteLength = ByteLength::new(64 << 20);

/// The most that is read because it will probably be needed: far more than the partitions of usual images are asked for.
const MOST_FORESEEN: ByteLength = ByteLength::new(1 << 20);

/// What a dissection is told from outside.
#[derive(Debug, Clone)]
pub struct SurveyOptions {
    /// The architecture whose partitions are preferred.
    pub architecture: Architecture,
    /// The root hash of the root partition, where the caller knows it.
    pub root_hash: Option<RootHash>,
    /// The root hash of the usr partition, where the caller knows it.
    pub usr_hash: Option<RootHash>,
    /// The sector size, where the device has one; `None` to find it by the table.
    pub sector_size: Option<SectorSize>,
    /// What lies beside the image.
    pub beside: Beside,
}

impl SurveyOptions {
    /// Nothing known but the architecture.
    #[must_use]
    pub fn new(architecture: Architecture) -> Self {
        Self { architecture, root_hash: None, usr_hash: None, sector_size: None, beside: Beside::default() }
    }

    /// The root hash that the caller knows for `designator`.
    #[must_use]
    pub fn given(&self, designator: Designator) -> Option<&RootHash> {
        match designator {
            Designator::Root => self.root_hash.as_ref(),
            Designator::Usr => self.usr_hash.as_ref(),
            _ => None,
        }
    }

    /// The root hash that is looked for: the one that the caller knows, or else the one that a file beside the image
    /// proposes.
    pub(super) fn wanted(&self, designator: Designator) -> Option<WantedRootHash<'_>> {
        if let Some(root_hash) = self.given(designator) {
            return Some(WantedRootHash { root_hash, proposed_by: None });
        }
        let (root_hash, origin) = self.beside.proposal(designator)?;
        Some(WantedRootHash { root_hash, proposed_by: Some(origin) })
    }
}

/// The image as a whole is not acceptable, whatever a policy says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}\n  {}", .finding.rule.code(), .finding.message(), .finding.rule.remedy())]
pub struct Malformed {
    /// The rule that the image breaks.
    pub finding: Finding,
}

impl Malformed {
    pub(super) fn new(rule: Rule, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { finding: Finding::of_image(rule, expected, found) }
    }
}

/// A dissection under way.
#[derive(Debug, Clone)]
pub struct Survey {
    image_size: ByteLength,
    options: SurveyOptions,
    bytes: SparseBytes,
}

/// How far a survey has come.
enum Progress {
    Wants(Vec<Extent>),
    Done(Box<Dissection>),
}

impl Survey {
    /// The survey of an image of `image_size` bytes, of which nothing has been read yet.
    #[must_use]
    pub fn new(image_size: ByteLength, options: SurveyOptions) -> Self {
        Self { image_size, options, bytes: SparseBytes::new() }
    }

    /// Everything that is known to be needed at this stage and was not fed yet; empty when the survey is complete or
    /// the image is known to be malformed.
    #[must_use]
    pub fn wanted(&self) -> Vec<Extent> {
        match self.examine() {
            Ok(Progress::Wants(extents)) => extents,
            Ok(Progress::Done(_)) | Err(_) => Vec::new(),
        }
    }

    /// Takes bytes of the image. What was fed once is never replaced.
    pub fn feed(&mut self, start: ByteOffset, bytes: &[u8]) {
        self.bytes.insert(start, bytes);
    }

    /// The result.
    ///
    /// # Errors
    /// [`Malformed`] where the image is not acceptable as a whole, also where bytes that were wanted did not come.
    pub fn finish(self) -> Result<Dissection, Malformed> {
        match self.examine()? {
            Progress::Done(dissection) => Ok(*dissection),
            Progress::Wants(extents) => {
                let expected = extents.first().map_or_else(String::new, ToString::to_string);
                Err(Malformed::new(Rule::ImageTooShort, expected, format!("{} bytes", self.image_size)))
            }
        }
    }

    fn examine(&self) -> Result<Progress, Malformed> {
        let needed = &mut 0;
        let whole = Extent::from_beginning(self.image_size);
        if let Some(wanted) = self.missing([whole.truncated(gpt::USUAL_LENGTH)], &mut 0)? {
            return Ok(wanted);
        }
        let mut first = gpt::probe_extents(self.image_size);
        first.extend(superblock_extents(whole));
        if let Some(Progress::Wants(mut wanted)) = self.missing(first, needed)? {
            if let Some(Progress::Wants(foreseen)) = self.missing(self.foreseen(), &mut 0)? {
                wanted.extend(foreseen);
            }
            return Ok(Progress::Wants(wanted));
        }
        let superblocks = superblock::probe(&Window::new(&self.bytes, whole));
        let headers = Headers::find(&self.bytes, self.image_size, self.options.sector_size)
            .map_err(|error| Malformed { finding: contents::table_finding(&error) })?;
        let Some(headers) = headers else {
            return self.examine_bare(whole, superblocks, needed);
        };
        if let Some(wanted) = self.missing(headers.table_extents(), needed)? {
            return Ok(wanted);
        }
        let table = headers
            .table(&self.bytes)
            .map_err(|error| Malformed { finding: contents::table_finding(&error) })?;
        if table.entries.len() > MAXIMUM_PARTITIONS {
            let found = format!("{} partitions", table.entries.len());
            return Err(Malformed::new(
                Rule::TooManyPartitions,
                format!("at most {MAXIMUM_PARTITIONS} partitions"),
                found,
            ));
        }
        self.examine_table(&table, headers.metadata_extents(self.image_size), &superblocks, needed)
    }

    /// What will have to be read where the copy of the table in front turns out to be the one that counts. It is not
    /// counted: it is counted when it is needed.
    fn foreseen(&self) -> Vec<Extent> {
        let foreseen = gpt::foreseen(&self.bytes, self.image_size, self.options.sector_size);
        let Some(foreseen) = foreseen.filter(|found| found.entries.len() <= MAXIMUM_PARTITIONS) else {
            return Vec::new();
        };
        let contents = foreseen.entries.iter().flat_map(entry_extents);
        let extents: Vec<Extent> = contents.chain(foreseen.backup_entries).collect();
        let length = extents.iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.length().bytes()));
        if length > MOST_FORESEEN.bytes() { Vec::new() } else { extents }
    }

    fn examine_table(
        &self,
        table: &GptTable,
        extents: Vec<Extent>,
        in_front: &[Superblock],
        needed: &mut u64,
    ) -> Result<Progress, Malformed> {
        let wanted = table.entries.iter().flat_map(entry_extents);
        if let Some(wanted) = self.missing(wanted, needed)? {
            return Ok(wanted);
        }
        let partitions: Vec<Partition> = table
            .entries
            .iter()
            .map(|entry| Partition {
                number: Some(entry.number),
                partition_type: PartitionType::of(entry.type_uuid),
                type_uuid: Some(entry.type_uuid),
                uuid: Some(entry.uuid),
                label: entry.label.clone(),
                attributes: entry.attributes,
                extent: entry.extent,
                superblocks: superblock::probe(&Window::new(&self.bytes, entry.extent)),
                luks2: None,
                standing: Standing::Passed(PassedOver::NoDesignator),
            })
            .collect();
        let layout = Layout::Table {
            disk_uuid: table.disk_uuid,
            sector_size: table.sector_size,
            source: table.source,
            extents,
        };
        let mut findings = contents::findings_in_front(in_front)?;
        findings.extend(contents::source_finding(&table.source));
        let mut dissection =
            Dissection { image_size: self.image_size, layout, partitions, verity: Vec::new(), findings };
        candidates::choose(&mut dissection, &self.options);
        if let Some(wanted) = self.missing(contents::luks_extents(&dissection.partitions), needed)? {
            return Ok(wanted);
        }
        let damaged = contents::read_luks(&mut dissection.partitions, &self.bytes);
        dissection.findings.extend(damaged);
        pairing::pair(&mut dissection, &self.bytes, &self.options);
        self.finish_contents(dissection, needed)
    }

    /// The last stages: what the hashed areas hold, logs, then the findings about contents.
    fn finish_contents(&self, mut dissection: Dissection, needed: &mut u64) -> Result<Progress, Malformed> {
        // Of a protected partition only the hashed area will exist for anybody, so that alone decides what it holds.
        let hashed: Vec<Extent> = dissection.verity.iter().map(|set| set.data_extent).collect();
        if let Some(wanted) = self.missing(hashed.into_iter().flat_map(superblock_extents), needed)? {
            return Ok(wanted);
        }
        for set in &dissection.verity {
            let data = dissection.partitions.iter_mut().find(|partition| partition.number == set.data);
            if let Some(data) = data {
                data.superblocks = superblock::probe(&Window::new(&self.bytes, set.data_extent));
            }
        }
        // What is wanted of a log depends on what was read of it. It is bounded by itself, and not counted: that would
        // depend on the order of reading.
        let wanted = contents::examine_logs(&mut dissection, &self.bytes);
        if let Some(wanted) = self.missing(wanted, &mut 0)? {
            return Ok(wanted);
        }
        contents::check(&mut dissection, &self.bytes);
        Ok(Progress::Done(Box::new(dissection)))
    }

    /// An image without a table is one extent, if it holds one thing that is known.
    fn examine_bare(
        &self,
        whole: Extent,
        superblocks: Vec<Superblock>,
        needed: &mut u64,
    ) -> Result<Progress, Malformed> {
        let usable = |superblock: &Superblock| {
            matches!(superblock.kind, SuperblockKind::FileSystem(_) | SuperblockKind::Luks(_))
        };
        if !superblocks.iter().any(usable) {
            let found = superblocks.first().map_or_else(
                || format!("nothing that is known in {} bytes", self.image_size),
                |superblock| printable(&superblock.kind.to_string()),
            );
            return Err(Malformed::new(Rule::NothingRecognised, "a partition table or a file system", found));
        }
        let mut partition = Partition {
            number: None,
            partition_type: PartitionType::Other,
            type_uuid: None,
            uuid: None,
            label: PartitionLabel::default(),
            attributes: Attributes::default(),
            extent: whole,
            superblocks,
            luks2: None,
            standing: Standing::Chosen(Designator::Root),
        };
        if let Some(wanted) =
            self.missing(contents::luks_extents(std::slice::from_ref(&partition)), needed)?
        {
            return Ok(wanted);
        }
        let mut dissection = Dissection {
            image_size: self.image_size,
            layout: Layout::Bare,
            findings: contents::read_luks(std::slice::from_mut(&mut partition), &self.bytes),
            partitions: vec![partition],
            verity: Vec::new(),
        };
        pairing::pair_without_table(&mut dissection, &self.options);
        self.finish_contents(dissection, needed)
    }

    /// Those of `extents` that have not been fed, within the image; `None` where there are none.
    ///
    /// `needed` counts the bytes of all stages, fed or not: an image is refused for what it needs, in whatever order a
    /// source gives it.
    fn missing(
        &self,
        extents: impl IntoIterator<Item = Extent>,
        needed: &mut u64,
    ) -> Result<Option<Progress>, Malformed> {
        let whole = Extent::from_beginning(self.image_size);
        let mut extents: Vec<Extent> =
            extents.into_iter().filter(|extent| !extent.is_empty() && whole.contains(*extent)).collect();
        *needed = extents.iter().fold(*needed, |sum, extent| sum.saturating_add(extent.length().bytes()));
        if *needed > MAXIMUM_READ.bytes() {
            return Err(Malformed::new(
                Rule::TooMuchToRead,
                format!("at most {MAXIMUM_READ} bytes of tables, superblocks and signatures"),
                format!("{needed} bytes"),
            ));
        }
        extents.retain(|extent| self.bytes.get(*extent).is_none());
        Ok((!extents.is_empty()).then_some(Progress::Wants(extents)))
    }
}

/// What has to be read of a partition to know what it is, and what it says if it is a hash or signature partition.
fn entry_extents(entry: &GptEntry) -> Vec<Extent> {
    let extent = entry.extent;
    match PartitionType::of(entry.type_uuid).designator().and_then(Designator::verity_role) {
        Some(VerityRole::Signature) if extent.length().bytes() <= VeritySignature::MAX => vec![extent],
        // A larger signature partition is refused for its size; a hash tree's superblock is where those of file
        // systems are.
        Some(VerityRole::Signature | VerityRole::Hash | VerityRole::Data) | None => {
            superblock_extents(extent)
        }
    }
}

fn superblock_extents(extent: Extent) -> Vec<Extent> {
    superblock::probe_extents(extent.length())
        .into_iter()
        .filter_map(|part| extent.part(ByteLength::new(part.start().bytes()), part.length()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gpt::gpt_builder::{GptBuilder, Which};
    use crate::format::units::PartitionNumber;

    const MIB: usize = 1 << 20;

    /// The type of a signature partition for x86-64.
    const SIGNATURE: u128 = 0x41092b05_9fc8_4523_994f_2def0408b176;

    /// Answers everything that is asked for, and says how many rounds and bytes that were.
    fn dissect(bytes: &[u8]) -> (Result<Dissection, Malformed>, usize, usize) {
        let mut survey = Survey::new(ByteLength::of(bytes), SurveyOptions::new(Architecture::X86_64));
        let (mut rounds, mut read) = (0, 0);
        loop {
            let wanted = survey.wanted();
            if wanted.is_empty() {
                return (survey.finish(), rounds, read);
            }
            rounds += 1;
            for extent in wanted {
                let start = extent.start().bytes().try_into().unwrap();
                let piece = &bytes[start..][..extent.length().in_memory().unwrap()];
                read += piece.len();
                survey.feed(extent.start(), piece);
            }
        }
    }

    fn with_signatures(count: u128, length: usize) -> Vec<u8> {
        let add = |builder: GptBuilder, number| {
            builder.partition(SIGNATURE, number, "signature", 0, vec![0; length])
        };
        (1..=count).fold(GptBuilder::new(512), add).build().bytes
    }

    #[test]
    fn more_metadata_than_any_image_needs_is_refused_before_it_is_read() {
        let image = with_signatures(16, 4 * MIB);
        let (result, rounds, read) = dissect(&image);
        assert_eq!(result.unwrap_err().finding.rule, Rule::TooMuchToRead);
        assert!(rounds == 3 && read < MIB, "{read} bytes in {rounds} rounds");

        let mut survey = Survey::new(ByteLength::of(&image), SurveyOptions::new(Architecture::X86_64));
        survey.feed(ByteOffset::ZERO, &image);
        assert_eq!(survey.finish().unwrap_err().finding.rule, Rule::TooMuchToRead, "fed from the beginning");

        let (result, rounds, read) = dissect(&with_signatures(15, 4 * MIB));
        assert!(result.is_ok() && rounds == 4 && read > 60 * MIB, "{read} bytes in {rounds} rounds");
    }

    #[test]
    fn what_the_beginning_lets_foresee_spares_rounds_and_decides_nothing() {
        let good = with_signatures(3, 16 << 10);
        let (found, rounds, _) = dissect(&good);
        assert_eq!(rounds, 2);
        let found = found.unwrap();
        // Nothing can be foreseen from a copy that does not count, and the other one says the same.
        let mut damaged = good.clone();
        damaged[1024] ^= 1;
        let (after_all, rounds, _) = dissect(&damaged);
        assert_eq!(rounds, 4);
        let told = |dissection: &Dissection| format!("{:?}", dissection.partitions);
        assert_eq!(told(&after_all.unwrap()), told(&found));
        // What was foreseen from one copy does not make it the one that counts.
        let built = GptBuilder::new(512).partition(SIGNATURE, 1, "signature", 0, vec![0; 16 << 10]).build();
        let differing = built.edit_entry(Which::Primary, 1, |entry| entry[56] = b'x').repaired().bytes;
        assert_eq!(dissect(&differing).0.unwrap_err().finding.rule, Rule::TableCopiesDiffer);
    }

    #[test]
    fn of_several_hash_partitions_without_data_one_is_chosen() {
        const HASH: u128 = 0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5;
        let add = |builder: GptBuilder, number| builder.partition(HASH, number, "", 0, vec![0; 4096]);
        let image = (1..=3).fold(GptBuilder::new(512), add).build().bytes;
        let dissection = dissect(&image).0.unwrap();
        let standings: Vec<Standing> = dissection.partitions.iter().map(|p| p.standing).collect();
        let beaten = Standing::Passed(PassedOver::Version(PartitionNumber::new(1).unwrap()));
        assert_eq!(standings, [Standing::Chosen(Designator::RootVerity), beaten, beaten]);
    }

    #[test]
    fn signature_partitions_that_are_too_large_are_not_even_read() {
        let (result, _, read) = dissect(&with_signatures(3, 5 * MIB));
        assert!(read < MIB, "{read} bytes");
        let findings = result.unwrap().findings;
        assert!(findings.iter().any(|finding| finding.rule == Rule::HashWithoutData), "{findings:?}");
    }
}
