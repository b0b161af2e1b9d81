//! Pulling an image into a file for others: what lies there in the end, and that nothing does where it is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::ddi_builder::squashfs;
use crate::decoys::{Decoy, decoys};
use crate::faults::{each_fault, points};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::keys::{CertificateOptions, KeyKind, Pair};
use crate::pull::{Images, PULL, Place, detach, refused, serve, talk, without_proxies};
use crate::repart::succeed;
use crate::tar_builder::TarBuilder;
use crate::udev_links::{UDEV, Udevd};

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_file::without_a_policy_it_is_placed_as_it_came_and_says_so",
        needs: PULL,
        run: without_a_policy_it_is_placed_as_it_came_and_says_so,
    },
    HostTest {
        name: "pull_file::under_a_policy_what_is_not_planned_is_gone",
        needs: &[Need::Root],
        run: under_a_policy_what_is_not_planned_is_gone,
    },
    HostTest {
        name: "pull_file::every_refusal_leaves_nothing",
        needs: PULL,
        run: every_refusal_leaves_nothing,
    },
    HostTest {
        name: "pull_file::only_a_file_is_replaced_and_only_by_a_good_one",
        needs: PULL,
        run: only_a_file_is_replaced_and_only_by_a_good_one,
    },
    HostTest {
        name: "pull_file::in_memory_it_stays_until_it_is_detached",
        needs: PULL,
        run: in_memory_it_stays_until_it_is_detached,
    },
    HostTest {
        name: "pull_file::too_little_room_is_said_before_and_found_on_the_way",
        needs: PULL,
        run: too_little_room_is_said_before_and_found_on_the_way,
    },
    HostTest {
        name: "pull_file::a_fault_at_any_step_leaves_nothing",
        needs: UDEV,
        run: a_fault_at_any_step_leaves_nothing,
    },
    HostTest {
        name: "pull_file::a_fault_while_replacing_leaves_one_of_both",
        needs: PULL,
        run: a_fault_while_replacing_leaves_one_of_both,
    },
    HostTest {
        name: "pull_file::an_archive_is_unpacked_on_a_disk_for_good",
        needs: &[Need::Root],
        run: an_archive_is_unpacked_on_a_disk_for_good,
    },
];

/// How many attachments, files and directories in memory there are.
fn records() -> usize {
    let list: Value = serde_json::from_str(&succeed(ddictl().args(["list", "--json=short"]))).unwrap();
    list.as_array().unwrap().len()
}

