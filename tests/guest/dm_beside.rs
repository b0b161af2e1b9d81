//! Images whose hash tree lies beside them, under the guard of dm-verity: two files below one device.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::attach::{Attached, fail, text};
use crate::beside::Beside;
use crate::faults::{each_fault, points};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::repart::succeed;
use crate::udev_links::{Udevd, links};

const NEEDS: &[Need] = &[Need::Guest];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest { name: "dm_beside::other_tools_agree", needs: NEEDS, run: other_tools_agree },
    HostTest {
        name: "dm_beside::a_changed_block_of_either_file_is_an_error",
        needs: NEEDS,
        run: a_changed_block_of_either_file_is_an_error,
    },
    HostTest {
        name: "dm_beside::a_device_may_have_the_hash_tree",
        needs: NEEDS,
        run: a_device_may_have_the_hash_tree,
    },
    HostTest {
        name: "dm_beside::every_word_for_it_detaches_it_and_nothing_is_left",
        needs: NEEDS,
        run: every_word_for_it_detaches_it_and_nothing_is_left,
    },
    HostTest {
        name: "dm_beside::what_is_attached_is_mounted_if_the_tree_is_the_same",
        needs: NEEDS,
        run: what_is_attached_is_mounted_if_the_tree_is_the_same,
    },
    HostTest {
        name: "dm_beside::an_attach_from_disk_that_fails_anywhere_leaves_nothing",
        needs: NEEDS,
        run: an_attach_from_disk_that_fails_anywhere_leaves_nothing,
    },
];

/// An ext4 with a file in it.
fn ext4() -> Beside {
    Beside::of(|directory| {
        fs::create_dir(directory.join("tree")).unwrap();
        fs::write(directory.join("tree/hello"), "beside\n").unwrap();
        let image = directory.join("under-test.raw");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let tree = directory.join("tree");
        succeed(Command::new("mkfs.ext4").args(["-q", "-b", "4096", "-d"]).args([&tree, &image]));
    })
}

fn device(attached: &Attached) -> serde_json::Value {
    attached.device_of("root")
}

fn other_tools_agree() {
    for beside in [ext4(), Beside::new()] {
        let before = MachineState::now();
        let image = fs::read(beside.image()).unwrap();
        let attached = Attached::by(&mut beside.attach(&[]));
        let root = device(&attached);
        assert_eq!(
            (root["protection"].as_str(), root["signer"].as_str()),
            (Some("signed"), Some("CN=beside test"))
        );
        let status = succeed(Command::new("veritysetup").args(["status", "under-test.raw-root"]));
        for words in ["verified", "readonly", beside.root_hash().as_str()] {
            assert!(status.contains(words), "{words}: {status}");
        }
        let backing = |index: usize| {
            let path = root["loops"][index]["path"].as_str().unwrap().to_owned();
            let name = path.strip_prefix("/dev/").unwrap().to_owned();
            fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap().trim().to_owned()
        };
        assert_eq!(Path::new(&backing(0)), fs::canonicalize(beside.image()).unwrap());
        assert_eq!(Path::new(&backing(1)), fs::canonicalize(beside.path("under-test.verity")).unwrap());
        assert!(fs::read(&attached.paths()[0]).unwrap() == image);
        drop(attached);
        assert_eq!(before.difference(&MachineState::now()), None);
    }
}

fn a_changed_block_of_either_file_is_an_error() {
    // Somewhere in the middle: a block that nobody looks at before, and the digest of one.
    let (block, digest) = (2048_u64 * 4096, 8192 + 2048 * 32);
    let expected = |attached: &Attached| {
        let node = File::open(&attached.paths()[0]).unwrap();
        let mut bytes = [0; 4096];
        node.read_exact_at(&mut bytes, 0).unwrap();
        let error = node.read_exact_at(&mut bytes, block).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
        let listed = succeed(ddictl().args(["list", "--json=short"]));
        assert!(listed.contains("\"verity_status\":\"corrupted\""), "{listed}");
    };
    // Somebody writes to the image behind the devices.
    let beside = ext4();
    let attached = Attached::by(&mut beside.attach(&[]));
    beside.flip("under-test.raw", block);
    succeed(Command::new("blockdev").args(["--flushbufs", &attached.paths()[0]]));
    expected(&attached);
    drop(attached);
    // Or to the tree, before it is attached: its top alone is looked at then.
    let beside = ext4();
    beside.flip("under-test.verity", digest);
    let attached = Attached::by(&mut beside.attach(&[]));
    expected(&attached);
    drop(attached);
    let beside = ext4();
    beside.flip("under-test.verity", 4096);
    let said = fail(&mut beside.attach(&[]), 3);
    assert!(said.contains("DDI0314"), "{said}");
}

