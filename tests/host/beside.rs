//! Images without a table whose hash tree, root hash and signature lie beside them: attached, and refused.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::attach::{Attached, fail, references, text};
use crate::faults::{each_fault, has_dm_verity, points};
use crate::harness::{HostTest, Need, ddictl};
use crate::repart::succeed;
use crate::udev_links::{Udevd, links};

/// What making such an image and attaching it need.
const BESIDE: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("veritysetup"),
];

/// The same with the peer.
const WITH_SYSTEMD: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("veritysetup"),
    Need::Tool("systemd-dissect"),
];

/// The same with links.
const WITH_LINKS: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("veritysetup"),
    Need::Udevd,
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "beside::a_signed_file_system_is_attached_in_memory",
        needs: BESIDE,
        run: a_signed_file_system_is_attached_in_memory,
    },
    HostTest {
        name: "beside::what_is_wrong_with_the_files_is_refused_and_leaves_nothing",
        needs: BESIDE,
        run: what_is_wrong_with_the_files_is_refused_and_leaves_nothing,
    },
    HostTest {
        name: "beside::a_file_that_hangs_others_is_refused",
        needs: BESIDE,
        run: a_file_that_hangs_others_is_refused,
    },
    HostTest {
        name: "beside::a_whole_disk_does_not_look_beside_itself",
        needs: BESIDE,
        run: a_whole_disk_does_not_look_beside_itself,
    },
    HostTest {
        name: "beside::systemd_dissect_finds_the_same_files",
        needs: WITH_SYSTEMD,
        run: systemd_dissect_finds_the_same_files,
    },
    HostTest {
        name: "beside::an_attach_in_memory_that_fails_anywhere_leaves_nothing",
        needs: WITH_LINKS,
        run: an_attach_in_memory_that_fails_anywhere_leaves_nothing,
    },
];

/// A directory with a file system `under-test.raw`, what protects it beside it, and the certificate `k.crt`.
pub(crate) struct Beside {
    directory: TempDir,
}

impl Beside {
    /// A squashfs with more data blocks than one block of hashes has room for.
    pub(crate) fn new() -> Self {
        Self::of(|directory| {
            let noise: Vec<u8> =
                (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
            fs::create_dir(directory.join("tree")).unwrap();
            fs::write(directory.join("tree/noise"), noise).unwrap();
            let arguments = ["tree", "under-test.raw", "-noappend", "-quiet", "-no-progress", "-no-xattrs"];
            succeed(Command::new("mksquashfs").args(arguments).current_dir(directory));
        })
    }

    /// The file system that `make` makes as `under-test.raw` in a directory. Other tools make the rest.
    pub(crate) fn of(make: impl FnOnce(&Path)) -> Self {
        Self::with_options(&[], make)
    }

    /// The same with these options of veritysetup.
    pub(crate) fn with_options(options: &[&str], make: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        make(path);
        let format = ["format", "under-test.raw", "under-test.verity"];
        let told = succeed(Command::new("veritysetup").args(format).args(options).current_dir(path));
        let line = told.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap();
        fs::write(path.join("under-test.roothash"), line.trim()).unwrap();
        let key = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=beside test"];
        let files = ["-keyout", "k.key", "-out", "k.crt"];
        succeed(Command::new("openssl").args(key).args(files).current_dir(path));
        succeed(
            Command::new("openssl")
                .args(["smime", "-sign", "-noattr", "-binary", "-in", "under-test.roothash"])
                .args(["-signer", "k.crt", "-inkey", "k.key"])
                .args(["-outform", "der", "-out", "under-test.roothash.p7s"])
                .current_dir(path),
        );
        Self { directory }
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The image.
    pub(crate) fn image(&self) -> PathBuf {
        self.path("under-test.raw")
    }

    /// The root hash.
    pub(crate) fn root_hash(&self) -> String {
        fs::read_to_string(self.path("under-test.roothash")).unwrap()
    }

    /// `ddictl attach` with these arguments, of an image whose signer is trusted.
    pub(crate) fn attach(&self, arguments: &[&str]) -> Command {
        let mut command = ddictl();
        command.arg("attach").arg(format!("--certificate={}", self.path("k.crt").display()));
        command.args(arguments).arg(self.image());
        command
    }

    /// Changes a byte of a file.
    pub(crate) fn flip(&self, name: &str, position: u64) {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 1], position).unwrap();
        file.sync_all().unwrap();
    }
}

