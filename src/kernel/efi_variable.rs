//! EFI variables, as efivarfs shows them (Documentation/filesystems/efivarfs.rst).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where efivarfs is mounted.
const DIRECTORY: &str = "/sys/firmware/efi/efivars";
/// The most bytes of a variable that are read: far more than any that is asked for has.
const MAXIMUM: u64 = 64 << 10;

/// The file of a variable.
#[must_use]
pub fn path_of(name: &str, vendor: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}-{vendor}"))
}

/// What is in a variable, with the attributes in front; `None` where there is no such variable, or no EFI.
///
/// # Errors
/// The error of open(2) or read(2).
pub fn read(name: &str, vendor: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path_of(name, vendor)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = Vec::new();
    file.take(MAXIMUM).read_to_end(&mut content)?;
    Ok(Some(content))
}
