//! The seccomp filter: which system calls the agent may make once its programs are attached.
//!
//! What is not listed is refused with EPERM and told to the kernel's log, where it is `type=1326 … comm="…" syscall=N`.
//! Refusing rather than killing, so that a call that a newer C library thinks of costs a function and not the agent; a call
//! by the numbers of another architecture is nobody's mistake, and kills.

use std::io;

/// A system call that is allowed, always or for some values of one of its arguments.
struct Allowed {
    call: libc::c_long,
    only: Option<Only>,
}

/// The low half of an argument, masked, is one of these values.
struct Only {
    argument: u8,
    mask: u32,
    values: &'static [u32],
}

const fn always(call: libc::c_long) -> Allowed {
    Allowed { call, only: None }
}

const fn only(call: libc::c_long, argument: u8, mask: u32, values: &'static [u32]) -> Allowed {
    Allowed {
        call,
        only: Some(Only { argument, mask, values }),
    }
}

const ALL_BITS: u32 = u32::MAX;
const NEW_NAMESPACES: u32 = 0x7e02_0000 | 0x80;
const CLONE_THREAD: u32 = 0x1_0000;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;

/// Frequent ones first: on kernels before 5.11 the filter runs for each call.
const ALLOWED: &[Allowed] = &[
    // The loop of the sensor.
    always(libc::SYS_clock_nanosleep),
    always(libc::SYS_ppoll),
    // Maps, links and what is known of programs; nothing is created or loaded. In this order BPF_MAP_LOOKUP_ELEM,
    // _UPDATE_, _DELETE_, _GET_NEXT_KEY, OBJ_PIN, OBJ_GET, OBJ_GET_INFO_BY_FD, RAW_TRACEPOINT_OPEN, the four batch
    // operations, LINK_CREATE, LINK_DETACH.
    only(
        libc::SYS_bpf,
        0,
        ALL_BITS,
        &[1, 2, 3, 4, 6, 7, 15, 17, 24, 25, 26, 27, 28, 34],
    ),
    always(libc::SYS_clock_gettime),
    always(libc::SYS_futex),
    // Tasks and sockets.
    always(libc::SYS_epoll_pwait),
    always(libc::SYS_epoll_ctl),
    always(libc::SYS_epoll_create1),
    always(libc::SYS_eventfd2),
    always(libc::SYS_pipe2),
    // AF_UNIX and AF_NETLINK are how the C library looks up names; AF_NETLINK without CAP_NET_ADMIN only asks.
    only(libc::SYS_socket, 0, ALL_BITS, &[1, 2, 10, 16]),
    always(libc::SYS_socketpair),
    always(libc::SYS_connect),
    always(libc::SYS_bind),
    always(libc::SYS_listen),
    always(libc::SYS_accept4),
    always(libc::SYS_shutdown),
    always(libc::SYS_getsockname),
    always(libc::SYS_getpeername),
    always(libc::SYS_getsockopt),
    always(libc::SYS_setsockopt),
    always(libc::SYS_sendto),
    always(libc::SYS_sendmsg),
    always(libc::SYS_sendmmsg),
    always(libc::SYS_recvfrom),
    always(libc::SYS_recvmsg),
    // Descriptors and files.
    always(libc::SYS_read),
    always(libc::SYS_write),
    always(libc::SYS_readv),
    always(libc::SYS_writev),
    always(libc::SYS_pread64),
    always(libc::SYS_pwrite64),
    always(libc::SYS_pwritev),
    always(libc::SYS_lseek),
    always(libc::SYS_close),
    always(libc::SYS_dup),
    always(libc::SYS_dup3),
    always(libc::SYS_fcntl),
    always(libc::SYS_flock),
    // TCGETS and TIOCGWINSZ of standard output, FIONREAD, FIONBIO, FIOCLEX; PERF_EVENT_IOC_DISABLE lets go of a perf
    // tracepoint.
    only(
        libc::SYS_ioctl,
        1,
        ALL_BITS,
        &[0x5401, 0x5413, 0x541b, 0x5421, 0x5451, 0x2401],
    ),
    always(libc::SYS_openat),
    always(libc::SYS_getdents64),
    always(libc::SYS_newfstatat),
    always(libc::SYS_fstat),
    always(libc::SYS_statx),
    always(libc::SYS_statfs),
    always(libc::SYS_fstatfs),
    always(libc::SYS_faccessat),
    always(libc::SYS_faccessat2),
    always(libc::SYS_readlinkat),
    always(libc::SYS_getcwd),
    always(libc::SYS_mkdirat),
    always(libc::SYS_unlinkat),
    always(libc::SYS_renameat),
    always(libc::SYS_renameat2),
    always(libc::SYS_ftruncate),
    always(libc::SYS_fallocate),
    always(libc::SYS_fsync),
    always(libc::SYS_fdatasync),
    // The spool's mark that it is in use is a file's time.
    always(libc::SYS_utimensat),
    always(libc::SYS_copy_file_range),
    always(libc::SYS_sendfile),
    // Memory, never writable and executable at once: plug-ins of the C library for looking up names are mapped from files.
    only(libc::SYS_mmap, 2, PROT_WRITE | PROT_EXEC, &[0, PROT_WRITE, PROT_EXEC]),
    only(libc::SYS_mprotect, 2, PROT_EXEC, &[0]),
    always(libc::SYS_munmap),
    always(libc::SYS_mremap),
    always(libc::SYS_madvise),
    always(libc::SYS_brk),
    always(libc::SYS_membarrier),
    // Threads, no processes and no namespaces. What clone3 is asked for lies in memory where no filter sees it, see
    // [`apply`].
    only(libc::SYS_clone, 0, CLONE_THREAD | NEW_NAMESPACES, &[CLONE_THREAD]),
    always(libc::SYS_clone3),
    always(libc::SYS_set_robust_list),
    always(libc::SYS_rseq),
    always(libc::SYS_set_tid_address),
    always(libc::SYS_gettid),
    always(libc::SYS_sched_yield),
    always(libc::SYS_sched_getaffinity),
    always(libc::SYS_exit),
    always(libc::SYS_exit_group),
    // The thread's name, and names of memory areas that newer C libraries give.
    only(libc::SYS_prctl, 0, ALL_BITS, &[15, 16, 0x5356_4d41]),
    // Signals: to take them, and to abort.
    always(libc::SYS_rt_sigaction),
    always(libc::SYS_rt_sigprocmask),
    always(libc::SYS_rt_sigreturn),
    always(libc::SYS_sigaltstack),
    always(libc::SYS_restart_syscall),
    // What the process may ask of itself and the host.
    always(libc::SYS_getpid),
    always(libc::SYS_getppid),
    always(libc::SYS_getuid),
    always(libc::SYS_geteuid),
    always(libc::SYS_getgid),
    always(libc::SYS_getegid),
    always(libc::SYS_getpgid),
    always(libc::SYS_getsid),
    always(libc::SYS_uname),
    always(libc::SYS_sysinfo),
    always(libc::SYS_getrandom),
    always(libc::SYS_gettimeofday),
    always(libc::SYS_clock_getres),
    always(libc::SYS_nanosleep),
    always(libc::SYS_getrusage),
    // Of itself: the first argument is a pid.
    only(libc::SYS_prlimit64, 0, ALL_BITS, &[0]),
    always(libc::SYS_capget),
];

