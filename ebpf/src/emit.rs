//! Writes records: scratch memory, rings, counters.

use crate::{FILE_RING, LOSSES, PROCESS_RING, SLEEPING, kernel};
use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_probe_read_user_str, bpf_ringbuf_output},
    macros::map,
    maps::PerCpuArray,
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::{read_volatile, write_volatile},
};
use staghound_ebpf::{Header, Kind, Loss, Ring, Span, flags};

/// Variable data starts at most here; a power of two, so that the verifier follows the mask.
const DATA_MAX: u32 = 16 * 1024;
/// One read writes at most this much, so that no read passes the end of the scratch memory.
const READ_MAX: u32 = 8 * 1024;
/// Header and body are shorter than this; a power of two.
const FIXED_MAX: usize = 512;
const SCRATCH_BYTES: usize = FIXED_MAX + (DATA_MAX + READ_MAX) as usize;

/// Where a record is put together; per CPU.
#[repr(C, align(8))]
pub(crate) struct Scratch {
    record: [u8; SCRATCH_BYTES],
    /// Bytes of variable data. Kept here and not in a register, so that the verifier knows as little of it after one
    /// turn of a loop as after sixty: otherwise every turn is a new state to it, and it gives up.
    used: u32,
    /// Where the part that is being written begins; kept here for the same reason.
    mark: u32,
    /// 1 while an LSM program uses it.
    busy: u32,
    reserved: u32,
    /// See [`Buffer::number`].
    number: u64,
}

/// Who puts a record together where: no two of these may be under way on one processor with the same memory.
pub(crate) mod place {
    /// The programs behind `sys_exit`, of which one at a time runs on a CPU.
    pub(crate) const SYSCALL: u32 = 0;
    /// `process_exec`, which may run inside a system call but never inside the programs of its end.
    pub(crate) const EXEC: u32 = 1;
    /// What io_uring submits, which happens inside a call.
    pub(crate) const REQUEST: u32 = 2;
    /// What reaches sockets, which happens inside a call.
    pub(crate) const SOCKET: u32 = 3;
    /// LSM programs, from here on. See [`super::alone`].
    pub(super) const RESOLVED: u32 = 4;
}

/// LSM programs that may be under way on one processor: the kernel may preempt one for another, and does not keep the
/// same one from running again meanwhile.
const NESTED_MAX: u32 = 4;

/// By [`place`].
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(place::RESOLVED + NESTED_MAX, 0);

/// Runs an LSM program's body with memory that no other on this processor uses; counts a loss if all is in use.
#[inline(always)]
pub(crate) fn alone(body: impl FnOnce(u32) -> Result<(), Loss>) -> i32 {
    let mut free = u32::MAX;
    for place in place::RESOLVED..place::RESOLVED + NESTED_MAX {
        if let Some(scratch) = SCRATCH.get_ptr_mut(place)
            // SAFETY: a valid per-CPU value.
            && unsafe { read_volatile(&raw const (*scratch).busy) } == 0
        {
            free = place;
        }
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(free) else {
        count(Loss::ScratchBusy);
        return 0;
    };
    // SAFETY: a valid per-CPU value.
    let busy = unsafe { &raw mut (*scratch).busy };
    // SAFETY: as above.
    unsafe { write_volatile(busy, 1) };
    if let Err(loss) = body(free) {
        count(loss);
    }
    // SAFETY: as above.
    unsafe { write_volatile(busy, 0) };
    0
}

/// Counts one loss.
#[inline(always)]
pub(crate) fn count(loss: Loss) {
    if let Some(counter) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: a valid per-CPU value; a nested program can at worst undercount by one.
        unsafe { *counter += 1 };
    }
}

/// Ends a program: counts what went wrong, and says so to whoever debugs.
#[inline(always)]
pub(crate) fn finish(ctx: &impl EbpfContext, result: Result<(), Loss>) -> i32 {
    if let Err(loss) = result {
        count(loss);
        aya_log_ebpf::debug!(ctx, "no record: loss {}", loss as u32);
    }
    0
}

