//! What the arguments of system calls mean: one line for each, named as in Falco where it knows them.

use std::sync::LazyLock;

use hashbrown::HashMap;
use staghound_ebpf::{SYSCALLS_MAX, flags};
use staghound_engine::event::EventKind;

use super::constants::{self as names, Named};
use crate::sensor::syscalls;

/// Number of `io_uring_enter`, by which requests are told that have no call of their own.
const IO_URING_ENTER: u32 = 426;
/// The row for such requests.
const IO_URING_REQUEST: &str = "a request of io_uring";

/// Where an argument is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Among the arguments, counted from 1.
    Number(u8),
    /// Two arguments that 32-bit callers make one number of, the lower half first.
    Halves(u8, u8),
    /// What the call returned.
    Result,
    /// The first path.
    Path,
    /// The second path.
    NewPath,
    /// The text that was passed.
    Text,
    /// The other text that was passed.
    More,
    /// The path behind the descriptor that the call is about.
    Object,
    /// The path behind the second descriptor.
    NewObject,
    /// A set of capabilities that was passed: 0 effective, 1 permitted, 2 inheritable.
    Capabilities(u8),
    /// Attributes of a file that `ioctl` was passed.
    Attributes,
    /// A time that was passed: 0 of access, 1 of modification.
    Time(u8),
    /// How long before the event the time of modification lies.
    Age,
}

/// How a number is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A signed number of 32 bits.
    Int,
    /// A number without sign, of 32 bits.
    Unsigned,
    /// A number of the caller's width.
    Long,
    /// An address or mask.
    Hexadecimal,
    /// Permission bits.
    Mode,
    /// Bits with names.
    Flags(&'static [Named]),
    /// The flags of `mount`, which old programs begin with a mark.
    MountFlags,
    /// One of several.
    One(&'static [Named]),
    /// One of several, by its place.
    Nth(&'static [&'static str]),
    /// Type of a socket with its flags.
    SocketType,
    /// A user.
    User,
    /// A group.
    Group,
    /// A set of capabilities.
    Capabilities,
    /// It is no number.
    Bytes,
}

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    /// Its name in `evt.arg`.
    pub(super) name: &'static str,
    /// Where it is found.
    pub(super) source: Source,
    /// How it is meant.
    pub(super) format: Format,
}

const fn number(name: &'static str, argument: u8, format: Format) -> Argument {
    Argument {
        name,
        source: Source::Number(argument),
        format,
    }
}

const fn int(name: &'static str, argument: u8) -> Argument {
    number(name, argument, Format::Int)
}

const fn unsigned(name: &'static str, argument: u8) -> Argument {
    number(name, argument, Format::Unsigned)
}

const fn long(name: &'static str, argument: u8) -> Argument {
    number(name, argument, Format::Long)
}

const fn hexadecimal(name: &'static str, argument: u8) -> Argument {
    number(name, argument, Format::Hexadecimal)
}

const fn mode(argument: u8) -> Argument {
    number("mode", argument, Format::Mode)
}

const fn bits(name: &'static str, argument: u8, names: &'static [Named]) -> Argument {
    number(name, argument, Format::Flags(names))
}

const fn one(name: &'static str, argument: u8, names: &'static [Named]) -> Argument {
    number(name, argument, Format::One(names))
}

