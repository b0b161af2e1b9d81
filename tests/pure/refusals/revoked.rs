//! What was taken back is refused whoever vouches for it, and a certificate signs only what it is for: in the library and
//! by the program.

use ddictl::format::image_class::ImageClass;
use ddictl::image::finding::{Level, Rule};
use ddictl::image::policy::Protection;
use ddictl::trust::anchor::TrustAnchor;

use super::Outcome;
use crate::command_line::Workshop;
use crate::corpus::{root, rooted, sealed, stranger, trusted};
use crate::ddi_builder::{Ddi, Protected, fixture, squashfs};
use crate::judge::{Judge, policy};
use crate::keys::Pair;

fn fingerprint(pair: &Pair) -> String {
    TrustAnchor::from_pem("test", &pair.certificate_pem()).unwrap().fingerprint().to_string()
}

fn judge() -> Judge {
    Judge::trusting(&[trusted()])
}

#[test]
fn a_revoked_root_hash_is_refused_however_well_it_is_signed_or_given() {
    let image = rooted().bytes();
    let hash = root().root_hash();
    let rules = format!("revoke-root-hash = {hash} \"CVE-2026-1\"");
    for text in ["*", "root=signed", "root=verity+unprotected", "@verified-boot", "@verified-extension"] {
        judge().plan(&image, &policy(text)).accepted();
        for judge in [judge(), judge().root_hash(Some(hash.clone()))] {
            let outcome = judge.under(&rules).plan(&image, &policy(text));
            let finding =
                outcome.reason(Rule::RootHashRevoked).unwrap_or_else(|| panic!("{text}: {outcome:?}"));
            assert_eq!((finding.level, finding.partition.map(|n| n.get())), (Level::Error, Some(1)));
            for words in ["CVE-2026-1", "test.conf", &hash.to_string()] {
                assert!(finding.message().contains(words), "{}", finding.message());
            }
        }
    }
    // Nobody vouches for it any more, and the state says so.
    assert_eq!(judge().protection(&image, 1), Protection::Signed);
    assert_eq!(judge().under(&rules).protection(&image, 1), Protection::Verity);
    // What is not used does no harm, and what else is in the image is as good as before.
    let usr = Protected::usr(fixture("erofs-lz4", 8192)).signed_by(trusted());
    let both = Ddi::new().protected(&root()).protected(&usr).bytes();
    judge().under(&rules).plan(&both, &policy("usr=signed:root=unused:=unused+absent")).accepted();
    let other = format!("revoke-root-hash = {}", usr.root_hash());
    judge().under(&other).plan(&image, &policy("@verified-boot")).accepted();
    let outcome = judge().under(&other).plan(&both, &policy("@verified-boot"));
    assert!(outcome.reason(Rule::RootHashRevoked).is_some(), "{outcome:?}");
}

#[test]
fn a_revoked_certificate_makes_nothing_signed() {
    let image = sealed().bytes();
    let rules = format!("revoke-certificate = {} \"key lost\"", fingerprint(trusted()));
    let findings = judge().under(&rules).findings(&image);
    let finding = findings.iter().find(|finding| finding.rule == Rule::SignerRevoked).unwrap();
    assert_eq!(finding.level, Level::Warning);
    assert!(finding.message().contains("key lost"), "{}", finding.message());
    let outcome = judge().under(&rules).plan(&image, &policy("@verified-boot"));
    let refusal = outcome.reason(Rule::PolicyState).unwrap();
    assert!(refusal.message().contains("revoked certificate"), "{}", refusal.message());
    // A root hash that the user gives counts as before: the user vouches for it, and not the certificate.
    let given = judge().root_hash(Some(root().root_hash()));
    given.under(&rules).plan(&rooted().bytes(), &policy("@verified-boot")).accepted();
    let other = format!("revoke-certificate = {}", fingerprint(stranger()));
    judge().under(&other).plan(&image, &policy("@verified-boot")).accepted();
}

#[test]
fn a_certificate_signs_only_what_it_is_for() {
    let image = rooted().bytes();
    let rules = format!("limit-certificate = {} sysext:web-* confext", fingerprint(trusted()));
    let (sysext, confext) = (Some(ImageClass::Sysext), Some(ImageClass::Confext));
    let judged = |class, name: &str| {
        let judge = judge().under(&rules).using_as(class, name);
        (judge.findings(&image), judge.plan(&image, &policy("root=signed")))
    };
    for (class, name) in [(sysext, "web-1"), (confext, "anything"), (confext, "")] {
        let (findings, outcome) = judged(class, name);
        assert!(findings.iter().all(|finding| finding.rule != Rule::SignerPurpose), "{findings:?}");
        outcome.accepted();
    }
    for (class, name) in [
        (sysext, "db-1"),
        (sysext, "a-web-1"),
        (Some(ImageClass::Machine), "web-1"),
        (Some(ImageClass::Portable), "web-1"),
        (None, "web-1"),
    ] {
        let (findings, outcome) = judged(class, name);
        let finding = findings.iter().find(|finding| finding.rule == Rule::SignerPurpose).unwrap();
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.message().contains("sysext:web-* or confext"), "{}", finding.message());
        let refusal = outcome.reason(Rule::PolicyState).unwrap();
        assert!(refusal.message().contains("not for this class or name"), "{}", refusal.message());
    }
    // Where several certificates are trusted, the one that may sign it counts.
    let both = Judge::trusting(&[trusted(), stranger()]).under(&rules).using_as(sysext, "db-1");
    let second = Ddi::new().protected(&Protected::root(squashfs()).signed_by(stranger())).bytes();
    assert!(matches!(both.plan(&second, &policy("root=signed")), Outcome::Planned(_)));
}

