//! What `root=` and `mount.usr=` name.

use crate::format::designator::Designator;
use crate::format::units::PartitionNumber;

const LOOP_REFERENCES: &str = "/dev/disk/by-loop-ref/";

/// What holds the root or usr file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootDevice {
    /// A link below `/dev/disk/by-loop-ref/`, decoded.
    LoopReference(String),
    /// The root partition of the disk that the machine was booted from.
    GptAuto,
    /// The same, by systemd's dissection.
    Dissect,
    /// A directory.
    Bind(String),
    /// Something else: another device, or a file system without any.
    Other(String),
}

/// A part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedPart {
    /// All of it.
    Whole,
    /// A partition by its number.
    Number(PartitionNumber),
    /// A partition by its designator.
    Designator(Designator),
}

impl RootDevice {
    /// Reads the value of `root=` or `mount.usr=`.
    #[must_use]
    pub fn read(text: &str) -> Self {
        if let Some(link) = text.strip_prefix(LOOP_REFERENCES) {
            return Self::LoopReference(decode(link));
        }
        if let Some(path) = text.strip_prefix("bind:") {
            return Self::Bind(path.to_owned());
        }
        match text {
            "gpt-auto" | "/dev/gpt-auto-root" => Self::GptAuto,
            "dissect" => Self::Dissect,
            _ => Self::Other(text.to_owned()),
        }
    }

    /// Which part of the image with this loop reference it is; `None` where it is none.
    #[must_use]
    pub fn part_of(&self, reference: &str) -> Option<NamedPart> {
        let Self::LoopReference(link) = self else { return None };
        let suffix = link.strip_prefix(reference)?;
        if suffix.is_empty() {
            return Some(NamedPart::Whole);
        }
        let name = suffix.strip_prefix('-')?;
        if let Some(digits) = name.strip_prefix("part") {
            // As udev writes it: no sign, no zero in front.
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
            let number = digits.parse().ok().filter(|_| plain)?;
            return PartitionNumber::new(number).map(NamedPart::Number);
        }
        name.parse().ok().map(NamedPart::Designator)
    }
}

/// A link below `/dev/disk` without its `\xHH`. What is not of that form stays as it is, and then names nothing of ours.
fn decode(link: &str) -> String {
    let mut bytes = Vec::with_capacity(link.len());
    let mut rest = link.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(br"\x")
            .and_then(|digits| digits.get(..2))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| link.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(root: &str) -> Option<NamedPart> {
        RootDevice::read(root).part_of("image.raw")
    }

    #[test]
    fn a_link_names_a_part_of_an_image() {
        let number = |n| Some(NamedPart::Number(PartitionNumber::new(n).unwrap()));
        for (root, expected) in [
            ("/dev/disk/by-loop-ref/image.raw", Some(NamedPart::Whole)),
            ("/dev/disk/by-loop-ref/image.raw-part2", number(2)),
            ("/dev/disk/by-loop-ref/image.raw-part128", number(128)),
            ("/dev/disk/by-loop-ref/image.raw-root", Some(NamedPart::Designator(Designator::Root))),
            ("/dev/disk/by-loop-ref/image.raw-home", Some(NamedPart::Designator(Designator::Home))),
            (r"/dev/disk/by-loop-ref/imag\x65.raw-part2", number(2)),
            ("/dev/disk/by-loop-ref/image.raw-part0", None),
            ("/dev/disk/by-loop-ref/image.raw-part02", None),
            ("/dev/disk/by-loop-ref/image.raw-part+2", None),
            ("/dev/disk/by-loop-ref/image.raw-part", None),
            ("/dev/disk/by-loop-ref/image.rawroot", None),
            ("/dev/disk/by-loop-ref/image.raw-nothing", None),
            ("/dev/disk/by-loop-ref/other.raw-part2", None),
            ("/dev/disk/by-uuid/image.raw", None),
            ("gpt-auto", None),
        ] {
            assert_eq!(part(root), expected, "{root}");
        }
        let spaced = RootDevice::read(r"/dev/disk/by-loop-ref/a\x20b.raw-root");
        assert!(spaced.part_of("a b.raw").is_some());
        for odd in [r"\x", r"\x4", r"\xzz", r"\xff", r"\x+1", "é"] {
            assert_eq!(part(&format!("/dev/disk/by-loop-ref/{odd}")), None);
        }
    }

    #[test]
    fn other_values_are_known() {
        assert_eq!(RootDevice::read("gpt-auto"), RootDevice::GptAuto);
        assert_eq!(RootDevice::read("dissect"), RootDevice::Dissect);
        assert_eq!(RootDevice::read("bind:/run/machines/x"), RootDevice::Bind("/run/machines/x".to_owned()));
        assert_eq!(RootDevice::read("LABEL=x"), RootDevice::Other("LABEL=x".to_owned()));
    }
}
