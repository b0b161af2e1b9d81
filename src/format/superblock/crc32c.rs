//! CRC-32C (Castagnoli), which ext4, EROFS and XFS put into their superblocks.

/// The reflected polynomial (RFC 3720, appendix B.4).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The register after `bytes`, begun with `register`, without the final inversion.
pub(super) fn update(register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            (register >> 1) ^ (POLYNOMIAL & (register & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(!super::update(!0, b"123456789"), 0xe306_9283);
    }
}
