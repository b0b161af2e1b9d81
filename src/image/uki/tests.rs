use super::*;
use crate::format::units::{ByteLength, ByteOffset};
use crate::image::finding::Level;
use crate::image::presets::{PolicyArgument, Preset, RequestedPolicy};

const SEED: &str = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw \
                    root=/dev/disk/by-loop-ref/image.raw-part2";

fn lookup(text: &str) -> Result<RequestedPolicy, String> {
    match text.parse().map_err(|error| format!("{error}"))? {
        PolicyArgument::Text(policy) => Ok(RequestedPolicy::as_written(policy)),
        PolicyArgument::Named(name) => {
            let preset = Preset::find(&name).ok_or("no such policy")?;
            Ok(RequestedPolicy::named(name, preset.file().unwrap().policy))
        }
    }
}

fn rules(line: &str) -> Vec<Rule> {
    let findings = lint(line.as_bytes(), &lookup);
    for finding in &findings {
        assert!(!finding.message().contains(char::is_control), "{finding}");
    }
    findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn the_seeds_command_line_boots_any_signed_image() {
    let findings = lint(SEED.as_bytes(), &lookup);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].rule, findings[0].level), (Rule::BootReplayable, Level::Note));
    assert!(findings[0].found.contains("'image'") && findings[0].found.contains("@verified-boot"));
}

#[test]
fn a_hash_pins_the_image() {
    let hash = "ab".repeat(32);
    assert_eq!(rules(&format!("{SEED} roothash={hash}")), [Rule::BootPinned]);
    assert_eq!(rules(&SEED.replace("verify=no", &format!("verify={hash}"))), [Rule::BootPinned]);
    // A root hash holds for its partition under every policy, and says nothing of the others.
    let root_alone = format!("{SEED} roothash={hash} rd.systemd.image_policy=root=verity:=unused+absent");
    assert_eq!(rules(&root_alone), [Rule::BootPinned]);
    let open = format!("{SEED} roothash={hash} rd.systemd.image_policy=*");
    assert!(rules(&open).contains(&Rule::BootUnauthenticated), "{:?}", rules(&open));
    // For another image it says nothing.
    let other = format!("{SEED} rd.systemd.pull=raw,machine:data:https://h/d.raw,x roothash={hash}");
    assert!(rules(&other).contains(&Rule::BootReplayable), "{:?}", rules(&other));
}

#[test]
fn a_policy_that_takes_anything_leaves_it_to_whoever_answers() {
    for policy in [
        "*",
        "root=verity+signed+unprotected",
        "=open",
        "root=signed:=open",
        "root=verity:=unused+absent",
        "@allow",
    ] {
        let line = format!("{SEED} rd.systemd.image_policy={policy}");
        let found = rules(&line);
        assert!(found.contains(&Rule::BootUnauthenticated), "{policy}: {found:?}");
    }
    // The weakest alternative is what holds, and that is said.
    let found = rules(&format!("{SEED} rd.systemd.image_policy=root=verity+signed:=unused+absent"));
    assert_eq!(found, [Rule::BootPolicyHole, Rule::BootUnauthenticated]);
    for policy in ["root=signed", "root=signed:=unused+absent", "@verified-boot", "usr=signed:root=absent"] {
        let line = format!("{SEED} rd.systemd.image_policy={policy}");
        assert!(!rules(&line).contains(&Rule::BootUnauthenticated), "{policy}: {:?}", rules(&line));
    }
    // What only tightens cannot loosen, and an extension has its own policy.
    assert_eq!(rules(&format!("{SEED} systemd.image_policy=*")), [Rule::BootReplayable]);
    let extension = "rd.systemd.pull=raw,sysext,verify=no:e:https://h/e.raw rd.systemd.image_policy=*";
    assert!(!rules(extension).contains(&Rule::BootUnauthenticated), "{:?}", rules(extension));
    // Somebody vouches for the download.
    let signed = SEED.replace("verify=no", "verify=signature");
    assert_eq!(rules(&format!("{signed} rd.systemd.image_policy=*")), [Rule::BootReplayable]);
    let sums = SEED.replace("verify=no", "verify=checksum");
    assert_eq!(rules(&format!("{sums} rd.systemd.image_policy=*")), [Rule::BootUnauthenticated]);
}

