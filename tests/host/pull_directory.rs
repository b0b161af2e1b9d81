//! The directory that pulled images lie in: whose it is, when it is used, and when it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::harness::{HostTest, MachineState, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::pull::{Images, PULL, Place, detach, refused, serve};
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_directory::an_empty_directory_stays_when_its_tmpfs_goes",
        needs: PULL,
        run: an_empty_directory_stays_when_its_tmpfs_goes,
    },
    HostTest {
        name: "pull_directory::a_directory_with_files_must_be_in_memory",
        needs: PULL,
        run: a_directory_with_files_must_be_in_memory,
    },
    HostTest {
        name: "pull_directory::a_tmpfs_of_somebody_else_stays",
        needs: PULL,
        run: a_tmpfs_of_somebody_else_stays,
    },
    HostTest {
        name: "pull_directory::a_relative_directory_is_found_from_everywhere",
        needs: PULL,
        run: a_relative_directory_is_found_from_everywhere,
    },
    HostTest {
        name: "pull_directory::a_name_that_is_taken_is_refused_before_the_download",
        needs: PULL,
        run: a_name_that_is_taken_is_refused_before_the_download,
    },
    HostTest {
        name: "pull_directory::a_file_that_came_first_keeps_its_name",
        needs: PULL,
        run: a_file_that_came_first_keeps_its_name,
    },
    HostTest {
        name: "pull_directory::several_images_share_a_tmpfs_and_the_last_one_takes_it_along",
        needs: PULL,
        run: several_images_share_a_tmpfs_and_the_last_one_takes_it_along,
    },
];

/// A tmpfs of the test's own; it goes with its value.
pub(crate) struct Tmpfs(Place);

impl Tmpfs {
    /// A new one of this size in bytes, or with the unit that mount(8) takes.
    pub(crate) fn new(size: &str) -> Self {
        let place = Place::new();
        fs::create_dir(place.path()).unwrap();
        let options = format!("size={size}");
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place.path()));
        Self(place)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// The option that places images there.
    pub(crate) fn option(&self) -> String {
        self.0.option()
    }

    /// How many bytes are taken, by files without a name too.
    pub(crate) fn used(&self) -> u64 {
        let output = succeed(Command::new("df").args(["--block-size=1", "--output=used"]).arg(self.path()));
        output.lines().nth(1).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // The harness sees what is left.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn mounts_on(directory: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.split(' ').nth(4) == directory.to_str()).count()
}

fn an_empty_directory_stays_when_its_tmpfs_goes() {
    let (images, place) = (Images::new(), Place::new());
    fs::create_dir(place.path()).unwrap();
    let server = serve(&images.good);
    succeed(images.pull(&server.url("/image.raw")).arg(place.option()));
    let mounts = mounts_on(&place.path());
    detach("image.raw");
    assert_eq!((mounts, mounts_on(&place.path())), (1, 0));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    let flipped = serve(&images.flipped());
    refused(images.pull(&flipped.url("/image.raw")).arg(place.option()), 3, "data blocks that differ");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

fn a_directory_with_files_must_be_in_memory() {
    let (images, place) = (Images::new(), Place::new());
    // Not a tmpfs, wherever temporary files are: the tree of the sources.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(directory.path().join("other"), "other").unwrap();
    let server = serve(&images.good);
    let option = format!("--image-root={}", directory.path().display());
    refused(images.pull(&server.url("/image.raw")).arg(option), 1, "--image-root=");
    assert_eq!(fs::read(directory.path().join("other")).unwrap(), b"other");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    // Nor is a file a directory, and what is below none cannot be made.
    fs::write(place.path(), "file").unwrap();
    refused(images.pull(&server.url("/image.raw")).arg(place.option()), 1, "machines");
    assert_eq!(fs::read(place.path()).unwrap(), b"file");
    refused(images.pull(&server.url("/image.raw")).arg(format!("{}/x", place.option())), 1, "machines/x");
}

fn a_tmpfs_of_somebody_else_stays() {
    let images = Images::new();
    let server = serve(&images.good);
    let tmpfs = Tmpfs::new("64M");
    let option = tmpfs.option();
    fs::write(tmpfs.path().join("other"), "other").unwrap();
    let before = MachineState::now();
    succeed(images.pull(&server.url("/image.raw")).arg(&option));
    let there = fs::exists(tmpfs.path().join("image.raw")).unwrap();
    detach("image.raw");
    assert!(there && !fs::exists(tmpfs.path().join("image.raw")).unwrap());
    assert_eq!(fs::read(tmpfs.path().join("other")).unwrap(), b"other");
    assert_eq!(before.difference(&MachineState::now()), None);

    // Also an empty one: nothing is mounted over what somebody has mounted.
    fs::remove_file(tmpfs.path().join("other")).unwrap();
    succeed(images.pull(&server.url("/image.raw")).arg(&option));
    let mounts = mounts_on(&tmpfs.path());
    detach("image.raw");
    assert_eq!((mounts, mounts_on(&tmpfs.path())), (1, 1));

    // One that is too small is said to be, before and without the head's help in the middle.
    let small = Tmpfs::new("256k");
    refused(images.pull(&server.url("/image.raw")).arg(small.option()), 1, "are free there");
    let image = Arc::clone(&images.good);
    let chunked = HttpServer::start(move |_| Answer::bytes(Arc::clone(&image)).chunked(10_000));
    refused(images.pull(&chunked.url("/image.raw")).arg(small.option()), 1, "no room is left");
    assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
}

fn a_relative_directory_is_found_from_everywhere() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let parent = place.path().parent().unwrap().to_owned();
    succeed(images.pull(&server.url("/image.raw")).arg("--image-root=machines").current_dir(&parent));
    succeed(ddictl().args(["detach", "image.raw"]).current_dir("/"));
    assert!(place.is_gone());
}

