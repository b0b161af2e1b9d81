//! What ddictl says of images that the real systemd-repart made, and what others say of the same images: the table by
//! sfdisk, the contents by blkid, the hash trees by veritysetup, the root hashes by systemd-repart itself.
//!
//! A newer systemd-repart, from the tree of Debian unstable, makes every kind of image; that of the machine may be as
//! old as 252, which makes no erofs, counts in sectors of 512 bytes alone, and needs loop devices.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness;
use crate::harness::HostTest;
use crate::harness::Need;
use crate::repart::succeed;
use crate::repart::workshop;

const NEWER: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::UnstableTree,
    Need::Tool("openssl"),
    Need::Tool("sfdisk"),
    Need::Tool("blkid"),
    Need::Tool("veritysetup"),
];

/// What the machine's own needs besides what makes the file system.
macro_rules! own {
    ($($more:expr),*) => {
        &[
            Need::Root,
            Need::LoopDevices,
            Need::Tool("systemd-repart"),
            Need::Tool("openssl"),
            Need::Tool("sfdisk"),
            Need::Tool("blkid"),
            Need::Tool("veritysetup"),
            $($more),*
        ]
    };
}

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "repart_images::the_newer_one_with_squashfs",
        needs: NEWER,
        run: || by_the_newer_one("squashfs", EVERY_SET),
    },
    HostTest {
        name: "repart_images::the_newer_one_with_erofs",
        needs: NEWER,
        run: || by_the_newer_one("erofs", EVERY_SET),
    },
    HostTest {
        name: "repart_images::the_newer_one_with_ext4",
        needs: NEWER,
        run: || by_the_newer_one("ext4", EVERY_SET),
    },
    HostTest {
        name: "repart_images::the_newer_one_with_btrfs",
        needs: NEWER,
        run: || by_the_newer_one("btrfs", &[&["root"]]),
    },
    HostTest {
        name: "repart_images::the_newer_one_with_xfs",
        needs: NEWER,
        run: || by_the_newer_one("xfs", &[&["usr"]]),
    },
    HostTest {
        name: "repart_images::the_machines_own_with_squashfs",
        needs: own![Need::Tool("mksquashfs")],
        run: || by_the_machines_own("squashfs", EVERY_SET, EVERY_PROTECTION),
    },
    HostTest {
        name: "repart_images::the_machines_own_with_ext4",
        needs: own![Need::FileSystem("ext4"), Need::Tool("mkfs.ext4")],
        run: || by_the_machines_own("ext4", EVERY_SET, EVERY_PROTECTION),
    },
    HostTest {
        name: "repart_images::the_machines_own_with_btrfs",
        needs: own![Need::FileSystem("btrfs"), Need::Tool("mkfs.btrfs")],
        run: || by_the_machines_own("btrfs", &[&["root"]], &[Protection::Unprotected, Protection::Signed]),
    },
    HostTest {
        name: "repart_images::the_machines_own_with_xfs",
        needs: own![Need::FileSystem("xfs"), Need::Tool("mkfs.xfs")],
        run: || by_the_machines_own("xfs", &[&["usr"]], &[Protection::Unprotected, Protection::Signed]),
    },
];

/// Which partitions of data an image has.
type Sets = &'static [&'static [&'static str]];

/// Not for file systems that are hundreds of MiB each, however little they hold.
const EVERY_SET: Sets = &[&["root"], &["usr"], &["root", "usr"]];

const EVERY_PROTECTION: &[Protection] = &[Protection::Unprotected, Protection::Verity, Protection::Signed];

/// Where one byte is changed: in no superblock, and in the data of the smallest file system.
const CHANGED_BYTE: u64 = 5000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    Unprotected,
    Verity,
    Signed,
}

impl Protection {
    const fn word(self) -> &'static str {
        match self {
            Self::Unprotected => "unprotected",
            Self::Verity => "verity",
            Self::Signed => "signed",
        }
    }
}

