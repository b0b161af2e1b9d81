use super::*;

/// Blocks that begin with their number, so that no two are the same.
fn data(blocks: u64, block_size: u32) -> Vec<u8> {
    let block_size = usize::try_from(block_size).unwrap();
    let mut data = Vec::new();
    for block in 0..blocks {
        data.extend_from_slice(&block.to_le_bytes());
        let filler = block.to_le_bytes()[0].wrapping_mul(7).wrapping_add(13);
        data.resize(data.len() + block_size - 8, filler);
    }
    data
}

fn salt(length: usize) -> Vec<u8> {
    (0..=255_u8).map(|byte| byte.wrapping_mul(11).wrapping_add(3)).take(length).collect()
}

fn parameters(
    algorithm: HashAlgorithm,
    data_block_size: u32,
    hash_block_size: u32,
    data_blocks: u64,
) -> HashTreeParameters {
    HashTreeParameters { algorithm, data_block_size, hash_block_size, data_blocks, salt: salt(32) }
}

fn verifier(parameters: &HashTreeParameters) -> HashTreeVerifier {
    HashTreeVerifier::new(parameters.clone()).unwrap()
}

fn fed(parameters: &HashTreeParameters, data: &[u8]) -> HashTreeVerifier {
    let verifier = verifier(parameters);
    verifier.feed(0, data).unwrap();
    verifier
}

/// 300 blocks of 512 bytes under a tree of two levels.
fn small() -> (HashTreeParameters, Vec<u8>, Vec<u8>, RootHash) {
    let parameters = parameters(HashAlgorithm::Sha256, 512, 4096, 300);
    let data = data(300, 512);
    let (tree, root_hash) = fed(&parameters, &data).into_tree().unwrap();
    (parameters, data, tree, root_hash)
}

#[test]
fn root_hashes_are_those_that_veritysetup_computes() {
    let rows = [
        (
            HashAlgorithm::Sha256,
            4096,
            4096,
            1,
            0,
            "95abc12a78ea8b5c45389c25f5ce599d59e1616d3aacee3dcf6562c2793b7614",
        ),
        (
            HashAlgorithm::Sha256,
            4096,
            4096,
            2,
            32,
            "20a31d027e57961db84320a4579fa540f3360d8a556ed91ec207ecb9831459c4",
        ),
        (
            HashAlgorithm::Sha256,
            4096,
            4096,
            128,
            32,
            "5925c1061c178171a1881c7a448227c200a32905ca4778d9d82785cd45ddb25f",
        ),
        (
            HashAlgorithm::Sha256,
            4096,
            4096,
            129,
            256,
            "1fcba647cdbf9d3888725a0acb449398cc8ac6ed17a0a021966ac239990f8842",
        ),
        (
            HashAlgorithm::Sha256,
            512,
            4096,
            16384,
            32,
            "87fcecdb11facd87cac81674eaa59f0ae0689feef49fe59e288da28cf40efa1e",
        ),
        (
            HashAlgorithm::Sha256,
            512,
            4096,
            16385,
            32,
            "b0fe2ea01492f14d1dbdf206010dbf08257e1ccb7ea56c8e680f6d1cc9069a2f",
        ),
        (
            HashAlgorithm::Sha256,
            512,
            512,
            129,
            0,
            "af5d08baa6f24b76ff6a7e66323f38af5e0bdd3d1958e9a94d1a54acb9a4684e",
        ),
        (
            HashAlgorithm::Sha256,
            1024,
            512,
            127,
            256,
            "ea735aaaf058266d57757a0adb1f87a72a1e7c0857c895eed742a8579916f343",
        ),
        (
            HashAlgorithm::Sha512,
            4096,
            4096,
            1,
            256,
            "5dcfa5c89920a21edc882e7b238e931cc2a6819c856dc2da741f827a0f0a09d2\
             984912fccdaa26bb3c61d388a4c6bf0d8653d216b7e50f802dc013c45c3ccdd6",
        ),
        (
            HashAlgorithm::Sha512,
            512,
            4096,
            129,
            64,
            "d628eac87594abfd55bc79476f9e0c4b8fd35d4a244c2db268edb6673664b0ad\
             0c8e3198432f70e9a8f80203f6539c24c4fc1bb0a97b6568325b95f9c2c3ac7e",
        ),
        (
            HashAlgorithm::Sha512,
            512,
            512,
            65,
            0,
            "f6ae570a9b87c2de8bd0801d0ecebfb7a339a2e8ff74a07d290c54171770e1e4\
             b8c1b3ac07c01f26b2b5a110e0c589f74f61853c601d2b2fcb9b7b1c095006f2",
        ),
        (
            HashAlgorithm::Sha512,
            4096,
            1024,
            128,
            31,
            "c0472275f230fab85f0da38b921366b57dcb037ec8ae4c14994b5802c28bae7d\
             30c8830161a7781486f65db753825b028412f7ba96b801edf12d0e66ded093e7",
        ),
    ];
    for (algorithm, data_block_size, hash_block_size, blocks, salt_length, expected) in rows {
        let mut parameters = parameters(algorithm, data_block_size, hash_block_size, blocks);
        parameters.salt = salt(salt_length);
        let data = data(blocks, data_block_size);
        let (tree, root_hash) = fed(&parameters, &data).into_tree().unwrap();
        assert_eq!(root_hash.to_string(), expected, "{parameters:?}");
        let verified = fed(&parameters, &data).finish(&tree, &root_hash).unwrap();
        assert_eq!((verified.root_hash(), verified.parameters()), (&root_hash, &parameters));
        assert_eq!(verified.data_length(), ByteLength::of(&data));
    }
}

