//! Records: header, bodies, kinds, flags, losses.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a task's name, its terminating NUL included (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;

/// What a record tells.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A process replaced its image; body [`Exec`].
    Exec = 1,
    /// A process was made; body [`Fork`].
    Fork = 2,
    /// The last thread of a process ended; body [`Exit`].
    Exit = 3,
    /// A file was opened; body [`Open`].
    Open = 4,
    /// A file was renamed; body [`PathChange`].
    Rename = 5,
    /// A name was removed; body [`PathChange`].
    Unlink = 6,
    /// A mode was changed; body [`PathChange`].
    Chmod = 7,
    /// A process changed its working directory; body [`Chdir`].
    Chdir = 8,
    /// A socket was connected; body [`Socket`].
    Connect = 9,
    /// A socket listens; body [`Socket`].
    Listen = 10,
    /// A connection was accepted; body [`Socket`].
    Accept = 11,
    /// A datagram was sent, or bytes over TCP to port 53; body [`Socket`] with the first bytes of what goes to port 53.
    Send = 12,
    /// A system call that needs no body of its own ended; body [`Call`].
    Call = 13,
    /// A datagram or bytes came from port 53; body [`Socket`] with their first bytes.
    Receive = 14,
    /// A TCP connection ended; body [`Ended`].
    Ended = 15,
    /// What the kernel resolved a path to, just before it acts on it; body [`Resolved`]. Belongs to the next record of
    /// the same thread that tells of a path.
    Resolved = 16,
    /// A socket was given a local address; body [`Socket`].
    Bind = 17,
}

impl Kind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 17] = [
        Self::Exec,
        Self::Fork,
        Self::Exit,
        Self::Open,
        Self::Rename,
        Self::Unlink,
        Self::Chmod,
        Self::Chdir,
        Self::Connect,
        Self::Listen,
        Self::Accept,
        Self::Send,
        Self::Call,
        Self::Receive,
        Self::Ended,
        Self::Resolved,
        Self::Bind,
    ];

    /// The kind of this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// The two ring buffers, so that a flood of file events cannot push out the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Process and network records.
    Process,
    /// File records.
    File,
}

/// Bits of [`Header::flags`].
pub mod flags {
    /// A path had more components or bytes than are carried; its root part is missing.
    pub const PATH_CUT: u16 = 1;
    /// The arguments are longer than what is carried.
    pub const ARGS_CUT: u16 = 1 << 1;
    /// The environment holds more variables, or longer ones, than were looked at.
    pub const ENV_CUT: u16 = 1 << 2;
    /// The path ends at a root that is not mounted, as for a memfd or a removed tree.
    pub const DETACHED: u16 = 1 << 3;
    /// The system call came through a 32-bit entry.
    pub const COMPAT: u16 = 1 << 4;
    /// Part of the record could not be read.
    pub const FAULT: u16 = 1 << 5;
    /// The remote address is what the process passed, not what the kernel kept.
    pub const ADDRESS_PASSED: u16 = 1 << 6;
    /// It was asked for through io_uring; `syscall` is the number of the native call that does the same.
    pub const IO_URING: u16 = 1 << 7;
    /// What came of it is not known: the record was made before the kernel acted. The result is 0.
    pub const RESULT_UNKNOWN: u16 = 1 << 8;
}

/// Bits of [`Open::file_mode`], as the kernel numbers them (`FMODE_*`, include/linux/fs.h).
pub mod file_mode {
    /// Opened for reading.
    pub const READ: u32 = 0x1;
    /// Opened for writing.
    pub const WRITE: u32 = 0x2;
    /// Created by this open.
    pub const CREATED: u32 = 0x10_0000;
}

/// Why something was lost or is incomplete; one per-CPU counter each, in this order.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process ring was full: a record is gone.
    ProcessRingFull = 0,
    /// The file ring was full: a record is gone.
    FileRingFull = 1,
    /// A descriptor was closed or replaced before it could be looked at: a record is gone.
    DescriptorGone = 2,
    /// Kernel memory could not be read: a record is gone.
    ReadFailed = 3,
    /// The map of processes in scope was full: a process tree may go unseen.
    ScopeFull = 4,
    /// The program for a system call is not loaded: a record is gone.
    ProgramMissing = 5,
    /// A message of a batch beyond the fourth, or of a 32-bit caller, was not looked at: a record is gone.
    MessageSkipped = 6,
    /// A path was cut; the record carries a flag.
    PathCut = 7,
    /// Arguments were cut; the record carries a flag.
    ArgsCut = 8,
    /// Environment was cut; the record carries a flag.
    EnvCut = 9,
    /// Not a loss: an equal event was counted instead of reported.
    Deduplicated = 10,
    /// Not a loss: no loaded rule can want the event.
    Unwanted = 11,
    /// The memory to put a record together was in use by a program that the kernel had preempted: a record is gone.
    ScratchBusy = 12,
}

