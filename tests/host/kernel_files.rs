//! Files and mounts as the kernel of this machine has them, and udev's answers.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ddictl::format::units::{ByteLength, SectorSize};
use ddictl::kernel::loop_device::{LoopDevice, LoopRequest};
use ddictl::kernel::memory::MemoryFile;
use ddictl::kernel::mount::{MountError, OwnTmpfs, free_space, is_mount_point, unmount};
use ddictl::kernel::placed_file::{AnonymousFile, PlacementError, clear_immutable, set_immutable};
use ddictl::kernel::udev::{UdevError, change_and_wait, is_running, links_of};

use crate::harness::{HostTest, Need, udevd};

const TMPFS: &[Need] = &[Need::Root, Need::FileSystem("tmpfs")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "kernel_files::a_sealed_file_is_closed_to_root_too",
        needs: &[Need::Root],
        run: a_sealed_file_is_closed_to_root_too,
    },
    HostTest {
        name: "kernel_files::a_tmpfs_is_as_asked_and_leaves_nothing",
        needs: TMPFS,
        run: a_tmpfs_is_as_asked_and_leaves_nothing,
    },
    HostTest {
        name: "kernel_files::a_tmpfs_on_an_existing_directory_leaves_the_directory",
        needs: TMPFS,
        run: a_tmpfs_on_an_existing_directory_leaves_the_directory,
    },
    HostTest {
        name: "kernel_files::what_is_mounted_over_our_tmpfs_is_left_alone",
        needs: TMPFS,
        run: what_is_mounted_over_our_tmpfs_is_left_alone,
    },
    HostTest { name: "kernel_files::a_kept_tmpfs_stays", needs: TMPFS, run: a_kept_tmpfs_stays },
    HostTest {
        name: "kernel_files::an_immutable_file_is_closed_to_root",
        needs: TMPFS,
        run: an_immutable_file_is_closed_to_root,
    },
    HostTest {
        name: "kernel_files::a_file_system_without_nameless_files_is_named",
        needs: &[Need::Root],
        run: a_file_system_without_nameless_files_is_named,
    },
    HostTest {
        name: "kernel_files::udev_answers_exactly_our_event",
        needs: &[Need::Root, Need::LoopDevices, Need::Udevd],
        run: udev_answers_exactly_our_event,
    },
];

const MEBIBYTE: ByteLength = ByteLength::new(1 << 20);

fn a_sealed_file_is_closed_to_root_too() {
    let memory = MemoryFile::create("ddictl-host-test", MEBIBYTE).unwrap();
    memory.write_at(b"verified", 0).unwrap();
    let sealed = memory.seal().unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(sealed.file());
    let path = format!("/proc/{}/fd/{descriptor}", std::process::id());
    // dd is another process: it opens the file anew, as root may.
    let written = Command::new("dd")
        .args(["if=/dev/zero", &format!("of={path}"), "bs=8", "count=1", "conv=notrunc"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let shortened =
        Command::new("truncate").args(["--size=0", &path]).stderr(Stdio::null()).status().unwrap();
    assert!(!written.success() && !shortened.success());
    let mut bytes = [0; 8];
    sealed.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"verified");
}

fn a_tmpfs_is_as_asked_and_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("image data");
    let tmpfs = OwnTmpfs::mount_on(&directory, MEBIBYTE, 0o750).unwrap();
    assert!(is_mount_point(&directory).unwrap());
    let metadata = fs::metadata(&directory).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o750);
    assert_ne!(metadata.dev(), fs::metadata(parent.path()).unwrap().dev());
    let free = free_space(tmpfs.root().unwrap().as_fd()).unwrap();
    assert!(free <= MEBIBYTE && free.bytes() > MEBIBYTE.bytes() / 2, "{free}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains("image\\040data")).unwrap();
    for option in ["nosuid", "nodev", "noexec", "size=1024k"] {
        assert!(line.contains(option), "{option}: {line}");
    }
    // Where there are transparent huge pages, and nobody asks in vain for what the kernel does not have.
    let has_large_folios =
        Path::new("/sys/kernel/mm/transparent_hugepage/shmem_enabled").try_exists().unwrap();
    assert_eq!(line.contains("huge=within_size"), has_large_folios, "{line}");
    let again = OwnTmpfs::mount_on(&directory, MEBIBYTE, 0o750).unwrap_err();
    assert!(matches!(again, MountError::AlreadyMounted { .. }), "{again}");
    assert!(is_mount_point(&directory).unwrap());
    fs::write(directory.join("image.raw"), "x").unwrap();
    tmpfs.undo().unwrap();
    assert!(!fs::exists(&directory).unwrap());
}

fn a_tmpfs_on_an_existing_directory_leaves_the_directory() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), Permissions::from_mode(0o711)).unwrap();
    drop(OwnTmpfs::mount_on(parent.path(), MEBIBYTE, 0o700).unwrap());
    assert!(!is_mount_point(parent.path()).unwrap());
    assert_eq!(fs::metadata(parent.path()).unwrap().permissions().mode() & 0o7777, 0o711);
}

