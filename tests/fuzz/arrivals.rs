//! What comes from a server: its headers, and files that are compressed, archives or copy-on-write images.

use std::io::{BufReader, Read};
use std::time::{Duration, SystemTime};

use ddictl::fetch::archive::{ArchiveError, ArchiveLimits, ArchiveReader};
use ddictl::fetch::decompress::{DecoderLimits, DecompressError, Opened};
use ddictl::fetch::qcow2::{ConvertError, Disk};
use ddictl::format::http_header::{ContentRange, is_settled, is_strong_entity_tag, retry_after};
use ddictl::format::multipart::{MAXIMUM_PARTS, is_multipart, parts};
use ddictl::format::tar::{Kind, NAME_MAX, PATH_MAX};
use ddictl::format::units::ByteLength;

use super::input::Input;
use super::is_one_line;

/// How much content a decoder or a disk may have, and an archive may take.
const ROOM: u64 = 1 << 20;

/// Headers that say which bytes an answer holds: a line is the value of each of them, and that of `Content-Type` for the
/// body behind it.
pub fn http_headers(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (line, body) = input.split_at(end);
    let line = String::from_utf8_lossy(line);
    if let Some(range) = ContentRange::parse(&line) {
        assert!(range.first() < range.end() && range.end() <= range.total(), "{range:?}");
        assert_eq!(range.length(), range.end() - range.first());
        let written = format!("bytes {}-{}/{}", range.first(), range.end() - 1, range.total());
        assert_eq!(ContentRange::parse(&written), Some(range));
    }
    if is_strong_entity_tag(&line) {
        assert!(line.bytes().all(|byte| byte.is_ascii_graphic()) && line.len() >= 2, "{line:?}");
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Some(wait) = retry_after(&line, now) {
        assert!(line.len() <= 1024 && (wait.is_zero() || now.checked_add(wait) != Some(now)));
    }
    let (changed, date) = line.split_once(';').unwrap_or((&line, ""));
    assert!(!(is_settled(changed, date) && is_settled(date, changed)), "{line:?}");

    let body = body.strip_prefix(b"\n").unwrap_or(body);
    match parts(&line, body) {
        Ok(parts) => {
            assert!(is_multipart(&line) && (1..=MAXIMUM_PARTS).contains(&parts.len()));
            let mut rest = body;
            for part in parts {
                assert_eq!(ByteLength::of(part.bytes).bytes(), part.range.length());
                // Each lies behind the one before.
                let before = part.bytes.as_ptr_range().start.addr() - rest.as_ptr_range().start.addr();
                rest = &rest[before + part.bytes.len()..];
            }
        }
        Err(error) => assert!(is_one_line(&error.to_string()), "{error}"),
    }
}

/// A few bytes at a time.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

/// What an archive says: every member with its pieces, to the end or an error.
fn members(archive: impl Read) -> (Vec<String>, Result<(), ArchiveError>) {
    let mut reader =
        ArchiveReader::new(archive, ArchiveLimits { headers: 1000, room: ByteLength::new(ROOM) });
    let mut found = Vec::new();
    loop {
        let member = match reader.next_member() {
            Ok(Some(member)) => member,
            Ok(None) => {
                assert!(matches!(reader.next_member(), Ok(None)), "there is more behind the end");
                return (found, Ok(()));
            }
            Err(error) => return (found, Err(error)),
        };
        let path = member.path.as_bytes();
        assert!(path.len() <= PATH_MAX && !path.contains(&0));
        let proper =
            |name: &[u8]| !name.is_empty() && name.len() <= NAME_MAX && name != b"." && name != b"..";
        assert!(member.path.is_root() || path.split(|byte| *byte == b'/').all(proper), "{path:?}");
        assert!(member.attributes.mode <= 0o7777 && member.attributes.modified.nanoseconds < 1_000_000_000);
        found.push(format!("{member:?}"));
        let size = if let Kind::File { size } = member.kind { size } else { 0 };
        let (mut at, mut bytes) = (0, Vec::new());
        loop {
            match reader.piece() {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    assert!(!piece.bytes.is_empty() && piece.offset >= at, "{piece:?}");
                    at = piece.offset + ByteLength::of(piece.bytes).bytes();
                    assert!(at <= size, "{member:?}: {at}");
                    bytes.extend_from_slice(piece.bytes);
                }
                Err(error) => return (found, Err(error)),
            }
        }
        found.push(format!("{size} {bytes:?}"));
    }
}

