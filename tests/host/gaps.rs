//! Superblocks in the gaps of an image and behind its file systems: nothing on the machine ever sees them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::attach::{Attached, Foreign, Sealed, fail, loops_of_verified};
use crate::gpt_builder::{BuiltImage, GptBuilder};
use crate::harness::{HostTest, Need};
use crate::repart::succeed;
use crate::udev_links::{Udevd, links, properties};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::Udevd,
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("mkfs.vfat"),
    Need::Tool("mkfs.btrfs"),
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "gaps::no_device_shows_what_lies_beside_the_plan",
        needs: NEEDS,
        run: no_device_shows_what_lies_beside_the_plan,
    },
    HostTest {
        name: "gaps::a_file_system_in_front_of_the_table_is_refused_by_name",
        needs: NEEDS,
        run: a_file_system_in_front_of_the_table_is_refused_by_name,
    },
];

/// A gap, or a part behind a file system. On anything smaller than a floppy disk blkid looks for no RAID.
const GAP: usize = 2 << 20;

/// A superblock as it lies in a gap: what it is called, the bytes of the gap, and what is searched for.
#[derive(Debug)]
struct Planted {
    kind: &'static str,
    bytes: Vec<u8>,
    magic: Vec<u8>,
}

/// Superblocks that blkid recognises in a gap of [`GAP`] bytes.
fn planted() -> Vec<Planted> {
    vec![iso9660(), md("linux_raid_member", 4096), md("linux_raid_member", GAP - 8192), lvm2(), btrfs()]
}

/// ECMA-119, 8.4: a primary volume descriptor in sector 16 of 2048 bytes, and the end of the set.
fn iso9660() -> Planted {
    let mut bytes = vec![0; GAP];
    bytes[16 * 2048..][..7].copy_from_slice(b"\x01CD001\x01");
    bytes[16 * 2048 + 40..][..32].copy_from_slice(b"PLANTED                         ");
    bytes[17 * 2048..][..7].copy_from_slice(b"\xffCD001\x01");
    Planted { kind: "iso9660", bytes, magic: b"CD001".to_vec() }
}

