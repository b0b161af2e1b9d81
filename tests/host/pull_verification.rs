//! Who vouches for a download, and what that is worth: real keys of GnuPG, real sums, real devices.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{HostTest, Need, ddictl};
use crate::http_server::{Answer, HttpServer};
use crate::pull::{Images, Place, detach, refused, without_proxies};
use crate::repart::succeed;

pub(crate) const NEEDS: &[Need] = &[
    Need::Root,
    Need::LoopDevices,
    Need::FileSystem("tmpfs"),
    Need::Tool("mksquashfs"),
    Need::Tool("openssl"),
    Need::Tool("gpg"),
    Need::Tool("sha256sum"),
];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "pull_verification::an_unsigned_image_is_as_good_as_who_vouches_for_the_download",
        needs: NEEDS,
        run: an_unsigned_image_is_as_good_as_who_vouches_for_the_download,
    },
    HostTest {
        name: "pull_verification::another_image_than_the_one_that_was_signed_is_never_there",
        needs: NEEDS,
        run: another_image_than_the_one_that_was_signed_is_never_there,
    },
];

/// Somebody with a key.
pub(crate) struct Publisher(TempDir);

impl Publisher {
    pub(crate) fn new(name: &str) -> Self {
        let publisher = Self(tempfile::tempdir().unwrap());
        publisher.gpg(&["--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never"]);
        publisher.gpg(&["--output", "key.pgp", "--export"]);
        publisher
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn gpg(&self, arguments: &[&str]) {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--no-options", "--homedir"]).arg(self.path()).args(arguments);
        succeed(command.current_dir(self.path()));
    }

    pub(crate) fn keyring(&self) -> String {
        format!("--keyring={}", self.path().join("key.pgp").display())
    }

    /// The sums of this image as `image.raw`, and a signature over them.
    pub(crate) fn publish(&self, image: &[u8]) -> (Arc<[u8]>, Arc<[u8]>) {
        self.publish_as("image.raw", image)
    }

    /// The sums of this file as `name`, and a signature over them.
    pub(crate) fn publish_as(&self, name: &str, file: &[u8]) -> (Arc<[u8]>, Arc<[u8]>) {
        fs::write(self.path().join(name), file).unwrap();
        let sums = succeed(Command::new("sha256sum").arg(name).current_dir(self.path()));
        fs::write(self.path().join("SHA256SUMS"), &sums).unwrap();
        self.gpg(&["--yes", "--output", "SHA256SUMS.gpg", "--detach-sign", "SHA256SUMS"]);
        (sums.into_bytes().into(), fs::read(self.path().join("SHA256SUMS.gpg")).unwrap().into())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Its agent would go some seconds after its socket.
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.path()).args(["--kill", "all"]).status();
    }
}

fn serve(image: &Arc<[u8]>, (sums, signature): &(Arc<[u8]>, Arc<[u8]>)) -> HttpServer {
    let (image, sums, signature) = (Arc::clone(image), Arc::clone(sums), Arc::clone(signature));
    HttpServer::start(move |request| match request.path.as_str() {
        "/image.raw" => Answer::ranged(request, Arc::clone(&image)),
        "/SHA256SUMS" => Answer::bytes(Arc::clone(&sums)),
        "/SHA256SUMS.gpg" => Answer::bytes(Arc::clone(&signature)),
        _ => Answer::status(404),
    })
}

/// `ddictl pull` without a mode of verification: who has no other trust anchor has none.
fn pull(server: &HttpServer, place: &Place, more: &[&str]) -> Command {
    let mut command = ddictl();
    command.args(["pull", "raw", &server.url("/image.raw"), "image", "--attach", &place.option()]).args(more);
    without_proxies(&mut command);
    command
}

fn an_unsigned_image_is_as_good_as_who_vouches_for_the_download() {
    let (images, publisher) = (Images::new(), Publisher::new("publisher"));
    let unsigned = &images.unsigned;
    let server = serve(unsigned, &publisher.publish(unsigned));
    let digest: String = openssl::sha::sha256(unsigned).iter().map(|byte| format!("{byte:02x}")).collect();
    let (pinned, keyring) = (format!("--verify={digest}"), publisher.keyring());
    for mode in [&[keyring.as_str()][..], &[&keyring, "--verify=signature"], &[&pinned]] {
        let place = Place::new();
        let output = succeed(pull(&server, &place, mode).arg("--json=short"));
        let record: Value = serde_json::from_str(&output).unwrap();
        assert_eq!((&record["state"], &record["image"]["digest"]), (&"ready".into(), &digest.clone().into()));
        assert_eq!(record["policy"], "@verified-boot");
        assert_eq!(record["devices"][0]["protection"], "verity");
        detach("image.raw");
        assert!(place.is_gone());
    }
    // Nobody has compared the whole where only parts of it are asked for.
    let mut dry = pull(&server, &Place::new(), &[&keyring, "--dry-run"]);
    refused(&mut dry, 3, "the whole is not there");
    // The sums of nobody authenticate nothing, nor does the keyring by being there.
    let place = Place::new();
    for mode in [&["--verify=checksum"][..], &["--verify=no"], &["--verify=checksum", &keyring]] {
        refused(&mut pull(&server, &place, mode), 3, "found root: verity");
    }
    assert!(place.is_gone());
}

fn another_image_than_the_one_that_was_signed_is_never_there() {
    let (images, place) = (Images::new(), Place::new());
    let (publisher, stranger) = (Publisher::new("publisher"), Publisher::new("stranger"));
    let good = &images.unsigned;
    let (keyring, strange) = (publisher.keyring(), stranger.keyring());
    let published = publisher.publish(good);

    // It is compared as a whole, whatever the policy would take.
    let flipped = images.flipped();
    for mode in [&[keyring.as_str()][..], &["--verify=checksum"]] {
        let server = serve(&flipped, &published);
        let loose = [mode, &["--image-policy=*"]].concat();
        refused(&mut pull(&server, &place, &loose), 3, "another download than expected");
    }
    // What is wrong with the sums is known before the image is asked for.
    let changed: Arc<[u8]> = [b"# more\n", &*published.0].concat().into();
    for (published, mode, words) in [
        (published.clone(), &strange, "which is in no keyring"),
        ((changed, Arc::clone(&published.1)), &keyring, "not over these bytes"),
        ((Arc::clone(&published.0), [].into()), &keyring, "found an empty file"),
        (([].into(), Arc::clone(&published.1)), &keyring, "not over these bytes"),
    ] {
        let server = serve(good, &published);
        refused(&mut pull(&server, &place, &[mode]), 3, words);
        assert!(server.requests().iter().all(|request| request.path != "/image.raw"), "{words}");
    }
    let closed = HttpServer::start(|request| match request.path.as_str() {
        "/image.raw.sha256" => Answer::status(404),
        _ => Answer::status(403),
    });
    refused(&mut pull(&closed, &place, &[&keyring]), 1, "403");
    assert!(place.is_gone());
}
