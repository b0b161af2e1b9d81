//! `ddictl audit` over many images: which are found, in which order, in which forms, and with which exit status.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::command_line::{Told, Workshop, keys};
use crate::corpus::{Row, rows, stranger, trusted};
use crate::ddi_builder::Ddi;
use crate::http_server::{Answer, HttpServer};

const POLICY: &str = "--certificate=k.crt --image-policy=@verified-boot";

fn images(told: &Told) -> Vec<(String, String)> {
    let lines = told.data.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    lines.map(|line| (word(&line["image"]), word(&line["verdict"]))).collect()
}

/// A directory with images among other files: good, by a stranger, cut off, without a name that says so.
fn gallery() -> Workshop {
    let workshop = Workshop::new();
    let good = Ddi::signed(trusted()).bytes();
    for directory in ["gallery/b/deep/er", "gallery/a", "gallery/empty"] {
        fs::create_dir_all(workshop.path(directory)).unwrap();
    }
    workshop.write("gallery/z.raw", &good);
    workshop.write("gallery/b/deep/er/good.ddi", &good);
    workshop.write("gallery/b/stranger.img", &Ddi::signed(stranger()).bytes());
    workshop.write("gallery/a/cut.raw", &good[..good.len() / 2]);
    workshop.write("gallery/a/no-name", &good);
    workshop.write("gallery/a/SHA256SUMS", b"nothing\n");
    workshop.write("gallery/z.roothash", b"");
    symlink("/", workshop.path("gallery/a/link")).unwrap();
    symlink("z.raw", workshop.path("gallery/link.raw")).unwrap();
    nix::unistd::mkfifo(&workshop.path("gallery/fifo.raw"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    workshop
}

#[test]
fn a_directory_is_gone_through_by_name_and_links_are_not_followed() {
    let workshop = gallery();
    fs::remove_file(workshop.path("gallery/z.roothash")).unwrap();
    let expected = [
        ("gallery/a/cut.raw", "malformed"),
        ("gallery/a/no-name", "accept"),
        ("gallery/b/deep/er/good.ddi", "accept"),
        ("gallery/b/stranger.img", "refuse"),
        ("gallery/z.raw", "accept"),
    ]
    .map(|(image, verdict)| (image.to_owned(), verdict.to_owned()));
    for _ in 0..3 {
        let told = workshop.run(&format!("audit {POLICY} --format=json gallery")).exits(3);
        assert_eq!(images(&told), expected);
        assert!(told.talk.is_empty(), "{told:?}");
    }
    let told = workshop.run(&format!("audit {POLICY} gallery")).exits(3);
    assert!(
        told.data.ends_with(
            "5 image(s): 1 malformed, 1 refuse, 3 accept; 2 not acceptable; 1 other file(s) in the directories\n"
        ),
        "{told:?}"
    );
    // What is as it should be is left out.
    let told = workshop.run(&format!("audit --quiet {POLICY} gallery")).exits(3);
    let verdicts: Vec<&str> = told.data.lines().filter(|line| line.starts_with("gallery/")).collect();
    assert_eq!(verdicts, ["gallery/a/cut.raw: malformed", "gallery/b/stranger.img: refuse"]);
    assert!(workshop.run(&format!("audit --quiet {POLICY} gallery/z.raw")).exits(0).data.is_empty());
    // A link that was named is followed, as any name is.
    workshop.run(&format!("audit {POLICY} gallery/link.raw")).exits(0);
}

#[test]
fn a_directory_without_images_is_1_and_keeps_no_other_from_being_judged() {
    let workshop = gallery();
    workshop
        .run(&format!("audit --format=json {POLICY} gallery/empty"))
        .fails(1, &["looking for images in 'gallery/empty'", "expected images", "found none"]);
    let told = workshop.run(&format!("audit --format=json {POLICY} gallery/empty gallery/b/deep")).exits(1);
    assert_eq!(images(&told), [("gallery/b/deep/er/good.ddi".to_owned(), "accept".to_owned())]);
    // A file beside an image that is no root hash is a finding of that image.
    let told = workshop.run(&format!("audit --format=json {POLICY} gallery")).exits(3);
    assert_eq!(images(&told).last().unwrap(), &("gallery/z.raw".to_owned(), "refuse".to_owned()));
}

/// What the kernel says of every thread of a process: whether it may gain rights, and whether its system calls are filtered.
fn confinement(process: u32) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let word = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let statuses =
        threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok());
    statuses.map(|text| (word(&text, "NoNewPrivs:"), word(&text, "Seccomp:"))).collect()
}

