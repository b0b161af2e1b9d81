//! The URL of an image.

use std::fmt;
use std::sync::Arc;

use reqwest::Url;

use super::error::{FetchError, UrlFault};

/// How long a URL may be, in bytes: what common servers take in one line.
pub const MAXIMUM_URL_LENGTH: usize = 8 * 1024;

/// The URL of something that can be fetched: http or https, with a host.
///
/// Printing it shows neither user name nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageUrl(Arc<Url>);

impl ImageUrl {
    /// Reads `text` as a URL (RFC 3986). Stricter than browsers: blanks, control characters and backslashes are no
    /// part of a URL, and the two slashes and the host behind them must be there.
    ///
    /// # Errors
    ///
    /// [`FetchError::InvalidUrl`] with the fault.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let invalid = |fault| FetchError::InvalidUrl { url: without_credentials(text), fault };
        if text.len() > MAXIMUM_URL_LENGTH {
            let fault = UrlFault::TooLong { found: text.len(), limit: MAXIMUM_URL_LENGTH };
            return Err(FetchError::InvalidUrl {
                url: text.chars().take(4).chain("…".chars()).collect(),
                fault,
            });
        }
        let unexpected =
            |character: &char| character.is_control() || character.is_whitespace() || *character == '\\';
        if let Some(character) = text.chars().find(unexpected) {
            return Err(invalid(UrlFault::UnexpectedCharacter(character)));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(invalid(UrlFault::Malformed("no scheme".into())));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => (),
            _ => return Err(invalid(UrlFault::UnsupportedScheme(scheme.into()))),
        }
        if rest.strip_prefix("//").is_none_or(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return Err(invalid(UrlFault::NoHost));
        }
        let url = Url::parse(text).map_err(|error| invalid(UrlFault::Malformed(error.to_string())))?;
        if !url.has_host() {
            return Err(invalid(UrlFault::NoHost));
        }
        Ok(Self(url.into()))
    }

    /// Whether the bytes come through TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Host and port, as messages name the other side.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// The URL for everybody to see: without the query and the fragment either, which in a signed URL are as good as a
    /// password.
    #[must_use]
    pub fn without_secrets(&self) -> String {
        let mut url = Url::clone(&self.0);
        let query = url.query().map(|_| "***");
        url.set_query(query);
        url.set_fragment(None);
        without_credentials(url.as_str())
    }

    /// The last component of the path, decoded; `None` where it is empty or could not be the name of a file: not
    /// UTF-8, `.` or `..`, or with a slash or a control character in it.
    #[must_use]
    pub fn file_name(&self) -> Option<String> {
        let decoded = percent_decoded(self.0.path_segments()?.next_back()?)?;
        let impossible = |character: char| character == '/' || character.is_control();
        let usable = !matches!(decoded.as_str(), "" | "." | "..") && !decoded.contains(impossible);
        usable.then_some(decoded)
    }

    /// The URL of the file `name` in the same directory, where the files that belong to an image lie. Query and
    /// fragment do not go along. `None` where `name` is no file name: empty, `.`, `..`, or with a slash in it.
    #[must_use]
    pub fn sibling(&self, name: &str) -> Option<Self> {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\\']) || name.contains(char::is_control) {
            return None;
        }
        let mut url = Url::clone(&self.0);
        url.path_segments_mut().ok()?.pop().push(name);
        url.set_query(None);
        url.set_fragment(None);
        Some(Self(url.into()))
    }

    /// The place that `location`, the header of a redirect, points to from here; `None` where it is not a URL.
    pub(super) fn resolve(&self, location: &str) -> Option<Url> {
        self.0.join(location).ok()
    }

    /// The URL as the HTTP library takes it, with user name and password.
    pub(super) fn as_url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(self.0.as_str()))
    }
}

impl fmt::Debug for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageUrl({self})")
    }
}

/// `text` with whatever may be user name and password replaced. It works on texts that are no URL too, and rather
/// hides too much there.
pub(super) fn without_credentials(text: &str) -> String {
    let (scheme, rest) = text.split_once(':').map_or(("", text), |(scheme, rest)| (scheme, rest));
    let authority_and_on = rest.trim_start_matches('/');
    let authority = if authority_and_on.len() == rest.len() {
        rest
    } else {
        authority_and_on.split(['/', '?', '#']).next().unwrap_or_default()
    };
    let Some((credentials, _)) = authority.rsplit_once('@') else {
        return text.to_owned();
    };
    let (Some(slashes), Some(shown)) =
        (rest.strip_suffix(authority_and_on), authority_and_on.strip_prefix(credentials))
    else {
        return "***".to_owned();
    };
    let colon = if text.contains(':') { ":" } else { "" };
    format!("{scheme}{colon}{slashes}***{shown}")
}

/// A component of a path with its `%XX` sequences replaced by the bytes they stand for; `None` where that is not UTF-8
/// or a sequence is incomplete.
fn percent_decoded(component: &str) -> Option<String> {
    String::from_utf8(percent_decoded_bytes(component)?).ok()
}

