//! Faults at every step: an error, a signal to end, a kill; and what is left after each.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::attach::{Attached, Sealed, references, text};
use crate::harness::{HostTest, MachineState, ddictl};
use crate::repart::succeed;
use crate::udev_links::{UDEV, Udevd, links};

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "faults::an_attach_that_fails_anywhere_leaves_nothing",
        needs: UDEV,
        run: an_attach_that_fails_anywhere_leaves_nothing,
    },
    HostTest {
        name: "faults::a_detach_that_fails_anywhere_can_be_completed",
        needs: UDEV,
        run: a_detach_that_fails_anywhere_can_be_completed,
    },
    HostTest { name: "faults::what_lives_is_not_reaped", needs: UDEV, run: what_lives_is_not_reaped },
];

/// The name of the image, and so of its attachment.
const NAME: &str = "under-test.raw";

/// How long the kernel and udev may take to be done with what a process has left.
const SETTLING: Duration = Duration::from_secs(10);

/// The places where a fault can be put that a command passes, in their order, each once. The command succeeds.
pub(crate) fn points(command: &mut Command) -> Vec<String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    succeed(command.env("DDICTL_FAULT_LOG", log.path()));
    let mut seen = BTreeSet::new();
    let text = fs::read_to_string(log.path()).unwrap();
    text.lines().filter(|name| seen.insert((*name).to_owned())).map(str::to_owned).collect()
}

/// Strikes a command that attaches at each of these places in turn. An error or SIGTERM leaves the machine as it was.
/// After SIGKILL no link exists, and both `ddictl detach --stale` and the next run of the command itself take down what
/// was left; `detach` takes down what the latter attaches.
pub(crate) fn each_fault(points: &[String], command: &dyn Fn() -> Command, detach: &dyn Fn()) {
    let linked = links_seen_again();
    let before = MachineState::now();
    for point in points {
        for (fault, status, said) in
            [("error", Some(1), "a fault that a test asked for"), ("sigterm", Some(143), "")]
        {
            let output = strike(&mut command(), point, fault);
            assert_eq!(output.status.code(), status, "{point}={fault}: {}", text(&output.stderr));
            assert!(text(&output.stderr).contains(said), "{point}={fault}: {}", text(&output.stderr));
            assert_eq!(text(&output.stdout), "", "{point}={fault}");
            assert_restored(&before, &format!("{point}={fault}"));
        }
        for again in [false, true] {
            let what = format!("{point}=sigkill");
            let output = strike(&mut command(), point, "sigkill");
            assert_eq!(output.status.code(), None, "{what}: {}", text(&output.stderr));
            assert_eq!(text(&output.stdout), "", "{what}");
            assert_no_links(&linked, &what);
            if again {
                succeed(&mut command());
                detach();
            } else {
                succeed(ddictl().args(["detach", "--stale"]));
            }
            assert_restored(&before, &what);
        }
    }
}

/// Whether the kernel has dm-verity: then what is verified is guarded by it.
pub(crate) fn has_dm_verity() -> bool {
    matches!(ddictl::kernel::device_mapper::supports_verity(), Ok(Some(_)))
}

/// Takes an attachment down where a test fails that should have done so.
struct CleanUp(&'static str);

impl Drop for CleanUp {
    fn drop(&mut self) {
        if thread::panicking() {
            // Why the test failed is what matters.
            let _ = ddictl().args(["detach", "--stale"]).output();
            let _ = ddictl().args(["detach", self.0]).output();
        }
    }
}

/// Runs a command with a fault in it.
fn strike(command: &mut Command, point: &str, fault: &str) -> Output {
    command.env("DDICTL_FAULT", format!("{point}={fault}")).output().unwrap()
}

fn assert_restored(before: &MachineState, what: &str) {
    let deadline = Instant::now() + SETTLING;
    while let Some(difference) = before.difference(&MachineState::now()) {
        assert!(Instant::now() < deadline, "{what}: {difference}");
        pause();
    }
}

/// Once udev has seen what became of the devices, no link is there that was not before; and none comes when udev looks
/// at them again.
fn assert_no_links(before: &[(String, String)], what: &str) {
    settle();
    let deadline = Instant::now() + SETTLING;
    while links() != before {
        assert!(Instant::now() < deadline, "{what}: {:?}", links());
        pause();
    }
    assert_eq!(links_seen_again(), before, "{what}");
}

/// Every link once udev has looked at all block devices.
fn links_seen_again() -> Vec<(String, String)> {
    succeed(Command::new("udevadm").args([
        "trigger",
        "--settle",
        "--action=change",
        "--subsystem-match=block",
    ]));
    settle();
    links()
}

fn settle() {
    succeed(Command::new("udevadm").args(["settle", "--timeout=60"]));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody that an autoclear loop device is free"
)]
fn pause() {
    thread::sleep(Duration::from_millis(20));
}