/// An image that systemd-repart made.
struct Image {
    /// Where its keys lie as well.
    directory: TempDir,
    /// What is in it, for messages.
    title: String,
    sets: &'static [&'static str],
    file_system: &'static str,
    protection: Protection,
    sector_size: u64,
    /// What systemd-repart says of each partition.
    report: Vec<Value>,
}

fn by_the_newer_one(file_system: &'static str, every_set: Sets) {
    for sets in every_set {
        for protection in EVERY_PROTECTION {
            for sector_size in [512, 4096] {
                let size = match file_system {
                    "squashfs" | "erofs" => "Minimize=best\n",
                    _ => "Minimize=guess\n",
                };
                let definitions = definitions(file_system, sets, *protection, "/", size, "Minimize=best\n");
                let directory = workshop_of(&definitions);
                let mut command = harness::in_unstable_tree(directory.path(), "systemd-repart");
                command
                    .args(["--offline=yes", "--copy-source=/mnt/src"])
                    .arg(format!("--sector-size={sector_size}"));
                make(command, directory, file_system, sets, *protection, sector_size).check();
            }
        }
    }
}

fn by_the_machines_own(file_system: &'static str, every_set: Sets, protections: &[Protection]) {
    let (size, hash_size) = match file_system {
        "btrfs" => ("SizeMinBytes=128M\nSizeMaxBytes=256M\n", "SizeMinBytes=32M\nSizeMaxBytes=32M\n"),
        "xfs" => ("SizeMinBytes=300M\nSizeMaxBytes=300M\n", "SizeMinBytes=32M\nSizeMaxBytes=32M\n"),
        _ => ("SizeMinBytes=12M\nSizeMaxBytes=12M\n", "SizeMinBytes=8M\nSizeMaxBytes=8M\n"),
    };
    for sets in every_set {
        for protection in protections {
            let definitions = definitions(file_system, sets, *protection, "/src", size, hash_size);
            let directory = workshop_of(&definitions);
            let mut command = Command::new("systemd-repart");
            command.arg(format!("--root={}", directory.path().display())).current_dir(directory.path());
            make(command, directory, file_system, sets, *protection, 512).check();
        }
    }
}

/// The partition definitions: file name and text. `source` is the directory with the tree.
fn definitions(
    file_system: &str,
    sets: &[&str],
    protection: Protection,
    source: &str,
    size: &str,
    hash_size: &str,
) -> Vec<(String, String)> {
    let mut definitions = Vec::new();
    for set in sets {
        let copied = match (*set, source) {
            ("usr", "/") => "/usr:/".to_owned(),
            ("usr", _) => format!("{source}/usr:/"),
            _ => format!("{source}:/"),
        };
        let mut partition = |order: u32, suffix: &str, text: &str| {
            let header = format!("[Partition]\nType={set}{suffix}\n");
            let key = match protection {
                Protection::Unprotected => String::new(),
                _ => format!("VerityMatchKey={set}\n"),
            };
            definitions.push((format!("{order}-{set}{suffix}.conf"), format!("{header}{key}{text}")));
        };
        let data = if protection == Protection::Unprotected { "" } else { "Verity=data\n" };
        partition(10, "", &format!("Format={file_system}\nCopyFiles={copied}\n{data}{size}"));
        if protection != Protection::Unprotected {
            partition(20, "-verity", &format!("Verity=hash\n{hash_size}"));
        }
        if protection == Protection::Signed {
            partition(30, "-verity-sig", "Verity=signature\n");
        }
    }
    definitions
}

fn workshop_of(definitions: &[(String, String)]) -> TempDir {
    let borrowed: Vec<_> = definitions.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let directory = workshop(&borrowed);
    let source = directory.path().join("src");
    // More than one block of digests, and nothing that becomes smaller by compression.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    })
    .take(700_000)
    .collect();
    fs::write(source.join("usr/lib/noise"), noise).unwrap();
    fs::create_dir(source.join("etc")).unwrap();
    fs::write(source.join("etc/hostname"), "repart-test\n").unwrap();
    directory
}

