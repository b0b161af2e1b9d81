//! Parts of a file, from a server that misbehaves on purpose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::super::client::{HttpOptions, Proxies};
use super::super::http_server::{Answer as Served, HttpServer, Request};
use super::*;

const LENGTH: usize = 1_000_000;

fn pattern() -> Vec<u8> {
    (0..=250_u8).cycle().take(LENGTH).collect()
}

fn extent(start: u64, length: u64) -> Extent {
    Extent::new(ByteOffset::new(start), ByteLength::new(length)).unwrap()
}

fn open(server: &HttpServer) -> Result<RangeReader<'static>, FetchError> {
    open_with(server, RetryOptions::never(), Box::new(|_| ()))
}

fn open_with<'a>(
    server: &HttpServer,
    retry: RetryOptions,
    hear: Hear<'a>,
) -> Result<RangeReader<'a>, FetchError> {
    let client = HttpClient::new(HttpOptions { proxies: Proxies::None, ..HttpOptions::default() });
    RangeReader::open(&client, &ImageUrl::parse(&server.url("/image.raw")).unwrap(), retry, hear)
}

fn serve(request: &Request) -> Served {
    Served::ranged_singly(request, pattern()).header("ETag", "\"one\"")
}

fn serve_several(request: &Request) -> Served {
    Served::ranged(request, pattern()).header("ETag", "\"one\"")
}

/// A server that answers the first request well and every later one with `later`.
fn turning(later: impl Fn(&Request) -> Served + Send + Sync + 'static) -> HttpServer {
    let count = AtomicUsize::new(0);
    HttpServer::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => serve(request),
        _ => later(request),
    })
}

#[test]
fn extents_come_back_in_their_order_and_near_ones_in_one_request() {
    let server = HttpServer::start(serve);
    let mut reader = open(&server).unwrap();
    assert_eq!(reader.total(), ByteLength::new(1_000_000));
    assert_eq!(reader.identity().validator, Some(Validator::EntityTag("\"one\"".into())));
    let asked = [
        extent(999_999, 1),
        extent(10, 5),
        extent(500_000, 100),
        extent(500_050, 20_000),
        extent(520_050 + 16 * 1024, 10),
        extent(700_000, 0),
        extent(800_000, 7),
        extent(24_570, 10),
    ];
    let parts = reader.read(&asked).unwrap();
    assert_eq!(parts.len(), asked.len());
    for (asked, part) in asked.iter().zip(&parts) {
        let start = usize::try_from(asked.start().bytes()).unwrap();
        assert!(*part == pattern()[start..start + asked.length().in_memory().unwrap()], "{asked}");
    }
    let requests = server.requests();
    let ranges: Vec<_> = requests.iter().flat_map(|request| request.ranges_of(LENGTH)).collect();
    let (merged, end) = ((500_000, 520_050 + 16 * 1024 + 9), (979_520, 999_999));
    // What lies behind the beginning came with it, because the server sent the whole.
    assert_eq!(ranges, [(0, 24_575), end, merged, (800_000, 800_006), end]);
}

