use std::io::{BufReader, Read, Write};

use liblzma::stream::{Check, MtStreamBuilder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::*;
use crate::format::compression::{BEGINNING, MemberFault};

const ROOM: ByteLength = ByteLength::new(64 << 20);

/// Bytes that compress somewhat: runs, repetitions, and noise in between.
fn content(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [byte, ..] = state.to_be_bytes();
        match state >> 30 {
            0 => bytes.extend_from_slice(&[0; 300]),
            1 => bytes.extend_from_slice(&[byte; 40]),
            2 => bytes.extend((0..=byte).map(|step| step.wrapping_mul(3))),
            _ => bytes.push(byte),
        }
    }
    bytes.truncate(length);
    bytes
}

fn lz4(content: &[u8], info: FrameInfo) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8], adjust: impl Fn(&mut zstd::Encoder<'_, Vec<u8>>)) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    adjust(&mut encoder);
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn xz(content: &[u8], builder: &mut MtStreamBuilder) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), builder.encoder().unwrap());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// One member, with the checksums that the format's tool makes.
fn compress(compression: Compression, content: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lz4 => lz4(content, FrameInfo::new().content_checksum(true)),
        Compression::Xz => xz(content, MtStreamBuilder::new().preset(0).check(Check::Crc64)),
        Compression::Zstd => zstd(content, |encoder| encoder.include_checksum(true).unwrap()),
    }
}

/// Every member that is worth a test, by the format and what is special about it.
fn members(content: &[u8]) -> Vec<(&'static str, Compression, Vec<u8>)> {
    let linked = || FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
    let mut all: Vec<_> =
        Compression::ALL.into_iter().map(|format| ("plain", format, compress(format, content))).collect();
    let length = u64::try_from(content.len()).unwrap();
    let mut gzip = flate2::GzBuilder::new()
        .filename("a name")
        .comment("a comment")
        .extra(&b"more"[..])
        .write(Vec::new(), flate2::Compression::best());
    gzip.write_all(content).unwrap();
    all.extend([
        ("a header with everything", Compression::Gzip, gzip.finish().unwrap()),
        ("linked", Compression::Lz4, lz4(content, linked().content_checksum(true))),
        ("linked, block checksums", Compression::Lz4, lz4(content, linked().block_checksums(true))),
        ("sized", Compression::Lz4, lz4(content, FrameInfo::new().content_size(Some(length)))),
        (
            "large blocks",
            Compression::Lz4,
            lz4(content, FrameInfo::new().block_size(BlockSize::Max4MB).content_checksum(true)),
        ),
        (
            "many blocks",
            Compression::Xz,
            xz(content, MtStreamBuilder::new().preset(0).threads(2).block_size(40_000).check(Check::Sha256)),
        ),
        ("no check", Compression::Xz, xz(content, MtStreamBuilder::new().preset(0).check(Check::None))),
        (
            "sized",
            Compression::Zstd,
            zstd(content, |encoder| {
                encoder.set_pledged_src_size(Some(length)).unwrap();
                encoder.include_checksum(true).unwrap();
            }),
        ),
    ]);
    all
}

/// The whole content and its proof, or the first error; read in pieces of the given sizes.
fn decode_by(
    file: &[u8],
    limits: DecoderLimits,
    input_piece: usize,
    output_piece: usize,
) -> Result<(Vec<u8>, Complete), DecompressError> {
    let opened = Opened::open(BufReader::with_capacity(input_piece, file), limits).unwrap();
    let Opened::Compressed(mut decoder) = opened else {
        panic!("not taken for a compressed file: {opened:?}")
    };
    let (mut content, mut buffer) = (Vec::new(), vec![0xaa; output_piece]);
    loop {
        match decoder.fill(&mut buffer) {
            Ok(0) => break,
            Ok(count) => content.extend_from_slice(&buffer[..count]),
            Err(error) => {
                // However it failed, it stays so.
                assert!(decoder.fill(&mut buffer).is_err());
                assert!(decoder.finish().is_err());
                return Err(error);
            }
        }
    }
    assert_eq!(decoder.fill(&mut buffer).unwrap(), 0);
    let complete = decoder.finish()?;
    assert_eq!(complete.content(), ByteLength::of(&content));
    assert_eq!(complete.compressed(), ByteLength::of(file));
    Ok((content, complete))
}

fn decode(file: &[u8]) -> Result<(Vec<u8>, Complete), DecompressError> {
    let limits = DecoderLimits { threads: NonZeroU32::new(2).unwrap(), ..DecoderLimits::new(ROOM) };
    decode_by(file, limits, 1 << 16, 1 << 16)
}

