//! What the kernel command line asks for, done on this machine as an initrd would do it, and what stops it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::pull::{Images, PULL, detach, refused, serve, talk, without_proxies};
use crate::pull_tar::good_archive;
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "boot::the_seeds_command_line_makes_the_root_and_twice_is_once",
        needs: PULL,
        run: the_seeds_command_line_makes_the_root_and_twice_is_once,
    },
    HostTest { name: "boot::every_refusal_leaves_nothing", needs: PULL, run: every_refusal_leaves_nothing },
    HostTest {
        name: "boot::a_tree_for_the_root_can_be_one",
        needs: &[Need::Root, Need::Tool("openssl")],
        run: a_tree_for_the_root_can_be_one,
    },
    HostTest {
        name: "boot::anybody_can_rehearse",
        needs: &[Need::Root, Need::Tool("mksquashfs"), Need::Tool("openssl"), Need::Tool("setpriv")],
        run: anybody_can_rehearse,
    },
    HostTest {
        name: "boot::systemd_takes_every_unit",
        needs: &[Need::Root, Need::Tool("systemd-analyze")],
        run: systemd_takes_every_unit,
    },
];

const ANCHOR: &str = "/run/verity.d/boot-under-test.crt";
const OTHER_ACTOR: &str = "/run/systemd/system-generators/systemd-import-generator";

/// A file that is there as long as this is; the directories that had to be made go with it.
struct Placed(Vec<PathBuf>);

impl Placed {
    fn new(path: &str, content: &[u8], mode: u32) -> Self {
        let mut made = vec![PathBuf::from(path)];
        let mut directory = Path::new(path).parent().unwrap();
        while directory.symlink_metadata().is_err() {
            made.push(directory.to_owned());
            directory = directory.parent().unwrap();
        }
        fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        Self(made)
    }

