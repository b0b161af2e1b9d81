//! Files in a FAT file system (Microsoft's 'FAT: General Overview of On-Disk Format' 1.03, and its long names), looked for
//! by patterns: names, sizes, and where their bytes lie. Nothing is written, and no content of a file is looked at.
//!
//! Reading is somebody else's job: [`FatWalk::advance`] says which bytes are needed next, [`FatWalk::feed`] takes them. What
//! it follows is the word of whoever made the image, so that everything has a limit: bytes, entries, files, fragments. A
//! cluster belongs to one file or directory; where a chain comes to one a second time it ends with an error, and the
//! walk goes on with the rest.
//!
//! It is our own, because crates that read FAT do their own I/O through `Read` and `Seek`, which a parser here does not.

use std::collections::{BTreeSet, VecDeque};
use std::mem::take;

use super::sparse::{SparseBytes, Window};
use super::superblock::{Vfat, VfatError, VfatRoot};
use super::units::{ByteLength, ByteOffset, Extent};

mod chain;
mod directory;
mod error;
mod path;
mod volume;

use chain::{Chain, Follow, Ledger};
use directory::Entry;
use volume::Volume;

pub use error::{FatError, FatProblem};
pub use path::{FatPath, FatPattern};

/// The beginning of a file system: its boot sector with the BIOS parameter block, in bytes.
const BOOT_SECTOR: u64 = 512;

/// The most that a directory may take: 2^16 entries of 32 bytes, as the specification has it.
const MAXIMUM_DIRECTORY: u64 = 2 << 20;

/// How many entries all directories that are gone through may have together.
const MAXIMUM_ENTRIES: usize = 1 << 17;

/// How many directories are gone into.
const MAXIMUM_DIRECTORIES: usize = 1024;

/// How many directories may lie in each other: a path has a name for each.
const MAXIMUM_DEPTH: usize = 16;

/// How many runs of clusters all files and directories may have together: real ones have a few each.
const MAXIMUM_RUNS: usize = 1 << 16;

/// How many problems are told; the walk ends with the last of them.
const MAXIMUM_PROBLEMS: usize = 16;

/// What a walk may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FatLimits {
    /// How many bytes of boot sector, tables and directories are read.
    pub bytes: ByteLength,
    /// How many files are taken.
    pub files: usize,
}

/// A file that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatFile {
    /// Its path.
    pub path: FatPath,
    /// Its size.
    pub size: ByteLength,
    /// Where its bytes lie, in their order; together they are as long as the file.
    runs: Vec<Extent>,
}

impl FatFile {
    /// Where a part of the file lies, piece by piece; `None` where it leaves the file.
    #[must_use]
    pub fn places(&self, part: Extent) -> Option<Vec<Extent>> {
        if !Extent::from_beginning(self.size).contains(part) {
            return None;
        }
        let mut places = Vec::new();
        let mut at = 0_u64;
        for run in &self.runs {
            let end = at.saturating_add(run.length().bytes());
            let from = part.start().bytes().max(at);
            let to = part.end().bytes().min(end);
            if from < to {
                let inner = run
                    .part(ByteLength::new(from.saturating_sub(at)), ByteLength::new(to.saturating_sub(from)));
                places.push(inner?);
            }
            at = end;
        }
        Some(places)
    }
}

/// What a walk came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FatContents {
    /// The files, in the order of their paths.
    pub files: Vec<FatFile>,
    /// What is wrong with the file system, as far as it was gone through; in the same order.
    pub problems: Vec<FatProblem>,
}

/// A search for files under way.
#[derive(Debug, Clone)]
pub struct FatWalk {
    extent: Extent,
    limits: FatLimits,
    patterns: Vec<FatPattern>,
    bytes: SparseBytes,
    volume: Option<Volume>,
    ledger: Ledger,
    pending: VecDeque<Pending>,
    files: Vec<FatFile>,
    problems: Vec<FatProblem>,
    /// How many bytes were asked for.
    asked: u64,
    entries: usize,
    directories: usize,
    /// How many files fitted, of which some may turn out to be damaged.
    taken: usize,
    ended: bool,
}

/// Something whose clusters are looked for.
#[derive(Debug, Clone)]
struct Pending {
    path: FatPath,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The root directory of a FAT12 or FAT16.
    Area(Extent),
    Directory(Chain),
    File {
        size: ByteLength,
        chain: Chain,
    },
}

