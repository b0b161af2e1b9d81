//! What about an encrypted volume must never reach the library that opens it, and what of it may be opened.

use crate::format::sparse::{SparseBytes, Window};
use crate::format::superblock::{KeyDerivation, Luks2KeySlot, Luks2Metadata, LuksError, LuksHeader, Mapping};
use crate::format::units::{ByteLength, ByteOffset, Extent, PartitionNumber};

use super::finding::{Finding, Rule, printable};

/// The one token type that needs no plug-in: libcryptsetup has its handler built in.
const BUILT_IN_TOKEN: &str = "luks2-keyring";
/// The most memory that cryptsetup itself makes a key slot with: 4 GiB.
const MAXIMUM_ARGON2_KIB: u64 = 4 << 20;
/// The most passes over the memory: cryptsetup makes key slots that take two seconds, which are a few passes over much
/// memory, or some tens over little.
const MAXIMUM_ARGON2_PASSES: u64 = 1000;
/// The most memory times passes: a minute or two on a small machine.
const MAXIMUM_ARGON2_WORK_KIB: u64 = 256 << 20;
/// The most threads; cryptsetup uses four at most.
const MAXIMUM_ARGON2_THREADS: u64 = 16;
/// The most iterations of PBKDF2, in a key slot or a digest: a minute on a small machine, fifty times what cryptsetup's
/// two seconds make of it.
const MAXIMUM_ITERATIONS: u64 = 100_000_000;
/// The most iterations for one passphrase, which is tried in every key slot and compared with a digest each time: some
/// minutes on a small machine, and more than the 32 slots of a volume have that cryptsetup makes.
const MAXIMUM_ITERATIONS_IN_ALL: u64 = 4 * MAXIMUM_ITERATIONS;
/// The requirements that change nothing in how a volume is opened: none that is known.
const SUPPORTED_REQUIREMENTS: [&str; 0] = [];

/// What speaks against opening the volume with this header, and this metadata if it is of version 2: null ciphers
/// (CVE-2025-59054, CVE-2025-58356), tokens that load code, absurd costs, reencryption that was not finished, kinds of
/// segments and requirements that are not known. A volume of version 2 without metadata is damaged, which is a finding
/// already.
#[must_use]
pub fn findings(
    number: Option<PartitionNumber>,
    header: &LuksHeader,
    metadata: Option<&Luks2Metadata>,
) -> Vec<Finding> {
    let report = |(rule, expected, found): (Rule, String, String)| {
        Finding::of_partition(rule, number, expected, printable(&found))
    };
    let objections = match (header, metadata) {
        (LuksHeader::Luks1(_), _) => objections_to_luks1(header),
        (LuksHeader::Luks2(_), Some(metadata)) => objections_to_luks2(header, metadata),
        (LuksHeader::Luks2(_), None) => Vec::new(),
    };
    objections.into_iter().map(report).collect()
}

fn objections_to_luks1(header: &LuksHeader) -> Vec<(Rule, String, String)> {
    let LuksHeader::Luks1(luks1) = header else { return Vec::new() };
    let mut objections = Vec::new();
    if luks1.is_null_cipher() {
        let cipher = format!("{}-{}", luks1.cipher_name, luks1.cipher_mode);
        objections.push((Rule::LuksNullCipher, "a cipher that encrypts".to_owned(), cipher));
    }
    let slots = luks1.key_slots.iter().map(|slot| (format!("key slot {}", slot.number), slot.iterations));
    for (what, iterations) in slots.chain([("the digest".to_owned(), luks1.digest_iterations)]) {
        objections.extend(absurd_iterations(&what, u64::from(iterations)));
    }
    if objections.is_empty() {
        let slots = luks1.key_slots.iter().map(|slot| u64::from(slot.iterations));
        objections.extend(absurd_in_all(slots, [u64::from(luks1.digest_iterations)]));
    }
    objections
}

