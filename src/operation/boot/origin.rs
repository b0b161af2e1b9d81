//! Where a pull comes from: its URL, or what lies beside that from which the machine was booted.

use crate::format::boot_url::{BOOT_URL_VARIABLES, LOADER_VENDOR, beside, decode_variable};
use crate::format::pull_expression::PullExpression;
use crate::kernel::efi_variable;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;

/// The URL of a pull; `None` where it depends on the URL that the machine was booted from, and there is none.
///
/// # Errors
/// [`OperationError::System`] where firmware cannot be asked, or says what is no URL.
pub(super) fn url_of(
    expression: &PullExpression,
    observer: &dyn Observer,
) -> Result<Option<String>, OperationError> {
    if !expression.boot_origin {
        return Ok(Some(expression.remote.clone()));
    }
    for name in BOOT_URL_VARIABLES {
        let failing = |source: Box<dyn std::error::Error + Send + Sync>| {
            OperationError::system("reading the EFI variable", name, source)
        };
        let content = efi_variable::read(name, LOADER_VENDOR).map_err(|source| failing(source.into()))?;
        let Some(content) = content else { continue };
        let url = decode_variable(&content)
            .and_then(|boot_url| beside(&boot_url, &expression.remote))
            .map_err(|source| failing(source.into()))?;
        observer.note(&format!("'{}' is at {url}, beside what the machine was booted from", expression.name));
        return Ok(Some(url));
    }
    observer.note(&format!(
        "'{}' is not pulled: the machine was not booted from a server (no EFI variable {})",
        expression.name,
        BOOT_URL_VARIABLES.join(" or ")
    ));
    Ok(None)
}

/// The files of the variables that say where the machine was booted from.
pub(super) fn variable_files() -> impl Iterator<Item = String> {
    let path = |name: &str| efi_variable::path_of(name, LOADER_VENDOR).display().to_string();
    BOOT_URL_VARIABLES.into_iter().map(path)
}
