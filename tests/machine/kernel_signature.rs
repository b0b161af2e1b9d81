//! The kernel's own check of root hash signatures: what it takes, what it refuses, and what is said of it.

use std::fs;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ddictl::format::root_hash::RootHash;
use ddictl::format::units::SectorSize;
use ddictl::format::verity::VeritySuperblock;
use ddictl::format::verity::table::VerityTable;
use ddictl::kernel::device_mapper::DeviceMapperError;
use ddictl::kernel::device_mapper::KernelSignature;
use ddictl::kernel::device_mapper::MappedDevice;
use ddictl::kernel::device_mapper::NotChecked;
use ddictl::kernel::device_mapper::SignatureRefusal;
use ddictl::kernel::device_mapper::VerityRequest;
use ddictl::kernel::device_mapper::find_by_name;
use ddictl::kernel::loop_device::LoopDevice;
use ddictl::kernel::loop_device::LoopRequest;
use openssl::pkey::PKey;
use openssl::x509::X509;
use tempfile::TempDir;

use crate::ddi_builder::Protected;
use crate::ddi_builder::squashfs;
use crate::harness::HostTest;
use crate::harness::Need;
use crate::keys::Pair;

const VERITY: &[Need] =
    &[Need::Root, Need::LoopDevices, Need::DeviceMapper, Need::Tool("dmsetup"), Need::Tool("veritysetup")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "kernel_signature::the_kernel_has_the_keys_of_the_firmware",
        needs: &[Need::Root],
        run: the_kernel_has_the_keys_of_the_firmware,
    },
    HostTest {
        name: "kernel_signature::veritysetup_has_its_signature_checked_by_the_kernel",
        needs: VERITY,
        run: veritysetup_has_its_signature_checked_by_the_kernel,
    },
    HostTest {
        name: "kernel_signature::a_signature_by_an_enrolled_key_is_checked",
        needs: VERITY,
        run: a_signature_by_an_enrolled_key_is_checked,
    },
    HostTest {
        name: "kernel_signature::a_signature_by_an_unknown_key_is_left_out_and_reported",
        needs: VERITY,
        run: a_signature_by_an_unknown_key_is_left_out_and_reported,
    },
    HostTest {
        name: "kernel_signature::what_the_kernel_rejects_is_refused_and_not_retried",
        needs: VERITY,
        run: what_the_kernel_rejects_is_refused_and_not_retried,
    },
    HostTest {
        name: "kernel_signature::a_kernel_that_requires_signatures_is_obeyed",
        needs: VERITY,
        run: a_kernel_that_requires_signatures_is_obeyed,
    },
];

/// Where `boot` puts the keys.
pub(crate) const KEYS: &str = "/machine";

/// The name of the devices of these tests.
const NAME: &str = "machine-test";

/// One of the keys that `boot` makes: `enrolled`, `revoked`, and `other`, which the kernel does not know.
pub(crate) fn key(name: &str) -> Pair {
    let read = |ending| fs::read(format!("{KEYS}/{name}.{ending}")).unwrap();
    Pair {
        key: PKey::private_key_from_pem(&read("key")).unwrap(),
        certificate: X509::from_pem(&read("crt")).unwrap(),
    }
}

/// Runs a command that must succeed, and gives its standard output.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The table of a device, as dmsetup reads it.
pub(crate) fn table_of(name: &str) -> String {
    succeed(Command::new("dmsetup").args(["table", name]))
}

/// What the kernel lists in its keyrings.
fn keys_of_the_kernel() -> String {
    fs::read_to_string("/proc/keys").unwrap()
}

/// Expects that no key is left in which we have handed a signature to the kernel. One that was taken out of its last
/// keyring is listed until the kernel has collected it.
pub(crate) fn expect_no_keys_of_ours() {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let listed = keys_of_the_kernel();
        let Some(line) = listed.lines().find(|line| line.contains(" ddictl:")) else { return };
        assert!(Instant::now() < deadline, "left behind: key {line}");
        thread::yield_now();
    }
}

/// A kernel that takes no table without a signature by one of its keys, for as long as this lives.
#[derive(Debug)]
pub(crate) struct RequiredSignatures;

impl RequiredSignatures {
    /// The parameter is read when the module is loaded; on a kernel command line it is `dm_verity.require_signatures=1`.
    pub(crate) fn new() -> Self {
        load_verity(&["require_signatures=1"]);
        let made = Self;
        let value = fs::read_to_string("/sys/module/dm_verity/parameters/require_signatures").unwrap();
        assert_eq!(value, "Y\n");
        made
    }
}

impl Drop for RequiredSignatures {
    fn drop(&mut self) {
        load_verity(&[]);
    }
}

fn load_verity(parameters: &[&str]) {
    succeed(Command::new("modprobe").args(["--remove", "dm_verity"]));
    succeed(Command::new("modprobe").arg("dm_verity").args(parameters));
}

fn the_kernel_has_the_keys_of_the_firmware() {
    let listed = keys_of_the_kernel();
    let has = |words: &[&str]| listed.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has(&[" keyring ", " .platform: 1"]), "{listed}");
    assert!(has(&[" asymmetri ", " enrolled test key: "]), "{listed}");
    assert!(has(&[" blacklist ", " tbs:"]), "{listed}");
    for name in ["other", "revoked"] {
        assert!(!listed.contains(&format!("{name} test key")), "{listed}");
    }
}

/// A file system with its hash tree, as files.
#[derive(Debug)]
struct Tree {
    directory: TempDir,
    root_hash: RootHash,
    superblock: VeritySuperblock,
}

