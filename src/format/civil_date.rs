//! Days of the Gregorian calendar in UTC, as people write them: `2026-12-31`.

use std::fmt;
use std::str::FromStr;

/// A day from 1970-01-01 to 9999-12-31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CivilDate {
    year: u16,
    month: u8,
    day: u8,
}

/// The text is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a day as YYYY-MM-DD, from 1970 on, found '{}'", .found.escape_debug())]
pub struct CivilDateError {
    /// The text.
    pub found: String,
}

impl CivilDate {
    /// How many days after 1970-01-01 it is.
    #[must_use]
    pub fn days_since_epoch(self) -> u64 {
        let years = 1970..self.year;
        let of_years: u64 = years.map(|year| if is_leap(year) { 366 } else { 365 }).sum();
        let of_months: u64 = (1..self.month).map(|month| u64::from(days_of(self.year, month))).sum();
        of_years.saturating_add(of_months).saturating_add(u64::from(self.day.saturating_sub(1)))
    }

    /// Whether this day is over at a time in seconds since the beginning of 1970-01-01 in UTC.
    #[must_use]
    pub fn is_over_at(self, unix_seconds: u64) -> bool {
        const SECONDS_OF_A_DAY: u64 = 86_400;
        unix_seconds / SECONDS_OF_A_DAY > self.days_since_epoch()
    }
}

const fn is_leap(year: u16) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

const fn days_of(year: u16, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl FromStr for CivilDate {
    type Err = CivilDateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str, count: usize| {
            let plain = digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u16>().ok()).flatten()
        };
        let parsed = || {
            let (year, rest) = text.split_once('-')?;
            let (month, day) = rest.split_once('-')?;
            let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
            let (month, day) = (u8::try_from(month).ok()?, u8::try_from(day).ok()?);
            let is_day =
                year >= 1970 && (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
            is_day.then_some(Self { year, month, day })
        };
        parsed().ok_or_else(|| CivilDateError { found: text.chars().take(40).collect() })
    }
}

impl fmt::Display for CivilDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> CivilDate {
        text.parse().unwrap()
    }

    #[test]
    fn days_are_counted_as_the_calendar_has_them() {
        // From 'date -u -d DAY +%s', divided by 86400.
        for (text, days) in [
            ("1970-01-01", 0),
            ("1972-02-29", 789),
            ("2000-03-01", 11_017),
            ("2026-12-31", 20_818),
            ("9999-12-31", 2_932_896),
        ] {
            assert_eq!((date(text).days_since_epoch(), date(text).to_string().as_str()), (days, text));
        }
    }

    #[test]
    fn a_day_lasts_to_its_last_second() {
        let day = date("2026-12-31");
        assert!(!day.is_over_at(20_818 * 86_400) && !day.is_over_at(20_819 * 86_400 - 1));
        assert!(day.is_over_at(20_819 * 86_400) && day.is_over_at(u64::MAX));
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for text in [
            "",
            "2026",
            "2026-12",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "1900-02-29",
            "2026-1-1",
            "26-01-01",
            "2026-12-31-",
            "2026/12/31",
            " 2026-12-31",
            "+026-12-31",
            "1969-12-31",
            "2026-12-3a",
        ] {
            assert!(text.parse::<CivilDate>().is_err(), "{text}");
        }
    }
}
