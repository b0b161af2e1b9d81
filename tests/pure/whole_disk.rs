//! `attach --whole-disk`, as far as it is decided before anything is made: only a word that means it allows it.

use ddictl::format::designator::Designator;
use ddictl::image::plan::Access;
use ddictl::image::whole_disk::{WholeDiskPlan, WholeDiskRefusal};
use ddictl::operation::cancel::Cancel;
use ddictl::operation::error::OperationError;
use ddictl::operation::trust_store::{TrustSettings, TrustStore};
use ddictl::operation::whole_disk::{WholeDiskRequest, plan_whole_disk};

use crate::corpus::trusted;
use crate::ddi_builder::{Ddi, READ_ONLY, fixture, squashfs, vfat};
use crate::judge::{Judge, policy};

fn plain() -> Ddi {
    Ddi::new().with(Designator::Esp, "esp", vfat()).with(Designator::Var, "var", fixture("ext4", 16 << 20))
}

fn plan(image: &[u8], text: Option<&str>, access: Access) -> Result<WholeDiskPlan, WholeDiskRefusal> {
    let (dissection, _) = Judge::trusting(&[trusted()]).examine(image).unwrap();
    WholeDiskPlan::new(&dissection, text.map(policy).as_ref(), access)
}

#[test]
fn without_a_word_that_means_it_there_is_no_whole_disk() {
    let image = plain().bytes();
    assert_eq!(plan(&image, None, Access::ReadOnly), Err(WholeDiskRefusal::NotSaid));
    for text in ["@verified-boot", "@verified-extension"] {
        let refused = plan(&image, Some(text), Access::ReadOnly).unwrap_err();
        assert_eq!(refused, WholeDiskRefusal::DemandsAuthentication { policy: text.to_owned() });
        assert!(refused.to_string().contains("nothing is verified") && refused.to_string().contains("'*'"));
    }
    for text in ["root=signed", "-", "~", "esp=unused+absent:=open", "=open+read-only-on"] {
        let refused = plan(&image, Some(text), Access::ReadOnly);
        assert!(matches!(refused, Err(WholeDiskRefusal::Restricts { .. })), "{text}: {refused:?}");
    }
    for text in ["*", "=open+unused+absent"] {
        assert!(plan(&image, Some(text), Access::ReadOnly).is_ok(), "{text}");
    }
}

#[test]
fn the_refusal_comes_before_the_image_is_read_and_is_a_usage_error() {
    let request = |text: Option<&str>| WholeDiskRequest {
        image: "/nonexistent/image.raw".into(),
        reference: None,
        policy: text.map(policy),
        access: Access::ReadWrite,
    };
    let trust = TrustStore::load(TrustSettings::default()).unwrap();
    for text in [None, Some("@verified-boot"), Some("root=signed")] {
        let error = plan_whole_disk(&request(text), &trust, &Cancel::never()).unwrap_err();
        assert!(
            matches!(&error, OperationError::Usage(said) if said.contains("--image-policy='*'")),
            "{error}"
        );
    }
    let error = plan_whole_disk(&request(Some("*")), &trust, &Cancel::never()).unwrap_err();
    assert!(matches!(error, OperationError::System { .. }), "{error}");
}

#[test]
fn every_partition_is_there_with_its_number_and_the_image_says_whether_it_may_be_written() {
    let writable = plan(&plain().bytes(), Some("*"), Access::ReadWrite).unwrap();
    assert_eq!(writable.read_only, None);
    let numbers: Vec<u32> = writable.partitions.iter().map(|(number, _)| number.get()).collect();
    assert_eq!(numbers, [1, 2]);
    for (ddi, access, why) in [
        (plain(), Access::ReadOnly, "nobody asked"),
        (
            plain().edit("esp", |part| part.attributes = READ_ONLY),
            Access::ReadWrite,
            "partition 1 has the read-only",
        ),
        (plain().with(Designator::Home, "home", squashfs()), Access::ReadWrite, "partition 3 holds squashfs"),
        (
            Ddi::signed(trusted()).edit("root", |part| part.attributes = 0),
            Access::ReadWrite,
            "partition 2 holds squashfs",
        ),
        (
            Ddi::signed(trusted()).without("root").edit("root-verity", |part| part.attributes = 0),
            Access::ReadWrite,
            "partition 2 belongs to dm-verity",
        ),
    ] {
        let planned = plan(&ddi.bytes(), Some("*"), access).unwrap();
        assert!(planned.read_only.as_ref().is_some_and(|found| found.contains(why)), "{why}: {planned:?}");
    }
}

#[test]
fn the_disk_ends_with_its_last_whole_sector() {
    for sector in [512, 4096] {
        let mut image = plain().sector_size(sector).bytes();
        let whole = u64::try_from(image.len()).unwrap();
        image.extend_from_slice(&[0; 100]);
        // The backup table is where the last sector is.
        let planned = plan(&image, Some("*"), Access::ReadOnly).unwrap();
        assert_eq!((planned.extent.start().bytes(), planned.extent.length().bytes()), (0, whole));
        assert_eq!(usize::try_from(planned.sector_size.bytes()).unwrap(), sector);
    }
}
