//! Names and UUIDs of device-mapper devices, in the form that dmsetup, cryptsetup and veritysetup know.

use std::fmt;

use super::guid::Guid;
use super::loop_reference::LoopReference;

/// The name of a device-mapper device: 1 to 82 bytes of letters, digits, `#+-.:=@_` and `\`.
///
/// The kernel takes 127 bytes (`DM_NAME_LEN`, linux/dm-ioctl.h), but the name is part of the UUID as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapperName(String);

/// The device would have no name that the kernel takes whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a device-mapper name of at most {} bytes, found {length}: '{found}'", MapperName::MAX)]
pub struct MapperNameError {
    /// The name in full.
    pub found: String,
    /// How long it is, in bytes.
    pub length: usize,
}

impl MapperName {
    /// The longest name, in bytes: a UUID has 128 of them (`DM_UUID_LEN` with its NUL), and `CRYPT-VERITY-`, 32 digits
    /// and a hyphen come first.
    pub const MAX: usize = 82;

    /// The name of the device that stands for a part of an image. Every byte that is not a letter, a digit or one of
    /// `#+-.:=@_` becomes `\x` and two digits, as libdevmapper does by default; unlike in a link, the bytes of
    /// characters outside ASCII, too.
    ///
    /// # Errors
    /// [`MapperNameError`] where the name is too long then.
    pub fn of(reference: &LoopReference) -> Result<Self, MapperNameError> {
        let mut name = String::with_capacity(reference.as_str().len());
        for byte in reference.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte) {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("\\x{byte:02x}"));
            }
        }
        if name.len() > Self::MAX {
            return Err(MapperNameError { length: name.len(), found: name });
        }
        Ok(Self(name))
    }

    /// The name as the kernel has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UUID of a dm-verity device of this name: `CRYPT-VERITY-`, the UUID of the superblock without hyphens, and
    /// the name. By the first part veritysetup knows the device for one of its kind.
    #[must_use]
    pub fn verity_uuid(&self, superblock: Guid) -> String {
        format!("CRYPT-VERITY-{}-{}", superblock.to_string().replace('-', ""), self.0)
    }
}

impl fmt::Display for MapperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<MapperName, MapperNameError> {
        MapperName::of(&LoopReference::observed(text.as_bytes()).unwrap())
    }

    #[test]
    fn every_byte_that_libdevmapper_mangles_is_mangled() {
        for (reference, expected) in [
            ("image.raw-root", "image.raw-root"),
            ("a b-usr", "a\\x20b-usr"),
            ("a\\b", "a\\x5cb"),
            ("#+-.:=@_", "#+-.:=@_"),
            ("gr\u{fc}n", "gr\\xc3\\xbcn"),
        ] {
            assert_eq!(name(reference).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn a_name_whose_uuid_would_be_cut_off_is_refused() {
        let longest = format!("{}{}", "\u{fc}".repeat(10), "x".repeat(2));
        assert_eq!(name(&longest).unwrap().as_str().len(), MapperName::MAX);
        let uuid = name(&longest).unwrap().verity_uuid(Guid::from_bytes([0xab; 16]));
        assert_eq!(uuid.len(), 128);
        let error = name(&format!("{longest}x")).unwrap_err();
        assert_eq!(error.length, 83);
    }

    #[test]
    fn the_uuid_is_veritysetups() {
        let guid: Guid = "6d2d3c10-7a52-4f0c-9d3b-0e5f1c2a3b4c".parse().unwrap();
        assert_eq!(
            name("image.raw-root").unwrap().verity_uuid(guid),
            "CRYPT-VERITY-6d2d3c107a524f0c9d3b0e5f1c2a3b4c-image.raw-root"
        );
    }
}
