/// The length of an entry.
const ENTRY: usize = 32;

/// Attributes of an entry.
mod attribute {
    pub(super) const VOLUME_LABEL: u8 = 0x08;
    pub(super) const DIRECTORY: u8 = 0x10;
    /// What a part of a long name has, of those that count.
    pub(super) const LONG_NAME: u8 = 0x0f;
    pub(super) const ALL: u8 = 0x3f;
}

/// Bits of the entry of a short name that Windows NT and Linux know: the name, and its extension, in lower case.
const LOWER_NAME: u8 = 0x08;
const LOWER_EXTENSION: u8 = 0x10;

/// Set in the entry of a long name that has its end, which comes first.
const LAST_PART: u8 = 0x40;
/// How many parts a long name may have: 255 characters, 13 a part.
const MOST_PARTS: u8 = 20;

/// A file or a directory, as its directory tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The long name, where it belongs to this entry, else the short one. Neither empty, nor with a separator, nor one that
    /// leads elsewhere.
    pub(super) name: String,
    pub(super) is_directory: bool,
    pub(super) first_cluster: u32,
    pub(super) size: u32,
}

/// The parts of a long name that have come.
struct LongName {
    checksum: u8,
    /// How many are still to come.
    missing: u8,
    /// The last part first.
    parts: Vec<[u16; 13]>,
}

/// What is in a directory of these bytes, up to its end. Entries that are free, volume labels and the directory's names
/// for itself and its parent are left out.
pub(super) fn entries(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut long: Option<LongName> = None;
    for entry in bytes.as_chunks::<ENTRY>().0 {
        let [first, ..] = entry;
        match first {
            0 => break,
            0xe5 => {
                long = None;
                continue;
            }
            _ => {}
        }
        let attributes = entry.get(11).copied().unwrap_or_default() & attribute::ALL;
        if attributes == attribute::LONG_NAME {
            long = LongName::with(long, entry);
            continue;
        }
        let long = long.take();
        if attributes & attribute::VOLUME_LABEL != 0 {
            continue;
        }
        let short = entry.first_chunk::<11>().copied().unwrap_or_default();
        let name = long.and_then(|long| long.name_of(&short)).or_else(|| {
            let lower = entry.get(12).copied().unwrap_or_default();
            short_name(&short, lower)
        });
        let Some(name) = name else { continue };
        entries.push(Entry {
            name,
            is_directory: attributes & attribute::DIRECTORY != 0,
            first_cluster: u32::from(le16(entry, 20)) << 16 | u32::from(le16(entry, 26)),
            size: u32::from(le16(entry, 30)) << 16 | u32::from(le16(entry, 28)),
        });
    }
    entries
}

impl LongName {
    /// The name with one part more; `None` where that does not belong to it.
    fn with(long: Option<Self>, entry: &[u8; ENTRY]) -> Option<Self> {
        let order = entry.first().copied()?;
        let checksum = entry.get(13).copied()?;
        let number = order & !LAST_PART;
        let mut long = if order & LAST_PART != 0 {
            (1..=MOST_PARTS).contains(&number).then(|| Self { checksum, missing: number, parts: Vec::new() })
        } else {
            long
        }?;
        if number == 0 || number != long.missing || checksum != long.checksum {
            return None;
        }
        let mut units = [0; 13];
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (unit, at) in units.iter_mut().zip(places) {
            *unit = le16(entry, at);
        }
        long.parts.push(units);
        long.missing = long.missing.saturating_sub(1);
        Some(long)
    }

    /// The name, if it is whole and belongs to the entry of this short name.
    fn name_of(&self, short: &[u8; 11]) -> Option<String> {
        if self.missing != 0 || self.checksum != checksum(short) {
            return None;
        }
        let units: Vec<u16> =
            self.parts.iter().rev().flatten().copied().take_while(|unit| *unit != 0).collect();
        usable(String::from_utf16_lossy(&units))
    }
}

/// What the parts of a long name have of the short one.
pub(super) fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The short name with its extension. Bytes beyond ASCII are in a code page that is not known here.
fn short_name(short: &[u8; 11], lower: u8) -> Option<String> {
    let (name, extension) = short.split_at(8);
    let text = |bytes: &[u8], lower: bool| -> String {
        let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last.saturating_add(1));
        let bytes = bytes.get(..end).unwrap_or_default();
        let character = |byte: &u8| match byte {
            byte if !byte.is_ascii() => char::REPLACEMENT_CHARACTER,
            byte if lower => char::from(byte.to_ascii_lowercase()),
            byte => char::from(*byte),
        };
        bytes.iter().map(character).collect()
    };
    let mut whole = text(name, lower & LOWER_NAME != 0);
    let extension = text(extension, lower & LOWER_EXTENSION != 0);
    if !extension.is_empty() {
        whole.push('.');
        whole.push_str(&extension);
    }
    usable(whole)
}

/// A name that is one.
fn usable(name: String) -> Option<String> {
    let leads_elsewhere = matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\\', '\0']);
    (!leads_elsewhere).then_some(name)
}

fn le16(entry: &[u8; ENTRY], at: usize) -> u16 {
    entry.get(at..).and_then(<[u8]>::first_chunk).copied().map(u16::from_le_bytes).unwrap_or_default()
}