#[test]
fn trees_have_the_levels_and_lengths_of_dm_verity() {
    // (hash block size, data blocks, levels, blocks of the tree) for SHA-256.
    let rows = [
        (4096, 1, 0, 0),
        (4096, 2, 1, 1),
        (4096, 128, 1, 1),
        (4096, 129, 2, 3),
        (4096, 16_384, 2, 129),
        (4096, 16_385, 3, 132),
        (512, 16, 1, 1),
        (512, 17, 2, 3),
    ];
    for (hash_block_size, blocks, levels, tree_blocks) in rows {
        let layout =
            HashTreeLayout::new(&parameters(HashAlgorithm::Sha256, 512, hash_block_size, blocks)).unwrap();
        let expected = ByteLength::new(tree_blocks * u64::from(hash_block_size));
        assert_eq!((layout.level_count(), layout.tree_length()), (levels, expected), "{blocks} blocks");
    }
}

#[test]
fn impossible_parameters_are_refused_by_name() {
    let good = parameters(HashAlgorithm::Sha256, 4096, 4096, 1);
    let with = |change: fn(&mut HashTreeParameters)| {
        let mut parameters = good.clone();
        change(&mut parameters);
        HashTreeVerifier::new(parameters).unwrap_err()
    };
    assert_eq!(with(|parameters| parameters.data_blocks = 0), HashTreeError::NoDataBlocks);
    for found in [0, 256, 513, 768, 8192, u32::MAX] {
        let mut parameters = good.clone();
        parameters.data_block_size = found;
        assert_eq!(HashTreeLayout::new(&parameters), Err(HashTreeError::BlockSize { found }));
        parameters = HashTreeParameters { data_block_size: 512, hash_block_size: found, ..parameters };
        assert_eq!(HashTreeLayout::new(&parameters), Err(HashTreeError::BlockSize { found }));
    }
    assert_eq!(
        with(|parameters| parameters.salt = vec![0; 257]),
        HashTreeError::Salt { limit: 256, found: 257 }
    );
    assert_eq!(
        with(|parameters| parameters.data_blocks = u64::MAX),
        HashTreeError::TooManyDataBlocks { limit: 1 << 25, found: u64::MAX }
    );
    assert_eq!(
        with(|parameters| {
            parameters.algorithm = HashAlgorithm::Sha512;
            parameters.data_blocks = (1 << 24) + 1;
        }),
        HashTreeError::TooManyDataBlocks { limit: 1 << 24, found: (1 << 24) + 1 }
    );
}

#[test]
fn blocks_may_come_from_any_thread_in_any_order() {
    let (parameters, data, tree, root_hash) = small();
    let verifier = verifier(&parameters);
    let pieces: Vec<(u64, &[u8])> =
        data.chunks(7 * 512).enumerate().map(|(index, piece)| (count(index) * 7, piece)).collect();
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (verifier, pieces) = (&verifier, &pieces);
            scope.spawn(move || {
                for (first_block, piece) in pieces.iter().rev().skip(worker).step_by(3) {
                    verifier.feed(*first_block, piece).unwrap();
                }
            });
        }
    });
    verifier.feed(300, &[]).unwrap();
    assert_eq!(verifier.finish(&tree, &root_hash).unwrap().root_hash(), &root_hash);
}

