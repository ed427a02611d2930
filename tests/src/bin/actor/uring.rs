//! An io_uring by its raw interface: one request at a time, submitted and waited for.

use std::{
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Lacks, call, prepare};

/// `IORING_OP_*` (include/uapi/linux/io_uring.h) of those that are asked for.
const OPERATIONS: &[(&str, u8)] = &[
    ("nop", 0),
    ("readv", 1),
    ("writev", 2),
    ("sendmsg", 9),
    ("recvmsg", 10),
    ("accept", 13),
    ("connect", 16),
    ("openat", 18),
    ("read", 22),
    ("write", 23),
    ("send", 26),
    ("recv", 27),
    ("openat2", 28),
    ("splice", 30),
    ("renameat", 35),
    ("unlinkat", 36),
    ("mkdirat", 37),
    ("symlinkat", 38),
    ("linkat", 39),
    ("fsetxattr", 41),
    ("setxattr", 42),
    ("socket", 45),
    ("sendzc", 47),
    ("bind", 56),
    ("listen", 57),
];

/// Where a member of `struct io_uring_sqe` lies, and its bytes.
const MEMBERS: &[(&str, usize, usize)] = &[
    ("flags", 1, 1),
    ("fd", 4, 4),
    ("off", 8, 8),
    ("addr2", 8, 8),
    ("addr", 16, 8),
    ("splice_off_in", 16, 8),
    ("len", 24, 4),
    ("op_flags", 28, 4),
    ("file_index", 44, 4),
    ("splice_fd_in", 44, 4),
    ("addr_len", 44, 2),
    ("addr3", 48, 8),
];

/// `IORING_SETUP_SQPOLL`: a thread of the kernel takes the requests.
const SETUP_SQPOLL: u32 = 1 << 1;
/// `IORING_FEAT_SQPOLL_NONFIXED`.
const FEATURE_SQPOLL_NONFIXED: u32 = 1 << 7;
const ENTER_GETEVENTS: usize = 1;
const ENTER_SQ_WAKEUP: usize = 1 << 1;
const REGISTER_PROBE: usize = 8;
const OP_SUPPORTED: u16 = 1;
const OFFSET_CQ: i64 = 0x800_0000;
const OFFSET_SQES: i64 = 0x1000_0000;
const SQE_BYTES: usize = 64;
const ENTRIES: usize = 4;
const PAGE_BYTES: usize = 4096;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `struct io_uring_params` as words of 32 bits.
#[derive(Default)]
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    /// head, tail, ring mask, ring entries, flags, dropped, array, reserved, user address (two words).
    sq: [u32; 10],
    /// head, tail, ring mask, ring entries, overflow, cqes, flags, reserved, user address (two words).
    cq: [u32; 10],
}

pub(crate) struct Ring {
    descriptor: usize,
    params: Params,
    sq: *mut u8,
    cq: *mut u8,
    sqes: *mut u8,
}

