//! Writing with holes where there are only zeros.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use crate::format::units::ByteLength;

/// Runs of zeros shorter than this are written as they are.
const HOLE: usize = 4096;

/// Writes what is not zero; the rest of a fresh file reads as zeros anyway. How much was written.
pub(super) fn write_sparse(file: &fs::File, chunk: &[u8], offset: u64) -> io::Result<ByteLength> {
    let mut position = offset;
    let mut written = 0_u64;
    let mut rest = chunk;
    while let Some((run, behind)) = split_run(rest) {
        if !is_zero(run) {
            file.write_all_at(run, position)?;
            written = written.saturating_add(ByteLength::of(run).bytes());
        }
        position = position.saturating_add(ByteLength::of(run).bytes());
        rest = behind;
    }
    Ok(ByteLength::new(written))
}

/// The longest beginning of `bytes` in which all pieces are zero, or none of them is, and what follows it.
fn split_run(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut pieces = bytes.chunks(HOLE);
    let first = pieces.next()?;
    let zero = is_zero(first);
    let length = pieces
        .take_while(|piece| is_zero(piece) == zero)
        .fold(first.len(), |length, piece| length.saturating_add(piece.len()));
    bytes.split_at_checked(length)
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; HOLE] = [0; HOLE];
    // Slices are compared many bytes at a time.
    bytes.chunks(HOLE).all(|piece| ZEROS.get(..piece.len()) == Some(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_is_not_written_and_the_rest_in_long_runs() {
        let mut bytes = vec![0; 10 * HOLE + 17];
        bytes[2 * HOLE..3 * HOLE].fill(1);
        bytes[4 * HOLE - 1] = 2;
        bytes[9 * HOLE] = 3;
        bytes[10 * HOLE + 16] = 4;
        let mut lengths = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((run, behind)) = split_run(rest) {
            lengths.push((run.len(), is_zero(run)));
            rest = behind;
        }
        let expected = [(2 * HOLE, true), (2 * HOLE, false), (5 * HOLE, true), (HOLE + 17, false)];
        assert_eq!(lengths, expected);

        let file = tempfile::tempfile().unwrap();
        write_sparse(&file, &bytes, 100).unwrap();
        let mut found = vec![9; bytes.len() + 100];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[..100], [0; 100]);
        assert_eq!(found[100..], bytes);
    }
}
