//! Finds the paths, macros and methods that a source file names, and holds them to the table of layers.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::table::Effect;
use super::table::LAYERS;
use super::table::Layer;
use super::tokens::Token;
use super::tokens::tokens;

/// One name too many, with the line it stands on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// Holds one source file to the table. `path` is relative to `src`; `test_only` says that the file is compiled for
/// tests alone.
pub(crate) fn scan(path: &str, source: &str, test_only: bool) -> BTreeSet<Violation> {
    let Some(layer) = layer_of_file(path) else {
        let text = format!("no layer holds the file '{path}': add it to tests/pure/layering/table.rs");
        return BTreeSet::from([Violation { line: 1, text }]);
    };
    let file = File::read(path, source, test_only);
    let mut violations = BTreeSet::new();
    for name in &file.names {
        if let Some(text) = fault(layer, name) {
            violations.insert(Violation { line: name.line, text });
        }
    }
    violations
}

/// The files, relative to `src`, that `path` declares as modules for tests alone; each also as a directory.
pub(crate) fn test_only_modules(path: &str, source: &str) -> Vec<String> {
    let own = module_path(path).join("/");
    let prefix = if own.is_empty() { own } else { format!("{own}/") };
    let names = File::read(path, source, false).test_modules;
    names.into_iter().flat_map(|name| [format!("{prefix}{name}.rs"), format!("{prefix}{name}/")]).collect()
}

/// The layer that holds a file; `lib.rs` is the list of layers and has no rights at all.
fn layer_of_file(path: &str) -> Option<&'static Layer> {
    static LIST_OF_LAYERS: Layer = Layer { name: "lib.rs", holds: "", may_use: &[], effects: &[] };
    if path == "lib.rs" {
        return Some(&LIST_OF_LAYERS);
    }
    let file = LAYERS.iter().find(|layer| layer.name == path);
    file.or_else(|| layer_of_module(&module_path(path)))
}

/// The layer with the longest name that the module path begins with.
fn layer_of_module(segments: &[String]) -> Option<&'static Layer> {
    let begins = |layer: &&Layer| {
        let name = layer.name.trim_end_matches(".rs");
        let parts: Vec<&str> = name.split('/').collect();
        name != "main"
            && parts.len() <= segments.len()
            && parts.iter().zip(segments).all(|(part, own)| part == own)
    };
    LAYERS.iter().filter(begins).max_by_key(|layer| layer.name.len())
}

