//! Pulling through a cache: what does not come again, what does, and that nothing in a cache counts by itself.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::faults::has_dm_verity;
use crate::harness::{HostTest, MachineState, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::pull::{Images, PULL, Place, detach, refused, talk};
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_cache::what_is_there_in_the_same_version_does_not_come_again",
        needs: PULL,
        run: what_is_there_in_the_same_version_does_not_come_again,
    },
    HostTest {
        name: "pull_cache::a_pinned_image_needs_no_server",
        needs: PULL,
        run: a_pinned_image_needs_no_server,
    },
    HostTest {
        name: "pull_cache::a_damaged_entry_is_dropped_and_fetched_again",
        needs: PULL,
        run: a_damaged_entry_is_dropped_and_fetched_again,
    },
    HostTest {
        name: "pull_cache::what_an_adversary_puts_there_is_refused",
        needs: PULL,
        run: what_an_adversary_puts_there_is_refused,
    },
    HostTest {
        name: "pull_cache::what_is_refused_is_not_kept",
        needs: PULL,
        run: what_is_refused_is_not_kept,
    },
    HostTest {
        name: "pull_cache::the_oldest_go_and_what_is_too_large_comes_without_it",
        needs: PULL,
        run: the_oldest_go_and_what_is_too_large_comes_without_it,
    },
    HostTest {
        name: "pull_cache::a_kill_while_it_is_kept_leaves_a_cache_that_works",
        needs: PULL,
        run: a_kill_while_it_is_kept_leaves_a_cache_that_works,
    },
];

/// An image, and the entity tag of its version.
type Version = (Arc<[u8]>, &'static str);

/// A server of one image, which can be exchanged, with a version of it that it tells.
struct Server {
    current: Arc<Mutex<Version>>,
    server: HttpServer,
}

impl Server {
    fn of(image: &Arc<[u8]>) -> Self {
        let current = Arc::new(Mutex::new((Arc::clone(image), "\"1\"")));
        let answered = Arc::clone(&current);
        let server = HttpServer::start(move |request| {
            let (image, version) = answered.lock().unwrap().clone();
            Answer::ranged(request, image).header("ETag", version)
        });
        Self { current, server }
    }

    fn change(&self, image: &Arc<[u8]>, version: &'static str) {
        *self.current.lock().unwrap() = (Arc::clone(image), version);
    }
}

/// A cache in a directory of its own.
struct Cache(TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn option(&self) -> String {
        format!("--cache={}", self.path().display())
    }

    /// The downloads that are kept.
    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "download"));
        paths.sort();
        paths
    }
}

fn pull(images: &Images, server: &Server, cache: &Cache, place: &Place) -> Command {
    let mut command = images.pull(&server.server.url("/image.raw"));
    command.args([cache.option(), place.option()]);
    command
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", talk(&output));
    output
}

/// Changes a file that has no permission to write.
fn change(path: &Path, change: impl FnOnce(&fs::File)) {
    let permissions = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    change(&fs::OpenOptions::new().read(true).write(true).open(path).unwrap());
    fs::set_permissions(path, permissions).unwrap();
}

fn what_is_there_in_the_same_version_does_not_come_again() {
    let (images, cache, place) = (Images::new(), Cache::new(), Place::new());
    let server = Server::of(&images.good);
    let before = MachineState::now();
    done(&mut pull(&images, &server, &cache, &place));
    detach("image.raw");
    let kept = cache.kept();
    assert_eq!(kept.len(), 1);
    let digest = data_encoding::HEXLOWER.encode(&openssl::sha::sha256(&images.good));
    assert_eq!(kept[0].file_stem().unwrap().to_str(), Some(digest.as_str()));
    assert_eq!(fs::read(&kept[0]).unwrap(), *images.good);
    assert_eq!(fs::metadata(cache.path()).unwrap().mode() & 0o7777, 0o700);

    let output = done(&mut pull(&images, &server, &cache, &place));
    assert!(talk(&output).contains("the server has the version that is in the cache"), "{}", talk(&output));
    // Where dm-verity guards it, memory need not hold it.
    assert_eq!(talk(&output).contains("used from the cache"), has_dm_verity(), "{}", talk(&output));
    assert_eq!(place.is_gone(), has_dm_verity());
    detach("image.raw");
    assert!(place.is_gone());

    // Another version is another download, and both are kept.
    server.change(&images.salted(), "\"2\"");
    let output = done(&mut pull(&images, &server, &cache, &place));
    assert!(!talk(&output).contains("in the cache"), "{}", talk(&output));
    detach("image.raw");
    assert_eq!(cache.kept().len(), 2);
    assert_eq!(before.difference(&MachineState::now()), None);
}

