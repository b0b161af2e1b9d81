//! What a kernel command line enforces at boot.

use crate::format::designator::Designator;
use crate::format::image_class::ImageClass;
use crate::format::kernel_command_line::KernelCommandLine;
use crate::format::pull_expression::{PullExpression, PullKind};
use crate::format::root_hash::RootHash;
use crate::format::verification_mode::VerificationMode;
use crate::image::boot::{BootPolicies, BootRequest, RootDevice, Stage};
use crate::image::finding::{Finding, Rule, printable, with_causes};
use crate::image::policy::{Lint, PolicyFlags, check};
use crate::image::presets::RequestedPolicy;
use crate::image::tree::allows_tree;

/// Finds the policy that a text names or is.
///
/// # Errors
/// Why there is none, for people.
pub type PolicyLookup<'a> = dyn Fn(&str) -> Result<RequestedPolicy, String> + 'a;

/// What is worth saying of a kernel command line that an initrd with ddictl is booted with. `lookup` finds the policies that
/// it names.
#[must_use]
pub fn lint(text: &[u8], lookup: &PolicyLookup<'_>) -> Vec<Finding> {
    let line = KernelCommandLine::parse(text);
    let request = BootRequest::read(&line, None, Stage::Initrd);
    let mut linter = Linter { request: &request, lookup, findings: Vec::new() };
    if let Err(mistake) = request.check() {
        linter.mistake(&with_causes(mistake));
    }
    let (base, further) = (
        linter.policy("rd.systemd.image_policy=", request.base_policy.as_deref()),
        linter.policy("systemd.image_policy=", request.further_policy.as_deref()),
    );
    for pull in &request.pulls {
        match &pull.expression {
            Ok(pull) => linter.pull(pull, base.as_ref(), further.as_ref()),
            Err(mistake) => linter.mistake(&with_causes(mistake)),
        }
    }
    linter.root(&line, further.as_ref());
    linter.findings
}

/// A policy that the command line asks for; one that is not known may be anything.
enum Asked {
    Known(RequestedPolicy),
    Unknown,
}

struct Linter<'a> {
    request: &'a BootRequest,
    lookup: &'a PolicyLookup<'a>,
    findings: Vec<Finding>,
}

impl Linter<'_> {
    fn add(&mut self, rule: Rule, expected: impl Into<String>, found: impl AsRef<str>) {
        self.findings.push(Finding::of_image(rule, expected, printable(found.as_ref())));
    }

    fn mistake(&mut self, what: &str) {
        self.add(Rule::BootMistake, "a command line that is understood", what);
    }

    /// Looks up a policy, and says what its author may not have meant.
    fn policy(&mut self, option: &str, text: Option<&str>) -> Option<Asked> {
        let text = text?;
        let requested = match (self.lookup)(text) {
            Ok(requested) => requested,
            Err(problem) => {
                self.mistake(&format!("{option}: {problem}"));
                return Some(Asked::Unknown);
            }
        };
        let authenticated = requested.strictness().demands_authentication();
        let checked = check(requested.policy(), authenticated, Some(ImageClass::Machine));
        for found in checked.findings {
            let is_hole = matches!(
                found.lint,
                Lint::Unsatisfiable | Lint::SilentlyOpen | Lint::WeakestAlternative | Lint::UnsignedBeside
            );
            if is_hole {
                self.add(
                    Rule::BootPolicyHole,
                    "a policy that asks for what it seems to",
                    format!("{option}{requested}: {}", found.message),
                );
            }
        }
        Some(Asked::Known(requested))
    }

    fn pull(&mut self, pull: &PullExpression, base: Option<&Asked>, further: Option<&Asked>) {
        if let Err(mistake) = self.request.demands(pull) {
            self.mistake(&with_causes(&mistake));
        }
        let own = pull.image_policy.as_ref().map(|name| format!("@{name}"));
        let own = self.policy("image-policy=", own.as_deref());
        let known = |asked: Option<&Asked>| match asked {
            Some(Asked::Known(policy)) => Some(policy.clone()),
            // What only tightens does no harm when it is left out, and what replaces the usual policy may be no policy.
            Some(Asked::Unknown) | None => None,
        };
        let unknown_base = matches!(base, Some(Asked::Unknown)) && !pull.class.is_extension();
        let policies = BootPolicies { base: known(base), own: known(own.as_ref()), further: known(further) };
        let policy = match policies.effective(pull.class) {
            _ if unknown_base => None,
            Ok(policy) => Some(policy),
            Err(disjoint) => {
                self.mistake(&format!("no image can satisfy all policies for '{}': {disjoint}", pull.name));
                return;
            }
        };
        if pull.remote.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:")) {
            self.add(Rule::BootInClear, "https", format!("'{}' from {}", pull.name, pull.remote));
        }
        let vouched = matches!(pull.verify, VerificationMode::Signature | VerificationMode::Digest(_));
        if pull.kind == PullKind::Tar
            && let Some(policy) = &policy
            && let Err(refusal) = allows_tree(Some(policy), vouched)
        {
            self.mistake(&format!("'{}' is refused, whatever comes: {refusal}", pull.name));
            return;
        }
        self.guarantee(pull, policy.as_ref());
    }

    /// What holds for an image, whoever answers.
    fn guarantee(&mut self, pull: &PullExpression, policy: Option<&RequestedPolicy>) {
        let PullExpression { name, verify, remote, .. } = pull;
        let shown = policy.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        if let VerificationMode::Digest(digest) = verify {
            self.add(
                Rule::BootPinned,
                "nothing else",
                format!("'{name}' by the SHA-256 {digest} of its download"),
            );
            return;
        }
        let is_raw = pull.kind == PullKind::Raw;
        let authentic = is_raw && policy.is_some_and(demands_authentication);
        let (root, usr) = self.request.hashes(pull);
        let pinned: Vec<Designator> = [(&root, Designator::Root), (&usr, Designator::Usr)]
            .into_iter()
            .filter_map(|(hash, designator)| hash.is_some().then_some(designator))
            .collect();
        // A root hash that is given holds under every policy, for its partition and for no other.
        let rest_is_signed = is_raw && policy.is_some_and(|policy| uses_only_signed_beside(policy, &pinned));
        if (authentic || rest_is_signed)
            && let Some(hash) = root.or(usr)
        {
            self.add(Rule::BootPinned, "nothing else", format!("'{name}' by the root hash {hash}"));
            return;
        }
        let one = "one image, by roothash= or verify=SHA256";
        if authentic {
            self.add(
                Rule::BootReplayable,
                one,
                format!("any image for '{name}' that a trusted certificate ever signed (policy {shown})"),
            );
        } else if *verify == VerificationMode::Signature {
            self.add(
                Rule::BootReplayable,
                one,
                format!(
                    "any download for '{name}' that was ever in sums signed by a trusted key (policy {shown})"
                ),
            );
        } else {
            self.add(
                Rule::BootUnauthenticated,
                "a policy that demands signatures, or a download that somebody vouches for",
                format!(
                    "'{name}' as whoever answers for {remote} sends it (verify={verify}, policy {shown})"
                ),
            );
        }
    }

    /// What holds for a root file system that is not pulled.
    fn root(&mut self, line: &KernelCommandLine, further: Option<&Asked>) {
        if is_pulled(self.request) {
            return;
        }
        let said = line.last("root").map_or_else(|| "no root=".to_owned(), |root| format!("root={root}"));
        if matches!(self.request.root, Some(RootDevice::LoopReference(_))) {
            self.add(
                Rule::BootRootNotPulled,
                "a pull with 'blockdev' of the image that root= names",
                format!("{said}, and no such pull"),
            );
            return;
        }
        if let Some((key, _, hash)) = hashes(line).next() {
            self.add(
                Rule::BootPinned,
                "nothing else",
                format!("the file system of this machine with {key}={hash}"),
            );
            return;
        }
        let automatic = matches!(self.request.root, None | Some(RootDevice::GptAuto | RootDevice::Dissect));
        let demanded = matches!(further, Some(Asked::Known(policy)) if demands_authentication(policy));
        if automatic && demanded {
            self.add(
                Rule::BootReplayable,
                "one image, by roothash= or verify=SHA256",
                format!("any disk that a trusted certificate ever signed ({said}, systemd.image_policy=)"),
            );
            return;
        }
        self.add(
            Rule::BootRootUnverified,
            "roothash=, or a pull of the root",
            format!("{said}: whoever can write to that device decides what is booted"),
        );
    }
}