#[test]
fn a_refused_feed_is_named_and_never_verifies_afterwards() {
    let (parameters, data, tree, root_hash) = small();
    let outside = |first_block, count| FeedError::OutOfRange { first_block, count, data_blocks: 300 };
    let rows = [
        (0, 512, FeedError::AlreadyGiven { block: 0 }),
        (298, 1024, FeedError::AlreadyGiven { block: 298 }),
        (300, 512, outside(300, 1)),
        (299, 1024, outside(299, 2)),
        (u64::MAX, 512, outside(u64::MAX, 1)),
        (301, 0, outside(301, 0)),
        (0, 511, FeedError::PartialBlock { block_size: 512, found: 511 }),
    ];
    for (first_block, length, error) in rows {
        let verifier = fed(&parameters, &data);
        assert_eq!(verifier.feed(first_block, &data[..length]).unwrap_err(), error);
        assert_eq!(verifier.finish(&tree, &root_hash).unwrap_err(), HashTreeMismatch::FeedRefused);
    }
    let verifier = fed(&parameters, &data);
    verifier.feed(0, &data[..512]).unwrap_err();
    assert_eq!(verifier.into_tree().unwrap_err(), HashTreeMismatch::FeedRefused);
}

#[test]
fn nothing_is_verified_before_every_block_came() {
    let (parameters, data, tree, root_hash) = small();
    let all_missing = verifier(&parameters).finish(&tree, &root_hash).unwrap_err();
    assert_eq!(all_missing, HashTreeMismatch::MissingBlocks { first: 0, count: 300 });
    for skipped in [0, 1, 150, 299] {
        let verifier = verifier(&parameters);
        verifier.feed(0, &data[..skipped * 512]).unwrap();
        verifier.feed(count(skipped) + 1, &data[(skipped + 1) * 512..]).unwrap();
        let expected = HashTreeMismatch::MissingBlocks { first: count(skipped), count: 1 };
        assert_eq!(verifier.finish(&tree, &root_hash).unwrap_err(), expected);
    }
    let expected = HashTreeMismatch::MissingBlocks { first: 0, count: 300 };
    assert_eq!(verifier(&parameters).into_tree().unwrap_err(), expected);
}

#[test]
fn every_corrupt_block_is_counted_and_the_first_are_named() {
    let (parameters, data, tree, root_hash) = small();
    for bad in [vec![0], vec![299], vec![3, 128, 200], (100..140).collect::<Vec<usize>>()] {
        let mut data = data.clone();
        for block in &bad {
            data[block * 512 + 17] ^= 0x40;
        }
        let first: Vec<u64> = bad.iter().take(MAXIMUM_NAMED_BLOCKS).map(|block| count(*block)).collect();
        let expected = HashTreeMismatch::DataBlocks { first, count: count(bad.len()) };
        assert_eq!(fed(&parameters, &data).finish(&tree, &root_hash).unwrap_err(), expected);
    }
}

#[test]
fn exchanged_blocks_are_corrupt() {
    let (parameters, data, tree, root_hash) = small();
    let verifier = verifier(&parameters);
    verifier.feed(0, &data[512..1024]).unwrap();
    verifier.feed(1, &data[..512]).unwrap();
    verifier.feed(2, &data[1024..]).unwrap();
    let expected = HashTreeMismatch::DataBlocks { first: vec![0, 1], count: 2 };
    assert_eq!(verifier.finish(&tree, &root_hash).unwrap_err(), expected);
}

#[test]
fn a_corrupt_tree_is_refused_wherever_it_is_corrupt_padding_included() {
    let (parameters, data, tree, root_hash) = small();
    // One block at the top with three digests, then three blocks with 128, 128 and 44 digests.
    assert_eq!(tree.len(), 4 * 4096);
    for position in [0, 95, 96, 4095] {
        let mut tree = tree.clone();
        tree[position] ^= 1;
        let error = fed(&parameters, &data).finish(&tree, &root_hash).unwrap_err();
        assert!(
            matches!(&error, HashTreeMismatch::RootHash { expected, .. } if *expected == root_hash),
            "{error}"
        );
    }
    for (position, index) in [(4096, 0), (8191, 0), (8192, 1), (12_288 + 44 * 32, 2), (16_383, 2)] {
        let mut tree = tree.clone();
        tree[position] ^= 1;
        let expected = HashTreeMismatch::HashBlock { level: 0, index };
        assert_eq!(fed(&parameters, &data).finish(&tree, &root_hash).unwrap_err(), expected);
    }
}