impl Loss {
    /// Every loss, in order of its number.
    pub const ALL: [Self; 13] = [
        Self::ProcessRingFull,
        Self::FileRingFull,
        Self::DescriptorGone,
        Self::ReadFailed,
        Self::ScopeFull,
        Self::ProgramMissing,
        Self::MessageSkipped,
        Self::PathCut,
        Self::ArgsCut,
        Self::EnvCut,
        Self::Deduplicated,
        Self::Unwanted,
        Self::ScratchBusy,
    ];

    /// Its name in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessRingFull => "process_ring_full",
            Self::FileRingFull => "file_ring_full",
            Self::DescriptorGone => "descriptor_gone",
            Self::ReadFailed => "read_failed",
            Self::ScopeFull => "scope_full",
            Self::ProgramMissing => "program_missing",
            Self::MessageSkipped => "message_skipped",
            Self::PathCut => "path_cut",
            Self::ArgsCut => "args_cut",
            Self::EnvCut => "env_cut",
            Self::Deduplicated => "deduplicated",
            Self::Unwanted => "unwanted",
            Self::ScratchBusy => "scratch_busy",
        }
    }

    /// Whether a whole event is gone, so that a run cannot be judged.
    #[must_use]
    pub fn loses_event(self) -> bool {
        match self {
            Self::ProcessRingFull
            | Self::FileRingFull
            | Self::DescriptorGone
            | Self::ReadFailed
            | Self::ScopeFull
            | Self::ProgramMissing
            | Self::MessageSkipped
            | Self::ScratchBusy => true,
            Self::PathCut | Self::ArgsCut | Self::EnvCut | Self::Deduplicated | Self::Unwanted => false,
        }
    }
}

/// Part of a record's variable data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Span {
    /// First byte, counted from the end of the body.
    pub offset: u16,
    /// Bytes.
    pub len: u16,
}

/// First part of every record: what happened when, and who did it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// Nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// When the thread group's leader started, in nanoseconds since boot; with `pid` it identifies a process.
    pub start_ns: u64,
    /// Control group (v2) of the task.
    pub cgroup_id: u64,
    /// Effective capabilities.
    pub capabilities: u64,
    /// Permitted capabilities.
    pub permitted: u64,
    /// [`Kind`] of the record.
    pub kind: u16,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Bytes of the whole record.
    pub len: u32,
    /// Thread group, in the initial pid namespace.
    pub pid: u32,
    /// Thread, in the initial pid namespace.
    pub tid: u32,
    /// Parent's thread group, in the initial pid namespace.
    pub ppid: u32,
    /// How often the thread group has exec'ed, as the kernel counts it (inherited on fork; wraps).
    pub exec_count: u32,
    /// Real user id, in the initial user namespace; so are the other three.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Login user id; `u32::MAX` when nobody logged in.
    pub login_uid: u32,
    /// System call number as the caller's ABI counts it; 0 where none is known.
    pub syscall: u32,
    /// Name of the thread, NUL-terminated.
    pub comm: [u8; COMM_BYTES],
}

