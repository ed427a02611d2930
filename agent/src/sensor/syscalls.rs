//! System calls by architecture: which ones are looked at, how, and their names.
//!
//! One table per architecture; another is another table.

use staghound_ebpf::{Action, SHAPES_MAX, SYSCALLS_MAX, Shape, ShapeTable, SyscallTable, UringTable, Wanted};

use crate::sensor::syscalls::Does::{Own, Shaped};

const PLAIN: Shape = Shape::PLAIN;

/// What is done when a call ends.
#[derive(Clone, Copy)]
enum Does {
    /// A program of its own records it.
    Own(Action),
    /// The program for all the others does, by its shape.
    Shaped(Shape),
}

/// One system call that is looked at.
struct Syscall {
    name: &'static str,
    does: Does,
    /// Number in the native ABI (arch/x86/entry/syscalls/syscall_64.tbl).
    native: Option<u16>,
    /// Number in the 32-bit ABI (arch/x86/entry/syscalls/syscall_32.tbl).
    compat: Option<u16>,
    /// Number in the x32 ABI where it differs from the native one, without its bit.
    x32: Option<u16>,
}

const fn native(name: &'static str, does: Does, native: u16) -> Syscall {
    Syscall {
        name,
        does,
        native: Some(native),
        compat: None,
        x32: None,
    }
}

const fn compat(name: &'static str, does: Does, compat: u16) -> Syscall {
    Syscall {
        name,
        does,
        native: None,
        compat: Some(compat),
        x32: None,
    }
}

const fn both(name: &'static str, does: Does, native: u16, compat: u16) -> Syscall {
    Syscall {
        name,
        does,
        native: Some(native),
        compat: Some(compat),
        x32: None,
    }
}

const fn all(name: &'static str, does: Does, native: u16, compat: u16, x32: u16) -> Syscall {
    Syscall {
        name,
        does,
        native: Some(native),
        compat: Some(compat),
        x32: Some(x32),
    }
}

