//! From an archive on a server to a tree of files under its name.
//!
//! The archive is kept as it comes, without a name, and verified as a whole before the first byte of it is
//! decompressed or read as a tar. It is unpacked into a hidden directory whose name is recorded before it is made, and
//! which root alone can enter; complete, that gets its name in one step. While it is unpacked, the room of what was read
//! of the archive is given back.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::fetch::archive::{ArchiveError, ArchiveLimits, ArchiveReader};
use crate::fetch::decompress::{DecoderLimits, DecompressError, Opened};
use crate::fetch::download::Download as Transfer;
use crate::format::tar::Kind;
use crate::format::units::ByteLength;
use crate::image::presets::RequestedPolicy;
use crate::image::tree::allows_tree;
use crate::kernel::mount::{allow_tree, lends_no_rights};
use crate::kernel::placed_file::{AnonymousFile, give_back_beginning};
use crate::kernel::tree::{
    TreeError, TreeOptions, TreeWriter, Unkept, has_file, make_root, only_directory, open_directory,
    remove_tree, rename_tree,
};
use crate::operation::activate::Reservation;
use crate::operation::cancel::Cancel;
use crate::operation::detach::reap;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::image_directory::{self, Medium};
use crate::operation::observer::Observer;
use crate::operation::record::{Owner, Record};
use crate::operation::tree::file_name;
use crate::operation::trust_store::TrustStore;
use crate::trust::download::{CheckedDownload, DownloadDigest};

use super::download::Download;
use super::name::{expect_plain_name, reference_of_tree};
use super::remote::client;
use super::room::room_for;
use super::spool::spool;
use super::verification::Verification;
use super::{PullRequest, open, prepare};

/// How much of the archive is read before its room is given back.
const GIVEN_BACK: u64 = 16 << 20;
/// What a file takes in memory beside its contents, at least.
const BYTES_OF_A_FILE: u64 = 1024;
/// How many keywords that are not known are told.
const MOST_KEYWORDS: usize = 8;
/// What a tree of an operating system has: by one of these it is known.
const RELEASES: [&str; 2] = ["usr/lib/os-release", "etc/os-release"];

/// An archive that is to be unpacked.
#[derive(Debug)]
pub struct TarRequest {
    /// What is to be pulled, and how. Its policy is not asked.
    pub pull: PullRequest,
    /// The policy, where one was given in words.
    pub policy: Option<RequestedPolicy>,
    /// Device nodes are made.
    pub device_nodes: bool,
}

