//! The companions of an image on a server: which are asked for, which must be there, and that they are the right ones.
//!
//! One that is listed in the sums, or was demanded, has to come and to be the one that is listed: nothing goes on without
//! it. One that is there and in no sums is left alone where there are sums, for nobody says that it belongs to the image;
//! where there are none it is a proposal like any other. Nothing here authenticates a root hash.

use crate::format::companion::CompanionKind;
use crate::format::units::ByteLength;
use crate::kernel::memory::{MemoryError, MemoryFile, available_memory};
use crate::operation::companions::{Companion, CompanionContent, Companions, MAXIMUM_ROOT_HASH};
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::trust::download::{DownloadHasher, ExpectedDownload};
use crate::trust::signature::MAXIMUM_SIGNATURE;

use super::verification::{FilesBeside, Listing, Piece, Verification, unverified};

/// The most bytes of settings for systemd-nspawn: a hundred times what anyone writes.
const MAXIMUM_SETTINGS: usize = 1 << 20;

/// Which companions are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CompanionChoice {
    /// Those that are there.
    #[default]
    Automatic,
    /// None, whatever is listed.
    None,
    /// These, which must be there, and no others.
    Required(Vec<CompanionKind>),
}

/// A companion is not there, or is not the one that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompanionFault {
    /// It was demanded, and the sums do not have it.
    #[error("it was demanded, and is not in the sums of the image: have them list it, or do without it")]
    NotListed,
    /// It was demanded, and the server does not have it.
    #[error("it was demanded, and was not found")]
    Missing,
    /// It is in the sums, and the server does not have it.
    #[error("it is in the sums of the image, and was not found")]
    ListedAndMissing,
}

/// Fetches those of `kinds` that are wanted; hash trees into sealed memory, at most `largest_tree` bytes of each, which
/// is what the image has: no tree is larger than its data.
///
/// # Errors
/// [`OperationError::Unverified`] with a [`CompanionFault`], or with the digests where it is another file than the one
/// that is listed; [`OperationError::Fetch`] where one cannot be had, be it listed or not: that is never taken for one
/// that is not there.
pub fn fetch(
    choice: &CompanionChoice,
    kinds: &[CompanionKind],
    files: &FilesBeside<'_>,
    verification: &Verification,
    largest_tree: ByteLength,
    observer: &dyn Observer,
) -> Result<Companions, OperationError> {
    let mut companions = Companions::none();
    let Some(image) = files.image.file_name() else { return Ok(companions) };
    for kind in kinds {
        let demanded = match choice {
            CompanionChoice::Automatic => false,
            CompanionChoice::Required(demanded) if demanded.contains(kind) => true,
            CompanionChoice::Required(_) | CompanionChoice::None => continue,
        };
        let Some(name) = kind.beside(&image) else { continue };
        let fault = |fault: CompanionFault| unverified(&files.shown(&name), fault);
        let (expected, missing) = match verification.listing(&name)? {
            Listing::Listed(expected) => (expected, Some(CompanionFault::ListedAndMissing)),
            Listing::Unknown => (ExpectedDownload::anything(), demanded.then_some(CompanionFault::Missing)),
            Listing::NotListed if demanded => return Err(fault(CompanionFault::NotListed)),
            Listing::NotListed => {
                if files.has(&name)? {
                    let shown = files.shown(&name);
                    observer.warning(&format!("ignoring {shown}: it is not in the sums of the image"));
                }
                continue;
            }
        };
        match (content(*kind, &name, files, &expected, largest_tree)?, missing) {
            (Some(content), _) => {
                let origin = files.image.sibling(&name).map_or(name, |origin| origin.without_secrets());
                companions.insert(Companion { kind: *kind, origin, demanded, content });
            }
            (None, Some(missing)) => return Err(fault(missing)),
            (None, None) => (),
        }
    }
    Ok(companions)
}

