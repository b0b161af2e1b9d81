//! What `trust.d` takes back, by every way on which an image comes: before the download where that can be, and from a cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::attach::ATTACH;
use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::pull::{Images, PULL, Place, detach, talk, without_proxies};
use crate::pull_tar::good_archive;
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "trust_rules::a_revoked_root_hash_is_refused_on_every_way",
        needs: PULL,
        run: a_revoked_root_hash_is_refused_on_every_way,
    },
    HostTest {
        name: "trust_rules::a_revoked_download_is_refused_whoever_vouches_for_it",
        needs: PULL,
        run: a_revoked_download_is_refused_whoever_vouches_for_it,
    },
    HostTest {
        name: "trust_rules::a_certificate_signs_only_the_class_and_name_that_it_is_for",
        needs: PULL,
        run: a_certificate_signs_only_the_class_and_name_that_it_is_for,
    },
    HostTest {
        name: "trust_rules::files_hide_each_other_and_one_that_is_wrong_stops_everything",
        needs: &[Need::Root, Need::Tool("mksquashfs"), Need::Tool("unshare")],
        run: files_hide_each_other_and_one_that_is_wrong_stops_everything,
    },
    HostTest {
        name: "trust_rules::what_is_attached_is_asked_again_when_it_is_mounted",
        needs: ATTACH,
        run: what_is_attached_is_asked_again_when_it_is_mounted,
    },
];

/// A file of rules.
struct Rules(TempDir);

impl Rules {
    fn saying(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("rules.conf"), text).unwrap();
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("rules.conf")
    }

    fn option(&self) -> String {
        format!("--trust-rules={}", self.path().display())
    }
}

fn root_hash(image: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.raw");
    fs::write(&path, image).unwrap();
    let report = succeed(ddictl().args(["--quiet", "dissect", "--json=short"]).arg(&path));
    let report: Value = serde_json::from_str(&report).unwrap();
    report["partitions"][0]["root_hash"].as_str().unwrap().to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&openssl::sha::sha256(bytes))
}

/// `ddictl pull --attach` of an image that is verified as a whole.
fn pull_verified(images: &Images, url: &str, verify: &str) -> Command {
    let mut command = ddictl();
    command
        .args(["pull", "raw", url, "image", "--attach", "--sidecars=no", verify])
        .arg(images.certificate());
    without_proxies(&mut command);
    command
}

/// A server of one image that counts what it sent.
fn counting(image: &Arc<[u8]>) -> (HttpServer, Arc<AtomicUsize>) {
    let (image, sent) = (Arc::clone(image), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&sent);
    let server = HttpServer::start(move |request| {
        let ranges = request.ranges_of(image.len());
        let asked = |(first, last): &(usize, usize)| last.saturating_add(1).min(image.len()) - first;
        let length = if ranges.is_empty() { image.len() } else { ranges.iter().map(asked).sum() };
        count.fetch_add(length, Ordering::Relaxed);
        Answer::ranged(request, Arc::clone(&image))
    });
    (server, sent)
}

/// Asserts that the command refuses the image with these words, and leaves nothing.
fn refuses(command: &mut Command, words: &[&str]) -> Output {
    let before = MachineState::now();
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", talk(&output));
    for word in words {
        assert!(talk(&output).contains(word), "expected '{word}': {}", talk(&output));
    }
    assert_eq!(before.difference(&MachineState::now()), None);
    output
}

