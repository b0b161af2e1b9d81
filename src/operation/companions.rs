//! The files beside an image, each opened or fetched once: from then on they are values and descriptors, never names.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use crate::format::companion::CompanionKind;
use crate::format::designator::Designator;
use crate::format::units::{ByteLength, Extent};
use crate::format::verity::VeritySuperblock;
use crate::image::beside::{Beside, TreeBeside};
use crate::kernel;
use crate::trust::signature::MAXIMUM_SIGNATURE;

use super::error::{OperationError, image_name};

/// The most bytes of a root hash in text: its 128 digits, and what editors leave around them.
pub(super) const MAXIMUM_ROOT_HASH: usize = 4 << 10;

/// Which files are looked at beside an image that lies in a file.
#[derive(Debug, Clone, Default)]
pub struct CompanionSettings {
    /// Whether those that have the image's name are, too.
    pub automatic: bool,
    /// Those that were named, each in place of one that has the image's name.
    pub named: Vec<(CompanionKind, NamedCompanion)>,
}

/// A companion that was named.
#[derive(Debug, Clone)]
pub enum NamedCompanion {
    /// The file.
    File(PathBuf),
    /// What would be in it.
    Bytes(Vec<u8>),
}

/// What is beside an image. Of each kind there is at most one.
#[derive(Debug, Default)]
pub struct Companions {
    files: Vec<Companion>,
}

/// One file beside an image.
#[derive(Debug)]
pub struct Companion {
    /// What it is.
    pub kind: CompanionKind,
    /// Where it came from, for messages: a path, or a URL without credentials.
    pub origin: String,
    /// Whether somebody named or demanded it, so that it must not go unused.
    pub demanded: bool,
    /// What is in it.
    pub content: CompanionContent,
}

/// What is in a file beside an image.
#[derive(Debug)]
pub enum CompanionContent {
    /// All of it. What is small is held like this.
    Bytes(Vec<u8>),
    /// A file to read it from by position. Hash trees are held like this.
    File {
        /// Open for reading.
        file: File,
        /// How many bytes it has.
        size: ByteLength,
    },
}

impl Companions {
    /// Nothing beside the image, for those that have nothing.
    pub const NONE: &'static Self = &Self::none();

    /// Nothing beside the image.
    #[must_use]
    pub const fn none() -> Self {
        Self { files: Vec::new() }
    }

    /// Opens what is beside the image in the file `image`, and what was named: each once.
    ///
    /// Names are systemd's: that of the image, without `.raw` if it ends in that, and what says the kind behind it.
    ///
    /// # Errors
    /// [`OperationError::System`] where one is there and cannot be read, or was named and is not there;
    /// [`OperationError::State`] where one is too large, or no regular file (nor, named for a hash tree, a block device).
    pub(super) fn open(image: &Path, settings: &CompanionSettings) -> Result<Self, OperationError> {
        let mut companions = Self::none();
        for kind in CompanionKind::PROTECTING {
            let named = settings.named.iter().find(|(of, _)| *of == kind).map(|(_, named)| named);
            let found = match named {
                Some(NamedCompanion::Bytes(bytes)) => Some(Companion {
                    kind,
                    origin: "base64:".to_owned(),
                    demanded: true,
                    content: CompanionContent::Bytes(bytes.clone()),
                }),
                Some(NamedCompanion::File(path)) => Some(open_one(kind, path, true)?),
                None => match beside(image, kind).filter(|_| settings.automatic) {
                    None => None,
                    Some(path) => match open_one(kind, &path, false) {
                        Err(OperationError::System { source, .. }) if is_not_found(source.as_ref()) => None,
                        other => Some(other?),
                    },
                },
            };
            if let Some(found) = found {
                companions.insert(found);
            }
        }
        Ok(companions)
    }

    /// Adds a file; it replaces one of the same kind.
    pub fn insert(&mut self, companion: Companion) {
        self.files.retain(|other| other.kind != companion.kind);
        self.files.push(companion);
    }

    /// How many bytes all of them have.
    pub(super) fn size(&self) -> ByteLength {
        let size = |companion: &Companion| match &companion.content {
            CompanionContent::Bytes(bytes) => ByteLength::of(bytes).bytes(),
            CompanionContent::File { size, .. } => size.bytes(),
        };
        ByteLength::new(self.files.iter().fold(0, |sum, companion| sum.saturating_add(size(companion))))
    }

    /// The file of this kind.
    #[must_use]
    pub fn get(&self, kind: CompanionKind) -> Option<&Companion> {
        self.files.iter().find(|companion| companion.kind == kind)
    }

