//! The layers are kept: no file names a layer that it must not name, or does what its layer has no right to.

use std::fs;
use std::path::Path;

mod scanner;
mod table;
mod tokens;

use scanner::scan;
use scanner::test_only_modules;
use table::Effect;
use table::LAYERS;

/// The lines of the crate's page between which the table of layers stands.
const BEGIN: &str = "//! <!-- layers: begin -->\n";
const END: &str = "//! <!-- layers: end -->\n";

/// The number of lines at which a file is to be split.
const LONGEST_FILE: usize = 600;

fn source_directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `src`, by its path relative to it.
fn sources() -> Vec<(String, String)> {
    let root = source_directory();
    let mut waiting = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_file_keeps_to_its_layer() {
    let sources = sources();
    assert!(sources.len() > 20, "only {} files found", sources.len());
    let test_only: Vec<String> =
        sources.iter().flat_map(|(path, text)| test_only_modules(path, text)).collect();
    let is_test_only = |path: &str| {
        test_only
            .iter()
            .any(|module| path == module || (module.ends_with('/') && path.starts_with(module.as_str())))
    };
    let found: Vec<String> = sources
        .iter()
        .flat_map(|(path, text)| {
            let violations = scan(path, text, is_test_only(path));
            violations
                .into_iter()
                .map(move |violation| format!("src/{path}:{}: {}", violation.line, violation.text))
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_compiler_forbids_unsafe_code_in_the_layers_without_io() {
    for layer in ["format", "image", "trust"] {
        let text = fs::read_to_string(source_directory().join(layer).join("mod.rs")).unwrap();
        assert!(text.contains("\n#![forbid(unsafe_code)]\n"), "src/{layer}/mod.rs does not forbid it");
    }
}

#[test]
fn no_file_is_too_long_to_be_read_in_one_go() {
    let lengths = sources().into_iter().map(|(path, text)| (path, text.lines().count()));
    let long: Vec<_> = lengths.filter(|(_, lines)| *lines > LONGEST_FILE).collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines, so to be split: {long:?}");
}

#[test]
fn the_crates_page_shows_the_table() {
    let path = source_directory().join("lib.rs");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("lib.rs has no line that begins the table of layers");
    let (shown, after) = rest.split_once(END).expect("lib.rs has no line that ends the table of layers");
    let right: String = table::documentation().lines().map(|line| format!("//! {line}\n")).collect();
    if std::env::var_os("DDICTL_UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{right}{END}{after}")).unwrap();
        return;
    }
    assert!(
        shown == right,
        "the table in src/lib.rs is not that of tests/pure/layering/table.rs, which is:\n{right}"
    );
}

/// A file of the layer, by its path relative to `src`.
fn file_in(layer: &str) -> String {
    if layer.ends_with(".rs") { layer.to_owned() } else { format!("{layer}/planted.rs") }
}

fn texts(path: &str, source: &str) -> Vec<String> {
    scan(path, source, false).into_iter().map(|violation| violation.text).collect()
}

#[test]
fn a_planted_use_of_every_forbidden_layer_is_found() {
    for layer in LAYERS {
        for other in LAYERS.iter().filter(|other| other.name != layer.name && other.name != "main.rs") {
            let module = other.name.trim_end_matches(".rs").replace('/', "::");
            for source in [
                format!("use crate::{module}::thing;"),
                format!("use crate::{{format::units, {module}::{{thing, other}}}};"),
                format!("fn f() {{ let x = crate::{module}::thing(); }}"),
                format!("pub(crate) use crate::{module} as x;"),
                format!("#[cfg(test)] mod tests {{ use crate::{module}::thing; }}"),
            ] {
                let allowed = layer.may_use.contains(&other.name);
                let expected =
                    format!("{} must not name {}, but names 'crate::{module}", layer.name, other.name);
                let source = if layer.may_use.contains(&"format") || layer.name == "format" {
                    source
                } else {
                    source.replace("format::units, ", "")
                };
                let found = texts(&file_in(layer.name), &source);
                assert_eq!(
                    found.iter().any(|text| text.starts_with(&expected)),
                    !allowed,
                    "{} with {source}: {found:?}",
                    layer.name
                );
                assert!(!allowed || found.is_empty(), "{} with {source}: {found:?}", layer.name);
            }
        }
    }
}

#[test]
fn a_planted_name_of_every_forbidden_effect_is_found() {
    for layer in LAYERS {
        for effect in Effect::ALL {
            for name in effect.names() {
                let source = match name {
                    name if name.ends_with('!') => format!("fn f() {{ {name}(\"x\"); }}"),
                    name if name.starts_with('.') => format!("fn f() {{ x{name}(); }}"),
                    name if name.ends_with(' ') => format!("fn f() {{ {name}{{ x() }} }}"),
                    name => format!("fn f() {{ {name}::x(); }}"),
                };
                let allowed = layer.effects.contains(&effect);
                let found = texts(&file_in(layer.name), &source);
                let expected = format!("{} has no right to {}, but names '", layer.name, effect.word());
                // The standard streams are streams too: the first right that is missing is the one that is named.
                let other_right = *name != "unsafe " && name.starts_with("std::io::");
                let noticed = found.iter().any(|text| text.starts_with(&expected))
                    || (other_right && !found.is_empty());
                assert_eq!(
                    noticed,
                    !allowed || (other_right && !layer.effects.contains(&Effect::Streams)),
                    "{} with {source}: {found:?}",
                    layer.name
                );
            }
        }
    }
}

#[test]
fn a_name_is_found_behind_every_disguise() {
    for source in [
        "use std::{fmt, fs};",
        "use std::{fs::{self, File}, path::Path};",
        "use std::fs::*;",
        "use std::*;",
        "use std as s; fn f() { s::fs::read(x); }",
        "use std::time::Instant as Moment; fn f() { Moment::now(); }",
        "use std::time; fn f() { time::SystemTime::now(); }",
        "use std::time::*; fn f() { Instant::now(); }",
        "use ::std::env;",
        "use core::time as t; use std::thread as u;",
        "fn f(x: &'static str, file: std::fs::File) {}",
        "fn f() -> Option<<std::fs::File as X>::Y> { None }",
        "macro_rules! m { () => { std::fs::read(\"x\") } }",
        "fn f() { std::println!(\"x\"); }",
        "fn f() { let c = '\"'; std::fs::read(c); }",
        "fn f() { let s = r#\"a\"b\"#; std::fs::read(s); }",
        "fn f() { let c = b'\\''; std::fs::read(c); }",
        "#[cfg(test)] mod tests { fn f() {} } use std::fs;",
        "#[cfg(test)] use super::x; use std::fs;",
        "#[cfg(test)] const X: [u8; 2] = [1, 2]; use std::fs;",
        "#[cfg(not(test))] mod real { use std::fs; }",
        "use super::super::operation::x;",
        "mod inner { use super::super::super::operation::x; }",
        "use crate as c; fn f() { c::operation::x(); }",
        "use crate::*;",
        "use ddictl::cli::x;",
        "fn f() { crate::newcomer::x(); }",
        "#[cfg(test)] mod tests { fn f() { unsafe { x() } } }",
        "unsafe impl Send for X {}",
        "fn f() { path . exists (); }",
    ] {
        assert!(!texts("format/planted.rs", source).is_empty(), "nothing found in: {source}");
    }
}

#[test]
fn what_is_only_spoken_of_is_not_a_name() {
    for source in [
        "// use std::fs;",
        "/* use std::fs; /* nested */ std::env::var */",
        "/// Like [`std::fs::read`].\nfn f() {}",
        "const X: &str = \"std::fs::read(\\\"x\\\") println!\";",
        "const X: &str = r##\"use std::fs; \"# unsafe\"##;",
        "const X: &[u8] = b\"std::fs\";",
        "#[cfg(test)] mod tests { use super::*; use std::fs; fn f() { println!(\"x\"); std::env::args(); } }",
        "#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests { use std::fs; }",
        "use std::time::Duration; fn f(now: std::time::SystemTime) {}",
        "pub(crate) fn f() {} pub(super) fn g() {} pub(in crate::format) fn h() {}",
        "use super::units::ByteOffset; use crate::format::guid::{self, Guid}; fn f() { guid::x(); }",
        "mod inner { use super::super::guid::Guid; fn f() { self::x(); } }",
        "impl X { fn f(&self) -> bool { self.exists } }",
        "fn f() -> impl Iterator<Item = u8> + use<'_> { x }",
        "#![forbid(unsafe_code)]",
        "fn f(r#use: u8) { let x = 'a'; let y: &'a str = z; if x != y {} }",
    ] {
        assert_eq!(texts("format/planted.rs", source), Vec::<String>::new(), "in: {source}");
    }
}

#[test]
fn a_module_for_tests_alone_is_known_by_its_declaration() {
    let source = "pub mod real;\n#[cfg(test)]\npub(crate) mod keys;\nmod after;";
    assert_eq!(test_only_modules("trust/mod.rs", source), ["trust/keys.rs", "trust/keys/"]);
    assert_eq!(scan("trust/keys.rs", "use std::fs;", true).len(), 0);
    assert_eq!(scan("trust/keys.rs", "use std::fs;", false).len(), 1);
}

#[test]
fn a_file_without_a_layer_is_named() {
    assert!(texts("newcomer/mod.rs", "").concat().contains("no layer holds the file 'newcomer/mod.rs'"));
}

#[test]
fn a_violation_names_its_line() {
    let found = scan("format/planted.rs", "//! Doc.\n\n/* two\nlines */ use std::fs;\n", false);
    assert_eq!(found.into_iter().map(|violation| violation.line).collect::<Vec<_>>(), [4]);
}
