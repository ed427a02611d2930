//! The BPF programs. One file per kernel subsystem; an entry point is three lines, and each failure has a counter.
//!
//! Two programs hang on the ends of a process's life, and one on the end of every system call ([`sys_exit`]), which
//! looks the number up in a frozen table and tail-calls the program that knows the call. Paths and addresses are read
//! from what the kernel resolved, not from what the process passed, wherever the kernel still has it.
//!
//! The file is compiled for the host too, where it does nothing, so that the ordinary lints see it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macros make public functions of the entry points, with no room for documentation"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "registers and helper results are cut to the width that the kernel gives them; checks cost instructions"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros pass the context by value"
)]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "the place of a member and the access to it are one act, proved by one sentence"
)]

mod demand;
mod emit;
mod file;
mod kernel;
mod object;
mod path;
mod process;
mod resolved;
mod shaped;
mod socket;
mod uring;

use aya_ebpf::{
    EbpfContext as _,
    macros::{btf_tracepoint, lsm, map, tracepoint},
    maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf},
    programs::{BtfTracePointContext, LsmContext, TracePointContext},
};
use core::ptr::read_volatile;
use kernel::{Call, Task};
use staghound_ebpf::{Action, Loss, Offsets, SYSCALLS_MAX, Settings, ShapeTable, UringTable};

/// Where kernel struct members are; set by the agent before loading, then frozen.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::NONE;

/// What the agent wants; set before loading, then frozen.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    scoped: 0,
    task_pointers: 0,
    task_registers: 0,
    lsm: 0,
    generation: 0,
    socket_lengths: 0,
    request_argument: 0,
    tick_ns: 0,
};

/// How calls without a program of their own are recorded; set before loading, then frozen.
#[unsafe(no_mangle)]
static SHAPES: ShapeTable = ShapeTable::EMPTY;

/// What each opcode of io_uring stands for; set before loading, then frozen.
#[unsafe(no_mangle)]
static URING: UringTable = UringTable::EMPTY;

/// Which system calls are looked at, as in [`SyscallTable`]; the agent may change it at any time.
#[map]
static SYSCALLS: Array<u32> = Array::with_max_entries(SYSCALLS_MAX as u32, 0);

/// Element 0: thread group of the agent, whose own files and sockets are not reported. Element 1: the generation of the
/// programs that report.
#[map]
static AGENT: Array<u32> = Array::with_max_entries(2, 0);

/// Process and network records.
#[map]
static PROCESS_RING: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// File records.
#[map]
static FILE_RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Losses, by [`Loss`].
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Element 0 is 1 while the agent sleeps until woken; whoever finds it so clears it and wakes the agent.
#[map]
static SLEEPING: Array<u32> = Array::with_max_entries(1, 0);

