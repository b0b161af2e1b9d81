//! The kernel command line as user space reads it: words parted by whitespace, some of them `KEY=VALUE`.
//!
//! The kernel parses it for itself (Documentation/admin-guide/kernel-parameters.rst) and hands it on as `/proc/cmdline`;
//! what is in there for others is read by their rules. These are systemd's (kernel-command-line(7)), so that both read the
//! same of `root=`: single and double quotes hold blanks together wherever they stand in a word and are taken off, a
//! backslash stands for itself, and `-` and `_` are the same in a key.

/// The longest command line that any kernel has, in bytes (`COMMAND_LINE_SIZE` is at most 4096; 1 MiB leaves room for
/// whatever else is read like one). What lies behind is not read.
pub const MAX_COMMAND_LINE: usize = 1 << 20;

/// A kernel command line in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelCommandLine {
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    key: String,
    value: Option<String>,
}

impl KernelCommandLine {
    /// Reads a command line. Every text is one: a quote that is never closed ends with the text, and what is not UTF-8
    /// has the replacement character instead.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text.get(..MAX_COMMAND_LINE).unwrap_or(text));
        let words = split(&text).into_iter().map(|word| match word.split_once('=') {
            Some((key, value)) => Word { key: key.to_owned(), value: Some(value.to_owned()) },
            None => Word { key: word, value: None },
        });
        Self { words: words.collect() }
    }

    /// Every value of a key, in their order. A word without `=` has none.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.of_key(key).filter_map(|word| word.value.as_deref())
    }

    /// The value of a key that counts where one can count alone: the last.
    #[must_use]
    pub fn last<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.values(key).last()
    }

    /// Whether a key stands there, with or without a value.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.of_key(key).next().is_some()
    }

    /// Which of these words without a value stands last; `None` where none does.
    #[must_use]
    pub fn last_of<'a>(&self, words: &[&'a str]) -> Option<&'a str> {
        self.words
            .iter()
            .rev()
            .find_map(|found| words.iter().find(|word| is_same_key(&found.key, word)))
            .copied()
    }

    fn of_key<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Word> {
        self.words.iter().filter(move |word| is_same_key(&word.key, key))
    }
}

fn is_same_key(a: &str, b: &str) -> bool {
    let plain = |byte| if byte == b'-' { b'_' } else { byte };
    a.bytes().map(plain).eq(b.bytes().map(plain))
}

/// The words, without the quotes around them or within.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in text.chars() {
        match (quote, character) {
            (Some(open), character) if open == character => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            // /proc/cmdline ends in a line feed; other whitespace comes from files.
            (None, ' ' | '\t' | '\n' | '\r') => words.extend(word.take()),
            // Nothing behind a NUL is text.
            (_, '\0') => break,
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> KernelCommandLine {
        KernelCommandLine::parse(text.as_bytes())
    }

    #[test]
    fn words_have_keys_and_values() {
        let line = line("ro  quiet\troot=/dev/x rd.systemd.pull=a rd.systemd.pull=b=c\n");
        assert_eq!(line.values("rd.systemd.pull").collect::<Vec<_>>(), ["a", "b=c"]);
        assert_eq!(line.last("rd.systemd.pull"), Some("b=c"));
        assert_eq!(line.last("root"), Some("/dev/x"));
        assert_eq!(line.last_of(&["ro", "rw"]), Some("ro"));
        assert_eq!(KernelCommandLine::parse(b"ro x rw").last_of(&["ro", "rw"]), Some("rw"));
        assert!(line.has("ro") && line.has("quiet") && line.has("root"));
        assert_eq!(line.last("ro"), None);
        assert!(!line.has("rw") && !line.has("roo") && !line.has(""));
    }

    #[test]
    fn a_dash_is_an_underscore_in_a_key_and_nowhere_else() {
        let line = line("systemd.image-policy=root=a-b_c");
        assert_eq!(line.last("systemd.image_policy"), Some("root=a-b_c"));
        assert_eq!(line.last("systemd_image_policy"), None);
    }

    #[test]
    fn quotes_hold_blanks_together_and_go() {
        for (text, value) in [
            (r#"k="a b""#, "a b"),
            (r#""k=a b""#, "a b"),
            (r#"k=a" "b"#, "a b"),
            (r"k='a b'", "a b"),
            (r#"k='"'"'""#, "\"'"),
            (r#"k="a b"#, "a b"),
            (r#"k="""#, ""),
            (r"k=a\x2fb", r"a\x2fb"),
            (r"k=a\ b", r"a\"),
        ] {
            assert_eq!(line(text).last("k"), Some(value), "{text}");
        }
    }

    #[test]
    fn every_text_is_a_command_line() {
        for text in [&b""[..], b" ", b"=", b"==", b"\"", b"'", b"\xff=\xff", b"a\0b", b"\0"] {
            let line = KernelCommandLine::parse(text);
            assert!(!line.has("b"), "{text:?}");
        }
        assert_eq!(line("=x").last(""), Some("x"));
        let long = vec![b'a'; MAX_COMMAND_LINE + 5];
        assert_eq!(KernelCommandLine::parse(&long).words[0].key.len(), MAX_COMMAND_LINE);
    }
}
