//! The header of an LZ4 frame (LZ4 Frame Format 1.6.4).

use super::{Member, MemberFault};

/// The first bytes of a frame.
pub const MAGIC: [u8; 4] = *b"\x04\x22\x4d\x18";
/// The first bytes of a frame as they were before there was a frame format.
pub const LEGACY_MAGIC: [u8; 4] = *b"\x02\x21\x4c\x18";
/// The longest header, in bytes.
pub const HEADER_MAXIMUM: usize = 19;
/// How far back a block may refer to the blocks before it, in bytes.
pub const WINDOW: usize = 64 * 1024;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// How long it is, with the magic and its checksum, in bytes.
    pub length: usize,
    /// Whether blocks refer to what was in the blocks before them.
    pub linked: bool,
    /// Whether a checksum follows each block.
    pub block_checksums: bool,
    /// Whether a checksum of the content follows the last block.
    pub content_checksum: bool,
    /// How many bytes the frame holds, where it says so.
    pub content: Option<u64>,
    /// The dictionary that it needs, if any.
    pub dictionary: Option<u32>,
    /// The most bytes that a block holds.
    pub block_maximum: usize,
    /// The second byte of the checksum over [`Self::checked`], as it stands at the end of the header.
    pub checksum: u8,
}

impl FrameHeader {
    /// Reads the header of the frame that begins here; `None` where there is none, or not all of it.
    ///
    /// # Errors
    /// [`MemberFault::Undefined`] where something in it has no meaning yet.
    pub fn parse(beginning: &[u8]) -> Result<Option<Self>, MemberFault> {
        let Some(&[flags, descriptor]) =
            beginning.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk::<2>())
        else {
            return Ok(None);
        };
        let undefined = |what, expected, found| Err(MemberFault::Undefined { what, expected, found });
        if flags >> 6 != 1 {
            return undefined("version", "1", flags >> 6);
        }
        if flags & 0x02 != 0 || descriptor & 0x8f != 0 {
            return undefined("reserved bits", "0", flags & 0x02 | descriptor & 0x8f);
        }
        let block_maximum = match descriptor >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            found => return undefined("block size", "4 to 7", found),
        };
        let Some(mut rest) = beginning.get(6..) else { return Ok(None) };
        let mut field = |present: bool, length: usize| -> Option<Option<u64>> {
            if !present {
                return Some(None);
            }
            let (field, behind) = rest.split_at_checked(length)?;
            rest = behind;
            Some(Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))))
        };
        let fields = (field(flags & 0x08 != 0, 8), field(flags & 0x01 != 0, 4), field(true, 1));
        let (Some(content), Some(dictionary), Some(Some(checksum))) = fields else { return Ok(None) };
        Ok(Some(Self {
            length: beginning.len().saturating_sub(rest.len()),
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_checksum: flags & 0x04 != 0,
            content,
            dictionary: dictionary.and_then(|number| u32::try_from(number).ok()),
            block_maximum,
            checksum: u8::try_from(checksum).unwrap_or_default(),
        }))
    }

    /// The part of the header that its checksum covers.
    #[must_use]
    pub fn checked<'a>(&self, beginning: &'a [u8]) -> &'a [u8] {
        beginning.get(MAGIC.len()..self.length.saturating_sub(1)).unwrap_or_default()
    }
}

/// Whether a decoder of ours may read the frame.
///
/// # Errors
/// [`MemberFault`].
pub fn examine(beginning: &[u8]) -> Result<Member, MemberFault> {
    if beginning.starts_with(&LEGACY_MAGIC) {
        return Err(MemberFault::Legacy);
    }
    let Some(header) = FrameHeader::parse(beginning)? else {
        // Cut short: whoever reads on sees the end of the file.
        return Ok(Member::Begins { content: None });
    };
    match header.dictionary {
        Some(identifier) => Err(MemberFault::Dictionary { identifier }),
        None => Ok(Member::Begins { content: header.content }),
    }
}
