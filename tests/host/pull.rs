//! Pulling: from a server that may do anything, into memory, to devices; or to nothing at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::attach::loops_of_verified;
use crate::faults::{each_fault, has_dm_verity, points};
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer, Request, TestAuthority};
use crate::repart::succeed;
use crate::udev_links::{UDEV, Udevd, links};

/// What pulling needs.
pub(crate) const PULL: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::FileSystem("tmpfs"),
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull::a_signed_image_becomes_a_device_in_memory",
        needs: PULL,
        run: a_signed_image_becomes_a_device_in_memory,
    },
    HostTest {
        name: "pull::without_a_place_of_its_own_it_is_run_machines",
        needs: &[
            Need::Root,
            Need::LoopDevices,
            Need::Tool("mksquashfs"),
            Need::Tool("openssl"),
            Need::Absent("/run/machines"),
        ],
        run: without_a_place_of_its_own_it_is_run_machines,
    },
    HostTest {
        name: "pull::https_needs_an_authority_that_vouches",
        needs: PULL,
        run: https_needs_an_authority_that_vouches,
    },
    HostTest {
        name: "pull::every_refusal_has_its_reason_and_leaves_nothing",
        needs: PULL,
        run: every_refusal_has_its_reason_and_leaves_nothing,
    },
    HostTest {
        name: "pull::a_redirect_from_https_to_http_is_refused",
        needs: PULL,
        run: a_redirect_from_https_to_http_is_refused,
    },
    HostTest {
        name: "pull::what_the_plan_saw_counts_for_nothing",
        needs: PULL,
        run: what_the_plan_saw_counts_for_nothing,
    },
    HostTest {
        name: "pull::a_compressed_image_arrives_as_what_is_in_it",
        needs: PULL,
        run: a_compressed_image_arrives_as_what_is_in_it,
    },
    HostTest {
        name: "pull::a_download_that_breaks_off_is_taken_up_again",
        needs: PULL,
        run: a_download_that_breaks_off_is_taken_up_again,
    },
    HostTest {
        name: "pull::what_is_shown_and_what_is_sent_are_judged_apart",
        needs: PULL,
        run: what_is_shown_and_what_is_sent_are_judged_apart,
    },
    HostTest {
        name: "pull::hashed_with_a_lie_it_is_hashed_again",
        needs: PULL,
        run: hashed_with_a_lie_it_is_hashed_again,
    },
    HostTest {
        name: "pull::a_body_without_a_length_is_taken",
        needs: PULL,
        run: a_body_without_a_length_is_taken,
    },
    HostTest {
        name: "pull::a_signal_ends_the_wait_for_a_silent_server",
        needs: PULL,
        run: a_signal_ends_the_wait_for_a_silent_server,
    },
    HostTest {
        name: "pull::a_fault_at_any_step_leaves_nothing",
        needs: UDEV,
        run: a_fault_at_any_step_leaves_nothing,
    },
    HostTest {
        name: "pull::the_links_lead_to_the_root_that_was_pulled",
        needs: UDEV,
        run: the_links_lead_to_the_root_that_was_pulled,
    },
    HostTest {
        name: "pull::a_plan_needs_little_and_no_privilege",
        needs: PULL,
        run: a_plan_needs_little_and_no_privilege,
    },
    HostTest {
        name: "pull::a_bar_is_for_terminals",
        needs: &[
            Need::Root,
            Need::LoopDevices,
            Need::Tool("mksquashfs"),
            Need::Tool("openssl"),
            Need::Tool("script"),
        ],
        run: a_bar_is_for_terminals,
    },
];

/// How long a command may take that has nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Images, each in memory, and who is trusted to have signed them.
pub(crate) struct Images {
    directory: TempDir,
    /// Signed by whom the tests trust, with one partition of data: the root.
    pub(crate) good: Arc<[u8]>,
    /// The same tree, signed by somebody else.
    foreign: Arc<[u8]>,
    /// The same tree without a signature.
    pub(crate) unsigned: Arc<[u8]>,
    /// Where the root lies in the good image: first byte and length.
    root: (usize, usize),
}