/// Scratch memory in which a record is being put together: header and body in front, variable data appended.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    scratch: *mut Scratch,
    place: u32,
    /// Bytes of header and body.
    fixed: u32,
}

impl Buffer {
    /// The memory of this [`place`], as it is, in a global function: the verifier knows nothing there of the arguments.
    #[inline(always)]
    pub(crate) fn at(place: u32, fixed: u32) -> Option<Self> {
        Some(Self {
            scratch: SCRATCH.get_ptr_mut(place)?,
            place,
            fixed: core::hint::black_box(fixed) & (FIXED_MAX as u32 - 1),
        })
    }

    /// A pointer as a number that global functions take: by way of memory, so that the verifier forgets what it points to.
    #[inline(always)]
    pub(crate) fn number(&self, pointer: u64) -> u64 {
        // SAFETY: a valid per-CPU value.
        let way = unsafe { &raw mut (*self.scratch).number };
        // SAFETY: as above.
        unsafe { write_volatile(way, pointer) };
        // SAFETY: as above.
        unsafe { read_volatile(way) }
    }

    #[inline(always)]
    pub(crate) fn place(&self) -> u32 {
        self.place
    }

    #[inline(always)]
    pub(crate) fn fixed(&self) -> u32 {
        self.fixed
    }

    #[inline(always)]
    pub(crate) fn header(&self) -> *mut Header {
        self.scratch.cast()
    }

    #[inline(always)]
    pub(crate) fn flag(&self, flag: u16) {
        // SAFETY: the header lies in the scratch memory.
        unsafe { (*self.header()).flags |= flag };
    }

    /// Bytes of variable data so far.
    #[inline(always)]
    pub(crate) fn used(&self) -> u32 {
        // SAFETY: a valid per-CPU value.
        unsafe { read_volatile(&raw const (*self.scratch).used) }
    }

    #[inline(always)]
    fn set_used(&self, used: u32) {
        // SAFETY: as above.
        unsafe { write_volatile(&raw mut (*self.scratch).used, used) };
    }

    /// Forgets the variable data, to send another record with the same header and body.
    #[inline(always)]
    pub(crate) fn restart(&self) {
        self.set_used(0);
    }

    /// Begins a part.
    #[inline(always)]
    pub(crate) fn begin(&self) {
        // SAFETY: a valid per-CPU value.
        unsafe { write_volatile(&raw mut (*self.scratch).mark, self.used()) };
    }

    /// Bytes of the part so far.
    #[inline(always)]
    pub(crate) fn part_len(&self) -> u32 {
        // SAFETY: as above.
        self.used()
            .wrapping_sub(unsafe { read_volatile(&raw const (*self.scratch).mark) })
    }

    /// Whether the part begins with this byte.
    #[inline(always)]
    pub(crate) fn part_begins_with(&self, byte: u8) -> bool {
        // SAFETY: a valid per-CPU value.
        let mark = unsafe { read_volatile(&raw const (*self.scratch).mark) };
        if mark >= DATA_MAX {
            return false;
        }
        // SAFETY: less than `DATA_MAX` beyond the fixed part.
        let first = unsafe { read_volatile(self.scratch.cast::<u8>().add(self.fixed as usize + mark as usize)) };
        first == byte
    }

    /// Appends a component that says: what is above this one is not carried.
    #[inline(always)]
    pub(crate) fn ellipsis(&self) {
        let Some(to) = self.next() else { return };
        // SAFETY: `to` has `READ_MAX` bytes behind it.
        unsafe { to.cast::<[u8; 4]>().write_unaligned(*b"...\0") };
        self.set_used(self.used() + 4);
    }

    /// Memory for a moment, where variable data will be: `READ_MAX` bytes.
    #[inline(always)]
    pub(crate) fn aside(&self) -> *mut u8 {
        // SAFETY: the fixed part is shorter than the scratch memory by more than that.
        unsafe { self.scratch.cast::<u8>().add(FIXED_MAX) }
    }

    /// Ends a part: where it lies.
    #[inline(always)]
    pub(crate) fn span(&self) -> Span {
        // SAFETY: a valid per-CPU value.
        let mark = unsafe { read_volatile(&raw const (*self.scratch).mark) };
        Span {
            offset: mark as u16,
            len: self.used().wrapping_sub(mark) as u16,
        }
    }