fn a_signed_file_system_is_attached_in_memory() {
    let beside = Beside::new();
    let image = fs::read(beside.image()).unwrap();
    let attached = Attached::by(&mut beside.attach(&["--in-memory"]));
    // Nothing of the disk is read any more.
    for name in ["under-test.raw", "under-test.verity", "under-test.roothash", "under-test.roothash.p7s"] {
        fs::remove_file(beside.path(name)).unwrap();
    }
    let device = attached.device_of("root");
    assert_eq!(
        (device["reference"].as_str(), device["protection"].as_str(), device["signer"].as_str()),
        (Some("under-test.raw"), Some("signed"), Some("CN=beside test"))
    );
    assert_eq!(device["partition"], serde_json::Value::Null);
    let loops = device["loops"].as_array().unwrap();
    if has_dm_verity() {
        let names: Vec<_> = loops.iter().map(|below| below["reference"].as_str().unwrap()).collect();
        assert_eq!(names, ["under-test.raw.data", "under-test.raw.hash"]);
        assert_ne!(loops[1]["file"]["inode"], attached.record()["image"]["inode"]);
        let sysfs = format!("/sys/block/{}/loop/backing_file", &loops[1]["path"].as_str().unwrap()[5..]);
        let backing = fs::read_to_string(sysfs).unwrap();
        assert!(backing.contains("memfd:ddictl"), "{backing}");
    } else {
        assert_eq!(loops.len(), 1);
    }
    assert!(fs::read(&attached.paths()[0]).unwrap() == image);
    assert!(attached.devices().iter().all(|status| status.read_only));
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&attached.paths()[0])
        .and_then(|node| node.write_all_at(b"written", 0).and_then(|()| node.sync_all()));
    assert!(written.is_err());
}

fn what_is_wrong_with_the_files_is_refused_and_leaves_nothing() {
    let last = |name: &str, beside: &Beside| fs::metadata(beside.path(name)).unwrap().len() - 1;
    type Edit = fn(&Beside);
    let rows: [(&str, Edit, &str); 8] = [
        (
            "no signature",
            |beside| fs::remove_file(beside.path("under-test.roothash.p7s")).unwrap(),
            "DDI0501",
        ),
        ("a signature that does not hold", |beside| beside.flip("under-test.roothash.p7s", 900), "DDI0501"),
        ("no root hash", |beside| fs::remove_file(beside.path("under-test.roothash")).unwrap(), "DDI0312"),
        ("no tree", |beside| fs::remove_file(beside.path("under-test.verity")).unwrap(), "DDI0316"),
        ("no digits", |beside| fs::write(beside.path("under-test.roothash"), "none").unwrap(), "DDI0412"),
        (
            "a root hash for usr",
            |beside| {
                fs::copy(beside.path("under-test.roothash"), beside.path("under-test.usrhash")).unwrap();
            },
            "DDI0413",
        ),
        ("another top of the tree", |beside| beside.flip("under-test.verity", 4096), "DDI0314"),
        (
            "a tree cut off",
            |beside| {
                let file = fs::OpenOptions::new().write(true).open(beside.path("under-test.verity")).unwrap();
                file.set_len(8192).unwrap();
            },
            "DDI0302",
        ),
    ];
    for (what, edit, code) in rows {
        let beside = Beside::new();
        edit(&beside);
        let said = fail(&mut beside.attach(&["--in-memory"]), 3);
        assert!(said.contains(code), "{what}: {said}");
    }
    // Of these only reading everything tells.
    for name in ["under-test.raw", "under-test.verity"] {
        let beside = Beside::new();
        let position = last(name, &beside);
        // Behind the last digest the tree has zeros, which belong to it as well.
        beside.flip(name, position);
        let said = fail(&mut beside.attach(&["--in-memory"]), 3);
        let code = if name == "under-test.raw" { "DDI0313" } else { "DDI0314" };
        assert!(said.contains(code), "{name}: {said}");
    }
    // What is pinned is not moved, and what is left aside is not there.
    let beside = Beside::new();
    let other = format!("--root-hash={}", "5a".repeat(32));
    let said = fail(&mut beside.attach(&["--in-memory", &other]), 3);
    assert!(said.contains("DDI0413"), "{said}");
    let said = fail(&mut beside.attach(&["--in-memory", "--sidecars=no"]), 3);
    assert!(said.contains("DDI0501") && said.contains("unprotected"), "{said}");
    let own = format!("--root-hash={}", beside.root_hash());
    let said = fail(&mut beside.attach(&["--in-memory", "--sidecars=no", &own]), 3);
    assert!(said.contains("DDI0410"), "{said}");
}

