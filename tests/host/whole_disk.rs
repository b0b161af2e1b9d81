//! A whole image as one disk with the partitions of its table: what is shown, what was there before, and what is left.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ddictl::format::units::{ByteLength, ByteOffset, Extent, SectorSize};
use ddictl::image::plan::Access;
use ddictl::image::policy::ImagePolicy;
use ddictl::image::presets::RequestedPolicy;
use ddictl::kernel::device_number::DeviceNumber;
use ddictl::kernel::loop_device::{LoopDevice, LoopRequest};
use ddictl::kernel::partition::{self, Partition, PartitionError};
use ddictl::operation::cancel::Cancel;
use ddictl::operation::detach::{Detachment, detach};
use ddictl::operation::error::OperationError;
use ddictl::operation::observer::Silent;
use ddictl::operation::record::Record;
use ddictl::operation::trust_store::{TrustSettings, TrustStore};
use ddictl::operation::whole_disk::{WholeDiskRequest, attach_whole_disk, release_partitions};

use crate::gpt_builder::{BuiltImage, GptBuilder};
use crate::harness::{HostTest, Need};

const LOOP: &[Need] = &[Need::Root, Need::LoopDevices];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "whole_disk::partitions_are_those_of_the_table",
        needs: LOOP,
        run: partitions_are_those_of_the_table,
    },
    HostTest {
        name: "whole_disk::a_read_only_image_cannot_be_written",
        needs: LOOP,
        run: a_read_only_image_cannot_be_written,
    },
    HostTest {
        name: "whole_disk::nothing_is_left_when_it_is_detached",
        needs: LOOP,
        run: nothing_is_left_when_it_is_detached,
    },
    HostTest {
        name: "whole_disk::leftover_partitions_of_an_earlier_image_go",
        needs: LOOP,
        run: leftover_partitions_of_an_earlier_image_go,
    },
    HostTest {
        name: "whole_disk::a_partition_in_use_is_an_error_that_names_it",
        needs: LOOP,
        run: a_partition_in_use_is_an_error_that_names_it,
    },
    HostTest {
        name: "whole_disk::what_the_kernel_refuses_leaves_no_partition",
        needs: LOOP,
        run: what_the_kernel_refuses_leaves_no_partition,
    },
    HostTest {
        name: "whole_disk::an_image_on_a_block_device_is_shown_as_well",
        needs: LOOP,
        run: an_image_on_a_block_device_is_shown_as_well,
    },
];

/// The type of generic Linux data (Discoverable Partitions Specification).
const GENERIC: u128 = 0x0fc63daf_8483_4772_8e79_3d69d8477de4;

/// Three partitions, each full of its number, the middle one of a type that nobody plans.
fn image(sector: usize) -> BuiltImage {
    (1_u8..=3)
        .fold(GptBuilder::new(sector), |builder, number| {
            let content = vec![number; 8192 * usize::from(number)];
            builder.partition(GENERIC, number.into(), "part", 0, content)
        })
        .build()
}

fn written(directory: &Path, image: &BuiltImage) -> PathBuf {
    let path = directory.join("image.raw");
    fs::write(&path, &image.bytes).unwrap();
    path
}

fn request(path: &Path, access: Access) -> WholeDiskRequest {
    WholeDiskRequest {
        image: path.to_owned(),
        reference: Some(NAME.parse().unwrap()),
        policy: Some(RequestedPolicy::as_written(ImagePolicy::allow())),
        access,
    }
}

/// The name of the attachment of every test.
const NAME: &str = "whole-disk-test";

struct Held(Record);

impl Held {
    fn number(&self) -> DeviceNumber {
        self.0.devices[0].device.as_ref().unwrap().parse().unwrap()
    }

    fn path(&self) -> PathBuf {
        self.0.devices[0].path.clone().unwrap()
    }

    /// The partitions that sysfs shows, which are those of the record.
    fn partitions(&self) -> Vec<Partition> {
        let shown = partition::list(self.number()).unwrap();
        let recorded = &self.0.whole_disk.as_ref().unwrap().partitions;
        let of_record = recorded.iter().map(|part| (part.number, part.offset, part.size, part.path.clone()));
        let place = |part: &Partition| (part.extent.start().bytes(), part.extent.length().bytes());
        let of_kernel =
            shown.iter().map(|part| (part.number, place(part).0, place(part).1, part.path.clone()));
        assert!(of_record.eq(of_kernel), "{recorded:?} and {shown:?}");
        shown
    }

    fn undo(self) -> Result<(), OperationError> {
        assert_eq!(detach(NAME)?, Detachment::Detached(NAME.to_owned()));
        assert_eq!(partition::list(self.number()).unwrap_or_default(), []);
        Ok(())
    }
}