    /// All of them, as values.
    pub(super) fn into_files(self) -> Vec<Companion> {
        self.files
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Companion> {
        self.files.iter()
    }

    /// The file with the hash tree.
    #[must_use]
    pub fn tree(&self) -> Option<&File> {
        match &self.get(CompanionKind::Verity)?.content {
            CompanionContent::File { file, .. } => Some(file),
            CompanionContent::Bytes(_) => None,
        }
    }

    /// The same files by other descriptors.
    ///
    /// # Errors
    /// The error of dup(2).
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let clone = |companion: &Companion| {
            let content = match &companion.content {
                CompanionContent::Bytes(bytes) => CompanionContent::Bytes(bytes.clone()),
                CompanionContent::File { file, size } => {
                    CompanionContent::File { file: file.try_clone()?, size: *size }
                }
            };
            let (kind, origin, demanded) = (companion.kind, companion.origin.clone(), companion.demanded);
            Ok(Companion { kind, origin, demanded, content })
        };
        Ok(Self { files: self.files.iter().map(clone).collect::<io::Result<_>>()? })
    }

    /// The same with the hash tree in another file, which is `size` bytes long.
    pub(super) fn with_tree_in(mut self, file: File, size: ByteLength) -> Self {
        if let Some(tree) = self.files.iter_mut().find(|companion| companion.kind == CompanionKind::Verity) {
            tree.content = CompanionContent::File { file, size };
        }
        self
    }

    /// What they say of the image.
    ///
    /// # Errors
    /// [`OperationError::System`] where the beginning of the hash tree cannot be read.
    pub(super) fn beside(&self) -> Result<Beside, OperationError> {
        let mut beside = Beside::default();
        for companion in &self.files {
            let origin = &companion.origin;
            match (&companion.content, companion.kind) {
                (CompanionContent::Bytes(bytes), CompanionKind::RootHash) => {
                    beside.add_root_hash(Designator::Root, origin, bytes);
                }
                (CompanionContent::Bytes(bytes), CompanionKind::UsrHash) => {
                    beside.add_root_hash(Designator::Usr, origin, bytes);
                }
                (CompanionContent::Bytes(bytes), CompanionKind::RootHashSignature) => {
                    beside.add_signature(Designator::Root, origin, bytes);
                }
                (CompanionContent::Bytes(bytes), CompanionKind::UsrHashSignature) => {
                    beside.add_signature(Designator::Usr, origin, bytes);
                }
                (CompanionContent::File { file, size }, CompanionKind::Verity) => {
                    let superblock = ByteLength::of(&[0; VeritySuperblock::SIZE]);
                    let mut beginning = vec![0; (*size).min(superblock).in_memory().unwrap_or_default()];
                    file.read_exact_at(&mut beginning, 0)
                        .map_err(|source| OperationError::system("reading", origin, source))?;
                    beside.set_tree(TreeBeside {
                        origin: origin.clone(),
                        size: *size,
                        beginning,
                        is_demanded: companion.demanded,
                    });
                }
                // The two ways to hold one go with the kind, see `open_one`.
                _ => {}
            }
        }
        Ok(beside)
    }

    /// Reads these extents of the file with the hash tree.
    ///
    /// # Errors
    /// [`OperationError::System`], also where the file ends too early; [`OperationError::State`] where there is none.
    pub(super) fn read_tree(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        let (Some(companion), Some(file)) = (self.get(CompanionKind::Verity), self.tree()) else {
            return Err(OperationError::state("reading", "the hash tree", "there is no file for it"));
        };
        let read = |extent: &Extent| {
            let mut buffer = vec![0; extent.length().in_memory().unwrap_or_default()];
            file.read_exact_at(&mut buffer, extent.start().bytes())
                .map_err(|source| OperationError::system("reading", &companion.origin, source))?;
            Ok(buffer)
        };
        extents.iter().map(read).collect()
    }
}

/// Where a companion of this kind lies that has the image's name.
fn beside(image: &Path, kind: CompanionKind) -> Option<PathBuf> {
    let name = image.file_name()?.as_bytes();
    let stem = name.strip_suffix(b".raw").unwrap_or(name);
    let mut beside = stem.to_vec();
    beside.extend_from_slice(kind.suffix().as_bytes());
    (!stem.is_empty()).then(|| image.with_file_name(OsString::from_vec(beside)))
}