impl Images {
    /// New ones, with new keys.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        // Others than root read the certificate.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(path.join("tree/usr/lib")).unwrap();
        fs::write(path.join("tree/usr/lib/os-release"), "ID=pull-test\n").unwrap();
        let noise: Vec<u8> =
            (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(path.join("tree/noise"), noise).unwrap();
        for name in ["good", "foreign"] {
            succeed(
                Command::new("openssl")
                    .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
                    .args(["-days", "3", "-subj", &format!("/CN={name} signer")])
                    .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")])
                    .current_dir(path),
            );
        }
        let seal = |name: &str, key: Option<&str>| -> Arc<[u8]> {
            let mut command = ddictl();
            command.args(["--quiet", "seal", "tree", name]).current_dir(path);
            match key {
                Some(key) => {
                    command.args([format!("--private-key={key}.key"), format!("--certificate={key}.crt")])
                }
                None => command.arg("--unsigned"),
            };
            succeed(&mut command);
            fs::read(path.join(name)).unwrap().into()
        };
        let (good, foreign, unsigned) = (
            seal("good.raw", Some("good")),
            seal("foreign.raw", Some("foreign")),
            seal("unsigned.raw", None),
        );
        let report: Value = serde_json::from_str(&succeed(
            ddictl().args(["--quiet", "dissect", "--json=short"]).arg(path.join("good.raw")),
        ))
        .unwrap();
        let number = |field: &str| usize::try_from(report["partitions"][0][field].as_u64().unwrap()).unwrap();
        assert_eq!(report["partitions"][0]["designator"], "root");
        let root = (number("offset"), number("size"));
        Self { directory, good, foreign, unsigned, root }
    }

    /// The good image with one bit of its data flipped.
    pub(crate) fn flipped(&self) -> Arc<[u8]> {
        let mut bytes = self.good.to_vec();
        bytes[self.root.0 + self.root.1 / 2] ^= 1;
        bytes.into()
    }

    /// The good image with another salt in its hash tree, by the same signer.
    pub(crate) fn salted(&self) -> Arc<[u8]> {
        succeed(
            ddictl()
                .args([
                    "--quiet",
                    "seal",
                    "tree",
                    "salted.raw",
                    "--seed=01234567-89ab-4cde-8f01-23456789abcd",
                ])
                .args(["--private-key=good.key", "--certificate=good.crt"])
                .current_dir(self.directory.path()),
        );
        fs::read(self.directory.path().join("salted.raw")).unwrap().into()
    }

    /// `ddictl pull` of `url` as `image`, with the certificate of the good key.
    pub(crate) fn pull(&self, url: &str) -> Command {
        self.pull_as(url, "image")
    }

    /// `ddictl pull --attach` of `url` as `name`.
    pub(crate) fn pull_as(&self, url: &str, name: &str) -> Command {
        let mut command = self.place(url, name);
        command.arg("--attach");
        command
    }

    /// `ddictl pull` of `url` into a file for `name`.
    pub(crate) fn place(&self, url: &str, name: &str) -> Command {
        let mut command = ddictl();
        // Most servers of these tests have the image under any name, also those of files beside it.
        command.args(["pull", "raw", url, name, "--verify=no", "--sidecars=no"]).arg(self.certificate());
        without_proxies(&mut command);
        command
    }

    /// The option that names the certificate of the good key.
    pub(crate) fn certificate(&self) -> String {
        format!("--certificate={}", self.directory.path().join("good.crt").display())
    }
}

/// The tests' own server is not to be asked through somebody's proxy.
pub(crate) fn without_proxies(command: &mut Command) -> &mut Command {
    for variable in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command
}

/// A directory for images that is not there yet, below one that is.
pub(crate) struct Place(TempDir);