/// Calls that only older architectures have, with which C libraries do what the calls above do.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[Allowed] = &[
    always(libc::SYS_poll),
    always(libc::SYS_epoll_wait),
    always(libc::SYS_time),
    always(libc::SYS_pipe),
    always(libc::SYS_dup2),
    always(libc::SYS_open),
    always(libc::SYS_stat),
    always(libc::SYS_lstat),
    always(libc::SYS_access),
    always(libc::SYS_readlink),
    always(libc::SYS_mkdir),
    always(libc::SYS_rmdir),
    always(libc::SYS_unlink),
    always(libc::SYS_rename),
    always(libc::SYS_getdents),
    always(libc::SYS_getrlimit),
];
#[cfg(target_arch = "aarch64")]
const ALLOWED_OLD: &[Allowed] = &[];

/// How the kernel names the architecture whose call numbers these are (include/uapi/linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where `struct seccomp_data` has the number, the architecture and the low half of an argument.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

const fn refuse(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error.cast_unsigned()
}

/// How many calls are allowed.
pub(super) fn calls() -> usize {
    ALLOWED.len() + ALLOWED_OLD.len() + 1
}

/// Filters the calls of all threads of this process, and of those that they start, for good.
pub(super) fn apply() -> io::Result<()> {
    // Of several filters, the one that allows least decides, and its own flag says whether that is logged. With "no such
    // call" the C library turns to clone, whose flags can be seen; for each thread that is, so it is not logged.
    let mut quiet = Program::default();
    quiet.call(libc::SYS_clone3, None, refuse(libc::ENOSYS))?;
    quiet.end(libc::SECCOMP_RET_ALLOW);
    quiet.install(0)?;

    let mut main = Program::default();
    for allowed in ALLOWED.iter().chain(ALLOWED_OLD) {
        main.call(allowed.call, allowed.only.as_ref(), libc::SECCOMP_RET_ALLOW)?;
    }
    // Rust and C end a process that must not go on by a signal to themselves.
    let own = [std::process::id()];
    main.tgkill(own)?;
    main.end(refuse(libc::EPERM));
    main.install(libc::SECCOMP_FILTER_FLAG_LOG)
}

