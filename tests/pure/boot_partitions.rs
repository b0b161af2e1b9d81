//! `ddictl audit` of what the boot partitions of an image boot, by the program.

use std::fs;
use std::sync::Arc;

use ddictl::format::designator::Designator;
use serde_json::Value;

use crate::command_line::{Told, Workshop, keys};
use crate::corpus::trusted;
use crate::ddi_builder::{Ddi, NO_AUTO, Protected, squashfs};
use crate::fat_builder::{CLUSTER, Fat};
use crate::http_server::{Answer, HttpServer};
use crate::pe_builder::pe_file;

/// Boots whatever comes.
const OPEN: &str = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://192.168.100.1:8081/image.raw \
                    root=/dev/disk/by-loop-ref/image.raw-root rd.systemd.image_policy=*";

/// A unified kernel image with a kernel of some clusters in front of its command line.
fn kernel(line: &str) -> Vec<u8> {
    let length = u32::try_from(line.len()).unwrap();
    pe_file(&[
        (".osrel", b"ID=x", 4),
        (".linux", &[7; 5 * CLUSTER], 5),
        (".cmdline", line.as_bytes(), length),
    ])
}

fn addon(line: &str) -> Vec<u8> {
    pe_file(&[(".cmdline", line.as_bytes(), u32::try_from(line.len()).unwrap())])
}

/// What a boot menu, a shim or a shell looks like from here.
fn program() -> Vec<u8> {
    pe_file(&[(".text", b"code", 4), (".sdmagic", b"menu", 4)])
}

/// An image with a signed root and this ESP.
pub(crate) fn image(esp: &Fat) -> Ddi {
    Ddi::new()
        .with(Designator::Esp, "esp", esp.bytes.clone())
        .protected(&Protected::root(squashfs()).signed_by(trusted()))
}

/// The findings about files in boot partitions: rule, level, partition and file.
fn found(told: &Told) -> Vec<(String, String, u64, String)> {
    let report = told.json();
    let findings = report["findings"].as_array().unwrap().iter().filter(|finding| !finding["file"].is_null());
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    findings
        .map(|finding| {
            let number = finding["partition"].as_u64().unwrap_or_default();
            (word(&finding["rule"]), word(&finding["level"]), number, word(&finding["file"]))
        })
        .collect()
}

/// The rules and files alone, of an image with this ESP.
fn audit(esp: &Fat) -> Vec<(String, String)> {
    audit_image(&image(esp))
}

fn audit_image(image: &Ddi) -> Vec<(String, String)> {
    let workshop = Workshop::new();
    workshop.write("os.raw", &image.bytes());
    let found = found(&workshop.run("audit --format=json --certificate=k.crt os.raw"));
    found.into_iter().map(|(rule, _, _, file)| (rule, file)).collect()
}

fn pairs(found: &[(String, String)]) -> Vec<(&str, &str)> {
    found.iter().map(|(rule, file)| (rule.as_str(), file.as_str())).collect()
}

#[test]
fn a_unified_kernel_image_in_the_esp_is_judged_as_one_in_a_file() {
    for bits in [12, 16, 32] {
        let esp = Fat::new(bits)
            .fragmented()
            .with("/EFI/Linux/debian with a long name-6.1.efi", &kernel(OPEN))
            .with("/EFI/BOOT/BOOTX64.EFI", &program())
            .with("/EFI/systemd/systemd-bootx64.efi", &program())
            .with("/EFI/debian/shimx64.efi", &program())
            .with("/EFI/debian/grub.cfg.efi", b"not a program");
        let workshop = Workshop::new();
        workshop.write("os.raw", &image(&esp).bytes());
        let told = workshop.run("audit --format=json --certificate=k.crt os.raw").exits(3);
        assert_eq!(told.json()["verdict"], "not-judged");
        let file = "/EFI/Linux/debian with a long name-6.1.efi".to_owned();
        assert_eq!(found(&told), [("DDI0604".to_owned(), "error".to_owned(), 1, file)], "{bits}");

        // It refuses no image, so that under a policy it is a warning.
        let audit = "audit --certificate=k.crt --image-policy=@verified-boot";
        let told = workshop.run(&format!("{audit} --format=json os.raw")).exits(0);
        assert_eq!(told.json()["verdict"], "accept");
        assert_eq!(found(&told)[0].1, "warning");
        workshop.run(&format!("{audit} --fail-on=warning os.raw")).exits(3);
        workshop.run(&format!("{audit} --fail-on=warning --boot-partitions=no os.raw")).exits(0);
    }
}