#[test]
fn a_corrupt_block_between_top_and_leaves_names_its_level() {
    let parameters = parameters(HashAlgorithm::Sha256, 512, 512, 300);
    let data = data(300, 512);
    let (tree, root_hash) = fed(&parameters, &data).into_tree().unwrap();
    // 19 leaf blocks, 2 above them, 1 at the top.
    assert_eq!(tree.len(), 22 * 512);
    for (block, level, index) in [(1, 1, 0), (2, 1, 1), (3, 0, 0), (21, 0, 18)] {
        let mut tree = tree.clone();
        tree[block * 512] ^= 1;
        let expected = HashTreeMismatch::HashBlock { level, index };
        assert_eq!(fed(&parameters, &data).finish(&tree, &root_hash).unwrap_err(), expected);
    }
}

#[test]
fn another_root_hash_or_salt_or_length_is_refused_by_name() {
    let (parameters, data, tree, root_hash) = small();
    let other = RootHash::from_bytes(&[9; 32]).unwrap();
    assert_eq!(
        fed(&parameters, &data).finish(&tree, &other).unwrap_err(),
        HashTreeMismatch::RootHash { expected: other, found: root_hash.clone() }
    );
    let long = RootHash::from_bytes(&[9; 64]).unwrap();
    assert_eq!(
        fed(&parameters, &data).finish(&tree, &long).unwrap_err(),
        HashTreeMismatch::Algorithm { expected: HashAlgorithm::Sha256, found: HashAlgorithm::Sha512 }
    );
    let salted = HashTreeParameters { salt: salt(33), ..parameters.clone() };
    let error = fed(&salted, &data).finish(&tree, &root_hash).unwrap_err();
    assert!(matches!(error, HashTreeMismatch::RootHash { .. }), "{error}");
    for length in [0, 4096, tree.len() - 1] {
        let expected = HashTreeMismatch::TreeLength {
            expected: ByteLength::of(&tree),
            found: ByteLength::of(&tree[..length]),
        };
        assert_eq!(fed(&parameters, &data).finish(&tree[..length], &root_hash).unwrap_err(), expected);
    }
    let longer = [&tree[..], &[0]].concat();
    let error = fed(&parameters, &data).finish(&longer, &root_hash).unwrap_err();
    assert!(matches!(error, HashTreeMismatch::TreeLength { .. }), "{error}");
}

#[test]
fn one_data_block_has_no_tree_and_is_still_checked() {
    let parameters = parameters(HashAlgorithm::Sha512, 1024, 4096, 1);
    let data = data(1, 1024);
    let (tree, root_hash) = fed(&parameters, &data).into_tree().unwrap();
    assert!(tree.is_empty());
    let verified = fed(&parameters, &data).finish(&tree, &root_hash).unwrap();
    assert_eq!(verified.data_length(), ByteLength::new(1024));
    let mut corrupt = data.clone();
    corrupt[1023] ^= 1;
    let error = fed(&parameters, &corrupt).finish(&tree, &root_hash).unwrap_err();
    assert!(matches!(error, HashTreeMismatch::RootHash { expected, .. } if expected == root_hash));
    let error = fed(&parameters, &data).finish(&[0; 4096], &root_hash).unwrap_err();
    assert!(matches!(error, HashTreeMismatch::TreeLength { .. }), "{error}");
}

/// The tree and root hash that veritysetup makes; `None` where it is not installed.
fn veritysetup(parameters: &HashTreeParameters, data: &[u8]) -> Option<(Vec<u8>, RootHash)> {
    let directory = tempfile::tempdir().unwrap();
    let (data_path, hash_path) = (directory.path().join("data"), directory.path().join("hash"));
    std::fs::write(&data_path, data).unwrap();
    std::fs::write(&hash_path, []).unwrap();
    let salt = match data_encoding::HEXLOWER.encode(&parameters.salt) {
        empty if empty.is_empty() => "-".to_owned(),
        salt => salt,
    };
    let output = std::process::Command::new("veritysetup")
        .arg("format")
        .args([&data_path, &hash_path])
        .arg(format!("--hash={}", parameters.algorithm))
        .arg(format!("--data-block-size={}", parameters.data_block_size))
        .arg(format!("--hash-block-size={}", parameters.hash_block_size))
        .arg(format!("--salt={salt}"))
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let root_hash = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim();
    // The tree begins behind the superblock of 512 bytes, at the next hash block.
    let tree_offset = usize::try_from(parameters.hash_block_size).unwrap();
    let tree = std::fs::read(&hash_path).unwrap().split_off(tree_offset);
    Some((tree, RootHash::from_lowercase(root_hash).unwrap()))
}

