//! What is not ours, and what somebody else did meanwhile: foreign devices with our names, rules that udev still knows,
//! pipes that nobody writes to, names that are hardly names.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use crate::attach::{Attached, Foreign, Sealed, fail, text};
use crate::encrypted_attach::Secret;
use crate::faults::{each_fault, points};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::repart::succeed;
use crate::udev_links::Udevd;

const NEEDS: &[Need] = &[Need::Guest, Need::Tool("cryptsetup"), Need::Tool("mkfs.ext4")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "strangers::a_loop_device_of_somebody_else_is_not_detached",
        needs: NEEDS,
        run: a_loop_device_of_somebody_else_is_not_detached,
    },
    HostTest {
        name: "strangers::a_verity_device_of_somebody_else_is_not_detached",
        needs: NEEDS,
        run: a_verity_device_of_somebody_else_is_not_detached,
    },
    HostTest {
        name: "strangers::a_volume_of_somebody_else_is_not_reaped",
        needs: NEEDS,
        run: a_volume_of_somebody_else_is_not_reaped,
    },
    HostTest {
        name: "strangers::in_an_initrd_a_fault_leaves_no_link_either",
        needs: NEEDS,
        run: in_an_initrd_a_fault_leaves_no_link_either,
    },
    HostTest {
        name: "strangers::a_key_that_nobody_writes_is_waited_for_until_a_signal",
        needs: NEEDS,
        run: a_key_that_nobody_writes_is_waited_for_until_a_signal,
    },
    HostTest {
        name: "strangers::the_longest_and_oddest_name_goes_again",
        needs: NEEDS,
        run: the_longest_and_oddest_name_goes_again,
    },
    HostTest {
        name: "strangers::a_hash_tree_of_another_image_shows_nothing",
        needs: NEEDS,
        run: a_hash_tree_of_another_image_shows_nothing,
    },
    HostTest {
        name: "strangers::a_damaged_block_is_named_as_such",
        needs: NEEDS,
        run: a_damaged_block_is_named_as_such,
    },
];

fn a_loop_device_of_somebody_else_is_not_detached() {
    let sealed = Sealed::new();
    for reference in ["under-test.raw-part1.data", "under-test.raw-part1.hash"] {
        let attached = Attached::by(sealed.attach_from_disk().arg(sealed.image()));
        // The same file under the same name: only the kernel's number tells it from ours.
        let foreign = Foreign::attach(&sealed.image(), reference);
        let detached = ddictl().args(["detach", "under-test.raw"]).output().unwrap();
        let still = foreign.status();
        drop(foreign);
        drop(attached);
        assert!(detached.status.success(), "{reference}: {}", text(&detached.stderr));
        assert_eq!(still.reference(), Some(reference));
    }
}

fn a_verity_device_of_somebody_else_is_not_detached() {
    let sealed = Sealed::new();
    let attached = Attached::by(sealed.attach_from_disk().arg(sealed.image()));
    let record = attached.record();
    let device = &record["devices"][0];
    let (root_hash, uuid) =
        (device["root_hash"].as_str().unwrap(), device["mappers"][0]["uuid"].as_str().unwrap());
    // Somebody takes ours away and makes one of the same name and UUID, on loop devices of their own.
    let table = succeed(Command::new("dmsetup").args(["table", "under-test.raw-root"]));
    succeed(Command::new("dmsetup").args(["remove", "--noudevsync", "under-test.raw-root"]));
    let partitions = sealed.partitions();
    let own = |designator: &str| {
        let found = partitions.iter().find(|partition| partition["designator"] == designator).unwrap();
        let place = |key: &str| found[key].as_u64().unwrap().to_string();
        let device = succeed(
            Command::new("losetup")
                .args(["--find", "--show", "--read-only"])
                .args(["--offset", &place("offset"), "--sizelimit", &place("size")])
                .arg(sealed.image()),
        );
        device.trim().to_owned()
    };
    let (data, hash) = (own("root"), own("root-verity"));
    let number = |device: &str| fs::read_to_string(format!("/sys/block/{}/dev", &device[5..])).unwrap();
    let mut words: Vec<String> = table.split_whitespace().map(str::to_owned).collect();
    words[4] = number(&data).trim().to_owned();
    words[5] = number(&hash).trim().to_owned();
    assert!(words.iter().any(|word| word == root_hash), "{table}");
    succeed(
        Command::new("dmsetup").args(["create", "--noudevsync", "--readonly", "under-test.raw-root"]).args([
            "--uuid",
            uuid,
            "--table",
            &words.join(" "),
        ]),
    );
    let detached = ddictl().args(["detach", "under-test.raw"]).output().unwrap();
    let still = Command::new("dmsetup").args(["info", "under-test.raw-root"]).output().unwrap();
    let _ = Command::new("dmsetup").args(["remove", "--noudevsync", "under-test.raw-root"]).output();
    succeed(Command::new("losetup").args(["--detach", &data, &hash]));
    assert!(detached.status.success(), "{}", text(&detached.stderr));
    assert!(still.status.success(), "{still:?}");
}

