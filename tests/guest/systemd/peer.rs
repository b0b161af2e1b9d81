//! Programs of another Debian, in its own tree, on the devices and mounts of this guest.

use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use ddictl::kernel::loop_device;

use crate::harness;
pub(crate) use crate::repart::succeed;

/// Where the guest and every tree see the same mounts.
const SHARED: &str = "/mnt";

/// Mounts below `/mnt` are seen in every tree, and the other way round, for as long as this lives.
#[derive(Debug)]
pub(crate) struct SharedMounts;

impl SharedMounts {
    /// Makes `/mnt` such a place.
    pub(crate) fn new() -> Self {
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", SHARED]));
        let made = Self;
        succeed(Command::new("mount").args(["--make-shared", SHARED]));
        made
    }
}

impl Drop for SharedMounts {
    fn drop(&mut self) {
        umount_all(Path::new(SHARED));
    }
}

/// A Debian tree in which programs can be started that see the devices, `/run` and `/tmp` of the guest.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    tree: PathBuf,
    /// The upstream version of its systemd, as in `262.1`.
    pub(crate) version: String,
    _shared: &'a SharedMounts,
}

impl<'a> Peer<'a> {
    /// The tree of that suite; the reason where it cannot be had.
    pub(crate) fn new(suite: &str, shared: &'a SharedMounts) -> Result<Self, String> {
        let tree = harness::debian_tree(suite)?;
        let mut peer = Self { tree, version: String::new(), _shared: shared };
        for directory in ["dev", "sys", "run", "tmp", "mnt"] {
            let source = Path::new("/").join(directory);
            let place = peer.tree.join(directory);
            succeed(Command::new("mount").arg("--rbind").arg(source).arg(&place));
            // Mounts are shared below one directory alone: what is taken down elsewhere stays where it came from.
            if directory != "mnt" {
                succeed(Command::new("mount").arg("--make-rslave").arg(&place));
            }
        }
        succeed(Command::new("mount").args(["-t", "proc", "proc"]).arg(peer.tree.join("proc")));
        // 'systemd 262 (262.1-1)'
        let text = succeed(peer.command("systemd-dissect").arg("--version"));
        let version = text.split(['(', '-']).nth(1).unwrap();
        version.clone_into(&mut peer.version);
        Ok(peer)
    }

    /// A program of that tree.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "60", "chroot"]).arg(&self.tree).arg(program);
        command.env("SYSTEMD_COLORS", "0").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

impl Peer<'_> {
    /// A program of that tree, in a mount namespace of its own in which the tree is a mount: one that makes namespaces
    /// itself needs that.
    pub(crate) fn command_apart(&self, program: &str) -> Command {
        let script = r#"mount --rbind "$0" "$0" && exec timeout --kill-after=5 60 chroot "$0" "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-c", script]).arg(&self.tree).arg(program);
        command.env("SYSTEMD_COLORS", "0").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        for directory in ["proc", "mnt", "tmp", "run", "sys", "dev"] {
            umount_all(&self.tree.join(directory));
        }
    }
}

/// Certificates in a directory that systemd and ddictl both take them from, for as long as this lives.
#[derive(Debug)]
pub(crate) struct TrustDirectory;

impl TrustDirectory {
    const PATH: &str = "/run/verity.d";

    /// These, in PEM.
    pub(crate) fn with(certificates: &[Vec<u8>]) -> Self {
        fs::create_dir(Self::PATH).unwrap();
        let made = Self;
        for (number, certificate) in certificates.iter().enumerate() {
            fs::write(format!("{}/{number}.crt", Self::PATH), certificate).unwrap();
        }
        made
    }
}

impl Drop for TrustDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Self::PATH);
    }
}

/// The last thing that a program said, without the name of the image.
pub(crate) fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().last().unwrap_or_default();
    let line = line.split_once(".raw: ").map_or(line, |(_, rest)| rest);
    line.trim_end_matches('.').to_owned()
}

/// Takes down what is mounted at a place and below it. A program that was ended a moment ago may hold it a little longer.
fn umount_all(place: &Path) {
    let is_mounted = || mounts().iter().any(|mount| Path::new(&mount.place).starts_with(place));
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_mounted() && Instant::now() < deadline {
        // Where that fails to the end, the harness says what is left.
        let _ = Command::new("umount").arg("--recursive").arg(place).status();
    }
}

/// One mount, as `/proc/self/mountinfo` has it.
struct Mount {
    place: String,
    device: String,
    file_system: String,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let separator = words.iter().position(|word| *word == "-").unwrap();
            Mount {
                place: words[4].to_owned(),
                device: words[2].to_owned(),
                file_system: words[separator + 1].to_owned(),
            }
        })
        .collect()
}

/// What is mounted of an image.
#[derive(Debug)]
pub(crate) struct MountedImage {
    place: String,
    /// In the order in which it was mounted: what, and where below `place`.
    parts: Vec<(String, String)>,
}

impl MountedImage {
    /// What is mounted at that place and below it.
    pub(crate) fn at(place: &str) -> Self {
        let parts = mounts().into_iter().filter_map(|mount| {
            let below =
                mount.place.strip_prefix(place).filter(|below| below.is_empty() || below.starts_with('/'))?;
            Some((mount.content(), below.to_owned()))
        });
        Self { place: place.to_owned(), parts: parts.collect() }
    }

    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Takes it down, as any program would.
    pub(crate) fn take_down(&self) {
        for _ in &self.parts {
            umount_all(Path::new(&self.place));
        }
    }
}

impl fmt::Display for MountedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (content, below)) in self.parts.iter().enumerate() {
            match (number, below.as_str()) {
                (0, "") => write!(f, "{content}")?,
                (0, below) => write!(f, "{content} as `{below}`")?,
                (_, "") => write!(f, ", and over all of it {content}")?,
                (_, below) => write!(f, ", and {content} as `{below}`")?,
            }
        }
        Ok(())
    }
}

impl Mount {
    /// The file system, the partition that it lies in, and what guards it.
    fn content(&self) -> String {
        let device = PathBuf::from(format!("/sys/dev/block/{}", self.device));
        let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
        let below =
            fs::read_dir(device.join("slaves")).into_iter().flatten().flatten().map(|entry| entry.path());
        // The loop device of a hash partition has no data that could be mounted: the lowest number is the data's.
        let number = below.chain([device]).filter_map(|device| partition_number(&device)).min();
        let place = number.map_or_else(|| "the image".to_owned(), |number| format!("partition {number}"));
        let guard = if uuid.starts_with("CRYPT-VERITY-") { "dm-verity" } else { "unprotected" };
        format!("{place} ({}, {guard})", self.file_system)
    }
}

/// Which partition of its image a block device shows: by the kernel's count, or by the name of our loop devices.
fn partition_number(device: &Path) -> Option<u32> {
    if let Ok(text) = fs::read_to_string(device.join("partition")) {
        return text.trim_end().parse().ok();
    }
    let name = fs::canonicalize(device).ok()?.file_name()?.to_str()?.to_owned();
    let status = loop_device::status(name.strip_prefix("loop")?.parse().ok()?).unwrap()?;
    let (_, number) = status.reference()?.rsplit_once("-part")?;
    number.split('.').next()?.parse().ok()
}