#[test]
fn every_thread_that_looks_at_images_is_confined() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("many")).unwrap();
    let good: Arc<[u8]> = Ddi::signed(trusted()).bytes().into();
    for number in 0..200 {
        workshop.write(&format!("many/{number}.raw"), &good);
    }
    // Nobody reads what it says: it stops in the middle of it, and can be looked at.
    let mut child = workshop
        .command(&format!("audit {POLICY} --format=json many"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut beginning = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut beginning).unwrap();
    let found = confinement(child.id());
    assert!(found.len() >= 2, "{found:?}");
    assert!(
        found.iter().all(|(rights, filter)| (rights.as_str(), filter.as_str()) == ("1", "2")),
        "{found:?}"
    );
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(rest.matches("\"verdict\":\"accept\"").count(), 200);

    // One that asks a server.
    let process = Arc::new(AtomicUsize::new(0));
    let (seen, child) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&process));
    let server = HttpServer::start({
        let seen = Arc::clone(&seen);
        move |request| {
            // Until it is known which process asks.
            while child.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let process = u32::try_from(child.load(Ordering::SeqCst)).unwrap();
            seen.lock().unwrap().extend(confinement(process));
            Answer::ranged(request, Arc::clone(&good))
        }
    });
    let url = server.url("/image.raw");
    let child = workshop.command(&format!("audit {POLICY} {url}")).stdout(Stdio::null()).spawn().unwrap();
    process.store(usize::try_from(child.id()).unwrap(), Ordering::SeqCst);
    assert!(child.wait_with_output().unwrap().status.success());
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.iter().all(|(rights, filter)| (rights.as_str(), filter.as_str()) == ("1", "2")), "{seen:?}");
}

#[test]
fn hundreds_of_images_come_in_the_order_of_their_names() {
    let workshop = Workshop::new();
    let good = Ddi::signed(trusted()).bytes();
    fs::create_dir(workshop.path("many")).unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("many/{number:03}.raw")).collect();
    for (number, name) in names.iter().enumerate() {
        workshop.write(name, if number % 7 == 3 { b"" } else { &good });
    }
    let told = workshop.run(&format!("audit {POLICY} --format=json many")).exits(3);
    let found = images(&told);
    assert_eq!(found.iter().map(|(image, _)| image).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    for (number, (_, verdict)) in found.iter().enumerate() {
        assert_eq!(verdict, if number % 7 == 3 { "malformed" } else { "accept" }, "{number}");
    }
}

