//! Boots that reach a service in the new root, which tells what it sees.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::Boot;
use crate::images;
use crate::laboratory::Guest;
use crate::laboratory::SERVER;
use crate::laboratory::directory;
use crate::laboratory::succeed;
use crate::outcome::Outcome;
use crate::refusals::SEED;

/// The tests of this file.
pub(crate) const TESTS: &[Boot] = &[
    Boot {
        name: "roots::the_announced_command_line_on_systemd_252",
        suite: "bookworm",
        run: the_announced_command_line,
    },
    Boot {
        name: "roots::the_announced_command_line_on_systemd_257",
        suite: "trixie",
        run: the_announced_command_line,
    },
    Boot {
        name: "roots::the_announced_command_line_on_systemd_262",
        suite: "sid",
        run: the_announced_command_line,
    },
    Boot { name: "roots::the_verified_device_by_its_designator", suite: "trixie", run: the_verified_device },
    Boot { name: "roots::gpt_auto_on_systemd_252", suite: "bookworm", run: gpt_auto },
    Boot { name: "roots::gpt_auto_on_systemd_262", suite: "sid", run: gpt_auto },
    Boot { name: "roots::a_tar_on_systemd_252", suite: "bookworm", run: a_tar },
    Boot { name: "roots::a_tar_on_systemd_262", suite: "sid", run: a_tar },
    Boot { name: "roots::a_system_extension_beside_the_root", suite: "trixie", run: a_system_extension },
    Boot { name: "roots::usr_alone_on_systemd_257", suite: "trixie", run: usr_alone },
    Boot { name: "roots::from_a_local_disk_without_network", suite: "trixie", run: from_a_local_disk },
];

/// Expects that a reference leads to a dm-verity device with the root hash of this image, and that it is in use.
fn expect_verity(outcome: &Outcome, reference: &str, image: &Path) {
    let device = outcome.link(&format!("/dev/disk/by-loop-ref/{reference}"));
    let device = device.unwrap_or_else(|| panic!("no link '{reference}'\n{outcome}"));
    assert!(device.starts_with("/dev/dm-"), "'{reference}' is {device}\n{outcome}");
    let hash = images::root_hash(image);
    assert!(
        outcome.lines("dm").iter().any(|line| line.contains(" verity 1 ") && line.contains(&hash)),
        "no dm-verity device has the root hash {hash}\n{outcome}"
    );
    let name = device.trim_start_matches("/dev/");
    let held = format!("{name} 0");
    let open = outcome.lines("open").iter().find(|line| line.starts_with(&format!("{name} ")));
    assert!(open.is_some_and(|line| *line != held), "nothing holds {device}: {open:?}\n{outcome}");
}

/// Expects that nobody but the kernel's device mapper has the loop devices: each is of one partition, and read-only.
fn expect_only_planned_loops(outcome: &Outcome) {
    for line in outcome.lines("loops") {
        assert!(line.contains(" ro=1 ") && !line.contains(" offset=0 "), "{line}\n{outcome}");
    }
}

fn the_announced_command_line(guest: Guest) {
    guest.serve("image.raw", images::signed());
    let outcome = guest.words(SEED).words("systemd.volatile=overlay").boot();
    outcome.expect_booted();
    outcome.expect_quiet_console();
    expect_verity(&outcome, "image.raw-part2", images::signed());
    expect_only_planned_loops(&outcome);
    assert_eq!(
        outcome.link("/dev/disk/by-loop-ref/image.raw-part2"),
        outcome.link("/dev/disk/by-loop-ref/image.raw-root"),
        "\n{outcome}"
    );
    // The ESP is no part of the plan.
    assert_eq!(outcome.link("/dev/disk/by-loop-ref/image.raw-part1"), None, "\n{outcome}");
    assert_eq!(outcome.link("/dev/disk/by-loop-ref/image.raw-esp"), None, "\n{outcome}");
}

fn the_verified_device(guest: Guest) {
    guest.serve("image.raw", images::signed());
    let words = SEED.replace("image.raw-part2", "image.raw-root");
    let outcome = guest.words(&words).words("rootfstype=squashfs systemd.volatile=overlay").boot();
    outcome.expect_booted();
    outcome.expect_quiet_console();
    expect_verity(&outcome, "image.raw-root", images::signed());
}

