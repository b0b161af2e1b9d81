use std::fmt;

/// The path of a file or directory from the root of the file system on.
///
/// Names are as the file system has them, and may hold any character but a separator; for people they want escaping.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FatPath(Vec<String>);

impl FatPath {
    /// The root directory.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    pub(super) fn join(&self, name: String) -> Self {
        let mut names = self.0.clone();
        names.push(name);
        Self(names)
    }

    /// How many names it has.
    pub(super) const fn depth(&self) -> usize {
        self.0.len()
    }

    /// Its name; empty for the root directory.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The path of what it lies in; the root directory lies in itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0.get(..self.0.len().saturating_sub(1)).unwrap_or_default().to_vec())
    }
}

impl fmt::Display for FatPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// Which files are looked for: names by slashes, in each of which one `*` stands for any number of characters. Letters are
/// compared without regard to case, as the file system does it, those beyond ASCII excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatPattern(Vec<String>);

impl FatPattern {
    /// The pattern in `text`, from the root of the file system on. Both kinds of slashes count, empty names do not.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let names = text.split(['/', '\\']).filter(|name| !name.is_empty());
        Self(names.map(str::to_ascii_lowercase).collect())
    }

    /// Whether a path fits.
    #[must_use]
    pub fn matches(&self, path: &FatPath) -> bool {
        self.0.len() == path.0.len() && self.agrees(path)
    }

    /// Whether a path may lead to one that fits.
    pub(super) fn leads_through(&self, path: &FatPath) -> bool {
        self.0.len() > path.0.len() && self.agrees(path)
    }

    fn agrees(&self, path: &FatPath) -> bool {
        self.0.iter().zip(&path.0).all(|(pattern, name)| name_fits(pattern, &name.to_ascii_lowercase()))
    }
}

fn name_fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, behind)) => name.strip_prefix(before).is_some_and(|rest| rest.ends_with(behind)),
    }
}
