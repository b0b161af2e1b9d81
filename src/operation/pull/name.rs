//! The origin as the user gives it, and the names that follow from it.

use std::io::Read;

use crate::fetch::origin::Origin;
use crate::format::image_class::ImageClass;
use crate::format::loop_reference::LoopReference;

use crate::operation::error::OperationError;

/// What is taken off the end of a URL to name an image.
const SUFFIXES: [&str; 10] =
    [".xz", ".gz", ".bz2", ".zst", ".sysext.raw", ".confext.raw", ".raw", ".qcow2", ".img", ".bin"];

/// What is taken off the end of a URL to name a tree.
const TREE_SUFFIXES: [&str; 12] =
    [".tar", ".gz", ".xz", ".zst", ".bz2", ".lz4", ".tgz", ".txz", ".tzst", ".tbz2", ".tbz", ".tlz4"];

/// Reads where an image comes from as the user gives it: an http, https or `file:` URL, or `-` for `standard_input`.
///
/// # Errors
/// [`OperationError::Usage`] where it is none of these.
pub fn parse_origin(
    text: &str,
    standard_input: impl Read + Send + 'static,
) -> Result<Origin, OperationError> {
    Origin::parse(text, standard_input).map_err(|error| OperationError::Usage(error.to_string()))
}

/// The local name that an origin gives: its last component without the suffixes of images.
///
/// # Errors
/// [`OperationError::Usage`] where nothing is left.
pub fn name_of(origin: &Origin) -> Result<String, OperationError> {
    stem_of(origin, &SUFFIXES, "the image of")
}

/// The local name that the origin of an archive gives: its last component without the suffixes of archives.
///
/// # Errors
/// [`OperationError::Usage`] where nothing is left.
pub fn tree_name_of(origin: &Origin) -> Result<String, OperationError> {
    stem_of(origin, &TREE_SUFFIXES, "the directory for")
}

/// What is left of the last component of an origin without any of these suffixes at its end; `naming` says of what that is
/// to be the name.
fn stem_of(origin: &Origin, suffixes: &[&str], naming: &str) -> Result<String, OperationError> {
    let file = origin.file_name().unwrap_or_default();
    let mut name = file.as_str();
    while let Some(shorter) = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = shorter;
    }
    if name.is_empty() {
        return Err(OperationError::Usage(format!(
            "naming {naming} '{origin}': it has no file name: give a NAME"
        )));
    }
    Ok(name.to_owned())
}

/// Refuses a name that leads out of the directory for images, or hides in it.
///
/// # Errors
/// [`OperationError::Usage`].
pub(super) fn expect_plain_name(name: &str) -> Result<(), OperationError> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        let found = name.escape_debug();
        let problem = format!(
            "naming what is pulled: expected a name without '/' and without a dot in front, found '{found}'"
        );
        return Err(OperationError::Usage(problem));
    }
    Ok(())
}

/// The reference of an image that is placed as a file and has no devices. Images of several classes may have the same
/// name, in directories of their own.
///
/// # Errors
/// [`OperationError::Usage`] where it cannot be one.
pub(super) fn reference_of_file(name: &str, class: ImageClass) -> Result<LoopReference, OperationError> {
    match class {
        ImageClass::Machine => reference_of(name),
        class => reference_of(&format!("{name}.{class}")),
    }
}

/// The reference of a pulled image: its file name, as systemd has it.
///
/// # Errors
/// [`OperationError::Usage`] where it cannot be one.
pub fn reference_of(name: &str) -> Result<LoopReference, OperationError> {
    format!("{name}.raw").parse().map_err(|error| {
        OperationError::Usage(format!("naming the devices of '{name}': {error}: give another NAME"))
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_tree_is_named_without_the_suffixes_of_archives() {
        for (url, name) in [
            ("http://h/debian-12.tar", "debian-12"),
            ("http://h/debian-12.tar.zst?x=1", "debian-12"),
            ("https://h/a/debian.tgz", "debian"),
            ("file:///srv/debian.tar.xz", "debian"),
            ("http://h/plain", "plain"),
        ] {
            assert_eq!(tree_name_of(&parse_origin(url, io::empty()).unwrap()).unwrap(), name, "{url}");
        }
        for url in ["http://h/", "http://h/.tar.gz", "file:///", "-"] {
            assert!(tree_name_of(&parse_origin(url, io::empty()).unwrap()).is_err(), "{url}");
        }
    }
}