/// `text` with its `%XX` sequences replaced by the bytes they stand for; `None` where a sequence is incomplete.
pub(super) fn percent_decoded_bytes(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            decoded.extend(data_encoding::HEXLOWER_PERMISSIVE.decode(&digits).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> UrlFault {
        match ImageUrl::parse(text) {
            Err(FetchError::InvalidUrl { fault, .. }) => fault,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn only_http_and_https_with_a_host_are_urls_of_images() {
        let table = [
            ("file:///var/image.raw", UrlFault::UnsupportedScheme("file".into())),
            ("ftp://a.example/image.raw", UrlFault::UnsupportedScheme("ftp".into())),
            ("", UrlFault::Malformed("no scheme".into())),
            ("/image.raw", UrlFault::Malformed("no scheme".into())),
            ("http:", UrlFault::NoHost),
            ("http://", UrlFault::NoHost),
            ("https:///image.raw", UrlFault::NoHost),
            ("http:a.example/image.raw", UrlFault::NoHost),
            ("http://?query", UrlFault::NoHost),
            ("http://a.example/image .raw", UrlFault::UnexpectedCharacter(' ')),
            ("http://a.example\\image.raw", UrlFault::UnexpectedCharacter('\\')),
            ("http://a.example/\r\nHost: b", UrlFault::UnexpectedCharacter('\r')),
            ("http://a.example:70000/", UrlFault::Malformed("invalid port number".into())),
            ("http://[::1/", UrlFault::Malformed("invalid IPv6 address".into())),
        ];
        for (text, expected) in table {
            assert_eq!(fault(text), expected, "{text:?}");
        }
        let long = format!("http://a.example/{}", "a".repeat(MAXIMUM_URL_LENGTH));
        assert!(matches!(fault(&long), UrlFault::TooLong { .. }));
        assert!(ImageUrl::parse("HTTPS://a.example").unwrap().is_https());
        assert!(!ImageUrl::parse("http://[::1]:8080/x").unwrap().is_https());
    }

    #[test]
    fn no_message_shows_user_name_or_password() {
        for text in [
            "https://user:secret@a.example/image.raw",
            "https://user:se@cret@a.example/image.raw",
            "ftp://user:secret@a.example/image.raw",
            "http:user:secret@a.example",
            "user:secret@a.example/image.raw",
            "https://user:secret@a.example:70000/",
            "https:////user:secret@a.example/",
        ] {
            let shown = match ImageUrl::parse(text) {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("secret") && !shown.contains("cret@"), "{shown}");
            assert!(shown.contains("a.example"), "{shown}");
        }
        let plain = "https://a.example/name@1.raw?x=y@z";
        assert_eq!(ImageUrl::parse(plain).unwrap().to_string(), plain);
    }

    #[test]
    fn the_file_name_is_the_last_component_of_the_path() {
        let table = [
            ("http://a.example/dir/image.raw", Some("image.raw")),
            ("http://a.example/image.raw?token=/x#y", Some("image.raw")),
            ("http://a.example/image%2B1.raw", Some("image+1.raw")),
            ("http://a.example/", None),
            ("http://a.example", None),
            ("http://a.example/dir/", None),
            ("http://a.example/..%2Fpasswd", None),
            ("http://a.example/a%00b", None),
            ("http://a.example/a%0ab", None),
            ("http://a.example/%ff", None),
            ("http://a.example/a%2", None),
            ("http://a.example/a%zz", None),
        ];
        for (text, expected) in table {
            assert_eq!(ImageUrl::parse(text).unwrap().file_name().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_sibling_lies_in_the_same_directory_and_nowhere_else() {
        let url = ImageUrl::parse("https://a.example/dir/image.raw?token=1#x").unwrap();
        assert_eq!(url.sibling("SHA256SUMS").unwrap().to_string(), "https://a.example/dir/SHA256SUMS");
        assert_eq!(url.sibling("a?b%").unwrap().to_string(), "https://a.example/dir/a%3Fb%25");
        for name in ["", ".", "..", "../x", "a/b", "a\\b", "a\nb"] {
            assert_eq!(url.sibling(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_host_is_named_with_its_port() {
        assert_eq!(ImageUrl::parse("https://u:p@a.example/").unwrap().host(), "a.example:443");
        assert_eq!(ImageUrl::parse("http://[::1]:8080/").unwrap().host(), "[::1]:8080");
    }

    #[test]
    fn what_everybody_may_read_has_no_secrets() {
        for (text, expected) in [
            ("https://a.example/i.raw?X-Signature=s3cret#t0ken", "https://a.example/i.raw?***"),
            ("https://me:s3cret@a.example/i.raw", "https://***@a.example/i.raw"),
            ("https://a.example/i.raw", "https://a.example/i.raw"),
        ] {
            assert_eq!(ImageUrl::parse(text).unwrap().without_secrets(), expected);
        }
    }
}
