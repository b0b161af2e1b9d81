//! Which hash tree and which signature belong to a data partition (Discoverable Partitions Specification).
//!
//! The data partition is chosen first. A signature belongs to it whose root hash begins with the partition's UUID; the
//! hash partition's UUID is the end of that root hash. Nothing here is authenticated: see [`super::assessment`].

use crate::format::architecture::Architecture;
use crate::format::designator::Designator;
use crate::format::root_hash::{HashAlgorithm, RootHash};
use crate::format::sparse::{SparseBytes, Window};
use crate::format::units::{ByteLength, Extent, PartitionNumber};
use crate::format::verity::{HashTreeGeometry, VeritySuperblock};
use crate::format::verity_signature::VeritySignature;

use super::beside::{TreeBeside, WantedRootHash};
use super::candidates::{indices, keep_the_best};
use super::dissection::{Dissection, Partition, PassedOver, RootHashClaim, Standing, TreePlace, VeritySet};
use super::finding::{Finding, Level, Rule, printable};
use super::survey::SurveyOptions;

/// Finds the verity sets of root and usr, and says of every companion whether it is used.
pub(super) fn pair(dissection: &mut Dissection, bytes: &SparseBytes, options: &SurveyOptions) {
    dissection.findings.extend(options.beside.findings(|designator| options.given(designator)));
    if let Some(tree) = options.beside.tree() {
        let finding = Finding::of_image(
            Rule::HashTreeFileUnused,
            "a hash tree in the partition that the table has for it",
            format!("the file '{}'", printable(&tree.origin)),
        );
        let level = if tree.is_demanded { Level::Error } else { Level::Warning };
        dissection.findings.push(finding.at_least(level));
    }
    for data in [Designator::Root, Designator::Usr] {
        match pair_one(dissection, bytes, options, data) {
            Ok(Some(set)) => dissection.verity.push(set),
            Ok(None) => {}
            Err(finding) => dissection.findings.push(*finding),
        }
        // Where nothing could be paired, too, one hash partition at most stands for its designator.
        if let Some(hash) = data.verity_hash() {
            keep_the_best(dissection, hash, options.architecture);
        }
    }
}

/// Finds what protects an image without a table: a hash tree beside it, of which the image is the root file system.
pub(super) fn pair_without_table(dissection: &mut Dissection, options: &SurveyOptions) {
    dissection.findings.extend(options.beside.findings(|designator| options.given(designator)));
    dissection.findings.extend(nobody_to_prove(options, Designator::Usr));
    let Some(tree) = options.beside.tree() else {
        dissection.findings.extend(nobody_to_prove(options, Designator::Root));
        return;
    };
    match dissection.partitions.first().map(|whole| pair_with_file(dissection, whole, tree, options)) {
        Some(Ok(set)) => dissection.verity.push(set),
        Some(Err(finding)) => dissection.findings.push(*finding),
        None => {}
    }
}

fn pair_with_file(
    dissection: &Dissection,
    whole: &Partition,
    tree: &TreeBeside,
    options: &SurveyOptions,
) -> Result<VeritySet, Box<Finding>> {
    let designator = Designator::Root;
    let superblock = parse_superblock(Some(&tree.beginning), tree.size, None)?;
    let Some(wanted) = options.wanted(designator) else {
        return Err(Box::new(Finding::of_image(
            Rule::RootHashUnknown,
            format!(
                "a root hash of {} bytes for the hash tree in '{}': given, or beside the image as NAME.roothash",
                superblock.algorithm.digest_size(),
                printable(&tree.origin)
            ),
            "none",
        )));
    };
    let place = Extent::from_beginning(tree.size);
    let shape = shape(dissection, (whole.extent, None), (place, None), &superblock, wanted.root_hash)?;
    Ok(VeritySet {
        designator,
        data: None,
        hash: TreePlace::Beside,
        superblock,
        geometry: shape.geometry,
        data_extent: shape.data_extent,
        tree_extent: shape.tree_extent,
        root_hash: wanted.root_hash.clone(),
        claim: claim_of(wanted),
        signatures: Vec::new(),
        signature_beside: options.beside.signature(designator).cloned(),
    })
}

const fn claim_of(wanted: WantedRootHash<'_>) -> RootHashClaim {
    match wanted.proposed_by {
        Some(_) => RootHashClaim::Beside,
        None => RootHashClaim::Given,
    }
}

