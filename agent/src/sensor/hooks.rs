//! The programs, the hooks they are for, and whether this kernel has those hooks.

use std::{
    ffi::CStr,
    fs,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use staghound_ebpf::Action;

use crate::sensor::{
    SensorConfig, SensorError,
    bpf::{self, ProgramType},
    load::Attachment,
    offsets::{IoUring, KernelTypes},
};

/// By which hook the ends of system calls are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HookChoice {
    /// By the one that loses nothing on this kernel; by the other when that one is refused.
    #[default]
    Auto,
    /// By the tracepoint itself (`tp_btf/sys_exit`).
    Raw,
    /// By the tracepoint's perf event (`raw_syscalls/sys_exit`).
    Perf,
}

/// Whether programs on LSM hooks are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LsmChoice {
    /// Where the kernel runs them.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// How the ends of system calls are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// By the tracepoint itself.
    Raw,
    /// By its perf event.
    Perf,
}

impl Family {
    /// The family to try first, and whether the other may be tried after it.
    ///
    /// From 7.0 on a program may be preempted, and while it is, the kernel skips it for the other tasks of that processor.
    /// Measured on 7.3 with six busy tasks on one processor, programs on the tracepoint itself saw 10–16 % of the opens;
    /// a perf event's program runs with preemption off and is not skipped. It costs about as much again per system call,
    /// so older kernels, which lose nothing, use the tracepoint itself.
    pub(super) fn choose(choice: HookChoice, release: Release) -> (Self, bool) {
        match choice {
            HookChoice::Auto if release >= Release(7, 0) => (Self::Perf, true),
            HookChoice::Auto => (Self::Raw, true),
            HookChoice::Raw => (Self::Raw, false),
            HookChoice::Perf => (Self::Perf, false),
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Raw => Self::Perf,
            Self::Perf => Self::Raw,
        }
    }

    /// The map of the programs behind the dispatcher.
    pub(super) fn actions(self) -> &'static str {
        match self {
            Self::Raw => "ACTIONS",
            Self::Perf => "ACTIONS_PERF",
        }
    }
}

/// Version of a kernel: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32);