fn what_is_mounted_over_our_tmpfs_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let tmpfs = OwnTmpfs::mount_on(parent.path(), MEBIBYTE, 0o700).unwrap();
    let over = Command::new("mount").args(["-t", "tmpfs", "over"]).arg(parent.path()).status().unwrap();
    assert!(over.success());
    fs::write(parent.path().join("theirs"), "x").unwrap();
    let refused = tmpfs.undo().unwrap_err();
    let theirs = fs::exists(parent.path().join("theirs")).unwrap();
    unmount(parent.path()).unwrap();
    let ours = is_mount_point(parent.path()).unwrap();
    unmount(parent.path()).unwrap();
    assert!(matches!(refused, MountError::Displaced { .. }), "{refused:?}");
    assert!(theirs && ours);
}

fn a_kept_tmpfs_stays() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("machines");
    OwnTmpfs::mount_on(&directory, MEBIBYTE, 0o700).unwrap().keep();
    let stays = is_mount_point(&directory).unwrap();
    unmount(&directory).unwrap();
    assert!(stays);
    assert!(!is_mount_point(&directory).unwrap());
}

fn an_immutable_file_is_closed_to_root() {
    let parent = tempfile::tempdir().unwrap();
    let tmpfs = OwnTmpfs::mount_on(&parent.path().join("images"), MEBIBYTE, 0o700).unwrap();
    let root = tmpfs.root().unwrap();
    let file = AnonymousFile::create_in(root.as_fd()).unwrap();
    file.file().write_all_at(b"verified", 0).unwrap();
    let complete = file.complete(0o400).unwrap();
    complete.link_as(OsStr::new("image.raw")).unwrap();
    let placed = complete.file();
    let path = tmpfs.directory().join("image.raw");
    if !set_immutable(placed.as_fd()).unwrap() {
        // tmpfs has had the flag since Linux 6.6; before, mode and descriptors are what there is.
        assert!(!clear_immutable(placed.as_fd()).unwrap());
        return;
    }
    assert!(OpenOptions::new().write(true).open(&path).is_err());
    assert!(fs::remove_file(&path).is_err());
    assert!(fs::rename(&path, path.with_extension("old")).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"verified");
    assert!(set_immutable(placed.as_fd()).unwrap());
    assert!(clear_immutable(placed.as_fd()).unwrap());
    fs::remove_file(&path).unwrap();
}

fn a_file_system_without_nameless_files_is_named() {
    let handle = File::open("/sys/kernel").unwrap();
    let error = AnonymousFile::create_in(handle.as_fd()).unwrap_err();
    assert!(matches!(error, PlacementError::AnonymousUnsupported), "{error:?}");
}

/// A udev daemon of this test's own; when dropped it is ended, and what it wrote is removed.
struct Udevd {
    child: Child,
    /// Its directories that were not there before.
    made: Vec<&'static str>,
}

impl Udevd {
    fn start() -> Self {
        let made = ["/run/udev", "/dev/disk"].into_iter().filter(|path| !fs::exists(path).unwrap()).collect();
        let mut daemon = Command::new(udevd().unwrap());
        let child = daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let daemon = Self { child, made };
        let deadline = Instant::now() + Duration::from_secs(30);
        // Its socket is there some time before it listens to the kernel; once it answers, it does.
        let answers = || {
            let mut ping = Command::new("udevadm");
            ping.args(["control", "--ping", "--timeout=5"]).stderr(Stdio::null()).status().unwrap().success()
        };
        while !(is_running() && answers()) {
            assert!(Instant::now() < deadline, "udevd did not come up");
            thread::yield_now();
        }
        daemon
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Udevd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file("/run/udev/control");
        for path in &self.made {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn udev_answers_exactly_our_event() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let request = LoopRequest {
        backing: file.as_fd(),
        extent: None,
        block_size: SectorSize::DEFAULT,
        read_only: true,
        reference: "ddictl-host-test",
    };
    let devices = [LoopDevice::configure(&request).unwrap(), LoopDevice::configure(&request).unwrap()];
    let numbers = devices.each_ref().map(LoopDevice::device_number);
    assert!(!is_running());
    let deadline = || Instant::now() + Duration::from_secs(10);
    assert!(matches!(change_and_wait(&numbers, None, deadline()), Err(UdevError::NotRunning)));
    {
        let daemon = Udevd::start();
        let mut answers = change_and_wait(&numbers, None, deadline()).unwrap();
        answers.sort_by_key(|answer| answer.device);
        let mut expected = numbers;
        expected.sort_unstable();
        assert_eq!(answers.iter().map(|answer| answer.device).collect::<Vec<_>>(), expected);
        for answer in &answers {
            assert!(answer.ready);
            assert_eq!(links_of(answer.device).unwrap(), answer.links);
            for link in &answer.links {
                assert!(link.starts_with(Path::new("/dev")), "{}", link.display());
            }
        }
        daemon.signal("STOP");
        let late = change_and_wait(&numbers, None, Instant::now() + Duration::from_millis(100)).unwrap_err();
        assert!(matches!(late, UdevError::TimedOut { devices } if devices == numbers));
        daemon.signal("CONT");
        drop(devices);
        let settled = Command::new("udevadm").args(["settle", "--timeout=10"]).status().unwrap();
        assert!(settled.success());
    }
    assert!(!is_running());
}
