//! Mounting images: what goes where with which flags, what is refused, and that nothing is left.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::attach::{Sealed, fail, text};
use crate::faults::{each_fault, points};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::repart::succeed;
use crate::udev_links::Udevd;
use crate::workshop::{GROWFS, Workshop, everything, refused, said};

const NEEDS: &[Need] = &[Need::Guest, Need::Tool("sfdisk"), Need::Tool("mkfs.xfs"), Need::Tool("mkfs.btrfs")];

macro_rules! tests {
    ($($name:ident)*) => {
        /// The tests of this file.
        pub(crate) const TESTS: &[HostTest] =
            &[$(HostTest { name: concat!("mount::", stringify!($name)), needs: NEEDS, run: $name },)*];
    };
}

tests! {
    every_partition_goes_to_its_place
    every_file_system_can_be_a_root
    usr_alone_gets_a_root_in_memory
    nothing_is_mounted_over_the_root
    a_place_that_is_missing_is_refused_or_made
    links_of_the_image_stay_in_it
    what_is_signed_is_guarded_and_goes_with_its_mount
    a_journal_is_not_replayed_where_nothing_may_be_written
    a_file_system_is_checked_before_it_is_written
    a_file_system_grows_where_its_partition_asks_for_it
    each_mount_has_a_name_of_its_own
    a_directory_that_is_none_is_refused
    who_uses_a_mount_is_named
    others_unmount_what_we_mount
    what_systemd_dissect_mounts_is_unmounted
    what_comes_from_no_image_is_left
    mount_calls_the_helper
    a_bound_copy_is_unmounted_alone_and_named
    a_mount_that_fails_anywhere_leaves_nothing
    an_umount_that_fails_anywhere_can_be_completed
}

fn every_partition_goes_to_its_place() {
    let workshop = Workshop::new();
    let image = everything(&workshop);
    let before = MachineState::now();
    let boot = "nosuid,nodev,noexec,relatime,nosymfollow";
    for (arguments, state) in [(&[][..], "rw"), (&["--read-only"], "ro")] {
        for word in [workshop.place(), image.clone(), "everything.raw".into(), "".into()] {
            let mut command = workshop.mount(&image, arguments);
            let record: Value = serde_json::from_str(&succeed(command.arg("--json=short"))).unwrap();
            let expected = [
                ("", "ext4", format!("{state},nodev,relatime")),
                ("usr", "squashfs", "ro,nodev,relatime".to_owned()),
                ("home", "ext4", format!("{state},nodev,relatime")),
                ("srv", "ext4", format!("{state},nodev,relatime")),
                ("var", "ext4", format!("{state},nodev,relatime")),
                ("var/tmp", "ext4", format!("{state},nosuid,nodev,relatime")),
                ("boot", "vfat", format!("{state},{boot}")),
                ("efi", "vfat", format!("{state},{boot}")),
            ]
            .map(|(path, kind, flags)| (path.to_owned(), kind.to_owned(), flags));
            assert_eq!(workshop.mounts(), expected);
            assert!(workshop.options("efi").contains("fmask=0177,dmask=0077"), "{}", workshop.options("efi"));
            assert_eq!(workshop.options("").contains("norecovery"), state == "ro");
            assert_eq!(workshop.options("").contains("discard"), state == "rw");
            // Made, as it was missing: what is mounted there has its own permissions.
            assert!(fs::metadata(workshop.place().join("home")).unwrap().is_dir());
            let device = record["devices"][0]["path"].as_str().unwrap();
            let word = if word.as_os_str().is_empty() { PathBuf::from(device) } else { word };
            said(ddictl().arg("umount").arg(&word));
            assert_eq!(before.difference(&MachineState::now()), None, "{}", word.display());
            assert!(said(ddictl().arg("umount").arg(&word)).contains("is not mounted"));
        }
    }
}

