//! What an image on a server costs: requests and bytes, for images of the layouts and sizes that there are.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ddictl::format::designator::Designator;
use ddictl::format::gpt::{Attributes, GptEntry, WrittenTable};
use ddictl::format::guid::{DiskUuid, Guid, PartitionTypeUuid, PartitionUuid};
use ddictl::format::label::PartitionLabel;
use ddictl::format::root_hash::{HashAlgorithm, RootHash};
use ddictl::format::units::{ByteLength, ByteOffset, Extent, PartitionNumber, SectorSize};
use ddictl::format::verity::{HashTreeGeometry, Salt, VerityBlockSize, VeritySuperblock};
use ddictl::trust::sealing::sign_root_hash;

use crate::command_line::Workshop;
use crate::corpus::trusted;
use crate::ddi_builder::{READ_ONLY, luks2, signature_partition, squashfs, type_uuid, vfat};
use crate::http_server::{Answer, HttpServer, Request};
use crate::used_images::UsedImage;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// How much an image may cost, whatever its size, where the server sends several parts at once.
const MOST_REQUESTS: usize = 6;
const MOST_BYTES: usize = 128 << 10;

/// The same bytes where it sends one part at a time: what lies between the partitions comes along, to spare requests.
const MOST_BYTES_SINGLY: usize = 6 << 20;

/// A partition: what stands at its beginning, and how large it is.
struct Part {
    designator: Designator,
    uuid: PartitionUuid,
    label: String,
    attributes: u64,
    size: u64,
    beginning: Vec<u8>,
}

fn plain(designator: Designator, label: &str, size: u64, beginning: Vec<u8>) -> Part {
    // One of its own, of the label.
    let mut uuid = [b'-'; 16];
    for (place, letter) in uuid.iter_mut().zip(label.bytes().rev()) {
        *place = letter;
    }
    uuid[15] ^= label.bytes().fold(0, |sum, letter| sum ^ letter);
    Part {
        designator,
        uuid: PartitionUuid::new(Guid::from_bytes(uuid)),
        label: label.to_owned(),
        attributes: 0,
        size,
        beginning,
    }
}

/// A file system of that size with a hash tree over all of it, and a signature. Nobody reads the tree, so it is not there.
fn signed(designator: Designator, label: &str, size: u64, version: u8) -> [Part; 3] {
    let root_hash: Vec<u8> = (version * 32..).take(32).collect();
    let root_hash = RootHash::from_bytes(&root_hash).unwrap();
    let superblock = VeritySuperblock {
        uuid: Guid::from_bytes([version; 16]),
        algorithm: HashAlgorithm::Sha256,
        data_block_size: VerityBlockSize::new(4096).unwrap(),
        hash_block_size: VerityBlockSize::new(4096).unwrap(),
        data_blocks: size / 4096,
        salt: Salt::new(&[0x5a; 32]).unwrap(),
    };
    let tree = HashTreeGeometry::new(&superblock).unwrap().tree_extent();
    let pair = trusted();
    let signature = sign_root_hash(&root_hash, &pair.key_pem(), &pair.certificate_pem()).unwrap();
    let signature = signature_partition(&root_hash, &signature, Some(pair.fingerprint()));
    let part = |designator: Designator, suffix: &str, size, beginning| Part {
        attributes: READ_ONLY,
        ..plain(designator, &format!("{label}_{version}{suffix}"), size, beginning)
    };
    let hash = designator.verity_hash().unwrap();
    [
        Part { uuid: root_hash.data_partition_uuid(), ..part(designator, "", size, squashfs()) },
        Part {
            uuid: root_hash.hash_partition_uuid(),
            ..part(hash, "-verity", tree.end().bytes(), superblock.to_bytes().to_vec())
        },
        part(designator.verity_signature().unwrap(), "-verity-sig", 16 * KIB, signature),
    ]
}