#[test]
fn sarif_is_one_document_with_every_rule_and_a_result_for_each_finding() {
    let workshop = gallery();
    let told = workshop.run(&format!("audit {POLICY} --format=sarif gallery missing.raw")).exits(3);
    let document = told.json();
    assert_eq!(document["version"], "2.1.0");
    let [run] = document["runs"].as_array().unwrap().as_slice() else { panic!("{document}") };
    // SARIF 2.1.0, 3.13 to 3.58: what is required of each object, and that what refers to something finds it.
    assert_eq!(keys(run), ["tool", "invocations", "artifacts", "results"]);
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let ids: Vec<&str> = rules.iter().map(|rule| rule["id"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for rule in rules {
        for property in ["shortDescription", "fullDescription", "help"] {
            assert!(rule[property]["text"].as_str().is_some_and(|text| !text.is_empty()), "{rule}");
        }
    }
    let artifacts = run["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 5);
    let results = run["results"].as_array().unwrap();
    assert!(results.len() >= 4, "{results:?}");
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(ids[index], result["ruleId"].as_str().unwrap());
        assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap()));
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let place = &result["locations"][0]["physicalLocation"];
        let artifact = usize::try_from(place["artifactLocation"]["index"].as_u64().unwrap()).unwrap();
        assert_eq!(artifacts[artifact]["location"]["uri"], place["artifactLocation"]["uri"]);
        assert_eq!(place["region"]["startLine"], 1);
    }
    let invocation = &run["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    let notification = &invocation["toolExecutionNotifications"][0];
    assert!(notification["message"]["text"].as_str().unwrap().contains("missing.raw"), "{notification}");
    // Nothing wrong is an empty list, and not none.
    let good = workshop.run(&format!("audit {POLICY} --format=sarif gallery/b/deep")).exits(0).json();
    assert_eq!(good["runs"][0]["results"], Value::Array(Vec::new()));
    assert_eq!(good["runs"][0]["invocations"][0]["executionSuccessful"], true);
}

/// The elements of a document of ours, each with its attributes, after checking that they close in their order.
fn elements(document: &str) -> Vec<(String, String)> {
    let mut open = Vec::new();
    let mut found = Vec::new();
    let (head, mut rest) = document.split_once('\n').unwrap();
    assert_eq!(head, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, behind) = tag.split_once('>').unwrap();
        rest = behind;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "{document}");
            continue;
        }
        let whole = tag.strip_suffix('/');
        let (name, attributes) = whole.unwrap_or(tag).split_once(' ').unwrap_or((whole.unwrap_or(tag), ""));
        if whole.is_none() {
            open.push(name.to_owned());
        }
        found.push((name.to_owned(), attributes.to_owned()));
    }
    assert_eq!(open, [""; 0]);
    found
}

#[test]
fn junit_has_a_suite_an_image_and_counts_what_fails() {
    let workshop = gallery();
    fs::rename(workshop.path("gallery/z.raw"), workshop.path("gallery/<z> & 'co'.raw")).unwrap();
    let told = workshop.run(&format!("audit {POLICY} --format=junit gallery missing.raw")).exits(3);
    let found = elements(&told.data);
    let count = |name: &str| found.iter().filter(|(element, _)| element == name).count();
    let attribute = |of: &str, name: &str| {
        let (_, behind) = of.split_once(&format!("{name}=\"")).unwrap();
        behind.split_once('"').unwrap().0.to_owned()
    };
    assert_eq!(count("testsuite"), 6);
    let sum = &found[0].1;
    for (name, element) in [("tests", "testcase"), ("failures", "failure"), ("errors", "error")] {
        assert_eq!(attribute(sum, name), count(element).to_string(), "{name} in {sum}");
    }
    assert!(count("failure") >= 4 && count("error") == 1, "{}", told.data);
    let names: Vec<String> =
        found.iter().filter(|(name, _)| name == "testsuite").map(|(_, of)| attribute(of, "name")).collect();
    assert!(names.contains(&"gallery/&lt;z&gt; &amp; &apos;co&apos;.raw".to_owned()), "{names:?}");
    // A warning fails only where it is asked to.
    workshop.write("warning.raw", &Ddi::signed(stranger()).bytes());
    for (level, failures) in [("error", 0), ("warning", 1)] {
        let told =
            workshop.run(&format!("audit --certificate=k.crt --format=junit --fail-on={level} warning.raw"));
        assert_eq!(attribute(&elements(&told.data)[0].1, "failures"), failures.to_string(), "{told:?}");
    }
}