fn hold(path: &Path, access: Access) -> Result<Held, OperationError> {
    let trust = TrustStore::load(TrustSettings::default())?;
    attach_whole_disk(&request(path, access), &trust, &Silent, &Cancel::never()).map(|made| Held(made.record))
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// The node of a partition: devtmpfs makes it, so that no udev is needed.
fn node(partition: &Partition) -> File {
    File::open(&partition.path).unwrap()
}

fn partitions_are_those_of_the_table() {
    for sector in [512, 4096] {
        let directory = tempfile::tempdir().unwrap();
        let image = image(sector);
        let path = written(directory.path(), &image);
        let held = hold(&path, Access::ReadWrite).unwrap();
        assert_eq!(held.partitions().len(), 3);
        for (partition, built) in held.partitions().iter().zip(&image.partitions) {
            let place = (partition.extent.start().bytes(), partition.extent.length().bytes());
            let expected = (built.offset, built.length);
            assert_eq!(place, expected, "sectors of {sector}, partition {}", partition.number);
            let (offset, length) = (index(built.offset), index(built.length));
            let mut found = vec![0; length];
            node(partition).read_exact_at(&mut found, 0).unwrap();
            assert!(found == image.bytes[offset..][..length], "partition {}", partition.number);
            assert!(partition.path.to_string_lossy().ends_with(&format!("p{}", partition.number)));
        }
        // Writes arrive: nothing in this image forbids them.
        let second = &held.partitions()[1];
        let writable = File::options().write(true).open(&second.path).unwrap();
        writable.write_all_at(&vec![0xaa; 4096], 4096).unwrap();
        writable.sync_all().unwrap();
        drop(writable);
        held.undo().unwrap();
        let expected = vec![0xaa; 4096];
        assert!(fs::read(&path).unwrap()[index(image.partitions[1].offset) + 4096..].starts_with(&expected));
    }
}

fn a_read_only_image_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let marked = GptBuilder::new(512).partition(GENERIC, 1, "", 1 << 60, vec![1; 8192]).build();
    let path = written(directory.path(), &marked);
    let plain = written(
        &{
            let other = directory.path().join("other");
            fs::create_dir(&other).unwrap();
            other
        },
        &image(512),
    );
    for (path, access) in [(&path, Access::ReadWrite), (&plain, Access::ReadOnly)] {
        let before = fs::read(path).unwrap();
        let held = hold(path, access).unwrap();
        let disk = held.path();
        for node in [&disk, &held.partitions()[0].path] {
            let refused =
                File::options().write(true).open(node).and_then(|file| file.write_all_at(&[9; 512], 0));
            assert!(refused.is_err(), "{}", node.display());
        }
        held.undo().unwrap();
        assert!(fs::read(path).unwrap() == before);
    }
}

fn nothing_is_left_when_it_is_detached() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), &image(512));
    let held = hold(&path, Access::ReadOnly).unwrap();
    let nodes = held.partitions();
    held.undo().unwrap();
    for partition in nodes {
        assert!(fs::symlink_metadata(&partition.path).is_err(), "{}", partition.path.display());
    }
}

/// A loop device over a file of that many bytes.
fn plain_loop(file: &File, size: u64, reference: &str) -> LoopDevice {
    file.set_len(size).unwrap();
    let request = LoopRequest {
        backing: file.as_fd(),
        extent: None,
        block_size: SectorSize::DEFAULT,
        read_only: false,
        reference,
    };
    LoopDevice::configure(&request).unwrap()
}

fn extent(start: u64, length: u64) -> Extent {
    Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
}

fn leftover_partitions_of_an_earlier_image_go() {
    // An image is gone; whether its partition is too depends on the kernel.
    let file = tempfile::tempfile().unwrap();
    let earlier = plain_loop(&file, 1 << 20, "earlier");
    let number = earlier.number();
    partition::replace_all(earlier.fd(), earlier.device_number(), &[(7, extent(512, 4096))]).unwrap();
    drop(earlier);

    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), &image(512));
    let held = hold(&path, Access::ReadOnly).unwrap();
    assert_eq!(held.path(), PathBuf::from(format!("/dev/loop{number}")), "the number that is free is taken");
    let numbers: Vec<u32> = held.partitions().iter().map(|partition| partition.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    held.undo().unwrap();

    // The same of a device that is bound already.
    let later = plain_loop(&file, 1 << 20, "later");
    partition::replace_all(later.fd(), later.device_number(), &[(7, extent(512, 4096))]).unwrap();
    let made = partition::replace_all(later.fd(), later.device_number(), &[(2, extent(4096, 8192))]).unwrap();
    assert_eq!(
        made.iter().map(|made| (made.number, made.extent)).collect::<Vec<_>>(),
        [(2, extent(4096, 8192))]
    );
    release_partitions(&later).unwrap();
}

fn a_partition_in_use_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), &image(512));
    let held = hold(&path, Access::ReadOnly).unwrap();
    let user = node(&held.partitions()[1]);
    let error = detach(NAME).unwrap_err();
    let said = error.with_causes();
    assert!(matches!(error, OperationError::State { .. }), "{said}");
    assert!(said.contains("in use"), "{said}");

    let disk = File::open(held.path()).unwrap();
    let again = partition::replace_all(disk.as_fd(), held.number(), &[(1, extent(512, 512))]);
    assert!(matches!(again, Err(PartitionError::InUse { number: 2, .. })), "{again:?}");
    drop((user, disk));
    held.undo().unwrap();
}

fn what_the_kernel_refuses_leaves_no_partition() {
    let file = tempfile::tempfile().unwrap();
    let disk = plain_loop(&file, 1 << 20, "refused");
    for (what, second) in [
        ("bytes of another one", (2, extent(512, 1024))),
        ("a number that is taken", (1, extent(8192, 512))),
        ("an end behind the disk", (2, extent(1 << 19, 1 << 20))),
        ("a start off the sectors", (2, extent(8193, 512))),
    ] {
        let error =
            partition::replace_all(disk.fd(), disk.device_number(), &[(1, extent(512, 4096)), second])
                .unwrap_err();
        assert!(matches!(error, PartitionError::Adding { .. }), "{what}: {error}");
        assert_eq!(partition::list(disk.device_number()).unwrap(), [], "{what}");
    }
}

fn an_image_on_a_block_device_is_shown_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), &image(512));
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let size = file.metadata().unwrap().len();
    let below = plain_loop(&file, size, "below");
    let held = hold(&below.path(), Access::ReadWrite).unwrap();
    assert_eq!(held.partitions().len(), 3);
    held.undo().unwrap();
}
