//! What the other tests of this tier take for granted: the kernel has it, and it works.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::HostTest;
use crate::harness::Need;

/// What reading a corrupt block ends with.
const EIO: i32 = 5;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "kernel::every_file_system_can_be_mounted",
        needs: &[
            Need::Root,
            Need::LoopDevices,
            Need::FileSystem("btrfs"),
            Need::FileSystem("erofs"),
            Need::FileSystem("ext4"),
            Need::FileSystem("squashfs"),
            Need::FileSystem("vfat"),
            Need::FileSystem("xfs"),
            Need::Tool("mkfs.btrfs"),
            Need::Tool("mkfs.erofs"),
            Need::Tool("mkfs.ext4"),
            Need::Tool("mksquashfs"),
            Need::Tool("mkfs.vfat"),
            Need::Tool("mkfs.xfs"),
            Need::Tool("mount"),
            Need::Tool("umount"),
        ],
        run: every_file_system_can_be_mounted,
    },
    HostTest {
        name: "kernel::the_device_mapper_has_its_targets",
        needs: &[Need::Root, Need::DeviceMapper, Need::Tool("dmsetup")],
        run: the_device_mapper_has_its_targets,
    },
    HostTest {
        name: "kernel::verity_refuses_a_changed_block",
        needs: &[Need::Root, Need::DeviceMapper, Need::LoopDevices, Need::Tool("veritysetup")],
        run: verity_refuses_a_changed_block,
    },
];

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn every_file_system_can_be_mounted() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    let place = directory.path().join("place");
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&place).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    for kind in ["btrfs", "erofs", "ext4", "squashfs", "vfat", "xfs"] {
        let image = directory.path().join(kind);
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let has_the_tree = match kind {
            "erofs" => {
                run("mkfs.erofs", &["--quiet", path(&image), path(&tree)]);
                true
            }
            "squashfs" => {
                run("mksquashfs", &[path(&tree), path(&image), "-noappend", "-quiet"]);
                true
            }
            "ext4" => {
                run("mkfs.ext4", &["-q", "-d", path(&tree), path(&image)]);
                true
            }
            _ => {
                run(&format!("mkfs.{kind}"), &[path(&image)]);
                false
            }
        };
        run("mount", &["-t", kind, "-o", "loop,ro", path(&image), path(&place)]);
        let found = fs::read_to_string(place.join("file"));
        run("umount", &[path(&place)]);
        assert_eq!(found.ok(), has_the_tree.then(|| "content".to_owned()), "{kind}");
        fs::remove_file(&image).unwrap();
    }
}

fn the_device_mapper_has_its_targets() {
    let targets = run("dmsetup", &["targets"]);
    for name in ["crypt", "integrity", "verity"] {
        assert!(
            targets.lines().any(|line| line.split_whitespace().next() == Some(name)),
            "{name}: {targets}"
        );
    }
}

fn verity_refuses_a_changed_block() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let hash = directory.path().join("hash");
    fs::write(&data, vec![7; 64 << 10]).unwrap();
    let output = run("veritysetup", &["format", path(&data), path(&hash)]);
    let root = output.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim();

    let read = || {
        run("veritysetup", &["open", path(&data), "kernel-test", path(&hash), root]);
        let mut content = Vec::new();
        let outcome = File::open("/dev/mapper/kernel-test").unwrap().read_to_end(&mut content);
        run("veritysetup", &["close", "kernel-test"]);
        outcome.map(|_| content)
    };
    assert_eq!(read().unwrap(), vec![7; 64 << 10]);
    File::options().write(true).open(&data).unwrap().write_all_at(&[8], 9 * 4096).unwrap();
    let error = read().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
}
