//! Images that ddictl has placed as files, looked at by systemd-dissect of Debian 13 and of Debian unstable: it finds what
//! the policy planned and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::decoys::{Decoy, decoys};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::keys::{CertificateOptions, KeyKind, Pair};
use crate::systemd::peer::{Peer, SharedMounts, TrustDirectory, succeed};

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[HostTest {
    name: "systemd::reduced::systemd_finds_what_was_planned_and_nothing_else",
    needs: &[
        Need::Root,
        Need::LoopDevices,
        Need::DeviceMapper,
        Need::FileSystem("squashfs"),
        Need::Tool("mksquashfs"),
        Need::UnstableTree,
        Need::DebianTree("trixie"),
    ],
    run: systemd_finds_what_was_planned_and_nothing_else,
}];

/// The classes whose images systemd dissects again.
const CLASSES: [&str; 4] = ["sysext", "confext", "portable", "machine"];

/// What systemd-dissect would use of an image: for each partition its designator and its UUID; `None` where it refuses it.
fn found_by(peer: &Peer, image: &Path) -> Option<Vec<(String, String)>> {
    let mut command = peer.command_apart("systemd-dissect");
    let output = command.args(["--json=short", "--no-pager"]).arg(image).output().unwrap();
    if !output.status.success() {
        return None;
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    Some(of(report["mounts"].as_array().unwrap(), "partition_uuid"))
}

/// Designator and UUID of each, in their order.
fn of(partitions: &[Value], uuid: &str) -> Vec<(String, String)> {
    let word = |partition: &Value, name: &str| partition[name].as_str().unwrap_or_default().to_owned();
    let mut words: Vec<_> =
        partitions.iter().map(|partition| (word(partition, "designator"), word(partition, uuid))).collect();
    words.sort();
    words
}

/// A squashfs with what an operating system, an extension and a portable service are known by.
fn root_file_system(directory: &Path) -> Vec<u8> {
    let file = |path: &str, text: &str| {
        let path = directory.join("tree").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    file("usr/lib/os-release", "ID=reduced\n");
    file("usr/lib/extension-release.d/extension-release.image", "ID=_any\n");
    file("etc/extension-release.d/extension-release.image", "ID=_any\n");
    succeed(
        Command::new("mksquashfs").args(["tree", "root", "-quiet", "-no-progress"]).current_dir(directory),
    );
    let mut bytes = fs::read(directory.join("root")).unwrap();
    // A whole number of blocks, the last of which is nobody's.
    bytes.resize(bytes.len().next_multiple_of(4096) + 4096, 0);
    bytes
}

fn systemd_finds_what_was_planned_and_nothing_else() {
    let pair = Pair::new(KeyKind::Rsa(2048), &CertificateOptions::named("trusted"));
    let _trusted = TrustDirectory::with(&[pair.certificate_pem()]);
    let shared = SharedMounts::new();
    let peers = ["trixie", "sid"].map(|suite| Peer::new(suite, &shared).unwrap());
    let before = MachineState::now();
    let directory = tempfile::tempdir().unwrap();
    let root = root_file_system(directory.path());
    let mut misled = 0;
    for Decoy { what, image, planned } in decoys(&root, &pair) {
        let original = directory.path().join("original.raw");
        fs::write(&original, &image).unwrap();
        for class in CLASSES {
            let place = directory.path().join(class);
            succeed(ddictl().args([
                "--quiet",
                "pull",
                "raw",
                &format!("file://{}", original.display()),
                "image",
                "--verify=no",
                "--image-policy=@verified-extension",
                "--force",
                &format!("--class={class}"),
                &format!("--image-root={}", place.display()),
            ]));
            let placed = place.join("image.raw");
            let text = succeed(ddictl().args(["--quiet", "dissect", "--json=short"]).arg(&placed));
            let report: Value = serde_json::from_str(&text).unwrap();
            let partitions = report["partitions"].as_array().unwrap();
            let numbers: Vec<u64> = partitions.iter().filter_map(|p| p["number"].as_u64()).collect();
            assert_eq!(numbers, planned, "{what}, {class}");
            let expected = Some(of(partitions, "uuid"));
            for peer in &peers {
                let found = found_by(peer, &placed);
                assert_eq!(found, expected, "{what}, {class}, systemd {}", peer.version);
                misled += usize::from(class == CLASSES[0] && found_by(peer, &original) != expected);
            }
        }
    }
    // Else nothing would show that the reduction changes anything for them.
    assert!(misled > 0, "systemd-dissect finds the same in each of the whole images");
    drop(directory);
    assert_eq!(before.difference(&MachineState::now()), None);
}
