//! Mounting what is attached already: which devices are used, and which are not.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::attach::{Sealed, fail};
use crate::faults::{each_fault, points};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::repart::succeed;
use crate::udev_links::Udevd;
use crate::workshop::{Workshop, refused, said};

const NEEDS: &[Need] = &[Need::Guest, Need::Tool("sfdisk"), Need::Tool("dmsetup")];

macro_rules! tests {
    ($($name:ident)*) => {
        /// The tests of this file.
        pub(crate) const TESTS: &[HostTest] =
            &[$(HostTest { name: concat!("mount_attached::", stringify!($name)), needs: NEEDS, run: $name },)*];
    };
}

tests! {
    what_is_attached_is_mounted_and_stays
    what_differs_is_not_used
    what_is_written_is_mounted_once
    a_mount_of_an_attachment_that_fails_anywhere_leaves_the_attachment
}

/// `ddictl VERB` of a signed image, trusting its certificate.
fn signed(verb: &str, sealed: &Sealed, arguments: &[&str]) -> Command {
    let mut command = ddictl();
    command.arg(verb).arg(format!("--certificate={}", sealed.path().join("k.crt").display()));
    command.args(arguments).arg(sealed.image());
    command
}

/// The records, by their references.
fn records() -> Vec<(String, Value)> {
    let listed: Value = serde_json::from_str(&succeed(ddictl().args(["list", "--json=short"]))).unwrap();
    let records = listed.as_array().unwrap().iter();
    records.map(|record| (record["reference"].as_str().unwrap().to_owned(), record.clone())).collect()
}

fn names() -> Vec<String> {
    records().into_iter().map(|(name, _)| name).collect()
}

