//! The units of a boot, as text: which there are and what stands in them, for any systemd from 252 on.
//!
//! A unit says which expression it is for by its number alone: neither URL nor options nor name are ever text that
//! systemd interprets, but for the name of the target, escaped, in the unit's own.

use std::path::{Path, PathBuf};

use crate::format::image_class::ImageClass;
use crate::format::pull_expression::{PullExpression, PullKind};
use crate::format::unit_file::{MAX_UNIT_NAME, UnitFile, escape_path};
use crate::image::boot::{BootPull, BootRequest, Stage, target};

use super::origin::variable_files;

/// What says, in a failing unit, what is wrong with the command line as a whole.
const CHECK_UNIT: &str = "ddictl-check.service";
const IMPORTS_PRE: &str = "imports-pre.target";
const IMPORTS: &str = "imports.target";
const SYSROOT: &str = "sysroot.mount";
/// What must not come about in an initrd before every pull has succeeded.
const ROOT_UNITS: [&str; 2] = ["initrd-root-device.target", SYSROOT];
/// What is run with the rights to make devices and mounts, and to write files for anybody, has no others.
const CAPABILITIES: &str = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_IPC_LOCK \
                            CAP_LINUX_IMMUTABLE CAP_MKNOD CAP_SETFCAP CAP_SYS_ADMIN CAP_SYS_RESOURCE";

/// What is known of the system that the units are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct System {
    /// The path of this program.
    pub(super) program: PathBuf,
    /// Whether systemd has the targets for imports, and finds a root disk and a bound tree by itself (version 258).
    pub(super) knows_imports: bool,
}

/// Files and links of a generator's directory, by their paths in it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct UnitTree {
    /// What is before all other units of the name.
    pub(super) early: Vec<(PathBuf, Entry)>,
    /// What is behind those of the administrator.
    pub(super) normal: Vec<(PathBuf, Entry)>,
}

/// A file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file with this text.
    File(String),
    /// A symbolic link to this.
    Link(String),
}

/// The units for a request. `is_wrong` says that nothing is pulled: what is wrong is said by a unit of its own.
pub(super) fn units(request: &BootRequest, system: &System, is_wrong: bool) -> UnitTree {
    let mut tree = UnitTree::default();
    if is_wrong {
        tree.file(CHECK_UNIT, check_unit(system));
        tree.need(CHECK_UNIT, request.stage);
        return tree;
    }
    if request.pulls.is_empty() {
        return tree;
    }
    if !system.knows_imports {
        tree.file(IMPORTS_PRE, imports_target("Before What Is Imported"));
        tree.file(IMPORTS, imports_target("What Is Imported"));
        if request.stage == Stage::Host {
            tree.link(&format!("sysinit.target.wants/{IMPORTS}"), &format!("../{IMPORTS}"));
        }
    }
    for (number, pull) in request.pulls.iter().enumerate() {
        let name = unit_name(request, number, pull);
        tree.file(&name, pull_unit(request, system, number, pull));
        tree.link(&format!("{IMPORTS}.wants/{name}"), &format!("../{name}"));
        if request.stage == Stage::Initrd {
            tree.need(&name, Stage::Initrd);
        }
        if let Ok(expression) = &pull.expression {
            let instance = escape_path(&target(expression, request.stage));
            let alias = |prefix: &str| format!("{prefix}@{instance}.service");
            if alias("systemd-import").len() <= MAX_UNIT_NAME {
                tree.link(&alias("systemd-import"), &name);
                if expression.block_device {
                    tree.link(&alias("systemd-loop"), &name);
                }
            }
        }
    }
    if !system.knows_imports && request.stage == Stage::Initrd {
        let pulls = request.pulls.iter().filter_map(|pull| pull.expression.as_ref().ok());
        let what = pulls.into_iter().find_map(|pull| {
            let bound = request.is_bound_as_root(pull).then(|| target(pull, Stage::Initrd));
            bound.or_else(|| request.is_root_disk(pull).then(|| "/dev/gpt-auto-root".to_owned()))
        });
        if let Some(what) = what {
            tree.early.push((SYSROOT.into(), Entry::File(sysroot_mount(request, &what))));
            let link = format!("initrd-root-fs.target.requires/{SYSROOT}");
            tree.early.push((link.into(), Entry::Link(format!("../{SYSROOT}"))));
        }
    }
    tree
}

