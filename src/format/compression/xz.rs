//! The header of an xz stream (The .xz File Format 1.2.1, 2.1.1).

use super::{Member, MemberFault};

/// The first bytes of a stream.
pub const MAGIC: [u8; 6] = *b"\xfd7zXZ\0";

/// Looks at the two bytes of flags. liblzma skips checks that it does not know, and would then vouch for data that
/// nobody compared.
///
/// # Errors
/// [`MemberFault::Undefined`] where the flags are from a later version, or name a check that is not defined.
pub fn examine(beginning: &[u8]) -> Result<Member, MemberFault> {
    let Some(&[reserved, check]) = beginning.get(MAGIC.len()..).and_then(|flags| flags.first_chunk::<2>())
    else {
        return Ok(Member::Begins { content: None });
    };
    if reserved != 0 || check & 0xf0 != 0 {
        let found = if reserved == 0 { check } else { reserved };
        return Err(MemberFault::Undefined { what: "reserved stream flags", expected: "0", found });
    }
    match check {
        // None, CRC32, CRC64, SHA-256.
        0 | 1 | 4 | 10 => Ok(Member::Begins { content: None }),
        found => Err(MemberFault::Undefined { what: "integrity check", expected: "0, 1, 4 or 10", found }),
    }
}
