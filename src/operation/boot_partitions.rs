//! What the boot partitions of an image boot: unified kernel images and boot entries in its EFI system partition and its
//! XBOOTLDR, found and read without mounting anything.

use std::cmp::Reverse;

use crate::format::boot_entry::{BootEntry, MAXIMUM_BOOT_ENTRY};
use crate::format::fat::{FatContents, FatFile, FatLimits, FatPath, FatPattern, FatWalk};
use crate::format::units::{ByteLength, Extent};
use crate::image::dissection::{Dissection, Partition};
use crate::image::finding::{Finding, Level, Rule, printable};
use crate::image::uki::boot_partition::{
    BootFile, addon_is_for, boot_partitions, damaged, entry_command_line, in_file, lint_entry,
    lint_root_hashes, not_looked_into, patterns,
};
use crate::image::uki::{MAXIMUM_COMMAND_LINES, too_many_command_lines};
use crate::image::verdict::Verdict;

use super::cancel::Cancel;
use super::companions::Companions;
use super::error::OperationError;
use super::examine::Audited;
use super::source::ImageSource;
use super::uki::{KnownPolicies, Room, no_sane_program, read, sections};

/// Adds what is to be said of the boot partitions of an image, gravest first. None of it refuses an image: it is about the
/// machine that boots it.
///
/// # Errors
/// What reading said.
pub(super) fn look_into(
    known: &KnownPolicies,
    source: &dyn ImageSource,
    limits: FatLimits,
    cancel: &Cancel,
    audited: Audited,
) -> Result<Audited, OperationError> {
    let mut findings = Vec::new();
    if let Some(examined) = &audited.examined {
        let dissection = &examined.dissection;
        for partition in boot_partitions(dissection) {
            let look = Look { known, source, dissection, partition, cancel, room: Room::default() };
            findings.extend(look.findings(limits)?);
        }
    }
    Ok(with(audited, findings))
}

/// Says of the boot partitions of an image that they were not looked into.
pub(super) fn pass_over(audited: Audited) -> Audited {
    let dissection = audited.examined.as_ref().map(|examined| &examined.dissection);
    let findings = dissection.into_iter().flat_map(boot_partitions).map(not_looked_into).collect();
    with(audited, findings)
}

fn with(mut audited: Audited, mut findings: Vec<Finding>) -> Audited {
    // Of an image that was judged, an error is what refuses it.
    if audited.verdict != Verdict::NotJudged {
        findings.iter_mut().for_each(|finding| finding.level = finding.level.min(Level::Warning));
    }
    audited.findings.append(&mut findings);
    audited.findings.sort_by_key(|finding| (Reverse(finding.level), finding.rule, finding.partition));
    audited
}

/// One boot partition under examination.
struct Look<'a> {
    known: &'a KnownPolicies,
    source: &'a dyn ImageSource,
    dissection: &'a Dissection,
    partition: &'a Partition,
    cancel: &'a Cancel,
    room: Room,
}

/// A file of a boot partition that can be read as an image is.
struct Inner<'a> {
    source: &'a dyn ImageSource,
    file: &'a FatFile,
    name: String,
    companions: Companions,
}

/// An add-on with its command line.
struct Addon<'a> {
    path: &'a FatPath,
    command_line: Vec<u8>,
}

