//! The two levels of tables between the disk and the file.

use super::{ENTRY, Header, Qcow2Error, SUBCLUSTERS};
use crate::format::units::{ByteLength, ByteOffset, Extent};

/// The bits of an entry that hold an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The bit of a second table's entry for a cluster that is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The bit of an entry that only writers need: nobody else uses the cluster.
const EXCLUSIVE: u64 = 1 << 63;
/// The bit of a second table's entry for a cluster that reads as zeros, whatever is allocated for it.
const ZERO: u64 = 1;
/// The unit that the length of a compressed cluster is counted in, in bytes.
const SECTOR: u64 = 512;

/// Where the second tables lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    header: Header,
    /// The offset of each second table in the order of the disk; 0 for none.
    tables: Vec<u64>,
    /// The same in the order of the file.
    sorted: Vec<u64>,
}

/// A part of the disk that is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where on the disk.
    pub disk: Extent,
    /// Where in the file.
    pub source: Source,
}

/// Where in the file a part of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// There, in at most so many bytes, compressed: one cluster, of which the disk may have only the beginning.
    Compressed(Extent),
    /// From there on, as it is.
    Stored(ByteOffset),
}

impl Header {
    /// Reads the first table, the bytes of [`Header::first_table`].
    ///
    /// # Errors
    /// [`Qcow2Error`] where an entry is not what it should be, or two tables share bytes.
    pub fn map(self, table: &[u8]) -> Result<Map, Qcow2Error> {
        if ByteLength::of(table) != self.first_table.length() {
            let (what, found) = ("length of the first table", ByteLength::of(table).bytes());
            return Err(Qcow2Error::field(what, self.first_table.length().to_string(), found));
        }
        let mut tables = Vec::with_capacity(table.len() / 8);
        let (entries, _) = table.as_chunks::<8>();
        for entry in entries {
            tables.push(self.second_table(u64::from_be_bytes(*entry))?);
        }
        let mut sorted: Vec<u64> = tables.iter().copied().filter(|offset| *offset != 0).collect();
        sorted.sort_unstable();
        if let Some([offset, _]) = sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            let (what, other) = ("a second table", "another one");
            return Err(Qcow2Error::Overlap { what, offset: *offset, other });
        }
        let map = Self::with_tables(self, tables, sorted);
        for offset in &map.sorted {
            map.outside_of_first_table("a second table", *offset, map.header.cluster())?;
        }
        Ok(map)
    }

    const fn with_tables(header: Self, tables: Vec<u64>, sorted: Vec<u64>) -> Map {
        Map { header, tables, sorted }
    }

    /// The offset of a second table from an entry of the first; 0 for none.
    fn second_table(&self, entry: u64) -> Result<u64, Qcow2Error> {
        let offset = entry & OFFSET;
        if entry & !(OFFSET | EXCLUSIVE) != 0 {
            return Err(Qcow2Error::field("reserved bits of the first table", "0", entry));
        }
        if !self.is_aligned(offset) {
            let expected = format!("a multiple of {}", self.cluster().bytes());
            return Err(Qcow2Error::field("offset of a second table", expected, offset));
        }
        if offset != 0 {
            self.inside("second table", self.extent("second table", offset, self.cluster())?)?;
        }
        Ok(offset)
    }

    fn extent(&self, what: &'static str, offset: u64, length: ByteLength) -> Result<Extent, Qcow2Error> {
        Extent::new(ByteOffset::new(offset), length)
            .ok_or_else(|| Qcow2Error::field(what, "an end that fits 64 bits", offset))
    }
}

impl Map {
    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// How many second tables there could be; [`Self::second_table`] says which are.
    #[must_use]
    pub fn second_tables(&self) -> usize {
        self.tables.len()
    }

    /// Where a second table lies; `None` where the disk has only zeros there.
    #[must_use]
    pub fn second_table(&self, index: usize) -> Option<Extent> {
        let offset = self.tables.get(index).copied().filter(|offset| *offset != 0)?;
        Extent::new(ByteOffset::new(offset), self.header.cluster())
    }

    /// Reads a second table: what the file has of the part of the disk that it describes, in order. All else is zeros.
    #[must_use]
    pub fn pieces<'a>(&'a self, index: usize, table: &'a [u8]) -> Pieces<'a> {
        let first = u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(self.header.second_table_reach());
        Pieces { map: self, table, disk: first, part: 0 }
    }

    /// Refuses what shares bytes with the header or a table.
    fn apart(&self, what: &'static str, found: Extent) -> Result<(), Qcow2Error> {
        let (start, length) = (found.start().bytes(), found.length());
        self.outside_of_first_table(what, start, length)?;
        // The only one that can reach into it begins within a cluster before its end.
        let cluster = self.header.cluster().bytes();
        let before = self.sorted.partition_point(|table| *table < found.end().bytes());
        let nearest = before.checked_sub(1).and_then(|index| self.sorted.get(index));
        match nearest {
            Some(table) if table.saturating_add(cluster) > start => {
                Err(Qcow2Error::Overlap { what, offset: start, other: "a second table" })
            }
            _ => Ok(()),
        }
    }

    fn outside_of_first_table(
        &self,
        what: &'static str,
        offset: u64,
        length: ByteLength,
    ) -> Result<(), Qcow2Error> {
        let found = self.header.extent(what, offset, length)?;
        let overlap = |other| Err(Qcow2Error::Overlap { what, offset, other });
        if Extent::from_beginning(self.header.cluster()).overlaps(found) {
            return overlap("the header");
        }
        if self.header.first_table.overlaps(found) {
            return overlap("the first table");
        }
        Ok(())
    }

