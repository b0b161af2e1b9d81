//! OpenPGP keyrings as they lie on this machine.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::trust::openpgp::{Keyring, Keyrings, MAXIMUM_KEYRING};

use super::error::OperationError;
use super::observer::Observer;

/// Where keyrings are looked for. Of each of the two names below them all that exist count; an empty file, or a link to
/// /dev/null, hides those of its name in later directories.
pub const DIRECTORIES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];

/// Whose keyrings: ours, and those that systemd-pull uses.
const OWNERS: [&str; 2] = ["ddictl", "systemd"];

/// What a keyring is called; the second is what it was called before systemd 258.
const NAMES: [&str; 2] = ["import-pubring.pgp", "import-pubring.gpg"];

/// Reads the keyrings that were named, or else all that exist in [`DIRECTORIES`].
///
/// # Errors
/// [`OperationError::State`] where there is none, with the paths that were tried; [`OperationError::System`] where one
/// cannot be read: it may have the revocation of a key in another one.
pub fn load(named: &[PathBuf], observer: &dyn Observer) -> Result<Keyrings, OperationError> {
    let mut keyrings = Vec::new();
    if named.is_empty() {
        let search = Search { root: Path::new("/") };
        for path in search.found() {
            keyrings.push(read(&path)?);
        }
        if keyrings.is_empty() {
            return Err(none_found(&search));
        }
    }
    for path in named {
        keyrings.push(read(path)?);
    }
    for keyring in &keyrings {
        for skipped in keyring.skipped() {
            observer.warning(&format!("ignoring a key of keyring '{}': {skipped}", keyring.name()));
        }
    }
    Ok(Keyrings::new(keyrings))
}

fn none_found(search: &Search<'_>) -> OperationError {
    let tried: Vec<String> = search.paths().map(|path| format!("'{}'", path.display())).collect();
    let problem = format!(
        "none found, tried {}: put the keys that may sign into one of them, or name a file with --keyring=; an image that \
         is signed itself needs no key for its download, with --verify=no",
        tried.join(", ")
    );
    OperationError::state("looking for", "OpenPGP keyrings", problem)
}

fn read(path: &Path) -> Result<Keyring, OperationError> {
    const DOING: &str = "reading the OpenPGP keyring";
    let failing = |source: io::Error| OperationError::system(DOING, path, source);
    let file = fs::File::open(path).map_err(failing)?;
    if !file.metadata().map_err(failing)?.is_file() {
        return Err(OperationError::state(DOING, path.display(), "expected a regular file"));
    }
    // One byte more than there may be, so that the parser sees what is too large.
    let limit = u64::try_from(MAXIMUM_KEYRING).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(failing)?;
    Keyring::read(&path.display().to_string(), &bytes)
        .map_err(|source| OperationError::system(DOING, path, source))
}

/// The places below a root, which is / but in tests.
struct Search<'a> {
    root: &'a Path,
}

impl Search<'_> {
    /// Every path, whether it exists or not.
    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        Self::series().flatten().map(|path| self.root.join(path))
    }

    /// For each owner and name the paths in the order of the directories.
    fn series() -> impl Iterator<Item = impl Iterator<Item = PathBuf>> {
        OWNERS.into_iter().flat_map(|owner| {
            NAMES.into_iter().map(move |name| {
                DIRECTORIES
                    .into_iter()
                    .map(move |directory| Path::new(directory.trim_start_matches('/')).join(owner).join(name))
            })
        })
    }

    /// Those that count. One that is there and cannot be looked at is among them, so that reading it fails.
    fn found(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for series in Self::series() {
            for path in series.map(|path| self.root.join(path)) {
                match fs::metadata(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                    // An empty file; /dev/null has no length either.
                    Ok(metadata) if metadata.len() == 0 && !metadata.is_dir() => break,
                    _ => found.push(path),
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::observer::Silent;

    fn data(name: &str) -> Vec<u8> {
        fs::read(format!("{}/tests/data/openpgp/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn found(root: &Path) -> Vec<String> {
        let relative = |path: PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        Search { root }.found().into_iter().map(relative).collect()
    }

    #[test]
    fn all_that_exist_count_and_an_empty_one_hides_later_ones() {
        let root = tempfile::tempdir().unwrap();
        let place = |path: &str, content: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        assert_eq!(Search { root: root.path() }.paths().count(), 16);
        assert_eq!(found(root.path()), [""; 0]);
        let text = none_found(&Search { root: Path::new("/") }).to_string();
        for words in
            ["'/etc/ddictl/import-pubring.pgp', ", "'/usr/lib/systemd/import-pubring.gpg': ", "--keyring="]
        {
            assert!(text.contains(words), "{text}");
        }
        place("usr/lib/systemd/import-pubring.gpg", b"x");
        place("usr/lib/systemd/import-pubring.pgp", b"x");
        place("etc/systemd/import-pubring.gpg", b"x");
        place("run/ddictl/import-pubring.pgp", b"x");
        let all = [
            "run/ddictl/import-pubring.pgp",
            "usr/lib/systemd/import-pubring.pgp",
            "etc/systemd/import-pubring.gpg",
            "usr/lib/systemd/import-pubring.gpg",
        ];
        assert_eq!(found(root.path()), all);
        place("etc/systemd/import-pubring.pgp", b"");
        assert_eq!(found(root.path()), [all[0], all[2], all[3]]);
        fs::create_dir(root.path().join("etc/ddictl")).unwrap();
        let mask = root.path().join("etc/ddictl/import-pubring.pgp");
        std::os::unix::fs::symlink("/dev/null", mask).unwrap();
        assert_eq!(found(root.path()), [all[2], all[3]]);
    }

    #[test]
    fn a_keyring_that_cannot_be_read_is_an_error_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.pgp");
        let load = || load(std::slice::from_ref(&path), &Silent).map(|keyrings| keyrings.len());
        let failing = |words: &str| {
            let text = load().unwrap_err().with_causes();
            assert!(text.contains("keys.pgp") && text.contains(words), "{text}");
        };
        failing("No such file");
        fs::write(&path, b"").unwrap();
        failing("found an empty file");
        fs::write(&path, data("keybox.pgp")).unwrap();
        failing("gpg --export");
        fs::write(&path, data("secret.pgp")).unwrap();
        failing("found a private key");
        fs::write(&path, data("several.pgp")).unwrap();
        assert_eq!(load().unwrap(), 3);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        failing("expected a regular file");
    }
}