fn is_not_found(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Opens one, without waiting for anybody who would write into a FIFO. Only one that was named may be a block device.
fn open_one(kind: CompanionKind, path: &Path, demanded: bool) -> Result<Companion, OperationError> {
    const DOING: &str = "opening the file beside the image";
    let opening = |source: io::Error| OperationError::system(DOING, path, source);
    let wrong = |problem: String| Err(OperationError::state(DOING, path.display(), problem));
    let file = kernel::open_foreign(path).map_err(opening)?;
    let metadata = file.metadata().map_err(opening)?;
    let is_device = metadata.file_type().is_block_device();
    let usable = metadata.is_file() || (is_device && demanded && kind == CompanionKind::Verity);
    if !usable {
        return wrong(
            "expected a regular file: leave it aside with --sidecars=no, or name another".to_owned(),
        );
    }
    let content = match kind {
        CompanionKind::Verity if is_device => {
            let size = kernel::block_device_size(file.as_fd())
                .map_err(|source| OperationError::system("finding the size of", path, source))?;
            CompanionContent::File { file, size }
        }
        CompanionKind::Verity => CompanionContent::File { file, size: ByteLength::new(metadata.len()) },
        _ => {
            let limit = match kind {
                CompanionKind::RootHash | CompanionKind::UsrHash => MAXIMUM_ROOT_HASH,
                _ => MAXIMUM_SIGNATURE,
            };
            let mut bytes = Vec::new();
            // One byte more than there may be tells whether there is more.
            let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            file.take(most).read_to_end(&mut bytes).map_err(opening)?;
            if bytes.len() > limit {
                return wrong(format!("expected at most {limit} bytes of a {kind} file, found more"));
            }
            CompanionContent::Bytes(bytes)
        }
    };
    Ok(Companion { kind, origin: image_name(path), demanded, content })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn of_each_kind_there_is_one() {
        let companion = |kind, text: &str| Companion {
            kind,
            origin: text.to_owned(),
            demanded: false,
            content: CompanionContent::Bytes(text.as_bytes().to_vec()),
        };
        let mut companions = Companions::none();
        for text in ["first", "second"] {
            companions.insert(companion(CompanionKind::RootHash, text));
        }
        companions.insert(companion(CompanionKind::UsrHash, "other"));
        assert_eq!(companions.iter().count(), 2);
        assert_eq!(companions.get(CompanionKind::RootHash).unwrap().origin, "second");
        assert!(companions.get(CompanionKind::Verity).is_none());
    }

    fn kinds(companions: &Companions) -> Vec<String> {
        companions.iter().map(|companion| companion.kind.to_string()).collect()
    }

    #[test]
    fn what_has_the_name_of_the_image_is_found_and_what_was_named_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["os.roothash", "os.usrhash.p7s", "os.verity", "os.nspawn", "other.img.roothash"] {
            fs::write(path(name), name).unwrap();
        }
        let automatic = CompanionSettings { automatic: true, named: Vec::new() };
        let open =
            |image: &str, settings: &CompanionSettings| Companions::open(&path(image), settings).unwrap();
        assert_eq!(kinds(&open("os.raw", &automatic)), ["roothash", "usrhash.p7s", "verity"]);
        assert_eq!(kinds(&open("os", &automatic)), ["roothash", "usrhash.p7s", "verity"]);
        assert_eq!(kinds(&open("other.img", &automatic)), ["roothash"]);
        for image in [".raw", "another.raw", "os.raw.raw"] {
            assert_eq!(kinds(&open(image, &automatic)), [""; 0], "{image}");
        }
        assert_eq!(kinds(&open("os.raw", &CompanionSettings::default())), [""; 0]);

        let named = |file| CompanionSettings {
            automatic: true,
            named: vec![(CompanionKind::RootHash, NamedCompanion::File(path(file)))],
        };
        let companions = open("os.raw", &named("other.img.roothash"));
        let root_hash = companions.get(CompanionKind::RootHash).unwrap();
        assert!(root_hash.origin.ends_with("other.img.roothash") && root_hash.demanded);
        let error = Companions::open(&path("os.raw"), &named("missing")).unwrap_err().with_causes();
        assert!(error.contains("missing") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn what_is_there_and_cannot_be_used_is_an_error_and_hangs_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let settings = CompanionSettings { automatic: true, named: Vec::new() };
        let refused = |words: &str| {
            let error = Companions::open(&path("os.raw"), &settings).unwrap_err().with_causes();
            assert!(error.contains("os.roothash") && error.contains(words), "{error}");
        };
        fs::create_dir(path("os.roothash")).unwrap();
        refused("expected a regular file");
        fs::remove_dir(path("os.roothash")).unwrap();
        nix::unistd::mkfifo(&path("os.roothash"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        refused("expected a regular file");
        fs::remove_file(path("os.roothash")).unwrap();
        std::os::unix::fs::symlink("os.roothash", path("os.roothash")).unwrap();
        refused("symbolic links");
        fs::remove_file(path("os.roothash")).unwrap();
        fs::write(path("os.roothash"), vec![b'a'; MAXIMUM_ROOT_HASH + 1]).unwrap();
        refused("at most 4096 bytes");
    }
}