fn a_file_that_hangs_others_is_refused() {
    for name in ["under-test.roothash", "under-test.roothash.p7s", "under-test.verity"] {
        let beside = Beside::new();
        fs::remove_file(beside.path(name)).unwrap();
        succeed(Command::new("mkfifo").arg(beside.path(name)));
        let said = fail(&mut beside.attach(&["--in-memory"]), 1);
        assert!(said.contains(name) && said.contains("expected a regular file"), "{said}");
        let aside = beside.attach(&["--dry-run", "--image-policy=*", "--sidecars=no"]).output().unwrap();
        assert!(aside.status.success(), "{}", text(&aside.stderr));
    }
    let beside = Beside::new();
    let long = fs::OpenOptions::new().write(true).open(beside.path("under-test.roothash.p7s")).unwrap();
    long.set_len(1 << 40).unwrap();
    let said = fail(&mut beside.attach(&["--in-memory"]), 1);
    assert!(said.contains("at most 1048576 bytes"), "{said}");
}

fn a_whole_disk_does_not_look_beside_itself() {
    let beside = Beside::new();
    fs::write(beside.path("under-test.roothash"), "none").unwrap();
    let attached = Attached::by(&mut beside.attach(&["--whole-disk", "--image-policy=*"]));
    assert_eq!(attached.devices().len(), 1);
    drop(attached);
    let tree = format!("--verity-data={}", beside.path("under-test.verity").display());
    fail(&mut beside.attach(&["--whole-disk", "--image-policy=*", &tree]), 2);
}

fn systemd_dissect_finds_the_same_files() {
    let beside = Beside::of(|directory| {
        fs::create_dir_all(directory.join("tree/usr/lib")).unwrap();
        fs::write(directory.join("tree/usr/lib/os-release"), "ID=beside\n").unwrap();
        let arguments = ["tree", "under-test.raw", "-noappend", "-quiet", "-no-progress", "-no-xattrs"];
        succeed(Command::new("mksquashfs").args(arguments).current_dir(directory));
    });
    let found = || {
        let told = succeed(Command::new("systemd-dissect").arg("--json=short").arg(beside.image()));
        let theirs: serde_json::Value = serde_json::from_str(told.trim()).unwrap();
        let told = succeed(ddictl().args(["--quiet", "dissect", "--json=short"]).arg(beside.image()));
        let ours: serde_json::Value = serde_json::from_str(&told).unwrap();
        (theirs["mounts"][0]["verity"].clone(), ours["partitions"][0]["protection"].clone())
    };
    // Which words it has for a signature depends on its version, and it checks none here.
    let (theirs, ours) = found();
    assert!(!theirs.is_null() && theirs != "no" && ours == "verity", "{theirs} {ours}");
    fs::remove_file(beside.path("under-test.verity")).unwrap();
    let (theirs, ours) = found();
    assert!((theirs.is_null() || theirs == "no") && ours == "unprotected", "{theirs} {ours}");
}

fn an_attach_in_memory_that_fails_anywhere_leaves_nothing() {
    let beside = Beside::new();
    let _udevd = Udevd::start();
    let command = || beside.attach(&["--in-memory"]);
    let detach = || drop(succeed(ddictl().args(["detach", "under-test.raw"])));
    let points = points(&mut command());
    let there: Vec<String> = links().into_iter().map(|(name, _)| name).collect();
    assert!(there.contains(&"disk/by-loop-ref/under-test.raw".to_owned()), "{there:?}");
    detach();
    let step = if has_dm_verity() { "attach:hash-0" } else { "attach:loop-0" };
    assert!(points.iter().any(|point| point == step), "{points:?}");
    each_fault(&points, &command, &detach);
    assert_eq!(references(), [""; 0]);
}
