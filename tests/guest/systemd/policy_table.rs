//! What systemd-dissect of Debian 13 and of Debian unstable makes of images that their policy forbids, beside what ddictl
//! makes of them: the table in the README, row by row.
//!
//! Each row is an image and a policy. Both are given to the real programs, and what is then mounted is looked at. Nothing
//! here says what systemd should have done; the README says what was found.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;

use ddictl::format::designator::Designator;
use tempfile::TempDir;

use crate::ddi_builder::Ddi;
use crate::ddi_builder::Part;
use crate::ddi_builder::Protected;
use crate::ddi_builder::READ_ONLY;
use crate::ddi_builder::foreign;
use crate::ddi_builder::signature_partition;
use crate::ddi_builder::type_uuid;
use crate::ddi_builder::vfat;
use crate::harness;
use crate::harness::HostTest;
use crate::harness::Need;
use crate::keys::CertificateOptions;
use crate::keys::KeyKind;
use crate::keys::Pair;
use crate::systemd::peer::MountedImage;
use crate::systemd::peer::Peer;
use crate::systemd::peer::SharedMounts;
use crate::systemd::peer::TrustDirectory;
use crate::systemd::peer::last_line;
use crate::systemd::peer::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[HostTest {
    name: "systemd::policy_table::the_readme_says_what_systemd_and_ddictl_make_of_forbidden_images",
    needs: &[
        Need::Root,
        Need::LoopDevices,
        Need::DeviceMapper,
        Need::FileSystem("ext4"),
        Need::FileSystem("squashfs"),
        Need::FileSystem("vfat"),
        Need::UnstableTree,
        Need::DebianTree("trixie"),
        Need::Tool("mkfs.ext4"),
        Need::Tool("mksquashfs"),
    ],
    run: the_readme_says_what_systemd_and_ddictl_make_of_forbidden_images,
}];

/// Where the table stands in the README.
const BEGIN: &str = "<!-- policy table: begin -->\n";
const END: &str = "<!-- policy table: end -->\n";

/// The type of generic Linux data (Discoverable Partitions Specification).
const LINUX_GENERIC: u128 = 0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4;

/// Where images are mounted, in the guest and in every tree.
const MOUNT_POINT: &str = "/mnt/image";

/// An image, and the policies that are asked of it.
struct Row {
    image: &'static str,
    policies: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    bytes: Vec<u8>,
    /// Whether ddictl may use it under these policies, because nothing in them forbids it.
    usable: bool,
}

impl Row {
    fn new(image: &'static str, policies: &'static [&'static str], bytes: Vec<u8>) -> Self {
        Self { image, policies, environment: &[], bytes, usable: false }
    }

    fn environment(mut self, environment: &'static [(&'static str, &'static str)]) -> Self {
        self.environment = environment;
        self
    }

    fn usable(mut self) -> Self {
        self.usable = true;
        self
    }
}

/// Real file systems, made once.
struct FileSystems {
    ext4: Vec<u8>,
    squashfs: Vec<u8>,
    /// A squashfs whose `/boot` and `/efi` are not empty.
    full: Vec<u8>,
}

impl FileSystems {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        for place in ["efi", "boot", "home", "proc", "sys", "dev", "run", "tmp"] {
            fs::create_dir(tree.join(place)).unwrap();
        }
        fs::write(tree.join("usr/lib/os-release"), "ID=test\n").unwrap();
        let squashfs =
            made(&directory, "squashfs", &["mksquashfs", "tree", "squashfs", "-quiet", "-no-progress"]);
        fs::File::create(directory.path().join("ext4")).unwrap().set_len(8 << 20).unwrap();
        let ext4 = made(&directory, "ext4", &["mkfs.ext4", "-q", "-d", "tree", "ext4"]);
        for place in ["efi", "boot"] {
            fs::write(tree.join(place).join("here"), "not empty\n").unwrap();
        }
        let full = made(&directory, "full", &["mksquashfs", "tree", "full", "-quiet", "-no-progress"]);
        Self { ext4, squashfs, full }
    }
}

/// Runs a command that makes a file, and reads the file, up to whole blocks.
fn made(directory: &TempDir, file: &str, command: &[&str]) -> Vec<u8> {
    succeed(harness::program(command[0]).args(&command[1..]).current_dir(directory.path()));
    let mut bytes = fs::read(directory.path().join(file)).unwrap();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes
}