#[cfg(target_arch = "x86_64")]
const SYSCALLS: &[Syscall] = &[
    both("open", Own(Action::Open), 2, 5),
    both("creat", Own(Action::Open), 85, 8),
    both("openat", Own(Action::Open), 257, 295),
    both("openat2", Own(Action::Open), 437, 437),
    both("open_by_handle_at", Own(Action::Open), 304, 342),
    both("rename", Own(Action::Rename), 82, 38),
    both("renameat", Own(Action::RenameAt), 264, 302),
    both("renameat2", Own(Action::RenameAt), 316, 353),
    both("unlink", Own(Action::Unlink), 87, 10),
    both("rmdir", Own(Action::Unlink), 84, 40),
    both("unlinkat", Own(Action::UnlinkAt), 263, 301),
    both("chmod", Own(Action::Chmod), 90, 15),
    both("fchmod", Own(Action::ChmodDescriptor), 91, 94),
    both("fchmodat", Own(Action::ChmodAt), 268, 306),
    both("fchmodat2", Own(Action::ChmodAt), 452, 452),
    both("chdir", Own(Action::Chdir), 80, 12),
    both("fchdir", Own(Action::Chdir), 81, 133),
    both("connect", Own(Action::Connect), 42, 362),
    both("bind", Own(Action::Bind), 49, 361),
    both("listen", Own(Action::Listen), 50, 363),
    native("accept", Own(Action::Accept), 43),
    both("accept4", Own(Action::Accept), 288, 364),
    both("sendto", Own(Action::SendTo), 44, 369),
    all("sendmsg", Own(Action::SendMsg), 46, 370, 518),
    all("sendmmsg", Own(Action::SendMmsg), 307, 345, 538),
    both("write", Own(Action::Write), 1, 4),
    all("writev", Own(Action::WriteVector), 20, 146, 516),
    all("recvfrom", Own(Action::ReceiveFrom), 45, 371, 517),
    all("recvmsg", Own(Action::ReceiveMsg), 47, 372, 519),
    all("recvmmsg", Own(Action::ReceiveMmsg), 299, 337, 537),
    compat("recvmmsg_time64", Own(Action::ReceiveMmsg), 417),
    both("read", Own(Action::Read), 0, 3),
    all("readv", Own(Action::ReadVector), 19, 145, 515),
    compat("socketcall", Own(Action::SocketCall), 102),
    both("mkdir", Shaped(PLAIN.path(1)), 83, 39),
    both("mkdirat", Shaped(PLAIN.path_at(1, 2)), 258, 296),
    both("mknod", Shaped(PLAIN.path(1)), 133, 14),
    both("mknodat", Shaped(PLAIN.path_at(1, 2)), 259, 297),
    both("link", Shaped(PLAIN.path(1).new_path(2)), 86, 9),
    both("linkat", Shaped(PLAIN.path_at(1, 2).new_path_at(3, 4)), 265, 303),
    both("symlink", Shaped(PLAIN.path(2).text(1)), 88, 83),
    both("symlinkat", Shaped(PLAIN.path_at(2, 3).text(1)), 266, 304),
    both("chown", Shaped(PLAIN.path(1)), 92, 182),
    both("lchown", Shaped(PLAIN.path(1)), 94, 16),
    both("fchown", Shaped(PLAIN.descriptor(1).file()), 93, 95),
    both("fchownat", Shaped(PLAIN.path_at(1, 2)), 260, 298),
    compat("chown32", Shaped(PLAIN.path(1)), 212),
    compat("lchown32", Shaped(PLAIN.path(1)), 198),
    compat("fchown32", Shaped(PLAIN.descriptor(1).file()), 207),
    both("setxattr", Shaped(PLAIN.path(1).text(2)), 188, 226),
    both("lsetxattr", Shaped(PLAIN.path(1).text(2)), 189, 227),
    both("fsetxattr", Shaped(PLAIN.descriptor(1).text(2).file()), 190, 228),
    both("setxattrat", Shaped(PLAIN.path_at(1, 2).text(4)), 463, 463),
    both("removexattr", Shaped(PLAIN.path(1).text(2)), 197, 235),
    both("lremovexattr", Shaped(PLAIN.path(1).text(2)), 198, 236),
    both("fremovexattr", Shaped(PLAIN.descriptor(1).text(2).file()), 199, 237),
    both("removexattrat", Shaped(PLAIN.path_at(1, 2).text(4)), 466, 466),
    both("truncate", Shaped(PLAIN.path(1)), 76, 92),
    compat("truncate64", Shaped(PLAIN.path(1)), 193),
    both(
        "ftruncate",
        Shaped(PLAIN.descriptor(1).file().only(Wanted::Repeated)),
        77,
        93,
    ),
    compat(
        "ftruncate64",
        Shaped(PLAIN.descriptor(1).file().only(Wanted::Repeated)),
        194,
    ),
    both("utime", Shaped(PLAIN.path(1).words(2, 2)), 132, 30),
    both("utimes", Shaped(PLAIN.path(1).words(2, 4)), 235, 271),
    both("futimesat", Shaped(PLAIN.path_at(1, 2).words(3, 4)), 261, 299),
    both("utimensat", Shaped(PLAIN.path_at(1, 2).words(3, 4)), 280, 320),
    compat("utimensat_time64", Shaped(PLAIN.path_at(1, 2).words(3, 4)), 412),
    both("mount", Shaped(PLAIN.path(2).text(1).more(3)), 165, 21),
    compat("umount", Shaped(PLAIN.path(1)), 22),
    both("umount2", Shaped(PLAIN.path(1)), 166, 52),
    both("move_mount", Shaped(PLAIN.path_at(1, 2).new_path_at(3, 4)), 429, 429),
    both("open_tree", Shaped(PLAIN.path_at(1, 2)), 428, 428),
    both("fsopen", Shaped(PLAIN.text(1)), 430, 430),
    both("fsmount", Shaped(PLAIN), 432, 432),
    both("fsconfig", Shaped(PLAIN.text(3).more(4)), 431, 431),
    both("mount_setattr", Shaped(PLAIN.path_at(1, 2)), 442, 442),
    both(
        "sendfile",
        Shaped(PLAIN.descriptor(2).new_descriptor(1).file().only(Wanted::Moved)),
        40,
        187,
    ),
    compat(
        "sendfile64",
        Shaped(PLAIN.descriptor(2).new_descriptor(1).file().only(Wanted::Moved)),
        239,
    ),
    both(
        "splice",
        Shaped(PLAIN.descriptor(1).new_descriptor(3).file().only(Wanted::Moved)),
        275,
        313,
    ),
    both(
        "copy_file_range",
        Shaped(PLAIN.descriptor(1).new_descriptor(3).file().only(Wanted::Moved)),
        326,
        377,
    ),
    both("name_to_handle_at", Shaped(PLAIN.path_at(1, 2)), 303, 341),
    all(
        "ioctl",
        Shaped(PLAIN.descriptor(1).words(3, 1).only(Wanted::Ioctl)),
        16,
        54,
        514,
    ),
    both("dup", Shaped(PLAIN.descriptor(1).only(Wanted::SocketOntoStdio)), 32, 41),
    both(
        "dup2",
        Shaped(PLAIN.descriptor(1).only(Wanted::SocketOntoStdio)),
        33,
        63,
    ),
    both(
        "dup3",
        Shaped(PLAIN.descriptor(1).only(Wanted::SocketOntoStdio)),
        292,
        330,
    ),
    both(
        "fcntl",
        Shaped(PLAIN.descriptor(1).only(Wanted::FcntlSocketOntoStdio)),
        72,
        55,
    ),
    compat(
        "fcntl64",
        Shaped(PLAIN.descriptor(1).only(Wanted::FcntlSocketOntoStdio)),
        221,
    ),
    both("fanotify_init", Shaped(PLAIN), 300, 338),
    native("fanotify_mark", Shaped(PLAIN.path_at(4, 5)), 301),
    // The mask takes two arguments there.
    compat("fanotify_mark", Shaped(PLAIN.path_at(5, 6)), 339),
    both("setuid", Shaped(PLAIN), 105, 23),
    both("setgid", Shaped(PLAIN), 106, 46),
    both("setreuid", Shaped(PLAIN), 113, 70),
    both("setregid", Shaped(PLAIN), 114, 71),
    both("setresuid", Shaped(PLAIN), 117, 164),
    both("setresgid", Shaped(PLAIN), 119, 170),
    both("setfsuid", Shaped(PLAIN), 122, 138),
    both("setfsgid", Shaped(PLAIN), 123, 139),
    both("setgroups", Shaped(PLAIN), 116, 81),
    compat("setuid32", Shaped(PLAIN), 213),
    compat("setgid32", Shaped(PLAIN), 214),
    compat("setreuid32", Shaped(PLAIN), 203),
    compat("setregid32", Shaped(PLAIN), 204),
    compat("setresuid32", Shaped(PLAIN), 208),
    compat("setresgid32", Shaped(PLAIN), 210),
    compat("setfsuid32", Shaped(PLAIN), 215),
    compat("setfsgid32", Shaped(PLAIN), 216),
    compat("setgroups32", Shaped(PLAIN), 206),
    both("capset", Shaped(PLAIN.words(2, 3)), 126, 185),
    both("setns", Shaped(PLAIN.descriptor(1)), 308, 346),
    both("unshare", Shaped(PLAIN), 272, 310),
    both("chroot", Shaped(PLAIN.path_at(Shape::ROOT, 1)), 161, 61),
    both("pivot_root", Shaped(PLAIN.path(1).new_path(2)), 155, 217),
    both("setsid", Shaped(PLAIN), 112, 66),
    both("setpgid", Shaped(PLAIN), 109, 57),
    all("ptrace", Shaped(PLAIN.only(Wanted::Ptrace)), 101, 26, 521),
    all("process_vm_readv", Shaped(PLAIN), 310, 347, 539),
    all("process_vm_writev", Shaped(PLAIN), 311, 348, 540),
    both("pidfd_getfd", Shaped(PLAIN.descriptor(1)), 438, 438),
    both("pidfd_open", Shaped(PLAIN), 434, 434),
    both("process_madvise", Shaped(PLAIN.descriptor(1)), 440, 440),
    both("kill", Shaped(PLAIN.only(Wanted::SignalToOther)), 62, 37),
    both("tkill", Shaped(PLAIN.only(Wanted::SignalToOther)), 200, 238),
    both("tgkill", Shaped(PLAIN.only(Wanted::SignalToOther)), 234, 270),
    all(
        "rt_sigqueueinfo",
        Shaped(PLAIN.only(Wanted::SignalToOther)),
        129,
        178,
        524,
    ),
    all(
        "rt_tgsigqueueinfo",
        Shaped(PLAIN.only(Wanted::SignalToOther)),
        297,
        335,
        536,
    ),
    both("pidfd_send_signal", Shaped(PLAIN.descriptor(1)), 424, 424),
    both("prctl", Shaped(PLAIN.more(2).only(Wanted::Prctl)), 157, 172),
    both("personality", Shaped(PLAIN), 135, 136),
    both(
        "mmap",
        Shaped(PLAIN.descriptor(5).only(Wanted::MapWritableExecutable)),
        9,
        90,
    ),
    compat(
        "mmap2",
        Shaped(PLAIN.descriptor(5).only(Wanted::MapWritableExecutable)),
        192,
    ),
    both("mprotect", Shaped(PLAIN.only(Wanted::ProtectExecutable)), 10, 125),
    both("pkey_mprotect", Shaped(PLAIN.only(Wanted::ProtectExecutable)), 329, 380),
    both("memfd_create", Shaped(PLAIN.text(1)), 319, 356),
    both("memfd_secret", Shaped(PLAIN), 447, 447),
    both("userfaultfd", Shaped(PLAIN), 323, 374),
    both("init_module", Shaped(PLAIN.text(3)), 175, 128),
    both("finit_module", Shaped(PLAIN.descriptor(1).text(2)), 313, 350),
    both("delete_module", Shaped(PLAIN.text(1)), 176, 129),
    all("kexec_load", Shaped(PLAIN), 246, 283, 528),
    native("kexec_file_load", Shaped(PLAIN.descriptor(1).new_descriptor(2)), 320),
    both("bpf", Shaped(PLAIN.bytes(2).only(Wanted::Bpf)), 321, 357),
    both("perf_event_open", Shaped(PLAIN.only(Wanted::Repeated)), 298, 336),
    both("io_uring_setup", Shaped(PLAIN), 425, 425),
    both("io_uring_register", Shaped(PLAIN.only(Wanted::Repeated)), 427, 427),
    both("keyctl", Shaped(PLAIN), 250, 288),
    both("add_key", Shaped(PLAIN.text(1).more(2)), 248, 286),
    both("request_key", Shaped(PLAIN.text(1).more(2)), 249, 287),
    both("swapon", Shaped(PLAIN.path(1)), 167, 87),
    both("swapoff", Shaped(PLAIN.path(1)), 168, 115),
    both("reboot", Shaped(PLAIN), 169, 88),
    both("acct", Shaped(PLAIN.path(1)), 163, 51),
    both("quotactl", Shaped(PLAIN.text(2)), 179, 131),
    both("sethostname", Shaped(PLAIN.bytes(1)), 170, 74),
    both("setdomainname", Shaped(PLAIN.bytes(1)), 171, 121),
    both("settimeofday", Shaped(PLAIN), 164, 79),
    both("clock_settime", Shaped(PLAIN), 227, 264),
    compat("clock_settime64", Shaped(PLAIN), 404),
    compat("stime", Shaped(PLAIN), 25),
    both("iopl", Shaped(PLAIN), 172, 110),
    both("ioperm", Shaped(PLAIN), 173, 101),
    both("syslog", Shaped(PLAIN.only(Wanted::Repeated)), 103, 103),
    both("socket", Shaped(PLAIN.only(Wanted::SocketUnusual)), 41, 359),
    both("nfsservctl", Shaped(PLAIN), 180, 169),
];

