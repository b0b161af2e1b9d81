//! What is known of a boot: what somebody in front of it saw, and what its parts told the tests.

use std::collections::HashMap;
use std::fmt;

/// The messages of a failing unit stand here where more is shown than fits.
const SHOWN_LINES: usize = 60;

/// What became of a boot.
#[derive(Debug)]
pub(crate) struct Outcome {
    command_line: String,
    status: Option<i32>,
    /// What was on the console, without colours.
    pub console: String,
    sections: HashMap<String, Vec<String>>,
}

impl Outcome {
    /// Takes what a guest wrote apart: the report has sections, each after a line `== NAME`.
    pub(crate) fn new(command_line: String, status: Option<i32>, console: &str, report: &str) -> Self {
        let mut sections: HashMap<String, Vec<String>> = HashMap::new();
        let mut current = None;
        for line in report.lines().map(|line| line.trim_end_matches('\r')) {
            if let Some(name) = line.strip_prefix("== ") {
                sections.entry(name.to_owned()).or_default();
                current = Some(name.to_owned());
            } else if let Some(name) = &current {
                sections.get_mut(name).unwrap().push(line.to_owned());
            }
        }
        Self { command_line, status, console: plain(console), sections }
    }

    /// The lines of a section; the boot must have come as far.
    pub(crate) fn lines(&self, section: &str) -> &[String] {
        self.sections.get(section).unwrap_or_else(|| panic!("no section '{section}'\n{self}"))
    }

    /// Whether the boot came as far as this section.
    pub(crate) fn has(&self, section: &str) -> bool {
        self.sections.contains_key(section)
    }

    /// The seconds since the kernel started, at which a section begins that says so.
    fn seconds(&self, section: &str) -> f64 {
        let line = self.lines(section).first().unwrap_or_else(|| panic!("'{section}' is empty\n{self}"));
        line.parse().unwrap_or_else(|_| panic!("'{line}' are no seconds\n{self}"))
    }

    /// The seconds since the kernel started, at which the journal has the first message with these words.
    pub(crate) fn time_of(&self, words: &str) -> f64 {
        self.time_of_any(&[words])
    }

    /// The same for the first message with some of these words.
    pub(crate) fn time_of_any(&self, words: &[&str]) -> f64 {
        let line = self.lines("journal").iter().find(|line| words.iter().any(|words| line.contains(words)));
        let line = line.unwrap_or_else(|| panic!("the journal has no {words:?}\n{self}"));
        let stamp = line.trim_start_matches('[').split(']').next().unwrap_or_default();
        stamp.trim().parse().unwrap_or_else(|_| panic!("no time in '{line}'\n{self}"))
    }

    /// The seconds from the start of the initrd's first process to the end of the boot.
    pub(crate) fn seconds_to_emergency(&self) -> f64 {
        self.seconds("emergency") - self.time_of("Running in initrd")
    }

    /// The last of what the console complains of.
    pub(crate) fn last_complaint(&self) -> String {
        let complaints = ["[FAILED] ", "[ TIME ] ", "[DEPEND] "];
        let found = self.console.lines().rev().find_map(|line| {
            complaints
                .iter()
                .find_map(|mark| line.find(mark).map(|at| line[at + mark.len()..].trim().to_owned()))
        });
        found.unwrap_or_else(|| "the console says nothing".to_owned())
    }

    /// The error that ddictl wrote on the console: of a refusal its rule.
    pub(crate) fn said_by_ddictl(&self) -> String {
        let mut lines = self.console.lines().skip_while(|line| !line.contains("ddictl: error: "));
        let error = lines.next().and_then(|line| line.split_once("ddictl: error: ")).map(|(_, said)| said);
        let rule = lines.next().and_then(|line| line.split_once("]:   ")).map(|(_, said)| said);
        rule.filter(|said| said.starts_with("DDI")).or(error).unwrap_or("nothing").to_owned()
    }

    /// The fields of the mount at this place: device, place, type, options.
    pub(crate) fn mount(&self, place: &str) -> Option<Vec<&str>> {
        let fields = |line: &'_ String| line.split(' ').nth(1) == Some(place);
        let line = self.lines("mounts").iter().rfind(|line| fields(line))?;
        Some(line.split(' ').collect())
    }

