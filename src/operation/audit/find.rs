//! Which images there are in what was named.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fetch::url::ImageUrl;
use crate::format::gpt::begins_with_table;
use crate::format::units::{ByteLength, ByteOffset};

use super::{Coverage, Target};
use crate::operation::cancel::{Cancel, Interrupted};
use crate::operation::companions::CompanionSettings;
use crate::operation::error::{OperationError, image_name};
use crate::operation::source::{ImageFile, ImageSource};
use crate::operation::uki::sections;

/// How deep directories may lie in each other.
const MAXIMUM_DEPTH: usize = 64;

/// How many entries all directories that were named may have together.
const MAXIMUM_ENTRIES: usize = 1_000_000;

/// The ends of names that say 'image'.
const IMAGE_ENDS: [&[u8]; 3] = [b".raw", b".img", b".ddi"];

/// The end of names of programs for firmware, in either case: the unified kernel images among them are judged, too.
const PROGRAM_END: &[u8] = b".efi";

/// How much of a file of another name is looked at: the places where a partition table can begin.
const BEGINNING: usize = 8192;

/// Something to judge.
pub(super) enum Found {
    /// An open image.
    Image { name: String, image: Box<ImageFile> },
    /// An image on a server.
    Remote(ImageUrl),
    /// What should be one and cannot be read.
    Unreadable { name: String, error: OperationError },
}

/// Opens every image, in the order in which they were named, those of a directory by their names. After this nothing has
/// to be opened any more.
pub(super) fn find(
    targets: Vec<Target>,
    companions: &CompanionSettings,
    cancel: &Cancel,
) -> Result<(Vec<Found>, Coverage), Interrupted> {
    let mut search = Search { companions, cancel, found: Vec::new(), entries: 0, other_files: 0 };
    for target in targets {
        match target {
            Target::Url(url) => search.found.push(Found::Remote(url)),
            Target::Path(path) if is_directory(&path) => {
                let before = search.found.len();
                let (files, entries) = (search.other_files, search.entries);
                search.directory(&path, 0)?;
                if search.found.len() == before {
                    let problem = format!(
                        "expected images (names that end in .raw, .img or .ddi, files with a partition table, or unified kernel \
                         images whose names end in .efi), found none among {} file(s) and {} entries",
                        search.other_files.saturating_sub(files),
                        search.entries.saturating_sub(entries)
                    );
                    search.unreadable(
                        &path,
                        OperationError::state("looking for images in", path.display(), problem),
                    );
                }
            }
            Target::Path(path) => {
                let opened = ImageFile::open_with_companions(&path, companions);
                search.push(&path, opened);
            }
        }
    }
    let coverage = Coverage { images: search.found.len(), other_files: search.other_files };
    Ok((search.found, coverage))
}

/// Whether a name that was given is a directory: here a symbolic link is followed, because somebody wrote it.
fn is_directory(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

struct Search<'a> {
    companions: &'a CompanionSettings,
    cancel: &'a Cancel,
    found: Vec<Found>,
    entries: usize,
    other_files: usize,
}

impl Search<'_> {
    /// Everything below a directory, depth first, by names. What is neither a file nor a directory is passed over, symbolic
    /// links among them: they may lead anywhere.
    fn directory(&mut self, directory: &Path, depth: usize) -> Result<(), Interrupted> {
        // A directory has its place in the order by its whole path, and the stack of what is to be done is ours.
        let mut waiting = vec![(directory.to_owned(), depth, true)];
        while let Some((path, depth, is_directory)) = waiting.pop() {
            self.cancel.check()?;
            if !is_directory {
                self.file(&path);
                continue;
            }
            if depth > MAXIMUM_DEPTH {
                let problem =
                    format!("expected at most {MAXIMUM_DEPTH} directories in each other: name those below");
                self.unreadable(&path, OperationError::state("looking into", path.display(), problem));
                continue;
            }
            match self.entries_of(&path) {
                Ok(entries) => waiting.extend(
                    entries
                        .into_iter()
                        .rev()
                        .map(|(name, is_directory)| (path.join(name), depth.saturating_add(1), is_directory)),
                ),
                Err(error) => self.unreadable(&path, error),
            }
        }
        Ok(())
    }

    /// The files and directories in a directory by their names, the latter with `true`.
    fn entries_of(&mut self, path: &Path) -> Result<Vec<(OsString, bool)>, OperationError> {
        let looking = |source: io::Error| OperationError::system("looking into", path, source);
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(looking)? {
            let entry = entry.map_err(looking)?;
            self.entries = self.entries.saturating_add(1);
            if self.entries > MAXIMUM_ENTRIES {
                let problem =
                    format!("expected at most {MAXIMUM_ENTRIES} entries in all: name directories below");
                return Err(OperationError::state("looking into", path.display(), problem));
            }
            let kind = entry.file_type().map_err(looking)?;
            if kind.is_file() || kind.is_dir() {
                entries.push((entry.file_name(), kind.is_dir()));
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// A file that was found: an image by its name, or by its beginning; or a unified kernel image by both.
    fn file(&mut self, path: &Path) {
        let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        let named = IMAGE_ENDS.iter().any(|end| name.ends_with(end));
        let opened = ImageFile::open_found(path, self.companions);
        match opened {
            Err(_) if !named => self.other_files = self.other_files.saturating_add(1),
            Ok(image) if !named && !has_table(&image) && !is_unified_kernel(name, &image) => {
                self.other_files = self.other_files.saturating_add(1);
            }
            opened => self.push(path, opened),
        }
    }

    fn push(&mut self, path: &Path, opened: Result<ImageFile, OperationError>) {
        match opened {
            Ok(image) => {
                let name = image.name().to_owned();
                self.found.push(Found::Image { name, image: Box::new(image) });
            }
            Err(error) => self.unreadable(path, error),
        }
    }

    fn unreadable(&mut self, path: &Path, error: OperationError) {
        self.found.push(Found::Unreadable { name: image_name(path), error });
    }
}

/// Whether a file has the name of a program and is a unified kernel image, or a PE file that is not sane enough to tell.
fn is_unified_kernel(name: &[u8], image: &ImageFile) -> bool {
    let end = name.len().checked_sub(PROGRAM_END.len()).and_then(|at| name.get(at..));
    if !end.is_some_and(|end| end.eq_ignore_ascii_case(PROGRAM_END)) {
        return false;
    }
    match sections(image) {
        Ok(Some(Ok(sections))) => sections.iter().any(|section| section.name == ".linux"),
        Ok(Some(Err(_))) => true,
        Ok(None) | Err(_) => false,
    }
}

/// Whether a file begins as a disk with a GUID partition table does.
fn has_table(image: &ImageFile) -> bool {
    let length = image.size().min(ByteLength::of(&[0; BEGINNING])).in_memory().unwrap_or_default();
    let mut beginning = vec![0; length];
    image.read_at(ByteOffset::new(0), &mut beginning).is_ok() && begins_with_table(&beginning)
}