/// A filter in the making: classic BPF, whose jumps only lead forward.
struct Program(Vec<libc::sock_filter>);

impl Default for Program {
    /// Kills what comes by the numbers of another architecture, and has the number at hand.
    fn default() -> Self {
        Self(vec![
            load(ARCHITECTURE_AT),
            equal(ARCHITECTURE, 1, 0),
            give(libc::SECCOMP_RET_KILL_PROCESS),
            load(NUMBER_AT),
        ])
    }
}

impl Program {
    /// What comes of a call.
    fn call(&mut self, call: libc::c_long, only: Option<&Only>, action: u32) -> io::Result<()> {
        let number = u32::try_from(call).map_err(io::Error::other)?;
        match only {
            None => self.0.extend([equal(number, 0, 1), give(action)]),
            Some(only) => self.conditional(number, only.argument, only.mask, only.values, action)?,
        }
        Ok(())
    }

    /// tgkill(2) of these processes.
    fn tgkill(&mut self, processes: [u32; 1]) -> io::Result<()> {
        let number = u32::try_from(libc::SYS_tgkill).map_err(io::Error::other)?;
        self.conditional(number, 0, ALL_BITS, &processes, libc::SECCOMP_RET_ALLOW)
    }

    fn conditional(&mut self, number: u32, argument: u8, mask: u32, values: &[u32], action: u32) -> io::Result<()> {
        let mut body = vec![load(ARGUMENTS_AT + 8 * u32::from(argument)), and(mask)];
        for value in values {
            body.extend([equal(*value, 0, 1), give(action)]);
        }
        // The argument has taken the number's place.
        body.push(load(NUMBER_AT));
        let over = u8::try_from(body.len()).map_err(io::Error::other)?;
        self.0.push(equal(number, 0, over));
        self.0.extend(body);
        Ok(())
    }

    /// What comes of all others.
    fn end(&mut self, action: u32) {
        self.0.push(give(action));
    }

    fn install(&mut self, flags: libc::c_ulong) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(io::Error::other)?,
            filter: self.0.as_mut_ptr(),
        };
        // SAFETY: `program` leads to as many instructions as it says, and both outlive the call.
        let status = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
                flags | libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program,
            )
        };
        match status {
            0 => Ok(()),
            -1 => Err(io::Error::last_os_error()),
            thread => Err(io::Error::other(format!("the thread {thread} has filters of its own"))),
        }
    }
}

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "operation codes of classic BPF are below 256"
    )]
    let code = code as u16;
    libc::sock_filter { code, jt, jf, k }
}

const fn load(at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at)
}

const fn and(mask: u32) -> libc::sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask)
}

const fn equal(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, then, otherwise, value)
}

const fn give(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}
