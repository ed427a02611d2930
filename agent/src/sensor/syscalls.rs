//! System calls by architecture: which ones are looked at, and their names.
//!
//! One table per architecture; another is another table.

use staghound_ebpf::{Action, SyscallTable};

/// One system call that is looked at.
struct Syscall {
    name: &'static str,
    action: Action,
    /// Number in the native ABI (arch/x86/entry/syscalls/syscall_64.tbl).
    native: Option<u16>,
    /// Number in the 32-bit ABI (arch/x86/entry/syscalls/syscall_32.tbl).
    compat: Option<u16>,
    /// Number in the x32 ABI where it differs from the native one, without its bit.
    x32: Option<u16>,
}

const fn both(name: &'static str, action: Action, native: u16, compat: u16) -> Syscall {
    Syscall {
        name,
        action,
        native: Some(native),
        compat: Some(compat),
        x32: None,
    }
}

#[cfg(target_arch = "x86_64")]
const SYSCALLS: &[Syscall] = &[
    both("open", Action::Open, 2, 5),
    both("creat", Action::Open, 85, 8),
    both("openat", Action::Open, 257, 295),
    both("openat2", Action::Open, 437, 437),
    both("open_by_handle_at", Action::Open, 304, 342),
    both("rename", Action::Rename, 82, 38),
    both("renameat", Action::RenameAt, 264, 302),
    both("renameat2", Action::RenameAt, 316, 353),
    both("unlink", Action::Unlink, 87, 10),
    both("rmdir", Action::Unlink, 84, 40),
    both("unlinkat", Action::UnlinkAt, 263, 301),
    both("chmod", Action::Chmod, 90, 15),
    both("fchmod", Action::ChmodDescriptor, 91, 94),
    both("fchmodat", Action::ChmodAt, 268, 306),
    both("fchmodat2", Action::ChmodAt, 452, 452),
    both("chdir", Action::Chdir, 80, 12),
    both("fchdir", Action::Chdir, 81, 133),
    both("connect", Action::Connect, 42, 362),
    both("listen", Action::Listen, 50, 363),
    Syscall {
        name: "accept",
        action: Action::Accept,
        native: Some(43),
        compat: None,
        x32: None,
    },
    both("accept4", Action::Accept, 288, 364),
    both("sendto", Action::SendTo, 44, 369),
    Syscall {
        name: "sendmsg",
        action: Action::SendMsg,
        native: Some(46),
        compat: Some(370),
        x32: Some(518),
    },
    Syscall {
        name: "sendmmsg",
        action: Action::SendMmsg,
        native: Some(307),
        compat: Some(345),
        x32: Some(538),
    },
];

/// The table for the programs, without what is left out on purpose.
#[must_use]
pub fn table(left_out: &[Action]) -> SyscallTable {
    let mut table = SyscallTable::EMPTY;
    for syscall in SYSCALLS.iter().filter(|syscall| !left_out.contains(&syscall.action)) {
        for number in [syscall.native, syscall.x32].into_iter().flatten() {
            table.native(usize::from(number), syscall.action);
        }
        if let Some(number) = syscall.compat {
            table.compat(usize::from(number), syscall.action);
        }
    }
    table
}

/// Name of a system call that is looked at, by its number in the caller's ABI.
#[must_use]
pub fn name(number: u32, compat: bool) -> Option<&'static str> {
    let is = |candidate: Option<u16>| candidate.is_some_and(|candidate| u32::from(candidate) == number);
    SYSCALLS
        .iter()
        .find(|syscall| {
            if compat {
                is(syscall.compat)
            } else {
                is(syscall.native) || is(syscall.x32)
            }
        })
        .map(|syscall| syscall.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_number() {
        assert_eq!(name(257, false), Some("openat"));
        assert_eq!(name(295, true), Some("openat"));
        assert_eq!(name(518, false), Some("sendmsg"));
        assert_eq!(name(0, false), None);
    }
}