/// Thread groups in scope, when the agent watches one process tree only. Not preallocated: most agents watch all.
#[map]
static SCOPE: HashMap<u32, u32> = HashMap::with_max_entries(65_536, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// The program for each [`Action`].
#[map]
static ACTIONS: ProgramArray = ProgramArray::with_max_entries(Action::COUNT, 0);

/// The same for the programs on perf's tracepoint, which cannot call those of the other kind.
#[map]
static ACTIONS_PERF: ProgramArray = ProgramArray::with_max_entries(Action::COUNT, 0);

/// Reads what the agent set before loading. To the verifier it is a constant; the compiler must not take it for one.
#[inline(always)]
fn constant<T: Copy>(at: &'static T) -> T {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(at) }
}

/// Offset of a kernel struct member.
#[macro_export]
macro_rules! offset {
    ($field:ident) => {
        $crate::constant(&$crate::OFFSETS.$field) as usize
    };
}

/// Whether the agent asked for processes like this one.
#[inline(always)]
fn wanted(pid: u32) -> bool {
    pid != agent(0) && in_scope(pid)
}

/// What the agent says of itself, by element of `AGENT`.
#[inline(always)]
fn agent(element: u32) -> u32 {
    // SAFETY: a valid map value.
    AGENT
        .get_ptr(element)
        .map_or(0, |value| unsafe { read_volatile(value) })
}

/// Whether this object's programs are those that report: others may be about to be replaced, or to replace them.
#[inline(always)]
fn is_current() -> bool {
    agent(1) == constant(&SETTINGS.generation)
}

#[inline(always)]
fn in_scope(pid: u32) -> bool {
    is_current() && (constant(&SETTINGS.scoped) == 0 || SCOPE.get_ptr(pid).is_some())
}

/// Whether a call failed for another reason than that it was not allowed.
#[inline(always)]
fn is_mere_failure(result: i64) -> bool {
    const EPERM: i64 = -1;
    const EACCES: i64 = -13;
    result < 0 && result != EPERM && result != EACCES
}

/// The program for a call that has ended, by its place in `ACTIONS`; none for most. Written to cost as little as possible
/// where nobody looks.
#[inline(always)]
fn program_for(number: u64, result: i64) -> Option<u32> {
    let number = number & !kernel::X32_BIT;
    if number >= SYSCALLS_MAX as u64 {
        return None;
    }
    // SAFETY: a valid map value.
    let actions = SYSCALLS
        .get_ptr(number as u32)
        .map_or(0, |actions| unsafe { read_volatile(actions) })
        & 0xffff;
    if actions == 0 {
        return None;
    }
    let task = Task::current();
    let action = if task.is_compat() { actions >> 8 } else { actions & 0xff };
    if action == 0 {
        return None;
    }
    // Of opens that fail, those that were not allowed count; a search through directories makes too many of the others.
    if action == Action::Open as u32 && is_mere_failure(result) && !demand::wants_failures() {
        return None;
    }
    if constant(&SETTINGS.socket_lengths) != 0
        && (action == Action::Write as u32
            || action == Action::WriteVector as u32
            || action == Action::Read as u32
            || action == Action::ReadVector as u32)
    {
        return None;
    }
    if !wanted(task.pid()) {
        return None;
    }
    Some(if action > Action::Call as u32 {
        Action::Call as u32
    } else {
        action
    })
}

/// The end of every system call of the host.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let regs: *const u8 = ctx.arg(0);
    // SAFETY: `regs` is the tracepoint's `struct pt_regs *`.
    let number = unsafe { kernel::load::<u64>(regs, offset!(regs_number)) };
    if let Some(program) = program_for(number, ctx.arg(1)) {
        // SAFETY: ends this program; nothing here needs dropping.
        unsafe { ACTIONS.tail_call(&ctx, program) };
        emit::count(Loss::ProgramMissing);
    }
    0
}

/// The same on perf's tracepoint, for kernels that preempt programs of the other kind and then skip them elsewhere.
#[tracepoint]
pub fn sys_exit_perf(ctx: TracePointContext) -> u32 {
    if let Some(program) = program_for(perf_number(&ctx), perf_result(&ctx)) {
        // SAFETY: ends this program; nothing here needs dropping.
        unsafe { ACTIONS_PERF.tail_call(&ctx, program) };
        emit::count(Loss::ProgramMissing);
    }
    0
}

/// Number of the call that has ended (`raw_syscalls/sys_exit/format`: eight bytes common to all, number, result).
#[inline(always)]
fn perf_number(ctx: &TracePointContext) -> u64 {
    // SAFETY: the context has at least 24 bytes, and the verifier checks the access.
    unsafe { read_volatile(ctx.as_ptr().cast::<u64>().add(1)) }
}

/// What it returned.
#[inline(always)]
fn perf_result(ctx: &TracePointContext) -> i64 {
    // SAFETY: as above.
    unsafe { read_volatile(ctx.as_ptr().cast::<i64>().add(2)) }
}

/// Programs behind the end of calls, each in both kinds.
macro_rules! at_end_of_call {
    ($($(#[$doc:meta])* $name:ident, $perf:ident: $body:path;)*) => {$(
        $(#[$doc])*
        #[btf_tracepoint(function = "sys_exit")]
        #[inline(always)] // a call costs 32 bytes of stack, and older kernels round up
        pub fn $name(ctx: BtfTracePointContext) -> i32 {
            emit::finish(&ctx, $body(&Call::at_exit(&ctx)))
        }

        $(#[$doc])*
        #[tracepoint]
        #[inline(always)]
        pub fn $perf(ctx: TracePointContext) -> u32 {
            emit::finish(&ctx, $body(&Call::of_current(perf_result(&ctx)))) as u32
        }
    )*};
}

at_end_of_call! {
    /// Reports the file that the call opened, or was not allowed to open.
    file_open, file_open_perf: file::open;
    /// Reports a rename.
    file_rename, file_rename_perf: file::rename;
    /// Reports a removed name.
    file_unlink, file_unlink_perf: file::unlink;
    /// Reports a changed mode.
    file_chmod, file_chmod_perf: file::chmod;
    /// Reports a changed working directory.
    process_chdir, process_chdir_perf: file::chdir;
    /// Reports a connected, bound, listening or accepted socket.
    socket_state, socket_state_perf: socket::state;
    /// Reports what is sent.
    socket_send, socket_send_perf: socket::send;
    /// Reports what DNS answers.
    socket_receive, socket_receive_perf: socket::receive;
    /// Reports any other call, by its shape.
    call, call_perf: shaped::record;
}

/// Reports what reaches a socket by calls that are not those of sockets.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_length(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, socket::sent_otherwise(&ctx))
}

/// Reports what is read from a socket, likewise.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn socket_received(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, socket::received_otherwise(&ctx))
}

/// Reports connections that no call shows, and the ends of connections.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn socket_change(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, socket::change(&ctx))
}