fn gpt_auto(guest: Guest) {
    guest.serve("image.raw", images::signed());
    let outcome = guest
        .words(&format!("rd.systemd.pull=raw,machine,verify=no,blockdev:rootdisk:{SERVER}/image.raw"))
        .words("root=gpt-auto systemd.volatile=overlay")
        .boot();
    outcome.expect_booted();
    outcome.expect_quiet_console();
    expect_verity(&outcome, "rootdisk.raw-root", images::signed());
    // One device for the root, whoever has looked for it.
    assert_eq!(outcome.lines("dm").len(), 1, "\n{outcome}");
}

fn a_tar(guest: Guest) {
    guest.serve("system.tar.zst", images::archived());
    let digest = images::sha256(images::archived());
    let outcome = guest
        .words(&format!("rd.systemd.pull=tar,machine,verify={digest}:system:{SERVER}/system.tar.zst"))
        .words("root=bind:/run/machines/system")
        .boot();
    outcome.expect_booted();
    outcome.expect_quiet_console();
    let root = outcome.mount("/").unwrap_or_else(|| panic!("no root\n{outcome}"));
    assert_eq!(root.get(2), Some(&"tmpfs"), "{root:?}\n{outcome}");
}

fn a_system_extension(guest: Guest) {
    guest.serve("image.raw", images::signed());
    guest.serve("tools.raw", images::extension());
    // The system that follows verifies the extension itself, and has no certificate of its own.
    guest.file(
        "usr/lib/tmpfiles.d/boots.conf",
        b"C /run/verity.d/trusted.crt - - - - /usr/lib/verity.d/trusted.crt\n",
    );
    let outcome = guest
        .words(SEED)
        .words(&format!("rd.systemd.pull=raw,sysext,verify=no:tools:{SERVER}/tools.raw"))
        .words("systemd.volatile=overlay")
        .boot();
    outcome.expect_booted();
    expect_verity(&outcome, "image.raw-part2", images::signed());
    let images = outcome.lines("images");
    assert!(images.contains(&"/run/extensions/tools.raw".to_owned()), "{images:?}\n{outcome}");
    assert_eq!(outcome.lines("extended"), ["of the extension"], "\n{outcome}");
}

fn usr_alone(guest: Guest) {
    guest.serve("usr.raw", images::usr());
    let outcome = guest
        .words(&format!("rd.systemd.pull=raw,machine,verify=no,blockdev:usr:{SERVER}/usr.raw"))
        .words("root=tmpfs mount.usr=/dev/disk/by-loop-ref/usr.raw-part1 mount.usrfstype=squashfs")
        .boot();
    outcome.expect_booted();
    expect_verity(&outcome, "usr.raw-usr", images::usr());
    let usr = outcome.mount("/usr").unwrap_or_else(|| panic!("no /usr\n{outcome}"));
    assert_eq!(usr.get(2), Some(&"squashfs"), "{usr:?}\n{outcome}");
}

fn from_a_local_disk(guest: Guest) {
    let made = directory();
    let disk = made.path().join("disk");
    File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let file_system = made.path().join("ext4");
    File::create(&file_system).unwrap().set_len(200 << 20).unwrap();
    succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file_system));
    succeed(Command::new("sgdisk").args(["--new=1:2048:+200M", "--change-name=1:images"]).arg(&disk));
    succeed(
        Command::new("dd")
            .arg(format!("if={}", file_system.display()))
            .arg(format!("of={}", disk.display()))
            .args(["bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]),
    );
    fs::remove_file(file_system).unwrap();
    let digest = images::sha256(images::signed());
    let words = SEED.replace("verify=no", &format!("verify={digest},cache=images"));
    guest.serve("image.raw", images::signed());
    let first = guest.disk(&disk).words(&words).words("systemd.volatile=overlay").boot();
    first.expect_booted();
    expect_verity(&first, "image.raw-part2", images::signed());
    let second = Guest::new("trixie").without_server().disk(&disk).words(&words);
    let second = second.words("systemd.volatile=overlay").boot();
    second.expect_booted();
    let said = "the image is used from the cache, under the guard of dm-verity";
    assert!(second.console.contains(said), "\n{second}");
    expect_verity(&second, "image.raw-part2", images::signed());
}
