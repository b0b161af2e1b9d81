//! Attaching on a kernel with dm-verity: what guards the data, what agrees with other tools, and what is left afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::attach::{Attached, OS_RELEASE, Sealed, fail, text};
use crate::faults::{each_fault, points};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::repart::succeed;
use crate::udev_links::{Udevd, links};

const NEEDS: &[Need] = &[Need::Guest];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest { name: "dm_attach::other_tools_agree", needs: NEEDS, run: other_tools_agree },
    HostTest {
        name: "dm_attach::a_changed_block_is_an_error_and_shows",
        needs: NEEDS,
        run: a_changed_block_is_an_error_and_shows,
    },
    HostTest {
        name: "dm_attach::what_is_refused_is_refused_before_any_device",
        needs: NEEDS,
        run: what_is_refused_is_refused_before_any_device,
    },
    HostTest {
        name: "dm_attach::what_is_done_about_corruption_is_in_the_table",
        needs: NEEDS,
        run: what_is_done_about_corruption_is_in_the_table,
    },
    HostTest {
        name: "dm_attach::a_copy_in_memory_is_guarded_too",
        needs: NEEDS,
        run: a_copy_in_memory_is_guarded_too,
    },
    HostTest {
        name: "dm_attach::a_block_device_is_an_image_too",
        needs: NEEDS,
        run: a_block_device_is_an_image_too,
    },
    HostTest {
        name: "dm_attach::only_what_is_planned_writable_is_written",
        needs: NEEDS,
        run: only_what_is_planned_writable_is_written,
    },
    HostTest {
        name: "dm_attach::the_devices_below_never_have_a_link",
        needs: NEEDS,
        run: the_devices_below_never_have_a_link,
    },
    HostTest {
        name: "dm_attach::no_rules_of_dmsetup_are_needed",
        needs: NEEDS,
        run: no_rules_of_dmsetup_are_needed,
    },
    HostTest {
        name: "dm_attach::the_links_survive_a_switch_of_the_root",
        needs: NEEDS,
        run: the_links_survive_a_switch_of_the_root,
    },
    HostTest {
        name: "dm_attach::every_word_for_a_device_detaches_it",
        needs: NEEDS,
        run: every_word_for_a_device_detaches_it,
    },
    HostTest {
        name: "dm_attach::a_mounted_device_is_left_and_its_mount_named",
        needs: NEEDS,
        run: a_mounted_device_is_left_and_its_mount_named,
    },
    HostTest {
        name: "dm_attach::an_attach_from_disk_that_fails_anywhere_leaves_nothing",
        needs: NEEDS,
        run: an_attach_from_disk_that_fails_anywhere_leaves_nothing,
    },
    HostTest {
        name: "dm_attach::eight_at_once_get_all_their_links",
        needs: NEEDS,
        run: eight_at_once_get_all_their_links,
    },
    HostTest {
        name: "dm_attach::two_hundred_rounds_leave_nothing",
        needs: NEEDS,
        run: two_hundred_rounds_leave_nothing,
    },
];

fn attached(sealed: &Sealed, arguments: &[&str]) -> Attached {
    Attached::by(sealed.attach_from_disk().args(arguments).arg(sealed.image()))
}

/// The device for this designator in a record.
fn device(record: &Value, designator: &str) -> Value {
    let devices = record["devices"].as_array().unwrap();
    devices.iter().find(|device| device["designator"] == designator).unwrap().clone()
}

fn dmsetup(arguments: &[&str]) -> String {
    succeed(Command::new("dmsetup").args(arguments))
}