fn a_pinned_image_needs_no_server() {
    let (images, cache, place) = (Images::new(), Cache::new(), Place::new());
    let digest = data_encoding::HEXLOWER.encode(&openssl::sha::sha256(&images.unsigned));
    let server = Server::of(&images.unsigned);
    let url = server.server.url("/image.raw");
    let pinned = || {
        let mut command = ddictl();
        let verify = format!("--verify={digest}");
        command.args(["pull", "raw", &url, "image", "--attach", "--sidecars=no", "--retries=0", &verify]);
        command.args([cache.option(), place.option()]);
        command
    };
    done(&mut pinned());
    detach("image.raw");
    drop(server);
    // Nobody signed what is in it: it counts because the whole download is verified, in memory and not on the disk.
    let output = done(&mut pinned());
    assert!(talk(&output).contains("the image is in the cache"), "{}", talk(&output));
    assert!(!talk(&output).contains("used from the cache") && !place.is_gone(), "{}", talk(&output));
    detach("image.raw");
    assert!(place.is_gone());

    // As a file as well.
    let mut file = pinned();
    file.args(["--class=sysext"]);
    let arguments: Vec<_> =
        file.get_args().filter(|argument| *argument != "--attach").map(ToOwned::to_owned).collect();
    done(ddictl().args(arguments));
    assert!(place.path().join("image.raw").try_exists().unwrap());
}

fn a_damaged_entry_is_dropped_and_fetched_again() {
    let (images, cache, place) = (Images::new(), Cache::new(), Place::new());
    let server = Server::of(&images.good);
    done(&mut pull(&images, &server, &cache, &place));
    detach("image.raw");
    let kept = cache.kept().remove(0);
    let length = u64::try_from(images.good.len()).unwrap();
    // In the data, in the hash tree's partition or the signature, and in the table.
    for offset in [length / 2, length - 20_000, 600] {
        change(&kept, |file| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        });
        let output = done(&mut pull(&images, &server, &cache, &place));
        detach("image.raw");
        // Where the byte is nobody's, the image is as good as before on a disk, and not the same download in memory.
        if !talk(&output).contains("used from the cache") {
            assert!(talk(&output).contains("it is fetched again"), "{offset}: {}", talk(&output));
        }
        done(&mut pull(&images, &server, &cache, &place));
        detach("image.raw");
    }
    // Cut short it is no entry at all.
    change(&cache.kept()[0], |file| file.set_len(1000).unwrap());
    let output = done(&mut pull(&images, &server, &cache, &place));
    assert!(!talk(&output).contains("in the cache"), "{}", talk(&output));
    detach("image.raw");
    assert_eq!(fs::read(&cache.kept()[0]).unwrap(), *images.good);
    assert!(place.is_gone());
}