fn objections_to_luks2(header: &LuksHeader, metadata: &Luks2Metadata) -> Vec<(Rule, String, String)> {
    let mut objections = Vec::new();
    let mut object =
        |rule, expected: &str, found: String| objections.push((rule, expected.to_owned(), found));
    if let Some(segment) = metadata.segments.iter().find(|segment| segment.is_null_cipher()) {
        let found = match &segment.encryption {
            Some(cipher) if segment.kind == "crypt" => {
                format!("a null cipher, '{cipher}', in segment {}", segment.name)
            }
            _ => format!("a null cipher: segment {} is of type '{}'", segment.name, segment.kind),
        };
        object(Rule::LuksNullCipher, "a cipher that encrypts in every segment", found);
    }
    if let Some(slot) = metadata.key_slots.iter().find(|slot| slot.is_null_cipher()) {
        let found = format!("a null cipher in key slot {}", slot.name);
        object(Rule::LuksNullCipher, "a cipher that encrypts in every key slot", found);
    }
    if let Some(token) = metadata.token_types.iter().find(|token| *token != BUILT_IN_TOKEN) {
        let expected = format!("no token, or '{BUILT_IN_TOKEN}'");
        object(Rule::LuksExternalToken, &expected, format!("token '{token}'"));
    }
    let unknown = |requirement: &&String| !SUPPORTED_REQUIREMENTS.contains(&requirement.as_str());
    if let Some(requirement) = metadata.requirements.iter().find(unknown) {
        object(Rule::LuksUnsupported, "no requirements", format!("requirement '{requirement}'"));
    }
    if let Some(slot) = metadata.key_slots.iter().find(|slot| slot.kind != "luks2") {
        let found = format!("key slot {} of type '{}'", slot.name, slot.kind);
        object(Rule::LuksUnsupported, "key slots of type 'luks2'", found);
    }
    // A null cipher has been reported already.
    if let (Err(error), false) = (Mapping::of(header, Some(metadata)), metadata.has_null_cipher()) {
        object(Rule::LuksUnsupported, "data that is mapped as a whole", error.to_string());
    }
    for slot in &metadata.key_slots {
        objections.extend(slot.key_derivation.as_ref().and_then(|kdf| absurd_cost(slot, kdf)));
    }
    for digest in &metadata.digests {
        let what = format!("digest {}", digest.name);
        objections.extend(absurd_iterations(&what, digest.iterations.unwrap_or(0)));
    }
    if !objections.iter().any(|(rule, ..)| *rule == Rule::LuksMemory) {
        objections.extend(absurd_passes_in_all(&metadata.key_slots));
        let derivations = || metadata.key_slots.iter().map(|slot| slot.key_derivation.as_ref());
        let slots = derivations().map(|kdf| kdf.and_then(|kdf| kdf.iterations).unwrap_or(0));
        let digests = metadata.digests.iter().map(|digest| digest.iterations.unwrap_or(0));
        objections.extend(absurd_in_all(slots, digests));
    }
    objections
}

/// What is bearable once may not be bearable in every key slot.
fn absurd_passes_in_all(slots: &[Luks2KeySlot]) -> Option<(Rule, String, String)> {
    let work = slots
        .iter()
        .filter_map(|slot| slot.key_derivation.as_ref())
        .map(|kdf| kdf.memory_kib.unwrap_or(0).saturating_mul(kdf.time.unwrap_or(0)))
        .fold(0_u64, u64::saturating_add);
    let expected = format!("at most {MAXIMUM_ARGON2_WORK_KIB} KiB in all passes of all key slots for Argon2");
    let found = || format!("{work} KiB in {} key slots", slots.len());
    (work > MAXIMUM_ARGON2_WORK_KIB).then(|| (Rule::LuksMemory, expected, found()))
}

/// As [`absurd_passes_in_all`]; what each key slot gives is compared with every digest.
fn absurd_in_all(
    slots: impl Iterator<Item = u64> + Clone,
    digests: impl IntoIterator<Item = u64>,
) -> Option<(Rule, String, String)> {
    let count = u64::try_from(slots.clone().count()).unwrap_or(u64::MAX);
    let digests = digests.into_iter().fold(0_u64, u64::saturating_add).saturating_mul(count);
    let work = slots.fold(digests, u64::saturating_add);
    let expected = format!("at most {MAXIMUM_ITERATIONS_IN_ALL} iterations for one passphrase");
    let found = || format!("{work} iterations in {count} key slots and their digests");
    (work > MAXIMUM_ITERATIONS_IN_ALL).then(|| (Rule::LuksMemory, expected, found()))
}

fn absurd_iterations(what: &str, iterations: u64) -> Option<(Rule, String, String)> {
    let expected = format!("at most {MAXIMUM_ITERATIONS} iterations");
    (iterations > MAXIMUM_ITERATIONS)
        .then(|| (Rule::LuksMemory, expected, format!("{iterations} iterations for {what}")))
}

fn absurd_cost(slot: &Luks2KeySlot, kdf: &KeyDerivation) -> Option<(Rule, String, String)> {
    let too_much = |expected: String, found: String| {
        Some((Rule::LuksMemory, expected, format!("{found} in key slot {}", slot.name)))
    };
    let (memory, passes) = (kdf.memory_kib.unwrap_or(0), kdf.time.unwrap_or(0));
    if memory > MAXIMUM_ARGON2_KIB {
        return too_much(
            format!("at most {MAXIMUM_ARGON2_KIB} KiB of memory for Argon2"),
            format!("{memory} KiB"),
        );
    }
    if passes > MAXIMUM_ARGON2_PASSES || memory.saturating_mul(passes) > MAXIMUM_ARGON2_WORK_KIB {
        return too_much(
            format!(
                "at most {MAXIMUM_ARGON2_PASSES} passes, and {MAXIMUM_ARGON2_WORK_KIB} KiB in all of them, for Argon2"
            ),
            format!("{passes} passes over {memory} KiB"),
        );
    }
    if let Some(threads) = kdf.cpus.filter(|threads| *threads > MAXIMUM_ARGON2_THREADS) {
        return too_much(
            format!("at most {MAXIMUM_ARGON2_THREADS} threads for Argon2"),
            format!("{threads} threads"),
        );
    }
    absurd_iterations(&format!("key slot {}", slot.name), kdf.iterations.unwrap_or(0))
}