impl Place {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("machines")
    }

    /// The option that names it.
    pub(crate) fn option(&self) -> String {
        format!("--image-root={}", self.path().display())
    }

    /// Whether it is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.path().symlink_metadata().is_err()
    }
}

impl Drop for Place {
    /// A test that failed shall not make the next ones fail: what it has attached here is taken down.
    fn drop(&mut self) {
        for entry in fs::read_dir("/run/ddictl/attachments").into_iter().flatten().flatten() {
            let record: Value = fs::read_to_string(entry.path())
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default();
            let path = record["placed"]["path"].as_str().unwrap_or_default();
            if Path::new(path).starts_with(self.0.path())
                && let Some(reference) = record["reference"].as_str()
            {
                // The harness sees what is left.
                let _ = ddictl().args(["detach", reference]).status();
            }
        }
    }
}

/// What a command said on standard error.
pub(crate) fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Serves `image` whole or in parts under any path but those of files that would lie beside it.
pub(crate) fn serve(image: &Arc<[u8]>) -> HttpServer {
    let image = Arc::clone(image);
    HttpServer::start(move |request| {
        let beside = [".roothash", ".usrhash", ".p7s", ".verity"];
        match beside.iter().any(|end| request.path.ends_with(end)) {
            true => Answer::status(404),
            false => Answer::ranged(request, Arc::clone(&image)),
        }
    })
}

/// Takes down the attachment `image.raw`.
pub(crate) fn detach(reference: &str) {
    succeed(ddictl().args(["detach", reference]));
}

/// Runs a command that must fail with this exit status for a reason in these words, and leave the machine as it was.
pub(crate) fn refused(command: &mut Command, status: i32, words: &str) {
    let before = MachineState::now();
    let output = command.output().unwrap();
    let talk = talk(&output);
    assert_eq!(output.status.code(), Some(status), "{words}: {talk}");
    assert!(talk.contains(words), "expected '{words}': {talk}");
    assert!(!talk.contains("undoing"), "{talk}");
    assert_eq!(output.stdout, b"", "{words}");
    assert_eq!(before.difference(&MachineState::now()), None, "{words}");
}

fn a_signed_image_becomes_a_device_in_memory() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let output = succeed(images.pull(&server.url("/image.raw")).args([&place.option(), "--json=short"]));
    let record: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output.lines().count(), 1);
    // What was looked at before came over the same connection.
    assert_eq!((server.connections(), server.requests().len()), (1, 4));

    // The file: in a tmpfs of its own, for nobody to write.
    let file = place.path().join("image.raw");
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.len()),
        (0o400, u64::try_from(images.good.len()).unwrap())
    );
    assert_eq!(fs::read(&file).unwrap(), *images.good);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(4) == place.path().to_str()).unwrap();
    assert!(mount.contains(" - tmpfs ") && mount.contains("nosuid,nodev,noexec"), "{mount}");

    // The record.
    assert_eq!(record["reference"], "image.raw");
    assert_eq!(record["state"], "ready");
    assert_eq!(record["policy"], "@verified-boot");
    assert_eq!(record["image"]["source"], server.url("/image.raw"));
    // Nothing needs the digest of the download here: what is used is verified against its hash tree.
    assert_eq!(record["image"]["digest"], Value::Null);
    let [device] = record["devices"].as_array().unwrap().as_slice() else { panic!("{record}") };
    assert_eq!((&device["reference"], &device["protection"]), (&"image.raw-part1".into(), &"signed".into()));

    // The device: the root and nothing else, and it says which file it comes from.
    let node = Path::new(device["path"].as_str().unwrap());
    let (start, length) = images.root;
    assert_eq!(fs::read(node).unwrap(), images.good[start..start + length]);
    assert!(fs::File::options().write(true).open(node).and_then(|node| node.write_all_at(b"x", 0)).is_err());
    let system = Path::new("/sys/block").join(node.file_name().unwrap());
    assert_eq!(fs::exists(system.join("dm")).unwrap(), has_dm_verity());
    let loops = device["loops"].as_array().unwrap();
    assert_eq!(loops.len(), loops_of_verified());
    for below in loops {
        let name = Path::new(below["path"].as_str().unwrap()).file_name().unwrap();
        let backing = fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file"));
        assert_eq!(backing.unwrap().trim_end(), file.to_str().unwrap());
    }
    assert_eq!(fs::read_to_string(system.join("ro")).unwrap(), "1\n");

    detach("image.raw");
    assert!(place.is_gone());
}