/// `struct mdp_superblock_1` (linux/raid/md_p.h): version 1.2 lies at 4 KiB, version 1.0 at 8 KiB before the end.
fn md(kind: &'static str, offset: usize) -> Planted {
    let mut block = vec![0_u8; 256];
    block[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    block[4] = 1;
    block[16..32].copy_from_slice(b"planted md array");
    block[72] = 1;
    block[80..88].copy_from_slice(&64_u64.to_le_bytes());
    block[92] = 1;
    block[144..152].copy_from_slice(&u64::try_from(offset / 512).unwrap().to_le_bytes());
    // sb_csum: the sum of all words, folded once.
    let sum: u64 = block.chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    let folded = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
    block[216..220].copy_from_slice(&folded.to_le_bytes());
    let magic = block[..8].to_vec();
    let mut bytes = vec![0; GAP];
    bytes[offset..][..256].copy_from_slice(&block);
    Planted { kind, bytes, magic }
}

/// The label of a physical volume in its second sector, with LVM's own start value of the CRC.
fn lvm2() -> Planted {
    let mut label = vec![0_u8; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"plantedplantedplantedplantedplan");
    let mut crc = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    crc.update(&label[20..]);
    label[16..20].copy_from_slice(&(!crc.finalize()).to_le_bytes());
    let mut bytes = vec![0; GAP];
    bytes[512..1024].copy_from_slice(&label);
    Planted { kind: "LVM2_member", bytes, magic: b"LABELONE".to_vec() }
}

/// What mkfs.btrfs writes at 64 KiB.
fn btrfs() -> Planted {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(128 << 20).unwrap();
    succeed(Command::new("mkfs.btrfs").arg("--quiet").arg(file.path()));
    let mut bytes = vec![0; GAP];
    file.as_file().read_exact_at(&mut bytes[64 << 10..][..4096], 64 << 10).unwrap();
    Planted { kind: "btrfs", bytes, magic: b"_BHRfS_M".to_vec() }
}

/// The partitions of a sealed image in a table with larger gaps: each partition but the ESP has a superblock behind its
/// contents, and each gap one within.
fn image_with_gaps(sealed: &Sealed, planted: &[Planted]) -> BuiltImage {
    let file = File::open(sealed.image()).unwrap();
    let (root, hashed) = sealed.hashed_area();
    let mut builder = GptBuilder::new(512).alignment(8 << 20);
    for (index, partition) in sealed.partitions().iter().enumerate() {
        let number = |key: &str| partition[key].as_u64().unwrap();
        let guid =
            |key: &str| u128::from_str_radix(&partition[key].as_str().unwrap().replace('-', ""), 16).unwrap();
        let is_root = number("offset") == root;
        let length = if is_root { hashed } else { number("size") };
        let mut content = vec![0; usize::try_from(length).unwrap()];
        file.read_exact_at(&mut content, number("offset")).unwrap();
        if is_root {
            content.extend_from_slice(&planted[index % planted.len()].bytes);
        }
        builder = builder.partition(
            guid("type_uuid"),
            guid("uuid"),
            partition["label"].as_str().unwrap(),
            0,
            content,
        );
    }
    let mut built = builder.build();
    let ends: Vec<u64> =
        built.partitions.iter().map(|partition| partition.offset + partition.length).collect();
    // The end of the image is the last gap: it holds every superblock, and the table of the backup behind them.
    let mut next = planted.iter().cycle();
    for (end, following) in ends.iter().zip(built.partitions.iter().skip(1)) {
        let room = following.offset - end;
        let superblock = next.next().unwrap();
        assert!(room >= u64::try_from(GAP).unwrap(), "a gap of {room} bytes");
        let start = usize::try_from(*end).unwrap();
        built.bytes[start..][..GAP].copy_from_slice(&superblock.bytes);
    }
    built
}

/// Every kind once more, behind the last partition: the image is longer than its table says it needs.
fn write_with_tail(sealed: &Sealed, built: &BuiltImage, planted: &[Planted]) -> PathBuf {
    let tail = 33 * 512;
    let (front, backup) = built.bytes.split_at(built.bytes.len() - tail);
    let mut bytes = front.to_vec();
    for superblock in planted {
        bytes.extend_from_slice(&superblock.bytes);
    }
    bytes.extend_from_slice(backup);
    let last = u64::try_from(bytes.len() / 512 - 1).unwrap();
    let (old_last, first_behind) = (built.bytes.len() / 512 - 1, last - 32);
    // Both headers tell where the other one is, where the entries of the backup lie, and what may be used.
    for header in [1, usize::try_from(last).unwrap()] {
        let block = &mut bytes[header * 512..][..512];
        assert_eq!(&block[..8], b"EFI PART");
        for field in [24, 32] {
            let value = u64::from_le_bytes(block[field..field + 8].try_into().unwrap());
            if value == u64::try_from(old_last).unwrap() {
                block[field..field + 8].copy_from_slice(&last.to_le_bytes());
            }
        }
        block[48..56].copy_from_slice(&(first_behind - 1).to_le_bytes());
        if header != 1 {
            block[72..80].copy_from_slice(&first_behind.to_le_bytes());
        }
    }
    bytes[510 - 64 + 12..][..4].copy_from_slice(&u32::try_from(last).unwrap().to_le_bytes());
    let repaired = BuiltImage { bytes, ..built.clone() }.repaired();
    let path = sealed.path().join("gaps.raw");
    fs::write(&path, repaired.bytes).unwrap();
    path
}

fn find(bytes: &[u8], magic: &[u8]) -> bool {
    // Most of it is zero, which is seen at once.
    const ZEROS: [u8; 4096] = [0; 4096];
    (0..bytes.len()).step_by(4096).any(|start| {
        let block = &bytes[start..bytes.len().min(start + 4096 + magic.len() - 1)];
        block[..block.len().min(4096)] != ZEROS[..block.len().min(4096)]
            && block.windows(magic.len()).any(|window| window == magic)
    })
}

fn assert_recognised(directory: &Path, superblock: &Planted, udevd: &Udevd) {
    let file = directory.join("planted");
    fs::write(&file, &superblock.bytes).unwrap();
    let foreign = Foreign::attach(&file, "planted");
    let kernel_name = format!("loop{}", foreign.number());
    udevd.trigger(&kernel_name);
    let found = properties(&kernel_name);
    drop(foreign);
    udevd.settle();
    let expected = format!("ID_FS_TYPE={}", superblock.kind);
    assert!(found.contains(&expected), "udev would not see it anyway: {expected}: {found:?}");
}

fn no_device_shows_what_lies_beside_the_plan() {
    let sealed = Sealed::with_esp();
    let udevd = Udevd::start();
    let planted = planted();
    for superblock in &planted {
        assert_recognised(sealed.path(), superblock, &udevd);
    }
    for shift in 0..planted.len() {
        let mut turned: Vec<&Planted> = planted.iter().collect();
        turned.rotate_left(shift);
        let turned: Vec<Planted> = turned
            .into_iter()
            .map(|p| Planted { kind: p.kind, bytes: p.bytes.clone(), magic: p.magic.clone() })
            .collect();
        let path = write_with_tail(&sealed, &image_with_gaps(&sealed, &turned), &turned);
        let image = fs::read(&path).unwrap();
        assert!(turned.iter().all(|superblock| find(&image, &superblock.magic)));
        for policy in ["@verified-boot", "*"] {
            let attached = Attached::by(sealed.attach().arg(format!("--image-policy={policy}")).arg(&path));
            udevd.settle();
            let devices = attached.devices();
            let expected = if policy == "*" { 2 } else { 1 };
            assert_eq!(attached.paths().len(), expected, "{policy}");
            assert_eq!(devices.len(), expected - 1 + loops_of_verified(), "{policy}");
            let shows_nothing = |path: &str| {
                let shown = fs::read(path).unwrap();
                for superblock in &turned {
                    assert!(!find(&shown, &superblock.magic), "{} on {path}", superblock.kind);
                }
                u64::try_from(shown.len()).unwrap()
            };
            for device in &devices {
                let name = format!("loop{}", device.number);
                assert_eq!(shows_nothing(&format!("/dev/{name}")), device.size_limit.bytes());
                let properties = properties(&name);
                assert!(!properties.iter().any(|line| line.starts_with("ID_FS_")), "{properties:?}");
                assert!(!fs::exists(format!("/dev/{name}p1")).unwrap());
            }
            for path in attached.paths().iter().filter(|path| path.starts_with("/dev/dm-")) {
                assert_eq!(shows_nothing(path), sealed.hashed_area().1);
                // The file system is that of the plan, and nobody has read a label or a UUID.
                let mut properties = properties(path.trim_start_matches("/dev/"));
                properties.retain(|line| line.starts_with("ID_FS_"));
                properties.sort_unstable();
                assert_eq!(properties, ["ID_FS_TYPE=squashfs", "ID_FS_USAGE=filesystem"]);
            }
            let links = links();
            assert_eq!(links.len(), 2 * expected, "{links:?}");
            assert!(
                links.iter().all(|(name, _)| name.starts_with("disk/by-loop-ref/gaps.raw-")),
                "{links:?}"
            );
        }
    }
}

fn a_file_system_in_front_of_the_table_is_refused_by_name() {
    let sealed = Sealed::new();
    let image = fs::read(sealed.image()).unwrap();
    let first = sealed.partitions()[0]["offset"].as_u64().unwrap();
    assert!(first >= 128 << 10, "no room for a superblock in front of the first partition");
    let with = |superblock: &Planted, start: usize| {
        let mut bytes = image.clone();
        bytes[start..][..4096].copy_from_slice(&superblock.bytes[start..][..4096]);
        fs::write(sealed.image(), &bytes).unwrap();
    };
    with(&btrfs(), 64 << 10);
    for policy in ["@verified-boot", "*"] {
        let said = fail(sealed.attach().arg(format!("--image-policy={policy}")).arg(sealed.image()), 3);
        assert!(said.contains("DDI0112") && said.contains("btrfs"), "{policy}: {said}");
    }
    // The label of a disc is no file system that anybody mounts by mistake for a disk, and no device shows it either.
    let disc = iso9660();
    with(&disc, 32 << 10);
    let udevd = Udevd::start();
    let attached = sealed.attached(&[]);
    udevd.settle();
    let shown = fs::read(&attached.paths()[0]).unwrap();
    assert!(find(&fs::read(sealed.image()).unwrap(), &disc.magic) && !find(&shown, &disc.magic));
    let links = links();
    assert!(
        links.len() == 2 && links.iter().all(|(name, _)| name.contains("by-loop-ref/under-test.raw-")),
        "{links:?}"
    );
}