fn a_volume_of_somebody_else_is_not_reaped() {
    let secret = Secret::new();
    let killed = secret.with_key(&[]).env("DDICTL_FAULT", "attach:loop-0-recorded=sigkill").output().unwrap();
    assert!(!killed.status.success());
    // The name is free, and somebody opens a volume under it, before anybody cleans up.
    let other = Secret::new();
    let volume = succeed(
        Command::new("losetup")
            .args(["--find", "--show", "--offset", &other.offset().to_string()])
            .arg(other.image()),
    );
    let volume = volume.trim();
    succeed(
        Command::new("cryptsetup")
            .args(["open", "--key-file"])
            .arg(other.key())
            .args([volume, "secret.raw-home"])
            .env("DM_DISABLE_UDEV", "1"),
    );
    let reaped = ddictl().args(["detach", "--stale"]).output().unwrap();
    let still = Command::new("dmsetup").args(["info", "secret.raw-home"]).output().unwrap();
    let _ =
        Command::new("cryptsetup").args(["close", "secret.raw-home"]).env("DM_DISABLE_UDEV", "1").output();
    succeed(Command::new("losetup").args(["--detach", volume]));
    assert!(reaped.status.success(), "{}", text(&reaped.stderr));
    assert!(still.status.success(), "{still:?}");
}

fn in_an_initrd_a_fault_leaves_no_link_either() {
    let sealed = Sealed::with_esp();
    fs::write("/etc/initrd-release", "").unwrap();
    let _udevd = Udevd::start();
    let command = || {
        let mut command = sealed.attach_from_disk();
        command.arg("--image-policy=*").arg(sealed.image());
        command
    };
    let detach = || drop(succeed(ddictl().args(["detach", "under-test.raw"])));
    let points: Vec<String> = points(&mut command())
        .into_iter()
        .filter(|point| ["ready", "rules", "announced", "stands"].iter().any(|end| point.ends_with(end)))
        .collect();
    detach();
    assert_eq!(points.len(), 5, "{points:?}");
    each_fault(&points, &command, &detach);
    fs::remove_file("/etc/initrd-release").unwrap();
}

fn a_key_that_nobody_writes_is_waited_for_until_a_signal() {
    let secret = Secret::new();
    let pipe = secret.key().with_extension("pipe");
    succeed(Command::new("mkfifo").arg(&pipe));
    let before = MachineState::now();
    let command = |limit: &str| {
        let mut command = Command::new("timeout");
        command.args(["--signal=TERM", "--kill-after=10", limit]).arg(env!("CARGO_BIN_EXE_ddictl"));
        command
            .args(["attach", "--image-policy=home=encrypted:=unused+absent"])
            .arg(format!("--key-file={}", pipe.display()))
            .arg(secret.image())
            .stdin(Stdio::null());
        command
    };
    let output = command("3").output().unwrap();
    // `timeout` says 124 where the signal was enough, 137 where it was not.
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    assert_eq!(before.difference(&MachineState::now()), None);
    // A key that comes late is a key.
    let attaching = command("60").stdout(Stdio::piped()).spawn().unwrap();
    fs::write(&pipe, "sesame").unwrap();
    let output = attaching.wait_with_output().unwrap();
    succeed(ddictl().args(["detach", "secret.raw"]));
    assert!(output.status.success());
}

fn the_longest_and_oddest_name_goes_again() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    succeed(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let udevd = Udevd::start();
    let before = MachineState::now();
    // Every byte takes four in a link, which is as long as a file name may be then.
    for name in ["%".repeat(62), "\u{20ac}".repeat(20), "\" $k\\".repeat(12)] {
        let attached = ddictl()
            .args(["attach", "--whole-disk", "--image-policy=*", "--loop-ref", &name])
            .arg(&image)
            .output()
            .unwrap();
        let detached = ddictl().args(["detach", &name]).output().unwrap();
        assert!(attached.status.success(), "{name}: {}", text(&attached.stderr));
        assert!(detached.status.success(), "{name}: {}", text(&detached.stderr));
    }
    assert_eq!(before.difference(&MachineState::now()), None);
    drop(udevd);
}

fn a_hash_tree_of_another_image_shows_nothing() {
    let (sealed, other) = (Sealed::new(), Sealed::new());
    let place = |image: &Sealed| {
        let partitions = image.partitions();
        let found = partitions.iter().find(|partition| partition["designator"] == "root-verity").unwrap();
        (found["offset"].as_u64().unwrap(), usize::try_from(found["size"].as_u64().unwrap()).unwrap())
    };
    let (offset, length) = place(&other);
    let mut tree = vec![0; length];
    File::open(other.image()).unwrap().read_exact_at(&mut tree, offset).unwrap();
    let image = fs::OpenOptions::new().write(true).open(sealed.image()).unwrap();
    image.write_all_at(&tree, place(&sealed).0).unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let said = fail(sealed.attach_from_disk().arg(sealed.image()).env("DDICTL_FAULT_LOG", log.path()), 3);
    let passed = fs::read_to_string(log.path()).unwrap();
    assert_eq!(passed, "", "{said}");
    assert!(said.contains("DDI0314"), "{said}");
}

fn a_damaged_block_is_named_as_such() {
    let sealed = Sealed::new();
    let image = fs::OpenOptions::new().write(true).open(sealed.image()).unwrap();
    // Behind the superblock of the file system, in the block that is read with it.
    image.write_all_at(b"changed", sealed.hashed_area().0 + 2048).unwrap();
    let said = fail(sealed.attach_from_disk().arg(sealed.image()), 3);
    assert!(said.contains("DDI0313") && said.contains("ddictl verify"), "{said}");
}