/// A process replaced its image.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Exec {
    /// Inode of the executable.
    pub inode: u64,
    /// When that inode was last changed, in nanoseconds since 1970.
    pub changed_ns: u64,
    /// When the executable was last written, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// Device of the executable, as the kernel keeps it.
    pub device: u32,
    /// Links to the inode; 0 when it was removed.
    pub nlink: u32,
    /// Type and permission bits of the executable.
    pub mode: u32,
    /// Owner of the executable, in the initial user namespace.
    pub owner: u32,
    /// Group of the executable, likewise.
    pub owner_group: u32,
    /// Bits of [`exec_flags`].
    pub exec_flags: u32,
    /// Mount namespace.
    pub mount_namespace: u32,
    /// Pid namespace.
    pub pid_namespace: u32,
    /// Network namespace.
    pub network_namespace: u32,
    /// User namespace.
    pub user_namespace: u32,
    /// Bytes of the arguments before they were cut.
    pub args_bytes: u32,
    /// Controlling terminal, as in `/proc/PID/stat`; 0 when there is none.
    pub tty: u32,
    /// Who is who in its groups.
    pub ids: Ids,
    /// Standard input, output and error.
    pub stdio: [Stdio; 3],
    /// Executable: components from leaf to root, each NUL-terminated.
    pub executable: Span,
    /// Working directory, likewise.
    pub cwd: Span,
    /// What the caller asked to run (`bprm->filename`): for a script, the script.
    pub filename: Span,
    /// What runs it (`bprm->interp`): for a script, its interpreter.
    pub interpreter: Span,
    /// Selected environment variables, each NUL-terminated.
    pub env: Span,
    /// Arguments, each NUL-terminated.
    pub args: Span,
}

/// Bits of [`Exec::exec_flags`].
pub mod exec_flags {
    /// The executable lies on an overlay file system, in its upper layer: it is not part of the image.
    pub const UPPER_LAYER: u32 = 1;
    /// The executable lies on an overlay file system, in a lower layer.
    pub const LOWER_LAYER: u32 = 1 << 1;
    /// The kernel raises privileges for it (`bprm->secureexec`): set-user-id, set-group-id or file capabilities.
    pub const SECURE: u32 = 1 << 2;
    /// It was executed by `execveat` by a descriptor: that of the file, or of the directory that its path began at.
    pub const BY_DESCRIPTOR: u32 = 1 << 3;
}

/// Numbers of a process that others share with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ids {
    /// Session, in the initial pid namespace.
    pub session: u32,
    /// Process group, in the initial pid namespace.
    pub group: u32,
    /// Thread group, in the process's own pid namespace; so are the other three.
    pub own_pid: u32,
    /// Thread group of the parent; 0 when it is outside.
    pub own_ppid: u32,
    /// Session.
    pub own_session: u32,
    /// Process group.
    pub own_group: u32,
}

/// What a standard descriptor is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stdio {
    /// Type and permission bits; 0 when the descriptor is closed.
    pub mode: u16,
    /// Address family of a socket (`AF_*`); 0 for anything else.
    pub family: u16,
    /// Remote port of a socket, host byte order.
    pub remote_port: u16,
    /// Zero.
    pub reserved: u16,
    /// Device number of a device file, as the kernel keeps it.
    pub device: u32,
    /// Low half of the inode number: equal for both ends of a pipe.
    pub inode: u32,
    /// Remote address of a socket: 16 bytes for IPv6, the first four for IPv4.
    pub remote: [u8; 16],
}

/// A process was made. The header tells of its maker.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Fork {
    /// When the child started, in nanoseconds since boot.
    pub child_start_ns: u64,
    /// Thread group of the child, in the initial pid namespace.
    pub child_pid: u32,
    /// Parent that the kernel gave the child; with `CLONE_PARENT` not its maker.
    pub child_ppid: u32,
    /// Mount namespace of the child.
    pub mount_namespace: u32,
    /// Pid namespace of the child.
    pub pid_namespace: u32,
    /// Namespaces that the child does not share with its maker, as `CLONE_NEW*` bits.
    pub new_namespaces: u32,
    /// Zero.
    pub reserved: u32,
    /// Who the child is in its groups.
    pub ids: Ids,
}

/// The last thread of a process ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Exit {
    /// As `wait(2)` encodes it: exit code << 8, or the signal, with 0x80 when it dumped core.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

/// A file was opened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Open {
    /// Inode number.
    pub inode: u64,
    /// Device, as the kernel keeps it.
    pub device: u32,
    /// File type and permission bits.
    pub mode: u32,
    /// Open flags (`f_flags`, `O_*`).
    pub open_flags: u32,
    /// Bits of [`file_mode`].
    pub file_mode: u32,
    /// The descriptor, or a negative error number.
    pub result: i32,
    /// Equal opens by the same process image that were counted instead of reported since the last report.
    pub suppressed: u32,
    /// Bits of [`open_layer`].
    pub layer: u32,
    /// Components from leaf to root, each NUL-terminated. With a `name`, the directory that it is relative to.
    pub path: Span,
    /// Path as the process passed it, NUL-terminated, where no file tells what it led to; else empty.
    pub name: Span,
    /// Zero.
    pub reserved: u32,
}

