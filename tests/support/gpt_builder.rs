//! Images with a GUID partition table, built in memory; and damage done to them.
//!
//! Written from the specification (UEFI 2.10, chapter 5) alone: nothing here uses the parser that it tests. GUIDs are
//! numbers as their text spells them: `0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b`.

#![allow(dead_code, reason = "every test binary uses another part of this")]
#![allow(clippy::unwrap_used, reason = "a test image that cannot be built is a failed test")]

/// The type of an EFI system partition, for tests to which the type does not matter.
pub(crate) const ESP: u128 = 0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b;

/// Which copy of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Primary,
    Backup,
}

impl Which {
    pub(crate) const BOTH: [Self; 2] = [Self::Primary, Self::Backup];
}

/// What is to be in the image. The same calls give the same bytes.
#[derive(Debug, Clone)]
pub(crate) struct GptBuilder {
    sector_size: usize,
    alignment: usize,
    entry_size: usize,
    entry_count: usize,
    disk_uuid: u128,
    partitions: Vec<Option<Partition>>,
}

#[derive(Debug, Clone)]
struct Partition {
    type_uuid: u128,
    uuid: u128,
    label: String,
    attributes: u64,
    content: Vec<u8>,
}

/// An image and where its partitions lie.
#[derive(Debug, Clone)]
pub(crate) struct BuiltImage {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sector_size: usize,
    pub(crate) partitions: Vec<BuiltPartition>,
}

