//! Mounting a verified copy in memory, on a machine that need not have a device mapper.

use std::fs;
use std::process::Command;

use crate::attach::{OS_RELEASE, Sealed, fail, references, text};
use crate::harness::{HostTest, MachineState, Need, ddictl};

const NEEDS: &[Need] = &[Need::Root, Need::LoopDevices];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "mount::a_verified_copy_is_mounted_read_and_unmounted",
        needs: NEEDS,
        run: a_verified_copy_is_mounted_read_and_unmounted,
    },
    HostTest {
        name: "mount::what_is_refused_is_not_mounted",
        needs: NEEDS,
        run: what_is_refused_is_not_mounted,
    },
];

/// `ddictl mount --in-memory` of the image on a directory beside it.
fn mount(sealed: &Sealed, arguments: &[&str]) -> Command {
    let mut command = ddictl();
    command.args(["mount", "--in-memory", "--mkdir"]).args(arguments);
    command.arg(sealed.image()).arg(sealed.path().join("mnt"));
    command
}

fn a_verified_copy_is_mounted_read_and_unmounted() {
    let sealed = Sealed::with_esp();
    let before = MachineState::now();
    let certificate = format!("--certificate={}", sealed.path().join("k.crt").display());
    let place = sealed.path().join("mnt");
    for word in [place.clone(), sealed.image(), "mounted-by-a-test".into()] {
        let mounted = mount(&sealed, &[&certificate, "--loop-ref=mounted-by-a-test"]).output().unwrap();
        assert!(mounted.status.success(), "{}", text(&mounted.stderr));
        let release = fs::read_to_string(place.join("usr/lib/os-release"));
        let noise = fs::read(place.join("noise")).ok() == fs::read(sealed.path().join("tree/noise")).ok();
        let written = fs::write(place.join("written"), "x");
        let attached = references();
        let detached = ddictl().args(["detach", "mounted-by-a-test"]).output().unwrap();
        let unmounted = ddictl().args(["umount", "--rmdir"]).arg(&word).output().unwrap();
        assert!(unmounted.status.success(), "{}", text(&unmounted.stderr));
        assert_eq!(release.unwrap(), OS_RELEASE);
        assert!(noise && written.is_err());
        assert!(attached.contains(&"mounted-by-a-test".to_owned()), "{attached:?}");
        assert!(text(&detached.stderr).contains("mounted on"), "{}", text(&detached.stderr));
        assert!(!place.try_exists().unwrap());
        assert_eq!(before.difference(&MachineState::now()), None);
        let again = ddictl().arg("umount").arg(&word).output().unwrap();
        assert!(again.status.success() && text(&again.stderr).contains("is not mounted"), "{again:?}");
    }
}

fn what_is_refused_is_not_mounted() {
    let sealed = Sealed::new();
    let before = MachineState::now();
    assert!(fail(&mut mount(&sealed, &[]), 3).contains("refused by policy '@verified-boot'"));
    let place = sealed.path().join("mnt");
    assert!(!place.try_exists().unwrap());
    let mut absent = ddictl();
    absent.args(["mount", "--in-memory", "--image-policy=root=verity"]).arg(sealed.image()).arg(&place);
    assert!(fail(&mut absent, 1).contains("let --mkdir do so"));
    assert_eq!(before.difference(&MachineState::now()), None);
}
