//! The corpora of the fuzz targets, replayed without a fuzzer: what was found once is never found again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/bodies.rs"]
pub(crate) mod bodies;

/// How many inputs one corpus may have, and how many bytes in all: what is replayed must not weigh down a clone.
const MOST_INPUTS: usize = 60;
const MOST_BYTES: usize = 300 << 10;

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The names of all entries of a directory.
fn entries(directory: &Path) -> BTreeSet<String> {
    let found = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Every input of a target's corpus; the one that fails is named.
fn replay(target: &str) {
    let (_, body) = bodies::TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    let directory = fuzz_directory().join("corpus").join(target);
    let inputs = entries(&directory);
    let mut bytes = 0;
    for name in &inputs {
        let input = fs::read(directory.join(name)).unwrap();
        bytes += input.len();
        let outcome = std::panic::catch_unwind(|| body(&input));
        assert!(outcome.is_ok(), "tests/fuzz/corpus/{target}/{name}");
    }
    body(&[]);
    assert!((3..=MOST_INPUTS).contains(&inputs.len()), "{} inputs", inputs.len());
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
    };
}

replays! { boot_entry checksum_manifest command_line decoders fat gpt http_headers ignore_list names openpgp_keyring openpgp_signature pkcs7 policy qcow2 superblocks survey tar trust_rules uki verity_signature verity_superblock verity_table }

#[test]
fn every_target_is_replayed_and_every_corpus_has_its_target() {
    let targets: BTreeSet<String> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(REPLAYED.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), targets);
    assert_eq!(entries(&fuzz_directory().join("corpus")), targets);
    let manifest = fs::read_to_string(fuzz_directory().join("Cargo.toml")).unwrap();
    for target in &targets {
        assert!(
            manifest.contains(&format!("\n[[bin]]\nname = \"{target}\"\npath = \"targets/{target}.rs\"\n"))
        );
        let program = fs::read_to_string(fuzz_directory().join(format!("targets/{target}.rs"))).unwrap();
        assert!(program.contains(&format!("ddictl_fuzz::{target}(input)")), "{program}");
    }
}

/// An invariant about images that are refused at the door says nothing about what lies behind it.
#[test]
fn the_seeds_reach_what_they_are_for() {
    let seed = |target, name| fs::read(fuzz_directory().join("corpus").join(target).join(name)).unwrap();
    // Three policies by three sets of trust anchors: '*' takes whatever is sound, the others what is authentic.
    for (name, plans) in [
        ("seed-root", 5),
        ("seed-root-4096", 5),
        ("seed-usr", 5),
        ("seed-all", 5),
        ("seed-unsigned", 3),
        ("seed-unsigned-given", 9),
        ("seed-download", 9),
        ("seed-bare-squashfs", 3),
        ("seed-bare-download", 9),
        ("seed-bare-beside", 3),
        ("seed-bare-beside-signed", 5),
        ("seed-bare-beside-given", 9),
        ("seed-bare-beside-download", 9),
        ("seed-bare-beside-changed", 0),
        ("seed-beside", 0),
        ("seed-unsigned-beside", 5),
        ("seed-luks-json", 0),
        ("seed-withheld", 0),
    ] {
        assert_eq!(bodies::plans(&seed("survey", name)), plans, "{name}");
    }
    for (name, files) in [
        ("seed-fat12", 7),
        ("seed-fat16", 7),
        ("seed-fat32", 7),
        ("seed-fat32-4096", 3),
        ("seed-loop", 2),
        ("seed-cross-linked", 2),
    ] {
        assert_eq!(bodies::fat_files(&seed("fat", name)), files, "{name}");
    }
    let disk = bodies::disk_of(&seed("qcow2", "seed-plain")).unwrap();
    assert!(disk.starts_with(b"1\n2\n3\n"));
    for name in ["seed-version-2", "seed-deflate", "seed-zstd", "seed-extended"] {
        assert!(bodies::disk_of(&seed("qcow2", name)).is_some_and(|found| found == disk), "{name}");
    }
    for (name, valid) in [
        ("seed-plain-root", 1),
        ("seed-plain-usr", 1),
        ("seed-curve", 1),
        ("seed-attributes", 1),
        ("seed-attributes-rsa-sha512", 1),
        ("seed-two-signers", 1),
        ("seed-right-and-wrong", 0),
        ("seed-stranger", 0),
        ("seed-stranger-rsa", 0),
        ("seed-weak-digest", 0),
    ] {
        assert_eq!(bodies::valid_signatures(&seed("pkcs7", name)), valid, "{name}");
    }
    for (name, valid) in [
        ("seed-rsa", true),
        ("seed-ed25519", true),
        ("seed-ed25519-armoured", true),
        ("seed-p256", true),
        ("seed-subkey", true),
        ("seed-two", true),
        ("seed-two-bad", false),
        ("seed-critical-notation", false),
        ("seed-revoked", false),
        ("seed-weak-sha1", false),
        ("seed-text", false),
    ] {
        assert_eq!(bodies::is_valid_openpgp_signature(&seed("openpgp_signature", name)), valid, "{name}");
    }
    for (name, valid) in [
        ("seed-rsa", 1),
        ("seed-several", 3),
        ("seed-no-back-signature", 0),
        ("seed-expired", 0),
        ("seed-keybox", 0),
    ] {
        assert_eq!(bodies::valid_openpgp_signers(&seed("openpgp_keyring", name)), valid, "{name}");
    }
}
