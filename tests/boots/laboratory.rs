//! Boots of whole systems, from an initrd with a real systemd: what they are made of, how they are started, and what is
//! known of them afterwards.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Mutex;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::harness;
use crate::keys::CertificateOptions;
use crate::keys::KeyKind;
use crate::keys::Pair;
use crate::outcome::Outcome;

/// Where the guest's own server is found in it.
pub(crate) const SERVER: &str = "http://127.0.0.1:8081";

/// How much memory a guest has.
const MEMORY: &str = "1G";

/// How long one boot may take, in seconds.
pub(crate) const TIME_LIMIT: u32 = 150;

/// The environment variable that names another program to boot with than the one that was built for the tests.
const PROGRAM: &str = "DDICTL_BOOTS_PROGRAM";

/// The environment variable that names a directory in which everything is kept that guests write, for whoever looks for
/// the reason of a failure.
const KEEP: &str = "DDICTL_BOOTS_KEEP";

/// What keeps systemd's own generator from pulling, too.
const MASK: &str = "etc/systemd/system-generators/systemd-import-generator";

static WORK: OnceLock<PathBuf> = OnceLock::new();

/// Makes the directory in which the tests of this run work; it is gone when what is returned is dropped.
pub(crate) fn open() -> TempDir {
    let directory = tempfile::Builder::new().prefix("boots").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    WORK.set(directory.path().to_owned()).unwrap();
    directory
}

/// The directory in which the tests of this run work.
fn work() -> &'static Path {
    WORK.get().unwrap()
}

/// A new directory below it.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(work()).unwrap()
}

/// Runs a command that must succeed, and gives what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// A part of the boots by `tests/boots/parts`; the reason where it cannot be had.
pub(crate) fn part(arguments: &[&'static str]) -> Result<PathBuf, String> {
    type Known = (Vec<&'static str>, Result<PathBuf, String>);
    static PARTS: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    let mut parts = PARTS.lock().unwrap();
    if let Some((_, known)) = parts.iter().find(|(of, _)| of == arguments) {
        return known.clone();
    }
    let output = Command::new(harness::in_source_tree("tests/boots/parts")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let part = match output.status.code() {
        Some(0) => Ok(PathBuf::from(text(&output.stdout))),
        Some(77) => Err(text(&output.stderr).lines().last().unwrap_or("no reason given").to_owned()),
        _ => panic!("tests/boots/parts {arguments:?} ({}): {}", output.status, text(&output.stderr)),
    };
    parts.push((arguments.to_vec(), part.clone()));
    part
}

/// Writes a directory as an archive that an initrd can go on with.
fn archive(directory: &Path, to: &Path) {
    succeed(
        Command::new("sh")
            .args([
                "-c",
                "find . -mindepth 1 | cpio --quiet --create --format=newc --owner=0:0 >\"$1\"",
                "sh",
            ])
            .arg(to)
            .current_dir(directory),
    );
}

/// What is installed of ddictl in an initrd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Product {
    /// All.
    Whole,
    /// All but the mask of systemd's own generator.
    WithoutMask,
}

impl Product {
    /// What `make install` installs of the program under test, as an archive.
    fn archive(self) -> &'static Path {
        static PRODUCT: OnceLock<[PathBuf; 2]> = OnceLock::new();
        let [whole, without_mask] = PRODUCT.get_or_init(install);
        match self {
            Self::Whole => whole,
            Self::WithoutMask => without_mask,
        }
    }
}

fn install() -> [PathBuf; 2] {
    let stage = directory();
    let made = directory();
    let path = |name: &str| made.path().join(name).display().to_string();
    let program = std::env::var(PROGRAM).unwrap_or_else(|_| env!("CARGO_BIN_EXE_ddictl").to_owned());
    // Without what a debugger wants it is a third.
    succeed(Command::new("strip").args(["-o", &path("ddictl"), &program]));
    for (shell, name) in [("bash", "ddictl.bash"), ("zsh", "_ddictl"), ("fish", "ddictl.fish")] {
        fs::write(path(name), succeed(harness::ddictl().args(["completion", shell]))).unwrap();
    }
    succeed(
        Command::new("make")
            .arg("install")
            .arg(format!("DESTDIR={}", stage.path().display()))
            .arg(format!("BINARY={}", path("ddictl")))
            .arg(format!("COMPLETIONS={}", made.path().display()))
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    fs::remove_dir_all(stage.path().join("usr/share")).unwrap();
    let archives = ["product.cpio", "unmasked.cpio"].map(|name| work().join(name));
    archive(stage.path(), &archives[0]);
    fs::remove_file(stage.path().join(MASK)).unwrap();
    archive(stage.path(), &archives[1]);
    archives
}

/// Somebody who signs images.
#[derive(Debug)]
pub(crate) struct Signer {
    /// The private key.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
}

impl Signer {
    fn new(name: &str) -> Self {
        let pair = Pair::new(KeyKind::Rsa(2048), &CertificateOptions::named(name));
        let signer =
            Self { key: work().join(format!("{name}.key")), certificate: work().join(format!("{name}.crt")) };
        fs::write(&signer.key, pair.key_pem()).unwrap();
        fs::write(&signer.certificate, pair.certificate.to_pem().unwrap()).unwrap();
        signer
    }

    /// The one that the initrds trust.
    pub(crate) fn trusted() -> &'static Self {
        static SIGNER: OnceLock<Signer> = OnceLock::new();
        SIGNER.get_or_init(|| Self::new("trusted"))
    }

    /// One that nobody trusts.
    pub(crate) fn stranger() -> &'static Self {
        static SIGNER: OnceLock<Signer> = OnceLock::new();
        SIGNER.get_or_init(|| Self::new("stranger"))
    }
}

