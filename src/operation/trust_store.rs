//! Trust anchors as they lie on this machine, and the time that certificates are checked against.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::root_hash::RootHash;
use crate::image::assessment::Trust;
use crate::trust::anchor::{TrustAnchor, TrustAnchors};
use crate::trust::download::VerifiedDownload;

use super::error::OperationError;
use super::search_path;

/// Where trust anchors are looked for; a file in an earlier directory hides one of the same name in a later one, and
/// an empty file or a link to /dev/null hides it without replacing it.
pub const DIRECTORIES: [&str; 4] =
    ["/etc/verity.d", "/run/verity.d", "/usr/local/lib/verity.d", "/usr/lib/verity.d"];

/// A time that has certainly passed, by the modification time of this file, whatever the clock says.
const CLOCK_EPOCH: &str = "/usr/lib/clock-epoch";

/// What the user says about trust.
#[derive(Debug, Clone, Default)]
pub struct TrustSettings {
    /// Certificates that replace those of [`DIRECTORIES`]; empty to use those.
    pub certificates: Vec<PathBuf>,
    /// The root hash of the root partition.
    pub root_hash: Option<RootHash>,
    /// The root hash of the usr partition.
    pub usr_hash: Option<RootHash>,
}

/// Trust anchors and what goes with them, loaded.
#[derive(Debug)]
pub struct TrustStore {
    anchors: TrustAnchors,
    settings: TrustSettings,
    at: SystemTime,
    warnings: Vec<String>,
}

impl TrustStore {
    /// Loads what the settings name.
    ///
    /// # Errors
    /// [`OperationError`] where a certificate that was named cannot be read. One in a directory that cannot be read
    /// is a warning: it can then sign nothing.
    pub fn load(settings: TrustSettings) -> Result<Self, OperationError> {
        let mut anchors = Vec::new();
        let mut warnings = Vec::new();
        if settings.certificates.is_empty() {
            for path in certificates_in_directories()? {
                match read_anchor(&path) {
                    Ok(anchor) => anchors.push(anchor),
                    Err(error) => {
                        warnings.push(format!("ignoring the trust anchor: {}", error.with_causes()))
                    }
                }
            }
        } else {
            for path in &settings.certificates {
                anchors.push(read_anchor(path)?);
            }
        }
        Ok(Self { anchors: TrustAnchors::new(anchors), settings, at: trusted_time(), warnings })
    }

    /// What assessment needs, without a verified download.
    #[must_use]
    pub fn trust(&self) -> Trust<'_> {
        self.trust_in(None)
    }

    /// What assessment needs of an image inside this download.
    #[must_use]
    pub fn trust_in<'a>(&'a self, download: Option<&'a VerifiedDownload>) -> Trust<'a> {
        Trust {
            anchors: &self.anchors,
            root_hash: self.settings.root_hash.as_ref(),
            usr_hash: self.settings.usr_hash.as_ref(),
            download,
            at: self.at,
        }
    }

    /// The time that everything is checked against.
    #[must_use]
    pub const fn time(&self) -> SystemTime {
        self.at
    }

    /// What the user said.
    #[must_use]
    pub const fn settings(&self) -> &TrustSettings {
        &self.settings
    }

    /// Certificates that were left out, and why.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// The files that count, by name. An empty one hides those of its name and stands for none.
fn certificates_in_directories() -> Result<Vec<PathBuf>, OperationError> {
    let hides = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0);
    let files = search_path::files(&DIRECTORIES, "crt")?;
    Ok(files.into_values().filter(|path| !hides(path)).collect())
}

fn read_anchor(path: &Path) -> Result<TrustAnchor, OperationError> {
    let doing = "reading the certificate";
    let content = search_path::read_small_file(doing, path)?
        .ok_or_else(|| OperationError::system(doing, path, io::Error::from(io::ErrorKind::NotFound)))?;
    TrustAnchor::from_pem(&path.display().to_string(), &content)
        .map_err(|source| OperationError::system(doing, path, source))
}

/// The time, but never before this program was built or the system's epoch file was made: a machine without a clock
/// battery begins in 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the clock; everything else is told the time"
)]
fn trusted_time() -> SystemTime {
    let epoch_file = fs::metadata(CLOCK_EPOCH)
        .ok()
        .and_then(|metadata| u64::try_from(metadata.mtime()).ok())
        .unwrap_or_default();
    let built = option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()).unwrap_or_default();
    let floor = UNIX_EPOCH.checked_add(Duration::from_secs(epoch_file.max(built))).unwrap_or(UNIX_EPOCH);
    SystemTime::now().max(floor)
}