#[test]
fn every_verb_that_judges_images_refuses_what_is_revoked() {
    let workshop = Workshop::new();
    let hash = root().root_hash();
    workshop.write("os.raw", &rooted().bytes());
    workshop
        .write("revoked.conf", format!("# withdrawn\nrevoke-root-hash = {hash} \"CVE-2026-1\"\n").as_bytes());
    let words = ["DDI0414", "CVE-2026-1"];
    for verb in [
        "verify os.raw",
        "attach --dry-run os.raw",
        "attach --dry-run --whole-disk --image-policy=* os.raw",
        "mount --dry-run os.raw /mnt",
        &format!("attach --dry-run --root-hash={hash} os.raw"),
    ] {
        let without = workshop.run(&format!("{verb} --certificate=k.crt"));
        assert_eq!(without.status.code(), Some(0), "{verb}: {without:?}");
        let with = workshop.run(&format!("{verb} --certificate=k.crt --trust-rules=revoked.conf"));
        with.fails(3, &words);
    }
    // The tightest policy of an image that no policy uses leaves it unused, and says why.
    let derived =
        workshop.run("policy derive --certificate=k.crt --trust-rules=revoked.conf os.raw").exits(0);
    assert!(derived.data.starts_with("root=unused:") && derived.talk.contains("revoked"), "{derived:?}");
    let audit = "audit --json=short --certificate=k.crt --trust-rules=revoked.conf os.raw";
    for policy in ["", " --image-policy=*", " --image-policy=@verified-boot"] {
        let report = workshop.run(&format!("{audit}{policy}")).exits(3).json();
        assert_eq!(report["verdict"], "refuse", "{policy}: {report}");
        assert!(report["findings"].to_string().contains("DDI0414"), "{report}");
        assert_eq!(report["partitions"][0]["protection"], "verity", "{report}");
    }
    let dissect = workshop.run("dissect --certificate=k.crt --trust-rules=revoked.conf os.raw").exits(0);
    assert!(dissect.talk.contains("DDI0414"), "{dissect:?}");
}

#[test]
fn what_an_image_is_for_is_what_the_verb_and_the_file_name_say() {
    let workshop = Workshop::new();
    let rules = format!("limit-certificate = {} sysext:web-* *:os\n", fingerprint(trusted()));
    workshop.write("limits.conf", rules.as_bytes());
    for name in ["web-1.raw", "web-2.sysext.raw", "os.raw", "db.raw"] {
        workshop.write(name, &rooted().bytes());
    }
    let audit = "audit --image-policy=root=signed --certificate=k.crt --trust-rules=limits.conf";
    for (image, class, status) in [
        ("os.raw", "", 0),
        ("os.raw", "--class=machine", 0),
        ("web-1.raw", "--class=sysext", 0),
        ("web-2.sysext.raw", "--class=sysext", 0),
        ("web-1.raw", "--class=machine", 3),
        ("web-1.raw", "", 3),
        ("db.raw", "--class=sysext", 3),
    ] {
        let told = workshop.run(&format!("{audit} {class} {image}")).exits(status);
        assert_eq!(told.data.contains("DDI0416"), status == 3, "{image} {class}: {told:?}");
        let verify = "verify --certificate=k.crt --trust-rules=limits.conf";
        workshop.run(&format!("{verify} {class} {image}")).exits(status);
    }
    // What is used on this machine is a machine unless something else is said.
    let attach = "attach --dry-run --certificate=k.crt --trust-rules=limits.conf";
    workshop.run(&format!("{attach} os.raw")).exits(0);
    workshop.run(&format!("{attach} web-1.raw")).fails(3, &["not for this class or name", "class machine"]);
    workshop.run(&format!("{attach} --class=sysext web-1.raw")).exits(0);
    // Another name for the devices is not another name for the image.
    workshop.run(&format!("{attach} --class=sysext --loop-ref=web-9 db.raw")).fails(3, &["name 'db'"]);
}

#[test]
fn rules_that_are_not_understood_stop_every_verb() {
    let workshop = Workshop::new();
    workshop.write("os.raw", &rooted().bytes());
    for (rules, words) in [
        ("\nrevoke-roothash = 00", "line 2"),
        ("revoke-root-hash = abc", "line 1"),
        ("limit-certificate = 00 sysext", "line 1"),
        ("revoke-root-hash = \u{e9}", "hexadecimal"),
    ] {
        workshop.write("wrong.conf", rules.as_bytes());
        for verb in ["dissect", "audit", "verify", "attach --dry-run", "policy derive"] {
            let told = workshop.run(&format!("{verb} --certificate=k.crt --trust-rules=wrong.conf os.raw"));
            told.fails(1, &["reading the trust rules 'wrong.conf'", words]);
        }
    }
    workshop.write("wrong.conf", b"# \xff");
    workshop.run("dissect --trust-rules=wrong.conf os.raw").fails(1, &["reading the trust rules", "utf-8"]);
    workshop.run("dissect --trust-rules=missing.conf os.raw").fails(1, &["reading the trust rules"]);
    workshop.run("dissect --trust-rules=. os.raw").fails(1, &["expected a regular file"]);
}