/// A system to boot.
#[derive(Debug)]
pub(crate) struct Guest {
    suite: &'static str,
    product: Option<Product>,
    words: Vec<String>,
    served: Option<TempDir>,
    files: TempDir,
    disk: Option<PathBuf>,
}

impl Guest {
    /// With the systemd of this Debian release in the initrd, ddictl, and the certificate of [`Signer::trusted`]. What
    /// is served comes from an empty directory so far.
    pub(crate) fn new(suite: &'static str) -> Self {
        let guest = Self {
            suite,
            product: Some(Product::Whole),
            words: vec!["quiet".to_owned(), "systemd.firstboot=no".to_owned()],
            served: Some(directory()),
            files: directory(),
            disk: None,
        };
        guest.file("usr/lib/verity.d/trusted.crt", &fs::read(&Signer::trusted().certificate).unwrap());
        guest
    }

    /// The same initrd without ddictl: systemd does what it can.
    pub(crate) fn without_ddictl(mut self) -> Self {
        self.product = None;
        self
    }

    /// ddictl is there, and systemd's own generator is not masked.
    pub(crate) fn with_both_generators(mut self) -> Self {
        self.product = Some(Product::WithoutMask);
        self
    }

    /// Nothing is served.
    pub(crate) fn without_server(mut self) -> Self {
        self.served = None;
        self
    }

    /// A disk that it can write to.
    pub(crate) fn disk(mut self, file: &Path) -> Self {
        self.disk = Some(file.to_owned());
        self
    }

    /// More words for the kernel's command line.
    pub(crate) fn words(mut self, words: &str) -> Self {
        self.words.extend(words.split_whitespace().map(str::to_owned));
        self
    }

    /// The same guest with each word changed to others; `None` where that changes nothing.
    pub(crate) fn with_words_changed(mut self, change: impl Fn(&str) -> Vec<String>) -> Option<Self> {
        let words: Vec<String> = self.words.iter().flat_map(|word| change(word)).collect();
        if words == self.words {
            return None;
        }
        self.words = words;
        Some(self)
    }

    /// The directory that is served.
    pub(crate) fn served(&self) -> &Path {
        self.served.as_ref().unwrap().path()
    }

    /// Serves a file, which nobody changes, under a name.
    pub(crate) fn serve(&self, name: &str, file: &Path) {
        fs::hard_link(file, self.served().join(name)).unwrap();
    }

    /// A file of the initrd.
    pub(crate) fn file(&self, path: &str, contents: &[u8]) {
        let path = self.files.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Boots it, until it powers off.
    pub(crate) fn boot(self) -> Outcome {
        let run = directory();
        let path = |name: &str| run.path().join(name);
        let argument = |name: &str, path: &Path| format!("--{name}={}", path.display());
        archive(self.files.path(), &path("files.cpio"));
        let mut command = Command::new(harness::in_source_tree("tests/boots/boot"));
        command
            .arg(format!("--memory={MEMORY}"))
            .arg(format!("--time={TIME_LIMIT}"))
            .arg(argument("console", &path("console")))
            .arg(argument("report", &path("report")))
            .arg(argument("initrd", &part(&["initrd", self.suite]).unwrap()));
        if let Some(product) = self.product {
            command.arg(argument("initrd", product.archive()));
        }
        command.arg(argument("initrd", &path("files.cpio")));
        if let Some(served) = &self.served {
            command.arg(argument("www", served.path()));
        }
        if let Some(disk) = &self.disk {
            command.arg(argument("disk", disk));
        }
        let output = command.args(&self.words).output().unwrap();
        let read = |name: &str| {
            fs::read(path(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        if let Some(kept) = std::env::var_os(KEEP) {
            let kept = tempfile::tempdir_in(kept).unwrap().keep();
            fs::write(kept.join("command-line"), self.words.join(" ")).unwrap();
            for name in ["console", "report"] {
                fs::copy(path(name), kept.join(name)).unwrap();
            }
        }
        Outcome::new(
            self.words.join(" "),
            output.status.code(),
            &format!("{}{}", read("console"), String::from_utf8_lossy(&output.stderr)),
            &read("report"),
        )
    }
}
