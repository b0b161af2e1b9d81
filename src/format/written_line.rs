//! A line that people write: words, perhaps a reason between two quotation marks at its end, and comments.

/// The longest line, in bytes.
pub const MAXIMUM_LINE: usize = 4096;

/// What parts the words of such a line.
pub(super) const BLANK: [char; 2] = [' ', '\t'];

/// How much of a wrong word a message shows, in characters.
const SHOWN_LENGTH: usize = 80;

/// What is wrong with a line, whatever its words mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrittenLineError {
    /// There is a control character in it, a carriage return perhaps.
    #[error("expected printable text, found the character '{}'", .0.escape_default())]
    ControlCharacter(char),
    /// There is no reason where there has to be one, or one without words, without a second quotation mark, or with
    /// something behind it.
    #[error("expected a reason between two quotation marks at the end of the line")]
    Reason,
    /// It is longer than anybody needs.
    #[error("expected a line of at most {MAXIMUM_LINE} bytes, found {0}")]
    TooLong(usize),
}

/// What is in a line; `None` for an empty one or a comment.
///
/// # Errors
/// [`WrittenLineError::TooLong`] and [`WrittenLineError::ControlCharacter`], also of a comment.
pub(super) fn content(line: &str) -> Result<Option<&str>, WrittenLineError> {
    if line.len() > MAXIMUM_LINE {
        return Err(WrittenLineError::TooLong(line.len()));
    }
    if let Some(found) = line.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(WrittenLineError::ControlCharacter(found));
    }
    let content = line.trim_matches(BLANK);
    Ok((!content.is_empty() && !content.starts_with('#')).then_some(content))
}

/// The reason that `text`, the end of a line, is. A tab in it is a blank to whoever writes it, and would move the cursor of
/// whoever reads it.
///
/// # Errors
/// [`WrittenLineError::Reason`] for one without words, or with something else than a comment behind it.
pub(super) fn reason(text: &str) -> Result<String, WrittenLineError> {
    let parts = text.strip_prefix('"').and_then(|text| text.split_once('"'));
    let (reason, behind) = parts.ok_or(WrittenLineError::Reason)?;
    let comment = behind.trim_start_matches(BLANK);
    let ends = comment.is_empty() || (comment != behind && comment.starts_with('#'));
    if !ends || reason.trim().is_empty() {
        return Err(WrittenLineError::Reason);
    }
    Ok(reason.replace('\t', " "))
}

/// A wrong word as messages show it: its beginning, escaped.
pub(super) fn shown(word: &str) -> String {
    word.chars().take(SHOWN_LENGTH).flat_map(char::escape_debug).collect()
}
