//! Mounting images with encrypted partitions: what is asked for again once they are open, and that all of it goes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::attach::{Sealed, fail};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::repart::succeed;
use crate::workshop::{Workshop, refused, said};

const NEEDS: &[Need] = &[Need::Guest, Need::Tool("cryptsetup"), Need::Tool("sfdisk")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "mount_encrypted::a_signed_root_has_its_encrypted_home",
        needs: NEEDS,
        run: a_signed_root_has_its_encrypted_home,
    },
    HostTest {
        name: "mount_encrypted::an_encrypted_root_is_mounted_and_goes_with_everything_below",
        needs: NEEDS,
        run: an_encrypted_root_is_mounted_and_goes_with_everything_below,
    },
];

/// The type of a partition for `/home`, of any architecture.
const HOME: &str = "933ac7e1-2eb4-4f13-b844-0e14e2aef915";

/// The key of all volumes here.
fn key(workshop: &Workshop) -> PathBuf {
    let key = workshop.path("key");
    fs::write(&key, "sesame").unwrap();
    key
}

/// A LUKS volume with an ext4 that has the contents of a tree.
fn volume(workshop: &Workshop, options: &[&str], tree: &Path) -> PathBuf {
    let (file, key) = (tempfile::NamedTempFile::new_in(workshop.path("")).unwrap(), key(workshop));
    let (_, volume) = file.keep().unwrap();
    File::options().write(true).open(&volume).unwrap().set_len(40 << 20).unwrap();
    succeed(
        Command::new("cryptsetup")
            .args(["luksFormat", "--batch-mode", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"])
            .args(options)
            .args([&volume, &key]),
    );
    let without_udev = |command: &mut Command| drop(succeed(command.env("DM_DISABLE_UDEV", "1")));
    without_udev(
        Command::new("cryptsetup").args(["open", "--key-file"]).args([&key, &volume]).arg("made-by-the-test"),
    );
    succeed(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(tree).arg("/dev/mapper/made-by-the-test"));
    without_udev(Command::new("cryptsetup").args(["close", "made-by-the-test"]));
    volume
}

fn mount(workshop: &Workshop, policy: &str, arguments: &[&str], image: &Path) -> Command {
    let mut command = ddictl();
    command.args(["mount", &format!("--image-policy={policy}"), "--json=short"]).args(arguments);
    command.arg(format!("--key-file={}", key(workshop).display()));
    command.arg(image).arg(workshop.place()).stdin(Stdio::null());
    command
}

fn a_signed_root_has_its_encrypted_home() {
    let workshop = Workshop::new();
    let sealed = Sealed::new();
    let keys = sealed.path();
    let image = workshop.path("both.raw");
    succeed(
        ddictl()
            .arg("seal")
            .arg(format!("--private-key={}", keys.join("k.key").display()))
            .arg(format!("--certificate={}", keys.join("k.crt").display()))
            .arg(workshop.tree(&["home"]))
            .arg(&image),
    );
    let home = volume(&workshop, &[], &workshop.tree(&["user/file=ours"]));
    let start = fs::metadata(&image).unwrap().len().next_multiple_of(1 << 20);
    let size = fs::metadata(&home).unwrap().len();
    File::options().write(true).open(&image).unwrap().set_len(start + size + (1 << 20)).unwrap();
    succeed(Command::new("sfdisk").args(["--quiet", "--relocate", "gpt-bak-std"]).arg(&image));
    let line = workshop.path("line");
    fs::write(&line, format!("start={}, size={}, type={HOME}\n", start / 512, size / 512)).unwrap();
    succeed(
        Command::new("sfdisk").args(["--quiet", "--append"]).arg(&image).stdin(File::open(&line).unwrap()),
    );
    succeed(
        Command::new("dd")
            .arg(format!("if={}", home.display()))
            .arg(format!("of={}", image.display()))
            .args(["bs=64K", "conv=notrunc,sparse", "oflag=seek_bytes", "status=none"])
            .arg(format!("seek={start}")),
    );
    let certificate = format!("--certificate={}", keys.join("k.crt").display());
    let policy = "root=signed:home=encrypted:=absent+unused";
    let before = MachineState::now();
    let record = succeed(&mut mount(&workshop, policy, &[&certificate], &image));
    let record: Value = serde_json::from_str(&record).unwrap();
    let targets = |index: usize| record["devices"][index]["mappers"][0]["target"].clone();
    let (protections, targets): (Vec<_>, Vec<_>) = (
        [0, 1].map(|index| record["devices"][index]["protection"].clone()).into(),
        [0, 1].map(targets).into(),
    );
    let (mounts, file) = (workshop.mounts(), fs::read_to_string(workshop.place().join("home/user/file")));
    let options = workshop.options("home");
    fs::write(workshop.place().join("home/written"), "x").unwrap();
    workshop.umount();
    assert_eq!(before.difference(&MachineState::now()), None);
    assert_eq!(
        (protections, targets),
        (vec!["signed".into(), "encrypted".into()], vec!["verity".into(), "crypt".into()])
    );
    let expected = [("", "squashfs", "ro,nodev,relatime"), ("home", "ext4", "rw,nodev,relatime")];
    assert_eq!(
        mounts,
        expected.map(|(path, kind, flags)| (path.to_owned(), kind.to_owned(), flags.to_owned()))
    );
    assert_eq!(file.unwrap(), "ours");
    // What is discarded shows how much of an encrypted volume is in use.
    assert!(!options.contains("discard"), "{options}");
    // Once it is open the policy is asked again: of the file system that shows.
    let other = "root=signed:home=encrypted+btrfs:=absent+unused";
    let refusal = fail(&mut mount(&workshop, other, &[&certificate], &image), 3);
    assert!(refusal.contains("ext4") && refusal.contains("btrfs"), "{refusal}");
    assert_eq!(before.difference(&MachineState::now()), None);
    // Attached and open already, it is not used: its key is asked for again.
    let attach = |arguments: &[&str]| {
        let mut command = ddictl();
        command.args(["attach", &format!("--image-policy={policy}"), &certificate]).args(arguments);
        succeed(command.arg(&image).stdin(Stdio::null()));
    };
    attach(&["--locked", "--loop-ref=locked"]);
    let stderr = said(&mut mount(&workshop, policy, &[&certificate, "--read-only"], &image));
    workshop.umount();
    said(ddictl().args(["detach", "locked"]));
    assert!(stderr.contains("the home partition is encrypted"), "{stderr}");
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn an_encrypted_root_is_mounted_and_goes_with_everything_below() {
    let workshop = Workshop::new();
    for (options, policy, layers) in [
        (&[][..], "root=encrypted", &["crypt"][..]),
        (
            &["--integrity=hmac-sha256", "--sector-size=4096"],
            "root=encryptedwithintegrity",
            &["integrity", "crypt"],
        ),
    ] {
        let root = volume(&workshop, options, &workshop.tree(&[]));
        let image = workshop.image("secret.raw", &[("root", &root, "", 0)]);
        let before = MachineState::now();
        for (access, state) in [(&[][..], "rw"), (&["--read-only"], "ro")] {
            let record: Value =
                serde_json::from_str(&succeed(&mut mount(&workshop, policy, access, &image))).unwrap();
            let found: Vec<String> = record["devices"][0]["mappers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|mapper| mapper["target"].as_str().unwrap().to_owned())
                .collect();
            let mounts = workshop.mounts();
            let written = fs::write(workshop.place().join("written"), "x").is_ok();
            // Somebody who works in it is named, and keeps it as it is.
            let open = File::open(workshop.place().join("usr/lib/os-release")).unwrap();
            refused(ddictl().arg("umount").arg(&image), &["in use", "process"]);
            drop(open);
            let device = record["devices"][0]["path"].as_str().unwrap();
            said(ddictl().args(["umount", device]));
            assert_eq!(before.difference(&MachineState::now()), None, "{policy} {state}");
            assert_eq!(found, layers);
            assert_eq!(mounts, [(String::new(), "ext4".to_owned(), format!("{state},nodev,relatime"))]);
            assert_eq!(written, state == "rw");
        }
        fs::remove_file(image).unwrap();
    }
}