/// The value behind `NAME:` in what `veritysetup status` prints.
fn field(status: &str, name: &str) -> String {
    let prefix = format!("{name}:");
    let line = status.lines().find_map(|line| line.trim().strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn other_tools_agree() {
    let sealed = Sealed::new();
    let attached = attached(&sealed, &[]);
    let record = attached.record();
    let root = device(&record, "root");
    let mapper = &root["mappers"][0];
    let (name, root_hash) = (mapper["name"].as_str().unwrap(), root["root_hash"].as_str().unwrap());
    assert_eq!((name, root["protection"].as_str()), ("under-test.raw-root", Some("signed")));
    assert_eq!(attached.paths(), [root["path"].as_str().unwrap()]);
    assert!(root["path"].as_str().unwrap().starts_with("/dev/dm-"), "{root}");

    let status = succeed(Command::new("veritysetup").args(["status", name]));
    assert_eq!(field(&status, "type"), "VERITY");
    assert_eq!(field(&status, "status"), "verified");
    assert_eq!(field(&status, "mode"), "readonly");
    assert_eq!(field(&status, "root hash"), root_hash);
    assert_eq!(field(&status, "data device"), root["loops"][0]["path"].as_str().unwrap());
    assert_eq!(field(&status, "hash device"), root["loops"][1]["path"].as_str().unwrap());

    let table = dmsetup(&["table", name]);
    let words: Vec<&str> = table.split_whitespace().collect();
    let (_, hashed) = sealed.hashed_area();
    assert_eq!(words[..4], ["0", &(hashed / 512).to_string(), "verity", "1"]);
    assert_eq!(words[4], root["loops"][0]["device"].as_str().unwrap());
    assert_eq!(words[5], root["loops"][1]["device"].as_str().unwrap());
    assert_eq!(words[8], (hashed / 4096).to_string());
    assert_eq!((words[10], words[11]), ("sha256", root_hash));
    let uuid = dmsetup(&["info", "--columns", "--noheadings", "-o", "uuid", name]);
    assert_eq!(uuid.trim(), mapper["uuid"].as_str().unwrap());
    assert!(uuid.starts_with("CRYPT-VERITY-"), "{uuid}");

    // The bytes are those of the image, and the file system is what was sealed.
    let (offset, length) = sealed.hashed_area();
    let mut expected = vec![0; usize::try_from(length).unwrap()];
    File::open(sealed.image()).unwrap().read_exact_at(&mut expected, offset).unwrap();
    assert!(fs::read(root["path"].as_str().unwrap()).unwrap() == expected);
    let directory = tempfile::tempdir().unwrap();
    let mount = |device: &str| {
        Command::new("mount")
            .args(["--types", "squashfs", "--options", "ro", device])
            .arg(directory.path())
            .output()
            .unwrap()
    };
    // The device below belongs to dm-verity alone.
    let below = mount(root["loops"][0]["path"].as_str().unwrap());
    assert!(!below.status.success() && text(&below.stderr).contains("busy"), "{below:?}");
    assert!(mount(root["path"].as_str().unwrap()).status.success());
    let read = fs::read_to_string(directory.path().join("usr/lib/os-release"));
    succeed(Command::new("umount").arg(directory.path()));
    assert_eq!(read.unwrap(), OS_RELEASE);
}

fn a_changed_block_is_an_error_and_shows() {
    let sealed = Sealed::new();
    let attached = attached(&sealed, &[]);
    let health = |expected: &str| {
        let listed = succeed(ddictl().args(["list", "--no-legend"]));
        assert!(listed.contains(&format!(" {expected} ")), "{listed}");
        assert_eq!(device(&attached.record(), "root")["verity_status"], expected);
    };
    health("verified");
    // Somebody writes to the image behind the devices: the last block, which nobody has read yet.
    let (offset, length) = sealed.hashed_area();
    let image = OpenOptions::new().write(true).open(sealed.image()).unwrap();
    image.write_all_at(b"changed", offset + length - 4096).unwrap();
    image.sync_all().unwrap();
    succeed(Command::new("blockdev").args(["--flushbufs", &attached.paths()[0]]));
    let node = File::open(&attached.paths()[0]).unwrap();
    let mut block = [0; 4096];
    let error = node.read_exact_at(&mut block, length - 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
    node.read_exact_at(&mut block, 0).unwrap();
    health("corrupted");
}

/// Changes a copy of the image and gives what attaching it says: refused, before any device.
fn refusal(sealed: &Sealed, edit: &dyn Fn(&File), arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("changed.raw");
    fs::copy(sealed.image(), &copy).unwrap();
    edit(&OpenOptions::new().read(true).write(true).open(&copy).unwrap());
    let log = directory.path().join("points");
    let mut command = ddictl();
    command.arg("attach").args(arguments).arg(&copy).env("DDICTL_FAULT_LOG", &log);
    let said = fail(&mut command, 3);
    let passed = fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(passed, "", "nothing was begun: {said}");
    said
}

fn what_is_refused_is_refused_before_any_device() {
    let (sealed, other) = (Sealed::new(), Sealed::new());
    let ours = format!("--certificate={}", sealed.path().join("k.crt").display());
    let theirs = format!("--certificate={}", other.path().join("k.crt").display());
    let (ours, theirs) = (ours.as_str(), theirs.as_str());
    let place = |designator: &str| {
        let partitions = sealed.partitions();
        let found = partitions.iter().find(|partition| partition["designator"] == designator).unwrap();
        (found["offset"].as_u64().unwrap(), usize::try_from(found["size"].as_u64().unwrap()).unwrap())
    };
    let of_other = |designator: &str| {
        let partitions = other.partitions();
        let found = partitions.iter().find(|partition| partition["designator"] == designator).unwrap();
        let mut bytes = vec![0; usize::try_from(found["size"].as_u64().unwrap()).unwrap()];
        File::open(other.image())
            .unwrap()
            .read_exact_at(&mut bytes, found["offset"].as_u64().unwrap())
            .unwrap();
        bytes
    };
    let (signature, hash) = (place("root-verity-sig"), place("root-verity"));

    let said = refusal(&sealed, &|_| {}, &[theirs]);
    assert!(said.contains("signer that is not trusted") || said.contains("DDI0"), "{said}");
    assert!(said.contains("root"), "{said}");

    let zeros = |file: &File| file.write_all_at(&vec![0; signature.1], signature.0).unwrap();
    let said = refusal(&sealed, &zeros, &[ours]);
    assert!(said.contains("DDI"), "{said}");

    // The signature of another image, by the same key or another: it is of another root hash.
    let transplanted = |file: &File| file.write_all_at(&of_other("root-verity-sig"), signature.0).unwrap();
    let said = refusal(&sealed, &transplanted, &[ours, theirs]);
    assert!(said.contains("DDI"), "{said}");

    let swapped = |file: &File| file.write_all_at(&of_other("root-verity"), hash.0).unwrap();
    let said = refusal(&sealed, &swapped, &[ours]);
    assert!(said.contains("DDI0314"), "{said}");

    let words = |file: &File| {
        let mut field = [0; 32];
        let text = b"crc32 00000000 - 0";
        field[..text.len()].copy_from_slice(text);
        file.write_all_at(&field, hash.0 + 32).unwrap();
    };
    let said = refusal(&sealed, &words, &[ours]);
    assert!(said.contains("DDI"), "{said}");
}

fn what_is_done_about_corruption_is_in_the_table() {
    let sealed = Sealed::new();
    for (action, words) in
        [("eio", ""), ("panic", " 1 panic_on_corruption"), ("restart", " 1 restart_on_corruption")]
    {
        let attached = attached(&sealed, &[&format!("--on-corruption={action}")]);
        let table = dmsetup(&["table", "under-test.raw-root"]);
        drop(attached);
        if words.is_empty() {
            assert!(!table.contains("corruption"), "{table}");
        } else {
            assert!(table.trim_end().ends_with(words), "{table}");
        }
    }
    let output =
        sealed.attach_from_disk().arg("--on-corruption=ignore").arg(sealed.image()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

fn a_copy_in_memory_is_guarded_too() {
    let sealed = Sealed::new();
    let attached = attached(&sealed, &["--in-memory"]);
    let root = device(&attached.record(), "root");
    assert_eq!(root["verity_status"], "verified");
    let data = root["loops"][0]["path"].as_str().unwrap().trim_start_matches("/dev/").to_owned();
    let backing = fs::read_to_string(format!("/sys/block/{data}/loop/backing_file")).unwrap();
    assert!(backing.contains("memfd:ddictl"), "{backing}");
}

fn a_block_device_is_an_image_too() {
    let sealed = Sealed::new();
    let image = sealed.image();
    let device = succeed(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(&image));
    let device = device.trim();
    let attached = Attached::by(sealed.attach_from_disk().args(["--loop-ref=disk", device]));
    let read = fs::read(&attached.paths()[0]).map(|bytes| bytes.len());
    drop(attached);
    succeed(Command::new("losetup").args(["--detach", device]));
    assert_eq!(u64::try_from(read.unwrap()).unwrap(), sealed.hashed_area().1);
}

fn only_what_is_planned_writable_is_written() {
    let sealed = Sealed::with_esp();
    let write = |attached: &Attached, index: usize| {
        OpenOptions::new()
            .write(true)
            .open(&attached.paths()[index])
            .and_then(|node| node.write_all_at(b"written", 8 << 10))
    };
    let writable = attached(&sealed, &["--image-policy=*"]);
    let (esp, root) = (write(&writable, 0), write(&writable, 1));
    assert!(esp.is_ok() && root.is_err(), "{esp:?} {root:?}");
    let record = writable.record();
    assert_eq!(
        (&device(&record, "esp")["read_only"], &device(&record, "root")["read_only"]),
        (&false.into(), &true.into())
    );
    drop(writable);
    let partitions = sealed.partitions();
    let esp = partitions.iter().find(|partition| partition["designator"] == "esp").unwrap();
    let mut bytes = [0; 7];
    File::open(sealed.image())
        .unwrap()
        .read_exact_at(&mut bytes, esp["offset"].as_u64().unwrap() + (8 << 10))
        .unwrap();
    assert_eq!(&bytes, b"written");
    for arguments in [
        &["--image-policy=*", "--read-only"][..],
        &["--image-policy=*", "--in-memory"],
        &["--image-policy=esp=unprotected:=open", "-r"],
    ] {
        let attached = attached(&sealed, arguments);
        assert!(write(&attached, 0).is_err(), "{arguments:?}");
    }
}

/// Every link that udev gives a device whose kernel name begins so while something happens.
fn links_given(kernel_name: &str, happening: impl FnOnce()) -> BTreeSet<String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut monitor = Command::new("udevadm")
        .args(["monitor", "--udev", "--property", "--subsystem-match=block"])
        .stdout(log.reopen().unwrap())
        .spawn()
        .unwrap();
    happening();
    succeed(Command::new("udevadm").args(["settle", "--timeout=60"]));
    let _ = monitor.kill();
    let _ = monitor.wait();
    let events = fs::read_to_string(log.path()).unwrap();
    assert!(events.contains(&format!("DEVNAME=/dev/{kernel_name}")), "events of {kernel_name} were seen");
    let of_device = |event: &&str| event.contains(&format!("DEVNAME=/dev/{kernel_name}"));
    let links = events.split("\n\n").filter(of_device).flat_map(|event| {
        event.lines().filter_map(|line| line.strip_prefix("DEVLINKS=")).flat_map(str::split_whitespace)
    });
    links.map(str::to_owned).collect()
}

fn the_devices_below_never_have_a_link() {
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let mut there = Vec::new();
    let given = links_given("loop", || {
        let attached = attached(&sealed, &[]);
        there = links();
        let record = attached.record();
        for below in device(&record, "root")["loops"].as_array().unwrap() {
            let name = below["path"].as_str().unwrap();
            succeed(Command::new("udevadm").args(["trigger", "--settle", "--action=change", name]));
        }
    });
    drop(udevd);
    assert_eq!(given, BTreeSet::new());
    let names: Vec<&str> = there.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["disk/by-loop-ref/under-test.raw-part1", "disk/by-loop-ref/under-test.raw-root"]);
    assert!(there.iter().all(|(_, device)| device.starts_with("/dev/dm-")), "{there:?}");
}

fn no_rules_of_dmsetup_are_needed() {
    let sealed = Sealed::new();
    fs::create_dir_all("/run/udev/rules.d").unwrap();
    let masked = ["55-dm.rules", "60-persistent-storage-dm.rules", "95-dm-notify.rules"];
    for name in masked {
        std::os::unix::fs::symlink("/dev/null", Path::new("/run/udev/rules.d").join(name)).unwrap();
    }
    let udevd = Udevd::start();
    let begun = std::time::Instant::now();
    let attached = attached(&sealed, &[]);
    let (there, took) = (links(), begun.elapsed());
    let properties = dm_properties(&attached);
    drop(attached);
    let left = links();
    drop(udevd);
    for name in masked {
        let _ = fs::remove_file(Path::new("/run/udev/rules.d").join(name));
    }
    assert_eq!((there.len(), left.len()), (2, 0));
    assert!(took.as_secs() < 30, "{took:?}");
    assert!(properties.contains("SYSTEMD_READY=1"), "{properties}");
}

fn dm_properties(attached: &Attached) -> String {
    succeed(Command::new("udevadm").args(["info", "--query=property", &attached.paths()[0]]))
}

fn the_links_survive_a_switch_of_the_root() {
    let sealed = Sealed::with_esp();
    // In an initrd the attachment leaves rules behind for the system that comes next.
    fs::write("/etc/initrd-release", "").unwrap();
    let udevd = Udevd::start();
    let attached = attached(&sealed, &["--image-policy=*"]);
    let there = links();
    fs::remove_file("/etc/initrd-release").unwrap();
    // What that system has: neither our rules nor our helper, a database of which only the persistent part is left, and
    // an event for every device.
    for name in ["59-ddictl.rules", "61-ddictl.rules"] {
        fs::remove_file(Path::new("/run/udev/rules.d").join(name)).unwrap();
    }
    succeed(Command::new("udevadm").args(["control", "--reload"]));
    succeed(Command::new("udevadm").args(["info", "--cleanup-db"]));
    succeed(Command::new("udevadm").args(["trigger", "--action=add", "--subsystem-match=block", "--settle"]));
    let (after, properties) = (links(), dm_properties(&attached));
    let below: Vec<String> = attached.record()["devices"][1]["loops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|below| {
            succeed(Command::new("udevadm").args([
                "info",
                "--query=property",
                below["path"].as_str().unwrap(),
            ]))
        })
        .collect();
    drop(attached);
    let left = fs::read_dir("/run/udev/rules.d").unwrap().count();
    drop(udevd);
    assert_eq!(there.len(), 4);
    assert_eq!(after, there);
    assert!(!properties.contains("SYSTEMD_READY=0"), "{properties}");
    for properties in below {
        assert!(properties.contains("SYSTEMD_READY=0") && !properties.contains("ID_FS_TYPE"), "{properties}");
    }
    assert_eq!(left, 0);
}

fn every_word_for_a_device_detaches_it() {
    let sealed = Sealed::new();
    let before = MachineState::now();
    let words: [&dyn Fn(&Value) -> String; 6] = [
        &|_| "under-test.raw".to_owned(),
        &|_| "under-test.raw-root".to_owned(),
        &|record| device(record, "root")["path"].as_str().unwrap().to_owned(),
        &|record| device(record, "root")["loops"][0]["path"].as_str().unwrap().to_owned(),
        &|record| device(record, "root")["loops"][1]["path"].as_str().unwrap().to_owned(),
        &|record| record["image"]["source"].as_str().unwrap().to_owned(),
    ];
    for word in words {
        succeed(sealed.attach_from_disk().arg(sealed.image()));
        let listed = succeed(ddictl().args(["list", "--json=short"]));
        let word = word(&serde_json::from_str::<Value>(&listed).unwrap()[0]);
        succeed(ddictl().args(["detach", &word]));
        assert_eq!(before.difference(&MachineState::now()), None, "{word}");
        let again: Output = ddictl().args(["detach", &word]).output().unwrap();
        assert!(again.status.success() && text(&again.stderr).contains("not attached"), "{again:?}");
    }
}

fn a_mounted_device_is_left_and_its_mount_named() {
    let sealed = Sealed::new();
    let attached = attached(&sealed, &[]);
    let directory = tempfile::tempdir().unwrap();
    let (device, there) = (attached.paths()[0].clone(), attached.record());
    succeed(Command::new("mount").args(["-t", "squashfs", "-o", "ro", &device]).arg(directory.path()));
    let output = ddictl().args(["detach", "under-test.raw"]).output().unwrap();
    let after = attached.record();
    succeed(Command::new("umount").arg(directory.path()));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("mounted on '{}'", directory.path().display())), "{said}");
    assert_eq!(there, after);
}

