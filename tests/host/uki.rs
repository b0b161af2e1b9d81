//! Unified kernel images that the real ukify made, in EFI system partitions that the real systemd-repart made.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{self, HostTest, Need};
use crate::repart::{succeed, workshop};

/// The tree with ukify, its stubs and a boot menu.
const TREE: &str = "sid uki";

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[HostTest {
    name: "uki::those_by_ukify_are_found_in_an_esp_by_repart",
    needs: &[Need::Root, Need::UnstableTree, Need::DebianTree(TREE), Need::Tool("openssl")],
    run: those_by_ukify_are_found_in_an_esp_by_repart,
}];

/// Boots whatever comes.
const OPEN: &str = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw \
                    root=/dev/disk/by-loop-ref/image.raw-root rd.systemd.image_policy=*";

/// Runs systemd-repart on the image, and gives what it says of the partitions.
fn repart(directory: &Path, options: &[&str]) -> Value {
    let report = succeed(
        harness::in_unstable_tree(directory, "systemd-repart")
            .args(["--dry-run=no", "--offline=yes", "--definitions=definitions", "--copy-source=/mnt/src"])
            .args(["--json=short", "--private-key=k.key", "--certificate=k.crt"])
            .args(options)
            .arg("image.raw"),
    );
    serde_json::from_str(&report).unwrap()
}

fn ukify(directory: &Path, arguments: &[&str]) {
    succeed(harness::in_debian_tree(TREE, directory, "ukify").arg("build").args(arguments));
}

/// The findings about files in the image: rule and file.
fn audit(directory: &Path, policy: &[&str]) -> (Value, Vec<(String, String)>) {
    let output = harness::ddictl()
        .args(["audit", "--format=json", "--certificate=k.crt"])
        .args(policy)
        .arg("image.raw")
        .current_dir(directory)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    let found = findings
        .filter(|finding| !finding["file"].is_null())
        .inspect(|finding| assert_eq!(finding["partition"], 1, "{finding}"))
        .map(|finding| (word(&finding["rule"]), word(&finding["file"])))
        .collect();
    (report, found)
}

/// An image with a signed root and an ESP that is still empty: what is in it names the root hash.
fn image_without_kernel() -> (TempDir, String) {
    let directory = workshop(&[
        (
            "10-esp.conf",
            "[Partition]\nType=esp\nFormat=vfat\nCopyFiles=/efi:/\nSizeMinBytes=64M\nSizeMaxBytes=64M\n",
        ),
        (
            "20-root.conf",
            "[Partition]\nType=root\nFormat=squashfs\nCopyFiles=/usr\nVerity=data\nVerityMatchKey=root\nMinimize=best\n",
        ),
        ("30-hash.conf", "[Partition]\nType=root-verity\nVerity=hash\nVerityMatchKey=root\nMinimize=best\n"),
        ("40-signature.conf", "[Partition]\nType=root-verity-sig\nVerity=signature\nVerityMatchKey=root\n"),
    ]);
    let report = repart(directory.path(), &["--empty=create", "--size=auto", "--defer-partitions=esp"]);
    let root_hash = report.as_array().unwrap().iter().find_map(|partition| partition["roothash"].as_str());
    (directory, root_hash.unwrap().to_owned())
}

fn those_by_ukify_are_found_in_an_esp_by_repart() {
    let (scratch, root_hash) = image_without_kernel();
    let directory = scratch.path();
    for name in ["BOOT", "Linux/addon.efi.extra.d", "systemd"] {
        fs::create_dir_all(directory.join("src/efi/EFI").join(name)).unwrap();
    }
    fs::create_dir_all(directory.join("src/efi/loader/entries")).unwrap();
    // A boot menu, which stands for a kernel as well: both are programs for firmware.
    let menus = harness::debian_tree(TREE).unwrap().join("usr/lib/systemd/boot/efi");
    let is_menu = |name: &str| name.starts_with("systemd-boot") && name.ends_with(".efi");
    let menu = fs::read_dir(menus)
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|entry| is_menu(&entry.file_name().into_string().unwrap()))
        .unwrap();
    for name in ["linux", "src/efi/EFI/BOOT/BOOTX64.EFI", "src/efi/EFI/systemd/systemd-bootx64.efi"] {
        fs::copy(menu.path(), directory.join(name)).unwrap();
    }
    fs::write(directory.join("src/efi/loader/loader.conf"), "timeout 3\n").unwrap();
    let entry = "title Debian\nlinux /linux\noptions root=/dev/sda2\n";
    fs::write(directory.join("src/efi/loader/entries/debian.conf"), entry).unwrap();

    let kernel = |name: &str, command_line: &str, more: &[&str]| {
        let (command_line, output) =
            (format!("--cmdline={command_line}"), format!("--output=src/efi/EFI/Linux/{name}"));
        let fixed = ["--linux=linux", "--uname=6.1", "--os-release=ID=x", &command_line, &output];
        ukify(directory, &[&fixed[..], more].concat());
    };
    let other = "ab".repeat(32);
    kernel("pinned with a long name_1.2.efi", &format!("roothash={root_hash} quiet"), &[]);
    kernel("other.efi", &format!("roothash={other}"), &[]);
    kernel("open.efi", OPEN, &[]);
    kernel("addon.efi", "quiet", &[]);
    let addon = format!("--cmdline={OPEN}");
    ukify(directory, &[&addon, "--output=src/efi/EFI/Linux/addon.efi.extra.d/open.addon.efi"]);
    ukify(directory, &["--profile=ID=rescue", &addon, "--output=rescue.efi"]);
    kernel(
        "profiles.efi",
        &format!("roothash={root_hash}"),
        &["--profile=ID=main", "--join-profile=rescue.efi"],
    );
    repart(directory, &["--size=auto"]);

    let linux = |name: &str| format!("/EFI/Linux/{name}.efi");
    let conf = "/loader/entries/debian.conf".to_owned();
    let expected: Vec<(String, String)> = [
        ("DDI0604", linux("addon")),
        ("DDI0604", linux("open")),
        ("DDI0604", linux("profiles")),
        ("DDI0607", conf.clone()),
        ("DDI0612", linux("other")),
        ("DDI0613", conf),
        ("DDI0606", linux("other")),
        ("DDI0606", linux("pinned with a long name_1.2")),
        ("DDI0606", linux("profiles")),
    ]
    .map(|(rule, file)| (rule.to_owned(), file))
    .to_vec();
    let (report, found) = audit(directory, &[]);
    assert_eq!(found, expected, "{report}");
    assert_eq!(report["verdict"], "not-judged");
    let (report, found) = audit(directory, &["--image-policy=@verified-boot"]);
    assert_eq!(report["verdict"], "accept", "{report}");
    assert_eq!(found.len(), expected.len(), "{report}");
}