fn what_an_adversary_puts_there_is_refused() {
    let (images, cache, place) = (Images::new(), Cache::new(), Place::new());
    let server = Server::of(&images.good);
    done(&mut pull(&images, &server, &cache, &place));
    detach("image.raw");
    let good = cache.kept().remove(0);
    // Another image under its own digest, said to be the version that the server has.
    for (image, words) in [(&images.flipped(), "data blocks that differ"), (&images.unsigned, "DDI0501")] {
        let digest = data_encoding::HEXLOWER.encode(&openssl::sha::sha256(image));
        let planted = good.with_file_name(format!("{digest}.download"));
        fs::write(&planted, image).unwrap();
        let description = fs::read_to_string(good.with_extension("json")).unwrap();
        let size = |length: usize| format!("\"size\": {length}");
        let (before, after) = (size(images.good.len()), size(image.len()));
        assert!(description.contains(&before), "{description}");
        fs::write(planted.with_extension("json"), description.replace(&before, &after)).unwrap();
        fs::remove_file(good.with_extension("json")).unwrap();
        if image.len() == images.good.len() {
            refused(&mut pull(&images, &server, &cache, &place), 3, words);
            assert!(!planted.try_exists().unwrap(), "{words}");
        }
        // What is planted does not keep the good one from coming.
        done(&mut pull(&images, &server, &cache, &place));
        detach("image.raw");
        assert!(place.is_gone());
    }
}

fn what_is_refused_is_not_kept() {
    let (images, cache, place) = (Images::new(), Cache::new(), Place::new());
    for (image, words) in
        [(images.flipped(), "data blocks that differ"), (Arc::clone(&images.unsigned), "DDI0501")]
    {
        let server = Server::of(&image);
        refused(&mut pull(&images, &server, &cache, &place), 3, words);
        assert!(cache.kept().is_empty(), "{words}");
    }
    // What a look at it tells is not brought into the cache first.
    let server = Server::of(&images.unsigned);
    let mut looked_at = pull(&images, &server, &cache, &place);
    refused(looked_at.env("DDICTL_FAULT", "pull:received=sigkill"), 3, "DDI0501");
    let server = Server::of(&images.good);
    let mut other = ddictl();
    other.args(["pull", "raw", &server.server.url("/image.raw"), "image", "--attach", "--sidecars=no"]);
    other.args([&format!("--verify={}", "0".repeat(64)), &cache.option(), &place.option()]);
    refused(&mut other, 3, "another download than expected");
    assert!(cache.kept().is_empty());
}

fn the_oldest_go_and_what_is_too_large_comes_without_it() {
    let (images, cache, place) = (Images::new(), Cache::new(), Place::new());
    let server = Server::of(&images.good);
    // Room for one and a half.
    let room = format!("--cache-size={}", images.good.len() * 3 / 2);
    done(pull(&images, &server, &cache, &place).arg(&room));
    detach("image.raw");
    let first = cache.kept();
    server.change(&images.salted(), "\"2\"");
    done(pull(&images, &server, &cache, &place).arg(&room));
    detach("image.raw");
    let second = cache.kept();
    assert!(second.len() == 1 && second != first, "{second:?}");

    server.change(&images.good, "\"3\"");
    let output = done(pull(&images, &server, &cache, &place).arg("--cache-size=1K"));
    assert!(talk(&output).contains("is not kept in the cache"), "{}", talk(&output));
    detach("image.raw");
    assert!(place.is_gone());
}

fn a_kill_while_it_is_kept_leaves_a_cache_that_works() {
    let (images, cache, place) = (Images::new(), Cache::new(), Place::new());
    let server = Server::of(&images.good);
    let before = MachineState::now();
    for point in ["pull:received", "cache:keeping", "cache:linked"] {
        for fault in ["error", "sigterm", "sigkill"] {
            let output = pull(&images, &server, &cache, &place)
                .env("DDICTL_FAULT", format!("{point}={fault}"))
                .output()
                .unwrap();
            assert!(!output.status.success(), "{point}={fault}");
            succeed(ddictl().args(["detach", "--stale"]));
            assert!(place.is_gone(), "{point}={fault}");
            assert_eq!(before.difference(&MachineState::now()), None, "{point}={fault}");
            // What was kept is good, and what is half of an entry is none.
            done(&mut pull(&images, &server, &cache, &place));
            detach("image.raw");
            assert_eq!(cache.kept().len(), 1, "{point}={fault}");
            fs::remove_dir_all(cache.path()).unwrap();
        }
    }
}
