//! Programs to measure hooks with: empty ones show what a hook costs whatever hangs on it, counting ones show how many
//! events a hook delivers. `cargo xtask bench` loads them by the tool `floor` (package `staghound-tests`); the agent
//! never does.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macros make public functions of the entry points, with no room for documentation"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros pass the context by value"
)]

mod object;

use aya_ebpf::{
    helpers::{bpf_get_current_uid_gid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, fentry, fexit, lsm, map, tracepoint},
    maps::PerCpuArray,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, LsmContext, TracePointContext},
};
use core::ptr::read_volatile;

/// Most rounds of work per event.
const WORK_MAX: u32 = 64;
/// Where the return value is in a record of raw_syscalls:sys_exit and syscalls:sys_exit_*; both are ABI
/// (/sys/kernel/tracing/events/…/format).
const TRACEPOINT_RESULT_AT: usize = 16;
/// do_sys_openat2(dfd, filename, how): its result follows its three arguments.
const OPENAT2_ARGUMENTS: usize = 3;
/// No call that succeeded returns less than this but for those that open nothing: 0 to 2 are taken in every process.
const DESCRIPTOR_LEAST: i64 = 3;

/// The user whose events are counted; set before loading, then frozen.
#[unsafe(no_mangle)]
static USER: u32 = 0;

/// How often the clock is read for each counted event, so that the program takes time as a real one does.
#[unsafe(no_mangle)]
static WORK: u32 = 0;

/// The counted events.
#[map]
static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Reads what the loader set. To the verifier it is a constant; the compiler must not take it for one.
#[inline(always)]
fn constant(at: &'static u32) -> u32 {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(at) }
}

/// Counts one event of the user, after a program's worth of work.
#[inline(always)]
fn count() {
    let (user, work) = (constant(&USER), constant(&WORK));
    if bpf_get_current_uid_gid() & 0xffff_ffff != u64::from(user) {
        return;
    }
    for round in 0..WORK_MAX {
        if round >= work {
            break;
        }
        // SAFETY: takes no arguments.
        unsafe { bpf_ktime_get_ns() };
    }
    let Some(events) = EVENTS.get_ptr_mut(0) else { return };
    // Where the kernel may preempt the program between these two, a count can be lost: a few instructions of a time slice
    // of milliseconds.
    // SAFETY: a valid map value of this processor.
    unsafe { *events += 1 };
}

#[btf_tracepoint(function = "sys_exit")]
pub fn count_btf(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i64>(1) >= DESCRIPTOR_LEAST {
        count();
    }
    0
}

#[tracepoint]
pub fn count_perf(ctx: TracePointContext) -> u32 {
    count_result(&ctx)
}

#[tracepoint]
pub fn count_openat(ctx: TracePointContext) -> u32 {
    count_result(&ctx)
}

#[inline(always)]
fn count_result(ctx: &TracePointContext) -> u32 {
    // SAFETY: both tracepoints have a 64-bit result there.
    if unsafe { ctx.read_at::<i64>(TRACEPOINT_RESULT_AT) }.is_ok_and(|result| result >= DESCRIPTOR_LEAST) {
        count();
    }
    0
}

#[fentry(function = "do_sys_openat2")]
pub fn count_fentry(_ctx: FEntryContext) -> i32 {
    count();
    0
}

#[fexit(function = "do_sys_openat2")]
pub fn count_fexit(ctx: FExitContext) -> i32 {
    if ctx.arg::<i64>(OPENAT2_ARGUMENTS) >= DESCRIPTOR_LEAST {
        count();
    }
    0
}

#[lsm(hook = "file_open")]
pub fn count_lsm(_ctx: LsmContext) -> i32 {
    count();
    0
}

#[btf_tracepoint]
pub fn count_any_btf(_ctx: BtfTracePointContext) -> i32 {
    count();
    0
}

#[tracepoint]
pub fn count_any_perf(_ctx: TracePointContext) -> u32 {
    count();
    0
}

#[btf_tracepoint]
pub fn empty_btf(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[tracepoint]
pub fn empty_perf(_ctx: TracePointContext) -> u32 {
    0
}

#[lsm(hook = "file_open")]
pub fn empty_lsm(_ctx: LsmContext) -> i32 {
    0
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
