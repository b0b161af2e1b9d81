use proptest::prelude::*;

use super::super::HashTreeGeometry;
use super::*;

const SHA256: &str = "5bcb6e4d14882f9597707e6fef19c94078a6ddd77f99adb086ed6a5939aec959";
const SALT: &str = "7c9aa61099a23b62f4f026ca59bd76a03b6924aa1d28f2281f3d793fa0b33486";

/// What `dmsetup table` showed of a device that veritysetup 2.6.1 had opened on Linux 7.2.7, without its place.
fn real() -> String {
    format!("1 7:0 7:1 4096 4096 1024 1 sha256 {SHA256} {SALT}")
}

fn table(options: &str) -> Result<VerityTable, VerityTableError> {
    format!("{}{options}", real()).parse()
}

#[test]
fn what_the_kernel_reports_is_read_and_written_alike() {
    let parsed = table("").unwrap();
    assert_eq!(parsed.data_device, MajorMinor { major: 7, minor: 0 });
    assert_eq!(parsed.hash_device, MajorMinor { major: 7, minor: 1 });
    assert_eq!((parsed.data_blocks, parsed.hash_start), (1024, 1));
    assert_eq!(parsed.root_hash.to_string(), SHA256);
    assert_eq!(parsed.salt.to_string(), SALT);
    assert_eq!(parsed.sectors(), Some(8192));
    assert_eq!(parsed.to_string(), real());
}

#[test]
fn options_are_read_in_any_order_and_written_in_one() {
    let both = table(" 3 root_hash_sig_key_desc ddictl:7-0 restart_on_corruption").unwrap();
    assert_eq!(both.on_corruption, OnCorruption::Restart);
    assert_eq!(both.signature_key, Some(KeyDescription::of_process(7, 0)));
    assert_eq!(
        both.to_string(),
        format!("{} 3 restart_on_corruption root_hash_sig_key_desc ddictl:7-0", real())
    );
    assert_eq!(table(" 1 panic_on_corruption").unwrap().on_corruption, OnCorruption::Panic);
    assert_eq!(table(" 0").unwrap(), table("").unwrap());
}

#[test]
fn an_option_that_is_not_ours_makes_it_another_table() {
    for option in [
        "ignore_corruption",
        "ignore_zero_blocks",
        "check_at_most_once",
        "try_verify_in_tasklet",
        "restart_on_error",
        "root_hash_sig_key_desc_",
        "Restart_on_corruption",
    ] {
        let expected = VerityTableError::Option { found: option.to_owned() };
        assert_eq!(table(&format!(" 1 {option}")), Err(expected));
    }
    for twice in ["panic_on_corruption panic_on_corruption", "restart_on_corruption panic_on_corruption"] {
        let error = table(&format!(" 2 {twice}")).unwrap_err();
        assert_eq!(error, VerityTableError::Option { found: "panic_on_corruption".to_owned() });
    }
    let twice = "root_hash_sig_key_desc a root_hash_sig_key_desc b";
    assert!(matches!(table(&format!(" 4 {twice}")), Err(VerityTableError::Option { .. })));
}

#[test]
fn every_word_that_is_not_in_its_place_is_refused_by_name() {
    let words: Vec<String> = real().split(' ').map(str::to_owned).collect();
    let long_salt = "00".repeat(257);
    let cases: [(usize, &str, &str); 22] = [
        (0, "0", "version"),
        (0, "+1", "version"),
        (1, "/dev/loop0", "data device"),
        (1, "7:-1", "data device"),
        (1, ":", "data device"),
        (2, "7:4294967296", "hash device"),
        (2, "7", "hash device"),
        (3, "8192", "data block size"),
        (3, "", "data block size"),
        (4, "4095", "hash block size"),
        (5, "-1", "number of data blocks"),
        (5, "18446744073709551616", "number of data blocks"),
        (6, "0x1", "first hash block"),
        (7, "crc32", "hash algorithm"),
        (7, "sha512", "root hash"),
        (7, "SHA256", "hash algorithm"),
        (8, &SHA256.to_uppercase(), "root hash"),
        (8, &SHA256[2..], "root hash"),
        (8, "-", "root hash"),
        (9, "AB", "salt"),
        (9, "a", "salt"),
        (9, &long_salt, "salt"),
    ];
    for (place, word, field) in cases {
        let mut changed = words.clone();
        word.clone_into(&mut changed[place]);
        // An empty word is no word: the next one stands in its place.
        let found = if word.is_empty() { words[place + 1].as_str() } else { word };
        match changed.join(" ").parse::<VerityTable>() {
            Err(VerityTableError::Field { field: named, found: shown, .. }) => {
                let expected = if field == "root hash" && place == 7 { SHA256 } else { found };
                if !word.is_empty() {
                    assert_eq!((named, shown.as_str()), (field, expected), "{word:?}");
                }
            }
            other => panic!("{word:?}: {other:?}"),
        }
    }
    for length in 0..words.len() {
        let error = words[..length].join(" ").parse::<VerityTable>().unwrap_err();
        assert!(matches!(error, VerityTableError::Missing { .. }), "{length} words: {error}");
    }
}

