//! Encrypted partitions on a real kernel: volumes that cryptsetup made are opened, or refused by name, and nothing stays.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ddictl::format::designator::Designator;
use ddictl::format::superblock::FileSystem;
use ddictl::format::units::SectorSize;
use ddictl::image::finding::Rule;
use ddictl::image::policy::Protection;
use ddictl::image::presets::RequestedPolicy;
use ddictl::image::unlocked::LockedPartition;
use ddictl::kernel::device_mapper::find_by_name;
use ddictl::kernel::loop_device::{LoopDevice, LoopRequest, status};
use ddictl::operation::cancel::Cancel;
use ddictl::operation::error::OperationError;
use ddictl::operation::observer::Silent;
use ddictl::operation::unlock::{KeySource, Keys, UnlockRequest, Unlocked, unlock};
use tempfile::TempDir;

use crate::harness::{self, HostTest, Need};

const CRYPT: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::DeviceMapper,
    Need::FileSystem("ext4"),
    Need::Tool("cryptsetup"),
    Need::Tool("mkfs.ext4"),
    Need::Tool("mount"),
    Need::Tool("umount"),
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "luks::both_versions_open_with_every_kind_of_key",
        needs: CRYPT,
        run: both_versions_open,
    },
    HostTest { name: "luks::argon2id_opens", needs: CRYPT, run: argon2id_opens },
    HostTest { name: "luks::what_is_written_arrives_encrypted", needs: CRYPT, run: what_is_written_arrives },
    HostTest { name: "luks::integrity_is_found_and_holds", needs: CRYPT, run: integrity_is_found_and_holds },
    HostTest { name: "luks::a_wrong_key_is_told", needs: CRYPT, run: a_wrong_key_is_told },
    HostTest { name: "luks::a_terminal_gets_three_tries", needs: CRYPT, run: a_terminal_gets_three_tries },
    HostTest { name: "luks::null_ciphers_are_refused", needs: CRYPT, run: null_ciphers_are_refused },
    HostTest { name: "luks::hostile_headers_are_refused", needs: CRYPT, run: hostile_headers_are_refused },
    HostTest {
        name: "luks::a_damaged_copy_is_refused_not_repaired",
        needs: CRYPT,
        run: a_damaged_copy_is_refused,
    },
    HostTest { name: "luks::the_policy_is_asked_again", needs: CRYPT, run: the_policy_is_asked_again },
    HostTest { name: "luks::a_changed_state_is_refused", needs: CRYPT, run: a_changed_state_is_refused },
    HostTest {
        name: "luks::a_killed_holder_leaves_nothing",
        needs: CRYPT,
        run: a_killed_holder_leaves_nothing,
    },
    HostTest {
        name: "luks::a_permanent_volume_stays_until_closed",
        needs: CRYPT,
        run: a_permanent_volume_stays,
    },
    HostTest {
        name: "luks::nothing_waits_for_udev",
        needs: &[Need::DeviceMapper, Need::Tool("cryptsetup"), Need::Tool("mkfs.ext4"), Need::Udevd],
        run: nothing_waits_for_udev,
    },
    HostTest {
        name: "luks::a_volume_on_verity_opens",
        needs: &[
            Need::DeviceMapper,
            Need::Tool("cryptsetup"),
            Need::Tool("mkfs.ext4"),
            Need::Tool("veritysetup"),
        ],
        run: a_volume_on_verity_opens,
    },
];

