//! File systems that were in use when they were copied: refused where they are verified, noted where they are not.

use ddictl::format::architecture::Architecture;
use ddictl::format::designator::Designator;
use ddictl::format::mounting::MountOption;
use ddictl::format::superblock::Recovery;
use ddictl::format::units::ByteLength;
use ddictl::image::finding::{Level, Rule};
use ddictl::image::places::{MountPlan, MountSettings};
use ddictl::image::plan::Access;
use ddictl::image::survey::{Survey, SurveyOptions};

use crate::corpus::trusted;
use crate::ddi_builder::{Ddi, Protected, READ_ONLY};
use crate::judge::{Judge, policy};
use crate::used_images::{FIXTURES, UsedImage};

fn ext4(name: &str) -> Vec<u8> {
    UsedImage::load(name).read(0, 16 << 20)
}

fn judge() -> Judge {
    Judge::trusting(&[trusted()])
}

#[test]
fn a_verified_file_system_that_needs_recovery_is_refused_by_name() {
    let signed = |data| Ddi::new().protected(&Protected::root(data).signed_by(trusted())).bytes();
    for text in ["@verified-boot", "root=signed:=unused+absent", "*"] {
        judge().plan(&signed(ext4("ext4-used")), &policy(text)).accepted();
        for name in ["ext4-dirty", "ext4-orphan"] {
            let outcome = judge().plan(&signed(ext4(name)), &policy(text));
            let finding = outcome.reason(Rule::VerifiedNeedsRecovery).unwrap();
            assert_eq!(finding.level, Level::Error);
            assert!(finding.message().contains("ext4 with a log to replay"), "{finding}");
        }
    }
    let unsigned = Ddi::new().protected(&Protected::root(ext4("ext4-dirty"))).bytes();
    let outcome = judge().plan(&unsigned, &policy("root=verity"));
    assert!(outcome.reason(Rule::VerifiedNeedsRecovery).is_some(), "{outcome:?}");
    // What is not used is not held against the image.
    judge().plan(&unsigned, &policy("root=unused:root-verity=unused")).accepted();
}

#[test]
fn an_unprotected_one_is_noted_and_its_mount_leaves_the_log_alone() {
    for (name, recovery, attributes, without) in [
        ("ext4-dirty", Recovery::Needed, 0, false),
        ("ext4-dirty", Recovery::Needed, READ_ONLY, true),
        ("ext4-used", Recovery::NotNeeded, READ_ONLY, true),
    ] {
        let image = Ddi::new()
            .with(Designator::Root, "root", ext4(name))
            .edit("root", |part| part.attributes = attributes)
            .bytes();
        let plan = judge().plan_for(&image, &policy("*"), Access::ReadWrite).accepted();
        let mounts = MountPlan::new(&plan.devices, MountSettings::default()).unwrap();
        let leaves_the_log = mounts.mounts[0].options.contains(&MountOption::NoRecovery);
        assert_eq!((plan.devices[0].recovery, leaves_the_log), (recovery, without), "{name}");
        let noted = plan.findings.iter().find(|finding| finding.rule == Rule::NeedsRecovery);
        assert_eq!(noted.map(|finding| finding.level), (recovery == Recovery::Needed).then_some(Level::Note));
    }
}

/// Through the survey, which asks for the log in several rounds, the same comes out as the kernel says.
#[test]
fn the_survey_looks_into_logs() {
    for (name, _) in FIXTURES {
        let image = UsedImage::load(name);
        let options = SurveyOptions::new(Architecture::X86_64);
        let mut survey = Survey::new(ByteLength::new(image.length), options);
        let (mut rounds, mut read) = (0, 0);
        while let wanted = survey.wanted()
            && !wanted.is_empty()
        {
            rounds += 1;
            for extent in wanted {
                let bytes = image.read(extent.start().bytes(), extent.length().in_memory().unwrap());
                read += bytes.len();
                survey.feed(extent.start(), &bytes);
            }
        }
        assert!(rounds <= 7 && read <= 600 << 10, "{name}: {rounds} rounds, {read} bytes");
        let dissection = survey.finish().unwrap();
        let expected =
            if image.mounts && name != "ext4-orphan" { Recovery::NotNeeded } else { Recovery::Needed };
        assert_eq!(dissection.partitions[0].superblocks[0].recovery, expected, "{name}");
        let noted = dissection.findings.iter().any(|finding| finding.rule == Rule::NeedsRecovery);
        assert_eq!(noted, expected == Recovery::Needed, "{name}");
    }
}
