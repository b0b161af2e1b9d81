//! Sealing directory trees with the tools of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness;
use crate::harness::HostTest;
use crate::harness::Need;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "seal::a_tree_with_an_esp_becomes_a_squashfs_that_verifies",
        needs: &[
            Need::Tool("mksquashfs"),
            Need::Tool("mkfs.vfat"),
            Need::Tool("mcopy"),
            Need::Tool("openssl"),
        ],
        run: a_tree_with_an_esp_becomes_a_squashfs_that_verifies,
    },
    HostTest {
        name: "seal::a_usr_tree_becomes_an_erofs_that_verifies",
        needs: &[Need::Tool("mkfs.erofs"), Need::Tool("openssl")],
        run: a_usr_tree_becomes_an_erofs_that_verifies,
    },
    HostTest {
        name: "seal::the_same_tree_gives_the_same_squashfs_and_esp",
        needs: &[
            Need::Tool("mksquashfs"),
            Need::Tool("mkfs.vfat"),
            Need::Tool("mcopy"),
            Need::Tool("openssl"),
        ],
        run: the_same_tree_gives_the_same_squashfs_and_esp,
    },
    HostTest {
        name: "seal::the_same_tree_gives_the_same_erofs",
        needs: &[Need::Tool("mkfs.erofs"), Need::Tool("openssl")],
        run: the_same_tree_gives_the_same_erofs,
    },
];

const KEY: [&str; 2] = ["--private-key=k.key", "--certificate=k.crt"];

/// A tree, contents of an ESP, and a key.
fn workshop() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for (name, text) in [
        ("tree/usr/lib/os-release", "ID=sealed\n"),
        ("tree/etc/hostname", "sealed\n"),
        ("esp/EFI/BOOT/BOOTX64.EFI", "MZ"),
    ] {
        fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
        fs::write(path.join(name), text).unwrap();
    }
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=sealer"])
        .args(["-keyout", "k.key", "-out", "k.crt"])
        .current_dir(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

/// Runs the program, which must succeed, and gives what it printed.
fn ddictl(directory: &Path, arguments: &[&str], epoch: Option<&str>) -> String {
    let mut command = harness::ddictl();
    command.args(arguments).current_dir(directory).env_remove("SOURCE_DATE_EPOCH");
    command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn seal(directory: &Path, output: &str, more: &[&str], epoch: Option<&str>) -> PathBuf {
    ddictl(directory, &[&["seal", "tree", output][..], &KEY, more].concat(), epoch);
    directory.join(output)
}

/// The designator, file system and protection of every partition.
fn partitions(directory: &Path, image: &str) -> Vec<[String; 3]> {
    let told = ddictl(directory, &["dissect", "--json=short", "--certificate=k.crt", image], None);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let row = |partition: &serde_json::Value| {
        ["designator", "file_system", "protection"].map(|key| word(&partition[key]))
    };
    told["partitions"].as_array().unwrap().iter().map(row).collect()
}

fn verify(directory: &Path, image: &str) -> String {
    ddictl(directory, &["verify", "--certificate=k.crt", "--image-policy=@verified-boot", image], None)
}

fn a_tree_with_an_esp_becomes_a_squashfs_that_verifies() {
    let workshop = workshop();
    let directory = workshop.path();
    seal(directory, "image.raw", &["--esp=esp"], None);
    assert!(verify(directory, "image.raw").starts_with("root: "));
    let partitions = partitions(directory, "image.raw");
    assert_eq!(partitions[0], ["esp", "vfat", "unprotected"]);
    assert_eq!(partitions[1], ["root", "squashfs", "signed"]);
    assert_eq!(partitions.len(), 4);
    // The ESP is one that a policy may use.
    let policy = "--image-policy=root=signed:esp=unprotected:=unused+absent";
    ddictl(directory, &["audit", "--certificate=k.crt", policy, "image.raw"], None);
}

fn a_usr_tree_becomes_an_erofs_that_verifies() {
    let workshop = workshop();
    let directory = workshop.path();
    seal(directory, "image.raw", &["--designator=usr", "--format=erofs"], None);
    assert!(verify(directory, "image.raw").starts_with("usr: "));
    assert_eq!(partitions(directory, "image.raw")[0], ["usr", "erofs", "signed"]);
}

fn the_same_tree_gives_the_same_squashfs_and_esp() {
    reproducible(&["--esp=esp"]);
}

fn the_same_tree_gives_the_same_erofs() {
    reproducible(&["--format=erofs"]);
}

/// Seals twice, in different seconds, with a time stamp and with a seed.
fn reproducible(options: &[&str]) {
    let workshop = workshop();
    let directory = workshop.path();
    let seed = "--seed=0b6a3f8e-6d0e-4c8a-8a51-5f0a4c1f2e3d";
    let with_seed = [options, &[seed]].concat();
    let epoch = Some("1700000000");
    let first = [
        seal(directory, "stamped.raw", options, epoch),
        seal(directory, "seeded.raw", &with_seed, None),
        seal(directory, "both.raw", &with_seed, epoch),
    ];
    next_time_stamp();
    let second = [
        seal(directory, "stamped2.raw", options, epoch),
        seal(directory, "seeded2.raw", &with_seed, None),
        seal(directory, "both2.raw", &with_seed, epoch),
    ];
    for (one, other) in first.iter().zip(&second) {
        assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{} differs from before", one.display());
    }
}

#[expect(clippy::disallowed_methods, reason = "what is shown is that the passing of time does not show")]
fn next_time_stamp() {
    // vfat counts in steps of two seconds.
    thread::sleep(Duration::from_millis(2100));
}
