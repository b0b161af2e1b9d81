//! Boots that have to stop: what is wrong with each, and the words that say so on the console. The same images and
//! command lines are given to systemd 262 alone by `tests/boots/table`.

use std::fs;

use crate::images;
use crate::laboratory::Guest;
use crate::laboratory::SERVER;

/// The Debian release of the initrds that refuse.
pub(crate) const SUITE: &str = "trixie";

/// Something that must not be booted.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// The name of the test.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// Puts what is served and the command line into place.
    pub prepare: fn(Guest) -> Guest,
    /// What stands on the console.
    pub reasons: &'static [&'static str],
}

/// The command line of the announcement.
pub(crate) const SEED: &str = "rd.systemd.pull=raw,machine,verify=no,blockdev:image:http://127.0.0.1:8081/image.raw \
    root=/dev/disk/by-loop-ref/image.raw-part2";

/// All of them.
pub(crate) const REFUSALS: &[Refusal] = &[
    Refusal {
        name: "an_image_signed_by_a_stranger",
        title: "signed with a certificate that is not trusted",
        prepare: |guest| {
            guest.serve("image.raw", images::by_stranger());
            guest.words(SEED)
        },
        reasons: &["image.raw", "signature"],
    },
    Refusal {
        name: "an_unsigned_image",
        title: "not signed",
        prepare: |guest| {
            guest.serve("image.raw", images::unsigned());
            guest.words(SEED)
        },
        reasons: &["image.raw", "sign"],
    },
    Refusal {
        name: "a_tar_that_nothing_authenticates",
        title: "a tar that nothing authenticates",
        prepare: |guest| {
            guest.serve("system.tar.zst", images::archived());
            guest.words(&format!(
                "rd.systemd.pull=tar,machine,verify=no:system:{SERVER}/system.tar.zst root=bind:/run/machines/system"
            ))
        },
        reasons: &["system.tar.zst"],
    },
    Refusal {
        name: "partitions_in_another_order",
        title: "another, unsigned root in the place of the partition that is named",
        prepare: |guest| {
            guest.serve("image.raw", images::reordered());
            guest.words(SEED)
        },
        reasons: &["DDI0507", "expected partition 2 to be the root partition, found partition 5"],
    },
    Refusal {
        name: "a_revoked_root_hash",
        title: "signed and trusted, but its root hash revoked in `trust.d`",
        prepare: |guest| {
            guest.serve("image.raw", images::signed());
            let rule =
                format!("revoke-root-hash = {} \"CVE-2026-1234\"\n", images::root_hash(images::signed()));
            guest.file("usr/lib/ddictl/trust.d/revoked.conf", rule.as_bytes());
            guest.words(SEED)
        },
        reasons: &["image.raw", "CVE-2026-1234"],
    },
    Refusal {
        name: "the_generator_of_systemd_unmasked",
        title: "nothing wrong, and systemd's own generator beside ddictl's",
        prepare: |guest| {
            guest.serve("image.raw", images::signed());
            guest.with_both_generators().words(SEED)
        },
        reasons: &["systemd-import-generator", "/dev/null"],
    },
    Refusal {
        name: "a_flipped_bit",
        title: "one bit of the root flipped",
        prepare: |guest| {
            guest.serve("image.raw", images::flipped());
            guest.words(SEED)
        },
        reasons: &["image.raw", "hash"],
    },
    Refusal {
        name: "an_ext4_as_esp",
        title: "an ext4 in the place of the ESP's vfat",
        prepare: |guest| {
            guest.serve("image.raw", images::with_ext4_esp());
            // Without this an ESP is no part of what is attached, whatever it has.
            guest.words(SEED).words("rd.systemd.image_policy=root=signed:esp=unprotected:=unused+absent")
        },
        reasons: &["image.raw", "vfat"],
    },
    Refusal {
        name: "a_wrong_checksum",
        title: "another SHA-256 than `SHA256SUMS` has, `verify=checksum`",
        prepare: |guest| {
            guest.serve("image.raw", images::signed());
            let sums = format!("{}  image.raw\n", "0".repeat(64));
            fs::write(guest.served().join("SHA256SUMS"), sums).unwrap();
            guest.words(&SEED.replace("verify=no", "verify=checksum"))
        },
        reasons: &["image.raw", "another download than expected: expected sha256 '0000"],
    },
    Refusal {
        name: "no_server",
        title: "the server is down",
        prepare: |guest| guest.without_server().words(SEED),
        reasons: &["fetching 'http://127.0.0.1:8081/", "onnection refused"],
    },
    Refusal {
        name: "an_image_too_large_for_memory",
        title: "3 GiB, and 1 GiB of memory",
        prepare: |guest| {
            guest.serve("image.raw", images::huge());
            guest.words(SEED)
        },
        reasons: &["image.raw", "needs 3222", "can be had"],
    },
    Refusal {
        name: "a_malformed_expression",
        title: "a malformed expression (`blokdev`)",
        prepare: |guest| {
            guest.serve("image.raw", images::signed());
            guest.words(&SEED.replace("blockdev", "blokdev"))
        },
        reasons: &["blokdev"],
    },
];
