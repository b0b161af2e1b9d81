//! The values of the HTTP headers that say which bytes of which version an answer holds, and when to ask again
//! (RFC 9110). A server may write anything into them.

use std::time::{Duration, SystemTime};

/// How long a value may be that is looked at, in bytes. None of these headers has a use for half of it.
pub const MAXIMUM_LENGTH: usize = 1024;

/// How much later than the last change an answer must have been made for the time of the change to tell versions apart:
/// the time counts seconds, and more changes may come within one; the rest is for clocks that are not quite the same
/// (RFC 9110, 8.8.2.2; RFC 7232 said 60 s).
pub const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Which bytes of a file an answer with status 206 holds: `bytes FIRST-LAST/TOTAL` (RFC 9110, 14.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    first: u64,
    last: u64,
    total: u64,
}

impl ContentRange {
    /// Reads the value of `Content-Range`. `None` where it is not of that form, where the numbers contradict each other,
    /// and where the size of the file is left open (`*`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAXIMUM_LENGTH {
            return None;
        }
        let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let (first, last, total) = (digits(first)?, digits(last)?, digits(total)?);
        (first <= last && last < total).then_some(Self { first, last, total })
    }

    /// The offset of the first byte.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The offset behind the last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        // Less than the total, which is a number of 64 bits.
        self.last.saturating_add(1)
    }

    /// How many bytes there are, at least one.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.end().saturating_sub(self.first)
    }

    /// The size of the whole file in bytes.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

/// A number of decimal digits and nothing else.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether the value of `ETag` tells the very bytes of one version from those of another (RFC 9110, 8.8.3): not weak,
/// and of the right form. Such a value can be sent back as it is.
#[must_use]
pub fn is_strong_entity_tag(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    text.len() <= MAXIMUM_LENGTH
        && inner.is_some_and(|inner| inner.bytes().all(|byte| byte != b'"' && (0x21..=0x7e).contains(&byte)))
}

/// Whether the time of the last change tells the very bytes of one version from those of another: where the answer was
/// made [`SETTLED_AFTER`] it or later, by the clock that gave both. The texts are the values of `Last-Modified` and `Date`.
#[must_use]
pub fn is_settled(last_modified: &str, date: &str) -> bool {
    match (time(last_modified), time(date)) {
        (Some(changed), Some(made)) => made.duration_since(changed).is_ok_and(|age| age >= SETTLED_AFTER),
        _ => false,
    }
}

/// How long from `now` the value of `Retry-After` asks to wait: a number of seconds, or a time, which may have passed
/// (RFC 9110, 10.2.3). `None` where it is neither.
#[must_use]
pub fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if text.len() > MAXIMUM_LENGTH {
        return None;
    }
    match digits(text) {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => time(text).map(|then| then.duration_since(now).unwrap_or_default()),
    }
}

/// A time in one of the three forms of RFC 9110, 5.6.7.
fn time(text: &str) -> Option<SystemTime> {
    let plausible = text.len() <= MAXIMUM_LENGTH && text.is_ascii();
    plausible.then(|| httpdate::parse_http_date(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_where_it_makes_sense() {
        let range = ContentRange::parse("bytes 5-9/20").unwrap();
        assert_eq!((range.first(), range.end(), range.length(), range.total()), (5, 10, 5, 20));
        let largest = format!("bytes 0-{}/{}", u64::MAX - 1, u64::MAX);
        assert_eq!(ContentRange::parse(&largest).unwrap().length(), u64::MAX);
        for text in [
            "",
            "bytes",
            "bytes 5-9/*",
            "bytes */20",
            "bytes 9-5/20",
            "bytes 5-20/20",
            "bytes 0-0/0",
            "bytes +5-9/20",
            "bytes 5 - 9/20",
            "bytes -9/20",
            "bytes 5-/20",
            "bytes 5-9/",
            "bytes 5-9/20 ",
            "bytes  5-9/20",
            "Bytes 5-9/20",
            "items 5-9/20",
            "bytes 5-9/99999999999999999999",
            "bytes 5-9/20/30",
            "bytes ٥-9/20",
        ] {
            assert_eq!(ContentRange::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_strong_entity_tags_count() {
        assert!(is_strong_entity_tag("\"5f3-6a\"") && is_strong_entity_tag("\"\""));
        for text in ["", "\"", "W/\"x\"", "x", "\"x", "\"a\"b\"", "\"a b\"", "\"a\tb\"", "\"ä\"", "'x'"] {
            assert!(!is_strong_entity_tag(text), "{text}");
        }
        assert!(!is_strong_entity_tag(&format!("\"{}\"", "x".repeat(MAXIMUM_LENGTH))));
    }

    #[test]
    fn a_change_counts_when_it_is_long_enough_ago() {
        let changed = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:50:37 GMT", true),
            ("Sunday, 06-Nov-94 08:50:37 GMT", true),
            ("Sun Nov  6 08:50:37 1994", true),
            ("Sun, 06 Nov 1994 08:50:36 GMT", false),
            ("Sun, 06 Nov 1994 08:49:37 GMT", false),
            ("Sun, 06 Nov 1993 08:50:37 GMT", false),
            ("soon", false),
            ("", false),
        ] {
            assert_eq!(is_settled(changed, date), expected, "{date}");
            assert!(!is_settled("then", date));
        }
    }

    #[test]
    fn the_wait_is_a_number_or_a_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("99999999999999999999", None),
            ("tomorrow", None),
        ] {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }
}
