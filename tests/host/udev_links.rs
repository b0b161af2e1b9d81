//! Links, by the udev daemon of this machine with our rules: what gets them, what does not, and when they go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::attach::{Foreign, Sealed, fail, text};
use crate::faults::has_dm_verity;
use crate::harness::{self, HostTest, Need, ddictl};
use crate::repart::succeed;

/// What attaching with a udev daemon needs.
pub(crate) const UDEV: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::Udevd,
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("mkfs.vfat"),
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "udev_links::an_attachment_has_its_links_and_no_others",
        needs: UDEV,
        run: an_attachment_has_its_links_and_no_others,
    },
    HostTest { name: "udev_links::a_name_is_encoded", needs: UDEV, run: a_name_is_encoded },
    HostTest {
        name: "udev_links::a_record_that_does_not_fit_makes_no_link",
        needs: UDEV,
        run: a_record_that_does_not_fit_makes_no_link,
    },
    HostTest {
        name: "udev_links::foreign_devices_have_links_by_name_and_inode",
        needs: UDEV,
        run: foreign_devices_have_links_by_name_and_inode,
    },
    HostTest {
        name: "udev_links::a_foreign_device_cannot_take_a_link_of_ours",
        needs: UDEV,
        run: a_foreign_device_cannot_take_a_link_of_ours,
    },
    HostTest {
        name: "udev_links::partitions_cut_out_of_a_device_are_nobodys",
        needs: UDEV,
        run: partitions_cut_out_of_a_device_are_nobodys,
    },
    HostTest {
        name: "udev_links::an_esp_that_is_no_vfat_is_not_ready",
        needs: UDEV,
        run: an_esp_that_is_no_vfat_is_not_ready,
    },
    HostTest {
        name: "udev_links::the_root_of_the_machine_is_linked_in_an_initrd",
        needs: UDEV,
        run: the_root_of_the_machine_is_linked_in_an_initrd,
    },
    HostTest {
        name: "udev_links::without_the_helper_nothing_is_linked",
        needs: UDEV,
        run: without_the_helper_nothing_is_linked,
    },
    HostTest {
        name: "udev_links::a_device_in_use_keeps_its_links",
        needs: &[
            Need::Root,
            Need::LoopDevices,
            Need::Udevd,
            Need::Tool("mksquashfs"),
            Need::FileSystem("squashfs"),
        ],
        run: a_device_in_use_keeps_its_links,
    },
];

/// Where udev looks for rules that are not installed for good.
const RULES: &str = "/run/udev/rules.d";
/// How long udevd may take to start, to settle and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// What exists in an initrd alone.
const INITRD_RELEASE: &str = "/etc/initrd-release";

/// A udev daemon of our own with the machine's rules and ours; it stops with its value, and what it made goes.
pub(crate) struct Udevd {
    process: Child,
    _helper: TempDir,
    made_run: bool,
    made_disk: bool,
}

impl Udevd {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let helper = tempfile::tempdir().unwrap();
        let program = helper.path().join("ddictl-udev-helper");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ddictl"), &program).unwrap();
        Self::start_with(helper, &program)
    }

    fn start_with(helper: TempDir, program: &Path) -> Self {
        let (made_run, made_disk) = (!fs::exists("/run/udev").unwrap(), !fs::exists("/dev/disk").unwrap());
        fs::create_dir_all(RULES).unwrap();
        for name in ["59-ddictl.rules", "61-ddictl.rules"] {
            let rules = fs::read_to_string(harness::in_source_tree("udev-rules").join(name)).unwrap();
            let rules = rules.replace("\"ddictl-udev-helper ", &format!("\"{} ", program.display()));
            fs::write(Path::new(RULES).join(name), rules).unwrap();
        }
        let process = Command::new(harness::udevd().unwrap())
            .args(["--children-max=4", "--resolve-names=never"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self { process, _helper: helper, made_run, made_disk };
        let deadline = Instant::now() + PATIENCE;
        while !Command::new("udevadm")
            .args(["control", "--ping", "--timeout=5"])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            assert!(Instant::now() < deadline, "udevd does not answer");
            pause();
        }
        started
    }

    /// Waits until it has nothing left to do.
    pub(crate) fn settle(&self) {
        succeed(Command::new("udevadm").args(["settle", "--timeout=60"]));
    }

    /// Has it look at a device with this name of the kernel's again, and waits.
    pub(crate) fn trigger(&self, kernel_name: &str) {
        succeed(Command::new("udevadm").args([
            "trigger",
            "--settle",
            "--action=change",
            &format!("/sys/block/{kernel_name}"),
        ]));
        self.settle();
    }
}

