//! The words of a policy rule as a set: which states a partition may be in, and what else is asked of it.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

/// A set of the words that a rule may name (systemd.image-policy(7) of systemd 262, and nothing else).
///
/// It falls into four groups: [`USE`](Self::USE), [`READ_ONLY`](Self::READ_ONLY), [`GROWFS`](Self::GROWFS) and
/// [`FILE_SYSTEMS`](Self::FILE_SYSTEMS). What an empty group means is a matter of the rule's normal form, not of the
/// set: see [`Rule`](super::Rule).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PolicyFlags(u32);

impl PolicyFlags {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// `verity`: used under dm-verity.
    pub const VERITY: Self = Self(1);
    /// `signed`: used under dm-verity, with a verified signature of the root hash.
    pub const SIGNED: Self = Self(1 << 1);
    /// `encrypted`: used under LUKS.
    pub const ENCRYPTED: Self = Self(1 << 2);
    /// `encryptedwithintegrity`: used under LUKS with authenticated encryption.
    pub const ENCRYPTED_WITH_INTEGRITY: Self = Self(1 << 3);
    /// `unprotected`: used as it is.
    pub const UNPROTECTED: Self = Self(1 << 4);
    /// `unused`: there, and not exposed.
    pub const UNUSED: Self = Self(1 << 5);
    /// `absent`: not there.
    pub const ABSENT: Self = Self(1 << 6);
    /// `read-only-on`: the read-only flag of the partition is set.
    pub const READ_ONLY_ON: Self = Self(1 << 7);
    /// `read-only-off`: the read-only flag of the partition is not set.
    pub const READ_ONLY_OFF: Self = Self(1 << 8);
    /// `growfs-off`: the grow-file-system flag of the partition is not set.
    pub const GROWFS_OFF: Self = Self(1 << 9);
    /// `growfs-on`: the grow-file-system flag of the partition is set.
    pub const GROWFS_ON: Self = Self(1 << 10);
    /// `btrfs`.
    pub const BTRFS: Self = Self(1 << 11);
    /// `erofs`.
    pub const EROFS: Self = Self(1 << 12);
    /// `ext4`.
    pub const EXT4: Self = Self(1 << 13);
    /// `f2fs`.
    pub const F2FS: Self = Self(1 << 14);
    /// `squashfs`.
    pub const SQUASHFS: Self = Self(1 << 15);
    /// `vfat`.
    pub const VFAT: Self = Self(1 << 16);
    /// `xfs`.
    pub const XFS: Self = Self(1 << 17);

    /// The five states in which a partition is used.
    pub const PROTECTIONS: Self = Self(0b1_1111);
    /// `open`: every way of using or not using a partition.
    pub const USE: Self = Self(0b111_1111);
    /// `ignore`: `unused+absent`.
    pub const IGNORE: Self = Self(0b110_0000);
    /// Both words about the read-only flag.
    pub const READ_ONLY: Self = Self(0b11 << 7);
    /// Both words about the grow-file-system flag.
    pub const GROWFS: Self = Self(0b11 << 9);
    /// The seven words that name a file system.
    pub const FILE_SYSTEMS: Self = Self(0b111_1111 << 11);

    /// No word of any policy: that what is missing from the table may lie beside the image. See
    /// [`Rule::demands`](super::Rule::demands).
    pub(super) const BESIDE: Self = Self(1 << 18);

    /// Every single word with its meaning, in the order in which systemd prints them.
    pub const WORDS: [(&str, Self); 18] = [
        ("verity", Self::VERITY),
        ("signed", Self::SIGNED),
        ("encrypted", Self::ENCRYPTED),
        ("encryptedwithintegrity", Self::ENCRYPTED_WITH_INTEGRITY),
        ("unprotected", Self::UNPROTECTED),
        ("unused", Self::UNUSED),
        ("absent", Self::ABSENT),
        ("read-only-on", Self::READ_ONLY_ON),
        ("read-only-off", Self::READ_ONLY_OFF),
        ("growfs-off", Self::GROWFS_OFF),
        ("growfs-on", Self::GROWFS_ON),
        ("btrfs", Self::BTRFS),
        ("erofs", Self::EROFS),
        ("ext4", Self::EXT4),
        ("f2fs", Self::F2FS),
        ("squashfs", Self::SQUASHFS),
        ("vfat", Self::VFAT),
        ("xfs", Self::XFS),
    ];

    /// What a word stands for, `open` and `ignore` included; `None` for a word that policies do not know.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "open" => Some(Self::USE),
            "ignore" => Some(Self::IGNORE),
            _ => Self::WORDS.into_iter().find_map(|(name, flags)| (name == word).then_some(flags)),
        }
    }

    /// Whether every word of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no word is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This set and the words of `other`.
    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set less the words of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The single words in the set, in the order in which systemd prints them.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().filter_map(move |(word, flags)| self.contains(flags).then_some(word))
    }

    /// The words as systemd shortens them: `open` and `ignore` for these uses, and no flag group that allows everything.
    pub(super) fn short_words(self) -> Vec<&'static str> {
        let uses = self & Self::USE;
        let mut words = match uses {
            Self::USE => vec!["open"],
            Self::IGNORE => vec!["ignore"],
            _ => uses.words().collect(),
        };
        words.extend(self.without(Self::USE).without_full_groups().words());
        words
    }

    /// This set without a flag group in which both words stand, which asks as little as neither.
    pub(super) const fn without_full_groups(self) -> Self {
        let without = if self.contains(Self::READ_ONLY) { self.without(Self::READ_ONLY) } else { self };
        if without.contains(Self::GROWFS) { without.without(Self::GROWFS) } else { without }
    }
}

impl BitOr for PolicyFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for PolicyFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for PolicyFlags {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for PolicyFlags {
    /// The single words joined by `+`; `-` for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&joined(&self.words().collect::<Vec<_>>()))
    }
}

impl fmt::Debug for PolicyFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The words as a rule writes them: joined by `+`, `-` for none.
pub(super) fn joined(words: &[&str]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join("+") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_single_bits_and_make_up_the_groups() {
        let groups =
            [PolicyFlags::USE, PolicyFlags::READ_ONLY, PolicyFlags::GROWFS, PolicyFlags::FILE_SYSTEMS];
        let mut seen = PolicyFlags::NONE;
        for (word, flags) in PolicyFlags::WORDS {
            assert_eq!(flags.0.count_ones(), 1, "{word}");
            assert!((seen & flags).is_empty(), "{word}");
            assert_eq!(groups.into_iter().filter(|group| group.contains(flags)).count(), 1, "{word}");
            assert_eq!(PolicyFlags::of_word(word), Some(flags));
            seen |= flags;
        }
        assert_eq!(seen, groups.into_iter().fold(PolicyFlags::NONE, |all, group| all | group));
    }

    #[test]
    fn words_that_policies_do_not_know_are_refused() {
        for word in ["", "-", "Signed", "signed ", "ext2", "closed", "verity+signed"] {
            assert_eq!(PolicyFlags::of_word(word), None, "{word}");
        }
    }

    #[test]
    fn shorthands_stand_for_their_words() {
        assert_eq!(PolicyFlags::of_word("ignore").unwrap().to_string(), "unused+absent");
        assert_eq!(PolicyFlags::USE.short_words(), ["open"]);
        assert_eq!(
            (PolicyFlags::IGNORE | PolicyFlags::READ_ONLY | PolicyFlags::XFS).short_words(),
            ["ignore", "xfs"]
        );
        assert_eq!(PolicyFlags::NONE.to_string(), "-");
    }
}
