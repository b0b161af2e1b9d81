//! The kernel's own check of root hash signatures: what it takes, what it refuses, and what is said of it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use openssl::pkcs7::Pkcs7;
use openssl::pkcs7::Pkcs7Flags;
use openssl::pkey::PKey;
use openssl::stack::Stack;
use openssl::x509::X509;
use tempfile::TempDir;

use crate::ddi_builder::Protected;
use crate::ddi_builder::squashfs;
use crate::harness::HostTest;
use crate::harness::Need;
use crate::keys::Pair;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "kernel_signature::the_firmwares_certificate_is_in_the_platform_keyring",
        needs: &[Need::Root],
        run: the_firmwares_certificate_is_in_the_platform_keyring,
    },
    HostTest {
        name: "kernel_signature::veritysetup_has_its_signature_checked_by_the_kernel",
        needs: &[
            Need::Root,
            Need::LoopDevices,
            Need::DeviceMapper,
            Need::Tool("veritysetup"),
            Need::Tool("dmsetup"),
        ],
        run: veritysetup_has_its_signature_checked_by_the_kernel,
    },
];

/// Where `boot` puts the keys.
const KEYS: &str = "/machine";

/// The key whose certificate is in the firmware's db: the kernel takes its signatures.
fn enrolled() -> Pair {
    key("enrolled")
}

/// One of the keys that `boot` makes: `enrolled`, `revoked` and `other`, which the kernel does not know.
fn key(name: &str) -> Pair {
    let read = |ending| fs::read(format!("{KEYS}/{name}.{ending}")).unwrap();
    Pair {
        key: PKey::private_key_from_pem(&read("key")).unwrap(),
        certificate: X509::from_pem(&read("crt")).unwrap(),
    }
}

/// Runs a command that must succeed, and gives its standard output.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The keys and keyrings that this process may see, as the kernel lists them.
fn keys_of_the_kernel() -> String {
    fs::read_to_string("/proc/keys").unwrap()
}

fn the_firmwares_certificate_is_in_the_platform_keyring() {
    let listed = keys_of_the_kernel();
    assert!(listed.lines().any(|line| line.contains(" keyring   .platform: 1")), "{listed}");
    assert!(listed.lines().any(|line| line.contains(" asymmetri enrolled test key: ")), "{listed}");
    for name in ["other", "revoked"] {
        assert!(!listed.contains(&format!("{name} test key")), "{listed}");
    }
    assert!(listed.lines().any(|line| line.contains(" blacklist ") && line.contains("tbs:")), "{listed}");
}

/// A signature as `Protected::signature` makes it, with the certificate in it: the kernel looks up whether that is revoked,
/// and only that.
fn signature_with_certificate(protected: &Protected, signer: &Pair) -> Vec<u8> {
    let flags = Pkcs7Flags::BINARY | Pkcs7Flags::NOATTR | Pkcs7Flags::DETACHED;
    let content = protected.root_hash().to_string();
    let others = Stack::new().unwrap();
    let pkcs7 = Pkcs7::sign(&signer.certificate, &signer.key, &others, content.as_bytes(), flags);
    pkcs7.unwrap().to_der().unwrap()
}

/// Data, hash tree and signature as files, for veritysetup.
struct Files {
    directory: TempDir,
    root_hash: String,
}

impl Files {
    fn new(protected: &Protected, signature: Vec<u8>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: Vec<u8>| fs::write(directory.path().join(name), bytes).unwrap();
        write("data", protected.data.clone());
        write("hash", protected.hash_partition());
        write("signature", signature);
        Self { directory, root_hash: protected.root_hash().to_string() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self, name: &str) -> Command {
        let mut command = Command::new("veritysetup");
        command.arg("open").arg(self.path("data")).arg(name).arg(self.path("hash")).arg(&self.root_hash);
        command.arg(format!("--root-hash-signature={}", self.path("signature").display()));
        command
    }
}

/// The machine is what the other tests take it for: its kernel takes one key, and refuses unknown and revoked ones.
fn veritysetup_has_its_signature_checked_by_the_kernel() {
    let root = Protected::root(squashfs());
    for signature in [root.signature(&enrolled()), signature_with_certificate(&root, &enrolled())] {
        succeed(&mut Files::new(&root, signature).open("peer"));
        let table = succeed(Command::new("dmsetup").args(["table", "peer"]));
        succeed(Command::new("veritysetup").args(["close", "peer"]));
        assert!(table.contains(" root_hash_sig_key_desc "), "{table}");
    }
    for signature in [root.signature(&key("other")), signature_with_certificate(&root, &key("revoked"))] {
        let refused = Files::new(&root, signature).open("peer").output().unwrap();
        assert!(!refused.status.success(), "{refused:?}");
    }
}
