//! A strict reader for DER (ITU-T X.690, 10 and 11): one element after another, no recursion, no allocation.
//!
//! Refused although BER has them: indefinite lengths, lengths longer than they need to be, tag numbers above 30.

/// The tags that signatures and certificates are made of (ITU-T X.690, 8.1.2).
pub(super) mod tag {
    /// INTEGER.
    pub(in crate::trust) const INTEGER: u8 = 0x02;
    /// OCTET STRING.
    pub(in crate::trust) const OCTET_STRING: u8 = 0x04;
    /// NULL.
    pub(in crate::trust) const NULL: u8 = 0x05;
    /// OBJECT IDENTIFIER.
    pub(in crate::trust) const OBJECT_IDENTIFIER: u8 = 0x06;
    /// SEQUENCE and SEQUENCE OF.
    pub(in crate::trust) const SEQUENCE: u8 = 0x30;
    /// SET and SET OF.
    pub(in crate::trust) const SET: u8 = 0x31;
    /// `[0]`, constructed.
    pub(in crate::trust) const CONTEXT_0: u8 = 0xa0;
    /// `[1]`, constructed.
    pub(in crate::trust) const CONTEXT_1: u8 = 0xa1;
}

/// The bytes are not what DER wants here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {offset}")]
pub(super) struct DerError {
    /// Where, in bytes from the beginning of the outermost element.
    pub(super) offset: usize,
    /// What should have been there.
    pub(super) expected: &'static str,
}

/// One element: tag, length and content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    offset: usize,
    content_offset: usize,
    whole: &'a [u8],
    content: &'a [u8],
}

impl<'a> Element<'a> {
    /// The content alone.
    pub(super) const fn content(&self) -> &'a [u8] {
        self.content
    }

    /// Tag, length and content.
    pub(super) const fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// The elements that this one is made of.
    pub(super) const fn inside(&self) -> Reader<'a> {
        Reader { rest: self.content, offset: self.content_offset }
    }

    /// The error that something else was expected here.
    pub(super) const fn not(&self, expected: &'static str) -> DerError {
        DerError { offset: self.offset, expected }
    }
}

/// What is still to be read.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their beginning.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// How many bytes are left.
    pub(super) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever its tag.
    pub(super) fn next(&mut self) -> Result<Element<'a>, DerError> {
        let offset = self.offset;
        let wrong = |expected| DerError { offset, expected };
        let (&tag, after_tag) = self.rest.split_first().ok_or(wrong("an element"))?;
        if tag & 0x1f == 0x1f {
            return Err(wrong("a tag number of at most 30"));
        }
        let (&first, mut after_length) = after_tag.split_first().ok_or(wrong("a length"))?;
        let length = match first {
            0..0x80 => usize::from(first),
            0x80 => return Err(wrong("a definite length")),
            // 32 bits of length are more than any limit on what is read here.
            0x81..=0x84 => {
                let (digits, rest) = after_length
                    .split_at_checked(usize::from(first & 0x7f))
                    .ok_or(wrong("a whole length"))?;
                after_length = rest;
                let length = digits.iter().fold(0_usize, |length, digit| (length << 8) | usize::from(*digit));
                if length < 0x80 || digits.first() == Some(&0) {
                    return Err(wrong("a length no longer than it needs to be"));
                }
                length
            }
            _ => return Err(wrong("a length of at most 4 bytes")),
        };
        let (content, rest) = after_length
            .split_at_checked(length)
            .ok_or(wrong("an element that ends inside the one around it"))?;
        let header = self.rest.len() - after_length.len();
        let (whole, _) =
            self.rest.split_at_checked(header + length).ok_or(wrong("an element that ends inside"))?;
        self.rest = rest;
        self.offset += whole.len();
        Ok(Element { offset, content_offset: offset + header, whole, content })
    }

    /// The next element, which must have this tag; `expected` says what it is.
    pub(super) fn expect(&mut self, tag: u8, expected: &'static str) -> Result<Element<'a>, DerError> {
        if self.rest.first() == Some(&tag) {
            self.next()
        } else {
            Err(DerError { offset: self.offset, expected })
        }
    }

    /// The next element if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerError> {
        if self.rest.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }

    /// That nothing is left; `expected` says what has ended.
    pub(super) const fn end(&self, expected: &'static str) -> Result<(), DerError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DerError { offset: self.offset, expected }) }
    }
}

