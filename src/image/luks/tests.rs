//! Headers against which something speaks, each by name.

use super::*;
use crate::format::superblock::{Luks1Header, Luks1KeySlot};
use serde_json::{Value, json};

/// Metadata as cryptsetup 2.6 makes it.
fn metadata() -> Value {
    json!({
        "keyslots": {"0": {
            "type": "luks2", "key_size": 64, "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
            "area": {"type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64",
                "key_size": 64},
            "kdf": {"type": "argon2id", "time": 4, "memory": 1_048_576, "cpus": 4, "salt": "AA=="}
        }},
        "tokens": {},
        "segments": {"0": {"type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0",
            "encryption": "aes-xts-plain64", "sector_size": 512}},
        "digests": {"0": {"type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256",
            "iterations": 100_000, "salt": "AA==", "digest": "AA=="}},
        "config": {"json_size": "12288", "keyslots_size": "16744448"}
    })
}

const COPY: usize = 16384;
const PARTITION: ByteLength = ByteLength::new(64 << 20);

/// Both copies of a header with this metadata, with checksums that fit.
fn head(metadata: &Value) -> Vec<u8> {
    let mut bytes = vec![0; 2 * COPY];
    for (copy, magic) in [(0, b"LUKS\xba\xbe"), (COPY, b"SKUL\xba\xbe")] {
        let header = &mut bytes[copy..][..COPY];
        header[..6].copy_from_slice(magic);
        header[6..8].copy_from_slice(&2_u16.to_be_bytes());
        header[8..16].copy_from_slice(&16384_u64.to_be_bytes());
        header[16..24].copy_from_slice(&3_u64.to_be_bytes());
        header[72..78].copy_from_slice(b"sha256");
        header[168..204].copy_from_slice(b"6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c");
        let place = if copy == 0 { 0 } else { 16384_u64 };
        header[256..264].copy_from_slice(&place.to_be_bytes());
        let text = metadata.to_string();
        header[4096..][..text.len()].copy_from_slice(text.as_bytes());
        seal(header);
    }
    bytes
}

fn seal(header: &mut [u8]) {
    use sha2::Digest;
    header[448..512].fill(0);
    let checksum = sha2::Sha256::digest(&*header);
    header[448..480].copy_from_slice(&checksum);
}

fn objections(edit: impl FnOnce(&mut Value)) -> Vec<(Rule, String)> {
    let mut metadata = metadata();
    edit(&mut metadata);
    refusals(&head(&metadata))
}

fn refusals(head: &[u8]) -> Vec<(Rule, String)> {
    let findings = judge(None, head, PARTITION).unwrap_err();
    findings.into_iter().map(|finding| (finding.rule, finding.found)).collect()
}

#[test]
fn a_volume_of_cryptsetup_may_be_opened() {
    let head = head(&metadata());
    assert_eq!(header_length(None, &head[..4096], PARTITION), Ok(ByteLength::of(&head)));
    let volume = judge(None, &head, PARTITION).unwrap();
    assert_eq!((volume.mapping.cipher.as_str(), volume.mapping.offset), ("aes-xts-plain64", 32768));
    assert_eq!((volume.key_slots, volume.integrity), (1, false));
    let area = Extent::new(ByteOffset::new(32768), ByteLength::new(258_048)).unwrap();
    assert_eq!(volume.key_areas, [area]);
}

#[test]
fn a_null_cipher_is_refused_wherever_it_stands() {
    for cipher in
        ["cipher_null-ecb", "null", "capi:ecb(cipher_null)-plain64", "CIPHER_NULL-ecb", "aes-cbc-null"]
    {
        let found = objections(|m| m["segments"]["0"]["encryption"] = cipher.into());
        assert_eq!(found, [(Rule::LuksNullCipher, format!("a null cipher, '{cipher}', in segment 0"))]);
        let found = objections(|m| m["keyslots"]["0"]["area"]["encryption"] = cipher.into());
        assert_eq!(found, [(Rule::LuksNullCipher, "a null cipher in key slot 0".to_owned())]);
    }
    // Without one it is no better.
    let found = objections(|m| drop(m["segments"]["0"].as_object_mut().unwrap().remove("encryption")));
    assert_eq!(found[0].0, Rule::LuksNullCipher);
    let found =
        objections(|m| drop(m["keyslots"]["0"]["area"].as_object_mut().unwrap().remove("encryption")));
    assert_eq!(found[0].0, Rule::LuksNullCipher);
    // An authentication that is none counts for nothing.
    let found = objections(|m| m["segments"]["0"]["integrity"] = json!({"type": "hmac(digest_null)"}));
    assert_eq!(found[0].0, Rule::LuksUnsupported);
}