impl UnitTree {
    fn file(&mut self, name: &str, text: String) {
        self.normal.push((name.into(), Entry::File(text)));
    }

    fn link(&mut self, name: &str, to: &str) {
        self.normal.push((name.into(), Entry::Link(to.to_owned())));
    }

    /// Nothing goes on without this unit.
    fn need(&mut self, unit: &str, stage: Stage) {
        match stage {
            Stage::Initrd => {
                for root in ROOT_UNITS {
                    self.link(&format!("{root}.requires/{unit}"), &format!("../{unit}"));
                }
            }
            Stage::Host => self.link(&format!("sysinit.target.wants/{unit}"), &format!("../{unit}")),
        }
    }
}

/// The name of the unit for a pull: that of the path that it makes, or for an expression that is none, its number.
fn unit_name(request: &BootRequest, number: usize, pull: &BootPull) -> String {
    let by_number = format!("ddictl-pull@{number}.service");
    match &pull.expression {
        Ok(expression) => {
            let name = format!("ddictl-pull@{}.service", escape_path(&target(expression, request.stage)));
            if name.len() > MAX_UNIT_NAME { by_number } else { name }
        }
        Err(_) => by_number,
    }
}

fn begin(system: &System) -> UnitFile {
    let program = system.program.display();
    UnitFile::with_comment(&format!("Generated by {program} from the kernel command line."))
}

fn check_unit(system: &System) -> String {
    let file = begin(system)
        .section("Unit")
        .set("Description", "Check What the Kernel Command Line Asks to Be Pulled")
        .set("Documentation", "man:ddictl.boot(7)")
        .set("DefaultDependencies", "no")
        .set("Conflicts", "shutdown.target")
        .set("Before", &format!("shutdown.target {IMPORTS_PRE} {IMPORTS} {}", ROOT_UNITS.join(" ")))
        .set("OnFailure", "emergency.target")
        .set("OnFailureJobMode", "replace-irreversibly");
    // No namespaces: where a kernel has none, the unit would fail for that, and say nothing of the reason.
    service(file, system, "--check")
        .set("CapabilityBoundingSet", "")
        .set("RestrictAddressFamilies", "AF_UNIX")
        .set("RestrictNamespaces", "yes")
        .into_text()
}

fn service(file: UnitFile, system: &System, what: &str) -> UnitFile {
    let program = quoted(&system.program);
    file.section("Service")
        .set("Type", "oneshot")
        .set("RemainAfterExit", "yes")
        .set("ExecStart", &format!("{program} boot {what}"))
        .set("StandardInput", "null")
        // The reason of a refusal is to be seen, also with 'quiet'.
        .set("StandardOutput", "journal+console")
        .set("StandardError", "journal+console")
        .set("NoNewPrivileges", "yes")
        .set("LockPersonality", "yes")
        .set("MemoryDenyWriteExecute", "yes")
        .set("RestrictRealtime", "yes")
        .set("SystemCallArchitectures", "native")
}

/// A path as a word of a command line in a unit.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', r"\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('%', "%%").replace('$', "$$"))
}