#[test]
fn every_report_names_the_file() {
    let workshop = Workshop::new();
    let esp = Fat::new(16).with("/EFI/Linux/a.efi", &kernel(OPEN)).with("/EFI/Linux/b.efi", &kernel(OPEN));
    workshop.write("os.raw", &image(&esp).bytes());
    let audit =
        |format: &str| workshop.run(&format!("audit --format={format} --certificate=k.crt os.raw")).exits(3);
    let text = audit("text").data;
    let line = "DDI0604 error:   partition 1 (esp): /EFI/Linux/a.efi: a boot of whatever the network sends: expected";
    assert!(text.contains(line), "{text}");
    let json = audit("json").json();
    let finding = &json["findings"][0];
    assert_eq!(
        (&finding["partition"], &finding["file"]),
        (&Value::from(1), &Value::from("/EFI/Linux/a.efi"))
    );
    assert_eq!(keys(finding), ["rule", "level", "partition", "expected", "found", "message", "file"]);
    assert!(finding["message"].as_str().unwrap().starts_with("partition 1 (esp): /EFI/Linux/a.efi: "));

    let sarif = audit("sarif").json();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let [one, other] = results.as_slice() else { panic!("{results:?}") };
    for (result, name) in [(one, "a"), (other, "b")] {
        let place = format!("partition 1 (esp): /EFI/Linux/{name}.efi");
        assert_eq!(result["locations"][0]["logicalLocations"][0]["name"], place);
        assert_eq!(result["properties"]["file"], format!("/EFI/Linux/{name}.efi"));
    }
    assert_ne!(one["partialFingerprints"], other["partialFingerprints"]);

    let junit = audit("junit").data;
    assert!(junit.contains(", partition 1 (esp): /EFI/Linux/a.efi\"><failure"), "{junit}");
}

#[test]
fn a_name_of_the_image_cannot_write_to_the_terminal() {
    let esp = Fat::new(12).with("/EFI/Linux/\u{1b}[2J\u{202e}.efi", &kernel(OPEN));
    let workshop = Workshop::new();
    workshop.write("os.raw", &image(&esp).bytes());
    for format in ["text", "json", "sarif", "junit"] {
        let told = workshop.run(&format!("audit --format={format} --certificate=k.crt os.raw")).exits(3);
        assert!(!told.data.contains(['\u{1b}', '\u{202e}']), "{told:?}");
    }
}

#[test]
fn what_lies_in_the_directory_for_kernels_has_to_be_a_program() {
    let esp = Fat::new(12)
        .with("/EFI/Linux/text.efi", b"text")
        .with("/EFI/Linux/empty.efi", b"")
        .with("/EFI/Linux/cut.efi", &kernel(OPEN)[..2000])
        .with("/EFI/Linux/program.efi", &program())
        .with("/EFI/other/text.efi", b"text")
        .with("/EFI/other/cut.efi", &kernel(OPEN)[..2000])
        .with("/EFI/BOOT/BOOTX64.EFI", &kernel("quiet"));
    let found = audit(&esp);
    let malformed =
        ["/EFI/Linux/cut.efi", "/EFI/Linux/empty.efi", "/EFI/Linux/text.efi", "/EFI/other/cut.efi"];
    let mut expected = malformed.map(|file| ("DDI0601", file)).to_vec();
    expected.push(("DDI0607", "/EFI/BOOT/BOOTX64.EFI"));
    assert_eq!(pairs(&found), expected);
}

