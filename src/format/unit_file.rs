//! Names and text of systemd units (systemd.unit(5)), made from typed values: nothing that is put into a setting can end
//! it, begin another one, or be expanded.

use std::fmt::Write;

/// The longest name of a unit, in bytes with its suffix.
pub const MAX_UNIT_NAME: usize = 255;

/// A path as it stands in the name of a unit, as systemd-escape(1) `--path` writes it.
#[must_use]
pub fn escape_path(path: &str) -> String {
    let components: Vec<&str> = path.split('/').filter(|component| !component.is_empty()).collect();
    if components.is_empty() {
        return "-".to_owned();
    }
    escape(&components.join("/"))
}

/// A text as it stands in the name of a unit, as systemd-escape(1) writes it.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str(r"\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(byte)),
            // To a string there is no error.
            other => drop(write!(name, r"\x{other:02x}")),
        }
    }
    name
}

/// The text of a unit file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    text: String,
}

impl UnitFile {
    /// A file that begins with a comment.
    #[must_use]
    pub fn with_comment(comment: &str) -> Self {
        let mut text = String::new();
        for line in comment.lines() {
            text.push_str("# ");
            text.push_str(line);
            text.push('\n');
        }
        Self { text }
    }

    /// Begins a section.
    #[must_use]
    pub fn section(mut self, name: &'static str) -> Self {
        self.text.push_str(&format!("\n[{name}]\n"));
        self
    }

    /// A setting with a value that is written as it stands here, specifiers and all.
    #[must_use]
    pub fn set(mut self, key: &'static str, value: &str) -> Self {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        self.text.push_str(&format!("{key}={value}\n"));
        self
    }

    /// A setting with a value from elsewhere: control characters are left out, and no specifier of it is expanded.
    #[must_use]
    pub fn set_literal(self, key: &'static str, value: &str) -> Self {
        self.set(key, &value.replace('%', "%%"))
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_systemd_does() {
        // As systemd-escape 252 prints them.
        for (path, name) in [
            ("/run/machines/image.raw", "run-machines-image.raw"),
            ("/run/machines/a b.raw", r"run-machines-a\x20b.raw"),
            ("/run/machines/a-b.raw", r"run-machines-a\x2db.raw"),
            ("//run//x/", "run-x"),
            ("/", "-"),
            ("", "-"),
            ("/.hidden", r"\x2ehidden"),
            ("/a/.b", "a-.b"),
            ("/é%", r"\xc3\xa9\x25"),
        ] {
            assert_eq!(escape_path(path), name, "{path}");
        }
        assert_eq!(escape("disk/by-loop-ref/image.raw"), r"disk-by\x2dloop\x2dref-image.raw");
    }

    #[test]
    fn a_value_stays_in_its_setting() {
        let file = UnitFile::with_comment("a\nb")
            .section("Unit")
            .set("After", "a.target %f")
            .set_literal("Description", "100%\n[Service]\nExecStart=/bin/sh");
        assert_eq!(
            file.into_text(),
            "# a\n# b\n\n[Unit]\nAfter=a.target %f\nDescription=100%%[Service]ExecStart=/bin/sh\n"
        );
    }
}
