//! The one table of the layers: which may name which, and what each may do by itself.
//!
//! The scanner holds the source to it, and the text on the crate's page is made from it.

use std::fmt::Write;

/// Something that reaches out of the values a function is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Arguments,
    Clock,
    Environment,
    Files,
    LocalSockets,
    Network,
    Processes,
    PublicKeys,
    Streams,
    SystemCalls,
    Terminal,
    Threads,
    Unsafe,
}

impl Effect {
    pub(crate) const ALL: [Self; 13] = [
        Self::Arguments,
        Self::Clock,
        Self::Environment,
        Self::Files,
        Self::LocalSockets,
        Self::Network,
        Self::Processes,
        Self::PublicKeys,
        Self::Streams,
        Self::SystemCalls,
        Self::Terminal,
        Self::Threads,
        Self::Unsafe,
    ];

    /// The word for it on the crate's page.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Arguments => "argument parsing",
            Self::Clock => "clock",
            Self::Environment => "environment",
            Self::Files => "files",
            Self::LocalSockets => "local sockets",
            Self::Network => "network",
            Self::Processes => "processes",
            Self::PublicKeys => "public keys",
            Self::Streams => "streams",
            Self::SystemCalls => "system calls",
            Self::Terminal => "terminal",
            Self::Threads => "threads",
            Self::Unsafe => "`unsafe`",
        }
    }

    /// The names that have this effect: a path with everything below it, a macro with its '!', a method with its '.', or
    /// a keyword with a blank behind it.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Arguments => &["clap", "clap_complete"],
            Self::Clock => &["std::time::Instant::now", "std::time::SystemTime::now", ".elapsed"],
            Self::Environment => &["std::env"],
            Self::Files => &[
                "std::fs",
                "std::os::unix::fs",
                "tempfile",
                ".canonicalize",
                ".exists",
                ".try_exists",
                ".is_dir",
                ".read_dir",
                ".read_link",
                ".symlink_metadata",
            ],
            Self::LocalSockets => &["std::os::unix::net"],
            Self::Network => &["std::net", "reqwest", "rustls"],
            Self::Processes => &[
                "std::process::Command",
                "std::process::Child",
                "std::process::Stdio",
                "std::process::abort",
                "std::process::exit",
                "std::os::unix::process",
            ],
            Self::PublicKeys => &["openssl", "pgp"],
            Self::Streams => &["std::io"],
            Self::SystemCalls => {
                &["nix", "libc", "udev", "libcryptsetup_rs", "devicemapper", "landlock", "seccompiler"]
            }
            Self::Terminal => &[
                "print!",
                "println!",
                "eprint!",
                "eprintln!",
                "std::io::stdin",
                "std::io::stdout",
                "std::io::stderr",
                "indicatif",
                "rpassword",
            ],
            Self::Threads => &["std::thread"],
            Self::Unsafe => &["unsafe "],
        }
    }
}

/// A part of the source tree with rights of its own.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Its module path below the crate, by slashes, or its file name: the longest that fits a file counts.
    pub(crate) name: &'static str,
    /// What it holds, for the crate's page.
    pub(crate) holds: &'static str,
    /// The other layers whose names it may use.
    pub(crate) may_use: &'static [&'static str],
    /// What it may do by itself. Its unit tests may do anything but `unsafe`.
    pub(crate) effects: &'static [Effect],
}

/// Every layer, from the front ends down to the formats.
pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        name: "main.rs",
        holds: "the choice of a front end by the name that the program is called by",
        may_use: &["cli", "generator.rs", "mount_helper.rs", "udev_helper.rs"],
        effects: &[Effect::Environment],
    },
    Layer {
        name: "cli",
        holds: "the command line: words in, words out, exit status",
        may_use: &["operation", "image", "trust", "format"],
        effects: &[Effect::Arguments, Effect::Clock, Effect::Environment, Effect::Streams, Effect::Terminal],
    },
    Layer {
        name: "generator.rs",
        holds: "the words of systemd for generators",
        may_use: &["cli", "operation"],
        effects: &[Effect::Environment, Effect::Streams, Effect::Terminal],
    },
    Layer {
        name: "mount_helper.rs",
        holds: "the words of mount(8), as those of the command line",
        may_use: &["cli"],
        effects: &[],
    },
    Layer {
        name: "udev_helper.rs",
        holds: "the words that the udev rules ask for",
        may_use: &["operation", "image", "trust", "format"],
        effects: &[Effect::Arguments, Effect::Environment, Effect::Streams, Effect::Terminal],
    },
    Layer {
        name: "operation",
        holds: "the verbs: the order of effects, and their undoing",
        may_use: &["kernel", "fetch", "image", "trust", "format"],
        effects: &[Effect::Clock, Effect::Files, Effect::Processes, Effect::Streams, Effect::Threads],
    },
    Layer {
        name: "kernel",
        holds: "loop devices, memory files, mounts, trees of files, signals, udev: it carries out, it does not judge",
        may_use: &["kernel/raw", "format"],
        effects: &[
            Effect::Clock,
            Effect::Files,
            Effect::LocalSockets,
            Effect::Streams,
            Effect::SystemCalls,
            Effect::Threads,
        ],
    },
    Layer {
        name: "kernel/raw",
        holds: "one function a system call that nobody wraps",
        may_use: &["format"],
        effects: &[Effect::Files, Effect::Processes, Effect::Streams, Effect::SystemCalls, Effect::Unsafe],
    },
    Layer {
        name: "fetch",
        holds: "bodies and ranges over HTTP, decompression, archives",
        may_use: &["format"],
        effects: &[
            Effect::Clock,
            Effect::Environment,
            Effect::Files,
            Effect::Network,
            Effect::Streams,
            Effect::Threads,
        ],
    },
    Layer {
        name: "image",
        holds: "survey, dissection, policy, findings, plan: decisions, without effects",
        may_use: &["trust", "format"],
        effects: &[],
    },
    Layer {
        name: "trust",
        holds: "every value that says 'verified', and the checks that alone can make it",
        may_use: &["format"],
        effects: &[Effect::PublicKeys],
    },
    Layer { name: "format", holds: "bytes or text in, typed values out", may_use: &[], effects: &[] },
];

/// The table as it stands on the crate's page, a line each.
pub(crate) fn documentation() -> String {
    let place = |name: &str| if name.ends_with(".rs") { format!("`{name}`") } else { format!("`{name}/`") };
    let list = |words: Vec<String>| if words.is_empty() { "nothing".to_owned() } else { words.join(", ") };
    let mut text = String::from("| layer | holds | may name | may do by itself |\n|---|---|---|---|\n");
    for layer in LAYERS {
        let may_use = list(layer.may_use.iter().map(|name| place(name)).collect());
        let effects = list(layer.effects.iter().map(|effect| effect.word().to_owned()).collect());
        writeln!(text, "| {} | {} | {may_use} | {effects} |", place(layer.name), layer.holds).unwrap();
    }
    text
}
