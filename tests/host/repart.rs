//! Images by the real tool: systemd-repart of this machine, and a newer one inside the tree of Debian unstable.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness;
use crate::harness::HostTest;
use crate::harness::Need;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "repart::the_machines_own_makes_a_table_of_512_byte_sectors",
        needs: &[Need::Root, Need::LoopDevices, Need::Tool("systemd-repart"), Need::Tool("mksquashfs")],
        run: the_machines_own_makes_a_table_of_512_byte_sectors,
    },
    HostTest {
        name: "repart::the_newer_one_makes_a_signed_image_of_4096_byte_sectors",
        needs: &[Need::Root, Need::UnstableTree, Need::Tool("openssl")],
        run: the_newer_one_makes_a_signed_image_of_4096_byte_sectors,
    },
];

/// What a partition table begins with (UEFI 2.10, 5.3.2).
const TABLE_SIGNATURE: &[u8; 8] = b"EFI PART";

/// A directory with a source tree `src`, keys `k.key` and `k.crt`, and partition definitions in `definitions`.
pub(crate) fn workshop(definitions: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir_all(path.join("src/usr/lib")).unwrap();
    fs::create_dir_all(path.join("definitions")).unwrap();
    fs::write(path.join("src/usr/lib/os-release"), "ID=repart-test\n").unwrap();
    for (name, text) in definitions {
        fs::write(path.join("definitions").join(name), text).unwrap();
    }
    succeed(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=repart test"])
            .args(["-keyout", "k.key", "-out", "k.crt"])
            .current_dir(path),
    );
    directory
}

/// Runs a command that must succeed, and gives its standard output.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn bytes_at(image: &Path, offset: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    File::open(image).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn the_machines_own_makes_a_table_of_512_byte_sectors() {
    let directory =
        workshop(&[("10-root.conf", "[Partition]\nType=root\nFormat=squashfs\nCopyFiles=/src:/\n")]);
    succeed(
        Command::new("systemd-repart")
            .args([
                "--empty=create",
                "--size=64M",
                "--dry-run=no",
                "--definitions=definitions",
                "--json=short",
            ])
            .arg(format!("--root={}", directory.path().display()))
            .arg("root.raw")
            .current_dir(directory.path()),
    );
    assert_eq!(&bytes_at(&directory.path().join("root.raw"), 512), TABLE_SIGNATURE);
}

fn the_newer_one_makes_a_signed_image_of_4096_byte_sectors() {
    let directory = workshop(&[
        (
            "10-root.conf",
            "[Partition]\nType=root\nFormat=squashfs\nCopyFiles=/\nVerity=data\nVerityMatchKey=root\nMinimize=best\n",
        ),
        ("20-hash.conf", "[Partition]\nType=root-verity\nVerity=hash\nVerityMatchKey=root\nMinimize=best\n"),
        ("30-signature.conf", "[Partition]\nType=root-verity-sig\nVerity=signature\nVerityMatchKey=root\n"),
    ]);
    let report = succeed(
        harness::in_unstable_tree(directory.path(), "systemd-repart")
            .args(["--empty=create", "--size=auto", "--dry-run=no", "--offline=yes", "--sector-size=4096"])
            .args(["--definitions=definitions", "--copy-source=/mnt/src", "--json=short"])
            .args(["--private-key=k.key", "--certificate=k.crt", "root.raw"]),
    );
    let partitions: serde_json::Value = serde_json::from_str(&report).unwrap();
    let root_hash = partitions[0]["roothash"].as_str().unwrap();
    assert_eq!(root_hash.len(), 64, "{report}");
    assert_eq!(partitions.as_array().unwrap().len(), 3, "{report}");

    let image = directory.path().join("root.raw");
    assert_eq!(&bytes_at(&image, 4096), TABLE_SIGNATURE);
    let signature = partitions[2]["offset"].as_u64().unwrap();
    assert_eq!(bytes_at(&image, signature)[0], b'{', "a signature partition holds a JSON object");
}