fn without_a_place_of_its_own_it_is_run_machines() {
    let images = Images::new();
    let server = serve(&images.good);
    // The name comes from the URL, the image from anywhere below it.
    let url = server.url("/some/where/os_1.raw");
    let mut command = ddictl();
    command.args(["pull", "raw", &url, "--verify=no", "--attach", &images.certificate()]);
    let output = succeed(&mut command);
    let [device] = output.lines().collect::<Vec<_>>()[..] else { panic!("{output}") };
    let kind = if has_dm_verity() { "/dev/dm-" } else { "/dev/loop" };
    assert!(device.starts_with(kind), "{output}");
    assert!(fs::exists("/run/machines/os_1.raw").unwrap());
    detach(device);
    assert!(!fs::exists("/run/machines").unwrap());
}

fn https_needs_an_authority_that_vouches() {
    let (images, place, authority) = (Images::new(), Place::new(), TestAuthority::new("pull test"));
    let image = Arc::clone(&images.good);
    let server = HttpServer::start_tls(&authority.issue("127.0.0.1"), move |request| {
        Answer::ranged(request, Arc::clone(&image))
    });
    let bundle = tempfile::NamedTempFile::new().unwrap();
    fs::write(bundle.path(), authority.pem()).unwrap();
    let with = |authority: &Path| {
        let mut command = images.pull(&server.url("/image.raw"));
        command.arg(place.option()).arg(format!("--ca-certificate={}", authority.display()));
        command
    };
    succeed(&mut with(bundle.path()));
    detach("image.raw");

    let stranger = tempfile::NamedTempFile::new().unwrap();
    fs::write(stranger.path(), TestAuthority::new("stranger").pem()).unwrap();
    refused(&mut with(stranger.path()), 1, "certificate");
    assert!(place.is_gone());
}

/// What a server answers to a request.
type Handler = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

fn every_refusal_has_its_reason_and_leaves_nothing() {
    let images = Images::new();
    let always = |answer: Answer| -> Handler { Box::new(move |_| answer.clone()) };
    let good = || Answer::bytes(Arc::clone(&images.good));
    let half = images.good.len() / 2;
    let zstd = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(&images.good).unwrap();
        encoder.finish().unwrap()
    };
    let mut changed = zstd.clone();
    changed[zstd.len() / 2] ^= 0x40;
    let compressed = |magic: &[u8]| always(Answer::bytes([magic, &[0; 5000]].concat()));
    let table: Vec<(Handler, i32, &str)> = vec![
        (always(Answer::bytes(Arc::clone(&images.unsigned))), 3, "found root: verity"),
        (always(Answer::bytes(Arc::clone(&images.foreign))), 3, "untrusted signer"),
        (always(Answer::bytes(images.flipped())), 3, "data blocks that differ from the hash tree"),
        (always(Answer::bytes(&images.good[..half])), 3, "DDI"),
        (always(Answer::bytes(vec![0; 1 << 20])), 3, "DDI"),
        (always(Answer::bytes([])), 3, "DDI"),
        (always(good().cut_after(half)), 1, "broke off"),
        (always(good().chunked(9999).cut_after(half)), 1, "before its last chunk"),
        (always(good().claim_length(images.good.len() + 1)), 1, "expected"),
        // Far more than there is: refused by the head alone, and the body never asked for.
        (always(good().claim_length(1 << 50).stall_after(0)), 1, "bytes of memory"),
        (always(good().without_length()), 1, "length"),
        (always(good().header("Content-Encoding", "gzip")), 1, "gzip"),
        (always(Answer::status(404)), 1, "404"),
        (always(Answer::status(503)), 1, "503"),
        (always(Answer::hang_up()), 1, "fetching"),
        (always(Answer::garbage()), 1, "fetching"),
        (compressed(b"\x1f\x8b\x08\0"), 3, "decompressing gzip"),
        (compressed(b"\xfd7zXZ\0"), 3, "decompressing xz"),
        (compressed(b"\x28\xb5\x2f\xfd"), 3, "decompressing zstd"),
        (compressed(b"BZh9"), 3, "decompressing bzip2"),
        (compressed(b"\x04\x22\x4d\x18"), 3, "decompressing lz4"),
        (always(Answer::bytes(&zstd[..zstd.len() / 2])), 3, "cut short"),
        (always(Answer::bytes([&zstd[..], b"more"].concat())), 3, "trailing bytes"),
        (always(Answer::bytes(changed)), 3, "decompressing zstd"),
    ];
    for (handler, status, words) in table {
        let place = Place::new();
        let server = HttpServer::start(handler);
        // What may pass is not waited for here.
        let patience = ["--retries=0", "--stall-timeout=20"];
        refused(images.pull(&server.url("/image.raw")).args(patience).arg(place.option()), status, words);
        assert!(place.is_gone(), "{words}");
        assert!(!server.requests().is_empty(), "{words}");
    }
}