/// Writes an image as a file that is mostly a hole, its partitions at multiples of `alignment`.
fn write(workshop: &Workshop, parts: &[Part], alignment: u64) -> File {
    let file = File::create_new(workshop.path("image.raw")).unwrap();
    let mut end = MIB;
    let mut entries = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let start = end.next_multiple_of(alignment);
        end = start + part.size;
        file.write_all_at(&part.beginning, start).unwrap();
        entries.push(GptEntry {
            number: PartitionNumber::new(u32::try_from(index).unwrap() + 1).unwrap(),
            type_uuid: PartitionTypeUuid::new(Guid::from_bytes(type_uuid(part.designator).to_be_bytes())),
            uuid: part.uuid,
            extent: Extent::new(ByteOffset::new(start), ByteLength::new(part.size)).unwrap(),
            attributes: Attributes::from_bits(part.attributes),
            label: PartitionLabel::new(&part.label).unwrap(),
        });
    }
    let disk = DiskUuid::new(Guid::from_bytes([7; 16]));
    let size = ByteLength::new(end.next_multiple_of(alignment));
    let table = WrittenTable::new(size, SectorSize::DEFAULT, disk, &entries).unwrap();
    file.set_len(table.image_size.bytes()).unwrap();
    for (start, bytes) in table.pieces {
        file.write_all_at(&bytes, start.bytes()).unwrap();
    }
    File::open(workshop.path("image.raw")).unwrap()
}

/// How a server answers requests for several parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With these parts.
    Several,
    /// With the whole, and says that it knows parts.
    Whole,
    /// With the whole, without a word.
    Silent,
    /// With the first of them.
    First,
    /// Not at all.
    Refusing,
}

const KINDS: [Kind; 5] = [Kind::Several, Kind::Whole, Kind::Silent, Kind::First, Kind::Refusing];

fn part(file: &File, first: usize, last: usize) -> (u64, Vec<u8>) {
    let total = file.metadata().unwrap().len();
    let start = u64::try_from(first).unwrap();
    let length = u64::try_from(last).unwrap().saturating_add(1).min(total) - start;
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    file.read_exact_at(&mut bytes, start).unwrap();
    (start, bytes)
}

/// An answer out of a file that is too large for memory, and how many bytes it is.
fn answer(kind: Kind, file: &File, request: &Request) -> (Answer, usize) {
    /// What is sent of the whole before whoever waits for more waits for ever: as far as the first partition's beginning.
    const BEGINNING: u64 = MIB + 65 * KIB;

    let total = file.metadata().unwrap().len();
    let ranges = request.ranges_of(usize::try_from(total).unwrap());
    let one = |(first, last)| {
        let (start, bytes) = part(file, first, last);
        let range = format!("bytes {start}-{}/{total}", start + u64::try_from(bytes.len()).unwrap() - 1);
        let length = bytes.len();
        (Answer::bytes(bytes).with_status(206).header("Content-Range", &range), length)
    };
    match (ranges.as_slice(), kind) {
        ([range], _) | ([range, ..], Kind::First) => one(*range),
        (_, Kind::Several) => {
            let mut body = Vec::new();
            for (first, last) in ranges {
                let (start, bytes) = part(file, first, last);
                let end = start + u64::try_from(bytes.len()).unwrap() - 1;
                let head = format!(
                    "\r\n--boundary\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{end}/{total}\r\n\r\n"
                );
                body.extend(head.into_bytes());
                body.extend(bytes);
            }
            body.extend(b"\r\n--boundary--\r\n");
            let length = body.len();
            let answer = Answer::bytes(body).with_status(206);
            (answer.header("Content-Type", "multipart/byteranges; boundary=boundary"), length)
        }
        (_, Kind::Whole | Kind::Silent) => {
            let (_, beginning) = part(file, 0, usize::try_from(BEGINNING).unwrap() - 1);
            let length = beginning.len();
            let answer = Answer::bytes(beginning).claim_length(usize::try_from(total).unwrap());
            let answer = answer.stall_after(length);
            let says_so = kind == Kind::Whole;
            (if says_so { answer.header("Accept-Ranges", "bytes") } else { answer }, length)
        }
        (_, Kind::First | Kind::Refusing) => (Answer::status(416), 0),
    }
}

/// What an audit of an image cost.
#[derive(Debug)]
struct Cost {
    requests: usize,
    bytes: usize,
    connections: usize,
}