/// `io_uring_enter`, in every ABI.
const IO_URING_ENTER: usize = 426;

/// Opcodes of io_uring (`enum io_uring_op`, include/uapi/linux/io_uring.h) that have a call that does the same.
const URING_CALLS: [(usize, &str); 8] = [
    (16, "connect"),
    (18, "openat"),
    (28, "openat2"),
    (35, "renameat2"),
    (36, "unlinkat"),
    (37, "mkdirat"),
    (38, "symlinkat"),
    (39, "linkat"),
];

/// Opcodes that tell nothing: they wait, cancel, count, or manage the ring itself.
const URING_IDLE: [usize; 23] = [
    0, 3, 6, 7, 8, 11, 12, 14, 15, 19, 20, 24, 25, 29, 31, 32, 40, 50, 51, 52, 53, 54, 59,
];

/// What the programs make of each opcode of io_uring.
#[must_use]
pub fn uring_table() -> UringTable {
    let mut table = UringTable::EMPTY;
    for (opcode, call) in table.calls.iter_mut().enumerate().take(64) {
        if !URING_IDLE.contains(&opcode) {
            *call = u16::try_from(IO_URING_ENTER).expect("a small number");
        }
    }
    for (opcode, name) in URING_CALLS {
        let native = SYSCALLS
            .iter()
            .find(|syscall| syscall.name == name)
            .and_then(|syscall| syscall.native);
        table.calls[opcode] = native.expect("these are in the table");
    }
    table
}