const KEY: &str = "sesame";
const NAME: &str = "ddictl-guest-luks";
const FAST: &[&str] = &["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A volume in a file, and its key in another.
struct Volume {
    directory: TempDir,
}

impl Volume {
    /// Made by cryptsetup with these options; there is nothing in it.
    fn empty(options: &[&str]) -> Self {
        let volume = Self { directory: tempfile::tempdir().unwrap() };
        File::create(volume.image()).unwrap().set_len(24 << 20).unwrap();
        fs::write(volume.key(), KEY).unwrap();
        let (image, key) = (volume.image(), volume.key());
        let fixed = ["luksFormat", "--batch-mode", path(&image), path(&key)];
        run("cryptsetup", &[&fixed, options].concat());
        volume
    }

    /// The same, with an ext4 that holds a file.
    fn with_ext4(options: &[&str]) -> Self {
        let volume = Self::empty(options);
        let tree = volume.directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        let (image, key) = (volume.image(), volume.key());
        run("cryptsetup", &["open", path(&image), "made", "--key-file", path(&key)]);
        run("mkfs.ext4", &["-q", "-b", "4096", "-d", path(&tree), "/dev/mapper/made"]);
        run("cryptsetup", &["close", "made"]);
        volume
    }

    /// Changes the metadata in both copies of the header, and makes their checksums fit.
    fn edit(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        const COPY: usize = 16384;
        let image = File::options().read(true).write(true).open(self.image()).unwrap();
        let mut head = vec![0; 2 * COPY];
        image.read_exact_at(&mut head, 0).unwrap();
        let end = head[4096..].iter().position(|byte| *byte == 0).unwrap();
        let mut metadata = serde_json::from_slice(&head[4096..][..end]).unwrap();
        edit(&mut metadata);
        let text = metadata.to_string();
        for copy in head.chunks_mut(COPY) {
            copy[4096..].fill(0);
            copy[4096..][..text.len()].copy_from_slice(text.as_bytes());
            copy[448..512].fill(0);
            let checksum = openssl::sha::sha256(copy);
            copy[448..480].copy_from_slice(&checksum);
        }
        image.write_all_at(&head, 0).unwrap();
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key")
    }

    /// Shown by a loop device that goes with the last user.
    fn show(&self, read_only: bool) -> LoopDevice {
        let backing = File::options().read(true).write(!read_only).open(self.image()).unwrap();
        LoopDevice::configure(&LoopRequest {
            backing: backing.as_fd(),
            extent: None,
            block_size: SectorSize::new(512).unwrap(),
            read_only,
            reference: "guest-luks.data",
        })
        .unwrap()
    }

    /// Opened read-only with its key file, under this policy.
    fn open(&self, policy: &str) -> Result<Unlocked, OperationError> {
        open(&self.show(true), KeySource::File(self.key()), policy)
    }
}

const HOME: LockedPartition = LockedPartition {
    number: None,
    designator: Designator::Home,
    protection: Protection::Encrypted,
    read_only: false,
    growfs: false,
};

fn open(device: &LoopDevice, source: KeySource<'_>, policy: &str) -> Result<Unlocked, OperationError> {
    open_as(&device.path(), source, policy, HOME, true)
}

fn open_as(
    device: &Path,
    source: KeySource<'_>,
    policy: &str,
    partition: LockedPartition,
    read_only: bool,
) -> Result<Unlocked, OperationError> {
    let policy = RequestedPolicy::as_written(policy.parse().unwrap());
    let request = UnlockRequest {
        image: "image",
        partition,
        device,
        name: NAME,
        read_only,
        allow_discards: !read_only,
        policy: &policy,
    };
    unlock(&request, &mut Keys::new(source), &Silent, &Cancel::never())
}

/// The file in the ext4, by a mount.
fn content(unlocked: &Unlocked) -> String {
    let place = tempfile::tempdir().unwrap();
    run("mount", &["-t", "ext4", "-o", "ro,noload", path(&unlocked.volume.path()), path(place.path())]);
    let found = fs::read_to_string(place.path().join("file"));
    run("umount", &[path(place.path())]);
    found.unwrap()
}

/// What is neither a device nor a file and could stay: keys. The kernel lists one that is gone until it is collected.
fn assert_no_traces() {
    wait_until("no key of a volume is there", || {
        let keys = fs::read_to_string("/proc/keys").unwrap();
        !keys.contains("ddictl:") && !keys.contains("cryptsetup:")
    });
}

fn assert_closed() {
    wait_until("the volume is closed", || find_by_name(NAME).unwrap().is_none());
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the kernel tells nobody that a device is gone")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// The rules by which an image is refused.
fn rules(outcome: Result<Unlocked, OperationError>) -> Vec<Rule> {
    let OperationError::Refused { refusal, .. } = outcome.unwrap_err() else { panic!("not refused") };
    refusal.findings.iter().map(|finding| finding.rule).collect()
}

fn both_versions_open() {
    for version in ["luks1", "luks2"] {
        let volume = Volume::with_ext4(&[&["--type", version], FAST].concat());
        let locks = fs::exists("/run/cryptsetup").unwrap();
        let credentials = tempfile::tempdir().unwrap();
        fs::write(credentials.path().join("dissect.passphrase"), KEY).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"sesame\n").unwrap();
        drop(writer);
        let number = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&reader)).unwrap();
        let ask = |_: &str| Ok(Some(zeroize::Zeroizing::new(KEY.to_owned())));
        for source in [
            KeySource::File(volume.key()),
            KeySource::Descriptor(number),
            KeySource::Credential(credentials.path().to_owned(), None),
            KeySource::Ask(Box::new(ask)),
        ] {
            let kind = format!("{version} {source:?}");
            let device = volume.show(true);
            let unlocked = open(&device, source, "home=encrypted+ext4").unwrap();
            assert_no_traces();
            // The loop device is ours no more, and stays: the volume holds it.
            drop(device);
            assert_eq!(unlocked.file_system, Some(FileSystem::Ext4), "{kind}");
            assert_eq!(content(&unlocked), "content", "{kind}");
            let shown = run("cryptsetup", &["status", NAME]);
            for expected in [version.to_ascii_uppercase().as_str(), "aes-xts-plain64", "readonly"] {
                assert!(shown.contains(expected), "{kind}: {shown}");
            }
            let table = run("dmsetup", &["table", "--showkeys", NAME]);
            assert!(table.contains(":user:ddictl:luks-"), "{table}");
            unlocked.volume.close(Instant::now() + Duration::from_secs(10)).unwrap();
            assert!(find_by_name(NAME).unwrap().is_none(), "{kind}");
            assert_no_traces();
        }
        assert_eq!(fs::exists("/run/cryptsetup").unwrap(), locks);
    }
}