/// What is wrong where there is no partition for `designator` and somebody gives or proposes its root hash, or signs it.
///
/// Whoever names a root hash wants what it stands for and nothing else: about the image as a whole, so that it counts
/// whatever the image has instead.
fn nobody_to_prove(options: &SurveyOptions, designator: Designator) -> Option<Finding> {
    let found = format!("no {designator} partition with a hash tree");
    if let Some(wanted) = options.wanted(designator) {
        let rule = match wanted.proposed_by {
            // An image that is one file system may well be the right one; what is missing is the tree.
            Some(_) if designator == Designator::Root => Rule::NothingToProve,
            _ => wanted.rule(Rule::RootHashMismatch),
        };
        let expected = format!("a {designator} partition with {}", wanted.text());
        return Some(Finding::of_image(rule, expected, found));
    }
    let signature = options.beside.signature(designator)?;
    let expected = format!("a {designator} partition that '{}' signs", printable(&signature.origin));
    Some(Finding::of_image(Rule::NothingToProve, expected, found))
}

/// A signature partition that could be read.
struct Signed {
    index: usize,
    number: PartitionNumber,
    signature: VeritySignature,
}

fn pair_one(
    dissection: &mut Dissection,
    bytes: &SparseBytes,
    options: &SurveyOptions,
    designator: Designator,
) -> Result<Option<VeritySet>, Box<Finding>> {
    let (Some(hash_designator), Some(signature_designator)) =
        (designator.verity_hash(), designator.verity_signature())
    else {
        return Ok(None);
    };
    let Some(data) = dissection.chosen(designator).cloned() else {
        if let Some(finding) = nobody_to_prove(options, designator) {
            return Err(Box::new(finding));
        }
        return companions_without_data(dissection, designator, [hash_designator, signature_designator]);
    };
    let (Some(data_number), Some(data_uuid)) = (data.number, data.uuid) else {
        return Ok(None);
    };
    for companion in [hash_designator, signature_designator] {
        pass_over_other_architectures(dissection, companion, data.architecture(), data_number);
    }

    let signatures = read_signatures(dissection, bytes, signature_designator);
    let signatures = pass_over_signatures_of_other_slots(dissection, signatures, designator, hash_designator);
    let signatures_present = !indices(dissection, signature_designator).is_empty();
    let wanted = options.wanted(designator);
    let wanted_hash = wanted.map(|wanted| wanted.root_hash);
    let matching = |signed: &&Signed| match wanted_hash {
        Some(wanted) => signed.signature.root_hash == *wanted,
        None => signed.signature.root_hash.data_partition_uuid() == data_uuid,
    };
    let signed_root_hash = signatures.iter().find(matching).map(|signed| signed.signature.root_hash.clone());
    let of_ours: Vec<(PartitionNumber, VeritySignature)> = signatures
        .iter()
        .filter(|signed| Some(&signed.signature.root_hash) == wanted_hash.or(signed_root_hash.as_ref()))
        .map(|signed| (signed.number, signed.signature.clone()))
        .collect();
    // With one that fits, the others are simply for other slots; without, each of them contradicts the image.
    if !of_ours.is_empty() {
        for signed in &signatures {
            if !of_ours.iter().any(|(number, _)| *number == signed.number)
                && let Some(partition) = dissection.partitions.get_mut(signed.index)
            {
                partition.standing = Standing::Passed(PassedOver::OtherSignature);
            }
        }
    }

    let hashes = indices(dissection, hash_designator);
    if let Some(wanted) = wanted.filter(|wanted| wanted.root_hash.data_partition_uuid() != data_uuid) {
        return Err(mismatch(
            wanted.rule(Rule::DataUuidMismatch),
            data_number,
            wanted,
            wanted.root_hash.data_partition_uuid(),
            data_uuid,
        ));
    }
    if of_ours.is_empty()
        && let Some(foreign) = signatures.first()
    {
        return Err(match wanted.filter(|wanted| wanted.proposed_by.is_some()) {
            // Half of it is right. Which of the two is wrong cannot be told, but that they cannot both be right.
            Some(wanted) => Box::new(Finding::of_partition(
                Rule::RootHashFileMismatch,
                Some(foreign.number),
                format!("a signature of {}", wanted.text()),
                format!("one of root hash {}", foreign.signature.root_hash),
            )),
            None => foreign_signature(dissection, &hashes, foreign, &data, data_number),
        });
    }
    if hashes.is_empty() {
        if signatures_present {
            return Err(Box::new(Finding::of_partition(
                Rule::SignatureWithoutHash,
                indices(dissection, signature_designator)
                    .first()
                    .and_then(|index| dissection.partitions.get(*index)?.number),
                format!("a {hash_designator} partition"),
                "none",
            )));
        }
        let signature = options.beside.signature(designator);
        let expected = match (wanted, signature) {
            (Some(wanted), _) => {
                format!("UUID {} (of {})", wanted.root_hash.hash_partition_uuid(), wanted.text())
            }
            (None, Some(signature)) => format!("what '{}' signs", printable(&signature.origin)),
            (None, None) => return Ok(None),
        };
        let given = wanted.is_some_and(|wanted| wanted.proposed_by.is_none());
        return Err(Box::new(Finding::of_partition(
            if given { Rule::HashUuidMismatch } else { Rule::NothingToProve },
            Some(data_number),
            format!("a {hash_designator} partition with {expected}"),
            "none",
        )));
    }

    let known = match (wanted, signed_root_hash) {
        (Some(wanted), _) => Some((wanted.root_hash.clone(), claim_of(wanted))),
        (None, Some(signed)) => Some((signed, RootHashClaim::SignaturePartition)),
        (None, None) => None,
    };
    let expected = match (wanted, &known) {
        (Some(wanted), _) => Some(wanted),
        (None, Some((root_hash, _))) => Some(WantedRootHash { root_hash, proposed_by: None }),
        (None, None) => None,
    };
    let hash = choose_hash(dissection, hash_designator, expected, options.architecture)?;
    let (Some(hash_number), Some(hash_uuid)) = (hash.number, hash.uuid) else {
        return Ok(None);
    };
    let content = Window::new(bytes, hash.extent).get(0, VeritySuperblock::SIZE);
    let superblock = parse_superblock(content, hash.extent.length(), Some(hash_number))?;
    let (root_hash, claim) = match known {
        Some(known) => known,
        None => {
            let spelled = [data_uuid.guid().as_bytes().as_slice(), hash_uuid.guid().as_bytes()].concat();
            match RootHash::from_bytes(&spelled) {
                Ok(root_hash) if superblock.algorithm == HashAlgorithm::Sha256 => {
                    (root_hash, RootHashClaim::PartitionUuids)
                }
                _ => {
                    return Err(Box::new(Finding::of_partition(
                        Rule::RootHashUnknown,
                        Some(hash_number),
                        format!(
                            "a signature partition, or a given root hash of {} bytes",
                            superblock.algorithm.digest_size()
                        ),
                        "neither",
                    )));
                }
            }
        }
    };
    let (data, hash) = ((data.extent, Some(data_number)), (hash.extent, Some(hash_number)));
    let shape = shape(dissection, data, hash, &superblock, &root_hash)?;
    Ok(Some(VeritySet {
        designator,
        data: Some(data_number),
        hash: TreePlace::Partition(hash_number),
        superblock,
        geometry: shape.geometry,
        data_extent: shape.data_extent,
        tree_extent: shape.tree_extent,
        root_hash,
        claim,
        signatures: of_ours,
        signature_beside: options.beside.signature(designator).cloned(),
    }))
}

