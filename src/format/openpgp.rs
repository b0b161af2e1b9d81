//! The outer layers of OpenPGP data (RFC 9580): ASCII armour, and where one packet ends and the next begins.
//!
//! What is in a packet is the business of a library, and which packet counts that of [`crate::trust`]. Both layers are
//! read here so that one packet that cannot be understood does not take others with it, nor hides in silence; and so
//! that a file may hold several armoured blocks, as concatenated keyrings do.

use std::fmt;

/// How many packets are read of one file: more than any keyring of a distribution has.
pub const MAXIMUM_PACKETS: usize = 100_000;

/// How many armoured blocks are read of one file.
pub const MAXIMUM_BLOCKS: usize = 1000;

/// What a file of OpenPGP data is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Certificates ('public keys').
    PublicKeys,
    /// Detached signatures.
    Signature,
}

impl BlockKind {
    /// What stands in the first line of the armour, between `-----BEGIN ` and `-----` (RFC 9580, 6.2.1).
    const fn title(self) -> &'static str {
        match self {
            Self::PublicKeys => "PGP PUBLIC KEY BLOCK",
            Self::Signature => "PGP SIGNATURE",
        }
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PublicKeys => "OpenPGP public keys",
            Self::Signature => "a detached OpenPGP signature",
        })
    }
}

/// The packet types that ddictl has a use for or an opinion on (RFC 9580, 5).
pub mod packet_type {
    /// A signature.
    pub const SIGNATURE: u8 = 2;
    /// A private key.
    pub const SECRET_KEY: u8 = 5;
    /// A primary key.
    pub const PUBLIC_KEY: u8 = 6;
    /// A private subkey.
    pub const SECRET_SUBKEY: u8 = 7;
    /// To be ignored.
    pub const MARKER: u8 = 10;
    /// What some program thought of the key; to be ignored.
    pub const TRUST: u8 = 12;
    /// A user ID.
    pub const USER_ID: u8 = 13;
    /// A subkey.
    pub const PUBLIC_SUBKEY: u8 = 14;
    /// A user attribute, as a rule a picture.
    pub const USER_ATTRIBUTE: u8 = 17;
    /// To be ignored.
    pub const PADDING: u8 = 21;
    /// The first type that may be ignored where it is not known.
    pub const FIRST_NOT_CRITICAL: u8 = 40;
}

/// A packet: its type, and its body without the header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    kind: u8,
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The type, one of [`packet_type`] or another.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// What is in it.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet({}, {} bytes)", self.kind, self.body.len())
    }
}

/// The bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenPgpFormatError {
    /// There is nothing.
    #[error("expected {expected}, found an empty file")]
    Empty {
        /// What it should be.
        expected: BlockKind,
    },
    /// GnuPG's own database of keys.
    #[error("expected {expected}, found a keybox of GnuPG: write the keys into a file with 'gpg --export'")]
    Keybox {
        /// What it should be.
        expected: BlockKind,
    },
    /// The armour is broken.
    #[error("malformed ASCII armour at line {line}: expected {expected}")]
    MalformedArmour {
        /// The number of the line.
        line: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// There is neither armour nor a packet.
    #[error("expected {expected}, armoured or binary, found something else")]
    NotOpenPgp {
        /// What it should be.
        expected: BlockKind,
    },
    /// A packet has a length that only messages have.
    #[error("OpenPGP packet without a fixed length at byte {offset}")]
    PartialLength {
        /// Where the packet begins.
        offset: usize,
    },
    /// There are more blocks or packets than anyone needs.
    #[error("too many OpenPGP {what}: expected at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A packet ends behind the last byte.
    #[error("OpenPGP packet cut off: it begins at byte {offset} and ends behind the last one")]
    Truncated {
        /// Where the packet begins.
        offset: usize,
    },
    /// The armour says that it holds something else.
    #[error("expected {expected}, found '{found}'")]
    WrongKind {
        /// What it should be.
        expected: BlockKind,
        /// What the first line of the armour says.
        found: String,
    },
}