#[test]
fn whole_trees_are_those_of_veritysetup_where_it_is_installed() {
    // (data block size, hash block size, numbers of data blocks)
    let rows: [(u32, u32, &[u64]); 6] = [
        (4096, 4096, &[1, 2, 127, 128, 129]),
        (1024, 1024, &[1, 2, 127, 128, 129]),
        (512, 512, &[1, 2, 16, 17, 127, 128, 129]),
        (512, 4096, &[1, 129, 16_384, 16_385]),
        (4096, 512, &[1, 8, 9, 129]),
        (512, 1024, &[16_385]),
    ];
    for (data_block_size, hash_block_size, numbers) in rows {
        for (blocks, algorithm) in
            numbers.iter().flat_map(|n| HashAlgorithm::ALL.map(|algorithm| (*n, algorithm)))
        {
            for salt_length in [0, 32, 256] {
                let mut parameters = parameters(algorithm, data_block_size, hash_block_size, blocks);
                parameters.salt = salt(salt_length);
                let data = data(blocks, data_block_size);
                let Some((tree, root_hash)) = veritysetup(&parameters, &data) else {
                    eprintln!("skipped: veritysetup is not installed");
                    return;
                };
                let ours = fed(&parameters, &data).into_tree().unwrap();
                assert!(ours == (tree.clone(), root_hash.clone()), "{parameters:?}");
                assert_eq!(
                    fed(&parameters, &data).finish(&tree, &root_hash).unwrap().root_hash(),
                    &root_hash
                );
            }
        }
    }
}

#[test]
fn a_tree_may_come_in_pieces_of_whole_blocks() {
    // 300 blocks with 16 digests in a hash block: levels of 19 and 2 blocks below the root's.
    let parameters = parameters(HashAlgorithm::Sha256, 512, 512, 300);
    let data = data(300, 512);
    let (tree, root_hash) = fed(&parameters, &data).into_tree().unwrap();
    for blocks in [1, 2, 3, 5, 22] {
        let mut check = fed(&parameters, &data).compare_with(&root_hash).unwrap();
        for piece in tree.chunks(blocks * 512) {
            check.take(piece).unwrap();
        }
        assert_eq!(check.finish().unwrap().root_hash(), &root_hash);
    }
    // Short, cut inside a block, and one block too many.
    let length = |found: usize| HashTreeMismatch::TreeLength {
        expected: ByteLength::of(&tree),
        found: ByteLength::new(count(found)),
    };
    let mut check = fed(&parameters, &data).compare_with(&root_hash).unwrap();
    check.take(&tree[..tree.len() - 512]).unwrap();
    assert_eq!(check.finish().unwrap_err(), length(tree.len() - 512));
    let mut check = fed(&parameters, &data).compare_with(&root_hash).unwrap();
    assert_eq!(check.take(&tree[..700]).unwrap_err(), length(700));
    check.take(&tree).unwrap();
    assert_eq!(check.take(&[0; 512]).unwrap_err(), length(tree.len() + 512));

    // Bad blocks under different blocks of the tree are counted together.
    let mut bad = data.clone();
    for block in [3, 17, 299] {
        bad[block * 512] ^= 1;
    }
    let mut check = fed(&parameters, &bad).compare_with(&root_hash).unwrap();
    tree.chunks(512).for_each(|block| check.take(block).unwrap());
    let expected = HashTreeMismatch::DataBlocks { first: vec![3, 17, 299], count: 3 };
    assert_eq!(check.finish().unwrap_err(), expected);
}

#[test]
fn a_verifier_says_which_blocks_have_not_come() {
    let (parameters, data, tree, root_hash) = small();
    let verifier = verifier(&parameters);
    assert_eq!(verifier.missing(0..u64::MAX).first(), Some(&(0..300)));
    verifier.feed(10, &data[10 * 512..20 * 512]).unwrap();
    verifier.feed(299, &data[299 * 512..]).unwrap();
    assert_eq!(verifier.missing(0..300), [0..10, 20..299]);
    assert_eq!(verifier.missing(5..25), [5..10, 20..25]);
    assert_eq!(verifier.missing(10..20), []);
    assert_eq!(verifier.missing(300..400), []);
    for run in verifier.missing(0..300) {
        let (start, end) = (usize::try_from(run.start).unwrap(), usize::try_from(run.end).unwrap());
        verifier.feed(run.start, &data[start * 512..end * 512]).unwrap();
    }
    assert_eq!(verifier.missing(0..300), []);
    assert!(verifier.finish(&tree, &root_hash).is_ok());
}
