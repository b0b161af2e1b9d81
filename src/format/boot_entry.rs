//! Boot entries of type 1 (UAPI.1, 'Boot Loader Specification'): files that tell a boot menu what to start, and how.

/// How much is read of a file, in bytes: real ones are a few hundred bytes long.
pub const MAXIMUM_BOOT_ENTRY: u64 = 16 << 10;

/// What an entry says of what is started. Paths are those of the partition that the entry lies in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootEntry {
    /// The kernel.
    pub linux: Option<String>,
    /// An EFI program.
    pub efi: Option<String>,
    /// A unified kernel image.
    pub uki: Option<String>,
    /// A unified kernel image on a server.
    pub uki_url: Option<String>,
    /// The command line: all that stands behind `options`, in its order.
    pub options: Option<String>,
}

impl BootEntry {
    /// Reads an entry as systemd-boot does: a key and a value a line, of which unknown ones are passed over, and of several
    /// the last one counts. Bytes that are no text become replacement characters.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut entry = Self::default();
        for line in String::from_utf8_lossy(bytes).split(['\n', '\r']) {
            let line = line.trim_matches([' ', '\t']);
            let Some((key, value)) = line.split_once([' ', '\t']).filter(|(key, _)| !key.starts_with('#'))
            else {
                continue;
            };
            let value = value.trim_matches([' ', '\t']);
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let value = quoted.unwrap_or(value);
            let place = match key {
                "linux" => &mut entry.linux,
                "efi" => &mut entry.efi,
                "uki" => &mut entry.uki,
                "uki-url" => &mut entry.uki_url,
                "options" => {
                    let options = entry.options.get_or_insert_default();
                    if !options.is_empty() {
                        options.push(' ');
                    }
                    options.push_str(value);
                    continue;
                }
                _ => continue,
            };
            *place = Some(value.to_owned());
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_values_and_options_are_joined() {
        let entry = BootEntry::parse(
            b"# options none\ntitle Debian\nlinux\t /debian/6.1/linux \r\ninitrd /debian/6.1/initrd\noptions root=/dev/sda1\n\
              options  quiet splash  \n  options ro",
        );
        assert_eq!(entry.linux.as_deref(), Some("/debian/6.1/linux"));
        assert_eq!(entry.options.as_deref(), Some("root=/dev/sda1 quiet splash ro"));
        assert_eq!((entry.efi, entry.uki, entry.uki_url), (None, None, None));
        let entry =
            BootEntry::parse(b"uki \"/a b.efi\"\nuki /c.efi\nefi /d.efi\nuki-url https://host/e.efi\n");
        assert_eq!(entry.uki.as_deref(), Some("/c.efi"));
        assert_eq!(entry.efi.as_deref(), Some("/d.efi"));
        assert_eq!(entry.uki_url.as_deref(), Some("https://host/e.efi"));
        assert_eq!(entry.options, None);
        assert_eq!(BootEntry::parse(b"options \"a b\"").options.as_deref(), Some("a b"));
    }

    #[test]
    fn what_is_no_entry_says_nothing() {
        for bytes in [&b""[..], b"linux", b"linux\n/x", b"Linux /x", b"\xff\0", b"\"", b" \t \r\n"] {
            assert_eq!(BootEntry::parse(bytes), BootEntry::default(), "{bytes:?}");
        }
        assert_eq!(BootEntry::parse(b"linux \"").linux.as_deref(), Some("\""));
        assert_eq!(BootEntry::parse(b"options \xff").options.as_deref(), Some("\u{fffd}"));
    }
}
