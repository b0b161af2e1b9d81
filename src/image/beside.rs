//! What the files beside an image say of it: root hashes, which are proposals whoever put them there, signatures, which
//! count where they hold, and the hash tree of an image that has no table to put one in.

use crate::format::designator::Designator;
use crate::format::pem::signature_der;
use crate::format::root_hash::{RootHash, RootHashError};
use crate::format::units::ByteLength;

use super::finding::{Finding, Rule, printable};

/// What lies beside an image. Nothing of it is authenticated: see [`super::assessment`].
#[derive(Debug, Clone, Default)]
pub struct Beside {
    root_hashes: Vec<(Designator, RootHashBeside)>,
    signatures: Vec<(Designator, SignatureBeside)>,
    tree: Option<TreeBeside>,
}

/// A root hash beside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RootHashBeside {
    origin: String,
    root_hash: Result<RootHash, RootHashError>,
}

/// A signature beside an image. It does not say of which root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureBeside {
    /// Where it came from, for messages.
    pub origin: String,
    /// The PKCS#7 in DER, or whatever else the file has.
    pub der: Vec<u8>,
}

/// A file with a dm-verity superblock and its hash tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeBeside {
    /// Where it came from, for messages.
    pub origin: String,
    /// How large the file is.
    pub size: ByteLength,
    /// Its beginning, where the superblock is: as much of it as there is.
    pub beginning: Vec<u8>,
    /// Whether the caller named the file, and did not only leave it beside the image.
    pub is_demanded: bool,
}

/// The root hash that a partition is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct WantedRootHash<'a> {
    pub(super) root_hash: &'a RootHash,
    /// Which file proposes it; `None` where the caller knows it.
    pub(super) proposed_by: Option<&'a str>,
}

impl WantedRootHash<'_> {
    /// The rule that an image breaks which has another one: whose mistake it is depends on who said so.
    pub(super) const fn rule(self, of_given: Rule) -> Rule {
        match self.proposed_by {
            Some(_) => Rule::RootHashFileMismatch,
            None => of_given,
        }
    }

    /// The root hash, and who says so.
    pub(super) fn text(self) -> String {
        match self.proposed_by {
            Some(origin) => format!("root hash {} as in '{}'", self.root_hash, printable(origin)),
            None => format!("root hash {}", self.root_hash),
        }
    }
}

impl Beside {
    /// Adds what is in a file with a root hash for `designator`, which came from `origin`: hexadecimal digits, and
    /// nothing but blank space behind them.
    pub fn add_root_hash(&mut self, designator: Designator, origin: &str, content: &[u8]) {
        let text = String::from_utf8_lossy(content);
        let root_hash = text.trim_ascii_end().parse();
        self.root_hashes.push((designator, RootHashBeside { origin: origin.to_owned(), root_hash }));
    }

    /// Adds what is in a file with a signature of the root hash for `designator`, which came from `origin`: DER or PEM.
    pub fn add_signature(&mut self, designator: Designator, origin: &str, content: &[u8]) {
        let der = signature_der(content).into_owned();
        self.signatures.push((designator, SignatureBeside { origin: origin.to_owned(), der }));
    }

    /// Adds the file with the hash tree.
    pub fn set_tree(&mut self, tree: TreeBeside) {
        self.tree = Some(tree);
    }

    /// The file with the hash tree.
    #[must_use]
    pub const fn tree(&self) -> Option<&TreeBeside> {
        self.tree.as_ref()
    }

    /// The signature of the root hash for `designator`.
    #[must_use]
    pub fn signature(&self, designator: Designator) -> Option<&SignatureBeside> {
        self.signatures.iter().find(|(of, _)| *of == designator).map(|(_, signature)| signature)
    }

    /// The root hash that is proposed for `designator`, and by which file.
    #[must_use]
    pub fn proposal(&self, designator: Designator) -> Option<(&RootHash, &str)> {
        let (_, found) = self.root_hashes.iter().find(|(of, _)| *of == designator)?;
        Some((found.root_hash.as_ref().ok()?, &found.origin))
    }

    /// What is wrong with the root hashes by themselves, and beside those that the caller knows.
    pub(super) fn findings<'a>(&self, given: impl Fn(Designator) -> Option<&'a RootHash>) -> Vec<Finding> {
        self.root_hashes
            .iter()
            .filter_map(|(designator, found)| match (&found.root_hash, given(*designator)) {
                (Err(error), _) => Some(Finding::of_image(
                    Rule::RootHashFileInvalid,
                    format!("the digits of a root hash in '{}' and nothing else", printable(&found.origin)),
                    printable(&error.to_string()),
                )),
                (Ok(proposed), Some(given)) if proposed != given => Some(Finding::of_image(
                    Rule::RootHashFileMismatch,
                    format!("the given root hash {given} in '{}'", printable(&found.origin)),
                    format!("root hash {proposed}"),
                )),
                (Ok(_), _) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_hash_is_digits_and_nothing_else() {
        let proposal = |content: &[u8]| {
            let mut beside = Beside::default();
            beside.add_root_hash(Designator::Root, "os.roothash", content);
            let rules: Vec<Rule> = beside.findings(|_| None).iter().map(|finding| finding.rule).collect();
            (beside.proposal(Designator::Root).map(|(hash, _)| hash.clone()), rules)
        };
        let text = "5a".repeat(32);
        let expected = (Some(text.parse::<RootHash>().unwrap()), Vec::new());
        for content in [text.clone(), format!("{text}\n"), format!("{text} \r\n")] {
            assert_eq!(proposal(content.as_bytes()), expected, "{content:?}");
        }
        for content in [
            String::new(),
            "\n".to_owned(),
            format!(" {text}"),
            format!("{text}  os.raw"),
            format!("{text}\n{text}"),
            text[..62].to_owned(),
            format!("sha256:{text}"),
        ] {
            assert_eq!(proposal(content.as_bytes()), (None, vec![Rule::RootHashFileInvalid]), "{content:?}");
        }
        assert_eq!(proposal(&[0xff; 64]), (None, vec![Rule::RootHashFileInvalid]));
    }

    #[test]
    fn a_proposal_must_not_contradict_what_the_caller_knows() {
        let (one, other) = (RootHash::from_bytes(&[1; 32]).unwrap(), RootHash::from_bytes(&[2; 32]).unwrap());
        let mut beside = Beside::default();
        beside.add_root_hash(Designator::Usr, "os.usrhash", one.to_string().as_bytes());
        let rules = |given: Option<&RootHash>| -> Vec<Rule> {
            let findings = beside.findings(|designator| given.filter(|_| designator == Designator::Usr));
            findings.iter().map(|finding| finding.rule).collect()
        };
        assert_eq!(rules(None), []);
        assert_eq!(rules(Some(&one)), []);
        assert_eq!(rules(Some(&other)), [Rule::RootHashFileMismatch]);
    }
}