fn module_path(path: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if matches!(stem, "lib" | "main") { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// A path, macro, method or keyword that a file names, with every alias resolved.
#[derive(Debug)]
struct Name {
    line: usize,
    kind: Kind,
    segments: Vec<String>,
    in_tests: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Path,
    /// All names below the path, by `use …::*`.
    Glob,
    Macro,
    Method,
    Keyword,
}

/// What is wrong with a layer's use of a name.
fn fault(layer: &Layer, name: &Name) -> Option<String> {
    let written = name.segments.join("::");
    if matches!(name.kind, Kind::Path | Kind::Glob)
        && name.segments.first().is_some_and(|first| first == "crate")
    {
        return match layer_of_module(name.segments.get(1..)?) {
            None => Some(format!("'{written}' names the whole crate or no layer at all")),
            Some(other) if other.name == layer.name || layer.may_use.contains(&other.name) => None,
            Some(other) => {
                Some(format!("{} must not name {}, but names '{written}'", layer.name, other.name))
            }
        };
    }
    let mut forbidden = Effect::ALL
        .into_iter()
        .filter(|effect| !layer.effects.contains(effect))
        .filter(|effect| !name.in_tests || *effect == Effect::Unsafe);
    let effect = forbidden.find(|effect| effect.names().iter().any(|known| matches(known, name)))?;
    Some(format!("{} has no right to {}, but names '{written}'", layer.name, effect.word()))
}

/// Whether a name is `known`, or below it, or, for a glob, above it.
fn matches(known: &str, name: &Name) -> bool {
    let (kind, known) = if let Some(known) = known.strip_suffix('!') {
        (Kind::Macro, known)
    } else if let Some(known) = known.strip_prefix('.') {
        (Kind::Method, known)
    } else if let Some(known) = known.strip_suffix(' ') {
        (Kind::Keyword, known)
    } else {
        (Kind::Path, known)
    };
    let parts: Vec<&str> = known.split("::").collect();
    let agrees = parts.iter().zip(&name.segments).all(|(part, segment)| part == segment);
    match (kind, name.kind) {
        (Kind::Path, Kind::Path | Kind::Macro) => agrees && parts.len() <= name.segments.len(),
        (Kind::Path, Kind::Glob) => agrees,
        (Kind::Macro, Kind::Macro) | (Kind::Method, Kind::Method) | (Kind::Keyword, Kind::Keyword) => {
            name.segments.last().is_some_and(|last| last == known)
        }
        _ => false,
    }
}

/// What a file names.
#[derive(Debug, Default)]
struct File {
    names: Vec<Name>,
    test_modules: Vec<String>,
}

/// Where in a file the reader stands.
#[derive(Debug)]
struct Place {
    /// The module path, inline modules included.
    module: Vec<String>,
    in_tests: bool,
}

impl File {
    fn read(path: &str, source: &str, test_only: bool) -> Self {
        let tokens = tokens(source);
        let places = places(&tokens, module_path(path), test_only);
        let mut file = Self::default();
        let mut aliases = BTreeMap::new();
        let mut expressions = Vec::new();
        let mut index = 0;
        while index < tokens.len() {
            let (token, line) = (&tokens[index].0, tokens[index].1);
            let place = &places[index];
            let before = index.checked_sub(1).map(|before| &tokens[before].0);
            let next = tokens.get(index + 1).map(|(token, _)| token);
            let Some(word) = token.word() else {
                index += 1;
                continue;
            };
            match word {
                "use" if !next.is_some_and(|next| next.is('<')) => {
                    let mut tree = UseTree { tokens: &tokens, index: index + 1, leaves: Vec::new() };
                    tree.read(&[]);
                    index = tree.index;
                    for leaf in tree.leaves {
                        let segments = absolute(&leaf.segments, place, &BTreeMap::new());
                        if let Some(alias) = leaf.alias {
                            aliases.insert(alias, segments.clone());
                        }
                        let kind = if leaf.glob { Kind::Glob } else { Kind::Path };
                        file.names.push(Name { line, kind, segments, in_tests: place.in_tests });
                    }
                }
                "mod" if tokens.get(index + 2).is_some_and(|(token, _)| token.is(';') || token.is('{')) => {
                    if let Some(name) = next.and_then(Token::word) {
                        let mut module = vec!["crate".to_owned()];
                        module.extend(place.module.iter().cloned());
                        module.push(name.to_owned());
                        aliases.entry(name.to_owned()).or_insert(module);
                        if place.in_tests {
                            file.test_modules.push(name.to_owned());
                        }
                    }
                    index += 2;
                }
                "unsafe" => {
                    let segments = vec![word.to_owned()];
                    file.names.push(Name { line, kind: Kind::Keyword, segments, in_tests: place.in_tests });
                    index += 1;
                }
                _ if before.is_some_and(|before| before.is('.')) => {
                    if next.is_some_and(|next| next.is('(')) {
                        let segments = vec![word.to_owned()];
                        file.names.push(Name {
                            line,
                            kind: Kind::Method,
                            segments,
                            in_tests: place.in_tests,
                        });
                    }
                    index += 1;
                }
                _ => {
                    let mut segments = vec![word.to_owned()];
                    index += 1;
                    while let (Some((Token::PathSeparator, _)), Some(segment)) =
                        (tokens.get(index), tokens.get(index + 1).and_then(|(token, _)| token.word()))
                    {
                        segments.push(segment.to_owned());
                        index += 2;
                    }
                    let opens = |token: &Token| token.is('(') || token.is('[') || token.is('{');
                    let called = tokens.get(index).is_some_and(|(token, _)| token.is('!'))
                        && tokens.get(index + 1).is_some_and(|(token, _)| opens(token));
                    let kind = if called { Kind::Macro } else { Kind::Path };
                    expressions.push((line, kind, segments, index - 1));
                }
            }
        }
        for (line, kind, segments, position) in expressions {
            let place = &places[position];
            let segments = absolute(&segments, place, &aliases);
            // 'crate' alone is the reach of a visibility, not the name of something.
            if segments != ["crate"] {
                file.names.push(Name { line, kind, segments, in_tests: place.in_tests });
            }
        }
        file
    }
}

/// For every token: the module it stands in, and whether it is compiled for tests alone.
fn places(tokens: &[(Token, usize)], module: Vec<String>, test_only: bool) -> Vec<Place> {
    let is_test_attribute = |index: usize| {
        let words = ["#", "[", "cfg", "(", "test", ")", "]"];
        words.iter().enumerate().all(|(offset, word)| match tokens.get(index + offset) {
            Some((Token::Word(own), _)) => own == word,
            Some((Token::Sign(sign), _)) => word.chars().eq([*sign]),
            _ => false,
        })
    };
    let mut places = Vec::with_capacity(tokens.len());
    let mut module = module;
    // The depths of braces at which an inline module, and the item for tests alone, are left.
    let mut modules: Vec<usize> = Vec::new();
    let mut test_item: Option<(usize, usize)> = None;
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (index, (token, _)) in tokens.iter().enumerate() {
        if is_test_attribute(index) && test_item.is_none() {
            test_item = Some((braces, brackets));
        }
        places.push(Place { module: module.clone(), in_tests: test_only || test_item.is_some() });
        match token {
            Token::Sign('{') => {
                let before =
                    |back: usize| index.checked_sub(back).and_then(|index| tokens.get(index)?.0.word());
                if let (Some("mod"), Some(name)) = (before(2), before(1)) {
                    module.push(name.to_owned());
                    modules.push(braces);
                }
                braces += 1;
            }
            Token::Sign('}') => {
                braces = braces.saturating_sub(1);
                if modules.last() == Some(&braces) {
                    modules.pop();
                    module.pop();
                }
                if test_item.is_some_and(|(depth, _)| depth >= braces) {
                    test_item = None;
                }
            }
            Token::Sign('(' | '[') => brackets += 1,
            Token::Sign(')' | ']') => brackets = brackets.saturating_sub(1),
            Token::Sign(';') if test_item == Some((braces, brackets)) => test_item = None,
            _ => {}
        }
    }
    places
}

/// A path from the root of a crate, as far as this file alone can tell.
fn absolute(segments: &[String], place: &Place, aliases: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let Some((first, rest)) = segments.split_first() else { return Vec::new() };
    let in_crate = |module: &[String], rest: &[String]| {
        let root = ["crate".to_owned()];
        root.iter().chain(module).chain(rest).cloned().collect::<Vec<_>>()
    };
    match first.as_str() {
        "crate" | "ddictl" => in_crate(&[], rest),
        "core" | "alloc" => ["std".to_owned()].iter().chain(rest).cloned().collect(),
        "self" if rest.is_empty() => segments.to_vec(),
        "self" => in_crate(&place.module, rest),
        "super" => {
            let levels = segments.iter().take_while(|segment| *segment == "super").count();
            let kept = place.module.len().saturating_sub(levels);
            in_crate(&place.module[..kept], &segments[levels..])
        }
        _ => match aliases.get(first) {
            Some(path) => path.iter().chain(rest).cloned().collect(),
            None => segments.to_vec(),
        },
    }
}

/// A `use` declaration, taken apart into the paths it names.
struct UseTree<'a> {
    tokens: &'a [(Token, usize)],
    index: usize,
    leaves: Vec<Leaf>,
}

struct Leaf {
    segments: Vec<String>,
    alias: Option<String>,
    glob: bool,
}

impl UseTree<'_> {
    /// Reads one tree below `prefix`, up to the ',', '}' or ';' behind it.
    fn read(&mut self, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        let mut alias = None;
        let mut glob = false;
        while let Some((token, _)) = self.tokens.get(self.index) {
            match token {
                Token::Sign(',' | '}' | ';') => break,
                Token::Sign('{') => {
                    self.index += 1;
                    self.read_group(&segments);
                    return;
                }
                Token::Sign('*') => glob = true,
                Token::Word(word) if word == "as" => {
                    self.index += 1;
                    alias =
                        self.tokens.get(self.index).and_then(|(token, _)| token.word()).map(str::to_owned);
                }
                Token::Word(word) if word == "self" && !segments.is_empty() => {}
                Token::Word(word) => segments.push(word.clone()),
                Token::PathSeparator | Token::Sign(_) => {}
            }
            self.index += 1;
        }
        if segments.len() > prefix.len()
            || glob
            || self.tokens.get(self.index.wrapping_sub(1)).is_some_and(|(t, _)| t.word().is_some())
        {
            let alias = if glob { None } else { alias.or_else(|| segments.last().cloned()) };
            self.leaves.push(Leaf { segments, alias, glob });
        }
    }

    fn read_group(&mut self, prefix: &[String]) {
        while let Some((token, _)) = self.tokens.get(self.index) {
            match token {
                Token::Sign('}') => {
                    self.index += 1;
                    return;
                }
                Token::Sign(';') => return,
                Token::Sign(',') => self.index += 1,
                _ => self.read(prefix),
            }
        }
    }
}
