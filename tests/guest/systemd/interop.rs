//! An image by the real systemd-repart, mounted by ddictl and by systemd-dissect of Debian 13 and of Debian unstable: the
//! same is where it belongs, and each takes down what the other has mounted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::harness;
use crate::harness::HostTest;
use crate::harness::MachineState;
use crate::harness::Need;
use crate::repart;
use crate::systemd::peer::MountedImage;
use crate::systemd::peer::Peer;
use crate::systemd::peer::SharedMounts;
use crate::systemd::peer::TrustDirectory;
use crate::systemd::peer::succeed;

const NEEDS: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::DeviceMapper,
    Need::FileSystem("squashfs"),
    Need::FileSystem("vfat"),
    Need::UnstableTree,
    Need::DebianTree("trixie"),
    Need::Tool("openssl"),
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest { name: "systemd::interop::both_mount_the_same", needs: NEEDS, run: both_mount_the_same },
    HostTest {
        name: "systemd::interop::systemd_dissect_takes_down_what_ddictl_has_mounted",
        needs: NEEDS,
        run: systemd_dissect_takes_down_what_ddictl_has_mounted,
    },
    HostTest {
        name: "systemd::interop::ddictl_takes_down_what_systemd_dissect_has_mounted",
        needs: NEEDS,
        run: ddictl_takes_down_what_systemd_dissect_has_mounted,
    },
    HostTest {
        name: "systemd::interop::the_newest_veritysetup_knows_our_devices",
        needs: NEEDS,
        run: the_newest_veritysetup_knows_our_devices,
    },
];

const POLICY: &str = "--image-policy=root=signed:esp=unprotected:=unused+absent";
const MOUNT_POINT: &str = "/mnt/image";
const SUITES: [&str; 2] = ["trixie", "sid"];

/// A signed image with an ESP, by systemd-repart of Debian unstable, and its signer trusted.
struct Image {
    directory: TempDir,
    _trusted: TrustDirectory,
}

impl Image {
    fn new() -> Self {
        let directory = repart::workshop(&[
            (
                "10-esp.conf",
                "[Partition]\nType=esp\nFormat=vfat\nSizeMinBytes=8M\nSizeMaxBytes=8M\nCopyFiles=/boot-files:/\n",
            ),
            (
                "20-root.conf",
                "[Partition]\nType=root\nFormat=squashfs\nCopyFiles=/\nExcludeFiles=/boot-files\nVerity=data\nVerityMatchKey=root\nMinimize=best\n",
            ),
            (
                "30-hash.conf",
                "[Partition]\nType=root-verity\nVerity=hash\nVerityMatchKey=root\nMinimize=best\n",
            ),
            (
                "40-signature.conf",
                "[Partition]\nType=root-verity-sig\nVerity=signature\nVerityMatchKey=root\n",
            ),
        ]);
        let source = directory.path().join("src");
        for name in ["efi", "boot-files", "home", "usr/share"] {
            fs::create_dir(source.join(name)).unwrap();
        }
        fs::write(source.join("boot-files/loader.conf"), "timeout 3\n").unwrap();
        // What does not compress away.
        let noise: Vec<u8> =
            (0..20_000_u32).flat_map(|number| openssl::sha::sha1(&number.to_le_bytes())).collect();
        fs::write(source.join("usr/share/noise"), noise).unwrap();
        succeed(
            harness::in_unstable_tree(directory.path(), "systemd-repart")
                .args(["--empty=create", "--size=auto", "--dry-run=no", "--offline=yes"])
                .args(["--definitions=definitions", "--copy-source=/mnt/src", "--json=short"])
                .args(["--private-key=k.key", "--certificate=k.crt", "image.raw"]),
        );
        let trusted = TrustDirectory::with(&[fs::read(directory.path().join("k.crt")).unwrap()]);
        Self { directory, _trusted: trusted }
    }

    /// `ddictl mount` or `systemd-dissect --mount` of it.
    fn mounted_by(&self, mut program: Command, verb: &str) -> MountedImage {
        let image = self.directory.path().join("image.raw");
        succeed(program.args([verb, "--mkdir", POLICY]).arg(image).arg(MOUNT_POINT));
        MountedImage::at(MOUNT_POINT)
    }