fn rows(keys: &Keys) -> Vec<Row> {
    let FileSystems { ext4, squashfs, full } = FileSystems::new();
    let plain = |content: &[u8]| Ddi::new().with(Designator::Root, "root", content.to_vec());
    let signed = |pair: &Pair, content: &[u8]| {
        Ddi::new().protected(&Protected::root(content.to_vec()).signed_by(pair))
    };
    let zero = |part: &mut Part| part.content.fill(0);
    let zeros = signed(&keys.trusted, &squashfs).edit("root-verity", zero).edit("root-verity-sig", zero);
    let generic = Ddi::new()
        .with_type("generic", LINUX_GENERIC, "root", ext4.clone())
        .edit("generic", |part| part.attributes = READ_ONLY);
    let root = Protected::root(squashfs.clone()).signed_by(&keys.trusted);
    let usr = Protected::usr(full.clone()).signed_by(&keys.trusted);
    let fingerprint = signature_partition(
        &root.root_hash(),
        &root.signature(&keys.trusted),
        Some(keys.stranger.fingerprint()),
    );
    let slot = Part {
        name: "slot".to_owned(),
        type_uuid: type_uuid(Designator::Root),
        uuid: 0x99,
        label: "PRT#Arch_2".to_owned(),
        attributes: 0,
        content: ext4.clone(),
    };
    let mut two_things = signed(&keys.trusted, &squashfs).bytes();
    two_things[..96].copy_from_slice(&squashfs[..96]);
    let ddi = plain(&ext4).with(Designator::Home, "home", ext4.clone()).build();
    let first = ddi.partitions[0].offset / 512;
    let overlapping = ddi.edit_both(2, |entry| entry[32..40].copy_from_slice(&first.to_le_bytes())).bytes;
    vec![
        Row::new(
            "an ext4 root that nothing protects",
            &[
                "root=verity+encrypted+absent",
                "root=signed+encrypted+absent",
                "root=signed+verity+encrypted+absent",
                "root=signed+encrypted:root-verity=absent+unused:root-verity-sig=absent+unused",
                "root=signed+unused+absent",
                "root=encrypted+unused+absent",
                "root=encrypted+unused",
            ],
            plain(&ext4).bytes(),
        ),
        Row::new("the same without a partition table", &["root=encrypted+ext4"], ext4.clone()),
        Row::new(
            "a signed root; hash tree and signature are zeros",
            &["root=signed:=unused+absent"],
            zeros.bytes(),
        ),
        Row::new("the same, with", &["root=signed:=unused+absent"], zeros.bytes())
            .environment(&[("SYSTEMD_DISSECT_VERITY_EMBEDDED", "0"), ("SYSTEMD_DISSECT_VERITY_GUESS", "0")]),
        Row::new(
            "a root signed by a stranger",
            &["root=verity+signed"],
            signed(&keys.stranger, &squashfs).bytes(),
        )
        .usable(),
        Row::new(
            "a root signed by a key whose certificate has expired",
            &["root=signed"],
            signed(&keys.expired, &squashfs).bytes(),
        ),
        Row::new(
            "a signed root; its signature names another certificate",
            &["root=signed"],
            Ddi::new().protected(&root).edit("root-verity-sig", |part| part.content = fingerprint).bytes(),
        ),
        Row::new("a squashfs root", &["root=unprotected+ext4"], plain(&squashfs).bytes()),
        Row::new(
            "an ext4 root",
            &["root=unprotected+squashfs", "root=unprotected+erofs+squashfs", "root=unprotected+btrfs+xfs"],
            plain(&ext4).bytes(),
        ),
        Row::new(
            "a signed root with a squashfs",
            &["root=signed+ext4", "root=signed+ext4+erofs"],
            signed(&keys.trusted, &squashfs).bytes(),
        ),
        Row::new(
            "an ESP beside a signed root whose `/boot` and `/efi` are not empty",
            &["root=signed:esp=unprotected"],
            signed(&keys.trusted, &full).with(Designator::Esp, "esp", vfat()).bytes(),
        )
        .usable(),
        Row::new(
            "an ESP with an ext4 in it, beside a signed root",
            &["root=signed:esp=unprotected"],
            signed(&keys.trusted, &squashfs).with(Designator::Esp, "esp", ext4.clone()).bytes(),
        ),
        Row::new(
            "a generic Linux partition with ext4, marked read-only",
            &["root=unprotected+read-only-off", "root=unprotected+squashfs"],
            generic.bytes(),
        ),
        Row::new(
            "a signed root for another architecture",
            &["root=signed"],
            Ddi::new().protected(&root.clone().architecture(foreign())).bytes(),
        ),
        Row::new(
            "a signed root; a squashfs superblock in front of the partition table",
            &["root=unprotected"],
            two_things,
        ),
        Row::new(
            "a squashfs root; partition 2 is a newer root that is labelled `PRT#`, partly written",
            &["root=unprotected"],
            plain(&squashfs).edit("root", |part| "Arch_1".clone_into(&mut part.label)).part(slot).bytes(),
        )
        .usable(),
        Row::new(
            "a root and a home partition that share bytes",
            &["root=unprotected:home=unprotected"],
            overlapping,
        ),
        Row::new(
            "root and usr, both signed",
            &["root=signed:usr=signed"],
            Ddi::new().protected(&root).protected(&usr).bytes(),
        )
        .usable(),
    ]
}

