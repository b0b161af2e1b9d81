//! The manual pages refer to what is there, and name every value, variable and file that the program knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages, by their file names.
fn pages() -> BTreeMap<String, String> {
    let entries = fs::read_dir(tree().join("man")).unwrap();
    let page = |path: PathBuf| {
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
    };
    entries.map(|entry| page(entry.unwrap().path())).collect()
}

/// The source without its tests, file by file.
fn sources(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push(text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned());
        }
    }
    found
}

/// The words behind a macro, without the punctuation that mdoc has as words of its own.
fn arguments<'a>(page: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix('.')?.strip_prefix(name)?.strip_prefix(' '));
    lines
        .map(|rest| {
            rest.split_whitespace()
                .filter(|word| word.len() > 1 || word.bytes().all(|b| b.is_ascii_digit()))
                .collect()
        })
        .collect()
}

/// What a page refers to, as file names of pages.
fn references(page: &str) -> BTreeSet<String> {
    let reference = |words: Vec<&str>| Some(format!("{}.{}", words.first()?, words.get(1)?));
    arguments(page, "Xr").into_iter().filter_map(reference).collect()
}

/// What is wrong with what pages say of themselves and of each other.
fn reference_faults(pages: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, page) in pages {
        let (name, section) = file.rsplit_once('.').unwrap();
        if arguments(page, "Dt") != [[name.to_uppercase().as_str(), section]] {
            faults.push(format!("{file} has another title"));
        }
        if arguments(page, "Nm").first().is_none_or(|words| words[..] != [name]) {
            faults.push(format!("{file} has another name"));
        }
        for reference in references(page) {
            let ours = reference.starts_with("ddictl") || reference.starts_with("mount.ddictl");
            if ours && !pages.contains_key(&reference) {
                faults.push(format!("{file} refers to {reference}, which there is not"));
            }
            if reference == *file {
                faults.push(format!("{file} refers to itself"));
            }
        }
        let see_also = page.split(".Sh SEE ALSO\n").nth(1).unwrap_or_default();
        let see_also = references(see_also.split("\n.Sh ").next().unwrap());
        let wanted: Vec<&String> = match file.as_str() {
            "ddictl.1" => pages.keys().filter(|other| *other != file).collect(),
            _ => pages.keys().filter(|other| *other == "ddictl.1").collect(),
        };
        for other in wanted.into_iter().filter(|other| !see_also.contains(*other)) {
            faults.push(format!("{file} has no {other} among SEE ALSO"));
        }
    }
    faults
}

/// The values of options that the page does not name where it describes the option.
fn value_faults(command: &Command, page: &str) -> Vec<String> {
    let mut described: BTreeMap<String, String> = BTreeMap::new();
    let mut of: Vec<String> = Vec::new();
    for line in page.lines() {
        if let Some(item) = line.strip_prefix(".It ") {
            let words = item.split_whitespace().filter_map(|word| word.strip_prefix("\\-"));
            of = words.map(|long| long.trim_end_matches('=').to_owned()).collect();
        } else if line.starts_with(".Sh ") || line.starts_with(".El") {
            of.clear();
        }
        for long in &of {
            described.entry(long.clone()).or_default().push_str(&format!("{line}\n"));
        }
    }
    let mut faults = Vec::new();
    let mut waiting = vec![command.clone()];
    while let Some(mut command) = waiting.pop() {
        command.build();
        waiting.extend(command.get_subcommands().filter(|verb| verb.get_name() != "help").cloned());
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let takes = argument.get_num_args().is_some_and(|count| count.takes_values());
            let (Some(long), true) = (argument.get_long(), takes) else { continue };
            let text = described.get(long).map(String::as_str).unwrap_or_default();
            let words: BTreeSet<&str> =
                text.split(|c: char| c.is_whitespace() || ",.;:()".contains(c)).collect();
            for value in argument.get_possible_values().iter().filter(|value| !value.is_hide_set()) {
                // A yes or no that may be said in a dozen ways.
                let said = match value.get_name() {
                    "true" => "yes",
                    "false" => "no",
                    name => name,
                };
                if !words.contains(said) {
                    faults.push(format!(
                        "{}: --{long}={} is not where --{long} is",
                        command.get_name(),
                        value.get_name()
                    ));
                }
            }
        }
    }
    faults
}

