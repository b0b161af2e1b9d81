//! Where an image comes from: a server, a file of this machine, or a stream.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{FetchError, UrlFault};
use super::url::{ImageUrl, percent_decoded_bytes};

/// How standard input is written where a URL is expected.
pub const STANDARD_INPUT: &str = "-";

/// Where an image comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A server.
    Http(ImageUrl),
    /// A file or a block device of this machine, by its whole path.
    File(PathBuf),
    /// Something that can be read once.
    Stream(Stream),
}

impl Origin {
    /// Reads what a user writes: an http or https URL, a `file:` URL (RFC 8089; its host is empty or `localhost`), or
    /// [`STANDARD_INPUT`], for which `standard_input` is read.
    ///
    /// # Errors
    ///
    /// [`FetchError::InvalidUrl`] with the fault.
    pub fn parse(text: &str, standard_input: impl Read + Send + 'static) -> Result<Self, FetchError> {
        if text == STANDARD_INPUT {
            return Ok(Self::Stream(Stream::new("standard input", standard_input)));
        }
        match text.split_once(':') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => local_path(rest)
                .map(Self::File)
                .ok_or_else(|| FetchError::InvalidUrl { url: text.to_owned(), fault: UrlFault::NoLocalPath }),
            _ => ImageUrl::parse(text).map(Self::Http),
        }
    }

    /// The URL, where it is on a server.
    #[must_use]
    pub const fn as_http(&self) -> Option<&ImageUrl> {
        match self {
            Self::Http(url) => Some(url),
            Self::File(_) | Self::Stream(_) => None,
        }
    }

    /// The origin for everybody to see ([`ImageUrl::without_secrets`]).
    #[must_use]
    pub fn without_secrets(&self) -> String {
        match self {
            Self::Http(url) => url.without_secrets(),
            Self::File(_) | Self::Stream(_) => self.to_string(),
        }
    }

    /// The name of the file; `None` where it has none ([`ImageUrl::file_name`]).
    #[must_use]
    pub fn file_name(&self) -> Option<String> {
        match self {
            Self::Http(url) => url.file_name(),
            Self::File(path) => {
                let name = path.file_name()?.to_str()?;
                (!name.contains(char::is_control)).then(|| name.to_owned())
            }
            Self::Stream(_) => None,
        }
    }

    /// The file `name` beside it, where the files that belong to an image lie. `None` where `name` is no file name, and
    /// beside a stream.
    #[must_use]
    pub fn sibling(&self, name: &str) -> Option<Self> {
        match self {
            Self::Http(url) => url.sibling(name).map(Self::Http),
            Self::File(path) => {
                let is_name = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
                is_name.then(|| Self::File(path.with_file_name(name)))
            }
            Self::Stream(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::File(path) => path.display().fmt(f),
            Self::Stream(stream) => f.write_str(stream.name),
        }
    }
}

/// The path in what follows `file:`.
fn local_path(rest: &str) -> Option<PathBuf> {
    let path = match rest.strip_prefix("//") {
        // A path follows the host, and begins with its slash.
        Some(authority) => authority.strip_prefix("localhost").unwrap_or(authority),
        None => rest,
    };
    // A query or a fragment would be part of a name here and of none elsewhere.
    let plain = path.starts_with('/') && !path.starts_with("//") && !path.contains(['?', '#']);
    let bytes = plain.then(|| percent_decoded_bytes(path))??;
    (!bytes.contains(&0)).then(|| PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// Opens a file or a block device and finds how many bytes it has.
pub(super) fn open_local(path: &Path) -> io::Result<(File, u64)> {
    // Opening a FIFO waits for whoever writes into it.
    let usable = |file_type: fs::FileType| {
        if file_type.is_file() || file_type.is_block_device() {
            return Ok(());
        }
        Err(io::Error::other("expected a regular file or a block device"))
    };
    usable(fs::metadata(path)?.file_type())?;
    let mut file = File::open(path)?;
    usable(file.metadata()?.file_type())?;
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    Ok((file, length))
}

/// Something that can be read once.
#[derive(Clone)]
pub struct Stream {
    name: &'static str,
    reader: Arc<Mutex<Option<Box<dyn Read + Send>>>>,
}

impl Stream {
    /// A stream called `name` in messages.
    pub fn new(name: &'static str, reader: impl Read + Send + 'static) -> Self {
        Self { name, reader: Arc::new(Mutex::new(Some(Box::new(reader)))) }
    }

    /// The reader, for the first who asks.
    pub(super) fn take(&self) -> io::Result<Box<dyn Read + Send>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        reader.ok_or_else(|| io::Error::other("it can be read only once"))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Origin, FetchError> {
        Origin::parse(text, io::empty())
    }

    #[test]
    fn file_urls_are_whole_paths_of_this_machine() {
        for (text, path) in [
            ("file:///var/a.raw", "/var/a.raw"),
            ("file:/var/a.raw", "/var/a.raw"),
            ("FILE://localhost/var/a%20b%25.raw", "/var/a b%.raw"),
            ("file:///var/ä.raw", "/var/ä.raw"),
        ] {
            assert!(matches!(parse(text), Ok(Origin::File(found)) if found == Path::new(path)), "{text}");
        }
        for text in [
            "file:",
            "file:a.raw",
            "file://",
            "file://server/a.raw",
            "file://localhostess/a.raw",
            "file:////a.raw",
            "file:///a%2",
            "file:///a%00",
            "file:///a?b",
            "file:///a#b",
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                matches!(error, FetchError::InvalidUrl { fault: UrlFault::NoLocalPath, .. }),
                "{text}: {error:?}"
            );
        }
    }

    #[test]
    fn everything_else_is_a_url_or_standard_input() {
        assert!(matches!(parse("https://a.example/i.raw").unwrap().as_http(), Some(url) if url.is_https()));
        assert_eq!(parse("-").unwrap().to_string(), "standard input");
        for text in ["", "--", "/var/a.raw", "files:///a"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_siblings_are_those_of_the_directory() {
        let file = parse("file:///var/a.raw").unwrap();
        assert_eq!(file.file_name().as_deref(), Some("a.raw"));
        assert_eq!(file.sibling("SHA256SUMS").unwrap().to_string(), "/var/SHA256SUMS");
        for name in ["", ".", "..", "a/b", "../a", "a\0"] {
            assert!(file.sibling(name).is_none(), "{name:?}");
        }
        assert_eq!(parse("file:///").unwrap().file_name(), None);
        let stream = parse("-").unwrap();
        assert!(stream.file_name().is_none() && stream.sibling("a").is_none());
        let server = parse("https://u:p@a.example/i.raw?x").unwrap();
        assert_eq!(server.sibling("b").unwrap().without_secrets(), "https://***@a.example/b");
    }
}
