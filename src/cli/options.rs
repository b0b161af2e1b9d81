//! Options that several verbs have in common.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use crate::format::companion::CompanionKind;
use crate::format::image_class::ImageClass;
use crate::format::root_hash::RootHash;
use crate::format::verity::table::OnCorruption;
use crate::image::finding::is_deceptive;
use crate::image::presets::RequestedPolicy;
use crate::operation::activate::GuardOptions;
use crate::operation::companions::{CompanionSettings, NamedCompanion};
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::policy_store;
use crate::operation::trust_store::{TrustSettings, TrustStore};
use crate::operation::unlock::{Ask, KeySource};

use super::{Context, Failure};

/// Whom to trust.
#[derive(Debug, Args)]
pub(super) struct TrustOptions {
    /// Trust the signer with this certificate (PEM or DER) instead of those in verity.d; may be repeated
    #[arg(long, value_name = "FILE")]
    certificate: Vec<PathBuf>,

    /// The root hash that the root partition must have, in hexadecimal
    #[arg(long, value_name = "HASH")]
    root_hash: Option<RootHash>,

    /// The root hash that the usr partition must have, in hexadecimal
    #[arg(long, value_name = "HASH")]
    usr_hash: Option<RootHash>,

    /// Refuse, too, what this file of trust.d rules refuses; may be repeated
    #[arg(long, value_name = "FILE")]
    trust_rules: Vec<PathBuf>,
}

impl TrustOptions {
    pub(super) fn load(&self, context: &Context) -> Result<TrustStore, Failure> {
        self.load_for(None, context)
    }

    /// For images that are for this, where the verb does not know it by itself.
    pub(super) fn load_for(
        &self,
        class: Option<ImageClass>,
        context: &Context,
    ) -> Result<TrustStore, Failure> {
        let store = TrustStore::load(TrustSettings {
            certificates: self.certificate.clone(),
            root_hash: self.root_hash.clone(),
            usr_hash: self.usr_hash.clone(),
            rules: self.trust_rules.clone(),
            class,
        })?;
        for warning in store.warnings() {
            context.observer.warning(warning);
        }
        Ok(store)
    }
}

/// What an image is for, where nothing else says it.
#[derive(Debug, Args)]
pub(super) struct ClassOption {
    /// What the image is for: certificates that trust.d limits to classes count for no other, and without a class not at
    /// all
    #[arg(long, value_name = "CLASS", value_enum)]
    class: Option<Class>,
}

impl ClassOption {
    pub(super) fn given(&self) -> Option<ImageClass> {
        self.class.map(ImageClass::from)
    }
}

/// What an image that is used on this machine is for.
#[derive(Debug, Args)]
pub(super) struct UsedClassOption {
    /// What the image is for: certificates that trust.d limits to classes count for no other
    #[arg(long, value_name = "CLASS", value_enum, default_value = "machine")]
    class: Class,
}

impl UsedClassOption {
    pub(super) fn class(&self) -> ImageClass {
        self.class.into()
    }
}

/// The words for classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Class {
    Machine,
    Portable,
    Sysext,
    Confext,
}

impl From<Class> for ImageClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Machine => Self::Machine,
            Class::Portable => Self::Portable,
            Class::Sysext => Self::Sysext,
            Class::Confext => Self::Confext,
        }
    }
}

/// Signatures beside the image.
#[derive(Debug, Args)]
pub(super) struct SignatureOptions {
    /// The detached PKCS#7 signature of the root hash of the root partition, in DER or PEM: a file, or base64:TEXT
    #[arg(long, value_name = "FILE")]
    root_hash_sig: Option<OsString>,

    /// The detached PKCS#7 signature of the root hash of the usr partition, in DER or PEM: a file, or base64:TEXT
    #[arg(long, value_name = "FILE")]
    usr_hash_sig: Option<OsString>,
}

/// What lies beside the image.
#[derive(Debug, Args)]
pub(super) struct SidecarOptions {
    #[command(flatten)]
    signatures: SignatureOptions,

    /// The dm-verity superblock and hash tree of an image without a partition table: a file or a block device
    #[arg(long, value_name = "FILE")]
    verity_data: Option<PathBuf>,