fn permissions(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn without_a_policy_it_is_placed_as_it_came_and_says_so() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.unsigned);
    let file = place.path().join("image.raw");
    let before = MachineState::now();
    let output = images.place(&server.url("/x.raw"), "image").arg(place.option()).output().unwrap();
    assert!(output.status.success(), "{}", talk(&output));
    assert_eq!(String::from_utf8(output.stdout.clone()).unwrap(), format!("{}\n", file.display()));
    for words in ["nobody vouches for this image", "placed as it came"] {
        assert!(talk(&output).contains(words), "{words}: {}", talk(&output));
    }
    assert_eq!(fs::read(&file).unwrap(), *images.unsigned);
    // Machines have passwords in them: nobody else looks at the file, or into the directory that was made for it.
    assert_eq!((permissions(&file), permissions(&place.path())), (0o600, 0o700));
    assert_eq!((records(), names(&place.path())), (0, vec!["image.raw".to_owned()]));

    // By its digest somebody vouches for it.
    let digest = openssl::sha::sha256(&images.unsigned);
    let verify = format!("--verify={}", data_encoding::HEXLOWER.encode(&digest));
    let mut command = ddictl();
    command.args([
        "pull",
        "raw",
        &server.url("/x.raw"),
        "other",
        &verify,
        &place.option(),
        "--read-only",
        "--sidecars=no",
    ]);
    let output = without_proxies(&mut command).output().unwrap();
    assert!(
        output.status.success() && talk(&output).contains("the download is authentic"),
        "{}",
        talk(&output)
    );
    assert!(!talk(&output).contains("nobody vouches"), "{}", talk(&output));
    assert_eq!(permissions(&place.path().join("other.raw")), 0o400);
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn under_a_policy_what_is_not_planned_is_gone() {
    let pair = Pair::new(KeyKind::P256, &CertificateOptions::named("placed signer"));
    let certificate = NamedTempFile::new().unwrap();
    fs::write(certificate.path(), pair.certificate_pem()).unwrap();
    let certificate = format!("--certificate={}", certificate.path().display());
    let before = MachineState::now();
    for Decoy { what, image, planned } in decoys(&squashfs(), &pair) {
        let place = Place::new();
        let image: Arc<[u8]> = image.into();
        let server = serve(&image);
        let mut command = ddictl();
        command.args([
            "pull",
            "raw",
            &server.url("/x.raw"),
            "image",
            "--verify=no",
            "--class=sysext",
            "--sidecars=no",
            "--json=short",
        ]);
        command.args([&certificate, &place.option()]);
        let output = without_proxies(&mut command).output().unwrap();
        assert!(output.status.success(), "{what}: {}", talk(&output));
        assert!(talk(&output).contains("reduced to partitions"), "{what}: {}", talk(&output));
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(record["policy"], "@verified-extension", "{what}");
        let file = place.path().join("image.raw");
        assert_eq!(record["placed"]["path"], file.to_str().unwrap(), "{what}");
        assert_eq!(permissions(&place.path()), 0o755, "{what}");
        let mut dissect = ddictl();
        dissect.args(["--quiet", "dissect", "--json=short", &certificate]).arg(&file);
        let report: Value = serde_json::from_str(&succeed(&mut dissect)).unwrap();
        let numbers: Vec<u64> =
            report["partitions"].as_array().unwrap().iter().filter_map(|p| p["number"].as_u64()).collect();
        assert_eq!(numbers, planned, "{what}");
        // What is kept is what came, where it was; and the image is good by itself.
        let bytes = fs::read(&file).unwrap();
        for partition in report["partitions"].as_array().unwrap() {
            let number = |field: &str| usize::try_from(partition[field].as_u64().unwrap()).unwrap();
            let range = number("offset")..number("offset") + number("size");
            if partition["designator"] == "root" {
                assert_eq!(bytes[range.clone()], image[range], "{what}");
                assert_eq!(partition["protection"], "signed", "{what}");
            }
        }
        let mut verify = ddictl();
        verify.args(["--quiet", "verify", "--image-policy=@verified-extension", &certificate]).arg(&file);
        succeed(&mut verify);
    }
    assert_eq!((before.difference(&MachineState::now()), records()), (None, 0));
}

fn every_refusal_leaves_nothing() {
    let (images, place) = (Images::new(), Place::new());
    for (image, class, policy, status, words) in [
        (&images.unsigned, "sysext", None, 3, "DDI0501"),
        (&images.unsigned, "confext", None, 3, "DDI0501"),
        (&images.unsigned, "machine", Some("@verified-boot"), 3, "DDI0501"),
        (&images.flipped(), "portable", Some("root=signed"), 3, "data blocks that differ"),
        (&images.good, "machine", Some("-"), 3, "expected a partition that the policy lets be used"),
    ] {
        let server = serve(image);
        let mut command = images.place(&server.url("/x.raw"), "image");
        command.args([format!("--class={class}"), place.option()]);
        command.args(policy.map(|policy| format!("--image-policy={policy}")));
        refused(&mut command, status, words);
        assert!(place.is_gone(), "{words}");
    }
    let server = serve(&images.good);
    for (arguments, status, words) in [
        (&["../x"][..], 2, "expected a name without '/'"),
        (&[".x"], 2, "without a dot in front"),
        (&["x", "--class=machines"], 2, "machines"),
        (&["x", "--attach", "--runtime=no"], 2, "leave out --runtime=no"),
        (&["x", "--attach", "--force"], 2, "leave out --force"),
        (&["x", "--runtime=perhaps"], 2, "perhaps"),
        (&["x", "--device-nodes"], 2, "leave out --device-nodes"),
    ] {
        let mut command = ddictl();
        command.args(["pull", "raw", &server.url("/x.raw"), "--verify=no", &place.option()]).args(arguments);
        refused(&mut command, status, words);
        assert!(place.is_gone(), "{words}");
    }
    // A directory whose own directory is not there is not made.
    let mut deep = images.place(&server.url("/x.raw"), "image");
    refused(deep.arg(format!("{}/a/b", place.option())), 1, "making the directory");
    assert!(place.is_gone());
}

