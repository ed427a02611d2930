//! Constants that system calls take, by name (include/uapi/linux and arch/x86/include/uapi).

/// A number with its name.
pub(super) type Named = (u64, &'static str);

pub(super) const CLONE: &[Named] = &[
    (0x80, "CLONE_NEWTIME"),
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1_0000, "CLONE_THREAD"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x200_0000, "CLONE_NEWCGROUP"),
    (0x400_0000, "CLONE_NEWUTS"),
    (0x800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
];

pub(super) const PTRACE: &[Named] = &[
    (0, "PTRACE_TRACEME"),
    (1, "PTRACE_PEEKTEXT"),
    (2, "PTRACE_PEEKDATA"),
    (3, "PTRACE_PEEKUSR"),
    (4, "PTRACE_POKETEXT"),
    (5, "PTRACE_POKEDATA"),
    (6, "PTRACE_POKEUSR"),
    (7, "PTRACE_CONT"),
    (8, "PTRACE_KILL"),
    (9, "PTRACE_SINGLESTEP"),
    (12, "PTRACE_GETREGS"),
    (13, "PTRACE_SETREGS"),
    (14, "PTRACE_GETFPREGS"),
    (15, "PTRACE_SETFPREGS"),
    (16, "PTRACE_ATTACH"),
    (17, "PTRACE_DETACH"),
    (18, "PTRACE_GETFPXREGS"),
    (19, "PTRACE_SETFPXREGS"),
    (21, "PTRACE_OLDSETOPTIONS"),
    (24, "PTRACE_SYSCALL"),
    (25, "PTRACE_GET_THREAD_AREA"),
    (26, "PTRACE_SET_THREAD_AREA"),
    (30, "PTRACE_ARCH_PRCTL"),
    (31, "PTRACE_SYSEMU"),
    (32, "PTRACE_SYSEMU_SINGLESTEP"),
    (33, "PTRACE_SINGLEBLOCK"),
    (0x4200, "PTRACE_SETOPTIONS"),
    (0x4201, "PTRACE_GETEVENTMSG"),
    (0x4202, "PTRACE_GETSIGINFO"),
    (0x4203, "PTRACE_SETSIGINFO"),
    (0x4204, "PTRACE_GETREGSET"),
    (0x4205, "PTRACE_SETREGSET"),
    (0x4206, "PTRACE_SEIZE"),
    (0x4207, "PTRACE_INTERRUPT"),
    (0x4208, "PTRACE_LISTEN"),
    (0x4209, "PTRACE_PEEKSIGINFO"),
    (0x420a, "PTRACE_GETSIGMASK"),
    (0x420b, "PTRACE_SETSIGMASK"),
    (0x420c, "PTRACE_SECCOMP_GET_FILTER"),
    (0x420d, "PTRACE_SECCOMP_GET_METADATA"),
    (0x420e, "PTRACE_GET_SYSCALL_INFO"),
    (0x420f, "PTRACE_GET_RSEQ_CONFIGURATION"),
    (0x4210, "PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG"),
    (0x4211, "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG"),
    (0x4212, "PTRACE_SET_SYSCALL_INFO"),
];

pub(super) const SIGNALS: &[Named] = &[
    (0, "0"),
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (11, "SIGSEGV"),
    (12, "SIGUSR2"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (16, "SIGSTKFLT"),
    (17, "SIGCHLD"),
    (18, "SIGCONT"),
    (19, "SIGSTOP"),
    (20, "SIGTSTP"),
    (21, "SIGTTIN"),
    (22, "SIGTTOU"),
    (23, "SIGURG"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
    (26, "SIGVTALRM"),
    (27, "SIGPROF"),
    (28, "SIGWINCH"),
    (29, "SIGIO"),
    (30, "SIGPWR"),
    (31, "SIGSYS"),
];

pub(super) const PRCTL: &[Named] = &[
    (1, "PR_SET_PDEATHSIG"),
    (2, "PR_GET_PDEATHSIG"),
    (3, "PR_GET_DUMPABLE"),
    (4, "PR_SET_DUMPABLE"),
    (7, "PR_GET_KEEPCAPS"),
    (8, "PR_SET_KEEPCAPS"),
    (15, "PR_SET_NAME"),
    (16, "PR_GET_NAME"),
    (21, "PR_GET_SECCOMP"),
    (22, "PR_SET_SECCOMP"),
    (23, "PR_CAPBSET_READ"),
    (24, "PR_CAPBSET_DROP"),
    (25, "PR_GET_TSC"),
    (26, "PR_SET_TSC"),
    (27, "PR_GET_SECUREBITS"),
    (28, "PR_SET_SECUREBITS"),
    (29, "PR_SET_TIMERSLACK"),
    (31, "PR_TASK_PERF_EVENTS_DISABLE"),
    (32, "PR_TASK_PERF_EVENTS_ENABLE"),
    (35, "PR_SET_MM"),
    (36, "PR_SET_CHILD_SUBREAPER"),
    (37, "PR_GET_CHILD_SUBREAPER"),
    (38, "PR_SET_NO_NEW_PRIVS"),
    (39, "PR_GET_NO_NEW_PRIVS"),
    (41, "PR_SET_THP_DISABLE"),
    (47, "PR_CAP_AMBIENT"),
    (53, "PR_SET_SPECULATION_CTRL"),
    (57, "PR_SET_IO_FLUSHER"),
    (59, "PR_SET_SYSCALL_USER_DISPATCH"),
    (62, "PR_SCHED_CORE"),
    (65, "PR_SET_MDWE"),
    (67, "PR_SET_MEMORY_MERGE"),
    (0x5356_4d41, "PR_SET_VMA"),
    (0x5961_6d61, "PR_SET_PTRACER"),
];

/// Commands of `bpf`, by their number.
pub(super) const BPF: &[&str] = &[
    "BPF_MAP_CREATE",
    "BPF_MAP_LOOKUP_ELEM",
    "BPF_MAP_UPDATE_ELEM",
    "BPF_MAP_DELETE_ELEM",
    "BPF_MAP_GET_NEXT_KEY",
    "BPF_PROG_LOAD",
    "BPF_OBJ_PIN",
    "BPF_OBJ_GET",
    "BPF_PROG_ATTACH",
    "BPF_PROG_DETACH",
    "BPF_PROG_TEST_RUN",
    "BPF_PROG_GET_NEXT_ID",
    "BPF_MAP_GET_NEXT_ID",
    "BPF_PROG_GET_FD_BY_ID",
    "BPF_MAP_GET_FD_BY_ID",
    "BPF_OBJ_GET_INFO_BY_FD",
    "BPF_PROG_QUERY",
    "BPF_RAW_TRACEPOINT_OPEN",
    "BPF_BTF_LOAD",
    "BPF_BTF_GET_FD_BY_ID",
    "BPF_TASK_FD_QUERY",
    "BPF_MAP_LOOKUP_AND_DELETE_ELEM",
    "BPF_MAP_FREEZE",
    "BPF_BTF_GET_NEXT_ID",
    "BPF_MAP_LOOKUP_BATCH",
    "BPF_MAP_LOOKUP_AND_DELETE_BATCH",
    "BPF_MAP_UPDATE_BATCH",
    "BPF_MAP_DELETE_BATCH",
    "BPF_LINK_CREATE",
    "BPF_LINK_UPDATE",
    "BPF_LINK_GET_FD_BY_ID",
    "BPF_LINK_GET_NEXT_ID",
    "BPF_ENABLE_STATS",
    "BPF_ITER_CREATE",
    "BPF_LINK_DETACH",
    "BPF_PROG_BIND_MAP",
    "BPF_TOKEN_CREATE",
    "BPF_PROG_STREAM_READ_BY_FD",
];

/// Operations of `io_uring`, by their number.
pub(super) const IORING_OP: &[&str] = &[
    "IORING_OP_NOP",
    "IORING_OP_READV",
    "IORING_OP_WRITEV",
    "IORING_OP_FSYNC",
    "IORING_OP_READ_FIXED",
    "IORING_OP_WRITE_FIXED",
    "IORING_OP_POLL_ADD",
    "IORING_OP_POLL_REMOVE",
    "IORING_OP_SYNC_FILE_RANGE",
    "IORING_OP_SENDMSG",
    "IORING_OP_RECVMSG",
    "IORING_OP_TIMEOUT",
    "IORING_OP_TIMEOUT_REMOVE",
    "IORING_OP_ACCEPT",
    "IORING_OP_ASYNC_CANCEL",
    "IORING_OP_LINK_TIMEOUT",
    "IORING_OP_CONNECT",
    "IORING_OP_FALLOCATE",
    "IORING_OP_OPENAT",
    "IORING_OP_CLOSE",
    "IORING_OP_FILES_UPDATE",
    "IORING_OP_STATX",
    "IORING_OP_READ",
    "IORING_OP_WRITE",
    "IORING_OP_FADVISE",
    "IORING_OP_MADVISE",
    "IORING_OP_SEND",
    "IORING_OP_RECV",
    "IORING_OP_OPENAT2",
    "IORING_OP_EPOLL_CTL",
    "IORING_OP_SPLICE",
    "IORING_OP_PROVIDE_BUFFERS",
    "IORING_OP_REMOVE_BUFFERS",
    "IORING_OP_TEE",
    "IORING_OP_SHUTDOWN",
    "IORING_OP_RENAMEAT",
    "IORING_OP_UNLINKAT",
    "IORING_OP_MKDIRAT",
    "IORING_OP_SYMLINKAT",
    "IORING_OP_LINKAT",
    "IORING_OP_MSG_RING",
    "IORING_OP_FSETXATTR",
    "IORING_OP_SETXATTR",
    "IORING_OP_FGETXATTR",
    "IORING_OP_GETXATTR",
    "IORING_OP_SOCKET",
    "IORING_OP_URING_CMD",
    "IORING_OP_SEND_ZC",
    "IORING_OP_SENDMSG_ZC",
    "IORING_OP_READ_MULTISHOT",
    "IORING_OP_WAITID",
    "IORING_OP_FUTEX_WAIT",
    "IORING_OP_FUTEX_WAKE",
    "IORING_OP_FUTEX_WAITV",
    "IORING_OP_FIXED_FD_INSTALL",
    "IORING_OP_FTRUNCATE",
    "IORING_OP_BIND",
    "IORING_OP_LISTEN",
    "IORING_OP_RECV_ZC",
    "IORING_OP_EPOLL_WAIT",
    "IORING_OP_READV_FIXED",
    "IORING_OP_WRITEV_FIXED",
    "IORING_OP_PIPE",
];

/// Operations of `io_uring_register`, by their number.
pub(super) const IORING_REGISTER: &[&str] = &[
    "IORING_REGISTER_BUFFERS",
    "IORING_UNREGISTER_BUFFERS",
    "IORING_REGISTER_FILES",
    "IORING_UNREGISTER_FILES",
    "IORING_REGISTER_EVENTFD",
    "IORING_UNREGISTER_EVENTFD",
    "IORING_REGISTER_FILES_UPDATE",
    "IORING_REGISTER_EVENTFD_ASYNC",
    "IORING_REGISTER_PROBE",
    "IORING_REGISTER_PERSONALITY",
    "IORING_UNREGISTER_PERSONALITY",
    "IORING_REGISTER_RESTRICTIONS",
    "IORING_REGISTER_ENABLE_RINGS",
    "IORING_REGISTER_FILES2",
    "IORING_REGISTER_FILES_UPDATE2",
    "IORING_REGISTER_BUFFERS2",
    "IORING_REGISTER_BUFFERS_UPDATE",
    "IORING_REGISTER_IOWQ_AFF",
    "IORING_UNREGISTER_IOWQ_AFF",
    "IORING_REGISTER_IOWQ_MAX_WORKERS",
    "IORING_REGISTER_RING_FDS",
    "IORING_UNREGISTER_RING_FDS",
    "IORING_REGISTER_PBUF_RING",
    "IORING_UNREGISTER_PBUF_RING",
    "IORING_REGISTER_SYNC_CANCEL",
    "IORING_REGISTER_FILE_ALLOC_RANGE",
    "IORING_REGISTER_PBUF_STATUS",
    "IORING_REGISTER_NAPI",
    "IORING_UNREGISTER_NAPI",
    "IORING_REGISTER_CLOCK",
    "IORING_REGISTER_CLONE_BUFFERS",
    "IORING_REGISTER_SEND_MSG_RING",
    "IORING_REGISTER_ZCRX_IFQ",
    "IORING_REGISTER_RESIZE_RINGS",
    "IORING_REGISTER_MEM_REGION",
];

/// Commands of `keyctl`, by their number.
pub(super) const KEYCTL: &[&str] = &[
    "KEYCTL_GET_KEYRING_ID",
    "KEYCTL_JOIN_SESSION_KEYRING",
    "KEYCTL_UPDATE",
    "KEYCTL_REVOKE",
    "KEYCTL_CHOWN",
    "KEYCTL_SETPERM",
    "KEYCTL_DESCRIBE",
    "KEYCTL_CLEAR",
    "KEYCTL_LINK",
    "KEYCTL_UNLINK",
    "KEYCTL_SEARCH",
    "KEYCTL_READ",
    "KEYCTL_INSTANTIATE",
    "KEYCTL_NEGATE",
    "KEYCTL_SET_REQKEY_KEYRING",
    "KEYCTL_SET_TIMEOUT",
    "KEYCTL_ASSUME_AUTHORITY",
    "KEYCTL_GET_SECURITY",
    "KEYCTL_SESSION_TO_PARENT",
    "KEYCTL_REJECT",
    "KEYCTL_INSTANTIATE_IOV",
    "KEYCTL_INVALIDATE",
    "KEYCTL_GET_PERSISTENT",
    "KEYCTL_DH_COMPUTE",
    "KEYCTL_PKEY_QUERY",
    "KEYCTL_PKEY_ENCRYPT",
    "KEYCTL_PKEY_DECRYPT",
    "KEYCTL_PKEY_SIGN",
    "KEYCTL_PKEY_VERIFY",
    "KEYCTL_RESTRICT_KEYRING",
    "KEYCTL_MOVE",
    "KEYCTL_CAPABILITIES",
    "KEYCTL_WATCH_KEY",
];

/// Address families, by their number.
pub(super) const ADDRESS_FAMILIES: &[&str] = &[
    "AF_UNSPEC",
    "AF_UNIX",
    "AF_INET",
    "AF_AX25",
    "AF_IPX",
    "AF_APPLETALK",
    "AF_NETROM",
    "AF_BRIDGE",
    "AF_ATMPVC",
    "AF_X25",
    "AF_INET6",
    "AF_ROSE",
    "AF_DECnet",
    "AF_NETBEUI",
    "AF_SECURITY",
    "AF_KEY",
    "AF_NETLINK",
    "AF_PACKET",
    "AF_ASH",
    "AF_ECONET",
    "AF_ATMSVC",
    "AF_RDS",
    "AF_SNA",
    "AF_IRDA",
    "AF_PPPOX",
    "AF_WANPIPE",
    "AF_LLC",
    "AF_IB",
    "AF_MPLS",
    "AF_CAN",
    "AF_TIPC",
    "AF_BLUETOOTH",
    "AF_IUCV",
    "AF_RXRPC",
    "AF_ISDN",
    "AF_PHONET",
    "AF_IEEE802154",
    "AF_CAIF",
    "AF_ALG",
    "AF_NFC",
    "AF_VSOCK",
    "AF_KCM",
    "AF_QIPCRTR",
    "AF_SMC",
    "AF_XDP",
    "AF_MCTP",
];

/// The type of a socket is a number in the four lowest bits; flags stand above it.
pub(super) const SOCKET_TYPES: &[Named] = &[
    (1, "SOCK_STREAM"),
    (2, "SOCK_DGRAM"),
    (3, "SOCK_RAW"),
    (4, "SOCK_RDM"),
    (5, "SOCK_SEQPACKET"),
    (6, "SOCK_DCCP"),
    (10, "SOCK_PACKET"),
];
pub(super) const SOCKET_FLAGS: &[Named] = &[(0o4000, "SOCK_NONBLOCK"), (0o200_0000, "SOCK_CLOEXEC")];

pub(super) const PROT: &[Named] = &[
    (1, "PROT_READ"),
    (2, "PROT_WRITE"),
    (4, "PROT_EXEC"),
    (8, "PROT_SEM"),
    (0x100_0000, "PROT_GROWSDOWN"),
    (0x200_0000, "PROT_GROWSUP"),
];

pub(super) const MAP: &[Named] = &[
    (3, "MAP_SHARED_VALIDATE"),
    (1, "MAP_SHARED"),
    (2, "MAP_PRIVATE"),
    (0x8, "MAP_DROPPABLE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x40, "MAP_32BIT"),
    (0x80, "MAP_ABOVE4G"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x1000, "MAP_EXECUTABLE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x1_0000, "MAP_NONBLOCK"),
    (0x2_0000, "MAP_STACK"),
    (0x4_0000, "MAP_HUGETLB"),
    (0x8_0000, "MAP_SYNC"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
    (0x400_0000, "MAP_UNINITIALIZED"),
];

pub(super) const MOUNT: &[Named] = &[
    (1, "MS_RDONLY"),
    (1 << 1, "MS_NOSUID"),
    (1 << 2, "MS_NODEV"),
    (1 << 3, "MS_NOEXEC"),
    (1 << 4, "MS_SYNCHRONOUS"),
    (1 << 5, "MS_REMOUNT"),
    (1 << 6, "MS_MANDLOCK"),
    (1 << 7, "MS_DIRSYNC"),
    (1 << 8, "MS_NOSYMFOLLOW"),
    (1 << 10, "MS_NOATIME"),
    (1 << 11, "MS_NODIRATIME"),
    (1 << 12, "MS_BIND"),
    (1 << 13, "MS_MOVE"),
    (1 << 14, "MS_REC"),
    (1 << 15, "MS_SILENT"),
    (1 << 16, "MS_POSIXACL"),
    (1 << 17, "MS_UNBINDABLE"),
    (1 << 18, "MS_PRIVATE"),
    (1 << 19, "MS_SLAVE"),
    (1 << 20, "MS_SHARED"),
    (1 << 21, "MS_RELATIME"),
    (1 << 22, "MS_KERNMOUNT"),
    (1 << 23, "MS_I_VERSION"),
    (1 << 24, "MS_STRICTATIME"),
    (1 << 25, "MS_LAZYTIME"),
];

pub(super) const UMOUNT: &[Named] = &[
    (1, "MNT_FORCE"),
    (2, "MNT_DETACH"),
    (4, "MNT_EXPIRE"),
    (8, "UMOUNT_NOFOLLOW"),
];

pub(super) const MOVE_MOUNT: &[Named] = &[
    (0x1, "MOVE_MOUNT_F_SYMLINKS"),
    (0x2, "MOVE_MOUNT_F_AUTOMOUNTS"),
    (0x4, "MOVE_MOUNT_F_EMPTY_PATH"),
    (0x10, "MOVE_MOUNT_T_SYMLINKS"),
    (0x20, "MOVE_MOUNT_T_AUTOMOUNTS"),
    (0x40, "MOVE_MOUNT_T_EMPTY_PATH"),
    (0x100, "MOVE_MOUNT_SET_GROUP"),
    (0x200, "MOVE_MOUNT_BENEATH"),
];

pub(super) const OPEN_TREE: &[Named] = &[
    (0x1, "OPEN_TREE_CLONE"),
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
    (0x8000, "AT_RECURSIVE"),
    (0x8_0000, "OPEN_TREE_CLOEXEC"),
];

pub(super) const FSOPEN: &[Named] = &[(1, "FSOPEN_CLOEXEC")];
pub(super) const FSMOUNT: &[Named] = &[(1, "FSMOUNT_CLOEXEC")];

/// Commands of `fsconfig`, by their number.
pub(super) const FSCONFIG: &[&str] = &[
    "FSCONFIG_SET_FLAG",
    "FSCONFIG_SET_STRING",
    "FSCONFIG_SET_BINARY",
    "FSCONFIG_SET_PATH",
    "FSCONFIG_SET_PATH_EMPTY",
    "FSCONFIG_SET_FD",
    "FSCONFIG_CMD_CREATE",
    "FSCONFIG_CMD_RECONFIGURE",
    "FSCONFIG_CMD_CREATE_EXCL",
];

/// Flags of calls that take a directory and a name, except `unlinkat`.
pub(super) const AT: &[Named] = &[
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
    (0x8000, "AT_RECURSIVE"),
];
pub(super) const UNLINK: &[Named] = &[(0x200, "AT_REMOVEDIR")];
pub(super) const RENAME: &[Named] = &[(1, "RENAME_NOREPLACE"), (2, "RENAME_EXCHANGE"), (4, "RENAME_WHITEOUT")];

pub(super) const MEMFD: &[Named] = &[
    (1, "MFD_CLOEXEC"),
    (2, "MFD_ALLOW_SEALING"),
    (4, "MFD_HUGETLB"),
    (8, "MFD_NOEXEC_SEAL"),
    (16, "MFD_EXEC"),
];

pub(super) const XATTR: &[Named] = &[(1, "XATTR_CREATE"), (2, "XATTR_REPLACE")];
pub(super) const PIDFD: &[Named] = &[(0o200, "PIDFD_THREAD"), (0o4000, "PIDFD_NONBLOCK")];
pub(super) const SPLICE: &[Named] = &[
    (1, "SPLICE_F_MOVE"),
    (2, "SPLICE_F_NONBLOCK"),
    (4, "SPLICE_F_MORE"),
    (8, "SPLICE_F_GIFT"),
];
pub(super) const USERFAULTFD: &[Named] = &[
    (1, "UFFD_USER_MODE_ONLY"),
    (0o4000, "O_NONBLOCK"),
    (0o200_0000, "O_CLOEXEC"),
];
pub(super) const CLOSE_ON_EXEC: &[Named] = &[(0o200_0000, "O_CLOEXEC")];
pub(super) const DELETE_MODULE: &[Named] = &[(0o1000, "O_TRUNC"), (0o4000, "O_NONBLOCK")];
pub(super) const INIT_MODULE: &[Named] = &[
    (1, "MODULE_INIT_IGNORE_MODVERSIONS"),
    (2, "MODULE_INIT_IGNORE_VERMAGIC"),
    (4, "MODULE_INIT_COMPRESSED_FILE"),
];
pub(super) const KEXEC: &[Named] = &[(1, "KEXEC_ON_CRASH"), (2, "KEXEC_PRESERVE_CONTEXT")];
pub(super) const KEXEC_FILE: &[Named] = &[
    (1, "KEXEC_FILE_UNLOAD"),
    (2, "KEXEC_FILE_ON_CRASH"),
    (4, "KEXEC_FILE_NO_INITRAMFS"),
    (8, "KEXEC_FILE_DEBUG"),
];
pub(super) const SWAP: &[Named] = &[
    (0x8000, "SWAP_FLAG_PREFER"),
    (0x1_0000, "SWAP_FLAG_DISCARD"),
    (0x2_0000, "SWAP_FLAG_DISCARD_ONCE"),
    (0x4_0000, "SWAP_FLAG_DISCARD_PAGES"),
];
pub(super) const PERF: &[Named] = &[
    (1, "PERF_FLAG_FD_NO_GROUP"),
    (2, "PERF_FLAG_FD_OUTPUT"),
    (4, "PERF_FLAG_PID_CGROUP"),
    (8, "PERF_FLAG_FD_CLOEXEC"),
];
pub(super) const FANOTIFY_INIT: &[Named] = &[
    (1, "FAN_CLOEXEC"),
    (2, "FAN_NONBLOCK"),
    (4, "FAN_CLASS_CONTENT"),
    (8, "FAN_CLASS_PRE_CONTENT"),
    (0x10, "FAN_UNLIMITED_QUEUE"),
    (0x20, "FAN_UNLIMITED_MARKS"),
    (0x40, "FAN_ENABLE_AUDIT"),
    (0x80, "FAN_REPORT_PIDFD"),
    (0x100, "FAN_REPORT_TID"),
    (0x200, "FAN_REPORT_FID"),
    (0x400, "FAN_REPORT_DIR_FID"),
    (0x800, "FAN_REPORT_NAME"),
    (0x1000, "FAN_REPORT_TARGET_FID"),
];
pub(super) const FANOTIFY_MARK: &[Named] = &[
    (0x1, "FAN_MARK_ADD"),
    (0x2, "FAN_MARK_REMOVE"),
    (0x4, "FAN_MARK_DONT_FOLLOW"),
    (0x8, "FAN_MARK_ONLYDIR"),
    (0x10, "FAN_MARK_MOUNT"),
    (0x20, "FAN_MARK_IGNORED_MASK"),
    (0x40, "FAN_MARK_IGNORED_SURV_MODIFY"),
    (0x80, "FAN_MARK_FLUSH"),
    (0x100, "FAN_MARK_FILESYSTEM"),
    (0x200, "FAN_MARK_EVICTABLE"),
    (0x400, "FAN_MARK_IGNORE"),
];
pub(super) const PERSONALITY: &[Named] = &[
    (0x2_0000, "UNAME26"),
    (0x4_0000, "ADDR_NO_RANDOMIZE"),
    (0x8_0000, "FDPIC_FUNCPTRS"),
    (0x10_0000, "MMAP_PAGE_ZERO"),
    (0x20_0000, "ADDR_COMPAT_LAYOUT"),
    (0x40_0000, "READ_IMPLIES_EXEC"),
    (0x80_0000, "ADDR_LIMIT_32BIT"),
    (0x100_0000, "SHORT_INODE"),
    (0x200_0000, "WHOLE_SECONDS"),
    (0x400_0000, "STICKY_TIMEOUTS"),
    (0x800_0000, "ADDR_LIMIT_3GB"),
];
pub(super) const FCNTL: &[Named] = &[(0, "F_DUPFD"), (1030, "F_DUPFD_CLOEXEC")];
/// Those that the programs record, and a few that rules may want to tell apart from them.
pub(super) const IOCTL: &[Named] = &[
    (0x540e, "TIOCSCTTY"),
    (0x5412, "TIOCSTI"),
    (0x541c, "TIOCLINUX"),
    (0x541d, "TIOCCONS"),
    (0x5423, "TIOCSETD"),
    (0x4008_6602, "FS_IOC_SETFLAGS"),
    (0x4004_6602, "FS_IOC32_SETFLAGS"),
    (0x401c_5820, "FS_IOC_FSSETXATTR"),
    (0x4004_6601, "FS_IOC_GETFLAGS"),
    (0x4004_54ca, "TUNSETIFF"),
    (0x8914, "SIOCSIFFLAGS"),
    (0xb701, "NS_GET_USERNS"),
];
/// Attributes of files (`FS_*_FL`, include/uapi/linux/fs.h).
pub(super) const ATTRIBUTES: &[Named] = &[
    (0x1, "FS_SECRM_FL"),
    (0x2, "FS_UNRM_FL"),
    (0x4, "FS_COMPR_FL"),
    (0x8, "FS_SYNC_FL"),
    (0x10, "FS_IMMUTABLE_FL"),
    (0x20, "FS_APPEND_FL"),
    (0x40, "FS_NODUMP_FL"),
    (0x80, "FS_NOATIME_FL"),
    (0x4000, "FS_JOURNAL_DATA_FL"),
    (0x8000, "FS_NOTAIL_FL"),
    (0x1_0000, "FS_DIRSYNC_FL"),
    (0x8_0000, "FS_EXTENT_FL"),
    (0x80_0000, "FS_NOCOW_FL"),
    (0x2000_0000, "FS_PROJINHERIT_FL"),
];
pub(super) const REBOOT: &[Named] = &[
    (0, "LINUX_REBOOT_CMD_CAD_OFF"),
    (0x89ab_cdef, "LINUX_REBOOT_CMD_CAD_ON"),
    (0xcdef_0123, "LINUX_REBOOT_CMD_HALT"),
    (0x4558_4543, "LINUX_REBOOT_CMD_KEXEC"),
    (0x4321_fedc, "LINUX_REBOOT_CMD_POWER_OFF"),
    (0x0123_4567, "LINUX_REBOOT_CMD_RESTART"),
    (0xa1b2_c3d4, "LINUX_REBOOT_CMD_RESTART2"),
    (0xd000_fce2, "LINUX_REBOOT_CMD_SW_SUSPEND"),
];
/// Actions of `syslog`, by their number.
pub(super) const SYSLOG: &[&str] = &[
    "SYSLOG_ACTION_CLOSE",
    "SYSLOG_ACTION_OPEN",
    "SYSLOG_ACTION_READ",
    "SYSLOG_ACTION_READ_ALL",
    "SYSLOG_ACTION_READ_CLEAR",
    "SYSLOG_ACTION_CLEAR",
    "SYSLOG_ACTION_CONSOLE_OFF",
    "SYSLOG_ACTION_CONSOLE_ON",
    "SYSLOG_ACTION_CONSOLE_LEVEL",
    "SYSLOG_ACTION_SIZE_UNREAD",
    "SYSLOG_ACTION_SIZE_BUFFER",
];
/// Clocks, by their number.
pub(super) const CLOCKS: &[&str] = &[
    "CLOCK_REALTIME",
    "CLOCK_MONOTONIC",
    "CLOCK_PROCESS_CPUTIME_ID",
    "CLOCK_THREAD_CPUTIME_ID",
    "CLOCK_MONOTONIC_RAW",
    "CLOCK_REALTIME_COARSE",
    "CLOCK_MONOTONIC_COARSE",
    "CLOCK_BOOTTIME",
    "CLOCK_REALTIME_ALARM",
    "CLOCK_BOOTTIME_ALARM",
    "CLOCK_SGI_CYCLE",
    "CLOCK_TAI",
];

/// Names of the bits that are set, joined by `|`; what has no name follows in hexadecimal. `0` when none is set.
pub(super) fn flags(mut bits: u64, names: &[Named]) -> String {
    if bits == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    let mut add = |name: &str| {
        if !text.is_empty() {
            text.push('|');
        }
        text.push_str(name);
    };
    for (bit, name) in names {
        if bits & bit == *bit {
            add(name);
            bits &= !bit;
        }
    }
    if bits != 0 {
        add(&format!("{bits:#x}"));
    }
    text
}

/// The name of a number, if it has one.
pub(super) fn name(number: u64, names: &[Named]) -> Option<&'static str> {
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names() {
        for (bits, expected) in [
            (0, "0"),
            (0x1002_0000, "CLONE_NEWNS|CLONE_NEWUSER"),
            (0x2_0001, "CLONE_NEWNS|0x1"),
            (1, "0x1"),
            (u64::MAX, "CLONE_NEWTIME|"),
        ] {
            let text = flags(bits, CLONE);
            assert!(
                text == expected || (bits == u64::MAX && text.starts_with(expected)),
                "{bits:#x}: {text}"
            );
        }
        assert_eq!(flags(3, MAP), "MAP_SHARED_VALIDATE");
        assert_eq!(flags(0x22, MAP), "MAP_PRIVATE|MAP_ANONYMOUS");
    }

    /// Where the C library knows a constant too, both agree.
    #[test]
    fn numbers_are_those_of_the_c_library() {
        let number = |value: i32| u64::from(u32::try_from(value).unwrap());
        for (names, value, expected) in [
            (CLONE, number(libc::CLONE_NEWNET), "CLONE_NEWNET"),
            (CLONE, number(libc::CLONE_NEWNS), "CLONE_NEWNS"),
            (CLONE, number(libc::CLONE_NEWCGROUP), "CLONE_NEWCGROUP"),
            (PTRACE, u64::from(libc::PTRACE_ATTACH), "PTRACE_ATTACH"),
            (PTRACE, u64::from(libc::PTRACE_SEIZE), "PTRACE_SEIZE"),
            (PTRACE, u64::from(libc::PTRACE_SETREGSET), "PTRACE_SETREGSET"),
            (SIGNALS, number(libc::SIGSTOP), "SIGSTOP"),
            (SIGNALS, number(libc::SIGSYS), "SIGSYS"),
            (PRCTL, number(libc::PR_SET_MM), "PR_SET_MM"),
            (PRCTL, number(libc::PR_CAP_AMBIENT), "PR_CAP_AMBIENT"),
            (PRCTL, number(libc::PR_SET_PTRACER), "PR_SET_PTRACER"),
            (PRCTL, number(libc::PR_SET_VMA), "PR_SET_VMA"),
            (MOUNT, libc::MS_REC, "MS_REC"),
            (MOUNT, libc::MS_LAZYTIME, "MS_LAZYTIME"),
            (MOUNT, libc::MS_STRICTATIME, "MS_STRICTATIME"),
            (UMOUNT, number(libc::UMOUNT_NOFOLLOW), "UMOUNT_NOFOLLOW"),
            (MAP, number(libc::MAP_NORESERVE), "MAP_NORESERVE"),
            (MAP, number(libc::MAP_FIXED_NOREPLACE), "MAP_FIXED_NOREPLACE"),
            (SOCKET_FLAGS, number(libc::SOCK_CLOEXEC), "SOCK_CLOEXEC"),
            (PERSONALITY, number(libc::ADDR_NO_RANDOMIZE), "ADDR_NO_RANDOMIZE"),
            (PERSONALITY, number(libc::READ_IMPLIES_EXEC), "READ_IMPLIES_EXEC"),
            (IOCTL, libc::TIOCSTI, "TIOCSTI"),
            (IOCTL, libc::FS_IOC_SETFLAGS, "FS_IOC_SETFLAGS"),
            (IOCTL, libc::TUNSETIFF, "TUNSETIFF"),
            (FCNTL, number(libc::F_DUPFD_CLOEXEC), "F_DUPFD_CLOEXEC"),
            (MEMFD, u64::from(libc::MFD_NOEXEC_SEAL), "MFD_NOEXEC_SEAL"),
            (
                REBOOT,
                number(libc::LINUX_REBOOT_CMD_POWER_OFF),
                "LINUX_REBOOT_CMD_POWER_OFF",
            ),
            (FANOTIFY_INIT, u64::from(libc::FAN_REPORT_NAME), "FAN_REPORT_NAME"),
            (
                FANOTIFY_MARK,
                u64::from(libc::FAN_MARK_FILESYSTEM),
                "FAN_MARK_FILESYSTEM",
            ),
        ] {
            assert_eq!(name(value, names), Some(expected));
        }
        for (names, value, expected) in [
            (ADDRESS_FAMILIES, libc::AF_PACKET, "AF_PACKET"),
            (ADDRESS_FAMILIES, libc::AF_VSOCK, "AF_VSOCK"),
            (ADDRESS_FAMILIES, libc::AF_ALG, "AF_ALG"),
            (ADDRESS_FAMILIES, libc::AF_XDP, "AF_XDP"),
            (CLOCKS, libc::CLOCK_TAI, "CLOCK_TAI"),
            (BPF, 5, "BPF_PROG_LOAD"),
            (BPF, 28, "BPF_LINK_CREATE"),
            (BPF, 34, "BPF_LINK_DETACH"),
            (IORING_OP, 18, "IORING_OP_OPENAT"),
            (IORING_OP, 55, "IORING_OP_FTRUNCATE"),
            (IORING_REGISTER, 20, "IORING_REGISTER_RING_FDS"),
            (KEYCTL, 11, "KEYCTL_READ"),
            (KEYCTL, 29, "KEYCTL_RESTRICT_KEYRING"),
            (SYSLOG, 5, "SYSLOG_ACTION_CLEAR"),
            (FSCONFIG, 6, "FSCONFIG_CMD_CREATE"),
        ] {
            assert_eq!(names[usize::try_from(value).unwrap()], expected);
        }
    }
}
