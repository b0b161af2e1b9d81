//! Pulling a tar, beside what others make of it: GNU tar's attributes, signatures of GnuPG, and very many members.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::pull::{Place, detach, pause, refused, talk};
use crate::pull_directory::Tmpfs;
use crate::pull_tar::good_archive;
use crate::pull_verification::{NEEDS, Publisher};
use crate::repart::succeed;
use crate::tar_builder::Entry;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_tar_peers::attributes_are_those_that_gnu_tar_unpacks",
        needs: &[
            Need::Root,
            Need::FileSystem("tmpfs"),
            Need::Tool("tar"),
            Need::Tool("python3"),
            Need::Tool("setfacl"),
        ],
        run: attributes_are_those_that_gnu_tar_unpacks,
    },
    HostTest {
        name: "pull_tar_peers::whose_sums_are_signed_is_taken_and_nothing_else",
        needs: NEEDS,
        run: whose_sums_are_signed_is_taken_and_nothing_else,
    },
    HostTest {
        name: "pull_tar_peers::a_million_members_take_bounded_time_and_memory",
        needs: &[Need::Root, Need::FileSystem("tmpfs")],
        run: a_million_members_take_bounded_time_and_memory,
    },
    HostTest {
        name: "pull_tar_peers::a_signal_in_the_midst_leaves_nothing",
        needs: &[Need::Root, Need::FileSystem("tmpfs")],
        run: a_signal_in_the_midst_leaves_nothing,
    },
];

fn pull(origin: &str, more: &[&str]) -> Command {
    let mut command = ddictl();
    command.args(["pull", "tar", origin, "tree-under-test", "--runtime=yes"]).args(more);
    for variable in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command
}

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Packs a directory with all that GNU tar can say of it.
fn packed(directory: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args([
        "-c",
        "--format=pax",
        "--sort=name",
        "--numeric-owner",
        "--acls",
        "--xattrs",
        "--xattrs-include=*",
    ]);
    tar.args(["--pax-option=delete=atime,delete=ctime,exthdr.name=x", "-C"]).arg(directory).arg(".");
    let output = tar.output().unwrap();
    assert!(output.status.success(), "{}", talk(&output));
    output.stdout
}

fn attributes_are_those_that_gnu_tar_unpacks() {
    let source = Tmpfs::new("4m");
    let python = r#"
import os, struct, sys
os.chdir(sys.argv[1])
os.makedirs("d/e"); open("d/file", "w").write("x"); open("plain", "w").write("y"); os.symlink("file", "d/link")
os.link("d/file", "hard"); os.chown("plain", 12, 34); os.chmod("plain", 0o640)
# cap_net_raw=ep, revision 2.
os.setxattr("plain", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
for path in "d", "d/file":
    os.setxattr(path, "trusted.test", b"\0=\n\xff" * 50)
    os.setxattr(path, "trusted.overlay.opaque", b"y")
try:
    os.setxattr("d/file", "user.name with blanks", b"1")
    os.setxattr("d/file", "user.empty", b"")
except OSError:
    print("no user attributes")
"#;
    succeed(Command::new("python3").args(["-c", python]).arg(source.path()));
    let acl = ["-m", "u:54321:r,g:54322:rwx,d:u:54321:rwx"];
    // Whom nobody has a name for: GNU tar writes names where it knows them, whatever it is told.
    succeed(Command::new("setfacl").args(acl).arg("d/e").current_dir(source.path()));
    succeed(Command::new("setfacl").args(["-m", "u:54323:rw"]).arg("plain").current_dir(source.path()));
    let archive = packed(&source.path());
    for said in ["SCHILY.xattr.trusted.test", "SCHILY.xattr.security.capability", "SCHILY.acl.default"] {
        assert!(archive.windows(said.len()).any(|window| window == said.as_bytes()), "{said}");
    }

    let theirs = Tmpfs::new("4m");
    let file = theirs.path().join("archive.tar");
    fs::write(&file, &archive).unwrap();
    fs::create_dir(theirs.path().join("tree")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-xp", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*", "-f"])
        .arg(&file)
        .arg("-C");
    succeed(tar.arg(theirs.path().join("tree")));
    let expected = packed(&theirs.path().join("tree"));

    let ours = Place::new();
    succeed(&mut pull(&url(&file), &["--verify=no", &ours.option()]));
    let found = packed(&ours.path().join("tree-under-test"));
    detach("tree-under-test");
    // A file system lists attributes in an order of its own: it is their records that count, each a line.
    let records = |archive: &[u8]| {
        let mut records: Vec<String> = archive
            .split(|byte| *byte == b'\n')
            .map(|record| record.escape_ascii().to_string().replace("\\x00", ""))
            .collect();
        records.sort();
        records
    };
    assert_eq!(records(&found), records(&expected));
    assert_eq!(records(&expected), records(&archive));
}

