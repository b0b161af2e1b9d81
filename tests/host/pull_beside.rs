//! What protects an image lies beside it on the server: fetched, believed where it is proved, and refused otherwise.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::attach::Attached;
use crate::beside::Beside;
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer, Request};
use crate::pull::{Images, Place, refused, talk};
use crate::repart::succeed;

const NEEDS: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::FileSystem("tmpfs"),
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("veritysetup"),
    Need::Tool("xz"),
    Need::Tool("sha256sum"),
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_beside::a_bare_file_system_is_pulled_with_what_protects_it",
        needs: NEEDS,
        run: a_bare_file_system_is_pulled_with_what_protects_it,
    },
    HostTest {
        name: "pull_beside::a_signature_beside_an_image_signs_it",
        needs: NEEDS,
        run: a_signature_beside_an_image_signs_it,
    },
    HostTest {
        name: "pull_beside::an_image_that_proves_itself_is_asked_for_alone",
        needs: NEEDS,
        run: an_image_that_proves_itself_is_asked_for_alone,
    },
    HostTest {
        name: "pull_beside::what_is_wrong_with_the_files_is_refused_and_leaves_nothing",
        needs: NEEDS,
        run: what_is_wrong_with_the_files_is_refused_and_leaves_nothing,
    },
    HostTest {
        name: "pull_beside::what_is_demanded_or_listed_must_be_there",
        needs: NEEDS,
        run: what_is_demanded_or_listed_must_be_there,
    },
    HostTest {
        name: "pull_beside::what_lies_beside_a_file_is_placed_beside_it",
        needs: NEEDS,
        run: what_lies_beside_a_file_is_placed_beside_it,
    },
    HostTest {
        name: "pull_beside::a_large_hash_tree_has_its_room_in_memory",
        needs: NEEDS,
        run: a_large_hash_tree_has_its_room_in_memory,
    },
    HostTest {
        name: "pull_beside::settings_come_where_somebody_vouches_for_them",
        needs: NEEDS,
        run: settings_come_where_somebody_vouches_for_them,
    },
];

/// What a server has, by path.
type Files = BTreeMap<String, Arc<[u8]>>;

/// A server with these files and no others.
fn serve(files: &Files) -> HttpServer {
    let files = files.clone();
    HttpServer::start(move |request| match files.get(&request.path) {
        Some(file) => Answer::ranged(request, Arc::clone(file)),
        None => Answer::status(404),
    })
}

/// The image and the files beside it.
fn files_of(beside: &Beside) -> Files {
    ["raw", "verity", "roothash", "roothash.p7s"]
        .into_iter()
        .map(|end| format!("under-test.{end}"))
        .map(|name| (format!("/{name}"), fs::read(beside.path(&name)).unwrap().into()))
        .collect()
}

fn flipped(files: &Files, path: &str, position: usize) -> Files {
    let mut bytes = files[path].to_vec();
    bytes[position] ^= 1;
    let mut files = files.clone();
    files.insert(path.to_owned(), bytes.into());
    files
}

/// `ddictl pull` of a URL or `-`, trusting the signer of `beside`.
fn pull(beside: &Beside, url: &str, place: &Place, arguments: &[&str]) -> Command {
    let mut command = ddictl();
    command.args(["pull", "raw", url, "pulled", "--attach", &place.option()]);
    if !arguments.iter().any(|word| word.starts_with("--verify=")) {
        command.arg("--verify=no");
    }
    command.arg(format!("--certificate={}", beside.path("k.crt").display())).args(arguments);
    for variable in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command
}

