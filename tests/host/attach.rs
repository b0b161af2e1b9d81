//! Attaching image files: which bytes become devices, under which names, and what is left afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ddictl::kernel::loop_device::{LoopStatus, list};
use serde_json::Value;
use tempfile::TempDir;

use crate::faults::has_dm_verity;
use crate::gpt_builder::GptBuilder;
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::repart::succeed;

/// What sealing an image and attaching it need.
pub(crate) const ATTACH: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("mkfs.vfat"),
];

/// The type of a root partition for x86-64, and of one for this machine elsewhere.
const ROOT: u128 = if cfg!(target_arch = "aarch64") {
    0xb921b045_1df0_41c3_af44_4c6f280d3fae
} else {
    0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709
};

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "attach::a_device_shows_the_hashed_area_and_nothing_else",
        needs: ATTACH,
        run: a_device_shows_the_hashed_area_and_nothing_else,
    },
    HostTest {
        name: "attach::the_root_can_be_mounted_and_read",
        needs: &[Need::Root, Need::LoopDevices, Need::Tool("mksquashfs"), Need::FileSystem("squashfs")],
        run: the_root_can_be_mounted_and_read,
    },
    HostTest {
        name: "attach::every_word_for_an_attachment_detaches_it",
        needs: ATTACH,
        run: every_word_for_an_attachment_detaches_it,
    },
    HostTest {
        name: "attach::a_device_in_use_is_left_as_it_is",
        needs: &[Need::Root, Need::LoopDevices, Need::Tool("mksquashfs"), Need::FileSystem("squashfs")],
        run: a_device_in_use_is_left_as_it_is,
    },
    HostTest {
        name: "attach::names_that_cannot_be_given_are_refused",
        needs: ATTACH,
        run: names_that_cannot_be_given_are_refused,
    },
    HostTest { name: "attach::a_name_is_given_once", needs: ATTACH, run: a_name_is_given_once },
    HostTest {
        name: "attach::of_several_at_once_each_name_goes_to_one",
        needs: ATTACH,
        run: of_several_at_once_each_name_goes_to_one,
    },
    HostTest {
        name: "attach::what_the_policy_leaves_out_is_not_there",
        needs: ATTACH,
        run: what_the_policy_leaves_out_is_not_there,
    },
    HostTest {
        name: "attach::an_image_without_a_table_is_one_device",
        needs: ATTACH,
        run: an_image_without_a_table_is_one_device,
    },
    HostTest {
        name: "attach::bytes_behind_the_last_sector_belong_to_no_device",
        needs: ATTACH,
        run: bytes_behind_the_last_sector_belong_to_no_device,
    },
    HostTest {
        name: "attach::a_table_of_large_sectors_makes_devices_of_large_blocks",
        needs: ATTACH,
        run: a_table_of_large_sectors_makes_devices_of_large_blocks,
    },
    HostTest {
        name: "attach::the_file_may_change_once_it_is_attached",
        needs: ATTACH,
        run: the_file_may_change_once_it_is_attached,
    },
    HostTest {
        name: "attach::a_record_that_cannot_be_read_keeps_its_name",
        needs: ATTACH,
        run: a_record_that_cannot_be_read_keeps_its_name,
    },
    HostTest {
        name: "attach::nothing_to_attach_is_an_error",
        needs: ATTACH,
        run: nothing_to_attach_is_an_error,
    },
];

/// A directory with a signed image `under-test.raw`, and the certificate of its key.
pub(crate) struct Sealed {
    directory: TempDir,
}

/// What its root holds in `/usr/lib/os-release`.
pub(crate) const OS_RELEASE: &str = "ID=attach-test\n";

impl Sealed {
    /// An image with a signed squashfs root.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// An image with an ESP in front of the root.
    pub(crate) fn with_esp() -> Self {
        Self::with(&["--esp=esp"])
    }

    fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("tree/usr/lib")).unwrap();
        fs::write(path.join("tree/usr/lib/os-release"), OS_RELEASE).unwrap();
        // Larger than one block of hashes has room for.
        let noise: Vec<u8> =
            (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(path.join("tree/noise"), noise).unwrap();
        fs::create_dir(path.join("esp")).unwrap();
        fs::write(path.join("esp/loader.conf"), "timeout 0\n").unwrap();
        succeed(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "3",
                    "-subj",
                    "/CN=attach test",
                ])
                .args(["-keyout", "k.key", "-out", "k.crt"])
                .current_dir(path),
        );
        succeed(
            ddictl()
                .args(["seal", "--private-key=k.key", "--certificate=k.crt"])
                .args(arguments)
                .args(["tree", "under-test.raw"])
                .current_dir(path),
        );
        Self { directory }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The image.
    pub(crate) fn image(&self) -> PathBuf {
        self.path().join("under-test.raw")
    }

    /// `ddictl attach --in-memory` of the image, whose certificate is trusted, without the name of the image yet.
    pub(crate) fn attach(&self) -> Command {
        let mut command = self.attach_from_disk();
        command.arg("--in-memory");
        command
    }

    /// The same of the image as it lies on the disk.
    pub(crate) fn attach_from_disk(&self) -> Command {
        let mut command = ddictl();
        command.arg("attach").arg(format!("--certificate={}", self.path().join("k.crt").display()));
        command
    }

    /// Attaches the image with these arguments, which must succeed.
    pub(crate) fn attached(&self, arguments: &[&str]) -> Attached {
        Attached::by(self.attach().args(arguments).arg(self.image()))
    }

    /// What the table says of the image, as `ddictl dissect` prints it.
    pub(crate) fn partitions(&self) -> Vec<Value> {
        let text = succeed(ddictl().args(["dissect", "--json=short"]).arg(self.image()));
        serde_json::from_str::<Value>(&text).unwrap()["partitions"].as_array().unwrap().clone()
    }

    /// The extent of the table entry for this designator: number, offset, size.
    fn entry(&self, designator: &str) -> (u64, u64, u64) {
        let partitions = self.partitions();
        let found = partitions.iter().find(|partition| partition["designator"] == designator).unwrap();
        let number = |key: &str| found[key].as_u64().unwrap();
        (number("number"), number("offset"), number("size"))
    }

    /// Offset and length of the bytes of the root that are hashed, by the verity superblock.
    pub(crate) fn hashed_area(&self) -> (u64, u64) {
        let mut superblock = [0; 512];
        File::open(self.image())
            .unwrap()
            .read_exact_at(&mut superblock, self.entry("root-verity").1)
            .unwrap();
        assert_eq!(&superblock[..8], b"verity\0\0");
        let block_size = u32::from_le_bytes(superblock[64..68].try_into().unwrap());
        let blocks = u64::from_le_bytes(superblock[72..80].try_into().unwrap());
        (self.entry("root").1, blocks * u64::from(block_size))
    }
}

/// An attachment that goes with its value.
pub(crate) struct Attached {
    /// What was printed.
    pub(crate) output: Output,
    reference: String,
}

impl Attached {
    /// Runs a command that attaches, and must succeed.
    pub(crate) fn by(command: &mut Command) -> Self {
        let before = references();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
        let new: Vec<String> = references().into_iter().filter(|name| !before.contains(name)).collect();
        assert_eq!(new.len(), 1, "{new:?}");
        Self { output, reference: new[0].clone() }
    }

    /// The device paths on standard output.
    pub(crate) fn paths(&self) -> Vec<String> {
        text(&self.output.stdout).lines().map(str::to_owned).collect()
    }

    /// The record, as `ddictl list` prints it.
    pub(crate) fn record(&self) -> Value {
        records().into_iter().find(|record| record["reference"] == self.reference.as_str()).unwrap()
    }

    /// What the record says of the device for this designator.
    pub(crate) fn device_of(&self, designator: &str) -> Value {
        let record = self.record();
        let devices = record["devices"].as_array().unwrap();
        devices.iter().find(|device| device["designator"] == designator).unwrap().clone()
    }

