use super::*;
use crate::format::units::PartitionNumber;

fn read(line: &str) -> BootRequest {
    BootRequest::read(&KernelCommandLine::parse(line.as_bytes()), None, Stage::Initrd)
}

fn only(request: &BootRequest) -> &PullExpression {
    assert_eq!(request.pulls.len(), 1);
    request.pulls[0].expression.as_ref().unwrap()
}

const SEED: &str = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw \
                    root=/dev/disk/by-loop-ref/image.raw-part2";

#[test]
fn the_seeds_command_line_demands_the_root() {
    let request = read(SEED);
    let pull = only(&request);
    let number = PartitionNumber::new(2).unwrap();
    assert_eq!(request.demands(pull), Ok(vec![RoleDemand::Partition(number, Designator::Root)]));
    assert_eq!(target(pull, Stage::Initrd), "/run/machines/image.raw");
    assert_eq!(request.check(), Ok(()));
    assert!(!request.root_writable);
}

#[test]
fn the_names_of_each_stage_are_its_own() {
    let both = "rd.systemd.pull=raw,machine:a:http://h/a systemd.pull=raw,machine:b:http://h/b roothash=0 root=/dev/x";
    let line = KernelCommandLine::parse(both.as_bytes());
    let initrd = BootRequest::read(&line, None, Stage::Initrd);
    assert_eq!(only(&initrd).name, "a");
    assert!(initrd.check().is_err(), "the root hash is none");
    let host = BootRequest::read(&line, None, Stage::Host);
    assert_eq!(only(&host).name, "b");
    assert_eq!(target(only(&host), Stage::Host), "/var/lib/machines/b.raw");
    assert!(host.check().is_ok() && host.root.is_none());
}

#[test]
fn roles_follow_from_root_and_usr() {
    let demands = |rest: &str, pull: &str| {
        let request = read(&format!("rd.systemd.pull={pull} {rest}"));
        request.demands(only(&request))
    };
    let image = "raw,machine,blockdev:image:http://h/i";
    let disk = "raw,machine,blockdev:rootdisk:http://h/i";
    let (root, usr) = (RoleDemand::Used(Designator::Root), RoleDemand::Used(Designator::Usr));
    assert_eq!(demands("root=/dev/disk/by-loop-ref/image.raw-root", image), Ok(vec![root]));
    assert_eq!(
        demands("root=/dev/disk/by-loop-ref/image.raw", image),
        Ok(vec![RoleDemand::Whole(Designator::Root)])
    );
    assert_eq!(
        demands("root=/dev/disk/by-loop-ref/image.raw-root", "raw,machine:image:http://h/i"),
        Ok(vec![])
    );
    assert_eq!(demands("mount.usr=/dev/disk/by-loop-ref/image.raw-usr root=tmpfs", image), Ok(vec![usr]));
    assert_eq!(demands("root=/dev/sda1", image), Ok(vec![]));
    for automatic in ["", "root=gpt-auto", "root=dissect"] {
        assert_eq!(demands(automatic, disk), Ok(vec![root]), "{automatic}");
        assert_eq!(demands(automatic, image), Ok(vec![]), "{automatic}");
    }
    assert_eq!(demands("root=/dev/sda1", disk), Ok(vec![]));
    let wrong = demands("root=/dev/disk/by-loop-ref/image.raw-home", image).unwrap_err();
    assert!(matches!(wrong, BootMistake::Role { wanted: Designator::Root, found: Designator::Home, .. }));
}

#[test]
fn a_given_root_hash_is_for_the_root_image() {
    let hash = "a".repeat(64);
    let request = read(&format!(
        "{SEED} rd.systemd.pull=raw,machine,blockdev:other:http://h/o rd.systemd.pull=raw,sysext:e:http://h/e roothash={hash}"
    ));
    let given: Vec<bool> = request
        .pulls
        .iter()
        .map(|pull| request.hashes(pull.expression.as_ref().unwrap()).0.is_some())
        .collect();
    assert_eq!(given, [true, false, false]);
    let request = read(&format!(
        "root=/dev/sda1 rd.systemd.pull=raw,machine,blockdev:a:http://h/a rd.systemd.pull=raw,machine:b:http://h/b usrhash={hash}"
    ));
    let given: Vec<bool> = request
        .pulls
        .iter()
        .map(|pull| request.hashes(pull.expression.as_ref().unwrap()).1.is_some())
        .collect();
    assert_eq!(given, [true, false], "no image is named: it holds for all that become devices");
}

