//! The compressed bytes, with a look ahead.

use std::io::{self, BufRead};

use crate::format::compression::BEGINNING;

/// Bytes of which the next [`BEGINNING`] can be looked at, however small the pieces are in which they come.
#[derive(Debug)]
pub struct Input<R> {
    inner: R,
    /// Bytes that were taken from `inner` to look at them.
    ahead: Vec<u8>,
    position: usize,
    consumed: u64,
}

impl<R: BufRead> Input<R> {
    /// All bytes of `inner`.
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, ahead: Vec::new(), position: 0, consumed: 0 }
    }

    /// How many bytes were consumed.
    pub(super) const fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The next bytes without consuming them: [`BEGINNING`] of them, fewer only before the end.
    pub(super) fn peek(&mut self) -> io::Result<&[u8]> {
        self.ahead.drain(..self.position);
        self.position = 0;
        while let Some(missing) = BEGINNING.checked_sub(self.ahead.len()).filter(|missing| *missing > 0) {
            let bytes = fill(&mut self.inner)?;
            let taken = bytes.get(..missing).unwrap_or(bytes);
            let count = taken.len();
            if count == 0 {
                break;
            }
            self.ahead.extend_from_slice(taken);
            self.inner.consume(count);
        }
        Ok(&self.ahead)
    }
}

impl<R: BufRead> BufRead for Input<R> {
    /// At least one byte; none at the end.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.ahead.get(self.position..) {
            Some(ahead) if !ahead.is_empty() => Ok(ahead),
            _ => fill(&mut self.inner),
        }
    }

    /// At most as many as [`Self::fill_buf`] gave.
    fn consume(&mut self, count: usize) {
        if self.position < self.ahead.len() {
            self.position = self.position.saturating_add(count);
        } else {
            self.inner.consume(count);
        }
        self.consumed = self.consumed.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

impl<R: BufRead> io::Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Waits through what only interrupted the wait.
fn fill<R: BufRead>(inner: &mut R) -> io::Result<&[u8]> {
    loop {
        match inner.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    // What is there is there still: a second call, because the borrow checker does not let the first one's result out of
    // the loop.
    inner.fill_buf()
}
