//! The event ABI: what the BPF programs write and the agent reads, described by its types.
//!
//! A record is a [`Header`], a body that depends on [`Header::kind`], and variable data that the body's [`Span`]s point
//! into. Everything derives zerocopy's traits: padding fails to compile, so layouts cannot drift, kernel memory cannot
//! leak through a gap, and user space decodes without `unsafe`.
//!
//! Invariant: no kernel layout is written down here. Offsets of kernel structs are resolved from the running kernel's
//! BTF and handed to the programs as one [`Offsets`].
#![no_std]
#![forbid(unsafe_code)]

mod call;
mod offsets;
mod record;
mod syscall;

pub use call::{Shape, TEXT_BYTES_MAX, Wanted};
pub use offsets::{ABSENT, MEMBERS, Member, Offsets};
pub use record::{
    COMM_BYTES, Call, Chdir, Ended, Ends, Exec, Exit, Fork, Header, Ids, Kind, Loss, Open, PathChange, Resolved, Ring,
    Socket, Span, Stdio, exec_flags, file_mode, flags, open_layer,
};
pub use syscall::{Action, SHAPES_MAX, SYSCALLS_MAX, ShapeTable, SyscallTable, URING_OPCODES_MAX, UringTable};

/// Most bytes of arguments that an exec record carries; the rest is cut and told by [`flags::ARGS_CUT`].
pub const ARGS_BYTES_MAX: usize = 8191;
/// Most bytes of one environment variable that an exec record carries, its terminating NUL included.
pub const ENV_VALUE_BYTES_MAX: usize = 1024;
/// Most bytes of selected environment in an exec record.
pub const ENV_BYTES_MAX: usize = 4096;
/// Most environment variables that are looked at in one exec; more are told by [`flags::ENV_CUT`].
pub const ENV_SCANNED_MAX: u32 = 128;
/// How many names of environment variables can be allow-listed.
pub const ENV_NAMES_MAX: usize = 64;
/// How many of them may begin with the same four bytes.
pub const ENV_NAMES_ALIKE_MAX: usize = 4;
/// Most components of a path that are walked; a deeper path is told by [`flags::PATH_CUT`].
///
/// 64 because the verifiers of 5.10 and 6.1 give up at 96 and more.
pub const PATH_COMPONENTS_MAX: u32 = 64;
/// Most bytes of a walked path.
pub const PATH_BYTES_MAX: u32 = 4096;
/// Most bytes of a path that a process passed to a system call, its terminating NUL included.
pub const NAME_BYTES_MAX: usize = 4096;
/// Most bytes of a datagram that are carried, enough for a DNS question.
pub const PAYLOAD_BYTES_MAX: usize = 512;
/// How long an equal open by the same process image is counted instead of reported, in nanoseconds.
pub const DEDUPE_NS: u64 = 1_000_000_000;

/// How many accesses an open can have: to read, to write, created, failed.
pub const OPEN_ACCESSES: u32 = 16;
/// Elements of the map `OPEN_WANTED`: one of [`open_demand`] for each access, 1 in the next while they hold, and in the last
/// one of [`open_demand`] for opens that fail for another reason than that they are not allowed.
pub const OPEN_DEMAND: u32 = OPEN_ACCESSES + 2;
/// Most names that make a path wanted.
pub const WANTED_NAMES_MAX: u32 = 2048;
/// Bytes of a name that are compared, a NUL included.
pub const NAME_KEY_BYTES: usize = 16;

/// Which opens of an access are wanted.
pub mod open_demand {
    /// None.
    pub const NONE: u32 = 0;
    /// Those whose path has one of the names.
    pub const NAMES: u32 = 1;
    /// All of them.
    pub const ALL: u32 = 2;
}

/// The key of a name in the map `WANTED_NAMES`: its first bytes, filled up with NULs.
#[must_use]
pub fn name_key(name: &[u8]) -> [u8; NAME_KEY_BYTES] {
    let mut key = [0; NAME_KEY_BYTES];
    for (to, from) in key.iter_mut().zip(name).take(NAME_KEY_BYTES - 1) {
        *to = *from;
    }
    key
}

/// A name of an environment variable that may leave the kernel, its `=` included, as up to three words to compare.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
pub struct EnvName {
    /// The first 24 bytes of `NAME=`, native byte order; zero where `mask` is zero.
    pub value: [u64; 3],
    /// Which of those bytes count.
    pub mask: [u64; 3],
}

impl EnvName {
    /// A name that nothing matches; fills unused places.
    pub const NONE: Self = Self {
        value: [u64::MAX; 3],
        mask: [u64::MAX; 3],
    };

    /// The words for `name`, without its `=`. A name longer than 23 bytes is compared by its first 24.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut value = [0_u8; 24];
        let mut mask = [0_u8; 24];
        for (index, byte) in name.bytes().chain([b'=']).take(24).enumerate() {
            value[index] = byte;
            mask[index] = 0xff;
        }
        let words = |bytes: [u8; 24]| {
            let mut words = [0_u64; 3];
            for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_ne_bytes(*chunk);
            }
            words
        };
        Self {
            value: words(value),
            mask: words(mask),
        }
    }
}

/// What the agent tells the programs before they are loaded. Frozen, so that the verifier treats it as constant.
#[repr(C)]
#[derive(Clone, Copy, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
pub struct Settings {
    /// 1 when only processes in the map `SCOPE` are reported.
    pub scoped: u32,
    /// 1 when the kernel has `bpf_get_current_task_btf` (5.11).
    pub task_pointers: u32,
    /// 1 when the kernel has `bpf_task_pt_regs` (5.15).
    pub task_registers: u32,
    /// 1 when the programs on LSM hooks are attached: then io_uring's opens are reported there.
    pub lsm: u32,
    /// These programs report only while the map `AGENT` holds the same number: so the next agent's programs take over
    /// from the last one's in one step.
    pub generation: u32,
    /// 1 when the programs on `sock_send_length` and `sock_recv_length` are attached: then the ends of `write`, `writev`
    /// and `read` need not be looked at.
    pub socket_lengths: u32,
    /// Which argument of its tracepoint is io_uring's request.
    pub request_argument: u32,
    /// Nanoseconds of a tick of the kernel; 0 where the programs cannot have the number of ticks, or it is unknown.
    pub tick_ns: u32,
}
