//! Downloads from a server that misbehaves on purpose.

use std::cell::RefCell;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::super::client::{Cancellation, HttpOptions, Proxies};
use super::super::http_server::{Answer, HttpServer, Request};
use super::super::retry::RetryOptions;
use super::*;

const LENGTH: usize = 2_000_003;

/// No two parts of it are alike.
static PATTERN: LazyLock<Arc<[u8]>> = LazyLock::new(|| {
    (0_u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(LENGTH).collect()
});

fn pattern() -> Arc<[u8]> {
    Arc::clone(&PATTERN)
}

fn options(retries: u32) -> HttpOptions {
    HttpOptions {
        proxies: Proxies::None,
        retry: RetryOptions {
            retries,
            first_delay: Duration::from_millis(2),
            longest_delay: Duration::from_millis(10),
        },
        ..HttpOptions::default()
    }
}

/// What became of a download.
#[derive(Debug)]
struct Outcome {
    /// Every byte since the last restart.
    bytes: Vec<u8>,
    restarts: usize,
    setbacks: Vec<String>,
    error: Option<FetchError>,
}

impl Outcome {
    fn is_whole(&self) -> bool {
        self.error.is_none() && *self.bytes == *pattern()
    }
}

fn download(options: HttpOptions, origin: &Origin) -> Outcome {
    let setbacks = RefCell::new(Vec::new());
    let hear = |setback: &Setback<'_>| setbacks.borrow_mut().push(setback.error.to_string());
    let (mut bytes, mut restarts) = (Vec::new(), 0);
    let error = match Download::open(&HttpClient::new(options), origin, &hear) {
        Err(error) => Some(error),
        Ok(mut download) => loop {
            match download.next(&hear) {
                Ok(Arrival::Bytes(chunk)) => bytes.extend_from_slice(chunk.bytes()),
                Ok(Arrival::Restarted) => {
                    bytes.clear();
                    restarts += 1;
                }
                Ok(Arrival::Ended) => {
                    assert!(matches!(download.next(&hear), Ok(Arrival::Ended)));
                    assert!(download.total().is_none_or(|total| total == ByteLength::of(&bytes).bytes()));
                    break None;
                }
                Err(error) => {
                    assert!(download.next(&hear).is_err());
                    break Some(error);
                }
            }
        },
    };
    Outcome { bytes, restarts, setbacks: setbacks.into_inner(), error }
}

fn of_server(server: &HttpServer) -> Origin {
    Origin::parse(&server.url("/image.raw"), io::empty()).unwrap()
}

/// A server whose answers depend on how often it was asked before.
fn turning(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> HttpServer {
    let count = AtomicUsize::new(0);
    HttpServer::start(move |request| answer(count.fetch_add(1, Ordering::SeqCst), request))
}

/// What is asked for, with a validator.
fn good(request: &Request) -> Answer {
    Answer::ranged(request, pattern()).header("ETag", "\"one\"")
}

/// The first answer is cut in the middle; the others are what `later` makes of the right one.
fn cut_then(later: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Outcome {
    let server = turning(move |count, request| match count {
        0 => good(request).cut_after(LENGTH / 2),
        _ => later(request, good(request)),
    });
    download(options(3), &of_server(&server))
}

#[test]
fn a_body_cut_at_every_tenth_is_resumed_to_its_end() {
    let server = turning(|_, request| {
        // Up to the next tenth of the whole, and no further.
        let first = request.range().map_or(0, |(first, _)| first);
        good(request).cut_after(LENGTH / 10 - first % (LENGTH / 10))
    });
    // In one go: every attempt makes progress, so that one retry in a row is enough.
    let outcome = download(options(1), &of_server(&server));
    assert!(outcome.is_whole(), "{:?}", outcome.error);
    let requests = server.requests();
    assert_eq!((outcome.restarts, outcome.setbacks.len()), (0, requests.len() - 1));
    assert!(requests.len() > 10, "{}", requests.len());
    assert!(requests[0].range().is_none());
    for request in &requests[1..] {
        assert_eq!(request.header("If-Range"), Some("\"one\""));
        assert_eq!(request.range().unwrap().1, usize::MAX);
    }
    // And one cut each.
    for tenth in 0..10 {
        let server = turning(move |count, request| match count {
            0 => good(request).cut_after(LENGTH / 10 * tenth),
            _ => good(request),
        });
        let outcome = download(options(1), &of_server(&server));
        assert!(outcome.is_whole(), "{tenth}: {:?}", outcome.error);
        // Where nothing had come there is nothing to go on with.
        assert_eq!((outcome.restarts, server.requests().len()), (usize::from(tenth == 0), 2), "{tenth}");
    }
}

#[test]
fn a_stall_is_resumed_too() {
    let server = turning(|count, request| match count {
        0 => good(request).stall_after(LENGTH / 3),
        _ => good(request),
    });
    let outcome = download(
        HttpOptions { stall_timeout: Duration::from_millis(400), ..options(1) },
        &of_server(&server),
    );
    assert!(outcome.is_whole() && outcome.restarts == 0, "{:?}", outcome.error);
}

#[test]
fn a_server_that_recovers_is_asked_again_and_one_that_does_not_given_up() {
    for status in [500, 502, 503, 429] {
        let server = turning(move |count, request| match count {
            0 => Answer::status(status),
            _ => good(request),
        });
        assert!(download(options(1), &of_server(&server)).is_whole(), "{status}");

        let server = HttpServer::start(move |_| Answer::status(status));
        let outcome = download(options(2), &of_server(&server));
        match outcome.error {
            Some(FetchError::GaveUp { attempts: 3, source }) => {
                assert!(source.to_string().contains(&format!("HTTP {status}")), "{source}")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((outcome.setbacks.len(), server.requests().len()), (2, 3));
    }
    for answer in [Answer::hang_up(), Answer::garbage()] {
        let server = turning(move |count, request| match count {
            0 => answer.clone(),
            _ => good(request),
        });
        assert!(download(options(1), &of_server(&server)).is_whole());
    }
}

#[test]
fn nobody_listening_is_tried_again() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let origin = Origin::parse(&format!("http://{address}/"), io::empty()).unwrap();
    let outcome = download(options(2), &origin);
    assert_eq!(outcome.setbacks.len(), 2);
    assert!(
        matches!(&outcome.error, Some(FetchError::GaveUp { attempts: 3, source })
            if matches!(**source, FetchError::Connect { .. })),
        "{:?}",
        outcome.error
    );
}

#[test]
fn an_answer_is_not_asked_for_again() {
    for status in [400, 401, 403, 404, 410, 204, 206] {
        let server = HttpServer::start(move |_| Answer::status(status));
        let outcome = download(options(3), &of_server(&server));
        assert!(outcome.error.is_some_and(|error| !matches!(error, FetchError::GaveUp { .. })));
        assert_eq!(server.requests().len(), 1, "{status}");
    }
    let server = HttpServer::start(|request| Answer::redirect(&format!("{}x", request.path)));
    let outcome = download(options(3), &of_server(&server));
    assert!(matches!(outcome.error, Some(FetchError::TooManyRedirects { .. })));
    assert_eq!(server.requests().len(), 11);
    let server = HttpServer::start(|request| good(request).header("Content-Encoding", "gzip"));
    assert!(matches!(
        download(options(3), &of_server(&server)).error,
        Some(FetchError::ContentEncoding { .. })
    ));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_that_cannot_prove_who_it_is_is_asked_once() {
    use super::super::certificates::CertificateAuthorities;
    use super::super::http_server::TestAuthority;

    let (ours, foreign) = (TestAuthority::new("ours"), TestAuthority::new("foreign"));
    let server = HttpServer::start_tls(&foreign.issue("127.0.0.1"), good);
    let bundle = tempfile::NamedTempFile::new().unwrap();
    fs::write(bundle.path(), ours.pem()).unwrap();
    let certificate_authorities = CertificateAuthorities::Files(vec![bundle.path().to_owned()]);
    let outcome = download(HttpOptions { certificate_authorities, ..options(3) }, &of_server(&server));
    assert!(matches!(outcome.error, Some(FetchError::Tls { .. })), "{:?}", outcome.error);
    assert!(outcome.setbacks.is_empty());
}

#[test]
fn a_length_that_is_too_large_is_never_reached() {
    let server = HttpServer::start(|request| good(request).claim_length(LENGTH + 1));
    let outcome = download(options(2), &of_server(&server));
    let Some(FetchError::GaveUp { source, .. }) = &outcome.error else { panic!("{:?}", outcome.error) };
    let expected = Some(u64::try_from(LENGTH + 1).unwrap());
    assert!(
        matches!(**source, FetchError::Truncated { expected: found, .. } if found == expected),
        "{source:?}"
    );
    // One that is too small ends the file.
    let server = HttpServer::start(|request| good(request).claim_length(LENGTH - 1));
    let outcome = download(options(2), &of_server(&server));
    assert!(outcome.error.is_none() && outcome.bytes == pattern()[..LENGTH - 1]);
}

#[test]
fn only_the_very_next_byte_of_the_same_version_goes_on() {
    let half = LENGTH / 2;
    let part = |first: usize, last: usize, total: usize, bytes: Vec<u8>| {
        Answer::bytes(bytes)
            .with_status(206)
            .header("ETag", "\"one\"")
            .header("Content-Range", &format!("bytes {first}-{last}/{total}"))
    };
    let wrong: Vec<(&str, Answer)> = vec![
        ("overlapping", part(half - 10, LENGTH - 1, LENGTH, pattern()[half - 10..].to_vec())),
        ("from the beginning", part(0, LENGTH - 1, LENGTH, pattern().to_vec())),
        ("with a gap", part(half + 10, LENGTH - 1, LENGTH, pattern()[half + 10..].to_vec())),
        ("not to the end", part(half, LENGTH - 2, LENGTH, pattern()[half..LENGTH - 1].to_vec())),
        ("of a larger file", part(half, LENGTH, LENGTH + 1, vec![0; LENGTH - half + 1])),
        ("of a smaller file", part(half, LENGTH - 2, LENGTH - 1, vec![0; LENGTH - half - 1])),
        ("shorter than said", part(half, LENGTH - 1, LENGTH, vec![0; LENGTH - half - 1])),
        ("longer than said", part(half, LENGTH - 1, LENGTH, vec![0; LENGTH - half + 1])),
        ("of no known length", part(half, LENGTH - 1, LENGTH, vec![0; LENGTH - half]).chunked(1000)),
        (
            "of another version",
            part(half, LENGTH - 1, LENGTH, vec![0; LENGTH - half]).header("ETag", "\"two\""),
        ),
        ("weak", part(half, LENGTH - 1, LENGTH, vec![0; LENGTH - half]).header("ETag", "W/\"one\"")),
        (
            "nonsense",
            part(half, LENGTH - 1, LENGTH, vec![0; LENGTH - half]).header("Content-Range", "bytes ?"),
        ),
        ("no range", Answer::bytes(vec![0; LENGTH - half]).with_status(206).header("ETag", "\"one\"")),
        ("not there", Answer::status(416).header("Content-Range", &format!("bytes */{LENGTH}"))),
    ];
    for (what, answer) in wrong {
        let server = turning(move |count, request| match count {
            0 => good(request).cut_after(half),
            1 => answer.clone(),
            // A server that is not trusted with parts any more is asked for the whole.
            2 => good(request).cut_after(half + 50_000),
            _ => good(request),
        });
        let outcome = download(options(3), &of_server(&server));
        assert!(outcome.is_whole(), "{what}: {:?}", outcome.error);
        assert_eq!((outcome.restarts, outcome.setbacks.len()), (2, 3), "{what}: {:?}", outcome.setbacks);
        let ranges: Vec<bool> = server.requests().iter().map(|request| request.range().is_some()).collect();
        assert_eq!(ranges, [false, true, false, false], "{what}");
    }
}

#[test]
fn a_range_that_is_ignored_or_a_new_version_begins_anew() {
    let outcome = cut_then(|_, _| Answer::bytes(pattern()).header("ETag", "\"one\""));
    assert!(outcome.is_whole() && outcome.restarts == 1 && outcome.setbacks.len() == 1, "{outcome:?}");

    // Another version, of another size, which is then the one that counts.
    let server = turning(|count, request| match count {
        0 => good(request).cut_after(LENGTH / 2),
        _ if request.header("If-Range") == Some("\"two\"") => {
            Answer::ranged(request, vec![7; 1_000_000]).header("ETag", "\"two\"")
        }
        1 => Answer::bytes(vec![7; 1_000_000]).header("ETag", "\"two\"").cut_after(500_000),
        _ => Answer::status(404),
    });
    let outcome = download(options(3), &of_server(&server));
    assert!(outcome.error.is_none() && outcome.bytes == vec![7; 1_000_000], "{:?}", outcome.error);
    assert_eq!(outcome.restarts, 1);
}

#[test]
fn a_version_that_cannot_be_told_begins_anew() {
    let plain = |request: &Request| Answer::ranged(request, pattern());
    let change = |request: &Request, date: &str| {
        Answer::ranged(request, pattern())
            .header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("Date", date)
    };
    type Handler = Box<dyn Fn(&Request) -> Answer + Send + Sync>;
    let table: Vec<(&str, Handler, usize)> = vec![
        ("no validator", Box::new(plain), 1),
        ("weak tag", Box::new(move |request| plain(request).header("ETag", "W/\"one\"")), 1),
        ("no length", Box::new(|request| good(request).chunked(70_001)), 1),
        ("just changed", Box::new(move |request| change(request, "Sun, 06 Nov 1994 08:50:36 GMT")), 1),
        ("changed before", Box::new(move |request| change(request, "Sun, 06 Nov 1994 08:50:37 GMT")), 0),
        (
            "weak tag, changed before",
            Box::new(move |request| {
                change(request, "Sun, 06 Nov 1994 08:50:37 GMT").header("ETag", "W/\"one\"")
            }),
            1,
        ),
    ];
    for (what, handler, restarts) in table {
        let server = turning(move |count, request| match count {
            0 => handler(request).cut_after(LENGTH / 2),
            _ => handler(request),
        });
        let outcome = download(options(1), &of_server(&server));
        assert!(outcome.is_whole(), "{what}: {:?}", outcome.error);
        assert_eq!(outcome.restarts, restarts, "{what}");
        assert_eq!(server.requests()[1].range().is_none(), restarts == 1, "{what}");
    }
}

#[test]
fn a_byte_now_and_then_is_no_progress() {
    let stall_timeout = Duration::from_millis(150);
    let server = HttpServer::start(|request| good(request).trickle(Duration::from_millis(20)));
    let begin = Instant::now();
    let outcome = download(HttpOptions { stall_timeout, ..options(2) }, &of_server(&server));
    let Some(FetchError::GaveUp { attempts: 3, source }) = &outcome.error else {
        panic!("{:?}", outcome.error)
    };
    assert!(
        matches!(**source, FetchError::Stalled { received, .. } if (1..100).contains(&received)),
        "{source:?}"
    );
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());

    let total_timeout = Some(Duration::from_millis(300));
    let outcome = download(HttpOptions { total_timeout, ..options(2) }, &of_server(&server));
    assert!(matches!(outcome.error, Some(FetchError::DeadlineExceeded { .. })), "{:?}", outcome.error);
}

#[test]
fn the_deadline_holds_for_all_attempts_together() {
    let server = HttpServer::start(|_| Answer::hang());
    let begin = Instant::now();
    let (stall_timeout, total_timeout) = (Duration::from_millis(150), Some(Duration::from_millis(400)));
    let outcome = download(HttpOptions { stall_timeout, total_timeout, ..options(20) }, &of_server(&server));
    assert!(matches!(outcome.error, Some(FetchError::DeadlineExceeded { .. })), "{:?}", outcome.error);
    assert!(begin.elapsed() < Duration::from_secs(3) && server.requests().len() > 1);

    // A wait that would end behind the deadline is not begun: what went wrong says more.
    let server = HttpServer::start(|_| Answer::status(503).header("Retry-After", "30"));
    let outcome = download(HttpOptions { total_timeout, ..options(20) }, &of_server(&server));
    assert!(matches!(outcome.error, Some(FetchError::ServerError { status: 503, .. })), "{outcome:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the wait is to be ended while nothing happens")]
fn a_wait_between_attempts_can_be_cancelled() {
    let server = HttpServer::start(|_| Answer::status(503).header("Retry-After", "40"));
    let wanted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&wanted);
    let cancellation = Cancellation::when(move || seen.load(Ordering::SeqCst));
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        wanted.store(true, Ordering::SeqCst);
    });
    let begin = Instant::now();
    let outcome = download(HttpOptions { cancellation, ..options(2) }, &of_server(&server));
    assert!(matches!(outcome.error, Some(FetchError::Cancelled)), "{:?}", outcome.error);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    canceller.join().unwrap();
}

#[test]
fn a_file_of_this_machine_comes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.raw");
    fs::write(&path, pattern()).unwrap();
    let origin = Origin::parse(&format!("file://{}", path.display()), io::empty()).unwrap();
    let outcome = download(options(3), &origin);
    assert!(outcome.is_whole() && outcome.restarts == 0);

    let client = HttpClient::new(options(0));
    let silent = |_: &Setback<'_>| ();
    let open = |origin: &Origin| Download::open(&client, origin, &silent);
    assert!(open(&origin.sibling("SHA256SUMS").unwrap()).is_err_and(|error| error.is_not_found()));
    // A directory, and what one would wait for.
    assert!(matches!(open(&Origin::File("/".into())), Err(FetchError::Local { .. })));
    assert!(matches!(open(&Origin::File("/dev/null".into())), Err(FetchError::Local { .. })));
}

