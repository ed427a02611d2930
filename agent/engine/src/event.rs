//! What the matcher asks of an event, and the kinds of event there are.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::field::{Field, FieldRef};

/// What happened, as coarsely as the sensor tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A process replaced its program.
    Exec,
    /// A process or thread was created.
    Fork,
    /// A process ended.
    Exit,
    /// A file was opened.
    Open,
    /// A file was renamed.
    Rename,
    /// A file or directory was removed.
    Unlink,
    /// The mode of a file was changed.
    Chmod,
    /// A socket was connected.
    Connect,
    /// A socket began to listen.
    Listen,
    /// A connection was accepted.
    Accept,
    /// A datagram was sent, or bytes to a port that is looked into.
    Send,
    /// A socket was given an address.
    Bind,
    /// Bytes came from the network.
    Receive,
    /// A connection ended.
    SocketEnd,
    /// A socket of an unusual kind was made.
    Socket,
    /// A socket was put onto standard input, output or error.
    Duplicate,
    /// A directory was made.
    Mkdir,
    /// A device file, named pipe or other file was made.
    Mknod,
    /// A further name was given to a file.
    Link,
    /// A symbolic link was made.
    Symlink,
    /// The owner of a file was changed.
    Chown,
    /// An extended attribute of a file, such as its capabilities, was set or removed.
    Xattr,
    /// A file was cut or lengthened.
    Truncate,
    /// The times of a file were set.
    Utime,
    /// A file system was mounted, moved or removed.
    Mount,
    /// The kernel moved bytes from one descriptor to another.
    Copy,
    /// A handle to a file was asked for.
    Handle,
    /// A terminal was written to, or attributes of a file were changed, by `ioctl`.
    Ioctl,
    /// Accesses to files are to be told of.
    Watch,
    /// A process changed its users, groups or capabilities.
    Credentials,
    /// A process entered or made a namespace, or changed its root.
    Namespace,
    /// A process left its session or process group.
    Session,
    /// A process reached into another.
    Trace,
    /// A signal was sent to another process.
    Signal,
    /// A process changed its name, its protection or its execution domain.
    Control,
    /// Memory was made executable, or memory that has no name or special handling.
    Memory,
    /// Code for the kernel was loaded or removed.
    Module,
    /// A BPF program or map, or a performance counter.
    Bpf,
    /// A ring for asynchronous calls was made or used.
    IoUring,
    /// A key of the kernel's keyring.
    Key,
    /// A setting of the whole system was changed.
    System,
}

