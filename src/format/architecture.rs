//! Processor architectures that the Discoverable Partitions Specification has partition types for.

use std::fmt;
use std::str::FromStr;

/// An architecture with partition types of its own, in the order of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// DEC Alpha.
    Alpha,
    /// Synopsys ARC.
    Arc,
    /// 32-bit Arm.
    Arm,
    /// 64-bit Arm, AArch64.
    Arm64,
    /// Intel Itanium.
    Ia64,
    /// 64-bit LoongArch.
    Loongarch64,
    /// 32-bit MIPS, big-endian.
    Mips,
    /// 64-bit MIPS, big-endian.
    Mips64,
    /// 64-bit MIPS, little-endian.
    Mips64Le,
    /// 32-bit MIPS, little-endian.
    MipsLe,
    /// HP PA-RISC.
    Parisc,
    /// 32-bit PowerPC.
    Ppc,
    /// 64-bit PowerPC, big-endian.
    Ppc64,
    /// 64-bit PowerPC, little-endian.
    Ppc64Le,
    /// 32-bit RISC-V.
    Riscv32,
    /// 64-bit RISC-V.
    Riscv64,
    /// 31-bit s390.
    S390,
    /// 64-bit s390x.
    S390x,
    /// Tilera TILE-Gx.
    Tilegx,
    /// 32-bit x86.
    X86,
    /// 64-bit x86.
    X86_64,
}

impl Architecture {
    /// All of them, in order.
    pub const ALL: [Self; 21] = [
        Self::Alpha,
        Self::Arc,
        Self::Arm,
        Self::Arm64,
        Self::Ia64,
        Self::Loongarch64,
        Self::Mips,
        Self::Mips64,
        Self::Mips64Le,
        Self::MipsLe,
        Self::Parisc,
        Self::Ppc,
        Self::Ppc64,
        Self::Ppc64Le,
        Self::Riscv32,
        Self::Riscv64,
        Self::S390,
        Self::S390x,
        Self::Tilegx,
        Self::X86,
        Self::X86_64,
    ];

