use crate::format::tar::{Kind, MAXIMUM_FILE_SIZE, PaxFault, Timestamp};

use super::tar_builder::{Entry, GNU, TarBuilder};
use super::*;

const ROOM: ByteLength = ByteLength::new(16 << 20);

/// Gives a byte at a time, now and then with a signal in between.
struct Drops<'a>(&'a [u8], bool);

impl Read for Drops<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = into.len().min(1);
        self.0.read(&mut into[..length])
    }
}

/// Every member with its contents, holes as zeros.
fn read_all(input: impl Read, limits: ArchiveLimits) -> Result<Vec<(Member, Vec<u8>)>, ArchiveError> {
    let mut reader = ArchiveReader::new(input, limits);
    let mut members = Vec::new();
    while let Some(member) = reader.next_member()? {
        let size = if let Kind::File { size } = member.kind { size } else { 0 };
        let mut contents = vec![0; usize::try_from(size).unwrap()];
        while let Some(piece) = reader.piece()? {
            let start = usize::try_from(piece.offset).unwrap();
            contents[start..start + piece.bytes.len()].copy_from_slice(piece.bytes);
        }
        members.push((member, contents));
    }
    assert!(reader.next_member()?.is_none());
    Ok(members)
}

fn members(archive: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, ArchiveError> {
    let found = read_all(archive, ArchiveLimits::within(ROOM));
    let slowly = read_all(Drops(archive, false), ArchiveLimits::within(ROOM));
    assert_eq!(format!("{found:?}"), format!("{slowly:?}"));
    found
}

fn the_only(archive: &[u8]) -> (Member, Vec<u8>) {
    let mut members = members(archive).unwrap();
    assert_eq!(members.len(), 1);
    members.remove(0)
}

/// Why an archive is refused.
fn refusal(archive: TarBuilder) -> TarError {
    match members(&archive.finish()).unwrap_err() {
        ArchiveError::Header { source, .. } | ArchiveError::NoHeader { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn members_come_in_order_with_their_contents() {
    let large = vec![7; 600_000];
    let archive = TarBuilder::new()
        .directory("./")
        .directory("etc/")
        .file("etc/hostname", b"host\n")
        .file("etc/empty", b"")
        .file("large", &large)
        .symbolic_link("etc/link", "/etc/hostname")
        .hard_link("etc/again", "./etc/hostname")
        .entry(&Entry { device: (1, 3), ..Entry::new("dev/null", b'3') })
        .entry(&Entry { device: (7, 300), ..Entry::new("dev/loop300", b'4') })
        .entry(&Entry::new("run/pipe", b'6'))
        .finish();
    let found = members(&archive).unwrap();
    let shown: Vec<String> = found
        .iter()
        .map(|(member, contents)| format!("{} {:?} {}", member.path, member.kind, contents.len()))
        .collect();
    assert_eq!(
        shown,
        [
            "./ Directory 0",
            "etc Directory 0",
            "etc/hostname File { size: 5 } 5",
            "etc/empty File { size: 0 } 0",
            "large File { size: 600000 } 600000",
            "etc/link SymbolicLink { target: LinkTarget([47, 101, 116, 99, 47, 104, 111, 115, 116, 110, 97, 109, 101]) } 0",
            "etc/again HardLink { target: MemberPath([101, 116, 99, 47, 104, 111, 115, 116, 110, 97, 109, 101]) } 0",
            "dev/null CharacterDevice { major: 1, minor: 3 } 0",
            "dev/loop300 BlockDevice { major: 7, minor: 300 } 0",
            "run/pipe Fifo 0",
        ]
    );
    assert_eq!(found[2].1, b"host\n");
    assert_eq!(found[4].1, large);
}

#[test]
fn what_was_not_read_is_passed_over() {
    let archive = TarBuilder::new().file("a", &[1; 300_000]).file("b", b"b").finish();
    let mut reader = ArchiveReader::new(archive.as_slice(), ArchiveLimits::within(ROOM));
    reader.next_member().unwrap().unwrap();
    reader.piece().unwrap().unwrap();
    assert_eq!(reader.next_member().unwrap().unwrap().path.as_bytes(), b"b");
}

#[test]
fn an_archive_that_is_cut_short_is_never_taken() {
    let archive = TarBuilder::new()
        .records(&[("mtime", b"1.5")])
        .file("a", &[1; 700])
        .long(b'L', format!("{}n", "name/".repeat(60)).as_bytes())
        .file("n", b"x")
        .finish();
    for length in 0..archive.len() {
        let error = read_all(&archive[..length], ArchiveLimits::within(ROOM)).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Truncated { offset, .. } if offset == u64::try_from(length).unwrap()),
            "{length}: {error}"
        );
        assert!(error.is_about_the_archive());
    }
    members(&archive).unwrap();
}

#[test]
fn behind_the_end_there_is_nothing_but_zeros() {
    let archive = TarBuilder::new().file("a", b"a");
    members(&archive.clone().raw(&[0; 10_240]).finish()).unwrap();
    let appended = TarBuilder::new().file("b", b"b").finish();
    let error = members(&[archive.clone().finish(), appended].concat()).unwrap_err();
    assert!(matches!(error, ArchiveError::TrailingBytes { offset: 2048 }), "{error}");
    let error = members(&[archive.clone().finish(), vec![0; 300_000], vec![1]].concat()).unwrap_err();
    assert!(matches!(error, ArchiveError::TrailingBytes { offset: 302_048 }), "{error}");
    assert_eq!(refusal(archive.clone().raw(&[0; 512]).file("b", b"b")), TarError::LoneZeroBlock);
    assert_eq!(refusal(archive.records(&[("mtime", b"1")])), TarError::DanglingExtension);
}

#[test]
fn names_in_extended_headers_take_the_place_of_short_ones() {
    let long = format!("{}/file", "d".repeat(200));
    let target = format!("{}/target", "t".repeat(200));
    for archive in [
        TarBuilder::new().long(b'L', long.as_bytes()).long(b'K', target.as_bytes()),
        TarBuilder::new().long(b'K', target.as_bytes()).long(b'L', long.as_bytes()),
        TarBuilder::new().records(&[("path", long.as_bytes()), ("linkpath", target.as_bytes())]),
        TarBuilder::new().records(&[("path", long.as_bytes())]).long(b'K', target.as_bytes()),
    ] {
        let (member, _) = the_only(&archive.symbolic_link("short", "short").finish());
        assert_eq!(member.path.as_bytes(), long.as_bytes());
        let Kind::SymbolicLink { target: found } = member.kind else { panic!("{:?}", member.kind) };
        assert_eq!(found.as_bytes(), target.as_bytes());
    }
}

#[test]
fn what_is_said_twice_in_different_ways_is_refused() {
    let twice = TarBuilder::new().long(b'L', b"a").records(&[("path", b"b")]).file("c", b"");
    assert_eq!(refusal(twice), TarError::NamedTwice);
    let repeated = TarBuilder::new().long(b'L', b"a").long(b'L', b"b").file("c", b"");
    assert_eq!(refusal(repeated), TarError::RepeatedExtension { what: "a long name" });
    let repeated = TarBuilder::new().records(&[("uid", b"1")]).records(&[("gid", b"1")]).file("c", b"");
    assert_eq!(refusal(repeated), TarError::RepeatedExtension { what: "an extended header" });
    let hidden = TarBuilder::new().entry(&Entry {
        contents: b"a\0/../b\0",
        magic: GNU,
        ..Entry::new("././@LongLink", b'L')
    });
    assert!(matches!(refusal(hidden.file("c", b"")), TarError::NulByte { what: "a long name", .. }));
}

/// One reader takes the size of the header and finds a member in the contents, another one that of the extended header.
#[test]
fn a_size_that_readers_would_disagree_about_is_refused() {
    let inner = TarBuilder::new().file("inner", b"hidden").unfinished();
    let length = inner.len().to_string();
    let smuggled = TarBuilder::new()
        .records(&[("size", length.as_bytes())])
        .entry(&Entry { size: Some(b"00000000000\0"), ..Entry::new("outer", b'0') })
        .raw(&inner);
    assert_eq!(refusal(smuggled), TarError::SizesDiffer { header: 0, extended: 1024 });
    let agreed = TarBuilder::new().records(&[("size", b"5")]).file("a", b"hello").finish();
    assert_eq!(the_only(&agreed).1, b"hello");
    for (flag, kind) in [
        (b'1', "hard link"),
        (b'2', "symbolic link"),
        (b'5', "directory"),
        (b'3', "device"),
        (b'6', "named pipe"),
    ] {
        let archive =
            TarBuilder::new().entry(&Entry { contents: b"x", link: b"target", ..Entry::new("a", flag) });
        assert_eq!(refusal(archive), TarError::UnexpectedContents { kind, size: 1 });
    }
    let label = TarBuilder::new().entry(&Entry { contents: b"x", magic: GNU, ..Entry::new("label", b'V') });
    assert!(matches!(refusal(label), TarError::UnexpectedContents { kind: "volume label", .. }));
}

#[test]
fn names_that_lead_out_or_are_too_long_are_refused() {
    assert!(matches!(refusal(TarBuilder::new().file("/etc/passwd", b"")), TarError::AbsolutePath { .. }));
    assert!(matches!(refusal(TarBuilder::new().file("a/../../b", b"")), TarError::ParentReference { .. }));
    let link = TarBuilder::new().hard_link("a", "/etc/passwd");
    assert!(matches!(refusal(link), TarError::AbsolutePath { .. }));
    let link = TarBuilder::new().hard_link("a", "../../etc/passwd");
    assert!(matches!(refusal(link), TarError::ParentReference { .. }));
    let long = [b'n'; 100_000];
    for archive in [
        TarBuilder::new().long(b'L', &long).file("n", b""),
        TarBuilder::new().records(&[("path", &long)]).file("n", b""),
        TarBuilder::new().long(b'K', &long).hard_link("n", "n"),
        TarBuilder::new().records(&[("linkpath", &long)]).symbolic_link("n", "n"),
    ] {
        assert!(matches!(refusal(archive), TarError::NameTooLong { length: 100_000, .. }));
    }
    assert!(matches!(refusal(TarBuilder::new().symbolic_link("./", "a")), TarError::RootKind { .. }));
    assert_eq!(refusal(TarBuilder::new().file("", b"")), TarError::EmptyName);
}

#[test]
fn extended_headers_of_any_size_take_no_memory() {
    for flag in [b'x', b'g', b'L', b'K'] {
        let archive = TarBuilder::new().entry(&Entry {
            size: Some(b"77777777777\0"),
            magic: GNU,
            ..Entry::new("large", flag)
        });
        assert!(matches!(refusal(archive), TarError::ExtensionTooLarge { size: 0o77_777_777_777, .. }));
    }
}

#[test]
fn sizes_that_are_none_are_refused() {
    let sized = |size: &[u8; 12]| {
        refusal(TarBuilder::new().entry(&Entry { size: Some(size), magic: GNU, ..Entry::new("a", b'0') }))
    };
    assert_eq!(sized(&[0xff; 12]), TarError::Negative { field: "size" });
    assert_eq!(
        sized(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        TarError::FileTooLarge { size: u64::MAX }
    );
    assert_eq!(sized(b"\x80\xff\0\0\0\0\0\0\0\0\0\0"), TarError::Overflow { field: "size" });
    let most = MAXIMUM_FILE_SIZE.to_string();
    let huge = TarBuilder::new().records(&[("size", most.as_bytes())]).file("a", b"").finish();
    assert!(matches!(members(&huge).unwrap_err(), ArchiveError::TooLarge { limit } if limit == ROOM.bytes()));
}

#[test]
fn there_are_only_so_many_headers_and_only_so_much_room() {
    let archive = TarBuilder::new().file("a", b"").file("b", b"").finish();
    let limits = |headers, room| ArchiveLimits { headers, room: ByteLength::new(room) };
    assert_eq!(read_all(archive.as_slice(), limits(2, 2048)).unwrap().len(), 2);
    let error = read_all(archive.as_slice(), limits(1, 2048)).unwrap_err();
    assert!(matches!(error, ArchiveError::TooManyHeaders { limit: 1 }), "{error}");
    let error = read_all(archive.as_slice(), limits(2, 2047)).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { limit: 2047 }), "{error}");
    let error = read_all(TarBuilder::new().file("a", b"a").finish().as_slice(), limits(9, 5000)).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { limit: 5000 }), "{error}");
}

