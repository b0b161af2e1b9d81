//! The kernel's own check of a root hash signature: what it says, and what follows from it.
//!
//! We hand the kernel a signature only for a root hash that was authenticated before: its check comes on top. So a
//! kernel that cannot check is reported, and one that checked and said no is obeyed.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::errno::Errno;

/// What the kernel did with the signature of the root hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelSignature {
    /// There was none to check.
    None,
    /// It verified the signature with a key of its own; the table names the key that held the signature.
    Checked,
    /// It could not check, and the table was loaded without the signature.
    NotChecked {
        /// Why not.
        why: NotChecked,
    },
}

impl KernelSignature {
    /// The word for records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Checked => "checked",
            Self::NotChecked { .. } => "not-checked",
        }
    }
}

impl fmt::Display for KernelSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no signature to check"),
            Self::Checked => f.write_str("checked by the kernel"),
            Self::NotChecked { why } => write!(f, "not checked by the kernel: {why}"),
        }
    }
}

/// Why the kernel did not check a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotChecked {
    /// None of the keys that it trusts made the signature.
    NoKey,
    /// It was built without the check.
    NotSupported,
}

impl fmt::Display for NotChecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKey => "it has no key for the signature",
            Self::NotSupported => "it was built without CONFIG_DM_VERITY_VERIFY_ROOTHASH_SIG",
        })
    }
}

/// Why the kernel refused a root hash for its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SignatureRefusal {
    /// `ENOPKG`: digest, key or structure of the signature are none that it knows.
    #[error(
        "it does not know the algorithms of the signature; sign with RSA and SHA-256, or with a kernel that has them"
    )]
    Algorithm,
    /// `EINVAL` from a kernel that has the check: what an RSA signature with changed bytes ends with.
    #[error(
        "it answers that something is invalid, which it says of a signature that was changed; get the image again from a source you trust"
    )]
    Invalid,
    /// `EBADMSG`: not a PKCS#7 signature.
    #[error(
        "the signature is not one that it can read; sign the image again with a detached PKCS#7 signature in DER"
    )]
    Malformed,
    /// `EKEYREJECTED`: it has the key, and the signature is not by that key over this root hash, or the key is barred.
    #[error(
        "it has the key of the signature and rejects the signature; the image or its signature was changed, or the key is on its blacklist"
    )]
    Rejected,
    /// `ENOKEY` where `dm_verity.require_signatures` is set.
    #[error(
        "dm_verity.require_signatures is set and none of its keys made the signature; enroll the certificate in the keyring of the kernel (Secure Boot db or MOK), or sign with a key that is there"
    )]
    RequiredKeyMissing,
    /// No signature where `dm_verity.require_signatures` is set.
    #[error(
        "dm_verity.require_signatures is set and the image has no signature; sign the image, or boot without that parameter"
    )]
    RequiredMissing,
}

/// What the dm-verity of this kernel does with signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureCheck {
    /// It was built without the check.
    Absent,
    /// It checks the signatures that it is given.
    Offered,
    /// It takes no table without a signature.
    Required,
    /// The kernel does not tell.
    Unknown,
}

impl SignatureCheck {
    /// Asks sysfs: the parameter is there where the check is (drivers/md/dm-verity-verify-sig.c).
    pub(super) fn of_this_kernel() -> Self {
        Self::read(Path::new("/sys/module/dm_verity"))
    }

    fn read(module: &Path) -> Self {
        match fs::read_to_string(module.join("parameters/require_signatures")) {
            Ok(text) if text.trim_ascii() == "N" => Self::Offered,
            // Whatever else it may say, it is not that signatures are optional.
            Ok(_) => Self::Required,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && module.is_dir() => Self::Absent,
            Err(_) => Self::Unknown,
        }
    }
}

/// Whether the kernel takes no dm-verity device without a signature that it has checked itself.
#[must_use]
pub fn requires_signatures() -> bool {
    SignatureCheck::of_this_kernel() == SignatureCheck::Required
}

/// What follows from a refused table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consequence {
    /// The kernel could not check: load the table without the signature, and report it.
    LoadWithout(NotChecked),
    /// The kernel checked, or insists on it: refuse.
    Refuse(SignatureRefusal),
    /// It is not about the signature.
    Unrelated,
}

