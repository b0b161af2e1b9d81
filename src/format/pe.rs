//! The sections of a PE file (Microsoft PE and COFF specification), as far as a unified kernel image is made of them
//! (UAPI.5): names, and where their bytes lie. Nothing of the code is looked at.

use super::units::{ByteLength, ByteOffset, Extent};

/// How much of a file holds its headers, in bytes. Those of a real one take some KiB at most.
pub const MAXIMUM_HEADERS: usize = 64 << 10;
/// The most sections that a loader takes.
pub const MAXIMUM_SECTIONS: usize = 96;

/// The length of the file header behind the signature.
const FILE_HEADER: usize = 20;
/// The length of an entry of the section table.
const SECTION_HEADER: usize = 40;
/// Where the DOS header says where the PE signature is.
const POINTER: usize = 0x3c;

/// A section with bytes in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeSection {
    /// Its name: printable ASCII, at most 8 letters.
    pub name: String,
    /// The bytes that count: no more than the section has in memory. What it has there beyond these is zero.
    pub content: Extent,
}

/// A file does not have the headers of a PE file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// It begins with something else.
    #[error("expected the signatures 'MZ' and 'PE', found others")]
    Signature,
    /// The headers reach beyond the file, or beyond what is read of one.
    #[error(
        "expected headers within the first {MAXIMUM_HEADERS} bytes and within the file, found them to reach beyond"
    )]
    Headers,
    /// More sections than a loader takes, or none.
    #[error("expected 1 to {MAXIMUM_SECTIONS} sections, found {0}")]
    Count(u16),
    /// A name that is not text.
    #[error("expected section names in printable ASCII, found another one (section {0})")]
    Name(usize),
    /// The bytes of a section reach beyond the file.
    #[error("expected section '{name}' within the file, found it to reach beyond")]
    Outside {
        /// The section.
        name: String,
    },
}

/// Whether a file begins as a PE file does.
#[must_use]
pub fn is_pe(beginning: &[u8]) -> bool {
    signature_at(beginning).is_some()
}

fn signature_at(beginning: &[u8]) -> Option<usize> {
    if !beginning.starts_with(b"MZ") {
        return None;
    }
    let at = usize::try_from(number_32(beginning, POINTER)?).ok()?;
    let end = at.checked_add(4)?;
    (beginning.get(at..end)? == b"PE\0\0").then_some(at)
}

/// The sections, in the order of their table, of a file of `size` bytes that begins with these: all of it, or
/// [`MAXIMUM_HEADERS`].
///
/// # Errors
/// [`PeError`].
pub fn sections(beginning: &[u8], size: ByteLength) -> Result<Vec<PeSection>, PeError> {
    let headers = beginning.get(..MAXIMUM_HEADERS).unwrap_or(beginning);
    let header = signature_at(headers).ok_or(PeError::Signature)?.saturating_add(4);
    let count = number_16(headers, header.saturating_add(2)).ok_or(PeError::Headers)?;
    let optional = number_16(headers, header.saturating_add(16)).ok_or(PeError::Headers)?;
    if !(1..=MAXIMUM_SECTIONS).contains(&usize::from(count)) {
        return Err(PeError::Count(count));
    }
    let table = header.saturating_add(FILE_HEADER).saturating_add(usize::from(optional));
    let table = headers.get(table..).ok_or(PeError::Headers)?;
    let entries = table.as_chunks::<SECTION_HEADER>().0.get(..usize::from(count)).ok_or(PeError::Headers)?;
    (1..).zip(entries).map(|(number, entry)| section(number, entry, size)).collect()
}

fn section(number: usize, entry: &[u8; SECTION_HEADER], size: ByteLength) -> Result<PeSection, PeError> {
    let name = entry.first_chunk::<8>().copied().unwrap_or_default();
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let name = name.get(..length).unwrap_or_default();
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(PeError::Name(number));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    let field = |at: usize| u64::from(number_32(entry, at).unwrap_or_default());
    let (in_memory, in_file, offset) = (field(8), field(16), field(20));
    if in_file == 0 {
        return Ok(PeSection { name, content: Extent::from_beginning(ByteLength::ZERO) });
    }
    let stored = Extent::new(ByteOffset::new(offset), ByteLength::new(in_file));
    match stored.filter(|stored| Extent::from_beginning(size).contains(*stored)) {
        Some(stored) => {
            Ok(PeSection { name, content: stored.truncated(ByteLength::new(in_memory.min(in_file))) })
        }
        None => Err(PeError::Outside { name }),
    }
}

fn number_16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn number_32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the file is shared with test programs that see it from outside")]
#[path = "../../tests/support/pe_builder.rs"]
mod builder;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::builder::pe_file as file;
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<PeSection>, PeError> {
        sections(bytes, ByteLength::of(bytes))
    }

    fn content<'a>(bytes: &'a [u8], section: &PeSection) -> &'a [u8] {
        let at = |offset: ByteOffset| usize::try_from(offset.bytes()).unwrap();
        &bytes[at(section.content.start())..at(section.content.end())]
    }

    #[test]
    fn sections_have_names_and_bytes() {
        let bytes = file(&[(".linux", b"kernel", 6), (".cmdline", b"quiet\0\0\0", 5), (".bss", b"", 4096)]);
        assert!(is_pe(&bytes));
        let found = read(&bytes).unwrap();
        let names: Vec<&str> = found.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, [".linux", ".cmdline", ".bss"]);
        assert_eq!(content(&bytes, &found[0]), b"kernel");
        assert_eq!(content(&bytes, &found[1]), b"quiet");
        assert!(found[2].content.is_empty());
    }

    #[test]
    fn what_is_no_such_file_is_refused_by_name() {
        let good = file(&[(".linux", b"kernel", 6)]);
        assert_eq!(read(b""), Err(PeError::Signature));
        assert_eq!(read(&good[1..]), Err(PeError::Signature));
        let mut elsewhere = good.clone();
        elsewhere[POINTER + 3] = 0xff;
        assert_eq!(read(&elsewhere), Err(PeError::Signature));
        assert_eq!(read(&good[..0x44]), Err(PeError::Headers));
        assert_eq!(read(&good[..good.len() - 10]), Err(PeError::Headers));
        assert_eq!(read(&good[..good.len() - 1]), Err(PeError::Outside { name: ".linux".to_owned() }));
        assert_eq!(read(&file(&[])), Err(PeError::Count(0)));
        assert_eq!(read(&file(&[("a", &b""[..], 0); 97])), Err(PeError::Count(97)));
        assert_eq!(read(&file(&[("a", b"", 0), ("b\u{1b}", b"", 0)])), Err(PeError::Name(2)));
    }

    proptest! {
        #[test]
        fn damage_gives_sections_within_the_file_or_an_error(at in 0_usize..200, with: u8) {
            let mut bytes = file(&[(".linux", b"kernel", 6), (".cmdline", b"quiet", 5)]);
            let at = at % bytes.len();
            bytes[at] = with;
            let whole = Extent::from_beginning(ByteLength::of(&bytes));
            for section in read(&bytes).into_iter().flatten() {
                prop_assert!(section.content.is_empty() || whole.contains(section.content));
                prop_assert!(section.name.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