    /// What the file has of the cluster, or with extended entries of a part of it.
    fn piece(&self, entry: Entry, disk: u64, part: u32) -> Result<Option<Piece>, Qcow2Error> {
        let cluster = self.header.cluster().bytes();
        if entry.descriptor & COMPRESSED != 0 {
            return self.compressed(entry.descriptor, disk, part);
        }
        let offset = entry.descriptor & OFFSET;
        let zero = entry.descriptor & ZERO != 0;
        let allowed = OFFSET | EXCLUSIVE | if self.header.zero_flag { ZERO } else { 0 };
        if entry.descriptor & !allowed != 0 {
            return Err(Qcow2Error::field("reserved bits of a second table", "0", entry.descriptor));
        }
        if !self.header.is_aligned(offset) {
            let expected = format!("a multiple of {cluster}");
            return Err(Qcow2Error::field("offset of a cluster", expected, offset));
        }
        let allocated = if self.header.extended {
            let (allocated, zeros) = entry.part(part);
            if allocated && zeros {
                return Err(Qcow2Error::field(
                    "a part of a cluster",
                    "data or zeros, not both",
                    entry.bitmap,
                ));
            }
            if allocated && offset == 0 {
                return Err(Qcow2Error::field("offset of a cluster with data", "not 0", offset));
            }
            allocated
        } else {
            offset != 0 && !zero
        };
        if !allocated {
            return Ok(None);
        }
        let (within, length) = if self.header.extended {
            let length = cluster / u64::from(SUBCLUSTERS);
            (u64::from(part).saturating_mul(length), length)
        } else {
            (0, cluster)
        };
        let Some(length) = self.on_disk(disk.saturating_add(within), length) else { return Ok(None) };
        let what = "a cluster";
        let found = self.header.extent(what, offset.saturating_add(within), length)?;
        self.header.inside(what, found)?;
        self.apart(what, found)?;
        let disk = self.header.extent(what, disk.saturating_add(within), length)?;
        Ok(Some(Piece { disk, source: Source::Stored(found.start()) }))
    }

    fn compressed(&self, descriptor: u64, disk: u64, part: u32) -> Result<Option<Piece>, Qcow2Error> {
        // The whole of it comes with its first part.
        let Some(length) = self.on_disk(disk, self.header.cluster().bytes()).filter(|_| part == 0) else {
            return Ok(None);
        };
        let what = "a compressed cluster";
        // Between 49 bits for the largest cluster and 61 for the smallest.
        let offset_bits = 70_u32.saturating_sub(self.header.cluster_bits);
        let offset_mask = 1_u64.checked_shl(offset_bits).unwrap_or(0).wrapping_sub(1);
        let sectors = (descriptor & (COMPRESSED - 1)) >> offset_bits;
        let offset = descriptor & offset_mask;
        if descriptor & EXCLUSIVE != 0 || offset > OFFSET | 0x1ff {
            return Err(Qcow2Error::field(
                "entry of a compressed cluster",
                "an offset of 56 bits",
                descriptor,
            ));
        }
        let end = (offset & !(SECTOR - 1))
            .saturating_add(sectors.saturating_add(1).saturating_mul(SECTOR))
            // The last sector may be there in part.
            .min(self.header.file.bytes());
        let available = ByteLength::new(end.saturating_sub(offset));
        let found = self.header.extent(what, offset, available)?;
        if available == ByteLength::ZERO {
            return Err(Qcow2Error::Outside { what, found, file: self.header.file });
        }
        self.apart(what, found)?;
        let disk = self.header.extent(what, disk, length)?;
        Ok(Some(Piece { disk, source: Source::Compressed(found) }))
    }

    /// How much of so many bytes the disk has there.
    fn on_disk(&self, disk: u64, length: u64) -> Option<ByteLength> {
        let rest = self.header.disk.bytes().saturating_sub(disk).min(length);
        (rest > 0).then(|| ByteLength::new(rest))
    }
}

/// An entry of a second table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    descriptor: u64,
    bitmap: u64,
}

impl Entry {
    /// Whether this part of the cluster has data, and whether it has zeros.
    const fn part(self, part: u32) -> (bool, bool) {
        let bits = self.bitmap >> (part % SUBCLUSTERS);
        (bits & 1 != 0, bits & (1 << SUBCLUSTERS) != 0)
    }
}

/// The parts of the disk that a second table finds in the file.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    map: &'a Map,
    table: &'a [u8],
    /// Where on the disk the next entry's cluster is.
    disk: u64,
    /// Which part of that cluster is next.
    part: u32,
}

impl Pieces<'_> {
    fn entry(&self) -> Option<Entry> {
        let (descriptor, rest) = self.table.split_first_chunk::<8>()?;
        let bitmap = if self.map.header.extended { u64::from_be_bytes(*rest.first_chunk()?) } else { 0 };
        Some(Entry { descriptor: u64::from_be_bytes(*descriptor), bitmap })
    }

    fn advance(&mut self) {
        let (parts, length) = if self.map.header.extended { (SUBCLUSTERS, 2 * ENTRY) } else { (1, ENTRY) };
        self.part = self.part.saturating_add(1);
        if self.part >= parts {
            self.part = 0;
            self.disk = self.disk.saturating_add(self.map.header.cluster().bytes());
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            self.table = self.table.get(length..).unwrap_or_default();
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, Qcow2Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = self.entry()?;
            let piece = self.map.piece(entry, self.disk, self.part).transpose();
            self.advance();
            if piece.is_some() {
                return piece;
            }
        }
    }
}