#[test]
fn an_image_on_a_server_costs_few_requests_and_few_bytes() {
    let workshop = Workshop::new();
    let good: Arc<[u8]> = Ddi::signed(trusted()).bytes().into();
    // A server that sends several parts at once, as most do, and one that is asked for each by itself.
    // What each costs for larger images is in remote.rs.
    for (several, most, bytes) in [(true, 2, 96 * 1024), (false, 6, 160 * 1024)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let (served, body) = (Arc::clone(&sent), Arc::clone(&good));
        let server = HttpServer::start(move |request| {
            let answer = match several {
                true => Answer::ranged(request, Arc::clone(&body)),
                false => Answer::ranged_singly(request, Arc::clone(&body)),
            };
            // Whoever asked for several parts and is sent the whole hangs up.
            if several || request.ranges().len() == 1 {
                served.fetch_add(answer.body().len(), Ordering::SeqCst);
            }
            answer
        });
        let url = server.url("/image.raw?token=secret");
        let told = workshop.run(&format!("audit {POLICY} --format=json {url}")).exits(0);
        let requests = server.requests();
        assert!(requests.iter().all(|request| request.range().is_some()), "{requests:?}");
        let (requests, sent) = (requests.len(), sent.load(Ordering::SeqCst));
        assert!(requests <= most && sent <= bytes, "{requests} requests, {sent} bytes");
        let value = told.json();
        assert_eq!(value["verdict"], "accept");
        assert_eq!(value["image"], server.url("/image.raw?***"));
        assert!(!told.data.contains("secret") && told.talk.is_empty(), "{told:?}");
        // The same as of the file.
        workshop.write("image.raw", &good);
        let of_file = workshop.run(&format!("audit {POLICY} --format=json image.raw")).exits(0).json();
        assert_eq!(value["partitions"], of_file["partitions"]);
        // Under another policy it is refused from as little.
        workshop.run(&format!("audit --image-policy=@verified-boot {url}")).exits(3);
        workshop.run(&format!("audit --deep {url}")).fails(2, &["--deep", "pull those on servers first"]);
    }
}

#[test]
fn a_server_that_fails_is_1_and_one_without_ranges_is_read_from_its_beginning_or_refused() {
    let workshop = Workshop::new();
    let good: Arc<[u8]> = Ddi::signed(trusted()).bytes().into();
    let body = Arc::clone(&good);
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/whole.raw" => Answer::bytes(Arc::clone(&body)),
        "/endless.raw" => Answer::bytes(Arc::clone(&body)).claim_length(usize::MAX / 4),
        _ => Answer::status(404),
    });
    let told = workshop.run(&format!("audit {POLICY} --format=json {}", server.url("/whole.raw"))).exits(0);
    assert_eq!(told.json()["verdict"], "accept");
    workshop
        .run(&format!("audit {POLICY} {}", server.url("/endless.raw")))
        .fails(1, &["range", "ddictl pull raw"]);
    workshop.run(&format!("audit {POLICY} {}", server.url("/none.raw"))).fails(1, &["404"]);
    workshop.write("good.raw", &good);
    let told = workshop
        .run(&format!(
            "audit {POLICY} --format=json {} good.raw {}",
            server.url("/none.raw"),
            server.url("/whole.raw")
        ))
        .exits(1);
    assert_eq!(images(&told).len(), 2);
    workshop.run("audit http://").fails(1, &["http://"]);
}

/// How much memory a process had at the most, of what is its own, in bytes; sampled until it ends.
#[expect(clippy::disallowed_methods, reason = "no event tells of memory: it is sampled")]
fn most_memory(child: &mut std::process::Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        // It is gone as soon as the process has ended. The high-water mark counts files that are mapped, too.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let found = line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        most = most.max(found.unwrap_or_default() * 1024);
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    most
}

#[test]
fn an_audit_takes_less_than_64_mebibytes_whatever_the_image() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("corpus")).unwrap();
    for (number, image) in rows().iter().map(Row::refused).enumerate() {
        workshop.write(&format!("corpus/{number:03}.raw"), &image);
    }
    for (number, esp) in crate::boot_partitions::hostile().into_iter().enumerate() {
        workshop.write(&format!("corpus/esp-{number}.raw"), &crate::boot_partitions::image(&esp).bytes());
    }
    // One after the other, so that the gravest is not hidden by the sum.
    let mut judged = 0;
    for entry in fs::read_dir(workshop.path("corpus")).unwrap() {
        let image = entry.unwrap().path();
        let mut command = workshop.command("audit --format=json");
        let mut child = command.arg(&image).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let most = most_memory(&mut child);
        assert!(most < 64 << 20, "{}: {most} bytes", image.display());
        judged += usize::from(most > 0);
    }
    // It is measured at all.
    assert!(judged > 20, "{judged}");
}
