//! The certificate authorities that https servers are judged by.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::FetchError;

/// Where distributions keep all authorities in one file, most common place first.
pub const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// The variable that names another file in place of [`SYSTEM_BUNDLES`], as OpenSSL and curl understand it.
pub const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// How large a file of authorities may be, in bytes. The common ones have a quarter of a megabyte.
pub const MAXIMUM_BUNDLE_LENGTH: u64 = 16 * 1024 * 1024;

/// Which certificate authorities count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CertificateAuthorities {
    /// Those of the system: the file that [`BUNDLE_VARIABLE`] names, else the first of [`SYSTEM_BUNDLES`] that holds
    /// any.
    #[default]
    System,
    /// Those in these PEM files and no others.
    Files(Vec<PathBuf>),
}

impl CertificateAuthorities {
    /// Reads the authorities.
    ///
    /// # Errors
    ///
    /// [`FetchError::NoCertificateAuthorities`] with every path tried where there is none;
    /// [`FetchError::CertificateFile`] where a file that the caller named cannot be used.
    pub(super) fn load(&self) -> Result<RootCertStore, FetchError> {
        match self {
            Self::System => first_usable(system_bundles(std::env::var_os(BUNDLE_VARIABLE))),
            Self::Files(paths) => every_one(paths),
        }
    }
}

/// The files to try, given the value of [`BUNDLE_VARIABLE`].
fn system_bundles(named: Option<OsString>) -> Vec<PathBuf> {
    match named.filter(|path| !path.is_empty()) {
        Some(path) => vec![path.into()],
        None => SYSTEM_BUNDLES.into_iter().map(PathBuf::from).collect(),
    }
}

/// The authorities of the first file that holds any.
fn first_usable(candidates: Vec<PathBuf>) -> Result<RootCertStore, FetchError> {
    for path in &candidates {
        let Ok(bytes) = read(path) else { continue };
        let mut store = RootCertStore::empty();
        // One certificate that this library does not understand must not cost the others.
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
        if !store.is_empty() {
            return Ok(store);
        }
    }
    Err(FetchError::NoCertificateAuthorities { tried: candidates })
}

/// The authorities of all files, each of which must be flawless.
fn every_one(paths: &[PathBuf]) -> Result<RootCertStore, FetchError> {
    let mut store = RootCertStore::empty();
    for path in paths {
        let unusable = |source| FetchError::CertificateFile { path: path.clone(), source };
        let flawed = |error: String| unusable(io::Error::new(io::ErrorKind::InvalidData, error));
        let before = store.len();
        for certificate in CertificateDer::pem_slice_iter(&read(path).map_err(unusable)?) {
            let certificate = certificate.map_err(|error| flawed(error.to_string()))?;
            store.add(certificate).map_err(|error| flawed(error.to_string()))?;
        }
        if store.len() == before {
            return Err(flawed("no certificate in it".to_owned()));
        }
    }
    if store.is_empty() {
        return Err(FetchError::NoCertificateAuthorities { tried: paths.to_vec() });
    }
    Ok(store)
}

/// The bytes of a file of at most [`MAXIMUM_BUNDLE_LENGTH`] bytes.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAXIMUM_BUNDLE_LENGTH.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAXIMUM_BUNDLE_LENGTH {
        let message = format!("more than {MAXIMUM_BUNDLE_LENGTH} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::http_server::TestAuthority;
    use super::*;

    #[test]
    fn the_variable_takes_the_place_of_the_system() {
        assert_eq!(system_bundles(Some("/x.pem".into())), [PathBuf::from("/x.pem")]);
        assert_eq!(system_bundles(Some("".into())), system_bundles(None));
        assert_eq!(system_bundles(None).len(), SYSTEM_BUNDLES.len());
    }

    #[test]
    fn the_first_bundle_that_holds_a_certificate_counts() {
        let directory = tempfile::tempdir().unwrap();
        let [missing, empty, good] = ["missing", "empty", "good"].map(|name| directory.path().join(name));
        fs::write(&empty, "no certificate here\n").unwrap();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&good, format!("{broken}{}", TestAuthority::new("one").pem())).unwrap();
        assert_eq!(first_usable(vec![missing.clone(), empty.clone(), good]).unwrap().len(), 1);

        let candidates = vec![missing, empty];
        match first_usable(candidates.clone()) {
            Err(FetchError::NoCertificateAuthorities { tried }) => assert_eq!(tried, candidates),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_file_that_is_named_must_be_flawless() {
        let directory = tempfile::tempdir().unwrap();
        let [missing, empty, broken, good] =
            ["missing", "empty", "broken", "good"].map(|name| directory.path().join(name));
        let certificate = TestAuthority::new("one").pem();
        fs::write(&good, &certificate).unwrap();
        fs::write(&empty, "").unwrap();
        let flaw = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&broken, format!("{certificate}{flaw}")).unwrap();
        for flawed in [missing, empty, broken] {
            let files = CertificateAuthorities::Files(vec![good.clone(), flawed.clone()]);
            match files.load() {
                Err(FetchError::CertificateFile { path, .. }) => assert_eq!(path, flawed),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(CertificateAuthorities::Files(vec![good]).load().unwrap().len(), 1);
        assert!(matches!(
            CertificateAuthorities::Files(Vec::new()).load(),
            Err(FetchError::NoCertificateAuthorities { .. })
        ));
    }

    #[test]
    fn a_bundle_without_end_is_refused() {
        let files = CertificateAuthorities::Files(vec!["/dev/zero".into()]);
        match files.load() {
            Err(FetchError::CertificateFile { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::FileTooLarge);
            }
            other => panic!("{other:?}"),
        }
    }
}