    /// Where the next byte goes, or none when the scratch memory is full.
    #[inline(always)]
    fn next(&self) -> Option<*mut u8> {
        let used = self.used();
        if used >= DATA_MAX {
            return None;
        }
        // SAFETY: less than `DATA_MAX` beyond the fixed part.
        Some(unsafe { self.scratch.cast::<u8>().add(self.fixed as usize + used as usize) })
    }

    /// Appends a NUL-terminated kernel string of at most `max` bytes, the NUL included; yields its bytes, 0 on a fault.
    #[inline(always)]
    pub(crate) fn kernel_string(&self, address: u64, max: u32) -> u32 {
        let Some(to) = self.next() else { return 0 };
        // SAFETY: `to` has `READ_MAX` bytes behind it, and `max` is a constant not above it.
        let read = unsafe { bpf_probe_read_kernel_str(to.cast(), max, address as *const _) };
        self.grown(read, max)
    }

    /// Appends a NUL-terminated user string, likewise.
    #[inline(always)]
    pub(crate) fn user_string(&self, address: u64, max: u32) -> u32 {
        let Some(to) = self.next() else { return 0 };
        // SAFETY: as above.
        let read = unsafe { bpf_probe_read_user_str(to.cast(), max, address as *const _) };
        if read == 0 {
            // Before 6.13 the helper counts no NUL of an empty string (mm/maccess.c).
            // SAFETY: as above.
            unsafe { to.write(0) };
            return self.grown(1, max);
        }
        self.grown(read, max)
    }

    #[inline(always)]
    fn grown(&self, read: i64, max: u32) -> u32 {
        if read <= 0 || read > i64::from(max) {
            return 0;
        }
        self.set_used(self.used() + read as u32);
        read as u32
    }

    /// Appends user memory, at most `MAX` bytes (one less than a power of two); false on a fault.
    #[inline(always)]
    pub(crate) fn user_bytes<const MAX: u32>(&self, address: u64, len: u64) -> bool {
        const { assert!((MAX + 1).is_power_of_two() && MAX < READ_MAX) };
        let Some(to) = self.next() else { return false };
        let len = if len > u64::from(MAX) {
            MAX
        } else {
            core::hint::black_box(len as u32) & MAX
        };
        // SAFETY: `len` is at most `MAX`, and `to` has `READ_MAX` bytes behind it.
        if unsafe { bpf_probe_read_user(to.cast(), len, address as *const _) } < 0 {
            return false;
        }
        self.set_used(self.used() + len);
        true
    }
}

/// A record with a body of this type.
pub(crate) struct Record<B> {
    buffer: Buffer,
    body: PhantomData<B>,
}

impl<B> Deref for Record<B> {
    type Target = Buffer;

    #[inline(always)]
    fn deref(&self) -> &Buffer {
        &self.buffer
    }
}

impl<B> Record<B> {
    const FIXED: usize = size_of::<Header>() + size_of::<B>();

    /// Begins a record in the memory of this [`place`].
    #[inline(always)]
    pub(crate) fn new(place: u32) -> Result<Self, Loss> {
        const { assert!(Self::FIXED < FIXED_MAX) };
        let buffer = Buffer {
            scratch: SCRATCH.get_ptr_mut(place).ok_or(Loss::ReadFailed)?,
            place,
            fixed: Self::FIXED as u32,
        };
        buffer.set_used(0);
        Ok(Self {
            buffer,
            body: PhantomData,
        })
    }

    /// Fills the header, as for the current task.
    #[inline(always)]
    pub(crate) fn describe(&self, kind: Kind) {
        self.describe_from(self.header(), kind);
    }

    /// Fills a header that begins elsewhere in the fixed part; see [`Self::with_body`].
    #[inline(always)]
    pub(crate) fn describe_from(&self, header: *mut Header, kind: Kind) {
        let shift = header as u64 - self.scratch as u64;
        kernel::describe_current(self.place, shift as u32, kind as u32);
    }

