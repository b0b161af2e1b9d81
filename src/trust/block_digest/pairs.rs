//! SHA-256 of two salted blocks at a time.
//!
//! A round of SHA-256 waits for the one before it, so the instructions for SHA leave a core half idle. Here the two blocks
//! take turns, 64 bytes each: what is computed for one does not depend on the other, the core sees both ahead and works
//! on them at once. That is 1.3 to 1.4 times as fast (AMD Zen 4), and needs no instruction that `sha2` does not use anyway.

use std::slice;

use sha2::block_api::compress256;

/// What the compression function takes at once, in bytes.
pub(super) const CHUNK: usize = 64;

/// The length of the length at the end of a message, in bytes.
const LENGTH: usize = 8;

/// The initial state (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

type Chunk = [u8; CHUNK];

/// The salt, as far as it can be hashed without a block behind it.
#[derive(Clone)]
pub(super) struct SaltedPairs {
    state: [u32; 8],
    /// The bytes of the salt that do not fill a chunk.
    rest: Vec<u8>,
    /// The length of the salt in bytes.
    length: usize,
}

impl SaltedPairs {
    pub(super) fn new(salt: &[u8]) -> Self {
        let (chunks, rest) = salt.as_chunks();
        let mut state = INITIAL;
        compress256(&mut state, chunks);
        Self { state, rest: rest.to_vec(), length: salt.len() }
    }

    /// Appends the digests of the salt and `one`, and of the salt and `other`. They are equally long, and not shorter than
    /// [`CHUNK`].
    pub(super) fn append_digests(&self, one: &[u8], other: &[u8], digests: &mut Vec<u8>) {
        let mut states = [self.state; 2];
        let [one_state, other_state] = &mut states;
        let (one, other) = (self.message(one), self.message(other));
        for (one, other) in one.parts().into_iter().zip(other.parts()) {
            for (one, other) in one.iter().zip(other) {
                compress256(one_state, slice::from_ref(one));
                compress256(other_state, slice::from_ref(other));
            }
        }
        for word in states.as_flattened() {
            digests.extend_from_slice(&word.to_be_bytes());
        }
    }

    /// What is to be hashed after the whole chunks of the salt.
    fn message<'a>(&self, block: &'a [u8]) -> Message<'a> {
        let missing = if self.rest.is_empty() { 0 } else { CHUNK - self.rest.len() };
        let (first, behind) = block.split_at_checked(missing).unwrap_or((block, &[]));
        let mut head = [0; CHUNK];
        head.iter_mut().zip(self.rest.iter().chain(first)).for_each(|(to, from)| *to = *from);
        let (body, last) = behind.as_chunks();
        // Padding: a one, zeros, and the length of all in bits as the last 8 bytes of a chunk (FIPS 180-4, 5.1.1).
        let mut tail = [[0; CHUNK]; 2];
        tail.as_flattened_mut().iter_mut().zip(last.iter().chain(&[0x80])).for_each(|(to, from)| *to = *from);
        let tail_chunks = (last.len() + 1 + LENGTH).div_ceil(CHUNK);
        let bits = u64::try_from(self.length + block.len()).unwrap_or(u64::MAX).saturating_mul(8);
        let end = tail.as_flattened_mut().iter_mut().take(tail_chunks * CHUNK).rev();
        end.zip(bits.to_le_bytes()).for_each(|(to, from)| *to = from);
        Message { head: (!self.rest.is_empty()).then_some(head), body, tail, tail_chunks }
    }
}

/// A padded message in whole chunks, without those that the salt fills.
struct Message<'a> {
    /// The rest of the salt, and the beginning of the block.
    head: Option<Chunk>,
    body: &'a [Chunk],
    /// The end of the block, and the padding.
    tail: [Chunk; 2],
    tail_chunks: usize,
}

impl Message<'_> {
    fn parts(&self) -> [&[Chunk]; 3] {
        [self.head.as_slice(), self.body, self.tail.get(..self.tail_chunks).unwrap_or(&self.tail)]
    }
}