fn a_redirect_from_https_to_http_is_refused() {
    let (images, place, authority) = (Images::new(), Place::new(), TestAuthority::new("pull test"));
    let plain = serve(&images.good);
    let target = plain.url("/image.raw");
    let secure = HttpServer::start_tls(&authority.issue("127.0.0.1"), move |_| Answer::redirect(&target));
    let bundle = tempfile::NamedTempFile::new().unwrap();
    fs::write(bundle.path(), authority.pem()).unwrap();
    let mut command = images.pull(&secure.url("/image.raw"));
    command.arg(place.option()).arg(format!("--ca-certificate={}", bundle.path().display()));
    refused(&mut command, 1, "it leaves https for http");
    assert!(plain.requests().is_empty() && place.is_gone());
}

fn what_the_plan_saw_counts_for_nothing() {
    let (images, place) = (Images::new(), Place::new());
    // Parts of the good image for whoever asks for parts; for the whole, another one.
    for (other, words) in
        [(images.flipped(), "data blocks that differ"), (Arc::clone(&images.foreign), "untrusted signer")]
    {
        let good = Arc::clone(&images.good);
        let server = HttpServer::start(move |request| match request.range() {
            Some(_) => Answer::ranged(request, Arc::clone(&good)),
            None => Answer::bytes(Arc::clone(&other)),
        });
        let mut command = images.pull(&server.url("/image.raw"));
        command.arg(place.option());
        assert!(succeed(command.arg("--dry-run")).starts_with("plan for 'image.raw'"));
        refused(images.pull(&server.url("/image.raw")).arg(place.option()), 3, words);
        assert!(place.is_gone());
    }
    // The same URL, and another image at the second request for all of it.
    let (good, flipped, asked) = (Arc::clone(&images.good), images.flipped(), AtomicUsize::new(0));
    let server = HttpServer::start(move |request| match request.range() {
        Some(_) => Answer::status(416),
        None => match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::bytes(Arc::clone(&good)),
            _ => Answer::bytes(Arc::clone(&flipped)),
        },
    });
    succeed(images.pull(&server.url("/image.raw")).arg(place.option()));
    detach("image.raw");
    refused(images.pull(&server.url("/image.raw")).arg(place.option()), 3, "data blocks that differ");
}