/// Reports what io_uring is asked for.
#[btf_tracepoint(function = "io_uring_submit_req")]
pub fn io_submit(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, uring::submitted(&ctx))
}

/// Reports what io_uring opens.
#[lsm(hook = "file_open")]
pub fn lsm_file_open(ctx: LsmContext) -> i32 {
    emit::alone(|at| resolved::open(at, ctx.arg(0)))
}

/// Programs on LSM hooks that tell what paths lead to: an entry of a directory, two, or a path.
macro_rules! before_the_kernel_acts {
    ($($(#[$doc:meta])* $name:ident on $hook:literal: |$ctx:ident| $first:expr $(, $second:expr)?;)*) => {$(
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name($ctx: LsmContext) -> i32 {
            emit::alone(|at| resolved::report(at, $first, before_the_kernel_acts!(@second $($second)?)))
        }
    )*};
    (@second $second:expr) => { Some($second) };
    (@second) => { None };
}

before_the_kernel_acts! {
    /// What is about to be removed.
    lsm_path_unlink on "path_unlink": |ctx| resolved::entry(ctx.arg(0), ctx.arg(1));
    /// Which directory is about to be removed.
    lsm_path_rmdir on "path_rmdir": |ctx| resolved::entry(ctx.arg(0), ctx.arg(1));
    /// Which directory is about to be made.
    lsm_path_mkdir on "path_mkdir": |ctx| resolved::entry(ctx.arg(0), ctx.arg(1));
    /// Which file is about to be made.
    lsm_path_mknod on "path_mknod": |ctx| resolved::entry(ctx.arg(0), ctx.arg(1));
    /// Which symbolic link is about to be made.
    lsm_path_symlink on "path_symlink": |ctx| resolved::entry(ctx.arg(0), ctx.arg(1));
    /// What is about to get another name, and which.
    lsm_path_link on "path_link": |ctx| resolved::entry(ctx.arg(1), ctx.arg(0)), resolved::entry(ctx.arg(1), ctx.arg(2));
    /// What is about to be renamed, and to what.
    lsm_path_rename on "path_rename": |ctx| resolved::entry(ctx.arg(0), ctx.arg(1)), resolved::entry(ctx.arg(2), ctx.arg(3));
    /// What is about to be truncated.
    lsm_path_truncate on "path_truncate": |ctx| resolved::place(ctx.arg(0));
    /// What is about to get another mode.
    lsm_path_chmod on "path_chmod": |ctx| resolved::place(ctx.arg(0));
    /// What is about to get another owner.
    lsm_path_chown on "path_chown": |ctx| resolved::place(ctx.arg(0));
    /// What is about to become a root directory.
    lsm_path_chroot on "path_chroot": |ctx| resolved::place(ctx.arg(0));
}

/// Refuses to stop, kill or trace the agent; only attached where the configuration asks for it.
#[lsm(hook = "task_kill")]
pub fn lsm_guard_kill(ctx: LsmContext) -> i32 {
    process::refuse_signal(&ctx)
}

/// Refuses to trace the agent, likewise.
#[lsm(hook = "ptrace_access_check")]
pub fn lsm_guard_ptrace(ctx: LsmContext) -> i32 {
    process::refuse_trace(&ctx)
}

/// Reports a new process image.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, process::exec(&ctx))
}

/// Reports a new process, and takes it into the scope of its maker.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, process::fork(&ctx))
}

/// Reports the end of a process, and takes it out of the scope.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, process::exit(&ctx))
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
