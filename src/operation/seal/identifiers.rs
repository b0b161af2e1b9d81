//! Identifiers and salt that two runs have in common, or that no two runs have.

use std::fs::File;
use std::io::Read;

use sha2::{Digest, Sha256};

use crate::format::guid::Guid;

use crate::operation::error::OperationError;

/// What every identifier of an image is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(Guid);

impl Seed {
    /// The seed of a build that is to be reproducible and names no seed of its own.
    pub const FIXED: Self = Self(Guid::ZERO);

    /// This very seed.
    #[must_use]
    pub const fn new(guid: Guid) -> Self {
        Self(guid)
    }

    /// A seed that was never used.
    ///
    /// # Errors
    /// [`OperationError::System`] where the system has no random bytes.
    pub fn random() -> Result<Self, OperationError> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut bytes))
            .map_err(|source| OperationError::system("reading", "/dev/urandom", source))?;
        Ok(Self(Guid::from_bytes(bytes)))
    }

    /// 32 bytes for `purpose`.
    #[must_use]
    pub fn bytes(self, purpose: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.0.as_bytes()).chain_update(purpose.as_bytes()).finalize().into()
    }

    /// A GUID for `purpose`, marked as one without meaning (RFC 9562, version 4).
    #[must_use]
    pub fn guid(self, purpose: &str) -> Guid {
        let digest = self.bytes(purpose);
        let mut bytes: [u8; 16] = digest.first_chunk().copied().unwrap_or_default();
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Guid::from_bytes(bytes)
    }

    /// A number for `purpose`.
    #[must_use]
    pub fn number(self, purpose: &str) -> u32 {
        u32::from_le_bytes(self.bytes(purpose).first_chunk().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_identifiers_again_and_others_for_other_purposes() {
        let seed = Seed::new(Guid::from_bytes([7; 16]));
        assert_eq!(seed.guid("disk"), seed.guid("disk"));
        assert_ne!(seed.guid("disk"), seed.guid("esp"));
        assert_ne!(seed.guid("disk"), Seed::FIXED.guid("disk"));
        assert_eq!(seed.guid("disk").to_string().as_bytes()[14], b'4');
    }
}