#[test]
fn what_the_first_request_brought_is_not_asked_for_again() {
    let server = HttpServer::start(serve);
    let mut reader = open(&server).unwrap();
    for _ in 0..2 {
        assert_eq!(reader.read(&[extent(1, 3), extent(0, 24_576)]).unwrap()[0], [1, 2, 3]);
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_file_shorter_than_the_first_request_is_read_whole() {
    let server = HttpServer::start(|request| Served::ranged(request, *b"image"));
    let mut reader = open(&server).unwrap();
    assert_eq!(reader.identity(), &Identity { total: ByteLength::new(5), validator: None });
    assert_eq!(reader.read(&[extent(0, 5)]).unwrap(), [b"image"]);
    assert!(matches!(
        reader.read(&[extent(4, 2)]),
        Err(FetchError::OutsideOfSource { total, .. }) if total == ByteLength::new(5)
    ));
}

#[test]
fn a_server_without_ranges_is_said_to_be_one() {
    let server = HttpServer::start(|_| Served::bytes(pattern()));
    assert!(matches!(open(&server), Err(FetchError::RangeNotSupported { .. })));
    assert_eq!(server.requests().len(), 2);
    let server = HttpServer::start(|_| Served::bytes(pattern()).header("Accept-Ranges", "none"));
    assert!(matches!(open(&server), Err(FetchError::RangeNotSupported { .. })));
    assert_eq!(server.requests().len(), 1);
    let server = turning(|_| Served::bytes(pattern()));
    assert!(matches!(
        open(&server).unwrap().read(&[extent(900_000, 1)]),
        Err(FetchError::RangeNotSupported { .. })
    ));
}

#[test]
fn another_part_than_the_one_asked_for_is_refused() {
    let answer = |range: &str| Served::bytes(vec![0; 10]).with_status(206).header("Content-Range", range);
    let table = [
        answer("bytes 900001-900010/1000000"),
        answer("bytes 900000-900008/1000000"),
        answer("bytes 900000-900010/1000000"),
        answer("bytes 0-9/1000000"),
        answer("bytes 900000-900009/*"),
        answer("bytes 900000-900009/5"),
        answer("bytes +900000-900009/1000000"),
        answer("bytes -/"),
        answer("bytes 900000-900009/99999999999999999999"),
        answer("900000-900009/1000000"),
        Served::bytes(vec![0; 9]).with_status(206).header("Content-Range", "bytes 900001-900009/1000000"),
        Served::bytes(vec![0; 10]).with_status(206),
    ];
    for answer in table {
        let shown = format!("{answer:?}");
        let server = turning(move |_| answer.clone().header("ETag", "\"one\""));
        match open(&server).unwrap().read(&[extent(900_000, 10)]) {
            Err(FetchError::WrongRange { asked, .. }) => assert_eq!(asked, extent(900_000, 10)),
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[test]
fn a_body_that_is_not_as_long_as_the_part_is_refused() {
    let answer = |length| {
        let range = "bytes 900000-900009/1000000";
        Served::bytes(vec![0; length])
            .with_status(206)
            .header("Content-Range", range)
            .header("ETag", "\"one\"")
    };
    let read = |answer: Served| {
        let server = turning(move |_| answer.clone());
        open(&server).unwrap().read(&[extent(900_000, 10)]).unwrap_err()
    };
    assert!(matches!(read(answer(9)), FetchError::WrongRange { .. }));
    assert!(matches!(read(answer(11)), FetchError::WrongRange { .. }));
    assert!(matches!(read(answer(11).chunked(11)), FetchError::WrongRange { .. }));
    for short in [answer(9).chunked(3), answer(10).cut_after(9)] {
        let error = read(short);
        assert!(matches!(error, FetchError::Truncated { found: 9, .. }), "{error:?}");
    }
}

#[test]
fn a_file_that_changes_is_noticed_by_size_and_by_validator() {
    let mut larger = pattern();
    larger.push(0);
    let servers = [
        turning(|request| serve(request).header("ETag", "\"two\"")),
        turning(|request| Served::ranged(request, pattern())),
        turning(move |request| Served::ranged(request, larger.clone()).header("ETag", "\"one\"")),
    ];
    for server in servers {
        match open(&server).unwrap().read(&[extent(900_000, 10)]) {
            Err(FetchError::SourceChanged { before, after, .. }) => assert_ne!(before, after),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_error_costs_nothing_of_what_was_read_before() {
    let server = turning(|_| Served::status(503));
    let mut reader = open(&server).unwrap();
    assert!(matches!(reader.read(&[extent(900_000, 1)]), Err(FetchError::ServerError { status: 503, .. })));
    assert_eq!(reader.read(&[extent(1, 3)]).unwrap(), [[1, 2, 3]]);
}

#[test]
fn only_so_much_is_read_at_once() {
    let server = HttpServer::start(|_| {
        let range = "bytes 0-24575/1000000000";
        Served::bytes(vec![0; 24_576]).with_status(206).header("Content-Range", range)
    });
    let mut reader = open(&server).unwrap();
    let large = extent(0, 40 * 1024 * 1024);
    for asked in
        [vec![extent(0, MAXIMUM_READ.bytes() + 1)], vec![large, large], vec![extent(0, 24_000); 3000]]
    {
        assert!(matches!(reader.read(&asked), Err(FetchError::TooMuchAtOnce { .. })));
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn later_requests_go_where_the_first_was_sent_to() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/image.raw" => Served::redirect("/mirror"),
        _ => serve(request),
    });
    let mut reader = open(&server).unwrap();
    reader.read(&[extent(900_000, 1)]).unwrap();
    assert_eq!(reader.url().to_string(), server.url("/mirror"));
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn only_a_strong_entity_tag_tells_versions_apart() {
    let table = [
        (Some("\"x\""), Some("then"), Some(Validator::EntityTag("\"x\"".into()))),
        (Some("W/\"x\""), Some("then"), Some(Validator::LastModified("then".into()))),
        (Some("x"), None, None),
        (Some("\""), None, None),
        (None, None, None),
    ];
    for (tag, time, expected) in table {
        let mut headers = HeaderMap::new();
        tag.map(|tag| headers.insert(ETAG, tag.parse().unwrap()));
        time.map(|time| headers.insert(LAST_MODIFIED, time.parse().unwrap()));
        assert_eq!(Validator::of(&headers), expected);
    }
}

/// Three parts far apart, and one at the end.
fn far_apart() -> [Extent; 4] {
    [extent(900_000, 10), extent(100_000, 7), extent(300_000, 20_000), extent(999_990, 5)]
}

fn assert_pattern(parts: &[Vec<u8>]) {
    for (asked, part) in far_apart().iter().zip(parts) {
        let start = usize::try_from(asked.start().bytes()).unwrap();
        assert!(*part == pattern()[start..start + asked.length().in_memory().unwrap()], "{asked}");
    }
    assert_eq!(parts.len(), far_apart().len());
}

#[test]
fn what_lies_far_apart_comes_with_one_request() {
    let server = HttpServer::start(serve_several);
    let mut reader = open(&server).unwrap();
    for _ in 0..2 {
        assert_pattern(&reader.read(&far_apart()).unwrap());
    }
    let requests = server.requests();
    let ranges: Vec<_> = requests.iter().map(|request| request.ranges_of(LENGTH)).collect();
    let ends = vec![(0, 24_575), (979_520, 999_999)];
    assert_eq!(ranges, [ends, vec![(100_000, 100_006), (300_000, 319_999), (900_000, 900_009)]]);
    assert_eq!(server.connections(), 1);
}

/// A body of these parts, first byte and length, after `edit`.
fn several_parts(parts: &[(usize, usize)], edit: &dyn Fn(String) -> String) -> Served {
    let part = |(start, length): &(usize, usize)| {
        let (end, bytes) = (start + length - 1, "x".repeat(*length));
        format!("\r\n--a\r\nContent-Range: bytes {start}-{end}/1000000\r\n\r\n{bytes}")
    };
    let parts: String = parts.iter().map(part).collect();
    Served::bytes(edit(format!("{parts}\r\n--a--\r\n")).into_bytes())
        .with_status(206)
        .header("Content-Type", "multipart/byteranges; boundary=a")
        .header("ETag", "\"one\"")
}

#[test]
fn a_server_that_does_not_send_just_these_parts_is_asked_for_one_at_a_time() {
    let several = |edit: &dyn Fn(String) -> String| {
        several_parts(&[(100_000, 7), (300_000, 20_000), (900_000, 10)], edit)
    };
    let table = [
        Served::bytes(pattern()),
        Served::bytes(vec![0; 7]).with_status(206).header("Content-Range", "bytes 100000-100006/1000000"),
        Served::status(416),
        Served::status(400),
        several(&|body| body).header("Content-Type", "multipart/byteranges"),
        several(&|body| body.replace("--a--", "--b--")),
        several(&|body| body.replace("100000-100006", "100001-100007")),
        several(&|body| body.replace("bytes 900000-900009", "bytes 100000-100009")),
        several(&|body| format!("{body}{}", "x".repeat(10_000))),
        several(&|body| body.replace("Content-Range", "X-Range")),
        several(&|_| String::new()),
    ];
    for answer in table {
        let shown = format!("{answer:.200?}");
        let server = HttpServer::start(move |request| match request.ranges().len() {
            1 => serve(request),
            2 => serve_several(request),
            _ => answer.clone(),
        });
        let mut reader = open(&server).unwrap();
        for _ in 0..2 {
            assert_pattern(&reader.read(&far_apart()).unwrap_or_else(|error| panic!("{shown}: {error}")));
        }
        // Nothing is left of what a server is spared: as few as it can be.
        let single = [(600_000, 1), (700_000, 1), (800_000, 1)];
        reader.read(&single.map(|(start, length)| extent(start, length))).unwrap();
        let counts: Vec<_> = server.requests().iter().map(|request| request.ranges().len()).collect();
        assert_eq!(counts, [2, 3, 1, 1, 1, 1], "{shown}");
    }
}

#[test]
fn a_server_that_does_not_send_both_ends_is_asked_for_the_beginning() {
    let ends = |edit: &dyn Fn(String) -> String| several_parts(&[(0, 24_576), (979_520, 20_480)], edit);
    let table = [
        Served::bytes(pattern()).without_length(),
        Served::bytes(pattern()).chunked(1000),
        Served::bytes(pattern()).header("Content-Encoding", "gzip"),
        Served::bytes([]),
        Served::bytes(vec![0; 20_480])
            .with_status(206)
            .header("Content-Range", "bytes 979520-999999/1000000"),
        Served::bytes(vec![0; 10]).with_status(206).header("Content-Range", "bytes 0-9/1000000"),
        Served::bytes(vec![0; 10]).with_status(206),
        Served::status(416),
        Served::status(400),
        Served::status(403),
        ends(&|body| body.replace("0-24575", "1-24576")),
        ends(&|body| body.replace("979520-999999/1000000", "979520-999999/1000001")),
        ends(&|body| body.replace("--a--", "--b--")),
        ends(&|_| String::new()),
        several_parts(&[(979_520, 20_480)], &|body| body),
        several_parts(&[(0, 100)], &|body| body),
    ];
    for answer in table {
        let shown = format!("{answer:.200?}");
        let server = HttpServer::start(move |request| match request.ranges().len() {
            1 => serve(request),
            _ => answer.clone(),
        });
        let mut reader = open(&server).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(reader.read(&[extent(1, 3)]).unwrap(), [[1, 2, 3]]);
        assert_eq!(reader.read(&[extent(900_000, 1)]).unwrap(), [[pattern()[900_000]]]);
        let counts: Vec<_> = server.requests().iter().map(|request| request.ranges().len()).collect();
        assert_eq!(counts, [2, 1, 1], "{shown}");
    }
    // One part, of the beginning, is what was asked for, too; and so is all of a small file.
    for (length, range) in [(24_576, "bytes 0-24575/1000000"), (40_000, "bytes 0-39999/40000")] {
        let answer = Served::bytes(pattern()[..length].to_vec()).with_status(206);
        let answer = answer.header("Content-Range", range).header("ETag", "\"one\"");
        let server = turning_from(answer);
        let mut reader = open(&server).unwrap();
        assert_eq!(reader.read(&[extent(24_000, 1)]).unwrap(), [[pattern()[24_000]]]);
        assert_eq!(server.requests().len(), 1);
    }
}

/// A server that answers the first request with `first`, and every later one well.
fn turning_from(first: Served) -> HttpServer {
    let count = AtomicUsize::new(0);
    HttpServer::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => first.clone(),
        _ => serve(request),
    })
}

#[test]
fn of_a_whole_that_nobody_asked_for_no_more_is_taken_than_is_wanted() {
    // Whoever waits for more than that waits for ever.
    let only = |length| move |request: &Request| serve(request).stall_after(length);
    let ranges = |server: &HttpServer| -> Vec<_> {
        let requests = server.requests();
        requests.iter().skip(1).flat_map(|request| request.ranges_of(LENGTH)).collect()
    };
    let at = |start: usize, length: usize| pattern()[start..start + length].to_vec();
    let server = HttpServer::start(move |request| match request.ranges().len() {
        1 => serve(request),
        _ => only(40_005)(request),
    });
    let mut reader = open(&server).unwrap();
    // Near enough to what has come; and what is not, by itself.
    let parts = reader.read(&[extent(40_000, 5), extent(24_000, 1000), extent(300_000, 5)]).unwrap();
    assert_eq!(parts, [at(40_000, 5), at(24_000, 1000), at(300_000, 5)]);
    assert_eq!(ranges(&server), [(300_000, 300_004)]);
    // It is not waited for again.
    assert_eq!(reader.read(&[extent(40_010, 5)]).unwrap(), [at(40_010, 5)]);
    assert_eq!(ranges(&server), [(300_000, 300_004), (40_010, 40_014)]);

    // More is taken where every part would be another request.
    let server = HttpServer::start(move |request| match request.ranges().len() {
        1 => serve(request),
        _ => only(200_005)(request),
    });
    let mut reader = open(&server).unwrap();
    let far: Vec<Extent> = (1..=6).map(|number| extent(number * 100_000, 5)).collect();
    for (part, asked) in reader.read(&far).unwrap().iter().zip(&far) {
        assert_eq!(*part, at(asked.start().bytes().try_into().unwrap(), 5));
    }
    assert_eq!(
        ranges(&server),
        [(300_000, 300_004), (400_000, 400_004), (500_000, 500_004), (600_000, 600_004)]
    );

    // One that breaks off is asked for what is missing.
    let server = HttpServer::start(|request| match request.ranges().len() {
        1 => serve(request),
        _ => serve(request).cut_after(24_600),
    });
    let mut reader = open(&server).unwrap();
    assert_eq!(reader.read(&[extent(24_600, 1000)]).unwrap(), [at(24_600, 1000)]);
    assert_eq!(ranges(&server), [(0, 25_599)]);

    // A small file is there at once, whether its server knows parts or not.
    let server = HttpServer::start(|_| Served::bytes(pattern()[..100_000].to_vec()));
    let mut reader = open(&server).unwrap();
    assert_eq!(reader.read(&[extent(99_990, 10), extent(0, 3)]).unwrap(), [at(99_990, 10), at(0, 3)]);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn whether_a_server_knows_parts_is_asked_where_it_does_not_say() {
    let silent = |request: &Request| match request.ranges().len() {
        1 => serve(request),
        _ => Served::bytes(pattern()).header("ETag", "\"one\""),
    };
    let server = HttpServer::start(silent);
    let mut reader = open(&server).unwrap();
    let end = reader.read(&[extent(999_990, 10)]).unwrap();
    assert_eq!(end, [pattern()[999_990..].to_vec()]);
    assert_eq!(server.requests().len(), 2);
    let server = HttpServer::start(move |request| {
        silent(request).header("ETag", &format!("\"{}\"", request.ranges().len()))
    });
    assert!(matches!(open(&server), Err(FetchError::SourceChanged { .. })));
}

/// A server that answers one request after the other, each with the whole of `length` bytes and without a word of parts,
/// as Python's `HTTPServer` does.
fn one_at_a_time(length: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            // Whoever has enough goes away.
            let _ = write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = connection.write_all(&vec![b'x'; length]);
        }
    });
    address
}

#[test]
fn a_server_that_does_one_thing_at_a_time_is_let_go_before_it_is_asked_again() {
    // More than what the buffers on the way take.
    let address = one_at_a_time(64 << 20);
    let url = ImageUrl::parse(&format!("http://{address}/image.raw")).unwrap();
    let client = HttpClient::new(HttpOptions {
        stall_timeout: Duration::from_secs(10),
        proxies: Proxies::None,
        ..HttpOptions::default()
    });
    let opened = RangeReader::open(&client, &url, RetryOptions::never(), Box::new(|_| ()));
    assert!(matches!(opened, Err(FetchError::RangeNotSupported { .. })), "{opened:?}");
}

#[test]
fn parts_of_another_version_are_noticed() {
    for (tag, total) in [("\"two\"", LENGTH), ("\"one\"", LENGTH + 1)] {
        let server = HttpServer::start(move |request| match request.ranges().len() {
            2 => serve_several(request),
            _ => Served::ranged(request, vec![0; total]).header("ETag", tag),
        });
        match open(&server).unwrap().read(&far_apart()) {
            Err(FetchError::SourceChanged { before, after, .. }) => assert_ne!(before, after),
            other => panic!("{other:.300?}"),
        }
    }
}

#[test]
fn what_fails_for_a_while_is_tried_again_and_not_for_ever() {
    let retry = RetryOptions {
        retries: 2,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(2),
    };
    for (failures, status) in [(2, 503), (1, 429), (3, 503)] {
        let count = AtomicUsize::new(0);
        // All but the second one, as far as that number.
        let server = HttpServer::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
            1 => serve(request),
            n if n <= failures => Served::status(status),
            _ => serve(request),
        });
        let heard = AtomicUsize::new(0);
        let hear = |_: &Setback<'_>| {
            heard.fetch_add(1, Ordering::SeqCst);
        };
        let mut reader = open_with(&server, retry, Box::new(hear)).unwrap();
        let found = reader.read(&[extent(900_000, 10)]);
        drop(reader);
        assert!(found.is_ok(), "{found:?}");
        assert_eq!(heard.load(Ordering::SeqCst), failures);
    }
    let server = turning(|_| Served::status(500));
    let mut reader = open_with(&server, retry, Box::new(|_| ())).unwrap();
    assert!(matches!(reader.read(&[extent(900_000, 1)]), Err(FetchError::GaveUp { attempts: 3, .. })));
    assert_eq!(server.requests().len(), 4);
    // A body that breaks off is one that failed.
    let cut = AtomicUsize::new(0);
    let server = turning(move |request| match cut.fetch_add(1, Ordering::SeqCst) {
        0 => serve(request).cut_after(3),
        _ => serve(request),
    });
    let mut reader = open_with(&server, retry, Box::new(|_| ())).unwrap();
    assert_eq!(reader.read(&[extent(900_000, 10)]).unwrap()[0], pattern()[900_000..900_010]);
}