    /// The kernel's name of the device for this designator: `loopN`, or `dm-N` where dm-verity guards it.
    pub(crate) fn kernel_name_of(&self, designator: &str) -> String {
        let path = self.device_of(designator)["path"].as_str().unwrap().to_owned();
        path.strip_prefix("/dev/").unwrap().to_owned()
    }

    /// The loop devices as the kernel has them, also those that others stand on.
    pub(crate) fn devices(&self) -> Vec<LoopStatus> {
        let prefix = format!("{}-", self.reference);
        let ours = |status: &LoopStatus| {
            status.reference().is_some_and(|name| name == self.reference || name.starts_with(&prefix))
        };
        list().unwrap().into_iter().filter(ours).collect()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // A test that failed already must not hide why.
        let detached = ddictl().args(["detach", &self.reference]).output();
        if !std::thread::panicking() {
            let detached = detached.unwrap();
            assert!(detached.status.success(), "{}", text(&detached.stderr));
        }
    }
}

/// How many loop devices a verified partition takes: one with its bytes alone, or one more with the hashes where dm-verity
/// stands on both.
pub(crate) fn loops_of_verified() -> usize {
    if has_dm_verity() { 2 } else { 1 }
}

/// What a device is by a file of its directory in sysfs.
fn sysfs(kernel_name: &str, file: &str) -> String {
    fs::read_to_string(format!("/sys/block/{kernel_name}/{file}")).unwrap().trim().to_owned()
}

/// Everything that is attached.
fn records() -> Vec<Value> {
    let text = succeed(ddictl().args(["list", "--json=short"]));
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
}