fn an_attach_from_disk_that_fails_anywhere_leaves_nothing() {
    let sealed = Sealed::with_esp();
    let _udevd = Udevd::start();
    let command = || {
        let mut command = sealed.attach_from_disk();
        command.arg("--image-policy=*").arg(sealed.image());
        command
    };
    let detach = || drop(succeed(ddictl().args(["detach", "under-test.raw"])));
    let points = points(&mut command());
    detach();
    for step in ["loop-0", "data-1", "hash-1", "verity-1"] {
        assert!(points.contains(&format!("attach:{step}")), "{points:?}");
    }
    each_fault(&points, &command, &detach);
}

fn eight_at_once_get_all_their_links() {
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let names: Vec<String> = (0..8).map(|number| format!("at-once-{number}.raw")).collect();
    let running: Vec<_> = names
        .iter()
        .map(|name| {
            sealed.attach_from_disk().arg(format!("--loop-ref={name}")).arg(sealed.image()).spawn().unwrap()
        })
        .collect();
    let ended: Vec<_> = running.into_iter().map(|mut child| child.wait().unwrap()).collect();
    let there: BTreeSet<String> = links().into_iter().map(|(name, _)| name).collect();
    for name in &names {
        succeed(ddictl().args(["detach", name]));
    }
    let left = links();
    drop(udevd);
    assert!(ended.iter().all(std::process::ExitStatus::success), "{ended:?}");
    let expected: BTreeSet<String> = names
        .iter()
        .flat_map(|name| ["part1", "root"].map(|end| format!("disk/by-loop-ref/{name}-{end}")))
        .collect();
    assert_eq!(there, expected);
    assert_eq!(left, []);
}

fn two_hundred_rounds_leave_nothing() {
    let sealed = Sealed::new();
    let before = MachineState::now();
    let round = |linked: usize| {
        succeed(sealed.attach_from_disk().arg(sealed.image()));
        assert_eq!(links().len(), linked);
        succeed(ddictl().args(["detach", "under-test.raw"]));
        assert_eq!(links(), []);
    };
    for _ in 0..160 {
        round(0);
    }
    assert_eq!(before.difference(&MachineState::now()), None);
    let udevd = Udevd::start();
    for _ in 0..40 {
        round(2);
    }
    drop(udevd);
    assert_eq!(before.difference(&MachineState::now()), None);
}
