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

use super::candidates::{indices, keep_the_best};
use super::dissection::{Dissection, Partition, PassedOver, RootHashClaim, Standing, VeritySet};
use super::finding::{Finding, Rule, printable};
use super::survey::SurveyOptions;

/// Finds the verity sets of root and usr, and says of every companion whether it is used.
pub(super) fn pair(dissection: &mut Dissection, bytes: &SparseBytes, options: &SurveyOptions) {
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

/// The findings for an image without a table, in which no partition can have a root hash that was given.
pub(super) fn without_table(options: &SurveyOptions) -> Vec<Finding> {
    [Designator::Root, Designator::Usr]
        .into_iter()
        .filter_map(|data| Some(given_for_nothing(data, options.given(data)?)))
        .collect()
}

/// Whoever names a root hash wants what it stands for and nothing else: about the image as a whole, so that it counts
/// whatever the image has instead.
fn given_for_nothing(designator: Designator, given: &RootHash) -> Finding {
    Finding::of_image(
        Rule::RootHashMismatch,
        format!("a {designator} partition with root hash {given}"),
        format!("no {designator} partition"),
    )
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
        if let Some(given) = options.given(designator) {
            return Err(Box::new(given_for_nothing(designator, given)));
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
    let given = options.given(designator);
    let matching = |signed: &&Signed| match given {
        Some(given) => signed.signature.root_hash == *given,
        None => signed.signature.root_hash.data_partition_uuid() == data_uuid,
    };
    let signed_root_hash = signatures.iter().find(matching).map(|signed| signed.signature.root_hash.clone());
    let of_ours: Vec<(PartitionNumber, VeritySignature)> = signatures
        .iter()
        .filter(|signed| Some(&signed.signature.root_hash) == given.or(signed_root_hash.as_ref()))
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
    if let Some(given) = given.filter(|given| given.data_partition_uuid() != data_uuid) {
        return Err(mismatch(
            Rule::DataUuidMismatch,
            data_number,
            given,
            given.data_partition_uuid(),
            data_uuid,
        ));
    }
    if of_ours.is_empty()
        && let Some(foreign) = signatures.first()
    {
        return Err(foreign_signature(dissection, &hashes, foreign, &data, data_number));
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
        return match given {
            Some(given) => Err(Box::new(Finding::of_partition(
                Rule::HashUuidMismatch,
                Some(data_number),
                format!("a {hash_designator} partition with UUID {}", given.hash_partition_uuid()),
                "none",
            ))),
            None => Ok(None),
        };
    }

    let known = given.cloned().or(signed_root_hash);
    let hash = choose_hash(dissection, hash_designator, known.as_ref(), options.architecture)?;
    let (Some(hash_number), Some(hash_uuid)) = (hash.number, hash.uuid) else {
        return Ok(None);
    };
    let superblock = read_superblock(bytes, &hash, hash_number)?;
    let (root_hash, claim) = match (given, known) {
        (Some(given), _) => (given.clone(), RootHashClaim::Given),
        (None, Some(signed)) => (signed, RootHashClaim::SignaturePartition),
        (None, None) => {
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
    let shape = shape(dissection, &data, data_number, &hash, hash_number, &superblock, &root_hash)?;
    Ok(Some(VeritySet {
        designator,
        data: data_number,
        hash: hash_number,
        superblock,
        geometry: shape.geometry,
        data_extent: shape.data_extent,
        tree_extent: shape.tree_extent,
        root_hash,
        claim,
        signatures: of_ours,
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
            mismatch(Rule::DataUuidMismatch, data_number, root_hash, root_hash.data_partition_uuid(), uuid)
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
    root_hash: &RootHash,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Box<Finding> {
    Box::new(Finding::of_partition(
        rule,
        Some(partition),
        format!("UUID {expected} (of root hash {root_hash})"),
        format!("UUID {found}"),
    ))
}

/// The hash partition that the root hash names, or the best one where the root hash is not known.
fn choose_hash(
    dissection: &mut Dissection,
    designator: Designator,
    known: Option<&RootHash>,
    native: Architecture,
) -> Result<Partition, Box<Finding>> {
    if let Some(root_hash) = known {
        let expected = root_hash.hash_partition_uuid();
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
            return Err(mismatch(Rule::HashUuidMismatch, number, root_hash, expected, found));
        }
    }
    keep_the_best(dissection, designator, native);
    dissection.chosen(designator).cloned().ok_or_else(|| {
        Box::new(Finding::of_image(Rule::HashUuidMismatch, format!("a {designator} partition"), "none"))
    })
}

fn read_superblock(
    bytes: &SparseBytes,
    hash: &Partition,
    number: PartitionNumber,
) -> Result<VeritySuperblock, Box<Finding>> {
    let invalid = |found: String| {
        Box::new(Finding::of_partition(
            Rule::VeritySuperblockInvalid,
            Some(number),
            "version 1, type 1, sha256 or sha512, blocks of 512 to 4096 bytes",
            printable(&found),
        ))
    };
    match Window::new(bytes, hash.extent).get(0, VeritySuperblock::SIZE) {
        None => Err(invalid(format!("a partition of {} bytes", hash.extent.length()))),
        Some(content) => VeritySuperblock::parse(content).map_err(|error| invalid(error.to_string())),
    }
}

struct Shape {
    geometry: HashTreeGeometry,
    data_extent: Extent,
    tree_extent: Extent,
}

/// Checks that the tree lies inside its partition and the hashed area inside the data partition.
fn shape(
    dissection: &Dissection,
    data: &Partition,
    data_number: PartitionNumber,
    hash: &Partition,
    hash_number: PartitionNumber,
    superblock: &VeritySuperblock,
    root_hash: &RootHash,
) -> Result<Shape, Box<Finding>> {
    let refuse = |rule, number, expected: String, found: String| {
        Err(Box::new(Finding::of_partition(rule, Some(number), expected, found)))
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
    let Some(data_extent) = data.extent.part(ByteLength::ZERO, data_length) else {
        return refuse(
            Rule::DataBlocksOutside,
            data_number,
            format!("at most {} bytes", data.extent.length()),
            format!("{data_length} hashed bytes"),
        );
    };
    let tree = geometry.tree_extent();
    let Some(tree_extent) = hash.extent.part(ByteLength::new(tree.start().bytes()), tree.length()) else {
        return refuse(
            Rule::HashTreeOutside,
            hash_number,
            format!("a hash tree that ends within {} bytes", hash.extent.length()),
            format!("a hash tree that ends at {}", tree.end()),
        );
    };
    Ok(Shape { geometry, data_extent, tree_extent })
}