#[test]
fn what_would_stop_the_boot_is_said_before() {
    for line in [
        "rd.systemd.pull=raw,machine,verify=sginature:image:https://h/i.raw root=/dev/sda1",
        &format!("{SEED} roothash=abc"),
        &format!("{SEED} rd.systemd.image_policy=root=signd"),
        &format!("{SEED} systemd.image_policy=@no-such-policy"),
        &format!("{SEED} systemd.image_policy=root=unprotected:usr=absent"),
        &SEED.replace("raw-part2", "raw-home"),
        "rd.systemd.pull=tar,machine,verify=no:tree:https://h/t.tar root=bind:/run/machines/tree",
        "rd.systemd.pull=tar,machine,verify=checksum:tree:https://h/t.tar root=bind:/run/machines/tree",
    ] {
        let found = rules(line);
        assert!(found.contains(&Rule::BootMistake), "{line}: {found:?}");
    }
    // A policy that is not known may be anything.
    let unknown = rules(&format!("{SEED} rd.systemd.image_policy=@no-such-policy"));
    assert_eq!(unknown, [Rule::BootMistake, Rule::BootUnauthenticated]);
    let tar = "rd.systemd.pull=tar,machine:tree:https://h/t.tar root=bind:/run/machines/tree";
    assert_eq!(rules(tar), [Rule::BootReplayable]);
    let open = "rd.systemd.pull=tar,machine,verify=no:tree:https://h/t.tar root=bind:/run/machines/tree rd.systemd.image_policy=*";
    assert_eq!(rules(open), [Rule::BootUnauthenticated]);
}

#[test]
fn a_root_that_is_not_pulled_is_looked_at_as_well() {
    let hash = "ab".repeat(32);
    assert_eq!(rules("quiet"), [Rule::BootRootUnverified]);
    assert_eq!(rules(""), [Rule::BootRootUnverified]);
    assert_eq!(rules("root=UUID=x ro"), [Rule::BootRootUnverified]);
    assert_eq!(rules(&format!("root=/dev/mapper/root roothash={hash}")), [Rule::BootPinned]);
    assert_eq!(rules("systemd.image_policy=root=signed:=unused+absent"), [Rule::BootReplayable]);
    assert_eq!(
        rules("root=/dev/sda1 systemd.image_policy=root=signed:=unused+absent"),
        [Rule::BootRootUnverified]
    );
    assert_eq!(
        rules(&SEED.replace("by-loop-ref/image", "by-loop-ref/other")),
        [Rule::BootReplayable, Rule::BootRootNotPulled]
    );
    let no_devices = SEED.replace(",blockdev", "");
    assert_eq!(rules(&no_devices), [Rule::BootReplayable, Rule::BootRootNotPulled]);
    let root_disk = "rd.systemd.pull=raw,machine,blockdev:rootdisk:https://h/i.raw";
    assert_eq!(rules(root_disk), [Rule::BootReplayable]);
}

#[test]
fn plain_http_is_told() {
    assert_eq!(rules(&SEED.replace("https:", "http:")), [Rule::BootInClear, Rule::BootReplayable]);
}

fn extent(at: u64, length: u64) -> Extent {
    Extent::new(ByteOffset::new(at), ByteLength::new(length)).unwrap()
}

fn section(name: &str, at: u64) -> PeSection {
    PeSection { name: name.to_owned(), content: extent(at, 8) }
}

#[test]
fn profiles_have_what_stands_before_them() {
    let line = |at| Some(extent(at, 8));
    let of = |sections: &[PeSection]| -> Vec<Option<Extent>> {
        profiles(sections).unwrap().into_iter().map(|profile| profile.command_line).collect()
    };
    assert_eq!(of(&[section(".linux", 0)]), [None]);
    assert_eq!(of(&[section(".linux", 0), section(".cmdline", 8)]), [line(8)]);
    assert_eq!(of(&[section(".cmdline", 8)]), [line(8)]);
    let several = [
        section(".cmdline", 8),
        section(".linux", 0),
        section(".profile", 16),
        section(".profile", 24),
        section(".cmdline", 32),
    ];
    assert_eq!(of(&several), [line(8), line(32)]);
    for wrong in [
        &[section(".text", 0)][..],
        &[section(".linux", 0), section(".cmdline", 8), section(".cmdline", 16)],
        &[section(".linux", 0), section(".profile", 0), section(".cmdline", 8), section(".cmdline", 16)],
    ] {
        assert_eq!(profiles(wrong).unwrap_err().rule, Rule::UkiMalformed, "{wrong:?}");
    }
    let long = extent(0, MAXIMUM_COMMAND_LINE + 1);
    let long = [PeSection { name: ".cmdline".to_owned(), content: long }];
    assert_eq!(profiles(&long).unwrap_err().rule, Rule::UkiMalformed);
}