/// Pulls, verifies and unpacks an archive.
///
/// # Errors
/// [`OperationError`]; nothing is left behind then.
pub fn pull_tar(
    request: &TarRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Record, OperationError> {
    let pull = &request.pull;
    let trust = &pull.trust(trust);
    let name = &pull.name;
    let reference = reference_of_tree(name)?;
    expect_plain_name(name)?;
    let directory = pull.directory.absolute()?;
    reap(observer)?;
    let target = directory.path.join(name);
    if target.symlink_metadata().is_ok() {
        let problem = "it is there already: detach it, remove it, or choose another NAME";
        return Err(OperationError::state("placing the tree as", target.display(), problem));
    }
    let (verification, transfer) = ask(request, trust, observer, cancel)?;
    // The whole archive is kept once, and what comes out of it has to fit as well.
    room_for(&directory, transfer.total().map(ByteLength::new), &pull.url)?;
    let room = room_for(&directory, None, &pull.url)?;
    let mut reservation = Reservation::make(&reference, &pull.url.without_secrets())?;
    let unpacked =
        image_directory::prepare(&directory, &target, room, None, &mut reservation).and_then(|root| {
            let mut download = Download::new(transfer, true, &pull.url, observer, cancel)?;
            let spooled =
                spool(&mut download, || AnonymousFile::create_in(root.as_fd()), room, &pull.url, observer)?;
            let checked = verify(spooled.digest, &verification, request)?;
            let place = Place { root: &root, directory: &directory.path, target: &target, room };
            place.unpack(spooled.file, request, &checked, &mut reservation, observer, cancel)
        });
    match (unpacked, directory.medium) {
        (Ok(()), Medium::Memory) => reservation.keep_placed(),
        (Ok(()), Medium::Disk) => reservation.leave_placed(),
        (Err(cause), _) => Err(reservation.undo(cause)),
    }
}

/// Who would vouch for an archive, and whether the policy would take it: as far as it can be known before it comes.
///
/// # Errors
/// As [`pull_tar`].
pub fn plan_tar(
    request: &TarRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Option<String>, OperationError> {
    expect_plain_name(&request.pull.name)?;
    // That it can be had is all that is known of it.
    let (verification, _) = ask(request, trust, observer, cancel)?;
    Ok(verification.expected().vouched_by().map(|by| by.to_string()))
}

/// Asks who vouches for an archive, and then for the archive: what the policy cannot take is not downloaded.
fn ask(
    request: &TarRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(Verification, Transfer), OperationError> {
    let TarRequest { pull, policy, .. } = request;
    let client = client(pull, cancel);
    let verification = prepare(pull, &client, trust, observer, cancel)?;
    let vouched = verification.expected().vouched_by().is_some();
    allows_tree(policy.as_ref(), vouched).map_err(|refusal| refused(pull, refusal))?;
    let transfer = open(&client, &pull.url, observer, cancel)?;
    Ok((verification, transfer))
}

fn refused(
    request: &PullRequest,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> OperationError {
    OperationError::Archive { archive: request.url.to_string(), source: source.into() }
}

/// Compares what came with what was expected, and asks the policy again: now there is a proof.
fn verify(
    digest: Option<DownloadDigest>,
    verification: &Verification,
    request: &TarRequest,
) -> Result<CheckedDownload, OperationError> {
    let checked = verification.check(digest)?.ok_or_else(|| {
        OperationError::state("verifying", &request.pull.url, "expected the digest of what came, found none")
    })?;
    allows_tree(request.policy.as_ref(), checked.verified().is_some())
        .map_err(|refusal| refused(&request.pull, refusal))?;
    fault::point("pull:verified")?;
    Ok(checked)
}

/// Where a tree is to be.
struct Place<'a> {
    root: &'a File,
    directory: &'a Path,
    target: &'a Path,
    room: ByteLength,
}

impl Place<'_> {
    /// Unpacks an archive beside its place, and puts it there once it is complete.
    fn unpack(
        &self,
        spool: AnonymousFile,
        request: &TarRequest,
        checked: &CheckedDownload,
        reservation: &mut Reservation,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<(), OperationError> {
        let making = |error| OperationError::system("making a directory for", self.target, error);
        let hidden = self.hidden()?;
        reservation.will_unpack(Some((self.target.to_owned(), hidden.clone())))?;
        fault::point("pull:tree-recorded")?;
        let hidden_name = file_name(&hidden);
        let tree = match make_root(self.root.as_fd(), hidden_name) {
            Ok(tree) => tree,
            Err(error) => {
                // What has the name now, if anything, is somebody else's: undoing must leave it alone.
                reservation.will_unpack(None)?;
                return Err(making(error));
            }
        };
        fault::point("pull:tree-made")?;
        if reservation.has_own_tmpfs() {
            allow_tree(self.directory, self.root.as_fd(), self.room.bytes() / BYTES_OF_A_FILE)
                .map_err(|source| OperationError::system("making room in", self.directory, source))?;
        }
        let writer = tree.try_clone().map_err(|source| OperationError::system("opening", &hidden, source))?;
        let lends_nothing = lends_no_rights(self.root.as_fd())
            .map_err(|source| OperationError::system("examining", self.directory, source))?;
        let privileged = lends_nothing || !is_open_to_all(self.directory)?;
        let options = TreeOptions { device_nodes: request.device_nodes, privileged };
        let work = Unpacking { request, room: self.room, observer, cancel };
        work.run(spool.into_file(), TreeWriter::new(writer, options))?;
        fault::point("pull:unpacked")?;
        cancel.check()?;
        self.put(&tree, hidden_name, request, checked, reservation, observer)?;
        // Whoever wanted to stop meanwhile is not left with a tree.
        Ok(cancel.check()?)
    }

    /// The name of the directory while it is unpacked: of this process and no other.
    fn hidden(&self) -> Result<PathBuf, OperationError> {
        let Owner { pid, start_time } = Owner::this_process()?;
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        Ok(self.directory.join(format!(".{name}.ddictl-{pid}-{start_time}")))
    }

    /// Gives the complete tree its name. A single directory at the top that holds the tree of an operating system takes
    /// the place of the whole, as archives of such trees are often made from outside.
    fn put(
        &self,
        tree: &File,
        hidden: &OsStr,
        request: &TarRequest,
        checked: &CheckedDownload,
        reservation: &mut Reservation,
        observer: &dyn Observer,
    ) -> Result<(), OperationError> {
        let naming = |error: TreeError| OperationError::system("placing the tree as", self.target, error);
        let examining = |error: io::Error| OperationError::system("examining", self.target, error);
        let is_system = |directory: &File| RELEASES.iter().any(|path| has_file(directory.as_fd(), path));
        let inner = match only_directory(tree.as_fd()).map_err(naming)? {
            Some(name) if !is_system(tree) => {
                let inner = open_directory(tree.as_fd(), &name).map_err(examining)?;
                is_system(&inner).then_some((name, inner))
            }
            _ => None,
        };
        let top = inner.as_ref().map_or(tree, |(_, inner)| inner);
        let digest = data_encoding::HEXLOWER.encode(checked.digest());
        let authenticated = checked.verified().map(|verified| verified.by().to_string());
        match &authenticated {
            Some(by) => observer.note(&format!("the archive is authentic: {by}")),
            None if checked.was_compared() => observer.note(
                "nobody vouches for the archive: sums that nobody signed find damage, and no adversary",
            ),
            None => observer.note("nobody vouches for the archive: it was not compared with anything"),
        }
        let policy = request.policy.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        reservation.will_name(&top.metadata().map_err(examining)?, Some(digest), policy, authenticated)?;
        let to = (self.root.as_fd(), file_name(self.target));
        match &inner {
            Some((name, _)) => {
                rename_tree((tree.as_fd(), name), to).map_err(naming)?;
                fault::point("pull:tree-named")?;
                remove_tree(self.root.as_fd(), hidden).map_err(naming)?;
            }
            None => rename_tree((self.root.as_fd(), hidden), to).map_err(naming)?,
        }
        fault::point("pull:tree-placed")
    }
}

/// Whether users other than root get into a directory, as far as the directories above tell.
fn is_open_to_all(directory: &Path) -> Result<bool, OperationError> {
    for above in directory.ancestors() {
        let metadata =
            above.metadata().map_err(|source| OperationError::system("examining", above, source))?;
        let closed_to_group = metadata.mode() & 0o010 == 0 || metadata.gid() == 0;
        if metadata.mode() & 0o001 == 0 && closed_to_group {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The work of unpacking.
struct Unpacking<'a> {
    request: &'a TarRequest,
    room: ByteLength,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
}

impl Unpacking<'_> {
    fn run(&self, mut spool: File, mut tree: TreeWriter) -> Result<(), OperationError> {
        let url = self.request.pull.url.to_string();
        let reading = |error: io::Error| OperationError::system("reading the archive of", &url, error);
        spool.rewind().map_err(reading)?;
        let length = spool.metadata().map_err(reading)?.len();
        let input = BufReader::with_capacity(1 << 18, Consumed { file: spool, read: 0, given_back: 0 });
        // A header takes more of an archive than the room that its member is counted with at least.
        let limits = DecoderLimits::new(ByteLength::new(self.room.bytes().saturating_mul(2)));
        self.observer.started("unpacking", Some(ByteLength::new(length)));
        let written = match Opened::open(input, limits) {
            Ok(Opened::Plain(_, input)) => self.write(input, &mut tree),
            Ok(Opened::Compressed(decoder)) => self.write(decoder, &mut tree),
            Err(error) => Err(reading(error)),
        };
        self.observer.finished();
        written?;
        for Unkept { attribute, first, members, reason } in
            tree.finish().map_err(|error| self.failed(error))?
        {
            self.observer.warning(&format!(
                "ignoring the extended attribute '{attribute}' of {members} members, of '{first}' first: {reason}"
            ));
        }
        Ok(())
    }

    fn write(&self, input: impl Read, tree: &mut TreeWriter) -> Result<(), OperationError> {
        let mut archive = ArchiveReader::new(input, ArchiveLimits::within(self.room));
        let mut keywords = Vec::new();
        while let Some(member) = archive.next_member().map_err(|error| self.unreadable(error))? {
            self.cancel.check()?;
            for keyword in &member.ignored {
                if keywords.len() < MOST_KEYWORDS && !keywords.contains(keyword) {
                    keywords.push(keyword.clone());
                    self.observer.warning(&format!("ignoring '{keyword}' of '{}'", member.path));
                }
            }
            let is_file = matches!(member.kind, Kind::File { .. });
            let new = tree.make(member).map_err(|error| self.failed(error))?;
            if let (true, Some(new)) = (is_file, new) {
                while let Some(piece) = archive.piece().map_err(|error| self.unreadable(error))? {
                    self.cancel.check()?;
                    new.write_at(piece.bytes, piece.offset).map_err(|error| self.failed(error))?;
                    self.observer.advanced(ByteLength::of(piece.bytes));
                }
                tree.complete(new).map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    fn unreadable(&self, error: ArchiveError) -> OperationError {
        let url = &self.request.pull.url;
        match error {
            ArchiveError::Reading(error) => match DecompressError::from_io(error) {
                Ok(error) => refused(&self.request.pull, error),
                Err(error) => OperationError::system("reading the archive of", url.to_string(), error),
            },
            ArchiveError::TooLarge { limit } => {
                let problem =
                    format!("its members need more than the {limit} bytes of memory that can be had");
                OperationError::state("unpacking", url, problem)
            }
            error => refused(&self.request.pull, error),
        }
    }

    fn failed(&self, error: TreeError) -> OperationError {
        let url = &self.request.pull.url;
        if error.is_about_the_archive() {
            refused(&self.request.pull, error)
        } else if error.is_about_room() {
            OperationError::state("unpacking", url, format!("no room is left: {error}"))
        } else {
            OperationError::system("unpacking", url.to_string(), error)
        }
    }
}

/// A file of which what was read gives its room back.
struct Consumed {
    file: File,
    read: u64,
    given_back: u64,
}

impl fmt::Debug for Consumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumed").field("read", &self.read).finish_non_exhaustive()
    }
}

impl Read for Consumed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read = self.read.saturating_add(u64::try_from(count).unwrap_or_default());
        if self.read.saturating_sub(self.given_back) >= GIVEN_BACK {
            give_back_beginning(&self.file, ByteLength::new(self.read));
            self.given_back = self.read;
        }
        Ok(count)
    }
}