/// The packets' bytes of a file, with the armour taken off where there is one; of several armoured blocks one after the
/// other. Text around the blocks is no part of them.
///
/// The checksum at the end of a block is not looked at: it protects nothing, and RFC 9580, 6.1 forbids to rely on it.
///
/// # Errors
/// An [`OpenPgpFormatError`].
pub fn without_armour(bytes: &[u8], expected: BlockKind) -> Result<Vec<u8>, OpenPgpFormatError> {
    /// Where GnuPG's keybox has its magic number.
    const KEYBOX: std::ops::Range<usize> = 8..12;
    match bytes.first() {
        None => return Err(OpenPgpFormatError::Empty { expected }),
        // The first bit of every packet (RFC 9580, 4.2); no text begins with it.
        Some(first) if first & 0x80 != 0 => return Ok(bytes.to_vec()),
        Some(_) if bytes.get(KEYBOX) == Some(b"KBXf") => {
            return Err(OpenPgpFormatError::Keybox { expected });
        }
        Some(_) => (),
    }
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).zip(1..);
    let mut packets = Vec::new();
    let mut blocks = 0_usize;
    while let Some((line, _)) = lines.next() {
        let Some(title) = line.strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----"))
        else {
            continue;
        };
        if title != expected.title().as_bytes() {
            let found = String::from_utf8_lossy(title).escape_debug().take(80).collect();
            return Err(OpenPgpFormatError::WrongKind { expected, found });
        }
        if blocks >= MAXIMUM_BLOCKS {
            return Err(OpenPgpFormatError::TooMany { what: "blocks", limit: MAXIMUM_BLOCKS });
        }
        blocks = blocks.saturating_add(1);
        packets.extend(armoured_block(&mut lines, expected)?);
    }
    if blocks == 0 {
        return Err(OpenPgpFormatError::NotOpenPgp { expected });
    }
    Ok(packets)
}

/// The bytes of a block whose first line was read.
fn armoured_block<'a>(
    lines: &mut impl Iterator<Item = (&'a [u8], usize)>,
    kind: BlockKind,
) -> Result<Vec<u8>, OpenPgpFormatError> {
    let malformed = |line, expected| OpenPgpFormatError::MalformedArmour { line, expected };
    let mut last = 0;
    let mut in_headers = true;
    let mut text: Vec<u8> = Vec::new();
    for (line, number) in lines {
        last = number;
        if let Some(rest) = line.strip_prefix(b"-----") {
            let title = rest.strip_prefix(b"END ").and_then(|rest| rest.strip_suffix(b"-----"));
            if in_headers || title != Some(kind.title().as_bytes()) {
                return Err(malformed(number, "the end of the block"));
            }
            return data_encoding::BASE64.decode(&text).map_err(|_| malformed(number, "base64 above it"));
        }
        if in_headers {
            in_headers = !line.is_empty();
            if in_headers && !line.windows(2).any(|two| two == b": ") && !line.ends_with(b":") {
                return Err(malformed(number, "'Name: value' or an empty line"));
            }
        } else if !line.starts_with(b"=") {
            text.extend_from_slice(line);
        }
    }
    Err(malformed(last, "the end of the block below it"))
}

/// The packets of binary data, to its last byte.
///
/// # Errors
/// An [`OpenPgpFormatError`].
pub fn packets(bytes: &[u8], expected: BlockKind) -> Result<Vec<Packet<'_>>, OpenPgpFormatError> {
    let mut packets = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let offset = bytes.len().saturating_sub(rest.len());
        if packets.len() >= MAXIMUM_PACKETS {
            return Err(OpenPgpFormatError::TooMany { what: "packets", limit: MAXIMUM_PACKETS });
        }
        let (kind, length, behind) = header(rest, offset, expected)?;
        let (body, behind) =
            behind.split_at_checked(length).ok_or(OpenPgpFormatError::Truncated { offset })?;
        packets.push(Packet { kind, body });
        rest = behind;
    }
    if packets.is_empty() {
        return Err(OpenPgpFormatError::Empty { expected });
    }
    Ok(packets)
}