/// A volume against whose being opened nothing speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenableVolume {
    /// Its header.
    pub header: LuksHeader,
    /// How the kernel must map its data.
    pub mapping: Mapping,
    /// How many key slots there are to try.
    pub key_slots: usize,
    /// What has to be read besides what was judged to get at the key: the areas of the key slots, behind the header and
    /// in front of the data.
    pub key_areas: Vec<Extent>,
    /// Whether a change of the data is noticed.
    pub integrity: bool,
}

/// How much of the beginning of a volume has to be read to judge it, if its first 4096 bytes are `binary`.
///
/// # Errors
/// The finding, where this is no LUKS header, or one that makes no sense.
pub fn header_length(
    number: Option<PartitionNumber>,
    binary: &[u8],
    partition: ByteLength,
) -> Result<ByteLength, Finding> {
    match parse(number, binary, partition)? {
        LuksHeader::Luks1(_) => Ok(ByteLength::of(binary)),
        LuksHeader::Luks2(header) => Ok(ByteLength::new(header.header_size.bytes().saturating_mul(2))),
    }
}

fn parse(number: Option<PartitionNumber>, head: &[u8], partition: ByteLength) -> Result<LuksHeader, Finding> {
    let mut bytes = SparseBytes::new();
    bytes.insert(ByteOffset::ZERO, head);
    let window = Window::new(&bytes, Extent::from_beginning(partition));
    match LuksHeader::parse(&window) {
        Some(Ok(header)) => Ok(header),
        Some(Err(error)) => Err(invalid(number, error.to_string())),
        None => Err(invalid(number, "something else".to_owned())),
    }
}

fn invalid(number: Option<PartitionNumber>, found: String) -> Finding {
    let expected = "a LUKS header as the specification has it";
    Finding::of_partition(Rule::LuksInvalid, number, expected, printable(&found))
}

/// Judges the volume whose first [`header_length`] bytes are `head`: these very bytes, and no others that may come to
/// lie there, are what the library that opens it may see.
///
/// # Errors
/// Every reason against opening it.
pub fn judge(
    number: Option<PartitionNumber>,
    head: &[u8],
    partition: ByteLength,
) -> Result<OpenableVolume, Vec<Finding>> {
    let header = parse(number, head, partition).map_err(|finding| vec![finding])?;
    let damaged = |error: LuksError| vec![invalid(number, error.to_string())];
    let metadata = match &header {
        LuksHeader::Luks1(_) => None,
        LuksHeader::Luks2(luks2) => Some(luks2.metadata(head).map_err(damaged)?),
    };
    let objections = findings(number, &header, metadata.as_ref());
    if !objections.is_empty() {
        return Err(objections);
    }
    let unsupported = |found: String| {
        vec![Finding::of_partition(
            Rule::LuksUnsupported,
            number,
            "data behind the header",
            printable(&found),
        )]
    };
    let mapping = Mapping::of(&header, metadata.as_ref()).map_err(|error| unsupported(error.to_string()))?;
    let data = ByteOffset::new(mapping.offset.saturating_mul(512));
    if data.bytes() >= partition.bytes() {
        return Err(invalid_place(number, format!("data at byte {data} of {partition}")));
    }
    let key_areas =
        key_areas(&header, metadata.as_ref(), data).map_err(|found| invalid_place(number, found))?;
    Ok(OpenableVolume {
        key_slots: header.key_slot_count(metadata.as_ref()),
        integrity: metadata.as_ref().is_some_and(Luks2Metadata::has_integrity),
        header,
        mapping,
        key_areas,
    })
}

fn invalid_place(number: Option<PartitionNumber>, found: String) -> Vec<Finding> {
    let expected = format!(
        "key slots behind the header, in front of the data, and in the first {} bytes",
        LuksHeader::MAXIMUM_HEAD
    );
    vec![Finding::of_partition(Rule::LuksInvalid, number, expected, printable(&found))]
}

/// The areas of the key slots, if all of them lie between the header and the data.
fn key_areas(
    header: &LuksHeader,
    metadata: Option<&Luks2Metadata>,
    data: ByteOffset,
) -> Result<Vec<Extent>, String> {
    let mut areas = header.head_extents(metadata).into_iter();
    let header_end = areas.next().map_or(ByteOffset::ZERO, Extent::end);
    let end = data.bytes().min(LuksHeader::MAXIMUM_HEAD.bytes());
    let areas: Vec<Extent> = areas.collect();
    let slots = metadata.map_or(&[][..], |metadata| &metadata.key_slots);
    if let Some(slot) = slots.iter().find(|slot| slot.area.is_none()) {
        return Err(format!("key slot {} without a place in numbers that fit", slot.name));
    }
    match areas.iter().find(|area| area.start() < header_end || area.end().bytes() > end) {
        None if data < header_end => Err(format!("data at byte {data}, within the header")),
        None => Ok(areas),
        Some(area) => Err(format!("a key slot in {area}, and the data at byte {data}")),
    }
}

#[cfg(test)]
mod tests;
