//! How each partition is really protected: one state for each, found from content, signatures and what the caller
//! knows (invariant I2).

use std::time::SystemTime;

use crate::format::designator::Designator;
use crate::format::root_hash::RootHash;
use crate::format::superblock::Luks2Metadata;
use crate::format::superblock::SuperblockKind;
use crate::format::units::PartitionNumber;
use crate::trust::anchor::TrustAnchors;
use crate::trust::download::VerifiedDownload;
use crate::trust::revocation::{ImagePurpose, Revocation, Revocations, SignerRefusal};
use crate::trust::root_hash::{AuthenticatedRootHash, Authentication};
use crate::trust::signature::{SignatureError, Signers, verify_root_hash_signature};

use super::beside::SignatureBeside;
use super::dissection::{Dissection, Partition, Standing, TreePlace, VeritySet};
use super::finding::{Finding, Rule, printable};
use super::policy::Protection;

/// What the caller trusts.
#[derive(Debug)]
pub struct Trust<'a> {
    /// The certificates that may sign.
    pub anchors: &'a TrustAnchors,
    /// What was taken back, whoever vouches for it, and what certificates are limited to.
    pub revocations: &'a Revocations,
    /// What the image is to be used for.
    pub purpose: &'a ImagePurpose,
    /// The root hash that the root partition must have, where the caller knows it.
    pub root_hash: Option<&'a RootHash>,
    /// The root hash that the usr partition must have, where the caller knows it.
    pub usr_hash: Option<&'a RootHash>,
    /// The proof that the image as a whole is what was asked for, where there is one.
    pub download: Option<&'a VerifiedDownload>,
    /// The time at which certificates must be valid.
    pub at: SystemTime,
}

impl Trust<'_> {
    fn given(&self, designator: Designator) -> Option<&RootHash> {
        match designator {
            Designator::Root => self.root_hash,
            Designator::Usr => self.usr_hash,
            _ => None,
        }
    }

    const fn signers(&self) -> Signers<'_> {
        Signers { anchors: self.anchors, revocations: self.revocations, purpose: self.purpose, at: self.at }
    }
}

/// The state of every partition, in the order of [`Dissection::partitions`].
#[derive(Debug)]
pub struct Assessment {
    /// One state a partition.
    pub partitions: Vec<Assessed>,
    /// What was remarkable about signatures.
    pub findings: Vec<Finding>,
    /// Whether the image as a whole is what was asked for.
    pub download_verified: bool,
}

/// The state of one partition.
#[derive(Debug)]
pub struct Assessed {
    /// How it is protected.
    pub protection: Protection,
    /// Its root hash, claimed or authenticated.
    pub root_hash: Option<RootHash>,
    /// The root hash as something to rely on.
    pub authenticated: Option<AuthenticatedRootHash>,
    /// The partition with the signature that holds, where it lies in one.
    pub signature: Option<PartitionNumber>,
}

impl Assessed {
    const fn unprotected() -> Self {
        Self { protection: Protection::Unprotected, root_hash: None, authenticated: None, signature: None }
    }

    /// Who signed, where the state is `signed`: the subject of the certificate.
    #[must_use]
    pub fn signer(&self) -> Option<&str> {
        Some(self.authenticated.as_ref()?.signer()?.subject())
    }
}

/// Finds the state of every partition.
#[must_use]
pub fn assess(dissection: &Dissection, trust: &Trust<'_>) -> Assessment {
    let mut findings = Vec::new();
    let partitions = dissection
        .partitions
        .iter()
        .map(|partition| assess_one(dissection, partition, trust, &mut findings))
        .collect();
    Assessment { partitions, findings, download_verified: trust.download.is_some() }
}

fn assess_one(
    dissection: &Dissection,
    partition: &Partition,
    trust: &Trust<'_>,
    findings: &mut Vec<Finding>,
) -> Assessed {
    if let Standing::Chosen(designator) = partition.standing
        && let Some(set) = dissection.verity_of(designator)
    {
        return assess_verity(set, trust, findings);
    }
    let protection = partition.superblocks.iter().find_map(|superblock| match &superblock.kind {
        SuperblockKind::Luks(_) if partition.luks2.as_ref().is_some_and(Luks2Metadata::has_integrity) => {
            Some(Protection::EncryptedWithIntegrity)
        }
        SuperblockKind::Luks(_) => Some(Protection::Encrypted),
        _ => None,
    });
    Assessed { protection: protection.unwrap_or(Protection::Unprotected), ..Assessed::unprotected() }
}