/// What is in a companion that is the expected one; `None` where there is none.
fn content(
    kind: CompanionKind,
    name: &str,
    files: &FilesBeside<'_>,
    expected: &ExpectedDownload,
    largest_tree: ByteLength,
) -> Result<Option<CompanionContent>, OperationError> {
    let limit = match kind {
        CompanionKind::RootHash | CompanionKind::UsrHash => MAXIMUM_ROOT_HASH,
        CompanionKind::RootHashSignature | CompanionKind::UsrHashSignature => MAXIMUM_SIGNATURE,
        CompanionKind::Settings => MAXIMUM_SETTINGS,
        CompanionKind::Verity => return hash_tree(name, files, expected, largest_tree),
    };
    let Some(bytes) = files.get(name, limit)? else { return Ok(None) };
    let mut hasher = DownloadHasher::new();
    hasher.update(&bytes);
    compare(hasher, expected, name, files)?;
    Ok(Some(CompanionContent::Bytes(bytes)))
}

/// A hash tree, in memory that nobody can write any more.
fn hash_tree(
    name: &str,
    files: &FilesBeside<'_>,
    expected: &ExpectedDownload,
    largest: ByteLength,
) -> Result<Option<CompanionContent>, OperationError> {
    let keeping = |source: MemoryError| OperationError::system("keeping in memory", name, source);
    let available = available_memory().map_err(keeping)?;
    let mut file = MemoryFile::create("ddictl", ByteLength::ZERO).map_err(keeping)?;
    let mut hasher = DownloadHasher::new();
    let there = files.get_into(name, largest, &mut |piece| {
        let Piece::Bytes(chunk) = piece else {
            hasher = DownloadHasher::new();
            return file.set_length(ByteLength::ZERO).map_err(keeping);
        };
        let start = file.length().bytes();
        let end = ByteLength::new(start.saturating_add(ByteLength::of(chunk).bytes()));
        if end > available {
            let problem = format!("it needs more than the {available} bytes of memory that can be had");
            return Err(OperationError::state("making room for", name, problem));
        }
        hasher.update(chunk);
        file.set_length(end).and_then(|()| file.write_at(chunk, start)).map_err(keeping)
    })?;
    if !there {
        return Ok(None);
    }
    compare(hasher, expected, name, files)?;
    let sealed = file.seal().map_err(keeping)?;
    let size = sealed.length();
    let file = sealed
        .file()
        .try_clone()
        .map_err(|source| OperationError::system("keeping in memory", name, source))?;
    Ok(Some(CompanionContent::File { file, size }))
}

