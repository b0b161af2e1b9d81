//! Trust anchors as they lie on this machine, and the time that certificates are checked against.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::image_class::ImageClass;
use crate::format::image_name::without_image_suffixes;
use crate::format::root_hash::RootHash;
use crate::format::trust_rules;
use crate::image::assessment::Trust;
use crate::trust::anchor::{TrustAnchor, TrustAnchors};
use crate::trust::download::VerifiedDownload;
use crate::trust::revocation::{ImagePurpose, Revocations};

use super::error::OperationError;
use super::search_path;

/// Where trust anchors are looked for; a file in an earlier directory hides one of the same name in a later one, and
/// an empty file or a link to /dev/null hides it without replacing it.
pub const DIRECTORIES: [&str; 4] =
    ["/etc/verity.d", "/run/verity.d", "/usr/local/lib/verity.d", "/usr/lib/verity.d"];

/// Where it stands what is refused whoever vouches for it, and what certificates may sign. Files hide each other as those of
/// [`DIRECTORIES`] do.
pub const RULE_DIRECTORIES: [&str; 4] = [
    "/etc/ddictl/trust.d",
    "/run/ddictl/trust.d",
    "/usr/local/lib/ddictl/trust.d",
    "/usr/lib/ddictl/trust.d",
];

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
    /// Files of rules beside those of [`RULE_DIRECTORIES`].
    pub rules: Vec<PathBuf>,
    /// What images are for, where the verb does not know it by itself.
    pub class: Option<ImageClass>,
}

/// Trust anchors and what goes with them, loaded.
#[derive(Debug, Clone)]
pub struct TrustStore {
    anchors: Arc<TrustAnchors>,
    revocations: Arc<Revocations>,
    purpose: ImagePurpose,
    settings: TrustSettings,
    at: SystemTime,
    warnings: Vec<String>,
}

impl TrustStore {
    /// Loads what the settings name.
    ///
    /// # Errors
    /// [`OperationError`] where a certificate that was named cannot be read. One in a directory that cannot be read
    /// is a warning: it can then sign nothing. Rules that cannot be read or understood are always an error: what they
    /// refuse would be accepted.
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
        let mut revocations = Revocations::default();
        for path in rules_in_directories()?.iter().chain(&settings.rules) {
            read_rules(path, &mut revocations)?;
        }
        Ok(Self {
            anchors: Arc::new(TrustAnchors::new(anchors)),
            revocations: Arc::new(revocations),
            purpose: ImagePurpose { class: settings.class, name: None },
            settings,
            at: trusted_time(),
            warnings,
        })
    }

    /// The same for an image of this name, without suffixes, that is to be used as one of this class. Without a class
    /// that of the settings holds.
    #[must_use]
    pub fn for_image(&self, class: Option<ImageClass>, name: &str) -> Self {
        let name = (!name.is_empty()).then(|| name.to_owned());
        let purpose = ImagePurpose { class: class.or(self.settings.class), name };
        Self { purpose, ..self.clone() }
    }

    /// As [`Self::for_image`], for an image in a file of this name or path, or at this URL.
    #[must_use]
    pub fn for_file(&self, class: Option<ImageClass>, place: &str) -> Self {
        let path = match place.split_once("://") {
            Some((_, rest)) => rest.split(['?', '#']).next().unwrap_or_default(),
            None => place,
        };
        let file_name = path.rsplit('/').next().unwrap_or_default();
        self.for_image(class, without_image_suffixes(file_name))
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
            revocations: &self.revocations,
            purpose: &self.purpose,
            root_hash: self.settings.root_hash.as_ref(),
            usr_hash: self.settings.usr_hash.as_ref(),
            download,
            at: self.at,
        }
    }

    /// What is refused whoever vouches for it.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
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

/// The files of rules that count, by name. An empty one, or a link to /dev/null, hides those of its name and says nothing.
fn rules_in_directories() -> Result<Vec<PathBuf>, OperationError> {
    let mut files = Vec::new();
    for path in search_path::files(&RULE_DIRECTORIES, "conf")?.into_values() {
        let metadata =
            fs::metadata(&path).map_err(|source| OperationError::system(READING_RULES, &path, source))?;
        let hides = metadata.is_file() && metadata.len() == 0
            || metadata.file_type().is_char_device() && metadata.rdev() == NULL_DEVICE;
        if !hides {
            files.push(path);
        }
    }
    Ok(files)
}

/// What is being done, for messages.
const READING_RULES: &str = "reading the trust rules";
/// The device number of /dev/null: 1:3.
const NULL_DEVICE: u64 = 0x103;

fn read_rules(path: &Path, revocations: &mut Revocations) -> Result<(), OperationError> {
    let failing = |source: Box<dyn std::error::Error + Send + Sync>| {
        OperationError::system(READING_RULES, path, source)
    };
    let content = search_path::read_required_file(READING_RULES, path)?;
    let text = std::str::from_utf8(&content).map_err(|error| failing(error.into()))?;
    let rules = trust_rules::parse(text).map_err(|error| failing(error.into()))?;
    revocations.add(&path.display().to_string(), rules);
    Ok(())
}

fn read_anchor(path: &Path) -> Result<TrustAnchor, OperationError> {
    let doing = "reading the certificate";
    let content = search_path::read_required_file(doing, path)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_image_is_that_of_its_file() {
        let store = TrustStore {
            anchors: Arc::default(),
            revocations: Arc::default(),
            purpose: ImagePurpose::default(),
            settings: TrustSettings { class: Some(ImageClass::Confext), ..TrustSettings::default() },
            at: UNIX_EPOCH,
            warnings: Vec::new(),
        };
        for (place, name) in [
            ("/srv/os-1.2.raw", Some("os-1.2")),
            ("web.sysext.raw", Some("web")),
            ("/dev/sda", Some("sda")),
            ("https://h/a/os.raw.xz?x=/b#c", Some("os")),
            ("/srv/a?b.raw", Some("a?b")),
            ("/srv/.raw", None),
            ("https://h", Some("h")),
            ("https://h/", None),
        ] {
            let purpose = store.for_file(None, place).purpose;
            assert_eq!(
                (purpose.class, purpose.name.as_deref()),
                (Some(ImageClass::Confext), name),
                "{place}"
            );
        }
        assert_eq!(store.for_image(Some(ImageClass::Sysext), "a").purpose.class, Some(ImageClass::Sysext));
    }
}