    fn anchor(images: &Images) -> Self {
        let option = images.certificate();
        let content = fs::read(option.strip_prefix("--certificate=").unwrap()).unwrap();
        Self::new(ANCHOR, &content, 0o644)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}

/// `ddictl boot` in an initrd with this command line.
fn boot(line: &str) -> Command {
    let mut command = ddictl();
    command.arg("boot").env("SYSTEMD_PROC_CMDLINE", line).env("SYSTEMD_IN_INITRD", "1");
    without_proxies(&mut command);
    command
}

fn seed(server: &HttpServer, root: &str) -> String {
    let url = server.url("/image.raw");
    format!("quiet rd.systemd.pull=raw,machine,verify=no,blockdev:image-under-test:{url} root={root}")
}

const LINK: &str = "/dev/disk/by-loop-ref/image-under-test.raw";

fn the_seeds_command_line_makes_the_root_and_twice_is_once() {
    let images = Images::new();
    let (_anchor, server) = (Placed::anchor(&images), serve(&images.good));
    let before = MachineState::now();
    for root in [format!("{LINK}-part1"), format!("{LINK}-root")] {
        let line = seed(&server, &root);
        let printed = succeed(&mut boot(&line));
        assert!(printed.starts_with("/dev/"), "{printed}");
        let again = boot(&line).arg("--pull=0").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&again.stdout), "/run/machines/image-under-test.raw\n");
        assert!(again.status.success() && talk(&again).contains("is there already"), "{}", talk(&again));
        let list: Value = serde_json::from_str(&succeed(ddictl().args(["list", "--json=short"]))).unwrap();
        let record = list
            .as_array()
            .unwrap()
            .iter()
            .find(|record| record["reference"] == "image-under-test.raw")
            .unwrap()
            .clone();
        assert_eq!(record["devices"][0]["designator"], "root");
        assert_eq!(record["devices"][0]["protection"], "signed");
        detach("image-under-test.raw");
    }
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn every_refusal_leaves_nothing() {
    let images = Images::new();
    let good = serve(&images.good);
    let part = format!("{LINK}-part1");
    refused(&mut boot(&seed(&good, &part)), 3, "trust anchor");
    let _anchor = Placed::anchor(&images);
    let unsigned = serve(&images.unsigned);
    let flipped = serve(&images.flipped());
    let hash = "0".repeat(64);
    for (line, status, words) in [
        (seed(&unsigned, &part), 3, "DDI0501"),
        (seed(&unsigned, &part), 3, "rd.systemd.image_policy="),
        (seed(&flipped, &part), 3, "DDI0313"),
        (seed(&good, &format!("{LINK}-part2")), 3, "DDI0507"),
        (seed(&good, &format!("{LINK}-usr")), 2, "expected the root partition"),
        (format!("{} mount.usr={LINK}-usr", seed(&good, &part)), 3, "DDI0507"),
        (format!("{} roothash={hash}", seed(&good, &part)), 3, "DDI0304"),
        (format!("{} roothash=oops", seed(&good, &part)), 2, "roothash="),
        (format!("{} systemd.image_policy=root=unprotected", seed(&good, &part)), 2, "no image can satisfy"),
        (format!("{} systemd.image_policy=root=encrypted", seed(&good, &part)), 2, "no image can satisfy"),
        (seed(&good, &part).replace("verify=no", "verify=sginature"), 2, "reading 'verify='"),
        (seed(&good, &part).replace("verify=no", &format!("verify={hash}")), 3, "expected"),
        (
            seed(&good, &part).replace(",blockdev", ",blockdev,image-policy=no-such-policy"),
            2,
            "no such policy",
        ),
    ] {
        refused(&mut boot(&line), status, words);
    }
    // The policy of the kernel command line alone loosens, and that is said.
    let loosened = boot(&format!("{} rd.systemd.image_policy=*", seed(&unsigned, &part))).output().unwrap();
    assert!(loosened.status.success(), "{}", talk(&loosened));
    assert!(talk(&loosened).contains("nobody needs to vouch for it"), "{}", talk(&loosened));
    detach("image-under-test.raw");
    {
        let _actor = Placed::new(OTHER_ACTOR, b"#!/bin/sh\n", 0o755);
        refused(&mut boot(&seed(&good, &part)), 1, "mask it");
        refused(boot(&seed(&good, &part)).arg("--check"), 1, "mask it");
    }
    {
        let mask = Placed::new(OTHER_ACTOR, b"", 0o755);
        fs::remove_file(OTHER_ACTOR).unwrap();
        symlink("/dev/null", OTHER_ACTOR).unwrap();
        succeed(boot(&seed(&good, &part)).arg("--check"));
        drop(mask);
    }
    // Nothing is asked for: nothing is done.
    for line in ["quiet root=/dev/sda1", "roothash=oops systemd.pull=nonsense"] {
        assert_eq!(succeed(&mut boot(line)), "", "{line}");
        assert_eq!(succeed(boot(line).arg("--check")), "", "{line}");
    }
}