/// The references of everything that is attached, in their order.
pub(crate) fn references() -> Vec<String> {
    records().iter().map(|record| record["reference"].as_str().unwrap().to_owned()).collect()
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must fail with this status, and gives what it says.
pub(crate) fn fail(command: &mut Command, status: i32) -> String {
    let before = MachineState::now();
    let known = references();
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    if output.status.success() {
        for new in references().iter().filter(|name| !known.contains(name)) {
            succeed(ddictl().args(["detach", new]));
        }
    }
    assert_eq!(output.status.code(), Some(status), "{command:?}: {said}");
    assert_eq!(text(&output.stdout), "", "{command:?}");
    assert_eq!(before.difference(&MachineState::now()), None, "{command:?}");
    said
}

fn read_at(file: &Path, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    File::open(file).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn a_device_shows_the_hashed_area_and_nothing_else() {
    let sealed = Sealed::with_esp();
    let before = list().unwrap();
    let attached = sealed.attached(&[]);
    let loops: Vec<LoopStatus> = list().unwrap().into_iter().filter(|d| !before.contains(d)).collect();
    assert_eq!(loops.len(), loops_of_verified(), "{loops:?}");
    let kernel_name = attached.kernel_name_of("root");
    let path = format!("/dev/{kernel_name}");
    assert_eq!(text(&attached.output.stdout), format!("{path}\n"));
    assert!(text(&attached.output.stderr).contains("no udevd is running"), "{:?}", attached.output);

    // The loop devices: the hashed area, and where dm-verity stands on it, the hash tree.
    let (offset, length) = sealed.hashed_area();
    let number = sealed.entry("root").0;
    let data = &loops[0];
    assert_eq!((data.offset.bytes(), data.size_limit.bytes()), (offset, length));
    let name = format!("under-test.raw-part{number}");
    // What has dm-verity on it goes with that.
    if let Some(hash) = loops.get(1) {
        assert_eq!(data.reference(), Some(format!("{name}.data").as_str()));
        assert_eq!(hash.reference(), Some(format!("{name}.hash").as_str()));
        assert!(hash.read_only && hash.autoclear && data.autoclear);
        let (_, hash_offset, hash_size) = sealed.entry("root-verity");
        assert_eq!(hash.offset.bytes(), hash_offset);
        assert!((1..=hash_size).contains(&hash.size_limit.bytes()), "{hash:?}");
        assert_eq!(kernel_name.split_once('-').map(|(kind, _)| kind), Some("dm"));
        assert_eq!(sysfs(&kernel_name, "dm/name"), "under-test.raw-root");
        let uuid = sysfs(&kernel_name, "dm/uuid");
        assert!(uuid.starts_with("CRYPT-VERITY-") && uuid.ends_with("-under-test.raw-root"), "{uuid}");
    } else {
        assert_eq!(data.reference(), Some(name.as_str()));
        assert!(!data.autoclear);
        assert_eq!(kernel_name, format!("loop{}", data.number));
    }
    assert!(data.read_only);
    for device in &loops {
        let name = format!("loop{}", device.number);
        assert_eq!(sysfs(&name, "size"), (device.size_limit.bytes() / 512).to_string());
        assert_eq!(sysfs(&name, "loop/partscan"), "0");
        let file = sysfs(&name, "loop/backing_file");
        assert!(file.contains("memfd:ddictl"), "{file}");
    }

    // The device.
    assert_eq!(sysfs(&kernel_name, "size"), (length / 512).to_string());
    // dm-verity reads blocks as large as those that it has hashes of.
    let block_size = if has_dm_verity() { "4096" } else { "512" };
    assert_eq!(
        (sysfs(&kernel_name, "ro").as_str(), sysfs(&kernel_name, "queue/logical_block_size").as_str()),
        ("1", block_size)
    );
    assert_eq!(fs::read(&path).unwrap(), read_at(&sealed.image(), offset, length));
    let written = OpenOptions::new().write(true).open(&path).and_then(|node| node.write_at(&[0; 4096], 0));
    assert!(written.is_err(), "{written:?}");

    let record = attached.record();
    assert_eq!(record["state"], "ready");
    assert!(record["owner"].is_null());
    assert_eq!(record["image"]["source"], sealed.image().to_str().unwrap());
    assert_eq!(record["image"]["inode"], data.backing_inode);
    let recorded = &record["devices"][0];
    assert_eq!(recorded["path"], path);
    assert_eq!(recorded["device"], sysfs(&kernel_name, "dev"));
    assert_eq!(recorded["disk_sequence"].to_string(), sysfs(&kernel_name, "diskseq"));
    assert_eq!(
        (recorded["designator"].as_str(), recorded["protection"].as_str()),
        (Some("root"), Some("signed"))
    );
    assert_eq!((recorded["offset"].as_u64(), recorded["size"].as_u64()), (Some(offset), Some(length)));
    let below = recorded["loops"].as_array().unwrap();
    assert_eq!(below.len(), loops.len());
    for (recorded, device) in below.iter().zip(&loops) {
        assert_eq!(recorded["path"], format!("/dev/loop{}", device.number));
        assert_eq!(recorded["disk_sequence"], device.disk_sequence);
        assert_eq!(recorded["reference"].as_str(), device.reference());
    }
    let table = succeed(ddictl().arg("list"));
    assert!(table.contains(&path) && table.contains("under-test.raw-part"), "{table}");
}

fn the_root_can_be_mounted_and_read() {
    let sealed = Sealed::new();
    let attached = sealed.attached(&[]);
    let directory = tempfile::tempdir().unwrap();
    succeed(Command::new("mount").args(["-o", "ro", &attached.paths()[0]]).arg(directory.path()));
    let read = fs::read_to_string(directory.path().join("usr/lib/os-release"));
    succeed(Command::new("umount").arg(directory.path()));
    assert_eq!(read.unwrap(), OS_RELEASE);
}

fn every_word_for_an_attachment_detaches_it() {
    let sealed = Sealed::new();
    let number = sealed.entry("root").0;
    let words: [&dyn Fn(&Attached) -> String; 7] = [
        &|_| "a name".to_owned(),
        &|attached| attached.paths()[0].clone(),
        &|_| sealed.image().display().to_string(),
        &|_| format!("a name-part{number}"),
        &|_| "a name-root".to_owned(),
        &|_| format!("/dev/disk/by-loop-ref/a\\x20name-part{number}"),
        &|_| "/dev/disk/by-loop-ref/a\\x20name-root".to_owned(),
    ];
    for word in words {
        let attached = sealed.attached(&["--loop-ref=a name"]);
        let word = word(&attached);
        assert_eq!(succeed(ddictl().args(["detach", &word])), "", "{word}");
        assert_eq!(attached.devices(), [], "{word}");
        assert!(!references().contains(&"a name".to_owned()), "{word}");
        // A second time there is nothing to do, which is said and no error.
        let again = ddictl().args(["detach", &word]).output().unwrap();
        assert_eq!(again.status.code(), Some(0), "{word}");
        assert!(text(&again.stderr).contains("is not attached"), "{word}: {}", text(&again.stderr));
    }
    let others = !references().is_empty();
    assert_eq!(fs::exists("/run/ddictl").unwrap(), others, "the state of nothing is nothing");
}

fn a_device_in_use_is_left_as_it_is() {
    let sealed = Sealed::new();
    let attached = sealed.attached(&[]);
    let directory = tempfile::tempdir().unwrap();
    succeed(Command::new("mount").args(["-o", "ro", &attached.paths()[0]]).arg(directory.path()));
    let (record, devices) = (attached.record(), attached.devices());
    let said = panic_free(|| fail(ddictl().args(["detach", "under-test.raw"]), 1));
    let (record_after, devices_after) = (attached.record(), attached.devices());
    succeed(Command::new("umount").arg(directory.path()));
    assert!(said.unwrap().contains(directory.path().to_str().unwrap()));
    assert_eq!((record_after, devices_after), (record, devices));
}

/// The value, or the message of the panic: so that what follows can clean up first.
fn panic_free<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(run))
        .map_err(|payload| payload.downcast_ref::<String>().cloned().unwrap_or_default())
}