#[test]
fn headers_without_end_are_refused_in_bounded_memory() {
    let header = Entry::new("again", b'0').header();
    let input = Repeated { block: &header, position: 0, left: 100_001 * 512 };
    let limits = ArchiveLimits { headers: 100_000, room: ByteLength::new(u64::MAX) };
    let mut reader = ArchiveReader::new(input, limits);
    let mut count = 0;
    let error = loop {
        match reader.next_member() {
            Ok(member) => count += u32::from(member.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!(count, 100_000);
    assert!(matches!(error, ArchiveError::TooManyHeaders { limit: 100_000 }), "{error}");
}

struct Repeated<'a> {
    block: &'a [u8],
    position: usize,
    left: usize,
}

impl Read for Repeated<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.block[self.position..];
        let length = into.len().min(rest.len()).min(self.left);
        into[..length].copy_from_slice(&rest[..length]);
        self.position = (self.position + length) % self.block.len();
        self.left -= length;
        Ok(length)
    }
}

#[test]
fn sparse_files_are_read_in_every_form() {
    let stored = [&[1; 512][..], &[2; 100]].concat();
    let mut expected = vec![0; 10_000];
    expected[1024..1536].fill(1);
    expected[9000..9100].fill(2);
    let old = Entry {
        magic: GNU,
        contents: &stored,
        fields: &[
            (386, b"00000002000\x0000000001000\0"),
            (410, b"00000021450\x0000000000144\0"),
            (434, b"00000023420\x0000000000000\0"),
            (483, b"00000023420\0"),
        ],
        ..Entry::new("sparse", b'S')
    };
    let size: (&str, &[u8]) = ("GNU.sparse.size", b"10000");
    let name: (&str, &[u8]) = ("GNU.sparse.name", b"sparse");
    let in_front = [&b"2\n1024\n512\n9000\n100\n"[..], &[0; 492], &stored].concat();
    let extended = Entry {
        contents: b"",
        size: Some(b"00000001144\0"),
        fields: &[(482, b"\x01"), (483, b"00000023420\0")],
        ..old.clone()
    };
    let extension = {
        let mut block = [0; 512];
        block[..24].copy_from_slice(b"00000002000\x0000000001000\0");
        block[24..48].copy_from_slice(b"00000021450\x0000000000144\0");
        block
    };
    let forms = [
        TarBuilder::new().entry(&old),
        TarBuilder::new().entry(&extended).raw(&extension).contents(&stored),
        TarBuilder::new()
            .records(&[
                size,
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"1024"),
                ("GNU.sparse.numbytes", b"512"),
                ("GNU.sparse.offset", b"9000"),
                ("GNU.sparse.numbytes", b"100"),
            ])
            .file("sparse", &stored),
        TarBuilder::new()
            .records(&[size, name, ("GNU.sparse.map", b"1024,512,9000,100")])
            .file("GNUSparseFile.1/sparse", &stored),
        TarBuilder::new()
            .records(&[
                name,
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"10000"),
            ])
            .file("GNUSparseFile.1/sparse", &in_front),
    ];
    for (index, form) in forms.into_iter().enumerate() {
        let archive = form.file("next", b"next").finish();
        let found = members(&archive).unwrap();
        assert_eq!(found[0].0.path.as_bytes(), b"sparse", "{index}");
        assert_eq!(found[0].1, expected, "{index}");
        assert_eq!(found[1].1, b"next", "{index}");
    }
}