fn argon2id_opens() {
    let volume = Volume::with_ext4(&[
        "--type=luks2",
        "--pbkdf=argon2id",
        "--pbkdf-force-iterations=4",
        "--pbkdf-memory=65536",
        "--pbkdf-parallel=4",
    ]);
    let unlocked = volume.open("home=encrypted").unwrap();
    assert_eq!(content(&unlocked), "content");
}

fn what_is_written_arrives() {
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    let before = fs::read(volume.image()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let device = volume.show(false);
    let unlocked =
        open_as(&device.path(), KeySource::File(volume.key()), "home=encrypted", HOME, false).unwrap();
    assert!(run("dmsetup", &["table", NAME]).contains("allow_discards"));
    run("mount", &["-t", "ext4", path(&unlocked.volume.path()), path(place.path())]);
    let written = fs::write(place.path().join("new"), "this was written just now");
    run("umount", &[path(place.path())]);
    written.unwrap();
    drop(unlocked);
    drop(device);
    assert_closed();
    let after = fs::read(volume.image()).unwrap();
    assert!(!after.windows(25).any(|part| part == b"this was written just now"));
    // Header and key slots are as they were.
    assert!(before[..16 << 20] == after[..16 << 20] && before[16 << 20..] != after[16 << 20..]);
    run(
        "cryptsetup",
        &["open", path(&volume.image()), "made", "--readonly", "--key-file", path(&volume.key())],
    );
    run("mount", &["-t", "ext4", "-o", "ro", "/dev/mapper/made", path(place.path())]);
    let found = fs::read_to_string(place.path().join("new"));
    run("umount", &[path(place.path())]);
    run("cryptsetup", &["close", "made"]);
    assert_eq!(found.unwrap(), "this was written just now");
}

fn integrity_is_found_and_holds() {
    let volume = Volume::with_ext4(&[&["--type=luks2", "--integrity=hmac-sha256"], FAST].concat());
    let authenticated = LockedPartition { protection: Protection::EncryptedWithIntegrity, ..HOME };
    for read_only in [true, false] {
        let device = volume.show(read_only);
        let source = KeySource::File(volume.key());
        let policy = "home=encryptedwithintegrity+ext4";
        let unlocked = open_as(&device.path(), source, policy, authenticated, read_only).unwrap();
        assert_eq!(unlocked.volume.integrity_name(), Some("ddictl-guest-luks_dif"));
        assert_eq!(content(&unlocked), "content");
        let table = run("dmsetup", &["table", NAME]);
        assert!(table.contains("capi:authenc(hmac(sha256),xts(aes))-plain64"), "{table}");
        assert!(table.contains("integrity:32:aead"), "{table}");
        unlocked.volume.close(Instant::now() + Duration::from_secs(10)).unwrap();
        assert!(find_by_name("ddictl-guest-luks_dif").unwrap().is_none());
    }
    // Every byte of the data changed: what is read is an error, never other data.
    let image = File::options().read(true).write(true).open(volume.image()).unwrap();
    let length = image.metadata().unwrap().len();
    let mut data = vec![0; 4 << 20];
    image.read_exact_at(&mut data, length - (4 << 20)).unwrap();
    data.iter_mut().for_each(|byte| *byte ^= 0x55);
    image.write_all_at(&data, length - (4 << 20)).unwrap();
    let device = volume.show(true);
    let opened = open_as(
        &device.path(),
        KeySource::File(volume.key()),
        "home=encryptedwithintegrity",
        authenticated,
        true,
    );
    if let Ok(unlocked) = opened {
        let error = std::io::copy(&mut File::open(unlocked.volume.path()).unwrap(), &mut std::io::sink());
        assert!(matches!(error.unwrap_err().raw_os_error(), Some(5 | 84)));
    }
}

fn a_wrong_key_is_told() {
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    let device = volume.show(true);
    let wrong = volume.directory.path().join("wrong");
    fs::write(&wrong, "open\n").unwrap();
    let message = |source| open(&device, source, "*").unwrap_err().with_causes();
    let found = message(KeySource::File(wrong));
    assert!(found.contains("opens none of the 1 key slots that were tried"), "{found}");
    assert!(found.contains("--key-file=FILE"), "{found}");
    let found = message(KeySource::None);
    assert!(found.contains("there is no key") && found.contains("--locked"), "{found}");
    let found = message(KeySource::Credential(volume.directory.path().to_owned(), None));
    assert!(found.contains("there is no key"), "{found}");
    let found = message(KeySource::File("/dev/null".into()));
    assert!(found.contains("expected a key, found nothing"), "{found}");
    let found = message(KeySource::File("/dev/zero".into()));
    assert!(found.contains("expected at most 8388608 bytes"), "{found}");
    let found = message(KeySource::Descriptor(4711));
    assert!(found.contains("/proc/self/fd/4711"), "{found}");
    let image = volume.image();
    run("cryptsetup", &["config", path(&image), "--key-slot=0", "--priority=ignore"]);
    // A new device: the old one has the header in memory as it was.
    drop(device);
    let found = volume.open("*").unwrap_err().with_causes();
    assert!(found.contains("not marked 'ignore'"), "{found}");
    assert!(find_by_name(NAME).unwrap().is_none());
    assert_no_traces();
}

fn a_terminal_gets_three_tries() {
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    let device = volume.show(true);
    let asked = Cell::new(0);
    for (right, expected) in [(1, Some(1)), (3, Some(3)), (4, None)] {
        asked.set(0);
        let ask = |question: &str| {
            assert!(question.contains("image"), "{question}");
            asked.set(asked.get() + 1);
            let answer = if asked.get() == right { KEY } else { "wrong" };
            Ok(Some(zeroize::Zeroizing::new(answer.to_owned())))
        };
        let outcome = open(&device, KeySource::Ask(Box::new(ask)), "*");
        match expected {
            Some(times) => {
                outcome.unwrap().volume.close(Instant::now() + Duration::from_secs(10)).unwrap();
                assert_eq!(asked.get(), times);
            }
            None => {
                assert!(outcome.unwrap_err().with_causes().contains("opens none"));
                assert_eq!(asked.get(), 3);
            }
        }
    }
}

fn null_ciphers_are_refused() {
    for options in [
        &["--type=luks1", "--cipher=cipher_null-ecb"][..],
        &["--type=luks1", "--cipher=null"],
        &["--type=luks2", "--cipher=cipher_null-ecb", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"],
        &["--type=luks2", "--cipher=null", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"],
    ] {
        let volume = Volume::empty(options);
        let before = fs::read(volume.image()).unwrap();
        let outcome = rules(volume.open("*"));
        assert!(outcome.contains(&Rule::LuksNullCipher), "{options:?}: {outcome:?}");
        // Not a question of the key.
        let ask = |_: &str| panic!("no key is asked for");
        assert!(
            rules(open(&volume.show(true), KeySource::Ask(Box::new(ask)), "*"))
                .contains(&Rule::LuksNullCipher)
        );
        assert!(fs::read(volume.image()).unwrap() == before);
        assert_closed();
    }
    // Of the key slot alone (CVE-2025-58356), which cryptsetup does not make.
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    volume.edit(|metadata| metadata["keyslots"]["0"]["area"]["encryption"] = "cipher_null-ecb".into());
    assert_eq!(rules(volume.open("*")), [Rule::LuksNullCipher]);
}

/// What a header can ask for besides: plug-ins, memory, a reencryption to be finished. No key is tried.
fn hostile_headers_are_refused() {
    type Edit = fn(&mut serde_json::Value);
    let edits: [(Edit, Rule); 4] = [
        (
            |m| m["tokens"]["0"] = serde_json::json!({"type": "systemd-tpm2", "keyslots": ["0"]}),
            Rule::LuksExternalToken,
        ),
        (
            |m| {
                m["keyslots"]["0"]["kdf"] = serde_json::json!({"type": "argon2id", "time": 4, "memory": 4_294_967_295_u32, "cpus": 4, "salt": "AA=="});
            },
            Rule::LuksMemory,
        ),
        (
            |m| m["config"]["requirements"] = serde_json::json!({"mandatory": ["online-reencrypt-v2"]}),
            Rule::LuksUnsupported,
        ),
        (|m| m["segments"]["0"]["type"] = "linear".into(), Rule::LuksNullCipher),
    ];
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    let good = fs::read(volume.image()).unwrap();
    for (edit, rule) in edits {
        volume.edit(edit);
        let ask = |_: &str| panic!("no key is asked for");
        assert_eq!(rules(open(&volume.show(true), KeySource::Ask(Box::new(ask)), "*")), [rule]);
        fs::write(volume.image(), &good).unwrap();
    }
    // The same editing leaves a good volume good.
    volume.edit(|_| {});
    assert_eq!(content(&volume.open("*").unwrap()), "content");
    assert_closed();
}

/// cryptsetup would write the good copy over the bad one.
fn a_damaged_copy_is_refused() {
    for (place, what) in [(4096 + 20, "first"), (16384 + 4096 + 20, "second")] {
        let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
        let image = File::options().read(true).write(true).open(volume.image()).unwrap();
        image.write_all_at(b"#", place).unwrap();
        let before = fs::read(volume.image()).unwrap();
        let device = volume.show(false);
        let outcome = open_as(&device.path(), KeySource::File(volume.key()), "*", HOME, false);
        assert_eq!(rules(outcome), [Rule::LuksInvalid], "{what}");
        drop(device);
        assert!(fs::read(volume.image()).unwrap() == before, "{what}");
    }
}

fn the_policy_is_asked_again() {
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    assert_eq!(rules(volume.open("home=encrypted+xfs")), [Rule::PolicyFileSystem]);
    assert!(find_by_name(NAME).unwrap().is_none(), "taken back before it is reported");
    let empty = Volume::empty(&[&["--type=luks2"], FAST].concat());
    assert_eq!(rules(empty.open("*")), [Rule::ContentUnknown]);
    // A volume in the volume: nobody is to open what was not planned.
    let outer = Volume::empty(&[&["--type=luks2"], FAST].concat());
    run("cryptsetup", &["open", path(&outer.image()), "made", "--key-file", path(&outer.key())]);
    let key = outer.key();
    let inner =
        ["luksFormat", "--type=luks1", "--batch-mode", "--pbkdf-force-iterations=1000", "/dev/mapper/made"];
    run("cryptsetup", &[&inner[..], &[path(&key)]].concat());
    run("cryptsetup", &["close", "made"]);
    assert_eq!(rules(outer.open("*")), [Rule::ContentUnknown]);
}

fn a_changed_state_is_refused() {
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    let planned = LockedPartition { protection: Protection::EncryptedWithIntegrity, ..HOME };
    let device = volume.show(true);
    let outcome = open_as(&device.path(), KeySource::File(volume.key()), "*", planned, true);
    let message = outcome.unwrap_err().with_causes();
    assert!(message.contains("expected a partition that is 'encryptedwithintegrity'"), "{message}");
}

fn a_killed_holder_leaves_nothing() {
    let volume = Volume::with_ext4(&[&["--type=luks2", "--integrity=hmac-sha256"], FAST].concat());
    let planned = LockedPartition { protection: Protection::EncryptedWithIntegrity, ..HOME };
    let device = volume.show(true);
    let unlocked = open_as(&device.path(), KeySource::File(volume.key()), "*", planned, true).unwrap();
    let descriptor = unlocked.volume.fd().try_clone_to_owned().unwrap();
    let mut holder = Command::new("sleep").arg("60").stdin(Stdio::from(descriptor)).spawn().unwrap();
    drop(unlocked);
    let number = device.number();
    drop(device);
    let held = find_by_name(NAME).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(held.unwrap().deferred_removal);
    assert_closed();
    wait_until("the loop device is free", || status(number).unwrap().is_none());
}

fn a_permanent_volume_stays() {
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    let unlocked = volume.open("*").unwrap();
    unlocked.volume.make_permanent().unwrap();
    drop(unlocked);
    let found = find_by_name(NAME).unwrap().unwrap();
    let closed = Command::new("cryptsetup").args(["close", NAME]).status().unwrap();
    assert!(found.live && !found.deferred_removal);
    assert!(closed.success());
    assert!(find_by_name(NAME).unwrap().is_none());
}

/// udevd runs, and none of the rules answers a cookie.
fn nothing_waits_for_udev() {
    const RULES: [&str; 4] =
        ["10-dm.rules", "55-dm.rules", "60-persistent-storage-dm.rules", "95-dm-notify.rules"];
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    fs::create_dir_all("/run/udev/rules.d").unwrap();
    for name in RULES {
        std::os::unix::fs::symlink("/dev/null", Path::new("/run/udev/rules.d").join(name)).unwrap();
    }
    let mut udevd = Command::new(harness::udevd().unwrap()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("udevd listens", || fs::exists("/run/udev/control").unwrap());
    run("udevadm", &["control", "--ping", "--timeout=30"]);
    let started = Instant::now();
    let outcome =
        volume.open("*").map(|unlocked| unlocked.volume.close(Instant::now() + Duration::from_secs(10)));
    let took = started.elapsed();
    run("udevadm", &["settle", "--timeout=30"]);
    udevd.kill().unwrap();
    udevd.wait().unwrap();
    fs::remove_dir_all("/run/udev").unwrap();
    outcome.unwrap().unwrap();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

fn a_volume_on_verity_opens() {
    let volume = Volume::with_ext4(&[&["--type=luks2"], FAST].concat());
    let hash = volume.directory.path().join("hash");
    let output = run("veritysetup", &["format", path(&volume.image()), path(&hash)]);
    let root = output.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();
    run("veritysetup", &["open", path(&volume.image()), "below", path(&hash), &root]);
    let partition = LockedPartition { designator: Designator::Root, protection: Protection::Signed, ..HOME };
    let below = fs::canonicalize("/dev/mapper/below").unwrap();
    let outcome = open_as(&below, KeySource::File(volume.key()), "root=signed+ext4", partition, true);
    let shown = outcome.map(|unlocked| {
        let file_system = unlocked.file_system;
        unlocked.volume.close(Instant::now() + Duration::from_secs(10)).unwrap();
        file_system
    });
    run("veritysetup", &["close", "below"]);
    assert_eq!(shown.map_err(|error| error.with_causes()).unwrap(), Some(FileSystem::Ext4));
}