/// Bits of [`Open::layer`] and [`Call::layer`].
pub mod open_layer {
    /// The file lies on an overlay file system, in its upper layer.
    pub const UPPER: u32 = 1;
    /// The file lies on an overlay file system, in a lower layer.
    pub const LOWER: u32 = 1 << 1;
}

/// A name was changed or removed, or a mode changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PathChange {
    /// What the system call returned.
    pub result: i32,
    /// Mode that was asked for, or flags of the call.
    pub argument: u32,
    /// Directory that `name` is relative to, or the object itself when `name` is empty: components from leaf to root.
    pub base: Span,
    /// Path as the process passed it, NUL-terminated.
    pub name: Span,
    /// Likewise for the new name of a rename.
    pub new_base: Span,
    /// Likewise for the new name of a rename.
    pub new_name: Span,
}

/// A process changed its working directory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Chdir {
    /// Components from leaf to root, each NUL-terminated.
    pub path: Span,
    /// Zero.
    pub reserved: u32,
}

/// A socket was connected, listens, was accepted or sent from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Socket {
    /// Local address: 16 bytes for IPv6, the first four for IPv4.
    pub local: [u8; 16],
    /// Remote address, likewise.
    pub remote: [u8; 16],
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Address family (`AF_*`).
    pub family: u16,
    /// Transport protocol (`IPPROTO_*`).
    pub protocol: u16,
    /// What the system call returned.
    pub result: i32,
    /// The descriptor.
    pub descriptor: u32,
    /// Identity of the socket while it lives; 0 where unknown.
    pub identity: u64,
    /// For `AF_UNIX`, the path or abstract name; for what goes to or comes from port 53, its first bytes.
    pub data: Span,
    /// Type of the socket (`SOCK_*`).
    pub socket_type: u32,
}

/// A system call ended. What its arguments mean is the caller's to know, by the number of the call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Call {
    /// What it returned.
    pub result: i64,
    /// Its arguments, as they were passed; those of a 32-bit caller without sign.
    pub args: [u64; 6],
    /// Inode behind the descriptor that the call is about; 0 for none.
    pub inode: u64,
    /// Device of that inode, as the kernel keeps it.
    pub device: u32,
    /// Type and permission bits of that inode.
    pub mode: u32,
    /// Bits of [`open_layer`] for that inode.
    pub layer: u32,
    /// Equal calls by the same process image that were counted instead of reported since the last report.
    pub suppressed: u32,
    /// Process that the descriptor stands for, in the initial pid namespace; 0 where it stands for none.
    pub target: u32,
    /// Zero.
    pub reserved: u32,
    /// The descriptor that the call is about: components from leaf to root.
    pub object: Span,
    /// A second descriptor, likewise.
    pub new_object: Span,
    /// Directory that `name` is relative to, or the object itself when `name` is empty: components from leaf to root.
    pub base: Span,
    /// Path as the process passed it, NUL-terminated.
    pub name: Span,
    /// Likewise for a second path.
    pub new_base: Span,
    /// Likewise for a second path.
    pub new_name: Span,
    /// A text that was passed, NUL-terminated.
    pub text: Span,
    /// Another text, or bytes.
    pub more: Span,
}

/// A TCP connection ended. The header tells of whoever ran when it did: with [`Ended::socket`] the agent knows whose it
/// was.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ended {
    /// Identity of the socket while it lives; the same in its other records ([`Socket::identity`]).
    pub socket: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent, those that were sent again counted once.
    pub sent: u64,
    /// Both ends.
    pub ends: Ends,
    /// Error that ended it, as a positive number; 0 for none.
    pub error: u32,
    /// 1 when it ended before the other end had answered: it was never a connection.
    pub unanswered: u32,
}

/// Both ends of a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ends {
    /// Local address: 16 bytes for IPv6, the first four for IPv4.
    pub local: [u8; 16],
    /// Remote address, likewise.
    pub remote: [u8; 16],
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Address family (`AF_*`).
    pub family: u16,
    /// Transport protocol (`IPPROTO_*`).
    pub protocol: u16,
}

/// What the kernel resolved paths to, just before it acts on them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Resolved {
    /// Components from leaf to root, each NUL-terminated.
    pub path: Span,
    /// Likewise the second path of a rename or link.
    pub new_path: Span,
}
