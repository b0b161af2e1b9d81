//! How a download is verified as a whole: the value of `--verify=`, and of `verify=` in a pull expression.

use std::fmt;
use std::str::FromStr;

use super::checksum_manifest::ListedDigest;

/// What is demanded of a download, beside what the policy demands of the image in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerificationMode {
    /// Nothing.
    No,
    /// That it agrees with sums from the same server. That finds damage, and no adversary.
    Checksum,
    /// That it agrees with sums that somebody signed whom the user trusts.
    #[default]
    Signature,
    /// That it has this SHA-256.
    Digest(ListedDigest),
}

impl fmt::Display for VerificationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Checksum => f.write_str("checksum"),
            Self::Signature => f.write_str("signature"),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

/// The text is no way to verify a download.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected 'no', 'checksum', 'signature', or a SHA-256 in 64 hexadecimal digits (with or without 'sha256:'), found \
     '{}'",
    .found.escape_debug()
)]
pub struct VerificationModeError {
    /// The text.
    pub found: String,
}

impl FromStr for VerificationMode {
    type Err = VerificationModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "no" => return Ok(Self::No),
            "checksum" => return Ok(Self::Checksum),
            "signature" => return Ok(Self::Signature),
            _ => (),
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        ListedDigest::from_hexadecimal(digits.as_bytes())
            .map(Self::Digest)
            .ok_or_else(|| VerificationModeError { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_words_or_a_digest() {
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = VerificationMode::Digest(ListedDigest::from_hexadecimal(digits.as_bytes()).unwrap());
        for (text, mode) in [
            ("no", VerificationMode::No),
            ("checksum", VerificationMode::Checksum),
            ("signature", VerificationMode::default()),
            (digits, digest),
            (&digits.to_uppercase(), digest),
            (&format!("sha256:{digits}"), digest),
        ] {
            assert_eq!(text.parse(), Ok(mode), "{text}");
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }

    #[test]
    fn whatever_else_is_no_mode() {
        let digits = "0".repeat(63);
        for text in ["", "yes", "No", " no", "sha256:", "sha512:00", &digits, &format!("{digits}g")] {
            let found = text.to_owned();
            assert_eq!(text.parse::<VerificationMode>(), Err(VerificationModeError { found }));
        }
    }
}
