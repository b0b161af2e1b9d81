//! Attaching on a kernel that checks root hash signatures itself: what it says comes on top of what ddictl says.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::ddi_builder::Ddi;
use crate::ddi_builder::Protected;
use crate::ddi_builder::squashfs;
use crate::harness;
use crate::harness::HostTest;
use crate::harness::Need;
use crate::kernel_signature::KEYS;
use crate::kernel_signature::RequiredSignatures;
use crate::kernel_signature::expect_no_keys_of_ours;
use crate::kernel_signature::key;
use crate::kernel_signature::table_of;

const NEEDS: &[Need] = &[Need::Root, Need::LoopDevices, Need::DeviceMapper, Need::Tool("dmsetup")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "attach::the_signature_by_an_enrolled_key_is_in_the_table",
        needs: NEEDS,
        run: the_signature_by_an_enrolled_key_is_in_the_table,
    },
    HostTest {
        name: "attach::that_the_kernel_did_not_check_is_said",
        needs: NEEDS,
        run: that_the_kernel_did_not_check_is_said,
    },
    HostTest {
        name: "attach::a_key_that_the_firmware_has_revoked_is_refused",
        needs: NEEDS,
        run: a_key_that_the_firmware_has_revoked_is_refused,
    },
    HostTest {
        name: "attach::required_signatures_are_required_of_ours_too",
        needs: NEEDS,
        run: required_signatures_are_required_of_ours_too,
    },
];

/// The name of the attachment.
const NAME: &str = "machine.raw";

/// An image that ddictl is told to trust, whatever the kernel thinks of its signer.
struct Image {
    directory: TempDir,
    trust: Vec<String>,
}

impl Image {
    fn signed_by(who: &str) -> Self {
        Self::of(&Ddi::signed(&key(who)), format!("--certificate={KEYS}/{who}.crt"))
    }

    /// Without a signature, and with its root hash on the command line.
    fn pinned() -> Self {
        let root = Protected::root(squashfs());
        Self::of(&Ddi::new().protected(&root), format!("--root-hash={}", root.root_hash()))
    }

    fn of(ddi: &Ddi, trust: String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(NAME), ddi.bytes()).unwrap();
        Self { directory, trust: vec![trust] }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    fn attach(&self) -> Output {
        harness::ddictl()
            .args(["attach", "--json=short"])
            .args(&self.trust)
            .arg(self.path())
            .output()
            .unwrap()
    }

    /// Attaches what must be attached, looks at it, and detaches it: the record, what was said, and the table.
    fn attached(&self) -> (Value, String, String) {
        let output = self.attach();
        assert!(output.status.success(), "{output:?}");
        let table = table_of(&format!("{NAME}-root"));
        expect_no_keys_of_ours();
        let list = harness::ddictl().args(["list", "--json=short"]).output().unwrap();
        let detached = harness::ddictl().args(["detach", NAME]).output().unwrap();
        assert!(detached.status.success(), "{detached:?}");
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        let listed = String::from_utf8(list.stdout).unwrap();
        let mapper = record["devices"][0]["mappers"][0].clone();
        let checked = format!(r#""kernel_checked_signature":{}"#, mapper["kernel_checked_signature"]);
        assert!(listed.contains(&checked), "{checked} in {listed}");
        (mapper, String::from_utf8(output.stderr).unwrap(), table)
    }

    /// What is said where the kernel refuses. The harness sees to it that nothing is left.
    fn refused(&self) -> String {
        let output = self.attach();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("DDI0411"), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        expect_no_keys_of_ours();
        String::from_utf8(output.stderr).unwrap()
    }
}

fn the_signature_by_an_enrolled_key_is_in_the_table() {
    let (mapper, said, table) = Image::signed_by("enrolled").attached();
    assert_eq!(mapper["kernel_checked_signature"], true, "{mapper}");
    assert!(table.contains(" root_hash_sig_key_desc ddictl:"), "{table}");
    assert!(!said.contains("the kernel did not check"), "{said}");
}

fn that_the_kernel_did_not_check_is_said() {
    let (mapper, said, table) = Image::signed_by("other").attached();
    assert_eq!(mapper["kernel_checked_signature"], false, "{mapper}");
    assert!(!table.contains("root_hash_sig_key_desc"), "{table}");
    assert!(said.contains("the kernel did not check it: it has no key for the signature"), "{said}");
}

fn a_key_that_the_firmware_has_revoked_is_refused() {
    let said = Image::signed_by("revoked").refused();
    assert!(said.contains("DDI0411: partition 2: a signature that the kernel refuses"), "{said}");
    assert!(said.contains("or the key is on its blacklist"), "{said}");
}

fn required_signatures_are_required_of_ours_too() {
    let _required = RequiredSignatures::new();
    let (mapper, _, table) = Image::signed_by("enrolled").attached();
    assert_eq!(mapper["kernel_checked_signature"], true, "{mapper}");
    assert!(table.contains(" root_hash_sig_key_desc ddictl:"), "{table}");

    let said = Image::signed_by("other").refused();
    assert!(said.contains("dm_verity.require_signatures is set and none of its keys made"), "{said}");
    assert!(said.contains("enroll the certificate"), "{said}");
    let said = Image::pinned().refused();
    assert!(said.contains("dm_verity.require_signatures is set and the image has no signature"), "{said}");
}
