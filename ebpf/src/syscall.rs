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
    /// `bind(socket, address, length)`.
    Bind = 11,
    /// `listen(socket, backlog)`.
    Listen = 12,
    /// `accept(socket, …)`.
    Accept = 13,
    /// `sendto(socket, buffer, length, flags, address, length)`.
    SendTo = 14,
    /// `sendmsg(socket, message, flags)`.
    SendMsg = 15,
    /// `sendmmsg(socket, messages, count, flags)`.
    SendMmsg = 16,
    /// `write(descriptor, buffer, length)`, to port 53.
    Write = 17,
    /// `writev(descriptor, vectors, count)`, to port 53.
    WriteVector = 18,
    /// `recvfrom(socket, buffer, length, flags, address, length)`, from port 53.
    ReceiveFrom = 19,
    /// `recvmsg(socket, message, flags)`, from port 53.
    ReceiveMsg = 20,
    /// `read(descriptor, buffer, length)`, from port 53.
    Read = 21,
    /// `socketcall(call, arguments)` of 32-bit callers.
    SocketCall = 22,
    /// `recvmmsg(socket, messages, count, flags, timeout)`, from port 53.
    ReceiveMmsg = 23,
    /// `readv(descriptor, vectors, count)`, from port 53.
    ReadVector = 24,
    /// Whatever else: by its [`crate::Shape`]. The numbers from here on are shapes, not programs.
    Call = 32,
}

impl Action {
    /// One more than the highest number of a program.
    pub const COUNT: u32 = 33;
}

/// Shapes that can be told apart.
pub const SHAPES_MAX: usize = 128;

/// For each system call number, what is done for native callers and for 32-bit ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SyscallTable {
    /// Low byte: [`Action`] for native callers, or [`Action::Call`] and the shape added; next byte: for 32-bit callers.
    pub actions: [u32; SYSCALLS_MAX],
}

/// Opcodes of io_uring that can be told apart; a power of two.
pub const URING_OPCODES_MAX: usize = 128;

/// For each opcode of io_uring, the number of the native call that does the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UringTable {
    /// 0: not looked at. The number of `io_uring_enter`: recorded as a call of that, whose first argument is the opcode,
    /// whose second is the descriptor, and whose third is 1 when that is a place in the ring's own table.
    pub calls: [u16; URING_OPCODES_MAX],
}

impl UringTable {
    /// A table that looks at nothing.
    pub const EMPTY: Self = Self {
        calls: [0; URING_OPCODES_MAX],
    };
}

/// Shapes by their number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ShapeTable {
    /// The shape of each number.
    pub shapes: [crate::Shape; SHAPES_MAX],
}

impl ShapeTable {
    /// A table without shapes.
    pub const EMPTY: Self = Self {
        shapes: [crate::Shape::PLAIN; SHAPES_MAX],
    };
}

impl SyscallTable {
    /// Bit of [`Self::actions`]: a native call whose path is its second argument, relative to the directory in the first.
    /// The next bit says the same of the 32-bit call.
    pub const AT: u32 = 1 << 16;
    /// Bit of [`Self::actions`]: a native call that takes no path. The next bit says the same of the 32-bit call.
    pub const HANDLE: u32 = 1 << 18;

    /// Bit of [`Self::actions`]: a native call that submits to io_uring. The next bit says the same of the 32-bit call.
    pub const IO_URING: u32 = 1 << 20;

    /// A table that looks at nothing.
    pub const EMPTY: Self = Self {
        actions: [0; SYSCALLS_MAX],
    };

    /// Does `action` (a number as in [`Self::actions`]) for native callers of `number`.
    pub fn native(&mut self, number: usize, action: u8) {
        self.actions[number] = (self.actions[number] & !0xff) | u32::from(action);
    }

    /// Does `action` for 32-bit callers of `number`.
    pub fn compat(&mut self, number: usize, action: u8) {
        self.actions[number] = (self.actions[number] & !0xff00) | (u32::from(action) << 8);
    }
}
