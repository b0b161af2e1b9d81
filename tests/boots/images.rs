//! The images that are booted: one system, sealed, and what somebody on the way might make of it.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::harness;
use crate::laboratory::Signer;
use crate::laboratory::directory;
use crate::laboratory::part;
use crate::laboratory::succeed;

/// A file that is made once and then only read.
fn once(made: &'static OnceLock<PathBuf>, name: &str, make: impl FnOnce(&Path)) -> &'static Path {
    made.get_or_init(|| {
        let directory = directory().keep();
        let path = directory.join(name);
        make(&path);
        path
    })
}

/// The file system of the system that tells what it sees.
fn system() -> PathBuf {
    part(&["root"]).unwrap()
}

/// Seals a file system or a tree; without a signer it is not signed.
fn seal(arguments: &[&str], signer: Option<&Signer>, source: &Path, image: &Path) {
    let mut command = harness::ddictl();
    command.args(["seal", "--quiet"]).args(arguments).env_remove("SOURCE_DATE_EPOCH");
    match signer {
        Some(signer) => {
            command.arg(format!("--private-key={}", signer.key.display()));
            command.arg(format!("--certificate={}", signer.certificate.display()));
        }
        None => {
            command.arg("--unsigned");
        }
    }
    succeed(command.arg(source).arg(image));
}

/// Seals the system behind an EFI system partition, which is partition 1, as the announcement of `rd.systemd.pull=` has it: 2 is the root, 3 its hash
/// tree, 4 the signature.
fn seal_system(signer: Option<&Signer>, image: &Path) {
    let esp = directory();
    fs::write(esp.path().join("loader.conf"), "timeout 3\n").unwrap();
    seal(&[&format!("--esp={}", esp.path().display())], signer, &system(), image);
}

/// Signed by the one that the initrds trust.
pub(crate) fn signed() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "signed.raw", |image| seal_system(Some(Signer::trusted()), image))
}

/// Signed by somebody whom nobody trusts.
pub(crate) fn by_stranger() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "stranger.raw", |image| seal_system(Some(Signer::stranger()), image))
}

/// With a hash tree, and no signature.
pub(crate) fn unsigned() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "unsigned.raw", |image| seal_system(None, image))
}

/// Where a partition of an image lies: offset and size in bytes.
pub(crate) fn partition(image: &Path, designator: &str) -> (u64, u64) {
    let text = succeed(harness::ddictl().args(["dissect", "--quiet", "--json=short"]).arg(image));
    let description: serde_json::Value = serde_json::from_str(&text).unwrap();
    let partitions = description["partitions"].as_array().unwrap();
    let partition = partitions.iter().find(|partition| partition["designator"] == designator).unwrap();
    (partition["offset"].as_u64().unwrap(), partition["size"].as_u64().unwrap())
}

/// The root hash of an image, in hexadecimal digits.
pub(crate) fn root_hash(image: &Path) -> String {
    let text = succeed(harness::ddictl().args(["dissect", "--quiet", "--json=short"]).arg(image));
    let description: serde_json::Value = serde_json::from_str(&text).unwrap();
    let partitions = description["partitions"].as_array().unwrap();
    let hash = partitions.iter().find_map(|partition| partition["root_hash"].as_str()).unwrap();
    hash.to_owned()
}

/// The signed one with one bit flipped in the middle of the root.
pub(crate) fn flipped() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "flipped.raw", |image| {
        fs::copy(signed(), image).unwrap();
        let (offset, size) = partition(image, "root");
        let place = offset + size / 2;
        let file = File::options().read(true).write(true).open(image).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 1], place).unwrap();
    })
}

/// The signed one with an ext4 in the place of the vfat of the EFI system partition.
pub(crate) fn with_ext4_esp() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "esp.raw", |image| {
        fs::copy(signed(), image).unwrap();
        let (offset, size) = partition(image, "esp");
        let other = directory();
        let ext4 = other.path().join("ext4");
        File::create(&ext4).unwrap().set_len(size).unwrap();
        succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&ext4));
        File::options()
            .write(true)
            .open(image)
            .unwrap()
            .write_all_at(&fs::read(ext4).unwrap(), offset)
            .unwrap();
    })
}

/// The signed one with another system, which nobody signed, put in as partition 2; the signed root is 5 now.
pub(crate) fn reordered() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "reordered.raw", |image| {
        let directory = directory();
        let other = directory.path().join("other.squashfs");
        succeed(
            Command::new("mksquashfs")
                .arg(part(&["tree"]).unwrap())
                .arg(&other)
                .args(["-quiet", "-no-progress", "-no-xattrs", "-all-root", "-comp", "zstd"])
                .args(["-Xcompression-level", "1", "-p", "usr/lib/boots/stranger f 644 0 0 echo stranger"]),
        );
        fs::copy(signed(), image).unwrap();
        let length = fs::metadata(image).unwrap().len().next_multiple_of(1 << 20);
        let other = fs::read(other).unwrap();
        let size = u64::try_from(other.len()).unwrap().next_multiple_of(1 << 20);
        let file = File::options().write(true).open(image).unwrap();
        file.set_len(length + size + (1 << 20)).unwrap();
        file.write_all_at(&other, length).unwrap();
        let first = length / 512;
        let last = first + size / 512 - 1;
        succeed(
            Command::new("sgdisk")
                .args(["--move-second-header", &format!("--new=5:{first}:{last}"), "--typecode=5:8300"])
                .args(["--change-name=5:root-x86-64", "--transpose=2:5"])
                .arg(image),
        );
    })
}

/// The signed one, in 3 GiB.
pub(crate) fn huge() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "huge.raw", |image| {
        fs::copy(signed(), image).unwrap();
        File::options().write(true).open(image).unwrap().set_len(3 << 30).unwrap();
        succeed(Command::new("sgdisk").arg("--move-second-header").arg(image));
    })
}

/// The system as a tar, which nothing protects.
pub(crate) fn archived() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "system.tar.zst", |archive| {
        let tree = part(&["tree"]).unwrap();
        succeed(
            Command::new("tar")
                .args(["--create", "--zstd", "--numeric-owner", "--file"])
                .arg(archive)
                .arg("--directory")
                .arg(tree)
                .arg("."),
        );
    })
}

/// A signed system extension with one file, for whatever system.
pub(crate) fn extension() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "tools.raw", |image| {
        let tree = directory();
        for (name, text) in [
            ("usr/lib/extension-release.d/extension-release.tools", "ID=_any\n"),
            ("usr/lib/boots/extended", "of the extension\n"),
        ] {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        seal(&[], Some(Signer::trusted()), tree.path(), image);
    })
}

/// The system's /usr alone, signed.
pub(crate) fn usr() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    once(&MADE, "usr.raw", |image| {
        let usr = part(&["tree"]).unwrap().join("usr");
        seal(&["--designator=usr"], Some(Signer::trusted()), &usr, image);
    })
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(crate) fn sha256(file: &Path) -> String {
    succeed(Command::new("sha256sum").arg(file)).split(' ').next().unwrap().to_owned()
}
