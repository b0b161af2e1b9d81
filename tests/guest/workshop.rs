//! Images of any file systems, made by their tools, and a place to mount them.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::attach::{fail, text};
use crate::harness::{MachineState, ddictl};
use crate::repart::succeed;

/// The grow-file-system attribute, as sfdisk has it.
pub(crate) const GROWFS: &str = "GUID:59";

/// A directory with the parts of images, the images, and a place to mount them.
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["mnt", "empty"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn place(&self) -> PathBuf {
        self.path("mnt")
    }

    /// A tree of these directories, files (`path=contents`) and links (`path>target`), and an os-release.
    pub(crate) fn tree(&self, entries: &[&str]) -> PathBuf {
        let tree = tempfile::tempdir_in(self.directory.path()).unwrap().keep();
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        fs::write(tree.join("usr/lib/os-release"), "ID=mount-test\n").unwrap();
        for entry in entries {
            if let Some((path, target)) = entry.split_once('>') {
                symlink(target, tree.join(path)).unwrap();
            } else if let Some((path, contents)) = entry.split_once('=') {
                fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
                fs::write(tree.join(path), contents).unwrap();
            } else {
                fs::create_dir_all(tree.join(entry)).unwrap();
            }
        }
        tree
    }

    /// A file system of this kind with the contents of a tree, where its tool can take them.
    pub(crate) fn file_system(&self, kind: &str, tree: &Path) -> PathBuf {
        let (file, path) = tempfile::NamedTempFile::new_in(self.directory.path()).unwrap().keep().unwrap();
        let size = match kind {
            "xfs" => 320 << 20,
            "btrfs" => 280 << 20,
            "vfat" => 8 << 20,
            _ => 16 << 20,
        };
        let run = |program: &str, arguments: &[&str]| {
            succeed(Command::new(program).args(arguments));
        };
        let (to, from) = (path.to_str().unwrap(), tree.to_str().unwrap());
        match kind {
            "squashfs" => run("mksquashfs", &[from, to, "-noappend", "-quiet", "-no-progress", "-no-xattrs"]),
            "erofs" => run("mkfs.erofs", &["--quiet", to, from]),
            _ => file.set_len(size).unwrap(),
        }
        match kind {
            "ext4" => run("mkfs.ext4", &["-q", "-d", from, to]),
            "xfs" => run("mkfs.xfs", &["-q", to]),
            "btrfs" => run("mkfs.btrfs", &["-q", "--rootdir", from, to]),
            "vfat" => run("mkfs.vfat", &[to]),
            _ => {}
        }
        path
    }

    pub(crate) fn empty(&self, kind: &str) -> PathBuf {
        self.file_system(kind, &self.path("empty"))
    }

    /// An image with these partitions: designator, contents, attribute, and how many bytes it is larger than these.
    pub(crate) fn image(&self, name: &str, partitions: &[(&str, &Path, &str, u64)]) -> PathBuf {
        const SECTOR: u64 = 512;
        const ALIGNMENT: u64 = 2048;
        let image = self.path(name);
        let mut table = "label: gpt\nunit: sectors\n".to_owned();
        let mut start = ALIGNMENT;
        let mut copies = Vec::new();
        for (designator, file, attribute, more) in partitions {
            let bytes = fs::metadata(file).unwrap().len() + more;
            let size = bytes.div_ceil(SECTOR).next_multiple_of(8);
            let kind = type_uuid(designator);
            table.push_str(&format!("start={start},size={size},type={kind},name={designator}"));
            if !attribute.is_empty() {
                table.push_str(&format!(",attrs=\"{attribute}\""));
            }
            table.push('\n');
            copies.push((*file, start));
            start = (start + size).next_multiple_of(ALIGNMENT);
        }
        File::create(&image).unwrap().set_len((start + ALIGNMENT) * SECTOR).unwrap();
        let description = self.path("table");
        fs::write(&description, table).unwrap();
        succeed(Command::new("sfdisk").arg("--quiet").arg(&image).stdin(File::open(description).unwrap()));
        for (file, start) in copies {
            succeed(
                Command::new("dd")
                    .arg(format!("if={}", file.display()))
                    .arg(format!("of={}", image.display()))
                    .args(["bs=64K", "conv=notrunc,sparse", "oflag=seek_bytes", "status=none"])
                    .arg(format!("seek={}", start * SECTOR)),
            );
        }
        image
    }

    /// An image whose root is a squashfs of such a tree, with these partitions beside it.
    pub(crate) fn rooted(&self, name: &str, tree: &[&str], beside: &[(&str, &Path)]) -> PathBuf {
        let root = self.file_system("squashfs", &self.tree(tree));
        let mut partitions = vec![("root", root.as_path(), "", 0)];
        partitions.extend(beside.iter().map(|(designator, file)| (*designator, *file, "", 0)));
        self.image(name, &partitions)
    }

    /// `ddictl mount` of an image under a policy that lets everything pass.
    pub(crate) fn mount(&self, image: &Path, arguments: &[&str]) -> Command {
        let mut command = ddictl();
        command.args(["mount", "--image-policy=*"]).args(arguments).arg(image).arg(self.place());
        command
    }

    /// What is mounted beneath the place, in the order of mounting: path, file system and flags of the mount.
    pub(crate) fn mounts(&self) -> Vec<(String, String, String)> {
        let place = self.place();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let path = Path::new(fields[4]).strip_prefix(&place).ok()?;
                let behind = fields.iter().position(|field| *field == "-").unwrap();
                Some((path.display().to_string(), fields[behind + 1].to_owned(), fields[5].to_owned()))
            })
            .collect()
    }

    /// The options of the file system that is mounted on this path beneath the place.
    pub(crate) fn options(&self, path: &str) -> String {
        let directory = self.place().join(path);
        let directory = directory.to_str().unwrap().trim_end_matches('/').to_owned();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(&directory)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    }

    pub(crate) fn umount(&self) -> String {
        said(ddictl().arg("umount").arg(self.place()))
    }
}

