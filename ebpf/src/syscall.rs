//! Which system calls are looked at, and as what.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// System call numbers that can be looked at; a power of two, so that the programs can mask.
pub const SYSCALLS_MAX: usize = 1024;

/// What the programs do at the end of a system call.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None = 0,
    /// Report the file behind the returned descriptor.
    Open = 1,
    /// `rename(old, new)`.
    Rename = 2,
    /// `renameat(dir, old, dir, new, flags)`.
    RenameAt = 3,
    /// `unlink(name)`, `rmdir(name)`.
    Unlink = 4,
    /// `unlinkat(dir, name, flags)`.
    UnlinkAt = 5,
    /// `chmod(name, mode)`.
    Chmod = 6,
    /// `fchmod(descriptor, mode)`.
    ChmodDescriptor = 7,
    /// `fchmodat(dir, name, mode)`.
    ChmodAt = 8,
    /// `chdir(name)`, `fchdir(descriptor)`.
    Chdir = 9,
    /// `connect(socket, address, length)`.
    Connect = 10,
    /// `listen(socket, backlog)`.
    Listen = 11,
    /// `accept(socket, …)`.
    Accept = 12,
    /// `sendto(socket, buffer, length, flags, address, length)`.
    SendTo = 13,
    /// `sendmsg(socket, message, flags)`.
    SendMsg = 14,
    /// `sendmmsg(socket, messages, count, flags)`.
    SendMmsg = 15,
}

impl Action {
    /// One more than the highest number.
    pub const COUNT: u32 = 16;
}

/// For each system call number, what is done for native callers and for 32-bit ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SyscallTable {
    /// Low byte: [`Action`] for native callers; high byte: for 32-bit callers.
    pub actions: [u16; SYSCALLS_MAX],
}

impl SyscallTable {
    /// A table that looks at nothing.
    pub const EMPTY: Self = Self {
        actions: [0; SYSCALLS_MAX],
    };

    /// Does `action` for native callers of `number`.
    pub fn native(&mut self, number: usize, action: Action) {
        self.actions[number] = (self.actions[number] & 0xff00) | action as u16;
    }

    /// Does `action` for 32-bit callers of `number`.
    pub fn compat(&mut self, number: usize, action: Action) {
        self.actions[number] = (self.actions[number] & 0x00ff) | ((action as u16) << 8);
    }
}
