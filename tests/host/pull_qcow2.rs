//! Pulling copy-on-write images of QEMU: the disk in them is what is verified and placed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::pull::{Images, PULL, Place, detach, refused, serve};
use crate::pull_directory::Tmpfs;
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_qcow2::the_disk_in_an_image_is_placed_and_nothing_else_is_left",
        needs: PULL,
        run: the_disk_in_an_image_is_placed_and_nothing_else_is_left,
    },
    HostTest {
        name: "pull_qcow2::what_qemu_makes_of_an_image_becomes_that_image",
        needs: &[
            Need::Root,
            Need::LoopDevices,
            Need::FileSystem("tmpfs"),
            Need::Tool("mksquashfs"),
            Need::Tool("openssl"),
            Need::Tool("qemu-img"),
        ],
        run: what_qemu_makes_of_an_image_becomes_that_image,
    },
    HostTest {
        name: "pull_qcow2::what_has_no_disk_of_its_own_is_refused_by_name",
        needs: PULL,
        run: what_has_no_disk_of_its_own_is_refused_by_name,
    },
    HostTest {
        name: "pull_qcow2::the_download_is_compared_before_it_is_read_as_an_image",
        needs: PULL,
        run: the_download_is_compared_before_it_is_read_as_an_image,
    },
    HostTest { name: "pull_qcow2::both_images_have_to_fit", needs: PULL, run: both_images_have_to_fit },
    HostTest {
        name: "pull_qcow2::a_fault_while_it_is_converted_leaves_nothing",
        needs: PULL,
        run: a_fault_while_it_is_converted_leaves_nothing,
    },
];

/// The size of a cluster of ours.
const CLUSTER: usize = 1 << 16;

