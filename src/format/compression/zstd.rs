//! The header of a Zstandard frame (RFC 8878, 3.1.1.1).

use super::{Member, MemberFault};

/// The first bytes of a frame.
pub const MAGIC: [u8; 4] = *b"\x28\xb5\x2f\xfd";

/// The largest window that is allowed, as a power of two: what `zstd -d` allows by itself. `zstd --ultra -22` stays
/// within it.
pub const WINDOW_LOG_MAXIMUM: u32 = 27;

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// How many bytes of the past its decoder must hold.
    pub window: u64,
    /// The dictionary that it needs; 0 for none.
    pub dictionary: u32,
    /// How many bytes it holds, where it says so.
    pub content: Option<u64>,
    /// Whether a bit is set that has no meaning yet.
    pub reserved: bool,
}

impl FrameHeader {
    /// Reads the header of the frame that begins here; `None` where there is none, or not all of it.
    #[must_use]
    pub fn parse(beginning: &[u8]) -> Option<Self> {
        let (descriptor, rest) = beginning.strip_prefix(&MAGIC)?.split_first()?;
        let single_segment = descriptor & 0x20 != 0;
        let (window, rest) = if single_segment {
            (None, rest)
        } else {
            let (descriptor, rest) = rest.split_first()?;
            let base = 1_u64.checked_shl(u32::from(descriptor >> 3).checked_add(10)?)?;
            let window = base.checked_add((base / 8).checked_mul(u64::from(descriptor & 7))?)?;
            (Some(window), rest)
        };
        let dictionary_length = match descriptor & 3 {
            3 => 4,
            length => usize::from(length),
        };
        let (dictionary, rest) = rest.split_at_checked(dictionary_length)?;
        let content = match (descriptor >> 6, single_segment) {
            (0, false) => None,
            (0, true) => Some(little_endian(rest.get(..1)?)),
            (1, _) => Some(little_endian(rest.get(..2)?).checked_add(256)?),
            (2, _) => Some(little_endian(rest.get(..4)?)),
            _ => Some(little_endian(rest.get(..8)?)),
        };
        Some(Self {
            window: window.or(content)?,
            dictionary: u32::try_from(little_endian(dictionary)).ok()?,
            content,
            reserved: descriptor & 0x08 != 0,
        })
    }

    /// Whether a decoder of ours may read the frame.
    ///
    /// # Errors
    /// [`MemberFault`].
    pub fn examine(self) -> Result<Member, MemberFault> {
        let limit = 1_u64 << WINDOW_LOG_MAXIMUM;
        if self.reserved {
            return Err(MemberFault::Undefined { what: "a reserved bit", expected: "0", found: 1 });
        }
        if self.dictionary != 0 {
            return Err(MemberFault::Dictionary { identifier: self.dictionary });
        }
        if self.window > limit {
            return Err(MemberFault::Window { found: self.window, limit });
        }
        Ok(Member::Begins { content: self.content })
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
