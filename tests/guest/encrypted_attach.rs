//! Attaching images with encrypted partitions, and whole disks: through the program, with links, and what is left.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::attach::{Attached, fail, text};
use crate::faults::{each_fault, points};
use crate::gpt_builder::GptBuilder;
use crate::harness::{HostTest, Need, ddictl};
use crate::repart::succeed;
use crate::udev_links::{Udevd, links};

const NEEDS: &[Need] = &[Need::Guest, Need::Tool("cryptsetup"), Need::Tool("mkfs.ext4")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "encrypted_attach::the_links_lead_to_the_data",
        needs: NEEDS,
        run: the_links_lead_to_the_data,
    },
    HostTest {
        name: "encrypted_attach::what_is_written_stays_in_the_image",
        needs: NEEDS,
        run: what_is_written_stays_in_the_image,
    },
    HostTest {
        name: "encrypted_attach::every_refusal_leaves_nothing",
        needs: NEEDS,
        run: every_refusal_leaves_nothing,
    },
    HostTest {
        name: "encrypted_attach::integrity_is_required_and_found",
        needs: NEEDS,
        run: integrity_is_required_and_found,
    },
    HostTest {
        name: "encrypted_attach::a_fault_anywhere_leaves_nothing",
        needs: NEEDS,
        run: a_fault_anywhere_leaves_nothing,
    },
    HostTest {
        name: "encrypted_attach::a_whole_disk_has_links_to_its_partitions",
        needs: NEEDS,
        run: a_whole_disk_has_links_to_its_partitions,
    },
];

/// The type of a partition for `/home`, of any architecture.
const HOME: u128 = 0x933ac7e1_2eb4_4f13_b844_0e14e2aef915;
/// Nothing but an encrypted home.
const POLICY: &str = "--image-policy=home=encrypted+encryptedwithintegrity:=unused+absent";

/// A directory with an image `secret.raw`, whose only partition is a LUKS volume with an ext4, and the key.
pub(crate) struct Secret {
    directory: TempDir,
}

impl Secret {
    pub(crate) fn new() -> Self {
        Self::with(&[], Some("ext4"))
    }