fn a_device_may_have_the_hash_tree() {
    let beside = ext4();
    let other = beside.path("moved");
    fs::rename(beside.path("under-test.verity"), &other).unwrap();
    let losetup = |path: &Path| {
        succeed(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(path)).trim().to_owned()
    };
    let tree = losetup(&other);
    let option = format!("--verity-data={tree}");
    let attached = Attached::by(&mut beside.attach(&[&option]));
    let same = fs::read(&attached.paths()[0]).unwrap() == fs::read(beside.image()).unwrap();
    drop(attached);
    // The image on a device, too: nothing beside that counts.
    let image = losetup(&beside.image());
    let command = |arguments: &[&str]| {
        let mut command = ddictl();
        command.arg("attach").arg(format!("--certificate={}", beside.path("k.crt").display()));
        command.args(["--loop-ref=disk", &option]).args(arguments).arg(&image);
        command
    };
    let unknown = command(&[]).output().unwrap();
    let signature = format!("--root-hash-sig={}", beside.path("under-test.roothash.p7s").display());
    let attached = Attached::by(&mut command(&[&format!("--root-hash={}", beside.root_hash()), &signature]));
    let protection = device(&attached)["protection"].clone();
    drop(attached);
    for device in [tree, image] {
        succeed(Command::new("losetup").args(["--detach", &device]));
    }
    assert!(same);
    assert!(text(&unknown.stderr).contains("DDI0312"), "{}", text(&unknown.stderr));
    assert_eq!(protection, "signed");
}

fn every_word_for_it_detaches_it_and_nothing_is_left() {
    let beside = Beside::new();
    let before = MachineState::now();
    for word in ["under-test.raw", "/dev/mapper", "data", "hash", "source"] {
        let made = beside.attach(&["--json=short"]).output().unwrap();
        let record: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        let root = &record["devices"][0];
        let what = match word {
            "/dev/mapper" => root["path"].as_str(),
            "data" => root["loops"][0]["path"].as_str(),
            "hash" => root["loops"][1]["path"].as_str(),
            "source" => record["image"]["source"].as_str(),
            name => Some(name),
        };
        succeed(ddictl().args(["detach", what.unwrap()]));
        assert_eq!(before.difference(&MachineState::now()), None, "{word}");
    }
}

fn what_is_attached_is_mounted_if_the_tree_is_the_same() {
    let beside = ext4();
    let directory = tempfile::tempdir().unwrap();
    let mount = || {
        let mut command = ddictl();
        command.arg("mount").arg(format!("--certificate={}", beside.path("k.crt").display()));
        command.arg(beside.image()).arg(directory.path());
        command
    };
    let read = || fs::read_to_string(directory.path().join("hello"));
    let umount = || drop(succeed(ddictl().arg("umount").arg(directory.path())));
    succeed(&mut mount());
    let alone = read();
    umount();

    let attached = Attached::by(&mut beside.attach(&[]));
    let output = mount().output().unwrap();
    let shared = read();
    umount();
    let copy = beside.path("copy");
    fs::copy(beside.path("under-test.verity"), &copy).unwrap();
    fs::rename(&copy, beside.path("under-test.verity")).unwrap();
    let other = mount().output().unwrap();
    let of_its_own = read();
    umount();
    drop(attached);
    assert_eq!([alone.unwrap(), shared.unwrap(), of_its_own.unwrap()], ["beside\n"; 3]);
    assert!(text(&output.stderr).contains("its devices are mounted"), "{}", text(&output.stderr));
    assert!(text(&other.stderr).contains("its devices are not used"), "{}", text(&other.stderr));
}

fn an_attach_from_disk_that_fails_anywhere_leaves_nothing() {
    let beside = Beside::new();
    let _udevd = Udevd::start();
    let command = || beside.attach(&[]);
    let detach = || drop(succeed(ddictl().args(["detach", "under-test.raw"])));
    let points = points(&mut command());
    // Of the devices below none has a link at any time.
    let there: Vec<String> = links().into_iter().map(|(name, _)| name).collect();
    assert_eq!(there, ["disk/by-loop-ref/under-test.raw"]);
    let image = OpenOptions::new().read(true).open("/dev/disk/by-loop-ref/under-test.raw");
    drop(image.unwrap());
    detach();
    for step in ["data-0", "hash-0", "verity-0"] {
        assert!(points.contains(&format!("attach:{step}")), "{points:?}");
    }
    each_fault(&points, &command, &detach);
}
