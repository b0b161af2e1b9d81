//! Giving up what a process does not need any more, for good: Landlock for files, sockets and other processes, seccomp for
//! system calls. What was opened before stays usable.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope as LandlockScope,
};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// What is open: no file is opened any more, no socket, no program started.
    OpenFiles,
    /// The network, and reading files, which names and certificates of servers need. Nothing is written but what is open.
    Network,
}

/// What the kernel enforces from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Landlock, as far as this kernel has it.
    pub landlock: bool,
    /// The filter of system calls, in every thread.
    pub system_calls: bool,
}

/// Why a process could not be confined though the kernel can.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Landlock.
    #[error("Landlock")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter of system calls.
    #[error("seccomp")]
    Seccomp(#[from] seccompiler::Error),
    /// The filter of system calls could not be made.
    #[error("seccomp")]
    Filter(#[from] seccompiler::BackendError),
}

/// Confines the whole process. Threads inherit it from the one that starts them; the filter of system calls is put on
/// those that run already, too, Landlock only where the kernel can do that, so that this has to come before them.
///
/// # Errors
/// [`ConfineError`] where the kernel has what is needed and refuses. Where it lacks something, the result says so.
pub fn confine(kept: Kept) -> Result<Confined, ConfineError> {
    let landlock = restrict_files(kept)?;
    let system_calls = match filter(kept)? {
        Some(filter) => match apply_filter_all_threads(&filter) {
            Ok(()) => true,
            // Not built into the kernel, or a filter around us does not let us have one.
            Err(seccompiler::Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                false
            }
            Err(error) => return Err(error.into()),
        },
        None => false,
    };
    Ok(Confined { landlock, system_calls })
}

/// No rule allows anything of what is handled here.
fn restrict_files(kept: Kept) -> Result<bool, ConfineError> {
    let newest = ABI::V6;
    let ruleset = match kept {
        Kept::OpenFiles => Ruleset::default()
            .handle_access(AccessFs::from_all(newest))?
            .handle_access(AccessNet::from_all(newest))?,
        Kept::Network => Ruleset::default()
            .handle_access(AccessFs::from_write(newest) | AccessFs::Execute)?
            .handle_access(AccessNet::BindTcp)?,
    };
    let status = ruleset.scope(LandlockScope::from_all(newest))?.create()?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// The filter; `None` on a processor that the compiler of filters does not know.
fn filter(kept: Kept) -> Result<Option<BpfProgram>, ConfineError> {
    let architecture = if cfg!(target_arch = "x86_64") {
        TargetArch::x86_64
    } else if cfg!(target_arch = "aarch64") {
        TargetArch::aarch64
    } else if cfg!(target_arch = "riscv64") {
        TargetArch::riscv64
    } else {
        return Ok(None);
    };
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let (rules, otherwise, then) = match kept {
        Kept::OpenFiles => (allowed_with_open_files()?, refuse, SeccompAction::Allow),
        Kept::Network => (refused_with_network()?, SeccompAction::Allow, refuse),
    };
    let filter = SeccompFilter::new(rules, otherwise, then, architecture)?;
    Ok(Some(BpfProgram::try_from(filter)?))
}

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Whether the argument `index` has `value` in the bits of `mask`.
fn bits(index: u8, mask: libc::c_int, value: libc::c_int) -> Result<SeccompRule, ConfineError> {
    let unsigned = |number: libc::c_int| u64::try_from(number).unwrap_or_default();
    let compare = SeccompCmpOp::MaskedEq(unsigned(mask));
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, unsigned(value))?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Whether the argument `index` is `value`.
fn is(index: u8, value: u64) -> Result<SeccompRule, ConfineError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// What computing with open files takes: reading and writing them, memory that is not executed, threads, time.
fn allowed_with_open_files() -> Result<Rules, ConfineError> {
    let mut rules: Rules = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_preadv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_fcntl,
        libc::SYS_ppoll,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_membarrier,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_tgkill,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrandom,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .map(|call| (call, Vec::new()))
    .into();
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_poll, Vec::new());
    let not_executable = || bits(2, libc::PROT_EXEC, 0).map(|rule| vec![rule]);
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    // The width of a terminal, and whether it is one.
    rules.insert(libc::SYS_ioctl, vec![is(1, libc::TCGETS)?, is(1, libc::TIOCGWINSZ)?]);
    // Names of threads.
    rules.insert(libc::SYS_prctl, vec![is(0, u64::try_from(libc::PR_SET_NAME).unwrap_or_default())?]);
    Ok(rules)
}

/// What fetching over the network does not take: programs, other processes, other rights, and files that are written. The
/// calls for names and sockets differ from system to system, so that here what is refused is listed.
fn refused_with_network() -> Result<Rules, ConfineError> {
    let mut rules: Rules = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_truncate,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_setxattr,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_setgid,
        libc::SYS_setresgid,
    ]
    .map(|call| (call, Vec::new()))
    .into();
    #[cfg(target_arch = "x86_64")]
    for call in [
        libc::SYS_creat,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_mknod,
        libc::SYS_chmod,
        libc::SYS_chown,
    ] {
        rules.insert(call, Vec::new());
    }
    let writing = |index| {
        Ok::<_, ConfineError>(vec![
            bits(index, libc::O_ACCMODE, libc::O_WRONLY)?,
            bits(index, libc::O_ACCMODE, libc::O_RDWR)?,
            bits(index, libc::O_CREAT, libc::O_CREAT)?,
        ])
    };
    rules.insert(libc::SYS_openat, writing(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, writing(1)?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Says to the test that is run in a process of its own that it is.
    const CHILD: &str = "DDICTL_TEST_CONFINED";

    /// Runs a test of this module again, in a process that it may confine, and tells it of a directory.
    fn in_child(name: &str) {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg(format!("kernel::confinement::tests::{name}"))
            .env(CHILD, directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}{output:?}");
        assert!(told.contains("confined:"), "it did not get to the end: {told}");
    }

    fn child() -> Option<PathBuf> {
        std::env::var_os(CHILD).map(PathBuf::from)
    }

    fn denied<T>(what: &str, result: std::io::Result<T>) {
        let error = result.err().unwrap_or_else(|| panic!("{what} was possible"));
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
    }

    fn nothing_can_be_opened(place: &str) {
        denied(&format!("opening a file in {place}"), File::open("/etc/passwd"));
        denied(&format!("making a file in {place}"), File::create("/tmp/ddictl-confined"));
        denied(&format!("a TCP socket in {place}"), TcpListener::bind("127.0.0.1:0"));
        denied(&format!("connecting in {place}"), TcpStream::connect("127.0.0.1:9"));
        denied(&format!("a UDP socket in {place}"), UdpSocket::bind("127.0.0.1:0"));
        denied(&format!("starting a program in {place}"), Command::new("/bin/true").status());
        denied(&format!("removing a file in {place}"), fs::remove_file("/tmp/ddictl-confined"));
        denied(&format!("listing a directory in {place}"), fs::read_dir("/etc"));
    }

    #[test]
    fn what_is_open_stays_readable_and_nothing_else_can_be_opened_in_any_thread() {
        if child().is_none() {
            in_child("what_is_open_stays_readable_and_nothing_else_can_be_opened_in_any_thread");
            return;
        }
        let mut file = File::open("/proc/self/exe").unwrap();
        // A thread that ran before, and one that is started afterwards.
        let (go, gone) = mpsc::channel::<()>();
        let earlier = thread::spawn(move || {
            gone.recv().unwrap();
            nothing_can_be_opened("a thread that ran before");
        });
        let confined = confine(Kept::OpenFiles).unwrap();
        assert!(confined.system_calls, "this kernel has no seccomp: {confined:?}");
        nothing_can_be_opened("the thread that asked for it");
        go.send(()).unwrap();
        earlier.join().unwrap();
        thread::spawn(|| nothing_can_be_opened("a thread that began afterwards")).join().unwrap();
        let mut magic = [0; 4];
        file.read_exact(&mut magic).unwrap();
        assert_eq!(&magic, b"\x7fELF");
        println!("confined: {confined:?}");
    }

    #[test]
    fn with_the_network_files_are_read_and_never_written_and_no_program_starts() {
        let Some(directory) = child() else {
            in_child("with_the_network_files_are_read_and_never_written_and_no_program_starts");
            return;
        };
        let path = directory.join("file");
        fs::write(&path, "before").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let confined = confine(Kept::Network).unwrap();
        assert!(confined.system_calls, "this kernel has no seccomp: {confined:?}");
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        denied("writing", OpenOptions::new().write(true).open(&path));
        denied("making a file", File::create(directory.join("new")));
        denied("renaming", fs::rename(&path, directory.join("new")));
        denied("removing", fs::remove_file(&path));
        denied("starting a program", Command::new("/bin/true").status());
        println!("confined: {confined:?}");
    }
}
