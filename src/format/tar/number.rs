//! Numbers in header fields: octal digits, or in the manner of GNU tar and star bytes with the first bit set.

use super::TarError;
use super::path::shown;

/// Reads a field that holds a number of at least 0.
///
/// # Errors
/// [`TarError::Number`], [`TarError::Negative`], [`TarError::Overflow`].
pub(super) fn unsigned(field: &'static str, bytes: &[u8]) -> Result<u64, TarError> {
    let number = signed(field, bytes)?;
    if number < 0 {
        return Err(TarError::Negative { field });
    }
    u64::try_from(number).map_err(|_| TarError::Overflow { field })
}

/// Reads a field that may hold a number below 0, as a time does.
///
/// # Errors
/// [`TarError::Number`]; [`TarError::Overflow`] for what does not fit 64 bits.
pub(super) fn signed(field: &'static str, bytes: &[u8]) -> Result<i128, TarError> {
    match bytes.split_first() {
        Some((0x80, rest)) => binary(field, rest, 0),
        Some((0xff, rest)) => binary(field, rest, -1),
        _ => octal(field, bytes),
    }
}

/// Big-endian two's complement, continued from the sign `start`.
fn binary(field: &'static str, bytes: &[u8], start: i128) -> Result<i128, TarError> {
    let overflow = TarError::Overflow { field };
    let mut number = start;
    for byte in bytes {
        // Fields have at most 12 bytes: 88 bits and the sign fit.
        number = number
            .checked_mul(256)
            .and_then(|number| number.checked_add(i128::from(*byte)))
            .ok_or(TarError::Overflow { field })?;
    }
    let fits = i64::try_from(number).is_ok() || u64::try_from(number).is_ok();
    if fits { Ok(number) } else { Err(overflow) }
}

/// Octal digits between blanks and in front of blanks or NULs; nothing at all is 0, as old writers leave out fields.
fn octal(field: &'static str, bytes: &[u8]) -> Result<i128, TarError> {
    let odd = || TarError::Number { field, found: shown(bytes) };
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = bytes.iter().position(|byte| *byte != b' ').unwrap_or(bytes.len());
    let rest = bytes.get(start..).unwrap_or_default();
    let length = rest.iter().position(padding).unwrap_or(rest.len());
    let (digits, behind) = rest.split_at_checked(length).ok_or_else(odd)?;
    if !behind.iter().all(padding) {
        return Err(odd());
    }
    let mut number = 0_i128;
    for digit in digits {
        if !matches!(digit, b'0'..=b'7') {
            return Err(odd());
        }
        // Twelve digits are 36 bits.
        number = number.saturating_mul(8).saturating_add(i128::from(digit.saturating_sub(b'0')));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_numbers_are_read_however_they_are_padded() {
        for (bytes, expected) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"644     ", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"777777777777", (1 << 36) - 1),
            (b"", 0),
        ] {
            assert_eq!(unsigned("size", bytes).unwrap(), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_octal_number_is_refused() {
        for bytes in
            [&b"0000648\0"[..], b"-0000644", b"0x1ff\0\0\0", b"12\0 3\0\0\0", b"+12\0\0\0\0\0", b"\x90\0\0\0"]
        {
            let error = unsigned("size", bytes).unwrap_err();
            assert!(matches!(error, TarError::Number { field: "size", .. }), "{error}");
        }
    }

    #[test]
    fn binary_numbers_are_read_with_their_sign() {
        assert_eq!(unsigned("size", b"\x80\0\0\0\0\0\0\x02\0\0\0\0").unwrap(), 8 << 30);
        assert_eq!(signed("time", &[0xff; 12]).unwrap(), -1);
        assert_eq!(signed("time", b"\xff\xff\xff\xff\xff\xff\xff\0").unwrap(), -256);
        assert_eq!(unsigned("size", b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap(), u64::MAX);
    }

    #[test]
    fn negative_and_huge_sizes_are_refused_by_name() {
        assert_eq!(unsigned("size", &[0xff; 12]), Err(TarError::Negative { field: "size" }));
        assert_eq!(
            unsigned("size", b"\x80\0\0\x01\0\0\0\0\0\0\0\0"),
            Err(TarError::Overflow { field: "size" })
        );
        assert_eq!(
            signed("time", b"\xff\x80\0\0\0\0\0\0\0\0\0\0"),
            Err(TarError::Overflow { field: "time" })
        );
    }
}