#[test]
fn a_credential_asks_and_cannot_take_names() {
    let line = KernelCommandLine::parse(SEED.as_bytes());
    let credential = "# more\n\nraw,sysext:e:http://h/e\nraw,machine:image:http://h/other\n oops \n";
    let request = BootRequest::read(&line, Some(credential), Stage::Initrd);
    assert_eq!(request.pulls.len(), 4);
    assert_eq!(request.pulls[1].source, PullSource::Credential(3));
    assert!(request.pulls[1].expression.is_ok());
    assert!(matches!(request.pulls[2].expression, Err(BootMistake::Duplicate { .. })));
    assert!(matches!(request.pulls[3].expression, Err(BootMistake::Expression { .. })));
    let empty = KernelCommandLine::default();
    let root = BootRequest::read(&empty, Some("raw,machine,blockdev:rootdisk:http://h/r"), Stage::Initrd);
    assert!(matches!(root.pulls[0].expression, Err(BootMistake::NotForCredential { .. })));
}

#[test]
fn mistakes_are_found_by_name() {
    let hash = read("rd.systemd.pull=raw,machine:a:http://h/a roothash=xyz");
    assert!(matches!(hash.check(), Err(BootMistake::RootHash { option: "roothash", .. })));
    let action = read("rd.systemd.pull.failure_action=explode");
    assert!(matches!(action.check(), Err(BootMistake::Action { .. })));
    let fine = read("rd.systemd.pull.failure_action=reboot rd.systemd.pull.success_action=none");
    assert_eq!(fine.failure_action.map(Action::as_str), Some("reboot"));
    assert_eq!(fine.check(), Ok(()));
    let twice = "rd.systemd.pull=raw,machine:a:http://h/a ".repeat(2);
    assert!(matches!(read(&twice).pulls[1].expression, Err(BootMistake::Duplicate { .. })));
    let many: String = (0..100).map(|n| format!("rd.systemd.pull=raw,machine:a{n}:http://h/a ")).collect();
    assert!(matches!(read(&many).check(), Err(BootMistake::TooMany { .. })));
    assert_eq!(read(&many).pulls.len(), MAX_PULLS);
}

#[test]
fn a_tree_is_bound_as_root() {
    let request = read("rd.systemd.pull=tar,machine:tree:http://h/t.tar root=bind:/run/machines/tree rw");
    assert!(request.is_bound_as_root(only(&request)) && request.root_writable);
    let other = read("rd.systemd.pull=tar,machine:tree:http://h/t.tar root=bind:/run/machines/other");
    assert!(!other.is_bound_as_root(only(&other)));
}

#[test]
fn policies_only_get_stricter_but_for_the_one_that_replaces_the_usual() {
    let requested = |text: &str| RequestedPolicy::as_written(text.parse().unwrap());
    let none = BootPolicies { base: None, own: None, further: None };
    assert_eq!(none.effective(ImageClass::Machine).unwrap(), RequestedPolicy::verified_boot());
    assert_eq!(none.effective(ImageClass::Sysext).unwrap(), RequestedPolicy::verified_extension());
    let further = BootPolicies { further: Some(requested("*")), ..none.clone() };
    assert_eq!(
        further.effective(ImageClass::Machine).unwrap().policy(),
        RequestedPolicy::verified_boot().policy()
    );
    let loosened = BootPolicies { base: Some(requested("*")), ..none.clone() };
    assert_eq!(loosened.effective(ImageClass::Machine).unwrap(), requested("*"));
    assert_eq!(loosened.effective(ImageClass::Confext).unwrap(), RequestedPolicy::verified_extension());
    let own = BootPolicies { own: Some(RequestedPolicy::verified_extension()), ..loosened };
    let effective = own.effective(ImageClass::Machine).unwrap();
    assert_eq!(effective.strictness(), crate::image::presets::Strictness::VerifiedExtension);
    assert_eq!(effective.name().map(|name| name.as_str()), Some("verified-extension"));
    let contradiction = BootPolicies { own: Some(requested("root=unprotected")), ..none };
    assert!(contradiction.effective(ImageClass::Machine).is_err());
}