#[test]
fn a_stream_comes_once() {
    let origin = Origin::parse("-", io::Cursor::new(pattern())).unwrap();
    assert!(download(options(3), &origin).is_whole());
    let outcome = download(options(3), &origin);
    assert!(matches!(outcome.error, Some(FetchError::Local { .. })), "{:?}", outcome.error);
    assert!(outcome.setbacks.is_empty());

    /// Breaks after its first bytes.
    struct Broken(bool);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("unplugged"));
            }
            buffer[..3].fill(1);
            Ok(3)
        }
    }
    let outcome = download(options(3), &Origin::parse("-", Broken(false)).unwrap());
    assert_eq!(outcome.bytes, [1; 3]);
    assert!(matches!(outcome.error, Some(FetchError::Local { .. })), "{:?}", outcome.error);
}

#[test]
fn a_small_file_is_read_whole_or_refused_for_its_size() {
    let read = |answer: Answer, limit: u64| {
        let server = turning(move |count, _| match count {
            0 => answer.clone().cut_after(3),
            _ => answer.clone(),
        });
        let silent = |_: &Setback<'_>| ();
        let client = HttpClient::new(options(1));
        let download = Download::open(&client, &of_server(&server), &silent).unwrap();
        download.read_all(ByteLength::new(limit), &silent)
    };
    for answer in [Answer::bytes(*b"image"), Answer::bytes(*b"image").chunked(2)] {
        assert_eq!(read(answer.clone(), 5).unwrap(), b"image");
        assert!(matches!(read(answer, 4), Err(FetchError::TooLarge { .. })));
    }
}

#[test]
fn buffers_are_used_again() {
    let server = HttpServer::start(good);
    let silent = |_: &Setback<'_>| ();
    let mut download = Download::open(&HttpClient::new(options(0)), &of_server(&server), &silent).unwrap();
    let mut places = std::collections::BTreeSet::new();
    let mut chunks = 0;
    while let Arrival::Bytes(chunk) = download.next(&silent).unwrap() {
        places.insert(chunk.bytes().as_ptr());
        chunks += 1;
    }
    // Those on their way, one in either hand, and no more.
    assert!(places.len() <= 6, "{} buffers for {chunks} chunks", places.len());
}
