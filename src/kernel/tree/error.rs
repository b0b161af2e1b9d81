//! Why a member does not get into a tree, or a tree does not go.

use std::io;
use std::path::PathBuf;

use super::MAXIMUM_DEFERRED;

/// Why a tree is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// An access control list cannot be set; without it more people might get at the file.
    #[error(
        "'{path}' has an access control list, which its file system or kernel does not take: place it elsewhere"
    )]
    AccessControl {
        /// The member.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A device node that nobody asked for.
    #[error(
        "'{path}' is a device node: leave it out of the archive, or take device nodes with --device-nodes"
    )]
    DeviceNode {
        /// The member.
        path: String,
    },
    /// A directory lies where something else is to be, and something is in it.
    #[error("'{path}' is a directory with contents, and another member would take its place")]
    Occupied {
        /// The member.
        path: String,
    },
    /// A file that lends whoever runs it the rights of somebody else, where everybody could run it.
    #[error(
        "'{path}' {what}, and every user can get at it in its directory: make that one for root alone ('chmod 700'), or \
         choose another one with --image-root="
    )]
    Privileged {
        /// The member.
        path: String,
        /// What it does.
        what: &'static str,
    },
    /// Another name for a directory.
    #[error("'{path}' is a hard link to the directory '{target}'")]
    LinkToDirectory {
        /// The member.
        path: String,
        /// What it links to.
        target: String,
    },
    /// Another name for nothing.
    #[error("'{path}' is a hard link to '{target}', which is not in the archive before it")]
    LinkToNothing {
        /// The member.
        path: String,
        /// What it links to.
        target: String,
    },
    /// Somebody mounted something in the tree.
    #[error("'{}' is in use: {user}", .path.display())]
    InUse {
        /// The tree.
        path: PathBuf,
        /// Who or what uses it.
        user: String,
    },
    /// A directory above is none.
    #[error("'{path}' lies below '{above}', which is no directory")]
    NoDirectory {
        /// The member.
        path: String,
        /// What is none.
        above: String,
    },
    /// A path leads through a symbolic link.
    #[error("'{path}' leads through the symbolic link '{link}': expected directories alone")]
    ThroughLink {
        /// The member.
        path: String,
        /// The link.
        link: String,
    },
    /// More about directories than is kept in memory.
    #[error("expected directories whose names and attributes fit into {MAXIMUM_DEFERRED} bytes, found more")]
    TooManyDirectories,
    /// The kernel refused.
    #[error("{doing} '{path}'")]
    System {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl TreeError {
    /// Whether what was to be unpacked is at fault, and not this machine.
    #[must_use]
    pub const fn is_about_the_archive(&self) -> bool {
        !matches!(self, Self::AccessControl { .. } | Self::InUse { .. } | Self::System { .. })
    }

    /// Whether no room is left.
    #[must_use]
    pub fn is_about_room(&self) -> bool {
        matches!(self, Self::System { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(super) fn system<T: ToString + ?Sized>(
        doing: &'static str,
        path: &T,
    ) -> impl FnOnce(nix::errno::Errno) -> Self + use<T> {
        let path = path.to_string();
        move |errno| Self::System { doing, path, source: errno.into() }
    }
}