/// Detaches what a failed test leaves.
struct Detached(&'static str);

impl Drop for Detached {
    fn drop(&mut self) {
        // Why the test failed is what matters.
        let _ = ddictl().args(["umount", self.0]).output();
        let _ = ddictl().args(["detach", self.0]).output();
    }
}

/// Where a device is mounted.
fn mounted_from(place: &Path) -> String {
    succeed(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(place)).trim().to_owned()
}

fn what_is_attached_is_mounted_and_stays() {
    let workshop = Workshop::new();
    let sealed = Sealed::new();
    let before = MachineState::now();
    let device = succeed(&mut signed("attach", &sealed, &["--loop-ref=shared"])).trim().to_owned();
    let _detached = Detached("shared");
    let attached = (MachineState::now(), records());
    for name in [&[][..], &["--loop-ref=shared"]] {
        for word in [workshop.place(), sealed.image(), "shared".into(), PathBuf::from(&device)] {
            let stderr = said(signed("mount", &sealed, name).arg(workshop.place()));
            assert!(stderr.contains("'shared' is attached already: its devices are mounted"), "{stderr}");
            assert_eq!(mounted_from(&workshop.place()), device);
            assert_eq!(names(), ["shared"]);
            let mounts = records()[0].1["mounts"].clone();
            assert_eq!(mounts[0]["directory"].as_str(), workshop.place().to_str(), "{mounts}");
            refused(ddictl().args(["detach", "shared"]), &["mounted on", "/mnt"]);
            said(ddictl().arg("umount").arg(&word));
            assert_eq!(attached.0.difference(&MachineState::now()), None, "{}", word.display());
            assert_eq!(attached.1, records());
            assert!(said(ddictl().arg("umount").arg(&word)).contains("is not mounted"));
        }
    }
    // Two at once: the second one has devices of its own, unless it asks for these.
    let second = workshop.path("second");
    fs::create_dir(&second).unwrap();
    said(signed("mount", &sealed, &[]).arg(workshop.place()));
    refused(
        signed("mount", &sealed, &["--loop-ref=shared"]).arg(&second),
        &["whose devices cannot be used: it is mounted on", "--loop-ref="],
    );
    let stderr = said(signed("mount", &sealed, &[]).arg(&second));
    assert!(stderr.contains("its devices are not used: it is mounted on"), "{stderr}");
    assert_eq!(names(), ["shared", "under-test.raw"]);
    said(ddictl().arg("umount").arg(&second));
    // Whoever else unmounts it leaves the attachment as well, and it can be mounted and detached again.
    succeed(Command::new("umount").arg(workshop.place()));
    said(signed("mount", &sealed, &[]).arg(workshop.place()));
    assert_eq!(names(), ["shared"]);
    succeed(Command::new("umount").arg(workshop.place()));
    said(ddictl().args(["detach", "shared"]));
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn what_differs_is_not_used() {
    let workshop = Workshop::new();
    let sealed = Sealed::new();
    let before = MachineState::now();
    let differs = |attach: &mut Command, mount: &[&str], words: &[&str]| {
        succeed(attach.arg("--loop-ref=other").arg(sealed.image()));
        let _detached = Detached("other");
        let stderr = said(signed("mount", &sealed, mount).arg(workshop.place()));
        for word in words {
            assert!(stderr.contains(word), "expected '{word}': {stderr}");
        }
        assert_eq!(names(), ["other", "under-test.raw"]);
        workshop.umount();
        let named = [mount, &["--loop-ref=other"]].concat();
        let words = if words.is_empty() { &["it shows another file"] } else { words };
        refused(signed("mount", &sealed, &named).arg(workshop.place()), words);
    };
    let certificate = format!("--certificate={}", sealed.path().join("k.crt").display());
    let attach = |arguments: &[&str]| {
        let mut command = ddictl();
        command.arg("attach").args(arguments);
        command
    };
    differs(&mut attach(&[&certificate, "--on-corruption=panic"]), &[], &["table of 'other-root'"]);
    differs(&mut attach(&["--image-policy=root=verity"]), &[], &["protection of 'other-part1'"]);
    // A copy in memory is another image.
    differs(&mut attach(&[&certificate, "--in-memory"]), &[], &[]);
    // Another table than the recorded one, under the same name and number.
    succeed(&mut signed("attach", &sealed, &["--loop-ref=other"]));
    let detached = Detached("other");
    let live = succeed(Command::new("dmsetup").args(["table", "other-root"]));
    let lenient = format!("{} 1 ignore_corruption", live.trim());
    for (table, words) in [
        (lenient.as_str(), "has another table than that of dm-verity"),
        (live.trim(), "its devices are mounted"),
    ] {
        succeed(Command::new("dmsetup").args(["load", "-r", "other-root", "--table", table]));
        succeed(Command::new("dmsetup").args(["resume", "--noudevsync", "other-root"]));
        let stderr = said(signed("mount", &sealed, &[]).arg(workshop.place()));
        workshop.umount();
        assert!(stderr.contains(words), "expected '{words}': {stderr}");
    }
    // The policy is asked anew.
    let mut untrusted = ddictl();
    untrusted.arg("mount").arg(sealed.image()).arg(workshop.place());
    assert!(fail(&mut untrusted, 3).contains("refused by policy '@verified-boot'"));
    // What dm-verity found damaged before is damaged.
    let (offset, length) = sealed.hashed_area();
    let image = OpenOptions::new().write(true).open(sealed.image()).unwrap();
    image.write_all_at(b"changed", offset + length - 4096).unwrap();
    image.sync_all().unwrap();
    let device = records()[0].1["devices"][0]["path"].as_str().unwrap().to_owned();
    succeed(Command::new("blockdev").args(["--flushbufs", &device]));
    let error = File::open(&device).unwrap().read_exact_at(&mut [0; 4096], length - 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
    refused(
        signed("mount", &sealed, &["--loop-ref=other"]).arg(workshop.place()),
        &["dm-verity has found damage in 'other-root'"],
    );
    drop(detached);
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn what_is_written_is_mounted_once() {
    let workshop = Workshop::new();
    let root = workshop.file_system("ext4", &workshop.tree(&[]));
    let image = workshop.image("written.raw", &[("root", &root, "", 0)]);
    let second = workshop.path("second");
    fs::create_dir(&second).unwrap();
    let mount = |arguments: &[&str], place: &Path| {
        let mut command = ddictl();
        command.args(["mount", "--image-policy=*"]).args(arguments).arg(&image).arg(place);
        command
    };
    let before = MachineState::now();
    let words = ["shows the same bytes of the image and is in use (mounted on", "--read-only"];
    said(&mut mount(&[], &workshop.place()));
    refused(&mut mount(&[], &second), &words);
    refused(&mut mount(&["--read-only"], &second), &words);
    workshop.umount();
    said(&mut mount(&["--read-only"], &workshop.place()));
    said(&mut mount(&["--read-only"], &second));
    said(ddictl().arg("umount").arg(&second));
    refused(&mut mount(&[], &second), &words);
    workshop.umount();
    assert_eq!(before.difference(&MachineState::now()), None);
    // Through the devices of an attachment it is written, too; and not while somebody else has them mounted.
    let device = succeed(ddictl().args(["attach", "--image-policy=*"]).arg(&image)).trim().to_owned();
    let _detached = Detached("written.raw");
    said(&mut mount(&[], &workshop.place()));
    assert_eq!(mounted_from(&workshop.place()), device);
    fs::write(workshop.place().join("written"), "x").unwrap();
    workshop.umount();
    let stderr = said(&mut mount(&["--read-only"], &workshop.place()));
    assert!(
        stderr.contains("access of 'written.raw-part1': expected read-only as planned, found writable"),
        "{stderr}"
    );
    assert_eq!(fs::read_to_string(workshop.place().join("written")).unwrap(), "x");
    workshop.umount();
    succeed(Command::new("mount").arg(&device).arg(&second));
    let refusal = std::panic::catch_unwind(|| refused(&mut mount(&[], &workshop.place()), &words));
    succeed(Command::new("umount").arg(&second));
    assert!(refusal.is_ok());
}

fn a_mount_of_an_attachment_that_fails_anywhere_leaves_the_attachment() {
    let workshop = Workshop::new();
    let root = workshop.file_system("squashfs", &workshop.tree(&["home"]));
    let home = workshop.empty("ext4");
    let image = workshop.image("shared.raw", &[("root", &root, "", 0), ("home", &home, "", 0)]);
    let _udevd = Udevd::start();
    succeed(ddictl().args(["attach", "--image-policy=*"]).arg(&image));
    let _detached = Detached("shared.raw");
    let attached = records();
    let command = || workshop.mount(&image, &[]);
    let umount = || {
        workshop.umount();
        assert_eq!(attached, records());
    };
    let points = points(&mut command());
    umount();
    let steps = "before target shared devices root-place root-prepared root-recorded root-mounted home-place \
                 home-checked home-prepared home-recorded home-mounted built";
    let steps: Vec<String> = steps.split(' ').map(|step| format!("mount:{step}")).collect();
    assert_eq!(points, steps);
    // A kill between these leaves the same.
    let differ = ["shared", "root-prepared", "root-recorded", "root-mounted", "home-mounted", "built"];
    let points = differ.map(|step| format!("mount:{step}"));
    each_fault(&points, &command, &umount);
    assert_eq!(attached, records());
}