fn names_that_cannot_be_given_are_refused() {
    let sealed = Sealed::new();
    let long = "x".repeat(63);
    let long_with_suffix = "x".repeat(52);
    for name in [
        "image-part2",
        "image-root",
        "image-usr-verity",
        "",
        ".",
        "..",
        "a/b",
        "a\nb",
        &long,
        &long_with_suffix,
    ] {
        let said = fail(sealed.attach().arg(format!("--loop-ref={name}")).arg(sealed.image()), 2);
        assert!(said.contains("loop reference") || said.contains("--loop-ref"), "{name:?}: {said}");
    }
    // The file's own name is no better.
    let odd = sealed.path().join("image-part2");
    fs::copy(sealed.image(), &odd).unwrap();
    assert!(fail(sealed.attach().arg(&odd), 2).contains("--loop-ref="));
    // The longest name that fits: 62 bytes with '-part', the number, and what the device below dm-verity has behind it.
    let fits = "x".repeat(51);
    sealed.attached(&[&format!("--loop-ref={fits}")]);
}

fn a_name_is_given_once() {
    let sealed = Sealed::new();
    let attached = sealed.attached(&[]);
    let said = fail(sealed.attach().arg(sealed.image()), 1);
    assert!(said.contains("the name is taken by the attachment 'under-test.raw'"), "{said}");
    let other = sealed.attached(&["--loop-ref=other"]);
    let said = fail(ddictl().arg("detach").arg(sealed.image()), 1);
    assert!(said.contains("other, under-test.raw"), "{said}");
    let each = loops_of_verified();
    assert_eq!((attached.devices().len(), other.devices().len()), (each, each));
    drop((attached, other));
    // A loop device that somebody else gave the name has it, too.
    for name in ["under-test.raw", "under-test.raw-part7", "under-test.raw-root"] {
        let foreign = Foreign::attach(&sealed.image(), name);
        let said = fail(sealed.attach().arg(sealed.image()), 1);
        assert!(
            said.contains(&format!("/dev/loop{}, which carries the reference '{name}'", foreign.number())),
            "{said}"
        );
    }
    sealed.attached(&[]);
}

/// A loop device that is none of ours: goes with its value.
pub(crate) struct Foreign(ddictl::kernel::loop_device::LoopDevice);

