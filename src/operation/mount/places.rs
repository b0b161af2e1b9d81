//! Finding the place of a file system in the tree that is mounted already.

use std::io;
use std::path::Path;

use crate::format::designator::Designator;
use crate::image::places::BootPlace;
use crate::kernel::mount::{CreatedDirectory, ImageRoot, MountError, Place};
use crate::operation::error::OperationError;

/// Finds the one place that a file system has, and makes it where it is missing.
///
/// # Errors
/// [`OperationError::State`] where it cannot be made, or is not free.
pub(super) fn required(
    root: &ImageRoot,
    designator: Designator,
    path: &str,
    made: &mut Vec<CreatedDirectory>,
) -> Result<Place, OperationError> {
    let refused = |problem: String| {
        let problem = format!(
            "{problem}: add an empty directory '/{path}' to the image, or leave the partition out by \
             '{designator}=unused+absent' in the policy"
        );
        OperationError::state("finding a place for the partition", designator, problem)
    };
    let place = root.find_or_create(Path::new(path), made).map_err(|error| match error {
        MountError::Creating { directory, source } => {
            refused(format!("'{}' {}", directory.display(), not_made(&source)))
        }
        MountError::Opening { directory, source } => {
            refused(format!("'{}' is no directory that can be used ({source})", directory.display()))
        }
        other => OperationError::system("finding a place for the partition", designator.as_str(), other),
    })?;
    match occupied(root, &place)? {
        None => Ok(place),
        Some(by) => Err(refused(format!("'{}' is {by}", place.directory.display()))),
    }
}

/// Finds the first place that will do for a boot partition. Where none does, the reasons.
///
/// # Errors
/// [`OperationError::System`] where the tree cannot be looked at.
pub(super) fn first_of(
    root: &ImageRoot,
    candidates: &[BootPlace],
    made: &mut Vec<CreatedDirectory>,
) -> Result<Result<Place, String>, OperationError> {
    let mut reasons = Vec::new();
    for candidate in candidates {
        match boot_place(root, *candidate, made)? {
            Ok(place) => return Ok(Ok(place)),
            Err(reason) => reasons.push(format!("'/{}' {reason}", candidate.path)),
        }
    }
    Ok(Err(reasons.join(", ")))
}

fn boot_place(
    root: &ImageRoot,
    candidate: BootPlace,
    made: &mut Vec<CreatedDirectory>,
) -> Result<Result<Place, String>, OperationError> {
    let looking = |error| OperationError::system("looking for a place at", candidate.path, error);
    let path = Path::new(candidate.path);
    let place = match root.find(path) {
        Ok(Some(place)) => place,
        Ok(None) if !candidate.may_be_made => return Ok(Err("is not there".to_owned())),
        Ok(None) => match root.find_or_create(path, made) {
            Ok(place) => place,
            Err(MountError::Creating { source, .. }) => {
                return Ok(Err(not_made(&source)));
            }
            Err(error) => return Err(looking(error)),
        },
        Err(MountError::Opening { source, .. }) => {
            return Ok(Err(format!("is no directory that can be used ({source})")));
        }
        Err(error) => return Err(looking(error)),
    };
    if let Some(by) = occupied(root, &place)? {
        return Ok(Err(format!("is {by}")));
    }
    match place.is_empty().map_err(looking)? {
        true => Ok(Ok(place)),
        false => Ok(Err("is not empty".to_owned())),
    }
}

/// Why a directory could not be made, as a predicate.
fn not_made(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "is a symbolic link that leads nowhere within the image".to_owned(),
        _ => format!("is not there and cannot be made ({error})"),
    }
}

/// Why nothing may be mounted on a place, however it was reached: it is the root of the image, or of something mounted.
fn occupied(root: &ImageRoot, place: &Place) -> Result<Option<&'static str>, OperationError> {
    let looking = |error| OperationError::system("looking at", &place.directory, error);
    if root.is(place).map_err(looking)? {
        return Ok(Some("the root of the image itself"));
    }
    if place.is_mount_point().map_err(looking)? {
        return Ok(Some("taken: something is mounted there"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use crate::image::places::BootPlace;

    use super::*;

    const BOTH: [BootPlace; 2] =
        [BootPlace { path: "boot", may_be_made: false }, BootPlace { path: "efi", may_be_made: true }];

    fn image() -> (tempfile::TempDir, ImageRoot) {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap();
        let root = ImageRoot::new(File::open(&path).unwrap(), path);
        (directory, root)
    }

    fn esp(root: &ImageRoot) -> Result<String, String> {
        let place = first_of(root, &BOTH, &mut Vec::new()).unwrap()?;
        Ok(place.directory.file_name().unwrap().to_string_lossy().into_owned())
    }

    #[test]
    fn an_esp_goes_to_boot_if_that_is_there_and_empty_and_else_to_efi() {
        let (directory, root) = image();
        assert_eq!(esp(&root).unwrap(), "efi");
        fs::create_dir(directory.path().join("boot")).unwrap();
        assert_eq!(esp(&root).unwrap(), "boot");
        fs::write(directory.path().join("boot/kernel"), "").unwrap();
        assert_eq!(esp(&root).unwrap(), "efi");
        fs::write(directory.path().join("efi/loader"), "").unwrap();
        assert_eq!(esp(&root).unwrap_err(), "'/boot' is not empty, '/efi' is not empty");
    }

    #[test]
    fn an_esp_never_goes_over_the_root_of_the_image() {
        for target in ["/", ".", "../../..", "efi/../.."] {
            let (directory, root) = image();
            symlink(target, directory.path().join("boot")).unwrap();
            symlink("/", directory.path().join("efi")).unwrap();
            let reasons = esp(&root).unwrap_err();
            assert!(reasons.contains("'/efi' is the root of the image itself"), "{target}: {reasons}");
            assert!(!reasons.contains("not empty"), "{target}: {reasons}");
        }
    }

    #[test]
    fn what_is_no_directory_is_no_place() {
        let (directory, root) = image();
        fs::write(directory.path().join("boot"), "").unwrap();
        symlink("/nowhere/at/all", directory.path().join("efi")).unwrap();
        let reasons = esp(&root).unwrap_err();
        assert!(reasons.contains("'/boot' is no directory that can be used"), "{reasons}");
        assert!(reasons.contains("'/efi' is a symbolic link that leads nowhere"), "{reasons}");
    }

    #[test]
    fn a_required_place_is_made_beneath_the_root_or_refused_by_name() {
        let (directory, root) = image();
        let mut made = Vec::new();
        let place = required(&root, Designator::Tmp, "var/tmp", &mut made).unwrap();
        assert_eq!(place.directory, fs::canonicalize(directory.path()).unwrap().join("var/tmp"));
        assert_eq!(made.len(), 2);
        symlink("/", directory.path().join("srv")).unwrap();
        let error = required(&root, Designator::Srv, "srv", &mut made).unwrap_err().to_string();
        assert!(error.contains("is the root of the image itself"), "{error}");
        assert!(error.contains("'srv=unused+absent'"), "{error}");
        fs::write(directory.path().join("home"), "").unwrap();
        let error = required(&root, Designator::Home, "home", &mut made).unwrap_err().to_string();
        assert!(error.contains("is no directory that can be used"), "{error}");
        assert_eq!(made.len(), 2);
    }
}