fn a_bare_file_system_is_pulled_with_what_protects_it() {
    let (beside, place) = (Beside::new(), Place::new());
    succeed(Command::new("xz").args(["--keep", "-0"]).arg(beside.image()));
    let mut files = files_of(&beside);
    let image = Arc::clone(&files["/under-test.raw"]);
    let compressed = fs::read(beside.path("under-test.raw.xz")).unwrap().into();
    files.insert("/under-test.raw.xz".to_owned(), compressed);
    let server = serve(&files);
    for name in ["/under-test.raw", "/under-test.raw.xz"] {
        let attached = Attached::by(&mut pull(&beside, &server.url(name), &place, &[]));
        let device = attached.device_of("root");
        assert_eq!(
            (device["reference"].as_str(), device["protection"].as_str(), device["signer"].as_str()),
            (Some("pulled.raw"), Some("signed"), Some("CN=beside test")),
            "{name}"
        );
        assert!(fs::read(&attached.paths()[0]).unwrap() == *image, "{name}");
        for below in device["loops"].as_array().unwrap().iter().skip(1) {
            let path = format!("/sys/block/{}/loop/backing_file", &below["path"].as_str().unwrap()[5..]);
            let backing = fs::read_to_string(path).unwrap();
            assert!(backing.contains("memfd:ddictl"), "{backing}");
        }
        drop(attached);
        assert!(place.is_gone());
    }
    // One that cannot be looked at is asked once whether it can.
    let looks = server.requests();
    let looks = looks.iter().filter(|request| request.path.ends_with(".xz") && !request.ranges().is_empty());
    assert_eq!(looks.count(), 1);
    let planned = succeed(&mut pull(&beside, &server.url("/under-test.raw"), &place, &["--dry-run"]));
    assert!(planned.contains("signed by 'CN=beside test'"), "{planned}");
}

fn a_signature_beside_an_image_signs_it() {
    let (images, beside, place) = (Images::new(), Beside::new(), Place::new());
    let image = beside.path("unsigned.raw");
    fs::write(&image, &images.unsigned).unwrap();
    let told = succeed(ddictl().args(["--quiet", "dissect", "--json=short"]).arg(&image));
    let told: Value = serde_json::from_str(&told).unwrap();
    fs::write(beside.path("hash"), told["partitions"][0]["root_hash"].as_str().unwrap()).unwrap();
    succeed(
        Command::new("openssl")
            .args([
                "cms", "-sign", "-noattr", "-binary", "-in", "hash", "-signer", "k.crt", "-inkey", "k.key",
            ])
            .args(["-outform", "der", "-out", "p7s"])
            .current_dir(beside.path("")),
    );
    let signature: Arc<[u8]> = fs::read(beside.path("p7s")).unwrap().into();
    let alone: Files = [("/os.raw".to_owned(), Arc::clone(&images.unsigned))].into();
    let mut both = alone.clone();
    both.insert("/os.roothash.p7s".to_owned(), signature);
    let (alone, both) = (serve(&alone), serve(&both));
    let protection = |command: &mut Command| Attached::by(command).device_of("root")["protection"].clone();

    assert_eq!(protection(&mut pull(&beside, &both.url("/os.raw"), &place, &[])), "signed");
    // The signature may be here while the image is there, or comes through a pipe.
    let option = format!("--root-hash-sig={}", beside.path("p7s").display());
    assert_eq!(protection(&mut pull(&beside, &alone.url("/os.raw"), &place, &[&option])), "signed");
    let mut piped = pull(&beside, "-", &place, &[&option]);
    piped.stdin(Stdio::from(fs::File::open(&image).unwrap()));
    assert_eq!(protection(&mut piped), "signed");
    // Not without, and not where it is left aside: that is known before the image comes.
    for (server, arguments) in [(&alone, &[][..]), (&both, &["--sidecars=no"])] {
        let mut command = pull(&beside, &server.url("/os.raw"), &place, arguments);
        refused(&mut command, 3, "found root: verity");
    }
    let ranged = both.requests().iter().filter(|request| request.path == "/os.raw").count();
    assert!(ranged > 0);
}