/// What came of one that was pending.
enum Step {
    Wants(Vec<Extent>),
    Entries(Vec<Entry>),
    File(FatFile),
}

impl FatWalk {
    /// The search for files in the file system that fills `extent` of an image. A file counts whose path fits one of the
    /// patterns.
    #[must_use]
    pub fn new(extent: Extent, patterns: Vec<FatPattern>, limits: FatLimits) -> Self {
        Self {
            extent,
            limits,
            patterns,
            bytes: SparseBytes::new(),
            volume: None,
            ledger: Ledger::default(),
            pending: VecDeque::new(),
            files: Vec::new(),
            problems: Vec::new(),
            asked: 0,
            entries: 0,
            directories: 0,
            taken: 0,
            ended: false,
        }
    }

    /// Another search of the same file system: what was read for this one need not be read again, and counts.
    #[must_use]
    pub fn again(self, patterns: Vec<FatPattern>) -> Self {
        let Self { extent, limits, bytes, asked, .. } = self;
        Self { bytes, asked, ..Self::new(extent, patterns, limits) }
    }

    /// Goes on as far as what was fed allows, and says what is needed next; nothing once the search has ended.
    pub fn advance(&mut self) -> Vec<Extent> {
        match self.go_on() {
            Ok(wanted) => wanted,
            Err(error) => {
                self.stop(FatPath::root(), error);
                Vec::new()
            }
        }
    }

    /// Takes bytes of the image. What was fed once is never replaced.
    pub fn feed(&mut self, start: ByteOffset, bytes: &[u8]) {
        self.bytes.insert(start, bytes);
    }

    /// What was found, once. Where bytes that were wanted did not come, that is a problem.
    pub fn finish(&mut self) -> FatContents {
        if !self.ended {
            self.stop(FatPath::root(), FatError::Unread);
        }
        self.files.sort_by(|one, other| one.path.cmp(&other.path));
        self.problems.sort_by(|one, other| one.path.cmp(&other.path));
        FatContents { files: take(&mut self.files), problems: take(&mut self.problems) }
    }

    /// The end of a search that cannot go on.
    fn stop(&mut self, path: FatPath, error: FatError) {
        self.problems.push(FatProblem { path, error });
        self.pending.clear();
        self.ended = true;
    }

    fn go_on(&mut self) -> Result<Vec<Extent>, FatError> {
        if self.ended {
            return Ok(Vec::new());
        }
        if self.volume.is_none() {
            let boot = self.extent.part(ByteLength::ZERO, ByteLength::new(BOOT_SECTOR));
            let boot = boot.ok_or(VfatError::Truncated)?;
            if self.bytes.get(boot).is_none() {
                return self.ask(vec![boot]);
            }
            self.begin()?;
        }
        let Some(volume) = self.volume else { return Ok(Vec::new()) };
        let mut wanted = BTreeSet::new();
        let mut waiting = VecDeque::new();
        while let Some(mut pending) = self.pending.pop_front() {
            match self.step(&volume, &mut pending) {
                Ok(Step::Wants(extents)) => {
                    wanted.extend(extents);
                    waiting.push_back(pending);
                }
                Ok(Step::Entries(entries)) => {
                    if let Err(error) = self.enter(&volume, &pending.path, entries) {
                        self.stop(pending.path, error);
                        return Ok(Vec::new());
                    }
                }
                Ok(Step::File(file)) => self.files.push(file),
                Err(error) => {
                    if self.problems.len().saturating_add(1) >= MAXIMUM_PROBLEMS {
                        self.stop(pending.path, error);
                        return Ok(Vec::new());
                    }
                    self.problems.push(FatProblem { path: pending.path, error });
                }
            }
        }
        self.pending = waiting;
        self.ended = self.pending.is_empty();
        self.ask(wanted.into_iter().collect())
    }

    /// What may still be asked for.
    fn ask(&mut self, wanted: Vec<Extent>) -> Result<Vec<Extent>, FatError> {
        let sum = |sum: u64, extent: &Extent| sum.saturating_add(extent.length().bytes());
        self.asked = wanted.iter().fold(self.asked, sum);
        if self.asked > self.limits.bytes.bytes() {
            return Err(FatError::TooMuch { limit: self.limits.bytes });
        }
        Ok(wanted)
    }

