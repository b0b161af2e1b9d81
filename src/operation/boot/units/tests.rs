//! The units for whole command lines, compared with what lies in `tests/data/generator`.

use std::fs;

use super::*;
use crate::format::kernel_command_line::KernelCommandLine;

const SEED: &str = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw \
                    root=/dev/disk/by-loop-ref/image.raw-part2";

fn tree(line: &str, stage: Stage, knows_imports: bool, is_wrong: bool) -> UnitTree {
    let request = BootRequest::read(&KernelCommandLine::parse(line.as_bytes()), None, stage);
    let system = System { program: "/usr/bin/ddictl".into(), knows_imports };
    units(&request, &system, is_wrong)
}

fn text(tree: &UnitTree) -> String {
    let mut text = String::new();
    for (directory, entries) in [("normal", &tree.normal), ("early", &tree.early)] {
        for (path, entry) in entries {
            let path = path.display();
            match entry {
                Entry::File(content) => text.push_str(&format!("==== {directory}/{path}\n{content}")),
                Entry::Link(to) => text.push_str(&format!("==== {directory}/{path} -> {to}\n")),
            }
        }
    }
    text
}

#[test]
fn the_units_are_those_that_are_recorded() {
    let digest = "a".repeat(64);
    let pinned = format!(
        "systemd.pull=raw,sysext,verify={digest}:tools:http://h/tools.raw systemd.pull=tar,portable:p:file:///srv/p.tar"
    );
    for (name, line, stage, knows_imports, is_wrong) in [
        ("seed-258", SEED, Stage::Initrd, true, false),
        ("seed-252", SEED, Stage::Initrd, false, false),
        (
            "rootdisk-252",
            "rd.systemd.pull=raw,machine,blockdev,bootorigin:rootdisk:root.raw root=gpt-auto rootfstype=erofs rootflags=dax",
            Stage::Initrd,
            false,
            false,
        ),
        (
            "tree-252",
            "rd.systemd.pull=tar,machine:tree:http://h/tree.tar root=bind:/run/machines/tree rw rd.systemd.pull.failure_action=reboot",
            Stage::Initrd,
            false,
            false,
        ),
        ("host-258", &pinned, Stage::Host, true, false),
        ("host-252", &pinned, Stage::Host, false, false),
        (
            "malformed",
            "rd.systemd.pull=raw,machine,verify=sginature:x:http://h/x",
            Stage::Initrd,
            true,
            false,
        ),
        ("wrong", SEED, Stage::Initrd, true, true),
    ] {
        let found = text(&tree(line, stage, knows_imports, is_wrong));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/generator/{name}.txt"));
        if std::env::var_os("DDICTL_UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        let recorded = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == recorded, "{name}: differs from {}; found:\n{found}", path.display());
    }
}

#[test]
fn nothing_is_written_for_nothing() {
    for line in ["", "root=/dev/sda1 quiet", "systemd.pull=raw,machine:x:http://h/x"] {
        assert_eq!(tree(line, Stage::Initrd, false, false), UnitTree::default(), "{line}");
    }
}

#[test]
fn no_text_of_the_command_line_reaches_a_unit() {
    let hostile = "rd.systemd.pull=raw,machine,blockdev:a%n$X;b:http://h/$(reboot)?%i rootfstype=x%y rootflags=a%b \"root=gpt-auto\"";
    let tree = tree(hostile, Stage::Initrd, false, false);
    let text = text(&tree);
    assert!(!text.contains("reboot") && !text.contains("%i"), "{text}");
    assert!(text.contains(r"ddictl-pull@run-machines-a\x25n\x24X\x3bb.raw.service"), "{text}");
    assert!(text.contains("Description=Pull and Attach /run/machines/a%%n$X;b.raw"), "{text}");
}

#[test]
fn a_name_that_is_too_long_for_a_unit_is_replaced_by_the_number() {
    let long = "ä".repeat(60);
    let tree = tree(&format!("rd.systemd.pull=raw,sysext:{long}:http://h/x"), Stage::Initrd, true, false);
    assert!(text(&tree).contains("normal/ddictl-pull@0.service\n"));
    assert!(tree.normal.iter().all(|(path, _)| path.file_name().unwrap().len() <= MAX_UNIT_NAME));
}