fn only_a_file_is_replaced_and_only_by_a_good_one() {
    let (images, place) = (Images::new(), Place::new());
    let file = place.path().join("image.raw");
    fs::create_dir(place.path()).unwrap();
    fs::write(&file, "the one before").unwrap();
    let pull = |image: &Arc<[u8]>, force: bool| {
        let server = serve(image);
        let mut command = images.place(&server.url("/x.raw"), "image");
        command.args([place.option(), "--image-policy=root=signed".to_owned()]);
        command.args(force.then_some("--force"));
        (command, server)
    };
    let (mut command, server) = pull(&images.good, false);
    refused(&mut command, 1, "replace it with --force");
    assert!(server.requests().is_empty());
    let (mut command, _server) = pull(&images.flipped(), true);
    refused(&mut command, 3, "data blocks that differ");
    assert_eq!(fs::read(&file).unwrap(), b"the one before");
    let (mut command, _server) = pull(&images.good, true);
    succeed(&mut command);
    assert!(fs::read(&file).unwrap().starts_with(&[0; 440]));
    assert_eq!(names(&place.path()), ["image.raw"]);

    // A link is no file, and what it leads to is left alone.
    let precious = place.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    fs::remove_file(&file).unwrap();
    symlink(&precious, &file).unwrap();
    let (mut command, _server) = pull(&images.good, true);
    refused(&mut command, 1, "expected a file to replace");
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
}

fn in_memory_it_stays_until_it_is_detached() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let pull = |class: &str| {
        let mut command = images.place(&server.url("/x.raw"), "image");
        command.args([place.option(), format!("--class={class}"), "--runtime=yes".to_owned()]);
        command
    };
    let before = MachineState::now();
    succeed(&mut pull("machine"));
    let file = place.path().join("image.raw");
    let list = succeed(ddictl().args(["list", "--no-legend"]));
    assert!(list.contains("image.raw") && list.contains(" file "), "{list}");
    succeed(ddictl().args(["detach", "--stale"]));
    assert_eq!(records(), 1);
    refused(pull("machine").arg("--force"), 1, "detach it first");

    // While somebody uses it, it stays.
    let device = succeed(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(&file));
    let output = ddictl().args(["detach", "image.raw"]).output().unwrap();
    assert!(talk(&output).contains(&format!("in use by {}", device.trim_end())), "{}", talk(&output));
    assert!(file.try_exists().unwrap());
    succeed(Command::new("losetup").args(["--detach", device.trim_end()]));
    detach("image.raw");
    assert!(place.is_gone());

    // Of every class there may be one of that name; by its path it is found as well.
    let elsewhere = Place::new();
    succeed(&mut pull("sysext"));
    let mut confext = images.place(&server.url("/x.raw"), "image");
    succeed(confext.args([elsewhere.option(), "--class=confext".to_owned(), "--runtime".to_owned()]));
    let list = succeed(ddictl().args(["list", "--no-legend"]));
    assert!(list.contains("image.sysext.raw") && list.contains("image.confext.raw"), "{list}");
    detach("image.sysext.raw");
    detach(elsewhere.path().join("image.raw").to_str().unwrap());
    assert!(place.is_gone() && elsewhere.is_gone());

    // One that somebody removed is reaped.
    succeed(&mut pull("machine"));
    fs::remove_file(&file).unwrap();
    succeed(ddictl().args(["detach", "--stale"]));
    assert!(place.is_gone());
    assert_eq!((before.difference(&MachineState::now()), records()), (None, 0));
}