impl EventKind {
    /// Every kind, in the order of [`EventKind::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Exec,
        Self::Fork,
        Self::Exit,
        Self::Open,
        Self::Rename,
        Self::Unlink,
        Self::Chmod,
        Self::Connect,
        Self::Listen,
        Self::Accept,
        Self::Send,
        Self::Bind,
        Self::Receive,
        Self::SocketEnd,
        Self::Socket,
        Self::Duplicate,
        Self::Mkdir,
        Self::Mknod,
        Self::Link,
        Self::Symlink,
        Self::Chown,
        Self::Xattr,
        Self::Truncate,
        Self::Utime,
        Self::Mount,
        Self::Copy,
        Self::Handle,
        Self::Ioctl,
        Self::Watch,
        Self::Credentials,
        Self::Namespace,
        Self::Session,
        Self::Trace,
        Self::Signal,
        Self::Control,
        Self::Memory,
        Self::Module,
        Self::Bpf,
        Self::IoUring,
        Self::Key,
        Self::System,
    ];

    /// How many kinds there are.
    pub const COUNT: usize = 41;

    /// Position in [`EventKind::ALL`], for tables by kind.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The values of `evt.type` that events of this kind can carry.
    pub fn event_types(self) -> &'static [&'static str] {
        match self {
            Self::Exec => &["execve", "execveat"],
            Self::Fork => &["clone", "clone3", "fork", "vfork"],
            Self::Exit => &["procexit"],
            Self::Open => &["open", "openat", "openat2", "creat", "open_by_handle_at"],
            Self::Rename => &["rename", "renameat", "renameat2"],
            Self::Unlink => &["unlink", "unlinkat", "rmdir"],
            Self::Chmod => &["chmod", "fchmod", "fchmodat"],
            Self::Connect => &["connect"],
            Self::Listen => &["listen"],
            Self::Accept => &["accept", "accept4"],
            Self::Send => &["sendto", "sendmsg", "sendmmsg", "write", "writev"],
            Self::Bind => &["bind"],
            Self::Receive => &["recvfrom", "recvmsg", "recvmmsg", "read", "readv"],
            Self::SocketEnd => &["close"],
            Self::Socket => &["socket"],
            Self::Duplicate => &["dup", "dup2", "dup3", "fcntl"],
            Self::Mkdir => &["mkdir", "mkdirat"],
            Self::Mknod => &["mknod", "mknodat"],
            Self::Link => &["link", "linkat"],
            Self::Symlink => &["symlink", "symlinkat"],
            Self::Chown => &["chown", "lchown", "fchown", "fchownat"],
            Self::Xattr => &[
                "setxattr",
                "lsetxattr",
                "fsetxattr",
                "setxattrat",
                "removexattr",
                "lremovexattr",
                "fremovexattr",
                "removexattrat",
            ],
            Self::Truncate => &["truncate", "ftruncate"],
            Self::Utime => &["utime", "utimes", "futimesat", "utimensat"],
            Self::Mount => &[
                "mount",
                "umount",
                "umount2",
                "move_mount",
                "open_tree",
                "fsopen",
                "fsmount",
                "fsconfig",
                "mount_setattr",
            ],
            Self::Copy => &["sendfile", "splice", "copy_file_range"],
            Self::Handle => &["name_to_handle_at"],
            Self::Ioctl => &["ioctl"],
            Self::Watch => &["fanotify_init", "fanotify_mark"],
            Self::Credentials => &[
                "setuid",
                "setgid",
                "setreuid",
                "setregid",
                "setresuid",
                "setresgid",
                "setfsuid",
                "setfsgid",
                "setgroups",
                "capset",
            ],
            Self::Namespace => &["setns", "unshare", "chroot", "pivot_root"],
            Self::Session => &["setsid", "setpgid"],
            Self::Trace => &[
                "ptrace",
                "process_vm_readv",
                "process_vm_writev",
                "pidfd_getfd",
                "pidfd_open",
                "process_madvise",
            ],
            Self::Signal => &[
                "kill",
                "tkill",
                "tgkill",
                "rt_sigqueueinfo",
                "rt_tgsigqueueinfo",
                "pidfd_send_signal",
            ],
            Self::Control => &["prctl", "personality"],
            Self::Memory => &[
                "mmap",
                "mprotect",
                "pkey_mprotect",
                "memfd_create",
                "memfd_secret",
                "userfaultfd",
            ],
            Self::Module => &[
                "init_module",
                "finit_module",
                "delete_module",
                "kexec_load",
                "kexec_file_load",
            ],
            Self::Bpf => &["bpf", "perf_event_open"],
            Self::IoUring => &["io_uring_setup", "io_uring_register", "io_uring_enter"],
            Self::Key => &["keyctl", "add_key", "request_key"],
            Self::System => &[
                "swapon",
                "swapoff",
                "reboot",
                "acct",
                "quotactl",
                "sethostname",
                "setdomainname",
                "settimeofday",
                "clock_settime",
                "stime",
                "iopl",
                "ioperm",
                "syslog",
                "nfsservctl",
            ],
        }
    }

    /// The kind that carries this value of `evt.type`, if one does.
    pub fn of_event_type(event_type: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.event_types().iter().any(|name| name.as_bytes() == event_type))
    }

    /// The value of `evt.category`, in Falco's words.
    pub fn category(self) -> &'static str {
        match self {
            Self::Exec
            | Self::Fork
            | Self::Exit
            | Self::Namespace
            | Self::Session
            | Self::Trace
            | Self::Control
            | Self::IoUring => "process",
            Self::Open
            | Self::Rename
            | Self::Unlink
            | Self::Chmod
            | Self::Mkdir
            | Self::Mknod
            | Self::Link
            | Self::Symlink
            | Self::Chown
            | Self::Xattr
            | Self::Truncate
            | Self::Utime
            | Self::Mount
            | Self::Handle => "file",
            Self::Connect | Self::Listen | Self::Accept | Self::Bind | Self::Socket => "net",
            Self::Send | Self::Receive | Self::SocketEnd | Self::Duplicate | Self::Copy | Self::Ioctl => "IO",
            Self::Credentials => "user",
            Self::Memory => "memory",
            Self::Signal | Self::Watch | Self::Module | Self::Bpf | Self::Key => "other",
            Self::System => "system",
        }
    }
}

/// A set of event kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KindSet(u64);

impl KindSet {
    /// No kind.
    pub const EMPTY: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << EventKind::COUNT) - 1);

    /// The set of these kinds.
    pub const fn of(kinds: &[EventKind]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u64;
            at += 1;
        }
        Self(bits)
    }

    /// Whether `kind` is in the set.
    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u64) != 0
    }

    /// Whether no kind is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Kinds in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Kinds in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Kinds not in the set.
    #[must_use]
    pub fn complement(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }

    /// The kinds in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl std::fmt::Debug for KindSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The value of a field in one event. Text is bytes: names on Linux need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text or path.
    Text(&'a [u8]),
    /// Number, port, duration or time in nanoseconds.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// Network address. Addresses mapped from IPv4 into IPv6 are given as IPv4.
    Address(IpAddr),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.as_bytes())
    }
}

/// What events can have in common that no field tells exactly: pids are used again, paths lead elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The process that did it.
    Process,
    /// The furthest ancestor that does not hold unrelated work together, such as the shell of a session.
    Lineage,
    /// The file it is about.
    File,
    /// The container it happened in; none outside containers.
    Container,
    /// The run it belongs to; none outside runs.
    Run,
    /// Who the process ran as.
    User,
}

/// A process as it is: events in which it is equal have equal values of every field that [`Field::is_steady`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    /// A number that no other state of any process ever had.
    pub process: u64,
    /// The name of the thread, cut as the kernel cuts it and filled with zeros.
    pub name: [u8; 16],
}