impl Release {
    /// Of the running kernel; 0.0 where it cannot be told.
    #[must_use]
    pub fn of_running_kernel() -> Self {
        Self::parse(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut parts = text
            .trim()
            .split(['.', '-', '+', '~'])
            .map(|part| part.parse().unwrap_or(0));
        Self(parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// A tracepoint, with its arguments as the kernel types them.
    Tracepoint(&'static str),
    /// A tracepoint that older kernels do not have, and what does its work there.
    Newer(&'static str, &'static str),
    /// The end of every system call, or a program that is tail-called there.
    SyscallExit,
    /// A request that io_uring was given.
    IoUring,
    /// An LSM hook.
    Lsm(&'static str),
    /// An LSM hook that refuses what is done to the agent; only if asked for.
    Guard(&'static str),
}

/// One program of the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    /// What it is called in the object when it hangs on a perf event.
    pub(super) perf_name: &'static str,
    pub(super) hook: Hook,
    /// What it serves behind the dispatcher; empty for programs that are attached themselves.
    pub(super) actions: &'static [Action],
}

const fn program(name: &'static str, hook: Hook) -> Program {
    Program {
        name,
        perf_name: name,
        hook,
        actions: &[],
    }
}

const fn syscall(name: &'static str, perf_name: &'static str, actions: &'static [Action]) -> Program {
    Program {
        name,
        perf_name,
        hook: Hook::SyscallExit,
        actions,
    }
}

/// The program that hands each system call to the one that knows it.
pub(super) const DISPATCHER: &str = "sys_exit";
/// The programs that see what is sent and received over any socket, by whatever call.
pub(super) const SOCKET_LENGTHS: [&str; 2] = ["socket_length", "socket_received"];
/// The program that sees what io_uring is asked for.
pub const REQUESTS: &str = "io_submit";
/// The program that sees opens before they happen, io_uring's included.
pub(super) const LSM_OPEN: &str = "lsm_file_open";

/// What is started before the rest: what keeps the process table, and opens. The dispatcher follows.
pub(super) const FIRST: [&str; 4] = ["process_fork", "process_exec", "process_exit", "file_open"];

/// In the order in which they are told of.
pub(super) const PROGRAMS: [Program; 31] = [
    program("process_fork", Hook::Tracepoint("sched_process_fork")),
    program("process_exec", Hook::Tracepoint("sched_process_exec")),
    program("process_exit", Hook::Tracepoint("sched_process_exit")),
    syscall("process_chdir", "process_chdir_perf", &[Action::Chdir]),
    syscall("file_open", "file_open_perf", &[Action::Open]),
    syscall("file_rename", "file_rename_perf", &[Action::Rename, Action::RenameAt]),
    syscall("file_unlink", "file_unlink_perf", &[Action::Unlink, Action::UnlinkAt]),
    syscall(
        "file_chmod",
        "file_chmod_perf",
        &[Action::Chmod, Action::ChmodAt, Action::ChmodDescriptor],
    ),
    syscall(
        "socket_state",
        "socket_state_perf",
        &[
            Action::Connect,
            Action::Bind,
            Action::Listen,
            Action::Accept,
            Action::SocketCall,
        ],
    ),
    syscall(
        "socket_send",
        "socket_send_perf",
        &[
            Action::SendTo,
            Action::SendMsg,
            Action::SendMmsg,
            Action::Write,
            Action::WriteVector,
        ],
    ),
    syscall(
        "socket_receive",
        "socket_receive_perf",
        &[
            Action::ReceiveFrom,
            Action::ReceiveMsg,
            Action::ReceiveMmsg,
            Action::Read,
            Action::ReadVector,
        ],
    ),
    syscall("call", "call_perf", &[Action::Call]),
    syscall(DISPATCHER, "sys_exit_perf", &[]),
    program(REQUESTS, Hook::IoUring),
    program("socket_change", Hook::Tracepoint("inet_sock_set_state")),
    program(
        SOCKET_LENGTHS[0],
        Hook::Newer("sock_send_length", "the calls that write are looked at instead"),
    ),
    program(
        SOCKET_LENGTHS[1],
        Hook::Newer("sock_recv_length", "the calls that read are looked at instead"),
    ),
    program("lsm_path_unlink", Hook::Lsm("path_unlink")),
    program("lsm_path_rmdir", Hook::Lsm("path_rmdir")),
    program("lsm_path_mkdir", Hook::Lsm("path_mkdir")),
    program("lsm_path_mknod", Hook::Lsm("path_mknod")),
    program("lsm_path_symlink", Hook::Lsm("path_symlink")),
    program("lsm_path_link", Hook::Lsm("path_link")),
    program("lsm_path_rename", Hook::Lsm("path_rename")),
    program("lsm_path_truncate", Hook::Lsm("path_truncate")),
    program("lsm_path_chmod", Hook::Lsm("path_chmod")),
    program("lsm_path_chown", Hook::Lsm("path_chown")),
    program("lsm_path_chroot", Hook::Lsm("path_chroot")),
    program(LSM_OPEN, Hook::Lsm("file_open")),
    program("lsm_guard_kill", Hook::Guard("task_kill")),
    program("lsm_guard_ptrace", Hook::Guard("ptrace_access_check")),
];

impl Program {
    /// Whether it is one of those that exist for both families.
    pub(super) fn at_syscall_exit(&self) -> bool {
        self.hook == Hook::SyscallExit
    }

    /// Its name in the object.
    pub(super) fn object_name(&self, family: Family) -> &'static str {
        match family {
            Family::Raw => self.name,
            Family::Perf => self.perf_name,
        }
    }
}

/// What the running kernel offers.
pub(super) struct Kernel {
    pub(super) release: Release,
    pub(super) types: KernelTypes,
    /// Why LSM programs do not run here.
    lsm: Result<(), String>,
}

impl Kernel {
    pub(super) fn running(config: &SensorConfig) -> Result<Self, SensorError> {
        let types = KernelTypes::of_running_kernel()?;
        Ok(Self {
            release: Release::of_running_kernel(),
            lsm: match config.lsm {
                LsmChoice::Off => Err("left out as asked".to_owned()),
                LsmChoice::Auto => lsm_is_listed().and_then(|()| lsm_is_permitted(&types)),
            },
            types,
        })
    }

    /// Which argument of its tracepoint is io_uring's request.
    pub(super) fn request_argument(&self) -> u32 {
        match self.types.io_uring {
            IoUring::Request(_, argument) => argument,
            IoUring::NoRequest(_) | IoUring::Absent => 0,
        }
    }

    /// The hook of a program by its name in outcomes, and what the program is to the kernel; or why there is none.
    pub(super) fn hook(&self, program: &Program, family: Family) -> (&'static str, Result<ProgramType, Attachment>) {
        const ABSENT: &str = "this kernel does not have the hook";
        let no_hook = |reason: &str| Attachment::NoHook(reason.to_owned());
        let tracepoint = |name: &str| self.types.tracepoint(name).map(ProgramType::tracepoint);
        let lsm_hook = |name: &str| self.types.lsm_hook(name).map(ProgramType::lsm);
        match program.hook {
            Hook::Tracepoint(name) => (name, tracepoint(name).ok_or_else(|| no_hook(ABSENT))),
            Hook::Newer(name, instead) => (
                name,
                tracepoint(name).ok_or_else(|| Attachment::NotNeeded(format!("{ABSENT}; {instead}"))),
            ),
            Hook::SyscallExit => match family {
                Family::Raw => ("sys_exit", tracepoint("sys_exit").ok_or_else(|| no_hook(ABSENT))),
                Family::Perf => ("raw_syscalls/sys_exit", Ok(ProgramType::EVENT)),
            },
            Hook::IoUring => match self.types.io_uring {
                IoUring::Request(name, _) => (name, tracepoint(name).ok_or_else(|| no_hook(ABSENT))),
                IoUring::NoRequest(name) => (
                    name,
                    Err(no_hook(
                        "on this kernel it does not tell the request; of io_uring only its own calls are seen",
                    )),
                ),
                IoUring::Absent => (
                    "io_uring_submit_req",
                    Err(Attachment::NotNeeded("this kernel has no io_uring".to_owned())),
                ),
            },
            Hook::Lsm(name) => (
                name,
                match &self.lsm {
                    Err(reason) => Err(Attachment::NotNeeded(reason.clone())),
                    // It takes structs by value (`kuid_t`), and programs cannot be handed those (kernel/bpf/btf.c).
                    Ok(()) if name == "path_chown" && self.release < Release(6, 0) => Err(Attachment::NotNeeded(
                        "before 6.0 no program can be on this hook; the path that was passed is told instead"
                            .to_owned(),
                    )),
                    Ok(()) => lsm_hook(name).ok_or_else(|| Attachment::NotNeeded(ABSENT.to_owned())),
                },
            ),
            Hook::Guard(name) => (
                name,
                match &self.lsm {
                    Err(reason) => Err(Attachment::Powerless(reason.clone())),
                    Ok(()) => lsm_hook(name).ok_or_else(|| Attachment::Powerless(ABSENT.to_owned())),
                },
            ),
        }
    }
}

/// Whether the kernel runs programs on LSM hooks, and lets this process load them.
///
/// # Errors
/// Why not.
pub fn lsm_runs_programs() -> Result<(), String> {
    lsm_is_listed()?;
    lsm_is_permitted(&KernelTypes::of_running_kernel().map_err(|error| error.to_string())?)
}

/// Whether the kernel runs programs on LSM hooks. They load and attach without that too, and then see nothing.
fn lsm_is_listed() -> Result<(), String> {
    let modules = read_of("securityfs", c"securityfs", "/sys/kernel/security", "lsm")
        .map_err(|error| format!("the kernel's security modules cannot be listed: {error}"))?;
    if modules.trim().split(',').any(|module| module == "bpf") {
        Ok(())
    } else {
        Err(format!(
            "`bpf` is not among the kernel's security modules (boot with lsm={},bpf)",
            modules.trim()
        ))
    }
}

/// Whether this process may load such programs. Some hosts have the hooks and keep them from everybody; to learn that
/// from the programs themselves would mean to load all of them twice.
fn lsm_is_permitted(types: &KernelTypes) -> Result<(), String> {
    let Some(hook) = types.lsm_hook("file_open") else {
        return Ok(());
    };
    match bpf::may_load_lsm(hook) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("this host does not permit programs on LSM hooks ({error})"))
        }
        // Whatever else is wrong, the programs themselves will tell.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The number of the tracepoint that the perf events of the ends of system calls are made of.
pub(super) fn syscall_exit_number() -> Result<u64, String> {
    const PATH: &str = "events/raw_syscalls/sys_exit/id";
    let number = read_of("tracefs", c"tracefs", "/sys/kernel/tracing", PATH)
        .or_else(|error| fs::read_to_string(Path::new("/sys/kernel/debug/tracing").join(PATH)).map_err(|_| error))
        .map_err(|error| format!("tracefs cannot be read: {error}"))?;
    number
        .trim()
        .parse()
        .map_err(|_| format!("tracefs numbers the tracepoint {number:?}, which is no number"))
}

/// Reads a file of a kernel file system where it is usually mounted, or from a mount that only this process sees.
fn read_of(name: &str, kind: &CStr, usual: &str, path: &str) -> io::Result<String> {
    match fs::read_to_string(Path::new(usual).join(path)) {
        Ok(text) => return Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mount = detached_mount(kind)
        .map_err(|error| io::Error::new(error.kind(), format!("{name} is not mounted, and cannot be: {error}")))?;
    let path = std::ffi::CString::new(path)?;
    // SAFETY: `path` is a NUL-terminated string, and the kernel keeps nothing of it.
    let file = unsafe { libc::openat(mount.as_raw_fd(), path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    let mut file = unsafe { fs::File::from_raw_fd(file) };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Mounts a file system nowhere: it is reached by the descriptor alone, and gone with it (5.2).
fn detached_mount(kind: &CStr) -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: libc::c_long = 6;
    let cloexec: libc::c_long = 1;
    let none: libc::c_long = 0;
    // SAFETY: `kind` is a NUL-terminated string, and the kernel keeps nothing of it.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), cloexec) })?;
    let descriptor = libc::c_long::from(context.as_raw_fd());
    // SAFETY: no argument of this command is a pointer that is followed.
    let created = unsafe { libc::syscall(libc::SYS_fsconfig, descriptor, FSCONFIG_CMD_CREATE, none, none, none) };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes numbers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, descriptor, cloexec, none) })
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (text, release) in [
            ("6.18.44-fc-v657\n", Release(6, 18)),
            ("5.10.0-30-amd64", Release(5, 10)),
            ("7.2-rc3", Release(7, 2)),
            ("7.0~rc1+", Release(7, 0)),
            ("", Release(0, 0)),
        ] {
            assert_eq!(Release::parse(text), release, "{text}");
        }
    }

    #[test]
    fn the_hook_that_loses_nothing_is_tried_first() {
        let auto = |release| Family::choose(HookChoice::Auto, release);
        assert_eq!(auto(Release(6, 18)), (Family::Raw, true));
        assert_eq!(auto(Release(7, 0)), (Family::Perf, true));
        assert_eq!(auto(Release(10, 0)), (Family::Perf, true));
        assert_eq!(Family::choose(HookChoice::Raw, Release(7, 0)), (Family::Raw, false));
        assert_eq!(Family::choose(HookChoice::Perf, Release(5, 10)), (Family::Perf, false));
    }

    #[test]
    fn names_of_programs() {
        for (index, program) in PROGRAMS.iter().enumerate() {
            assert_eq!(
                program.at_syscall_exit(),
                program.perf_name == format!("{}_perf", program.name),
                "{program:?}"
            );
            assert!(program.actions.is_empty() || program.at_syscall_exit(), "{program:?}");
            assert!(
                PROGRAMS[..index].iter().all(|other| other.name != program.name),
                "{program:?}"
            );
        }
    }

    #[test]
    fn a_kernel_file_system_is_read_without_being_mounted() {
        // Fails where mounting is not allowed, which the tests need anyway.
        let number = syscall_exit_number().unwrap();
        assert!(number > 0);
        let mount = detached_mount(c"tracefs").unwrap();
        assert!(mount.as_raw_fd() > 2);
    }
}
