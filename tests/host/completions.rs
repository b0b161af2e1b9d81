//! Completions, as the shells themselves complete what somebody types.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use ddictl::image::presets::PRESETS;
use tempfile::TempDir;

use crate::harness::{HostTest, Need, ddictl};
use crate::repart::succeed;

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "completions::bash_completes_every_word_that_can_be_known",
        needs: &[Need::Tool("bash"), Need::Tool("script")],
        run: bash_completes_every_word_that_can_be_known,
    },
    HostTest {
        name: "completions::zsh_completes_every_word_that_can_be_known",
        needs: &[Need::Tool("zsh"), Need::Tool("script")],
        run: zsh_completes_every_word_that_can_be_known,
    },
    HostTest {
        name: "completions::fish_completes_every_word_that_can_be_known",
        needs: &[Need::Tool("fish")],
        run: fish_completes_every_word_that_can_be_known,
    },
];

/// How long a shell may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be typed: all but the last character of a line, and the line that has to come of it.
fn lines() -> Vec<String> {
    let mut lines = BTreeSet::new();
    let mut waiting = vec![(String::new(), ddictl::cli::command())];
    while let Some((verbs, mut command)) = waiting.pop() {
        command.build();
        let said = |words: String| format!("{verbs} {words}").trim().to_owned();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            if !verb.is_hide_set() {
                lines.insert(said(verb.get_name().to_owned()));
            }
            waiting.push((said(verb.get_name().to_owned()), verb.clone()));
        }
        for argument in command.get_arguments() {
            let Some(long) = argument.get_long() else {
                let values = argument.get_possible_values();
                lines.extend(values.iter().map(|value| said(value.get_name().to_owned())));
                continue;
            };
            lines.insert(said(format!("--{long}")));
            let values = argument.get_possible_values();
            // A yes or no that may be said in a dozen ways is offered in these.
            let is_boolish = argument.get_id() == "runtime";
            let offered =
                values.iter().filter(|value| !is_boolish || ["yes", "no"].contains(&value.get_name()));
            for value in offered.filter(|_| argument.get_num_args().unwrap().takes_values()) {
                lines.insert(said(format!("--{long}={}", value.get_name())));
                // One that may be left out has to be in the same word.
                if !argument.is_require_equals_set() {
                    lines.insert(said(format!("--{long} {}", value.get_name())));
                }
            }
        }
    }
    // Values of which more than these are taken.
    for value in ["signature", "checksum", "no"] {
        lines.insert(format!("pull --verify={value}"));
    }
    lines.insert("audit --explain=all".to_owned());
    for preset in PRESETS {
        for verbs in ["audit --image-policy=", "attach --image-policy ", "policy show ", "policy compare "] {
            lines.insert(format!("{verbs}@{}", preset.name));
        }
    }
    assert!(lines.len() > 300, "{}", lines.len());
    lines.into_iter().collect()
}

/// A directory with a script and with an image.
fn directory(shell: &str, name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let script = succeed(ddictl().args(["completion", shell]));
    fs::write(directory.path().join(name), script).unwrap();
    fs::write(directory.path().join("under-test.raw"), "").unwrap();
    directory
}

/// A shell at a terminal, to which keys can be sent.
struct Typist {
    shell: Child,
    output: Receiver<Vec<u8>>,
    heard: String,
}

impl Typist {
    fn new(command: &str, directory: &Path, setup: &str) -> Self {
        let mut shell = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", command, "/dev/null"])
            .current_dir(directory)
            .env("TERM", "dumb")
            .env("HOME", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = shell.stdout.take().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = stdout.read(&mut buffer) {
                if length == 0 || sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut typist = Self { shell, output, heard: String::new() };
        typist.send(setup);
        typist.send("echo rea''dy\n");
        typist.wait_for("ready\r\n");
        typist
    }

    fn send(&mut self, keys: &str) {
        let stdin = self.shell.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// What comes before these words.
    fn wait_for(&mut self, words: &str) -> String {
        loop {
            if let Some((before, behind)) = self.heard.split_once(words) {
                let before = before.to_owned();
                self.heard = behind.to_owned();
                return before;
            }
            let more = self.output.recv_timeout(PATIENCE);
            let more = more.unwrap_or_else(|_| panic!("waiting for {words:?}: {:?}", self.heard));
            self.heard.push_str(&String::from_utf8_lossy(&more));
        }
    }

    /// What becomes of a line after a tabulator; a key that the setup binds prints it between brackets.
    fn completed(&mut self, line: &str) -> String {
        self.send(&format!("{line}\t\x07"));
        self.wait_for("=>[");
        self.wait_for("]<=")
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Holds a shell to every line.
fn completes_all(mut completed: impl FnMut(&str) -> String) {
    let mut wrong = Vec::new();
    for line in lines() {
        let line = format!("ddictl {line}");
        let typed = line.strip_suffix(|_: char| true).unwrap();
        let found = completed(typed);
        // Where another word goes on like it, as far as they agree.
        if found.trim_end() != line && !found.trim_end().starts_with(&format!("{line}=")) {
            wrong.push(format!("{typed}: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for line in
        ["ddictl audit under-", "ddictl audit --certificate=under-", "ddictl audit --ignore-file under-"]
    {
        assert!(completed(line).contains("under-test.raw"), "{line}");
    }
    assert_eq!(completed("ddictl audit --format=zzz").trim_end(), "ddictl audit --format=zzz");
}

fn bash_completes_every_word_that_can_be_known() {
    let directory = directory("bash", "ddictl.bash");
    let setup = "PS1=\nsource ./ddictl.bash\n\
        bind -x '\"\\C-g\": printf \"=>[%s]<=\\n\" \"$READLINE_LINE\"; READLINE_LINE='\n";
    let mut typist = Typist::new("bash --norc --noprofile -i", directory.path(), setup);
    completes_all(|line| typist.completed(line));
}

fn zsh_completes_every_word_that_can_be_known() {
    let directory = directory("zsh", "_ddictl");
    let setup = "PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D\n\
        show() { print -r -- \"=>[$BUFFER]<=\"; BUFFER=; }; zle -N show; bindkey '^G' show; unsetopt beep\n";
    let mut typist = Typist::new("zsh -f -i", directory.path(), setup);
    completes_all(|line| typist.completed(line));
}

fn fish_completes_every_word_that_can_be_known() {
    let directory = directory("fish", "ddictl.fish");
    let fish = |line: &str| {
        let mut command = Command::new("fish");
        command.args([
            "--no-config",
            "--command",
            "source ddictl.fish; complete --do-complete $argv[1]",
            line,
        ]);
        succeed(command.current_dir(directory.path()).env("HOME", directory.path()))
    };
    let mut wrong = Vec::new();
    for line in lines() {
        let line = format!("ddictl {line}");
        let typed = line.strip_suffix(|_: char| true).unwrap();
        let word = line.rsplit(' ').next().unwrap();
        let found = fish(typed);
        // Each comes with what it means.
        if !found.lines().any(|offer| offer.split('\t').next() == Some(word)) {
            wrong.push(format!("{typed}: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(fish("ddictl audit under-").contains("under-test.raw"));
    assert_eq!(fish("ddictl audit --format=zzz"), "");
}