/// Lets systemd-repart make the image.
fn make(
    mut command: Command,
    directory: TempDir,
    file_system: &'static str,
    sets: &'static [&'static str],
    protection: Protection,
    sector_size: u64,
) -> Image {
    let report =
        succeed(
            command
                .args(["--empty=create", "--size=auto", "--dry-run=no", "--definitions=definitions"])
                .args(["--private-key=k.key", "--certificate=k.crt", "--json=short", "image.raw"]),
        );
    // The programs that make file systems talk on standard output as well; the report is the last line.
    let report = report.lines().last().unwrap_or_default();
    let title = format!("{sets:?}, {file_system}, {protection:?}, sectors of {sector_size}");
    let report = serde_json::from_str(report).unwrap_or_else(|error| panic!("{title}: {error}: {report}"));
    Image { directory, title, sets, file_system, protection, sector_size, report }
}

impl Image {
    fn path(&self) -> PathBuf {
        self.directory.path().join("image.raw")
    }

    fn check(&self) {
        let dissected = self.dissected();
        self.check_dissection(&dissected);
        self.check_audit();
        if self.protection == Protection::Unprotected {
            self.check_that_nothing_can_be_verified();
        } else {
            self.check_verification(&dissected);
            self.check_that_a_changed_byte_is_found(&dissected);
        }
    }