#[test]
fn the_root_hash_on_the_command_line_is_that_of_the_image() {
    let file = "/EFI/Linux/a.efi";
    let rules = |line: &str, image: &dyn Fn(&Fat) -> Ddi| {
        let found = audit_image(&image(&Fat::new(12).with(file, &kernel(line))));
        found.into_iter().map(|(rule, _)| rule).collect::<Vec<_>>()
    };
    let own = Protected::root(squashfs()).root_hash();
    let mut next = squashfs();
    next[5000] ^= 1;
    let next = Protected::root(next).label("root_2").signed_by(trusted());
    assert_ne!(next.root_hash(), own);
    assert_eq!(rules(&format!("roothash={own}"), &image), ["DDI0606"]);
    assert_eq!(rules(&format!("roothash={}", next.root_hash()), &image), ["DDI0612", "DDI0606"]);
    // One of two versions in the image, whichever would be used.
    let both = |esp: &Fat| image(esp).protected(&next);
    assert_eq!(rules(&format!("roothash={own}"), &both), ["DDI0606"]);
    assert_eq!(rules(&format!("roothash={}", next.root_hash()), &both), ["DDI0606"]);
    assert_eq!(rules(&format!("roothash={}", "ab".repeat(32)), &both), ["DDI0612", "DDI0606"]);
    // Half of it alone does not make it that one.
    let text = own.to_string();
    let half = format!("{}{}", &text[..32], "0".repeat(32));
    assert_eq!(rules(&format!("roothash={half}"), &image), ["DDI0612", "DDI0606"]);
    // It is that of what is pulled.
    let pulled = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:https://h/i.raw root=/dev/disk/by-loop-ref/image.raw-root";
    assert_eq!(rules(&format!("{pulled} roothash={}", "ab".repeat(32)), &image), ["DDI0606"]);
    // There is no usr in the image, and nothing protects another root.
    assert_eq!(rules(&format!("usrhash={}", "ab".repeat(32)), &image), ["DDI0606"]);
    let plain = |esp: &Fat| {
        Ddi::new().with(Designator::Esp, "esp", esp.bytes.clone()).with(Designator::Root, "root", squashfs())
    };
    assert_eq!(rules(&format!("roothash={}", "ab".repeat(32)), &plain), ["DDI0606"]);
    let usr = |esp: &Fat| {
        Ddi::new().with(Designator::Esp, "esp", esp.bytes.clone()).protected(&Protected::usr(squashfs()))
    };
    assert_eq!(rules(&format!("usrhash={}", "ab".repeat(32)), &usr), ["DDI0612", "DDI0606"]);

    let workshop = Workshop::new();
    workshop.write(
        "os.raw",
        &image(&Fat::new(12).with(file, &kernel(&format!("roothash={}", "ab".repeat(32))))).bytes(),
    );
    let told = workshop.run("audit --certificate=k.crt --fail-on=warning os.raw").exits(3);
    let words =
        format!("expected root with root hash {own}, which is in the image, found root with root hash abab");
    assert!(told.data.contains(&words), "{told:?}");
}

#[test]
fn add_ons_are_part_of_the_command_line() {
    let esp = || Fat::new(12).with("/EFI/Linux/a.efi", &kernel("quiet"));
    assert_eq!(pairs(&audit(&esp())), [("DDI0607", "/EFI/Linux/a.efi")]);
    let open = esp().with("/EFI/Linux/A.EFI.extra.d/open.addon.efi", &addon(OPEN));
    assert_eq!(pairs(&audit(&open)), [("DDI0604", "/EFI/Linux/a.efi")]);
    let for_all = esp().with("/loader/addons/open.addon.efi", &addon(OPEN));
    assert_eq!(pairs(&audit(&for_all)), [("DDI0604", "/EFI/Linux/a.efi")]);
    for other in
        ["/EFI/Linux/b.efi.extra.d/open.addon.efi", "/loader/addons/open.efi", "/EFI/BOOT/open.addon.efi"]
    {
        let of_another = esp().with(other, &addon(OPEN));
        assert_eq!(pairs(&audit(&of_another)), [("DDI0607", "/EFI/Linux/a.efi")], "{other}");
    }
}