fn a_revoked_root_hash_is_refused_on_every_way() {
    let images = Images::new();
    let rules = Rules::saying(&format!("revoke-root-hash = {} \"CVE-2026-1\"\n", root_hash(&images.good)));
    let words = ["DDI0414", "CVE-2026-1"];
    let (server, sent) = counting(&images.good);
    let url = server.url("/image.raw");
    let digest = format!("--verify={}", sha256(&images.good));
    for (verify, more) in [
        ("--verify=no", &[][..]),
        ("--verify=no", &["--image-policy=*"]),
        (&digest, &[]),
        ("--verify=no", &["--dry-run"]),
    ] {
        let place = Place::new();
        sent.store(0, Ordering::Relaxed);
        let mut command = pull_verified(&images, &url, verify);
        refuses(command.args([rules.option(), place.option()]).args(more), &words);
        // It did not even come.
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent < 200_000 && sent < images.good.len() / 2, "{verify} {more:?}: {sent}");
        assert!(place.is_gone());
    }
    // Placed as it came, and under a policy.
    for more in [&[][..], &["--image-policy=root=signed"], &["--class=sysext"]] {
        let place = Place::new();
        refuses(images.place(&url, "image").args([rules.option(), place.option()]).args(more), &words);
        assert!(place.is_gone(), "{more:?}");
    }
    // What was kept when it was good is not good any more.
    let (cache, place) = (tempfile::tempdir().unwrap(), Place::new());
    let cache = format!("--cache={}", cache.path().join("cache").display());
    let pull = || {
        let mut command = images.pull(&url);
        command.args([&cache, &place.option()]);
        command
    };
    succeed(&mut pull());
    detach("image.raw");
    refuses(pull().arg(rules.option()), &words);
    // Another image by the same signer is as good as before.
    let (other, _) = counting(&images.salted());
    succeed(images.pull(&other.url("/image.raw")).args([rules.option(), place.option()]));
    detach("image.raw");
}

fn a_revoked_download_is_refused_whoever_vouches_for_it() {
    let images = Images::new();
    let digest = sha256(&images.good);
    let rules = Rules::saying(&format!("revoke-image = {digest} \"old kernel\"\n"));
    let words = ["was revoked", "old kernel"];
    let (server, sent) = counting(&images.good);
    let url = server.url("/image.raw");
    for more in [&[][..], &["--image-policy=*"]] {
        let place = Place::new();
        refuses(images.pull(&url).args([rules.option(), place.option()]).args(more), &words);
        refuses(images.place(&url, "image").args([rules.option(), place.option()]).args(more), &words);
        assert!(place.is_gone());
    }
    // Where its digest is known it is not asked for.
    sent.store(0, Ordering::Relaxed);
    let place = Place::new();
    let pinned = format!("--verify={digest}");
    refuses(pull_verified(&images, &url, &pinned).args([rules.option(), place.option()]), &words);
    assert_eq!(sent.load(Ordering::Relaxed), 0);
    // From a cache as well.
    let directory = tempfile::tempdir().unwrap();
    let cache = format!("--cache={}", directory.path().join("cache").display());
    succeed(images.pull(&url).args([&cache, &place.option()]));
    detach("image.raw");
    refuses(images.pull(&url).args([&cache, &place.option(), &rules.option()]), &words);

    let archive = good_archive();
    let digest = sha256(&archive);
    let rules = Rules::saying(&format!("revoke-image = {digest}\n"));
    let archive: Arc<[u8]> = archive.into();
    let (server, _) = counting(&archive);
    for verify in ["--verify=no".to_owned(), format!("--verify={digest}")] {
        let place = Place::new();
        let url = server.url("/os.tar");
        let mut command = ddictl();
        command.args(["pull", "tar", &url, "os", &verify, &rules.option(), &place.option()]);
        without_proxies(&mut command);
        refuses(&mut command, &["was revoked"]);
        assert!(place.is_gone());
    }
}

