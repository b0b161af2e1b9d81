//! Many images judged at once: files, directories, block devices and URLs, on all cores, in the order of their names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use crate::fetch::url::ImageUrl;
use crate::image::presets::RequestedPolicy;
use crate::image::uki::boot_partition::{LIMITS, REMOTE_LIMITS};
use crate::kernel::confinement::{self, Kept};
use crate::kernel::raise_file_limit;
use crate::trust::load_cryptography;

use super::boot_partitions;
use super::cancel::Cancel;
use super::companions::CompanionSettings;
use super::error::OperationError;
use super::examine::{Audited, audit};
use super::observer::Observer;
use super::source::ImageSource;
use super::trust_store::TrustStore;
use super::uki::KnownPolicies;

mod find;
mod remote;

use find::{Found, find};

/// How far the judging of images may be ahead of the reporting, in images: a slow one in front does not make the others
/// pile up in memory.
const AHEAD: usize = 64;

/// How many images on servers are asked for at once, whatever the number of cores: their time is spent waiting.
const AT_ONCE: usize = 8;

/// What is to be audited, as the user wrote it.
#[derive(Debug, Clone)]
pub enum Target {
    /// An image, or a directory of images.
    Path(PathBuf),
    /// An image on a server.
    Url(ImageUrl),
}

impl Target {
    /// Reads a word: an http or https URL, or else a path.
    ///
    /// # Errors
    /// [`OperationError::Fetch`] for what begins like a URL and is none.
    pub fn parse(word: OsString) -> Result<Self, OperationError> {
        let scheme = word.to_str().and_then(|text| text.split_once("://")).map(|(scheme, _)| scheme);
        match scheme {
            Some(scheme) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
                let text = word.to_string_lossy();
                let invalid = |source| OperationError::Fetch { url: text.to_string(), source };
                Ok(Self::Url(ImageUrl::parse(&text).map_err(invalid)?))
            }
            _ => Ok(Self::Path(word.into())),
        }
    }
}

/// Whether the boot partitions of an image are looked into for unified kernel images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootPartitions {
    /// Those of images in files; of one on a server it is said that they were not.
    InFiles,
    /// Those of every image.
    Everywhere,
    /// None, without a word.
    Nowhere,
}

/// How to audit.
#[derive(Debug)]
pub struct AuditRequest<'a> {
    /// What.
    pub targets: Vec<Target>,
    /// Whom to trust.
    pub trust: &'a TrustStore,
    /// What is required; `None` for nothing.
    pub policy: Option<&'a RequestedPolicy>,
    /// What lies beside the images.
    pub companions: CompanionSettings,
    /// Whether every data block is checked.
    pub deep: bool,
    /// Which images are looked at for what their boot partitions boot.
    pub boot_partitions: BootPartitions,
    /// Certificate authorities for https; empty for the system's.
    pub ca_certificates: Vec<PathBuf>,
    /// Whether the whole process, before the first byte of an image is looked at, gives up for good whatever the audit
    /// does not need: opening files, sockets and programs; with an image on a server, writing files and programs.
    pub confine: bool,
}

/// What became of one image.
#[derive(Debug)]
pub struct Judged {
    /// Its name: the path or URL, without credentials, fit for one line.
    pub image: String,
    /// What was found, or why it could not be read.
    pub outcome: Result<Audited, OperationError>,
}

/// What an audit went through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Coverage {
    /// How many images were looked for: those that were named, and those that were found in directories.
    pub images: usize,
    /// How many other files were in the directories.
    pub other_files: usize,
}

/// Audits everything, and tells `hear` of one image after another: in the order in which they were named, those of a
/// directory by their names.
///
/// # Errors
/// Those of `hear`; [`OperationError::Interrupted`], [`OperationError::Usage`] where the whole makes no sense. An image
/// that cannot be read is an outcome.
pub fn audit_all<E: From<OperationError>>(
    request: AuditRequest<'_>,
    observer: &dyn Observer,
    cancel: &Cancel,
    mut hear: impl FnMut(Judged) -> Result<(), E>,
) -> Result<Coverage, E> {
    let AuditRequest {
        targets,
        trust,
        policy,
        companions,
        deep,
        boot_partitions: which,
        ca_certificates,
        confine,
    } = request;
    let remote = targets.iter().any(|target| matches!(target, Target::Url(_)));
    if remote && deep {
        let problem = "--deep reads all of an image: pull those on servers first (ddictl pull raw)";
        return Err(OperationError::Usage(problem.to_owned()).into());
    }
    raise_file_limit();
    let (found, coverage) = find(targets, &companions, cancel).map_err(OperationError::from)?;
    let client = remote::client(ca_certificates, cancel);
    // Read before the images are, as everything else is.
    let known = KnownPolicies::load();
    let judge = |found: Found| match found {
        Found::Image { name, image } => {
            let whole = deep.then_some(&*image);
            let outcome = audit(&*image, trust, policy, whole, observer, cancel)
                .and_then(|audited| known.look_again(&*image, audited))
                .and_then(|audited| match which {
                    BootPartitions::Nowhere => Ok(audited),
                    _ => boot_partitions::look_into(&known, &*image, LIMITS, cancel, audited),
                });
            Judged { image: name, outcome }
        }
        Found::Remote(url) => {
            let outcome = remote::open(&client, &url, &companions, observer, cancel).and_then(|image| {
                let image: &dyn ImageSource = &*image;
                let audited = audit(image, trust, policy, None, observer, cancel)?;
                let audited = known.look_again(image, audited)?;
                match which {
                    BootPartitions::Nowhere => Ok(audited),
                    BootPartitions::InFiles => Ok(boot_partitions::pass_over(audited)),
                    BootPartitions::Everywhere => {
                        boot_partitions::look_into(&known, image, REMOTE_LIMITS, cancel, audited)
                    }
                }
            });
            Judged { image: url.without_secrets(), outcome }
        }
        Found::Unreadable { name, error } => Judged { image: name, outcome: Err(error) },
    };
    // Asked before, because it reads files.
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = match (deep, remote) {
        // The blocks of one image keep all cores busy.
        (true, _) => 1,
        (false, true) => cores.max(AT_ONCE),
        (false, false) => cores,
    };
    if confine {
        let kept = if remote { Kept::Network } else { Kept::OpenFiles };
        confine_process(kept, observer)?;
    }
    in_order(found, workers, judge, |judged| match judged {
        Judged { outcome: Err(error @ OperationError::Interrupted(_)), .. } => Err(error.into()),
        judged => hear(judged),
    })?;
    Ok(coverage)
}