impl Look<'_> {
    fn findings(&self, limits: FatLimits) -> Result<Vec<Finding>, OperationError> {
        let mut walk = FatWalk::new(self.partition.extent, patterns(), limits);
        let FatContents { mut files, mut problems } = self.walk(&mut walk)?;
        let entries = self.entries(&files)?;
        // What boot entries name may lie anywhere.
        let named = |kind: fn(&BootEntry) -> Option<&String>| -> Vec<FatPattern> {
            let paths = entries.iter().filter_map(|(_, entry)| kind(entry));
            paths.filter(|path| !path.contains('*')).map(|path| FatPattern::new(path)).collect()
        };
        let kernels = named(|entry| entry.uki.as_ref());
        let mut elsewhere = named(|entry| entry.efi.as_ref());
        elsewhere.extend(named(|entry| entry.linux.as_ref()));
        elsewhere.extend(kernels.iter().cloned());
        if !elsewhere.is_empty() {
            let more = self.walk(&mut walk.again(elsewhere))?;
            let new = |file: &FatFile| BootFile::of(&file.path).is_none();
            files.extend(more.files.into_iter().filter(new));
            problems.extend(
                more.problems.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>(),
            );
        }
        let mut findings: Vec<Finding> =
            problems.iter().map(|problem| damaged(self.partition, problem)).collect();
        let addons = self.addons(&files)?;
        for file in &files {
            let is_named = kernels.iter().any(|kernel| kernel.matches(&file.path));
            let found = match BootFile::of(&file.path) {
                Some(BootFile::Addon | BootFile::Entry) => continue,
                Some(BootFile::UnifiedKernel) => self.kernel(file, true, &addons)?,
                Some(BootFile::Program) | None => self.kernel(file, is_named, &addons)?,
            };
            self.add(&mut findings, &file.path, found);
        }
        for (path, entry) in &entries {
            let mut found: Vec<Finding> = lint_entry(entry).into_iter().collect();
            let line = entry_command_line(entry);
            if line.is_some_and(|line| !self.room.take(ByteLength::of(line.as_bytes()))) {
                found.push(too_many_command_lines());
            } else if let Some(line) = line {
                found.extend(self.known.lint(line.as_bytes()));
                found.extend(lint_root_hashes(line.as_bytes(), self.dissection));
            }
            self.add(&mut findings, path, found);
        }
        Ok(findings)
    }

    fn add(&self, findings: &mut Vec<Finding>, path: &FatPath, found: Vec<Finding>) {
        findings.extend(found.into_iter().map(|finding| in_file(finding, self.partition, path)));
    }

    fn walk(&self, walk: &mut FatWalk) -> Result<FatContents, OperationError> {
        loop {
            self.cancel.check()?;
            // Each round asks for more of what is limited.
            let wanted = walk.advance();
            if wanted.is_empty() {
                return Ok(walk.finish());
            }
            for (extent, bytes) in wanted.iter().zip(self.source.read(&wanted)?) {
                walk.feed(extent.start(), &bytes);
            }
        }
    }

    fn inner<'a>(&'a self, file: &'a FatFile) -> Inner<'a> {
        let name = format!("{}:{}", self.source.name(), printable(&file.path.to_string()));
        Inner { source: self.source, file, name, companions: Companions::none() }
    }

    fn entries(&self, files: &[FatFile]) -> Result<Vec<(FatPath, BootEntry)>, OperationError> {
        let mut entries = Vec::new();
        for file in files.iter().filter(|file| BootFile::of(&file.path) == Some(BootFile::Entry)) {
            self.cancel.check()?;
            let length = file.size.min(ByteLength::new(MAXIMUM_BOOT_ENTRY));
            let bytes = read(&self.inner(file), Extent::from_beginning(length))?;
            entries.push((file.path.clone(), BootEntry::parse(&bytes)));
        }
        Ok(entries)
    }

    /// The add-ons that have a command line, in the order of their paths, in which the stub takes them.
    fn addons<'b>(&self, files: &'b [FatFile]) -> Result<Vec<Addon<'b>>, OperationError> {
        let mut addons = Vec::new();
        let mut room = MAXIMUM_COMMAND_LINES;
        for file in files.iter().filter(|file| BootFile::of(&file.path) == Some(BootFile::Addon)) {
            self.cancel.check()?;
            let inner = self.inner(file);
            let Some(Ok(sections)) = sections(&inner)? else { continue };
            let Some(line) = sections.iter().find(|section| section.name == ".cmdline") else { continue };
            // Those of all together are no longer than what is judged.
            let line = line.content.truncated(ByteLength::new(room));
            room = room.saturating_sub(line.length().bytes());
            addons.push(Addon { path: &file.path, command_line: read(&inner, line)? });
        }
        Ok(addons)
    }

    /// What is to be said of a program: nothing where it is no unified kernel image, and need not be one.
    fn kernel(
        &self,
        file: &FatFile,
        must_be_program: bool,
        addons: &[Addon<'_>],
    ) -> Result<Vec<Finding>, OperationError> {
        self.cancel.check()?;
        let inner = self.inner(file);
        let sections = match sections(&inner)? {
            Some(Ok(sections)) => sections,
            Some(Err(error)) => return Ok(vec![no_sane_program(&error)]),
            None if must_be_program => {
                let finding = Finding::of_image(Rule::UkiMalformed, "a PE file", "something else");
                return Ok(vec![finding]);
            }
            None => return Ok(Vec::new()),
        };
        // A boot menu, a shim, a shell.
        if !sections.iter().any(|section| section.name == ".linux") {
            return Ok(Vec::new());
        }
        let is_for = |addon: &&Addon<'_>| addon_is_for(addon.path, &file.path);
        let addons: Vec<&[u8]> =
            addons.iter().filter(is_for).map(|addon| addon.command_line.as_slice()).collect();
        let further = |line: &[u8]| lint_root_hashes(line, self.dissection);
        self.known.lint_profiles(&inner, &sections, &addons, &self.room, &further)
    }
}

impl ImageSource for Inner<'_> {
    fn size(&self) -> ByteLength {
        self.file.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn companions(&self) -> &Companions {
        &self.companions
    }

    fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>, OperationError> {
        let part = |extent: &Extent| {
            let places = self.file.places(*extent).ok_or_else(|| {
                OperationError::state("reading", &self.name, format!("nothing at {extent}"))
            })?;
            Ok(self.source.read(&places)?.concat())
        };
        extents.iter().map(part).collect()
    }
}