/// Whom the guest trusts, and whom not.
struct Keys {
    trusted: Pair,
    expired: Pair,
    stranger: Pair,
}

impl Keys {
    fn new() -> Self {
        let pair = |options| Pair::new(KeyKind::Rsa(2048), &options);
        let expired = CertificateOptions {
            not_after: 1_609_459_200,
            serial: 2,
            ..CertificateOptions::named("expired")
        };
        Self {
            trusted: pair(CertificateOptions::named("trusted")),
            expired: pair(expired),
            stranger: pair(CertificateOptions::named("stranger")),
        }
    }
}

/// What systemd-dissect makes of it: mounted or not, and what.
fn systemd_answer(peer: &Peer, row: &Row, image: &Path, policy: &str) -> String {
    let dissect = |verb: &[&str]| {
        let mut command = peer.command("systemd-dissect");
        command.args(verb).arg(format!("--image-policy={policy}")).arg(image);
        command.envs(row.environment.iter().copied());
        command
    };
    let output = dissect(&["--mount", "--mkdir"]).arg(MOUNT_POINT).output().unwrap();
    let mounted = MountedImage::at(MOUNT_POINT);
    if output.status.success() {
        assert!(!mounted.is_empty(), "{policy}: {output:?}");
        let text = format!("**mounted**: {mounted}");
        succeed(peer.command("systemd-dissect").args(["--umount", "--rmdir", MOUNT_POINT]));
        MountedImage::at(MOUNT_POINT).take_down();
        return text;
    }
    let reason = last_line(&output).replace(&format!(": {policy}"), "");
    let said = if dissect(&["--validate"]).output().unwrap().status.success() {
        format!("`--validate` says OK; `--mount` fails: {reason}")
    } else {
        format!("refused: {reason}")
    };
    if mounted.is_empty() {
        return said;
    }
    mounted.take_down();
    format!("{said}, and leaves **mounted**: {mounted}")
}

/// What ddictl makes of it: why it is refused, or what is mounted.
fn ddictl_answer(row: &Row, image: &Path, policy: &str) -> String {
    let option = format!("--image-policy={policy}");
    let mut command = harness::ddictl();
    let output = command.args(["mount", "--mkdir", &option]).arg(image).arg(MOUNT_POINT).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let mounted = MountedImage::at(MOUNT_POINT);
    let mut said: Vec<String> = text.lines().filter_map(reason).collect();
    if output.status.success() {
        assert!(row.usable && !mounted.is_empty(), "{policy}: {output:?}");
        let what = format!("mounted: {mounted}");
        succeed(harness::ddictl().args(["umount", "--rmdir", MOUNT_POINT]));
        said.insert(0, what);
        return said.join("; ");
    }
    assert!(mounted.is_empty(), "{policy}: {output:?}, and leaves {mounted}");
    match output.status.code() {
        Some(3) if !said.is_empty() => format!("refused: {}", said.join("; ")),
        Some(1) if text.contains("uses no partition of this image") => {
            "not exposed: the policy uses nothing of it".to_owned()
        }
        _ => panic!("{policy}: {output:?}"),
    }
}