/// An event as the matcher sees it: a kind and fields looked up when a rule asks for them.
pub trait Event {
    /// What happened.
    fn kind(&self) -> EventKind;

    /// When it happened, in nanoseconds since boot.
    fn time_ns(&self) -> u64 {
        0
    }

    /// The process as it is, if the event can tell one state of it from another: what rules ask of a process is then
    /// found out once and not for each of its events.
    fn steady(&self) -> Option<Steady> {
        None
    }

    /// How many equal events it stands for.
    fn weight(&self) -> u64 {
        1
    }

    /// What identifies a subject of the event, if it has that: equal only for the same one.
    ///
    /// The default asks fields, which is as exact as they are.
    fn identity(&self, subject: Subject) -> Option<u128> {
        identity_by_fields(self, subject)
    }

    /// Calls `visit` with the identity of every ancestor of the process, nearest first, until it returns false.
    fn ancestry(&self, visit: &mut dyn FnMut(u128) -> bool) {
        self.each(&FieldRef::plain(Field::ProcApid), &mut |value| match value {
            Value::Number(pid) => visit(u128::from(pid.cast_unsigned())),
            Value::Text(_) | Value::Flag(_) | Value::Address(_) => true,
        });
    }

    /// The value of a single-valued field, or `None` when the event cannot supply it: then every check on it is false.
    ///
    /// For a list-valued field asked without an index this returns `None`; the matcher calls [`Event::each`] instead.
    fn value(&self, field: &FieldRef) -> Option<Value<'_>>;

    /// Calls `visit` with every value of a list-valued field, nearest first, until it returns false.
    ///
    /// A single-valued field has its one value visited, which is what the default does.
    fn each(&self, field: &FieldRef, visit: &mut dyn FnMut(Value<'_>) -> bool) {
        if let Some(value) = self.value(field) {
            visit(value);
        }
    }
}

fn identity_by_fields<E: Event + ?Sized>(event: &E, subject: Subject) -> Option<u128> {
    let number = |field: Field| match event.value(&FieldRef::plain(field))? {
        Value::Number(number) => Some(u128::from(number.cast_unsigned())),
        Value::Text(_) | Value::Flag(_) | Value::Address(_) => None,
    };
    let text = |field: Field| match event.value(&FieldRef::plain(field))? {
        Value::Text(text) => Some(identity_of(text)),
        Value::Number(_) | Value::Flag(_) | Value::Address(_) => None,
    };
    match subject {
        Subject::Process => number(Field::ProcPid),
        Subject::Lineage => {
            let mut furthest = number(Field::ProcPid);
            event.ancestry(&mut |ancestor| {
                furthest = Some(ancestor);
                true
            });
            furthest
        }
        Subject::File => match number(Field::FdIno).zip(number(Field::FdDev)) {
            Some((inode, device)) => Some(device << 64 | inode),
            None if event.kind() == EventKind::Exec => text(Field::ProcExepath),
            None => text(Field::FdName).or_else(|| text(Field::FsPathName)),
        },
        Subject::Container => match event.value(&FieldRef::plain(Field::ContainerId))? {
            Value::Text(b"host") => None,
            Value::Text(id) => Some(identity_of(id)),
            Value::Number(_) | Value::Flag(_) | Value::Address(_) => None,
        },
        // Events that are looked at together without a host belong together.
        Subject::Run => Some(0),
        Subject::User => number(Field::UserUid),
    }
}

/// An identity made of a name: two names with the same one are not found by chance or on purpose.
pub fn identity_of(name: &[u8]) -> u128 {
    let digest = Sha256::digest(name);
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(first)
}

/// The directory part of a path: what `fd.directory` is for `fd.name`.
pub fn directory_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => b"/",
        Some(slash) => &path[..slash],
        None => b"",
    }
}

/// The last component of a path: what `fd.filename` is for `fd.name`.
pub fn file_name_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => &path[slash + 1..],
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_indexed_in_order() {
        for (index, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
            for name in kind.event_types() {
                assert_eq!(EventKind::of_event_type(name.as_bytes()), Some(kind));
            }
        }
        assert_eq!(EventKind::of_event_type(b"getpid"), None);
    }

    #[test]
    fn kind_sets() {
        let files = KindSet::of(&[EventKind::Open, EventKind::Rename]);
        assert!(files.contains(EventKind::Open));
        assert!(!files.complement().contains(EventKind::Open));
        assert_eq!(files.union(files.complement()), KindSet::ALL);
        assert!(files.intersection(files.complement()).is_empty());
        assert_eq!(files.iter().collect::<Vec<_>>(), [EventKind::Open, EventKind::Rename]);
    }

    #[test]
    fn paths_split() {
        let parts = |path: &'static str| (directory_of(path.as_bytes()), file_name_of(path.as_bytes()));
        assert_eq!(parts("/etc/shadow"), (&b"/etc"[..], &b"shadow"[..]));
        assert_eq!(parts("/vmlinuz"), (&b"/"[..], &b"vmlinuz"[..]));
        assert_eq!(parts("name"), (&b""[..], &b"name"[..]));
    }
}
