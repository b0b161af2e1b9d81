//! Sums and signatures made by GnuPG (`tests/data/openpgp`), from a server that has or has not what is asked for.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::*;
use crate::fetch::client::{HttpOptions, Proxies};
use crate::fetch::http_server::{Answer, HttpServer};
use crate::fetch::retry::RetryOptions;
use crate::fetch::url::ImageUrl;
use crate::operation::observer::Silent;
use crate::trust::download::{DownloadAuthentication, DownloadHasher};
use crate::trust::openpgp::Keyring;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/openpgp/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn keyrings(name: &str) -> Keyrings {
    Keyrings::new(vec![Keyring::read(name, &data(&format!("{name}.pgp"))).unwrap()])
}

/// After the signatures were made.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000)
}

/// A server with these files in the directory `/os`.
fn server(files: &[(&str, Answer)]) -> HttpServer {
    let files: BTreeMap<String, Answer> =
        files.iter().map(|(name, answer)| (format!("/os/{name}"), answer.clone())).collect();
    HttpServer::start(move |request| files.get(&request.path).cloned().unwrap_or_else(|| Answer::status(404)))
}

fn bytes(content: impl Into<Vec<u8>>) -> Answer {
    Answer::bytes(content.into())
}

fn prepare_at(
    mode: VerificationMode,
    server: &HttpServer,
    path: &str,
    ring: &str,
) -> Result<Verification, OperationError> {
    let client = HttpClient::new(HttpOptions {
        proxies: Proxies::None,
        retry: RetryOptions::never(),
        ..HttpOptions::default()
    });
    let image = Origin::Http(ImageUrl::parse(&server.url(path)).unwrap());
    let files = FilesBeside { client: &client, image: &image, observer: &Silent, cancel: &Cancel::never() };
    Verification::prepare(mode, &files, || Ok(keyrings(ring)), now())
}

fn prepare(mode: VerificationMode, files: &[(&str, Answer)]) -> Result<Verification, OperationError> {
    prepare_at(mode, &server(files), "/os/image.raw", "ed25519")
}

fn digest_of(content: &[u8]) -> Option<DownloadDigest> {
    let mut hasher = DownloadHasher::new();
    hasher.update(content);
    Some(hasher.finish())
}

/// The error as the user reads it; it is one of the image where `about_the_image` says so.
fn refused(result: Result<Verification, OperationError>, about_the_image: bool) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.is_about_the_image(), about_the_image, "{}", error.with_causes());
    error.with_causes()
}

#[test]
fn signed_sums_vouch_for_the_image_in_either_style_and_form() {
    let sums = || bytes(data("sums"));
    for files in [
        &[("image.raw.sha256", sums()), ("image.raw.sha256.asc", bytes(data("ed25519-armoured.sig")))][..],
        &[("image.raw.sha256", sums()), ("image.raw.sha256.gpg", bytes(data("ed25519.sig")))],
        &[("SHA256SUMS", sums()), ("SHA256SUMS.asc", bytes(data("ed25519-armoured.sig")))],
        &[("SHA256SUMS", sums()), ("SHA256SUMS.gpg", bytes(data("ed25519.sig")))],
        // Binary under the name of an armoured one.
        &[("SHA256SUMS", sums()), ("SHA256SUMS.asc", bytes(data("ed25519.sig")))],
        // Sums of the file that nobody signed are no reason to do without.
        &[
            ("image.raw.sha256", bytes(*b"unsigned")),
            ("SHA256SUMS", sums()),
            ("SHA256SUMS.gpg", bytes(data("ed25519.sig"))),
        ],
    ] {
        let verification = prepare(VerificationMode::Signature, files).unwrap();
        let checked = verification.check(digest_of(b"image.raw")).unwrap().unwrap();
        let verified = checked.verified().unwrap();
        assert!(matches!(verified.by(), DownloadAuthentication::Signed(_)));

        let error = verification.check(digest_of(b"image")).unwrap_err();
        assert!(error.is_about_the_image());
        assert!(error.with_causes().contains("another download than expected"), "{}", error.with_causes());
        // Without a digest nothing was compared.
        assert!(verification.check(None).is_err());
    }
}

