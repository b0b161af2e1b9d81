//! The URL as the user gives it, and the names that follow from it.

use crate::fetch::url::ImageUrl;
use crate::format::loop_reference::LoopReference;

use crate::operation::error::OperationError;

/// What is taken off the end of a URL to name an image.
const SUFFIXES: [&str; 10] =
    [".xz", ".gz", ".bz2", ".zst", ".sysext.raw", ".confext.raw", ".raw", ".qcow2", ".img", ".bin"];

/// What is taken off the end of a URL to name a tree.
const TREE_SUFFIXES: [&str; 12] =
    [".tar", ".gz", ".xz", ".zst", ".bz2", ".lz4", ".tgz", ".txz", ".tzst", ".tbz2", ".tbz", ".tlz4"];

/// Reads a URL as the user gives it.
///
/// # Errors
/// [`OperationError::Usage`] where it is not one, or not of http or https.
pub fn parse_url(text: &str) -> Result<ImageUrl, OperationError> {
    ImageUrl::parse(text).map_err(|error| OperationError::Usage(error.to_string()))
}

/// The local name that a URL gives: its last component without the suffixes of images.
///
/// # Errors
/// [`OperationError::Usage`] where nothing is left.
pub fn name_of_url(url: &ImageUrl) -> Result<String, OperationError> {
    stem_of(url, &SUFFIXES, "the image of")
}

/// The local name that the URL of an archive gives: its last component without the suffixes of archives.
///
/// # Errors
/// [`OperationError::Usage`] where nothing is left.
pub fn tree_name_of_url(url: &ImageUrl) -> Result<String, OperationError> {
    stem_of(url, &TREE_SUFFIXES, "the directory for")
}

/// What is left of the last component of a URL without any of these suffixes at its end; `naming` says of what that is
/// to be the name.
fn stem_of(url: &ImageUrl, suffixes: &[&str], naming: &str) -> Result<String, OperationError> {
    let file = url.file_name().unwrap_or_default();
    let mut name = file.as_str();
    while let Some(shorter) = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = shorter;
    }
    if name.is_empty() {
        return Err(OperationError::Usage(format!(
            "naming {naming} '{url}': the URL has no file name: give a NAME"
        )));
    }
    Ok(name.to_owned())
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
    use super::*;

    #[test]
    fn a_tree_is_named_without_the_suffixes_of_archives() {
        for (url, name) in [
            ("http://h/debian-12.tar", "debian-12"),
            ("http://h/debian-12.tar.zst?x=1", "debian-12"),
            ("https://h/a/debian.tgz", "debian"),
            ("http://h/plain", "plain"),
        ] {
            assert_eq!(tree_name_of_url(&parse_url(url).unwrap()).unwrap(), name, "{url}");
        }
        for url in ["http://h/", "http://h/.tar.gz"] {
            assert!(tree_name_of_url(&parse_url(url).unwrap()).is_err(), "{url}");
        }
    }
}