fn companions_without_data(
    dissection: &Dissection,
    designator: Designator,
    companions: [Designator; 2],
) -> Result<Option<VeritySet>, Box<Finding>> {
    let left_alone = companions.into_iter().find_map(|companion| dissection.chosen(companion));
    match left_alone {
        None => Ok(None),
        Some(partition) => Err(Box::new(Finding::of_partition(
            Rule::HashWithoutData,
            partition.number,
            format!("a {designator} partition"),
            "none",
        ))),
    }
}

/// Companions of another architecture than the data partition belong to other data.
fn pass_over_other_architectures(
    dissection: &mut Dissection,
    companion: Designator,
    architecture: Option<Architecture>,
    data: PartitionNumber,
) {
    for index in indices(dissection, companion) {
        if let Some(partition) = dissection.partitions.get_mut(index)
            && partition.architecture() != architecture
        {
            partition.standing = Standing::Passed(PassedOver::Architecture(data));
        }
    }
}

/// Reads every signature partition that is a candidate. One that cannot be read is a finding and is passed over only
/// in the sense that it signs nothing: the finding stands.
fn read_signatures(dissection: &mut Dissection, bytes: &SparseBytes, designator: Designator) -> Vec<Signed> {
    let mut signatures = Vec::new();
    for index in indices(dissection, designator) {
        let Some(partition) = dissection.partitions.get(index) else { continue };
        let Some(number) = partition.number else { continue };
        let content = partition
            .extent
            .length()
            .in_memory()
            .and_then(|length| Window::new(bytes, partition.extent).get(0, length));
        let parsed = match content {
            Some(content) => VeritySignature::parse(content).map_err(|error| error.to_string()),
            None => Err(format!("a partition of {} bytes", partition.extent.length())),
        };
        match parsed {
            Ok(signature) => signatures.push(Signed { index, number, signature }),
            Err(found) => dissection.findings.push(Finding::of_partition(
                Rule::SignaturePartitionInvalid,
                Some(number),
                "one JSON object with rootHash and signature, then NUL bytes",
                printable(&found),
            )),
        }
    }
    signatures
}