#[test]
fn every_member_gives_its_content_in_whatever_pieces_it_comes() {
    let content = content(300_001);
    for (name, format, file) in members(&content) {
        assert!(file.len() < content.len(), "{format}, {name}: {} bytes", file.len());
        for (input, output) in [(1 << 20, 1 << 20), (7, 1 << 20), (1 << 20, 7), (4096, 4096)] {
            for threads in [1, 2] {
                let threads = NonZeroU32::new(threads).unwrap();
                let limits = DecoderLimits { threads, ..DecoderLimits::new(ROOM) };
                let (found, complete) = decode_by(&file, limits, input, output)
                    .unwrap_or_else(|error| panic!("{format}, {name}, {input}, {output}: {error}"));
                assert!(found == content, "{format}, {name}, {input}, {output}");
                assert_eq!((complete.compression(), complete.members()), (format, 1));
            }
        }
    }
}

#[test]
fn members_that_follow_each_other_are_one_content() {
    let (first, second) = (content(70_000), content(150_000)[1000..].to_vec());
    for format in Compression::ALL {
        let file = [compress(format, &first), compress(format, &[]), compress(format, &second)].concat();
        for (input, output) in [(1 << 20, 1 << 20), (1, 1 << 20), (1 << 20, 1000)] {
            let (found, complete) =
                decode_by(&file, DecoderLimits::new(ROOM), input, output).unwrap_or_else(|e| panic!("{e}"));
            assert!(found == [&first[..], &second].concat(), "{format}");
            assert_eq!(complete.members(), 3);
        }
        let many: Vec<u8> = (0..50).flat_map(|_| compress(format, b"image")).collect();
        assert_eq!(decode(&many).unwrap().0, b"image".repeat(50), "{format}");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_never_a_success() {
    let content = content(20_000);
    for (name, format, file) in members(&content) {
        let step = (file.len() / 40).max(1);
        let cuts = (6..file.len()).step_by(step).chain(file.len() - 20..file.len()).chain(6..40);
        for cut in cuts {
            match decode(&file[..cut]) {
                Err(DecompressError::Truncated { found, .. }) => {
                    assert_eq!(found, u64::try_from(cut).unwrap(), "{format}, {name}")
                }
                other => panic!("{format}, {name}, {cut} of {}: {other:?}", file.len()),
            }
            // Behind a whole member the rest of another one is as bad.
            let two = [&file[..], &file[..cut]].concat();
            assert!(
                matches!(decode(&two), Err(DecompressError::Truncated { .. })),
                "{format}, {name}, {cut} bytes behind a member"
            );
        }
    }
}

#[test]
fn a_flipped_bit_never_goes_unnoticed() {
    let content = content(20_000);
    for (name, format, file) in members(&content) {
        // Nothing compares what these hold.
        if name == "no check" || (format, name) == (Compression::Lz4, "sized") {
            continue;
        }
        for position in (6..file.len()).step_by(file.len().div_ceil(60)) {
            for bit in [0, 5, 7] {
                let mut damaged = file.clone();
                damaged[position] ^= 1 << bit;
                // Names and times in a header belong to nobody.
                if let Ok((found, _)) = decode(&damaged) {
                    assert!(found == content, "{format}, {name}: bit {bit} of byte {position}");
                }
            }
        }
    }
}

#[test]
fn what_stands_behind_the_last_member_is_an_error() {
    let content = content(5000);
    for (name, format, file) in members(&content) {
        for garbage in [&b"garbage"[..], b"\x01", b"\n", &[0xff; 5000]] {
            match decode(&[&file[..], garbage].concat()) {
                Err(DecompressError::TrailingBytes { offset, .. }) => {
                    assert_eq!(offset, u64::try_from(file.len()).unwrap(), "{format}, {name}")
                }
                other => panic!("{format}, {name}: {other:?}"),
            }
        }
    }
}

/// As the tool of each format has it.
#[test]
fn zeros_behind_the_last_member_are_as_the_format_has_it() {
    let content = content(5000);
    for (format, zeros, more, good) in [
        (Compression::Bzip2, 1, false, false),
        (Compression::Bzip2, 512, false, false),
        (Compression::Gzip, 1, false, true),
        (Compression::Gzip, 70_001, false, true),
        (Compression::Gzip, 512, true, false),
        (Compression::Lz4, 512, false, false),
        (Compression::Xz, 4, false, true),
        (Compression::Xz, 70_000, false, true),
        (Compression::Xz, 512, true, true),
        (Compression::Xz, 3, false, false),
        (Compression::Xz, 513, false, false),
        (Compression::Xz, 513, true, false),
        (Compression::Zstd, 512, false, false),
    ] {
        let file = compress(format, &content);
        let tail = if more { file.clone() } else { Vec::new() };
        let found = decode(&[file, vec![0; zeros], tail].concat());
        if good {
            let times = if more { 2 } else { 1 };
            assert!(found.unwrap().0 == content.repeat(times), "{format}, {zeros} zeros");
        } else {
            let refused = matches!(found, Err(DecompressError::TrailingBytes { .. }));
            assert!(refused, "{format}, {zeros} zeros: {found:?}");
        }
    }
}

#[test]
fn frames_that_are_skipped_hold_nothing_and_hide_nothing() {
    let content = content(5000);
    let skippable = |length: u32| {
        let length_field = length.to_le_bytes();
        let data = vec![0x28; usize::try_from(length).unwrap()];
        [&b"\x53\x2a\x4d\x18"[..], &length_field, &data].concat()
    };
    for format in [Compression::Lz4, Compression::Zstd] {
        let frame = compress(format, &content);
        let file = [skippable(3), skippable(0), frame.clone(), skippable(200_000), frame].concat();
        for input in [1, 1 << 20] {
            let (found, complete) = decode_by(&file, DecoderLimits::new(ROOM), input, 1 << 16).unwrap();
            assert!(found == content.repeat(2), "{format}");
            assert_eq!(complete.members(), 2);
        }
        let cut = [compress(format, &content), skippable(100)].concat();
        let cut = &cut[..cut.len() - 1];
        assert!(matches!(decode(cut), Err(DecompressError::Truncated { .. })), "{format}");
    }
    // Alone they are a file of Zstandard without content.
    let (found, complete) = decode(&skippable(9)).unwrap();
    assert_eq!((found.len(), complete.members()), (0, 0));
}

#[test]
fn a_bomb_stops_at_the_bound() {
    let room = DecoderLimits::new(ByteLength::new(1 << 20));
    for format in Compression::ALL {
        let mut bomb = compress(format, &vec![0; 3 << 20]);
        for (limit, fits) in [(3 << 20, true), ((3 << 20) - 1, false)] {
            let limits = DecoderLimits::new(ByteLength::new(limit));
            assert_eq!(decode_by(&bomb, limits, 4096, 1 << 16).is_ok(), fits, "{format}, {limit}");
        }
        // What comes behind is not looked at any more.
        bomb.extend_from_slice(b"garbage");
        match decode_by(&bomb, room, 4096, 1 << 16) {
            Err(error @ DecompressError::TooLarge { limit, announced: None, .. }) => {
                assert_eq!(limit, 1 << 20);
                let text = error.to_string();
                assert!(text.contains("expected at most 1048576 bytes, found more than 1048576"), "{text}");
            }
            other => panic!("{format}: {other:?}"),
        }
    }
    let announced = 100_u64 << 30;
    let frame = [&b"\x28\xb5\x2f\xfd\xc0\x40"[..], &announced.to_le_bytes(), &[0x02, 0, 0, 0]].concat();
    let sized = lz4(&[], FrameInfo::new());
    assert_eq!(decode(&sized).unwrap().0, b"");
    match decode_by(&frame, room, 1, 1 << 16) {
        Err(DecompressError::TooLarge { announced: Some(found), .. }) => assert_eq!(found, announced),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_decoder_that_wants_too_much_memory_is_refused() {
    let content = content(100_000);
    let large = xz(&content, MtStreamBuilder::new().preset(9));
    let limits = DecoderLimits { memory: ByteLength::new(32 << 20), ..DecoderLimits::new(ROOM) };
    match decode_by(&large, limits, 4096, 4096) {
        Err(error @ DecompressError::Memory { limit, .. }) => {
            assert_eq!(limit, 32 << 20);
            assert!(error.to_string().contains("more than the 33554432 bytes of memory"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(decode(&large).is_ok(), "'xz -9' is within what is allowed by default");

    let long = zstd(&content, |encoder| encoder.window_log(28).unwrap());
    match decode(&long) {
        Err(DecompressError::Member { offset: 0, fault, .. }) => {
            assert_eq!(fault, MemberFault::Window { found: 1 << 28, limit: 1 << 27 });
        }
        other => panic!("{other:?}"),
    }
    let longest = zstd(&content, |encoder| encoder.window_log(27).unwrap());
    assert!(decode(&longest).is_ok());
}

#[test]
fn members_without_content_are_not_endless() {
    for format in Compression::ALL {
        let empty = compress(format, &[]);
        let limit = usize::try_from(EMPTY_MEMBERS_MAXIMUM).unwrap();
        assert!(decode(&empty.repeat(limit)).is_ok(), "{format}");
        let found = decode(&empty.repeat(limit + 1));
        assert!(matches!(found, Err(DecompressError::Empty { .. })), "{format}: {found:?}");
        let between = [empty.repeat(limit), compress(format, b"image"), empty.repeat(limit)].concat();
        assert_eq!(decode(&between).unwrap().0, b"image", "{format}");
    }
    let skipped = b"\x50\x2a\x4d\x18\0\0\0\0".repeat(2000);
    assert!(matches!(decode(&skipped), Err(DecompressError::Empty { .. })));
}

#[test]
fn legacy_frames_and_dictionaries_are_refused_by_name() {
    // The magic, the length of a block, a block.
    let legacy = b"\x02\x21\x4c\x18\x06\0\0\0\x50image".to_vec();
    let fault = |file: &[u8]| match decode(file) {
        Err(DecompressError::Member { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&legacy), MemberFault::Legacy);
    assert_eq!(
        fault(b"\x28\xb5\x2f\xfd\x23\x78\x56\x34\x12\x05\x01\0\0"),
        MemberFault::Dictionary { identifier: 0x1234_5678 }
    );
    let behind = [compress(Compression::Lz4, b"image"), legacy].concat();
    assert_eq!(fault(&behind), MemberFault::Legacy);
}

/// The library's own decoder takes an empty block for the end of the frame.
#[test]
fn an_empty_block_does_not_end_a_frame() {
    let frame = lz4(b"image", FrameInfo::new().content_checksum(true));
    // Behind the header of seven bytes, not compressed and without a byte.
    let with_empty = [&frame[..7], &[0, 0, 0, 0x80], &frame[7..]].concat();
    assert_eq!(decode(&with_empty).unwrap().0, b"image");
    assert!(matches!(decode(&with_empty[..11]), Err(DecompressError::Truncated { .. })));
}

#[test]
fn what_is_not_compressed_stays_as_it_is() {
    for (file, expected) in [
        (&b""[..], Encoding::Raw),
        (b"\x28\xb5", Encoding::Raw),
        (b"an image that is longer than what is looked at first, by a few bytes", Encoding::Raw),
        (b"QFI\xfb and so on", Encoding::Qcow2),
    ] {
        let opened = Opened::open(BufReader::with_capacity(1, file), DecoderLimits::new(ROOM)).unwrap();
        let Opened::Plain(found, mut rest) = opened else { panic!("{file:?}") };
        assert_eq!(found, expected);
        let mut bytes = Vec::new();
        rest.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, file);
        assert_eq!(rest.consumed(), u64::try_from(file.len()).unwrap());
    }
}

#[test]
fn the_end_is_proved_only_where_it_was_reached() {
    let file = compress(Compression::Zstd, b"image");
    let Opened::Compressed(mut decoder) = Opened::open(&file[..], DecoderLimits::new(ROOM)).unwrap() else {
        panic!("not taken for a compressed file");
    };
    // The content is all there, the trailer was not looked at.
    let mut buffer = [0; 5];
    assert_eq!(decoder.fill(&mut buffer).unwrap(), 5);
    assert!(matches!(decoder.finish(), Err(DecompressError::Unfinished { .. })));
}

/// A source that fails after its first bytes.
struct Failing(Vec<u8>);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::other("the network is down"));
        }
        let count = buffer.len().min(self.0.len());
        let rest = self.0.split_off(count);
        buffer[..count].copy_from_slice(&self.0);
        self.0 = rest;
        Ok(count)
    }
}

#[test]
fn what_the_source_says_is_not_taken_for_the_end() {
    for format in Compression::ALL {
        let file = compress(format, &content(50_000));
        for count in [BEGINNING, file.len() / 2, file.len()] {
            let source = BufReader::with_capacity(4096, Failing(file[..count].to_vec()));
            let opened = Opened::open(source, DecoderLimits::new(ROOM)).unwrap();
            let Opened::Compressed(mut decoder) = opened else { panic!("{format}") };
            let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.to_string(), "the network is down", "{format}");
            assert!(DecompressError::from_io(error).is_err());
        }
    }
    assert!(Opened::open(BufReader::new(Failing(Vec::new())), DecoderLimits::new(ROOM)).is_err());
}
