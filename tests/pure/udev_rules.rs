//! The udev rules are code: every line is well formed for udev 252, the oldest that must read them.
//!
//! `udevadm verify` came with 254 and looks further (`make lint` runs it where it is installed); this is what must hold
//! everywhere. Stricter than udev where udev only warns, because a rule that udev skips is a hole.

use std::fs;
use std::path::Path;

/// What a key may be used for: `==` and `!=`, or an assignment, or both.
const MATCHED: [&str; 20] = [
    "ACTION",
    "ATTR",
    "ATTRS",
    "CONST",
    "DEVPATH",
    "DRIVER",
    "DRIVERS",
    "ENV",
    "KERNEL",
    "KERNELS",
    "NAME",
    "PROGRAM",
    "RESULT",
    "SUBSYSTEM",
    "SUBSYSTEMS",
    "SYMLINK",
    "SYSCTL",
    "TAG",
    "TAGS",
    "TEST",
];
/// Keys that take `=`, and with it the operators named.
const ASSIGNED: [(&str, &[&str]); 16] = [
    ("ATTR", &["="]),
    ("ENV", &["=", "+="]),
    ("GOTO", &["="]),
    ("GROUP", &["=", ":="]),
    ("IMPORT", &["="]),
    ("LABEL", &["="]),
    ("MODE", &["=", ":="]),
    ("NAME", &["=", ":="]),
    ("OPTIONS", &["=", "+=", ":="]),
    ("OWNER", &["=", ":="]),
    ("PROGRAM", &["="]),
    ("RUN", &["=", "+=", ":="]),
    ("SECLABEL", &["=", "+="]),
    ("SYMLINK", &["=", "+=", "-=", ":="]),
    ("SYSCTL", &["="]),
    ("TAG", &["=", "+=", "-=", ":="]),
];
/// Keys that need something in braces, with the words that may stand there; none means any.
const BRACED: [(&str, &[&str]); 8] = [
    ("ATTR", &[]),
    ("ATTRS", &[]),
    ("CONST", &["arch", "virt"]),
    ("ENV", &[]),
    ("IMPORT", &["builtin", "cmdline", "db", "file", "parent", "program"]),
    ("RUN", &["builtin", "program"]),
    ("SECLABEL", &[]),
    ("SYSCTL", &[]),
];
/// What may be substituted in a value, written `$name`; those that need something in braces end in it.
const SUBSTITUTIONS: [&str; 18] = [
    "attr{", "devnode", "devpath", "driver", "env{", "id", "kernel", "links", "major", "minor", "name",
    "number", "parent", "result", "root", "sys", "sysfs{", "$",
];
/// The same, written `%c`.
const SHORT_SUBSTITUTIONS: &str = "kpnbdMmcPNDrSEs%";
/// What `OPTIONS` takes; those with a value end in '='.
const OPTIONS: [&str; 7] =
    ["db_persist", "link_priority=", "log_level=", "nowatch", "static_node=", "string_escape=", "watch"];
/// The one program of ours that rules call, by the name it is installed under beside udev's own.
const HELPER: &str = "ddictl-udev-helper";

/// One `KEY{braced}op"value"`.
#[derive(Debug)]
struct Part<'a> {
    key: &'a str,
    braced: Option<&'a str>,
    operator: &'a str,
    value: &'a str,
}

/// All faults of a rules file, each with its line.
fn faults(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut labels: Vec<(usize, String)> = Vec::new();
    let mut jumps: Vec<(usize, String)> = Vec::new();
    if !text.is_empty() && !text.ends_with('\n') {
        found.push("the last line has no end".to_owned());
    }
    for (line, rule) in rules(text) {
        match parts(&rule) {
            Err(fault) => found.push(format!("{line}: {fault}")),
            Ok(parts) => {
                for part in &parts {
                    found.extend(part_fault(part).map(|fault| format!("{line}: {fault}")));
                    match part.key {
                        "LABEL" => labels.push((line, part.value.to_owned())),
                        "GOTO" => jumps.push((line, part.value.to_owned())),
                        _ => {}
                    }
                }
            }
        }
    }
    for (line, label) in &jumps {
        if !labels.iter().any(|(at, name)| name == label && at > line) {
            found.push(format!("{line}: GOTO to '{label}', which is no label further down"));
        }
    }
    for (index, (line, label)) in labels.iter().enumerate() {
        if !jumps.iter().any(|(_, name)| name == label) {
            found.push(format!("{line}: nobody goes to the label '{label}'"));
        }
        if labels[..index].iter().any(|(_, name)| name == label) {
            found.push(format!("{line}: the label '{label}' is there twice"));
        }
    }
    found
}