    /// Where a link leads to in the booted system.
    pub(crate) fn link(&self, name: &str) -> Option<&str> {
        self.lines("links").iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(" -> "))
    }

    /// Expects that the new root was reached, that all of it works, and that it was shut down as it should be.
    #[track_caller]
    pub(crate) fn expect_booted(&self) {
        assert!(self.has("report") && self.has("shutdown") && self.has("end"), "it did not boot\n{self}");
        assert_eq!(self.status, Some(0), "\n{self}");
        assert!(self.lines("ddictl").is_empty(), "the new root has ddictl\n{self}");
        assert!(self.lines("failed").is_empty(), "units failed: {:?}\n{self}", self.lines("failed"));
        // What is left of time is for the others: a unit that does not stop takes 90 s.
        let shutdown = self.seconds("shutdown") - self.seconds("poweroff");
        assert!(shutdown < 15.0, "shutting down took {shutdown:.1} s\n{self}");
    }

    /// Expects that nobody in front of it has seen anything that went wrong.
    #[track_caller]
    pub(crate) fn expect_quiet_console(&self) {
        let bad = |line: &&str| {
            ["fail", "error", "warn", "cannot", "could not", "unable", "timed out"]
                .iter()
                .any(|word| line.to_lowercase().contains(word))
        };
        let lines: Vec<&str> = self
            .console
            .lines()
            .filter(bad)
            .filter(|line| !EXPECTED.iter().any(|text| line.contains(text)))
            .collect();
        assert!(lines.is_empty(), "the console complains: {lines:#?}\n{self}");
    }

    /// Expects that the boot was stopped for a reason that stands on the console, soon, and that nothing of the image is
    /// there any more.
    #[track_caller]
    pub(crate) fn expect_refused(&self, reasons: &[&str]) {
        assert!(!self.has("report"), "it booted\n{self}");
        assert!(self.has("emergency"), "it did not stop by itself\n{self}");
        for reason in reasons {
            assert!(self.console.contains(reason), "the console does not say '{reason}'\n{self}");
        }
        assert!(self.lines("left").is_empty(), "left: {:?}\n{self}", self.lines("left"));
        let took = self.seconds_to_emergency();
        assert!(took < 30.0, "it stopped only after {took:.1} s\n{self}");
    }
}

/// What the console says of every boot of this kernel, and of every shutdown with a root on devices of the device mapper
/// or loops: nobody can detach what the root is on, and systemd tries it whoever has made them.
const EXPECTED: [&str; 5] = [
    "Failed to initialize ubd device 0",
    "systemd-shutdown[1]: Could not detach loopback /dev/loop",
    "systemd-shutdown[1]: Could not detach DM /dev/dm-",
    "systemd-shutdown[1]: Unable to finalize remaining ",
    // The journal, while the first process goes away.
    "]: Failed to send stream file descriptor to service manager: Connection refused",
];

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "command line: {}", self.command_line)?;
        writeln!(f, "the kernel ended with {:?}; the console:", self.status)?;
        for line in self.console.lines() {
            writeln!(f, "    {line}")?;
        }
        for name in ["emergency", "failed", "left", "mounts", "links", "loops", "dm", "shutdown"] {
            if let Some(lines) = self.sections.get(name) {
                writeln!(f, "{name}:")?;
                for line in lines.iter().filter(|line| !line.starts_with("cgroup")) {
                    writeln!(f, "    {line}")?;
                }
            }
        }
        let wanted = |line: &&String| {
            [
                "ddictl",
                "pull",
                "loop",
                "dm-",
                "device-mapper",
                "sysroot",
                "root",
                "fail",
                "Fail",
                "emergency",
                "timed out",
            ]
            .iter()
            .any(|word| line.contains(word))
        };
        let journal: Vec<&String> =
            self.sections.get("journal").into_iter().flatten().filter(wanted).collect();
        writeln!(f, "of the journal, at last:")?;
        for line in journal.iter().skip(journal.len().saturating_sub(SHOWN_LINES)) {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

/// A text without the sequences that tell a terminal what to do.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars().filter(|character| *character != '\r').peekable();
    while let Some(character) = rest.next() {
        if character != '\u{1b}' {
            plain.push(character);
            continue;
        }
        match rest.next() {
            // Up to the letter that ends it.
            Some('[') => while rest.next().is_some_and(|next| !('@'..='~').contains(&next)) {},
            // Up to the string terminator, `ESC \` or BEL.
            Some(']' | 'P') => {
                while let Some(next) = rest.next() {
                    if next == '\u{7}' {
                        break;
                    }
                    if next == '\u{1b}' {
                        rest.next_if_eq(&'\\');
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    plain
}
