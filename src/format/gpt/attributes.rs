//! The attribute bits of a table entry.

use std::fmt;

/// The attributes of a partition (UEFI 2.10, table 5.8; bits 59 to 63 by the Discoverable Partitions Specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Attributes(u64);

impl Attributes {
    const REQUIRED: u64 = 1;
    const NO_BLOCK_IO: u64 = 1 << 1;
    const LEGACY_BIOS: u64 = 1 << 2;
    const GROWFS: u64 = 1 << 59;
    const READ_ONLY: u64 = 1 << 60;
    const NO_AUTO: u64 = 1 << 63;
    const KNOWN: u64 = Self::REQUIRED
        | Self::NO_BLOCK_IO
        | Self::LEGACY_BIOS
        | Self::GROWFS
        | Self::READ_ONLY
        | Self::NO_AUTO;

    /// The attributes with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// All bits, known or not.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Bit 0: the platform needs the partition to function.
    #[must_use]
    pub const fn required(self) -> bool {
        self.0 & Self::REQUIRED != 0
    }

    /// Bit 1: the firmware is to make no block I/O protocol for the partition.
    #[must_use]
    pub const fn no_block_io(self) -> bool {
        self.0 & Self::NO_BLOCK_IO != 0
    }

    /// Bit 2: a BIOS may boot from the partition.
    #[must_use]
    pub const fn legacy_bios(self) -> bool {
        self.0 & Self::LEGACY_BIOS != 0
    }

    /// Bit 59: the file system is to be grown to the size of the partition.
    #[must_use]
    pub const fn growfs(self) -> bool {
        self.0 & Self::GROWFS != 0
    }

    /// Bit 60: the partition is to be used read-only.
    #[must_use]
    pub const fn read_only(self) -> bool {
        self.0 & Self::READ_ONLY != 0
    }

    /// Bit 63: the partition is not to be used automatically.
    #[must_use]
    pub const fn no_auto(self) -> bool {
        self.0 & Self::NO_AUTO != 0
    }

    /// The bits that none of the other methods speaks of.
    #[must_use]
    pub const fn unknown_bits(self) -> u64 {
        self.0 & !Self::KNOWN
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_its_own_bit() {
        type Question = fn(Attributes) -> bool;
        let questions: [(u32, Question); 6] = [
            (0, Attributes::required),
            (1, Attributes::no_block_io),
            (2, Attributes::legacy_bios),
            (59, Attributes::growfs),
            (60, Attributes::read_only),
            (63, Attributes::no_auto),
        ];
        for bit in 0..64 {
            let attributes = Attributes::from_bits(1 << bit);
            for (asked, question) in questions {
                assert_eq!(question(attributes), asked == bit, "bit {bit} asked for bit {asked}");
            }
            let known = questions.iter().any(|(asked, _)| *asked == bit);
            assert_eq!(attributes.unknown_bits() == 0, known, "bit {bit}");
        }
    }
}
