//! How much memory a pull takes beside the image.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::harness::{HostTest, Need, ddictl};
use crate::pull::{Place, detach, serve, talk, without_proxies};
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[HostTest {
    name: "pull_memory::a_pull_takes_little_beside_the_image",
    needs: &[Need::Root, Need::LoopDevices, Need::FileSystem("tmpfs"), Need::Tool("mkfs.ext4")],
    run: a_pull_takes_little_beside_the_image,
}];

const MEBIBYTE: u64 = 1 << 20;

/// The size of the file system in the image.
const SIZE: u64 = 256 * MEBIBYTE;

/// What a pull may take beside the image and the digests of its blocks. The goal for all three is the image and 24 MiB, for
/// one of 1.4 GiB, whose digests take 11 MiB of that.
const BESIDE: u64 = 13 * MEBIBYTE;

/// An image without a page of zeros, and its root hash.
fn image() -> (Arc<[u8]>, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = OpenOptions::new().write(true).create_new(true).open(directory.path().join("ext4")).unwrap();
    file.set_len(SIZE).unwrap();
    succeed(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-O", "^has_journal,^resize_inode", "ext4"])
            .current_dir(directory.path()),
    );
    // Whatever the file system has there is of no use, but its superblock is in front.
    for offset in (16 * MEBIBYTE..SIZE).step_by(1 << 20) {
        let mark = (offset / MEBIBYTE).to_le_bytes();
        file.write_all_at(&mark.repeat((1 << 20) / mark.len()), offset).unwrap();
    }
    let root_hash = succeed(
        ddictl().args(["--quiet", "seal", "--unsigned", "ext4", "image.raw"]).current_dir(directory.path()),
    );
    (fs::read(directory.path().join("image.raw")).unwrap().into(), root_hash.trim().to_owned())
}

/// Runs a command that must succeed, and says how many bytes of anonymous memory it had at the most.
#[expect(clippy::disallowed_methods, reason = "no event tells of memory: it is sampled")]
fn anonymous_memory(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        // It is gone as soon as the command has ended.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        let found = line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        peak = peak.max(found.unwrap_or_default() * 1024);
        thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", talk(&output));
    peak
}

fn a_pull_takes_little_beside_the_image() {
    let (image, root_hash) = image();
    let length = u64::try_from(image.len()).unwrap();
    let digests = SIZE / 4096 * 32;
    let pinned: String = openssl::sha::sha256(&image).iter().map(|byte| format!("{byte:02x}")).collect();
    for verify in ["no", &pinned] {
        let (server, place) = (serve(&image), Place::new());
        let mut command = ddictl();
        command
            .args(["pull", "raw", "--attach", &server.url("/image.raw"), "image", "--sidecars=no"])
            .args([&format!("--verify={verify}"), &format!("--root-hash={root_hash}"), &place.option()]);
        let peak = anonymous_memory(without_proxies(&mut command));
        let placed = fs::metadata(place.path().join("image.raw")).unwrap().blocks() * 512;
        detach("image.raw");
        assert!(placed > SIZE - 17 * MEBIBYTE && placed <= length + 4096, "{verify}: {placed} of {length}");
        // It is measured at all.
        assert!(peak > digests, "{verify}: {peak}");
        assert!(peak <= digests + BESIDE, "{verify}: {peak} bytes beside the image");
    }
}
