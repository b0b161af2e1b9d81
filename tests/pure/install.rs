//! `make install`: which file lands where, and that it builds nothing and downloads nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use tempfile::TempDir;

/// The list of what is installed, a line each: mode, path, and where a link leads.
const GOLDEN: &str = "tests/data/install.list";

/// What `make` leaves for `make install`, below the target directory.
const BUILT: [&str; 4] =
    ["release/ddictl", "completions/ddictl.bash", "completions/_ddictl", "completions/ddictl.fish"];

fn source_tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A target directory in which everything is built.
fn built() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in BUILT {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("contents of {file}\n")).unwrap();
    }
    directory
}

/// Runs make with a `PATH` on which neither cargo nor apt can be found to work.
fn make(target: &Path, arguments: &[&str]) -> Output {
    let traps = tempfile::tempdir().unwrap();
    for name in ["cargo", "rustc", "apt", "apt-get", "dpkg"] {
        let trap = traps.path().join(name);
        fs::write(&trap, format!("#!/bin/sh\necho 'trap: {name} was run' >&2\nexit 99\n")).unwrap();
        fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", traps.path().display(), std::env::var("PATH").unwrap_or_default());
    Command::new("make")
        .args(["--no-print-directory", "-C"])
        .arg(source_tree())
        .args(arguments)
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", target)
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .env_remove("MFLAGS")
        .output()
        .unwrap()
}

fn install(target: &Path, destination: &Path, more: &[&str]) -> Output {
    let destination = format!("DESTDIR={}", destination.display());
    make(target, &[&["install", destination.as_str()], more].concat())
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Everything below a directory but the directories, a line each.
fn listing(root: &Path) -> String {
    let mut waiting = vec![root.to_owned()];
    let mut lines = BTreeSet::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            if metadata.is_dir() {
                waiting.push(path);
            } else if metadata.is_symlink() {
                lines.insert((
                    shown.clone(),
                    format!("link {shown} -> {}", fs::read_link(&path).unwrap().display()),
                ));
            } else {
                let mode = metadata.permissions().mode() & 0o7777;
                lines.insert((shown.clone(), format!("{mode:04o} {shown}")));
            }
        }
    }
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

#[test]
fn every_file_lands_in_its_place() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    assert_success(&install(target.path(), destination.path(), &[]));
    let found = listing(destination.path());
    let golden = source_tree().join(GOLDEN);
    if std::env::var_os("DDICTL_UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    assert!(found == expected, "installed is not what {GOLDEN} says, but:\n{found}");

    let binary = destination.path().join("usr/bin/ddictl");
    assert_eq!(fs::read_to_string(&binary).unwrap(), "contents of release/ddictl\n");
    let helper = destination.path().join("usr/lib/udev/ddictl-udev-helper");
    assert_eq!(
        fs::canonicalize(helper).unwrap(),
        fs::canonicalize(binary).unwrap(),
        "the helper is the program"
    );
    let generator = destination.path().join("usr/lib/systemd/system-generators/ddictl-generator");
    assert_eq!(
        fs::canonicalize(generator).unwrap(),
        fs::canonicalize(destination.path().join("usr/bin/ddictl")).unwrap(),
        "the generator is the program"
    );
}

#[test]
fn everything_that_is_shipped_is_installed() {
    let installed = fs::read_to_string(source_tree().join(GOLDEN)).unwrap();
    for (directory, extension) in [("policy", "policy"), ("udev-rules", "rules"), ("units", "service")] {
        for entry in fs::read_dir(source_tree().join(directory)).into_iter().flatten().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with(&format!(".{extension}")) {
                assert!(installed.contains(&format!("/{name}\n")), "'{directory}/{name}' is not installed");
            }
        }
    }
}

/// What is installed for those who make initrds, on request.
const INITRDS: [&str; 10] = [
    "0644 usr/lib/dracut/modules.d/90ddictl/zz-ddictl.network",
    "0755 usr/lib/dracut/modules.d/90ddictl/ddictl-boot.sh",
    "0755 usr/lib/dracut/modules.d/90ddictl/ddictl-cmdline.sh",
    "0755 usr/lib/dracut/modules.d/90ddictl/ddictl-finished.sh",
    "0755 usr/lib/dracut/modules.d/90ddictl/ddictl-mount.sh",
    "0755 usr/lib/dracut/modules.d/90ddictl/ddictl-online.sh",
    "0755 usr/lib/dracut/modules.d/90ddictl/module-setup.sh",
    "0755 usr/share/initramfs-tools/hooks/ddictl",
    "0755 usr/share/initramfs-tools/scripts/local-bottom/ddictl",
    "0755 usr/share/initramfs-tools/scripts/local-top/ddictl",
];