/// The shapes of the table, each once, in the order of their numbers.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for syscall in SYSCALLS {
        if let Shaped(shape) = syscall.does
            && !shapes.contains(&shape)
        {
            shapes.push(shape);
        }
    }
    assert!(shapes.len() <= SHAPES_MAX, "more shapes than the programs tell apart");
    shapes
}

/// The shapes for the programs.
#[must_use]
pub fn shape_table() -> ShapeTable {
    let mut table = ShapeTable::EMPTY;
    for (slot, shape) in table.shapes.iter_mut().zip(shapes()) {
        *slot = shape;
    }
    table
}

/// The table for the programs, of those calls that are `wanted` by name and that a loaded program serves.
#[must_use]
pub fn table(served: &[Action], wanted: impl Fn(&'static str) -> bool) -> SyscallTable {
    let shapes = shapes();
    let mut table = SyscallTable::EMPTY;
    table.actions[IO_URING_ENTER] = SyscallTable::IO_URING | SyscallTable::IO_URING << 1;
    for syscall in SYSCALLS.iter().filter(|syscall| wanted(syscall.name)) {
        let (action, number) = match syscall.does {
            Own(action) => (action, action as u8),
            Shaped(shape) => {
                let index = shapes
                    .iter()
                    .position(|other| *other == shape)
                    .expect("made of this table");
                (
                    Action::Call,
                    Action::Call as u8 + u8::try_from(index).expect("there are at most 128"),
                )
            }
        };
        if !served.contains(&action) {
            continue;
        }
        let form = match syscall.name {
            "openat" | "openat2" => SyscallTable::AT,
            "open_by_handle_at" => SyscallTable::HANDLE,
            _ => 0,
        };
        for native in [syscall.native, syscall.x32].into_iter().flatten() {
            table.native(usize::from(native), number);
            table.actions[usize::from(native)] |= form;
        }
        if let Some(compat) = syscall.compat {
            table.compat(usize::from(compat), number);
            table.actions[usize::from(compat)] |= form << 1;
        }
    }
    table
}

/// Names of all calls that can be looked at.
pub fn names() -> impl Iterator<Item = &'static str> {
    SYSCALLS.iter().map(|syscall| syscall.name)
}