impl Drop for Udevd {
    fn drop(&mut self) {
        // A test that failed already must not hide why; what is left behind is noticed after it.
        let _ = Command::new("udevadm").args(["settle", "--timeout=60"]).status();
        let _ = Command::new("udevadm").args(["control", "--exit", "--timeout=60"]).status();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            pause();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // It does not remove its socket, and whoever finds one waits for a daemon.
        let _ = fs::remove_file("/run/udev/control");
        if self.made_run {
            let _ = fs::remove_dir_all("/run/udev");
        }
        for name in ["59-ddictl.rules", "61-ddictl.rules"] {
            let _ = fs::remove_file(Path::new(RULES).join(name));
        }
        if self.made_disk {
            let _ = fs::remove_dir_all("/dev/disk");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no event for a daemon that begins or ends to answer")]
fn pause() {
    thread::sleep(Duration::from_millis(20));
}

/// Every link below `/dev/disk`, and `/dev/gpt-auto-root`, that leads to a loop device, a partition of one or a device of
/// the device mapper: the link and the device.
pub(crate) fn links() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/dev/disk")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path())
            } else {
                found.push(entry.path())
            }
        }
    }
    found.push(PathBuf::from("/dev/gpt-auto-root"));
    let mut links: Vec<_> = found
        .into_iter()
        .filter_map(|link| {
            let target = fs::read_link(&link).ok()?;
            let kernel_name = target.file_name()?.to_str()?;
            let name = link.strip_prefix("/dev").ok()?.display().to_string();
            // udev gives every device one by its sequence number, also a loop device that shows nothing.
            let shows_nothing = fs::exists(format!("/sys/block/{kernel_name}")).ok()?
                && !fs::exists(format!("/sys/block/{kernel_name}/loop")).ok()?;
            let is_mapped = kernel_name.starts_with("dm-");
            let is_loop =
                kernel_name.starts_with("loop") && !(shows_nothing && name.starts_with("disk/by-diskseq/"));
            (is_loop || is_mapped).then(|| (name, format!("/dev/{kernel_name}")))
        })
        .collect();
    links.sort();
    links
}

/// What udev's database has of a device with this name of the kernel's, `KEY=value` a line.
pub(crate) fn properties(kernel_name: &str) -> Vec<String> {
    let text = succeed(Command::new("udevadm").args([
        "info",
        "--query=property",
        &format!("/sys/block/{kernel_name}"),
    ]));
    text.lines().map(str::to_owned).collect()
}

fn is_ready(kernel_name: &str) -> bool {
    !properties(kernel_name).iter().any(|line| line == "SYSTEMD_READY=0")
}

fn linked(names: &[&str], device: &str) -> Vec<(String, String)> {
    let mut links: Vec<_> =
        names.iter().map(|name| (format!("disk/by-loop-ref/{name}"), device.to_owned())).collect();
    links.sort();
    links
}