/// The rules of a file, continued lines joined, each with its first line counted from one.
fn rules(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let (content, continued) = line.strip_suffix('\\').map_or((line, false), |content| (content, true));
        if open {
            if let Some((_, rule)) = found.last_mut() {
                rule.push_str(content);
            }
        } else if line.trim_start().starts_with('#') || line.trim().is_empty() {
            continue;
        } else {
            found.push((index + 1, content.to_owned()));
        }
        open = continued;
    }
    found
}

/// Takes a rule apart; the parts must be separated by a comma each.
fn parts(rule: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = rule.trim();
    loop {
        let length = rest.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(rest.len());
        let (key, behind) = rest.split_at(length);
        if key.is_empty() {
            return Err(format!("expected a key, found '{rest}'"));
        }
        let (braced, behind) = match behind.strip_prefix('{') {
            None => (None, behind),
            Some(inner) => {
                let (word, behind) =
                    inner.split_once('}').ok_or_else(|| format!("'{key}{{' is not closed"))?;
                (Some(word), behind)
            }
        };
        let operator = ["==", "!=", "+=", "-=", ":=", "="]
            .into_iter()
            .find(|operator| behind.starts_with(operator))
            .ok_or_else(|| format!("expected an operator behind '{key}', found '{behind}'"))?;
        let quoted = &behind[operator.len()..];
        let inner =
            quoted.strip_prefix('"').ok_or_else(|| format!("expected '\"' behind '{key}{operator}'"))?;
        // udev knows one escape in a plain value, the quotation mark.
        let end = (0..inner.len())
            .find(|at| inner[*at..].starts_with('"') && !inner[..*at].ends_with('\\'))
            .ok_or_else(|| format!("the value of '{key}' is not closed"))?;
        parts.push(Part { key, braced, operator, value: &inner[..end] });
        let behind = inner[end + 1..].trim_start();
        if behind.is_empty() {
            return Ok(parts);
        }
        rest =
            behind.strip_prefix(',').ok_or_else(|| format!("expected ',' before '{behind}'"))?.trim_start();
    }
}

/// What is wrong with one part on its own.
fn part_fault(part: &Part<'_>) -> Option<String> {
    let Part { key, braced, operator, value } = part;
    let matches = matches!(*operator, "==" | "!=");
    let assigned = ASSIGNED.iter().find(|(name, _)| name == key).map(|(_, operators)| *operators);
    if !MATCHED.contains(key) && assigned.is_none() {
        return Some(format!("unknown key '{key}'"));
    }
    let allowed = if matches {
        MATCHED.contains(key)
    } else {
        assigned.is_some_and(|operators| operators.contains(operator))
    };
    if !allowed {
        return Some(format!("'{key}' does not take '{operator}'"));
    }
    let words = BRACED.iter().find(|(name, _)| name == key).map(|(_, words)| *words);
    match (words, braced) {
        // RUN alone means a program, TEST takes a mode.
        (Some(_), None) if *key != "RUN" => return Some(format!("'{key}' needs something in braces")),
        (None, Some(_)) if *key != "TEST" => return Some(format!("'{key}' takes nothing in braces")),
        (Some(_), Some("")) => return Some(format!("'{key}' has nothing in its braces")),
        (Some(words), Some(word)) if !words.is_empty() && !words.contains(word) => {
            return Some(format!("'{key}' does not know '{word}'"));
        }
        _ => {}
    }
    let runs =
        *key == "PROGRAM" || (matches!(*key, "IMPORT" | "RUN") && matches!(braced, None | Some("program")));
    if runs && !matches {
        let program = value.split_whitespace().next().unwrap_or_default();
        if !program.starts_with('/') && program != HELPER {
            return Some(format!("'{key}' runs '{program}', which is neither '{HELPER}' nor a whole path"));
        }
    }
    if *key == "OPTIONS" {
        for option in value.split(',') {
            let known = |known: &&str| {
                if known.ends_with('=') {
                    option.starts_with(*known) && option != *known
                } else {
                    option == *known
                }
            };
            if !OPTIONS.iter().any(known) {
                return Some(format!("unknown option '{option}'"));
            }
        }
    }
    if matches || matches!(*key, "GOTO" | "LABEL") { None } else { substitution_fault(value) }
}

/// A `$` or `%` that udev would not know what to do with.
fn substitution_fault(value: &str) -> Option<String> {
    let mut rest = value;
    while let Some(at) = rest.find(['$', '%']) {
        let (sign, name) = rest[at..].split_at(1);
        let consumed = if sign == "$" {
            let fits = |known: &&&str| name.starts_with(**known);
            let Some(known) = SUBSTITUTIONS.iter().filter(fits).max_by_key(|known| known.len()) else {
                return Some(format!("unknown substitution '${name}'"));
            };
            if known.ends_with('{') && !name.contains('}') {
                return Some(format!("'${known}' is not closed"));
            }
            known.len()
        } else {
            match name.chars().next() {
                Some(letter) if SHORT_SUBSTITUTIONS.contains(letter) => {
                    if matches!(letter, 'E' | 's') && !(name[1..].starts_with('{') && name.contains('}')) {
                        return Some(format!("'%{letter}' needs something in braces"));
                    }
                    1
                }
                _ => return Some(format!("unknown substitution '%{name}'")),
            }
        };
        rest = &name[consumed..];
    }
    None
}