    fn dissected(&self) -> Vec<Value> {
        let output = self.ddictl(&["dissect", "--json=short"]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", self.title, text(&output.stderr));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        value["partitions"].as_array().unwrap().clone()
    }

    /// Runs ddictl on the image, trusting the certificate that it was signed with.
    fn ddictl(&self, arguments: &[&str]) -> Output {
        harness::ddictl()
            .args(arguments)
            .arg("--certificate=k.crt")
            .arg("image.raw")
            .current_dir(self.directory.path())
            .output()
            .unwrap()
    }

    /// What systemd-repart says of a designator's partition.
    fn reported(&self, designator: &str) -> &Value {
        let name = format!("-{designator}.conf");
        let is_it = |entry: &&Value| entry["file"].as_str().is_some_and(|file| file.ends_with(&name));
        let mut found = self.report.iter().filter(is_it);
        // '-root.conf' ends no other name; '-root-verity.conf' neither.
        let entry = found.next().unwrap_or_else(|| panic!("{}: no '{designator}'", self.title));
        assert!(found.next().is_none(), "{}: {:?}", self.title, self.report);
        entry
    }

    /// The root hash, as systemd-repart says it, which is also what the UUIDs spell.
    fn root_hash(&self, set: &str) -> String {
        let hash = self.reported(&format!("{set}-verity"));
        let root_hash = hash["roothash"].as_str().unwrap().to_owned();
        let halves = [self.reported(set), hash].map(|entry| entry["uuid"].as_str().unwrap().replace('-', ""));
        assert_eq!(halves.concat(), root_hash, "{}", self.title);
        root_hash
    }

    fn check_dissection(&self, dissected: &[Value]) {
        let whole = LoopDevice::attach(&self.path(), &["--sector-size", &self.sector_size.to_string()]);
        let table: Value =
            serde_json::from_str(&succeed(Command::new("sfdisk").arg("--json").arg(&whole.path))).unwrap();
        let entries = table["partitiontable"]["partitions"].as_array().unwrap();
        assert_eq!(table["partitiontable"]["sectorsize"], self.sector_size, "{}", self.title);
        assert_eq!(dissected.len(), entries.len(), "{}", self.title);
        assert_eq!(dissected.len(), self.report.len(), "{}", self.title);

        for (index, (partition, entry)) in dissected.iter().zip(entries).enumerate() {
            let designator = partition["designator"].as_str().unwrap_or_default();
            let context = format!("{}, '{designator}': {partition}", self.title);
            let reported = self.reported(designator);
            let set = self.sets.iter().copied().find(|set| designator.starts_with(set)).unwrap();
            let architecture = partition["architecture"].as_str().unwrap();
            let suffix = designator.strip_prefix(set).unwrap();
            assert_eq!(reported["type"], format!("{set}-{architecture}{suffix}"), "{context}");
            assert_eq!(architecture, native_architecture(), "{context}");
            for (key, expected) in [
                ("number", Value::from(index + 1)),
                ("offset", reported["offset"].clone()),
                ("offset", self.sectors(&entry["start"])),
                ("size", reported["raw_size"].clone()),
                ("size", self.sectors(&entry["size"])),
                ("label", reported["label"].clone()),
                ("label", entry["name"].clone()),
                ("uuid", reported["uuid"].clone()),
                ("uuid", lower(&entry["uuid"])),
                ("type_uuid", lower(&entry["type"])),
                ("read_only", Value::from(has_attribute(entry, 60))),
                ("growfs", Value::from(has_attribute(entry, 59))),
                ("use", Value::from("used")),
            ] {
                assert_eq!(partition[key], expected, "{key}, {context}");
            }
            self.check_contents(partition, suffix, &context);
            self.check_protection(partition, set, suffix, &context);
        }
    }

    fn check_contents(&self, partition: &Value, suffix: &str, context: &str) {
        let (expected, by_blkid) = match suffix {
            "" => (self.file_system, self.file_system),
            "-verity" => ("DM_verity_hash", "DM_verity_hash"),
            // JSON in a partition is nothing that blkid has a word for; systemd has this one.
            _ => ("verity_hash_signature", ""),
        };
        assert_eq!(partition["file_system"], expected, "{context}");
        let output = Command::new("blkid")
            .args(["--probe", "--match-tag", "TYPE", "--output", "value"])
            .arg(format!("--offset={}", partition["offset"]))
            .arg(format!("--size={}", partition["size"]))
            .arg(self.path())
            .output()
            .unwrap();
        assert_eq!(text(&output.stdout), by_blkid, "blkid: {context}");
    }

    fn check_protection(&self, partition: &Value, set: &str, suffix: &str, context: &str) {
        if suffix.is_empty() {
            assert_eq!(partition["protection"], self.protection.word(), "{context}");
        }
        let (root_hash, signer) = match self.protection {
            Protection::Unprotected => (None, None),
            _ if !suffix.is_empty() => return,
            Protection::Verity => (Some(self.root_hash(set)), None),
            Protection::Signed => (Some(self.root_hash(set)), Some("CN=repart test")),
        };
        assert_eq!(partition["root_hash"].as_str(), root_hash.as_deref(), "{context}");
        assert_eq!(partition["signer"].as_str(), signer, "{context}");
    }

    /// `@verified-boot` takes what is signed by somebody trusted, and names the partitions of everything else.
    fn check_audit(&self) {
        let (status, verdict) = match self.protection {
            Protection::Signed => (0, "accept"),
            _ => (3, "refuse"),
        };
        let output = self.ddictl(&["audit", "--json=short", "--image-policy=@verified-boot"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{}: {report}", self.title);
        assert_eq!(report["verdict"], verdict, "{}: {report}", self.title);
        let refused: Vec<&Value> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["rule"] == "DDI0501" && finding["level"] == "error")
            .collect();
        let expected = if self.protection == Protection::Signed { 0 } else { self.sets.len() };
        assert_eq!(refused.len(), expected, "{}: {report}", self.title);
        for finding in refused {
            let found = finding["found"].as_str().unwrap();
            assert!(found.contains(self.protection.word()), "{}: {finding}", self.title);
        }
    }

    fn check_that_nothing_can_be_verified(&self) {
        let output = self.ddictl(&["verify"]);
        assert_eq!(output.status.code(), Some(3), "{}: {}", self.title, text(&output.stderr));
        assert!(text(&output.stderr).contains("a hash tree for root or usr"), "{}", text(&output.stderr));
    }

    fn check_verification(&self, dissected: &[Value]) {
        let output = self.ddictl(&["verify"]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", self.title, text(&output.stderr));
        let lines = text(&output.stdout);
        assert_eq!(lines.lines().count(), self.sets.len(), "{}: {lines}", self.title);
        for (set, line) in self.sets.iter().zip(lines.lines()) {
            let root_hash = self.root_hash(set);
            assert!(line.starts_with(&format!("{set}: ")), "{}: {line}", self.title);
            assert!(line.contains(&root_hash), "{}: {line}", self.title);
            let by = match self.protection {
                Protection::Signed => "signed by 'CN=repart test'",
                _ => "nobody vouches for it",
            };
            assert!(line.contains(by), "{}: {line}", self.title);
            let peer = self.veritysetup_verify(dissected, set, &root_hash);
            assert!(peer.status.success(), "{}: veritysetup: {}", self.title, text(&peer.stderr));
        }
    }

    fn veritysetup_verify(&self, dissected: &[Value], set: &str, root_hash: &str) -> Output {
        let [data, hash] = [set.to_owned(), format!("{set}-verity")].map(|designator| {
            let partition =
                dissected.iter().find(|partition| partition["designator"] == *designator).unwrap();
            let [offset, size] = ["offset", "size"].map(|key| partition[key].to_string());
            LoopDevice::attach(&self.path(), &["--offset", &offset, "--sizelimit", &size])
        });
        let mut command = Command::new("veritysetup");
        command.arg("verify").arg(&data.path).arg(&hash.path).arg(root_hash).output().unwrap()
    }

    fn check_that_a_changed_byte_is_found(&self, dissected: &[Value]) {
        let set = self.sets[self.sets.len() - 1];
        let data = dissected.iter().find(|partition| partition["designator"] == set).unwrap();
        let place = data["offset"].as_u64().unwrap() + CHANGED_BYTE;
        let file = File::options().read(true).write(true).open(self.path()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 1], place).unwrap();
        file.sync_all().unwrap();

        let output = self.ddictl(&["verify"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{}: {said}", self.title);
        // systemd-repart makes hash trees over blocks as large as the sectors.
        let block = CHANGED_BYTE / self.sector_size;
        let expected = format!("corrupt data blocks: 1, the first of them [{block}]");
        assert!(said.contains("DDI0313") && said.contains(&expected), "{}: {said}", self.title);
        assert!(said.contains(&format!("partition {}", data["number"])), "{}: {said}", self.title);
        let peer = self.veritysetup_verify(dissected, set, &self.root_hash(set));
        assert!(!peer.status.success(), "{}: veritysetup found nothing", self.title);
    }

    fn sectors(&self, number: &Value) -> Value {
        Value::from(number.as_u64().unwrap() * self.sector_size)
    }
}

/// A read-only loop device that is there as long as this value.
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    fn attach(image: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--read-only"]).args(options).arg(image);
        Self { path: PathBuf::from(succeed(&mut command).trim()) }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A failure is seen by the harness, which compares the loop devices before and after.
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn has_attribute(entry: &Value, bit: u32) -> bool {
    let attributes = entry["attrs"].as_str().unwrap_or_default();
    let bits = attributes.split_whitespace().filter_map(|word| word.strip_prefix("GUID:"));
    bits.flat_map(|bits| bits.split(',')).any(|found| found == bit.to_string())
}

fn lower(value: &Value) -> Value {
    Value::from(value.as_str().unwrap().to_lowercase())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The word that the Discoverable Partitions Specification has for this machine.
fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm64",
        other => other,
    }
}
