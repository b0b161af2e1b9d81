//! The superblock of dm-integrity (`struct superblock` in the kernel's `drivers/md/dm-integrity.c`), which stands where
//! the data of an authenticated volume begins.

/// What the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegritySuperblock {
    /// The length in bytes of the tag of every block.
    pub tag_size: u32,
    /// The size of a block in bytes.
    pub block_size: u32,
    /// How much data there is, in sectors of 512 bytes.
    pub sectors: u64,
}

/// There is no superblock of dm-integrity, or none that is used with dm-crypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntegrityError {
    /// Something else is there.
    #[error("expected a superblock of dm-integrity, found something else")]
    Magic,
    /// It uses what dm-crypt has no use for, or what is not known.
    #[error(
        "expected a superblock of dm-integrity of version 1 to 5 without flags but for the padding, found version {version} with flags {flags:#x}"
    )]
    Unsupported {
        /// The version.
        version: u8,
        /// The flags.
        flags: u32,
    },
    /// Its numbers make no device.
    #[error(
        "expected a superblock of dm-integrity with blocks of 512 to 4096 bytes and some data, found another"
    )]
    Size,
}

impl IntegritySuperblock {
    /// How much of it is read, in bytes.
    pub const SIZE: usize = 64;
    /// `SB_FLAG_FIXED_PADDING`.
    const FIXED_PADDING: u32 = 8;

    /// Reads the superblock.
    ///
    /// # Errors
    /// An [`IntegrityError`].
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Result<Self, IntegrityError> {
        let [
            b'i',
            b'n',
            b't',
            b'e',
            b'g',
            b'r',
            b't',
            0,
            version,
            _,
            t0,
            t1,
            _,
            _,
            _,
            _,
            p0,
            p1,
            p2,
            p3,
            p4,
            p5,
            p6,
            p7,
            f0,
            f1,
            f2,
            f3,
            log2,
            ..,
        ] = *bytes
        else {
            return Err(IntegrityError::Magic);
        };
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if !(1..=5).contains(&version) || flags & !Self::FIXED_PADDING != 0 {
            return Err(IntegrityError::Unsupported { version, flags });
        }
        let sectors = u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]);
        let unit =
            1_u64.checked_shl(u32::from(log2)).filter(|unit| *unit <= 8).ok_or(IntegrityError::Size)?;
        if sectors == 0 || !sectors.is_multiple_of(unit) {
            return Err(IntegrityError::Size);
        }
        Ok(Self {
            tag_size: u32::from(u16::from_le_bytes([t0, t1])),
            block_size: 512_u32.checked_shl(u32::from(log2)).ok_or(IntegrityError::Size)?,
            sectors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The superblock that cryptsetup 2.6 made for `--integrity hmac-sha256`.
    fn real() -> [u8; IntegritySuperblock::SIZE] {
        let mut bytes = [0; IntegritySuperblock::SIZE];
        let hex = "696e746567727400040f200002000000e8fb00000000000008000000030c0000";
        let real = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        bytes[..real.len()].copy_from_slice(&real);
        bytes
    }

    #[test]
    fn a_superblock_tells_tag_block_and_length() {
        let superblock = IntegritySuperblock::parse(&real()).unwrap();
        assert_eq!(superblock, IntegritySuperblock { tag_size: 32, block_size: 4096, sectors: 64488 });
    }

    #[test]
    fn what_dm_crypt_has_no_use_for_is_refused_by_name() {
        let changed = |at: usize, byte: u8| {
            let mut bytes = real();
            bytes[at] = byte;
            IntegritySuperblock::parse(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, b'x'), IntegrityError::Magic);
        assert_eq!(changed(8, 0), IntegrityError::Unsupported { version: 0, flags: 8 });
        assert_eq!(changed(8, 6), IntegrityError::Unsupported { version: 6, flags: 8 });
        assert_eq!(changed(24, 9), IntegrityError::Unsupported { version: 4, flags: 9 });
        assert_eq!(changed(28, 4), IntegrityError::Size);
        assert_eq!(changed(28, 255), IntegrityError::Size);
        assert_eq!(changed(16, 0xe9), IntegrityError::Size);
    }
}