fn a_compressed_image_arrives_as_what_is_in_it() {
    let images = Images::new();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&images.good).unwrap();
        encoder.finish().unwrap()
    };
    let xz = liblzma::encode_all(&images.good[..], 1).unwrap();
    let bzip2 = {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(&images.good).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&images.good[..], 1).unwrap();
    for (compressed, suffix) in [(gzip, "gz"), (xz, "xz"), (bzip2, "bz2"), (zstd, "zst")] {
        let place = Place::new();
        let server = HttpServer::start(move |request| Answer::ranged(request, compressed.clone()));
        let mut command = images.pull(&server.url(&format!("/image.raw.{suffix}")));
        succeed(command.arg(place.option()));
        let arrived = fs::read(place.path().join("image.raw"));
        detach("image.raw");
        assert!(arrived.unwrap() == *images.good, "{suffix}");
        assert!(place.is_gone());
    }
}

/// Where the server answers requests for parts, a bad image is refused before it is downloaded, and never accepted because
/// of what the parts show.
fn what_is_shown_and_what_is_sent_are_judged_apart() {
    let images = Images::new();
    let (good, bad) = (&images.good, &images.foreign);
    for (shown, sent, status) in [(good, good, 0), (good, bad, 3), (bad, good, 3), (bad, bad, 3)] {
        let place = Place::new();
        let (parts, whole) = (Arc::clone(shown), Arc::clone(sent));
        let server = HttpServer::start(move |request| match request.range() {
            Some(_) => Answer::ranged(request, Arc::clone(&parts)),
            None => Answer::bytes(Arc::clone(&whole)),
        });
        let mut command = images.pull(&server.url("/image.raw"));
        let output = command.arg(place.option()).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", talk(&output));
        let downloaded = server.requests().iter().any(|request| request.range().is_none());
        assert_eq!(downloaded, Arc::ptr_eq(shown, good));
        if status == 0 {
            detach("image.raw");
        } else {
            assert!(talk(&output).contains("untrusted signer"), "{}", talk(&output));
        }
        assert!(place.is_gone());
    }
}

/// Cut after every tenth of the body: with a validator it goes on there, without one it begins anew.
fn a_download_that_breaks_off_is_taken_up_again() {
    let images = Images::new();
    for validated in [true, false] {
        let place = Place::new();
        let (image, asked) = (Arc::clone(&images.good), AtomicUsize::new(0));
        let tenth = image.len() / 10;
        let server = HttpServer::start(move |request| {
            let answer = Answer::ranged(request, Arc::clone(&image));
            let answer = if validated { answer.header("ETag", "\"1\"") } else { answer };
            // Neither the preflight nor the last attempt.
            let whole = request.range().is_none() || request.header("If-Range").is_some();
            if whole && asked.fetch_add(1, Ordering::SeqCst) < 3 { answer.cut_after(tenth) } else { answer }
        });
        let output = images.pull(&server.url("/image.raw")).arg(place.option()).output().unwrap();
        let said = talk(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("trying again"), "{said}");
        assert_eq!(said.contains("begins anew"), !validated, "{said}");
        let resumed = server.requests().iter().filter(|request| request.header("If-Range").is_some()).count();
        assert_eq!(resumed, if validated { 3 } else { 0 });
        let arrived = fs::read(place.path().join("image.raw"));
        detach("image.raw");
        assert!(arrived.unwrap() == *images.good);
    }
}