/// The word of rules for a call: they know one spelling for what 32-bit callers and newer calls spell in another way.
#[must_use]
pub fn spoken(spelled: &'static str) -> &'static str {
    match spelled {
        "chown32" => "chown",
        "lchown32" => "lchown",
        "fchown32" => "fchown",
        "setuid32" => "setuid",
        "setgid32" => "setgid",
        "setreuid32" => "setreuid",
        "setregid32" => "setregid",
        "setresuid32" => "setresuid",
        "setresgid32" => "setresgid",
        "setfsuid32" => "setfsuid",
        "setfsgid32" => "setfsgid",
        "setgroups32" => "setgroups",
        "mmap2" => "mmap",
        "fcntl64" => "fcntl",
        "truncate64" => "truncate",
        "ftruncate64" => "ftruncate",
        "sendfile64" => "sendfile",
        "utimensat_time64" => "utimensat",
        "clock_settime64" => "clock_settime",
        "recvmmsg_time64" => "recvmmsg",
        "fchmodat2" => "fchmodat",
        other => other,
    }
}

/// Name of a system call that is looked at, by its number in the caller's ABI.
#[must_use]
pub fn name(number: u32, compat: bool) -> Option<&'static str> {
    static NAMES: std::sync::LazyLock<[[Option<&'static str>; SYSCALLS_MAX]; 2]> = std::sync::LazyLock::new(|| {
        let mut names = [[None; SYSCALLS_MAX]; 2];
        for syscall in SYSCALLS {
            for number in [syscall.native, syscall.x32].into_iter().flatten() {
                names[0][usize::from(number)] = Some(syscall.name);
            }
            if let Some(number) = syscall.compat {
                names[1][usize::from(number)] = Some(syscall.name);
            }
        }
        for names in &mut names {
            names[IO_URING_ENTER] = Some("io_uring_enter");
        }
        names
    });
    *NAMES[usize::from(compat)].get(number as usize)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_number() {
        assert_eq!(name(257, false), Some("openat"));
        assert_eq!(name(295, true), Some("openat"));
        assert_eq!(name(518, false), Some("sendmsg"));
        assert_eq!(name(83, false), Some("mkdir"));
        assert_eq!(name(39, true), Some("mkdir"));
        assert_eq!(name(39, false), None);
        assert_eq!(name(u32::MAX, false), None);
    }

    #[test]
    fn a_table_holds_what_is_wanted() {
        let table = table(&[Action::Open, Action::Call], |name| name != "mkdir");
        assert_eq!(table.actions[82], 0, "rename, not served");
        assert_eq!(table.actions[83] & 0xff, 0, "mkdir");
        assert_eq!(table.actions[257] & 0xff, Action::Open as u32);
        assert!(table.actions[165] & 0xff >= Action::Call as u32, "mount");
    }
}