fn an_image_that_proves_itself_is_asked_for_alone() {
    let (images, beside, place) = (Images::new(), Beside::new(), Place::new());
    // Whoever could change what lies beside it could change the image.
    let files: Files = [("/os.raw", &images.good[..]), ("/os.roothash", b"not a root hash")]
        .map(|(path, bytes)| (path.to_owned(), bytes.into()))
        .into();
    let server = serve(&files);
    let paths = || {
        let paths: BTreeSet<String> = server.requests().iter().map(|request| request.path.clone()).collect();
        paths.into_iter().collect::<Vec<_>>()
    };
    let trusting = |arguments: &[&str]| {
        let mut command = pull(&beside, &server.url("/os.raw"), &place, arguments);
        command.arg(images.certificate());
        command
    };
    let planned = succeed(&mut trusting(&["--dry-run"]));
    assert!(planned.contains("signed by"), "{planned}");
    let before = server.requests().len();
    drop(Attached::by(&mut trusting(&[])));
    assert_eq!(paths(), ["/os.raw"]);
    // It is looked at once, and comes once.
    let asked = server.requests().split_off(before);
    let parts: Vec<_> = asked.iter().map(Request::ranges).collect();
    let different: BTreeSet<_> = parts.iter().collect();
    assert!(parts.len() == different.len() && different.contains(&Vec::new()), "{asked:?}");
    // Without its signer it proves nothing, and what lies beside it is looked at; so it is where that is demanded.
    refused(&mut pull(&beside, &server.url("/os.raw"), &place, &[]), 3, "DDI0412");
    let mut demanding = trusting(&["--sidecars=roothash.p7s"]);
    refused(&mut demanding, 3, "it was demanded, and was not found");
    assert!(paths().contains(&"/os.roothash".to_owned()), "{:?}", paths());
    // Where nobody answers it is the image that could not be had.
    let (url, image) = (server.url("/os.raw"), format!("fetching '{}'", server.url("/os.raw")));
    drop(server);
    refused(&mut pull(&beside, &url, &place, &["--retries=1"]), 1, &image);
}

fn what_is_wrong_with_the_files_is_refused_and_leaves_nothing() {
    let (beside, place) = (Beside::new(), Place::new());
    let files = files_of(&beside);
    let last = |path: &str| files[path].len() - 1;
    let without = |path: &str| {
        let mut files = files.clone();
        files.remove(path).unwrap();
        files
    };
    let (data, tree) = ("/under-test.raw", "/under-test.verity");
    let signature = "/under-test.roothash.p7s";
    for (what, files, words) in [
        ("a flipped bit of data", flipped(&files, data, last(data)), "DDI0313"),
        ("a flipped bit of the tree", flipped(&files, tree, last(tree)), "DDI0314"),
        ("another top", flipped(&files, tree, 4096), "DDI0314"),
        ("a signature that does not hold", flipped(&files, signature, last(signature)), "invalid signature"),
        ("no signature", without(signature), "nobody signed it"),
        ("no tree", without(tree), "DDI0316"),
        ("no root hash", without("/under-test.roothash"), "DDI0312"),
    ] {
        let server = serve(&files);
        let mut command = pull(&beside, &server.url(data), &place, &[]);
        refused(&mut command, 3, words);
        assert!(place.is_gone(), "{what}");
        // What the small files tell is known before the image is asked for as a whole.
        let whole = server.requests().iter().any(|request| request.path == data && request.range().is_none());
        let needs_all = words == "DDI0313" || what == "a flipped bit of the tree";
        assert_eq!(whole, needs_all, "{what}");
    }
    // Nobody looks beside it who was told not to.
    let server = serve(&files);
    let mut command = pull(&beside, &server.url(data), &place, &["--sidecars=no"]);
    refused(&mut command, 3, "found root: unprotected");
    assert!(server.requests().iter().all(|request| request.path == data));
    // What cannot be had is not taken for what is not there.
    let image = Arc::clone(&files[data]);
    let broken = HttpServer::start(move |request| match request.path.as_str() {
        "/under-test.raw" => Answer::ranged(request, Arc::clone(&image)),
        _ => Answer::status(403),
    });
    let mut command = pull(&beside, &broken.url(data), &place, &[]);
    refused(&mut command, 1, "--sidecars=no");
}

