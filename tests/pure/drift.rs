//! The manual page, `--help` and the exit statuses say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Command;

/// Every exit status that the program can have, as the manual page lists it (128 stands for 128 + signal).
const EXIT_STATUSES: [&str; 5] = ["0", "1", "2", "3", "128"];

/// The widest line that help may have.
const WIDTH: usize = 80;

/// All commands, each with its words on the command line: `policy show`.
fn commands(command: &Command) -> Vec<(String, Command)> {
    let mut command = command.clone();
    command.build();
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), command)];
    while let Some((words, command)) = waiting.pop() {
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let below = format!("{words} {}", verb.get_name()).trim().to_owned();
            waiting.push((below, verb.clone()));
        }
        found.push((words, command));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

/// The long options of all commands; with `hidden`, also those that help does not show.
fn options(command: &Command, hidden: bool) -> BTreeSet<String> {
    commands(command)
        .iter()
        .filter(|(_, command)| hidden || !command.is_hide_set())
        .flat_map(|(_, command)| {
            let shown = command.get_arguments().filter(|argument| hidden || !argument.is_hide_set());
            shown
                .filter_map(|argument| argument.get_long())
                .map(|long| format!("--{long}"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A page without its typesetting: what is left of `\-`, `\fB`, and of mdoc's `Fl -name`.
fn plain(page: &str) -> String {
    let mut text = String::new();
    for line in page.lines().filter(|line| !line.starts_with(".\\\"")) {
        let mut line = line.replace("\\-", "-").replace("\\&", "").replace("Fl -", "--");
        for font in ["\\fB", "\\fI", "\\fR", "\\fP"] {
            line = line.replace(font, "");
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The long options that a page names.
fn options_in(page: &str) -> BTreeSet<String> {
    let text = plain(page);
    let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.match_indices("--")
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '-'))
        .filter_map(|(at, _)| {
            let behind = &text[at + 2..];
            let name = &behind[..behind.find(|c| !in_name(c)).unwrap_or(behind.len())];
            name.starts_with(|c: char| c.is_ascii_lowercase())
                .then(|| format!("--{}", name.trim_end_matches('-')))
        })
        .collect()
}

/// The lines of a section of a page, by its heading.
fn section(page: &str, heading: &str) -> String {
    let is_heading = |line: &str| line.to_ascii_lowercase().starts_with(".sh ");
    let named = |line: &str| line[4..].trim().trim_matches('"').eq_ignore_ascii_case(heading);
    let lines = page.lines().skip_while(|line| !(is_heading(line) && named(line))).skip(1);
    lines.take_while(|line| !is_heading(line)).map(|line| format!("{line}\n")).collect()
}

/// Everything in which the page and the command line differ.
fn drift(command: &Command, page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let in_page = options_in(page);
    for option in options(command, false).difference(&in_page) {
        found.push(format!("{option} is not in the manual page"));
    }
    for option in in_page.difference(&options(command, true)) {
        found.push(format!("the manual page names {option}, which no verb takes"));
    }
    let text = plain(page);
    let words =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '-').map(str::to_owned).collect();
    let in_text: Vec<String> = words(&text);
    for (name, verb) in commands(command) {
        if verb.is_hide_set() || name.is_empty() {
            continue;
        }
        let name_words: Vec<String> = words(&name);
        if !in_text.windows(name_words.len()).any(|window| window == name_words) {
            found.push(format!("the verb '{name}' is not in the manual page"));
        }
    }
    let statuses: Vec<String> = words(&plain(&section(page, "EXIT STATUS")));
    for status in EXIT_STATUSES {
        if !statuses.iter().any(|word| word == status) {
            found.push(format!("the exit status {status} is not in the manual page's section EXIT STATUS"));
        }
    }
    found
}

/// What is wrong with help itself: an option without a word of explanation, a line too wide.
fn help_faults(command: &Command) -> Vec<String> {
    let mut found = Vec::new();
    for (name, command) in commands(command) {
        for argument in command.get_arguments() {
            if argument.get_help().is_none() && argument.get_long_help().is_none() {
                found.push(format!("'{name}': nothing is said about '{}'", argument.get_id()));
            }
        }
        if !name.is_empty() && command.get_about().is_none() {
            found.push(format!("'{name}': nothing is said about the verb"));
        }
        let help = command.term_width(WIDTH).render_long_help().to_string();
        for line in help.lines().filter(|line| line.chars().count() > WIDTH) {
            found.push(format!("'{name} --help' is wider than {WIDTH} columns: {line}"));
        }
    }
    found
}

fn manual_page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/ddictl.1")).unwrap()
}

#[test]
fn the_manual_page_and_the_command_line_agree() {
    let found = drift(&ddictl::cli::command(), &manual_page());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn help_explains_everything_within_eighty_columns() {
    let found = help_faults(&ddictl::cli::command());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// A small program and the page that fits it.
fn example() -> (Command, String) {
    let policy = Command::new("policy")
        .about("about policies")
        .subcommand(Command::new("show").about("show one").arg(clap::arg!(--json <MODE> "print JSON")));
    let hidden =
        Command::new("completion").about("not shown").hide(true).arg(clap::arg!(--secret "not shown"));
    let verify = Command::new("verify").about("verify an image").arg(clap::arg!(-q --quiet "say nothing"));
    let page = ".TH X 1\n.SH VERBS\n.B verify\n\\fBpolicy show\\fR\n.SH OPTIONS\n.TP\n\\fB\\-\\-json=\\fR\\fIMODE\\fR\n.TP\n\
        .BR \\-q \", \" \\-\\-quiet\n.TP\n\\-\\-help\n.SH \"EXIT STATUS\"\n.TP\n0\n.TP\n1\n.TP\n2\n.TP\n3\n.TP\n128 + signal\n.SH FILES\n";
    (Command::new("ddictl").subcommands([policy, hidden, verify]), page.to_owned())
}

#[test]
fn a_page_that_agrees_has_no_drift() {
    let (command, page) = example();
    assert_eq!(drift(&command, &page), Vec::<String>::new());
    assert_eq!(drift(&command, &page.replace("\\fB\\-\\-json=", ".It Fl -json Ns =")), Vec::<String>::new());
}

#[test]
fn every_kind_of_drift_is_named() {
    let (command, page) = example();
    for (from, to, expected) in [
        ("\\-\\-quiet", "", "--quiet is not in the manual page"),
        ("\\-\\-quiet", "\\-\\-quieter", "the manual page names --quieter, which no verb takes"),
        (".BR \\-q", ".\\\" \\-q", "--quiet is not in the manual page"),
        (".B verify\n", "", "the verb 'verify' is not in the manual page"),
        ("policy show", "policy", "the verb 'policy show' is not in the manual page"),
        (".TP\n3\n", "", "the exit status 3 is not in the manual page's section EXIT STATUS"),
        ("EXIT STATUS", "EXIT", "the exit status 0 is not in the manual page's section EXIT STATUS"),
    ] {
        let found = drift(&command, &page.replace(from, to));
        assert!(found.iter().any(|fault| fault == expected), "expected '{expected}', found {found:?}");
    }
}

#[test]
fn help_that_explains_nothing_or_is_too_wide_is_named() {
    let silent =
        Command::new("ddictl").subcommand(Command::new("verify").arg(clap::Arg::new("image").long("image")));
    let found = help_faults(&silent);
    assert_eq!(
        found,
        ["'verify': nothing is said about 'image'", "'verify': nothing is said about the verb"]
    );
    let wide = Command::new("ddictl").after_long_help("x".repeat(WIDTH + 1));
    assert_eq!(help_faults(&wide).len(), 1);
}
