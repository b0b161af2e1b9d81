//! Pulling a tar: a directory under its name, or nothing at all.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;

use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::pull::{Place, detach, refused, without_proxies};
use crate::repart::succeed;
use crate::tar_builder::{Entry, TarBuilder};

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_tar::an_archive_becomes_a_directory_and_goes_with_it",
        needs: &[Need::Root],
        run: an_archive_becomes_a_directory_and_goes_with_it,
    },
    HostTest {
        name: "pull_tar::every_attack_is_refused_by_name_and_leaves_nothing",
        needs: &[Need::Root],
        run: every_attack_is_refused_by_name_and_leaves_nothing,
    },
    HostTest {
        name: "pull_tar::a_fault_at_any_step_leaves_nothing",
        needs: &[Need::Root],
        run: a_fault_at_any_step_leaves_nothing,
    },
];

fn serve(archive: Vec<u8>) -> HttpServer {
    let archive: Arc<[u8]> = archive.into();
    HttpServer::start(move |request| Answer::ranged(request, Arc::clone(&archive)))
}

fn pull(server: &HttpServer, place: &Place, verify: &str) -> Command {
    let mut command = ddictl();
    command.args(["pull", "tar", &server.url("/tree.tar"), "tree-under-test", verify, "--runtime=yes"]);
    command.arg(place.option());
    without_proxies(&mut command);
    command
}

/// An archive that is taken.
pub(crate) fn good_archive() -> Vec<u8> {
    TarBuilder::new()
        .directory("os/")
        .directory("os/etc/")
        .file("os/etc/os-release", b"ID=tar")
        .entry(&Entry { mode: 0o4755, contents: b"x", ..Entry::new("os/su", b'0') })
        .symbolic_link("os/link", "/etc/passwd")
        .hard_link("os/again", "os/su")
        .finish()
}

fn an_archive_becomes_a_directory_and_goes_with_it() {
    let (server, place) = (serve(good_archive()), Place::new());
    let before = MachineState::now();
    let printed = succeed(&mut pull(&server, &place, "--verify=no"));
    let tree = place.path().join("tree-under-test");
    assert_eq!(printed, format!("{}\n", tree.display()));
    assert_eq!(fs::read(tree.join("etc/os-release")).unwrap(), b"ID=tar");
    let metadata = fs::metadata(tree.join("again")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o4755, 2));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    succeed(ddictl().args(["detach", "--stale"]));
    assert!(succeed(ddictl().arg("list")).contains("tree-under-test"));
    detach("tree-under-test");
    assert!(place.is_gone());
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn every_attack_is_refused_by_name_and_leaves_nothing() {
    let place = Place::new();
    let device = Entry { device: (1, 3), ..Entry::new("null", b'3') };
    let long = [b'n'; 100_000];
    let mut cut = good_archive();
    cut.truncate(cut.len() - 512);
    for (archive, words) in [
        (TarBuilder::new().file("/etc/x", b"").finish(), "absolute path '/etc/x'"),
        (TarBuilder::new().file("../x", b"").finish(), "'..' in '../x'"),
        (
            TarBuilder::new().symbolic_link("a", "/tmp").file("a/x", b"").finish(),
            "through the symbolic link 'a'",
        ),
        (
            TarBuilder::new().directory("a").symbolic_link("a", "..").file("a/x", b"").finish(),
            "through the symbolic link 'a'",
        ),
        (TarBuilder::new().hard_link("a", "/etc/passwd").finish(), "absolute path '/etc/passwd'"),
        (TarBuilder::new().hard_link("a", "b").finish(), "not in the archive before it"),
        (
            TarBuilder::new().symbolic_link("a", "/etc").hard_link("b", "a/passwd").finish(),
            "through the symbolic link 'a'",
        ),
        (TarBuilder::new().file("a", b"").file("a/x", b"").finish(), "below 'a', which is no directory"),
        (TarBuilder::new().entry(&device).finish(), "--device-nodes"),
        (TarBuilder::new().long(b'L', &long).file("n", b"").finish(), "found 100000"),
        (TarBuilder::new().long(b'K', &long).symbolic_link("n", "t").finish(), "100000"),
        (TarBuilder::new().records(&[("path", &long)]).file("n", b"").finish(), "100000"),
        (TarBuilder::new().records(&[("linkpath", &long)]).symbolic_link("n", "t").finish(), "100000"),
        (TarBuilder::new().long(b'L', &b"d/".repeat(2000)).file("n", b"").finish(), "256"),
        (cut, "cut short"),
    ] {
        refused(&mut pull(&serve(archive), &place, "--verify=no"), 3, words);
        assert!(place.is_gone(), "{words}");
    }
    let server = serve(good_archive());
    refused(&mut pull(&server, &place, &format!("--verify={}", "0".repeat(64))), 3, "another download");
    let mut strict = pull(&server, &place, "--verify=no");
    refused(
        strict.arg("--image-policy=@verified-boot"),
        3,
        "demands that all that is exposed is authenticated",
    );
}

fn a_fault_at_any_step_leaves_nothing() {
    let (server, place) = (serve(good_archive()), Place::new());
    let before = MachineState::now();
    let points = ["tree-recorded", "tree-made", "unpacked", "tree-named", "tree-placed"];
    let faults = [("error", Some(1)), ("sigterm", Some(143)), ("sigkill", None)];
    for (point, (fault, status)) in points.iter().flat_map(|point| faults.map(|fault| (point, fault))) {
        let output = pull(&server, &place, "--verify=no")
            .env("DDICTL_FAULT", format!("pull:{point}={fault}"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), status, "{point}={fault}");
        if status.is_none() {
            succeed(ddictl().args(["detach", "--stale"]));
        }
        assert!(place.is_gone(), "{point}={fault}");
        assert_eq!(before.difference(&MachineState::now()), None, "{point}={fault}");
    }
}