fn a_name_that_is_taken_is_refused_before_the_download() {
    let images = Images::new();
    let server = serve(&images.good);
    let tmpfs = Tmpfs::new("64M");
    let image = tmpfs.path().join("image.raw");
    fs::write(&image, "somebody's").unwrap();
    refused(images.pull(&server.url("/image.raw")).arg(tmpfs.option()), 1, "it is there already");
    assert!(server.requests().is_empty());
    assert_eq!(fs::read(&image).unwrap(), b"somebody's");

    // A name that is attached, wherever.
    let place = Place::new();
    succeed(images.pull(&server.url("/image.raw")).arg(place.option()));
    let elsewhere = Place::new();
    refused(images.pull(&server.url("/image.raw")).arg(elsewhere.option()), 1, "the name is taken");
    detach("image.raw");
    assert!(place.is_gone() && elsewhere.is_gone());
}

fn a_file_that_came_first_keeps_its_name() {
    let images = Images::new();
    let tmpfs = Tmpfs::new("64M");
    let target = tmpfs.path().join("image.raw");
    // While the image is on its way, somebody takes its name.
    let (image, taken) = (Arc::clone(&images.good), target.clone());
    let server = HttpServer::start(move |_| {
        fs::write(&taken, "somebody's").unwrap();
        Answer::bytes(Arc::clone(&image))
    });
    refused(images.pull(&server.url("/image.raw")).arg(tmpfs.option()), 1, "the name is taken");
    assert_eq!(fs::read(&target).unwrap(), b"somebody's");
}

fn several_images_share_a_tmpfs_and_the_last_one_takes_it_along() {
    let (images, place) = (Images::new(), Place::new());
    let server = serve(&images.good);
    let pull = |name: &str| {
        let mut command = images.pull_as(&server.url("/image.raw"), name);
        command.arg(place.option());
        command
    };
    for order in [["first.raw", "second.raw", "third.raw"], ["third.raw", "first.raw", "second.raw"]] {
        let names = ["first", "second", "third"];
        for name in names {
            succeed(&mut pull(name));
        }
        assert_eq!(mounts_on(&place.path()), 1);
        // One that fails takes nothing along.
        let flipped = serve(&images.flipped());
        refused(images.pull_as(&flipped.url("/x"), "bad").arg(place.option()), 3, "data blocks that differ");
        for (index, reference) in order.into_iter().enumerate() {
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), names.len() - index);
            detach(reference);
        }
        assert!(place.is_gone());
    }

    // At the same time.
    let mut children =
        ["first", "second"].map(|name| pull(name).stdout(std::process::Stdio::null()).spawn().unwrap());
    let succeeded = children.each_mut().map(|child| child.wait().unwrap().success());
    for reference in ["second.raw", "first.raw"] {
        detach(reference);
    }
    assert_eq!(succeeded, [true, true]);
    assert!(place.is_gone());
}