#[test]
fn nothing_is_asked_for_that_the_mode_does_not_need() {
    let digest = *digest_of(b"image.raw").unwrap().as_bytes();
    let pinned = VerificationMode::Digest(crate::format::checksum_manifest::ListedDigest::from_bytes(digest));
    for (mode, compared) in [(VerificationMode::No, false), (pinned, true)] {
        let server = server(&[]);
        let verification = prepare_at(mode, &server, "/os/", "ed25519").unwrap();
        assert_eq!(server.requests().len(), 0);
        assert_eq!(verification.listing("image.roothash").unwrap(), Listing::Unknown);
        let checked = verification.check(digest_of(b"image.raw")).unwrap().unwrap();
        assert_eq!((checked.was_compared(), checked.verified().is_some()), (compared, compared));
        assert_eq!(verification.check(digest_of(b"other")).is_err(), compared);
    }
}

#[test]
fn sums_alone_find_damage_and_vouch_for_nothing() {
    for files in [[("image.raw.sha256", bytes(data("sums")))], [("SHA256SUMS", bytes(data("sums")))]] {
        let verification = prepare(VerificationMode::Checksum, &files).unwrap();
        let checked = verification.check(digest_of(b"image.raw")).unwrap().unwrap();
        assert!(checked.was_compared() && checked.verified().is_none());
        assert!(verification.check(digest_of(b"image.rax")).is_err());
        assert!(verification.check(None).is_err());
    }
}

#[test]
fn the_name_is_that_of_the_url_decoded_and_without_its_query() {
    let server = server(&[("SHA256SUMS", bytes(data("sums")))]);
    for path in ["/os/image.raw?token=x#y", "/os/im%61ge.raw"] {
        assert!(prepare_at(VerificationMode::Checksum, &server, path, "ed25519").is_ok(), "{path}");
    }
    // Where a redirect leads is none of its business.
    let moved = HttpServer::start(|request| match request.path.as_str() {
        "/os/SHA256SUMS" => Answer::redirect("/elsewhere/other.raw"),
        "/elsewhere/other.raw" => Answer::bytes(data("sums")),
        _ => Answer::status(404),
    });
    let verification = prepare_at(VerificationMode::Checksum, &moved, "/os/image.raw", "ed25519").unwrap();
    assert!(verification.check(digest_of(b"image.raw")).is_ok());
    let unnamed = prepare_at(VerificationMode::Checksum, &server, "/os/", "ed25519");
    assert!(matches!(unnamed, Err(OperationError::Usage(_))));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let sums = || ("SHA256SUMS", bytes(data("sums")));
    let signature = |name: &str| ("SHA256SUMS.gpg", bytes(data(&format!("{name}.sig"))));
    let missing = refused(prepare(VerificationMode::Checksum, &[]), true);
    assert!(missing.contains("/os/image.raw.sha256") && missing.contains("/os/SHA256SUMS"), "{missing}");
    let unsigned = refused(prepare(VerificationMode::Signature, &[sums()]), true);
    for name in ["image.raw.sha256'", "SHA256SUMS.asc'", "SHA256SUMS.gpg'", "--verify=no"] {
        assert!(unsigned.contains(name), "{unsigned}");
    }
    assert!(!unsigned.contains("SHA256SUMS',"), "{unsigned}");

    for (files, words) in [
        (vec![("SHA256SUMS", bytes([]))], "found an empty file"),
        (vec![("SHA256SUMS", bytes(*b"<html></html>\n"))], "line 1 is no SHA-256 sum"),
        (vec![("SHA256SUMS", bytes(format!("{}  other\n", "0".repeat(64))))], "do not list 'image.raw'"),
        (
            vec![(
                "SHA256SUMS",
                bytes(format!("{}  image.raw\n{}  image.raw\n", "0".repeat(64), "1".repeat(64))),
            )],
            "contradict themselves",
        ),
    ] {
        let text = refused(prepare(VerificationMode::Checksum, &files), true);
        assert!(text.contains(words), "{text}");
    }
    for (name, words) in [
        ("stranger", "which is in no keyring"),
        ("other-bytes", "which is in no keyring"),
        ("clear", "found 'PGP SIGNED MESSAGE'"),
    ] {
        let text = refused(prepare(VerificationMode::Signature, &[sums(), signature(name)]), true);
        assert!(text.contains(words) && text.contains("SHA256SUMS.gpg"), "{text}");
    }
    let empty = [sums(), ("SHA256SUMS.gpg", bytes([]))];
    let text = refused(prepare(VerificationMode::Signature, &empty), true);
    assert!(text.contains("found an empty file"), "{text}");
    for ring in ["expired", "revoked", "weak-rsa", "not-signing"] {
        let server = server(&[sums(), signature(ring)]);
        let text = refused(prepare_at(VerificationMode::Signature, &server, "/os/image.raw", ring), true);
        assert!(text.contains(&format!("of keyring '{ring}'")), "{text}");
    }
    // The signature is of other sums than those that came with it.
    let changed = [("SHA256SUMS", bytes([data("sums"), b"#\n".to_vec()].concat())), signature("ed25519")];
    let text = refused(prepare(VerificationMode::Signature, &changed), true);
    assert!(text.contains("not over these bytes"), "{text}");
}