fn what_is_demanded_or_listed_must_be_there() {
    let (beside, place) = (Beside::new(), Place::new());
    let mut files = files_of(&beside);
    let server = serve(&files);
    let list = "--sidecars=verity,roothash,roothash.p7s";
    let pulled = pull(&beside, &server.url("/under-test.raw"), &place, &[list]).output().unwrap();
    assert!(pulled.status.success(), "{}", talk(&pulled));
    succeed(ddictl().args(["detach", "pulled.raw"]));
    let asked = server.requests();
    assert!(asked.iter().all(|request| !request.path.contains("usrhash")), "{asked:?}");

    files.remove("/under-test.roothash.p7s").unwrap();
    let server = serve(&files);
    let mut command = pull(&beside, &server.url("/under-test.raw"), &place, &[list]);
    refused(&mut command, 3, "it was demanded, and was not found");
    for (words, status) in [("--sidecars=nspawn", 2), ("--sidecars=root", 2), ("--sidecars=", 2)] {
        let mut command = pull(&beside, &server.url("/under-test.raw"), &place, &[words]);
        refused(&mut command, status, "--sidecars");
    }
    let mut piped = pull(&beside, "-", &place, &[list]);
    piped.stdin(Stdio::from(fs::File::open(beside.image()).unwrap()));
    refused(&mut piped, 2, "it has no directory");

    // Sums that list them: the tree of another image does not pass, and one that is missing is missed.
    let sums = succeed(
        Command::new("sha256sum")
            .args(["under-test.raw", "under-test.verity", "under-test.roothash", "under-test.roothash.p7s"])
            .current_dir(beside.path("")),
    );
    let mut files = files_of(&beside);
    files.insert("/SHA256SUMS".to_owned(), sums.into_bytes().into());
    let position = files["/under-test.verity"].len() - 1;
    let mut missing = files.clone();
    missing.remove("/under-test.verity").unwrap();
    for (files, words) in [
        (flipped(&files, "/under-test.verity", position), "another download than expected"),
        (missing, "it is in the sums of the image, and was not found"),
    ] {
        let server = serve(&files);
        let mut command = pull(&beside, &server.url("/under-test.raw"), &place, &["--verify=checksum"]);
        refused(&mut command, 3, words);
    }
}

/// The same without devices.
fn place(beside: &Beside, url: &str, place: &Place, arguments: &[&str]) -> Command {
    let with_devices = pull(beside, url, place, arguments);
    let mut command = ddictl();
    command.args(with_devices.get_args().filter(|argument| *argument != "--attach"));
    for (name, _) in with_devices.get_envs() {
        command.env_remove(name);
    }
    command
}

