//! Text armour around the DER of a signature (RFC 7468, sections 2 and 8).

use std::borrow::Cow;

/// What openssl writes around a signature: `smime` and `pkcs7` the first, `cms` the second.
const LABELS: [&str; 2] = ["PKCS7", "CMS"];

/// The DER in a signature file, which may be that itself, or PEM: one block, with nothing but blank space around it.
/// What is neither is given back as it is: then it is no signature to whoever reads it.
#[must_use]
pub fn signature_der(content: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(content).ok();
    match text.and_then(|text| LABELS.into_iter().find_map(|label| block(text, label))) {
        Some(der) => Cow::Owned(der),
        None => Cow::Borrowed(content),
    }
}

/// What is in the only block of a text.
fn block(text: &str, label: &str) -> Option<Vec<u8>> {
    let inside = text
        .trim_ascii()
        .strip_prefix(&format!("-----BEGIN {label}-----"))?
        .strip_suffix(&format!("-----END {label}-----"))?;
    let digits: String = inside.split_ascii_whitespace().collect();
    // The decoder takes several padded texts in a row for one.
    if digits.find('=').is_some_and(|first| digits.len().saturating_sub(first) > 2) {
        return None;
    }
    data_encoding::BASE64.decode(digits.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_der_or_one_block_of_pem() {
        let der = [0x30, 0x03, 0x02, 0x01, 0x05];
        assert_eq!(signature_der(&der), &der[..]);
        for text in [
            "-----BEGIN PKCS7-----\nMAMCAQU=\n-----END PKCS7-----\n",
            "\n-----BEGIN CMS-----\r\nMAMC\r\nAQU=\r\n-----END CMS-----",
        ] {
            assert_eq!(signature_der(text.as_bytes()), &der[..], "{text}");
        }
    }

    #[test]
    fn what_is_neither_stays_as_it_is() {
        for text in [
            "",
            "MAMCAQU=",
            "-----BEGIN PKCS7-----\nMAMCAQU=\n-----END CMS-----\n",
            "-----BEGIN PKCS7-----\nMAMCAQ\n-----END PKCS7-----\n",
            "-----BEGIN PKCS7-----\nMAM=MAM=\n-----END PKCS7-----\n",
            "-----BEGIN PKCS7-----\nMAMCAQU=\n-----END PKCS7-----\nmore",
            "-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n",
            "-----BEGIN PKCS7-----",
        ] {
            assert_eq!(signature_der(text.as_bytes()), text.as_bytes(), "{text}");
        }
    }
}
