//! Servers that fail, lie or dawdle: what becomes of a pull, what it says, and that nothing is left behind.
//!
//! A redirect to http, what is cut short in zstd, faults at named places and signals to a silent transfer are in
//! `pull.rs`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{HostTest, MachineState, Need, ddictl};
use crate::http_server::{Answer, HttpServer, Request};
use crate::pull::{Images, PULL, Place, detach, refused, talk};
use crate::pull_directory::Tmpfs;
use crate::repart::succeed;
use crate::tar_builder::TarBuilder;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_faults::cut_anywhere_it_goes_on_there",
        needs: PULL,
        run: cut_anywhere_it_goes_on_there,
    },
    HostTest { name: "pull_faults::what_passes_is_overcome", needs: PULL, run: what_passes_is_overcome },
    HostTest {
        name: "pull_faults::what_does_not_pass_ends_the_pull_by_name",
        needs: PULL,
        run: what_does_not_pass_ends_the_pull_by_name,
    },
    HostTest {
        name: "pull_faults::what_is_compressed_badly_is_refused_by_name",
        needs: PULL,
        run: what_is_compressed_badly_is_refused_by_name,
    },
    HostTest {
        name: "pull_faults::a_bomb_stops_where_the_room_ends",
        needs: PULL,
        run: a_bomb_stops_where_the_room_ends,
    },
    HostTest {
        name: "pull_faults::an_archive_that_does_not_fit_leaves_nothing",
        needs: &[Need::Root, Need::FileSystem("tmpfs")],
        run: an_archive_that_does_not_fit_leaves_nothing,
    },
    HostTest {
        name: "pull_faults::a_signal_ends_the_wait_for_the_next_attempt",
        needs: PULL,
        run: a_signal_ends_the_wait_for_the_next_attempt,
    },
];

/// What becomes of the attempts to have all of the file: the number of the attempt, the request, the good answer.
type Misbehaviour = Box<dyn Fn(usize, &Request, Answer) -> Answer + Send + Sync>;

/// Serves `image`, to whoever asks for parts as well, and nothing beside it. Whoever asks for the whole, or for the rest of it, gets what
/// `misbehaviour` makes of that.
fn serve(image: &Arc<[u8]>, misbehaviour: Misbehaviour) -> HttpServer {
    let (image, asked) = (Arc::clone(image), AtomicUsize::new(0));
    HttpServer::start(move |request| {
        if !["/image.raw", "/tree.tar"].iter().any(|path| request.path.starts_with(path)) {
            return Answer::status(404);
        }
        let good = Answer::ranged(request, Arc::clone(&image)).header("ETag", "\"one\"");
        match request.range().is_none() || request.header("If-Range").is_some() {
            true => misbehaviour(asked.fetch_add(1, Ordering::SeqCst), request, good),
            false => good,
        }
    })
}