impl Ring {
    pub(crate) fn new(flags: u32) -> Result<Self> {
        let mut params = Params {
            flags,
            sq_thread_idle: 1000,
            ..Params::default()
        };
        let made = call(libc::SYS_io_uring_setup, &[ENTRIES, &raw mut params as usize]);
        if [libc::ENOSYS, libc::EPERM]
            .map(|errno| -i64::from(errno))
            .contains(&made)
        {
            return Err(Lacks("io_uring".to_owned()).into());
        }
        let descriptor = prepare("make an io_uring", made)?;
        if flags & SETUP_SQPOLL != 0 && params.features & FEATURE_SQPOLL_NONFIXED == 0 {
            return Err(Lacks("a polled io_uring with ordinary descriptors".to_owned()).into());
        }
        let map = |offset: i64| -> Result<*mut u8> {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            // SAFETY: a new mapping touches nothing that exists.
            let at = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    PAGE_BYTES,
                    protection,
                    flags,
                    i32::try_from(descriptor)?,
                    offset,
                )
            };
            ensure!(at != libc::MAP_FAILED, "cannot map the io_uring");
            Ok(at.cast())
        };
        let ring = Self {
            descriptor,
            sq: map(0)?,
            cq: map(OFFSET_CQ)?,
            sqes: map(OFFSET_SQES)?,
            params,
        };
        let last = ring.params.cq[5] as usize + 16 * ring.params.cq_entries as usize;
        ensure!(last <= PAGE_BYTES, "the rings are larger than a page");
        Ok(ring)
    }

    pub(crate) fn descriptor(&self) -> usize {
        self.descriptor
    }

    /// A counter in a ring that the kernel shares.
    fn counter(ring: *mut u8, offset: u32) -> &'static AtomicU32 {
        // SAFETY: the kernel gave the offset, within the mapping.
        let at = unsafe { ring.add(offset as usize) };
        // SAFETY: the kernel aligns its counters, both sides access them atomically, and the mapping is never removed.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    fn supports(&self, operation: u8) -> Result<bool> {
        let mut probe = [0_u16; 8 + 256 * 4];
        let arguments = [self.descriptor, REGISTER_PROBE, probe.as_mut_ptr() as usize, 256];
        prepare("ask for the operations", call(libc::SYS_io_uring_register, &arguments))?;
        // `struct io_uring_probe` is 16 bytes, each `struct io_uring_probe_op` 8: two bytes, flags, four bytes.
        Ok(probe[8 + usize::from(operation) * 4 + 1] & OP_SUPPORTED != 0)
    }

    /// Makes one request and yields what came of it.
    pub(crate) fn request(&mut self, operation: &str, members: &[(&str, usize)]) -> Result<i64> {
        let code = OPERATIONS
            .iter()
            .find(|(name, _)| *name == operation)
            .map(|(_, code)| *code)
            .with_context(|| format!("no operation `{operation}`"))?;
        if !self.supports(code)? {
            return Err(Lacks(format!("the io_uring operation {operation}")).into());
        }
        let mut request = [0_u8; SQE_BYTES];
        request[0] = code;
        for (name, value) in members {
            let Some((_, offset, len)) = MEMBERS.iter().find(|(known, ..)| known == name) else {
                bail!("no member `{name}`");
            };
            request[*offset..offset + len].copy_from_slice(&value.to_ne_bytes()[..*len]);
        }

        let [head, tail, ring_mask, _, sq_flags, _, array, ..] = self.params.sq;
        let mask = Self::counter(self.sq, ring_mask).load(Ordering::Relaxed);
        let at = Self::counter(self.sq, tail).load(Ordering::Relaxed);
        let index = at & mask;
        // SAFETY: the mask keeps the index within the requests that are mapped.
        let place = unsafe { self.sqes.add(index as usize * SQE_BYTES) };
        // SAFETY: a whole request has room there, and the kernel reads it only after the tail is moved.
        unsafe { ptr::copy_nonoverlapping(request.as_ptr(), place, SQE_BYTES) };
        Self::counter(self.sq, array + index * 4).store(index, Ordering::Relaxed);
        Self::counter(self.sq, tail).store(at.wrapping_add(1), Ordering::Release);

        let polled = self.params.flags & SETUP_SQPOLL != 0;
        let enter = |submit: usize, flags: usize| {
            prepare(
                "enter the io_uring",
                call(
                    libc::SYS_io_uring_enter,
                    &[self.descriptor, submit, submit, flags, 0, 0],
                ),
            )
        };
        if polled {
            // One memory barrier between the tail and the flags, as the interface asks for.
            std::sync::atomic::fence(Ordering::SeqCst);
            if Self::counter(self.sq, sq_flags).load(Ordering::Acquire) & 1 != 0 {
                enter(0, ENTER_SQ_WAKEUP)?;
            }
        } else {
            enter(1, ENTER_GETEVENTS)?;
        }
        let _taken = Self::counter(self.sq, head).load(Ordering::Acquire);
        self.completion()
    }

    fn completion(&self) -> Result<i64> {
        let [head, tail, ring_mask, _, _, cqes, ..] = self.params.cq;
        let begun = Instant::now();
        let at = Self::counter(self.cq, head).load(Ordering::Relaxed);
        while Self::counter(self.cq, tail).load(Ordering::Acquire) == at {
            ensure!(begun.elapsed() < PATIENCE, "the io_uring did not answer");
            // Only with a polling thread, which nothing else can be waited for with.
            thread::sleep(Duration::from_millis(1));
        }
        let mask = Self::counter(self.cq, ring_mask).load(Ordering::Relaxed);
        // `struct io_uring_cqe`: eight bytes of ours, then the result.
        let result = Self::counter(self.cq, cqes + (at & mask) * 16 + 8).load(Ordering::Relaxed);
        Self::counter(self.cq, head).store(at.wrapping_add(1), Ordering::Release);
        Ok(i64::from(result.cast_signed()))
    }
}
