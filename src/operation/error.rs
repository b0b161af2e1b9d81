//! What can go wrong with an operation, by who has to act: the user, the maker of the image, or this machine.

use std::path::Path;

use crate::fetch::decompress::DecompressError;
use crate::fetch::error::FetchError;
use crate::fetch::qcow2::ConvertError;
use crate::image::finding::{Finding, Rule, is_deceptive, with_causes};
use crate::image::plan::Refusal;
use crate::image::reduction::ReductionError;
use crate::image::survey::Malformed;

use super::cancel::Interrupted;

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The image is not acceptable as a whole.
    #[error("examining '{image}'")]
    Malformed {
        /// Which image.
        image: String,
        /// The rule that it breaks.
        #[source]
        source: Malformed,
    },
    /// The image is refused by policy, signature or integrity.
    #[error("using '{image}': {refusal}")]
    Refused {
        /// Which image.
        image: String,
        /// Every reason.
        refusal: Box<Refusal>,
    },
    /// The contents of the image are not what its root hash says.
    #[error("verifying '{image}': {}: {}", .finding.rule.code(), explain_finding(.finding))]
    Integrity {
        /// Which image.
        image: String,
        /// What differs.
        finding: Box<Finding>,
    },
    /// What was downloaded cannot be decompressed, or not into the room that there is.
    #[error("using '{url}'")]
    Compressed {
        /// From where, without credentials.
        url: String,
        /// What is wrong with it.
        #[source]
        source: DecompressError,
    },
    /// What was downloaded is a copy-on-write image that cannot be made a raw one.
    #[error("converting '{url}'")]
    CopyOnWrite {
        /// From where, without credentials.
        url: String,
        /// What is wrong with it.
        #[source]
        source: ConvertError,
    },
    /// What was downloaded is not what somebody vouches for, or nobody who is trusted does.
    #[error("verifying {object}")]
    Unverified {
        /// What, in ticks.
        object: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was asked for makes no sense, or is not there in this version.
    #[error("{0}")]
    Usage(String),
    /// Something in the way that the user can move.
    #[error("{doing} '{object}': {problem}")]
    State {
        /// What was being done.
        doing: &'static str,
        /// To what.
        object: String,
        /// What is in the way and what to do about it.
        problem: String,
    },
    /// The system refused.
    #[error("{doing} '{object}'")]
    System {
        /// What was being done.
        doing: &'static str,
        /// To what.
        object: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The network or the server failed.
    #[error("fetching '{url}'")]
    Fetch {
        /// From where, without credentials.
        url: String,
        /// What went wrong.
        #[source]
        source: FetchError,
    },
    /// An archive is not unpacked, because of what it is.
    #[error("unpacking '{archive}'")]
    Archive {
        /// Which one.
        archive: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An image is not placed as a file, because of what its plan leaves of it.
    #[error("reducing '{image}' to its plan")]
    Reduced {
        /// Which image.
        image: String,
        /// Why not.
        #[source]
        source: ReductionError,
    },
    /// What is in a cache is not what it was.
    #[error("reading '{path}' from the cache: expected the download that was kept there, found other bytes")]
    DamagedCache {
        /// The file.
        path: String,
    },
    /// A signal arrived.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Undoing failed as well.
    #[error("{cause}; and undoing it: {undoing}")]
    Undo {
        /// What went wrong first.
        #[source]
        cause: Box<OperationError>,
        /// What went wrong then.
        undoing: String,
    },
}

fn explain_finding(finding: &Finding) -> String {
    format!("{}\n  {}", finding.message(), finding.rule.remedy())
}

impl OperationError {
    /// The system refused to do something to a file.
    pub fn system(
        doing: &'static str,
        object: impl AsRef<Path>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::System { doing, object: object.as_ref().display().to_string(), source: source.into() }
    }

    /// Something is in the way.
    pub fn state(doing: &'static str, object: impl ToString, problem: impl Into<String>) -> Self {
        Self::State { doing, object: object.to_string(), problem: problem.into() }
    }

    /// The error with all that caused it, on one line.
    #[must_use]
    pub fn with_causes(&self) -> String {
        with_causes(self)
    }

    /// Whether data is refused that nothing can vouch for any more.
    #[must_use]
    pub fn is_revocation(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. }
            if refusal.findings.iter().any(|finding| finding.rule == Rule::RootHashRevoked))
    }

    /// Whether the image itself is at fault.
    #[must_use]
    pub fn is_about_the_image(&self) -> bool {
        match self {
            Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::Integrity { .. }
            | Self::Unverified { .. }
            | Self::Archive { .. }
            | Self::Reduced { .. } => true,
            // That there is too little room is not its fault.
            Self::Compressed { source, .. } => {
                !matches!(source, DecompressError::TooLarge { .. } | DecompressError::Memory { .. })
            }
            Self::CopyOnWrite { source, .. } => {
                matches!(source, ConvertError::Cluster { .. } | ConvertError::Format(_))
            }
            Self::Undo { cause, .. } => cause.is_about_the_image(),
            _ => false,
        }
    }
}

/// The name of an image for reports and messages. Whoever fills a directory that is audited chooses the names in it:
/// they must not look like lines of the report.
pub(super) fn image_name(path: &Path) -> String {
    let mut name = String::new();
    for character in path.to_string_lossy().chars() {
        if is_deceptive(character) {
            name.extend(character.escape_default());
        } else {
            name.push(character);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_cannot_forge_a_line_of_a_report() {
        let name = image_name(Path::new("a.raw: accept\n\u{1b}[1Ab\u{202e}.raw"));
        assert_eq!(name, "a.raw: accept\\n\\u{1b}[1Ab\\u{202e}.raw");
        assert_eq!(image_name(Path::new("/srv/Bild ä.raw")), "/srv/Bild ä.raw");
    }

    #[test]
    fn a_malformed_image_is_explained_once() {
        let finding = Finding::of_image(Rule::SuperblockBeforeTable, "a partition table alone", "squashfs");
        let error = OperationError::Malformed { image: "os.raw".to_owned(), source: Malformed { finding } };
        assert_eq!(
            error.with_causes(),
            "examining 'os.raw': DDI0112: a superblock in front of the partition table: expected a partition table \
             alone, found squashfs\n  do not use this image: some tools read it as one file system and others as a \
             partitioned disk"
        );
    }
}
