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

mod emit;
mod file;
mod kernel;
mod path;
mod process;
mod socket;

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf},
    programs::BtfTracePointContext,
};
use core::ptr::read_volatile;
use kernel::{Call, Task};
use staghound_ebpf::{Action, Loss, Offsets, SYSCALLS_MAX, Settings, ShapeTable};

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
    reserved: 0,
};

/// How calls without a program of their own are recorded; set before loading, then frozen.
#[unsafe(no_mangle)]
static SHAPES: ShapeTable = ShapeTable::EMPTY;

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
    pid != agent_pid() && in_scope(pid)
}

/// Thread group of the agent.
#[inline(always)]
fn agent_pid() -> u32 {
    // SAFETY: a valid map value.
    AGENT.get_ptr(0).map_or(0, |pid| unsafe { read_volatile(pid) })
}

#[inline(always)]
fn in_scope(pid: u32) -> bool {
    constant(&SETTINGS.scoped) == 0 || SCOPE.get_ptr(pid).is_some()
}

/// The end of every system call of the host: written to cost as little as possible where nobody looks.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let regs: *const u8 = ctx.arg(0);
    // SAFETY: `regs` is the tracepoint's `struct pt_regs *`.
    let number = unsafe { kernel::load::<u64>(regs, offset!(regs_number)) } & !kernel::X32_BIT;
    if number >= SYSCALLS_MAX as u64 {
        return 0;
    }
    let Some(actions) = SYSCALLS.get_ptr(number as u32) else {
        return 0;
    };
    // SAFETY: a valid map value.
    let actions = unsafe { read_volatile(actions) };
    if actions == 0 {
        return 0;
    }
    let task = Task::current();
    let action = (if task.is_compat() { actions >> 8 } else { actions }) & 0xff;
    if action == 0 || !wanted(task.pid()) {
        return 0;
    }
    // A failed open has no file to tell of.
    if action == Action::Open as u32 && ctx.arg::<i64>(1) < 0 {
        return 0;
    }
    let program = if action > Action::Call as u32 {
        Action::Call as u32
    } else {
        action
    };
    // SAFETY: ends this program; nothing here needs dropping.
    unsafe { ACTIONS.tail_call(&ctx, program) };
    emit::count(Loss::ProgramMissing);
    0
}

/// Reports the file that the call opened.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_open(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, file::open(&Call::at_exit(&ctx)))
}

/// Reports a rename.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_rename(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, file::rename(&Call::at_exit(&ctx)))
}

/// Reports a removed name.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_unlink(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, file::unlink(&Call::at_exit(&ctx)))
}

/// Reports a changed mode.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_chmod(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, file::chmod(&Call::at_exit(&ctx)))
}

/// Reports a changed working directory.
#[btf_tracepoint(function = "sys_exit")]
pub fn process_chdir(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, file::chdir(&Call::at_exit(&ctx)))
}

/// Reports a connected, listening or accepted socket.
#[btf_tracepoint(function = "sys_exit")]
pub fn socket_state(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, socket::state(&Call::at_exit(&ctx)))
}

/// Reports datagrams to port 53.
#[btf_tracepoint(function = "sys_exit")]
pub fn socket_send(ctx: BtfTracePointContext) -> i32 {
    emit::finish(&ctx, socket::send(&Call::at_exit(&ctx)))
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

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs use the helpers these need; Apache-2.0 text, dual-licensed for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