fn a_certificate_signs_only_the_class_and_name_that_it_is_for() {
    let images = Images::new();
    let certificate = images.certificate();
    let path = certificate.split_once('=').unwrap().1;
    let printed =
        succeed(Command::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in", path]));
    let fingerprint = printed.trim().split_once('=').unwrap().1.to_owned();
    let rules = Rules::saying(&format!("limit-certificate = {fingerprint} sysext:web-* machine:os\n"));
    let (server, sent) = counting(&images.good);
    let url = server.url("/image.raw");
    for (class, name, words) in [
        ("machine", "web-1", "class machine, name 'web-1'"),
        ("sysext", "os", "class sysext, name 'os'"),
        ("confext", "web-1", "class confext, name 'web-1'"),
    ] {
        let place = Place::new();
        let class = format!("--class={class}");
        sent.store(0, Ordering::Relaxed);
        let mut command = images.pull_as(&url, name);
        refuses(command.args([rules.option(), place.option()]).arg(&class), &["not for this class", words]);
        assert!(sent.load(Ordering::Relaxed) < 200_000);
        assert!(place.is_gone());
    }
    let place = Place::new();
    succeed(images.pull_as(&url, "os").args([rules.option(), place.option()]));
    detach("os.raw");
    let mut command = images.place(&url, "web-1");
    succeed(command.args([rules.option(), place.option()]).arg("--class=sysext"));
    assert!(place.path().join("web-1.raw").is_file());
}

/// Runs `script` where no directory of rules of this machine is seen, with `/usr/local/lib` and `/run` empty.
fn in_empty_directories(script: &str, image: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_ddictl");
    let hidden = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /usr/local/lib && \
                  mkdir -p /run/ddictl/trust.d /usr/local/lib/ddictl/trust.d";
    Command::new("unshare")
        .args(["--mount", "--propagation=private", "sh", "-ec"])
        .arg(format!(
            "{hidden}\nR=/run/ddictl/trust.d L=/usr/local/lib/ddictl/trust.d\n{script}\n\"$0\" dissect \"$1\""
        ))
        .arg(program)
        .arg(image)
        .output()
        .unwrap()
}

fn files_hide_each_other_and_one_that_is_wrong_stops_everything() {
    let images = Images::new();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image.raw");
    fs::write(&image, &images.good).unwrap();
    let hash = root_hash(&images.good);
    let revoke = format!("revoke-root-hash = {hash}");
    let is_revoked = |script: &str| {
        let output = in_empty_directories(script, &image);
        assert!(output.status.success(), "{script}: {}", talk(&output));
        talk(&output).contains("DDI0414")
    };
    assert!(!is_revoked(":"));
    assert!(is_revoked(&format!("echo '{revoke}' > $R/a.conf")));
    assert!(is_revoked(&format!("echo '{revoke}' > $L/a.conf")));
    assert!(is_revoked(&format!("echo '{revoke}' > $L/a.conf; echo '# none' > $R/b.conf")));
    // Other names are no rules.
    assert!(!is_revoked(&format!("echo '{revoke}' > $L/a.conf.bak; echo nonsense > $L/README")));
    // An earlier directory hides a later one: with other rules, with nothing, with a link to nothing.
    for hides in ["echo '# none' > $R/a.conf", ": > $R/a.conf", "ln -s /dev/null $R/a.conf"] {
        assert!(!is_revoked(&format!("echo '{revoke}' > $L/a.conf; {hides}")), "{hides}");
    }
    for (wrong, words) in [
        ("echo 'revoke-root-hash = 00' > $L/a.conf", "line 1"),
        ("echo nonsense > $R/a.conf", "expected 'revoke-root-hash'"),
        ("ln -s /nowhere $R/a.conf", "No such file"),
        ("mkfifo $R/a.conf", "expected a regular file"),
        ("mkdir $R/a.conf", "expected a regular file"),
        ("ln -s /dev/zero $R/a.conf", "expected a regular file"),
        ("printf '\\377' > $R/a.conf", "utf-8"),
        ("head -c 2000000 /dev/zero > $R/a.conf", "at most 1048576 bytes"),
    ] {
        let output = in_empty_directories(wrong, &image);
        assert_eq!(output.status.code(), Some(1), "{wrong}: {}", talk(&output));
        assert!(talk(&output).contains("reading the trust rules"), "{wrong}: {}", talk(&output));
        assert!(talk(&output).contains(words), "{wrong}: {}", talk(&output));
    }
}

fn what_is_attached_is_asked_again_when_it_is_mounted() {
    let images = Images::new();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("revoked-later.raw");
    fs::write(&image, &images.good).unwrap();
    let rules = Rules::saying(&format!("revoke-root-hash = {}\n", root_hash(&images.good)));
    let target = directory.path().join("mnt");
    fs::create_dir(&target).unwrap();
    let attach = || {
        let mut command = ddictl();
        command.args(["--quiet", "attach", "--in-memory", &images.certificate()]).arg(&image);
        command
    };
    refuses(attach().arg(rules.option()), &["DDI0414"]);
    refuses(attach().args([&rules.option(), "--image-policy=*"]), &["DDI0414"]);
    refuses(
        ddictl().args(["attach", "--whole-disk", "--image-policy=*", &rules.option()]).arg(&image),
        &["DDI0414"],
    );
    succeed(&mut attach());
    refuses(
        ddictl().args(["mount", &images.certificate(), &rules.option()]).args([&image, &target]),
        &["DDI0414"],
    );
    detach("revoked-later.raw");
}