fn every_file_system_can_be_a_root() {
    let workshop = Workshop::new();
    for kind in ["squashfs", "erofs", "ext4", "xfs", "btrfs"] {
        let root = workshop.file_system(kind, &workshop.tree(&[]));
        let image = workshop.image(&format!("{kind}.raw"), &[("root", &root, "", 0)]);
        fs::remove_file(root).unwrap();
        let fixed = matches!(kind, "squashfs" | "erofs");
        for (arguments, state) in [(&[][..], if fixed { "ro" } else { "rw" }), (&["-r"], "ro")] {
            said(&mut workshop.mount(&image, arguments));
            let found = workshop.mounts();
            let expected = (String::new(), kind.to_owned(), format!("{state},nodev,relatime"));
            assert_eq!(found, [expected], "{kind} {arguments:?}");
            let recovery = workshop.options("");
            match (kind, state) {
                ("ext4" | "xfs", "ro") => assert!(recovery.contains("norecovery"), "{recovery}"),
                ("btrfs", "ro") => assert!(recovery.contains("rescue=nologreplay"), "{recovery}"),
                _ => assert!(!recovery.contains("recovery"), "{recovery}"),
            }
            let written = fs::write(workshop.place().join("written"), "x");
            assert_eq!(written.is_ok(), state == "rw", "{kind}: {written:?}");
            workshop.umount();
        }
        fs::remove_file(image).unwrap();
    }
}

fn usr_alone_gets_a_root_in_memory() {
    let workshop = Workshop::new();
    let usr = workshop.file_system("squashfs", &workshop.tree(&[]));
    let esp = workshop.empty("vfat");
    let image = workshop.image("usr.raw", &[("usr", &usr, "", 0), ("esp", &esp, "", 0)]);
    said(&mut workshop.mount(&image, &[]));
    let found: Vec<(String, String)> =
        workshop.mounts().into_iter().map(|(path, kind, _)| (path, kind)).collect();
    let flags = workshop.mounts()[0].2.clone();
    workshop.umount();
    let expected = [("", "tmpfs"), ("usr", "squashfs"), ("efi", "vfat")];
    assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind.to_owned())));
    assert_eq!(flags, "rw,nodev,relatime");
    let home = workshop.empty("ext4");
    let image = workshop.image("home.raw", &[("home", &home, "", 0)]);
    refused(&mut workshop.mount(&image, &[]), &["expected a root or usr partition"]);
}

fn nothing_is_mounted_over_the_root() {
    let workshop = Workshop::new();
    let (esp, xbootldr) = (workshop.empty("vfat"), workshop.empty("vfat"));
    let beside = [("esp", esp.as_path()), ("xbootldr", xbootldr.as_path())];
    for (name, tree, places) in [
        ("full.raw", &["boot/file=x", "efi/file=x"][..], &[""][..]),
        ("links.raw", &["boot>../../..", "efi>/"], &[""]),
        ("loop.raw", &["boot>efi", "efi>boot"], &[""]),
        ("files.raw", &["boot=x", "efi=x"], &[""]),
        ("efi.raw", &["boot/file=x", "efi"], &["", "efi"]),
        ("boot.raw", &["boot"], &["", "boot"]),
        // Two names for one directory: it takes one of the two.
        ("shared.raw", &["boot", "efi>boot"], &["", "boot"]),
    ] {
        let image = workshop.rooted(name, tree, &beside);
        let warnings = said(&mut workshop.mount(&image, &[]));
        let found: Vec<String> = workshop.mounts().into_iter().map(|(path, ..)| path).collect();
        let release = fs::read_to_string(workshop.place().join("usr/lib/os-release"));
        workshop.umount();
        assert_eq!(found, places, "{name}: {warnings}");
        assert_eq!(release.unwrap(), "ID=mount-test\n", "{name}");
        assert!(warnings.contains("is not mounted, it has no place: '/boot'"), "{name}: {warnings}");
        fs::remove_file(image).unwrap();
    }
}

fn a_place_that_is_missing_is_refused_or_made() {
    let workshop = Workshop::new();
    let part = workshop.empty("ext4");
    for designator in ["home", "srv", "var", "tmp"] {
        let image = workshop.rooted("missing.raw", &[], &[(designator, &part)]);
        let remedy = format!("'{designator}=unused+absent'");
        refused(&mut workshop.mount(&image, &[]), &["is not there and cannot be made", &remedy]);
        let policy = format!("--image-policy={designator}=unused+absent:=unprotected+absent");
        said(ddictl().args(["mount", &policy]).arg(&image).arg(workshop.place()));
        workshop.umount();
    }
    let root = workshop.file_system("ext4", &workshop.tree(&[]));
    let image = workshop.image("made.raw", &[("root", &root, "", 0), ("tmp", &part, "", 0)]);
    said(&mut workshop.mount(&image, &[]));
    assert_eq!(workshop.mounts()[1].0, "var/tmp");
    workshop.umount();
}