fn an_attachment_has_its_links_and_no_others() {
    let sealed = Sealed::with_esp();
    let udevd = Udevd::start();
    let attached = sealed.attached(&["--image-policy=*"]);
    // They are there when the command returns.
    let there = links();
    let said = text(&attached.output.stderr);
    assert!(!said.contains("warning"), "{said}");
    let paths = attached.paths();
    let mut expected = linked(&["under-test.raw-part1", "under-test.raw-esp"], &paths[0]);
    expected.extend(linked(&["under-test.raw-part2", "under-test.raw-root"], &paths[1]));
    expected.sort();
    assert_eq!(there, expected);
    udevd.settle();
    let used = ["esp", "root"].map(|designator| attached.kernel_name_of(designator));
    let below = attached.devices().into_iter().map(|device| format!("loop{}", device.number));
    let below: Vec<String> = below.filter(|name| !used.contains(name)).collect();
    assert_eq!(below.len(), if has_dm_verity() { 2 } else { 0 });
    for name in used.iter().chain(&below) {
        udevd.trigger(name);
        let properties = properties(name);
        // What another device stands on is for nobody else.
        assert_eq!(is_ready(name), used.contains(name), "{name}");
        assert!(
            properties.contains(&"UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1".to_owned()),
            "{properties:?}"
        );
        let probed = ["ID_FS_", "ID_PART_", "ID_LOOP_", "ID_SERIAL"];
        let mut known: Vec<&str> = properties
            .iter()
            .filter(|line| probed.iter().any(|key| line.starts_with(key)))
            .map(String::as_str)
            .collect();
        known.sort_unstable();
        // Of a device of the device mapper we say what the plan found, and nothing that is read from it now.
        let expected: &[&str] = match name.starts_with("dm-") {
            true => &["ID_FS_TYPE=squashfs", "ID_FS_USAGE=filesystem"],
            false => &[],
        };
        assert_eq!(known, expected, "{name}");
    }
    assert_eq!(links(), expected);
    drop(attached);
    assert_eq!(links(), [], "gone when the command returns");
}

fn a_name_is_encoded() {
    let sealed = Sealed::new();
    let _udevd = Udevd::start();
    let attached = sealed.attached(&["--loop-ref=a b\\c%\"$ä+:=@"]);
    let encoded = "a\\x20b\\x5cc\\x25\\x22\\x24ä+:=@";
    let names = [format!("{encoded}-part1"), format!("{encoded}-root")];
    assert_eq!(links(), linked(&[&names[0], &names[1]], &attached.paths()[0]));
}

const RECORDS: &str = "/run/ddictl/attachments";

fn write_record(record: &Value) {
    let name = record["reference"].as_str().unwrap();
    fs::write(Path::new(RECORDS).join(format!("{name}.json")), record.to_string()).unwrap();
}

fn a_record_that_does_not_fit_makes_no_link() {
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let attached = sealed.attached(&[]);
    let right = attached.record();
    let name = attached.kernel_name_of("root");
    let there = linked(&["under-test.raw-part1", "under-test.raw-root"], &attached.paths()[0]);
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut record = right.clone();
        edit(&mut record);
        record
    };
    assert_eq!(right["devices"][0]["mappers"].as_array().map(Vec::len), has_dm_verity().then_some(1));
    // A process that died long ago: no process has this number and began with the machine.
    let dead = json!({"pid": 4_194_303, "start_time": 1});
    let mut wrong: Vec<(&str, Value)> = vec![
        ("pending", with(&|record| record["state"] = json!("pending"))),
        ("stopping", with(&|record| record["state"] = json!("stopping"))),
        ("another inode", with(&|record| record["image"]["inode"] = json!(1))),
        ("another file system", with(&|record| record["image"]["device"] = json!("8:1"))),
        ("another disk sequence number", with(&|record| record["devices"][0]["disk_sequence"] = json!(1))),
        ("another device", with(&|record| record["devices"][0]["device"] = json!("7:4000"))),
        ("another offset", with(&|record| record["devices"][0]["offset"] = json!(512))),
        ("another size", with(&|record| record["devices"][0]["size"] = json!(512))),
        ("no device of that name", with(&|record| record["devices"] = json!([]))),
        ("a designator that is none", with(&|record| record["devices"][0]["designator"] = json!("../sda"))),
        (
            "not whole, and its maker dead",
            with(&|record| {
                record["owner"] = dead.clone();
                let other = record["devices"][0].clone();
                record["devices"].as_array_mut().unwrap().push(other);
                record["devices"][1]["reference"] = json!("under-test.raw-part9");
                record["devices"][1]["loops"][0]["reference"] = json!("under-test.raw-part9");
            }),
        ),
        ("another loop device", with(&|record| record["devices"][0]["loops"][0]["device"] = json!("7:4000"))),
        ("another use of the loop device", {
            with(&|record| record["devices"][0]["loops"][0]["disk_sequence"] = json!(1))
        }),
    ];
    if has_dm_verity() {
        let mapper = |key: &str, value: Value| {
            with(&|record| {
                // Both, so that the record agrees with itself and it is the kernel's word that counts.
                if right["devices"][0].get(key).is_some() {
                    record["devices"][0][key] = value.clone();
                }
                record["devices"][0]["mappers"][0][key] = value.clone();
            })
        };
        wrong.extend([
            ("another name", mapper("name", json!("under-test.raw-usr"))),
            ("another UUID", mapper("uuid", json!("CRYPT-VERITY-0-under-test.raw-root"))),
            ("another mapped device", mapper("device", json!("253:4000"))),
            ("another use of the mapped device", mapper("disk_sequence", json!(1))),
            ("another hash device", {
                with(&|record| record["devices"][0]["loops"][1]["disk_sequence"] = json!(1))
            }),
            ("no mapped device at all", with(&|record| record["devices"][0]["mappers"] = json!([]))),
        ]);
    }
    for (what, record) in wrong {
        write_record(&record);
        udevd.trigger(&name);
        let (found, ready) = (links(), is_ready(&name));
        write_record(&right);
        udevd.trigger(&name);
        assert_eq!((found, ready), (vec![], false), "{what}");
        assert_eq!((links(), is_ready(&name)), (there.clone(), true), "{what}");
    }
    // A file that is no record at all.
    fs::write(Path::new(RECORDS).join("under-test.raw.json"), "{").unwrap();
    udevd.trigger(&name);
    let (found, ready) = (links(), is_ready(&name));
    write_record(&right);
    assert_eq!((found, ready), (vec![], false));
}