#[test]
fn a_segment_that_is_not_encrypted_is_refused() {
    for kind in ["linear", "hw-opal", "hw-opal-crypt", "x"] {
        let found = objections(|m| m["segments"]["0"]["type"] = kind.into());
        let expected = format!("a null cipher: segment 0 is of type '{kind}'");
        assert_eq!(found, [(Rule::LuksNullCipher, expected)]);
    }
    let found = objections(|m| m["segments"]["1"] = json!({"type": "linear", "offset": "0", "size": "512"}));
    assert_eq!(found[0].0, Rule::LuksNullCipher);
}

#[test]
fn reencryption_that_was_not_finished_is_refused() {
    let unsupported = |found: Vec<(Rule, String)>, words: &str| {
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, Rule::LuksUnsupported);
        assert!(found[0].1.contains(words), "{found:?}");
    };
    let second = |m: &mut Value| m["segments"]["1"] = m["segments"]["0"].clone();
    unsupported(objections(second), "2 segments");
    let flagged = |m: &mut Value| m["segments"]["0"]["flags"] = json!(["backup-final"]);
    unsupported(objections(flagged), "backup-final");
    for requirement in ["online-reencrypt", "online-reencrypt-v2", "offline-reencrypt", "opal", "of-tomorrow"]
    {
        let required = |m: &mut Value| m["config"]["requirements"] = json!({"mandatory": [requirement]});
        unsupported(objections(required), requirement);
    }
    let slot = |m: &mut Value| m["keyslots"]["0"]["type"] = "reencrypt".into();
    unsupported(objections(slot), "reencrypt");
}

#[test]
fn a_token_that_loads_a_plug_in_is_refused() {
    let token =
        |kind: &'static str| objections(move |m| m["tokens"]["0"] = json!({"type": kind, "keyslots": []}));
    assert_eq!(token("systemd-tpm2"), [(Rule::LuksExternalToken, "token 'systemd-tpm2'".to_owned())]);
    assert_eq!(token("../../x")[0].0, Rule::LuksExternalToken);
    let mut built_in = metadata();
    built_in["tokens"]["0"] = json!({"type": "luks2-keyring", "keyslots": ["0"], "key_description": "x"});
    assert!(judge(None, &head(&built_in), PARTITION).is_ok());
}

#[test]
fn costs_that_nobody_needs_are_refused() {
    for (key, value, words) in [
        ("memory", 4_294_967_295_u64, "4294967295 KiB"),
        ("time", 1_000_000_000, "1000000000 passes"),
        ("time", 257, "257 passes over 1048576 KiB"),
        ("cpus", 1_000_000, "1000000 threads"),
    ] {
        let found = objections(|m| m["keyslots"]["0"]["kdf"][key] = value.into());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, Rule::LuksMemory);
        assert!(found[0].1.contains(words), "{found:?}");
    }
    let many = 4_000_000_000_u64;
    let found = objections(|m| m["keyslots"]["0"]["kdf"] = json!({"type": "pbkdf2", "iterations": many}));
    assert_eq!(found, [(Rule::LuksMemory, "4000000000 iterations for key slot 0".to_owned())]);
    let found = objections(|m| m["digests"]["0"]["iterations"] = many.into());
    assert_eq!(found, [(Rule::LuksMemory, "4000000000 iterations for digest 0".to_owned())]);
}

#[test]
fn costs_that_only_all_key_slots_together_have_are_refused() {
    let with_slots = |kdf: Value, digest: u64| {
        let mut metadata = metadata();
        let mut slot = metadata["keyslots"]["0"].clone();
        slot["kdf"] = kdf;
        metadata["keyslots"] = (0..32).map(|number| (number.to_string(), slot.clone())).collect();
        metadata["digests"]["0"]["iterations"] = digest.into();
        judge(None, &head(&metadata), PARTITION).map(drop).map_err(|findings| {
            assert_eq!(findings.len(), 1, "{findings:?}");
            (findings[0].rule, findings[0].found.clone())
        })
    };
    let argon2 = |time: u64| json!({"type": "argon2id", "time": time, "memory": 1_048_576, "cpus": 4});
    // As cryptsetup makes them, in as many slots as there can be.
    assert_eq!(with_slots(argon2(4), 1_000_000), Ok(()));
    assert_eq!(with_slots(json!({"type": "pbkdf2", "iterations": 8_000_000}), 1_000_000), Ok(()));
    let found = with_slots(argon2(9), 1000).unwrap_err();
    assert_eq!(found, (Rule::LuksMemory, "301989888 KiB in 32 key slots".to_owned()));
    let pbkdf2 = json!({"type": "pbkdf2", "iterations": 100_000_000});
    let found = with_slots(pbkdf2, 1000).unwrap_err();
    assert_eq!(found.1, "3200032000 iterations in 32 key slots and their digests");
    let found = with_slots(argon2(1), 100_000_000).unwrap_err();
    assert_eq!(found.1, "3200000000 iterations in 32 key slots and their digests");
}