fn assess_verity(set: &VeritySet, trust: &Trust<'_>, findings: &mut Vec<Finding>) -> Assessed {
    if let Some(revocation) = trust.revocations.of_root_hash(&set.root_hash) {
        // Nothing vouches for it any more, and nobody is asked.
        findings.push(revoked(set.data, &set.root_hash, revocation));
        let root_hash = Some(set.root_hash.clone());
        return Assessed { protection: Protection::Verity, root_hash, ..Assessed::unprotected() };
    }
    let (signature, authenticated) = match by_signature(set, trust, findings) {
        Some((number, authenticated)) => (number, Some(authenticated)),
        None => (None, by_knowledge(set, trust, findings)),
    };
    let protection = match authenticated.as_ref().map(AuthenticatedRootHash::by) {
        Some(Authentication::Signature(_)) => Protection::Signed,
        Some(Authentication::Given | Authentication::VerifiedDownload) | None => Protection::Verity,
    };
    Assessed { protection, root_hash: Some(set.root_hash.clone()), authenticated, signature }
}

/// The first signature that holds authenticates, those in the image before the one beside it. Those that do not are
/// findings, unless another one does.
fn by_signature(
    set: &VeritySet,
    trust: &Trust<'_>,
    findings: &mut Vec<Finding>,
) -> Option<(Option<PartitionNumber>, AuthenticatedRootHash)> {
    let mut failed = Vec::new();
    for (number, signature) in &set.signatures {
        let verified = verify_root_hash_signature(
            &set.root_hash,
            &signature.signature,
            signature.certificate_fingerprint.as_ref(),
            &trust.signers(),
        );
        match verified {
            Ok(authenticated) => return Some((Some(*number), authenticated)),
            Err(error) => failed.push(signature_finding(Some(*number), &error, None)),
        }
    }
    if let Some(SignatureBeside { origin, der }) = &set.signature_beside {
        match verify_root_hash_signature(&set.root_hash, der, None, &trust.signers()) {
            Ok(authenticated) => return Some((None, authenticated)),
            Err(error) => failed.push(signature_finding(set.data, &error, Some(origin))),
        }
    }
    findings.append(&mut failed);
    None
}

fn by_knowledge(
    set: &VeritySet,
    trust: &Trust<'_>,
    findings: &mut Vec<Finding>,
) -> Option<AuthenticatedRootHash> {
    if let Some(given) = trust.given(set.designator) {
        match AuthenticatedRootHash::authenticate_given(given, &set.root_hash) {
            Ok(authenticated) => return Some(authenticated),
            Err(_) => findings.push(Finding::of_partition(
                Rule::RootHashMismatch,
                set.data,
                format!("root hash {given}"),
                format!("root hash {}", set.root_hash),
            )),
        }
    }
    // What is beside an image is not inside its download.
    trust
        .download
        .filter(|_| set.hash != TreePlace::Beside)
        .map(|download| AuthenticatedRootHash::authenticate_by_download(download, set.root_hash.clone()))
}

/// The finding that says why a signature does not count. None of them is an error by itself: the partition is then simply
/// not signed, and the policy says whether that will do. A signature that contradicts itself is. `origin` is the file of
/// one that lies beside the image.
fn signature_finding(
    number: Option<PartitionNumber>,
    error: &SignatureError,
    origin: Option<&str>,
) -> Finding {
    let rule = match error {
        SignatureError::NoTrustAnchors => Rule::NoTrustAnchors,
        SignatureError::UntrustedSigner { .. } => Rule::SignerUntrusted,
        SignatureError::Expired { .. } => Rule::SignerExpired,
        SignatureError::NotYetValid { .. } => Rule::SignerNotYetValid,
        SignatureError::WeakDigest { .. } | SignatureError::WeakKey { .. } => Rule::SignatureWeak,
        SignatureError::FingerprintMismatch { .. } => Rule::FingerprintMismatch,
        SignatureError::Forbidden { refusal, .. } => match **refusal {
            SignerRefusal::Revoked(_) => Rule::SignerRevoked,
            SignerRefusal::Purpose { .. } => Rule::SignerPurpose,
        },
        _ => Rule::SignatureInvalid,
    };
    Finding::of_partition(
        rule,
        number,
        match origin {
            Some(origin) => format!("a signature in '{}' that a trust anchor verifies", printable(origin)),
            None => "a signature that a trust anchor verifies".to_owned(),
        },
        printable(&error.to_string()),
    )
}

/// Every partition, chosen or not, that is named after a root hash that was taken back: for images that are used as a
/// whole, by readers who may choose otherwise.
#[must_use]
pub fn revoked_partitions(dissection: &Dissection, revocations: &Revocations) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (hash, revocation) in revocations.root_hashes() {
        let in_a_set =
            |number| dissection.verity.iter().any(|set| set.root_hash == *hash && set.data == number);
        let is_data = |partition: &&Partition| {
            partition.uuid == Some(hash.data_partition_uuid()) || in_a_set(partition.number)
        };
        let named = dissection.partitions.iter().filter(is_data);
        findings.extend(named.map(|partition| revoked(partition.number, hash, revocation)));
    }
    findings
}

fn revoked(number: Option<PartitionNumber>, hash: &RootHash, revocation: &Revocation) -> Finding {
    let found = format!("root hash {hash}, revoked {}", printable(&revocation.to_string()));
    Finding::of_partition(Rule::RootHashRevoked, number, "a root hash that is not revoked", found)
}
