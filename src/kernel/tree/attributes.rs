//! Owner, permissions, extended attributes and times of a member, in the order in which none undoes another.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown, lchown};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;

use super::TreeError;
use crate::format::tar::{ACCESS_ACL, Attributes, DEFAULT_ACL, MemberPath, Timestamp, shown};
use crate::kernel::mount::proc_path;
use crate::kernel::raw::extended_attribute;

/// How many names of attributes that were not kept are told.
const MOST_UNKEPT: usize = 16;
/// Attributes that belong to a security module or to integrity measurement: without it they mean nothing, and it may
/// refuse those of another machine.
const LABELS: [&[u8]; 8] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"security.apparmor",
    b"security.SMACK64",
    b"security.SMACK64EXEC",
    b"security.SMACK64TRANSMUTE",
    b"security.SMACK64MMAP",
];

/// An extended attribute that a file system or the kernel did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unkept {
    /// Its name.
    pub attribute: String,
    /// The first member that should have had it.
    pub first: String,
    /// Of how many members it was left out.
    pub members: u64,
    /// What the kernel said of the first one.
    pub reason: String,
}

/// What was not kept so far, by name.
#[derive(Debug, Default)]
pub(super) struct Unsupported(BTreeMap<Vec<u8>, Unkept>);

impl Unsupported {
    fn add(&mut self, name: &[u8], path: &MemberPath, errno: Errno) {
        if let Some(unkept) = self.0.get_mut(name) {
            unkept.members = unkept.members.saturating_add(1);
        } else if self.0.len() < MOST_UNKEPT {
            let (attribute, first, reason) = (shown(name), path.to_string(), errno.desc().to_owned());
            self.0.insert(name.to_vec(), Unkept { attribute, first, members: 1, reason });
        }
    }

    pub(super) fn into_list(self) -> Vec<Unkept> {
        self.0.into_values().collect()
    }
}

/// What gets attributes.
pub(super) enum Target<'a> {
    /// A file or a directory.
    Open(&'a File),
    /// Anything else, in this directory under this name. Links have no permissions.
    Named { parent: &'a File, name: &'a OsStr, has_mode: bool },
}

/// Gives a member its attributes.
///
/// # Errors
/// [`TreeError::System`]; [`TreeError::AccessControl`] where an access control list cannot be kept.
pub(super) fn apply(
    target: &Target<'_>,
    path: &MemberPath,
    attributes: &Attributes,
    unsupported: &mut Unsupported,
) -> Result<(), TreeError> {
    // Changing the owner takes away set-user-ID and capabilities, so it comes first.
    let (user, group) = (Some(attributes.user), Some(attributes.group));
    let owning = |source| TreeError::System { doing: "giving an owner to", path: path.to_string(), source };
    match target {
        Target::Open(file) => fchown(file, user, group),
        Target::Named { parent, name, .. } => lchown(proc_path(parent.as_fd()).join(name), user, group),
    }
    .map_err(owning)?;
    let permitting =
        |source| TreeError::System { doing: "giving permissions to", path: path.to_string(), source };
    match target {
        Target::Open(file) => set_mode(file, attributes.mode).map_err(permitting)?,
        Target::Named { parent, name, has_mode: true } => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let node =
                openat(parent, *name, flags, Mode::empty()).map_err(|errno| permitting(errno.into()))?;
            let permissions = Permissions::from_mode(attributes.mode);
            fs::set_permissions(proc_path(node.as_fd()), permissions).map_err(permitting)?;
        }
        Target::Named { .. } => {}
    }
    for (name, value) in &attributes.extended {
        set_extended(target, path, name, value, unsupported)?;
    }
    let time = time_of(attributes.modified);
    match target {
        Target::Open(file) => futimens(file, &TimeSpec::UTIME_OMIT, &time),
        Target::Named { parent, name, .. } => {
            utimensat(parent, *name, &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::NoFollowSymlink)
        }
    }
    .map_err(TreeError::system("giving a time to", path))
}

/// Sets permissions, whatever the mask of this process.
pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

fn set_extended(
    target: &Target<'_>,
    path: &MemberPath,
    name: &[u8],
    value: &[u8],
    unsupported: &mut Unsupported,
) -> Result<(), TreeError> {
    let system = TreeError::system("giving an extended attribute to", path);
    let text = CString::new(name).map_err(|_| Errno::EINVAL);
    let set = text.and_then(|text| match target {
        Target::Open(file) => extended_attribute::set(file.as_fd(), &text, value),
        Target::Named { parent, name, .. } => {
            let path = path_of(parent.as_fd(), name)?;
            extended_attribute::set_by_path(&path, &text, value)
        }
    });
    match set {
        Ok(()) => Ok(()),
        Err(errno) if name == ACCESS_ACL || name == DEFAULT_ACL => {
            Err(TreeError::AccessControl { path: path.to_string(), source: errno.into() })
        }
        Err(errno) if errno == Errno::EOPNOTSUPP || LABELS.contains(&name) => {
            unsupported.add(name, path, errno);
            Ok(())
        }
        Err(errno) => Err(system(errno)),
    }
}

/// A path to what has this name in a directory; the last step is not followed by those who take it.
fn path_of(parent: BorrowedFd<'_>, name: &OsStr) -> Result<CString, Errno> {
    let path = proc_path(parent).join(name);
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

fn time_of(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanoseconds.into())
}