#[test]
fn a_second_copy_that_is_not_the_first_is_refused() {
    type Edit = fn(&mut [u8]);
    let edits: [(&str, Edit); 7] = [
        ("another magic", |second| second[0] = b'L'),
        ("another sequence number", |second| second[23] += 1),
        ("another UUID", |second| second[168] = b'7'),
        ("another checksum algorithm", |second| second[72..78].copy_from_slice(b"sha512")),
        ("one for another place", |second| second[262] = 0x80),
        ("other metadata", |second| second[5000] = b' '),
        ("another checksum than its bytes have", |second| second[448] ^= 1),
    ];
    for (words, edit) in edits {
        let mut bytes = head(&metadata());
        edit(&mut bytes[COPY..]);
        if !words.contains("checksum than") {
            seal(&mut bytes[COPY..]);
        }
        let found = refusals(&bytes);
        assert_eq!(found[0].0, Rule::LuksInvalid);
        assert!(found[0].1.contains(words), "{words}: {found:?}");
    }
    let mut bytes = head(&metadata());
    bytes[5000] = b' ';
    assert!(refusals(&bytes)[0].1.contains("checksum"));
}

#[test]
fn key_slots_lie_between_the_header_and_the_data() {
    for (offset, size) in
        [("0", "4096"), ("16384", "32768"), ("16777216", "512"), ("32768", "18446744073709518848")]
    {
        let found = objections(|m| {
            m["keyslots"]["0"]["area"]["offset"] = offset.into();
            m["keyslots"]["0"]["area"]["size"] = size.into();
        });
        assert_eq!(found[0].0, Rule::LuksInvalid, "{offset} {size}: {found:?}");
    }
    for offset in ["0", "16384", "67108864"] {
        let found = objections(|m| {
            m["keyslots"] = json!({});
            m["segments"]["0"]["offset"] = offset.into();
        });
        assert_eq!(found[0].0, Rule::LuksInvalid, "{offset}: {found:?}");
    }
}

#[test]
fn key_slots_that_are_ignored_or_not_bound_are_not_counted() {
    let count = |edit: fn(&mut Value)| {
        let mut metadata = metadata();
        edit(&mut metadata);
        judge(None, &head(&metadata), PARTITION).unwrap().key_slots
    };
    assert_eq!(count(|_| {}), 1);
    assert_eq!(count(|m| m["keyslots"]["0"]["priority"] = 0.into()), 0);
    assert_eq!(count(|m| m["keyslots"]["0"]["priority"] = 2.into()), 1);
    assert_eq!(count(|m| m["digests"]["0"]["keyslots"] = json!([])), 0);
    assert_eq!(count(|m| m["digests"]["0"]["segments"] = json!([])), 0);
}

fn luks1() -> Luks1Header {
    Luks1Header {
        cipher_name: "aes".to_owned(),
        cipher_mode: "xts-plain64".to_owned(),
        hash: "sha256".to_owned(),
        key_bytes: 64,
        payload: ByteOffset::new(2 << 20),
        uuid: "6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c".to_owned(),
        digest_iterations: 1000,
        key_slots: vec![Luks1KeySlot {
            number: 0,
            iterations: 1000,
            material: Extent::new(ByteOffset::new(4096), ByteLength::new(256_000)).unwrap(),
        }],
    }
}

#[test]
fn version_1_is_judged_by_the_same_measures() {
    let rules = |header: Luks1Header| -> Vec<Rule> {
        findings(None, &LuksHeader::Luks1(header), None).iter().map(|finding| finding.rule).collect()
    };
    assert_eq!(rules(luks1()), []);
    for (name, mode) in [("cipher_null", "ecb"), ("null", "x"), ("aes", "cbc-null")] {
        let header = Luks1Header { cipher_name: name.to_owned(), cipher_mode: mode.to_owned(), ..luks1() };
        assert_eq!(rules(header), [Rule::LuksNullCipher], "{name}-{mode}");
    }
    assert_eq!(rules(Luks1Header { digest_iterations: u32::MAX, ..luks1() }), [Rule::LuksMemory]);
    let mut header = luks1();
    header.key_slots[0].iterations = u32::MAX;
    assert_eq!(rules(header), [Rule::LuksMemory]);
    let mut header = Luks1Header { digest_iterations: 60_000_000, ..luks1() };
    header.key_slots = vec![header.key_slots[0]; 8];
    assert_eq!(rules(header), [Rule::LuksMemory]);
}

#[test]
fn what_is_no_header_is_not_opened() {
    for bytes in [vec![0; 4096], b"LUKS\xba\xbe\x00\x03".to_vec(), Vec::new()] {
        assert_eq!(header_length(None, &bytes, PARTITION).unwrap_err().rule, Rule::LuksInvalid);
        assert_eq!(refusals(&bytes)[0].0, Rule::LuksInvalid);
    }
}
