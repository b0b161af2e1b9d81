//! Lists of findings that are to be ignored, as they lie on this machine.

use std::path::PathBuf;

use crate::format::ignore_list;
use crate::image::ignored::IgnoreList;

use super::error::OperationError;
use super::search_path;

/// Reads all of these files.
///
/// # Errors
/// [`OperationError`] where one cannot be read, or has a line that is not understood.
pub fn load(paths: &[PathBuf]) -> Result<IgnoreList, OperationError> {
    let doing = "reading the findings to ignore";
    let mut list = IgnoreList::default();
    for path in paths {
        let failing =
            |source: Box<dyn std::error::Error + Send + Sync>| OperationError::system(doing, path, source);
        let content = search_path::read_required_file(doing, path)?;
        let text = std::str::from_utf8(&content).map_err(|error| failing(error.into()))?;
        let lines = ignore_list::parse(text).map_err(|error| failing(error.into()))?;
        list.add(&path.display().to_string(), lines).map_err(|error| failing(error.into()))?;
    }
    Ok(list)
}