/// An archive, with the checksums of its headers mended where the first byte says so: read at once and a few bytes at a
/// time it is the same.
pub fn tar(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let mut archive = input.rest().to_vec();
    if flags & 1 != 0 {
        for block in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    if flags & 2 != 0 {
        archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    }
    let (at_once, outcome) = members(&archive[..]);
    let (slowly, same) = members(Slow(&archive, 7));
    assert_eq!(at_once, slowly);
    match (outcome, same) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(same)) => {
            assert_eq!(error.to_string(), same.to_string());
            assert!(is_one_line(&error.to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// The content of a compressed file, read into a buffer of this size.
fn content(
    file: impl std::io::BufRead,
    length: usize,
    buffer: usize,
) -> Option<Result<Vec<u8>, DecompressError>> {
    let limits =
        DecoderLimits { memory: ByteLength::new(8 << 20), ..DecoderLimits::new(ByteLength::new(ROOM)) };
    let Opened::Compressed(mut decoder) = Opened::open(file, limits).unwrap() else { return None };
    let (mut content, mut buffer) = (Vec::new(), vec![0; buffer]);
    loop {
        match decoder.fill(&mut buffer) {
            Ok(count) => {
                content.extend_from_slice(&buffer[..count]);
                assert!(ByteLength::of(&content).bytes() <= ROOM, "more than is allowed");
                if count < buffer.len() {
                    break;
                }
            }
            Err(error) => {
                assert!(decoder.fill(&mut buffer).is_err(), "it goes on behind an error");
                return Some(Err(error));
            }
        }
    }
    Some(decoder.finish().map(|complete| {
        assert_eq!(complete.compressed().in_memory(), Some(length), "not all of it was read");
        assert_eq!(complete.content(), ByteLength::of(&content));
        content
    }))
}

/// A compressed file: its content is the same in whatever pieces it comes and is taken, and within its limit.
pub fn decoders(input: &[u8]) {
    let at_once = content(input, input.len(), 1 << 16);
    let slowly = content(BufReader::with_capacity(5, input), input.len(), 1000);
    match (at_once, slowly) {
        (None, None) => {}
        (Some(Ok(content)), Some(Ok(same))) => assert!(content == same),
        (Some(Err(error)), Some(Err(_))) => assert!(is_one_line(&error.to_string()), "{error}"),
        other => panic!("{other:?}"),
    }
}

/// A copy-on-write image: what it has of its disk comes in order and within the disk.
pub fn qcow2(input: &[u8]) {
    let _ = disk_of(input);
}

/// The disk in an image, if there is one that can be read.
pub fn disk_of(image: &[u8]) -> Option<Vec<u8>> {
    let told = |error: ConvertError| assert!(is_one_line(&error.to_string()), "{error}");
    let disk = Disk::open(image, ByteLength::of(image), ByteLength::new(ROOM)).map_err(told).ok()?;
    let size = disk.size().in_memory().unwrap();
    assert!(disk.size().bytes() <= ROOM);
    let (mut found, mut end) = (vec![0; size], 0);
    let read = disk.read(|offset, bytes| {
        let offset = usize::try_from(offset.bytes()).unwrap();
        assert!(offset >= end && !bytes.is_empty() && offset + bytes.len() <= size, "{offset} of {size}");
        end = offset + bytes.len();
        found[offset..end].copy_from_slice(bytes);
        Ok::<_, ConvertError>(())
    });
    read.map_err(told).ok()?;
    Some(found)
}
