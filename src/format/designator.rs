//! What a partition is for: the designators of the Discoverable Partitions Specification as image policies name them.

use std::fmt;
use std::str::FromStr;

/// What a partition is for, in the order in which policies print and activation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Designator {
    /// The root file system, `/`.
    Root,
    /// The vendor tree, `/usr`.
    Usr,
    /// `/home`.
    Home,
    /// `/srv`.
    Srv,
    /// The EFI system partition.
    Esp,
    /// The extended boot loader partition, `/boot`.
    Xbootldr,
    /// Swap space.
    Swap,
    /// The dm-verity hash tree of the root file system.
    RootVerity,
    /// The dm-verity hash tree of `/usr`.
    UsrVerity,
    /// The signature of the root file system's root hash.
    RootVeritySig,
    /// The signature of the root hash of `/usr`.
    UsrVeritySig,
    /// `/var/tmp`.
    Tmp,
    /// `/var`.
    Var,
}

/// The part that a designator plays in dm-verity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerityRole {
    /// Holds the protected file system.
    Data,
    /// Holds the hash tree.
    Hash,
    /// Holds the signature of the root hash.
    Signature,
}

impl Designator {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Root,
        Self::Usr,
        Self::Home,
        Self::Srv,
        Self::Esp,
        Self::Xbootldr,
        Self::Swap,
        Self::RootVerity,
        Self::UsrVerity,
        Self::RootVeritySig,
        Self::UsrVeritySig,
        Self::Tmp,
        Self::Var,
    ];

    /// The word that policies, links and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Usr => "usr",
            Self::Home => "home",
            Self::Srv => "srv",
            Self::Esp => "esp",
            Self::Xbootldr => "xbootldr",
            Self::Swap => "swap",
            Self::RootVerity => "root-verity",
            Self::UsrVerity => "usr-verity",
            Self::RootVeritySig => "root-verity-sig",
            Self::UsrVeritySig => "usr-verity-sig",
            Self::Tmp => "tmp",
            Self::Var => "var",
        }
    }

    /// Whether firmware reads it, so that it must be a vfat and nothing else.
    #[must_use]
    pub const fn is_vfat_alone(self) -> bool {
        matches!(self, Self::Esp | Self::Xbootldr)
    }

    /// The part this designator plays in dm-verity; `None` for those that dm-verity is not defined for.
    #[must_use]
    pub const fn verity_role(self) -> Option<VerityRole> {
        match self {
            Self::Root | Self::Usr => Some(VerityRole::Data),
            Self::RootVerity | Self::UsrVerity => Some(VerityRole::Hash),
            Self::RootVeritySig | Self::UsrVeritySig => Some(VerityRole::Signature),
            _ => None,
        }
    }

    /// The designator of the file system that this hash or signature partition protects; `None` for every other.
    #[must_use]
    pub const fn verity_data(self) -> Option<Self> {
        match self {
            Self::RootVerity | Self::RootVeritySig => Some(Self::Root),
            Self::UsrVerity | Self::UsrVeritySig => Some(Self::Usr),
            _ => None,
        }
    }

    /// The designator of the hash tree of this file system; `None` where dm-verity is not defined for it.
    #[must_use]
    pub const fn verity_hash(self) -> Option<Self> {
        match self {
            Self::Root => Some(Self::RootVerity),
            Self::Usr => Some(Self::UsrVerity),
            _ => None,
        }
    }

    /// The designator of the signature of this file system; `None` where dm-verity is not defined for it.
    #[must_use]
    pub const fn verity_signature(self) -> Option<Self> {
        match self {
            Self::Root => Some(Self::RootVeritySig),
            Self::Usr => Some(Self::UsrVeritySig),
            _ => None,
        }
    }

    /// Whether the label's version decides between several partitions of this designator.
    #[must_use]
    pub const fn is_versioned(self) -> bool {
        self.verity_role().is_some()
    }
}

impl fmt::Display for Designator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The word names no designator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a partition designator")]
pub struct UnknownDesignator(pub(crate) String);

impl FromStr for Designator {
    type Err = UnknownDesignator;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|designator| designator.as_str() == text)
            .ok_or_else(|| UnknownDesignator(text.to_owned()))
    }
}
