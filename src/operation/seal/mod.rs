//! Sealing: a directory tree, or a file system that is there already, becomes a signed DDI.
//!
//! The layout is that of systemd-repart: an ESP where one is asked for, the file system, its hash tree, the signature
//! of the root hash. Everything that would differ between two runs is derived from a seed.

mod file_system;
mod identifiers;
mod table;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::format::designator::Designator;
use crate::format::partition_type::PartitionType;
use crate::format::root_hash::{HashAlgorithm, RootHash};
use crate::format::units::{ByteLength, Extent};
use crate::format::verity::{HashTreeGeometry, Salt, VerityBlockSize, VeritySuperblock};
use crate::format::verity_signature::VeritySignature;
use crate::trust::anchor::TrustAnchor;
use crate::trust::hash_tree::HashTreeVerifier;
use crate::trust::sealing::sign_root_hash;

use super::cancel::Cancel;
use super::error::OperationError;
use super::examine::native_architecture;
use super::observer::Observer;
use super::source::{ImageFile, ImageSource};
use super::verify::hash_tree_parameters;

pub use identifiers::Seed;

/// dm-verity blocks, data and hash: the size of a page, as every tool chooses.
const BLOCK_SIZE: u64 = 4096;
/// How much is hashed at once.
const PIECE: usize = 1 << 20;

/// Which tool makes the file system of a directory tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SealFormat {
    /// By `mksquashfs`, compressed with zstd.
    #[default]
    Squashfs,
    /// By `mkfs.erofs`.
    Erofs,
}

/// How the root hash is signed.
#[derive(Debug, Clone)]
pub struct SealKey {
    /// The private key in PEM.
    pub private_key: PathBuf,
    /// Its certificate in PEM.
    pub certificate: PathBuf,
}

/// What is to be sealed, and how.
#[derive(Debug, Clone)]
pub struct SealRequest {
    /// A directory tree, or a file with a file system.
    pub source: PathBuf,
    /// The image to make.
    pub output: PathBuf,
    /// Root or usr.
    pub designator: Designator,
    /// For a directory tree.
    pub format: SealFormat,
    /// A directory tree for an ESP in front of the file system.
    pub esp: Option<PathBuf>,
    /// Who signs; `None` for an image without signature, which the caller must have asked for.
    pub key: Option<SealKey>,
    /// What identifiers and salt are derived from; `None` for chance, or for [`Seed::FIXED`] with a time stamp.
    pub seed: Option<Seed>,
    /// The time stamp of a reproducible build, in seconds since 1970, as tools take it from `SOURCE_DATE_EPOCH`.
    pub source_date_epoch: Option<u64>,
    /// The label of the file system partition, with a version where one is wanted.
    pub label: Option<String>,
    /// Whether to replace an image that is there.
    pub force: bool,
}

/// An image that was sealed.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What the signature covers.
    pub root_hash: RootHash,
    /// The size of the image.
    pub size: ByteLength,
    /// The number of the partition with the file system.
    pub partition: u32,
}