    /// Whether files beside the image that have its name count: NAME.roothash, NAME.roothash.p7s, NAME.usrhash,
    /// NAME.usrhash.p7s and NAME.verity for NAME.raw
    #[arg(long, value_name = "WHICH", value_enum, default_value = "auto")]
    sidecars: Sidecars,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sidecars {
    /// Those that are there
    Auto,
    /// None
    No,
}

impl SignatureOptions {
    /// Those that were named.
    pub(super) fn named(&self) -> Result<Vec<(CompanionKind, NamedCompanion)>, Failure> {
        let mut named = Vec::new();
        for (kind, option, given) in [
            (CompanionKind::RootHashSignature, "--root-hash-sig=", &self.root_hash_sig),
            (CompanionKind::UsrHashSignature, "--usr-hash-sig=", &self.usr_hash_sig),
        ] {
            let Some(given) = given else { continue };
            let companion = match given.to_str().and_then(|text| text.strip_prefix("base64:")) {
                None => NamedCompanion::File(given.into()),
                Some(text) => match data_encoding::BASE64.decode(text.as_bytes()) {
                    Ok(bytes) => NamedCompanion::Bytes(bytes),
                    Err(error) => {
                        let problem =
                            format!("reading {option}base64:…: expected base64 with padding: {error}");
                        return Err(Failure::Operation(OperationError::Usage(problem)));
                    }
                },
            };
            named.push((kind, companion));
        }
        Ok(named)
    }
}

impl SidecarOptions {
    /// What is looked at beside the image.
    pub(super) fn settings(&self) -> Result<CompanionSettings, Failure> {
        let mut named = self.signatures.named()?;
        if let Some(path) = &self.verity_data {
            named.push((CompanionKind::Verity, NamedCompanion::File(path.clone())));
        }
        Ok(CompanionSettings { automatic: self.sidecars == Sidecars::Auto, named })
    }
}

/// What to require.
#[derive(Debug, Args)]
pub(super) struct PolicyOption {
    /// What to require of the image: the text of an image policy, @NAME for a policy file or preset ('ddictl policy list'
    /// shows them), or the path of a policy file, with a '/' in it
    #[arg(long, value_name = "POLICY")]
    image_policy: Option<String>,
}

impl PolicyOption {
    /// The policy that was given.
    pub(super) fn given(&self) -> Result<Option<RequestedPolicy>, Failure> {
        Ok(self.image_policy.as_deref().map(policy_store::resolve).transpose()?)
    }

    /// The policy that was given, or this one.
    pub(super) fn given_or(&self, default: &str) -> Result<RequestedPolicy, Failure> {
        Ok(policy_store::resolve(self.image_policy.as_deref().unwrap_or(default))?)
    }
}

/// How the kernel guards what is verified.
#[derive(Debug, Args)]
pub(super) struct GuardOption {
    /// What dm-verity does when a block turns out to differ: fail the read (eio), or bring the machine down (panic) or up
    /// again (restart)
    #[arg(long, value_name = "ACTION", value_enum, default_value = "eio")]
    on_corruption: Corruption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Corruption {
    Eio,
    Panic,
    Restart,
}

impl GuardOption {
    pub(super) const fn options(&self) -> GuardOptions {
        let on_corruption = match self.on_corruption {
            Corruption::Eio => OnCorruption::Eio,
            Corruption::Panic => OnCorruption::Panic,
            Corruption::Restart => OnCorruption::Restart,
        };
        GuardOptions { on_corruption }
    }
}

/// How to open encrypted partitions.
#[derive(Debug, Args)]
pub(super) struct KeyOptions {
    /// Open encrypted partitions with the key in this file: all its bytes
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    key_file: Option<PathBuf>,

    /// Open encrypted partitions with the passphrase that can be read from this file descriptor
    #[arg(long, value_name = "NUMBER")]
    passphrase_fd: Option<u32>,
}

impl KeyOptions {
    /// Where keys come from: what was given; else the credential `dissect.passphrase`; else whoever sits at the
    /// terminal.
    pub(super) fn source(&self) -> KeySource<'static> {
        if let Some(path) = &self.key_file {
            return KeySource::File(path.clone());
        }
        if let Some(number) = self.passphrase_fd {
            return KeySource::Descriptor(number);
        }
        let ask: Option<Box<Ask<'static>>> =
            if io::stdin().is_terminal() { Some(Box::new(ask)) } else { None };
        match (std::env::var_os("CREDENTIALS_DIRECTORY"), ask) {
            (Some(directory), ask) if !directory.is_empty() => KeySource::Credential(directory.into(), ask),
            (_, Some(ask)) => KeySource::Ask(ask),
            (_, None) => KeySource::None,
        }
    }
}

/// Asks at the terminal, which shows nothing of the answer; `None` where there is no terminal.
fn ask(question: &str) -> io::Result<Option<Zeroizing<String>>> {
    match rpassword::prompt_password(question) {
        Ok(answer) => Ok(Some(Zeroizing::new(answer))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// How to write JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Json {
    /// Over several lines, for people
    Pretty,
    /// On one line, for programs
    Short,
    /// Not at all
    Off,
}

impl Json {
    /// The value in this form, with a final newline; `None` where it is not wanted.
    pub(super) fn render(self, value: &serde_json::Value) -> Option<String> {
        match self {
            // A value prints always; its alternate form is the pretty one.
            Self::Pretty => Some(with_escapes(&format!("{value:#}\n"))),
            Self::Short => Some(with_escapes(&format!("{value}\n"))),
            Self::Off => None,
        }
    }
}

/// The same JSON with what a terminal could obey or hide written as escapes. `serde_json` does so for the control
/// characters of ASCII, and these can stand nowhere but within strings.
fn with_escapes(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || !is_deceptive(character) {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// Whether to print JSON.
#[derive(Debug, Args)]
pub(super) struct JsonOption {
    /// Print JSON instead of text
    #[arg(long, value_name = "FORM", value_enum, default_value = "off")]
    pub(super) json: Json,
}

/// Whether column headings are wanted.
#[derive(Debug, Args)]
pub(super) struct LegendOption {
    /// Do not print column headings
    #[arg(long)]
    pub(super) no_legend: bool,
}