    fn with(options: &[&str], file_system: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let secret = Self { directory };
        fs::write(secret.key(), "sesame").unwrap();
        let volume = secret.directory.path().join("volume");
        File::create(&volume).unwrap().set_len(40 << 20).unwrap();
        succeed(
            Command::new("cryptsetup")
                .args(["luksFormat", "--batch-mode", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"])
                .args(options)
                .arg(&volume)
                .arg(secret.key()),
        );
        succeed(
            Command::new("cryptsetup")
                .args(["open", "--key-file"])
                .args([&secret.key(), &volume])
                .arg("made-by-the-test")
                .env("DM_DISABLE_UDEV", "1"),
        );
        if let Some(file_system) = file_system {
            succeed(Command::new(format!("mkfs.{file_system}")).args(["-q", "/dev/mapper/made-by-the-test"]));
        }
        succeed(Command::new("cryptsetup").args(["close", "made-by-the-test"]).env("DM_DISABLE_UDEV", "1"));
        let content = fs::read(&volume).unwrap();
        fs::remove_file(&volume).unwrap();
        let image = GptBuilder::new(512).partition(HOME, 7, "home", 0, content).build();
        fs::write(secret.image(), image.bytes).unwrap();
        secret
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.directory.path().join("key")
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.directory.path().join("secret.raw")
    }

    /// Where in the image the volume begins, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        let text = succeed(ddictl().args(["dissect", "--json=short"]).arg(self.image()));
        serde_json::from_str::<Value>(&text).unwrap()["partitions"][0]["offset"].as_u64().unwrap()
    }

    fn attach(&self, arguments: &[&str]) -> Command {
        let mut command = ddictl();
        command.args(["attach", POLICY]).args(arguments).arg(self.image()).stdin(Stdio::null());
        command
    }

    pub(crate) fn with_key(&self, arguments: &[&str]) -> Command {
        let key = format!("--key-file={}", self.key().display());
        self.attach(&[&[key.as_str()], arguments].concat())
    }
}

fn home(attached: &Attached) -> Value {
    attached.record()["devices"][0].clone()
}

/// Mounts a device and does something there.
fn mounted<T>(device: &str, options: &str, happening: impl FnOnce(&Path) -> T) -> T {
    let place = tempfile::tempdir().unwrap();
    succeed(Command::new("mount").args(["-t", "ext4", "-o", options, device]).arg(place.path()));
    let result = happening(place.path());
    succeed(Command::new("umount").arg(place.path()));
    result
}

fn the_links_lead_to_the_data() {
    let secret = Secret::new();
    let udevd = Udevd::start();
    let attached = Attached::by(&mut secret.with_key(&[]));
    let (there, device) = (links(), home(&attached));
    let path = device["path"].as_str().unwrap().to_owned();
    let status = succeed(Command::new("cryptsetup").args(["status", "secret.raw-home"]));
    drop(attached);
    let left = links();
    drop(udevd);
    assert!(path.starts_with("/dev/dm-"), "{device}");
    let name = |end: &str| (format!("disk/by-loop-ref/secret.raw-{end}"), path.clone());
    assert_eq!(there, [name("home"), name("part1")]);
    assert_eq!(left, []);
    assert_eq!((&device["protection"], &device["file_system"]), (&"encrypted".into(), &"ext4".into()));
    assert_eq!(device["mappers"][0]["target"], "crypt");
    assert!(status.contains("LUKS2") && status.contains("is active"), "{status}");

    // Locked, the link leads to the partition itself.
    let attached = Attached::by(&mut secret.attach(&["--locked"]));
    let device = home(&attached);
    assert!(device["path"].as_str().unwrap().starts_with("/dev/loop"), "{device}");
    assert_eq!(device["file_system"], Value::Null);
}

fn what_is_written_stays_in_the_image() {
    let secret = Secret::new();
    let attached = Attached::by(&mut secret.with_key(&[]));
    mounted(&attached.paths()[0], "rw", |place| fs::write(place.join("file"), "written").unwrap());
    drop(attached);
    let attached = Attached::by(&mut secret.with_key(&["--read-only"]));
    let read_only = fs::OpenOptions::new().write(true).open(&attached.paths()[0]).and_then(|mut node| {
        node.write_all(b"x")?;
        node.sync_all()
    });
    let found = mounted(&attached.paths()[0], "ro", |place| fs::read_to_string(place.join("file")).unwrap());
    assert_eq!(found, "written");
    assert!(read_only.is_err());
    // A copy in memory is never written to.
    drop(attached);
    let attached = Attached::by(&mut secret.with_key(&["--in-memory"]));
    assert_eq!(home(&attached)["read_only"], true);
    mounted(&attached.paths()[0], "ro", |place| assert!(place.join("file").is_file()));
}

fn every_refusal_leaves_nothing() {
    let secret = Secret::new();
    let said = fail(&mut secret.attach(&[]), 1);
    for way in ["--key-file=", "--passphrase-fd=", "dissect.passphrase", "--locked"] {
        assert!(said.contains(way), "{said}");
    }
    let wrong = secret.directory.path().join("wrong");
    fs::write(&wrong, "open").unwrap();
    let said = fail(&mut secret.attach(&[&format!("--key-file={}", wrong.display())]), 1);
    assert!(said.contains("key"), "{said}");
    let absent = secret.directory.path().join("absent");
    let said = fail(&mut secret.attach(&[&format!("--key-file={}", absent.display())]), 1);
    assert!(said.contains("absent"), "{said}");
    // What shows is not what the policy wants, or nothing at all.
    let mut other = ddictl();
    other
        .args(["attach", "--image-policy=home=encrypted+btrfs:=unused+absent"])
        .arg(format!("--key-file={}", secret.key().display()))
        .arg(secret.image());
    let said = fail(&mut other, 3);
    assert!(said.contains("ext4") && said.contains("btrfs"), "{said}");
    let said = fail(&mut Secret::with(&[], None).with_key(&[]), 3);
    assert!(said.contains("file system"), "{said}");
    // A null cipher does not get as far as a key.
    let null = Secret::with(&["--cipher=cipher_null-ecb", "--key-size=128"], None);
    let said = fail(&mut null.with_key(&[]), 3);
    assert!(said.contains("DDI0206"), "{said}");
}

fn integrity_is_required_and_found() {
    let plain = Secret::new();
    let policy = "--image-policy=home=encryptedwithintegrity:=unused+absent";
    let attach = |secret: &Secret| {
        let mut command = ddictl();
        command
            .args(["attach", policy])
            .arg(format!("--key-file={}", secret.key().display()))
            .arg(secret.image());
        command
    };
    let said = fail(&mut attach(&plain), 3);
    assert!(said.contains("encryptedwithintegrity"), "{said}");
    let secret = Secret::with(&["--integrity=hmac-sha256", "--sector-size=4096"], Some("ext4"));
    let attached = Attached::by(&mut attach(&secret));
    let device = home(&attached);
    let targets: Vec<&str> = device["mappers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mapper| mapper["target"].as_str().unwrap())
        .collect();
    assert_eq!(targets, ["integrity", "crypt"]);
    mounted(&attached.paths()[0], "rw", |place| fs::write(place.join("file"), "x").unwrap());
}

fn a_fault_anywhere_leaves_nothing() {
    let secret = Secret::new();
    let _udevd = Udevd::start();
    let command = || secret.with_key(&[]);
    let detach = || drop(succeed(ddictl().args(["detach", "secret.raw"])));
    let points = points(&mut command());
    detach();
    for point in ["attach:loop-0", "unlock:key", "unlock:open", "attach:crypt-0", "attach:crypt-0-recorded"] {
        assert!(points.contains(&point.to_owned()), "{points:?}");
    }
    each_fault(&points, &command, &detach);
}

fn a_whole_disk_has_links_to_its_partitions() {
    let secret = Secret::new();
    let image = secret.image();
    let attach = |arguments: &[&str]| {
        let mut command = ddictl();
        command.args(["attach", "--whole-disk"]).args(arguments).arg(&image);
        command
    };
    let said = fail(&mut attach(&[]), 2);
    assert!(said.contains("--image-policy='*'"), "{said}");
    let said = fail(&mut attach(&["--image-policy=@verified-boot"]), 2);
    assert!(said.contains("@verified-boot"), "{said}");
    let udevd = Udevd::start();
    let attached = Attached::by(&mut attach(&["--image-policy=*"]));
    let there = links();
    let path = attached.paths()[0].clone();
    let said = text(&attached.output.stderr);
    drop(attached);
    let left = links();
    drop(udevd);
    assert!(said.contains("nothing of") && said.contains("is verified"), "{said}");
    assert_eq!(
        there,
        [
            ("disk/by-loop-ref/secret.raw".to_owned(), path.clone()),
            ("disk/by-loop-ref/secret.raw-part1".to_owned(), format!("{path}p1")),
        ]
    );
    assert_eq!(left, []);
}