/// Makes the image. It appears under its name only when it is complete.
///
/// # Errors
/// [`OperationError`] naming the file or tool; nothing is left behind then.
pub fn seal(
    request: &SealRequest,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Sealed, OperationError> {
    let (Some(hash_designator), Some(signature_designator)) =
        (request.designator.verity_hash(), request.designator.verity_signature())
    else {
        return Err(OperationError::Usage(format!(
            "sealing as '{}': only root and usr can have a hash tree",
            request.designator
        )));
    };
    if !request.force && request.output.symlink_metadata().is_ok() {
        let problem = "it exists already: remove it, or give --force to replace it";
        return Err(OperationError::state("writing the image", request.output.display(), problem));
    }
    let signing = request.key.as_ref().map(read_key).transpose()?;
    let directory = request.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = |what| {
        NamedTempFile::new_in(directory).map_err(|source| OperationError::system(what, directory, source))
    };

    let seed = match request.seed {
        Some(seed) => seed,
        None if request.source_date_epoch.is_some() => Seed::FIXED,
        None => Seed::random()?,
    };

    let mut data = temporary("making a temporary file in")?;
    observer.note(&format!("making the file system from '{}'", request.source.display()));
    file_system::make(request, seed, data.path(), cancel)?;
    file_system::pad(data.as_file_mut(), BLOCK_SIZE)
        .map_err(|source| OperationError::system("writing", data.path(), source))?;
    // The tools replace or rewrite the file; what counts is what has the name now.
    let data_path = data.path().to_owned();
    let data_file =
        File::open(&data_path).map_err(|source| OperationError::system("opening", &data_path, source))?;
    let data_size =
        data_file.metadata().map_err(|source| OperationError::system("reading", &data_path, source))?.len();
    let data_image =
        ImageFile::from_file(data_file, &data_path.display().to_string(), ByteLength::new(data_size));

    let tree = hash(&data_image, seed, observer, cancel)?;
    let signature = match &signing {
        None => None,
        Some((key, certificate)) => Some(sign(&tree.root_hash, key, certificate)?),
    };
    let esp = match &request.esp {
        None => None,
        Some(tree) => {
            let file = temporary("making a temporary file in")?;
            file_system::make_esp(tree, seed, file.path(), cancel)?;
            Some(file)
        }
    };

    let architecture = native_architecture()?;
    let of_type = |designator| PartitionType::Designated { designator, architecture: Some(architecture) };
    let label = |suffix: &str| match &request.label {
        Some(label) => label.clone(),
        None => format!("{}{suffix}", PartitionType::name(of_type(request.designator)).unwrap_or_default()),
    };
    let mut contents = Vec::new();
    if let Some(esp) = &esp {
        contents.push(table::Content {
            partition_type: PartitionType::Designated { designator: Designator::Esp, architecture: None },
            uuid: seed.guid("esp"),
            label: "esp".to_owned(),
            read_only: false,
            source: table::Bytes::File(esp.path().to_owned()),
        });
    }
    contents.push(table::Content {
        partition_type: of_type(request.designator),
        uuid: tree.root_hash.data_partition_uuid().guid(),
        label: label(""),
        read_only: true,
        source: table::Bytes::File(data_path),
    });
    let partition = u32::try_from(contents.len()).unwrap_or(u32::MAX);
    contents.push(table::Content {
        partition_type: of_type(hash_designator),
        uuid: tree.root_hash.hash_partition_uuid().guid(),
        label: label("-verity"),
        read_only: true,
        source: table::Bytes::Memory(tree.bytes),
    });
    if let Some(signature) = signature {
        contents.push(table::Content {
            partition_type: of_type(signature_designator),
            uuid: seed.guid("signature"),
            label: label("-verity-sig"),
            read_only: true,
            source: table::Bytes::Memory(signature),
        });
    }

    cancel.check()?;
    let mut output = temporary("making a temporary file in")?;
    let size = table::write(output.as_file_mut(), seed.guid("disk"), &contents)
        .map_err(|source| OperationError::system("writing the image", &request.output, source))?;
    let persisting = |source: io::Error| OperationError::system("writing the image", &request.output, source);
    file_system::make_readable(output.as_file()).map_err(persisting)?;
    output.as_file().sync_all().map_err(persisting)?;
    if request.force {
        output.persist(&request.output).map_err(|error| persisting(error.error))?;
    } else {
        output.persist_noclobber(&request.output).map_err(|error| persisting(error.error))?;
    }
    Ok(Sealed { root_hash: tree.root_hash, size, partition })
}

/// The contents of a hash partition.
struct Tree {
    root_hash: RootHash,
    bytes: Vec<u8>,
}

fn hash(
    data: &ImageFile,
    seed: Seed,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Tree, OperationError> {
    let state = |problem: String| OperationError::state("hashing", data.name(), problem);
    let superblock = VeritySuperblock {
        uuid: seed.guid("verity"),
        algorithm: HashAlgorithm::Sha256,
        data_block_size: VerityBlockSize::DEFAULT,
        hash_block_size: VerityBlockSize::DEFAULT,
        data_blocks: data.size().bytes() / BLOCK_SIZE,
        salt: Salt::new(&seed.bytes("salt")).unwrap_or_default(),
    };
    let geometry = HashTreeGeometry::new(&superblock).map_err(|error| state(error.to_string()))?;
    let verifier =
        HashTreeVerifier::new(hash_tree_parameters(&superblock)).map_err(|error| state(error.to_string()))?;
    observer.started("hashing", Some(data.size()));
    let fed = feed(data, &verifier, observer, cancel);
    observer.finished();
    fed?;
    let (tree, root_hash) = verifier.into_tree().map_err(|error| state(error.to_string()))?;
    let start = geometry.tree_extent().start().bytes();
    let mut bytes = superblock.to_bytes().to_vec();
    bytes.resize(usize::try_from(start).map_err(|error| state(error.to_string()))?, 0);
    bytes.extend_from_slice(&tree);
    Ok(Tree { root_hash, bytes })
}

fn feed(
    data: &ImageFile,
    verifier: &HashTreeVerifier,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(), OperationError> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0_u64;
    while offset < data.size().bytes() {
        cancel.check()?;
        let length = usize::try_from(data.size().bytes() - offset).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        data.file()
            .read_exact_at(piece, offset)
            .map_err(|source| OperationError::system("reading", data.path(), source))?;
        verifier
            .feed(offset / BLOCK_SIZE, piece)
            .map_err(|error| OperationError::state("hashing", data.name(), error.to_string()))?;
        observer.advanced(ByteLength::of(piece));
        offset = offset.saturating_add(ByteLength::of(piece).bytes());
    }
    Ok(())
}

fn read_key(key: &SealKey) -> Result<(Vec<u8>, Vec<u8>), OperationError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|source| OperationError::system("reading", path, source));
    Ok((read(&key.private_key)?, read(&key.certificate)?))
}

fn sign(root_hash: &RootHash, key: &[u8], certificate: &[u8]) -> Result<Vec<u8>, OperationError> {
    let signing = |source: Box<dyn std::error::Error + Send + Sync>| {
        OperationError::system("signing", root_hash.to_string(), source)
    };
    let der = sign_root_hash(root_hash, key, certificate).map_err(|error| signing(error.into()))?;
    let anchor =
        TrustAnchor::from_pem("the certificate", certificate).map_err(|error| signing(error.into()))?;
    let signature = VeritySignature {
        root_hash: root_hash.clone(),
        signature: der,
        certificate_fingerprint: Some(*anchor.fingerprint().as_bytes()),
        unknown_keys: Vec::new(),
    };
    signature.to_partition(VeritySignature::DEFAULT_PARTITION_SIZE).map_err(|error| signing(error.into()))
}

/// Copies the bytes of one file into another, leaving holes where the source has zeros.
fn copy_sparse(source: &File, target: &mut File, extent: Extent) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0_u64;
    while offset < extent.length().bytes() {
        let length = usize::try_from(extent.length().bytes() - offset).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        source.read_exact_at(piece, offset)?;
        if piece.iter().any(|byte| *byte != 0) {
            target.seek(SeekFrom::Start(extent.start().bytes().saturating_add(offset)))?;
            target.write_all(piece)?;
        }
        offset = offset.saturating_add(ByteLength::of(piece).bytes());
    }
    Ok(())
}