/// A server that shows one image to whoever asks for parts, and sends another: the parts say with which salt to hash what
/// comes, and where it lies.
fn hashed_with_a_lie_it_is_hashed_again() {
    let (images, place) = (Images::new(), Place::new());
    let (salted, good) = (images.salted(), Arc::clone(&images.good));
    assert_eq!(salted.len(), good.len());
    let mut flipped = salted.to_vec();
    flipped[images.root.0 + images.root.1 / 2] ^= 1;
    let flipped: Arc<[u8]> = flipped.into();
    let pull = |shown: &Arc<[u8]>, sent: &Arc<[u8]>| {
        let (shown, sent) = (Arc::clone(shown), Arc::clone(sent));
        let server = HttpServer::start(move |request| match request.range() {
            Some(_) => Answer::ranged(request, Arc::clone(&shown)),
            None => Answer::bytes(Arc::clone(&sent)),
        });
        let mut command = images.pull(&server.url("/image.raw"));
        command.arg(place.option());
        (server, command)
    };
    let cut: Arc<[u8]> = good[..good.len() / 2].into();
    for (shown, sent) in [(&good, &salted), (&salted, &good), (&flipped, &salted)] {
        let (server, mut command) = pull(shown, sent);
        succeed(&mut command);
        let arrived = fs::read(place.path().join("image.raw"));
        detach("image.raw");
        assert!(arrived.unwrap() == **sent);
        assert!(server.requests().iter().any(|request| request.range().is_some()));
    }
    for shown in [&good, &salted, &flipped] {
        let (_server, mut command) = pull(shown, &flipped);
        refused(&mut command, 3, "data blocks that differ");
    }
    // What is shown is refused already.
    let (server, mut command) = pull(&cut, &good);
    refused(&mut command, 3, "DDI0103");
    assert!(server.requests().iter().all(|request| request.range().is_some()));
    assert!(place.is_gone());
}

fn a_body_without_a_length_is_taken() {
    let (images, place) = (Images::new(), Place::new());
    // Chunks that are no multiple of anything.
    let image = Arc::clone(&images.good);
    let server = HttpServer::start(move |_| Answer::bytes(Arc::clone(&image)).chunked(4099));
    succeed(images.pull(&server.url("/image.raw")).arg(place.option()));
    let arrived = fs::read(place.path().join("image.raw"));
    detach("image.raw");
    assert_eq!(arrived.unwrap(), *images.good);
    assert!(place.is_gone());
}

fn a_signal_ends_the_wait_for_a_silent_server() {
    let images = Images::new();
    let half = images.good.len() / 2;
    let good = || Answer::bytes(Arc::clone(&images.good));
    for (answer, signal, status) in [
        (good().stall_after(half), "TERM", 143),
        (good().stall_after(0), "INT", 130),
        (Answer::hang(), "TERM", 143),
        (Answer::hang(), "HUP", 129),
    ] {
        let (before, place) = (MachineState::now(), Place::new());
        let server = HttpServer::start(move |_| answer.clone());
        let child = images
            .pull(&server.url("/image.raw"))
            .arg(place.option())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while server.requests().is_empty() {
            assert!(Instant::now() < deadline, "the server was not asked");
            pause();
        }
        // So that some of it is on its way.
        pause();
        let struck = Instant::now();
        succeed(Command::new("kill").args(["-s", signal, &child.id().to_string()]));
        let output = child.wait_with_output().unwrap();
        assert!(struck.elapsed() < Duration::from_secs(2), "{signal}: {:?}", struck.elapsed());
        assert_eq!(output.status.code(), Some(status), "{}", talk(&output));
        assert!(place.is_gone());
        assert_eq!(before.difference(&MachineState::now()), None);
    }
}

fn a_fault_at_any_step_leaves_nothing() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let _udevd = Udevd::start();
    let pull = || {
        let mut command = images.pull(&server.url("/image.raw"));
        command.arg(place.option());
        command
    };
    let detach = || {
        detach("image.raw");
        assert!(place.is_gone());
    };
    let points = points(&mut pull());
    detach();
    let device: &[&str] = match has_dm_verity() {
        true => &["attach:data-0", "attach:hash-0", "attach:verity-0"],
        false => &["attach:loop-0"],
    };
    for expected in [
        "attach:before-record",
        "pull:recorded",
        "pull:mounted",
        "pull:receiving",
        "pull:writing",
        "pull:received",
        "pull:verified",
        "pull:linked",
        "pull:immutable",
        "attach:record",
        "attach:ready",
        "attach:announced",
        "attach:device-0-stands",
    ]
    .iter()
    .chain(device)
    {
        assert!(points.iter().any(|point| point == expected), "{expected}: {points:?}");
    }
    each_fault(&points, &pull, &detach);
    assert!(place.is_gone());
}