fn links_of_the_image_stay_in_it() {
    let workshop = Workshop::new();
    let part = workshop.empty("ext4");
    let image = workshop.rooted("etc.raw", &["etc", "var/x=", "var/tmp>/etc"], &[("tmp", &part)]);
    said(&mut workshop.mount(&image, &[]));
    let found: Vec<String> = workshop.mounts().into_iter().map(|(path, ..)| path).collect();
    workshop.umount();
    assert_eq!(found, ["", "etc"]);
    for (name, tree, reason) in [
        ("up.raw", &["srv>../../../../../etc"][..], "leads nowhere within the image"),
        ("root.raw", &["srv>/"], "is the root of the image itself"),
        ("dots.raw", &["srv>.."], "is the root of the image itself"),
        ("proc.raw", &["srv>/proc/self/root"], "leads nowhere within the image"),
        ("loop.raw", &["srv>srv"], "is no directory that can be used"),
        ("file.raw", &["srv=x"], "is no directory that can be used"),
    ] {
        let image = workshop.rooted(name, tree, &[("srv", &part)]);
        refused(&mut workshop.mount(&image, &[]), &[reason, "'srv=unused+absent'"]);
    }
}

fn what_is_signed_is_guarded_and_goes_with_its_mount() {
    let workshop = Workshop::new();
    let sealed = Sealed::new();
    let before = MachineState::now();
    said(&mut signed(&workshop, &sealed));
    let table = succeed(Command::new("dmsetup").args(["table", "under-test.raw-root"]));
    assert!(table.contains(" verity 1 "), "{table}");
    let expected = (String::new(), "squashfs".to_owned(), "ro,nodev,relatime".to_owned());
    assert_eq!(workshop.mounts(), [expected]);
    assert!(workshop.umount().contains("unmounted"));
    assert_eq!(before.difference(&MachineState::now()), None);
    let mut untrusted = ddictl();
    untrusted.arg("mount").arg(sealed.image()).arg(workshop.place());
    assert!(fail(&mut untrusted, 3).contains("refused by policy '@verified-boot'"));
    assert_eq!(before.difference(&MachineState::now()), None);
}

/// `ddictl mount` of a signed image under the default policy.
fn signed(workshop: &Workshop, sealed: &Sealed) -> Command {
    let mut command = ddictl();
    command.arg("mount").arg(format!("--certificate={}", sealed.path().join("k.crt").display()));
    command.arg(sealed.image()).arg(workshop.place());
    command
}

fn a_journal_is_not_replayed_where_nothing_may_be_written() {
    let workshop = Workshop::new();
    let root = workshop.file_system("ext4", &workshop.tree(&[]));
    succeed(Command::new("debugfs").args(["-w", "-R", "feature needs_recovery"]).arg(&root));
    let image = workshop.image("dirty.raw", &[("root", &root, "", 0)]);
    let sum = || succeed(Command::new("sha256sum").arg(&image));
    let before = sum();
    said(&mut workshop.mount(&image, &["--read-only"]));
    let options = workshop.options("");
    workshop.umount();
    assert!(options.contains("norecovery"), "{options}");
    assert_eq!(before, sum());
    said(&mut workshop.mount(&image, &[]));
    workshop.umount();
    assert_ne!(before, sum());
}

fn a_file_system_is_checked_before_it_is_written() {
    let workshop = Workshop::new();
    let root = workshop.file_system("ext4", &workshop.tree(&["home"]));
    for (request, words) in [("clri <11>", None), ("clri <2>", Some("errors that it did not correct"))] {
        let home = workshop.empty("ext4");
        for request in [request, "ssv state 0"] {
            succeed(Command::new("debugfs").args(["-w", "-R", request]).arg(&home));
        }
        let image = workshop.image("damaged.raw", &[("root", &root, "", 0), ("home", &home, "", 0)]);
        match words {
            None => {
                let stderr = said(&mut workshop.mount(&image, &[]));
                workshop.umount();
                assert!(stderr.contains("fsck.ext4 repaired"), "{stderr}");
                let again = said(&mut workshop.mount(&image, &[]));
                workshop.umount();
                assert!(!again.contains("fsck"), "{again}");
            }
            Some(words) => {
                refused(&mut workshop.mount(&image, &[]), &["fsck.ext4", words, "--fsck=no"]);
                // Nothing is checked that is not written, and its driver says what is wrong.
                let mut read_only = workshop.mount(&image, &["--read-only"]);
                refused(&mut read_only, &["opening the ext4 on '/dev/loop"]);
            }
        }
    }
}