impl Tree {
    fn of(protected: &Protected) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("data"), &protected.data).unwrap();
        let hash = protected.hash_partition();
        fs::write(directory.path().join("hash"), &hash).unwrap();
        let superblock = VeritySuperblock::parse(&hash).unwrap();
        Self { directory, root_hash: protected.root_hash(), superblock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn veritysetup(&self, signature: &[u8]) -> Command {
        fs::write(self.path("signature"), signature).unwrap();
        let mut command = Command::new("veritysetup");
        command.arg("open").arg(self.path("data")).arg(NAME).arg(self.path("hash"));
        command.arg(self.root_hash.to_string());
        command.arg(format!("--root-hash-signature={}", self.path("signature").display()));
        command
    }

    fn attach(&self, name: &str) -> LoopDevice {
        let file = File::open(self.path(name)).unwrap();
        let block_size = SectorSize::DEFAULT;
        let reference = "ddictl-machine-test";
        let request =
            LoopRequest { backing: file.as_fd(), extent: None, block_size, read_only: true, reference };
        LoopDevice::configure(&request).unwrap()
    }

    /// A dm-verity device by our own code, with a signature that nobody has looked at before.
    fn map(&self, signature: Option<&[u8]>) -> Result<(MappedDevice, KernelSignature), DeviceMapperError> {
        let (data, hash) = (self.attach("data"), self.attach("hash"));
        let (data_device, hash_device) = (data.device_number().into(), hash.device_number().into());
        let table = VerityTable::of(&self.superblock, self.root_hash.clone(), data_device, hash_device);
        let uuid = format!("CRYPT-VERITY-{}-{NAME}", self.superblock.uuid.to_string().replace('-', ""));
        MappedDevice::create_verity(&VerityRequest { name: NAME, uuid: &uuid, table }, signature)
    }

    /// The same where the kernel must refuse it, and nothing may be left.
    fn refusal(&self, signature: Option<&[u8]>) -> SignatureRefusal {
        let error = self.map(signature).map(|(_, outcome)| outcome).unwrap_err();
        assert!(find_by_name(NAME).unwrap().is_none());
        expect_no_keys_of_ours();
        match error {
            DeviceMapperError::Signature { refusal, .. } => refusal,
            other => panic!("another error than expected: {other:?}"),
        }
    }
}

/// The machine is what the other tests take it for: its kernel takes one key, and refuses unknown and revoked ones.
fn veritysetup_has_its_signature_checked_by_the_kernel() {
    let root = Protected::root(squashfs());
    let tree = Tree::of(&root);
    succeed(&mut tree.veritysetup(&root.signature(&key("enrolled"))));
    let table = table_of(NAME);
    succeed(Command::new("veritysetup").args(["close", NAME]));
    assert!(table.contains(" root_hash_sig_key_desc "), "{table}");
    for name in ["other", "revoked"] {
        let refused = tree.veritysetup(&root.signature(&key(name))).output().unwrap();
        assert!(!refused.status.success(), "{refused:?}");
    }
}

fn a_signature_by_an_enrolled_key_is_checked() {
    let root = Protected::root(squashfs());
    let (device, outcome) = Tree::of(&root).map(Some(&root.signature(&key("enrolled")))).unwrap();
    assert_eq!(outcome, KernelSignature::Checked);
    assert!(table_of(NAME).contains(" root_hash_sig_key_desc ddictl:"), "{}", table_of(NAME));
    expect_no_keys_of_ours();
    assert_eq!(fs::read(device.path()).unwrap(), squashfs());
}

fn a_signature_by_an_unknown_key_is_left_out_and_reported() {
    let root = Protected::root(squashfs());
    let (device, outcome) = Tree::of(&root).map(Some(&root.signature(&key("other")))).unwrap();
    assert_eq!(outcome, KernelSignature::NotChecked { why: NotChecked::NoKey });
    assert!(!table_of(NAME).contains("root_hash_sig_key_desc"), "{}", table_of(NAME));
    expect_no_keys_of_ours();
    assert_eq!(fs::read(device.path()).unwrap(), squashfs());
}

fn what_the_kernel_rejects_is_refused_and_not_retried() {
    let root = Protected::root(squashfs());
    let tree = Tree::of(&root);
    let good = root.signature(&key("enrolled"));
    // The last bytes are the signature proper.
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let another = Protected { salt: vec![1; 32], ..root.clone() };
    for (what, signature, expected) in [
        ("a changed signature", changed, SignatureRefusal::Invalid),
        (
            "the signature of another root hash",
            another.signature(&key("enrolled")),
            SignatureRefusal::Rejected,
        ),
        ("a key that the firmware has revoked", root.signature(&key("revoked")), SignatureRefusal::Rejected),
        ("no signature at all", b"not a signature".to_vec(), SignatureRefusal::Malformed),
        ("a signature that is cut off", good[..good.len() / 2].to_vec(), SignatureRefusal::Malformed),
    ] {
        assert_eq!(tree.refusal(Some(&signature)), expected, "{what}");
    }
    // Nothing of that is the kernel's mood: the good one is still good.
    assert_eq!(tree.map(Some(&good)).unwrap().1, KernelSignature::Checked);
}

fn a_kernel_that_requires_signatures_is_obeyed() {
    let root = Protected::root(squashfs());
    let tree = Tree::of(&root);
    let _required = RequiredSignatures::new();
    assert_eq!(tree.map(Some(&root.signature(&key("enrolled")))).unwrap().1, KernelSignature::Checked);
    assert_eq!(tree.refusal(Some(&root.signature(&key("other")))), SignatureRefusal::RequiredKeyMissing);
    assert_eq!(tree.refusal(Some(&root.signature(&key("revoked")))), SignatureRefusal::Rejected);
    assert_eq!(tree.refusal(None), SignatureRefusal::RequiredMissing);
}
