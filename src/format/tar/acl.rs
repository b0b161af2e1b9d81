//! Access control lists: as text in extended headers (acl(5)), as the kernel takes them in an extended attribute
//! (`linux/posix_acl_xattr.h`).

use super::TarError;
use super::path::shown;

/// The attribute that holds who may do what with a file.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// The attribute that holds what a new file in a directory gets.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// `ACL_UNDEFINED_ID`.
const NOBODY: u32 = u32::MAX;

/// Converts a list. Only the numbers of users and groups count: the names are those of another machine. Readers that do
/// not know a user by number leave the entry out, and with it what it forbids.
///
/// # Errors
/// [`TarError::AclEntry`].
pub(super) fn to_attribute(text: &[u8]) -> Result<Vec<u8>, TarError> {
    let mut entries = Vec::new();
    for entry in text.split(|byte| matches!(byte, b',' | b'\n')) {
        let entry = entry.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if !entry.is_empty() {
            entries.push(parse(entry).ok_or_else(|| TarError::AclEntry { entry: shown(entry) })?);
        }
    }
    // The kernel takes them in this order alone.
    entries.sort_unstable();
    let mut attribute = VERSION.to_le_bytes().to_vec();
    for (tag, identifier, permissions) in entries {
        attribute.extend_from_slice(&tag.to_le_bytes());
        attribute.extend_from_slice(&permissions.to_le_bytes());
        attribute.extend_from_slice(&identifier.to_le_bytes());
    }
    Ok(attribute)
}

/// Reads `TAG:WHO:PERMISSIONS`, behind which star and libarchive put a number where `WHO` is a name.
fn parse(entry: &[u8]) -> Option<(u16, u32, u16)> {
    let text = std::str::from_utf8(entry).ok()?;
    let text = text.strip_prefix("default:").or_else(|| text.strip_prefix("d:")).unwrap_or(text);
    let mut fields = text.split(':').map(str::trim);
    let (tag, who, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    let number = fields.next();
    if fields.next().is_some() {
        return None;
    }
    let tag = match (tag, who.is_empty()) {
        ("user" | "u", true) => 0x01,
        ("user" | "u", false) => 0x02,
        ("group" | "g", true) => 0x04,
        ("group" | "g", false) => 0x08,
        ("mask" | "m", true) => 0x10,
        ("other" | "o", true) => 0x20,
        _ => return None,
    };
    let identifier = match (who, number) {
        ("", _) => NOBODY,
        (_, Some(number)) => number.parse().ok()?,
        ("root", None) => 0,
        (number, None) => number.parse().ok()?,
    };
    if identifier == NOBODY && !who.is_empty() {
        return None;
    }
    let mut bits = 0;
    for permission in permissions.chars() {
        bits |= match permission {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    (!permissions.is_empty()).then_some((tag, identifier, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_setfacl_makes_of_it() {
        // The value of system.posix_acl_access after 'setfacl -m u:1000:rwx,g:7:r-x' on a file of mode 0640.
        let expected: Vec<u8> = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 7, 0, 232, 3, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[8, 0, 5, 0, 7, 0, 0, 0],
            &[16, 0, 7, 0, 255, 255, 255, 255],
            &[32, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        for text in [
            "user::rw-,user:1000:rwx,group::r--,group:7:r-x,mask::rwx,other::---",
            "user::rw-\nuser:lisa:rwx:1000\ngroup::r--\ngroup:7:r-x\t#effective:r-x\nmask::rwx\nother::---\n",
            "o::---,m::rwx,g:7:r-x,g::r--,u:1000:rwx,u::rw-",
        ] {
            assert_eq!(to_attribute(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn whoever_has_no_number_is_refused() {
        for text in [
            "user:lisa:rwx",
            "user::rwz",
            "user:",
            "other:7:rwx",
            "user:4294967295:r--",
            "nobody::r--",
            "user::",
        ] {
            assert!(matches!(to_attribute(text.as_bytes()), Err(TarError::AclEntry { .. })), "{text}");
        }
    }
}