#[test]
fn boot_entries_are_judged_with_their_options_and_lead_to_kernels() {
    let entry = |text: &str| Fat::new(12).with("/loader/entries/a.conf", text.as_bytes());
    let file = "/loader/entries/a.conf";
    let plain = entry(
        "title Debian\nlinux /debian/linux\ninitrd /debian/initrd\noptions root=/dev/sda2\noptions ro\n",
    );
    assert_eq!(pairs(&audit(&plain)), [("DDI0607", file), ("DDI0613", file)]);
    assert_eq!(pairs(&audit(&entry("linux /linux"))), [("DDI0607", file), ("DDI0613", file)]);
    let open = entry(&format!("linux /linux\noptions {OPEN}"));
    assert_eq!(pairs(&audit(&open)), [("DDI0604", file), ("DDI0613", file)]);
    let other = entry(&format!("linux /linux\noptions roothash={}", "ab".repeat(32)));
    assert_eq!(pairs(&audit(&other)), [("DDI0612", file), ("DDI0613", file), ("DDI0606", file)]);
    assert_eq!(pairs(&audit(&entry("uki-url https://host/a.efi"))), [("DDI0613", file)]);
    assert!(audit(&entry("title nothing\nefi /EFI/tools/shell.efi\n")).is_empty());
    // A unified kernel image anywhere in the partition.
    let elsewhere = entry("uki /token/6.1/a.efi").with("/token/6.1/a.efi", &kernel(OPEN));
    assert_eq!(pairs(&audit(&elsewhere)), [("DDI0604", "/token/6.1/a.efi")]);
    let wrong = entry("uki /token/6.1/a.efi").with("/token/6.1/a.efi", b"text");
    assert_eq!(pairs(&audit(&wrong)), [("DDI0601", "/token/6.1/a.efi")]);
    let as_linux = entry("efi \\token\\a.efi").with("/token/a.efi", &kernel(OPEN));
    assert_eq!(pairs(&audit(&as_linux)), [("DDI0604", "/token/a.efi")]);
    // A pattern is no path, and one that is not there leads nowhere.
    let pattern = entry("uki /token/*").with("/token/a.efi", &kernel(OPEN));
    assert!(audit(&pattern).is_empty());
    // What is found twice is told once.
    let twice = entry("uki /EFI/Linux/b.efi").with("/EFI/Linux/b.efi", &kernel(OPEN));
    assert_eq!(pairs(&audit(&twice)), [("DDI0604", "/EFI/Linux/b.efi")]);
}

#[test]
fn a_damaged_file_system_is_told_and_refuses_nothing() {
    let mut esp = Fat::new(16).with("/EFI/Linux/good.efi", &kernel(OPEN));
    let first = esp.next_cluster();
    let mut esp = {
        esp = esp.with("/EFI/Linux/loop.efi", &kernel(OPEN));
        esp
    };
    esp.set(first + 1, first);
    esp.entry("/EFI/Linux/large.efi", 0x20, first + 3, 0xffff_ffff);
    let found = audit(&esp);
    assert_eq!(
        pairs(&found),
        [
            ("DDI0604", "/EFI/Linux/good.efi"),
            ("DDI0611", "/EFI/Linux/large.efi"),
            ("DDI0611", "/EFI/Linux/loop.efi")
        ]
        .map(|(rule, file)| (rule, file))
    );
    let mut circle = Fat::new(16);
    let directory = circle.directory("/EFI");
    circle.entry("/EFI/Linux", 0x10, directory, 0);
    let workshop = Workshop::new();
    workshop.write("os.raw", &image(&circle).bytes());
    let audit = "audit --certificate=k.crt --image-policy=@verified-boot";
    let told = workshop.run(&format!("{audit} os.raw")).exits(0);
    let words = "DDI0611 warning: partition 1 (esp): /EFI/Linux: a boot partition whose files cannot all be found: expected \
                 files that everybody reads alike: expected clusters of its own, found cluster 2 to belong to '/EFI' as well";
    assert!(told.data.contains(words), "{told:?}");
}

/// Boot partitions that want much to be read, remembered or said.
pub(crate) fn hostile() -> Vec<Fat> {
    let line = "rd.systemd.pull=raw:a:https://h/i.raw ".repeat(6000);
    let mut long = Fat::new(16).with("/loader/addons/a.addon.efi", &addon(&line));
    for number in 0..4 {
        long = long.with(&format!("/EFI/Linux/{number}.efi"), &kernel(&line));
    }
    // As many entries as a directory may have, each of which is a file, a directory, or a part of a name.
    let full = [(0x20, *b"AAAAAAAAEFI"), (0x10, *b"AAAAAAAA   "), (0x0f, *b"BAAAAAAAAAA")].map(
        |(attributes, name)| {
            let mut esp = Fat::new(16);
            esp.entry("/EFI", 0x10, 2, 0);
            for cluster in 2..4098 {
                esp.set(cluster, if cluster == 4097 { usize::MAX } else { cluster + 1 });
            }
            let area = esp.bytes.len() - 5000 * CLUSTER;
            for entry in esp.bytes[area..].chunks_mut(32) {
                entry[..11].copy_from_slice(&name);
                (entry[11], entry[26], entry[27]) = (attributes, 0x10, 0x11);
            }
            esp
        },
    );
    [long].into_iter().chain(full).collect()
}