    /// Begins with the root directory.
    fn begin(&mut self) -> Result<(), FatError> {
        let vfat = Vfat::parse(&Window::new(&self.bytes, self.extent))?;
        if let Some(table) = vfat.layout().active_table {
            return Err(FatError::ActiveTable { table });
        }
        let volume = Volume::new(self.extent, &vfat).ok_or(VfatError::Truncated)?;
        let kind = match vfat.layout().root {
            VfatRoot::Area(area) => {
                let offset = ByteLength::new(area.start().bytes());
                Kind::Area(self.extent.part(offset, area.length()).ok_or(VfatError::Truncated)?)
            }
            VfatRoot::Cluster(first) => {
                Kind::Directory(Chain::of_directory(&volume, first, FatPath::root(), &mut self.ledger))
            }
        };
        self.volume = Some(volume);
        self.pending.push_back(Pending { path: FatPath::root(), kind });
        Ok(())
    }

    fn step(&mut self, volume: &Volume, pending: &mut Pending) -> Result<Step, FatError> {
        let chain = match &mut pending.kind {
            Kind::Area(area) => return Ok(self.content(&[*area])),
            Kind::Directory(chain) | Kind::File { chain, .. } => chain,
        };
        let runs = match chain.follow(volume, &self.bytes, &mut self.ledger)? {
            Follow::Wants(page) => return Ok(Step::Wants(vec![page])),
            Follow::Done(runs) => runs,
        };
        match &pending.kind {
            Kind::File { size, .. } => {
                let runs = cut(&runs, *size);
                Ok(Step::File(FatFile { path: pending.path.clone(), size: *size, runs }))
            }
            _ => Ok(self.content(&runs)),
        }
    }

    /// The entries of a directory, or which bytes of it are still wanted.
    fn content(&self, runs: &[Extent]) -> Step {
        let missing: Vec<Extent> =
            runs.iter().copied().filter(|run| self.bytes.get(*run).is_none()).collect();
        if !missing.is_empty() {
            return Step::Wants(missing);
        }
        let pieces: Vec<&[u8]> = runs.iter().filter_map(|run| self.bytes.get(*run)).collect();
        Step::Entries(directory::entries(&pieces.concat()))
    }

    /// Looks for what fits a pattern, or may lead to it.
    fn enter(&mut self, volume: &Volume, directory: &FatPath, entries: Vec<Entry>) -> Result<(), FatError> {
        self.entries = self.entries.saturating_add(entries.len());
        if self.entries > MAXIMUM_ENTRIES {
            return Err(FatError::TooManyEntries);
        }
        for Entry { name, is_directory, first_cluster, size } in entries {
            let path = directory.join(name);
            let fits = |pattern: &FatPattern| {
                if is_directory { pattern.leads_through(&path) } else { pattern.matches(&path) }
            };
            if path.depth() > MAXIMUM_DEPTH || !self.patterns.iter().any(fits) {
                continue;
            }
            let first = volume.first(first_cluster);
            let kind = if is_directory {
                self.directories = self.directories.saturating_add(1);
                if self.directories > MAXIMUM_DIRECTORIES {
                    return Err(FatError::TooManyDirectories);
                }
                Kind::Directory(Chain::of_directory(volume, first, path.clone(), &mut self.ledger))
            } else {
                self.taken = self.taken.saturating_add(1);
                if self.taken > self.limits.files {
                    return Err(FatError::TooManyFiles { limit: self.limits.files });
                }
                let size = ByteLength::new(size.into());
                let chain = Chain::of_file(volume, first, size, path.clone(), &mut self.ledger);
                Kind::File { size, chain }
            };
            self.pending.push_back(Pending { path, kind });
        }
        Ok(())
    }
}

/// The first `size` bytes of what these runs are together.
fn cut(runs: &[Extent], size: ByteLength) -> Vec<Extent> {
    let mut rest = size.bytes();
    let mut cut = Vec::with_capacity(runs.len());
    for run in runs {
        let part = run.truncated(ByteLength::new(rest));
        rest = rest.saturating_sub(part.length().bytes());
        if !part.is_empty() {
            cut.push(part);
        }
    }
    cut
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the file is shared with test programs that see it from outside")]
#[path = "../../../tests/support/fat_builder.rs"]
mod builder;

#[cfg(test)]
mod tests;
