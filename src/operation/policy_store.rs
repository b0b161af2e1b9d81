//! Image policies as the user names them: as text, or `@NAME` from a file or compiled in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::image::policy::ImagePolicy;
use crate::image::presets::{
    PRESETS, PolicyArgument, PolicyArgumentError, PolicyFile, PolicyName, Preset, RequestedPolicy,
};

use super::error::OperationError;
use super::search_path;

/// Where policy files are looked for; the first that has the name counts.
pub const DIRECTORIES: [&str; 4] =
    ["/etc/ddictl/policy", "/run/ddictl/policy", "/usr/local/lib/ddictl/policy", "/usr/lib/ddictl/policy"];

/// A policy that can be named, and where it comes from.
#[derive(Debug, Clone)]
pub struct ListedPolicy {
    /// Its name, without the `@`.
    pub name: String,
    /// The file; `None` where it is compiled in.
    pub path: Option<PathBuf>,
    /// What its first comment says.
    pub description: String,
    /// The policy itself.
    pub policy: ImagePolicy,
}

/// The policy that `argument` names or is; with a `/` in it, which no policy text has, and no `@` in front, it is the path of
/// a policy file.
///
/// # Errors
/// [`OperationError::Usage`] where the text is not a policy, [`OperationError::State`] or
/// [`OperationError::System`] where a policy of that name cannot be read or understood.
pub fn resolve(argument: &str) -> Result<RequestedPolicy, OperationError> {
    let usage = |problem: &dyn std::fmt::Display| {
        OperationError::Usage(format!("reading the image policy '{argument}': {problem}"))
    };
    if argument.contains('/') && !argument.starts_with('@') {
        let path = Path::new(argument);
        let file = read(path)?.ok_or_else(|| usage(&"there is no such file"))?;
        return Ok(RequestedPolicy::as_written(file.policy));
    }
    let name = match argument.parse() {
        Ok(PolicyArgument::Text(policy)) => return Ok(RequestedPolicy::as_written(policy)),
        Ok(PolicyArgument::Named(name)) => name,
        Err(PolicyArgumentError::Name(error)) => return Err(usage(&error)),
        Err(PolicyArgumentError::Text(error)) => return Err(usage(&error)),
    };
    for directory in DIRECTORIES {
        if let Some(file) = read(&Path::new(directory).join(name.file_name()))? {
            return Ok(RequestedPolicy::named(name, file.policy));
        }
    }
    let Some(preset) = Preset::find(&name) else {
        let directories = DIRECTORIES.join(", ");
        return Err(usage(&format!(
            "no such policy in {directories} or compiled in ('ddictl policy list' shows all)"
        )));
    };
    let file = preset.file().map_err(|error| usage(&error))?;
    Ok(RequestedPolicy::named(name, file.policy))
}

/// Every policy that can be named, by name, as [`resolve`] would find it.
///
/// # Errors
/// As [`resolve`].
pub fn list() -> Result<Vec<ListedPolicy>, OperationError> {
    let mut policies: BTreeMap<String, ListedPolicy> = BTreeMap::new();
    for path in search_path::files(&DIRECTORIES, "policy")?.into_values() {
        let name = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(name) = name.filter(|name| name.parse::<PolicyName>().is_ok())
            && let Some(file) = read(&path)?
        {
            let (description, policy) = (file.description, file.policy);
            let listed =
                ListedPolicy { name: name.to_owned(), path: Some(path.clone()), description, policy };
            policies.insert(name.to_owned(), listed);
        }
    }
    for preset in PRESETS {
        let file = preset
            .file()
            .map_err(|source| OperationError::system("reading the image policy", preset.name, source))?;
        policies.entry(preset.name.to_owned()).or_insert_with(|| ListedPolicy {
            name: preset.name.to_owned(),
            path: None,
            description: file.description,
            policy: file.policy,
        });
    }
    Ok(policies.into_values().collect())
}

/// Reads a policy file; `None` where there is none.
fn read(path: &Path) -> Result<Option<PolicyFile>, OperationError> {
    let doing = "reading the image policy";
    let failing =
        |source: Box<dyn std::error::Error + Send + Sync>| OperationError::system(doing, path, source);
    let Some(content) = search_path::read_small_file(doing, path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(content).map_err(|error| failing(error.into()))?;
    PolicyFile::parse(&text).map(Some).map_err(|error| failing(error.into()))
}