#[test]
fn maps_of_sparse_files_that_are_wrong_are_refused() {
    let size: (&str, &[u8]) = ("GNU.sparse.size", b"100");
    let one: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")];
    let with = |records: &[(&str, &[u8])], contents: &[u8]| {
        refusal(TarBuilder::new().records(records).file("a", contents))
    };
    let sparse = |error| match error {
        TarError::Sparse(fault) => fault,
        other => panic!("{other}"),
    };
    assert!(matches!(
        sparse(with(&[size, ("GNU.sparse.map", b"99,2")], b"xx")),
        SparseFault::Order { offset: 99, .. }
    ));
    assert!(matches!(
        sparse(with(&[size, ("GNU.sparse.map", b"0,2")], b"x")),
        SparseFault::Contents { expected: 1, found: 2 }
    ));
    assert!(matches!(sparse(with(&[("GNU.sparse.map", b"0,1")], b"x")), SparseFault::Missing { .. }));
    assert!(matches!(sparse(with(&[size, ("GNU.sparse.major", b"2")], b"")), SparseFault::Version { .. }));
    assert!(matches!(
        sparse(with(&[size, ("GNU.sparse.numblocks", b"2"), ("GNU.sparse.map", b"0,1")], b"x")),
        SparseFault::Count { expected: 2, found: 1 }
    ));
    // A map that promises a million pieces, or never ends.
    let promised = with(&[size, one[0], one[1]], &[b"1000000\n".as_slice(), &[0; 504]].concat());
    assert!(matches!(sparse(promised), SparseFault::TooMany { found: 1_000_000 }));
    let endless = with(&[size, one[0], one[1]], "200000\n0\n0\n".repeat(100).as_bytes().get(..1024).unwrap());
    assert!(matches!(sparse(endless), SparseFault::Missing { what: "end" }));
    let directory = TarBuilder::new().records(&[size]).directory("a");
    assert!(matches!(sparse(refusal(directory)), SparseFault::NoFile));
}