fn too_little_room_is_said_before_and_found_on_the_way() {
    let images = Images::new();
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(place.path()));
    let server = serve(&images.good);
    let mut known = images.place(&server.url("/x.raw"), "image");
    let image = Arc::clone(&images.good);
    let chunked = HttpServer::start(move |_| Answer::bytes(Arc::clone(&image)).chunked(10_000));
    let mut unknown = images.place(&chunked.url("/x.raw"), "image");
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        refused(known.arg(place.option()), 1, "can be had");
        refused(unknown.arg(place.option()), 1, "no room is left");
        assert_eq!(names(&place.path()), [""; 0]);
    }));
    succeed(Command::new("umount").arg(place.path()));
    result.unwrap();
}

fn a_fault_at_any_step_leaves_nothing() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let _udevd = Udevd::start();
    for runtime in ["--runtime=no", "--runtime=yes"] {
        let pull = || {
            let mut command = images.place(&server.url("/x.raw"), "image");
            command.args([place.option(), runtime.to_owned(), "--class=sysext".to_owned()]);
            command
        };
        let detach = || {
            if runtime == "--runtime=yes" {
                detach("image.sysext.raw");
            } else {
                assert_eq!(names(&place.path()), ["image.raw"]);
                fs::remove_dir_all(place.path()).unwrap();
            }
            assert!(place.is_gone());
        };
        let points = points(&mut pull());
        detach();
        for expected in
            ["recorded", "mounted", "receiving", "writing", "received", "reduced", "verified", "linked"]
        {
            assert!(points.contains(&format!("pull:{expected}")), "{expected}: {points:?}");
        }
        each_fault(&points, &pull, &detach);
        assert!(place.is_gone(), "{runtime}");
    }
}

fn a_fault_while_replacing_leaves_one_of_both() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    fs::create_dir(place.path()).unwrap();
    let file = place.path().join("image.raw");
    for (point, fault, replaced) in [
        ("verified", "error", false),
        ("linked", "error", false),
        ("linked", "sigterm", false),
        ("linked", "sigkill", false),
        ("replaced", "sigkill", true),
    ] {
        fs::write(&file, "the one before").unwrap();
        let mut command = images.place(&server.url("/x.raw"), "image");
        command.args([place.option(), "--force".to_owned()]);
        let output = command.env("DDICTL_FAULT", format!("pull:{point}={fault}")).output().unwrap();
        assert!(!output.status.success(), "{point}={fault}");
        succeed(ddictl().args(["detach", "--stale"]));
        assert_eq!(names(&place.path()), ["image.raw"], "{point}={fault}");
        let expected = if replaced { &*images.good } else { b"the one before".as_slice() };
        assert!(fs::read(&file).unwrap() == expected, "{point}={fault}");
        assert_eq!(records(), 0, "{point}={fault}");
    }
}

fn an_archive_is_unpacked_on_a_disk_for_good() {
    let place = Place::new();
    let archive: Arc<[u8]> = TarBuilder::new().directory("etc/").file("etc/x", b"x").finish().into();
    let server = serve(&archive);
    let before = MachineState::now();
    let mut command = ddictl();
    command.args(["pull", "tar", &server.url("/tree.tar"), "--verify=no", "--runtime=no", &place.option()]);
    let printed = succeed(without_proxies(&mut command));
    assert_eq!(printed, format!("{}\n", place.path().join("tree").display()));
    assert_eq!(fs::read(place.path().join("tree/etc/x")).unwrap(), b"x");
    assert_eq!(
        (permissions(&place.path()), names(&place.path()), records()),
        (0o700, vec!["tree".to_owned()], 0)
    );
    assert_eq!(before.difference(&MachineState::now()), None);
    let status = command.output().unwrap();
    assert!(talk(&status).contains("it is there already"), "{}", talk(&status));
}