    /// The suffix that names of partition types carry, as `x86-64` in `root-x86-64`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Arc => "arc",
            Self::Arm => "arm",
            Self::Arm64 => "arm64",
            Self::Ia64 => "ia64",
            Self::Loongarch64 => "loongarch64",
            Self::Mips => "mips",
            Self::Mips64 => "mips64",
            Self::Mips64Le => "mips64-le",
            Self::MipsLe => "mips-le",
            Self::Parisc => "parisc",
            Self::Ppc => "ppc",
            Self::Ppc64 => "ppc64",
            Self::Ppc64Le => "ppc64-le",
            Self::Riscv32 => "riscv32",
            Self::Riscv64 => "riscv64",
            Self::S390 => "s390",
            Self::S390x => "s390x",
            Self::Tilegx => "tilegx",
            Self::X86 => "x86",
            Self::X86_64 => "x86-64",
        }
    }

    /// The architecture that this program is made for; `None` for one without partition types.
    #[must_use]
    pub fn native() -> Option<Self> {
        let architecture = [
            (cfg!(target_arch = "x86_64"), Self::X86_64),
            (cfg!(target_arch = "aarch64"), Self::Arm64),
            (cfg!(target_arch = "riscv64"), Self::Riscv64),
            (cfg!(target_arch = "riscv32"), Self::Riscv32),
            (cfg!(target_arch = "loongarch64"), Self::Loongarch64),
            (cfg!(target_arch = "s390x"), Self::S390x),
            (cfg!(all(target_arch = "powerpc64", target_endian = "little")), Self::Ppc64Le),
            (cfg!(all(target_arch = "powerpc64", target_endian = "big")), Self::Ppc64),
            (cfg!(target_arch = "powerpc"), Self::Ppc),
            (cfg!(target_arch = "x86"), Self::X86),
            (cfg!(target_arch = "arm"), Self::Arm),
            (cfg!(all(target_arch = "mips64", target_endian = "little")), Self::Mips64Le),
            (cfg!(all(target_arch = "mips64", target_endian = "big")), Self::Mips64),
            (cfg!(all(target_arch = "mips", target_endian = "little")), Self::MipsLe),
            (cfg!(all(target_arch = "mips", target_endian = "big")), Self::Mips),
        ];
        architecture.into_iter().find_map(|(native, architecture)| native.then_some(architecture))
    }

    /// The architecture of a machine whose kernel calls itself `name` (`uname -m`); `None` for one without partition
    /// types.
    ///
    /// A MIPS kernel calls itself the same in either byte order, so there the byte order of this program decides.
    #[must_use]
    pub fn from_machine(name: &str) -> Option<Self> {
        Self::from_machine_with(name, cfg!(target_endian = "little"))
    }

    fn from_machine_with(name: &str, little_endian: bool) -> Option<Self> {
        match name {
            "mips" if little_endian => Some(Self::MipsLe),
            "mips64" if little_endian => Some(Self::Mips64Le),
            // A 32-bit kernel says armv5tel, armv6l, armv7l or armv8l; a big-endian one ends in 'b'.
            _ if name.starts_with("armv") && name.ends_with('l') => Some(Self::Arm),
            _ => name.parse().ok(),
        }
    }

    /// The other architecture whose programs a machine of this one also runs; `None` where there is none.
    #[must_use]
    pub const fn secondary(self) -> Option<Self> {
        match self {
            Self::X86_64 => Some(Self::X86),
            Self::Arm64 => Some(Self::Arm),
            _ => None,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The word names no architecture that has partition types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an architecture with partition types")]
pub struct UnknownArchitecture(pub(crate) String);

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    /// Reads the canonical name or one of the other common spellings.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = match text {
            "aarch64" => "arm64",
            "amd64" | "x86_64" => "x86-64",
            "armv7l" => "arm",
            "hppa" => "parisc",
            "i386" | "i486" | "i586" | "i686" => "x86",
            "loong64" => "loongarch64",
            "mips64el" => "mips64-le",
            "mipsel" => "mips-le",
            "ppc64el" | "ppc64le" => "ppc64-le",
            _ => text,
        };
        Self::ALL
            .into_iter()
            .find(|architecture| architecture.as_str() == canonical)
            .ok_or_else(|| UnknownArchitecture(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_reads_back_from_its_name() {
        for architecture in Architecture::ALL {
            assert_eq!(architecture.to_string().parse(), Ok(architecture));
        }
        assert!(Architecture::ALL.is_sorted());
    }

    #[test]
    fn other_spellings_are_known() {
        for (text, architecture) in [
            ("amd64", Architecture::X86_64),
            ("x86_64", Architecture::X86_64),
            ("aarch64", Architecture::Arm64),
            ("i386", Architecture::X86),
            ("i686", Architecture::X86),
            ("armv7l", Architecture::Arm),
            ("loong64", Architecture::Loongarch64),
            ("mipsel", Architecture::MipsLe),
            ("mips64el", Architecture::Mips64Le),
            ("ppc64le", Architecture::Ppc64Le),
            ("ppc64el", Architecture::Ppc64Le),
            ("hppa", Architecture::Parisc),
        ] {
            assert_eq!(text.parse(), Ok(architecture), "{text}");
        }
    }

    #[test]
    fn words_that_are_no_architecture_are_refused() {
        for text in ["", "X86-64", "x86-64 ", "x86-65", "i786", "arm64-be", "native", "secondary"] {
            assert_eq!(text.parse::<Architecture>(), Err(UnknownArchitecture(text.to_owned())));
        }
    }

    #[test]
    fn machines_are_known_by_the_name_their_kernel_gives() {
        for (name, architecture) in [
            ("x86_64", Some(Architecture::X86_64)),
            ("aarch64", Some(Architecture::Arm64)),
            ("i686", Some(Architecture::X86)),
            ("armv6l", Some(Architecture::Arm)),
            ("armv8l", Some(Architecture::Arm)),
            ("armv7b", None),
            ("s390x", Some(Architecture::S390x)),
            ("ppc64le", Some(Architecture::Ppc64Le)),
            ("aarch64_be", None),
            ("sparc64", None),
        ] {
            assert_eq!(Architecture::from_machine(name), architecture, "{name}");
        }
        assert_eq!(Architecture::from_machine_with("mips64", true), Some(Architecture::Mips64Le));
        assert_eq!(Architecture::from_machine_with("mips64", false), Some(Architecture::Mips64));
    }

    #[test]
    fn only_two_architectures_have_a_secondary_one() {
        let with_secondary: Vec<_> = Architecture::ALL
            .into_iter()
            .filter_map(|architecture| Some((architecture, architecture.secondary()?)))
            .collect();
        assert_eq!(
            with_secondary,
            [(Architecture::Arm64, Architecture::Arm), (Architecture::X86_64, Architecture::X86)]
        );
    }
}