/// An image with several versions has a signature for each: one for a data partition that is there and was not chosen
/// says nothing about the one that was, and its hash partition is not the chosen one's.
fn pass_over_signatures_of_other_slots(
    dissection: &mut Dissection,
    signatures: Vec<Signed>,
    data: Designator,
    hash: Designator,
) -> Vec<Signed> {
    let of_another_slot = |signed: &Signed| {
        let expected = Some(signed.signature.root_hash.data_partition_uuid());
        dissection.partitions.iter().any(|partition| {
            partition.uuid == expected
                && partition.partition_type.designator() == Some(data)
                && partition.standing != Standing::Chosen(data)
        })
    };
    let (others, ours): (Vec<Signed>, Vec<Signed>) = signatures.into_iter().partition(of_another_slot);
    for other in others {
        if let Some(partition) = dissection.partitions.get_mut(other.index) {
            partition.standing = Standing::Passed(PassedOver::OtherSignature);
        }
        let tree = other.signature.root_hash.hash_partition_uuid();
        for index in indices(dissection, hash) {
            if let Some(partition) = dissection.partitions.get_mut(index)
                && partition.uuid == Some(tree)
            {
                partition.standing = Standing::Passed(PassedOver::OtherRootHash);
            }
        }
    }
    ours
}

/// No signature is for this data partition: says whether the data partition or the signature is the odd one.
fn foreign_signature(
    dissection: &Dissection,
    hashes: &[usize],
    foreign: &Signed,
    data: &Partition,
    data_number: PartitionNumber,
) -> Box<Finding> {
    let root_hash = &foreign.signature.root_hash;
    let tree_is_there = hashes
        .iter()
        .filter_map(|index| dissection.partitions.get(*index)?.uuid)
        .any(|uuid| uuid == root_hash.hash_partition_uuid());
    match data.uuid {
        Some(uuid) if tree_is_there => {
            let wanted = WantedRootHash { root_hash, proposed_by: None };
            mismatch(Rule::DataUuidMismatch, data_number, wanted, root_hash.data_partition_uuid(), uuid)
        }
        uuid => Box::new(Finding::of_partition(
            Rule::SignatureOfAnother,
            Some(foreign.number),
            format!(
                "a root hash that begins with {}",
                uuid.map_or_else(String::new, |uuid| uuid.to_string())
            ),
            format!("root hash {root_hash}"),
        )),
    }
}

fn mismatch(
    rule: Rule,
    partition: PartitionNumber,
    wanted: WantedRootHash<'_>,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Box<Finding> {
    Box::new(Finding::of_partition(
        rule,
        Some(partition),
        format!("UUID {expected} (of {})", wanted.text()),
        format!("UUID {found}"),
    ))
}