fn foreign_devices_have_links_by_name_and_inode() {
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let foreign = Foreign::attach(&sealed.image(), "some image");
    let (number, status) = (foreign.number(), foreign.status());
    udevd.trigger(&format!("loop{number}"));
    let device = format!("/dev/loop{number}");
    let by_inode = format!("disk/by-loop-inode/{}-{}", status.backing_device, status.backing_inode);
    let ours = |links: Vec<(String, String)>| -> Vec<(String, String)> {
        links.into_iter().filter(|(name, _)| name.contains("by-loop-")).collect()
    };
    let expected = vec![
        (by_inode.clone(), device.clone()),
        ("disk/by-loop-ref/some\\x20image".to_owned(), device.clone()),
    ];
    assert_eq!(ours(links()), expected);
    // The partitions have them too.
    let added = Command::new("addpart").args([&device, "3", "64", "64"]).status().unwrap();
    udevd.settle();
    let with_partition = ours(links());
    let deleted = Command::new("delpart").args([&device, "3"]).status().unwrap();
    udevd.settle();
    assert!(added.success() && deleted.success());
    let mut expected = expected;
    expected.extend([
        (format!("{by_inode}-part3"), format!("{device}p3")),
        ("disk/by-loop-ref/some\\x20image-part3".to_owned(), format!("{device}p3")),
    ]);
    expected.sort();
    assert_eq!(with_partition, expected);
    drop(foreign);
    udevd.settle();
    assert_eq!(ours(links()), []);
    // A name that only a part of an attachment has is no foreign device's.
    for name in ["image-root", "image-part2"] {
        let foreign = Foreign::attach(&sealed.image(), name);
        udevd.trigger(&format!("loop{}", foreign.number()));
        let found = ours(links());
        assert_eq!(found, [(by_inode.clone(), format!("/dev/loop{}", foreign.number()))], "{name}");
        drop(foreign);
        udevd.settle();
    }
}

fn a_foreign_device_cannot_take_a_link_of_ours() {
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let attached = sealed.attached(&[]);
    let there = linked(&["under-test.raw-part1", "under-test.raw-root"], &attached.paths()[0]);
    for name in ["under-test.raw", "under-test.raw-part1", "under-test.raw-root", "under-test.raw-part2"] {
        let foreign = Foreign::attach(&sealed.image(), name);
        let kernel_name = format!("loop{}", foreign.number());
        udevd.trigger(&kernel_name);
        let (found, ready) = (links(), is_ready(&kernel_name));
        drop(foreign);
        udevd.settle();
        assert_eq!((found, ready), (there.clone(), false), "{name}");
    }
    udevd.trigger(&attached.kernel_name_of("root"));
    assert_eq!(links(), there);
}