    #[inline(always)]
    pub(crate) fn body(&self) -> *mut B {
        // SAFETY: the scratch memory is larger than header and body.
        unsafe { self.scratch.cast::<u8>().add(size_of::<Header>()) }.cast()
    }

    /// Ends a part: writes down where it lies, in a member of the body.
    #[inline(always)]
    pub(crate) fn end(&self, member: *mut Span) {
        // SAFETY: the caller names a member of this record's body.
        unsafe { write_volatile(member, self.span()) };
    }

    /// Puts another body before the variable data, and yields where its header goes.
    #[inline(always)]
    pub(crate) fn with_body<T>(&self, body: T) -> *mut Header {
        const { assert!(size_of::<T>() <= size_of::<B>()) };
        let shift = size_of::<B>() - size_of::<T>();
        // SAFETY: within the fixed part of the scratch memory.
        let start = unsafe { self.scratch.cast::<u8>().add(shift) };
        // SAFETY: as above; bodies are aligned as their header is, whose length is a multiple of eight.
        unsafe { start.add(size_of::<Header>()).cast::<T>().write_unaligned(body) };
        start.cast()
    }

    /// Sends off a record whose body was replaced, from its header on.
    #[inline(always)]
    pub(crate) fn submit_from<T>(&self, header: *mut Header, ring: Ring) -> Result<(), Loss> {
        let used = self.used();
        if used > DATA_MAX + READ_MAX {
            return Err(Loss::ReadFailed);
        }
        let len = (size_of::<Header>() + size_of::<T>()) as u32 + used;
        // SAFETY: the header lies in the scratch memory.
        unsafe { (*header).len = len };
        output(ring, header.cast(), u64::from(len))
    }

    /// Sends the record off.
    #[inline(always)]
    pub(crate) fn submit(&self, ring: Ring) -> Result<(), Loss> {
        let used = self.used();
        if used > DATA_MAX + READ_MAX {
            return Err(Loss::ReadFailed);
        }
        let len = Self::FIXED as u32 + used;
        // SAFETY: the header lies in the scratch memory.
        unsafe { (*self.header()).len = len };
        output(ring, self.scratch.cast(), u64::from(len))
    }
}

/// Sends off a record that needs no scratch memory.
///
/// # Safety
/// `T` must begin with a [`Header`] and have no padding.
#[inline(always)]
pub(crate) unsafe fn submit<T>(ring: Ring, record: &mut T) -> Result<(), Loss> {
    let record: *mut T = record;
    // SAFETY: the caller vouches that a header is there.
    unsafe { (*record.cast::<Header>()).len = size_of::<T>() as u32 };
    output(ring, record.cast(), size_of::<T>() as u64)
}

#[inline(always)]
fn output(ring: Ring, from: *mut u8, len: u64) -> Result<(), Loss> {
    // A wake-up per record costs its producer 7 µs; so only a sleeping agent is woken, and only once.
    let wake = match SLEEPING.get_ptr_mut(0) {
        // SAFETY: a valid map value; a lost race costs one wake-up too many.
        Some(sleeping) if unsafe { *sleeping } != 0 => {
            // SAFETY: as above.
            unsafe { *sleeping = 0 };
            BPF_RB_FORCE_WAKEUP
        }
        _ => BPF_RB_NO_WAKEUP,
    };
    let (map, loss) = match ring {
        Ring::Process => (&raw const PROCESS_RING, Loss::ProcessRingFull),
        Ring::File => (&raw const FILE_RING, Loss::FileRingFull),
    };
    // SAFETY: `map` is a ring buffer, whose first member is the map itself; `from` is valid for `len` bytes.
    if unsafe { bpf_ringbuf_output(map.cast_mut().cast(), from.cast(), len, u64::from(wake)) } < 0 {
        return Err(loss);
    }
    Ok(())
}

/// Tells in the record that something was cut, and counts it.
#[inline(always)]
pub(crate) fn cut(record: &Buffer, flag: u16) {
    record.flag(flag);
    count(match flag {
        flags::ARGS_CUT => Loss::ArgsCut,
        flags::ENV_CUT => Loss::EnvCut,
        _ => Loss::PathCut,
    });
}