/// The hash partition that the root hash names, or the best one where the root hash is not known.
fn choose_hash(
    dissection: &mut Dissection,
    designator: Designator,
    known: Option<WantedRootHash<'_>>,
    native: Architecture,
) -> Result<Partition, Box<Finding>> {
    if let Some(known) = known {
        let expected = known.root_hash.hash_partition_uuid();
        let candidates = indices(dissection, designator);
        let belongs = |partition: &Partition| partition.uuid == Some(expected);
        if candidates.iter().filter_map(|index| dissection.partitions.get(*index)).any(belongs) {
            for index in candidates {
                if let Some(partition) = dissection.partitions.get_mut(index)
                    && !belongs(partition)
                {
                    partition.standing = Standing::Passed(PassedOver::OtherRootHash);
                }
            }
        } else if let Some((number, found)) = candidates
            .first()
            .and_then(|index| dissection.partitions.get(*index))
            .and_then(|partition| Some((partition.number?, partition.uuid?)))
        {
            return Err(mismatch(known.rule(Rule::HashUuidMismatch), number, known, expected, found));
        }
    }
    keep_the_best(dissection, designator, native);
    dissection.chosen(designator).cloned().ok_or_else(|| {
        Box::new(Finding::of_image(Rule::HashUuidMismatch, format!("a {designator} partition"), "none"))
    })
}

/// The superblock at the beginning of a hash partition or file of `size` bytes, of which `number` is that of the
/// partition.
fn parse_superblock(
    content: Option<&[u8]>,
    size: ByteLength,
    number: Option<PartitionNumber>,
) -> Result<VeritySuperblock, Box<Finding>> {
    let invalid = |found: String| {
        Box::new(Finding::of_partition(
            Rule::VeritySuperblockInvalid,
            number,
            "version 1, type 1, sha256 or sha512, blocks of 512 to 4096 bytes",
            printable(&found),
        ))
    };
    match content.and_then(|content| content.get(..VeritySuperblock::SIZE)) {
        None => Err(invalid(format!("a hash tree of {size} bytes"))),
        Some(content) => VeritySuperblock::parse(content).map_err(|error| invalid(error.to_string())),
    }
}

struct Shape {
    geometry: HashTreeGeometry,
    data_extent: Extent,
    tree_extent: Extent,
}

/// Checks that the tree lies inside its partition or file and the hashed area inside the data partition. Both places come
/// with the number of their partition, where they have one.
fn shape(
    dissection: &Dissection,
    (data, data_number): (Extent, Option<PartitionNumber>),
    (hash, hash_number): (Extent, Option<PartitionNumber>),
    superblock: &VeritySuperblock,
    root_hash: &RootHash,
) -> Result<Shape, Box<Finding>> {
    let refuse = |rule, number, expected: String, found: String| {
        Err(Box::new(Finding::of_partition(rule, number, expected, found)))
    };
    if root_hash.algorithm() != superblock.algorithm {
        return refuse(
            Rule::DigestLengthMismatch,
            hash_number,
            format!(
                "a hash tree of {} (the root hash has {} bytes)",
                root_hash.algorithm(),
                root_hash.as_bytes().len()
            ),
            superblock.algorithm.to_string(),
        );
    }
    let sector = dissection.sector_size().bytes();
    let smallest = superblock.data_block_size.bytes().min(superblock.hash_block_size.bytes());
    if smallest < sector {
        return refuse(
            Rule::BlockSmallerThanSector,
            hash_number,
            format!("blocks of at least {sector} bytes"),
            format!("blocks of {smallest} bytes"),
        );
    }
    let geometry = match HashTreeGeometry::new(superblock) {
        Ok(geometry) => geometry,
        Err(error) => {
            return refuse(
                Rule::HashTreeOutside,
                hash_number,
                "a hash tree of possible size".to_owned(),
                error.to_string(),
            );
        }
    };
    let data_length = geometry.data_length();
    let Some(data_extent) = data.part(ByteLength::ZERO, data_length) else {
        return refuse(
            Rule::DataBlocksOutside,
            data_number,
            format!("at most {} bytes", data.length()),
            format!("{data_length} hashed bytes"),
        );
    };
    let tree = geometry.tree_extent();
    let Some(tree_extent) = hash.part(ByteLength::new(tree.start().bytes()), tree.length()) else {
        return refuse(
            Rule::HashTreeOutside,
            hash_number,
            format!("a hash tree that ends within {} bytes", hash.length()),
            format!("a hash tree that ends at {}", tree.end()),
        );
    };
    Ok(Shape { geometry, data_extent, tree_extent })
}