/// `content` with its tag and length in front.
pub(super) fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let digits = length.to_be_bytes();
    let leading_zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let digits = digits.get(leading_zeros..).unwrap_or_default();
    let mut element = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => element.push(short),
        _ => {
            element.push(0x80 | u8::try_from(digits.len()).unwrap_or(0x7f));
            element.extend_from_slice(digits);
        }
    }
    element.extend_from_slice(content);
    element
}

/// An object identifier as people write it, for messages: `1.2.840.113549.1.7.1`.
pub(super) fn object_identifier_text(content: &[u8]) -> String {
    /// Longer than any identifier in use; what a hostile one can put into a message ends here.
    const LONGEST: usize = 32;
    let mut arcs = Vec::new();
    let mut arc = 0_u64;
    for byte in content.iter().take(LONGEST) {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(std::mem::take(&mut arc));
        }
    }
    let mut words = Vec::new();
    for (index, arc) in arcs.into_iter().enumerate() {
        if index == 0 {
            let root = (arc / 40).min(2);
            words.push(root.to_string());
            words.push((arc - root * 40).to_string());
        } else {
            words.push(arc.to_string());
        }
    }
    words.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_der_is_refused_by_name() {
        let rows: [(&[u8], &str); 9] = [
            (&[], "an element"),
            (&[0x30], "a length"),
            (&[0x1f, 0x81, 0x00], "a tag number of at most 30"),
            (&[0x30, 0x80, 0x00, 0x00], "a definite length"),
            (&[0x30, 0x81, 0x01, 0x00], "a length no longer than it needs to be"),
            (&[0x30, 0x82, 0x00, 0xff], "a length no longer than it needs to be"),
            (&[0x30, 0x82, 0x01], "a whole length"),
            (&[0x30, 0x85, 0x01, 0, 0, 0, 0], "a length of at most 4 bytes"),
            (&[0x30, 0x02, 0x05], "an element that ends inside the one around it"),
        ];
        for (bytes, expected) in rows {
            assert_eq!(
                Reader::new(bytes).next().unwrap_err(),
                DerError { offset: 0, expected },
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
            let content = vec![7; length];
            let mut bytes = encode(tag::OCTET_STRING, &content);
            let whole = bytes.len();
            bytes.push(9);
            let mut reader = Reader::new(&bytes);
            let element = reader.expect(tag::OCTET_STRING, "octets").unwrap();
            assert_eq!((element.content(), element.whole().len()), (&content[..], whole));
            assert_eq!(reader.end("the end").unwrap_err().offset, whole);
        }
    }

    #[test]
    fn offsets_count_from_the_outermost_element() {
        let bytes = [0x30, 0x04, 0x05, 0x00, 0x30, 0x00];
        let mut inside = Reader::new(&bytes).next().unwrap().inside();
        inside.expect(tag::NULL, "null").unwrap();
        assert_eq!(inside.expect(tag::SET, "a set").unwrap_err(), DerError { offset: 4, expected: "a set" });
        assert!(inside.optional(tag::SET).unwrap().is_none());
    }

    #[test]
    fn object_identifiers_print_as_people_write_them() {
        assert_eq!(
            object_identifier_text(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02]),
            "1.2.840.113549.1.7.2"
        );
        assert_eq!(object_identifier_text(&[0x88, 0x37, 0x03]), "2.999.3");
        assert!(object_identifier_text(&[0x7f; 1000]).len() < 200);
    }
}