    /// Expects every file of the source at its place.
    fn expect_all_files(&self) {
        let source = self.directory.path().join("src");
        for (file, place) in [
            ("usr/lib/os-release", "usr/lib/os-release"),
            ("usr/share/noise", "usr/share/noise"),
            ("boot-files/loader.conf", "efi/loader.conf"),
        ] {
            let found = fs::read(Path::new(MOUNT_POINT).join(place)).unwrap();
            assert!(found == fs::read(source.join(file)).unwrap(), "{place}");
        }
    }
}

/// Waits until nothing is there that was not before, but for a record of ours: the kernel frees devices in its own time.
fn expect_only_records_since(before: &MachineState) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = before.difference(&MachineState::now()).unwrap_or_default();
        if left.lines().all(|line| line.starts_with("left behind: file /run/ddictl/attachments/")) {
            return;
        }
        assert!(Instant::now() < deadline, "{left}");
        thread::yield_now();
    }
}

fn both_mount_the_same() {
    let image = Image::new();
    let shared = SharedMounts::new();
    let ours = image.mounted_by(harness::ddictl(), "mount");
    image.expect_all_files();
    succeed(harness::ddictl().args(["umount", "--rmdir", MOUNT_POINT]));
    assert_eq!(
        ours.to_string(),
        "partition 2 (squashfs, dm-verity), and partition 1 (vfat, unprotected) as `/efi`"
    );
    for suite in SUITES {
        let peer = Peer::new(suite, &shared).unwrap();
        let theirs = image.mounted_by(peer.command("systemd-dissect"), "--mount");
        image.expect_all_files();
        succeed(peer.command("systemd-dissect").args(["--umount", "--rmdir", MOUNT_POINT]));
        assert_eq!(ours.to_string(), theirs.to_string(), "systemd-dissect {}", peer.version);
    }
}

fn systemd_dissect_takes_down_what_ddictl_has_mounted() {
    let image = Image::new();
    let shared = SharedMounts::new();
    for suite in SUITES {
        let peer = Peer::new(suite, &shared).unwrap();
        let before = MachineState::now();
        image.mounted_by(harness::ddictl(), "mount");
        succeed(peer.command("systemd-dissect").args(["--umount", "--rmdir", MOUNT_POINT]));
        expect_only_records_since(&before);
        // The record is known for what it is, and goes.
        succeed(harness::ddictl().args(["detach", "--stale"]));
        assert_eq!(before.difference(&MachineState::now()), None, "systemd-dissect {}", peer.version);
    }
}

fn ddictl_takes_down_what_systemd_dissect_has_mounted() {
    let image = Image::new();
    let shared = SharedMounts::new();
    for suite in SUITES {
        let peer = Peer::new(suite, &shared).unwrap();
        let before = MachineState::now();
        image.mounted_by(peer.command("systemd-dissect"), "--mount");
        succeed(harness::ddictl().args(["umount", "--rmdir", MOUNT_POINT]));
        assert_eq!(before.difference(&MachineState::now()), None, "systemd-dissect {}", peer.version);
    }
}

fn the_newest_veritysetup_knows_our_devices() {
    let image = Image::new();
    let shared = SharedMounts::new();
    let peer = Peer::new("sid", &shared).unwrap();
    image.mounted_by(harness::ddictl(), "mount");
    let status = succeed(peer.command("veritysetup").args(["status", "image.raw-root"]));
    let table = succeed(peer.command("dmsetup").args(["table", "image.raw-root"]));
    let list = succeed(harness::ddictl().args(["list", "--json=short"]));
    succeed(harness::ddictl().args(["umount", "--rmdir", MOUNT_POINT]));
    let words: Vec<&str> = table.split_whitespace().collect();
    let root_hash = words[11];
    assert!(list.contains(&format!(r#""root_hash":"{root_hash}""#)), "{root_hash} in {list}");
    for line in ["type:        VERITY", "status:      verified", &format!("root hash:   {root_hash}")] {
        assert!(status.contains(line), "{line} in {status}");
    }
}