/// Whether a pull makes the root file system, or what the command line says of it is not understood.
fn is_pulled(request: &BootRequest) -> bool {
    request.pulls.iter().filter_map(|pull| pull.expression.as_ref().ok()).any(|pull| {
        let named = request.demands(pull).map_or(true, |demands| !demands.is_empty());
        named || request.is_root_disk(pull) || request.is_bound_as_root(pull)
    })
}

/// The root hashes that a command line names, with the words for them.
fn hashes(line: &KernelCommandLine) -> impl Iterator<Item = (&'static str, Designator, RootHash)> {
    [("roothash", Designator::Root), ("usrhash", Designator::Usr)]
        .into_iter()
        .filter_map(|(key, designator)| Some((key, designator, line.last(key)?.parse().ok()?)))
}

/// The root hashes that a command line demands of a disk of the machine: none where the root file system is pulled, whose
/// they are then.
pub(super) fn root_hashes(text: &[u8]) -> Vec<(Designator, RootHash)> {
    let line = KernelCommandLine::parse(text);
    if is_pulled(&BootRequest::read(&line, None, Stage::Initrd)) {
        return Vec::new();
    }
    hashes(&line).map(|(_, designator, hash)| (designator, hash)).collect()
}

/// Whether nothing that is not signed is used under a policy, and root or usr has to be there.
fn demands_authentication(policy: &RequestedPolicy) -> bool {
    if policy.strictness().demands_authentication() {
        return true;
    }
    let uses = |designator| policy.policy().rule(designator).uses();
    uses_only_signed_beside(policy, &[])
        && [Designator::Root, Designator::Usr].map(uses).contains(&PolicyFlags::SIGNED)
}

/// Whether a policy uses nothing that is not signed beside these partitions.
fn uses_only_signed_beside(policy: &RequestedPolicy, pinned: &[Designator]) -> bool {
    let harmless = PolicyFlags::SIGNED | PolicyFlags::UNUSED | PolicyFlags::ABSENT;
    // Hash trees and signatures are read, and never shown.
    Designator::ALL
        .into_iter()
        .filter(|designator| designator.verity_data().is_none() && !pinned.contains(designator))
        .all(|designator| policy.policy().rule(designator).uses().without(harmless).is_empty())
}