/// Type and length of the packet that begins here, and what follows its header (RFC 9580, 4.2).
fn header(
    bytes: &[u8],
    offset: usize,
    expected: BlockKind,
) -> Result<(u8, usize, &[u8]), OpenPgpFormatError> {
    let truncated = OpenPgpFormatError::Truncated { offset };
    let partial = || OpenPgpFormatError::PartialLength { offset };
    let (first, rest) = bytes.split_first().ok_or_else(|| truncated.clone())?;
    if first & 0x80 == 0 {
        return Err(OpenPgpFormatError::NotOpenPgp { expected });
    }
    let (kind, count) = if first & 0x40 != 0 {
        let (length, rest) = rest.split_first().ok_or_else(|| truncated.clone())?;
        let kind = first & 0x3f;
        match length {
            0..192 => return Ok((kind, usize::from(*length), rest)),
            192..224 => {
                let (second, rest) = rest.split_first().ok_or(truncated)?;
                let length = usize::from(*length).saturating_sub(192).saturating_mul(256);
                return Ok((kind, length.saturating_add(usize::from(*second)).saturating_add(192), rest));
            }
            224..255 => return Err(partial()),
            255 => return long(kind, rest, 4).ok_or(truncated),
        }
    } else {
        let kind = first >> 2 & 0x0f;
        match first & 3 {
            0 => (kind, 1),
            1 => (kind, 2),
            2 => (kind, 4),
            _ => return Err(partial()),
        }
    };
    long(kind, rest, count).ok_or(truncated)
}