/// What a line of ddictl's says, in a few words: of a finding, `DDI0501: partition 1: TITLE: expected X, found Y`, the
/// title, or what was found where the title says nothing; of another warning, all of it.
fn reason(line: &str) -> Option<String> {
    let Some((_, finding)) = line.find("DDI0").map(|at| line.split_at(at)) else {
        let warning = line.strip_prefix("ddictl: warning: ")?;
        if warning.starts_with("no udevd is running") {
            return None;
        }
        return Some(format!("warns: {warning}"));
    };
    let (code, message) = finding.split_once(": ")?;
    let message = message.strip_prefix("partition ").map_or(message, |rest| rest.split_once(": ").unwrap().1);
    let (title, facts) = message.split_once(": expected ")?;
    let (_, found) = facts.split_once(", found ")?;
    // The state of a partition, without the names in it.
    let words = if code == "DDI0501" { found.split(" (").next()? } else { title };
    Some(format!("{words} ({code})"))
}

/// The whole table. Policies to which all answers are the same share a line.
fn table(peers: &[Peer<'_>], keys: &Keys) -> String {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image.raw");
    let mut lines: Vec<(String, Vec<String>, Vec<String>)> = Vec::new();
    for row in rows(keys) {
        fs::write(&image, &row.bytes).unwrap();
        let set: Vec<_> = row.environment.iter().map(|(name, value)| format!("`{name}={value}`")).collect();
        let name = [row.image].into_iter().map(str::to_owned).chain(set).collect::<Vec<_>>().join(" ");
        for policy in row.policies {
            let mut cells: Vec<_> =
                peers.iter().map(|peer| systemd_answer(peer, &row, &image, policy)).collect();
            cells.push(ddictl_answer(&row, &image, policy));
            let policy = format!("`{policy}`");
            match lines.last_mut() {
                Some((last, policies, same)) if *last == name && *same == cells => policies.push(policy),
                _ => lines.push((name.clone(), vec![policy], cells)),
            }
        }
    }
    let versions: String = peers.iter().map(|peer| format!(" systemd-dissect {} |", peer.version)).collect();
    let mut table =
        format!("| image | policy |{versions} ddictl |\n|---|---|{}---|\n", "---|".repeat(peers.len()));
    for (name, policies, cells) in lines {
        table.push_str(&format!("| {name} | {} | {} |\n", policies.join(", "), cells.join(" | ")));
    }
    table
}

fn the_readme_says_what_systemd_and_ddictl_make_of_forbidden_images() {
    let keys = Keys::new();
    let _trusted = TrustDirectory::with(&[keys.trusted.certificate_pem(), keys.expired.certificate_pem()]);
    let shared = SharedMounts::new();
    let peers = ["trixie", "sid"].map(|suite| Peer::new(suite, &shared).unwrap());
    let table = table(&peers, &keys);
    drop(peers);
    // For tests/guest/systemd/table.
    io::stdout().write_all(format!("\n{BEGIN}{table}{END}").as_bytes()).unwrap();
    let readme = fs::read_to_string(harness::in_source_tree("README.md")).unwrap();
    let found = readme.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).unwrap().0;
    let (found, table) = match (versions(found), versions(&table)) {
        (there, here) if there == here => (found.to_owned(), table),
        // What other versions do is for the next one who writes the README; what we do is not.
        _ => (without_systemd(found), without_systemd(&table)),
    };
    assert!(found == table, "'tests/guest/systemd/table --update' puts this into the README:\n{table}");
}

/// The first line of a table, which has the versions in it.
fn versions(table: &str) -> Option<&str> {
    table.lines().next()
}

/// The columns that do not depend on systemd: image, policy, and what ddictl does. Policies that share a line because of
/// systemd's answers are taken apart again.
fn without_systemd(table: &str) -> String {
    let mut lines = Vec::new();
    for line in table.lines().skip(2) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let [image, policies, .., ours] = cells.as_slice() else { panic!("not a line of the table: {line}") };
        lines.extend(policies.split(", ").map(|policy| format!("{image} | {policy} | {ours}\n")));
    }
    lines.concat()
}