fn the_links_lead_to_the_root_that_was_pulled() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let _udevd = Udevd::start();
    let output = succeed(images.pull(&server.url("/image.raw")).arg(place.option()));
    let device = fs::canonicalize(output.trim_end()).unwrap();
    let found = ["image.raw-part1", "image.raw-root"]
        .map(|name| fs::canonicalize(Path::new("/dev/disk/by-loop-ref").join(name)).unwrap());
    let all = links().len();
    detach("image.raw");
    assert_eq!((found, all), ([device.clone(), device], 2));
    assert!(links().is_empty() && place.is_gone());
}

fn a_plan_needs_little_and_no_privilege() {
    let images = Images::new();
    // A server that sends several parts at once, and one that has to be asked for each.
    let serve_parts = |several: bool| {
        let (image, sent) = (Arc::clone(&images.good), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&sent);
        let server = HttpServer::start(move |request| {
            let answer = match several || request.ranges().len() == 1 {
                true => Answer::ranged(request, Arc::clone(&image)),
                false => Answer::status(416),
            };
            counter.fetch_add(answer.body().len(), Ordering::SeqCst);
            answer
        });
        (server, sent)
    };
    // Where nobody can reach it but root, the program is copied to.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("ddictl");
    fs::copy(env!("CARGO_BIN_EXE_ddictl"), &program).unwrap();
    for (several, most, bytes) in [(true, 3, 128 << 10), (false, 6, 4 << 20)] {
        let (server, sent) = serve_parts(several);
        let mut command = Command::new(&program);
        command
            .args(["pull", "raw", &server.url("/image.raw"), "image", "--verify=no", "--attach", "--dry-run"])
            .args([&images.certificate(), "--json=short", "--sidecars=no"])
            .current_dir("/")
            .uid(65534)
            .gid(65534);
        let plan: Value = serde_json::from_str(&succeed(&mut command)).unwrap();
        assert_eq!(plan["reference"], "image.raw");
        assert_eq!(plan["devices"][0]["designator"], "root");
        assert_eq!(plan["devices"][0]["protection"], "signed");
        assert_eq!(plan["devices"][0]["offset"].as_u64(), u64::try_from(images.root.0).ok());
        let requests = server.requests();
        assert!(requests.iter().all(|request| request.range().is_some()), "{requests:?}");
        let (requests, sent) = (requests.len(), sent.load(Ordering::SeqCst));
        assert!(requests <= most && sent <= bytes, "{requests} requests, {sent} bytes");
        assert_eq!(server.connections(), 1);
    }

    // A server that cannot send parts is no reason for a download behind the user's back.
    let image = Arc::clone(&images.good);
    let whole = HttpServer::start(move |_| Answer::bytes(Arc::clone(&image)));
    refused(images.pull(&whole.url("/image.raw")).arg("--dry-run"), 1, "range");
    // Nor is what the plan refuses.
    let unsigned = serve(&images.unsigned);
    refused(images.pull(&unsigned.url("/image.raw")).arg("--dry-run"), 3, "found root: verity");
}

fn a_bar_is_for_terminals() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let pull = |words: &[&str]| {
        let mut command = images.pull(&server.url("/image.raw"));
        command.arg(place.option()).args(words);
        command
    };
    let output = pull(&[]).output().unwrap();
    detach("image.raw");
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    assert!(!output.stderr.contains(&b'\x1b') && !talk(&output).contains("downloading"), "{}", talk(&output));

    for (words, expected) in [([].as_slice(), true), (&["--quiet"], false)] {
        let command = pull(words);
        let line: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let shown = succeed(
            Command::new("script")
                .args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"])
                .env("TERM", "xterm")
                .stdin(Stdio::null()),
        );
        detach("image.raw");
        assert_eq!(shown.contains("downloading"), expected, "{shown:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "what is waited for happens in another process")]
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(20));
}
