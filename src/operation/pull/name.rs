//! The origin as the user gives it, and the names that follow from it.

use std::io::Read;

use crate::fetch::origin::Origin;
use crate::format::image_class::ImageClass;
use crate::format::image_name::{is_plain_name, without_image_suffixes, without_tree_suffixes};
use crate::format::loop_reference::LoopReference;

use crate::operation::error::OperationError;

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
    stem_of(origin, without_image_suffixes, "the image of")
}

/// The local name that the origin of an archive gives: its last component without the suffixes of archives.
///
/// # Errors
/// [`OperationError::Usage`] where nothing is left.
pub fn tree_name_of(origin: &Origin) -> Result<String, OperationError> {
    stem_of(origin, without_tree_suffixes, "the directory for")
}

/// The name that is left of the last component of an origin; `naming` says of what.
fn stem_of(
    origin: &Origin,
    without_suffixes: fn(&str) -> &str,
    naming: &str,
) -> Result<String, OperationError> {
    let file = origin.file_name().unwrap_or_default();
    let name = without_suffixes(&file);
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
    if !is_plain_name(name) {
        let found = name.escape_debug();
        let problem = format!(
            "naming what is pulled: expected a name without '/', without control characters and without a dot in front, found '{found}'"
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
pub fn reference_of_file(name: &str, class: ImageClass) -> Result<LoopReference, OperationError> {
    match class {
        ImageClass::Machine => reference_of(name),
        class => reference_of(&format!("{name}.{class}")),
    }
}

/// The reference of a tree: its name.
///
/// # Errors
/// [`OperationError::Usage`] where it cannot be one.
pub fn reference_of_tree(name: &str) -> Result<LoopReference, OperationError> {
    name.parse().map_err(|error| {
        OperationError::Usage(format!("naming the directory '{name}': {error}: give another NAME"))
    })
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
