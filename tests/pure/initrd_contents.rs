//! `initrd/contents`: what of a machine's configuration goes into an initrd, and when there is none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// What every certificate in PEM begins with.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n";

/// A system that an initrd is made for.
struct System(TempDir);

impl System {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, path: &str, text: &str) -> Self {
        let file = self.0.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        self
    }

    fn with_link(self, path: &str, target: &str) -> Self {
        let file = self.0.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        symlink(target, file).unwrap();
        self
    }

    /// What the script prints, and what it says; an error where it fails.
    fn contents(&self) -> Result<(Vec<String>, String), String> {
        let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("initrd/contents"))
            .arg(format!("--root={}", self.0.path().display()))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if !output.status.success() {
            assert_eq!(output.status.code(), Some(1), "{said}");
            return Err(said);
        }
        let printed = String::from_utf8(output.stdout).unwrap();
        Ok((printed.lines().map(str::to_owned).collect(), said))
    }

    fn files(&self) -> Vec<String> {
        self.contents().unwrap().0
    }

    fn refusal(&self) -> String {
        self.contents().unwrap_err()
    }
}

#[test]
fn without_a_trust_anchor_there_is_none() {
    let text = System::new().refusal();
    assert!(text.contains("no trust anchor for the initrd"), "{text}");
    assert!(text.contains("TRUST_ANCHORS=optional"), "{text}");
    // One of this boot, of somebody else, or one that is masked, is none.
    for system in [
        System::new().with("run/verity.d/a.crt", CERTIFICATE),
        System::new().with("etc/verity.d/a.pem", CERTIFICATE),
        System::new().with("etc/verity.d/a.crt", ""),
        System::new()
            .with("usr/lib/verity.d/a.crt", CERTIFICATE)
            .with_link("etc/verity.d/a.crt", "/dev/null"),
        System::new().with("usr/lib/verity.d/a.crt", CERTIFICATE).with("usr/local/lib/verity.d/a.crt", ""),
    ] {
        let text = system.refusal();
        assert!(text.contains("no trust anchor for the initrd"), "{text}");
    }
}

#[test]
fn who_means_it_says_so() {
    let system =
        System::new().with("etc/ddictl/initrd.conf", "# pinned images only\n\nTRUST_ANCHORS=optional");
    assert_eq!(system.files(), Vec::<String>::new());
    let system = System::new().with("etc/ddictl/initrd.conf", "TRUST_ANCHORS=required\n");
    assert!(system.refusal().contains("no trust anchor"));
    for text in ["TRUST_ANCHORS=no\n", "TRUST_ANCHOR=optional\n", "TRUST_ANCHORS=optional \n"] {
        let found = System::new().with("etc/ddictl/initrd.conf", text).refusal();
        assert!(found.contains(&format!("found '{}'", text.trim_end_matches('\n'))), "{found}");
    }
}

#[test]
fn a_file_counts_where_it_is_first() {
    let system = System::new()
        .with("etc/verity.d/a.crt", CERTIFICATE)
        .with("usr/lib/verity.d/a.crt", "of no interest: hidden by the one above")
        .with("usr/lib/verity.d/b c.crt", CERTIFICATE)
        .with_link("usr/local/lib/verity.d/linked.crt", "../../../../etc/verity.d/a.crt")
        .with("usr/lib/ddictl/trust.d/revoked.conf", "x")
        .with("usr/lib/ddictl/policy/mine.policy", "x")
        .with("usr/lib/ddictl/policy/README", "x")
        .with("usr/lib/ddictl/policy/off.policy", "x")
        .with_link("etc/ddictl/policy/off.policy", "/dev/null");
    assert_eq!(
        system.files(),
        [
            "/etc/verity.d/a.crt",
            "/usr/local/lib/verity.d/linked.crt",
            "/usr/lib/verity.d/b c.crt",
            "/usr/lib/ddictl/trust.d/revoked.conf",
            "/usr/lib/ddictl/policy/mine.policy",
        ]
    );
}

#[test]
fn keyrings_authorities_and_the_least_time_come_along() {
    let system = System::new()
        .with("etc/verity.d/a.crt", CERTIFICATE)
        .with("etc/ddictl/import-pubring.pgp", "keys")
        .with("usr/lib/systemd/import-pubring.gpg", "keys")
        .with("usr/lib/systemd/import-pubring.pgp", "hidden")
        .with("etc/systemd/import-pubring.pgp", "")
        .with("etc/ssl/cert.pem", "second choice")
        .with("etc/ssl/certs/ca-certificates.crt", "authorities")
        .with("usr/lib/clock-epoch", "");
    let (files, said) = system.contents().unwrap();
    assert_eq!(
        files,
        [
            "/etc/verity.d/a.crt",
            "/etc/ddictl/import-pubring.pgp",
            "/usr/lib/systemd/import-pubring.gpg",
            "/etc/ssl/certs/ca-certificates.crt",
            "/usr/lib/clock-epoch",
        ]
    );
    assert_eq!(said, "");
}

#[test]
fn without_authorities_that_is_said() {
    let (_, said) = System::new().with("etc/verity.d/a.crt", CERTIFICATE).contents().unwrap();
    assert!(said.contains("warning: no certificate authorities for the initrd"), "{said}");
}

#[test]
fn what_is_no_certificate_is_no_trust_anchor() {
    let text = System::new().with("etc/verity.d/a.crt", "-----BEGIN PRIVATE KEY-----\n").refusal();
    assert!(text.contains("/etc/verity.d/a.crt' is no certificate in PEM"), "{text}");
    let text = System::new().with_link("etc/verity.d/a.crt", "nowhere").refusal();
    assert!(text.contains("link to nowhere"), "{text}");
    let text = System::new().with("etc/verity.d/a\nb.crt", CERTIFICATE).refusal();
    assert!(text.contains("line break"), "{text}");
}

/// The paths are those that the program itself looks at, but for what belongs to one boot of one machine.
#[test]
fn the_script_looks_where_the_program_looks() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("initrd/contents")).unwrap();
    let places = text.lines().find_map(|line| line.strip_prefix("places='")?.strip_suffix('\'')).unwrap();
    let places: Vec<&str> = places.split(' ').collect();
    let lasting = |paths: &[&'static str]| -> Vec<&'static str> {
        paths.iter().copied().filter(|path| !path.starts_with("/run")).collect()
    };
    assert_eq!(lasting(&ddictl::operation::keyring_store::DIRECTORIES), places);
    let anchors: Vec<String> = places.iter().map(|place| format!("{place}/verity.d")).collect();
    assert_eq!(lasting(&ddictl::operation::trust_store::DIRECTORIES), anchors);
    for bundle in ddictl::fetch::certificates::SYSTEM_BUNDLES {
        assert!(text.contains(bundle), "{bundle}");
    }
}
