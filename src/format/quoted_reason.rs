//! The reason at the end of a line that people write: text between two quotation marks, with nothing or a comment behind it.

/// What parts the words of such a line.
pub(super) const BLANK: [char; 2] = [' ', '\t'];

/// The reason that `text`, the end of a line, is; `None` where it is none, one without words, or has something else than a
/// comment behind it. A tab in it is a blank to whoever writes it, and would move the cursor of whoever reads it.
pub(super) fn reason(text: &str) -> Option<String> {
    let (reason, behind) = text.strip_prefix('"')?.split_once('"')?;
    let comment = behind.trim_start_matches(BLANK);
    let ends = comment.is_empty() || (comment != behind && comment.starts_with('#'));
    (ends && !reason.trim().is_empty()).then(|| reason.replace('\t', " "))
}
