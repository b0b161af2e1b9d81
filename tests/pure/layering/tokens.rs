//! Rust source as a row of words and signs: comments, strings, characters and numbers left out.

/// A word or a sign of Rust source that can be part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Word(String),
    /// `::`
    PathSeparator,
    Sign(char),
}

impl Token {
    pub(crate) fn is(&self, sign: char) -> bool {
        *self == Self::Sign(sign)
    }

    pub(crate) fn word(&self) -> Option<&str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }
}

/// The tokens of a source text, each with its line counted from one.
pub(crate) fn tokens(source: &str) -> Vec<(Token, usize)> {
    let characters: Vec<char> = source.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let mut line = 1;
    let mut index = 0;
    while index < characters.len() {
        let start = index;
        match at(index) {
            '/' if at(index + 1) == '/' => index = end_of_line(&characters, index),
            '/' if at(index + 1) == '*' => index = end_of_comment(&characters, index),
            '"' => index = end_of_string(&characters, index + 1),
            '\'' => index = end_of_character_or_lifetime(&characters, index),
            c if c.is_alphabetic() || c == '_' => {
                while at(index).is_alphanumeric() || at(index) == '_' {
                    index += 1;
                }
                let word: String = characters[start..index].iter().collect();
                let hashes = characters[index..].iter().take_while(|c| **c == '#').count();
                match word.as_str() {
                    "r" | "br" | "cr" if at(index + hashes) == '"' => {
                        index = end_of_raw_string(&characters, index + hashes + 1, hashes);
                    }
                    "r" if hashes == 1 => index += 1,
                    "b" | "c" if at(index) == '"' => index = end_of_string(&characters, index + 1),
                    "b" if at(index) == '\'' => index = end_of_character_or_lifetime(&characters, index),
                    _ => found.push((Token::Word(word), line)),
                }
            }
            c if c.is_ascii_digit() => {
                while at(index).is_alphanumeric() || at(index) == '_' {
                    index += 1;
                }
            }
            ':' if at(index + 1) == ':' => {
                found.push((Token::PathSeparator, line));
                index += 2;
            }
            c if c.is_whitespace() => index += 1,
            c => {
                found.push((Token::Sign(c), line));
                index += 1;
            }
        }
        line += characters[start..index.min(characters.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn end_of_line(characters: &[char], start: usize) -> usize {
    characters[start..].iter().position(|c| *c == '\n').map_or(characters.len(), |length| start + length)
}

fn end_of_comment(characters: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut index = start;
    while index + 1 < characters.len() {
        match (characters[index], characters[index + 1]) {
            ('/', '*') => {
                depth += 1;
                index += 2;
            }
            ('*', '/') => {
                depth -= 1;
                index += 2;
                if depth == 0 {
                    return index;
                }
            }
            _ => index += 1,
        }
    }
    characters.len()
}

fn end_of_string(characters: &[char], start: usize) -> usize {
    let mut index = start;
    while index < characters.len() {
        match characters[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    characters.len()
}

fn end_of_raw_string(characters: &[char], start: usize, hashes: usize) -> usize {
    let closes = |index: usize| {
        characters[index] == '"'
            && characters[index + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (start..characters.len())
        .find(|index| closes(*index))
        .map_or(characters.len(), |index| index + 1 + hashes)
}

/// `'a'`, `'\n'` and `b'x'` are characters; `'a` without a closing quote is a lifetime.
fn end_of_character_or_lifetime(characters: &[char], quote: usize) -> usize {
    match (characters.get(quote + 1), characters.get(quote + 2)) {
        (Some('\\'), Some(_)) => characters[quote + 3..]
            .iter()
            .position(|c| *c == '\'')
            .map_or(characters.len(), |length| quote + 3 + length + 1),
        (Some(_), Some('\'')) => quote + 3,
        _ => quote + 1,
    }
}
