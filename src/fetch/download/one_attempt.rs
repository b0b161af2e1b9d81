//! One attempt at a download: every byte of its body, or an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::super::certificates::CertificateAuthorities;
use super::super::client::{Cancellation, HttpOptions, Proxies};
use super::super::http_server::{Answer, HttpServer, TestAuthority};
use super::super::retry::RetryOptions;
use super::*;

/// More than any buffer on the way holds.
const LARGE: usize = 9_000_001;

fn pattern(length: usize) -> Vec<u8> {
    (0..=250_u8).cycle().take(length).collect()
}

fn options() -> HttpOptions {
    HttpOptions { proxies: Proxies::None, retry: RetryOptions::never(), ..HttpOptions::default() }
}

fn open(client: &HttpClient, server: &HttpServer) -> Download {
    Download::open(client, &Origin::Http(ImageUrl::parse(&server.url("/")).unwrap()), &|_| ()).unwrap()
}

/// Everything up to the first error, and the error.
fn read_all(options: HttpOptions, server: &HttpServer) -> (Vec<u8>, Option<FetchError>) {
    let mut download = open(&HttpClient::new(options), server);
    let mut bytes = Vec::new();
    let error = loop {
        match download.next(&|_| ()) {
            Ok(Arrival::Bytes(chunk)) => bytes.extend_from_slice(chunk.bytes()),
            Ok(Arrival::Restarted) => panic!("nobody tries again"),
            Ok(Arrival::Ended) => break None,
            Err(error) => break Some(error),
        }
    };
    // However it ended, it stays so.
    assert_eq!(download.next(&|_| ()).is_err(), error.is_some());
    (bytes, error)
}

#[test]
fn every_byte_comes_whatever_the_framing() {
    for answer in [
        Answer::bytes(pattern(LARGE)),
        Answer::bytes(pattern(LARGE)).chunked(70_001),
        Answer::bytes([]),
        Answer::bytes([]).chunked(1),
    ] {
        let expected = answer.clone();
        let server = HttpServer::start(move |_| answer.clone());
        let (bytes, error) = read_all(options(), &server);
        assert!(error.is_none(), "{error:?}");
        assert!(bytes == expected.body(), "{} bytes", bytes.len());
    }
}

#[test]
fn a_body_that_is_cut_short_is_never_a_silent_end() {
    let length = u64::try_from(LARGE).unwrap();
    for count in [0, 1, LARGE / 2, LARGE - 1] {
        let cut = Answer::bytes(pattern(LARGE)).cut_after(count);
        for (answer, total) in [(cut.clone(), Some(length)), (cut.chunked(70_001), None)] {
            let server = HttpServer::start(move |_| answer.clone());
            match read_all(options(), &server) {
                (bytes, Some(error @ FetchError::Truncated { expected, found, .. })) => {
                    assert_eq!(expected, total);
                    assert_eq!(found, u64::try_from(bytes.len()).unwrap());
                    assert!(bytes == pattern(LARGE)[..bytes.len()] && bytes.len() <= count);
                    assert!(error.is_transient());
                }
                (bytes, other) => panic!("cut after {count}: {} bytes, {other:?}", bytes.len()),
            }
        }
    }
}

#[test]
fn chunks_that_miss_only_the_last_one_are_cut_short() {
    let server = HttpServer::start(|_| Answer::bytes(*b"image").chunked(5).cut_after(5));
    let (bytes, error) = read_all(options(), &server);
    assert_eq!(bytes, b"image");
    assert!(matches!(error, Some(FetchError::Truncated { expected: None, found: 5, .. })), "{error:?}");
}

#[test]
fn a_length_that_is_too_large_is_noticed_and_more_than_it_never_read() {
    let server = HttpServer::start(|_| Answer::bytes(*b"image").claim_length(6));
    let (bytes, error) = read_all(options(), &server);
    assert_eq!(bytes, b"image");
    assert!(matches!(error, Some(FetchError::Truncated { expected: Some(6), found: 5, .. })), "{error:?}");

    let server = HttpServer::start(|_| Answer::bytes(*b"image and more").claim_length(5));
    let (bytes, error) = read_all(options(), &server);
    assert_eq!(bytes, b"image");
    assert!(error.is_none(), "{error:?}");
}

#[test]
fn a_cut_inside_tls_is_noticed() {
    let authority = TestAuthority::new("ours");
    let server = HttpServer::start_tls(&authority.issue("127.0.0.1"), |_| {
        Answer::bytes(pattern(LARGE)).cut_after(LARGE / 2)
    });
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), authority.pem()).unwrap();
    let certificate_authorities = CertificateAuthorities::Files(vec![bundle.path().to_owned()]);
    let (_, error) = read_all(HttpOptions { certificate_authorities, ..options() }, &server);
    assert!(matches!(error, Some(FetchError::Truncated { expected: Some(_), .. })), "{error:?}");
}

#[test]
fn silence_in_the_body_ends_the_wait() {
    let server = HttpServer::start(|_| Answer::bytes(pattern(1000)).stall_after(400));
    let stall_timeout = Duration::from_millis(300);
    let begin = Instant::now();
    let (bytes, error) = read_all(HttpOptions { stall_timeout, ..options() }, &server);
    assert_eq!(bytes.len(), 400);
    assert!(matches!(error, Some(FetchError::Stalled { limit, .. }) if limit == stall_timeout), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn the_deadline_counts_from_the_request_on() {
    let server = HttpServer::start(|_| Answer::bytes(pattern(1000)).stall_after(400));
    let total_timeout = Some(Duration::from_millis(400));
    let (bytes, error) = read_all(HttpOptions { total_timeout, ..options() }, &server);
    assert_eq!(bytes.len(), 400);
    assert!(matches!(error, Some(FetchError::DeadlineExceeded { .. })), "{error:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the transfer is to be cancelled while nothing happens")]
fn a_stalled_transfer_can_be_cancelled_quickly() {
    let server = HttpServer::start(|_| Answer::bytes(pattern(1000)).stall_after(400));
    let wanted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&wanted);
    let cancellation = Cancellation::when(move || seen.load(Ordering::SeqCst));
    let client = HttpClient::new(HttpOptions { cancellation, ..options() });
    let mut download = open(&client, &server);
    let mut received = 0;
    while received < 400 {
        let Arrival::Bytes(chunk) = download.next(&|_| ()).unwrap() else { panic!("no bytes") };
        received += chunk.bytes().len();
    }
    let begin = Instant::now();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        wanted.store(true, Ordering::SeqCst);
    });
    assert!(matches!(download.next(&|_| ()), Err(FetchError::Cancelled)));
    drop((download, client));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    canceller.join().unwrap();
}