const fn nth(name: &'static str, argument: u8, names: &'static [&'static str]) -> Argument {
    number(name, argument, Format::Nth(names))
}

const fn user(name: &'static str, argument: u8) -> Argument {
    number(name, argument, Format::User)
}

const fn group(name: &'static str, argument: u8) -> Argument {
    number(name, argument, Format::Group)
}

const fn bytes(name: &'static str, source: Source) -> Argument {
    Argument {
        name,
        source,
        format: Format::Bytes,
    }
}

const fn path(name: &'static str) -> Argument {
    bytes(name, Source::Path)
}

const fn new_path(name: &'static str) -> Argument {
    bytes(name, Source::NewPath)
}

const fn text(name: &'static str) -> Argument {
    bytes(name, Source::Text)
}

const fn more(name: &'static str) -> Argument {
    bytes(name, Source::More)
}

const fn other(name: &'static str, source: Source, format: Format) -> Argument {
    Argument { name, source, format }
}

/// The descriptor that the call returned.
const FD: Argument = other("fd", Source::Result, Format::Int);
/// What the descriptor that the call is about leads to.
const OBJECT: Argument = bytes("object", Source::Object);

const MTIME: Argument = other("mtime", Source::Time(1), Format::Long);
const ATIME: Argument = other("atime", Source::Time(0), Format::Long);
const AGE: Argument = other("age", Source::Age, Format::Long);

/// The arguments of each call, in the order in which people see them. A 32-bit spelling has a row of its own where its
/// arguments are laid out in another way.
const ROWS: &[(&str, &[Argument])] = &[
    // Names of files.
    ("mkdir", &[path("path"), mode(2)]),
    ("mkdirat", &[int("dirfd", 1), path("path"), mode(3)]),
    ("mknod", &[path("path"), mode(2), unsigned("dev", 3)]),
    ("mknodat", &[int("dirfd", 1), path("path"), mode(3), unsigned("dev", 4)]),
    ("link", &[path("oldpath"), new_path("newpath")]),
    (
        "linkat",
        &[
            int("olddir", 1),
            path("oldpath"),
            int("newdir", 3),
            new_path("newpath"),
            bits("flags", 5, names::AT),
        ],
    ),
    ("symlink", &[text("target"), path("linkpath")]),
    ("symlinkat", &[text("target"), int("linkdirfd", 2), path("linkpath")]),
    // Their attributes.
    ("chown", &[path("path"), user("uid", 2), group("gid", 3)]),
    ("lchown", &[path("path"), user("uid", 2), group("gid", 3)]),
    ("fchown", &[int("fd", 1), OBJECT, user("uid", 2), group("gid", 3)]),
    (
        "fchownat",
        &[
            int("dirfd", 1),
            path("pathname"),
            path("path"),
            user("uid", 3),
            group("gid", 4),
            bits("flags", 5, names::AT),
        ],
    ),
    (
        "setxattr",
        &[
            path("path"),
            text("name"),
            long("size", 4),
            bits("flags", 5, names::XATTR),
        ],
    ),
    (
        "lsetxattr",
        &[
            path("path"),
            text("name"),
            long("size", 4),
            bits("flags", 5, names::XATTR),
        ],
    ),
    (
        "fsetxattr",
        &[
            int("fd", 1),
            OBJECT,
            text("name"),
            long("size", 4),
            bits("flags", 5, names::XATTR),
        ],
    ),
    (
        "setxattrat",
        &[int("dirfd", 1), path("path"), bits("flags", 3, names::AT), text("name")],
    ),
    ("removexattr", &[path("path"), text("name")]),
    ("lremovexattr", &[path("path"), text("name")]),
    ("fremovexattr", &[int("fd", 1), OBJECT, text("name")]),
    (
        "removexattrat",
        &[int("dirfd", 1), path("path"), bits("flags", 3, names::AT), text("name")],
    ),
    ("truncate", &[path("path"), long("length", 2)]),
    (
        "truncate64",
        &[path("path"), other("length", Source::Halves(2, 3), Format::Long)],
    ),
    ("ftruncate", &[int("fd", 1), OBJECT, long("length", 2)]),
    (
        "ftruncate64",
        &[
            int("fd", 1),
            OBJECT,
            other("length", Source::Halves(2, 3), Format::Long),
        ],
    ),
    ("utime", &[path("path"), ATIME, MTIME, AGE]),
    ("utimes", &[path("path"), ATIME, MTIME, AGE]),
    ("futimesat", &[int("dirfd", 1), path("path"), ATIME, MTIME, AGE]),
    (
        "utimensat",
        &[
            int("dirfd", 1),
            path("path"),
            bits("flags", 4, names::AT),
            ATIME,
            MTIME,
            AGE,
        ],
    ),
    // Mounts.
    (
        "mount",
        &[
            text("dev"),
            text("special"),
            path("dir"),
            more("type"),
            more("fstype"),
            number("flags", 4, Format::MountFlags),
        ],
    ),
    ("umount", &[path("name")]),
    ("umount2", &[path("name"), bits("flags", 2, names::UMOUNT)]),
    (
        "move_mount",
        &[
            int("from_dfd", 1),
            path("oldpath"),
            int("to_dfd", 3),
            new_path("newpath"),
            bits("flags", 5, names::MOVE_MOUNT),
        ],
    ),
    (
        "open_tree",
        &[int("dirfd", 1), path("path"), bits("flags", 3, names::OPEN_TREE), FD],
    ),
    ("fsopen", &[text("fstype"), bits("flags", 2, names::FSOPEN), FD]),
    (
        "fsmount",
        &[
            int("fs_fd", 1),
            bits("flags", 2, names::FSMOUNT),
            hexadecimal("attr_flags", 3),
            FD,
        ],
    ),
    (
        "fsconfig",
        &[
            int("fs_fd", 1),
            nth("cmd", 2, names::FSCONFIG),
            text("key"),
            more("value"),
            int("aux", 5),
        ],
    ),
    (
        "mount_setattr",
        &[int("dirfd", 1), path("path"), bits("flags", 3, names::AT)],
    ),
    // Data without read and write.
    (
        "sendfile",
        &[
            int("out_fd", 1),
            bytes("out", Source::NewObject),
            int("in_fd", 2),
            bytes("in", Source::Object),
            hexadecimal("offset", 3),
            long("size", 4),
        ],
    ),
    (
        "splice",
        &[
            int("fd_in", 1),
            bytes("in", Source::Object),
            int("fd_out", 3),
            bytes("out", Source::NewObject),
            long("size", 5),
            bits("flags", 6, names::SPLICE),
        ],
    ),
    (
        "copy_file_range",
        &[
            int("fdin", 1),
            bytes("in", Source::Object),
            int("fdout", 3),
            bytes("out", Source::NewObject),
            long("len", 5),
            hexadecimal("flags", 6),
        ],
    ),
    (
        "name_to_handle_at",
        &[int("dirfd", 1), path("path"), bits("flags", 5, names::AT)],
    ),
    (
        "ioctl",
        &[
            int("fd", 1),
            OBJECT,
            one("request", 2, names::IOCTL),
            hexadecimal("argument", 3),
            other("attributes", Source::Attributes, Format::Flags(names::ATTRIBUTES)),
        ],
    ),
    // Descriptors.
    (
        "dup",
        &[int("oldfd", 1), OBJECT, other("newfd", Source::Result, Format::Int)],
    ),
    ("dup2", &[int("oldfd", 1), int("newfd", 2), OBJECT]),
    (
        "dup3",
        &[
            int("oldfd", 1),
            int("newfd", 2),
            bits("flags", 3, names::CLOSE_ON_EXEC),
            OBJECT,
        ],
    ),
    (
        "fcntl",
        &[int("fd", 1), one("cmd", 2, names::FCNTL), int("arg", 3), OBJECT],
    ),
    (
        "fanotify_init",
        &[
            bits("flags", 1, names::FANOTIFY_INIT),
            hexadecimal("event_f_flags", 2),
            FD,
        ],
    ),
    (
        "fanotify_mark",
        &[
            int("fanotify_fd", 1),
            bits("flags", 2, names::FANOTIFY_MARK),
            hexadecimal("mask", 3),
            path("path"),
        ],
    ),
    // Who a process is.
    ("setuid", &[user("uid", 1)]),
    ("setgid", &[group("gid", 1)]),
    ("setreuid", &[user("ruid", 1), user("euid", 2)]),
    ("setregid", &[group("rgid", 1), group("egid", 2)]),
    ("setresuid", &[user("ruid", 1), user("euid", 2), user("suid", 3)]),
    ("setresgid", &[group("rgid", 1), group("egid", 2), group("sgid", 3)]),
    ("setfsuid", &[user("uid", 1)]),
    ("setfsgid", &[group("gid", 1)]),
    ("setgroups", &[int("size", 1)]),
    (
        "capset",
        &[
            other("cap_inheritable", Source::Capabilities(2), Format::Capabilities),
            other("cap_permitted", Source::Capabilities(1), Format::Capabilities),
            other("cap_effective", Source::Capabilities(0), Format::Capabilities),
        ],
    ),
    (
        "setns",
        &[
            int("fd", 1),
            OBJECT,
            bits("nstype", 2, names::CLONE),
            bits("flags", 2, names::CLONE),
        ],
    ),
    ("unshare", &[bits("flags", 1, names::CLONE)]),
    ("chroot", &[path("path")]),
    ("pivot_root", &[path("new_root"), new_path("put_old")]),
    ("setsid", &[other("sid", Source::Result, Format::Int)]),
    ("setpgid", &[int("pid", 1), int("pgid", 2)]),
    // Other processes.
    (
        "ptrace",
        &[
            one("request", 1, names::PTRACE),
            int("pid", 2),
            hexadecimal("addr", 3),
            hexadecimal("data", 4),
        ],
    ),
    (
        "process_vm_readv",
        &[int("pid", 1), long("liovcnt", 3), long("riovcnt", 5)],
    ),
    (
        "process_vm_writev",
        &[int("pid", 1), long("liovcnt", 3), long("riovcnt", 5)],
    ),
    ("pidfd_getfd", &[int("pid_fd", 1), int("target_fd", 2), FD]),
    ("pidfd_open", &[int("pid", 1), bits("flags", 2, names::PIDFD), FD]),
    (
        "process_madvise",
        &[int("pid_fd", 1), long("vlen", 3), int("advice", 4)],
    ),
    ("kill", &[int("pid", 1), one("sig", 2, names::SIGNALS)]),
    ("tkill", &[int("tid", 1), one("sig", 2, names::SIGNALS)]),
    ("tgkill", &[int("pid", 1), int("tid", 2), one("sig", 3, names::SIGNALS)]),
    ("rt_sigqueueinfo", &[int("pid", 1), one("sig", 2, names::SIGNALS)]),
    (
        "rt_tgsigqueueinfo",
        &[int("pid", 1), int("tid", 2), one("sig", 3, names::SIGNALS)],
    ),
    ("pidfd_send_signal", &[int("pid_fd", 1), one("sig", 2, names::SIGNALS)]),
    (
        "prctl",
        &[
            one("option", 1, names::PRCTL),
            more("arg2_str"),
            more("name"),
            long("arg2_int", 2),
        ],
    ),
    ("personality", &[bits("persona", 1, names::PERSONALITY)]),
    // Memory.
    (
        "mmap",
        &[
            hexadecimal("addr", 1),
            long("length", 2),
            bits("prot", 3, names::PROT),
            bits("flags", 4, names::MAP),
            int("fd", 5),
            OBJECT,
        ],
    ),
    (
        "mprotect",
        &[hexadecimal("addr", 1), long("length", 2), bits("prot", 3, names::PROT)],
    ),
    (
        "pkey_mprotect",
        &[
            hexadecimal("addr", 1),
            long("length", 2),
            bits("prot", 3, names::PROT),
            int("pkey", 4),
        ],
    ),
    ("memfd_create", &[FD, text("name"), bits("flags", 2, names::MEMFD)]),
    ("memfd_secret", &[FD, bits("flags", 1, names::CLOSE_ON_EXEC)]),
    ("userfaultfd", &[FD, bits("flags", 1, names::USERFAULTFD)]),
    // The kernel itself.
    ("init_module", &[long("length", 2), text("uargs")]),
    (
        "finit_module",
        &[
            int("fd", 1),
            OBJECT,
            text("uargs"),
            bits("flags", 3, names::INIT_MODULE),
        ],
    ),
    ("delete_module", &[text("name"), bits("flags", 2, names::DELETE_MODULE)]),
    (
        "kexec_load",
        &[
            hexadecimal("entry", 1),
            long("nr_segments", 2),
            bits("flags", 4, names::KEXEC),
        ],
    ),
    (
        "kexec_file_load",
        &[
            int("kernel_fd", 1),
            bytes("kernel", Source::Object),
            int("initrd_fd", 2),
            bytes("initrd", Source::NewObject),
            bits("flags", 5, names::KEXEC_FILE),
        ],
    ),
    ("bpf", &[nth("cmd", 1, names::BPF), int("size", 3), FD]),
    (
        "perf_event_open",
        &[
            int("pid", 2),
            int("cpu", 3),
            int("group_fd", 4),
            bits("flags", 5, names::PERF),
            FD,
        ],
    ),
    ("io_uring_setup", &[unsigned("entries", 1), FD]),
    (
        "io_uring_register",
        &[
            int("fd", 1),
            nth("opcode", 2, names::IORING_REGISTER),
            unsigned("nr_args", 4),
        ],
    ),
    (
        "io_uring_enter",
        &[
            int("fd", 1),
            unsigned("to_submit", 2),
            unsigned("min_complete", 3),
            hexadecimal("flags", 4),
        ],
    ),
    (
        IO_URING_REQUEST,
        &[nth("opcode", 1, names::IORING_OP), int("fd", 2), OBJECT],
    ),
    (
        "keyctl",
        &[nth("option", 1, names::KEYCTL), int("key", 2), hexadecimal("arg3", 3)],
    ),
    (
        "add_key",
        &[
            text("type"),
            more("key"),
            more("description"),
            long("size", 4),
            int("keyring", 5),
        ],
    ),
    (
        "request_key",
        &[text("type"), more("key"), more("description"), int("keyring", 4)],
    ),
    ("swapon", &[path("path"), bits("flags", 2, names::SWAP)]),
    ("swapoff", &[path("path")]),
    // One that succeeds never returns, and so is not told; those that are refused, end a container or switch the keys are.
    (
        "reboot",
        &[
            hexadecimal("magic", 1),
            hexadecimal("magic2", 2),
            one("cmd", 3, names::REBOOT),
        ],
    ),
    ("acct", &[path("path")]),
    ("quotactl", &[hexadecimal("cmd", 1), text("special"), int("id", 3)]),
    ("sethostname", &[more("name"), int("size", 2)]),
    ("setdomainname", &[more("name"), int("size", 2)]),
    ("settimeofday", &[hexadecimal("tv", 1), hexadecimal("tz", 2)]),
    ("clock_settime", &[nth("clockid", 1, names::CLOCKS)]),
    ("stime", &[hexadecimal("tptr", 1)]),
    ("iopl", &[int("level", 1)]),
    ("ioperm", &[long("from", 1), long("num", 2), int("turn_on", 3)]),
    ("syslog", &[nth("type", 1, names::SYSLOG), int("size", 3)]),
    (
        "socket",
        &[
            FD,
            nth("domain", 1, names::ADDRESS_FAMILIES),
            number("type", 2, Format::SocketType),
            int("proto", 3),
        ],
    ),
    ("nfsservctl", &[int("cmd", 1)]),
];

/// A system call as rules know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Its name in `evt.type`.
    pub(super) name: &'static str,
    /// What it does; none when rules have no word for it.
    pub(super) kind: Option<EventKind>,
    /// What its arguments mean.
    pub(super) arguments: &'static [Argument],
    /// Whether its user and group ids have 16 bits, of which all set mean none.
    pub(super) has_short_ids: bool,
    /// Whether its times have 64 bits though the caller has 32.
    pub(super) has_long_times: bool,
}