/// Confines the process. A kernel that cannot is no reason to stop, and is told.
fn confine_process(kept: Kept, observer: &dyn Observer) -> Result<(), OperationError> {
    load_cryptography();
    let confined = confinement::confine(kept)
        .map_err(|source| OperationError::system("confining", "this process", source))?;
    let missing = [(confined.landlock, "Landlock"), (confined.system_calls, "seccomp")];
    for (_, what) in missing.iter().filter(|(there, _)| !there) {
        observer.note(&format!("this kernel has no {what}: images are looked at with less confinement"));
    }
    Ok(())
}

/// What the workers share.
struct Queue<T> {
    state: Mutex<State<T>>,
    turn: Condvar,
}

struct State<T> {
    rest: std::iter::Enumerate<std::vec::IntoIter<T>>,
    next: usize,
    /// How many have been reported.
    reported: usize,
    stopped: bool,
}

impl<T> Queue<T> {
    fn new(all: Vec<T>) -> Self {
        let rest = all.into_iter().enumerate();
        let state = State { rest, next: 0, reported: 0, stopped: false };
        Self { state: Mutex::new(state), turn: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one, as soon as it is not too far ahead.
    fn take(&self) -> Option<(usize, T)> {
        let mut state = self.lock();
        while !state.stopped && state.next >= state.reported.saturating_add(AHEAD) {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return None;
        }
        state.next = state.next.saturating_add(1);
        state.rest.next()
    }

    fn reported(&self) {
        let mut state = self.lock();
        state.reported = state.reported.saturating_add(1);
        self.turn.notify_all();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.turn.notify_all();
    }
}

/// Does `work` for all, at most `workers` at once, and tells `hear` of what came of each in their order. An error of
/// `hear` ends it: what was begun is finished, and nothing more is begun.
fn in_order<T: Send, R: Send, E>(
    all: Vec<T>,
    workers: usize,
    work: impl Fn(T) -> R + Sync,
    mut hear: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let workers = workers.min(all.len());
    let queue = Queue::new(all);
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, queue, work) = (sender.clone(), &queue, &work);
            scope.spawn(move || {
                while let Some((index, one)) = queue.take() {
                    // Nothing is looked at again after a panic, which goes on in the thread that waits for the result.
                    let result = catch_unwind(AssertUnwindSafe(|| work(one)));
                    if sender.send((index, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut next = 0_usize;
        for (index, result) in results {
            match result {
                Ok(result) => early.insert(index, result),
                Err(panic) => {
                    queue.stop();
                    resume_unwind(panic)
                }
            };
            while let Some(result) = early.remove(&next) {
                next = next.saturating_add(1);
                if let Err(error) = hear(result) {
                    queue.stop();
                    return Err(error);
                }
                queue.reported();
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_order_and_never_too_far_ahead() {
        let begun = AtomicUsize::new(0);
        let mut heard = Vec::new();
        let result: Result<(), ()> = in_order(
            (0..1000).collect(),
            8,
            |number: usize| {
                begun.fetch_add(1, Ordering::SeqCst);
                if number.is_multiple_of(97) {
                    thread::yield_now();
                }
                number
            },
            |number| {
                assert!(begun.load(Ordering::SeqCst) <= heard.len() + AHEAD, "too far ahead");
                heard.push(number);
                Ok(())
            },
        );
        assert_eq!(result, Ok(()));
        assert_eq!(heard, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_the_listener_ends_it() {
        let mut heard = 0;
        let result = in_order(
            (0..1000).collect(),
            4,
            |number: usize| number,
            |number| {
                heard += 1;
                if number == 3 { Err("enough") } else { Ok(()) }
            },
        );
        assert_eq!((result, heard), (Err("enough"), 4));
    }

    #[test]
    fn a_panic_of_a_worker_is_not_lost_and_hangs_nobody() {
        let panicking = || {
            in_order(
                (0..500).collect(),
                4,
                |number: usize| assert!(number != 7, "seven"),
                |()| Ok::<(), ()>(()),
            )
        };
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    }

    #[test]
    fn a_word_with_a_scheme_is_a_url_and_everything_else_a_path() {
        for word in ["http://localhost/a.raw", "HTTPS://localhost/a.raw"] {
            assert!(matches!(Target::parse(word.into()), Ok(Target::Url(_))), "{word}");
        }
        for word in ["a.raw", "./http:", "ftp://x", "file", "http:x", ""] {
            assert!(matches!(Target::parse(word.into()), Ok(Target::Path(_))), "{word}");
        }
        assert!(Target::parse("http://".into()).is_err());
    }
}