fn names(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn what_lies_beside_a_file_is_placed_beside_it() {
    let (beside, directory) = (Beside::new(), Place::new());
    let files = files_of(&beside);
    let server = serve(&files);
    let url = server.url("/under-test.raw");
    let all = ["pulled.raw", "pulled.roothash", "pulled.roothash.p7s", "pulled.verity"];
    for arguments in [&["--class=sysext"][..], &["--class=sysext", "--runtime=yes"]] {
        let before = MachineState::now();
        succeed(&mut place(&beside, &url, &directory, arguments));
        assert_eq!(names(&directory), all, "{arguments:?}");
        for name in all {
            let placed = fs::read(directory.path().join(name)).unwrap();
            assert!(placed == *files[&format!("/under-test{}", &name["pulled".len()..])], "{name}");
        }
        // By itself and what lies beside it the file is as good as the image was.
        let certificate = format!("--certificate={}", beside.path("k.crt").display());
        succeed(
            ddictl()
                .args(["--quiet", "verify", "--image-policy=@verified-extension", &certificate])
                .arg(directory.path().join("pulled.raw")),
        );
        if arguments.contains(&"--runtime=yes") {
            succeed(ddictl().args(["detach", "pulled.sysext.raw"]));
        } else {
            refused(&mut place(&beside, &url, &directory, arguments), 1, "it is there already");
            // What lies there would count for another image.
            fs::remove_file(directory.path().join("pulled.raw")).unwrap();
            refused(&mut place(&beside, &url, &directory, arguments), 1, "it would count for the image");
            assert_eq!(names(&directory), all[1..]);
            fs::remove_dir_all(directory.path()).unwrap();
        }
        assert!(directory.is_gone());
        assert_eq!(before.difference(&MachineState::now()), None, "{arguments:?}");
    }
    // Several files are not replaced in one step.
    refused(&mut place(&beside, &url, &directory, &["--force"]), 1, "--sidecars=no");
    for (what, files) in [
        ("data", flipped(&files, "/under-test.raw", files["/under-test.raw"].len() - 1)),
        ("tree", flipped(&files, "/under-test.verity", files["/under-test.verity"].len() - 1)),
    ] {
        let server = serve(&files);
        let mut command = place(&beside, &server.url("/under-test.raw"), &directory, &["--class=sysext"]);
        refused(&mut command, 3, "DDI031");
        assert!(directory.is_gone(), "{what}");
    }
    // A step that fails takes them all along.
    for fault in ["error", "sigterm", "sigkill"] {
        for point in ["pull:beside-linked", "pull:linked"] {
            let before = MachineState::now();
            let mut command = place(&beside, &url, &directory, &["--class=sysext"]);
            let output = command.env("DDICTL_FAULT", format!("{point}={fault}")).output().unwrap();
            assert!(!output.status.success(), "{point}={fault}");
            succeed(ddictl().args(["detach", "--stale"]));
            assert!(directory.is_gone(), "{point}={fault}");
            assert_eq!(before.difference(&MachineState::now()), None, "{point}={fault}");
        }
    }
}

fn a_large_hash_tree_has_its_room_in_memory() {
    let blocks = ["--data-block-size=512", "--hash-block-size=512"];
    let beside = Beside::with_options(&blocks, |directory| {
        // What does not compress, and has a tree that is larger than what a tmpfs has to spare.
        let noise: Vec<u8> =
            (0..8_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::create_dir(directory.join("tree")).unwrap();
        fs::write(directory.join("tree/noise"), noise).unwrap();
        let arguments = ["tree", "under-test.raw", "-noappend", "-quiet", "-no-progress", "-noD"];
        succeed(Command::new("mksquashfs").args(arguments).current_dir(directory));
    });
    let tree = fs::metadata(beside.path("under-test.verity")).unwrap().len();
    assert!(tree > 2 << 20, "{tree}");
    let (server, directory) = (serve(&files_of(&beside)), Place::new());
    let url = server.url("/under-test.raw");
    succeed(&mut place(&beside, &url, &directory, &["--class=sysext", "--runtime=yes"]));
    assert_eq!(fs::metadata(directory.path().join("pulled.verity")).unwrap().len(), tree);
    succeed(ddictl().args(["detach", "pulled.sysext.raw"]));
    assert!(directory.is_gone());
}

fn settings_come_where_somebody_vouches_for_them() {
    let (beside, directory) = (Beside::new(), Place::new());
    let mut files = files_of(&beside);
    files.insert("/under-test.nspawn".to_owned(), b"[Exec]\nBoot=yes\n".as_slice().into());
    let server = serve(&files);
    let url = server.url("/under-test.raw");
    let digest = data_encoding::HEXLOWER.encode(&openssl::sha::sha256(&files["/under-test.raw"]));
    let pinned = format!("--verify={digest}");
    // A pin says nothing of other files, and nobody else does.
    for (arguments, expected) in
        [(&["--sidecars=no"][..], false), (&["--sidecars=auto"], false), (&["--sidecars=nspawn"], true)]
    {
        succeed(&mut place(&beside, &url, &directory, arguments));
        assert_eq!(names(&directory).contains(&"pulled.nspawn".to_owned()), expected, "{arguments:?}");
        fs::remove_dir_all(directory.path()).unwrap();
    }
    for other in ["--class=sysext", "--attach"] {
        let mut command = place(&beside, &url, &directory, &["--sidecars=nspawn"]);
        refused(command.arg(other), 2, "systemd-nspawn");
    }
    succeed(&mut place(&beside, &url, &directory, &[&pinned, "--sidecars=auto"]));
    assert!(names(&directory).contains(&"pulled.raw".to_owned()));
}