/// The call of a record, by its number in the caller's ABI.
pub(super) fn known(number: u32, record_flags: u16) -> Option<&'static Known> {
    /// For native callers and for 32-bit ones.
    static KNOWN: LazyLock<[Vec<Option<Known>>; 2]> = LazyLock::new(|| {
        let rows: HashMap<&str, &'static [Argument]> = ROWS.iter().copied().collect();
        [false, true].map(|compat| {
            let known = |number| {
                let spelled = syscalls::name(number, compat)?;
                let name = syscalls::spoken(spelled);
                let arguments = rows.get(spelled).or_else(|| rows.get(name));
                Some(Known {
                    name,
                    kind: EventKind::of_event_type(name.as_bytes()),
                    arguments: arguments.copied().unwrap_or_default(),
                    has_short_ids: compat && !spelled.ends_with("32"),
                    has_long_times: spelled.ends_with("_time64"),
                })
            };
            (0..u32::try_from(SYSCALLS_MAX).expect("a small constant"))
                .map(known)
                .collect()
        })
    });
    static REQUEST: LazyLock<Known> = LazyLock::new(|| Known {
        name: "io_uring_enter",
        kind: EventKind::of_event_type(b"io_uring_enter"),
        arguments: ROWS
            .iter()
            .find(|(name, _)| *name == IO_URING_REQUEST)
            .map_or(&[], |(_, arguments)| arguments),
        has_short_ids: false,
        has_long_times: false,
    });
    let by_ring = record_flags & flags::IO_URING != 0;
    if by_ring && number == IO_URING_ENTER {
        return Some(&REQUEST);
    }
    // A request of a ring is told as the native call that does the same, whoever made it.
    let compat = record_flags & flags::COMPAT != 0 && !by_ring;
    KNOWN[usize::from(compat)].get(number as usize)?.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every call that is recorded by its shape means something, and every row is of such a call.
    #[test]
    fn the_table_is_whole() {
        let own = [
            "open",
            "creat",
            "openat",
            "openat2",
            "open_by_handle_at",
            "rename",
            "renameat",
            "renameat2",
            "unlink",
            "rmdir",
            "unlinkat",
            "chmod",
            "fchmod",
            "fchmodat",
            "fchmodat2",
            "chdir",
            "fchdir",
            "connect",
            "bind",
            "listen",
            "accept",
            "accept4",
            "sendto",
            "sendmsg",
            "sendmmsg",
            "write",
            "writev",
            "recvfrom",
            "recvmsg",
            "recvmmsg",
            "recvmmsg_time64",
            "read",
            "readv",
            "socketcall",
        ];
        let rows: HashMap<&str, &[Argument]> = ROWS.iter().copied().collect();
        assert_eq!(rows.len(), ROWS.len(), "a call has two rows");
        for name in syscalls::names().filter(|name| !own.contains(name)) {
            assert!(rows.contains_key(syscalls::spoken(name)), "{name} has no row");
        }
        for (name, arguments) in ROWS {
            assert!(
                *name == IO_URING_REQUEST || *name == "io_uring_enter" || syscalls::names().any(|known| known == *name),
                "{name} is not recorded"
            );
            for (index, argument) in arguments.iter().enumerate() {
                assert!(
                    !arguments[..index].iter().any(|before| before.name == argument.name),
                    "{name}: {} twice",
                    argument.name
                );
                if let Source::Number(number) = argument.source {
                    assert!((1..=6).contains(&number), "{name}: {}", argument.name);
                }
                let is_bytes = matches!(
                    argument.source,
                    Source::Path | Source::NewPath | Source::Text | Source::More | Source::Object | Source::NewObject
                );
                assert_eq!(is_bytes, argument.format == Format::Bytes, "{name}: {}", argument.name);
            }
        }
    }

    #[test]
    fn calls_are_known_by_number() {
        let name = |number, flags| known(number, flags).map(|known| known.name);
        assert_eq!(name(101, 0), Some("ptrace"));
        assert_eq!(name(26, flags::COMPAT), Some("ptrace"));
        assert_eq!(name(213, flags::COMPAT), Some("setuid"));
        assert_eq!(name(258, flags::IO_URING | flags::COMPAT), Some("mkdirat"));
        assert_eq!(name(IO_URING_ENTER, flags::IO_URING), Some("io_uring_enter"));
        assert_eq!(name(u32::MAX, 0), None);
        assert!(known(23, flags::COMPAT).unwrap().has_short_ids);
        assert!(!known(213, flags::COMPAT).unwrap().has_short_ids);
        assert!(!known(105, 0).unwrap().has_short_ids);
    }
}
