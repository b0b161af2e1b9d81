//! GUIDs and the identifiers that are made of them.

use std::fmt;
use std::str::FromStr;

/// A 128-bit identifier, kept in the order of its text (RFC 9562).
///
/// A GUID partition table stores the first three fields little-endian (UEFI 2.10, appendix A): use
/// [`Guid::from_disk`] and [`Guid::to_disk`] there. The pairing of data and hash partitions with a root hash goes by
/// the order of the text: use [`Guid::from_bytes`] and [`Guid::as_bytes`] there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Guid([u8; 16]);

impl Guid {
    /// All zero: 'unused' wherever a table has a GUID.
    pub const ZERO: Self = Self([0; 16]);

    /// The GUID whose text has these bytes, in that order.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes in the order of the text.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The GUID that a partition table stores as these bytes.
    #[must_use]
    pub const fn from_disk(disk: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = disk;
        let [i, j, k, l, m, n, o, p] = rest;
        Self([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
    }

    /// The bytes as a partition table stores them.
    #[must_use]
    pub const fn to_disk(self) -> [u8; 16] {
        // Swapping the three fields twice gives the original.
        Self::from_disk(self.0).0
    }

    /// Whether every bit is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a GUID: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a GUID: expected 32 hexadecimal digits in groups of 8-4-4-4-12")]
pub struct ParseGuidError;

impl FromStr for Guid {
    type Err = ParseGuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 36 || !text.is_ascii() {
            return Err(ParseGuidError);
        }
        let mut digits = Vec::with_capacity(32);
        for (index, byte) in text.bytes().enumerate() {
            match (index, byte) {
                (8 | 13 | 18 | 23, b'-') => {}
                (8 | 13 | 18 | 23, _) => return Err(ParseGuidError),
                _ => digits.push(byte.to_ascii_lowercase()),
            }
        }
        let bytes = data_encoding::HEXLOWER.decode(&digits).map_err(|_| ParseGuidError)?;
        bytes.try_into().map(Self).map_err(|_| ParseGuidError)
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Guid);

        impl $name {
            /// This GUID in this role.
            #[must_use]
            pub const fn new(guid: Guid) -> Self {
                Self(guid)
            }

            /// The GUID itself.
            #[must_use]
            pub const fn guid(self) -> Guid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

identifier! {
    /// Which disk this is: the 'Disk GUID' of a table header.
    DiskUuid
}
identifier! {
    /// Which partition this is: 'UniquePartitionGUID' of a table entry.
    PartitionUuid
}
identifier! {
    /// What kind of partition this is: 'PartitionTypeGUID' of a table entry.
    PartitionTypeUuid
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

    #[test]
    fn the_disk_order_is_mixed_endian() {
        let guid: Guid = ESP.parse().unwrap();
        let disk =
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(guid.to_disk(), disk);
        assert_eq!(Guid::from_disk(disk), guid);
        assert_eq!(guid.to_string(), ESP);
    }

    #[test]
    fn text_that_is_not_quite_a_guid_is_refused() {
        for text in [
            "",
            "c12a7328f81f11d2ba4b00a0c93ec93b",
            &ESP[1..],
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93g",
            "c12a7328-f81f-11d2-ba4b000a0c93ec93b",
        ] {
            assert_eq!(text.parse::<Guid>(), Err(ParseGuidError), "{text}");
        }
        assert!(ESP.to_uppercase().parse::<Guid>().is_ok());
    }
}
