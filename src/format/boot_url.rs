//! Where a machine was booted from: the URL that firmware leaves in an EFI variable, and what lies beside it.

use super::pull_expression::is_plain_relative_path;

/// The vendor of systemd's EFI variables.
pub const LOADER_VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The variables that may say where the machine was booted from, in the order in which they count: systemd-stub sets the
/// first to where the unified kernel image came from, the boot loader or the stub the second to where the loader did.
pub const BOOT_URL_VARIABLES: [&str; 2] = ["StubDeviceURL", "LoaderDeviceURL"];

/// The longest URL that is taken, in bytes.
pub const MAX_BOOT_URL: usize = 4096;

/// What firmware says is no URL that something can lie beside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootUrlError {
    /// The attributes that efivarfs puts in front are missing, or the text is no UTF-16 that ends in NUL.
    #[error("expected 4 bytes of attributes and UTF-16, found {length} bytes")]
    Variable {
        /// How many bytes there are.
        length: usize,
    },
    /// Something else than an http or https URL with a path.
    #[error("expected an http or https URL in ASCII, with a path and without blanks, found '{}'", .found.escape_debug())]
    Url {
        /// The text.
        found: String,
    },
    /// The path that is to lie beside it leads elsewhere.
    #[error("expected a plain relative path, found '{}'", .found.escape_debug())]
    Path {
        /// The path.
        found: String,
    },
}

/// Reads what efivarfs shows of a variable (Documentation/filesystems/efivarfs.rst): the attributes in 4 bytes, then
/// UTF-16LE up to a NUL or the end.
///
/// # Errors
/// [`BootUrlError::Variable`].
pub fn decode_variable(content: &[u8]) -> Result<String, BootUrlError> {
    let wrong = || BootUrlError::Variable { length: content.len() };
    let text = content.get(4..).filter(|text| text.len() % 2 == 0 && text.len() <= 2 * MAX_BOOT_URL);
    let (pairs, _) = text.ok_or_else(wrong)?.as_chunks::<2>();
    let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0);
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.map_err(|_| wrong())
}

/// The URL of what lies at `path` relative to where the machine was booted from: the last component of that is replaced,
/// its query and fragment go.
///
/// # Errors
/// [`BootUrlError::Url`] or [`BootUrlError::Path`].
pub fn beside(boot_url: &str, path: &str) -> Result<String, BootUrlError> {
    let wrong = || BootUrlError::Url { found: boot_url.to_owned() };
    if !is_plain_relative_path(path) {
        return Err(BootUrlError::Path { found: path.to_owned() });
    }
    if !boot_url.bytes().all(|byte| byte.is_ascii_graphic()) || boot_url.len() > MAX_BOOT_URL {
        return Err(wrong());
    }
    let (scheme, rest) = boot_url.split_once("://").ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(wrong());
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, directory) = match rest.rsplit_once('/') {
        Some((before, _)) => match before.split_once('/') {
            Some((host, directory)) => (host, format!("{directory}/")),
            None => (before, String::new()),
        },
        None => (rest, String::new()),
    };
    // A host with a name and a password before it is not what firmware asks; neither is a backslash a slash to everybody.
    if host.is_empty() || host.contains(['@', '\\']) {
        return Err(wrong());
    }
    Ok(format!("{}://{host}/{directory}{path}", scheme.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().chain([0]);
        [6, 0, 0, 0].into_iter().chain(units.flat_map(u16::to_le_bytes)).collect()
    }

    #[test]
    fn a_variable_holds_text() {
        let url = "http://10.0.2.2:8081/uki.efi";
        assert_eq!(decode_variable(&variable(url)).unwrap(), url);
        let without_nul = variable(url);
        assert_eq!(decode_variable(&without_nul[..without_nul.len() - 2]).unwrap(), url);
        assert_eq!(decode_variable(&[6, 0, 0, 0]).unwrap(), "");
        let long = variable(&"x".repeat(MAX_BOOT_URL + 1));
        for content in [&b""[..], b"\x06\0\0", b"\x06\0\0\0h", b"\x06\0\0\0\0\xd8", &long] {
            assert!(matches!(decode_variable(content), Err(BootUrlError::Variable { .. })), "{content:?}");
        }
    }

    #[test]
    fn the_last_component_is_replaced() {
        for (url, path, expected) in [
            ("http://10.0.2.2:8081/uki.efi", "root.raw", "http://10.0.2.2:8081/root.raw"),
            ("HTTPS://h/a/b/uki.efi?x=/y#z/w", "c/root.raw", "https://h/a/b/c/root.raw"),
            ("http://h/a/", "r", "http://h/a/r"),
            ("http://h", "r", "http://h/r"),
            ("http://[fe80::1]:80/x", "r", "http://[fe80::1]:80/r"),
        ] {
            assert_eq!(beside(url, path).unwrap(), expected);
        }
    }

    #[test]
    fn nothing_leads_elsewhere() {
        for url in [
            "",
            "tftp://h/x",
            "file:///x",
            "http://",
            "http:///x",
            "http://h /x",
            "http://u@h/x",
            "http://h\\x/y",
            "h/x",
        ] {
            assert!(matches!(beside(url, "r"), Err(BootUrlError::Url { .. })), "{url}");
        }
        for path in ["", "../r", "/r", "a//b", "http://evil/r", "a?b", "%2e%2e/r"] {
            assert!(matches!(beside("http://h/x", path), Err(BootUrlError::Path { .. })), "{path}");
        }
    }
}