/// What follows from the answer to a table that named a signature (`signed`) or did not.
pub(super) fn consequence(errno: Errno, check: SignatureCheck, signed: bool) -> Consequence {
    use SignatureRefusal as R;
    match (errno, signed, check) {
        (Errno::ENOKEY, false, SignatureCheck::Required) => Consequence::Refuse(R::RequiredMissing),
        (_, false, _) => Consequence::Unrelated,
        (Errno::ENOKEY, true, SignatureCheck::Required) => Consequence::Refuse(R::RequiredKeyMissing),
        (Errno::ENOKEY, true, _) => Consequence::LoadWithout(NotChecked::NoKey),
        (Errno::EKEYREJECTED, true, _) => Consequence::Refuse(R::Rejected),
        (Errno::EBADMSG, true, _) => Consequence::Refuse(R::Malformed),
        (Errno::ENOPKG, true, _) => Consequence::Refuse(R::Algorithm),
        (Errno::EINVAL, true, SignatureCheck::Offered | SignatureCheck::Required) => {
            Consequence::Refuse(R::Invalid)
        }
        // An unknown option.
        (Errno::EINVAL, true, SignatureCheck::Unknown | SignatureCheck::Absent) => {
            Consequence::LoadWithout(NotChecked::NotSupported)
        }
        _ => Consequence::Unrelated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKS: [SignatureCheck; 4] =
        [SignatureCheck::Absent, SignatureCheck::Offered, SignatureCheck::Required, SignatureCheck::Unknown];

    #[test]
    fn a_kernel_that_checked_and_said_no_is_obeyed() {
        for check in CHECKS {
            for (errno, refusal) in [
                (Errno::EKEYREJECTED, SignatureRefusal::Rejected),
                (Errno::EBADMSG, SignatureRefusal::Malformed),
                (Errno::ENOPKG, SignatureRefusal::Algorithm),
            ] {
                assert_eq!(consequence(errno, check, true), Consequence::Refuse(refusal));
            }
        }
    }

    #[test]
    fn only_a_kernel_that_cannot_check_gets_the_table_without_the_signature() {
        use NotChecked::{NoKey, NotSupported};
        use SignatureCheck::{Absent, Offered, Required, Unknown};
        let without = Consequence::LoadWithout;
        for (errno, check, expected) in [
            (Errno::ENOKEY, Offered, without(NoKey)),
            (Errno::ENOKEY, Unknown, without(NoKey)),
            (Errno::ENOKEY, Required, Consequence::Refuse(SignatureRefusal::RequiredKeyMissing)),
            (Errno::EINVAL, Unknown, without(NotSupported)),
            (Errno::EINVAL, Absent, without(NotSupported)),
            (Errno::EINVAL, Offered, Consequence::Refuse(SignatureRefusal::Invalid)),
            (Errno::EINVAL, Required, Consequence::Refuse(SignatureRefusal::Invalid)),
            (Errno::EIO, Offered, Consequence::Unrelated),
            (Errno::EBUSY, Required, Consequence::Unrelated),
            (Errno::EKEYEXPIRED, Offered, Consequence::Unrelated),
            (Errno::EKEYREVOKED, Unknown, Consequence::Unrelated),
        ] {
            assert_eq!(consequence(errno, check, true), expected, "{errno} {check:?}");
        }
    }

    #[test]
    fn a_table_without_a_signature_is_never_loaded_a_second_time() {
        for check in CHECKS {
            for errno in [Errno::ENOKEY, Errno::EINVAL, Errno::EKEYREJECTED, Errno::EBADMSG, Errno::EBUSY] {
                let expected = if errno == Errno::ENOKEY && check == SignatureCheck::Required {
                    Consequence::Refuse(SignatureRefusal::RequiredMissing)
                } else {
                    Consequence::Unrelated
                };
                assert_eq!(consequence(errno, check, false), expected, "{errno} {check:?}");
            }
        }
    }

    #[test]
    fn the_parameter_of_the_module_says_whether_signatures_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let module = directory.path().join("dm_verity");
        assert_eq!(SignatureCheck::read(&module), SignatureCheck::Unknown);
        fs::create_dir_all(module.join("parameters")).unwrap();
        assert_eq!(SignatureCheck::read(&module), SignatureCheck::Absent);
        for (text, expected) in [
            ("N\n", SignatureCheck::Offered),
            ("Y\n", SignatureCheck::Required),
            ("", SignatureCheck::Required),
            ("?", SignatureCheck::Required),
        ] {
            fs::write(module.join("parameters/require_signatures"), text).unwrap();
            assert_eq!(SignatureCheck::read(&module), expected, "{text:?}");
        }
    }
}