/// Audits an image on a server and as a file, which has to come to the same, and says what the server was asked for.
fn audit(workshop: &Workshop, policy: &str, kind: Kind) -> Cost {
    let file = File::open(workshop.path("image.raw")).unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let server = HttpServer::start(move |request| {
        let (answer, length) = answer(kind, &file, request);
        counted.fetch_add(length, Ordering::SeqCst);
        answer
    });
    // Whoever asks to look into boot partitions on a server knows that this takes more.
    let audit =
        format!("audit --certificate=k.crt --image-policy={policy} --boot-partitions=no --format=json");
    let url = server.url("/image.raw");
    let told = workshop.run(&format!("{audit} {url}")).exits(0).json();
    let of_file = workshop.run(&format!("{audit} image.raw")).exits(0).json();
    assert_eq!(told["partitions"], of_file["partitions"]);
    assert_eq!(told["findings"], of_file["findings"]);
    Cost {
        requests: server.requests().len(),
        bytes: sent.load(Ordering::SeqCst),
        connections: server.connections(),
    }
}

#[test]
fn an_image_costs_few_requests_and_few_bytes_whatever_its_layout_and_size() {
    let esp = || plain(Designator::Esp, "esp", 512 * MIB, vfat());
    let root = |size, version| signed(Designator::Root, "root", size, version);
    let both = [vec![esp()], root(2 * GIB, 1).into(), signed(Designator::Usr, "usr", 4 * GIB, 2).into()];
    let slots = [vec![esp()], root(2 * GIB, 1).into(), root(2 * GIB, 2).into()];
    let home = plain(Designator::Home, "home", 8 * GIB, luks2(|_| ()));
    let [mut xfs, hash, signature] = root(64 * MIB, 1);
    xfs.beginning = UsedImage::load("xfs-wrapped-used").read(0, 64 << 20);
    let esp_and_root = "root=signed:esp=unprotected";
    let layouts: [(&str, &str, Vec<Part>); 7] = [
        ("a signed root", "root=signed", root(2 * GIB, 1).into()),
        (
            "root and ESP",
            esp_and_root,
            [vec![esp()], root(2 * GIB, 1).into()].into_iter().flatten().collect(),
        ),
        ("root, usr and ESP", "root=signed:usr=signed:esp=unprotected", both.into_iter().flatten().collect()),
        ("two slots and ESP", esp_and_root, slots.into_iter().flatten().collect()),
        (
            "root, ESP and an encrypted home",
            "root=signed:esp=unprotected:home=encrypted",
            [vec![esp()], root(2 * GIB, 1).into(), vec![home]].into_iter().flatten().collect(),
        ),
        ("an XFS with a log to look into", esp_and_root, vec![esp(), xfs, hash, signature]),
        ("a tebibyte", esp_and_root, [vec![esp()], root(TIB, 1).into()].into_iter().flatten().collect()),
    ];
    for (name, policy, parts) in layouts {
        // As systemd-repart lays them out, and as most others do.
        for alignment in [4 * KIB, MIB] {
            let workshop = Workshop::new();
            write(&workshop, &parts, alignment);
            for kind in KINDS {
                let cost = audit(&workshop, policy, kind);
                let (requests, bytes, connections) = match (kind, name) {
                    (Kind::Several, _) => (MOST_REQUESTS, MOST_BYTES, 1),
                    // Many places of a log lie far apart. Somebody who has such images wants another server.
                    (_, "an XFS with a log to look into") => (80, 16 << 20, 2),
                    (Kind::Whole, _) => (MOST_REQUESTS, MOST_BYTES_SINGLY, 2),
                    (Kind::Silent | Kind::First, _) => (MOST_REQUESTS + 1, MOST_BYTES_SINGLY, 2),
                    (Kind::Refusing, _) => (MOST_REQUESTS + 2, MOST_BYTES_SINGLY, 2),
                };
                assert!(
                    cost.requests <= requests && cost.bytes <= bytes && cost.connections <= connections,
                    "{name}, aligned to {alignment}, {kind:?}: {cost:?}"
                );
            }
        }
    }
}