fn partitions_cut_out_of_a_device_are_nobodys() {
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let attached = sealed.attached(&[]);
    let there = links();
    if has_dm_verity() {
        // From a device of the device mapper the kernel cuts nothing: what is left is the one below.
        let output = Command::new("addpart").args([&attached.paths()[0], "1", "0", "2048"]).output().unwrap();
        assert!(!output.status.success(), "{output:?}");
    }
    let device = format!("/dev/loop{}", attached.devices()[0].number);
    let added = Command::new("addpart").args([&device, "1", "0", "2048"]).status().unwrap();
    udevd.settle();
    let name = device.trim_start_matches("/dev/").to_owned();
    let partition = succeed(Command::new("udevadm").args([
        "info",
        "--query=property",
        &format!("/sys/block/{name}/{name}p1"),
    ]));
    let found = links();
    let deleted = Command::new("delpart").args([&device, "1"]).status().unwrap();
    assert!(added.success() && deleted.success());
    assert_eq!(found, there);
    assert!(partition.contains("SYSTEMD_READY=0") && !partition.contains("ID_FS_"), "{partition}");
}

fn an_esp_that_is_no_vfat_is_not_ready() {
    let sealed = Sealed::with_esp();
    let udevd = Udevd::start();
    let attached = sealed.attached(&["--image-policy=*"]);
    let name = attached.kernel_name_of("root");
    // What lies in the root is called an ESP, and what was the ESP is gone.
    let right = attached.record();
    let mut record = right.clone();
    record["devices"][1]["designator"] = json!("xbootldr");
    write_record(&record);
    udevd.trigger(&name);
    let (found, ready, said) = (links(), is_ready(&name), properties(&name));
    write_record(&right);
    assert_eq!(found, linked(&["under-test.raw-part1", "under-test.raw-esp"], &attached.paths()[0]));
    assert!(!ready && said.iter().any(|line| line.contains("vfat")), "{said:?}");
}

fn the_root_of_the_machine_is_linked_in_an_initrd() {
    assert!(!fs::exists(INITRD_RELEASE).unwrap(), "this is an initrd");
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let attached = sealed.attached(&["--loop-ref=rootdisk.raw"]);
    let device = &attached.paths()[0];
    let outside = linked(&["rootdisk.raw-part1", "rootdisk.raw-root"], device);
    assert_eq!(links(), outside);
    fs::write(INITRD_RELEASE, "").unwrap();
    udevd.trigger(&attached.kernel_name_of("root"));
    let inside = links();
    fs::remove_file(INITRD_RELEASE).unwrap();
    let mut expected = outside;
    expected
        .extend(["disk/by-designator/root", "gpt-auto-root"].map(|name| (name.to_owned(), device.clone())));
    expected.sort();
    assert_eq!(inside, expected);
}

fn without_the_helper_nothing_is_linked() {
    let sealed = Sealed::new();
    let empty = tempfile::tempdir().unwrap();
    let absent = empty.path().join("ddictl-udev-helper");
    let udevd = Udevd::start_with(empty, &absent);
    let attached = sealed.attached(&[]);
    let said = text(&attached.output.stderr);
    assert!(said.contains("udev made no link /dev/disk/by-loop-ref/under-test.raw-part1"), "{said}");
    assert!(said.contains("udev made no link /dev/disk/by-loop-ref/under-test.raw-root"), "{said}");
    udevd.settle();
    assert_eq!((links(), is_ready(&attached.kernel_name_of("root"))), (vec![], false));
}

fn a_device_in_use_keeps_its_links() {
    let sealed = Sealed::new();
    let udevd = Udevd::start();
    let attached = sealed.attached(&[]);
    let there = links();
    let device = attached.kernel_name_of("root");
    // Held for itself alone, as another mount namespace would: nothing tells who it is.
    let holder = {
        use std::os::unix::fs::OpenOptionsExt;
        fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(&attached.paths()[0]).unwrap()
    };
    let said = fail(ddictl().args(["detach", "under-test.raw"]), 1);
    udevd.settle();
    let (found, ready) = (links(), is_ready(&device));
    drop(holder);
    assert!(said.contains("in use"), "{said}");
    assert_eq!((found, ready, there.len()), (there, true, 2));
}
