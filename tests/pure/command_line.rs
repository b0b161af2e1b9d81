//! The program as people and CI jobs meet it: exit status, output, and what it says when it refuses or fails.

use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ddictl::format::designator::Designator;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use tempfile::TempDir;

use crate::corpus::{stranger, trusted};
use crate::ddi_builder::{Ddi, Protected, fixture, foreign, squashfs};

/// How long a program may take that must not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a key that is trusted, and with images.
pub(crate) struct Workshop(TempDir);

impl Workshop {
    pub(crate) fn new() -> Self {
        let workshop = Self(tempfile::tempdir().unwrap());
        workshop.write("k.crt", &trusted().certificate_pem());
        workshop.write("k.key", &trusted().key_pem());
        workshop
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program in this directory, with the words of `line` as arguments.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddictl"));
        command.args(line.split_whitespace()).current_dir(self.0.path()).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    pub(crate) fn run(&self, line: &str) -> Told {
        Told::from(self.command(line).output().unwrap())
    }
}

/// What the program said.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: ExitStatus,
    pub(crate) data: String,
    pub(crate) talk: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        Self {
            status: output.status,
            data: String::from_utf8(output.stdout).unwrap(),
            talk: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Told {
    /// Asserts the exit status.
    pub(crate) fn exits(self, status: i32) -> Self {
        assert_eq!(self.status.code(), Some(status), "{self:?}");
        self
    }

    /// Asserts that the error has all of these words, and that there is no data.
    pub(crate) fn fails(self, status: i32, words: &[&str]) {
        assert!(self.data.is_empty(), "{self:?}");
        let told = self.exits(status);
        for word in words {
            assert!(told.talk.contains(word), "expected '{word}' in: {}", told.talk);
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn signed() -> Ddi {
    Ddi::signed(trusted())
}

#[test]
fn an_accepted_image_is_0_a_refused_one_3_a_missing_one_1_nonsense_2() {
    let workshop = Workshop::new();
    workshop.write("good.raw", &signed().bytes());
    workshop.write("bad.raw", &Ddi::signed(stranger()).bytes());
    let audit = "audit --certificate=k.crt --image-policy=@verified-boot";
    workshop.run(&format!("{audit} good.raw")).exits(0);
    workshop.run(&format!("{audit} bad.raw")).exits(3);
    workshop.run(&format!("{audit} none.raw")).fails(1, &["opening 'none.raw'", "No such file"]);
    // The gravest counts, and nothing stops the others.
    let told = workshop.run(&format!("{audit} none.raw good.raw")).exits(1);
    assert!(told.data.starts_with("good.raw: accept\n"), "{told:?}");
    let told = workshop.run(&format!("{audit} bad.raw none.raw good.raw")).exits(3);
    assert!(told.data.contains("bad.raw: refuse\n") && told.data.contains("good.raw: accept\n"), "{told:?}");
    for nonsense in ["", "nonsense", "audit", "audit --nonsense good.raw", "audit --fail-on=never good.raw"] {
        workshop.run(nonsense).fails(2, &["--help"]);
    }
    for policy in ["root=nonsense", "nonsense", "@", "root=open:root=open"] {
        workshop.run(&format!("audit --image-policy={policy} good.raw")).fails(2, &["polic"]);
    }
    workshop.run("audit --image-policy=@nonsense good.raw").fails(2, &["nonsense"]);
    workshop.run("audit --certificate=none.crt good.raw").fails(1, &["reading the certificate 'none.crt'"]);
    workshop.run("audit --certificate=good.raw good.raw").fails(1, &["good.raw"]);
    workshop.run("audit --root-hash=abc good.raw").fails(2, &["--root-hash"]);
}

#[test]
fn audit_prints_one_object_of_exactly_this_shape() {
    let workshop = Workshop::new();
    workshop.write("image.raw", &signed().bytes());
    workshop.write("bare.img", &squashfs());
    let line = "audit --certificate=k.crt --image-policy=@verified-boot image.raw";
    let told = workshop.run(&format!("{line} --format=json")).exits(0);
    let short = workshop.run(&format!("{line} --json=short")).exits(0);
    assert_eq!(told.data, short.data);
    let value = told.json();
    assert_eq!(keys(&value), ["image", "policy", "verdict", "partitions", "findings"]);
    assert_eq!((&value["image"], &value["policy"]), (&"image.raw".into(), &"@verified-boot".into()));
    assert_eq!(value["verdict"], "accept");
    let partition_keys = [
        "number",
        "designator",
        "type_uuid",
        "uuid",
        "label",
        "architecture",
        "offset",
        "size",
        "read_only",
        "growfs",
        "file_system",
        "protection",
        "use",
        "root_hash",
        "signer",
    ];
    let partitions = value["partitions"].as_array().unwrap();
    for partition in partitions {
        assert_eq!(keys(partition), partition_keys);
    }
    let root_hash = Protected::root(squashfs()).root_hash().to_string();
    let root = &partitions[1];
    for (key, expected) in [
        ("number", Value::from(2)),
        ("designator", "root".into()),
        ("size", 32768.into()),
        ("read_only", true.into()),
        ("growfs", false.into()),
        ("file_system", "squashfs".into()),
        ("protection", "signed".into()),
        ("use", "used".into()),
        ("root_hash", root_hash.into()),
        ("signer", "CN=trusted".into()),
    ] {
        assert_eq!(root[key], expected, "{key}");
    }
    assert_eq!(
        (&partitions[0]["use"], &partitions[0]["protection"]),
        (&"unused".into(), &"unprotected".into())
    );
    assert_eq!(value["findings"], Value::Array(Vec::new()));

    let finding = &workshop
        .run(&format!("{line} --format=json --root-hash={}", "0".repeat(64)))
        .exits(3)
        .json()["findings"][0];
    assert_eq!(keys(finding), ["rule", "level", "partition", "expected", "found", "message"]);
    assert_eq!(finding["level"], "error");

    // Nothing required: not judged, and said so.
    let told = workshop.run("audit --format=json image.raw bare.img").exits(0);
    let lines: Vec<Value> = told.data.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["verdict"], &lines[0]["policy"]), (&"not-judged".into(), &Value::Null));
    assert_eq!(
        (&lines[1]["partitions"][0]["number"], lines[1]["partitions"].as_array().unwrap().len()),
        (&Value::Null, 1)
    );
    let told = workshop.run("audit image.raw").exits(0);
    assert!(told.data.contains("image.raw: not-judged\n"), "{told:?}");
    assert!(told.data.contains("no policy: nothing was required of this image"), "{told:?}");

    // The same without verdict and findings.
    let value = workshop.run("dissect --certificate=k.crt --json=short image.raw").exits(0).json();
    assert_eq!(keys(&value), ["image", "policy", "partitions"]);
    assert_eq!(keys(&value["partitions"][1]), partition_keys);
    assert_eq!(value["partitions"][1]["protection"], "signed");
    let pretty = workshop.run("dissect --certificate=k.crt --json=pretty image.raw").exits(0);
    assert!(pretty.data.lines().count() > 20 && pretty.json() == value, "{pretty:?}");
}

#[test]
fn audit_fails_on_what_it_is_told_to_fail_on() {
    let workshop = Workshop::new();
    workshop.write("warning.raw", &Ddi::signed(stranger()).bytes());
    let empty = signed().with(Designator::Home, "_empty", vec![0; 4096]);
    workshop.write("note.raw", &empty.bytes());
    workshop.write("error.raw", &signed().edit("root-verity", |part| part.content[8] = 2).bytes());
    workshop.write("malformed.raw", &[0; 8192]);
    for (image, error, warning, note) in
        [("warning", 0, 3, 3), ("note", 0, 0, 3), ("error", 3, 3, 3), ("malformed", 3, 3, 3)]
    {
        for (level, status) in [("error", error), ("warning", warning), ("note", note)] {
            workshop.run(&format!("audit --certificate=k.crt --fail-on={level} {image}.raw")).exits(status);
        }
        workshop.run(&format!("audit --certificate=k.crt {image}.raw")).exits(error);
    }
    // What an accepting policy leaves unused is no reason to fail.
    workshop.run("audit --certificate=k.crt --image-policy=- error.raw").exits(0);
}

#[test]
fn a_flipped_bit_is_found_by_name_where_the_data_is_read() {
    let workshop = Workshop::new();
    let image = signed().build();
    let (data, tree) = (signed().place(&image, "root"), signed().place(&image, "root-verity"));
    let flipped = |offset: u64| {
        let mut bytes = image.bytes.clone();
        bytes[usize::try_from(offset).unwrap()] ^= 0x10;
        bytes
    };
    workshop.write("good.raw", &image.bytes);
    workshop.write("data.raw", &flipped(data.offset + 5 * 4096 + 99));
    workshop.write("tree.raw", &flipped(tree.offset + 4096 + 7 * 32));
    let options = "--certificate=k.crt --image-policy=@verified-boot";
    let told = workshop.run(&format!("verify {options} good.raw")).exits(0);
    assert!(
        told.data.contains("root: 32768 bytes agree") && told.data.contains("signed by 'CN=trusted'"),
        "{told:?}"
    );
    workshop.run(&format!("audit --deep {options} good.raw")).exits(0);
    for (image, rule, words) in [("data.raw", "DDI0313", "[5]"), ("tree.raw", "DDI0314", "hash")] {
        // Without --deep nothing of the data is read, and nothing is claimed about it.
        workshop.run(&format!("audit {options} {image}")).exits(0);
        let told = workshop.run(&format!("audit --deep --format=json {options} {image}")).exits(3).json();
        assert_eq!(told["verdict"], "refuse");
        assert_eq!(told["findings"][0]["rule"], rule);
        assert!(told["findings"][0]["found"].as_str().unwrap().contains(words), "{told}");
        workshop
            .run(&format!("verify {options} {image}"))
            .fails(3, &[image, rule, words, "partition 2", "get it again"]);
        workshop.run(&format!("audit --deep {image}")).exits(3);
    }
    workshop.write("plain.raw", &Ddi::new().with(Designator::Root, "root", squashfs()).bytes());
    workshop.run("verify plain.raw").fails(3, &["DDI0315", "no hash tree", "ddictl seal"]);
    workshop.write("bare.img", &squashfs());
    workshop.run("verify bare.img").fails(3, &["DDI0315"]);
}

#[test]
fn what_an_image_for_another_machine_holds_can_be_verified_here() {
    let workshop = Workshop::new();
    let elsewhere = Protected::root(squashfs()).architecture(foreign()).signed_by(trusted());
    workshop.write("image.raw", &Ddi::new().protected(&elsewhere).bytes());
    let options = "--certificate=k.crt --image-policy=@verified-boot";
    workshop.run(&format!("verify {options} image.raw")).exits(0);
    workshop.run(&format!("audit {options} image.raw")).exits(0);
    workshop.run(&format!("attach --dry-run {options} image.raw")).fails(3, &["DDI0207"]);
}

#[test]
fn nothing_but_a_file_or_a_disk_is_an_image_and_nothing_hangs() {
    let workshop = Workshop::new();
    mkfifo(&workshop.path("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(workshop.path("directory")).unwrap();
    for verb in ["audit", "dissect", "verify", "attach --dry-run"] {
        for image in ["fifo", "directory", "/dev/null", "/dev/zero"] {
            if (verb, image) == ("audit", "directory") {
                continue;
            }
            let mut command = workshop.command(&format!("{verb} {image}"));
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let told = Told::from(finish(child));
            told.fails(1, &["opening", image, "expected a disk image"]);
        }
    }
    workshop.write("empty.raw", b"");
    workshop.run("audit empty.raw").exits(3);
}

/// Waits, with an end: a program that hangs is killed and fails the test.
fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it hangs: {:?}", child.wait_with_output());
        }
        pause(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the standard library cannot wait for a child with a deadline")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let workshop = Workshop::new();
    workshop.write("image.raw", &signed().bytes());
    for line in [
        "audit image.raw",
        "audit --format=json image.raw",
        "dissect image.raw",
        "dissect --json=pretty image.raw",
        "verify --certificate=k.crt image.raw",
        "policy show *",
        "policy show --json=short @verified-boot",
        "policy compare * -",
        "policy compare --json=pretty @verified-boot *",
        "policy list",
        "attach --dry-run --image-policy=* image.raw",
        "completion bash",
        "--help",
        "--version",
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let told = Told::from(workshop.command(line).stdout(full).output().unwrap()).exits(1);
        assert!(told.talk.contains("writing to standard output"), "{line}: {told:?}");
    }
}

#[test]
fn text_of_an_image_never_reaches_the_terminal_raw() {
    let workshop = Workshop::new();
    let hostile = "\u{1b}[2J\u{9b}31m\u{202e}\u{7}\u{7f}x\ny";
    let image = signed().edit("root", |part| hostile.clone_into(&mut part.label));
    let image = image.edit("root-verity-sig", |part| {
        let key = r#"{"\u001b[2J\u009b":"x","#;
        crate::ddi_builder::edit_json(&mut part.content, |text| text.replacen('{', key, 1));
    });
    let image = image.with(Designator::Home, hostile, fixture("luks1", 1 << 20));
    let image = image.edit("home", |part| part.content[8..16].copy_from_slice(b"\x1b]0;x\x07\x9b1"));
    let name = "\u{1b}]0;name\u{7}.raw";
    workshop.write(name, &image.bytes());
    for line in [
        "audit",
        "audit --image-policy=@verified-boot",
        "audit --format=json",
        "dissect",
        "dissect --json=pretty",
        "verify",
        "attach --dry-run --loop-ref=x --image-policy=*",
        "attach --dry-run --loop-ref=x --json=short --image-policy=*",
        "attach --dry-run --loop-ref=x --image-policy=home=unprotected",
    ] {
        let output = workshop.command(line).arg(name).output().unwrap();
        let told = Told::from(output);
        for character in told.data.chars().chain(told.talk.chars()) {
            let harmless = character == '\n' || !character.is_control() && character != '\u{202e}';
            assert!(harmless, "{line}: {character:?} in {told:?}");
        }
        assert!(!told.data.is_empty() || !told.talk.is_empty(), "{line}");
    }
    // And yet the label is there for programs.
    let output = workshop.command("dissect --json=short").arg(name).output().unwrap();
    assert_eq!(Told::from(output).json()["partitions"][1]["label"], hostile);
}

#[test]
fn policies_are_shown_and_listed() {
    let workshop = Workshop::new();
    let told = workshop.run("policy show --json=short @verified-boot").exits(0);
    assert_eq!(told.data.lines().count(), 1);
    let value = told.json();
    assert_eq!(keys(&value), ["policy", "simplified", "long", "partitions"]);
    assert_eq!(value["policy"], "@verified-boot");
    assert_eq!(value["simplified"], "root=signed+absent:usr=signed+absent");
    let partitions = keys(&value["partitions"]);
    assert_eq!((partitions[0], partitions[partitions.len() - 1]), ("root", "default"));
    assert_eq!(keys(&value["partitions"]["root"]), ["use", "read_only", "growfs", "file_systems"]);
    assert_eq!(value["partitions"]["root"]["use"], serde_json::json!(["signed", "absent"]));
    assert!(workshop.run("policy show *").exits(0).data.contains("root"));
    workshop.run("policy show nonsense").fails(2, &["nonsense"]);
    workshop.run("policy show @../../etc/passwd").fails(2, &["name"]);

    let told = workshop.run("policy list").exits(0);
    for name in ["@verified-boot", "@verified-extension"] {
        assert!(told.data.contains(name), "{told:?}");
    }
    let rows = workshop.run("policy list --json=short").exits(0).json();
    for row in rows.as_array().unwrap() {
        assert_eq!(keys(row), ["name", "description", "policy", "path"]);
        assert!(!row["description"].as_str().unwrap().is_empty(), "{row}");
    }
}

#[test]
fn pull_asks_for_what_is_not_there_yet_and_never_falls_back_to_no() {
    let workshop = Workshop::new();
    // Whoever connects would be noticed.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/image.raw", listener.local_addr().unwrap());
    let hash = "ab".repeat(32);
    for (line, words) in [
        (format!("pull raw {url} --attach --verify=NO"), &["'NO'", "'signature'"][..]),
        (format!("pull raw {url} --attach --verify="), &["'no', 'checksum', 'signature'"]),
        (format!("pull raw {url} --attach --verify={hash}0"), &[hash.as_str(), "64 hexadecimal digits"]),
        (format!("pull raw {url} --attach --verify=sha512:{hash}"), &[hash.as_str()]),
        (format!("pull tar {url} --attach --verify=no"), &["tar", "leave out --attach"]),
        (format!("pull tar {url} --dry-run --verify=no"), &["tar", "leave out --dry-run"]),
        (format!("pull raw {url} --attach --verify=no --device-nodes"), &["leave out --device-nodes"]),
        (format!("pull raw {url} --attach --verify=no --runtime=no"), &["leave out --runtime=no"]),
        (format!("pull raw {url} --attach --verify=no --force"), &["leave out --force"]),
        (format!("pull tar {url} --verify=no --force"), &["leave out --force"]),
        (
            format!("pull raw {url} --verify=no --class=sysext --sidecars=nspawn"),
            &["leave 'nspawn' out of --sidecars="],
        ),
        (format!("pull raw {url} .name --verify=no"), &[".name", "without a dot"]),
        ("pull raw ftp://127.0.0.1/image.raw --attach --verify=no".to_owned(), &["ftp"]),
        ("pull raw file:passwd --attach --verify=no".to_owned(), &["file:passwd"]),
        ("pull raw - --attach --verify=no".to_owned(), &["'standard input'", "give a NAME"]),
        ("pull raw - image --attach".to_owned(), &["'standard input'", "--verify=HEX"]),
        ("pull raw - image --attach --verify=checksum".to_owned(), &["'standard input'", "--verify=HEX"]),
        ("pull raw nonsense --attach --verify=no".to_owned(), &["nonsense"]),
        (format!("pull raw {url} ../name --attach --verify=no"), &["../name"]),
    ] {
        workshop.run(&line).fails(2, words);
        if !line.contains("--dry-run") {
            workshop.run(&format!("{line} --dry-run")).fails(2, words);
        }
    }
    // Without keys nothing could be verified: that is known before the server is asked for anything.
    for mode in ["", " --verify=signature"] {
        let line = format!("pull raw {url} --attach{mode} --keyring=no-such.pgp --dry-run");
        workshop.run(&line).fails(1, &["no-such.pgp"]);
    }
    assert!(listener.accept().is_err(), "somebody asked the server");
}

#[test]
fn a_signal_ends_it_with_128_and_the_signal() {
    let workshop = Workshop::new();
    // A server that takes the request and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image.raw", listener.local_addr().unwrap());
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut command = workshop.command(&format!("pull raw {url} --attach --verify=no --dry-run"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (_connection, _) = listener.accept().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let told = Told::from(finish(child));
        assert!(told.data.is_empty(), "{told:?}");
        told.exits(status);
    }
}

#[test]
fn sealing_a_file_system_gives_an_image_that_verifies() {
    let workshop = Workshop::new();
    workshop.write("fs.img", &squashfs()[..4096]);
    let key = "--private-key=k.key --certificate=k.crt";
    let told = workshop.run(&format!("seal fs.img image.raw {key}")).exits(0);
    let root_hash = told.data.trim_end().to_owned();
    assert_eq!((told.data.lines().count(), root_hash.len()), (1, 64));
    let verify = "verify --certificate=k.crt --image-policy=@verified-boot";
    assert!(workshop.run(&format!("{verify} image.raw")).exits(0).data.contains(&root_hash));

    let told =
        workshop.run(&format!("seal fs.img usr.raw --designator=usr --json=short {key}")).exits(0).json();
    assert_eq!(keys(&told), ["image", "root_hash", "size", "partition"]);
    let usr = workshop.run("dissect --certificate=k.crt --json=short usr.raw").exits(0).json();
    assert_eq!(usr["partitions"][0]["designator"], "usr");
    assert_eq!(usr["partitions"][0]["root_hash"], told["root_hash"]);
    workshop.run(&format!("{verify} usr.raw")).exits(0);

    // Unsigned only if that is written out, and then it is not accepted as signed.
    workshop.run("seal fs.img unsigned.raw").fails(2, &["--private-key"]);
    workshop.run("seal fs.img unsigned.raw --certificate=k.crt").fails(2, &["--private-key"]);
    workshop.run(&format!("seal fs.img unsigned.raw --unsigned {key}")).fails(2, &["--unsigned"]);
    let root_hash = workshop.run("seal fs.img unsigned.raw --unsigned").exits(0).data;
    workshop.run(&format!("{verify} unsigned.raw")).fails(3, &["DDI0501"]);
    workshop.run(&format!("{verify} --root-hash={} unsigned.raw", root_hash.trim_end())).exits(0);
}

#[test]
fn sealing_twice_gives_the_same_bytes_where_that_is_asked_for() {
    let workshop = Workshop::new();
    workshop.write("fs.img", &squashfs()[..4096]);
    // The signature of an elliptic curve is another each time; that of RSA is not.
    let options = crate::keys::CertificateOptions::named("rsa");
    let pair = crate::keys::Pair::new(crate::keys::KeyKind::Rsa(2048), &options);
    workshop.write("r.crt", &pair.certificate_pem());
    workshop.write("r.key", &pair.key_pem());
    let seal = |output: &str, more: &str, epoch: Option<&str>| {
        let line = format!("seal fs.img {output} --private-key=r.key --certificate=r.crt {more}");
        let mut command = workshop.command(&line);
        command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
        Told::from(command.output().unwrap()).exits(0);
        workshop.read(output)
    };
    let seed = "--seed=0b6a3f8e-6d0e-4c8a-8a51-5f0a4c1f2e3d";
    assert!(seal("a", seed, None) == seal("b", seed, None));
    assert!(seal("c", "", Some("1700000000")) == seal("d", "", Some("1700000000")));
    assert!(seal("e", "", None) != seal("f", "", None));
    assert!(seal("g", seed, None) != seal("h", "--seed=0b6a3f8e-6d0e-4c8a-8a51-5f0a4c1f2e3e", None));
    let mut command = workshop.command("seal fs.img x.raw --unsigned");
    Told::from(command.env("SOURCE_DATE_EPOCH", "yesterday").output().unwrap())
        .fails(2, &["SOURCE_DATE_EPOCH", "yesterday"]);
}

#[test]
fn sealing_that_fails_leaves_nothing_behind() {
    let workshop = Workshop::new();
    workshop.write("fs.img", &squashfs()[..4096]);
    workshop.write("zeros.img", &[0; 8192]);
    workshop.write("other.crt", &stranger().certificate_pem());
    workshop.write("there.raw", b"mine");
    fs::create_dir(workshop.path("tree")).unwrap();
    let before = workshop.names();
    let key = "--private-key=k.key --certificate=k.crt";
    for (line, words) in [
        (format!("seal zeros.img new.raw {key}"), &["zeros.img", "one file system"][..]),
        (format!("seal none.img new.raw {key}"), &["none.img", "No such file"]),
        ("seal fs.img new.raw --private-key=none.key --certificate=k.crt".to_owned(), &["none.key"]),
        (
            "seal fs.img new.raw --private-key=k.key --certificate=other.crt".to_owned(),
            &["another private key"],
        ),
        (format!("seal fs.img new.raw --esp=none {key}"), &["none"]),
        (format!("seal fs.img there.raw {key}"), &["there.raw", "--force"]),
        (format!("seal fs.img none/new.raw {key}"), &["none"]),
    ] {
        workshop.run(&line).fails(1, words);
        assert_eq!(workshop.names(), before, "{line}");
    }
    assert_eq!(workshop.read("there.raw"), b"mine");
    workshop.run(&format!("seal fs.img there.raw --force {key}")).exits(0);
    assert!(workshop.read("there.raw").len() > 4096);
}

#[test]
fn names_that_are_no_text_are_no_problem() {
    let workshop = Workshop::new();
    let name = Path::new(std::ffi::OsStr::from_bytes(b"\xff\xfe.raw"));
    fs::write(workshop.path("x").with_file_name(name), signed().bytes()).unwrap();
    let output = workshop
        .command("audit --certificate=k.crt --image-policy=@verified-boot")
        .arg(name)
        .output()
        .unwrap();
    Told::from(output).exits(0);
}