impl Foreign {
    /// Shows the whole file under this reference.
    pub(crate) fn attach(file: &Path, reference: &str) -> Self {
        use std::os::fd::AsFd;
        let file = File::open(file).unwrap();
        let request = ddictl::kernel::loop_device::LoopRequest {
            backing: file.as_fd(),
            extent: None,
            block_size: ddictl::format::units::SectorSize::new(512).unwrap(),
            read_only: true,
            reference,
        };
        Self(ddictl::kernel::loop_device::LoopDevice::configure(&request).unwrap())
    }

    /// The N of `/dev/loopN`.
    pub(crate) fn number(&self) -> u32 {
        self.0.number()
    }

    /// What the kernel says of it.
    pub(crate) fn status(&self) -> LoopStatus {
        self.0.status().unwrap()
    }
}

fn of_several_at_once_each_name_goes_to_one() {
    let sealed = Sealed::new();
    let spawn = |name: &str| {
        let mut command = sealed.attach();
        command.arg(format!("--loop-ref={name}")).arg(sealed.image());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = ["one", "two", "one", "two", "one"].map(|name| (name, spawn(name))).into();
    let finished: Vec<_> =
        running.into_iter().map(|(name, child)| (name, child.wait_with_output().unwrap())).collect();
    let attached: Vec<String> =
        references().into_iter().filter(|name| ["one", "two"].contains(&name.as_str())).collect();
    for name in ["one", "two"] {
        succeed(ddictl().args(["detach", name]));
    }
    assert_eq!(attached, ["one", "two"]);
    for name in ["one", "two"] {
        let mine: Vec<_> =
            finished.iter().filter(|(other, _)| *other == name).map(|(_, output)| output).collect();
        assert_eq!(mine.iter().filter(|output| output.status.code() == Some(0)).count(), 1, "{mine:?}");
        let lost = mine.iter().filter(|output| output.status.code() == Some(1));
        assert!(lost.clone().all(|output| text(&output.stderr).contains("the name is taken")), "{mine:?}");
        assert_eq!(lost.count(), mine.len() - 1, "{mine:?}");
    }
}

fn what_the_policy_leaves_out_is_not_there() {
    let sealed = Sealed::with_esp();
    assert_eq!(sealed.attached(&[]).devices().len(), loops_of_verified());
    let attached = sealed.attached(&["--image-policy=*"]);
    let found: Vec<_> =
        attached.devices().iter().map(|d| (d.offset.bytes(), d.size_limit.bytes(), d.read_only)).collect();
    let (_, esp_offset, esp_size) = sealed.entry("esp");
    let (root_offset, root_size) = sealed.hashed_area();
    assert_eq!(found.len(), 1 + loops_of_verified(), "{found:?}");
    assert_eq!(found[..2], [(esp_offset, esp_size, true), (root_offset, root_size, true)]);
    let (_, hash_offset, _) = sealed.entry("root-verity");
    assert!(
        found[2..].iter().all(|(offset, _, read_only)| *offset == hash_offset && *read_only),
        "{found:?}"
    );
    assert_eq!(attached.paths().len(), 2);
    let record = attached.record();
    assert_eq!(record["devices"][0]["protection"], "unprotected");
    drop(attached);
    let json = Attached::by(sealed.attach().args(["--json=short", "--image-policy=*"]).arg(sealed.image()));
    let printed: Value = serde_json::from_slice(&json.output.stdout).unwrap();
    assert_eq!(printed, json.record());
}

/// A file with the root of a sealed image alone, of whole sectors and `more` bytes.
fn bare(sealed: &Sealed, more: usize) -> PathBuf {
    let (offset, length) = sealed.hashed_area();
    let mut bytes = read_at(&sealed.image(), offset, length);
    bytes.resize(bytes.len() + more, 0xa5);
    let path = sealed.path().join("bare");
    fs::write(&path, bytes).unwrap();
    path
}

fn an_image_without_a_table_is_one_device() {
    let sealed = Sealed::new();
    let path = bare(&sealed, 0);
    assert!(fail(sealed.attach().arg(&path), 3).contains("verified-boot"));
    let attached = Attached::by(sealed.attach().arg("--image-policy=*").arg(&path));
    let devices = attached.devices();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].reference(), Some("bare"));
    assert_eq!(devices[0].size_limit.bytes(), fs::metadata(&path).unwrap().len());
    assert_eq!(fs::read(&attached.paths()[0]).unwrap(), fs::read(&path).unwrap());
    assert!(attached.record()["devices"][0]["partition"].is_null());
}

