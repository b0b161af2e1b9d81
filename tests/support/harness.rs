//! How a test on a real kernel says what it needs, how it is skipped by name, and how it is held to leave nothing behind.
//!
//! They are the tests of `tests/host`, on the kernel of this machine, and those of `tests/guest`, in a guest.
//!
//! Host tests share one kernel, one `/dev` and one `/run`. So they run one at a time, one process of them at a time, and
//! after each the loop devices, device-mapper devices, mounts, records and links are those from before it.

#![allow(dead_code, reason = "not every set of tests uses all of it")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::fs::DirEntry;
use std::fs::File;
use std::panic;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use libtest_mimic::Arguments;
use libtest_mimic::Completion;
use libtest_mimic::Failed;
use libtest_mimic::Trial;

/// The environment variable that turns every skipped test into a failed one.
const REQUIRE_ALL: &str = "DDICTL_REQUIRE_ALL";

/// The environment variable that is set in a guest, to what its kernel is.
const GUEST: &str = "DDICTL_GUEST";

/// The environment variable that is set in a guest, to the directory of its kernel and modules.
const GUEST_KERNEL: &str = "DDICTL_GUEST_KERNEL";

/// The environment variable that says why this machine has no guests.
const NO_GUEST: &str = "DDICTL_NO_GUEST";

/// Held while host tests run, so that two runs on one machine do not see each other's devices.
const LOCK: &str = "/run/lock/ddictl-host-tests";

/// Where the udev daemon listens.
const UDEV_CONTROL: &str = "/run/udev/control";

/// How long the kernel may take to free what a test has released: udev may still have a loop device open when the last
/// holder of ours lets go, and it is detached only when that is closed too.
const SETTLING: Duration = Duration::from_secs(10);