#[test]
fn every_shipped_rule_is_well_formed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("udev-rules");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !name.ends_with(".rules") || !name.starts_with(|c: char| c.is_ascii_digit()) {
            found.push(format!("udev-rules/{name}: udev reads NN-NAME.rules alone"));
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        found.extend(faults(&text).into_iter().map(|fault| format!("udev-rules/{name}:{fault}")));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn good_rules_have_no_fault() {
    let text = r#"# A comment, with "quotes and $nonsense
SUBSYSTEM!="block", GOTO="end"
ACTION=="remove|unbind", GOTO="end"
KERNEL=="loop*|dm-*", ENV{DEVTYPE}=="disk", TEST=="loop/backing_file", \
  IMPORT{program}="ddictl-udev-helper describe $devnode"
IMPORT{db}="DDICTL_NAME"
TEST{0644}=="/run/x", ATTR{size}!="0", CONST{virt}=="uml", PROGRAM=="/bin/true"
ENV{DDICTL_NAME}=="?*", SYMLINK+="disk/by-loop-ref/$env{DDICTL_NAME} %k/%E{X}", OPTIONS+="link_priority=100"
ENV{DM_NAME}=="?*", OPTIONS+="db_persist", ENV{X}="100%% $$ %s{size} \"quoted\"", RUN+="/bin/true"

LABEL="end"
"#;
    assert_eq!(faults(text), Vec::<String>::new());
}

#[test]
fn every_fault_is_named() {
    for (text, fault) in [
        ("KERNAL==\"x\"\n", "1: unknown key 'KERNAL'"),
        ("kernel==\"x\"\n", "1: expected a key, found 'kernel==\"x\"'"),
        ("# fine\n\nKERNEL=\"x\"\n", "3: 'KERNEL' does not take '='"),
        ("LABEL==\"x\"\n", "1: 'LABEL' does not take '=='"),
        ("SYMLINK=+\"x\"\n", "1: expected '\"' behind 'SYMLINK='"),
        ("ENV==\"x\"\n", "1: 'ENV' needs something in braces"),
        ("ENV{}==\"x\"\n", "1: 'ENV' has nothing in its braces"),
        ("ENV{X==\"x\"\n", "1: 'ENV{' is not closed"),
        ("KERNEL{x}==\"x\"\n", "1: 'KERNEL' takes nothing in braces"),
        ("IMPORT{programme}=\"/bin/x\"\n", "1: 'IMPORT' does not know 'programme'"),
        ("IMPORT{program}=\"helper\"\n", "1: 'IMPORT' runs 'helper', which is neither"),
        ("RUN+=\"helper\"\n", "1: 'RUN' runs 'helper', which is neither"),
        ("KERNEL==x\n", "1: expected '\"' behind 'KERNEL=='"),
        ("KERNEL==\"x\n", "1: the value of 'KERNEL' is not closed"),
        ("KERNEL==i\"x\"\n", "1: expected '\"' behind 'KERNEL=='"),
        ("KERNEL==\"x\" ACTION==\"y\"\n", "1: expected ',' before 'ACTION==\"y\"'"),
        ("KERNEL==\"x\",\n", "1: expected a key, found ''"),
        ("KERNEL\n", "1: expected an operator behind 'KERNEL', found ''"),
        ("OPTIONS+=\"db_persists\"\n", "1: unknown option 'db_persists'"),
        ("OPTIONS+=\"link_priority=\"\n", "1: unknown option 'link_priority='"),
        ("SYMLINK+=\"$kernal\"\n", "1: unknown substitution '$kernal'"),
        ("SYMLINK+=\"$env{X\"\n", "1: '$env{' is not closed"),
        ("SYMLINK+=\"%E\"\n", "1: '%E' needs something in braces"),
        ("SYMLINK+=\"%q\"\n", "1: unknown substitution '%q'"),
        ("GOTO=\"end\"\n", "1: GOTO to 'end', which is no label further down"),
        ("LABEL=\"end\"\nGOTO=\"end\"\n", "2: GOTO to 'end', which is no label further down"),
        ("LABEL=\"end\"\n", "1: nobody goes to the label 'end'"),
        ("GOTO=\"x\"\nLABEL=\"x\"\nLABEL=\"x\"\n", "3: the label 'x' is there twice"),
        ("KERNEL==\"x\"", "the last line has no end"),
    ] {
        let found = faults(text);
        assert!(
            found.iter().any(|own| own.starts_with(fault)),
            "{text}: expected '{fault}', found {found:?}"
        );
    }
}