fn a_file_system_grows_where_its_partition_asks_for_it() {
    const MORE: u64 = 32 << 20;
    let workshop = Workshop::new();
    for kind in ["ext4", "xfs", "btrfs"] {
        let root = workshop.file_system(kind, &workshop.tree(&[]));
        let size = |attribute: &str, arguments: &[&str]| {
            let image = workshop.image("grow.raw", &[("root", &root, attribute, MORE)]);
            let stderr = said(&mut workshop.mount(&image, arguments));
            let size = succeed(Command::new("df").args(["-B1", "--output=size"]).arg(workshop.place()));
            workshop.umount();
            let size: u64 = size.lines().last().unwrap().trim().parse().unwrap();
            (size, stderr.contains("fills its partition"))
        };
        let (plain, _) = size("", &[]);
        let (grown, told) = size(GROWFS, &[]);
        assert!(grown > plain + MORE / 2 && told, "{kind}: {plain} {grown}");
        assert_eq!(size(GROWFS, &["--growfs=no"]), (plain, false), "{kind}");
        assert_eq!(size(GROWFS, &["--read-only"]), (plain, false), "{kind}");
        fs::remove_file(root).unwrap();
    }
}

fn each_mount_has_a_name_of_its_own() {
    let workshop = Workshop::new();
    let image = workshop.rooted("same.raw", &[], &[]);
    let mount = |directory: &str, arguments: &[&str]| {
        let mut command = ddictl();
        command.args(["mount", "--mkdir", "--image-policy=*"]).args(arguments);
        command.arg(&image).arg(workshop.path(directory));
        command
    };
    let before = MachineState::now();
    for directory in ["deep/one", "deep/two", "deep/three"] {
        said(&mut mount(directory, &[]));
    }
    refused(&mut mount("four", &["--loop-ref=same.raw.2"]), &["the name is taken", "--loop-ref="]);
    assert!(!workshop.path("four").try_exists().unwrap());
    refused(ddictl().arg("umount").arg(&image), &["it is attached several times"]);
    for reference in ["same.raw.2", "same.raw.3", "same.raw"] {
        said(ddictl().args(["umount", "--rmdir", reference]));
    }
    assert_eq!(fs::read_dir(workshop.path("deep")).unwrap().count(), 0);
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn a_directory_that_is_none_is_refused() {
    let workshop = Workshop::new();
    let image = workshop.rooted("root.raw", &[], &[]);
    fs::write(workshop.path("file"), "").unwrap();
    for (directory, words) in
        [("absent", "let --mkdir do so"), ("file", "expected a directory"), ("/", "no place for an image")]
    {
        let mut command = ddictl();
        command.args(["mount", "--image-policy=*"]).arg(&image).arg(workshop.path(directory));
        refused(&mut command, &[words]);
    }
}

fn who_uses_a_mount_is_named() {
    let workshop = Workshop::new();
    let image = everything(&workshop);
    said(&mut workshop.mount(&image, &[]));
    let umount = || {
        let mut command = ddictl();
        command.arg("umount").arg(workshop.place());
        command
    };
    let open = File::open(workshop.place().join("usr/usr/lib/os-release")).unwrap();
    refused(&mut umount(), &["in use", &format!("process {}", std::process::id()), "/mnt/usr'"]);
    drop(open);
    let mut child =
        Command::new("sleep").arg("60").current_dir(workshop.place().join("var/tmp")).spawn().unwrap();
    let busy = std::panic::catch_unwind(|| {
        refused(&mut umount(), &["in use", &format!("process {} (sleep)", child.id()), "/mnt/var/tmp'"]);
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let detached = fail(ddictl().args(["detach", "everything.raw"]), 1);
    let beneath = workshop.place().join("srv");
    succeed(Command::new("mount").args(["-t", "tmpfs", "other"]).arg(&beneath));
    let covered =
        std::panic::catch_unwind(|| refused(&mut umount(), &["others mounted something", "(tmpfs)"]));
    succeed(Command::new("umount").arg(&beneath));
    let part = fail(ddictl().arg("umount").arg(&beneath), 1);
    workshop.umount();
    assert!(busy.is_ok() && covered.is_ok());
    assert!(detached.contains("mounted on"), "{detached}");
    assert!(part.contains("is a part of"), "{part}");
}

fn others_unmount_what_we_mount() {
    let workshop = Workshop::new();
    let (image, sealed) = (everything(&workshop), Sealed::new());
    let before = MachineState::now();
    for program in [&["umount", "-R"], &["systemd-dissect", "--umount"]] {
        for command in [workshop.mount(&image, &[]), signed(&workshop, &sealed)] {
            let mut command = command;
            said(&mut command);
            succeed(Command::new(program[0]).arg(program[1]).arg(workshop.place()));
            // The record is all that is left, and goes with the next that looks.
            assert_devices_gone(&before);
            assert!(workshop.umount().contains("is not mounted"));
            said(ddictl().args(["detach", "--stale"]));
            assert_eq!(before.difference(&MachineState::now()), None, "{program:?}");
        }
    }
}

/// That nothing but a record is left, once the kernel has had its time.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody that an autoclear loop device is free"
)]
fn assert_devices_gone(before: &MachineState) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = before.difference(&MachineState::now()).unwrap_or_default();
        let records = |line: &str| line.starts_with("left behind: file /run/ddictl/attachments/");
        if left.lines().all(records) {
            return;
        }
        assert!(Instant::now() < deadline, "{left}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn what_systemd_dissect_mounts_is_unmounted() {
    let workshop = Workshop::new();
    let image = everything(&workshop);
    let usr = workshop.file_system("squashfs", &workshop.tree(&[]));
    let only_usr = workshop.image("usr.raw", &[("usr", &usr, "", 0)]);
    let udevd = Udevd::start();
    let before = MachineState::now();
    for image in [image, only_usr] {
        succeed(Command::new("systemd-dissect").arg("--mount").arg(&image).arg(workshop.place()));
        let stderr = workshop.umount();
        assert!(stderr.contains("unmounted") && !stderr.contains("still there"), "{stderr}");
        udevd.settle();
        assert_devices_gone(&before);
    }
    drop(udevd);
}

fn what_comes_from_no_image_is_left() {
    let workshop = Workshop::new();
    refused(ddictl().args(["umount", "/"]), &["root of the running system"]);
    refused(ddictl().args(["umount", "/proc"]), &["proc is not from an image"]);
    succeed(Command::new("mount").args(["-t", "tmpfs", "other"]).arg(workshop.place()));
    let result = std::panic::catch_unwind(|| {
        refused(ddictl().arg("umount").arg(workshop.place()), &["nothing of it comes from an image"]);
    });
    succeed(Command::new("umount").arg(workshop.place()));
    assert!(result.is_ok());
    assert!(workshop.umount().contains("is not mounted"));
}

fn mount_calls_the_helper() {
    let workshop = Workshop::new();
    let sealed = Sealed::new();
    for name in ["upper", "work"] {
        fs::create_dir(workshop.path(name)).unwrap();
    }
    // mount(8) looks for its helpers in /sbin alone, which is read-only here.
    let (upper, work) = (workshop.path("upper"), workshop.path("work"));
    symlink(env!("CARGO_BIN_EXE_ddictl"), upper.join("mount.ddictl")).unwrap();
    let layers = format!("lowerdir=/usr/sbin,upperdir={},workdir={}", upper.display(), work.display());
    succeed(Command::new("mount").args(["-t", "overlay", "-o", &layers, "sbin", "/usr/sbin"]));
    let options = |options: &str| {
        let certificate = sealed.path().join("k.crt");
        let options = format!("{options},certificate={}", certificate.display());
        let mut command = Command::new("mount");
        command.args(["-t", "ddictl", "-o", &options]).arg(sealed.image()).arg(workshop.place());
        command
    };
    let result = std::panic::catch_unwind(|| {
        said(&mut options(
            "ro,nofail,x-systemd.automount,image-policy=root=signed:usr=absent,loop-ref=helped",
        ));
        let listed = succeed(ddictl().args(["list", "--json=short"]));
        assert!(listed.contains("\"helped\""), "{listed}");
        succeed(Command::new("umount").arg(workshop.place()));
        said(ddictl().args(["detach", "--stale"]));
        let unknown = options("nosuid").output().unwrap();
        assert!(text(&unknown.stderr).contains("the mount option 'nosuid' is not known"), "{unknown:?}");
        let fake = options("ro").arg("-f").output().unwrap();
        assert!(fake.status.success() && workshop.mounts().is_empty(), "{fake:?}");
        let unsigned = options("image-policy=root=encrypted").output().unwrap();
        assert_eq!(unsigned.status.code(), Some(3), "{unsigned:?}");
    });
    succeed(Command::new("umount").arg("/usr/sbin"));
    assert!(result.is_ok());
}

fn a_bound_copy_is_unmounted_alone_and_named() {
    let workshop = Workshop::new();
    let image = workshop.rooted("copied.raw", &[], &[]);
    let copy = workshop.path("copy");
    fs::create_dir(&copy).unwrap();
    let before = MachineState::now();
    said(&mut workshop.mount(&image, &[]));
    let mounted = MachineState::now();
    succeed(Command::new("mount").arg("--bind").arg(workshop.place()).arg(&copy));
    let words = format!("it is also mounted on '{}': unmount that first", copy.display());
    refused(ddictl().arg("umount").arg(workshop.place()), &[&words]);
    let begun = Instant::now();
    let stderr = said(ddictl().arg("umount").arg(&copy));
    assert!(stderr.contains("unmounted") && !stderr.contains("still there"), "{stderr}");
    // The devices stay for the other mount: nobody waits for them to go.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(mounted.difference(&MachineState::now()), None);
    workshop.umount();
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn a_mount_that_fails_anywhere_leaves_nothing() {
    let workshop = Workshop::new();
    let usr = workshop.file_system("squashfs", &workshop.tree(&[]));
    let home = workshop.empty("ext4");
    let image = workshop.image("faults.raw", &[("usr", &usr, "", 0), ("home", &home, GROWFS, 1 << 20)]);
    let _udevd = Udevd::start();
    let command = || workshop.mount(&image, &[]);
    let umount = || drop(workshop.umount());
    let points = points(&mut command());
    umount();
    let points: Vec<String> = points.into_iter().filter(|point| point.starts_with("mount:")).collect();
    let steps = "before target devices memory-prepared memory-recorded memory-mounted usr-place usr-prepared \
                 usr-recorded usr-mounted home-place home-checked home-prepared home-recorded home-mounted \
                 home-grown built";
    let steps: Vec<String> = steps.split(' ').map(|step| format!("mount:{step}")).collect();
    assert_eq!(points, steps);
    // A kill between these leaves the same.
    let differ = [
        "target",
        "devices",
        "memory-recorded",
        "memory-mounted",
        "usr-prepared",
        "usr-mounted",
        "home-mounted",
        "built",
    ];
    let points = differ.map(|step| format!("mount:{step}"));
    each_fault(&points, &command, &umount);
}

fn an_umount_that_fails_anywhere_can_be_completed() {
    let workshop = Workshop::new();
    let image = everything(&workshop);
    let before = MachineState::now();
    let umount = || {
        let mut command = ddictl();
        command.arg("umount").arg(workshop.place());
        command
    };
    said(&mut workshop.mount(&image, &[]));
    let points = points(&mut umount());
    assert_eq!(points, ["umount:before", "umount:stopping", "umount:unmounted", "umount:gone"]);
    for point in &points {
        for fault in ["error", "sigterm", "sigkill"] {
            said(&mut workshop.mount(&image, &[]));
            let output = umount().env("DDICTL_FAULT", format!("{point}={fault}")).output().unwrap();
            // What was begun is completed: half an umount is of no use to anybody.
            let expected = match fault {
                "error" => Some(1),
                "sigterm" => Some(0),
                _ => None,
            };
            assert_eq!(output.status.code(), expected, "{point}={fault}: {}", text(&output.stderr));
            said(&mut umount());
            said(ddictl().args(["detach", "--stale"]));
            assert_eq!(before.difference(&MachineState::now()), None, "{point}={fault}");
        }
    }
}