fn whose_sums_are_signed_is_taken_and_nothing_else() {
    let (publisher, stranger) = (Publisher::new("publisher"), Publisher::new("stranger"));
    let archive: Arc<[u8]> = good_archive().into();
    let (sums, signature) = publisher.publish_as("tree.tar", &archive);
    let serve = |archive: &Arc<[u8]>| {
        let (archive, sums, signature) = (Arc::clone(archive), Arc::clone(&sums), Arc::clone(&signature));
        HttpServer::start(move |request| match request.path.as_str() {
            "/tree.tar" => Answer::ranged(request, Arc::clone(&archive)),
            "/SHA256SUMS" => Answer::bytes(Arc::clone(&sums)),
            "/SHA256SUMS.gpg" => Answer::bytes(Arc::clone(&signature)),
            _ => Answer::status(404),
        })
    };
    let (server, place) = (serve(&archive), Place::new());
    let boot = "--image-policy=@verified-boot";
    for more in [&[][..], &["--verify=signature", boot]] {
        let mut command = pull(&server.url("/tree.tar"), &[&publisher.keyring(), &place.option()]);
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{}", talk(&output));
        assert!(talk(&output).contains("the archive is authentic: sums signed by"), "{}", talk(&output));
        detach("tree-under-test");
        assert!(place.is_gone());
    }
    // The policy takes it because of who signed, and nobody else.
    let mut command = pull(&server.url("/tree.tar"), &["--verify=checksum", boot, &place.option()]);
    refused(&mut command, 3, "demands that all that is exposed is authenticated");
    let mut command = pull(&server.url("/tree.tar"), &[&stranger.keyring(), &place.option()]);
    refused(&mut command, 3, "which is in no keyring");
    let mut other = archive.to_vec();
    other[600] ^= 1;
    let server = serve(&other.into());
    let mut command = pull(&server.url("/tree.tar"), &[&publisher.keyring(), &place.option()]);
    refused(&mut command, 3, "another download than expected");
    assert!(place.is_gone());
}

/// An archive of so many empty files in one directory, compressed.
fn many(count: usize) -> Vec<u8> {
    let mut block = Entry::new("0000000", b'0').header();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    // The checksum is that of the first name and what the digits add.
    let zeros = u32::from(b'0') * 7;
    let sum =
        block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32 - zeros;
    for number in 0..count {
        let name = format!("{number:07}");
        let digits: u32 = name.bytes().map(u32::from).sum();
        block[..7].copy_from_slice(name.as_bytes());
        block[148..156].copy_from_slice(format!("{:06o}\0 ", sum + digits).as_bytes());
        encoder.write_all(&block).unwrap();
    }
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

/// The most memory that a process has had so far, in KiB.
fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn a_million_members_take_bounded_time_and_memory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("many.tar.zst");
    fs::write(&file, many(1_000_000)).unwrap();
    // In a tmpfs of its own they have room; in one of somebody else there may not be names enough.
    let place = Place::new();
    let begin = Instant::now();
    let mut child =
        pull(&url(&file), &["--verify=no", &place.option()]).stdout(Stdio::null()).spawn().unwrap();
    let mut most = 0;
    let status = loop {
        most = peak(&child).unwrap_or(0).max(most);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < Duration::from_secs(180), "no end");
        pause();
    };
    assert!(status.success());
    let found = fs::read_dir(place.path().join("tree-under-test")).unwrap().count();
    detach("tree-under-test");
    assert_eq!(found, 1_000_000);
    assert!(most < 256 << 10, "{most} KiB");
    assert!(place.is_gone());

    let small = Tmpfs::new("64m,nr_inodes=1000");
    refused(&mut pull(&url(&file), &["--verify=no", &small.option()]), 1, "no room is left");
    assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
}

fn a_signal_in_the_midst_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("many.tar.zst");
    File::create(&file).unwrap().write_all(&many(300_000)).unwrap();
    for (signal, status) in [("TERM", 143), ("INT", 130)] {
        let (before, place) = (MachineState::now(), Place::new());
        let child = pull(&url(&file), &["--verify=no", &place.option()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Some of it is there, in the hidden directory.
        let begin = Instant::now();
        let unpacked = || {
            let hidden = fs::read_dir(place.path()).ok()?.next()?.ok()?.path();
            fs::read_dir(hidden).ok()?.nth(100)
        };
        while unpacked().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(30), "nothing is unpacked");
        }
        let struck = Instant::now();
        succeed(Command::new("kill").args(["-s", signal, &child.id().to_string()]));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", talk(&output));
        assert!(struck.elapsed() < Duration::from_secs(10), "{:?}", struck.elapsed());
        assert!(place.is_gone());
        assert_eq!(before.difference(&MachineState::now()), None);
    }
}
