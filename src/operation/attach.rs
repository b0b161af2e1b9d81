//! Attaching an image file: where it lies, under the guard of dm-verity, or a copy in memory that nobody can change and
//! that is verified there.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::format::image_class::ImageClass;
use crate::format::loop_reference::LoopReference;
use crate::format::units::{ByteLength, ByteOffset, Extent, merged};
use crate::image::dissection::TreePlace;
use crate::image::plan::{Access, ActivationPlan};
use crate::image::presets::RequestedPolicy;
use crate::kernel::memory::{MemoryFile, available_memory};

use super::activatable::{Activatable, ImageOnDisk};
use super::activate::{
    Activation, ActivationOptions, Attached, GuardOptions, Reservation, device_references,
};
use super::cancel::Cancel;
use super::companions::{CompanionSettings, Companions};
use super::detach::reap;
use super::error::OperationError;
use super::fault;
use super::leaves::EarlyLeaves;
use super::observer::Observer;
use super::source::{ImageFile, ImageSource};
use super::trust_store::TrustStore;
use super::unlock::Keys;
use super::verified_image::{ImmutableImage, VerifiedImage, plan};

/// How much is copied at once.
const PIECE: u64 = 1 << 20;

/// What is to be attached, and how.
#[derive(Debug)]
pub struct AttachRequest {
    /// The image.
    pub image: PathBuf,
    /// What it is for: with the name of its file that decides who may sign it.
    pub class: ImageClass,
    /// What is looked at beside it.
    pub companions: CompanionSettings,
    /// The name of the links; `None` for the file's own name.
    pub reference: Option<LoopReference>,
    /// What is required of the image.
    pub policy: RequestedPolicy,
    /// Whether what may be written shall be.
    pub access: Access,
    /// Whether to attach a copy in memory.
    pub in_memory: bool,
    /// How the kernel is to guard what is verified.
    pub guard: GuardOptions,
    /// What opens encrypted partitions; without, they are attached as they are.
    pub keys: Option<RefCell<Keys<'static>>>,
}

impl AttachRequest {
    /// A copy in memory goes with the attachment: nothing that is written to it would last.
    pub(super) fn access(&self) -> Access {
        if self.in_memory { Access::ReadOnly } else { self.access }
    }

    /// Whom to trust with this image.
    pub(super) fn trust(&self, trust: &TrustStore) -> TrustStore {
        trust.for_file(Some(self.class), &self.image.to_string_lossy())
    }

    pub(super) const fn options(&self) -> ActivationOptions<'_> {
        ActivationOptions { guard: self.guard, policy: &self.policy, keys: self.keys.as_ref() }
    }
}

/// The reference that an attachment of this file has unless another one is given: its name.
///
/// # Errors
/// [`OperationError::Usage`] where the name cannot be a reference.
pub fn default_reference(image: &std::path::Path) -> Result<LoopReference, OperationError> {
    let name = image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.parse().map_err(|error| {
        OperationError::Usage(format!(
            "naming the devices of '{}': {error}: give another name with --loop-ref=",
            image.display()
        ))
    })
}

/// What [`attach`] would do.
///
/// # Errors
/// As [`attach`], as far as it can be known.
pub fn plan_attach(
    request: &AttachRequest,
    trust: &TrustStore,
    cancel: &Cancel,
) -> Result<(LoopReference, ActivationPlan), OperationError> {
    let trust = &request.trust(trust);
    let reference = match &request.reference {
        Some(reference) => reference.clone(),
        None => default_reference(&request.image)?,
    };
    let image = ImageFile::open_with_companions(&request.image, &request.companions)?;
    let plan = plan(&image, trust, &request.policy, request.access(), cancel)?;
    device_references(&reference, &plan)?;
    Ok((reference, plan))
}