#[test]
fn attributes_are_those_of_the_nearest_header() {
    let archive = TarBuilder::new()
        .global(&[("comment", b"0123456789abcdef"), ("mtime", b"5"), ("gid", b"7")])
        .records(&[
            ("uid", b"4000000000"),
            ("mtime", b"1700000000.123456789"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        ])
        .entry(&Entry { mode: 0o104_755, user: 1, group: 1, ..Entry::new("a", b'0') })
        .file("b", b"")
        .finish();
    let found = members(&archive).unwrap();
    let attributes = &found[0].0.attributes;
    assert_eq!((attributes.mode, attributes.user, attributes.group), (0o4755, 4_000_000_000, 7));
    assert_eq!(attributes.modified, Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 });
    assert_eq!(attributes.extended[&b"security.capability"[..]], b"\x01\0\0\x02");
    let second = &found[1].0.attributes;
    assert_eq!((second.user, second.group, second.modified.seconds), (0, 7, 5));
    assert!(second.extended.is_empty());
    for (keyword, field) in [("uid", "owner"), ("gid", "group")] {
        let archive = TarBuilder::new().records(&[(keyword, b"4294967295")]).file("a", b"");
        assert_eq!(refusal(archive), TarError::Identifier { field, value: u64::from(u32::MAX) });
    }
    let global = TarBuilder::new().global(&[("path", b"a")]).file("b", b"");
    assert!(matches!(refusal(global), TarError::Pax(PaxFault::Global { .. })));
}

#[test]
fn what_is_no_archive_is_refused() {
    let error = members(&[b'x'; 2048]).unwrap_err();
    assert!(matches!(error, ArchiveError::NoHeader { number: 1, .. }), "{error}");
    let device = TarBuilder::new().entry(&Entry { device: (4096, 0), ..Entry::new("a", b'3') });
    assert_eq!(refusal(device), TarError::DeviceNumber { major: 4096, minor: 0 });
    let odd = TarBuilder::new().entry(&Entry::new("a", b'M'));
    assert_eq!(refusal(odd), TarError::UnknownType { found: b'M' });
}

#[test]
fn an_error_of_whoever_brings_the_bytes_is_kept() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let error = read_all(Broken, ArchiveLimits::within(ROOM)).unwrap_err();
    assert!(matches!(&error, ArchiveError::Reading(source) if source.to_string() == "broken"), "{error}");
    assert!(!error.is_about_the_archive());
}