/// One test of the tier `host` or `guest`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostTest {
    /// What it shows, as a path of words: `attach::a_flipped_bit_is_refused`.
    pub name: &'static str,
    /// What the machine must have; without one of them the test is skipped, and says which.
    pub needs: &'static [Need],
    /// The test: it panics where it fails.
    pub run: fn(),
}

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A path that is not there yet, and that a test may take.
    Absent(&'static str),
    /// User 0, and the right to mount.
    Root,
    /// Loop devices: `/dev/loop-control` can be opened.
    LoopDevices,
    /// The device mapper: `/dev/mapper/control` can be opened.
    DeviceMapper,
    /// A file system that the kernel can mount, as `/proc/filesystems` names it.
    FileSystem(&'static str),
    /// A program in `PATH` or in one of the directories of system programs.
    Tool(&'static str),
    /// The udev daemon's program and `udevadm`, for tests that start their own; and none running yet.
    Udevd,
    /// To run in a guest, see `tests/guest/run`; a test of the tier `guest` needs that anyway.
    Guest,
    /// The tree of Debian unstable with a current systemd-repart, see `tests/support/debian-tree`.
    UnstableTree,
    /// The tree of another Debian suite or of another kind, likewise: the arguments of `tests/support/debian-tree`.
    DebianTree(&'static str),
}

impl Need {
    /// Why this machine does not have it; `None` where it has.
    fn missing(self) -> Option<String> {
        match self {
            Self::Absent(path) => {
                fs::symlink_metadata(path).is_ok().then(|| format!("needs a machine without '{path}'"))
            }
            Self::Root => (!is_root()).then(|| "needs root".to_owned()),
            Self::LoopDevices => cannot_open("/dev/loop-control", "loop devices"),
            Self::DeviceMapper => cannot_open("/dev/mapper/control", "the device mapper"),
            Self::FileSystem(name) => {
                let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
                let found = known.lines().any(|line| line.split_whitespace().last() == Some(name));
                (!found).then(|| format!("needs a kernel with {name}"))
            }
            Self::Tool(name) => tool(name).is_none().then(|| format!("needs the program '{name}'")),
            Self::Udevd => {
                if udevd().is_none() {
                    Some("needs the udev daemon".to_owned())
                } else if fs::symlink_metadata(UDEV_CONTROL).is_ok() {
                    Some("needs a machine on which no udev daemon runs".to_owned())
                } else {
                    tool("udevadm").is_none().then(|| "needs the program 'udevadm'".to_owned())
                }
            }
            Self::Guest => std::env::var_os(GUEST).is_none().then(|| {
                std::env::var(NO_GUEST).map_or_else(
                    |_| "needs a guest, see tests/guest/run".to_owned(),
                    |reason| format!("needs a guest, and this machine has none: {reason}"),
                )
            }),
            Self::UnstableTree => unstable_tree().err(),
            Self::DebianTree(suite) => debian_tree(suite).err(),
        }
    }
}

/// Runs all tests that the command line asks for, one after the other, and says how it went.
pub(crate) fn run(tests: Vec<HostTest>) -> ExitCode {
    run_with(tests, perform)
}

/// The same for tests that may run in a guest alone.
pub(crate) fn run_in_guest(tests: Vec<HostTest>) -> ExitCode {
    run_with(tests, |test| match Need::Guest.missing() {
        Some(reason) => skip(reason),
        None => perform(test),
    })
}

fn run_with(tests: Vec<HostTest>, perform: fn(HostTest) -> Result<Completion, Failed>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let _lock = (!arguments.list).then(lock).flatten();
    let trials =
        tests.into_iter().map(|test| Trial::ignorable_test(test.name, move || perform(test))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The program under test, as cargo built it for this run.
pub(crate) fn ddictl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ddictl"))
}

/// A path in the source tree.
pub(crate) fn in_source_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The udev daemon's program: from systemd 255 on it is udevadm under another name.
pub(crate) fn udevd() -> Option<PathBuf> {
    ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"]
        .map(PathBuf::from)
        .into_iter()
        .find(|program| program.is_file())
}

/// The tree of Debian unstable, built at the first call and cached; the reason where it cannot be had.
pub(crate) fn unstable_tree() -> Result<PathBuf, String> {
    static TREE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    TREE.get_or_init(|| debian_tree("sid")).clone()
}

/// The tree of a Debian suite, and of a kind where one is named, as `tests/support/debian-tree` knows them; the reason where
/// it cannot be had.
pub(crate) fn debian_tree(suite: &str) -> Result<PathBuf, String> {
    let output = Command::new(in_source_tree("tests/support/debian-tree"))
        .args(suite.split_whitespace())
        .output()
        .map_err(|error| format!("running tests/support/debian-tree: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(text(&output.stdout))),
        Some(77) => Err(text(&output.stderr).lines().last().unwrap_or("no reason given").to_owned()),
        _ => panic!("tests/support/debian-tree failed ({}): {}", output.status, text(&output.stderr)),
    }
}

/// A command that runs inside the tree of Debian unstable, with `directory` as its current directory.
pub(crate) fn in_unstable_tree(directory: &Path, program: &str) -> Command {
    let mut command = Command::new(in_source_tree("tests/support/in-tree"));
    command.arg(unstable_tree().unwrap()).arg(directory).arg(program);
    command
}

/// A command that runs inside another tree, with `directory` as its current directory.
pub(crate) fn in_debian_tree(suite: &str, directory: &Path, program: &str) -> Command {
    let mut command = Command::new(in_source_tree("tests/support/in-tree"));
    command.arg(debian_tree(suite).unwrap()).arg(directory).arg(program);
    command
}

/// A command of the tree of Debian unstable as if it were installed in this guest, see `tests/guest/in-tree`.
pub(crate) fn of_unstable_tree(program: &str) -> Command {
    let mut command = Command::new(in_source_tree("tests/guest/in-tree"));
    command.arg(unstable_tree().unwrap()).arg(program);
    command
}

/// A program in `PATH` or in one of the directories of system programs.
pub(crate) fn program(name: &str) -> Command {
    Command::new(tool(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// Where a program lies.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.split_whitespace().take(3).eq(["Uid:", "0", "0"]))
}

fn cannot_open(path: &str, what: &str) -> Option<String> {
    let error = File::options().read(true).write(true).open(path).err()?;
    Some(format!("needs {what}: opening '{path}': {error}"))
}

/// The lock of the machine's host tests; without the right to make it there is nothing to keep apart either.
fn lock() -> Option<File> {
    let file = File::create(LOCK).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Runs one test where the machine has what it needs, and compares the machine before and after it.
pub(crate) fn perform(test: HostTest) -> Result<Completion, Failed> {
    if let Some(reason) = test.needs.iter().find_map(|need| need.missing()) {
        return skip(reason);
    }
    let before = MachineState::now();
    let outcome = panic::catch_unwind(test.run);
    let left = before.difference_once_settled();
    if let Some(kernel) = std::env::var_os(GUEST_KERNEL) {
        if left.is_some() {
            take_down(&before);
        }
        start_afresh(&kernel);
    }
    match (outcome, left) {
        (Ok(()), None) => Ok(Completion::Completed),
        (Ok(()), Some(left)) => Err(Failed::from(left)),
        (Err(payload), left) => {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("panicked");
            Err(Failed::from(
                [Some(text), left.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("\n"),
            ))
        }
    }
}

/// Takes down in a guest what a failed test left, so that the next one is judged by what it does itself.
fn take_down(before: &MachineState) {
    let left = MachineState::now();
    let mut left: Vec<&str> = left.0.difference(&before.0).map(String::as_str).collect();
    // Mounts hold devices, and stand in the order in which they were made.
    let number = |line: &str| line.strip_prefix("mount ")?.split(' ').next()?.parse::<u32>().ok();
    left.sort_by_key(|line| number(line));
    for line in left.into_iter().rev() {
        if let Some(place) = line.strip_prefix("mount ").and_then(|mount| mount.split(' ').nth(4)) {
            let _ = Command::new("umount").arg("--lazy").arg(place).status();
        } else if let Some(path) = line.strip_prefix("file ") {
            let _ = fs::remove_file(path.split(" -> ").next().unwrap_or(path));
        }
    }
    let _ = Command::new("dmsetup").args(["remove_all", "--force"]).status();
    let _ = Command::new("losetup").arg("--detach-all").status();
}

/// Gives a test in a guest a machine on which no udev ran, and a kernel that has had no loop devices yet. A device that
/// shows nothing stays once it was made, and udev has a look at each of them when a later test asks it to look again.
fn start_afresh(kernel: &OsStr) {
    if fs::symlink_metadata(UDEV_CONTROL).is_err() {
        for directory in ["/run/udev", "/dev/disk"] {
            let _ = fs::remove_dir_all(directory);
        }
    }
    let loops = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with("loop");
    if !fs::read_dir("/sys/block").into_iter().flatten().flatten().any(|entry| loops(&entry)) {
        return;
    }
    // Where a device is in use still, the test has failed already, and the next ones find it there.
    if Command::new("rmmod").arg("loop").stderr(Stdio::null()).status().unwrap().success() {
        let status = Command::new("modprobe").arg("-d").arg(kernel).arg("loop").status().unwrap();
        assert!(status.success(), "loading the loop devices again: {status}");
    }
}

/// What becomes of a test that lacks something.
pub(crate) fn skip(reason: String) -> Result<Completion, Failed> {
    if std::env::var_os(REQUIRE_ALL).is_some_and(|value| value == "1") {
        Err(Failed::from(format!("must not be skipped ({REQUIRE_ALL}=1), but {reason}")))
    } else {
        Ok(Completion::ignored_with(reason))
    }
}

/// Everything that a command of ours could leave on a machine, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineState(BTreeSet<String>);

impl MachineState {
    /// The machine as it is.
    pub(crate) fn now() -> Self {
        let mut lines = BTreeSet::new();
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) {
                lines.insert(format!("loop device {name} of '{}'", file.trim_end()));
            }
            if let Ok(device) = fs::read_to_string(entry.path().join("dm/name")) {
                lines.insert(format!("device-mapper device {name} '{}'", device.trim_end()));
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            lines.insert(format!("mount {line}"));
        }
        for directory in
            ["/run/ddictl/attachments", "/dev/disk/by-loop-ref", "/dev/disk/by-loop-inode", "/dev/mapper"]
        {
            add_files(Path::new(directory), &mut lines);
        }
        // The socket of a udev daemon: with it others wait for one.
        if fs::symlink_metadata(UDEV_CONTROL).is_ok() {
            lines.insert(format!("file {UDEV_CONTROL}"));
        }
        Self(lines)
    }

    /// What is there now and was not, or was there and is not; `None` where nothing is, at the latest once the kernel
    /// has had its time.
    fn difference_once_settled(&self) -> Option<String> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let difference = self.difference(&Self::now());
            if difference.is_none() || Instant::now() >= deadline {
                return difference;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the kernel tells nobody that an autoclear loop device is free"
            )]
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What differs between this state and a later one.
    pub(crate) fn difference(&self, later: &Self) -> Option<String> {
        let new = later.0.difference(&self.0).map(|line| format!("left behind: {line}"));
        let gone = self.0.difference(&later.0).map(|line| format!("gone: {line}"));
        let lines: Vec<String> = new.chain(gone).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// Every file and link below a directory. Directories themselves do not count: they are made once and may stay.
fn add_files(directory: &Path, lines: &mut BTreeSet<String>) {
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            } else {
                let target =
                    fs::read_link(entry.path()).map(|to| format!(" -> {}", to.display())).unwrap_or_default();
                lines.insert(format!("file {}{target}", entry.path().display()));
            }
        }
    }
}
