//! PE files in memory, with sections and without code.

/// A PE file with these sections: the name, the bytes in the file, and how many of them there are in memory.
pub fn pe_file(sections: &[(&str, &[u8], u32)]) -> Vec<u8> {
    const POINTER: usize = 0x3c;
    const SECTION_HEADER: usize = 40;
    let mut bytes = vec![0; 0x40];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[POINTER..POINTER + 4].copy_from_slice(&0x40_u32.to_le_bytes());
    bytes.extend(b"PE\0\0");
    bytes.extend(0x8664_u16.to_le_bytes());
    bytes.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend(8_u16.to_le_bytes());
    bytes.extend([0; 2 + 8]);
    let mut at = bytes.len() + SECTION_HEADER * sections.len();
    for (name, content, in_memory) in sections {
        let mut padded = [0; 8];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        bytes.extend(padded);
        bytes.extend(in_memory.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        bytes.extend(u32::try_from(at).unwrap().to_le_bytes());
        bytes.extend([0; 16]);
        at += content.len();
    }
    bytes.extend(sections.iter().flat_map(|(_, content, _)| content.iter()));
    bytes
}
