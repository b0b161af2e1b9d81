//! `ddictl audit` of a unified kernel image: what its command line enforces, by the program.

use crate::command_line::{Told, Workshop};
use crate::corpus::trusted;
use crate::ddi_builder::Ddi;
use crate::pe_builder::pe_file;

const PULL: &str = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw \
                    root=/dev/disk/by-loop-ref/image.raw-part2";

fn workshop(line: &str) -> Workshop {
    let workshop = Workshop::new();
    let length = u32::try_from(line.len()).unwrap();
    // As ukify makes it: padded in the file, and as long as it is in memory.
    let padded = format!("{line}{}", "\0".repeat(512 - line.len() % 512));
    let sections =
        [(".osrel", &b"ID=x"[..], 4), (".linux", b"MZ", 2), (".cmdline", padded.as_bytes(), length)];
    workshop.write("boot.efi", &pe_file(&sections));
    workshop
}

fn rules(told: &Told) -> Vec<String> {
    let report = told.json();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

fn audit(line: &str, status: i32) -> Vec<String> {
    let told = workshop(line).run("audit --format=json boot.efi").exits(status);
    assert_eq!(told.json()["verdict"], "not-judged");
    rules(&told)
}

#[test]
fn what_a_command_line_enforces_is_said() {
    assert_eq!(audit(PULL, 0), ["DDI0605"]);
    assert_eq!(audit(&format!("{PULL} roothash={}", "ab".repeat(32)), 0), ["DDI0606"]);
    assert_eq!(audit(&format!("{PULL} rd.systemd.image_policy=*"), 3), ["DDI0604"]);
    assert_eq!(
        audit(&format!("{PULL} rd.systemd.image_policy=root=verity+signed"), 3),
        ["DDI0604", "DDI0609"]
    );
    assert_eq!(audit(&PULL.replace("verify=no", "verify=sginature"), 3)[0], "DDI0603");
    assert_eq!(audit(&PULL.replace("by-loop-ref/image", "by-loop-ref/other"), 3), ["DDI0608", "DDI0605"]);
    assert_eq!(audit(&PULL.replace("https:", "http:"), 0), ["DDI0605", "DDI0610"]);
    assert_eq!(audit("quiet root=/dev/sda2", 0), ["DDI0607"]);
    let told = workshop(&format!("{PULL} rd.systemd.image_policy=*")).run("audit boot.efi").exits(3);
    for words in
        ["DDI0604 error", "whoever answers for https://192.168.100.1:8081/image.raw", "verify=no, policy *"]
    {
        assert!(told.data.contains(words), "{words}: {told:?}");
    }
}

#[test]
fn a_file_that_is_no_sane_kernel_image_is_malformed() {
    let workshop = Workshop::new();
    let judge = |bytes: &[u8]| {
        workshop.write("boot.efi", bytes);
        let told = workshop.run("audit --format=json boot.efi").exits(3);
        assert_eq!(told.json()["verdict"], "malformed");
        rules(&told)
    };
    let good = pe_file(&[(".linux", b"MZ", 2), (".cmdline", b"quiet", 5)]);
    assert_eq!(judge(&good[..good.len() - 1]), ["DDI0601"]);
    assert_eq!(judge(&pe_file(&[(".text", b"x", 1)])), ["DDI0601"]);
    let twice = [(".linux", &b"MZ"[..], 2), (".cmdline", b"quiet", 5), (".cmdline", b"debug", 5)];
    assert_eq!(judge(&pe_file(&twice)), ["DDI0601"]);
    // Without the signature it is a file like any other.
    assert_eq!(judge(b"MZ and no more"), ["DDI0101"]);
}

#[test]
fn profiles_and_images_without_a_command_line_are_told_apart() {
    let workshop = Workshop::new();
    workshop.write("boot.efi", &pe_file(&[(".linux", b"MZ", 2)]));
    let told = workshop.run("audit --format=json --fail-on=warning boot.efi").exits(3);
    assert_eq!(rules(&told), ["DDI0602"]);
    let line = format!("{PULL} rd.systemd.image_policy=*");
    let sections = [
        (".linux", &b"MZ"[..], 2),
        (".cmdline", PULL.as_bytes(), u32::try_from(PULL.len()).unwrap()),
        (".profile", b"ID=main", 7),
        (".profile", b"ID=rescue", 9),
        (".cmdline", line.as_bytes(), u32::try_from(line.len()).unwrap()),
    ];
    workshop.write("boot.efi", &pe_file(&sections));
    let told = workshop.run("audit --format=json boot.efi").exits(3);
    let found: Vec<String> = told.json()["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            format!("{} {}", finding["rule"], finding["found"].as_str().unwrap().rsplit('(').next().unwrap())
        })
        .collect();
    assert_eq!(found, ["\"DDI0604\" profile 1)", "\"DDI0605\" profile 0)"]);
}

#[test]
fn a_disk_that_begins_as_a_program_is_a_disk() {
    let workshop = Workshop::new();
    let mut image = Ddi::signed(trusted()).bytes();
    image[..2].copy_from_slice(b"MZ");
    workshop.write("os.raw", &image);
    let audit = "audit --certificate=k.crt --image-policy=@verified-boot --format=json os.raw";
    assert_eq!(workshop.run(audit).exits(0).json()["verdict"], "accept");
}