/// Where a partition lies, in bytes; its length is a multiple of the sector size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BuiltPartition {
    pub(crate) number: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl GptBuilder {
    /// An image without partitions: 128 entries of 128 bytes, partitions at multiples of 4096 bytes.
    pub(crate) fn new(sector_size: usize) -> Self {
        Self {
            sector_size,
            alignment: 4096,
            entry_size: 128,
            entry_count: 128,
            disk_uuid: 0x5b3d8a1c_1111_4222_8333_444444444444,
            partitions: Vec::new(),
        }
    }

    /// Lets partitions begin at multiples of `alignment` bytes, itself a multiple of the sector size.
    pub(crate) fn alignment(mut self, alignment: usize) -> Self {
        self.alignment = alignment;
        self
    }

    /// Gives the table `count` entries of `size` bytes.
    pub(crate) fn entries(mut self, count: usize, size: usize) -> Self {
        (self.entry_count, self.entry_size) = (count, size);
        self
    }

    /// Gives the disk this GUID.
    pub(crate) fn disk_uuid(mut self, disk_uuid: u128) -> Self {
        self.disk_uuid = disk_uuid;
        self
    }

    /// Adds a partition behind the others that holds `content`, filled up with zeros to a whole sector, at least one.
    pub(crate) fn partition(
        mut self,
        type_uuid: u128,
        uuid: u128,
        label: &str,
        attributes: u64,
        content: Vec<u8>,
    ) -> Self {
        self.partitions.push(Some(Partition {
            type_uuid,
            uuid,
            label: label.to_owned(),
            attributes,
            content,
        }));
        self
    }

    /// Leaves an entry unused.
    pub(crate) fn unused(mut self) -> Self {
        self.partitions.push(None);
        self
    }

    /// Builds the image.
    pub(crate) fn build(&self) -> BuiltImage {
        let sector = self.sector_size;
        let table_length = self.entry_count * self.entry_size;
        let table_blocks = table_length.div_ceil(sector);
        let first_usable = 2 + table_blocks;

        let mut table = vec![0; table_length];
        let mut bytes = vec![0; first_usable * sector];
        let mut partitions = Vec::new();
        for (index, partition) in self.partitions.iter().enumerate() {
            let Some(partition) = partition else { continue };
            let offset = bytes.len().next_multiple_of(self.alignment);
            let length = partition.content.len().max(1).next_multiple_of(sector);
            bytes.resize(offset, 0);
            bytes.extend_from_slice(&partition.content);
            bytes.resize(offset + length, 0);
            let entry = &mut table[index * self.entry_size..];
            write_entry(entry, partition, offset / sector, (offset + length) / sector - 1);
            partitions.push(BuiltPartition {
                number: u32::try_from(index + 1).unwrap(),
                offset: number(offset),
                length: number(length),
            });
        }
        // Room for partitions that a test makes larger, and an end at a multiple of every sector size.
        let tail = (table_blocks + 1) * sector;
        let end = (bytes.len() + sector + tail).next_multiple_of(4096.max(sector));
        bytes.resize(end, 0);

        let last = end / sector - 1;
        let backup_table = last - table_blocks;
        for (own, alternate, entries) in [(1, last, 2), (last, 1, backup_table)] {
            bytes[entries * sector..][..table_length].copy_from_slice(&table);
            let header = &mut bytes[own * sector..][..sector];
            header[..8].copy_from_slice(b"EFI PART");
            header[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
            header[12..16].copy_from_slice(&92_u32.to_le_bytes());
            for (field, value) in
                [(24, own), (32, alternate), (40, first_usable), (48, backup_table - 1), (72, entries)]
            {
                put_u64(header, field, number(value));
            }
            header[56..72].copy_from_slice(&disk_guid(self.disk_uuid));
            put_u32(header, 80, u32::try_from(self.entry_count).unwrap());
            put_u32(header, 84, u32::try_from(self.entry_size).unwrap());
        }
        write_protective_mbr(&mut bytes, u32::try_from(last).unwrap_or(u32::MAX));
        repair_checksums(&mut bytes);
        BuiltImage { bytes, sector_size: sector, partitions }
    }
}

impl BuiltImage {
    /// Changes the block of a header. Its checksum stays as it was: see [`Self::repaired`].
    pub(crate) fn edit_header(mut self, which: Which, edit: impl FnOnce(&mut [u8])) -> Self {
        let block = self.header_block(which);
        edit(&mut self.bytes[block * self.sector_size..][..self.sector_size]);
        self
    }

    /// Changes the entry of partition `number`. Checksums stay as they were: see [`Self::repaired`].
    pub(crate) fn edit_entry(mut self, which: Which, number: usize, edit: impl FnOnce(&mut [u8])) -> Self {
        let header = &self.bytes[self.header_block(which) * self.sector_size..];
        let (start, size) = (get_u64(header, 72).unwrap(), get_u32(header, 84).unwrap());
        let size = usize::try_from(size).unwrap();
        let start = usize::try_from(start).unwrap() * self.sector_size + (number - 1) * size;
        edit(&mut self.bytes[start..][..size]);
        self
    }

    /// Changes the entry of partition `number` in both copies and makes all checksums right again.
    pub(crate) fn edit_both(self, number: usize, edit: impl Fn(&mut [u8])) -> Self {
        self.edit_entry(Which::Primary, number, &edit).edit_entry(Which::Backup, number, &edit).repaired()
    }

    /// Makes all checksums right again.
    pub(crate) fn repaired(mut self) -> Self {
        repair_checksums(&mut self.bytes);
        self
    }

    fn header_block(&self, which: Which) -> usize {
        match which {
            Which::Primary => 1,
            Which::Backup => self.bytes.len() / self.sector_size - 1,
        }
    }
}

/// Makes the checksums right of every header in a place where one can be, and of its entries, for every sector size.
///
/// Takes any bytes whatsoever; what lies outside them is left alone.
pub(crate) fn repair_checksums(bytes: &mut [u8]) {
    for sector in [512, 1024, 2048, 4096] {
        let last = (bytes.len() / sector).saturating_sub(1);
        for block in [1, last] {
            repair_copy(bytes, sector, block);
        }
    }
}

fn repair_copy(bytes: &mut [u8], sector: usize, block: usize) -> Option<()> {
    let start = block.checked_mul(sector)?;
    let header = bytes.get(start..start.checked_add(sector)?)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let entries = usize::try_from(get_u64(header, 72)?).ok()?.checked_mul(sector);
    let length = get_u32(header, 80)?.checked_mul(get_u32(header, 84)?);
    let size = usize::try_from(get_u32(header, 12)?).ok()?;
    let table = entries
        .zip(length.and_then(|length| usize::try_from(length).ok()))
        .and_then(|(entries, length)| bytes.get(entries..entries.checked_add(length)?));
    let table_checksum = table.map(crc32fast::hash);

    let header = bytes.get_mut(start..start.checked_add(sector)?)?;
    if let Some(checksum) = table_checksum {
        put_u32(header, 88, checksum);
    }
    put_u32(header, 16, 0);
    let checksum = crc32fast::hash(header.get(..size)?);
    put_u32(header, 16, checksum);
    Some(())
}

/// Writes a protective MBR over the last 66 bytes of the first 512.
pub(crate) fn write_protective_mbr(bytes: &mut [u8], size: u32) {
    bytes[446..510].fill(0);
    bytes[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    put_u32(bytes, 458, size);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// Puts a little-endian number into a header or an entry.
pub(crate) fn put_u32(bytes: &mut [u8], field: usize, value: u32) {
    bytes[field..][..4].copy_from_slice(&value.to_le_bytes());
}

/// Puts a little-endian number into a header or an entry.
pub(crate) fn put_u64(bytes: &mut [u8], field: usize, value: u64) {
    bytes[field..][..8].copy_from_slice(&value.to_le_bytes());
}

fn get_u32(bytes: &[u8], field: usize) -> Option<u32> {
    bytes.get(field..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn get_u64(bytes: &[u8], field: usize) -> Option<u64> {
    bytes.get(field..)?.first_chunk().copied().map(u64::from_le_bytes)
}

fn write_entry(entry: &mut [u8], partition: &Partition, first: usize, last: usize) {
    entry[..16].copy_from_slice(&disk_guid(partition.type_uuid));
    entry[16..32].copy_from_slice(&disk_guid(partition.uuid));
    put_u64(entry, 32, number(first));
    put_u64(entry, 40, number(last));
    put_u64(entry, 48, partition.attributes);
    let units = partition.label.encode_utf16().flat_map(u16::to_le_bytes);
    for (byte, unit) in entry[56..128].iter_mut().zip(units) {
        *byte = unit;
    }
}

/// A GUID as a table stores it: the first three fields little-endian (UEFI 2.10, appendix A).
fn disk_guid(text: u128) -> [u8; 16] {
    let mut bytes = text.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap()
}