fn type_uuid(designator: &str) -> &'static str {
    let arm = cfg!(target_arch = "aarch64");
    match designator {
        "root" if arm => "b921b045-1df0-41c3-af44-4c6f280d3fae",
        "root" => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "usr" if arm => "b0e01050-ee5f-4390-949a-9101b17104e9",
        "usr" => "8484680c-9521-48c6-9c11-b0720656f69e",
        "home" => "933ac7e1-2eb4-4f13-b844-0e14e2aef915",
        "srv" => "3b8f8425-20e0-4f3b-907f-1a25a76f98e8",
        "var" => "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
        "tmp" => "7ec6f557-3bc5-4aca-b293-16ef5df639d1",
        "esp" => "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "xbootldr" => "bc13c2ff-59e6-4262-a352-b275fd6f7172",
        other => panic!("no type for {other}"),
    }
}

/// What a command that must succeed says on standard error.
pub(crate) fn said(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

/// That a command is refused with these words, and leaves everything as it was.
pub(crate) fn refused(command: &mut Command, words: &[&str]) {
    let before = MachineState::now();
    let stderr = fail(command, 1);
    for word in words {
        assert!(stderr.contains(word), "expected '{word}': {stderr}");
    }
    assert_eq!(before.difference(&MachineState::now()), None, "{stderr}");
}

/// An image with everything that has a place.
pub(crate) fn everything(workshop: &Workshop) -> PathBuf {
    let root = workshop.file_system("ext4", &workshop.tree(&["boot", "efi", "var"]));
    let usr = workshop.file_system("squashfs", &workshop.tree(&[]));
    let var = workshop.file_system("ext4", &workshop.tree(&["tmp"]));
    let parts = ["ext4", "ext4", "ext4", "vfat", "vfat"].map(|kind| workshop.empty(kind));
    let [home, srv, tmp, esp, xbootldr] = &parts;
    let names = ["esp", "xbootldr", "root", "usr", "home", "srv", "tmp", "var"];
    let files = [esp, xbootldr, &root, &usr, home, srv, tmp, &var];
    let partitions: Vec<(&str, &Path, &str, u64)> =
        names.into_iter().zip(files).map(|(name, file)| (name, file.as_path(), "", 0)).collect();
    workshop.image("everything.raw", &partitions)
}