fn an_attach_that_fails_anywhere_leaves_nothing() {
    // Two devices: so there are steps with one of them done.
    let sealed = Sealed::with_esp();
    let _udevd = Udevd::start();
    let _clean_up = CleanUp(NAME);
    let command = || {
        let mut command = sealed.attach();
        command.arg("--image-policy=*").arg(sealed.image());
        command
    };
    let detach = || drop(succeed(ddictl().args(["detach", NAME])));
    let points = points(&mut command());
    detach();
    let root = if has_dm_verity() { &["data", "hash", "verity"][..] } else { &["loop"][..] };
    let steps = std::iter::once("loop-0".to_owned()).chain(root.iter().map(|step| format!("{step}-1")));
    let expected: Vec<String> = ["before-record", "copied", "verified", "record"]
        .map(str::to_owned)
        .into_iter()
        .chain(steps.flat_map(|step| [step.clone(), format!("{step}-recorded")]))
        .chain(["ready", "rules", "announced", "device-0-stands", "device-1-stands"].map(str::to_owned))
        .map(|step| format!("attach:{step}"))
        .collect();
    assert_eq!(points, expected);
    each_fault(&points, &command, &detach);
}

fn a_detach_that_fails_anywhere_can_be_completed() {
    let sealed = Sealed::with_esp();
    let _udevd = Udevd::start();
    let _clean_up = CleanUp(NAME);
    let linked = links_seen_again();
    let before = MachineState::now();
    let attach = || succeed(sealed.attach().arg("--image-policy=*").arg(sealed.image()));
    let detach = || {
        let mut command = ddictl();
        command.args(["detach", NAME]);
        command
    };
    attach();
    let there = links();
    assert_eq!(there.len(), linked.len() + 4);
    let points = points(&mut detach());
    assert_eq!(points, ["detach:before", "detach:stopping", "detach:device"]);
    for point in &points {
        for fault in ["error", "sigterm", "sigkill"] {
            let what = format!("{point}={fault}");
            attach();
            let output = strike(&mut detach(), point, fault);
            match fault {
                // What was begun is completed: half a detach is of no use to anybody.
                "sigterm" => {
                    assert_eq!(output.status.code(), Some(0), "{what}: {}", text(&output.stderr));
                    assert_restored(&before, &what);
                    continue;
                }
                "error" => assert_eq!(output.status.code(), Some(1), "{what}: {}", text(&output.stderr)),
                _ => assert_eq!(output.status.code(), None, "{what}: {}", text(&output.stderr)),
            }
            if point == "detach:before" {
                assert_eq!(links(), there, "{what}");
                succeed(ddictl().args(["detach", "--stale"]));
                assert!(references().contains(&NAME.to_owned()), "{what}");
                succeed(&mut detach());
            } else {
                assert_no_links(&linked, &what);
                succeed(ddictl().args(["detach", "--stale"]));
            }
            assert_restored(&before, &what);
        }
    }
}

fn what_lives_is_not_reaped() {
    let sealed = Sealed::new();
    let _udevd = Udevd::start();
    let attached = sealed.attached(&["--loop-ref=living"]);
    let there = (links(), attached.record());
    // A record of a process that is still at work: this one.
    let path = "/run/ddictl/attachments/working.json";
    let mut record = attached.record();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let start: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    record["reference"] = "working".into();
    record["state"] = "pending".into();
    record["devices"] = serde_json::json!([]);
    record["owner"] = serde_json::json!({"pid": std::process::id(), "start_time": start});
    fs::write(path, record.to_string()).unwrap();
    succeed(ddictl().args(["detach", "--stale"]));
    let kept = fs::exists(path).unwrap();
    let refused = ddictl().args(["detach", "working"]).output().unwrap();
    // The same number, but another process: it is gone, and its record goes.
    record["owner"]["start_time"] = (start + 1).into();
    fs::write(path, record.to_string()).unwrap();
    let other = Attached::by(sealed.attach().arg("--loop-ref=other").arg(sealed.image()));
    let reaped = !fs::exists(path).unwrap();
    drop(other);
    assert!(kept && reaped, "kept {kept}, reaped {reaped}");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("still at work"), "{}", text(&refused.stderr));
    assert_eq!((links(), attached.record()), there);
}