#[test]
fn what_a_boot_partition_may_cost_is_limited() {
    let mut hostile = hostile().into_iter();
    // The add-on is part of each of the four, and there is room for two.
    let found = audit(&hostile.next().unwrap());
    let malformed = found.iter().filter(|(rule, _)| rule == "DDI0601").count();
    assert_eq!(malformed, 2, "{}", found.len());
    for esp in hostile {
        let found = audit(&esp);
        assert!(found.len() <= 16 && found.iter().all(|(rule, _)| rule == "DDI0611"), "{found:?}");
    }
}

#[test]
fn every_partition_that_something_boots_from_is_looked_into() {
    let esp = Fat::new(12).with("/EFI/Linux/a.efi", &kernel(OPEN));
    let xbootldr = Fat::new(32).with("/EFI/Linux/b.efi", &kernel("quiet"));
    let both = image(&esp).with(Designator::Xbootldr, "xbootldr", xbootldr.bytes.clone());
    assert_eq!(
        pairs(&audit_image(&both)),
        [("DDI0604", "/EFI/Linux/a.efi"), ("DDI0607", "/EFI/Linux/b.efi")]
    );
    // Firmware asks no attribute.
    let set_aside = image(&esp).edit("esp", |part| part.attributes = NO_AUTO);
    assert_eq!(pairs(&audit_image(&set_aside)), [("DDI0604", "/EFI/Linux/a.efi")]);
    // Nothing boots from there.
    let elsewhere = Ddi::new().with(Designator::Home, "home", esp.bytes.clone());
    assert!(audit_image(&elsewhere).is_empty());
    // A file system alone.
    let workshop = Workshop::new();
    workshop.write("esp.raw", &esp.bytes);
    let told = workshop.run("audit esp.raw").exits(3);
    assert!(told.data.contains("DDI0604 error:   /EFI/Linux/a.efi: a boot of"), "{told:?}");
}

#[test]
fn on_a_server_it_is_looked_into_when_asked_to() {
    let esp = Fat::new(32).with("/EFI/Linux/a.efi", &kernel(OPEN));
    let bytes: Arc<[u8]> = image(&esp).bytes().into();
    let workshop = Workshop::new();
    let audit = |option: &str, status: i32| {
        let bytes = Arc::clone(&bytes);
        let server = HttpServer::start(move |request| Answer::ranged(request, Arc::clone(&bytes)));
        let url = server.url("/os.raw");
        let told =
            workshop.run(&format!("audit --format=json --certificate=k.crt {option} {url}")).exits(status);
        let rules: Vec<String> = told.json()["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| format!("{} {}", finding["rule"].as_str().unwrap(), finding["partition"]))
            .collect();
        (rules, server.requests().len())
    };
    assert_eq!(audit("", 0), (vec!["DDI0614 1".to_owned()], audit("--boot-partitions=no", 0).1));
    assert_eq!(audit("--boot-partitions=no", 0).0, [""; 0]);
    let (rules, requests) = audit("--boot-partitions=yes", 3);
    assert_eq!(rules, ["DDI0604 1"]);
    assert!(requests <= 12, "{requests} requests");
}

#[test]
fn a_directory_has_its_unified_kernel_images() {
    let workshop = Workshop::new();
    fs::create_dir_all(workshop.path("boot/EFI/Linux")).unwrap();
    workshop.write("boot/EFI/Linux/a.efi", &kernel(OPEN));
    workshop.write("boot/EFI/Linux/B.EFI", &kernel("quiet"));
    workshop.write("boot/EFI/Linux/cut.efi", &kernel("quiet")[..2000]);
    workshop.write("boot/EFI/Linux/notes.txt", &kernel("quiet"));
    workshop.write("boot/EFI/shimx64.efi", &program());
    workshop.write("boot/EFI/text.efi", b"text");
    workshop.write("boot/EFI/x.addon.efi", &addon("quiet"));
    let told = workshop.run("audit --format=json boot").exits(3);
    let images: Vec<String> = told
        .data
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            format!("{} {}", line["image"].as_str().unwrap(), line["findings"][0]["rule"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        images,
        ["boot/EFI/Linux/B.EFI DDI0607", "boot/EFI/Linux/a.efi DDI0604", "boot/EFI/Linux/cut.efi DDI0601"]
    );
    let told = workshop.run("audit boot").exits(3);
    assert!(told.data.ends_with("4 other file(s) in the directories\n"), "{told:?}");
}