/// A disk as a copy-on-write image of version 2, its clusters in reverse order.
pub(crate) fn qcow2_of(disk: &[u8]) -> Vec<u8> {
    let offset = |cluster: usize| u64::try_from(cluster * CLUSTER).unwrap();
    let clusters = disk.len().div_ceil(CLUSTER);
    let tables = clusters.div_ceil(CLUSTER / 8);
    // Header, first table, second tables, clusters.
    let first_of_disk = 2 + tables;
    let mut image = vec![0; (first_of_disk + clusters) * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x02");
    put(20, &16_u32.to_be_bytes());
    put(24, &u64::try_from(disk.len()).unwrap().to_be_bytes());
    put(36, &u32::try_from(tables).unwrap().to_be_bytes());
    put(40, &offset(1).to_be_bytes());
    for table in 0..tables {
        put(CLUSTER + 8 * table, &(1 << 63 | offset(2 + table)).to_be_bytes());
    }
    for (index, bytes) in disk.chunks(CLUSTER).enumerate() {
        let place = first_of_disk + clusters - 1 - index;
        put(2 * CLUSTER + 8 * index, &(1 << 63 | offset(place)).to_be_bytes());
        put(place * CLUSTER, bytes);
    }
    image
}

fn sha256(bytes: &[u8]) -> String {
    openssl::sha::sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pulls what must be accepted, and compares what is placed with this disk.
fn arrives(images: &Images, image: Vec<u8>, disk: &[u8]) {
    let (before, place) = (MachineState::now(), Place::new());
    let image: Arc<[u8]> = image.into();
    let server = serve(&image);
    // A digest is one of the download.
    let mut command = ddictl();
    command.args(["pull", "raw", &server.url("/image.qcow2"), "image", "--attach", "--json=short"]);
    command.args([&format!("--verify={}", sha256(&image)), &images.certificate(), &place.option()]);
    let record: Value = serde_json::from_str(&succeed(&mut command)).unwrap();
    let arrived = fs::read(place.path().join("image.raw"));
    let files = fs::read_dir(place.path()).unwrap().count();
    let devices = record["devices"].as_array().unwrap();
    let device = fs::read(devices[0]["path"].as_str().unwrap());
    detach("image.raw");
    assert!(arrived.unwrap() == *disk);
    assert_eq!(files, 1);
    assert_eq!(record["image"]["digest"], sha256(&image));
    assert_eq!(devices[0]["protection"], "signed");
    let offset = usize::try_from(devices[0]["offset"].as_u64().unwrap()).unwrap();
    assert!(disk[offset..].starts_with(&device.unwrap()));
    assert!(place.is_gone());
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn the_disk_in_an_image_is_placed_and_nothing_else_is_left() {
    let images = Images::new();
    let image = qcow2_of(&images.good);
    arrives(&images, liblzma::encode_all(&image[..], 1).unwrap(), &images.good);
    arrives(&images, image, &images.good);
}

fn what_qemu_makes_of_an_image_becomes_that_image() {
    let images = Images::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("image.raw"), &*images.good).unwrap();
    for options in [
        &["-o", "compat=1.1"][..],
        &["-o", "compat=0.10"],
        &["-c", "-o", "compat=1.1,compression_type=zlib"],
        &["-c", "-o", "compat=1.1,compression_type=zstd"],
        &["-o", "cluster_size=4k,preallocation=metadata"],
    ] {
        let mut convert = Command::new("qemu-img");
        convert
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args(options)
            .args(["image.raw", "image.qcow2"]);
        succeed(convert.current_dir(path));
        arrives(&images, fs::read(path.join("image.qcow2")).unwrap(), &images.good);
    }
}

/// An image that QEMU's tools made, with some bytes changed.
fn stored(name: &str, position: usize, bytes: &[u8]) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/qcow2");
    let file = fs::File::open(directory.join(format!("{name}.qcow2.zst"))).unwrap();
    let mut image = zstd::decode_all(file).unwrap();
    image[position..position + bytes.len()].copy_from_slice(bytes);
    image
}

fn what_has_no_disk_of_its_own_is_refused_by_name() {
    let (images, place) = (Images::new(), Place::new());
    let v3 = "version-3";
    let whole = stored(v3, 0, b"");
    let mut damaged = qcow2_of(&images.good);
    let length = damaged.len();
    damaged[length - CLUSTER / 2] ^= 1;
    // 32 TiB, in a table of 512 KiB that has none of it.
    let mut large = qcow2_of(&[]);
    large.resize(16 * CLUSTER, 0);
    large[24..32].copy_from_slice(&(1_u64 << 45).to_be_bytes());
    large[36..40].copy_from_slice(&(1_u32 << 16).to_be_bytes());
    for (image, status, words) in [
        (stored(v3, 8, &[0, 0, 0, 0, 0, 0, 1, 0]), 3, "it needs a backing file"),
        (stored(v3, 32, &[0, 0, 0, 2]), 3, "it is encrypted (method 2)"),
        (stored(v3, 79, &[2]), 3, "it is marked as corrupt"),
        (stored(v3, 79, &[4]), 3, "its data is in an external file"),
        (stored(v3, 79, &[0x20]), 3, "features that are not known"),
        (large, 1, "expected a disk of at most"),
        (whole[..whole.len() - CLUSTER].to_vec(), 3, "within the file"),
        (b"QFI\xfb".to_vec(), 3, "within the file of 4 bytes"),
        (stored("deflate", 5 * CLUSTER, &[0xff; 4000]), 3, "decompressing the cluster"),
        // It has a disk, and there is no image on that; or not the one that was signed.
        (stored(v3, 0, b""), 3, "DDI"),
        (qcow2_of(&images.unsigned), 3, "found root: verity"),
        (qcow2_of(&images.flipped()), 3, "data blocks that differ"),
        (qcow2_of(&qcow2_of(&images.good)), 3, "DDI"),
    ] {
        let compressed: Arc<[u8]> = zstd::encode_all(&image[..], 1).unwrap().into();
        let image: Arc<[u8]> = image.into();
        for image in [image, compressed] {
            let server = serve(&image);
            refused(images.pull(&server.url("/image.qcow2")).arg(place.option()), status, words);
            assert!(place.is_gone(), "{words}");
        }
    }
}

fn the_download_is_compared_before_it_is_read_as_an_image() {
    let (images, place) = (Images::new(), Place::new());
    for image in [stored("version-3", 32, &[0, 0, 0, 2]), qcow2_of(&images.good), b"QFI\xfb".to_vec()] {
        let image: Arc<[u8]> = image.into();
        let server = serve(&image);
        let mut command = ddictl();
        command.args(["pull", "raw", &server.url("/image.qcow2"), "image", "--attach", &place.option()]);
        // The digest of the disk is not one of the download.
        command.args([&format!("--verify={}", sha256(&images.good)), &images.certificate()]);
        refused(&mut command, 3, "another download than expected");
        assert!(place.is_gone());
    }
}

/// What these bytes take in a tmpfs where what is zero is a hole.
fn not_zero(bytes: &[u8]) -> usize {
    4096 * bytes.chunks(4096).filter(|page| page.iter().any(|byte| *byte != 0)).count()
}

fn both_images_have_to_fit() {
    let images = Images::new();
    let image = qcow2_of(&images.good);
    let (spool, disk) = (not_zero(&image), not_zero(&images.good));
    let image: Arc<[u8]> = image.into();
    let server = serve(&image);
    for (room, words) in
        [(spool / 2, "the image does not fit"), (spool + disk / 4, "do not fit in together: make more room")]
    {
        let small = Tmpfs::new(&room.to_string());
        let mut command = images.pull(&server.url("/image.qcow2"));
        refused(command.arg(small.option()), 1, words);
        assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
        assert_eq!(small.used(), 0, "{words}");
    }
    let enough = Tmpfs::new(&(spool + disk + (1 << 20)).to_string());
    succeed(images.pull(&server.url("/image.qcow2")).arg(enough.option()));
    // The room of what came is given back.
    let used = enough.used();
    detach("image.raw");
    assert!(used <= u64::try_from(disk + (64 << 10)).unwrap(), "{used} of {spool} and {disk}");
    assert_eq!(enough.used(), 0);
}

fn a_fault_while_it_is_converted_leaves_nothing() {
    let (images, place) = (Images::new(), Place::new());
    let image: Arc<[u8]> = qcow2_of(&images.good).into();
    let server = serve(&image);
    let before = MachineState::now();
    for point in ["received", "converting", "converted"] {
        for (fault, status) in [("error", Some(1)), ("sigterm", Some(143)), ("sigkill", None)] {
            let mut command = images.pull(&server.url("/image.qcow2"));
            command.arg(place.option()).env("DDICTL_FAULT", format!("pull:{point}={fault}"));
            assert_eq!(command.output().unwrap().status.code(), status, "{point}={fault}");
            if status.is_none() {
                succeed(ddictl().args(["detach", "--stale"]));
            }
            assert!(place.is_gone(), "{point}={fault}");
            assert_eq!(before.difference(&MachineState::now()), None, "{point}={fault}");
        }
    }
}