#[test]
fn surplus_and_missing_words_are_counted() {
    use VerityTableError as E;
    assert_eq!(table(" 1"), Err(E::OptionCount { expected: 1, found: 0 }));
    assert_eq!(table(" 0 panic_on_corruption"), Err(E::OptionCount { expected: 0, found: 1 }));
    assert_eq!(
        table(" 18446744073709551615 panic_on_corruption"),
        Err(E::OptionCount { expected: u64::MAX, found: 1 })
    );
    assert!(matches!(table(" x"), Err(E::Field { field: "number of option words", .. })));
    assert_eq!(table(" 1 root_hash_sig_key_desc"), Err(E::Missing { field: "key description" }));
    assert_eq!(table(&" ".repeat(4096)), Err(E::TooLong { found: real().len() + 4096 }));
}

#[test]
fn a_key_description_is_one_word() {
    for text in ["", "a b", "a\\b", "a\tb", "gr\u{fc}n", &"x".repeat(129)] {
        assert_eq!(KeyDescription::new(text), None, "{text:?}");
    }
    for text in ["cryptsetup:6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c-root", &"x".repeat(128)] {
        assert_eq!(KeyDescription::new(text).unwrap().as_str(), text);
    }
    let longest = KeyDescription::of_process(u32::MAX, u64::MAX);
    assert_eq!(KeyDescription::new(longest.as_str()), Some(longest));
}

#[test]
fn no_device_is_empty_or_larger_than_any() {
    let mut sized = table("").unwrap();
    for (blocks, sectors) in [
        (1, Some(8)),
        (0, None),
        (u64::MAX, None),
        (u64::MAX / 4096, None),
        (i64::MAX.unsigned_abs() / 4096, Some(i64::MAX.unsigned_abs() / 4096 * 8)),
    ] {
        sized.data_blocks = blocks;
        assert_eq!(sized.sectors(), sectors, "{blocks}");
    }
}

#[test]
fn the_table_of_a_superblock_begins_where_its_tree_does() {
    let device = MajorMinor { major: 7, minor: 0 };
    for bytes in [512, 1024, 4096] {
        let superblock = VeritySuperblock {
            uuid: crate::format::guid::Guid::from_bytes([1; 16]),
            algorithm: HashAlgorithm::Sha256,
            data_block_size: VerityBlockSize::DEFAULT,
            hash_block_size: VerityBlockSize::new(bytes).unwrap(),
            data_blocks: 1000,
            salt: Salt::new(b"salt").unwrap(),
        };
        let table = VerityTable::of(&superblock, SHA256.parse().unwrap(), device, device);
        let geometry = HashTreeGeometry::new(&superblock).unwrap();
        assert_eq!(table.hash_start, geometry.first_hash_block());
        assert_eq!(table.size(), Some(geometry.data_length()));
    }
}

#[test]
fn the_actions_on_corruption_have_their_words() {
    for action in OnCorruption::ALL {
        assert_eq!(action.to_string().parse(), Ok(action));
    }
    for text in ["", "EIO", "ignore", "restart_on_corruption"] {
        assert_eq!(text.parse::<OnCorruption>(), Err(OnCorruptionError { found: text.to_owned() }));
    }
}

#[test]
fn the_letter_of_the_status_decides() {
    for (text, expected) in [
        ("V", VerityHealth::Verified),
        ("C", VerityHealth::Corrupted),
        ("V -", VerityHealth::Verified),
        ("C 17", VerityHealth::Corrupted),
    ] {
        assert_eq!(text.parse(), Ok(expected));
    }
    for text in ["", "v", "VC", "X"] {
        assert_eq!(text.parse::<VerityHealth>(), Err(VerityHealthError { found: text.to_owned() }));
    }
    let long = "x".repeat(1000).parse::<VerityHealth>().unwrap_err();
    assert_eq!(long.found.len(), 32);
}

prop_compose! {
    fn any_table()(
        devices in any::<[u32; 4]>(),
        sizes in proptest::array::uniform2(9_u32..=12),
        data_blocks in any::<u64>(),
        hash_start in any::<u64>(),
        long in any::<bool>(),
        bytes in any::<[u8; 32]>(),
        salt in proptest::collection::vec(any::<u8>(), 0..=256),
        on_corruption in proptest::sample::select(&OnCorruption::ALL),
        key in proptest::option::of("[!-\\[\\]-~]{1,128}"),
    ) -> VerityTable {
        let [a, b, c, d] = devices;
        let hash = if long { [bytes, bytes].concat() } else { bytes.to_vec() };
        VerityTable {
            data_device: MajorMinor { major: a, minor: b },
            hash_device: MajorMinor { major: c, minor: d },
            data_block_size: VerityBlockSize::new(1 << sizes[0]).unwrap(),
            hash_block_size: VerityBlockSize::new(1 << sizes[1]).unwrap(),
            data_blocks,
            hash_start,
            root_hash: RootHash::from_bytes(&hash).unwrap(),
            salt: Salt::new(&salt).unwrap(),
            on_corruption,
            signature_key: key.map(|key| KeyDescription::new(&key).unwrap()),
        }
    }
}

proptest! {
    #[test]
    fn every_table_is_read_as_it_was_written(table in any_table()) {
        let text = table.to_string();
        prop_assert!(text.len() < MAXIMUM_LENGTH / 2, "{} bytes", text.len());
        prop_assert_eq!(text.parse(), Ok(table));
    }

    #[test]
    fn any_text_is_a_table_or_a_named_error(text in "[0-9a-f:_ s-]{0,200}") {
        if let Ok(table) = text.parse::<VerityTable>() {
            prop_assert_eq!(table.to_string().parse(), Ok(table));
        }
    }
}
