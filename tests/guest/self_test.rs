//! The guest tier held to what it promises: nothing is skipped here, and the machine outside stays as it is.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use crate::harness::HostTest;
use crate::harness::MachineState;
use crate::harness::Need;
use crate::harness::of_unstable_tree;
use crate::harness::perform;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "guest_self_test::a_test_that_would_be_skipped_fails",
        needs: &[],
        run: a_test_that_would_be_skipped_fails,
    },
    HostTest {
        name: "guest_self_test::a_device_mapper_device_left_behind_is_noticed",
        needs: &[Need::Root, Need::DeviceMapper, Need::Tool("dmsetup")],
        run: a_device_mapper_device_left_behind_is_noticed,
    },
    HostTest {
        name: "guest_self_test::the_files_of_the_machine_are_read_only",
        needs: &[Need::Root],
        run: the_files_of_the_machine_are_read_only,
    },
    HostTest {
        name: "guest_self_test::a_newer_systemd_mounts_for_everybody",
        needs: &[Need::Root, Need::UnstableTree, Need::Tool("mksquashfs"), Need::FileSystem("squashfs")],
        run: a_newer_systemd_mounts_for_everybody,
    },
];

fn a_test_that_would_be_skipped_fails() {
    let test = HostTest {
        name: "that_needs_the_impossible",
        needs: &[Need::Absent("/proc")],
        run: || panic!("it was run although it lacks something"),
    };
    let failed = perform(test).err().expect("it counts as passed");
    let message = failed.message().unwrap();
    assert_eq!(
        message, "must not be skipped (DDICTL_REQUIRE_ALL=1), but needs a machine without '/proc'",
        "another reason than expected"
    );
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn a_newer_systemd_mounts_for_everybody() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("place");
    let image = directory.path().join("image.raw");
    // What systemd wants of the root of a system.
    for name in ["etc", "usr"] {
        fs::create_dir_all(directory.path().join("tree").join(name)).unwrap();
    }
    fs::write(directory.path().join("tree/etc/os-release"), "ID=test\n").unwrap();
    fs::create_dir(&place).unwrap();
    succeed(Command::new("mksquashfs").args([&directory.path().join("tree"), &image]).arg("-quiet"));
    let dissect = || of_unstable_tree("systemd-dissect");
    succeed(
        dissect().args(["--image-policy=root=unprotected", "--mount", "--read-only"]).args([&image, &place]),
    );
    let found = fs::read_to_string(place.join("etc/os-release"));
    succeed(dissect().arg("--umount").arg(&place));
    assert_eq!(found.unwrap(), "ID=test\n");
}

fn a_device_mapper_device_left_behind_is_noticed() {
    let dmsetup = |arguments: &[&str]| {
        let output = Command::new("dmsetup").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let before = MachineState::now();
    dmsetup(&["create", "self-test", "--table", "0 8 error"]);
    let difference = before.difference(&MachineState::now());
    dmsetup(&["remove", "self-test"]);
    let difference = difference.unwrap();
    assert!(difference.contains("left behind: device-mapper device dm-"), "{difference}");
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn the_files_of_the_machine_are_read_only() {
    for directory in ["/usr", "/var/lib", env!("CARGO_MANIFEST_DIR")] {
        let error = fs::write(format!("{directory}/ddictl-guest-self-test"), "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{directory}: {error}");
    }
}