#[test]
fn what_puts_it_into_initrds_is_installed_on_request() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    assert_success(&install(target.path(), destination.path(), &[]));
    let without = listing(destination.path());
    let mut expected: Vec<&str> = without.lines().chain(INITRDS).collect();
    assert_success(&install(target.path(), destination.path(), &["INITRD=initramfs-tools dracut"]));
    let with = listing(destination.path());
    let mut found: Vec<&str> = with.lines().collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);

    let option = format!("DESTDIR={}", destination.path().display());
    assert_success(&make(target.path(), &["uninstall", &option]));
    assert_eq!(listing(destination.path()), "");

    let output = install(target.path(), destination.path(), &["INITRD=moon"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("INITRD: no 'moon' here"), "{text}");
    assert_eq!(listing(destination.path()), "");
}

#[test]
fn what_is_installed_is_what_an_initrd_of_mkosi_needs() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    let finalize = || {
        Command::new("sh")
            .arg(source_tree().join("initrd/mkosi/mkosi.finalize"))
            .env("BUILDROOT", destination.path())
            .output()
            .unwrap()
    };
    let refusal = || {
        let output = finalize();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refusal().contains("'/usr/bin/ddictl' is missing"));
    assert_success(&install(target.path(), destination.path(), &[]));
    assert!(refusal().contains("no trust anchor for the initrd"));
    let anchors = destination.path().join("usr/lib/verity.d");
    fs::create_dir_all(&anchors).unwrap();
    fs::write(anchors.join("a.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    assert_success(&finalize());
    assert!(destination.path().join("etc/initrd-release").is_file());
    fs::remove_file(destination.path().join("usr/lib/udev/rules.d/61-ddictl.rules")).unwrap();
    assert!(refusal().contains("'/usr/lib/udev/rules.d/61-ddictl.rules' is missing"));

    let network = |path: &str| fs::read_to_string(source_tree().join("initrd").join(path)).unwrap();
    assert_eq!(
        network("mkosi/mkosi.extra/usr/lib/systemd/network/zz-ddictl.network"),
        network("dracut/90ddictl/zz-ddictl.network")
    );
}

#[test]
fn a_second_install_changes_nothing() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    assert_success(&install(target.path(), destination.path(), &[]));
    let first = listing(destination.path());
    assert_success(&install(target.path(), destination.path(), &[]));
    assert_eq!(first, listing(destination.path()));
}

#[test]
fn another_prefix_is_honoured() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    assert_success(&install(target.path(), destination.path(), &["PREFIX=/opt/ddictl"]));
    let usr: PathBuf = destination.path().join("usr");
    assert!(!usr.try_exists().unwrap());
    assert!(destination.path().join("opt/ddictl/bin/ddictl").is_file());
    assert!(destination.path().join("opt/ddictl/lib/udev/ddictl-udev-helper").is_file());
}

#[test]
fn the_helper_for_the_type_of_systemd_is_installed_on_request_and_taken_away_if_it_is_ours() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    let ours = destination.path().join("usr/sbin/mount.ddi");
    for (argument, expected) in [("MOUNT_DDI=no", false), ("MOUNT_DDI=yes", true)] {
        assert_success(&install(target.path(), destination.path(), &[argument]));
        assert_eq!(fs::symlink_metadata(&ours).is_ok(), expected, "{argument}");
    }
    assert_eq!(
        fs::canonicalize(&ours).unwrap(),
        fs::canonicalize(destination.path()).unwrap().join("usr/bin/ddictl")
    );
    let option = format!("DESTDIR={}", destination.path().display());
    assert_success(&make(target.path(), &["uninstall", &option]));
    assert_eq!(listing(destination.path()), "");
    // That of somebody else stays.
    std::os::unix::fs::symlink("systemd-dissect", &ours).unwrap();
    assert_success(&make(target.path(), &["uninstall", &option]));
    assert_eq!(listing(destination.path()), "link usr/sbin/mount.ddi -> systemd-dissect\n");
}

#[test]
fn nothing_is_installed_where_something_is_not_built() {
    for missing in BUILT {
        let (target, destination) = (built(), tempfile::tempdir().unwrap());
        fs::remove_file(target.path().join(missing)).unwrap();
        let output = install(target.path(), destination.path(), &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "installed without {missing}");
        assert!(text.contains(&format!("{missing}' is not built: run 'make' first")), "{text}");
        assert!(!text.contains("trap:"), "{text}");
        assert_eq!(listing(destination.path()), "");
    }
}

#[test]
fn uninstall_takes_everything_away_again() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    assert_success(&install(target.path(), destination.path(), &[]));
    let option = format!("DESTDIR={}", destination.path().display());
    assert_success(&make(target.path(), &["uninstall", &option]));
    assert_eq!(listing(destination.path()), "");
}

#[test]
fn uninstall_leaves_a_mask_that_is_no_mask() {
    let (target, destination) = (built(), tempfile::tempdir().unwrap());
    let generator = destination.path().join("etc/systemd/system-generators/systemd-import-generator");
    fs::create_dir_all(generator.parent().unwrap()).unwrap();
    fs::write(&generator, "somebody's own").unwrap();
    assert_success(&make(
        target.path(),
        &["uninstall", &format!("DESTDIR={}", destination.path().display())],
    ));
    assert_eq!(fs::read_to_string(&generator).unwrap(), "somebody's own");
}