/// A length of `count` bytes, the most significant one first.
fn long(kind: u8, bytes: &[u8], count: usize) -> Option<(u8, usize, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(count)?;
    let length = digits.iter().fold(0_u64, |length, digit| length << 8 | u64::from(*digit));
    Some((kind, usize::try_from(length).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: BlockKind = BlockKind::PublicKeys;
    const SIGNATURE: BlockKind = BlockKind::Signature;

    fn armoured(title: &str, inside: &str) -> String {
        format!("-----BEGIN {title}-----\n{inside}-----END {title}-----\n")
    }

    #[test]
    fn armour_is_taken_off_every_block() {
        let one = armoured("PGP SIGNATURE", "Version: x\nComment: a: b\nHash:\n\naGVs\nbG8=\n=abcd\n");
        let two = armoured("PGP SIGNATURE", "\nIQ==\n").replace('\n', " \r\n");
        for (text, expected) in [
            (one.clone(), &b"hello"[..]),
            (two.clone(), b"!"),
            (format!("before\n{one}between\n\n{two}behind"), b"hello!"),
            (two.trim_end().to_owned(), b"!"),
        ] {
            assert_eq!(without_armour(text.as_bytes(), SIGNATURE).unwrap(), expected, "{text:?}");
        }
        assert_eq!(without_armour(b"\x99\x00", KEYS).unwrap(), b"\x99\x00");
    }

    #[test]
    fn armour_of_something_else_is_named() {
        let message = armoured("PGP SIGNED MESSAGE", "Hash: SHA256\n\nx\n");
        assert_eq!(
            without_armour(message.as_bytes(), SIGNATURE).unwrap_err().to_string(),
            "expected a detached OpenPGP signature, found 'PGP SIGNED MESSAGE'"
        );
        let private = armoured("PGP PRIVATE KEY BLOCK", "\naGVs\n");
        assert!(matches!(
            without_armour(private.as_bytes(), KEYS),
            Err(OpenPgpFormatError::WrongKind { expected: KEYS, .. })
        ));
        assert_eq!(without_armour(b"", KEYS), Err(OpenPgpFormatError::Empty { expected: KEYS }));
        assert_eq!(
            without_armour(b"<html>\n", SIGNATURE),
            Err(OpenPgpFormatError::NotOpenPgp { expected: SIGNATURE })
        );
        assert_eq!(
            without_armour(b"\0\0\0\x20\x01\x01\0\x02KBXf\0\0", KEYS),
            Err(OpenPgpFormatError::Keybox { expected: KEYS })
        );
    }

    #[test]
    fn broken_armour_is_refused_with_its_line() {
        for (inside, line) in [
            ("\naGV\n", 4),
            ("\na GVs\n", 4),
            ("no header\n\naGVs\n", 2),
            ("", 2),
            ("\naGVs\n-----BEGIN PGP SIGNATURE-----\n", 4),
            ("\naGVs\n-----END PGP MESSAGE-----\n", 4),
        ] {
            match without_armour(armoured("PGP SIGNATURE", inside).as_bytes(), SIGNATURE) {
                Err(OpenPgpFormatError::MalformedArmour { line: found, .. }) => {
                    assert_eq!(found, line, "{inside:?}");
                }
                other => panic!("{inside:?}: {other:?}"),
            }
        }
        assert!(matches!(
            without_armour(b"-----BEGIN PGP SIGNATURE-----\n\naGVs\n", SIGNATURE),
            Err(OpenPgpFormatError::MalformedArmour { line: 4, .. })
        ));
        let many = armoured("PGP SIGNATURE", "\nIQ==\n").repeat(MAXIMUM_BLOCKS + 1);
        assert!(matches!(
            without_armour(many.as_bytes(), SIGNATURE),
            Err(OpenPgpFormatError::TooMany { limit: MAXIMUM_BLOCKS, .. })
        ));
    }

    #[test]
    fn packets_end_where_their_headers_say() {
        let body = vec![7; 70_000];
        let heads: [(&[u8], usize, u8); 8] = [
            (&[0xc2, 0], 0, 2),
            (&[0xc2, 191], 191, 2),
            (&[0xce, 192, 0], 192, 14),
            (&[0xce, 223, 255], 8383, 14),
            (&[0xe8, 255, 0, 1, 0x11, 0x70], 70_000, 40),
            (&[0x88, 3], 3, 2),
            (&[0x99, 1, 2], 258, 6),
            (&[0x9a, 0, 1, 0, 1], 65_537, 6),
        ];
        for (head, length, kind) in heads {
            let bytes = [head, &body[..length], &[0xca, 1, b'x']].concat();
            let found = packets(&bytes, KEYS).unwrap();
            assert_eq!(found[0], Packet { kind, body: &body[..length] });
            assert_eq!(found[1], Packet { kind: 10, body: b"x" });
            for end in [head.len() - 1, head.len() + length - 1] {
                if end == 0 || (length == 0 && end == head.len() - 1) {
                    continue;
                }
                let error = packets(&bytes[..end], KEYS).unwrap_err();
                assert_eq!(error, OpenPgpFormatError::Truncated { offset: 0 }, "{head:?} {end}");
            }
        }
    }

    #[test]
    fn what_is_no_sequence_of_packets_is_refused() {
        for head in [&[0xc2, 224, 0][..], &[0xc2, 254], &[0x8b, 0]] {
            assert_eq!(packets(head, SIGNATURE), Err(OpenPgpFormatError::PartialLength { offset: 0 }));
        }
        assert_eq!(
            packets(&[0xc2, 0, 0x42, 0], SIGNATURE),
            Err(OpenPgpFormatError::NotOpenPgp { expected: SIGNATURE })
        );
        assert_eq!(packets(&[], SIGNATURE), Err(OpenPgpFormatError::Empty { expected: SIGNATURE }));
        let many = [0xca, 0].repeat(MAXIMUM_PACKETS + 1);
        assert!(matches!(packets(&many, SIGNATURE), Err(OpenPgpFormatError::TooMany { .. })));
    }
}