fn compare(
    hasher: DownloadHasher,
    expected: &ExpectedDownload,
    name: &str,
    files: &FilesBeside<'_>,
) -> Result<(), OperationError> {
    match expected.check(hasher.finish()) {
        Ok(_) => Ok(()),
        Err(source) => Err(unverified(&files.shown(name), source)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::FileExt;
    use std::sync::Mutex;
    use std::time::SystemTime;

    use super::*;
    use crate::fetch::client::{HttpClient, HttpOptions, Proxies};
    use crate::fetch::http_server::{Answer, HttpServer};
    use crate::fetch::origin::Origin;
    use crate::fetch::retry::RetryOptions;
    use crate::fetch::url::ImageUrl;
    use crate::format::verification_mode::VerificationMode;
    use crate::operation::cancel::Cancel;
    use crate::operation::observer::Silent;
    use crate::trust::openpgp::Keyrings;

    /// Room for every tree of these tests.
    const LARGEST: ByteLength = ByteLength::new(4 << 20);

    fn hexadecimal(content: &[u8]) -> String {
        let mut hasher = DownloadHasher::new();
        hasher.update(content);
        data_encoding::HEXLOWER.encode(hasher.finish().as_bytes())
    }

    /// Sums of the image and of these files.
    fn sums(files: &[(&str, &[u8])]) -> Answer {
        let image = ("os.raw.xz", &b"image"[..]);
        let lines = files.iter().chain([&image]);
        let text: String =
            lines.map(|(name, content)| format!("{}  {name}\n", hexadecimal(content))).collect();
        Answer::bytes(text.into_bytes())
    }

    /// Hears warnings.
    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl Observer for Warnings {
        fn warning(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    fn fetch_with(
        choice: &CompanionChoice,
        mode: VerificationMode,
        files: &[(&str, Answer)],
        largest: ByteLength,
        observer: &dyn Observer,
    ) -> Result<Companions, OperationError> {
        let files: BTreeMap<String, Answer> =
            files.iter().map(|(name, answer)| (format!("/{name}"), answer.clone())).collect();
        let server = HttpServer::start(move |request| {
            files.get(&request.path).cloned().unwrap_or_else(|| Answer::status(404))
        });
        let client = HttpClient::new(HttpOptions {
            proxies: Proxies::None,
            retry: RetryOptions::never(),
            ..HttpOptions::default()
        });
        let image = Origin::Http(ImageUrl::parse(&server.url("/os.raw.xz?token=secret")).unwrap());
        let files =
            FilesBeside { client: &client, image: &image, observer: &Silent, cancel: &Cancel::never() };
        let none = || Ok(Keyrings::default());
        let verification = Verification::prepare(mode, &files, none, SystemTime::UNIX_EPOCH)?;
        fetch(choice, &CompanionKind::ALL, &files, &verification, largest, observer)
    }

    fn automatic(mode: VerificationMode, files: &[(&str, Answer)]) -> Result<Companions, OperationError> {
        fetch_with(&CompanionChoice::Automatic, mode, files, LARGEST, &Silent)
    }

    fn bytes_of(companions: &Companions, kind: CompanionKind) -> Option<Vec<u8>> {
        match &companions.get(kind)?.content {
            CompanionContent::Bytes(bytes) => Some(bytes.clone()),
            CompanionContent::File { file, size } => {
                let mut bytes = vec![0; usize::try_from(size.bytes()).unwrap()];
                file.read_exact_at(&mut bytes, 0).unwrap();
                Some(bytes)
            }
        }
    }

    /// The message, and whether the image is at fault.
    fn refused(result: Result<Companions, OperationError>) -> (String, bool) {
        let error = result.unwrap_err();
        (error.with_causes(), error.is_about_the_image())
    }

    #[test]
    fn whatever_is_there_is_taken_where_nobody_knows_anything() {
        let tree = vec![7; 3_000_000];
        let files = [
            ("os.roothash", Answer::bytes(*b"abcd")),
            ("os.usrhash.p7s", Answer::bytes(*b"signature")),
            ("os.nspawn", Answer::bytes(*b"[Exec]")),
            ("os.verity", Answer::bytes(tree.clone()).chunked(70_001)),
        ];
        let companions = automatic(VerificationMode::No, &files).unwrap();
        assert_eq!(companions.iter().count(), 4);
        assert_eq!(bytes_of(&companions, CompanionKind::RootHash).unwrap(), b"abcd");
        assert_eq!(bytes_of(&companions, CompanionKind::UsrHashSignature).unwrap(), b"signature");
        assert_eq!(bytes_of(&companions, CompanionKind::Settings).unwrap(), b"[Exec]");
        // More than the MiB at which others drop it without a word.
        assert!(bytes_of(&companions, CompanionKind::Verity).unwrap() == tree);
        let origin = &companions.get(CompanionKind::RootHash).unwrap().origin;
        assert!(origin.ends_with("/os.roothash") && !origin.contains("secret"), "{origin}");
        assert_eq!(automatic(VerificationMode::No, &[]).unwrap().iter().count(), 0);
    }

    #[test]
    fn what_is_listed_has_to_come_and_to_be_that() {
        let tree = vec![3; 2_000_000];
        let listed = || sums(&[("os.roothash", b"abcd"), ("os.verity", &tree)]);
        let mode = VerificationMode::Checksum;
        let root_hash = || ("os.roothash", Answer::bytes(*b"abcd"));
        let good = [("SHA256SUMS", listed()), root_hash(), ("os.verity", Answer::bytes(tree.clone()))];
        assert_eq!(automatic(mode, &good).unwrap().iter().count(), 2);

        let mut flipped = tree.clone();
        flipped[1_999_999] ^= 1;
        for (tree, words, about_the_image) in [
            (Answer::status(404), "it is in the sums of the image, and was not found", true),
            (Answer::bytes(flipped), "another download than expected", true),
            (Answer::bytes(tree[1..].to_vec()), "another download than expected", true),
            (Answer::bytes(tree.clone()).cut_after(1_000_000), "broke off", false),
            (Answer::status(500), "500", false),
            (Answer::bytes(vec![0; 5 << 20]), "larger than 4194304 bytes", false),
        ] {
            let files = [("SHA256SUMS", listed()), root_hash(), ("os.verity", tree)];
            let (text, found) = refused(automatic(mode, &files));
            assert!(text.contains(words) && text.contains("os.verity"), "{text}");
            assert_eq!(found, about_the_image, "{text}");
        }
        let files = [("SHA256SUMS", listed()), ("os.roothash", Answer::bytes(*b"abce"))];
        assert!(refused(automatic(mode, &files)).0.contains("another download than expected"));
    }

    #[test]
    fn what_is_in_no_sums_is_left_alone_and_said() {
        let warnings = Warnings::default();
        let files = [
            ("SHA256SUMS", sums(&[("os.roothash", b"abcd")])),
            ("os.roothash", Answer::bytes(*b"abcd")),
            ("os.usrhash", Answer::bytes(*b"ef")),
        ];
        let choice = CompanionChoice::Automatic;
        let companions = fetch_with(&choice, VerificationMode::Checksum, &files, LARGEST, &warnings).unwrap();
        assert_eq!(companions.iter().count(), 1);
        let [warning] = warnings.0.into_inner().unwrap().try_into().unwrap();
        assert!(warning.contains("os.usrhash'") && warning.contains("not in the sums"), "{warning}");
        // Whether it is there must be known, too.
        let files = [files[0].clone(), files[1].clone(), ("os.usrhash", Answer::status(503))];
        assert!(refused(automatic(VerificationMode::Checksum, &files)).0.contains("503"));
    }

    #[test]
    fn what_is_demanded_must_be_there_and_nothing_else_is_asked_for() {
        let demanded = CompanionChoice::Required(vec![CompanionKind::RootHash]);
        let fetch = |mode, files: &[(&str, Answer)]| fetch_with(&demanded, mode, files, LARGEST, &Silent);
        let both = [("os.roothash", Answer::bytes(*b"abcd")), ("os.usrhash", Answer::status(500))];
        assert_eq!(fetch(VerificationMode::No, &both).unwrap().iter().count(), 1);
        let (text, about_the_image) = refused(fetch(VerificationMode::No, &[]));
        assert!(text.contains("it was demanded, and was not found") && about_the_image, "{text}");
        let unlisted = [("SHA256SUMS", sums(&[])), both[0].clone()];
        let (text, about_the_image) = refused(fetch(VerificationMode::Checksum, &unlisted));
        assert!(text.contains("is not in the sums") && about_the_image, "{text}");

        let none = |files: &[(&str, Answer)]| {
            fetch_with(&CompanionChoice::None, VerificationMode::No, files, LARGEST, &Silent)
        };
        assert_eq!(none(&both).unwrap().iter().count(), 0);
    }

    #[test]
    fn every_kind_has_its_limit() {
        for (name, limit) in [
            ("os.roothash", MAXIMUM_ROOT_HASH),
            ("os.usrhash", MAXIMUM_ROOT_HASH),
            ("os.roothash.p7s", MAXIMUM_SIGNATURE),
            ("os.nspawn", MAXIMUM_SETTINGS),
        ] {
            assert!(automatic(VerificationMode::No, &[(name, Answer::bytes(vec![b'a'; limit]))]).is_ok());
            let files = [(name, Answer::bytes(vec![b'a'; limit + 1]))];
            let (text, _) = refused(automatic(VerificationMode::No, &files));
            assert!(text.contains(&format!("larger than {limit} bytes")), "{name}: {text}");
        }
    }
}