fn sha256(bytes: &[u8]) -> String {
    openssl::sha::sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `ddictl pull` of an image with this digest.
fn pull(images: &Images, server: &HttpServer, place: &Place, image: &[u8]) -> Command {
    let mut command = ddictl();
    command.args(["pull", "raw", &server.url("/image.raw"), "image", "--attach", "--json=short"]);
    command.args([&format!("--verify={}", sha256(image)), &images.certificate(), &place.option()]);
    for variable in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command
}

/// A pull that succeeds all the same: what it said, and the image that it placed.
fn arrives(images: &Images, server: &HttpServer, options: &[&str], what: &str) -> String {
    let (before, place) = (MachineState::now(), Place::new());
    let output = pull(images, server, &place, &images.good).args(options).output().unwrap();
    let said = talk(&output);
    assert!(output.status.success(), "{what}: {said}");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let arrived = fs::read(place.path().join("image.raw"));
    detach("image.raw");
    assert!(arrived.unwrap() == *images.good, "{what}");
    assert_eq!(record["image"]["digest"], sha256(&images.good), "{what}");
    assert!(place.is_gone(), "{what}");
    assert_eq!(before.difference(&MachineState::now()), None, "{what}");
    said
}

fn cut_anywhere_it_goes_on_there() {
    let images = Images::new();
    let length = images.good.len();
    for tenth in 0..10 {
        let end = length * tenth / 10;
        let server = serve(
            &images.good,
            Box::new(move |attempt, _, good| if attempt == 0 { good.cut_after(end) } else { good }),
        );
        let said = arrives(&images, &server, &["--retries=1"], &format!("{tenth} tenths"));
        assert!(said.contains("trying again"), "{said}");
        assert_eq!(said.contains("begins anew"), tenth == 0, "{said}");
        let resumed: Vec<_> = server
            .requests()
            .iter()
            .filter(|request| request.header("If-Range") == Some("\"one\""))
            .filter_map(Request::range)
            .collect();
        // With the very next byte, of which the server may have sent less than it believes.
        match resumed[..] {
            [] => assert_eq!(tenth, 0),
            [(first, last)] => assert!(first <= end && first > 0 && last == usize::MAX, "{first} of {end}"),
            _ => panic!("{resumed:?}"),
        }
    }
}

fn what_passes_is_overcome() {
    let images = Images::new();
    let half = images.good.len() / 2;
    let (good, other) = (Arc::clone(&images.good), images.flipped());
    let whole = move || Answer::bytes(Arc::clone(&good)).header("ETag", "\"one\"");
    let replaced = whole.clone();
    let all = images.good.len();
    let rest = images.good[half..].to_vec();
    // An answer to the request for the rest that is another part than it.
    let part = move |range: String, bytes: Vec<u8>| {
        Answer::bytes(bytes).with_status(206).header("Content-Range", &range).header("ETag", "\"one\"")
    };
    let right = format!("bytes {half}-{}/{all}", all - 1);
    let overlapping = [&images.good[half - 1..half], &rest].concat();
    let resumed_with = |answer: Answer| -> Misbehaviour {
        Box::new(move |attempt, request, good| match attempt {
            0 => good.cut_after(half),
            // It may have come less far than was sent.
            _ if request.header("If-Range").is_some() => answer.clone(),
            _ => good,
        })
    };
    let table: Vec<(&str, Misbehaviour, &str)> = vec![
        ("500, then 200", Box::new(|n, _, good| if n == 0 { Answer::status(500) } else { good }), "HTTP 500"),
        (
            "429 and 503",
            Box::new(|n, _, good| match n {
                0 => Answer::status(429).header("Retry-After", "0"),
                1 => Answer::status(503),
                _ => good,
            }),
            "trying again",
        ),
        ("hung up", Box::new(|n, _, good| if n == 0 { Answer::hang_up() } else { good }), "trying again"),
        ("no HTTP", Box::new(|n, _, good| if n == 0 { Answer::garbage() } else { good }), "trying again"),
        (
            "silence",
            Box::new(move |n, _, good| if n == 0 { good.stall_after(half) } else { good }),
            "trying again",
        ),
        (
            "too long a length",
            Box::new(move |n, _, good| if n == 0 { good.claim_length(all + 1) } else { good }),
            "begins anew",
        ),
        ("the range is ignored", resumed_with(whole()), "begins anew"),
        ("HTTP 416", resumed_with(Answer::status(416)), "begins anew"),
        ("no Content-Range", resumed_with(Answer::bytes(rest.clone()).with_status(206)), "begins anew"),
        (
            "an overlap",
            resumed_with(part(format!("bytes {}-{}/{all}", half - 1, all - 1), overlapping)),
            "begins anew",
        ),
        (
            "a gap",
            resumed_with(part(format!("bytes {}-{}/{all}", half + 1, all - 1), rest[1..].to_vec())),
            "begins anew",
        ),
        (
            "not to the end",
            resumed_with(part(format!("bytes {half}-{}/{all}", all - 2), rest[..rest.len() - 1].to_vec())),
            "begins anew",
        ),
        (
            "another size",
            resumed_with(part(format!("bytes {half}-{}/{}", all - 1, all + 1), rest.clone())),
            "begins anew",
        ),
        ("another length", resumed_with(part(right.clone(), rest[1..].to_vec())), "begins anew"),
        (
            "another version in spite of If-Range",
            resumed_with(part(right, rest).header("ETag", "\"two\"")),
            "begins anew",
        ),
        (
            "another version the first time",
            Box::new(move |attempt, _, _| match attempt {
                0 => Answer::bytes(Arc::clone(&other)).header("ETag", "\"zero\"").cut_after(half),
                // Whose If-Range is not that of the file gets the whole.
                _ => replaced(),
            }),
            "begins anew",
        ),
    ];
    for (what, misbehaviour, words) in table {
        let server = serve(&images.good, misbehaviour);
        let said = arrives(&images, &server, &["--retries=2", "--stall-timeout=1"], what);
        assert!(said.contains(words), "{what}: {said}");
    }
}

fn what_does_not_pass_ends_the_pull_by_name() {
    let images = Images::new();
    let all = images.good.len();
    let always = |answer: Answer| -> Misbehaviour { Box::new(move |_, _, _| answer.clone()) };
    let table: Vec<(&str, Misbehaviour, &[&str], i32, &str)> = vec![
        ("endless 500", always(Answer::status(500)), &["--retries=2"], 1, "3 attempts"),
        ("never an answer", always(Answer::hang()), &["--stall-timeout=1", "--retries=0"], 1, "in 1 s"),
        (
            "a byte now and then",
            Box::new(|_, _, good| good.trickle(Duration::from_millis(100))),
            &["--stall-timeout=1", "--retries=1"],
            1,
            "in 1 s",
        ),
        (
            "a byte now and then, and a deadline",
            Box::new(|_, _, good| good.trickle(Duration::from_millis(100))),
            &["--timeout=2", "--retries=1"],
            1,
            "2 s",
        ),
        (
            "cut again and again",
            Box::new(|_, _, good| good.cut_after(1000)),
            &["--retries=1"],
            1,
            "2 attempts",
        ),
        // More is not read than the length says, and that is not the image.
        (
            "too short a length",
            Box::new(move |_, _, good| good.claim_length(all - 512)),
            &["--retries=0"],
            3,
            "another download than expected",
        ),
        ("another image", always(Answer::bytes(images.flipped())), &[], 3, "another download than expected"),
        ("an empty one", always(Answer::bytes([])), &[], 3, "another download than expected"),
        (
            "redirects without end",
            Box::new(|_, request, _| Answer::redirect(&format!("{}x", request.path))),
            &["--retries=3"],
            1,
            "more than 10 redirects",
        ),
        ("a redirect to nowhere", always(Answer::status(302)), &["--retries=3"], 1, "refused"),
        ("gone", always(Answer::status(410)), &["--retries=3"], 1, "410"),
    ];
    for (what, misbehaviour, options, status, words) in table {
        let (server, place) = (serve(&images.good, misbehaviour), Place::new());
        let begin = Instant::now();
        refused(pull(&images, &server, &place, &images.good).args(options), status, words);
        assert!(place.is_gone(), "{what}");
        assert!(begin.elapsed() < Duration::from_secs(15), "{what}: {:?}", begin.elapsed());
    }
}

/// The ways to compress that can be damaged, zstd beside them.
fn compressed(bytes: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(bytes).unwrap();
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(bytes).unwrap();
    [
        ("gzip", gzip.finish().unwrap()),
        ("bzip2", bzip2.finish().unwrap()),
        ("xz", liblzma::encode_all(bytes, 1).unwrap()),
        ("zstd", zstd.finish().unwrap()),
    ]
}

fn what_is_compressed_badly_is_refused_by_name() {
    let (images, place) = (Images::new(), Place::new());
    for (name, good) in compressed(&images.good) {
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 0x10;
        let mut checksum = good.clone();
        let end = good.len() - if name == "xz" { 20 } else { 3 };
        checksum[end] ^= 1;
        for (damaged, words) in [
            (good[..good.len() / 2].to_vec(), "cut short"),
            (good[..good.len() - 1].to_vec(), "cut short"),
            (flipped, &*format!("decompressing {name}")),
            (checksum, &*format!("decompressing {name}")),
        ] {
            let damaged: Arc<[u8]> = damaged.into();
            let server = serve(&damaged, Box::new(|_, _, good| good));
            let mut command = images.pull(&server.url("/image.raw"));
            refused(command.arg(place.option()), 3, words);
            assert!(place.is_gone(), "{name}: {words}");
        }
    }
}

fn a_bomb_stops_where_the_room_ends() {
    let images = Images::new();
    // Members of 64 MiB, so many of them that they make 100 GiB.
    for (name, member) in compressed(&vec![b'a'; 64 << 20]) {
        let bomb: Arc<[u8]> = member.repeat(((100 << 30) / (64 << 20)).min((10 << 20) / member.len())).into();
        let server = serve(&bomb, Box::new(|_, _, good| good));
        let small = Tmpfs::new("8m");
        refused(images.pull(&server.url("/image.raw")).arg(small.option()), 1, "no room is left after");
        assert_eq!((fs::read_dir(small.path()).unwrap().count(), small.used()), (0, 0), "{name}");
    }
}

fn an_archive_that_does_not_fit_leaves_nothing() {
    let noise: Vec<u8> = (0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let plain = TarBuilder::new().directory("d").file("d/a", &noise).file("d/b", &noise).finish();
    let mut zeros = TarBuilder::new();
    for number in 0..200 {
        zeros = zeros.file(&number.to_string(), &[b'x'; 60_000]);
    }
    let zeros = zstd::encode_all(&zeros.finish()[..], 1).unwrap();
    for (archive, room, words) in [
        // It does not fit as it comes; it fits, and what is in it does not; the same of a small one.
        (plain.clone(), "2m", "can be had"),
        (plain, "5m", "no room is left: writing"),
        (zeros, "1m", "its members need more than"),
    ] {
        let archive: Arc<[u8]> = archive.into();
        let server = serve(&archive, Box::new(|_, _, good| good));
        let small = Tmpfs::new(room);
        let mut command = ddictl();
        command.args(["pull", "tar", &server.url("/tree.tar"), "tree-under-test", "--verify=no"]);
        refused(command.arg(small.option()), 1, words);
        assert_eq!((fs::read_dir(small.path()).unwrap().count(), small.used()), (0, 0), "{words}");
    }
    let archive: Arc<[u8]> = TarBuilder::new().file("a", b"x").finish().into();
    let server = serve(&archive, Box::new(|_, _, good| good));
    let enough = Tmpfs::new("1m");
    let mut command = ddictl();
    command.args([
        "pull",
        "tar",
        &server.url("/tree.tar"),
        "tree-under-test",
        "--verify=no",
        "--runtime=yes",
    ]);
    succeed(command.arg(enough.option()));
    detach("tree-under-test");
}

fn a_signal_ends_the_wait_for_the_next_attempt() {
    let images = Images::new();
    let image = Arc::clone(&images.good);
    for (signal, status) in [("TERM", 143), ("INT", 130)] {
        let (before, place) = (MachineState::now(), Place::new());
        let server = serve(
            &image,
            Box::new(|attempt, _, good| match attempt {
                0 => good.cut_after(100_000),
                _ => Answer::status(503).header("Retry-After", "60"),
            }),
        );
        let mut child = pull(&images, &server, &place, &image)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("trying again in 60.0 s") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
        }
        let struck = Instant::now();
        succeed(Command::new("kill").args(["-s", signal, &child.id().to_string()]));
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        let ended = child.wait().unwrap();
        assert!(struck.elapsed() < Duration::from_secs(2), "{signal}: {:?}", struck.elapsed());
        assert_eq!(ended.code(), Some(status), "{rest}");
        assert!(place.is_gone());
        assert_eq!(before.difference(&MachineState::now()), None);
    }
}
