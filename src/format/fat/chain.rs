use std::collections::BTreeMap;

use super::super::sparse::SparseBytes;
use super::super::units::{ByteLength, Extent};
use super::error::FatError;
use super::path::FatPath;
use super::volume::{Next, Volume};
use super::{MAXIMUM_DIRECTORY, MAXIMUM_RUNS};

/// Which clusters have been seen, and whose they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    owners: Vec<FatPath>,
    /// Runs by their first cluster: the cluster behind them, and the index of the owner.
    runs: BTreeMap<u32, (u32, usize)>,
}

impl Ledger {
    fn owner(&mut self, path: FatPath) -> usize {
        self.owners.push(path);
        self.owners.len().saturating_sub(1)
    }

    fn owner_of(&self, cluster: u32) -> Option<usize> {
        let (_, (end, owner)) = self.runs.range(..=cluster).next_back()?;
        (cluster < *end).then_some(*owner)
    }

    /// Whether a cluster follows a run of the same owner without anything between.
    fn extend(&mut self, first: u32, cluster: u32) -> bool {
        match self.runs.get_mut(&first) {
            Some((end, _)) if *end == cluster => {
                *end = cluster.saturating_add(1);
                true
            }
            _ => false,
        }
    }
}

/// The clusters of a file or a directory, as far as they have been followed.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    owner: usize,
    /// How many clusters are looked for; `None` for all up to the end.
    needed: Option<u64>,
    /// What comes next, and after which cluster; `None` where the table has to be asked.
    next: Option<Next>,
    last: Option<u32>,
    found: u64,
    /// First cluster, and the one behind the last.
    runs: Vec<(u32, u32)>,
}

/// How far a chain has been followed.
pub(super) enum Follow {
    /// This part of the table is needed.
    Wants(Extent),
    /// All of it lies here.
    Done(Vec<Extent>),
}

impl Chain {
    /// Those of a directory: all until the end of the chain.
    pub(super) fn of_directory(volume: &Volume, first: u32, path: FatPath, ledger: &mut Ledger) -> Self {
        Self::new(volume, first, None, ledger.owner(path))
    }

    /// Those of a file: as many as its bytes need.
    pub(super) fn of_file(
        volume: &Volume,
        first: u32,
        size: ByteLength,
        path: FatPath,
        ledger: &mut Ledger,
    ) -> Self {
        let needed = size.bytes().div_ceil(volume.cluster_length().max(1));
        Self::new(volume, first, Some(needed), ledger.owner(path))
    }

    fn new(volume: &Volume, first: u32, needed: Option<u64>, owner: usize) -> Self {
        let next = if volume.has(first) { Next::Cluster(first) } else { Next::Outside(first) };
        Self { owner, needed, next: Some(next), last: None, found: 0, runs: Vec::new() }
    }

    /// Goes on as far as the table was read.
    pub(super) fn follow(
        &mut self,
        volume: &Volume,
        bytes: &SparseBytes,
        ledger: &mut Ledger,
    ) -> Result<Follow, FatError> {
        while self.needed != Some(self.found) {
            let next = match (self.next.take(), self.last) {
                (Some(next), _) => next,
                (None, None) => Next::End,
                (None, Some(last)) => match volume.next(bytes, last) {
                    Ok(next) => next,
                    Err(page) => return Ok(Follow::Wants(page)),
                },
            };
            match (next, self.needed) {
                (Next::Cluster(cluster), _) => self.add(volume, cluster, ledger)?,
                (Next::End, None) => break,
                (Next::End, Some(expected)) => {
                    return Err(FatError::Short { expected, found: self.found });
                }
                (Next::Outside(found), _) => {
                    return Err(FatError::Outside { after: self.last, found, clusters: volume.clusters() });
                }
            }
        }
        let place = |(first, end): &(u32, u32)| volume.run(*first, *end);
        Ok(Follow::Done(self.runs.iter().filter_map(place).collect()))
    }

    fn add(&mut self, volume: &Volume, cluster: u32, ledger: &mut Ledger) -> Result<(), FatError> {
        match ledger.owner_of(cluster) {
            Some(owner) if owner == self.owner => return Err(FatError::Loop { cluster }),
            Some(owner) => {
                let other = ledger.owners.get(owner).cloned().unwrap_or_else(FatPath::root);
                return Err(FatError::CrossLinked { cluster, other });
            }
            None => {}
        }
        let end = cluster.saturating_add(1);
        match self.runs.last_mut() {
            Some((first, last)) if ledger.extend(*first, cluster) => *last = end,
            _ => {
                if ledger.runs.len() >= MAXIMUM_RUNS {
                    return Err(FatError::TooManyRuns);
                }
                ledger.runs.insert(cluster, (end, self.owner));
                self.runs.push((cluster, end));
            }
        }
        self.last = Some(cluster);
        self.found = self.found.saturating_add(1);
        let length = self.found.saturating_mul(volume.cluster_length());
        // The last cluster may reach beyond what is a directory.
        if self.needed.is_none() && length >= MAXIMUM_DIRECTORY.saturating_add(volume.cluster_length()) {
            return Err(FatError::DirectoryTooLarge);
        }
        Ok(())
    }
}
