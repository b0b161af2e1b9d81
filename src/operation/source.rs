//! Images to read from: opened once, read by position, never by path again.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use crate::format::units::{ByteLength, ByteOffset, Extent};
use crate::image::dissection::{Dissection, TreePlace, VeritySet};
use crate::image::survey::{Survey, SurveyOptions};
use crate::kernel;

use super::cancel::Cancel;
use super::companions::{CompanionSettings, Companions};
use super::error::{OperationError, image_name};

/// Rounds of reading that a survey may ask for; it needs twelve.
const MAXIMUM_ROUNDS: usize = 13;

/// Something that bytes of an image can be read from.
pub trait ImageSource: Sync {
    /// The size of the image.
    fn size(&self) -> ByteLength;

    /// The name for messages.
    fn name(&self) -> &str;

    /// Reads all of these extents, each of which lies within the image.
    ///
    /// # Errors
    /// Whatever the system or the network says; a source that became shorter is an error.
    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError>;

    /// What lies beside the image.
    fn companions(&self) -> &Companions {
        Companions::NONE
    }

    /// Reads these extents from where the hash tree of `set` lies: the image, or a file beside it.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_tree(&self, set: &VeritySet, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        match set.hash {
            TreePlace::Partition(_) => self.read(extents),
            TreePlace::Beside => self.companions().read_tree(extents),
        }
    }
}

/// An image in a file or on a block device, with what lies beside it.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    path: PathBuf,
    name: String,
    size: ByteLength,
    companions: Companions,
}

impl ImageFile {
    /// Opens an image for reading. A FIFO or a terminal does not hang here: it is refused.
    ///
    /// # Errors
    /// [`OperationError::System`] where it cannot be opened, [`OperationError::State`] where it is no file or device.
    pub fn open(path: &Path) -> Result<Self, OperationError> {
        let opening = |source: io::Error| OperationError::system("opening", path, source);
        Self::of_foreign(path, kernel::open_foreign(path).map_err(opening)?)
    }

    /// As [`Self::open_with_companions`], of a file that was found in a directory: a symbolic link is not followed.
    ///
    /// # Errors
    /// As [`Self::open_with_companions`].
    pub(super) fn open_found(path: &Path, settings: &CompanionSettings) -> Result<Self, OperationError> {
        let opening = |source: io::Error| OperationError::system("opening", path, source);
        let image = Self::of_foreign(path, kernel::open_found(path).map_err(opening)?)?;
        Ok(image.with_companions(Companions::open(path, settings)?))
    }

    fn of_foreign(path: &Path, file: File) -> Result<Self, OperationError> {
        let opening = |source: io::Error| OperationError::system("opening", path, source);
        let metadata = file.metadata().map_err(opening)?;
        let size = if metadata.is_file() {
            metadata.len()
        } else if metadata.file_type().is_block_device() {
            kernel::block_device_size(file.as_fd())
                .map_err(|source| OperationError::system("finding the size of", path, source))?
                .bytes()
        } else {
            let problem = "not a regular file or a block device: expected a disk image";
            return Err(OperationError::state("opening", path.display(), problem));
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            name: image_name(path),
            size: ByteLength::new(size),
            companions: Companions::none(),
        })
    }

    /// As [`Self::open`], with what lies beside it. A block device has only what was named: its directory is no place for
    /// files.
    ///
    /// # Errors
    /// As [`Self::open`], also for the files beside it.
    pub fn open_with_companions(path: &Path, settings: &CompanionSettings) -> Result<Self, OperationError> {
        let image = Self::open(path)?;
        let is_file = image.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let settings =
            CompanionSettings { automatic: settings.automatic && is_file, named: settings.named.clone() };
        let companions = Companions::open(path, &settings)?;
        Ok(image.with_companions(companions))
    }

    /// The same image with these files beside it.
    #[must_use]
    pub fn with_companions(self, companions: Companions) -> Self {
        Self { companions, ..self }
    }

    /// What lies beside it.
    pub(super) fn into_companions(self) -> Companions {
        self.companions
    }

    /// An image in a file that is open already, called `name`.
    #[must_use]
    pub fn from_file(file: File, name: &str, size: ByteLength) -> Self {
        Self { file, path: PathBuf::from(name), name: name.to_owned(), size, companions: Companions::none() }
    }

    /// The same image by another descriptor.
    pub(super) fn through(self, file: File) -> Self {
        Self { file, ..self }
    }

    /// The very same file, opened for writing, whatever has its name by now.
    ///
    /// # Errors
    /// [`OperationError::System`] where it cannot be written.
    pub fn reopen_for_writing(&self) -> Result<File, OperationError> {
        kernel::reopen_for_writing(self.file.as_fd())
            .map_err(|source| OperationError::system("opening for writing", &self.path, source))
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The path it was opened by, for messages and records.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`OperationError::System`], also where the file ends too early.
    pub fn read_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<(), OperationError> {
        self.file
            .read_exact_at(buffer, offset.bytes())
            .map_err(|source| OperationError::system("reading", &self.path, source))
    }
}

impl ImageSource for ImageFile {
    fn size(&self) -> ByteLength {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn companions(&self) -> &Companions {
        &self.companions
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        extents
            .iter()
            .map(|extent| {
                let length = extent.length().in_memory().ok_or_else(|| {
                    OperationError::state("reading", &self.name, "an extent larger than the address space")
                })?;
                let mut buffer = vec![0; length];
                self.read_at(extent.start(), &mut buffer)?;
                Ok(buffer)
            })
            .collect()
    }
}

/// Dissects an image from wherever it can be read.
///
/// # Errors
/// [`OperationError::Malformed`], or what reading said.
pub fn survey(
    source: &dyn ImageSource,
    options: SurveyOptions,
    cancel: &Cancel,
) -> Result<Dissection, OperationError> {
    let mut survey = Survey::new(source.size(), options);
    for _ in 0..MAXIMUM_ROUNDS {
        cancel.check()?;
        let wanted = survey.wanted();
        if wanted.is_empty() {
            break;
        }
        for (extent, bytes) in wanted.iter().zip(source.read(&wanted)?) {
            survey.feed(extent.start(), &bytes);
        }
    }
    survey.finish().map_err(|source_error| OperationError::Malformed {
        image: source.name().to_owned(),
        source: source_error,
    })
}
