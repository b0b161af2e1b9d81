//! What says how a download should be: sums, keyrings, and signatures over sums.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ddictl::format::checksum_manifest::{ChecksumManifest, ListedDigest};
use ddictl::trust::download::ExpectedDownload;
use ddictl::trust::manifest::VerifiedManifest;
use ddictl::trust::openpgp::{Keyring, Keyrings};

use super::is_one_line;

/// Sums: what is listed stands in the text, and means the same whatever the line ends are.
pub fn checksum_manifest(input: &[u8]) {
    let manifest = match ChecksumManifest::parse(input) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(is_one_line(&error.to_string()), "{error}");
            return;
        }
    };
    assert!(!manifest.is_empty() && manifest.len() <= input.len() / 66);
    assert!(is_one_line(&manifest.examples()) && is_one_line(&manifest.not_understood().to_string()));
    let text = input.to_ascii_lowercase();
    let more = [input, b"\n# nothing\r\n\n"].concat();
    let again = ChecksumManifest::parse(&more).unwrap();
    assert_eq!(again.len(), manifest.len());
    for name in names(input) {
        let listed = manifest.digest_of(&name);
        assert_eq!(again.digest_of(&name), listed);
        match listed {
            Err(error) => assert!(is_one_line(&error.to_string()), "{error}"),
            Ok(None) => assert!(ExpectedDownload::listed(&manifest, &name).is_err()),
            Ok(Some(digest)) => {
                let digits = digest.to_string();
                assert!(text.windows(64).any(|window| window == digits.as_bytes()), "'{name}' {digits}");
                assert_eq!(ListedDigest::from_hexadecimal(digits.as_bytes()), Some(digest));
                let expected = ExpectedDownload::listed(&manifest, &name).unwrap();
                assert_eq!((expected.digest(), expected.vouched_by()), (Some(digest), None));
            }
        }
    }
}

/// What could be a name in these sums.
fn names(input: &[u8]) -> impl Iterator<Item = String> {
    let words = input.split(|byte| matches!(byte, b'\n' | b'\r' | b' ' | b'*' | b'(' | b')' | b'/'));
    let words = words.filter_map(|word| String::from_utf8(word.to_vec()).ok());
    words.chain(["image.raw".to_owned()]).take(100)
}

/// The sums that the keys below signed, and nothing else.
const SUMS: &[u8] = include_bytes!("../data/openpgp/sums");

/// Who signed them: keyring, signature and a word in the name of the key.
const SIGNERS: [(&[u8], &[u8], &str); 4] = [
    (
        include_bytes!("../data/openpgp/rsa.pgp"),
        include_bytes!("../data/openpgp/rsa.sig"),
        "'rsa <rsa@example.org>'",
    ),
    (
        include_bytes!("../data/openpgp/ed25519.pgp"),
        include_bytes!("../data/openpgp/ed25519.sig"),
        "'ed25519 <ed25519@example.org>'",
    ),
    (
        include_bytes!("../data/openpgp/p256.pgp"),
        include_bytes!("../data/openpgp/p256.sig"),
        "'p256 <p256@example.org>'",
    ),
    (
        include_bytes!("../data/openpgp/subkey.pgp"),
        include_bytes!("../data/openpgp/subkey.sig"),
        "'subkey <subkey@example.org>'",
    ),
];

/// Keys that signed the sums as well, and do not count: expired, revoked, too weak, not for signing.
const REFUSED: [&[u8]; 4] = [
    include_bytes!("../data/openpgp/expired.pgp"),
    include_bytes!("../data/openpgp/revoked.pgp"),
    include_bytes!("../data/openpgp/weak-rsa.pgp"),
    include_bytes!("../data/openpgp/not-signing.pgp"),
];

fn keyrings<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> Keyrings {
    Keyrings::new(files.into_iter().map(|file| Keyring::read("test", file).unwrap()).collect())
}

static TRUSTED: LazyLock<Keyrings> = LazyLock::new(|| keyrings(SIGNERS.map(|(keys, _, _)| keys)));
static NOT_TRUSTED: LazyLock<Keyrings> = LazyLock::new(|| keyrings(REFUSED));

/// A time at which all those signatures are there.
fn valid_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A detached signature over the sums.
pub fn openpgp_signature(input: &[u8]) {
    is_valid_openpgp_signature(input);
}

/// The same; says whether it is one.
pub fn is_valid_openpgp_signature(input: &[u8]) -> bool {
    let verify = |sums: &[u8], keyrings: &Keyrings, at| VerifiedManifest::verify(sums, input, keyrings, at);
    for nobody in [&Keyrings::default(), &*NOT_TRUSTED] {
        let error = verify(SUMS, nobody, valid_time()).expect_err("nobody who is trusted signed this");
        assert!(is_one_line(&error.to_string()), "{error}");
    }
    verify(&SUMS[1..], &TRUSTED, valid_time()).expect_err("nobody signed these sums");
    let Ok(manifest) = verify(SUMS, &TRUSTED, valid_time()) else { return false };
    let signer = manifest.signer().to_string();
    assert!(SIGNERS.iter().any(|(_, _, name)| signer.starts_with(name)) && is_one_line(&signer), "{signer}");
    assert!(verify(SUMS, &TRUSTED, SystemTime::UNIX_EPOCH).is_err());
    assert!(ExpectedDownload::signed(&manifest, "image.raw").unwrap().vouched_by().is_some());
    true
}

/// A keyring.
pub fn openpgp_keyring(input: &[u8]) {
    valid_openpgp_signers(input);
}

/// The same; says how many of the signatures over the sums are by keys in it that count.
pub fn valid_openpgp_signers(input: &[u8]) -> usize {
    let keyring = match Keyring::read("test", input) {
        Ok(keyring) => keyring,
        Err(error) => {
            assert!(is_one_line(&error.to_string()), "{error}");
            return 0;
        }
    };
    assert!(keyring.skipped().iter().all(|key| is_one_line(&key.to_string())));
    let keyrings = Keyrings::new(vec![keyring.clone(), keyring]);
    assert!(!keyrings.is_empty());
    let mut valid = 0;
    for (keys, signature, _) in SIGNERS {
        match VerifiedManifest::verify(SUMS, signature, &keyrings, valid_time()) {
            Ok(manifest) => {
                // Whoever the keyring says it is: the same key signed.
                let own = self::keyrings([keys]);
                let expected = VerifiedManifest::verify(SUMS, signature, &own, valid_time()).unwrap();
                assert_eq!(manifest.signer().key().key, expected.signer().key().key);
                assert!(is_one_line(&manifest.signer().to_string()));
                valid += 1;
            }
            Err(error) => assert!(is_one_line(&error.to_string()), "{error}"),
        }
    }
    valid
}
