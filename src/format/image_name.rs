//! Local names of images: what may be one, and what is left of the last component of a URL.

/// What is taken off the end of a file name to name an image, as often as one of them is there.
const IMAGE_SUFFIXES: [&str; 10] =
    [".xz", ".gz", ".bz2", ".zst", ".sysext.raw", ".confext.raw", ".raw", ".qcow2", ".img", ".bin"];

/// What is taken off the end of a file name to name a tree.
const TREE_SUFFIXES: [&str; 12] =
    [".tar", ".gz", ".xz", ".zst", ".bz2", ".lz4", ".tgz", ".txz", ".tzst", ".tbz2", ".tbz", ".tlz4"];

/// What is left of a file name without the suffixes of images; may be empty.
#[must_use]
pub fn without_image_suffixes(file_name: &str) -> &str {
    without(file_name, &IMAGE_SUFFIXES)
}

/// What is left of a file name without the suffixes of archives; may be empty.
#[must_use]
pub fn without_tree_suffixes(file_name: &str) -> &str {
    without(file_name, &TREE_SUFFIXES)
}

fn without<'a>(mut name: &'a str, suffixes: &[&str]) -> &'a str {
    while let Some(shorter) = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = shorter;
    }
    name
}

/// Whether a text can be the local name of an image: it neither leads out of the directory for images nor hides in it,
/// and a terminal shows it as it is.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(|c: char| c == '/' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_go_as_long_as_there_are_any() {
        for (file, image, tree) in [
            ("root.raw.xz", "root", "root.raw"),
            ("root.sysext.raw.zst", "root", "root.sysext.raw"),
            ("a.qcow2", "a", "a.qcow2"),
            ("debian.tar.zst", "debian.tar", "debian"),
            ("debian.tgz", "debian.tgz", "debian"),
            (".raw", "", ".raw"),
            ("", "", ""),
        ] {
            assert_eq!((without_image_suffixes(file), without_tree_suffixes(file)), (image, tree), "{file}");
        }
    }

    #[test]
    fn a_name_stays_in_its_directory() {
        assert!(is_plain_name("root") && is_plain_name("a b") && is_plain_name("a..b"));
        for name in ["", ".", "..", ".hidden", "a/b", "/", "a\u{1b}", "a\n", "a\0"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