fn a_tree_for_the_root_can_be_one() {
    let archive: Arc<[u8]> = good_archive().into();
    let sum = {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tree.tar");
        fs::write(&path, &archive).unwrap();
        succeed(Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(&path))[..64].to_owned()
    };
    let server = HttpServer::start(move |request| Answer::ranged(request, Arc::clone(&archive)));
    let url = server.url("/tree.tar");
    let line = |verify: &str| {
        format!(
            "rd.systemd.pull=tar,machine,verify={verify}:tree-under-test:{url} root=bind:/run/machines/tree-under-test"
        )
    };
    refused(&mut boot(&line("no")), 3, "demands that all that is exposed is authenticated");
    let before = MachineState::now();
    let tree = Path::new("/run/machines/tree-under-test");
    assert_eq!(succeed(&mut boot(&line(&sum))), format!("{}\n", tree.display()));
    assert_eq!(fs::metadata("/run/machines").unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(tree.join("su")).unwrap().mode() & 0o7777, 0o4755);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" /run/machines ")).unwrap();
    assert!(["nosuid", "nodev", "noexec"].iter().all(|flag| !mount.contains(flag)), "{mount}");
    detach("tree-under-test");
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn anybody_can_rehearse() {
    let images = Images::new();
    let _anchor = Placed::anchor(&images);
    let (good, unsigned) = (serve(&images.good), serve(&images.unsigned));
    let before = MachineState::now();
    let rehearse = |line: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(env!("CARGO_BIN_EXE_ddictl"));
        command.args(["boot", "--dry-run", "--json=short"]).arg(line);
        without_proxies(&mut command);
        command.output().unwrap()
    };
    let accepted = rehearse(&seed(&good, &format!("{LINK}-part1")));
    let value: Value = serde_json::from_slice(&accepted.stdout).unwrap();
    assert!(accepted.status.success(), "{}", talk(&accepted));
    assert_eq!((&value["verdict"], &value["root"]), (&Value::from("accept"), &Value::from(true)));
    let guarantee = value["guarantees"][0].as_str().unwrap();
    assert!(guarantee.contains("root") && guarantee.contains("good signer"), "{guarantee}");
    assert_eq!(value["plan"]["reference"], "image-under-test.raw");
    let refused = rehearse(&seed(&unsigned, &format!("{LINK}-part1")));
    let value: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused.status.code(), Some(3));
    assert!(value["why"].as_str().unwrap().contains("DDI0501"), "{value}");
    let elsewhere = rehearse(&seed(&good, "/dev/sda1"));
    assert!(talk(&elsewhere).contains("nothing that is pulled becomes the root"), "{}", talk(&elsewhere));
    let line = seed(&good, &format!("{LINK}-root")).replace(&good.url("/image.raw"), "d/image.raw");
    let line = line.replace("blockdev", "blockdev,bootorigin");
    let mut booted = ddictl();
    booted.args(["boot", "--dry-run", "--boot-url", &good.url("/uki.efi"), &line]);
    assert!(succeed(without_proxies(&mut booted)).contains("guarantee: root: "));
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn systemd_takes_every_unit() {
    let directory = tempfile::tempdir().unwrap();
    let generator = directory.path().join("ddictl-generator");
    symlink(env!("CARGO_BIN_EXE_ddictl"), &generator).unwrap();
    for (line, initrd) in [
        (
            "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw root=/dev/disk/by-loop-ref/image.raw-part2",
            "1",
        ),
        ("rd.systemd.pull=raw,machine,blockdev,bootorigin:rootdisk:root.raw root=gpt-auto", "1"),
        (
            "rd.systemd.pull=tar,machine:tree:http://h/tree.tar root=bind:/run/machines/tree rd.systemd.pull.failure_action=reboot",
            "1",
        ),
        ("rd.systemd.pull=nonsense", "1"),
        ("rd.systemd.pull=raw,machine:x:http://h/x roothash=oops", "1"),
        ("systemd.pull=raw,sysext:tools:http://h/tools.raw", "0"),
    ] {
        let made = tempfile::tempdir().unwrap();
        let run = || {
            let directories = ["normal", "early", "late"].map(|name| made.path().join(name));
            for directory in &directories {
                fs::create_dir_all(directory).unwrap();
            }
            let mut command = Command::new(&generator);
            command.args(&directories).env("SYSTEMD_PROC_CMDLINE", line).env("SYSTEMD_IN_INITRD", initrd);
            assert_eq!(succeed(&mut command), "", "{line}");
            succeed(Command::new("ls").args(["-lR", "--time-style=+"]).arg(made.path()))
        };
        assert_eq!(run(), run(), "not the same twice: {line}");
        let units = [made.path().join("normal"), made.path().join("early")]
            .iter()
            .flat_map(|directory| fs::read_dir(directory).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file() && !path.is_symlink())
            .collect::<Vec<_>>();
        assert!(!units.is_empty(), "{line}");
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .args(&units)
            .output()
            .unwrap();
        let said = talk(&output);
        let ours: Vec<&str> =
            said.lines().filter(|line| line.contains(made.path().to_str().unwrap())).collect();
        assert!(ours.is_empty(), "{line}: {said}");
    }
}