fn pull_unit(request: &BootRequest, system: &System, number: usize, pull: &BootPull) -> String {
    let expression = pull.expression.as_ref().ok();
    let initrd = request.stage == Stage::Initrd;
    let mut before = vec!["shutdown.target", IMPORTS];
    if initrd {
        before.extend(ROOT_UNITS);
        before.extend(["sysusr-usr.mount", "initrd-usr-fs.target", "initrd-switch-root.target"]);
    }
    match expression.map(|expression| expression.class) {
        Some(ImageClass::Sysext) => {
            before.extend(["systemd-sysext.service", "systemd-sysext-initrd.service"])
        }
        Some(ImageClass::Confext) => {
            before.extend(["systemd-confext.service", "systemd-confext-initrd.service"]);
        }
        _ => {}
    }
    let modules = "modprobe@loop.service modprobe@dm_mod.service modprobe@dm_verity.service";
    let mut file = begin(system)
        .section("Unit")
        .set_literal("Description", &description(request, number, expression))
        .set("Documentation", "man:ddictl.boot(7)")
        .set("SourcePath", "/proc/cmdline")
        .set("DefaultDependencies", "no")
        // What it made is for the system that follows.
        .set("IgnoreOnIsolate", "yes")
        .set("Conflicts", "shutdown.target")
        .set("Wants", &format!("{IMPORTS_PRE} {modules}"))
        .set(
            "After",
            &format!("{IMPORTS_PRE} {modules} systemd-udevd.service systemd-tmpfiles-setup-dev.service"),
        )
        .set("Before", &before.join(" "));
    if expression.is_some_and(needs_network) {
        file = file.set("Wants", "network-online.target").set("After", "network-online.target");
    }
    if let Some(expression) = expression.filter(|expression| expression.boot_origin) {
        debug_assert!(needs_network(expression));
        for path in variable_files() {
            file = file.set_literal("ConditionPathExists", &format!("|{path}"));
        }
    }
    if let Some(action) = request.success_action {
        file = file.set("SuccessAction", action.as_str());
    }
    match request.failure_action.filter(|action| action.as_str() != "none") {
        Some(action) => file = file.set("FailureAction", action.as_str()),
        None if initrd => {
            file = file.set("OnFailure", "emergency.target").set("OnFailureJobMode", "replace-irreversibly");
        }
        None => {}
    }
    service(file, system, &format!("--pull={number}"))
        // It takes as long as the image takes; the program has deadlines of its own.
        .set("TimeoutStartSec", "infinity")
        .set("TimeoutStopSec", "20s")
        .set("CapabilityBoundingSet", CAPABILITIES)
        .set("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_ALG")
        .set("RestrictNamespaces", "yes")
        .into_text()
}

fn needs_network(expression: &PullExpression) -> bool {
    expression.boot_origin || !expression.remote.to_ascii_lowercase().starts_with("file:")
}

fn description(request: &BootRequest, number: usize, expression: Option<&PullExpression>) -> String {
    let Some(expression) = expression else { return format!("Pull {number} of the Kernel Command Line") };
    let path = target(expression, request.stage);
    match (expression.kind, expression.block_device) {
        (PullKind::Raw, true) => format!("Pull and Attach {path}"),
        (PullKind::Raw, false) => format!("Pull {path}"),
        (PullKind::Tar, _) => format!("Pull and Unpack {path}"),
    }
}

fn imports_target(description: &str) -> String {
    UnitFile::with_comment("As systemd has it from version 258 on.")
        .section("Unit")
        .set("Description", description)
        .set("Documentation", "man:ddictl.boot(7)")
        .set("DefaultDependencies", "no")
        .set("Conflicts", "shutdown.target")
        .set("Before", "shutdown.target")
        .into_text()
}

/// The root file system, where systemd does not make one of this by itself.
fn sysroot_mount(request: &BootRequest, what: &str) -> String {
    let is_tree = !what.starts_with("/dev/");
    let mut options = vec![if request.root_writable { "rw" } else { "ro" }];
    if is_tree {
        options.insert(0, "bind");
    }
    options.extend(request.root_flags.as_deref());
    let file = UnitFile::with_comment("Generated by ddictl from the kernel command line.")
        .section("Unit")
        .set("Description", "Root File System")
        .set("Documentation", "man:ddictl.boot(7)")
        .set("SourcePath", "/proc/cmdline")
        .set("After", IMPORTS)
        .set("Before", "initrd-root-fs.target")
        .section("Mount")
        .set_literal("What", what)
        .set("Where", "/sysroot")
        .set_literal("Options", &options.join(","));
    match request.root_type.as_deref().filter(|_| !is_tree) {
        Some(file_system) => file.set_literal("Type", file_system),
        None => file,
    }
    .into_text()
}

#[cfg(test)]
mod tests;