#[test]
fn what_cannot_be_had_is_not_taken_for_what_is_not_there() {
    let sums = || ("SHA256SUMS", bytes(data("sums")));
    let signature = || ("SHA256SUMS.gpg", bytes(data("ed25519.sig")));
    for (files, words) in [
        (vec![("image.raw.sha256", Answer::status(500)), sums(), signature()], "500"),
        (vec![("image.raw.sha256", Answer::status(403)), sums(), signature()], "403"),
        (vec![sums(), ("SHA256SUMS.asc", Answer::status(503)), signature()], "503"),
        (vec![("SHA256SUMS", bytes(data("sums")).cut_after(10)), signature()], "broke off"),
    ] {
        let text = refused(prepare(VerificationMode::Signature, &files), false);
        assert!(text.contains(words), "{text}");
    }
    let large = [("SHA256SUMS", bytes(vec![b'#'; MAXIMUM_MANIFEST + 1])), signature()];
    let text = refused(prepare(VerificationMode::Checksum, &large), false);
    assert!(text.contains("larger than 4194304 bytes"), "{text}");
    let large = [sums(), ("SHA256SUMS.asc", bytes(vec![0x88; MAXIMUM_SIGNATURE + 1]))];
    let text = refused(prepare(VerificationMode::Signature, &large), false);
    assert!(text.contains("larger than 65536 bytes"), "{text}");
}

#[test]
fn sums_beside_a_file_of_this_machine_are_files_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    for (name, from) in [("SHA256SUMS", "sums"), ("SHA256SUMS.asc", "ed25519-armoured.sig")] {
        std::fs::write(directory.path().join(name), data(from)).unwrap();
    }
    let client = HttpClient::new(HttpOptions::default());
    let image = Origin::File(directory.path().join("image.raw"));
    let files = FilesBeside { client: &client, image: &image, observer: &Silent, cancel: &Cancel::never() };
    let keyrings = || Ok(keyrings("ed25519"));
    let verification = Verification::prepare(VerificationMode::Signature, &files, keyrings, now()).unwrap();
    assert!(verification.check(digest_of(b"image.raw")).unwrap().unwrap().verified().is_some());
    // What cannot be read is not what is not there.
    std::fs::create_dir(directory.path().join("image.raw.sha256")).unwrap();
    let none = || Ok(Keyrings::default());
    assert!(
        !Verification::prepare(VerificationMode::Checksum, &files, none, now())
            .unwrap_err()
            .is_about_the_image()
    );
}

#[test]
fn a_server_that_fails_for_a_moment_is_asked_again() {
    let failures = std::sync::atomic::AtomicUsize::new(2);
    let flaky = HttpServer::start(move |request| {
        let left = failures.load(std::sync::atomic::Ordering::SeqCst);
        if left > 0 {
            failures.store(left - 1, std::sync::atomic::Ordering::SeqCst);
            return Answer::status(503);
        }
        if request.path == "/os/SHA256SUMS" { Answer::bytes(data("sums")) } else { Answer::status(404) }
    });
    let retry = RetryOptions { retries: 2, first_delay: Duration::from_millis(1), ..RetryOptions::default() };
    let client = HttpClient::new(HttpOptions { proxies: Proxies::None, retry, ..HttpOptions::default() });
    let image = Origin::Http(ImageUrl::parse(&flaky.url("/os/image.raw")).unwrap());
    let files = FilesBeside { client: &client, image: &image, observer: &Silent, cancel: &Cancel::never() };
    let none = || Ok(Keyrings::default());
    assert!(Verification::prepare(VerificationMode::Checksum, &files, none, now()).is_ok());
    assert_eq!(flaky.requests().len(), 4);
}