/// Attaches an image file: as it lies there, guarded by dm-verity, or a copy in memory that was verified in full.
///
/// # Errors
/// [`OperationError`]; nothing is left behind then.
pub fn attach(
    request: &AttachRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Attached, OperationError> {
    activate(request, trust, observer, cancel)?.make_permanent(observer, cancel)
}

/// As [`attach`], with devices that go with the returned value unless they are kept.
///
/// # Errors
/// [`OperationError`]; nothing is left behind then.
pub(super) fn activate(
    request: &AttachRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Activation, OperationError> {
    reap(observer)?;
    let trust = &request.trust(trust);
    // A look at the file refuses early what is to be refused. It is a hint: what counts is done again.
    let (reference, _) = plan_attach(request, trust, cancel)?;
    let image = ImageFile::open_with_companions(&request.image, &request.companions)?;
    let source = std::fs::canonicalize(&request.image)
        .map_err(|source| OperationError::system("resolving", &request.image, source))?
        .display()
        .to_string();
    let reservation = Reservation::make(&reference, &source)?;
    if request.in_memory {
        let verified = copy_into_memory(&image, &source, request, trust, observer, cancel)
            .and_then(|copy| {
                VerifiedImage::verify(copy, EarlyLeaves::default(), trust, &request.policy, observer, cancel)
            })
            .and_then(|verified| fault::point("attach:verified").map(|()| verified));
        match verified {
            Ok(verified) => {
                reservation.activate(Activatable::Verified(&verified), request.options(), observer, cancel)
            }
            Err(cause) => Err(reservation.undo(cause)),
        }
    } else {
        let planned = ImageOnDisk::plan(image, &source, trust, &request.policy, request.access(), cancel);
        match planned {
            Ok(planned) => {
                reservation.activate(Activatable::OnDisk(&planned), request.options(), observer, cancel)
            }
            Err(cause) => Err(reservation.undo(cause)),
        }
    }
}

/// Copies what dissection reads and what is planned into a sealed memory file. What is neither stays a hole.
fn copy_into_memory(
    image: &ImageFile,
    source: &str,
    request: &AttachRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<ImmutableImage, OperationError> {
    let memory = |source| OperationError::system("copying into memory", &request.image, source);
    let recorder = Recorder { image, extents: Mutex::new(Vec::new()) };
    let plan = plan(&recorder, trust, &request.policy, Access::ReadOnly, cancel)?;
    let mut extents = recorder.extents.into_inner().unwrap_or_default();
    for device in &plan.devices {
        extents.push(device.extent);
        extents.extend(device.verity.as_ref().and_then(|verity| verity.set.tree_in_image()));
    }
    let extents = merged(extents, ByteLength::ZERO);
    let length = extents.iter().map(|extent| extent.length().bytes()).sum::<u64>();
    let needed = length.saturating_add(tree_beside(&plan).unwrap_or(ByteLength::ZERO).bytes());
    let available = available_memory().map_err(memory_error(&request.image))?.bytes();
    if needed > available {
        let problem = format!("{needed} bytes of memory are needed and {available} can be had");
        return Err(OperationError::state("copying into memory", request.image.display(), problem));
    }
    let file = MemoryFile::create("ddictl", image.size()).map_err(memory_error(&request.image))?;
    observer.started("copying into memory", Some(ByteLength::new(length)));
    let copied = copy(image, &file, &extents, observer, cancel);
    observer.finished();
    copied?;
    fault::point("attach:copied")?;
    let sealed = file.seal().map_err(memory_error(&request.image))?;
    let copy = sealed.file().try_clone().map_err(memory)?;
    let companions = companions_in_memory(image, &plan, request)?;
    Ok(ImmutableImage::new(copy, source, image.size(), None).with_companions(companions))
}

/// How much of the file beside an image its hash tree takes, from the superblock on; `None` where it lies in the image.
fn tree_beside(plan: &ActivationPlan) -> Option<ByteLength> {
    let mut sets = plan.devices.iter().filter_map(|device| Some(&device.verity.as_ref()?.set));
    let set = sets.find(|set| set.hash == TreePlace::Beside)?;
    Some(ByteLength::new(set.tree_extent.end().bytes()))
}

/// What lies beside the image, with the hash tree in a sealed memory file if there is one that is used.
fn companions_in_memory(
    image: &ImageFile,
    plan: &ActivationPlan,
    request: &AttachRequest,
) -> Result<Companions, OperationError> {
    let memory = |source| OperationError::system("copying into memory", &request.image, source);
    let companions = image.companions().try_clone().map_err(memory)?;
    let Some(size) = tree_beside(plan) else {
        return Ok(companions);
    };
    let file = MemoryFile::create("ddictl", size).map_err(memory_error(&request.image))?;
    let mut offset = 0;
    while offset < size.bytes() {
        let length = ByteLength::new(size.bytes().saturating_sub(offset).min(PIECE));
        let part = Extent::new(ByteOffset::new(offset), length);
        for bytes in companions.read_tree(part.as_slice())? {
            file.write_at(&bytes, offset).map_err(|source| memory_error(&request.image)(source))?;
        }
        offset = offset.saturating_add(PIECE);
    }
    let sealed = file.seal().map_err(memory_error(&request.image))?;
    Ok(companions.with_tree_in(sealed.file().try_clone().map_err(memory)?, size))
}

fn memory_error(
    path: &std::path::Path,
) -> impl FnOnce(crate::kernel::memory::MemoryError) -> OperationError + '_ {
    move |source| OperationError::system("copying into memory", path, source)
}

fn copy(
    image: &ImageFile,
    file: &MemoryFile,
    extents: &[Extent],
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(), OperationError> {
    let mut buffer = Vec::new();
    for extent in extents {
        let mut offset = extent.start().bytes();
        while offset < extent.end().bytes() {
            cancel.check()?;
            let length = extent.end().bytes().saturating_sub(offset).min(PIECE);
            buffer.resize(usize::try_from(length).unwrap_or_default(), 0);
            image.read_at(ByteOffset::new(offset), &mut buffer)?;
            // Zeros are there already, at no cost.
            if buffer.iter().any(|byte| *byte != 0) {
                file.write_at(&buffer, offset)
                    .map_err(|source| OperationError::system("copying into memory", image.path(), source))?;
            }
            observer.advanced(ByteLength::new(length));
            offset = offset.saturating_add(length);
        }
    }
    Ok(())
}

/// Remembers what was read of an image.
struct Recorder<'a> {
    image: &'a ImageFile,
    extents: Mutex<Vec<Extent>>,
}

impl ImageSource for Recorder<'_> {
    fn size(&self) -> ByteLength {
        self.image.size()
    }

    fn name(&self) -> &str {
        self.image.name()
    }

    fn companions(&self) -> &Companions {
        self.image.companions()
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        if let Ok(mut seen) = self.extents.lock() {
            seen.extend_from_slice(extents);
        }
        self.image.read(extents)
    }
}
