//! The harness held to what it promises: what a test leaves behind is seen.

use std::fs;
use std::process::Command;

use crate::harness::HostTest;
use crate::harness::MachineState;
use crate::harness::Need;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "self_test::a_loop_device_left_behind_is_noticed",
        needs: &[Need::Root, Need::LoopDevices, Need::Tool("losetup")],
        run: a_loop_device_left_behind_is_noticed,
    },
    HostTest {
        name: "self_test::a_mount_left_behind_is_noticed",
        needs: &[Need::Root, Need::FileSystem("tmpfs"), Need::Tool("mount"), Need::Tool("umount")],
        run: a_mount_left_behind_is_noticed,
    },
    HostTest {
        name: "self_test::a_record_left_behind_is_noticed",
        needs: &[Need::Root],
        run: a_record_left_behind_is_noticed,
    },
];

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn a_loop_device_left_behind_is_noticed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let before = MachineState::now();
    let device = run(Command::new("losetup").args(["--read-only", "--find", "--show"]).arg(file.path()));
    let difference = before.difference(&MachineState::now());
    run(Command::new("losetup").args(["--detach", &device]));
    let expected = format!(
        "left behind: loop device {} of '{}'",
        device.trim_start_matches("/dev/"),
        file.path().to_str().unwrap()
    );
    assert_eq!(difference, Some(expected));
}

fn a_mount_left_behind_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let before = MachineState::now();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(directory.path()));
    let difference = before.difference(&MachineState::now());
    run(Command::new("umount").arg(directory.path()));
    let difference = difference.unwrap();
    assert!(difference.starts_with("left behind: mount "), "{difference}");
    assert!(difference.contains(directory.path().to_str().unwrap()), "{difference}");
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn a_record_left_behind_is_noticed() {
    let directory = "/run/ddictl/attachments";
    let record = format!("{directory}/self-test-{}.json", std::process::id());
    fs::create_dir_all(directory).unwrap();
    let before = MachineState::now();
    fs::write(&record, "{}").unwrap();
    let difference = before.difference(&MachineState::now());
    fs::remove_file(&record).unwrap();
    assert_eq!(difference, Some(format!("left behind: file {record}")));
    assert_eq!(MachineState::now().difference(&before), None);
}