/// The environment variables that the source names: those that are read, and those that are constants.
fn variables() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources(&tree().join("src")) {
        for start in ["env::var(\"", "env::var_os(\"", "_VARIABLE: &str = \""] {
            found.extend(source.split(start).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    // Those of the tests alone.
    found.retain(|name| !name.starts_with("DDICTL_FAULT"));
    found
}

/// Where the source says that configuration and state lie.
fn places() -> BTreeSet<String> {
    let ours = [
        "/etc/",
        "/run/ddictl/",
        "/run/verity.d",
        "/usr/lib/ddictl",
        "/usr/lib/verity.d",
        "/usr/lib/clock-epoch",
        "/var/lib/",
    ];
    let mut found = BTreeSet::new();
    for source in sources(&tree().join("src")) {
        let quoted = source
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| line.split('"').skip(1).step_by(2));
        let places = quoted
            .filter(|text| ours.iter().any(|start| text.starts_with(start)) && !text.contains([' ', '{']));
        found.extend(places.map(|place| place.trim_end_matches('/').to_owned()));
    }
    found
}

#[test]
fn pages_refer_to_each_other_and_to_nothing_that_is_not_there() {
    let pages = pages();
    assert!(pages.len() >= 7, "{:?}", pages.keys());
    let faults = reference_faults(&pages);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    for (from, to, expected) in [
        (".Xr ddictl.trust 5", ".Xr ddictl.truth 5", "refers to ddictl.truth.5, which there is not"),
        (".Dt DDICTL 1", ".Dt DDICTL 8", "has another title"),
        (".Nm ddictl\n", ".Nm ddi\n", "has another name"),
        (".Xr ddictl.boot 7", ".Xr ddictl 1", "has no ddictl.boot.7 among SEE ALSO"),
        (".Xr ddictl.boot 7", ".Xr ddictl 1", "refers to itself"),
    ] {
        let mut broken = pages.clone();
        let page = broken.get_mut("ddictl.1").unwrap();
        *page = page.replace(from, to);
        let faults = reference_faults(&broken);
        assert!(faults.iter().any(|fault| fault.ends_with(expected)), "{expected}: {faults:?}");
    }
}

#[test]
fn the_manual_names_every_value_where_it_describes_the_option() {
    let (command, pages) = (ddictl::cli::command(), pages());
    let faults = value_faults(&command, &pages["ddictl.1"]);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let broken = pages["ddictl.1"].replace(".Ql junit ,", ".Ql xunit ,");
    assert_eq!(value_faults(&command, &broken), ["audit: --format=junit is not where --format is"]);
}

#[test]
fn the_manual_names_every_variable_and_file() {
    let pages = pages();
    let variables = variables();
    assert!(variables.contains("SOURCE_DATE_EPOCH") && variables.contains("SSL_CERT_FILE"), "{variables:?}");
    let named: BTreeSet<&str> = pages
        .values()
        .flat_map(|page| page.lines())
        .filter_map(|line| line.split_once("Ev "))
        .flat_map(|(_, rest)| rest.split_whitespace())
        .collect();
    for variable in &variables {
        assert!(named.contains(variable.as_str()), "{variable} is in no page");
    }
    let places = places();
    assert!(places.len() > 15, "{places:?}");
    let all: String = pages.values().map(String::as_str).collect();
    let missing: Vec<&String> = places.iter().filter(|place| !all.contains(place.as_str())).collect();
    assert!(missing.is_empty(), "in no page: {missing:?}");
}
