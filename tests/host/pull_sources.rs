//! Pulling what lies in a file of this machine, or comes through a pipe.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::pull::{Images, PULL, Place, detach, pause, refused, talk};
use crate::pull_tar::good_archive;
use crate::pull_verification::{NEEDS, Publisher};
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_sources::what_cannot_be_looked_at_cannot_be_planned",
        needs: &[Need::Root],
        run: what_cannot_be_looked_at_cannot_be_planned,
    },
    HostTest {
        name: "pull_sources::an_image_in_a_file_is_pulled_as_one_on_a_server",
        needs: PULL,
        run: an_image_in_a_file_is_pulled_as_one_on_a_server,
    },
    HostTest {
        name: "pull_sources::an_image_comes_through_a_pipe",
        needs: PULL,
        run: an_image_comes_through_a_pipe,
    },
    HostTest {
        name: "pull_sources::a_tar_comes_from_a_file_and_through_a_pipe",
        needs: &[Need::Root],
        run: a_tar_comes_from_a_file_and_through_a_pipe,
    },
    HostTest {
        name: "pull_sources::sums_lie_beside_a_file_and_not_beside_a_pipe",
        needs: NEEDS,
        run: sums_lie_beside_a_file_and_not_beside_a_pipe,
    },
    HostTest {
        name: "pull_sources::what_is_no_source_is_refused_by_name",
        needs: PULL,
        run: what_is_no_source_is_refused_by_name,
    },
    HostTest {
        name: "pull_sources::a_signal_ends_the_wait_for_a_silent_pipe",
        needs: PULL,
        run: a_signal_ends_the_wait_for_a_silent_pipe,
    },
];

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn sha256(bytes: &[u8]) -> String {
    openssl::sha::sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a command that reads these bytes from a pipe.
fn fed(command: &mut Command, bytes: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever refuses what comes does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait_with_output().unwrap()
}

fn an_image_in_a_file_is_pulled_as_one_on_a_server() {
    let images = Images::new();
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("os_1.raw");
    fs::write(&plain, &*images.good).unwrap();
    let compressed = directory.path().join("os.raw.zst");
    fs::write(&compressed, zstd::encode_all(&images.good[..], 1).unwrap()).unwrap();
    for (path, url) in [(&plain, url(&plain)), (&compressed, url(&compressed))] {
        let place = Place::new();
        let output = succeed(images.pull(&url).args([&place.option(), "--json=short"]));
        let record: Value = serde_json::from_str(&output).unwrap();
        let arrived = fs::read(place.path().join("image.raw"));
        detach("image.raw");
        assert!(arrived.unwrap() == *images.good);
        assert_eq!((&record["state"], &record["policy"]), (&"ready".into(), &"@verified-boot".into()));
        assert_eq!(record["image"]["source"], path.to_str().unwrap());
        assert_eq!(record["devices"][0]["protection"], "signed");
        assert!(place.is_gone());
    }
    assert_eq!(fs::read(&plain).unwrap(), *images.good);

    // A plan reads parts of it, as it does from a server; and the name comes from the file.
    let mut plan = ddictl();
    plan.args(["pull", "raw", &url(&plain), "--verify=no", "--attach", "--dry-run"])
        .arg(images.certificate());
    assert!(succeed(&mut plan).starts_with("plan for 'os_1.raw'"));
}

fn an_image_comes_through_a_pipe() {
    let images = Images::new();
    let pinned = format!("--verify={}", sha256(&images.good));
    let compressed = zstd::encode_all(&images.good[..], 1).unwrap();
    let pull = |place: &Place, mode: &str| {
        let mut command = ddictl();
        command.args(["pull", "raw", "-", "image", "--attach", "--json=short", mode]);
        command.args([images.certificate(), place.option()]);
        command
    };
    for (bytes, mode, digest) in [
        (&images.good[..], "--verify=no", Value::Null),
        (&images.good, &pinned, sha256(&images.good).into()),
        (&compressed, "--verify=no", Value::Null),
    ] {
        let place = Place::new();
        let output = fed(&mut pull(&place, mode), bytes);
        assert!(output.status.success(), "{}", talk(&output));
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        let arrived = fs::read(place.path().join("image.raw"));
        detach("image.raw");
        assert!(arrived.unwrap() == *images.good);
        assert_eq!(
            (&record["image"]["source"], &record["image"]["digest"]),
            (&"standard input".into(), &digest)
        );
        assert!(place.is_gone());
    }
    let before = MachineState::now();
    let place = Place::new();
    for (bytes, mode, status, words) in [
        (&images.flipped()[..], pinned.as_str(), 3, "another download than expected"),
        (&images.flipped(), "--verify=no", 3, "data blocks that differ"),
        (&images.good[..images.good.len() / 2], "--verify=no", 3, "DDI"),
        (&compressed[..compressed.len() / 2], "--verify=no", 3, "cut short"),
        (&[], "--verify=no", 3, "DDI"),
    ] {
        let output = fed(&mut pull(&place, mode), bytes);
        assert_eq!(output.status.code(), Some(status), "{words}: {}", talk(&output));
        assert!(talk(&output).contains(words), "{words}: {}", talk(&output));
        assert!(place.is_gone(), "{words}");
        assert_eq!(before.difference(&MachineState::now()), None, "{words}");
    }
}

fn a_tar_comes_from_a_file_and_through_a_pipe() {
    let archive = good_archive();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("some tree.tar");
    fs::write(&file, &archive).unwrap();
    let pinned = format!("--verify={}", sha256(&archive));
    for (origin, mode) in [(url(&file).replace(' ', "%20"), "--verify=no"), ("-".to_owned(), &pinned)] {
        let (before, place) = (MachineState::now(), Place::new());
        let mut command = ddictl();
        command.args(["pull", "tar", &origin, "tree-under-test", mode, "--runtime=yes", &place.option()]);
        let output = fed(&mut command, &archive);
        assert!(output.status.success(), "{}", talk(&output));
        let found = fs::read(place.path().join("tree-under-test/etc/os-release"));
        detach("tree-under-test");
        assert_eq!(found.unwrap(), b"ID=tar");
        assert!(place.is_gone());
        assert_eq!(before.difference(&MachineState::now()), None);
    }
    let place = Place::new();
    let mut other = ddictl();
    other.args(["pull", "tar", "-", "tree-under-test", &pinned, &place.option()]);
    let output = fed(&mut other, &[&archive[..], &[0; 512]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", talk(&output));
    assert!(talk(&output).contains("another download than expected"), "{}", talk(&output));
    assert!(place.is_gone());
}

fn what_cannot_be_looked_at_cannot_be_planned() {
    let directory = tempfile::tempdir().unwrap();
    for (name, beginning) in [
        ("gzip", &b"\x1f\x8b\x08\0"[..]),
        ("xz", b"\xfd7zXZ\0"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("qcow2", b"QFI\xfb\0\0\0\x03"),
    ] {
        let file = directory.path().join(name);
        fs::write(&file, [beginning, &[0; 4096]].concat()).unwrap();
        let mut command = ddictl();
        command.args(["pull", "raw", &url(&file), "image", "--attach", "--verify=no", "--dry-run"]);
        refused(&mut command, 1, &format!("found {name}: what is in it shows only when it has come"));
    }
}

fn sums_lie_beside_a_file_and_not_beside_a_pipe() {
    let (images, publisher) = (Images::new(), Publisher::new("publisher"));
    publisher.publish(&images.unsigned);
    let published = publisher.path().join("image.raw");
    let keyring = publisher.keyring();
    let pull = |origin: &str, place: &Place, more: &[&str]| {
        let mut command = ddictl();
        command.args(["pull", "raw", origin, "image", "--attach", &place.option()]).args(more);
        command
    };
    let place = Place::new();
    let output = succeed(pull(&url(&published), &place, &[&keyring]).arg("--json=short"));
    let record: Value = serde_json::from_str(&output).unwrap();
    detach("image.raw");
    assert_eq!(record["image"]["digest"], sha256(&images.unsigned));
    assert!(place.is_gone());

    // Another file than the one that was signed, and one that nobody signed.
    fs::write(&published, images.flipped()).unwrap();
    for mode in [keyring.as_str(), "--verify=checksum"] {
        let mut command = pull(&url(&published), &place, &[mode, "--image-policy=*"]);
        refused(&mut command, 3, "another download than expected");
    }
    fs::write(publisher.path().join("other.raw"), &*images.good).unwrap();
    let other = url(&publisher.path().join("other.raw"));
    refused(&mut pull(&other, &place, &[&keyring]), 3, "other.raw");
    fs::remove_file(publisher.path().join("SHA256SUMS.gpg")).unwrap();
    refused(&mut pull(&url(&published), &place, &[&keyring]), 3, "SHA256SUMS.gpg'; have whoever offers it");

    // Nothing lies beside a pipe, and that is said before any of it is read.
    let mut image = File::open(publisher.path().join("other.raw")).unwrap();
    for mode in [&["--verify=checksum"][..], &["--verify=signature"], &[&keyring], &[]] {
        let mut command = pull("-", &place, mode);
        command.stdin(image.try_clone().unwrap());
        refused(&mut command, 2, "'standard input': it has no file name that sums could list");
        assert_eq!(image.stream_position().unwrap(), 0);
    }
    assert!(place.is_gone());
}

fn what_is_no_source_is_refused_by_name() {
    let (images, place) = (Images::new(), Place::new());
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo.raw");
    succeed(Command::new("mkfifo").arg(&fifo));
    let absent = directory.path().join("absent.raw");
    for (origin, status, words) in [
        (url(&absent), 1, "absent.raw"),
        (url(&fifo), 1, "expected a regular file or a block device"),
        (url(directory.path()), 1, "expected a regular file or a block device"),
        ("file:image.raw".to_owned(), 2, "file:image.raw"),
        ("file://server/image.raw".to_owned(), 2, "file://server/image.raw"),
        ("ftp://server/image.raw".to_owned(), 2, "ftp"),
        ("/image.raw".to_owned(), 2, "no scheme"),
    ] {
        refused(images.pull(&origin).arg(place.option()), status, words);
        assert!(place.is_gone(), "{words}");
    }
    let image = directory.path().join("image.raw");
    fs::write(&image, &*images.good).unwrap();
    for (words, expected) in [
        (
            &["pull", "raw", "-", "--verify=no", "--attach"][..],
            "'standard input': it has no file name: give a NAME",
        ),
        (&["pull", "tar", "-", "--verify=no"], "'standard input': it has no file name: give a NAME"),
        (&["pull", "raw", "-", "x", "--verify=no", "--attach", "--dry-run"], "leave out --dry-run"),
    ] {
        let mut stdin = File::open(&image).unwrap();
        refused(ddictl().args(words).arg(place.option()).stdin(stdin.try_clone().unwrap()), 2, expected);
        assert_eq!(stdin.stream_position().unwrap(), 0, "{words:?}");
    }
}

fn a_signal_ends_the_wait_for_a_silent_pipe() {
    let images = Images::new();
    for sent in [&[][..], &images.good[..images.good.len() / 2]] {
        let (before, place) = (MachineState::now(), Place::new());
        let mut child = images
            .pull("-")
            .arg(place.option())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // More than the pipe holds is read by then.
        pipe.write_all(sent).unwrap();
        for _ in 0..10 {
            pause();
        }
        let struck = Instant::now();
        succeed(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]));
        let output = child.wait_with_output().unwrap();
        assert!(struck.elapsed() < Duration::from_secs(2), "{:?}", struck.elapsed());
        assert_eq!(output.status.code(), Some(143), "{}", talk(&output));
        assert!(place.is_gone());
        assert_eq!(before.difference(&MachineState::now()), None);
        drop(pipe);
    }
}