fn bytes_behind_the_last_sector_belong_to_no_device() {
    let sealed = Sealed::new();
    let (offset, length) = sealed.hashed_area();
    let path = bare(&sealed, 100);
    for arguments in [&["--image-policy=*"][..], &["--image-policy=*", "--dry-run"]] {
        let said = fail(sealed.attach().args(arguments).arg(&path), 1);
        assert!(said.contains("no multiple of 512"), "{said}");
    }
    OpenOptions::new().append(true).open(sealed.image()).unwrap().write_all(&[0xa5; 100]).unwrap();
    let attached = sealed.attached(&[]);
    assert_eq!(fs::read(&attached.paths()[0]).unwrap(), read_at(&sealed.image(), offset, length));
}

fn a_table_of_large_sectors_makes_devices_of_large_blocks() {
    let sealed = Sealed::new();
    let content = fs::read(bare(&sealed, 0)).unwrap();
    let built = GptBuilder::new(4096).partition(ROOT, 0x1234, "root", 0, content.clone()).build();
    let path = sealed.path().join("large");
    fs::write(&path, &built.bytes).unwrap();
    let attached = Attached::by(sealed.attach().arg("--image-policy=*").arg(&path));
    let devices = attached.devices();
    assert_eq!(devices.len(), 1);
    let size = fs::read_to_string(format!("/sys/block/loop{}/queue/logical_block_size", devices[0].number));
    assert_eq!(size.unwrap().trim(), "4096");
    assert_eq!(devices[0].offset.bytes(), built.partitions[0].offset);
    assert_eq!(fs::read(&attached.paths()[0]).unwrap(), content);
}

fn the_file_may_change_once_it_is_attached() {
    let sealed = Sealed::new();
    let (offset, length) = sealed.hashed_area();
    let expected = read_at(&sealed.image(), offset, length);
    let attached = sealed.attached(&[]);
    let file = OpenOptions::new().write(true).open(sealed.image()).unwrap();
    file.write_all_at(&vec![0xff; usize::try_from(length).unwrap()], offset).unwrap();
    file.set_len(offset + 512).unwrap();
    succeed(Command::new("blockdev").args(["--flushbufs", &attached.paths()[0]]));
    assert_eq!(fs::read(&attached.paths()[0]).unwrap(), expected);
}

fn a_record_that_cannot_be_read_keeps_its_name() {
    let sealed = Sealed::new();
    let attached = sealed.attached(&[]);
    let path = Path::new("/run/ddictl/attachments/under-test.raw.json");
    let record = fs::read(path).unwrap();
    fs::write(path, &record[..record.len() / 2]).unwrap();
    let outcome = panic_free(|| {
        assert!(fail(sealed.attach().arg(sealed.image()), 1).contains("the name is taken"));
        assert!(fail(ddictl().args(["detach", "under-test.raw"]), 1).contains("its record cannot be read"));
        succeed(ddictl().args(["detach", "--stale"]));
    });
    fs::write(path, &record).unwrap();
    outcome.unwrap();
    assert_eq!(attached.devices().len(), loops_of_verified());
}

fn nothing_to_attach_is_an_error() {
    let sealed = Sealed::new();
    let said = fail(sealed.attach().arg("--image-policy==unused+absent").arg(sealed.image()), 1);
    assert!(said.contains("uses no partition"), "{said}");
    let said = fail(sealed.attach().arg("/nonexistent"), 1);
    assert!(said.contains("/nonexistent"), "{said}");
}
